//! What a comparison printed and kept: a table for people, one JSON object for machines, one row in a file for each run, one
//! chart.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::{Map, Value, json};

use crate::chart;
use crate::clock;
use crate::figures::{Figures, Spread, number};
use crate::machine;
use crate::subject::Subject;

/// Figures that every server's object has, `null` where the scenario does not measure them.
const FIELDS: [&str; 12] = [
    "sessions",
    "user_bytes_per_session",
    "kernel_bytes_per_session",
    "disconnects",
    "messages_per_s",
    "requests_per_s",
    "cpu_us_per_message",
    "latency_ms_p50",
    "latency_ms_p99",
    "latency_ms_p999",
    "rss_bytes",
    "left_out",
];

/// One subject's figure divided by another's.
struct Ratio {
    name: &'static str,
    scenario: &'static str,
    /// True exactly when it is of QoS 1 only.
    qos1: bool,
    figure: &'static str,
    above: &'static str,
    below: &'static str,
}

const fn ratio(
    name: &'static str,
    scenario: &'static str,
    figure: &'static str,
    above: &'static str,
    below: &'static str,
) -> Ratio {
    Ratio {
        name,
        scenario,
        qos1: false,
        figure,
        above,
        below,
    }
}

/// Of a cluster to a node.
const fn of_nodes(name: &'static str, figure: &'static str) -> Ratio {
    ratio(name, "cluster", figure, "three_nodes", "one_node")
}

/// CPU of a thing, as most ratios compare it.
const CPU: &str = "cpu_us_per_message";

/// A line each. Messages per core are what a second of CPU is enough for, the inverse of the CPU of each.
const RATIOS: [Ratio; 23] = [
    of_nodes("cpu_per_message_three_nodes_vs_one", CPU),
    of_nodes(
        "cpu_per_message_three_nodes_vs_one_p2p_qos0",
        "cpu_us_per_message_p2p_qos0",
    ),
    of_nodes(
        "cpu_per_message_three_nodes_vs_one_p2p_qos1",
        "cpu_us_per_message_p2p_qos1",
    ),
    of_nodes(
        "cpu_per_message_three_nodes_vs_one_fanout",
        "cpu_us_per_message_fanout",
    ),
    of_nodes(
        "cpu_per_message_three_nodes_vs_one_p2p_qos0_at_50",
        "cpu_us_per_message_p2p_qos0_at_50",
    ),
    of_nodes(
        "cpu_per_message_three_nodes_vs_one_p2p_qos1_at_50",
        "cpu_us_per_message_p2p_qos1_at_50",
    ),
    of_nodes(
        "cpu_per_message_three_nodes_vs_one_fanout_at_50",
        "cpu_us_per_message_fanout_at_50",
    ),
    ratio("cpu_per_message_vs_limit", "p2p", CPU, "roadstead", "limit"),
    ratio("cpu_per_ping_vs_limit", "ping", CPU, "roadstead", "limit"),
    ratio(
        "cpu_per_ping_at_pace_vs_limit",
        "ping",
        "cpu_us_per_ping_at_pace",
        "roadstead",
        "limit",
    ),
    ratio(
        "cpu_per_message_vs_limit_at_90",
        "p2p",
        "cpu_us_per_message_at_90",
        "roadstead",
        "limit",
    ),
    ratio(
        "cpu_per_message_vs_limit_at_50",
        "p2p",
        "cpu_us_per_message_at_50",
        "roadstead",
        "limit",
    ),
    Ratio {
        qos1: true,
        ..ratio(
            "qos1_messages_per_core_vs_mosquitto",
            "p2p",
            CPU,
            "mosquitto",
            "roadstead",
        )
    },
    ratio(
        "latency_p99_vs_mosquitto",
        "p2p",
        "latency_ms_p99",
        "roadstead",
        "mosquitto",
    ),
    ratio(
        "cpu_per_message_ejabberd_vs_roadstead",
        "p2p",
        CPU,
        "ejabberd",
        "roadstead",
    ),
    ratio(
        "deliveries_per_core_vs_mosquitto",
        "fanout",
        CPU,
        "mosquitto",
        "roadstead",
    ),
    ratio(
        "stored_per_s_vs_mosquitto",
        "durable",
        "messages_per_s",
        "roadstead",
        "mosquitto",
    ),
    ratio(
        "bytes_per_user_ejabberd_vs_roadstead",
        "density",
        "user_bytes_per_session",
        "ejabberd",
        "roadstead",
    ),
    ratio(
        "cpu_per_message_vs_monoio",
        "reactor",
        CPU,
        "roadstead",
        "monoio",
    ),
    ratio(
        "cpu_per_message_vs_tokio_uring",
        "reactor",
        CPU,
        "roadstead",
        "tokio_uring",
    ),
    ratio(
        "cpu_per_message_epoll_vs_io_uring",
        "reactor",
        CPU,
        "reactor_epoll",
        "roadstead",
    ),
    ratio(
        "idle_bytes_vs_monoio",
        "reactor",
        "idle_bytes_per_connection",
        "roadstead",
        "monoio",
    ),
    ratio(
        "idle_bytes_vs_tokio_uring",
        "reactor",
        "idle_bytes_per_connection",
        "roadstead",
        "tokio_uring",
    ),
];

