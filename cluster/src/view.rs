//! Views: numbered lists of members, equal on all nodes that have the same number, from which every owner follows
//! ([`crate::partition::Placement::of`]).
//!
//! A view is only made from another one, by the functions here, or by [`View::decode`]: so that its members are sorted, their
//! core numbers never overlap, and a member keeps its numbers for as long as it is one.

mod codec;

use std::fmt;
use std::net::SocketAddr;

use crate::limits::{
    CLUSTER_NAME_BYTES_MAX, CORE_NUMBERS_END, CORES_PER_MEMBER_MAX, MEMBERS_MAX,
    REFERENCE_BYTES_MAX,
};
pub use codec::ViewDecodeError;

/// One run of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId {
    /// Names the node across its restarts.
    pub uid: u64,
    /// When this run started, in milliseconds of Unix time; a node that was thrown out comes back with a later one. Of two
    /// incarnations the later one is the living one.
    pub incarnation: u64,
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}@{}", self.uid, self.incarnation)
    }
}

/// What a member does with partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Owns its share.
    Active,
    /// Owns nothing, hands over what it owned, and answers for its clients until they are gone.
    Leaving,
}

/// The versions of the bus protocol that a node speaks, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ProtocolRange {
    /// Oldest version.
    pub min: u16,
    /// Newest version.
    pub max: u16,
}

impl ProtocolRange {
    /// The versions that both speak.
    pub fn common(self, other: Self) -> Option<Self> {
        let (min, max) = (self.min.max(other.min), self.max.min(other.max));
        (min <= max).then_some(Self { min, max })
    }
}

impl fmt::Display for ProtocolRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..={}", self.min, self.max)
    }
}

/// What a node says of itself when it wants to become a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joining {
    /// The node, in its present incarnation.
    pub node: NodeId,
    /// Number of its cores.
    pub cores: u16,
    /// Its share of the partitions, against the weights of the others.
    pub weight: u32,
    /// Where it takes gossip datagrams.
    pub gossip: SocketAddr,
    /// Where it takes bus connections.
    pub bus: SocketAddr,
    /// What clients are told that are to come to it; empty: nothing.
    pub reference: Box<str>,
    /// Versions of the bus protocol that it speaks.
    pub protocol: ProtocolRange,
}

impl Joining {
    /// What a node that wants to be a member must keep to.
    pub(crate) fn check(&self) -> Result<(), ViewError> {
        check_numbers(self.cores, self.weight, self.protocol)?;
        if self.reference.len() > REFERENCE_BYTES_MAX {
            return Err(ViewError::Reference(self.reference.len()));
        }
        Ok(())
    }
}

/// One member of a view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The node, in the incarnation that joined.
    pub node: NodeId,
    /// Epoch of the view in which this incarnation became a member. With a core number it is never used twice.
    pub joined: u64,
    /// Its cores have the numbers `first_core .. first_core + cores`, for as long as it is a member.
    pub first_core: u16,
    /// Number of its cores.
    pub cores: u16,
    /// Its share of the partitions, against the weights of the others.
    pub weight: u32,
    /// What it does with partitions.
    pub role: Role,
    /// Where it takes gossip datagrams.
    pub gossip: SocketAddr,
    /// Where it takes bus connections.
    pub bus: SocketAddr,
    /// What clients are told that are to come to it; empty: nothing.
    pub reference: Box<str>,
    /// Versions of the bus protocol that it speaks.
    pub protocol: ProtocolRange,
}

impl Member {
    /// One past its last core number.
    fn end(&self) -> u32 {
        u32::from(self.first_core) + u32::from(self.cores)
    }

    /// True exactly when `core` is one of its cores.
    pub fn has_core(&self, core: u16) -> bool {
        core >= self.first_core && u32::from(core) < self.end()
    }
}

/// Tells one view from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Version {
    /// Number of the view.
    pub epoch: u64,
    /// Hash of all of it.
    pub hash: u64,
}

/// A numbered list of members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// The number. A node never goes back to a lower one.
    pub epoch: u64,
    /// Name of the cluster.
    pub cluster: Box<str>,
    /// Where the search for free core numbers goes on: it goes round, so that a number comes back as late as can be.
    pub next_core: u16,
    /// The members, sorted by uid. There is at least one.
    pub members: Vec<Member>,
}

