//! Metrics of a node of a cluster. Without one there are none of these.

use std::collections::BTreeMap;

use cluster::hello::Refusal;
use prometheus::proto::MetricFamily;

use super::{CoreSample, counters, gauge, gauges, label};
use crate::bus::stats::BusStats;
use crate::control::cluster::status::{ClusterStatus, Phase};
use crate::metrics::HandoverSample;

/// Every family of the cluster.
pub(super) fn families(
    samples: &[CoreSample],
    status: Option<&ClusterStatus>,
) -> Vec<MetricFamily> {
    let Some(status) = status else {
        return Vec::new();
    };
    let report = status.report();
    let by_reason = |counts: &BTreeMap<&'static str, u64>| -> Vec<_> {
        let series = counts
            .iter()
            .map(|(reason, count)| (label("reason", reason), *count));
        series.collect()
    };
    // Each reason is there from the start, so that its first time shows as an increase.
    let reasons = Refusal::ALL.iter().map(|refusal| refusal.name());
    let others = [
        "rules_of_views",
        "duplicate_uid",
        "too_many_nodes",
        "no_control_link",
    ];
    let mut refused: BTreeMap<&'static str, u64> =
        reasons.chain(others).map(|name| (name, 0)).collect();
    for (reason, count) in &report.nodes_refused {
        *refused.entry(reason).or_default() += count;
    }
    let buses = || {
        samples
            .iter()
            .filter_map(|sample| sample.snapshot.bus.as_ref())
    };
    for refusal in Refusal::ALL {
        let on_bus: u64 = buses().map(|(bus, _)| bus.refused_for(refusal)).sum();
        *refused.entry(refusal.name()).or_default() += on_bus;
    }
    let mut families = vec![
        gauge(
            "view_epoch",
            "Number of the view that holds on this node; 0 when there is none.",
            report.epoch as f64,
        ),
        gauge(
            "view_members",
            "Members of this view.",
            report.members as f64,
        ),
        gauge(
            "fenced",
            "1 while this node owns nothing and serves nobody, because it is not in the view or is cut off.",
            f64::from(report.standing == "fenced"),
        ),
        gauge(
            "draining",
            "1 from when this node was asked to leave.",
            f64::from(report.draining != Phase::No),
        ),
        counters(
            "gossip_refused_total",
            "Datagrams of gossip that were refused.",
            by_reason(&report.gossip_refused),
        ),
        counters(
            "nodes_refused_total",
            "Times that another node was refused, or refused this one: on a control link, on the bus or as a member.",
            by_reason(&refused),
        ),
    ];
    families.extend(handover_families(samples));
    families.extend(bus_families(samples));
    families
}

fn handover_families(samples: &[CoreSample]) -> Vec<MetricFamily> {
    let cores = || samples.iter().filter_map(|core| core.snapshot.handover);
    let sum = |value: fn(HandoverSample) -> u64| cores().map(value).sum::<u64>() as f64;
    let age_ms = cores().map(|core| core.age_ms).max().unwrap_or_default();
    vec![
        gauges(
            "partitions",
            "Partitions of this node: served (ready), not served yet (syncing), or served without having heard from every member (degraded).",
            [
                (label("state", "ready"), sum(|core| core.ready)),
                (label("state", "syncing"), sum(|core| core.syncing)),
                (label("state", "degraded"), sum(|core| core.degraded)),
            ],
        ),
        gauge(
            "handover_seconds",
            "Age of the oldest hand-over that has not ended; 0 when there is none.",
            age_ms as f64 / 1e3,
        ),
    ]
}

fn bus_families(samples: &[CoreSample]) -> Vec<MetricFamily> {
    let buses = || {
        samples
            .iter()
            .filter_map(|sample| sample.snapshot.bus.as_ref())
    };
    let sum = |value: fn(&BusStats) -> u64| buses().map(|(bus, _)| value(bus)).sum::<u64>();
    let mut dropped: BTreeMap<&'static str, u64> = BTreeMap::new();
    for (reason, count) in buses().flat_map(|(_, dropped)| dropped.iter()) {
        *dropped.entry(reason).or_default() += count;
    }
    let dropped = dropped
        .into_iter()
        .map(|(reason, count)| (label("reason", reason), count));
    vec![
        gauges(
            "bus_links",
            "Links to other members: up, or down, which passes within seconds.",
            [
                (label("state", "up"), sum(|bus| bus.links_up) as f64),
                (label("state", "down"), sum(|bus| bus.links_down) as f64),
            ],
        ),
        counters(
            "bus_sent_bytes_total",
            "Bytes sent to other nodes over the bus.",
            [(vec![], sum(|bus| bus.sent_bytes))],
        ),
        counters(
            "bus_received_bytes_total",
            "Bytes received from other nodes over the bus.",
            [(vec![], sum(|bus| bus.received_bytes))],
        ),
        counters(
            "bus_dropped_total",
            "Messages between nodes that were dropped.",
            dropped,
        ),
        gauge(
            "bus_unacknowledged_bytes",
            "Bytes that wait in links, to be written or to be acknowledged by the other node.",
            sum(|bus| bus.queued_bytes) as f64,
        ),
    ]
}
