//! A connection of a case: blocking socket, every wait bounded, every received packet parsed strictly.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::parse::{self, Body, Message, Packet, Properties};
use crate::websocket::WebSocket;
use crate::wire::{Props, Publish, Version, ack, first, frame, subscribe, unsubscribe};
use crate::{Outcome, Stop, ensure, fail};

/// The longest that an answer may take: an upper bound, never a pause.
pub(crate) const ANSWER_MAX: Duration = Duration::from_secs(5);

/// How long a message may be on its way inside the server after its publisher was answered.
const SHORT_WHILE: Duration = Duration::from_millis(50);

/// The byte stream under MQTT.
pub(crate) enum Stream {
    Tcp(TcpStream),
    WebSocket(WebSocket),
}

/// What one read of the stream brought.
enum Read {
    /// Bytes, or a time-out that the caller's deadline deals with.
    Some,
    Closed,
}

/// What a wait brought.
pub(crate) enum Arrival {
    Packet(Packet),
    Closed,
    TimedOut,
}

/// One network connection to the server.
pub struct Client {
    pub(crate) stream: Stream,
    pub(crate) version: Version,
    pending: Vec<u8>,
    /// Packets that came while the end of a QoS 2 flow was awaited.
    waiting: VecDeque<Packet>,
    next_id: u16,
    /// Properties of the CONNACK.
    pub connack: Properties,
    /// Session Present of the CONNACK.
    pub session_present: bool,
}

impl Client {
    /// Opens the network connection and sends nothing.
    pub fn open(address: SocketAddr, version: Version) -> Outcome<Self> {
        let stream = TcpStream::connect_timeout(&address, ANSWER_MAX).map_err(|error| {
            Stop::Failed(format!("cannot open a connection to the server: {error}"))
        })?;
        // Without this a two-packet exchange waits for the delayed acknowledgement of TCP.
        stream
            .set_nodelay(true)
            .map_err(|error| Stop::Failed(error.to_string()))?;
        Ok(Self::over(Stream::Tcp(stream), version))
    }

    pub(crate) fn over(stream: Stream, version: Version) -> Self {
        Self {
            stream,
            version,
            pending: Vec::new(),
            waiting: VecDeque::new(),
            next_id: 0,
            connack: Properties::default(),
            session_present: false,
        }
    }

    /// A packet identifier that this connection has not used yet.
    pub const fn fresh_id(&mut self) -> u16 {
        self.next_id += 1;
        self.next_id
    }

