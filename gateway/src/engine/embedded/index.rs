//! What memory knows of the store: which sessions exist, and where the messages of each mailbox stand.
//!
//! The messages themselves are on disk only. A session without messages costs one slot of a hash table (17 bytes and its
//! load factor), a waiting message 24 bytes.

use std::collections::VecDeque;

use hashbrown::HashMap;

use crate::engine::{Evicted, MailboxLimits, MailboxSummary, WhenFull};
use crate::message::SessionId;

/// Keys are numbers that this store or its node made: nobody outside chooses them, so the hash needs no secret.
type Map<K, V> = HashMap<K, V, foldhash::fast::FixedState>;

/// All sessions, and where their messages are.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Index {
    /// The mailbox is `None` exactly while it is empty.
    pub(super) sessions: Map<SessionId, Option<Box<Mailbox>>>,
    /// How many entries share the body at a position.
    references: Map<u64, u32>,
    /// No sequence that was ever used in any mailbox reaches this: an empty mailbox continues here.
    pub(super) sequence_floor: u64,
    /// Where the next record of the log goes.
    pub(super) next_position: u64,
}

/// A mailbox that is not empty.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Mailbox {
    /// By rising sequence, and so by rising position.
    slots: VecDeque<Slot>,
    bytes: u64,
    next: u64,
}

/// One entry of a mailbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) sequence: u64,
    /// Key in the log.
    pub(super) position: u64,
    /// Cost of its message; 0 exactly when it went with the PUBREC.
    pub(super) bytes: u32,
    /// How far before `position` the shared body stands; 0 = the body is in the record itself.
    pub(super) body_distance: u32,
}

const _: () =
    assert!(size_of::<Slot>() == 24 && size_of::<(SessionId, Option<Box<Mailbox>>)>() == 16);

impl Slot {
    /// Where the body is.
    pub(super) fn body_position(self) -> u64 {
        self.position - u64::from(self.body_distance)
    }
}

impl Mailbox {
    /// Slots from this sequence on.
    pub(super) fn slots_from(&self, sequence: u64) -> impl ExactSizeIterator<Item = &Slot> {
        let from = self.slots.partition_point(|slot| slot.sequence < sequence);
        self.slots.range(from..)
    }

    /// The entries that have to go for a message of `bytes` to fit, oldest first; `None` when it cannot fit.
    pub(super) fn room_for(&self, bytes: u32, limits: MailboxLimits) -> Option<Vec<Evicted>> {
        let mut messages_after = self.slots.len() as u64 + 1;
        let mut bytes_after = self.bytes + u64::from(bytes);
        let mut evicted = Vec::new();
        let mut candidates = self.slots.iter().filter(|slot| slot.bytes > 0);
        while messages_after > limits.messages_max || bytes_after > limits.bytes_max {
            if limits.when_full == WhenFull::Reject {
                return None;
            }
            let slot = candidates.next()?;
            messages_after -= 1;
            bytes_after -= u64::from(slot.bytes);
            evicted.push(Evicted {
                sequence: slot.sequence,
                bytes: slot.bytes,
            });
        }
        Some(evicted)
    }
}

impl Index {
    /// Nothing, ready to be filled from the log.
    pub(super) fn new() -> Self {
        Self {
            sequence_floor: 1,
            next_position: 1,
            ..Self::default()
        }
    }

    pub(super) fn mailbox(&self, session: SessionId) -> Option<&Mailbox> {
        self.sessions.get(&session)?.as_deref()
    }

    /// Sequences below this were used before the store was opened, by whichever mailbox: all go on from here.
    pub(super) fn skip_sequences(&mut self, floor: u64) {
        self.sequence_floor = self.sequence_floor.max(floor);
        for mailbox in self.sessions.values_mut().flatten() {
            mailbox.next = mailbox.next.max(floor);
        }
    }

    /// True when the mailbox of a session that exists takes a message of `bytes` and nothing has to go for it.
    pub(super) fn has_room(&self, session: SessionId, bytes: u32, limits: MailboxLimits) -> bool {
        let (messages, held) = match self.sessions.get(&session) {
            Some(Some(mailbox)) => (mailbox.slots.len() as u64, mailbox.bytes),
            Some(None) => (0, 0),
            None => return false,
        };
        messages < limits.messages_max && held + u64::from(bytes) <= limits.bytes_max
    }

    /// The oldest entry of a mailbox.
    pub(super) fn oldest(&self, session: SessionId) -> Option<Slot> {
        self.mailbox(session)?.slots.front().copied()
    }

