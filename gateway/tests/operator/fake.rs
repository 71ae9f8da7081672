//! A node whose cores are functions.

use std::future::Future;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::thread::JoinHandle;

use cluster::view::NodeId;
use gateway::admin::{AdminReply, AdminRequest, RetainedInfo, SessionInfo, SubscriptionInfo};
use gateway::config::{AccessMethod, Config, Files, Methods, OptionalUrl};
use gateway::control::access::Access;
use gateway::control::certificates::Certificates;
use gateway::control::cluster::status::ClusterStatus;
use gateway::control::http::{self, Paths};
use gateway::control::status::{EngineReport, Listener, NodeStatus, Opened, StoreFacts};
use gateway::control::{Cores, SendToCore};
use gateway::engine::status::{EngineCounters, EngineState};
use gateway::event_loop::Clock;
use gateway::metrics::CoreSnapshot;
use tokio::sync::oneshot;

/// What a fake core does with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    /// Answers at once.
    Answers,
    /// Takes requests and never answers.
    Stuck,
    /// Takes no requests.
    Full,
}

/// What the requests did, for the tests to look at.
pub(crate) type Requests = Arc<Mutex<Vec<(usize, AdminRequest)>>>;

/// Cores in these moods, and the requests they saw.
pub(crate) fn cores(moods: Arc<Mutex<Vec<Mood>>>) -> (Arc<Cores>, Requests) {
    let requests = Requests::default();
    let this = Arc::new(OnceLock::<Weak<Cores>>::new());
    let count = moods.lock().expect("no panic").len();
    let sender = |core: usize| -> SendToCore {
        let (this, moods, requests) =
            (Arc::clone(&this), Arc::clone(&moods), Arc::clone(&requests));
        Box::new(move |id, request| {
            let mood = moods.lock().expect("no panic")[core];
            if mood == Mood::Full {
                return Err(request);
            }
            requests
                .lock()
                .expect("no panic")
                .push((core, request.clone()));
            if mood == Mood::Answers {
                let cores = this
                    .get()
                    .and_then(Weak::upgrade)
                    .expect("requests come while the cores live");
                cores.answer(id, answer(core, request));
            }
            Ok(())
        })
    };
    let senders = (0..count).map(sender).collect();
    let cores = Arc::new(Cores::new(senders));
    this.set(Arc::downgrade(&cores)).expect("set once");
    (cores, requests)
}

fn answer(core: usize, request: AdminRequest) -> AdminReply {
    match request {
        AdminRequest::Snapshot => AdminReply::Snapshot(Box::new(snapshot(core))),
        AdminRequest::Sessions {
            prefix,
            after,
            limit,
        } => {
            let ids = (0..6)
                .filter(|id| id % 2 == core)
                .map(|id| format!("device-{id}"));
            let wanted = ids
                .filter(|id| id.starts_with(&prefix) && *id > after)
                .take(limit);
            AdminReply::Sessions(wanted.map(|id| session(core, id)).collect())
        }
        AdminRequest::Session { user, client_id } => {
            let own = |session: &SessionInfo| user.is_none() || session.user == user;
            let found = is_home(core, &client_id).then(|| session(core, client_id));
            AdminReply::Session(found.into_iter().filter(own).collect())
        }
        AdminRequest::Kick { client_id, .. } => AdminReply::Kicked(is_home(core, &client_id)),
        AdminRequest::Publish { topic, .. } if topic == "refused" => {
            AdminReply::Published(Err("the engine is full".into()))
        }
        AdminRequest::Publish { .. } => AdminReply::Published(Ok(3)),
        AdminRequest::Subscriptions { prefix, limit } => {
            let rows = [("$share/all/#", true), (["a/b", "c/d"][core % 2], false)];
            let rows = rows
                .into_iter()
                .filter(|(filter, _)| filter.starts_with(&prefix))
                .take(limit);
            let info = |(filter, broad): (&str, bool)| SubscriptionInfo {
                filter: filter.into(),
                subscribers: 2,
                broad,
                queued: u64::from(broad) * (2 + core as u64),
            };
            AdminReply::Subscriptions(rows.map(info).collect())
        }
        AdminRequest::Retained { limit, .. } => {
            let rows = [RetainedInfo {
                topic: format!("r/{core}"),
                qos: 1,
                payload_bytes: 5,
                expires_at_unix_ms: None,
            }];
            AdminReply::Retained(rows.into_iter().take(limit).collect())
        }
        AdminRequest::ClearRetained { .. } => AdminReply::Cleared(Ok(2)),
        AdminRequest::ReloadTls(_) => AdminReply::ReloadedTls,
        AdminRequest::SetPolicy(_) => AdminReply::PolicySet,
    }
}

