//! What only a client sends: CONNECT, SUBSCRIBE, UNSUBSCRIBE and PINGREQ.

use super::{publish, write};
use crate::packet::{
    Connect, PacketType, Subscribe, SubscriptionOptions, Unsubscribe, UserProperties, Version, Will,
};
use crate::property::id;

/// Writes a CONNECT (§3.1) of `connect.version`.
pub fn connect(out: &mut Vec<u8>, connect: &Connect<'_>) {
    out.push(write::first_byte(PacketType::Connect, 0));
    write::with_length(out, |out| {
        write::binary(out, b"MQTT");
        out.push(match connect.version {
            Version::V311 => 4,
            Version::V5 => 5,
        });
        out.push(connect_flags(connect));
        write::u16(out, connect.keep_alive_s);
        if connect.version == Version::V5 {
            write::with_length(out, |out| connect_properties(out, connect));
        }
        write::str(out, connect.client_id);
        if let Some(will) = &connect.will {
            if connect.version == Version::V5 {
                write::with_length(out, |out| will_properties(out, will));
            }
            write::str(out, will.topic);
            write::binary(out, will.payload);
        }
        if let Some(username) = connect.username {
            write::str(out, username);
        }
        if let Some(password) = connect.password {
            write::binary(out, password);
        }
    });
}

fn connect_flags(connect: &Connect<'_>) -> u8 {
    let will = match &connect.will {
        None => 0,
        Some(will) => 0x04 | (will.qos as u8) << 3 | u8::from(will.retain) << 5,
    };
    u8::from(connect.clean_start) << 1
        | will
        | u8::from(connect.password.is_some()) << 6
        | u8::from(connect.username.is_some()) << 7
}

fn connect_properties(out: &mut Vec<u8>, connect: &Connect<'_>) {
    write::property_u32(out, id::SESSION_EXPIRY, connect.session_expiry_s);
    write::property_u16(
        out,
        id::RECEIVE_MAXIMUM,
        Some(connect.receive_maximum).filter(|&maximum| maximum != u16::MAX),
    );
    write::property_u32(out, id::MAXIMUM_PACKET_SIZE, connect.maximum_packet_size);
    write::property_u16(
        out,
        id::TOPIC_ALIAS_MAXIMUM,
        Some(connect.topic_alias_maximum).filter(|&maximum| maximum != 0),
    );
    if connect.request_response_information {
        write::property_u8(out, id::REQUEST_RESPONSE_INFORMATION, 1);
    }
    if !connect.request_problem_information {
        write::property_u8(out, id::REQUEST_PROBLEM_INFORMATION, 0);
    }
    write::property_str(
        out,
        id::AUTHENTICATION_METHOD,
        connect.authentication_method,
    );
    write::property_binary(out, id::AUTHENTICATION_DATA, connect.authentication_data);
    write::properties_user(out, connect.user_properties);
}

fn will_properties(out: &mut Vec<u8>, will: &Will<'_>) {
    write::property_u32(
        out,
        id::WILL_DELAY,
        Some(will.delay_s).filter(|&delay_s| delay_s != 0),
    );
    write::property_u32(out, id::MESSAGE_EXPIRY, will.properties.message_expiry_s);
    publish::forwarded_properties(out, &will.properties);
}

/// Writes a SUBSCRIBE (§3.8). In 3.1.1 only the QoS of the options is written.
pub fn subscribe(
    out: &mut Vec<u8>,
    version: Version,
    packet_id: u16,
    subscription_id: Option<u32>,
    filters: &[(&str, SubscriptionOptions)],
) {
    subscribe_with(
        out,
        version,
        packet_id,
        subscription_id,
        UserProperties::default(),
        filters.iter().copied(),
    );
}

pub(super) fn subscribe_packet(out: &mut Vec<u8>, version: Version, packet: &Subscribe<'_>) {
    let filters = packet.filters.iter();
    subscribe_with(
        out,
        version,
        packet.packet_id,
        packet.subscription_id,
        packet.user_properties,
        filters,
    );
}

fn subscribe_with<'f>(
    out: &mut Vec<u8>,
    version: Version,
    packet_id: u16,
    subscription_id: Option<u32>,
    user_properties: UserProperties<'_>,
    filters: impl Iterator<Item = (&'f str, SubscriptionOptions)>,
) {
    out.push(write::first_byte(PacketType::Subscribe, 0b0010));
    write::with_length(out, |out| {
        write::u16(out, packet_id);
        if version == Version::V5 {
            write::with_length(out, |out| {
                if let Some(subscription_id) = subscription_id {
                    out.push(id::SUBSCRIPTION_ID);
                    write::varint(out, subscription_id as usize);
                }
                write::properties_user(out, user_properties);
            });
        }
        for (filter, options) in filters {
            write::str(out, filter);
            out.push(match version {
                Version::V311 => options.maximum_qos as u8,
                Version::V5 => options.to_u8(),
            });
        }
    });
}

/// Writes an UNSUBSCRIBE (§3.10).
pub fn unsubscribe(out: &mut Vec<u8>, version: Version, packet_id: u16, filters: &[&str]) {
    unsubscribe_with(
        out,
        version,
        packet_id,
        UserProperties::default(),
        filters.iter().copied(),
    );
}

pub(super) fn unsubscribe_packet(out: &mut Vec<u8>, version: Version, packet: &Unsubscribe<'_>) {
    unsubscribe_with(
        out,
        version,
        packet.packet_id,
        packet.user_properties,
        packet.filters.iter(),
    );
}

fn unsubscribe_with<'f>(
    out: &mut Vec<u8>,
    version: Version,
    packet_id: u16,
    user_properties: UserProperties<'_>,
    filters: impl Iterator<Item = &'f str>,
) {
    out.push(write::first_byte(PacketType::Unsubscribe, 0b0010));
    write::with_length(out, |out| {
        write::u16(out, packet_id);
        if version == Version::V5 {
            write::with_length(out, |out| write::properties_user(out, user_properties));
        }
        for filter in filters {
            write::str(out, filter);
        }
    });
}

/// Writes a PINGREQ (§3.12).
pub fn pingreq(out: &mut Vec<u8>) {
    out.extend_from_slice(&[write::first_byte(PacketType::PingReq, 0), 0]);
}
