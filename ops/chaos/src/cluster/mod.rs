//! `chaos cluster`: three nodes on a Valkey Cluster, each in a network namespace, under one fault after another, with clients that go to
//! another node when theirs is gone.
//!
//! Checked after each fault: nothing acknowledged for a durable session is lost, nothing at QoS 2 comes twice, order per publisher,
//! root and QoS is kept, live sessions that stayed connected got what was acknowledged, sessions are what they were. Measured: until when
//! a node without a majority acknowledges, how soon the others have a view without a lost node, and how soon its partitions are served.
//!
//! **Reading order**: `stage` (everything there is), `fault` (what is done to it), `verdict` (what is checked); `network`, `engine` and
//! `member` are what runs, `world`, `seat`, `cast` and `probe` the clients, `watch` what nodes say.

mod cast;
mod engine;
mod fault;
mod member;
mod network;
mod probe;
mod seat;
mod stage;
mod verdict;
mod watch;
mod world;

use std::fs;
use std::io;
use std::time::Duration;

use crate::clock::now;
use crate::options::Options;
use crate::report::Report;
use fault::{ALL, Fault, shown};
use network::Network;
use stage::{CONVERGE_LIMIT, NODES, SETTLE_LIMIT, Stage};
use verdict::Verdict;
use world::Mood;

/// Traffic before a fault, and after it is healed.
const BEFORE: Duration = Duration::from_secs(2);
const AFTER: Duration = Duration::from_secs(1);
/// Faults of a short run.
const QUICK: [Fault; 5] = [
    Fault::Kill,
    Fault::Freeze,
    Fault::Isolate,
    Fault::Primary,
    Fault::Drain,
];

/// Runs the faults and says what was kept.
///
/// # Errors
/// The cluster cannot be started at all, or not again.
pub(crate) fn run(options: &Options, report: &mut Report) -> io::Result<()> {
    let faults = chosen(options)?;
    report.title(format!(
        "cluster: {NODES} nodes, {} faults, seed {}, backend {}",
        faults.len(),
        options.seed,
        options.io
    ));
    if !rustix::process::geteuid().is_root() {
        report.skipped("cluster", "network namespaces need root");
        return Ok(());
    }
    let folder = std::env::temp_dir().join(format!("chaos-cluster-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let network = match Network::new(NODES, &folder) {
        Ok(network) => network,
        Err(error) => {
            report.skipped(
                "cluster",
                format!("network namespaces cannot be made here: {error}"),
            );
            return Ok(());
        }
    };
    let failed = report.failed();
    let mut stage = Stage::set(options, network, folder)?;
    let result = play(&mut stage, options, &faults, report);
    if result.is_err() || report.failed() > failed || std::env::var_os("CHAOS_KEEP").is_some() {
        stage.network.keep_folder();
        report.note(format!("logs are in {}", stage.folder.display()));
        let io = &options.io;
        report.note(format!(
            "again: chaos cluster --seed {} --io {io} (timing differs from run to run)",
            options.seed
        ));
    }
    result
}

fn play(
    stage: &mut Stage,
    options: &Options,
    faults: &[Fault],
    report: &mut Report,
) -> io::Result<()> {
    let started = stage.until(CONVERGE_LIMIT, |stage| {
        stage.watch.agree() || stage.members.iter_mut().any(|it| it.ended().is_some())
    });
    let started = started.filter(|_| stage.watch.agree());
    report.check(
        started.is_some(),
        "all nodes start, serve and agree",
        shown(started),
    );
    if started.is_none() {
        for line in stage.watch.lines() {
            report.note(line);
        }
        for member in &stage.members {
            report.note(member.log_tail());
        }
        return Err(io::Error::other("the cluster does not start"));
    }
    let gathered = stage.until(SETTLE_LIMIT, |stage| stage.world.is_settled());
    report.check(gathered.is_some(), "everyone subscribes", shown(gathered));
    if gathered.is_none() {
        let who = stage.world.unsettled();
        return Err(io::Error::other(format!("not subscribed: {who:?}")));
    }
    let mut verdict = Verdict::default();
    for fault in faults {
        report.title(fault.title());
        let roots = stage.roots();
        let roots = roots.ok_or_else(|| io::Error::other("a node owns no root of the probes"))?;
        stage.world.take_seats(&roots);
        stage.mood(Mood::Busy);
        stage.go_on(BEFORE);
        let start = now();
        fault.run(stage, &roots, options.quick, report)?;
        stage.go_on(AFTER);
        verdict.after(stage, (fault.name(), start), report);
        if !stage.watch.agree() {
            start_anew(stage, report)?;
        }
    }
    Verdict::at_the_end(stage, report);
    Ok(())
}

/// After a fault that the cluster did not get over: all nodes are killed and started again, so that the next fault can be tried.
fn start_anew(stage: &mut Stage, report: &Report) -> io::Result<()> {
    stage.step(report, "all nodes are killed and started again");
    for member in &mut stage.members {
        member.spawn(&stage.network)?;
    }
    match stage.converge() {
        Some(_) => Ok(()),
        None => Err(io::Error::other("the nodes do not find each other again")),
    }
}

fn chosen(options: &Options) -> io::Result<Vec<Fault>> {
    let Some(names) = &options.faults else {
        let all = ALL.iter().map(|(_, fault)| *fault);
        return Ok(if options.quick {
            QUICK.to_vec()
        } else {
            all.collect()
        });
    };
    let find = |name: &str| {
        let found = ALL.iter().find(|(known, _)| *known == name);
        let known = || ALL.map(|(known, _)| known).join(", ");
        found
            .map(|(_, fault)| *fault)
            .ok_or_else(|| io::Error::other(format!("--faults {name}: none of {}", known())))
    };
    names.split(',').map(find).collect()
}