    /// Sends bytes. A server that has closed already is noticed by the next receive, not here.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let bytes = bytes.as_ref();
        // The case looks at what comes back: an unsent byte shows there.
        let _ = match &mut self.stream {
            Stream::Tcp(stream) => stream.write_all(bytes),
            Stream::WebSocket(socket) => socket.send_binary(bytes),
        };
    }

    /// The WebSocket under this connection, for cases about frames.
    pub(crate) fn websocket(&mut self) -> Outcome<&mut WebSocket> {
        match &mut self.stream {
            Stream::WebSocket(socket) => Ok(socket),
            Stream::Tcp(_) => fail!("the suite asked a TCP connection for its WebSocket"),
        }
    }

    /// Sends a PUBLISH.
    pub fn send_publish(&mut self, publish: &Publish) {
        self.send(publish.encode(self.version));
    }

    pub(crate) fn arrival(&mut self, within: Duration) -> Outcome<Arrival> {
        match self.waiting.pop_front() {
            Some(packet) => Ok(Arrival::Packet(packet)),
            None => self.new_arrival(within),
        }
    }

    fn new_arrival(&mut self, within: Duration) -> Outcome<Arrival> {
        let deadline = Instant::now() + within;
        loop {
            if let Some((packet, used)) =
                parse::packet(self.version, &self.pending).map_err(Stop::Failed)?
            {
                self.pending.drain(..used);
                return Ok(Arrival::Packet(packet));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(Arrival::TimedOut);
            }
            if matches!(self.read(left)?, Read::Closed) {
                return Ok(Arrival::Closed);
            }
        }
    }

    /// Reads once into `pending`; a reset is a close.
    fn read(&mut self, left: Duration) -> Outcome<Read> {
        let read = match &mut self.stream {
            Stream::Tcp(stream) => read_some(stream, left, &mut self.pending),
            Stream::WebSocket(socket) => socket.receive(left, &mut self.pending)?,
        };
        Ok(match read {
            Ok(0) => Read::Closed,
            Err(error)
                if !matches!(
                    error.kind(),
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                ) =>
            {
                Read::Closed
            }
            _ => Read::Some,
        })
    }

    /// The next packet.
    pub fn receive(&mut self, expected: &str) -> Outcome<Packet> {
        match self.arrival(ANSWER_MAX)? {
            Arrival::Packet(packet) => Ok(packet),
            Arrival::Closed => fail!("expected {expected}, but the server closed the connection"),
            Arrival::TimedOut => fail!(
                "expected {expected}, but nothing came for {} s",
                ANSWER_MAX.as_secs()
            ),
        }
    }

    /// The next packet, which must be a PUBLISH. Nothing is acknowledged.
    pub fn message(&mut self, expected: &str) -> Outcome<Message> {
        match self.receive(expected)? {
            Packet {
                body: Body::Publish(message),
                ..
            } => Ok(message),
            other => fail!("expected {expected}, got {}", describe(&other)),
        }
    }

    /// The next packet, which must be a PUBLISH; completes its QoS 1 or 2 flow as a receiver.
    pub fn take(&mut self, expected: &str) -> Outcome<Message> {
        let message = self.message(expected)?;
        self.acknowledge(&message)?;
        Ok(message)
    }

    /// Completes the flow of a received PUBLISH.
    pub fn acknowledge(&mut self, message: &Message) -> Outcome {
        match message.qos {
            1 => self.send(ack(first::PUBACK, message.id)),
            2 => {
                self.send(ack(first::PUBREC, message.id));
                self.pubrel(message.id)?;
                self.send(ack(first::PUBCOMP, message.id));
            }
            _ => {}
        }
        Ok(())
    }

    /// Awaits the PUBREL of a flow; other messages that come first stay to be received.
    fn pubrel(&mut self, id: u16) -> Outcome {
        loop {
            match self.new_arrival(ANSWER_MAX)? {
                Arrival::Packet(Packet {
                    first: first::PUBREL,
                    body: Body::Ack { id: found, .. },
                    ..
                }) if found == id => {
                    return Ok(());
                }
                Arrival::Packet(
                    packet @ Packet {
                        body: Body::Publish(_),
                        ..
                    },
                ) => self.waiting.push_back(packet),
                Arrival::Packet(packet) => fail!("expected PUBREL {id}, got {}", describe(&packet)),
                Arrival::Closed => {
                    fail!("expected PUBREL {id}, but the server closed the connection")
                }
                Arrival::TimedOut => fail!("expected PUBREL {id}, but nothing came"),
            }
        }
    }

    /// The next packet, which must be this acknowledgement with this packet identifier; its reason code.
    pub fn acknowledgement(&mut self, kind: u8, id: u16) -> Outcome<u8> {
        let expected = format!("{} {id}", name(kind));
        let packet = self.receive(&expected)?;
        match packet.body {
            Body::Ack {
                id: found, code, ..
            } if packet.first == kind && found == id => Ok(code),
            _ => fail!("expected {expected}, got {}", describe(&packet)),
        }
    }

    /// The next packet, which must be this SUBACK or UNSUBACK; its reason codes.
    pub fn suback(&mut self, kind: u8, id: u16) -> Outcome<Vec<u8>> {
        let expected = format!("{} {id}", name(kind));
        let packet = self.receive(&expected)?;
        match packet.body {
            Body::SubAck {
                id: found, codes, ..
            } if packet.first == kind && found == id => Ok(codes),
            _ => fail!("expected {expected}, got {}", describe(&packet)),
        }
    }

    /// Subscribes with options bytes and returns the reason codes. Retained messages may follow.
    pub fn subscribe_all(&mut self, filters: &[(&str, u8)], props: &Props) -> Outcome<Vec<u8>> {
        let id = self.fresh_id();
        self.send(subscribe(self.version, id, filters, props));
        let codes = self.suback(first::SUBACK, id)?;
        ensure!(
            codes.len() == filters.len(),
            "{} codes for {} filters",
            codes.len(),
            filters.len()
        );
        Ok(codes)
    }

    /// Subscribes to one filter, which must be granted this QoS.
    pub fn subscribe(&mut self, filter: &str, qos: u8) -> Outcome {
        let codes = self.subscribe_all(&[(filter, qos)], &Props::new())?;
        ensure!(
            codes == [qos & 3],
            "SUBACK {codes:02x?} for {filter} at QoS {}",
            qos & 3
        );
        Ok(())
    }

    /// Unsubscribes from one filter.
    pub fn unsubscribe(&mut self, filter: &str) -> Outcome {
        let id = self.fresh_id();
        self.send(unsubscribe(self.version, id, &[filter]));
        self.suback(first::UNSUBACK, id).map(drop)
    }

    /// Publishes with a fresh packet identifier and completes the flow; QoS 0 ends with a PINGRESP.
    pub fn publish(&mut self, publish: Publish) -> Outcome {
        let id = self.fresh_id();
        let publish = Publish { id, ..publish };
        self.send_publish(&publish);
        match publish.qos {
            0 => {
                if let Some(packet) = self.before_ping()?.first() {
                    fail!(
                        "expected nothing after a QoS 0 PUBLISH, got {}",
                        describe(packet)
                    );
                }
            }
            1 => {
                let code = self.acknowledgement(first::PUBACK, id)?;
                ensure!(code < 0x80, "PUBACK with reason code {code:#04x}");
            }
            _ => {
                let code = self.acknowledgement(first::PUBREC, id)?;
                ensure!(code < 0x80, "PUBREC with reason code {code:#04x}");
                self.send(ack(first::PUBREL, id));
                self.acknowledgement(first::PUBCOMP, id)?;
            }
        }
        Ok(())
    }

    /// Publishes text.
    pub fn publish_text(&mut self, topic: &str, text: &str, qos: u8) -> Outcome {
        self.publish(Publish::new(topic, text).qos(qos, 0))
    }

    /// Everything that the server sent before its answer to a PINGREQ.
    pub fn before_ping(&mut self) -> Outcome<Vec<Packet>> {
        self.send(frame(first::PINGREQ, &[]));
        let mut before = Vec::new();
        loop {
            match self.receive("PINGRESP")? {
                Packet {
                    body: Body::PingResp,
                    ..
                } => return Ok(before),
                other => before.push(other),
            }
        }
    }

    /// The server sends nothing: not for a short while, and not before its answer to a PINGREQ.
    ///
    /// A server with several cores may answer a PINGREQ before a message that is on its way from another core, so the
    /// answer alone proves little.
    pub fn silent(&mut self, when: &str) -> Outcome {
        self.quiet(SHORT_WHILE, when)?;
        match self.before_ping()?.first() {
            Some(packet) => fail!("expected nothing {when}, got {}", describe(packet)),
            None => Ok(()),
        }
    }

    /// A message, if one comes within a short while.
    pub fn message_soon(&mut self) -> Outcome<Option<Message>> {
        match self.arrival(SHORT_WHILE)? {
            Arrival::Packet(Packet {
                body: Body::Publish(message),
                ..
            }) => Ok(Some(message)),
            Arrival::Packet(packet) => fail!("expected a message, got {}", describe(&packet)),
            Arrival::Closed => fail!("expected a message, but the server closed the connection"),
            Arrival::TimedOut => Ok(None),
        }
    }

    /// The server sends nothing for this long.
    pub fn quiet(&mut self, time: Duration, when: &str) -> Outcome {
        match self.arrival(time)? {
            Arrival::TimedOut => Ok(()),
            Arrival::Closed => {
                fail!("expected nothing {when}, but the server closed the connection")
            }
            Arrival::Packet(packet) => fail!("expected nothing {when}, got {}", describe(&packet)),
        }
    }

    /// The first byte of the next packet, which stays to be received; `None` when the server closes.
    pub fn first_byte(&mut self) -> Outcome<Option<u8>> {
        let deadline = Instant::now() + ANSWER_MAX;
        while self.pending.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                fail!("the server neither answered nor closed");
            }
            match self.read(left)? {
                Read::Some => {}
                Read::Closed => return Ok(None),
            }
        }
        Ok(self.pending.first().copied())
    }

    /// The length of the next packet; 0 when the server closes instead.
    pub fn first_packet_length(&mut self) -> Outcome<usize> {
        match self.arrival(ANSWER_MAX)? {
            Arrival::Packet(packet) => Ok(packet.length),
            Arrival::Closed => Ok(0),
            Arrival::TimedOut => fail!("the server neither answered nor closed"),
        }
    }

    /// The raw bytes that come until the server closes, for answers whose version is open.
    pub fn bytes_until_closed(&mut self, why: &str) -> Outcome<Vec<u8>> {
        let Stream::Tcp(stream) = &mut self.stream else {
            fail!("the suite asked a WebSocket for raw bytes")
        };
        let mut bytes = std::mem::take(&mut self.pending);
        let deadline = Instant::now() + ANSWER_MAX;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                fail!("the server did not close the connection {why}");
            }
            match read_some(stream, left, &mut bytes) {
                Ok(0) => return Ok(bytes),
                Ok(_) => {}
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(_) => return Ok(bytes),
            }
        }
    }
}

