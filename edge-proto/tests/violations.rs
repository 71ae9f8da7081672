//! Each rule that a packet can break by itself: the bytes, and the clause and reason code they get.

use edge_proto::decode::{Sender, connect_version, decode, decode_connect};
use edge_proto::frame::{Frame, next_frame};
use edge_proto::packet::{Packet, Version};
use edge_proto::reason::{ReasonCode, Violation};

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

#[test]
fn a_publish_keeps_the_rules_of_its_flags_and_topic() {
    refused(
        V5,
        Client,
        0x36,
        &[0, 1, b'a', 0, 1, 0],
        Malformed,
        "MQTT-3.3.1-4",
    );
    refused(
        V5,
        Client,
        0x38,
        &[0, 1, b'a', 0],
        Malformed,
        "MQTT-3.3.1-2",
    );
    refused(
        V5,
        Client,
        0x32,
        &[0, 1, b'a', 0, 0, 0],
        Protocol,
        "MQTT-2.2.1-3",
    );
    refused(
        V5,
        Client,
        0x30,
        &[0, 1, b'+', 0],
        TopicNameInvalid,
        "MQTT-3.3.2-2",
    );
    refused(
        V311,
        Client,
        0x30,
        &[0, 2, b'a', b'#'],
        TopicNameInvalid,
        "MQTT-3.3.2-2",
    );
    refused(V5, Client, 0x30, &[0, 0, 0], Protocol, "MQTT5 §3.3.2.1");
    refused(
        V311,
        Client,
        0x30,
        &[0, 0],
        TopicNameInvalid,
        "MQTT-4.7.3-1",
    );
    refused(V5, Client, 0x30, &[0, 1, 0, 0], Malformed, "MQTT-1.5.4-2");
    refused(
        V5,
        Client,
        0x30,
        &[0, 1, 0xFF, 0],
        Malformed,
        "MQTT-1.5.4-1",
    );
    accepted(V5, Client, 0x30, &[0, 0, 3, 0x23, 0, 1]);
    accepted(V5, Client, 0x3D, &[0, 1, b'a', 0, 1, 0, b'p']);
}

#[test]
fn publish_properties_are_in_range_and_of_a_publish() {
    let body = |properties: &[u8]| [&[0, 1, b'a', properties.len() as u8], properties].concat();
    let refuse = |sender, properties: &[u8], reason, clause| {
        refused(V5, sender, 0x30, &body(properties), reason, clause);
    };
    refuse(Client, &[0x01, 2], Protocol, "MQTT5 §2.2.2.2");
    refuse(Client, &[0x23, 0, 0], TopicAliasInvalid, "MQTT-3.3.2-8");
    refuse(Client, &[0x0B, 1], Protocol, "MQTT-3.3.4-6");
    refuse(Server, &[0x0B, 0], Protocol, "MQTT5 §3.8.2.1.2");
    refuse(Client, &[0x08, 0, 1, b'+'], Protocol, "MQTT-3.3.2-14");
    refuse(Client, &[0x08, 0, 0], Protocol, "MQTT-4.7.3-1");
    refuse(Client, &[0x11, 0, 0, 0, 1], Malformed, "MQTT5 §2.2.2.2");
    refuse(Client, &[0x01, 1, 0x01, 1], Protocol, "MQTT5 §2.2.2");
    refuse(
        Client,
        &[0x26, 0, 1, b'a', 0, 1, 0],
        Malformed,
        "MQTT-1.5.4-2",
    );
    accepted(V5, Server, 0x30, &body(&[0x0B, 1, 0x0B, 1]));
    accepted(
        V5,
        Client,
        0x30,
        &body(&[0x26, 0, 0, 0, 0, 0x26, 0, 0, 0, 0]),
    );
}

