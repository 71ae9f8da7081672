//! How packets are shown: without passwords, tokens, payloads and whatever else may be a secret of the peer.

use core::fmt;

use super::{
    Auth, ConnAck, Connect, Publish, PublishProperties, SubscribeFilters, UnsubscribeFilters,
    UserProperties, Will,
};
use crate::shown::Length;

impl fmt::Debug for Connect<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Connect")
            .field("version", &self.version)
            .field("clean_start", &self.clean_start)
            .field("keep_alive_s", &self.keep_alive_s)
            .field("client_id", &self.client_id)
            .field("will", &self.will)
            .field("username", &self.username)
            .field("password", &Length::of_any(self.password))
            .field("session_expiry_s", &self.session_expiry_s)
            .field("receive_maximum", &self.receive_maximum)
            .field("maximum_packet_size", &self.maximum_packet_size)
            .field("topic_alias_maximum", &self.topic_alias_maximum)
            .field(
                "request_response_information",
                &self.request_response_information,
            )
            .field(
                "request_problem_information",
                &self.request_problem_information,
            )
            .field("authentication_method", &self.authentication_method)
            .field(
                "authentication_data",
                &Length::of_any(self.authentication_data),
            )
            .field("user_properties", &self.user_properties)
            .finish()
    }
}

impl fmt::Debug for Will<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Will")
            .field("topic", &self.topic)
            .field("payload", &Length::of(self.payload))
            .field("qos", &self.qos)
            .field("retain", &self.retain)
            .field("delay_s", &self.delay_s)
            .field("properties", &self.properties)
            .finish()
    }
}

impl fmt::Debug for ConnAck<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ConnAck")
            .field("session_present", &self.session_present)
            .field("reason", &self.reason)
            .field("session_expiry_s", &self.session_expiry_s)
            .field("receive_maximum", &self.receive_maximum)
            .field("maximum_qos", &self.maximum_qos)
            .field("retain_available", &self.retain_available)
            .field("maximum_packet_size", &self.maximum_packet_size)
            .field("assigned_client_id", &self.assigned_client_id)
            .field("topic_alias_maximum", &self.topic_alias_maximum)
            .field("reason_string", &self.reason_string)
            .field("user_properties", &self.user_properties)
            .field(
                "wildcard_subscription_available",
                &self.wildcard_subscription_available,
            )
            .field(
                "subscription_ids_available",
                &self.subscription_ids_available,
            )
            .field(
                "shared_subscription_available",
                &self.shared_subscription_available,
            )
            .field("server_keep_alive_s", &self.server_keep_alive_s)
            .field("response_information", &self.response_information)
            .field("server_reference", &self.server_reference)
            .field("authentication_method", &self.authentication_method)
            .field(
                "authentication_data",
                &Length::of_any(self.authentication_data),
            )
            .finish()
    }
}

impl fmt::Debug for Publish<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Publish")
            .field("dup", &self.dup)
            .field("qos", &self.qos)
            .field("retain", &self.retain)
            .field("topic", &self.topic)
            .field("packet_id", &self.packet_id)
            .field("properties", &self.properties)
            .field("payload", &Length::of(self.payload))
            .finish()
    }
}

impl fmt::Debug for PublishProperties<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("PublishProperties")
            .field("payload_is_utf8", &self.payload_is_utf8)
            .field("message_expiry_s", &self.message_expiry_s)
            .field("topic_alias", &self.topic_alias)
            .field("response_topic", &self.response_topic)
            .field("correlation_data", &Length::of_any(self.correlation_data))
            .field("content_type", &self.content_type)
            .field("subscription_ids", &self.subscription_ids)
            .field("user_properties", &self.user_properties)
            .finish()
    }
}

impl fmt::Debug for Auth<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Auth")
            .field("reason", &self.reason)
            .field("authentication_method", &self.authentication_method)
            .field(
                "authentication_data",
                &Length::of_any(self.authentication_data),
            )
            .field("reason_string", &self.reason_string)
            .field("user_properties", &self.user_properties)
            .finish()
    }
}

impl fmt::Debug for UserProperties<'_> {
    /// The names, and how long the values are.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.iter().map(|(name, value)| (name, Length(value.len())));
        formatter.debug_map().entries(shown).finish()
    }
}

impl fmt::Debug for SubscribeFilters<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_map().entries(self.iter()).finish()
    }
}

impl fmt::Debug for UnsubscribeFilters<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_list().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{Packet, QoS, Version};
    use crate::reason::ReasonCode;

    const SECRET: &str = "hunter2!";

    /// True when a text has the secret in it, as it is or as the numbers of its bytes.
    fn reveals(text: &str) -> bool {
        let numbers = format!("{:?}", SECRET.as_bytes());
        let numbers = numbers.trim_matches(['[', ']']);
        text.contains(SECRET) || text.contains(numbers)
    }

    #[test]
    fn a_packet_shows_no_password_token_or_payload() {
        let mut pairs = Vec::new();
        crate::encode::user_properties(&mut pairs, &[("token", SECRET)]);
        let user_properties = UserProperties::parse(&pairs).expect("well formed");
        let secret = SECRET.as_bytes();
        let properties = PublishProperties {
            correlation_data: Some(secret),
            user_properties,
            ..PublishProperties::default()
        };
        let will = Will {
            topic: "gone",
            payload: secret,
            qos: QoS::AtMostOnce,
            retain: false,
            delay_s: 0,
            properties: properties.clone(),
        };
        let packets = [
            Packet::Connect(Box::new(Connect {
                password: Some(secret),
                authentication_data: Some(secret),
                will: Some(will),
                user_properties,
                ..Connect::new(Version::V5, "phone")
            })),
            Packet::ConnAck(Box::new(ConnAck {
                authentication_data: Some(secret),
                user_properties,
                ..ConnAck::default()
            })),
            Packet::Publish(Publish {
                dup: false,
                qos: QoS::AtMostOnce,
                retain: false,
                topic: "a",
                packet_id: None,
                properties,
                payload: secret,
            }),
            Packet::Auth(Auth {
                reason: ReasonCode::ContinueAuthentication,
                authentication_method: Some("JWT"),
                authentication_data: Some(secret),
                reason_string: None,
                user_properties,
            }),
        ];
        for packet in packets {
            let shown = format!("{packet:?}");
            assert!(!reveals(&shown), "{shown}");
            assert!(shown.contains("8 bytes"), "{shown}");
        }
    }

    #[test]
    fn bytes_that_are_cut_into_packets_are_not_shown_either() {
        let connect = Connect {
            password: Some(SECRET.as_bytes()),
            ..Connect::new(Version::V5, "phone")
        };
        let mut bytes = Vec::new();
        crate::encode::connect(&mut bytes, &connect);
        let frame = crate::frame::next_frame(&bytes, 1_000).expect("well formed");
        assert!(!reveals(&format!("{frame:?}")));
        let data = crate::websocket::Event::Data(&bytes);
        assert!(!reveals(&format!("{data:?}")));
        let parts = crate::encode::PublishParts {
            topic: "a",
            forwarded: &bytes,
            payload: SECRET.as_bytes(),
        };
        assert!(!reveals(&format!("{parts:?}")));
    }
}
