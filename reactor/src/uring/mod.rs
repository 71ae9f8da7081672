//! The driver over io_uring.
//!
//! Sockets are direct descriptors whose index is the slot of the connection. An idle connection holds no buffer and one
//! one-shot poll; when that fires, a receive takes a buffer from the provided-buffer ring, and is repeated while the kernel
//! says that more waits. A hot connection is promoted to a multishot receive, and demoted when it has been quiet. One send
//! per connection is in flight; the rest waits and goes out together. Everything a turn produced goes to the kernel with
//! the one enter that also waits.
//!
//! The poll of an idle connection is one-shot, although a multishot poll would save an entry per burst: a multishot poll does
//! not end when its socket is shut down, and cancelling it searches a table of at most 256 buckets, which at 500,000
//! connections are 2,000 entries each. A one-shot poll ends with the shutdown.
//!
//! Reading order: `connection` (states), `drive` (state → operations), `complete` (completion → state and event), `dropping`;
//! `datagram` is all of that for datagram sockets.

mod buffer_ring;
mod check;
mod complete;
mod connection;
mod datagram;
mod drive;
mod dropping;
mod operation;
mod ring;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use buffer_ring::{BufferRing, GROUP};
use connection::{Connection, Pending, Sending, State};
use datagram::Datagrams;
use ring::{Completion, Ring, Wait};

use crate::datagram::{DatagramOptions, DatagramSocket, DatagramSocketId, Transmit};
use crate::driver::{
    ACCEPTS_MAX, AcceptBacklog, Backend, BufferRef, Close, ConnectionId, Driver, DriverConfig,
    DriverCounters, Event, ListenOptions, ListenerId, Waker,
};
use crate::gather::Gather;
use crate::send_queue::{Reclaimed, Spare};
use crate::slab::{Key, Slab, Table};
use crate::socket::{self, RawAddress};

pub(crate) use check::check;

/// Descriptors beside those of connections: outstanding accepts, and connections that are being refused.
const DESCRIPTOR_SLACK: u32 = 512;
/// The kernel's own limit of a descriptor table (IORING_MAX_FIXED_FILES).
const DESCRIPTORS_MAX: u32 = 1 << 20;
/// How long accepting pauses after an error: files are short, and trying at once again would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Receives within a second after which a connection is promoted.
const PROMOTE_RECEIVES: u8 = 8;
/// Seconds without a receive after which a connection is demoted.
const DEMOTE_AFTER_S: u16 = 2;
/// Promoted connections looked at per second of the clock.
const DEMOTE_LOOKS: usize = 1024;

#[derive(Debug)]
struct Listener {
    /// Open until the last accept has come back: one that waits in a queue names it by number.
    socket: Option<OwnedFd>,
    /// What comes in from now on is closed untold.
    stopped: bool,
    outstanding: u32,
    paused_until: Option<Instant>,
}

impl Listener {
    /// Closes a stopped listener once nothing refers to its socket.
    fn close_if_done(&mut self) {
        if self.stopped && self.outstanding == 0 {
            self.socket = None;
        }
    }
}

/// An address that the kernel reads or writes while an operation is in flight; at a fixed place until that completed.
#[derive(Debug)]
struct HeldAddress {
    place: std::ptr::NonNull<RawAddress>,
    /// Of an accept.
    listener: u16,
}

impl HeldAddress {
    fn new(address: RawAddress, listener: u16) -> Self {
        let place = std::ptr::NonNull::from(Box::leak(Box::new(address)));
        Self { place, listener }
    }

    fn release(self) -> RawAddress {
        // SAFETY: the pointer came from a box, and `self` is its only owner. The caller saw the operation complete.
        unsafe { *Box::from_raw(self.place.as_ptr()) }
    }
}

