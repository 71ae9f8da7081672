//! What a hostile client could make a core keep, do or say, and does not.

use std::net::SocketAddr;
use std::sync::Arc;

use edge_proto::decode::{Sender, decode};
use edge_proto::encode;
use edge_proto::frame::next_frame;
use edge_proto::packet::{
    Connect, Packet, Publish, PublishProperties, QoS, SubscriptionOptions, Version,
};
use edge_proto::reason::ReasonCode;
use edge_proto::topic::RootDepths;
use edge_proto::websocket::{Opcode, write_client_frame};
use reactor::driver::ConnectionId;

use super::exchange::unguessable;
use super::{Edge, STALLED_GONE_MAX};
use crate::access::policy::{Origins, Policy};
use crate::core_message::CoreMessage;
use crate::limits::Limits;
use crate::metrics::TurnedAway;
use crate::outbox::{Order, Outbox};
use crate::ownership::Ownership;
use crate::shard::{Arrival, Event, Shard};
use crate::tls;
use crate::turn::{Congestion, Facts, Now};

const HERE: ([u8; 4], u16) = ([127, 0, 0, 1], 50_000);
const ELSEWHERE: ([u8; 4], u16) = ([192, 0, 2, 7], 50_000);

/// One core, of two perhaps: the other never answers.
struct Core {
    shard: Shard,
    outbox: Outbox,
    now: Now,
}

fn facts(limits: Limits) -> Facts {
    Facts {
        core: 0,
        limits,
        root_depths: RootDepths::default(),
        websocket_path: "/mqtt".into(),
        seed: 7,
    }
}

fn id(slot: u32) -> ConnectionId {
    ConnectionId {
        slot,
        generation: 1,
    }
}

impl Core {
    fn new(limits: Limits, cores: u16, policy: Policy) -> Self {
        let now = Now::default();
        Self {
            shard: Shard::new(
                facts(limits),
                Arc::new(Ownership::alone(cores)),
                Arc::new(policy),
                1,
                now,
            ),
            outbox: Outbox::new(0, 0..cores),
            now,
        }
    }

    fn open(limits: Limits) -> Self {
        Self::new(limits, 1, Policy::open())
    }

    fn handle(&mut self, event: Event<'_>) {
        self.shard.handle(self.now, event, &mut self.outbox);
    }

    fn accept(&mut self, connection: ConnectionId, arrival: Arrival) {
        self.handle(Event::Accepted {
            connection,
            arrival,
        });
    }

    fn accept_plain(&mut self, connection: ConnectionId) {
        self.accept(connection, Arrival::plain(false, SocketAddr::from(HERE)));
    }

    fn receive(&mut self, connection: ConnectionId, mut bytes: Vec<u8>) {
        let bytes = &mut bytes[..];
        self.handle(Event::Received { connection, bytes });
    }

    /// A client that is let in, with a name whose home is this core.
    fn client(&mut self, connection: ConnectionId) {
        self.accept_plain(connection);
        let ownership = Ownership::alone(self.outbox.mesh.len() as u16);
        let mut names = (0..99).map(|number| format!("client-{}-{number}", connection.slot));
        let name = names.find(|name| ownership.home_of(name) == 0);
        let name = name.expect("a half of them");
        let mut bytes = Vec::new();
        encode::connect(&mut bytes, &Connect::new(Version::V5, &name));
        self.receive(connection, bytes);
        assert!(self.edge().live(connection).is_some(), "let in");
    }

    fn edge(&mut self) -> &mut Edge {
        &mut self.shard.edge
    }

    fn is_closed(&self, connection: ConnectionId) -> bool {
        let is_it =
            |order: &Order| matches!(order, Order::Close(closed, _) if *closed == connection);
        self.outbox.orders.iter().any(is_it)
    }

    /// What was written to a connection.
    fn heard(&mut self, connection: ConnectionId) -> Vec<u8> {
        self.outbox.seal();
        let mut heard = Vec::new();
        self.outbox.outputs.retain(|output| {
            if output.connection == connection {
                heard.extend_from_slice(&output.bytes);
            }
            output.connection != connection
        });
        heard
    }
}

/// A PUBLISH of QoS 0 to `t` with so much payload.
fn publish(payload_bytes: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let packet = Publish {
        dup: false,
        qos: QoS::AtMostOnce,
        retain: false,
        topic: "t",
        packet_id: None,
        properties: PublishProperties::default(),
        payload: &vec![0; payload_bytes],
    };
    encode::publish(&mut bytes, Version::V5, &packet);
    bytes
}

#[test]
fn a_few_bytes_behind_a_large_packet_do_not_keep_its_buffer() {
    let mut core = Core::open(Limits::default());
    core.client(id(1));
    let mut bytes = publish(600_000);
    bytes.push(0xC0); // The first byte of a PINGREQ.
    for piece in bytes.chunks(8_192) {
        core.receive(id(1), piece.to_vec());
    }
    assert_eq!(core.shard.stats_mut().counters.publishes_received, 1);
    let connection = core.edge().connection(id(1)).expect("open");
    let partial = connection.link.partial.as_ref().expect("a byte");
    assert_eq!(partial.len(), 1);
    assert!(partial.capacity() < 1_024, "{} bytes", partial.capacity());
}

