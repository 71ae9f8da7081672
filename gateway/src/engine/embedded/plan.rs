//! What commands do to memory, and which changes and answers follow. Nothing here touches the disk, so nothing can fail.

use std::collections::BTreeMap;
use std::sync::Arc;

use edge_proto::packet::QoS;

use crate::engine::embedded::belongings::Belongings;
use crate::engine::embedded::changes::Changes;
use crate::engine::embedded::index::{Index, Slot};
use crate::engine::embedded::records::{self, LogRecord};
use crate::engine::{
    Append, Command, Completion, Delivery, MailboxEntry, MailboxLimits, RetainChange,
    SubscriptionRecord, Token,
};
use crate::message::{Message, MessageParts, SessionId};

/// Messages from this size on are stored once for all recipients of a publish; below, a copy costs less than the
/// reference and the second read.
const SHARED_BYTES_MIN: usize = 256;

/// A message of an answer that has to be read from the disk.
#[derive(Debug)]
pub(super) struct Fetch {
    /// Index of the page, or of the `Appended`, in the answers.
    pub(super) answer: usize,
    /// Index of the entry in the page.
    pub(super) entry: usize,
    /// Where the disk has it.
    pub(super) slot: Slot,
    /// The subscription it was moved for in this batch, if it was.
    pub(super) moved_for: Option<SubscriptionRecord>,
    /// Where it moved to: the record that is reserved there is to be written.
    pub(super) moved_to: Option<(SessionId, Slot)>,
}

impl Fetch {
    /// Puts what was read into its answer, and into the record that is reserved for it if that is still wanted.
    pub(super) fn complete(
        &self,
        (message, stored): (Arc<Message>, Delivery),
        answer: &mut Completion,
        changes: &mut Changes,
    ) {
        let found = match self.moved_for {
            Some(record) => record.delivery(&message),
            None => stored,
        };
        if let Some((session, slot)) = self.moved_to
            && changes.log(slot.position).is_some_and(<[u8]>::is_empty)
        {
            let inline = records::inline(session, slot.sequence, &found, &message);
            changes.put_log(slot.position, inline);
        }
        match answer {
            Completion::MailboxPage { entries, .. } => {
                entries[self.entry].content = Some((message, found));
            }
            Completion::Appended {
                message: unread,
                delivery,
                ..
            } => (*unread, *delivery) = (message, found),
            _ => unreachable!("only pages and moved messages are fetched"),
        }
    }
}

/// A message that stands for one that is still to be fetched.
pub(super) fn unread() -> Arc<Message> {
    Arc::new(Message::new(MessageParts {
        topic: "",
        properties: &[],
        payload: &[],
        qos: QoS::AtMostOnce,
        retain: false,
        expires_at_unix_ms: u64::MAX,
        publisher: SessionId(0),
    }))
}

/// Applies the commands of one batch to memory.
pub(super) struct Planner<'a> {
    pub(super) index: &'a mut Index,
    pub(super) changes: &'a mut Changes,
    pub(super) limits: MailboxLimits,
    /// Of the sessions that the batch deletes or lists, as the disk has them.
    pub(super) belongings: BTreeMap<SessionId, Belongings>,
    pub(super) answers: Vec<(u16, Completion)>,
    pub(super) fetches: Vec<Fetch>,
    /// Messages that this batch has moved without having read them, by the position they moved to: where the disk has them.
    pub(super) moved: BTreeMap<u64, (Slot, SubscriptionRecord)>,
    /// Stands for a message that is still to be fetched.
    pub(super) unread: Arc<Message>,
    /// True exactly when something was done whose answer promises that it is durable.
    pub(super) promises: bool,
}

