//! Which subscribers a message reaches: the rooted filters of the partitions this core owns, and all broad filters.

use std::cell::Cell;

use edge_proto::topic::filter_matches;
use edge_proto::trie::FilterTrie;
use foldhash::fast::FixedState;
use hashbrown::HashMap;

use super::subscribers::SubscriberSet;
use crate::core_message::{Subscriber, Target};
use crate::engine::Delivery;
use crate::message::{Message, SessionId};
use crate::turn::without_share;

/// All subscriptions of one owner.
#[derive(Debug)]
pub struct Subscriptions {
    rooted: HashMap<Box<str>, FilterSet, FixedState>,
    broad: FilterSet,
    count: u64,
}

/// Filters with their subscribers: a short list, or a trie once there are many.
#[derive(Debug)]
enum FilterSet {
    Few(Vec<(Box<str>, Entry)>),
    Many(Box<FilterTrie<Entry>>),
}

/// The subscribers of one filter.
#[derive(Debug, Default)]
struct Entry {
    subscribers: SubscriberSet,
    groups: Vec<Group>,
}

/// The members of one shared subscription.
#[derive(Debug)]
struct Group {
    name: Box<str>,
    members: Vec<Member>,
    /// Where the round robin goes on.
    turn: Cell<usize>,
}

#[derive(Debug)]
struct Member {
    subscriber: Subscriber,
    /// Always true for a live-only session, which leaves when it disconnects.
    connected: bool,
}

/// One recipient of a message.
#[derive(Debug)]
pub struct Match {
    /// Which session.
    pub session: SessionId,
    /// Where it is.
    pub target: Target,
    /// How it gets the message.
    pub delivery: Delivery,
    /// True when it was picked from a shared subscription.
    pub shared: bool,
}

impl Default for FilterSet {
    fn default() -> Self {
        Self::Few(Vec::new())
    }
}

impl Subscriptions {
    /// No subscriptions. Roots come from clients: the seed keeps them from choosing where they fall in the table.
    pub fn new(seed: u64) -> Self {
        Self {
            rooted: HashMap::with_hasher(FixedState::with_seed(seed)),
            broad: FilterSet::default(),
            count: 0,
        }
    }

    /// Number of subscriptions.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Makes or replaces a subscription; `root` is the root of its filter, `None` for a broad one. True when it existed.
    pub fn subscribe(
        &mut self,
        root: Option<&str>,
        filter: &str,
        subscriber: Subscriber,
        connected: bool,
    ) -> bool {
        let set = match root {
            Some(root) if self.rooted.contains_key(root) => {
                self.rooted.get_mut(root).expect("it contains it")
            }
            Some(root) => self.rooted.entry(root.into()).or_default(),
            None => &mut self.broad,
        };
        let entry = set.entry(without_share(filter));
        let existed = match share_name(filter) {
            Some(name) => entry.join(name, subscriber, connected),
            None => entry.subscribers.insert(subscriber),
        };
        self.count += u64::from(!existed);
        existed
    }

    /// Removes a subscription. True when it existed.
    pub fn unsubscribe(&mut self, root: Option<&str>, filter: &str, session: SessionId) -> bool {
        let inner = without_share(filter);
        let Some(set) = self.set_mut(root) else {
            return false;
        };
        let Some(entry) = set.get_mut(inner) else {
            return false;
        };
        let existed = match share_name(filter) {
            Some(name) => entry.leave(name, session),
            None => entry.subscribers.remove(session),
        };
        if entry.is_empty() {
            set.remove(inner);
        }
        if let Some(root) = root
            && set.is_empty()
        {
            self.rooted.remove(root);
        }
        self.count -= u64::from(existed);
        existed
    }

    /// Notes that a durable member of a shared subscription came or went.
    pub fn set_connected(
        &mut self,
        root: Option<&str>,
        filter: &str,
        session: SessionId,
        connected: bool,
    ) {
        let Some(name) = share_name(filter) else {
            return;
        };
        let entry = self
            .set_mut(root)
            .and_then(|set| set.get_mut(without_share(filter)));
        let group =
            entry.and_then(|entry| entry.groups.iter_mut().find(|group| *group.name == *name));
        let members = group.into_iter().flat_map(|group| &mut group.members);
        for member in members.filter(|member| member.subscriber.session == session) {
            member.connected = connected;
        }
    }

