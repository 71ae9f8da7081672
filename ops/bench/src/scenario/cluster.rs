//! The same traffic on one node and on three: pairs at QoS 0 and 1, and one topic with many subscribers. On three nodes
//! nobody is on the node of whom they send to, so every message goes over the bus: once or twice between two clients, as
//! the owner of its topic is on one of their nodes or on the third.
//!
//! First as many messages as the nodes take, then half of what three nodes took in the same run, by the clock, for both.
//! All nodes share the server's CPUs: what three of them do at once on one machine is not measured, only what it costs.

use std::cell::Cell;

use anyhow::{Error, Result, bail};
use edge_proto::packet::QoS;
use serde_json::json;

use super::bench::{Bench, Clients, Measured};
use super::compare::{Comparison, RUNS};
use crate::arguments::{Cluster, Common};
use crate::cleanup::interrupted;
use crate::cluster::{self, situation};
use crate::figures::Figures;
use crate::generator::{Load, Target, Topics};
use crate::machine::Cores;
use crate::server::Server;
use crate::subject::Subject;

/// Of the fan-out.
const PUBLISHERS: u32 = 2;
/// Messages of the fan-out on their way in the closed loop.
const FANOUT_WINDOW: u32 = 2;

pub(super) fn run(arguments: &Cluster) -> Result<()> {
    let common = &arguments.common;
    refuse_others(common)?;
    let topics = Topics::PairsAndShared {
        pairs: arguments.pairs,
        publishers: PUBLISHERS,
    };
    let sessions = sessions(arguments);
    let comparison = Comparison {
        name: "cluster",
        common,
        clients: Clients::new(sessions, topics, QoS::AtLeastOnce, arguments.payload),
        cores: Cores::One,
        limit: false,
        runs: RUNS,
        settings: json!({
            "pairs": arguments.pairs, "subscribers": arguments.subscribers, "publishers": PUBLISHERS,
            "window": 1, "fanout_window": FANOUT_WINDOW, "payload_bytes": arguments.payload,
            "warm_up_s": arguments.warm_up.as_secs_f64(), "seconds": arguments.duration.as_secs_f64(),
        }),
    };
    // What three nodes took in this run, in publishes a second, by traffic.
    let taken = Traffic::ALL.map(|_| Cell::new(0.0));
    let subjects = vec![Subject::ThreeNodes, Subject::OneNode];
    comparison.run_with(subjects, |bench, figures| {
        let outcome = once(arguments, &taken, bench, figures);
        outcome.map_err(|error| explained(error, &bench.server))
    })
}

/// An error with how the cluster is, in which its cause may be.
pub(super) fn explained(error: Error, server: &Server) -> Error {
    if interrupted() {
        return error;
    }
    error.context(situation(server))
}

/// An error for what cannot be measured with clusters that are started here.
pub(super) fn refuse_others(common: &Common) -> Result<()> {
    if common.address.is_some() || !common.rivals.is_empty() {
        bail!(
            "this scenario starts nodes of this repository's server: leave --address and --rivals out"
        );
    }
    cluster::valkey().map(drop)
}

fn sessions(arguments: &Cluster) -> u32 {
    2 * arguments.pairs + PUBLISHERS + arguments.subscribers
}

/// What clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Traffic {
    P2pQos0,
    P2pQos1,
    Fanout,
}

impl Traffic {
    const ALL: [Self; 3] = [Self::P2pQos0, Self::P2pQos1, Self::Fanout];

