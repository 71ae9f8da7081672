//! Samples and strategies of what only the nodes of a cluster say: to homes elsewhere, and from one view to the next.

use gateway::core_message::{
    AppendRequest, CoreMessage, HandoverStep, MailboxRecipient, Reattach, Stage, SubscriptionName,
};
use gateway::engine::claim::{MessageId, ReceivedId};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::parts::{
    address, connection, count16, identity, key, message as any_message, n16, n64, session, text,
};
use crate::samples::{CONNECTION, HOME, SESSION, delivery, message, will};

/// What a message of the ninth core is known by.
pub(crate) const ID: MessageId = MessageId {
    origin: 7 << 16 | 9,
    number: 300,
};

pub(crate) const RECEIVED: ReceivedId = ReceivedId {
    packet_id: 258,
    message: ID,
};

/// Some subscription.
const NAME: SubscriptionName = SubscriptionName {
    session: SESSION,
    filter: 0x1F2E_3D4C_5B6A_7988,
};

fn name() -> impl Strategy<Value = SubscriptionName> {
    (session(), n64()).prop_map(|(session, filter)| SubscriptionName { session, filter })
}

fn step(stage: Stage) -> CoreMessage {
    CoreMessage::Handover(HandoverStep {
        epoch: 1_000,
        stage,
    })
}

fn reattach_sample() -> CoreMessage {
    let v6 = ([0xFE80, 0, 0, 0, 0, 0, 0, 1], 1883).into();
    CoreMessage::Reattach(Box::new(Reattach {
        core: 9,
        connection: CONNECTION,
        session: SESSION,
        client_id: "phone".into(),
        durable: false,
        will: Some(will()),
        peer: v6,
        identity: None,
        sent_to: 1_000,
    }))
}

pub(crate) fn samples() -> Vec<(&'static str, CoreMessage)> {
    vec![
        (
            "Append",
            CoreMessage::Append(Box::new(AppendRequest {
                message: message(),
                id: ID,
                retry: true,
                recipients: vec![MailboxRecipient {
                    session: SESSION,
                    partition: 16_383,
                    delivery: delivery(&[5]),
                }],
                answer: (9, 1 << 33),
            })),
        ),
        (
            "AppendDone",
            CoreMessage::AppendDone {
                publish: 1 << 33,
                rejected: true,
            },
        ),
        (
            "Receive",
            CoreMessage::Receive {
                home: HOME,
                received: RECEIVED,
            },
        ),
        (
            "Received",
            CoreMessage::Received {
                connection: CONNECTION,
                received: RECEIVED,
            },
        ),
        ("Reattach", reattach_sample()),
        (
            "Reattached",
            CoreMessage::Reattached {
                connection: CONNECTION,
                home: HOME,
            },
        ),
        (
            "DetachDone",
            CoreMessage::DetachDone {
                connection: CONNECTION,
                known: true,
            },
        ),
        (
            "FindSubscriptions",
            CoreMessage::FindSubscriptions {
                core: 4,
                names: vec![(0, NAME), (16_383, NAME)],
            },
        ),
        (
            "SubscriptionsEnded",
            CoreMessage::SubscriptionsEnded(vec![NAME]),
        ),
        ("Handover, installed", step(Stage::Installed)),
        ("Handover, announced", step(Stage::Announced)),
        ("Handover, loaded", step(Stage::Loaded)),
    ]
}

pub(crate) fn id() -> impl Strategy<Value = MessageId> {
    (n64(), n64()).prop_map(|(origin, number)| MessageId { origin, number })
}

pub(crate) fn received() -> impl Strategy<Value = ReceivedId> {
    (count16(), id()).prop_map(|(packet_id, message)| ReceivedId { packet_id, message })
}

fn append() -> impl Strategy<Value = CoreMessage> {
    let recipient = (session(), n16(), crate::parts::delivery());
    let recipient = recipient.prop_map(|(session, partition, delivery)| MailboxRecipient {
        session,
        partition,
        delivery,
    });
    let parts = (
        any_message(),
        id(),
        any::<bool>(),
        vec(recipient, 0..4),
        (n16(), n64()),
    );
    parts.prop_map(|(message, id, retry, recipients, answer)| {
        CoreMessage::Append(Box::new(AppendRequest {
            message,
            id,
            retry,
            recipients,
            answer,
        }))
    })
}

fn reattach() -> impl Strategy<Value = CoreMessage> {
    let parts = (
        (n16(), connection(), session(), text()),
        (any::<bool>(), address(), n64()),
        proptest::option::of(identity()),
    );
    parts.prop_map(
        |((core, connection, session, client_id), (durable, peer, sent_to), identity)| {
            CoreMessage::Reattach(Box::new(Reattach {
                core,
                connection,
                session,
                client_id: client_id.into(),
                durable,
                will: durable.then(will),
                peer,
                identity,
                sent_to,
            }))
        },
    )
}

/// The strategy of a kind; `None` for other ones.
pub(crate) fn of_kind(kind: &str) -> Option<BoxedStrategy<CoreMessage>> {
    use CoreMessage as M;
    Some(match kind {
        "Append" => append().boxed(),
        "AppendDone" => (n64(), any::<bool>())
            .prop_map(|(publish, rejected)| M::AppendDone { publish, rejected })
            .boxed(),
        "Receive" => (key(), received())
            .prop_map(|(home, received)| M::Receive { home, received })
            .boxed(),
        "Received" => (connection(), received())
            .prop_map(|(connection, received)| M::Received {
                connection,
                received,
            })
            .boxed(),
        "Reattach" => reattach().boxed(),
        "Reattached" => (connection(), key())
            .prop_map(|(connection, home)| M::Reattached { connection, home })
            .boxed(),
        "DetachDone" => (connection(), any::<bool>())
            .prop_map(|(connection, known)| M::DetachDone { connection, known })
            .boxed(),
        "FindSubscriptions" => (n16(), vec((n16(), name()), 0..4))
            .prop_map(|(core, names)| M::FindSubscriptions { core, names })
            .boxed(),
        "SubscriptionsEnded" => vec(name(), 0..4).prop_map(M::SubscriptionsEnded).boxed(),
        "Handover" => (n64(), 0..3u8)
            .prop_map(|(epoch, stage)| {
                let stage = match stage {
                    0 => Stage::Installed,
                    1 => Stage::Loaded,
                    _ => Stage::Announced,
                };
                M::Handover(HandoverStep { epoch, stage })
            })
            .boxed(),
        _ => return None,
    })
}
