//! Any message of any kind, with numbers at their bounds more often than elsewhere.

use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::sync::Arc;

use edge_proto::packet::{QoS, RetainHandling, SubscriptionOptions};
use edge_proto::reason::ReasonCode;
use gateway::access::Identity;
use gateway::access::rules::{RuleSource, Rules};
use gateway::bus::wire::KINDS;
use gateway::core_message::*;
use gateway::engine::{Delivery, SubscriptionRecord, WillRecord};
use gateway::message::{Message, MessageParts, SessionId};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use reactor::datagram::Ecn;
use reactor::driver::ConnectionId;
use reactor::slab::Key;
use serde_json::{Value, json};

fn n16() -> impl Strategy<Value = u16> {
    prop_oneof![0..300_u16, Just(u16::MAX), any::<u16>()]
}

fn n32() -> impl Strategy<Value = u32> {
    prop_oneof![0..300_u32, Just(u32::MAX), any::<u32>()]
}

fn n64() -> impl Strategy<Value = u64> {
    prop_oneof![0..300_u64, Just(u64::MAX), any::<u64>()]
}

fn count16() -> impl Strategy<Value = u16> {
    n16().prop_map(|number| number.max(1))
}

fn count64() -> impl Strategy<Value = u64> {
    n64().prop_map(|number| number.max(1))
}

fn text() -> impl Strategy<Value = String> {
    vec(any::<char>(), 0..8).prop_map(String::from_iter)
}

fn level() -> impl Strategy<Value = String> {
    let is_plain = |text: &String| !text.contains(['/', '+', '#', '\0']);
    prop_oneof![
        select(vec!["", "u", "alice", "$SYS", "ä"]).prop_map(String::from),
        text().prop_filter("wildcards", is_plain),
    ]
}

fn topic() -> impl Strategy<Value = Box<str>> {
    vec(level(), 1..4)
        .prop_map(|levels| levels.join("/").into_boxed_str())
        .prop_filter("empty", |topic| !topic.is_empty())
}

fn filter() -> impl Strategy<Value = Box<str>> {
    let share = select(vec!["", "$share/team/"]);
    let level = prop_oneof![3 => level(), 1 => Just("+".to_owned())];
    (share, vec(level, 1..4), any::<bool>()).prop_filter_map("empty", |(share, levels, below)| {
        let mut filter = levels.join("/");
        if below {
            filter.push_str("/#");
        }
        let is_share = filter == "$share" || filter.starts_with("$share/");
        (!filter.is_empty() && !is_share).then(|| format!("{share}{filter}").into_boxed_str())
    })
}

fn qos() -> impl Strategy<Value = QoS> {
    select(vec![QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce])
}

fn reason() -> impl Strategy<Value = ReasonCode> {
    let all: Vec<_> = (0..=u8::MAX).filter_map(ReasonCode::from_u8).collect();
    select(all)
}

fn session() -> impl Strategy<Value = SessionId> {
    n64().prop_map(SessionId)
}

fn connection() -> impl Strategy<Value = ConnectionId> {
    (n32(), n32()).prop_map(|(slot, generation)| ConnectionId { slot, generation })
}

fn key() -> impl Strategy<Value = Key> {
    (n32(), n32()).prop_map(|(slot, generation)| Key { slot, generation })
}

fn message() -> impl Strategy<Value = Arc<Message>> {
    let bytes = || vec(any::<u8>(), 0..200);
    let parts = (
        topic(),
        bytes(),
        bytes(),
        qos(),
        any::<bool>(),
        n64(),
        session(),
    );
    parts.prop_map(
        |(topic, properties, payload, qos, retain, expiry, publisher)| {
            Arc::new(Message::new(MessageParts {
                topic: &topic,
                properties: &properties,
                payload: &payload,
                qos,
                retain,
                expires_at_unix_ms: expiry,
                publisher,
            }))
        },
    )
}

fn delivery() -> impl Strategy<Value = Delivery> {
    let ids = vec(1..=268_435_455_u32, 0..3);
    (qos(), any::<bool>(), ids).prop_map(|(qos, retain, ids)| Delivery {
        qos,
        retain,
        subscription_ids: ids.into(),
    })
}

fn options() -> impl Strategy<Value = SubscriptionOptions> {
    let handling = [
        RetainHandling::Send,
        RetainHandling::SendIfNew,
        RetainHandling::DoNotSend,
    ];
    let parts = (
        qos(),
        any::<bool>(),
        any::<bool>(),
        select(handling.to_vec()),
    );
    parts.prop_map(
        |(maximum_qos, no_local, retain_as_published, retain_handling)| SubscriptionOptions {
            maximum_qos,
            no_local,
            retain_as_published,
            retain_handling,
        },
    )
}

fn record() -> impl Strategy<Value = SubscriptionRecord> {
    (options(), 0..=268_435_455_u32).prop_map(|(options, subscription_id)| SubscriptionRecord {
        options,
        subscription_id,
    })
}

fn reply() -> impl Strategy<Value = ReplyTo> {
    (n16(), any::<bool>(), key(), n16()).prop_map(|(core, home, request, index)| ReplyTo {
        core,
        home,
        request,
        index,
    })
}

