//! The metrics, read back as Prometheus reads them.

use std::collections::BTreeMap;

use gateway::control::metrics::{CoreSample, exposition};
use gateway::engine::status::EngineState;

use crate::fake::{Mood, Node, snapshot, status};

/// One series: its name, labels and value.
#[derive(Debug)]
pub(crate) struct Sample {
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) value: f64,
}

/// Samples, and type and help by family.
pub(crate) struct Scrape {
    pub(crate) samples: Vec<Sample>,
    pub(crate) kinds: BTreeMap<String, String>,
    pub(crate) helps: BTreeMap<String, String>,
}

impl Scrape {
    /// Reads the text format; fails on what Prometheus would not take.
    pub(crate) fn parse(text: &str) -> Self {
        let mut scrape = Self {
            samples: Vec::new(),
            kinds: BTreeMap::new(),
            helps: BTreeMap::new(),
        };
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').expect("a help text");
                assert!(
                    help.ends_with('.') || name.starts_with("process_"),
                    "the help of {name} is a sentence: {help:?}"
                );
                let earlier = scrape.helps.insert(name.into(), help.into());
                assert!(earlier.is_none(), "{name} comes twice");
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').expect("a type");
                scrape.kinds.insert(name.into(), kind.into());
            } else {
                scrape.samples.push(Self::sample(line));
            }
        }
        scrape
    }

    fn sample(line: &str) -> Sample {
        let (series, value) = line.rsplit_once(' ').expect("a value");
        let (name, labels) = match series.split_once('{') {
            Some((name, labels)) => (name, labels.strip_suffix('}').expect("closed")),
            None => (series, ""),
        };
        let mut pairs = BTreeMap::new();
        let mut rest = labels;
        while let Some((label, quoted)) = rest.split_once("=\"") {
            let end = (0..quoted.len())
                .find(|&at| quoted.as_bytes()[at] == b'"' && !quoted[..at].ends_with('\\'))
                .expect("a closing quote");
            pairs.insert(label.to_owned(), quoted[..end].replace("\\\"", "\""));
            rest = quoted[end + 1..].trim_start_matches(',');
        }
        Sample {
            name: name.into(),
            labels: pairs,
            value: value.parse().expect("a number"),
        }
    }

    /// The sum over all series of a name.
    pub(crate) fn sum(&self, name: &str) -> f64 {
        let values: Vec<_> = self
            .samples
            .iter()
            .filter(|sample| sample.name == name)
            .map(|sample| sample.value)
            .collect();
        assert!(!values.is_empty(), "{name} is not exposed");
        values.iter().sum()
    }

    fn value(&self, name: &str, label: &str, value: &str) -> Option<f64> {
        let found = self.samples.iter().find(|sample| {
            sample.name == name && sample.labels.get(label).is_some_and(|v| v == value)
        });
        found.map(|sample| sample.value)
    }
}

/// A scrape of two cores that answered.
pub(crate) fn scrape() -> Scrape {
    let sample = |core| CoreSample {
        snapshot: snapshot(core),
        answered: true,
    };
    Scrape::parse(
        &exposition(&[sample(0), sample(1)], &status(EngineState::Working)).expect("encoded"),
    )
}

#[test]
fn counters_are_summed_and_conservation_can_be_checked() {
    let scrape = scrape();
    assert_eq!(scrape.sum("roadstead_publishes_received_total"), 201.0);
    let accepted = scrape.sum("roadstead_deliveries_accepted_total");
    let accounted = scrape.sum("roadstead_deliveries_delivered_total")
        + scrape.sum("roadstead_deliveries_expired_total")
        + scrape.sum("roadstead_deliveries_dropped_total")
        + scrape.sum("roadstead_deliveries_queued");
    assert_eq!((accepted, accounted), (100.0, 100.0));
    assert_eq!(scrape.sum("roadstead_deliveries_unaccounted"), 0.0);
    assert_eq!(
        scrape.value("roadstead_deliveries_dropped_total", "reason", "queue_full"),
        Some(8.0)
    );
}