/// Reads what is there, waiting for `left` at most.
pub(crate) fn read_some(
    stream: &mut TcpStream,
    left: Duration,
    into: &mut Vec<u8>,
) -> std::io::Result<usize> {
    stream.set_read_timeout(Some(left))?;
    let mut chunk = [0; 16 * 1024];
    let count = stream.read(&mut chunk)?;
    into.extend_from_slice(&chunk[..count]);
    Ok(count)
}

/// The name of a packet type.
pub fn name(head: u8) -> &'static str {
    const NAMES: [&str; 16] = [
        "packet type 0",
        "CONNECT",
        "CONNACK",
        "PUBLISH",
        "PUBACK",
        "PUBREC",
        "PUBREL",
        "PUBCOMP",
        "SUBSCRIBE",
        "SUBACK",
        "UNSUBSCRIBE",
        "UNSUBACK",
        "PINGREQ",
        "PINGRESP",
        "DISCONNECT",
        "AUTH",
    ];
    NAMES[usize::from(head >> 4)]
}

/// A packet in one line.
pub fn describe(packet: &Packet) -> String {
    let name = name(packet.first);
    match &packet.body {
        Body::ConnAck {
            session_present,
            code,
            ..
        } => format!("{name} {code:#04x}, Session Present {session_present}"),
        Body::Publish(message) => {
            let flags = if message.dup { " DUP" } else { "" };
            let text: String = message.text().chars().take(30).collect();
            format!(
                "{name} QoS {}{flags} id {} on {:?}: {text:?}",
                message.qos, message.id, message.topic
            )
        }
        Body::Ack { id, code, .. } => format!("{name} {id} with code {code:#04x}"),
        Body::SubAck { id, codes, .. } => format!("{name} {id} with codes {codes:02x?}"),
        Body::PingResp => name.into(),
        Body::Reason { code, .. } => format!("{name} {code:#04x}"),
    }
}
