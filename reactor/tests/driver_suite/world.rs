//! The harness: a driver, its peers, and a record of events that is checked as it grows.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use reactor::datagram::{DatagramConfig, DatagramOptions, DatagramSocketId, Ecn, Transmit};
use reactor::driver::{
    ConnectionId, Driver, DriverConfig, Event, Keepalive, ListenOptions, ListenerId,
};

/// A condition that does not come to hold within this time fails the test.
const PATIENCE: Duration = Duration::from_secs(20);

/// A driver and the means to play its peers.
pub(crate) trait Setup {
    type Driver: Driver;
    type Peer: Peer;
    type DatagramPeer: DatagramPeer;

    /// Whether it can run on this machine; says on stderr why not.
    fn available() -> bool {
        true
    }

    fn new(config: DriverConfig) -> Self;
    fn driver(&mut self) -> &mut Self::Driver;
    fn drop_driver(&mut self);
    /// The deadline of the next poll, some milliseconds from now. Virtual time moves on by as much.
    fn deadline(&mut self) -> Instant;
    /// Connects to a listening driver. `narrow`: with a receive window of some kilobytes.
    fn open(&mut self, to: SocketAddr, narrow: bool) -> std::io::Result<Self::Peer>;
    /// An address that the driver can connect to.
    fn listen(&mut self) -> SocketAddr;
    /// A connection that the driver opened to the address of `listen`.
    fn accept(&mut self) -> Option<Self::Peer>;
    /// An address where nobody listens.
    fn nobody(&mut self) -> SocketAddr;
    /// An address that answers no connect, where there can be one.
    fn silence(&mut self) -> Option<SocketAddr>;
    /// A datagram socket bound to this address.
    fn datagram_peer(&mut self, address: SocketAddr) -> std::io::Result<Self::DatagramPeer>;
}

/// The other side of datagrams. Nothing blocks.
pub(crate) trait DatagramPeer {
    fn address(&self) -> SocketAddr;
    fn send(&mut self, to: SocketAddr, bytes: &[u8]);
    fn receive(&mut self) -> Option<(SocketAddr, Vec<u8>)>;
}

/// One datagram that the driver told of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Heard {
    pub(crate) socket: DatagramSocketId,
    pub(crate) remote: SocketAddr,
    pub(crate) local: Option<IpAddr>,
    pub(crate) ecn: Option<Ecn>,
    pub(crate) bytes: Vec<u8>,
}

/// What a peer finds when it reads.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Read {
    Bytes(Vec<u8>),
    Nothing,
    End,
    Reset,
}

/// The other end of a connection. Nothing blocks; dropping it closes it.
pub(crate) trait Peer {
    fn address(&self) -> SocketAddr;
    fn remote(&self) -> SocketAddr;
    /// How much was written.
    fn write(&mut self, bytes: &[u8]) -> usize;
    fn read(&mut self, max: usize) -> Read;
    fn finish(&mut self);
    fn reset(self);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    Accepted {
        connection: ConnectionId,
        listener: ListenerId,
        peer: SocketAddr,
    },
    Connected(ConnectionId),
    Received(ConnectionId, usize),
    Drained(ConnectionId),
    PeerClosed(ConnectionId),
    Closed {
        connection: ConnectionId,
        unsent: usize,
        error: Option<ErrorKind>,
    },
    /// With the number of datagrams.
    Datagrams(DatagramSocketId, usize),
    Woken,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Connecting,
    Open,
    HalfClosed,
}

pub(crate) struct World<S: Setup> {
    pub(crate) setup: S,
    pub(crate) config: DriverConfig,
    pub(crate) seen: Vec<Seen>,
    /// Received bytes by connection.
    pub(crate) data: BTreeMap<ConnectionId, Vec<u8>>,
    /// Received datagrams, in order.
    pub(crate) heard: Vec<Heard>,
    closed_sockets: BTreeSet<DatagramSocketId>,
    phases: BTreeMap<ConnectionId, Phase>,
    ended: BTreeSet<ConnectionId>,
    events: Vec<Event>,
}

pub(crate) fn config() -> DriverConfig {
    DriverConfig {
        connections_max: 1000,
        receive_buffers: 16,
        receive_buffer_bytes: 2048,
        events_max: 64,
        submission_entries: 32,
        completion_entries: 256,
        datagrams: DatagramConfig::small(),
    }
}

impl<S: Setup> World<S> {
    pub(crate) fn new(config: DriverConfig) -> Self {
        Self {
            setup: S::new(config),
            config,
            seen: Vec::new(),
            data: BTreeMap::new(),
            heard: Vec::new(),
            closed_sockets: BTreeSet::new(),
            phases: BTreeMap::new(),
            ended: BTreeSet::new(),
            events: Vec::new(),
        }
    }

    pub(crate) fn driver(&mut self) -> &mut S::Driver {
        self.setup.driver()
    }

    pub(crate) fn listen(&mut self) -> SocketAddr {
        let options = ListenOptions {
            backlog: 1024,
            reuse_port: false,
            keepalive: Some(Keepalive::USUAL),
        };
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        self.driver()
            .listen(address, options)
            .expect("a port is free")
            .1
    }

