//! PUBLISH (§3.3), and the property blocks that describe an application message.

use super::{Sender, packet_id};
use crate::packet::{Publish, PublishProperties, QoS, Version};
use crate::property::{Properties, Property, not_allowed};
use crate::read::Reader;
use crate::reason::{ReasonCode, Violation};

pub(super) fn publish<'a>(
    version: Version,
    sender: Sender,
    flags: u8,
    mut reader: Reader<'a>,
) -> Result<Publish<'a>, Violation> {
    let qos = QoS::from_u8(flags >> 1 & 0b11).ok_or(Violation::malformed(
        "MQTT-3.3.1-4",
        "both QoS bits are set",
    ))?;
    let dup = flags & 0b1000 != 0;
    if dup && qos == QoS::AtMostOnce {
        return Err(Violation::malformed(
            "MQTT-3.3.1-2",
            "the DUP flag is set on a QoS 0 message",
        ));
    }
    let topic = reader.str()?;
    if topic.bytes().any(|byte| matches!(byte, b'+' | b'#')) {
        return Err(Violation::new(
            ReasonCode::TopicNameInvalid,
            "MQTT-3.3.2-2",
            "the topic name contains a wildcard",
        ));
    }
    let packet_id = if qos == QoS::AtMostOnce {
        None
    } else {
        Some(packet_id(&mut reader)?)
    };
    let properties = match version {
        Version::V311 => PublishProperties::default(),
        Version::V5 => publish_properties(sender, &mut reader)?,
    };
    if topic.is_empty() && properties.topic_alias.is_none() {
        return Err(match version {
            Version::V5 => Violation::protocol(
                "MQTT5 §3.3.2.1",
                "the topic name is empty and there is no topic alias",
            ),
            Version::V311 => Violation::new(
                ReasonCode::TopicNameInvalid,
                "MQTT-4.7.3-1",
                "the topic name is empty",
            ),
        });
    }
    let retain = flags & 0b0001 != 0;
    Ok(Publish {
        dup,
        qos,
        retain,
        topic,
        packet_id,
        properties,
        payload: reader.rest(),
    })
}

fn publish_properties<'a>(
    sender: Sender,
    reader: &mut Reader<'a>,
) -> Result<PublishProperties<'a>, Violation> {
    let mut block = Properties::read(reader)?;
    let mut properties = PublishProperties::default();
    while let Some(property) = block.next()? {
        match property {
            Property::MessageExpiry(seconds) => properties.message_expiry_s = Some(seconds),
            Property::TopicAlias(alias) => properties.topic_alias = Some(alias),
            Property::SubscriptionId(_) if sender == Sender::Client => {
                return Err(Violation::protocol(
                    "MQTT-3.3.4-6",
                    "a client sent a subscription identifier",
                ));
            }
            Property::SubscriptionId(_) => {}
            other => forwarded_property(&mut properties, other)?,
        }
    }
    properties.subscription_ids = block.subscription_ids();
    properties.user_properties = block.user_properties();
    Ok(properties)
}

/// Will delay interval in seconds, and the properties of the message to publish (§3.1.3.2).
pub(super) fn will_properties<'a>(
    reader: &mut Reader<'a>,
) -> Result<(u32, PublishProperties<'a>), Violation> {
    let mut block = Properties::read(reader)?;
    let mut properties = PublishProperties::default();
    let mut delay_s = 0;
    while let Some(property) = block.next()? {
        match property {
            Property::WillDelay(seconds) => delay_s = seconds,
            Property::MessageExpiry(seconds) => properties.message_expiry_s = Some(seconds),
            other => forwarded_property(&mut properties, other)?,
        }
    }
    properties.user_properties = block.user_properties();
    Ok((delay_s, properties))
}

/// Reads back a run of properties that [`crate::encode::forwarded_properties`] wrote.
///
/// # Errors
///
/// A violation when the run is not well formed or holds a property that a server does not forward unaltered.
pub fn forwarded_properties(run: &[u8]) -> Result<PublishProperties<'_>, Violation> {
    let mut block = Properties::new(run);
    let mut properties = PublishProperties::default();
    while let Some(property) = block.next()? {
        forwarded_property(&mut properties, property)?;
    }
    properties.user_properties = block.user_properties();
    Ok(properties)
}

/// The properties that a server sends on to subscribers unaltered (MQTT-3.3.2-4, -15, -16, -17, -20).
fn forwarded_property<'a>(
    properties: &mut PublishProperties<'a>,
    property: Property<'a>,
) -> Result<(), Violation> {
    match property {
        Property::PayloadFormat(is_utf8) => properties.payload_is_utf8 = Some(is_utf8),
        Property::ContentType(text) => properties.content_type = Some(text),
        Property::ResponseTopic(topic) => properties.response_topic = Some(topic),
        Property::CorrelationData(data) => properties.correlation_data = Some(data),
        Property::User(..) => {}
        _ => return Err(not_allowed()),
    }
    Ok(())
}
