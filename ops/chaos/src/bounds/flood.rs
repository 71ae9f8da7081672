//! Publishers that run flat out: QoS 0 as fast as the connection takes it, QoS 1 with a full window.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use edge_proto::packet::{QoS, Version};

use crate::wire::{Received, Wire, wait_for_any};

/// Bytes of each payload.
const PAYLOAD_BYTES: usize = 512;
/// QoS 1 messages on their way, below the Receive Maximum of the server.
const WINDOW: u64 = 64;
/// Messages encoded before the connection is looked at.
const BURST: usize = 64;

/// Publishers at work on a thread of their own.
#[derive(Debug)]
pub(crate) struct Flood {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl Flood {
    /// Connects a publisher of QoS 0 and one of QoS 1 to the topics `flood/{0..topics}/t` and lets them begin.
    ///
    /// # Errors
    /// They cannot connect.
    pub(crate) fn start(address: SocketAddr, topics: usize) -> io::Result<Self> {
        let mut fast = Wire::join(address, Version::V5, "flood-0", true, 0)?;
        let mut sure = Wire::join(address, Version::V5, "flood-1", true, 0)?;
        let (stop, sent) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let (until, count) = (Arc::clone(&stop), Arc::clone(&sent));
        let thread = thread::Builder::new().name("flood".into()).spawn(move || {
            let topics: Vec<String> = (0..topics)
                .map(|topic| format!("flood/{topic}/t"))
                .collect();
            let payload = vec![b'x'; PAYLOAD_BYTES];
            let (mut number, mut surely, mut acknowledged) = (0usize, 0u64, 0u64);
            while !until.load(Ordering::Relaxed) && !fast.ended {
                for _ in 0..BURST {
                    if fast.unsent() == 0 || fast.unsent() < BURST * PAYLOAD_BYTES {
                        fast.publish(
                            false,
                            QoS::AtMostOnce,
                            false,
                            &topics[number % topics.len()],
                            0,
                            &payload,
                        );
                        number += 1;
                    }
                }
                while surely - acknowledged < WINDOW && !sure.ended {
                    let packet_id = (surely % 60_000) as u16 + 1;
                    let topic = &topics[(surely * 7) as usize % topics.len()];
                    sure.publish(false, QoS::AtLeastOnce, false, topic, packet_id, &payload);
                    surely += 1;
                }
                fast.flush();
                sure.flush();
                wait_for_any(&[&fast, &sure], Duration::from_millis(20));
                fast.discard();
                sure.fill();
                let packets = sure.packets().unwrap_or_default();
                acknowledged += packets
                    .iter()
                    .filter(|packet| matches!(packet, Received::PubAck(..)))
                    .count() as u64;
                count.store(number as u64 + surely, Ordering::Relaxed);
            }
        })?;
        Ok(Self { stop, sent, thread })
    }

    /// Messages sent so far.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Stops them.
    pub(crate) fn finish(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.join();
        self.sent.load(Ordering::Relaxed)
    }
}
