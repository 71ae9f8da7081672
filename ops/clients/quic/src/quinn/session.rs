//! One MQTT session on the stream of one QUIC connection, with the packets of the crate mqtt5-protocol. It never connects again
//! and never sends a message twice, so whatever comes twice is the server's doing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::{Bytes, BytesMut};
use mqtt5_protocol::packet::connect::ConnectPacket;
use mqtt5_protocol::packet::disconnect::DisconnectPacket;
use mqtt5_protocol::packet::puback::PubAckPacket;
use mqtt5_protocol::packet::pubcomp::PubCompPacket;
use mqtt5_protocol::packet::publish::PublishPacket;
use mqtt5_protocol::packet::pubrec::PubRecPacket;
use mqtt5_protocol::packet::pubrel::PubRelPacket;
use mqtt5_protocol::packet::subscribe::SubscribePacket;
use mqtt5_protocol::packet::{FixedHeader, MqttPacket, Packet};
use mqtt5_protocol::{ConnectOptions, QoS, ReasonCode};
use quic_conversations::within;
use quinn::{Connection, Endpoint, RecvStream, SendStream};
use tokio::sync::{mpsc, watch};

/// Longer than any conversation is without a packet.
const KEEP_ALIVE: Duration = Duration::from_secs(60);

/// What has come so far, by QoS where it is an array.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    /// The numbers that messages carry.
    pub messages: [Vec<u32>; 3],
    /// How many of ours are acknowledged.
    pub acknowledged: [u32; 3],
    /// Session Present, of the one CONNACK.
    pub session_present: Option<bool>,
    /// The QoS that each SUBACK granted.
    pub granted: Vec<Option<QoS>>,
    /// Why nothing comes any more.
    pub ended: Option<String>,
}

/// How far one of our messages has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Waits for PUBACK or PUBREC.
    Published(QoS),
    /// Waits for PUBCOMP.
    Released,
}

/// Our messages that are not acknowledged, by packet identifier.
#[derive(Debug, Default)]
struct InFlight {
    last: u16,
    stages: BTreeMap<u16, Stage>,
}

impl InFlight {
    fn begin(&mut self, qos: QoS) -> u16 {
        loop {
            self.last = self.last.checked_add(1).unwrap_or(1);
            if !self.stages.contains_key(&self.last) {
                self.stages.insert(self.last, Stage::Published(qos));
                return self.last;
            }
        }
    }
}

/// A session and its connection.
pub(crate) struct Session {
    pub connection: Connection,
    heard: watch::Receiver<Heard>,
    writer: mpsc::UnboundedSender<Bytes>,
    in_flight: Arc<Mutex<InFlight>>,
}

impl Session {
    /// Sends CONNECT on the first stream of a connection, with a clean start. The session lives on for `expiry_s` without it.
    pub(crate) async fn connect(
        endpoint: &Endpoint,
        server: std::net::SocketAddr,
        client_id: &str,
        expiry_s: u32,
    ) -> Result<Self> {
        let connecting = endpoint.connect(server, "localhost")?;
        let connection = within("the handshake", connecting).await??;
        let (send, receive) = connection.open_bi().await?;
        let (heard_sender, heard) = watch::channel(Heard::default());
        let (writer, written) = mpsc::unbounded_channel();
        let in_flight = Arc::default();
        let reader = Reader {
            heard: heard_sender,
            writer: writer.clone(),
            in_flight: Arc::clone(&in_flight),
            unreleased: Vec::new(),
        };
        tokio::spawn(write(send, written));
        tokio::spawn(reader.read(receive));
        let session = Self {
            connection,
            heard,
            writer,
            in_flight,
        };
        let options = ConnectOptions::new(client_id)
            .with_clean_start(true)
            .with_session_expiry_interval(expiry_s)
            .with_keep_alive(KEEP_ALIVE);
        session.send(&ConnectPacket::new(options))?;
        session
            .until("a CONNACK", |heard| heard.session_present.is_some())
            .await?;
        Ok(session)
    }

    /// Subscribes with QoS 2.
    pub(crate) async fn subscribe(&self, filter: &str) -> Result<()> {
        let before = self.heard(|heard| heard.granted.len());
        // It has one SUBSCRIBE at a time, so that the identifier need not be unique.
        self.send(&SubscribePacket::new(1).add_filter(filter, QoS::ExactlyOnce))?;
        self.until("a SUBACK", |heard| heard.granted.len() > before)
            .await?;
        let granted = self.heard(|heard| heard.granted.last().copied().flatten());
        ensure!(granted == Some(QoS::ExactlyOnce), "granted: {granted:?}");
        Ok(())
    }

