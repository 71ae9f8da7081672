//! What clients may do, and what becomes of it when the rules or the client's proof change.

use std::sync::Arc;

use edge_proto::encode;
use edge_proto::packet::{Connect, Publish, PublishProperties, QoS, UserProperties, Version, Will};
use edge_proto::reason::ReasonCode;
use gateway::access::bans::{Bans, Subject, Term};
use gateway::access::policy::{Origins, Policy};
use gateway::shard::Arrival;
use serde_json::json;

use crate::world::{Heard, World, claims, local, remote, strict, token, tokens, with_password};

const NOT_AUTHORIZED: u8 = ReasonCode::NotAuthorized as u8;

const RULES: &str = r#"
[[rule]]
deny = ["subscribe"]
topics = ["vault/#"]

[[rule]]
allow = ["publish", "subscribe"]
topics = ["u/%u/#", "c/%c/#", "g/%g/in"]

[[rule]]
allow = ["publish"]
topics = ["u/+/in"]
retain = false

[[rule]]
allow = ["subscribe"]
users = ["alice"]
topics = ["news/#"]
qos_max = 0
"#;

fn world() -> World {
    World::new(strict([tokens()], RULES))
}

fn plain() -> PublishProperties<'static> {
    PublishProperties::default()
}

#[test]
fn what_the_rules_allow_is_done_and_the_rest_is_refused_with_a_reason() {
    let mut world = world();
    let alice = world.enter("phone", &claims("alice", &["chess"]));
    let table = [
        ("u/alice/#", 1),
        ("u/bob/in", NOT_AUTHORIZED),
        ("u/+/in", NOT_AUTHORIZED),
        ("#", NOT_AUTHORIZED),
        ("$share/x/u/alice/in", 1),
        ("$share/x/u/bob/in", NOT_AUTHORIZED),
        ("c/phone/#", 1),
        ("c/tablet/#", NOT_AUTHORIZED),
        ("g/chess/in", 1),
        ("g/poker/in", NOT_AUTHORIZED),
        ("news/today", 0),
        ("vault/gold", NOT_AUTHORIZED),
        ("vault", NOT_AUTHORIZED),
    ];
    for (filter, reason) in table {
        let found = world.subscribe(alice, filter, QoS::AtLeastOnce);
        assert_eq!(found, reason, "{filter}");
    }
    assert_eq!(world.counter("subscribes_denied"), 8);
    let denied = Some(ReasonCode::NotAuthorized);
    let published = |world: &mut World, topic, retain| {
        let heard = world.publish(alice, topic, "x", plain(), retain);
        (heard.is_some() && heard != denied, heard)
    };
    for (topic, retain, allowed) in [
        ("u/bob/in", false, true),
        ("u/bob/in", true, false),
        ("u/bob/out", false, false),
        ("u/alice/x", true, true),
        ("news/today", false, false),
    ] {
        let (done, heard) = published(&mut world, topic, retain);
        assert_eq!(done, allowed, "{topic}: {heard:?}");
    }
    assert_eq!(world.counter("publishes_denied"), 3);
    assert!(world.conserves());
}

#[test]
fn a_denied_publish_reaches_nobody_by_an_alias_either() {
    let mut world = world();
    let bob = world.enter("bob-1", &claims("bob", &[]));
    world.subscribe(bob, "u/bob/#", QoS::AtLeastOnce);
    let alice = world.enter("phone", &claims("alice", &[]));
    let set = PublishProperties {
        topic_alias: Some(1),
        ..plain()
    };
    let denied = Some(ReasonCode::NotAuthorized);
    assert_eq!(
        world.publish(alice, "u/bob/secret", "1", set.clone(), false),
        denied
    );
    assert_eq!(world.publish(alice, "", "2", set, false), denied);
    assert_eq!(world.hear(bob), []);
}

