//! The suite's own packet builder: bytes out, nothing checked.
//!
//! It shares no code with `edge-proto`, so that one misreading of the specification cannot hide in both, and it can
//! build every packet that a client must not send.

/// The protocol version that a case speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// MQTT 3.1.1, protocol level 4.
    V311,
    /// MQTT 5.0, protocol level 5.
    V5,
}

impl Version {
    /// As printed in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::V311 => "3.1.1",
            Self::V5 => "5.0",
        }
    }
}

/// First byte of each packet with the flags that the specification demands (§2.1.2, §2.1.3).
pub mod first {
    /// CONNECT.
    pub const CONNECT: u8 = 0x10;
    /// CONNACK.
    pub const CONNACK: u8 = 0x20;
    /// PUBLISH, all flags 0.
    pub const PUBLISH: u8 = 0x30;
    /// PUBACK.
    pub const PUBACK: u8 = 0x40;
    /// PUBREC.
    pub const PUBREC: u8 = 0x50;
    /// PUBREL.
    pub const PUBREL: u8 = 0x62;
    /// PUBCOMP.
    pub const PUBCOMP: u8 = 0x70;
    /// SUBSCRIBE.
    pub const SUBSCRIBE: u8 = 0x82;
    /// SUBACK.
    pub const SUBACK: u8 = 0x90;
    /// UNSUBSCRIBE.
    pub const UNSUBSCRIBE: u8 = 0xA2;
    /// UNSUBACK.
    pub const UNSUBACK: u8 = 0xB0;
    /// PINGREQ.
    pub const PINGREQ: u8 = 0xC0;
    /// PINGRESP.
    pub const PINGRESP: u8 = 0xD0;
    /// DISCONNECT.
    pub const DISCONNECT: u8 = 0xE0;
    /// AUTH.
    pub const AUTH: u8 = 0xF0;
}

/// Property identifiers (MQTT 5.0 §2.2.2.2).
pub mod prop {
    /// Payload Format Indicator, byte.
    pub const PAYLOAD_FORMAT: u8 = 0x01;
    /// Message Expiry Interval, four bytes.
    pub const MESSAGE_EXPIRY: u8 = 0x02;
    /// Content Type, string.
    pub const CONTENT_TYPE: u8 = 0x03;
    /// Response Topic, string.
    pub const RESPONSE_TOPIC: u8 = 0x08;
    /// Correlation Data, binary.
    pub const CORRELATION_DATA: u8 = 0x09;
    /// Subscription Identifier, variable byte integer.
    pub const SUBSCRIPTION_ID: u8 = 0x0B;
    /// Session Expiry Interval, four bytes.
    pub const SESSION_EXPIRY: u8 = 0x11;
    /// Assigned Client Identifier, string.
    pub const ASSIGNED_CLIENT_ID: u8 = 0x12;
    /// Server Keep Alive, two bytes.
    pub const SERVER_KEEP_ALIVE: u8 = 0x13;
    /// Authentication Method, string.
    pub const AUTH_METHOD: u8 = 0x15;
    /// Authentication Data, binary.
    pub const AUTH_DATA: u8 = 0x16;
    /// Request Problem Information, byte.
    pub const REQUEST_PROBLEM: u8 = 0x17;
    /// Will Delay Interval, four bytes.
    pub const WILL_DELAY: u8 = 0x18;
    /// Request Response Information, byte.
    pub const REQUEST_RESPONSE: u8 = 0x19;
    /// Response Information, string.
    pub const RESPONSE_INFO: u8 = 0x1A;
    /// Server Reference, string.
    pub const SERVER_REFERENCE: u8 = 0x1C;
    /// Reason String, string.
    pub const REASON_STRING: u8 = 0x1F;
    /// Receive Maximum, two bytes.
    pub const RECEIVE_MAXIMUM: u8 = 0x21;
    /// Topic Alias Maximum, two bytes.
    pub const TOPIC_ALIAS_MAXIMUM: u8 = 0x22;
    /// Topic Alias, two bytes.
    pub const TOPIC_ALIAS: u8 = 0x23;
    /// Maximum QoS, byte.
    pub const MAXIMUM_QOS: u8 = 0x24;
    /// Retain Available, byte.
    pub const RETAIN_AVAILABLE: u8 = 0x25;
    /// User Property, string pair.
    pub const USER: u8 = 0x26;
    /// Maximum Packet Size, four bytes.
    pub const MAXIMUM_PACKET_SIZE: u8 = 0x27;
    /// Wildcard Subscription Available, byte.
    pub const WILDCARD_AVAILABLE: u8 = 0x28;
    /// Subscription Identifiers Available, byte.
    pub const SUBSCRIPTION_IDS_AVAILABLE: u8 = 0x29;
    /// Shared Subscription Available, byte.
    pub const SHARED_AVAILABLE: u8 = 0x2A;
}

