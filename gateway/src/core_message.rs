//! What the roles on the cores say to each other.
//!
//! Three roles live on every core: the *edge* holds connections, the *owner* serves partitions, the *home* knows users'
//! sessions. They speak only through these messages, also when they are on the same core, so there is one way to do each
//! thing. Between two cores the messages of one lane arrive in the order they were sent: [`CoreMessage::is_lossy`] says
//! which lane. Order of a publisher's messages is kept per QoS, because QoS 0 has a lane of its own.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use edge_proto::packet::{QoS, SubscriptionOptions};
use edge_proto::reason::ReasonCode;
use edge_proto::shown::Length;
use reactor::datagram::Ecn;
use reactor::driver::ConnectionId;
use reactor::slab::Key;

use crate::access::Identity;
use crate::engine::claim::{MessageId, ReceivedId};
use crate::engine::{Delivery, SubscriptionRecord, WillRecord};
use crate::message::{Message, SessionId};
use crate::ownership::home_partition;

/// One message between roles. Large contents are boxed: a slot of the mesh holds one of these.
#[derive(Debug, PartialEq, Eq)]
pub enum CoreMessage {
    /// Event loop → event loop: a datagram that the kernel gave to the wrong core. No role sees it.
    Stray(Box<StrayDatagram>),
    /// Edge (or home, for a will) → owner: route a message.
    Publish(Box<PublishRequest>),
    /// Owner → edge of the publisher: it is stored and queued everywhere.
    PublishDone {
        /// The publisher.
        origin: Origin,
        /// `Success`, `NoMatchingSubscribers`, or why it was refused.
        reason: ReasonCode,
        /// Recipients it was accepted for.
        recipients: u32,
        /// What the message is known by.
        id: MessageId,
    },
    /// Owner or home → edge: hand a message to live sessions.
    Deliver(Box<Deliver>),
    /// Edge → owner: the message of [`Deliver::answer`] is in the bounded queues of its recipients.
    DeliverDone {
        /// From `Deliver::answer`.
        publish: u64,
    },
    /// Owner → home: hand a QoS 0 message to durable sessions if they are connected.
    DeliverHome(Box<DeliverHome>),
    /// Owner → home: put a message into mailboxes. `AppendDone` answers.
    Append(Box<AppendRequest>),
    /// Home → owner: it is stored in all of them that have room.
    AppendDone {
        /// From [`AppendRequest::answer`].
        publish: u64,
        /// True when a mailbox was full and refused it.
        rejected: bool,
    },
    /// Edge or home → owner: make or replace a subscription.
    Subscribe(Box<SubscribeRequest>),
    /// Edge or home → owner: remove a subscription.
    Unsubscribe(Box<UnsubscribeRequest>),
    /// Edge or home → owner: how a subscription is delivered at most, under the rules that hold now.
    LimitSubscription(Box<LimitSubscription>),
    /// Home → owner: is there this subscription? `SubscriptionDone` answers.
    FindSubscription(Box<FindSubscription>),
    /// Owner → edge or home: the subscription is made, removed or looked for.
    SubscriptionDone {
        /// Whose request it was.
        reply: ReplyTo,
        /// Whether the subscription existed before.
        existed: bool,
    },
    /// Home or edge → owner: a member of a shared subscription came or went, or has more or less to do.
    SharedPresence(Box<SharedPresence>),
    /// Owner → edge: messages of a group's queue for a member. `HandDone` answers.
    Hand(Box<Hand>),
    /// Owner → home: the same, for a durable member that takes QoS 0 alone.
    HandHome {
        /// The member.
        session: SessionId,
        /// What it is to get; its connection is not known yet.
        hand: Box<Hand>,
    },
    /// Edge or home → owner: so many of the messages, from the first on, were taken.
    HandDone {
        /// From `Hand::answer`.
        transfer: u64,
        /// How many.
        taken: u32,
    },
    /// Edge or home → owner: some retained messages, please.
    RetainedScan(Box<RetainedScan>),
    /// Owner → edge or home: here they are.
    RetainedPage(Box<RetainedPage>),
    /// Edge → home: a CONNECT.
    Attach(Box<Attach>),
    /// Home → edge: the answer.
    Attached(Box<Attached>),
    /// Home → edge: end this connection with this reason; `Detach` answers.
    Evict {
        /// Its session; `None` when there is none for it.
        home: Option<Key>,
        /// Which connection.
        connection: ConnectionId,
        /// Session taken over, or an administrative action.
        reason: ReasonCode,
    },
    /// Edge → home: the connection has ended and nothing of it is outstanding.
    Detach(Box<Detach>),
    /// Edge → home: the client has proved again who it is.
    Identify(Box<Identify>),
    /// Home → edge: the session of this connection has a subscription less than its edge counts.
    SubscriptionCut {
        /// The client.
        connection: ConnectionId,
    },
    /// Edge → home: make a durable subscription.
    HomeSubscribe(Box<HomeSubscribe>),
    /// Edge → home: remove a durable subscription.
    HomeUnsubscribe {
        /// The session.
        home: Key,
        /// Whom to answer.
        reply: ReplyTo,
        /// The whole filter.
        filter: Box<str>,
    },
    /// Home → edge: a message of the mailbox, in sequence order.
    MailboxPush(Box<MailboxPush>),
    /// Edge → home: this message is done with.
    MailboxAck {
        /// The session.
        home: Key,
        /// Which message.
        sequence: u64,
        /// Bytes it had in the window.
        bytes: u32,
        /// How it ended.
        outcome: Outcome,
    },
    /// Edge → home: the client sent PUBREC for this message.
    MailboxPubRec {
        /// The session.
        home: Key,
        /// Which message.
        sequence: u64,
    },
    /// Home → edge: that PUBREC is recorded.
    PubRecRecorded {
        /// The client.
        connection: ConnectionId,
        /// Which message.
        sequence: u64,
    },
    /// Edge → home: forget a received QoS 2 packet identifier (PUBREL).
    Release {
        /// The session.
        home: Key,
        /// Which packet identifier.
        packet_id: u16,
    },
    /// Home → edge: it is forgotten.
    Released {
        /// The client.
        connection: ConnectionId,
        /// Which packet identifier.
        packet_id: u16,
    },
    /// Edge → home: record what the message of a QoS 2 packet identifier is known by.
    Receive {
        /// The session.
        home: Key,
        /// The packet identifier, and what its message is to be known by.
        received: ReceivedId,
    },
    /// Home → edge: what is recorded for it.
    Received {
        /// The client.
        connection: ConnectionId,
        /// The packet identifier, and what its message is known by.
        received: ReceivedId,
    },
    /// Edge → the new home of a session that is connected.
    Reattach(Box<Reattach>),
    /// Home → edge: the session is here now.
    Reattached {
        /// The client.
        connection: ConnectionId,
        /// Its place at the home.
        home: Key,
    },
    /// Home → edge, in a cluster: it has heard that the connection has ended.
    DetachDone {
        /// The connection.
        connection: ConnectionId,
        /// True when it knew of the connection.
        known: bool,
    },
    /// Core → core: how far it is with a view.
    Handover(HandoverStep),
    /// Owner → home, after a view: durable subscriptions that it has, with the partitions of their homes. `SubscriptionsEnded` names those
    /// that are no more.
    FindSubscriptions {
        /// Who asks.
        core: u16,
        /// The subscriptions.
        names: Vec<(u16, SubscriptionName)>,
    },
    /// Home → owner: these subscriptions are no more, and nobody was left to say so.
    SubscriptionsEnded(Vec<SubscriptionName>),
}

