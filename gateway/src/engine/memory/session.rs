//! One session of the model: its record, subscriptions, packet identifiers and mailbox.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::engine::claim::{KNOWN_IDS, MessageId};
use crate::engine::{
    Delivery, Evicted, MailboxLimits, MailboxSummary, SessionRecord, SubscriptionRecord, WhenFull,
};
use crate::message::Message;

#[derive(Clone, Debug)]
pub(super) struct Session {
    pub(super) record: SessionRecord,
    pub(super) partition: u16,
    pub(super) subscriptions: BTreeMap<Box<str>, SubscriptionRecord>,
    /// What the message of each is known by.
    pub(super) received: BTreeMap<u16, MessageId>,
    /// Ids of the last messages.
    pub(super) known: VecDeque<MessageId>,
    pub(super) mailbox: BTreeMap<u64, Option<(Arc<Message>, Delivery)>>,
    /// Meaningful while the mailbox is not empty.
    pub(super) next: u64,
}

impl Session {
    pub(super) fn new(record: SessionRecord, partition: u16) -> Self {
        Self {
            record,
            partition,
            subscriptions: BTreeMap::new(),
            received: BTreeMap::new(),
            known: VecDeque::new(),
            mailbox: BTreeMap::new(),
            next: 1,
        }
    }

    pub(super) fn remember(&mut self, id: MessageId) {
        if id.is_none() {
            return;
        }
        if self.known.len() == KNOWN_IDS {
            self.known.pop_front();
        }
        self.known.push_back(id);
    }

    pub(super) fn bytes(&self) -> u64 {
        self.mailbox
            .values()
            .flatten()
            .map(|(message, _)| message.queued_bytes() as u64)
            .sum()
    }

    /// True when `message` fits and nothing has to go for it.
    pub(super) fn has_room(&self, message: &Message, limits: MailboxLimits) -> bool {
        (self.mailbox.len() as u64) < limits.messages_max
            && self.bytes() + message.queued_bytes() as u64 <= limits.bytes_max
    }

    /// Removes what has to go for `message` to fit, oldest first; `None`, and nothing removed, when it cannot fit.
    pub(super) fn make_room(
        &mut self,
        message: &Message,
        limits: MailboxLimits,
    ) -> Option<Vec<Evicted>> {
        let mut messages = self.mailbox.len() as u64 + 1;
        let mut bytes = self.bytes() + message.queued_bytes() as u64;
        let mut evicted = Vec::new();
        let mut candidates = self.mailbox.iter();
        while messages > limits.messages_max || bytes > limits.bytes_max {
            if limits.when_full == WhenFull::Reject {
                return None;
            }
            let (&sequence, content) = candidates.next()?;
            if let Some((message, _)) = content {
                let message_bytes = message.queued_bytes() as u32;
                messages -= 1;
                bytes -= u64::from(message_bytes);
                evicted.push(Evicted {
                    sequence,
                    bytes: message_bytes,
                });
            }
        }
        for old in &evicted {
            self.mailbox.remove(&old.sequence);
        }
        Some(evicted)
    }

    pub(super) fn summary(&self, sequence_floor: u64) -> MailboxSummary {
        MailboxSummary {
            messages: self.mailbox.len() as u64,
            bytes: self.bytes(),
            head: self
                .mailbox
                .first_key_value()
                .map_or(0, |(&sequence, _)| sequence),
            next: if self.mailbox.is_empty() {
                sequence_floor
            } else {
                self.next
            },
        }
    }
}