    const fn name(self) -> &'static str {
        match self {
            Self::P2pQos0 => "_p2p_qos0",
            Self::P2pQos1 => "_p2p_qos1",
            Self::Fanout => "_fanout",
        }
    }

    /// Clients that get each message.
    const fn copies(self, arguments: &Cluster) -> u64 {
        match self {
            Self::P2pQos0 | Self::P2pQos1 => 1,
            Self::Fanout => arguments.subscribers as u64,
        }
    }

    /// So many publishes in a second; 0 = as fast as they arrive.
    fn load(self, arguments: &Cluster, per_second: f64) -> Load {
        let pairs = 2 * arguments.pairs;
        let (target, publishers, qos) = match self {
            Self::P2pQos0 => (Target::Partner { window: 1 }, 0..pairs, QoS::AtMostOnce),
            Self::P2pQos1 => (Target::Partner { window: 1 }, 0..pairs, QoS::AtLeastOnce),
            Self::Fanout => {
                let target = Target::Shared {
                    audience: arguments.subscribers,
                    window: FANOUT_WINDOW,
                };
                (target, pairs..pairs + PUBLISHERS, QoS::AtMostOnce)
            }
        };
        Load {
            qos: Some(qos),
            ..Load::endless(target, publishers, per_second)
        }
    }
}

/// One run. `taken` is written by three nodes, which come first, and read by one node.
fn once(
    arguments: &Cluster,
    taken: &[Cell<f64>; 3],
    bench: &Bench,
    figures: &mut Figures,
) -> Result<()> {
    let sessions = sessions(arguments);
    bench.generator.open(&bench.server, 0..sessions, 0)?;
    figures.count("sessions", u64::from(sessions));
    let mut sum = 0.0;
    for (traffic, taken) in Traffic::ALL.into_iter().zip(taken) {
        let name = traffic.name();
        let saturated = load(arguments, traffic, 0.0, bench, name, figures)?;
        let cpu = figures.value(&format!("cpu_us_per_message{name}"));
        sum += cpu.unwrap_or(f64::NAN);
        if !bench.server.others.is_empty() {
            let delivered = saturated.measured.counted.delivered / traffic.copies(arguments);
            taken.set(delivered as f64 / saturated.measured.seconds);
        }
        let suffix = format!("{name}_at_50");
        let paced = load(
            arguments,
            traffic,
            0.5 * taken.get(),
            bench,
            &suffix,
            figures,
        )?;
        paced.latency(&suffix, figures);
        figures.count(
            &format!("left_out{suffix}"),
            paced.measured.counted.left_out,
        );
    }
    // As many messages of each traffic.
    figures.measure("cpu_us_per_message", sum / Traffic::ALL.len() as f64);
    Ok(())
}

/// Measures a load and writes rate, CPU, what was lost, and what went over the bus.
fn load(
    arguments: &Cluster,
    traffic: Traffic,
    per_second: f64,
    bench: &Bench,
    suffix: &str,
    figures: &mut Figures,
) -> Result<Measured> {
    let Bench {
        generator, server, ..
    } = bench;
    let copies = traffic.copies(arguments);
    eprintln!("  {}", suffix.trim_start_matches('_'));
    let (before, sent_before) = (generator.totals(), bus_bytes(server)?);
    generator.load(traffic.load(arguments, per_second));
    let measured = bench.measure(arguments.warm_up, arguments.duration)?;
    generator.quiet();
    let missing = generator.drain(server, &before, copies)?;
    let sent = bus_bytes(server)?;
    let all = generator.totals().since(&before);
    let between = &measured.measured;
    if between.counted.delivered == 0 {
        bail!(
            "{suffix}: of {} messages that were published {} arrived; {}",
            all.published,
            all.delivered,
            generator.faults().join("; ")
        );
    }
    let per_s = between.counted.delivered as f64 / between.seconds;
    figures.measure(&format!("messages_per_s{suffix}"), per_s);
    between.cpu("message", between.counted.delivered, suffix, figures);
    if missing > 0 {
        figures.count(&format!("undelivered{suffix}"), missing);
    }
    if let Some((before, after)) = sent_before.zip(sent) {
        let each = (after - before) / all.published.max(1) as f64;
        figures.measure(&format!("bus_bytes_per_publish{suffix}"), each);
    }
    Ok(measured)
}

/// Bytes that nodes have sent each other; none of a node alone.
pub(super) fn bus_bytes(server: &Server) -> Result<Option<f64>> {
    let clustered = !server.others.is_empty();
    clustered
        .then(|| server.metric("roadstead_bus_sent_bytes_total"))
        .transpose()
}
