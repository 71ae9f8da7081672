//! The durable store behind a node: commands out of the cores, completions back as events, never awaited by a core.
//!
//! One engine thread collects what all cores have sent, commits it as one batch (group commit), and answers everything in
//! the batch. Two orders hold and the rest of the node relies on them: the commands of one core take effect in the order
//! they were sent, and the completions for one core arrive in the order of their effects. So a home sees the messages of a
//! mailbox in sequence order without sorting anything.
//!
//! When a commit fails (disk full, I/O error) nothing is answered: the batch is kept and tried again, cores run into their
//! bounds and stop reading from the publishers that wait, live traffic goes on, and the state says so. A batch that did
//! reach the disk although it was reported as failed is not applied twice: the store knows the number of the batch that
//! waits, and what it writes may be written again.
//!
//! A command that names a session which does not exist has no effect, and is answered like any other: its session was
//! deleted a moment before. So a core lets others name a new session only after the `Done` of its `PutSession`.

pub mod claim;
pub mod embedded;
pub mod memory;
pub mod migrate;
mod queue;
pub mod redis;
pub mod status;
pub mod thread;
pub mod views;

use std::sync::Arc;

use edge_proto::packet::{QoS, SubscriptionOptions};

use crate::engine::claim::{ClaimOutcome, MessageId, ReceivedId};
use crate::message::{Message, SessionId};

/// Names one outstanding request of a core; the engine hands it back unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token(pub u64);

/// What is stored about a durable session, apart from its subscriptions, mailbox and packet identifiers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionRecord {
    /// Client identifier.
    pub client_id: Box<str>,
    /// The authenticated user; `None` where the client id stands for it.
    pub user: Option<Box<str>>,
    /// Session Expiry Interval in seconds, `u32::MAX` = never.
    pub expiry_s: u32,
    /// When its connection ended, in milliseconds of Unix time; `None` while it is connected.
    pub disconnected_at_unix_ms: Option<u64>,
    /// The will to publish if the connection is lost, or that waits for its delay.
    pub will: Option<WillRecord>,
}

impl SessionRecord {
    /// Whose home it is kept at: the user's, or that of the client id where there is none.
    pub fn home_name(&self) -> &str {
        self.user.as_deref().unwrap_or(&self.client_id)
    }
}

/// A will that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WillRecord {
    /// What to publish.
    pub message: Arc<Message>,
    /// Will Delay Interval in seconds.
    pub delay_s: u32,
    /// Message Expiry Interval of the will in seconds, which counts from its publication.
    pub message_expiry_s: Option<u32>,
}

/// A durable subscription as stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubscriptionRecord {
    /// Options of the SUBSCRIBE.
    pub options: SubscriptionOptions,
    /// Subscription Identifier, 0 = none.
    pub subscription_id: u32,
}

impl SubscriptionRecord {
    /// Messages are delivered with this QoS at most from now on.
    pub fn limit(&mut self, qos_allowed: QoS) {
        self.options.maximum_qos = self.options.maximum_qos.min(qos_allowed);
    }

    /// How a message that is not a retained one reaches a subscriber.
    pub fn delivery(&self, message: &Message) -> Delivery {
        Delivery {
            qos: message.qos.min(self.options.maximum_qos),
            retain: message.retain && self.options.retain_as_published,
            subscription_ids: if self.subscription_id == 0 {
                Box::default()
            } else {
                Box::new([self.subscription_id])
            },
        }
    }
}

/// One message for one mailbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Append {
    /// Whose mailbox.
    pub session: SessionId,
    /// The core of the session's home, which hears of it through [`Completion::Appended`].
    pub home: u16,
    /// How to deliver it.
    pub delivery: Delivery,
}

/// How one recipient gets a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Effective QoS: the lower of the message's and the subscription's.
    pub qos: QoS,
    /// RETAIN flag to send.
    pub retain: bool,
    /// Identifiers of the matching subscriptions.
    pub subscription_ids: SubscriptionIdList,
}

/// Subscription identifiers of a delivery, in order; empty costs nothing on the heap.
pub type SubscriptionIdList = Box<[u32]>;

