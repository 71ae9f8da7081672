//! Sessions opened as fast as the server takes them, a bounded number on their way at once.

use anyhow::Result;
use edge_proto::packet::QoS;
use serde_json::json;

use super::{Bench, Clients, settings};
use crate::arguments::Connect;
use crate::generator::Topics;
use crate::report::Report;

pub(super) fn run(arguments: &Connect) -> Result<()> {
    let common = &arguments.common;
    let clients = Clients {
        count: arguments.sessions,
        topics: Topics::None,
        qos: QoS::AtMostOnce,
        keep_alive_s: 60,
        payload_bytes: 16,
    };
    let bench = Bench::start(common, &clients)?;
    let before = bench.reading();
    let took = bench
        .generator
        .open(&bench.server, 0..arguments.sessions, arguments.rate)?;
    let (counted, server_us, generator_us) = bench.reading().since(&before);
    let sessions = f64::from(arguments.sessions);
    let mut report = Report::new("connect");
    report.count("sessions", counted.live);
    report.measure("connects_per_s", sessions / took.as_secs_f64());
    if let Some(server_us) = server_us {
        report.measure("cpu_us_per_connect", server_us / sessions);
    }
    report.measure("generator_cpu_us_per_connect", generator_us / sessions);
    report.count("disconnects", counted.disconnects);
    let own = json!({ "sessions": arguments.sessions, "rate": arguments.rate });
    report.finish(common, &bench.server, &settings(common, &bench.plan, own))
}
