//! Answers and endings: CONNACK, the acknowledgements, PINGRESP, DISCONNECT and AUTH.
//!
//! The `_within` forms keep to the receiver's Maximum Packet Size: they leave out first the user properties and then
//! the reason string, as the specification asks (MQTT-3.2.2-19, -20, MQTT-3.4.2-2, -3, MQTT-3.14.2-3, -4 and their
//! like), and write nothing and return false when even that is too long.

use super::write;
use crate::packet::{
    Ack, Auth, ConnAck, Disconnect, PacketType, QoS, SubAck, UserProperties, Version,
};
use crate::property::id;
use crate::reason::ReasonCode;

/// Writes a CONNACK (§3.2). In 3.1.1 the reason code becomes the return code that says it best.
pub fn connack(out: &mut Vec<u8>, version: Version, connack: &ConnAck<'_>) {
    out.push(write::first_byte(PacketType::ConnAck, 0));
    write::with_length(out, |out| {
        out.push(u8::from(connack.session_present));
        match version {
            Version::V311 => out.push(connack.reason.connack_return_code_v311()),
            Version::V5 => {
                out.push(connack.reason as u8);
                write::with_length(out, |out| connack_properties(out, connack));
            }
        }
    });
}

fn connack_properties(out: &mut Vec<u8>, connack: &ConnAck<'_>) {
    write::property_u32(out, id::SESSION_EXPIRY, connack.session_expiry_s);
    write::property_u16(
        out,
        id::RECEIVE_MAXIMUM,
        Some(connack.receive_maximum).filter(|&maximum| maximum != u16::MAX),
    );
    if connack.maximum_qos != QoS::ExactlyOnce {
        write::property_u8(out, id::MAXIMUM_QOS, connack.maximum_qos as u8);
    }
    if !connack.retain_available {
        write::property_u8(out, id::RETAIN_AVAILABLE, 0);
    }
    write::property_u32(out, id::MAXIMUM_PACKET_SIZE, connack.maximum_packet_size);
    write::property_str(out, id::ASSIGNED_CLIENT_ID, connack.assigned_client_id);
    write::property_u16(
        out,
        id::TOPIC_ALIAS_MAXIMUM,
        Some(connack.topic_alias_maximum).filter(|&maximum| maximum != 0),
    );
    for (id, available) in [
        (
            id::WILDCARD_SUBSCRIPTION_AVAILABLE,
            connack.wildcard_subscription_available,
        ),
        (
            id::SUBSCRIPTION_IDS_AVAILABLE,
            connack.subscription_ids_available,
        ),
        (
            id::SHARED_SUBSCRIPTION_AVAILABLE,
            connack.shared_subscription_available,
        ),
    ] {
        if !available {
            write::property_u8(out, id, 0);
        }
    }
    write::property_u16(out, id::SERVER_KEEP_ALIVE, connack.server_keep_alive_s);
    write::property_str(out, id::RESPONSE_INFORMATION, connack.response_information);
    write::property_str(out, id::SERVER_REFERENCE, connack.server_reference);
    write::property_str(
        out,
        id::AUTHENTICATION_METHOD,
        connack.authentication_method,
    );
    write::property_binary(out, id::AUTHENTICATION_DATA, connack.authentication_data);
    diagnostics(out, connack.reason_string, connack.user_properties);
}

fn diagnostics(
    out: &mut Vec<u8>,
    reason_string: Option<&str>,
    user_properties: UserProperties<'_>,
) {
    write::property_str(out, id::REASON_STRING, reason_string);
    write::properties_user(out, user_properties);
}

