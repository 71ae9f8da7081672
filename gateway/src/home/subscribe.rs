//! Durable subscriptions: written to the engine and announced to the owners by the home, the one place that knows the
//! session, so that nothing of an ended session can come after its end.

use std::sync::Arc;

use edge_proto::packet::{QoS, RetainHandling};
use reactor::slab::Key;

use super::review::Judge;
use super::{Edge, Home, HomeSession, Phase, Request};
use crate::core_message::{
    CoreMessage, Deliver, FindSubscription, HomeSubscribe, Presence, Recipient, ReplyTo,
    RetainedPage, SubscribeRequest, Subscriber, SubscriptionName, Target, UnsubscribeRequest,
};
use crate::engine::{Command, Delivery, SubscriptionRecord};
use crate::message::{Message, SessionId};
use crate::retained_scan::Scan;
use crate::turn::{Turn, is_shared};

/// A SUBSCRIBE or UNSUBSCRIBE of one filter that waits for the engine and the owners.
#[derive(Debug)]
pub(super) struct SubscriptionOp {
    /// Counts them at their home.
    pub(super) number: u64,
    /// `None` when nobody asked for it.
    pub(super) reply: Option<ReplyTo>,
    pub(super) home: Key,
    /// The session that asked: the place may hold another one when the answers are in.
    pub(super) session: SessionId,
    outstanding: u16,
    existed: bool,
    pub(super) filter: Box<str>,
    /// How retained messages come; `None` for an UNSUBSCRIBE.
    pub(super) subscribe: Option<SubscriptionRecord>,
    pub(super) stage: Stage,
    /// True when it was begun under an earlier view: that the subscription exists may be its own work.
    again: bool,
}

/// What an operation is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Only asks whether the subscription exists, since a new one would be one too many.
    Looking,
    /// An UNSUBSCRIBE came while it was looking: there is nothing to replace any more.
    Overtaken,
    /// Makes or removes the subscription.
    Doing,
}

impl ReplyTo {
    /// The answer goes to an operation of this core's home role.
    fn home(turn: &Turn<'_>, request: Key) -> Self {
        Self {
            core: turn.facts.core,
            home: true,
            request,
            index: 0,
        }
    }
}

impl Home {
    /// Makes a durable subscription.
    pub fn subscribe(&mut self, turn: &mut Turn<'_>, request: HomeSubscribe) {
        self.make(turn, request, false);
    }

    /// Makes one that was begun under an earlier view.
    pub(super) fn subscribe_again(&mut self, turn: &mut Turn<'_>, request: HomeSubscribe) {
        self.make(turn, request, true);
    }

    /// The number of the next operation.
    fn count_operation(&mut self) -> u64 {
        self.operations_begun += 1;
        self.operations_begun
    }

    fn make(&mut self, turn: &mut Turn<'_>, request: HomeSubscribe, again: bool) {
        if request.only_replaces {
            return self.look(turn, request);
        }
        let Some(qos_allowed) = self.judge(turn, &request) else {
            return;
        };
        let HomeSubscribe {
            home,
            reply,
            filter,
            options,
            subscription_id,
            ..
        } = request;
        let Some(session) = self.sessions.get_mut(home) else {
            return;
        };
        let Some(durable) = &mut session.durable else {
            return;
        };
        durable.limited |= qos_allowed < QoS::ExactlyOnce;
        let (id, connected) = (session.session, matches!(session.phase, Phase::Attached(_)));
        let load = durable.note_shared(&filter);
        let partition = session.partition();
        self.inherited
            .subscription(partition, SubscriptionName::of(id, &filter));
        self.end_scans((home, id), &filter);
        let record = SubscriptionRecord {
            options,
            subscription_id,
        };
        let mut retained = record;
        retained.limit(qos_allowed);
        let owners = turn.owners_of_filter(&filter);
        let operation = SubscriptionOp {
            number: self.count_operation(),
            reply: Some(reply),
            home,
            session: id,
            outstanding: owners.len() as u16 + 1,
            existed: false,
            filter: filter.clone(),
            subscribe: Some(retained),
            stage: Stage::Doing,
            again,
        };
        let operation = self.operations.insert(operation);
        let subscriber = Subscriber {
            qos_allowed,
            ..Subscriber::new(id, Target::Home { partition }, record)
        };
        for &core in owners {
            let request = SubscribeRequest {
                filter: filter.clone(),
                subscriber,
                presence: Presence { connected, load },
                reply: Some(ReplyTo::home(turn, operation)),
            };
            turn.outbox
                .tell(core, CoreMessage::Subscribe(Box::new(request)));
        }
        let token = self.request(Request::Subscription(operation));
        turn.outbox.engine.push_back(Command::Subscribe {
            token,
            session: id,
            filter,
            record,
        });
    }

