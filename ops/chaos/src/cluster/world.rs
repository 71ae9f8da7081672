//! All clients of a cluster run, on one thread.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::cast;
use super::probe::{Probe, Samples};
use super::seat::{Seat, sent_away};
use crate::clock::now;
use crate::crash::ledger::Ledger;
use crate::crash::publisher::Publisher;
use crate::crash::subscriber::Subscriber;
use crate::random::Random;
use crate::wire::{Received, Wire, wait_for_any};

/// Longest wait for packets in one round.
const ROUND: Duration = Duration::from_millis(3);
/// Between two bursts of a publisher, of three messages at most.
const PACE: Duration = Duration::from_millis(60);
/// How long a client waits for an answer of its node: phones give up soon, others do not.
const PATIENCE: [Duration; 2] = [Duration::from_secs(4), Duration::from_secs(25)];

/// What the clients do at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    /// They publish, change subscriptions, and lose connections.
    Busy,
    /// They only finish what they have begun.
    Finishing,
}

/// What both kinds of clients have in common.
trait Party {
    fn name(&self) -> &str;
    fn wire(&mut self) -> &mut Option<Wire>;
    fn connect(&mut self, ledger: &mut Ledger, address: SocketAddr);
    fn lost(&mut self, ledger: &mut Ledger, why: &str);
    fn received(&mut self, ledger: &mut Ledger, packet: Received);
}

macro_rules! party {
    ($kind:ty) => {
        impl Party for $kind {
            fn name(&self) -> &str {
                &self.name
            }
            fn wire(&mut self) -> &mut Option<Wire> {
                &mut self.wire
            }
            fn connect(&mut self, ledger: &mut Ledger, address: SocketAddr) {
                self.trace.note(ledger.tick(), format_args!("to {address}"));
                Self::connect(self, ledger, address);
            }
            fn lost(&mut self, ledger: &mut Ledger, why: &str) {
                Self::lost(self, ledger, why);
            }
            fn received(&mut self, ledger: &mut Ledger, packet: Received) {
                Self::received(self, ledger, packet);
            }
        }
    };
}

party!(Publisher);
party!(Subscriber);

/// What was seen at each node, beside what the ledger has.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// When publishes were acknowledged, those of probes too, by node.
    pub(crate) acks: Vec<Vec<Instant>>,
    /// Clients sent away, by node, in an answer to CONNECT or later, and reason.
    pub(crate) sent_away: BTreeMap<(usize, bool, &'static str), usize>,
    /// Clients that were tired of waiting, by node.
    pub(crate) tired: BTreeMap<usize, usize>,
    /// The longest time in which no publish was acknowledged, probes aside.
    pub(crate) silence: Duration,
    heard: Option<Instant>,
}

impl Seen {
    /// Forgets what was before.
    pub(crate) fn clear(&mut self) {
        let nodes = self.acks.len();
        *self = Self {
            acks: vec![Vec::new(); nodes],
            ..Self::default()
        };
    }

    fn acked(&mut self, node: usize) {
        let now = now();
        if let Some(heard) = self.heard.replace(now) {
            self.silence = self.silence.max(now.duration_since(heard));
        }
        self.acks[node].push(now);
    }

    fn probe_acked(&mut self, node: usize) {
        self.acks[node].push(now());
    }
}

/// The clients, and what they are owed.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) ledger: Ledger,
    pub(crate) seen: Seen,
    pub(crate) samples: Samples,
    nodes: Vec<SocketAddr>,
    publishers: Vec<(Publisher, Seat)>,
    due: Vec<Instant>,
    subscribers: Vec<(Subscriber, Seat)>,
    probes: Vec<Probe>,
    random: Random,
    /// When a packet with a message came last.
    moved: Instant,
}

