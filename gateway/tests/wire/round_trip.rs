//! What is sent is what arrives.

use std::sync::Arc;

use edge_proto::packet::QoS;
use gateway::bus::wire::{self, KINDS, VERSION, WireError};
use gateway::core_message::{CoreMessage, Origin, PublishRequest, UnsubscribeRequest};
use gateway::engine::claim::MessageId;
use gateway::message::{Message, MessageParts, SessionId};
use proptest::prelude::*;

use super::strategies::any_message;
use super::{encoded, samples};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_096))]

    #[test]
    fn every_message_arrives_as_it_was_sent(message in any_message()) {
        let bytes = encoded(&message);
        prop_assert_eq!(wire::decode(&bytes, VERSION), Ok(message));
    }

    #[test]
    fn a_message_stays_in_the_lane_that_it_was_in(message in any_message()) {
        let arrived = wire::decode(&encoded(&message), VERSION).expect("it was sent");
        prop_assert_eq!(arrived.is_lossy(), message.is_lossy());
        prop_assert_eq!(arrived.deliveries(), message.deliveries());
    }

    #[test]
    fn what_is_there_already_stays_and_the_message_follows(message in any_message()) {
        let mut bytes = b"before".to_vec();
        wire::encode(&message, VERSION, &mut bytes);
        prop_assert_eq!(bytes.strip_prefix(b"before"), Some(&encoded(&message)[..]));
    }
}

/// What a client can make a node send must be readable, or it could cut nodes off from each other.
#[test]
fn the_longest_topic_and_filter_arrive() {
    let longest = "a".repeat(65_535);
    let message = CoreMessage::Publish(Box::new(PublishRequest {
        message: Arc::new(Message::new(MessageParts {
            topic: &longest,
            properties: &[0xFF; 70_000],
            payload: &[7; 1 << 20],
            qos: QoS::AtLeastOnce,
            retain: true,
            expires_at_unix_ms: 0,
            publisher: SessionId(1),
        })),
        origin: Origin::Nobody,
        may_refuse: false,
        received: None,
        id: MessageId::NONE,
        retry: false,
    }));
    assert_eq!(wire::decode(&encoded(&message), VERSION), Ok(message));
    let share = "$share/team/";
    for filter in [
        longest.clone(),
        format!("{share}{}", &longest[share.len()..]),
    ] {
        let message = CoreMessage::Unsubscribe(Box::new(UnsubscribeRequest {
            filter: filter.into(),
            session: SessionId(1),
            reply: None,
        }));
        assert_eq!(wire::decode(&encoded(&message), VERSION), Ok(message));
    }
}

#[test]
fn what_a_newer_node_adds_at_the_end_is_skipped_and_refused_in_a_version_that_is_known() {
    for (name, message) in samples::all() {
        let mut bytes = encoded(&message);
        bytes.extend_from_slice(b"news");
        let kind = name.split(',').next().expect("a name");
        let trailing = WireError::Trailing {
            kind: kind_named(kind),
            bytes: 4,
        };
        assert_eq!(wire::decode(&bytes, VERSION), Err(trailing), "{name}");
        assert_eq!(wire::decode(&bytes, VERSION + 1), Ok(message), "{name}");
    }
}

fn kind_named(name: &str) -> &'static str {
    let known = KINDS.iter().find(|(_, known)| *known == name);
    known.expect("the name of a kind").1
}

#[test]
fn a_message_costs_few_bytes_beside_what_it_carries() {
    let content = |message: &Message| message.topic().len() + message.payload().len();
    for (name, message) in samples::all() {
        let (own, spent) = match &message {
            CoreMessage::Publish(publish) => (content(&publish.message), 55),
            CoreMessage::Deliver(deliver) => (content(&deliver.message), 65),
            CoreMessage::PublishDone { .. }
            | CoreMessage::DeliverDone { .. }
            | CoreMessage::MailboxAck { .. }
            | CoreMessage::SubscriptionDone { .. } => (0, 30),
            _ => continue,
        };
        let bytes = encoded(&message).len();
        assert!(bytes <= own + spent, "{name} takes {bytes} bytes");
    }
}
