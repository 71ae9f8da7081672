//! The nodes of a simulated cluster and their lives. Views come from a script, in place of gossip and coordinator: `views.rs`.
//!
//! ```text
//!           is in a view             is in none any more: its clients are cut off
//!  JOINING ─────────────▶ LIVING ─────────────────────────────────────────▶ JOINING, another incarnation
//!     ▲                     │ crash, or it has left
//!     └──── some time ──── DOWN
//! ```
//!
//! Views reach nodes at different times, and some reach a node never; each core of a node takes them when it gets to it. A node that
//! cannot be reached holds a lease and then handles nothing; the others take it out of the view after that.

use std::sync::Arc;

use cluster::view::{Joining, NodeId, ProtocolRange, View};
use gateway::access::policy::Policy;
use gateway::ownership::Ownership;
use gateway::shard::Shard;
use gateway::turn::Facts;

use crate::bus::Pipes;
use crate::random::{Random, fold};
use crate::shared::EngineThread;
use crate::world::{Core, World};

/// How long a node serves that cannot be reached.
pub(crate) const LEASE_MS: u64 = 3_000;
/// A core that has waited for others for so long gets help: what a shard does when it loses its patience voids promises.
const HELP_AFTER_MS: u64 = 4_000;

/// What a node is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Down { up_at_ms: u64 },
    Joining { from_ms: u64 },
    Living,
}

/// How far a node is that leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leaving {
    No,
    /// It is to have no partitions any more.
    Asked,
    /// Its clients have been told, and it is to be no member any more.
    Drained {
        out_ms: u64,
    },
}

/// One node.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) state: State,
    /// Names it and its life for the engine.
    pub(crate) life: u64,
    /// Number of its view.
    pub(crate) epoch: u64,
    /// Views on their way to it, and when they come.
    pub(crate) heard: Vec<(u64, Arc<View>)>,
    pub(crate) lease_ms: u64,
    /// It stands still until then.
    pub(crate) paused_ms: u64,
    /// Neither the others nor the engine reach it until then.
    pub(crate) cut_ms: u64,
    /// When the others take it out, if it is silent until then.
    pub(crate) out_ms: Option<u64>,
    pub(crate) leaving: Leaving,
    pub(crate) engine: EngineThread,
}

impl Node {
    pub(crate) fn is_silent(&self, now_ms: u64) -> bool {
        let down = matches!(self.state, State::Down { .. });
        down || now_ms < self.paused_ms || now_ms < self.cut_ms
    }

    pub(crate) fn joining(&self, cores: u16) -> Joining {
        Joining {
            node: self.id,
            cores,
            weight: 100,
            gossip: ([10, 1, 0, self.id.uid as u8], 7946).into(),
            bus: ([10, 1, 0, self.id.uid as u8], 7947).into(),
            reference: "".into(),
            protocol: ProtocolRange { min: 1, max: 1 },
        }
    }
}

/// The cluster.
#[derive(Debug)]
pub(crate) struct Nodes {
    pub(crate) all: Vec<Node>,
    /// The last view.
    pub(crate) view: Arc<View>,
    pub(crate) pipes: Pipes,
    /// Links that stand still: from a node, to a node, until when.
    pub(crate) clogs: Vec<(usize, usize, u64)>,
    pub(crate) random: Random,
    lives: u64,
    /// See [`World::upheavals`].
    pub(crate) upheavals: u64,
    /// What the next view is to be besides: weights of members, or only another number.
    pub(crate) wishes: Vec<Wish>,
}

/// A reason for a view that is not that of a node.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wish {
    Weight(u64, u32),
    Number,
}

impl World {
    /// All nodes start at once, and serve when the run begins.
    pub(crate) fn found_cluster(&mut self, seed: u64) {
        let (count, cores) = (self.plan.nodes, self.plan.cores);
        let all: Vec<Node> = (1..=u64::from(count)).map(new_node).collect();
        let joining = |node: &Node| node.joining(cores);
        let first = View::first(1, "sim", &joining(&all[0])).expect("a good view");
        let view = all[1..].iter().fold(first, |view, node| {
            view.with_member(1, &joining(node)).expect("a good view")
        });
        let view = Arc::new(view);
        self.nodes = Some(Box::new(Nodes {
            all,
            view: Arc::clone(&view),
            pipes: Pipes::default(),
            clogs: Vec::new(),
            random: Random::new(seed, "nodes"),
            lives: 0,
            upheavals: 0,
            wishes: Vec::new(),
        }));
        for node in 0..usize::from(count) {
            self.begin_life(node, &view);
        }
        self.calm = true;
        for _ in 0..10_000 {
            if self.is_cluster_at_rest() {
                break;
            }
            for core in 0..self.cores.len() {
                self.turn(core);
            }
            self.engine_step();
        }
        self.calm = false;
    }

