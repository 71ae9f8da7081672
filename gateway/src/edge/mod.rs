//! The edge role: connections, the bytes that come in on them, and the sessions behind them while they are connected.
//!
//! ```text
//!       ┌─▶ Authenticating ─Verdict─▶ Judged ─┐
//!       │   Exchanging ─AUTH──────────────────┤
//! AwaitConnect ─────────CONNECT─────────────▶ Attaching ─Attached─▶ Live ─end─▶ Closing ─Closed─▶ gone
//!       └──────── timeout, violation, refusal ─────────┴─────────────────────────▲
//! ```
//!
//! An idle session holds no buffer: what a session needs only in traffic is in its `Traffic`, which goes away
//! when it is empty.

mod connect;
mod connections;
mod deliver;
mod delivered;
mod depart;
mod exchange;
mod handover;
#[cfg(test)]
mod hostile_tests;
mod inbound;
mod link;
mod login;
mod partial;
mod publish;
mod scans;
mod session;
mod streams;
mod subscribe;
mod throttle;
mod websocket;

use std::collections::VecDeque;

use edge_proto::frame::next_frame;
use edge_proto::packet::Version;
use edge_proto::reason::{ReasonCode, Violation};
use edge_proto::session::inbound::Inbound;
use foldhash::fast::FixedState;
use hashbrown::{HashMap, HashSet};
use reactor::driver::{Close, ConnectionId};
use reactor::slab::{Key, Slab};

use crate::access::policy::Outcome;
use crate::core_message::PublishRequest;
use crate::limits::Limits;
use crate::message::SessionId;
use crate::outbox::Order;
use crate::retained_scan::Scan;
use crate::shard::Arrival;
use crate::turn::{Stats, Timer, Turn};

use connect::Attaching;
use connections::Connections;
use delivered::Delivered;
use depart::Leave;
use exchange::Exchanging;
use link::{Link, Transport};
use login::Login;
use session::Session;
use subscribe::SubscribePacket;

/// Connections that are gone and may still be in the list of those that wait for a bound of the core.
const STALLED_GONE_MAX: u64 = 1_024;

/// State of the edge role on one core.
#[derive(Debug, Default)]
pub struct Edge {
    connections: Connections,
    /// Durable sessions whose connection is gone while publishes of theirs are still being stored; in a cluster all whose home has not
    /// said that it knows of the end.
    detaching: HashMap<ConnectionId, Detaching, FixedState>,
    /// In a cluster, QoS 2 publishes of durable sessions whose packet identifiers are being recorded, in the order of their arrival.
    receiving: HashMap<ConnectionId, Vec<PublishRequest>, FixedState>,
    operations: Slab<SubscribePacket>,
    scans: Slab<Scan<ConnectionId>>,
    /// Connections with a large incomplete packet, or that had one when they were last looked at.
    hoarders: HashSet<ConnectionId, FixedState>,
    /// The same of clients that are not let in, of whom less is large.
    strangers: HashSet<ConnectionId, FixedState>,
    /// Connections that are not read because a bound of the core was reached.
    stalled: VecDeque<ConnectionId>,
    count: u64,
    live: u64,
    /// SUBSCRIBE and UNSUBSCRIBE packets so far.
    subscribe_packets: u64,
    assigned: u64,
    /// What live sessions got lately, in a cluster.
    delivered: Delivered,
    /// Clients that were sent to other servers.
    sent_elsewhere: u64,
    nonces: u64,
    /// Connections whose sessions are to be judged under a new policy.
    to_review: Vec<ConnectionId>,
}

/// One connection.
#[derive(Debug)]
struct Connection {
    link: Link,
    state: State,
}

const _: () = assert!(
    size_of::<Connection>() <= 80,
    "there is one for every session"
);

#[derive(Debug)]
enum State {
    AwaitConnect(Box<Arrival>),
    /// Somebody else was asked who the client is; its CONNECT is kept unread.
    Authenticating(Box<Arrival>),
    /// The answer is there, and the CONNECT is read again.
    Judged(Box<(Arrival, Outcome)>),
    /// In the middle of an exchange of AUTH packets.
    Exchanging(Box<Exchanging>),
    Attaching(Box<Attaching>),
    Live(Box<Session>),
    Closing,
}