    /// Appends everyone who gets this message, each session once for all its ordinary subscriptions together, and one member
    /// of each shared subscription.
    pub fn matches(&self, root: &str, message: &Message, matches: &mut Vec<Match>) {
        let first = matches.len();
        let mut entries = 0;
        let mut visit = |entry: &Entry| {
            let before = matches.len();
            entry.collect(message, matches);
            entries += usize::from(matches.len() > before);
        };
        if let Some(set) = self.rooted.get(root) {
            set.for_each_match(message.topic(), &mut visit);
        }
        self.broad.for_each_match(message.topic(), &mut visit);
        if entries > 1 {
            merge_sessions(matches, first);
        }
    }

    /// Calls `visit` with each filter, whether it is broad, and its number of subscribers.
    pub fn for_each(&self, mut visit: impl FnMut(&str, bool, u64)) {
        self.broad
            .for_each(&mut |filter, count| visit(filter, true, count));
        for set in self.rooted.values() {
            set.for_each(&mut |filter, count| visit(filter, false, count));
        }
    }

    fn set_mut(&mut self, root: Option<&str>) -> Option<&mut FilterSet> {
        match root {
            Some(root) => self.rooted.get_mut(root),
            None => Some(&mut self.broad),
        }
    }
}

/// The share name of a shared subscription.
fn share_name(filter: &str) -> Option<&str> {
    filter
        .strip_prefix("$share/")?
        .split_once('/')
        .map(|(name, _)| name)
}

/// Joins the deliveries of one session into one: the highest QoS, all identifiers (MQTT-3.3.4-2, MQTT-3.3.4-3).
fn merge_sessions(matches: &mut Vec<Match>, first: usize) {
    matches[first..].sort_by_key(|found| (found.session, found.shared));
    let mut kept = first;
    for index in first + 1..matches.len() {
        let (head, tail) = matches.split_at_mut(index);
        let (last, next) = (&mut head[kept], &mut tail[0]);
        if last.session == next.session && !last.shared && !next.shared {
            last.delivery.qos = last.delivery.qos.max(next.delivery.qos);
            last.delivery.retain |= next.delivery.retain;
            if !next.delivery.subscription_ids.is_empty() {
                let ids = std::mem::take(&mut last.delivery.subscription_ids);
                last.delivery.subscription_ids = ids
                    .iter()
                    .chain(&next.delivery.subscription_ids)
                    .copied()
                    .collect();
            }
        } else {
            kept += 1;
            matches.swap(kept, index);
        }
    }
    matches.truncate(kept + 1);
}

/// How one subscription gets a message.
fn delivery(message: &Message, subscriber: &Subscriber) -> Delivery {
    let id = subscriber.subscription_id;
    Delivery {
        qos: message.qos.min(subscriber.options.maximum_qos),
        retain: message.retain && subscriber.options.retain_as_published,
        subscription_ids: if id == 0 {
            Box::default()
        } else {
            Box::new([id])
        },
    }
}

impl Entry {
    fn is_empty(&self) -> bool {
        matches!(self.subscribers, SubscriberSet::None) && self.groups.is_empty()
    }

    fn collect(&self, message: &Message, matches: &mut Vec<Match>) {
        for subscriber in self.subscribers.as_slice() {
            if subscriber.options.no_local && subscriber.session == message.publisher {
                continue;
            }
            matches.push(Match {
                session: subscriber.session,
                target: subscriber.target,
                delivery: delivery(message, subscriber),
                shared: false,
            });
        }
        for group in &self.groups {
            let subscriber = group.pick();
            matches.push(Match {
                session: subscriber.session,
                target: subscriber.target,
                delivery: delivery(message, &subscriber),
                shared: true,
            });
        }
    }

