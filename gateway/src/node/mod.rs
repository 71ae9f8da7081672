//! A node: its cores, its engine and its control thread, from start to stop.
//!
//! Start: choose the backend → open the engine → start the cores (each makes its driver) → hand each core its part of the
//! store and its ends of the mesh → listen → ready. Stop: cores tell their clients and end → the engine commits the rest.

mod clustered;
mod core_thread;
mod error;
mod listeners;
mod servers;
mod store;

use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use reactor::driver::{Backend, Waker};
use reactor::mesh::{InboxSender, LaneCapacity, inbox, mesh};
use reactor::probe::{Choice, choose, probe, raise_nofile_limit};

use crate::access::policy::Verdict;
use crate::admin::AdminRequest;
use crate::config::{Config, Protocol};
use crate::control::access::{Access, own_secret};
use crate::control::certificates::Certificates;
use crate::control::cluster::to_core::INBOX_TO_CORE;
use crate::control::cluster::{Cluster, Life};
use crate::control::http::{self, Paths};
use crate::control::status::{EngineReport, Listener, NodeStatus, Opened, StoreFacts, banner};
use crate::control::{Cores, SendToCore};
use crate::engine::Engine;
use crate::engine::thread::EngineThread;
use crate::event_loop::{Clock, EngineBacklog, Stopping};
use crate::ownership::Ownership;
use crate::quic::NodeKeys;
use crate::turn::Facts;

use clustered::SharedServers;
pub use clustered::{SharedEngine, run_in_cluster};
use core_thread::{CoreKit, CorePlan};
pub use error::StartError;
use error::system;
use listeners::{Datagrams, Operators, bind_datagrams, plan_listeners, proxied};
use store::Store;

/// What a core thread says while it starts, and when it ends.
enum CoreReport {
    /// Its driver exists.
    Waker(u16, Waker),
    /// It listens; the bound addresses in the order of its plan.
    Listening(Vec<SocketAddr>),
    /// It cannot go on.
    Failed(StartError),
}

/// Entries of the mesh between two cores: fewer when there are many cores, whose rings multiply.
fn lane_capacity(cores: u16) -> LaneCapacity {
    let entries = (8_192 / u32::from(cores))
        .clamp(128, 2_048)
        .next_power_of_two();
    LaneCapacity {
        control: entries,
        data: entries,
    }
}

/// Requests of operators and answers of the engine that wait for one core.
const INBOX_REQUESTS: usize = 1_024;
const INBOX_COMPLETIONS: usize = 8_192;
/// Verdicts that wait for one core; further ones wait in the control thread.
const INBOX_VERDICTS: usize = 1_024;

/// The keys of QUIC, in part from a file in the folder that the store has made. `None` without QUIC listeners.
fn quic_keys(config: &Config, certificates: &Certificates) -> Result<Option<NodeKeys>, StartError> {
    if config.listeners.quic.is_empty() {
        return Ok(None);
    }
    let own = own_secret(&config.engine.path, "quic.secret").map_err(StartError::QuicSecret)?;
    Ok(Some(certificates.quic_keys(&own)?))
}

/// Runs a node until it is told to stop by SIGINT or SIGTERM.
///
/// # Errors
/// See [`StartError`].
pub fn run(config: Config) -> Result<(), StartError> {
    let clock = Clock::start();
    if config.cluster.name.0.is_none() {
        return live(config, clock, None);
    }
    let servers = SharedServers::of(&config, clock)?;
    run_in_cluster(&config, clock, &servers)
}

/// What a life of a node in a cluster has besides.
struct InCluster<'a> {
    life: Life,
    cluster: &'a Cluster,
    engine: Box<dyn Engine + Send>,
    facts: StoreFacts,
}

