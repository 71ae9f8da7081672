//! SUBSCRIBE (§3.8), SUBACK (§3.9), UNSUBSCRIBE (§3.10) and UNSUBACK (§3.11).

use super::{diagnostics, packet_id, reason_code};
use crate::packet::{
    PacketType, QoS, RetainHandling, SubAck, Subscribe, SubscribeFilters, SubscriptionOptions,
    Unsubscribe, UnsubscribeFilters, UserProperties, Version,
};
use crate::property::{Properties, Property, not_allowed};
use crate::read::Reader;
use crate::reason::Violation;
use crate::topic::{SharedFilter, TopicFilter};

pub(super) fn subscribe<'a>(
    version: Version,
    mut reader: Reader<'a>,
) -> Result<Subscribe<'a>, Violation> {
    let packet_id = packet_id(&mut reader)?;
    let mut subscription_id = None;
    let mut user_properties = UserProperties::default();
    if version == Version::V5 {
        let mut properties = Properties::read(&mut reader)?;
        while let Some(property) = properties.next()? {
            match property {
                Property::SubscriptionId(_) if subscription_id.is_some() => {
                    return Err(Violation::protocol(
                        "MQTT5 §3.8.2.1.2",
                        "more than one subscription identifier",
                    ));
                }
                Property::SubscriptionId(id) => subscription_id = Some(id),
                Property::User(..) => {}
                _ => return Err(not_allowed()),
            }
        }
        user_properties = properties.user_properties();
    }
    let filters = SubscribeFilters {
        version,
        bytes: reader.rest(),
    };
    if reader.is_empty() {
        return Err(Violation::protocol(
            "MQTT-3.8.3-2",
            "a SUBSCRIBE without a topic filter",
        ));
    }
    while !reader.is_empty() {
        let filter = reader.str()?;
        let options = options(version, reader.u8()?)?;
        if is_shared(filter)? && options.no_local {
            return Err(Violation::protocol(
                "MQTT-3.8.3-4",
                "No Local is set on a shared subscription",
            ));
        }
    }
    Ok(Subscribe {
        packet_id,
        subscription_id,
        user_properties,
        filters,
    })
}

/// Checks a filter of a SUBSCRIBE or UNSUBSCRIBE and tells whether it is a shared one.
fn is_shared(filter: &str) -> Result<bool, Violation> {
    if SharedFilter::parse(filter)?.is_some() {
        return Ok(true);
    }
    TopicFilter::parse(filter)?;
    Ok(false)
}

fn options(version: Version, byte: u8) -> Result<SubscriptionOptions, Violation> {
    let reserved = match version {
        Version::V311 => 0b1111_1100,
        Version::V5 => 0b1100_0000,
    };
    if byte & reserved != 0 {
        return Err(Violation::malformed(
            "MQTT-3.8.3-5",
            "a reserved bit of the subscription options is set",
        ));
    }
    let maximum_qos = QoS::from_u8(byte & 0b11).ok_or(Violation::protocol(
        "MQTT5 §3.8.3.1",
        "the maximum QoS of a subscription is 3",
    ))?;
    let retain_handling = RetainHandling::from_u8(byte >> 4 & 0b11).ok_or(Violation::protocol(
        "MQTT5 §3.8.3.1",
        "the retain handling of a subscription is 3",
    ))?;
    Ok(SubscriptionOptions {
        maximum_qos,
        no_local: byte & 0b0100 != 0,
        retain_as_published: byte & 0b1000 != 0,
        retain_handling,
    })
}

pub(super) fn unsubscribe<'a>(
    version: Version,
    mut reader: Reader<'a>,
) -> Result<Unsubscribe<'a>, Violation> {
    let packet_id = packet_id(&mut reader)?;
    let mut user_properties = UserProperties::default();
    if version == Version::V5 {
        let mut properties = Properties::read(&mut reader)?;
        while let Some(property) = properties.next()? {
            if !matches!(property, Property::User(..)) {
                return Err(not_allowed());
            }
        }
        user_properties = properties.user_properties();
    }
    let filters = UnsubscribeFilters {
        bytes: reader.rest(),
    };
    if reader.is_empty() {
        return Err(Violation::protocol(
            "MQTT-3.10.3-2",
            "an UNSUBSCRIBE without a topic filter",
        ));
    }
    while !reader.is_empty() {
        is_shared(reader.str()?)?;
    }
    Ok(Unsubscribe {
        packet_id,
        user_properties,
        filters,
    })
}

pub(super) fn suback<'a>(
    version: Version,
    mut reader: Reader<'a>,
) -> Result<SubAck<'a>, Violation> {
    let packet_id = packet_id(&mut reader)?;
    let (reason_string, user_properties) = match version {
        Version::V311 => (None, UserProperties::default()),
        Version::V5 => diagnostics(&mut reader)?,
    };
    let reasons = reader.rest();
    if reasons.is_empty() {
        return Err(Violation::protocol(
            "MQTT-3.8.4-6",
            "a SUBACK without a reason code",
        ));
    }
    for &reason in reasons {
        reason_code(reason, PacketType::SubAck, "MQTT-3.9.3-2")?;
        if version == Version::V311 && !matches!(reason, 0..=2 | 0x80) {
            return Err(Violation::protocol(
                "MQTT311 §3.9.3",
                "a SUBACK return code is reserved (3.1.1)",
            ));
        }
    }
    Ok(SubAck {
        packet_id,
        reason_string,
        user_properties,
        reasons,
    })
}

pub(super) fn unsuback<'a>(
    version: Version,
    mut reader: Reader<'a>,
) -> Result<SubAck<'a>, Violation> {
    let packet_id = packet_id(&mut reader)?;
    if version == Version::V311 {
        reader.finish()?;
        return Ok(SubAck {
            packet_id,
            reason_string: None,
            user_properties: UserProperties::default(),
            reasons: &[],
        });
    }
    let (reason_string, user_properties) = diagnostics(&mut reader)?;
    let reasons = reader.rest();
    if reasons.is_empty() {
        return Err(Violation::protocol(
            "MQTT-3.11.3-1",
            "an UNSUBACK without a reason code",
        ));
    }
    for &reason in reasons {
        reason_code(reason, PacketType::UnsubAck, "MQTT-3.11.3-2")?;
    }
    Ok(SubAck {
        packet_id,
        reason_string,
        user_properties,
        reasons,
    })
}

impl<'a> SubscribeFilters<'a> {
    /// The topic filters and their options, in order. A filter that starts with `$share/` is a valid
    /// [`SharedFilter`], any other a valid [`TopicFilter`].
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, SubscriptionOptions)> + Clone + use<'a> {
        let mut reader = Reader::new(self.bytes);
        let version = self.version;
        core::iter::from_fn(move || {
            Some((
                reader.str().ok()?,
                options(version, reader.u8().ok()?).ok()?,
            ))
        })
    }
}

impl<'a> UnsubscribeFilters<'a> {
    /// The topic filters, in order, each as valid as those of a SUBSCRIBE.
    pub fn iter(&self) -> impl Iterator<Item = &'a str> + Clone + use<'a> {
        let mut reader = Reader::new(self.bytes);
        core::iter::from_fn(move || reader.str().ok())
    }
}
