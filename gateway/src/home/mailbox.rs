//! Mailboxes: what the engine holds for a durable session, and how much of it is at the edge.
//!
//! A message is *waiting* (only in the engine) or *unacknowledged* (also at the edge). An edge gets at most a window of
//! messages; while nothing waits, a new message goes straight on without being read back.

use std::collections::VecDeque;

use edge_proto::packet::QoS;
use reactor::slab::Key;

use super::review::Judge;
use super::{Edge, Home, Phase, Request};
use crate::core_message::{
    CoreMessage, Deliver, DeliverHome, Hand, MailboxPush, Outcome, Recipient,
};
use crate::engine::{Command, Completion, Evicted, MailboxEntry, MailboxSummary};
use crate::message::SessionId;
use crate::metrics::DropReason;
use crate::shard::{TokenRole, token};
use crate::turn::{Stats, Turn};

/// The mailbox of one session, in numbers.
#[derive(Debug, Default)]
pub(super) struct Mailbox {
    /// Messages that only the engine has.
    waiting: u64,
    /// Sequences of the messages at the edge, in order; those that were dropped by the engine since are marked.
    unacknowledged: VecDeque<Unacknowledged>,
    /// Bytes of those.
    unacknowledged_bytes: u64,
    /// Bytes of all, as far as they are known.
    bytes: u64,
    /// First sequence that the edge did not get on this connection.
    read_from: u64,
    /// Highest sequence that any connection was sent: up to here a message may have been sent before.
    sent_to: u64,
    /// Highest sequence that a connection was sent since the node started: the delivery of these has begun, so they do not
    /// expire any more (MQTT-3.3.2-5).
    begun_to: u64,
    /// The read that is under way; its number tells it from one of an earlier connection.
    reading: Option<u32>,
    reads: u32,
    /// Below this sequence, what is neither at the edge nor in `returned` was acknowledged, whatever the engine still says.
    settled_to: u64,
    /// What a lost connection gave back and no other has got since; at most a window.
    returned: Vec<u64>,
}

/// A message at the edge.
#[derive(Debug)]
struct Unacknowledged {
    sequence: u64,
    /// Its bytes, if the engine has dropped it since, to make room: it cannot be sent again.
    evicted: Option<u32>,
}

/// What becomes of a message that was read from a mailbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Sent,
    Expired,
    /// The client may not read it any more.
    Denied,
    /// Nor this one, whose packet identifier it may hold: it is told to forget that, and never gets the message.
    Withheld,
}

impl Mailbox {
    /// A mailbox as the engine holds it after a start. What was sent is unknown, so all of it may have been.
    pub(super) fn restored(summary: MailboxSummary, stats: &mut Stats) -> Self {
        for _ in 0..summary.messages {
            stats.accept();
        }
        Self {
            waiting: summary.messages,
            bytes: summary.bytes,
            sent_to: summary.next.saturating_sub(1),
            ..Self::default()
        }
    }

    /// Number of messages.
    pub(super) fn len(&self) -> u64 {
        self.waiting + self.unacknowledged.len() as u64
    }

    /// Their bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The highest sequence that the present connection was given.
    pub(super) fn given_to(&self) -> u64 {
        self.read_from.saturating_sub(1)
    }

    /// A connection has come: everything is to be sent from the start.
    pub(super) fn attach(&mut self) {
        self.read_from = 0;
    }

    /// The connection has gone: what it did not acknowledge waits again, unless the engine dropped it meanwhile.
    pub(super) fn detach(&mut self, sent_to: u64, stats: &mut Stats) {
        self.sent_to = self.sent_to.max(sent_to);
        self.begun_to = self.begun_to.max(sent_to);
        let (mut evicted, mut evicted_bytes) = (0, 0);
        for bytes in self.unacknowledged.iter().filter_map(|entry| entry.evicted) {
            evicted += 1;
            evicted_bytes += u64::from(bytes);
        }
        stats.drop_accepted(DropReason::MailboxEvicted, evicted);
        self.waiting += self.unacknowledged.len() as u64 - evicted;
        self.settled_to = self.settled_to.max(self.read_from);
        let kept = self
            .unacknowledged
            .iter()
            .filter(|entry| entry.evicted.is_none());
        self.returned.extend(kept.map(|entry| entry.sequence));
        self.unacknowledged = VecDeque::new();
        self.forget_bytes(evicted_bytes);
        self.unacknowledged_bytes = 0;
        self.read_from = 0;
        self.reading = None;
    }

