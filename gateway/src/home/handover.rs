//! The home role in a cluster: mailboxes for which owners elsewhere have messages, sessions that come with a partition and go with
//! it, and connections that stay while their home moves.

use edge_proto::reason::ReasonCode;
use reactor::slab::Key;

use super::subscribe::{Stage, SubscriptionOp};
use super::{Edge, Home, HomeSession, Phase, Request, refuse_reattach};
use crate::core_message::{
    AppendRequest, CoreMessage, Detach, HomeSubscribe, Presence, Reattach, SharedPresence,
    SubscriptionName,
};
use crate::engine::claim::ReceivedId;
use crate::engine::{Append, Command, MailboxSummary, RetainChange, SessionRecord};
use crate::handover::Partitions;
use crate::message::SessionId;
use crate::metrics::DropReason;
use crate::ownership::Ownership;
use crate::turn::Turn;

impl Home {
    /// An owner has a message for mailboxes of this core.
    pub fn append(&mut self, turn: &mut Turn<'_>, request: AppendRequest) {
        let AppendRequest {
            message,
            id,
            retry,
            recipients,
            answer: (core, publish),
        } = request;
        // What leaves a queue must be in a mailbox. For any other message a session that is gone is one that has ended.
        if id.is_of_queue() && !recipients.iter().all(|to| self.keeps(to.session)) {
            let rejected = true;
            let done = CoreMessage::AppendDone { publish, rejected };
            return turn.outbox.tell(core, done);
        }
        let appends = recipients.into_iter().map(|recipient| Append {
            session: recipient.session,
            home: turn.facts.core,
            delivery: recipient.delivery,
        });
        let command = Command::Publish {
            appends: appends.collect(),
            token: self.request(Request::Append { core, publish }),
            id,
            retry,
            message,
            received: None,
            retain: RetainChange::None,
        };
        turn.outbox.engine.push_back(command);
    }

    /// A connection has ended. Its edge keeps in mind that it has until it hears that this home knows: it may die before.
    pub fn detached(&mut self, turn: &mut Turn<'_>, detach: Detach) {
        let (core, connection) = (detach.core, detach.connection);
        let known = self.detach(turn, detach);
        if turn.ownership.is_clustered() {
            turn.outbox
                .tell(core, CoreMessage::DetachDone { connection, known });
        }
    }

    /// An owner asks which subscriptions are no more; those of other homes by now are none of this one's.
    pub fn find_subscriptions(
        &self,
        turn: &mut Turn<'_>,
        core: u16,
        names: &[(u16, SubscriptionName)],
    ) {
        let is_here = |partition: u16| turn.ownership.core_of(partition) == turn.facts.core;
        let is_ended = |partition, name: SubscriptionName| {
            !self.durable.contains_key(&name.session) || self.inherited.is_ended(partition, name)
        };
        let ended = names
            .iter()
            .filter(|(partition, name)| is_here(*partition) && is_ended(*partition, *name));
        let ended: Vec<SubscriptionName> = ended.map(|(_, name)| *name).collect();
        if !ended.is_empty() {
            turn.outbox
                .tell(core, CoreMessage::SubscriptionsEnded(ended));
        }
    }

    /// Forgets what came so long ago that no owner asks for it.
    pub fn forget_inherited(&mut self, now_ms: u64) {
        self.inherited.forget(now_ms, |_| true);
    }

    fn keeps(&self, session: SessionId) -> bool {
        let key = self.durable.get(&session);
        let session = key.and_then(|key| self.sessions.get(*key));
        session.is_some_and(|session| session.phase != Phase::Deleting)
    }

    /// A QoS 2 publisher has sent a message: what it is known by is recorded before the message goes anywhere.
    pub fn receive(&mut self, turn: &mut Turn<'_>, key: Key, received: ReceivedId) {
        let Some((edge, session)) = self.edge_of(key) else {
            return;
        };
        let token = self.request(Request::Receive { key, edge });
        turn.outbox.engine.push_back(Command::Receive {
            token,
            session,
            received,
        });
    }

    /// It is recorded.
    pub(super) fn received(
        &mut self,
        turn: &mut Turn<'_>,
        (key, edge): (Key, Edge),
        received: ReceivedId,
    ) {
        let session = self.sessions.get_mut(key);
        let durable = session.and_then(|session| session.durable.as_mut());
        if let Some(durable) = durable {
            let is_new = |known: &ReceivedId| known.packet_id != received.packet_id;
            if durable.received.iter().all(is_new) {
                durable.received.push(received);
            }
        }
        let connection = edge.connection;
        let told = CoreMessage::Received {
            connection,
            received,
        };
        turn.outbox.tell(edge.core, told);
    }

