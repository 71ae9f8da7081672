//! What Prometheus sees: the counters of all cores, summed, as families in its text format.
//!
//! No series belongs to a client, and the number of series is bounded: a few are per core, ten are per root (the hottest),
//! the rest is one each.

mod access;
mod admission;
mod cluster;
mod quic;
mod tls;

use std::collections::BTreeMap;

use prometheus::core::Collector as _;
use prometheus::process_collector::ProcessCollector;
use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType,
};

use super::log;
use super::status::{EngineReport, NodeStatus, VERSION};
use crate::engine::status::{COMMIT_LATENCY_BOUNDS_US, EngineState};
use crate::metrics::{CoreSnapshot, Counters, DropReason};

/// Roots that are named in one scrape.
const HOTTEST_ROOTS: usize = 10;
/// Characters of a root in a label. Clients choose topics, so a root may be 64 KB long.
const ROOT_CHARACTERS: usize = 128;

/// One core at a scrape: its numbers, and whether it answered (else they are those of its last answer).
#[derive(Clone, Debug, Default)]
pub struct CoreSample {
    /// Its numbers.
    pub snapshot: CoreSnapshot,
    /// True exactly when it answered this scrape.
    pub answered: bool,
}

/// The whole exposition in the text format of Prometheus.
///
/// # Errors
/// When a family cannot be written, which is a bug: its name, for the asker to report.
pub fn exposition(
    samples: &[CoreSample],
    status: &NodeStatus,
) -> Result<String, prometheus::Error> {
    let mut families = families(samples, status);
    families.extend(ProcessCollector::for_self().collect());
    // The encoder refuses a family without a series, and an idle node has no hot root.
    families.retain(|family| !family.get_metric().is_empty());
    prometheus::TextEncoder::new().encode_to_string(&families)
}

/// Every family of the node, the operating system's view of the process excepted.
pub fn families(samples: &[CoreSample], status: &NodeStatus) -> Vec<MetricFamily> {
    let mut families = node_families(samples, status);
    families.extend(counter_families(samples));
    families.extend(delivery_families(samples));
    families.extend(admission::families(samples));
    families.extend(core_families(samples));
    families.extend(driver_families(samples));
    families.extend(engine_families(&status.engine()));
    families.extend(access::families(&status.access));
    families.extend(tls::families(samples, &status.certificates.current()));
    families.extend(quic::families(samples));
    families.extend(cluster::families(samples, status.cluster.as_deref()));
    families
}

fn node_families(samples: &[CoreSample], status: &NodeStatus) -> Vec<MetricFamily> {
    let answered = samples
        .iter()
        .enumerate()
        .map(|(core, sample)| (core_label(core), f64::from(sample.answered)));
    vec![
        gauges(
            "build_info",
            "Version of the node; the value is 1.",
            [(label("version", VERSION), 1.0)],
        ),
        gauges(
            "node_info",
            "Name of the node; the value is 1.",
            [(label("node", &status.node), 1.0)],
        ),
        gauges(
            "io_backend_info",
            "Driver of the cores, and why this one; the value is 1.",
            [(
                [
                    label("backend", status.backend),
                    label("reason", &status.backend_reason),
                ]
                .concat(),
                1.0,
            )],
        ),
        gauge(
            "ready",
            "1 when the node is ready for clients.",
            f64::from(status.is_ready()),
        ),
        gauge("cores", "Cores of the node.", samples.len() as f64),
        gauges(
            "core_answered",
            "1 when the core answered this scrape, 0 when its numbers are old.",
            answered,
        ),
        counters(
            "log_lines_dropped_total",
            "Log lines dropped because standard error took nothing.",
            [(vec![], log::lines_dropped())],
        ),
    ]
}

/// Every [`Counters`] field, summed; the turns of the event loop for each core.
fn counter_families(samples: &[CoreSample]) -> Vec<MetricFamily> {
    let mut total = Counters::default();
    for sample in samples {
        total.add(&sample.snapshot.counters);
    }
    let summed = total.iter().filter(|(name, ..)| *name != "turns");
    let mut families: Vec<_> = summed
        .map(|(name, help, value)| counters(&format!("{name}_total"), help, [(vec![], value)]))
        .collect();
    families.push(counters(
        "turns_total",
        "Turns of the event loop.",
        per_core(samples, |core| core.counters.turns),
    ));
    families
}

