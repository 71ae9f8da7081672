//! Raw values with their sources, before they are read: file, then environment, then flags, the later one winning.

use std::collections::BTreeMap;

use toml::Value;
use toml::de::DeTable;

use super::origin::Origins;
use super::value::{Setting, parse_in_range};
use super::{ConfigError, KEYS, Key, Origin, SECTIONS};

/// Where to take values from. Read by the caller, so that loading is a function of its arguments.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// Name and text of the configuration file.
    pub file: Option<(String, String)>,
    /// The environment: names and values. Only `ROADSTEAD_…` is looked at.
    pub environment: Vec<(String, String)>,
    /// Flags, in order: as written (`--set node.cores`), the key (`node.cores`), and the value.
    pub flags: Vec<FlagValue>,
}

/// A value from the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlagValue {
    /// The flag as it was written, for messages.
    pub flag: String,
    /// `section.name`.
    pub key: String,
    /// What it is set to.
    pub value: String,
}

/// A value as it was written.
#[derive(Clone, Debug)]
enum Written {
    /// In the file: a TOML value.
    Toml(Value),
    /// In the environment or a flag: the text itself, or a TOML value in text.
    Text(String),
}

/// A value of a known key, not yet read.
#[derive(Clone, Debug)]
struct RawValue {
    written: Written,
    origin: Origin,
}

/// All raw values by `section.name`; every key in it exists.
#[derive(Clone, Debug, Default)]
pub(super) struct RawConfig(BTreeMap<String, RawValue>);

/// `ROADSTEAD_…` variables that are not keys: the file's name and the address for `roadstead ctl`.
const OTHER_VARIABLES: [&str; 2] = ["ROADSTEAD_CONFIG", "ROADSTEAD_ADDRESS"];

impl RawConfig {
    /// Gathers the values of all sources; reports what is no key at all.
    pub(super) fn gather(sources: &Sources, errors: &mut Vec<ConfigError>) -> Self {
        let mut raw = Self::default();
        if let Some((path, text)) = &sources.file {
            raw.add_file(path, text, errors);
        }
        for (name, value) in &sources.environment {
            raw.add_variable(name, value, errors);
        }
        for FlagValue { flag, key, value } in &sources.flags {
            let origin = Origin::Flag { flag: flag.clone() };
            raw.add(key, Written::Text(value.clone()), origin, errors);
        }
        raw
    }

    /// Where each value came from.
    pub(super) fn origins(&self) -> Origins {
        Origins(
            self.0
                .iter()
                .map(|(path, raw)| (path.clone(), raw.origin.clone()))
                .collect(),
        )
    }

    fn add(&mut self, path: &str, written: Written, origin: Origin, errors: &mut Vec<ConfigError>) {
        if find(path).is_some() {
            self.0.insert(path.to_owned(), RawValue { written, origin });
        } else {
            errors.push(ConfigError::UnknownKey {
                origin,
                key: path.to_owned(),
                nearest: nearest(path),
            });
        }
    }

    fn add_file(&mut self, path: &str, text: &str, errors: &mut Vec<ConfigError>) {
        let line_of = |offset: usize| {
            1 + text.as_bytes()[..offset.min(text.len())]
                .iter()
                .filter(|b| **b == b'\n')
                .count()
        };
        let origin = |offset: usize| Origin::File {
            path: path.to_owned(),
            line: line_of(offset),
        };
        let (spans, table) = match (DeTable::parse(text), text.parse::<toml::Table>()) {
            (Ok(spans), Ok(table)) => (spans, table),
            (Err(error), _) | (_, Err(error)) => {
                let line = line_of(error.span().map_or(0, |span| span.start));
                errors.push(ConfigError::Syntax {
                    path: path.to_owned(),
                    line,
                    detail: error.message().to_owned(),
                });
                return;
            }
        };
        for (section, content) in spans.get_ref() {
            let name = section.get_ref().as_ref();
            let offset = section.span().start;
            let Some(keys) = content.get_ref().as_table() else {
                let nearest = nearest(name);
                errors.push(ConfigError::UnknownKey {
                    origin: origin(offset),
                    key: name.to_owned(),
                    nearest,
                });
                continue;
            };
            if !SECTIONS.iter().any(|known| known.name == name) {
                let nearest = nearest_of(name, SECTIONS.iter().map(|known| known.name.to_owned()));
                let nearest = nearest.map(|section| format!("[{section}]"));
                errors.push(ConfigError::UnknownKey {
                    origin: origin(offset),
                    key: format!("[{name}]"),
                    nearest,
                });
                continue;
            }
            for key in keys.keys() {
                let value = table[name][key.get_ref().as_ref()].clone();
                self.add(
                    &format!("{name}.{}", key.get_ref()),
                    Written::Toml(value),
                    origin(key.span().start),
                    errors,
                );
            }
        }
    }

