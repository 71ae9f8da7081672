//! Rules: what each key does, and what each error says. The search for a way around them is next door.

use super::*;
use crate::access::Identity;
use std::sync::Arc;

const BEST: QoS = QoS::ExactlyOnce;

pub(super) fn rules(text: &str) -> Rules {
    Rules::from_toml(text).expect("valid rules")
}

pub(super) fn identity(user: Option<&str>, groups: &[&str]) -> Identity {
    Identity {
        user: user.map(Arc::from),
        groups: groups.iter().map(|group| Box::from(*group)).collect(),
        ..Identity::anonymous()
    }
}

struct Client {
    identity: Identity,
    client: &'static str,
}

fn client(user: &str) -> Client {
    Client {
        identity: identity(Some(user), &["staff", "night"]),
        client: "phone",
    }
}

impl Client {
    fn who(&self) -> Who<'_> {
        Who {
            identity: &self.identity,
            client: self.client,
        }
    }

    fn publishes(&self, rules: &Rules, topic: &str) -> bool {
        let topic = TopicName::parse(topic).expect("a topic");
        rules
            .publish(&self.who(), topic, QoS::AtMostOnce, false)
            .is_allowed()
    }

    fn subscribes(&self, rules: &Rules, filter: &str) -> bool {
        rules.subscribe(&self.who(), filter, BEST).is_allowed()
    }
}

fn errors(text: &str) -> String {
    Rules::from_toml(text).expect_err("bad rules").to_string()
}

#[test]
fn without_rules_nothing_is_allowed() {
    let none = Rules::default();
    assert!(!client("alice").publishes(&none, "a"));
    assert!(!client("alice").subscribes(&none, "a"));
    assert!(Rules::from_toml("").expect("no rules are rules").is_empty());
}

#[test]
fn open_rules_allow_all_but_the_topics_of_the_server() {
    let open = Rules::open();
    assert!(client("alice").publishes(&open, "a/b"));
    assert!(client("alice").subscribes(&open, "#"));
    assert!(client("alice").subscribes(&open, "+/#"));
    assert!(!client("alice").subscribes(&open, "$SYS/#"));
}

#[test]
fn the_first_rule_that_fits_decides() {
    let rules = rules(
        r##"
        [[rule]]
        allow = ["publish"]
        topics = ["a/b"]
        [[rule]]
        deny = ["publish"]
        topics = ["a/#"]
        [[rule]]
        allow = ["publish"]
        topics = ["#"]
        "##,
    );
    let alice = client("alice");
    assert!(alice.publishes(&rules, "a/b"));
    assert!(!alice.publishes(&rules, "a/c"));
    assert!(alice.publishes(&rules, "b"));
    let denied = rules.publish(
        &alice.who(),
        TopicName::parse("a").expect("a topic"),
        BEST,
        false,
    );
    let Decision::Denied(denial) = denied else {
        panic!("a/# matches a");
    };
    assert_eq!(denial.to_string(), "rule 2 (line 5) denies it");
}

#[test]
fn publishing_and_subscribing_are_apart() {
    let rules = rules(
        "[[rule]]\nallow = [\"publish\"]\ntopics = [\"in\"]\n[[rule]]\nallow = [\"subscribe\"]\ntopics = [\"out\"]",
    );
    let alice = client("alice");
    assert!(alice.publishes(&rules, "in") && !alice.publishes(&rules, "out"));
    assert!(!alice.subscribes(&rules, "in") && alice.subscribes(&rules, "out"));
}

#[test]
fn every_list_of_names_that_is_there_must_fit() {
    let rules = rules(
        "[[rule]]\nallow = [\"publish\"]\ntopics = [\"x\"]\nusers = [\"bob\", \"al*\"]\ngroups = [\"day\", \"night\"]\nclients = [\"phone\"]",
    );
    assert!(client("alice").publishes(&rules, "x"));
    assert!(client("bob").publishes(&rules, "x"));
    assert!(!client("bobby").publishes(&rules, "x"));
    let other_device = Client {
        client: "laptop",
        ..client("alice")
    };
    assert!(!other_device.publishes(&rules, "x"));
    let other_group = Client {
        identity: identity(Some("alice"), &["staff"]),
        client: "phone",
    };
    assert!(!other_group.publishes(&rules, "x"));
}

