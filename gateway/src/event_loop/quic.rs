//! QUIC between the driver's datagrams and the shard of one core. To the shard a stream is a connection as any other.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use reactor::datagram::{DatagramSocketId, Ecn};
use reactor::driver::{BufferRef, Close, ConnectionId, Driver};
use reactor::probe::thread_cpu_time;

use super::newcomers::HandshakeTime;
use crate::access::gate::Gate;
use crate::core_message::{CoreMessage, StrayDatagram};
use crate::metrics::TurnedAway;
use crate::outbox::{ForStream, Order, Outbox};
use crate::quic::{Arrived, Endpoints, Output, Stats};
use crate::shard::{Event, Shard};
use crate::tls::Acceptor;
use crate::turn::Now;

/// The QUIC connections of one core.
pub struct Quic {
    endpoints: Endpoints,
    /// By listener.
    sockets: Vec<DatagramSocketId>,
}

/// What the driver tells with a batch of datagrams.
#[derive(Clone, Copy, Debug)]
pub struct Batch {
    /// At which socket.
    pub socket: DatagramSocketId,
    /// Where the datagrams are.
    pub buffer: BufferRef,
    /// From whom.
    pub remote: SocketAddr,
    /// To which local address.
    pub local: Option<IpAddr>,
    /// ECN bits.
    pub ecn: Option<Ecn>,
    /// Length of each.
    pub stride: usize,
}

impl Quic {
    /// The place of its acceptor among those of a node.
    pub const ACCEPTOR: usize = 2;

    /// Endpoints and the sockets of their listeners, in the same order.
    pub fn new(endpoints: Endpoints, sockets: Vec<DatagramSocketId>) -> Self {
        Self { endpoints, sockets }
    }

    /// New connections get this; open ones stay as they are.
    pub fn reload(&mut self, acceptor: &Arc<Acceptor>) {
        self.endpoints.reload(acceptor);
    }

    /// What was counted.
    pub fn stats(&self) -> Stats {
        self.endpoints.stats()
    }

    /// Datagrams arrived.
    pub fn received(
        &mut self,
        driver: &mut impl Driver,
        now: Now,
        batch: Batch,
        gate: &mut Gate,
        shard: &mut Shard,
        outbox: &mut Outbox,
    ) {
        let listener = self.sockets.iter().position(|it| *it == batch.socket);
        if let Some(listener) = listener {
            let arrived = Arrived {
                listener: listener as u16, // There are as many as a configuration has addresses.
                remote: batch.remote,
                local: batch.local,
                ecn: batch.ecn,
                is_banned: is_banned(shard, batch.remote, now),
                stride: batch.stride,
                bytes: driver.received(batch.buffer),
            };
            let mut tell = teller(now, listener as u16, &arrived, shard, outbox);
            self.endpoints.received(&arrived, now, gate, &mut tell);
        }
        driver.recycle(batch.buffer);
    }

    /// Another core received a datagram that is for this one.
    pub fn stray(
        &mut self,
        now: Now,
        stray: &StrayDatagram,
        gate: &mut Gate,
        shard: &mut Shard,
        outbox: &mut Outbox,
    ) {
        let arrived = Arrived {
            listener: stray.listener,
            remote: stray.remote,
            local: stray.local,
            ecn: stray.ecn,
            is_banned: is_banned(shard, stray.remote, now),
            stride: stray.bytes.len(),
            bytes: &stray.bytes,
        };
        let mut tell = teller(now, stray.listener, &arrived, shard, outbox);
        self.endpoints.received(&arrived, now, gate, &mut tell);
    }

    /// Does what waited for this turn and what is late.
    pub fn turn(&mut self, now: Now, gate: &mut Gate, shard: &mut Shard, outbox: &mut Outbox) {
        let core = shard.facts().core;
        let mut time = HandshakeTime::new(thread_cpu_time);
        let mut tell = |output: Output<'_>| tell(now, core, output, shard, outbox);
        self.endpoints
            .turn(now, gate, || time.has_more(), &mut tell);
    }

    /// How many handshakes were begun since the last call.
    pub fn take_begun(&mut self) -> u32 {
        self.endpoints.take_begun()
    }

    /// How full the queue of waiting handshakes is, in thousandths.
    pub fn waiting_permille(&self) -> u32 {
        self.endpoints.waiting_permille()
    }

    /// When `turn` has something to do, in milliseconds of the monotonic clock.
    pub fn next_deadline_ms(&self) -> Option<u64> {
        self.endpoints.next_deadline_ms()
    }

    /// Sends bytes on a stream.
    pub fn send(&mut self, id: ConnectionId, bytes: &[u8]) {
        self.endpoints.send(id, bytes);
    }

