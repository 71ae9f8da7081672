//! CONNECT (§3.1) and CONNACK (§3.2).

use super::{publish, reason_code};
use crate::frame::Frame;
use crate::packet::{ConnAck, Connect, PacketType, PublishProperties, QoS, Version, Will};
use crate::property::{Properties, Property, check_authentication, not_allowed};
use crate::read::Reader;
use crate::reason::{ReasonCode, Violation};
use crate::topic::TopicName;

/// The version that a CONNECT asks for, `None` when its protocol name or level is not one of ours. It tells how to
/// answer a CONNECT that [`decode_connect`] refuses.
pub fn connect_version(frame: Frame<'_>) -> Option<Version> {
    let mut reader = Reader::new(frame.body);
    let name = reader.binary().ok()?;
    match (name, reader.u8().ok()?) {
        (b"MQTT", 4) => Some(Version::V311),
        (b"MQTT", 5) => Some(Version::V5),
        _ => None,
    }
}

/// The version in which to answer a CONNECT that [`decode_connect`] refuses: 3.1.1 for a protocol level below 5, whose
/// clients know no reason codes, else 5.0.
pub fn answer_version(frame: Frame<'_>) -> Version {
    let mut reader = Reader::new(frame.body);
    let level = reader.binary().and_then(|_| reader.u8());
    if level.is_ok_and(|level| level < 5) {
        Version::V311
    } else {
        Version::V5
    }
}

/// Decodes the first packet of a connection.
///
/// # Errors
///
/// The first rule that the packet breaks; Unsupported Protocol Version for a protocol name or level that is not 3.1.1
/// or 5.0; Protocol Error when the packet is no CONNECT.
pub fn decode_connect<'a>(frame: Frame<'a>) -> Result<Connect<'a>, Violation> {
    if frame.packet_type() != Some(PacketType::Connect) {
        return Err(Violation::protocol(
            "MQTT-3.1.0-1",
            "the first packet is no CONNECT",
        ));
    }
    if frame.flags() != 0 {
        return Err(Violation::malformed(
            "MQTT-2.1.3-1",
            "a reserved flag of the fixed header has the wrong value",
        ));
    }
    let mut reader = Reader::new(frame.body);
    let version = version(&mut reader)?;
    let flags = Flags::read(version, &mut reader)?;
    let mut connect = Connect::new(version, "");
    connect.clean_start = flags.clean_start;
    connect.keep_alive_s = reader.u16()?;
    if version == Version::V5 {
        connect_properties(&mut connect, &mut reader)?;
    }
    connect.client_id = reader.str()?;
    if version == Version::V311 && connect.client_id.is_empty() && !connect.clean_start {
        return Err(Violation::new(
            ReasonCode::ClientIdentifierNotValid,
            "MQTT-3.1.3-8",
            "a session that is kept needs a client identifier (3.1.1)",
        ));
    }
    if let Some((qos, retain)) = flags.will {
        connect.will = Some(will(version, qos, retain, &mut reader)?);
    }
    if flags.username {
        connect.username = Some(reader.str()?);
    }
    if flags.password {
        connect.password = Some(reader.binary()?);
    }
    reader.finish()?;
    Ok(connect)
}

fn version(reader: &mut Reader<'_>) -> Result<Version, Violation> {
    let unsupported =
        |clause, detail| Violation::new(ReasonCode::UnsupportedProtocolVersion, clause, detail);
    if reader.binary()? != b"MQTT" {
        return Err(unsupported("MQTT-3.1.2-1", "the protocol name is not MQTT"));
    }
    match reader.u8()? {
        4 => Ok(Version::V311),
        5 => Ok(Version::V5),
        _ => Err(unsupported(
            "MQTT-3.1.2-2",
            "the protocol version is neither 4 (3.1.1) nor 5 (5.0)",
        )),
    }
}

/// The connect flags (§3.1.2.3).
struct Flags {
    clean_start: bool,
    /// QoS and retain.
    will: Option<(QoS, bool)>,
    username: bool,
    password: bool,
}

impl Flags {
    fn read(version: Version, reader: &mut Reader<'_>) -> Result<Self, Violation> {
        let flags = reader.u8()?;
        if flags & 0x01 != 0 {
            return Err(Violation::malformed(
                "MQTT-3.1.2-3",
                "the reserved connect flag is set",
            ));
        }
        let retain = flags & 0x20 != 0;
        let qos = QoS::from_u8(flags >> 3 & 0b11)
            .ok_or(Violation::malformed("MQTT-3.1.2-12", "the will QoS is 3"))?;
        let will = flags & 0x04 != 0;
        if !will && qos != QoS::AtMostOnce {
            return Err(Violation::malformed(
                "MQTT-3.1.2-11",
                "a will QoS without a will",
            ));
        }
        if !will && retain {
            return Err(Violation::malformed(
                "MQTT-3.1.2-13",
                "a will retain without a will",
            ));
        }
        let username = flags & 0x80 != 0;
        let password = flags & 0x40 != 0;
        if version == Version::V311 && password && !username {
            return Err(Violation::protocol(
                "MQTT-3.1.2-22",
                "a password without a user name (3.1.1)",
            ));
        }
        Ok(Self {
            clean_start: flags & 0x02 != 0,
            will: will.then_some((qos, retain)),
            username,
            password,
        })
    }
}

