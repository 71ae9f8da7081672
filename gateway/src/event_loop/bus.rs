//! The bus of one core: the connections to other nodes on its driver, and the link that each carries.
//!
//! ```text
//!  send ─▶ Link ─flush─▶ Secure::seal ─▶ driver.send          driver ─Received─▶ Secure ─▶ Link ─▶ Heard
//!
//!  dial ─Connected─▶ TLS ─▶ HELLO said ─HELLO heard─▶ up ─Closed─▶ a pause, then dial
//!  accept ─────────▶ TLS ─▶ HELLO heard, judged, said ─▶ up
//! ```
//!
//! Link *i* between two nodes is on core *i* of each. So core *i* listens on the port of the bus + *i*, which takes no kernel's help to find
//! the right core, and no connection ever changes cores. The node with the smaller uid dials.
//!
//! **What was taken stays in order, and nothing of it is lost, while both nodes are members**: a link survives its connections. It goes
//! with the member, and so does what it held.

mod greeting;
mod turning;

use std::io;
use std::net::SocketAddr;

use cluster::frame::Decoder;
use cluster::hello::Refusal;
use cluster::link::{Incoming, LINKS_MAX, Limits, LinkError, Message, Unsent, link_of_core};
use cluster::view::{NodeId, View};
use foldhash::fast::FixedState;
use hashbrown::HashMap;
use reactor::driver::{
    BufferRef, Close, ConnectionId, Driver, Keepalive, ListenOptions, ListenerId,
};

use crate::bus::identity::Identity;
use crate::bus::peers::Peers;
use crate::bus::secure::{Progress, Secure};
use crate::bus::stats::BusStats;

/// How long the last bytes of a connection may take: why it ends.
const LINGER_MS: u32 = 1_000;
/// Two complaints about strangers are in the log at least so far apart, in milliseconds.
const COMPLAINTS_MS: u64 = 10_000;

/// Bounds of the bus of a core.
#[derive(Clone, Copy, Debug)]
pub struct BusLimits {
    /// Of each link.
    pub link: Limits,
    /// How long a connection may take from its start to messages, in milliseconds; then it is closed.
    pub greeting_ms: u64,
    /// Accepted connections that have not said who they are. One more is closed at once.
    pub strangers_max: usize,
    /// Bytes that the kernel has not taken of a connection, above which nothing more is written to it.
    pub unsent_bytes_max: usize,
}

impl Default for BusLimits {
    fn default() -> Self {
        Self {
            link: Limits::default(),
            greeting_ms: 5_000,
            strangers_max: 256,
            unsent_bytes_max: 256 << 10,
        }
    }
}

/// Which core this is.
#[derive(Clone, Debug)]
pub struct Place {
    /// Name of the cluster.
    pub cluster: Box<str>,
    /// This node.
    pub node: NodeId,
    /// This core of it, from 0.
    pub core: u16,
    /// Cores of the node.
    pub cores: u16,
}

/// Who gets a message for a core number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// The link for it is on this core.
    Here,
    /// The link for it is on this core of this node, from 0.
    Core(u16),
    /// It is none of another member: one of this node, or of nobody.
    Nobody,
}

/// What other nodes say.
#[derive(Debug)]
pub enum Heard<'a> {
    /// A message of one core to another; each once, and in order.
    Message(NodeId, Message<'a>),
    /// Which view a node is at.
    View {
        /// Which node.
        node: NodeId,
        /// Number of its view.
        epoch: u64,
        /// Hash of it.
        hash: u64,
    },
}

/// The bus of one core.
#[derive(Debug)]
pub struct Bus {
    place: Place,
    identity: Identity,
    limits: BusLimits,
    /// Number and hash of the view.
    view: (u64, u64),
    peers: Peers,
    connections: HashMap<ConnectionId, Connection, FixedState>,
    /// Those of them that were accepted and have not said who they are.
    strangers: usize,
    listener: Option<ListenerId>,
    random: u64,
    /// Nothing is due before.
    due_ms: u64,
    /// Uids of peers whose links may have something to write.
    dirty: Vec<u64>,
    /// Uids of peers whose links had no room.
    full: Vec<u64>,
    /// Nodes whose connection ended or did not come about, since they were asked for.
    suspects: Vec<NodeId>,
    /// Plaintext of a call, and what TLS has to say for itself, between calls: empty, and used again.
    plain: Vec<u8>,
    out: Vec<u8>,
    stats: BusStats,
    complain_ms: u64,
}