    fn add_variable(&mut self, name: &str, value: &str, errors: &mut Vec<ConfigError>) {
        if !name.starts_with("ROADSTEAD_")
            || OTHER_VARIABLES.contains(&name)
            || is_service_variable(name)
        {
            return;
        }
        let origin = Origin::Environment {
            name: name.to_owned(),
        };
        match KEYS.iter().find(|key| key.environment() == name) {
            Some(key) => self.add(&key.path(), Written::Text(value.to_owned()), origin, errors),
            None => errors.push(ConfigError::UnknownKey {
                origin,
                key: name.to_owned(),
                nearest: nearest_of(name, KEYS.iter().map(Key::environment)),
            }),
        }
    }
}

/// True for the variables that Kubernetes sets in every pod next to a Service whose name begins with `roadstead`
/// (`ROADSTEAD_SERVICE_HOST`, `ROADSTEAD_MQTT_PORT_1883_TCP`): they are not meant for us. No key of ours ends like them.
fn is_service_variable(name: &str) -> bool {
    let numbered_port = |rest: &str| {
        rest.split('_')
            .next()
            .is_some_and(|port| port.parse::<u16>().is_ok())
    };
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || name.ends_with("_PORT")
        || name.split("_PORT_").skip(1).any(numbered_port)
}

fn find(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.path() == path)
}

/// The key that was probably meant: the same name in another section, or the most similar one.
fn nearest(path: &str) -> Option<String> {
    let name = path.rsplit('.').next().unwrap_or(path);
    if let Some(key) = KEYS.iter().find(|key| key.name == name) {
        return Some(key.path());
    }
    nearest_of(path, KEYS.iter().map(Key::path))
}

fn nearest_of(word: &str, known: impl Iterator<Item = String>) -> Option<String> {
    let close = |candidate: String| {
        let distance = strsim::damerau_levenshtein(&word.to_lowercase(), &candidate.to_lowercase());
        (distance <= (candidate.len() / 3).max(2)).then_some((distance, candidate))
    };
    known
        .filter_map(close)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Reads one key, or its default. A bad value is reported, and the default stands in for it so that reading goes on.
pub(super) fn read<T: Setting>(
    raw: &RawConfig,
    section: &str,
    name: &str,
    default: impl Fn() -> T,
    range: Option<(T, T)>,
    errors: &mut Vec<ConfigError>,
) -> T {
    let path = format!("{section}.{name}");
    let Some(RawValue { written, origin }) = raw.0.get(&path) else {
        return default();
    };
    let (result, shown) = match written {
        Written::Toml(value) => (parse_in_range(value, range), value.to_string()),
        Written::Text(text) => (
            parse_text(text, range),
            Value::String(text.clone()).to_string(),
        ),
    };
    result.unwrap_or_else(|problem| {
        errors.push(ConfigError::BadValue {
            origin: origin.clone(),
            key: path,
            value: without_password(shown),
            problem,
        });
        default()
    })
}

/// A value for a message: without the user and password of an address, which is refused because it would be shown.
fn without_password(shown: String) -> String {
    let hidden = shown.split_once("://").and_then(|(scheme, rest)| {
        let at = rest.rfind('@')?;
        Some(format!("{scheme}://…{}", &rest[at..]))
    });
    hidden.unwrap_or(shown)
}

/// Text of a variable or flag: a TOML value (`4`, `true`, `["a"]`) or, where that does not fit, a bare string.
fn parse_text<T: Setting>(text: &str, range: Option<(T, T)>) -> Result<T, String> {
    let literal = format!("value = {text}")
        .parse::<toml::Table>()
        .ok()
        .and_then(|mut table| table.remove("value"));
    match literal {
        Some(value) if T::parse(&value).is_ok() => parse_in_range(&value, range),
        Some(value @ Value::Integer(_)) if T::parse(&Value::String(text.into())).is_err() => {
            parse_in_range(&value, range)
        }
        _ => parse_in_range(&Value::String(text.into()), range),
    }
}
