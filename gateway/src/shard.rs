//! One core's whole state, and the one way in: [`Shard::handle`]. Pure: no clock, no socket, no thread.
//!
//! Each event is handled to its end, and so is every message it causes on this core, before `handle` returns. What leaves
//! the core is in the [`Outbox`].

mod dispatch;
mod views;

use std::net::SocketAddr;
use std::sync::Arc;

use reactor::driver::ConnectionId;
use reactor::wheel::Wheel;

use dispatch::{completed, dispatch, fire};
use views::is_of_claim;

use crate::access::policy::{Policy, Verdict};
use crate::admin::AdminRequest;
use crate::core_message::{CoreMessage, Presence, SubscribeRequest, Subscriber, Target};
use crate::edge::Edge;
use crate::engine::{Completion, Restored, Token};
use crate::handover::{Handover, Speaker};
use crate::home::Home;
use crate::message::Message;
use crate::metrics::{CoreSnapshot, DropReason, HandoverSample};
use crate::outbox::Outbox;
use crate::owner::Owner;
use crate::ownership::Ownership;
use crate::tls;
use crate::turn::{Congestion, Facts, Now, SessionIds, Stats, Timer, Turn, Unanswered};

/// What happens to a core. It cannot be shown: bytes of clients may be passwords.
pub enum Event<'a> {
    /// A listener accepted a connection.
    Accepted {
        /// The connection.
        connection: ConnectionId,
        /// How it came in.
        arrival: Arrival,
    },
    /// Bytes arrived. They are changed in place (WebSocket masks).
    Received {
        /// From whom.
        connection: ConnectionId,
        /// The bytes.
        bytes: &'a mut [u8],
    },
    /// The client of a QUIC connection opened its first data stream.
    StreamsOpened(ConnectionId),
    /// Bytes arrived on a data stream, which is not read before [`ForStream::Admit`](crate::outbox::ForStream::Admit).
    StreamReceived {
        /// From whom.
        connection: ConnectionId,
        /// On which stream.
        number: u64,
        /// The bytes.
        bytes: &'a [u8],
    },
    /// Nothing more will come on a data stream.
    StreamEnded {
        /// Whose it is.
        connection: ConnectionId,
        /// Which stream.
        number: u64,
    },
    /// Everything written to a watched connection was sent.
    Drained(ConnectionId),
    /// The peer closed its side.
    PeerClosed(ConnectionId),
    /// The connection is gone.
    Closed(ConnectionId),
    /// A message from another core, with its number.
    Core(u16, CoreMessage),
    /// In a cluster: this view holds from now on. The first one comes before anything else.
    View(Arc<Ownership>),
    /// An answer of the engine.
    Engine(Completion),
    /// A question of an operator, to be answered under this number.
    Admin(u64, AdminRequest),
    /// The answer to a question about a client.
    Verdict(Verdict),
    /// This holds for every client from now on, those that are connected included.
    Policy(Arc<Policy>),
    /// Time has passed; due timers fire. Also tells whether another core or the engine takes no more.
    Tick(Congestion),
    /// So many clients are to go to other servers.
    SendElsewhere {
        /// How many.
        clients: usize,
        /// Servers that they can be told of.
        servers: &'a [Box<str>],
    },
    /// The node stops: clients are told.
    Stop,
}

/// How a connection came in.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// True for a WebSocket listener.
    pub websocket: bool,
    /// True for TLS and QUIC.
    pub secure: bool,
    /// Where it comes from.
    pub peer: SocketAddr,
    /// The certificate that the client showed, verified.
    pub certificate: Option<Arc<tls::Identity>>,
}

impl Arrival {
    /// A connection without TLS.
    pub fn plain(websocket: bool, peer: SocketAddr) -> Self {
        Self {
            websocket,
            secure: false,
            peer,
            certificate: None,
        }
    }
}

/// Which role an engine token belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum TokenRole {
    /// Nobody waits.
    Nobody = 0,
    /// The owner role.
    Owner = 1,
    /// The home role.
    Home = 2,
    /// The hand-over of partitions.
    Claim = 3,
}

/// The engine token of a role's request: role (8 bits), number (56 bits).
pub fn token(role: TokenRole, number: u64) -> Token {
    debug_assert!(number < 1 << 56);
    Token((role as u64) << 56 | number)
}

