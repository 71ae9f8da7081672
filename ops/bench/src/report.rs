//! What a run printed and kept: a table for people, one JSON object for machines, one row in a file.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::{Map, Value, json};

use crate::arguments::Common;
use crate::clock;
use crate::machine;
use crate::server::Server;

/// The results of a run, in the order in which they are printed.
#[derive(Debug)]
pub(crate) struct Report {
    scenario: &'static str,
    fields: Map<String, Value>,
    lines: Vec<(String, String)>,
}

impl Report {
    /// An empty report.
    pub(crate) fn new(scenario: &'static str) -> Self {
        Self {
            scenario,
            fields: Map::new(),
            lines: Vec::new(),
        }
    }

    /// A whole number.
    pub(crate) fn count(&mut self, name: &str, value: u64) {
        self.lines.push((name.to_owned(), grouped(value)));
        self.fields.insert(name.to_owned(), json!(value));
    }

    /// A measured number, kept to three digits behind the point.
    pub(crate) fn measure(&mut self, name: &str, value: f64) {
        let value = (value * 1_000.0).round() / 1_000.0;
        self.lines.push((name.to_owned(), format!("{value}")));
        self.fields.insert(name.to_owned(), json!(value));
    }

    /// A line for people only.
    pub(crate) fn note(&mut self, name: &str, text: String) {
        self.lines.push((name.to_owned(), text));
    }

    /// A value for machines only.
    pub(crate) fn detail(&mut self, name: &str, value: Value) {
        self.fields.insert(name.to_owned(), value);
    }

    /// Prints the table and, if asked for, the JSON object as the last line; keeps a row of the run.
    pub(crate) fn finish(self, common: &Common, server: &Server, settings: &Value) -> Result<()> {
        let width = self
            .lines
            .iter()
            .map(|(name, _)| name.len())
            .max()
            .unwrap_or(0);
        let mut text = format!("{} ({})\n", self.scenario, server.version);
        for (name, value) in &self.lines {
            text.push_str(&format!("  {name:width$}  {value}\n"));
        }
        let who = if common.address.is_some() {
            "server"
        } else {
            "roadstead"
        };
        let result = json!({ "scenario": self.scenario, who: self.fields });
        if common.json {
            text.push_str(&format!("{result}\n"));
        }
        let row = json!({
            "at_unix_s": clock::unix_s(),
            "machine": machine::description(),
            "server": server.version,
            "settings": settings,
            "result": result,
        });
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("results");
        append(&folder, "local", &row)?;
        if common.record {
            append(&folder, self.scenario, &row)?;
        }
        let mut out = std::io::stdout().lock();
        out.write_all(text.as_bytes())
            .and_then(|()| out.flush())
            .context("cannot print")
    }
}

fn append(folder: &Path, name: &str, row: &Value) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let path = folder.join(format!("{name}.jsonl"));
    let file = OpenOptions::new().create(true).append(true).open(&path);
    file.and_then(|mut file| writeln!(file, "{row}"))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// `1234567` as `1,234,567`.
fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_grouped() {
        assert_eq!(grouped(7), "7");
        assert_eq!(grouped(123_456), "123,456");
        assert_eq!(grouped(1_234_567), "1,234,567");
    }
}
