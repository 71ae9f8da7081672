//! The one interface between a core and the kernel: sockets in, events out, one flush a turn.
//!
//! A turn of a core is: [`Driver::poll`] → handle each event → [`Driver::send`]/[`Driver::close`] for what came of it →
//! the next `poll` submits all of it in one system call and waits. Nothing blocks except `poll`, and nothing is dropped
//! silently: bytes handed to `send` are sent in order or the connection ends with [`Event::Closed`].

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::datagram::{
    DatagramConfig, DatagramCounters, DatagramOptions, DatagramSocket, DatagramSocketId, Ecn,
    Transmit,
};
pub use crate::waker::Waker;

/// A connection of one driver: slot and generation, so that a stale id is recognised after its slot was used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId {
    /// Index into the driver's table, dense from 0. The core keeps its own state for the connection under this index.
    pub slot: u32,
    /// Counts the uses of the slot.
    pub generation: u32,
}

/// A listener of one driver, in the order of the [`Driver::listen`] calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListenerId(pub u16);

/// Bytes received by one event. Valid until the next [`Driver::poll`], or until it is given to [`Driver::recycle`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BufferRef {
    /// Which buffer of the driver.
    pub index: u32,
    /// Length of the received bytes.
    pub length: u32,
}

impl BufferRef {
    /// Tells buffers of datagrams from those of connections, which are fewer than this.
    const DATAGRAMS: u32 = 1 << 31;

    pub(crate) const fn is_of_datagrams(self) -> bool {
        self.index & Self::DATAGRAMS != 0
    }

    /// This buffer of the other pool.
    pub(crate) const fn switched(self) -> Self {
        Self {
            index: self.index ^ Self::DATAGRAMS,
            ..self
        }
    }
}

/// Which implementation a driver is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// io_uring, kernel 6.1 or later.
    IoUring,
    /// epoll, kernel 5.10 or later.
    Epoll,
    /// In memory, for tests.
    Fake,
}

/// What happened. For one connection the order is: `Accepted` or `Connected`, then any number of `Received`, then at most one
/// `PeerClosed`, then exactly one `Closed`. `Drained` may come anywhere between the first and the last of them, also after
/// `PeerClosed`, since sending goes on; it does not wait for what is still to be received.
#[derive(Debug)]
pub enum Event {
    /// A listener accepted a connection.
    Accepted {
        /// The new connection; receiving is on.
        connection: ConnectionId,
        /// Where it came in.
        listener: ListenerId,
        /// Who it is.
        peer: SocketAddr,
    },
    /// A [`Driver::connect`] succeeded; receiving is on.
    Connected {
        /// The connection that `connect` returned.
        connection: ConnectionId,
    },
    /// Bytes arrived; read them with [`Driver::received`].
    Received {
        /// From whom.
        connection: ConnectionId,
        /// Where they are.
        buffer: BufferRef,
    },
    /// Everything that was handed to [`Driver::send`] has been accepted by the kernel. Comes only after [`Driver::unsent`]
    /// was above zero at the end of a flush.
    Drained {
        /// The connection that can take more.
        connection: ConnectionId,
    },
    /// The peer will send nothing more (FIN). Sending still works until `close`.
    PeerClosed {
        /// Which connection.
        connection: ConnectionId,
    },
    /// The connection is gone and its slot is free. The last event of a connection.
    Closed {
        /// Which connection.
        connection: ConnectionId,
        /// Bytes handed to `send` that never reached the kernel.
        unsent: usize,
        /// `None` for an orderly end, else the error that ended it.
        error: Option<io::Error>,
    },
    /// Datagrams arrived, all from one peer; read them with [`Driver::received`]. The last event of a socket comes before the
    /// call of [`Driver::close_datagrams`].
    Datagrams {
        /// At which socket.
        socket: DatagramSocketId,
        /// Where they are: `chunks(stride)` of its bytes are the datagrams.
        buffer: BufferRef,
        /// From whom.
        remote: SocketAddr,
        /// To which of the local addresses, when the socket was asked to tell.
        local: Option<IpAddr>,
        /// ECN bits, the same for all, when the socket was asked to tell.
        ecn: Option<Ecn>,
        /// Length of each datagram in bytes, above 0; the last may be shorter.
        stride: usize,
    },
    /// A [`Waker`] of this driver was used since the last poll. Several wakes make one event.
    Woken,
}

/// How to close a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Close {
    /// Send what is queued first (until `linger_ms` from the call have passed), then FIN, then close.
    Graceful {
        /// How long the peer may take to accept the rest, in milliseconds.
        linger_ms: u32,
    },
    /// Close now; what is queued is lost. The peer may see a reset.
    Abort,
}

