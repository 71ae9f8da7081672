//! A set of subscribers by session.

use std::hash::BuildHasher;

use foldhash::fast::FixedState;
use hashbrown::HashTable;

use crate::core_message::Subscriber;
use crate::message::SessionId;

/// A set of subscribers by session, in no order. One costs no allocation, many get an index.
#[derive(Debug, Default)]
pub(super) enum SubscriberSet {
    #[default]
    None,
    One(Subscriber),
    Many(Box<IndexedSubscribers>),
}

#[derive(Debug, Default)]
pub(super) struct IndexedSubscribers {
    list: Vec<Subscriber>,
    index: HashTable<u32>,
}

impl SubscriberSet {
    /// From this many on there is an index.
    const INDEX_FROM: usize = 16;

    pub(super) fn as_slice(&self) -> &[Subscriber] {
        match self {
            Self::None => &[],
            Self::One(subscriber) => std::slice::from_ref(subscriber),
            Self::Many(many) => &many.list,
        }
    }

    /// True when the session is in the set.
    pub(super) fn contains(&self, session: SessionId) -> bool {
        match self {
            Self::None => false,
            Self::One(known) => known.session == session,
            Self::Many(many) => many.position(session).is_some(),
        }
    }

    /// The subscriber of a session. Its session is not to be changed.
    pub(super) fn get_mut(&mut self, session: SessionId) -> Option<&mut Subscriber> {
        match self {
            Self::None => None,
            Self::One(known) => (known.session == session).then_some(known),
            Self::Many(many) => {
                let position = many.position(session)?;
                many.list.get_mut(position)
            }
        }
    }

    /// True when the session was in the set; its subscription is replaced.
    pub(super) fn insert(&mut self, subscriber: Subscriber) -> bool {
        match self {
            Self::None => {
                *self = Self::One(subscriber);
                false
            }
            Self::One(known) if known.session == subscriber.session => {
                *known = subscriber;
                true
            }
            Self::One(known) => {
                let mut many = IndexedSubscribers {
                    list: vec![*known],
                    index: HashTable::new(),
                };
                many.insert(subscriber);
                *self = Self::Many(Box::new(many));
                false
            }
            Self::Many(many) => many.insert(subscriber),
        }
    }

    /// True when the session was in the set.
    pub(super) fn remove(&mut self, session: SessionId) -> bool {
        match self {
            Self::None => false,
            Self::One(known) => {
                let found = known.session == session;
                if found {
                    *self = Self::None;
                }
                found
            }
            Self::Many(many) => {
                let found = many.remove(session);
                if many.list.is_empty() {
                    *self = Self::None;
                }
                found
            }
        }
    }
}

fn hash(session: SessionId) -> u64 {
    FixedState::default().hash_one(session)
}

impl IndexedSubscribers {
    fn position(&self, session: SessionId) -> Option<usize> {
        if self.index.is_empty() {
            return self.list.iter().position(|known| known.session == session);
        }
        let found = |&index: &u32| self.list[index as usize].session == session;
        self.index
            .find(hash(session), found)
            .map(|&index| index as usize)
    }

    fn insert(&mut self, subscriber: Subscriber) -> bool {
        if let Some(position) = self.position(subscriber.session) {
            self.list[position] = subscriber;
            return true;
        }
        self.list.push(subscriber);
        if !self.index.is_empty() {
            self.index_last();
        } else if self.list.len() >= SubscriberSet::INDEX_FROM {
            let list = &self.list;
            for (index, subscriber) in list.iter().enumerate() {
                let rehash = |&known: &u32| hash(list[known as usize].session);
                self.index
                    .insert_unique(hash(subscriber.session), index as u32, rehash);
            }
        }
        false
    }

    fn index_last(&mut self) {
        let last = self.list.len() - 1;
        let list = &self.list;
        self.index
            .insert_unique(hash(list[last].session), last as u32, |&known| {
                hash(list[known as usize].session)
            });
    }

    fn remove(&mut self, session: SessionId) -> bool {
        let Some(position) = self.position(session) else {
            return false;
        };
        if !self.index.is_empty() {
            self.unindex(session, position);
            let last = self.list.len() - 1;
            if position != last {
                let moved = self.list[last].session;
                self.unindex(moved, last);
                self.list.swap_remove(position);
                let list = &self.list;
                self.index
                    .insert_unique(hash(moved), position as u32, |&known| {
                        hash(list[known as usize].session)
                    });
                return true;
            }
        }
        self.list.swap_remove(position);
        true
    }

    fn unindex(&mut self, session: SessionId, position: usize) {
        if let Ok(entry) = self
            .index
            .find_entry(hash(session), |&index| index as usize == position)
        {
            entry.remove();
        }
    }
}
