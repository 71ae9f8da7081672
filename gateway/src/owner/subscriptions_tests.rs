//! Subscriptions against a plain list, and the rules that a list does not show.

use edge_proto::packet::{QoS, RetainHandling, SubscriptionOptions};
use edge_proto::topic::{RootDepths, TopicFilter};
use proptest::prelude::*;
use reactor::driver::ConnectionId;

use super::*;
use crate::engine::SubscriptionRecord;
use crate::message::MessageParts;

const OPTIONS: SubscriptionOptions = SubscriptionOptions {
    maximum_qos: QoS::ExactlyOnce,
    no_local: false,
    retain_as_published: false,
    retain_handling: RetainHandling::Send,
};

fn subscriber(session: u64) -> Subscriber {
    let connection = ConnectionId {
        slot: session as u32,
        generation: 0,
    };
    let target = Target::Live {
        core: 0,
        connection,
    };
    let granted = SubscriptionRecord {
        options: OPTIONS,
        subscription_id: 0,
    };
    Subscriber::new(SessionId(session), target, granted)
}

fn message(topic: &str, qos: QoS, publisher: u64) -> Message {
    Message::new(MessageParts {
        topic,
        properties: &[],
        payload: b"x",
        qos,
        retain: true,
        expires_at_unix_ms: u64::MAX,
        publisher: SessionId(publisher),
    })
}

const HERE: Presence = Presence {
    connected: true,
    load: 0,
};

/// Subscriptions with the roots of the default depth.
struct Tested {
    subscriptions: Subscriptions,
    depths: RootDepths,
}

impl Default for Tested {
    fn default() -> Self {
        Self {
            subscriptions: Subscriptions::new(1),
            depths: RootDepths::default(),
        }
    }
}

impl Tested {
    fn subscribe(&mut self, filter: &str, subscriber: Subscriber) -> bool {
        let root = self.depths.root_of_filter(without_share(filter));
        self.subscriptions.subscribe(root, filter, subscriber, HERE)
    }

    fn unsubscribe(&mut self, filter: &str, session: u64) -> bool {
        let root = self.depths.root_of_filter(without_share(filter));
        self.subscriptions
            .unsubscribe(root, filter, SessionId(session))
            .existed
    }

    fn matches(&mut self, message: &Message) -> Vec<Match> {
        let (mut found, mut groups) = (Vec::new(), Vec::new());
        let root = self.depths.root_of_topic(message.topic());
        self.subscriptions
            .matches(root, message, &mut found, &mut groups);
        for key in groups {
            let group = self.subscriptions.groups.get_mut(key);
            found.push(Match::new(message, &group.expect("it is there").pick()));
        }
        found
    }

    fn set_presence(&mut self, filter: &str, session: u64, connected: bool, load: u8) {
        let root = self.depths.root_of_filter(without_share(filter));
        let key = self.subscriptions.group(root, filter).expect("it is there");
        let group = self.subscriptions.groups.get_mut(key);
        let presence = Presence { connected, load };
        group
            .expect("it is there")
            .set_presence(SessionId(session), presence, 0);
    }

    fn sessions(&mut self, topic: &str) -> Vec<u64> {
        let mut sessions: Vec<u64> = self
            .matches(&message(topic, QoS::AtMostOnce, 0))
            .iter()
            .map(|found| found.session.0)
            .collect();
        sessions.sort_unstable();
        sessions
    }
}

#[test]
fn overlapping_subscriptions_of_a_session_make_one_delivery_with_the_highest_qos_and_all_identifiers()
 {
    let mut tested = Tested::default();
    let with = |id, qos| Subscriber {
        subscription_id: id,
        options: SubscriptionOptions {
            maximum_qos: qos,
            ..OPTIONS
        },
        ..subscriber(1)
    };
    tested.subscribe("g/team/#", with(5, QoS::AtLeastOnce));
    tested.subscribe("g/+/in", with(6, QoS::AtMostOnce));
    tested.subscribe("g/team/in", subscriber(2));
    let found = tested.matches(&message("g/team/in", QoS::ExactlyOnce, 0));
    assert_eq!(found.len(), 2);
    let merged = found
        .iter()
        .find(|found| found.session == SessionId(1))
        .expect("session 1 matches");
    assert_eq!(merged.delivery.qos, QoS::AtLeastOnce);
    let mut ids = merged.delivery.subscription_ids.to_vec();
    ids.sort_unstable();
    assert_eq!(ids, [5, 6]);
}

#[test]
fn no_local_keeps_a_message_from_its_publisher_alone() {
    let mut tested = Tested::default();
    let options = SubscriptionOptions {
        no_local: true,
        ..OPTIONS
    };
    tested.subscribe(
        "a/b",
        Subscriber {
            options,
            ..subscriber(1)
        },
    );
    tested.subscribe(
        "a/b",
        Subscriber {
            options,
            ..subscriber(2)
        },
    );
    let found = tested.matches(&message("a/b", QoS::AtMostOnce, 1));
    assert_eq!(
        found
            .iter()
            .map(|found| found.session.0)
            .collect::<Vec<_>>(),
        [2]
    );
}