fn role_of(token: Token) -> (TokenRole, u64) {
    let role = match token.0 >> 56 {
        1 => TokenRole::Owner,
        2 => TokenRole::Home,
        3 => TokenRole::Claim,
        _ => TokenRole::Nobody,
    };
    (role, token.0 & ((1 << 56) - 1))
}

/// One core: edge, owner and home.
#[derive(Debug)]
pub struct Shard {
    pub(crate) edge: Edge,
    pub(crate) owner: Owner,
    pub(crate) home: Home,
    common: Common,
    /// Of a node in a cluster.
    handover: Option<Box<Handover>>,
}

/// What all roles of a core use.
#[derive(Debug)]
struct Common {
    facts: Facts,
    stats: Stats,
    timers: Wheel<Timer>,
    ids: SessionIds,
    congestion: Congestion,
    policy: Arc<Policy>,
    ownership: Arc<Ownership>,
    unanswered: Unanswered,
}

impl Common {
    fn turn<'a>(&'a mut self, now: Now, outbox: &'a mut Outbox) -> Turn<'a> {
        Turn {
            now,
            outbox,
            facts: &self.facts,
            stats: &mut self.stats,
            timers: &mut self.timers,
            ids: &mut self.ids,
            unanswered: &mut self.unanswered,
            congestion: self.congestion,
            policy: &self.policy,
            ownership: &self.ownership,
        }
    }
}

impl Shard {
    /// Timers handled in one tick; the rest fires in the next.
    const TIMERS_PER_TICK: usize = 1024;

    /// A core without connections and sessions. `boot` counts the starts of the store of a node alone.
    pub fn new(
        facts: Facts,
        ownership: Arc<Ownership>,
        policy: Arc<Policy>,
        boot: u32,
        now: Now,
    ) -> Self {
        let handover = ownership
            .is_clustered()
            .then(|| Box::new(Handover::new(facts.core)));
        let ids = if ownership.is_clustered() {
            SessionIds::in_cluster(ownership.joined(), facts.core)
        } else {
            SessionIds::new(boot, facts.core)
        };
        Self {
            handover,
            edge: Edge::default(),
            owner: Owner::new(facts.seed),
            home: Home::new(facts.seed, &facts.limits),
            common: Common {
                ids,
                unanswered: Unanswered::default(),
                facts,
                stats: Stats::default(),
                timers: Wheel::new(now.mono_ms),
                congestion: Congestion::default(),
                policy,
                ownership,
            },
        }
    }

    /// Handles one event and everything that it causes on this core.
    pub fn handle(&mut self, now: Now, event: Event<'_>, outbox: &mut Outbox) {
        match event {
            Event::Core(from, message) => self.core_message(now, from, message, outbox),
            Event::View(ownership) => self.view(now, ownership, outbox),
            Event::Policy(policy) => self.set_policy(policy),
            event => self.handle_role(now, event, outbox),
        }
    }

    fn set_policy(&mut self, policy: Arc<Policy>) {
        let new_rules = !policy.has_rules_of(&self.common.policy);
        self.common.policy = policy;
        if new_rules {
            self.edge.begin_review();
        }
        self.home.begin_review(new_rules);
    }

