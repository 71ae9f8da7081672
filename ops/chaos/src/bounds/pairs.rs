//! Well-behaved clients beside the others: pairs of a publisher and a subscriber whose latency is measured, and none of whose
//! messages may be lost.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use edge_proto::packet::{PacketType, QoS, Version};

use crate::clock::now;
use crate::wire::{Received, Wire, wait_for_any};

/// Time between two messages of a pair.
const PACE: Duration = Duration::from_millis(20);
/// How long messages may still come after the last was sent.
const LAST_CALL: Duration = Duration::from_secs(10);

struct Pair {
    publisher: Wire,
    subscriber: Wire,
    topic: String,
    qos: QoS,
    next_at: Instant,
    sent: u64,
    received: u64,
    acknowledged: u64,
    out_of_order: u64,
    next_number: u64,
}

/// What the pairs saw in the end.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) sent: u64,
    pub(crate) received: u64,
    /// Messages of QoS 1 that did not come.
    pub(crate) lost_at_qos_1: u64,
    pub(crate) out_of_order: u64,
    /// Connections that the server ended.
    pub(crate) ended: usize,
    /// Why it ended them, as far as it said.
    reasons: Vec<String>,
    /// Latencies in microseconds, by phase.
    phases: Vec<Vec<u32>>,
}

impl Outcome {
    /// Latency of a phase at this percentile, in microseconds.
    pub(crate) fn percentile_us(&self, phase: usize, percent: usize) -> u32 {
        let mut sorted = self.phases.get(phase).cloned().unwrap_or_default();
        sorted.sort_unstable();
        let index = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
        sorted.get(index).copied().unwrap_or(0)
    }

    /// Messages measured in a phase.
    pub(crate) fn count(&self, phase: usize) -> usize {
        self.phases.get(phase).map_or(0, Vec::len)
    }

    /// A phase in words.
    pub(crate) fn words(&self, phase: usize) -> String {
        let [p50, p99, worst] = [50, 99, 100].map(|percent| self.percentile_us(phase, percent));
        format!(
            "{} messages, p50 {p50} µs, p99 {p99} µs, worst {worst} µs",
            self.count(phase)
        )
    }

    /// True when every message came, in order, and every connection held.
    pub(crate) fn is_whole(&self) -> bool {
        self.sent == self.received && self.out_of_order == 0 && self.ended == 0
    }

    /// True when every message of QoS 1 came and every connection held; QoS 0 may be dropped while a core is overloaded.
    pub(crate) fn is_whole_at_qos_1(&self) -> bool {
        self.lost_at_qos_1 == 0 && self.out_of_order == 0 && self.ended == 0
    }

    /// Counts in words.
    pub(crate) fn losses(&self) -> String {
        let Self {
            sent,
            received,
            out_of_order,
            ended,
            ..
        } = self;
        let reasons = self.reasons.join(", ");
        format!(
            "{sent} sent, {received} received, {out_of_order} out of order, {ended} connections ended ({reasons})"
        )
    }
}

/// Pairs at work on a thread of their own.
#[derive(Debug)]
pub(crate) struct Pairs {
    phase: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Outcome>,
}

impl Pairs {
    /// Connects so many pairs, QoS 0 and 1 in turn, and lets them begin.
    ///
    /// # Errors
    /// They cannot connect.
    pub(crate) fn start(address: SocketAddr, count: usize) -> io::Result<Self> {
        let pairs: io::Result<Vec<Pair>> = (0..count).map(|index| pair(address, index)).collect();
        let mut pairs = pairs?;
        let (phase, stop) = (
            Arc::new(AtomicUsize::new(0)),
            Arc::new(AtomicBool::new(false)),
        );
        let (at, until) = (Arc::clone(&phase), Arc::clone(&stop));
        let thread = thread::Builder::new()
            .name("pairs".into())
            .spawn(move || work(&mut pairs, &at, &until))?;
        Ok(Self {
            phase,
            stop,
            thread,
        })
    }

    /// Messages sent from now on belong to this phase.
    pub(crate) fn set_phase(&self, phase: usize) {
        self.phase.store(phase, Ordering::Relaxed);
    }

    /// Lets the last messages arrive.
    pub(crate) fn finish(self) -> Outcome {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_default()
    }
}