    /// What the rules allow a subscription that its edge has judged under those of a moment ago. `None` when that is nothing: it is as
    /// if it had been made and cut, and whoever asked is answered.
    fn judge(&self, turn: &mut Turn<'_>, request: &HomeSubscribe) -> Option<QoS> {
        let session = self.sessions.get(request.home)?;
        let judge = Judge::of(session.identity.as_ref(), &session.client_id, session.peer);
        let allowed = judge.judge(turn, &request.filter).ok();
        if allowed.is_none() {
            turn.stats.counters.subscriptions_cut += 1;
            // As one that existed before: the edge is not to count it.
            let (reply, existed) = (request.reply, true);
            let done = CoreMessage::SubscriptionDone { reply, existed };
            turn.outbox.tell(reply.core, done);
        }
        allowed
    }

    /// Retained messages that are still to come for a subscription have what the rules allow it now.
    pub(super) fn limit_retained(&mut self, target: (Key, SessionId), filter: &str, qos: QoS) {
        self.change_operations(target.1, filter, |record| record.limit(qos));
        let of_it = self.scans.iter();
        let of_it = of_it.filter(|(_, scan)| scan.is_for(&target, filter));
        let scans: Vec<Key> = of_it.map(|(key, _)| key).collect();
        for key in scans {
            if let Some(scan) = self.scans.get_mut(key) {
                scan.record.limit(qos);
            }
        }
    }

    /// Asks an owner whether a subscription exists, before it is replaced.
    fn look(&mut self, turn: &mut Turn<'_>, request: HomeSubscribe) {
        let Some(session) = self.sessions.get(request.home) else {
            return;
        };
        let session = session.session;
        self.looking += 1;
        let number = self.count_operation();
        let operation = self.operations.insert(SubscriptionOp {
            number,
            reply: Some(request.reply),
            home: request.home,
            session,
            outstanding: 1,
            existed: false,
            filter: request.filter.clone(),
            subscribe: Some(SubscriptionRecord {
                options: request.options,
                subscription_id: request.subscription_id,
            }),
            stage: Stage::Looking,
            again: false,
        });
        let reply = ReplyTo {
            core: turn.facts.core,
            home: true,
            request: operation,
            index: 0,
        };
        let owner = turn.owners_of_filter(&request.filter)[0];
        let find = FindSubscription {
            filter: request.filter,
            session,
            reply,
        };
        turn.outbox
            .tell(owner, CoreMessage::FindSubscription(Box::new(find)));
    }

    /// Removes a durable subscription.
    pub fn unsubscribe(
        &mut self,
        turn: &mut Turn<'_>,
        home: Key,
        reply: Option<ReplyTo>,
        filter: Box<str>,
    ) {
        let Some(session) = self.sessions.get_mut(home) else {
            return;
        };
        let Some(durable) = &mut session.durable else {
            return;
        };
        durable.shared.retain(|shared| **shared != *filter);
        let id = session.session;
        self.end_scans((home, id), &filter);
        self.overtake(id, &filter);
        let owners = turn.owners_of_filter(&filter);
        let operation = SubscriptionOp {
            number: self.count_operation(),
            reply,
            home,
            session: id,
            outstanding: owners.len() as u16 + 1,
            existed: false,
            filter: filter.clone(),
            subscribe: None,
            stage: Stage::Doing,
            again: false,
        };
        let operation = self.operations.insert(operation);
        let reply = Some(ReplyTo {
            core: turn.facts.core,
            home: true,
            request: operation,
            index: 0,
        });
        for &core in owners {
            let request = UnsubscribeRequest {
                filter: filter.clone(),
                session: id,
                reply,
            };
            turn.outbox
                .tell(core, CoreMessage::Unsubscribe(Box::new(request)));
        }
        let token = self.request(Request::Subscription(operation));
        turn.outbox.engine.push_back(Command::Unsubscribe {
            token,
            session: id,
            filter,
        });
    }

