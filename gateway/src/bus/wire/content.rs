//! What is delivered, and how: messages, deliveries, subscriptions, and the codes of MQTT.

use edge_proto::packet::{QoS, RetainHandling, SubscriptionOptions};
use edge_proto::reason::ReasonCode;
use edge_proto::topic::TopicName;
use reactor::driver::ConnectionId;
use reactor::slab::Key;

use super::checked::subscription_id;
use super::error::{Fault, Problem};
use super::primitive::{Reader, Wire, Writer, unknown};
use crate::engine::{Delivery, SubscriptionIdList, SubscriptionRecord, WillRecord};
use crate::message::{Message, MessageParts, SessionId};

/// Places in tables: 4 bytes of slot, 4 of generation. Numbers of as many bytes as they need would halve that, and there is one for
/// each recipient of a message; but reading and writing them takes ten times as long.
macro_rules! place {
    ($($place:ident),*) => {$(
        impl Wire for $place {
            const BYTES_MIN: usize = 8;

            #[inline]
            fn write(&self, out: &mut Writer<'_>) {
                let both = u64::from(self.slot) << 32 | u64::from(self.generation);
                out.bytes(&both.to_be_bytes());
            }

            #[inline]
            fn read(input: &mut Reader<'_>) -> Result<Self, Fault> {
                let both = u64::from_be_bytes(input.array()?);
                let (slot, generation) = ((both >> 32) as u32, both as u32);
                Ok(Self { slot, generation })
            }
        }
    )*};
}

place!(ConnectionId, Key);

record! { SubscriptionRecord { options, subscription_id via subscription_id } }

record! { WillRecord { message, delay_s, message_expiry_s } }

impl Wire for SessionId {
    const BYTES_MIN: usize = 8;

    #[inline]
    fn write(&self, out: &mut Writer<'_>) {
        out.bytes(&self.0.to_be_bytes());
    }

    #[inline]
    fn read(input: &mut Reader<'_>) -> Result<Self, Fault> {
        input.array().map(u64::from_be_bytes).map(Self)
    }
}

impl Wire for QoS {
    #[inline]
    fn write(&self, out: &mut Writer<'_>) {
        out.byte(*self as u8);
    }

    #[inline]
    fn read(input: &mut Reader<'_>) -> Result<Self, Fault> {
        qos(input.byte()?)
    }
}

fn qos(number: u8) -> Result<QoS, Fault> {
    QoS::from_u8(number).ok_or_else(|| unknown("QoS", number))
}

impl Wire for ReasonCode {
    #[inline]
    fn write(&self, out: &mut Writer<'_>) {
        out.byte(*self as u8);
    }

    #[inline]
    fn read(input: &mut Reader<'_>) -> Result<Self, Fault> {
        let number = input.byte()?;
        Self::from_u8(number).ok_or_else(|| unknown("reason code", number))
    }
}

/// The byte that SUBSCRIBE has for them.
impl Wire for SubscriptionOptions {
    #[inline]
    fn write(&self, out: &mut Writer<'_>) {
        out.byte(self.to_u8());
    }

    #[inline]
    fn read(input: &mut Reader<'_>) -> Result<Self, Fault> {
        let byte = input.byte()?;
        let retain_handling = RetainHandling::from_u8(byte >> 4);
        Ok(Self {
            maximum_qos: qos(byte & 0b11)?,
            no_local: byte & 0b100 != 0,
            retain_as_published: byte & 0b1000 != 0,
            retain_handling: retain_handling
                .ok_or_else(|| unknown("byte of subscription options", byte))?,
        })
    }
}

const RETAIN: u8 = 1 << 2;

/// The bit of a flag that is set, or none.
const fn bit(is_set: bool, bit: u8) -> u8 {
    if is_set { bit } else { 0 }
}

/// `QoS | RETAIN | HAS_IDS`, then the subscription identifiers.
impl Wire for Delivery {
    #[inline]
    fn write(&self, out: &mut Writer<'_>) {
        let flags = self.qos as u8 | bit(self.retain, RETAIN);
        if self.subscription_ids.is_empty() {
            return out.byte(flags);
        }
        out.byte(flags | HAS_IDS);
        out.length(self.subscription_ids.len());
        for id in &self.subscription_ids {
            subscription_id::write(id, out);
        }
    }