/// From start to stop: the whole run of a node that is alone, one life of a node in a cluster.
fn live(config: Config, clock: Clock, in_cluster: Option<InCluster<'_>>) -> Result<(), StartError> {
    let cores = u16::try_from(config.core_count()).unwrap_or(u16::MAX);
    raise_nofile_limit().map_err(system("more open files"))?;
    let choice = choose_backend(&config)?;
    let operators = Operators::bind(&config)?;
    let plan = plan_listeners(&config)?;
    let proxied = proxied(&config, &plan);
    let datagrams = bind_datagrams(&config, cores)?;
    let certificates = Certificates::of(&config)?;
    let acceptors = certificates.read()?;
    let (ownership, store, member) = open(&config, clock, cores, in_cluster)?;
    let here = ownership.here();
    let access = Access::open(&config, clock)?; // In the folder that the store has made.
    let quic_keys = quic_keys(&config, &certificates)?;
    warn_of(&config);

    let (reports, report_receiver) = channel();
    let stopping = Arc::new(Stopping::default());
    let engine_backlog = Arc::new(EngineBacklog::default());
    let mut threads = Vec::new();
    let mut kits = Vec::new();
    let facts = facts(&config)?;
    for core in 0..cores {
        let (kit_sender, kit_receiver) = channel();
        let plan = CorePlan {
            core,
            life: member.as_ref().map(|member| member.life.clone()),
            backend: choice.backend,
            driver: config.driver_config(),
            pin: config.node.pin_cores,
            listen: config.listen_options(),
            policy: access.policy(),
            ownership: Arc::clone(&ownership),
            boot: store.boot,
            facts: Facts {
                core: here.start + core,
                ..facts.clone()
            },
            clock,
            stopping: Arc::clone(&stopping),
            engine_backlog: Arc::clone(&engine_backlog),
            quiet_wait: config.io.quiet_wait,
            tls: config.to_tls_limits(),
            acceptors: acceptors.clone(),
            gate: config.to_gate_limits(),
            proxy: config.to_proxy_limits(),
            proxied: proxied.clone(),
            quic: config.to_quic_limits(),
            quic_keys: quic_keys.clone(),
        };
        threads.push(core_thread::spawn(plan, reports.clone(), kit_receiver)?);
        kits.push(kit_sender);
    }
    drop(reports);
    let wakers = collect_wakers(&report_receiver, cores)?;
    let node = Node {
        config,
        clock,
        choice,
        stopping,
        wakers,
        threads,
        report_receiver,
        ownership,
        certificates: Arc::new(certificates),
        access: Arc::new(access),
        store: store.facts.clone(),
        member,
    };
    node.start(store, kits, (plan, datagrams), operators)
}

fn choose_backend(config: &Config) -> Result<Choice, StartError> {
    let choice = choose(config.io_preference(), &probe(&config.driver_config()))?;
    if let Some(remedy) = &choice.remedy {
        tracing::warn!(reason = %choice.reason, %remedy, "io_uring cannot be used; epoll is used instead");
    }
    Ok(choice)
}

/// A life, and the cluster part that it is one of.
struct Member<'a> {
    life: Life,
    cluster: &'a Cluster,
}

/// Who owns what, and the store: of this node alone, or of its cluster.
fn open<'a>(
    config: &Config,
    clock: Clock,
    cores: u16,
    in_cluster: Option<InCluster<'a>>,
) -> Result<(Arc<Ownership>, Store, Option<Member<'a>>), StartError> {
    let Some(InCluster {
        life,
        cluster,
        engine,
        facts,
    }) = in_cluster
    else {
        let ownership = Arc::new(Ownership::alone(cores));
        let store = Store::open(config, &ownership, clock.now().unix_ms)?;
        return Ok((ownership, store, None));
    };
    std::fs::create_dir_all(&config.engine.path).map_err(system("the folder engine.path"))?;
    let store = Store::shared(engine, facts, &life);
    let ownership = Arc::clone(&life.ownership);
    Ok((ownership, store, Some(Member { life, cluster })))
}

/// A node whose cores have drivers.
struct Node<'a> {
    config: Config,
    clock: Clock,
    choice: Choice,
    stopping: Arc<Stopping>,
    wakers: Vec<Waker>,
    threads: Vec<JoinHandle<()>>,
    report_receiver: Receiver<CoreReport>,
    ownership: Arc<Ownership>,
    certificates: Arc<Certificates>,
    access: Arc<Access>,
    store: StoreFacts,
    /// `None` when the node is alone.
    member: Option<Member<'a>>,
}

