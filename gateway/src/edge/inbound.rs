//! Packets of a connected client: what it publishes, acknowledges and asks.

use std::sync::Arc;

use edge_proto::decode::{Sender, decode};
use edge_proto::encode;
use edge_proto::frame::Frame;
use edge_proto::packet::{
    Ack, Disconnect, Packet, PacketType, Publish, QoS, UserProperties, Version,
};
use edge_proto::reason::{ReasonCode, Violation};
use edge_proto::session::inbound::{Answer, Arrival, Release};
use edge_proto::session::outbound::PubRec;
use edge_proto::topic::TopicName;
use reactor::driver::ConnectionId;

use super::depart::Leave;
use super::link::Link;
use super::session::Session;
use super::{Edge, Flow, tells_reasons};
use crate::core_message::{CoreMessage, Origin, Outcome, PublishRequest};
use crate::message::{Message, MessageParts};
use crate::metrics::DropReason;
use crate::turn::Turn;

const OVER_MAXIMUM: Violation = Violation::new(
    ReasonCode::ReceiveMaximumExceeded,
    "MQTT-3.3.4-7",
    "more unacknowledged messages than the server's Receive Maximum",
);

impl Edge {
    /// One packet of a connected client.
    pub(super) fn packet(
        &mut self,
        turn: &mut Turn<'_>,
        id: ConnectionId,
        frame: Frame<'_>,
    ) -> Flow {
        let Some((link, session)) = self.live(id) else {
            return Flow::Closed;
        };
        if link.is_hopeless(turn) {
            turn.stats.counters.slow_consumers_disconnected += 1;
            self.leave(turn, id, Leave::because(ReasonCode::QuotaExceeded));
            return Flow::Closed;
        }
        let subscribes = matches!(
            frame.packet_type(),
            Some(PacketType::Subscribe | PacketType::Unsubscribe)
        );
        if subscribes && turn.congested {
            self.stalled.push_back(id);
            return Flow::Stall;
        }
        let handled =
            decode(session.version, Sender::Client, frame).and_then(|packet| match packet {
                Packet::Publish(publish) => self.publish(turn, id, &publish),
                Packet::PubAck(ack) => self.puback(turn, id, ack.packet_id),
                Packet::PubRec(ack) => self.pubrec(turn, id, &ack),
                Packet::PubRel(ack) => self.pubrel(turn, id, ack.packet_id),
                Packet::PubComp(ack) => self.pubcomp(turn, id, ack.packet_id),
                Packet::Subscribe(subscribe) => self.subscribe(turn, id, &subscribe),
                Packet::Unsubscribe(unsubscribe) => self.unsubscribe(turn, id, &unsubscribe),
                Packet::PingReq => {
                    link_of(self, id, |link| link.write(turn, encode::pingresp));
                    Ok(Flow::Continue)
                }
                Packet::Disconnect(disconnect) => self.disconnect(turn, id, &disconnect),
                Packet::Connect(_) => Err(Violation::protocol(
                    "MQTT-3.1.0-2",
                    "a second CONNECT on one connection",
                )),
                Packet::Auth(_) => Err(Violation::protocol(
                    "MQTT5 §4.12",
                    "AUTH without an authentication method in CONNECT",
                )),
                Packet::ConnAck(_) | Packet::SubAck(_) | Packet::UnsubAck(_) | Packet::PingResp => {
                    Err(Violation::protocol(
                        "MQTT5 §2.1.2",
                        "a packet that only a server sends",
                    ))
                }
            });
        handled.unwrap_or_else(|violation| {
            self.violated(turn, id, violation);
            Flow::Closed
        })
    }