/// `device-…` is at one core; `twice` has a session of another user at each.
fn is_home(core: usize, client_id: &str) -> bool {
    client_id == "twice" || client_id.starts_with("device-") && client_id.len() % 2 == core
}

fn session(core: usize, client_id: String) -> SessionInfo {
    let user = (client_id == "twice").then(|| format!("user-{core}"));
    let core = u16::try_from(core).expect("few cores");
    SessionInfo {
        client_id,
        user,
        connected: core == 0,
        edge_core: (core == 0).then_some(core),
        home_core: core,
        peer: (core == 0).then(|| "127.0.0.1:50000".into()),
        expiry_s: 3_600,
        durable: true,
        mailbox_messages: 7,
        mailbox_bytes: 2_048,
        disconnected_at_unix_ms: (core != 0).then_some(1_750_000_000_000),
    }
}

/// Numbers that conserve deliveries.
pub(crate) fn snapshot(core: usize) -> CoreSnapshot {
    let mut snapshot = CoreSnapshot {
        bus: Some(Default::default()),
        ..CoreSnapshot::default()
    };
    snapshot.counters.publishes_received = 100 + core as u64;
    snapshot.counters.deliveries_accepted = 50;
    snapshot.counters.deliveries_delivered = 40;
    snapshot.counters.deliveries_expired = 1;
    snapshot.counters.turns = 1_000 * (core as u64 + 1);
    snapshot.dropped[0] = 4;
    snapshot.deliveries_queued = 5;
    snapshot.connections = 10;
    snapshot.sessions_connected = 9;
    snapshot.sessions = 12;
    snapshot.tls = Some(gateway::tls::Stats {
        handshakes_full: 2,
        ..gateway::tls::Stats::default()
    });
    snapshot.quic = Some(gateway::quic::Stats {
        handshakes_full: 3,
        ..gateway::quic::Stats::default()
    });
    snapshot.hottest_roots = (0..8)
        .map(|root| (format!("core{core}/root{root}"), 100 - 10 * root))
        .collect();
    snapshot
}

/// A node's facts, its engine in this state.
pub(crate) fn status(engine: EngineState) -> NodeStatus {
    let folder = scratch();
    let status = status_in(engine, &folder);
    std::fs::remove_dir_all(&folder).expect("it was made");
    status
}

fn status_in(engine: EngineState, folder: &Path) -> NodeStatus {
    let mut config = Config::default();
    config.node.cores = gateway::config::CoreCount::Exactly(2);
    let report = move || EngineReport {
        state: engine,
        last_error: (engine != EngineState::Working)
            .then(|| "no space left for the store data".into()),
        counters: EngineCounters {
            commits: 3,
            commit_latency_us_sum: 1_500,
            disk_bytes: 4_096,
            ..EngineCounters::default()
        },
    };
    let address = |text: &str| text.parse::<SocketAddr>().expect("an address");
    let opened = Opened {
        backend: "io_uring",
        backend_reason: "io_uring works (kernel \"6.18\")".into(),
        listeners: vec![Listener {
            kind: "tcp",
            address: address("127.0.0.1:1883"),
        }],
        admin: Some(address("127.0.0.1:9883")),
        monitoring: None,
        store: StoreFacts::of(&config),
        engine: Box::new(report),
        certificates: Arc::new(certificates()),
        access: Arc::new(access(folder)),
        cluster: Some(Arc::new(ClusterStatus::of_nobody("roadstead", ME))),
    };
    let status = NodeStatus::new(
        &config,
        opened,
        tokio::time::Instant::now().into_std(),
        1_750_000_000_000,
    );
    status.set_ready(true);
    status
}

