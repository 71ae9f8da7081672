//! How the clustered store is reached and what it promises. Values that exist are good ones: URLs are parsed here.

use std::fmt;
use std::time::Duration;

use edge_proto::topic::RootDepths;
use redis::{ConnectionAddr, IntoConnectionInfo};
use zeroize::Zeroizing;

use crate::engine::MailboxLimits;

/// Longest prefix of keys, in bytes: it is in every key.
pub const PREFIX_BYTES_MAX: usize = 32;

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// Host name or IP address, IPv6 without brackets.
    pub host: Box<str>,
    /// TCP port.
    pub port: u16,
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(formatter, "[{}]:{}", self.host, self.port)
        } else {
            write!(formatter, "{}:{}", self.host, self.port)
        }
    }
}

/// TLS towards the servers. PEM texts; what is `None` is the system's.
#[derive(Clone, Default)]
pub struct TlsOptions {
    /// Authorities that may sign the servers' certificates.
    pub roots_pem: Option<Vec<u8>>,
    /// Certificate chain and key of this node, for servers that ask for one.
    pub client_pem: Option<(Vec<u8>, Zeroizing<Vec<u8>>)>,
}

impl fmt::Debug for TlsOptions {
    /// Without the key.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("TlsOptions")
            .field("roots_pem", &self.roots_pem.is_some())
            .field("client_pem", &self.client_pem.is_some())
            .finish()
    }
}

/// How to reach the servers: all that the connection layer needs.
#[derive(Clone)]
pub struct ConnectOptions {
    /// Servers to ask first, in any role; at least one. A cluster tells the others; of primary and replica without a cluster name both.
    pub seeds: Vec<Address>,
    /// `Some` for `rediss://`.
    pub tls: Option<TlsOptions>,
    /// User of the access control list; `None` = the default user.
    pub username: Option<Box<str>>,
    /// Its password.
    pub password: Option<Zeroizing<String>>,
    /// Number of the database; anything but 0 is for a server without a cluster.
    pub database: i64,
    /// Longest time that one call takes, its repetitions included. It counts anew for each [`Servers`](super::server::Servers) call.
    pub timeout: Duration,
}

impl fmt::Debug for ConnectOptions {
    /// Without the password.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ConnectOptions")
            .field("seeds", &self.seeds)
            .field("tls", &self.tls)
            .field("username", &self.username)
            .field("database", &self.database)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// Why options are not good ones.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// No server.
    #[error("no server is named; give at least one URL like `redis://host:6379`")]
    NoServer,
    /// Not a URL of a server. It is not shown: it may hold a password.
    #[error(
        "URL number {number} does not name a server ({detail}); it should look like `redis://user:password@host:6379/0`, with `rediss` for TLS"
    )]
    Url {
        /// Which, from 1.
        number: usize,
        /// What is wrong with it.
        detail: String,
    },
    /// The URLs contradict each other.
    #[error("URL number {number} has another {what} than the first; they must be equal")]
    Contradiction {
        /// Which, from 1.
        number: usize,
        /// What differs.
        what: &'static str,
    },
    /// Not a prefix.
    #[error(
        "the prefix `{prefix}` must have 1 to {PREFIX_BYTES_MAX} bytes, none of them `{{`, `}}` or a space"
    )]
    Prefix {
        /// What was given.
        prefix: String,
    },
}

impl ConnectOptions {
    /// From URLs `{redis|rediss|valkey|valkeys}://[user][:password@]host[:port][/database]`. Scheme, user, password and database must be the
    /// same in all. The timeout is 2 s.
    ///
    /// # Errors
    /// See [`OptionsError`].
    pub fn from_urls<S: AsRef<str>>(urls: &[S]) -> Result<Self, OptionsError> {
        let mut options: Option<Self> = None;
        for (index, url) in urls.iter().enumerate() {
            let number = index + 1;
            let found = Self::from_url(url.as_ref(), number)?;
            let Some(first) = &mut options else {
                options = Some(found);
                continue;
            };
            let differs = [
                ("scheme", first.tls.is_some() != found.tls.is_some()),
                ("user", first.username != found.username),
                ("password", first.password != found.password),
                ("database", first.database != found.database),
            ];
            if let Some((what, _)) = differs.into_iter().find(|(_, differs)| *differs) {
                return Err(OptionsError::Contradiction { number, what });
            }
            first.seeds.extend(found.seeds);
        }
        options.ok_or(OptionsError::NoServer)
    }

