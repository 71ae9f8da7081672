//! Retained messages for a new subscription, page by page and owner by owner, so that a filter that matches a million of
//! them never holds more than a page in memory.

use crate::core_message::{CoreMessage, ReplyTo, RetainedScan};
use crate::engine::{Delivery, SubscriptionRecord};
use crate::message::{Message, SessionId};
use crate::turn::Turn;

/// Messages of one page.
const PAGE: u16 = 32;

/// A scan that goes on; `T` says for whom.
#[derive(Debug)]
pub struct Scan<T> {
    /// For whom.
    pub target: T,
    /// The subscription.
    pub record: SubscriptionRecord,
    filter: Box<str>,
    /// Owners still to ask, the current one last.
    owners: Vec<u16>,
    after: Box<str>,
}

impl<T> Scan<T> {
    /// A scan of these owners, from the start. There is at least one owner.
    pub fn new(target: T, filter: Box<str>, record: SubscriptionRecord, owners: &[u16]) -> Self {
        Self {
            target,
            record,
            filter,
            owners: owners.iter().rev().copied().collect(),
            after: Box::default(),
        }
    }

    /// True when it is for this subscription; one that is replaced or removed ends its scan.
    pub fn is_for(&self, target: &T, filter: &str) -> bool
    where
        T: PartialEq,
    {
        self.target == *target && *self.filter == *filter
    }

    /// Asks for the next page; `mailbox` names the durable session it is for and the partition of its home.
    pub fn ask(&self, turn: &mut Turn<'_>, mailbox: Option<(SessionId, u16)>, reply: ReplyTo) {
        let queue = turn.facts.limits.session_queue_messages_max;
        let limit = queue.clamp(1, u32::from(PAGE)) as u16; // A page never overflows the queue it is for; its owner bounds the bytes.
        let scan = RetainedScan {
            filter: self.filter.clone(),
            after: self.after.clone(),
            limit,
            mailbox: mailbox.map(|(session, _)| (session, self.record)),
            home_partition: mailbox.map_or(0, |(_, partition)| partition),
            reply,
        };
        if let Some(owner) = self.owners.last() {
            turn.outbox
                .tell(*owner, CoreMessage::RetainedScan(Box::new(scan)));
        }
    }

    /// Asks other owners from now on where a view has moved what it asks for. True when the page it waits for has to be asked for
    /// again.
    pub fn is_moved(&mut self, turn: &Turn<'_>) -> bool {
        let asked = self.owners.last().copied();
        let owners = turn.owners_of_filter(&self.filter);
        match owners {
            [owner] => self.owners = vec![*owner],
            _ => self.owners.retain(|core| owners.contains(core)),
        }
        let is_moved = self.owners.last().copied() != asked;
        if is_moved && owners.len() > 1 {
            self.after = Box::default();
        }
        is_moved
    }

    /// Notes where the page that came ended. True when there may be another one.
    pub fn advance(&mut self, next: Option<Box<str>>) -> bool {
        match next {
            Some(after) => {
                self.after = after;
                true
            }
            None => {
                self.owners.pop();
                self.after = Box::default();
                !self.owners.is_empty()
            }
        }
    }
}

/// How a new subscription gets a retained message: always with the RETAIN flag (MQTT-3.3.1-8).
pub fn delivery(message: &Message, record: SubscriptionRecord) -> Delivery {
    Delivery {
        qos: message.qos.min(record.options.maximum_qos),
        retain: true,
        subscription_ids: if record.subscription_id == 0 {
            Box::default()
        } else {
            Box::new([record.subscription_id])
        },
    }
}
