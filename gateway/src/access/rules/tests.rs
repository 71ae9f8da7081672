//! Rules: what each key does, what each error says, and a search for a way around them.

use proptest::prelude::*;

use super::*;
use crate::access::Identity;
use std::collections::BTreeSet;
use std::sync::Arc;

const BEST: QoS = QoS::ExactlyOnce;

fn rules(text: &str) -> Rules {
    Rules::from_toml(text).expect("valid rules")
}

fn identity(user: Option<&str>, groups: &[&str]) -> Identity {
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

// A search for a way around the rules: everything small, all topics enumerated, judged one by one by an oracle that puts names
// into texts and knows nothing of covering.

const NAMES: [&str; 9] = ["a", "b", "%", "$s", "a/b", "+", "#", "", "a\0"];

#[derive(Clone, Debug)]
struct Plain {
    allows: bool,
    publish: bool,
    subscribe: bool,
    users: Option<Vec<&'static str>>,
    topics: Vec<String>,
    qos_max: u8,
    retain: bool,
}

#[derive(Clone, Debug)]
struct Names3 {
    user: Option<&'static str>,
    client: &'static str,
    groups: Vec<&'static str>,
}

fn filter(levels: &'static [&'static str]) -> impl Strategy<Value = String> {
    let level = prop::sample::select(levels);
    let body = prop::collection::vec(level, 1..=3);
    (body, any::<bool>()).prop_filter_map("a filter is not empty", |(mut levels, below)| {
        if below {
            *levels.last_mut()? = "#";
        }
        let text = levels.join("/");
        (!text.is_empty()).then_some(text)
    })
}

fn plain_rule() -> impl Strategy<Value = Plain> {
    const PATTERN: &[&str] = &[
        "a", "b", "", "+", "+", "$s", "%u", "x%u", "%c", "%g", "%%", "%u%c",
    ];
    let users = prop::option::weighted(
        0.3,
        prop::collection::vec(prop::sample::select(&["a", "b", "a*", "*"][..]), 1..3),
    );
    (
        (any::<bool>(), 0..3_u8, users),
        (
            prop::collection::vec(filter(PATTERN), 1..3),
            0..3_u8,
            any::<bool>(),
        ),
    )
        .prop_map(
            |((allows, actions, users), (topics, qos_max, retain))| Plain {
                allows,
                publish: actions != 1,
                subscribe: actions != 0,
                users,
                topics,
                qos_max,
                retain,
            },
        )
}

/// A few rules, half the time with all that is left allowed, so that denials matter.
fn plain_rules() -> impl Strategy<Value = Vec<Plain>> {
    let rules = prop::collection::vec(plain_rule(), 0..5);
    (rules, any::<bool>()).prop_map(|(mut rules, open)| {
        rules.extend(open.then(|| Plain {
            allows: true,
            publish: true,
            subscribe: true,
            users: None,
            topics: vec!["#".into(), "$s/#".into()],
            qos_max: 2,
            retain: true,
        }));
        rules
    })
}

fn names() -> impl Strategy<Value = Names3> {
    let name = || prop::sample::select(&NAMES[..]);
    (
        prop::option::of(name()),
        name(),
        prop::collection::vec(name(), 0..3),
    )
        .prop_map(|(user, client, groups)| Names3 {
            user,
            client,
            groups,
        })
}

fn compiled(plain: &[Plain]) -> Rules {
    use std::fmt::Write;
    let mut text = String::new();
    for rule in plain {
        let effect = if rule.allows { "allow" } else { "deny" };
        let actions = match (rule.publish, rule.subscribe) {
            (true, false) => "[\"publish\"]",
            (false, true) => "[\"subscribe\"]",
            _ => "[\"publish\", \"subscribe\"]",
        };
        writeln!(
            text,
            "[[rule]]\n{effect} = {actions}\ntopics = {:?}",
            rule.topics
        )
        .expect("room");
        if let Some(users) = &rule.users {
            writeln!(text, "users = {users:?}").expect("room");
        }
        if rule.allows {
            writeln!(text, "qos_max = {}\nretain = {}", rule.qos_max, rule.retain).expect("room");
        }
    }
    rules(&text)
}

