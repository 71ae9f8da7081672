//! `chaos churn`: clients that come and go and take each other over under the same ids, across cores, while messages flow.
//! Afterwards nothing of them may be left.

use std::io;
use std::time::Duration;

use edge_proto::packet::{PacketType, QoS, Version};

use crate::admin::Metrics;
use crate::bounds::pairs::Pairs;
use crate::clock::{now, wait_for};
use crate::node::Node;
use crate::options::Options;
use crate::random::Random;
use crate::report::Report;
use crate::wire::{Received, Wire, wait_for_any};

const CONFIG: &str = "[log]\nlevel = \"warn\"\n[flapping]\nconnects_max = 0\n";
/// How long a durable session may outlive its last connection.
const EXPIRY_S: u32 = 2;
/// Most that the server may take to forget everybody.
const FORGET_LIMIT: Duration = Duration::from_secs(20);
/// Gauges that must be 0 when everybody has gone.
const GAUGES: [&str; 8] = [
    "connections",
    "sessions",
    "sessions_connected",
    "sessions_offline",
    "subscriptions",
    "deliveries_queued",
    "queued_bytes",
    "pending_bytes",
];

#[derive(Debug, Default)]
struct Tally {
    connects: usize,
    refused: usize,
    received: usize,
    told_taken_over: usize,
    left: usize,
    /// What the server sent against the rules, the first of it.
    broken: Option<String>,
}

/// Runs the churn and looks at what is left.
///
/// # Errors
/// The server cannot be started or does not answer.
pub(crate) fn run(options: &Options, report: &mut Report) -> io::Result<()> {
    let clients = options.clients(2000, 300);
    let time = options.time(30, 5);
    report.title(format!(
        "churn: {clients} clients for {} s, seed {}, backend {}",
        time.as_secs(),
        options.seed,
        options.io
    ));
    let mut node = Node::new(options, "churn", CONFIG, None)?;
    node.start()?;
    let idle_bytes = node.resident_bytes();
    let pairs = Pairs::start(node.tcp, 4)?;
    let mut random = Random::new(options.seed);
    let mut slots: Vec<Option<Wire>> = (0..clients).map(|_| None).collect();
    let (mut tally, mut unbalanced, mut scrapes) = (Tally::default(), Vec::new(), 0);
    let (start, mut scraped) = (now(), now());
    while start.elapsed() < time {
        for _ in 0..clients / 50 + 1 {
            let slot = random.below(clients);
            step(&node, &mut slots[slot], &mut random, clients, &mut tally);
        }
        read(&mut slots, &mut tally);
        if scraped.elapsed() > Duration::from_secs(1) {
            scraped = now();
            let metrics = Metrics::scrape(node.admin)?;
            scrapes += 1;
            if metrics.unaccounted() != 0 {
                unbalanced.push(metrics.deliveries());
            }
        }
    }
    let metrics = Metrics::scrape(node.admin)?;
    report.note(format!(
        "{tally:?}; {} take-overs, resident {} KiB idle, {} KiB now",
        metrics.sum("takeovers_total"),
        idle_bytes / 1024,
        node.resident_bytes() / 1024
    ));
    report.note(metrics.deliveries());
    drop(slots);
    let broken = tally.broken.as_deref().unwrap_or("none");
    report.check(tally.broken.is_none(), "packets against the rules", broken);
    let outcome = pairs.finish();
    report.check(
        outcome.is_whole(),
        "clients that stay lose nothing",
        outcome.losses(),
    );
    report.check(
        unbalanced.is_empty(),
        "conservation at every scrape",
        format!("{scrapes} scrapes, {} unbalanced", unbalanced.len()),
    );
    for line in unbalanced.iter().take(5) {
        report.note(line);
    }
    leaks(&mut node, report)
}

