//! A chart of a comparison: one panel per figure, one bar per server, the range over the runs as a line through its end.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::figures::{Spread, written};
use crate::report::{Column, Report};
use crate::server::root;

/// Figures that are drawn, in this order, where a scenario has them.
const DRAWN: [&str; 19] = [
    "cpu_us_per_message",
    "cpu_us_per_message_p2p_qos0",
    "cpu_us_per_message_p2p_qos1",
    "cpu_us_per_message_fanout",
    "cpu_us_per_ping",
    "cpu_us_per_ping_at_pace",
    "cpu_us_per_connect",
    "messages_per_s",
    "requests_per_s",
    "connects_per_s",
    "deliveries_per_s",
    "latency_ms_p50",
    "latency_ms_p99",
    "latency_ms_p999",
    "last_ms",
    "user_bytes_per_session",
    "kernel_bytes_per_session",
    "idle_bytes_per_connection",
    "rss_bytes",
];

const WIDTH: f64 = 720.0;
const LABELS: f64 = 110.0;
const NUMBERS: f64 = 190.0;
const BAR: f64 = 18.0;
const GAP: f64 = 6.0;

/// Writes `bench/SCENARIO.svg` in the build folder.
pub(crate) fn write(report: &Report) -> Result<PathBuf> {
    let target = match std::env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => root().join(folder),
        None => root().join("target"),
    };
    let folder = target.join("bench");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let path = folder
        .canonicalize()?
        .join(format!("{}.svg", report.scenario));
    fs::write(&path, draw(report)).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

fn draw(report: &Report) -> String {
    let mut body = String::new();
    let mut top = 44.0;
    for figure in DRAWN {
        let bars: Vec<(&Column, Spread)> = report
            .columns
            .iter()
            .filter_map(|column| Some((column, column.spread(figure)?)))
            .collect();
        if !bars.is_empty() {
            top = panel(&mut body, figure, &bars, top);
        }
    }
    let settings = escaped(&report.settings.to_string());
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height:.0}\" \
         font-family=\"sans-serif\" font-size=\"13\">\n<title>{scenario} {settings}</title>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"12\" y=\"24\" font-size=\"17\">{scenario}</text>\n{body}</svg>\n",
        height = top + 8.0,
        scenario = report.scenario,
    )
}

/// Draws one figure from `top` down and returns where the next one begins.
fn panel(body: &mut String, figure: &str, bars: &[(&Column, Spread)], top: f64) -> f64 {
    let most = bars
        .iter()
        .map(|(_, spread)| spread.most)
        .fold(0.0, f64::max);
    let scale = (WIDTH - LABELS - NUMBERS) / most.max(f64::MIN_POSITIVE);
    // Writing to a text does not fail.
    let _ = writeln!(
        body,
        "<text x=\"12\" y=\"{:.0}\" font-weight=\"bold\">{figure}</text>",
        top + 12.0
    );
    let mut y = top + 20.0;
    for (column, spread) in bars {
        let (name, middle) = (column.subject.name(), y + BAR / 2.0);
        let colour = match name {
            "roadstead" | "three_nodes" => "#1f6f8b",
            "limit" => "#99a8b2",
            _ => "#c58940",
        };
        let x = |value: f64| LABELS + value.max(0.0) * scale;
        let _ = writeln!(
            body,
            "<text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\">{}</text>\
             <rect x=\"{LABELS}\" y=\"{y:.0}\" width=\"{:.1}\" height=\"{BAR}\" fill=\"{colour}\"/>\
             <line x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{middle:.0}\" y2=\"{middle:.0}\" stroke=\"black\"/>\
             <text x=\"{:.1}\" y=\"{:.0}\">{}</text>",
            LABELS - 6.0,
            middle + 4.0,
            escaped(name),
            x(spread.median) - LABELS,
            x(spread.least),
            x(spread.most),
            x(spread.most) + 6.0,
            middle + 4.0,
            written(spread.median),
        );
        y += BAR + GAP;
    }
    y + 12.0
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::Figures;
    use crate::subject::Subject;

    #[test]
    fn a_chart_has_a_bar_for_each_server() {
        let mut figures = Figures::default();
        figures.measure("cpu_us_per_message", 4.5);
        let column = |subject| Column {
            subject,
            version: String::new(),
            runs: vec![figures.clone()],
            obstacle: None,
        };
        let report = Report {
            scenario: "p2p",
            settings: serde_json::json!({ "set": ["a<b"] }),
            columns: vec![column(Subject::Roadstead), column(Subject::Limit)],
        };
        let text = draw(&report);
        assert_eq!(text.matches("<rect x=").count(), 2);
        assert!(text.contains("4.50") && text.contains("a&lt;b") && !text.contains("a<b"));
    }
}
