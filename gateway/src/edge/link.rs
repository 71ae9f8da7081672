//! The transport side of a connection: what was read and not handled, what was written and not sent.

use std::fmt;

use edge_proto::frame::Frame;
use edge_proto::packet::PacketType;
use edge_proto::reason::Violation;
use edge_proto::shown::Length;
use edge_proto::websocket;
use reactor::driver::{Close, ConnectionId};
use reactor::wheel::TimerKey;

use super::graceful;
use super::streams::Streams;
use crate::outbox::{ForStream, Order};
use crate::turn::{Timer, Turn};

use super::session::Session;

/// How MQTT bytes are carried.
#[derive(Debug)]
pub(super) enum Transport {
    Tcp,
    /// WebSocket, before the upgrade request is complete.
    Upgrading,
    WebSocket(Box<websocket::Decoder>),
    /// QUIC, with data streams beside the stream that the connection began with.
    Streams(Box<Streams>),
}

/// The transport side of a connection.
pub(super) struct Link {
    pub(super) id: ConnectionId,
    pub(super) transport: Transport,
    /// Bytes of a packet that is not complete, or that cannot be taken now.
    #[expect(
        clippy::box_collection,
        reason = "8 bytes of an idle connection instead of 24"
    )]
    pub(super) partial: Option<Box<Vec<u8>>>,
    pub(super) last_seen_ms: u64,
    pub(super) timer: Option<TimerKey>,
    /// Bytes written since the driver last said that everything is sent: an upper bound of what is unsent.
    pub(super) unsent: u32,
    /// True exactly when the driver was asked to say when everything is sent.
    pub(super) watched: bool,
    /// True exactly when it is in the list of those that wait for a bound of the core.
    pub(super) waits: bool,
    /// True exactly when the connection is not read.
    pub(super) stalled: bool,
}

impl fmt::Debug for Link {
    /// Without what was received, which may have a password.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let partial = self.partial.as_ref().map(|partial| Length::of(partial));
        formatter
            .debug_struct("Link")
            .field("id", &self.id)
            .field("transport", &self.transport)
            .field("partial", &partial)
            .field("last_seen_ms", &self.last_seen_ms)
            .field("timer", &self.timer)
            .field("unsent", &self.unsent)
            .field("watched", &self.watched)
            .field("waits", &self.waits)
            .field("stalled", &self.stalled)
            .finish()
    }
}

impl Link {
    /// Looks whether the client is silent, from now on.
    pub(super) fn arm_keep_alive(&mut self, turn: &mut Turn<'_>, session: &Session) {
        if let Some(timer) = self.timer.take() {
            turn.timers.cancel(timer);
        }
        if session.keep_alive_s > 0 {
            let due = turn.now.mono_ms + session.keep_alive_limit_ms();
            let look_at = session.keep_alive_look_ms(due);
            self.timer = Some(turn.timers.arm(look_at, Timer::KeepAlive(self.id)));
        }
    }

    pub(super) fn new(id: ConnectionId, transport: Transport, now_ms: u64) -> Self {
        Self {
            id,
            transport,
            partial: None,
            last_seen_ms: now_ms,
            timer: None,
            unsent: 0,
            watched: false,
            waits: false,
            stalled: false,
        }
    }

    /// Writes MQTT bytes of one packet.
    pub(super) fn write(&mut self, turn: &mut Turn<'_>, write: impl FnOnce(&mut Vec<u8>)) {
        let websocket = matches!(self.transport, Transport::WebSocket(_));
        let written = turn.outbox.write(self.id, websocket, write);
        turn.stats.counters.packets_sent += 1;
        self.written(turn, written);
    }

