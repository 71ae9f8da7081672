//! Any message of any kind.

use std::net::IpAddr;

use gateway::bus::wire::KINDS;
use gateway::core_message::*;
use gateway::engine::WillRecord;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use reactor::datagram::Ecn;

use super::handing_over::{self, id, received};
use super::parts::*;

fn hand() -> impl Strategy<Value = Box<Hand>> {
    let messages = vec((message(), delivery()), 0..3);
    (connection(), messages, (n16(), n64())).prop_map(|(connection, messages, answer)| {
        Box::new(Hand {
            connection,
            messages,
            answer,
        })
    })
}

fn deliver() -> impl Strategy<Value = CoreMessage> {
    let recipient = (connection(), delivery()).prop_map(|(connection, delivery)| Recipient {
        connection,
        delivery,
    });
    let answer = (n16(), n64(), id(), any::<bool>());
    let answer = answer.prop_map(|(core, publish, id, retry)| DeliverReply {
        core,
        publish,
        id,
        retry,
    });
    let parts = (
        message(),
        vec(recipient, 0..5),
        option::of(answer),
        any::<bool>(),
    );
    parts.prop_map(|(message, recipients, answer, is_lossy)| {
        CoreMessage::Deliver(Box::new(Deliver {
            message,
            recipients,
            answer,
            is_lossy: is_lossy && answer.is_none(),
        }))
    })
}

fn publish() -> impl Strategy<Value = CoreMessage> {
    let received = option::of((session(), count16()));
    let parts = (message(), origin(), any::<bool>(), received);
    let parts = (parts, id(), any::<bool>());
    parts.prop_map(|((message, origin, may_refuse, received), id, retry)| {
        CoreMessage::Publish(Box::new(PublishRequest {
            message,
            origin,
            may_refuse,
            received,
            id,
            retry,
        }))
    })
}

fn attach() -> impl Strategy<Value = CoreMessage> {
    let will = (message(), n32(), option::of(n32()));
    let will = will.prop_map(|(message, delay_s, message_expiry_s)| WillRecord {
        message,
        delay_s,
        message_expiry_s,
    });
    let parts = (
        (
            n16(),
            (connection(), n64(), session()),
            text(),
            any::<bool>(),
            n32(),
        ),
        (
            option::of(will),
            address(),
            any::<bool>(),
            option::of(identity()),
        ),
    );
    parts.prop_map(
        |(
            (core, (connection, asked, session), client_id, clean_start, expiry_s),
            (will, peer, secure, identity),
        )| {
            CoreMessage::Attach(Box::new(Attach {
                core,
                connection,
                asked,
                session,
                client_id: client_id.into(),
                clean_start,
                expiry_s,
                will,
                peer,
                secure,
                identity,
            }))
        },
    )
}

fn attached() -> impl Strategy<Value = CoreMessage> {
    let session = (
        (session(), key(), n16()),
        (any::<bool>(), any::<bool>()),
        vec(received(), 0..4),
        n32(),
    );
    let session = session.prop_map(
        |((session, home, home_core), (present, durable), received, subscriptions)| {
            AttachedSession {
                session,
                home,
                home_core,
                present,
                durable,
                received,
                subscriptions,
            }
        },
    );
    let outcome = prop_oneof![session.prop_map(Ok), reason().prop_map(Err)];
    (connection(), n64(), outcome).prop_map(|(connection, asked, outcome)| {
        CoreMessage::Attached(Box::new(Attached {
            connection,
            asked,
            outcome,
        }))
    })
}

fn detach() -> impl Strategy<Value = CoreMessage> {
    let parts = (
        (key(), connection(), n16(), any::<bool>()),
        (option::of(n32()), vec(received(), 0..4), n64()),
    );
    parts.prop_map(
        |((home, connection, core, will), (expiry_s, received, sent_to))| {
            CoreMessage::Detach(Box::new(Detach {
                home,
                connection,
                core,
                will,
                expiry_s,
                received,
                sent_to,
            }))
        },
    )
}