    /// True unless the node of this core is down or not a member yet.
    pub(crate) fn lives(&self, core: usize) -> bool {
        let place = core / usize::from(self.plan.cores);
        let nodes = self.nodes.as_ref();
        nodes.is_none_or(|nodes| nodes.all[place].state == State::Living)
    }

    /// True when a core may take a turn.
    pub(crate) fn runs(&self, core: usize) -> bool {
        let Some(nodes) = &self.nodes else {
            return true;
        };
        let node = &nodes.all[core / usize::from(self.plan.cores)];
        let now_ms = self.now.mono_ms;
        node.state == State::Living && now_ms >= node.paused_ms && now_ms < node.lease_ms
    }

    /// The cores that clients can connect to.
    pub(crate) fn open_cores(&self) -> Vec<usize> {
        let is_open = |core: &usize| {
            let place = *core / usize::from(self.plan.cores);
            let nodes = self.nodes.as_ref();
            self.lives(*core)
                && nodes.is_none_or(|nodes| {
                    !matches!(nodes.all[place].leaving, Leaving::Drained { .. })
                })
        };
        (0..self.cores.len()).filter(is_open).collect()
    }

    /// True when the node of this core is a member of the last view. Another one may have clients that do not know better.
    pub(crate) fn is_member(&self, core: usize) -> bool {
        let place = core / usize::from(self.plan.cores);
        let nodes = self.nodes.as_ref();
        nodes.is_none_or(|nodes| nodes.view.contains(nodes.all[place].id))
    }

    pub(crate) fn is_link_clogged(&self, from: usize, to: usize) -> bool {
        let Some(nodes) = &self.nodes else {
            return false;
        };
        let cores = usize::from(self.plan.cores);
        let (from, to, now_ms) = (from / cores, to / cores, self.now.mono_ms);
        let is_cut = |node: usize| now_ms < nodes.all[node].cut_ms;
        let mut clogs = nodes.clogs.iter();
        is_cut(from)
            || is_cut(to)
            || clogs
                .any(|(one, other, until_ms)| (*one, *other) == (from, to) && now_ms < *until_ms)
    }

    /// True when all nodes live with the last view, and serve all that is theirs.
    pub(crate) fn is_cluster_at_rest(&self) -> bool {
        let Some(nodes) = &self.nodes else {
            return true;
        };
        let is_there = |core: &Core| {
            let epoch = core.view.as_ref().map_or(0, |view| view.epoch);
            epoch == nodes.view.epoch && core.is_serving()
        };
        let is_member = |node: &Node| {
            node.state == State::Living
                && node.leaving == Leaving::No
                && nodes.view.contains(node.id)
        };
        nodes.all.iter().all(is_member)
            && self.cores.iter().all(is_there)
            && self.is_bus_quiet()
            && nodes.all.iter().all(|node| node.engine.is_idle())
    }

    /// True when no core has anything to hear from another node. What a node said that was no member any more nobody hears.
    fn is_bus_quiet(&self) -> bool {
        let hears = |from: u16, to: u16| {
            let mut cores = self.cores.iter();
            let view = cores
                .find(|core| core.number == to)
                .and_then(|core| core.view.as_ref());
            view.is_some_and(|view| view.member_of_core(from).is_some())
        };
        let nodes = self.nodes.as_ref();
        nodes.is_none_or(|nodes| nodes.pipes.is_quiet(hears))
    }

    /// Where nodes and cores are, for whoever looks for what does not come to rest.
    pub(crate) fn shown_nodes(&self) -> Vec<String> {
        let Some(nodes) = &self.nodes else {
            return Vec::new();
        };
        let node = |(place, node): (usize, &Node)| {
            format!(
                "node {place} {:?} {:?} epoch {} life {} engine idle {}",
                node.state,
                node.leaving,
                node.epoch,
                node.life,
                node.engine.is_idle()
            )
        };
        let core = |core: &Core| {
            format!(
                "core {} view {:?} serves {} {:?} commands {} mesh {}",
                core.number,
                core.view.as_ref().map(|view| view.epoch),
                core.is_serving(),
                core.shard.handover_sample(self.now),
                core.commands.len() + core.outbox.engine.len(),
                core.outbox.mesh_backlog(),
            )
        };
        let mut shown = vec![format!(
            "view {} bus quiet {}",
            nodes.view.epoch,
            self.is_bus_quiet()
        )];
        shown.extend(nodes.all.iter().enumerate().map(node));
        shown.extend(self.cores.iter().map(core));
        shown
    }

