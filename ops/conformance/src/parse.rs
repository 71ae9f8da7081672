//! The suite's own parser for what a server sends. It is strict: a byte that the specification does not allow from a
//! server is an error, so every case checks the form of every packet that it receives.

use crate::rules::{allowed, codes_are_listed};
use crate::wire::{Version, first, prop};

/// A packet from the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// First byte, flags included.
    pub first: u8,
    /// Length of the whole packet.
    pub length: usize,
    /// Its fields.
    pub body: Body,
}

/// The fields of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// CONNACK.
    ConnAck {
        /// Session Present.
        session_present: bool,
        /// Reason code or return code.
        code: u8,
        /// Properties.
        props: Properties,
    },
    /// PUBLISH.
    Publish(Message),
    /// PUBACK, PUBREC, PUBREL, PUBCOMP.
    Ack {
        /// Packet identifier.
        id: u16,
        /// Reason code, 0 when it was left out.
        code: u8,
        /// Properties.
        props: Properties,
    },
    /// SUBACK, UNSUBACK.
    SubAck {
        /// Packet identifier.
        id: u16,
        /// Reason codes; empty in a 3.1.1 UNSUBACK.
        codes: Vec<u8>,
        /// Properties.
        props: Properties,
    },
    /// PINGRESP.
    PingResp,
    /// DISCONNECT or AUTH.
    Reason {
        /// Reason code, 0 when it was left out.
        code: u8,
        /// Properties.
        props: Properties,
    },
}

/// A PUBLISH.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// DUP.
    pub dup: bool,
    /// QoS.
    pub qos: u8,
    /// RETAIN.
    pub retain: bool,
    /// Topic name as sent (empty with a topic alias).
    pub topic: String,
    /// Packet identifier, 0 for QoS 0.
    pub id: u16,
    /// Properties.
    pub props: Properties,
    /// Payload.
    pub payload: Vec<u8>,
}

impl Message {
    /// The payload for people.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.payload).into_owned()
    }
}

/// A property value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Byte, two-byte, four-byte or variable byte integer.
    Number(u32),
    /// UTF-8 string.
    Text(String),
    /// Binary data.
    Data(Vec<u8>),
    /// User property.
    Pair(String, String),
}

/// The properties of a packet in the order received.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Properties(pub Vec<(u8, Value)>);

impl Properties {
    /// The first value of this property.
    pub fn find(&self, id: u8) -> Option<&Value> {
        self.0
            .iter()
            .find(|(found, _)| *found == id)
            .map(|(_, value)| value)
    }

    /// A numeric property.
    pub fn number(&self, id: u8) -> Option<u32> {
        self.find(id).and_then(|value| {
            if let Value::Number(number) = value {
                Some(*number)
            } else {
                None
            }
        })
    }

    /// A string property.
    pub fn text(&self, id: u8) -> Option<&str> {
        self.find(id).and_then(|value| {
            if let Value::Text(text) = value {
                Some(text.as_str())
            } else {
                None
            }
        })
    }

    /// A binary property.
    pub fn data(&self, id: u8) -> Option<&[u8]> {
        self.find(id).and_then(|value| {
            if let Value::Data(data) = value {
                Some(data.as_slice())
            } else {
                None
            }
        })
    }

    /// User properties in order.
    pub fn pairs(&self) -> Vec<(&str, &str)> {
        let pairs = self.0.iter().filter_map(|(_, value)| match value {
            Value::Pair(name, value) => Some((name.as_str(), value.as_str())),
            _ => None,
        });
        pairs.collect()
    }

    /// Subscription identifiers, sorted.
    pub fn subscription_ids(&self) -> Vec<u32> {
        let mut ids: Vec<u32> = self
            .0
            .iter()
            .filter_map(|(id, value)| match value {
                Value::Number(number) if *id == prop::SUBSCRIPTION_ID => Some(*number),
                _ => None,
            })
            .collect();
        ids.sort_unstable();
        ids
    }
}

