//! One message of each kind and more of those that come in several forms, each with a name.

use std::net::SocketAddr;
use std::sync::Arc;

use edge_proto::packet::{QoS, RetainHandling, SubscriptionOptions};
use edge_proto::reason::ReasonCode;
use gateway::access::Identity;
use gateway::access::rules::{RuleSource, Rules};
use gateway::core_message::*;
use gateway::engine::claim::ReceivedId;
use gateway::engine::{Delivery, SubscriptionRecord, WillRecord};
use gateway::message::{Message, MessageParts, SessionId};
use reactor::datagram::Ecn;
use reactor::driver::ConnectionId;
use reactor::slab::Key;
use serde_json::json;

use super::handing_over::{self, ID, RECEIVED};

pub(crate) const SESSION: SessionId = SessionId(0x0001_0200_0000_002A);

pub(crate) const CONNECTION: ConnectionId = ConnectionId {
    slot: 300,
    generation: 7,
};

pub(crate) const HOME: Key = Key {
    slot: 5,
    generation: 1,
};

pub(crate) const HOMES: Target = Target::Home { partition: 2 };

const REPLY: ReplyTo = ReplyTo {
    core: 3,
    home: true,
    request: HOME,
    index: 2,
};

const RECORD: SubscriptionRecord = SubscriptionRecord {
    options: SubscriptionOptions {
        maximum_qos: QoS::AtLeastOnce,
        no_local: true,
        retain_as_published: false,
        retain_handling: RetainHandling::SendIfNew,
    },
    subscription_id: 268_435_455,
};

pub(crate) fn message() -> Arc<Message> {
    Arc::new(Message::new(MessageParts {
        topic: "u/bob",
        properties: &[0x26, 0, 1, b'k', 0, 1, b'v'],
        payload: b"hello",
        qos: QoS::AtLeastOnce,
        retain: false,
        expires_at_unix_ms: 1_800_000_000_000,
        publisher: SESSION,
    }))
}

/// Without anything that can be left out.
fn bare_message() -> Arc<Message> {
    Arc::new(Message::new(MessageParts {
        topic: "t",
        properties: &[],
        payload: &[],
        qos: QoS::ExactlyOnce,
        retain: true,
        expires_at_unix_ms: u64::MAX,
        publisher: SessionId(0),
    }))
}

pub(crate) fn delivery(subscription_ids: &[u32]) -> Delivery {
    Delivery {
        qos: QoS::AtLeastOnce,
        retain: true,
        subscription_ids: subscription_ids.into(),
    }
}

pub(crate) fn will() -> WillRecord {
    WillRecord {
        message: message(),
        delay_s: 30,
        message_expiry_s: Some(60),
    }
}

fn publish(
    message: Arc<Message>,
    origin: Origin,
    received: Option<(SessionId, u16)>,
) -> CoreMessage {
    CoreMessage::Publish(Box::new(PublishRequest {
        message,
        origin,
        may_refuse: true,
        received,
        id: ID,
        retry: true,
    }))
}

fn client() -> Origin {
    Origin::Client {
        core: 9,
        connection: CONNECTION,
        packet_id: 65_535,
        bytes: 200,
    }
}

fn admin() -> Origin {
    Origin::Admin {
        core: 300,
        request: 1 << 40,
    }
}

fn publishing() -> Vec<(&'static str, CoreMessage)> {
    vec![
        ("Publish, a client's", publish(message(), client(), None)),
        (
            "Publish, received",
            publish(bare_message(), client(), Some((SESSION, 1))),
        ),
        (
            "Publish, nobody waits",
            publish(message(), Origin::Nobody, None),
        ),
        ("Publish, an operator's", publish(message(), admin(), None)),
        (
            "PublishDone",
            CoreMessage::PublishDone {
                origin: client(),
                reason: ReasonCode::QuotaExceeded,
                recipients: 1_000_000,
                id: ID,
            },
        ),
        ("Deliver, answered", deliver(Some((4, 77)), false)),
        ("Deliver, reliable", deliver(None, false)),
        ("Deliver, lossy", deliver(None, true)),
        ("DeliverDone", CoreMessage::DeliverDone { publish: 77 }),
        (
            "DeliverHome",
            CoreMessage::DeliverHome(Box::new(DeliverHome {
                message: message(),
                recipients: vec![(SESSION, delivery(&[1]))],
            })),
        ),
        (
            "Hand",
            CoreMessage::Hand(Box::new(Hand {
                connection: CONNECTION,
                messages: vec![
                    (message(), delivery(&[])),
                    (bare_message(), delivery(&[2, 3])),
                ],
                answer: (65_535, u64::MAX),
            })),
        ),
        (
            "HandHome",
            CoreMessage::HandHome {
                session: SESSION,
                hand: Box::new(Hand {
                    connection: Hand::NOBODY,
                    messages: Vec::new(),
                    answer: (0, 0),
                }),
            },
        ),
        (
            "HandDone",
            CoreMessage::HandDone {
                transfer: 128,
                taken: 127,
            },
        ),
    ]
}

