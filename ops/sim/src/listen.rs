//! What clients hear: every packet of the server is held against the protocol and against the model.

use edge_proto::decode::{Sender, decode};
use edge_proto::frame::next_frame;
use edge_proto::packet::{Packet, PacketType, Publish, QoS, Version};

use crate::client::Client;
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
        if wire.sent_away && !connection.live {
            return Ok(()); // Its CONNECT is not answered any more.
        }
        let now_ms = self.world.now.mono_ms;
        let silent_ms = now_ms.saturating_sub(wire.wrote_ms);
        let keep_alive =
            connection.keep_alive_s > 0 && silent_ms >= u64::from(connection.keep_alive_s) * 1400;
        let clustered = self.world.nodes.is_some();
        match connection.told {
            // Its node leaves.
            Some(0x8B | 0x9C | 0x9D) if clustered => Ok(()),
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

    fn hear_publish(&mut self, at: usize, publish: &Publish<'_>) -> Checked {
        let client = &mut self.clients[at];
        let topic = named(client, publish).map_err(|text| Failure::of(at, text))?;
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
        let again = match publish.packet_id {
            Some(packet_id) => receive(client, publish, packet_id, number),
            None if dup => Err("got QoS 0 with DUP".to_owned()),
            None => Ok(false),
        };
        let again = again.map_err(|text| Failure::of(at, text))?;
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
        let crashes = self.world.upheavals();
        let client = &mut self.clients[at];
        self.oracle.arrived(at, client, arrival, &topic, crashes)?;
        self.oracle.taken_once(at, client, arrival, crashes)
    }
}

/// The topic of a PUBLISH, which may be an alias.
fn named(client: &mut Client, publish: &Publish<'_>) -> Result<String, String> {
    let Some(connection) = &mut client.connection else {
        return Ok(String::new());
    };
    match (publish.topic, publish.properties.topic_alias) {
        (topic, None) => Ok(topic.to_owned()),
        (_, Some(alias)) if alias > client.alias_maximum => {
            Err(format!("got topic alias {alias}, above its maximum"))
        }
        ("", Some(alias)) => {
            let known = connection.aliases.get(&alias).cloned();
            known.ok_or_else(|| format!("got topic alias {alias}, which was never set"))
        }
        (topic, Some(alias)) => {
            connection.aliases.insert(alias, topic.to_owned());
            Ok(topic.to_owned())
        }
    }
}

/// Takes a message of QoS 1 or 2 and owes its acknowledgement. True when it is a repetition of one that is not released.
fn receive(
    client: &mut Client,
    publish: &Publish<'_>,
    packet_id: u16,
    number: u64,
) -> Result<bool, String> {
    let Some(connection) = &mut client.connection else {
        return Ok(false);
    };
    if let Some(known) = connection.unacknowledged.insert(packet_id, number) {
        return Err(format!(
            "packet id {packet_id} for message {number} is in use for {known}"
        ));
    }
    let maximum = usize::from(client.receive_maximum);
    if client.version == Version::V5 && connection.unacknowledged.len() > maximum {
        return Err(format!("got more than its Receive Maximum of {maximum}"));
    }
    let exactly_once = publish.qos == QoS::ExactlyOnce;
    let kind = if exactly_once {
        PacketType::PubRec
    } else {
        PacketType::PubAck
    };
    connection
        .acknowledgements
        .push_back((kind, packet_id, number));
    if !exactly_once {
        return Ok(false);
    }
    match client.received.insert(packet_id, number) {
        Some(known) if known != number => Err(format!(
            "packet id {packet_id} of unreleased message {known} came with message {number}"
        )),
        Some(_) if !publish.dup => Err(format!("message {number} came again without DUP")),
        known => Ok(known.is_some()),
    }
}
