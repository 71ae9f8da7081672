//! Sessions opened as fast as the server takes them, a bounded number on their way at once: new ones, or, after a restart of
//! the server, ones that it has to resume. Over TLS and QUIC new ones come twice: with full handshakes, and then with the tickets that
//! they got (and no early data), so that both are measured in one run.

use anyhow::{Result, bail};
use edge_proto::packet::QoS;
use serde_json::json;

use super::bench::{Bench, Clients};
use super::compare::{Comparison, RUNS};
use crate::arguments::Connect;
use crate::figures::Figures;
use crate::generator::{Tickets, Topics};
use crate::machine::Cores;
use crate::rival::Store;

/// From so many sessions on a run is long.
const LONG_FROM: u32 = 50_000;

pub(super) fn run(arguments: &Connect) -> Result<()> {
    let mut clients = Clients::new(arguments.sessions, Topics::None, QoS::AtMostOnce, 16);
    clients.tickets = Tickets::Keep;
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
            return storm(arguments, bench, figures);
        }
        connect(arguments, bench, "", figures)?;
        if arguments.common.transport().is_secure() {
            come_again(arguments, bench, figures)?;
        }
        Ok(())
    })
}

fn connect(arguments: &Connect, bench: &Bench, suffix: &str, figures: &mut Figures) -> Result<()> {
    let before = bench.reading();
    let took = bench
        .generator
        .open(&bench.server, 0..arguments.sessions, arguments.rate)?;
    let between = bench.reading().since(&before);
    let sessions = f64::from(arguments.sessions);
    figures.count(&format!("sessions{suffix}"), between.counted.live);
    let per_s = sessions / took.as_secs_f64();
    figures.measure(&format!("connects_per_s{suffix}"), per_s);
    if suffix.is_empty() {
        figures.measure("requests_per_s", per_s);
    }
    between.cpu("connect", between.counted.live, suffix, figures);
    Ok(())
}

/// All leave, and come again with the tickets of their TLS sessions.
fn come_again(arguments: &Connect, bench: &Bench, figures: &mut Figures) -> Result<()> {
    let sessions = arguments.sessions;
    bench.generator.leave(&bench.server, 0..sessions)?;
    bench.generator.spend_tickets();
    let before = bench.generator.totals().tls_resumed;
    connect(arguments, bench, "_resumed", figures)?;
    let resumed = bench.generator.totals().tls_resumed - before;
    figures.count("tls_resumptions", resumed);
    if resumed < u64::from(sessions) || before > 0 {
        let missing =
            format!("of {sessions} handshakes {resumed} were resumed, and {before} before");
        figures.note("resumption", missing);
    }
    let cpu = |suffix: &str| figures.value(&format!("cpu_us_per_connect{suffix}"));
    if let (Some(full), Some(resumed)) = (cpu(""), cpu("_resumed")) {
        figures.measure("full_to_resumed", full / resumed.max(0.001));
    }
    Ok(())
}

fn storm(arguments: &Connect, bench: &mut Bench, figures: &mut Figures) -> Result<()> {
    let sessions = arguments.sessions;
    eprintln!("  {sessions} durable sessions, then a restart");
    bench.generator.open(&bench.server, 0..sessions, 0)?;
    let restart = bench.generator.outlive(&mut bench.server)?;
    figures.measure("restart_ms", restart.as_secs_f64() * 1e3);
    bench.generator.spend_tickets();
    let before = bench.generator.totals().resumed;
    connect(arguments, bench, "", figures)?;
    let resumed = bench.generator.totals().resumed - before;
    figures.count("resumed", resumed);
    if resumed < u64::from(sessions) {
        bail!("of {sessions} durable sessions {resumed} were resumed after the restart");
    }
    Ok(())
}
