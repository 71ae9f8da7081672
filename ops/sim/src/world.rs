//! The simulated machines: real shards, a fake mesh, a fake network, a store in memory and a virtual clock. Their turns follow
//! `gateway::event_loop`, with every bound and every delay drawn. What there is besides when they are a cluster: `nodes.rs`.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;

use cluster::view::View;

use edge_proto::topic::RootDepths;
use gateway::access::policy::Policy;
use gateway::admin::AdminRequest;
use gateway::core_message::CoreMessage;
use gateway::engine::{Command, Completion, Restored};
use gateway::outbox::{Order, Outbox};
use gateway::ownership::{Ownership, home_partition};
use gateway::shard::{Arrival, Event, Shard};
use gateway::turn::{Congestion, Facts, Now};
use reactor::driver::{Close, ConnectionId};

use crate::disk::Disk;
use crate::nodes::Nodes;
use crate::plan::{Options, Plan, Planted};
use crate::random::{Random, fold};
use crate::wire::{Say, Wire};

/// One core and what is around it.
#[derive(Debug)]
pub(crate) struct Core {
    /// As other cores call it.
    pub(crate) number: u16,
    pub(crate) shard: Shard,
    pub(crate) outbox: Outbox,
    /// Messages from each core of its node, by lane.
    pub(crate) inbox: Vec<[VecDeque<CoreMessage>; 2]>,
    pub(crate) completions: VecDeque<Completion>,
    pub(crate) commands: VecDeque<Command>,
    generations: Vec<u32>,
    /// The wire of each slot.
    pub(crate) slots: Vec<Option<usize>>,
    /// Views that its node has given it, and the one that holds here.
    pub(crate) views: VecDeque<(Arc<View>, Arc<Ownership>)>,
    pub(crate) view: Option<Arc<View>>,
    /// When that came.
    pub(crate) installed_ms: u64,
}

impl Core {
    pub(crate) fn new(shard: Shard, here: Range<u16>) -> Self {
        let number = shard.facts().core;
        Self {
            number,
            shard,
            outbox: Outbox::new(number, here.clone()),
            inbox: here.map(|_| Default::default()).collect(),
            completions: VecDeque::new(),
            commands: VecDeque::new(),
            generations: Vec::new(),
            slots: Vec::new(),
            views: VecDeque::new(),
            view: None,
            installed_ms: 0,
        }
    }

    /// True when it serves all that its view gives it.
    pub(crate) fn is_serving(&self) -> bool {
        let epoch = self.view.as_ref().map(|view| view.epoch);
        epoch.is_some() && self.shard.served_epoch() == epoch
    }
}

/// The machines.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) now: Now,
    /// Of one node after another, each with the same number of them.
    pub(crate) cores: Vec<Core>,
    pub(crate) disk: Disk,
    /// `None` for one node alone.
    pub(crate) nodes: Option<Box<Nodes>>,
    pub(crate) wires: Vec<Wire>,
    /// What the server wrote in this step: wire and bytes, whole packets.
    pub(crate) written: Vec<(usize, Vec<u8>)>,
    /// Pairs of cores whose mesh stands still, and until when.
    pub(crate) frozen: Vec<(usize, usize, u64)>,
    pub(crate) calm: bool,
    pub(crate) planted: Option<Planted>,
    pub(crate) planted_left: u32,
    pub(crate) mesh_random: Random,
    network_random: Random,
    pub(crate) engine_random: Random,
    pub(crate) facts: Facts,
    pub(crate) hash: u64,
    pub(crate) crashes: u64,
    /// Deliveries dropped for a reason that voids the promise to live-only sessions, crashes included.
    pub(crate) dropped_slow: u64,
    /// What happened to nodes since somebody looked.
    pub(crate) news: Vec<String>,
}

const START_UNIX_MS: u64 = 1_700_000_000_000;

