//! The queue of a shared subscription: what comes while no member is connected waits in a mailbox of the group's own, and goes
//! to whoever comes. A work queue.
//!
//! ```text
//!           nobody connected, or messages wait                    a member is connected and not busy
//! message ─────────────────────────────────────▶ the mailbox ──┬──────── Command::Move ────────▶ mailbox of a durable member
//!                                                               │        (in a cluster: ReadMailbox ─ Append ─ Ack)
//!                                                               └─ ReadMailbox ─ Hand ─ Ack ───▶ queue of a live-only one
//! ```
//!
//! One transfer is under way per group, so members get the messages in order. A message leaves the engine's mailbox in the
//! step that puts it into another one, or when the edge of a live-only member has taken it: nothing is lost between.
//!
//! The queue counts like a mailbox: a message is accepted when the engine has it, and delivered when a member has taken it
//! over, where it is accepted anew.

use std::collections::VecDeque;

use edge_proto::packet::QoS;
use reactor::slab::Key;

use super::Owner;
use super::groups::Group;
use super::subscriptions::Match;
use crate::core_message::{CoreMessage, Hand, SharedPresence, Subscriber, Target};
use crate::engine::{
    Append, Command, Completion, Delivery, Evicted, MailboxEntry, SessionRecord, Token,
};
use crate::limits::Limits;
use crate::message::{Message, SessionId};
use crate::metrics::DropReason;
use crate::ownership::Ownership;
use crate::shard::{TokenRole, token};
use crate::turn::{Timer, Turn, without_share};

/// Bytes that leave a queue at once, for each message that may.
const BYTES_PER_MESSAGE: u32 = 8 * 1024;

/// How long a queue rests when members that are not busy take nothing of it.
const RETRY_MS: u64 = 250;

/// A mailbox of a group in the engine.
#[derive(Debug)]
pub(super) struct QueueMailbox {
    /// Its group; `None` once that has ended and the engine is deleting the mailbox.
    pub(super) group: Option<Key>,
    /// Messages in it.
    pub(super) messages: u64,
    /// Messages on their way to a member, in order.
    pub(super) handed: VecDeque<Handed>,
    /// Messages that a member took: the engine does not know yet, and may still say that it evicted one of them.
    settled: Vec<u64>,
}

/// A message on its way to a member.
#[derive(Debug)]
pub(super) struct Handed {
    sequence: u64,
    /// True when the engine has dropped it since, to make room.
    evicted: bool,
}

/// What an answer about a queue is for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request {
    pub(super) mailbox: SessionId,
    /// Whom the messages are for.
    member: SessionId,
    /// The core that was given them, for a connection of its own.
    pub(super) handed_to: Option<u16>,
    /// How many of them a home has taken so far, and how many of those were still in the queue.
    taken: u64,
    left: u64,
}

impl Owner {
    /// How a group gets a message: one member gets it, or it waits for any of them.
    pub(super) fn route_to_group(
        &mut self,
        turn: &mut Turn<'_>,
        key: Key,
        message: &Message,
    ) -> Result<Match, Append> {
        let group = self.subscriptions.groups.get_mut(key);
        let group = group.expect("a filter names groups that exist");
        if message.qos == QoS::AtMostOnce || !group.must_queue() {
            return Ok(Match::new(message, &group.pick()));
        }
        group.queue.waiting += 1;
        let session = match group.queue.mailboxes.back() {
            Some(mailbox) => *mailbox,
            None => self.make_mailbox(turn, key),
        };
        Err(Append {
            session,
            home: turn.facts.core,
            delivery: Delivery {
                qos: message.qos,
                retain: message.retain,
                subscription_ids: Box::default(),
            },
        })
    }

