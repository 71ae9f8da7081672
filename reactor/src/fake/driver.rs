//! The driver over a [`FakeNet`].

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use super::connection::{Connection, Outcome, State};
use super::datagram::Datagrams;
use super::net::{End, FakeNet, Listening, Net, Owner};
use crate::buffers::Buffers;
use crate::datagram::{DatagramOptions, DatagramSocket, DatagramSocketId, Transmit};
use crate::driver::{
    ACCEPTS_MAX, AcceptBacklog, Backend, BufferRef, Close, ConnectionId, Driver, DriverConfig,
    DriverCounters, Event, ListenOptions, ListenerId, Waker,
};
use crate::send_queue::{Reclaimed, SendQueue};
use crate::slab::{Key, Slab};

/// A [`Driver`] in memory. Made by [`FakeNet::driver`].
#[derive(Debug)]
pub struct FakeDriver {
    net: FakeNet,
    index: usize,
    config: DriverConfig,
    connections: Slab<Connection>,
    listeners: Vec<SocketAddr>,
    /// Connections accepted per listener and poll.
    accepts_max: u32,
    /// Connections that close gracefully, to be cut off when they linger too long.
    closing: Vec<ConnectionId>,
    buffers: Buffers,
    datagrams: Datagrams,
    reclaimed: Reclaimed,
    waker: Waker,
    counters: DriverCounters,
}

impl FakeDriver {
    pub(super) fn new(net: FakeNet, index: usize, config: DriverConfig) -> Self {
        Self {
            net,
            index,
            config,
            connections: Slab::new(),
            listeners: Vec::new(),
            accepts_max: ACCEPTS_MAX,
            closing: Vec::new(),
            buffers: Buffers::new(config.receive_buffers, config.receive_buffer_bytes),
            datagrams: Datagrams::new(config.datagrams),
            reclaimed: Reclaimed::default(),
            waker: Waker::without_eventfd(),
            counters: DriverCounters::default(),
        }
    }

    fn insert(&mut self, end: Option<End>, state: State) -> ConnectionId {
        self.counters.connections += 1;
        let key = self.connections.insert(Connection {
            end,
            state,
            queue: SendQueue::default(),
            paused: false,
            peer_closed: false,
            owes_drained: false,
        });
        ConnectionId {
            slot: key.slot,
            generation: key.generation,
        }
    }

    fn ready(&self, connection: ConnectionId) {
        self.net.lock().ready[self.index].push_back(connection);
    }

    fn accept(&mut self, net: &mut Net, room: usize, events: &mut Vec<Event>) {
        for (number, address) in self.listeners.clone().into_iter().enumerate() {
            for _ in 0..self.accepts_max {
                if events.len() >= room {
                    break;
                }
                let own = Some((self.index, ListenerId(number as u16)));
                let Some(end) = net
                    .listening
                    .get_mut(&address)
                    .filter(|listening| listening.driver == own)
                    .and_then(|listening| listening.queue.pop_front())
                else {
                    break;
                };
                let Some(peer) = net.side(end.other()).map(|side| side.address) else {
                    continue;
                };
                if self.connections.len() >= self.config.connections_max as usize {
                    self.counters.refused += 1;
                    net.close(end, false);
                    continue;
                }
                self.counters.accepted += 1;
                let connection = self.insert(Some(end), State::Open);
                if let Some(side) = net.side(end) {
                    side.owner = Owner::Driver(self.index, connection);
                }
                net.notify(end);
                events.push(Event::Accepted {
                    connection,
                    listener: ListenerId(number as u16),
                    peer,
                });
            }
        }
    }

    fn receive_datagrams(&mut self, net: &mut Net, room: usize, events: &mut Vec<Event>) {
        let counters = &mut self.counters.datagrams;
        self.datagrams
            .receive(&mut net.ports, self.index, room, counters, events);
    }

