//! PUBLISH (§3.3): from a decoded packet, and from parts that are encoded once and sent to many.

use core::fmt;

use super::{user_properties, write};
use crate::packet::{PacketType, Publish, PublishProperties, QoS, Version};
use crate::property::id;
use crate::shown::Length;

/// What all receivers of one message have in common.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublishParts<'a> {
    /// Topic name, at most 65,535 bytes.
    pub topic: &'a str,
    /// The properties that a server forwards unaltered, as [`forwarded_properties`] writes them.
    pub forwarded: &'a [u8],
    /// Application payload.
    pub payload: &'a [u8],
}

impl fmt::Debug for PublishParts<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("PublishParts")
            .field("topic", &self.topic)
            .field("forwarded", &Length::of(self.forwarded))
            .field("payload", &Length::of(self.payload))
            .finish()
    }
}

/// What differs between the receivers of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublishHeader<'a> {
    /// DUP flag.
    pub dup: bool,
    /// QoS.
    pub qos: QoS,
    /// RETAIN flag.
    pub retain: bool,
    /// Packet identifier: `Some` exactly when QoS > 0.
    pub packet_id: Option<u16>,
    /// Topic alias, and whether the topic is written too (the first time, which sets the alias). Left out in 3.1.1.
    pub topic_alias: Option<(u16, bool)>,
    /// Message Expiry Interval in seconds, what is left of it.
    pub message_expiry_s: Option<u32>,
    /// Subscription identifiers of the matching subscriptions.
    pub subscription_ids: &'a [u32],
}

impl PublishHeader<'_> {
    /// A QoS 0 header without anything optional.
    pub const fn at_most_once() -> Self {
        Self {
            dup: false,
            qos: QoS::AtMostOnce,
            retain: false,
            packet_id: None,
            topic_alias: None,
            message_expiry_s: None,
            subscription_ids: &[],
        }
    }

    const fn first_byte(&self) -> u8 {
        let flags = (self.dup as u8) << 3 | (self.qos as u8) << 1 | self.retain as u8;
        write::first_byte(PacketType::Publish, flags)
    }

    /// The topic as it is written: empty when the alias stands for it.
    const fn topic<'t>(&self, version: Version, topic: &'t str) -> &'t str {
        match (version, self.topic_alias) {
            (Version::V5, Some((_, false))) => "",
            _ => topic,
        }
    }

    /// The length in bytes of the property block without its length prefix.
    fn properties_length(&self, forwarded: &[u8]) -> usize {
        let alias = if self.topic_alias.is_some() { 3 } else { 0 };
        let expiry = if self.message_expiry_s.is_some() {
            5
        } else {
            0
        };
        let ids = self
            .subscription_ids
            .iter()
            .map(|&id| 1 + write::varint_length(id as usize))
            .sum::<usize>();
        alias + expiry + ids + forwarded.len()
    }

    /// The remaining length, and the length of the property block within.
    fn lengths(&self, version: Version, parts: &PublishParts<'_>) -> (usize, usize) {
        let packet_id = if self.packet_id.is_some() { 2 } else { 0 };
        let bare = 2 + self.topic(version, parts.topic).len() + packet_id + parts.payload.len();
        match version {
            Version::V311 => (bare, 0),
            Version::V5 => {
                let properties = self.properties_length(parts.forwarded);
                (
                    bare + write::varint_length(properties) + properties,
                    properties,
                )
            }
        }
    }
}

/// The length in bytes of the whole packet that [`publish_parts`] writes, to hold against the receiver's Maximum Packet
/// Size and [`crate::frame::PACKET_LENGTH_MAX`].
pub fn publish_parts_length(
    version: Version,
    header: PublishHeader<'_>,
    parts: &PublishParts<'_>,
) -> usize {
    let (remaining, _) = header.lengths(version, parts);
    1 + write::varint_length(remaining) + remaining
}

/// Writes a PUBLISH to one receiver of a message. 3.1.1 leaves out all properties.
///
/// # Panics
///
/// When the packet is longer than [`crate::frame::PACKET_LENGTH_MAX`] or the topic than 65,535 bytes; see
/// [`publish_parts_length`].
pub fn publish_parts(
    out: &mut Vec<u8>,
    version: Version,
    header: PublishHeader<'_>,
    parts: &PublishParts<'_>,
) {
    debug_assert_eq!(header.packet_id.is_some(), header.qos != QoS::AtMostOnce);
    let (remaining, properties) = header.lengths(version, parts);
    let topic = header.topic(version, parts.topic);
    let topic_length = u16::try_from(topic.len()).expect("a topic name has at most 65,535 bytes");
    out.reserve(1 + write::varint_length(remaining) + remaining);
    out.push(header.first_byte());
    write::varint(out, remaining);
    write::u16(out, topic_length);
    out.extend_from_slice(topic.as_bytes());
    if let Some(packet_id) = header.packet_id {
        write::u16(out, packet_id);
    }
    if version == Version::V5 {
        write::varint(out, properties);
        write::property_u32(out, id::MESSAGE_EXPIRY, header.message_expiry_s);
        write::property_u16(
            out,
            id::TOPIC_ALIAS,
            header.topic_alias.map(|(alias, _)| alias),
        );
        for &subscription_id in header.subscription_ids {
            out.push(id::SUBSCRIPTION_ID);
            write::varint(out, subscription_id as usize);
        }
        out.extend_from_slice(parts.forwarded);
    }
    out.extend_from_slice(parts.payload);
}