    fn make_mailbox(&mut self, turn: &mut Turn<'_>, key: Key) -> SessionId {
        let session = self.new_queue_id(turn, key);
        let Some(group) = self.subscriptions.groups.get_mut(key) else {
            return session;
        };
        group.queue.mailboxes.push_back(session);
        let record = Box::new(SessionRecord {
            client_id: group.filter.clone(),
            user: None,
            expiry_s: u32::MAX,
            disconnected_at_unix_ms: None,
            will: None,
        });
        // What is appended comes from this core too, and so after it.
        turn.outbox.engine.push_back(Command::PutSession {
            token: token(TokenRole::Nobody, 0),
            session,
            record,
        });
        self.mailboxes.insert(session, QueueMailbox::new(Some(key)));
        session
    }

    /// The id of a new queue; in a cluster one that is kept in a partition of this core.
    fn new_queue_id(&self, turn: &mut Turn<'_>, key: Key) -> SessionId {
        let group = self.subscriptions.groups.get(key);
        let filter = group.map_or("", |group| &group.filter);
        loop {
            let session = turn.ids.issue().as_group_queue();
            let depths = &turn.facts.root_depths;
            let core = turn.ownership.core_of_queue(depths, session, filter);
            if !turn.ownership.is_clustered() || core == turn.facts.core {
                return session;
            }
        }
    }

    /// A member of a shared subscription came or went, or has more or less to do.
    pub fn set_presence(&mut self, turn: &mut Turn<'_>, member: &SharedPresence) {
        let inner = without_share(&member.filter);
        let root = turn.facts.root_depths.root_of_filter(inner);
        let Some(key) = self.subscriptions.group(root, &member.filter) else {
            return;
        };
        if let Some(group) = self.subscriptions.groups.get_mut(key) {
            group.set_presence(member.session, member.presence, turn.now.mono_ms);
        }
        self.drain(turn, key);
    }

    /// Messages in the queues of shared subscriptions.
    pub fn queued_in_groups(&self) -> u64 {
        self.mailboxes
            .values()
            .map(|mailbox| mailbox.messages)
            .sum()
    }

    /// Moves on what waits, if it can be moved and nothing is under way.
    pub(super) fn drain(&mut self, turn: &mut Turn<'_>, key: Key) {
        let Some(from) = self.oldest_mailbox(turn, key) else {
            return;
        };
        let Some(group) = self.subscriptions.groups.get_mut(key) else {
            return;
        };
        let Some((member, batch)) = group.taker() else {
            if group.has_refuser() && group.queue.retry.is_none() {
                let due_ms = turn.now.mono_ms + RETRY_MS;
                group.queue.retry = Some(turn.timers.arm(due_ms, Timer::Group(key)));
            }
            return;
        };
        let id = self.next_publish;
        self.next_publish += 1;
        group.queue.transfer = Some(id);
        let request = Request {
            mailbox: from,
            member: member.session,
            handed_to: None,
            taken: 0,
            left: 0,
        };
        self.requests.insert(id, request);
        let token = token(TokenRole::Owner, id);
        let command = transfer(
            token,
            from,
            &member,
            batch,
            (&turn.facts.limits, turn.ownership),
        );
        turn.outbox.engine.push_back(command);
    }

    /// The mailbox that the next messages come from, if there are any and nothing is under way. Older ones that are empty go.
    fn oldest_mailbox(&mut self, turn: &mut Turn<'_>, key: Key) -> Option<SessionId> {
        loop {
            let group = self.subscriptions.groups.get_mut(key)?;
            if group.queue.transfer.is_some() || group.queue.waiting == 0 {
                return None;
            }
            let oldest = *group.queue.mailboxes.front()?;
            if self.mailboxes.get(&oldest)?.messages > 0 {
                return Some(oldest);
            }
            if group.queue.mailboxes.len() == 1 {
                return None; // They are on their way to it.
            }
            group.queue.mailboxes.pop_front();
            self.delete_mailbox(turn, oldest);
        }
    }

