//! The thread of one core: makes its driver, takes its kit, listens, and turns until the node stops.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use reactor::datagram::{DatagramSocket, DatagramSocketId};
use reactor::driver::{Backend, Driver, DriverConfig, ListenOptions, Waker};
use reactor::epoll::EpollDriver;
use reactor::mesh::{Inbox, Port};
use reactor::probe::pin_to_cpu;
use reactor::uring::UringDriver;

use super::{CoreReport, StartError, system};
use crate::access::gate::{Gate, GateLimits};
use crate::access::policy::{Policy, Verdict};
use crate::admin::AdminRequest;
use crate::config::Protocol;
use crate::control::Cores;
use crate::control::access::Asker;
use crate::control::certificates::{CertificateError, Certificates};
use crate::control::cluster::Life;
use crate::control::cluster::to_core::ToCore;
use crate::control::status::Listener;
use crate::engine::thread::CommandSender;
use crate::engine::{Completion, Restored};
use crate::event_loop::{
    Activity, Bus, BusLimits, Clock, Clustered, EngineBacklog, Envelope, EventLoop, ListenerKind,
    Newcomers, NewcomersBounds, Place, Proxied, ProxyLimits, Quic, Secured, Stopping,
};
use crate::limits::{QuicLimits, TlsLimits};
use crate::outbox::Outbox;
use crate::ownership::Ownership;
use crate::quic::{Endpoints, Listening, NodeKeys};
use crate::shard::Shard;
use crate::tls::Acceptor;
use crate::turn::{Congestion, Facts, Now};

/// The number of this node: there is one.
const NODE: u16 = 0;

/// What a core is, known before its thread starts.
pub(super) struct CorePlan {
    /// Its place among the cores of this node, from 0.
    pub(super) core: u16,
    /// The life of the node in its cluster; `None` when it is alone.
    pub(super) life: Option<Life>,
    pub(super) backend: Backend,
    pub(super) driver: DriverConfig,
    pub(super) pin: bool,
    pub(super) listen: ListenOptions,
    /// Who may come in and do what.
    pub(super) policy: Arc<Policy>,
    pub(super) ownership: Arc<Ownership>,
    pub(super) boot: u32,
    pub(super) facts: Facts,
    pub(super) clock: Clock,
    pub(super) stopping: Arc<Stopping>,
    pub(super) engine_backlog: Arc<EngineBacklog>,
    pub(super) quiet_wait: Duration,
    pub(super) tls: TlsLimits,
    /// By place; none without TLS listeners.
    pub(super) acceptors: Vec<Arc<Acceptor>>,
    pub(super) gate: GateLimits,
    pub(super) proxy: Option<ProxyLimits>,
    /// By listener: whether its connections begin with a PROXY header.
    pub(super) proxied: Vec<bool>,
    pub(super) quic: QuicLimits,
    /// `None` without QUIC listeners.
    pub(super) quic_keys: Option<NodeKeys>,
}

/// What a core gets once all drivers exist.
pub(super) struct CoreKit {
    pub(super) port: Port<Envelope>,
    /// What the cluster part tells it; none when the node is alone.
    pub(super) to_core: Option<Inbox<ToCore>>,
    pub(super) wakers: Vec<Waker>,
    pub(super) engine: CommandSender,
    pub(super) completions: Inbox<Completion>,
    pub(super) requests: Inbox<(u64, AdminRequest)>,
    pub(super) verdicts: Inbox<Verdict>,
    pub(super) asker: Asker,
    pub(super) cores: Arc<Cores>,
    /// Its part of the store; with each item the home core of its session.
    pub(super) restored: Vec<(Restored, u16)>,
    /// What to listen on, with the configuration keys.
    pub(super) listeners: Vec<(Listener, Protocol)>,
    /// Its sockets for QUIC, by listener.
    pub(super) datagrams: Vec<DatagramSocket>,
}

/// Starts the thread of a core.
pub(super) fn spawn(
    plan: CorePlan,
    reports: Sender<CoreReport>,
    kit: Receiver<CoreKit>,
) -> Result<JoinHandle<()>, StartError> {
    let thread = std::thread::Builder::new().name(format!("core-{}", plan.core));
    let body = move || {
        let (core, backend, config) = (plan.core, plan.backend, plan.driver);
        if plan.pin
            && let Err(error) = pin_to_cpu(usize::from(core))
        {
            tracing::warn!(core, %error, "the core could not be pinned to a CPU");
        }
        let failed = |source| StartError::Driver { core, source };
        let outcome = match backend {
            Backend::IoUring => UringDriver::new(config)
                .map_err(failed)
                .and_then(|driver| live(plan, driver, &reports, &kit)),
            Backend::Epoll | Backend::Fake => EpollDriver::new(config)
                .map_err(failed)
                .and_then(|driver| live(plan, driver, &reports, &kit)),
        };
        if let Err(error) = outcome {
            let _ = reports.send(CoreReport::Failed(error)); // The node is stopping anyway when nobody listens.
        }
    };
    thread.spawn(body).map_err(system("a core thread"))
}

