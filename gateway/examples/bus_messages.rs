//! Measures what a message costs on the bus: framed, sealed, written, read, opened and handed out, with both nodes in one thread.
//!
//! `cargo run --release -p gateway --example bus_messages -- [epoll|uring]`. Each line is the CPU time of the thread per message,
//! kernel included: median, lowest and highest of 7 runs. A burst is what one turn sends.

#![allow(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

use std::error::Error;
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use cluster::hello::PROTOCOL;
use cluster::link::Unsent;
use cluster::view::{Joining, NodeId, View};
use gateway::bus::identity::Identity;
use gateway::bus::keys::KeyRing;
use gateway::event_loop::{Bus, BusLimits, Heard, Place};
use reactor::driver::{Driver, DriverConfig, Event};
use reactor::epoll::EpollDriver;
use reactor::probe::thread_cpu_time;
use reactor::uring::UringDriver;

type Outcome<T> = Result<T, Box<dyn Error>>;

const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const RUNS: usize = 7;
const CONFIG: DriverConfig = DriverConfig {
    receive_buffers: 256,
    receive_buffer_bytes: 16 << 10,
    ..DriverConfig::small()
};

struct Node<D> {
    driver: D,
    bus: Bus,
    messages: u64,
}

fn node(uid: u64) -> NodeId {
    let incarnation = 1;
    NodeId { uid, incarnation }
}

impl<D: Driver> Node<D> {
    fn new(mut driver: D, uid: u64, address: SocketAddr) -> Outcome<Self> {
        let place = Place {
            cluster: "bench".into(),
            node: node(uid),
            core: 0,
            cores: 1,
        };
        let identity = Identity::issue(&KeyRing::parse(KEY)?, uid)?;
        let mut bus = Bus::new(place, identity, BusLimits::default(), uid);
        bus.listen(&mut driver, address)?;
        Ok(Self {
            driver,
            bus,
            messages: 0,
        })
    }

    fn turn(&mut self, started: Instant) -> Outcome<()> {
        let mut events = Vec::new();
        self.driver.poll(Some(started), &mut events)?;
        let now_ms = started.elapsed().as_millis() as u64;
        let Self {
            driver,
            bus,
            messages,
        } = self;
        for event in events {
            match event {
                Event::Accepted {
                    connection, peer, ..
                } => bus.accepted(driver, now_ms, connection, peer),
                Event::Connected { connection } => bus.connected(driver, connection),
                Event::Received { connection, buffer } => {
                    bus.received(driver, now_ms, (connection, buffer), &mut |heard| {
                        *messages += u64::from(matches!(heard, Heard::Message(..)));
                    });
                }
                Event::Drained { connection } => bus.drained(connection),
                Event::PeerClosed { connection } => bus.peer_closed(driver, now_ms, connection),
                Event::Closed { connection, .. } => bus.closed(now_ms, connection),
                Event::Datagrams { .. } | Event::Woken => {}
            }
        }
        bus.turn(driver, now_ms);
        bus.flush(driver, now_ms);
        while driver.reclaim().is_some() {}
        Ok(())
    }
}

/// Sends `count` messages in bursts; CPU time per message.
fn run<D: Driver>(
    nodes: &mut [Node<D>; 2],
    started: Instant,
    (count, burst, body): (u64, u64, &[u8]),
) -> Outcome<Duration> {
    let before = thread_cpu_time();
    let (first, mut sent) = (nodes[1].messages, 0);
    while nodes[1].messages < first + count {
        for _ in 0..burst.min(count - sent) {
            match nodes[0].bus.send(0, 1, false, false, body) {
                Ok(()) => sent += 1,
                Err(Unsent::NoRoom) => break,
                Err(error) => return Err(error.into()),
            }
        }
        for node in &mut *nodes {
            node.turn(started)?;
        }
    }
    Ok((thread_cpu_time() - before) / count as u32)
}

fn measure<D: Driver>(make: fn(DriverConfig) -> std::io::Result<D>) -> Outcome<()> {
    let free = || TcpListener::bind("127.0.0.1:0")?.local_addr();
    let addresses = [free()?, free()?];
    let mut nodes = [
        Node::new(make(CONFIG)?, 1, addresses[0])?,
        Node::new(make(CONFIG)?, 2, addresses[1])?,
    ];
    let joining = |place: usize| Joining {
        node: node(place as u64 + 1),
        cores: 1,
        weight: 1,
        gossip: addresses[place],
        bus: addresses[place],
        reference: "".into(),
        protocol: PROTOCOL,
    };
    let view = View::first(1, "bench", &joining(0))?.with_member(2, &joining(1))?;
    for node in &mut nodes {
        node.bus.set_peers(&mut node.driver, 0, &view);
    }
    let started = Instant::now();
    for (burst, bytes) in [
        (1, 128),
        (8, 128),
        (64, 128),
        (512, 128),
        (8, 4096),
        (1, 65_536),
    ] {
        let body = vec![0x55; bytes];
        let count = 200_000 / (1 + bytes as u64 / 1024) / if burst == 1 { 4 } else { 1 };
        run(&mut nodes, started, (count / 10, burst, &body))?;
        let mut spans = Vec::new();
        for _ in 0..RUNS {
            spans.push(run(&mut nodes, started, (count, burst, &body))?);
        }
        spans.sort();
        let (median, least, most) = (spans[RUNS / 2], spans[0], spans[RUNS - 1]);
        println!(
            "{bytes:>6} bytes, bursts of {burst:>3}: {median:>9.2?} per message ({least:.2?} to {most:.2?})"
        );
    }
    Ok(())
}

fn main() -> Outcome<()> {
    match std::env::args().nth(1).as_deref() {
        None | Some("epoll") => measure(EpollDriver::new),
        Some("uring") => measure(UringDriver::new),
        Some(other) => Err(format!("`{other}` is no driver: say epoll or uring").into()),
    }
}