    /// A subscription that is cut while it is being made brings no retained messages.
    pub(super) fn keep_retained(&mut self, session: SessionId, filter: &str) {
        self.change_operations(session, filter, |record| {
            record.options.retain_handling = RetainHandling::DoNotSend;
        });
    }

    /// Changes how retained messages come for a subscription that is being made.
    fn change_operations(
        &mut self,
        session: SessionId,
        filter: &str,
        change: impl Fn(&mut SubscriptionRecord),
    ) {
        let is_it = |found: &SubscriptionOp| found.session == session && *found.filter == *filter;
        let found = self.operations.iter().filter(|(_, found)| is_it(found));
        let keys: Vec<Key> = found.map(|(key, _)| key).collect();
        for key in keys {
            let operation = self.operations.get_mut(key);
            if let Some(record) = operation.and_then(|found| found.subscribe.as_mut()) {
                change(record);
            }
        }
    }

    /// Notes that a subscription goes while it is being looked for.
    fn overtake(&mut self, session: SessionId, filter: &str) {
        if self.looking == 0 {
            return;
        }
        let is_it = |operation: &SubscriptionOp| {
            operation.stage == Stage::Looking
                && operation.session == session
                && *operation.filter == *filter
        };
        let found = self.operations.iter().filter(|(_, found)| is_it(found));
        let keys: Vec<Key> = found.map(|(key, _)| key).collect();
        for key in keys {
            if let Some(operation) = self.operations.get_mut(key) {
                operation.stage = Stage::Overtaken;
            }
        }
    }

    /// An owner (`Some(existed)`) or the engine (`None`) has done its part of an operation.
    pub fn operation_step(&mut self, turn: &mut Turn<'_>, operation: Key, existed: Option<bool>) {
        let Some(step) = self.operations.get_mut(operation) else {
            return;
        };
        let is_own = step.again && step.subscribe.is_some();
        step.existed |= existed.unwrap_or(false) && !is_own;
        step.outstanding -= 1;
        if step.outstanding > 0 {
            return;
        }
        let Some(done) = self.operations.remove(operation) else {
            return;
        };
        let (reply, existed) = (done.reply, done.existed);
        let same = |session: &&mut HomeSession| session.session == done.session;
        self.looking -= u32::from(done.stage != Stage::Doing);
        if let (Stage::Looking, true, Some(record), Some(reply)) =
            (done.stage, existed, done.subscribe, reply)
            && self.sessions.get_mut(done.home).filter(same).is_some()
        {
            let request = HomeSubscribe {
                home: done.home,
                reply,
                filter: done.filter,
                options: record.options,
                subscription_id: record.subscription_id,
                only_replaces: false,
            };
            return self.subscribe(turn, request);
        }
        if let Some(reply) = reply {
            turn.outbox
                .tell(reply.core, CoreMessage::SubscriptionDone { reply, existed });
        }
        if done.stage == Stage::Doing {
            self.done(turn, done);
        }
    }

