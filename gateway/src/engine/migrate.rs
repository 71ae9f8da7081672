//! Moves what a node's own store holds into a store that nodes share. The source is read and stays as it is.

use foldhash::fast::FixedState;
use hashbrown::HashMap;

use crate::engine::embedded::Embedded;
use crate::engine::redis::import::{Import, ImportError};
use crate::engine::redis::options::RedisOptions;
use crate::engine::{
    Command, Completion, Engine as _, EngineError, Restored, SubscriptionRecord, Token,
};
use crate::message::{Message, SessionId};

/// Messages of one mailbox that are read at once, in number and bytes.
const PAGE_MESSAGES: u32 = 4_096;
const PAGE_BYTES: u32 = 1 << 20;

/// What there is to move, or was moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Sessions of clients.
    pub sessions: u64,
    /// Their subscriptions.
    pub subscriptions: u64,
    /// QoS 2 packet identifiers that publishers have not released.
    pub received: u64,
    /// Queues of shared subscriptions.
    pub queues: u64,
    /// Messages in mailboxes and queues, those that wait for PUBCOMP included.
    pub messages: u64,
    /// Retained messages.
    pub retained: u64,
}

/// Why a store was not moved.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// The store that is read.
    #[error(transparent)]
    Source(#[from] EngineError),
    /// The store that is written.
    #[error(transparent)]
    Target(#[from] ImportError),
    /// A mailbox has other messages than its store says.
    #[error(
        "the mailbox of session {session:016x} has {found} messages, and the store says {wanted}: the store is damaged; restore it from a backup"
    )]
    Mailbox {
        /// Its id.
        session: u64,
        /// As the store says.
        wanted: u64,
        /// As was read.
        found: u64,
    },
}

/// What the source holds, apart from messages in mailboxes.
#[derive(Default)]
struct Content {
    sessions: Vec<Restored>,
    subscriptions: HashMap<SessionId, Vec<(Box<str>, SubscriptionRecord)>, FixedState>,
    retained: Vec<std::sync::Arc<Message>>,
    totals: Totals,
    /// Of all but what depends on the time: the same for the same content.
    fingerprint: u64,
}

impl Content {
    fn take(&mut self, item: Restored) {
        match item {
            Restored::Session {
                session,
                ref record,
                mailbox,
                ref received,
            } => {
                let is_queue = session.is_group_queue();
                self.totals.sessions += u64::from(!is_queue);
                self.totals.queues += u64::from(is_queue);
                self.totals.received += received.len() as u64;
                self.totals.messages += mailbox.messages;
                // The number that the next message gets is another one at each start.
                let numbers = (mailbox.messages, mailbox.bytes, mailbox.head);
                self.note(&format!("{session:?} {record:?} {numbers:?} {received:?}"));
                self.sessions.push(item);
            }
            Restored::Subscription {
                session,
                filter,
                record,
            } => {
                self.totals.subscriptions += 1;
                self.note(&format!("{session:?} {filter} {record:?}"));
                self.subscriptions
                    .entry(session)
                    .or_default()
                    .push((filter, record));
            }
            Restored::Retained { message } => {
                self.totals.retained += 1;
                self.retained.push(message);
            }
            Restored::Route { .. } => {} // Of a store that nodes share.
        }
    }

    /// FNV-1a, item by item, in any order.
    fn note(&mut self, text: &str) {
        let hash = text.bytes().fold(0xCBF2_9CE4_8422_2325u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
        });
        self.fingerprint = self.fingerprint.wrapping_add(hash);
    }
}

/// Moves everything. `progress` hears of what was moved so far, and what there is, after each session.
///
/// # Errors
/// See [`MigrateError`]. What was moved until then stays there; with `resume` it is gone on with.
pub fn migrate(
    source: &mut Embedded,
    target: RedisOptions,
    resume: bool,
    progress: &mut dyn FnMut(&Totals, &Totals),
) -> Result<Totals, MigrateError> {
    let mut content = Content::default();
    source.restore(&mut |item| content.take(item))?;
    let mut import = Import::begin(target, content.fingerprint, resume)?;
    let mut moved = Totals::default();
    progress(&moved, &content.totals);
    for (batch, item) in (1..).zip(&content.sessions) {
        let Restored::Session {
            session,
            record,
            mailbox,
            received,
        } = item
        else {
            continue;
        };
        import.session(*session, record, *mailbox, received)?;
        for (filter, record) in content.subscriptions.get(session).into_iter().flatten() {
            import.subscription(filter, *record)?;
            moved.subscriptions += 1;
        }
        let found = move_mailbox(source, &mut import, *session, batch << 32)?;
        if found != mailbox.messages {
            return Err(MigrateError::Mailbox {
                session: session.0,
                wanted: mailbox.messages,
                found,
            });
        }
        moved.messages += found;
        moved.received += received.len() as u64;
        moved.sessions += u64::from(!session.is_group_queue());
        moved.queues += u64::from(session.is_group_queue());
        progress(&moved, &content.totals);
    }
    for message in &content.retained {
        import.retained(message)?;
        moved.retained += 1;
        progress(&moved, &content.totals);
    }
    import.finish()?;
    Ok(moved)
}

/// Moves the messages of a session; how many there were. Batches are numbered from `batch` on.
fn move_mailbox(
    source: &mut Embedded,
    import: &mut Import,
    session: SessionId,
    mut batch: u64,
) -> Result<u64, MigrateError> {
    let (mut from, mut count) = (0, 0);
    loop {
        batch += 1;
        let read = Command::ReadMailbox {
            token: Token(0),
            session,
            from,
            messages_max: PAGE_MESSAGES,
            bytes_max: PAGE_BYTES,
        };
        let mut answers = Vec::new();
        source.commit(batch, 0, &[(0, read)], &mut answers)?;
        let Some((_, Completion::MailboxPage { entries, end, .. })) = answers.pop() else {
            return Ok(count);
        };
        import.messages(&entries)?;
        count += entries.len() as u64;
        match entries.last() {
            Some(last) if !end => from = last.sequence + 1,
            _ => return Ok(count),
        }
    }
}