const _: () = assert!(
    size_of::<CoreMessage>() <= 48,
    "a slot of the mesh is small"
);

impl CoreMessage {
    /// True when the message may be dropped under pressure: a QoS 0 message on its way. It travels in the data lane,
    /// everything else in the control lane.
    pub fn is_lossy(&self) -> bool {
        match self {
            Self::Publish(request) => {
                request.message.qos == QoS::AtMostOnce && request.origin == Origin::Nobody
            }
            Self::Deliver(deliver) => deliver.is_lossy,
            Self::DeliverHome(_) | Self::Stray(_) => true,
            _ => false,
        }
    }

    /// Deliveries that are lost when this message is dropped.
    pub fn deliveries(&self) -> u64 {
        match self {
            Self::Deliver(deliver) => deliver.recipients.len() as u64,
            Self::DeliverHome(deliver) => deliver.recipients.len() as u64,
            _ => 0,
        }
    }
}

/// How far a core is with a view. What it says in a lane before a step belongs to what was before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandoverStep {
    /// The view.
    pub epoch: u64,
    /// What is done.
    pub stage: Stage,
}

/// What a core has done of a view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It acts by this view.
    Installed,
    /// It has told the new owners what it knows.
    Announced,
    /// It has read what its new partitions hold, and told the others what concerns them.
    Loaded,
}

