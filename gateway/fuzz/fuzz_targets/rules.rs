//! Any text is a list of rules or is refused with words; and under rules that are accepted, whoever may subscribe to a filter may
//! subscribe to each topic that it matches.
//!
//! The input is text in parts that end with NUL: the rules, the user, the client identifier, a group, a filter, a topic.

#![no_main]

use edge_proto::packet::QoS;
use edge_proto::topic::{TopicFilter, TopicName};
use gateway::access::rules::{RuleSource, Rules};
use gateway::access::{Identity, Who};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let parts: Vec<&str> = text.splitn(6, '\0').collect();
    let [rules, user, client, group, filter, topic] = parts[..] else {
        return;
    };
    if let Ok(json) = serde_json::from_str(rules) {
        let _ = Rules::from_json(&json, RuleSource::Token);
    }
    let rules = match Rules::from_toml(rules) {
        Ok(rules) => rules,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    let mut identity = Identity::of_user(user);
    identity.groups = [group.into()].into();
    let who = Who { identity: &identity, client };
    let allowed = rules.subscribe(&who, filter, QoS::ExactlyOnce).is_allowed();
    let Ok(topic) = TopicName::parse(topic) else { return };
    let _ = rules.publish(&who, topic, QoS::ExactlyOnce, true);
    if allowed && TopicFilter::parse(filter).is_ok_and(|filter| filter.matches(topic.as_str())) {
        assert!(rules.subscribe(&who, topic.as_str(), QoS::ExactlyOnce).is_allowed());
    }
});
