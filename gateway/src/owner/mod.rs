//! The owner role: routes every message of the partitions this core owns, orders them, and answers for them.
//!
//! A publish is acknowledged when everything it asked for has happened: the engine has committed it for every matching
//! durable session (with the publisher's QoS 2 packet identifier and the retained message, in one atomic step), and every
//! edge has taken it into the bounded queues of the matching live sessions.

mod groups;
mod handover;
pub mod hot;
#[cfg(test)]
mod publish_tests;
mod queue;
mod queue_mailbox;
pub mod retained;
mod routes;
mod subscribers;
pub mod subscriptions;

use std::collections::VecDeque;
use std::sync::Arc;

use edge_proto::packet::QoS;
use edge_proto::reason::ReasonCode;
use foldhash::fast::FixedState;
use hashbrown::HashMap;
use reactor::slab::Key;

use crate::core_message::{
    CoreMessage, DeliverReply, FindSubscription, LimitSubscription, Origin, PublishRequest,
    RetainedPage, RetainedScan, SubscribeRequest, UnsubscribeRequest,
};
use crate::engine::claim::MessageId;
use crate::engine::{Command, RetainChange};
use crate::handover::Partitions;
use crate::message::{Message, SessionId};
use crate::shard::{TokenRole, token};
use crate::turn::{Turn, without_share};

use handover::{Appending, Awaited};
use hot::HotRoots;
use queue_mailbox::QueueMailbox;
use retained::Retained;
use routes::{Routes, append_retained, clear_stored, deliver_home, deliver_live};
use subscriptions::{Match, Subscriptions};

/// Pages of retained messages that one turn reads at most.
const PAGES_PER_TURN: u32 = 16;

/// Expired retained messages that one turn removes at most.
const SWEPT_PER_TURN: usize = 16;

/// State of the owner role on one core.
#[derive(Debug)]
pub struct Owner {
    /// Who gets what.
    pub subscriptions: Subscriptions,
    retained: Retained,
    hot: HotRoots,
    pending: HashMap<u64, Pending, FixedState>,
    /// Pages of retained messages to read. Each asker has one at a time.
    scans: VecDeque<RetainedScan>,
    /// Pages that may still be read in this turn.
    pages_left: u32,
    /// Names publishes and requests about queues.
    next_publish: u64,
    scratch: Vec<Match>,
    scratch_groups: Vec<Key>,
    /// The mailboxes of shared subscriptions in the engine.
    mailboxes: HashMap<SessionId, QueueMailbox, FixedState>,
    /// What is asked about them.
    requests: HashMap<u64, queue::Request, FixedState>,
    /// Messages of queues on their way to mailboxes, in a cluster.
    appending: HashMap<u64, Appending, FixedState>,
    /// Restored queues whose groups are not known yet.
    orphans: Vec<(SessionId, Box<str>)>,
    /// Partitions of homes that have changed hands: of the subscriptions there some may have ended, and nobody has said so.
    unsure: Partitions,
    /// Those that homes were asked about last, and when. An answer may not have come before the next view.
    asked: (Partitions, u64),
}

/// A publish that waits for stores and queues.
#[derive(Debug)]
struct Pending {
    waits: Waits,
    /// In a cluster, who is to answer.
    awaited: Option<Box<Awaited>>,
    /// Answers still to come.
    outstanding: u32,
    recipients: u32,
    /// True when the publisher is to hear of full mailboxes: only at QoS 1, where a repetition may arrive twice.
    may_refuse: bool,
    /// True when a mailbox was full and refused the message.
    rejected: bool,
}

/// Who waits for the answer to a publish.
#[derive(Clone, Copy, Debug)]
struct Waits {
    origin: Origin,
    id: MessageId,
}

impl Pending {
    /// Answers everybody who waits.
    fn finish(self, turn: &mut Turn<'_>) {
        let others = self.awaited.map(|awaited| awaited.others);
        let id = self.waits.id;
        let others = others.unwrap_or_default().into_iter();
        let others = others.map(|origin| Waits::new(origin, id));
        for waits in std::iter::once(self.waits).chain(others) {
            if self.rejected && self.may_refuse {
                waits.done(turn, ReasonCode::QuotaExceeded, self.recipients);
            } else {
                waits.finish(turn, self.recipients);
            }
        }
    }
}