impl Connection {
    /// Nothing more is expected of it but its end. A live session was taken off it before.
    fn close_state(&mut self, turn: &mut Turn<'_>) {
        if let State::Exchanging(exchanging) = std::mem::replace(&mut self.state, State::Closing) {
            turn.stats.partial_bytes -= exchanging.kept_bytes();
        }
    }
}

impl State {
    /// True before the client is let in.
    const fn is_arriving(&self) -> bool {
        matches!(
            self,
            Self::AwaitConnect(_) | Self::Authenticating(_) | Self::Judged(_) | Self::Exchanging(_)
        )
    }
}

/// A session that has lost its connection and waits for its own publishes, or for its home.
#[derive(Debug)]
struct Detaching {
    session: SessionId,
    durable: bool,
    /// True when its home was told, which in a cluster says that it has heard.
    told: bool,
    login: Option<Box<Login>>,
    home_core: u16,
    home: Key,
    inbound: Inbound,
    will: bool,
    expiry_s: Option<u32>,
    sent_to: u64,
}

/// What the handling of one packet means for the rest of the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    /// Go on with the next packet.
    Continue,
    /// This packet cannot be taken now: keep it and what follows, and stop reading.
    Stall,
    /// The connection is closing: drop what follows.
    Closed,
}

impl Edge {
    /// A listener has accepted a connection.
    pub fn accepted(&mut self, turn: &mut Turn<'_>, id: ConnectionId, arrival: Arrival) {
        turn.stats.counters.connections_accepted += 1;
        let transport = if arrival.websocket {
            Transport::Upgrading
        } else {
            Transport::Tcp
        };
        let mut link = Link::new(id, transport, turn.now.mono_ms);
        let deadline = turn.now.mono_ms + turn.facts.limits.connect_timeout_ms;
        link.timer = Some(turn.timers.arm(deadline, Timer::Connect(id)));
        self.count += 1;
        self.connections.insert(
            id,
            Connection {
                link,
                state: State::AwaitConnect(Box::new(arrival)),
            },
        );
    }

    /// Bytes have arrived.
    pub fn received(&mut self, turn: &mut Turn<'_>, id: ConnectionId, bytes: &mut [u8]) {
        let Some(connection) = self.connection(id) else {
            return;
        };
        connection.link.last_seen_ms = turn.now.mono_ms;
        match connection.link.transport {
            Transport::Tcp | Transport::Streams(_) => self.stream(turn, id, bytes),
            Transport::Upgrading => self.upgrade(turn, id, bytes),
            Transport::WebSocket(_) => self.frames(turn, id, bytes),
        }
    }

    /// MQTT bytes, in order, cut anywhere.
    fn stream(&mut self, turn: &mut Turn<'_>, id: ConnectionId, bytes: &[u8]) {
        let Some(connection) = self.connection(id) else {
            return;
        };
        let Some(mut partial) = connection.link.partial.take() else {
            let stalled = connection.link.stalled;
            let consumed = if stalled {
                0
            } else {
                self.packets(turn, id, bytes)
            };
            if consumed < bytes.len() {
                self.keep(turn, id, Box::new(bytes[consumed..].to_vec()));
            }
            return;
        };
        turn.stats.partial_bytes -= partial.len() as u64;
        partial.extend_from_slice(bytes);
        let consumed = if connection.link.stalled {
            0
        } else {
            self.packets(turn, id, &partial)
        };
        if consumed < partial.len() {
            if consumed > 0 {
                // A few bytes behind a large packet do not keep its whole buffer.
                *partial = partial[consumed..].to_vec();
            }
            self.keep(turn, id, partial);
        }
    }

