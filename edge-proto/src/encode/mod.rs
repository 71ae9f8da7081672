//! Packets become bytes (§3), appended to a buffer that the caller owns.
//!
//! What is `None` or at its protocol default is not written, and 3.1.1 leaves out all that it does not know. Encoders
//! write what they are given: text or data of more than 65,535 bytes, which no packet can carry, is cut there.

mod client;
mod publish;
mod server;
mod write;

pub use client::{connect, pingreq, subscribe, unsubscribe};
pub use publish::{
    PublishHeader, PublishParts, PublishTemplate, forwarded_properties, publish, publish_parts,
    publish_parts_length, stamped_properties,
};
pub use server::{
    ack, ack_within, auth, auth_within, connack, connack_within, disconnect, disconnect_within,
    pingresp, suback, suback_within, unsuback, unsuback_within,
};

use crate::packet::{Packet, PacketType, Version};
use crate::property::id;

/// Writes any packet.
pub fn packet(out: &mut Vec<u8>, version: Version, packet: &Packet<'_>) {
    match packet {
        Packet::Connect(packet) => connect(out, packet),
        Packet::ConnAck(packet) => connack(out, version, packet),
        Packet::Publish(packet) => publish(out, version, packet),
        Packet::PubAck(packet) => ack(out, version, PacketType::PubAck, packet),
        Packet::PubRec(packet) => ack(out, version, PacketType::PubRec, packet),
        Packet::PubRel(packet) => ack(out, version, PacketType::PubRel, packet),
        Packet::PubComp(packet) => ack(out, version, PacketType::PubComp, packet),
        Packet::Subscribe(packet) => client::subscribe_packet(out, version, packet),
        Packet::SubAck(packet) => suback(out, version, packet),
        Packet::Unsubscribe(packet) => client::unsubscribe_packet(out, version, packet),
        Packet::UnsubAck(packet) => unsuback(out, version, packet),
        Packet::PingReq => pingreq(out),
        Packet::PingResp => pingresp(out),
        Packet::Disconnect(packet) => disconnect(out, version, packet),
        Packet::Auth(packet) => auth(out, packet),
    }
}

/// Writes name-value pairs as a property block that [`crate::packet::UserProperties::parse`] reads, and that may be
/// appended to the run of [`forwarded_properties`].
pub fn user_properties(out: &mut Vec<u8>, pairs: &[(&str, &str)]) {
    for (name, value) in pairs {
        out.push(id::USER_PROPERTY);
        write::str(out, name);
        write::str(out, value);
    }
}