impl Node<'_> {
    /// Connects the cores with each other, the engine and the control thread, and serves until the stop.
    fn start(
        self,
        store: Store,
        kits: Vec<Sender<CoreKit>>,
        (mut listeners, mut datagrams): (Vec<(Listener, Protocol)>, Datagrams),
        operators: Operators,
    ) -> Result<(), StartError> {
        let cores = self.ownership.here().len() as u16;
        let mut completion_senders = Vec::new();
        let mut completions = Vec::new();
        let mut senders = Vec::new();
        let mut requests = Vec::new();
        let mut verdict_senders = Vec::new();
        let mut verdicts = Vec::new();
        for waker in &self.wakers {
            let (sender, receiver) = inbox(INBOX_COMPLETIONS, waker.clone());
            completion_senders.push(sender);
            completions.push(receiver);
            let (sender, receiver) = inbox(INBOX_REQUESTS, waker.clone());
            senders.push(send_to_core(sender));
            requests.push(receiver);
            let (sender, receiver) = inbox(INBOX_VERDICTS, waker.clone());
            verdict_senders.push(sender);
            verdicts.push(receiver);
        }
        let control = Arc::new(Cores::new(senders));
        let (engine, commands, restored) = store
            .start(&self.config, self.ownership.here(), completion_senders)
            .map_err(system("the engine thread"))?;
        let (mut to_cores, mut cluster_senders) = (Vec::new(), Vec::new());
        for waker in self.wakers.iter().filter(|_| self.member.is_some()) {
            let (sender, receiver) = inbox(INBOX_TO_CORE, waker.clone());
            cluster_senders.push(sender);
            to_cores.push(receiver);
        }
        let mut to_cores = to_cores.into_iter();
        let parts = commands
            .into_iter()
            .zip(completions)
            .zip(requests)
            .zip(verdicts)
            .zip(restored)
            .zip(mesh(usize::from(cores), lane_capacity(cores)));
        for (core, (((((engine, completions), requests), verdicts), restored), port)) in
            parts.enumerate()
        {
            let kit = CoreKit {
                port,
                to_core: to_cores.next(),
                wakers: self.wakers.clone(),
                engine,
                completions,
                requests,
                verdicts,
                asker: self.access.asker(),
                cores: Arc::clone(&control),
                restored,
                listeners: listeners
                    .iter()
                    .map(|(listener, protocol)| (listener.clone(), *protocol))
                    .collect(),
                datagrams: std::mem::take(&mut datagrams.sockets[core]),
            };
            let bound = self.hand_over(&kits[core], kit)?;
            // The first core turns port 0 into a port; the others join it.
            for ((listener, _), address) in listeners.iter_mut().zip(bound) {
                listener.address = address;
            }
        }
        let listeners = listeners
            .into_iter()
            .map(|(listener, _)| listener)
            .chain(datagrams.listeners)
            .collect();
        if let Some(member) = &self.member {
            member.cluster.attach(cluster_senders);
        }
        self.serve(engine, control, listeners, operators, verdict_senders)
    }

    /// Gives a core its kit and waits until it listens.
    fn hand_over(
        &self,
        kit_sender: &Sender<CoreKit>,
        kit: CoreKit,
    ) -> Result<Vec<SocketAddr>, StartError> {
        let gone = || StartError::System {
            what: "a core thread",
            source: std::io::ErrorKind::BrokenPipe.into(),
        };
        kit_sender.send(kit).map_err(|_| gone())?;
        match self.report_receiver.recv().map_err(|_| gone())? {
            CoreReport::Listening(addresses) => Ok(addresses),
            CoreReport::Failed(error) => Err(error),
            CoreReport::Waker(..) => Err(gone()),
        }
    }

    /// The control thread: admin HTTP and signals, until the node stops.
    fn serve(
        self,
        engine: EngineThread,
        control: Arc<Cores>,
        listeners: Vec<Listener>,
        operators: Operators,
        verdicts: Vec<InboxSender<Verdict>>,
    ) -> Result<(), StartError> {
        let engine_status = engine.status();
        let opened = Opened {
            backend: match self.choice.backend {
                Backend::IoUring => "io_uring",
                Backend::Epoll | Backend::Fake => "epoll",
            },
            backend_reason: self.choice.reason.clone(),
            listeners,
            admin: bound(&operators.admin),
            monitoring: bound(&operators.monitoring),
            store: self.store.clone(),
            engine: Box::new(move || EngineReport::of(&engine_status)),
            certificates: Arc::clone(&self.certificates),
            access: Arc::clone(&self.access),
            cluster: self
                .member
                .as_ref()
                .map(|it| Arc::clone(it.cluster.status())),
        };
        let started = self.clock.now();
        let status = Arc::new(NodeStatus::new(
            &self.config,
            opened,
            self.clock.started(),
            started.unix_ms,
        ));
        status.set_ready(true);
        let mut stdout = std::io::stdout();
        let _ = write!(stdout, "{}", banner(&status)).and_then(|()| stdout.flush()); // Nobody may be reading.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(system("the control runtime"))?;
        let outcome = runtime.block_on(self.control(operators, control, &status, verdicts));
        runtime.shutdown_background(); // A name that is still looked up must not keep the node from stopping.
        status.set_ready(false);
        self.stop(engine);
        outcome
    }

    async fn control(
        &self,
        operators: Operators,
        cores: Arc<Cores>,
        status: &Arc<NodeStatus>,
        verdicts: Vec<InboxSender<Verdict>>,
    ) -> Result<(), StartError> {
        let end = self.end();
        tokio::pin!(end);
        let mut tick = tokio::time::interval(std::time::Duration::from_millis(250));
        let stopped = async {
            loop {
                tokio::select! {
                    ended = &mut end => return ended,
                    _ = tick.tick() => {
                        if let Ok(CoreReport::Failed(error)) = self.report_receiver.try_recv() {
                            return Err(error);
                        }
                    }
                }
            }
        };
        let watched = Arc::clone(&cores);
        let stopped = async {
            tokio::select! {
                outcome = stopped => outcome,
                () = self.certificates.watch(&watched) => Ok(()),
                () = self.access.serve(Arc::clone(&watched), verdicts) => Ok(()),
            }
        };
        let (stop, told) = tokio::sync::watch::channel(());
        let serve = |listener: Option<TcpListener>, paths| {
            let (cores, status) = (Arc::clone(&cores), Arc::clone(status));
            let (settings, mut told) = (self.config.admin.clone(), told.clone());
            async move {
                let told = async {
                    let _ = told.changed().await; // Dropping the sender is the signal.
                };
                match listener {
                    Some(listener) => {
                        http::serve(listener, paths, cores, status, settings, told).await
                    }
                    None => {
                        told.await;
                        Ok(())
                    }
                }
            }
        };
        let server = async {
            let admin = serve(operators.admin, Paths::All);
            let monitoring = serve(operators.monitoring, Paths::Monitoring);
            tokio::try_join!(admin, monitoring).map(drop)
        };
        tokio::pin!(server);
        tokio::select! {
            outcome = stopped => {
                status.set_ready(false);
                drop(stop);
                let _ = server.await; // The requests being served are finished first.
                outcome
            }
            outcome = &mut server => outcome.map_err(system("the admin listener")),
        }
    }

    /// Comes back when the node is to stop. In a cluster its cluster part takes the signals, since there is more to do then.
    async fn end(&self) -> Result<(), StartError> {
        use tokio::signal::unix::{SignalKind, signal};
        if let Some(member) = &self.member {
            let mut ended = member.life.ended.clone();
            let _ = ended.wait_for(Option::is_some).await; // The cluster part is gone: so is the life.
            return Ok(());
        }
        let mut terminate =
            signal(SignalKind::terminate()).map_err(system("the handling of SIGTERM"))?;
        let mut interrupt =
            signal(SignalKind::interrupt()).map_err(system("the handling of SIGINT"))?;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        Ok(())
    }

    /// Ends the cores, then the engine.
    fn stop(self, engine: EngineThread) {
        tracing::info!("stopping");
        self.stopping.requested.store(true, Ordering::Release);
        for waker in &self.wakers {
            waker.wake();
        }
        for thread in self.threads {
            let _ = thread.join(); // A panic has been printed where it happened.
        }
        let report = engine.stop();
        if report.uncommitted > 0 {
            tracing::error!(
                commands = report.uncommitted,
                "stopped before everything was stored; nothing of it was acknowledged"
            );
        }
    }
}

