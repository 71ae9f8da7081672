//! Properties (§2.2.2): read one at a time, each checked for its type, its range and its count.

use core::fmt;

use crate::packet::{QoS, SubscriptionIds, UserProperties};
use crate::read::Reader;
use crate::reason::{ReasonCode, Violation};

/// Identifiers of the properties (Table 2-4).
pub(crate) mod id {
    pub(crate) const PAYLOAD_FORMAT: u8 = 0x01;
    pub(crate) const MESSAGE_EXPIRY: u8 = 0x02;
    pub(crate) const CONTENT_TYPE: u8 = 0x03;
    pub(crate) const RESPONSE_TOPIC: u8 = 0x08;
    pub(crate) const CORRELATION_DATA: u8 = 0x09;
    pub(crate) const SUBSCRIPTION_ID: u8 = 0x0B;
    pub(crate) const SESSION_EXPIRY: u8 = 0x11;
    pub(crate) const ASSIGNED_CLIENT_ID: u8 = 0x12;
    pub(crate) const SERVER_KEEP_ALIVE: u8 = 0x13;
    pub(crate) const AUTHENTICATION_METHOD: u8 = 0x15;
    pub(crate) const AUTHENTICATION_DATA: u8 = 0x16;
    pub(crate) const REQUEST_PROBLEM_INFORMATION: u8 = 0x17;
    pub(crate) const WILL_DELAY: u8 = 0x18;
    pub(crate) const REQUEST_RESPONSE_INFORMATION: u8 = 0x19;
    pub(crate) const RESPONSE_INFORMATION: u8 = 0x1A;
    pub(crate) const SERVER_REFERENCE: u8 = 0x1C;
    pub(crate) const REASON_STRING: u8 = 0x1F;
    pub(crate) const RECEIVE_MAXIMUM: u8 = 0x21;
    pub(crate) const TOPIC_ALIAS_MAXIMUM: u8 = 0x22;
    pub(crate) const TOPIC_ALIAS: u8 = 0x23;
    pub(crate) const MAXIMUM_QOS: u8 = 0x24;
    pub(crate) const RETAIN_AVAILABLE: u8 = 0x25;
    pub(crate) const USER_PROPERTY: u8 = 0x26;
    pub(crate) const MAXIMUM_PACKET_SIZE: u8 = 0x27;
    pub(crate) const WILDCARD_SUBSCRIPTION_AVAILABLE: u8 = 0x28;
    pub(crate) const SUBSCRIPTION_IDS_AVAILABLE: u8 = 0x29;
    pub(crate) const SHARED_SUBSCRIPTION_AVAILABLE: u8 = 0x2A;
}