fn deliver(answer: Option<(u16, u64)>, is_lossy: bool) -> CoreMessage {
    let answer = answer.map(|(core, publish)| DeliverReply {
        core,
        publish,
        id: ID,
        retry: true,
    });
    let recipient = |slot, subscription_ids| Recipient {
        connection: ConnectionId {
            slot,
            generation: 1,
        },
        delivery: delivery(subscription_ids),
    };
    CoreMessage::Deliver(Box::new(Deliver {
        message: message(),
        recipients: vec![recipient(1, &[]), recipient(u32::MAX, &[1, 300])],
        answer,
        is_lossy,
    }))
}

fn subscribe(target: Target, reply: Option<ReplyTo>) -> CoreMessage {
    CoreMessage::Subscribe(Box::new(SubscribeRequest {
        filter: "$share/team/jobs/+/#".into(),
        subscriber: Subscriber {
            qos_allowed: QoS::AtMostOnce,
            ..Subscriber::new(SESSION, target, RECORD)
        },
        presence: Presence {
            connected: true,
            load: 3,
        },
        reply,
    }))
}

fn subscribing() -> Vec<(&'static str, CoreMessage)> {
    let live = Target::Live {
        core: 1,
        connection: CONNECTION,
    };
    let filter: Box<str> = "u/alice/#".into();
    vec![
        ("Subscribe, live", subscribe(live, Some(REPLY))),
        ("Subscribe, home", subscribe(HOMES, None)),
        (
            "Unsubscribe",
            CoreMessage::Unsubscribe(Box::new(UnsubscribeRequest {
                filter: filter.clone(),
                session: SESSION,
                reply: Some(REPLY),
            })),
        ),
        (
            "LimitSubscription",
            CoreMessage::LimitSubscription(Box::new(LimitSubscription {
                filter: filter.clone(),
                session: SESSION,
                qos_allowed: QoS::AtLeastOnce,
            })),
        ),
        (
            "FindSubscription",
            CoreMessage::FindSubscription(Box::new(FindSubscription {
                filter: filter.clone(),
                session: SESSION,
                reply: REPLY,
            })),
        ),
        (
            "SubscriptionDone",
            CoreMessage::SubscriptionDone {
                reply: REPLY,
                existed: true,
            },
        ),
        (
            "SharedPresence",
            CoreMessage::SharedPresence(Box::new(SharedPresence {
                filter: "$share/team/jobs".into(),
                session: SESSION,
                presence: Presence {
                    connected: false,
                    load: 0,
                },
            })),
        ),
        (
            "HomeSubscribe",
            CoreMessage::HomeSubscribe(Box::new(HomeSubscribe {
                home: HOME,
                reply: REPLY,
                filter: filter.clone(),
                options: RECORD.options,
                subscription_id: 1,
                only_replaces: true,
            })),
        ),
        (
            "HomeUnsubscribe",
            CoreMessage::HomeUnsubscribe {
                home: HOME,
                reply: REPLY,
                filter,
            },
        ),
    ]
}

fn retained() -> Vec<(&'static str, CoreMessage)> {
    vec![
        ("RetainedScan, live", scan("", None)),
        (
            "RetainedScan, durable",
            scan("u/alice/in", Some((SESSION, RECORD))),
        ),
        (
            "RetainedPage",
            page(vec![message(), bare_message()], Some("u/bob")),
        ),
        ("RetainedPage, the last", page(Vec::new(), None)),
    ]
}

fn scan(after: &str, mailbox: Option<(SessionId, SubscriptionRecord)>) -> CoreMessage {
    CoreMessage::RetainedScan(Box::new(RetainedScan {
        filter: "u/#".into(),
        after: after.into(),
        limit: 32,
        home_partition: mailbox.map_or(0, |_| 16_383),
        mailbox,
        reply: REPLY,
    }))
}

fn page(messages: Vec<Arc<Message>>, next: Option<&str>) -> CoreMessage {
    CoreMessage::RetainedPage(Box::new(RetainedPage {
        reply: REPLY,
        messages,
        next: next.map(Box::from),
    }))
}

/// Rules that have everything that a rule can have.
pub(crate) fn rules() -> Rules {
    let rules = json!([
        { "allow": ["publish", "subscribe"], "users": ["robot-*", "alice"], "groups": ["staff"],
          "clients": ["panel-*"], "topics": ["u/%u/#", "x%%%c-%g/+"], "qos_max": 1, "retain": false },
        { "deny": ["publish"], "topics": ["#"] },
    ]);
    Rules::from_json(&rules, RuleSource::Token).expect("valid rules")
}