#[test]
fn the_retain_flag_is_kept_only_for_retain_as_published() {
    let mut tested = Tested::default();
    tested.subscribe("a/b", subscriber(1));
    let options = SubscriptionOptions {
        retain_as_published: true,
        ..OPTIONS
    };
    tested.subscribe(
        "a/b",
        Subscriber {
            options,
            ..subscriber(2)
        },
    );
    for found in tested.matches(&message("a/b", QoS::AtMostOnce, 0)) {
        assert_eq!(found.delivery.retain, found.session == SessionId(2));
    }
}

#[test]
fn the_connected_member_with_the_least_to_do_is_picked_and_equals_take_turns() {
    let mut tested = Tested::default();
    let filter = "$share/workers/jobs/+/new";
    for session in 1..=4 {
        tested.subscribe(filter, subscriber(session));
    }
    tested.set_presence(filter, 1, true, 3);
    tested.set_presence(filter, 2, true, 1);
    tested.set_presence(filter, 3, true, 1);
    tested.set_presence(filter, 4, false, 0);
    let mut picked = |count| -> Vec<u64> {
        (0..count)
            .flat_map(|_| tested.sessions("jobs/7/new"))
            .collect()
    };
    assert_eq!(picked(4), [2, 3, 2, 3]);
    tested.set_presence(filter, 2, true, 4);
    tested.set_presence(filter, 3, true, 4);
    assert_eq!(tested.sessions("jobs/7/new"), [1]);
    for session in 1..=3 {
        tested.set_presence(filter, session, false, 0);
    }
    tested.set_presence(filter, 4, true, 60);
    assert_eq!(tested.sessions("jobs/7/new"), [4]);
}

#[test]
fn a_shared_subscription_gives_each_message_to_one_member_in_turn_connected_ones_first() {
    let mut tested = Tested::default();
    for session in 1..=3 {
        tested.subscribe("$share/workers/jobs/+/new", subscriber(session));
    }
    let mut got = [0; 4];
    for _ in 0..30 {
        let sessions = tested.sessions("jobs/7/new");
        assert_eq!(sessions.len(), 1);
        got[sessions[0] as usize] += 1;
    }
    assert_eq!(got, [0, 10, 10, 10]);
    tested.set_presence("$share/workers/jobs/+/new", 2, false, 0);
    let picked: Vec<u64> = (0..10)
        .flat_map(|_| tested.sessions("jobs/7/new"))
        .collect();
    assert!(!picked.contains(&2) && picked.contains(&1) && picked.contains(&3));
}

#[test]
fn a_large_group_forgets_its_members_one_by_one() {
    let mut tested = Tested::default();
    for session in 1..=1_000 {
        assert!(!tested.subscribe("room/1", subscriber(session)));
        assert!(tested.subscribe("room/1", subscriber(session)));
    }
    for session in (1..=1_000).rev().step_by(2).chain((1..=1_000).step_by(2)) {
        assert!(tested.unsubscribe("room/1", session));
        assert!(!tested.unsubscribe("room/1", session));
    }
    assert_eq!(tested.subscriptions.count(), 0);
    assert!(tested.sessions("room/1").is_empty());
}

fn filter() -> impl Strategy<Value = String> {
    let level = prop::sample::select(vec!["a", "b", "$s", "+", ""]);
    (prop::collection::vec(level, 1..4), any::<bool>()).prop_filter_map(
        "a valid filter",
        |(levels, hash)| {
            let mut filter = levels.join("/");
            if hash {
                filter = format!("{filter}/#");
            }
            TopicFilter::parse(&filter).is_ok().then_some(filter)
        },
    )
}

fn topic() -> impl Strategy<Value = String> {
    let level = prop::sample::select(vec!["a", "b", "$s", ""]);
    prop::collection::vec(level, 1..5).prop_filter_map("a valid topic", |levels| {
        let topic = levels.join("/");
        (!topic.is_empty()).then_some(topic)
    })
}

proptest! {
    #[test]
    fn the_index_finds_what_a_plain_list_finds(
        steps in prop::collection::vec((filter(), 0u64..40, any::<bool>()), 0..120),
        topics in prop::collection::vec(topic(), 1..8),
    ) {
        let mut tested = Tested::default();
        let mut list: Vec<(String, u64)> = Vec::new();
        for (filter, session, subscribe) in steps {
            let known = list.contains(&(filter.clone(), session));
            if subscribe {
                prop_assert_eq!(tested.subscribe(&filter, subscriber(session)), known);
                if !known {
                    list.push((filter, session));
                }
            } else {
                prop_assert_eq!(tested.unsubscribe(&filter, session), known);
                list.retain(|entry| *entry != (filter.clone(), session));
            }
        }
        prop_assert_eq!(tested.subscriptions.count(), list.len() as u64);
        for topic in topics {
            let matching = |entry: &&(String, u64)| {
                TopicFilter::parse(&entry.0).is_ok_and(|filter| filter.matches(&topic))
            };
            let mut expected: Vec<u64> = list.iter().filter(matching).map(|(_, session)| *session).collect();
            expected.sort_unstable();
            expected.dedup();
            prop_assert_eq!(tested.sessions(&topic), expected);
        }
    }
}