/// The life of a core.
fn live<D: Driver>(
    plan: CorePlan,
    mut driver: D,
    reports: &Sender<CoreReport>,
    kit: &Receiver<CoreKit>,
) -> Result<(), StartError> {
    let core = plan.core;
    let told = reports.send(CoreReport::Waker(core, driver.waker()));
    if told.is_err() {
        return Ok(());
    }
    let Ok(kit) = kit.recv() else { return Ok(()) };
    let now = plan.clock.now();
    let seed = plan.facts.seed;
    let here = plan.ownership.here();
    let mut outbox = Outbox::new(here.start + core, here.clone());
    let mut shard = Shard::new(plan.facts, plan.ownership, plan.policy, plan.boot, now);
    for (item, home) in &kit.restored {
        shard.restore(now, item, *home, &mut outbox);
    }
    let bound = listen(&mut driver, &kit.listeners, plan.listen)?;
    let cores = here.len() as u16;
    let life = plan.life.as_ref().zip(kit.to_core);
    let cluster = clustered(&mut driver, life, core, cores, seed)?;
    let place = (core, cores);
    let started = (plan.clock.started(), now);
    let listening = (plan.quic_keys, kit.datagrams);
    let quic = quic(
        &mut driver,
        listening,
        place,
        plan.quic,
        &plan.acceptors,
        started,
    )?;
    if reports.send(CoreReport::Listening(bound)).is_err() {
        return Ok(());
    }
    let newcomers = NewcomersBounds::of(&plan.tls, plan.listen);
    let event_loop = EventLoop {
        driver,
        shard,
        outbox,
        port: kit.port,
        for_cores: here.map(|_| Default::default()).collect(),
        envelopes: Vec::new(),
        cluster,
        wakers: kit.wakers,
        engine: kit.engine,
        completions: kit.completions,
        requests: kit.requests,
        verdicts: kit.verdicts,
        asker: kit.asker,
        cores: kit.cores,
        listeners: kinds(&kit.listeners, &plan.proxied),
        secured: (!plan.acceptors.is_empty()).then(|| Secured::new(plan.tls, &plan.acceptors)),
        gate: Gate::new(plan.gate, seed),
        newcomers: Newcomers::new(newcomers),
        accepted: 0,
        proxied: plan.proxy.map(Proxied::new),
        quic,
        clock: plan.clock,
        stopping: plan.stopping,
        engine_backlog: plan.engine_backlog,
        congestion: Congestion::default(),
        told: Congestion::default(),
        quiet_wait: plan.quiet_wait,
        activity: Activity::default(),
        stop_by_ms: None,
        give_up_ms: u64::MAX,
        watched: Vec::new(),
    };
    event_loop
        .run()
        .map_err(|source| StartError::Driver { core, source })
}

/// The QUIC of a core, on the sockets that the main thread has bound; `None` without QUIC listeners.
fn quic(
    driver: &mut impl Driver,
    (keys, sockets): (Option<NodeKeys>, Vec<DatagramSocket>),
    (core, cores): (u16, u16),
    limits: QuicLimits,
    acceptors: &[Arc<Acceptor>],
    (origin, now): (Instant, Now),
) -> Result<Option<Quic>, StartError> {
    let (Some(keys), Some(acceptor)) = (keys, acceptors.get(Quic::ACCEPTOR)) else {
        return Ok(None);
    };
    let listening = Listening {
        keys,
        node: NODE,
        core,
        cores,
    };
    let addresses: Vec<SocketAddr> = sockets.iter().map(DatagramSocket::address).collect();
    let sockets = adopt(driver, sockets)?;
    let endpoints = Endpoints::new(limits, listening, acceptor, &addresses, origin, now);
    let endpoints = endpoints.map_err(CertificateError::from)?;
    Ok(Some(Quic::new(endpoints, sockets)))
}

/// The part of a core that knows of other nodes; `None` when the node is alone.
fn clustered(
    driver: &mut impl Driver,
    life: Option<(&Life, Inbox<ToCore>)>,
    core: u16,
    cores: u16,
    seed: u64,
) -> Result<Option<Clustered>, StartError> {
    let Some((life, inbox)) = life else {
        return Ok(None);
    };
    let place = Place {
        cluster: life.cluster.clone(),
        node: life.node,
        core,
        cores,
    };
    let random = seed
        ^ u64::from(core)
            .wrapping_add(1)
            .wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mut bus = Bus::new(place, life.identity.clone(), BusLimits::default(), random);
    bus.listen(driver, life.bus)
        .map_err(|source| StartError::Listen {
            key: "cluster.bus_address",
            address: life.bus,
            source,
        })?;
    let (lease, progress) = (Arc::clone(&life.lease), Arc::clone(&life.progress));
    let from_cores = life.from_cores.clone();
    Ok(Some(Clustered::new(
        bus,
        inbox,
        from_cores,
        lease,
        progress,
        usize::from(core),
    )))
}

/// What comes in on each listener.
fn kinds<L>(listeners: &[(L, Protocol)], proxied: &[bool]) -> Vec<ListenerKind> {
    let kind = |((_, protocol), proxied): (&(L, Protocol), &bool)| ListenerKind {
        websocket: protocol.is_websocket(),
        acceptor: Certificates::place(*protocol),
        proxied: *proxied,
    };
    listeners.iter().zip(proxied).map(kind).collect()
}

/// Takes the sockets that the main thread has bound.
fn adopt(
    driver: &mut impl Driver,
    sockets: Vec<DatagramSocket>,
) -> Result<Vec<DatagramSocketId>, StartError> {
    let open = |socket: DatagramSocket| {
        let address = socket.address();
        let adopted = driver.adopt_datagrams(socket);
        adopted.map_err(|source| StartError::Listen {
            key: Protocol::Quic.key(),
            address,
            source,
        })
    };
    sockets.into_iter().map(open).collect()
}

fn listen(
    driver: &mut impl Driver,
    listeners: &[(Listener, Protocol)],
    options: ListenOptions,
) -> Result<Vec<SocketAddr>, StartError> {
    let open = |(listener, protocol): &(Listener, Protocol)| {
        let address = listener.address;
        let opened = driver.listen(address, options);
        opened
            .map(|(_, bound)| bound)
            .map_err(|source| StartError::Listen {
                key: protocol.key(),
                address,
                source,
            })
    };
    listeners.iter().map(open).collect()
}
