//! `chaos bounds`: clients that stop reading, and clients that are worse, beside well-behaved ones.
//!
//! Memory must stay under what the configuration allows, the well-behaved lose nothing and wait no longer than before, and each
//! delivery is accounted for at every scrape.

mod audience;
mod flood;
mod hostile;
pub(crate) mod pairs;

use std::io;
use std::time::Duration;

use crate::admin::Metrics;
use crate::clock::{now, wait_for};
use crate::node::{CORES, Node};
use crate::options::Options;
use crate::report::Report;
use audience::Audience;
use flood::Flood;
use hostile::{Hostile, Kind};
use pairs::{Outcome, Pairs};

const MIB: u64 = 1024 * 1024;
/// Topics of the flood, each with its share of the audience.
const TOPICS: usize = 100;
/// Well-behaved pairs.
const PAIRS: usize = 12;
/// Hostile clients of each kind.
const HOSTILE_EACH: usize = 60;
/// Largest packet of the server under test.
const PACKET_BYTES: usize = 256 * 1024;

const CONFIG: &str = "[mqtt]\npacket_bytes_max = \"256 KiB\"\nconnect_timeout = \"5s\"\n\
    [queues]\nsession_bytes_max = \"256 KiB\"\nunsent_bytes_max = \"16 KiB\"\ntotal_bytes_max = \"64 MiB\"\n\
    pending_bytes_max = \"16 MiB\"\npartial_bytes_max = \"8 MiB\"\n[retained]\nbytes_max = \"16 MiB\"\n\
    [mailboxes]\nmessages_max = 1000\nbytes_max = \"1 MiB\"\n[log]\nlevel = \"warn\"\n";

/// What the documentation says that memory is at the bounds (`docs/OPERATIONS.md`, under the table of bounds), and the encoded
/// bytes of each connection, which it allows up to four times `queues.unsent_bytes_max`.
fn memory_bound(idle_bytes: u64, clients: usize) -> u64 {
    let queues = (64 + 16 + 8 + 16) * MIB;
    let receive_buffers = CORES as u64 * 256 * 8 * 1024;
    let store_cache = 64 * MIB;
    let unsent = clients as u64 * 4 * 16 * 1024;
    idle_bytes + queues + receive_buffers + store_cache + unsent + clients as u64 * 4096
}

/// Scrapes during a phase.
#[derive(Debug, Default)]
struct Watch {
    scrapes: usize,
    failed: usize,
    unbalanced: Vec<String>,
    resident_max: u64,
}

impl Watch {
    /// Scrapes about once a second until the time is over.
    fn over(&mut self, node: &Node, time: Duration, mut meanwhile: impl FnMut()) {
        let start = now();
        while start.elapsed() < time {
            self.look(node);
            let pause = now();
            while pause.elapsed() < Duration::from_millis(500).min(time) {
                meanwhile();
                wait_for(Duration::from_millis(10), || None::<()>);
            }
        }
    }

    fn look(&mut self, node: &Node) {
        self.resident_max = self.resident_max.max(node.resident_bytes());
        match Metrics::scrape(node.admin) {
            Ok(metrics) => {
                self.scrapes += 1;
                if metrics.unaccounted() != 0 || metrics.sum("deliveries_unaccounted") != 0 {
                    self.unbalanced.push(metrics.deliveries());
                }
            }
            Err(_) => self.failed += 1,
        }
    }
}