    /// Does what the shard wants done about data streams; returns an emptied vector, to be used again.
    pub fn for_stream(&mut self, id: ConnectionId, what: ForStream) -> Option<Vec<u8>> {
        match what {
            ForStream::Admit => self.endpoints.admit(id),
            ForStream::Finish(number) => self.endpoints.finish_stream(id, number),
            ForStream::Write(number, bytes) => {
                self.endpoints.send_on_stream(id, number, &bytes);
                return Some(bytes);
            }
        }
        None
    }

    /// Bytes of a stream that wait for room.
    pub fn unsent(&self, id: ConnectionId) -> usize {
        self.endpoints.unsent(id)
    }

    /// Carries out an order of the shard about a stream; `Watch` is the event loop's own.
    pub fn order(&mut self, now: Now, order: Order) {
        match order {
            Order::Close(id, how) => self.endpoints.close(id, how, now),
            Order::Pause(id) => self.endpoints.pause(id),
            Order::Resume(id) => self.endpoints.resume(id),
            Order::Watch(_) => {}
        }
    }

    /// Gives the driver what is to be sent.
    pub fn flush(&mut self, driver: &mut impl Driver, now: Now, gate: &mut Gate) {
        while self.endpoints.wants_buffers()
            && let Some(buffer) = driver.reclaim()
        {
            self.endpoints.recycle(buffer);
        }
        let sockets = &self.sockets;
        self.endpoints.transmit(now, gate, |listener, transmit| {
            driver.send_datagrams(sockets[usize::from(listener)], transmit);
        });
    }

    /// The node stops.
    pub fn shut_down(&mut self, now: Now) {
        self.endpoints.shut_down(now);
    }

    /// True when nobody is connected and the kernel has taken everything.
    pub fn is_done(&self, driver: &impl Driver) -> bool {
        let mut sockets = self.sockets.iter();
        self.endpoints.open() == 0 && sockets.all(|socket| driver.datagrams_unsent(*socket) == 0)
    }
}

/// Tells the shard, and hands datagrams of other cores over.
fn teller<'a>(
    now: Now,
    listener: u16,
    arrived: &'a Arrived<'_>,
    shard: &'a mut Shard,
    outbox: &'a mut Outbox,
) -> impl FnMut(Output<'_>) + use<'a> {
    let core = shard.facts().core;
    let first_core = shard.ownership().here().start;
    let (remote, local, ecn) = (arrived.remote, arrived.local, arrived.ecn);
    move |output| match output {
        Output::Stray(core, datagram) => {
            let stray = StrayDatagram {
                listener,
                remote,
                local,
                ecn,
                bytes: datagram.to_vec(),
            };
            outbox.tell(first_core + core, CoreMessage::Stray(Box::new(stray)));
        }
        output => tell(now, core, output, shard, outbox),
    }
}

/// True for an address that nobody may connect from.
fn is_banned(shard: &Shard, peer: SocketAddr, now: Now) -> bool {
    let bans = &shard.policy().bans;
    bans.of_address(peer.ip(), now.unix_ms).is_some()
}

fn tell(now: Now, core: u16, output: Output<'_>, shard: &mut Shard, outbox: &mut Outbox) {
    let event = match output {
        Output::Accepted(connection, arrival) => {
            let peer = arrival.peer;
            // It may have been banned since its first datagram.
            if is_banned(shard, peer, now) {
                // The shard never hears of it: what still comes for this id is nobody's there.
                shard.stats_mut().turn_away(TurnedAway::Banned);
                tracing::debug!(core, %peer, "a QUIC connection was turned away: banned");
                let close = Order::Close(connection, Close::Abort);
                return outbox.orders.push(close);
            }
            Event::Accepted {
                connection,
                arrival,
            }
        }
        Output::Data(connection, bytes) => Event::Received { connection, bytes },
        Output::StreamsOpened(id) => Event::StreamsOpened(id),
        Output::StreamData(connection, number, bytes) => Event::StreamReceived {
            connection,
            number,
            bytes,
        },
        Output::StreamEnded(connection, number) => Event::StreamEnded { connection, number },
        Output::Drained(id) => Event::Drained(id),
        Output::PeerClosed(id) => Event::PeerClosed(id),
        Output::Closed(id) => Event::Closed(id),
        Output::Stray(..) => return,
        Output::TurnedAway(peer, reason) => {
            shard.stats_mut().turn_away(reason);
            tracing::debug!(core, %peer, reason = reason.word(), "a QUIC client was turned away");
            return;
        }
        Output::Failed(peer, reason, detail) => {
            let reason = reason.label();
            tracing::debug!(core, %peer, reason, %detail, "a QUIC handshake failed");
            return;
        }
    };
    shard.handle(now, event, outbox);
}
