//! Topic names, filters, roots and tries, against examples of the specification and a matcher that is too simple to be wrong.

use std::collections::BTreeMap;

use edge_proto::topic::{RootDepths, SharedFilter, TopicFilter, TopicName, filter_root, root};
use edge_proto::trie::{FilterTrie, TopicTrie};
use proptest::collection::vec;
use proptest::prelude::*;

/// Matches by the words of §4.7, one level at a time.
fn naive_match(filter: &[&str], topic: &[&str]) -> bool {
    match (filter, topic) {
        (["#"], _) | ([], []) => true,
        (["+", filter @ ..], [_, topic @ ..]) => naive_match(filter, topic),
        ([wanted, filter @ ..], [level, topic @ ..]) => {
            wanted == level && naive_match(filter, topic)
        }
        _ => false,
    }
}

fn naive(filter: &str, topic: &str) -> bool {
    let hidden = topic.starts_with('$') && filter.starts_with(['+', '#']);
    let levels = |text| str::split(text, '/').collect::<Vec<_>>();
    !hidden && naive_match(&levels(filter), &levels(topic))
}

fn matches(filter: &str, topic: &str) -> bool {
    TopicFilter::parse(filter)
        .unwrap()
        .matches(TopicName::parse(topic).unwrap().as_str())
}

/// Few letters, so that things meet; characters on both sides of `/`, `+` and `#` in the order of bytes.
fn topic() -> impl Strategy<Value = String> {
    vec(prop_oneof![4 => "[ab]", 1 => "[ab$! é\u{1}-]{0,3}"], 1..5)
        .prop_map(|levels| levels.join("/"))
        .prop_filter("a topic is not empty", |topic| !topic.is_empty())
}

fn filter() -> impl Strategy<Value = String> {
    let level = prop_oneof![4 => "[ab]", 3 => Just("+".to_owned()), 1 => "[ab$! é\u{1}-]{0,3}"];
    (vec(level, 0..4), any::<bool>())
        .prop_map(|(mut levels, below)| {
            if below || levels.is_empty() {
                levels.push("#".to_owned());
            }
            levels.join("/")
        })
        .prop_filter("a filter is not empty", |filter| !filter.is_empty())
}

#[test]
fn wildcards_match_as_the_examples_of_the_specification_say() {
    for topic in [
        "sport/tennis/player1",
        "sport/tennis/player1/ranking",
        "sport/tennis/player1/score/wimbledon",
    ] {
        assert!(matches("sport/tennis/player1/#", topic));
    }
    assert!(
        matches("sport/#", "sport")
            && matches("#", "sport/x")
            && !matches("sport/tennis/#", "sport")
    );
    assert!(
        matches("sport/tennis/+", "sport/tennis/player1")
            && !matches("sport/tennis/+", "sport/tennis/player1/ranking")
    );
    assert!(!matches("sport/+", "sport") && matches("sport/+", "sport/"));
    assert!(matches("+/+", "/finance") && matches("/+", "/finance") && !matches("+", "/finance"));
    assert!(!matches("ACCOUNTS", "Accounts"));
}

#[test]
fn wildcards_of_the_first_level_do_not_match_dollar_topics() {
    assert!(
        !matches("#", "$SYS")
            && !matches("#", "$SYS/x")
            && !matches("+/monitor/Clients", "$SYS/monitor/Clients")
    );
    assert!(
        matches("$SYS/#", "$SYS/x")
            && matches("$SYS/#", "$SYS")
            && matches("$SYS/monitor/+", "$SYS/monitor/Clients")
    );
    assert!(matches("a/+", "a/$b") && matches("/#", "/$b"));
}