impl Names3 {
    /// True when a name has something in it that is no part of a level.
    fn is_hostile(&self) -> bool {
        let hostile = |name: &&str| name.is_empty() || name.contains(['/', '+', '#', '\0', '$']);
        let all = self.user.iter().chain([&self.client]).chain(&self.groups);
        all.into_iter().any(|name| hostile(name))
    }

    fn is_named(&self, users: Option<&[&str]>) -> bool {
        let Some(users) = users else { return true };
        let Some(user) = self.user else { return false };
        users.iter().any(|listed| match listed.strip_suffix('*') {
            Some(prefix) => user.starts_with(prefix),
            None => user == *listed,
        })
    }

    /// The texts of a pattern with the names in it. Of a rule that allows, none with a hostile name.
    fn expand(&self, pattern: &str, allows: bool) -> Vec<String> {
        let hostile = |name: &str| name.is_empty() || name.contains(['/', '+', '#', '\0']);
        let one = |group: &str| -> Option<String> {
            let mut text = String::new();
            let mut characters = pattern.chars();
            while let Some(character) = characters.next() {
                if character != '%' {
                    text.push(character);
                    continue;
                }
                let name = match characters.next() {
                    Some('u') => self.user?,
                    Some('c') => self.client,
                    Some('g') => group,
                    _ => {
                        text.push('%');
                        continue;
                    }
                };
                // What a denial makes of `#` is not a wildcard, which would match the level above, too.
                if !allows && name == "#" {
                    return None;
                }
                if allows && (hostile(name) || (text.is_empty() && name.starts_with('$'))) {
                    return None;
                }
                text.push_str(name);
            }
            TopicFilter::parse(&text).is_ok().then_some(text)
        };
        if pattern.contains("%g") {
            self.groups.iter().filter_map(|group| one(group)).collect()
        } else {
            one("").into_iter().collect()
        }
    }
}

/// A rule that is about the client, with its patterns made the client's own.
struct Own<'r> {
    rule: &'r Plain,
    filters: Vec<String>,
}

impl Own<'_> {
    fn matches(&self, topic: &str) -> bool {
        self.filters
            .iter()
            .any(|filter| TopicFilter::parse(filter).is_ok_and(|filter| filter.matches(topic)))
    }
}

fn own_rules<'r>(plain: &'r [Plain], names: &Names3) -> Vec<Own<'r>> {
    let about = plain
        .iter()
        .filter(|rule| names.is_named(rule.users.as_deref()));
    about
        .map(|rule| Own {
            rule,
            filters: rule
                .topics
                .iter()
                .flat_map(|topic| names.expand(topic, rule.allows))
                .collect(),
        })
        .collect()
}

/// The rule that decides about one topic.
fn decider<'o>(own: &'o [Own<'o>], topic: &str, subscribe: bool) -> Option<&'o Own<'o>> {
    let acts = |own: &&Own<'_>| {
        if subscribe {
            own.rule.subscribe
        } else {
            own.rule.publish
        }
    };
    own.iter().filter(acts).find(|own| own.matches(topic))
}

/// Filters that differ from a pattern in one place, where mistakes would be.
fn nearby(filter: &str) -> Vec<String> {
    let levels: Vec<&str> = filter.split('/').collect();
    let mut all = vec![
        filter.to_owned(),
        format!("{filter}/#"),
        format!("{filter}/+"),
    ];
    for index in 0..levels.len() {
        let mut changed = levels.clone();
        changed[index] = "+";
        all.push(changed.join("/"));
        changed[index] = "#";
        all.push(changed[..=index].join("/"));
        all.push(levels[..=index].join("/"));
    }
    all.retain(|filter| TopicFilter::parse(filter).is_ok() && filter.split('/').count() <= 4);
    all
}

