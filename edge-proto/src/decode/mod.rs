//! Frames become packets (§3). Everything that the specification lets a receiver check from the packet alone is checked
//! here, so the code behind sees only packets that keep the rules.
//!
//! Nothing is copied: a [`Packet`] borrows from the frame, and only CONNECT and CONNACK are boxed, for their size.

mod connect;
mod publish;
mod subscribe;

use crate::frame::Frame;
use crate::packet::{Ack, Auth, Disconnect, Packet, PacketType, UserProperties, Version};
use crate::property::{Properties, Property, check_authentication, not_allowed};
use crate::read::Reader;
use crate::reason::{ReasonCode, Violation};

pub use connect::{answer_version, connect_version, decode_connect};
pub use publish::forwarded_properties;

/// Who sent a packet: some properties and packet types are for one direction only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sender {
    /// The client; this side is a server.
    Client,
    /// The server; this side is a client.
    Server,
}

/// Decodes a packet that `sender` sent on a connection of this version.
///
/// A CONNECT is decoded as well, with the version that it names: that it comes first and only once is a rule of the
/// session.
///
/// # Errors
///
/// The first rule that the packet breaks.
pub fn decode<'a>(
    version: Version,
    sender: Sender,
    frame: Frame<'a>,
) -> Result<Packet<'a>, Violation> {
    let packet_type = frame.packet_type().ok_or(Violation::malformed(
        "MQTT5 §2.1.2",
        "the packet type 0 is reserved",
    ))?;
    check_flags(packet_type, frame.flags())?;
    check_direction(version, sender, packet_type)?;
    let reader = Reader::new(frame.body);
    match packet_type {
        PacketType::Connect => {
            decode_connect(frame).map(|connect| Packet::Connect(Box::new(connect)))
        }
        PacketType::ConnAck => {
            connect::connack(version, reader).map(|connack| Packet::ConnAck(Box::new(connack)))
        }
        PacketType::Publish => {
            publish::publish(version, sender, frame.flags(), reader).map(Packet::Publish)
        }
        PacketType::PubAck => ack(version, packet_type, reader).map(Packet::PubAck),
        PacketType::PubRec => ack(version, packet_type, reader).map(Packet::PubRec),
        PacketType::PubRel => ack(version, packet_type, reader).map(Packet::PubRel),
        PacketType::PubComp => ack(version, packet_type, reader).map(Packet::PubComp),
        PacketType::Subscribe => subscribe::subscribe(version, reader).map(Packet::Subscribe),
        PacketType::SubAck => subscribe::suback(version, reader).map(Packet::SubAck),
        PacketType::Unsubscribe => subscribe::unsubscribe(version, reader).map(Packet::Unsubscribe),
        PacketType::UnsubAck => subscribe::unsuback(version, reader).map(Packet::UnsubAck),
        PacketType::PingReq => reader.finish().map(|()| Packet::PingReq),
        PacketType::PingResp => reader.finish().map(|()| Packet::PingResp),
        PacketType::Disconnect => disconnect(version, sender, reader).map(Packet::Disconnect),
        PacketType::Auth => auth(sender, reader).map(Packet::Auth),
    }
}

/// Flags of the fixed header that are reserved have fixed values (§2.1.3). Those of PUBLISH are checked with its QoS.
fn check_flags(packet_type: PacketType, flags: u8) -> Result<(), Violation> {
    let (wanted, clause) = match packet_type {
        PacketType::Publish => return Ok(()),
        PacketType::PubRel => (0b0010, "MQTT-3.6.1-1"),
        PacketType::Subscribe => (0b0010, "MQTT-3.8.1-1"),
        PacketType::Unsubscribe => (0b0010, "MQTT-3.10.1-1"),
        PacketType::Disconnect => (0, "MQTT-3.14.1-1"),
        PacketType::Auth => (0, "MQTT-3.15.1-1"),
        _ => (0, "MQTT-2.1.3-1"),
    };
    if flags != wanted {
        return Err(Violation::malformed(
            clause,
            "a reserved flag of the fixed header has the wrong value",
        ));
    }
    Ok(())
}

/// Some packets flow one way only (Table 2-1), and AUTH is not of 3.1.1.
fn check_direction(
    version: Version,
    sender: Sender,
    packet_type: PacketType,
) -> Result<(), Violation> {
    let wrong = match packet_type {
        PacketType::Connect
        | PacketType::Subscribe
        | PacketType::Unsubscribe
        | PacketType::PingReq => Sender::Server,
        PacketType::ConnAck | PacketType::SubAck | PacketType::UnsubAck | PacketType::PingResp => {
            Sender::Client
        }
        PacketType::Disconnect if version == Version::V311 => Sender::Server,
        PacketType::Auth if version == Version::V311 => {
            return Err(Violation::malformed(
                "MQTT311 §2.2.1",
                "the packet type 15 is reserved",
            ));
        }
        _ => return Ok(()),
    };
    if sender == wrong {
        return Err(Violation::protocol(
            "MQTT5 §2.1.2",
            "a packet of this type does not flow in this direction",
        ));
    }
    Ok(())
}

/// A packet identifier, never 0.
fn packet_id(reader: &mut Reader<'_>) -> Result<u16, Violation> {
    match reader.u16()? {
        0 => Err(Violation::protocol(
            "MQTT-2.2.1-3",
            "a packet identifier is 0",
        )),
        packet_id => Ok(packet_id),
    }
}

