//! Durable subscriptions that came with a partition, for as long as owners may ask for them.
//!
//! A SUBSCRIBE is told to the owners and to the engine at once. A home that dies in between leaves owners with a subscription that the engine
//! does not have, so that nobody would ever end it. Who takes the partition over knows what the engine has: owners ask
//! ([`FindSubscriptions`](crate::core_message::CoreMessage::FindSubscriptions)) once everything is read.

use std::collections::BTreeMap;

use foldhash::fast::FixedState;
use hashbrown::HashSet;

use crate::core_message::SubscriptionName;

/// By partition.
#[derive(Debug, Default)]
pub(super) struct Inherited(BTreeMap<u16, Known>);

#[derive(Debug)]
struct Known {
    until_ms: u64,
    names: HashSet<SubscriptionName, FixedState>,
}

impl Inherited {
    /// For so long owners are told which subscriptions there are; after that only which sessions.
    const KEPT_MS: u64 = 60_000;

    /// A session came with its partition.
    pub(super) fn session(&mut self, now_ms: u64, partition: u16) {
        let known = self.0.entry(partition).or_insert_with(|| Known {
            until_ms: 0,
            names: HashSet::default(),
        });
        known.until_ms = now_ms + Self::KEPT_MS;
    }

    /// A session of a partition has a subscription: it came with it, or is made now.
    pub(super) fn subscription(&mut self, partition: u16, name: SubscriptionName) {
        if let Some(known) = self.0.get_mut(&partition) {
            known.names.insert(name);
        }
    }

    /// Whether a subscription of a session that is here has no right to be. False when nobody knows any more.
    pub(super) fn is_ended(&self, partition: u16, name: SubscriptionName) -> bool {
        let known = self.0.get(&partition);
        known.is_some_and(|known| !known.names.contains(&name))
    }

    /// Partitions that are another core's by now, and those that came long ago.
    pub(super) fn forget(&mut self, now_ms: u64, is_here: impl Fn(u16) -> bool) {
        self.0
            .retain(|partition, known| known.until_ms > now_ms && is_here(*partition));
    }
}
