//! The packets after CONNECT.

use edge_proto::decode::{decode, forwarded_properties};
use edge_proto::packet::{Packet, UserProperties};
use edge_proto::reason::Violation;

use super::*;

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

#[test]
fn a_run_of_properties_holds_only_what_it_is_for() {
    for run in [
        &[0x23, 0, 1][..],
        &[0x02, 0, 0, 0, 1],
        &[0x0B, 1],
        &[0x26, 0],
        &[0x01, 0, 0x01, 0],
    ] {
        assert!(forwarded_properties(run).is_err(), "{run:?}");
        assert!(UserProperties::parse(run).is_err(), "{run:?}");
    }
    assert_eq!(
        forwarded_properties(&[0x01, 1]).unwrap().payload_is_utf8,
        Some(true)
    );
    assert!(UserProperties::parse(&[0x01, 1]).is_err());
}
