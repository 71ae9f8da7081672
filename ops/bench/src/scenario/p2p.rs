//! Pairs of clients. First as many messages as the server takes, a fixed number of each pair on their way: throughput and
//! CPU of a 1:1 message. Then an open loop at half and at nine tenths of that: latency. When several servers are compared, it is half of
//! what the slowest of them takes, so that all have the same traffic.

use anyhow::Result;
use serde_json::json;

use super::bench::{Bench, Clients, Measured};
use super::compare::{Comparison, RUNS};
use crate::arguments::{LoadOf, P2p, qos};
use crate::figures::Figures;
use crate::generator::{Load, Target, Topics};
use crate::machine::Cores;

pub(super) fn run(arguments: &P2p) -> Result<()> {
    let load = &arguments.load;
    let comparison = Comparison {
        name: "p2p",
        common: &arguments.common,
        clients: Clients::new(
            2 * arguments.pairs,
            Topics::Own,
            qos(load.qos),
            load.payload,
        ),
        cores: Cores::One,
        limit: arguments.limit,
        runs: RUNS,
        settings: json!({
            "pairs": arguments.pairs, "window": arguments.window, "qos": load.qos, "payload_bytes": load.payload,
            "rate": arguments.rate, "load_of": arguments.load_of.name(),
            "warm_up_s": load.warm_up.as_secs_f64(), "seconds": load.duration.as_secs_f64(),
        }),
    };
    let compared = arguments.rate.is_none() && arguments.load_of == LoadOf::Slowest;
    let slowest = if compared && comparison.able()?.len() > 1 {
        let rates = comparison.rehearse(|bench, figures| {
            open(arguments, bench, figures)?;
            Ok(rate(&saturate(arguments, bench, figures)?))
        })?;
        rates.into_iter().reduce(f64::min)
    } else {
        None
    };
    comparison.run(|bench, figures| once(arguments, slowest, bench, figures))
}

/// One run. `slowest` are the messages per second that load for latency is a share of, if not what this server takes.
fn once(arguments: &P2p, slowest: Option<f64>, bench: &Bench, figures: &mut Figures) -> Result<()> {
    open(arguments, bench, figures)?;
    if let Some(rate) = arguments.rate {
        begin(arguments, bench, f64::from(rate));
        bench
            .measure_all(&arguments.load, 1, figures)?
            .messages(figures);
        return Ok(());
    }
    let saturated = saturate(arguments, bench, figures)?;
    let rate = rate(&saturated);
    figures.measure("messages_per_s", rate);
    let between = &saturated.measured;
    between.cpu("message", between.counted.delivered, "", figures);
    for (share, suffix) in [(0.5, ""), (0.9, "_at_90")] {
        begin(arguments, bench, share * slowest.unwrap_or(rate));
        let measured = bench.measure_all(&arguments.load, 1, figures)?;
        measured.latency(suffix, figures);
        let load = if suffix.is_empty() { "_at_50" } else { suffix };
        let delivered = measured.measured.counted.delivered;
        let per_second = delivered as f64 / measured.measured.seconds;
        figures.measure(&format!("messages_per_s{load}"), per_second);
        measured.measured.cpu("message", delivered, load, figures);
        if suffix.is_empty() {
            measured.left_out(figures);
        }
    }
    saturated.latency("_saturated", figures);
    Ok(())
}

fn open(arguments: &P2p, bench: &Bench, figures: &mut Figures) -> Result<()> {
    let clients = 2 * arguments.pairs;
    bench.generator.open(&bench.server, 0..clients, 0)?;
    figures.count("sessions", u64::from(clients));
    Ok(())
}

/// As many messages as the server takes.
fn saturate(arguments: &P2p, bench: &Bench, figures: &mut Figures) -> Result<Measured> {
    begin(arguments, bench, 0.0);
    bench.measure_all(&arguments.load, 1, figures)
}

/// Messages per second.
fn rate(measured: &Measured) -> f64 {
    measured.measured.counted.delivered as f64 / measured.measured.seconds
}

fn begin(arguments: &P2p, bench: &Bench, per_second: f64) {
    let target = Target::Partner {
        window: arguments.window,
    };
    let publishers = 0..2 * arguments.pairs;
    bench
        .generator
        .load(Load::endless(target, publishers, per_second));
}