/// What a claim counts for in a batch: what is loaded for one is answered together with the batch.
const CLAIM_BYTES: usize = 128 << 10;

/// What a PUBLISH does to the retained message of its topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetainChange {
    /// Nothing.
    None,
    /// The message becomes the retained message of its topic.
    Set,
    /// The retained message of the topic is removed.
    Clear,
}

/// A request of a core.
#[derive(Clone, Debug)]
pub enum Command {
    /// Creates a session or replaces its record. Answered by `Done`.
    PutSession {
        /// Handed back.
        token: Token,
        /// Which session.
        session: SessionId,
        /// Its record.
        record: Box<SessionRecord>,
    },
    /// Removes a session with its subscriptions, mailbox and packet identifiers. Answered by `SessionDeleted`.
    DeleteSession {
        /// Handed back.
        token: Token,
        /// Which session; one that does not exist is deleted trivially.
        session: SessionId,
    },
    /// Adds or replaces a subscription. Answered by `Done`.
    Subscribe {
        /// Handed back.
        token: Token,
        /// Whose.
        session: SessionId,
        /// The whole filter as the client wrote it, `$share/…` included.
        filter: Box<str>,
        /// Its options.
        record: SubscriptionRecord,
    },
    /// Removes a subscription. Answered by `Done`.
    Unsubscribe {
        /// Handed back.
        token: Token,
        /// Whose.
        session: SessionId,
        /// The whole filter.
        filter: Box<str>,
    },
    /// In one atomic step: appends the message to mailboxes, records the packet identifier of a QoS 2 publisher as
    /// received, and changes the retained message. Answered by `Published`, and by `Appended` to each home.
    Publish {
        /// Handed back.
        token: Token,
        /// The message.
        message: Arc<Message>,
        /// What it is known by, if it may be sent again: mailboxes remember it for a while.
        id: MessageId,
        /// True when it may have been stored before: a mailbox that knows its id does not take it again.
        retry: bool,
        /// The mailboxes.
        appends: Vec<Append>,
        /// The durable QoS 2 publisher and its packet identifier.
        received: Option<(SessionId, u16)>,
        /// What happens to the retained message.
        retain: RetainChange,
    },
    /// Records what the message of a QoS 2 publisher's packet identifier is known by, unless that is recorded already. Answered by
    /// `Received`. For a publisher whose messages are stored by other nodes.
    Receive {
        /// Handed back.
        token: Token,
        /// The publisher.
        session: SessionId,
        /// Its packet identifier, and what its message is to be known by.
        received: ReceivedId,
    },
    /// Forgets a received QoS 2 packet identifier (PUBREL). Answered by `Done`.
    Release {
        /// Handed back.
        token: Token,
        /// The publisher.
        session: SessionId,
        /// Its packet identifier.
        packet_id: u16,
    },
    /// A recipient has the message for good (PUBACK, PUBCOMP), or it expired: removes it from the mailbox. Not answered,
    /// and alone no reason to sync.
    Ack {
        /// The recipient.
        session: SessionId,
        /// Which message.
        sequence: u64,
    },
    /// A recipient sent PUBREC: from now on only PUBREL may be sent for this message, so its body can go. Answered by `Done`.
    PubRec {
        /// Handed back.
        token: Token,
        /// The recipient.
        session: SessionId,
        /// Which message.
        sequence: u64,
    },
    /// Reads messages of a mailbox in order. Answered by `MailboxPage`. Needs no sync.
    ReadMailbox {
        /// Handed back.
        token: Token,
        /// Whose.
        session: SessionId,
        /// First sequence to read.
        from: u64,
        /// At most so many messages.
        messages_max: u32,
        /// At most so many bytes, by [`Message::queued_bytes`]; the first message is read whatever its size.
        bytes_max: u32,
    },
    /// Lists the subscriptions of a session. Answered by `Subscriptions`. Needs no sync.
    ListSubscriptions {
        /// Handed back.
        token: Token,
        /// Whose.
        session: SessionId,
    },
    /// In one atomic step: takes the oldest messages out of one mailbox and appends them to another, as many as it has room
    /// for: nothing is evicted for them, what does not fit stays. Expired ones move like any other: whether a message has
    /// expired is not known without reading it. Stops at one that has had its PUBREC. Answered by an `Appended` for each to
    /// the home of the other mailbox, and then by `Moved`.
    Move {
        /// Handed back.
        token: Token,
        /// Whose mailbox gives.
        from: SessionId,
        /// Whose mailbox takes; nothing moves when it does not exist, or is the one that gives.
        to: SessionId,
        /// The core of the home of `to`.
        home: u16,
        /// The subscription that they are delivered for.
        record: SubscriptionRecord,
        /// At most so many messages.
        messages_max: u32,
        /// At most so many bytes, by [`Message::queued_bytes`]; the first message moves whatever its size.
        bytes_max: u32,
    },
    /// Makes this node the one writer of a partition, and reads what is stored there. Answered by `Loaded`, as often as it takes,
    /// and then by `Claimed`. A store of one node knows no claims: `Deposed`.
    Claim {
        /// Handed back.
        token: Token,
        /// Which partition.
        partition: u16,
        /// Epoch of the view that says so; a claim of an older one is lost.
        epoch: u64,
    },
}