/// Who waits for the acknowledgement of a publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// Nobody: QoS 0, or a will.
    Nobody,
    /// A client.
    Client {
        /// Core of its edge.
        core: u16,
        /// Its connection.
        connection: ConnectionId,
        /// Packet identifier of its PUBLISH.
        packet_id: u16,
        /// Bytes that wait with it.
        bytes: u32,
    },
    /// The node itself, in a cluster: a will, which is sent again until it is answered.
    Will {
        /// Core of its home.
        core: u16,
    },
    /// An admin request on this core.
    Admin {
        /// The core that was asked.
        core: u16,
        /// Its request.
        request: u64,
    },
}

impl Origin {
    /// The core where somebody waits.
    pub fn core(&self) -> Option<u16> {
        match self {
            Self::Nobody => None,
            Self::Client { core, .. } | Self::Will { core } | Self::Admin { core, .. } => {
                Some(*core)
            }
        }
    }
}

/// A message to route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishRequest {
    /// The message.
    pub message: Arc<Message>,
    /// Who waits.
    pub origin: Origin,
    /// True when whoever waits can be told that the message is refused. A 3.1.1 client cannot: it would send it for ever.
    pub may_refuse: bool,
    /// The durable QoS 2 publisher and its packet identifier, to be recorded in the same commit. None in a cluster, where it was
    /// recorded before.
    pub received: Option<(SessionId, u16)>,
    /// What the message is known by; none when it is not sent again.
    pub id: MessageId,
    /// True when it was sent before, perhaps to another owner.
    pub retry: bool,
}

/// A message for mailboxes of one home core.
#[derive(Debug, PartialEq, Eq)]
pub struct AppendRequest {
    /// The message.
    pub message: Arc<Message>,
    /// What it is known by.
    pub id: MessageId,
    /// True when it may have been stored before.
    pub retry: bool,
    /// The mailboxes.
    pub recipients: Vec<MailboxRecipient>,
    /// Owner core and publish that wait for `AppendDone`.
    pub answer: (u16, u64),
}

/// One mailbox that gets a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MailboxRecipient {
    /// Whose.
    pub session: SessionId,
    /// Partition of its home.
    pub partition: u16,
    /// How it gets it.
    pub delivery: Delivery,
}

/// A connected session for its new home.
#[derive(Debug, PartialEq, Eq)]
pub struct Reattach {
    /// Core of the edge.
    pub core: u16,
    /// Its connection.
    pub connection: ConnectionId,
    /// The session.
    pub session: SessionId,
    /// Its client identifier.
    pub client_id: Box<str>,
    /// True when its state is in the engine.
    pub durable: bool,
    /// The will of a live-only session.
    pub will: Option<WillRecord>,
    /// Where the client connected from.
    pub peer: SocketAddr,
    /// Who it proved to be.
    pub identity: Option<Arc<Identity>>,
    /// Highest sequence of the mailbox that was written to the connection, 0 = none.
    pub sent_to: u64,
}

impl Reattach {
    /// The user of the client; `None` when it proved nothing.
    pub fn user(&self) -> Option<&str> {
        self.identity.as_ref()?.user.as_deref()
    }
}

/// What a durable subscription is called between cores, for short.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubscriptionName {
    /// Whose.
    pub session: SessionId,
    /// FNV-1a (64 bits) of the whole filter: every release finds the same.
    pub filter: u64,
}

impl SubscriptionName {
    /// The name of the subscription of a session to a whole filter, `$share/…` included.
    pub fn of(session: SessionId, filter: &str) -> Self {
        let hash = filter.bytes().fold(0xCBF2_9CE4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
        });
        Self {
            session,
            filter: hash,
        }
    }
}

/// What an owner hears of a member of a shared subscription.
#[derive(Debug, PartialEq, Eq)]
pub struct SharedPresence {
    /// The whole filter.
    pub filter: Box<str>,
    /// The member.
    pub session: SessionId,
    /// What it is like now.
    pub presence: Presence,
}

