//! PUBLISH from a client: checked, handed to the owner of its root, and answered in the order of arrival.

use std::sync::Arc;

use edge_proto::encode;
use edge_proto::packet::{PacketType, Publish, PublishProperties, QoS, Version};
use edge_proto::reason::{ReasonCode, Violation};
use edge_proto::session::inbound::{Answer, Arrival};
use edge_proto::topic::TopicName;
use reactor::driver::ConnectionId;

use super::inbound::write_ack;
use super::link::Link;
use super::login::judge_publish;
use super::session::Session;
use super::{Edge, Flow};
use crate::access::Identity;
use crate::access::policy::SENDER;
use crate::core_message::{CoreMessage, Origin, PublishRequest};
use crate::engine::claim::MessageId;
use crate::limits::Limits;
use crate::message::{Message, MessageParts};
use crate::turn::Turn;

const OVER_MAXIMUM: Violation = Violation::new(
    ReasonCode::ReceiveMaximumExceeded,
    "MQTT-3.3.4-7",
    "more unacknowledged messages than the server's Receive Maximum",
);

/// A topic that no client may publish to.
const NOBODYS: &str = "$";

impl Edge {
    /// PUBLISH (§3.3).
    pub(super) fn publish(
        &mut self,
        turn: &mut Turn<'_>,
        id: ConnectionId,
        publish: &Publish<'_>,
    ) -> Result<Flow, Violation> {
        if publish.qos > QoS::AtMostOnce && Self::is_overloaded(turn) {
            self.wait_for_core(id);
            return Ok(Flow::Stall);
        }
        let limits = &turn.facts.limits;
        let Some((link, session)) = self.live(id) else {
            return Ok(Flow::Closed);
        };
        if publish.qos > QoS::AtMostOnce && session.traffic().inbound.is_busy(limits.processing_max)
        {
            return Ok(Flow::Stall);
        }
        // What can break a rule comes before the packet identifier is taken, or its session would wait for an answer for ever.
        let alias = resolve_alias(session, publish, limits)?;
        let topic = alias.as_deref().unwrap_or(publish.topic);
        let levels = TopicName::parse(topic)?.level_count();
        let mut name = MessageId::NONE;
        if let Some(packet_id) = publish.packet_id {
            match take_packet_id(link, session, turn, packet_id, publish.qos)? {
                Some(known) => name = known,
                None => return Ok(Flow::Continue),
            }
        }
        turn.stats.counters.publishes_received += 1;
        let too_long = topic.len() > turn.facts.limits.topic_bytes_max;
        if too_long || levels > turn.facts.limits.topic_levels_max || topic.starts_with('$') {
            // Correct, but nothing that a client may publish to (MQTT-4.7.2-1 reserves `$` for the server).
            self.answer(turn, id, publish.packet_id, ReasonCode::TopicNameInvalid);
            return Ok(Flow::Continue);
        }
        if let Err(reason) = self.judge(turn, id, topic, publish) {
            self.answer(turn, id, publish.packet_id, reason);
            return Ok(Flow::Continue);
        }
        let Some((_, session)) = self.live(id) else {
            return Ok(Flow::Closed);
        };
        let message = Arc::new(message_of(turn, session, topic, publish));
        let mut origin = Origin::Nobody;
        if let Some(packet_id) = publish.packet_id {
            let bytes = message.queued_bytes() as u32;
            turn.stats.pending_bytes += u64::from(bytes);
            origin = Origin::Client {
                core: turn.facts.core,
                connection: id,
                packet_id,
                bytes,
            };
        }
        let exactly_once = session.durable && publish.qos == QoS::ExactlyOnce;
        let to_record = publish.packet_id.filter(|_| exactly_once);
        let mut request = PublishRequest {
            message,
            origin,
            may_refuse: session.version == Version::V5 && publish.qos > QoS::AtMostOnce,
            received: None,
            id: name,
            retry: !name.is_none(),
        };
        match to_record {
            Some(packet_id) if !turn.ownership.is_clustered() => {
                request.received = Some((session.session, packet_id));
                turn.route(request);
            }
            Some(packet_id) if name.is_none() => self.receive(turn, id, packet_id, request),
            _ => turn.route(request),
        }
        Ok(Flow::Continue)
    }

    fn judge(
        &mut self,
        turn: &mut Turn<'_>,
        id: ConnectionId,
        topic: &str,
        publish: &Publish<'_>,
    ) -> Result<(), ReasonCode> {
        let session = self.live(id).map(|(_, session)| session);
        let login = session.and_then(|session| session.login.as_deref());
        judge_publish(turn, id, login, topic, publish)
    }

    /// Answers a PUBLISH that goes no further.
    fn answer(
        &mut self,
        turn: &mut Turn<'_>,
        id: ConnectionId,
        packet_id: Option<u16>,
        reason: ReasonCode,
    ) {
        turn.stats.counters.publishes_refused += 1;
        if let (Some(packet_id), Some((_, session))) = (packet_id, self.live(id)) {
            session.traffic().inbound.done(packet_id, reason);
            self.send_answers(turn, id);
        }
    }

    /// The owner has answered for a publish of this core's client.
    pub fn publish_done(&mut self, turn: &mut Turn<'_>, origin: Origin, reason: ReasonCode) {
        let Origin::Client {
            connection: id,
            packet_id,
            bytes,
            ..
        } = origin
        else {
            return;
        };
        turn.stats.pending_bytes -= u64::from(bytes);
        if let Some((_, session)) = self.live(id) {
            session.traffic().inbound.done(packet_id, reason);
            self.send_answers(turn, id);
        } else if let Some(detaching) = self.detaching.get_mut(&id) {
            detaching.inbound.done(packet_id, reason);
            while detaching.inbound.next_answer().is_some() {}
            self.detach_if_quiet(turn, id);
        }
    }

