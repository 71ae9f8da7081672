//! Pairs of clients, a fixed number of messages of each on their way: throughput and CPU of a 1:1 message at saturation.

use anyhow::Result;
use serde_json::json;

use super::{Bench, Clients, measure_load, settings};
use crate::arguments::{P2p, qos};
use crate::generator::{Load, Target, Topics};
use crate::report::Report;

pub(super) fn run(arguments: &P2p) -> Result<()> {
    let (common, load) = (&arguments.common, &arguments.load);
    let clients = Clients {
        count: 2 * arguments.pairs,
        topics: Topics::Own,
        qos: qos(load.qos),
        keep_alive_s: 0,
        payload_bytes: load.payload as usize,
    };
    let bench = Bench::start(common, &clients)?;
    bench.generator.open(&bench.server, 0..clients.count, 0)?;
    bench.generator.load(Load {
        target: Target::Partner {
            window: arguments.window,
        },
        per_second: 0.0,
        publishers: clients.count,
        messages: u64::MAX,
    });
    let mut report = Report::new("p2p");
    report.count("pairs", u64::from(arguments.pairs));
    measure_load(&bench, load, &mut report)?;
    let own = json!({
        "pairs": arguments.pairs, "window": arguments.window, "qos": load.qos, "payload_bytes": load.payload,
        "seconds": load.duration.as_secs_f64(),
    });
    report.finish(common, &bench.server, &settings(common, &bench.plan, own))
}
