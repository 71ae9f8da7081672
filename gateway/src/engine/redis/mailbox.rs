//! What plans do to mailboxes: append, evict, acknowledge, read, move.

use std::sync::Arc;

use crate::engine::claim::MessageId;
use crate::engine::redis::mirror::{KNOWN_IDS_MS, Session, Slot};
use crate::engine::redis::plan::{Destination, Planner, Read};
use crate::engine::redis::records;
use crate::engine::{Append, Completion, Delivery, MailboxEntry, SubscriptionRecord, Token};
use crate::message::{Message, SessionId};

/// How long a mailbox remembers what moved into it: until then the move has to be finished, by whomever.
const MOVED_MS: u64 = 24 * KNOWN_IDS_MS;

impl Planner<'_> {
    /// Appends to the mailbox of a session that exists here. False when it refuses the message.
    pub(super) fn append(
        &mut self,
        message: &Arc<Message>,
        append: &Append,
        id: MessageId,
    ) -> bool {
        let Append {
            session,
            home,
            ref delivery,
        } = *append;
        let Some((partition, found)) = self.partition(session).zip(self.mirror.session(session))
        else {
            return true;
        };
        let bytes = cost(message);
        let Some(evicted) = found.room_for(bytes, self.limits) else {
            self.tell_home(home, Completion::Rejected { session }, partition);
            return false;
        };
        // Before the eviction, which may empty the mailbox: the numbers go on.
        let Some(slot) = self.push(partition, session, bytes) else {
            return true;
        };
        for old in &evicted {
            self.take(session, old.sequence);
        }
        self.store_entry(partition, session, slot, (message, delivery));
        if let Some((place, count)) = self.mirror.remember(session, id, self.unix_ms) {
            let key = self.keys.known(partition, session);
            let offset = (place * records::KNOWN_BYTES).to_string();
            let value = records::known(count, id);
            let script = self.first(partition);
            script.change("SETRANGE", &key, &[offset.as_bytes(), &value]);
            script.change("PEXPIRE", &key, &[KNOWN_IDS_MS.to_string().as_bytes()]);
        }
        let appended = Completion::Appended {
            session,
            sequence: slot.sequence,
            message: Arc::clone(message),
            delivery: delivery.clone(),
            evicted,
        };
        self.tell_home(home, appended, partition);
        true
    }

    /// Takes the next sequence of a mailbox.
    fn push(&mut self, partition: u16, session: SessionId, bytes: u32) -> Option<Slot> {
        let (sequence, reserve) = self.mirror.push(session, bytes)?;
        if let Some(reserve) = reserve {
            let key = self.keys.fence(partition);
            let value = reserve.to_string();
            self.first(partition)
                .change("HSET", &key, &[b"n", value.as_bytes()]);
        }
        Some(Slot { sequence, bytes })
    }

    fn store_entry(
        &mut self,
        partition: u16,
        session: SessionId,
        slot: Slot,
        (message, delivery): (&Arc<Message>, &Delivery),
    ) {
        let key = self.keys.mailbox(partition, session);
        let (field, value) = (records::field(slot), records::entry(message, delivery));
        self.first(partition)
            .change("HSET", &key, &[field.as_bytes(), &value]);
        let content = (Arc::clone(message), delivery.clone());
        self.plan.fresh.insert((session, slot.sequence), content);
    }

    /// Takes a message out of a mailbox.
    pub(super) fn take(&mut self, session: SessionId, sequence: u64) {
        if let Some(partition) = self.partition(session)
            && let Some(found) = self.mirror.session_mut(session)
            && let Some(slot) = found.take(sequence)
        {
            self.plan.fresh.remove(&(session, sequence));
            let key = self.keys.mailbox(partition, session);
            let field = records::field(slot);
            self.first(partition)
                .change("HDEL", &key, &[field.as_bytes()]);
        }
    }

    pub(super) fn release(&mut self, session: SessionId, sequence: u64) {
        if let Some(partition) = self.partition(session)
            && let Some(found) = self.mirror.session_mut(session)
            && let Some(before) = found.release(sequence)
        {
            self.plan.fresh.remove(&(session, sequence));
            let key = self.keys.mailbox(partition, session);
            let released = records::field(Slot { bytes: 0, ..before });
            let field = records::field(before);
            let script = self.first(partition);
            script.change("HSET", &key, &[released.as_bytes(), b""]);
            script.change("HDEL", &key, &[field.as_bytes()]);
        }
    }

    pub(super) fn read(
        &mut self,
        token: Token,
        session: SessionId,
        from: u64,
        (messages_max, bytes_max): (u32, u32),
    ) -> Completion {
        let (mut slots, mut bytes, mut end) = (Vec::new(), 0, true);
        let found = self.mirror.session(session);
        for slot in found.into_iter().flat_map(|found| found.slots_from(from)) {
            bytes += u64::from(slot.bytes);
            let is_over = slots.len() >= messages_max as usize || bytes > u64::from(bytes_max);
            if is_over && !slots.is_empty() {
                end = false;
                break;
            }
            slots.push(slot);
        }
        let answer = self.plan.answers.len();
        let mut entries = Vec::with_capacity(slots.len());
        for slot in slots {
            let content = self.plan.fresh.get(&(session, slot.sequence)).cloned();
            if content.is_none() && slot.bytes > 0 {
                let destination = Destination::Page {
                    answer,
                    entry: entries.len(),
                };
                self.read_later(session, slot, destination);
            }
            entries.push(MailboxEntry {
                sequence: slot.sequence,
                content,
            });
        }
        Completion::MailboxPage {
            token,
            session,
            entries,
            end,
        }
    }

    fn read_later(&mut self, session: SessionId, slot: Slot, destination: Destination) {
        if let Some(partition) = self.partition(session) {
            self.plan.reads.entry(partition).or_default().push(Read {
                session,
                slot,
                destination,
            });
        }
    }

    /// Returns how many messages moved.
    pub(super) fn move_all(
        &mut self,
        from: SessionId,
        (to, home): (SessionId, u16),
        record: SubscriptionRecord,
        (messages_max, bytes_max): (u32, u32),
    ) -> u32 {
        let (mut moved, mut bytes) = (0, 0);
        while from != to
            && moved < messages_max
            && let Some(slot) = self
                .mirror
                .session(from)
                .and_then(Session::oldest)
                .filter(|slot| slot.bytes > 0)
        {
            bytes += u64::from(slot.bytes);
            let target = self.mirror.session(to);
            let fits = target.is_some_and(|target| target.has_room(slot.bytes, self.limits));
            if !fits || (moved > 0 && bytes > u64::from(bytes_max)) {
                break;
            }
            if self.move_one((from, slot), (to, home), record).is_none() {
                break;
            }
            moved += 1;
        }
        moved
    }

    /// Marks the message where it is, appends it to the other mailbox, and only then takes it away: whoever loads the partition in
    /// between finds the mark, and at the other mailbox whether it has arrived.
    fn move_one(
        &mut self,
        (from, old): (SessionId, Slot),
        (to, home): (SessionId, u16),
        record: SubscriptionRecord,
    ) -> Option<()> {
        let (source, target) = (self.partition(from)?, self.partition(to)?);
        let slot = self.push(target, to, old.bytes)?;
        let fresh = self.plan.fresh.remove(&(from, old.sequence));
        let mark = format!("x{}", old.sequence).into_bytes();
        let key = self.keys.session(source, from);
        let towards = records::target(target, to);
        let script = if fresh.is_some() {
            self.first(source)
        } else {
            self.plan.marks.entry(source).or_default()
        };
        script.change("HSET", &key, &[&mark, towards.as_bytes()]);
        let origin = records::origin(from, old.sequence);
        let moved = self.keys.moved(target, to);
        let script = self.first(target);
        script.change("SADD", &moved, &[origin.as_bytes()]);
        script.change("PEXPIRE", &moved, &[MOVED_MS.to_string().as_bytes()]);
        let answer = self.plan.answers.len();
        let (message, delivery) = match fresh {
            Some((message, _)) => {
                let delivery = record.delivery(&message);
                self.store_entry(target, to, slot, (&message, &delivery));
                (message, delivery)
            }
            None => {
                let destination = Destination::Moved {
                    answer,
                    partition: target,
                    to,
                    slot,
                    record,
                };
                self.read_later(from, old, destination);
                self.plan.closed.insert(to);
                (Arc::clone(self.unread), record.delivery(self.unread))
            }
        };
        self.mirror.session_mut(from)?.take(old.sequence);
        let field = records::field(old).into_bytes();
        let mailbox = self.keys.mailbox(source, from);
        for (key, field) in [(mailbox, field), (key, mark)] {
            self.second(source, "HDEL", key, vec![field]);
            if let Some(change) = self.plan.second.last_mut() {
                change.needs = target;
            }
        }
        let appended = Completion::Appended {
            session: to,
            sequence: slot.sequence,
            message,
            delivery,
            evicted: Vec::new(),
        };
        self.tell_home(home, appended, target);
        Some(())
    }
}

/// What a message costs in a mailbox.
fn cost(message: &Message) -> u32 {
    u32::try_from(message.queued_bytes()).expect("an MQTT packet has at most 256 MiB")
}
