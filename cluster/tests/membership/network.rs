//! A network in virtual time, and the nodes on it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::SocketAddr;

use cluster::membership::{Membership, Now, Output};
use cluster::sealed::{KeyRing, Sealer};
use cluster::view::{Joining, NodeId, ProtocolRange};

pub(crate) const KEY_A: &str = "b2xkIGtleSBvZiB0aGlydHktdHdvIGJ5dGVzIDEyMzQ=";
pub(crate) const KEY_B: &str = "bmV3IGtleSBvZiB0aGlydHktdHdvIGJ5dGVzIDEyMzQ=";

/// SplitMix64.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut value = self.0;
        value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        value ^ (value >> 31)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

pub(crate) struct Node {
    membership: Membership,
    pub(crate) joining: Joining,
    /// What it holds for alive.
    pub(crate) known: BTreeMap<u64, Joining>,
    pub(crate) dead: Vec<NodeId>,
    pub(crate) gone: bool,
    pub(crate) crashed: bool,
    pub(crate) unix_ms_off: i64,
    paused_until_ms: u64,
    /// When it is woken; older entries of the heap do not count.
    wake_ms: u64,
}

enum Event {
    Wake(usize),
    Datagram {
        to: usize,
        from: SocketAddr,
        bytes: Vec<u8>,
    },
}

pub(crate) struct Network {
    pub(crate) now_ms: u64,
    pub(crate) nodes: Vec<Node>,
    pub(crate) random: Random,
    pub(crate) loss_percent: u64,
    pub(crate) delay_ms: (u64, u64),
    pub(crate) sent: u64,
    /// Deaths that were told of nodes which had not crashed or left.
    pub(crate) deaths_told: u64,
    pub(crate) renewed: u64,
    pub(crate) records: bool,
    pub(crate) recorded: Vec<(usize, Vec<u8>)>,
    side: Vec<bool>,
    events: BinaryHeap<Reverse<(u64, u64)>>,
    bodies: BTreeMap<u64, Event>,
    sequence: u64,
}

const UNIX_MS: u64 = 1_795_000_000_000;

impl Network {
    pub(crate) fn new(count: usize, seed: u64) -> Self {
        let mut network = Self {
            now_ms: 0,
            nodes: Vec::new(),
            random: Random(seed),
            loss_percent: 0,
            delay_ms: (1, 3),
            sent: 0,
            deaths_told: 0,
            renewed: 0,
            records: false,
            recorded: Vec::new(),
            side: Vec::new(),
            events: BinaryHeap::new(),
            bodies: BTreeMap::new(),
            sequence: 0,
        };
        for _ in 0..count {
            network.add("roadstead", &[KEY_A], ProtocolRange { min: 1, max: 2 });
        }
        network
    }

    pub(crate) fn add(&mut self, cluster: &str, keys: &[&str], protocol: ProtocolRange) -> usize {
        let index = self.nodes.len();
        let joining = Joining {
            node: NodeId {
                uid: 100 + index as u64,
                incarnation: UNIX_MS + self.now_ms,
            },
            cores: 2,
            weight: 2,
            gossip: address(index),
            bus: SocketAddr::from(([10, 0, (index >> 8) as u8, index as u8], 7_947)),
            reference: "mqtt.example.org".into(),
            protocol,
        };
        let membership = self.membership(cluster, &joining, keys);
        self.nodes.push(Node {
            membership,
            joining,
            known: BTreeMap::new(),
            dead: Vec::new(),
            gone: false,
            crashed: false,
            unix_ms_off: 0,
            paused_until_ms: 0,
            wake_ms: 0,
        });
        self.side.push(false);
        self.wake(index);
        index
    }

    fn membership(&mut self, cluster: &str, joining: &Joining, keys: &[&str]) -> Membership {
        let mut session = [0; 16];
        session[..8].copy_from_slice(&self.random.next().to_be_bytes());
        session[8..].copy_from_slice(&self.random.next().to_be_bytes());
        let now = Now {
            ms: self.now_ms,
            unix_ms: UNIX_MS + self.now_ms,
        };
        let keys = KeyRing::parse(&keys.join("\n")).expect("keys");
        let seed = self.random.next();
        Membership::new(now, cluster, joining.clone(), keys, session, seed)
    }

