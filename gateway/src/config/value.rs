//! The types of configuration values: how each is written, and what to say when it is written wrongly.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use toml::Value;

use crate::access::address::{Network, NetworkError};

/// A type that a key can have.
pub trait Setting: Sized + PartialOrd {
    /// Reads it. Lists and tables also come as one text, because environment variables and flags have only text.
    ///
    /// # Errors
    /// What is wrong and what would be right.
    fn parse(value: &Value) -> Result<Self, String>;

    /// Writes it so that `parse` gives the same value.
    fn to_value(&self) -> Value;
}

/// Reads a value and holds it against its range.
///
/// # Errors
/// What is wrong and what would be right.
pub(super) fn parse_in_range<T: Setting>(
    value: &Value,
    range: Option<(T, T)>,
) -> Result<T, String> {
    let bounds = |(low, high): &(T, T)| format!("from {} to {}", low.to_value(), high.to_value());
    let out_of_range = |range| format!("out of range; write a value {}", bounds(range));
    match (T::parse(value), &range) {
        (Ok(parsed), Some(range)) if parsed < range.0 || parsed > range.1 => {
            Err(out_of_range(range))
        }
        // A number that the type cannot hold is not in the range either, which says more than the type's limits.
        (Err(_), Some(range)) if value.is_integer() && range.0.to_value().is_integer() => {
            Err(out_of_range(range))
        }
        (result, _) => result,
    }
}

/// A range as values.
pub(super) fn range_values<T: Setting>(range: Option<(T, T)>) -> Option<(Value, Value)> {
    range.map(|(low, high)| (low.to_value(), high.to_value()))
}

/// A number of bytes, written with its unit: `"64 KiB"`, `"512 MB"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

impl ByteSize {
    /// So many bytes.
    pub const fn bytes(count: u64) -> Self {
        Self(count)
    }

    /// So many KiB.
    pub const fn kib(count: u64) -> Self {
        Self(count * 1024)
    }

    /// So many MiB.
    pub const fn mib(count: u64) -> Self {
        Self(count * 1024 * 1024)
    }

    /// So many GiB.
    pub const fn gib(count: u64) -> Self {
        Self(count * 1024 * 1024 * 1024)
    }

    /// As a `usize`; the node runs on 64-bit systems, where all of it fits.
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

/// Units from small to large, and what each is worth; the first whole one from the end is used to write a value.
const SIZE_UNITS: [(&str, u64); 7] = [
    ("B", 1),
    ("KB", 1_000),
    ("KiB", 1024),
    ("MB", 1_000_000),
    ("MiB", 1024 * 1024),
    ("GB", 1_000_000_000),
    ("GiB", 1024 * 1024 * 1024),
];

/// In milliseconds.
const DURATION_UNITS: [(&str, u64); 5] = [
    ("ms", 1),
    ("s", 1_000),
    ("m", 60_000),
    ("h", 3_600_000),
    ("d", 24 * 3_600_000),
];

/// `"64 KiB"` → 64 × 1024. `None` for anything that is not digits, an optional space and a known unit, or that is too large.
fn parse_quantity(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let unit = unit.strip_prefix(' ').unwrap_or(unit);
    let (_, worth) = units.iter().find(|(name, _)| *name == unit)?;
    number
        .parse::<u64>()
        .ok()?
        .checked_mul(*worth)
        .filter(|amount| i64::try_from(*amount).is_ok())
}

/// The largest unit that divides the amount.
fn largest_unit(amount: u64, units: &'static [(&'static str, u64)]) -> (u64, &'static str) {
    let whole = |(_, worth): &&(&str, u64)| amount.is_multiple_of(*worth) && amount > 0;
    let (name, worth) = units.iter().rev().find(whole).unwrap_or(&units[0]);
    (amount / worth, name)
}

impl fmt::Display for ByteSize {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (amount, unit) = largest_unit(self.0, &SIZE_UNITS);
        write!(formatter, "{amount} {unit}")
    }
}