    /// Handles the complete packets at the start of `bytes`; returns how many bytes they had.
    fn packets(&mut self, turn: &mut Turn<'_>, id: ConnectionId, bytes: &[u8]) -> usize {
        let mut consumed = 0;
        loop {
            let frame = match next_frame(&bytes[consumed..], turn.facts.limits.packet_bytes_max) {
                Ok(Some(frame)) => frame,
                Ok(None) => return consumed,
                Err(violation) => {
                    self.violated(turn, id, violation);
                    return bytes.len();
                }
            };
            let Some(connection) = self.connection(id) else {
                return bytes.len();
            };
            let flow = match connection.state {
                State::AwaitConnect(_) | State::Judged(_) => self.first_packet(turn, id, frame),
                State::Exchanging(_) => self.exchange(turn, id, frame),
                State::Authenticating(_) | State::Attaching(_) => Flow::Stall,
                State::Live(_) => self.packet(turn, id, frame),
                State::Closing => Flow::Closed,
            };
            match flow {
                Flow::Continue => {
                    turn.stats.counters.packets_received += 1;
                    consumed += frame.length;
                }
                Flow::Stall => {
                    self.stall(turn, id);
                    return consumed;
                }
                Flow::Closed => return bytes.len(),
            }
        }
    }

    /// Stops reading from a connection.
    fn stall(&mut self, turn: &mut Turn<'_>, id: ConnectionId) {
        let Some(connection) = self.connection(id) else {
            return;
        };
        if !connection.link.stalled {
            connection.link.stalled = true;
            turn.stats.counters.pauses += 1;
            turn.outbox.orders.push(Order::Pause(id));
        }
    }

    /// Handles what a stalled connection had sent, and reads from it again unless it stalls again.
    fn resume(&mut self, turn: &mut Turn<'_>, id: ConnectionId) {
        let Some(connection) = self.connection(id) else {
            return;
        };
        if !connection.link.stalled {
            return;
        }
        connection.link.stalled = false;
        self.stream(turn, id, &[]);
        self.resume_streams(turn, id);
        if let Some(connection) = self.connection(id)
            && !connection.link.stalled
        {
            turn.outbox.orders.push(Order::Resume(id));
        }
    }

    /// Notes that a connection waits for a bound of the core, once.
    fn wait_for_core(&mut self, id: ConnectionId) {
        let Some(connection) = self.connection(id) else {
            return;
        };
        if !connection.link.waits {
            connection.link.waits = true;
            self.stalled.push_back(id);
        }
    }

    /// True when connections wait for a bound of the core that is not reached any more.
    pub fn has_stalled(&self, stats: &Stats, limits: &Limits) -> bool {
        !self.stalled.is_empty() && stats.pending_bytes <= limits.pending_bytes_max as u64
    }

    /// Lets connections go on that had to stop because of a bound of the core; called at the end of each turn.
    pub fn resume_stalled(&mut self, turn: &mut Turn<'_>) {
        const PER_TURN: usize = 64;
        for _ in 0..self.stalled.len().min(PER_TURN) {
            if Self::is_overloaded(turn) {
                return;
            }
            let Some(id) = self.stalled.pop_front() else {
                return;
            };
            if let Some(connection) = self.connection(id) {
                connection.link.waits = false;
                self.resume(turn, id);
            }
        }
    }

    /// True when a bound of the core says that no further QoS ≥ 1 publish may be taken.
    fn is_overloaded(turn: &Turn<'_>) -> bool {
        turn.congestion.congested
            || turn.stats.pending_bytes > turn.facts.limits.pending_bytes_max as u64
    }

    /// The peer broke a rule: it is told why, and the connection ends.
    fn violated(&mut self, turn: &mut Turn<'_>, id: ConnectionId, violation: Violation) {
        turn.stats.counters.protocol_violations += 1;
        turn.outbox.violations.push((id, violation));
        let Some(connection) = self.connection(id) else {
            return;
        };
        if connection.state.is_arriving() {
            turn.stats.counters.connects_refused += 1;
            return self.abandon(turn, id);
        }
        self.leave(turn, id, Leave::violation(violation));
    }

    /// Closes a connection that has no session and to which nothing more is said.
    fn abandon(&mut self, turn: &mut Turn<'_>, id: ConnectionId) {
        let Some(connection) = self.connection(id) else {
            return;
        };
        connection.close_state(turn);
        connection.link.close(turn);
        self.forget_partial(turn, id);
    }