    /// Notes that the engine dropped old messages to make room. One that is neither at the edge nor waiting was acknowledged
    /// while the engine did so.
    fn evict(&mut self, evicted: Vec<Evicted>, stats: &mut Stats) {
        for Evicted { sequence, bytes } in evicted {
            if let Some(entry) = self
                .unacknowledged
                .iter_mut()
                .find(|entry| entry.sequence == sequence)
            {
                entry.evicted = Some(bytes); // They count until the edge is done with it.
            } else if sequence >= self.read_from.max(self.settled_to)
                || self.take_returned(sequence)
            {
                self.waiting -= 1;
                self.forget_bytes(u64::from(bytes));
                stats.drop_accepted(DropReason::MailboxEvicted, 1);
            }
        }
    }

    /// True when a lost connection gave this message back and nobody has got it since.
    fn take_returned(&mut self, sequence: u64) -> bool {
        let index = self
            .returned
            .iter()
            .position(|returned| *returned == sequence);
        index
            .map(|index| self.returned.swap_remove(index))
            .is_some()
    }

    /// Notes that a message is done with; false when it is not at the edge.
    fn acknowledge(&mut self, sequence: u64, bytes: u64) -> bool {
        let Some(index) = self
            .unacknowledged
            .iter()
            .position(|entry| entry.sequence == sequence)
        else {
            return false;
        };
        self.unacknowledged.remove(index);
        self.unacknowledged_bytes = self.unacknowledged_bytes.saturating_sub(bytes);
        self.forget_bytes(bytes);
        if self.unacknowledged.is_empty() {
            self.unacknowledged = VecDeque::new(); // An idle session holds no queue.
        }
        true
    }

    /// Counts the bytes of a message no more, after it has left.
    fn forget_bytes(&mut self, bytes: u64) {
        self.bytes = if self.len() == 0 {
            0
        } else {
            self.bytes.saturating_sub(bytes)
        };
    }

    /// What becomes of a message that was read, and whether the client may hold its packet identifier from before a restart.
    fn fate(&self, entry: &MailboxEntry, denied: bool, now_unix_ms: u64) -> (Fate, bool) {
        let Some((message, delivery)) = &entry.content else {
            return (Fate::Sent, false);
        };
        let is_exactly_once = delivery.qos == QoS::ExactlyOnce;
        let was_begun = entry.sequence <= self.begun_to;
        // Before a restart it may have reached the client, which then holds its packet identifier until the PUBREL.
        let may_be_held = is_exactly_once && entry.sequence <= self.sent_to;
        let fate = match () {
            () if denied && is_exactly_once && (was_begun || may_be_held) => Fate::Withheld,
            () if denied => Fate::Denied,
            () if message.is_expired(now_unix_ms) && !was_begun && !may_be_held => Fate::Expired,
            () => Fate::Sent,
        };
        (fate, may_be_held)
    }

    /// Notes that a message will not be sent.
    fn skip(&mut self, sequence: u64, bytes: u64) {
        self.take_returned(sequence);
        self.waiting -= 1;
        self.forget_bytes(bytes);
        self.read_from = sequence + 1;
    }

    /// Notes that a message goes to the edge; returns whether it may have been sent before, and whether it was.
    fn push(&mut self, sequence: u64, bytes: u64) -> (bool, bool) {
        let before = (sequence <= self.sent_to, sequence <= self.begun_to);
        self.take_returned(sequence);
        self.waiting -= 1;
        self.unacknowledged.push_back(Unacknowledged {
            sequence,
            evicted: None,
        });
        self.unacknowledged_bytes += bytes;
        self.read_from = sequence + 1;
        before
    }
}

impl Home {
    /// The engine has appended a message to a mailbox, or refused to.
    pub fn appended(&mut self, turn: &mut Turn<'_>, completion: Completion) {
        let Completion::Appended {
            session: id,
            sequence,
            message,
            delivery,
            evicted,
        } = completion
        else {
            turn.stats.refuse(DropReason::MailboxRejected, 1);
            return;
        };
        let Some(key) = self.durable.get(&id).copied() else {
            turn.stats.refuse(DropReason::Stale, 1);
            return;
        };
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        let (identity, peer) = (session.identity.as_deref(), session.peer.ip());
        let Some(durable) = &mut session.durable else {
            return;
        };
        turn.stats.accept();
        let is_judged = durable.suspect && !turn.policy.is_open_to(identity, peer);
        let mailbox = &mut durable.mailbox;
        // What is suspect is read back, and judged like what waits.
        let straight_on = mailbox.waiting == 0 && mailbox.reading.is_none() && !is_judged;
        mailbox.waiting += 1;
        mailbox.bytes += message.queued_bytes() as u64;
        mailbox.evict(evicted, turn.stats);
        let Phase::Attached(edge) = session.phase else {
            return;
        };
        durable.tell_load(turn, id);
        let mailbox = &mut durable.mailbox;
        if straight_on && has_room(mailbox, turn) {
            let before = mailbox.push(sequence, message.queued_bytes() as u64);
            tell_push(turn, edge, sequence, Some((message, delivery)), before);
        } else {
            self.pump(turn, key);
        }
    }

