//! Each rule that a packet can break by itself: the bytes, and the clause and reason code they get.

mod packets;

use edge_proto::decode::{Sender, connect_version, decode, decode_connect};
use edge_proto::frame::{Frame, next_frame};
use edge_proto::packet::Version;
use edge_proto::reason::ReasonCode;

use ReasonCode::{
    ClientIdentifierNotValid as BadClientId, MalformedPacket as Malformed,
    ProtocolError as Protocol, TopicAliasInvalid, TopicFilterInvalid, TopicNameInvalid,
    UnsupportedProtocolVersion as BadVersion,
};
use Sender::{Client, Server};
use Version::{V5, V311};

/// A packet with this first byte and body.
fn packet(first_byte: u8, body: &[u8]) -> Vec<u8> {
    assert!(body.len() < 128);
    let mut bytes = vec![first_byte, body.len() as u8];
    bytes.extend_from_slice(body);
    bytes
}

fn frame(bytes: &[u8]) -> Frame<'_> {
    next_frame(bytes, 1000).unwrap().unwrap()
}

#[track_caller]
fn refused(
    version: Version,
    sender: Sender,
    first_byte: u8,
    body: &[u8],
    reason: ReasonCode,
    clause: &str,
) {
    let bytes = packet(first_byte, body);
    let violation = decode(version, sender, frame(&bytes)).expect_err("the packet breaks a rule");
    assert_eq!(
        (violation.reason, violation.clause),
        (reason, clause),
        "{violation}"
    );
}

#[track_caller]
fn accepted(version: Version, sender: Sender, first_byte: u8, body: &[u8]) {
    let bytes = packet(first_byte, body);
    decode(version, sender, frame(&bytes)).unwrap();
}

/// The body of a CONNECT with client id `c`.
fn connect(level: u8, flags: u8, properties: &[u8], rest: &[u8]) -> Vec<u8> {
    let mut body = vec![0, 4, b'M', b'Q', b'T', b'T', level, flags, 0, 60];
    if level == 5 {
        body.push(properties.len() as u8);
        body.extend_from_slice(properties);
    }
    body.extend_from_slice(&[0, 1, b'c']);
    body.extend_from_slice(rest);
    body
}

#[track_caller]
fn connect_refused(body: &[u8], reason: ReasonCode, clause: &str) {
    let bytes = packet(0x10, body);
    let violation = decode_connect(frame(&bytes)).expect_err("the CONNECT breaks a rule");
    assert_eq!(
        (violation.reason, violation.clause),
        (reason, clause),
        "{violation}"
    );
}

#[test]
fn reserved_packet_types_and_flags_are_malformed() {
    refused(V5, Client, 0x00, &[], Malformed, "MQTT5 §2.1.2");
    refused(V311, Client, 0xF0, &[], Malformed, "MQTT311 §2.2.1");
    refused(V5, Client, 0xC1, &[], Malformed, "MQTT-2.1.3-1");
    refused(V5, Client, 0x60, &[0, 1], Malformed, "MQTT-3.6.1-1");
    refused(
        V5,
        Client,
        0x80,
        &[0, 1, 0, 0, 1, b'a', 0],
        Malformed,
        "MQTT-3.8.1-1",
    );
    refused(
        V5,
        Client,
        0xA0,
        &[0, 1, 0, 0, 1, b'a'],
        Malformed,
        "MQTT-3.10.1-1",
    );
    refused(V5, Client, 0xE1, &[], Malformed, "MQTT-3.14.1-1");
    refused(V5, Client, 0xF1, &[], Malformed, "MQTT-3.15.1-1");
}

#[test]
fn packets_flow_only_in_their_direction() {
    for first_byte in [0x20, 0x90, 0xB0, 0xD0] {
        refused(V5, Client, first_byte, &[], Protocol, "MQTT5 §2.1.2");
    }
    for first_byte in [0x10, 0x82, 0xA2, 0xC0] {
        refused(V5, Server, first_byte, &[], Protocol, "MQTT5 §2.1.2");
    }
    refused(V311, Server, 0xE0, &[], Protocol, "MQTT5 §2.1.2");
}

#[test]
fn trailing_and_missing_bytes_are_malformed() {
    refused(V5, Client, 0xC0, &[0], Malformed, "MQTT5 §2.1.4");
    refused(V311, Client, 0x40, &[0, 1, 0], Malformed, "MQTT5 §2.1.4");
    refused(
        V5,
        Client,
        0x40,
        &[0, 1, 0, 0, 0],
        Malformed,
        "MQTT5 §2.1.4",
    );
    refused(V311, Client, 0xE0, &[0], Malformed, "MQTT5 §2.1.4");
    refused(V5, Client, 0x40, &[0], Malformed, "MQTT5 §1.5");
    refused(
        V5,
        Client,
        0x40,
        &[0, 1, 0, 5, 0x1F],
        Malformed,
        "MQTT5 §1.5",
    );
    refused(V311, Client, 0x30, &[0, 9, b'a'], Malformed, "MQTT5 §1.5");
    connect_refused(&connect(4, 2, &[], &[0]), Malformed, "MQTT5 §2.1.4");
}