impl World {
    pub(crate) fn new(plan: Plan, options: &Options) -> Self {
        let now = Now {
            mono_ms: 0,
            unix_ms: START_UNIX_MS,
        };
        let seed = options.seed;
        let facts = Facts {
            core: 0,
            limits: plan.limits.clone(),
            root_depths: RootDepths::default(),
            websocket_path: "/mqtt".into(),
            seed,
        };
        let disk = Disk::new(&plan, options.planted, now);
        let mut world = Self {
            plan,
            now,
            cores: Vec::new(),
            disk,
            nodes: None,
            wires: Vec::new(),
            written: Vec::new(),
            frozen: Vec::new(),
            calm: false,
            planted: options.planted,
            planted_left: 3,
            mesh_random: Random::new(seed, "mesh"),
            network_random: Random::new(seed, "network"),
            engine_random: Random::new(seed, "engine"),
            facts,
            hash: 0,
            crashes: 0,
            dropped_slow: 0,
            news: Vec::new(),
        };
        if world.plan.nodes > 1 {
            world.found_cluster(seed);
        } else {
            world.start(&[]);
        }
        world
    }

    /// The places of the cores of the same node.
    pub(crate) fn node_of(&self, core: usize) -> Range<usize> {
        let cores = usize::from(self.plan.cores);
        let first = core / cores * cores;
        first..first + cores
    }

    /// Starts the node over what the store holds.
    fn start(&mut self, found: &[Restored]) {
        let count = self.plan.cores;
        let boot = self.disk.boot_count();
        self.cores.clear();
        let ownership = Arc::new(Ownership::alone(count));
        for core in 0..count {
            let facts = Facts {
                core,
                ..self.facts.clone()
            };
            let shard = Shard::new(
                facts,
                Arc::clone(&ownership),
                Arc::new(Policy::open()),
                boot,
                self.now,
            );
            let mut at = Core::new(shard, 0..count);
            let mut homes = std::collections::BTreeMap::new();
            for item in found {
                let home = match item {
                    Restored::Session {
                        session, record, ..
                    } => {
                        let home = home_partition(record.home_name());
                        homes.insert(*session, home);
                        home
                    }
                    Restored::Subscription { session, .. } => homes[session],
                    Restored::Retained { .. } | Restored::Route { .. } => core,
                };
                at.shard.restore(self.now, item, home, &mut at.outbox);
            }
            self.cores.push(at);
        }
    }

    /// The process is killed and started again.
    pub(crate) fn crash(&mut self, power: bool) {
        self.crashes += 1;
        self.hash = fold(self.hash, 0xDEAD);
        for wire in &mut self.wires {
            wire.broken = true;
            wire.gone = true;
            wire.to_server.clear();
            wire.unsent.clear();
        }
        self.dropped_slow = self.dropped_slow();
        self.frozen.clear();
        let found = self.disk.crash(&mut self.engine_random, self.now, power);
        self.start(&found);
    }

    /// Opens a connection to a core.
    pub(crate) fn open(&mut self, client: usize, core: usize) -> usize {
        let at = &mut self.cores[core];
        let slot = at
            .slots
            .iter()
            .position(Option::is_none)
            .unwrap_or_else(|| {
                at.slots.push(None);
                at.generations.push(self.crashes as u32 * 1000);
                at.slots.len() - 1
            });
        at.generations[slot] += 1;
        let id = ConnectionId {
            slot: slot as u32,
            generation: at.generations[slot],
        };
        let wire = self.wires.len();
        at.slots[slot] = Some(wire);
        self.wires
            .push(Wire::new(id, core, client, self.now.mono_ms));
        wire
    }

    /// Time passes.
    pub(crate) fn pass(&mut self, ms: u64) {
        self.now.mono_ms += ms;
        self.now.unix_ms += ms;
    }

    /// One turn of a core.
    pub(crate) fn turn(&mut self, core: usize) {
        self.take_view(core);
        self.socket_events(core);
        self.take_mesh(core);
        self.take_bus(core);
        let waiting = self.cores[core].completions.len();
        let count = if self.calm || self.engine_random.percent(70) {
            waiting
        } else {
            self.engine_random.below(waiting + 1)
        };
        for _ in 0..count {
            let Some(completion) = self.cores[core].completions.pop_front() else {
                break;
            };
            self.hash = fold(self.hash, 3);
            self.handle(core, Event::Engine(completion));
        }
        let backlog = self.plan.congested_from;
        let node = &self.cores[self.node_of(core)];
        let mut outboxes = node.iter().map(|core| &core.outbox);
        let own = &self.cores[core].outbox;
        let congestion = Congestion {
            engine: own.is_engine_behind(backlog, usize::MAX),
            congested: own.control_backlog() > backlog
                || self.is_bus_behind(core)
                || outboxes.any(|outbox| outbox.is_engine_behind(backlog, usize::MAX)),
            pressed: false,
        };
        self.handle(core, Event::Tick(congestion));
        self.flush(core);
    }

