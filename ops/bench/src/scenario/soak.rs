//! Churn for hours: sessions end and come back, messages go between those that are there. Whatever grows, grows visibly: the
//! slope of memory, descriptors and latency over time, with its error; and what the server says it has lost without a reason.

use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use edge_proto::packet::QoS;
use serde_json::json;

use super::bench::{Bench, Clients};
use super::compare::Comparison;
use crate::admin;
use crate::arguments::Soak;
use crate::clock;
use crate::figures::Figures;
use crate::generator::{Load, Target, Topics};
use crate::machine::Cores;
use crate::memory;
use crate::server::pause;

/// Parts of the duration that are not counted in slopes: tables and buffers grow to their size. An allocator keeps the most that was
/// ever needed, and chance brings a new most for hours: a core that happens to have more of the sessions, a moment in which the
/// machine stands still. So all of that is had in the first half of this time, and had worse than it comes by itself: half as many
/// messages more, a tenth more sessions, and pauses of the server. What grows after it is not chance; what leaks less in all than
/// that was too much, a megabyte, is not seen.
const WARM_UP: f64 = 0.2;

/// Sessions in the first half of the warm-up, messages in a second, and pauses.
const MORE_SESSIONS: f64 = 1.1;
const MORE_MESSAGES: f64 = 1.5;
const PAUSES: u32 = 3;
const PAUSE: Duration = Duration::from_secs(2);

pub(super) fn run(arguments: &Soak) -> Result<()> {
    let comparison = Comparison {
        name: "soak",
        common: &arguments.common,
        clients: Clients::new(at_first(arguments), Topics::Own, QoS::AtLeastOnce, 128),
        cores: Cores::All,
        limit: false,
        runs: 1,
        settings: json!({
            "sessions": arguments.sessions, "churn_per_s": arguments.churn, "rate": arguments.rate, "qos": 1,
            "seconds": arguments.duration.as_secs_f64(), "sample_s": arguments.sample.as_secs_f64(),
        }),
    };
    comparison.run(|bench, figures| once(arguments, bench, figures))
}

/// Sessions in the first half of the warm-up.
fn at_first(arguments: &Soak) -> u32 {
    (f64::from(arguments.sessions) * MORE_SESSIONS) as u32
}

/// One look.
#[derive(Clone, Copy, Debug)]
struct Sample {
    at_s: f64,
    rss_bytes: f64,
    /// Without the parts of the program file that were read in because they ran for the first time.
    anonymous_bytes: f64,
    descriptors: f64,
    p999_ms: f64,
}

fn once(arguments: &Soak, bench: &Bench, figures: &mut Figures) -> Result<()> {
    let Bench {
        generator, server, ..
    } = bench;
    let sessions = arguments.sessions;
    generator.open(server, 0..at_first(arguments), 0)?;
    figures.count("sessions", u64::from(sessions));
    let (started, before) = (clock::now(), bench.reading());
    let mut random = fastrand::Rng::with_seed(arguments.common.seed);
    warm_up(arguments, bench, started, &mut random)?;
    let rate = f64::from(arguments.rate);
    generator.load(Load::endless(
        Target::Random(0..sessions),
        0..sessions,
        rate,
    ));
    let mut samples = Vec::new();
    let mut sample_at = started + arguments.sample;
    generator.forget();
    while clock::now() < started + arguments.duration {
        churn(arguments, bench, sessions, &mut random)?;
        if clock::now() >= sample_at {
            while sample_at <= clock::now() {
                sample_at += arguments.sample;
            }
            let at_s = (clock::now() - started).as_secs_f64();
            samples.extend(sample(bench, at_s)?);
            generator.forget();
            if let Some(last) = samples.last() {
                eprintln!(
                    "  {at_s:.0} s: {:.3} MB of {:.3} MB, {:.0} descriptors, p99.9 {:.1} ms",
                    last.anonymous_bytes / 1e6,
                    last.rss_bytes / 1e6,
                    last.descriptors,
                    last.p999_ms
                );
            }
        }
    }
    generator.quiet();
    let between = bench.reading().since(&before);
    pause(Duration::from_secs(3))?;
    let counted = between.counted;
    figures.measure("messages_per_s", counted.delivered as f64 / between.seconds);
    figures.measure("churned_per_s", counted.left as f64 / between.seconds);
    between.cpu("message", counted.delivered, "", figures);
    slopes(&samples, arguments.duration.as_secs_f64(), figures);
    if let Some(address) = server.admin {
        account(address, figures)?;
    }
    Ok(())
}

/// More of everything than later, for half of the warm-up; the sessions beyond those that are asked for leave at its end.
fn warm_up(
    arguments: &Soak,
    bench: &Bench,
    started: Instant,
    random: &mut fastrand::Rng,
) -> Result<()> {
    let Bench {
        generator, server, ..
    } = bench;
    let all = at_first(arguments);
    let rate = f64::from(arguments.rate) * MORE_MESSAGES;
    generator.load(Load::endless(Target::Random(0..all), 0..all, rate));
    let span = arguments.duration.mul_f64(WARM_UP / 2.0);
    for number in 1..=PAUSES + 1 {
        while clock::now() < started + span * number / (PAUSES + 1) {
            churn(arguments, bench, all, random)?;
        }
        if number <= PAUSES {
            server.stand_still(PAUSE)?;
        }
    }
    generator.quiet();
    generator.leave(server, arguments.sessions..all)
}