/// Options of a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenOptions {
    /// Length of the accept queue (`listen(2)`), bounded by `net.core.somaxconn`.
    pub backlog: u32,
    /// Share the port with the other cores (SO_REUSEPORT).
    pub reuse_port: bool,
    /// When the kernel asks silent peers whether they still live; `None`: it never does.
    pub keepalive: Option<Keepalive>,
}

/// Connections of a listener that are accepted in one poll at most, so that a burst of them does not hold up the others.
pub const ACCEPTS_MAX: u32 = 64;

/// Connections that the kernel has completed and nobody has accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AcceptBacklog {
    /// Those of all listeners.
    pub waiting: u32,
    /// Of the listener that is fullest, in thousandths of what it may hold. At 1,000 the kernel answers nobody any more.
    pub fullest_permille: u32,
}

/// How the kernel finds out that the peer of a silent TCP connection is gone (SO_KEEPALIVE): after `idle_s` it asks, again every
/// `interval_s`, and when `probes` of its questions were not answered the connection ends with an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// Seconds without traffic before the first question (TCP_KEEPIDLE), from 1 to 32,767.
    pub idle_s: u16,
    /// Seconds from one question to the next (TCP_KEEPINTVL), from 1 to 32,767.
    pub interval_s: u16,
    /// Questions without an answer (TCP_KEEPCNT), from 1 to 127.
    pub probes: u8,
}

impl Keepalive {
    /// A peer that is gone is found out within four minutes, for a packet every two.
    pub const USUAL: Self = Self {
        idle_s: 120,
        interval_s: 30,
        probes: 4,
    };
}

/// Bounds and sizes of a driver. Every table and buffer pool of a driver is sized from here.
#[derive(Clone, Copy, Debug)]
pub struct DriverConfig {
    /// Connections this driver may hold at once; one more is accepted and closed at once, and counted.
    pub connections_max: u32,
    /// Number of receive buffers (a power of two).
    pub receive_buffers: u16,
    /// Size of one receive buffer in bytes.
    pub receive_buffer_bytes: u32,
    /// Events returned by one poll at most.
    pub events_max: usize,
    /// Entries of the submission queue (io_uring).
    pub submission_entries: u32,
    /// Entries of the completion queue (io_uring).
    pub completion_entries: u32,
    /// What there is for datagrams.
    pub datagrams: DatagramConfig,
}

impl DriverConfig {
    /// Small tables and buffers, for tests, tools and probes.
    #[must_use]
    pub const fn small() -> Self {
        Self {
            connections_max: 1024,
            receive_buffers: 64,
            receive_buffer_bytes: 4096,
            events_max: 256,
            submission_entries: 64,
            completion_entries: 1024,
            datagrams: DatagramConfig::small(),
        }
    }
}

/// Plain counters of one driver, read by the thread that owns it.
#[derive(Clone, Copy, Debug, Default)]
pub struct DriverCounters {
    /// `io_uring_enter` or `epoll_wait` calls.
    pub enters: u64,
    /// Connections accepted.
    pub accepted: u64,
    /// Connections that were accepted and closed untold: `connections_max` was reached, or the listener was stopped meanwhile.
    pub refused: u64,
    /// accept(2) errors (descriptor limits and the like); accepting pauses for a moment after each.
    pub accept_errors: u64,
    /// Receives that found no free buffer and were tried again later.
    pub receive_buffers_exhausted: u64,
    /// Sends that the kernel had no memory for and that were tried again later.
    pub send_shortages: u64,
    /// Completion queue overflows that were survived.
    pub completion_overflows: u64,
    /// Connections promoted to multishot receive.
    pub promotions: u64,
    /// Connections demoted again after they had been quiet.
    pub demotions: u64,
    /// Bytes received.
    pub bytes_received: u64,
    /// Bytes accepted by the kernel for sending.
    pub bytes_sent: u64,
    /// Bytes handed to `send` and not yet accepted by the kernel, over all connections.
    pub bytes_unsent: u64,
    /// Open connections now.
    pub connections: u64,
    /// Of datagrams.
    pub datagrams: DatagramCounters,
}

/// Sockets of one core. See the module documentation for the turn.
///
/// A call for a stale [`ConnectionId`] or [`DatagramSocketId`] (closed, or closing) does nothing.
pub trait Driver {
    /// Which implementation this is.
    fn backend(&self) -> Backend;

    /// Opens a listening TCP socket and starts to accept. Returns the id and the bound address (the port that was given
    /// for port 0). IPv6 sockets are IPV6_V6ONLY; accepted sockets have TCP_NODELAY.
    ///
    /// # Errors
    /// What socket, bind or listen said.
    fn listen(
        &mut self,
        address: SocketAddr,
        options: ListenOptions,
    ) -> io::Result<(ListenerId, SocketAddr)>;