fn bound(listener: &Option<TcpListener>) -> Option<SocketAddr> {
    listener.as_ref()?.local_addr().ok()
}

fn facts(config: &Config) -> Result<Facts, StartError> {
    Ok(Facts {
        core: 0,
        limits: config.to_limits(),
        root_depths: config.root_depths(),
        websocket_path: config.listeners.websocket_path.0.as_str().into(),
        seed: random_u64()?,
    })
}

/// Says what is allowed and probably not meant.
fn warn_of(config: &Config) {
    let warnings = config.access_warnings().into_iter();
    let warnings = warnings.chain(config.engine_warnings());
    warnings.for_each(|warning| tracing::warn!("{warning}"));
}

/// A number that nobody can guess.
fn random_u64() -> Result<u64, StartError> {
    let mut bytes = [0u8; 8];
    let read = std::fs::File::open("/dev/urandom")
        .and_then(|mut file| std::io::Read::read_exact(&mut file, &mut bytes));
    read.map_err(system("random numbers"))?;
    Ok(u64::from_ne_bytes(bytes))
}

fn collect_wakers(reports: &Receiver<CoreReport>, cores: u16) -> Result<Vec<Waker>, StartError> {
    let mut wakers: Vec<Option<Waker>> = vec![None; usize::from(cores)];
    for _ in 0..cores {
        match reports.recv() {
            Ok(CoreReport::Waker(core, waker)) => wakers[usize::from(core)] = Some(waker),
            Ok(CoreReport::Failed(error)) => return Err(error),
            Ok(CoreReport::Listening(_)) | Err(_) => break,
        }
    }
    wakers
        .into_iter()
        .collect::<Option<Vec<Waker>>>()
        .ok_or_else(|| StartError::System {
            what: "the core threads",
            source: std::io::ErrorKind::BrokenPipe.into(),
        })
}

fn send_to_core(sender: InboxSender<(u64, AdminRequest)>) -> SendToCore {
    Box::new(move |id, request| sender.send((id, request)).map_err(|(_, request)| request))
}