/// One server's runs.
#[derive(Debug)]
pub(crate) struct Column {
    pub(crate) subject: Subject,
    /// What it says of itself.
    pub(crate) version: String,
    pub(crate) runs: Vec<Figures>,
    /// Why it has no runs, or fewer than the others.
    pub(crate) obstacle: Option<String>,
}

/// A scenario, and everybody who was measured in it.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) scenario: &'static str,
    pub(crate) settings: Value,
    pub(crate) columns: Vec<Column>,
}

impl Column {
    /// Names of all figures, in the order of the first run that has them.
    pub(crate) fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for name in self.runs.iter().flat_map(Figures::names) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }

    /// A figure over all runs.
    pub(crate) fn spread(&self, name: &str) -> Option<Spread> {
        Spread::of_figure(&self.runs, name)
    }

    fn object(&self) -> Value {
        let mut object = Map::new();
        if let Some(obstacle) = &self.obstacle {
            object.insert("not_measured".to_owned(), json!(obstacle));
        }
        if self.runs.is_empty() {
            return object.into();
        }
        object.insert("version".to_owned(), json!(self.version));
        for name in FIELDS {
            object.insert(name.to_owned(), Value::Null);
        }
        for name in self.names() {
            if let Some(spread) = self.spread(name) {
                object.insert(name.to_owned(), number(spread.median));
                object.insert(format!("{name}_range"), spread.range());
            }
        }
        if let Some(last) = self.runs.last() {
            object.extend(last.details().clone());
        }
        object.into()
    }
}

impl Report {
    fn column(&self, name: &str) -> Option<&Column> {
        self.columns
            .iter()
            .find(|column| column.subject.name() == name && !column.runs.is_empty())
    }

    /// The one JSON object.
    pub(crate) fn object(&self) -> Value {
        let mut object = Map::new();
        let mut rivals = Map::new();
        object.insert("scenario".to_owned(), json!(self.scenario));
        for column in &self.columns {
            match column.subject {
                Subject::Rival(_) | Subject::Baseline(_) => {
                    rivals.insert(column.subject.name().to_owned(), column.object())
                }
                _ => object.insert(column.subject.name().to_owned(), column.object()),
            };
        }
        object.insert("rivals".to_owned(), rivals.into());
        object.entry("limit").or_insert_with(|| json!({}));
        let mut ratios = Map::new();
        for (name, spread) in self.ratios() {
            ratios.insert(name.to_owned(), number(spread.median));
            ratios.insert(format!("{name}_range"), spread.range());
        }
        object.insert("ratios".to_owned(), ratios.into());
        object.insert("settings".to_owned(), self.settings.clone());
        object.into()
    }

