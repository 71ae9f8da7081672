//! What live sessions of a core got lately, in a cluster.

use std::collections::VecDeque;

use foldhash::fast::FixedState;
use hashbrown::HashSet;

use crate::core_message::DeliverReply;
use crate::engine::claim::MessageId;

/// The messages that came to this core last, so that one that its publisher sends again, since the owner has died, comes once.
#[derive(Debug, Default)]
pub(super) struct Delivered {
    ids: HashSet<MessageId, FixedState>,
    in_order: VecDeque<MessageId>,
}

impl Delivered {
    /// More are forgotten: 1.5 MiB. What is sent again was under way when a view changed.
    const IDS_MAX: usize = 32_768;

    /// Notes a message; false when it came before.
    pub(super) fn is_new(&mut self, reply: DeliverReply) -> bool {
        if reply.id.is_none() {
            return true; // A node alone sends nothing again.
        }
        if reply.retry && self.ids.contains(&reply.id) {
            return false;
        }
        if self.ids.insert(reply.id) {
            self.in_order.push_back(reply.id);
        }
        if self.in_order.len() > Self::IDS_MAX
            && let Some(oldest) = self.in_order.pop_front()
        {
            self.ids.remove(&oldest);
        }
        true
    }
}
