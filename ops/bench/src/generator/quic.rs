//! QUIC of the clients of one thread: quinn-proto's connections, all behind one socket.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result};
use bytes::BytesMut;
use quinn_proto::crypto::rustls::QuicClientConfig;
use quinn_proto::{
    Connection as Protocol, ConnectionHandle, DatagramEvent, Dir, EcnCodepoint, Endpoint,
    EndpointConfig, Event, Side, StreamEvent, StreamId, TransportConfig, VarInt,
};
use reactor::datagram::{DatagramOptions, DatagramSocketId, Ecn, Transmit};
use reactor::driver::{Close, ConnectionId, Driver};
use reactor::slab::{Key, Slab};
use reactor::wheel::{TimerKey, Wheel};
use rustls::ClientConfig;

use super::tls::{Handshake, take_verified};
use crate::certificate;
use crate::clock;

/// Kernel queues of the one socket that all clients of a thread share.
const SOCKET_BYTES: u32 = 4 << 20;
const TIMERS_PER_TURN: usize = 1_024;
/// The protocol, as EMQX named it.
const PROTOCOL: &[u8] = b"mqtt";

/// What happened to a client.
#[derive(Debug)]
pub(super) enum Told {
    /// Its handshake is complete.
    Connected(ConnectionId, Handshake),
    /// Bytes came.
    Data(ConnectionId, Vec<u8>),
    /// It is over; in words why, unless it was closed here.
    Closed(ConnectionId, Option<String>),
}

struct Connection {
    protocol: Protocol,
    handle: ConnectionHandle,
    /// What its stream has not taken yet.
    unsent: Vec<u8>,
    /// True exactly when the server has shown its certificate.
    is_full: bool,
    /// True exactly when it ends after what was sent.
    is_leaving: bool,
    /// True exactly when its end was told.
    is_over: bool,
    is_due: bool,
    timer: Option<(TimerKey, u64)>,
}

/// The QUIC connections of one thread.
pub(super) struct Quic {
    endpoint: Endpoint,
    config: quinn_proto::ClientConfig,
    socket: DatagramSocketId,
    connections: Slab<Box<Connection>>,
    keys: Vec<Option<Key>>,
    timers: Wheel<Key>,
    due: Vec<Key>,
    told: VecDeque<Told>,
    began: Instant,
}

fn stream() -> StreamId {
    StreamId::new(Side::Client, Dir::Bi, 0)
}

fn id(key: Key) -> ConnectionId {
    ConnectionId {
        slot: key.slot,
        generation: key.generation,
    }
}

impl Quic {
    /// Binds the socket of this thread.
    ///
    /// # Errors
    /// What the system or rustls said.
    pub(super) fn new(tls: &ClientConfig, driver: &mut impl Driver) -> Result<Self> {
        let mut tls = tls.clone();
        tls.alpn_protocols = vec![PROTOCOL.to_vec()];
        let crypto = QuicClientConfig::try_from(tls)?;
        let mut config = quinn_proto::ClientConfig::new(Arc::new(crypto));
        let mut transport = TransportConfig::default();
        transport
            .max_idle_timeout(None)
            .max_concurrent_bidi_streams(VarInt::from_u32(0))
            .max_concurrent_uni_streams(VarInt::from_u32(0))
            .mtu_discovery_config(None)
            .datagram_receive_buffer_size(None);
        config.transport_config(Arc::new(transport));
        let options = DatagramOptions {
            receive_buffer_bytes: Some(SOCKET_BYTES),
            send_buffer_bytes: Some(SOCKET_BYTES),
            ..DatagramOptions::server()
        };
        let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
        let (socket, _) = driver
            .bind_datagrams(address, options)
            .context("no socket for datagrams")?;
        Ok(Self {
            endpoint: Endpoint::new(Arc::new(EndpointConfig::default()), None, false, None),
            config,
            socket,
            connections: Slab::default(),
            keys: Vec::new(),
            timers: Wheel::new(0),
            due: Vec::new(),
            told: VecDeque::new(),
            began: clock::now(),
        })
    }

