//! One client: from the connection to a live session, and what it answers while it is live.
//!
//! ```text
//! Connecting ─▶ Upgrading (WebSocket) ─▶ Greeting ─CONNACK─▶ Subscribing ─SUBACK─▶ Live ─▶ Leaving ─▶ Ended
//!                                              │└─ nothing to subscribe to, or resumed ▲
//!                                              └─ server busy ─▶ Refused ─▶ Ended, and once more
//! ```

use edge_proto::decode::{Sender, decode};
use edge_proto::encode;
use edge_proto::frame::{PACKET_LENGTH_MAX, next_frame};
use edge_proto::packet::{
    Ack, Connect, Disconnect, Packet, PacketType, Publish, PublishProperties, QoS,
    SubscriptionOptions, Version,
};
use edge_proto::reason::ReasonCode;
use edge_proto::websocket::{self, Decoder, Opcode, handshake};
use reactor::driver::ConnectionId;

use super::{Settings, Topics};
use crate::arguments::Transport;

/// Bytes of a payload that say when it was sent.
pub(crate) const STAMP_BYTES: usize = 8;
/// The key of every upgrade request: nobody is between us and the server whom a random one would stop.
const KEY: [u8; 16] = *b"roadstead  bench";
/// The mask of every frame, for the same reason.
const MASK: [u8; 4] = [0x5A, 0xA5, 0x3C, 0xC3];

/// Where a client is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Connecting,
    Upgrading,
    Greeting,
    Subscribing,
    Live,
    /// The server has no time for it now.
    Refused,
    /// It was told to end.
    Leaving,
    Ended,
}

/// One client. A million of them are held by one process, so it keeps what it must.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) connection: ConnectionId,
    /// Its number among all clients of the run.
    pub(super) number: u32,
    /// When it last sent something, in milliseconds from the start of the run.
    pub(super) last_sent_ms: u32,
    pub(super) phase: Phase,
    /// True exactly when it is in the order in which clients are kept alive.
    pub(super) in_turn: bool,
    /// QoS 1 and 2 messages that wait for their acknowledgement.
    pub(super) outstanding: u16,
    next_packet_id: u16,
    #[expect(
        clippy::box_collection,
        reason = "eight bytes in each client, and hardly ever there"
    )]
    partial: Option<Box<Vec<u8>>>,
    decoder: Option<Box<Decoder>>,
}

const _: () = assert!(size_of::<Client>() <= 48);

/// What a packet meant to the generator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The session is live from now on; true for one that the server has kept.
    BecameLive { resumed: bool },
    /// A message arrived, sent this many nanoseconds after the start of the run.
    Arrived { stamp_ns: u64 },
    /// A QoS 1 or 2 message is through.
    Acknowledged,
    /// A PINGRESP.
    Pong,
}

impl Client {
    pub(super) const fn new(connection: ConnectionId, number: u32, now_ms: u32) -> Self {
        Self {
            connection,
            number,
            last_sent_ms: now_ms,
            phase: Phase::Connecting,
            in_turn: false,
            outstanding: 0,
            next_packet_id: 0,
            partial: None,
            decoder: None,
        }
    }

    /// The connection is there, TLS and all: writes what opens the conversation.
    pub(super) fn connected(&mut self, settings: &Settings, out: &mut Vec<u8>) {
        match settings.transport {
            Transport::Tcp | Transport::Tls | Transport::Quic => self.greet(settings, out),
            Transport::Websocket | Transport::Wss => {
                self.phase = Phase::Upgrading;
                handshake::client_handshake(out, "127.0.0.1", "/mqtt", KEY);
            }
        }
    }

    fn greet(&mut self, settings: &Settings, out: &mut Vec<u8>) {
        self.phase = Phase::Greeting;
        let client_id = client_id_of(self.number);
        let mut connect = Connect::new(settings.version, &client_id);
        connect.keep_alive_s = settings.keep_alive_s;
        connect.username = settings.user;
        // No server here checks it; one wants that there is one.
        connect.password = settings.user.map(str::as_bytes);
        if self.number >= settings.durable_from {
            connect.clean_start = false;
            connect.session_expiry_s = Some(settings.session_expiry_s);
        }
        self.write(out, |out| encode::connect(out, &connect));
    }

