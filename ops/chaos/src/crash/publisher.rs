//! A publisher that keeps the rules: it sends again what was not acknowledged, under the same packet identifier, and nothing
//! else. It uses the lowest free packet identifier, so identifiers come back as soon as they are free.

use std::collections::VecDeque;
use std::net::SocketAddr;

use edge_proto::packet::{PacketType, QoS, Version};

use super::ledger::Ledger;
use super::trace::Trace;
use crate::random::Random;
use crate::wire::{Received, Wire};

/// Messages on their way at once.
const WINDOW: usize = 24;
/// A session that outlives every run.
const EXPIRY_S: u32 = 24 * 3600;

/// How far a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// PUBLISH was sent.
    Published,
    /// PUBREC came.
    Received,
}

#[derive(Debug)]
struct Flight {
    packet_id: u16,
    message: usize,
    payload: Vec<u8>,
    retain: bool,
    stage: Stage,
}

/// One publisher.
#[derive(Debug)]
pub(crate) struct Publisher {
    pub(crate) name: String,
    index: usize,
    version: Version,
    durable: bool,
    topics: Vec<String>,
    retain: bool,
    qos: Vec<QoS>,
    pub(crate) wire: Option<Wire>,
    online: bool,
    had_session: bool,
    flights: VecDeque<Flight>,
    /// PUBRELs that it has not sent yet.
    withheld: VecDeque<u16>,
    pub(crate) trace: Trace,
}

impl Publisher {
    /// A publisher that has never connected.
    pub(crate) fn new(
        index: usize,
        version: Version,
        durable: bool,
        qos: &[QoS],
        topics: &[String],
        retain: bool,
    ) -> Self {
        let kind = if retain {
            "retaining"
        } else if durable {
            "durable"
        } else {
            "live"
        };
        Self {
            name: format!("pub{index}-{kind}-{version:?}"),
            index,
            version,
            durable,
            topics: topics.to_vec(),
            retain,
            qos: qos.to_vec(),
            wire: None,
            online: false,
            had_session: false,
            flights: VecDeque::new(),
            withheld: VecDeque::new(),
            trace: Trace::default(),
        }
    }

    /// True when nothing of it is on its way.
    pub(crate) fn is_done(&self) -> bool {
        self.flights.is_empty()
    }

    /// Connects if it is not connected.
    pub(crate) fn connect(&mut self, ledger: &mut Ledger, address: SocketAddr) {
        if self.wire.is_some() {
            return;
        }
        let Ok(mut wire) = Wire::open(address, self.version) else {
            return;
        };
        wire.connect(
            &self.name,
            !self.durable,
            if self.durable { EXPIRY_S } else { 0 },
        );
        self.trace.note(ledger.tick(), "→ CONNECT");
        self.wire = Some(wire);
        self.online = false;
    }

    /// The connection is gone.
    pub(crate) fn lost(&mut self, ledger: &mut Ledger, why: &str) {
        self.wire = None;
        self.online = false;
        self.withheld.clear();
        self.trace
            .note(ledger.tick(), format_args!("connection over: {why}"));
    }

    /// Sends some messages, and PUBRELs it has held back.
    pub(crate) fn act(&mut self, ledger: &mut Ledger, random: &mut Random, may_publish: bool) {
        if !self.online {
            return;
        }
        for _ in 0..random.below(4) {
            if may_publish && self.flights.len() < WINDOW {
                self.publish(ledger, random);
            }
        }
        if random.per_mille(700) {
            self.release(ledger);
        }
    }

    fn publish(&mut self, ledger: &mut Ledger, random: &mut Random) {
        let Some(wire) = &mut self.wire else { return };
        let topic = &self.topics[random.below(self.topics.len())];
        let qos = self.qos[random.below(self.qos.len())];
        let message = ledger.sent(self.index, topic, qos);
        let padding = if random.per_mille(20) {
            8_000
        } else {
            random.below(200)
        };
        let mut payload = format!("m{message} ").into_bytes();
        payload.resize(payload.len() + padding, b'.');
        let taken = |packet_id: &u16| {
            self.flights
                .iter()
                .any(|flight| flight.packet_id == *packet_id)
        };
        let packet_id = (1..)
            .find(|packet_id| !taken(packet_id))
            .unwrap_or(u16::MAX);
        wire.publish(false, qos, self.retain, topic, packet_id, &payload);
        self.trace.note(
            ledger.tick(),
            format_args!("→ PUBLISH #{packet_id} m{message} {topic} {qos:?}"),
        );
        let flight = Flight {
            packet_id,
            message,
            payload,
            retain: self.retain,
            stage: Stage::Published,
        };
        self.flights.push_back(flight);
    }

