//! QoS 1 messages to durable sessions that are offline, as fast as they are acknowledged; then the sessions come back and get
//! them.

use anyhow::{Result, bail};
use edge_proto::packet::QoS;
use serde_json::json;

use super::bench::{Bench, Clients};
use super::compare::{Comparison, RUNS};
use crate::arguments::Durable;
use crate::figures::Figures;
use crate::generator::{Load, Target, Topics};
use crate::machine::Cores;
use crate::rival::Store;

/// Messages of each publisher that are not acknowledged.
const WINDOW: u16 = 16;

pub(super) fn run(arguments: &Durable) -> Result<()> {
    let first = arguments.publishers;
    let mut clients = Clients::new(
        first + arguments.sessions,
        Topics::OwnFrom { first },
        QoS::AtLeastOnce,
        arguments.payload,
    );
    clients.durable_from = first;
    clients.store = Store::Disk;
    let comparison = Comparison {
        name: "durable",
        common: &arguments.common,
        clients,
        cores: Cores::One,
        limit: false,
        runs: RUNS,
        settings: json!({
            "sessions": arguments.sessions, "publishers": first, "messages": arguments.messages, "window": WINDOW,
            "qos": 1, "payload_bytes": arguments.payload,
        }),
    };
    comparison.run(|bench, figures| once(arguments, bench, figures))
}

fn once(arguments: &Durable, bench: &Bench, figures: &mut Figures) -> Result<()> {
    let Bench {
        generator, server, ..
    } = bench;
    let publishers = arguments.publishers;
    let sleepers = publishers..publishers + arguments.sessions;
    generator.open(server, 0..sleepers.end, 0)?;
    generator.leave(server, sleepers.clone())?;
    figures.count("sessions", u64::from(arguments.sessions));

    let before = bench.reading();
    let at_start = generator.totals();
    generator.load(Load {
        target: Target::Acknowledged {
            to: sleepers.clone(),
            window: WINDOW,
        },
        per_second: 0.0,
        qos: None,
        publishers: 0..publishers,
        messages: arguments.messages,
    });
    generator.wait(server, "messages stored", |totals| {
        let now = totals.since(&at_start);
        (now.acknowledged, arguments.messages.max(now.published))
    })?;
    let stored = bench.reading().since(&before);
    generator.quiet();
    let messages = stored.counted.acknowledged;
    figures.measure("messages_per_s", messages as f64 / stored.seconds);
    stored.cpu("stored", messages, "", figures);

    let before = bench.reading();
    let at_start = generator.totals();
    generator.open(server, sleepers, 0)?;
    generator.wait(server, "messages delivered", |totals| {
        (totals.since(&at_start).delivered, messages)
    })?;
    let delivered = bench.reading().since(&before);
    let count = delivered.counted.delivered;
    figures.measure("deliveries_per_s", count as f64 / delivered.seconds);
    delivered.cpu("delivered", count, "_delivering", figures);
    if let Some((storing, delivering)) = stored.server_us.zip(delivered.server_us) {
        let both = (storing + delivering) / messages.max(1) as f64;
        figures.measure("cpu_us_per_message", both);
    }
    if delivered.counted.resumed < u64::from(arguments.sessions) {
        bail!(
            "of {} durable sessions {} were resumed",
            arguments.sessions,
            delivered.counted.resumed
        );
    }
    Ok(())
}