/// Bytes under construction; every method appends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bytes(pub Vec<u8>);

impl Bytes {
    /// Nothing yet.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// One byte.
    pub fn u8(mut self, value: u8) -> Self {
        self.0.push(value);
        self
    }

    /// Two Byte Integer.
    pub fn u16(mut self, value: u16) -> Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    /// Four Byte Integer.
    pub fn u32(mut self, value: u32) -> Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    /// Variable Byte Integer in the fewest bytes.
    pub fn var(mut self, value: usize) -> Self {
        put_var(&mut self.0, value);
        self
    }

    /// Two-byte length and the bytes: a string or binary data, well-formed or not.
    pub fn data(self, value: impl AsRef<[u8]>) -> Self {
        let value = value.as_ref();
        let length = u16::try_from(value.len()).expect("strings of the suite fit in 65,535 bytes");
        self.u16(length).raw(value)
    }

    /// Bytes as they are.
    pub fn raw(mut self, value: impl AsRef<[u8]>) -> Self {
        self.0.extend_from_slice(value.as_ref());
        self
    }

    /// Property block: its length and its bytes in 5.0, nothing in 3.1.1.
    pub fn props(self, version: Version, props: &Props) -> Self {
        match version {
            Version::V5 => self.var(props.0.len()).raw(&props.0),
            Version::V311 => self,
        }
    }

    /// Closes the packet: first byte, remaining length, what was appended.
    pub fn frame(self, first: u8) -> Vec<u8> {
        frame(first, &self.0)
    }
}

/// A packet from its first byte and its body.
pub fn frame(first: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    put_var(&mut out, body.len());
    out.extend_from_slice(body);
    out
}

fn put_var(out: &mut Vec<u8>, mut value: usize) {
    loop {
        let low = u8::try_from(value % 128).expect("below 128");
        value /= 128;
        if value == 0 {
            out.push(low);
            return;
        }
        out.push(low | 0x80);
    }
}

/// A property block under construction, without its length.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Props(pub Vec<u8>);

impl Props {
    /// No properties.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    fn with(mut self, id: u8, value: Bytes) -> Self {
        self.0.push(id);
        self.0.extend_from_slice(&value.0);
        self
    }

    /// A property with a one-byte value.
    pub fn u8(self, id: u8, value: u8) -> Self {
        self.with(id, Bytes::new().u8(value))
    }

    /// A property with a two-byte value.
    pub fn u16(self, id: u8, value: u16) -> Self {
        self.with(id, Bytes::new().u16(value))
    }

    /// A property with a four-byte value.
    pub fn u32(self, id: u8, value: u32) -> Self {
        self.with(id, Bytes::new().u32(value))
    }

    /// A property with a Variable Byte Integer.
    pub fn var(self, id: u8, value: usize) -> Self {
        self.with(id, Bytes::new().var(value))
    }

    /// A property with a string or binary value.
    pub fn data(self, id: u8, value: impl AsRef<[u8]>) -> Self {
        self.with(id, Bytes::new().data(value))
    }

    /// A user property.
    pub fn user(self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        self.with(prop::USER, Bytes::new().data(name).data(value))
    }
}