    /// The engine has appended a message to a queue, or refused to.
    pub fn queue_answered(&mut self, turn: &mut Turn<'_>, completion: Completion) {
        let (session, appended) = match completion {
            Completion::Appended {
                session, evicted, ..
            } => (session, Some(evicted)),
            Completion::Rejected { session } => (session, None),
            _ => return,
        };
        let Some(mailbox) = self.mailboxes.get_mut(&session) else {
            return;
        };
        let key = mailbox.group;
        let lost = match appended {
            Some(evicted) => {
                turn.stats.accept();
                mailbox.messages += 1;
                let lost = mailbox.evict(&evicted);
                turn.stats.drop_accepted(DropReason::MailboxEvicted, lost);
                lost
            }
            None => {
                turn.stats.refuse(DropReason::MailboxRejected, 1);
                1
            }
        };
        let Some(key) = key else { return };
        self.leave_queue(key, lost);
        self.drain(turn, key);
    }

    /// The engine has answered a request about a queue.
    pub fn completed(&mut self, turn: &mut Turn<'_>, id: u64, completion: Completion) {
        let request = self.requests.remove(&id);
        match (request, completion) {
            (_, Completion::SessionDeleted { session, .. }) => {
                if let Some(mailbox) = self.mailboxes.remove(&session) {
                    turn.stats
                        .drop_accepted(DropReason::SessionEnded, mailbox.messages);
                }
            }
            (Some(request), Completion::Moved { messages, .. }) => {
                let messages = u64::from(messages);
                if let Some(mailbox) = self.mailboxes.get_mut(&request.mailbox) {
                    mailbox.settled.clear();
                    mailbox.messages -= messages;
                    (0..messages).for_each(|_| turn.stats.deliver());
                }
                self.transferred(turn, request, messages, Some(messages));
            }
            (Some(request), Completion::MailboxPage { entries, .. }) => {
                self.hand(turn, id, request, entries);
            }
            _ => {}
        }
    }

    /// Messages of a queue have been read, for a member whose mailbox cannot have them.
    fn hand(&mut self, turn: &mut Turn<'_>, id: u64, request: Request, entries: Vec<MailboxEntry>) {
        let Some(mailbox) = self.mailboxes.get_mut(&request.mailbox) else {
            return;
        };
        mailbox.settled.clear();
        let Some(key) = mailbox.group else { return };
        let group = self.subscriptions.groups.get(key);
        let member = group
            .and_then(|group| group.connected(request.member))
            .filter(|member| turn.ownership.is_clustered() || !takes_into_mailbox(member));
        let mut messages = Vec::new();
        let mut sequences = Vec::new();
        let mut expired = 0;
        for MailboxEntry { sequence, content } in entries {
            // Without a message it is nothing: no member of a group acknowledges in its queue.
            let message = content.map(|(message, _)| message);
            let message = message.filter(|message| !message.is_expired(turn.now.unix_ms));
            match (message, &member) {
                (Some(message), Some(member)) => {
                    let delivery = member.record().delivery(&message);
                    messages.push((message, delivery));
                    sequences.push(sequence);
                    mailbox.handed.push_back(Handed {
                        sequence,
                        evicted: false,
                    });
                }
                (Some(_), None) => {}
                (None, _) => {
                    mailbox.settle(turn, request.mailbox, sequence);
                    turn.stats.expire();
                    expired += 1;
                }
            }
        }
        let Some(member) = member.filter(|_| !messages.is_empty()) else {
            return self.transferred(turn, request, expired, None);
        };
        self.leave_queue(key, expired);
        if let (Target::Home { partition }, true) = (member.target, takes_into_mailbox(&member)) {
            let messages = messages.into_iter().map(|(message, _)| message);
            let messages = sequences.into_iter().zip(messages).collect();
            return self.append_to_member(turn, (id, request), (&member, partition), messages);
        }
        let handed_to = Some(match member.target {
            Target::Live { core, .. } => core,
            Target::Home { partition } => turn.ownership.core_of(partition),
        });
        let request = Request {
            handed_to,
            ..request
        };
        self.requests.insert(id, request);
        tell_hand(turn, id, &member, messages);
    }