    /// Takes the next position in the log.
    pub(super) fn claim_position(&mut self) -> u64 {
        self.next_position += 1;
        self.next_position - 1
    }

    /// Sequence of the next message of this mailbox.
    pub(super) fn next_sequence(&self, session: SessionId) -> u64 {
        self.mailbox(session)
            .map_or(self.sequence_floor, |mailbox| mailbox.next)
    }

    /// Adds an entry to the mailbox of a session that exists. False, and nothing is done, when its sequence does not
    /// follow the ones before.
    pub(super) fn push(&mut self, session: SessionId, slot: Slot) -> bool {
        let mailbox = self
            .sessions
            .entry(session)
            .or_default()
            .get_or_insert_default();
        if slot.sequence < mailbox.next {
            return false;
        }
        mailbox.slots.push_back(slot);
        mailbox.bytes += u64::from(slot.bytes);
        mailbox.next = slot.sequence + 1;
        self.sequence_floor = self.sequence_floor.max(mailbox.next);
        if slot.body_distance > 0 {
            self.hold(slot.body_position());
        }
        true
    }

    /// Removes an entry. Returns it, and whether its body has no other entry any more.
    pub(super) fn remove(&mut self, session: SessionId, sequence: u64) -> Option<(Slot, bool)> {
        let entry = self.sessions.get_mut(&session)?;
        let mailbox = entry.as_mut()?;
        let index = mailbox
            .slots
            .binary_search_by_key(&sequence, |slot| slot.sequence)
            .ok()?;
        let slot = mailbox.slots.remove(index)?;
        mailbox.bytes -= u64::from(slot.bytes);
        if mailbox.slots.is_empty() {
            *entry = None;
        }
        let is_last = self.drop_reference(slot);
        Some((slot, is_last))
    }

    /// Takes the message away from an entry and leaves the entry. Returns what it was, and whether its body has no other
    /// entry any more; `None` when there is no message.
    pub(super) fn release(&mut self, session: SessionId, sequence: u64) -> Option<(Slot, bool)> {
        let mailbox = self.sessions.get_mut(&session)?.as_mut()?;
        let index = mailbox
            .slots
            .binary_search_by_key(&sequence, |slot| slot.sequence)
            .ok()?;
        let slot = &mut mailbox.slots[index];
        if slot.bytes == 0 {
            return None;
        }
        let before = *slot;
        slot.bytes = 0;
        slot.body_distance = 0;
        mailbox.bytes -= u64::from(before.bytes);
        let is_last = self.drop_reference(before);
        Some((before, is_last))
    }

    /// Removes a session. Returns its entries, each with whether its body has no other entry any more.
    pub(super) fn delete(&mut self, session: SessionId) -> Option<Vec<(Slot, bool)>> {
        let mailbox = self.sessions.remove(&session)?;
        let slots = mailbox.map_or_else(VecDeque::new, |mailbox| mailbox.slots);
        Some(
            slots
                .into_iter()
                .map(|slot| (slot, self.drop_reference(slot)))
                .collect(),
        )
    }

    pub(super) fn summary(&self, session: SessionId) -> MailboxSummary {
        let Some(mailbox) = self.mailbox(session) else {
            return MailboxSummary {
                next: self.sequence_floor,
                ..MailboxSummary::default()
            };
        };
        MailboxSummary {
            messages: mailbox.slots.len() as u64,
            bytes: mailbox.bytes,
            head: mailbox.slots.front().map_or(0, |slot| slot.sequence),
            next: mailbox.next,
        }
    }

    /// True when entries share the body at this position.
    pub(super) fn is_referenced(&self, body_position: u64) -> bool {
        self.references.contains_key(&body_position)
    }

    /// True when the slot was the last one to share its body.
    fn drop_reference(&mut self, slot: Slot) -> bool {
        slot.body_distance > 0 && self.let_go(slot.body_position())
    }

    /// Counts a reference to a body that no entry has yet, so that it stays while entries come and go.
    pub(super) fn hold(&mut self, body_position: u64) {
        *self.references.entry(body_position).or_default() += 1;
    }

    /// Ends one reference to a body. True when it was the last one.
    pub(super) fn let_go(&mut self, body_position: u64) -> bool {
        let count = self
            .references
            .get_mut(&body_position)
            .expect("a shared body is counted");
        *count -= 1;
        let is_last = *count == 0;
        if is_last {
            self.references.remove(&body_position);
        }
        is_last
    }
}
