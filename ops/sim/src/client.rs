//! What a client knows: its connection, its half of the session, and what it was promised.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use edge_proto::packet::{PacketType, QoS, SubscriptionOptions, Version};

use crate::oracle::{is_shared, matches};
use crate::random::Random;
use crate::speak::TOPICS;

/// A client identifier and whoever speaks for it.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) name: String,
    pub(crate) version: Version,
    pub(crate) connection: Option<Connection>,
    /// Connections that it has left behind without closing them, and that it only watches.
    pub(crate) zombies: Vec<usize>,
    /// Counts its sessions.
    pub(crate) epoch: u64,
    pub(crate) existence: Existence,
    /// True when it cannot know whether a session is there, and so asks for a clean start.
    pub(crate) needs_clean: bool,
    /// True while a CONNECT of an earlier connection may still be on its way.
    pub(crate) haunted: bool,
    pub(crate) subscriptions: Vec<Subscription>,
    /// Its publishes that are not through, in order.
    pub(crate) outbound: VecDeque<Outgoing>,
    pub(crate) next_packet_id: u16,
    /// QoS 2 packet identifiers it has received and that were not released, with the message.
    pub(crate) received: BTreeMap<u16, u64>,
    /// Messages it got in this session, and how often.
    pub(crate) delivered: BTreeMap<u64, u32>,
    /// How often it got those that come once, by message and QoS.
    pub(crate) counted: BTreeMap<(u64, u8), u32>,
    /// Messages it refused in this session.
    pub(crate) refused: BTreeSet<u64>,
    /// Messages that the server began to send it in this session.
    pub(crate) begun: BTreeSet<u64>,
    /// Last order number by publisher, its session, root, QoS published and QoS delivered.
    pub(crate) last_order: BTreeMap<(usize, u64, String, u8, u8), u64>,
    pub(crate) maximum_packet_size: Option<u32>,
    /// The smallest that it had in this session: what is larger may be gone.
    pub(crate) smallest_maximum: u32,
    pub(crate) receive_maximum: u16,
    pub(crate) alias_maximum: u16,
}

/// Whether a session is at the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Existence {
    No,
    /// Live-only: as long as its connection.
    Live,
    /// Durable: so many seconds after the connection's end, which was not before `since_ms`.
    Durable {
        expiry_s: u32,
        since_ms: Option<u64>,
    },
}

/// One subscription over time, in steps of the run.
#[derive(Debug)]
pub(crate) struct Subscription {
    pub(crate) filter: String,
    pub(crate) options: SubscriptionOptions,
    /// SUBSCRIBE was sent.
    pub(crate) from_maybe: u64,
    /// SUBACK came.
    pub(crate) from_sure: Option<u64>,
    /// UNSUBSCRIBE, or a SUBSCRIBE that replaces it, was sent.
    pub(crate) until_sure: Option<u64>,
    /// That was answered.
    pub(crate) until_maybe: Option<u64>,
}

/// A publish that is not through.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) packet_id: u16,
    pub(crate) message: u64,
    pub(crate) qos: QoS,
    /// PUBREC came, PUBREL was sent.
    pub(crate) releasing: bool,
    /// The whole PUBLISH.
    pub(crate) bytes: Vec<u8>,
}

/// A connection as its client sees it.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) wire: usize,
    pub(crate) number: u64,
    pub(crate) live: bool,
    pub(crate) clean: bool,
    pub(crate) expiry_s: u32,
    pub(crate) input: Vec<u8>,
    pub(crate) aliases: BTreeMap<u16, String>,
    pub(crate) acknowledgements: VecDeque<(PacketType, u16, u64)>,
    /// Packet identifiers of the server that this client has not acknowledged to the end on this connection.
    pub(crate) unacknowledged: BTreeMap<u16, u64>,
    pub(crate) operations: BTreeMap<u16, Vec<usize>>,
    pub(crate) unsubscribing: BTreeMap<u16, Vec<usize>>,
    /// Answers expected, oldest first, by QoS 1 and 2.
    pub(crate) answers: [VecDeque<u16>; 2],
    pub(crate) server_receive_maximum: u16,
    pub(crate) keep_alive_s: u16,
    pub(crate) silent: bool,
    /// A DISCONNECT was read.
    pub(crate) told: Option<u8>,
}