    /// Ratios of what was measured in the same run, one after the other.
    fn ratios(&self) -> Vec<(&'static str, Spread)> {
        let qos1 = self.settings.get("qos").and_then(Value::as_u64) == Some(1);
        let wanted = RATIOS
            .iter()
            .filter(|ratio| ratio.scenario == self.scenario && (qos1 || !ratio.qos1));
        wanted
            .filter_map(|ratio| {
                let spread = self.ratio(ratio.figure, ratio.above, ratio.below)?;
                Some((ratio.name, spread))
            })
            .collect()
    }

    fn ratio(&self, figure: &str, above: &str, below: &str) -> Option<Spread> {
        let (above, below) = (self.column(above)?, self.column(below)?);
        Spread::of(above.runs.iter().filter_map(|above| {
            let below = below.runs.iter().find(|below| below.run == above.run)?;
            let below = below.value(figure).filter(|below| *below > 0.0)?;
            Some(above.value(figure)? / below)
        }))
    }

    /// Keeps the row of one run.
    pub(crate) fn keep(&self, record: bool, column: &Column) -> Result<()> {
        let Some(figures) = column.runs.last() else {
            return Ok(());
        };
        let row = json!({
            "at_unix_s": clock::unix_s(),
            "scenario": self.scenario,
            "subject": column.subject.name(),
            "version": column.version,
            "run": figures.run,
            "machine": machine::description(),
            "settings": self.settings,
            "figures": figures.object(),
        });
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("results");
        append(&folder, "local", &row)?;
        if record {
            append(&folder, self.scenario, &row)?;
        }
        Ok(())
    }

    /// Prints the table and, if asked for, the JSON object as the last line; draws the chart.
    pub(crate) fn finish(&self, json: bool) -> Result<()> {
        let mut text = self.table();
        match chart::write(self) {
            Ok(path) => text.push_str(&format!("chart: {}\n", path.display())),
            Err(error) => eprintln!("no chart: {error:#}"),
        }
        if json {
            text.push_str(&format!("{}\n", self.object()));
        }
        let mut out = std::io::stdout().lock();
        out.write_all(text.as_bytes())
            .and_then(|()| out.flush())
            .context("cannot print")
    }

    fn table(&self) -> String {
        let measured: Vec<&Column> = self
            .columns
            .iter()
            .filter(|column| !column.runs.is_empty())
            .collect();
        let mut names: Vec<&str> = Vec::new();
        for name in measured.iter().flat_map(|column| column.names()) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        let mut rows = vec![
            std::iter::once(String::new())
                .chain(
                    measured
                        .iter()
                        .map(|column| column.subject.name().to_owned()),
                )
                .collect::<Vec<_>>(),
        ];
        for name in names {
            let cell = |column: &&Column| {
                column
                    .spread(name)
                    .map_or_else(String::new, |spread| spread.text())
            };
            let cells = measured.iter().map(cell);
            rows.push(std::iter::once(name.to_owned()).chain(cells).collect());
        }
        for (name, spread) in self.ratios() {
            rows.push(vec![name.to_owned(), spread.text()]);
        }
        let runs = measured.iter().map(|column| column.runs.len()).max();
        let mut text = format!(
            "{}: median of {} (least–most)\n{}",
            self.scenario,
            match runs {
                Some(1) | None => "1 run".to_owned(),
                Some(runs) => format!("{runs} runs"),
            },
            aligned(&rows)
        );
        for column in &self.columns {
            let name = column.subject.name();
            if !column.runs.is_empty() {
                text.push_str(&format!("{name}: {}\n", column.version));
            }
            if let Some(obstacle) = &column.obstacle {
                let how = if column.runs.is_empty() {
                    "not measured"
                } else {
                    "not in every run"
                };
                text.push_str(&format!("{name} {how}: {obstacle}\n"));
            }
            for (what, note) in column.runs.last().into_iter().flat_map(Figures::notes) {
                text.push_str(&format!("{name} {what}: {note}\n"));
            }
        }
        text
    }
}