    /// Steps every ready connection, and returns those that may have more.
    fn step_ready(
        &mut self,
        net: &mut Net,
        room: usize,
        events: &mut Vec<Event>,
    ) -> VecDeque<ConnectionId> {
        let mut again = VecDeque::new();
        // What becomes ready during this poll is news of this poll, except for `again`, which waits for the next.
        while events.len() < room {
            let Some(id) = net.ready[self.index].pop_front() else {
                break;
            };
            match self.step(net, id, events) {
                Outcome::Keep => {}
                Outcome::Again => again.push_back(id),
                Outcome::Gone(error) => self.finish(net, id, error, events),
            }
        }
        again
    }

    /// One step of one connection: at most one event, then `Again` if there may be more.
    fn step(&mut self, net: &mut Net, id: ConnectionId, events: &mut Vec<Event>) -> Outcome {
        let Some(connection) = self.connections.get_mut(key(id)) else {
            return Outcome::Keep;
        };
        let end = match (&connection.state, connection.end) {
            (State::Aborted, _) => return Outcome::Gone(None),
            (State::Refused(kind), _) => return Outcome::Gone(Some(*kind)),
            (_, None) => return Outcome::Gone(None),
            (State::Connecting, Some(_)) => {
                connection.state = State::Open;
                events.push(Event::Connected { connection: id });
                return Outcome::Again;
            }
            (_, Some(end)) => end,
        };
        while connection.queue.bytes() > 0 && !net.is_broken(end) {
            let count = connection
                .queue
                .slices()
                .next()
                .map_or(0, |slice| net.write(end, slice));
            if count == 0 {
                break;
            }
            self.counters.bytes_sent += count as u64;
            self.counters.bytes_unsent -= count as u64;
            connection.queue.advance(count, &mut self.reclaimed);
        }
        let open = matches!(connection.state, State::Open);
        if connection.queue.bytes() > 0 {
            connection.owes_drained = true;
        } else if std::mem::take(&mut connection.owes_drained) && open {
            events.push(Event::Drained { connection: id });
            return Outcome::Again;
        }
        if let Some(outcome) =
            connection.receive(&mut self.buffers, &mut self.counters, net, end, id, events)
        {
            return outcome;
        }
        if let State::Closing { until, fin_sent } = &mut connection.state {
            if connection.queue.bytes() == 0 && !*fin_sent {
                *fin_sent = true;
                net.fin(end);
            }
            let done = *fin_sent && net.side(end).is_none_or(|side| side.fin);
            return if done || net.now >= *until {
                Outcome::Gone(None)
            } else {
                Outcome::Keep
            };
        }
        Outcome::Keep
    }

    fn finish(
        &mut self,
        net: &mut Net,
        id: ConnectionId,
        error: Option<io::ErrorKind>,
        events: &mut Vec<Event>,
    ) {
        let Some(connection) = self.connections.remove(key(id)) else {
            return;
        };
        let unsent = connection.queue.bytes();
        if let Some(end) = connection.end {
            net.close(end, unsent > 0);
        }
        self.counters.bytes_unsent -= unsent as u64;
        self.counters.connections -= 1;
        events.push(Event::Closed {
            connection: id,
            unsent,
            error: error.map(io::Error::from),
        });
    }
}

impl Driver for FakeDriver {
    fn backend(&self) -> Backend {
        Backend::Fake
    }

    fn listen(
        &mut self,
        mut address: SocketAddr,
        options: ListenOptions,
    ) -> io::Result<(ListenerId, SocketAddr)> {
        let mut net = self.net.lock();
        if address.port() == 0 {
            address.set_port(net.port());
        }
        let id = ListenerId(self.listeners.len() as u16);
        if net.listening.contains_key(&address) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        net.listening.insert(
            address,
            Listening {
                driver: Some((self.index, id)),
                queue: VecDeque::new(),
                waiting_max: options.backlog,
            },
        );
        drop(net);
        self.listeners.push(address);
        Ok((id, address))
    }