/// The [`Driver`] over io_uring. It belongs to the thread that made it.
#[derive(Debug)]
pub struct UringDriver {
    ring: Ring,
    config: DriverConfig,
    connections: Slab<Connection>,
    /// Size of the part of the table of direct descriptors that is for connections; that for datagram sockets follows.
    descriptors: u32,
    /// By slot, for accepts and connects in flight.
    addresses: Table<HeldAddress>,
    listeners: Vec<Listener>,
    /// Accepts kept outstanding per listener: a burst of so many connections is taken in one poll.
    accepts_max: u32,
    /// Connections whose state asks for operations, each at most once.
    dirty: Vec<Key>,
    /// Connections that wait for a receive buffer.
    starved: VecDeque<Key>,
    /// Promoted connections, in the order in which they are looked at.
    promoted: VecDeque<Key>,
    /// Connections a send was started for in this poll.
    flushed: Vec<Key>,
    /// Connections whose send the kernel had no memory for, and when they try again.
    short: Vec<Key>,
    short_until: Option<Instant>,
    /// When lingering connections are cut off. Entries of connections that ended before are passed over.
    lingering: BinaryHeap<Reverse<(Instant, Key)>>,
    /// `None` only after they were leaked.
    buffers: Option<BufferRing>,
    datagrams: Datagrams,
    reclaimed: Reclaimed,
    spare: Spare<Sending>,
    waker: Waker,
    counters: DriverCounters,
    completions: Vec<Completion>,
    gather: Gather,
    started: Instant,
    /// Seconds since `started`, as of the last completion batch.
    second: u16,
}

impl UringDriver {
    /// Sets up the ring, the descriptor table and the receive buffers for the calling thread.
    ///
    /// # Errors
    /// What [`crate::probe`] explains: EPERM and ENOSYS (not allowed here), EINVAL (kernel too old), ENOMEM (RLIMIT_MEMLOCK).
    pub fn new(mut config: DriverConfig) -> io::Result<Self> {
        let ring = Ring::new(config.submission_entries, config.completion_entries)?;
        let files = u32::try_from(crate::probe::open_files_limit().soft).unwrap_or(u32::MAX);
        let table = files.min(DESCRIPTORS_MAX);
        let wanted = config.connections_max.saturating_add(DESCRIPTOR_SLACK);
        // Where the table is too small for both, each has half of it, or what the other leaves.
        let datagrams = config
            .datagrams
            .sockets_max
            .min(table - wanted.min(table / 2));
        config.datagrams.sockets_max = datagrams;
        let descriptors = wanted.min(table - datagrams);
        if descriptors < wanted {
            config.connections_max = descriptors - DESCRIPTOR_SLACK.min(descriptors / 2);
        }
        let submitter = ring.submitter();
        submitter.register_files_sparse(descriptors + datagrams)?;
        let (count, bytes) = (config.receive_buffers, config.receive_buffer_bytes);
        let buffers = BufferRing::new(&submitter, GROUP, count, bytes, 0)?;
        let mut driver = Self {
            ring,
            config,
            connections: Slab::new(),
            descriptors,
            addresses: Table::new(),
            listeners: Vec::new(),
            accepts_max: ACCEPTS_MAX,
            dirty: Vec::new(),
            starved: VecDeque::new(),
            promoted: VecDeque::new(),
            flushed: Vec::new(),
            short: Vec::new(),
            short_until: None,
            lingering: BinaryHeap::new(),
            buffers: Some(buffers),
            datagrams: Datagrams::new(&config, descriptors),
            reclaimed: Reclaimed::default(),
            spare: Spare::default(),
            waker: Waker::with_eventfd()?,
            counters: DriverCounters::default(),
            completions: Vec::new(),
            gather: Gather::default(),
            started: now(),
            second: 0,
        };
        driver.watch_waker();
        Ok(driver)
    }

    /// Connections this driver can hold: `connections_max`, or what RLIMIT_NOFILE leaves of it.
    #[must_use]
    pub const fn connections_max(&self) -> u32 {
        self.config.connections_max
    }

    fn mark_dirty(&mut self, key: Key) {
        if let Some(connection) = self.connections.get_mut(key)
            && !std::mem::replace(&mut connection.dirty, true)
        {
            self.dirty.push(key);
        }
    }

    /// Tells the waker that the driver is about to sleep, and sleeps for a while when that gathers events. False when there
    /// is something to do instead.
    fn prepare_sleep(&mut self, deadline: Option<Instant>) -> bool {
        if self.ring.has_completions() {
            return false;
        }
        if self.ring.has_submissions() {
            return self.waker.flag().prepare_sleep(); // They may complete at once.
        }
        self.gather
            .prepare_sleep(&self.waker, || match self.wait(deadline, true) {
                Wait::No => Some(Duration::ZERO),
                Wait::For(limit) | Wait::Many(_, limit) => Some(limit),
                Wait::Forever => None,
            })
    }