    /// Publishes a number, and does not wait.
    pub(crate) fn publish(&self, topic: &str, number: u32, qos: QoS) -> Result<()> {
        let packet_id = lock(&self.in_flight).begin(qos);
        let payload = number.to_string().into_bytes();
        self.send(&PublishPacket::new(topic, payload, qos).with_packet_id(packet_id))
    }

    /// Says something of what has come.
    pub(crate) fn heard<T>(&self, about: impl FnOnce(&Heard) -> T) -> T {
        about(&self.heard.borrow())
    }

    /// Waits until the condition holds.
    ///
    /// # Errors
    /// The connection ends, or the deadline has come.
    pub(crate) async fn until(&self, what: &str, holds: impl Fn(&Heard) -> bool) -> Result<()> {
        let mut heard = self.heard.clone();
        let waiting = heard.wait_for(|heard| heard.ended.is_some() || holds(heard));
        let heard = within(what, waiting).await?.context("the reader is gone")?;
        match &heard.ended {
            Some(why) if !holds(&heard) => bail!("the connection ended: {why}"),
            _ => Ok(()),
        }
    }

    /// Waits for the end of what the server sends, and returns why it is one.
    pub(crate) async fn wait_ended(&self) -> Result<String> {
        let mut heard = self.heard.clone();
        let waiting = heard.wait_for(|heard| heard.ended.is_some());
        let heard = within("the end of the connection", waiting).await?;
        let ended = heard.context("the reader is gone")?.ended.clone();
        ended.context("it has ended")
    }

    /// Leaves with DISCONNECT, and waits for the server to close the connection.
    pub(crate) async fn disconnect(&self) -> Result<()> {
        self.send(&DisconnectPacket::normal())?;
        within("the end of the connection", self.connection.closed()).await?;
        Ok(())
    }

    fn send(&self, packet: &impl MqttPacket) -> Result<()> {
        send(&self.writer, packet)
    }
}

fn send(writer: &mpsc::UnboundedSender<Bytes>, packet: &impl MqttPacket) -> Result<()> {
    let mut bytes = BytesMut::new();
    packet.encode(&mut bytes)?;
    writer.send(bytes.freeze()).context("the writer is gone")
}

fn lock(in_flight: &Mutex<InFlight>) -> std::sync::MutexGuard<'_, InFlight> {
    in_flight.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes packets until nobody has any, or the connection is gone: the reader says so.
