//! The types of values about the store: what it is, where it is, and when it counts something as stored.

use hyper::Uri;
use toml::Value;

use super::value::{Setting, choices};

choices! {
    /// What the store is.
    EngineKind {
        /// Files of this node alone.
        Embedded = "embedded",
        /// A Valkey or Redis.
        Redis = "redis",
    }

    /// What is behind the addresses of a Valkey or Redis.
    EngineMode {
        /// What the server says.
        Auto = "auto",
        /// One primary, with or without replicas.
        Single = "single",
        /// A cluster.
        Cluster = "cluster",
    }

    /// When something counts as stored.
    Durability {
        /// The strictest that the store offers.
        Auto = "auto",
        /// Embedded: when the disk has it. Loss of power loses nothing acknowledged.
        Sync = "sync",
        /// Embedded: at once; the disk follows within the interval. A crash or loss of power takes away up to that much.
        Relaxed = "relaxed",
        /// Valkey: when the primary has it in memory.
        Memory = "memory",
        /// Valkey: when the disk of the primary has it.
        Aof = "aof",
        /// Valkey: when a replica has it in memory.
        Replica = "replica",
        /// Valkey: when the disks of the primary and of a replica have it.
        ReplicaAof = "replica-aof",
    }
}

impl Durability {
    /// The kind of store that knows it; `None`: any.
    pub fn kind(self) -> Option<EngineKind> {
        match self {
            Self::Auto => None,
            Self::Sync | Self::Relaxed => Some(EngineKind::Embedded),
            Self::Memory | Self::Aof | Self::Replica | Self::ReplicaAof => Some(EngineKind::Redis),
        }
    }
}

/// Addresses of the servers of a Valkey or Redis, `redis://host:port` or `rediss://host:port` (TLS). None has a password, since they are
/// shown.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct EngineUrls(pub Vec<String>);

/// More seeds than this are no seeds but a list of all servers, which a cluster tells by itself.
const URLS_MAX: usize = 64;

const URL_HINT: &str = r#"write e.g. "redis://valkey.example.com:6379", or "rediss://…" for TLS"#;

impl EngineUrls {
    fn check(text: &str) -> Result<String, String> {
        let bad = || format!("not the address of a Valkey or Redis; {URL_HINT}");
        let uri: Uri = text.parse().map_err(|_| bad())?;
        let authority = uri.authority().ok_or_else(bad)?;
        if authority.as_str().contains('@') {
            return Err(
                "user and password in an address are shown wherever it is; take them out, name the user in engine.user, and the file \
                 with the password in engine.password_file"
                    .into(),
            );
        }
        if !matches!(uri.scheme_str(), Some("redis" | "rediss")) || authority.host().is_empty() {
            return Err(bad());
        }
        // A port that is no number leaves none.
        if authority.as_str() != authority.host()
            && authority.port_u16().is_none_or(|port| port == 0)
        {
            return Err(format!(
                "\"{text}\" has no port from 1 to 65535; {URL_HINT}"
            ));
        }
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(format!(
                "\"{text}\" has something behind the port: database 0 is used, and there are no options; {URL_HINT}"
            ));
        }
        Ok(text.trim_end_matches('/').to_owned())
    }

    /// Host and port of each. The default port is 6379.
    pub fn addresses(&self) -> Vec<(String, u16)> {
        let uris = self.0.iter().filter_map(|text| text.parse::<Uri>().ok());
        let address = |uri: Uri| {
            let host = uri.host()?.trim_matches(['[', ']']).to_owned();
            Some((host, uri.port_u16().unwrap_or(6379)))
        };
        uris.filter_map(address).collect()
    }

    /// True when connections are in TLS.
    pub fn is_tls(&self) -> bool {
        self.0.iter().any(|text| text.starts_with("rediss://"))
    }
}

impl Setting for EngineUrls {
    fn parse(value: &Value) -> Result<Self, String> {
        let hint = r#"not a list of addresses; write e.g. ["redis://valkey.example.com:6379"]"#;
        let texts: Vec<&str> = match value {
            Value::String(text) if text.trim().is_empty() => Vec::new(),
            Value::String(text) => text.split(',').map(str::trim).collect(),
            Value::Array(items) => {
                let texts: Option<Vec<&str>> = items.iter().map(Value::as_str).collect();
                texts.ok_or(hint)?
            }
            _ => return Err(hint.to_owned()),
        };
        if texts.len() > URLS_MAX {
            return Err(format!(
                "{} addresses; write at most {URLS_MAX}, a cluster tells of the others",
                texts.len()
            ));
        }
        let urls: Result<Vec<_>, _> = texts.into_iter().map(Self::check).collect();
        let urls = Self(urls?);
        let secured = urls
            .0
            .iter()
            .filter(|text| text.starts_with("rediss://"))
            .count();
        if secured != 0 && secured != urls.0.len() {
            return Err(
                "some addresses are redis:// and some are rediss://; write all of them one way"
                    .into(),
            );
        }
        Ok(urls)
    }

    fn to_value(&self) -> Value {
        Value::Array(self.0.iter().cloned().map(Value::String).collect())
    }
}

/// What the names of all keys in a Valkey or Redis begin with: 1 to 32 letters, digits, `-`, `_` and `.`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyPrefix(pub String);

impl Setting for KeyPrefix {
    fn parse(value: &Value) -> Result<Self, String> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let good = |text: &&str| (1..=32).contains(&text.len()) && text.chars().all(allowed);
        let prefix = value.as_str().filter(good).map(|text| Self(text.into()));
        prefix.ok_or_else(|| {
            r#"not a prefix of keys; write 1 to 32 letters, digits, "-", "_" and ".""#.into()
        })
    }

    fn to_value(&self) -> Value {
        Value::String(self.0.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_a_port_and_may_be_ipv6() {
        let text = "redis://a.example:7000, redis://[::1]:7001,redis://b.example/";
        let urls = EngineUrls::parse(&Value::String(text.into())).expect("good");
        let addresses = [("a.example", 7000), ("::1", 7001), ("b.example", 6379)];
        assert_eq!(
            urls.addresses(),
            addresses.map(|(host, port)| (host.to_owned(), port))
        );
        assert!(!urls.is_tls());
        assert_eq!(EngineUrls::parse(&urls.to_value()), Ok(urls));
    }

    #[test]
    fn what_is_no_address_of_a_server_is_refused() {
        for text in [
            "valkey:6379",
            "http://valkey:6379",
            "redis://",
            "redis://valkey:port",
            "redis://valkey:0",
            "redis://valkey:6379/3",
            "redis://user:secret@valkey:6379",
            "redis://a:1,rediss://b:1",
        ] {
            let error = EngineUrls::parse(&Value::String(text.into())).expect_err(text);
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