    /// Begins to connect.
    ///
    /// # Errors
    /// When quinn-proto has no connection for it.
    pub(super) fn connect(&mut self, remote: SocketAddr) -> Result<ConnectionId> {
        let config = self.config.clone();
        let connecting = self
            .endpoint
            .connect(clock::now(), config, remote, certificate::NAME);
        let (handle, protocol) = connecting?;
        let key = self.connections.insert(Box::new(Connection {
            protocol,
            handle,
            unsent: Vec::new(),
            is_full: false,
            is_leaving: false,
            is_over: false,
            is_due: false,
            timer: None,
        }));
        if self.keys.len() <= handle.0 {
            self.keys.resize(handle.0 + 1, None);
        }
        self.keys[handle.0] = Some(key);
        self.look_at(key);
        Ok(id(key))
    }

    /// Datagrams of the server.
    pub(super) fn received(
        &mut self,
        remote: SocketAddr,
        ecn: Option<Ecn>,
        stride: usize,
        bytes: &[u8],
    ) {
        let now = clock::now();
        let ecn = ecn.and_then(|ecn| EcnCodepoint::from_bits(ecn as u8));
        for datagram in bytes.chunks(stride.max(1)) {
            let datagram = BytesMut::from(datagram);
            let mut answer = Vec::new();
            let event = self
                .endpoint
                .handle(now, remote, None, ecn, datagram, &mut answer);
            if let Some(DatagramEvent::ConnectionEvent(handle, event)) = event
                && let Some(key) = self.keys.get(handle.0).copied().flatten()
                && let Some(connection) = self.connections.get_mut(key)
            {
                connection.protocol.handle_event(event);
                connection.is_full |= take_verified();
                self.drive(key);
            }
        }
    }

    /// Lets a connection say what it has to say.
    fn drive(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        let mut is_drained = false;
        while let Some(event) = connection.protocol.poll_endpoint_events() {
            is_drained |= event.is_drained();
            if let Some(event) = self.endpoint.handle_event(connection.handle, event) {
                connection.protocol.handle_event(event);
            }
        }
        while let Some(event) = connection.protocol.poll() {
            match event {
                Event::Connected => {
                    // The server allows one.
                    let _ = connection.protocol.streams().open(Dir::Bi);
                    let handshake = if connection.is_full {
                        Handshake::Full
                    } else {
                        Handshake::Resumed
                    };
                    self.told.push_back(Told::Connected(id(key), handshake));
                }
                Event::Stream(StreamEvent::Readable { .. }) => {
                    let bytes = connection.read();
                    if !bytes.is_empty() {
                        self.told.push_back(Told::Data(id(key), bytes));
                    }
                }
                Event::Stream(StreamEvent::Writable { .. }) => connection.write(),
                Event::ConnectionLost { reason } if !connection.is_over => {
                    connection.is_over = true;
                    let why = (!connection.is_leaving).then(|| reason.to_string());
                    self.told.push_back(Told::Closed(id(key), why));
                }
                _ => {}
            }
        }
        if is_drained {
            let handle = connection.handle.0;
            if let Some((timer, _)) = connection.timer {
                self.timers.cancel(timer);
            }
            self.connections.remove(key);
            self.keys[handle] = None;
        } else {
            self.look_at(key);
        }
    }

    fn look_at(&mut self, key: Key) {
        if let Some(connection) = self.connections.get_mut(key)
            && !connection.is_due
        {
            connection.is_due = true;
            self.due.push(key);
        }
    }

    fn key(&self, connection: ConnectionId) -> Option<Key> {
        let key = self.connections.key_at(connection.slot)?;
        (key.generation == connection.generation).then_some(key)
    }

    /// Sends bytes.
    pub(super) fn send(&mut self, connection: ConnectionId, bytes: &[u8]) {
        let Some(key) = self.key(connection) else {
            return;
        };
        if let Some(connection) = self.connections.get_mut(key) {
            connection.unsent.extend_from_slice(bytes);
            connection.write();
        }
        self.look_at(key);
    }