    /// One poll, with every event checked and recorded.
    pub(crate) fn turn(&mut self) {
        let deadline = self.setup.deadline();
        self.poll(Some(deadline));
    }

    pub(crate) fn poll(&mut self, deadline: Option<Instant>) {
        let mut events = std::mem::take(&mut self.events);
        self.driver()
            .poll(deadline, &mut events)
            .expect("the driver stays usable");
        assert!(
            events.len() <= self.config.events_max,
            "no more events than asked for"
        );
        for event in events.drain(..) {
            self.check(event);
        }
        self.events = events;
    }

    pub(crate) fn until(&mut self, what: &str, mut condition: impl FnMut(&mut Self) -> bool) {
        let start = Instant::now();
        while !condition(self) {
            assert!(
                start.elapsed() < PATIENCE,
                "waited too long until {what}; last seen: {:?}",
                self.last()
            );
            self.turn();
        }
    }

    fn last(&self) -> &[Seen] {
        &self.seen[self.seen.len().saturating_sub(10)..]
    }

    fn check(&mut self, event: Event) {
        let seen = match event {
            Event::Accepted {
                connection,
                listener,
                peer,
            } => {
                self.begin(connection, Phase::Open);
                Seen::Accepted {
                    connection,
                    listener,
                    peer,
                }
            }
            Event::Connected { connection } => {
                let before = self.phases.insert(connection, Phase::Open);
                assert_eq!(before, Some(Phase::Connecting), "a connection opens once");
                Seen::Connected(connection)
            }
            Event::Received { connection, buffer } => {
                let phase = self.phases.get(&connection);
                assert_eq!(phase, Some(&Phase::Open), "bytes come while open");
                let bytes = self.setup.driver().received(buffer);
                assert!(!bytes.is_empty() && bytes.len() == buffer.length as usize);
                let data = self.data.entry(connection).or_default();
                data.extend_from_slice(bytes);
                Seen::Received(connection, buffer.length as usize)
            }
            Event::Drained { connection } => {
                assert!(
                    self.phases.contains_key(&connection),
                    "drained is of an open connection"
                );
                assert_eq!(
                    self.setup.driver().unsent(connection),
                    0,
                    "drained means that nothing is unsent"
                );
                Seen::Drained(connection)
            }
            Event::PeerClosed { connection } => {
                let phase = self.phases.insert(connection, Phase::HalfClosed);
                assert_eq!(phase, Some(Phase::Open), "a peer closes once");
                Seen::PeerClosed(connection)
            }
            Event::Closed {
                connection,
                unsent,
                error,
            } => {
                assert!(
                    self.phases.remove(&connection).is_some(),
                    "what ends was there"
                );
                assert!(self.ended.insert(connection), "a connection ends once");
                assert_eq!(
                    self.setup.driver().unsent(connection),
                    0,
                    "nothing is unsent of what is gone"
                );
                Seen::Closed {
                    connection,
                    unsent,
                    error: error.map(|error| error.kind()),
                }
            }
            datagrams @ Event::Datagrams { .. } => self.check_datagrams(&datagrams),
            Event::Woken => Seen::Woken,
        };
        self.seen.push(seen);
    }

    fn check_datagrams(&mut self, event: &Event) -> Seen {
        let Event::Datagrams {
            socket,
            buffer,
            remote,
            local,
            ecn,
            stride,
        } = *event
        else {
            panic!("{event:?}")
        };
        assert!(!self.closed_sockets.contains(&socket), "it is open");
        let bytes = self.setup.driver().received(buffer);
        assert!(bytes.len() == buffer.length as usize && !bytes.is_empty());
        assert!((1..=bytes.len()).contains(&stride));
        let parts = bytes.chunks(stride).map(|bytes| Heard {
            socket,
            remote,
            local,
            ecn,
            bytes: bytes.to_vec(),
        });
        let before = self.heard.len();
        self.heard.extend(parts);
        Seen::Datagrams(socket, self.heard.len() - before)
    }

    /// Notes a connection that begins; for `connect`, before its first event.
    fn begin(&mut self, connection: ConnectionId, phase: Phase) {
        assert!(!self.ended.contains(&connection), "an id is not used again");
        assert!(
            self.phases
                .keys()
                .all(|other| other.slot != connection.slot),
            "a slot has one connection"
        );
        assert!(
            self.phases.insert(connection, phase).is_none(),
            "a connection begins once"
        );
    }

    pub(crate) fn connect(&mut self, to: SocketAddr, local: Option<SocketAddr>) -> ConnectionId {
        let connection = self.driver().connect(to, local).expect("there is room");
        self.begin(connection, Phase::Connecting);
        connection
    }

    /// Opens a peer and waits until the driver accepted it.
    pub(crate) fn pair(&mut self, address: SocketAddr) -> (S::Peer, ConnectionId) {
        self.pair_with(address, false)
    }