#[test]
fn a_will_is_judged_when_it_is_made_and_when_it_is_published() {
    let mut world = world();
    let will = |topic: &'static str| Will {
        topic,
        qos: QoS::AtLeastOnce,
        retain: false,
        payload: b"gone",
        delay_s: 0,
        properties: plain(),
    };
    let token = token(&claims("alice", &[]));
    let connect = |will| Connect {
        will: Some(will),
        ..with_password("phone", "", token.as_bytes())
    };
    let (_, heard) = world.connect(&connect(will("u/bob/out")));
    assert_eq!(
        heard,
        [Heard::ConnAck(ReasonCode::NotAuthorized), Heard::Closed]
    );
    let bob = world.enter("bob-1", &claims("bob", &[]));
    world.subscribe(bob, "u/bob/#", QoS::AtLeastOnce);
    let (alice, _) = world.connect(&connect(will("u/bob/in")));
    world.leave(alice);
    assert!(matches!(&world.hear(bob)[..], [Heard::Message { topic, .. }] if topic == "u/bob/in"));
    // Allowed when it was made, and not any more when it is due.
    let (alice, _) = world.connect(&connect(will("u/bob/in")));
    world.set_policy(strict(
        [tokens()],
        "[[rule]]\nallow = [\"publish\", \"subscribe\"]\ntopics = [\"u/%u/#\"]\n",
    ));
    world.leave(alice);
    assert_eq!(world.hear(bob), []);
    assert_eq!(world.counter("wills_denied"), 1);
}

#[test]
fn nobody_can_have_an_answer_sent_to_where_he_may_not_listen() {
    let mut world = world();
    let alice = world.enter("phone", &claims("alice", &[]));
    for (response_topic, allowed) in [
        ("u/alice/answers", true),
        ("vault/gold", false),
        ("u/bob/x", false),
    ] {
        let properties = PublishProperties {
            response_topic: Some(response_topic),
            ..plain()
        };
        let heard = world.publish(alice, "u/bob/in", "?", properties, false);
        assert_eq!(
            heard != Some(ReasonCode::NotAuthorized),
            allowed,
            "{response_topic}"
        );
    }
}

#[test]
fn a_denied_publish_of_a_3_1_1_client_is_acknowledged_and_reaches_nobody() {
    let mut world = world();
    let token = token(&claims("alice", &[]));
    let id = world.arrive(Arrival::plain(false, local()));
    let connect = Connect {
        version: Version::V311,
        username: Some("alice"), // 3.1.1 has no password without a name (MQTT-3.1.2-22).
        ..with_password("old", "alice", token.as_bytes())
    };
    world.say(id, |out| encode::connect(out, &connect));
    let bob = world.enter("bob-1", &claims("bob", &[]));
    world.subscribe(bob, "u/bob/#", QoS::AtLeastOnce);
    let publish = Publish {
        dup: false,
        qos: QoS::AtLeastOnce,
        retain: false,
        topic: "u/bob/secret",
        packet_id: Some(1),
        properties: plain(),
        payload: b"x",
    };
    world.say(id, |out| encode::publish(out, Version::V311, &publish));
    assert_eq!(world.hear(bob), []);
    assert_eq!(world.counter("publishes_acknowledged"), 1);
}

const WIDE: &str = "[[rule]]\nallow = [\"publish\", \"subscribe\"]\ntopics = [\"#\"]\n";
const NARROW: &str =
    "[[rule]]\nallow = [\"publish\", \"subscribe\"]\ntopics = [\"u/%u/#\", \"news/#\"]\n";

#[test]
fn new_rules_hold_at_once_and_cut_what_they_do_not_allow() {
    let mut world = World::new(strict([tokens()], WIDE));
    let live = world.enter("live", &claims("alice", &[]));
    let token = token(&claims("alice", &[]));
    let (durable, _) = world.connect(&Connect {
        session_expiry_s: Some(600),
        ..with_password("durable", "", token.as_bytes())
    });
    for id in [live, durable] {
        for filter in ["u/bob/#", "$share/s/u/bob/#", "news/#", "u/alice/#"] {
            assert_eq!(world.subscribe(id, filter, QoS::AtLeastOnce), 1);
        }
    }
    world.set_policy(strict([tokens()], NARROW));
    assert_eq!(world.counter("subscriptions_cut"), 4);
    let bob = world.enter("bob-1", &claims("bob", &[]));
    for topic in ["u/bob/x", "news/x"] {
        world.publish(bob, topic, "after", plain(), false);
    }
    for id in [live, durable] {
        let heard = world.hear(id);
        assert!(
            matches!(&heard[..], [Heard::Message { topic, .. }] if topic == "news/x"),
            "{heard:?}"
        );
    }
    assert_eq!(
        world.publish(live, "u/bob/x", "x", plain(), false),
        Some(ReasonCode::NotAuthorized)
    );
    assert!(world.conserves());
}

