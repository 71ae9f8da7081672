//! `docs/SECURITY.md` names keys, defaults, metrics and labels as they are, and is found.

use gateway::config::{KEYS, Key, SECTIONS};
use toml::Value;

use crate::exposition::scrape;
use crate::repository;

const PATH: &str = "docs/SECURITY.md";
/// Where every value is a default.
const BOUNDS: &str = "## What is bounded by what";
/// Files of the node that look like keys.
const FILES: [&str; 2] = ["access.secret", "quic.secret"];

fn page() -> String {
    std::fs::read_to_string(repository(PATH)).expect("docs/SECURITY.md is there")
}

/// What stands between backticks on one line, with the heading of its part of the page.
fn spans(text: &str) -> Vec<(&str, &str)> {
    let mut part = "";
    let mut spans = Vec::new();
    for line in text.lines() {
        if line.starts_with("## ") {
            part = line;
        }
        let marked = line.split('`').skip(1).step_by(2);
        spans.extend(marked.map(|span| (part, span)));
    }
    spans
}

/// The key that a span names, and the value that it gives it. Fails when it names one that does not exist.
fn key(span: &str) -> Option<(&'static Key, Option<&str>)> {
    let (path, value) = match span.split_once(" = ") {
        Some((path, value)) => (path, Some(value)),
        None => (span, None),
    };
    let (section, name) = path.split_once('.')?;
    let word = |text: &str| {
        text.bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte == b'_')
    };
    let is_one = SECTIONS.iter().any(|known| known.name == section) && word(name);
    if !is_one || FILES.contains(&path) {
        return None;
    }
    let key = KEYS.iter().find(|key| key.path() == path);
    let key = key.unwrap_or_else(|| panic!("{path} is named in {PATH} and does not exist"));
    Some((key, value))
}

fn parse(value: &str) -> Value {
    let table = format!("value = {value}").parse::<toml::Table>();
    let mut table = table.unwrap_or_else(|error| panic!("`{value}` in {PATH}: {error}"));
    table.remove("value").expect("it was just written")
}

#[test]
fn keys_that_the_page_names_exist_and_have_the_values_that_it_says() {
    let text = page();
    let (mut keys, mut defaults) = (0, 0);
    for (part, span) in spans(&text) {
        let Some((key, value)) = key(span) else {
            continue;
        };
        keys += 1;
        let Some(value) = value.map(parse) else {
            continue;
        };
        if part == BOUNDS {
            defaults += 1;
            assert_eq!(value, (key.default)(), "the default of {}", key.path());
        } else if let Err(problem) = (key.check)(&value) {
            panic!("{} = {value} in {PATH}: {problem}", key.path());
        }
    }
    assert!(
        keys > 100 && defaults > 50,
        "{keys} keys, {defaults} defaults"
    );
}

#[test]
fn every_bound_is_on_the_page() {
    let text = page();
    let named: Vec<String> = spans(&text)
        .into_iter()
        .filter_map(|(_, span)| key(span))
        .map(|(key, _)| key.path())
        .collect();
    let of_memory_of_the_node = [
        "engine.cache_bytes",
        "io.receive_buffer_bytes",
        "io.events_max",
    ];
    let is_bound = |path: &String| {
        ["_max", "_bytes", "_rate", "_per_s", "_timeout", "_per_turn"]
            .iter()
            .any(|end| path.ends_with(end))
    };
    let missing: Vec<String> = KEYS
        .iter()
        .map(Key::path)
        .filter(|path| is_bound(path) && !of_memory_of_the_node.contains(&path.as_str()))
        .filter(|path| !named.contains(path))
        .collect();
    assert_eq!(missing, [""; 0], "put them into the tables of {PATH}");
}

#[test]
fn metrics_and_labels_that_the_page_names_exist() {
    let text = page();
    let scrape = scrape();
    let has_label = |name: Option<&str>, label: &str, value: &str| {
        scrape.samples.iter().any(|sample| {
            name.is_none_or(|name| sample.name == name)
                && sample.labels.get(label).is_some_and(|it| it == value)
        })
    };
    let mut count = 0;
    for (_, span) in spans(&text) {
        let (name, labels) = span.split_once('{').unwrap_or((span, ""));
        if !name.starts_with("roadstead_") && !labels.starts_with("reason=") {
            continue;
        }
        count += 1;
        let name = (!name.is_empty()).then_some(name);
        if let Some(name) = name {
            assert!(scrape.kinds.contains_key(name), "{name} does not exist");
        }
        if let Some((label, value)) = labels.split_once('=') {
            let value = value.trim_end_matches('}').trim_matches('"');
            assert!(has_label(name, label, value), "{span} does not exist");
        }
    }
    assert!(count > 50, "{count} metrics");
}

#[test]
fn the_page_and_the_way_to_report_are_linked() {
    for (from, to) in [
        ("README.md", "](docs/SECURITY.md)"),
        ("README.md", "](SECURITY.md)"),
        ("docs/OPERATIONS.md", "](SECURITY.md)"),
        ("docs/OPERATIONS.md", "](../SECURITY.md)"),
        ("SECURITY.md", "](docs/SECURITY.md)"),
        ("docs/SECURITY.md", "](../SECURITY.md)"),
    ] {
        let text = std::fs::read_to_string(repository(from)).expect(from);
        assert!(text.contains(to), "{from} does not lead to {to}");
    }
}