/// A TCP connection.
#[derive(Debug)]
struct Connection {
    remote: SocketAddr,
    /// Whom it was dialled to; `None` when it was accepted.
    dialled: Option<u64>,
    phase: Phase,
    /// When it is closed, unless messages can flow.
    deadline_ms: u64,
}

/// ```text
/// Dialling ─▶ Greeting ─▶ Up ─▶ Ending          accepted: from Greeting on; any ─▶ Ending
/// ```
#[derive(Debug)]
enum Phase {
    /// The kernel connects; then this is sent.
    Dialling(Box<Secure>, Vec<u8>),
    /// TLS and HELLO. The uid is what the certificate says, once there is one.
    Greeting(Box<Secure>, Decoder, Option<u64>),
    /// It carries the link to this node.
    Up(Box<Secure>, u64),
    /// Closed, which the driver has not confirmed.
    Ending,
}

impl Bus {
    /// The bus of a node that is no member yet. `random` makes pauses different from those of other nodes.
    pub fn new(place: Place, identity: Identity, limits: BusLimits, random: u64) -> Self {
        Self {
            place,
            identity,
            limits,
            view: (0, 0),
            peers: Peers::default(),
            connections: HashMap::default(),
            strangers: 0,
            listener: None,
            random,
            due_ms: 0,
            dirty: Vec::new(),
            full: Vec::new(),
            suspects: Vec::new(),
            plain: Vec::new(),
            out: Vec::new(),
            stats: BusStats::default(),
            complain_ms: 0,
        }
    }

    /// Listens, if this core can have links. `address` is that of the node: core *i* takes its port + *i*. Returns what it listens at.
    ///
    /// # Errors
    /// When the address is taken, or the port is too high.
    pub fn listen(
        &mut self,
        driver: &mut impl Driver,
        address: SocketAddr,
    ) -> io::Result<Option<SocketAddr>> {
        if self.place.core >= LINKS_MAX {
            return Ok(None);
        }
        let address = address_of_link(address, self.place.core)
            .ok_or_else(|| io::Error::other("the port of the bus + 7 is above 65535"))?;
        let options = ListenOptions {
            backlog: 1024,
            reuse_port: false,
            keepalive: Some(Keepalive::USUAL),
        };
        let (listener, bound) = driver.listen(address, options)?;
        self.listener = Some(listener);
        Ok(Some(bound))
    }

    /// True for the listener of the bus.
    pub fn is_listener(&self, listener: ListenerId) -> bool {
        self.listener == Some(listener)
    }

    /// True for a connection of the bus.
    pub fn has(&self, id: ConnectionId) -> bool {
        self.connections.contains_key(&id)
    }

    /// New connections show and want these certificates. When a key was taken out, the open ones are made anew: whoever has only that key
    /// does not come back.
    pub fn set_identity(&mut self, driver: &mut impl Driver, now_ms: u64, identity: Identity) {
        let is_narrower = !identity.is_as_wide_as(&self.identity);
        self.identity = identity;
        if is_narrower {
            self.disconnect(driver, now_ms);
        }
    }

    /// The version of the protocol that is spoken with the node that has a core number; `None` without a link to it.
    pub fn version_to(&self, core: u16) -> Option<u16> {
        let link = self.peers.of_core(core)?.link.as_ref()?;
        Some(link.version())
    }

