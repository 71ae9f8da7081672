//! The home role: the one place that knows the sessions of its users. It gives each client id one connection, holds the
//! mailboxes of durable sessions, their wills and their end.
//!
//! ```text
//!            ┌────────────── next CONNECT: Evict ──────────────┐
//!            ▼                                                 │
//! Offline ─attach─▶ (Deleting ─▶) (Storing ─▶) Attached ──────▶ Evicting
//!    ▲                                            │               │
//!    └───────────────── Detach ───────────────────┴───────────────┘
//! ```
//!
//! A CONNECT that waits is in `next`; a newer one replaces it, and the older is told that its session was taken over.

mod answers;
mod directory;
mod flapping;
mod handover;
mod inherited;
mod lifetime;
mod mailbox;
mod review;
mod subscribe;
mod waiting;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

use edge_proto::reason::ReasonCode;
use foldhash::fast::FixedState;
use hashbrown::HashMap;
use reactor::driver::ConnectionId;
use reactor::slab::{Key, Slab};
use reactor::wheel::TimerKey;

use crate::access::Identity;
use crate::access::flap::FlapGuard;
use crate::core_message::{
    Attach, Attached, AttachedSession, CoreMessage, Detach, Origin, Presence, load_level,
};
use crate::engine::claim::{MessageId, ReceivedId};
use crate::engine::{Command, SessionRecord, WillRecord};
use crate::limits::Limits;
use crate::message::{Message, SessionId};
use crate::retained_scan::Scan;
use crate::shard::{TokenRole, token};
use crate::turn::{Turn, is_shared};

pub use directory::Directory;
use inherited::Inherited;
use mailbox::Mailbox;
use subscribe::SubscriptionOp;
use waiting::Waiting;

/// State of the home role on one core.
#[derive(Debug)]
pub struct Home {
    sessions: Directory,
    /// Durable sessions by id, for what the engine and the owners say.
    durable: HashMap<SessionId, Key, FixedState>,
    requests: HashMap<u64, Request, FixedState>,
    next_request: u64,
    operations: Slab<SubscriptionOp>,
    /// How many of them only look.
    looking: u32,
    scans: Slab<Scan<(Key, SessionId)>>,
    /// Scans whose next page waits until the engine takes commands again; at most one entry for each scan.
    parked_scans: VecDeque<Key>,
    /// CONNECTs that wait until the engine takes commands again.
    waiting: Waiting,
    /// Sessions that are to be held against new bans.
    to_ban: Vec<Key>,
    /// Sessions that are to be judged under new rules.
    to_review: Vec<Key>,
    /// Durable sessions that have a connection.
    attached_durable: u64,
    /// Who connects again and again; `None` when nobody cares.
    flapping: Option<FlapGuard>,
    /// Subscriptions made and removed so far.
    operations_begun: u64,
    /// Sessions that came with a partition, and whether they had a connection as far as the engine knew.
    loaded: Vec<(Key, bool)>,
    /// Clients without a session here who wanted in while far more did than can be taken.
    strangers: u32,
    /// Durable subscriptions that came with a partition.
    inherited: Inherited,
}

/// One session.
#[derive(Debug)]
pub struct HomeSession {
    client_id: Box<str>,
    session: SessionId,
    phase: Phase,
    /// The newest CONNECT that waits for the phase to end.
    next: Option<Box<Attach>>,
    /// What to publish if the connection is lost, or once its delay is over.
    will: Option<Box<WillRecord>>,
    durable: Option<Box<Durable>>,
    peer: SocketAddr,
    /// Who has proved to be its client. Of a session from the store only the user is known.
    identity: Option<Arc<Identity>>,
}

const _: () = assert!(
    size_of::<HomeSession>() <= 112,
    "a directory entry is small: there is one for every session"
);

/// Which connection a session has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Offline,
    Attached(Edge),
    /// Its edge was told to end the connection.
    Evicting(Edge),
    /// The engine is storing the session, a new one or what changed with a CONNECT.
    Storing,
    /// The engine is deleting the session.
    Deleting,
}

