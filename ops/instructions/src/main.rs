//! What the pure parts of the node cost in instructions: each case does one thing so many times, and nothing else that
//! grows. Run under `valgrind --tool=callgrind` with two counts; the difference, divided, is the cost of one.
//!
//! `instructions CASE COUNT`; without arguments the names of the cases, one a line.

use std::hint::black_box;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

use edge_proto::decode::{self, Sender};
use edge_proto::encode;
use edge_proto::frame::next_frame;
use edge_proto::packet::{
    Ack, Connect, PacketType, Publish, PublishProperties, QoS, RetainHandling, SubscriptionOptions,
    Version,
};
use edge_proto::reason::ReasonCode;
use edge_proto::topic::{RootDepths, TopicName};
use edge_proto::trie::FilterTrie;
use gateway::access::policy::Policy;
use gateway::access::rules::Rules;
use gateway::access::{Identity, Who};
use gateway::bus::wire;
use gateway::core_message::{
    CoreMessage, Deliver, DeliverReply, Origin, PublishRequest, Recipient,
};
use gateway::engine::Delivery;
use gateway::engine::claim::MessageId;
use gateway::limits::Limits;
use gateway::message::{Message, MessageParts, SessionId};
use gateway::outbox::{Order, Outbox};
use gateway::ownership::Ownership;
use gateway::shard::{Arrival, Event, Shard};
use gateway::turn::{Congestion, Facts, Now};
use reactor::driver::ConnectionId;

/// One thing to count, and its name.
type Case = (&'static str, fn(u32));

const CASES: &[Case] = &[
    ("decode_publish", decode_publish),
    ("encode_publish", encode_publish),
    ("match_10000_filters", match_filters),
    ("judge_publish_1_of_20", |count| {
        judge(count, "u/alice/in", true);
    }),
    ("judge_publish_20_of_20", |count| {
        judge(count, "sensors/d42/state", true);
    }),
    ("judge_subscribe_20_of_20", |count| {
        judge(count, "sensors/+/state", false);
    }),
    ("turn_ping", turn_ping),
    ("turn_publish_qos0", |count| {
        turn_publish(count, QoS::AtMostOnce);
    }),
    ("turn_publish_qos1", |count| {
        turn_publish(count, QoS::AtLeastOnce);
    }),
    ("turn_publish_qos2", |count| {
        turn_publish(count, QoS::ExactlyOnce);
    }),
    ("turn_fan_out_to_1000", turn_fan_out),
    ("turn_connect", turn_connect),
    ("wire_publish", |count| travel(count, &wire_publish())),
    ("wire_deliver_to_1", |count| travel(count, &wire_deliver(1))),
    ("wire_deliver_to_100", |count| {
        travel(count, &wire_deliver(100));
    }),
    ("wire_deliver_done", |count| {
        travel(count, &CoreMessage::DeliverDone { publish: 1 << 20 });
    }),
    ("wire_publish_done", |count| {
        travel(count, &wire_publish_done());
    }),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, count] = arguments.as_slice() else {
        for (name, _) in CASES {
            println!("{name}");
        }
        return ExitCode::SUCCESS;
    };
    let case = CASES.iter().find(|(known, _)| known == name);
    match (case, count.parse()) {
        (Some((_, run)), Ok(count)) => {
            run(count);
            ExitCode::SUCCESS
        }
        _ => {
            eprintln!("usage: instructions CASE COUNT; without arguments the cases are listed");
            ExitCode::FAILURE
        }
    }
}

/// A PUBLISH of 64 bytes to a topic of two levels, as MQTT 5.0.
fn publish_packet(topic: &str, qos: QoS, packet_id: u16) -> Vec<u8> {
    let mut bytes = Vec::new();
    let publish = Publish {
        dup: false,
        qos,
        retain: false,
        topic,
        packet_id: (qos > QoS::AtMostOnce).then_some(packet_id),
        properties: PublishProperties::default(),
        payload: &[7; 64],
    };
    encode::publish(&mut bytes, Version::V5, &publish);
    bytes
}

fn decode_publish(count: u32) {
    let bytes = publish_packet("u/alice", QoS::AtLeastOnce, 7);
    for _ in 0..count {
        let frame = next_frame(black_box(&bytes), 1 << 20);
        let frame = frame.ok().flatten().expect("a whole packet");
        black_box(decode::decode(Version::V5, Sender::Client, frame)).expect("a valid packet");
    }
}

fn encode_publish(count: u32) {
    let mut out = Vec::with_capacity(256);
    let properties = PublishProperties::default();
    let publish = Publish {
        dup: false,
        qos: QoS::AtLeastOnce,
        retain: false,
        topic: "u/alice",
        packet_id: Some(7),
        properties,
        payload: &[7; 64],
    };
    for _ in 0..count {
        out.clear();
        encode::publish(&mut out, Version::V5, black_box(&publish));
        black_box(&out);
    }
}