    /// Everything written to the connection has been sent.
    pub fn drained(&mut self, turn: &mut Turn<'_>, id: ConnectionId) {
        let Some(connection) = self.connection(id) else {
            return;
        };
        connection.link.unsent = 0;
        connection.link.watched = false;
        self.pump(turn, id);
        self.resume(turn, id);
    }

    /// The peer has closed its side.
    pub fn peer_closed(&mut self, turn: &mut Turn<'_>, id: ConnectionId) {
        self.leave(turn, id, Leave::lost());
    }

    /// The connection is gone.
    pub fn closed(&mut self, turn: &mut Turn<'_>, id: ConnectionId) {
        if self.connection(id).is_none() {
            return;
        }
        self.depart_if_live(turn, id, Leave::lost());
        if let Some(mut connection) = self.connections.remove(id) {
            connection.close_state(turn);
            self.count -= 1;
            turn.stats.counters.connections_closed += 1;
            // Who waited for a bound stays in the list, which is looked through only when most of it may be gone.
            if self.stalled.len() as u64 > 2 * self.count + STALLED_GONE_MAX {
                let connections = &mut self.connections;
                self.stalled.retain(|id| connections.get_mut(*id).is_some());
            }
            if let Some(timer) = connection.link.timer.take() {
                turn.timers.cancel(timer);
            }
            self.hoarders.remove(&id);
            self.strangers.remove(&id);
            turn.stats.partial_bytes -= connection.link.drop_kept() as u64;
        }
    }

    /// The client has not sent CONNECT in time, or has not proved who it is.
    pub fn connect_timeout(&mut self, turn: &mut Turn<'_>, id: ConnectionId) {
        let Some(connection) = self.connection(id) else {
            return;
        };
        connection.link.timer = None;
        if connection.state.is_arriving() {
            turn.stats.counters.connect_timeouts += 1;
            self.abandon(turn, id);
        }
    }

    /// Time to look whether the client was silent for more than one and a half times its keep-alive (MQTT-3.1.2-22).
    pub fn keep_alive(&mut self, turn: &mut Turn<'_>, id: ConnectionId) {
        let Some(connection) = self.connection(id) else {
            return;
        };
        let link = &mut connection.link;
        link.timer = None;
        let State::Live(session) = &mut connection.state else {
            return;
        };
        if link.stalled && !link.watched {
            link.last_seen_ms = turn.now.mono_ms; // What it sent meanwhile is not read, by our choice.
        }
        let due = link.last_seen_ms + session.keep_alive_limit_ms();
        if due > turn.now.mono_ms {
            session.relax(turn);
            let look_at = session.keep_alive_look_ms(due);
            link.timer = Some(turn.timers.arm(look_at, Timer::KeepAlive(id)));
        } else {
            turn.stats.counters.keep_alive_timeouts += 1;
            self.leave(turn, id, Leave::because(ReasonCode::KeepAliveTimeout));
        }
    }

    /// Open connections and connected sessions.
    pub fn counts(&self) -> (u64, u64) {
        (self.count, self.live)
    }

    /// Ends all connections because the node stops.
    pub fn shut_down(&mut self, turn: &mut Turn<'_>) {
        let ids: Vec<ConnectionId> = self.connections.ids().collect();
        for id in ids {
            self.leave(turn, id, Leave::because(ReasonCode::ServerShuttingDown));
        }
    }

    fn connection(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        self.connections.get_mut(id)
    }

    fn live(&mut self, id: ConnectionId) -> Option<(&mut Link, &mut Session)> {
        let connection = self.connection(id)?;
        match &mut connection.state {
            State::Live(session) => Some((&mut connection.link, session)),
            _ => None,
        }
    }
}

/// How long the driver waits for a closing peer.
fn graceful(turn: &Turn<'_>) -> Close {
    Close::Graceful {
        linger_ms: turn.facts.limits.linger_ms,
    }
}

/// True for versions that know DISCONNECT from the server and reason codes.
fn tells_reasons(version: Version) -> bool {
    version == Version::V5
}