/// The will of a CONNECT.
#[derive(Clone, Debug, Default)]
pub struct Will {
    /// Topic.
    pub topic: Vec<u8>,
    /// Payload.
    pub payload: Vec<u8>,
    /// QoS bits, 3 included.
    pub qos: u8,
    /// Will Retain.
    pub retain: bool,
    /// Will Properties.
    pub props: Props,
}

/// CONNECT, field by field.
#[derive(Clone, Debug)]
pub struct Connect {
    /// Protocol name.
    pub name: Vec<u8>,
    /// Protocol level.
    pub level: u8,
    /// Clean Start (Clean Session).
    pub clean: bool,
    /// Keep Alive in seconds.
    pub keep_alive_s: u16,
    /// Client identifier.
    pub client_id: Vec<u8>,
    /// Will.
    pub will: Option<Will>,
    /// User name.
    pub username: Option<Vec<u8>>,
    /// Password.
    pub password: Option<Vec<u8>>,
    /// Properties.
    pub props: Props,
    /// Replaces the flags that follow from the fields.
    pub flags: Option<u8>,
}

impl Connect {
    /// A clean CONNECT with this client identifier and Keep Alive 60.
    pub fn new(version: Version, client_id: &str) -> Self {
        Self {
            name: b"MQTT".to_vec(),
            level: if version == Version::V5 { 5 } else { 4 },
            clean: true,
            keep_alive_s: 60,
            client_id: client_id.into(),
            will: None,
            username: None,
            password: None,
            props: Props::new(),
            flags: None,
        }
    }

    /// The Connect Flags that follow from the fields.
    pub fn natural_flags(&self) -> u8 {
        let will = self
            .will
            .as_ref()
            .map_or(0, |will| 0x04 | will.qos << 3 | u8::from(will.retain) << 5);
        u8::from(self.username.is_some()) << 7
            | u8::from(self.password.is_some()) << 6
            | will
            | u8::from(self.clean) << 1
    }

    /// The packet.
    pub fn encode(&self) -> Vec<u8> {
        let version = if self.level == 5 {
            Version::V5
        } else {
            Version::V311
        };
        let mut body = Bytes::new()
            .data(&self.name)
            .u8(self.level)
            .u8(self.flags.unwrap_or_else(|| self.natural_flags()))
            .u16(self.keep_alive_s)
            .props(version, &self.props)
            .data(&self.client_id);
        if let Some(will) = &self.will {
            body = body
                .props(version, &will.props)
                .data(&will.topic)
                .data(&will.payload);
        }
        for field in [&self.username, &self.password].into_iter().flatten() {
            body = body.data(field);
        }
        body.frame(first::CONNECT)
    }
}

/// PUBLISH, field by field.
#[derive(Clone, Debug, Default)]
pub struct Publish {
    /// Topic name.
    pub topic: Vec<u8>,
    /// Payload.
    pub payload: Vec<u8>,
    /// QoS bits, 3 included.
    pub qos: u8,
    /// RETAIN.
    pub retain: bool,
    /// DUP.
    pub dup: bool,
    /// Packet identifier, sent when QoS > 0.
    pub id: u16,
    /// Properties.
    pub props: Props,
}

impl Publish {
    /// A QoS 0 PUBLISH.
    pub fn new(topic: impl AsRef<[u8]>, payload: impl AsRef<[u8]>) -> Self {
        Self {
            topic: topic.as_ref().to_vec(),
            payload: payload.as_ref().to_vec(),
            ..Self::default()
        }
    }

    /// With this QoS and packet identifier.
    pub const fn qos(mut self, qos: u8, id: u16) -> Self {
        self.qos = qos;
        self.id = id;
        self
    }

    /// With RETAIN = 1.
    pub const fn retained(mut self) -> Self {
        self.retain = true;
        self
    }