#[test]
fn nor_do_a_few_on_a_data_stream() {
    let mut core = Core::open(Limits::default());
    core.client(id(1));
    core.handle(Event::StreamsOpened(id(1)));
    let mut bytes = publish(600_000);
    bytes.push(0xC0);
    for piece in bytes.chunks(8_192) {
        core.handle(Event::StreamReceived {
            connection: id(1),
            number: 1,
            bytes: piece,
        });
    }
    assert_eq!(core.shard.stats_mut().counters.publishes_received, 1);
    assert_eq!(core.shard.stats_mut().partial_bytes, 1);
    let (link, _) = core.edge().live(id(1)).expect("open");
    let capacity = link.streams().map_or(0, |streams| streams.kept_capacity());
    assert!((1..1_024).contains(&capacity), "{capacity} bytes");
}

#[test]
fn strangers_with_half_a_connect_do_not_cost_those_who_are_in_theirs() {
    let limits = Limits {
        partial_bytes_max: 64 * 1024,
        ..Limits::default()
    };
    let mut core = Core::open(limits);
    core.client(id(0));
    let start = |first: u8| {
        let mut bytes = vec![first, 0xC0, 0x84, 0x3D]; // Of 1,000,000 bytes.
        bytes.resize(12_000, 0);
        bytes
    };
    for slot in 1..=4 {
        core.accept_plain(id(slot));
        core.receive(id(slot), start(0x10));
    }
    core.receive(id(0), start(0x30));
    assert!(!core.is_closed(id(0)), "it is let in");
    let closed = (1..=4).filter(|slot| core.is_closed(id(*slot))).count();
    assert_eq!(closed, 1, "as many as are too many");
    assert_eq!(core.shard.stats_mut().partial_bytes, 48_000);
}

#[test]
fn a_topic_that_is_too_long_is_not_kept_for_its_alias() {
    let mut core = Core::open(Limits::default());
    core.client(id(1));
    core.heard(id(1));
    let long = "t".repeat(60_000);
    for (packet_id, topic) in [(1, &*long), (2, "")] {
        let mut bytes = Vec::new();
        let properties = PublishProperties {
            topic_alias: Some(16),
            ..PublishProperties::default()
        };
        let packet = Publish {
            dup: false,
            qos: QoS::AtLeastOnce,
            retain: false,
            topic,
            packet_id: Some(packet_id),
            properties,
            payload: b"x",
        };
        encode::publish(&mut bytes, Version::V5, &packet);
        core.receive(id(1), bytes);
        let heard = core.heard(id(1));
        let frame = next_frame(&heard, u32::MAX).expect("a packet");
        let answer = decode(Version::V5, Sender::Server, frame.expect("an answer"));
        assert!(
            matches!(&answer, Ok(Packet::PubAck(ack)) if ack.packet_id == packet_id && ack.reason == ReasonCode::TopicNameInvalid),
            "{answer:?}"
        );
    }
    let (_, session) = core.edge().live(id(1)).expect("still there");
    let aliases = session.traffic().inbound_aliases.as_ref();
    let kept = aliases.and_then(|aliases| aliases.topic(16));
    assert!(kept.is_some_and(|topic| topic.len() < 8), "{kept:?}");
}

#[test]
fn filters_beyond_the_bound_cost_a_byte_each_and_the_others_count() {
    let limits = Limits::default();
    let bound = limits.filters_per_packet_max;
    let mut core = Core::new(limits, 2, Policy::open());
    core.client(id(1));
    let options = SubscriptionOptions::from_qos(QoS::AtMostOnce);
    // Broad ones, so that the other core is asked about each. As many as a 16-bit count takes for none.
    let filters = vec![("+", options); 1 << 16];
    let mut bytes = Vec::new();
    encode::subscribe(&mut bytes, Version::V5, 1, None, &filters);
    core.receive(id(1), bytes);
    let asked = |core: &Core| {
        let messages = core.outbox.mesh[1].iter().flatten();
        let is_one = |message: &&CoreMessage| matches!(message, CoreMessage::Subscribe(_));
        messages.filter(is_one).count()
    };
    assert_eq!(asked(&core), bound);
    let mut bytes = Vec::new();
    encode::subscribe(&mut bytes, Version::V5, 2, None, &filters[..1]);
    core.receive(id(1), bytes);
    assert_eq!(asked(&core), bound, "the next packet waits for the answer");
    let (link, session) = core.edge().live(id(1)).expect("still there");
    assert!(link.stalled);
    assert_eq!(usize::from(session.subscribing), bound);
}

