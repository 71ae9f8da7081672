//! The QUIC connections of one core: datagrams to connections, bounds, time, and what the shard is told.
//!
//! **A storm does not stall live connections**: a turn begins `handshakes_per_turn` handshakes, and fewer when they take long. The others wait
//! in a bounded queue; above `retry_above` a client has to prove its address first, which costs this server no memory and two AEADs; above
//! `handshakes_max`, and at a bound of the [`Gate`], it is refused.
//!
//! Every call that changes a connection puts it into the list of those that may have something to send; [`Endpoints::transmit`] asks
//! them, once, at the end of the turn.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use quinn_proto::{
    ConnectionError, ConnectionEvent, ConnectionHandle, DatagramEvent, EcnCodepoint, Endpoint,
    Event, Incoming,
};
use reactor::datagram::{Ecn, Transmit};
use reactor::driver::ConnectionId;
use reactor::slab::{Key, Slab};
use reactor::wheel::Wheel;

use super::connection::{Connection, Stage};
use super::ids::stream_id;
use super::sending::transmit_of;
use super::session::Desk;
use super::setup::{Listening, endpoint_config, server_config};
use super::stats::Stats;
use crate::access::gate::{Counted, Gate};
use crate::limits::QuicLimits;
use crate::metrics::TurnedAway;
use crate::shard::Arrival;
use crate::tls::{Acceptor, CoreClock, Reason, SettingsError};
use crate::turn::Now;

/// Datagrams from one peer that arrived together.
#[derive(Debug)]
pub struct Arrived<'a> {
    /// At which listener.
    pub listener: u16,
    /// From whom.
    pub remote: SocketAddr,
    /// To which of the local addresses.
    pub local: Option<IpAddr>,
    /// ECN bits of all of them.
    pub ecn: Option<Ecn>,
    /// True exactly when nobody may connect from there, nor go on from there.
    pub is_banned: bool,
    /// Length of each datagram but the last.
    pub stride: usize,
    /// The datagrams.
    pub bytes: &'a [u8],
}

/// What comes of datagrams or of time.
#[derive(Debug)]
pub enum Output<'a> {
    /// A client opened its first stream.
    Accepted(ConnectionId, Arrival),
    /// Bytes of it, in order.
    Data(ConnectionId, &'a mut [u8]),
    /// The client opened its first data stream: say with [`Endpoints::admit`] when they may be read.
    StreamsOpened(ConnectionId),
    /// Bytes of a data stream, in order.
    StreamData(ConnectionId, u64, &'a [u8]),
    /// The client will send nothing more on a data stream.
    StreamEnded(ConnectionId, u64),
    /// There is room to send again.
    Drained(ConnectionId),
    /// The client will send nothing more.
    PeerClosed(ConnectionId),
    /// The connection is gone. The last output for this id.
    Closed(ConnectionId),
    /// A datagram for another core: hand it over.
    Stray(u16, &'a [u8]),
    /// Somebody was not let in: banned, who gets no answer, or at a bound, who is refused.
    TurnedAway(SocketAddr, TurnedAway),
    /// A handshake failed, for the log: from whom, why and in which words.
    Failed(SocketAddr, Reason, String),
}

/// What a call of the endpoints works with.
pub(super) struct Call<'a, F> {
    pub(super) now: Now,
    pub(super) gate: &'a mut Gate,
    output: &'a mut F,
}

impl<'a, F: FnMut(Output<'_>)> Call<'a, F> {
    pub(super) fn new(now: Now, gate: &'a mut Gate, output: &'a mut F) -> Self {
        Self { now, gate, output }
    }

    pub(super) fn tell(&mut self, output: Output<'_>) {
        (self.output)(output);
    }
}

/// A client that waits for its handshake.
pub(super) struct Waiting {
    pub(super) listener: u16,
    /// When it came in.
    pub(super) since_ms: u64,
    pub(super) incoming: Incoming,
    /// As what it is counted, if it has shown that it is where it says.
    pub(super) counted: Option<Counted>,
}

