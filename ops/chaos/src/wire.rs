//! One MQTT connection as a client has it, with every packet under control: nothing is sent, acknowledged or read unless the
//! caller says so, and the connection can be cut after any byte.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use edge_proto::decode::{Sender, decode};
use edge_proto::encode;
use edge_proto::frame::next_frame;
use edge_proto::packet::{
    Ack, Connect, Packet, PacketType, Publish, PublishProperties, QoS, SubscriptionOptions, Version,
};
use edge_proto::reason::ReasonCode;
use rustix::event::{PollFd, PollFlags, poll};

use crate::clock;

/// Bytes that one call reads at most.
const READ_AT_ONCE: usize = 64 * 1024;
/// Longest packet that a server may send.
const PACKET_BYTES_MAX: u32 = 16 * 1024 * 1024;
/// Most that a connection attempt may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// A packet of the server, owned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Received {
    ConnAck { present: bool, reason: ReasonCode },
    Publish(Arrived),
    PubAck(u16, ReasonCode),
    PubRec(u16, ReasonCode),
    PubRel(u16),
    PubComp(u16),
    SubAck(u16, Vec<u8>),
    UnsubAck(u16),
    PingResp,
    Disconnect(ReasonCode),
}

/// A PUBLISH of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Arrived {
    pub(crate) dup: bool,
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    pub(crate) topic: String,
    /// 0 for QoS 0.
    pub(crate) packet_id: u16,
    pub(crate) payload: Vec<u8>,
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Wire {
    stream: TcpStream,
    version: Version,
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
    /// True exactly when the server has closed its side or the connection is broken.
    pub(crate) ended: bool,
}

impl Wire {
    /// Connects; nothing is sent.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn open(address: SocketAddr, version: Version) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, CONNECT_LIMIT)?;
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, version, incoming: Vec::new(), outgoing: Vec::new(), ended: false })
    }

    /// The protocol version.
    pub(crate) const fn version(&self) -> Version {
        self.version
    }

    /// Reads what is here, up to a bound.
    pub(crate) fn fill(&mut self) -> usize {
        let mut buffer = [0; READ_AT_ONCE];
        match self.stream.read(&mut buffer) {
            Ok(0) => {
                self.ended = true;
                0
            }
            Ok(count) => {
                self.incoming.extend_from_slice(&buffer[..count]);
                count
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => 0,
            Err(_) => {
                self.ended = true;
                0
            }
        }
    }

    /// Reads and throws away; returns how many bytes.
    pub(crate) fn discard(&mut self) -> usize {
        let count = self.fill();
        self.incoming.clear();
        count
    }

    /// All packets that are complete.
    ///
    /// # Errors
    /// The server broke a rule: its clause and detail.
    pub(crate) fn packets(&mut self) -> Result<Vec<Received>, String> {
        let mut packets = Vec::new();
        let mut taken = 0;
        while let Some(frame) = next_frame(&self.incoming[taken..], PACKET_BYTES_MAX).map_err(|broken| broken.to_string())? {
            let packet = decode(self.version, Sender::Server, frame).map_err(|broken| broken.to_string())?;
            packets.push(owned(&packet));
            taken += frame.length;
        }
        self.incoming.drain(..taken);
        Ok(packets)
    }

    /// Hands the kernel as much as it takes.
    pub(crate) fn flush(&mut self) {
        while !self.outgoing.is_empty() && !self.ended {
            match self.stream.write(&self.outgoing) {
                Ok(count) => {
                    self.outgoing.drain(..count);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => self.ended = true,
            }
        }
    }

    /// Hands the kernel at most so many bytes of what waits.
    pub(crate) fn flush_some(&mut self, bytes: usize) {
        let later = self.outgoing.split_off(bytes.min(self.outgoing.len()));
        self.flush();
        self.outgoing.extend(later);
    }

    /// Sends so many bytes of what waits, and breaks the connection.
    pub(crate) fn cut_after(mut self, bytes: usize) {
        self.outgoing.truncate(bytes);
        self.flush();
    }

    /// Bytes that wait to be sent.
    pub(crate) fn unsent(&self) -> usize {
        self.outgoing.len()
    }

    /// Queues raw bytes.
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.outgoing.extend_from_slice(bytes);
    }

    /// Queues a CONNECT; `expiry_s` 0 is a session that ends with its connection.
    pub(crate) fn connect(&mut self, client_id: &str, clean_start: bool, expiry_s: u32) {
        let mut connect = Connect::new(self.version, client_id);
        connect.clean_start = clean_start;
        if self.version == Version::V5 && expiry_s > 0 {
            connect.session_expiry_s = Some(expiry_s);
        }
        encode::connect(&mut self.outgoing, &connect);
    }

    /// Queues a PUBLISH; the packet identifier is for QoS 1 and 2.
    pub(crate) fn publish(&mut self, dup: bool, qos: QoS, retain: bool, topic: &str, packet_id: u16, payload: &[u8]) {
        let publish = Publish {
            dup,
            qos,
            retain,
            topic,
            packet_id: (qos > QoS::AtMostOnce).then_some(packet_id),
            properties: PublishProperties::default(),
            payload,
        };
        encode::publish(&mut self.outgoing, self.version, &publish);
    }

    /// Queues a PUBACK, PUBREC, PUBREL or PUBCOMP.
    pub(crate) fn ack(&mut self, packet_type: PacketType, packet_id: u16) {
        encode::ack(&mut self.outgoing, self.version, packet_type, &Ack::new(packet_id, ReasonCode::Success));
    }

    /// Queues a SUBSCRIBE of some filters at one maximum QoS.
    pub(crate) fn subscribe(&mut self, packet_id: u16, filters: &[&str], qos: QoS) {
        let filters: Vec<_> = filters.iter().map(|filter| (*filter, SubscriptionOptions::from_qos(qos))).collect();
        encode::subscribe(&mut self.outgoing, self.version, packet_id, None, &filters);
    }

    /// Queues an UNSUBSCRIBE.
    pub(crate) fn unsubscribe(&mut self, packet_id: u16, filter: &str) {
        encode::unsubscribe(&mut self.outgoing, self.version, packet_id, &[filter]);
    }

    /// Queues a PINGREQ.
    pub(crate) fn ping(&mut self) {
        encode::pingreq(&mut self.outgoing);
    }

    /// Queues a DISCONNECT.
    pub(crate) fn disconnect(&mut self) {
        let disconnect = edge_proto::packet::Disconnect::new(ReasonCode::Success);
        encode::disconnect(&mut self.outgoing, self.version, &disconnect);
    }

    /// Sends what waits and reads until a packet is there that `wanted` takes; others are dropped. `None` when the
    /// connection ends or the time is over.
    pub(crate) fn await_packet<T>(&mut self, limit: Duration, mut wanted: impl FnMut(Received) -> Option<T>) -> Option<T> {
        let start = clock::now();
        while start.elapsed() < limit {
            self.flush();
            let mut found = None;
            for packet in self.packets().ok()? {
                if found.is_none() {
                    found = wanted(packet);
                }
            }
            if found.is_some() {
                return found;
            }
            if self.ended {
                return None;
            }
            wait_for_any(&[&*self], Duration::from_millis(100));
            self.fill();
        }
        None
    }

    /// Connects and waits for the answer.
    ///
    /// # Errors
    /// No connection, no answer or a refusal.
    pub(crate) fn join(address: SocketAddr, version: Version, client_id: &str, clean_start: bool, expiry_s: u32) -> io::Result<Self> {
        let mut wire = Self::open(address, version)?;
        wire.connect(client_id, clean_start, expiry_s);
        let answer = wire.await_packet(Duration::from_secs(10), |packet| match packet {
            Received::ConnAck { reason, .. } => Some(reason),
            _ => None,
        });
        match answer {
            Some(ReasonCode::Success) => Ok(wire),
            Some(reason) => Err(io::Error::other(format!("{client_id}: CONNACK {}", reason.name()))),
            None => Err(io::Error::other(format!("{client_id}: no CONNACK"))),
        }
    }

    /// Subscribes and waits for the answer; true when everything was granted.
    pub(crate) fn subscribe_now(&mut self, filters: &[&str], qos: QoS) -> bool {
        self.subscribe(1, filters, qos);
        let answer = self.await_packet(Duration::from_secs(10), |packet| match packet {
            Received::SubAck(1, reasons) => Some(reasons),
            _ => None,
        });
        answer.is_some_and(|reasons| reasons.iter().all(|reason| *reason < 0x80))
    }
}