/// One client does one thing.
fn step(
    node: &Node,
    slot: &mut Option<Wire>,
    random: &mut Random,
    clients: usize,
    tally: &mut Tally,
) {
    let Some(wire) = slot else {
        // Half as many ids as clients: each id is taken over by someone else before long.
        let name = format!("churn-{}", random.below(clients / 2 + 1));
        let version = if random.per_mille(500) {
            Version::V5
        } else {
            Version::V311
        };
        let Ok(mut wire) = Wire::open(node.tcp, version) else {
            tally.refused += 1;
            return;
        };
        // A 3.1.1 session without Clean Session would outlive the run.
        let durable = version == Version::V5 && random.per_mille(300);
        wire.connect(
            &name,
            !durable || random.per_mille(300),
            if durable { EXPIRY_S } else { 0 },
        );
        wire.subscribe(
            1,
            &[&format!("c/{}/#", random.below(20)), "$share/g/c/+/x"],
            QoS::AtLeastOnce,
        );
        wire.subscribe(2, &[&format!("+/{}", random.below(20))], QoS::ExactlyOnce);
        wire.flush();
        tally.connects += 1;
        *slot = Some(wire);
        return;
    };
    match random.below(10) {
        0 => {
            wire.disconnect();
            wire.flush();
            *slot = None;
        }
        1 => *slot = None,
        2 => wire.unsubscribe(3, &format!("c/{}/#", random.below(20))),
        _ => {
            let qos = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce][random.below(3)];
            let topic = format!(
                "c/{}{}",
                random.below(20),
                ["", "/x", "/y"][random.below(3)]
            );
            wire.publish(
                false,
                qos,
                false,
                &topic,
                random.below(100) as u16 + 100,
                b"churn",
            );
        }
    }
}

/// Everybody reads and answers, most of the time.
fn read(slots: &mut [Option<Wire>], tally: &mut Tally) {
    let open: Vec<usize> = (0..slots.len())
        .filter(|slot| slots[*slot].is_some())
        .collect();
    slots.iter_mut().flatten().for_each(Wire::flush);
    let wires: Vec<&Wire> = open
        .iter()
        .filter_map(|slot| slots[*slot].as_ref())
        .collect();
    for index in wait_for_any(&wires, Duration::from_millis(5)) {
        let slot = &mut slots[open[index]];
        let Some(wire) = slot else { continue };
        wire.fill();
        let packets = wire.packets();
        if let (None, Err(rule)) = (&tally.broken, &packets) {
            tally.broken = Some(format!("{rule}, {:?}", wire.version));
        }
        for packet in packets.unwrap_or_default() {
            answer(wire, packet, tally);
        }
        wire.flush();
        if wire.ended {
            tally.left += 1;
            *slot = None;
        }
    }
}

fn answer(wire: &mut Wire, packet: Received, tally: &mut Tally) {
    match packet {
        Received::Publish(arrived) => {
            tally.received += 1;
            match arrived.qos {
                QoS::AtMostOnce => {}
                QoS::AtLeastOnce => wire.ack(PacketType::PubAck, arrived.packet_id),
                QoS::ExactlyOnce => wire.ack(PacketType::PubRec, arrived.packet_id),
            }
        }
        Received::PubRec(packet_id, reason) if !reason.is_error() => {
            wire.ack(PacketType::PubRel, packet_id);
        }
        Received::PubRel(packet_id) => wire.ack(PacketType::PubComp, packet_id),
        Received::Disconnect(edge_proto::reason::ReasonCode::SessionTakenOver) => {
            tally.told_taken_over += 1;
        }
        _ => {}
    }
}

/// Waits until every gauge is 0.
fn leaks(node: &mut Node, report: &mut Report) -> io::Result<()> {
    let empty = |metrics: &Metrics| GAUGES.iter().all(|gauge| metrics.sum(gauge) == 0);
    let forgotten = wait_for(FORGET_LIMIT, || {
        Metrics::scrape(node.admin).ok().filter(empty)
    });
    let metrics = Metrics::scrape(node.admin)?;
    for gauge in GAUGES {
        let value = metrics.sum(gauge);
        report.check(value == 0, format!("{gauge} afterwards"), value);
    }
    report.note(if forgotten.is_some() {
        "all gauges came to 0"
    } else {
        "not all gauges came to 0 in time"
    });
    report.check(
        metrics.unaccounted() == 0,
        "conservation afterwards",
        metrics.deliveries(),
    );
    report.check(
        node.is_alive(),
        "the server lives",
        format!("{} KiB resident", node.resident_bytes() / 1024),
    );
    let stopped = node.terminate().is_some_and(|status| status.success());
    report.check(
        stopped,
        "SIGTERM stops it in order",
        if stopped {
            "exit code 0".into()
        } else {
            node.log_tail()
        },
    );
    Ok(())
}
