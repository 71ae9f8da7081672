//! Who was not let in, as Prometheus sees it.

use prometheus::proto::MetricFamily;

use super::{CoreSample, counters, label};
use crate::metrics::TurnedAway;

pub(super) fn family(samples: &[CoreSample]) -> MetricFamily {
    let by_reason = TurnedAway::ALL.iter().map(|(reason, word)| {
        let count = samples
            .iter()
            .map(|sample| sample.snapshot.turned_away[*reason as usize])
            .sum();
        (label("reason", word), count)
    });
    counters(
        "turned_away_total",
        "Connections closed, and CONNECTs refused, at a bound of who may come in.",
        by_reason,
    )
}