#[test]
fn a_delivery_that_vanished_shows() {
    let mut sample = CoreSample {
        snapshot: snapshot(0),
        answered: true,
    };
    sample.snapshot.deliveries_queued -= 1;
    let scrape =
        Scrape::parse(&exposition(&[sample], &status(EngineState::Working)).expect("encoded"));
    assert_eq!(scrape.sum("roadstead_deliveries_unaccounted"), 1.0);
}

#[test]
fn a_few_series_are_per_core_and_ten_per_root() {
    let scrape = scrape();
    assert_eq!(
        scrape.value("roadstead_turns_total", "core", "1"),
        Some(2_000.0)
    );
    assert_eq!(
        scrape.value("roadstead_connections", "core", "0"),
        Some(10.0)
    );
    let roots: Vec<_> = scrape
        .samples
        .iter()
        .filter(|sample| sample.name == "roadstead_root_publishes")
        .collect();
    assert_eq!(roots.len(), 10);
    assert_eq!(
        scrape.value("roadstead_root_publishes", "root", "core1/root0"),
        Some(100.0)
    );
    assert_eq!(
        scrape.value("roadstead_root_publishes", "root", "core1/root7"),
        None
    );
}

#[test]
fn a_root_of_any_length_makes_a_short_label() {
    let mut sample = CoreSample {
        snapshot: snapshot(0),
        answered: true,
    };
    sample.snapshot.hottest_roots = vec![("ä".repeat(30_000), 5), ("a\"\n\\".into(), 4)];
    let text = exposition(&[sample], &status(EngineState::Working)).expect("encoded");
    assert!(
        text.lines().all(|line| line.len() < 1_000),
        "no line is long"
    );
    assert!(
        text.contains(r#"roadstead_root_publishes{root="a\"\n\\"} 4"#),
        "{text}"
    );
}

#[test]
fn a_node_that_has_done_nothing_exposes_its_metrics_too() {
    let text =
        exposition(&[CoreSample::default()], &status(EngineState::Working)).expect("encoded");
    assert_eq!(Scrape::parse(&text).sum("roadstead_cores"), 1.0);
}

#[test]
fn names_follow_the_conventions() {
    let scrape = scrape();
    for (name, kind) in &scrape.kinds {
        assert!(
            name.starts_with("roadstead_") || name.starts_with("process_"),
            "{name}"
        );
        assert_eq!(
            name.ends_with("_total"),
            kind == "counter",
            "{name} is a {kind}"
        );
    }
}

#[test]
fn the_backend_and_its_reason_the_engine_and_the_process_are_told() {
    let scrape = scrape();
    assert_eq!(
        scrape.value("roadstead_io_backend_info", "backend", "io_uring"),
        Some(1.0)
    );
    assert_eq!(
        scrape.value(
            "roadstead_io_backend_info",
            "reason",
            "io_uring works (kernel \"6.18\")"
        ),
        Some(1.0)
    );
    assert_eq!(
        scrape.value("roadstead_engine_state", "state", "working"),
        Some(1.0)
    );
    assert_eq!(scrape.sum("roadstead_engine_commits_total"), 3.0);
    assert!(scrape.sum("process_resident_memory_bytes") > 0.0);
    assert!(scrape.sum("process_open_fds") > 0.0);
}

#[test]
fn a_scrape_asks_each_core_once_and_a_stuck_core_takes_no_counter_back() {
    let node = Node::start();
    let metrics = || {
        let request = format!(
            "GET /metrics HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
            node.address
        );
        Scrape::parse(&crate::http::exchange(node.address, &request).1)
    };
    let first = metrics();
    assert_eq!(
        node.requests.lock().expect("no panic").len(),
        2,
        "one request for each core"
    );
    node.set_mood(1, Mood::Full);
    let second = metrics();
    let name = "roadstead_publishes_received_total";
    assert_eq!(second.sum(name), first.sum(name));
    assert_eq!(
        second.value("roadstead_core_answered", "core", "0"),
        Some(1.0)
    );
    assert_eq!(
        second.value("roadstead_core_answered", "core", "1"),
        Some(0.0)
    );
}