    /// PUBLISH (§3.3).
    fn publish(
        &mut self,
        turn: &mut Turn<'_>,
        id: ConnectionId,
        publish: &Publish<'_>,
    ) -> Result<Flow, Violation> {
        if publish.qos > QoS::AtMostOnce && Self::is_overloaded(turn) {
            self.stalled.push_back(id);
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
        let alias = resolve_alias(session, publish, limits.topic_alias_maximum)?;
        let topic = alias.as_deref().unwrap_or(publish.topic);
        let levels = TopicName::parse(topic)?.levels().count();
        if let Some(packet_id) = publish.packet_id {
            // A 3.1.1 client knows no Receive Maximum; its packet identifiers are the bound.
            let receive_maximum = if session.version == Version::V5 {
                limits.receive_maximum
            } else {
                u16::MAX
            };
            match session
                .traffic()
                .inbound
                .publish(packet_id, publish.qos, receive_maximum)
            {
                Arrival::New => {}
                Arrival::Processing => return Ok(Flow::Continue),
                Arrival::Received => {
                    let answer = Answer {
                        packet_id,
                        qos: publish.qos,
                        reason: ReasonCode::Success,
                    };
                    write_answer(link, session, turn, answer);
                    return Ok(Flow::Continue);
                }
                Arrival::OverMaximum => return Err(OVER_MAXIMUM),
            }
        }
        turn.stats.counters.publishes_received += 1;
        if levels > turn.facts.limits.topic_levels_max || topic.starts_with('$') {
            // Correct, but nothing that a client may publish to (MQTT-4.7.2-1 reserves `$` for the server).
            self.answer(turn, id, publish.packet_id, ReasonCode::TopicNameInvalid);
            return Ok(Flow::Continue);
        }
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
        let received = publish
            .packet_id
            .filter(|_| exactly_once)
            .map(|packet_id| (session.session, packet_id));
        let owner = turn.facts.owner_of_topic(topic);
        turn.outbox.tell(
            owner,
            CoreMessage::Publish(Box::new(PublishRequest {
                message,
                origin,
                received,
            })),
        );
        Ok(Flow::Continue)
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
            if answer.reason.is_error() && !tells_reasons(session.version) {
                // 3.1.1 cannot refuse a message; acknowledging it would claim that it is stored.
                return self.leave(turn, id, Leave::because(answer.reason));
            }
            turn.stats.counters.publishes_acknowledged += 1;
            write_answer(link, session, turn, answer);
        }
        self.resume(turn, id);
    }

    /// PUBACK: the client has a QoS 1 message.
    fn puback(
        &mut self,
        turn: &mut Turn<'_>,
        id: ConnectionId,
        packet_id: u16,
    ) -> Result<Flow, Violation> {
        let Some((_, session)) = self.live(id) else {
            return Ok(Flow::Closed);
        };
        if let Some(flight) = session.traffic().outbound.puback(packet_id) {
            end_delivery(
                session,
                turn,
                flight.sequence,
                flight.message,
                Outcome::Delivered,
            );
            self.pump(turn, id);
        }
        Ok(Flow::Continue)
    }

    /// PUBREC: the client has a QoS 2 message, or refuses it.
    fn pubrec(
        &mut self,
        turn: &mut Turn<'_>,
        id: ConnectionId,
        ack: &Ack<'_>,
    ) -> Result<Flow, Violation> {
        let Some((link, session)) = self.live(id) else {
            return Ok(Flow::Closed);
        };
        if ack.reason.is_error() {
            if let Some(flight) = session.traffic().outbound.pubrec_refused(ack.packet_id) {
                end_delivery(
                    session,
                    turn,
                    flight.sequence,
                    flight.message,
                    Outcome::Refused,
                );
                self.pump(turn, id);
            }
            return Ok(Flow::Continue);
        }
        match session.traffic().outbound.pubrec(ack.packet_id) {
            PubRec::Record(sequence) if session.durable => {
                let record = CoreMessage::MailboxPubRec {
                    home: session.home,
                    sequence,
                };
                turn.outbox.tell(session.home_core, record);
            }
            PubRec::Record(sequence) => {
                session.traffic().outbound.recorded(sequence);
                write_ack(
                    link,
                    session,
                    turn,
                    PacketType::PubRel,
                    ack.packet_id,
                    ReasonCode::Success,
                );
            }
            PubRec::Recording => {}
            PubRec::Repeat => write_ack(
                link,
                session,
                turn,
                PacketType::PubRel,
                ack.packet_id,
                ReasonCode::Success,
            ),
            PubRec::Unknown => {
                let reason = ReasonCode::PacketIdentifierNotFound;
                write_ack(
                    link,
                    session,
                    turn,
                    PacketType::PubRel,
                    ack.packet_id,
                    reason,
                );
            }
        }
        Ok(Flow::Continue)
    }

    /// The home has recorded a PUBREC: PUBREL may go out.
    pub fn pubrec_recorded(&mut self, turn: &mut Turn<'_>, id: ConnectionId, sequence: u64) {
        let Some((link, session)) = self.live(id) else {
            return;
        };
        if let Some(packet_id) = session.traffic().outbound.recorded(sequence) {
            write_ack(
                link,
                session,
                turn,
                PacketType::PubRel,
                packet_id,
                ReasonCode::Success,
            );
        }
    }

    /// PUBCOMP: a QoS 2 message is through.
    fn pubcomp(
        &mut self,
        turn: &mut Turn<'_>,
        id: ConnectionId,
        packet_id: u16,
    ) -> Result<Flow, Violation> {
        let Some((_, session)) = self.live(id) else {
            return Ok(Flow::Closed);
        };
        if let Some(flight) = session.traffic().outbound.pubcomp(packet_id) {
            end_delivery(
                session,
                turn,
                flight.sequence,
                flight.message,
                Outcome::Delivered,
            );
            self.pump(turn, id);
        }
        Ok(Flow::Continue)
    }

