//! The owner role in a cluster: answers that come from other nodes, what a new view takes away and brings, and queues of groups
//! whose members are at home elsewhere.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use cluster::partition::{PARTITIONS, partition_of};
use reactor::slab::Key;

use super::groups::Group;
use super::queue::Request;
use super::queue_mailbox::QueueMailbox;
use super::routes::Routes;
use super::{Owner, Pending};
use crate::core_message::{
    AppendRequest, CoreMessage, MailboxRecipient, Origin, Presence, PublishRequest,
    SubscribeRequest, Subscriber, SubscriptionName, Target,
};
use crate::engine::Completion;
use crate::engine::claim::{MessageId, partition_of_session};
use crate::handover::Partitions;
use crate::message::{Message, SessionId};
use crate::metrics::DropReason;
use crate::ownership::Ownership;
use crate::shard::{TokenRole, token};
use crate::turn::{Turn, without_share};

/// After a view, homes are asked again about what they were asked about in so long before.
const ASKED_AGAIN_MS: u64 = 30_000;

/// Who is to answer for a publish, in a cluster.
#[derive(Debug)]
pub(super) struct Awaited {
    pub(super) message: Arc<Message>,
    /// Cores of edges.
    pub(super) live: Vec<u16>,
    /// Home cores, and the mailboxes there.
    pub(super) homes: Vec<(u16, Vec<MailboxRecipient>)>,
    /// Who else is to be answered: the same publisher, on an earlier or later connection.
    pub(super) others: Vec<Origin>,
}

/// A message of a group's queue on its way to the mailbox of a member.
#[derive(Debug)]
pub(super) struct Appending {
    /// The transfer that it is part of.
    transfer: u64,
    sequence: u64,
    core: u16,
    message: Arc<Message>,
    recipient: MailboxRecipient,
}

impl Awaited {
    /// Takes what homes are to store out of the routes; `None` in a node alone. `is_answered`: somebody waits for the edges.
    pub(super) fn of(
        turn: &Turn<'_>,
        message: &Arc<Message>,
        routes: &mut Routes,
        is_answered: bool,
    ) -> Option<Box<Self>> {
        let live = routes.live.keys().filter(|_| is_answered);
        turn.ownership.is_clustered().then(|| {
            Box::new(Self {
                message: Arc::clone(message),
                live: live.copied().collect(),
                homes: std::mem::take(&mut routes.mailboxes).into_iter().collect(),
                others: Vec::new(),
            })
        })
    }

    /// Asks each home to store its part; returns how many answers will come.
    pub(super) fn ask_homes(&self, turn: &mut Turn<'_>, name: (u64, MessageId, bool)) -> u32 {
        for (core, recipients) in &self.homes {
            tell_append(turn, *core, name, &self.message, recipients);
        }
        self.homes.len() as u32
    }
}

impl Owner {
    /// True when a publish with this id is still to be answered: then this one is answered with it.
    pub(super) fn join_pending(&mut self, id: MessageId, origin: Origin) -> bool {
        let mut pending = self.pending.values_mut();
        let Some(pending) = pending.find(|pending| pending.waits.id == id) else {
            return false;
        };
        if let Some(awaited) = &mut pending.awaited
            && pending.waits.origin != origin
            && !awaited.others.contains(&origin)
        {
            awaited.others.push(origin);
        }
        true
    }

    /// Everything is read everywhere: homes that are new are asked for the subscriptions that this owner has from their predecessors. One
    /// that ended, or was half made, just before its home died has nobody who would end it.
    pub fn ask_for_subscriptions(&mut self, turn: &mut Turn<'_>) {
        const AT_ONCE: usize = 4_096;
        let unsure = std::mem::take(&mut self.unsure);
        if unsure.count() == 0 {
            return;
        }
        let now_ms = turn.now.mono_ms;
        if now_ms >= self.asked.1 + ASKED_AGAIN_MS {
            self.asked.0 = Partitions::default();
        }
        self.asked.0.add_all(&unsure);
        self.asked.1 = now_ms;
        let mut by_core = BTreeMap::<u16, Vec<(u16, SubscriptionName)>>::new();
        self.subscriptions
            .for_each_subscriber(|filter, subscriber| {
                if let Target::Home { partition } = subscriber.target
                    && unsure.contains(partition)
                {
                    let core = turn.ownership.core_of(partition);
                    let name = SubscriptionName::of(subscriber.session, filter);
                    by_core.entry(core).or_default().push((partition, name));
                }
            });
        for (home, names) in by_core {
            for some in names.chunks(AT_ONCE) {
                let find = CoreMessage::FindSubscriptions {
                    core: turn.facts.core,
                    names: some.into(),
                };
                turn.outbox.tell(home, find);
            }
        }
    }