/// A PUBLISH that is encoded once and sent to many receivers, each with a packet identifier of its own.
#[derive(Clone)]
pub struct PublishTemplate {
    bytes: Vec<u8>,
    /// Where the packet identifier stands, if there is one.
    packet_id_at: Option<usize>,
}

impl fmt::Debug for PublishTemplate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("PublishTemplate")
            .field("bytes", &Length::of(&self.bytes))
            .field("packet_id_at", &self.packet_id_at)
            .finish()
    }
}

impl PublishTemplate {
    /// Encodes what the receivers have in common; the packet identifier of `header` is replaced for each of them.
    ///
    /// # Panics
    ///
    /// As [`publish_parts`].
    pub fn new(version: Version, header: PublishHeader<'_>, parts: &PublishParts<'_>) -> Self {
        let mut bytes = Vec::new();
        publish_parts(&mut bytes, version, header, parts);
        let (remaining, _) = header.lengths(version, parts);
        let topic = header.topic(version, parts.topic).len();
        let packet_id_at = 1 + write::varint_length(remaining) + 2 + topic;
        Self {
            bytes,
            packet_id_at: header.packet_id.map(|_| packet_id_at),
        }
    }

    /// The length of the packet in bytes.
    pub fn length(&self) -> usize {
        self.bytes.len()
    }

    /// Writes the packet for one receiver; `packet_id` counts only if the template was made with one.
    pub fn write(&self, out: &mut Vec<u8>, packet_id: u16) {
        let start = out.len();
        out.extend_from_slice(&self.bytes);
        if let Some(at) = self.packet_id_at {
            out[start + at..start + at + 2].copy_from_slice(&packet_id.to_be_bytes());
        }
    }
}

/// Writes a decoded or hand-made PUBLISH. Servers fan out with [`publish_parts`].
pub fn publish(out: &mut Vec<u8>, version: Version, packet: &Publish<'_>) {
    let header = PublishHeader {
        dup: packet.dup,
        qos: packet.qos,
        retain: packet.retain,
        ..PublishHeader::at_most_once()
    };
    out.push(header.first_byte());
    write::with_length(out, |out| {
        write::str(out, packet.topic);
        if let Some(packet_id) = packet.packet_id {
            write::u16(out, packet_id);
        }
        if version == Version::V5 {
            write::with_length(out, |out| publish_properties(out, &packet.properties));
        }
        out.extend_from_slice(packet.payload);
    });
}

fn publish_properties(out: &mut Vec<u8>, properties: &PublishProperties<'_>) {
    write::property_u32(out, id::MESSAGE_EXPIRY, properties.message_expiry_s);
    write::property_u16(out, id::TOPIC_ALIAS, properties.topic_alias);
    for subscription_id in properties.subscription_ids.iter() {
        out.push(id::SUBSCRIPTION_ID);
        write::varint(out, subscription_id as usize);
    }
    forwarded_properties(out, properties);
}

/// Writes the properties that a server forwards unaltered, in canonical order: payload format, content type, response
/// topic, correlation data, user properties. [`crate::decode::forwarded_properties`] reads them back.
pub fn forwarded_properties(out: &mut Vec<u8>, properties: &PublishProperties<'_>) {
    forwarded(out, properties, |_| true);
}

/// As [`forwarded_properties`], but the user property of this name is the server's to give: what the publisher wrote under it
/// is left out, and the server's value, if there is one, comes last.
pub fn stamped_properties(
    out: &mut Vec<u8>,
    properties: &PublishProperties<'_>,
    (name, value): (&str, Option<&str>),
) {
    forwarded(out, properties, |written| written != name);
    if let Some(value) = value {
        user_properties(out, &[(name, value)]);
    }
}

fn forwarded(out: &mut Vec<u8>, properties: &PublishProperties<'_>, keeps: impl Fn(&str) -> bool) {
    if let Some(is_utf8) = properties.payload_is_utf8 {
        write::property_u8(out, id::PAYLOAD_FORMAT, u8::from(is_utf8));
    }
    write::property_str(out, id::CONTENT_TYPE, properties.content_type);
    write::property_str(out, id::RESPONSE_TOPIC, properties.response_topic);
    write::property_binary(out, id::CORRELATION_DATA, properties.correlation_data);
    let pairs = properties.user_properties.iter();
    for pair in pairs.filter(|(name, _)| keeps(name)) {
        user_properties(out, &[pair]);
    }
}