    fn stop_listening(&mut self) {
        let mut net = self.net.lock();
        for address in &self.listeners {
            if net.listening.get(address).is_some_and(|listening| {
                listening.driver.map(|(index, _)| index) == Some(self.index)
            }) {
                let waiting = net
                    .listening
                    .remove(address)
                    .map(|listening| listening.queue)
                    .unwrap_or_default();
                for end in waiting {
                    net.close(end, true);
                }
            }
        }
    }

    fn connect(
        &mut self,
        remote: SocketAddr,
        local: Option<SocketAddr>,
    ) -> io::Result<ConnectionId> {
        if self.connections.len() >= self.config.connections_max as usize {
            return Err(io::Error::new(
                io::ErrorKind::QuotaExceeded,
                "the connection table is full",
            ));
        }
        let connection = self.insert(None, State::Connecting);
        let mut net = self.net.lock();
        let unspecified = match remote.ip() {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        };
        let mut from = local.unwrap_or_else(|| SocketAddr::new(unspecified, 0));
        if from.port() == 0 {
            from.set_port(net.port());
        }
        let result = net.connect(remote, from, Owner::Driver(self.index, connection));
        drop(net);
        let entry = self
            .connections
            .get_mut(key(connection))
            .expect("just inserted");
        match result {
            Ok(end) => entry.end = Some(end),
            Err(error) => entry.state = State::Refused(error.kind()),
        }
        self.ready(connection);
        Ok(connection)
    }

    fn poll(&mut self, _deadline: Option<Instant>, events: &mut Vec<Event>) -> io::Result<()> {
        self.buffers.recycle_all();
        self.datagrams.recycle_all();
        self.counters.enters += 1;
        let room = events.len() + self.config.events_max;
        if self.waker.flag().awake() && events.len() < room {
            events.push(Event::Woken);
        }
        let handle = self.net.clone();
        let net = &mut *handle.lock();
        self.accept(net, room, events);
        let counters = &mut self.counters.datagrams;
        self.datagrams
            .send(&mut net.ports, &mut self.reclaimed, counters);
        // One of the two in turn goes first, lest it takes the room for events each time.
        let connections_first = self.counters.enters.is_multiple_of(2);
        if !connections_first {
            self.receive_datagrams(net, room, events);
        }
        let mut again = self.step_ready(net, room, events);
        if connections_first {
            self.receive_datagrams(net, room, events);
        }
        self.closing.retain(|id| {
            let Some(connection) = self.connections.get(key(*id)) else {
                return false;
            };
            let over = matches!(connection.state, State::Closing { until, .. } if until <= net.now);
            if over {
                again.push_back(*id);
            }
            !over
        });
        let ready = &mut net.ready[self.index];
        ready.append(&mut again);
        let mut seen = BTreeSet::new();
        ready.retain(|id| seen.insert(*id));
        for id in &net.ready[self.index] {
            if let Some(connection) = self.connections.get_mut(key(*id)) {
                connection.owes_drained |= connection.queue.bytes() > 0;
            }
        }
        Ok(())
    }

    fn received(&mut self, buffer: BufferRef) -> &mut [u8] {
        if buffer.is_of_datagrams() {
            return self.datagrams.received(buffer);
        }
        self.buffers.received(buffer)
    }

    fn recycle(&mut self, buffer: BufferRef) {
        if buffer.is_of_datagrams() {
            return self.datagrams.recycle(buffer);
        }
        self.buffers.recycle(buffer);
    }

    fn send(&mut self, connection: ConnectionId, bytes: Vec<u8>) {
        let Some(entry) = self.connections.get_mut(key(connection)) else {
            return;
        };
        let usable = matches!(
            entry.state,
            State::Open | State::Connecting | State::Refused(_)
        );
        if bytes.is_empty() || !usable {
            return;
        }
        self.counters.bytes_unsent += bytes.len() as u64;
        entry.owes_drained |= matches!(entry.state, State::Connecting);
        entry.queue.push(bytes);
        self.ready(connection);
    }

    fn reclaim(&mut self) -> Option<Vec<u8>> {
        self.reclaimed.take()
    }

