//! What was promised, held against what came; after each fault, and only what was not said before.

use std::collections::BTreeSet;
use std::time::Instant;

use super::cast::is_live;
use super::fault::shown;
use super::stage::{NODES, Stage, partition};
use crate::crash::ledger::{Reader, root};
use crate::report::Report;

/// Broken promises that are shown after a fault, and how many of them with traces.
const SHOWN: usize = 8;
const TRACED: usize = 3;
/// Lines of what nodes said that are shown.
const LINES: usize = 60;

/// What was said already.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    violations: usize,
    missing: BTreeSet<(String, usize)>,
    panics: usize,
    /// Of those that are missing, how many are owed to durable sessions.
    lost: usize,
}

/// A broken promise, for the reader.
struct Broken {
    client: String,
    message: Option<usize>,
    text: String,
}

impl Broken {
    fn is_repeat_to_live(&self) -> bool {
        let again = ["at QoS 2", "was repeated without DUP"];
        is_live(&self.client) && again.iter().any(|end| self.text.ends_with(end))
    }
}

impl Verdict {
    /// Waits until everything has come, and says what has not been kept since the last time. The fault began at `start`.
    pub(crate) fn after(
        &mut self,
        stage: &mut Stage,
        (what, start): (&str, Instant),
        report: &mut Report,
    ) {
        let failed = report.failed();
        let converged = stage.converge();
        report.check(
            converged.is_some(),
            format!("{what}: all nodes serve and agree"),
            shown(converged),
        );
        let settled = stage.settle(self.lost);
        let unsettled = stage.world.unsettled();
        let seen = settled.map_or_else(|| format!("never: {unsettled:?}"), |it| shown(Some(it)));
        report.check(
            settled.is_some(),
            format!("{what}: everyone gets to the end"),
            seen,
        );
        if settled.is_none() {
            for (name, _) in unsettled.iter().take(TRACED) {
                for file in stage.world.save_traces(name) {
                    report.note(format!("trace of {name}: {file}"));
                }
            }
        }
        self.say_of_clients(stage, what, settled.is_some(), report);
        self.say_of_nodes(stage, what, report);
        if report.failed() > failed {
            report.note("what the nodes said of themselves since the fault began:");
            for line in stage.watch.changes(start).into_iter().take(LINES) {
                report.note(line);
            }
        }
    }

    /// What has not come by the end never will.
    pub(crate) fn at_the_end(stage: &Stage, report: &mut Report) {
        let ledger = &stage.world.ledger;
        let (lost, acked) = (ledger.missing().len(), ledger.acked_count());
        report.check(
            lost == 0,
            "at the end no acknowledged message of a durable session is lost",
            format!("{lost} lost of {acked} acknowledged"),
        );
    }

    fn say_of_clients(&mut self, stage: &Stage, what: &str, settled: bool, report: &mut Report) {
        let ledger = &stage.world.ledger;
        let (sent, acked) = (ledger.messages.len(), ledger.acked_count());
        let (mut lost, mut live) = (Vec::new(), Vec::new());
        if settled {
            lost = self.fresh(stage, &ledger.missing());
            live = self.fresh(stage, &ledger.missing_live());
            report.check(
                lost.is_empty(),
                format!("{what}: no acknowledged message of a durable session lost"),
                format!("{} lost of {acked} acknowledged ({sent} sent)", lost.len()),
            );
            report.check(
                live.is_empty(),
                format!(
                    "{what}: live sessions got what was acknowledged while they were connected"
                ),
                format!("{} missing", live.len()),
            );
        } else {
            // Who does not get to the end may still be given it: said after the next fault, and at the end.
            let waiting = ledger.missing().len() - self.lost;
            report.note(format!(
                "{waiting} of {acked} acknowledged messages ({sent} sent) have not come yet"
            ));
        }
        self.lost += lost.len();
        let fresh = ledger.violations[self.violations..].iter();
        let broken: Vec<Broken> = fresh
            .map(|it| Broken {
                client: it.client.clone(),
                message: it.message,
                text: it.text.clone(),
            })
            .collect();
        self.violations = ledger.violations.len();
        // Exactly once is promised to durable sessions; a live one may see a message again that its owner's node died with.
        let (repeats, broken): (Vec<Broken>, Vec<Broken>) =
            broken.into_iter().partition(Broken::is_repeat_to_live);
        report.note(format!(
            "{} messages came again to live sessions",
            repeats.len()
        ));
        let twice = broken
            .iter()
            .filter(|it| it.text.ends_with("at QoS 2"))
            .count();
        let disorder = broken
            .iter()
            .filter(|it| it.text.contains(" came after "))
            .count();
        let other = broken.len() - twice - disorder;
        for (name, count) in [
            ("nothing at QoS 2 came twice", twice),
            ("order of each publisher, root and QoS kept", disorder),
            (
                "sessions, subscriptions and packets as the rules say",
                other,
            ),
        ] {
            report.check(
                count == 0,
                format!("{what}: {name}"),
                format!("{count} broken"),
            );
        }
        let all: Vec<Broken> = lost.into_iter().chain(live).chain(broken).collect();
        show(stage, &all, report);
    }