    pub(crate) fn pair_with(
        &mut self,
        address: SocketAddr,
        narrow: bool,
    ) -> (S::Peer, ConnectionId) {
        // Ports are used again: only what is accepted from here on counts.
        let before = self.seen.len();
        let peer = self
            .setup
            .open(address, narrow)
            .expect("the driver listens");
        let wanted = peer.address();
        let mut found = None;
        self.until("the connection is accepted", |world| {
            found = world.seen[before..].iter().find_map(|seen| match seen {
                Seen::Accepted {
                    connection, peer, ..
                } if *peer == wanted => Some(*connection),
                _ => None,
            });
            found.is_some()
        });
        (peer, found.expect("found"))
    }

    pub(crate) fn send(&mut self, connection: ConnectionId, bytes: &[u8]) {
        self.driver().send(connection, bytes.to_vec());
    }

    pub(crate) fn received(&self, connection: ConnectionId) -> &[u8] {
        self.data.get(&connection).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn count(&self, wanted: impl Fn(&Seen) -> bool) -> usize {
        self.seen.iter().filter(|seen| wanted(seen)).count()
    }

    pub(crate) fn closed(&self, wanted: ConnectionId) -> Option<(usize, Option<ErrorKind>)> {
        self.seen.iter().find_map(|seen| match seen {
            Seen::Closed {
                connection,
                unsent,
                error,
            } if *connection == wanted => Some((*unsent, *error)),
            _ => None,
        })
    }

    pub(crate) fn until_closed(&mut self, connection: ConnectionId) -> (usize, Option<ErrorKind>) {
        self.until("the connection is closed", |world| {
            world.closed(connection).is_some()
        });
        self.closed(connection).expect("it is closed")
    }

    pub(crate) fn bind(&mut self, options: DatagramOptions) -> (DatagramSocketId, SocketAddr) {
        self.bind_at("127.0.0.1:0", options)
    }

    pub(crate) fn bind_at(
        &mut self,
        address: &str,
        options: DatagramOptions,
    ) -> (DatagramSocketId, SocketAddr) {
        let address = address.parse().expect("an address");
        self.driver()
            .bind_datagrams(address, options)
            .expect("a port is free")
    }

    pub(crate) fn datagram_peer(&mut self) -> S::DatagramPeer {
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        self.setup.datagram_peer(address).expect("a port is free")
    }

    pub(crate) fn transmit(&mut self, socket: DatagramSocketId, to: SocketAddr, bytes: &[u8]) {
        let transmit = Transmit {
            to,
            from: None,
            ecn: None,
            segment: None,
            bytes: bytes.to_vec(),
        };
        self.driver().send_datagrams(socket, transmit);
    }

    pub(crate) fn close_socket(&mut self, socket: DatagramSocketId) {
        self.driver().close_datagrams(socket);
        self.closed_sockets.insert(socket);
    }

    pub(crate) fn until_heard(&mut self, count: usize) {
        self.until("all datagrams were heard", |world| {
            world.heard.len() >= count
        });
        assert_eq!(self.heard.len(), count);
    }

    /// The next datagram of a peer.
    pub(crate) fn peer_hears(&mut self, peer: &mut S::DatagramPeer) -> (SocketAddr, Vec<u8>) {
        let mut found = None;
        self.until("the peer heard something", |_| {
            found = peer.receive();
            found.is_some()
        });
        found.expect("found")
    }

    /// Writes all of it, turn by turn.
    pub(crate) fn write_all(&mut self, peer: &mut S::Peer, bytes: &[u8]) {
        let mut done = 0;
        self.until("the peer could write everything", |_| {
            done += peer.write(&bytes[done..]);
            done == bytes.len()
        });
    }

    /// Reads until `length` bytes arrived, at most `step` per turn.
    pub(crate) fn read_exactly(
        &mut self,
        peer: &mut S::Peer,
        length: usize,
        step: usize,
    ) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.until("the peer read everything", |_| {
            match peer.read(step.min(length - bytes.len())) {
                Read::Bytes(more) => bytes.extend(more),
                Read::Nothing => {}
                other => panic!("{other:?} after {} bytes", bytes.len()),
            }
            bytes.len() == length
        });
        bytes
    }

    /// Reads until the end (true) or a reset (false).
    pub(crate) fn read_to_end(&mut self, peer: &mut S::Peer, step: usize) -> (Vec<u8>, bool) {
        let mut bytes = Vec::new();
        let mut end = None;
        self.until("the peer saw the end", |_| {
            match peer.read(step) {
                Read::Bytes(more) => bytes.extend(more),
                Read::Nothing => {}
                Read::End => end = Some(true),
                Read::Reset => end = Some(false),
            }
            end.is_some()
        });
        (bytes, end.expect("it ended"))
    }
}

/// Bytes in which every lost, doubled or swapped part shows.
pub(crate) fn pattern(length: usize) -> Vec<u8> {
    (0..length as u32)
        .flat_map(|number| number.wrapping_mul(2_654_435_761).to_le_bytes())
        .take(length)
        .collect()
}
