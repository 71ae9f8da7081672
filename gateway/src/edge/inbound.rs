//! Packets of a connected client, and what its acknowledgements do. What it publishes is in `publish.rs`.

use edge_proto::decode::{Sender, decode};
use edge_proto::encode;
use edge_proto::frame::Frame;
use edge_proto::packet::{Ack, Disconnect, Packet, PacketType, UserProperties};
use edge_proto::reason::{ReasonCode, Violation};
use edge_proto::session::inbound::Release;
use edge_proto::session::outbound::PubRec;
use reactor::driver::ConnectionId;

use super::depart::Leave;
use super::link::Link;
use super::session::Session;
use super::{Edge, Flow};
use crate::core_message::{CoreMessage, Outcome};
use crate::metrics::DropReason;
use crate::turn::Turn;

impl Edge {
    /// One packet of a connected client.
    pub(super) fn packet(
        &mut self,
        turn: &mut Turn<'_>,
        id: ConnectionId,
        frame: Frame<'_>,
    ) -> Flow {
        if self.must_wait(turn, id, frame) {
            return Flow::Stall; // It sent more than it may in so short a time.
        }
        let Some((link, session)) = self.live(id) else {
            return Flow::Closed;
        };
        if session.is_away() {
            return Flow::Stall; // Until its new home has it.
        }
        if let Err(violation) = link.arrives(frame) {
            self.violated(turn, id, violation);
            return Flow::Closed;
        }
        if link.is_flooded(turn) {
            return Flow::Stall; // It must take the answers to what it sent before it may ask for more.
        }
        let subscribes = matches!(
            frame.packet_type(),
            Some(PacketType::Subscribe | PacketType::Unsubscribe)
        );
        if subscribes && session.is_subscribing_too_much(&turn.facts.limits) {
            return Flow::Stall; // Until what it asked for before is answered and sent.
        }
        if subscribes && turn.congestion.congested {
            self.wait_for_core(id);
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
                    turn.stats.counters.pings_received += 1;
                    link_of(self, id, |link| link.write_back(turn, encode::pingresp));
                    Ok(Flow::Continue)
                }
                Packet::Disconnect(disconnect) => self.disconnect(turn, id, &disconnect),
                Packet::Connect(_) => Err(Violation::protocol(
                    "MQTT-3.1.0-2",
                    "a second CONNECT on one connection",
                )),
                Packet::Auth(auth) => self.authenticate_again(turn, id, &auth),
                Packet::ConnAck(_) | Packet::SubAck(_) | Packet::UnsubAck(_) | Packet::PingResp => {
                    Err(Violation::protocol(
                        "MQTT5 §2.1.2",
                        "a packet that only a server sends",
                    ))
                }
            });
        let flow = handled.unwrap_or_else(|violation| {
            self.violated(turn, id, violation);
            Flow::Closed
        });
        if flow == Flow::Continue {
            self.charge(turn, id, frame);
        }
        flow
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
        if let Some(attachment) = session.attachment() {
            attachment
                .begun
                .retain(|begun| begun.packet_id != packet_id);
        }
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
                elsewhere: None,
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

pub(super) fn write_ack(
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
    link.answer(turn, packet_type, packet_id, |out| {
        encode::ack(out, session.version, packet_type, &ack);
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
        Outcome::Denied => turn.stats.drop_accepted(DropReason::Denied, 1),
    }
}
