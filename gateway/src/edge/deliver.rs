//! Messages towards a client: its bounded queue, its window, and the PUBLISH packets.

use std::collections::VecDeque;

use edge_proto::encode::{self, PublishHeader, PublishParts, PublishTemplate};
use edge_proto::frame::PACKET_LENGTH_MAX;
use edge_proto::packet::{Ack, PacketType, QoS, UserProperties, Version};
use edge_proto::reason::ReasonCode;
use edge_proto::session::outbound::packet_id_of;
use reactor::driver::ConnectionId;

use super::Edge;
use super::depart::Leave;
use super::inbound::end_delivery;
use super::link::Link;
use super::session::{Queued, Session, Traffic};
use crate::core_message::{CoreMessage, Deliver, DeliverReply, Hand, MailboxPush, Outcome};
use crate::handover::Speaker;
use crate::limits::SlowConsumer;
use crate::message::Message;
use crate::metrics::DropReason;
use crate::turn::Turn;

/// The PUBLISH of one message, encoded once for all recipients that get the same bytes, packet identifiers apart.
struct Encoded {
    /// True when there are enough recipients for it to pay.
    pays: bool,
    templates: Vec<(Form, PublishTemplate)>,
}

/// What recipients that get the same bytes have in common.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Form {
    version: Version,
    qos: QoS,
    retain: bool,
}

impl Encoded {
    fn for_recipients(count: usize) -> Self {
        Self {
            pays: count > 1,
            templates: Vec::new(),
        }
    }

    /// The packet for a recipient, if there may be others that get the same.
    fn template(
        &mut self,
        version: Version,
        header: &PublishHeader<'_>,
        message: &Message,
    ) -> Option<&PublishTemplate> {
        if !self.pays || header.dup || !header.subscription_ids.is_empty() {
            return None;
        }
        let form = Form {
            version,
            qos: header.qos,
            retain: header.retain,
        };
        let known = self.templates.iter().position(|(known, _)| *known == form);
        if known.is_none()
            && encode::publish_parts_length(version, *header, &parts_of(message))
                > PACKET_LENGTH_MAX
        {
            return None;
        }
        let index = known.unwrap_or_else(|| {
            let template = PublishTemplate::new(version, *header, &parts_of(message));
            self.templates.push((form, template));
            self.templates.len() - 1
        });
        Some(&self.templates[index].1)
    }
}

/// What became of a message that was offered to the wire.
enum Sent {
    /// It is written.
    Yes,
    /// The client's window is full or its connection takes no more.
    NotNow(Queued),
}

impl Edge {
    /// A message for live sessions of this edge.
    pub fn deliver(&mut self, turn: &mut Turn<'_>, deliver: Deliver) {
        let mut encoded = Encoded::for_recipients(deliver.recipients.len());
        let is_new = deliver
            .answer
            .is_none_or(|answer| self.delivered.is_new(answer));
        for recipient in deliver.recipients.into_iter().filter(|_| is_new) {
            if self.live(recipient.connection).is_none() {
                turn.stats.refuse(DropReason::Stale, 1);
                continue;
            }
            let queued = Queued {
                message: deliver.message.clone(),
                delivery: recipient.delivery,
                sequence: 0,
                dup: false,
                begun: false,
            };
            turn.stats.accept();
            self.offer(turn, recipient.connection, queued, &mut encoded);
        }
        if let Some(DeliverReply { core, publish, .. }) = deliver.answer {
            turn.outbox.tell(core, CoreMessage::DeliverDone { publish });
        }
    }