/// What a member of a shared subscription is like at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Presence {
    /// Whether it is connected. Always true for a live-only session, which leaves when it disconnects.
    pub connected: bool,
    /// How much waits for it, see [`load_level`].
    pub load: u8,
}

/// How busy a session is for which so many messages wait, after it was at level `before`: 0 for fewer than 8, and one more
/// each time they double; back only when they are half of what a level begins with. So its owners hear of a burst a few
/// times, and nothing of messages that come and go.
pub fn load_level(before: u8, waiting: u64) -> u8 {
    let level = |waiting: u64| waiting.max(4).ilog2() as u8 - 2;
    level(waiting).max(before.min(level(2 * waiting)))
}

/// Messages out of the queue of a shared subscription.
#[derive(Debug, PartialEq, Eq)]
pub struct Hand {
    /// The connection of the member; a stale one takes nothing.
    pub connection: ConnectionId,
    /// The messages in order; they are taken up to the first for which there is no room.
    pub messages: Vec<(Arc<Message>, Delivery)>,
    /// Owner core and transfer that wait for `HandDone`.
    pub answer: (u16, u64),
}

impl Hand {
    /// The connection of a member whose home is to fill it in: no connection is this one.
    pub const NOBODY: ConnectionId = ConnectionId {
        slot: u32::MAX,
        generation: u32::MAX,
    };
}

/// A message for sessions of one edge core.
#[derive(Debug, PartialEq, Eq)]
pub struct Deliver {
    /// The message.
    pub message: Arc<Message>,
    /// The sessions.
    pub recipients: Vec<Recipient>,
    /// Who waits for `DeliverDone`.
    pub answer: Option<DeliverReply>,
    /// True exactly when nobody waits for it and every delivery is QoS 0.
    pub is_lossy: bool,
}

/// An owner that waits until an edge has taken a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeliverReply {
    /// Its core.
    pub core: u16,
    /// Its number for the publish.
    pub publish: u64,
    /// What the message is known by.
    pub id: MessageId,
    /// True when an owner may have delivered it before.
    pub retry: bool,
}

/// A QUIC datagram whose connection id names another core than the one that received it: it came in one batch with datagrams
/// of that core.
#[derive(PartialEq, Eq)]
pub struct StrayDatagram {
    /// At which QUIC listener, by place.
    pub listener: u16,
    /// From whom.
    pub remote: SocketAddr,
    /// To which of the local addresses.
    pub local: Option<IpAddr>,
    /// ECN bits.
    pub ecn: Option<Ecn>,
    /// The datagram.
    pub bytes: Vec<u8>,
}

impl fmt::Debug for StrayDatagram {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("StrayDatagram")
            .field("listener", &self.listener)
            .field("remote", &self.remote)
            .field("local", &self.local)
            .field("ecn", &self.ecn)
            .field("bytes", &Length::of(&self.bytes))
            .finish()
    }
}

/// One live session that gets a message.
#[derive(Debug, PartialEq, Eq)]
pub struct Recipient {
    /// Its connection; a stale one gets nothing.
    pub connection: ConnectionId,
    /// How.
    pub delivery: Delivery,
}

/// A QoS 0 message for durable sessions of one home core.
#[derive(Debug, PartialEq, Eq)]
pub struct DeliverHome {
    /// The message.
    pub message: Arc<Message>,
    /// The sessions.
    pub recipients: Vec<(SessionId, Delivery)>,
}

/// Whom to answer: a request of a role on a core, and which part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyTo {
    /// The core.
    pub core: u16,
    /// True when its home asked, false when its edge did.
    pub home: bool,
    /// Its request.
    pub request: Key,
    /// Which filter of the request.
    pub index: u16,
}

/// Who gets the messages of a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subscriber {
    /// The session.
    pub session: SessionId,
    /// Where to send.
    pub target: Target,
    /// Options of the SUBSCRIBE, with the QoS that was granted.
    pub options: SubscriptionOptions,
    /// Subscription Identifier, 0 = none.
    pub subscription_id: u32,
    /// The highest QoS that the rules have allowed since: lower than what was granted after a change of rules.
    pub qos_allowed: QoS,
}

