//! Who may write what in a store that several nodes share, and how a message is known again.
//!
//! A partition has one writer: the node that claimed it last. It writes the sessions whose home is there with their mailboxes, the
//! retained messages and the queues of shared subscriptions under its roots. Another node's command on it changes nothing and is answered
//! by [`Completion::Deposed`](super::Completion::Deposed), however late it comes: so a node that was stopped for a minute does no harm
//! when it goes on.
//!
//! One thing is written by others: the *route* of a durable subscription, which is kept under the root of its filter for the
//! owner and is a fact of the session. The node that has claimed the session's home writes it.

use edge_proto::topic::RootDepths;

use cluster::partition::partition_of;

use crate::message::SessionId;
use crate::ownership::home_partition;
use crate::turn::without_share;

/// Names one message from its PUBLISH on, so that a node that gets it again can tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId {
    /// The core that named it, in the run of its node: see [`MessageId::origin`].
    pub origin: u64,
    /// Counts the messages that this core has named, from 1.
    pub number: u64,
}

impl MessageId {
    /// Of a message that nobody will send again.
    pub const NONE: Self = Self {
        origin: 0,
        number: 0,
    };

    /// The origin of ids of a core: epoch of the view in which its node became a member (48 bits), core number (16 bits).
    pub fn origin(joined: u64, core: u16) -> u64 {
        joined << 16 | u64::from(core)
    }

    /// Of a message in the queue of a shared subscription, on its way to a member.
    pub fn of_queue(queue: SessionId, sequence: u64) -> Self {
        Self {
            origin: queue.as_group_queue().0,
            number: sequence,
        }
    }

    /// True for the id of a message out of a queue: it has to be stored in a mailbox before it may leave the queue.
    pub fn is_of_queue(self) -> bool {
        SessionId(self.origin).is_group_queue()
    }

    /// True for [`MessageId::NONE`].
    pub fn is_none(self) -> bool {
        self == Self::NONE
    }
}

/// A QoS 2 packet identifier that a publisher has not released.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReceivedId {
    /// The packet identifier.
    pub packet_id: u16,
    /// What its message is known by; [`MessageId::NONE`] when the message is stored and need not be sent again.
    pub message: MessageId,
}

/// So many ids of the messages that came last are remembered with each mailbox.
pub const KNOWN_IDS: usize = 64;

/// What became of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimOutcome {
    /// This node is the writer.
    Held,
    /// Another node has claimed the partition in this epoch, which is not older.
    Lost {
        /// Its epoch.
        epoch: u64,
    },
}

/// Where a session is kept: the partition of its home, or for the queue of a shared subscription that of its filter. `name` is the
/// home name of its record, for a queue the whole filter.
pub fn partition_of_session(depths: &RootDepths, session: SessionId, name: &str) -> u16 {
    if !session.is_group_queue() {
        return home_partition(name);
    }
    partition_of_filter(depths, name).unwrap_or_else(|| partition_of_broad_queue(session))
}

/// The partition of the root of a filter, `$share/…` or not; `None` for a broad one.
pub fn partition_of_filter(depths: &RootDepths, filter: &str) -> Option<u16> {
    depths
        .root_of_filter(without_share(filter))
        .map(partition_of)
}

/// The partition of the queue of a broad shared subscription: every owner makes one of its own, with an id for which this is a
/// partition that it owns.
pub fn partition_of_broad_queue(session: SessionId) -> u16 {
    partition_of(&format!("{:016x}", session.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_are_kept_at_their_home_and_queues_under_their_root() {
        let depths = RootDepths::default();
        let session = SessionId(7);
        assert_eq!(
            partition_of_session(&depths, session, "alice"),
            partition_of("u/alice")
        );
        let queue = session.as_group_queue();
        assert_eq!(
            partition_of_session(&depths, queue, "$share/g/sensors/d42/#"),
            partition_of("sensors/d42")
        );
        assert_eq!(
            partition_of_session(&depths, queue, "$share/g/#"),
            partition_of_broad_queue(queue)
        );
        assert_eq!(partition_of_filter(&depths, "+/x"), None);
    }

    #[test]
    fn origins_of_two_runs_differ() {
        assert_ne!(MessageId::origin(1, 7), MessageId::origin(2, 7));
        assert_ne!(MessageId::origin(1, 7), MessageId::origin(1, 8));
    }
}
