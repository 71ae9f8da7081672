//! What a core shows of itself, in a panic or a log: no password, no token, no message.

use edge_proto::encode;
use edge_proto::packet::{Connect, PublishProperties, QoS, Version, Will};
use gateway::access::password::scram_line;
use gateway::access::token::KeySet;
use gateway::core_message::StrayDatagram;
use gateway::message::MessageParts;
use gateway::outbox::Outbox;
use gateway::shard::Arrival;
use gateway::tls;
use reactor::driver::ConnectionId;

use crate::world::{World, claims, local, passwords, strict, token, tokens, with_password};

const SECRET: &[u8] = b"hunter2 and more than thirty-two bytes of it";

/// Fails when a text has a part of the secret in it, as it is or as the numbers of its bytes.
fn assert_hides(shown: &str) {
    assert!(shown.len() > 10, "it shows something: {shown}");
    let part = &SECRET[..SECRET.len() - 1];
    let text = std::str::from_utf8(part).expect("text");
    let numbers = format!("{part:?}");
    let numbers = numbers.trim_matches(['[', ']']);
    assert!(!shown.contains(text) && !shown.contains(numbers), "{shown}");
}

fn will() -> Will<'static> {
    Will {
        topic: "gone",
        qos: QoS::AtLeastOnce,
        retain: false,
        payload: SECRET,
        delay_s: 0,
        properties: PublishProperties::default(),
    }
}

#[test]
fn a_core_shows_nothing_of_what_clients_sent() {
    const WIDE: &str = "[[rule]]\nallow = [\"publish\", \"subscribe\"]\ntopics = [\"#\"]\n";
    let line = scram_line("alice", &[], "pencil", [2; 16]).expect("a name");
    let mut world = World::new(strict([tokens(), passwords(&[line])], WIDE));
    // A CONNECT without its last byte, of which the password is the end.
    let half = world.arrive(Arrival::plain(false, local()));
    world.say(half, |out| {
        encode::connect(out, &with_password("half", "alice", SECRET));
        out.pop();
    });
    // One in the middle of its exchange.
    let (_, heard) = world.connect(&Connect {
        authentication_method: Some("SCRAM-SHA-256"),
        authentication_data: Some(b"n,,n=alice,r=nonce"),
        password: Some(SECRET),
        will: Some(will()),
        ..Connect::new(Version::V5, "exchanging")
    });
    assert_eq!(heard.len(), 1, "{heard:?}");
    // A will, a retained message, and messages that wait for a slow client and for one that is away.
    let alice = token(&claims("alice", &[]));
    for client in ["slow", "away"] {
        let (id, _) = world.connect(&Connect {
            session_expiry_s: (client == "away").then_some(600),
            receive_maximum: 1,
            will: Some(will()),
            ..with_password(client, "", alice.as_bytes())
        });
        world.subscribe(id, "a", QoS::AtLeastOnce);
    }
    let bob = world.enter("bob-1", &claims("bob", &[]));
    let text = std::str::from_utf8(SECRET).expect("text");
    for _ in 0..3 {
        world.publish(bob, "a", text, PublishProperties::default(), true);
    }
    let shown = world.shown();
    for part in ["Exchanging", "slow", "gone", "partial: Some("] {
        assert!(shown.contains(part), "{part} is there");
    }
    assert_hides(&shown);
}

#[test]
fn what_travels_shows_nothing_of_what_it_carries() {
    let id = ConnectionId {
        slot: 1,
        generation: 1,
    };
    let mut outbox = Outbox::new(0, 0..1);
    outbox.write(id, false, |out| out.extend_from_slice(SECRET));
    assert_hides(&format!("{outbox:?}"));
    let parts = MessageParts {
        topic: "a",
        properties: SECRET,
        payload: SECRET,
        qos: QoS::AtMostOnce,
        retain: false,
        expires_at_unix_ms: u64::MAX,
        publisher: gateway::message::SessionId(1),
    };
    assert_hides(&format!("{parts:?}"));
    let stray = StrayDatagram {
        listener: 0,
        remote: local(),
        local: None,
        ecn: None,
        bytes: SECRET.to_vec(),
    };
    assert_hides(&format!("{stray:?}"));
    let mut plain = SECRET.to_vec();
    assert_hides(&format!("{:?}", tls::Output::Data(&mut plain)));
    assert_hides(&format!("{:?}", tls::Output::Send(plain.clone())));
    let order = gateway::admin::AdminRequest::Publish {
        topic: "a".into(),
        payload: gateway::admin::Payload(plain),
        qos: 0,
        retain: false,
    };
    assert_hides(&format!("{order:?}"));
}

#[test]
fn keys_and_what_clients_show_are_not_shown() {
    let keys = KeySet::from_secret(SECRET).expect("long enough");
    assert_hides(&format!("{keys:?}"));
    let credentials = gateway::access::policy::Credentials {
        client: "phone".into(),
        user_name: Some("alice".into()),
        password: Some(SECRET.into()),
        peer: local(),
        certificate: None,
    };
    assert_hides(&format!("{credentials:?}"));
    let secret = tls::ClusterSecret(SECRET[..32].try_into().expect("32 bytes"));
    let shown = format!("{secret:?}");
    assert!(!shown.contains("104, 117"), "{shown}");
}
