//! The configuration written out: as it is in effect, as an example file, and as a table for the documentation.

use std::fmt::Write as _;

use serde_json::json;
use toml::Value;

use super::{Config, KEYS, Key, SECTIONS};

impl Config {
    /// Valid TOML of every value, each with its origin as a comment. Loading it gives an equal configuration.
    pub fn to_toml(&self) -> String {
        let values = self.values();
        let mut text = String::new();
        for section in SECTIONS {
            let separator = if text.is_empty() { "" } else { "\n" };
            let _ = writeln!(text, "{separator}[{}]", section.name);
            for (key, value) in values.iter().filter(|(key, _)| key.section == section.name) {
                let _ = writeln!(
                    text,
                    "{} = {value} # {}",
                    key.name,
                    one_line(&self.origin(&key.path()).to_string())
                );
            }
        }
        text
    }

    /// Every value with its origin: `{"section": {"name": {"value": …, "origin": "…"}}}`.
    pub fn to_json(&self) -> serde_json::Value {
        let mut sections = json!({});
        for (key, value) in self.values() {
            let origin = self.origin(&key.path()).to_string();
            sections[key.section][key.name] = json!({ "value": value, "origin": origin });
        }
        sections
    }
}

/// An origin inside a comment: a file may have any name, a comment no line break.
fn one_line(origin: &str) -> String {
    origin.replace(char::is_control, "?")
}

/// The example file: every key with its help, range and default, commented out.
pub fn example() -> String {
    let mut text = String::from(
        "# Configuration of Roadstead: every key with its default.\n\
         #\n\
         # Everything here is optional. A value is taken from the command line (--set node.cores=4), else from the\n\
         # environment (ROADSTEAD_NODE_CORES=4), else from this file, else it is the default.\n\
         # `roadstead config check FILE` says what is wrong with a file, `roadstead config print` what is in effect.\n",
    );
    for section in SECTIONS {
        let _ = write!(text, "\n{}\n[{}]\n", comment(section.help), section.name);
        for key in KEYS.iter().filter(|key| key.section == section.name) {
            let mut help = key.help.to_owned();
            if let Some(range) = range_text(key) {
                let _ = write!(help, " Range: {range}.");
            }
            let _ = write!(
                text,
                "\n{}\n# {} = {}\n",
                comment(&help),
                key.name,
                (key.default)()
            );
        }
    }
    text
}

/// The table of all keys for `docs/OPERATIONS.md`.
pub fn markdown_table() -> String {
    let mut text = String::new();
    for section in SECTIONS {
        let _ = write!(
            text,
            "### `[{}]`\n\n{}\n\n| key | default | range | meaning |\n|---|---|---|---|\n",
            section.name, section.help
        );
        for key in KEYS.iter().filter(|key| key.section == section.name) {
            let range = range_text(key).unwrap_or_default();
            let help = key.help.replace('|', "\\|");
            let _ = writeln!(
                text,
                "| `{}` | `{}` | {range} | {help} |",
                key.name,
                (key.default)()
            );
        }
        text.push('\n');
    }
    text.truncate(text.trim_end().len() + 1);
    text
}

fn range_text(key: &Key) -> Option<String> {
    let plain = |value: Value| {
        value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned)
    };
    (key.range)().map(|(low, high)| format!("{} to {}", plain(low), plain(high)))
}

/// Wraps a help text into comment lines of at most 100 characters.
fn comment(help: &str) -> String {
    const WIDTH: usize = 100;
    let mut lines = vec![String::from("#")];
    for word in help.split_whitespace() {
        let line = lines.last_mut().expect("there is always a line");
        if line.len() + 1 + word.len() > WIDTH {
            lines.push(format!("# {word}"));
        } else {
            line.push(' ');
            line.push_str(word);
        }
    }
    lines.join("\n")
}
