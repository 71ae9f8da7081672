//! What is known of the cluster, for operators and metrics; and what they can ask of it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use cluster::coordinator::{FenceReason, Standing};
use cluster::partition::Placement;
use cluster::view::{NodeId, Role, View};
use serde::Serialize;
use tokio::sync::mpsc;

use super::Order;
pub use super::drain::Phase;

/// One member of the view.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MemberReport {
    /// Its uid and incarnation, as the log has them.
    pub node: String,
    /// `active` or `leaving`.
    pub role: &'static str,
    /// True exactly when it is this node.
    pub is_here: bool,
    /// True when gossip calls it alive.
    pub is_alive: bool,
    /// How long ago it answered over its control link; none when it is this node, or never has.
    pub answered_ms_ago: Option<u64>,
    /// Its first core number.
    pub first_core: u16,
    /// Number of its cores.
    pub cores: u16,
    /// Its share of the partitions.
    pub weight: u32,
    /// Partitions that it owns.
    pub partitions: usize,
    /// Where it takes gossip.
    pub gossip: SocketAddr,
    /// Where it takes connections of the bus.
    pub bus: SocketAddr,
    /// What clients are told that are to come to it.
    pub server_reference: String,
}

/// The view that holds on this node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ViewReport {
    /// Its number; 0 when there is none.
    pub epoch: u64,
    /// Its hash, which is the same on all nodes.
    pub hash: String,
    /// Its members.
    pub members: Vec<MemberReport>,
}

/// This node in its cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StatusReport {
    /// Name of the cluster.
    pub cluster: String,
    /// This node.
    pub node: String,
    /// `serving`, `fenced` or `left`.
    pub standing: &'static str,
    /// Why it is fenced, if it is.
    pub reason: Option<&'static str>,
    /// How far it is with leaving.
    pub draining: Phase,
    /// Number of the view that holds; 0 when there is none.
    pub epoch: u64,
    /// Its members.
    pub members: usize,
    /// Other nodes that gossip calls alive.
    pub alive: Vec<String>,
    /// Datagrams of gossip that were refused, by reason.
    pub gossip_refused: BTreeMap<&'static str, u64>,
    /// Nodes that were refused on control links or as members, by reason.
    pub nodes_refused: BTreeMap<&'static str, u64>,
}

/// What the cluster part writes, every time that something has changed.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) node: NodeId,
    pub(super) standing: Standing,
    pub(super) draining: Phase,
    pub(super) view: Option<Arc<View>>,
    pub(super) alive: Vec<NodeId>,
    /// When each node answered last, by uid, and the time now.
    pub(super) answered_ms: BTreeMap<u64, u64>,
    pub(super) now_ms: u64,
    pub(super) gossip_refused: BTreeMap<&'static str, u64>,
    pub(super) nodes_refused: BTreeMap<&'static str, u64>,
}

/// The cluster part, for operators.
pub struct ClusterStatus {
    cluster: Box<str>,
    orders: mpsc::Sender<Order>,
    known: Mutex<Known>,
}

impl ClusterStatus {
    /// Of a node that has heard of nobody, and takes no orders.
    pub fn of_nobody(cluster: &str, node: NodeId) -> Self {
        Self::new(cluster, node, mpsc::channel(1).0)
    }