/// A connection at an edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Edge {
    core: u16,
    connection: ConnectionId,
}

impl Edge {
    fn of(attach: &Attach) -> Self {
        Self {
            core: attach.core,
            connection: attach.connection,
        }
    }
}

/// What only a durable session has.
#[derive(Debug, Default)]
struct Durable {
    expiry_s: u32,
    disconnected_at_unix_ms: Option<u64>,
    /// When the will is due, in milliseconds of Unix time.
    will_at_unix_ms: Option<u64>,
    timer: Option<TimerKey>,
    subscriptions: u32,
    /// Its shared subscriptions, whose owners hear when it comes and goes, and how busy it is.
    shared: Vec<Box<str>>,
    /// What they heard last while it was connected.
    load: u8,
    /// True when its subscriptions were judged since the node started.
    reviewed: bool,
    /// True when an owner was told that the rules allow one of its subscriptions less than the highest QoS.
    limited: bool,
    /// True when a subscription was taken from it and what that one brought may still be in the mailbox: what is read from it is judged.
    suspect: bool,
    /// QoS 2 packet identifiers received and not released; in a node alone, while it is not connected.
    received: Vec<ReceivedId>,
    mailbox: Mailbox,
}

/// What an answer of the engine is for.
#[derive(Clone, Copy, Debug)]
enum Request {
    Stored(Key),
    Resumed(Key),
    Deleted(Key),
    PubRec {
        edge: Edge,
        sequence: u64,
    },
    Release {
        key: Key,
        edge: Edge,
        packet_id: u16,
    },
    Receive {
        key: Key,
        edge: Edge,
    },
    Append {
        core: u16,
        publish: u64,
    },
    Read {
        key: Key,
        read: u32,
    },
    Subscription(Key),
    Review(Key),
}

impl Home {
    /// A home without sessions. The seed makes its hash tables unpredictable.
    pub fn new(seed: u64, limits: &Limits) -> Self {
        let guard = |policy| FlapGuard::new(limits.flapping_clients_max, policy, seed);
        Self {
            flapping: limits.flapping.map(guard),
            sessions: Directory::new(seed),
            durable: HashMap::default(),
            requests: HashMap::default(),
            next_request: 0,
            operations: Slab::default(),
            looking: 0,
            scans: Slab::default(),
            parked_scans: VecDeque::new(),
            waiting: Waiting::default(),
            to_ban: Vec::new(),
            to_review: Vec::new(),
            attached_durable: 0,
            operations_begun: 0,
            loaded: Vec::new(),
            strangers: 0,
            inherited: Inherited::default(),
        }
    }

    /// A CONNECT gets this client id, once the one that has it is gone.
    fn admit(&mut self, turn: &mut Turn<'_>, attach: Attach) {
        let user = attach.user();
        let key = match self.sessions.find(user, &attach.client_id) {
            Some(key) => key,
            None if self.sessions.count() >= turn.facts.limits.sessions_max => {
                return refuse(turn, &attach, ReasonCode::QuotaExceeded);
            }
            None => self.sessions.insert(HomeSession {
                client_id: attach.client_id.clone(),
                session: SessionId(0), // Given when it begins.
                phase: Phase::Offline,
                next: None,
                will: None,
                durable: None,
                peer: attach.peer,
                identity: attach.identity.clone(),
            }),
        };
        let session = self.sessions.get_mut(key).expect("found or just made");
        let edge = Edge::of(&attach);
        let older = session.next.replace(Box::new(attach));
        // After a view a connection asks again.
        if let Some(older) = older.filter(|older| Edge::of(older) != edge) {
            refuse(turn, &older, ReasonCode::SessionTakenOver);
        }
        match session.phase {
            Phase::Attached(known) if known == edge => {
                self.take_back(turn, key, 0); // It asks again after a view, and has not heard the answer.
                self.advance(turn, key);
            }
            Phase::Attached(_) => self.evict(turn, key, ReasonCode::SessionTakenOver),
            Phase::Offline => self.advance(turn, key),
            Phase::Evicting(_) | Phase::Storing | Phase::Deleting => {}
        }
    }