    /// With DUP = 1.
    pub const fn dup(mut self) -> Self {
        self.dup = true;
        self
    }

    /// With these properties.
    pub fn props(mut self, props: Props) -> Self {
        self.props = props;
        self
    }

    /// The packet.
    pub fn encode(&self, version: Version) -> Vec<u8> {
        let mut body = Bytes::new().data(&self.topic);
        if self.qos > 0 {
            body = body.u16(self.id);
        }
        let flags = u8::from(self.dup) << 3 | self.qos << 1 | u8::from(self.retain);
        body.props(version, &self.props)
            .raw(&self.payload)
            .frame(first::PUBLISH | flags)
    }
}

/// SUBSCRIBE with one options byte per filter.
pub fn subscribe(version: Version, id: u16, filters: &[(&str, u8)], props: &Props) -> Vec<u8> {
    let start = Bytes::new().u16(id).props(version, props);
    filters
        .iter()
        .fold(start, |body, (filter, options)| {
            body.data(filter).u8(*options)
        })
        .frame(first::SUBSCRIBE)
}

/// UNSUBSCRIBE.
pub fn unsubscribe(version: Version, id: u16, filters: &[&str]) -> Vec<u8> {
    let start = Bytes::new().u16(id).props(version, &Props::new());
    filters
        .iter()
        .fold(start, |body, filter| body.data(filter))
        .frame(first::UNSUBSCRIBE)
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP without reason code.
pub fn ack(first: u8, id: u16) -> Vec<u8> {
    Bytes::new().u16(id).frame(first)
}

/// The same with a reason code (5.0).
pub fn ack_with(first: u8, id: u16, code: u8) -> Vec<u8> {
    Bytes::new().u16(id).u8(code).u8(0).frame(first)
}

/// DISCONNECT with a reason code and properties (5.0).
pub fn disconnect_with(code: u8, props: &Props) -> Vec<u8> {
    Bytes::new()
        .u8(code)
        .props(Version::V5, props)
        .frame(first::DISCONNECT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_byte_integer_takes_the_bytes_of_table_1_1() {
        for (value, bytes) in [
            (0, vec![0x00]),
            (127, vec![0x7F]),
            (128, vec![0x80, 0x01]),
            (16_383, vec![0xFF, 0x7F]),
            (16_384, vec![0x80, 0x80, 0x01]),
            (268_435_455, vec![0xFF, 0xFF, 0xFF, 0x7F]),
        ] {
            assert_eq!(Bytes::new().var(value).0, bytes);
        }
    }

    #[test]
    fn a_connect_looks_as_in_figure_3_6() {
        let mut connect = Connect::new(Version::V5, "a");
        connect.keep_alive_s = 10;
        connect.props = Props::new().u32(prop::SESSION_EXPIRY, 10);
        connect.username = Some(b"u".to_vec());
        let expected = [
            0x10, 22, 0, 4, b'M', b'Q', b'T', b'T', 5, 0x82, 0, 10, 5, 0x11, 0, 0, 0, 10, 0, 1,
            b'a', 0, 1, b'u',
        ];
        assert_eq!(connect.encode(), expected);
    }

    #[test]
    fn a_3_1_1_publish_has_no_property_length() {
        assert_eq!(
            Publish::new("a/b", "x").qos(1, 10).encode(Version::V311),
            [0x32, 8, 0, 3, b'a', b'/', b'b', 0, 10, b'x']
        );
        assert_eq!(
            Publish::new("a", "x").retained().encode(Version::V5),
            [0x31, 5, 0, 1, b'a', 0, b'x']
        );
    }

    #[test]
    fn a_subscribe_has_one_options_byte_per_filter() {
        assert_eq!(
            subscribe(Version::V311, 10, &[("a", 1), ("b", 2)], &Props::new()),
            [0x82, 10, 0, 10, 0, 1, b'a', 1, 0, 1, b'b', 2]
        );
    }
}
