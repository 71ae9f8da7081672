//! What becomes of subscriptions when the rules change: their QoS, their number, and after a restart.

use edge_proto::packet::{Connect, PublishProperties, QoS, Version};
use edge_proto::reason::ReasonCode;
use gateway::access::policy::{Origins, Policy};
use gateway::limits::Limits;
use reactor::driver::ConnectionId;

use crate::world::{Heard, World, claims, strict, token, tokens, with_password};

const WIDE: &str = "[[rule]]\nallow = [\"publish\", \"subscribe\"]\ntopics = [\"#\"]\n";

/// Everybody may publish everything, and subscribe to news with this QoS at most.
fn up_to(qos_max: u8) -> String {
    format!(
        "[[rule]]\nallow = [\"publish\"]\ntopics = [\"#\"]\n\
         [[rule]]\nallow = [\"subscribe\"]\ntopics = [\"news/#\"]\nqos_max = {qos_max}\n"
    )
}

/// Connects a client that keeps its session, or one that does not.
fn enter(world: &mut World, client: &str, token: &str, is_durable: bool) -> ConnectionId {
    let (id, _) = world.connect(&Connect {
        clean_start: false,
        session_expiry_s: is_durable.then_some(600),
        ..with_password(client, "", token.as_bytes())
    });
    id
}

fn publish(world: &mut World, id: ConnectionId, topic: &str) -> Option<ReasonCode> {
    world.publish(id, topic, "x", PublishProperties::default(), false)
}

#[test]
fn a_lowered_qos_holds_for_subscriptions_that_stay_and_comes_back() {
    let mut world = World::new(strict([tokens()], WIDE));
    let alice = token(&claims("alice", &[]));
    let bob = world.enter("bob-1", &claims("bob", &[]));
    let members = [
        (enter(&mut world, "live", &alice, false), "news/#"),
        (enter(&mut world, "durable", &alice, true), "news/#"),
        (
            enter(&mut world, "live member", &alice, false),
            "$share/a/news/+",
        ),
        (
            enter(&mut world, "durable member", &alice, true),
            "$share/b/news/+",
        ),
    ];
    for (id, filter) in members {
        assert_eq!(world.subscribe(id, filter, QoS::AtLeastOnce), 1);
    }
    let mut hears = |rules: &str, qos: QoS| {
        world.set_policy(strict([tokens()], rules));
        publish(&mut world, bob, "news/today");
        for (id, filter) in members {
            assert_eq!(world.hear_qos(id), [qos], "{filter} under {rules}");
        }
    };
    hears(WIDE, QoS::AtLeastOnce);
    hears(&up_to(0), QoS::AtMostOnce);
    hears(&(up_to(0) + "retain = false\n"), QoS::AtMostOnce);
    hears(&up_to(2), QoS::AtLeastOnce);
    assert!(world.conserves());
}

#[test]
fn what_is_cut_from_a_session_makes_room_for_others() {
    let narrow = WIDE.replace("\"#\"", "\"news/#\"");
    let limits = Limits {
        subscriptions_per_session_max: 2,
        ..Limits::default()
    };
    let mut world = World::with_limits(strict([tokens()], WIDE), limits.clone());
    let alice = token(&claims("alice", &[]));
    for client in ["live", "durable", "away"] {
        world.set_policy(strict([tokens()], WIDE));
        let is_durable = client != "live";
        let mut id = enter(&mut world, client, &alice, is_durable);
        for filter in ["news/1", "u/bob/#"] {
            assert_eq!(world.subscribe(id, filter, QoS::AtLeastOnce), 1);
        }
        if client == "away" {
            // A restart knows of no rules that a session was judged under: it is cut when its client is back.
            world.restart_with(strict([tokens()], &narrow), limits.clone());
            id = enter(&mut world, client, &alice, is_durable);
        } else {
            world.set_policy(strict([tokens()], &narrow));
        }
        assert_eq!(
            world.subscribe(id, "news/2", QoS::AtLeastOnce),
            1,
            "{client}"
        );
        let one_too_many = world.subscribe(id, "news/3", QoS::AtLeastOnce);
        assert_eq!(one_too_many, ReasonCode::QuotaExceeded as u8, "{client}");
    }
}

