//! Who was not let in, and how many may come in, as Prometheus sees it.

use prometheus::proto::MetricFamily;

use super::{CoreSample, core_label, counters, gauges, label};
use crate::event_loop::NewcomersSample;
use crate::metrics::TurnedAway;

pub(super) fn families(samples: &[CoreSample]) -> Vec<MetricFamily> {
    let by_reason = TurnedAway::ALL.iter().map(|(reason, word)| {
        let count = samples
            .iter()
            .map(|sample| sample.snapshot.turned_away[*reason as usize])
            .sum();
        (label("reason", word), count)
    });
    let per_core = |value: fn(&NewcomersSample) -> f64| {
        let cores = samples.iter().enumerate();
        cores.map(move |(core, sample)| (core_label(core), value(&sample.snapshot.newcomers)))
    };
    vec![
        counters(
            "turned_away_total",
            "Connections closed, and CONNECTs refused, at a bound of who may come in.",
            by_reason,
        ),
        gauges(
            "accept_backlog",
            "Connections that waited in the kernel to be accepted, when the core looked last.",
            per_core(|newcomers| f64::from(newcomers.waiting)),
        ),
        gauges(
            "accepts_per_turn_max",
            "Connections of one listener that the core accepts in one turn at most; fewer while turns are long.",
            per_core(|newcomers| f64::from(newcomers.accepts_max)),
        ),
        gauges(
            "handshake_flights_per_turn_max",
            "Flights of TLS handshakes that the core processes in one turn at most; fewer while turns are long.",
            per_core(|newcomers| f64::from(newcomers.flights_max)),
        ),
        gauges(
            "accept_backlog_max",
            "Connections that may wait in the kernel at each listener of the core; fewer while far more want in than can be taken.",
            per_core(|newcomers| f64::from(newcomers.waiting_max)),
        ),
        gauges(
            "pressed",
            "1 while far more clients want in than can be taken, so that most strangers are told to come later (0x9F).",
            per_core(|newcomers| f64::from(newcomers.pressed)),
        ),
    ]
}
