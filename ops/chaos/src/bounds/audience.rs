//! Subscribers of the flood: they read everything for a while, and then they stop reading.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use edge_proto::packet::{PacketType, QoS, Version};

use crate::wire::{Received, Wire, wait_for_any};

/// Subscribers at work on a thread of their own.
#[derive(Debug)]
pub(crate) struct Audience {
    reads: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    received: Arc<AtomicU64>,
    thread: JoinHandle<Vec<Wire>>,
}

impl Audience {
    /// Connects so many subscribers to the topics of the flood: of ten, six with QoS 0, three with QoS 1, and one durable with
    /// QoS 1.
    ///
    /// # Errors
    /// They cannot connect.
    pub(crate) fn start(address: SocketAddr, clients: usize, topics: usize) -> io::Result<Self> {
        let mut wires = Vec::new();
        for client in 0..clients {
            let version = if client.is_multiple_of(2) {
                Version::V311
            } else {
                Version::V5
            };
            let (qos, durable) = match client % 10 {
                0..6 => (QoS::AtMostOnce, false),
                6..9 => (QoS::AtLeastOnce, false),
                _ => (QoS::AtLeastOnce, true),
            };
            let expiry_s = if durable { 3600 } else { 0 };
            let mut wire = Wire::join(
                address,
                version,
                &format!("reader-{client}"),
                !durable,
                expiry_s,
            )?;
            if !wire.subscribe_now(&[&format!("flood/{}/t", client % topics)], qos) {
                return Err(io::Error::other("a reader could not subscribe"));
            }
            wires.push(wire);
        }
        let (reads, stop, received) = (
            Arc::new(AtomicBool::new(true)),
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let (reading, until, count) =
            (Arc::clone(&reads), Arc::clone(&stop), Arc::clone(&received));
        let thread = thread::Builder::new()
            .name("audience".into())
            .spawn(move || {
                while !until.load(Ordering::Relaxed) {
                    if reading.load(Ordering::Relaxed) {
                        count.fetch_add(read_all(&mut wires), Ordering::Relaxed);
                    } else {
                        thread::park_timeout(Duration::from_millis(50));
                    }
                }
                wires
            })?;
        Ok(Self {
            reads,
            stop,
            received,
            thread,
        })
    }

    /// From now on nobody reads.
    pub(crate) fn stop_reading(&self) {
        self.reads.store(false, Ordering::Relaxed);
    }

    /// Messages read.
    pub(crate) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Gives the connections back.
    pub(crate) fn finish(self) -> Vec<Wire> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_default()
    }
}

fn read_all(wires: &mut [Wire]) -> u64 {
    let open: Vec<usize> = (0..wires.len())
        .filter(|index| !wires[*index].ended)
        .collect();
    let polled: Vec<&Wire> = open.iter().map(|index| &wires[*index]).collect();
    let mut received = 0;
    for index in wait_for_any(&polled, Duration::from_millis(20)) {
        let wire = &mut wires[open[index]];
        wire.fill();
        for packet in wire.packets().unwrap_or_default() {
            if let Received::Publish(arrived) = packet {
                received += 1;
                if arrived.packet_id > 0 {
                    wire.ack(PacketType::PubAck, arrived.packet_id);
                }
            }
        }
        wire.flush();
    }
    received
}
