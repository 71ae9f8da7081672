//! What every role has at hand during a turn.

use std::collections::BTreeMap;
use std::sync::Arc;

use edge_proto::packet::QoS;
use edge_proto::topic::RootDepths;
use foldhash::fast::FixedState;
use hashbrown::HashMap;
use reactor::driver::ConnectionId;
use reactor::slab::Key;
use reactor::wheel::Wheel;

use crate::access::policy::Policy;
use crate::core_message::{
    CoreMessage, LimitSubscription, Origin, Presence, PublishRequest, SharedPresence,
};
use crate::engine::claim::MessageId;
use crate::limits::Limits;
use crate::message::{Message, SessionId};
use crate::metrics::{Counters, DropReason, TurnedAway};
use crate::outbox::Outbox;
use crate::ownership::Ownership;

/// The time of a turn, read once by the event loop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds since the start of the node, never going back.
    pub mono_ms: u64,
    /// Milliseconds of Unix time.
    pub unix_ms: u64,
}

/// What a timer of the wheel is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timer {
    /// The connection must have sent CONNECT.
    Connect(ConnectionId),
    /// Time to look whether the client was silent for too long.
    KeepAlive(ConnectionId),
    /// The client may be read again, unless it still has to wait.
    Throttled(ConnectionId),
    /// The session at this home expires, or its will is due.
    Session(Key),
    /// What a client has proved ends.
    Login(ConnectionId),
    /// Time to offer the queue of this shared subscription once more to members that took nothing.
    Group(Key),
}

/// Facts that never change while the node runs; all but `core` are equal on all cores.
#[derive(Clone, Debug)]
pub struct Facts {
    /// This core.
    pub core: u16,
    /// Bounds.
    pub limits: Limits,
    /// How deep a root is.
    pub root_depths: RootDepths,
    /// The path of the WebSocket listeners.
    pub websocket_path: Box<str>,
    /// A random number of this run: makes assigned client identifiers unguessable.
    pub seed: u64,
}

/// True for a shared subscription.
pub fn is_shared(filter: &str) -> bool {
    filter.starts_with("$share/")
}

/// The topic filter inside a shared subscription, or the filter itself.
pub fn without_share(filter: &str) -> &str {
    let Some(shared) = filter.strip_prefix("$share/") else {
        return filter;
    };
    shared.split_once('/').map_or(filter, |(_, inner)| inner)
}

/// Counters and gauges of a core.
#[derive(Debug, Default)]
pub struct Stats {
    /// Monotone counters.
    pub counters: Counters,
    /// Dropped deliveries by reason.
    pub dropped: [u64; DropReason::ALL.len()],
    /// Who was not let in, by reason.
    pub turned_away: [u64; TurnedAway::ALL.len()],
    /// Deliveries accepted and not ended.
    pub queued: u64,
    /// Bytes of messages queued at the edges of this core.
    pub queued_bytes: u64,
    /// Bytes of publishes that wait for their acknowledgement.
    pub pending_bytes: u64,
    /// Bytes of incomplete packets.
    pub partial_bytes: u64,
}

impl Stats {
    /// Somebody is not let in.
    pub fn turn_away(&mut self, reason: TurnedAway) {
        self.turned_away[reason as usize] += 1;
    }

    /// A delivery becomes this core's responsibility.
    pub fn accept(&mut self) {
        self.counters.deliveries_accepted += 1;
        self.queued += 1;
    }

    /// An accepted delivery reached its client.
    pub fn deliver(&mut self) {
        self.counters.deliveries_delivered += 1;
        self.queued -= 1;
    }

    /// An accepted delivery expired.
    pub fn expire(&mut self) {
        self.counters.deliveries_expired += 1;
        self.queued -= 1;
    }

    /// An accepted delivery is given up.
    pub fn drop_accepted(&mut self, reason: DropReason, count: u64) {
        self.dropped[reason as usize] += count;
        self.queued -= count;
    }

    /// Deliveries are refused on arrival.
    pub fn refuse(&mut self, reason: DropReason, count: u64) {
        self.counters.deliveries_accepted += count;
        self.dropped[reason as usize] += count;
    }
}

/// What takes no more at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Congestion {
    /// True exactly when another core takes no more from this one, or the engine from any: publishers of QoS ≥ 1 are not read.
    pub congested: bool,
    /// True exactly when the engine takes no more from this core.
    pub engine: bool,
    /// True exactly when far more clients want in than can be taken: strangers are told to come later.
    pub pressed: bool,
}

/// Everything a handler may use besides its own role's state.
pub struct Turn<'a> {
    /// The time.
    pub now: Now,
    /// Where results go.
    pub outbox: &'a mut Outbox,
    /// What never changes.
    pub facts: &'a Facts,
    /// Who owns what.
    pub ownership: &'a Arc<Ownership>,
    /// Who may come in and do what.
    pub policy: &'a Arc<Policy>,
    /// Counters.
    pub stats: &'a mut Stats,
    /// The wheel of this core.
    pub timers: &'a mut Wheel<Timer>,
    /// Makes the ids of sessions and messages.
    pub ids: &'a mut SessionIds,
    /// Messages of this core's clients, wills and operators that are not answered, in a cluster.
    pub unanswered: &'a mut Unanswered,
    /// What takes no more.
    pub congestion: Congestion,
}

