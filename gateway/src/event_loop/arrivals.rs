//! New connections, in the order in which they may be turned away: bounds of listener and node at the accept, who may speak for
//! others, bounds of the address, then TLS or the shard.
//!
//! Whoever is turned away is closed at once: nothing is kept for him but the driver's own state, until that says that he is gone.

use std::net::SocketAddr;

use reactor::driver::{BufferRef, Close, ConnectionId, Driver, ListenerId};

use reactor::probe::thread_cpu_time;

use super::EventLoop;
use super::newcomers::Newcome;
use super::proxied::Heard;
use crate::metrics::TurnedAway;
use crate::shard::{Arrival, Event};
use crate::turn::Now;

impl<D: Driver> EventLoop<D> {
    /// A listener accepted a connection.
    pub(super) fn accepted(
        &mut self,
        now: Now,
        id: ConnectionId,
        listener: ListenerId,
        peer: SocketAddr,
    ) {
        self.accepted += 1;
        if let Err(reason) = self.gate.arrive(id, listener.0, now.mono_ms) {
            return self.turn_away(id, reason, peer);
        }
        let is_proxied = self.listeners[usize::from(listener.0)].proxied;
        let Some(proxied) = self.proxied.as_mut().filter(|_| is_proxied) else {
            self.identified(now, id, listener.0, peer);
            return;
        };
        if proxied.trusts(peer.ip()) {
            return proxied.accepted(now, id, listener.0, peer);
        }
        if !std::mem::replace(&mut proxied.told, true) {
            tracing::warn!(
                %peer,
                "a listener with listeners.proxy_protocol was reached from an address that is not in listeners.proxy_trusted; \
                 the connection is closed, and further ones like it are logged at level debug"
            );
        }
        self.turn_away(id, TurnedAway::ProxyUntrusted, peer);
    }

    /// It is known whose connection it is; true when it may go on.
    fn identified(&mut self, now: Now, id: ConnectionId, listener: u16, peer: SocketAddr) -> bool {
        let bans = &self.shard.policy().bans;
        if bans.of_address(peer.ip(), now.unix_ms).is_some() {
            self.turn_away(id, TurnedAway::Banned, peer);
            return false;
        }
        if let Err(reason) = self.gate.identify(id, peer.ip(), now.mono_ms) {
            self.turn_away(id, reason, peer);
            return false;
        }
        let kind = self.listeners[usize::from(listener)];
        let websocket = kind.websocket;
        if let (Some(secured), Some(place)) = (&mut self.secured, kind.acceptor) {
            secured.accepted(&mut self.driver, now, id, place, websocket, peer);
            return true;
        }
        let accepted = Event::Accepted {
            connection: id,
            arrival: Arrival::plain(websocket, peer),
        };
        self.shard.handle(now, accepted, &mut self.outbox);
        true
    }

    fn turn_away(&mut self, id: ConnectionId, reason: TurnedAway, peer: SocketAddr) {
        let core = self.shard.facts().core;
        self.shard.stats_mut().turn_away(reason);
        tracing::debug!(core, %peer, reason = reason.word(), "a connection was turned away");
        self.driver.close(id, Close::Abort);
    }

    /// Bytes of a connection.
    pub(super) fn received(&mut self, now: Now, id: ConnectionId, buffer: BufferRef) {
        let is_of_proxy = self.proxied.as_ref().is_some_and(|proxied| proxied.has(id));
        if is_of_proxy {
            return self.received_from_proxy(now, id, buffer);
        }
        let (driver, shard, outbox) = (&mut self.driver, &mut self.shard, &mut self.outbox);
        if let Some(secured) = self.secured.as_mut().filter(|secured| secured.has(id)) {
            return secured.received(driver, now, (id, buffer), shard, outbox);
        }
        let received = Event::Received {
            connection: id,
            bytes: driver.received(buffer),
        };
        shard.handle(now, received, outbox);
        driver.recycle(buffer);
    }

