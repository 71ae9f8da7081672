//! The Valkey or Redis of a node: looked at before it is used, and refused when it would break what is promised.

use crate::config::{Config, Durability};
use crate::control::engine::{connect_options, inspect};
use crate::control::status::StoreFacts;
use crate::engine::redis::inspect::{Finding, Report, Severity};
use crate::engine::redis::options::RedisOptions;

use super::{StartError, random_u64};

/// Options of the store, and what is known of it; `None` for the embedded one. `alone`: no other node has it.
pub(super) fn redis_options(
    config: &Config,
    alone: bool,
) -> Result<Option<(RedisOptions, StoreFacts)>, StartError> {
    let Some(connect) = connect_options(config)? else {
        return Ok(None);
    };
    let report = inspect(config, &connect);
    report.findings.iter().for_each(log);
    if !report.is_good() {
        return Err(StartError::EngineServers(refusals(&report)));
    }
    tell(config, &report);
    let facts = facts(config, &report);
    let options = RedisOptions {
        prefix: config.engine.prefix.0.as_str().into(),
        policy: report.policy,
        alone,
        depths: config.root_depths(),
        ..RedisOptions::new(connect, random_u64()?, config.mailbox_limits())
    };
    Ok(Some((options, facts)))
}

fn facts(config: &Config, report: &Report) -> StoreFacts {
    let servers = report.facts.servers.iter();
    let mut servers: Vec<_> = servers.map(|server| server.address.to_string()).collect();
    servers.sort();
    StoreFacts {
        durability: report.durability,
        servers,
        ..StoreFacts::of(config)
    }
}

/// What is used, and what acknowledgements promise.
fn tell(config: &Config, report: &Report) {
    let because = match config.engine.durability {
        Durability::Auto => "auto: the strictest that the servers are set up for",
        _ => "as configured",
    };
    tracing::info!(
        servers = %report.summary(),
        durability = report.durability.word(),
        replicas_waited_for = report.replicas_waited_for(),
        because,
        "the engine is a Valkey or Redis"
    );
}

fn log(finding: &Finding) {
    let Finding {
        severity,
        server,
        setting,
        found,
        right,
        why,
    } = finding;
    match severity {
        Severity::Refuse => tracing::error!(%server, %setting, %found, %right, "{why}"),
        Severity::Warn => tracing::warn!(%server, %setting, %found, %right, "{why}"),
        Severity::Info => tracing::info!(%server, %setting, %found, %right, "{why}"),
    }
}

fn refusals(report: &Report) -> String {
    let findings = report.findings.iter();
    let refused = findings.filter(|finding| finding.severity == Severity::Refuse);
    let silent = report.facts.silent.iter();
    let silent = silent.map(|(server, error)| format!("{server}: {error}"));
    let refused = refused.map(|finding| {
        format!(
            "{}: {} = {}, right: {} ({})",
            finding.server, finding.setting, finding.found, finding.right, finding.why
        )
    });
    refused.chain(silent).collect::<Vec<_>>().join("; ")
}
