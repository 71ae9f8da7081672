//! Shared subscriptions: the members of each group, and which of them gets the next message: connected before offline, the
//! least loaded first, in turn among equals. A pick costs the logarithm of the number of members.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use edge_proto::packet::QoS;
use foldhash::fast::FixedState;
use hashbrown::HashMap;
use reactor::slab::{Key, Slab};
use reactor::wheel::TimerKey;

use crate::core_message::{Presence, Subscriber, load_level};
use crate::message::SessionId;

/// The shared subscriptions of one owner.
pub(super) type Groups = Slab<Group>;

/// Messages that a member gets out of a queue at once, at first.
const BATCH_MIN: u32 = 32;

/// Messages that a member gets at once, at most.
const BATCH_MAX: u32 = 512;

/// A member that has done half a batch within this time gets twice as many the next time.
const FAST_MS: u64 = 25;

/// Members that are looked at to find one that is not busy.
const LOOKED_AT: usize = 16;

/// The members of one shared subscription.
#[derive(Debug)]
pub(super) struct Group {
    /// The whole filter.
    pub(super) filter: Box<str>,
    pub(super) queue: Queue,
    members: HashMap<SessionId, Member, FixedState>,
    /// The members in the order in which they are picked.
    order: BTreeSet<Place>,
    /// Counts the picks.
    turns: u64,
    /// Members that take more than QoS 0.
    storing: usize,
}

/// What waits for any member of a group.
#[derive(Debug)]
pub(super) struct Queue {
    /// Its mailboxes in the engine, oldest first; new messages go to the last. There are several only after a start with
    /// another number of cores.
    pub(super) mailboxes: VecDeque<SessionId>,
    /// Messages in them, and those on their way there.
    pub(super) waiting: u64,
    /// The transfer to a member that is under way.
    pub(super) transfer: Option<u64>,
    /// Armed while somebody who is not busy takes nothing.
    pub(super) retry: Option<TimerKey>,
}

#[derive(Debug)]
struct Member {
    subscriber: Subscriber,
    presence: Presence,
    /// The turn of its last pick.
    turn: u64,
    /// Messages that it gets out of the queue at once.
    batch: u32,
    /// When it last took some, until half of that is done.
    took_at_ms: Option<u64>,
    /// True when half of what it took last was done soon.
    is_fast: bool,
    /// True when it took nothing of what the queue offered, until it is more or less busy than then.
    refuses: bool,
    /// True when it has told something new of itself since it was last offered something: what it refused before does not
    /// count.
    is_news: bool,
}

/// Where a member stands. The order of the fields is the order of the picks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    offline: bool,
    load: u8,
    turn: u64,
    session: SessionId,
}

impl Member {
    fn place(&self) -> Place {
        Place {
            offline: !self.presence.connected,
            load: self.presence.load,
            turn: self.turn,
            session: self.subscriber.session,
        }
    }

    /// True from when a batch or more waits for it until that is half done.
    fn is_busy(&self) -> bool {
        self.presence.load >= load_level(0, u64::from(self.batch))
    }

    fn stores(&self) -> bool {
        self.subscriber.maximum_qos() > QoS::AtMostOnce
    }
}

impl Group {
    pub(super) fn new(filter: &str) -> Self {
        Self {
            filter: filter.into(),
            queue: Queue {
                mailboxes: VecDeque::new(),
                waiting: 0,
                transfer: None,
                retry: None,
            },
            members: HashMap::default(),
            order: BTreeSet::new(),
            turns: 0,
            storing: 0,
        }
    }

    /// Number of members.
    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// The subscriptions of the members.
    pub(super) fn subscribers(&self) -> impl Iterator<Item = &Subscriber> {
        self.members.values().map(|member| &member.subscriber)
    }

    pub(super) fn contains(&self, session: SessionId) -> bool {
        self.members.contains_key(&session)
    }

    /// Makes or replaces a member. True when it was there.
    pub(super) fn join(&mut self, subscriber: Subscriber, presence: Presence) -> bool {
        let known = self.take(subscriber.session);
        let member = Member {
            subscriber,
            presence,
            turn: known.as_ref().map_or(self.turns, |known| known.turn),
            batch: BATCH_MIN,
            took_at_ms: None,
            is_fast: false,
            refuses: false,
            is_news: true,
        };
        self.put(member);
        known.is_some()
    }

    /// Removes a member. True when it was there.
    pub(super) fn leave(&mut self, session: SessionId) -> bool {
        self.take(session).is_some()
    }