    /// A home says that it has no such subscriptions.
    pub fn subscriptions_ended(&mut self, turn: &mut Turn<'_>, ended: &[SubscriptionName]) {
        let sessions: BTreeSet<SessionId> = ended.iter().map(|name| name.session).collect();
        let ended: BTreeSet<SubscriptionName> = ended.iter().copied().collect();
        let is_gone = |filter: &str, subscriber: &Subscriber| {
            sessions.contains(&subscriber.session)
                && ended.contains(&SubscriptionName::of(subscriber.session, filter))
        };
        for group in self.subscriptions.remove_subscribers(is_gone) {
            self.end_group(turn, group);
        }
    }

    /// The home of a durable subscription that was read from the engine may have ended its session before that was written here.
    pub fn doubt_home(&mut self, partition: u16) {
        self.unsure.insert(partition);
    }

    /// An edge has taken a message.
    pub fn delivered(&mut self, turn: &mut Turn<'_>, publish: u64, from: u16) {
        if let Some(awaited) = self.awaited(publish) {
            let Some(place) = awaited.live.iter().position(|core| *core == from) else {
                return;
            };
            awaited.live.swap_remove(place);
        }
        self.answered(turn, publish, false);
    }

    /// A home has stored a message, or a mailbox there was full.
    pub fn stored(&mut self, turn: &mut Turn<'_>, publish: u64, from: u16, rejected: bool) {
        if self.appending.contains_key(&publish) {
            return self.queued_stored(turn, publish, from, rejected);
        }
        let Some(awaited) = self.awaited(publish) else {
            return;
        };
        let Some(place) = awaited.homes.iter().position(|(core, _)| *core == from) else {
            return;
        };
        awaited.homes.swap_remove(place);
        self.answered(turn, publish, rejected);
    }

    /// The engine has not stored a message, since a queue that it was for is another node's by now: it is routed again.
    pub fn deposed(&mut self, turn: &mut Turn<'_>, publish: u64) {
        let Some(pending) = self.pending.remove(&publish) else {
            return self.completed(
                turn,
                publish,
                Completion::Deposed {
                    token: token(TokenRole::Owner, publish),
                },
            );
        };
        if let Some(awaited) = pending.awaited {
            for origin in std::iter::once(pending.waits.origin).chain(awaited.others) {
                let request = PublishRequest {
                    message: Arc::clone(&awaited.message),
                    origin,
                    may_refuse: pending.may_refuse,
                    received: None,
                    id: pending.waits.id,
                    retry: true,
                };
                self.publish(turn, request);
            }
        }
    }

    fn awaited(&mut self, publish: u64) -> Option<&mut Awaited> {
        self.pending.get_mut(&publish)?.awaited.as_deref_mut()
    }

    /// A view holds: what is lost goes, what cores that are gone were to do is not awaited any more, and what moved is asked again.
    /// Cores that are new hear of the broad subscriptions of durable sessions, if this core knows them all.
    pub fn view(&mut self, turn: &mut Turn<'_>, old: &Ownership, lost: &Partitions) {
        let depths = turn.facts.root_depths.clone();
        let has_moved =
            |partition: &u16| old.core_of(*partition) != turn.ownership.core_of(*partition);
        let moved = (0..PARTITIONS).filter(has_moved);
        moved.for_each(|partition| self.unsure.insert(partition));
        if turn.now.mono_ms < self.asked.1 + ASKED_AGAIN_MS {
            self.unsure.add_all(&self.asked.0);
        }
        let is_lost = |root: &str| lost.contains(partition_of(root));
        for group in self.subscriptions.remove_roots(is_lost) {
            self.forget_group(turn, group);
        }
        self.lose_queues(turn, lost);
        let ownership = Arc::clone(turn.ownership);
        let is_gone = |_: &str, subscriber: &Subscriber| match subscriber.target {
            Target::Live { core, .. } => !ownership.has_core(core),
            Target::Home { .. } => false,
        };
        for group in self.subscriptions.remove_subscribers(is_gone) {
            self.end_group(turn, group);
        }
        self.retained
            .remove_topics(|topic| is_lost(depths.root_of_topic(topic)));
        self.scans.retain(|scan| {
            let root = depths.root_of_filter(without_share(&scan.filter));
            ownership.has_core(scan.reply.core) && !root.is_some_and(is_lost)
        });
        self.settle_pending(turn, |message| {
            is_lost(depths.root_of_topic(message.topic()))
        });
        self.append_again(turn);
        self.cancel_hands(turn);
        let new = ownership
            .cores()
            .iter()
            .filter(|core| !old.has_core(**core));
        new.for_each(|core| self.tell_broad(turn, old, *core));
    }