    /// Gives an offline session to the CONNECT that waits for it, after the engine has done what it must.
    fn advance(&mut self, turn: &mut Turn<'_>, key: Key) {
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        debug_assert_eq!(session.phase, Phase::Offline);
        let Some(attach) = session.next.as_deref() else {
            if session.durable.is_none() {
                self.sessions.remove(key);
            }
            return;
        };
        let is_its_own = session.session == attach.session;
        match &session.durable {
            Some(durable)
                if attach.clean_start && !is_its_own || durable.is_expired(turn.now.unix_ms) =>
            {
                self.delete(turn, key);
            }
            Some(_) => self.resume(turn, key),
            None if attach.expiry_s > 0 => {
                session.session = attach.session;
                session.durable = Some(Box::new(Durable {
                    expiry_s: attach.expiry_s,
                    reviewed: true,
                    ..Durable::default()
                }));
                session.will = attach.will.clone().map(Box::new);
                session.phase = Phase::Storing;
                self.durable.insert(session.session, key);
                self.put(turn, key, Some(Request::Stored(key)));
            }
            None => {
                session.session = attach.session;
                self.connect(turn, key, false);
            }
        }
    }

    /// A durable session continues on a new connection.
    fn resume(&mut self, turn: &mut Turn<'_>, key: Key) {
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        let (Some(durable), Some(attach)) = (&mut session.durable, &session.next) else {
            return;
        };
        let lives_longer = attach.expiry_s > durable.expiry_s;
        let will_changed = attach.will.is_some() && session.will.as_deref() != attach.will.as_ref();
        let was_offline = durable.disconnected_at_unix_ms.take().is_some();
        durable.expiry_s = attach.expiry_s;
        durable.will_at_unix_ms = None; // The session went on before the delay was over: no will (MQTT-3.1.3-9).
        if let Some(timer) = durable.timer.take() {
            turn.timers.cancel(timer);
        }
        session.will = attach.will.clone().map(Box::new);
        if lives_longer || will_changed {
            // What CONNACK promises must not be forgotten in a crash.
            session.phase = Phase::Storing;
            return self.put(turn, key, Some(Request::Resumed(key)));
        }
        if was_offline {
            self.put(turn, key, None);
        }
        self.connect(turn, key, true);
    }

    /// The session now belongs to the connection that waited for it.
    fn connect(&mut self, turn: &mut Turn<'_>, key: Key, present: bool) {
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        let Some(attach) = session.next.take() else {
            return;
        };
        let now_unix_ms = turn.now.unix_ms;
        let (peer, user) = (attach.peer.ip(), attach.user());
        if turn
            .policy
            .ban(peer, &attach.client_id, user, now_unix_ms)
            .is_some()
        {
            refuse(turn, &attach, ReasonCode::Banned); // It was banned while it waited.
            return self.leave_offline(turn, key);
        }
        if !turn.ownership.has_core(attach.core) {
            return self.leave_offline(turn, key); // Its node went while it waited.
        }
        let edge = Edge::of(&attach);
        let present = present && session.session != attach.session;
        session.phase = Phase::Attached(edge);
        let unruled = |peer: SocketAddr| turn.policy.unruled.contain(peer.ip());
        let is_other = !Identity::is_same(&session.identity, &attach.identity)
            || unruled(session.peer) != unruled(attach.peer);
        session.peer = attach.peer;
        session.identity = attach.identity;
        session.will = attach.will.map(Box::new);
        let received =
            session
                .durable
                .as_mut()
                .map(|durable| match turn.ownership.is_clustered() {
                    true => durable.received.clone(), // Its home may hear of no end of the connection.
                    false => std::mem::take(&mut durable.received),
                });
        let outcome = Ok(AttachedSession {
            session: session.session,
            home: key,
            home_core: turn.facts.core,
            present,
            durable: received.is_some(),
            received: received.unwrap_or_default(),
            subscriptions: session
                .durable
                .as_ref()
                .map_or(0, |durable| durable.subscriptions),
        });
        let attached = Attached {
            connection: edge.connection,
            asked: attach.asked,
            outcome,
        };
        turn.outbox
            .tell(edge.core, CoreMessage::Attached(Box::new(attached)));
        if let Some(durable) = &mut session.durable {
            durable.tell_presence(turn, session.session, true);
            durable.mailbox.attach();
            self.attached_durable += 1;
            if is_other || !durable.reviewed {
                self.review_subscriptions(turn, key);
            }
            self.pump(turn, key);
        }
    }