/// Rows of cells with columns of equal width.
fn aligned(rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..rows.iter().map(Vec::len).max().unwrap_or(0))
        .map(width)
        .collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!("  {cell:width$}"));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn append(folder: &Path, name: &str, row: &Value) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let path = folder.join(format!("{name}.jsonl"));
    let file = OpenOptions::new().create(true).append(true).open(&path);
    file.and_then(|mut file| writeln!(file, "{row}"))
        .with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arguments::RivalName;
    use crate::rival::Rival;

    fn column(subject: Subject, cpu: &[f64]) -> Column {
        let figures = |(place, cpu): (usize, &f64)| {
            let mut figures = Figures::default();
            figures.run = place as u32 + 1;
            figures.count("sessions", 200);
            figures.measure("cpu_us_per_message", *cpu);
            figures
        };
        Column {
            subject,
            version: "1".to_owned(),
            runs: cpu.iter().enumerate().map(figures).collect(),
            obstacle: None,
        }
    }

    #[test]
    fn the_object_has_its_fixed_names() {
        let mosquitto = Subject::Rival(Rival::of(RivalName::Mosquitto));
        let mut nats = column(Subject::Rival(Rival::of(RivalName::Nats)), &[]);
        nats.obstacle = Some("it has no QoS 2".to_owned());
        let report = Report {
            scenario: "p2p",
            settings: json!({ "qos": 1 }),
            columns: vec![
                column(Subject::Roadstead, &[4.0, 5.0, 6.0]),
                column(Subject::Limit, &[2.0, 2.0, 4.0]),
                column(mosquitto, &[8.0, 20.0, 12.0]),
                nats,
            ],
        };
        let object = report.object();
        let roadstead = &object["roadstead"];
        assert_eq!(roadstead["cpu_us_per_message"], json!(5));
        assert_eq!(roadstead["cpu_us_per_message_range"], json!([4, 6]));
        assert_eq!(roadstead["latency_ms_p99"], Value::Null);
        assert_eq!(object["rivals"]["mosquitto"]["sessions"], json!(200));
        assert_eq!(
            object["rivals"]["nats"]["not_measured"],
            json!("it has no QoS 2")
        );
        assert_eq!(object["ratios"]["cpu_per_message_vs_limit"], json!(2));
        let ratio = "qos1_messages_per_core_vs_mosquitto";
        assert_eq!(object["ratios"][ratio], json!(2));
        assert_eq!(object["ratios"][format!("{ratio}_range")], json!([2, 4]));
        assert!(report.table().contains("5 (4–6)"), "{}", report.table());
    }

    #[test]
    fn three_nodes_are_held_against_one_run_by_run() {
        let report = Report {
            scenario: "cluster",
            settings: json!({}),
            columns: vec![
                column(Subject::ThreeNodes, &[3.0, 6.0, 4.0]),
                column(Subject::OneNode, &[2.0, 3.0, 4.0]),
            ],
        };
        let object = report.object();
        assert_eq!(object["three_nodes"]["cpu_us_per_message"], json!(4));
        assert_eq!(object["one_node"]["cpu_us_per_message"], json!(3));
        let ratio = "cpu_per_message_three_nodes_vs_one";
        assert_eq!(object["ratios"][ratio], json!(1.5));
        assert_eq!(object["ratios"][format!("{ratio}_range")], json!([1, 2]));
    }

    #[test]
    fn a_given_server_is_not_called_roadstead() {
        let report = Report {
            scenario: "connect",
            settings: json!({}),
            columns: vec![column(Subject::Given, &[1.0])],
        };
        let object = report.object();
        assert!(object.get("roadstead").is_none() && object["server"].is_object());
    }
}