    /// Tells a core that is new of the broad subscriptions of durable sessions whose home this core was and is: others tell it of theirs,
    /// and who gets a home does so when it has read it.
    fn tell_broad(&self, turn: &mut Turn<'_>, old: &Ownership, core: u16) {
        let here = turn.facts.core;
        let ownership = Arc::clone(turn.ownership);
        let is_kept = |target: Target| match target {
            Target::Home { partition } => {
                old.core_of(partition) == here && ownership.core_of(partition) == here
            }
            Target::Live { .. } => false,
        };
        self.subscriptions.for_each_broad(|filter, subscriber| {
            if is_kept(subscriber.target) {
                let request = SubscribeRequest {
                    filter: filter.into(),
                    subscriber: *subscriber,
                    presence: Presence {
                        connected: false,
                        load: 0,
                    },
                    reply: None,
                };
                turn.outbox
                    .tell(core, CoreMessage::Subscribe(Box::new(request)));
            }
        });
    }

    /// Publishes of lost roots are forgotten: whoever waits asks the new owner. For the others, those who are gone are not awaited,
    /// and homes that moved are asked again.
    fn settle_pending(&mut self, turn: &mut Turn<'_>, is_lost: impl Fn(&Message) -> bool) {
        self.pending.retain(|_, pending| {
            let awaited = pending.awaited.as_deref();
            !awaited.is_some_and(|awaited| is_lost(&awaited.message))
        });
        let mut done = Vec::new();
        let mut ids: Vec<u64> = self.pending.keys().copied().collect();
        ids.sort_unstable(); // In the order in which they came.
        for id in ids {
            let Some(pending) = self.pending.get_mut(&id) else {
                continue;
            };
            if pending.ask_again(turn, id) {
                done.push(id);
            }
        }
        for id in done {
            if let Some(pending) = self.pending.remove(&id) {
                pending.finish(turn);
            }
        }
    }

    /// Takes over what a subscription request says before its partition is served, so that nothing published after it misses it.
    /// It is handled again in its turn. One that somebody asks for is in the queue before everything that it may miss.
    pub fn foresee(&mut self, turn: &mut Turn<'_>, message: &CoreMessage) {
        let depths = &turn.facts.root_depths;
        match message {
            CoreMessage::Subscribe(request) if request.reply.is_none() => {
                let root = depths.root_of_filter(without_share(&request.filter));
                let SubscribeRequest {
                    filter,
                    subscriber,
                    presence,
                    ..
                } = &**request;
                self.subscriptions
                    .subscribe(root, filter, *subscriber, *presence);
            }
            CoreMessage::Unsubscribe(request) if request.reply.is_none() => {
                let root = depths.root_of_filter(without_share(&request.filter));
                let ended = self
                    .subscriptions
                    .unsubscribe(root, &request.filter, request.session);
                if let Some(group) = ended.group {
                    self.forget_group(turn, group);
                }
            }
            _ => {}
        }
    }

    /// Takes over a queue of a partition that is new here; its group is looked for when everything is read.
    pub fn load_queue(
        &mut self,
        turn: &mut Turn<'_>,
        session: SessionId,
        filter: &str,
        messages: u64,
    ) {
        if self.mailboxes.contains_key(&session) {
            return; // It was claimed and read before.
        }
        (0..messages).for_each(|_| turn.stats.accept());
        self.mailboxes.insert(session, QueueMailbox::of(messages));
        self.orphans.push((session, filter.into()));
    }