impl Waits {
    const fn new(origin: Origin, id: MessageId) -> Self {
        Self { origin, id }
    }

    fn finish(self, turn: &mut Turn<'_>, recipients: u32) {
        let reason = if recipients == 0 {
            ReasonCode::NoMatchingSubscribers
        } else {
            ReasonCode::Success
        };
        self.done(turn, reason, recipients);
    }

    fn done(self, turn: &mut Turn<'_>, reason: ReasonCode, recipients: u32) {
        let Self { origin, id } = self;
        if let Some(core) = origin.core() {
            let done = CoreMessage::PublishDone {
                origin,
                reason,
                recipients,
                id,
            };
            turn.outbox.tell(core, done);
        }
    }
}

impl Owner {
    /// An owner of nothing. The seed makes its hash tables unpredictable.
    pub fn new(seed: u64) -> Self {
        Self {
            subscriptions: Subscriptions::new(seed),
            retained: Retained::default(),
            hot: HotRoots::new(seed),
            pending: HashMap::default(),
            scans: VecDeque::new(),
            pages_left: PAGES_PER_TURN,
            next_publish: 0,
            scratch: Vec::new(),
            scratch_groups: Vec::new(),
            mailboxes: HashMap::default(),
            requests: HashMap::default(),
            appending: HashMap::default(),
            orphans: Vec::new(),
            unsure: Partitions::default(),
            asked: (Partitions::default(), 0),
        }
    }

    /// Routes one message.
    pub fn publish(&mut self, turn: &mut Turn<'_>, request: PublishRequest) {
        let PublishRequest {
            message,
            origin,
            may_refuse,
            received,
            id: message_id,
            retry,
        } = request;
        let waits = Waits::new(origin, message_id);
        if retry && self.join_pending(message_id, origin) {
            return; // It will be answered.
        }
        let root = turn.facts.root_depths.root_of_topic(message.topic());
        self.hot.count(root);
        let retain = match self.retain(turn, &message) {
            Ok(change) => change,
            Err(reason) if may_refuse => return waits.done(turn, reason, 0),
            Err(_) => {
                turn.stats.counters.retained_dropped += 1;
                RetainChange::None
            }
        };
        let (recipients, mut routes) = self.route(turn, root, &message);
        if recipients == 0 {
            turn.stats.counters.publishes_unmatched += 1;
        }
        let id = self.next_publish;
        self.next_publish += 1;
        let mut outstanding = 0;
        if !routes.appends.is_empty() || received.is_some() || retain != RetainChange::None {
            let store = Command::Publish {
                token: token(TokenRole::Owner, id),
                id: message_id,
                retry,
                message: message.clone(),
                appends: std::mem::take(&mut routes.appends),
                received,
                retain,
            };
            turn.outbox.engine.push_back(store);
            outstanding += 1;
        }
        let answer = (origin != Origin::Nobody).then_some(DeliverReply {
            core: turn.facts.core,
            publish: id,
            id: message_id,
            retry,
        });
        let awaited = Awaited::of(turn, &message, &mut routes, answer.is_some());
        if let Some(awaited) = &awaited {
            outstanding += awaited.ask_homes(turn, (id, message_id, retry));
        }
        outstanding += deliver_live(turn, &message, routes.live, answer);
        deliver_home(turn, &message, routes.homes);
        if outstanding > 0 {
            self.pending.insert(
                id,
                Pending {
                    waits,
                    awaited,
                    outstanding,
                    recipients,
                    may_refuse: may_refuse && message.qos == QoS::AtLeastOnce,
                    rejected: false,
                },
            );
        } else {
            waits.finish(turn, recipients);
        }
    }

