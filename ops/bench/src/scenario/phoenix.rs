//! One room: a message every few seconds to all of its subscribers, and the time until the last of them has it.

use std::time::Duration;

use anyhow::Result;
use edge_proto::packet::QoS;
use serde_json::json;

use super::bench::{Bench, Clients};
use super::compare::Comparison;
use crate::arguments::{Phoenix, Transport};
use crate::clock;
use crate::figures::{Figures, Spread};
use crate::generator::{Load, Target, Topics};
use crate::machine::Cores;
use crate::server::pause;

/// Bytes of a payload: a chat line.
const PAYLOAD_BYTES: u32 = 128;

pub(super) fn run(arguments: &Phoenix) -> Result<()> {
    let mut common = arguments.common.clone();
    common.transport_asked.get_or_insert(Transport::Websocket);
    let subscribers = arguments.share.of(arguments.sessions);
    let topics = Topics::Shared { publishers: 1 };
    let comparison = Comparison {
        name: "phoenix",
        common: &common,
        clients: Clients::new(subscribers + 1, topics, QoS::AtMostOnce, PAYLOAD_BYTES),
        cores: Cores::All,
        limit: false,
        runs: 1,
        settings: json!({
            "subscribers": subscribers, "messages": arguments.messages, "every_s": arguments.every.as_secs_f64(),
            "scale": arguments.share.scale, "qos": 0, "payload_bytes": PAYLOAD_BYTES,
        }),
    };
    comparison.run(|bench, figures| once(arguments, subscribers, bench, figures))
}

fn once(arguments: &Phoenix, subscribers: u32, bench: &Bench, figures: &mut Figures) -> Result<()> {
    let Bench {
        generator, server, ..
    } = bench;
    eprintln!("  opening {subscribers} subscribers");
    generator.open(server, 0..subscribers + 1, 0)?;
    figures.count("sessions", u64::from(subscribers));
    let mut last = Vec::new();
    let before = bench.reading();
    let mut quantiles = [(0.5, Vec::new()), (0.99, Vec::new()), (0.999, Vec::new())];
    for message in 0..arguments.messages {
        // The first message is made of cold memory: it is not counted, as a warm-up.
        let next = clock::now() + arguments.every;
        generator.forget();
        let at_start = generator.totals();
        generator.load(Load {
            target: Target::Shared {
                audience: subscribers,
                window: 1,
            },
            per_second: 0.0,
            qos: None,
            publishers: 0..1,
            messages: 1,
        });
        generator.wait(server, "deliveries", |totals| {
            (totals.since(&at_start).delivered, u64::from(subscribers))
        })?;
        let latencies = generator.latencies();
        eprintln!(
            "  message {message}: the last has it after {:.0} ms",
            latencies.longest_ms()
        );
        if message > 0 || arguments.messages == 1 {
            last.push(latencies.longest_ms());
            for (quantile, values) in &mut quantiles {
                values.push(latencies.message_ms(*quantile));
            }
        }
        pause(
            next.saturating_duration_since(clock::now())
                .max(Duration::ZERO),
        )?;
    }
    generator.quiet();
    let between = bench.reading().since(&before);
    let spread = Spread::of(last.into_iter());
    if let Some(spread) = spread {
        figures.measure("last_ms", spread.median);
        figures.measure("last_ms_most", spread.most);
    }
    for ((_, values), name) in quantiles.iter().zip(["p50", "p99", "p999"]) {
        if let Some(spread) = Spread::of(values.iter().copied()) {
            figures.measure(&format!("latency_ms_{name}"), spread.median);
        }
    }
    between.cpu("message", between.counted.delivered, "", figures);
    Ok(())
}