/// The node in its cluster.
const ME: NodeId = NodeId {
    uid: 0xA1,
    incarnation: 1_750_000_000_000,
};

/// A folder that nobody else has.
fn scratch() -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("roadstead-operator-{}-{count}", std::process::id());
    let folder = std::env::temp_dir().join(name);
    std::fs::create_dir_all(&folder).expect("a folder");
    folder
}

/// Methods of every kind, with keys that are never fetched because nothing runs.
fn access(folder: &Path) -> Access {
    let mut config = Config::default();
    config.engine.path = folder.to_owned();
    let methods = [AccessMethod::Token, AccessMethod::Http];
    config.access.methods = Methods(methods.to_vec());
    config.token.jwks_url = OptionalUrl(Some("http://127.0.0.1:9/keys".into()));
    config.http.url = OptionalUrl(Some("http://127.0.0.1:9/ask".into()));
    Access::open(&config, Clock::start()).expect("nothing is wrong")
}

/// The files of a TLS listener, read once.
fn certificates() -> Certificates {
    let folder = scratch();
    let key = rcgen::KeyPair::generate().expect("a key");
    let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
    let chain = params.self_signed(&key).expect("it signs itself");
    let files = [("tls.crt", chain.pem()), ("tls.key", key.serialize_pem())];
    let [chain, key] = files.map(|(name, text)| {
        let path = folder.join(name);
        std::fs::write(&path, text).expect("it is written");
        Files(vec![path])
    });
    let mut config = Config::default();
    config.listeners.tls = vec!["127.0.0.1:8883".parse().expect("an address")];
    config.tls.certificates = chain;
    config.tls.keys = key;
    let certificates = Certificates::of(&config).expect("random numbers");
    certificates.read().expect("good files");
    std::fs::remove_dir_all(&folder).expect("it was made");
    certificates
}

/// A node that serves until it is dropped.
pub(crate) struct Node {
    pub(crate) address: SocketAddr,
    pub(crate) moods: Arc<Mutex<Vec<Mood>>>,
    pub(crate) requests: Requests,
    pub(crate) status: Arc<NodeStatus>,
    folder: PathBuf,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Node {
    pub(crate) fn start() -> Self {
        Self::with(&Config::default(), EngineState::Working)
    }

    pub(crate) fn with(config: &Config, engine: EngineState) -> Self {
        Self::answering(Paths::All, config, engine)
    }

    /// The listener for probes and scrapes.
    pub(crate) fn monitoring() -> Self {
        Self::answering(Paths::Monitoring, &Config::default(), EngineState::Working)
    }

    fn answering(paths: Paths, config: &Config, engine: EngineState) -> Self {
        let moods = Arc::new(Mutex::new(vec![Mood::Answers; 2]));
        let (cores, requests) = cores(Arc::clone(&moods));
        let folder = scratch();
        let status = Arc::new(status_in(engine, &folder));
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let (stop, stopped) = oneshot::channel::<()>();
        let (settings, served) = (config.admin.clone(), Arc::clone(&status));
        let thread = std::thread::spawn(move || {
            run(async {
                let shutdown = async { drop(stopped.await) };
                http::serve(listener, paths, cores, served, settings, shutdown)
                    .await
                    .expect("the listener is good");
            });
        });
        Self {
            address,
            moods,
            requests,
            status,
            folder,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    pub(crate) fn set_mood(&self, core: usize, mood: Mood) {
        self.moods.lock().expect("no panic")[core] = mood;
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        drop(self.stop.take());
        let _ = std::fs::remove_dir_all(&self.folder);
        if let Some(thread) = self.thread.take() {
            assert!(
                thread.join().is_ok() || std::thread::panicking(),
                "the server ends without a panic"
            );
        }
    }
}

/// Runs a future on a runtime like that of the control thread.
pub(crate) fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(future)
}