    fn wait(&self, deadline: Option<Instant>, sleep: bool) -> Wait {
        if !sleep {
            return Wait::No;
        }
        let linger = self.lingering.peek().map(|Reverse((at, _))| *at);
        let paused = self
            .listeners
            .iter()
            .filter_map(|listener| listener.paused_until)
            .min();
        let resting = self.datagrams.resting_until();
        let Some(until) = [deadline, linger, paused, self.short_until, resting]
            .into_iter()
            .flatten()
            .min()
        else {
            return Wait::Forever;
        };
        let span = until.saturating_duration_since(now());
        if span.is_zero() {
            Wait::No
        } else {
            Wait::For(span)
        }
    }

    fn reap(&mut self, limit: usize, events: &mut Vec<Event>) {
        let mut completions = std::mem::take(&mut self.completions);
        while events.len() < limit {
            completions.clear();
            // A completion makes at most one event.
            self.ring.take(limit - events.len(), &mut completions);
            if completions.is_empty() {
                break;
            }
            for completion in &completions {
                self.complete(*completion, events);
            }
        }
        self.completions = completions;
    }

    /// Does what time asks for: cuts off what lingered long enough, and demotes what has been quiet.
    fn tick(&mut self) {
        let now = now();
        while let Some(Reverse((at, key))) = self.lingering.peek().copied() {
            if at > now {
                break;
            }
            self.lingering.pop();
            self.end(key, 0);
        }
        for listener in &mut self.listeners {
            listener.paused_until = listener.paused_until.filter(|until| *until > now);
        }
        if self.short_until.is_some_and(|until| until <= now) {
            self.send_again();
        }
        self.wake_resting_sockets(now);
        let second = now.saturating_duration_since(self.started).as_secs() as u16;
        if second != self.second {
            self.second = second;
            self.demote();
        }
    }

    fn send_again(&mut self) {
        self.short_until = None;
        for key in std::mem::take(&mut self.short) {
            if let Some(connection) = self.connections.get_mut(key)
                && let Some(sending) = &mut connection.sending
            {
                sending.short = false;
                self.mark_dirty(key);
            }
        }
    }

    fn demote(&mut self) {
        // At least a quarter of the list, or it would grow for ever when connections come and go fast.
        let promoted = self.promoted.len();
        for _ in 0..promoted.min(DEMOTE_LOOKS.max(promoted.div_ceil(4))) {
            let Some(key) = self.promoted.pop_front() else {
                return;
            };
            let Some(connection) = self.connections.get_mut(key) else {
                continue;
            };
            if !connection.is_usable() || !connection.promoted {
                connection.listed = false;
                continue;
            }
            if self.second.wrapping_sub(connection.heat_second) < DEMOTE_AFTER_S {
                self.promoted.push_back(key);
                continue;
            }
            connection.promoted = false;
            connection.listed = false;
            self.counters.demotions += 1;
            self.mark_dirty(key);
        }
    }

    /// What is unsent now will be told of when it is sent.
    fn end_flush(&mut self) {
        for key in self.flushed.drain(..) {
            if let Some(connection) = self.connections.get_mut(key) {
                connection.owes_drained |= connection.unsent() > 0;
            }
        }
    }

    fn buffers(&mut self) -> &mut BufferRing {
        self.buffers
            .as_mut()
            .expect("buffers are there until the driver is dropped")
    }
}

impl Driver for UringDriver {
    fn backend(&self) -> Backend {
        Backend::IoUring
    }

    fn listen(
        &mut self,
        address: SocketAddr,
        options: ListenOptions,
    ) -> io::Result<(ListenerId, SocketAddr)> {
        let (socket, bound) = socket::listen(address, options, false)?;
        let id = ListenerId(self.listeners.len() as u16);
        self.listeners.push(Listener {
            socket: Some(socket),
            stopped: false,
            outstanding: 0,
            paused_until: None,
        });
        Ok((id, bound))
    }

    fn stop_listening(&mut self) {
        for listener in &mut self.listeners {
            listener.stopped = true;
            listener.paused_until = None;
            if let Some(socket) = &listener.socket {
                // Nobody is let in any more, and the outstanding accepts end.
                socket::shutdown_both(socket.as_raw_fd());
            }
            listener.close_if_done();
        }
    }