/// Writes a PUBACK, PUBREC, PUBREL or PUBCOMP (§3.4 to §3.7) in its shortest form. In 3.1.1 only the packet identifier.
///
/// # Panics
///
/// When `packet_type` is none of the four.
pub fn ack(out: &mut Vec<u8>, version: Version, packet_type: PacketType, ack: &Ack<'_>) {
    let flags = match packet_type {
        PacketType::PubAck | PacketType::PubRec | PacketType::PubComp => 0,
        PacketType::PubRel => 0b0010,
        other => panic!("{other:?} is no acknowledgement"),
    };
    let first_byte = write::first_byte(packet_type, flags);
    let [high, low] = ack.packet_id.to_be_bytes();
    let plain = ack.reason_string.is_none() && ack.user_properties.is_empty();
    if version == Version::V311 || (plain && ack.reason == ReasonCode::Success) {
        out.extend_from_slice(&[first_byte, 2, high, low]);
    } else if plain {
        out.extend_from_slice(&[first_byte, 3, high, low, ack.reason as u8]);
    } else {
        out.push(first_byte);
        write::with_length(out, |out| {
            out.extend_from_slice(&[high, low, ack.reason as u8]);
            write::with_length(out, |out| {
                diagnostics(out, ack.reason_string, ack.user_properties);
            });
        });
    }
}

/// Writes a SUBACK (§3.9). In 3.1.1 every reason code of an error becomes 0x80.
pub fn suback(out: &mut Vec<u8>, version: Version, suback: &SubAck<'_>) {
    out.push(write::first_byte(PacketType::SubAck, 0));
    write::with_length(out, |out| {
        write::u16(out, suback.packet_id);
        match version {
            Version::V311 => out.extend(suback.reasons.iter().map(|&reason| reason.min(0x80))),
            Version::V5 => {
                write::with_length(out, |out| {
                    diagnostics(out, suback.reason_string, suback.user_properties);
                });
                out.extend_from_slice(suback.reasons);
            }
        }
    });
}

/// Writes an UNSUBACK (§3.11). In 3.1.1 only the packet identifier.
pub fn unsuback(out: &mut Vec<u8>, version: Version, unsuback: &SubAck<'_>) {
    out.push(write::first_byte(PacketType::UnsubAck, 0));
    write::with_length(out, |out| {
        write::u16(out, unsuback.packet_id);
        if version == Version::V5 {
            write::with_length(out, |out| {
                diagnostics(out, unsuback.reason_string, unsuback.user_properties);
            });
            out.extend_from_slice(unsuback.reasons);
        }
    });
}

/// Writes a PINGRESP (§3.13).
pub fn pingresp(out: &mut Vec<u8>) {
    out.extend_from_slice(&[write::first_byte(PacketType::PingResp, 0), 0]);
}

/// Writes a DISCONNECT (§3.14) in its shortest form. In 3.1.1 it has no body, and only a client sends it.
pub fn disconnect(out: &mut Vec<u8>, version: Version, disconnect: &Disconnect<'_>) {
    let plain = disconnect.session_expiry_s.is_none()
        && disconnect.reason_string.is_none()
        && disconnect.user_properties.is_empty()
        && disconnect.server_reference.is_none();
    let first_byte = write::first_byte(PacketType::Disconnect, 0);
    if version == Version::V311 || (plain && disconnect.reason == ReasonCode::Success) {
        out.extend_from_slice(&[first_byte, 0]);
    } else if plain {
        out.extend_from_slice(&[first_byte, 1, disconnect.reason as u8]);
    } else {
        out.push(first_byte);
        write::with_length(out, |out| {
            out.push(disconnect.reason as u8);
            write::with_length(out, |out| {
                write::property_u32(out, id::SESSION_EXPIRY, disconnect.session_expiry_s);
                write::property_str(out, id::SERVER_REFERENCE, disconnect.server_reference);
                diagnostics(out, disconnect.reason_string, disconnect.user_properties);
            });
        });
    }
}

