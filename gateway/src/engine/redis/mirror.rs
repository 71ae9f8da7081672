//! What memory knows of the partitions that this node writes: enough to decide everything, and no message.
//!
//! **Invariants**
//! - A session of a partition that this node has lost stays known as lost until the partition is claimed again: a command that names it
//!   is refused, and never taken for one about a session that was deleted.
//! - No sequence is used twice: numbers go on where the last writer of the partition may have ended.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use hashbrown::HashMap;

use crate::engine::claim::{KNOWN_IDS, MessageId};
use crate::engine::{Evicted, MailboxLimits, WhenFull};
use crate::message::SessionId;

/// Keys are numbers that nodes made: nobody outside chooses them, so the hash needs no secret.
pub(super) type Map<K, V> = HashMap<K, V, foldhash::fast::FixedState>;

/// How long ids of messages are remembered after the last one.
pub(super) const KNOWN_IDS_MS: u64 = 60 * 60 * 1_000;

/// Everything this node knows.
#[derive(Debug, Default)]
pub(super) struct Mirror {
    partitions: Map<u16, Partition>,
    /// Partition of each session that is known, lost ones too.
    homes: Map<SessionId, u16>,
    /// Sessions that the present pass deletes: should their partition be lost, they exist still.
    deleted: Vec<(u16, SessionId)>,
    /// When ids that are remembered can be looked at again for being old, in order.
    sweep: VecDeque<(u64, SessionId)>,
}

/// A partition that this node writes or has written.
#[derive(Debug, Default)]
pub(super) struct Partition {
    /// Epoch of the claim; `None` exactly when another node has claimed it since.
    pub(super) epoch: Option<u64>,
    /// No sequence that was ever used here reaches this: an empty mailbox continues here.
    floor: u64,
    /// The server has noted that sequences below this may be in use.
    reserved: u64,
    pub(super) sessions: Map<SessionId, Session>,
    /// Of a lost partition: the sessions it had.
    lost: Box<[SessionId]>,
}

/// A session.
#[derive(Debug, Default)]
pub(super) struct Session {
    pub(super) filters: BTreeSet<Box<str>>,
    pub(super) received: BTreeMap<u16, MessageId>,
    mailbox: Option<Box<Mailbox>>,
    known: Option<Box<Known>>,
}

#[derive(Debug, Default)]
struct Mailbox {
    /// By rising sequence.
    slots: VecDeque<Slot>,
    bytes: u64,
    next: u64,
}

/// One message of a mailbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) sequence: u64,
    /// Its cost; 0 exactly when its message went with the PUBREC.
    pub(super) bytes: u32,
}

/// The ids of the messages that came last.
#[derive(Debug, Default)]
struct Known {
    ids: VecDeque<MessageId>,
    /// How many there ever were: the next one's place in the ring.
    count: u32,
    last_unix_ms: u64,
}

/// Where a session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Nowhere that this node knows of.
    Unknown,
    /// In a partition that this node writes.
    Held(u16),
    /// In a partition that another node has claimed since.
    Lost(u16),
}

impl Mirror {
    pub(super) fn place(&self, session: SessionId) -> Place {
        match self.homes.get(&session) {
            None => Place::Unknown,
            Some(&partition) if self.holds(partition) => Place::Held(partition),
            Some(&partition) => Place::Lost(partition),
        }
    }

    /// True when this node writes the partition.
    pub(super) fn holds(&self, partition: u16) -> bool {
        self.epoch(partition).is_some()
    }

    /// The epoch of the claim on a partition that this node writes.
    pub(super) fn epoch(&self, partition: u16) -> Option<u64> {
        self.partitions.get(&partition)?.epoch
    }

    /// The number that the reserved sequences of a partition must reach.
    pub(super) fn reserved(&self, partition: u16) -> u64 {
        self.partitions
            .get(&partition)
            .map_or(1, |partition| partition.reserved)
    }

    /// This node writes the partition from now on, and this is what is in it.
    pub(super) fn hold(
        &mut self,
        number: u16,
        (epoch, reserved): (u64, u64),
        sessions: Map<SessionId, Session>,
    ) {
        let before = self.partitions.remove(&number).unwrap_or_default();
        for session in before.lost.iter().chain(before.sessions.keys()) {
            self.homes.remove(session);
        }
        for (&session, found) in &sessions {
            self.homes.insert(session, number);
            if let Some(known) = &found.known {
                self.sweep
                    .push_back((known.last_unix_ms + KNOWN_IDS_MS, session));
            }
        }
        let partition = Partition {
            epoch: Some(epoch),
            floor: reserved.max(before.floor),
            reserved,
            sessions,
            lost: Box::default(),
        };
        self.partitions.insert(number, partition);
    }