#[test]
fn a_durable_session_that_is_away_is_cut_too() {
    let mut world = World::new(strict([tokens()], WIDE));
    let token = token(&claims("alice", &[]));
    let connect = Connect {
        clean_start: false,
        session_expiry_s: Some(600),
        ..with_password("durable", "", token.as_bytes())
    };
    let (id, _) = world.connect(&connect);
    world.subscribe(id, "u/bob/#", QoS::AtLeastOnce);
    world.subscribe(id, "news/#", QoS::AtLeastOnce);
    world.leave(id);
    world.set_policy(strict([tokens()], NARROW));
    let bob = world.enter("bob-1", &claims("bob", &[]));
    for topic in ["u/bob/x", "news/x"] {
        world.publish(bob, topic, "kept", plain(), false);
    }
    let (_, heard) = world.connect(&connect);
    assert!(
        matches!(&heard[..], [Heard::ConnAck(_), Heard::Message { topic, .. }] if topic == "news/x"),
        "{heard:?}"
    );
}

#[test]
fn who_comes_back_with_fewer_rights_has_fewer_subscriptions() {
    let rules = "[[rule]]\nallow = [\"subscribe\", \"publish\"]\ntopics = [\"g/%g/in\"]\n";
    let mut world = World::new(strict([tokens()], rules));
    let both = token(&claims("alice", &["chess", "poker"]));
    let one = token(&claims("alice", &["chess"]));
    let connect = |token| Connect {
        clean_start: false,
        session_expiry_s: Some(600),
        ..with_password("phone", "", token)
    };
    let (id, _) = world.connect(&connect(both.as_bytes()));
    world.subscribe(id, "g/chess/in", QoS::AtLeastOnce);
    world.subscribe(id, "g/poker/in", QoS::AtLeastOnce);
    world.leave(id);
    let (id, _) = world.connect(&connect(one.as_bytes()));
    assert_eq!(world.counter("subscriptions_cut"), 1);
    let bob = world.enter("bob-1", &claims("bob", &["chess", "poker"]));
    for topic in ["g/chess/in", "g/poker/in"] {
        world.publish(bob, topic, "x", plain(), false);
    }
    let heard = world.hear(id);
    assert!(matches!(&heard[..], [Heard::Message { topic, .. }] if topic == "g/chess/in"));
}

#[test]
fn without_rules_clients_of_this_machine_may_do_everything_and_others_nothing() {
    let mut world = World::new(Policy {
        anonymous: Origins::Everywhere,
        rules: None,
        unruled: Origins::Loopback,
        ..strict([], "")
    });
    let (here, _) = world.connect(&Connect::new(Version::V5, "here"));
    assert_eq!(world.subscribe(here, "#", QoS::AtLeastOnce), 1);
    let away = Arrival::plain(false, remote());
    let (away, _) = world.connect_from(away, &Connect::new(Version::V5, "away"));
    assert_eq!(world.subscribe(away, "a", QoS::AtLeastOnce), NOT_AUTHORIZED);
    assert_eq!(
        world.publish(away, "a", "x", plain(), false),
        Some(ReasonCode::NotAuthorized)
    );
}