#[test]
fn acknowledgements_have_an_identifier_and_a_reason_of_their_own() {
    for (first_byte, clause) in [
        (0x40, "MQTT-3.4.2-1"),
        (0x50, "MQTT-3.5.2-1"),
        (0x62, "MQTT-3.6.2-1"),
        (0x70, "MQTT-3.7.2-1"),
    ] {
        refused(V5, Client, first_byte, &[0, 0], Protocol, "MQTT-2.2.1-3");
        refused(V5, Client, first_byte, &[0, 1, 0x8E], Protocol, clause);
        refused(V5, Client, first_byte, &[0, 1, 0x03], Protocol, clause);
        refused(
            V5,
            Client,
            first_byte,
            &[0, 1, 0, 3, 0x23, 0, 1],
            Malformed,
            "MQTT5 §2.2.2.2",
        );
        accepted(V5, Client, first_byte, &[0, 1]);
        accepted(V5, Client, first_byte, &[0, 1, 0]);
        accepted(V5, Client, first_byte, &[0, 1, 0, 0]);
    }
}

#[test]
fn a_subscribe_asks_for_something_that_can_be_asked() {
    let refuse = |rest: &[u8], reason, clause| {
        refused(
            V5,
            Client,
            0x82,
            &[&[0, 1, 0], rest].concat(),
            reason,
            clause,
        );
    };
    refuse(&[], Protocol, "MQTT-3.8.3-2");
    refuse(&[0, 1, b'a', 0x40], Malformed, "MQTT-3.8.3-5");
    refuse(&[0, 1, b'a', 0x03], Protocol, "MQTT5 §3.8.3.1");
    refuse(&[0, 1, b'a', 0x30], Protocol, "MQTT5 §3.8.3.1");
    refuse(&[0, 1, b'a'], Malformed, "MQTT5 §1.5");
    refuse(&[0, 0, 0], TopicFilterInvalid, "MQTT-4.7.3-1");
    refuse(&[0, 2, b'a', b'#', 0], TopicFilterInvalid, "MQTT-4.7.1-1");
    refuse(&[0, 2, b'a', b'+', 0], TopicFilterInvalid, "MQTT-4.7.1-2");
    let shared =
        |name: &str, options: u8| [&[0, name.len() as u8], name.as_bytes(), &[options]].concat();
    refuse(&shared("$share/g/a", 0x04), Protocol, "MQTT-3.8.3-4");
    refuse(&shared("$share/g", 0), TopicFilterInvalid, "MQTT-4.8.2-2");
    refuse(&shared("$share//a", 0), TopicFilterInvalid, "MQTT-4.8.2-1");
    refuse(&shared("$share/+/a", 0), TopicFilterInvalid, "MQTT-4.8.2-2");
    refuse(&shared("$share/g/", 0), TopicFilterInvalid, "MQTT-4.7.3-1");
    refused(
        V5,
        Client,
        0x82,
        &[0, 0, 0, 0, 1, b'a', 0],
        Protocol,
        "MQTT-2.2.1-3",
    );
    refused(
        V5,
        Client,
        0x82,
        &[0, 1, 2, 0x0B, 0, 0, 1, b'a', 0],
        Protocol,
        "MQTT5 §3.8.2.1.2",
    );
    refused(
        V5,
        Client,
        0x82,
        &[0, 1, 4, 0x0B, 1, 0x0B, 1, 0, 1, b'a', 0],
        Protocol,
        "MQTT5 §3.8.2.1.2",
    );
    refused(
        V5,
        Client,
        0x82,
        &[0, 1, 2, 0x01, 1, 0, 1, b'a', 0],
        Malformed,
        "MQTT5 §2.2.2.2",
    );
    refused(
        V311,
        Client,
        0x82,
        &[0, 1, 0, 1, b'a', 0x04],
        Malformed,
        "MQTT-3.8.3-5",
    );
    accepted(V5, Client, 0x82, &[0, 1, 0, 0, 1, b'a', 0x2E]);
}

#[test]
fn an_unsubscribe_names_a_filter() {
    refused(V5, Client, 0xA2, &[0, 1, 0], Protocol, "MQTT-3.10.3-2");
    refused(V311, Client, 0xA2, &[0, 1], Protocol, "MQTT-3.10.3-2");
    refused(
        V5,
        Client,
        0xA2,
        &[0, 0, 0, 0, 1, b'a'],
        Protocol,
        "MQTT-2.2.1-3",
    );
    refused(
        V5,
        Client,
        0xA2,
        &[0, 1, 0, 0, 0],
        TopicFilterInvalid,
        "MQTT-4.7.3-1",
    );
    refused(
        V5,
        Client,
        0xA2,
        &[0, 1, 2, 0x0B, 1, 0, 1, b'a'],
        Malformed,
        "MQTT5 §2.2.2.2",
    );
}

