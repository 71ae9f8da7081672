//! Sessions opened as fast as the server takes them, a bounded number on their way at once: new ones, or, after a restart of
//! the server, ones that it has to resume.

use anyhow::{Result, bail};
use edge_proto::packet::QoS;
use serde_json::json;

use super::bench::{Bench, Clients};
use super::compare::{Comparison, RUNS};
use crate::arguments::Connect;
use crate::figures::Figures;
use crate::generator::Topics;
use crate::machine::Cores;
use crate::rival::Store;

/// From so many sessions on a run is long.
const LONG_FROM: u32 = 50_000;

pub(super) fn run(arguments: &Connect) -> Result<()> {
    let mut clients = Clients::new(arguments.sessions, Topics::None, QoS::AtMostOnce, 16);
    if arguments.resume {
        clients.topics = Topics::Own;
        clients.qos = QoS::AtLeastOnce;
        clients.durable_from = 0;
        clients.store = Store::Disk;
    }
    let comparison = Comparison {
        name: if arguments.resume {
            "connect-resume"
        } else {
            "connect"
        },
        common: &arguments.common,
        clients,
        cores: Cores::One,
        limit: false,
        runs: if arguments.sessions < LONG_FROM {
            RUNS
        } else {
            1
        },
        settings: json!({
            "sessions": arguments.sessions, "rate": arguments.rate, "resume": arguments.resume,
        }),
    };
    comparison.run(|bench, figures| {
        if arguments.resume {
            storm(arguments, bench, figures)
        } else {
            connect(arguments, bench, figures)
        }
    })
}

fn connect(arguments: &Connect, bench: &Bench, figures: &mut Figures) -> Result<()> {
    let before = bench.reading();
    let took = bench
        .generator
        .open(&bench.server, 0..arguments.sessions, arguments.rate)?;
    let between = bench.reading().since(&before);
    let sessions = f64::from(arguments.sessions);
    figures.count("sessions", between.counted.live);
    figures.measure("connects_per_s", sessions / took.as_secs_f64());
    figures.measure("requests_per_s", sessions / took.as_secs_f64());
    between.cpu("connect", between.counted.live, "", figures);
    Ok(())
}

fn storm(arguments: &Connect, bench: &mut Bench, figures: &mut Figures) -> Result<()> {
    let sessions = arguments.sessions;
    eprintln!("  {sessions} durable sessions, then a restart");
    bench.generator.open(&bench.server, 0..sessions, 0)?;
    let restart = bench.generator.outlive(&mut bench.server)?;
    figures.measure("restart_ms", restart.as_secs_f64() * 1e3);
    connect(arguments, bench, figures)?;
    let resumed = bench.generator.totals().resumed;
    figures.count("resumed", resumed);
    if resumed < u64::from(sessions) {
        bail!("of {sessions} durable sessions {resumed} were resumed after the restart");
    }
    Ok(())
}
