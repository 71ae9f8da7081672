//! Metrics of who connects, as far as it is decided outside the cores.

use prometheus::proto::MetricFamily;

use super::{counters, gauge, gauges, label};
use crate::control::access::{Access, Asked, Said};

/// Every family of the access side.
pub(super) fn families(access: &Access) -> Vec<MetricFamily> {
    let (report, stats) = (access.report(), access.stats());
    let [questions, refused, cache_hits] = stats.totals();
    let answers = Asked::ALL.iter().flat_map(|(asked, method)| {
        Said::ALL.iter().map(move |(said, result)| {
            let labels = [label("method", method), label("result", result)].concat();
            (labels, stats.answers(*asked, *said))
        })
    });
    let age = report
        .token_keys_age_ms
        .map(|age| (vec![], age as f64 / 1e3));
    vec![
        counters(
            "access_questions_total",
            "Questions about clients that the cores asked the control thread.",
            [(vec![], questions)],
        ),
        counters(
            "access_questions_refused_total",
            "Questions that were refused because too many waited, or waited for too long.",
            [(vec![], refused)],
        ),
        gauge(
            "access_questions_waiting",
            "Questions that have no answer yet.",
            report.waiting as f64,
        ),
        counters(
            "access_answers_total",
            "What the methods that are asked outside the cores said about clients: unavailable is a service or its keys out of reach.",
            answers,
        ),
        counters(
            "access_cache_hits_total",
            "Answers of the HTTP service that were still known.",
            [(vec![], cache_hits)],
        ),
        gauge(
            "access_policy_generation",
            "Counts the policies since the start: it grows with each reload, change of keys and ban.",
            report.generation as f64,
        ),
        gauge(
            "access_files_good",
            "1 when the access files were good when they were read last, 0 when older ones are in use.",
            f64::from(report.files_good),
        ),
        gauge(
            "access_token_keys",
            "Keys that tokens are checked with.",
            report.token_keys as f64,
        ),
        gauges(
            "access_token_keys_age_seconds",
            "Time since keys were last fetched from token.jwks_url, or since the start where that never worked.",
            age,
        ),
        gauge("access_bans", "Bans.", report.bans as f64),
    ]
}