impl AsFd for Wire {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// Waits until one of these has something to read, or takes what waits to be sent; returns which.
pub(crate) fn wait_for_any(wires: &[&Wire], limit: Duration) -> Vec<usize> {
    let mut polled: Vec<PollFd<'_>> = wires
        .iter()
        .map(|wire| {
            let write = if wire.unsent() > 0 { PollFlags::OUT } else { PollFlags::empty() };
            PollFd::new(*wire, PollFlags::IN | write)
        })
        .collect();
    let limit_ms = limit.as_millis().min(60_000) as i32;
    if poll(&mut polled, limit_ms).is_err() {
        return Vec::new();
    }
    (0..wires.len()).filter(|index| !polled[*index].revents().is_empty()).collect()
}

fn owned(packet: &Packet<'_>) -> Received {
    match packet {
        Packet::ConnAck(connack) => Received::ConnAck { present: connack.session_present, reason: connack.reason },
        Packet::Publish(publish) => Received::Publish(Arrived {
            dup: publish.dup,
            qos: publish.qos,
            retain: publish.retain,
            topic: publish.topic.to_owned(),
            packet_id: publish.packet_id.unwrap_or(0),
            payload: publish.payload.to_vec(),
        }),
        Packet::PubAck(ack) => Received::PubAck(ack.packet_id, ack.reason),
        Packet::PubRec(ack) => Received::PubRec(ack.packet_id, ack.reason),
        Packet::PubRel(ack) => Received::PubRel(ack.packet_id),
        Packet::PubComp(ack) => Received::PubComp(ack.packet_id),
        Packet::SubAck(ack) => Received::SubAck(ack.packet_id, ack.reasons.to_vec()),
        Packet::UnsubAck(ack) => Received::UnsubAck(ack.packet_id),
        Packet::Disconnect(disconnect) => Received::Disconnect(disconnect.reason),
        _ => Received::PingResp,
    }
}
