//! Sessions that come back from the store, and the end of sessions: expiry, wills with a delay, deletion, and what an
//! operator orders.

use std::net::SocketAddr;
use std::sync::Arc;

use edge_proto::reason::ReasonCode;
use reactor::slab::Key;

use super::mailbox::Mailbox;
use super::{Durable, Home, HomeSession, Phase, Request};
use crate::access::Identity;
use crate::core_message::{CoreMessage, SubscriptionName, UnsubscribeRequest};
use crate::engine::claim::ReceivedId;
use crate::engine::{Command, MailboxSummary, SessionRecord};
use crate::message::SessionId;
use crate::metrics::DropReason;
use crate::turn::{Timer, Turn, is_shared};

impl Home {
    /// Takes over a session from the store; it is offline.
    pub fn restore_session(
        &mut self,
        turn: &mut Turn<'_>,
        id: SessionId,
        record: SessionRecord,
        mailbox: MailboxSummary,
        received: Vec<ReceivedId>,
    ) {
        let key = self.insert_stored(turn, id, record, mailbox, received);
        self.arm(turn, key);
    }

    /// Puts a session of the store into its place; its timer is not armed yet.
    pub(super) fn insert_stored(
        &mut self,
        turn: &mut Turn<'_>,
        id: SessionId,
        record: SessionRecord,
        mailbox: MailboxSummary,
        received: Vec<ReceivedId>,
    ) -> Key {
        let unix_ms = turn.now.unix_ms;
        let disconnected_at_unix_ms = record.disconnected_at_unix_ms.unwrap_or(unix_ms);
        // A will that is still there was neither published nor discarded: its connection ended with the node.
        let will_at = record
            .will
            .as_ref()
            .map(|will| disconnected_at_unix_ms + u64::from(will.delay_s) * 1000);
        let durable = Durable {
            expiry_s: record.expiry_s,
            disconnected_at_unix_ms: Some(disconnected_at_unix_ms),
            will_at_unix_ms: will_at,
            received,
            suspect: mailbox.messages > 0,
            mailbox: Mailbox::restored(mailbox, turn.stats),
            ..Durable::default()
        };
        let key = self.sessions.insert(HomeSession {
            client_id: record.client_id,
            session: id,
            phase: Phase::Offline,
            next: None,
            will: record.will.map(Box::new),
            durable: Some(Box::new(durable)),
            peer: SocketAddr::from(([0, 0, 0, 0], 0)),
            identity: record.user.map(|user| Arc::new(Identity::of_user(&user))),
        });
        self.durable.insert(id, key);
        key
    }

    /// Takes over a subscription from the store, if its session is here; returns the partition of that.
    pub fn restore_subscription(&mut self, session: SessionId, filter: &str) -> Option<u16> {
        let key = self.durable.get(&session)?;
        let stored = self.sessions.get_mut(*key)?;
        let partition = stored.partition();
        let durable = stored.durable.as_mut()?;
        durable.subscriptions += 1;
        if is_shared(filter) {
            durable.shared.push(filter.into());
        }
        let name = SubscriptionName::of(session, filter);
        self.inherited.subscription(partition, name);
        Some(partition)
    }

    /// A durable session has lost its connection: it waits, or ends at once.
    pub(super) fn went_offline(&mut self, turn: &mut Turn<'_>, key: Key) {
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        let Some(durable) = &mut session.durable else {
            return;
        };
        if durable.expiry_s == 0 {
            return self.delete(turn, key);
        }
        let delay_s = session.will.as_ref().map(|will| will.delay_s);
        match delay_s {
            Some(0) => session.publish_will(turn),
            Some(delay_s) => {
                durable.will_at_unix_ms = Some(turn.now.unix_ms + u64::from(delay_s) * 1000);
            }
            None => {}
        }
        self.put(turn, key, None);
        self.arm(turn, key);
        if let Some(session) = self.sessions.get(key)
            && session.next.is_some()
        {
            self.advance(turn, key);
        }
    }

