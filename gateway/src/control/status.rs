//! What the node knows about itself apart from its cores: what runs, since when, and whether it is ready.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use serde::Serialize;

use super::access::Access;
use super::certificates::Certificates;
use super::cluster::status::ClusterStatus;
use crate::config::{Config, Durability, EngineKind};
use crate::engine::status::{EngineCounters, EngineState, EngineStatus};

/// The version of this program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Facts about a running node.
pub struct NodeStatus {
    /// Its name.
    pub node: String,
    /// When it started, for the time it has been up.
    pub started: Instant,
    /// The same in milliseconds of Unix time.
    pub started_at_unix_ms: u64,
    /// Its cores.
    pub cores: usize,
    /// The driver the cores use: `io_uring` or `epoll`.
    pub backend: &'static str,
    /// Why this one.
    pub backend_reason: String,
    /// Where clients connect.
    pub listeners: Vec<Listener>,
    /// Where operators connect.
    pub admin: Option<SocketAddr>,
    /// Where health and metrics are to be had from other machines.
    pub monitoring: Option<SocketAddr>,
    /// What the engine stores in.
    pub store: StoreFacts,
    /// The files of the TLS listeners.
    pub certificates: Arc<Certificates>,
    /// Who may connect.
    pub access: Arc<Access>,
    /// The cluster that it is a member of.
    pub cluster: Option<Arc<ClusterStatus>>,
    engine: Box<dyn Fn() -> EngineReport + Send + Sync>,
    ready: AtomicBool,
}

/// A listener that is open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Listener {
    /// `tcp`, `websocket`, `tls` or `websocket_tls`.
    pub kind: &'static str,
    /// The bound address.
    pub address: SocketAddr,
}

/// What the engine stores in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreFacts {
    /// Files of this node, or servers.
    pub kind: EngineKind,
    /// The folder of the embedded store, and of the secrets that the node made for itself.
    pub path: String,
    /// The servers in use, as they are known to the node; empty for the embedded store.
    pub servers: Vec<String>,
    /// When its commits count as done; `Auto` only as long as servers were not asked.
    pub durability: Durability,
}

impl StoreFacts {
    /// As far as the configuration says.
    pub fn of(config: &Config) -> Self {
        Self {
            kind: config.engine.kind,
            path: config.engine.path.display().to_string(),
            servers: Vec::new(),
            durability: match (config.engine.durability, config.engine.kind) {
                (Durability::Auto, EngineKind::Embedded) => Durability::Sync,
                (durability, _) => durability,
            },
        }
    }

    /// Where it is, for people.
    pub fn place(&self) -> String {
        match self.kind {
            EngineKind::Embedded => self.path.clone(),
            EngineKind::Redis => format!("redis at {}", self.servers.join(", ")),
        }
    }
}

/// How the engine is doing.
#[derive(Clone, Debug)]
pub struct EngineReport {
    /// Whether commits work.
    pub state: EngineState,
    /// The last error there was.
    pub last_error: Option<String>,
    /// Its numbers.
    pub counters: EngineCounters,
}

impl EngineReport {
    /// The report of an engine thread.
    pub fn of(status: &EngineStatus) -> Self {
        Self {
            state: status.state(),
            last_error: status.last_error(),
            counters: status.counters(),
        }
    }

    /// One word for its state: `working`, `full` or `failing`.
    pub fn state_word(&self) -> &'static str {
        match self.state {
            EngineState::Working => "working",
            EngineState::Full => "full",
            EngineState::Failing => "failing",
        }
    }

    /// The error that lasts, if one does.
    pub fn current_error(&self) -> Option<&str> {
        (self.state != EngineState::Working)
            .then(|| self.last_error.as_deref().unwrap_or("unknown"))
    }
}

/// What is known only once the node has opened everything.
pub struct Opened {
    /// The driver the cores use: `io_uring` or `epoll`.
    pub backend: &'static str,
    /// Why this one.
    pub backend_reason: String,
    /// Where clients connect.
    pub listeners: Vec<Listener>,
    /// Where operators connect.
    pub admin: Option<SocketAddr>,
    /// Where health and metrics are to be had from other machines.
    pub monitoring: Option<SocketAddr>,
    /// What the engine stores in.
    pub store: StoreFacts,
    /// Asked at each scrape.
    pub engine: Box<dyn Fn() -> EngineReport + Send + Sync>,
    /// The files of the TLS listeners.
    pub certificates: Arc<Certificates>,
    /// Who may connect.
    pub access: Arc<Access>,
    /// The cluster that it is a member of.
    pub cluster: Option<Arc<ClusterStatus>>,
}

impl NodeStatus {
    /// A node that is not ready yet.
    pub fn new(config: &Config, opened: Opened, started: Instant, started_at_unix_ms: u64) -> Self {
        Self {
            node: config.node.name.0.clone(),
            started,
            started_at_unix_ms,
            cores: config.core_count(),
            backend: opened.backend,
            backend_reason: opened.backend_reason,
            listeners: opened.listeners,
            admin: opened.admin,
            monitoring: opened.monitoring,
            store: opened.store,
            engine: opened.engine,
            certificates: opened.certificates,
            access: opened.access,
            cluster: opened.cluster,
            ready: AtomicBool::new(false),
        }
    }

    /// How the engine is doing now.
    pub fn engine(&self) -> EngineReport {
        (self.engine)()
    }

    /// True exactly when the engine is restored, the listeners are open and the node is not stopping.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// Called when start-up is complete, and with `false` when the node begins to stop.
    pub fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Release);
    }

    /// Seconds since the start.
    pub fn uptime_s(&self) -> u64 {
        tokio::time::Instant::now()
            .into_std()
            .saturating_duration_since(self.started)
            .as_secs()
    }
}

/// What a node says when it has started: where it listens, how it does its I/O, where its data is, and a first thing to try.
pub fn banner(status: &NodeStatus) -> String {
    let mut text = format!(
        "roadstead {VERSION}, node {}, {} cores\n",
        status.node, status.cores
    );
    for Listener { kind, address } in &status.listeners {
        let name = match *kind {
            "websocket_tls" => "wss:".to_owned(),
            kind => format!("{kind}:"),
        };
        let _ = writeln!(text, "  {name:<10} {address}");
    }
    if let Some(address) = status.admin {
        let _ = writeln!(
            text,
            "  admin:     http://{address} (health, metrics; `roadstead ctl`)"
        );
    }
    if let Some(address) = status.monitoring {
        let _ = writeln!(
            text,
            "  monitor:   http://{address} (health and metrics alone)"
        );
    }
    let _ = writeln!(
        text,
        "  I/O:       {}, since {}",
        status.backend, status.backend_reason
    );
    let _ = writeln!(
        text,
        "  engine:    {}, durability {}",
        status.store.place(),
        status.store.durability.word()
    );
    if let Some(address) = status
        .listeners
        .iter()
        .find(|listener| listener.kind == "tcp")
        .map(|listener| listener.address)
    {
        let host = if address.ip().is_unspecified() {
            "127.0.0.1".into()
        } else {
            address.ip().to_string()
        };
        let at = if host == "127.0.0.1" {
            String::new()
        } else {
            format!(" -h {host}")
        };
        let port = if address.port() == 1883 {
            String::new()
        } else {
            format!(" -p {}", address.port())
        };
        let _ = writeln!(
            text,
            "try: mosquitto_sub{at}{port} -t 'hello/#' & mosquitto_pub{at}{port} -t hello/world -m hi"
        );
    }
    text
}