/// Why the server's bytes are not MQTT.
pub type Wrong = String;

/// Takes one packet off the front of `bytes`; `None` when it is not complete yet.
pub fn packet(version: Version, bytes: &[u8]) -> Result<Option<(Packet, usize)>, Wrong> {
    let Some(&head) = bytes.first() else {
        return Ok(None);
    };
    let Some((length, used)) = variable(&bytes[1..])? else {
        return Ok(None);
    };
    let total = 1 + used + length;
    if bytes.len() < total {
        return Ok(None);
    }
    let body = body(version, head, &bytes[1 + used..total]).map_err(|wrong| {
        format!(
            "the server sent a packet that is not MQTT {}: {wrong} in {:02x?}",
            version.name(),
            &bytes[..total.min(64)]
        )
    })?;
    Ok(Some((
        Packet {
            first: head,
            length: total,
            body,
        },
        total,
    )))
}

/// A Variable Byte Integer and its length; an overlong one is an error [MQTT-1.5.5-1].
fn variable(bytes: &[u8]) -> Result<Option<(usize, usize)>, Wrong> {
    let mut value = 0;
    for (index, &byte) in bytes.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7F) << (7 * index);
        if byte & 0x80 == 0 {
            return if index > 0 && byte == 0 {
                Err("a variable byte integer longer than needed".into())
            } else {
                Ok(Some((value, index + 1)))
            };
        }
    }
    if bytes.len() >= 4 {
        Err("a variable byte integer of more than four bytes".into())
    } else {
        Ok(None)
    }
}

fn body(version: Version, head: u8, bytes: &[u8]) -> Result<Body, Wrong> {
    let mut reader = Reader { version, bytes };
    let body = match head {
        first::CONNACK => {
            let flags = reader.u8()?;
            if flags > 1 {
                return Err(format!("reserved CONNACK flags {flags:#04x}"));
            }
            let code = reader.u8()?;
            Body::ConnAck {
                session_present: flags == 1,
                code,
                props: reader.props(head)?,
            }
        }
        _ if head >> 4 == first::PUBLISH >> 4 => Body::Publish(reader.publish(head)?),
        first::PUBACK | first::PUBREC | first::PUBREL | first::PUBCOMP => {
            let id = reader.id()?;
            let code = reader.optional_code()?;
            Body::Ack {
                id,
                code,
                props: reader.optional_props(head)?,
            }
        }
        first::SUBACK | first::UNSUBACK => {
            let id = reader.id()?;
            let props = reader.props(head)?;
            Body::SubAck {
                id,
                codes: reader.rest(),
                props,
            }
        }
        first::PINGRESP => Body::PingResp,
        first::DISCONNECT | first::AUTH if version == Version::V5 => {
            let code = reader.optional_code()?;
            Body::Reason {
                code,
                props: reader.optional_props(head)?,
            }
        }
        _ => return Err(format!("a first byte {head:#04x} that no server sends")),
    };
    if !reader.bytes.is_empty() {
        return Err(format!("{} bytes after the last field", reader.bytes.len()));
    }
    codes_are_listed(version, head, &body)?;
    Ok(body)
}

struct Reader<'a> {
    version: Version,
    bytes: &'a [u8],
}