    /// Reads on if messages wait and the window has room.
    pub(super) fn pump(&mut self, turn: &mut Turn<'_>, key: Key) {
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        let Some(durable) = &mut session.durable else {
            return;
        };
        let mailbox = &mut durable.mailbox;
        if !matches!(session.phase, Phase::Attached(_))
            || mailbox.waiting == 0
            || mailbox.reading.is_some()
            || !has_room(mailbox, turn)
        {
            return;
        }
        mailbox.reads = mailbox.reads.wrapping_add(1);
        mailbox.reading = Some(mailbox.reads);
        let limits = &turn.facts.limits;
        let (read, from, id) = (mailbox.reads, mailbox.read_from, session.session);
        let messages_max = limits.mailbox_window_messages - mailbox.unacknowledged.len() as u32;
        let bytes_max = u64::from(limits.mailbox_window_bytes)
            .saturating_sub(mailbox.unacknowledged_bytes) as u32;
        let token = self.request(Request::Read { key, read });
        turn.outbox.engine.push_back(Command::ReadMailbox {
            token,
            session: id,
            from,
            messages_max,
            bytes_max,
        });
    }

    /// A page of a mailbox was read.
    pub(super) fn page(
        &mut self,
        turn: &mut Turn<'_>,
        key: Key,
        read: u32,
        entries: Vec<MailboxEntry>,
        end: bool,
    ) {
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        let Some(durable) = &mut session.durable else {
            return;
        };
        let judge = durable
            .suspect
            .then(|| Judge::of(session.identity.as_ref(), &session.client_id, session.peer));
        let mailbox = &mut durable.mailbox;
        let Phase::Attached(edge) = session.phase else {
            return;
        };
        if mailbox.reading != Some(read) {
            return;
        }
        mailbox.reading = None;
        for entry in entries {
            if mailbox.waiting == 0 {
                break;
            }
            let denied = entry.content.as_ref().is_some_and(|(message, _)| {
                let may_read = |judge: &Judge| judge.may_read(turn, message.topic());
                !judge.as_ref().is_none_or(may_read)
            });
            let (fate, may_be_held) = mailbox.fate(&entry, denied, turn.now.unix_ms);
            let MailboxEntry { sequence, content } = entry;
            let bytes = content
                .as_ref()
                .map_or(0, |(message, _)| message.queued_bytes() as u64);
            let (content, bytes) = match fate {
                Fate::Sent => (content, bytes),
                Fate::Withheld => {
                    mailbox.forget_bytes(bytes);
                    turn.outbox.engine.push_back(Command::PubRec {
                        token: token(TokenRole::Nobody, 0),
                        session: session.session,
                        sequence,
                    });
                    (None, 0)
                }
                Fate::Expired | Fate::Denied => {
                    mailbox.skip(sequence, bytes);
                    match fate {
                        Fate::Denied => turn.stats.drop_accepted(DropReason::Denied, 1),
                        _ => turn.stats.expire(),
                    }
                    turn.outbox.engine.push_back(Command::Ack {
                        session: session.session,
                        sequence,
                    });
                    continue;
                }
            };
            let (dup, begun) = mailbox.push(sequence, bytes);
            let before = (dup, begun || may_be_held);
            tell_push(turn, edge, sequence, content, before);
        }
        if end && mailbox.waiting > 0 {
            debug_assert_eq!(
                mailbox.waiting, 0,
                "the engine and the home count the same messages"
            );
            turn.stats.drop_accepted(DropReason::Stale, mailbox.waiting);
            mailbox.waiting = 0;
        }
        durable.tell_load(turn, session.session);
        self.pump(turn, key);
    }

    /// The edge is done with a message.
    pub fn mailbox_ack(
        &mut self,
        turn: &mut Turn<'_>,
        key: Key,
        sequence: u64,
        bytes: u32,
        outcome: Outcome,
    ) {
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        let Some(durable) = &mut session.durable else {
            return;
        };
        let mailbox = &mut durable.mailbox;
        if !mailbox.acknowledge(sequence, u64::from(bytes)) {
            return;
        }
        match outcome {
            Outcome::Delivered => turn.stats.deliver(),
            Outcome::Expired => turn.stats.expire(),
            Outcome::TooLarge => turn.stats.drop_accepted(DropReason::TooLarge, 1),
            Outcome::Refused => turn.stats.drop_accepted(DropReason::Refused, 1),
            Outcome::Denied => turn.stats.drop_accepted(DropReason::Denied, 1),
        }
        turn.outbox.engine.push_back(Command::Ack {
            session: session.session,
            sequence,
        });
        durable.tell_load(turn, session.session);
        self.pump(turn, key);
    }

