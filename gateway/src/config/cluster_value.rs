//! The types of values about other nodes of the cluster.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use toml::Value;

use super::value::{Setting, parse_address};

/// The port of a seed that names none.
const GOSSIP_PORT: u16 = 7946;

impl Setting for SocketAddr {
    fn parse(value: &Value) -> Result<Self, String> {
        parse_address(value.as_str().unwrap_or(&value.to_string()))
    }

    fn to_value(&self) -> Value {
        Value::String(self.to_string())
    }
}

/// A host that can be reached: an IP address, or a name that DNS knows.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Host {
    /// Its address.
    Address(IpAddr),
    /// Its name.
    Name(String),
}

impl Host {
    fn parse(text: &str) -> Option<Self> {
        let bare = text
            .strip_prefix('[')
            .and_then(|text| text.strip_suffix(']'));
        if let Some(bare) = bare {
            return bare
                .parse::<Ipv6Addr>()
                .ok()
                .map(|it| Self::Address(it.into()));
        }
        if let Ok(address) = text.parse() {
            return Some(Self::Address(address));
        }
        let is_label = |label: &str| {
            let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
            (1..=63).contains(&label.len()) && label.bytes().all(good)
        };
        let labels = text.strip_suffix('.').unwrap_or(text);
        // What looks like an address and is none is no name either.
        let is_number = labels
            .bytes()
            .all(|byte| byte.is_ascii_digit() || byte == b'.');
        let is_name = text.len() <= 253 && !is_number && labels.split('.').all(is_label);
        is_name.then(|| Self::Name(text.to_owned()))
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// A host, or none.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct OptionalHost(pub Option<Host>);

impl Setting for OptionalHost {
    fn parse(value: &Value) -> Result<Self, String> {
        let hint = r#"not an address without a port and not a name; write e.g. "10.1.2.3" or "node-1.example.com", or "" to find it out"#;
        let text = value.as_str().ok_or(hint)?;
        if text.is_empty() {
            return Ok(Self(None));
        }
        Host::parse(text)
            .map(|host| Self(Some(host)))
            .ok_or_else(|| hint.into())
    }

    fn to_value(&self) -> Value {
        Value::String(self.0.as_ref().map(Host::to_string).unwrap_or_default())
    }
}

/// Where another node of the cluster may be found.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seed {
    /// Its host.
    pub host: Host,
    /// The port of its gossip.
    pub port: u16,
}

impl Seed {
    fn parse(text: &str) -> Option<Self> {
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Some(Self {
                host: Host::Address(address.ip()),
                port: address.port(),
            });
        }
        if let Some(host) = Host::parse(text) {
            let port = GOSSIP_PORT;
            return Some(Self { host, port });
        }
        let (host, port) = text.rsplit_once(':')?;
        Some(Self {
            host: Host::parse(host)?,
            port: port.parse().ok().filter(|port| *port != 0)?,
        })
    }
}

impl fmt::Display for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Address(address) => SocketAddr::new(*address, self.port).fmt(f),
            Host::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

/// Seeds, in the order in which they are named.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seeds(pub Vec<Seed>);

impl Setting for Seeds {
    fn parse(value: &Value) -> Result<Self, String> {
        let one = |text: &str| {
            Seed::parse(text.trim()).ok_or_else(|| {
                format!(
                    "\"{}\" is not a host with a port; write e.g. \"roadstead-headless.mqtt.svc:7946\" or \"10.1.2.3:7946\"",
                    text.trim()
                )
            })
        };
        let seeds: Result<_, _> = match value {
            Value::String(text) if text.trim().is_empty() => Ok(Vec::new()),
            Value::String(text) => text.split(',').map(one).collect(),
            Value::Array(items) => items
                .iter()
                .map(|item| one(item.as_str().unwrap_or(&item.to_string())))
                .collect(),
            _ => Err(
                r#"not a list of hosts; write e.g. ["roadstead-headless.mqtt.svc:7946"]"#
                    .to_owned(),
            ),
        };
        seeds.map(Self)
    }

    fn to_value(&self) -> Value {
        let text = |seed: &Seed| Value::String(seed.to_string());
        Value::Array(self.0.iter().map(text).collect())
    }
}

/// The uid of a node, 16 hexadecimal digits as the log shows it; or none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct OptionalUid(pub Option<u64>);

impl Setting for OptionalUid {
    fn parse(value: &Value) -> Result<Self, String> {
        let hint = r#"not a uid; write 16 hexadecimal digits other than zeros, e.g. "00000000000000a1", or "" for one that follows from host and address"#;
        let text = value.as_str().ok_or(hint)?;
        if text.is_empty() {
            return Ok(Self(None));
        }
        let is_hexadecimal = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let uid = u64::from_str_radix(text, 16)
            .ok()
            .filter(|uid| *uid != 0 && is_hexadecimal);
        uid.map(|uid| Self(Some(uid))).ok_or_else(|| hint.into())
    }

    fn to_value(&self) -> Value {
        let text = self.0.map(|uid| format!("{uid:016x}"));
        Value::String(text.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seeds(text: &str) -> Result<Seeds, String> {
        Seeds::parse(&Value::String(text.into()))
    }

    #[test]
    fn seeds_are_names_and_addresses_with_and_without_ports() {
        let read = seeds("a.svc:8000, b, 10.0.0.1, 10.0.0.2:1, [fd00::1]:2, fd00::2, [fd00::3]")
            .expect("they are seeds");
        let printed: Vec<String> = read.0.iter().map(Seed::to_string).collect();
        let expected = [
            "a.svc:8000",
            "b:7946",
            "10.0.0.1:7946",
            "10.0.0.2:1",
            "[fd00::1]:2",
            "[fd00::2]:7946",
            "[fd00::3]:7946",
        ];
        assert_eq!(printed, expected);
        assert_eq!(Seeds::parse(&read.to_value()), Ok(read));
        for bad in [
            "a b",
            "a:0",
            "a:",
            ":1",
            "10.0.0:1",
            "http://a",
            "a:65536",
            "300.1.1.1",
            "a..b",
        ] {
            assert!(seeds(bad).is_err_and(|why| why.contains(bad)), "{bad}");
        }
    }

    #[test]
    fn a_uid_is_as_the_log_shows_it() {
        let parse = |text: &str| OptionalUid::parse(&Value::String(text.into()));
        assert_eq!(parse("00000000000000a1"), Ok(OptionalUid(Some(0xA1))));
        assert_eq!(parse(""), Ok(OptionalUid(None)));
        for bad in [
            "a1",
            "0000000000000000",
            "+0000000000000a1",
            "00000000000000g1",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_advertised_host_has_no_port() {
        let parse = |text: &str| OptionalHost::parse(&Value::String(text.into()));
        let good = |text: &str| parse(text).is_ok_and(|host| host.0.is_some());
        assert!(good("10.1.2.3") && good("node-1.example.com") && good("fd00::1"));
        assert!(parse("10.1.2.3:7946").is_err() && parse("node:1").is_err());
    }
}
