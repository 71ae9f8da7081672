//! What a session has besides its record and its mailbox, as the disk and the changes that it does not have yet say together.

use std::collections::BTreeSet;

use crate::engine::embedded::changes::Changes;
use crate::message::SessionId;

/// What the disk holds of a session besides its record and its mailbox.
#[derive(Clone, Debug, Default)]
pub(super) struct Belongings {
    pub(super) filters: BTreeSet<Box<str>>,
    pub(super) received: BTreeSet<u16>,
}

impl Belongings {
    /// Brings what the disk has up to date with what it does not have yet.
    pub(super) fn add(&mut self, session: SessionId, changes: &Changes) {
        let texts = (session.0, Box::from(""))..(session.0 + 1, Box::from(""));
        for ((_, filter), change) in changes.subscriptions.range(texts) {
            if change.is_some() {
                self.filters.insert(filter.clone());
            } else {
                self.filters.remove(filter);
            }
        }
        for ((_, packet_id), change) in changes
            .received
            .range((session.0, 0)..=(session.0, u16::MAX))
        {
            if change.is_some() {
                self.received.insert(*packet_id);
            } else {
                self.received.remove(packet_id);
            }
        }
    }
}