    /// The client that a session was made ready for does not get it.
    fn leave_offline(&mut self, turn: &mut Turn<'_>, key: Key) {
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        session.phase = Phase::Offline;
        session.will = None;
        let Some(durable) = &mut session.durable else {
            return self.advance(turn, key);
        };
        durable.disconnected_at_unix_ms = Some(turn.now.unix_ms);
        self.put(turn, key, None);
        self.arm(turn, key);
    }

    /// A connection has ended.
    #[must_use]
    pub fn detach(&mut self, turn: &mut Turn<'_>, detach: Detach) -> bool {
        let edge = Edge {
            core: detach.core,
            connection: detach.connection,
        };
        let Some(session) = self.sessions.get_mut(detach.home) else {
            return false;
        };
        if session.phase != Phase::Attached(edge) && session.phase != Phase::Evicting(edge) {
            return false;
        }
        session.phase = Phase::Offline;
        if !detach.will {
            session.will = None;
        }
        match &mut session.durable {
            None => {
                session.publish_will(turn);
                self.advance(turn, detach.home);
            }
            Some(durable) => {
                self.attached_durable -= 1;
                durable.mailbox.detach(detach.sent_to, turn.stats);
                durable.suspect &= durable.mailbox.len() > 0;
                durable.note_received(turn.ownership.is_clustered(), detach.received);
                durable.expiry_s = detach.expiry_s.unwrap_or(durable.expiry_s);
                durable.disconnected_at_unix_ms = Some(turn.now.unix_ms);
                durable.tell_presence(turn, session.session, false);
                self.went_offline(turn, detach.home);
            }
        }
        true
    }

    /// A new session is in the engine. Its CONNECT may have been replaced by one with other wishes.
    fn stored(&mut self, turn: &mut Turn<'_>, key: Key) {
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        // The CONNECT it was made for may have been replaced by one with other wishes; no client has had the session yet.
        let (Some(durable), Some(attach)) = (&mut session.durable, &session.next) else {
            return self.advance(turn, key);
        };
        if turn.ownership.is_clustered() && session.session != attach.session {
            session.will = None;
            return self.delete(turn, key); // It is not called as that one calls it, should it have to ask again.
        }
        let will = attach.will.clone().map(Box::new);
        let changed = durable.expiry_s != attach.expiry_s || session.will != will;
        durable.expiry_s = attach.expiry_s;
        session.will = will;
        if changed {
            // A session that is to end with its connection must not outlive a crash.
            session.phase = Phase::Storing;
            return self.put(turn, key, Some(Request::Stored(key)));
        }
        self.connect(turn, key, false);
    }

    /// The record of a session goes to the engine.
    fn put(&mut self, turn: &mut Turn<'_>, key: Key, then: Option<Request>) {
        let Some(session) = self.sessions.get(key) else {
            return;
        };
        let Some(durable) = &session.durable else {
            return;
        };
        let record = Box::new(SessionRecord {
            client_id: session.client_id.clone(),
            user: session.user().map(Into::into),
            expiry_s: durable.expiry_s,
            disconnected_at_unix_ms: durable.disconnected_at_unix_ms,
            will: session.will.as_deref().cloned(),
        });
        let session = session.session;
        let token = match then {
            Some(request) => self.request(request),
            None => token(TokenRole::Nobody, 0),
        };
        turn.outbox.engine.push_back(Command::PutSession {
            token,
            session,
            record,
        });
    }