    pub(crate) fn handle(&mut self, core: usize, event: Event<'_>) {
        let now = self.now;
        let Core { shard, outbox, .. } = &mut self.cores[core];
        shard.handle(now, event, outbox);
    }

    fn socket_events(&mut self, core: usize) {
        let wires: Vec<usize> = self.cores[core].slots.iter().copied().flatten().collect();
        for index in wires {
            for _ in 0..4 {
                let calm = self.calm;
                let now_ms = self.now.mono_ms;
                let random = &mut self.network_random;
                let piece = |length: usize| {
                    if calm || random.percent(50) {
                        length
                    } else {
                        1 + random.below(length)
                    }
                };
                let Some(said) = self.wires[index].next(now_ms, piece) else {
                    break;
                };
                self.socket_event(core, index, said);
                if self.network_random.percent(30) {
                    break;
                }
            }
        }
    }

    fn socket_event(&mut self, core: usize, wire: usize, said: Say) {
        let connection = self.wires[wire].id;
        self.hash = fold(fold(self.hash, 1), wire as u64);
        match said {
            Say::Accepted => {
                let peer = SocketAddr::from(([10, 0, 0, 1], 1024 + wire as u16 % 60_000));
                self.handle(
                    core,
                    Event::Accepted {
                        connection,
                        arrival: Arrival::plain(false, peer),
                    },
                );
            }
            Say::Received(mut bytes) => {
                self.hash = fold(self.hash, bytes.len() as u64);
                self.handle(
                    core,
                    Event::Received {
                        connection,
                        bytes: &mut bytes,
                    },
                );
            }
            Say::Drained => self.handle(core, Event::Drained(connection)),
            Say::PeerClosed => self.handle(core, Event::PeerClosed(connection)),
            Say::Closed => {
                self.handle(core, Event::Closed(connection));
                self.cores[core].slots[connection.slot as usize] = None;
            }
        }
        // Orders that came out of this event hold for the next one of the same connection.
        self.obey(core);
    }

    /// Hands out what the turn produced.
    fn flush(&mut self, core: usize) {
        self.obey(core);
        self.flush_mesh(core);
        self.flush_bus(core);
        let room = self.plan.engine_slots;
        let Core {
            outbox, commands, ..
        } = &mut self.cores[core];
        while commands.len() < room
            && let Some(command) = outbox.engine.pop_front()
        {
            commands.push_back(command);
        }
        outbox.violations.clear();
        outbox.notes.clear();
        outbox.admin.clear();
    }

    /// Bytes and orders go to the connections.
    fn obey(&mut self, core: usize) {
        let mut outputs = std::mem::take(&mut self.cores[core].outbox.outputs);
        if !outputs.is_empty() {
            self.cores[core].outbox.outputs = outputs;
            self.cores[core].outbox.seal();
            outputs = std::mem::take(&mut self.cores[core].outbox.outputs);
        }
        for output in outputs {
            let Some(wire) = self.wire_of(core, output.connection) else {
                continue;
            };
            self.hash = output
                .bytes
                .iter()
                .fold(self.hash, |hash, byte| fold(hash, u64::from(*byte)));
            let mut bytes = output.bytes;
            if self.planted == Some(Planted::LosesDisconnect)
                && bytes.len() >= 3
                && bytes[bytes.len() - 3] == 0xE0
            {
                bytes.truncate(bytes.len() - 3);
            }
            self.wires[wire].unsent.extend_from_slice(&bytes);
            self.written.push((wire, bytes));
        }
        let now_ms = self.now.mono_ms;
        for order in std::mem::take(&mut self.cores[core].outbox.orders) {
            let (Order::Close(id, _) | Order::Pause(id) | Order::Resume(id) | Order::Watch(id)) =
                order;
            let Some(wire) = self.wire_of(core, id) else {
                continue;
            };
            let wire = &mut self.wires[wire];
            match order {
                Order::Close(_, how) => {
                    let linger_ms = match how {
                        Close::Graceful { linger_ms } => linger_ms,
                        Close::Abort => 0,
                    };
                    let until_ms = now_ms + u64::from(linger_ms);
                    wire.closing.get_or_insert((how, until_ms));
                }
                Order::Pause(_) => wire.paused = true,
                Order::Resume(_) => wire.paused = false,
                Order::Watch(_) => wire.watched = true,
            }
        }
    }