    /// The members are these from now on. Who is none any more is cut off, and what waited for it is gone. A node that is not in the
    /// view itself has no peers.
    pub fn set_peers(&mut self, driver: &mut impl Driver, now_ms: u64, view: &View) {
        self.view = (view.epoch, view.hash());
        let gone = if view.contains(self.place.node) {
            let Place { node, cores, .. } = self.place;
            self.peers.follow(node, cores, view)
        } else {
            self.peers.take_all()
        };
        for peer in gone {
            if let Some(link) = &peer.link {
                self.stats.add(link.counters());
            }
            for id in [peer.connection, peer.dialling].into_iter().flatten() {
                self.end(driver, now_ms, id, Some(Refusal::UnknownMember));
            }
        }
        let (epoch, hash) = self.view;
        for peer in self.peers.iter_mut() {
            if self.place.node.uid < peer.node.uid && self.place.core < peer.links {
                peer.link_or_new(self.limits.link);
            }
            if let Some(link) = &mut peer.link {
                link.tell_view(epoch, hash);
                peer.touch(&mut self.dirty);
            }
        }
        self.due_ms = now_ms;
    }

    /// Which core has the link for messages of this core to a core number.
    pub fn route(&self, to_core: u16) -> Route {
        let Some(peer) = self.peers.of_core(to_core) else {
            return Route::Nobody;
        };
        if peer.link.is_some() || self.place.core < peer.links {
            return Route::Here;
        }
        Route::Core(link_of_core(self.place.core, peer.links))
    }

    /// Takes a message for a core of another node, for which [`Bus::route`] says `Here`. It is written by the next [`Bus::flush`].
    ///
    /// # Errors
    /// It was not taken: a lossy one is gone, any other is to be sent again when there is room, if there is still a route.
    pub fn send(
        &mut self,
        from_core: u16,
        to_core: u16,
        lossy: bool,
        retry: bool,
        body: &[u8],
    ) -> Result<(), Unsent> {
        let Some(peer) = self.peers.of_core_mut(to_core) else {
            return self.without_link(lossy);
        };
        let Some(link) = &mut peer.link else {
            return self.without_link(lossy);
        };
        let message = Message {
            from_core,
            to_core,
            epoch: self.view.0,
            lossy,
            retry,
            body,
        };
        let result = link.send(&message);
        let has_room = link.has_room();
        if !has_room && !self.full.contains(&peer.node.uid) {
            self.full.push(peer.node.uid);
        }
        peer.touch(&mut self.dirty);
        result
    }

    fn without_link(&mut self, lossy: bool) -> Result<(), Unsent> {
        if lossy {
            self.stats.dropped_without_link += 1;
            return Err(Unsent::Dropped);
        }
        Err(Unsent::NoRoom)
    }

    /// True exactly when every link has room. While it is false, publishers of what may not be lost are not to be read.
    pub fn has_room(&mut self) -> bool {
        let peers = &mut self.peers;
        self.full.retain(|uid| {
            let link = peers.of(*uid).and_then(|peer| peer.link.as_ref());
            link.is_some_and(|link| !link.has_room())
        });
        self.full.is_empty()
    }

    /// Nodes whose connection ended, or that could not be dialled, since the last call: to be asked at once whether they live.
    pub fn take_suspects(&mut self) -> Vec<NodeId> {
        std::mem::take(&mut self.suspects)
    }

    /// The connection to a node, while messages can flow.
    pub fn connection_to(&self, uid: u64) -> Option<ConnectionId> {
        let mut peers = self.peers.iter();
        peers.find(|peer| peer.node.uid == uid)?.connection
    }

    /// What was counted.
    pub fn stats(&self) -> BusStats {
        let mut stats = self.stats.clone();
        for counters in self.peers.counters() {
            stats.add(counters);
        }
        for link in self.peers.iter().filter_map(|peer| peer.link.as_ref()) {
            if link.is_up() {
                stats.links_up += 1;
            } else {
                stats.links_down += 1;
            }
            stats.queued_bytes += link.queued_bytes();
        }
        stats
    }