/// Why a view cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ViewError {
    /// The configuration names the cluster badly.
    #[error(
        "a cluster's name has 1 to {CLUSTER_NAME_BYTES_MAX} bytes, not {0}: choose another `cluster.name`"
    )]
    ClusterName(usize),
    /// More cores than a member may have, or none.
    #[error(
        "a member has 1 to {CORES_PER_MEMBER_MAX} cores, not {0}: start the node with another number"
    )]
    Cores(u16),
    /// A member without a share of partitions.
    #[error("a weight is at least 1: drain the node if it is to own nothing")]
    Weight,
    /// No version of the protocol at all.
    #[error("protocol versions {0} are none: the range is upside down")]
    ProtocolRange(ProtocolRange),
    /// The configuration gives clients too long a reference.
    #[error(
        "a server reference has at most {REFERENCE_BYTES_MAX} bytes, not {0}: shorten `cluster.server_reference`"
    )]
    Reference(usize),
    /// The cluster is full.
    #[error("a cluster has at most {MEMBERS_MAX} members: let another leave first")]
    TooManyMembers,
    /// The core numbers of the cluster are used up, or in pieces too small.
    #[error(
        "no {0} core numbers in a row are free: let members leave or start the node with fewer cores"
    )]
    NoFreeCores(u16),
    /// This incarnation, or a later one of the same node, is a member already.
    #[error("node {0} cannot join beside {1}, which is not older: give each node a uid of its own")]
    NotNewer(NodeId, NodeId),
    /// The newcomer speaks no version of the protocol that all members speak.
    #[error(
        "node {node} speaks protocol {speaks}, the members share {members}: upgrade by one version at a time"
    )]
    Protocol {
        /// The newcomer.
        node: NodeId,
        /// What it speaks.
        speaks: ProtocolRange,
        /// What the members have in common.
        members: ProtocolRange,
    },
    /// Somebody means a node that has left.
    #[error("node {0:016x} is not a member: look at the members of the view")]
    NotAMember(u64),
    /// A view without members would own nothing and know nobody.
    #[error("the last member cannot be taken out: stop the node instead")]
    LastMember,
    /// The number of a view must not go back.
    #[error("epoch {new} is below {old}: take one above all that were seen")]
    Epoch {
        /// Number of the view that was to be changed.
        old: u64,
        /// Number that was asked for.
        new: u64,
    },
    /// Members are not in order, or one is there twice.
    #[error(
        "members are not sorted by uid, each once: the bytes are no view, or a version's mistake"
    )]
    Order,
    /// Two members share core numbers, or one has numbers beyond the last.
    #[error(
        "core numbers overlap or are out of range: the bytes are no view, or a version's mistake"
    )]
    CoreNumbers,
    /// A member became one in a view that is still to come.
    #[error(
        "a member joined in epoch {joined} of a view {epoch}: the bytes are no view, or a version's mistake"
    )]
    Joined {
        /// What the member says.
        joined: u64,
        /// What the view says.
        epoch: u64,
    },
}

impl View {
    /// The first view of a cluster: one node.
    ///
    /// # Errors
    /// When the name, or what the node says of itself, is out of bounds.
    pub fn first(epoch: u64, cluster: &str, joining: &Joining) -> Result<Self, ViewError> {
        check_name(cluster)?;
        let mut view = Self {
            epoch,
            cluster: cluster.into(),
            next_core: 0,
            members: Vec::new(),
        };
        view.add(joining)?;
        Ok(view)
    }

    /// This view and one more member, active, with core numbers of its own. An older incarnation of the same node goes.
    ///
    /// # Errors
    /// When what the node says of itself is out of bounds, it is no later incarnation, it speaks no protocol of all others,
    /// or there is no room.
    pub fn with_member(&self, epoch: u64, joining: &Joining) -> Result<Self, ViewError> {
        let mut view = self.numbered(epoch)?;
        view.add(joining)?;
        Ok(view)
    }