    /// Everyone who gets a message, and how many they are.
    fn route(&mut self, turn: &mut Turn<'_>, root: &str, message: &Arc<Message>) -> (u32, Routes) {
        let mut matches = std::mem::take(&mut self.scratch);
        let mut groups = std::mem::take(&mut self.scratch_groups);
        self.subscriptions
            .matches(root, message, &mut matches, &mut groups);
        let recipients = (matches.len() + groups.len()) as u32;
        let mut routes = Routes::default();
        for key in groups.drain(..) {
            match self.route_to_group(turn, key, message) {
                Ok(member) => matches.push(member),
                Err(append) => routes.appends.push(append),
            }
        }
        routes.sort(turn, matches.drain(..));
        self.scratch = matches;
        self.scratch_groups = groups;
        (recipients, routes)
    }

    /// One of the answers to a publish has come: from the engine, which may have found full mailboxes, or from an edge.
    pub fn answered(&mut self, turn: &mut Turn<'_>, publish: u64, rejected: bool) {
        let Some(pending) = self.pending.get_mut(&publish) else {
            return;
        };
        pending.outstanding -= 1;
        pending.rejected |= rejected;
        if pending.outstanding > 0 {
            return;
        }
        if let Some(pending) = self.pending.remove(&publish) {
            pending.finish(turn);
        }
    }

    /// Makes or replaces a subscription.
    pub fn subscribe(&mut self, turn: &mut Turn<'_>, request: SubscribeRequest) {
        let root = turn
            .facts
            .root_depths
            .root_of_filter(without_share(&request.filter));
        self.end_scans(request.subscriber.session, &request.filter);
        let existed = self.subscriptions.subscribe(
            root,
            &request.filter,
            request.subscriber,
            request.presence,
        );
        if let Some(key) = self.subscriptions.group(root, &request.filter) {
            self.drain(turn, key);
        }
        if let Some(reply) = request.reply {
            turn.outbox
                .tell(reply.core, CoreMessage::SubscriptionDone { reply, existed });
        }
    }

    /// Removes a subscription.
    pub fn unsubscribe(&mut self, turn: &mut Turn<'_>, request: &UnsubscribeRequest) {
        let root = turn
            .facts
            .root_depths
            .root_of_filter(without_share(&request.filter));
        self.end_scans(request.session, &request.filter);
        let ended = self
            .subscriptions
            .unsubscribe(root, &request.filter, request.session);
        if let Some(group) = ended.group {
            self.end_group(turn, group);
        }
        let existed = ended.existed;
        if let Some(reply) = request.reply {
            turn.outbox
                .tell(reply.core, CoreMessage::SubscriptionDone { reply, existed });
        }
    }

    /// The rules allow another QoS to a subscription than they did. What was sent or stored for it stays as it is.
    pub fn limit_subscription(&mut self, turn: &mut Turn<'_>, limit: &LimitSubscription) {
        let inner = without_share(&limit.filter);
        let root = turn.facts.root_depths.root_of_filter(inner);
        let of_it = |scan: &&mut RetainedScan| *scan.filter == *limit.filter;
        for scan in self.scans.iter_mut().filter(of_it) {
            if let Some((session, record)) = &mut scan.mailbox
                && *session == limit.session
            {
                record.limit(limit.qos_allowed);
            }
        }
        self.subscriptions
            .limit(root, &limit.filter, limit.session, limit.qos_allowed);
        if let Some(key) = self.subscriptions.group(root, &limit.filter) {
            self.drain(turn, key); // It may take now what it did not.
        }
    }

    /// Says whether a session has a subscription.
    pub fn find_subscription(&self, turn: &mut Turn<'_>, find: &FindSubscription) {
        let inner = without_share(&find.filter);
        let root = turn.facts.root_depths.root_of_filter(inner);
        let existed = self
            .subscriptions
            .contains(root, &find.filter, find.session);
        let reply = find.reply;
        turn.outbox
            .tell(reply.core, CoreMessage::SubscriptionDone { reply, existed });
    }

    /// Somebody wants a page of retained messages. The first page of a scan is read at once, so that the new subscription gets
    /// what was retained when it was made and not what comes after; beyond a few pages a turn, scans wait for the next one.
    pub fn scan_retained(&mut self, turn: &mut Turn<'_>, scan: RetainedScan) {
        if scan.after.is_empty() && self.pages_left > 0 && !turn.congestion.congested {
            self.read_page(turn, &scan);
        } else {
            self.scans.push_back(scan);
        }
    }