/// Runs all phases.
///
/// # Errors
/// The server or the well-behaved clients cannot start.
pub(crate) fn run(options: &Options, report: &mut Report) -> io::Result<()> {
    let clients = options.clients(1000, 200);
    let time = options.time(60, 8);
    report.title(format!(
        "bounds: {clients} clients that stop reading for {} s, backend {}",
        time.as_secs(),
        options.io
    ));
    let mut node = Node::new(options, "bounds", CONFIG, None)?;
    node.start()?;
    let idle_bytes = node.resident_bytes();
    let bound = memory_bound(idle_bytes, clients + HOSTILE_EACH * Kind::ALL.len());
    let mut watch = Watch::default();
    let pairs = Pairs::start(node.tcp, PAIRS)?;
    let baseline = (time / 4).clamp(Duration::from_secs(3), Duration::from_secs(20));
    watch.over(&node, baseline, || {});
    let audience = Audience::start(node.tcp, clients, TOPICS)?;
    let flood = Flood::start(node.tcp, TOPICS)?;
    pairs.set_phase(1);
    watch.over(&node, baseline, || {});
    let (read, sent_before) = (audience.received(), flood.sent());
    report.note(format!(
        "resident idle {} MiB, while all read {} MiB; {sent_before} published, {read} read",
        idle_bytes / MIB,
        watch.resident_max / MIB
    ));
    audience.stop_reading();
    pairs.set_phase(2);
    watch.over(&node, time, || {});
    let flooded = flood.sent() - sent_before;
    report.note(format!(
        "while nobody reads: {flooded} published in {} s, resident up to {} MiB",
        time.as_secs(),
        watch.resident_max / MIB
    ));
    report.note(format!(
        "at its end: {}",
        Metrics::scrape(node.admin)?.deliveries()
    ));
    let resident_stalled = watch.resident_max;
    pairs.set_phase(3);
    let over = be_hostile(&node, &mut watch, time / 2);
    flood.finish();
    drop(audience.finish());
    pairs.set_phase(4);
    watch.over(&node, Duration::from_secs(3), || {});
    let outcome = pairs.finish();
    report.note(format!("hostile clients: {over}"));
    judge(
        &outcome,
        [resident_stalled, watch.resident_max],
        bound,
        report,
    );
    conclude(&mut node, &watch, report);
    Ok(())
}

/// Memory, and what the well-behaved saw.
fn judge(outcome: &Outcome, resident: [u64; 2], bound: u64, report: &mut Report) {
    for (phase, name) in [
        "alone",
        "all read",
        "nobody reads",
        "hostile clients",
        "afterwards",
    ]
    .iter()
    .enumerate()
    {
        report.note(format!("well-behaved, {name}: {}", outcome.words(phase)));
    }
    let (before, during) = (outcome.percentile_us(1, 99), outcome.percentile_us(2, 99));
    report.check(
        resident[0] <= bound,
        "memory while nobody reads",
        within(resident[0], bound),
    );
    report.check(
        resident[1] <= bound,
        "memory with hostile clients",
        within(resident[1], bound),
    );
    report.check(
        during <= before * 2,
        "p99 of the others within 2× of before",
        format!("{before} µs before, {during} µs during"),
    );
    report.check(
        outcome.is_whole_at_qos_1(),
        "the well-behaved lose nothing at QoS 1, and no connection",
        outcome.losses(),
    );
}

fn within(bytes: u64, bound: u64) -> String {
    format!("{} MiB of {} MiB", bytes / MIB, bound / MIB)
}

/// Lets every kind of hostile client loose at once; says how many of each the server ended.
fn be_hostile(node: &Node, watch: &mut Watch, time: Duration) -> String {
    let mut clients: Vec<Hostile> = (0..HOSTILE_EACH)
        .flat_map(|number| Kind::ALL.map(|kind| Hostile::new(node.tcp, kind, number, PACKET_BYTES)))
        .flatten()
        .collect();
    watch.over(node, time, || {
        clients
            .iter_mut()
            .filter(|client| !client.is_over())
            .for_each(Hostile::act);
    });
    let counts = Kind::ALL.map(|kind| {
        let of_kind = clients.iter().filter(|client| client.kind == kind);
        let over = of_kind.clone().filter(|client| client.is_over()).count();
        format!("{kind:?} {over} of {} ended", of_kind.count())
    });
    counts.join(", ")
}

fn conclude(node: &mut Node, watch: &Watch, report: &mut Report) {
    let unbalanced = watch.unbalanced.len();
    let seen = format!(
        "{} scrapes, {unbalanced} unbalanced, {} without an answer",
        watch.scrapes, watch.failed
    );
    report.check(
        unbalanced == 0 && watch.failed == 0,
        "conservation at every scrape",
        seen,
    );
    for line in watch.unbalanced.iter().take(5) {
        report.note(line);
    }
    let drained = wait_for(Duration::from_secs(15), || {
        let metrics = Metrics::scrape(node.admin).ok()?;
        (metrics.sum("queued_bytes") == 0 && metrics.sum("pending_bytes") == 0).then_some(metrics)
    });
    let seen = drained
        .as_ref()
        .map_or_else(|| "bytes are left".to_owned(), Metrics::deliveries);
    report.check(
        drained.is_some(),
        "no bytes are queued when all have gone",
        seen,
    );
    report.check(
        node.is_alive(),
        "the server lives",
        format!("{} MiB resident in the end", node.resident_bytes() / MIB),
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
}