    /// Another run of the node at this place.
    pub(crate) fn start(&mut self, node: usize) {
        let mut joining = self.nodes[node].joining.clone();
        joining.node.incarnation = UNIX_MS + self.now_ms;
        let membership = self.membership("roadstead", &joining, &[KEY_A]);
        let place = &mut self.nodes[node];
        place.membership = membership;
        place.joining = joining;
        place.known.clear();
        place.crashed = false;
        self.wake(node);
    }

    pub(crate) fn crash(&mut self, node: usize) {
        self.nodes[node].crashed = true;
    }

    pub(crate) fn pause(&mut self, node: usize, for_ms: u64) {
        self.nodes[node].paused_until_ms = self.now_ms + for_ms;
    }

    pub(crate) fn cut(&mut self, side: &[usize]) {
        for &node in side {
            self.side[node] = true;
        }
    }

    pub(crate) fn mend(&mut self) {
        self.side.fill(false);
    }

    fn at(&mut self, at_ms: u64, event: Event) {
        self.sequence += 1;
        self.events.push(Reverse((at_ms, self.sequence)));
        self.bodies.insert(self.sequence, event);
    }

    fn now(&self, node: usize) -> Now {
        Now {
            ms: self.now_ms,
            unix_ms: (UNIX_MS + self.now_ms).saturating_add_signed(self.nodes[node].unix_ms_off),
        }
    }

    /// Calls a node, and does what it says.
    fn call(&mut self, node: usize, call: impl FnOnce(&mut Membership, Now, &mut Vec<Output>)) {
        let now = self.now(node);
        let mut outputs = Vec::new();
        call(&mut self.nodes[node].membership, now, &mut outputs);
        for output in outputs {
            self.output(node, output);
        }
        self.wake(node);
    }

    fn output(&mut self, node: usize, output: Output) {
        match output {
            Output::Datagram { to, bytes } => self.send(node, to, bytes),
            Output::Alive(joining) => {
                self.nodes[node].known.insert(joining.node.uid, joining);
            }
            Output::Dead(dead) => {
                let lives = self
                    .nodes
                    .iter()
                    .any(|other| other.joining.node == dead && !other.crashed && !other.gone);
                self.deaths_told += u64::from(lives);
                let known = &mut self.nodes[node].known;
                if known
                    .get(&dead.uid)
                    .is_some_and(|joining| joining.node == dead)
                {
                    known.remove(&dead.uid);
                }
                self.nodes[node].dead.push(dead);
            }
            Output::Renewed(_) => self.renewed += 1,
            Output::Gone => self.nodes[node].gone = true,
        }
    }

    fn send(&mut self, node: usize, to: SocketAddr, bytes: Vec<u8>) {
        self.sent += 1;
        let Some(target) = (0..self.nodes.len()).find(|&other| address(other) == to) else {
            return;
        };
        if self.records {
            self.recorded.push((target, bytes.clone()));
        }
        let lost = self.random.below(100) < self.loss_percent;
        if lost || self.side[node] != self.side[target] {
            return;
        }
        let (low, high) = self.delay_ms;
        let at_ms = self.now_ms + low + self.random.below(high - low + 1);
        let from = address(node);
        self.at(
            at_ms,
            Event::Datagram {
                to: target,
                from,
                bytes,
            },
        );
    }

    fn wake(&mut self, node: usize) {
        let Some(deadline_ms) = self.nodes[node].membership.deadline_ms() else {
            return;
        };
        let at_ms = deadline_ms.max(self.now_ms);
        if self.nodes[node].wake_ms != at_ms {
            self.nodes[node].wake_ms = at_ms;
            self.at(at_ms, Event::Wake(node));
        }
    }

    pub(crate) fn run_for(&mut self, for_ms: u64) {
        let end_ms = self.now_ms + for_ms;
        while self
            .events
            .peek()
            .is_some_and(|&Reverse((at_ms, _))| at_ms <= end_ms)
        {
            self.step();
        }
        self.now_ms = end_ms;
    }

    fn step(&mut self) {
        let Some(Reverse((at_ms, sequence))) = self.events.pop() else {
            return;
        };
        self.now_ms = self.now_ms.max(at_ms);
        let event = self
            .bodies
            .remove(&sequence)
            .expect("each event has a body");
        let node = match &event {
            Event::Wake(node) | Event::Datagram { to: node, .. } => *node,
        };
        let Node {
            crashed,
            gone,
            paused_until_ms,
            wake_ms,
            ..
        } = self.nodes[node];
        if crashed || gone {
            return;
        }
        if self.now_ms < paused_until_ms {
            self.at(paused_until_ms, event);
            return;
        }
        match event {
            Event::Wake(_) => {
                if wake_ms <= self.now_ms {
                    self.nodes[node].wake_ms = 0;
                    self.call(node, |membership, now, outputs| {
                        membership.advance(now, outputs);
                    });
                }
            }
            Event::Datagram { from, bytes, .. } => {
                self.call(node, |membership, now, outputs| {
                    // What is refused is counted there.
                    let _ = membership.datagram(now, from, &bytes, outputs);
                });
            }
        }
    }