fn match_filters(count: u32) {
    let mut trie = FilterTrie::new();
    for number in 0..10_000 {
        trie.insert(&format!("+/{number}/#"), number);
    }
    for number in 0..count {
        let topic = ["a/17/x", "b/4711/y/z", "c/9999"][number as usize % 3];
        trie.matches(black_box(topic), &mut |found| {
            black_box(found);
        });
    }
}

/// Twenty rules, as a messenger with some services and devices has them: the client's own topics first, its devices last.
fn twenty_rules() -> Rules {
    use std::fmt::Write;
    let mut text = String::from(
        "[[rule]]\nallow = [\"publish\", \"subscribe\"]\ntopics = [\"u/%u/#\", \"g/%g/in\"]\n",
    );
    for service in 0..18 {
        writeln!(text, "[[rule]]\nallow = [\"publish\"]\ngroups = [\"staff-{service}\"]\ntopics = [\"services/{service}/#\", \"+/{service}/in\"]")
            .expect("text has room");
    }
    text.push_str(
        "[[rule]]\nallow = [\"publish\", \"subscribe\"]\ntopics = [\"sensors/+/state\"]\n",
    );
    Rules::from_toml(&text).expect("valid rules")
}

fn judge(count: u32, topic: &str, publish: bool) {
    let rules = twenty_rules();
    let mut identity = Identity::of_user("alice");
    identity.groups = ["family".into(), "chess".into()].into();
    let who = Who {
        identity: &identity,
        client: "phone",
    };
    for _ in 0..count {
        let topic = black_box(topic);
        let decision = if publish {
            let topic = TopicName::parse(topic).expect("a topic");
            rules.publish(&who, topic, QoS::AtLeastOnce, false)
        } else {
            rules.subscribe(&who, topic, QoS::AtLeastOnce)
        };
        assert!(decision.is_allowed());
    }
}

/// One core with clients, each on a connection of its own.
struct Core {
    shard: Shard,
    outbox: Outbox,
    now: Now,
}

impl Core {
    fn new() -> Self {
        let now = Now {
            mono_ms: 1,
            unix_ms: 1_700_000_000_000,
        };
        let facts = Facts {
            core: 0,
            limits: Limits::default(),
            root_depths: RootDepths::default(),
            websocket_path: "/mqtt".into(),
            seed: 1,
        };
        Self {
            shard: Shard::new(
                facts,
                Arc::new(Ownership::alone(1)),
                Arc::new(Policy::open()),
                1,
                now,
            ),
            outbox: Outbox::new(0, 0..1),
            now,
        }
    }

    fn id(slot: u32) -> ConnectionId {
        ConnectionId {
            slot,
            generation: 1,
        }
    }

    /// Connects a client and subscribes it to a filter.
    fn client(&mut self, slot: u32, filter: &str) {
        self.connect(slot);
        let options = SubscriptionOptions {
            maximum_qos: QoS::ExactlyOnce,
            no_local: false,
            retain_as_published: false,
            retain_handling: RetainHandling::Send,
        };
        let mut bytes = Vec::new();
        encode::subscribe(&mut bytes, Version::V5, 1, None, &[(filter, options)]);
        self.receive(slot, &mut bytes);
        self.end_turn();
    }

    fn connect(&mut self, slot: u32) {
        let accepted = Event::Accepted {
            connection: Self::id(slot),
            arrival: Arrival::plain(false, SocketAddr::from(([127, 0, 0, 1], 1))),
        };
        self.shard.handle(self.now, accepted, &mut self.outbox);
        let client_id = format!("client-{slot}");
        let mut bytes = Vec::new();
        encode::connect(&mut bytes, &Connect::new(Version::V5, &client_id));
        self.receive(slot, &mut bytes);
        self.end_turn();
    }

    fn receive(&mut self, slot: u32, bytes: &mut [u8]) {
        let received = Event::Received {
            connection: Self::id(slot),
            bytes,
        };
        self.shard.handle(self.now, received, &mut self.outbox);
    }

    /// What the event loop does at the end of a turn, with a kernel that takes everything at once. Returns the bytes that were
    /// written.
    fn end_turn(&mut self) -> usize {
        let tick = Event::Tick(Congestion::default());
        self.shard.handle(self.now, tick, &mut self.outbox);
        self.outbox.seal();
        let mut written = 0;
        let mut outputs = std::mem::take(&mut self.outbox.outputs);
        for output in outputs.drain(..) {
            written += output.bytes.len();
            self.outbox.recycle(output.bytes);
        }
        self.outbox.outputs = outputs;
        let mut orders = std::mem::take(&mut self.outbox.orders);
        for order in orders.drain(..) {
            if let Order::Watch(connection) = order {
                let drained = Event::Drained(connection);
                self.shard.handle(self.now, drained, &mut self.outbox);
            }
        }
        orders.append(&mut self.outbox.orders);
        self.outbox.orders = orders;
        written
    }
}