    /// Messages of a group's queue. What finds no room stays there, so nobody is disconnected for them and nothing is dropped.
    pub fn hand(&mut self, turn: &mut Turn<'_>, hand: Hand) {
        let mut taken = 0;
        for (message, delivery) in hand.messages {
            if !self.has_room_for(turn, hand.connection, message.queued_bytes() as u64) {
                break;
            }
            let queued = Queued {
                message,
                delivery,
                sequence: 0,
                dup: false,
                begun: false,
            };
            taken += 1;
            turn.stats.accept();
            self.offer(
                turn,
                hand.connection,
                queued,
                &mut Encoded::for_recipients(1),
            );
        }
        if let Some((_, session)) = self.live(hand.connection) {
            session.traffic().handed |= taken > 0;
            session.tell_load(turn);
        }
        let (core, transfer) = hand.answer;
        turn.outbox
            .tell(core, CoreMessage::HandDone { transfer, taken });
    }

    /// True when a connection is live and its queue has room for a message, or it needs none because the client takes it at
    /// once.
    fn has_room_for(&mut self, turn: &Turn<'_>, id: ConnectionId, bytes: u64) -> bool {
        let live = self.live;
        let Some((link, session)) = self.live(id) else {
            return false;
        };
        let idle = session
            .traffic
            .as_ref()
            .is_none_or(|traffic| traffic.queue.is_empty() && traffic.outbound.is_empty());
        let traffic = session.traffic();
        let full = is_queue_full(turn, traffic, bytes)
            || is_core_full(turn, live, traffic.queue_bytes + bytes, bytes);
        !full || (idle && link.can_take_more(turn))
    }

    /// A message of a mailbox. The home keeps to the window, so there is always room for it in the queue.
    pub fn mailbox_push(&mut self, turn: &mut Turn<'_>, from: Speaker, push: MailboxPush) {
        let id = push.connection;
        let Some((link, session)) = self.live(id) else {
            return;
        };
        if !session.is_home(from) {
            return; // The present home pushes it again.
        }
        match push.content {
            Some((message, delivery)) => {
                self.offer(
                    turn,
                    id,
                    Queued {
                        message,
                        delivery,
                        sequence: push.sequence,
                        dup: push.dup,
                        begun: push.begun,
                    },
                    &mut Encoded::for_recipients(1),
                );
            }
            None => {
                let packet_id = session.traffic().outbound.resume_release(push.sequence, 0);
                let reason = ReasonCode::Success;
                let ack = Ack {
                    packet_id,
                    reason,
                    reason_string: None,
                    user_properties: UserProperties::default(),
                };
                link.write(turn, |out| {
                    encode::ack(out, session.version, PacketType::PubRel, &ack);
                });
            }
        }
    }

    /// Sends a message, or queues it behind those that wait.
    fn offer(
        &mut self,
        turn: &mut Turn<'_>,
        id: ConnectionId,
        queued: Queued,
        encoded: &mut Encoded,
    ) {
        let Some((link, session)) = self.live(id) else {
            return;
        };
        let waits = session
            .traffic_if_any()
            .is_some_and(|traffic| !traffic.queue.is_empty());
        let queued = if waits {
            queued
        } else {
            match send(link, session, turn, queued, encoded) {
                Sent::Yes => return,
                Sent::NotNow(queued) => queued,
            }
        };
        self.enqueue(turn, id, queued);
    }

    /// Puts a message into the session's queue, within its bounds.
    fn enqueue(&mut self, turn: &mut Turn<'_>, id: ConnectionId, queued: Queued) {
        let live = self.live;
        let Some((_, session)) = self.live(id) else {
            return;
        };
        let limits = &turn.facts.limits;
        let bytes = queued.message.queued_bytes() as u64;
        let traffic = session.traffic();
        let queue_full = is_queue_full(turn, traffic, bytes);
        let core_full = is_core_full(turn, live, traffic.queue_bytes + bytes, bytes);
        let from_mailbox = queued.sequence > 0;
        if from_mailbox && core_full {
            // Nothing is lost: it is in the engine, and the client gets it when it comes back and reads.
            turn.stats.counters.slow_consumers_disconnected += 1;
            return self.leave(turn, id, Leave::because(ReasonCode::QuotaExceeded));
        }
        if from_mailbox || !(queue_full || core_full) {
            traffic.queue.push_back(queued);
            traffic.queue_bytes += bytes;
            turn.stats.queued_bytes += bytes;
            return session.tell_load(turn);
        }
        if queued.delivery.qos == QoS::AtMostOnce {
            let reason = if queue_full {
                DropReason::QueueFull
            } else {
                DropReason::CoreQueueFull
            };
            turn.stats.drop_accepted(reason, 1);
            return;
        }
        turn.stats.drop_accepted(DropReason::SlowConsumer, 1);
        if limits.slow_consumer == SlowConsumer::Disconnect {
            turn.stats.counters.slow_consumers_disconnected += 1;
            self.leave(turn, id, Leave::because(ReasonCode::QuotaExceeded));
        }
    }