    /// Writes the answer to a packet that named this identifier, where that packet came from.
    pub(super) fn answer(
        &mut self,
        turn: &mut Turn<'_>,
        packet_type: PacketType,
        packet_id: u16,
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        let Transport::Streams(streams) = &mut self.transport else {
            return self.write(turn, write);
        };
        let Some(answered) = streams.answered(packet_type, packet_id) else {
            return self.write(turn, write);
        };
        self.write_to_stream(turn, answered.number, write);
        if answered.is_last {
            let finish = ForStream::Finish(answered.number);
            turn.outbox.streams.push((self.id, finish));
        }
    }

    /// Writes an answer to the packet that is being handled, where that came from.
    pub(super) fn write_back(&mut self, turn: &mut Turn<'_>, write: impl FnOnce(&mut Vec<u8>)) {
        match self.streams().and_then(|streams| streams.current()) {
            Some(number) => self.write_to_stream(turn, number, write),
            None => self.write(turn, write),
        }
    }

    fn write_to_stream(
        &mut self,
        turn: &mut Turn<'_>,
        number: u64,
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        let written = turn.outbox.write_to_stream(self.id, number, write);
        turn.stats.counters.packets_sent += 1;
        self.written(turn, written);
    }

    /// Takes note of a packet that is about to be handled.
    ///
    /// # Errors
    /// When it may not come on the stream that it came on.
    pub(super) fn arrives(&mut self, frame: Frame<'_>) -> Result<(), Violation> {
        match &mut self.transport {
            Transport::Streams(streams) => streams.arrives(frame),
            _ => Ok(()),
        }
    }

    /// Its data streams, if it ever had any.
    pub(super) fn streams(&mut self) -> Option<&mut Streams> {
        match &mut self.transport {
            Transport::Streams(streams) => Some(streams),
            _ => None,
        }
    }

    /// Bytes that were received and not handled, on all streams.
    pub(super) fn kept_bytes(&self) -> usize {
        let first = self.partial.as_ref().map_or(0, |partial| partial.len());
        match &self.transport {
            Transport::Streams(streams) => first + streams.kept_bytes(),
            _ => first,
        }
    }

    /// Drops these bytes; returns how many there were.
    pub(super) fn drop_kept(&mut self) -> usize {
        let bytes = self.kept_bytes();
        self.partial = None;
        if let Some(streams) = self.streams() {
            streams.drop_kept();
        }
        bytes
    }

    /// Writes bytes that are not part of the MQTT stream.
    pub(super) fn write_raw(&mut self, turn: &mut Turn<'_>, write: impl FnOnce(&mut Vec<u8>)) {
        let written = turn.outbox.write_raw(self.id, write);
        self.written(turn, written);
    }

    fn written(&mut self, turn: &mut Turn<'_>, written: usize) {
        self.unsent = self
            .unsent
            .saturating_add(u32::try_from(written).unwrap_or(u32::MAX));
        if !self.can_take_more(turn) && !self.watched {
            self.watched = true;
            turn.outbox.orders.push(Order::Watch(self.id));
        }
    }

    /// True while messages may be written. Answers are written in any case.
    pub(super) fn can_take_more(&self, turn: &Turn<'_>) -> bool {
        (self.unsent as usize) < turn.facts.limits.unsent_bytes_max
    }

    /// True when even the answers to its own packets pile up, because the client does not read.
    pub(super) fn is_flooded(&self, turn: &Turn<'_>) -> bool {
        const FACTOR: usize = 4;
        let largest = turn.facts.limits.packet_bytes_max as usize; // One message may be much larger than the rest.
        self.unsent as usize > FACTOR * turn.facts.limits.unsent_bytes_max + largest
    }

    /// Closes after what was written; a WebSocket gets a close frame first.
    pub(super) fn close(&mut self, turn: &mut Turn<'_>) {
        if matches!(self.transport, Transport::WebSocket(_)) {
            self.write_raw(turn, |out| {
                websocket::close(out, websocket::CloseCode::Normal, "");
            });
        }
        let how = if self.is_flooded(turn) {
            Close::Abort
        } else {
            graceful(turn)
        };
        turn.outbox.orders.push(Order::Close(self.id, how));
    }
}