#[test]
fn whoever_brings_rules_has_no_others_than_these_and_the_nodes() {
    let mut world = World::new(Policy {
        unruled: Origins::Everywhere,
        rules: None,
        ..strict([tokens()], "")
    });
    let mut own = claims("alice", &[]);
    own["acl"] = json!([{"allow": ["subscribe"], "topics": ["news/#"]}]);
    let id = world.enter("phone", &own);
    assert_eq!(world.subscribe(id, "news/#", QoS::AtLeastOnce), 1);
    assert_eq!(
        world.subscribe(id, "other", QoS::AtLeastOnce),
        NOT_AUTHORIZED
    );
}

#[test]
fn what_a_cut_subscription_brought_into_the_mailbox_is_not_sent() {
    let mut world = World::new(strict([tokens()], WIDE));
    let token = token(&claims("alice", &[]));
    let connect = Connect {
        clean_start: false,
        session_expiry_s: Some(600),
        ..with_password("durable", "", token.as_bytes())
    };
    let (id, _) = world.connect(&connect);
    world.subscribe(id, "u/bob/#", QoS::AtLeastOnce);
    world.subscribe(id, "news/#", QoS::AtLeastOnce);
    world.leave(id);
    let bob = world.enter("bob-1", &claims("bob", &[]));
    for topic in ["u/bob/x", "news/x"] {
        world.publish(bob, topic, "before", plain(), false);
    }
    world.set_policy(strict([tokens()], NARROW));
    let (_, heard) = world.connect(&connect);
    assert!(
        matches!(&heard[..], [Heard::ConnAck(_), Heard::Message { topic, .. }] if topic == "news/x"),
        "{heard:?}"
    );
    assert!(world.conserves());
}

#[test]
fn the_server_says_who_sent_a_message_to_an_inbox_and_nobody_else_can() {
    let mut forged = Vec::new();
    encode::user_properties(&mut forged, &[("from", "eve"), ("mood", "good")]);
    let forged = UserProperties::parse(&forged).expect("well formed");
    let mut world = World::new(strict([tokens()], RULES));
    let bob = world.enter("bob-1", &claims("bob", &["chess"]));
    world.subscribe(bob, "u/bob/#", QoS::AtLeastOnce);
    world.subscribe(bob, "g/chess/in", QoS::AtLeastOnce);
    let alice = world.enter("phone", &claims("alice", &["chess"]));
    for topic in ["u/bob/in", "g/chess/in"] {
        let properties = PublishProperties {
            user_properties: forged,
            ..plain()
        };
        world.publish(alice, topic, "x", properties, false);
        assert_eq!(
            world.hear_user_properties(bob),
            [["mood", "good"], ["from", "alice"]]
        );
    }
}

#[test]
fn a_ban_keeps_out_and_ends_what_is_open() {
    let banned = |subject| {
        let mut bans = Bans::new(8, 1);
        let term = Term {
            until_unix_ms: None,
            reason: "spam".into(),
        };
        bans.add(subject, term, 0).expect("there is room");
        Policy {
            bans: Arc::new(bans),
            ..strict([tokens()], WIDE)
        }
    };
    let subjects = [
        Subject::User("eve".into()),
        Subject::Client("phone".into()),
        Subject::Network("192.0.2.0/24".parse().expect("a network")),
    ];
    for subject in subjects {
        let mut world = World::new(strict([tokens()], WIDE));
        let token = token(&claims("eve", &[]));
        let arrival = Arrival::plain(false, remote());
        let connect = with_password("phone", "", token.as_bytes());
        let (eve, _) = world.connect_from(arrival.clone(), &connect);
        let bob = world.enter("bob-1", &claims("bob", &[]));
        world.set_policy(banned(subject.clone()));
        assert_eq!(
            world.hear(eve),
            [
                Heard::Disconnect(ReasonCode::AdministrativeAction),
                Heard::Closed
            ],
            "{subject:?}"
        );
        let (_, heard) = world.connect_from(arrival, &connect);
        assert_eq!(heard, [Heard::ConnAck(ReasonCode::Banned), Heard::Closed]);
        assert_eq!(world.hear(bob), []);
    }
}