    /// Queues that were read, and those that rested during a hand-over, are offered to their members.
    pub fn drain_all(&mut self, turn: &mut Turn<'_>) {
        self.settle_orphans(turn);
        let groups = self.subscriptions.groups.iter();
        let keys: Vec<Key> = groups.map(|(key, _)| key).collect();
        for key in keys {
            self.drain(turn, key);
        }
    }

    /// A group that goes with its partition, or whose queue is not read yet: its mailboxes stay in the engine.
    fn forget_group(&mut self, turn: &mut Turn<'_>, group: Group) {
        if let Some(retry) = group.queue.retry {
            turn.timers.cancel(retry);
        }
        for session in &group.queue.mailboxes {
            self.forget_mailbox(turn, *session);
            self.orphans.retain(|(orphan, _)| orphan != session);
        }
    }

    fn forget_mailbox(&mut self, turn: &mut Turn<'_>, session: SessionId) {
        if let Some(mailbox) = self.mailboxes.remove(&session) {
            turn.stats
                .drop_accepted(DropReason::HandedOver, mailbox.messages);
        }
        self.requests
            .retain(|_, request| request.mailbox != session);
        let requests = &self.requests;
        self.appending
            .retain(|_, appending| requests.contains_key(&appending.transfer));
    }

    /// Queues of broad groups that are kept in lost partitions, and those that have no group.
    fn lose_queues(&mut self, turn: &mut Turn<'_>, lost: &Partitions) {
        let depths = turn.facts.root_depths.clone();
        let mut gone: Vec<(SessionId, Option<Key>)> = Vec::new();
        for (session, mailbox) in &self.mailboxes {
            let group = mailbox
                .group
                .and_then(|key| self.subscriptions.groups.get(key));
            let orphan = self.orphans.iter().find(|(orphan, _)| orphan == session);
            let filter = group.map(|group| &*group.filter);
            let filter = filter.or_else(|| orphan.map(|(_, filter)| &**filter));
            // One without either is being deleted, by the command that was given before.
            let partition = filter.map(|filter| partition_of_session(&depths, *session, filter));
            if partition.is_some_and(|partition| lost.contains(partition)) {
                gone.push((*session, mailbox.group));
            }
        }
        for (session, key) in gone {
            let messages = self
                .mailboxes
                .get(&session)
                .map_or(0, |mailbox| mailbox.messages);
            let group = key.and_then(|key| self.subscriptions.groups.get_mut(key));
            if let Some(group) = group {
                group.queue.mailboxes.retain(|known| *known != session);
                group.queue.waiting -= messages.min(group.queue.waiting);
                let transfer = group.queue.transfer;
                let is_its = |id: &u64| {
                    let request = self.requests.get(id);
                    request.is_some_and(|request| request.mailbox == session)
                };
                if transfer.as_ref().is_some_and(is_its) {
                    group.queue.transfer = None;
                }
            }
            self.orphans.retain(|(orphan, _)| *orphan != session);
            self.forget_mailbox(turn, session);
        }
    }

    /// Messages of a queue go to the mailbox of a durable member, which is at home anywhere. Each is known by its place in the queue, so
    /// that it is stored once, however often it is sent.
    pub(super) fn append_to_member(
        &mut self,
        turn: &mut Turn<'_>,
        (transfer, request): (u64, Request),
        (member, partition): (&Subscriber, u16),
        messages: VecDeque<(u64, Arc<Message>)>,
    ) {
        let core = turn.ownership.core_of(partition);
        self.requests.insert(transfer, request);
        for (sequence, message) in messages {
            let publish = self.next_publish;
            self.next_publish += 1;
            let recipient = MailboxRecipient {
                session: member.session,
                partition,
                delivery: member.record().delivery(&message),
            };
            let id = MessageId::of_queue(request.mailbox, sequence);
            let recipients = std::slice::from_ref(&recipient);
            // After a crash of the former owner it may be there already.
            tell_append(turn, core, (publish, id, true), &message, recipients);
            let appending = Appending {
                transfer,
                sequence,
                core,
                message,
                recipient,
            };
            self.appending.insert(publish, appending);
        }
    }

