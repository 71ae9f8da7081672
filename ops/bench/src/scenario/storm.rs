//! Far more clients want in than the server can take, half of them to sessions that it has kept. What those notice who are in,
//! how many come in, how much memory it takes, and how soon the server takes as many as before.
//!
//! The storm's processes have the lowest priority, on the generator's CPUs: what is measured is the server, not how clients wait for
//! each other. It is an open loop; what the CPUs cannot offer is left out, and told. A server that has one CPU of two takes more
//! connections than the other CPU can offer ten times; `--transport tls --tls-key rsa` makes a handshake dear for the server alone.

use std::io::Read as _;
use std::os::unix::process::CommandExt as _;
use std::process::{ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use edge_proto::packet::QoS;
use reactor::probe::cpus_allowed;
use serde_json::json;

use super::bench::{Bench, Clients};
use super::compare::Comparison;
use crate::arguments::Storm;
use crate::certificate;
use crate::cleanup;
use crate::clock;
use crate::figures::Figures;
use crate::generator::storm::{Tally, UNDERWAY_MAX};
use crate::generator::{Load, Target, Topics};
use crate::machine::Cores;
use crate::memory;
use crate::rival::Store;
use crate::server::pause;

/// Bytes of a payload.
const PAYLOAD_BYTES: u32 = 128;
/// Packets that wait between two sockets of one machine.
const DEVICE_QUEUE: &str = "300000";
/// Times that its capacity is measured before the storm; the median counts.
const PROBES: usize = 5;
/// As much of its capacity as a server must have again.
const RECOVERED: f64 = 0.8;
/// How long that may take before it is given up.
const RECOVERY_LIMIT: Duration = Duration::from_secs(30);

pub(super) fn run(arguments: &Storm) -> Result<()> {
    let live = 2 * arguments.pairs;
    let sessions = live + arguments.probe + arguments.known;
    let mut clients = Clients::new(sessions, Topics::Own, QoS::AtMostOnce, PAYLOAD_BYTES);
    clients.durable_from = live + arguments.probe;
    clients.store = Store::Disk;
    let comparison = Comparison {
        name: "storm",
        common: &arguments.common,
        clients,
        cores: Cores::One,
        limit: false,
        runs: 1,
        settings: json!({
            "pairs": arguments.pairs, "messages": arguments.messages, "probe": arguments.probe, "known": arguments.known,
            "times": arguments.times, "rate": arguments.rate, "seconds": arguments.duration.as_secs_f64(),
            "calm_s": arguments.calm.as_secs_f64(), "patience_s": arguments.patience.as_secs_f64(),
        }),
    };
    comparison.run(|bench, figures| once(arguments, bench, figures))
}

fn once(arguments: &Storm, bench: &Bench, figures: &mut Figures) -> Result<()> {
    let live = 2 * arguments.pairs;
    // With clients and server on one machine all their packets pass one queue of each CPU, whose default holds 1,000: a storm of SYNs
    // would drop packets of those who are measured, as no network card does.
    let queue = cleanup::set_sysctl("net/core/netdev_max_backlog", DEVICE_QUEUE);
    if let Err(error) = &queue {
        figures.note(
            "net.core.netdev_max_backlog",
            format!("not raised: {error}"),
        );
    }
    let (generator, server) = (&bench.generator, &bench.server);
    generator.open(server, 0..live, 0)?;
    let mut probes = Vec::new();
    for _ in 0..PROBES {
        probes.push(probe(arguments, bench)?);
    }
    probes.sort_by(f64::total_cmp);
    let capacity = probes[PROBES / 2];
    let known = live + arguments.probe..live + arguments.probe + arguments.known;
    generator.open(server, known.clone(), 0)?;
    generator.leave(server, known)?;
    let rate = f64::from(arguments.messages);
    generator.load(Load::endless(Target::Partner { window: 1 }, 0..live, rate));
    bench
        .measure(Duration::from_secs(2), arguments.calm)?
        .latency("", figures);
    let before_bytes = resident(bench)?;
    let offered = arguments
        .rate
        .unwrap_or_else(|| (capacity * arguments.times).round() as u32);
    eprintln!("  {capacity:.0} connects/s are what it takes; {offered}/s want in now");
    let mut highest_bytes = before_bytes;
    generator.forget();
    let before = bench.reading();
    let mut storm = Clouds::start(arguments, bench, offered)?;
    let until = clock::now() + arguments.duration;
    while clock::now() < until {
        pause(Duration::from_millis(500))?;
        highest_bytes = highest_bytes.max(resident(bench)?);
        server.check()?;
    }
    let between = bench.reading().since(&before);
    let during = generator.latencies();
    let tally = storm.end()?;
    let ended = clock::now();
    for (name, quantile) in [("p50", 0.5), ("p99", 0.99), ("p999", 0.999)] {
        let value = during.message_ms(quantile);
        figures.measure(&format!("latency_ms_{name}_storm"), value);
    }
    figures.measure("latency_ms_longest_storm", during.longest_ms());
    figures.count("left_out_storm", between.counted.left_out);
    between.cpu("message", between.counted.delivered, "_storm", figures);
    figures.measure("capacity_per_s", capacity);
    tell(&tally, between.seconds, figures)?;
    recover(arguments, bench, capacity, ended, figures)?;
    bench
        .measure(Duration::from_secs(2), arguments.calm)?
        .latency("_after", figures);
    generator.quiet();
    figures.count("rss_bytes", before_bytes);
    figures.count("rss_bytes_storm", highest_bytes);
    figures.count("rss_bytes_after", resident(bench)?);
    Ok(())
}

/// Sessions that the server takes in a second, when no more want in than it takes.
fn probe(arguments: &Storm, bench: &Bench) -> Result<f64> {
    let first = 2 * arguments.pairs;
    let numbers = first..first + arguments.probe;
    let took = bench
        .generator
        .open(&bench.server, numbers.clone(), 0)?
        .as_secs_f64();
    bench.generator.leave(&bench.server, numbers)?;
    Ok(f64::from(arguments.probe) / took)
}

/// How soon after the storm the server takes as many as before.
fn recover(
    arguments: &Storm,
    bench: &Bench,
    capacity: f64,
    ended: std::time::Instant,
    figures: &mut Figures,
) -> Result<()> {
    while clock::now() < ended + RECOVERY_LIMIT {
        let began = clock::now();
        match probe(arguments, bench) {
            Ok(rate) if rate >= RECOVERED * capacity => {
                figures.measure("capacity_back_ms", (began - ended).as_secs_f64() * 1e3);
                figures.measure("capacity_per_s_after", rate);
                return Ok(());
            }
            Ok(_) => {}
            Err(error) if cleanup::interrupted() => return Err(error),
            Err(error) => {
                figures.note("recovery", format!("{error:#}"));
                return Ok(());
            }
        }
    }
    figures.note("recovery", format!("not within {RECOVERY_LIMIT:?}"));
    Ok(())
}

fn resident(bench: &Bench) -> Result<u64> {
    let pid = bench
        .server
        .pid
        .context("a server whose process is known")?;
    Ok(memory::resident(pid)?.rss)
}

/// Writes what became of the storm's clients.
fn tell(tally: &Tally, seconds: f64, figures: &mut Figures) -> Result<()> {
    figures.measure("offered_per_s", tally.offered as f64 / seconds);
    figures.measure("connects_per_s_storm", tally.done as f64 / seconds);
    let share = |done: u64, offered: u64| 100.0 * done as f64 / offered.max(1) as f64;
    let strangers = (
        tally.done.saturating_sub(tally.done_known),
        tally.offered.saturating_sub(tally.offered_known),
    );
    let known = share(tally.done_known, tally.offered_known);
    figures.measure("known_in_percent", known);
    figures.measure("strangers_in_percent", share(strangers.0, strangers.1));
    figures.count("connects_refused", tally.refused.values().sum());
    figures.count("connections_closed", tally.closed);
    figures.count("gave_up", tally.impatient);
    figures.count("not_offered", tally.left_out + tally.no_socket);
    figures.detail("storm", serde_json::to_value(tally)?);
    Ok(())
}

/// The storm's processes: as many as have sockets for all that wait at a time.
struct Clouds {
    processes: Vec<(cleanup::Guard, ChildStdout)>,
}

impl Clouds {
    fn start(arguments: &Storm, bench: &Bench, rate: u32) -> Result<Self> {
        let waiting = f64::from(rate) * arguments.patience.as_secs_f64();
        let count = (waiting / UNDERWAY_MAX as f64).ceil().clamp(1.0, 16.0) as u32;
        let processes =
            (0..count).map(|process| Self::cloud(arguments, bench, rate, (process, count)));
        Ok(Self {
            processes: processes.collect::<Result<_>>()?,
        })
    }

    fn cloud(
        arguments: &Storm,
        bench: &Bench,
        rate: u32,
        (process, processes): (u32, u32),
    ) -> Result<(cleanup::Guard, ChildStdout)> {
        let live = 2 * arguments.pairs;
        let mut command = Command::new("chrt");
        command.args(["--idle", "0"]);
        if let Some(division) = &bench.plan.division {
            let cpus = cpus_allowed()?;
            let cpus: Vec<String> = cpus[division.generator_first..]
                .iter()
                .map(usize::to_string)
                .collect();
            command.args(["taskset", "-c", &cpus.join(",")]);
        }
        let milliseconds = |span: Duration| format!("{}ms", span.as_millis());
        command
            .arg(std::env::current_exe()?)
            .arg("storm-clients")
            .args(["--remote", &bench.server.address.to_string()])
            .args([
                "--rate",
                &(f64::from(rate) / f64::from(processes)).to_string(),
            ])
            .args(["--process", &process.to_string()])
            .args(["--processes", &processes.to_string()])
            .args(["--duration", &milliseconds(arguments.duration)])
            .args(["--patience", &milliseconds(arguments.patience)])
            .args(["--known-first", &(live + arguments.probe).to_string()])
            .args(["--known", &arguments.known.to_string()]);
        if arguments.common.transport().is_secure() {
            command
                .arg("--trust")
                .arg(&certificate::files(arguments.common.tls_key)?.chain);
        }
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .context("the storm needs chrt(1) and taskset(1)")?;
        let output = child.stdout.take().context("it is piped")?;
        Ok((cleanup::kill_at_end(child), output))
    }

    /// Waits for their end and adds up what they tell.
    fn end(&mut self) -> Result<Tally> {
        let mut sum = Tally::default();
        for (process, output) in &mut self.processes {
            let mut text = String::new();
            output.read_to_string(&mut text)?;
            while !cleanup::has_ended(process) {
                pause(Duration::from_millis(10))?;
            }
            let tally: Tally =
                serde_json::from_str(&text).context("the storm told nothing of itself")?;
            sum.add(&tally);
        }
        Ok(sum)
    }
}