    #[inline]
    fn read(input: &mut Reader<'_>) -> Result<Self, Fault> {
        let flags = input.byte()?;
        if flags & !(0b11 | RETAIN | HAS_IDS) != 0 {
            return Err(unknown("byte of flags of a delivery", flags));
        }
        let qos = qos(flags & 0b11).map_err(|fault| fault.in_field("Delivery.qos"))?;
        let has_ids = flags & HAS_IDS != 0;
        Ok(Self {
            qos,
            retain: flags & RETAIN != 0,
            subscription_ids: if has_ids {
                read_ids(input)?
            } else {
                Box::default()
            },
        })
    }
}

fn read_ids(input: &mut Reader<'_>) -> Result<SubscriptionIdList, Fault> {
    let count = input.count(1)?;
    let ids = (0..count).map(|_| subscription_id::read(input));
    let ids = ids.collect::<Result<SubscriptionIdList, _>>()?;
    if ids.is_empty() || ids.contains(&0) {
        return Err(Problem::Zero.into());
    }
    Ok(ids)
}

const HAS_IDS: u8 = 1 << 3;

/// `QoS | RETAIN | EXPIRES | HAS_PROPERTIES`, publisher, expiry, the lengths, then topic, properties and payload as they are.
impl Wire for Message {
    const BYTES_MIN: usize = 1 + SessionId::BYTES_MIN + 1 + 1 + 1;

    fn write(&self, out: &mut Writer<'_>) {
        let content = self.content();
        let (properties, payload) = (self.properties().len(), self.payload().len());
        let expires = self.expires_at_unix_ms != u64::MAX;
        out.reserve(MESSAGE_HEADER_BYTES_MAX + content.len());
        out.byte(
            self.qos as u8
                | bit(self.retain, RETAIN)
                | bit(expires, EXPIRES)
                | bit(properties > 0, HAS_PROPERTIES),
        );
        self.publisher.write(out);
        if expires {
            out.bytes(&self.expires_at_unix_ms.to_be_bytes());
        }
        out.length(content.len() - properties - payload);
        if properties > 0 {
            out.length(properties);
        }
        out.length(payload);
        out.bytes(content);
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, Fault> {
        let flags = input.byte()?;
        if flags & !(0b11 | RETAIN | EXPIRES | HAS_PROPERTIES) != 0 {
            return Err(unknown("byte of flags of a message", flags));
        }
        let qos = qos(flags & 0b11).map_err(|fault| fault.in_field("Message.qos"))?;
        let publisher = SessionId::read(input)?;
        let expires_at_unix_ms = match flags & EXPIRES {
            0 => u64::MAX,
            _ => u64::from_be_bytes(input.array()?),
        };
        let topic_length = input.length()?;
        let properties_length = match flags & HAS_PROPERTIES {
            0 => 0,
            _ => input.length()?,
        };
        let payload_length = input.length()?;
        let topic = topic(input.bytes(topic_length)?)
            .map_err(|problem| Fault::from(problem).in_field("Message.topic"))?;
        Ok(Self::new(MessageParts {
            topic,
            properties: input.bytes(properties_length)?,
            payload: input.bytes(payload_length)?,
            qos,
            retain: flags & RETAIN != 0,
            expires_at_unix_ms,
            publisher,
        }))
    }
}

fn topic(bytes: &[u8]) -> Result<&str, Problem> {
    let text = std::str::from_utf8(bytes).map_err(|_| Problem::Utf8)?;
    let topic = TopicName::parse(text).map_err(Problem::Invalid)?;
    Ok(topic.as_str())
}

const EXPIRES: u8 = 1 << 3;
const HAS_PROPERTIES: u8 = 1 << 4;
const MESSAGE_HEADER_BYTES_MAX: usize = 1 + 8 + 8 + 5 + 5 + 5;