    /// A member's home has stored a message of a queue, or has no room for it.
    fn queued_stored(&mut self, turn: &mut Turn<'_>, publish: u64, from: u16, rejected: bool) {
        let awaited = self.appending.get(&publish);
        if awaited.is_none_or(|appending| appending.core != from) {
            return;
        }
        let Some(appending) = self.appending.remove(&publish) else {
            return;
        };
        let transfer = appending.transfer;
        let is_last = !self
            .appending
            .values()
            .any(|other| other.transfer == transfer);
        self.taken_by_home(turn, transfer, (appending.sequence, !rejected), is_last);
    }

    /// Messages of queues that were handed to connections of cores that are gone stay in their queues.
    fn cancel_hands(&mut self, turn: &Turn<'_>) {
        let is_gone = |request: &Request| {
            let core = request.handed_to;
            core.is_some_and(|core| !turn.ownership.has_core(core))
        };
        let requests = self.requests.extract_if(|_, request| is_gone(request));
        let gone: Vec<Request> = requests.map(|(_, request)| request).collect();
        for request in gone {
            let Some(mailbox) = self.mailboxes.get_mut(&request.mailbox) else {
                continue;
            };
            mailbox.handed.clear();
            let key = mailbox.group;
            let group = key.and_then(|key| self.subscriptions.groups.get_mut(key));
            if let Some(group) = group {
                group.queue.transfer = None;
            }
        }
    }

    /// Messages of queues that are on their way to a home that moved are sent to the new one.
    fn append_again(&mut self, turn: &mut Turn<'_>) {
        let mut publishes: Vec<u64> = self.appending.keys().copied().collect();
        publishes.sort_unstable();
        for publish in publishes {
            let Some(appending) = self.appending.get_mut(&publish) else {
                continue;
            };
            let core = turn.ownership.core_of(appending.recipient.partition);
            let request = self.requests.get(&appending.transfer);
            let Some(request) = request.filter(|_| core != appending.core) else {
                continue;
            };
            appending.core = core;
            let id = MessageId::of_queue(request.mailbox, appending.sequence);
            let recipients = std::slice::from_ref(&appending.recipient);
            let message = &appending.message;
            tell_append(turn, core, (publish, id, true), message, recipients);
        }
    }
}

impl Pending {
    /// Waits no more for cores that are gone, and asks homes that moved again. True when nothing is awaited any more.
    fn ask_again(&mut self, turn: &mut Turn<'_>, publish: u64) -> bool {
        let Some(awaited) = self.awaited.as_deref_mut() else {
            return false;
        };
        let before = awaited.live.len();
        awaited.live.retain(|core| turn.ownership.has_core(*core));
        self.outstanding -= (before - awaited.live.len()) as u32;
        let is_moved = |core: u16, recipients: &[MailboxRecipient]| {
            let mut cores = recipients
                .iter()
                .map(|recipient| turn.ownership.core_of(recipient.partition));
            cores.any(|now| now != core)
        };
        let homes = std::mem::take(&mut awaited.homes);
        let (moved, stay): (Vec<_>, Vec<_>) = homes
            .into_iter()
            .partition(|(core, recipients)| is_moved(*core, recipients));
        self.outstanding -= moved.len() as u32;
        awaited.homes = stay;
        let mut by_core = BTreeMap::<u16, Vec<MailboxRecipient>>::new();
        for recipient in moved.into_iter().flat_map(|(_, recipients)| recipients) {
            let core = turn.ownership.core_of(recipient.partition);
            by_core.entry(core).or_default().push(recipient);
        }
        for (core, recipients) in by_core {
            let name = (publish, self.waits.id, true);
            tell_append(turn, core, name, &awaited.message, &recipients);
            self.outstanding += 1;
            awaited.homes.push((core, recipients)); // Beside what that core was asked before: each request has an answer.
        }
        self.outstanding == 0
    }
}

/// Sends a message to mailboxes of one home core; `publish`, the id and whether it may be there already.
pub(super) fn tell_append(
    turn: &mut Turn<'_>,
    core: u16,
    (publish, id, retry): (u64, MessageId, bool),
    message: &Arc<Message>,
    recipients: &[MailboxRecipient],
) {
    let request = AppendRequest {
        message: Arc::clone(message),
        id,
        retry,
        recipients: recipients.to_vec(),
        answer: (turn.facts.core, publish),
    };
    turn.outbox
        .tell(core, CoreMessage::Append(Box::new(request)));
}
