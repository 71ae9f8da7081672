//! One run: a phase with faults, then calm in which everything that was promised must come true.

use std::collections::VecDeque;

use edge_proto::decode::{Sender, decode};
use edge_proto::frame::next_frame;
use edge_proto::packet::{Packet, QoS, Version};
use edge_proto::reason::ReasonCode;

use crate::client::{Client, Connection};
use crate::oracle::{Checked, Failure, Oracle};
use crate::plan::{Options, Plan};
use crate::random::{Random, fold};
use crate::world::World;

/// A run in progress.
#[derive(Debug)]
pub struct Run {
    pub(crate) world: World,
    pub(crate) clients: Vec<Client>,
    pub(crate) oracle: Oracle,
    pub(crate) random: Random,
    pub(crate) fault_random: Random,
    pub(crate) step: u64,
    pub(crate) next_order: u64,
    pub(crate) next_connection: u64,
    pub(crate) deliveries: u64,
    pub(crate) verbose: bool,
    notes: VecDeque<(u64, Option<usize>, String)>,
}

/// What a run without a failure was.
#[derive(Clone, Copy, Debug, Default)]
pub struct Summary {
    /// Messages published.
    pub published: u64,
    /// Deliveries that clients got.
    pub deliveries: u64,
    /// Crashes of the node; in a cluster, lives of nodes that have ended.
    pub crashes: u64,
    /// Hash of everything that crossed a border of a core.
    pub hash: u64,
}

impl Run {
    /// The start of a run.
    pub fn new(options: &Options) -> Self {
        let plan = Plan::draw(options);
        let mut random = Random::new(options.seed, "clients");
        let clients = (0..plan.clients)
            .map(|index| {
                let v5 = random.percent(plan.version5_percent);
                Client::new(
                    format!("c{index}"),
                    if v5 { Version::V5 } else { Version::V311 },
                )
            })
            .collect();
        let oracle = Oracle {
            clustered: plan.nodes > 1,
            ..Oracle::default()
        };
        Self {
            world: World::new(plan, options),
            clients,
            oracle,
            random,
            fault_random: Random::new(options.seed, "faults"),
            step: 1,
            next_order: 0,
            next_connection: 0,
            deliveries: 0,
            verbose: options.verbose,
            notes: VecDeque::new(),
        }
    }

    /// Both phases.
    ///
    /// # Errors
    /// The first broken promise.
    pub fn complete(&mut self, steps: u64) -> Checked<Summary> {
        if self.verbose {
            self.remember(None, format!("{:?}", self.world.plan));
        }
        while self.step < steps {
            self.one_step()?;
        }
        self.calm_down()?;
        let world = &self.world;
        let hash = fold(world.hash, self.deliveries);
        Ok(Summary {
            published: self.oracle.messages.len() as u64,
            deliveries: self.deliveries,
            crashes: world.crashes,
            hash,
        })
    }

    /// Notes what happened, if anybody wants to know.
    pub(crate) fn note(&mut self, at: usize, text: impl FnOnce() -> String) {
        if self.verbose {
            self.remember(Some(at), text());
        }
    }

    pub(crate) fn remember(&mut self, at: Option<usize>, text: String) {
        const KEPT: usize = 20_000;
        self.notes.push_back((self.step, at, text));
        if self.notes.len() > KEPT {
            self.notes.pop_front();
        }
    }

    /// The last notes about a client, and about the node.
    pub fn story(&self, client: Option<usize>, length: usize) -> String {
        let about = |note: &&(u64, Option<usize>, String)| {
            client.is_none() || note.1.is_none() || note.1 == client
        };
        let mut lines: Vec<String> = self
            .notes
            .iter()
            .rev()
            .filter(about)
            .take(length)
            .map(|(step, at, text)| {
                let who = at.map_or("node".to_owned(), |at| self.clients[at].name.clone());
                format!("{step:>7} {who:>4} {text}")
            })
            .collect();
        lines.reverse();
        lines.join("\n")
    }

    /// The step that it is in.
    pub fn step(&self) -> u64 {
        self.step
    }

    fn one_step(&mut self) -> Checked {
        self.step += 1;
        let weights = self.world.plan.weights;
        let kinds = [
            weights.turn,
            weights.network,
            weights.engine,
            weights.client,
            weights.fault,
            weights.time,
        ];
        match self.random.weighted(&kinds) {
            0 => {
                let core = self.random.below(self.world.cores.len());
                if self.world.runs(core) {
                    self.turn(core)?;
                }
            }
            1 => {
                let at = self.random.below(self.clients.len());
                self.carry(at)?;
            }
            2 => {
                self.world.engine_step();
                self.oracle.rejections |= self.world.disk.rejections;
            }
            3 => {
                let at = self.random.below(self.clients.len());
                self.act(at);
            }
            4 => self.fault(),
            _ => self.pass(),
        }
        Ok(())
    }

    /// The network brings a client what it can take, and the client reads it.
    pub(crate) fn carry(&mut self, at: usize) -> Checked {
        let zombies = self.clients[at].zombies.clone();
        let wire = self.clients[at]
            .connection
            .as_ref()
            .map(|connection| connection.wire);
        for wire in zombies.into_iter().chain(wire) {
            self.world.network_step(wire);
        }
        self.ping(at);
        self.listen(at)
    }

    fn ping(&mut self, at: usize) {
        let now_ms = self.world.now.mono_ms;
        let Some(connection) = &self.clients[at].connection else {
            return;
        };
        let wrote_ms = self.world.wires[connection.wire].wrote_ms;
        let due = u64::from(connection.keep_alive_s) * 500;
        if connection.live && due > 0 && !connection.silent && now_ms - wrote_ms >= due {
            self.send(at, &Packet::PingReq);
        }
    }