    /// A view holds: sessions of lost partitions go, connections of cores that are gone have ended, and owners that are new hear
    /// what their predecessors knew or were asked.
    pub fn view(&mut self, turn: &mut Turn<'_>, old: &Ownership, lost: &Partitions) {
        for key in self.sessions.keys() {
            let Some(session) = self.sessions.get(key) else {
                continue;
            };
            let edge = session.edge();
            if lost.contains(session.partition()) {
                self.forget(turn, key);
            } else if let Some(edge) = edge.filter(|edge| !turn.ownership.has_core(edge.core)) {
                self.lost_connection(turn, key, edge);
            } else {
                self.tell_new_owners(turn, key, old);
            }
        }
        let members = turn.ownership;
        self.waiting
            .retain(|attach| !lost.contains(attach.partition()) && members.has_core(attach.core));
        self.inherited
            .forget(turn.now.mono_ms, |partition| !lost.contains(partition));
        let gone = self.sessions.keys();
        self.loaded.retain(|(key, _)| gone.contains(key));
        self.ask_owners_again(turn);
    }

    /// The session goes with its partition; another home reads it from the engine.
    fn forget(&mut self, turn: &mut Turn<'_>, key: Key) {
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        let (id, had_edge) = (session.session, session.edge().is_some());
        if let Some(durable) = session.durable.take() {
            let messages = durable.mailbox.len();
            turn.stats.drop_accepted(DropReason::HandedOver, messages);
            if let Some(timer) = durable.timer {
                turn.timers.cancel(timer);
            }
            self.attached_durable -= u64::from(had_edge);
            self.durable.remove(&id);
        }
        self.sessions.remove(key);
    }

    /// The core of a connection is gone with its node.
    fn lost_connection(&mut self, turn: &mut Turn<'_>, key: Key, edge: Edge) {
        let session = self.sessions.get(key);
        let durable = session.and_then(|session| session.durable.as_ref());
        let sent_to = durable.map_or(0, |durable| durable.mailbox.given_to());
        let detach = Detach {
            home: key,
            connection: edge.connection,
            core: edge.core,
            will: true,
            expiry_s: None,
            received: Vec::new(),
            sent_to,
        };
        let _ = self.detach(turn, detach);
    }

    /// The owners of shared subscriptions that are new learn that a member is connected.
    fn tell_new_owners(&self, turn: &mut Turn<'_>, key: Key, old: &Ownership) {
        let Some(session) = self.sessions.get(key) else {
            return;
        };
        let (Phase::Attached(_), Some(durable)) = (session.phase, &session.durable) else {
            return;
        };
        let depths = &turn.facts.root_depths;
        for filter in &durable.shared {
            let before = old.owners_of_filter(depths, filter);
            let owners = turn.ownership.owners_of_filter(depths, filter).iter();
            for &core in owners.filter(|core| !before.contains(core)) {
                let member = SharedPresence {
                    filter: filter.clone(),
                    session: session.session,
                    presence: Presence {
                        connected: true,
                        load: durable.load,
                    },
                };
                turn.outbox
                    .tell(core, CoreMessage::SharedPresence(Box::new(member)));
            }
        }
    }

    /// What owners were asked and have not all answered they are asked again, all of it: each step may be done twice.
    fn ask_owners_again(&mut self, turn: &mut Turn<'_>) {
        let operations = self.operations.iter();
        let mut operations: Vec<(u64, Key)> =
            operations.map(|(key, it)| (it.number, key)).collect();
        operations.sort_unstable(); // In the order in which they came.
        for (_, key) in operations {
            let Some(operation) = self.operations.remove(key) else {
                continue;
            };
            self.looking -= u32::from(operation.stage != Stage::Doing);
            let session = self.sessions.get(operation.home);
            if session.is_some_and(|session| session.session == operation.session) {
                self.operate_again(turn, operation);
            }
        }
        let scans: Vec<Key> = self.scans.iter().map(|(key, _)| key).collect();
        for key in scans {
            let Some(scan) = self.scans.get_mut(key) else {
                continue;
            };
            let (home, id) = scan.target;
            let session = self.sessions.get(home);
            if session.is_none_or(|session| session.session != id) {
                self.scans.remove(key);
            } else if scan.is_moved(turn) {
                self.continue_scan(turn, key);
            }
        }
    }

    fn operate_again(&mut self, turn: &mut Turn<'_>, operation: SubscriptionOp) {
        let SubscriptionOp {
            reply,
            home,
            filter,
            subscribe,
            stage,
            ..
        } = operation;
        match (subscribe, reply) {
            (Some(record), Some(reply)) => {
                let request = HomeSubscribe {
                    home,
                    reply,
                    filter,
                    options: record.options,
                    subscription_id: record.subscription_id,
                    only_replaces: stage != Stage::Doing,
                };
                self.subscribe_again(turn, request);
            }
            _ => self.unsubscribe(turn, home, reply, filter),
        }
    }