impl Reader<'_> {
    fn take(&mut self, count: usize) -> Result<&[u8], Wrong> {
        if self.bytes.len() < count {
            return Err("a field beyond the end of the packet".into());
        }
        let (taken, rest) = self.bytes.split_at(count);
        self.bytes = rest;
        Ok(taken)
    }

    fn u8(&mut self) -> Result<u8, Wrong> {
        Ok(self.take(1)?[0])
    }

    fn u16(&mut self) -> Result<u16, Wrong> {
        let taken = self.take(2)?;
        Ok(u16::from_be_bytes([taken[0], taken[1]]))
    }

    fn u32(&mut self) -> Result<u32, Wrong> {
        Ok(u32::from(self.u16()?) << 16 | u32::from(self.u16()?))
    }

    fn variable(&mut self) -> Result<usize, Wrong> {
        let (value, used) =
            variable(self.bytes)?.ok_or("a variable byte integer beyond the end")?;
        self.take(used)?;
        Ok(value)
    }

    fn data(&mut self) -> Result<Vec<u8>, Wrong> {
        let length = usize::from(self.u16()?);
        Ok(self.take(length)?.to_vec())
    }

    fn text(&mut self) -> Result<String, Wrong> {
        let text = String::from_utf8(self.data()?).map_err(|_| "a string that is not UTF-8")?;
        if text.contains('\0') {
            Err("a string with U+0000".into())
        } else {
            Ok(text)
        }
    }

    fn id(&mut self) -> Result<u16, Wrong> {
        match self.u16()? {
            0 => Err("packet identifier 0".into()),
            id => Ok(id),
        }
    }

    fn rest(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.bytes).to_vec()
    }

    fn optional_code(&mut self) -> Result<u8, Wrong> {
        if self.version == Version::V5 && !self.bytes.is_empty() {
            self.u8()
        } else {
            Ok(0)
        }
    }

    fn optional_props(&mut self, head: u8) -> Result<Properties, Wrong> {
        if self.bytes.is_empty() {
            Ok(Properties::default())
        } else {
            self.props(head)
        }
    }

    fn props(&mut self, head: u8) -> Result<Properties, Wrong> {
        let mut found = Properties::default();
        if self.version == Version::V311 {
            return Ok(found);
        }
        let length = self.variable()?;
        let end = self
            .bytes
            .len()
            .checked_sub(length)
            .ok_or("properties beyond the end of the packet")?;
        while self.bytes.len() > end {
            let id = self.u8()?;
            if !allowed(head, id) {
                return Err(format!("property {id:#04x}, which is not for this packet"));
            }
            let repeats = matches!(id, prop::USER | prop::SUBSCRIPTION_ID);
            if !repeats && found.find(id).is_some() {
                return Err(format!("property {id:#04x} twice"));
            }
            found.0.push((id, self.value(id)?));
        }
        if self.bytes.len() == end {
            Ok(found)
        } else {
            Err("a property beyond the property length".into())
        }
    }

    fn value(&mut self, id: u8) -> Result<Value, Wrong> {
        Ok(match id {
            prop::PAYLOAD_FORMAT
            | prop::MAXIMUM_QOS
            | prop::RETAIN_AVAILABLE
            | prop::WILDCARD_AVAILABLE
            | prop::SUBSCRIPTION_IDS_AVAILABLE
            | prop::SHARED_AVAILABLE => match self.u8()? {
                flag @ 0..=1 => Value::Number(flag.into()),
                other => return Err(format!("value {other} in property {id:#04x}")),
            },
            prop::MESSAGE_EXPIRY | prop::SESSION_EXPIRY => Value::Number(self.u32()?),
            prop::MAXIMUM_PACKET_SIZE => Value::Number(nonzero(id, self.u32()?)?),
            prop::RECEIVE_MAXIMUM | prop::TOPIC_ALIAS => {
                Value::Number(nonzero(id, self.u16()?.into())?)
            }
            prop::SERVER_KEEP_ALIVE | prop::TOPIC_ALIAS_MAXIMUM => {
                Value::Number(self.u16()?.into())
            }
            prop::SUBSCRIPTION_ID => Value::Number(nonzero(
                id,
                u32::try_from(self.variable()?).map_err(|wrong| wrong.to_string())?,
            )?),
            prop::CORRELATION_DATA | prop::AUTH_DATA => Value::Data(self.data()?),
            prop::USER => Value::Pair(self.text()?, self.text()?),
            _ => Value::Text(self.text()?),
        })
    }

    fn publish(&mut self, head: u8) -> Result<Message, Wrong> {
        let (dup, qos, retain) = (head & 8 != 0, head >> 1 & 3, head & 1 != 0);
        if qos == 3 || qos == 0 && dup {
            return Err(format!("PUBLISH flags {:#06b}", head & 15));
        }
        let topic = self.text()?;
        if topic.contains(['+', '#']) {
            return Err(format!("wildcards in the topic name {topic:?}"));
        }
        let id = if qos == 0 { 0 } else { self.id()? };
        let props = self.props(head)?;
        if topic.is_empty() && props.find(prop::TOPIC_ALIAS).is_none() {
            return Err("an empty topic name".into());
        }
        Ok(Message {
            dup,
            qos,
            retain,
            topic,
            id,
            props,
            payload: self.rest(),
        })
    }
}