    /// Those that were not said before.
    fn fresh(&mut self, stage: &Stage, missing: &[(&Reader, usize)]) -> Vec<Broken> {
        let owners = stage.owners();
        let mut fresh = Vec::new();
        for (reader, message) in missing {
            if !self.missing.insert((reader.name.clone(), *message)) {
                continue;
            }
            let sent = &stage.world.ledger.messages[*message];
            let partition = partition(root(&sent.topic));
            let owner = owners
                .get(&partition)
                .map_or_else(String::new, |node| format!(", which node{node} owns now"));
            let from = stage.world.publisher_name(sent.publisher);
            fresh.push(Broken {
                client: reader.name.clone(),
                message: Some(*message),
                text: format!(
                    "m{message} ({:?} on {} from {from}, partition {partition}{owner}) was acknowledged and never came",
                    sent.qos, sent.topic
                ),
            });
        }
        fresh
    }

    fn say_of_nodes(&mut self, stage: &Stage, what: &str, report: &mut Report) {
        let seen = &stage.world.seen;
        let away: Vec<String> = seen
            .sent_away
            .iter()
            .map(|((node, at_connect, reason), count)| {
                let when = if *at_connect { " at CONNECT" } else { "" };
                format!("node{node}{when} {reason} {count}")
            })
            .collect();
        let tired: Vec<String> = seen
            .tired
            .iter()
            .map(|(node, count)| format!("node{node} {count}"))
            .collect();
        report.note(format!(
            "sent away: {}; tired of waiting: {}; {} deliveries so far, {} repeats at QoS 1; longest time without an acknowledgement {} ms",
            listed(&away),
            listed(&tired),
            stage.world.ledger.deliveries,
            stage.world.ledger.repeats,
            seen.silence.as_millis(),
        ));
        let logs: Vec<String> = stage.members.iter().map(|member| member.log()).collect();
        let panics: usize = logs.iter().map(|log| log.matches("panicked").count()).sum();
        let fresh = panics - self.panics;
        self.panics = panics;
        report.check(
            fresh == 0,
            format!("{what}: no node panicked"),
            format!("{fresh} panics"),
        );
        for line in logs
            .iter()
            .flat_map(|log| log.lines())
            .filter(|_| fresh > 0)
        {
            if line.contains("panicked") {
                report.note(line);
            }
        }
        debug_assert_eq!(logs.len(), NODES);
    }
}

fn listed(items: &[String]) -> String {
    if items.is_empty() {
        "nobody".to_owned()
    } else {
        items.join(", ")
    }
}

fn show(stage: &Stage, broken: &[Broken], report: &Report) {
    let mut traced = BTreeSet::new();
    for Broken {
        client,
        message,
        text,
    } in broken.iter().take(SHOWN)
    {
        report.note(format!("{client}: {text}"));
        let sent = message.map(|message| &stage.world.ledger.messages[message]);
        let publisher = sent.map(|sent| stage.world.publisher_name(sent.publisher));
        for name in [Some(client.as_str()), publisher].into_iter().flatten() {
            if traced.len() < TRACED && traced.insert(name.to_owned()) {
                for file in stage.world.save_traces(name) {
                    report.note(format!("  trace of {name}: {file}"));
                }
            }
        }
    }
}