#[test]
fn a_star_is_every_authenticated_user() {
    let rules = rules("[[rule]]\nallow = [\"publish\"]\ntopics = [\"x\"]\nusers = [\"*\"]");
    let anonymous = Client {
        identity: Identity::anonymous(),
        client: "phone",
    };
    assert!(client("alice").publishes(&rules, "x"));
    assert!(!anonymous.publishes(&rules, "x"));
}

#[test]
fn placeholders_stand_for_the_clients_own_names() {
    let rules = rules(
        r#"
        [[rule]]
        allow = ["publish", "subscribe"]
        topics = ["u/%u/#", "c/%c", "g/%g/in", "both/%u-%c", "100%%"]
        "#,
    );
    let alice = client("alice");
    for topic in [
        "u/alice/x",
        "c/phone",
        "g/staff/in",
        "g/night/in",
        "both/alice-phone",
        "100%",
    ] {
        assert!(alice.publishes(&rules, topic), "{topic}");
        assert!(alice.subscribes(&rules, topic), "{topic}");
    }
    for topic in [
        "u/bob/x",
        "c/alice",
        "g/day/in",
        "both/alice-laptop",
        "100",
        "u/%u/x",
    ] {
        assert!(!alice.publishes(&rules, topic), "{topic}");
        assert!(!alice.subscribes(&rules, topic), "{topic}");
    }
    assert!(alice.subscribes(&rules, "u/alice/+/x"));
    assert!(!alice.subscribes(&rules, "u/+/x"));
    assert!(!alice.subscribes(&rules, "g/+/in"));
}

#[test]
fn a_name_that_is_no_part_of_a_level_gets_nothing_from_a_placeholder() {
    let rules =
        rules("[[rule]]\nallow = [\"publish\", \"subscribe\"]\ntopics = [\"u/%u/#\", \"%u/x\"]");
    for name in ["bob/..", "+", "#", "a\0b", ""] {
        let hostile = client(name);
        for filter in [
            "u/+/x",
            "u/bob/x",
            "u/bob/../x",
            "u/#",
            "u//x",
            "u/+/#",
            "+/x",
            "#",
            "/x",
        ] {
            assert!(!hostile.subscribes(&rules, filter), "{name:?} {filter}");
        }
        assert!(!hostile.publishes(&rules, "u/bob/../x"), "{name:?}");
        assert!(!hostile.publishes(&rules, "u//x"), "{name:?}");
    }
    assert!(!client("$SYS").subscribes(&rules, "$SYS/x"));
    assert!(client("$SYS").subscribes(&rules, "u/$SYS/x"));
}

#[test]
fn no_choice_of_a_name_evades_a_denial() {
    let rules = rules(
        "[[rule]]\ndeny = [\"publish\", \"subscribe\"]\ntopics = [\"blocked/%u/#\"]\n[[rule]]\nallow = [\"publish\", \"subscribe\"]\ntopics = [\"#\"]",
    );
    assert!(!client("a").publishes(&rules, "blocked/a/x"));
    assert!(client("a").publishes(&rules, "blocked/b/x"));
    assert!(!client("a/b").publishes(&rules, "blocked/a/b/x"));
    assert!(!client("a/b").subscribes(&rules, "blocked/+/b/x"));
    assert!(!client("#").publishes(&rules, "blocked/x"));
    assert!(!client("").subscribes(&rules, "blocked/x"));
    assert!(client("a/b").publishes(&rules, "x"));
}