    /// The client has sent PUBREC.
    pub fn mailbox_pubrec(&mut self, turn: &mut Turn<'_>, key: Key, sequence: u64) {
        let Some((edge, session)) = self.edge_of(key) else {
            return;
        };
        let token = self.request(Request::PubRec { edge, sequence });
        turn.outbox.engine.push_back(Command::PubRec {
            token,
            session,
            sequence,
        });
    }

    /// The client has sent PUBREL.
    pub fn release(&mut self, turn: &mut Turn<'_>, key: Key, packet_id: u16) {
        let Some((edge, session)) = self.edge_of(key) else {
            return;
        };
        let token = self.request(Request::Release {
            key,
            edge,
            packet_id,
        });
        turn.outbox.engine.push_back(Command::Release {
            token,
            session,
            packet_id,
        });
    }

    /// A QoS 0 message for durable sessions: those that are connected get it.
    pub fn deliver_live(&mut self, turn: &mut Turn<'_>, deliver: DeliverHome) {
        for (id, delivery) in deliver.recipients {
            let session = self
                .durable
                .get(&id)
                .and_then(|key| self.sessions.get(*key));
            let Some(session) = session else {
                turn.stats.refuse(DropReason::Stale, 1);
                continue;
            };
            let Phase::Attached(edge) = session.phase else {
                turn.stats.refuse(DropReason::Offline, 1);
                continue;
            };
            let deliver = Deliver {
                message: deliver.message.clone(),
                recipients: vec![Recipient {
                    connection: edge.connection,
                    delivery,
                }],
                answer: None,
                is_lossy: true,
            };
            turn.outbox
                .tell(edge.core, CoreMessage::Deliver(Box::new(deliver)));
        }
    }

    /// Messages of a group's queue for a member that takes QoS 0 alone: its connection gets them, if it has one.
    pub fn hand(&self, turn: &mut Turn<'_>, id: SessionId, mut hand: Box<Hand>) {
        let session = self
            .durable
            .get(&id)
            .and_then(|key| self.sessions.get(*key));
        if let Some(Phase::Attached(edge)) = session.map(|session| session.phase) {
            hand.connection = edge.connection;
            return turn.outbox.tell(edge.core, CoreMessage::Hand(hand));
        }
        let (core, transfer) = hand.answer;
        turn.outbox
            .tell(core, CoreMessage::HandDone { transfer, taken: 0 });
    }

    pub(super) fn edge_of(&self, key: Key) -> Option<(Edge, SessionId)> {
        let session = self.sessions.get(key)?;
        Some((session.edge()?, session.session))
    }
}

fn has_room(mailbox: &Mailbox, turn: &Turn<'_>) -> bool {
    (mailbox.unacknowledged.len() as u32) < turn.facts.limits.mailbox_window_messages
        && mailbox.unacknowledged_bytes < u64::from(turn.facts.limits.mailbox_window_bytes)
}

fn tell_push(
    turn: &mut Turn<'_>,
    edge: Edge,
    sequence: u64,
    content: Option<(
        std::sync::Arc<crate::message::Message>,
        crate::engine::Delivery,
    )>,
    (dup, begun): (bool, bool),
) {
    let push = MailboxPush {
        connection: edge.connection,
        sequence,
        content,
        dup,
        begun,
    };
    turn.outbox
        .tell(edge.core, CoreMessage::MailboxPush(Box::new(push)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_evicted_or_lost_with_its_connection_takes_its_bytes_along() {
        let mut stats = Stats::default();
        let summary = MailboxSummary {
            messages: 3,
            bytes: 600,
            head: 1,
            next: 4,
        };
        let mut mailbox = Mailbox::restored(summary, &mut stats);
        let evicted = |sequence| {
            vec![Evicted {
                sequence,
                bytes: 200,
            }]
        };
        mailbox.attach();
        mailbox.push(1, 200);
        mailbox.evict(evicted(1), &mut stats);
        assert_eq!((mailbox.len(), mailbox.bytes()), (3, 600));
        mailbox.evict(evicted(2), &mut stats);
        assert_eq!((mailbox.len(), mailbox.bytes()), (2, 400));
        mailbox.detach(1, &mut stats);
        assert_eq!((mailbox.len(), mailbox.bytes()), (1, 200));
    }
}