    fn from_url(url: &str, number: usize) -> Result<Self, OptionsError> {
        let wrong = |detail: &str| OptionsError::Url {
            number,
            detail: detail.to_owned(),
        };
        let info = url
            .into_connection_info()
            .map_err(|error| wrong(error.detail().unwrap_or("it cannot be read")))?;
        let (host, port, tls) = match info.addr() {
            ConnectionAddr::Tcp(host, port) => (host, *port, None),
            ConnectionAddr::TcpTls { insecure: true, .. } => {
                return Err(wrong(
                    "certificates are always checked: leave `#insecure` out",
                ));
            }
            ConnectionAddr::TcpTls { host, port, .. } => (host, *port, Some(TlsOptions::default())),
            _ => return Err(wrong("only TCP and TLS are supported")),
        };
        let settings = info.redis_settings();
        Ok(Self {
            seeds: vec![Address {
                host: host.as_str().into(),
                port,
            }],
            tls,
            username: settings.username().map(Into::into),
            password: settings.password().map(|text| text.to_owned().into()),
            database: settings.db(),
            timeout: Duration::from_secs(2),
        })
    }
}

/// What an answered batch has survived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// It is in the memory of the primary.
    Memory,
    /// It is in the append-only file of the primary, synced (`WAITAOF 1 0`).
    Aof,
    /// It is in the memory of so many replicas (`WAIT`); at least 1.
    Replica(u32),
    /// It is in the append-only file of the primary and of so many replicas, synced (`WAITAOF 1 n`).
    ReplicaAof(u32),
}

/// Options of the clustered store.
#[derive(Clone, Debug)]
pub struct RedisOptions {
    /// The servers.
    pub connect: ConnectOptions,
    /// First part of every key; see [`RedisOptions::check_prefix`]. Two clusters with different ones can share a server.
    pub prefix: Box<str>,
    /// What an answer promises.
    pub policy: Policy,
    /// True exactly when this node has the store for itself: it claims every partition when it is opened, and hands out all that is stored.
    pub alone: bool,
    /// What names this node in claims: no two nodes of a cluster have the same, nor two runs of one node.
    pub node: u64,
    /// Limits of each mailbox.
    pub mailbox_limits: MailboxLimits,
    /// How deep roots are, equal on all nodes.
    pub depths: RootDepths,
    /// Bytes of commands that are sent to one server before its answers are read.
    pub pipeline_bytes_max: usize,
    /// Bytes of stored things in one `Loaded`; one larger thing is in one of its own.
    pub page_bytes_max: usize,
}

impl RedisOptions {
    /// Defaults: prefix `roadstead`, policy `memory`, not alone, 1 MiB in a pipeline, 256 KiB in a page.
    pub fn new(connect: ConnectOptions, node: u64, mailbox_limits: MailboxLimits) -> Self {
        Self {
            connect,
            prefix: "roadstead".into(),
            policy: Policy::Memory,
            alone: false,
            node,
            mailbox_limits,
            depths: RootDepths::default(),
            pipeline_bytes_max: 1 << 20,
            page_bytes_max: 256 << 10,
        }
    }

    /// Whether this can be the first part of keys.
    ///
    /// # Errors
    /// [`OptionsError::Prefix`].
    pub fn check_prefix(prefix: &str) -> Result<(), OptionsError> {
        let fits = (1..=PREFIX_BYTES_MAX).contains(&prefix.len());
        let is_plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'{' | b'}');
        if fits && prefix.bytes().all(is_plain) {
            return Ok(());
        }
        Err(OptionsError::Prefix {
            prefix: prefix.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_servers() {
        let options = ConnectOptions::from_urls(&[
            "redis://ann:p%40ss@one:7000/2",
            "valkey://ann:p%40ss@[::1]:7001/2",
        ])
        .expect("good URLs");
        let shown: Vec<_> = options.seeds.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["one:7000", "[::1]:7001"]);
        assert_eq!(options.username.as_deref(), Some("ann"));
        assert_eq!(
            options.password.as_deref().map(String::as_str),
            Some("p@ss")
        );
        assert_eq!(options.database, 2);
        assert!(options.tls.is_none());
        assert!(!format!("{options:?}").contains("p@ss"));
    }

    #[test]
    fn bad_urls_are_refused_and_not_shown() {
        let error = |urls: &[&str]| {
            ConnectOptions::from_urls(urls)
                .expect_err("bad")
                .to_string()
        };
        assert!(error(&[]).contains("no server"));
        assert!(!error(&["http://:secret@host"]).contains("secret"));
        assert!(error(&["redis://a", "rediss://b"]).contains("scheme"));
        assert!(error(&["redis://:x@a", "redis://b"]).contains("password"));
        assert!(error(&["rediss://a#insecure"]).contains("checked"));
        assert!(error(&["unix:///tmp/socket"]).contains("TCP"));
    }

    #[test]
    fn prefixes_do_not_break_hash_tags() {
        assert_eq!(RedisOptions::check_prefix("roadstead:eu"), Ok(()));
        for prefix in ["", "a{b", "a b", "ä", &"x".repeat(33)] {
            assert!(RedisOptions::check_prefix(prefix).is_err(), "{prefix}");
        }
    }
}