fn subscribe() -> impl Strategy<Value = CoreMessage> {
    let parts = (
        filter(),
        (session(), target(), record(), qos()),
        presence(),
        option::of(reply()),
    );
    parts.prop_map(
        |(filter, (session, target, record, qos_allowed), presence, reply)| {
            CoreMessage::Subscribe(Box::new(SubscribeRequest {
                filter,
                subscriber: Subscriber {
                    qos_allowed,
                    ..Subscriber::new(session, target, record)
                },
                presence,
                reply,
            }))
        },
    )
}

fn home_subscribe() -> impl Strategy<Value = CoreMessage> {
    let parts = (key(), reply(), filter(), record(), any::<bool>());
    parts.prop_map(|(home, reply, filter, record, only_replaces)| {
        CoreMessage::HomeSubscribe(Box::new(HomeSubscribe {
            home,
            reply,
            filter,
            options: record.options,
            subscription_id: record.subscription_id,
            only_replaces,
        }))
    })
}

fn retained_scan() -> impl Strategy<Value = CoreMessage> {
    let after = option::of(topic()).prop_map(Option::unwrap_or_default);
    let mailbox = option::of((session(), record()));
    let parts = (filter(), after, count16(), mailbox, n16(), reply());
    parts.prop_map(|(filter, after, limit, mailbox, home_partition, reply)| {
        CoreMessage::RetainedScan(Box::new(RetainedScan {
            filter,
            after,
            limit,
            mailbox,
            home_partition,
            reply,
        }))
    })
}

fn mailbox_push() -> impl Strategy<Value = CoreMessage> {
    let content = option::of((message(), delivery()));
    let parts = (
        connection(),
        count64(),
        content,
        any::<bool>(),
        any::<bool>(),
    );
    parts.prop_map(|(connection, sequence, content, dup, begun)| {
        CoreMessage::MailboxPush(Box::new(MailboxPush {
            connection,
            sequence,
            content,
            dup,
            begun,
        }))
    })
}

fn mailbox_ack() -> impl Strategy<Value = CoreMessage> {
    let outcome = select(vec![
        Outcome::Delivered,
        Outcome::Expired,
        Outcome::TooLarge,
        Outcome::Refused,
        Outcome::Denied,
    ]);
    (key(), count64(), n32(), outcome).prop_map(|(home, sequence, bytes, outcome)| {
        CoreMessage::MailboxAck {
            home,
            sequence,
            bytes,
            outcome,
        }
    })
}

fn stray() -> impl Strategy<Value = CoreMessage> {
    let ecn = option::of(select(vec![Ecn::Ect0, Ecn::Ect1, Ecn::Ce]));
    let parts = (
        n16(),
        address(),
        option::of(any::<IpAddr>()),
        ecn,
        vec(any::<u8>(), 0..50),
    );
    parts.prop_map(|(listener, remote, local, ecn, bytes)| {
        CoreMessage::Stray(Box::new(StrayDatagram {
            listener,
            remote,
            local,
            ecn,
            bytes,
        }))
    })
}

/// Messages that are one filter and a few words about a session.
fn about_filter(kind: &str) -> BoxedStrategy<CoreMessage> {
    match kind {
        "Unsubscribe" => (filter(), session(), option::of(reply()))
            .prop_map(|(filter, session, reply)| {
                CoreMessage::Unsubscribe(Box::new(UnsubscribeRequest {
                    filter,
                    session,
                    reply,
                }))
            })
            .boxed(),
        "LimitSubscription" => (filter(), session(), qos())
            .prop_map(|(filter, session, qos_allowed)| {
                CoreMessage::LimitSubscription(Box::new(LimitSubscription {
                    filter,
                    session,
                    qos_allowed,
                }))
            })
            .boxed(),
        "FindSubscription" => (filter(), session(), reply())
            .prop_map(|(filter, session, reply)| {
                CoreMessage::FindSubscription(Box::new(FindSubscription {
                    filter,
                    session,
                    reply,
                }))
            })
            .boxed(),
        "SharedPresence" => (filter(), session(), presence())
            .prop_map(|(filter, session, presence)| {
                CoreMessage::SharedPresence(Box::new(SharedPresence {
                    filter,
                    session,
                    presence,
                }))
            })
            .boxed(),
        other => panic!("the kind {other} has no strategy"),
    }
}

