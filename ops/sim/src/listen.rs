//! What clients hear: every packet of the server is held against the protocol and against the model.

use edge_proto::decode::{Sender, decode};
use edge_proto::frame::next_frame;
use edge_proto::packet::{Ack, ConnAck, Packet, PacketType, Publish, QoS, SubAck, Version};
use edge_proto::reason::ReasonCode;

use crate::client::{Existence, Outgoing};
use crate::oracle::{Arrival, Checked, Failure};
use crate::run::Run;

impl Run {
    /// A client reads what has arrived, and notices the end of its connection.
    pub(crate) fn listen(&mut self, at: usize) -> Checked {
        self.watch_zombies(at)?;
        let Some(connection) = &mut self.clients[at].connection else {
            return Ok(());
        };
        let wire = connection.wire;
        if self.world.now.mono_ms < self.world.wires[wire].slow_until_ms {
            return Ok(());
        }
        connection
            .input
            .append(&mut self.world.wires[wire].to_client);
        let version = self.clients[at].version;
        let maximum = self.clients[at].maximum_packet_size.unwrap_or(u32::MAX);
        while let Some(connection) = &mut self.clients[at].connection {
            let input = std::mem::take(&mut connection.input);
            let frame = next_frame(&input, maximum).map_err(|violation| {
                Failure::of(
                    at,
                    format!("got bytes that are no packet: {}", violation.detail),
                )
            })?;
            let Some(frame) = frame else {
                connection.input = input;
                break;
            };
            let length = frame.length;
            let taken_over = frame.first_byte == 0x20 && frame.body.get(1) == Some(&0x8E);
            if self.world.plan.tolerates_connack && taken_over {
                break;
            }
            let packet = decode(version, Sender::Server, frame).map_err(|violation| {
                Failure::of(
                    at,
                    format!(
                        "got a packet that breaks {}: {}",
                        violation.clause, violation.detail
                    ),
                )
            })?;
            self.hear(at, &packet)?;
            if let Some(connection) = &mut self.clients[at].connection {
                connection.input = input[length..].to_vec();
            }
        }
        if self.clients[at].connection.is_some() && self.world.wires[wire].ended() {
            self.ended(at)?;
        }
        Ok(())
    }

    /// Connections that were left behind are ended by the server, which says why.
    fn watch_zombies(&mut self, at: usize) -> Checked {
        let version = self.clients[at].version;
        for index in (0..self.clients[at].zombies.len()).rev() {
            let wire = self.clients[at].zombies[index];
            if !self.world.wires[wire].gone {
                let bytes = &mut self.world.wires[wire].to_client;
                bytes.drain(..bytes.len().saturating_sub(16));
                continue;
            }
            self.clients[at].zombies.remove(index);
            let wire = &self.world.wires[wire];
            let bytes = &wire.to_client;
            let crashed = wire.broken;
            let tells = bytes.len() >= 3 && bytes[bytes.len() - 3] == 0xE0;
            let late = wire.lost || wire.slow_until_ms > 0;
            if version == Version::V5 && wire.connected && !crashed && !tells && !late {
                return Err(Failure::of(
                    at,
                    format!(
                        "was taken over, and the older connection was not told, only {bytes:?}"
                    ),
                ));
            }
        }
        Ok(())
    }

    /// The server has ended the connection.
    fn ended(&mut self, at: usize) -> Checked {
        let version = self.clients[at].version;
        let rivals = self.clients[at].haunted || !self.clients[at].zombies.is_empty();
        let Some(connection) = self.drop_connection(at) else {
            return Ok(());
        };
        self.note(at, || {
            format!("was disconnected, told {:?}", connection.told)
        });
        let wire = &self.world.wires[connection.wire];
        if wire.broken || wire.lost || rivals || wire.slow_until_ms > 0 {
            return Ok(());
        }
        let now_ms = self.world.now.mono_ms;
        let silent_ms = now_ms.saturating_sub(wire.wrote_ms);
        let keep_alive =
            connection.keep_alive_s > 0 && silent_ms >= u64::from(connection.keep_alive_s) * 1400;
        match connection.told {
            Some(0x8D) if !keep_alive => Err(Failure::of(
                at,
                format!("was told of a keep-alive timeout {silent_ms} ms after it wrote"),
            )),
            Some(0x8D | 0x97 | 0x95 | 0x8E | 0x88 | 0x89) => Ok(()),
            Some(other) => Err(Failure::of(
                at,
                format!("was disconnected with {other:#04x}, and had broken no rule"),
            )),
            None if version == Version::V311 || self.world.plan.tolerates_connack => Ok(()),
            None if now_ms > 10_000 && !connection.live => Ok(()), // A CONNECT that came too late.
            None => Err(Failure::of(at, "was disconnected and not told why")),
        }
    }

