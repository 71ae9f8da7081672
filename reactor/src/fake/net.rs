//! The network of the fake: links of two sides, and the handles with which a test plays the peer.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::FakeDriver;
use super::datagram::Ports;
use crate::driver::{ConnectionId, DriverConfig, ListenerId};
use crate::slab::{Key, Slab};

/// Bytes that may be under way to a side that does not read, unless [`FakePeer::set_window`] says otherwise.
const WINDOW_BYTES: usize = 256 * 1024;

/// Who reads a side of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// Waits in the accept queue.
    Nobody,
    Peer,
    Driver(usize, ConnectionId),
}

#[derive(Debug)]
pub(super) struct Side {
    pub(super) owner: Owner,
    pub(super) address: SocketAddr,
    /// Bytes that arrived and were not read.
    pub(super) inbound: VecDeque<u8>,
    pub(super) window: usize,
    /// Most bytes that one receive of the owner returns.
    pub(super) chunk: usize,
    /// The other side will send nothing more.
    pub(super) fin: bool,
    /// Why the connection broke, as seen from this side.
    pub(super) broken: Option<io::ErrorKind>,
    /// Polls for which arrived bytes are held back, as if no receive buffer were free.
    pub(super) stalled_polls: u32,
    pub(super) closed: bool,
}

impl Side {
    fn new(owner: Owner, address: SocketAddr) -> Self {
        Self {
            owner,
            address,
            inbound: VecDeque::new(),
            window: WINDOW_BYTES,
            chunk: usize::MAX,
            fin: false,
            broken: None,
            stalled_polls: 0,
            closed: false,
        }
    }
}

#[derive(Debug)]
pub(super) struct Link {
    /// Who connected, and who accepted.
    pub(super) sides: [Side; 2],
}

/// One side of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct End {
    pub(super) link: Key,
    pub(super) side: usize,
}

impl End {
    pub(super) const fn other(self) -> Self {
        Self {
            link: self.link,
            side: 1 - self.side,
        }
    }
}

#[derive(Debug)]
pub(super) struct Listening {
    /// `None` when the test itself accepts.
    pub(super) driver: Option<(usize, ListenerId)>,
    pub(super) queue: VecDeque<End>,
    /// How many may wait in it.
    pub(super) waiting_max: u32,
}

#[derive(Debug)]
pub(super) struct Net {
    pub(super) now: Instant,
    pub(super) links: Slab<Link>,
    pub(super) listening: BTreeMap<SocketAddr, Listening>,
    /// Connections with news, by driver.
    pub(super) ready: Vec<VecDeque<ConnectionId>>,
    pub(super) ports: Ports,
    port_next: u16,
}

impl Net {
    pub(super) fn side(&mut self, end: End) -> Option<&mut Side> {
        self.links
            .get_mut(end.link)
            .map(|link| &mut link.sides[end.side])
    }

    /// Tells the owner of a side, if it is a driver, that something changed.
    pub(super) fn notify(&mut self, end: End) {
        if let Some(Owner::Driver(driver, connection)) = self.side(end).map(|side| side.owner) {
            self.ready[driver].push_back(connection);
        }
    }

    pub(super) fn is_broken(&mut self, end: End) -> bool {
        self.side(end).is_none_or(|side| side.broken.is_some())
    }

    /// Moves up to what the window of the other side admits, and returns how much.
    pub(super) fn write(&mut self, from: End, bytes: &[u8]) -> usize {
        let Some(side) = self.side(from.other()) else {
            return 0;
        };
        if side.closed {
            // As TCP: the bytes are accepted, and answered with a reset.
            if let Some(side) = self.side(from) {
                side.broken = Some(io::ErrorKind::ConnectionReset);
            }
            self.notify(from);
            return bytes.len();
        }
        if side.fin {
            return 0;
        }
        let count = bytes
            .len()
            .min(side.window.saturating_sub(side.inbound.len()));
        side.inbound.extend(&bytes[..count]);
        if count > 0 {
            self.notify(from.other());
        }
        count
    }

    /// Ends one direction.
    pub(super) fn fin(&mut self, from: End) {
        if let Some(side) = self.side(from.other()) {
            side.fin = true;
        }
        self.notify(from.other());
    }

    /// Closes a side; unread bytes or `reset` break the connection for the other side.
    pub(super) fn close(&mut self, end: End, reset: bool) {
        let Some(side) = self.side(end) else { return };
        if std::mem::replace(&mut side.closed, true) {
            return;
        }
        let reset = reset || !side.inbound.is_empty();
        side.owner = Owner::Peer;
        if let Some(other) = self.side(end.other()) {
            if reset && !other.closed {
                other.broken = Some(io::ErrorKind::ConnectionReset);
            }
            other.fin = true;
            if other.closed {
                self.links.remove(end.link);
                return;
            }
        }
        self.notify(end.other());
    }

    pub(super) fn port(&mut self) -> u16 {
        self.port_next = self.port_next.checked_add(1).unwrap_or(20_000);
        self.port_next
    }