#[test]
fn names_and_filters_are_valid_or_do_not_exist() {
    let name = |text: &str| {
        TopicName::parse(text)
            .map(|_| ())
            .map_err(|violation| violation.clause)
    };
    let filter = |text: &str| {
        TopicFilter::parse(text)
            .map(|_| ())
            .map_err(|violation| violation.clause)
    };
    let long = "x".repeat(65_536);
    assert_eq!(name("a b//"), Ok(()));
    assert_eq!(name(&long[1..]), Ok(()));
    assert_eq!(name(&long), Err("MQTT-4.7.3-3"));
    assert_eq!(name(""), Err("MQTT-4.7.3-1"));
    assert_eq!(name("a\0"), Err("MQTT-4.7.3-2"));
    assert_eq!(name("a/+"), Err("MQTT-4.7.0-1"));
    for valid in ["#", "+", "a/+/b/#", "+/a", "/#", "+/+", "//", "$share"] {
        assert_eq!(filter(valid), Ok(()), "{valid}");
    }
    for invalid in ["a#", "#/a", "a/#/b", "##", "a/b#"] {
        assert_eq!(filter(invalid), Err("MQTT-4.7.1-1"), "{invalid}");
    }
    for invalid in ["a+", "+a", "a/b+/c", "++"] {
        assert_eq!(filter(invalid), Err("MQTT-4.7.1-2"), "{invalid}");
    }
    assert_eq!(filter(""), Err("MQTT-4.7.3-1"));
    assert_eq!(filter("a\0"), Err("MQTT-4.7.3-2"));
    assert_eq!(filter(&long), Err("MQTT-4.7.3-3"));
    assert_eq!(
        TopicFilter::parse("a/+")
            .unwrap()
            .levels()
            .collect::<Vec<_>>(),
        ["a", "+"]
    );
    assert_eq!(
        TopicName::parse("/a").unwrap().levels().collect::<Vec<_>>(),
        ["", "a"]
    );
}

#[test]
fn a_shared_filter_is_taken_apart() {
    let parse = |text| SharedFilter::parse(text).map_err(|violation| violation.clause);
    let shared = parse("$share/consumer1//finance").unwrap().unwrap();
    assert_eq!(
        (shared.name, shared.filter.as_str()),
        ("consumer1", "/finance")
    );
    assert_eq!(parse("$shared/a/b"), Ok(None));
    assert_eq!(parse("a"), Ok(None));
    assert_eq!(parse("$share/a"), Err("MQTT-4.8.2-2"));
    assert_eq!(parse("$share//a"), Err("MQTT-4.8.2-1"));
    assert_eq!(parse("$share/a#/b"), Err("MQTT-4.8.2-2"));
    assert_eq!(parse("$share/a/b#"), Err("MQTT-4.7.1-1"));
}

#[test]
fn a_root_is_the_first_levels_and_a_filter_is_rooted_or_broad() {
    assert_eq!(
        [
            root("u/alice/in", 2),
            root("u/alice", 2),
            root("u", 2),
            root("/a/b", 2)
        ],
        ["u/alice", "u/alice", "u", "/a"]
    );
    assert_eq!(root("a/b", 0), "a");
    for (filter, expected) in [
        ("u/alice/#", Some("u/alice")),
        ("u/alice/+", Some("u/alice")),
        ("u/alice", Some("u/alice")),
        ("u", Some("u")),
        ("u/#", None),
        ("u/+", None),
        ("#", None),
        ("+/alice/x", None),
    ] {
        assert_eq!(filter_root(filter, 2), expected, "{filter}");
    }
}

#[test]
fn root_depths_differ_by_prefix() {
    let depths = RootDepths::new(2, &[("v1", 3), ("v1/devices/", 4), ("s/t", 1)]);
    assert_eq!(depths.root_of_topic("v1/a/b/c"), "v1/a/b");
    assert_eq!(depths.root_of_topic("v1/devices/b/c/d"), "v1/devices/b/c");
    assert_eq!(depths.root_of_topic("v10/a/b"), "v10/a");
    assert_eq!(depths.root_of_topic("s/t/u"), "s");
    assert_eq!(
        depths.root_of_filter("v1/devices/b/c/#"),
        Some("v1/devices/b/c")
    );
    assert_eq!(depths.root_of_filter("v1/devices/b/#"), None);
    assert_eq!(depths.root_of_filter("v1/+/b/c"), None);
    assert_eq!(
        depths.root_of_filter("s/+"),
        None,
        "s/t has another depth than s/u"
    );
    assert_eq!(
        RootDepths::new(1, &[("s/t", 1)]).root_of_filter("s/+"),
        Some("s"),
        "one depth is one root"
    );
    assert_eq!(
        RootDepths::new(1, &[("s/t", 2)]).root_of_filter("s/+/x"),
        None
    );
    assert_eq!(
        RootDepths::new(1, &[("s/t/x", 2)]).root_of_filter("s/+"),
        Some("s"),
        "s/+ is not as deep as the prefix"
    );
    assert_eq!(RootDepths::default().root_of_filter("a/b/#"), Some("a/b"));
}

