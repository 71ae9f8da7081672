//! The epoll twin of the io_uring driver: the same events and bounds, with plain descriptors.
//!
//! Sockets are registered once, edge-triggered. An edge sets flags in the connection and puts it into the ready queue; a
//! poll works the queue off, one receive per connection and round, so that no connection starves the others. A connection
//! that has more stays in the queue, and then the next poll does not wait.

mod accepting;
mod connection;
mod datagram;
mod poller;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use connection::{Connection, Outcome, State, Step};
use datagram::{Datagrams, Surroundings};
use poller::Poller;

use crate::buffers::Buffers;
use crate::datagram::{DatagramOptions, DatagramSocket, DatagramSocketId, Transmit};
use crate::driver::{
    ACCEPTS_MAX, AcceptBacklog, Backend, BufferRef, Close, ConnectionId, Driver, DriverConfig,
    DriverCounters, Event, ListenOptions, ListenerId, Waker,
};
use crate::gather::Gather;
use crate::send_queue::{Reclaimed, SHORTAGE_PAUSE, SendQueue, Spare};
use crate::slab::{Key, Slab};
use crate::socket;

/// How long accepting pauses after an error: descriptors are short, and trying at once again would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

const TOKEN_WAKER: u64 = u64::MAX;
/// Set in the tokens of what is not a connection.
const TOKEN_LISTENER: u64 = 1 << 63;

#[derive(Debug)]
struct Listener {
    socket: Option<OwnedFd>,
    readable: bool,
    paused_until: Option<Instant>,
}

/// The [`Driver`] over epoll.
#[derive(Debug)]
pub struct EpollDriver {
    poller: Poller,
    config: DriverConfig,
    connections: Slab<Connection>,
    listeners: Vec<Listener>,
    /// Connections accepted per listener and poll.
    accepts_max: u32,
    /// Connections with something to do, each at most once.
    ready: VecDeque<ConnectionId>,
    /// Connections whose send the kernel had no memory for, and when they try again.
    short: Vec<ConnectionId>,
    short_until: Option<Instant>,
    /// When lingering connections are cut off. Entries of connections that ended before are passed over.
    lingering: BinaryHeap<Reverse<(Instant, ConnectionId)>>,
    buffers: Buffers,
    datagrams: Datagrams,
    reclaimed: Reclaimed,
    spare: Spare<SendQueue>,
    waker: Waker,
    gather: Gather,
    counters: DriverCounters,
}

impl EpollDriver {
    /// Makes the epoll instance and the buffers.
    ///
    /// # Errors
    /// When descriptors are short.
    pub fn new(config: DriverConfig) -> io::Result<Self> {
        let poller = Poller::new(config.events_max)?;
        let waker = Waker::with_eventfd()?;
        poller.add(waker.eventfd(), libc::EPOLLIN | libc::EPOLLET, TOKEN_WAKER)?;
        Ok(Self {
            poller,
            config,
            connections: Slab::new(),
            listeners: Vec::new(),
            accepts_max: ACCEPTS_MAX,
            ready: VecDeque::new(),
            short: Vec::new(),
            short_until: None,
            lingering: BinaryHeap::new(),
            buffers: Buffers::new(config.receive_buffers, config.receive_buffer_bytes),
            datagrams: Datagrams::new(config.datagrams),
            reclaimed: Reclaimed::default(),
            spare: Spare::default(),
            waker,
            gather: Gather::default(),
            counters: DriverCounters::default(),
        })
    }

    fn insert(&mut self, connection: Connection) -> ConnectionId {
        self.counters.connections += 1;
        let key = self.connections.insert(connection);
        ConnectionId {
            slot: key.slot,
            generation: key.generation,
        }
    }

    /// Registers a connection's socket. An error here (ENOMEM, ENOSPC) ends the connection in its next step.
    fn register(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(key(id)) else {
            return;
        };
        let interest = libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET;
        let token = u64::from(id.generation) << 31 | u64::from(id.slot);
        if let Err(error) = self.poller.add(
            connection.socket.as_raw_fd(),
            interest,
            token & !TOKEN_LISTENER,
        ) {
            connection.state = State::Failed(error.raw_os_error().unwrap_or(libc::ENOMEM));
        }
        if !matches!(connection.state, State::Connecting) {
            self.make_ready(id);
        }
    }

    fn make_ready(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.get_mut(key(id))
            && !std::mem::replace(&mut connection.queued, true)
        {
            self.ready.push_back(id);
        }
    }

    fn timeout(&self, deadline: Option<Instant>, sleep: bool) -> Option<Duration> {
        if !sleep {
            return Some(Duration::ZERO);
        }
        let linger = self.lingering.peek().map(|Reverse((at, _))| *at);
        let paused = self
            .listeners
            .iter()
            .filter_map(|listener| listener.paused_until)
            .min();
        let until = [deadline, linger, paused, self.short_until]
            .into_iter()
            .flatten()
            .min()?;
        Some(until.saturating_duration_since(now()))
    }