impl Setting for ByteSize {
    fn parse(value: &Value) -> Result<Self, String> {
        let amount = value
            .as_str()
            .and_then(|text| parse_quantity(text, &SIZE_UNITS));
        amount
            .map(Self)
            .ok_or_else(|| r#"not a size; write e.g. "64 KiB", "1 MiB" or "512 MB""#.into())
    }

    fn to_value(&self) -> Value {
        Value::String(self.to_string())
    }
}

impl Setting for Duration {
    fn parse(value: &Value) -> Result<Self, String> {
        let amount = value
            .as_str()
            .and_then(|text| parse_quantity(text, &DURATION_UNITS));
        amount
            .map(Self::from_millis)
            .ok_or_else(|| r#"not a duration; write e.g. "250ms", "30s", "5m" or "7d""#.into())
    }

    fn to_value(&self) -> Value {
        let milliseconds = u64::try_from(self.as_millis()).unwrap_or(u64::MAX);
        if milliseconds == 0 {
            return Value::String("0s".into());
        }
        let (amount, unit) = largest_unit(milliseconds, &DURATION_UNITS);
        Value::String(format!("{amount}{unit}"))
    }
}

impl Setting for bool {
    fn parse(value: &Value) -> Result<Self, String> {
        value
            .as_bool()
            .ok_or_else(|| "not a yes or no; write true or false".into())
    }

    fn to_value(&self) -> Value {
        Value::Boolean(*self)
    }
}

macro_rules! integer_settings {
    ($($Integer:ty),+) => { $(
        impl Setting for $Integer {
            fn parse(value: &Value) -> Result<Self, String> {
                let number = value.as_integer().ok_or("not a whole number; write digits without quotes, e.g. 100")?;
                Self::try_from(number).map_err(|_| format!("out of range; write a value from 0 to {}", Self::MAX))
            }

            fn to_value(&self) -> Value {
                Value::Integer(i64::try_from(*self).unwrap_or(i64::MAX))
            }
        }
    )+ };
}
integer_settings!(u8, u16, u32, u64);

impl Setting for PathBuf {
    fn parse(value: &Value) -> Result<Self, String> {
        let text = value
            .as_str()
            .filter(|text| !text.is_empty() && !text.contains('\0'));
        text.map(Self::from)
            .ok_or_else(|| r#"not a path; write e.g. "/var/lib/roadstead""#.into())
    }

    fn to_value(&self) -> Value {
        Value::String(self.to_string_lossy().into_owned())
    }
}

/// Files in the order in which they are named.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Files(pub Vec<PathBuf>);

impl Setting for Files {
    fn parse(value: &Value) -> Result<Self, String> {
        let hint = r#"not a list of files; write e.g. ["/etc/roadstead/tls.crt"]"#;
        let files: Result<_, _> = match value {
            Value::String(text) if text.trim().is_empty() => Ok(Vec::new()),
            Value::String(text) => text
                .split(',')
                .map(|path| PathBuf::parse(&Value::String(path.trim().to_owned())))
                .collect(),
            Value::Array(items) => items.iter().map(PathBuf::parse).collect(),
            _ => Err(String::new()),
        };
        files.map(Self).map_err(|_| hint.to_owned())
    }