impl World {
    /// Everyone, and nobody connected.
    pub(crate) fn new(nodes: Vec<SocketAddr>, random: Random) -> Self {
        let mut ledger = Ledger::default();
        let subscribers = cast::subscribers(&mut ledger);
        let count = nodes.len();
        let seat = |index: usize| Seat::new(index % count, PATIENCE[index / count % 2]);
        let publishers = cast::publishers().into_iter().enumerate();
        let publishers: Vec<_> = publishers.map(|(index, it)| (it, seat(index))).collect();
        let subscribers = subscribers.into_iter().enumerate();
        Self {
            ledger,
            seen: Seen {
                acks: vec![Vec::new(); count],
                ..Seen::default()
            },
            samples: Samples::default(),
            probes: [false, true]
                .into_iter()
                .flat_map(|is_lone| (0..count).map(move |node| Probe::new(node, is_lone)))
                .collect(),
            due: vec![now(); publishers.len()],
            publishers,
            subscribers: subscribers.map(|(index, it)| (it, seat(index))).collect(),
            nodes,
            random,
            moved: now(),
        }
    }

    /// True when everyone has its subscriptions and nothing is on its way.
    pub(crate) fn is_settled(&self) -> bool {
        self.publishers
            .iter()
            .all(|(it, seat)| seat.online && it.is_done())
            && self.subscribers.iter().all(|(it, _)| it.is_settled())
            && self.probes.iter().all(Probe::is_ready)
    }

    /// Who is not, by name, and at which node.
    pub(crate) fn unsettled(&self) -> Vec<(String, usize)> {
        let publishers = self.publishers.iter();
        let publishers = publishers
            .filter(|(it, seat)| !(seat.online && it.is_done()))
            .map(|(it, seat)| (it.name.clone(), seat.node));
        let subscribers = self.subscribers.iter();
        let subscribers = subscribers
            .filter(|(it, _)| !it.is_settled())
            .map(|(it, seat)| (it.name.clone(), seat.node));
        let probes = self.probes.iter().filter(|probe| !probe.is_ready());
        let probes = probes.map(|it| (it.name(), it.seat.node));
        publishers.chain(subscribers).chain(probes).collect()
    }

    /// How long no message has come.
    pub(crate) fn quiet(&self) -> Duration {
        self.moved.elapsed()
    }

    /// Everyone goes to the node where it begins; some subscribers stay away, and the probes have these roots.
    pub(crate) fn take_seats(&mut self, roots: &[(usize, usize)]) {
        self.seen.clear();
        self.samples.clear();
        for (publisher, seat) in &mut self.publishers {
            take_seat(publisher, seat, &mut self.ledger);
        }
        for (subscriber, seat) in &mut self.subscribers {
            subscriber.absent = self.random.per_mille(200);
            take_seat(subscriber, seat, &mut self.ledger);
        }
        self.probes.iter_mut().for_each(|probe| probe.aim(roots));
    }

    /// Nobody stays away any more.
    pub(crate) fn all_come(&mut self) {
        for (subscriber, _) in &mut self.subscribers {
            subscriber.absent = false;
        }
    }

    /// Name of a publisher.
    pub(crate) fn publisher_name(&self, index: usize) -> &str {
        &self.publishers[index].0.name
    }

    /// Writes the trace of a client, and of all members of a group, to files; returns which.
    pub(crate) fn save_traces(&self, client: &str) -> Vec<String> {
        let is_it = |name: &str| {
            let group = client.strip_prefix("group ");
            name == client || group.is_some_and(|group| name.starts_with(group))
        };
        let publishers = self.publishers.iter().map(|(it, _)| (&it.name, &it.trace));
        let subscribers = self.subscribers.iter().map(|(it, _)| (&it.name, &it.trace));
        let all = publishers
            .chain(subscribers)
            .filter(|(name, _)| is_it(name));
        all.map(|(name, trace)| trace.save(name).display().to_string())
            .collect()
    }

