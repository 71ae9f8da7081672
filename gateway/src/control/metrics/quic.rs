//! Metrics of the QUIC listeners. Without one there are none of these.

use prometheus::proto::MetricFamily;

use super::{CoreSample, counters, gauge, label};
use crate::quic::Stats;
use crate::tls::Reason;

/// Every family of the QUIC layer.
pub(super) fn families(samples: &[CoreSample]) -> Vec<MetricFamily> {
    let stats: Vec<&Stats> = samples
        .iter()
        .filter_map(|sample| sample.snapshot.quic.as_ref())
        .collect();
    if stats.is_empty() {
        return Vec::new();
    }
    let sum = |value| sum(&stats, value);
    let failed = Reason::ALL.iter().map(|reason| {
        let total = stats.iter().map(|stats| stats.failed(*reason)).sum();
        (label("reason", reason.label()), total)
    });
    let full = sum(|quic| quic.handshakes_full);
    let resumed = sum(|quic| quic.handshakes_resumed);
    let mut families = vec![
        counters(
            "quic_handshakes_total",
            "QUIC handshakes completed: full ones, and those resumed from a ticket.",
            [
                (label("kind", "full"), full),
                (label("kind", "resumed"), resumed),
            ],
        ),
        counters(
            "quic_handshakes_failed_total",
            "QUIC handshakes that failed.",
            failed,
        ),
    ];
    let plain = COUNTERS.iter();
    families.extend(plain.map(|(name, help, value)| counters(name, help, [(vec![], sum(*value))])));
    families.extend(gauges(&stats));
    families
}

type Counter = (&'static str, &'static str, fn(&Stats) -> u64);

/// Name, help and value of the counters without labels.
const COUNTERS: &[Counter] = &[
    (
        "quic_connections_refused_total",
        "QUIC clients refused because quic.connections_max or quic.handshakes_max was reached.",
        |quic| quic.refused,
    ),
    (
        "quic_retries_total",
        "QUIC clients that had to prove their address first, because more handshakes than quic.retry_above were in progress.",
        |quic| quic.retried,
    ),
    (
        "quic_migrations_total",
        "Packets that made a QUIC connection go on at another address, whether that was proved later or not; going back to the former one by itself is not counted.",
        |quic| quic.migrations,
    ),
    (
        "quic_elsewhere_dropped_total",
        "QUIC datagrams dropped because they came from another address than the current one of their connection, too often or from a banned one.",
        |quic| quic.elsewhere_dropped,
    ),
    (
        "quic_data_streams_total",
        "Data streams opened: streams of QUIC connections beside the one that they began with.",
        |quic| quic.data_streams_opened,
    ),
    (
        "quic_streams_refused_total",
        "Streams refused because their QUIC connection had one already and quic.data_streams_max is 0.",
        |quic| quic.streams_refused,
    ),
    (
        "quic_timeouts_total",
        "QUIC connections that ended because the client was silent for longer than it had announced.",
        |quic| quic.timed_out,
    ),
    (
        "quic_violations_total",
        "QUIC connections that ended because the client broke a rule of QUIC.",
        |quic| quic.violations,
    ),
    (
        "quic_stateless_resets_total",
        "Stateless resets sent, for packets of connections that this node does not know any more.",
        |quic| quic.resets_sent,
    ),
    (
        "quic_strays_total",
        "QUIC datagrams that came to the wrong core and were handed over.",
        |quic| quic.strays,
    ),
];

fn gauges(stats: &[&Stats]) -> Vec<MetricFamily> {
    let sum = |value| sum(stats, value);
    vec![
        gauge(
            "quic_connections",
            "QUIC connections, with those that are closing.",
            sum(|quic| quic.connections) as f64,
        ),
        gauge(
            "quic_handshakes_in_progress",
            "QUIC handshakes that are not complete.",
            sum(|quic| quic.handshakes_in_progress) as f64,
        ),
        gauge(
            "quic_handshakes_waiting",
            "QUIC clients that wait for a turn with room for their handshake: above 0 for long is a storm.",
            sum(|quic| quic.handshakes_waiting) as f64,
        ),
        gauge(
            "quic_unsent_bytes",
            "Bytes that wait for QUIC clients to take them, beyond their send windows.",
            sum(|quic| quic.unsent_bytes) as f64,
        ),
    ]
}

fn sum(stats: &[&Stats], value: fn(&Stats) -> u64) -> u64 {
    stats.iter().map(|stats| value(stats)).sum()
}