    /// Writes one packet, in a frame where the transport has frames.
    fn write(&self, out: &mut Vec<u8>, packet: impl FnOnce(&mut Vec<u8>)) {
        if self.decoder.is_none() {
            return packet(out);
        }
        let mut bytes = Vec::with_capacity(64);
        packet(&mut bytes);
        websocket::write_client_frame(out, Opcode::Binary, MASK, &bytes);
    }

    /// Writes a DISCONNECT, after which the server ends the connection and, if it is durable, keeps the session.
    pub(super) fn leave(&mut self, version: Version, out: &mut Vec<u8>) {
        self.phase = Phase::Leaving;
        let disconnect = Disconnect::new(ReasonCode::Success);
        self.write(out, |out| encode::disconnect(out, version, &disconnect));
    }

    /// Writes a PINGREQ.
    pub(super) fn ping(&self, out: &mut Vec<u8>) {
        self.write(out, encode::pingreq);
    }

    /// Writes a PUBLISH.
    pub(super) fn publish(
        &mut self,
        out: &mut Vec<u8>,
        version: Version,
        qos: QoS,
        topic: &str,
        payload: &[u8],
    ) {
        let packet_id = (qos != QoS::AtMostOnce).then(|| {
            self.outstanding += 1;
            self.packet_id()
        });
        let publish = Publish {
            dup: false,
            qos,
            retain: false,
            topic,
            packet_id,
            properties: PublishProperties::default(),
            payload,
        };
        self.write(out, |out| encode::publish(out, version, &publish));
    }

    fn packet_id(&mut self) -> u16 {
        self.next_packet_id = self.next_packet_id.checked_add(1).unwrap_or(1);
        self.next_packet_id
    }

    /// Reads received bytes: tells `sink` what they meant, and writes the answers to `out`.
    ///
    /// # Errors
    /// What the server did that ends the connection.
    pub(super) fn received(
        &mut self,
        settings: &Settings,
        bytes: &mut [u8],
        out: &mut Vec<u8>,
        sink: &mut impl FnMut(Outcome),
    ) -> Result<(), String> {
        if self.phase == Phase::Upgrading {
            return self.upgrade(settings, bytes, out, sink);
        }
        let Some(mut decoder) = self.decoder.take() else {
            return self.stream(settings, bytes, out, sink);
        };
        let mut stream = Vec::new();
        let mut pongs = Vec::new();
        let mut closed = None;
        let decoded = decoder.decode(bytes, |event| match event {
            websocket::Event::Data(data) => stream.extend_from_slice(data),
            websocket::Event::Ping(payload) => {
                websocket::write_client_frame(&mut pongs, Opcode::Pong, MASK, payload);
            }
            websocket::Event::Pong => {}
            websocket::Event::Close(code) => closed = Some(code),
        });
        self.decoder = Some(decoder);
        out.append(&mut pongs);
        decoded.map_err(|error| format!("the server broke a rule of WebSocket: {error}"))?;
        self.stream(settings, &stream, out, sink)?;
        match closed {
            Some(code) => Err(format!("the server closed the WebSocket with {code:?}")),
            None => Ok(()),
        }
    }

    fn upgrade(
        &mut self,
        settings: &Settings,
        bytes: &[u8],
        out: &mut Vec<u8>,
        sink: &mut impl FnMut(Outcome),
    ) -> Result<(), String> {
        let mut head = self.partial.take().unwrap_or_default();
        head.extend_from_slice(bytes);
        match handshake::parse_upgrade_response(&head, KEY) {
            Ok(Some(length)) => {
                self.decoder = Some(Box::new(Decoder::client()));
                self.greet(settings, out);
                let mut rest = head.split_off(length);
                if rest.is_empty() {
                    Ok(())
                } else {
                    self.received(settings, &mut rest, out, sink)
                }
            }
            Ok(None) => {
                self.partial = Some(head);
                Ok(())
            }
            Err(error) => Err(error.to_string()),
        }
    }

    fn stream(
        &mut self,
        settings: &Settings,
        bytes: &[u8],
        out: &mut Vec<u8>,
        sink: &mut impl FnMut(Outcome),
    ) -> Result<(), String> {
        let Some(mut partial) = self.partial.take() else {
            let consumed = self.packets(settings, bytes, out, sink)?;
            if consumed < bytes.len() {
                self.partial = Some(Box::new(bytes[consumed..].to_vec()));
            }
            return Ok(());
        };
        partial.extend_from_slice(bytes);
        let consumed = self.packets(settings, &partial, out, sink)?;
        if consumed < partial.len() {
            partial.drain(..consumed);
            self.partial = Some(partial);
        }
        Ok(())
    }

