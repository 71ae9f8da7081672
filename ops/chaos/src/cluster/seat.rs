//! Where a client is: at which node, since when, and for how long it puts up with silence. A client whose node is gone, says no, or is
//! silent for too long goes to the next one.

use std::time::{Duration, Instant};

use edge_proto::reason::ReasonCode;

use crate::clock::now;
use crate::wire::{Received, Wire};

/// Between two PINGREQs.
const PING: Duration = Duration::from_secs(1);
/// After a lost connection, before the next one.
const RETRY: Duration = Duration::from_millis(50);
/// How long a CONNECT may stay without an answer.
const CONNECT_PATIENCE: Duration = Duration::from_secs(8);
/// What a server says that cannot take a client now.
const NOT_NOW: [ReasonCode; 5] = [
    ReasonCode::ServerUnavailable,
    ReasonCode::ServerBusy,
    ReasonCode::UseAnotherServer,
    ReasonCode::ServerMoved,
    ReasonCode::ServerShuttingDown,
];

/// A client's place.
#[derive(Debug)]
pub(crate) struct Seat {
    /// The node it is at, or tries next.
    pub(crate) node: usize,
    /// The node where it begins each fault.
    pub(crate) assigned: usize,
    /// True exactly from CONNACK to the end of the connection.
    pub(crate) online: bool,
    patience: Duration,
    heard: Instant,
    pinged: Instant,
    retry_at: Instant,
}

impl Seat {
    /// A client that begins at this node.
    pub(crate) fn new(node: usize, patience: Duration) -> Self {
        let now = now();
        Self {
            node,
            assigned: node,
            online: false,
            patience,
            heard: now,
            pinged: now,
            retry_at: now,
        }
    }

    /// True when it is time to connect.
    pub(crate) fn may_connect(&self) -> bool {
        now() >= self.retry_at
    }

    /// It has connected, or could not (`false`): then another node is next.
    pub(crate) fn connected(&mut self, is_open: bool, nodes: usize) {
        self.heard = now();
        self.online = false;
        if !is_open {
            self.leave((self.node + 1) % nodes);
        }
    }

    /// Its connection is over; `next` is where it goes.
    pub(crate) fn leave(&mut self, next: usize) {
        self.node = next;
        self.online = false;
        self.retry_at = now() + RETRY;
    }

    /// Pings, and says whether it has waited for too long.
    pub(crate) fn is_tired(&mut self, wire: &mut Wire) -> bool {
        if self.online && self.pinged.elapsed() > PING {
            self.pinged = now();
            wire.ping();
        }
        let limit = if self.online {
            self.patience
        } else {
            CONNECT_PATIENCE
        };
        self.heard.elapsed() > limit
    }

    /// A packet came.
    pub(crate) fn hears(&mut self, packet: &Received) {
        self.heard = now();
        if let Received::ConnAck { reason, .. } = packet {
            self.online = !reason.is_error();
        }
    }
}

/// Why a node sends a client away, when this packet says so: in an answer to CONNECT (`true`), or later.
pub(crate) fn sent_away(packet: &Received) -> Option<(bool, ReasonCode)> {
    match packet {
        Received::ConnAck { reason, .. } if NOT_NOW.contains(reason) => Some((true, *reason)),
        Received::Disconnect(reason) => Some((false, *reason)),
        _ => None,
    }
}
