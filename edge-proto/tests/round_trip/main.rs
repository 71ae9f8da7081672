//! What is encoded comes back equal, in both versions and however the bytes are cut; and no bytes make the decoder panic.

mod parts;

use edge_proto::decode::{self, Sender, decode, decode_connect};
use edge_proto::encode::{self, PublishHeader, PublishParts, PublishTemplate};
use edge_proto::frame::{Frame, needed, next_frame};
use edge_proto::packet::*;
use proptest::collection::vec;
use proptest::prelude::*;

use crate::parts::{filter, options, parts};

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

proptest! {
    #[test]
    fn every_packet_comes_back_equal(parts in parts()) {
        for version in VERSIONS {
            for sender in [Sender::Client, Sender::Server] {
                for packet in parts.packets(version, sender) {
                    let bytes = bytes_of(version, &packet);
                    let decoded = decode(version, sender, whole_frame(&bytes));
                    prop_assert_eq!(decoded.as_ref(), Ok(&packet), "{:?} of {:?}", version, sender);
                    prop_assert_eq!(packet.packet_type() as u8, bytes[0] >> 4);
                }
            }
        }
    }

    #[test]
    fn a_connect_tells_its_version_and_comes_back_equal(parts in parts()) {
        for version in VERSIONS {
            let connect = parts.connect(version);
            let mut bytes = Vec::new();
            encode::connect(&mut bytes, &connect);
            prop_assert_eq!(decode::connect_version(whole_frame(&bytes)), Some(version));
            prop_assert_eq!(decode_connect(whole_frame(&bytes)), Ok(connect));
        }
    }

    #[test]
    fn subscriptions_come_back_equal(
        filters in vec((filter(), options()), 1..5), id in 1..268_435_456u32, packet_id in 1..u16::MAX,
    ) {
        for version in VERSIONS {
            let wanted: Vec<_> = filters.iter().map(|(filter, options)| {
                let mut options = *options;
                options.no_local &= !filter.starts_with("$share/");
                if version == Version::V311 {
                    options = SubscriptionOptions::from_qos(options.maximum_qos);
                }
                (filter.as_str(), options)
            }).collect();
            let mut bytes = Vec::new();
            let id = (version == Version::V5).then_some(id);
            encode::subscribe(&mut bytes, version, packet_id, id, &wanted);
            let decoded = decode(version, Sender::Client, whole_frame(&bytes)).unwrap();
            let Packet::Subscribe(subscribe) = &decoded else { panic!("{decoded:?}") };
            prop_assert_eq!((subscribe.packet_id, subscribe.subscription_id), (packet_id, id));
            prop_assert_eq!(subscribe.filters.iter().collect::<Vec<_>>(), wanted.clone());
            prop_assert_eq!(bytes_of(version, &decoded), bytes);

            let wanted: Vec<_> = wanted.iter().map(|pair| pair.0).collect();
            let mut bytes = Vec::new();
            encode::unsubscribe(&mut bytes, version, packet_id, &wanted);
            let decoded = decode(version, Sender::Client, whole_frame(&bytes)).unwrap();
            let Packet::Unsubscribe(unsubscribe) = &decoded else { panic!("{decoded:?}") };
            prop_assert_eq!(unsubscribe.packet_id, packet_id);
            prop_assert_eq!(unsubscribe.filters.iter().collect::<Vec<_>>(), wanted);
            prop_assert_eq!(bytes_of(version, &decoded), bytes);
        }
    }

    #[test]
    fn a_message_encoded_in_parts_is_the_message(
        parts in parts(), ids in vec(1..268_435_456u32, 0..4), send_topic: bool, payload_length in 0..40_000usize,
    ) {
        for version in VERSIONS {
            let payload = vec![7; payload_length];
            let mut publish = parts.publish(version);
            publish.topic = &parts.topics[0];
            publish.payload = &payload;
            let mut forwarded = Vec::new();
            encode::forwarded_properties(&mut forwarded, &publish.properties);
            let header = PublishHeader {
                dup: publish.dup,
                qos: publish.qos,
                retain: publish.retain,
                packet_id: publish.packet_id,
                topic_alias: publish.properties.topic_alias.map(|alias| (alias, send_topic)),
                message_expiry_s: publish.properties.message_expiry_s,
                subscription_ids: &ids,
            };
            let message = PublishParts { topic: publish.topic, forwarded: &forwarded, payload: publish.payload };
            let mut bytes = Vec::new();
            encode::publish_parts(&mut bytes, version, header, &message);
            prop_assert_eq!(bytes.len(), encode::publish_parts_length(version, header, &message));

            let other = PublishHeader { packet_id: header.packet_id.map(|id| id.wrapping_add(1)), ..header };
            let template = PublishTemplate::new(version, other, &message);
            let mut of_template = vec![1, 2, 3];
            template.write(&mut of_template, header.packet_id.unwrap_or(9));
            prop_assert_eq!(&of_template[3..], &bytes[..]);
            prop_assert_eq!(template.length(), bytes.len());

            let decoded = decode(version, Sender::Server, whole_frame(&bytes)).unwrap();
            prop_assert_eq!(bytes_of(version, &decoded).len(), bytes.len());
            let Packet::Publish(mut decoded) = decoded else { panic!("{decoded:?}") };
            let expected_ids = if version == Version::V5 { ids.clone() } else { Vec::new() };
            prop_assert_eq!(decoded.properties.subscription_ids.iter().collect::<Vec<_>>(), expected_ids);
            decoded.properties.subscription_ids = SubscriptionIds::default();
            if publish.properties.topic_alias.is_some() && !send_topic {
                publish.topic = "";
            }
            prop_assert_eq!(decoded, publish);
        }
    }

    #[test]
    fn forwarded_properties_are_read_back(parts in parts()) {
        let mut properties = parts.message_properties();
        let mut run = Vec::new();
        encode::forwarded_properties(&mut run, &properties);
        properties.message_expiry_s = None;
        prop_assert_eq!(decode::forwarded_properties(&run), Ok(properties));
    }

    #[test]
    fn a_stream_cut_anywhere_gives_the_same_packets(parts in parts(), cuts in vec(1..20usize, 1..400)) {
        let packets = parts.packets(Version::V5, Sender::Server);
        let mut stream = Vec::new();
        packets.iter().for_each(|packet| encode::packet(&mut stream, Version::V5, packet));
        let mut received: Vec<u8> = Vec::new();
        let mut sent = 0;
        let mut seen = 0;
        for cut in cuts.iter().copied().chain([stream.len()]) {
            let end = stream.len().min(sent + cut);
            received.extend_from_slice(&stream[sent..end]);
            sent = end;
            let mut read = 0;
            while let Some(frame) = next_frame(&received[read..], u32::MAX).unwrap() {
                prop_assert_eq!(needed(&received[read..]), Some(frame.length));
                let packet = decode(Version::V5, Sender::Server, frame);
                prop_assert_eq!(packet.as_ref(), Ok(&packets[seen]));
                seen += 1;
                read += frame.length;
            }
            received.drain(..read);
        }
        prop_assert_eq!(seen, packets.len());
        prop_assert!(received.is_empty());
    }

    #[test]
    fn truncated_packets_are_refused(parts in parts()) {
        for sender in [Sender::Client, Sender::Server] {
            for packet in parts.packets(Version::V5, sender) {
                let bytes = bytes_of(Version::V5, &packet);
                let frame = whole_frame(&bytes);
                // Where the specification allows to leave out what is at its default, the short form is a packet too.
                let may_end_early = !matches!(packet, Packet::Connect(_) | Packet::ConnAck(_));
                for end in 0..frame.body.len() {
                    let short = Frame { body: &frame.body[..end], ..frame };
                    let result = decode(Version::V5, sender, short);
                    prop_assert!(may_end_early || result.is_err(), "{end}: {result:?}");
                }
            }
        }
    }

    #[test]
    fn mutated_packets_never_panic(parts in parts(), at in any::<prop::sample::Index>(), with in vec(any::<u8>(), 1..4)) {
        for version in VERSIONS {
            for sender in [Sender::Client, Sender::Server] {
                for packet in parts.packets(version, sender) {
                    let mut bytes = bytes_of(version, &packet);
                    let at = at.index(bytes.len());
                    let end = bytes.len().min(at + with.len());
                    bytes[at..end].copy_from_slice(&with[..end - at]);
                    decode_all(&bytes);
                }
            }
        }
    }

    #[test]
    fn random_bytes_never_panic(first in any::<u8>(), bytes in vec(any::<u8>(), 0..60)) {
        let mut packet = vec![first, bytes.len() as u8];
        packet.extend_from_slice(&bytes);
        decode_all(&packet);
        decode_all(&bytes);
        let _ = decode::forwarded_properties(&bytes);
    }

    #[test]
    fn answers_keep_to_the_maximum_packet_size(parts in parts(), maximum in 0..120u32) {
        let connack = parts.connack(Version::V5);
        let mut bytes = vec![1, 2, 3];
        let written = encode::connack_within(&mut bytes, Version::V5, &connack, maximum);
        prop_assert_eq!(&bytes[..3], [1, 2, 3]);
        prop_assert!(bytes.len() - 3 <= maximum as usize);
        prop_assert_eq!(bytes.len() > 3, written);
        if written {
            let decoded = decode(Version::V5, Sender::Server, whole_frame(&bytes[3..])).unwrap();
            let Packet::ConnAck(decoded) = decoded else { panic!("{decoded:?}") };
            let kept = ConnAck { reason_string: decoded.reason_string, user_properties: decoded.user_properties, ..connack };
            prop_assert_eq!(*decoded, kept);
        }
    }
}

/// Decodes whatever is there as every version and sender; what decodes comes back equal.
fn decode_all(bytes: &[u8]) {
    let Ok(Some(frame)) = next_frame(bytes, u32::MAX) else {
        return;
    };
    for version in VERSIONS {
        for sender in [Sender::Client, Sender::Server] {
            let Ok(packet) = decode(version, sender, frame) else {
                continue;
            };
            let again = bytes_of(version, &packet);
            assert_eq!(
                decode(version, sender, whole_frame(&again)).as_ref(),
                Ok(&packet)
            );
        }
    }
}