/// Messages without a box, but for those with a strategy of their own.
fn plain(kind: &str) -> BoxedStrategy<CoreMessage> {
    use CoreMessage as M;
    match kind {
        "PublishDone" => (origin(), reason(), n32(), id())
            .prop_map(|(origin, reason, recipients, id)| M::PublishDone {
                origin,
                reason,
                recipients,
                id,
            })
            .boxed(),
        "DeliverDone" => n64().prop_map(|publish| M::DeliverDone { publish }).boxed(),
        "SubscriptionDone" => (reply(), any::<bool>())
            .prop_map(|(reply, existed)| M::SubscriptionDone { reply, existed })
            .boxed(),
        "HandHome" => (session(), hand())
            .prop_map(|(session, hand)| M::HandHome { session, hand })
            .boxed(),
        "HandDone" => (n64(), n32())
            .prop_map(|(transfer, taken)| M::HandDone { transfer, taken })
            .boxed(),
        "Evict" => (option::of(key()), connection(), reason())
            .prop_map(|(home, connection, reason)| M::Evict {
                home,
                connection,
                reason,
            })
            .boxed(),
        "SubscriptionCut" => connection()
            .prop_map(|connection| M::SubscriptionCut { connection })
            .boxed(),
        "HomeUnsubscribe" => (key(), reply(), filter())
            .prop_map(|(home, reply, filter)| M::HomeUnsubscribe {
                home,
                reply,
                filter,
            })
            .boxed(),
        "MailboxPubRec" => (key(), count64())
            .prop_map(|(home, sequence)| M::MailboxPubRec { home, sequence })
            .boxed(),
        "PubRecRecorded" => (connection(), count64())
            .prop_map(|(connection, sequence)| M::PubRecRecorded {
                connection,
                sequence,
            })
            .boxed(),
        "Release" => (key(), count16())
            .prop_map(|(home, packet_id)| M::Release { home, packet_id })
            .boxed(),
        "Released" => (connection(), count16())
            .prop_map(|(connection, packet_id)| M::Released {
                connection,
                packet_id,
            })
            .boxed(),
        other => about_filter(other),
    }
}

fn of_kind(kind: &str) -> BoxedStrategy<CoreMessage> {
    match kind {
        "Publish" => publish().boxed(),
        "Deliver" => deliver().boxed(),
        "DeliverHome" => (message(), vec((session(), delivery()), 0..4))
            .prop_map(|(message, recipients)| {
                CoreMessage::DeliverHome(Box::new(DeliverHome {
                    message,
                    recipients,
                }))
            })
            .boxed(),
        "Subscribe" => subscribe().boxed(),
        "Hand" => hand().prop_map(CoreMessage::Hand).boxed(),
        "RetainedScan" => retained_scan().boxed(),
        "RetainedPage" => (reply(), vec(message(), 0..3), option::of(topic()))
            .prop_map(|(reply, messages, next)| {
                CoreMessage::RetainedPage(Box::new(RetainedPage {
                    reply,
                    messages,
                    next,
                }))
            })
            .boxed(),
        "Attach" => attach().boxed(),
        "Attached" => attached().boxed(),
        "Detach" => detach().boxed(),
        "Identify" => (key(), identity())
            .prop_map(|(home, identity)| {
                CoreMessage::Identify(Box::new(Identify { home, identity }))
            })
            .boxed(),
        "HomeSubscribe" => home_subscribe().boxed(),
        "MailboxPush" => mailbox_push().boxed(),
        "MailboxAck" => mailbox_ack().boxed(),
        "Stray" => stray().boxed(),
        other => handing_over::of_kind(other).unwrap_or_else(|| plain(other)),
    }
}

/// A message of any kind, each as often as any other. A kind without a strategy panics.
pub(crate) fn any_message() -> impl Strategy<Value = CoreMessage> {
    let kinds = KINDS.iter().map(|(_, kind)| of_kind(kind));
    proptest::strategy::Union::new(kinds)
}
