//! `docs/OPERATIONS.md` has every key, every metric, every command and every path.

use std::fmt::Write as _;
use std::sync::Mutex;

use gateway::config::{KEYS, markdown_table};

use crate::exposition::scrape;
use crate::repository;

const PATH: &str = "docs/OPERATIONS.md";
/// Held while the file is read and written: the tests run at the same time.
static FILE: Mutex<()> = Mutex::new(());

fn operations() -> String {
    std::fs::read_to_string(repository(PATH)).expect("docs/OPERATIONS.md is there")
}

/// Compares what stands between two marks with what should; `UPDATE_GOLDEN=1` writes it.
fn assert_generated(what: &str, table: &str) {
    let begin = format!("<!-- {what}: written by the tests of gateway, with UPDATE_GOLDEN=1 -->\n");
    let end = format!("<!-- end of {what} -->");
    let _held = FILE.lock().expect("no panic while held");
    let text = operations();
    let (before, rest) = text.split_once(&begin).expect("the place for the table");
    let (kept, after) = rest.split_once(&end).expect("the end of the table");
    let table = format!("\n{table}\n");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(
            repository(PATH),
            format!("{before}{begin}{table}{end}{after}"),
        )
        .expect("written");
    } else {
        assert!(
            kept == table,
            "the {what} of {PATH} are not current; run with UPDATE_GOLDEN=1"
        );
    }
}

#[test]
fn every_key_is_documented() {
    let table = markdown_table();
    for key in KEYS {
        assert!(
            table.contains(&format!("| `{}` |", key.name)),
            "{} is not in the table",
            key.path()
        );
    }
    assert_generated("keys", &table);
}

#[test]
fn every_metric_is_documented() {
    let scrape = scrape();
    let mut table = String::from("| metric | type | labels | meaning |\n|---|---|---|---|\n");
    for (name, kind) in &scrape.kinds {
        let series = scrape.samples.iter().find(|sample| sample.name == *name);
        let labels: Vec<_> = series
            .into_iter()
            .flat_map(|sample| sample.labels.keys())
            .map(|label| format!("`{label}`"))
            .collect();
        let _ = writeln!(
            table,
            "| `{name}` | {kind} | {} | {} |",
            labels.join(", "),
            scrape.helps[name]
        );
    }
    assert_generated("metrics", &table);
}

#[test]
fn metrics_that_the_text_names_exist() {
    let text = operations();
    let scrape = scrape();
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    for (at, _) in text.match_indices("roadstead_") {
        let name: String = text[at..].chars().take_while(|c| word(*c)).collect();
        assert!(
            scrape.kinds.contains_key(&name),
            "{name} is named in {PATH} and does not exist"
        );
    }
}

#[test]
fn every_path_and_command_is_documented() {
    let text = operations();
    for word in [
        "/healthz",
        "/readyz",
        "/metrics",
        "/v1/status",
        "/v1/sessions",
        "/v1/sessions/{id}",
        "/v1/publish",
        "/v1/subscriptions",
        "/v1/retained",
        "/v1/bans",
        "/v1/reload",
        "/v1/cluster",
        "/v1/cluster/view",
        "/v1/cluster/partitions",
        "/v1/cluster/drain",
        "/v1/cluster/rebalance",
        "roadstead check",
        "config print",
        "config check",
        "config example",
        "ctl status",
        "sessions list",
        "sessions show",
        "sessions kick",
        "ctl publish",
        "ctl subscriptions",
        "retained list",
        "retained clear",
        "bans list",
        "bans add",
        "bans lift",
        "ctl reload",
        "cluster status",
        "cluster view",
        "cluster partitions",
        "cluster drain",
        "cluster rebalance",
        "roadstead passwd",
        "engine check",
        "engine migrate",
    ] {
        assert!(text.contains(word), "{word} is not in {PATH}");
    }
}