    /// Takes over a session of a partition that is new here. Whether it has a connection is not known before all edges have said so.
    pub fn load_session(
        &mut self,
        turn: &mut Turn<'_>,
        id: SessionId,
        record: SessionRecord,
        mailbox: MailboxSummary,
        received: Vec<ReceivedId>,
    ) {
        if let Some(key) = self.durable.get(&id).copied() {
            // Its partition was claimed under an earlier view, and perhaps not read to the end; nobody has had it since.
            self.forget(turn, key);
            self.loaded.retain(|(loaded, _)| *loaded != key);
        }
        let was_connected = record.disconnected_at_unix_ms.is_none();
        let key = self.insert_stored(turn, id, record, mailbox, received);
        if let Some(session) = self.sessions.get(key) {
            self.inherited
                .session(turn.now.mono_ms, session.partition());
        }
        self.loaded.push((key, was_connected));
    }

    /// Every edge has said which connections it has: sessions without one wait for their will and their end.
    pub fn settle_loaded(&mut self, turn: &mut Turn<'_>) {
        for (key, was_connected) in std::mem::take(&mut self.loaded) {
            let session = self.sessions.get(key);
            if session.is_some_and(|session| session.phase == Phase::Offline) {
                if was_connected {
                    self.put(turn, key, None); // From now on it counts as away.
                }
                self.arm(turn, key);
            }
        }
    }

    /// A session is connected while its home has moved here.
    pub fn reattach(&mut self, turn: &mut Turn<'_>, reattach: Reattach) {
        let found = if reattach.durable {
            self.durable.get(&reattach.session).copied()
        } else {
            self.place_live(&reattach)
        };
        let edge = Edge {
            core: reattach.core,
            connection: reattach.connection,
        };
        let phase = found
            .and_then(|key| self.sessions.get(key))
            .map(|it| it.phase);
        match (found, phase) {
            (Some(key), Some(Phase::Attached(known))) if known == edge => {
                self.take_back(turn, key, reattach.sent_to);
            }
            (Some(home), Some(Phase::Evicting(known))) if known == edge => {
                // It is told already that it has to end, and tells when it has.
                let connection = edge.connection;
                let told = CoreMessage::Reattached { connection, home };
                return turn.outbox.tell(edge.core, told);
            }
            _ => {}
        }
        let session = found.and_then(|key| self.sessions.get_mut(key));
        let offline = session.filter(|session| session.phase == Phase::Offline);
        let (Some(key), Some(session)) = (found, offline) else {
            // Its session has ended, or belongs to somebody else by now.
            return refuse_reattach(turn, edge, ReasonCode::SessionTakenOver);
        };
        session.phase = Phase::Attached(edge);
        session.peer = reattach.peer;
        session.identity = reattach.identity;
        let connection = edge.connection;
        let told = CoreMessage::Reattached {
            connection,
            home: key,
        };
        turn.outbox.tell(edge.core, told);
        let Some(durable) = &mut session.durable else {
            session.will = reattach.will.map(Box::new);
            return;
        };
        durable.disconnected_at_unix_ms = None;
        durable.will_at_unix_ms = None;
        if let Some(timer) = durable.timer.take() {
            turn.timers.cancel(timer);
        }
        durable.tell_presence(turn, session.session, true);
        durable.mailbox.attach();
        self.attached_durable += 1;
        self.review_subscriptions(turn, key);
        self.pump(turn, key);
    }

    /// A connection that was here all the time asks whether it still is, and hears nothing of what it was told before.
    pub(super) fn take_back(&mut self, turn: &mut Turn<'_>, key: Key, sent_to: u64) {
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        session.phase = Phase::Offline;
        if let Some(durable) = &mut session.durable {
            durable.mailbox.detach(sent_to, turn.stats);
            self.attached_durable -= 1;
        }
    }

    /// The place of a live-only session, which its home has nowhere stored; `None` when its name is taken.
    fn place_live(&mut self, reattach: &Reattach) -> Option<Key> {
        let known = self.sessions.find(reattach.user(), &reattach.client_id);
        if let Some(key) = known {
            let session = self.sessions.get(key);
            return session
                .is_some_and(|session| session.session == reattach.session)
                .then_some(key);
        }
        let session = HomeSession {
            client_id: reattach.client_id.clone(),
            session: reattach.session,
            phase: Phase::Offline,
            next: None,
            will: None,
            durable: None,
            peer: reattach.peer,
            identity: reattach.identity.clone(),
        };
        Some(self.sessions.insert(session))
    }
}