    fn to_value(&self) -> Value {
        Value::Array(self.0.iter().map(PathBuf::to_value).collect())
    }
}

/// Networks in the order in which they are named.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Networks(pub Vec<Network>);

impl Setting for Networks {
    fn parse(value: &Value) -> Result<Self, String> {
        let one = |text: &str| {
            text.trim()
                .parse()
                .map_err(|error: NetworkError| error.to_string())
        };
        let networks: Result<_, _> = match value {
            Value::String(text) if text.trim().is_empty() => Ok(Vec::new()),
            Value::String(text) => text.split(',').map(one).collect(),
            Value::Array(items) => items
                .iter()
                .map(|item| one(item.as_str().unwrap_or(&item.to_string())))
                .collect(),
            _ => {
                Err(r#"not a list of networks; write e.g. ["10.0.0.0/8", "2001:db8::/32"]"#.into())
            }
        };
        networks.map(Self)
    }

    fn to_value(&self) -> Value {
        let texts = self
            .0
            .iter()
            .map(|network| Value::String(network.to_string()));
        Value::Array(texts.collect())
    }
}

pub(super) fn parse_address(text: &str) -> Result<SocketAddr, String> {
    text.trim().parse().map_err(|_| {
        let hint = if text.trim().starts_with("localhost:") { " (names are not looked up)" } else { "" };
        format!(r#""{text}" is not an IP address and port{hint}; write e.g. "127.0.0.1:1883" or "[::1]:1883""#)
    })
}

impl Setting for Vec<SocketAddr> {
    fn parse(value: &Value) -> Result<Self, String> {
        match value {
            Value::String(text) if text.trim().is_empty() => Ok(Self::new()),
            Value::String(text) => text.split(',').map(parse_address).collect(),
            Value::Array(items) => {
                let one = |item: &Value| parse_address(item.as_str().unwrap_or(&item.to_string()));
                items.iter().map(one).collect()
            }
            _ => Err(
                r#"not a list of addresses; write e.g. ["127.0.0.1:1883", "[::1]:1883"]"#.into(),
            ),
        }
    }

    fn to_value(&self) -> Value {
        Value::Array(
            self.iter()
                .map(|address| Value::String(address.to_string()))
                .collect(),
        )
    }
}

/// An address, or nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OptionalAddress(pub Option<SocketAddr>);

impl Setting for OptionalAddress {
    fn parse(value: &Value) -> Result<Self, String> {
        match value.as_str() {
            Some("off") => Ok(Self(None)),
            Some(text) => parse_address(text)
                .map(|address| Self(Some(address)))
                .map_err(|error| error + r#", or "off""#),
            None => Err(r#"not an address; write e.g. "127.0.0.1:9883", or "off""#.into()),
        }
    }

    fn to_value(&self) -> Value {
        Value::String(
            self.0
                .map_or_else(|| "off".into(), |address| address.to_string()),
        )
    }
}

/// How many cores a node runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CoreCount {
    /// As many as the process may use (affinity mask and control group).
    All,
    /// So many, at least one.
    Exactly(u8),
}

impl Setting for CoreCount {
    fn parse(value: &Value) -> Result<Self, String> {
        let count = value
            .as_integer()
            .and_then(|count| u8::try_from(count).ok())
            .filter(|count| *count > 0);
        match (value.as_str(), count) {
            (Some("all"), _) => Ok(Self::All),
            (_, Some(count)) => Ok(Self::Exactly(count)),
            _ => Err(r#"not a number of cores; write a number from 1 to 255, or "all""#.into()),
        }
    }

    fn to_value(&self) -> Value {
        match self {
            Self::All => Value::String("all".into()),
            Self::Exactly(count) => Value::Integer(i64::from(*count)),
        }
    }
}

/// The name of a node in logs and metrics: 1 to 64 letters, digits, `-`, `_` and `.`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeName(pub String);

impl Setting for NodeName {
    fn parse(value: &Value) -> Result<Self, String> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let good = |text: &&str| (1..=64).contains(&text.len()) && text.chars().all(allowed);
        let name = value.as_str().filter(good).map(|text| Self(text.into()));
        name.ok_or_else(|| r#"not a name; write 1 to 64 letters, digits, "-", "_" and ".""#.into())
    }

    fn to_value(&self) -> Value {
        Value::String(self.0.clone())
    }
}

/// A path of an HTTP request: begins with `/`, no query, no white space.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HttpPath(pub String);

impl Setting for HttpPath {
    fn parse(value: &Value) -> Result<Self, String> {
        let good = |text: &&str| {
            text.starts_with('/')
                && text
                    .bytes()
                    .all(|b| b.is_ascii_graphic() && !b"?#\"".contains(&b))
        };
        let path = value.as_str().filter(good).map(|text| Self(text.into()));
        path.ok_or_else(|| r#"not a path; write e.g. "/mqtt""#.into())
    }

    fn to_value(&self) -> Value {
        Value::String(self.0.clone())
    }
}

/// Root depth by topic prefix: `{ "v1/devices" = 3 }`, or as one text `v1/devices=3,v2=1`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct RootDepths(pub BTreeMap<String, u8>);

/// More levels than this in a root would be a whole topic for most users.
const ROOT_DEPTH_MAX: u8 = 8;

impl RootDepths {
    fn entry(prefix: &str, depth: Option<i64>) -> Result<(String, u8), String> {
        if prefix.is_empty()
            || prefix.starts_with('$')
            || prefix.ends_with('/')
            || prefix.contains(['+', '#', '\0'])
        {
            return Err(format!(
                r#""{prefix}" is not a topic prefix; write whole levels without wildcards, e.g. "v1/devices""#
            ));
        }
        let good = |depth: &u8| (1..=ROOT_DEPTH_MAX).contains(depth);
        match depth
            .and_then(|depth| u8::try_from(depth).ok())
            .filter(good)
        {
            Some(depth) => Ok((prefix.to_owned(), depth)),
            None => Err(format!(
                r#"the depth of "{prefix}" is not a number from 1 to {ROOT_DEPTH_MAX}"#
            )),
        }
    }
}

impl Setting for RootDepths {
    fn parse(value: &Value) -> Result<Self, String> {
        let entries: Result<BTreeMap<_, _>, _> = match value {
            Value::Table(table) => table
                .iter()
                .map(|(prefix, depth)| Self::entry(prefix, depth.as_integer()))
                .collect(),
            Value::String(text) if text.trim().is_empty() => Ok(BTreeMap::new()),
            Value::String(text) => text
                .split(',')
                .map(|part| match part.rsplit_once('=') {
                    Some((prefix, depth)) => Self::entry(prefix.trim(), depth.trim().parse().ok()),
                    None => Err(format!(
                        r#""{part}" is not prefix=depth; write e.g. v1/devices=3"#
                    )),
                })
                .collect(),
            _ => Err(r#"not a table; write e.g. { "v1/devices" = 3 }"#.into()),
        };
        entries.map(Self)
    }

    fn to_value(&self) -> Value {
        Value::Table(
            self.0
                .iter()
                .map(|(prefix, depth)| (prefix.clone(), Value::Integer((*depth).into())))
                .collect(),
        )
    }
}

/// Declares an enum that is written as one of a few words.
macro_rules! choices {
    ($($(#[doc = $help:literal])+ $Name:ident { $($(#[doc = $variant_help:literal])+ $Variant:ident = $word:literal,)+ })+) => { $(
        $(#[doc = $help])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $Name { $($(#[doc = $variant_help])+ $Variant,)+ }

        impl $Name {
            /// The word for it in the configuration.
            pub fn word(self) -> &'static str {
                match self { $(Self::$Variant => $word,)+ }
            }
        }

        impl Setting for $Name {
            fn parse(value: &Value) -> Result<Self, String> {
                match value.as_str() {
                    $(Some($word) => Ok(Self::$Variant),)+
                    _ => Err(format!("not one of the choices; write {}", [$(concat!("\"", $word, "\"")),+].join(" or "))),
                }
            }

            fn to_value(&self) -> Value {
                Value::String(self.word().into())
            }
        }
    )+ };
}

pub(super) use choices;

choices! {
    /// Whether clients show certificates on TLS listeners.
    ClientCertificates {
        /// They are not asked.
        None = "none",
        /// Those that show one are identified by it.
        Optional = "optional",
        /// Those that show none are refused.
        Required = "required",
    }
    /// The oldest version of TLS that is spoken.
    TlsVersion {
        /// TLS 1.2.
        V12 = "1.2",
        /// TLS 1.3.
        V13 = "1.3",
    }
    /// Which driver the cores use.
    IoBackend {
        /// io_uring where it works, else epoll; the start-up log says which and why.
        Auto = "auto",
        /// io_uring, or no start.
        IoUring = "io_uring",
        /// epoll.
        Epoll = "epoll",
    }

    /// Who may connect without having proved who they are.
    Anonymous {
        /// Nobody.
        Nowhere = "nowhere",
        /// Only clients on this machine.
        Loopback = "loopback",
        /// Everyone who reaches a listener.
        Everywhere = "everywhere-without-any-authentication",
    }

    /// What a full mailbox does.
    MailboxWhenFull {
        /// Drops its oldest message that was never sent to the client.
        DropOldest = "drop_oldest",
        /// Refuses the new message.
        Reject = "reject",
    }

    /// What happens to QoS 1 and 2 beyond the bounds of a session's queue.
    SlowConsumerPolicy {
        /// The client is disconnected with 0x97; a durable session keeps its mailbox.
        Disconnect = "disconnect",
        /// The message is dropped and counted; the client stays.
        Drop = "drop",
    }

    /// The least important messages that are logged.
    LogLevel {
        /// Failures only.
        Error = "error",
        /// And what may become one.
        Warn = "warn",
        /// And what changes the state of the node.
        Info = "info",
        /// And what happens to single connections.
        Debug = "debug",
        /// And everything else.
        Trace = "trace",
    }

    /// How log lines look.
    LogFormat {
        /// For people.
        Text = "text",
        /// For machines: one JSON object per line.
        Json = "json",
    }
}
