//! What the cluster part and the cores of this node say to each other: all of it is here.
//!
//! A core is told by messages, in order, through a bounded inbox: [`ToCore`]. Whether it may serve it does not need to be told: it reads the
//! [`Lease`] in each turn, so that a process that was stopped acts fenced before it does anything else. What a core has done is to be read in
//! its [`CoreProgress`]; what it hears of other nodes it says with [`FromCore`], which may be lost, since all of it is said again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use cluster::view::{NodeId, Version, View};

use crate::bus::identity::Identity;
use crate::ownership::Ownership;

/// Messages that wait for one core. When there is no room, the rest waits in the cluster part, where a later view takes the place of an
/// earlier one.
pub const INBOX_TO_CORE: usize = 64;

/// What is heard by the cores and waits for the cluster part. More is dropped: it is said again.
pub const QUEUE_FROM_CORES: usize = 4_096;

/// Something for a core.
#[derive(Clone, Debug)]
pub enum ToCore {
    /// This view holds from now on; this node is in it.
    View {
        /// Who owns what in it.
        ownership: Arc<Ownership>,
        /// Its members, for [`Bus::set_peers`](crate::event_loop::Bus::set_peers).
        view: Arc<View>,
    },
    /// New connections of the bus show and want these certificates.
    Keys(Box<Identity>),
    /// The fence has lasted: send clients to other nodes and take no more until it ends.
    SendClientsElsewhere,
    /// This node is leaving: send so many clients a second to other nodes, and take no more.
    MoveClients {
        /// Clients of this core in a second, at least 1.
        per_second: u32,
    },
}

/// Something that a core has heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromCore {
    /// A node has said on a link of the bus which view it is at.
    At(NodeId, Version),
    /// The connection to a node has ended, or did not come about.
    Suspect(NodeId),
}

/// Until when this node may serve. One for a whole life of a node, shared with its cores.
#[derive(Debug, Default)]
pub struct Lease {
    serving_until_ms: AtomicU64,
}

impl Lease {
    /// The node may serve until this time of its own clock; 0 for not at all.
    pub fn set(&self, serving_until_ms: u64) {
        self.serving_until_ms
            .store(serving_until_ms, Ordering::Release);
    }

    /// True when the node may serve.
    pub fn holds(&self, now_ms: u64) -> bool {
        now_ms < self.serving_until_ms.load(Ordering::Acquire)
    }
}

/// What a core has done; the core writes it and the cluster part reads it.
#[derive(Debug, Default)]
pub struct CoreProgress {
    /// Number of the view that holds on this core.
    pub view_epoch: AtomicU64,
    /// Number of the last view under which this core has handed over everything that it owns no more. Written by the hand-over.
    pub handed_over_epoch: AtomicU64,
    /// Clients that are connected to this core.
    pub clients: AtomicU64,
    /// True while this core pauses, since the lease has run out.
    pub fenced: AtomicBool,
}

impl CoreProgress {
    /// True when this core has nothing left of what it does not own in a view, or in a later one.
    pub fn has_handed_over(&self, epoch: u64) -> bool {
        self.handed_over_epoch.load(Ordering::Acquire) >= epoch
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_ends_by_itself() {
        let lease = Lease::default();
        assert!(!lease.holds(0), "nobody has given it");
        lease.set(100);
        assert!(lease.holds(99) && !lease.holds(100));
        lease.set(0);
        assert!(!lease.holds(50));
    }
}