    fn wire_of(&self, core: usize, id: ConnectionId) -> Option<usize> {
        let wire = (*self.cores[core].slots.get(id.slot as usize)?)?;
        (self.wires[wire].id == id).then_some(wire)
    }

    /// One attempt of the engine thread of a node.
    pub(crate) fn engine_step(&mut self) {
        if self.nodes.is_some() {
            return self.shared_engine_step();
        }
        let mut queues: Vec<&mut VecDeque<Command>> = self
            .cores
            .iter_mut()
            .map(|core| &mut core.commands)
            .collect();
        let answers = self
            .disk
            .step(&mut self.engine_random, self.now, &mut queues);
        for (core, answer) in answers {
            self.cores[usize::from(core)].completions.push_back(answer);
        }
    }

    /// The network carries bytes of one connection towards its client.
    pub(crate) fn network_step(&mut self, wire: usize) {
        let (calm, now_ms) = (self.calm, self.now.mono_ms);
        let random = &mut self.network_random;
        let piece = |length: usize| {
            if calm || random.percent(40) {
                length
            } else {
                random.below(length + 1)
            }
        };
        self.wires[wire].carry(now_ms, piece);
    }

    /// True when nothing is on its way anywhere inside the nodes.
    pub(crate) fn is_idle(&self) -> bool {
        let quiet = |core: &Core| {
            core.completions.is_empty()
                && core.commands.is_empty()
                && core.outbox.engine.is_empty()
                && core.outbox.mesh_backlog() == 0
                && core.inbox.iter().flatten().all(VecDeque::is_empty)
        };
        self.disk.is_idle() && self.cores.iter().all(quiet) && self.is_cluster_at_rest()
    }

    /// Messages in the queues of shared subscriptions. What a member had no room for is offered again after a while.
    pub(crate) fn queued_in_groups(&self) -> u64 {
        let queued = |core: &Core| core.shard.snapshot().group_queue_messages;
        self.cores.iter().map(queued).sum()
    }

    /// The subscriptions that the owners have, as an operator sees them.
    pub(crate) fn subscriptions(&mut self) -> Vec<String> {
        let mut all = Vec::new();
        for core in 0..self.cores.len() {
            let request = AdminRequest::Subscriptions {
                prefix: String::new(),
                limit: 1000,
            };
            self.handle(core, Event::Admin(0, request));
            all.extend(
                self.cores[core]
                    .outbox
                    .admin
                    .drain(..)
                    .map(|(_, reply)| format!("core {core} {reply:?}")),
            );
        }
        all
    }

    /// The cores that must know a filter.
    pub(crate) fn owners(&self, filter: &str) -> usize {
        let depths = &self.facts.root_depths;
        let ownership = self.cores[0].shard.ownership();
        ownership.owners_of_filter(depths, filter).len()
    }

    /// Counts what may make a delivery come twice, or late, where nothing is stored: crashes, and views at cores.
    pub(crate) fn upheavals(&self) -> u64 {
        self.nodes
            .as_ref()
            .map_or(self.crashes, |nodes| nodes.upheavals)
    }

    /// Deliveries to live-only sessions that were dropped because their queue was full, since the first start.
    pub(crate) fn dropped_slow(&self) -> u64 {
        use gateway::metrics::DropReason::SlowConsumer;
        let dropped: u64 = self
            .cores
            .iter()
            .map(|core| core.shard.snapshot().dropped[SlowConsumer as usize])
            .sum();
        self.dropped_slow.max(dropped)
    }
}