/// A fifth of a second in which some of the first so many sessions end and come back.
fn churn(arguments: &Soak, bench: &Bench, sessions: u32, random: &mut fastrand::Rng) -> Result<()> {
    let next = clock::now() + Duration::from_millis(200);
    let churned = (arguments.churn / 5).clamp(1, sessions);
    let first = random.u32(0..=sessions - churned);
    bench
        .generator
        .leave(&bench.server, first..first + churned)?;
    bench
        .generator
        .open(&bench.server, first..first + churned, 0)?;
    pause(next.saturating_duration_since(clock::now()))
}

fn sample(bench: &Bench, at_s: f64) -> Result<Option<Sample>> {
    let Some(pid) = bench.server.pid else {
        return Ok(None);
    };
    let files = fs::read_dir(format!("/proc/{pid}/fd")).context("the server has ended")?;
    let memory = memory::resident(pid)?;
    Ok(Some(Sample {
        at_s,
        rss_bytes: memory.rss as f64,
        anonymous_bytes: memory.anonymous as f64,
        descriptors: files.count() as f64,
        p999_ms: bench.generator.latencies().message_ms(0.999),
    }))
}

/// Slopes for an hour, each with twice its standard error: 0 within that is no growth that was seen.
fn slopes(samples: &[Sample], seconds: f64, figures: &mut Figures) {
    let counted = samples
        .iter()
        .filter(|sample| sample.at_s >= WARM_UP * seconds);
    let counted: Vec<Sample> = counted.copied().collect();
    type Figure = fn(&Sample) -> f64;
    let wanted: [(&str, Figure); 4] = [
        ("rss_bytes_per_hour", |sample| sample.rss_bytes),
        ("anonymous_bytes_per_hour", |sample| sample.anonymous_bytes),
        ("descriptors_per_hour", |sample| sample.descriptors),
        ("latency_ms_p999_per_hour", |sample| sample.p999_ms),
    ];
    for (name, figure) in wanted {
        let points: Vec<(f64, f64)> = counted
            .iter()
            .map(|sample| (sample.at_s / 3_600.0, figure(sample)))
            .collect();
        if let Some((slope, error)) = slope(&points) {
            figures.measure(name, slope);
            figures.measure(&format!("{name}_error"), 2.0 * error);
        }
    }
    if let Some(last) = counted.last() {
        figures.measure("latency_ms_p999", last.p999_ms);
        figures.measure("descriptors", last.descriptors);
    }
}

/// The slope of points in the order of time, and its standard error: the mean change from one block of them to the next, and how much
/// these changes differ. What is watched moves in steps (the allocator keeps the most that it ever needed), so neighbouring points are not
/// independent, and least squares would think itself far more certain than it is.
fn slope(points: &[(f64, f64)]) -> Option<(f64, f64)> {
    const BLOCKS: usize = 12;
    let length = points.len() / BLOCKS;
    if length == 0 {
        return None;
    }
    let mean = |points: &[(f64, f64)], part: fn(&(f64, f64)) -> f64| {
        points.iter().map(part).sum::<f64>() / points.len() as f64
    };
    let blocks: Vec<(f64, f64)> = points
        .chunks_exact(length)
        .map(|block| (mean(block, |point| point.0), mean(block, |point| point.1)))
        .collect();
    let changes: Vec<(f64, f64)> = blocks
        .windows(2)
        .map(|pair| (0.0, (pair[1].1 - pair[0].1) / (pair[1].0 - pair[0].0)))
        .collect();
    let slope = mean(&changes, |change| change.1);
    let squares: f64 = changes.iter().map(|(_, it)| (it - slope).powi(2)).sum();
    let count = changes.len() as f64;
    Some((slope, (squares / (count - 1.0) / count).sqrt()))
}

/// What our server says of its deliveries: each is accounted for, or it is lost without a reason.
fn account(address: SocketAddr, figures: &mut Figures) -> Result<()> {
    let text = admin::get(address, "/metrics")?;
    for (name, metric) in [
        ("accepted", "roadstead_deliveries_accepted_total"),
        ("dropped_with_reason", "roadstead_deliveries_dropped_total"),
        ("unaccounted", "roadstead_deliveries_unaccounted"),
    ] {
        figures.measure(name, admin::sum(&text, metric));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(figure: impl Fn(f64) -> f64) -> Vec<(f64, f64)> {
        (0..240)
            .map(|number| (f64::from(number) / 240.0, figure(f64::from(number))))
            .collect()
    }

    #[test]
    fn a_steady_growth_is_seen_and_one_step_is_not_taken_for_one() {
        let (slope_of_growth, error) = slope(&points(|at| 100.0 + at)).expect("enough points");
        assert!((slope_of_growth - 240.0).abs() < 1e-6 && error < 1e-6);
        let step = |at| if at < 130.0 { 100.0 } else { 101.0 };
        let (slope_of_step, error) = slope(&points(step)).expect("enough points");
        assert!(slope_of_step > 0.0 && slope_of_step < 2.0 * error);
        assert_eq!(slope(&points(step)[..11]), None);
    }
}