#[test]
fn a_server_answers_with_what_the_packet_may_have() {
    refused(V5, Server, 0x20, &[2, 0, 0], Malformed, "MQTT-3.2.2-1");
    refused(V5, Server, 0x20, &[0, 0x01, 0], Protocol, "MQTT-3.2.2-8");
    refused(V5, Server, 0x20, &[1, 0x87, 0], Protocol, "MQTT-3.2.2-6");
    refused(
        V5,
        Server,
        0x20,
        &[0, 0, 2, 0x24, 2],
        Protocol,
        "MQTT5 §3.2.2.3.4",
    );
    refused(
        V5,
        Server,
        0x20,
        &[0, 0, 5, 0x18, 0, 0, 0, 1],
        Malformed,
        "MQTT5 §2.2.2.2",
    );
    refused(V311, Server, 0x20, &[0, 6], Protocol, "MQTT311 §3.2.2.3");
    refused(V5, Server, 0x90, &[0, 1, 0], Protocol, "MQTT-3.8.4-6");
    refused(V5, Server, 0x90, &[0, 1, 0, 3], Protocol, "MQTT-3.9.3-2");
    refused(
        V311,
        Server,
        0x90,
        &[0, 1, 0x87],
        Protocol,
        "MQTT311 §3.9.3",
    );
    refused(V5, Server, 0xB0, &[0, 1, 0, 1], Protocol, "MQTT-3.11.3-2");
    refused(V5, Server, 0xB0, &[0, 1, 0], Protocol, "MQTT-3.11.3-1");
    refused(V311, Server, 0xB0, &[0, 1, 0], Malformed, "MQTT5 §2.1.4");
}

#[test]
fn a_disconnect_says_what_its_sender_may_say() {
    refused(V5, Client, 0xE0, &[0x01], Protocol, "MQTT-3.14.2-1");
    refused(V5, Server, 0xE0, &[0x04], Protocol, "MQTT-3.14.2-1");
    refused(
        V5,
        Server,
        0xE0,
        &[0, 5, 0x11, 0, 0, 0, 1],
        Protocol,
        "MQTT-3.14.2-2",
    );
    refused(
        V5,
        Client,
        0xE0,
        &[0, 3, 0x1C, 0, 0],
        Protocol,
        "MQTT5 §3.14.2.2.5",
    );
    refused(
        V5,
        Client,
        0xE0,
        &[0, 3, 0x21, 0, 1],
        Malformed,
        "MQTT5 §2.2.2.2",
    );
    accepted(V5, Client, 0xE0, &[0x04]);
    accepted(V5, Client, 0xE0, &[0, 5, 0x11, 0, 0, 0, 1]);
}

#[test]
fn an_auth_names_its_method() {
    refused(V5, Client, 0xF0, &[], Protocol, "MQTT-3.15.2-1");
    refused(V5, Client, 0xF0, &[0x80, 0], Protocol, "MQTT-3.15.2-1");
    refused(
        V5,
        Server,
        0xF0,
        &[0x19, 4, 0x15, 0, 1, b'm'],
        Protocol,
        "MQTT-3.15.2-1",
    );
    refused(V5, Client, 0xF0, &[0x18, 0], Protocol, "MQTT5 §3.15.2.2.2");
    refused(
        V5,
        Client,
        0xF0,
        &[0x18, 3, 0x21, 0, 1],
        Malformed,
        "MQTT5 §2.2.2.2",
    );
    accepted(V5, Client, 0xF0, &[0x18, 4, 0x15, 0, 1, b'm']);
    accepted(V5, Server, 0xF0, &[]);
}

#[test]
fn a_violation_reads_as_a_sentence_with_its_clause() {
    let violation = Violation::malformed("MQTT-3.1.2-3", "the reserved connect flag is set");
    assert_eq!(
        violation.to_string(),
        "the reserved connect flag is set [MQTT-3.1.2-3]"
    );
}

#[test]
fn a_second_connect_is_decoded_for_the_session_to_refuse() {
    let bytes = packet(0x10, &connect(4, 2, &[], &[]));
    assert!(
        matches!(decode(V5, Client, frame(&bytes)), Ok(Packet::Connect(connect)) if connect.version == V311)
    );
}