    /// Connects to a listener; the accepting side waits in its queue.
    pub(super) fn connect(
        &mut self,
        to: SocketAddr,
        from: SocketAddr,
        owner: Owner,
    ) -> io::Result<End> {
        let Some(listening) = self.listening.get_mut(&to) else {
            return Err(io::ErrorKind::ConnectionRefused.into());
        };
        // Linux is silent here, and the client tries again until it has had enough.
        if listening.queue.len() >= listening.waiting_max as usize {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let link = self.links.insert(Link {
            sides: [Side::new(owner, from), Side::new(Owner::Nobody, to)],
        });
        listening.queue.push_back(End { link, side: 1 });
        Ok(End { link, side: 0 })
    }
}

/// A network in memory with a clock of its own. Clones are the same network.
#[derive(Clone, Debug)]
pub struct FakeNet(Arc<Mutex<Net>>);

impl FakeNet {
    /// A network whose clock shows `now`.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self(Arc::new(Mutex::new(Net {
            now,
            links: Slab::new(),
            listening: BTreeMap::new(),
            ready: Vec::new(),
            ports: Ports::default(),
            port_next: 20_000,
        })))
    }

    /// What the clock shows.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.lock().now
    }

    /// Lets time pass.
    pub fn advance(&self, span: Duration) {
        self.lock().now += span;
    }

    /// A new driver on this network.
    #[must_use]
    pub fn driver(&self, config: DriverConfig) -> FakeDriver {
        let index = {
            let mut net = self.lock();
            net.ready.push(VecDeque::new());
            net.ports.add_driver();
            net.ready.len() - 1
        };
        FakeDriver::new(self.clone(), index, config)
    }

    /// Opens a connection to an address on which a driver listens, from an address of its own.
    ///
    /// # Errors
    /// `ConnectionRefused` when nobody listens there.
    pub fn open(&self, to: SocketAddr) -> io::Result<FakePeer> {
        let mut net = self.lock();
        let mut from = to;
        from.set_port(net.port());
        let end = net.connect(to, from, Owner::Peer)?;
        Ok(FakePeer {
            net: self.clone(),
            end,
            local: from,
        })
    }

    /// Makes an address one that drivers can connect to; the test accepts with [`FakeNet::accept`].
    pub fn listen(&self, address: SocketAddr) {
        self.lock().listening.insert(
            address,
            Listening {
                driver: None,
                queue: VecDeque::new(),
                waiting_max: u32::MAX,
            },
        );
    }

    /// Takes the next connection that a driver made to `address`.
    #[must_use]
    pub fn accept(&self, address: SocketAddr) -> Option<FakePeer> {
        let mut net = self.lock();
        let end = net.listening.get_mut(&address)?.queue.pop_front()?;
        net.side(end)?.owner = Owner::Peer;
        drop(net);
        Some(FakePeer {
            net: self.clone(),
            end,
            local: address,
        })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Net> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The test's end of one connection. Dropping it closes it, as dropping a socket does.
#[derive(Debug)]
pub struct FakePeer {
    net: FakeNet,
    end: End,
    local: SocketAddr,
}

impl FakePeer {
    /// The address that the driver sees as its peer.
    #[must_use]
    pub const fn local_address(&self) -> SocketAddr {
        self.local
    }

    /// The address of the driver's end.
    #[must_use]
    pub fn remote_address(&self) -> Option<SocketAddr> {
        self.net
            .lock()
            .side(self.end.other())
            .map(|side| side.address)
    }

    /// Writes what the driver's window admits, and returns how much.
    pub fn write(&self, bytes: &[u8]) -> usize {
        self.net.lock().write(self.end, bytes)
    }

    /// Reads everything that arrived.
    #[must_use]
    pub fn read(&self) -> Vec<u8> {
        self.read_up_to(usize::MAX)
    }

    /// Reads at most `count` bytes of what arrived.
    #[must_use]
    pub fn read_up_to(&self, count: usize) -> Vec<u8> {
        let mut net = self.net.lock();
        let Some(side) = net.side(self.end) else {
            return Vec::new();
        };
        let count = count.min(side.inbound.len());
        let bytes = side.inbound.drain(..count).collect();
        net.notify(self.end.other());
        bytes
    }

    /// How many unread bytes this peer takes before the driver's sends become partial.
    pub fn set_window(&self, bytes: usize) {
        let mut net = self.net.lock();
        if let Some(side) = net.side(self.end) {
            side.window = bytes;
        }
        net.notify(self.end.other());
    }

    /// The driver gets at most so many bytes in one event.
    pub fn set_chunk(&self, bytes: usize) {
        if let Some(side) = self.net.lock().side(self.end.other()) {
            side.chunk = bytes.max(1);
        }
    }

    /// The driver finds no receive buffer for this connection during its next `polls` polls.
    pub fn stall(&self, polls: u32) {
        if let Some(side) = self.net.lock().side(self.end.other()) {
            side.stalled_polls = polls;
        }
    }

    /// Sends FIN: the driver sees `PeerClosed` after what was written before.
    pub fn shutdown(&self) {
        self.net.lock().fin(self.end);
    }

    /// Breaks the connection: the driver sees `Closed` with `ConnectionReset`.
    pub fn reset(&self) {
        self.net.lock().close(self.end, true);
    }

    /// Closes this end.
    pub fn close(self) {}

    /// Whether the driver will send nothing more and everything it sent was read.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        let mut net = self.net.lock();
        net.side(self.end)
            .is_none_or(|side| side.fin && side.inbound.is_empty())
    }

    /// Whether the driver broke the connection.
    #[must_use]
    pub fn is_reset(&self) -> bool {
        self.net
            .lock()
            .side(self.end)
            .is_some_and(|side| side.broken.is_some())
    }
}

impl Drop for FakePeer {
    fn drop(&mut self) {
        self.net.lock().close(self.end, false);
    }
}
