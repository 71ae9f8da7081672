//! What nodes of a test share, and the cluster parts of nodes without cores.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cluster::coordinator::{Content, Stored, Written};
use cluster::view::{Version, View};
use gateway::config::{Host, Seed};
use gateway::control::cluster::settings::Settings;
use gateway::control::cluster::status::StatusReport;
use gateway::control::cluster::{Cluster, ClusterError, Life};
use gateway::engine::views::{ViewStore, ViewStoreError};
use gateway::event_loop::Clock;

pub(crate) const KEYS: [&str; 2] = [
    "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
    "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=",
];
/// How long anything may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(40);

/// The store of views of a cluster, in memory.
#[derive(Default)]
pub(crate) struct Views {
    stored: Mutex<(Option<Arc<View>>, u64)>,
    /// True while it answers nobody.
    pub(crate) fails: AtomicBool,
}

impl ViewStore for Views {
    fn read(&self, known: Option<Version>, beat: bool) -> Result<Stored, ViewStoreError> {
        if self.fails.load(Ordering::Acquire) {
            return Err(ViewStoreError("it was told to fail".into()));
        }
        let mut stored = self.stored.lock().expect("no panic while held");
        let version = stored.0.as_ref().map(|view| view.version());
        let is_known = version.is_some() && version == known;
        stored.1 += u64::from(beat && is_known);
        let content = match &stored.0 {
            None => Content::Nothing,
            Some(_) if is_known => Content::Known,
            Some(view) => Content::View(Arc::clone(view)),
        };
        let beat = stored.1;
        Ok(Stored { content, beat })
    }

    fn compare_and_set(&self, expected: Option<Version>, view: &View, _: Version) -> Written {
        if self.fails.load(Ordering::Acquire) {
            return Written::Unknown;
        }
        let mut stored = self.stored.lock().expect("no panic while held");
        if stored.0.as_ref().map(|view| view.version()) != expected {
            return Written::Changed;
        }
        stored.0 = Some(Arc::new(view.clone()));
        Written::Done
    }
}

/// A loopback address that no other test of this process has.
pub(crate) fn address() -> IpAddr {
    static LAST: AtomicU8 = AtomicU8::new(1);
    let pid = std::process::id();
    let last = LAST.fetch_add(1, Ordering::Relaxed);
    IpAddr::V4(Ipv4Addr::new(127, (pid >> 8) as u8, pid as u8, last))
}

/// A port that is free at an address for both protocols.
pub(crate) fn free_port(address: IpAddr) -> u16 {
    let listener = TcpListener::bind((address, 0)).expect("there are free ports");
    listener.local_addr().expect("it is bound").port()
}

/// A file of ours with this text.
pub(crate) fn file(text: &str) -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("roadstead-cluster-{}-{count}", std::process::id());
    let path = std::env::temp_dir().join(name);
    std::fs::write(&path, text).expect("a file can be written");
    path
}

/// A node without cores.
pub(crate) struct Part {
    pub(crate) cluster: Cluster,
    pub(crate) gossip: SocketAddr,
}

/// How a part is started.
pub(crate) struct Start {
    pub(crate) name: &'static str,
    pub(crate) key: &'static str,
    pub(crate) uid: u64,
    pub(crate) seeds: Vec<SocketAddr>,
}

impl Start {
    pub(crate) fn usual(uid: u64, seeds: &[&Part]) -> Self {
        Self {
            name: "roadstead",
            key: KEYS[0],
            uid,
            seeds: seeds.iter().map(|part| part.gossip).collect(),
        }
    }

    pub(crate) fn start(self, views: &Arc<Views>) -> Part {
        let ip = address();
        let gossip = SocketAddr::new(ip, free_port(ip));
        let seed = |seed: SocketAddr| Seed {
            host: Host::Address(seed.ip()),
            port: seed.port(),
        };
        let settings = Settings {
            name: self.name.into(),
            key_file: file(self.key),
            seeds: self.seeds.into_iter().map(seed).collect(),
            gossip,
            bus: SocketAddr::new(ip, free_port(ip)),
            advertise: None,
            reference: "".into(),
            weight: 2,
            uid: Some(self.uid),
            cores: 2,
        };
        let mut random = [gossip.port() as u8; 32];
        random[..4].copy_from_slice(&gossip.port().to_le_bytes().repeat(2));
        random[4..12].copy_from_slice(&self.uid.to_le_bytes());
        let views: Arc<Views> = Arc::clone(views);
        let cluster =
            Cluster::start(settings, Clock::start(), views, random).expect("it can be started");
        Part { cluster, gossip }
    }
}

impl Part {
    pub(crate) fn status(&self) -> StatusReport {
        self.cluster.status().report()
    }

    /// The next life; it comes within the limits of the test runner.
    pub(crate) fn life(&self) -> Life {
        let next = self.cluster.next_life().expect("it can be a member");
        next.expect("it is not told to stop")
    }

    pub(crate) fn refused(&self) -> ClusterError {
        self.cluster
            .next_life()
            .map(drop)
            .expect_err("it must not be a member")
    }

    /// Uids of the members of its view.
    pub(crate) fn members(&self) -> Vec<String> {
        let members = self.cluster.status().view().members;
        members
            .into_iter()
            .map(|member| member.node[..16].to_owned())
            .collect()
    }
}

/// Waits until something holds.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) -> Duration {
    let clock = Clock::start();
    while !holds() {
        let waited = clock.now().mono_ms;
        assert!(
            u128::from(waited) < LIMIT.as_millis(),
            "{what}: not after {waited} ms"
        );
        std::thread::park_timeout(Duration::from_millis(20));
    }
    Duration::from_millis(clock.now().mono_ms)
}