fn attach(
    peer: SocketAddr,
    will: Option<WillRecord>,
    identity: Option<Arc<Identity>>,
) -> CoreMessage {
    CoreMessage::Attach(Box::new(Attach {
        core: 11,
        connection: CONNECTION,
        asked: 300,
        session: SESSION,
        client_id: "phone".into(),
        clean_start: false,
        expiry_s: u32::MAX,
        will,
        peer,
        secure: true,
        identity,
    }))
}

fn sessions() -> Vec<(&'static str, CoreMessage)> {
    let identity = Arc::new(Identity {
        user: Some("alice".into()),
        groups: ["family".into(), "chess".into()].into(),
        expires_at_unix_ms: Some(1_800_000_000_000),
        rules: Some(Arc::new(rules())),
    });
    let v4 = SocketAddr::from(([10, 0, 0, 7], 40_000));
    let v6 = SocketAddr::from(([0xFE80, 0, 0, 0, 0, 0, 0, 1], 1883));
    vec![
        (
            "Attach, with everything",
            attach(v6, Some(will()), Some(identity.clone())),
        ),
        ("Attach, anonymous", attach(v4, None, None)),
        ("Attached", attached(Ok(vec![RECEIVED; 2]))),
        (
            "Attached, refused",
            attached(Err(ReasonCode::SessionTakenOver)),
        ),
        (
            "Evict",
            CoreMessage::Evict {
                home: Some(HOME),
                connection: CONNECTION,
                reason: ReasonCode::AdministrativeAction,
            },
        ),
        (
            "Detach",
            CoreMessage::Detach(Box::new(Detach {
                home: HOME,
                connection: CONNECTION,
                core: 11,
                will: true,
                expiry_s: Some(3_600),
                received: vec![RECEIVED],
                sent_to: 0,
            })),
        ),
        (
            "Identify",
            CoreMessage::Identify(Box::new(Identify {
                home: HOME,
                identity,
            })),
        ),
        (
            "SubscriptionCut",
            CoreMessage::SubscriptionCut {
                connection: CONNECTION,
            },
        ),
        ("Stray", stray(v4, None, None)),
        ("Stray, IPv6", stray(v6, Some(v6), Some(Ecn::Ce))),
    ]
}

fn attached(received: Result<Vec<ReceivedId>, ReasonCode>) -> CoreMessage {
    CoreMessage::Attached(Box::new(Attached {
        connection: CONNECTION,
        asked: 300,
        outcome: received.map(|received| AttachedSession {
            session: SESSION,
            home: HOME,
            home_core: 4,
            present: true,
            durable: true,
            received,
            subscriptions: 200,
        }),
    }))
}

fn stray(remote: SocketAddr, local: Option<SocketAddr>, ecn: Option<Ecn>) -> CoreMessage {
    CoreMessage::Stray(Box::new(StrayDatagram {
        listener: 1,
        remote,
        local: local.map(|local| local.ip()),
        ecn,
        bytes: vec![0x40, 1, 2, 3],
    }))
}

fn mailboxes() -> Vec<(&'static str, CoreMessage)> {
    let push = |content, dup, begun| {
        CoreMessage::MailboxPush(Box::new(MailboxPush {
            connection: CONNECTION,
            sequence: 1_000,
            content,
            dup,
            begun,
        }))
    };
    vec![
        (
            "MailboxPush",
            push(Some((message(), delivery(&[5]))), true, false),
        ),
        ("MailboxPush, after PUBREC", push(None, false, true)),
        (
            "MailboxAck",
            CoreMessage::MailboxAck {
                home: HOME,
                sequence: 1_000,
                bytes: 150,
                outcome: Outcome::Denied,
            },
        ),
        (
            "MailboxPubRec",
            CoreMessage::MailboxPubRec {
                home: HOME,
                sequence: u64::MAX,
            },
        ),
        (
            "PubRecRecorded",
            CoreMessage::PubRecRecorded {
                connection: CONNECTION,
                sequence: 1,
            },
        ),
        (
            "Release",
            CoreMessage::Release {
                home: HOME,
                packet_id: 256,
            },
        ),
        (
            "Released",
            CoreMessage::Released {
                connection: CONNECTION,
                packet_id: 1,
            },
        ),
    ]
}

pub(crate) fn all() -> Vec<(&'static str, CoreMessage)> {
    [
        publishing(),
        subscribing(),
        retained(),
        sessions(),
        mailboxes(),
        handing_over::samples(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