async fn write(mut stream: SendStream, mut packets: mpsc::UnboundedReceiver<Bytes>) {
    while let Some(bytes) = packets.recv().await {
        if stream.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

/// Takes in what the server sends and answers it.
struct Reader {
    heard: watch::Sender<Heard>,
    writer: mpsc::UnboundedSender<Bytes>,
    in_flight: Arc<Mutex<InFlight>>,
    /// Messages of QoS 2 whose PUBREL has not come.
    unreleased: Vec<u16>,
}

impl Reader {
    async fn read(mut self, mut stream: RecvStream) {
        let ended = match self.packets(&mut stream).await {
            Ok(()) => "the stream has ended".to_owned(),
            Err(error) => format!("{error:#}"),
        };
        self.heard.send_modify(|heard| heard.ended = Some(ended));
    }

    async fn packets(&mut self, stream: &mut RecvStream) -> Result<()> {
        let mut input = BytesMut::new();
        while let Some(chunk) = stream.read_chunk(usize::MAX, true).await? {
            input.extend_from_slice(&chunk.bytes);
            while let Some(length) = packet_length(&input)? {
                let mut packet = input.split_to(length).freeze();
                let header = FixedHeader::decode(&mut packet)?;
                let packet = Packet::decode_from_body(header.packet_type, &header, &mut packet)?;
                self.take_in(packet)?;
            }
        }
        Ok(())
    }

    fn take_in(&mut self, packet: Packet) -> Result<()> {
        match packet {
            Packet::ConnAck(ack) => {
                ensure!(
                    ack.reason_code == ReasonCode::Success,
                    "CONNACK: {:?}",
                    ack.reason_code
                );
                let twice = self.heard.borrow().session_present.is_some();
                ensure!(!twice, "a second CONNACK");
                self.heard
                    .send_modify(|heard| heard.session_present = Some(ack.session_present));
            }
            Packet::SubAck(ack) => self.heard.send_modify(|heard| {
                let granted = ack.reason_codes.iter().map(|code| code.granted_qos());
                heard.granted.extend(granted);
            }),
            Packet::Publish(publish) => self.message(&publish)?,
            Packet::PubRel(release) => {
                let id = release.packet_id;
                let at = self.unreleased.iter().position(|it| *it == id);
                let at = at.with_context(|| format!("a PUBREL of {id}, which we do not have"))?;
                self.unreleased.swap_remove(at);
                send(&self.writer, &PubCompPacket::new(id))?;
            }
            Packet::PubAck(ack) => {
                self.acknowledged(
                    ack.packet_id,
                    ack.reason_code,
                    Stage::Published(QoS::AtLeastOnce),
                )?;
            }
            Packet::PubRec(ack) => {
                let (id, stage) = (ack.packet_id, Stage::Published(QoS::ExactlyOnce));
                self.acknowledged(id, ack.reason_code, stage)?;
                send(&self.writer, &PubRelPacket::new(id))?;
            }
            Packet::PubComp(ack) => {
                self.acknowledged(ack.packet_id, ack.reason_code, Stage::Released)?;
            }
            Packet::Disconnect(disconnect) => bail!("DISCONNECT: {:?}", disconnect.reason_code),
            other => bail!("an unexpected {}", other.packet_type_name()),
        }
        Ok(())
    }

    /// Every PUBLISH counts, also one that repeats another: on one connection there is no reason to.
    fn message(&mut self, publish: &PublishPacket) -> Result<()> {
        let text = std::str::from_utf8(&publish.payload)?;
        let number = text.parse().with_context(|| format!("payload `{text}`"))?;
        self.heard
            .send_modify(|heard| heard.messages[publish.qos as usize].push(number));
        let Some(id) = publish.packet_id else {
            return Ok(());
        };
        if publish.qos == QoS::ExactlyOnce {
            let is_new = !self.unreleased.contains(&id);
            ensure!(is_new, "PUBLISH {id} again, before its PUBREL");
            self.unreleased.push(id);
            send(&self.writer, &PubRecPacket::new(id))
        } else {
            send(&self.writer, &PubAckPacket::new(id))
        }
    }

    fn acknowledged(&self, id: u16, reason: ReasonCode, stage: Stage) -> Result<()> {
        ensure!(
            matches!(
                reason,
                ReasonCode::Success | ReasonCode::NoMatchingSubscribers
            ),
            "a message was answered with {reason:?}"
        );
        let mut in_flight = lock(&self.in_flight);
        let found = in_flight.stages.remove(&id);
        ensure!(
            found == Some(stage),
            "an acknowledgement of {id} at {stage:?}, which is at {found:?}"
        );
        let qos = match stage {
            Stage::Published(QoS::ExactlyOnce) => {
                in_flight.stages.insert(id, Stage::Released);
                return Ok(());
            }
            Stage::Published(qos) => qos,
            Stage::Released => QoS::ExactlyOnce,
        };
        self.heard
            .send_modify(|heard| heard.acknowledged[qos as usize] += 1);
        Ok(())
    }
}

/// The length of the first packet, when all of it is here.
fn packet_length(bytes: &[u8]) -> Result<Option<usize>> {
    let mut length = 0;
    for (at, byte) in bytes.iter().skip(1).take(4).enumerate() {
        length |= usize::from(byte & 0x7F) << (7 * at);
        if byte & 0x80 == 0 {
            let whole = length + at + 2;
            return Ok((bytes.len() >= whole).then_some(whole));
        }
    }
    ensure!(bytes.len() < 5, "a length of more than four bytes");
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_is_one_when_its_last_byte_is_there() {
        let mut packet = vec![0x30, 0x80, 0x01];
        packet.extend([0; 128]);
        for length in 0..packet.len() {
            let found = packet_length(&packet[..length]).expect("it may go on");
            assert_eq!(found, None, "{length}");
        }
        packet.push(0x40);
        assert_eq!(packet_length(&packet).expect("a packet"), Some(131));
        packet_length(&[0x30, 0xFF, 0xFF, 0xFF, 0xFF]).expect_err("it is too long");
    }
}