    /// The listener of the bus accepted a connection.
    pub fn accepted(
        &mut self,
        driver: &mut impl Driver,
        now_ms: u64,
        id: ConnectionId,
        remote: SocketAddr,
    ) {
        self.stats.accepted += 1;
        let secure = if self.strangers < self.limits.strangers_max {
            Secure::accept(&self.identity).ok()
        } else {
            self.stats.strangers_dropped += 1;
            None
        };
        let phase = match secure {
            Some(secure) => {
                self.strangers += 1;
                Phase::Greeting(Box::new(secure), greeting::decoder(), None)
            }
            None => {
                driver.close(id, Close::Abort);
                Phase::Ending
            }
        };
        let deadline_ms = now_ms + self.limits.greeting_ms;
        self.due_ms = self.due_ms.min(deadline_ms);
        let connection = Connection {
            remote,
            dialled: None,
            phase,
            deadline_ms,
        };
        self.connections.insert(id, connection);
    }

    /// A connection that was dialled has come about.
    pub fn connected(&mut self, driver: &mut impl Driver, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        match std::mem::replace(&mut connection.phase, Phase::Ending) {
            Phase::Dialling(secure, first) => {
                driver.send(id, first);
                connection.phase = Phase::Greeting(secure, greeting::decoder(), None);
            }
            other => connection.phase = other,
        }
    }