    /// What concerns one of the roles.
    fn handle_role(&mut self, now: Now, event: Event<'_>, outbox: &mut Outbox) {
        if let Event::Tick(congestion) = event {
            self.common.congestion = congestion;
        }
        let is_tick = matches!(event, Event::Tick(_));
        let mut turn = self.common.turn(now, outbox);
        match event {
            Event::Accepted {
                connection,
                arrival,
            } => self.edge.accepted(&mut turn, connection, arrival),
            Event::Received { connection, bytes } => {
                self.edge.received(&mut turn, connection, bytes);
            }
            Event::StreamsOpened(connection) => self.edge.streams_opened(&mut turn, connection),
            Event::StreamReceived {
                connection,
                number,
                bytes,
            } => self
                .edge
                .stream_received(&mut turn, connection, number, bytes),
            Event::StreamEnded { connection, number } => {
                self.edge.stream_ended(&mut turn, connection, number);
            }
            Event::Drained(connection) => self.edge.drained(&mut turn, connection),
            Event::PeerClosed(connection) => self.edge.peer_closed(&mut turn, connection),
            Event::Closed(connection) => self.edge.closed(&mut turn, connection),
            Event::Engine(completion) if is_of_claim(&completion) => {
                return self.claim_answered(now, completion, outbox);
            }
            Event::Engine(completion) => {
                completed(&mut self.owner, &mut self.home, &mut turn, completion);
            }
            Event::Admin(id, request) => return self.answer(now, outbox, id, request),
            Event::Tick(_) => {
                fire(&mut self.edge, &mut self.owner, &mut self.home, &mut turn);
                self.edge.resume_stalled(&mut turn);
                if self
                    .handover
                    .as_ref()
                    .is_none_or(|handover| handover.is_serving())
                {
                    self.owner.settle_orphans(&mut turn);
                }
                self.owner.serve_scans(&mut turn);
                self.owner.sweep_retained(&mut turn);
                self.home.resume_scans(&mut turn);
                self.home.resume_connects(&mut turn);
                self.edge.review(&mut turn);
                self.home.review(&mut turn);
            }
            Event::Verdict(verdict) => self.edge.judged(&mut turn, verdict),
            // Taken above; a turn has one policy.
            Event::Core(..) | Event::View(_) | Event::Policy(_) => {}
            Event::SendElsewhere { clients, servers } => {
                self.edge.send_elsewhere(&mut turn, clients, servers);
            }
            Event::Stop => self.edge.shut_down(&mut turn),
        }
        self.settle(now, outbox);
        if is_tick {
            self.home.forget_inherited(now.mono_ms);
            self.claim_again(now, outbox);
        }
    }

    /// Handles the messages of this core's roles to each other until there are none.
    fn settle(&mut self, now: Now, outbox: &mut Outbox) {
        while let Some(message) = outbox.local.pop_front() {
            let here = self.common.facts.core;
            self.handle_message(now, here, message, outbox);
        }
    }

    /// Hands a message to its role, if it may be handled now.
    fn handle_message(&mut self, now: Now, from: u16, message: CoreMessage, outbox: &mut Outbox) {
        let Some(message) = self.pass_gate(now, from, message, outbox) else {
            return;
        };
        let epoch = self.handover.as_ref().map_or(0, |it| it.epoch_of(from));
        let from = Speaker { core: from, epoch };
        let mut turn = self.common.turn(now, outbox);
        dispatch(
            (&mut self.edge, &mut self.owner, &mut self.home),
            &mut turn,
            from,
            message,
        );
    }

    /// Answers an operator; an order that must travel is answered when it has.
    fn answer(&mut self, now: Now, outbox: &mut Outbox, id: u64, request: AdminRequest) {
        let mut turn = self.common.turn(now, outbox);
        let reply = crate::admin::answer(
            &self.edge,
            &mut self.owner,
            &mut self.home,
            &mut turn,
            id,
            request,
        );
        if let Some(reply) = reply {
            outbox.admin.push((id, reply));
        }
        self.settle(now, outbox);
    }

    /// Takes over one item of the store, before the first event. `home` is the partition of its session's home (any
    /// for what belongs to no session of a client). An item that does not concern this core is ignored.
    pub fn restore(&mut self, now: Now, item: &Restored, home: u16, outbox: &mut Outbox) {
        let mut turn = self.common.turn(now, outbox);
        match item {
            Restored::Session {
                session,
                record,
                mailbox,
                ..
            } if session.is_group_queue() => {
                let filter = &record.client_id;
                let depths = &turn.facts.root_depths;
                let core = turn.ownership.core_of_queue(depths, *session, filter);
                if core == turn.facts.core {
                    self.owner
                        .restore_queue(&mut turn, *session, filter, mailbox.messages);
                }
            }
            Restored::Session {
                session,
                record,
                mailbox,
                received,
            } => {
                if turn.ownership.core_of(home) == turn.facts.core {
                    self.home.restore_session(
                        &mut turn,
                        *session,
                        record.clone(),
                        *mailbox,
                        received.clone(),
                    );
                }
            }
            Restored::Subscription {
                session,
                filter,
                record,
            } => {
                self.home.restore_subscription(*session, filter);
                if turn.owners_of_filter(filter).contains(&turn.facts.core) {
                    let target = Target::Home { partition: home };
                    let request = SubscribeRequest {
                        filter: filter.clone(),
                        // It is judged when its client comes back.
                        subscriber: Subscriber::new(*session, target, *record),
                        presence: Presence {
                            connected: false,
                            load: 0,
                        },
                        reply: None,
                    };
                    self.owner.subscribe(&mut turn, request);
                }
            }
            Restored::Route { .. } => {} // Of a store that nodes share.
            Restored::Retained { message } => {
                if turn.owner_of_topic(message.topic()) == turn.facts.core {
                    self.owner.restore_retained(message.clone());
                }
            }
        }
    }