    /// Another node has claimed the partition.
    pub(super) fn lose(&mut self, number: u16) {
        if let Some(partition) = self.partitions.get_mut(&number)
            && partition.epoch.take().is_some()
        {
            let sessions = std::mem::take(&mut partition.sessions);
            let deleted = self.deleted.iter().filter(|(home, _)| *home == number);
            let deleted = deleted.map(|(_, session)| *session);
            partition.lost = sessions.into_keys().chain(deleted).collect();
            for session in &partition.lost {
                self.homes.insert(*session, number);
            }
        }
    }

    /// What the pass deleted is deleted.
    pub(super) fn settle(&mut self) {
        self.deleted.clear();
    }

    /// A session of a partition that this node writes.
    pub(super) fn session(&self, session: SessionId) -> Option<&Session> {
        let partition = self.partitions.get(self.homes.get(&session)?)?;
        partition.sessions.get(&session)
    }

    pub(super) fn session_mut(&mut self, session: SessionId) -> Option<&mut Session> {
        let partition = self.partitions.get_mut(self.homes.get(&session)?)?;
        partition.sessions.get_mut(&session)
    }

    /// A new session; the partition is one that this node writes.
    pub(super) fn add(&mut self, number: u16, session: SessionId) {
        if let Some(partition) = self.partitions.get_mut(&number) {
            partition.sessions.insert(session, Session::default());
            self.homes.insert(session, number);
        }
    }

    /// Deletes a session.
    pub(super) fn remove(&mut self, session: SessionId) -> Option<Session> {
        let number = self.homes.remove(&session)?;
        self.deleted.push((number, session));
        let partition = self.partitions.get_mut(&number)?;
        partition.sessions.remove(&session)
    }

    /// Takes the next sequence of a mailbox of a session that exists, for a message of so many bytes. Returns it, and the number that
    /// the server has to be told that sequences below it may be in use, if it has to be.
    pub(super) fn push(&mut self, session: SessionId, bytes: u32) -> Option<(u64, Option<u64>)> {
        let partition = self.partitions.get_mut(self.homes.get(&session)?)?;
        let mailbox = partition.sessions.get_mut(&session)?.mailbox.as_mut();
        let sequence = mailbox.map_or(partition.floor, |mailbox| mailbox.next);
        let next = sequence + 1;
        let mailbox = partition
            .sessions
            .get_mut(&session)?
            .mailbox
            .get_or_insert_default();
        mailbox.slots.push_back(Slot { sequence, bytes });
        mailbox.bytes += u64::from(bytes);
        mailbox.next = next;
        partition.floor = partition.floor.max(next);
        let reserve =
            (next > partition.reserved).then(|| crate::engine::embedded::sequences_reserved(next));
        partition.reserved = reserve.unwrap_or(partition.reserved);
        Some((sequence, reserve))
    }

    /// Remembers the id of a message that a mailbox took. Returns its place in the ring and its count.
    pub(super) fn remember(
        &mut self,
        session: SessionId,
        id: MessageId,
        unix_ms: u64,
    ) -> Option<(usize, u32)> {
        let found = self.session_mut(session).filter(|_| !id.is_none())?;
        let is_new = found.known.is_none();
        let known = found.known.get_or_insert_default();
        if known.ids.len() == KNOWN_IDS {
            known.ids.pop_front();
        }
        known.ids.push_back(id);
        let count = known.count;
        known.count = count.wrapping_add(1);
        known.last_unix_ms = unix_ms;
        if is_new {
            self.sweep.push_back((unix_ms + KNOWN_IDS_MS, session));
        }
        Some((count as usize % KNOWN_IDS, count))
    }

    /// Forgets ids that are old.
    pub(super) fn forget_old(&mut self, unix_ms: u64) {
        while let Some(&(at, session)) = self.sweep.front()
            && at <= unix_ms
        {
            self.sweep.pop_front();
            let Some(found) = self.session_mut(session) else {
                continue;
            };
            let until = found
                .known
                .as_ref()
                .map(|known| known.last_unix_ms + KNOWN_IDS_MS);
            match until {
                Some(until) if until > unix_ms => self.sweep.push_back((until, session)),
                _ => found.known = None,
            }
        }
    }
}