    fn packets(
        &mut self,
        settings: &Settings,
        bytes: &[u8],
        out: &mut Vec<u8>,
        sink: &mut impl FnMut(Outcome),
    ) -> Result<usize, String> {
        let mut consumed = 0;
        while let Some(frame) = next_frame(&bytes[consumed..], PACKET_LENGTH_MAX as u32)
            .map_err(|error| error.to_string())?
        {
            consumed += frame.length;
            let packet = decode(settings.version, Sender::Server, frame)
                .map_err(|error| format!("the server broke a rule of MQTT: {error}"))?;
            self.packet(settings, &packet, out, sink)?;
        }
        Ok(consumed)
    }

    fn packet(
        &mut self,
        settings: &Settings,
        packet: &Packet<'_>,
        out: &mut Vec<u8>,
        sink: &mut impl FnMut(Outcome),
    ) -> Result<(), String> {
        let version = settings.version;
        match packet {
            Packet::ConnAck(connack) if connack.reason == ReasonCode::Success => {
                let resumed = connack.session_present;
                let filter = settings.topics.filter(self.number);
                let Some(filter) = filter.filter(|_| !resumed) else {
                    self.phase = Phase::Live;
                    sink(Outcome::BecameLive { resumed });
                    return Ok(());
                };
                self.phase = Phase::Subscribing;
                let packet_id = self.packet_id();
                let options = SubscriptionOptions::from_qos(settings.qos);
                let more = settings.topics.more_filters(self.number);
                let mut filters = vec![(filter.as_str(), options)];
                filters.extend(more.iter().map(|filter| (filter.as_str(), options)));
                self.write(out, |out| {
                    encode::subscribe(out, version, packet_id, None, &filters);
                });
            }
            Packet::ConnAck(connack) if is_busy(connack.reason) => self.phase = Phase::Refused,
            Packet::ConnAck(connack) => {
                return Err(format!("CONNECT refused: {:?}", connack.reason));
            }
            Packet::SubAck(suback) => {
                if suback.reasons.iter().any(|reason| *reason >= 0x80) {
                    return Err(format!("SUBSCRIBE refused: {:02x?}", suback.reasons));
                }
                self.phase = Phase::Live;
                sink(Outcome::BecameLive { resumed: false });
            }
            Packet::Publish(publish) => {
                sink(Outcome::Arrived {
                    stamp_ns: stamp(publish.payload),
                });
                let answer = match publish.qos {
                    QoS::AtMostOnce => None,
                    QoS::AtLeastOnce => Some(PacketType::PubAck),
                    QoS::ExactlyOnce => Some(PacketType::PubRec),
                };
                if let Some((answer, packet_id)) = answer.zip(publish.packet_id) {
                    self.acknowledge(out, version, answer, packet_id);
                }
            }
            Packet::PubRec(ack) if !ack.reason.is_error() => {
                self.acknowledge(out, version, PacketType::PubRel, ack.packet_id);
            }
            Packet::PubRel(ack) => {
                self.acknowledge(out, version, PacketType::PubComp, ack.packet_id);
            }
            Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubComp(ack) => {
                if ack.reason.is_error() {
                    return Err(format!("PUBLISH refused: {:?}", ack.reason));
                }
                self.outstanding = self.outstanding.saturating_sub(1);
                sink(Outcome::Acknowledged);
            }
            Packet::PingResp => sink(Outcome::Pong),
            Packet::Disconnect(disconnect) => {
                return Err(format!("DISCONNECT: {:?}", disconnect.reason));
            }
            other => return Err(format!("the server sent what nobody asked for: {other:?}")),
        }
        Ok(())
    }

    fn acknowledge(&self, out: &mut Vec<u8>, version: Version, answer: PacketType, packet_id: u16) {
        let ack = Ack::new(packet_id, ReasonCode::Success);
        self.write(out, |out| encode::ack(out, version, answer, &ack));
    }
}