/// One property. A value that exists is in range. It cannot be shown: some are secrets.
#[derive(Clone, Copy)]
pub(crate) enum Property<'a> {
    PayloadFormat(bool),
    MessageExpiry(u32),
    ContentType(&'a str),
    ResponseTopic(&'a str),
    CorrelationData(&'a [u8]),
    SubscriptionId(u32),
    SessionExpiry(u32),
    AssignedClientId(&'a str),
    ServerKeepAlive(u16),
    AuthenticationMethod(&'a str),
    AuthenticationData(&'a [u8]),
    RequestProblemInformation(bool),
    WillDelay(u32),
    RequestResponseInformation(bool),
    ResponseInformation(&'a str),
    ServerReference(&'a str),
    ReasonString(&'a str),
    ReceiveMaximum(u16),
    TopicAliasMaximum(u16),
    TopicAlias(u16),
    MaximumQoS(QoS),
    RetainAvailable(bool),
    User(&'a str, &'a str),
    MaximumPacketSize(u32),
    WildcardSubscriptionAvailable(bool),
    SubscriptionIdsAvailable(bool),
    SharedSubscriptionAvailable(bool),
}

/// A property block that is being read.
pub(crate) struct Properties<'a> {
    block: &'a [u8],
    reader: Reader<'a>,
    /// Bit `1 << identifier` is set when that property was read. Identifiers end at 0x2A.
    seen: u64,
}

impl<'a> Properties<'a> {
    /// Takes a property block with its length prefix off `reader`.
    pub(crate) fn read(reader: &mut Reader<'a>) -> Result<Self, Violation> {
        let length = reader.varint()?;
        Ok(Self::new(reader.take(length as usize)?))
    }

    /// A property block without its length prefix.
    pub(crate) const fn new(block: &'a [u8]) -> Self {
        Self {
            block,
            reader: Reader::new(block),
            seen: 0,
        }
    }

    /// The next property, `None` at the end. A property that may stand only once and was here before is a protocol
    /// error; whether the packet may have it at all is the caller's to say with [`not_allowed`].
    pub(crate) fn next(&mut self) -> Result<Option<Property<'a>>, Violation> {
        if self.reader.is_empty() {
            return Ok(None);
        }
        let identifier = self.reader.u8()?;
        let property = read_value(identifier, &mut self.reader)?;
        let bit = 1u64 << identifier;
        let repeatable = matches!(identifier, id::USER_PROPERTY | id::SUBSCRIPTION_ID);
        if self.seen & bit != 0 && !repeatable {
            return Err(Violation::protocol(
                "MQTT5 §2.2.2",
                "a property that may be included once is there twice",
            ));
        }
        self.seen |= bit;
        Ok(Some(property))
    }

    fn block_with(&self, identifier: u8) -> &'a [u8] {
        if self.seen & (1 << identifier) != 0 {
            self.block
        } else {
            &[]
        }
    }

    /// The user properties, once all properties were read.
    pub(crate) fn user_properties(&self) -> UserProperties<'a> {
        UserProperties {
            block: self.block_with(id::USER_PROPERTY),
        }
    }

    /// The subscription identifiers, once all properties were read.
    pub(crate) fn subscription_ids(&self) -> SubscriptionIds<'a> {
        SubscriptionIds {
            block: self.block_with(id::SUBSCRIPTION_ID),
        }
    }
}

/// A property that exists, in a packet that may not have it.
pub(crate) const fn not_allowed() -> Violation {
    Violation::malformed(
        "MQTT5 §2.2.2.2",
        "a property is not valid for its packet type",
    )
}

/// Authentication data without an authentication method says nothing (§3.1.2.11.10, §3.2.2.3.18).
pub(crate) fn check_authentication(
    method: Option<&str>,
    data: Option<&[u8]>,
) -> Result<(), Violation> {
    if data.is_some() && method.is_none() {
        return Err(Violation::protocol(
            "MQTT5 §3.1.2.11.10",
            "authentication data without an authentication method",
        ));
    }
    Ok(())
}

fn read_value<'a>(identifier: u8, reader: &mut Reader<'a>) -> Result<Property<'a>, Violation> {
    Ok(match identifier {
        id::PAYLOAD_FORMAT => Property::PayloadFormat(boolean(reader)?),
        id::MESSAGE_EXPIRY => Property::MessageExpiry(reader.u32()?),
        id::CONTENT_TYPE => Property::ContentType(reader.str()?),
        id::RESPONSE_TOPIC => Property::ResponseTopic(response_topic(reader)?),
        id::CORRELATION_DATA => Property::CorrelationData(reader.binary()?),
        id::SUBSCRIPTION_ID => Property::SubscriptionId(non_zero(
            reader.varint()?,
            "MQTT5 §3.8.2.1.2",
            "a subscription identifier is 0",
        )?),
        id::SESSION_EXPIRY => Property::SessionExpiry(reader.u32()?),
        id::ASSIGNED_CLIENT_ID => Property::AssignedClientId(reader.str()?),
        id::SERVER_KEEP_ALIVE => Property::ServerKeepAlive(reader.u16()?),
        id::AUTHENTICATION_METHOD => Property::AuthenticationMethod(reader.str()?),
        id::AUTHENTICATION_DATA => Property::AuthenticationData(reader.binary()?),
        id::REQUEST_PROBLEM_INFORMATION => Property::RequestProblemInformation(boolean(reader)?),
        id::WILL_DELAY => Property::WillDelay(reader.u32()?),
        id::REQUEST_RESPONSE_INFORMATION => Property::RequestResponseInformation(boolean(reader)?),
        id::RESPONSE_INFORMATION => Property::ResponseInformation(reader.str()?),
        id::SERVER_REFERENCE => Property::ServerReference(reader.str()?),
        id::REASON_STRING => Property::ReasonString(reader.str()?),
        id::RECEIVE_MAXIMUM => Property::ReceiveMaximum(non_zero(
            reader.u16()?,
            "MQTT5 §3.1.2.11.3",
            "the receive maximum is 0",
        )?),
        id::TOPIC_ALIAS_MAXIMUM => Property::TopicAliasMaximum(reader.u16()?),
        id::TOPIC_ALIAS => Property::TopicAlias(match reader.u16()? {
            0 => {
                return Err(Violation::new(
                    ReasonCode::TopicAliasInvalid,
                    "MQTT-3.3.2-8",
                    "a topic alias is 0",
                ));
            }
            alias => alias,
        }),
        id::MAXIMUM_QOS => Property::MaximumQoS(match reader.u8()? {
            0 => QoS::AtMostOnce,
            1 => QoS::AtLeastOnce,
            _ => {
                return Err(Violation::protocol(
                    "MQTT5 §3.2.2.3.4",
                    "the maximum QoS is neither 0 nor 1",
                ));
            }
        }),
        id::RETAIN_AVAILABLE => Property::RetainAvailable(boolean(reader)?),
        id::USER_PROPERTY => Property::User(reader.str()?, reader.str()?),
        id::MAXIMUM_PACKET_SIZE => Property::MaximumPacketSize(non_zero(
            reader.u32()?,
            "MQTT5 §3.1.2.11.4",
            "the maximum packet size is 0",
        )?),
        id::WILDCARD_SUBSCRIPTION_AVAILABLE => {
            Property::WildcardSubscriptionAvailable(boolean(reader)?)
        }
        id::SUBSCRIPTION_IDS_AVAILABLE => Property::SubscriptionIdsAvailable(boolean(reader)?),
        id::SHARED_SUBSCRIPTION_AVAILABLE => {
            Property::SharedSubscriptionAvailable(boolean(reader)?)
        }
        _ => {
            return Err(Violation::malformed(
                "MQTT5 §2.2.2.2",
                "a property identifier is not known",
            ));
        }
    })
}

fn boolean(reader: &mut Reader<'_>) -> Result<bool, Violation> {
    match reader.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Violation::protocol(
            "MQTT5 §2.2.2.2",
            "a property that is 0 or 1 has another value",
        )),
    }
}