/// The endpoint of one listener.
pub(super) struct Listener {
    pub(super) endpoint: Endpoint,
    /// The connection behind each handle.
    pub(super) keys: Vec<Option<Key>>,
}

/// The QUIC connections of one core.
pub struct Endpoints {
    pub(super) limits: QuicLimits,
    pub(super) listening: Listening,
    /// The instant of `mono_ms` 0.
    pub(super) origin: Instant,
    pub(super) clock: Arc<CoreClock>,
    pub(super) desk: Arc<Desk>,
    pub(super) acceptor: Arc<Acceptor>,
    pub(super) listeners: Vec<Listener>,
    pub(super) connections: Slab<Box<Connection>>,
    pub(super) timers: Wheel<Key>,
    pub(super) waiting: VecDeque<Waiting>,
    /// Handshakes begun since [`Endpoints::take_begun`].
    pub(super) begun: u32,
    pub(super) due: Vec<Key>,
    /// Answers that belong to no connection.
    pub(super) answers: Vec<(u16, Transmit)>,
    /// Connections whose end the shard has not been told.
    pub(super) ended: Vec<ConnectionId>,
    /// Connections that quinn-proto is done with, found at the end of a turn.
    pub(super) gone: Vec<Key>,
    /// Connections that are read again.
    pub(super) resumed: Vec<Key>,
    /// True once the node stops.
    pub(super) is_stopping: bool,
    pub(super) scratch: Vec<u8>,
    /// What one connection sends, before it gets a vector of its size.
    pub(super) outgoing: Vec<u8>,
    pub(super) spare: Vec<Vec<u8>>,
    pub(super) stats: Stats,
}

impl Endpoints {
    /// An endpoint for each listener at these addresses, without connections. `origin` is the instant of `mono_ms` 0.
    ///
    /// # Errors
    /// When the acceptor does not do for QUIC: make it with [`Acceptor::for_quic`].
    pub fn new(
        limits: QuicLimits,
        listening: Listening,
        acceptor: &Arc<Acceptor>,
        addresses: &[SocketAddr],
        origin: Instant,
        now: Now,
    ) -> Result<Self, SettingsError> {
        let clock = Arc::new(CoreClock::default());
        clock.set(now.unix_ms);
        let desk = Arc::default();
        let config = server_config(acceptor, &clock, &desk, &listening.keys, &limits);
        let config = Arc::new(config.map_err(|error| SettingsError::Unsupported {
            detail: error.to_string(),
        })?);
        let listener = |address: &SocketAddr| {
            let config = Some(Arc::clone(&config));
            let endpoint_config = Arc::new(endpoint_config(&listening, *address));
            Listener {
                endpoint: Endpoint::new(endpoint_config, config, false, None),
                keys: Vec::new(),
            }
        };
        Ok(Self {
            listeners: addresses.iter().map(listener).collect(),
            begun: 0,
            limits,
            listening,
            origin,
            clock,
            desk,
            acceptor: Arc::clone(acceptor),
            connections: Slab::default(),
            timers: Wheel::new(now.mono_ms),
            waiting: VecDeque::new(),
            due: Vec::new(),
            answers: Vec::new(),
            ended: Vec::new(),
            gone: Vec::new(),
            resumed: Vec::new(),
            is_stopping: false,
            scratch: Vec::new(),
            outgoing: Vec::new(),
            spare: Vec::new(),
            stats: Stats::default(),
        })
    }

    /// New connections get this acceptor; open ones stay as they are.
    pub fn reload(&mut self, acceptor: &Arc<Acceptor>) {
        let (clock, keys) = (&self.clock, &self.listening.keys);
        // It was made like the first one, which did.
        if let Ok(config) = server_config(acceptor, clock, &self.desk, keys, &self.limits) {
            let config = Arc::new(config);
            for listener in &mut self.listeners {
                let config = Some(Arc::clone(&config));
                listener.endpoint.set_server_config(config);
            }
            self.acceptor = Arc::clone(acceptor);
        }
    }