    /// This view without a member.
    ///
    /// # Errors
    /// When it is none, or the only one.
    pub fn without_member(&self, epoch: u64, uid: u64) -> Result<Self, ViewError> {
        let mut view = self.numbered(epoch)?;
        let at = view.position(uid).map_err(|_| ViewError::NotAMember(uid))?;
        if view.members.len() == 1 {
            return Err(ViewError::LastMember);
        }
        view.members.remove(at);
        Ok(view)
    }

    /// This view without those who are gone and with newcomers, and why some of them cannot be members.
    ///
    /// # Errors
    /// When the number goes back, or nobody would be left.
    pub fn step(
        &self,
        epoch: u64,
        gone: &[u64],
        newcomers: &[Joining],
    ) -> Result<(Self, Vec<(NodeId, ViewError)>), ViewError> {
        let mut view = self.numbered(epoch)?;
        view.members
            .retain(|member| !gone.contains(&member.node.uid));
        let mut refused = Vec::new();
        for joining in newcomers {
            if let Err(reason) = view.add(joining) {
                refused.push((joining.node, reason));
            }
        }
        if view.members.is_empty() {
            return Err(ViewError::LastMember);
        }
        Ok((view, refused))
    }

    /// This view with another role for a member.
    ///
    /// # Errors
    /// When it is no member.
    pub fn with_role(&self, epoch: u64, uid: u64, role: Role) -> Result<Self, ViewError> {
        self.changed(epoch, uid, |member| member.role = role)
    }

    /// This view with another weight for a member.
    ///
    /// # Errors
    /// When it is no member, or the weight is 0.
    pub fn with_weight(&self, epoch: u64, uid: u64, weight: u32) -> Result<Self, ViewError> {
        if weight == 0 {
            return Err(ViewError::Weight);
        }
        self.changed(epoch, uid, |member| member.weight = weight)
    }

    /// This view under another number.
    ///
    /// # Errors
    /// When the number goes back.
    pub fn numbered(&self, epoch: u64) -> Result<Self, ViewError> {
        if epoch < self.epoch {
            return Err(ViewError::Epoch {
                old: self.epoch,
                new: epoch,
            });
        }
        Ok(Self {
            epoch,
            ..self.clone()
        })
    }

    /// Adds a member, or changes nothing.
    fn add(&mut self, joining: &Joining) -> Result<(), ViewError> {
        joining.check()?;
        let older = match self.position(joining.node.uid) {
            Ok(at) if self.members[at].node.incarnation >= joining.node.incarnation => {
                return Err(ViewError::NotNewer(joining.node, self.members[at].node));
            }
            Ok(at) => Some(self.members.remove(at)),
            Err(_) => None,
        };
        let added = self.insert(joining);
        if let (Err(_), Some(older)) = (&added, older) {
            let at = self.position(older.node.uid).unwrap_or_else(|at| at);
            self.members.insert(at, older);
        }
        added
    }

    /// Adds a member of whom there is no other incarnation.
    fn insert(&mut self, joining: &Joining) -> Result<(), ViewError> {
        if self.members.len() >= MEMBERS_MAX {
            return Err(ViewError::TooManyMembers);
        }
        if let Some(members) = self.protocol()
            && members.common(joining.protocol).is_none()
        {
            return Err(ViewError::Protocol {
                node: joining.node,
                speaks: joining.protocol,
                members,
            });
        }
        let first_core = self
            .free_cores(joining.cores)
            .ok_or(ViewError::NoFreeCores(joining.cores))?;
        self.next_core = (first_core + joining.cores) % CORE_NUMBERS_END;
        let at = self.position(joining.node.uid).unwrap_or_else(|at| at);
        self.members.insert(
            at,
            Member {
                node: joining.node,
                joined: self.epoch,
                first_core,
                cores: joining.cores,
                weight: joining.weight,
                role: Role::Active,
                gossip: plain(joining.gossip),
                bus: plain(joining.bus),
                reference: joining.reference.clone(),
                protocol: joining.protocol,
            },
        );
        Ok(())
    }

    fn changed(
        &self,
        epoch: u64,
        uid: u64,
        change: impl FnOnce(&mut Member),
    ) -> Result<Self, ViewError> {
        let mut view = self.numbered(epoch)?;
        let at = view.position(uid).map_err(|_| ViewError::NotAMember(uid))?;
        change(&mut view.members[at]);
        Ok(view)
    }