fn turn_ping(count: u32) {
    let mut core = Core::new();
    core.client(0, "u/alice");
    for _ in 0..count {
        let mut ping = [0xC0, 0];
        core.receive(0, &mut ping);
        assert_eq!(core.end_turn(), 2, "PINGRESP");
    }
}

/// One client to one other, with every acknowledgement that the QoS has on both sides.
fn turn_publish(count: u32, qos: QoS) {
    let mut core = Core::new();
    core.client(0, "u/alice");
    core.client(1, "u/bob");
    let ack = |kind, number| {
        let mut bytes = Vec::new();
        let packet_id = (number % 65_535) as u16 + 1;
        encode::ack(
            &mut bytes,
            Version::V5,
            kind,
            &Ack::new(packet_id, ReasonCode::Success),
        );
        bytes
    };
    let packet = publish_packet("u/bob", qos, 1);
    for number in 0..count {
        let mut bytes = match qos {
            QoS::AtMostOnce => packet.clone(),
            _ => publish_packet("u/bob", qos, (number % 65_535) as u16 + 1),
        };
        core.receive(0, &mut bytes);
        assert!(core.end_turn() > 64, "PUBLISH");
        match qos {
            QoS::AtMostOnce => continue,
            QoS::AtLeastOnce => core.receive(1, &mut ack(PacketType::PubAck, number)),
            QoS::ExactlyOnce => {
                core.receive(0, &mut ack(PacketType::PubRel, number));
                core.receive(1, &mut ack(PacketType::PubRec, number));
                assert!(core.end_turn() > 0, "PUBCOMP and PUBREL");
                core.receive(1, &mut ack(PacketType::PubComp, number));
            }
        }
        core.end_turn();
    }
}

fn turn_fan_out(count: u32) {
    let mut core = Core::new();
    for slot in 0..1_000 {
        core.client(slot, "g/team");
    }
    for _ in 0..count {
        let mut bytes = publish_packet("g/team", QoS::AtMostOnce, 1);
        core.receive(0, &mut bytes);
        assert!(core.end_turn() > 64_000, "a PUBLISH for each");
    }
}

/// A connection that comes, is answered and goes, among 1,000 that stay.
fn turn_connect(count: u32) {
    let mut core = Core::new();
    for slot in 0..1_000 {
        core.connect(slot);
    }
    for _ in 0..count {
        core.connect(1_000);
        let closed = Event::Closed(Core::id(1_000));
        core.shard.handle(core.now, closed, &mut core.outbox);
        core.end_turn();
    }
}

/// To another node: written and read.
fn travel(count: u32, message: &CoreMessage) {
    let mut bytes = Vec::with_capacity(4_096);
    for _ in 0..count {
        bytes.clear();
        wire::encode(black_box(message), wire::VERSION, &mut bytes);
        black_box(wire::decode(black_box(&bytes), wire::VERSION)).expect("it was written");
    }
}

fn wire_message() -> Arc<Message> {
    Arc::new(Message::new(MessageParts {
        topic: "u/alice/in",
        properties: &[],
        payload: &[7; 128],
        qos: QoS::AtLeastOnce,
        retain: false,
        expires_at_unix_ms: u64::MAX,
        publisher: SessionId(0x0001_0200_0000_002A),
    }))
}

/// What a message of the third core is known by.
const WIRE_ID: MessageId = MessageId {
    origin: 1_700_000_000 << 16 | 3,
    number: 1 << 20,
};

fn wire_origin() -> Origin {
    Origin::Client {
        core: 3,
        connection: Core::id(10_000),
        packet_id: 700,
        bytes: 194,
    }
}

fn wire_publish() -> CoreMessage {
    CoreMessage::Publish(Box::new(PublishRequest {
        message: wire_message(),
        origin: wire_origin(),
        may_refuse: true,
        received: None,
        id: WIRE_ID,
        retry: false,
    }))
}

fn wire_publish_done() -> CoreMessage {
    CoreMessage::PublishDone {
        origin: wire_origin(),
        reason: ReasonCode::Success,
        recipients: 1,
        id: WIRE_ID,
    }
}

fn wire_deliver(recipients: u32) -> CoreMessage {
    let recipient = |slot| Recipient {
        connection: Core::id(slot),
        delivery: Delivery {
            qos: QoS::AtLeastOnce,
            retain: false,
            subscription_ids: Box::default(),
        },
    };
    CoreMessage::Deliver(Box::new(Deliver {
        message: wire_message(),
        recipients: (10_000..10_000 + recipients).map(recipient).collect(),
        answer: Some(DeliverReply {
            core: 3,
            publish: 1 << 20,
            id: WIRE_ID,
            retry: false,
        }),
        is_lossy: false,
    }))
}