impl Command {
    /// What names its answer; none for an acknowledgement, which has none.
    pub const fn token(&self) -> Option<Token> {
        match self {
            Self::Ack { .. } => None,
            Self::PutSession { token, .. }
            | Self::DeleteSession { token, .. }
            | Self::Subscribe { token, .. }
            | Self::Unsubscribe { token, .. }
            | Self::Publish { token, .. }
            | Self::Receive { token, .. }
            | Self::Release { token, .. }
            | Self::PubRec { token, .. }
            | Self::ReadMailbox { token, .. }
            | Self::ListSubscriptions { token, .. }
            | Self::Move { token, .. }
            | Self::Claim { token, .. } => Some(*token),
        }
    }

    /// True when its answer promises that something is durable; the others are no reason to sync.
    pub const fn promises(&self) -> bool {
        !matches!(
            self,
            Self::Ack { .. } | Self::ReadMailbox { .. } | Self::ListSubscriptions { .. }
        )
    }

    /// Bytes that it brings into a batch: what it keeps in memory, and what it moves on the disk.
    pub fn batch_bytes(&self) -> usize {
        match self {
            Self::Move { bytes_max, .. } => *bytes_max as usize,
            Self::Claim { .. } => CLAIM_BYTES,
            _ => self.bytes(),
        }
    }

    /// Bytes that it keeps in memory: the message and the list of its recipients.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Publish {
                message, appends, ..
            } => {
                let ids = |append: &Append| size_of_val(&*append.delivery.subscription_ids);
                message.queued_bytes()
                    + size_of_val(appends.as_slice())
                    + appends.iter().map(ids).sum::<usize>()
            }
            Self::PutSession { record, .. } => record
                .will
                .as_ref()
                .map_or(0, |will| will.message.queued_bytes()),
            _ => 0,
        }
    }
}

/// One message read from a mailbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MailboxEntry {
    /// Its sequence: rises by one with each append to this mailbox, and by any number with the first append after the
    /// mailbox was empty or the store was opened. No sequence of a mailbox is ever used twice.
    pub sequence: u64,
    /// The message, or `None` after its PUBREC.
    pub content: Option<(Arc<Message>, Delivery)>,
}

/// A message that made room for a newer one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Evicted {
    /// Its place in the mailbox.
    pub sequence: u64,
    /// Its bytes, by [`Message::queued_bytes`].
    pub bytes: u32,
}

