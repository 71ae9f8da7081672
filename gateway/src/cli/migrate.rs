//! `roadstead engine migrate`: moves the store of a single node into a Valkey or Redis.

use std::io::Write;
use std::path::Path;

use serde_json::json;

use super::{CommandError, EXIT_DONE};
use crate::config::Config;
use crate::control::engine::inspect;
use crate::engine::Durability;
use crate::engine::embedded::{Embedded, EmbeddedOptions};
use crate::engine::migrate::{Totals, migrate};
use crate::engine::redis::inspect::Severity;
use crate::engine::redis::options::RedisOptions;
use crate::event_loop::Clock;

/// How it is to be done.
pub(super) struct Wanted<'a> {
    /// Folder of the embedded store.
    pub(super) from: &'a Path,
    /// Go on with an interrupted migration.
    pub(super) resume: bool,
    /// For machines: the result alone.
    pub(super) json: bool,
}

/// Moves the store in a folder to where the configuration says.
pub(super) fn run(
    config: &Config,
    wanted: &Wanted<'_>,
    out: &mut dyn Write,
) -> Result<u8, CommandError> {
    let connect = super::engine::servers(config)?;
    let report = inspect(config, &connect);
    let mut findings = report.findings.iter();
    if let Some(finding) = findings.find(|finding| finding.severity == Severity::Refuse) {
        return Err(CommandError::failed(
            format!(
                "the Valkey or Redis cannot be used: {}: {} = {}, right: {}",
                finding.server, finding.setting, finding.found, finding.right
            ),
            "`roadstead engine check` tells everything about it",
        ));
    }
    if !Embedded::is_in(wanted.from) {
        return Err(CommandError::failed(
            format!(
                "--from = \"{}\": there is no store in this folder",
                wanted.from.display()
            ),
            "name the folder that engine.path of the single node names",
        ));
    }
    let options = EmbeddedOptions {
        mailbox_limits: config.mailbox_limits(),
        durability: Durability::Sync,
        cache_bytes: config.engine.cache_bytes.as_usize(),
    };
    let failed = |error: String| CommandError::Failed {
        error,
        remedy: None,
    };
    let mut source = Embedded::open(wanted.from, options, Clock::start().now().unix_ms)
        .map_err(|error| failed(error.to_string()))?;
    let target = RedisOptions {
        prefix: config.engine.prefix.0.as_str().into(),
        policy: report.policy,
        depths: config.root_depths(),
        ..RedisOptions::new(connect, 0, config.mailbox_limits())
    };
    if !wanted.json {
        writeln!(out, "from   {}", wanted.from.display())?;
        writeln!(
            out,
            "to     {}, prefix {}, durability {}",
            report.summary(),
            target.prefix,
            report.durability.word()
        )?;
    }
    let mut told = Told::default();
    let moved = migrate(&mut source, target, wanted.resume, &mut |moved, all| {
        if !wanted.json {
            told.tell(moved, all, out);
        }
    });
    let moved = moved.map_err(|error| failed(error.to_string()))?;
    if wanted.json {
        writeln!(out, "{:#}", as_json(&moved))?;
    } else {
        writeln!(
            out,
            "moved  {}; all of it was read back and counted",
            shown(&moved)
        )?;
        writeln!(
            out,
            "next   start the node with this configuration; {} is as it was: keep it until you are sure, and start no node on it",
            wanted.from.display()
        )?;
    }
    Ok(EXIT_DONE)
}

/// What was said of the progress.
#[derive(Default)]
struct Told {
    began: bool,
    /// The tenth part that was told last.
    tenth: u64,
}

impl Told {
    /// Tells of the beginning, and of each tenth part.
    fn tell(&mut self, moved: &Totals, all: &Totals, out: &mut dyn Write) {
        let mut text = String::new();
        if !self.began {
            self.began = true;
            text = format!("found  {}\n", shown(all));
        }
        let tenth = weight(moved) * 10 / weight(all).max(1);
        if tenth > self.tenth && tenth < 10 {
            self.tenth = tenth;
            text += &format!(
                "{:>3} %  {} messages of {}\n",
                tenth * 10,
                moved.messages,
                all.messages
            );
        }
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush()); // Who reads no more gets no more.
    }
}

fn weight(totals: &Totals) -> u64 {
    totals.sessions + totals.queues + totals.messages + totals.retained
}

fn shown(totals: &Totals) -> String {
    let Totals {
        sessions,
        subscriptions,
        received,
        queues,
        messages,
        retained,
    } = totals;
    format!(
        "{sessions} sessions with {subscriptions} subscriptions and {received} packet identifiers, {queues} queues, {messages} messages, \
         {retained} retained"
    )
}

fn as_json(totals: &Totals) -> serde_json::Value {
    let Totals {
        sessions,
        subscriptions,
        received,
        queues,
        messages,
        retained,
    } = totals;
    json!({
        "complete": true,
        "sessions": sessions,
        "subscriptions": subscriptions,
        "received": received,
        "queues": queues,
        "messages": messages,
        "retained": retained,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_told_once_for_each_tenth() {
        let all = Totals {
            messages: 1_000,
            ..Totals::default()
        };
        let (mut told, mut out) = (Told::default(), Vec::new());
        for messages in 0..=1_000 {
            told.tell(&Totals { messages, ..all }, &all, &mut out);
        }
        let text = String::from_utf8(out).expect("text");
        assert_eq!(text.lines().count(), 10, "{text}");
        assert!(text.ends_with(" 90 %  900 messages of 1000\n"), "{text}");
    }
}