impl Planner<'_> {
    #[expect(clippy::too_many_lines, reason = "one arm for each command")]
    pub(super) fn apply(&mut self, core: u16, command: &Command) {
        self.promises |= command.promises();
        match command {
            Command::PutSession {
                token,
                session,
                record,
            } => {
                self.index.sessions.entry(*session).or_default();
                self.changes
                    .put_session(*session, Some(records::session(record)));
                self.done(core, *token);
            }
            Command::DeleteSession { token, session } => self.delete(core, *token, *session),
            Command::Subscribe {
                token,
                session,
                filter,
                record,
            } => {
                if self.index.sessions.contains_key(session) {
                    let stored = Some(records::subscription(*record));
                    self.changes
                        .subscriptions
                        .insert((session.0, filter.clone()), stored);
                }
                self.done(core, *token);
            }
            Command::Unsubscribe {
                token,
                session,
                filter,
            } => {
                if self.index.sessions.contains_key(session) {
                    self.changes
                        .subscriptions
                        .insert((session.0, filter.clone()), None);
                }
                self.done(core, *token);
            }
            Command::Publish {
                token,
                message,
                appends,
                received,
                retain,
                ..
            } => {
                let rejected = self.append_all(message, appends);
                if let Some((session, packet_id)) = received
                    && self.index.sessions.contains_key(session)
                {
                    self.changes
                        .received
                        .insert((session.0, *packet_id), Some(()));
                }
                self.retain(message, *retain);
                self.answers.push((
                    core,
                    Completion::Published {
                        token: *token,
                        rejected,
                    },
                ));
            }
            // What is for stores that nodes share: a node alone sends neither.
            Command::Receive { token, .. } | Command::Claim { token, .. } => {
                self.answers
                    .push((core, Completion::Deposed { token: *token }));
            }
            Command::Release {
                token,
                session,
                packet_id,
            } => {
                if self.index.sessions.contains_key(session) {
                    self.changes.received.insert((session.0, *packet_id), None);
                }
                self.done(core, *token);
            }
            Command::Ack { session, sequence } => self.remove(*session, *sequence),
            Command::PubRec {
                token,
                session,
                sequence,
            } => {
                if let Some((slot, body_is_free)) = self.index.release(*session, *sequence) {
                    self.changes
                        .put_log(slot.position, records::released(*session, *sequence));
                    if body_is_free {
                        self.changes.remove_log(slot.body_position());
                    }
                }
                self.done(core, *token);
            }
            Command::ReadMailbox {
                token,
                session,
                from,
                messages_max,
                bytes_max,
            } => {
                self.read(core, *token, *session, *from, (*messages_max, *bytes_max));
            }
            Command::ListSubscriptions { token, session } => {
                self.list_subscriptions(core, *token, *session);
            }
            Command::Move {
                token,
                from,
                to,
                home,
                record,
                messages_max,
                bytes_max,
            } => {
                let bounds = (*messages_max, *bytes_max);
                let messages = self.move_all(*from, (*to, *home), *record, bounds);
                let (token, from) = (*token, *from);
                let moved = Completion::Moved {
                    token,
                    from,
                    messages,
                };
                self.answers.push((core, moved));
            }
        }
    }

    fn done(&mut self, core: u16, token: Token) {
        self.answers.push((core, Completion::Done { token }));
    }

    /// Returns how many mailboxes refused the message.
    fn append_all(&mut self, message: &Arc<Message>, appends: &[Append]) -> u32 {
        let is_shared = appends.len() > 1 && message.queued_bytes() >= SHARED_BYTES_MIN;
        let body = is_shared.then(|| {
            let position = self.index.claim_position();
            self.changes.put_log(position, records::body(message));
            // One mailbox may be a recipient twice, and the second time push out the first.
            self.index.hold(position);
            position
        });
        let rejected = appends
            .iter()
            .filter(|append| !self.append(message, append, body))
            .count();
        if let Some(body) = body
            && self.index.let_go(body)
        {
            self.changes.remove_log(body);
        }
        rejected as u32
    }

    /// False when the mailbox refuses the message.
    fn append(&mut self, message: &Arc<Message>, append: &Append, body: Option<u64>) -> bool {
        let Append {
            session,
            home,
            delivery,
        } = append;
        if !self.index.sessions.contains_key(session) {
            return true;
        }
        let bytes =
            u32::try_from(message.queued_bytes()).expect("an MQTT packet has at most 256 MiB");
        let evicted = match self.index.mailbox(*session) {
            Some(mailbox) => mailbox.room_for(bytes, self.limits),
            None => (self.limits.messages_max > 0 && u64::from(bytes) <= self.limits.bytes_max)
                .then(Vec::new),
        };
        let Some(evicted) = evicted else {
            self.answers
                .push((*home, Completion::Rejected { session: *session }));
            return false;
        };
        // Before the eviction, which may empty the mailbox: the numbers go on.
        let sequence = self.index.next_sequence(*session);
        for old in &evicted {
            self.remove(*session, old.sequence);
        }
        let position = self.index.claim_position();
        let (record, body_distance) = match body {
            Some(body) => {
                let distance =
                    u32::try_from(position - body).expect("a batch has fewer recipients");
                (
                    records::reference(*session, sequence, delivery, distance),
                    distance,
                )
            }
            None => (records::inline(*session, sequence, delivery, message), 0),
        };
        self.changes.put_log(position, record);
        let slot = Slot {
            sequence,
            position,
            bytes,
            body_distance,
        };
        assert!(
            self.index.push(*session, slot),
            "the sequence is the next one of its mailbox"
        );
        let appended = Completion::Appended {
            session: *session,
            sequence,
            message: Arc::clone(message),
            delivery: delivery.clone(),
            evicted,
        };
        self.answers.push((*home, appended));
        true
    }

    /// Returns how many messages moved.
    fn move_all(
        &mut self,
        from: SessionId,
        (to, home): (SessionId, u16),
        record: SubscriptionRecord,
        (messages_max, bytes_max): (u32, u32),
    ) -> u32 {
        let (mut moved, mut bytes) = (0, 0);
        while from != to
            && moved < messages_max
            && let Some(slot) = self.index.oldest(from).filter(|slot| slot.bytes > 0)
        {
            bytes += u64::from(slot.bytes);
            let fits = self.index.has_room(to, slot.bytes, self.limits);
            if !fits || (moved > 0 && bytes > u64::from(bytes_max)) {
                break;
            }
            self.move_one(slot, (to, home), record);
            self.remove(from, slot.sequence);
            moved += 1;
        }
        moved
    }

    /// Appends the message of a slot to another mailbox. Its record there is reserved when the message is on disk only.
    fn move_one(&mut self, old: Slot, (to, home): (SessionId, u16), record: SubscriptionRecord) {
        let slot = Slot {
            sequence: self.index.next_sequence(to),
            position: self.index.claim_position(),
            bytes: old.bytes,
            body_distance: 0,
        };
        let known = content(old, |position| self.changes.log(position));
        let (message, delivery) = match known {
            Some((message, _)) => {
                let delivery = record.delivery(&message);
                let inline = records::inline(to, slot.sequence, &delivery, &message);
                self.changes.put_log(slot.position, inline);
                (message, delivery)
            }
            None => {
                let (on_disk, _) = self.on_disk(old);
                self.changes.put_log(slot.position, Vec::new());
                self.moved.insert(slot.position, (on_disk, record));
                self.fetches.push(Fetch {
                    answer: self.answers.len(),
                    entry: 0,
                    slot: on_disk,
                    moved_for: Some(record),
                    moved_to: Some((to, slot)),
                });
                let message = Arc::clone(&self.unread);
                (Arc::clone(&message), record.delivery(&message))
            }
        };
        assert!(
            self.index.push(to, slot),
            "the sequence is the next one of its mailbox"
        );
        let appended = Completion::Appended {
            session: to,
            sequence: slot.sequence,
            message,
            delivery,
            evicted: Vec::new(),
        };
        self.answers.push((home, appended));
    }

    /// Where the disk has the message of a slot, and for which subscription it was moved since.
    fn on_disk(&self, slot: Slot) -> (Slot, Option<SubscriptionRecord>) {
        match self.moved.get(&slot.position) {
            Some((slot, record)) => (*slot, Some(*record)),
            None => (slot, None),
        }
    }

    fn retain(&mut self, message: &Message, change: RetainChange) {
        match change {
            RetainChange::None => {}
            RetainChange::Set => {
                let mut stored = Vec::new();
                message.encode(&mut stored);
                self.changes.put_retained(message.topic(), Some(stored));
            }
            RetainChange::Clear => self.changes.put_retained(message.topic(), None),
        }
    }

    fn remove(&mut self, session: SessionId, sequence: u64) {
        if let Some((slot, body_is_free)) = self.index.remove(session, sequence) {
            self.remove_records(slot, body_is_free);
        }
    }

    fn remove_records(&mut self, slot: Slot, body_is_free: bool) {
        self.changes.remove_log(slot.position);
        if body_is_free {
            self.changes.remove_log(slot.body_position());
        }
    }

    fn delete(&mut self, core: u16, token: Token, session: SessionId) {
        let mut filters = Vec::new();
        let mut dropped = 0;
        if let Some(slots) = self.index.delete(session) {
            dropped = slots.len() as u64;
            for (slot, body_is_free) in slots {
                self.remove_records(slot, body_is_free);
            }
            self.changes.put_session(session, None);
            let mut belongings = self.belongings.remove(&session).unwrap_or_default();
            belongings.add(session, self.changes);
            for packet_id in belongings.received {
                self.changes.received.insert((session.0, packet_id), None);
            }
            for filter in &belongings.filters {
                self.changes
                    .subscriptions
                    .insert((session.0, filter.clone()), None);
            }
            filters = belongings.filters.into_iter().collect();
        }
        self.answers.push((
            core,
            Completion::SessionDeleted {
                token,
                session,
                filters,
                dropped,
            },
        ));
    }

    fn list_subscriptions(&mut self, core: u16, token: Token, session: SessionId) {
        let mut filters = Vec::new();
        if self.index.sessions.contains_key(&session) {
            // Another command of this batch may ask for the same.
            let stored = self.belongings.get(&session).cloned();
            let mut belongings = stored.unwrap_or_default();
            belongings.add(session, self.changes);
            filters = belongings.filters.into_iter().collect();
        }
        let listed = Completion::Subscriptions {
            token,
            session,
            filters,
        };
        self.answers.push((core, listed));
    }

    fn read(
        &mut self,
        core: u16,
        token: Token,
        session: SessionId,
        from: u64,
        (messages, bytes): (u32, u32),
    ) {
        let mut entries = Vec::new();
        let mut bytes_read = 0;
        let mut end = true;
        let slots = self
            .index
            .mailbox(session)
            .map(|mailbox| mailbox.slots_from(from));
        for &slot in slots.into_iter().flatten() {
            bytes_read += u64::from(slot.bytes);
            let is_over = entries.len() >= messages as usize || bytes_read > u64::from(bytes);
            if is_over && !entries.is_empty() {
                end = false;
                break;
            }
            let content = content(slot, |position| self.changes.log(position));
            if slot.bytes > 0 && content.is_none() {
                let (slot, moved_for) = self.on_disk(slot);
                self.fetches.push(Fetch {
                    answer: self.answers.len(),
                    entry: entries.len(),
                    slot,
                    moved_for,
                    moved_to: None,
                });
            }
            entries.push(MailboxEntry {
                sequence: slot.sequence,
                content,
            });
        }
        self.answers.push((
            core,
            Completion::MailboxPage {
                token,
                session,
                entries,
                end,
            },
        ));
    }
}

/// The message of a slot and how to deliver it, read through `log`; `None` when it is not there or not valid.
pub(super) fn content<'a>(
    slot: Slot,
    log: impl Fn(u64) -> Option<&'a [u8]>,
) -> Option<(Arc<Message>, Delivery)> {
    match records::log_record(log(slot.position)?)? {
        LogRecord::Inline {
            delivery, message, ..
        } => Some((message.decode()?, delivery)),
        LogRecord::Reference { delivery, .. } => {
            match records::log_record(log(slot.body_position())?)? {
                LogRecord::Body(message) => Some((message.decode()?, delivery)),
                _ => None,
            }
        }
        LogRecord::Body(_) | LogRecord::Released { .. } => None,
    }
}