fn origin() -> impl Strategy<Value = Origin> {
    let client = (n16(), connection(), count16(), n32());
    let client = client.prop_map(|(core, connection, packet_id, bytes)| Origin::Client {
        core,
        connection,
        packet_id,
        bytes,
    });
    let admin = (n16(), n64()).prop_map(|(core, request)| Origin::Admin { core, request });
    prop_oneof![Just(Origin::Nobody), client, admin]
}

fn target() -> impl Strategy<Value = Target> {
    let live = (n16(), connection());
    prop_oneof![
        live.prop_map(|(core, connection)| Target::Live { core, connection }),
        n16().prop_map(|partition| Target::Home { partition }),
    ]
}

fn presence() -> impl Strategy<Value = Presence> {
    (any::<bool>(), any::<u8>()).prop_map(|(connected, load)| Presence { connected, load })
}

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
    let answer = option::of((n16(), n64()));
    let parts = (message(), vec(recipient, 0..5), answer, any::<bool>());
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
    parts.prop_map(|(message, origin, may_refuse, received)| {
        CoreMessage::Publish(Box::new(PublishRequest {
            message,
            origin,
            may_refuse,
            received,
        }))
    })
}

fn address() -> impl Strategy<Value = SocketAddr> {
    let v6 = (any::<[u16; 8]>(), n16(), n32(), n32());
    prop_oneof![
        (any::<[u8; 4]>(), n16()).prop_map(SocketAddr::from),
        v6.prop_map(|(ip, port, flow, scope)| {
            SocketAddrV6::new(ip.into(), port, flow, scope).into()
        }),
    ]
}

/// One rule as it can be written.
fn rule() -> impl Strategy<Value = Value> {
    let names = |names: &'static [&str]| option::of(vec(select(names), 1..4));
    let users = names(&["alice", "bob", "robot-*", "*", "%u", "a b"]);
    let groups = names(&["staff", "s*"]);
    let topics = &[
        "#",
        "+/x",
        "u/%u/#",
        "%%/%c%g",
        "a//b",
        "$SYS/x",
        "100%%",
        "ä/+/%g-%g",
    ];
    let topics = vec(select(&topics[..]), 1..4);
    let actions = vec(select(&["publish", "subscribe"][..]), 1..3);
    let limits = (option::of(0..3_u8), option::of(any::<bool>()));
    let parts = (any::<bool>(), actions, users, groups, topics, limits);
    parts.prop_map(|(allows, actions, users, groups, topics, (qos, retain))| {
        let mut rule = json!({ "topics": topics, "users": users, "groups": groups });
        rule[if allows { "allow" } else { "deny" }] = json!(actions);
        if allows {
            rule["qos_max"] = json!(qos);
            rule["retain"] = json!(retain);
        }
        rule
    })
}

pub(crate) fn rules() -> impl Strategy<Value = Rules> {
    let source = select(vec![RuleSource::Token, RuleSource::CallOut]);
    (vec(rule(), 0..5), source).prop_map(|(rules, source)| {
        Rules::from_json(&Value::from(rules), source).expect("valid rules")
    })
}

fn identity() -> impl Strategy<Value = Arc<Identity>> {
    let parts = (
        option::of(text()),
        vec(text(), 0..3),
        option::of(n64()),
        option::of(rules()),
    );
    parts.prop_map(|(user, groups, expires_at_unix_ms, rules)| {
        Arc::new(Identity {
            user: user.map(Into::into),
            groups: groups.into_iter().map(Box::from).collect(),
            expires_at_unix_ms,
            rules: rules.map(Arc::new),
        })
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
        (n16(), connection(), text(), any::<bool>(), n32()),
        (
            option::of(will),
            address(),
            any::<bool>(),
            option::of(identity()),
        ),
    );
    parts.prop_map(
        |((core, connection, client_id, clean_start, expiry_s), (will, peer, secure, identity))| {
            CoreMessage::Attach(Box::new(Attach {
                core,
                connection,
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
        vec(count16(), 0..4),
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
    (connection(), outcome).prop_map(|(connection, outcome)| {
        CoreMessage::Attached(Box::new(Attached {
            connection,
            outcome,
        }))
    })
}

fn detach() -> impl Strategy<Value = CoreMessage> {
    let parts = (
        (key(), connection(), n16(), any::<bool>()),
        (option::of(n32()), vec(count16(), 0..4), n64()),
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
    let parts = (filter(), after, count16(), mailbox, reply());
    parts.prop_map(|(filter, after, limit, mailbox, reply)| {
        CoreMessage::RetainedScan(Box::new(RetainedScan {
            filter,
            after,
            limit,
            mailbox,
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
        "PublishDone" => (origin(), reason(), n32())
            .prop_map(|(origin, reason, recipients)| M::PublishDone {
                origin,
                reason,
                recipients,
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
        "Evict" => (connection(), reason())
            .prop_map(|(connection, reason)| M::Evict { connection, reason })
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
        other => plain(other),
    }
}

/// A message of any kind, each as often as any other. A kind without a strategy panics.
pub(crate) fn any_message() -> impl Strategy<Value = CoreMessage> {
    let kinds = KINDS.iter().map(|(_, kind)| of_kind(kind));
    proptest::strategy::Union::new(kinds)
}