    /// Notes what the rules allow a member now.
    pub(super) fn limit(&mut self, session: SessionId, qos_allowed: QoS) {
        if let Some(mut member) = self.take(session) {
            member.subscriber.qos_allowed = qos_allowed;
            self.put(member);
        }
    }

    /// Notes that a member came or went, or has more or less to do.
    pub(super) fn set_presence(&mut self, session: SessionId, presence: Presence, mono_ms: u64) {
        if let Some(member) = self.take(session) {
            let mut member = Member {
                presence,
                refuses: false,
                is_news: true,
                ..member
            };
            if !member.is_busy()
                && let Some(took_at_ms) = member.took_at_ms.take()
            {
                member.is_fast = mono_ms - took_at_ms <= FAST_MS;
            }
            self.put(member);
        }
    }

    /// The member that gets the next message, and why it is not another: see the module. A group has members.
    pub(super) fn pick(&mut self) -> Subscriber {
        let first = *self.order.first().expect("a group has members");
        self.take_turn(first.session);
        self.members[&first.session].subscriber
    }

    /// True when a message for the group is to wait for any of its members, and not for one of them.
    pub(super) fn must_queue(&self) -> bool {
        let nobody_connected = self.order.first().is_none_or(|first| first.offline);
        self.queue.waiting > 0 || (nobody_connected && self.storing > 0)
    }

    /// The member that gets the next messages of the queue, and how many at most; `None` while all are offline, busy or refuse
    /// them.
    pub(super) fn taker(&mut self) -> Option<(Subscriber, u32)> {
        let session = self
            .not_busy()
            .find(|member| !member.refuses)?
            .subscriber
            .session;
        self.take_turn(session);
        let member = self.members.get_mut(&session)?;
        member.is_news = false;
        member.batch = if member.is_fast {
            (member.batch * 2).min(BATCH_MAX)
        } else {
            BATCH_MIN
        };
        Some((member.subscriber, member.batch))
    }

    /// True when a member that is not busy refuses messages.
    pub(super) fn has_refuser(&self) -> bool {
        self.not_busy().any(|member| member.refuses)
    }

    /// Notes how many messages of the queue a member took.
    pub(super) fn took(&mut self, session: SessionId, messages: u64, mono_ms: u64) {
        if let Some(member) = self.members.get_mut(&session) {
            member.refuses = messages == 0 && !member.is_news;
            member.is_fast = messages > 0 && !member.is_busy();
            member.took_at_ms = (!member.is_fast).then_some(mono_ms);
        }
    }

    /// Offers everything to everybody again.
    pub(super) fn forget_refusals(&mut self) {
        for member in self.members.values_mut() {
            member.refuses = false;
        }
    }

    /// The subscription of a member that is connected.
    pub(super) fn connected(&self, session: SessionId) -> Option<Subscriber> {
        let member = self.members.get(&session)?;
        member.presence.connected.then_some(member.subscriber)
    }

    fn not_busy(&self) -> impl Iterator<Item = &Member> {
        self.order
            .iter()
            .take_while(|place| !place.offline)
            .take(LOOKED_AT)
            .map(|place| &self.members[&place.session])
            .filter(|member| !member.is_busy())
    }

    fn take_turn(&mut self, session: SessionId) {
        self.turns += 1;
        if let Some(member) = self.take(session) {
            self.put(Member {
                turn: self.turns,
                ..member
            });
        }
    }

    fn take(&mut self, session: SessionId) -> Option<Member> {
        let member = self.members.remove(&session)?;
        self.order.remove(&member.place());
        self.storing -= usize::from(member.stores());
        Some(member)
    }

    fn put(&mut self, member: Member) {
        self.order.insert(member.place());
        self.storing += usize::from(member.stores());
        self.members.insert(member.subscriber.session, member);
    }
}

/// The groups of one filter by share name. There are few, unless somebody means harm.
#[derive(Debug, Default)]
pub(super) struct GroupsOfFilter(BTreeMap<Box<str>, Key>);

impl GroupsOfFilter {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn find(&self, name: &str) -> Option<Key> {
        self.0.get(name).copied()
    }

    pub(super) fn insert(&mut self, name: &str, key: Key) {
        self.0.insert(name.into(), key);
    }

    pub(super) fn remove(&mut self, name: &str) {
        self.0.remove(name);
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = Key> {
        self.0.values().copied()
    }
}
