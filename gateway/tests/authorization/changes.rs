//! What becomes of the subscriptions that stay when the rules change.

use edge_proto::packet::{Connect, PublishProperties, QoS};
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

fn publish(world: &mut World, id: ConnectionId, topic: &str) {
    world.publish(id, topic, "x", PublishProperties::default(), false);
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
    hears(&up_to(0).replace("news/#", "news/+"), QoS::AtMostOnce);
    hears(&up_to(2), QoS::AtLeastOnce);
    assert!(world.conserves());
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