fn pair(address: SocketAddr, index: usize) -> io::Result<Pair> {
    let version = if index.is_multiple_of(4) {
        Version::V311
    } else {
        Version::V5
    };
    let qos = if index.is_multiple_of(2) {
        QoS::AtMostOnce
    } else {
        QoS::AtLeastOnce
    };
    let topic = format!("pair/{index}/t");
    let mut subscriber = Wire::join(address, version, &format!("pair-s{index}"), true, 0)?;
    if !subscriber.subscribe_now(&[&topic], qos) {
        return Err(io::Error::other("a pair could not subscribe"));
    }
    let publisher = Wire::join(address, version, &format!("pair-p{index}"), true, 0)?;
    Ok(Pair {
        publisher,
        subscriber,
        topic,
        qos,
        next_at: now() + PACE * (index as u32 % 20) / 20,
        sent: 0,
        received: 0,
        acknowledged: 0,
        out_of_order: 0,
        next_number: 0,
    })
}

fn work(pairs: &mut [Pair], phase: &AtomicUsize, stop: &AtomicBool) -> Outcome {
    let mut outcome = Outcome::default();
    let begin = now();
    let mut last_call = None;
    loop {
        let stopping = stop.load(Ordering::Relaxed);
        if stopping {
            let since = *last_call.get_or_insert_with(now);
            let whole = pairs.iter().all(|pair| pair.sent == pair.received);
            if whole || since.elapsed() > LAST_CALL {
                break;
            }
        } else {
            let phase = phase.load(Ordering::Relaxed);
            pairs.iter_mut().for_each(|pair| pair.publish(begin, phase));
        }
        let wires: Vec<&Wire> = pairs
            .iter()
            .flat_map(|pair| [&pair.publisher, &pair.subscriber])
            .filter(|wire| !wire.ended)
            .collect();
        let next = pairs
            .iter()
            .map(|pair| pair.next_at)
            .min()
            .unwrap_or_else(now);
        let wait = next
            .saturating_duration_since(now())
            .clamp(Duration::from_millis(1), PACE);
        wait_for_any(&wires, wait);
        pairs
            .iter_mut()
            .for_each(|pair| pair.read(begin, &mut outcome));
    }
    for pair in pairs {
        outcome.sent += pair.sent;
        outcome.received += pair.received;
        if pair.qos > QoS::AtMostOnce {
            outcome.lost_at_qos_1 += pair.sent.saturating_sub(pair.received);
        }
        outcome.out_of_order += pair.out_of_order;
        outcome.ended += usize::from(pair.publisher.ended) + usize::from(pair.subscriber.ended);
    }
    outcome
}

impl Pair {
    fn publish(&mut self, begin: Instant, phase: usize) {
        // A window of one hundred: a server that does not acknowledge is not flooded by the well-behaved.
        let is_due = self.next_at <= now() && !self.publisher.ended;
        if !is_due || (self.qos > QoS::AtMostOnce && self.sent - self.acknowledged >= 100) {
            return;
        }
        self.next_at = (self.next_at + PACE).max(now());
        let sent_us = begin.elapsed().as_micros();
        let payload = format!("{} {sent_us} {phase}", self.sent);
        let packet_id = (self.sent % 60_000) as u16 + 1;
        self.publisher.publish(
            false,
            self.qos,
            false,
            &self.topic,
            packet_id,
            payload.as_bytes(),
        );
        self.publisher.flush();
        self.sent += 1;
    }

    fn read(&mut self, begin: Instant, outcome: &mut Outcome) {
        self.publisher.fill();
        let acknowledged = self.publisher.packets().unwrap_or_default();
        for packet in &acknowledged {
            if let Received::Disconnect(reason) = packet {
                outcome
                    .reasons
                    .push(format!("publisher {}: {}", self.topic, reason.name()));
            }
        }
        self.acknowledged += acknowledged
            .iter()
            .filter(|packet| matches!(packet, Received::PubAck(..)))
            .count() as u64;
        self.subscriber.fill();
        for packet in self.subscriber.packets().unwrap_or_default() {
            if let Received::Disconnect(reason) = packet {
                outcome
                    .reasons
                    .push(format!("subscriber {}: {}", self.topic, reason.name()));
            }
            let Received::Publish(arrived) = packet else {
                continue;
            };
            let text = String::from_utf8_lossy(&arrived.payload).into_owned();
            let mut numbers = text.split(' ').map(|word| word.parse::<u64>().unwrap_or(0));
            let [number, sent_us, phase] = [(); 3].map(|()| numbers.next().unwrap_or(0));
            self.out_of_order += u64::from(number < self.next_number);
            self.next_number = number + 1;
            self.received += 1;
            let latency_us = (begin.elapsed().as_micros() as u64).saturating_sub(sent_us);
            outcome
                .phases
                .resize(outcome.phases.len().max(phase as usize + 1), Vec::new());
            outcome.phases[phase as usize].push(latency_us.min(u64::from(u32::MAX)) as u32);
            if arrived.packet_id > 0 {
                self.subscriber.ack(PacketType::PubAck, arrived.packet_id);
            }
        }
        self.subscriber.flush();
    }
}