#[test]
fn a_lowered_qos_is_of_the_subscription_and_a_new_subscribe_asks_anew() {
    let mut world = World::new(strict([tokens()], &up_to(0)));
    let alice = token(&claims("alice", &[]));
    let bob = world.enter("bob-1", &claims("bob", &[]));
    for is_durable in [false, true] {
        let id = enter(&mut world, "phone", &alice, is_durable);
        assert_eq!(world.subscribe(id, "news/today", QoS::AtLeastOnce), 0);
        world.set_policy(strict([tokens()], WIDE));
        publish(&mut world, bob, "news/today");
        assert_eq!(world.hear_qos(id), [QoS::AtMostOnce], "as SUBACK said");
        assert_eq!(world.subscribe(id, "news/today", QoS::AtLeastOnce), 1);
        publish(&mut world, bob, "news/today");
        assert_eq!(world.hear_qos(id), [QoS::AtLeastOnce]);
        world.leave(id);
        world.set_policy(strict([tokens()], &up_to(0)));
    }
}

#[test]
fn a_lowered_qos_holds_for_sessions_that_are_away_and_after_a_restart() {
    let mut world = World::new(strict([tokens()], WIDE));
    let alice = token(&claims("alice", &[]));
    let id = enter(&mut world, "phone", &alice, true);
    assert_eq!(world.subscribe(id, "news/#", QoS::AtLeastOnce), 1);
    let bob = world.enter("bob-1", &claims("bob", &[]));
    world.leave(id);
    publish(&mut world, bob, "news/before");
    world.set_policy(strict([tokens()], &up_to(0)));
    publish(&mut world, bob, "news/not-stored");
    let (id, heard) = world.connect(&Connect {
        clean_start: false,
        session_expiry_s: Some(600),
        ..with_password("phone", "", alice.as_bytes())
    });
    let is_message = |heard: &&Heard| matches!(heard, Heard::Message { .. });
    let messages: Vec<&Heard> = heard.iter().filter(is_message).collect();
    assert!(
        matches!(&messages[..], [Heard::Message { topic, .. }] if topic == "news/before"),
        "what was stored before comes, and nothing is stored under the new rules: {heard:?}"
    );
    publish(&mut world, bob, "news/now");
    assert_eq!(world.hear_qos(id), [QoS::AtMostOnce]);
    world.leave(id);

    world.restart(strict([tokens()], &up_to(0)));
    let id = enter(&mut world, "phone", &alice, true);
    let bob = world.enter("bob-1", &claims("bob", &[]));
    publish(&mut world, bob, "news/after");
    assert_eq!(world.hear_qos(id), [QoS::AtMostOnce]);
    assert!(world.conserves());
}

#[test]
fn sessions_of_a_node_without_rules_are_judged_when_it_starts_again_with_some() {
    let mut world = World::new(Policy::open());
    let connect = Connect {
        clean_start: false,
        session_expiry_s: Some(600),
        ..Connect::new(Version::V5, "panel-1")
    };
    let (id, _) = world.connect(&connect);
    assert_eq!(world.subscribe(id, "c/panel-1/#", QoS::AtLeastOnce), 1);
    assert_eq!(world.subscribe(id, "c/panel-2/#", QoS::AtLeastOnce), 1);
    world.leave(id);
    let (other, _) = world.connect(&Connect::new(Version::V5, "panel-2"));
    publish(&mut world, other, "c/panel-2/x");
    let rules = "[[rule]]\nallow = [\"publish\", \"subscribe\"]\ntopics = [\"c/%c/#\"]\n";
    world.restart(Policy {
        anonymous: Origins::Everywhere,
        ..strict([], rules)
    });
    let (id, heard) = world.connect(&connect);
    assert_eq!(heard, [Heard::ConnAck(ReasonCode::Success)]);
    assert_eq!(world.counter("subscriptions_cut"), 1);
    let denied = Some(ReasonCode::NotAuthorized);
    assert_ne!(publish(&mut world, id, "c/panel-1/x"), denied);
    assert_eq!(publish(&mut world, id, "c/panel-2/x"), denied);
    let (id, _) = world.connect(&Connect::new(Version::V5, "panel-2"));
    let other = world.subscribe(id, "c/panel-1/#", QoS::AtLeastOnce);
    assert_eq!(other, ReasonCode::NotAuthorized as u8);
}
