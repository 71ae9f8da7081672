//! One messenger server's share: durable sessions, half of them connected and half asleep, and QoS 1 messages from those that
//! are awake to all. In the end some of the sleepers come back and get theirs.

use anyhow::Result;
use edge_proto::packet::QoS;
use serde_json::json;

use super::bench::{Bench, Clients};
use super::compare::Comparison;
use crate::arguments::Whatsapp;
use crate::figures::Figures;
use crate::generator::{Load, Target, Tickets, Topics};
use crate::machine::Cores;
use crate::rival::Store;

/// Sleepers that are connected at once while they are made, and in the end.
const SLICE: u32 = 10_000;

pub(super) fn run(arguments: &Whatsapp) -> Result<()> {
    let sessions = arguments.share.of(arguments.sessions).max(4);
    let rate = arguments.share.of(arguments.rate);
    let asleep = sessions / 4 * 2;
    let mut clients = Clients::new(sessions, Topics::Own, QoS::AtLeastOnce, arguments.payload);
    clients.connected = sessions - asleep + SLICE.min(asleep);
    clients.durable_from = 0;
    clients.tickets = Tickets::Spend;
    clients.store = Store::Disk;
    let comparison = Comparison {
        name: "whatsapp",
        common: &arguments.common,
        clients,
        cores: Cores::All,
        limit: false,
        runs: 1,
        settings: json!({
            "sessions": sessions, "asleep": asleep, "rate": rate, "scale": arguments.share.scale, "qos": 1,
            "payload_bytes": arguments.payload, "seconds": arguments.duration.as_secs_f64(),
        }),
    };
    comparison.run(|bench, figures| once(arguments, [sessions, asleep, rate], bench, figures))
}

fn once(
    arguments: &Whatsapp,
    [sessions, asleep, rate]: [u32; 3],
    bench: &Bench,
    figures: &mut Figures,
) -> Result<()> {
    let Bench {
        generator, server, ..
    } = bench;
    eprintln!("  {asleep} sessions come, subscribe and go to sleep");
    // Sleepers have the low numbers, since clients are opened in order.
    let mut first = 0;
    while first < asleep {
        let slice = first..(first + SLICE).min(asleep);
        generator.open(server, slice.clone(), 0)?;
        generator.leave(server, slice.clone())?;
        first = slice.end;
        if first.is_multiple_of(10 * SLICE) {
            eprintln!("  {first} of {asleep} asleep");
        }
    }
    eprintln!("  opening {} sessions", sessions - asleep);
    generator.open(server, asleep..sessions, 0)?;
    figures.count("sessions", u64::from(sessions));
    generator.load(Load::endless(
        Target::Random(0..sessions),
        asleep..sessions,
        f64::from(rate),
    ));
    eprintln!("  {rate} messages a second");
    let measured = bench.measure(arguments.warm_up, arguments.duration)?;
    generator.quiet();
    let between = &measured.measured;
    let acknowledged = between.counted.acknowledged;
    figures.measure("requests_per_s", acknowledged as f64 / between.seconds);
    figures.measure(
        "messages_per_s",
        between.counted.delivered as f64 / between.seconds,
    );
    between.cpu("message", acknowledged, "", figures);
    measured.latency("", figures);
    measured.left_out(figures);

    eprintln!("  some wake up");
    generator.settle(server)?;
    let before = generator.totals();
    let opening = generator.open(server, 0..SLICE.min(asleep), 0)?;
    let rest = generator.settle(server)?;
    let woken = generator.totals().since(&before);
    figures.count("woken", woken.resumed);
    figures.count("woken_messages", woken.delivered);
    figures.measure("wake_s", (opening + rest).as_secs_f64());
    Ok(())
}