fn non_zero<N: Default + PartialEq>(
    value: N,
    clause: &'static str,
    detail: &'static str,
) -> Result<N, Violation> {
    if value == N::default() {
        return Err(Violation::protocol(clause, detail));
    }
    Ok(value)
}

fn response_topic<'a>(reader: &mut Reader<'a>) -> Result<&'a str, Violation> {
    let topic = reader.str()?;
    if topic.is_empty() {
        return Err(Violation::protocol(
            "MQTT-4.7.3-1",
            "the response topic is empty",
        ));
    }
    if topic.contains(['+', '#']) {
        return Err(Violation::protocol(
            "MQTT-3.3.2-14",
            "the response topic contains a wildcard",
        ));
    }
    Ok(topic)
}

/// Walks a validated block. It ends early where a block is not valid, which cannot be.
fn walk(block: &[u8]) -> impl Iterator<Item = Property<'_>> + Clone {
    let mut reader = Reader::new(block);
    core::iter::from_fn(move || {
        let identifier = reader.u8().ok()?;
        read_value(identifier, &mut reader).ok()
    })
}

impl<'a> UserProperties<'a> {
    /// The name-value pairs, in order. A name may come up more than once.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, &'a str)> + Clone + use<'a> {
        walk(self.block).filter_map(|property| match property {
            Property::User(name, value) => Some((name, value)),
            _ => None,
        })
    }

    /// The value of the first pair with this name.
    pub fn first(&self, name: &str) -> Option<&'a str> {
        self.iter().find(|pair| pair.0 == name).map(|pair| pair.1)
    }

    /// True when there is no pair.
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    /// Reads a block that holds nothing but user properties, as [`crate::encode::user_properties`] makes it.
    ///
    /// # Errors
    ///
    /// A violation when the block is not well formed or holds any other property.
    pub fn parse(block: &'a [u8]) -> Result<Self, Violation> {
        let mut properties = Properties::new(block);
        while let Some(property) = properties.next()? {
            if !matches!(property, Property::User(..)) {
                return Err(not_allowed());
            }
        }
        Ok(properties.user_properties())
    }
}

impl PartialEq for UserProperties<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for UserProperties<'_> {}

impl<'a> SubscriptionIds<'a> {
    /// The subscription identifiers, in order; each is 1 to 268,435,455.
    pub fn iter(&self) -> impl Iterator<Item = u32> + Clone + use<'a> {
        walk(self.block).filter_map(|property| match property {
            Property::SubscriptionId(id) => Some(id),
            _ => None,
        })
    }

    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }
}

impl fmt::Debug for SubscriptionIds<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_list().entries(self.iter()).finish()
    }
}

impl PartialEq for SubscriptionIds<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for SubscriptionIds<'_> {}