    /// Ends a connection: after what was sent, which the server answers with its own end, or at once.
    pub(super) fn close(&mut self, connection: ConnectionId, how: Close) {
        let Some(key) = self.key(connection) else {
            return;
        };
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        connection.is_leaving = true;
        match how {
            Close::Graceful { .. } => {
                // The server ends it after a DISCONNECT; a stream that is over already is fine.
                let _ = connection.protocol.send_stream(stream()).finish();
            }
            Close::Abort => {
                let words = bytes::Bytes::new();
                let code = VarInt::from_u32(0);
                connection.protocol.close(clock::now(), code, words);
                if !connection.is_over {
                    connection.is_over = true;
                    self.told.push_back(Told::Closed(id(key), None));
                }
            }
        }
        self.look_at(key);
    }

    /// What happened, the oldest first.
    pub(super) fn told(&mut self) -> Option<Told> {
        self.told.pop_front()
    }

    fn millis(&self, at: Instant) -> u64 {
        let after = at.saturating_duration_since(self.began);
        u64::try_from(after.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
    }

    /// When there is something to do without a datagram.
    pub(super) fn next_at(&self) -> Option<Instant> {
        if !self.due.is_empty() || !self.told.is_empty() {
            return Some(self.began);
        }
        let next_ms = self.timers.next_deadline()?;
        Some(self.began + std::time::Duration::from_millis(next_ms))
    }

    /// Does what is late, and gives the driver what is to be sent.
    pub(super) fn turn(&mut self, driver: &mut impl Driver) {
        let now = clock::now();
        let now_ms = u64::try_from((now - self.began).as_millis()).unwrap_or(u64::MAX);
        let mut late = Vec::new();
        self.timers
            .expire(now_ms, TIMERS_PER_TURN, |key| late.push(key));
        for key in late {
            if let Some(connection) = self.connections.get_mut(key) {
                connection.timer = None;
                connection.protocol.handle_timeout(now);
                self.drive(key);
            }
        }
        for key in std::mem::take(&mut self.due) {
            self.transmit(key, now, driver);
        }
    }

    fn transmit(&mut self, key: Key, now: Instant, driver: &mut impl Driver) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        connection.is_due = false;
        loop {
            let mut bytes = driver.reclaim().unwrap_or_default();
            let Some(transmit) = connection.protocol.poll_transmit(now, 1, &mut bytes) else {
                break;
            };
            let transmit = Transmit {
                to: transmit.destination,
                from: None,
                ecn: transmit.ecn.and_then(|ecn| Ecn::from_bits(ecn as u8)),
                segment: None,
                bytes,
            };
            driver.send_datagrams(self.socket, transmit);
        }
        let timeout = connection.protocol.poll_timeout();
        let set = connection.timer;
        let due_ms = timeout.map(|at| self.millis(at));
        let timer = match (set, due_ms) {
            (Some((_, set_ms)), Some(due_ms)) if set_ms <= due_ms => return,
            (set, due_ms) => {
                if let Some((timer, _)) = set {
                    self.timers.cancel(timer);
                }
                due_ms.map(|due_ms| (self.timers.arm(due_ms, key), due_ms))
            }
        };
        if let Some(connection) = self.connections.get_mut(key) {
            connection.timer = timer;
        }
    }
}

impl Connection {
    fn read(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut receiving = self.protocol.recv_stream(stream());
        if let Ok(mut chunks) = receiving.read(true) {
            while let Ok(Some(chunk)) = chunks.next(usize::MAX) {
                bytes.extend_from_slice(&chunk.bytes);
            }
            let _ = chunks.finalize(); // It is asked what it has to send in any case.
        }
        bytes
    }

    fn write(&mut self) {
        while !self.unsent.is_empty() {
            match self.protocol.send_stream(stream()).write(&self.unsent) {
                Ok(written) => drop(self.unsent.drain(..written)),
                Err(_) => return, // There is no room now, or never will be: then the end is told.
            }
        }
    }
}
