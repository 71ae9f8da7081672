//! What a PINGREQ costs: idle sessions that ping in turns, as many of them in a second as a million sessions do; then all of
//! them at once, as often as they are answered. The second is what a ping adds to a busy core (`cpu_us_per_message`), the first
//! has the wakes of an idle one on top (`cpu_us_per_ping_at_pace`).

use anyhow::Result;
use edge_proto::packet::QoS;
use serde_json::json;

use super::bench::Clients;
use super::compare::{Comparison, RUNS};
use crate::arguments::Ping;
use crate::generator::Topics;
use crate::machine::Cores;
use crate::server::pause;

/// Rounds of pings of all sessions.
const ROUNDS: u32 = 30;

pub(super) fn run(arguments: &Ping) -> Result<()> {
    let comparison = Comparison {
        name: "ping",
        common: &arguments.common,
        clients: Clients::new(arguments.sessions, Topics::Own, QoS::AtMostOnce, 16),
        cores: Cores::One,
        limit: arguments.limit,
        runs: RUNS,
        settings: json!({
            "sessions": arguments.sessions, "rate": arguments.rate, "seconds": arguments.duration.as_secs_f64(),
        }),
    };
    comparison.run(|bench, figures| {
        let generator = &bench.generator;
        generator.open(&bench.server, 0..arguments.sessions, 0)?;
        figures.count("sessions", u64::from(arguments.sessions));
        generator.keep_alive(Some(f64::from(arguments.rate)));
        pause(arguments.duration.min(std::time::Duration::from_secs(2)))?;
        let before = bench.reading();
        pause(arguments.duration)?;
        let between = bench.reading().since(&before);
        let pongs = between.counted.pongs;
        figures.measure("requests_per_s", pongs as f64 / between.seconds);
        between.cpu("ping", pongs, "_at_pace", figures);
        generator.keep_alive(Some(0.0));
        let before = bench.reading();
        generator.ping(&bench.server, ROUNDS)?;
        let between = bench.reading().since(&before);
        let pongs = between.counted.pongs;
        figures.measure("messages_per_s", pongs as f64 / between.seconds);
        between.cpu("message", pongs, "", figures);
        Ok(())
    })
}