    /// The member with this uid, in whatever incarnation.
    pub fn member(&self, uid: u64) -> Option<&Member> {
        self.position(uid).ok().map(|at| &self.members[at])
    }

    /// True exactly when this very incarnation is a member.
    pub fn contains(&self, node: NodeId) -> bool {
        self.member(node.uid)
            .is_some_and(|member| member.node == node)
    }

    /// The member that has the core with this number.
    pub fn member_of_core(&self, core: u16) -> Option<&Member> {
        self.members.iter().find(|member| member.has_core(core))
    }

    /// The versions of the bus protocol that all members speak; none when there is nobody.
    pub fn protocol(&self) -> Option<ProtocolRange> {
        self.members
            .iter()
            .map(|member| member.protocol)
            .reduce(|all, one| ProtocolRange {
                min: all.min.max(one.min),
                max: all.max.min(one.max),
            })
    }

    fn position(&self, uid: u64) -> Result<usize, usize> {
        self.members
            .binary_search_by_key(&uid, |member| member.node.uid)
    }

    /// The first of `cores` free numbers in a row, from the cursor on and then from 0.
    fn free_cores(&self, cores: u16) -> Option<u16> {
        let mut taken: Vec<(u32, u32)> = self
            .members
            .iter()
            .map(|member| (u32::from(member.first_core), member.end()))
            .collect();
        taken.sort_unstable();
        gap(&taken, u32::from(self.next_core), u32::from(cores))
            .or_else(|| gap(&taken, 0, u32::from(cores)))
            .and_then(|first| u16::try_from(first).ok())
    }

    /// What must hold for a view that came from elsewhere.
    fn check(&self) -> Result<(), ViewError> {
        check_name(&self.cluster)?;
        if self.members.len() > MEMBERS_MAX {
            return Err(ViewError::TooManyMembers);
        }
        if self.members.is_empty() {
            return Err(ViewError::LastMember);
        }
        for member in &self.members {
            check_numbers(member.cores, member.weight, member.protocol)?;
            if member.joined > self.epoch {
                return Err(ViewError::Joined {
                    joined: member.joined,
                    epoch: self.epoch,
                });
            }
        }
        if !self
            .members
            .is_sorted_by(|one, next| one.node.uid < next.node.uid)
        {
            return Err(ViewError::Order);
        }
        let mut taken: Vec<(u32, u32)> = self
            .members
            .iter()
            .map(|member| (u32::from(member.first_core), member.end()))
            .collect();
        taken.sort_unstable();
        let end = u32::from(CORE_NUMBERS_END);
        let apart = taken.is_sorted_by(|one, next| one.1 <= next.0);
        let within = taken.iter().all(|range| range.1 <= end);
        if !apart || !within || self.next_core == CORE_NUMBERS_END {
            return Err(ViewError::CoreNumbers);
        }
        Ok(())
    }
}

/// The first place at or after `from` where `cores` numbers lie between the sorted ranges.
fn gap(taken: &[(u32, u32)], from: u32, cores: u32) -> Option<u32> {
    let mut at = from;
    for &(start, end) in taken {
        if start >= at + cores {
            break;
        }
        at = at.max(end);
    }
    (at + cores <= u32::from(CORE_NUMBERS_END)).then_some(at)
}

/// Address and port alone: a view says nothing of scopes and flows, which mean something to one host only.
fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip(), address.port())
}

fn check_name(cluster: &str) -> Result<(), ViewError> {
    if cluster.is_empty() || cluster.len() > CLUSTER_NAME_BYTES_MAX {
        return Err(ViewError::ClusterName(cluster.len()));
    }
    Ok(())
}

fn check_numbers(cores: u16, weight: u32, protocol: ProtocolRange) -> Result<(), ViewError> {
    if cores == 0 || cores > CORES_PER_MEMBER_MAX {
        return Err(ViewError::Cores(cores));
    }
    if weight == 0 {
        return Err(ViewError::Weight);
    }
    if protocol.min > protocol.max {
        return Err(ViewError::ProtocolRange(protocol));
    }
    Ok(())
}
