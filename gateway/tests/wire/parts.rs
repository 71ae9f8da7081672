//! What messages are made of, with numbers at their bounds more often than elsewhere.

use std::net::{SocketAddr, SocketAddrV6};
use std::sync::Arc;

use edge_proto::packet::{QoS, RetainHandling, SubscriptionOptions};
use edge_proto::reason::ReasonCode;
use gateway::access::Identity;
use gateway::access::rules::{RuleSource, Rules};
use gateway::core_message::*;
use gateway::engine::{Delivery, SubscriptionRecord};
use gateway::message::{Message, MessageParts, SessionId};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use reactor::driver::ConnectionId;
use reactor::slab::Key;
use serde_json::{Value, json};

pub(crate) fn n16() -> impl Strategy<Value = u16> {
    prop_oneof![0..300_u16, Just(u16::MAX), any::<u16>()]
}

pub(crate) fn n32() -> impl Strategy<Value = u32> {
    prop_oneof![0..300_u32, Just(u32::MAX), any::<u32>()]
}

pub(crate) fn n64() -> impl Strategy<Value = u64> {
    prop_oneof![0..300_u64, Just(u64::MAX), any::<u64>()]
}

pub(crate) fn count16() -> impl Strategy<Value = u16> {
    n16().prop_map(|number| number.max(1))
}

pub(crate) fn count64() -> impl Strategy<Value = u64> {
    n64().prop_map(|number| number.max(1))
}

pub(crate) fn text() -> impl Strategy<Value = String> {
    vec(any::<char>(), 0..8).prop_map(String::from_iter)
}

fn level() -> impl Strategy<Value = String> {
    let is_plain = |text: &String| !text.contains(['/', '+', '#', '\0']);
    prop_oneof![
        select(vec!["", "u", "alice", "$SYS", "ä"]).prop_map(String::from),
        text().prop_filter("wildcards", is_plain),
    ]
}

pub(crate) fn topic() -> impl Strategy<Value = Box<str>> {
    vec(level(), 1..4)
        .prop_map(|levels| levels.join("/").into_boxed_str())
        .prop_filter("empty", |topic| !topic.is_empty())
}

pub(crate) fn filter() -> impl Strategy<Value = Box<str>> {
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

pub(crate) fn qos() -> impl Strategy<Value = QoS> {
    select(vec![QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce])
}

pub(crate) fn reason() -> impl Strategy<Value = ReasonCode> {
    let all: Vec<_> = (0..=u8::MAX).filter_map(ReasonCode::from_u8).collect();
    select(all)
}

pub(crate) fn session() -> impl Strategy<Value = SessionId> {
    n64().prop_map(SessionId)
}

pub(crate) fn connection() -> impl Strategy<Value = ConnectionId> {
    (n32(), n32()).prop_map(|(slot, generation)| ConnectionId { slot, generation })
}

pub(crate) fn key() -> impl Strategy<Value = Key> {
    (n32(), n32()).prop_map(|(slot, generation)| Key { slot, generation })
}

pub(crate) fn message() -> impl Strategy<Value = Arc<Message>> {
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

pub(crate) fn delivery() -> impl Strategy<Value = Delivery> {
    let ids = vec(1..=268_435_455_u32, 0..3);
    (qos(), any::<bool>(), ids).prop_map(|(qos, retain, ids)| Delivery {
        qos,
        retain,
        subscription_ids: ids.into(),
    })
}

pub(crate) fn options() -> impl Strategy<Value = SubscriptionOptions> {
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

pub(crate) fn record() -> impl Strategy<Value = SubscriptionRecord> {
    (options(), 0..=268_435_455_u32).prop_map(|(options, subscription_id)| SubscriptionRecord {
        options,
        subscription_id,
    })
}

pub(crate) fn reply() -> impl Strategy<Value = ReplyTo> {
    (n16(), any::<bool>(), key(), n16()).prop_map(|(core, home, request, index)| ReplyTo {
        core,
        home,
        request,
        index,
    })
}

pub(crate) fn origin() -> impl Strategy<Value = Origin> {
    let client = (n16(), connection(), count16(), n32());
    let client = client.prop_map(|(core, connection, packet_id, bytes)| Origin::Client {
        core,
        connection,
        packet_id,
        bytes,
    });
    let admin = (n16(), n64()).prop_map(|(core, request)| Origin::Admin { core, request });
    let will = n16().prop_map(|core| Origin::Will { core });
    prop_oneof![Just(Origin::Nobody), client, admin, will]
}

pub(crate) fn target() -> impl Strategy<Value = Target> {
    let live = (n16(), connection());
    prop_oneof![
        live.prop_map(|(core, connection)| Target::Live { core, connection }),
        n16().prop_map(|partition| Target::Home { partition }),
    ]
}

pub(crate) fn presence() -> impl Strategy<Value = Presence> {
    (any::<bool>(), any::<u8>()).prop_map(|(connected, load)| Presence { connected, load })
}

pub(crate) fn address() -> impl Strategy<Value = SocketAddr> {
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

fn rules() -> impl Strategy<Value = Rules> {
    let source = select(vec![RuleSource::Token, RuleSource::CallOut]);
    (vec(rule(), 0..5), source).prop_map(|(rules, source)| {
        Rules::from_json(&Value::from(rules), source).expect("valid rules")
    })
}

pub(crate) fn identity() -> impl Strategy<Value = Arc<Identity>> {
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