/// An answer of the engine to one core.
#[derive(Clone, Debug)]
pub enum Completion {
    /// The command is committed.
    Done {
        /// Of the command.
        token: Token,
    },
    /// To the core that sent `Publish`: everything in it is committed.
    Published {
        /// Of the command.
        token: Token,
        /// Mailboxes that did not take the message because they are full (policy `reject`).
        rejected: u32,
    },
    /// To the home of a mailbox: a message was appended and is committed.
    Appended {
        /// Whose mailbox.
        session: SessionId,
        /// Its sequence.
        sequence: u64,
        /// The message.
        message: Arc<Message>,
        /// How to deliver it.
        delivery: Delivery,
        /// The oldest messages, which were dropped to make room (policy `drop_oldest`), oldest first. Entries after their
        /// PUBREC are never among them. The engine does not know what was sent: if one of these is in flight, its home goes
        /// on as if it had been acknowledged already.
        evicted: Vec<Evicted>,
    },
    /// To the home of a mailbox: a message was not appended because the mailbox is full (policy `reject`).
    Rejected {
        /// Whose mailbox.
        session: SessionId,
    },
    /// Answer to `ReadMailbox`.
    MailboxPage {
        /// Of the command.
        token: Token,
        /// Whose.
        session: SessionId,
        /// In sequence order.
        entries: Vec<MailboxEntry>,
        /// True exactly when no entry follows the last one at the time of reading.
        end: bool,
    },
    /// Answer to `DeleteSession`.
    SessionDeleted {
        /// Of the command.
        token: Token,
        /// Which session.
        session: SessionId,
        /// The filters it had, so that the owners can forget them.
        filters: Vec<Box<str>>,
        /// Messages that were in its mailbox.
        dropped: u64,
    },
    /// Answer to `ListSubscriptions`.
    Subscriptions {
        /// Of the command.
        token: Token,
        /// Whose.
        session: SessionId,
        /// The whole filters, in their order.
        filters: Vec<Box<str>>,
    },
    /// Answer to `Receive`.
    Received {
        /// Of the command.
        token: Token,
        /// The publisher.
        session: SessionId,
        /// What is recorded: other than what was sent when the packet identifier was known.
        received: ReceivedId,
    },
    /// In answer to `Claim`, before `Claimed`: what is stored in the partition. A session comes before its subscriptions.
    Loaded {
        /// Of the command.
        token: Token,
        /// Some of it.
        items: Vec<Restored>,
    },
    /// Answer to `Claim`.
    Claimed {
        /// Of the command.
        token: Token,
        /// Which partition.
        partition: u16,
        /// Whose it is now.
        outcome: ClaimOutcome,
    },
    /// Answer to any command in place of its own: it concerns a partition that another node has claimed since, or that this one
    /// never has, and there it changed nothing. What else it says, in partitions of this node, is done.
    Deposed {
        /// Of the command.
        token: Token,
    },
    /// Answer to `Move`.
    Moved {
        /// Of the command.
        token: Token,
        /// The mailbox that gave.
        from: SessionId,
        /// How many messages left it.
        messages: u32,
    },
}

/// What the store holds when it is opened, one item at a time; a session comes before its subscriptions.
#[derive(Clone, Debug)]
pub enum Restored {
    /// A session.
    Session {
        /// Its id.
        session: SessionId,
        /// Its record.
        record: SessionRecord,
        /// Its mailbox.
        mailbox: MailboxSummary,
        /// QoS 2 packet identifiers received and not released.
        received: Vec<ReceivedId>,
    },
    /// A subscription of a session.
    Subscription {
        /// Whose.
        session: SessionId,
        /// The whole filter.
        filter: Box<str>,
        /// Its options.
        record: SubscriptionRecord,
    },
    /// Of a claimed partition: a durable subscription, whosever, to a filter with a root there.
    Route {
        /// Whose.
        session: SessionId,
        /// Partition of its home.
        home: u16,
        /// The whole filter.
        filter: Box<str>,
        /// Its options.
        record: SubscriptionRecord,
    },
    /// A retained message; expired ones are left out.
    Retained {
        /// The message.
        message: Arc<Message>,
    },
}

/// A mailbox in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MailboxSummary {
    /// Messages in it, those that wait for PUBCOMP included.
    pub messages: u64,
    /// Bytes in it, by [`Message::queued_bytes`].
    pub bytes: u64,
    /// Sequence of the oldest message, 0 when empty.
    pub head: u64,
    /// Sequence that the next message gets; while the mailbox is empty, the lowest that it can get. Never 0.
    pub next: u64,
}

