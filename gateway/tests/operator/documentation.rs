//! `docs/OPERATIONS.md` has every key, every metric, every command and every path.

use gateway::config::{KEYS, markdown_table};

use crate::exposition::scrape;
use crate::repository;

const PATH: &str = "docs/OPERATIONS.md";
const BEGIN: &str = "<!-- keys: written by the tests of gateway, with UPDATE_GOLDEN=1 -->\n";
const END: &str = "<!-- end of keys -->";

fn operations() -> String {
    std::fs::read_to_string(repository(PATH)).expect("docs/OPERATIONS.md is there")
}

#[test]
fn the_table_of_keys_is_current() {
    let text = operations();
    let (before, rest) = text.split_once(BEGIN).expect("the place for the table");
    let (kept, after) = rest.split_once(END).expect("the end of the table");
    let table = format!("\n{}\n", markdown_table());
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(
            repository(PATH),
            format!("{before}{BEGIN}{table}{END}{after}"),
        )
        .expect("written");
    } else {
        assert!(
            kept == table,
            "run with UPDATE_GOLDEN=1 to write the table of {PATH}"
        );
    }
    for key in KEYS {
        assert!(
            table.contains(&format!("| `{}` |", key.name)),
            "{} is not in {PATH}",
            key.path()
        );
    }
}

#[test]
fn every_metric_is_documented_and_no_other() {
    let text = operations();
    let scrape = scrape();
    let documented = |name: &str| text.contains(&format!("| `{name}`"));
    for name in scrape.kinds.keys() {
        assert!(documented(name), "{name} is not in {PATH}");
    }
    for line in text
        .lines()
        .filter_map(|line| line.strip_prefix("| `roadstead_"))
    {
        let name = format!(
            "roadstead_{}",
            line.split(['`', '{']).next().unwrap_or_default()
        );
        assert!(
            scrape.kinds.contains_key(&name),
            "{name} is in {PATH} and does not exist"
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
    ] {
        assert!(text.contains(word), "{word} is not in {PATH}");
    }
}