fn nonzero(id: u8, value: u32) -> Result<u32, Wrong> {
    if value == 0 {
        Err(format!("value 0 in property {id:#04x}"))
    } else {
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Bytes, Props, Publish, ack_with, frame};

    fn parsed(version: Version, bytes: &[u8]) -> Body {
        let (packet, used) = packet(version, bytes)
            .expect("well-formed")
            .expect("complete");
        assert_eq!(used, bytes.len());
        packet.body
    }

    #[test]
    fn a_publish_comes_back_as_it_was_built() {
        let props = Props::new()
            .var(prop::SUBSCRIPTION_ID, 300)
            .user("n", "v")
            .u16(prop::TOPIC_ALIAS, 7);
        let bytes = Publish::new("a/b", "payload")
            .qos(2, 9)
            .retained()
            .dup()
            .props(props)
            .encode(Version::V5);
        let Body::Publish(message) = parsed(Version::V5, &bytes) else {
            panic!("not a PUBLISH")
        };
        assert_eq!(
            (message.qos, message.id, message.dup, message.retain),
            (2, 9, true, true)
        );
        assert_eq!(message.props.subscription_ids(), [300]);
        assert_eq!(message.props.pairs(), [("n", "v")]);
        assert_eq!(message.text(), "payload");
    }

    #[test]
    fn every_prefix_of_a_packet_is_incomplete() {
        let bytes = Publish::new("a/b", vec![1; 300])
            .qos(1, 1)
            .encode(Version::V5);
        for cut in 0..bytes.len() {
            assert_eq!(packet(Version::V5, &bytes[..cut]), Ok(None));
        }
    }

    #[test]
    fn an_overlong_length_is_refused() {
        assert!(packet(Version::V5, &[0xD0, 0x80, 0x00]).is_err());
        assert!(packet(Version::V5, &[0xD0, 0x80, 0x80, 0x80, 0x80, 0x00]).is_err());
    }

    #[test]
    fn what_only_a_client_may_send_is_refused() {
        let expiry = Bytes::new()
            .u8(0)
            .props(Version::V5, &Props::new().u32(prop::SESSION_EXPIRY, 1));
        assert!(packet(Version::V5, &expiry.frame(first::DISCONNECT)).is_err());
        assert!(packet(Version::V5, &frame(first::PINGREQ, &[])).is_err());
        assert!(packet(Version::V5, &ack_with(first::PUBACK, 1, 0x92)).is_err());
        assert!(packet(Version::V311, &frame(first::DISCONNECT, &[])).is_err());
        assert!(packet(Version::V311, &frame(first::SUBACK, &[0, 1, 0x87])).is_err());
        assert!(packet(Version::V5, &frame(first::CONNACK, &[2, 0, 0])).is_err());
        assert!(packet(Version::V5, &frame(first::PUBACK, &[0, 0])).is_err());
    }

    #[test]
    fn short_acknowledgements_mean_success() {
        let expected = Body::Ack {
            id: 5,
            code: 0,
            props: Properties::default(),
        };
        assert_eq!(
            parsed(Version::V5, &frame(first::PUBACK, &[0, 5])),
            expected
        );
        assert_eq!(
            parsed(Version::V5, &frame(first::PUBACK, &[0, 5, 0])),
            expected
        );
        assert_eq!(
            parsed(Version::V5, &frame(first::PUBACK, &[0, 5, 0, 0])),
            expected
        );
    }
}