fn delivery_families(samples: &[CoreSample]) -> Vec<MetricFamily> {
    let sum = |value: fn(&CoreSnapshot) -> u64| {
        samples
            .iter()
            .map(|sample| value(&sample.snapshot))
            .sum::<u64>()
    };
    let dropped = DropReason::ALL.iter().map(|(reason, word)| {
        let count = samples
            .iter()
            .map(|sample| sample.snapshot.dropped[*reason as usize])
            .sum();
        (label("reason", word), count)
    });
    let unaccounted: i128 = samples
        .iter()
        .map(|sample| unaccounted(&sample.snapshot))
        .sum();
    vec![
        counters(
            "deliveries_dropped_total",
            "Deliveries dropped, by reason.",
            dropped,
        ),
        gauge(
            "deliveries_queued",
            "Deliveries accepted and not yet delivered, expired or dropped.",
            sum(|core| core.deliveries_queued) as f64,
        ),
        gauge(
            "deliveries_unaccounted",
            "Accepted less delivered, expired, dropped and queued. Anything but 0 is a bug.",
            unaccounted as f64,
        ),
        gauge(
            "queued_bytes",
            "Bytes queued for connected clients.",
            sum(|core| core.queued_bytes) as f64,
        ),
        gauge(
            "pending_bytes",
            "Bytes of publishes that wait for their acknowledgement.",
            sum(|core| core.pending_bytes) as f64,
        ),
    ]
}

fn unaccounted(core: &CoreSnapshot) -> i128 {
    let Counters {
        deliveries_accepted,
        deliveries_delivered,
        deliveries_expired,
        ..
    } = core.counters;
    let dropped: u64 = core.dropped.iter().sum();
    i128::from(deliveries_accepted)
        - [
            deliveries_delivered,
            deliveries_expired,
            dropped,
            core.deliveries_queued,
        ]
        .map(i128::from)
        .iter()
        .sum::<i128>()
}

fn core_families(samples: &[CoreSample]) -> Vec<MetricFamily> {
    let gauge_per_core = |name: &str, help: &str, value: fn(&CoreSnapshot) -> u64| {
        gauges(
            name,
            help,
            per_core(samples, value)
                .into_iter()
                .map(|(labels, value)| (labels, value as f64)),
        )
    };
    vec![
        gauge_per_core(
            "connections",
            "Connections open, handshakes included.",
            |core| core.connections,
        ),
        gauge_per_core(
            "sessions_connected",
            "Sessions connected at the core.",
            |core| core.sessions_connected,
        ),
        gauge_per_core(
            "sessions",
            "Sessions whose home is the core, connected or not.",
            |core| core.sessions,
        ),
        gauge_per_core(
            "sessions_offline",
            "Durable sessions that are not connected.",
            |core| core.sessions_offline,
        ),
        gauge_per_core(
            "subscriptions",
            "Subscription entries owned by the core.",
            |core| core.subscriptions,
        ),
        gauge_per_core(
            "retained_messages",
            "Retained messages owned by the core.",
            |core| core.retained_messages,
        ),
        gauge_per_core(
            "retained_bytes",
            "Bytes of retained messages owned by the core.",
            |core| core.retained_bytes,
        ),
        gauge_per_core(
            "group_queue_messages",
            "Messages in the queues of shared subscriptions of the core: nobody could take them yet.",
            |core| core.group_queue_messages,
        ),
        hottest_roots(samples),
    ]
}

/// The hottest roots of all cores. A root is one core's work, so the same root on two cores is an edge case of a changed
/// depth: then its publishes add up.
fn hottest_roots(samples: &[CoreSample]) -> MetricFamily {
    let mut publishes = BTreeMap::<String, u64>::new();
    for (root, count) in samples
        .iter()
        .flat_map(|sample| &sample.snapshot.hottest_roots)
    {
        let shown = root.chars().take(ROOT_CHARACTERS).collect();
        *publishes.entry(shown).or_default() += count;
    }
    let mut hottest: Vec<_> = publishes.into_iter().collect();
    hottest.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    hottest.truncate(HOTTEST_ROOTS);
    let series = hottest
        .into_iter()
        .map(|(root, count)| (label("root", &root), count as f64));
    gauges(
        "root_publishes",
        "Recent publishes of the hottest roots, decaying. A root is the work of one core.",
        series,
    )
}

fn driver_families(samples: &[CoreSample]) -> Vec<MetricFamily> {
    let counter = |name: &str, help: &str, value: fn(&reactor::driver::DriverCounters) -> u64| {
        let sum = samples
            .iter()
            .map(|sample| value(&sample.snapshot.driver))
            .sum();
        counters(&format!("io_{name}_total"), help, [(vec![], sum)])
    };
    let unsent: u64 = samples
        .iter()
        .map(|sample| sample.snapshot.driver.bytes_unsent)
        .sum();
    vec![
        counter(
            "enters",
            "System calls that submit and wait (io_uring_enter, epoll_wait).",
            |io| io.enters,
        ),
        counter(
            "accepted",
            "Connections accepted by the kernel for the node.",
            |io| io.accepted,
        ),
        counter(
            "refused",
            "Connections closed at once because io.connections_max was reached.",
            |io| io.refused,
        ),
        counter(
            "accept_errors",
            "Errors of accept(2): descriptor limits and the like.",
            |io| io.accept_errors,
        ),
        counter(
            "receive_buffers_exhausted",
            "Receives that found no free buffer and waited.",
            |io| io.receive_buffers_exhausted,
        ),
        counter(
            "send_shortages",
            "Sends that the kernel had no memory for and that were tried again.",
            |io| io.send_shortages,
        ),
        counter(
            "completion_overflows",
            "Overflows of the completion queue that were survived.",
            |io| io.completion_overflows,
        ),
        counter(
            "promotions",
            "Connections promoted to multishot receive.",
            |io| io.promotions,
        ),
        counter("received_bytes", "Bytes received from clients.", |io| {
            io.bytes_received
        }),
        counter("sent_bytes", "Bytes the kernel took for clients.", |io| {
            io.bytes_sent
        }),
        gauge(
            "io_unsent_bytes",
            "Bytes encoded for clients that the kernel has not taken.",
            unsent as f64,
        ),
    ]
}

