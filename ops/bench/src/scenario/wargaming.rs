//! A game's chat: sessions in rooms, a fixed number of requests a second, most of them from one session to another and some to
//! a whole room.

use anyhow::Result;
use serde_json::json;

use super::bench::{Bench, Clients};
use super::compare::Comparison;
use crate::arguments::{Wargaming, qos};
use crate::figures::Figures;
use crate::generator::{Load, Target, Topics};
use crate::machine::Cores;

pub(super) fn run(arguments: &Wargaming) -> Result<()> {
    let sessions = arguments.share.of(arguments.sessions);
    let requests = arguments.share.of(arguments.requests);
    let load = &arguments.load;
    let topics = Topics::Rooms {
        size: arguments.room,
    };
    let comparison = Comparison {
        name: "wargaming",
        common: &arguments.common,
        clients: Clients::new(sessions, topics, qos(load.qos), load.payload),
        cores: Cores::All,
        limit: false,
        runs: 1,
        settings: json!({
            "sessions": sessions, "room": arguments.room, "requests_per_s": requests, "to_rooms_per_mille": arguments.to_rooms,
            "scale": arguments.share.scale, "qos": load.qos, "payload_bytes": load.payload,
            "seconds": load.duration.as_secs_f64(),
        }),
    };
    comparison.run(|bench, figures| once(arguments, sessions, requests, bench, figures))
}

fn once(
    arguments: &Wargaming,
    sessions: u32,
    requests: u32,
    bench: &Bench,
    figures: &mut Figures,
) -> Result<()> {
    eprintln!("  opening {sessions} sessions");
    bench.generator.open(&bench.server, 0..sessions, 0)?;
    figures.count("sessions", u64::from(sessions));
    let target = Target::Rooms {
        size: arguments.room,
        share: arguments.to_rooms,
        clients: sessions,
    };
    bench
        .generator
        .load(Load::endless(target, 0..sessions, f64::from(requests)));
    let load = &arguments.load;
    let measured = bench.measure(load.warm_up, load.duration)?;
    bench.generator.quiet();
    let between = &measured.measured;
    let published = between.counted.published as f64;
    figures.measure("requests_per_s", published / between.seconds);
    measured.messages(figures);
    if let Some(server_us) = between.server_us {
        figures.measure("cpu_us_per_request", server_us / published.max(1.0));
    }
    Ok(())
}