    /// From now on at most so many connections of a listener are accepted in one poll (1 to [`ACCEPTS_MAX`], as at first); the
    /// others wait in the kernel. io_uring may still tell of those whose accepts are under way.
    fn accept_at_most(&mut self, connections: u32);

    /// From now on at most about so many connections wait in the kernel at each listener, which may be more or less than it was opened
    /// with. The kernel does not answer those beyond: they try again a second later. Those that wait already stay.
    fn wait_at_most(&mut self, connections: u32);

    /// How many connections wait in the kernel to be accepted.
    fn accept_backlog(&self) -> AcceptBacklog;

    /// Stops accepting on all listeners and closes them: no `Accepted` follows. Open connections stay.
    fn stop_listening(&mut self);

    /// Starts to connect, optionally from a local address. Ends with `Connected` or `Closed`.
    ///
    /// # Errors
    /// When the connection table is full or no socket could be made.
    fn connect(
        &mut self,
        remote: SocketAddr,
        local: Option<SocketAddr>,
    ) -> io::Result<ConnectionId>;

    /// Submits everything since the last poll, waits until an event, a wake or the deadline (`None` = no limit, a past
    /// instant = do not wait), and appends at most `events_max` events to `events`. It may return early with none.
    ///
    /// # Errors
    /// Only what makes the driver unusable; an error of one connection is a `Closed` event.
    fn poll(&mut self, deadline: Option<Instant>, events: &mut Vec<Event>) -> io::Result<()>;

    /// The bytes of a `Received` or `Datagrams` event. Mutable, so that a WebSocket frame can be unmasked in place.
    fn received(&mut self, buffer: BufferRef) -> &mut [u8];

    /// Gives a receive buffer back before the next poll does it.
    fn recycle(&mut self, buffer: BufferRef);

    /// Queues bytes to send, in order. One send per connection is in flight; the rest waits and goes out together.
    /// When the kernel has no memory for it, it is tried again every 10 ms; after 100 times the connection ends with that error.
    /// The vector comes back through [`Driver::reclaim`] when the kernel is done with it.
    fn send(&mut self, connection: ConnectionId, bytes: Vec<u8>);

    /// A sent vector, emptied, to be filled again. `None` when there is none.
    fn reclaim(&mut self) -> Option<Vec<u8>>;

    /// Bytes of this connection that the kernel has not accepted yet; 0 for a stale id.
    fn unsent(&self, connection: ConnectionId) -> usize;

    /// Stops receiving from a connection (the TCP window closes) until [`Driver::resume`]. What was received already may
    /// still come as an event.
    fn pause(&mut self, connection: ConnectionId);

    /// Receives again.
    fn resume(&mut self, connection: ConnectionId);

    /// Ends a connection. `Closed` follows, always.
    fn close(&mut self, connection: ConnectionId, how: Close);

    /// From now on, socket events may gather: while they come fast, a poll sleeps for `span` before it looks at its sockets, so
    /// that one wake of the thread serves all that came meanwhile. A [`Waker`] and the deadline end that sleep as any other.
    /// Zero, as at first: sockets end a poll at once.
    fn gather(&mut self, span: Duration);

    /// Binds a datagram socket and starts to receive. Returns the id and the bound address.
    ///
    /// # Errors
    /// When the table of datagram sockets is full, there is no memory for the first one's buffers, or what socket, bind or an
    /// option said.
    fn bind_datagrams(
        &mut self,
        address: SocketAddr,
        options: DatagramOptions,
    ) -> io::Result<(DatagramSocketId, SocketAddr)>;

    /// Takes a socket that was bound elsewhere and starts to receive; see [`crate::steering`].
    ///
    /// # Errors
    /// As [`Driver::bind_datagrams`]; and the driver in memory has no use for a socket of the kernel.
    fn adopt_datagrams(&mut self, socket: DatagramSocket) -> io::Result<DatagramSocketId>;

    /// Queues datagrams to send. The next poll sends them, in order as long as the kernel has room; they may be lost like any
    /// datagram. Never blocks: above [`DatagramOptions::unsent_bytes_max`] this transmit is dropped, which is counted, as is
    /// what the kernel refuses. The vector comes back through [`Driver::reclaim`].
    fn send_datagrams(&mut self, socket: DatagramSocketId, transmit: Transmit);

    /// Memory that unsent transmits of this socket hold, of its `unsent_bytes_max`; 0 for a stale id.
    fn datagrams_unsent(&self, socket: DatagramSocketId) -> u64;

    /// Closes a datagram socket. What is unsent is dropped and counted. No event of it follows.
    fn close_datagrams(&mut self, socket: DatagramSocketId);

    /// A handle with which any thread ends this driver's `poll`.
    fn waker(&self) -> Waker;

    /// Counters since the start.
    fn counters(&self) -> DriverCounters;
}