    fn connect(
        &mut self,
        remote: SocketAddr,
        local: Option<SocketAddr>,
    ) -> io::Result<ConnectionId> {
        let full = self.counters.connections >= u64::from(self.config.connections_max);
        if full || self.connections.len() >= self.descriptors as usize {
            return Err(io::Error::new(
                io::ErrorKind::QuotaExceeded,
                "the connection table is full",
            ));
        }
        let socket = socket::to_connect(remote, local, false)?;
        let key = self.connections.insert(Connection::new(State::Connecting));
        if let Err(error) = self
            .ring
            .submitter()
            .register_files_update(key.slot, &[socket.as_raw_fd()])
        {
            self.connections.remove(key);
            return Err(error);
        }
        self.counters.connections += 1;
        self.start_connect(key, remote);
        Ok(id(key))
    }

    fn poll(&mut self, deadline: Option<Instant>, events: &mut Vec<Event>) -> io::Result<()> {
        self.buffers().recycle_all();
        self.datagrams.recycle_all();
        let first = events.len();
        let limit = first + self.config.events_max.max(1);
        loop {
            // Every turn of the loop begins with all buffers free, or those who wait for one could wait for ever.
            self.feed_starved();
            self.drive_dirty();
            self.arm_accepts();
            self.drive_datagrams();
            let sleep = self.prepare_sleep(deadline);
            let wait = self.wait(deadline, sleep);
            self.counters.completion_overflows += u64::from(self.ring.overflowed());
            self.counters.enters += 1;
            let entered = self.ring.enter(wait);
            if self.waker.flag().awake() {
                events.push(Event::Woken);
            }
            entered?;
            self.reap(limit, events);
            self.tick();
            // Completions that the core is not told of (a send, a poll) do not end the wait.
            if events.len() > first || deadline.is_some_and(|deadline| deadline <= now()) {
                break;
            }
        }
        if events.len() > first {
            self.gather.told(events.len() - first, now);
        }
        self.end_flush();
        Ok(())
    }

    fn received(&mut self, buffer: BufferRef) -> &mut [u8] {
        if buffer.is_of_datagrams() {
            return self.datagrams.received(buffer);
        }
        self.buffers().received(buffer)
    }

    fn recycle(&mut self, buffer: BufferRef) {
        if buffer.is_of_datagrams() {
            return self.datagrams.recycle(buffer);
        }
        self.buffers().recycle(buffer);
    }

    fn send(&mut self, connection: ConnectionId, bytes: Vec<u8>) {
        let Some(entry) = self
            .connections
            .get_mut(key(connection))
            .filter(|entry| entry.is_usable())
        else {
            return;
        };
        if bytes.is_empty() {
            return;
        }
        self.counters.bytes_unsent += bytes.len() as u64;
        entry.owes_drained |= entry.state == State::Connecting;
        let spare = &mut self.spare;
        let sending = entry.sending.get_or_insert_with(|| spare.take());
        sending.queue.push(bytes);
        self.mark_dirty(key(connection));
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
            self.mark_dirty(key(connection));
        }
    }

    fn resume(&mut self, connection: ConnectionId) {
        if let Some(entry) = self.connections.get_mut(key(connection)) {
            entry.paused = false;
            self.mark_dirty(key(connection));
        }
    }

    fn close(&mut self, connection: ConnectionId, how: Close) {
        let key = key(connection);
        let Some(entry) = self.connections.get_mut(key) else {
            return;
        };
        match (entry.state, how) {
            (State::Open, Close::Graceful { linger_ms }) => {
                entry.state = State::Flushing;
                let until = now() + Duration::from_millis(u64::from(linger_ms));
                self.lingering.push(Reverse((until, key)));
                self.mark_dirty(key);
            }
            (State::Open | State::Flushing | State::Lingering, Close::Abort)
            | (State::Connecting, _) => {
                self.end(key, 0);
            }
            _ => {}
        }
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
        Ok((self.adopt(&socket)?, socket.address()))
    }

    fn adopt_datagrams(&mut self, socket: DatagramSocket) -> io::Result<DatagramSocketId> {
        self.adopt(&socket)
    }

    fn send_datagrams(&mut self, socket: DatagramSocketId, transmit: Transmit) {
        self.queue_transmit(socket, transmit);
    }

    fn datagrams_unsent(&self, socket: DatagramSocketId) -> u64 {
        self.datagrams.unsent(socket)
    }

    fn close_datagrams(&mut self, socket: DatagramSocketId) {
        self.end_datagrams(socket);
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

const fn id(key: Key) -> ConnectionId {
    ConnectionId {
        slot: key.slot,
        generation: key.generation,
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "deadlines are instants, and only a clock says how long to wait until one"
)]
fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests;