/// A reason code that may stand in this packet.
fn reason_code(
    value: u8,
    packet_type: PacketType,
    clause: &'static str,
) -> Result<ReasonCode, Violation> {
    ReasonCode::from_u8(value)
        .filter(|reason| reason.is_valid_in(packet_type))
        .ok_or_else(|| {
            Violation::protocol(clause, "a reason code is not valid for its packet type")
        })
}

/// The property block of the packets that have nothing but a reason string and user properties.
fn diagnostics<'a>(
    reader: &mut Reader<'a>,
) -> Result<(Option<&'a str>, UserProperties<'a>), Violation> {
    let mut properties = Properties::read(reader)?;
    let mut reason_string = None;
    while let Some(property) = properties.next()? {
        match property {
            Property::ReasonString(text) => reason_string = Some(text),
            Property::User(..) => {}
            _ => return Err(not_allowed()),
        }
    }
    Ok((reason_string, properties.user_properties()))
}

fn ack<'a>(
    version: Version,
    packet_type: PacketType,
    mut reader: Reader<'a>,
) -> Result<Ack<'a>, Violation> {
    let mut ack = Ack::new(packet_id(&mut reader)?, ReasonCode::Success);
    // The reason code and the property length may be left out (§3.4.2.1, §3.4.2.2.1).
    if version == Version::V5 && !reader.is_empty() {
        let clause = match packet_type {
            PacketType::PubAck => "MQTT-3.4.2-1",
            PacketType::PubRec => "MQTT-3.5.2-1",
            PacketType::PubRel => "MQTT-3.6.2-1",
            _ => "MQTT-3.7.2-1",
        };
        ack.reason = reason_code(reader.u8()?, packet_type, clause)?;
        if !reader.is_empty() {
            (ack.reason_string, ack.user_properties) = diagnostics(&mut reader)?;
        }
    }
    reader.finish()?;
    Ok(ack)
}

fn disconnect<'a>(
    version: Version,
    sender: Sender,
    mut reader: Reader<'a>,
) -> Result<Disconnect<'a>, Violation> {
    let mut disconnect = Disconnect::new(ReasonCode::Success);
    if version == Version::V5 && !reader.is_empty() {
        disconnect.reason = reason_code(reader.u8()?, PacketType::Disconnect, "MQTT-3.14.2-1")?;
        if !reader.is_empty() {
            disconnect_properties(&mut disconnect, sender, &mut reader)?;
        }
    }
    if sender == Sender::Server && disconnect.reason == ReasonCode::DisconnectWithWill {
        return Err(Violation::protocol(
            "MQTT-3.14.2-1",
            "a server has no will message to publish",
        ));
    }
    reader.finish()?;
    Ok(disconnect)
}

fn disconnect_properties<'a>(
    disconnect: &mut Disconnect<'a>,
    sender: Sender,
    reader: &mut Reader<'a>,
) -> Result<(), Violation> {
    let mut properties = Properties::read(reader)?;
    while let Some(property) = properties.next()? {
        match property {
            Property::SessionExpiry(_) if sender == Sender::Server => {
                return Err(Violation::protocol(
                    "MQTT-3.14.2-2",
                    "a server sent a session expiry interval",
                ));
            }
            Property::ServerReference(_) if sender == Sender::Client => {
                return Err(Violation::protocol(
                    "MQTT5 §3.14.2.2.5",
                    "a client sent a server reference",
                ));
            }
            Property::SessionExpiry(seconds) => disconnect.session_expiry_s = Some(seconds),
            Property::ServerReference(text) => disconnect.server_reference = Some(text),
            Property::ReasonString(text) => disconnect.reason_string = Some(text),
            Property::User(..) => {}
            _ => return Err(not_allowed()),
        }
    }
    disconnect.user_properties = properties.user_properties();
    Ok(())
}

fn auth<'a>(sender: Sender, mut reader: Reader<'a>) -> Result<Auth<'a>, Violation> {
    let mut auth = Auth {
        reason: ReasonCode::Success,
        authentication_method: None,
        authentication_data: None,
        reason_string: None,
        user_properties: UserProperties::default(),
    };
    let has_properties = !reader.is_empty();
    if has_properties {
        auth.reason = reason_code(reader.u8()?, PacketType::Auth, "MQTT-3.15.2-1")?;
        let mut properties = Properties::read(&mut reader)?;
        while let Some(property) = properties.next()? {
            match property {
                Property::AuthenticationMethod(text) => auth.authentication_method = Some(text),
                Property::AuthenticationData(data) => auth.authentication_data = Some(data),
                Property::ReasonString(text) => auth.reason_string = Some(text),
                Property::User(..) => {}
                _ => return Err(not_allowed()),
            }
        }
        auth.user_properties = properties.user_properties();
    }
    reader.finish()?;
    let wrong = match sender {
        Sender::Client => ReasonCode::Success,
        Sender::Server => ReasonCode::ReAuthenticate,
    };
    if auth.reason == wrong {
        return Err(Violation::protocol(
            "MQTT-3.15.2-1",
            "this reason code of AUTH is for the other side",
        ));
    }
    if has_properties && auth.authentication_method.is_none() {
        return Err(Violation::protocol(
            "MQTT5 §3.15.2.2.2",
            "an AUTH without an authentication method",
        ));
    }
    check_authentication(auth.authentication_method, auth.authentication_data)?;
    Ok(auth)
}
