//! One connection of the fake driver, and what it receives.

use std::io;
use std::time::Instant;

use super::net::{End, Net};
use crate::buffers::Buffers;
use crate::driver::{ConnectionId, DriverCounters, Event};
use crate::send_queue::SendQueue;

#[derive(Debug)]
pub(super) enum State {
    Connecting,
    /// The connect failed when it was made; told by the next poll.
    Refused(io::ErrorKind),
    Open,
    /// Sends the rest; then FIN; then waits for the peer's.
    Closing {
        until: Instant,
        fin_sent: bool,
    },
    Aborted,
}

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) end: Option<End>,
    pub(super) state: State,
    pub(super) queue: SendQueue,
    pub(super) paused: bool,
    /// `PeerClosed` was reported.
    pub(super) peer_closed: bool,
    /// `unsent` was above zero at the end of a flush.
    pub(super) owes_drained: bool,
}

pub(super) enum Outcome {
    Keep,
    Again,
    Gone(Option<io::ErrorKind>),
}

impl Connection {
    /// Does what can be done with what arrived: at most one event.
    pub(super) fn receive(
        &mut self,
        buffers: &mut Buffers,
        counters: &mut DriverCounters,
        net: &mut Net,
        end: End,
        id: ConnectionId,
        events: &mut Vec<Event>,
    ) -> Option<Outcome> {
        let side = net.side(end)?;
        let closing = matches!(self.state, State::Closing { .. });
        if closing {
            side.inbound.clear();
        }
        if !side.inbound.is_empty() && !self.paused {
            if side.stalled_polls > 0 {
                side.stalled_polls -= 1;
                counters.receive_buffers_exhausted += 1;
                return Some(Outcome::Again);
            }
            let Some(buffer) = buffers.next_free() else {
                counters.receive_buffers_exhausted += 1;
                return Some(Outcome::Again);
            };
            let count = side.inbound.len().min(side.chunk).min(buffer.len());
            for (place, byte) in buffer.iter_mut().zip(side.inbound.drain(..count)) {
                *place = byte;
            }
            counters.bytes_received += count as u64;
            events.push(Event::Received {
                connection: id,
                buffer: buffers.lend_last(count),
            });
            net.notify(end.other());
            return Some(Outcome::Again);
        }
        if let Some(kind) = side.broken {
            return Some(Outcome::Gone(Some(kind)));
        }
        if side.fin && side.inbound.is_empty() && !self.paused && !closing && !self.peer_closed {
            self.peer_closed = true;
            events.push(Event::PeerClosed { connection: id });
            return Some(Outcome::Again);
        }
        None
    }
}