    /// One round: connect, act, flush, wait, read.
    pub(crate) fn round(&mut self, mood: Mood) {
        let busy = mood == Mood::Busy;
        let (ledger, random) = (&mut self.ledger, &mut self.random);
        for (index, (publisher, seat)) in self.publishers.iter_mut().enumerate() {
            come(publisher, seat, ledger, &self.nodes, &mut self.seen);
            let is_due = now() >= self.due[index];
            if is_due {
                self.due[index] = now() + PACE;
            }
            publisher.act(ledger, random, busy && is_due);
        }
        for (subscriber, seat) in &mut self.subscribers {
            if !subscriber.absent || subscriber.wire.is_some() {
                come(subscriber, seat, ledger, &self.nodes, &mut self.seen);
            }
            subscriber.act(ledger, random, busy);
        }
        for probe in &mut self.probes {
            probe.connect(self.nodes[probe.seat.node]);
            probe.act(&mut self.samples, self.nodes.len());
        }
        let mut wires: Vec<&mut Wire> = Vec::new();
        wires.extend(
            self.publishers
                .iter_mut()
                .filter_map(|(it, _)| it.wire.as_mut()),
        );
        wires.extend(
            self.subscribers
                .iter_mut()
                .filter_map(|(it, _)| it.wire.as_mut()),
        );
        wires.extend(self.probes.iter_mut().filter_map(|it| it.wire.as_mut()));
        wires.iter_mut().for_each(|wire| wire.flush());
        let shared: Vec<&Wire> = wires.iter().map(|wire| &**wire).collect();
        let ready = wait_for_any(&shared, ROUND);
        ready.into_iter().for_each(|index| {
            wires[index].fill();
        });
        self.handle_all();
    }

    fn handle_all(&mut self) {
        let count = self.nodes.len();
        let (ledger, seen) = (&mut self.ledger, &mut self.seen);
        let mut moved = false;
        for (publisher, seat) in &mut self.publishers {
            moved |= hear(publisher, seat, ledger, seen, count);
        }
        for (subscriber, seat) in &mut self.subscribers {
            moved |= hear(subscriber, seat, ledger, seen, count);
        }
        if moved {
            self.moved = now();
        }
        for probe in &mut self.probes {
            let Some(wire) = &mut probe.wire else {
                continue;
            };
            let (packets, ended) = (wire.packets().unwrap_or_default(), wire.ended);
            let mut goes = ended;
            for packet in &packets {
                if probe.received(&mut self.samples, packet) {
                    seen.probe_acked(probe.seat.node);
                }
                goes |= sent_away(packet).is_some();
            }
            if goes {
                probe.lost();
            }
        }
    }
}

fn take_seat(party: &mut impl Party, seat: &mut Seat, ledger: &mut Ledger) {
    if seat.node != seat.assigned {
        party.lost(ledger, "it goes back to its node");
        seat.leave(seat.assigned);
    }
}

/// Connects a client that is not, and takes one away that is tired of waiting.
fn come(
    party: &mut impl Party,
    seat: &mut Seat,
    ledger: &mut Ledger,
    nodes: &[SocketAddr],
    seen: &mut Seen,
) {
    if let Some(wire) = party.wire() {
        if seat.is_tired(wire) {
            *seen.tired.entry(seat.node).or_default() += 1;
            party.lost(ledger, "it was tired of waiting");
            seat.leave((seat.node + 1) % nodes.len());
        }
        return;
    }
    if seat.may_connect() {
        party.connect(ledger, nodes[seat.node]);
        let is_open = party.wire().is_some();
        seat.connected(is_open, nodes.len());
    }
}

/// Gives a client what was read for it; true when a message or an acknowledgement was among it.
fn hear(
    party: &mut impl Party,
    seat: &mut Seat,
    ledger: &mut Ledger,
    seen: &mut Seen,
    nodes: usize,
) -> bool {
    let Some(wire) = party.wire() else {
        return false;
    };
    let (read, mut goes) = (wire.packets(), wire.ended);
    let packets = read.unwrap_or_else(|broken| {
        let text = format!("the server broke a rule: {broken}");
        ledger.violated(party.name(), None, text);
        goes = true;
        Vec::new()
    });
    let mut moved = false;
    for packet in packets {
        seat.hears(&packet);
        if matches!(packet, Received::PubAck(..) | Received::PubRec(..)) {
            seen.acked(seat.node);
        }
        moved |= !matches!(packet, Received::PingResp);
        if let Some((at_connect, reason)) = sent_away(&packet) {
            let key = (seat.node, at_connect, reason.name());
            *seen.sent_away.entry(key).or_default() += 1;
            goes = true;
            if at_connect {
                break;
            }
        }
        party.received(ledger, packet);
    }
    if goes {
        party.lost(ledger, "the server closed it");
        seat.leave((seat.node + 1) % nodes);
    }
    moved
}
