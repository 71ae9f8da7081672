//! The answers of the server to what a client sent, and what the model learns from them.

use edge_proto::packet::{Ack, ConnAck, Packet, PacketType, QoS, SubAck};
use edge_proto::reason::ReasonCode;

use crate::client::{Existence, Outgoing};
use crate::connect::lose_shares;
use crate::oracle::{Checked, Failure};
use crate::run::Run;

impl Run {
    pub(crate) fn connack(&mut self, at: usize, connack: &ConnAck<'_>) -> Checked {
        self.note(at, || {
            format!(
                "heard CONNACK {:?} present {}",
                connack.reason, connack.session_present
            )
        });
        let now_ms = self.world.now.mono_ms;
        let client = &mut self.clients[at];
        let Some(connection) = &mut client.connection else {
            return Ok(());
        };
        if connack.reason != ReasonCode::Success {
            connection.told = Some(connack.reason as u8);
            return match connack.reason {
                ReasonCode::SessionTakenOver
                | ReasonCode::ServerBusy
                | ReasonCode::ServerUnavailable => Ok(()),
                ReasonCode::ServerShuttingDown
                | ReasonCode::UseAnotherServer
                | ReasonCode::ServerMoved
                    if self.world.nodes.is_some() =>
                {
                    Ok(())
                }
                reason => Err(Failure::of(
                    at,
                    format!("CONNECT was refused with {reason:?}"),
                )),
            };
        }
        connection.live = true;
        connection.server_receive_maximum = connack.receive_maximum;
        let (expiry_s, clean) = (connection.expiry_s, connection.clean);
        if connack.session_present {
            if clean
                || (!client.haunted && matches!(client.existence, Existence::No | Existence::Live))
            {
                return Err(Failure::of(
                    at,
                    format!(
                        "Session Present with clean start {clean}, session {:?}",
                        client.existence
                    ),
                ));
            }
        } else {
            if let Existence::Durable { expiry_s, since_ms } = client.existence {
                let gone_ms = since_ms.map_or(0, |since_ms| now_ms - since_ms);
                if !client.haunted && gone_ms < u64::from(expiry_s) * 1000 {
                    return Err(Failure::of(
                        at,
                        format!("lost its session of {expiry_s} s after {gone_ms} ms"),
                    ));
                }
                lose_shares(&mut self.oracle, client);
                client.end_session();
            }
            client.needs_clean = false;
        }
        client.existence = match (connack.session_present, expiry_s) {
            (false, 0) => Existence::Live,
            _ => Existence::Durable {
                expiry_s,
                since_ms: None,
            },
        };
        self.resend(at);
        Ok(())
    }

    /// What was not acknowledged is sent again, in order (MQTT-4.4.0-1).
    pub(crate) fn resend(&mut self, at: usize) {
        let mut all = Vec::new();
        let client = &mut self.clients[at];
        let Some(connection) = &mut client.connection else {
            return;
        };
        let mut notes = Vec::new();
        for Outgoing {
            packet_id,
            message,
            qos,
            releasing,
            bytes,
        } in &client.outbound
        {
            if *releasing {
                let ack = Packet::PubRel(Ack::new(*packet_id, ReasonCode::Success));
                edge_proto::encode::packet(&mut all, client.version, &ack);
                notes.push(format!("PUBREL id {packet_id} again"));
            } else {
                let start = all.len();
                all.extend_from_slice(bytes);
                all[start] |= 0x08;
                if let Some(published) = self.oracle.get_mut(*message) {
                    published.resent = true;
                }
                connection.answers[*qos as usize - 1].push_back(*packet_id);
                notes.push(format!("PUBLISH message {message} id {packet_id} again"));
            }
        }
        for text in notes {
            self.note(at, || text);
        }
        self.write(at, &all);
    }

