//! Which node may write what in a model that several share.

use std::sync::Arc;

use cluster::partition::partition_of;

use super::Memory;
use super::session::Session;
use crate::engine::claim::{ClaimOutcome, ReceivedId, partition_of_filter, partition_of_session};
use crate::engine::{Command, Restored, RetainChange};
use crate::message::{Message, SessionId};

impl Memory {
    /// True when the acting node may write this partition.
    pub(super) fn holds(&self, partition: u16) -> bool {
        self.acting.is_none_or(|node| {
            let claim = self.claims.get(&partition);
            claim.is_some_and(|(_, holder)| *holder == node)
        })
    }

    /// True unless the session is kept in a partition that another node may write. One that does not exist can be named by all.
    pub(super) fn holds_session(&self, session: SessionId) -> bool {
        let stored = self.sessions.get(&session);
        stored.is_none_or(|stored| self.holds(stored.partition))
    }

    /// True when everything that the command would change is this node's to change.
    pub(super) fn is_allowed(&self, command: &Command) -> bool {
        match command {
            Command::PutSession {
                session, record, ..
            } => self.holds(partition_of_session(
                &self.depths,
                *session,
                record.home_name(),
            )),
            Command::Publish {
                message,
                appends,
                received,
                retain,
                ..
            } => {
                let retained = || partition_of(self.depths.root_of_topic(message.topic()));
                appends
                    .iter()
                    .map(|append| append.session)
                    .chain(received.map(|(session, _)| session))
                    .all(|session| self.holds_session(session))
                    && (*retain == RetainChange::None || self.holds(retained()))
            }
            Command::Move { from, to, .. } => self.holds_session(*from) && self.holds_session(*to),
            Command::DeleteSession { session, .. }
            | Command::Subscribe { session, .. }
            | Command::Unsubscribe { session, .. }
            | Command::Receive { session, .. }
            | Command::Release { session, .. }
            | Command::Ack { session, .. }
            | Command::PubRec { session, .. }
            | Command::ReadMailbox { session, .. }
            | Command::ListSubscriptions { session, .. } => self.holds_session(*session),
            Command::Claim { .. } => true,
        }
    }

    pub(super) fn claim(
        &mut self,
        partition: u16,
        epoch: u64,
        unix_ms: u64,
    ) -> (ClaimOutcome, Vec<Restored>) {
        let lost = ClaimOutcome::Lost { epoch };
        let Some(node) = self.acting else {
            return (lost, Vec::new());
        };
        let held = self.claims.get(&partition);
        if let Some(&(held, holder)) = held
            && (held > epoch || (held == epoch && holder != node))
        {
            return (ClaimOutcome::Lost { epoch: held }, Vec::new());
        }
        self.claims.insert(partition, (epoch, node));
        let mut items = Vec::new();
        let kept = |stored: &Session| stored.partition == partition;
        for (&session, stored) in self.sessions.iter().filter(|(_, stored)| kept(stored)) {
            self.restore_session(session, stored, &mut |item| items.push(item));
        }
        for (&session, stored) in &self.sessions {
            for (filter, &record) in &stored.subscriptions {
                if partition_of_filter(&self.depths, filter) == Some(partition) {
                    items.push(Restored::Route {
                        session,
                        home: stored.partition,
                        filter: filter.clone(),
                        record,
                    });
                }
            }
        }
        let here = |message: &Message| {
            let root = self.depths.root_of_topic(message.topic());
            partition_of(root) == partition
        };
        let retained = self.retained.values();
        items.extend(
            retained
                .filter(|message| here(message) && !message.is_expired(unix_ms))
                .map(|message| Restored::Retained {
                    message: Arc::clone(message),
                }),
        );
        (ClaimOutcome::Held, items)
    }

    /// Hands out a session and then its subscriptions.
    pub(super) fn restore_session(
        &self,
        session: SessionId,
        stored: &Session,
        sink: &mut dyn FnMut(Restored),
    ) {
        let received = stored.received.iter();
        sink(Restored::Session {
            session,
            record: stored.record.clone(),
            mailbox: stored.summary(self.sequence_floor),
            received: received
                .map(|(&packet_id, &message)| ReceivedId { packet_id, message })
                .collect(),
        });
        for (filter, &record) in &stored.subscriptions {
            sink(Restored::Subscription {
                session,
                filter: filter.clone(),
                record,
            });
        }
    }
}