impl Topics {
    /// The filter that the client of this number subscribes to.
    pub(super) fn filter(self, number: u32) -> Option<String> {
        match self {
            Self::None => None,
            Self::Own => Some(own_topic(number)),
            Self::Shared { publishers } => (number >= publishers).then(|| SHARED_TOPIC.to_owned()),
            Self::OwnFrom { first } => (number >= first).then(|| own_topic(number)),
            Self::PairsAndShared { pairs, publishers } => {
                let silent = 2 * pairs..2 * pairs + publishers;
                match number {
                    number if number < silent.start => Some(own_topic(number)),
                    number if silent.contains(&number) => None,
                    _ => Some(SHARED_TOPIC.to_owned()),
                }
            }
            Self::Rooms { size } => Some(room_topic(number / size)),
            Self::Groups { .. } => Some(room_topic(0)),
        }
    }

    /// Which of so many nodes the client of this number connects to. Where there are several, nobody is on the node of
    /// whom they send to: the two of a pair are on each two nodes equally often, publishers to all are on the first node,
    /// and their audience is on the others. Other clients take turns.
    pub(super) fn node_of(self, number: u32, nodes: usize) -> usize {
        let Self::PairsAndShared { pairs, publishers } = self else {
            return number as usize % nodes;
        };
        let number = number as usize;
        let (first_publisher, pair) = (2 * pairs as usize, number / 2);
        if nodes < 2 {
            0
        } else if number < first_publisher {
            let step = 1 + pair / nodes % (nodes - 1);
            (pair + number % 2 * step) % nodes
        } else if number < first_publisher + publishers as usize {
            0
        } else {
            1 + number % (nodes - 1)
        }
    }

    /// What it subscribes to besides.
    fn more_filters(self, number: u32) -> Vec<String> {
        match self {
            Self::Rooms { .. } => vec![own_topic(number)],
            Self::Groups { one_until, count } if number >= one_until => {
                (1..count).map(room_topic).collect()
            }
            _ => Vec::new(),
        }
    }
}

/// True for a refusal that is not for good.
const fn is_busy(reason: ReasonCode) -> bool {
    matches!(
        reason,
        ReasonCode::ServerBusy | ReasonCode::ServerUnavailable | ReasonCode::ConnectionRateExceeded
    )
}

/// Begins every client identifier; the number of the client follows.
const CLIENT_ID_START: &str = "bench-";

/// The identifier of the client of this number.
pub(super) fn client_id_of(number: u32) -> String {
    format!("{CLIENT_ID_START}{number:07}")
}

/// The number of the client that has this identifier.
pub(crate) fn number_of(client_id: &str) -> Option<u32> {
    client_id.strip_prefix(CLIENT_ID_START)?.parse().ok()
}

/// The topic of one room.
pub(super) fn room_topic(room: u32) -> String {
    format!("room/{room}")
}

/// The topic of one client.
pub(super) fn own_topic(number: u32) -> String {
    format!("bench/{number}")
}

/// The topic of all clients.
pub(super) const SHARED_TOPIC: &str = "bench/all";

/// When a message was sent; 0 for one that is not ours.
fn stamp(payload: &[u8]) -> u64 {
    payload
        .first_chunk::<STAMP_BYTES>()
        .map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    const TOPICS: Topics = Topics::PairsAndShared {
        pairs: 12,
        publishers: 2,
    };

    #[test]
    fn those_who_talk_to_each_other_are_on_different_nodes() {
        let mut pairs: BTreeMap<(usize, usize), u32> = BTreeMap::new();
        for pair in 0..12 {
            let node = |number| TOPICS.node_of(number, 3);
            *pairs
                .entry((node(2 * pair), node(2 * pair + 1)))
                .or_default() += 1;
        }
        assert_eq!(pairs.len(), 6, "{pairs:?}");
        assert!(
            pairs
                .iter()
                .all(|((from, to), count)| from != to && *count == 2)
        );
        assert_eq!((TOPICS.node_of(24, 3), TOPICS.node_of(25, 3)), (0, 0));
        let mut audience = (26..30).map(|number| TOPICS.node_of(number, 3));
        assert!(audience.all(|node| node == 1 || node == 2));
        assert!((0..30).all(|number| TOPICS.node_of(number, 1) == 0));
    }

    #[test]
    fn pairs_have_topics_and_the_audience_shares_one() {
        assert_eq!(TOPICS.filter(23), Some(own_topic(23)));
        assert_eq!(TOPICS.filter(24), None);
        assert_eq!(TOPICS.filter(26).as_deref(), Some(SHARED_TOPIC));
    }
}