    /// The peer of a connection will send nothing more.
    pub(super) fn peer_closed(&mut self, now: Now, id: ConnectionId) {
        let proxied = self.proxied.as_mut();
        if proxied.is_some_and(|proxied| proxied.forget(id)) {
            return self.driver.close(id, Close::Abort);
        }
        let secured = self.secured.as_mut().filter(|secured| secured.has(id));
        if secured.is_none_or(|secured| secured.peer_closed(&mut self.driver, id)) {
            let closed = Event::PeerClosed(id);
            self.shard.handle(now, closed, &mut self.outbox);
        }
    }

    /// A connection is gone.
    pub(super) fn closed(&mut self, now: Now, id: ConnectionId) {
        self.gate.leave(id);
        if let Some(proxied) = &mut self.proxied {
            proxied.forget(id);
        }
        if let Some(secured) = self.secured.as_mut().filter(|secured| secured.has(id)) {
            secured.closed(id);
        }
        let closed = Event::Closed(id);
        self.shard.handle(now, closed, &mut self.outbox);
    }

    /// Bytes of a connection whose PROXY header is not complete.
    fn received_from_proxy(&mut self, now: Now, id: ConnectionId, buffer: BufferRef) {
        let Self {
            driver,
            proxied: Some(proxied),
            ..
        } = self
        else {
            return;
        };
        // The rest of it is the client's, and is handled with the driver free.
        let mut bytes = driver.received(buffer).to_vec();
        driver.recycle(buffer);
        match proxied.received(id, &mut bytes) {
            Heard::Partial => {}
            Heard::Failed(peer, error) => {
                let core = self.shard.facts().core;
                tracing::debug!(core, %peer, %error, "a proxy sent no usable PROXY header");
                self.turn_away(id, TurnedAway::ProxyHeader, peer);
            }
            Heard::Complete {
                listener,
                peer,
                mut rest,
            } => {
                let bytes = rest.bytes();
                if self.identified(now, id, listener, peer) && !bytes.is_empty() {
                    self.received_bytes(now, id, bytes);
                }
            }
        }
    }

    /// Bytes of a connection that has been identified.
    fn received_bytes(&mut self, now: Now, id: ConnectionId, bytes: &mut [u8]) {
        let Self {
            driver,
            shard,
            outbox,
            secured,
            ..
        } = self;
        if let Some(secured) = secured.as_mut().filter(|secured| secured.has(id)) {
            return secured.received_bytes(driver, now, (id, bytes), shard, outbox);
        }
        let received = Event::Received {
            connection: id,
            bytes,
        };
        shard.handle(now, received, outbox);
    }

    /// Decides how many come in next.
    pub(super) fn look_at_newcomers(&mut self, now: Now) {
        let quic = self.quic.as_mut();
        let handshakes = quic.map_or(0, super::Quic::take_begun);
        let accepted = std::mem::take(&mut self.accepted) + handshakes;
        let newcomers = &mut self.newcomers;
        if newcomers.wants_look(now.mono_ms) {
            let backlog = self.driver.accept_backlog();
            let quic = self.quic.as_ref();
            let waiting = quic.map_or(0, super::Quic::waiting_permille);
            if let Some(waiting_max) = newcomers.look(now.mono_ms, backlog, waiting) {
                self.driver.wait_at_most(waiting_max);
            }
        }
        let secured = self.secured.as_mut();
        let flights = secured.map_or(0, super::Secured::take_flights);
        newcomers.turn_ended(Newcome { accepted, flights }, thread_cpu_time);
        let mut waiting = 0;
        if let Some(secured) = &mut self.secured {
            secured.allow_flights(newcomers.flights());
            waiting = secured.stats().handshakes_waiting;
        }
        self.driver.accept_at_most(newcomers.accepts(waiting));
    }

    /// Closes connections whose header takes too long; once a turn.
    pub(super) fn end_overdue_headers(&mut self, now: Now) {
        while let Some((id, peer)) = self
            .proxied
            .as_mut()
            .and_then(|proxied| proxied.overdue(now))
        {
            self.turn_away(id, TurnedAway::ProxyTimeout, peer);
        }
    }

    /// Closes connections that the shard does not know, because the node stops.
    pub(super) fn shut_down_arrivals(&mut self) {
        if let Some(secured) = &mut self.secured {
            secured.shut_down(&mut self.driver);
        }
        for id in self.proxied.iter_mut().flat_map(super::Proxied::drain) {
            self.driver.close(id, Close::Abort);
        }
    }
}