impl<'a> Turn<'a> {
    /// The core that owns the root of this topic.
    pub fn owner_of_topic(&self, topic: &str) -> u16 {
        let root = self.facts.root_depths.root_of_topic(topic);
        self.ownership.core_of_root(root)
    }

    /// The cores that must know a filter: the owner of its root, or all of them for a broad one.
    pub fn owners_of_filter(&self, filter: &str) -> &'a [u16] {
        let depths = &self.facts.root_depths;
        self.ownership.owners_of_filter(depths, filter)
    }

    /// Tells the owners of shared subscriptions what a member of theirs is like now.
    pub fn tell_presence<'f>(
        &mut self,
        session: SessionId,
        filters: impl IntoIterator<Item = &'f Box<str>>,
        presence: Presence,
    ) {
        for filter in filters {
            for &core in self.owners_of_filter(filter) {
                let member = SharedPresence {
                    filter: filter.clone(),
                    session,
                    presence,
                };
                self.outbox
                    .tell(core, CoreMessage::SharedPresence(Box::new(member)));
            }
        }
    }

    /// Tells the owners of a subscription what the rules allow it now.
    pub fn limit_subscription(&mut self, session: SessionId, filter: &str, qos_allowed: QoS) {
        for &core in self.owners_of_filter(filter) {
            let limit = LimitSubscription {
                filter: filter.into(),
                session,
                qos_allowed,
            };
            self.outbox
                .tell(core, CoreMessage::LimitSubscription(Box::new(limit)));
        }
    }

    /// Routes a message of the node itself: a will, or what an operator publishes.
    pub fn publish(&mut self, message: Arc<Message>, origin: Origin) {
        self.stats.counters.publishes_internal += 1;
        let may_refuse = origin != Origin::Nobody;
        let is_sent_again = self.ownership.is_clustered() && message.qos > QoS::AtMostOnce;
        let origin = match origin {
            Origin::Nobody if is_sent_again => Origin::Will {
                core: self.facts.core,
            },
            origin => origin,
        };
        self.route(PublishRequest {
            message,
            origin,
            may_refuse,
            received: None,
            id: MessageId::NONE,
            retry: false,
        });
    }

    /// Hands a message to the owner of its root. In a cluster it is kept until it is answered, and named if it has no name.
    pub fn route(&mut self, mut request: PublishRequest) {
        if self.ownership.is_clustered() && request.origin != Origin::Nobody {
            if request.id.is_none() {
                request.id = self.ids.name_message();
            }
            self.unanswered.keep(&request);
        }
        let owner = self.owner_of_topic(request.message.topic());
        self.outbox
            .tell(owner, CoreMessage::Publish(Box::new(request)));
    }
}

/// Makes the ids of new sessions, see [`SessionId`], and of messages.
#[derive(Debug)]
pub struct SessionIds {
    next: u64,
    origin: u64,
    messages: u64,
}

impl SessionIds {
    /// Ids of one core in one run of the node.
    pub fn new(boot: u32, core: u16) -> Self {
        Self {
            next: (u64::from(boot) & 0x7FFF) << 48 | (u64::from(core) & 0xFF) << 40,
            origin: 0,
            messages: 0,
        }
    }

    /// Ids of one core of a cluster: the epoch of the view in which its node became a member (11 bits, never 0), core number (16
    /// bits), counter (36 bits). A core number comes back only after all others were given, so the epoch need not be whole.
    pub fn in_cluster(joined: u64, core: u16) -> Self {
        Self {
            next: (joined % 0x7FF + 1) << 52 | u64::from(core) << 36,
            origin: MessageId::origin(joined, core),
            messages: 0,
        }
    }

    /// A new id, never given before.
    pub fn issue(&mut self) -> SessionId {
        self.next += 1;
        SessionId(self.next)
    }

    /// A new name for a message.
    pub fn name_message(&mut self) -> MessageId {
        self.messages += 1;
        MessageId {
            origin: self.origin,
            number: self.messages,
        }
    }
}

/// Messages of one core that wait for their owner's answer, in the order in which they were sent. What is in it is bounded by the
/// bytes that clients may have waiting (`limits.pending_bytes_max`), and what waits of wills.
#[derive(Debug, Default)]
pub struct Unanswered {
    sent: u64,
    requests: BTreeMap<u64, PublishRequest>,
    /// Who sent it and waits: a publisher that reconnects sends a message again under its name.
    places: HashMap<(MessageId, Origin), u64, FixedState>,
}

impl Unanswered {
    fn keep(&mut self, request: &PublishRequest) {
        self.sent += 1;
        self.requests.insert(self.sent, request.clone());
        let place = (request.id, request.origin);
        if let Some(before) = self.places.insert(place, self.sent) {
            self.requests.remove(&before);
        }
    }

    /// The owner has answered. False when it has before, or another one has.
    pub fn answered(&mut self, id: MessageId, origin: Origin) -> bool {
        let place = self.places.remove(&(id, origin));
        place.is_some_and(|place| self.requests.remove(&place).is_some())
    }

    /// What is to be sent again, in order.
    pub fn again(&self, mut is_moved: impl FnMut(&PublishRequest) -> bool) -> Vec<PublishRequest> {
        let requests = self.requests.values();
        let moved = requests.filter(|request| is_moved(request));
        moved
            .map(|request| PublishRequest {
                retry: true,
                ..request.clone()
            })
            .collect()
    }
}