    /// PUBREL: the client will not send this message again.
    fn pubrel(
        &mut self,
        turn: &mut Turn<'_>,
        id: ConnectionId,
        packet_id: u16,
    ) -> Result<Flow, Violation> {
        let Some((link, session)) = self.live(id) else {
            return Ok(Flow::Closed);
        };
        match session.traffic().inbound.pubrel(packet_id) {
            Release::Release if session.durable => {
                turn.outbox.tell(
                    session.home_core,
                    CoreMessage::Release {
                        home: session.home,
                        packet_id,
                    },
                );
            }
            Release::Release => self.released(turn, id, packet_id),
            Release::Releasing => {}
            Release::Unknown => {
                write_ack(
                    link,
                    session,
                    turn,
                    PacketType::PubComp,
                    packet_id,
                    ReasonCode::PacketIdentifierNotFound,
                );
            }
        }
        Ok(Flow::Continue)
    }

    /// A received packet identifier is forgotten for good: PUBCOMP may go out.
    pub fn released(&mut self, turn: &mut Turn<'_>, id: ConnectionId, packet_id: u16) {
        if let Some((link, session)) = self.live(id) {
            if session.traffic().inbound.released(packet_id) {
                write_ack(
                    link,
                    session,
                    turn,
                    PacketType::PubComp,
                    packet_id,
                    ReasonCode::Success,
                );
            }
            self.resume(turn, id);
        } else if let Some(detaching) = self.detaching.get_mut(&id) {
            detaching.inbound.released(packet_id);
            self.detach_if_quiet(turn, id);
        }
    }

    /// DISCONNECT (§3.14).
    fn disconnect(
        &mut self,
        turn: &mut Turn<'_>,
        id: ConnectionId,
        packet: &Disconnect<'_>,
    ) -> Result<Flow, Violation> {
        let Some((_, session)) = self.live(id) else {
            return Ok(Flow::Closed);
        };
        let expiry_s = packet
            .session_expiry_s
            .map(|asked| asked.min(turn.facts.limits.session_expiry_s_max));
        if session.expiry_s == 0 && expiry_s.is_some_and(|expiry_s| expiry_s > 0) {
            return Err(Violation::protocol(
                "MQTT5 §3.14.2.2.2",
                "a session that was to end with its connection cannot be given an expiry by DISCONNECT",
            ));
        }
        let will = packet.reason != ReasonCode::Success;
        self.leave(
            turn,
            id,
            Leave {
                tell: None,
                detail: None,
                will,
                expiry_s,
            },
        );
        Ok(Flow::Closed)
    }
}

fn link_of(edge: &mut Edge, id: ConnectionId, act: impl FnOnce(&mut Link)) {
    if let Some((link, _)) = edge.live(id) {
        act(link);
    }
}

/// The topic that an alias stands for; `None` when the packet names its topic itself.
fn resolve_alias(
    session: &mut Session,
    publish: &Publish<'_>,
    maximum: u16,
) -> Result<Option<Box<str>>, Violation> {
    let Some(alias) = publish.properties.topic_alias else {
        return Ok(None);
    };
    if alias > maximum {
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
    aliases.set(alias, publish.topic);
    Ok(None)
}

fn message_of(turn: &Turn<'_>, session: &Session, topic: &str, publish: &Publish<'_>) -> Message {
    let mut properties = Vec::new();
    encode::forwarded_properties(&mut properties, &publish.properties);
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

fn write_ack(
    link: &mut Link,
    session: &Session,
    turn: &mut Turn<'_>,
    packet_type: PacketType,
    packet_id: u16,
    reason: ReasonCode,
) {
    let ack = Ack {
        packet_id,
        reason,
        reason_string: None,
        user_properties: UserProperties::default(),
    };
    link.write(turn, |out| {
        encode::ack(out, session.version, packet_type, &ack)
    });
}

/// A QoS ≥ 1 delivery has ended: the one who answers for it hears so.
pub(super) fn end_delivery(
    session: &Session,
    turn: &mut Turn<'_>,
    sequence: u64,
    bytes: u32,
    outcome: Outcome,
) {
    if session.durable {
        let ack = CoreMessage::MailboxAck {
            home: session.home,
            sequence,
            bytes,
            outcome,
        };
        turn.outbox.tell(session.home_core, ack);
        return;
    }
    match outcome {
        Outcome::Delivered => turn.stats.deliver(),
        Outcome::Expired => turn.stats.expire(),
        Outcome::TooLarge => turn.stats.drop_accepted(DropReason::TooLarge, 1),
        Outcome::Refused => turn.stats.drop_accepted(DropReason::Refused, 1),
    }
}