impl Client {
    pub(crate) fn new(name: String, version: Version) -> Self {
        Self {
            name,
            version,
            connection: None,
            zombies: Vec::new(),
            epoch: 1,
            existence: Existence::No,
            needs_clean: false,
            haunted: false,
            subscriptions: Vec::new(),
            outbound: VecDeque::new(),
            next_packet_id: 1,
            received: BTreeMap::new(),
            delivered: BTreeMap::new(),
            counted: BTreeMap::new(),
            refused: BTreeSet::new(),
            begun: BTreeSet::new(),
            last_order: BTreeMap::new(),
            maximum_packet_size: None,
            smallest_maximum: u32::MAX,
            receive_maximum: u16::MAX,
            alias_maximum: 0,
        }
    }

    /// Its session is over: it forgets everything of it.
    pub(crate) fn end_session(&mut self) {
        self.epoch += 1;
        self.smallest_maximum = u32::MAX;
        self.existence = Existence::No;
        self.subscriptions.clear();
        self.outbound.clear();
        self.received.clear();
        self.delivered.clear();
        self.counted.clear();
        self.refused.clear();
        self.begun.clear();
        self.last_order.clear();
    }

    /// Draws what it will take on its next connection; `any_size` when no message may be too large for it.
    pub(crate) fn draw_limits(&mut self, random: &mut Random, any_size: bool) {
        self.receive_maximum = *random.pick(&[1, 2, 10, u16::MAX]);
        self.alias_maximum = *random.pick(&[0, 1, 10]);
        self.maximum_packet_size = (random.percent(10) && !any_size).then_some(200);
    }

    pub(crate) fn is_live(&self) -> bool {
        self.connection
            .as_ref()
            .is_some_and(|connection| connection.live)
    }

    /// A packet identifier that is not in use.
    pub(crate) fn packet_id(&mut self) -> u16 {
        loop {
            let packet_id = self.next_packet_id;
            self.next_packet_id = self.next_packet_id.checked_add(1).unwrap_or(1);
            let pending = self.connection.as_ref().is_some_and(|connection| {
                connection.operations.contains_key(&packet_id)
                    || connection.unsubscribing.contains_key(&packet_id)
            });
            if !pending
                && self
                    .outbound
                    .iter()
                    .all(|outgoing| outgoing.packet_id != packet_id)
            {
                return packet_id;
            }
        }
    }

    /// True when it has had a shared subscription for topics of this topic's root, and another subscription too.
    pub(crate) fn has_ways_beside_a_queue(&self, topic: &str) -> bool {
        let root = |topic| edge_proto::topic::root(topic, 2);
        let of_root = TOPICS.iter().filter(|other| root(other) == root(topic));
        let matching: BTreeSet<&str> = of_root.flat_map(|topic| self.matching(topic)).collect();
        matching.len() > 1 && matching.into_iter().any(is_shared)
    }

    /// The filters that match a topic, of all that it has had in this session.
    pub(crate) fn matching(&self, topic: &str) -> BTreeSet<&str> {
        self.subscriptions
            .iter()
            .map(|subscription| &*subscription.filter)
            .filter(|filter| matches(filter, topic))
            .collect()
    }

    /// True when the model knows the state of each subscription.
    pub(crate) fn is_certain(&self) -> bool {
        let certain = |subscription: &Subscription| {
            subscription.until_maybe.is_some()
                || (subscription.from_sure.is_some() && subscription.until_sure.is_none())
        };
        self.subscriptions.iter().all(certain)
    }

    /// Filters that it surely has now.
    pub(crate) fn filters(&self) -> BTreeSet<&str> {
        let now = self.subscriptions.iter().filter(|subscription| {
            subscription.from_sure.is_some() && subscription.until_sure.is_none()
        });
        now.map(|subscription| &*subscription.filter).collect()
    }
}
