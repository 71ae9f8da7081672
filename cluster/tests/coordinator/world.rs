//! The world around the coordinators: processes with clocks of their own, links, gossip, and the store.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::SocketAddr;
use std::sync::Arc;

use cluster::coordinator::times::TICK_MS;
use cluster::coordinator::{Action, Coordinator, Input, Refusal, Standing, Written};
use cluster::view::{Joining, NodeId, ProtocolRange, Version, View};

use crate::checks::Checks;
use crate::surroundings::{Random, Store};

/// A process: one run of a node.
pub(crate) struct Process {
    pub(crate) coordinator: Coordinator,
    /// What its clock shows more than the world's.
    pub(crate) clock_ms: u64,
    /// It does nothing before this time, and then everything that came meanwhile.
    pub(crate) paused_until_ms: u64,
    /// What it says of itself to gossip.
    pub(crate) joining: Joining,
    /// When it last asked the store.
    pub(crate) asked_store_ms: u64,
    /// When it last asked another node for its view.
    pub(crate) pulled_ms: u64,
    /// True exactly when it was asked to leave.
    pub(crate) leaving: bool,
    pub(crate) left: bool,
    pub(crate) elsewhere: bool,
}

/// A place where a process can run; its uid stays.
pub(crate) struct Slot {
    pub(crate) uid: u64,
    pub(crate) process: Option<Process>,
    /// Rises with each process.
    pub(crate) run: u64,
    /// True exactly when it is cut off from the store.
    pub(crate) store_cut: bool,
    /// What gossip has told the process of the others, and since when that is not true.
    pub(crate) believed: BTreeMap<usize, NodeId>,
    pub(crate) untrue: BTreeMap<usize, (u64, Option<NodeId>)>,
}

pub(crate) enum Event {
    Tick {
        slot: usize,
        run: u64,
    },
    Input {
        slot: usize,
        run: u64,
        input: Input,
    },
    Heartbeat {
        slot: usize,
        run: u64,
    },
    /// A heartbeat has arrived.
    Ask {
        to: usize,
        from: usize,
        from_run: u64,
        node: NodeId,
        version: Option<Version>,
        sent_ms: u64,
    },
    Pull {
        to: usize,
        from: usize,
        from_run: u64,
    },
    Store {
        slot: usize,
        run: u64,
        ask: StoreAsk,
    },
    Gossip,
}

pub(crate) enum StoreAsk {
    Read {
        request: u64,
        known: Option<Version>,
        beat: bool,
    },
    Write {
        request: u64,
        expected: Option<Version>,
        view: Arc<View>,
        version: Version,
    },
}

