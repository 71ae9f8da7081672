//! The sessions of a home, by place and by user and client id: each user has client ids of its own, and those who proved nothing have theirs.
//! The index holds keys, not names: a name is stored once.

use std::hash::BuildHasher;

use foldhash::fast::FixedState;
use hashbrown::HashTable;
use reactor::slab::{Key, Slab};

use super::{Edge, HomeSession, Phase};
use crate::admin::{SessionInfo, page_length};

/// All sessions whose home is this core.
#[derive(Debug)]
pub struct Directory {
    sessions: Slab<HomeSession>,
    by_client_id: HashTable<Key>,
    /// Client ids come from clients: the seed keeps them from choosing where they fall in the table.
    hasher: FixedState,
}

impl Directory {
    /// A home without sessions.
    pub(super) fn new(seed: u64) -> Self {
        Self {
            sessions: Slab::default(),
            by_client_id: HashTable::new(),
            hasher: FixedState::with_seed(seed),
        }
    }

    /// Number of sessions, those that are being made or deleted included.
    pub fn count(&self) -> usize {
        self.by_client_id.len()
    }

    pub(super) fn find(&self, user: Option<&str>, client_id: &str) -> Option<Key> {
        let named = |key: &Key| {
            let session = self.sessions.get(*key);
            session
                .is_some_and(|session| *session.client_id == *client_id && session.user() == user)
        };
        self.by_client_id
            .find(self.hasher.hash_one(client_id), named)
            .copied()
    }

    /// The sessions of a client id, whoever its user is; those of one user when one is named.
    pub(super) fn named(&self, user: Option<&str>, client_id: &str) -> Vec<Key> {
        let mut found: Vec<Key> = self
            .by_client_id
            .iter_hash(self.hasher.hash_one(client_id))
            .copied()
            .collect();
        found.retain(|key| {
            self.sessions.get(*key).is_some_and(|session| {
                *session.client_id == *client_id && (user.is_none() || session.user() == user)
            })
        });
        found
    }

    /// Where all sessions are.
    pub(super) fn keys(&self) -> Vec<Key> {
        self.sessions.iter().map(|(key, _)| key).collect()
    }

    pub(super) fn get(&self, key: Key) -> Option<&HomeSession> {
        self.sessions.get(key)
    }

    pub(super) fn get_mut(&mut self, key: Key) -> Option<&mut HomeSession> {
        self.sessions.get_mut(key)
    }

    pub(super) fn insert(&mut self, session: HomeSession) -> Key {
        let hashed = self.hasher.hash_one(&*session.client_id);
        let key = self.sessions.insert(session);
        let sessions = &self.sessions;
        let rehash = |key: &Key| {
            sessions
                .get(*key)
                .map_or(0, |session| self.hasher.hash_one(&*session.client_id))
        };
        self.by_client_id.insert_unique(hashed, key, rehash);
        key
    }

    pub(super) fn remove(&mut self, key: Key) {
        let Some(session) = self.sessions.remove(key) else {
            return;
        };
        if let Ok(entry) = self
            .by_client_id
            .find_entry(self.hasher.hash_one(&*session.client_id), |known| {
                *known == key
            })
        {
            entry.remove();
        }
    }

    /// Sessions as an operator sees them, in client id order: those that begin with `prefix`, after `after`.
    pub fn list(&self, core: u16, prefix: &str, after: &str, limit: usize) -> Vec<SessionInfo> {
        let wanted = |session: &&HomeSession| {
            session.client_id.starts_with(prefix) && *session.client_id > *after
        };
        let mut found: Vec<&HomeSession> = self
            .sessions
            .iter()
            .map(|(_, session)| session)
            .filter(wanted)
            .collect();
        found.sort_unstable_by(|left, right| left.client_id.cmp(&right.client_id));
        let page = page_length(&found, limit, |session| &session.client_id);
        found.truncate(page);
        found
            .into_iter()
            .map(|session| session.info(core))
            .collect()
    }

    /// The sessions of a client id as an operator sees them, of one user or of all.
    pub fn show(&self, core: u16, user: Option<&str>, client_id: &str) -> Vec<SessionInfo> {
        let keys = self.named(user, client_id);
        let sessions = keys.into_iter().filter_map(|key| self.get(key));
        sessions.map(|session| session.info(core)).collect()
    }
}

impl HomeSession {
    pub(super) fn edge(&self) -> Option<Edge> {
        match self.phase {
            Phase::Attached(edge) | Phase::Evicting(edge) => Some(edge),
            Phase::Offline | Phase::Storing | Phase::Deleting => None,
        }
    }

    fn info(&self, core: u16) -> SessionInfo {
        let edge = self.edge();
        let durable = self.durable.as_deref();
        SessionInfo {
            client_id: self.client_id.to_string(),
            user: self.user().map(str::to_owned),
            connected: edge.is_some(),
            edge_core: edge.map(|edge| edge.core),
            home_core: core,
            peer: edge.map(|_| self.peer.to_string()),
            expiry_s: durable.map_or(0, |durable| durable.expiry_s),
            durable: durable.is_some(),
            mailbox_messages: durable.map_or(0, |durable| durable.mailbox.len()),
            mailbox_bytes: durable.map_or(0, |durable| durable.mailbox.bytes()),
            disconnected_at_unix_ms: durable.and_then(|durable| durable.disconnected_at_unix_ms),
        }
    }
}
