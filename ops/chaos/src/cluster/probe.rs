//! Two clients at each node that never leave it, and publish many times a second. One publishes to a root of each node, and is subscribed
//! to all of it, live. The other is *lone*: it publishes to a root that its own node owns and nobody else reads, which needs no other
//! node. What they send and get, with times, tells how long a root was not served, and until when a node has acknowledged.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use edge_proto::packet::{PacketType, QoS, Version};

use super::seat::Seat;
use crate::clock::now;
use crate::wire::{Received, Wire};

/// Roots to choose from, so that each node owns some: those that all probes read, and of each probe those that it alone reads.
pub(crate) const ROOTS: usize = 24;
/// Between two messages of a probe to one root.
const PACE: Duration = Duration::from_millis(60);
/// Messages of a probe to one root that are not acknowledged.
const WINDOW: usize = 8;
/// A probe waits for its node as long as it takes.
const PATIENCE: Duration = Duration::from_secs(3_600);
/// Packet identifier of SUBSCRIBE; those of messages are above.
const SUBSCRIBE_ID: u16 = 1;

/// A message of a probe.
#[derive(Debug)]
pub(crate) struct Sample {
    at: Instant,
    from: usize,
    root: usize,
    acked: Option<Instant>,
    /// When the probe of each node had it.
    came: Vec<Option<Instant>>,
}

/// Messages of all probes since they were cleared.
#[derive(Debug, Default)]
pub(crate) struct Samples {
    first: usize,
    all: VecDeque<Sample>,
}

impl Samples {
    /// Forgets what was before.
    pub(crate) fn clear(&mut self) {
        self.first += self.all.len();
        self.all.clear();
    }

    fn find(&mut self, number: usize) -> Option<&mut Sample> {
        self.all.get_mut(number.checked_sub(self.first)?)
    }

    /// How long after `start` a root was served again for all of these nodes: the first message that one of them sent since then was
    /// acknowledged and had reached all of them; the longest of them counts. `None` when one of them is not served.
    pub(crate) fn served(&self, start: Instant, root: usize, nodes: &[usize]) -> Option<Duration> {
        let through = |sample: &Sample| {
            let came = nodes.iter().map(|node| sample.came[*node]);
            let times: Option<Vec<Instant>> = came.chain([sample.acked]).collect();
            times?.into_iter().max()
        };
        let first = |node: &usize| {
            let sent = self
                .all
                .iter()
                .filter(|sample| sample.from == *node && sample.root == root && sample.at >= start);
            sent.filter_map(through).min()
        };
        let times: Option<Vec<Instant>> = nodes.iter().map(first).collect();
        Some(times?.into_iter().max()?.duration_since(start))
    }

    /// Messages that a node sent since then, and how many of them were acknowledged.
    pub(crate) fn sent(&self, start: Instant, node: usize) -> (usize, usize) {
        let of = || {
            self.all
                .iter()
                .filter(|it| it.from == node && it.at >= start)
        };
        (of().count(), of().filter(|it| it.acked.is_some()).count())
    }
}

/// The probe of a node.
#[derive(Debug)]
pub(crate) struct Probe {
    pub(crate) seat: Seat,
    pub(crate) wire: Option<Wire>,
    /// True exactly when it is the lone one of its node.
    is_lone: bool,
    /// Roots that it publishes to: from [`ROOTS`] on, those that it alone reads.
    roots: Vec<usize>,
    subscribed: bool,
    next_id: u16,
    due: Instant,
    /// Packet identifier, number and root of what is not acknowledged.
    flights: VecDeque<(u16, usize, usize)>,
}

impl Probe {
    /// A probe of this node.
    pub(crate) fn new(node: usize, is_lone: bool) -> Self {
        Self {
            is_lone,
            seat: Seat::new(node, PATIENCE),
            wire: None,
            roots: Vec::new(),
            subscribed: false,
            next_id: SUBSCRIBE_ID,
            due: now(),
            flights: VecDeque::new(),
        }
    }

    /// True when it has its subscriptions.
    pub(crate) const fn is_ready(&self) -> bool {
        self.subscribed
    }

    /// Its name.
    pub(crate) fn name(&self) -> String {
        let kind = if self.is_lone { "lone" } else { "probe" };
        format!("{kind}{}", self.seat.node)
    }