const _: () = assert!(
    size_of::<Subscriber>() <= 32,
    "there is one for every subscription"
);

impl Subscriber {
    /// A subscriber that may have what it was granted.
    pub fn new(session: SessionId, target: Target, granted: SubscriptionRecord) -> Self {
        Self {
            session,
            target,
            options: granted.options,
            subscription_id: granted.subscription_id,
            qos_allowed: QoS::ExactlyOnce,
        }
    }

    /// The highest QoS that its messages have.
    pub fn maximum_qos(&self) -> QoS {
        self.options.maximum_qos.min(self.qos_allowed)
    }

    /// The subscription as messages are delivered for it now.
    pub fn record(&self) -> SubscriptionRecord {
        SubscriptionRecord {
            options: SubscriptionOptions {
                maximum_qos: self.maximum_qos(),
                ..self.options
            },
            subscription_id: self.subscription_id,
        }
    }
}

/// Where the messages for a subscriber go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A live-only session: straight to its connection.
    Live {
        /// Core of its edge.
        core: u16,
        /// Its connection.
        connection: ConnectionId,
    },
    /// A durable session: its mailbox.
    Home {
        /// Partition of its home.
        partition: u16,
    },
}

/// Make or replace a subscription at an owner.
#[derive(Debug, PartialEq, Eq)]
pub struct SubscribeRequest {
    /// The whole filter, `$share/…` included.
    pub filter: Box<str>,
    /// Who.
    pub subscriber: Subscriber,
    /// For a shared subscription: what the member is like.
    pub presence: Presence,
    /// Whom to answer.
    pub reply: Option<ReplyTo>,
}

/// Remove a subscription at an owner.
#[derive(Debug, PartialEq, Eq)]
pub struct UnsubscribeRequest {
    /// The whole filter.
    pub filter: Box<str>,
    /// Who.
    pub session: SessionId,
    /// Whom to answer.
    pub reply: Option<ReplyTo>,
}

/// The rules have changed for a subscription that stays.
#[derive(Debug, PartialEq, Eq)]
pub struct LimitSubscription {
    /// The whole filter.
    pub filter: Box<str>,
    /// Whose.
    pub session: SessionId,
    /// What they allow now; what was granted holds where it is lower.
    pub qos_allowed: QoS,
}

/// Ask an owner whether there is a subscription.
#[derive(Debug, PartialEq, Eq)]
pub struct FindSubscription {
    /// The whole filter.
    pub filter: Box<str>,
    /// Whose.
    pub session: SessionId,
    /// Whom to answer.
    pub reply: ReplyTo,
}

/// Ask an owner for retained messages, a page at a time in topic order.
#[derive(Debug, PartialEq, Eq)]
pub struct RetainedScan {
    /// Which topics.
    pub filter: Box<str>,
    /// Only topics after this one; empty = from the start.
    pub after: Box<str>,
    /// At most so many messages.
    pub limit: u16,
    /// A durable session and its subscription: the owner itself puts messages of QoS ≥ 1 into its mailbox, so that nothing
    /// that is published later can come before them. `None` for a live-only session.
    pub mailbox: Option<(SessionId, SubscriptionRecord)>,
    /// Partition of the home of that session.
    pub home_partition: u16,
    /// Whom to answer.
    pub reply: ReplyTo,
}

/// A page of retained messages.
#[derive(Debug, PartialEq, Eq)]
pub struct RetainedPage {
    /// Whose scan.
    pub reply: ReplyTo,
    /// The messages that did not go into a mailbox, none of them expired.
    pub messages: Vec<Arc<Message>>,
    /// Where to go on; `None` at the end.
    pub next: Option<Box<str>>,
}

/// A CONNECT on its way to its home.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attach {
    /// Core of the edge.
    pub core: u16,
    /// Its connection.
    pub connection: ConnectionId,
    /// The view under which it is asked for: after another one it is asked again, and an earlier answer is none.
    pub asked: u64,
    /// What the session is called if this CONNECT begins one. A home that finds it has been asked before, or its predecessor has.
    pub session: SessionId,
    /// Client identifier, given or assigned.
    pub client_id: Box<str>,
    /// Clean Start.
    pub clean_start: bool,
    /// Session Expiry Interval in seconds, within the server's bound.
    pub expiry_s: u32,
    /// The will.
    pub will: Option<WillRecord>,
    /// Where the client connects from.
    pub peer: SocketAddr,
    /// True when a handshake of TLS or QUIC was done with it: most of what letting it in costs is spent.
    pub secure: bool,
    /// Who it proved to be.
    pub identity: Option<Arc<Identity>>,
}