fn connect_properties<'a>(
    connect: &mut Connect<'a>,
    reader: &mut Reader<'a>,
) -> Result<(), Violation> {
    let mut properties = Properties::read(reader)?;
    while let Some(property) = properties.next()? {
        match property {
            Property::SessionExpiry(seconds) => connect.session_expiry_s = Some(seconds),
            Property::ReceiveMaximum(maximum) => connect.receive_maximum = maximum,
            Property::MaximumPacketSize(maximum) => connect.maximum_packet_size = Some(maximum),
            Property::TopicAliasMaximum(maximum) => connect.topic_alias_maximum = maximum,
            Property::RequestResponseInformation(wanted) => {
                connect.request_response_information = wanted;
            }
            Property::RequestProblemInformation(wanted) => {
                connect.request_problem_information = wanted;
            }
            Property::AuthenticationMethod(text) => connect.authentication_method = Some(text),
            Property::AuthenticationData(data) => connect.authentication_data = Some(data),
            Property::User(..) => {}
            _ => return Err(not_allowed()),
        }
    }
    connect.user_properties = properties.user_properties();
    check_authentication(connect.authentication_method, connect.authentication_data)
}

fn will<'a>(
    version: Version,
    qos: QoS,
    retain: bool,
    reader: &mut Reader<'a>,
) -> Result<Will<'a>, Violation> {
    let (delay_s, properties) = match version {
        Version::V311 => (0, PublishProperties::default()),
        Version::V5 => publish::will_properties(reader)?,
    };
    let topic = TopicName::parse(reader.str()?)?.as_str();
    let payload = reader.binary()?;
    Ok(Will {
        topic,
        payload,
        qos,
        retain,
        delay_s,
        properties,
    })
}

pub(super) fn connack<'a>(
    version: Version,
    mut reader: Reader<'a>,
) -> Result<ConnAck<'a>, Violation> {
    let flags = reader.u8()?;
    if flags & 0xFE != 0 {
        return Err(Violation::malformed(
            "MQTT-3.2.2-1",
            "a reserved connect acknowledge flag is set",
        ));
    }
    let code = reader.u8()?;
    let mut connack = ConnAck {
        session_present: flags == 1,
        ..ConnAck::default()
    };
    match version {
        Version::V311 => {
            connack.reason = ReasonCode::from_connack_return_code_v311(code).ok_or(
                Violation::protocol("MQTT311 §3.2.2.3", "the connect return code is reserved"),
            )?;
        }
        Version::V5 => {
            connack.reason = reason_code(code, PacketType::ConnAck, "MQTT-3.2.2-8")?;
            connack_properties(&mut connack, &mut reader)?;
        }
    }
    if connack.session_present && connack.reason != ReasonCode::Success {
        return Err(Violation::protocol(
            "MQTT-3.2.2-6",
            "a refused connection has no session",
        ));
    }
    reader.finish()?;
    Ok(connack)
}

fn connack_properties<'a>(
    connack: &mut ConnAck<'a>,
    reader: &mut Reader<'a>,
) -> Result<(), Violation> {
    let mut properties = Properties::read(reader)?;
    while let Some(property) = properties.next()? {
        match property {
            Property::SessionExpiry(seconds) => connack.session_expiry_s = Some(seconds),
            Property::ReceiveMaximum(maximum) => connack.receive_maximum = maximum,
            Property::MaximumQoS(maximum) => connack.maximum_qos = maximum,
            Property::RetainAvailable(available) => connack.retain_available = available,
            Property::MaximumPacketSize(maximum) => connack.maximum_packet_size = Some(maximum),
            Property::AssignedClientId(text) => connack.assigned_client_id = Some(text),
            Property::TopicAliasMaximum(maximum) => connack.topic_alias_maximum = maximum,
            Property::ReasonString(text) => connack.reason_string = Some(text),
            Property::User(..) => {}
            Property::WildcardSubscriptionAvailable(available) => {
                connack.wildcard_subscription_available = available;
            }
            Property::SubscriptionIdsAvailable(available) => {
                connack.subscription_ids_available = available;
            }
            Property::SharedSubscriptionAvailable(available) => {
                connack.shared_subscription_available = available;
            }
            Property::ServerKeepAlive(seconds) => connack.server_keep_alive_s = Some(seconds),
            Property::ResponseInformation(text) => connack.response_information = Some(text),
            Property::ServerReference(text) => connack.server_reference = Some(text),
            Property::AuthenticationMethod(text) => connack.authentication_method = Some(text),
            Property::AuthenticationData(data) => connack.authentication_data = Some(data),
            _ => return Err(not_allowed()),
        }
    }
    connack.user_properties = properties.user_properties();
    check_authentication(connack.authentication_method, connack.authentication_data)
}