    /// Time passes: mostly little, so that nobody with a keep-alive is late by no fault of its own.
    fn pass(&mut self) {
        let ms = match self.random.below(20) {
            0 => self.random.between(100, 1500),
            1..4 => self.random.between(5, 100),
            _ => self.random.between(0, 4),
        };
        if !self.world.must_help(ms) {
            self.world.pass(ms);
        }
        self.tick_nodes();
    }

    /// What is due at the nodes of a cluster.
    pub(crate) fn tick_nodes(&mut self) {
        self.world.tick_nodes();
        for news in std::mem::take(&mut self.world.news) {
            self.tell_news(news);
        }
    }

    fn fault(&mut self) {
        if self.world.nodes.is_some() {
            return self.cluster_fault();
        }
        let (crash, engine) = (
            self.world.plan.crash_percent,
            self.world.plan.engine_fault_percent,
        );
        if self.fault_random.percent(crash) {
            let power = self.fault_random.percent(50);
            if self.verbose {
                self.remember(None, format!("crashes, power {power}"));
            }
            self.world.crash(power);
        } else if self.fault_random.percent(engine) {
            let ms = self.fault_random.between(1, 5000);
            if self.verbose {
                self.remember(None, format!("engine fails for {ms} ms"));
            }
            self.world.disk.failing_until_ms = self.world.now.mono_ms + ms;
        } else {
            let cores = self.world.cores.len();
            let (from, to) = (
                self.fault_random.below(cores),
                self.fault_random.below(cores),
            );
            let ms = self.fault_random.between(1, 500);
            self.world.freeze(from, to, ms);
        }
    }

    /// One turn of a core, and what must hold after it.
    pub(crate) fn turn(&mut self, core: usize) -> Checked {
        self.world.turn(core);
        for (wire, bytes) in std::mem::take(&mut self.world.written) {
            self.watch(wire, &bytes)?;
        }
        let snapshot = self.world.cores[core].shard.snapshot();
        if !snapshot.conserves() || snapshot.deliveries_queued > u64::MAX / 2 {
            return Err(Failure::new(format!(
                "core {core} does not conserve: accepted {} delivered {} expired {} dropped {:?} queued {}",
                snapshot.counters.deliveries_accepted,
                snapshot.counters.deliveries_delivered,
                snapshot.counters.deliveries_expired,
                snapshot.dropped,
                snapshot.deliveries_queued
            )));
        }
        let limits = &self.world.plan.limits;
        let pending_max = limits.pending_bytes_max as u64 + 2000;
        if snapshot.pending_bytes > pending_max
            || snapshot.retained_messages > limits.retained_messages_max as u64
        {
            return Err(Failure::new(format!(
                "core {core} is above a bound: pending bytes {}, retained messages {}",
                snapshot.pending_bytes, snapshot.retained_messages
            )));
        }
        Ok(())
    }

    /// What the server writes, seen before the network has it.
    fn watch(&mut self, wire: usize, bytes: &[u8]) -> Checked {
        let at = self.world.wires[wire].client;
        let version = self.clients[at].version;
        let mut rest = bytes;
        while let Ok(Some(frame)) = next_frame(rest, u32::MAX) {
            rest = &rest[frame.length..];
            match decode(version, Sender::Server, frame) {
                Ok(Packet::ConnAck(connack)) if connack.reason == ReasonCode::Success => {
                    self.watch_connack(at, wire)?;
                }
                Ok(Packet::Publish(publish)) => {
                    let number = publish
                        .payload
                        .first_chunk()
                        .map_or(0, |bytes| u64::from_be_bytes(*bytes));
                    self.watch_expiry(at, wire, number)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Promise 5: a client identifier has one connection.
    fn watch_connack(&mut self, at: usize, wire: usize) -> Checked {
        let upheavals = self.world.upheavals();
        let clustered = self.world.nodes.is_some();
        self.world.wires[wire].connected = true;
        self.world.wires[wire].connected_at = upheavals;
        let lives = |other: &usize| {
            let known = &self.world.wires[*other];
            known.client == at
                && known.connected
                && known.closing.is_none()
                && !known.gone
                && *other != wire
                && self.world.is_member(known.core)
                // Its home has moved: the new one may know of the later connection first.
                && (!clustered || known.connected_at == upheavals)
        };
        if let Some(other) = (0..self.world.wires.len()).find(lives) {
            return Err(Failure::of(
                at,
                format!("has two live connections, wires {other} and {wire}"),
            ));
        }
        Ok(())
    }

    /// A message that has expired is not sent any more unless its delivery has begun (MQTT-3.3.2-5).
    fn watch_expiry(&mut self, at: usize, wire: usize, number: u64) -> Checked {
        let client = &mut self.clients[at];
        let is_new = client.begun.insert(number);
        let is_older = |connection: &Connection| connection.wire != wire;
        if client.connection.as_ref().is_none_or(is_older) {
            return Ok(());
        }
        let Some(message) = self.oracle.get(number) else {
            return Ok(());
        };
        let (Some(expiry_s), Some(_)) = (message.expiry_s, message.acknowledged_at) else {
            return Ok(());
        };
        if message.qos == QoS::ExactlyOnce && self.world.upheavals() > 0 {
            return Ok(()); // What was sent before a start is not known, and its packet identifier may be held.
        }
        let expired_ms = message.acknowledged_ms + u64::from(expiry_s) * 1000;
        if is_new && self.world.now.mono_ms > expired_ms {
            let late_ms = self.world.now.mono_ms - expired_ms;
            return Err(Failure::of(
                at,
                format!(
                    "is sent message {number} for the first time {late_ms} ms after it expired"
                ),
            ));
        }
        Ok(())
    }
}