    fn unsent(&self, connection: ConnectionId) -> usize {
        self.connections
            .get(key(connection))
            .map_or(0, |entry| entry.queue.bytes())
    }

    fn pause(&mut self, connection: ConnectionId) {
        if let Some(entry) = self.connections.get_mut(key(connection)) {
            entry.paused = true;
        }
    }

    fn resume(&mut self, connection: ConnectionId) {
        if let Some(entry) = self.connections.get_mut(key(connection)) {
            entry.paused = false;
            self.ready(connection);
        }
    }

    fn close(&mut self, connection: ConnectionId, how: Close) {
        let now = self.net.now();
        let Some(entry) = self.connections.get_mut(key(connection)) else {
            return;
        };
        match (&entry.state, how) {
            (State::Refused(_) | State::Aborted, _)
            | (State::Closing { .. }, Close::Graceful { .. }) => return,
            (_, Close::Abort) | (State::Connecting, _) => entry.state = State::Aborted,
            (State::Open, Close::Graceful { linger_ms }) => {
                let until = now + Duration::from_millis(u64::from(linger_ms));
                entry.paused = false;
                entry.state = State::Closing {
                    until,
                    fin_sent: false,
                };
                self.closing.push(connection);
            }
        }
        self.ready(connection);
    }

    fn accept_at_most(&mut self, connections: u32) {
        self.accepts_max = connections.clamp(1, ACCEPTS_MAX);
    }

    fn wait_at_most(&mut self, connections: u32) {
        let mut net = self.net.lock();
        for address in &self.listeners {
            if let Some(listening) = net.listening.get_mut(address) {
                listening.waiting_max = connections;
            }
        }
    }

    fn accept_backlog(&self) -> AcceptBacklog {
        let net = self.net.lock();
        let listening = || {
            let addresses = self.listeners.iter();
            addresses.filter_map(|address| net.listening.get(address))
        };
        let permille = |listening: &Listening| {
            listening.queue.len() as u32 * 1_000 / listening.waiting_max.max(1)
        };
        AcceptBacklog {
            waiting: listening().map(|it| it.queue.len() as u32).sum(),
            fullest_permille: listening().map(permille).max().unwrap_or(0),
        }
    }

    fn gather(&mut self, _span: Duration) {} // It never sleeps.

    fn bind_datagrams(
        &mut self,
        address: SocketAddr,
        options: DatagramOptions,
    ) -> io::Result<(DatagramSocketId, SocketAddr)> {
        let bound = self
            .datagrams
            .bind(&self.net, self.index, address, options)?;
        self.counters.datagrams.sockets += 1;
        Ok(bound)
    }

    fn adopt_datagrams(&mut self, _socket: DatagramSocket) -> io::Result<DatagramSocketId> {
        Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "the driver in memory has no sockets of the kernel: use bind_datagrams",
        ))
    }

    fn send_datagrams(&mut self, socket: DatagramSocketId, transmit: Transmit) {
        let counters = &mut self.counters.datagrams;
        self.datagrams
            .queue(socket, transmit, &mut self.reclaimed, counters);
    }

    fn datagrams_unsent(&self, socket: DatagramSocketId) -> u64 {
        self.datagrams.unsent(socket)
    }

    fn close_datagrams(&mut self, socket: DatagramSocketId) {
        let ports = &mut self.net.lock().ports;
        let counters = &mut self.counters.datagrams;
        self.datagrams
            .close(ports, socket, &mut self.reclaimed, counters);
    }

    fn waker(&self) -> Waker {
        self.waker.clone()
    }

    fn counters(&self) -> DriverCounters {
        self.counters
    }
}

impl Drop for FakeDriver {
    fn drop(&mut self) {
        self.stop_listening();
        let net = &mut *self.net.lock();
        self.datagrams.close_all(&mut net.ports);
        for (_, connection) in self.connections.iter() {
            if let Some(end) = connection.end {
                net.close(end, true);
            }
        }
    }
}

const fn key(id: ConnectionId) -> Key {
    Key {
        slot: id.slot,
        generation: id.generation,
    }
}