    /// Reads a few pages, so that no scan holds up a turn or runs ahead of an engine that takes nothing.
    pub fn serve_scans(&mut self, turn: &mut Turn<'_>) {
        self.pages_left = PAGES_PER_TURN;
        while self.pages_left > 0
            && !turn.congestion.congested
            && let Some(scan) = self.scans.pop_front()
        {
            self.read_page(turn, &scan);
        }
    }

    fn read_page(&mut self, turn: &mut Turn<'_>, scan: &RetainedScan) {
        self.pages_left -= 1;
        let unix_ms = turn.now.unix_ms;
        // A page finds room in the queue of a session, and waits for nothing in it when it is asked for.
        let bytes_max = turn.facts.limits.session_queue_bytes_max as usize / 4;
        let (messages, next) =
            self.retained
                .page(&scan.filter, &scan.after, (scan.limit, bytes_max), unix_ms);
        let messages = match scan.mailbox {
            Some((session, record)) => append_retained(turn, scan, session, record, messages),
            None => messages,
        };
        let page = RetainedPage {
            reply: scan.reply,
            messages,
            next,
        };
        turn.outbox
            .tell(scan.reply.core, CoreMessage::RetainedPage(Box::new(page)));
    }

    /// Drops the pages that are still to be read for a subscription of a durable session that is replaced or removed.
    fn end_scans(&mut self, session: SessionId, filter: &str) {
        let is_for = |scan: &RetainedScan| {
            scan.mailbox.is_some_and(|(found, _)| found == session) && *scan.filter == *filter
        };
        if !self.scans.is_empty() {
            self.scans.retain(|scan| !is_for(scan));
        }
    }

    /// True when pages are still to be read.
    pub fn has_scans(&self) -> bool {
        !self.scans.is_empty()
    }

    /// Takes over a retained message from the store.
    pub fn restore_retained(&mut self, message: Arc<Message>) {
        self.retained.set(message);
    }

    /// The retained messages, for metrics and the admin side.
    pub fn retained(&self) -> &Retained {
        &self.retained
    }

    /// Clears the retained messages that a filter matches; the store follows. Returns how many.
    pub fn clear_retained(&mut self, turn: &mut Turn<'_>, filter: &str) -> u64 {
        let cleared = self.retained.clear_matching(filter);
        clear_stored(turn, &cleared);
        cleared.len() as u64
    }

    /// Lets go of some retained messages that have expired; the store follows.
    pub fn sweep_retained(&mut self, turn: &mut Turn<'_>) {
        if !turn.congestion.congested {
            let expired = self.retained.take_expired(turn.now.unix_ms, SWEPT_PER_TURN);
            clear_stored(turn, &expired);
        }
    }

    /// The roots with the most messages.
    pub fn hottest_roots(&self) -> Vec<(String, u64)> {
        self.hot.hottest()
    }

    /// Changes the retained message of a topic if the message says so, within the bounds.
    fn retain(
        &mut self,
        turn: &mut Turn<'_>,
        message: &Arc<Message>,
    ) -> Result<RetainChange, ReasonCode> {
        if !message.retain {
            return Ok(RetainChange::None);
        }
        if turn.congestion.congested && message.qos == QoS::AtMostOnce {
            // Nobody waits for it, so nothing else would bound how many of these wait for the engine (MQTT-3.3.1-5: MAY discard).
            turn.stats.counters.retained_dropped += 1;
            return Ok(RetainChange::None);
        }
        if message.payload().is_empty() {
            self.retained.remove(message.topic());
            // Also when nothing was there: an earlier clear may not be stored yet, and this one must not be acknowledged before.
            return Ok(RetainChange::Clear);
        }
        if !self.retained.has_room(message, &turn.facts.limits) {
            return Err(ReasonCode::QuotaExceeded);
        }
        self.retained.set(message.clone());
        Ok(RetainChange::Set)
    }
}