    fn hear(&mut self, at: usize, packet: &Packet<'_>) -> Checked {
        let live = self.clients[at].is_live();
        if live == matches!(packet, Packet::ConnAck(_)) {
            return Err(Failure::of(at, format!("got {packet:?} at the wrong time")));
        }
        match packet {
            Packet::ConnAck(connack) => self.connack(at, connack),
            Packet::Publish(publish) => self.hear_publish(at, publish),
            Packet::PubAck(ack) => self.answered(at, ack, QoS::AtLeastOnce),
            Packet::PubRec(ack) => self.answered(at, ack, QoS::ExactlyOnce),
            Packet::PubComp(ack) => self.completed(at, ack),
            Packet::PubRel(ack) => {
                self.note(at, || format!("heard PUBREL id {}", ack.packet_id));
                let client = &mut self.clients[at];
                let message = client.received.remove(&ack.packet_id).unwrap_or_default();
                if let Some(connection) = &mut client.connection {
                    // PUBREC is due no more: the server has heard it, on this connection or an earlier one.
                    connection.acknowledgements.retain(|(kind, id, _)| {
                        (*kind, *id) != (PacketType::PubRec, ack.packet_id)
                    });
                    connection.acknowledgements.push_back((
                        PacketType::PubComp,
                        ack.packet_id,
                        message,
                    ));
                }
                Ok(())
            }
            Packet::SubAck(suback) => self.suback(at, suback),
            Packet::UnsubAck(unsuback) => self.unsuback(at, unsuback),
            Packet::PingResp => Ok(()),
            Packet::Disconnect(disconnect) => {
                self.note(at, || {
                    format!(
                        "heard DISCONNECT {:?} {:?}",
                        disconnect.reason, disconnect.reason_string
                    )
                });
                if let Some(connection) = &mut self.clients[at].connection {
                    connection.told = Some(disconnect.reason as u8);
                }
                Ok(())
            }
            other => Err(Failure::of(
                at,
                format!("got {other:?}, which no server sends here"),
            )),
        }
    }

    fn connack(&mut self, at: usize, connack: &ConnAck<'_>) -> Checked {
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
                crate::speak::lose_shares(&mut self.oracle, client);
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
    fn resend(&mut self, at: usize) {
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

    fn hear_publish(&mut self, at: usize, publish: &Publish<'_>) -> Checked {
        let client = &mut self.clients[at];
        let Some(connection) = &mut client.connection else {
            return Ok(());
        };
        let topic = match (publish.topic, publish.properties.topic_alias) {
            (topic, None) => topic.to_owned(),
            (_, Some(alias)) if alias > client.alias_maximum => {
                return Err(Failure::of(
                    at,
                    format!("got topic alias {alias}, above its maximum"),
                ));
            }
            ("", Some(alias)) => match connection.aliases.get(&alias) {
                Some(topic) => topic.clone(),
                None => {
                    return Err(Failure::of(
                        at,
                        format!("got topic alias {alias}, which was never set"),
                    ));
                }
            },
            (topic, Some(alias)) => {
                connection.aliases.insert(alias, topic.to_owned());
                topic.to_owned()
            }
        };
        let number = publish
            .payload
            .first_chunk()
            .map_or(0, |bytes| u64::from_be_bytes(*bytes));
        let (qos, dup) = (publish.qos, publish.dup);
        let arrival = Arrival {
            message: number,
            qos,
            retain: publish.retain,
        };
        let mut again = false;
        if let Some(packet_id) = publish.packet_id {
            if let Some(known) = connection.unacknowledged.insert(packet_id, number) {
                return Err(Failure::of(
                    at,
                    format!("packet id {packet_id} for message {number} is in use for {known}"),
                ));
            }
            let maximum = usize::from(client.receive_maximum);
            if client.version == Version::V5 && connection.unacknowledged.len() > maximum {
                return Err(Failure::of(
                    at,
                    format!("got more than its Receive Maximum of {maximum}"),
                ));
            }
            if qos == QoS::ExactlyOnce {
                match client.received.insert(packet_id, number) {
                    Some(known) if known != number => {
                        return Err(Failure::of(
                            at,
                            format!(
                                "packet id {packet_id} of unreleased message {known} came with message {number}"
                            ),
                        ));
                    }
                    Some(_) if !dup => {
                        return Err(Failure::of(
                            at,
                            format!("message {number} came again without DUP"),
                        ));
                    }
                    Some(_) => again = true,
                    None => {}
                }
            }
            let kind = if qos == QoS::ExactlyOnce {
                PacketType::PubRec
            } else {
                PacketType::PubAck
            };
            connection
                .acknowledgements
                .push_back((kind, packet_id, number));
        } else if dup {
            return Err(Failure::of(at, "got QoS 0 with DUP"));
        }
        self.note(at, || {
            format!(
                "heard message {number} {qos:?} id {:?} dup {dup} retain {} again {again}",
                publish.packet_id, publish.retain
            )
        });
        if number == 0 && publish.payload.is_empty() {
            return Ok(()); // A message that clears a retained one is delivered like any other; it carries no number.
        }
        if again {
            return Ok(());
        }
        self.deliveries += 1;
        self.oracle.arrived(
            at,
            &mut self.clients[at],
            arrival,
            &topic,
            self.world.crashes,
        )
    }

    /// PUBACK or PUBREC.
    fn answered(&mut self, at: usize, ack: &Ack<'_>, qos: QoS) -> Checked {
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

    fn completed(&mut self, at: usize, ack: &Ack<'_>) -> Checked {
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

    fn suback(&mut self, at: usize, suback: &SubAck<'_>) -> Checked {
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

    fn unsuback(&mut self, at: usize, unsuback: &SubAck<'_>) -> Checked {
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