    /// PUBACK or PUBREC.
    pub(crate) fn answered(&mut self, at: usize, ack: &Ack<'_>, qos: QoS) -> Checked {
        self.note(at, || {
            format!(
                "heard {} id {} {:?}",
                if qos == QoS::AtLeastOnce {
                    "PUBACK"
                } else {
                    "PUBREC"
                },
                ack.packet_id,
                ack.reason
            )
        });
        let (step, now_ms) = (self.step, self.world.now.mono_ms);
        let client = &mut self.clients[at];
        let Some(connection) = &mut client.connection else {
            return Ok(());
        };
        let expected = &mut connection.answers[qos as usize - 1];
        let place = expected
            .iter()
            .position(|packet_id| *packet_id == ack.packet_id);
        match place.and_then(|place| Some((place, expected.remove(place)?))) {
            // What was received before the connection was lost is answered at once.
            Some((place, _)) if place == 0 || qos == QoS::ExactlyOnce => {}
            _ => {
                return Err(Failure::of(
                    at,
                    format!("{qos:?} was answered for id {} out of turn", ack.packet_id),
                ));
            }
        }
        let Some(place) = client
            .outbound
            .iter()
            .position(|outgoing| outgoing.packet_id == ack.packet_id)
        else {
            return Err(Failure::of(
                at,
                format!("id {} was acknowledged, and is not in use", ack.packet_id),
            ));
        };
        let number = client.outbound[place].message;
        if let Some(message) = self.oracle.get_mut(number) {
            message.was_refused = ack.reason.is_error();
            if !message.was_refused {
                message.acknowledged_at.get_or_insert(step);
                message.acknowledged_ms = now_ms;
            }
        }
        if qos == QoS::AtLeastOnce || ack.reason.is_error() {
            client.outbound.remove(place);
        } else {
            client.outbound[place].releasing = true;
            connection
                .acknowledgements
                .push_back((PacketType::PubRel, ack.packet_id, number));
        }
        Ok(())
    }

    pub(crate) fn completed(&mut self, at: usize, ack: &Ack<'_>) -> Checked {
        self.note(at, || {
            format!("heard PUBCOMP id {} {:?}", ack.packet_id, ack.reason)
        });
        let client = &mut self.clients[at];
        let place = client
            .outbound
            .iter()
            .position(|outgoing| outgoing.packet_id == ack.packet_id && outgoing.releasing);
        match place {
            Some(place) => {
                client.outbound.remove(place);
                if let Some(connection) = &mut client.connection {
                    connection.acknowledgements.retain(|(kind, id, _)| {
                        (*kind, *id) != (PacketType::PubRel, ack.packet_id)
                    });
                }
                Ok(())
            }
            None => Err(Failure::of(
                at,
                format!(
                    "got PUBCOMP for id {}, which is not being released",
                    ack.packet_id
                ),
            )),
        }
    }

    pub(crate) fn suback(&mut self, at: usize, suback: &SubAck<'_>) -> Checked {
        self.note(at, || {
            format!("heard SUBACK id {} {:?}", suback.packet_id, suback.reasons)
        });
        let step = self.step;
        let client = &mut self.clients[at];
        let Some(connection) = &mut client.connection else {
            return Ok(());
        };
        let Some(indices) = connection.operations.remove(&suback.packet_id) else {
            return Err(Failure::of(
                at,
                format!("got SUBACK for id {}, and asked for none", suback.packet_id),
            ));
        };
        if suback.reasons.len() != indices.len() || suback.reasons.iter().any(|reason| *reason > 2)
        {
            return Err(Failure::of(
                at,
                format!("a subscription was refused: {:?}", suback.reasons),
            ));
        }
        for index in indices {
            client.subscriptions[index].from_sure = Some(step);
            let filter = client.subscriptions[index].filter.clone();
            for older in client.subscriptions[..index]
                .iter_mut()
                .filter(|older| older.filter == filter)
            {
                older.until_sure.get_or_insert(step);
                older.until_maybe.get_or_insert(step);
            }
        }
        Ok(())
    }

    pub(crate) fn unsuback(&mut self, at: usize, unsuback: &SubAck<'_>) -> Checked {
        self.note(at, || format!("heard UNSUBACK id {}", unsuback.packet_id));
        let step = self.step;
        let client = &mut self.clients[at];
        let Some(connection) = &mut client.connection else {
            return Ok(());
        };
        let Some(indices) = connection.unsubscribing.remove(&unsuback.packet_id) else {
            return Err(Failure::of(
                at,
                format!(
                    "got UNSUBACK for id {}, and asked for none",
                    unsuback.packet_id
                ),
            ));
        };
        for index in indices {
            client.subscriptions[index].until_maybe.get_or_insert(step);
        }
        Ok(())
    }
}