    fn dispatch(&mut self, count: usize) {
        for index in 0..count {
            let (flags, token) = self.poller.event(index);
            if token == TOKEN_WAKER {
                continue;
            }
            if token & TOKEN_LISTENER != 0 && Datagrams::is_of(token) {
                self.datagrams.note(flags, token);
                continue;
            }
            if token & TOKEN_LISTENER != 0 {
                self.listeners[(token & !TOKEN_LISTENER) as usize].readable = true;
                continue;
            }
            let slot = token as u32 & (u32::MAX >> 1);
            let Some(current) = self.connections.key_at(slot) else {
                continue;
            };
            if u64::from(current.generation) & u64::from(u32::MAX) != token >> 31 {
                continue;
            }
            if let Some(connection) = self.connections.get_mut(current) {
                connection.note(flags);
            }
            self.make_ready(ConnectionId {
                slot,
                generation: current.generation,
            });
        }
    }

    fn expire_lingering(&mut self) {
        while let Some(Reverse((at, id))) = self.lingering.peek().copied() {
            if at > now() {
                return;
            }
            self.lingering.pop();
            if let Some(connection) = self.connections.get_mut(key(id)) {
                connection.state = State::Aborted;
                self.make_ready(id);
            }
        }
    }

    /// Sends again what the kernel had no memory for, some time later.
    fn send_again(&mut self) {
        if self.short.is_empty() {
            return;
        }
        let now = now();
        if *self.short_until.get_or_insert(now + SHORTAGE_PAUSE) > now {
            return;
        }
        self.short_until = None;
        for id in std::mem::take(&mut self.short) {
            if let Some(connection) = self.connections.get_mut(key(id)) {
                connection.short = false;
                self.make_ready(id);
            }
        }
    }

    /// Sends what is queued before the wait, so that a turn costs its peers no round trip.
    fn work(&mut self, limit: usize, events: &mut Vec<Event>) {
        for _ in 0..self.ready.len() {
            if events.len() >= limit {
                return;
            }
            let Some(id) = self.ready.pop_front() else {
                return;
            };
            let Some(connection) = self.connections.get_mut(key(id)) else {
                continue;
            };
            connection.queued = false;
            let mut step = Step {
                id,
                buffers: &mut self.buffers,
                reclaimed: &mut self.reclaimed,
                spare: &mut self.spare,
                counters: &mut self.counters,
                events,
                short: &mut self.short,
            };
            match connection.step(&mut step) {
                Outcome::Keep => {}
                Outcome::Again => self.make_ready(id),
                Outcome::Gone(error) => self.finish(id, error, events),
            }
        }
    }

    /// Connections and datagram sockets in turn go first, lest one of them takes the room for events each time.
    fn work_all(&mut self, limit: usize, events: &mut Vec<Event>) {
        let connections_first = self.counters.enters.is_multiple_of(2);
        if connections_first {
            self.work(limit, events);
        }
        let (datagrams, mut around) = self.datagrams();
        datagrams.work(limit, events, &mut around);
        if !connections_first {
            self.work(limit, events);
        }
    }

    /// The datagram sockets, and what of the driver they work with.
    const fn datagrams(&mut self) -> (&mut Datagrams, Surroundings<'_>) {
        let around = Surroundings {
            poller: &self.poller,
            reclaimed: &mut self.reclaimed,
            counters: &mut self.counters.datagrams,
        };
        (&mut self.datagrams, around)
    }

    fn finish(&mut self, id: ConnectionId, error: Option<io::Error>, events: &mut Vec<Event>) {
        let Some(connection) = self.connections.remove(key(id)) else {
            return;
        };
        let unsent = connection.unsent();
        self.counters.bytes_unsent -= unsent as u64;
        self.counters.connections -= 1;
        events.push(Event::Closed {
            connection: id,
            unsent,
            error,
        });
    }
}

impl Driver for EpollDriver {
    fn backend(&self) -> Backend {
        Backend::Epoll
    }

    fn listen(
        &mut self,
        address: SocketAddr,
        options: ListenOptions,
    ) -> io::Result<(ListenerId, SocketAddr)> {
        let (socket, bound) = socket::listen(address, options, true)?;
        let index = self.listeners.len();
        self.poller.add(
            socket.as_raw_fd(),
            libc::EPOLLIN,
            TOKEN_LISTENER | index as u64,
        )?;
        self.listeners.push(Listener {
            socket: Some(socket),
            readable: false,
            paused_until: None,
        });
        Ok((ListenerId(index as u16), bound))
    }

