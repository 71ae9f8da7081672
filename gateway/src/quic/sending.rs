//! What the connections of one core have to send, at the end of a turn, and when they want to be asked again.

use reactor::datagram::{Ecn, Transmit};
use reactor::driver::ConnectionId;
use reactor::slab::Key;

use super::connection::{Connection, Stage};
use super::endpoints::Endpoints;
use super::ids::stream_id;
use crate::access::gate::Gate;
use crate::turn::Now;

/// Datagrams of one transmit at most: what the kernel cuts at once, and no more than a congestion window wants at a time.
const DATAGRAMS_PER_TRANSMIT: usize = 10;
/// Vectors that are kept for the next transmits, and the capacity of the largest one: most connections send one datagram.
const SPARE_MAX: usize = 64;
const SPARE_BYTES_MAX: usize = 2 * 1024;

/// How long a connection that is closed may stay, so that what is still on its way is answered. quinn-proto is done with most after three
/// probe timeouts, and with one whose very first packet closes it never.
const CLOSED_MS_MAX: u64 = 30_000;

impl Endpoints {
    /// True while there are more connections with something to send than vectors to put it in.
    #[must_use]
    pub fn wants_buffers(&self) -> bool {
        self.spare.len() < self.due.len().min(SPARE_MAX)
    }

    /// Takes an emptied vector, to be filled again.
    pub fn recycle(&mut self, mut buffer: Vec<u8>) {
        if self.spare.len() < SPARE_MAX && buffer.capacity() <= SPARE_BYTES_MAX {
            buffer.clear();
            self.spare.push(buffer);
        }
    }

    /// Hands out what is to be sent, sets timers, and tells the gate who has gone or moved; at the end of a turn.
    pub fn transmit(&mut self, now: Now, gate: &mut Gate, mut send: impl FnMut(u16, Transmit)) {
        for (listener, transmit) in self.answers.drain(..) {
            send(listener, transmit);
        }
        let instant = self.instant(now);
        let mut due = std::mem::take(&mut self.due);
        for key in due.drain(..) {
            let Some(connection) = self.connections.get_mut(key) else {
                continue;
            };
            connection.is_due = false;
            let id = stream_id(key.slot, key.generation);
            if connection.stage == Stage::Closed {
                gate.leave(id);
            }
            loop {
                self.outgoing.clear();
                let challenges = to_be_moved(connection, id, gate).then(|| connection.challenges());
                let (protocol, outgoing) = (&mut connection.protocol, &mut self.outgoing);
                let polled = protocol.poll_transmit(instant, DATAGRAMS_PER_TRANSMIT, outgoing);
                let Some(transmit) = polled else {
                    break;
                };
                let remote = connection.protocol.remote_address();
                if challenges.is_some_and(|before| before == connection.challenges())
                    && transmit.destination == remote
                {
                    gate.moved(id, remote.ip());
                }
                // quinn-proto reserves room for all the datagrams that there may be, and who waits is bounded by its capacity.
                let mut bytes = self.spare.pop().unwrap_or_default();
                bytes.reserve_exact(outgoing.len());
                bytes.extend_from_slice(outgoing);
                send(connection.listener, transmit_of(&transmit, bytes));
            }
            self.set_timer(key, now);
            if self.exchange(key) {
                self.gone.push(key);
            }
        }
        self.due = due;
    }

    /// Sets the timer of a connection. One that fires too early is set again; so most need not be moved.
    fn set_timer(&mut self, key: Key, now: Now) {
        let origin = self.origin;
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        if connection.stage == Stage::Closed && connection.deadline_ms == u64::MAX {
            connection.deadline_ms = now.mono_ms + CLOSED_MS_MAX;
        }
        let timeout = connection.protocol.poll_timeout().map(|timeout| {
            let after = timeout.saturating_duration_since(origin);
            u64::try_from(after.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
        });
        let due_ms = timeout.unwrap_or(u64::MAX).min(connection.deadline_ms);
        match connection.timer {
            Some((_, set_ms)) if set_ms <= due_ms => return,
            Some((timer, _)) => {
                self.timers.cancel(timer);
            }
            None => {}
        }
        connection.timer = (due_ms < u64::MAX).then(|| (self.timers.arm(due_ms, key), due_ms));
    }
}

/// True when a connection is counted at another address than the one at which it goes on.
fn to_be_moved(connection: &Connection, id: ConnectionId, gate: &Gate) -> bool {
    connection.has_moved
        && connection.is_admitted
        && connection.stage != Stage::Closed
        && gate.is_elsewhere(id, connection.protocol.remote_address().ip())
}

pub(super) fn transmit_of(transmit: &quinn_proto::Transmit, bytes: Vec<u8>) -> Transmit {
    Transmit {
        to: transmit.destination,
        from: transmit.src_ip,
        ecn: transmit.ecn.and_then(|ecn| Ecn::from_bits(ecn as u8)),
        segment: transmit
            .segment_size
            .and_then(|segment| u16::try_from(segment).ok()),
        bytes,
    }
}