    /// It publishes from now on to one root of each node, of those that all read and those that one alone reads.
    pub(crate) fn aim(&mut self, roots: &[(usize, usize)]) {
        self.roots = if self.is_lone {
            vec![ROOTS + roots[self.seat.node].1]
        } else {
            roots.iter().map(|(all, _)| *all).collect()
        };
    }

    /// Connects if it is not connected.
    pub(crate) fn connect(&mut self, address: SocketAddr) {
        if self.wire.is_some() || !self.seat.may_connect() {
            return;
        }
        let node = self.seat.node;
        self.wire = Wire::open(address, Version::V5).ok();
        self.seat.connected(self.wire.is_some(), 1);
        self.seat.node = node;
        let name = self.name();
        if let Some(wire) = &mut self.wire {
            wire.connect(&name, true, 0);
        }
    }

    /// Its connection is over.
    pub(crate) fn lost(&mut self) {
        self.wire = None;
        self.subscribed = false;
        self.flights.clear();
        self.seat.leave(self.seat.node);
    }

    /// Sends what is due.
    pub(crate) fn act(&mut self, samples: &mut Samples, nodes: usize) {
        let Some(wire) = &mut self.wire else { return };
        if self.seat.is_tired(wire) {
            return self.lost();
        }
        if !self.subscribed || now() < self.due {
            return;
        }
        self.due = now() + PACE;
        for &root in &self.roots {
            let waiting = self
                .flights
                .iter()
                .filter(|flight| flight.2 == root)
                .count();
            if waiting >= WINDOW {
                continue;
            }
            let number = samples.first + samples.all.len();
            samples.all.push_back(Sample {
                at: now(),
                from: self.seat.node,
                root,
                acked: None,
                came: vec![None; nodes],
            });
            self.next_id = self.next_id.checked_add(1).unwrap_or(SUBSCRIBE_ID + 1);
            self.flights.push_back((self.next_id, number, root));
            let root = match root.checked_sub(ROOTS) {
                Some(own) => own_name(self.seat.node, own),
                None => name(root),
            };
            let (topic, payload) = (format!("{root}/t"), format!("p{number}"));
            let qos = QoS::AtLeastOnce;
            wire.publish(false, qos, false, &topic, self.next_id, payload.as_bytes());
        }
    }

    /// A packet of the server; true when it acknowledges a publish.
    pub(crate) fn received(&mut self, samples: &mut Samples, packet: &Received) -> bool {
        self.seat.hears(packet);
        let Some(wire) = &mut self.wire else {
            return false;
        };
        match packet {
            Received::ConnAck { reason, .. } if !reason.is_error() => {
                let (node, is_lone) = (self.seat.node, self.is_lone);
                let names = (0..ROOTS).map(|root| match is_lone {
                    true => own_name(node, root),
                    false => name(root),
                });
                let filters: Vec<String> = names.map(|name| name + "/#").collect();
                let filters: Vec<&str> = filters.iter().map(String::as_str).collect();
                wire.subscribe(SUBSCRIBE_ID, &filters, QoS::AtLeastOnce);
            }
            Received::SubAck(_, reasons) => {
                self.subscribed = reasons.iter().all(|reason| *reason < 0x80);
            }
            Received::PubAck(packet_id, reason) => {
                let acked = self
                    .flights
                    .iter()
                    .position(|flight| flight.0 == *packet_id);
                let flight = acked.and_then(|index| self.flights.remove(index));
                let sample = flight.and_then(|(_, number, _)| samples.find(number));
                if let Some(sample) = sample.filter(|_| !reason.is_error()) {
                    sample.acked = Some(now());
                }
                return !reason.is_error();
            }
            Received::Publish(arrived) => {
                wire.ack(PacketType::PubAck, arrived.packet_id);
                let number = str::from_utf8(&arrived.payload).ok();
                let number = number.and_then(|text| text.strip_prefix('p')?.parse().ok());
                if let Some(sample) = number.and_then(|number| samples.find(number)) {
                    sample.came[self.seat.node].get_or_insert_with(now);
                }
            }
            _ => {}
        }
        false
    }
}

/// The name of a root that one probe alone reads.
pub(crate) fn own_name(node: usize, root: usize) -> String {
    format!("pr{node}/{root}")
}

/// The name of a root.
pub(crate) fn name(root: usize) -> String {
    format!("pr/{root}")
}