#[test]
fn a_connect_names_a_version_that_we_speak() {
    connect_refused(&connect(3, 2, &[], &[]), BadVersion, "MQTT-3.1.2-2");
    connect_refused(&connect(6, 2, &[], &[]), BadVersion, "MQTT-3.1.2-2");
    connect_refused(&connect(0x84, 2, &[], &[]), BadVersion, "MQTT-3.1.2-2");
    let old = [
        0, 6, b'M', b'Q', b'I', b's', b'd', b'p', 3, 2, 0, 60, 0, 1, b'c',
    ];
    connect_refused(&old, BadVersion, "MQTT-3.1.2-1");
    let bytes = packet(0x10, &old);
    assert_eq!(connect_version(frame(&bytes)), None);
    let bytes = packet(0x10, &connect(5, 3, &[], &[]));
    assert_eq!(connect_version(frame(&bytes)), Some(V5));
    let publish = packet(0x30, &[0, 1, b'a']);
    assert_eq!(
        decode_connect(frame(&publish)).unwrap_err().clause,
        "MQTT-3.1.0-1"
    );
    assert_eq!(
        decode_connect(frame(&packet(0x11, &old)))
            .unwrap_err()
            .clause,
        "MQTT-2.1.3-1"
    );
}

#[test]
fn connect_flags_agree_with_each_other() {
    for level in [4, 5] {
        connect_refused(&connect(level, 0x01, &[], &[]), Malformed, "MQTT-3.1.2-3");
        connect_refused(&connect(level, 0x1E, &[], &[]), Malformed, "MQTT-3.1.2-12");
        connect_refused(&connect(level, 0x0A, &[], &[]), Malformed, "MQTT-3.1.2-11");
        connect_refused(&connect(level, 0x22, &[], &[]), Malformed, "MQTT-3.1.2-13");
    }
    let password = [0, 2, 1, 2];
    connect_refused(&connect(4, 0x42, &[], &password), Protocol, "MQTT-3.1.2-22");
    let bytes = packet(0x10, &connect(5, 0x42, &[], &password));
    assert_eq!(
        decode_connect(frame(&bytes)).unwrap().password,
        Some(&[1, 2][..])
    );
}

#[test]
fn a_3_1_1_session_that_is_kept_has_a_client_identifier() {
    let body = |flags| [0, 4, b'M', b'Q', b'T', b'T', 4, flags, 0, 0, 0, 0];
    connect_refused(&body(0), BadClientId, "MQTT-3.1.3-8");
    let bytes = packet(0x10, &body(2));
    assert_eq!(decode_connect(frame(&bytes)).unwrap().client_id, "");
}

#[test]
fn connect_properties_are_in_range_and_of_connect() {
    let refused = |properties: &[u8], reason, clause| {
        connect_refused(&connect(5, 2, properties, &[]), reason, clause);
    };
    refused(&[0x21, 0, 0], Protocol, "MQTT5 §3.1.2.11.3");
    refused(&[0x27, 0, 0, 0, 0], Protocol, "MQTT5 §3.1.2.11.4");
    refused(&[0x17, 2], Protocol, "MQTT5 §2.2.2.2");
    refused(&[0x19, 2], Protocol, "MQTT5 §2.2.2.2");
    refused(&[0x21, 0, 1, 0x21, 0, 1], Protocol, "MQTT5 §2.2.2");
    refused(&[0x16, 0, 0], Protocol, "MQTT5 §3.1.2.11.10");
    refused(&[0x24, 1], Malformed, "MQTT5 §2.2.2.2");
    refused(&[0x00], Malformed, "MQTT5 §2.2.2.2");
    refused(&[0x80, 0x01], Malformed, "MQTT5 §2.2.2.2");
    refused(&[0x21, 0], Malformed, "MQTT5 §1.5");
}

#[test]
fn a_will_is_a_message_that_could_be_published() {
    let refused =
        |will: &[u8], reason, clause| connect_refused(&connect(5, 0x06, &[], will), reason, clause);
    refused(&[0, 0, 1, b'#', 0, 0], TopicNameInvalid, "MQTT-4.7.0-1");
    refused(&[0, 0, 0, 0, 0], TopicNameInvalid, "MQTT-4.7.3-1");
    refused(
        &[3, 0x23, 0, 1, 0, 1, b'a', 0, 0],
        Malformed,
        "MQTT5 §2.2.2.2",
    );
    refused(&[2, 0x0B, 1, 0, 1, b'a', 0, 0], Malformed, "MQTT5 §2.2.2.2");
    refused(&[2, 0x01, 2, 0, 1, b'a', 0, 0], Protocol, "MQTT5 §2.2.2.2");
}