fn engine_families(engine: &EngineReport) -> Vec<MetricFamily> {
    let totals = &engine.counters;
    let states = [
        EngineState::Working,
        EngineState::Full,
        EngineState::Failing,
    ];
    let state = ["working", "full", "failing"]
        .into_iter()
        .zip(states)
        .map(|(word, state)| (label("state", word), f64::from(engine.state == state)));
    vec![
        gauges("engine_state", "1 for the state the engine is in.", state),
        counters(
            "engine_commits_total",
            "Batches committed.",
            [(vec![], totals.commits)],
        ),
        counters(
            "engine_failures_total",
            "Commits and syncs that failed.",
            [(vec![], totals.failures)],
        ),
        counters(
            "engine_commands_committed_total",
            "Commands the engine took.",
            [(vec![], totals.commands)],
        ),
        counters(
            "engine_bytes_total",
            "Bytes of messages in them.",
            [(vec![], totals.bytes)],
        ),
        gauge(
            "engine_disk_bytes",
            "Bytes the store takes on its disk.",
            totals.disk_bytes as f64,
        ),
        commit_latency(engine),
    ]
}

fn commit_latency(engine: &EngineReport) -> MetricFamily {
    let mut cumulative = 0;
    let counts = engine.counters.commit_latency;
    let buckets = COMMIT_LATENCY_BOUNDS_US
        .iter()
        .zip(counts)
        .map(|(bound, count)| {
            cumulative += count;
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(*bound as f64 / 1e6);
            bucket.set_cumulative_count(cumulative);
            bucket
        });
    let mut histogram = Histogram::default();
    histogram.set_bucket(buckets.collect());
    histogram.set_sample_count(counts.iter().sum());
    histogram.set_sample_sum(engine.counters.commit_latency_us_sum as f64 / 1e6);
    let mut metric = Metric::default();
    metric.set_histogram(histogram);
    family(
        "engine_commit_seconds",
        "Time a commit takes.",
        MetricType::HISTOGRAM,
        vec![metric],
    )
}

fn per_core(samples: &[CoreSample], value: fn(&CoreSnapshot) -> u64) -> Vec<(Vec<LabelPair>, u64)> {
    samples
        .iter()
        .enumerate()
        .map(|(core, sample)| (core_label(core), value(&sample.snapshot)))
        .collect()
}

fn label(name: &str, value: &str) -> Vec<LabelPair> {
    let mut pair = LabelPair::default();
    pair.set_name(name.into());
    pair.set_value(value.into());
    vec![pair]
}

fn core_label(core: usize) -> Vec<LabelPair> {
    label("core", &core.to_string())
}

fn family(name: &str, help: &str, kind: MetricType, metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(format!("roadstead_{name}"));
    family.set_help(help.into());
    family.set_field_type(kind);
    family.set_metric(metrics);
    family
}

fn gauge(name: &str, help: &str, value: f64) -> MetricFamily {
    gauges(name, help, [(vec![], value)])
}

fn gauges(
    name: &str,
    help: &str,
    series: impl IntoIterator<Item = (Vec<LabelPair>, f64)>,
) -> MetricFamily {
    let metric = |(labels, value)| {
        let mut metric = Metric::from_label(labels);
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        metric.set_gauge(gauge);
        metric
    };
    family(
        name,
        help,
        MetricType::GAUGE,
        series.into_iter().map(metric).collect(),
    )
}

fn counters(
    name: &str,
    help: &str,
    series: impl IntoIterator<Item = (Vec<LabelPair>, u64)>,
) -> MetricFamily {
    let metric = |(labels, value): (_, u64)| {
        let mut metric = Metric::from_label(labels);
        let mut counter = Counter::default();
        counter.set_value(value as f64);
        metric.set_counter(counter);
        metric
    };
    family(
        name,
        help,
        MetricType::COUNTER,
        series.into_iter().map(metric).collect(),
    )
}
