//! Which core serves what, as one view says it.
//!
//! Cores have numbers that are unique in the cluster: each member of a view has a range of them, the same for as long as it is a
//! member. So a role that speaks to a core does not ask on which node that is, and one node alone is the cluster of its cores.

use std::ops::Range;

use cluster::partition::{Placement, partition_of};
use cluster::view::{Member, View};
use edge_proto::topic::RootDepths;

use crate::engine::claim::partition_of_session;
use crate::message::SessionId;
use crate::turn::without_share;

/// Who owns what: one immutable object, the same on all cores of a node, replaced whole when the view changes.
#[derive(Clone, Debug)]
pub struct Ownership {
    epoch: u64,
    /// Epoch of the view in which this node became a member.
    joined: u64,
    placement: Placement,
    /// The cores of all members, in the order of their numbers.
    cores: Box<[u16]>,
    /// Those of this node.
    here: Range<u16>,
}

impl Ownership {
    /// One node with so many cores, alone for ever.
    ///
    /// # Panics
    /// When `cores` is 0.
    pub fn alone(cores: u16) -> Self {
        Self {
            epoch: 0,
            joined: 0,
            placement: Placement::single_node(cores),
            cores: (0..cores).collect(),
            here: 0..cores,
        }
    }

    /// As a view says it, for its member with this uid; `None` when it has no such member.
    pub fn of(view: &View, uid: u64) -> Option<Self> {
        let numbers = |member: &Member| member.first_core..member.first_core + member.cores;
        let member = view.member(uid)?;
        let here = numbers(member);
        let mut cores: Box<[u16]> = view.members.iter().flat_map(numbers).collect();
        cores.sort_unstable();
        Some(Self {
            epoch: view.epoch,
            joined: member.joined,
            placement: Placement::of(view),
            cores,
            here,
        })
    }

    /// The number of the view; 0 for one node alone.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// False for one node alone, for ever.
    pub fn is_clustered(&self) -> bool {
        self.epoch > 0
    }

    /// Epoch of the view in which this node became a member; 0 for one node alone.
    pub fn joined(&self) -> u64 {
        self.joined
    }

    /// The numbers of this node's cores.
    pub fn here(&self) -> Range<u16> {
        self.here.clone()
    }

    /// The cores of all members, in the order of their numbers.
    pub fn cores(&self) -> &[u16] {
        &self.cores
    }

    /// True for a core of a member.
    pub fn has_core(&self, core: u16) -> bool {
        self.cores.binary_search(&core).is_ok()
    }

    /// The core that owns a partition.
    pub fn core_of(&self, partition: u16) -> u16 {
        self.placement.core_of(partition)
    }

    /// The core that owns a root.
    pub fn core_of_root(&self, root: &str) -> u16 {
        self.placement.core_of_root(root)
    }

    /// The home core of a user, or of a client identifier without one.
    pub fn home_of(&self, user: &str) -> u16 {
        self.core_of(home_partition(user))
    }

    /// The cores that must know a filter: the owner of its root, or all of them for a broad one.
    pub fn owners_of_filter(&self, depths: &RootDepths, filter: &str) -> &[u16] {
        match depths.root_of_filter(without_share(filter)) {
            Some(root) => std::slice::from_ref(self.placement.owner(partition_of(root))),
            None => &self.cores,
        }
    }

    /// The core that keeps the queue of a shared subscription: the owner of its filter. For a broad one every core has a queue of
    /// its own, so it is the core that made it, or one in its place when there are fewer now; in a cluster the owner of the partition
    /// that its id names.
    pub fn core_of_queue(&self, depths: &RootDepths, queue: SessionId, filter: &str) -> u16 {
        if self.is_clustered() {
            return self.core_of(partition_of_session(depths, queue, filter));
        }
        let owners = self.owners_of_filter(depths, filter);
        owners[usize::from(queue.core()) % owners.len()]
    }
}

/// The partition of root `u/{user}`, whose owner is the home of the user. A client without a user has its client identifier in its
/// place.
pub fn home_partition(user: &str) -> u16 {
    partition_of(&format!("u/{user}"))
}