    pub(super) fn new(cluster: &str, node: NodeId, orders: mpsc::Sender<Order>) -> Self {
        let known = Known {
            node,
            standing: Standing::Fenced(FenceReason::Outside),
            draining: Phase::No,
            view: None,
            alive: Vec::new(),
            answered_ms: BTreeMap::new(),
            now_ms: 0,
            gossip_refused: BTreeMap::new(),
            nodes_refused: BTreeMap::new(),
        };
        Self {
            cluster: cluster.into(),
            orders,
            known: Mutex::new(known),
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().expect("no panic while held")
    }

    pub(super) fn set(&self, known: Known) {
        *self.known() = known;
    }

    /// This node in its cluster.
    pub fn report(&self) -> StatusReport {
        let known = self.known().clone();
        let (standing, reason) = match known.standing {
            Standing::Serving => ("serving", None),
            Standing::Left => ("left", None),
            Standing::Fenced(FenceReason::Outside) => {
                ("fenced", Some("the view does not have this node"))
            }
            Standing::Fenced(FenceReason::CutOff) => (
                "fenced",
                Some("neither the majority nor the engine answers"),
            ),
        };
        StatusReport {
            cluster: self.cluster.to_string(),
            node: known.node.to_string(),
            standing,
            reason,
            draining: known.draining,
            epoch: known.view.as_ref().map_or(0, |view| view.epoch),
            members: known.view.as_ref().map_or(0, |view| view.members.len()),
            alive: known.alive.iter().map(NodeId::to_string).collect(),
            gossip_refused: known.gossip_refused,
            nodes_refused: known.nodes_refused,
        }
    }

    /// The view that holds on this node.
    pub fn view(&self) -> ViewReport {
        let known = self.known().clone();
        let Some(view) = &known.view else {
            return ViewReport::default();
        };
        let mut owned: BTreeMap<u64, usize> = BTreeMap::new();
        for (member, partitions) in owners(view) {
            *owned.entry(member).or_default() += partitions;
        }
        let members = view.members.iter().map(|member| MemberReport {
            node: member.node.to_string(),
            role: match member.role {
                Role::Active => "active",
                Role::Leaving => "leaving",
            },
            is_here: member.node == known.node,
            is_alive: member.node == known.node || known.alive.contains(&member.node),
            answered_ms_ago: known
                .answered_ms
                .get(&member.node.uid)
                .map(|at_ms| known.now_ms.saturating_sub(*at_ms)),
            first_core: member.first_core,
            cores: member.cores,
            weight: member.weight,
            partitions: owned.get(&member.node.uid).copied().unwrap_or(0),
            gossip: member.gossip,
            bus: member.bus,
            server_reference: member.reference.to_string(),
        });
        ViewReport {
            epoch: view.epoch,
            hash: format!("{:016x}", view.hash()),
            members: members.collect(),
        }
    }

    /// Partitions by core number, of all members: core number, node, and the partitions as ranges.
    pub fn partitions(&self) -> Vec<PartitionsReport> {
        let Some(view) = self.known().view.clone() else {
            return Vec::new();
        };
        let placement = Placement::of(&view);
        let mut by_core: BTreeMap<u16, Vec<u16>> = BTreeMap::new();
        for partition in 0..cluster::partition::PARTITIONS {
            by_core
                .entry(placement.core_of(partition))
                .or_default()
                .push(partition);
        }
        let report = |(core, partitions): (u16, Vec<u16>)| PartitionsReport {
            core,
            node: view
                .member_of_core(core)
                .map(|member| member.node.to_string())
                .unwrap_or_default(),
            count: partitions.len(),
            partitions,
        };
        by_core.into_iter().map(report).collect()
    }

    /// Asks the node to leave; false when it cannot be asked.
    pub fn drain(&self) -> bool {
        self.orders.try_send(Order::Drain).is_ok()
    }

    /// Gives a member another share of the partitions.
    ///
    /// # Errors
    /// What is wrong with the question.
    pub fn set_weight(&self, node: &str, weight: u32) -> Result<(), String> {
        if weight == 0 {
            return Err(
                "a weight is at least 1; drain the node if it is to own nothing".to_owned(),
            );
        }
        let uid = node.split('@').next().unwrap_or_default();
        let uid = u64::from_str_radix(uid, 16).ok();
        let view = self.known().view.clone();
        let member = uid
            .zip(view.as_ref())
            .and_then(|(uid, view)| view.member(uid));
        let Some(member) = member else {
            return Err(format!(
                "{node} is no member of the view; take one that `roadstead ctl cluster view` names"
            ));
        };
        let uid = member.node.uid;
        let sent = self.orders.try_send(Order::Weight { uid, weight });
        sent.map_err(|_| "the node is busy or stopping; try again".to_owned())
    }
}

/// What a core owns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PartitionsReport {
    /// Its number.
    pub core: u16,
    /// Its node.
    pub node: String,
    /// How many it owns.
    pub count: usize,
    /// Which.
    pub partitions: Vec<u16>,
}

/// Partitions by uid of their owner's node.
fn owners(view: &View) -> impl Iterator<Item = (u64, usize)> {
    let placement = Placement::of(view);
    (0..cluster::partition::PARTITIONS).filter_map(move |partition| {
        let core = placement.core_of(partition);
        view.member_of_core(core).map(|member| (member.node.uid, 1))
    })
}
