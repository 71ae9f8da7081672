//! TLS between the driver and the shard of one core: the shard sees plaintext, and no connection before its handshake is
//! complete.
//!
//! **Nothing leaves a TLS connection in the clear**: which slots are secure is known from the accept to the end of the connection,
//! whatever became of its TLS session, and what cannot be sealed is not sent.

use std::net::SocketAddr;
use std::sync::Arc;

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use reactor::driver::{BufferRef, Close, ConnectionId, Driver};

use crate::limits::TlsLimits;
use crate::outbox::Outbox;
use crate::shard::{Arrival, Event, Shard};
use crate::tls::{Acceptor, Output, Sessions, Stats};
use crate::turn::Now;

/// How long the last bytes of a failed session may take: its alert.
const LINGER_MS: u32 = 1_000;

/// The TLS connections of one core.
pub struct Secured {
    sessions: Sessions,
    /// Bit by slot: a TLS connection.
    slots: Vec<u64>,
    /// Connections whose handshake is not complete.
    arriving: HashMap<ConnectionId, Arriving, FixedState>,
    /// What sessions have to say, and which are over, until the driver can be told.
    sends: Vec<(ConnectionId, Vec<u8>)>,
    ended: Vec<ConnectionId>,
    /// Which are not to be read, or are again, in order.
    readings: Vec<(ConnectionId, bool)>,
}

/// What the shard will be told of a connection.
#[derive(Clone, Copy, Debug)]
struct Arriving {
    websocket: bool,
    peer: SocketAddr,
}

impl Secured {
    /// None yet. Listeners name their acceptor by its place.
    pub fn new(limits: TlsLimits, acceptors: &[Arc<Acceptor>]) -> Self {
        Self {
            sessions: Sessions::new(limits, acceptors),
            slots: Vec::new(),
            arriving: HashMap::default(),
            sends: Vec::new(),
            ended: Vec::new(),
            readings: Vec::new(),
        }
    }

    /// New connections get these; open ones stay as they are.
    pub fn reload(&mut self, acceptors: &[Arc<Acceptor>]) {
        for (place, acceptor) in acceptors.iter().enumerate() {
            self.sessions.reload(place, Arc::clone(acceptor));
        }
    }

    /// What was counted.
    pub fn stats(&self) -> &Stats {
        self.sessions.stats()
    }

    /// True for a connection of a TLS listener.
    pub fn has(&self, id: ConnectionId) -> bool {
        let word = self.slots.get(id.slot as usize / 64);
        word.is_some_and(|word| word & (1 << (id.slot % 64)) != 0)
    }

    /// A TLS listener accepted a connection.
    pub fn accepted(
        &mut self,
        driver: &mut impl Driver,
        now: Now,
        id: ConnectionId,
        place: usize,
        websocket: bool,
        peer: SocketAddr,
    ) {
        let word = id.slot as usize / 64;
        if self.slots.len() <= word {
            self.slots.resize(word + 1, 0);
        }
        self.slots[word] |= 1 << (id.slot % 64);
        if self.sessions.accepted(id, place, now) {
            self.arriving.insert(id, Arriving { websocket, peer });
        } else {
            driver.close(id, Close::Abort);
        }
    }

    /// Bytes of a TLS connection.
    pub fn received(
        &mut self,
        driver: &mut impl Driver,
        now: Now,
        (id, buffer): (ConnectionId, BufferRef),
        shard: &mut Shard,
        outbox: &mut Outbox,
    ) {
        let bytes = driver.received(buffer);
        let (sessions, mut teller) = self.teller(now, shard, outbox);
        sessions.received(id, bytes, now, &mut |id, output| teller.tell(id, output));
        driver.recycle(buffer);
        self.hand_over(driver);
    }

    /// The same for bytes that are not in a buffer of the driver.
    pub fn received_bytes(
        &mut self,
        driver: &mut impl Driver,
        now: Now,
        (id, bytes): (ConnectionId, &mut [u8]),
        shard: &mut Shard,
        outbox: &mut Outbox,
    ) {
        let (sessions, mut teller) = self.teller(now, shard, outbox);
        sessions.received(id, bytes, now, &mut |id, output| teller.tell(id, output));
        self.hand_over(driver);
    }

    /// Goes on with handshakes that waited, and ends those that take too long; once a turn.
    pub fn turn(
        &mut self,
        driver: &mut impl Driver,
        now: Now,
        shard: &mut Shard,
        outbox: &mut Outbox,
    ) {
        let (sessions, mut teller) = self.teller(now, shard, outbox);
        sessions.turn(now, &mut |id, output| teller.tell(id, output));
        self.hand_over(driver);
    }

    /// How many flights of handshakes a turn may process from now on.
    pub fn allow_flights(&mut self, per_turn: u32) {
        self.sessions.allow_flights(per_turn);
    }

    /// Flights that were processed since the last call.
    pub fn take_flights(&mut self) -> u32 {
        self.sessions.take_flights()
    }

