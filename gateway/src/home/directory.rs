//! The sessions of a home, by place and by user and client id: each user has client ids of its own, and those who proved nothing have theirs.
//! The index holds keys, not names: a name is stored once.
//!
//! **Two sessions share a place in the index only by chance**, also when all users give their clients the same name, which SDKs do and
//! strangers may.

use std::hash::BuildHasher;

use foldhash::fast::FixedState;
use hashbrown::HashTable;
use reactor::slab::{Key, Slab};

use super::{Edge, HomeSession, Phase};
use crate::admin::{SessionInfo, page_length};
use crate::ownership::home_partition;

/// All sessions whose home is this core.
#[derive(Debug)]
pub struct Directory {
    sessions: Slab<HomeSession>,
    by_name: HashTable<Key>,
    /// Names come from clients: the seed keeps them from choosing where they fall in the table.
    hasher: FixedState,
}

impl Directory {
    /// A home without sessions.
    pub(super) fn new(seed: u64) -> Self {
        Self {
            sessions: Slab::default(),
            by_name: HashTable::new(),
            hasher: FixedState::with_seed(seed),
        }
    }

    /// Number of sessions, those that are being made or deleted included.
    pub fn count(&self) -> usize {
        self.by_name.len()
    }

    pub(super) fn find(&self, user: Option<&str>, client_id: &str) -> Option<Key> {
        let named = |key: &Key| {
            let session = self.sessions.get(*key);
            session
                .is_some_and(|session| *session.client_id == *client_id && session.user() == user)
        };
        let hashed = hash(&self.hasher, user, client_id);
        self.by_name.find(hashed, named).copied()
    }

    /// The sessions of a client id, whoever its user is, which looks at all sessions; that of one user when one is named.
    pub(super) fn named(&self, user: Option<&str>, client_id: &str) -> Vec<Key> {
        if user.is_some() {
            return self.find(user, client_id).into_iter().collect();
        }
        let named = |session: &HomeSession| *session.client_id == *client_id;
        let found = self.sessions.iter();
        let found = found.filter(|(_, session)| named(session));
        found.map(|(key, _)| key).collect()
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
        let hasher = &self.hasher;
        let of = |session: &HomeSession| hash(hasher, session.user(), &session.client_id);
        let hashed = of(&session);
        let key = self.sessions.insert(session);
        let sessions = &self.sessions;
        let rehash = |key: &Key| sessions.get(*key).map_or(0, of);
        self.by_name.insert_unique(hashed, key, rehash);
        key
    }

    pub(super) fn remove(&mut self, key: Key) {
        let Some(session) = self.sessions.remove(key) else {
            return;
        };
        let hashed = hash(&self.hasher, session.user(), &session.client_id);
        if let Ok(entry) = self.by_name.find_entry(hashed, |known| *known == key) {
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

    /// The partition that has its home.
    pub(super) fn partition(&self) -> u16 {
        home_partition(self.user().unwrap_or(&self.client_id))
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

/// Where a session falls in the index. Its user never changes.
fn hash(hasher: &FixedState, user: Option<&str>, client_id: &str) -> u64 {
    hasher.hash_one((user, client_id))
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::Arc;

    use super::*;
    use crate::access::Identity;
    use crate::message::SessionId;

    fn session(user: Option<&str>, client_id: &str) -> HomeSession {
        HomeSession {
            client_id: client_id.into(),
            session: SessionId(0),
            phase: Phase::Offline,
            next: None,
            will: None,
            durable: None,
            peer: SocketAddr::from(([127, 0, 0, 1], 1)),
            identity: user.map(|user| Arc::new(Identity::of_user(user))),
        }
    }

    #[test]
    fn clients_of_one_name_and_many_users_do_not_crowd_one_place() {
        let mut directory = Directory::new(7);
        let users: Vec<String> = (0..4_000).map(|number| format!("user-{number}")).collect();
        for user in &users {
            directory.insert(session(Some(user), "phone"));
        }
        for user in &users {
            let hashed = hash(&directory.hasher, Some(user), "phone");
            let looked_at = directory.by_name.iter_hash(hashed).count();
            assert!(looked_at <= 16, "{looked_at} sessions for one name");
            assert!(directory.find(Some(user), "phone").is_some());
        }
        assert!(directory.find(Some("user-4000"), "phone").is_none());
    }

    #[test]
    fn a_client_is_found_by_its_user_and_those_of_a_name_together() {
        let mut directory = Directory::new(7);
        let nobodys = directory.insert(session(None, "phone"));
        let alices = directory.insert(session(Some("alice"), "phone"));
        let other = directory.insert(session(Some("alice"), "tablet"));
        assert_eq!(directory.find(None, "phone"), Some(nobodys));
        assert_eq!(directory.find(Some("alice"), "phone"), Some(alices));
        assert_eq!(directory.find(Some("bob"), "phone"), None);
        assert_eq!(directory.named(Some("alice"), "phone"), [alices]);
        let mut all = directory.named(None, "phone");
        all.sort_by_key(|key| *key != nobodys);
        assert_eq!(all, [nobodys, alices]);
        directory.remove(alices);
        assert_eq!(directory.find(Some("alice"), "phone"), None);
        assert_eq!(directory.find(Some("alice"), "tablet"), Some(other));
        assert_eq!(directory.count(), 2);
    }
}
