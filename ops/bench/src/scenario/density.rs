//! Idle sessions with one subscription each: what one costs in memory, and whether it is kept and reached.

use anyhow::{Result, bail};
use serde_json::json;

use super::bench::{Bench, Clients, Reading};
use super::compare::{Comparison, RUNS};
use crate::arguments::{Density, Transport, qos};
use crate::figures::Figures;
use crate::generator::{Generator, Latencies, Load, Target, Topics};
use crate::machine::{self, Cores};
use crate::memory::{self, Division, Growth, Kernel, Resident};
use crate::server::pause;
use crate::subject::Subject;

/// Sessions for each core that are open from before the first measurement to the end: with them the server has touched what
/// it keeps for any number of sessions (receive buffers, queues between cores, stacks).
const WARM_UP_PER_CORE: u32 = 64;
/// PINGREQs of each of them: together more than a core has receive buffers, which it uses in turn.
const WARM_UP_PINGS: u32 = 48;
/// Bytes of a message that shows that a session is reached.
const PAYLOAD_BYTES: u32 = 64;
/// From so many sessions on a run is long.
const LONG_FROM: u32 = 50_000;

/// What is measured before and after the sessions.
struct Footprint {
    resident: Option<Resident>,
    kernel: Kernel,
}

pub(super) fn run(arguments: &Density) -> Result<()> {
    let common = &arguments.common;
    let plan = machine::plan(common, &Subject::Roadstead, arguments.sessions, Cores::All)?;
    let warm_up = WARM_UP_PER_CORE * u32::from(plan.cores);
    let mut clients = Clients::new(
        arguments.sessions + warm_up,
        Topics::Own,
        qos(arguments.qos),
        PAYLOAD_BYTES,
    );
    clients.keep_alive_s = u16::try_from(arguments.keep_alive.as_secs()).unwrap_or(u16::MAX);
    let comparison = Comparison {
        name: "density",
        common,
        clients,
        cores: Cores::All,
        limit: false,
        runs: if arguments.sessions < LONG_FROM {
            RUNS
        } else {
            1
        },
        settings: json!({
            "sessions": arguments.sessions, "warm_up_sessions": warm_up, "rate": arguments.rate, "qos": arguments.qos,
            "hold_s": arguments.hold.as_secs_f64(), "keep_alive_s": clients.keep_alive_s, "messages": arguments.messages,
        }),
    };
    comparison.run(|bench, figures| once(arguments, warm_up, bench, figures))
}

fn once(arguments: &Density, warm_up: u32, bench: &Bench, figures: &mut Figures) -> Result<()> {
    let Bench {
        generator, server, ..
    } = bench;
    let all = arguments.sessions + warm_up;
    eprintln!("  warming up with {warm_up} sessions, which stay");
    generator.open(server, 0..warm_up, 0)?;
    generator.ping(server, WARM_UP_PINGS)?;

    let before = footprint(bench)?;
    let at_start = bench.reading();
    eprintln!("  opening {} sessions", arguments.sessions);
    let took = generator.open(server, warm_up..all, arguments.rate)?;
    let opened = bench.reading();
    eprintln!("  holding them for {:?}", arguments.hold);
    generator.keep_alive(None);
    pause(arguments.hold)?;
    let held = bench.reading();
    let after = footprint(bench)?;
    let latencies = reach(bench, arguments, warm_up..all)?;

    let lost = generator.totals().disconnects;
    let sessions = u64::from(arguments.sessions);
    figures.count("sessions", sessions - lost.min(sessions));
    memory_of(bench, arguments, &before, &after, figures);
    figures.measure("connects_per_s", sessions as f64 / took.as_secs_f64());
    cpu_of(
        arguments,
        [&at_start, &opened, &held, &bench.reading()],
        figures,
    );
    if let Some(latencies) = latencies {
        figures.measure("latency_ms_p50", latencies.message_ms(0.5));
        figures.measure("latency_ms_p99", latencies.message_ms(0.99));
        figures.measure("latency_ms_p999", latencies.message_ms(0.999));
    }
    Ok(())
}

fn footprint(bench: &Bench) -> Result<Footprint> {
    Ok(Footprint {
        resident: bench.server.pid.map(memory::resident).transpose()?,
        kernel: memory::kernel(),
    })
}