    /// Bytes of a connection. What they say goes to `sink`, in order.
    pub fn received(
        &mut self,
        driver: &mut impl Driver,
        now_ms: u64,
        (id, buffer): (ConnectionId, BufferRef),
        sink: &mut dyn FnMut(Heard<'_>),
    ) {
        let phase = self.connections.get_mut(&id).map(|one| &mut one.phase);
        let Some(Phase::Greeting(secure, ..) | Phase::Up(secure, _)) = phase else {
            driver.recycle(buffer);
            return;
        };
        let mut plain = std::mem::take(&mut self.plain);
        let mut out = std::mem::take(&mut self.out);
        let bytes = driver.received(buffer);
        self.stats.received_bytes += bytes.len() as u64;
        let progress = secure.receive(bytes, &mut out, &mut plain);
        driver.recycle(buffer);
        self.stats.sent_bytes += out.len() as u64;
        if out.is_empty() {
            self.out = out;
        } else {
            driver.send(id, out);
        }
        let goes_on = match progress {
            Ok(Progress::Secured(uid)) => self.secured(driver, now_ms, id, uid),
            Ok(Progress::Handshake | Progress::Open | Progress::Closed) => true,
            Err(ref error) => self.insecure(driver, now_ms, id, error),
        };
        if goes_on && !plain.is_empty() {
            self.heard(driver, now_ms, id, &plain, sink);
        }
        if progress == Ok(Progress::Closed) {
            self.end(driver, now_ms, id, None);
        }
        plain.clear();
        plain.shrink_to(64 << 10);
        self.plain = plain;
    }

    /// Plaintext of a connection.
    fn heard(
        &mut self,
        driver: &mut impl Driver,
        now_ms: u64,
        id: ConnectionId,
        mut plain: &[u8],
        sink: &mut dyn FnMut(Heard<'_>),
    ) {
        let is_greeting = self
            .connections
            .get(&id)
            .is_some_and(|connection| matches!(connection.phase, Phase::Greeting(..)));
        if is_greeting {
            self.greeted(driver, now_ms, id, &mut plain, sink);
        }
        let Some(Phase::Up(_, uid)) = self.connections.get(&id).map(|one| &one.phase) else {
            return;
        };
        let uid = *uid;
        let Some(peer) = self.peers.of(uid) else {
            return;
        };
        let Some(link) = &mut peer.link else {
            return;
        };
        let node = peer.node;
        let result = link.receive(now_ms, plain, |incoming| {
            sink(match incoming {
                Incoming::Message(message) => Heard::Message(node, message),
                Incoming::View { epoch, hash } => Heard::View { node, epoch, hash },
            });
        });
        self.due_ms = self.due_ms.min(link.next_deadline_ms().unwrap_or(u64::MAX));
        peer.touch(&mut self.dirty);
        if let Err(error) = result {
            self.broken(driver, now_ms, id, &error);
        }
    }

    /// The link has ended its connection.
    fn broken(
        &mut self,
        driver: &mut impl Driver,
        now_ms: u64,
        id: ConnectionId,
        error: &LinkError,
    ) {
        let core = self.place.core;
        let Some(remote) = self.connections.get(&id).map(|one| one.remote) else {
            return;
        };
        let refusal = match error {
            LinkError::Refused(refusal) => {
                self.stats.refused_by_peers[*refusal as usize] += 1;
                tracing::info!(core, %remote, %refusal, "another node ended a bus connection");
                None
            }
            LinkError::Unreachable(_) => {
                tracing::warn!(core, %remote, %error, "a bus connection is cut");
                None
            }
            _ => {
                self.stats.refused[Refusal::Violation as usize] += 1;
                tracing::warn!(core, %remote, %error, "a bus connection is cut");
                Some(Refusal::Violation)
            }
        };
        self.end(driver, now_ms, id, refusal);
    }

    /// The kernel took everything of a connection.
    pub fn drained(&mut self, id: ConnectionId) {
        if let Some(Phase::Up(_, uid)) = self.connections.get(&id).map(|one| &one.phase)
            && let Some(peer) = self.peers.of(*uid)
        {
            peer.touch(&mut self.dirty);
        }
    }

    /// The peer will send nothing more.
    pub fn peer_closed(&mut self, driver: &mut impl Driver, now_ms: u64, id: ConnectionId) {
        self.end(driver, now_ms, id, None);
    }

    /// The connection is gone.
    pub fn closed(&mut self, now_ms: u64, id: ConnectionId) {
        let Some(connection) = self.connections.remove(&id) else {
            return;
        };
        if matches!(connection.phase, Phase::Dialling(..)) {
            self.stats.dials_failed += 1;
        }
        self.detach(now_ms, id, connection.dialled, &connection.phase);
    }

    /// Ends a connection, and tells the peer why if there is a reason.
    fn end(
        &mut self,
        driver: &mut impl Driver,
        now_ms: u64,
        id: ConnectionId,
        refusal: Option<Refusal>,
    ) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let dialled = connection.dialled;
        let mut phase = std::mem::replace(&mut connection.phase, Phase::Ending);
        if let Phase::Greeting(secure, _, Some(_)) | Phase::Up(secure, _) = &mut phase
            && let Some(refusal) = refusal
        {
            let (mut plain, mut sealed) = (Vec::new(), Vec::new());
            refusal.write(&mut plain);
            if secure.seal(&plain, &mut sealed).is_ok() {
                driver.send(id, sealed);
            }
        }
        let linger_ms = LINGER_MS;
        driver.close(id, Close::Graceful { linger_ms });
        self.detach(now_ms, id, dialled, &phase);
    }

    /// A connection in this phase is over: its link waits for the next one.
    fn detach(&mut self, now_ms: u64, id: ConnectionId, dialled: Option<u64>, phase: &Phase) {
        let uid = match phase {
            Phase::Ending => return,
            Phase::Up(_, uid) => Some(*uid),
            Phase::Dialling(..) | Phase::Greeting(..) => dialled,
        };
        if dialled.is_none() && matches!(phase, Phase::Greeting(..)) {
            self.strangers -= 1;
        }
        let Some(peer) = uid.and_then(|uid| self.peers.of(uid)) else {
            return;
        };
        if peer.connection == Some(id) {
            peer.connection = None;
            if let Some(link) = &mut peer.link {
                link.disconnected();
            }
        } else if peer.dialling == Some(id) {
            peer.dialling = None;
        } else {
            return;
        }
        self.random = next_random(self.random);
        peer.pause.begin(now_ms, self.random);
        self.due_ms = self.due_ms.min(peer.pause.until_ms);
        if !self.suspects.contains(&peer.node) {
            self.suspects.push(peer.node);
        }
    }
}

/// Where a node listens for a link, `address` being that of its core 0.
fn address_of_link(mut address: SocketAddr, link: u16) -> Option<SocketAddr> {
    // Port 0 is any port.
    if address.port() != 0 {
        address.set_port(address.port().checked_add(link)?);
    }
    Some(address)
}

/// The next of a row of numbers that look random (xorshift*).
fn next_random(last: u64) -> u64 {
    let mut next = last | 1;
    next ^= next >> 12;
    next ^= next << 25;
    next ^= next >> 27;
    next.wrapping_mul(0x2545_F491_4F6C_DD1D)
}