    /// When `turn` has something to do, in milliseconds of the monotonic clock.
    pub fn next_deadline_ms(&self) -> Option<u64> {
        self.sessions.next_deadline_ms()
    }

    /// The peer will send nothing more and did not say so within TLS; true when the shard knows the connection.
    pub fn peer_closed(&mut self, driver: &mut impl Driver, id: ConnectionId) -> bool {
        let arriving = self.arriving.contains_key(&id);
        if arriving {
            driver.close(id, Close::Abort);
        }
        !arriving
    }

    /// The connection is gone.
    pub fn closed(&mut self, id: ConnectionId) {
        self.sessions.forget(id);
        self.arriving.remove(&id);
        if let Some(word) = self.slots.get_mut(id.slot as usize / 64) {
            *word &= !(1 << (id.slot % 64));
        }
    }

    /// Seals and sends plaintext; returns its vector, to be used again.
    pub fn send(&mut self, driver: &mut impl Driver, id: ConnectionId, plain: Vec<u8>) -> Vec<u8> {
        let mut sealed = driver.reclaim().unwrap_or_default();
        let goes_on = self.sessions.seal(id, &plain, &mut sealed);
        driver.send(id, sealed);
        if !goes_on {
            let linger_ms = LINGER_MS;
            driver.close(id, Close::Graceful { linger_ms });
        }
        plain
    }

    /// Says goodbye within TLS, if it is a TLS connection; the connection is closed by the caller.
    pub fn close(&mut self, driver: &mut impl Driver, id: ConnectionId) {
        if self.has(id) {
            let mut out = driver.reclaim().unwrap_or_default();
            self.sessions.close(id, &mut out);
            driver.send(id, out);
        }
    }

    /// Ends the connections that the shard does not know, because the node stops.
    pub fn shut_down(&mut self, driver: &mut impl Driver) {
        for id in self.arriving.keys() {
            driver.close(*id, Close::Abort);
        }
    }

    fn teller<'a>(
        &'a mut self,
        now: Now,
        shard: &'a mut Shard,
        outbox: &'a mut Outbox,
    ) -> (&'a mut Sessions, Teller<'a>) {
        let teller = Teller {
            now,
            shard,
            outbox,
            arriving: &mut self.arriving,
            sends: &mut self.sends,
            ended: &mut self.ended,
            readings: &mut self.readings,
        };
        (&mut self.sessions, teller)
    }

    /// Gives the driver what sessions had to say, before anything else is sealed for them. What the shard orders of those that are live now
    /// comes after it, at the end of the turn.
    fn hand_over(&mut self, driver: &mut impl Driver) {
        for (id, is_read) in self.readings.drain(..) {
            if is_read {
                driver.resume(id);
            } else {
                driver.pause(id);
            }
        }
        for (id, bytes) in self.sends.drain(..) {
            driver.send(id, bytes);
        }
        for id in self.ended.drain(..) {
            let linger_ms = LINGER_MS;
            driver.close(id, Close::Graceful { linger_ms });
        }
    }
}

/// Takes what comes of bytes and of time.
struct Teller<'a> {
    now: Now,
    shard: &'a mut Shard,
    outbox: &'a mut Outbox,
    arriving: &'a mut HashMap<ConnectionId, Arriving, FixedState>,
    sends: &'a mut Vec<(ConnectionId, Vec<u8>)>,
    ended: &'a mut Vec<ConnectionId>,
    readings: &'a mut Vec<(ConnectionId, bool)>,
}

impl Teller<'_> {
    fn tell(&mut self, id: ConnectionId, output: Output<'_>) {
        match output {
            Output::Send(bytes) => self.sends.push((id, bytes)),
            Output::Established(established) => {
                if let Some(Arriving { websocket, peer }) = self.arriving.remove(&id) {
                    let arrival = Arrival {
                        websocket,
                        secure: true,
                        peer,
                        certificate: established.identity.map(Arc::new),
                    };
                    self.handle(Event::Accepted {
                        connection: id,
                        arrival,
                    });
                }
            }
            Output::Data(bytes) => self.handle(Event::Received {
                connection: id,
                bytes,
            }),
            Output::Pause => self.readings.push((id, false)),
            Output::Resume => self.readings.push((id, true)),
            Output::PeerClosed => self.handle(Event::PeerClosed(id)),
            Output::Failed(failure) => {
                let core = self.shard.facts().core;
                match self.arriving.remove(&id) {
                    Some(Arriving { peer, .. }) => {
                        tracing::debug!(core, %peer, %failure, "a TLS handshake failed");
                    }
                    None => {
                        tracing::debug!(core, slot = id.slot, %failure, "a TLS session failed");
                        self.handle(Event::PeerClosed(id));
                    }
                }
                self.ended.push(id);
            }
        }
    }

    fn handle(&mut self, event: Event<'_>) {
        self.shard.handle(self.now, event, self.outbox);
    }
}