    fn stop_listening(&mut self) {
        for listener in &mut self.listeners {
            listener.socket = None;
            listener.paused_until = None;
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
        let socket = socket::to_connect(remote, local, true)?;
        let state = match socket::connect(socket.as_raw_fd(), remote) {
            Ok(()) => State::Connecting,
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => State::Connecting,
            Err(error) => State::Failed(error.raw_os_error().unwrap_or(libc::EIO)),
        };
        let id = self.insert(Connection::new(socket, state));
        self.register(id);
        Ok(id)
    }

    fn poll(&mut self, deadline: Option<Instant>, events: &mut Vec<Event>) -> io::Result<()> {
        self.buffers.recycle_all();
        self.datagrams.recycle_all();
        let limit = events.len() + self.config.events_max.max(1);
        self.work_all(limit, events);
        self.send_again();
        // A poll that has something to tell, or to do, looks for more but does not wait for it.
        let sleep = events.len() + self.config.events_max.max(1) == limit
            && self.ready.is_empty()
            && self.datagrams.is_idle()
            && self
                .gather
                .prepare_sleep(&self.waker, || self.timeout(deadline, true));
        let timeout = self.timeout(deadline, sleep);
        self.counters.enters += 1;
        let count = self.poller.wait(timeout);
        // With no room left for the event, the flag keeps the wake for the next poll.
        if events.len() < limit && self.waker.flag().awake() {
            events.push(Event::Woken);
        }
        self.dispatch(count?);
        self.expire_lingering();
        self.send_again();
        self.accept(limit, events);
        self.work_all(limit, events);
        for id in &self.ready {
            if let Some(connection) = self.connections.get_mut(key(*id)) {
                connection.end_flush();
            }
        }
        let told = events.len() + self.config.events_max.max(1) - limit;
        if told > 0 {
            self.gather.told(told, now);
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
        if bytes.is_empty() || !matches!(entry.state, State::Open | State::Connecting) {
            return;
        }
        self.counters.bytes_unsent += bytes.len() as u64;
        entry.push(bytes, &mut self.spare);
        if matches!(entry.state, State::Open) {
            self.make_ready(connection);
        } else {
            entry.end_flush();
        }
    }

    fn reclaim(&mut self) -> Option<Vec<u8>> {
        self.reclaimed.take()
    }

    fn unsent(&self, connection: ConnectionId) -> usize {
        self.connections
            .get(key(connection))
            .map_or(0, Connection::unsent)
    }

    fn pause(&mut self, connection: ConnectionId) {
        if let Some(entry) = self.connections.get_mut(key(connection)) {
            entry.paused = true;
        }
    }

    fn resume(&mut self, connection: ConnectionId) {
        if let Some(entry) = self.connections.get_mut(key(connection)) {
            entry.paused = false;
            self.make_ready(connection);
        }
    }

    fn close(&mut self, connection: ConnectionId, how: Close) {
        let Some(entry) = self.connections.get_mut(key(connection)) else {
            return;
        };
        match (&entry.state, how) {
            (State::Failed(_) | State::Aborted, _) => return,
            (State::Closing { .. }, Close::Graceful { .. }) => return,
            (_, Close::Abort) | (State::Connecting, _) => entry.state = State::Aborted,
            (State::Open, Close::Graceful { linger_ms }) => {
                entry.state = State::Closing { fin_sent: false };
                entry.paused = false;
                let until = now() + Duration::from_millis(u64::from(linger_ms));
                self.lingering.push(Reverse((until, connection)));
            }
        }
        self.make_ready(connection);
    }

    fn accept_at_most(&mut self, connections: u32) {
        self.accepts_max = connections.clamp(1, ACCEPTS_MAX);
    }

    fn wait_at_most(&mut self, connections: u32) {
        let listeners = self.listeners.iter();
        socket::wait_at_most(
            listeners.filter_map(|listener| listener.socket.as_ref()),
            connections,
        );
    }

    fn accept_backlog(&self) -> AcceptBacklog {
        let listeners = self.listeners.iter();
        socket::accept_backlog(listeners.filter_map(|listener| listener.socket.as_ref()))
    }

    fn gather(&mut self, span: Duration) {
        self.gather.set(span);
    }

    fn bind_datagrams(
        &mut self,
        address: SocketAddr,
        options: DatagramOptions,
    ) -> io::Result<(DatagramSocketId, SocketAddr)> {
        let socket = DatagramSocket::bind(address, options)?;
        let bound = socket.address();
        Ok((self.adopt_datagrams(socket)?, bound))
    }

    fn adopt_datagrams(&mut self, socket: DatagramSocket) -> io::Result<DatagramSocketId> {
        let (datagrams, mut around) = self.datagrams();
        datagrams.adopt(socket, &mut around)
    }

    fn send_datagrams(&mut self, socket: DatagramSocketId, transmit: Transmit) {
        let (datagrams, mut around) = self.datagrams();
        datagrams.queue(socket, transmit, &mut around);
    }

    fn datagrams_unsent(&self, socket: DatagramSocketId) -> u64 {
        self.datagrams.unsent(socket)
    }

    fn close_datagrams(&mut self, socket: DatagramSocketId) {
        let (datagrams, mut around) = self.datagrams();
        datagrams.close(socket, &mut around);
    }

    fn waker(&self) -> Waker {
        self.waker.clone()
    }

    fn counters(&self) -> DriverCounters {
        self.counters
    }
}

const fn key(id: ConnectionId) -> Key {
    Key {
        slot: id.slot,
        generation: id.generation,
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "deadlines are instants, and only a clock says how long to wait until one"
)]
fn now() -> Instant {
    Instant::now()
}