    /// A member's home has taken a message of a queue, or has no room for it.
    pub(super) fn taken_by_home(
        &mut self,
        turn: &mut Turn<'_>,
        id: u64,
        (sequence, taken): (u64, bool),
        is_last: bool,
    ) {
        let Some(request) = self.requests.get_mut(&id) else {
            return;
        };
        if let Some(mailbox) = self.mailboxes.get_mut(&request.mailbox) {
            let mut handed = mailbox.handed.iter();
            let place = handed.position(|handed| handed.sequence == sequence);
            let handed = place.and_then(|place| mailbox.handed.remove(place));
            request.taken += u64::from(taken);
            if taken && handed.is_some_and(|handed| !handed.evicted) {
                request.left += 1;
                mailbox.settle(turn, request.mailbox, sequence);
                turn.stats.deliver();
            }
        }
        let request = *request;
        if is_last {
            self.requests.remove(&id);
            self.transferred(turn, request, request.left, Some(request.taken));
        }
    }

    /// A member has taken messages of a queue.
    pub fn handed(&mut self, turn: &mut Turn<'_>, id: u64, taken: u32) {
        let Some(request) = self.requests.remove(&id) else {
            return;
        };
        let Some(mailbox) = self.mailboxes.get_mut(&request.mailbox) else {
            return;
        };
        let mut left = 0;
        for handed in std::mem::take(&mut mailbox.handed)
            .into_iter()
            .take(taken as usize)
            .filter(|handed| !handed.evicted)
        {
            mailbox.settle(turn, request.mailbox, handed.sequence);
            turn.stats.deliver();
            left += 1;
        }
        self.transferred(turn, request, left, Some(u64::from(taken)));
    }

    /// A transfer is over: so many messages have left the queue, and the member took so many of what it was offered.
    fn transferred(
        &mut self,
        turn: &mut Turn<'_>,
        request: Request,
        left: u64,
        taken: Option<u64>,
    ) {
        let Some(key) = self
            .mailboxes
            .get(&request.mailbox)
            .and_then(|mailbox| mailbox.group)
        else {
            return;
        };
        self.leave_queue(key, left);
        if let Some(group) = self.subscriptions.groups.get_mut(key) {
            group.queue.transfer = None;
            if let Some(taken) = taken {
                group.took(request.member, taken, turn.now.mono_ms);
            }
        }
        self.drain(turn, key);
    }

    fn leave_queue(&mut self, key: Key, messages: u64) {
        if let Some(group) = self.subscriptions.groups.get_mut(key) {
            group.queue.waiting -= messages;
        }
    }

    /// A queue that rested is offered to everybody again.
    pub fn retry(&mut self, turn: &mut Turn<'_>, key: Key) {
        let Some(group) = self.subscriptions.groups.get_mut(key) else {
            return;
        };
        group.queue.retry = None;
        group.forget_refusals();
        self.drain(turn, key);
    }

    /// The last member of a group has left: what waits for nobody goes.
    pub(super) fn end_group(&mut self, turn: &mut Turn<'_>, group: Group) {
        if let Some(retry) = group.queue.retry {
            turn.timers.cancel(retry);
        }
        for mailbox in group.queue.mailboxes {
            self.delete_mailbox(turn, mailbox);
        }
    }

    fn delete_mailbox(&mut self, turn: &mut Turn<'_>, session: SessionId) {
        if let Some(mailbox) = self.mailboxes.get_mut(&session) {
            mailbox.group = None;
        }
        let id = self.next_publish;
        self.next_publish += 1;
        let token = token(TokenRole::Owner, id);
        turn.outbox
            .engine
            .push_back(Command::DeleteSession { token, session });
    }

    /// Takes over a queue from the store. Its group may come later.
    pub fn restore_queue(
        &mut self,
        turn: &mut Turn<'_>,
        session: SessionId,
        filter: &str,
        messages: u64,
    ) {
        (0..messages).for_each(|_| turn.stats.accept());
        self.mailboxes.insert(session, QueueMailbox::of(messages));
        if !self.adopt(turn, session, filter) {
            self.orphans.push((session, filter.into()));
        }
    }

    /// Ends the queues from the store whose groups have no member any more; called when everything is restored.
    pub fn settle_orphans(&mut self, turn: &mut Turn<'_>) {
        for (session, filter) in std::mem::take(&mut self.orphans) {
            if !self.adopt(turn, session, &filter) {
                self.delete_mailbox(turn, session);
            }
        }
    }

