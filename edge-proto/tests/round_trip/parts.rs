//! Strategies that make packets.

use edge_proto::decode::Sender;
use edge_proto::encode;
use edge_proto::packet::*;
use edge_proto::reason::ReasonCode;
use proptest::collection::vec;
use proptest::prelude::*;

/// What packets are made of: packets borrow, so something has to own.
#[derive(Clone, Debug)]
pub(crate) struct Parts {
    texts: Vec<String>,
    pub(crate) topics: Vec<String>,
    data: Vec<Vec<u8>>,
    numbers: Vec<u32>,
    bits: u64,
    user_properties: Vec<u8>,
}

pub(crate) fn parts() -> impl Strategy<Value = Parts> {
    let text = || "[a-z\u{1}\u{e9}\u{10ffff} ]{0,9}";
    let level = || prop_oneof![Just(String::new()), text().prop_map(String::from)];
    let topic = vec(level(), 1..4).prop_map(|levels| format!("t{}", levels.join("/")));
    (
        vec(text(), 8),
        vec(topic, 2),
        vec(vec(any::<u8>(), 0..40), 3),
        vec(
            prop_oneof![1u32..4, any::<u32>().prop_map(|number| number.max(1))],
            4,
        ),
        any::<u64>(),
        vec((text(), text()), 0..3),
    )
        .prop_map(|(texts, topics, data, numbers, bits, pairs)| {
            let pairs: Vec<_> = pairs
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_str()))
                .collect();
            let mut user_properties = Vec::new();
            encode::user_properties(&mut user_properties, &pairs);
            Parts {
                texts,
                topics,
                data,
                numbers,
                bits,
                user_properties,
            }
        })
}

impl Parts {
    fn bit(&self, index: usize) -> bool {
        self.bits >> index & 1 == 1
    }

    fn text(&self, index: usize) -> Option<&str> {
        self.bit(index).then_some(self.texts[index].as_str())
    }

    fn data(&self, index: usize) -> Option<&[u8]> {
        self.bit(8 + index).then_some(self.data[index].as_slice())
    }

    fn number(&self, index: usize) -> Option<u32> {
        self.bit(12 + index).then_some(self.numbers[index])
    }

    fn short(&self, index: usize) -> u16 {
        (self.numbers[index] as u16).max(1)
    }

    fn qos(&self) -> QoS {
        QoS::from_u8((self.bits >> 20) as u8 % 3).unwrap()
    }

