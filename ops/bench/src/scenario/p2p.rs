//! Pairs of clients. First as many messages as the server takes, a fixed number of each pair on their way: throughput and
//! CPU of a 1:1 message. Then an open loop at half and at nine tenths of that: latency.

use anyhow::Result;
use serde_json::json;

use super::bench::{Bench, Clients};
use super::compare::{Comparison, RUNS};
use crate::arguments::{P2p, qos};
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
            "rate": arguments.rate, "warm_up_s": load.warm_up.as_secs_f64(), "seconds": load.duration.as_secs_f64(),
        }),
    };
    comparison.run(|bench, figures| once(arguments, bench, figures))
}

fn once(arguments: &P2p, bench: &Bench, figures: &mut Figures) -> Result<()> {
    let clients = 2 * arguments.pairs;
    bench.generator.open(&bench.server, 0..clients, 0)?;
    figures.count("sessions", u64::from(clients));
    if let Some(rate) = arguments.rate {
        begin(arguments, bench, f64::from(rate));
        bench
            .measure_all(&arguments.load, 1, figures)?
            .messages(figures);
        return Ok(());
    }
    begin(arguments, bench, 0.0);
    let saturated = bench.measure_all(&arguments.load, 1, figures)?;
    let between = &saturated.measured;
    let rate = between.counted.delivered as f64 / between.seconds;
    figures.measure("messages_per_s", rate);
    between.cpu("message", between.counted.delivered, "", figures);
    for (share, suffix) in [(0.5, ""), (0.9, "_at_90")] {
        begin(arguments, bench, share * rate);
        let measured = bench.measure_all(&arguments.load, 1, figures)?;
        measured.latency(suffix, figures);
        let load = if suffix.is_empty() { "_at_50" } else { suffix };
        let delivered = measured.measured.counted.delivered;
        measured.measured.cpu("message", delivered, load, figures);
        if suffix.is_empty() {
            measured.left_out(figures);
        }
    }
    saturated.latency("_saturated", figures);
    Ok(())
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