/// Publishes to random sessions and waits until all of it has arrived.
fn reach(
    bench: &Bench,
    arguments: &Density,
    sessions: std::ops::Range<u32>,
) -> Result<Option<Latencies>> {
    if arguments.messages == 0 {
        return Ok(None);
    }
    let Bench {
        generator, server, ..
    } = bench;
    eprintln!(
        "  sending {} messages to random sessions",
        arguments.messages
    );
    generator.forget();
    let before = generator.totals();
    let messages = u64::from(arguments.messages);
    generator.load(Load {
        publishers: 0..sessions.end,
        target: Target::Random(sessions),
        per_second: f64::from(arguments.message_rate),
        qos: None,
        messages,
    });
    generator.wait(server, "messages", |totals| {
        let now = totals.since(&before);
        (
            now.delivered.min(now.published + now.left_out),
            messages.max(now.published),
        )
    })?;
    generator.quiet();
    let now = generator.totals().since(&before);
    if now.delivered != now.published {
        bail!(
            "{} messages were sent, {} arrived",
            now.published,
            now.delivered
        );
    }
    Ok(Some(generator.latencies()))
}

fn memory_of(
    bench: &Bench,
    arguments: &Density,
    before: &Footprint,
    after: &Footprint,
    figures: &mut Figures,
) {
    let sessions = f64::from(arguments.sessions);
    if let Some((before, after)) = before.resident.zip(after.resident) {
        let grown = |after: u64, before: u64| after.saturating_sub(before) as f64 / sessions;
        let user = grown(after.anonymous, before.anonymous);
        figures.count("user_bytes_per_session", user.round() as u64);
        figures.measure(
            "rss_growth_per_session",
            grown(after.rss, before.rss).round(),
        );
        figures.count("rss_bytes", after.rss);
        figures.count("rss_bytes_before", before.rss);
    }
    let division = Division {
        sessions: u64::from(arguments.sessions),
        server_uring: bench.server.uring,
        generator_uring: Generator::is_uring(&bench.plan),
        both_here: bench.server.address.ip().is_loopback(),
        own_sockets: arguments.common.transport() != Transport::Quic,
    };
    let growth = memory::divide(&before.kernel, &after.kernel, division);
    if after.kernel.caches.is_empty() {
        figures.note(
            "kernel_bytes_per_session",
            "unknown: /proc/slabinfo is for root".to_owned(),
        );
        return;
    }
    figures.count(
        "kernel_bytes_per_session",
        memory::object_bytes(&growth).round() as u64,
    );
    let whole = after.kernel.slab_bytes as f64 - before.kernel.slab_bytes as f64;
    figures.measure(
        "kernel_slab_bytes_per_session",
        memory::kernel_bytes(&growth).round(),
    );
    let sockets = memory::sockets_per_session(&before.kernel, &after.kernel, arguments.sessions);
    figures.measure("machine_sockets_per_session", sockets);
    figures.measure(
        "machine_slab_growth_per_session",
        (whole / sessions).round(),
    );
    for Growth {
        cache,
        objects,
        share_bytes,
        per_session,
        ..
    } in &growth
    {
        let text = format!(
            "{:7.0} B = {per_session:.2} of {share_bytes:.0} B; {:.2} more of them on the machine for each session",
            per_session * share_bytes,
            *objects as f64 / sessions
        );
        figures.note(&format!("  {cache}"), text);
    }
    let caches: serde_json::Map<_, _> = growth
        .iter()
        .map(|growth| {
            let each = json!({ "objects": growth.objects, "bytes_per_session": (growth.per_session * growth.share_bytes).round() });
            (growth.cache.clone(), each)
        })
        .collect();
    figures.detail("kernel_caches", caches.into());
}

/// CPU time of opening, holding and reaching the sessions.
fn cpu_of(arguments: &Density, readings: [&Reading; 4], figures: &mut Figures) {
    let [at_start, opened, held, end] = readings;
    let sessions = f64::from(arguments.sessions);
    let ramp = opened.since(at_start);
    if let Some(server_us) = ramp.server_us {
        figures.measure("cpu_us_per_connect", server_us / sessions);
    }
    figures.measure("generator_cpu_us_per_connect", ramp.generator_us / sessions);
    let hold = held.since(opened);
    let pongs = hold.counted.pongs;
    figures.count("pings", pongs);
    if let Some(server_us) = hold.server_us.filter(|_| pongs > 0) {
        figures.measure("cpu_us_per_ping", server_us / pongs as f64);
    }
    let reached = end.since(held);
    let delivered = reached.counted.delivered;
    if let Some(server_us) = reached.server_us.filter(|_| delivered > 0) {
        figures.measure("cpu_us_per_message", server_us / delivered as f64);
    }
    figures.count("messages", delivered);
}