    /// Sets the timer of an offline session to what comes first: its will or its end.
    pub(super) fn arm(&mut self, turn: &mut Turn<'_>, key: Key) {
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        let Some(durable) = &mut session.durable else {
            return;
        };
        if let Some(timer) = durable.timer.take() {
            turn.timers.cancel(timer);
        }
        let due = [durable.will_at_unix_ms, durable.ends_at_unix_ms()]
            .into_iter()
            .flatten()
            .min();
        if let Some(unix_ms) = due {
            let delay_ms = unix_ms.saturating_sub(turn.now.unix_ms);
            durable.timer = Some(
                turn.timers
                    .arm(turn.now.mono_ms + delay_ms, Timer::Session(key)),
            );
        }
    }

    /// The timer of a session fired.
    pub fn timer(&mut self, turn: &mut Turn<'_>, key: Key) {
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        let Some(durable) = &mut session.durable else {
            return;
        };
        durable.timer = None;
        if session.phase != Phase::Offline {
            return;
        }
        if durable.is_expired(turn.now.unix_ms) {
            return self.delete(turn, key);
        }
        if durable
            .will_at_unix_ms
            .is_some_and(|due| due <= turn.now.unix_ms)
        {
            durable.will_at_unix_ms = None;
            session.publish_will(turn);
            self.put(turn, key, None);
        }
        self.arm(turn, key);
    }

    /// Starts to delete an offline durable session.
    pub(super) fn delete(&mut self, turn: &mut Turn<'_>, key: Key) {
        let token = self.request(Request::Deleted(key));
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        session.phase = Phase::Deleting;
        turn.outbox.engine.push_back(Command::DeleteSession {
            token,
            session: session.session,
        });
    }

    /// The engine has deleted a session: its owners forget it, its will is published (MQTT-3.1.2-8: the session has ended).
    pub(super) fn deleted(
        &mut self,
        turn: &mut Turn<'_>,
        key: Key,
        id: SessionId,
        filters: &[Box<str>],
    ) {
        for filter in filters {
            for &core in turn.owners_of_filter(filter) {
                let request = UnsubscribeRequest {
                    filter: filter.clone(),
                    session: id,
                    reply: None,
                };
                turn.outbox
                    .tell(core, CoreMessage::Unsubscribe(Box::new(request)));
            }
        }
        self.durable.remove(&id);
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        if let Some(durable) = session.durable.take() {
            turn.stats
                .drop_accepted(DropReason::SessionEnded, durable.mailbox.len());
            if let Some(timer) = durable.timer {
                turn.timers.cancel(timer);
            }
        }
        session.publish_will(turn);
        session.phase = Phase::Offline;
        self.advance(turn, key);
    }

    /// An operator disconnects a client, and with `delete` ends its session; the clients of this name of all users when none is
    /// named. False when there is no such session.
    pub fn kick(
        &mut self,
        turn: &mut Turn<'_>,
        user: Option<&str>,
        client_id: &str,
        delete: bool,
    ) -> bool {
        let keys = self.sessions.named(user, client_id);
        for key in &keys {
            self.kick_session(turn, *key, delete);
        }
        !keys.is_empty()
    }

    /// Ends the connection of a session, if it has one.
    pub(super) fn evict(&mut self, turn: &mut Turn<'_>, key: Key, reason: ReasonCode) {
        if let Some(session) = self.sessions.get_mut(key)
            && let Phase::Attached(edge) = session.phase
        {
            session.phase = Phase::Evicting(edge);
            let connection = edge.connection;
            turn.outbox.tell(
                edge.core,
                CoreMessage::Evict {
                    home: Some(key),
                    connection,
                    reason,
                },
            );
        }
    }

    fn kick_session(&mut self, turn: &mut Turn<'_>, key: Key, delete: bool) {
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        if delete && let Some(durable) = &mut session.durable {
            durable.expiry_s = 0;
        }
        match session.phase {
            Phase::Attached(_) => self.evict(turn, key, ReasonCode::AdministrativeAction),
            Phase::Offline if delete && session.durable.is_some() => self.delete(turn, key),
            Phase::Offline | Phase::Evicting(_) | Phase::Storing | Phase::Deleting => {}
        }
    }
}