    /// Sends what the client takes of what waits for it.
    /// Drops what waits for a client and may not be read by it any more. What was begun goes on.
    pub(super) fn drop_denied(
        &mut self,
        turn: &mut Turn<'_>,
        id: ConnectionId,
        may_read: impl Fn(&str) -> bool,
    ) {
        let Some((_, session)) = self.live(id) else {
            return;
        };
        let Some(traffic) = session.traffic_if_any() else {
            return;
        };
        let queue = std::mem::take(&mut traffic.queue);
        let is_denied =
            |queued: &Queued| !queued.begun && !queued.dup && !may_read(queued.message.topic());
        let (denied, kept) = queue.into_iter().partition::<VecDeque<_>, _>(is_denied);
        traffic.queue = kept;
        for queued in denied {
            let bytes = queued.message.queued_bytes() as u64;
            session.traffic().queue_bytes -= bytes;
            turn.stats.queued_bytes -= bytes;
            end(session, turn, &queued, Outcome::Denied);
        }
    }

    pub(super) fn pump(&mut self, turn: &mut Turn<'_>, id: ConnectionId) {
        let Some((link, session)) = self.live(id) else {
            return;
        };
        while let Some(traffic) = session.traffic_if_any()
            && let Some(queued) = traffic.queue.pop_front()
        {
            let bytes = queued.message.queued_bytes() as u64;
            match send(link, session, turn, queued, &mut Encoded::for_recipients(1)) {
                Sent::Yes => {
                    session.traffic().queue_bytes -= bytes;
                    turn.stats.queued_bytes -= bytes;
                }
                Sent::NotNow(queued) => {
                    session.traffic().queue.push_front(queued);
                    break;
                }
            }
        }
        session.tell_load(turn);
        self.continue_scan(turn, id);
    }
}

/// True when a session's queue has no room for so many more bytes.
fn is_queue_full(turn: &Turn<'_>, traffic: &Traffic, bytes: u64) -> bool {
    let limits = &turn.facts.limits;
    traffic.queue.len() >= limits.session_queue_messages_max as usize
        || traffic.queue_bytes + bytes > u64::from(limits.session_queue_bytes_max)
}

/// True when the core's queues have no room for so many more bytes. A quarter of them is kept for sessions that have little:
/// a client that reads must not suffer because others do not.
fn is_core_full(turn: &Turn<'_>, live: u64, queue_bytes: u64, bytes: u64) -> bool {
    let total = turn.facts.limits.core_queue_bytes_max as u64;
    let kept_for_each = total / 4 / live.max(1);
    queue_bytes > kept_for_each && turn.stats.queued_bytes + bytes > total - total / 4
}