    fn join(&mut self, name: &str, subscriber: Subscriber, connected: bool) -> bool {
        let group = match self.groups.iter().position(|group| *group.name == *name) {
            Some(index) => &mut self.groups[index],
            None => {
                self.groups.push(Group {
                    name: name.into(),
                    members: Vec::new(),
                    turn: Cell::new(0),
                });
                self.groups.last_mut().expect("just pushed")
            }
        };
        let member = Member {
            subscriber,
            connected,
        };
        match group
            .members
            .iter_mut()
            .find(|member| member.subscriber.session == subscriber.session)
        {
            Some(known) => {
                *known = member;
                true
            }
            None => {
                group.members.push(member);
                false
            }
        }
    }

    fn leave(&mut self, name: &str, session: SessionId) -> bool {
        let Some(index) = self.groups.iter().position(|group| *group.name == *name) else {
            return false;
        };
        let members = &mut self.groups[index].members;
        let before = members.len();
        members.retain(|member| member.subscriber.session != session);
        let existed = members.len() < before;
        if members.is_empty() {
            self.groups.swap_remove(index);
        }
        existed
    }
}

impl Group {
    /// The member whose turn it is: connected before offline, then round robin.
    fn pick(&self) -> Subscriber {
        let count = self.members.len();
        let from = self.turn.get() % count;
        let rank = |index: usize| {
            (
                !self.members[index].connected,
                (index + count - from) % count,
            )
        };
        let picked = (0..count)
            .min_by_key(|&index| rank(index))
            .expect("a group has members");
        self.turn.set(picked + 1);
        self.members[picked].subscriber
    }
}

impl FilterSet {
    /// From this many filters on a trie is used.
    const TRIE_FROM: usize = 8;

    fn is_empty(&self) -> bool {
        match self {
            Self::Few(list) => list.is_empty(),
            Self::Many(trie) => trie.is_empty(),
        }
    }

    fn get_mut(&mut self, filter: &str) -> Option<&mut Entry> {
        match self {
            Self::Few(list) => list
                .iter_mut()
                .find(|(known, _)| **known == *filter)
                .map(|(_, entry)| entry),
            Self::Many(trie) => trie.get_mut(filter),
        }
    }

    fn entry(&mut self, filter: &str) -> &mut Entry {
        if let Self::Few(list) = self
            && list.len() >= Self::TRIE_FROM
            && !list.iter().any(|(known, _)| **known == *filter)
        {
            let mut trie = FilterTrie::new();
            for (known, entry) in list.drain(..) {
                trie.insert(&known, entry);
            }
            *self = Self::Many(Box::new(trie));
        }
        match self {
            Self::Few(list) => {
                let position = list
                    .iter()
                    .position(|(known, _)| **known == *filter)
                    .unwrap_or_else(|| {
                        list.reserve_exact(1);
                        list.push((filter.into(), Entry::default()));
                        list.len() - 1
                    });
                &mut list[position].1
            }
            Self::Many(trie) => trie.get_or_insert_with(filter, Entry::default),
        }
    }

    fn remove(&mut self, filter: &str) {
        match self {
            Self::Few(list) => list.retain(|(known, _)| **known != *filter),
            Self::Many(trie) => {
                trie.remove(filter);
            }
        }
    }

    fn for_each_match(&self, topic: &str, visit: &mut impl FnMut(&Entry)) {
        match self {
            Self::Few(list) => {
                for (filter, entry) in list {
                    if filter_matches(filter, topic) {
                        visit(entry);
                    }
                }
            }
            Self::Many(trie) => trie.matches(topic, visit),
        }
    }

    fn for_each(&self, visit: &mut impl FnMut(&str, u64)) {
        let mut tell = |filter: &str, entry: &Entry| {
            if !matches!(entry.subscribers, SubscriberSet::None) {
                visit(filter, entry.subscribers.as_slice().len() as u64);
            }
            for group in &entry.groups {
                visit(
                    &format!("$share/{}/{filter}", group.name),
                    group.members.len() as u64,
                );
            }
        };
        match self {
            Self::Few(list) => list.iter().for_each(|(filter, entry)| tell(filter, entry)),
            Self::Many(trie) => trie.for_each(|filter, entry| tell(filter, entry)),
        }
    }
}

#[cfg(test)]
#[path = "subscriptions_tests.rs"]
mod tests;