#[test]
fn a_denied_topic_below_a_filter_denies_the_filter() {
    let rules = rules(
        "[[rule]]\ndeny = [\"subscribe\"]\ntopics = [\"a/secret\", \"+/x/#\"]\n[[rule]]\nallow = [\"subscribe\"]\ntopics = [\"#\"]",
    );
    let alice = client("alice");
    for filter in [
        "a/secret",
        "a/secret/#",
        "a/+",
        "a/#",
        "#",
        "+/+",
        "b/x",
        "b/x/y",
        "b/#",
        "+/secret",
    ] {
        assert!(!alice.subscribes(&rules, filter), "{filter}");
    }
    for filter in ["a/b", "a", "b/y/#", "+/y", "b/secret", "a/secret/+"] {
        assert!(alice.subscribes(&rules, filter), "{filter}");
    }
}

#[test]
fn a_shared_subscription_is_judged_by_its_filter() {
    let rules = rules("[[rule]]\nallow = [\"subscribe\"]\ntopics = [\"jobs/#\"]");
    let alice = client("alice");
    assert!(alice.subscribes(&rules, "$share/workers/jobs/+"));
    assert!(!alice.subscribes(&rules, "$share/jobs/other"));
    assert!(!alice.subscribes(&rules, "$share/workers/#"));
    assert_eq!(
        rules.subscribe(&alice.who(), "$share/workers", BEST),
        Decision::Denied(Denial::NotAFilter)
    );
}

#[test]
fn wildcards_at_the_first_level_do_not_reach_topics_of_the_server() {
    let rules =
        rules("[[rule]]\nallow = [\"subscribe\"]\ntopics = [\"#\", \"+/+\", \"$SYS/load\"]");
    let alice = client("alice");
    assert!(alice.subscribes(&rules, "$SYS/load"));
    assert!(!alice.subscribes(&rules, "$SYS/clients"));
    assert!(!alice.subscribes(&rules, "$SYS/#"));
    let denied = self::rules(
        "[[rule]]\ndeny = [\"subscribe\"]\ntopics = [\"$SYS/#\", \"$x%u/y\"]\n[[rule]]\nallow = [\"subscribe\"]\ntopics = [\"#\"]",
    );
    assert!(alice.subscribes(&denied, "#") && alice.subscribes(&denied, "+/y"));
}

#[test]
fn qos_and_retain_are_limits() {
    let rules = rules(
        "[[rule]]\nallow = [\"publish\", \"subscribe\"]\ntopics = [\"x\"]\nqos_max = 1\nretain = false",
    );
    let alice = client("alice");
    let topic = TopicName::parse("x").expect("a topic");
    let publish = |qos, retain| rules.publish(&alice.who(), topic, qos, retain);
    assert!(publish(QoS::AtLeastOnce, false).is_allowed());
    assert!(matches!(
        publish(BEST, false),
        Decision::Denied(Denial::QosTooHigh { .. })
    ));
    assert!(matches!(
        publish(QoS::AtMostOnce, true),
        Decision::Denied(Denial::Retain(_))
    ));
    let granted = |qos| match rules.subscribe(&alice.who(), "x", qos) {
        Decision::Allowed { qos_max, .. } => qos_max,
        Decision::Denied(denial) => panic!("{denial}"),
    };
    assert_eq!(granted(BEST), QoS::AtLeastOnce);
    assert_eq!(granted(QoS::AtMostOnce), QoS::AtMostOnce);
}

#[test]
fn the_limit_of_a_rule_holds_for_a_wider_filter_too() {
    let rules = rules(
        "[[rule]]\nallow = [\"subscribe\"]\ntopics = [\"a/slow\"]\nqos_max = 0\n[[rule]]\nallow = [\"subscribe\"]\ntopics = [\"a/#\"]",
    );
    let alice = client("alice");
    let granted = |filter| rules.subscribe(&alice.who(), filter, BEST);
    assert!(matches!(
        granted("a/+"),
        Decision::Allowed {
            qos_max: QoS::AtMostOnce,
            ..
        }
    ));
    assert!(matches!(
        granted("a/b"),
        Decision::Allowed { qos_max: BEST, .. }
    ));
}