/// Writes an AUTH (§3.15), which is of 5.0 only.
pub fn auth(out: &mut Vec<u8>, auth: &Auth<'_>) {
    let plain = auth.authentication_method.is_none()
        && auth.authentication_data.is_none()
        && auth.reason_string.is_none()
        && auth.user_properties.is_empty();
    let first_byte = write::first_byte(PacketType::Auth, 0);
    if plain && auth.reason == ReasonCode::Success {
        out.extend_from_slice(&[first_byte, 0]);
        return;
    }
    out.push(first_byte);
    write::with_length(out, |out| {
        out.push(auth.reason as u8);
        write::with_length(out, |out| {
            write::property_str(out, id::AUTHENTICATION_METHOD, auth.authentication_method);
            write::property_binary(out, id::AUTHENTICATION_DATA, auth.authentication_data);
            diagnostics(out, auth.reason_string, auth.user_properties);
        });
    });
}

/// [`connack`] within a Maximum Packet Size.
pub fn connack_within(
    out: &mut Vec<u8>,
    version: Version,
    packet: &ConnAck<'_>,
    maximum_packet_size: u32,
) -> bool {
    within(out, maximum_packet_size, packet, |out, packet| {
        connack(out, version, packet);
    })
}

/// [`ack`] within a Maximum Packet Size.
///
/// # Panics
///
/// When `packet_type` is none of PUBACK, PUBREC, PUBREL and PUBCOMP.
pub fn ack_within(
    out: &mut Vec<u8>,
    version: Version,
    packet_type: PacketType,
    packet: &Ack<'_>,
    maximum_packet_size: u32,
) -> bool {
    within(out, maximum_packet_size, packet, |out, packet| {
        ack(out, version, packet_type, packet);
    })
}

/// [`suback`] within a Maximum Packet Size.
pub fn suback_within(
    out: &mut Vec<u8>,
    version: Version,
    packet: &SubAck<'_>,
    maximum_packet_size: u32,
) -> bool {
    within(out, maximum_packet_size, packet, |out, packet| {
        suback(out, version, packet);
    })
}

/// [`unsuback`] within a Maximum Packet Size.
pub fn unsuback_within(
    out: &mut Vec<u8>,
    version: Version,
    packet: &SubAck<'_>,
    maximum_packet_size: u32,
) -> bool {
    within(out, maximum_packet_size, packet, |out, packet| {
        unsuback(out, version, packet);
    })
}

/// [`disconnect`] within a Maximum Packet Size.
pub fn disconnect_within(
    out: &mut Vec<u8>,
    version: Version,
    packet: &Disconnect<'_>,
    maximum_packet_size: u32,
) -> bool {
    within(out, maximum_packet_size, packet, |out, packet| {
        disconnect(out, version, packet);
    })
}

/// [`auth`] within a Maximum Packet Size.
pub fn auth_within(out: &mut Vec<u8>, packet: &Auth<'_>, maximum_packet_size: u32) -> bool {
    within(out, maximum_packet_size, packet, auth)
}

fn within<P: Diagnostics>(
    out: &mut Vec<u8>,
    maximum_packet_size: u32,
    packet: &P,
    write: impl Fn(&mut Vec<u8>, &P),
) -> bool {
    let start = out.len();
    let fits = |out: &mut Vec<u8>, packet: &P| {
        out.truncate(start);
        write(out, packet);
        out.len() - start <= maximum_packet_size as usize
    };
    if fits(out, packet) {
        return true;
    }
    let mut packet = packet.clone();
    packet.leave_out_user_properties();
    if fits(out, &packet) {
        return true;
    }
    packet.leave_out_reason_string();
    if fits(out, &packet) {
        return true;
    }
    out.truncate(start);
    false
}

/// A packet with a reason string and user properties that may be left out.
trait Diagnostics: Clone {
    fn leave_out_user_properties(&mut self);
    fn leave_out_reason_string(&mut self);
}

macro_rules! diagnostics {
    ($($packet:ident)*) => {$(
        impl Diagnostics for $packet<'_> {
            fn leave_out_user_properties(&mut self) {
                self.user_properties = UserProperties::default();
            }

            fn leave_out_reason_string(&mut self) {
                self.reason_string = None;
            }
        }
    )*};
}

diagnostics!(ConnAck Ack SubAck Disconnect Auth);