    /// When the next tick is due, in milliseconds of the monotonic clock: at once while work is left for it.
    pub fn next_deadline_ms(&self) -> Option<u64> {
        let work = self.owner.has_scans()
            || self.home.has_parked_scans()
            || self.home.has_waiting_connects()
            || self.edge.is_reviewing()
            || self.home.is_reviewing()
            || self
                .edge
                .has_stalled(&self.common.stats, &self.common.facts.limits);
        if work && !self.common.congestion.congested {
            return Some(0);
        }
        let handover = self.handover.as_ref();
        let patience = handover.and_then(|handover| handover.deadline_ms());
        let timers = self.common.timers.next_deadline();
        timers.into_iter().chain(patience).min()
    }

    /// A consistent copy of all counters; the driver's are added by the event loop.
    pub fn snapshot(&self) -> CoreSnapshot {
        snapshot(&self.edge, &self.owner, &self.home, &self.common.stats)
    }

    /// The counters of this core, for what the event loop counts.
    pub fn stats_mut(&mut self) -> &mut Stats {
        &mut self.common.stats
    }

    /// Who may come in and do what, at the moment.
    pub fn policy(&self) -> &Policy {
        &self.common.policy
    }

    /// Who owns what, at the moment.
    pub fn ownership(&self) -> &Arc<Ownership> {
        &self.common.ownership
    }

    /// The view that holds, once this core serves all that is its own in it and no other core waits for what it had; `None` before, and in
    /// a node alone.
    pub fn served_epoch(&self) -> Option<u64> {
        let handover = self.handover.as_ref()?;
        handover.is_serving().then(|| handover.epoch())
    }

    /// How far this core is with its partitions; `None` in a node alone.
    pub fn handover_sample(&self, now: Now) -> Option<HandoverSample> {
        let handover = self.handover.as_ref()?;
        Some(handover.sample(now.mono_ms))
    }

    /// The facts of this core.
    pub fn facts(&self) -> &Facts {
        &self.common.facts
    }

    /// Notes that a message to another core was dropped because that core takes no more.
    pub fn dropped_in_mesh(&mut self, message: &CoreMessage) {
        self.common
            .stats
            .refuse(DropReason::MeshFull, message.deliveries());
        self.common.stats.counters.publishes_dropped +=
            u64::from(matches!(message, CoreMessage::Publish(_)));
    }
}

/// Counters and gauges of a core.
pub(crate) fn snapshot(edge: &Edge, owner: &Owner, home: &Home, stats: &Stats) -> CoreSnapshot {
    let (connections, sessions_connected) = edge.counts();
    CoreSnapshot {
        counters: stats.counters.clone(),
        dropped: stats.dropped,
        turned_away: stats.turned_away,
        deliveries_queued: stats.queued,
        queued_bytes: stats.queued_bytes,
        pending_bytes: stats.pending_bytes,
        connections,
        sessions_connected,
        sessions: home.directory().count() as u64,
        sessions_offline: home.offline(),
        subscriptions: owner.subscriptions.count(),
        retained_messages: owner.retained().count() as u64,
        retained_bytes: owner.retained().bytes() as u64,
        group_queue_messages: owner.queued_in_groups(),
        hottest_roots: owner.hottest_roots(),
        driver: reactor::driver::DriverCounters::default(),
        newcomers: crate::event_loop::NewcomersSample::default(),
        tls: None,
        quic: None,
        bus: None,
        handover: None,
    }
}

/// A message that the node makes itself.
pub(crate) fn internal_message(
    topic: &str,
    payload: &[u8],
    qos: edge_proto::packet::QoS,
    retain: bool,
) -> Arc<Message> {
    Arc::new(Message::new(crate::message::MessageParts {
        topic,
        properties: &[],
        payload,
        qos,
        retain,
        expires_at_unix_ms: u64::MAX,
        publisher: crate::message::SessionId(0),
    }))
}
