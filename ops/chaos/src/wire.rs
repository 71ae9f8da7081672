//! One MQTT connection as a client has it, with every packet under control: nothing is sent, acknowledged or read unless the
//! caller says so, and the connection can be cut after any byte.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use edge_proto::decode::{Sender, decode};
use edge_proto::frame::next_frame;
use edge_proto::packet::{Packet, QoS, Version};
use edge_proto::reason::ReasonCode;
use rustix::event::{PollFd, PollFlags, poll};
use rustls::ClientConfig;

use crate::clock;
use crate::stream::Stream;
use crate::talk::Talk;

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
    stream: Stream,
    talk: Talk,
    incoming: Vec<u8>,
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
        Ok(Self::over(Stream::Plain(stream), version))
    }

    /// Connects over TLS, the handshake included.
    ///
    /// # Errors
    /// What the system says, or the handshake.
    pub(crate) fn open_secure(
        address: SocketAddr,
        version: Version,
        config: &Arc<ClientConfig>,
    ) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, CONNECT_LIMIT)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(CONNECT_LIMIT))?;
        stream.set_write_timeout(Some(CONNECT_LIMIT))?;
        let stream = Stream::secure(stream, config)?;
        Ok(Self::over(stream, version))
    }

    fn over(stream: Stream, version: Version) -> Self {
        Self {
            stream,
            talk: Talk::new(version),
            incoming: Vec::new(),
            ended: false,
        }
    }

    /// The certificate that the server has shown, in DER; `None` without TLS.
    pub(crate) fn certificate(&self) -> Option<&[u8]> {
        self.stream.certificate()
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
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
            {
                0
            }
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
        while let Some(frame) = next_frame(&self.incoming[taken..], PACKET_BYTES_MAX)
            .map_err(|broken| broken.to_string())?
        {
            let packet = decode(self.talk.version, Sender::Server, frame)
                .map_err(|broken| broken.to_string())?;
            packets.push(owned(&packet));
            taken += frame.length;
        }
        self.incoming.drain(..taken);
        Ok(packets)
    }

    /// Hands the kernel as much as it takes.
    pub(crate) fn flush(&mut self) {
        let _later = self.stream.flush(); // Of TLS records that the kernel did not take before.
        while !self.talk.bytes.is_empty() && !self.ended {
            match self.stream.write(&self.talk.bytes) {
                Ok(count) => {
                    self.talk.bytes.drain(..count);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => self.ended = true,
            }
        }
    }

    /// Hands the kernel at most so many bytes of what waits.
    pub(crate) fn flush_some(&mut self, bytes: usize) {
        let later = self.talk.bytes.split_off(bytes.min(self.talk.bytes.len()));
        self.flush();
        self.talk.bytes.extend(later);
    }

    /// Sends so many bytes of what waits, and breaks the connection.
    pub(crate) fn cut_after(mut self, bytes: usize) {
        self.talk.bytes.truncate(bytes);
        self.flush();
    }

    /// The first packet that has come as a whole; what is behind it stays.
    fn next_packet(&mut self) -> Result<Option<Received>, String> {
        let broken = |broken: &dyn std::fmt::Display| broken.to_string();
        let frame = next_frame(&self.incoming, PACKET_BYTES_MAX).map_err(|error| broken(&error))?;
        let Some(frame) = frame else {
            return Ok(None);
        };
        let packet = decode(self.talk.version, Sender::Server, frame);
        let packet = owned(&packet.map_err(|error| broken(&error))?);
        let length = frame.length;
        self.incoming.drain(..length);
        Ok(Some(packet))
    }

    /// Sends what waits and reads until a packet is there that `wanted` takes; those before it are dropped. `None` when the
    /// connection ends or the time is over.
    pub(crate) fn await_packet<T>(
        &mut self,
        limit: Duration,
        mut wanted: impl FnMut(Received) -> Option<T>,
    ) -> Option<T> {
        let start = clock::now();
        while start.elapsed() < limit {
            self.flush();
            while let Some(packet) = self.next_packet().ok()? {
                let found = wanted(packet);
                if found.is_some() {
                    return found;
                }
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
    pub(crate) fn join(
        address: SocketAddr,
        version: Version,
        client_id: &str,
        clean_start: bool,
        expiry_s: u32,
    ) -> io::Result<Self> {
        let mut wire = Self::open(address, version)?;
        wire.begin(client_id, clean_start, expiry_s)?;
        Ok(wire)
    }

    /// Sends CONNECT and waits for the answer.
    ///
    /// # Errors
    /// No answer or a refusal.
    pub(crate) fn begin(
        &mut self,
        client_id: &str,
        clean_start: bool,
        expiry_s: u32,
    ) -> io::Result<()> {
        self.connect(client_id, clean_start, expiry_s);
        let answer = self.await_packet(Duration::from_secs(10), |packet| match packet {
            Received::ConnAck { reason, .. } => Some(reason),
            _ => None,
        });
        match answer {
            Some(ReasonCode::Success) => Ok(()),
            Some(reason) => Err(io::Error::other(format!(
                "{client_id}: CONNACK {}",
                reason.name()
            ))),
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

impl Deref for Wire {
    type Target = Talk;

    fn deref(&self) -> &Talk {
        &self.talk
    }
}

impl DerefMut for Wire {
    fn deref_mut(&mut self) -> &mut Talk {
        &mut self.talk
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
            let write = if wire.unsent() > 0 || wire.stream.has_unsent() {
                PollFlags::OUT
            } else {
                PollFlags::empty()
            };
            PollFd::new(*wire, PollFlags::IN | write)
        })
        .collect();
    let limit_ms = limit.as_millis().min(60_000) as i32;
    if poll(&mut polled, limit_ms).is_err() {
        return Vec::new();
    }
    (0..wires.len())
        .filter(|index| !polled[*index].revents().is_empty())
        .collect()
}

fn owned(packet: &Packet<'_>) -> Received {
    match packet {
        Packet::ConnAck(connack) => Received::ConnAck {
            present: connack.session_present,
            reason: connack.reason,
        },
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
