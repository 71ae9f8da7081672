//! `roadstead engine`: looks at the Valkey or Redis behind a node, and moves a store there.

use std::io::Write;

use serde_json::json;

use super::arguments::EngineCommand;
use super::migrate::{self, Wanted};
use super::table::printable;
use super::{CommandError, EXIT_DONE, EXIT_FAILED};
use crate::config::{Config, Durability};
use crate::control::engine::{connect_options, inspect};
use crate::engine::redis::inspect::{Finding, Report, Severity};
use crate::engine::redis::options::ConnectOptions;

/// Does what was typed.
pub(super) fn run(
    command: &EngineCommand,
    environment: &[(String, String)],
    out: &mut dyn Write,
) -> Result<u8, CommandError> {
    match command {
        EngineCommand::Migrate {
            from,
            resume,
            settings,
            json,
        } => {
            let wanted = Wanted {
                from,
                resume: *resume,
                json: *json,
            };
            migrate::run(&settings.load(environment)?, &wanted, out)
        }
        EngineCommand::Check { settings, json } => check(&settings.load(environment)?, *json, out),
    }
}

/// How to reach the servers.
pub(super) fn servers(config: &Config) -> Result<ConnectOptions, CommandError> {
    let options = connect_options(config).map_err(|error| CommandError::Failed {
        error: error.to_string(),
        remedy: None,
    })?;
    options.ok_or_else(|| {
        CommandError::failed(
            "engine.kind is \"embedded\": there is no Valkey or Redis",
            "name a configuration with engine.kind = \"redis\" by --config; `roadstead check` looks at the folder of the embedded store",
        )
    })
}

fn check(config: &Config, json: bool, out: &mut dyn Write) -> Result<u8, CommandError> {
    let report = inspect(config, &servers(config)?);
    if json {
        writeln!(out, "{:#}", as_json(&report))?;
    } else {
        write!(out, "{}", as_text(&report, config.engine.durability))?;
    }
    Ok(if report.is_good() {
        EXIT_DONE
    } else {
        EXIT_FAILED
    })
}

fn as_json(report: &Report) -> serde_json::Value {
    let servers = report.facts.servers.iter().map(|server| {
        json!({
            "address": server.address.to_string(),
            "role": if server.is_primary() { "primary" } else { "replica" },
            "version": server.version().to_string(),
        })
    });
    json!({
        "good": report.is_good(),
        "durability": report.durability.word(),
        "replicas_waited_for": report.replicas_waited_for(),
        "cluster": report.facts.cluster.is_some(),
        "servers": servers.collect::<Vec<_>>(),
        "findings": report.findings,
    })
}

fn as_text(report: &Report, wanted: Durability) -> String {
    let mut text = String::new();
    if !report.facts.servers.is_empty() {
        text += &format!("servers     {}\n", report.summary());
        text += &format!("durability  {}\n\n", policy(report, wanted));
    }
    for finding in &report.findings {
        text += &shown(finding);
    }
    text += if report.is_good() {
        "a node would use it\n"
    } else {
        "a node would NOT use it: see REFUSE above\n"
    };
    text
}

/// The policy with what it waits for.
fn policy(report: &Report, wanted: Durability) -> String {
    let count = report.replicas_waited_for();
    let promise = match report.durability {
        Durability::Aof => "the disk of the primary has it".to_owned(),
        Durability::Replica => format!("the primary and {count} of its replicas have it"),
        Durability::ReplicaAof => {
            format!("the disks of the primary and of {count} of its replicas have it")
        }
        _ => "the primary has it".to_owned(),
    };
    let chosen = if wanted == Durability::Auto {
        " (auto)"
    } else {
        ""
    };
    format!(
        "{}{chosen}: acknowledged when {promise}",
        report.durability.word()
    )
}

fn shown(finding: &Finding) -> String {
    let mark = match finding.severity {
        Severity::Refuse => "REFUSE",
        Severity::Warn => "warn  ",
        Severity::Info => "info  ",
    };
    format!(
        "{mark}  {}  {} = {}; right: {}\n        {}\n",
        finding.server,
        finding.setting,
        printable(&finding.found),
        finding.right,
        finding.why
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_tells_what_is_right_and_why() {
        let finding = Finding {
            severity: Severity::Refuse,
            server: "10.0.0.1:6379".into(),
            setting: "maxmemory-policy".into(),
            found: "allkeys-lru\u{1b}".into(),
            right: "noeviction".into(),
            why: "any other drops what was acknowledged".into(),
        };
        let text = shown(&finding);
        assert!(
            text.starts_with("REFUSE  10.0.0.1:6379  maxmemory-policy = allkeys-lru"),
            "{text}"
        );
        assert!(
            text.contains("right: noeviction\n        any other"),
            "{text}"
        );
        assert!(!text.contains('\u{1b}'), "{text}");
    }
}