#[test]
fn what_a_restart_does_not_know_of_a_session_is_judged_when_its_client_comes_back() {
    let groups = "[[rule]]\nallow = [\"publish\", \"subscribe\"]\ntopics = [\"g/%g/in\"]\n";
    let mut world = World::new(strict([tokens()], groups));
    let token = token(&claims("alice", &["chess"]));
    let connect = Connect {
        clean_start: false,
        session_expiry_s: Some(600),
        ..with_password("phone", "", token.as_bytes())
    };
    let (id, _) = world.connect(&connect);
    world.subscribe(id, "g/chess/in", QoS::AtLeastOnce);
    world.leave(id);
    world.restart(strict([tokens()], groups));
    // Other rules that allow the same. The store knows the user, and not the groups.
    world.set_policy(strict([tokens()], &format!("{groups}retain = false\n")));
    assert_eq!(world.counter("subscriptions_cut"), 0);
    let bob = world.enter("bob-1", &claims("bob", &["chess"]));
    world.publish(bob, "g/chess/in", "kept", plain(), false);
    let (_, heard) = world.connect(&connect);
    assert!(
        matches!(&heard[..], [Heard::ConnAck(_), Heard::Message { topic, .. }] if topic == "g/chess/in"),
        "{heard:?}"
    );
}

#[test]
fn what_a_cut_subscription_stored_is_not_sent_after_a_restart_either() {
    let mut world = World::new(strict([tokens()], WIDE));
    let token = token(&claims("alice", &[]));
    let connect = Connect {
        clean_start: false,
        session_expiry_s: Some(600),
        ..with_password("durable", "", token.as_bytes())
    };
    let (id, _) = world.connect(&connect);
    world.subscribe(id, "u/bob/#", QoS::AtLeastOnce);
    world.leave(id);
    let bob = world.enter("bob-1", &claims("bob", &[]));
    world.publish(bob, "u/bob/x", "before", plain(), false);
    world.set_policy(strict([tokens()], NARROW));
    world.restart(strict([tokens()], NARROW));
    let (_, heard) = world.connect(&connect);
    assert!(matches!(&heard[..], [Heard::ConnAck(_)]), "{heard:?}");
    assert!(world.conserves());
}

#[test]
fn a_session_without_an_address_among_those_that_may_do_everything_loses_what_needs_it() {
    let mut world = World::new(Policy {
        rules: None,
        unruled: Origins::Loopback,
        ..strict([tokens()], "")
    });
    let token = token(&claims("alice", &[]));
    let connect = Connect {
        clean_start: false,
        session_expiry_s: Some(600),
        ..with_password("durable", "", token.as_bytes())
    };
    let (here, _) = world.connect(&connect);
    assert_eq!(world.subscribe(here, "u/bob/#", QoS::AtLeastOnce), 1);
    world.leave(here);
    let bob = world.enter("bob-1", &claims("bob", &[]));
    world.publish(bob, "u/bob/x", "while away", plain(), false);
    let away = Arrival::plain(false, remote());
    let (_, heard) = world.connect_from(away, &connect);
    assert!(matches!(&heard[..], [Heard::ConnAck(_)]), "{heard:?}");
    assert_eq!(world.counter("subscriptions_cut"), 1);
}

#[test]
fn a_cut_stops_what_waits_for_a_slow_client() {
    let mut world = World::new(strict([tokens()], WIDE));
    for expiry_s in [None, Some(600)] {
        let token = token(&claims("alice", &[]));
        let (id, _) = world.connect(&Connect {
            session_expiry_s: expiry_s,
            receive_maximum: 1,
            ..with_password("slow", "", token.as_bytes())
        });
        world.subscribe(id, "u/bob/#", QoS::AtLeastOnce);
        let bob = world.enter("bob-1", &claims("bob", &[]));
        for payload in ["first", "second", "third"] {
            world.publish(bob, "u/bob/x", payload, plain(), false);
        }
        world.set_policy(strict([tokens()], NARROW));
        let heard = world.hear(id); // Acknowledges the first one, which was under way.
        assert_eq!(heard.len(), 1, "{heard:?}");
        assert_eq!(world.hear(id), []);
        assert!(world.conserves());
        world.leave(id);
        world.set_policy(strict([tokens()], WIDE));
    }
}