    /// A node's process begins to serve.
    pub(crate) fn begin_life(&mut self, place: usize, view: &Arc<View>) {
        let now = self.now;
        let Some(nodes) = &mut self.nodes else {
            return;
        };
        nodes.lives += 1;
        let node = &mut nodes.all[place];
        node.state = State::Living;
        node.life = nodes.lives;
        node.epoch = view.epoch;
        node.lease_ms = now.mono_ms + LEASE_MS;
        node.leaving = Leaving::No;
        node.engine = EngineThread::default();
        let Some(ownership) = Ownership::of(view, node.id.uid).map(Arc::new) else {
            return;
        };
        self.news.push(format!("node {place} begins a life"));
        for (core, number) in ownership.here().enumerate() {
            let facts = Facts {
                core: number,
                ..self.facts.clone()
            };
            let policy = Arc::new(Policy::open());
            let shard = Shard::new(facts, Arc::clone(&ownership), policy, 1, now);
            let new = Core::new(shard, ownership.here());
            let index = place * usize::from(self.plan.cores) + core;
            if index < self.cores.len() {
                self.cores[index] = new;
            } else {
                self.cores.push(new);
            }
        }
        self.give_view(place, view);
    }

    /// A node's process ends, or begins anew because it is no member any more.
    pub(crate) fn end_life(&mut self, place: usize, up_at_ms: u64) {
        self.dropped_slow = self.dropped_slow();
        self.crashes += 1;
        self.hash = fold(self.hash, 0xDEAD);
        let first = place * usize::from(self.plan.cores);
        let numbers: Vec<u16> = self.cores[self.node_of(first)]
            .iter()
            .map(|core| core.number)
            .collect();
        for core in self.node_of(first) {
            for wire in std::mem::take(&mut self.cores[core].slots)
                .into_iter()
                .flatten()
            {
                let wire = &mut self.wires[wire];
                (wire.broken, wire.gone) = (true, true);
                wire.to_server.clear();
                wire.unsent.clear();
            }
        }
        let Some(nodes) = &mut self.nodes else {
            return;
        };
        nodes.upheavals += 1;
        let is_gone = |core: u16| numbers.contains(&core);
        nodes.pipes.cut(&mut nodes.random, is_gone);
        let node = &mut nodes.all[place];
        node.state = State::Down { up_at_ms };
        (node.leaving, node.epoch, node.out_ms) = (Leaving::No, 0, None);
        node.heard.clear();
        let (life, engine) = (node.life, std::mem::take(&mut node.engine));
        self.disk.outlive(&mut nodes.random, self.now, life, engine);
        self.news.push(format!("node {place} ends a life"));
    }

    /// Time stands still, and everything in the way of others goes, before a core loses its patience.
    pub(crate) fn must_help(&mut self, ms: u64) -> bool {
        let now_ms = self.now.mono_ms;
        let waits = |core: &usize| {
            let at = &self.cores[*core];
            self.lives(*core)
                && !at.is_serving()
                && at.view.is_some()
                && self.is_member(*core)
                && now_ms + ms >= at.installed_ms + HELP_AFTER_MS
        };
        if self.nodes.is_none() || !(0..self.cores.len()).any(|core| waits(&core)) {
            return false;
        }
        self.heal();
        true
    }

    /// Ends all troubles: who is silent speaks, who is down comes up, and what is decided is told.
    pub(crate) fn heal(&mut self) {
        let now_ms = self.now.mono_ms;
        self.frozen.clear();
        self.disk.failing_until_ms = 0;
        let Some(nodes) = &mut self.nodes else {
            return;
        };
        nodes.clogs.clear();
        for node in &mut nodes.all {
            (node.paused_ms, node.cut_ms) = (0, 0);
            node.engine.failing_until_ms = 0;
            if let Some(out_ms) = &mut node.out_ms {
                *out_ms = now_ms;
            }
            if let State::Down { up_at_ms } = &mut node.state {
                *up_at_ms = now_ms;
            }
            if let State::Joining { from_ms } = &mut node.state {
                *from_ms = now_ms;
            }
            for (at_ms, _) in &mut node.heard {
                *at_ms = now_ms;
            }
        }
        self.tick_nodes();
    }
}

fn new_node(uid: u64) -> Node {
    Node {
        id: NodeId {
            uid,
            incarnation: 1,
        },
        state: State::Down { up_at_ms: 0 },
        life: 0,
        epoch: 0,
        heard: Vec::new(),
        lease_ms: 0,
        paused_ms: 0,
        cut_ms: 0,
        out_ms: None,
        leaving: Leaving::No,
        engine: EngineThread::default(),
    }
}
