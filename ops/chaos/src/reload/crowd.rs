//! The clients under which files are replaced: each has a session over TLS, subscribes to a topic of its own and sends to it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use edge_proto::packet::{PacketType, QoS, Version};
use rustls::ClientConfig;

use crate::clock::now;
use crate::wire::{Received, Wire, wait_for_any};

/// Threads that hold the clients.
const THREADS: usize = 2;
/// Clients of a thread that send in a round.
const SENDERS: usize = 50;
/// Time between two rounds.
const PACE: Duration = Duration::from_millis(25);
/// How long messages may still come after the last was sent.
const LAST_CALL: Duration = Duration::from_secs(30);

/// What the clients saw in the end.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Outcome {
    pub(super) clients: usize,
    pub(super) sent: u64,
    pub(super) received: u64,
    pub(super) acknowledged: u64,
    /// Connections that ended.
    pub(super) ended: usize,
    /// Packets against the rules.
    pub(super) broken: usize,
}

impl Outcome {
    /// True when everybody is still there and every message came and was acknowledged.
    pub(super) fn is_whole(self) -> bool {
        let all = self.sent == self.received && self.sent == self.acknowledged;
        all && self.ended == 0 && self.broken == 0
    }
}

/// The clients, at work.
#[derive(Debug)]
pub(super) struct Crowd {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Outcome>>,
}

impl Crowd {
    /// Connects all of them; when this returns, they are live and send.
    ///
    /// # Errors
    /// One of them cannot connect.
    pub(super) fn start(
        address: SocketAddr,
        count: usize,
        config: &Arc<ClientConfig>,
    ) -> io::Result<Self> {
        let connecting: io::Result<Vec<_>> = (0..THREADS)
            .map(|thread| {
                let config = Arc::clone(config);
                let numbers = count * thread / THREADS..count * (thread + 1) / THREADS;
                let connect = move || {
                    numbers
                        .map(|number| join(address, number, &config))
                        .collect()
                };
                thread::Builder::new().name("joining".into()).spawn(connect)
            })
            .collect();
        let wires: io::Result<Vec<Vec<Wire>>> = connecting?
            .into_iter()
            .map(|thread| {
                thread
                    .join()
                    .unwrap_or_else(|_| Err(io::Error::other("a panic")))
            })
            .collect();
        let stop = Arc::new(AtomicBool::new(false));
        let mut first = 0;
        let mut threads = Vec::new();
        for mut wires in wires? {
            let (count, until) = (wires.len(), Arc::clone(&stop));
            let work = move || work(&mut wires, first, &until);
            threads.push(thread::Builder::new().name("crowd".into()).spawn(work)?);
            first += count;
        }
        Ok(Self { stop, threads })
    }

    /// Lets the last messages arrive, and everybody go.
    pub(super) fn finish(self) -> Outcome {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Outcome::default();
        for thread in self.threads {
            let part = thread.join().unwrap_or_default();
            all.clients += part.clients;
            all.sent += part.sent;
            all.received += part.received;
            all.acknowledged += part.acknowledged;
            all.ended += part.ended;
            all.broken += part.broken;
        }
        all
    }
}

fn topic(number: usize) -> String {
    format!("crowd/{number}/t")
}

fn join(address: SocketAddr, number: usize, config: &Arc<ClientConfig>) -> io::Result<Wire> {
    let mut wire = Wire::open_secure(address, Version::V5, config)?;
    wire.begin(&format!("crowd-{number}"), true, 0)?;
    if wire.subscribe_now(&[&topic(number)], QoS::AtLeastOnce) {
        Ok(wire)
    } else {
        Err(io::Error::other("a client could not subscribe"))
    }
}

fn work(wires: &mut [Wire], first: usize, stop: &AtomicBool) -> Outcome {
    let mut outcome = Outcome {
        clients: wires.len(),
        ..Outcome::default()
    };
    let (mut next, mut round_at, mut last_call) = (0, now(), None);
    loop {
        if stop.load(Ordering::Relaxed) {
            let since = *last_call.get_or_insert_with(now);
            if outcome.is_whole() || since.elapsed() > LAST_CALL {
                break;
            }
        } else if round_at <= now() && !wires.is_empty() {
            round_at = now() + PACE;
            for _ in 0..SENDERS.min(wires.len()) {
                send(&mut wires[next], &topic(first + next), &mut outcome);
                next = (next + 1) % wires.len();
            }
        }
        let open: Vec<usize> = (0..wires.len())
            .filter(|index| !wires[*index].ended)
            .collect();
        outcome.ended = wires.len() - open.len();
        let waiting: Vec<&Wire> = open.iter().map(|index| &wires[*index]).collect();
        for index in wait_for_any(&waiting, PACE) {
            read(&mut wires[open[index]], &mut outcome);
        }
    }
    for wire in wires.iter_mut().filter(|wire| !wire.ended) {
        wire.disconnect();
        wire.flush();
    }
    outcome
}

fn send(wire: &mut Wire, topic: &str, outcome: &mut Outcome) {
    if wire.ended {
        return;
    }
    let number = outcome.sent;
    let packet_id = (number % 60_000) as u16 + 1;
    let payload = number.to_string();
    wire.publish(
        false,
        QoS::AtLeastOnce,
        false,
        topic,
        packet_id,
        payload.as_bytes(),
    );
    wire.flush();
    outcome.sent += 1;
}

fn read(wire: &mut Wire, outcome: &mut Outcome) {
    wire.fill();
    match wire.packets() {
        Ok(packets) => {
            for packet in packets {
                match packet {
                    Received::Publish(arrived) => {
                        outcome.received += 1;
                        wire.ack(PacketType::PubAck, arrived.packet_id);
                    }
                    Received::PubAck(..) => outcome.acknowledged += 1,
                    _ => {}
                }
            }
        }
        Err(_rule) => outcome.broken += 1,
    }
    wire.flush();
}