    /// A subscription is made or removed.
    fn done(&mut self, turn: &mut Turn<'_>, done: SubscriptionOp) {
        let session = self.sessions.get_mut(done.home);
        let Some(session) = session.filter(|session| session.session == done.session) else {
            return;
        };
        let (phase, existed) = (session.phase, done.existed);
        let Some(durable) = &mut session.durable else {
            return;
        };
        match done.subscribe {
            None => {
                durable.subscriptions = durable.subscriptions.saturating_sub(u32::from(existed));
                // Where nobody asked for it, its edge does not know. The edge of a session that is away is told the number when there is one.
                if let (true, None, Phase::Attached(edge)) = (existed, done.reply, phase) {
                    let connection = edge.connection;
                    let cut = CoreMessage::SubscriptionCut { connection };
                    turn.outbox.tell(edge.core, cut);
                }
            }
            Some(record) => {
                durable.subscriptions += u32::from(!existed);
                let wanted = match record.options.retain_handling {
                    RetainHandling::Send => true,
                    RetainHandling::SendIfNew => !existed,
                    RetainHandling::DoNotSend => false,
                };
                if wanted && !is_shared(&done.filter) {
                    let owners = turn.owners_of_filter(&done.filter);
                    let scan = Scan::new((done.home, done.session), done.filter, record, owners);
                    let key = self.scans.insert(scan);
                    self.continue_scan(turn, key);
                }
            }
        }
    }

    /// Goes on with scans that waited for the engine; called at the end of a turn.
    pub fn resume_scans(&mut self, turn: &mut Turn<'_>) {
        if turn.congestion.congested {
            return;
        }
        for key in std::mem::take(&mut self.parked_scans) {
            self.continue_scan(turn, key);
        }
    }

    /// True when scans wait for the engine.
    pub fn has_parked_scans(&self) -> bool {
        !self.parked_scans.is_empty()
    }

    /// Ends the scans of a subscription that is replaced or removed.
    fn end_scans(&mut self, target: (Key, SessionId), filter: &str) {
        let ended = self
            .scans
            .iter()
            .filter(|(_, scan)| scan.is_for(&target, filter));
        let ended: Vec<Key> = ended.map(|(key, _)| key).collect();
        for key in ended {
            self.scans.remove(key);
        }
    }

    pub(super) fn continue_scan(&self, turn: &mut Turn<'_>, key: Key) {
        let Some(scan) = self.scans.get(key) else {
            return;
        };
        let (home, session) = scan.target;
        let Some(partition) = self.sessions.get(home).map(HomeSession::partition) else {
            return;
        };
        scan.ask(
            turn,
            Some((session, partition)),
            ReplyTo {
                core: turn.facts.core,
                home: true,
                request: key,
                index: 0,
            },
        );
    }

    /// Retained messages for a new subscription: the owner has put those of QoS ≥ 1 into the mailbox, these are the others.
    pub fn retained_page(&mut self, turn: &mut Turn<'_>, page: RetainedPage) {
        let key = page.reply.request;
        let Some(scan) = self.scans.get_mut(key) else {
            return;
        };
        let ((home, id), record) = (scan.target, scan.record);
        let more = scan.advance(page.next);
        let session = self.sessions.get(home);
        let Some(session) = session.filter(|session| session.session == id) else {
            self.scans.remove(key);
            return;
        };
        if let Phase::Attached(edge) = session.phase {
            for message in page.messages {
                send_retained(turn, edge, message, record);
            }
        }
        if more && turn.congestion.congested {
            self.parked_scans.push_back(key); // The engine takes nothing: the next page would only wait for it here.
        } else if more {
            self.continue_scan(turn, key);
        } else {
            self.scans.remove(key);
        }
    }
}

/// Hands a QoS 0 message to the connection of a durable session.
fn send_retained(
    turn: &mut Turn<'_>,
    edge: Edge,
    message: Arc<Message>,
    record: SubscriptionRecord,
) {
    let delivery = crate::retained_scan::delivery(&message, record);
    let recipients = vec![Recipient {
        connection: edge.connection,
        delivery,
    }];
    let deliver = Deliver {
        message,
        recipients,
        answer: None,
        is_lossy: true,
    };
    turn.outbox
        .tell(edge.core, CoreMessage::Deliver(Box::new(deliver)));
}

const _: () = assert!(size_of::<Delivery>() <= 24);