/// A request to upgrade, by a page or by no browser.
fn upgrade(origin: Option<&str>) -> Vec<u8> {
    let origin = origin.map_or_else(String::new, |it| format!("Origin: {it}\r\n"));
    format!(
        "GET /mqtt HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{origin}\
         Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"
    )
    .into_bytes()
}

#[test]
fn pings_before_connect_pile_up_no_answers() {
    let mut core = Core::open(Limits::default());
    core.accept(id(1), Arrival::plain(true, SocketAddr::from(HERE)));
    core.receive(id(1), upgrade(None));
    let mut ping = Vec::new();
    write_client_frame(&mut ping, Opcode::Ping, [1, 2, 3, 4], &[0; 125]);
    let mut sent = 0;
    while !core.is_closed(id(1)) && sent < 10_000 {
        core.receive(id(1), ping.clone());
        sent += 1;
    }
    let heard = core.heard(id(1)).len();
    let bound = Limits::default().unsent_bytes_max;
    assert!(heard < bound + 1_024, "{heard} bytes that nobody reads");
    assert!(sent > 100, "a few pings are answered");
}

#[test]
fn a_page_of_another_site_does_not_come_in_as_its_visitor() {
    const FOREIGN: Option<&str> = Some("https://evil.example");
    let local = Policy {
        anonymous: Origins::Loopback,
        ..Policy::open()
    };
    let status = |policy: &Policy, origin, peer: ([u8; 4], u16), certificate: bool| {
        let mut core = Core::new(Limits::default(), 1, policy.clone());
        let certificate = certificate.then(|| Arc::new(tls::Identity::default()));
        let arrival = Arrival {
            certificate,
            ..Arrival::plain(true, SocketAddr::from(peer))
        };
        core.accept(id(1), arrival);
        core.receive(id(1), upgrade(origin));
        let heard = String::from_utf8(core.heard(id(1))).expect("text");
        let turned_away = core.shard.stats_mut().turned_away[TurnedAway::Origin as usize];
        assert_eq!(turned_away > 0, heard.starts_with("HTTP/1.1 403"));
        assert_eq!(core.is_closed(id(1)), turned_away > 0);
        heard.split(' ').nth(1).map(str::to_owned)
    };
    let (in_, out) = (Some("101".to_owned()), Some("403".to_owned()));
    assert_eq!(status(&local, FOREIGN, HERE, false), out);
    assert_eq!(status(&local, None, HERE, false), in_);
    assert_eq!(
        status(&local, Some("http://localhost:3000"), HERE, false),
        in_
    );
    // From elsewhere it is nobody, and must prove who it is like anybody else.
    assert_eq!(status(&local, FOREIGN, ELSEWHERE, false), in_);
    assert_eq!(
        status(&local, FOREIGN, ELSEWHERE, true),
        out,
        "as the holder"
    );
    let own = Some("https://h:8084"); // As its Host.
    assert_eq!(status(&local, own, ELSEWHERE, true), in_);
    assert_eq!(
        status(&local, own, HERE, true),
        out,
        "its name may point here"
    );
    let strict = Policy {
        anonymous: Origins::Nowhere,
        ..Policy::open()
    };
    assert_eq!(status(&strict, FOREIGN, HERE, false), in_);
}

#[test]
fn those_who_left_while_they_waited_for_the_core_leave_little_behind() {
    let mut core = Core::open(Limits {
        flapping: None,
        ..Limits::default()
    });
    let congested = Congestion {
        congested: true,
        ..Congestion::default()
    };
    let options = SubscriptionOptions::from_qos(QoS::AtMostOnce);
    for generation in 1..=3_000 {
        let connection = ConnectionId {
            slot: 1,
            generation,
        };
        core.client(connection);
        core.handle(Event::Tick(congested));
        let mut bytes = Vec::new();
        encode::subscribe(&mut bytes, Version::V5, 1, None, &[("a", options)]);
        core.receive(connection, bytes);
        core.handle(Event::Closed(connection));
    }
    let left = core.edge().stalled.len() as u64;
    assert!((1..=STALLED_GONE_MAX + 2).contains(&left), "{left}");
    for _ in 0..100 {
        core.handle(Event::Tick(Congestion::default()));
    }
    assert!(core.edge().stalled.is_empty());
}

#[test]
fn what_nobody_may_guess_follows_from_the_secret_of_the_run() {
    let bytes =
        |facts: &Facts, purpose: &[u8], number| -> [u8; 16] { unguessable(facts, purpose, number) };
    let one = facts(Limits::default());
    let other_core = Facts {
        core: 1,
        ..one.clone()
    };
    let other_run = Facts {
        seed: 8,
        ..one.clone()
    };
    let all = [
        bytes(&one, b"client", 1),
        bytes(&one, b"client", 2),
        bytes(&one, b"nonce", 1),
        bytes(&other_core, b"client", 1),
        bytes(&other_run, b"client", 1),
    ];
    for (index, found) in all.iter().enumerate() {
        assert!(!all[..index].contains(found), "{index}");
    }
    assert_eq!(bytes(&one, b"client", 1), all[0]);
}
