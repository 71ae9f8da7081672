//! A few publishers at a steady rate, and every message goes to all subscribers of one topic.

use anyhow::Result;
use serde_json::json;

use super::{Bench, Clients, measure_load, settings};
use crate::arguments::{Fanout, qos};
use crate::generator::{Load, Target, Topics};
use crate::report::Report;

/// They share the rate.
const PUBLISHERS: u32 = 2;

pub(super) fn run(arguments: &Fanout) -> Result<()> {
    let (common, load) = (&arguments.common, &arguments.load);
    let clients = Clients {
        count: PUBLISHERS + arguments.subscribers,
        topics: Topics::Shared {
            publishers: PUBLISHERS,
        },
        qos: qos(load.qos),
        keep_alive_s: 0,
        payload_bytes: load.payload as usize,
    };
    let bench = Bench::start(common, &clients)?;
    bench.generator.open(&bench.server, 0..clients.count, 0)?;
    bench.generator.load(Load {
        target: Target::Shared,
        per_second: f64::from(arguments.rate),
        publishers: PUBLISHERS,
        messages: u64::MAX,
    });
    let mut report = Report::new("fanout");
    report.count("subscribers", u64::from(arguments.subscribers));
    measure_load(&bench, load, &mut report)?;
    let own = json!({
        "subscribers": arguments.subscribers, "rate": arguments.rate, "qos": load.qos, "payload_bytes": load.payload,
        "seconds": load.duration.as_secs_f64(),
    });
    report.finish(common, &bench.server, &settings(common, &bench.plan, own))
}
