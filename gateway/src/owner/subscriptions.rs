//! Which subscribers a message reaches: the rooted filters of the partitions this core owns, and all broad filters.

use edge_proto::packet::QoS;
use edge_proto::topic::filter_matches;
use edge_proto::trie::FilterTrie;
use foldhash::fast::FixedState;
use hashbrown::HashMap;

use reactor::slab::Key;

use super::groups::{Group, Groups, GroupsOfFilter};
use super::subscribers::SubscriberSet;
use crate::core_message::{Presence, Subscriber, Target};
use crate::engine::Delivery;
use crate::message::{Message, SessionId};
use crate::turn::without_share;

/// All subscriptions of one owner.
#[derive(Debug)]
pub struct Subscriptions {
    rooted: HashMap<Box<str>, FilterSet, FixedState>,
    broad: FilterSet,
    pub(super) groups: Groups,
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
    groups: GroupsOfFilter,
}

/// What the end of a subscription means.
#[derive(Debug)]
pub struct Ended {
    /// True when there was one.
    pub existed: bool,
    /// The group that has ended with its last member.
    pub(super) group: Option<Group>,
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
            groups: Groups::default(),
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
        presence: Presence,
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
            Some(name) => {
                let key = entry.groups.find(name).unwrap_or_else(|| {
                    let key = self.groups.insert(Group::new(filter));
                    entry.groups.insert(name, key);
                    key
                });
                let group = self.groups.get_mut(key).expect("found or just made");
                group.join(subscriber, presence)
            }
            None => entry.subscribers.insert(subscriber),
        };
        self.count += u64::from(!existed);
        existed
    }

    /// Removes a subscription.
    pub fn unsubscribe(&mut self, root: Option<&str>, filter: &str, session: SessionId) -> Ended {
        let mut ended = Ended {
            existed: false,
            group: None,
        };
        let inner = without_share(filter);
        let set = match root {
            Some(root) => self.rooted.get_mut(root),
            None => Some(&mut self.broad),
        };
        let Some(set) = set else {
            return ended;
        };
        let Some(entry) = set.get_mut(inner) else {
            return ended;
        };
        match share_name(filter) {
            Some(name) => leave(&mut self.groups, entry, name, session, &mut ended),
            None => ended.existed = entry.subscribers.remove(session),
        }
        if entry.is_empty() {
            set.remove(inner);
        }
        if let Some(root) = root
            && set.is_empty()
        {
            self.rooted.remove(root);
        }
        self.count -= u64::from(ended.existed);
        ended
    }

    /// Notes the highest QoS that the rules allow a subscription now, if there is such a subscription.
    pub fn limit(
        &mut self,
        root: Option<&str>,
        filter: &str,
        session: SessionId,
        qos_allowed: QoS,
    ) {
        if let Some(key) = self.group(root, filter) {
            if let Some(group) = self.groups.get_mut(key) {
                group.limit(session, qos_allowed);
            }
            return;
        }
        let set = match root {
            Some(root) => self.rooted.get_mut(root),
            None => Some(&mut self.broad),
        };
        let entry = set.and_then(|set| set.get_mut(filter));
        if let Some(subscriber) = entry.and_then(|entry| entry.subscribers.get_mut(session)) {
            subscriber.qos_allowed = qos_allowed;
        }
    }

    /// The group of a shared subscription.
    pub fn group(&self, root: Option<&str>, filter: &str) -> Option<Key> {
        let name = share_name(filter)?;
        self.entry(root, filter)?.groups.find(name)
    }

    /// True when a session has this subscription.
    pub fn contains(&self, root: Option<&str>, filter: &str, session: SessionId) -> bool {
        let group = || self.groups.get(self.group(root, filter)?);
        match share_name(filter) {
            Some(_) => group().is_some_and(|group| group.contains(session)),
            None => self
                .entry(root, filter)
                .is_some_and(|entry| entry.subscribers.contains(session)),
        }
    }

    fn entry(&self, root: Option<&str>, filter: &str) -> Option<&Entry> {
        let set = match root {
            Some(root) => self.rooted.get(root)?,
            None => &self.broad,
        };
        set.get(without_share(filter))
    }

    /// Appends everyone who gets this message, each session once for all its ordinary subscriptions together, and the shared
    /// subscriptions that get it.
    pub fn matches(
        &self,
        root: &str,
        message: &Message,
        matches: &mut Vec<Match>,
        groups: &mut Vec<Key>,
    ) {
        let first = matches.len();
        let mut entries = 0;
        let mut visit = |entry: &Entry| {
            let before = matches.len();
            entry.collect(message, matches);
            groups.extend(entry.groups.keys());
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

    /// Removes all filters of some roots; returns the groups that go with them.
    pub(super) fn remove_roots(&mut self, is_lost: impl Fn(&str) -> bool) -> Vec<Group> {
        let groups = &mut self.groups;
        let (mut removed, mut gone) = (0, Vec::new());
        self.rooted.retain(|root, set| {
            let is_lost = is_lost(root);
            if is_lost {
                set.for_each(&mut |_, entry| {
                    removed += entry.subscribers.as_slice().len();
                    let ended = entry.groups.keys().filter_map(|key| groups.remove(key));
                    gone.extend(ended);
                });
            }
            !is_lost
        });
        removed += gone.iter().map(Group::len).sum::<usize>();
        self.count -= removed as u64;
        gone
    }

    /// Removes some subscribers; returns the groups that end with their last member.
    pub(super) fn remove_subscribers(
        &mut self,
        is_gone: impl Fn(&str, &Subscriber) -> bool,
    ) -> Vec<Group> {
        let mut gone: Vec<(Option<Box<str>>, Box<str>, SessionId)> = Vec::new();
        let mut collect = |root: Option<&str>, set: &FilterSet| {
            set.for_each(&mut |filter, entry| {
                let subscribers = entry.subscribers.as_slice().iter();
                let found = subscribers.filter(|subscriber| is_gone(filter, subscriber));
                gone.extend(
                    found.map(|found| (root.map(Into::into), filter.into(), found.session)),
                );
                for group in entry.groups.keys().filter_map(|key| self.groups.get(key)) {
                    let filter = &group.filter;
                    let members = group.subscribers();
                    let found = members.filter(|subscriber| is_gone(filter, subscriber));
                    gone.extend(
                        found.map(|found| (root.map(Into::into), filter.clone(), found.session)),
                    );
                }
            });
        };
        for (root, set) in &self.rooted {
            collect(Some(root), set);
        }
        collect(None, &self.broad);
        let ended = gone.into_iter().map(|(root, filter, session)| {
            let ended = self.unsubscribe(root.as_deref(), &filter, session);
            ended.group
        });
        ended.flatten().collect()
    }

    /// Calls `visit` with each whole filter and each of its subscribers.
    pub(super) fn for_each_subscriber(&self, mut visit: impl FnMut(&str, &Subscriber)) {
        let sets = self.rooted.values().chain(std::iter::once(&self.broad));
        for set in sets {
            self.for_each_in(set, &mut visit);
        }
    }

    /// Calls `visit` with each broad filter and each of its subscribers.
    pub(super) fn for_each_broad(&self, mut visit: impl FnMut(&str, &Subscriber)) {
        self.for_each_in(&self.broad, &mut visit);
    }

    fn for_each_in(&self, set: &FilterSet, visit: &mut impl FnMut(&str, &Subscriber)) {
        set.for_each(&mut |filter, entry| {
            for subscriber in entry.subscribers.as_slice() {
                visit(filter, subscriber);
            }
            for group in entry.groups.keys().filter_map(|key| self.groups.get(key)) {
                for subscriber in group.subscribers() {
                    visit(&group.filter, subscriber);
                }
            }
        });
    }

    /// Calls `visit` with each filter, whether it is broad, its number of subscribers, and the messages in its queue.
    pub fn for_each(&self, mut visit: impl FnMut(&str, bool, u64, u64)) {
        let mut tell = |broad: bool, filter: &str, entry: &Entry| {
            if !matches!(entry.subscribers, SubscriberSet::None) {
                let count = entry.subscribers.as_slice().len() as u64;
                visit(filter, broad, count, 0);
            }
            let groups = entry.groups.keys().filter_map(|key| self.groups.get(key));
            for group in groups {
                let (count, queued) = (group.len() as u64, group.queue.waiting);
                visit(&group.filter, broad, count, queued);
            }
        };
        self.broad
            .for_each(&mut |filter, entry| tell(true, filter, entry));
        for set in self.rooted.values() {
            set.for_each(&mut |filter, entry| tell(false, filter, entry));
        }
    }
}

/// Takes a member out of its group, and the group away with the last one.
fn leave(
    groups: &mut Groups,
    entry: &mut Entry,
    name: &str,
    session: SessionId,
    ended: &mut Ended,
) {
    let Some(key) = entry.groups.find(name) else {
        return;
    };
    let Some(group) = groups.get_mut(key) else {
        return;
    };
    ended.existed = group.leave(session);
    if group.is_empty() {
        entry.groups.remove(name);
        ended.group = groups.remove(key);
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
    matches[first..].sort_by_key(|found| found.session);
    let mut kept = first;
    for index in first + 1..matches.len() {
        let (head, tail) = matches.split_at_mut(index);
        let (last, next) = (&mut head[kept], &mut tail[0]);
        if last.session == next.session {
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

impl Match {
    /// How one subscription gets a message.
    pub(super) fn new(message: &Message, subscriber: &Subscriber) -> Self {
        Self {
            session: subscriber.session,
            target: subscriber.target,
            delivery: subscriber.record().delivery(message),
        }
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
            matches.push(Match::new(message, subscriber));
        }
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

    fn get(&self, filter: &str) -> Option<&Entry> {
        match self {
            Self::Few(list) => list
                .iter()
                .find(|(known, _)| **known == *filter)
                .map(|(_, entry)| entry),
            Self::Many(trie) => trie.get(filter),
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

    fn for_each(&self, visit: &mut impl FnMut(&str, &Entry)) {
        match self {
            Self::Few(list) => list.iter().for_each(|(filter, entry)| visit(filter, entry)),
            Self::Many(trie) => trie.for_each(|filter, entry| visit(filter, entry)),
        }
    }
}

#[cfg(test)]
#[path = "subscriptions_tests.rs"]
mod tests;