    fn run_until(&mut self, within_ms: u64, done: impl Fn(&Self) -> bool) {
        let end_ms = self.now_ms + within_ms;
        while !done(self) {
            assert!(self.now_ms < end_ms, "not within {within_ms} ms");
            self.run_for(10);
        }
    }

    pub(crate) fn run_until_all_know_each_other(&mut self, within_ms: u64) {
        self.run_until(within_ms, |network| {
            let living: Vec<NodeId> = network
                .nodes
                .iter()
                .filter(|node| !node.crashed && !node.gone)
                .map(|node| node.joining.node)
                .collect();
            network
                .nodes
                .iter()
                .filter(|node| !node.crashed && !node.gone)
                .all(|node| {
                    node.known.len() + 1 == living.len()
                        && node
                            .known
                            .values()
                            .all(|known| living.contains(&known.node))
                })
        });
    }

    pub(crate) fn run_until_nobody_knows(&mut self, victim: usize, within_ms: u64) {
        let uid = self.nodes[victim].joining.node.uid;
        self.run_until(within_ms, |network| {
            network
                .nodes
                .iter()
                .enumerate()
                .filter(|(index, node)| *index != victim && !node.crashed)
                .all(|(_, node)| !node.known.contains_key(&uid))
        });
    }

    pub(crate) fn time_to_see_death_of(&mut self, victim: usize) -> u64 {
        let crashed_ms = self.now_ms;
        self.crash(victim);
        self.run_until_nobody_knows(victim, 30_000);
        self.now_ms - crashed_ms
    }

    pub(crate) fn seeds(&mut self, node: usize, seeds: &[usize]) {
        let addresses: Vec<SocketAddr> = seeds.iter().map(|&seed| address(seed)).collect();
        self.call(node, |membership, now, outputs| {
            membership.seeds(now, &addresses, outputs);
        });
    }

    pub(crate) fn doubt(&mut self, node: usize, whom: usize) {
        let whom = self.nodes[whom].joining.node;
        self.call(node, |membership, now, outputs| {
            membership.doubt(now, whom, outputs);
        });
    }

    pub(crate) fn rejoin(&mut self, node: usize) {
        self.nodes[node].joining.node.incarnation += 1;
        let id = self.nodes[node].joining.node;
        self.call(node, |membership, now, outputs| {
            membership.rejoin(now, id, outputs);
        });
    }

    pub(crate) fn leave(&mut self, node: usize) {
        self.call(node, |membership, now, outputs| {
            membership.leave(now, outputs);
        });
    }

    pub(crate) fn keys(&mut self, node: usize, keys: &[&str]) {
        let keys = KeyRing::parse(&keys.join("\n")).expect("keys");
        self.nodes[node].membership.keys(keys);
    }

    /// Bytes arrive that no node has sent just now.
    pub(crate) fn inject(&mut self, to: usize, bytes: &[u8]) {
        let from = SocketAddr::from(([192, 0, 2, 1], 9));
        let bytes = bytes.to_vec();
        self.at(self.now_ms, Event::Datagram { to, from, bytes });
    }

    /// A node says something of its own, well sealed.
    pub(crate) fn say(&mut self, from: usize, to: usize, body: &[u8]) {
        let keys = KeyRing::parse(KEY_A).expect("keys");
        let mut session = [7; 16];
        session[..8].copy_from_slice(&self.random.next().to_be_bytes());
        let node = &self.nodes[from].joining;
        let mut sealer = Sealer::new("roadstead", node.protocol, node.node.uid, session);
        let bytes = sealer.seal(&keys, UNIX_MS + self.now_ms, body);
        self.inject(to, &bytes);
    }

    pub(crate) fn refusals(&self, node: usize) -> Vec<(&'static str, u64)> {
        self.nodes[node].membership.refusals().iter().collect()
    }

    pub(crate) fn refused(&self, node: usize) -> u64 {
        self.refusals(node).iter().map(|(_, count)| count).sum()
    }
}

fn address(node: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, (node >> 8) as u8, node as u8], 7_946))
}
