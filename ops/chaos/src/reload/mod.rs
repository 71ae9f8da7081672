//! `chaos reload`: what an operator may replace while a node runs is replaced under live connections, in good and in spoiled
//! versions. Nobody may notice but those who come afterwards, and nothing of the old may stay in memory.
//!
//! Certificates are one such thing, rules are another. A third one joins with a file beside theirs, which knows how to renew it, to
//! spoil it, and to tell by a client what holds, and with its calls beside theirs in [`replace`] and [`spoil`].

mod certificates;
mod crowd;
mod rules;

use std::io;
use std::net::SocketAddr;

use crate::admin::Metrics;
use crate::clock::now;
use crate::node::Node;
use crate::options::Options;
use crate::report::Report;
use certificates::{Certificates, Fault};
use crowd::Crowd;
use rules::Rules;

const MIB: u64 = 1024 * 1024;
/// Clients that look at what holds after each reload, half of them over TLS 1.2.
const NEWCOMERS: usize = 20;
/// Reloads in a row, before memory is looked at.
const MANY: usize = 100;
/// What so many reloads may leave behind. The files have a revocation list of some 180 KB, which each acceptor of each core would
/// keep: 100 times that and more.
const LEFT_BEHIND_MAX: u64 = 12 * MIB;

/// Runs all phases.
///
/// # Errors
/// The server cannot be started, or the clients cannot connect.
pub(crate) fn run(options: &Options, report: &mut Report) -> io::Result<()> {
    let clients = options.clients(10_000, 500);
    let cycles = options.cycles(5, 2);
    report.title(format!(
        "reload: files replaced {cycles} times under {clients} TLS connections, backend {}",
        options.io
    ));
    let mut node = Node::new(options, "reload", "", None)?;
    let mut certificates = Certificates::new(node.folder())?;
    let mut rules = Rules::new(node.folder())?;
    let sections = [certificates.config(), rules.config()].concat();
    let secure = node.listen_secure(&sections)?;
    node.start()?;
    let start = now();
    let crowd = Crowd::start(secure, clients, certificates.client())?;
    report.note(format!(
        "{clients} sessions over TLS in {:.1} s, resident {} MiB",
        start.elapsed().as_secs_f64(),
        node.resident_bytes() / MIB
    ));
    rules.watch(secure, certificates.client())?;
    for cycle in 0..cycles {
        replace(
            &node,
            secure,
            (&mut certificates, &mut rules),
            cycle,
            report,
        )?;
        let fault = Fault::ALL[cycle % Fault::ALL.len()];
        spoil(&node, secure, &mut certificates, fault, report)?;
        spoil_rules(&node, &mut rules, report)?;
    }
    memory(&node, &mut certificates, report)?;
    let metrics = Metrics::scrape(node.admin)?;
    let connected = metrics.sum("sessions_connected");
    report.check(
        connected == clients as i64 + 1, // The witness of the rules is one of them.
        "sessions connected after all reloads",
        connected,
    );
    let outcome = crowd.finish();
    report.check(
        outcome.is_whole() && outcome.clients == clients,
        "nobody was dropped, and every message came",
        format!("{outcome:?}"),
    );
    let failed =
        metrics.sum("tls_handshakes_failed_total") + metrics.sum("tls_sessions_failed_total");
    report.check(
        failed == 0,
        "TLS handshakes and sessions that failed",
        failed,
    );
    report.check(
        metrics.unaccounted() == 0,
        "conservation afterwards",
        metrics.deliveries(),
    );
    let stopped = node.terminate().is_some_and(|status| status.success());
    report.check(stopped, "SIGTERM stops it in order", stopped);
    Ok(())
}

/// New files, and at once new clients.
fn replace(
    node: &Node,
    secure: SocketAddr,
    (certificates, rules): (&mut Certificates, &mut Rules),
    cycle: usize,
    report: &mut Report,
) -> io::Result<()> {
    certificates.renew()?;
    rules.renew()?;
    let start = now();
    let (done, said) = node.ctl(&["reload"])?;
    let took = start.elapsed();
    report.check(
        done,
        format!("reload {cycle} is done"),
        if done {
            format!("in {} ms", took.as_millis())
        } else {
            said
        },
    );
    let others = certificates.shown_another(secure, NEWCOMERS)?;
    report.check(
        others == 0,
        "who comes now is shown the new certificate",
        format!("{others} of {NEWCOMERS} are not"),
    );
    let broken = rules.broken(node)?;
    report.check(
        broken.is_empty(),
        "the new rules hold for who was there all along",
        if broken.is_empty() {
            "all of them".to_owned()
        } else {
            broken.join("; ")
        },
    );
    Ok(())
}

/// Rules that must not be taken: the operator is told, and those before hold.
fn spoil_rules(node: &Node, rules: &mut Rules, report: &mut Report) -> io::Result<()> {
    rules.spoil()?;
    let (done, said) = node.ctl(&["reload"])?;
    report.check(
        !done && said.contains("rules.toml"),
        "spoiled rules: refused, and the file is named",
        said.trim(),
    );
    let broken = rules.broken(node)?;
    report.check(
        broken.is_empty(),
        "spoiled rules: those before hold",
        if broken.is_empty() {
            "all of them".to_owned()
        } else {
            broken.join("; ")
        },
    );
    rules.mend()?;
    let (done, said) = node.ctl(&["reload"])?;
    report.check(done, "spoiled rules: mended", said.lines().count());
    Ok(())
}

/// Files that must not be taken: the operator is told, and what was there stays. Then they are mended.
fn spoil(
    node: &Node,
    secure: SocketAddr,
    certificates: &mut Certificates,
    fault: Fault,
    report: &mut Report,
) -> io::Result<()> {
    certificates.spoil(fault)?;
    let (done, said) = node.ctl(&["reload"])?;
    let names_file = said.contains("chain.pem") || said.contains("key.pem");
    report.check(
        !done && names_file,
        format!("{fault:?}: refused, and the file is named"),
        said.trim(),
    );
    let others = certificates.shown_another(secure, NEWCOMERS)?;
    report.check(
        others == 0,
        format!("{fault:?}: the certificate before stays in use"),
        format!("{others} of {NEWCOMERS} see another one"),
    );
    certificates.renew()?;
    let (done, said) = node.ctl(&["reload"])?;
    report.check(done, format!("{fault:?}: mended"), said.lines().count());
    Ok(())
}

/// Many reloads in a row, with nobody who still needs the old: memory is where it was.
fn memory(node: &Node, certificates: &mut Certificates, report: &mut Report) -> io::Result<()> {
    let mut resident = [0; 2];
    for (half, resident) in resident.iter_mut().enumerate() {
        for number in 0..MANY / 2 {
            certificates.renew()?;
            let (done, said) = node.ctl(&["reload"])?;
            if !done {
                report.check(false, format!("reload {half}.{number}"), said);
                return Ok(());
            }
        }
        *resident = node.resident_bytes();
    }
    let [before, after] = resident;
    let grown = after.saturating_sub(before);
    report.check(
        grown < LEFT_BEHIND_MAX,
        format!("memory of {} more reloads is given back", MANY / 2),
        format!("{} KiB before, {} KiB after", before / 1024, after / 1024),
    );
    Ok(())
}
