//! Filters, tries and roots agree with a matcher that is too simple to be wrong.
//!
//! The input is text: every line is taken as a filter, if it is one, and as a topic, if it is one.

#![no_main]

use std::collections::BTreeSet;

use edge_proto::topic::{RootDepths, SharedFilter, TopicFilter, TopicName};
use edge_proto::trie::{FilterTrie, TopicTrie};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let lines: BTreeSet<&str> = text.lines().take(64).collect();
    let filters: Vec<&str> = lines
        .iter()
        .copied()
        .filter(|line| TopicFilter::parse(line).is_ok())
        .collect();
    let topics: Vec<&str> = lines
        .iter()
        .copied()
        .filter(|line| TopicName::parse(line).is_ok())
        .collect();
    for line in &lines {
        let _ = SharedFilter::parse(line);
    }

    let mut filter_trie = FilterTrie::new();
    let mut topic_trie = TopicTrie::new();
    filters
        .iter()
        .for_each(|filter| assert_eq!(filter_trie.insert(filter, *filter), None));
    topics
        .iter()
        .for_each(|topic| assert_eq!(topic_trie.insert(topic, ()), None));

    let prefixes: Vec<_> = topics
        .iter()
        .take(3)
        .zip([3, 1, 2])
        .map(|(topic, depth)| (*topic, depth))
        .collect();
    let depths = RootDepths::new(2, &prefixes);
    for topic in &topics {
        let expected: Vec<_> = filters
            .iter()
            .copied()
            .filter(|filter| naive(filter, topic))
            .collect();
        let mut found = Vec::new();
        filter_trie.matches(topic, |filter| found.push(*filter));
        found.sort_unstable();
        assert_eq!(found, expected);
        for filter in expected {
            assert!(TopicFilter::parse(filter).is_ok_and(|filter| filter.matches(topic)));
            assert!(
                depths
                    .root_of_filter(filter)
                    .is_none_or(|root| root == depths.root_of_topic(topic))
            );
        }
    }
    for filter in &filters {
        let expected: Vec<_> = topics
            .iter()
            .copied()
            .filter(|topic| naive(filter, topic))
            .collect();
        let mut found = Vec::new();
        let mut after = None;
        loop {
            after = topic_trie.matching_page(filter, after.as_deref(), 2, |topic, ()| {
                found.push(topic.to_owned())
            });
            if after.is_none() {
                break;
            }
        }
        found.sort_unstable();
        assert_eq!(found, expected);
        assert_eq!(filter_trie.remove(filter), Some(*filter));
    }
    assert!(filter_trie.is_empty());
});

fn naive(filter: &str, topic: &str) -> bool {
    let hidden = topic.starts_with('$') && filter.starts_with(['+', '#']);
    !hidden
        && naive_levels(
            &filter.split('/').collect::<Vec<_>>(),
            &topic.split('/').collect::<Vec<_>>(),
        )
}

fn naive_levels(filter: &[&str], topic: &[&str]) -> bool {
    match (filter, topic) {
        (["#"], _) | ([], []) => true,
        (["+", filter @ ..], [_, topic @ ..]) => naive_levels(filter, topic),
        ([wanted, filter @ ..], [level, topic @ ..]) => {
            wanted == level && naive_levels(filter, topic)
        }
        _ => false,
    }
}