    /// Gives a queue from the store to its group, if there is one.
    fn adopt(&mut self, turn: &mut Turn<'_>, session: SessionId, filter: &str) -> bool {
        let root = turn.facts.root_depths.root_of_filter(without_share(filter));
        let Some(key) = self.subscriptions.group(root, filter) else {
            return false;
        };
        let Some(group) = self.subscriptions.groups.get_mut(key) else {
            return false;
        };
        let Some(mailbox) = self.mailboxes.get_mut(&session) else {
            return false;
        };
        mailbox.group = Some(key);
        group.queue.waiting += mailbox.messages;
        let mailboxes = &mut group.queue.mailboxes;
        let place = mailboxes.partition_point(|known| *known < session);
        mailboxes.insert(place, session);
        self.drain(turn, key);
        true
    }
}

/// True for a durable member that takes more than QoS 0.
fn takes_into_mailbox(member: &Subscriber) -> bool {
    matches!(member.target, Target::Home { .. }) && member.maximum_qos() > QoS::AtMostOnce
}

/// The first step of a transfer: a mailbox takes messages over in the engine, for anyone else they are read.
fn transfer(
    token: Token,
    from: SessionId,
    member: &Subscriber,
    messages_max: u32,
    (limits, ownership): (&Limits, &Ownership),
) -> Command {
    let bytes_max = messages_max * BYTES_PER_MESSAGE;
    match member.target {
        Target::Home { partition } if takes_into_mailbox(member) && !ownership.is_clustered() => {
            Command::Move {
                token,
                from,
                to: member.session,
                home: ownership.core_of(partition),
                record: member.record(),
                messages_max,
                bytes_max,
            }
        }
        Target::Home { .. } | Target::Live { .. } => Command::ReadMailbox {
            token,
            session: from,
            from: 0,
            messages_max: messages_max.min(limits.session_queue_messages_max),
            bytes_max: bytes_max.min(limits.session_queue_bytes_max),
        },
    }
}

fn tell_hand(
    turn: &mut Turn<'_>,
    id: u64,
    member: &Subscriber,
    messages: Vec<(std::sync::Arc<Message>, Delivery)>,
) {
    let answer = (turn.facts.core, id);
    let session = member.session;
    match member.target {
        Target::Live { core, connection } => {
            let hand = Box::new(Hand {
                connection,
                messages,
                answer,
            });
            turn.outbox.tell(core, CoreMessage::Hand(hand));
        }
        Target::Home { partition } => {
            let core = turn.ownership.core_of(partition);
            let hand = Box::new(Hand {
                connection: Hand::NOBODY,
                messages,
                answer,
            });
            turn.outbox
                .tell(core, CoreMessage::HandHome { session, hand });
        }
    }
}

impl QueueMailbox {
    /// One from the store, whose group is not known yet.
    pub(super) fn of(messages: u64) -> Self {
        Self {
            messages,
            ..Self::new(None)
        }
    }

    fn new(group: Option<Key>) -> Self {
        Self {
            group,
            messages: 0,
            handed: VecDeque::new(),
            settled: Vec::new(),
        }
    }

    /// A message has left for good.
    fn settle(&mut self, turn: &mut Turn<'_>, session: SessionId, sequence: u64) {
        self.messages -= 1;
        self.settled.push(sequence);
        turn.outbox
            .engine
            .push_back(Command::Ack { session, sequence });
    }

    /// Notes that the engine dropped old messages to make room; returns how many of them were still in the queue.
    fn evict(&mut self, evicted: &[Evicted]) -> u64 {
        let before = self.messages;
        for Evicted { sequence, .. } in evicted {
            let handed = self
                .handed
                .iter_mut()
                .find(|handed| handed.sequence == *sequence);
            if let Some(handed) = handed {
                handed.evicted = true;
                self.messages -= 1;
            } else if !self.settled.contains(sequence) {
                self.messages -= 1;
            }
        }
        before - self.messages
    }
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