impl Session {
    /// As it was loaded. `floor` is where sequences go on; `known` are ids with their counts, oldest first.
    pub(super) fn loaded(
        filters: BTreeSet<Box<str>>,
        received: BTreeMap<u16, MessageId>,
        (slots, floor): (VecDeque<Slot>, u64),
        (known, unix_ms): (Vec<(u32, MessageId)>, u64),
    ) -> Self {
        let next = slots
            .back()
            .map_or(floor, |slot| floor.max(slot.sequence + 1));
        let mailbox = Mailbox {
            bytes: slots.iter().map(|slot| u64::from(slot.bytes)).sum(),
            slots,
            next,
        };
        let ids = Known {
            count: known.last().map_or(0, |(count, _)| count.wrapping_add(1)),
            ids: known.into_iter().map(|(_, id)| id).collect(),
            last_unix_ms: unix_ms,
        };
        Self {
            filters,
            received,
            mailbox: (!mailbox.slots.is_empty()).then(|| Box::new(mailbox)),
            known: (!ids.ids.is_empty()).then(|| Box::new(ids)),
        }
    }

    pub(super) fn knows(&self, id: MessageId) -> bool {
        self.known
            .as_ref()
            .is_some_and(|known| known.ids.contains(&id))
    }

    /// Sequence of the next message; `floor` is that of its partition.
    pub(super) fn next(&self, floor: u64) -> u64 {
        self.mailbox.as_ref().map_or(floor, |mailbox| mailbox.next)
    }

    pub(super) fn messages(&self) -> u64 {
        self.mailbox
            .as_ref()
            .map_or(0, |mailbox| mailbox.slots.len() as u64)
    }

    /// The oldest message.
    pub(super) fn oldest(&self) -> Option<Slot> {
        self.mailbox.as_ref()?.slots.front().copied()
    }

    /// Messages from this sequence on.
    pub(super) fn slots_from(&self, sequence: u64) -> impl Iterator<Item = Slot> {
        let slots = self.mailbox.as_ref().map(|mailbox| &mailbox.slots);
        slots.into_iter().flat_map(move |slots| {
            let from = slots.partition_point(|slot| slot.sequence < sequence);
            slots.range(from..).copied()
        })
    }

    /// True when a message of `bytes` fits and nothing has to go for it.
    pub(super) fn has_room(&self, bytes: u32, limits: MailboxLimits) -> bool {
        let held = self.mailbox.as_ref().map_or(0, |mailbox| mailbox.bytes);
        self.messages() < limits.messages_max && held + u64::from(bytes) <= limits.bytes_max
    }

    /// The messages that have to go for one of `bytes` to fit, oldest first; `None` when it cannot fit.
    pub(super) fn room_for(&self, bytes: u32, limits: MailboxLimits) -> Option<Vec<Evicted>> {
        let mut messages_after = self.messages() + 1;
        let held = self.mailbox.as_ref().map_or(0, |mailbox| mailbox.bytes);
        let mut bytes_after = held + u64::from(bytes);
        let mut evicted = Vec::new();
        let mut candidates = self.slots_from(0).filter(|slot| slot.bytes > 0);
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

    /// Takes a message out of the mailbox.
    pub(super) fn take(&mut self, sequence: u64) -> Option<Slot> {
        let mailbox = self.mailbox.as_mut()?;
        let index = mailbox
            .slots
            .binary_search_by_key(&sequence, |slot| slot.sequence)
            .ok()?;
        let slot = mailbox.slots.remove(index)?;
        mailbox.bytes -= u64::from(slot.bytes);
        if mailbox.slots.is_empty() {
            self.mailbox = None;
        }
        Some(slot)
    }

    /// Takes the message away and leaves its place. Returns what it was; `None` when there is no message.
    pub(super) fn release(&mut self, sequence: u64) -> Option<Slot> {
        let mailbox = self.mailbox.as_mut()?;
        let index = mailbox
            .slots
            .binary_search_by_key(&sequence, |slot| slot.sequence)
            .ok()?;
        let slot = &mut mailbox.slots[index];
        let before = *slot;
        if before.bytes == 0 {
            return None;
        }
        slot.bytes = 0;
        mailbox.bytes -= u64::from(before.bytes);
        Some(before)
    }
}