/// Why the store does not work, whose fault it is, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// Another process has the store open.
    #[error(
        "the store {path} is in use by another process; stop it, or set `engine.path` to another folder"
    )]
    InUse {
        /// The store.
        path: String,
    },
    /// What is on disk is not a valid store. Nothing was changed.
    #[error(
        "the store {path} is damaged: {detail}. Nothing was changed. Restore it from a backup, or move it away to start empty"
    )]
    Damaged {
        /// The store.
        path: String,
        /// What was found.
        detail: String,
    },
    /// The store was written by a newer release.
    #[error(
        "the store {path} has format {found}, this release reads up to {supported}; run the release that wrote it"
    )]
    Format {
        /// The store.
        path: String,
        /// Its format.
        found: u32,
        /// The newest known format.
        supported: u32,
    },
    /// The folder of the store cannot be made, read or written.
    #[error(
        "cannot open the store {path}: {source}; check that the folder can exist and that this user may write to it"
    )]
    Open {
        /// The store.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// No space is left; the batch is kept and tried again.
    #[error(
        "no space left for the store {path}; free some space: acknowledgements wait until then"
    )]
    Full {
        /// The store.
        path: String,
    },
    /// The disk or file system failed; the batch is kept and tried again.
    #[error("I/O error on the store {path}: {source}; acknowledgements wait until it works again")]
    Io {
        /// The store.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A server of the store does not do what it is asked; the batch is kept and tried again.
    #[error("the store does not work: {detail}; acknowledgements wait until it does")]
    Server {
        /// Which, and why.
        detail: String,
    },
}

/// Limits of a mailbox.
#[derive(Clone, Copy, Debug)]
pub struct MailboxLimits {
    /// Messages in one mailbox.
    pub messages_max: u64,
    /// Bytes in one mailbox.
    pub bytes_max: u64,
    /// What happens to a message beyond a limit.
    pub when_full: WhenFull,
}

/// What a full mailbox does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    /// Drops its oldest messages that have not reached PUBREC; refuses the new message if even that makes no room.
    DropOldest,
    /// Refuses the new message. Expired messages count until their home acknowledges them: a home that hears of a
    /// rejection may read the mailbox from its head to find some.
    Reject,
}

/// A store: the embedded one of a node alone, the one on servers that nodes share, and one in memory that the tests compare both with.
pub trait Engine {
    /// Counts the starts of this store, this one included; at least 1.
    fn boot_count(&self) -> u32;

    /// Hands out everything that is stored. Called once, before the first commit.
    ///
    /// # Errors
    /// [`EngineError::Damaged`] or [`EngineError::Io`]; nothing is skipped silently.
    fn restore(&mut self, sink: &mut dyn FnMut(Restored)) -> Result<(), EngineError>;

    /// Applies a batch atomically, in order, and durably if it holds anything that is answered. Appends the completions,
    /// each with the core it goes to, in the order of their effects. `commands` pairs each command with its core.
    ///
    /// # Errors
    /// [`EngineError::Full`] or [`EngineError::Io`]: nothing is answered and `completions` is as it was; call again with
    /// the same batch and number, which is applied once even if the failed call did reach the disk.
    fn commit(
        &mut self,
        batch: u64,
        unix_ms: u64,
        commands: &[(u16, Command)],
        completions: &mut Vec<(u16, Completion)>,
    ) -> Result<(), EngineError>;

    /// Makes everything durable that was applied without a sync: acknowledgements alone, and every batch under
    /// [`Durability::Relaxed`]. Does nothing when there is no such thing.
    ///
    /// # Errors
    /// [`EngineError::Full`] or [`EngineError::Io`]: nothing is lost in memory, call again.
    fn sync(&mut self) -> Result<(), EngineError>;

    /// Bytes that the store takes on its disk now.
    fn disk_bytes(&self) -> u64;
}

/// When a commit reaches the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Before anything in it is answered.
    Sync,
    /// At the next [`Engine::sync`], which the engine thread calls at its interval: a loss of power may take away what
    /// was acknowledged since; a crash of the process too, where the store says so.
    Relaxed,
}
