//! An application message as it travels: one allocation, made once per node, shared by everyone who delivers it.

use std::fmt;

use edge_proto::packet::QoS;
use edge_proto::shown::Length;

/// The session of a client, or the queue of a shared subscription, unique in the life of the store: one bit that tells which,
/// boot count (15 bits), core (8 bits), counter (40 bits).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

impl SessionId {
    const GROUP_QUEUE: u64 = 1 << 63;

    /// The same number as the id of the queue of a shared subscription.
    pub fn as_group_queue(self) -> Self {
        Self(self.0 | Self::GROUP_QUEUE)
    }

    /// True for the queue of a shared subscription: its mailbox belongs to an owner, and no client has it.
    pub fn is_group_queue(self) -> bool {
        self.0 & Self::GROUP_QUEUE != 0
    }

    /// The core that gave it.
    pub fn core(self) -> u16 {
        (self.0 >> 40) as u16 & 0xFF
    }
}

/// One application message, immutable.
#[derive(PartialEq, Eq)]
pub struct Message {
    /// Topic, forwarded properties, payload, in this order.
    bytes: Box<[u8]>,
    topic_length: u16,
    properties_length: u32,
    /// QoS it was published with.
    pub qos: QoS,
    /// RETAIN flag it was published with.
    pub retain: bool,
    /// When it expires, in milliseconds of Unix time; `u64::MAX` = never.
    pub expires_at_unix_ms: u64,
    /// Who published it, for No Local.
    pub publisher: SessionId,
}

/// The changing parts of a new message; see [`Message::new`].
#[derive(Clone, Copy)]
pub struct MessageParts<'a> {
    /// A valid topic name.
    pub topic: &'a str,
    /// Properties to forward unaltered, encoded by `edge_proto::encode::forwarded_properties`.
    pub properties: &'a [u8],
    /// Application payload.
    pub payload: &'a [u8],
    /// QoS it was published with.
    pub qos: QoS,
    /// RETAIN flag.
    pub retain: bool,
    /// Expiry in milliseconds of Unix time; `u64::MAX` = never.
    pub expires_at_unix_ms: u64,
    /// Who published it.
    pub publisher: SessionId,
}

impl fmt::Debug for Message {
    /// Without what it says, which is nobody's business but its receivers'.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Message")
            .field("topic", &self.topic())
            .field("properties", &Length::of(self.properties()))
            .field("payload", &Length::of(self.payload()))
            .field("qos", &self.qos)
            .field("retain", &self.retain)
            .field("expires_at_unix_ms", &self.expires_at_unix_ms)
            .field("publisher", &self.publisher)
            .finish()
    }
}

impl fmt::Debug for MessageParts<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("MessageParts")
            .field("topic", &self.topic)
            .field("properties", &Length::of(self.properties))
            .field("payload", &Length::of(self.payload))
            .field("qos", &self.qos)
            .field("retain", &self.retain)
            .field("expires_at_unix_ms", &self.expires_at_unix_ms)
            .field("publisher", &self.publisher)
            .finish()
    }
}

impl Message {
    /// Copies the parts into one message.
    ///
    /// # Panics
    /// When the topic is longer than 65,535 bytes or the properties longer than 4 GiB, which no decoder lets through.
    pub fn new(parts: MessageParts<'_>) -> Self {
        let topic_length =
            u16::try_from(parts.topic.len()).expect("a topic has at most 65,535 bytes");
        let properties_length =
            u32::try_from(parts.properties.len()).expect("properties fit into a packet");
        let mut bytes =
            Vec::with_capacity(parts.topic.len() + parts.properties.len() + parts.payload.len());
        bytes.extend_from_slice(parts.topic.as_bytes());
        bytes.extend_from_slice(parts.properties);
        bytes.extend_from_slice(parts.payload);
        Self {
            bytes: bytes.into_boxed_slice(),
            topic_length,
            properties_length,
            qos: parts.qos,
            retain: parts.retain,
            expires_at_unix_ms: parts.expires_at_unix_ms,
            publisher: parts.publisher,
        }
    }

    /// The same message with another expiry.
    pub fn with_expiry(&self, expires_at_unix_ms: u64) -> Self {
        Self {
            bytes: self.bytes.clone(),
            expires_at_unix_ms,
            ..*self
        }
    }

    /// Topic name.
    pub fn topic(&self) -> &str {
        std::str::from_utf8(&self.bytes[..usize::from(self.topic_length)])
            .expect("a message is made from a str")
    }

    /// Forwarded properties, encoded.
    pub fn properties(&self) -> &[u8] {
        let start = usize::from(self.topic_length);
        &self.bytes[start..start + self.properties_length as usize]
    }

    /// Application payload.
    pub fn payload(&self) -> &[u8] {
        &self.bytes[usize::from(self.topic_length) + self.properties_length as usize..]
    }

    /// Topic, properties and payload, one behind the other.
    pub fn content(&self) -> &[u8] {
        &self.bytes
    }

    /// Bytes this message costs in a queue: its content and a fixed overhead.
    pub fn queued_bytes(&self) -> usize {
        self.bytes.len() + size_of::<Self>()
    }

    /// True when its expiry has passed.
    pub fn is_expired(&self, unix_ms: u64) -> bool {
        self.expires_at_unix_ms <= unix_ms
    }

    /// Appends the stored form: QoS and RETAIN (1 byte), topic length (2), properties length (4), expiry (8), publisher (8),
    /// then topic, properties and payload. Numbers are big-endian.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.reserve(STORED_HEADER_BYTES + self.bytes.len());
        out.push(self.qos as u8 | u8::from(self.retain) << 2);
        out.extend_from_slice(&self.topic_length.to_be_bytes());
        out.extend_from_slice(&self.properties_length.to_be_bytes());
        out.extend_from_slice(&self.expires_at_unix_ms.to_be_bytes());
        out.extend_from_slice(&self.publisher.0.to_be_bytes());
        out.extend_from_slice(&self.bytes);
    }

    /// Reads what [`Message::encode`] wrote; the message ends where `stored` ends. `None` if it is not a message.
    pub fn decode(stored: &[u8]) -> Option<Self> {
        let (&[flags], rest) = stored.split_first_chunk()?;
        let (topic_length, rest) = rest.split_first_chunk()?;
        let (properties_length, rest) = rest.split_first_chunk()?;
        let (expires_at_unix_ms, rest) = rest.split_first_chunk()?;
        let (publisher, bytes) = rest.split_first_chunk()?;
        let topic_length = u16::from_be_bytes(*topic_length);
        let properties_length = u32::from_be_bytes(*properties_length);
        if flags >> 3 != 0 || usize::from(topic_length) + properties_length as usize > bytes.len() {
            return None;
        }
        std::str::from_utf8(&bytes[..usize::from(topic_length)]).ok()?;
        Some(Self {
            bytes: bytes.into(),
            topic_length,
            properties_length,
            qos: QoS::from_u8(flags & 0b11)?,
            retain: flags & 0b100 != 0,
            expires_at_unix_ms: u64::from_be_bytes(*expires_at_unix_ms),
            publisher: SessionId(u64::from_be_bytes(*publisher)),
        })
    }
}

/// Bytes before the topic in the stored form of a message.
const STORED_HEADER_BYTES: usize = 1 + 2 + 4 + 8 + 8;