/// Writes one message if the client's window and connection have room.
fn send(
    link: &mut Link,
    session: &mut Session,
    turn: &mut Turn<'_>,
    queued: Queued,
    encoded: &mut Encoded,
) -> Sent {
    // A delivery that has begun goes on (MQTT-3.3.2-5).
    if !queued.begun && queued.message.is_expired(turn.now.unix_ms) {
        end(session, turn, &queued, Outcome::Expired);
        return Sent::Yes;
    }
    if !link.can_take_more(turn) {
        return Sent::NotNow(queued);
    }
    let qos = queued.delivery.qos;
    let sequence = if queued.sequence > 0 {
        queued.sequence
    } else {
        session.sequence + 1
    };
    if qos > QoS::AtMostOnce {
        let receive_maximum = session.receive_maximum;
        if !session
            .traffic()
            .outbound
            .has_room(receive_maximum, sequence)
        {
            return Sent::NotNow(queued);
        }
    }
    if !write_publish(link, session, turn, &queued, sequence, encoded) {
        end(session, turn, &queued, Outcome::TooLarge);
        return Sent::Yes;
    }
    turn.stats.counters.messages_sent += 1;
    if qos == QoS::AtMostOnce {
        turn.stats.deliver();
    } else {
        session.sequence = session.sequence.max(sequence);
        session
            .traffic()
            .outbound
            .send(sequence, qos, queued.message.queued_bytes() as u32);
    }
    Sent::Yes
}

/// A delivery ends without having been sent.
fn end(session: &Session, turn: &mut Turn<'_>, queued: &Queued, outcome: Outcome) {
    if queued.sequence > 0 {
        end_delivery(
            session,
            turn,
            queued.sequence,
            queued.message.queued_bytes() as u32,
            outcome,
        );
        return;
    }
    match outcome {
        Outcome::Expired => turn.stats.expire(),
        Outcome::Denied => turn.stats.drop_accepted(DropReason::Denied, 1),
        _ => turn.stats.drop_accepted(DropReason::TooLarge, 1),
    }
}

/// Writes the PUBLISH; false when it is larger than the client takes (MQTT-3.1.2-24, -25).
fn write_publish(
    link: &mut Link,
    session: &mut Session,
    turn: &mut Turn<'_>,
    queued: &Queued,
    sequence: u64,
    encoded: &mut Encoded,
) -> bool {
    let message = &*queued.message;
    let qos = queued.delivery.qos;
    let expires = message.expires_at_unix_ms != u64::MAX;
    let left_ms = message.expires_at_unix_ms.saturating_sub(turn.now.unix_ms);
    let mut header = PublishHeader {
        dup: queued.dup && qos > QoS::AtMostOnce,
        qos,
        retain: queued.delivery.retain,
        packet_id: (qos > QoS::AtMostOnce).then(|| packet_id_of(sequence)),
        topic_alias: None,
        message_expiry_s: expires
            .then(|| u32::try_from(left_ms.div_ceil(1000)).unwrap_or(u32::MAX)),
        subscription_ids: &queued.delivery.subscription_ids,
    };
    let version = session.version;
    let has_aliases = version == Version::V5 && session.topic_alias_maximum > 0;
    if !has_aliases && let Some(template) = encoded.template(version, &header, message) {
        if template.length() > session.maximum_packet_size as usize {
            return false;
        }
        link.write(turn, |out| template.write(out, packet_id_of(sequence)));
        return true;
    }
    // An alias that is set by a packet that is never sent would mean nothing to the client, so the size comes first.
    const ALIAS_PROPERTY_BYTES: usize = 4;
    let parts = parts_of(message);
    let length = encode::publish_parts_length(version, header, &parts);
    if length > session.maximum_packet_size as usize {
        return false;
    }
    let room_for_alias = length + ALIAS_PROPERTY_BYTES <= session.maximum_packet_size as usize;
    if has_aliases && room_for_alias {
        let maximum = session.topic_alias_maximum;
        let aliases = session.traffic().outbound_aliases.get_or_insert_default();
        header.topic_alias = aliases.assign(parts.topic, maximum);
    }
    link.write(turn, |out| {
        encode::publish_parts(out, version, header, &parts);
    });
    true
}

fn parts_of(message: &Message) -> PublishParts<'_> {
    PublishParts {
        topic: message.topic(),
        forwarded: message.properties(),
        payload: message.payload(),
    }
}