    /// Sends the acknowledgements whose turn has come.
    fn send_answers(&mut self, turn: &mut Turn<'_>, id: ConnectionId) {
        let Some((link, session)) = self.live(id) else {
            return;
        };
        while let Some(answer) = session.traffic().inbound.next_answer() {
            turn.stats.counters.publishes_acknowledged += 1;
            if answer.reason.is_error() {
                forget_recorded(session, turn, answer);
            }
            write_answer(link, session, turn, answer);
        }
        self.resume(turn, id);
    }
}

/// A refused QoS 2 message frees its packet identifier, and in a cluster that was recorded before it was refused.
fn forget_recorded(session: &Session, turn: &mut Turn<'_>, answer: Answer) {
    let exactly_once = session.durable && answer.qos == QoS::ExactlyOnce;
    if exactly_once && turn.ownership.is_clustered() {
        let release = CoreMessage::Release {
            home: session.home,
            packet_id: answer.packet_id,
        };
        turn.outbox.tell(session.home_core, release);
    }
}

/// Notes that a packet identifier is in use; `None` when the packet is a repetition, which is answered here if it can be. The name that the
/// message has already when an earlier connection has brought it, and nobody knows how far.
fn take_packet_id(
    link: &mut Link,
    session: &mut Session,
    turn: &mut Turn<'_>,
    packet_id: u16,
    qos: QoS,
) -> Result<Option<MessageId>, Violation> {
    if qos == QoS::ExactlyOnce
        && let Some(attachment) = session.attachment()
        && let begun = &mut attachment.begun
        && let Some(place) = begun.iter().position(|known| known.packet_id == packet_id)
    {
        let name = begun.swap_remove(place).message;
        if !name.is_none() && session.traffic().inbound.process_again(packet_id) {
            return Ok(Some(name));
        }
    }
    // A 3.1.1 client knows no Receive Maximum; its packet identifiers are the bound.
    let is_v5 = session.version == Version::V5;
    let receive_maximum = if is_v5 {
        turn.facts.limits.receive_maximum
    } else {
        u16::MAX
    };
    match session
        .traffic()
        .inbound
        .publish(packet_id, qos, receive_maximum)
    {
        Arrival::New => Ok(Some(MessageId::NONE)),
        Arrival::Processing => Ok(None),
        Arrival::Received => {
            let answer = Answer {
                packet_id,
                qos,
                reason: ReasonCode::Success,
            };
            write_answer(link, session, turn, answer);
            Ok(None)
        }
        Arrival::OverMaximum => Err(OVER_MAXIMUM),
    }
}

/// The topic that an alias stands for; `None` when the packet names its topic itself.
fn resolve_alias(
    session: &mut Session,
    publish: &Publish<'_>,
    limits: &Limits,
) -> Result<Option<Box<str>>, Violation> {
    let Some(alias) = publish.properties.topic_alias else {
        return Ok(None);
    };
    if alias > limits.topic_alias_maximum {
        let detail = "a topic alias above the server's Topic Alias Maximum";
        return Err(Violation::new(
            ReasonCode::TopicAliasInvalid,
            "MQTT-3.3.2-9",
            detail,
        ));
    }
    let aliases = session.traffic().inbound_aliases.get_or_insert_default();
    if publish.topic.is_empty() {
        let unknown = Violation::protocol("MQTT5 §3.3.2.3.4", "a topic alias that was never set");
        return aliases
            .topic(alias)
            .map(|topic| Some(topic.into()))
            .ok_or(unknown);
    }
    // What is too long to be published to is not kept, and its alias is refused like itself.
    let is_kept = publish.topic.len() <= limits.topic_bytes_max;
    aliases.set(alias, if is_kept { publish.topic } else { NOBODYS });
    Ok(None)
}

/// The properties that a message keeps, and who sent it where the server says so.
pub(super) fn forwarded_properties(
    turn: &Turn<'_>,
    identity: Option<&Identity>,
    topic: &str,
    properties: &PublishProperties<'_>,
) -> Vec<u8> {
    let mut out = Vec::new();
    if turn.policy.stamps(topic) {
        let user = identity.and_then(|identity| identity.user.as_deref());
        encode::stamped_properties(&mut out, properties, (SENDER, user));
    } else {
        encode::forwarded_properties(&mut out, properties);
    }
    out
}

fn message_of(turn: &Turn<'_>, session: &Session, topic: &str, publish: &Publish<'_>) -> Message {
    let identity = session.login.as_ref().map(|login| &*login.identity);
    let properties = forwarded_properties(turn, identity, topic, &publish.properties);
    let expiry = publish.properties.message_expiry_s;
    Message::new(MessageParts {
        topic,
        properties: &properties,
        payload: publish.payload,
        qos: publish.qos,
        retain: publish.retain,
        expires_at_unix_ms: expiry.map_or(u64::MAX, |seconds| {
            turn.now.unix_ms + u64::from(seconds) * 1000
        }),
        publisher: session.session,
    })
}

fn write_answer(link: &mut Link, session: &Session, turn: &mut Turn<'_>, answer: Answer) {
    let packet_type = if answer.qos == QoS::AtLeastOnce {
        PacketType::PubAck
    } else {
        PacketType::PubRec
    };
    write_ack(
        link,
        session,
        turn,
        packet_type,
        answer.packet_id,
        answer.reason,
    );
}