#[test]
fn ten_thousand_levels_are_walked_and_freed_without_a_deep_stack() {
    let deep = vec!["+"; 30_000].join("/");
    let topic = "/".repeat(29_999);
    let mut trie = FilterTrie::new();
    trie.insert(&deep, 1);
    trie.insert("#", 2);
    let mut found = Vec::new();
    trie.matches(&topic, |&value| found.push(value));
    found.sort_unstable();
    assert_eq!(found, [1, 2]);
    assert_eq!(trie.remove(&deep), Some(1));
    trie.insert(&deep, 3);
    drop(trie);
}

#[test]
fn a_filter_has_one_value() {
    let mut trie = FilterTrie::new();
    assert_eq!(trie.insert("a/#", 1), None);
    assert_eq!(trie.insert("a/#", 2), Some(1));
    assert_eq!(trie.len(), 1);
    *trie.get_or_insert_with("a/#", || 9) += 1;
    *trie.get_or_insert_with("b", || 9) += 1;
    assert_eq!(
        (trie.get("a/#"), trie.get("b"), trie.get("a")),
        (Some(&3), Some(&10), None)
    );
    *trie.get_mut("b").unwrap() = 5;
    assert_eq!(format!("{trie:?}"), r##"{"b": 5, "a/#": 3}"##);
    assert_eq!(
        (
            trie.remove("a"),
            trie.remove("a/#"),
            trie.remove("a/#"),
            trie.remove("b")
        ),
        (None, Some(3), None, Some(5))
    );
    assert!(trie.is_empty());
}

#[test]
fn many_children_of_one_level_are_found_and_freed() {
    let mut trie = FilterTrie::new();
    for number in 0..1000 {
        trie.insert(&format!("u/{number}/+"), number);
    }
    for number in (0..1000).rev() {
        let mut found = Vec::new();
        trie.matches(&format!("u/{number}/x"), |&value| found.push(value));
        assert_eq!(found, [number]);
        assert_eq!(trie.remove(&format!("u/{number}/+")), Some(number));
    }
    assert!(trie.is_empty());
}

#[test]
fn a_page_without_a_match_ends_and_says_where_to_go_on() {
    let mut trie = TopicTrie::new();
    for number in 0..100 {
        trie.insert(&format!("u/{number:02}/a"), number);
    }
    trie.insert("u/99/z", 100);
    let (mut pages, mut found, mut after) = (0, Vec::new(), None);
    loop {
        after = trie.matching_page("u/+/z", after.as_deref(), 1, |topic, _| {
            found.push(topic.to_owned());
        });
        pages += 1;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(found, ["u/99/z"]);
    assert!((2..20).contains(&pages), "{pages}");
}

#[test]
fn a_filter_looks_at_few_topics_that_it_cannot_match() {
    let mut trie = TopicTrie::new();
    for number in 0..1000 {
        trie.insert(&format!("b/{number}"), number);
        trie.insert(&format!("c/1/{number}"), number);
    }
    trie.insert("c/2", 0);
    for filter in ["b/7", "b/999/#", "a/#", "+/2", "d/+"] {
        let next = trie.matching_page(filter, None, 4, |_, _| {});
        assert_eq!(next, None, "{filter} is answered in one page");
    }
}

#[test]
fn retained_topics_are_found_in_order_and_taken_out() {
    let mut trie = TopicTrie::new();
    for (number, topic) in ["a-b", "a/b", "a", "$SYS/a", "a/b/c"]
        .into_iter()
        .enumerate()
    {
        trie.insert(topic, number);
    }
    let found = |trie: &TopicTrie<usize>, filter: &str| {
        let mut found = Vec::new();
        trie.matching(filter, |topic, _| found.push(topic.to_owned()));
        found
    };
    assert_eq!(found(&trie, "a/#"), ["a", "a/b", "a/b/c"]);
    assert_eq!(found(&trie, "#"), ["a", "a/b", "a/b/c", "a-b"]);
    assert_eq!(found(&trie, "$SYS/#"), ["$SYS/a"]);
    assert_eq!(found(&trie, "+"), ["a", "a-b"]);
    *trie.get_mut("a/b").unwrap() = 7;
    assert_eq!(
        (
            trie.remove("a/b"),
            trie.remove("a/b"),
            trie.len(),
            trie.is_empty()
        ),
        (Some(7), None, 4, false)
    );
    assert_eq!(
        format!("{trie:?}"),
        r#"{"$SYS/a": 3, "a": 2, "a/b/c": 4, "a-b": 0}"#
    );
}

proptest! {
    #[test]
    fn filters_match_as_their_words_say(filter in filter(), topic in topic()) {
        prop_assert_eq!(TopicFilter::parse(&filter).unwrap().matches(&topic), naive(&filter, &topic));
    }

    #[test]
    fn a_filter_with_a_root_matches_only_topics_of_that_root(
        filter in filter(), topics in vec(topic(), 20), default in 0..4u8, prefixes in vec((topic(), 0..5u8), 0..4),
    ) {
        let prefixes: Vec<_> = prefixes.iter().map(|(prefix, depth)| (prefix.as_str(), *depth)).collect();
        let depths = RootDepths::new(default, &prefixes);
        if let Some(root) = depths.root_of_filter(&filter) {
            for topic in topics.iter().filter(|topic| naive(&filter, topic)) {
                prop_assert_eq!(depths.root_of_topic(topic), root);
            }
        }
    }

    #[test]
    fn the_filter_trie_agrees_with_the_naive_matcher(
        steps in vec((filter(), any::<bool>()), 1..60), topics in vec(topic(), 1..20),
    ) {
        let mut trie = FilterTrie::new();
        let mut map = BTreeMap::new();
        for (number, (filter, insert)) in steps.iter().enumerate() {
            if *insert {
                prop_assert_eq!(trie.insert(filter, number), map.insert(filter.clone(), number));
            } else {
                // Also a filter that is there, more often than by chance.
                let filter = map.keys().nth(number % (map.len() + 1)).unwrap_or(filter).clone();
                prop_assert_eq!(trie.remove(&filter), map.remove(&filter));
            }
            prop_assert_eq!(trie.len(), map.len());
        }
        for topic in &topics {
            let mut found = Vec::new();
            trie.matches(topic, |&value| found.push(value));
            found.sort_unstable();
            let mut expected: Vec<_> =
                map.iter().filter(|(filter, _)| naive(filter, topic)).map(|(_, &value)| value).collect();
            expected.sort_unstable();
            prop_assert_eq!(found, expected, "{}", topic);
        }
        let mut all = BTreeMap::new();
        trie.for_each(|filter, &value| { all.insert(filter.to_owned(), value); });
        prop_assert_eq!(&all, &map);
        for filter in map.keys() {
            prop_assert!(trie.remove(filter).is_some());
        }
        prop_assert!(trie.is_empty());
    }

    #[test]
    fn the_topic_trie_agrees_with_the_naive_matcher(
        topics in vec(topic(), 1..60), filters in vec(filter(), 1..10), page in 1..5usize,
    ) {
        let mut trie = TopicTrie::new();
        let mut map = BTreeMap::new();
        for (number, topic) in topics.iter().enumerate() {
            prop_assert_eq!(trie.insert(topic, number), map.insert(topic.clone(), number));
            if number % 5 == 4 {
                prop_assert_eq!(trie.remove(&topics[number / 2]), map.remove(&topics[number / 2]));
            }
        }
        prop_assert_eq!(trie.len(), map.len());
        for filter in filters.iter().chain(&topics) {
            let mut found = Vec::new();
            trie.matching(filter, |topic, &value| found.push((topic.to_owned(), value)));
            let mut paged = Vec::new();
            let mut after = None;
            loop {
                after = trie.matching_page(filter, after.as_deref(), page, |topic, &value| {
                    paged.push((topic.to_owned(), value));
                });
                prop_assert!(paged.len() <= found.len());
                if after.is_none() {
                    break;
                }
            }
            prop_assert_eq!(&paged, &found);
            found.sort_unstable();
            let expected: Vec<_> = map.iter().filter(|(topic, _)| naive(filter, topic))
                .map(|(topic, &value)| (topic.clone(), value)).collect();
            prop_assert_eq!(found, expected, "{}", filter);
        }
        for (topic, value) in &map {
            prop_assert_eq!(trie.get(topic), Some(value));
        }
    }

    #[test]
    fn text_is_a_name_or_a_filter_only_if_its_levels_are(text in "[a/+#$\0]{0,6}") {
        let levels: Vec<_> = text.split('/').collect();
        let plain = !text.is_empty() && !text.contains('\0');
        prop_assert_eq!(TopicName::parse(&text).is_ok(), plain && !text.contains(['+', '#']));
        let filter = levels.iter().enumerate().all(|(index, level)| {
            *level == "+" || (*level == "#" && index + 1 == levels.len()) || !level.contains(['+', '#'])
        });
        prop_assert_eq!(TopicFilter::parse(&text).is_ok(), plain && filter);
    }
}
