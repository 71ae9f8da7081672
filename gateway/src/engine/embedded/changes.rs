//! The difference between memory and disk: what the next transaction writes.
//!
//! Every change is absolute (this key has this value, or none), so applying a set of changes twice is applying it once.
//! That is what makes a commit whose outcome is unknown safe to repeat.

use std::collections::BTreeMap;

use redb::{Database, TableDefinition};

use crate::message::SessionId;

/// Messages by position in the order of arrival. Appending writes at one end; a table by mailbox would touch a page per
/// message.
pub(super) const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");
pub(super) const SESSIONS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("sessions");
/// By session and whole filter.
pub(super) const SUBSCRIPTIONS: TableDefinition<'_, (u64, &str), &[u8]> =
    TableDefinition::new("subscriptions");
/// QoS 2 packet identifiers by session.
pub(super) const RECEIVED: TableDefinition<'_, (u64, u16), ()> = TableDefinition::new("received");
/// By topic.
pub(super) const RETAINED: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("retained");
pub(super) const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");

/// No sequence from this number on has been used.
pub(super) const META_SEQUENCES: &str = "sequences";

/// What memory holds and disk does not yet. `None` = the key goes.
#[derive(Debug, Default)]
pub(super) struct Changes {
    log: BTreeMap<u64, Option<Vec<u8>>>,
    sessions: BTreeMap<u64, Option<Vec<u8>>>,
    pub(super) subscriptions: BTreeMap<(u64, Box<str>), Option<[u8; 5]>>,
    pub(super) received: BTreeMap<(u64, u16), Option<()>>,
    retained: BTreeMap<Box<str>, Option<Vec<u8>>>,
    /// Bytes of the values above, those that were replaced since among them where it is not the log.
    bytes: usize,
    /// No position from here on has been offered to the disk.
    offered_below: u64,
    /// What the disk says about the sequences in use.
    sequences_below: u64,
}

/// What a transaction writes besides the changes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ends {
    /// The end of the log.
    pub(super) position: u64,
    /// The end of the sequences in use.
    pub(super) sequence: u64,
}

impl Changes {
    /// True when there is nothing to write.
    pub(super) fn is_empty(&self, ends: Ends) -> bool {
        self.keys() == 0 && !self.lacks_sequence(ends.sequence)
    }

    /// True when the disk does not know yet that sequences up to this one are in use.
    pub(super) fn lacks_sequence(&self, end: u64) -> bool {
        end > self.sequences_below
    }

    /// Changed keys.
    pub(super) fn keys(&self) -> usize {
        self.log.len()
            + self.sessions.len()
            + self.subscriptions.len()
            + self.received.len()
            + self.retained.len()
    }

    /// Bytes to be written, more or less.
    pub(super) fn bytes(&self) -> usize {
        self.bytes + self.keys() * 32
    }

    pub(super) fn put_log(&mut self, position: u64, record: Vec<u8>) {
        self.bytes += record.len();
        let before = self.log.insert(position, Some(record)).flatten();
        self.bytes -= before.map_or(0, |record| record.len());
    }

    pub(super) fn remove_log(&mut self, position: u64) {
        if position >= self.offered_below {
            // It never was on disk: there is nothing to write at all.
            let record = self.log.remove(&position).flatten();
            self.bytes -= record.map_or(0, |record| record.len());
        } else {
            let before = self.log.insert(position, None).flatten();
            self.bytes -= before.map_or(0, |record| record.len());
        }
    }

    /// The record at a position, if it is here and not only on disk.
    pub(super) fn log(&self, position: u64) -> Option<&[u8]> {
        self.log.get(&position)?.as_deref()
    }

    pub(super) fn put_session(&mut self, session: SessionId, record: Option<Vec<u8>>) {
        self.bytes += record.as_ref().map_or(0, Vec::len);
        self.sessions.insert(session.0, record);
    }

    pub(super) fn put_retained(&mut self, topic: &str, record: Option<Vec<u8>>) {
        self.bytes += record.as_ref().map_or(0, Vec::len);
        self.retained.insert(topic.into(), record);
    }

    /// What stands before this position in the log is on disk, or was there.
    pub(super) fn offer_below(&mut self, position: u64) {
        self.offered_below = position;
    }

    /// The disk says that no sequence from this one on has been used.
    pub(super) fn sequences_below(&mut self, floor: u64) {
        self.sequences_below = floor;
    }

    /// Everything is on disk now.
    pub(super) fn clear(&mut self) {
        *self = Self {
            offered_below: self.offered_below,
            sequences_below: self.sequences_below,
            ..Self::default()
        };
    }

    /// Writes everything in one transaction and returns when it is durable.
    pub(super) fn write(&mut self, database: &Database, ends: Ends) -> Result<(), redb::Error> {
        self.offered_below = ends.position;
        let mut transaction = database.begin_write()?;
        // With two phases a commit that was interrupted is known to be one, and what is found damaged later cannot be
        // mistaken for it.
        transaction.set_two_phase_commit(true);
        macro_rules! apply {
            ($changes:expr, $table:expr, |$key:ident| $borrowed:expr, |$value:ident| $stored:expr) => {
                if !$changes.is_empty() {
                    let mut table = transaction.open_table($table)?;
                    for ($key, change) in &$changes {
                        match change {
                            Some($value) => table.insert($borrowed, $stored)?,
                            None => table.remove($borrowed)?,
                        };
                    }
                }
            };
        }
        apply!(self.sessions, SESSIONS, |key| *key, |value| value
            .as_slice());
        apply!(
            self.subscriptions,
            SUBSCRIPTIONS,
            |key| (key.0, &*key.1),
            |value| value.as_slice()
        );
        apply!(self.received, RECEIVED, |key| *key, |value| *value);
        apply!(self.retained, RETAINED, |key| &**key, |value| value
            .as_slice());
        apply!(self.log, LOG, |key| *key, |value| value.as_slice());
        if self.lacks_sequence(ends.sequence) {
            let below = super::sequences_reserved(ends.sequence);
            transaction
                .open_table(META)?
                .insert(META_SEQUENCES, below)?;
            transaction.commit()?;
            self.sequences_below = below;
        } else {
            transaction.commit()?;
        }
        Ok(())
    }
}