    fn release(&mut self, ledger: &mut Ledger) {
        let Some(wire) = &mut self.wire else { return };
        for packet_id in self.withheld.drain(..) {
            wire.ack(PacketType::PubRel, packet_id);
            self.trace
                .note(ledger.tick(), format_args!("→ PUBREL #{packet_id}"));
        }
    }

    /// A packet of the server.
    pub(crate) fn received(&mut self, ledger: &mut Ledger, packet: Received) {
        let tick = ledger.tick();
        match packet {
            Received::ConnAck { present, reason } => {
                self.trace.note(
                    tick,
                    format_args!("← CONNACK present={present} {}", reason.name()),
                );
                if reason.is_error() {
                    let text = format!("CONNECT refused: {}", reason.name());
                    return ledger.violated(&self.name, None, text);
                }
                self.connected(ledger, present);
            }
            Received::PubAck(packet_id, reason) => {
                self.trace.note(
                    tick,
                    format_args!("← PUBACK #{packet_id} {}", reason.name()),
                );
                self.acked(ledger, packet_id, reason.is_error(), QoS::AtLeastOnce);
            }
            Received::PubRec(packet_id, reason) => {
                self.trace.note(
                    tick,
                    format_args!("← PUBREC #{packet_id} {}", reason.name()),
                );
                self.acked(ledger, packet_id, reason.is_error(), QoS::ExactlyOnce);
            }
            Received::PubComp(packet_id) => {
                self.trace
                    .note(tick, format_args!("← PUBCOMP #{packet_id}"));
                let through = |flight: &Flight| {
                    flight.packet_id == packet_id && flight.stage == Stage::Received
                };
                match self.flights.iter().position(through) {
                    Some(index) => drop(self.flights.remove(index)),
                    None => ledger.violated(
                        &self.name,
                        None,
                        format!("PUBCOMP #{packet_id} for nothing"),
                    ),
                }
            }
            other => self.trace.note(tick, format_args!("← {other:?}")),
        }
    }

    /// The session is there: what was not acknowledged is sent again (MQTT-4.4.0-1).
    fn connected(&mut self, ledger: &mut Ledger, present: bool) {
        if self.durable && self.had_session && !present {
            ledger.violated(&self.name, None, "its session is gone".into());
        }
        self.had_session = true;
        self.online = true;
        if !present {
            self.flights.clear();
        }
        let Some(wire) = &mut self.wire else { return };
        for flight in &self.flights {
            let (packet_id, message) = (flight.packet_id, flight.message);
            let tick = ledger.tick();
            if flight.stage == Stage::Received {
                wire.ack(PacketType::PubRel, packet_id);
                self.trace
                    .note(tick, format_args!("→ PUBREL #{packet_id} again"));
                continue;
            }
            let sent = &mut ledger.messages[message];
            sent.resent = true;
            wire.publish(
                true,
                sent.qos,
                flight.retain,
                &sent.topic,
                packet_id,
                &flight.payload,
            );
            self.trace.note(
                tick,
                format_args!("→ PUBLISH DUP #{packet_id} m{message} {:?}", sent.qos),
            );
        }
    }

    fn acked(&mut self, ledger: &mut Ledger, packet_id: u16, refused: bool, qos: QoS) {
        let waits =
            |flight: &Flight| flight.packet_id == packet_id && flight.stage == Stage::Published;
        let Some(index) = self.flights.iter().position(waits) else {
            return ledger.violated(
                &self.name,
                None,
                format!("an acknowledgement of #{packet_id} for nothing"),
            );
        };
        let message = self.flights[index].message;
        if refused || ledger.messages[message].qos != qos {
            return ledger.violated(
                &self.name,
                Some(message),
                format!("m{message} was refused or answered wrongly"),
            );
        }
        ledger.acked(message);
        if qos == QoS::AtLeastOnce {
            self.flights.remove(index);
        } else {
            self.flights[index].stage = Stage::Received;
            self.withheld.push_back(packet_id);
        }
    }
}