#[test]
fn rules_of_the_identity_come_first() {
    let shared = rules("[[rule]]\nallow = [\"publish\"]\ntopics = [\"#\"]");
    let own = serde_json::json!([{ "deny": ["publish"], "topics": ["a"] }]);
    let own = Rules::from_json(&own, RuleSource::Token).expect("valid rules");
    let mut alice = client("alice");
    alice.identity.rules = Some(Arc::new(own));
    let topic = TopicName::parse("a").expect("a topic");
    match shared.publish(&alice.who(), topic, BEST, false) {
        Decision::Denied(denial) => {
            assert_eq!(denial.to_string(), "rule 1 of the token denies it");
        }
        Decision::Allowed { rule, .. } => panic!("allowed by {rule}"),
    }
    assert!(alice.publishes(&shared, "b"));
}

#[test]
fn every_mistake_is_named_with_its_rule_and_what_to_write() {
    let text = errors(
        r##"
        [[rule]]
        topics = ["a"]
        [[rule]]
        allow = ["publish"]
        deny = ["publish"]
        topics = ["a"]
        [[rule]]
        allow = ["read"]
        topics = ["a/#/b", "x+", "%x", "", "$share/g/a"]
        [[rule]]
        deny = ["publish"]
        qos_max = 1
        users = []
        clients = ["a*b", ""]
        [[rule]]
        allow = []
        topics = ["a"]
        qos_max = 3
        "##,
    );
    let expected = [
        "rule 1 (line 2): it neither allows nor denies",
        "rule 2 (line 4): it allows and denies",
        "rule 3 (line 8): \"read\" is nothing to allow or deny",
        "rule 3 (line 8): topics: \"a/#/b\": a wildcard must be alone",
        "rule 3 (line 8): topics: \"x+\": a wildcard must be alone",
        "rule 3 (line 8): topics: \"%x\": after % stands u",
        "rule 3 (line 8): topics: \"\": it is empty",
        "rule 3 (line 8): topics: \"$share/g/a\": a shared subscription is judged",
        "rule 4 (line 11): it has no topics",
        "rule 4 (line 11): qos_max and retain are limits",
        "rule 4 (line 11): users is an empty list",
        "rule 4 (line 11): clients: \"a*b\" fits nobody",
        "rule 4 (line 11): clients: \"\" fits nobody",
        "rule 5 (line 16): allow or deny is an empty list",
        "rule 5 (line 16): qos_max = 3 is not a QoS",
    ];
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), expected.len(), "{text}");
    for (line, expected) in lines.iter().zip(expected) {
        assert!(line.starts_with(expected), "{line}\n{expected}");
    }
}

#[test]
fn a_key_that_does_not_exist_is_refused_with_its_line() {
    let text = errors("[[rule]]\nallow = [\"publish\"]\ntopic = [\"a\"]\n");
    assert!(text.starts_with("line 3: unknown field `topic`"), "{text}");
    let text = errors("[[rules]]\n");
    assert!(text.starts_with("line 1: unknown field `rules`"), "{text}");
    assert!(errors("[[rule]\n").starts_with("line 1: "));
    let json = Rules::from_json(&serde_json::json!({ "allow": [] }), RuleSource::Token);
    assert!(
        json.expect_err("not a list")
            .to_string()
            .starts_with("not a list of rules")
    );
}

#[test]
fn a_client_brings_few_rules() {
    let rule = serde_json::json!({ "allow": ["publish"], "topics": ["a"] });
    let many = serde_json::Value::Array(vec![rule; 33]);
    let error = Rules::from_json(&many, RuleSource::Token).expect_err("too many");
    assert!(
        error.to_string().starts_with("33 rules, 32 at most"),
        "{error}"
    );
}
