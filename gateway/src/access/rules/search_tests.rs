//! A search for a way around the rules: everything small, all topics enumerated, judged one by one by an oracle that puts names
//! into texts and knows nothing of covering.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::tests::{identity, rules};
use super::*;
use crate::access::Identity;

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
        all.into_iter().any(hostile)
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
