//! What encoders write, byte by byte.

use edge_proto::decode::{Sender, decode};
use edge_proto::encode::{self, PublishHeader, PublishParts};
use edge_proto::frame::{Frame, PACKET_LENGTH_MAX, needed, next_frame};
use edge_proto::packet::*;
use edge_proto::reason::ReasonCode;

const VERSIONS: [Version; 2] = [Version::V311, Version::V5];

fn bytes_of(version: Version, packet: &Packet<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode::packet(&mut bytes, version, packet);
    bytes
}

fn whole_frame(bytes: &[u8]) -> Frame<'_> {
    let frame = next_frame(bytes, u32::MAX).unwrap().unwrap();
    assert_eq!(frame.length, bytes.len());
    frame
}

#[test]
fn acknowledgements_take_their_shortest_form() {
    let bytes = |version, packet: Packet<'_>| bytes_of(version, &packet);
    let refused = Ack::new(258, ReasonCode::QuotaExceeded);
    assert_eq!(
        bytes(
            Version::V5,
            Packet::PubAck(Ack::new(258, ReasonCode::Success))
        ),
        [0x40, 2, 1, 2]
    );
    assert_eq!(
        bytes(Version::V5, Packet::PubAck(refused.clone())),
        [0x40, 3, 1, 2, 0x97]
    );
    assert_eq!(
        bytes(Version::V311, Packet::PubAck(refused)),
        [0x40, 2, 1, 2]
    );
    assert_eq!(
        bytes(
            Version::V5,
            Packet::PubRel(Ack::new(258, ReasonCode::Success))
        ),
        [0x62, 2, 1, 2]
    );
    assert_eq!(
        bytes(
            Version::V5,
            Packet::Disconnect(Disconnect::new(ReasonCode::Success))
        ),
        [0xE0, 0]
    );
    let moved = Disconnect::new(ReasonCode::ServerMoved);
    assert_eq!(
        bytes(Version::V5, Packet::Disconnect(moved)),
        [0xE0, 1, 0x9D]
    );
}

#[test]
fn user_properties_go_first_and_the_reason_string_second_when_space_is_short() {
    let mut block = Vec::new();
    encode::user_properties(&mut block, &[("name", "value")]);
    let mut ack = Ack::new(1, ReasonCode::NotAuthorized);
    ack.reason_string = Some("no");
    ack.user_properties = UserProperties::parse(&block).unwrap();
    let fit = |maximum| {
        let mut bytes = Vec::new();
        let written =
            encode::ack_within(&mut bytes, Version::V5, PacketType::PubAck, &ack, maximum);
        assert_eq!(written, !bytes.is_empty());
        bytes.len()
    };
    assert_eq!(
        [fit(100), fit(25), fit(24), fit(11), fit(10), fit(5), fit(4)],
        [25, 25, 11, 11, 5, 5, 0]
    );
}

#[test]
fn text_longer_than_a_string_can_be_is_cut_at_a_character() {
    let long = "\u{20ac}".repeat(30_000);
    let mut block = Vec::new();
    encode::user_properties(&mut block, &[("k", &long)]);
    let properties = UserProperties::parse(&block).unwrap();
    assert_eq!(properties.first("k").map(str::len), Some(65_535));
    assert_eq!(properties.first("other"), None);
}

#[test]
fn lengths_are_exact_where_the_remaining_length_grows_a_byte() {
    for payload_length in [
        120, 121, 122, 123, 124, 16_370, 16_377, 16_378, 16_379, 16_380, 2_097_140, 2_097_147,
    ] {
        let payload = vec![0; payload_length];
        let message = PublishParts {
            topic: "a",
            forwarded: &[],
            payload: &payload,
        };
        for version in VERSIONS {
            let mut bytes = Vec::new();
            encode::publish_parts(&mut bytes, version, PublishHeader::at_most_once(), &message);
            let length =
                encode::publish_parts_length(version, PublishHeader::at_most_once(), &message);
            assert_eq!(bytes.len(), length);
            assert_eq!(needed(&bytes), Some(length));
            assert!(length < PACKET_LENGTH_MAX);
        }
    }
}

#[test]
fn a_properties_block_over_127_bytes_gets_a_longer_prefix() {
    let text = "x".repeat(300);
    let mut ack = Ack::new(1, ReasonCode::NotAuthorized);
    ack.reason_string = Some(&text);
    let bytes = bytes_of(Version::V5, &Packet::PubAck(ack.clone()));
    assert_eq!(&bytes[..8], [0x40, 0xB4, 0x02, 0, 1, 0x87, 0xAF, 0x02]);
    assert_eq!(
        decode(Version::V5, Sender::Server, whole_frame(&bytes)),
        Ok(Packet::PubAck(ack))
    );
}

#[test]
fn every_reason_code_that_a_suback_may_have_fits_3_1_1() {
    let suback = SubAck {
        packet_id: 1,
        reason_string: None,
        user_properties: UserProperties::default(),
        reasons: &[0, 1, 2, 0x80, 0x87, 0x9E],
    };
    let mut bytes = Vec::new();
    encode::suback(&mut bytes, Version::V311, &suback);
    assert_eq!(bytes, [0x90, 8, 0, 1, 0, 1, 2, 0x80, 0x80, 0x80]);
}

#[test]
fn debug_shows_names_and_lengths_and_numbers() {
    let mut block = Vec::new();
    encode::user_properties(&mut block, &[("a", "be"), ("a", "see")]);
    let properties = UserProperties::parse(&block).unwrap();
    let shown = format!("{properties:?}");
    assert_eq!(shown, r#"{"a": 2 bytes, "a": 3 bytes}"#);
    assert!(!properties.is_empty() && UserProperties::default().is_empty());
    assert_eq!(format!("{:?}", SubscriptionIds::default()), "[]");
}