impl Attach {
    /// The user of the client; `None` when it proved nothing.
    pub fn user(&self) -> Option<&str> {
        self.identity.as_ref()?.user.as_deref()
    }

    /// The partition of its home.
    pub fn partition(&self) -> u16 {
        home_partition(self.user().unwrap_or(&self.client_id))
    }
}

/// Who a client has proved again to be.
#[derive(Debug, PartialEq, Eq)]
pub struct Identify {
    /// The session.
    pub home: Key,
    /// Who.
    pub identity: Arc<Identity>,
}

/// A home's answer to a CONNECT.
#[derive(Debug, PartialEq, Eq)]
pub struct Attached {
    /// The connection that asked.
    pub connection: ConnectionId,
    /// Under which view, as `Attach` says.
    pub asked: u64,
    /// The session, or why there is none.
    pub outcome: Result<AttachedSession, ReasonCode>,
}

/// The session that a connection got.
#[derive(Debug, PartialEq, Eq)]
pub struct AttachedSession {
    /// Its id.
    pub session: SessionId,
    /// Its place at the home.
    pub home: Key,
    /// The core of its home.
    pub home_core: u16,
    /// Session Present.
    pub present: bool,
    /// True when its state is in the engine.
    pub durable: bool,
    /// QoS 2 packet identifiers received and not released.
    pub received: Vec<ReceivedId>,
    /// Subscriptions it has.
    pub subscriptions: u32,
}

/// The end of a connection, told to its home.
#[derive(Debug, PartialEq, Eq)]
pub struct Detach {
    /// The session.
    pub home: Key,
    /// Its connection.
    pub connection: ConnectionId,
    /// Core of the edge.
    pub core: u16,
    /// True when the will must be published.
    pub will: bool,
    /// A Session Expiry Interval that the DISCONNECT changed.
    pub expiry_s: Option<u32>,
    /// QoS 2 packet identifiers received and not released.
    pub received: Vec<ReceivedId>,
    /// Highest sequence of the mailbox that was written to the connection, 0 = none.
    pub sent_to: u64,
}

/// Make a durable subscription.
#[derive(Debug, PartialEq, Eq)]
pub struct HomeSubscribe {
    /// The session.
    pub home: Key,
    /// Whom to answer.
    pub reply: ReplyTo,
    /// The whole filter.
    pub filter: Box<str>,
    /// Options.
    pub options: SubscriptionOptions,
    /// Subscription Identifier, 0 = none.
    pub subscription_id: u32,
    /// True when the session has as many subscriptions as it may: one that it has can be replaced, a new one is not made.
    pub only_replaces: bool,
}

/// A message of a mailbox.
#[derive(Debug, PartialEq, Eq)]
pub struct MailboxPush {
    /// The client.
    pub connection: ConnectionId,
    /// Place in the mailbox.
    pub sequence: u64,
    /// The message; `None` when only its PUBREL is outstanding.
    pub content: Option<(Arc<Message>, Delivery)>,
    /// True when it may have been sent before.
    pub dup: bool,
    /// True when it was sent before while this node ran.
    pub begun: bool,
}

/// How a mailbox message ended at the edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The client has it.
    Delivered,
    /// It expired.
    Expired,
    /// It is larger than the client's Maximum Packet Size.
    TooLarge,
    /// The client refused it.
    Refused,
    /// The rules do not let the client read it any more.
    Denied,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_is_told_when_it_doubles_and_when_it_is_half_gone() {
        let mut load = 0;
        let mut told = |waiting| {
            let before = load;
            load = load_level(load, waiting);
            load != before
        };
        assert!((0..8).chain((0..8).rev()).all(|waiting| !told(waiting)));
        assert!(told(8));
        assert!(
            [7, 8, 5, 9, 4, 15]
                .into_iter()
                .all(|waiting| !told(waiting))
        );
        assert!(told(16));
        assert!(told(7) && told(3));
        assert_eq!(load, 0);
    }
}