    /// What was counted.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats {
            handshakes_waiting: self.waiting.len() as u64,
            connections: self.connections.len() as u64,
            ..self.stats.clone()
        }
    }

    pub(super) fn instant(&self, now: Now) -> Instant {
        self.origin + Duration::from_millis(now.mono_ms)
    }

    /// Datagrams from the driver, or from another core. Handshakes that they ask for begin in [`Endpoints::turn`].
    pub fn received(
        &mut self,
        arrived: &Arrived<'_>,
        now: Now,
        gate: &mut Gate,
        output: &mut impl FnMut(Output<'_>),
    ) {
        let call = &mut Call::new(now, gate, output);
        self.clock.set(now.unix_ms);
        let instant = self.instant(now);
        let ecn = arrived
            .ecn
            .and_then(|ecn| EcnCodepoint::from_bits(ecn as u8));
        let place = usize::from(arrived.listener);
        for datagram in arrived.bytes.chunks(arrived.stride.max(1)) {
            if let Some(core) = self.listening.other_core(datagram) {
                self.stats.strays += 1;
                call.tell(Output::Stray(core, datagram));
                continue;
            }
            let Some(listener) = self.listeners.get_mut(place) else {
                return;
            };
            let (remote, local) = (arrived.remote, arrived.local);
            let mut answer = Vec::new();
            let event = listener.endpoint.handle(
                instant,
                remote,
                local,
                ecn,
                BytesMut::from(datagram),
                &mut answer,
            );
            match event {
                None => {}
                Some(DatagramEvent::Response(transmit)) => {
                    // Only a stateless reset has a short header.
                    let is_reset = answer.first().is_some_and(|first| first & 0x80 == 0);
                    self.stats.resets_sent += u64::from(is_reset);
                    self.answer(arrived.listener, &transmit, answer);
                }
                Some(DatagramEvent::NewConnection(incoming)) if arrived.is_banned => {
                    listener.endpoint.ignore(incoming);
                    call.tell(Output::TurnedAway(remote, TurnedAway::Banned));
                }
                Some(DatagramEvent::NewConnection(incoming)) => {
                    self.incoming(arrived.listener, incoming, call);
                }
                Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                    if let Some(key) = listener.keys.get(handle.0).copied().flatten() {
                        self.happened(key, event, arrived, call);
                    }
                }
            }
        }
    }

    pub(super) fn answer(
        &mut self,
        listener: u16,
        transmit: &quinn_proto::Transmit,
        bytes: Vec<u8>,
    ) {
        self.answers.push((listener, transmit_of(transmit, bytes)));
    }

    /// A datagram of a connection.
    fn happened(
        &mut self,
        key: Key,
        event: ConnectionEvent,
        arrived: &Arrived<'_>,
        call: &mut Call<'_, impl FnMut(Output<'_>)>,
    ) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        let before = connection.protocol.remote_address();
        let is_elsewhere = arrived.remote != before;
        // Not closed for a ban: that would let anybody who can repeat a datagram of it from a banned address end it.
        if is_elsewhere && (arrived.is_banned || !connection.hears_elsewhere(call.now.mono_ms)) {
            self.stats.elsewhere_dropped += 1;
            return;
        }
        self.desk.clear();
        connection.protocol.handle_event(event);
        let has_moved = connection.protocol.remote_address() != before;
        connection.has_moved |= has_moved;
        self.stats.migrations += u64::from(has_moved);
        self.drive(key, call);
    }

    /// Lets a connection say everything that it has to say, to the endpoint and to the shard.
    pub(super) fn drive(&mut self, key: Key, call: &mut Call<'_, impl FnMut(Output<'_>)>) {
        loop {
            if self.exchange(key) {
                return self.drained(key, call);
            }
            let Some(connection) = self.connections.get_mut(key) else {
                return;
            };
            let Some(event) = connection.protocol.poll() else {
                break;
            };
            match event {
                Event::Connected => self.connected(key, call),
                Event::ConnectionLost { reason } => self.lost(key, &reason, call),
                Event::Stream(event) => self.stream(key, event, call),
                Event::HandshakeDataReady | Event::DatagramReceived | Event::DatagramsUnblocked => {
                }
            }
        }
        self.is_due(key);
    }

    /// Carries messages between a connection and its endpoint. True when the connection is over and done with.
    pub(super) fn exchange(&mut self, key: Key) -> bool {
        let Some(connection) = self.connections.get_mut(key) else {
            return false;
        };
        let endpoint = &mut self.listeners[usize::from(connection.listener)].endpoint;
        while let Some(event) = connection.protocol.poll_endpoint_events() {
            let is_last = event.is_drained();
            if let Some(event) = endpoint.handle_event(connection.handle, event) {
                connection.protocol.handle_event(event);
            }
            if is_last {
                return true;
            }
        }
        false
    }

    /// quinn-proto needs nothing of this connection any more.
    pub(super) fn drained(&mut self, key: Key, call: &mut Call<'_, impl FnMut(Output<'_>)>) {
        // What it still has to tell: why it was lost.
        while let Some(event) = self
            .connections
            .get_mut(key)
            .and_then(|connection| connection.protocol.poll())
        {
            match event {
                Event::ConnectionLost { reason } => self.lost(key, &reason, call),
                Event::Stream(event) => self.stream(key, event, call),
                _ => {}
            }
        }
        let Some(connection) = self.connections.remove(key) else {
            return;
        };
        let id = stream_id(key.slot, key.generation);
        call.gate.leave(id);
        if connection.is_known() {
            call.tell(Output::Closed(id));
        }
        if connection.stage == Stage::Handshaking {
            self.stats.handshakes_in_progress -= 1;
        }
        self.stats.unsent_bytes -= connection.unsent() as u64;
        if let Some((timer, _)) = connection.timer {
            self.timers.cancel(timer);
        }
        let keys = &mut self.listeners[usize::from(connection.listener)].keys;
        let ConnectionHandle(handle) = connection.handle;
        if let Some(place) = keys.get_mut(handle) {
            *place = None;
        }
    }

    pub(super) fn is_due(&mut self, key: Key) {
        if let Some(connection) = self.connections.get_mut(key)
            && !connection.is_due
        {
            connection.is_due = true;
            self.due.push(key);
        }
    }

    /// The connection ended, and not by this side.
    fn lost(
        &mut self,
        key: Key,
        why: &ConnectionError,
        call: &mut Call<'_, impl FnMut(Output<'_>)>,
    ) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        match (connection.stage, why) {
            (Stage::Handshaking, why) => {
                let reason = match why {
                    ConnectionError::TimedOut => Reason::TimedOut,
                    ConnectionError::ConnectionClosed(_)
                    | ConnectionError::ApplicationClosed(_)
                    | ConnectionError::Reset => Reason::PeerAlert,
                    _ => self.desk.failed().unwrap_or(Reason::Violation),
                };
                self.stats.handshakes_in_progress -= 1;
                self.stats.handshakes_failed[reason as usize] += 1;
                let remote = connection.protocol.remote_address();
                call.tell(Output::Failed(remote, reason, why.to_string()));
            }
            (_, ConnectionError::TimedOut) => self.stats.timed_out += 1,
            (_, ConnectionError::TransportError(_)) => self.stats.violations += 1,
            _ => {}
        }
        let was_known = connection.is_known();
        self.stats.unsent_bytes -= connection.unsent() as u64;
        connection.lost();
        if was_known {
            call.tell(Output::Closed(stream_id(key.slot, key.generation)));
        }
    }
}
