//! Clients that are worse than slow: each takes something of the server and gives nothing back.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use edge_proto::packet::{QoS, Version};

use crate::clock::now;
use crate::wire::Wire;

/// How a hostile client behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Connects and never sends a CONNECT.
    Silent,
    /// Sends a CONNECT at one byte per second.
    Drip,
    /// Announces a packet of the largest size and sends all but the end.
    Partial,
    /// Sends PINGREQs and reads nothing.
    PingFlood,
    /// Sends SUBSCRIBEs and reads nothing.
    SubscribeFlood,
    /// Subscribes to thousands of filters.
    Hoarder,
    /// A 3.1.1 client that takes QoS 1 messages and never acknowledges.
    NeverAcks,
}

impl Kind {
    /// All of them.
    pub(crate) const ALL: [Self; 7] = [
        Self::Silent,
        Self::Drip,
        Self::Partial,
        Self::PingFlood,
        Self::SubscribeFlood,
        Self::Hoarder,
        Self::NeverAcks,
    ];
}

/// A hostile client.
#[derive(Debug)]
pub(crate) struct Hostile {
    pub(crate) kind: Kind,
    wire: Wire,
    next_at: Instant,
    sent: usize,
}

/// Bytes that a flooding client keeps ready to be sent.
const FLOOD_BYTES: usize = 64 * 1024;

impl Hostile {
    /// Connects; `None` when the server takes no more.
    pub(crate) fn new(
        address: SocketAddr,
        kind: Kind,
        number: usize,
        packet_bytes: usize,
    ) -> Option<Self> {
        let name = format!("hostile-{kind:?}-{number}");
        let mut wire = match kind {
            Kind::Silent => Wire::open(address, Version::V5).ok()?,
            Kind::Drip => {
                let mut wire = Wire::open(address, Version::V5).ok()?;
                wire.connect(&name, true, 0);
                wire
            }
            Kind::NeverAcks => Wire::join(address, Version::V311, &name, true, 0).ok()?,
            _ => Wire::join(address, Version::V5, &name, true, 0).ok()?,
        };
        match kind {
            Kind::Partial => {
                let length = packet_bytes - 5;
                let mut header = vec![0x30];
                let mut rest = length;
                while rest > 0x7F {
                    header.push(rest as u8 & 0x7F | 0x80);
                    rest >>= 7;
                }
                header.push(rest as u8);
                wire.raw(&header);
                wire.raw(&[0, 3, b'h', b'/', b'p', 0]);
                wire.raw(&vec![b'x'; length - 16]);
            }
            Kind::NeverAcks => drop(wire.subscribe_now(&["flood/0/t"], QoS::AtLeastOnce)),
            _ => {}
        }
        Some(Self {
            kind,
            wire,
            next_at: now(),
            sent: 0,
        })
    }

    /// True when the server has ended it.
    pub(crate) const fn is_over(&self) -> bool {
        self.wire.ended
    }

    /// Does its worst.
    pub(crate) fn act(&mut self) {
        match self.kind {
            Kind::Silent => drop(self.wire.discard()),
            Kind::Drip => {
                self.wire.discard();
                if self.next_at <= now() {
                    self.next_at += Duration::from_secs(1);
                    self.wire.flush_some(1);
                }
            }
            Kind::Partial => {
                self.wire.flush();
                if self.wire.unsent() == 0 {
                    self.wire.discard();
                }
            }
            Kind::PingFlood => {
                while self.wire.unsent() < FLOOD_BYTES {
                    self.wire.ping();
                }
                self.wire.flush();
            }
            Kind::SubscribeFlood => {
                while self.wire.unsent() < FLOOD_BYTES {
                    self.sent += 1;
                    let filter = format!("h/{}/#", self.sent % 100);
                    self.wire.subscribe(
                        (self.sent % 60_000) as u16 + 1,
                        &[&filter],
                        QoS::AtMostOnce,
                    );
                }
                self.wire.flush();
            }
            Kind::Hoarder => {
                self.wire.flush();
                if self.wire.unsent() == 0 && self.sent < 20_000 {
                    let filters: Vec<String> = (0..100)
                        .map(|index| format!("hoard/{}/x", self.sent + index))
                        .collect();
                    let filters: Vec<&str> = filters.iter().map(String::as_str).collect();
                    self.wire.subscribe(9, &filters, QoS::AtLeastOnce);
                    self.sent += 100;
                }
                self.wire.discard();
            }
            Kind::NeverAcks => drop(self.wire.discard()),
        }
    }
}