pub(crate) struct World {
    pub(crate) now_ms: u64,
    pub(crate) random: Random,
    pub(crate) slots: Vec<Slot>,
    /// `cut[a][b]`: nothing comes from a to b.
    pub(crate) cut: Vec<Vec<bool>>,
    /// Links of the bus that do not work, while gossip finds other ways.
    pub(crate) bus_cut: Vec<Vec<bool>>,
    /// Longest that gossip takes to see a death.
    pub(crate) lag_ms: u64,
    pub(crate) store: Store,
    pub(crate) checks: Checks,
    pub(crate) installed_count: u64,
    pub(crate) refused: Vec<(NodeId, Refusal)>,
    pub(crate) duplicates: Vec<NodeId>,
    pub(crate) foreign: u64,
    events: BinaryHeap<Reverse<(u64, u64)>>,
    bodies: BTreeMap<u64, Event>,
    sequence: u64,
    /// Prints what everybody does.
    traces: bool,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let count = random.between(1, 7) as usize;
        let mut world = Self::empty(random, count);
        for slot in 0..count {
            if world.random.chance(80) {
                world.start(slot);
            }
        }
        world
    }

    pub(crate) fn of(seed: u64, count: usize) -> Self {
        let mut world = Self::empty(Random::new(seed), count);
        for slot in 0..count {
            world.start(slot);
        }
        world
    }

    fn empty(random: Random, count: usize) -> Self {
        let slots = (0..count)
            .map(|slot| Slot {
                uid: 10 + slot as u64,
                process: None,
                run: 0,
                store_cut: false,
                believed: BTreeMap::new(),
                untrue: BTreeMap::new(),
            })
            .collect();
        let mut world = Self {
            now_ms: 1_000,
            random,
            slots,
            cut: vec![vec![false; count]; count],
            bus_cut: vec![vec![false; count]; count],
            lag_ms: 3_000,
            store: Store::default(),
            checks: Checks::new(count),
            installed_count: 0,
            refused: Vec::new(),
            duplicates: Vec::new(),
            foreign: 0,
            events: BinaryHeap::new(),
            bodies: BTreeMap::new(),
            sequence: 0,
            traces: std::env::var_os("CLUSTER_TRACE").is_some(),
        };
        world.at(world.now_ms, Event::Gossip);
        world
    }

    pub(crate) fn joining(&self, slot: usize, incarnation: u64) -> Joining {
        Joining {
            node: NodeId {
                uid: self.slots[slot].uid,
                incarnation,
            },
            cores: 1 + (slot as u16 % 4),
            weight: 2,
            gossip: SocketAddr::from(([10, 0, 0, slot as u8], 7_946)),
            bus: SocketAddr::from(([10, 0, 0, slot as u8], 7_947)),
            reference: "".into(),
            protocol: ProtocolRange { min: 1, max: 1 },
        }
    }

    pub(crate) fn start(&mut self, slot: usize) {
        let joining = self.joining(slot, self.now_ms * 1_000);
        let clock_ms = self.random.below(1_000_000);
        self.slots[slot].run += 1;
        self.slots[slot].believed.clear();
        self.slots[slot].untrue.clear();
        self.slots[slot].process = Some(Process {
            coordinator: Coordinator::new(self.now_ms + clock_ms, "roadstead", joining.clone()),
            clock_ms,
            paused_until_ms: 0,
            joining,
            asked_store_ms: 0,
            pulled_ms: 0,
            leaving: false,
            left: false,
            elsewhere: false,
        });
        self.checks.started(slot);
        let run = self.slots[slot].run;
        let (tick_ms, heartbeat_ms) = (self.random.below(TICK_MS), self.random.below(500));
        self.at(self.now_ms + tick_ms, Event::Tick { slot, run });
        self.at(self.now_ms + heartbeat_ms, Event::Heartbeat { slot, run });
    }

    pub(crate) fn crash(&mut self, slot: usize) {
        self.slots[slot].process = None;
        self.slots[slot].run += 1;
    }

    /// An operator's word, or whatever else comes from outside.
    pub(crate) fn tell(&mut self, slot: usize, input: Input) {
        if let (Input::Leave, Some(process)) = (&input, &mut self.slots[slot].process) {
            process.leaving = true;
        }
        let run = self.slots[slot].run;
        self.at(self.now_ms, Event::Input { slot, run, input });
    }

    pub(crate) fn up(&self, slot: usize) -> Option<&Process> {
        self.slots[slot]
            .process
            .as_ref()
            .filter(|process| !process.left)
    }

    pub(crate) fn running(&self, slot: usize) -> Option<&Process> {
        self.up(slot)
            .filter(|process| self.now_ms >= process.paused_until_ms)
    }

    /// True exactly when both run and hear each other.
    pub(crate) fn both_ways(&self, one: usize, other: usize) -> bool {
        let open = |from: usize, to: usize| !self.cut[from][to] && !self.bus_cut[from][to];
        self.running(one).is_some()
            && self.running(other).is_some()
            && open(one, other)
            && open(other, one)
    }

    pub(crate) fn reaches_store(&self, slot: usize) -> bool {
        !self.slots[slot].store_cut && !self.store.down
    }

    pub(crate) fn slot_of(&self, uid: u64) -> usize {
        (uid - 10) as usize
    }

    /// Living nodes.
    pub(crate) fn living(&self) -> Vec<NodeId> {
        (0..self.slots.len())
            .filter_map(|slot| self.up(slot))
            .map(|process| process.joining.node)
            .collect()
    }

    pub(crate) fn at(&mut self, at_ms: u64, event: Event) {
        self.sequence += 1;
        self.events.push(Reverse((at_ms, self.sequence)));
        self.bodies.insert(self.sequence, event);
    }

    pub(crate) fn run_until(&mut self, end_ms: u64) {
        while let Some(&Reverse((at_ms, sequence))) = self.events.peek() {
            if at_ms > end_ms {
                break;
            }
            self.events.pop();
            self.now_ms = self.now_ms.max(at_ms);
            let event = self
                .bodies
                .remove(&sequence)
                .expect("each event has a body");
            self.happen(event);
        }
        self.now_ms = end_ms;
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Tick { slot, run } => {
                if self.slots[slot].run == run {
                    self.input(slot, run, Input::Tick);
                    self.at(self.now_ms + TICK_MS, Event::Tick { slot, run });
                    let checks = std::mem::take(&mut self.checks);
                    self.checks = checks.after_tick(self, slot);
                }
            }
            Event::Input { slot, run, input } => self.input(slot, run, input),
            Event::Heartbeat { slot, run } => {
                if self.slots[slot].run == run {
                    self.heartbeat(slot, run);
                    self.at(self.now_ms + 500, Event::Heartbeat { slot, run });
                }
            }
            Event::Ask {
                to,
                from,
                from_run,
                node,
                version,
                sent_ms,
            } => {
                self.asked(to, from, from_run, (node, version), sent_ms);
            }
            Event::Pull { to, from, from_run } => {
                let view = self
                    .running(to)
                    .map(|process| (process.joining.node, process.coordinator.view().cloned()));
                if let Some((node, view)) = view {
                    let view = view.map(|view| View::decode(&view.encode()).expect("a view"));
                    self.send(to, from, from_run, Input::Pulled { from: node, view });
                }
            }
            Event::Store { slot, run, ask } => self.at_store(slot, run, ask),
            Event::Gossip => {
                self.gossip();
                self.at(self.now_ms + 200, Event::Gossip);
            }
        }
    }

    pub(crate) fn input(&mut self, slot: usize, run: u64, input: Input) {
        if self.slots[slot].run != run {
            return;
        }
        let now_ms = self.now_ms;
        let Some(process) = &mut self.slots[slot].process else {
            return;
        };
        if process.left {
            return;
        }
        if now_ms < process.paused_until_ms {
            let until_ms = process.paused_until_ms;
            if !matches!(input, Input::Tick) {
                self.at(until_ms, Event::Input { slot, run, input });
            }
            return;
        }
        match &input {
            Input::Heard {
                from,
                answers_ms: Some(sent_ms),
                ..
            } => {
                let other = (from.uid - 10) as usize;
                self.checks
                    .answered(slot, Some(other), sent_ms - process.clock_ms);
            }
            Input::Read {
                stored: Some(_), ..
            }
            | Input::Written {
                outcome: Written::Done,
                ..
            } => self.checks.answered(slot, None, process.asked_store_ms),
            Input::Pulled { view: Some(_), .. } => {
                self.checks.answered(slot, None, process.pulled_ms);
            }
            _ => {}
        }
        let mut actions = Vec::new();
        process
            .coordinator
            .handle(now_ms + process.clock_ms, input, &mut actions);
        for action in actions {
            if self.traces {
                eprintln!("{now_ms} {slot} {action:?}");
            }
            self.act(slot, run, action);
        }
    }

    fn act(&mut self, slot: usize, run: u64, action: Action) {
        match action {
            Action::ReadStore {
                request,
                known,
                beat,
            } => {
                self.ask_store(
                    slot,
                    run,
                    StoreAsk::Read {
                        request,
                        known,
                        beat,
                    },
                );
            }
            Action::CompareAndSet {
                request,
                expected,
                view,
                version,
            } => {
                assert_eq!(view.version(), version);
                assert_eq!(View::decode(&view.encode()).as_ref(), Ok(&*view));
                self.ask_store(
                    slot,
                    run,
                    StoreAsk::Write {
                        request,
                        expected,
                        view,
                        version,
                    },
                );
            }
            Action::Install(view) => {
                self.installed_count += 1;
                self.checks.installed(slot, &view, self.store.rollbacks);
            }
            Action::Tell { to, version } => self.tell_others(slot, &to, version),
            Action::Pull { from } => self.pull(slot, run, from),
            other => self.note(slot, other),
        }
    }

    fn process(&mut self, slot: usize) -> &mut Process {
        self.slots[slot].process.as_mut().expect("it acts")
    }

    fn tell_others(&mut self, slot: usize, to: &[NodeId], version: Version) {
        let from = self.process(slot).coordinator.node();
        for node in to {
            let other = self.slot_of(node.uid);
            let run = self.slots[other].run;
            let told = Input::Heard {
                from,
                version: Some(version),
                answers_ms: None,
            };
            self.send(slot, other, run, told);
        }
    }

    fn pull(&mut self, slot: usize, run: u64, from: NodeId) {
        let to = self.slot_of(from.uid);
        self.process(slot).pulled_ms = self.now_ms;
        if !self.cut[slot][to] && !self.bus_cut[slot][to] {
            let at_ms = self.now_ms + self.random.between(1, 20);
            let event = Event::Pull {
                to,
                from: slot,
                from_run: run,
            };
            self.at(at_ms, event);
        }
    }

    /// What concerns the process itself.
    fn note(&mut self, slot: usize, action: Action) {
        match action {
            Action::Fence(_) => self.checks.fenced(slot),
            Action::Unfence => {
                let process = self.process(slot);
                process.elsewhere = false;
                // It may have left in the same step.
                let standing = process.coordinator.standing();
                assert!(!matches!(standing, Standing::Fenced(_)));
            }
            Action::SendClientsElsewhere => {
                self.process(slot).elsewhere = true;
            }
            Action::Rejoin(node) => {
                let process = self.process(slot);
                assert!(node.incarnation > process.joining.node.incarnation);
                process.joining.node = node;
            }
            Action::Refused { node, reason } => self.refused.push((node, reason)),
            Action::DuplicateUid(node) => {
                self.duplicates.push(node);
                self.process(slot).left = true;
            }
            Action::Left => self.process(slot).left = true,
            Action::ForeignStore(_) => self.foreign += 1,
            other => unreachable!("{other:?} concerns others"),
        }
    }
}