/// All topics of up to three levels (and the empty one, which is none: what denies it may deny what reaches it), each one that some filter names, or one that none names; and those with such a one as the
/// fourth.
fn universe<'f>(filters: impl Iterator<Item = &'f String>) -> Vec<String> {
    let named = filters
        .flat_map(|filter| filter.split('/'))
        .filter(|level| !level.contains(['+', '#', '\0']));
    let levels: BTreeSet<&str> = named.chain(["new", "", "$new"]).collect();
    let mut all: Vec<String> = Vec::new();
    let mut longest: Vec<String> = levels.iter().map(|level| (*level).to_owned()).collect();
    for _ in 0..2 {
        all.extend(longest.iter().cloned());
        let below = |topic: &String| {
            levels
                .iter()
                .map(|level| format!("{topic}/{level}"))
                .collect::<Vec<_>>()
        };
        longest = longest.iter().flat_map(below).collect();
    }
    all.extend(longest.iter().map(|topic| format!("{topic}/new")));
    all.extend(longest);
    all
}

fn identity_of(names: &Names3) -> Identity {
    identity(names.user, &names.groups)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn publishing_is_what_the_rules_say_topic_by_topic(
        plain in plain_rules(), names in names(), qos in 0..3_u8, retain in any::<bool>(),
    ) {
        let (rules, identity) = (compiled(&plain), identity_of(&names));
        let who = Who { identity: &identity, client: names.client };
        let own = own_rules(&plain, &names);
        for topic in universe(own.iter().flat_map(|own| &own.filters)) {
            let Ok(name) = TopicName::parse(&topic) else {
                continue;
            };
            let Ok(name) = TopicName::parse(&topic) else {
                continue;
            };
            let decision = rules.publish(&who, name, QoS::from_u8(qos).unwrap(), retain);
            let allowed = decider(&own, &topic, false)
                .is_some_and(|own| own.rule.allows && qos <= own.rule.qos_max && (own.rule.retain || !retain));
            // A hostile name may be denied more than its letters say, never less.
            if !decision.is_allowed() && names.is_hostile() {
                continue;
            }
            prop_assert_eq!(decision.is_allowed(), allowed, "{} {:?}", topic, decision);
        }
    }

    #[test]
    fn no_subscription_reaches_a_topic_that_the_rules_deny(
        plain in plain_rules(), names in names(), qos in 0..3_u8,
        filters in prop::collection::vec((filter(&["a", "b", "", "+", "+", "$s", "xa", "%"]), any::<bool>()), 1..6),
    ) {
        let (rules, identity) = (compiled(&plain), identity_of(&names));
        let who = Who { identity: &identity, client: names.client };
        let own = own_rules(&plain, &names);
        let asked = filters.iter().map(|(filter, _)| filter);
        let universe = universe(own.iter().flat_map(|own| &own.filters).chain(asked));
        let near = own.iter().flat_map(|own| own.filters.iter().flat_map(|filter| nearby(filter)));
        let filters = filters.into_iter().chain(near.map(|filter| (filter, false)));
        for (filter, shared) in filters {
            let filter = &filter;
            let parsed = TopicFilter::parse(filter).unwrap();
            let asked = if shared { format!("$share/a/{filter}") } else { filter.clone() };
            let decision = rules.subscribe(&who, &asked, QoS::from_u8(qos).unwrap());
            let reached: Vec<&String> = universe.iter().filter(|topic| parsed.matches(topic)).collect();
            if let Decision::Allowed { qos_max, .. } = decision {
                prop_assert!(qos_max as u8 <= qos);
                for topic in &reached {
                    let decider = decider(&own, topic, true);
                    prop_assert!(
                        decider.is_some_and(|own| own.rule.allows && qos_max as u8 <= own.rule.qos_max),
                        "{} reaches {}", filter, topic
                    );
                }
            }
            // And what one pattern covers, with no denial before it, is allowed: the rules are not stricter than they say.
            let subscribe = own.iter().filter(|own| own.rule.subscribe);
            let mut expected = false;
            for own in subscribe {
                let covers = |pattern: &String| {
                    let pattern = TopicFilter::parse(pattern).unwrap();
                    reached.iter().all(|topic| pattern.matches(topic))
                };
                if own.rule.allows && own.filters.iter().any(covers) {
                    expected = true;
                    break;
                }
                if !own.rule.allows && reached.iter().any(|topic| own.matches(topic)) {
                    break;
                }
            }
            if !names.is_hostile() {
                prop_assert_eq!(decision.is_allowed(), expected, "{} {:?}", filter, decision);
            }
        }
    }
}