    fn users(&self) -> UserProperties<'_> {
        UserProperties::parse(&self.user_properties).unwrap()
    }

    fn reason(&self, valid: &[ReasonCode]) -> ReasonCode {
        valid[(self.bits >> 24) as usize % valid.len()]
    }

    pub(crate) fn message_properties(&self) -> PublishProperties<'_> {
        PublishProperties {
            payload_is_utf8: self.bit(30).then_some(self.bit(31)),
            message_expiry_s: self.number(0),
            response_topic: self.bit(32).then_some(self.topics[1].as_str()),
            correlation_data: self.data(1),
            content_type: self.text(0),
            user_properties: self.users(),
            ..PublishProperties::default()
        }
    }

    pub(crate) fn connect(&self, version: Version) -> Connect<'_> {
        let mut connect = Connect::new(version, &self.texts[1]);
        connect.clean_start = connect.client_id.is_empty() || self.bit(33);
        connect.keep_alive_s = self.short(0);
        connect.username = self.text(2);
        connect.password = self
            .data(0)
            .filter(|_| version == Version::V5 || connect.username.is_some());
        connect.will = self.bit(34).then(|| Will {
            topic: &self.topics[0],
            payload: &self.data[2],
            qos: self.qos(),
            retain: self.bit(35),
            delay_s: 0,
            properties: PublishProperties::default(),
        });
        if version == Version::V5 {
            connect.session_expiry_s = self.number(1);
            connect.receive_maximum = self.short(2);
            connect.maximum_packet_size = self.number(3);
            connect.topic_alias_maximum = self.short(3);
            connect.request_response_information = self.bit(36);
            connect.request_problem_information = self.bit(37);
            connect.authentication_method = self.text(3);
            connect.authentication_data = self
                .data(1)
                .filter(|_| connect.authentication_method.is_some());
            connect.user_properties = self.users();
            if let Some(will) = &mut connect.will {
                will.delay_s = self.numbers[2];
                will.properties = self.message_properties();
            }
        }
        connect
    }

    pub(crate) fn connack(&self, version: Version) -> ConnAck<'_> {
        if version == Version::V311 {
            let reason = self.reason(&[
                ReasonCode::Success,
                ReasonCode::NotAuthorized,
                ReasonCode::ServerUnavailable,
            ]);
            let session_present = self.bit(33) && reason == ReasonCode::Success;
            return ConnAck {
                session_present,
                reason,
                ..ConnAck::default()
            };
        }
        let reason = self.reason(&[
            ReasonCode::Success,
            ReasonCode::Banned,
            ReasonCode::UseAnotherServer,
        ]);
        ConnAck {
            session_present: self.bit(33) && reason == ReasonCode::Success,
            reason,
            session_expiry_s: self.number(0),
            receive_maximum: self.short(1),
            maximum_qos: self.qos(),
            retain_available: self.bit(34),
            maximum_packet_size: self.number(2),
            assigned_client_id: self.text(0),
            topic_alias_maximum: self.short(2),
            reason_string: self.text(1),
            user_properties: self.users(),
            wildcard_subscription_available: self.bit(35),
            subscription_ids_available: self.bit(36),
            shared_subscription_available: self.bit(37),
            server_keep_alive_s: self.bit(38).then_some(self.short(3)),
            response_information: self.text(2),
            server_reference: self.text(3),
            authentication_method: Some(&self.texts[4]),
            authentication_data: self.data(0),
        }
    }

    pub(crate) fn publish(&self, version: Version) -> Publish<'_> {
        let qos = self.qos();
        let mut properties = PublishProperties::default();
        if version == Version::V5 {
            properties = self.message_properties();
            properties.topic_alias = self.bit(33).then_some(self.short(1));
        }
        Publish {
            dup: self.bit(34) && qos != QoS::AtMostOnce,
            qos,
            retain: self.bit(35),
            topic: if properties.topic_alias.is_some() && self.bit(36) {
                ""
            } else {
                &self.topics[0]
            },
            packet_id: (qos != QoS::AtMostOnce).then_some(self.short(2)),
            properties,
            payload: &self.data[2],
        }
    }

    fn ack(&self, version: Version, reasons: &[ReasonCode]) -> Ack<'_> {
        let mut ack = Ack::new(self.short(0), ReasonCode::Success);
        if version == Version::V5 {
            ack.reason = self.reason(reasons);
            ack.reason_string = self.text(0);
            ack.user_properties = if self.bit(33) {
                self.users()
            } else {
                UserProperties::default()
            };
        }
        ack
    }

    fn suback<'a>(&'a self, version: Version, reasons: &'a [u8]) -> SubAck<'a> {
        let ack = self.ack(version, &[ReasonCode::Success]);
        SubAck {
            packet_id: ack.packet_id,
            reason_string: ack.reason_string,
            user_properties: ack.user_properties,
            reasons,
        }
    }

    fn disconnect(&self, version: Version, sender: Sender) -> Disconnect<'_> {
        let mut disconnect = Disconnect::new(ReasonCode::Success);
        if version == Version::V5 {
            let ack = self.ack(
                version,
                &[
                    ReasonCode::Success,
                    ReasonCode::ServerMoved,
                    ReasonCode::UnspecifiedError,
                ],
            );
            disconnect.reason = ack.reason;
            disconnect.reason_string = ack.reason_string;
            disconnect.user_properties = ack.user_properties;
            match sender {
                Sender::Client => disconnect.session_expiry_s = self.number(1),
                Sender::Server => disconnect.server_reference = self.text(5),
            }
        }
        disconnect
    }

    fn auth(&self, sender: Sender) -> Auth<'_> {
        let other = if sender == Sender::Client {
            ReasonCode::ReAuthenticate
        } else {
            ReasonCode::Success
        };
        Auth {
            reason: self.reason(&[ReasonCode::ContinueAuthentication, other]),
            authentication_method: Some(&self.texts[0]),
            authentication_data: self.data(0),
            reason_string: self.text(1),
            user_properties: self.users(),
        }
    }

    /// Every packet that `sender` may send, but SUBSCRIBE and UNSUBSCRIBE, which only the decoder can make.
    pub(crate) fn packets(&self, version: Version, sender: Sender) -> Vec<Packet<'_>> {
        use ReasonCode::{
            GrantedQoS1, NoMatchingSubscribers, PacketIdentifierNotFound, QuotaExceeded, Success,
        };
        let mut packets = vec![
            Packet::Publish(self.publish(version)),
            Packet::PubAck(self.ack(version, &[Success, NoMatchingSubscribers, QuotaExceeded])),
            Packet::PubRec(self.ack(version, &[Success, NoMatchingSubscribers, QuotaExceeded])),
            Packet::PubRel(self.ack(version, &[Success, PacketIdentifierNotFound])),
            Packet::PubComp(self.ack(version, &[Success, PacketIdentifierNotFound])),
        ];
        if version == Version::V5 {
            packets.push(Packet::Auth(self.auth(sender)));
        }
        if sender == Sender::Client {
            packets.push(Packet::Connect(Box::new(self.connect(version))));
            packets.push(Packet::PingReq);
        } else {
            const REASONS: &[u8] = &[0, GrantedQoS1 as u8, 0x80];
            packets.push(Packet::ConnAck(Box::new(self.connack(version))));
            packets.push(Packet::SubAck(self.suback(version, REASONS)));
            let reasons = if version == Version::V5 {
                &[0, 0x11, 0x8F][..]
            } else {
                &[]
            };
            packets.push(Packet::UnsubAck(self.suback(version, reasons)));
            packets.push(Packet::PingResp);
        }
        if version == Version::V5 || sender == Sender::Client {
            packets.push(Packet::Disconnect(self.disconnect(version, sender)));
        }
        packets
    }
}

pub(crate) fn filter() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-c]{1,2}(/[a-c]{0,1}|/\\+){0,3}(/#)?",
        "\\$share/[a-c]{1,3}/[a-c]{1,2}(/\\+){0,2}(/#)?",
        Just("#".to_owned())
    ]
}

pub(crate) fn options() -> impl Strategy<Value = SubscriptionOptions> {
    (0..3u8, any::<bool>(), any::<bool>(), 0..3u8).prop_map(
        |(qos, no_local, retain_as_published, handling)| SubscriptionOptions {
            maximum_qos: QoS::from_u8(qos).unwrap(),
            no_local,
            retain_as_published,
            retain_handling: RetainHandling::from_u8(handling).unwrap(),
        },
    )
}
