//! Metrics of the TLS listeners. Without one there are none of these.

use prometheus::proto::MetricFamily;

use super::{CoreSample, counters, gauge, gauges, label};
use crate::tls::{Reason, ServerCertificate, Stats};

/// Every family of the TLS layer.
pub(super) fn families(
    samples: &[CoreSample],
    certificates: &[ServerCertificate],
) -> Vec<MetricFamily> {
    let stats: Vec<&Stats> = samples
        .iter()
        .filter_map(|sample| sample.snapshot.tls.as_ref())
        .collect();
    if stats.is_empty() {
        return Vec::new();
    }
    let sum = |value: fn(&Stats) -> u64| stats.iter().map(|stats| value(stats)).sum::<u64>();
    let by_reason = |value: fn(&Stats, Reason) -> u64| -> Vec<_> {
        let series = |reason: &Reason| {
            let total = stats.iter().map(|stats| value(stats, *reason)).sum();
            (label("reason", reason.label()), total)
        };
        Reason::ALL.iter().map(series).collect()
    };
    let expiry = certificates.iter().map(|certificate| {
        let labels = label("file", &certificate.file);
        (labels, certificate.not_after_unix_s as f64)
    });
    vec![
        counters(
            "tls_handshakes_total",
            "TLS handshakes completed: full ones, and those resumed from a ticket.",
            [
                (label("kind", "full"), sum(|tls| tls.handshakes_full)),
                (label("kind", "resumed"), sum(|tls| tls.handshakes_resumed)),
            ],
        ),
        counters(
            "tls_handshakes_failed_total",
            "TLS handshakes that failed.",
            by_reason(Stats::failed),
        ),
        counters(
            "tls_sessions_failed_total",
            "TLS sessions that failed after their handshake.",
            by_reason(Stats::broken),
        ),
        counters(
            "tls_handshakes_refused_total",
            "Connections closed at once because tls.handshakes_max was reached.",
            [(vec![], sum(|tls| tls.handshakes_refused))],
        ),
        gauge(
            "tls_handshakes_in_progress",
            "TLS handshakes that are not complete.",
            sum(|tls| tls.handshakes_in_progress) as f64,
        ),
        gauge(
            "tls_handshakes_waiting",
            "TLS handshakes that wait for a turn with room for them: above 0 for long is a storm.",
            sum(|tls| tls.handshakes_waiting) as f64,
        ),
        gauge(
            "tls_partial_bytes",
            "Bytes of incomplete TLS records and handshakes.",
            sum(|tls| tls.partial_bytes + tls.handshake_bytes) as f64,
        ),
        gauges(
            "tls_certificate_not_after_seconds",
            "When the certificate in the file ends, in seconds of Unix time.",
            expiry,
        ),
    ]
}