    fn request(&mut self, request: Request) -> crate::engine::Token {
        self.next_request += 1;
        self.requests.insert(self.next_request, request);
        token(TokenRole::Home, self.next_request)
    }

    fn is_durable(&self, key: Key) -> bool {
        self.sessions
            .get(key)
            .is_some_and(|session| session.durable.is_some())
    }

    /// Durable sessions that are not connected.
    pub fn offline(&self) -> u64 {
        self.durable.len() as u64 - self.attached_durable
    }

    /// The directory, for metrics and the admin side.
    pub fn directory(&self) -> &Directory {
        &self.sessions
    }
}

impl Durable {
    /// What the edge of an ended connection knows of QoS 2 packet identifiers. In a cluster the home has them all, and learns whose messages
    /// are stored: those must not be sent again under their names, which mailboxes forget.
    fn note_received(&mut self, is_clustered: bool, received: Vec<ReceivedId>) {
        if !is_clustered {
            self.received = received;
            return;
        }
        let is_stored =
            |known: &ReceivedId| received.iter().any(|it| it.packet_id == known.packet_id);
        for known in self.received.iter_mut().filter(|known| is_stored(known)) {
            known.message = MessageId::NONE;
        }
    }

    /// When the session ends, in milliseconds of Unix time; `None` while it is connected or when it never ends.
    fn ends_at_unix_ms(&self) -> Option<u64> {
        let disconnected_at = self.disconnected_at_unix_ms?;
        (self.expiry_s != u32::MAX).then(|| disconnected_at + u64::from(self.expiry_s) * 1000)
    }

    fn is_expired(&self, unix_ms: u64) -> bool {
        self.ends_at_unix_ms().is_some_and(|end| end <= unix_ms)
    }

    /// Notes a new shared subscription, and nothing for any other. Returns what the owners hear of how busy it is.
    fn note_shared(&mut self, filter: &str) -> u8 {
        if self.shared.is_empty() {
            self.load = load_level(self.load, self.mailbox.len()); // Nobody wanted to know so far.
        }
        if is_shared(filter) && self.shared.iter().all(|known| **known != *filter) {
            self.shared.push(filter.into());
        }
        self.load
    }

    /// Tells the owners of its shared subscriptions that it came or went.
    fn tell_presence(&mut self, turn: &mut Turn<'_>, session: SessionId, connected: bool) {
        self.load = load_level(self.load, self.mailbox.len());
        let load = self.load;
        turn.tell_presence(session, &self.shared, Presence { connected, load });
    }

    /// Tells them when it is more or less busy than it was. It is connected: nobody asks how busy others are.
    fn tell_load(&mut self, turn: &mut Turn<'_>, session: SessionId) {
        if !self.shared.is_empty() && self.load != load_level(self.load, self.mailbox.len()) {
            self.tell_presence(turn, session, true);
        }
    }
}

fn refuse(turn: &mut Turn<'_>, attach: &Attach, reason: ReasonCode) {
    let attached = Attached {
        connection: attach.connection,
        asked: attach.asked,
        outcome: Err(reason),
    };
    turn.outbox
        .tell(attach.core, CoreMessage::Attached(Box::new(attached)));
}

/// A connection whose session is not here any more ends.
fn refuse_reattach(turn: &mut Turn<'_>, edge: Edge, reason: ReasonCode) {
    let connection = edge.connection;
    let evict = CoreMessage::Evict {
        home: None,
        connection,
        reason,
    };
    turn.outbox.tell(edge.core, evict);
}

/// Publishes a will; its expiry counts from now.
fn publish_will(turn: &mut Turn<'_>, will: WillRecord) {
    let message: Arc<Message> = match will.message_expiry_s {
        Some(seconds) => Arc::new(
            will.message
                .with_expiry(turn.now.unix_ms + u64::from(seconds) * 1000),
        ),
        None => will.message,
    };
    turn.stats.counters.wills_published += 1;
    turn.publish(message, Origin::Nobody);
}
