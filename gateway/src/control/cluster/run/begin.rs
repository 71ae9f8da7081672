//! What the loop begins with: sockets, tasks and channels.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::mpsc::Sender;

use cluster::control::Me;
use cluster::coordinator::Coordinator;
use cluster::membership::Membership;
use cluster::view::{Joining, NodeId};
use tokio::sync::{mpsc, watch};

use super::super::drain::Drain;
use super::super::links::{Common, Report, Told, answer_all};
use super::super::seeds::resolve_for_ever;
use super::super::settings::{Keys, Settings};
use super::super::status::ClusterStatus;
use super::super::store::StoreThread;
use super::super::to_core::QUEUE_FROM_CORES;
use super::super::{ClusterError, Next, Order};
use super::{ANSWERS, Arrivals, Loop, PROGRESS_MS, REPORTS, modified, now};
use crate::bus::identity::Identity;
use crate::engine::views::ViewStore;
use crate::event_loop::Clock;

/// What the loop begins with.
pub(in crate::control::cluster) struct Start {
    pub(in crate::control::cluster) settings: Settings,
    pub(in crate::control::cluster) clock: Clock,
    pub(in crate::control::cluster) keys: Keys,
    pub(in crate::control::cluster) joining: Joining,
    pub(in crate::control::cluster) identity: Identity,
    pub(in crate::control::cluster) random: [u8; 32],
    pub(in crate::control::cluster) orders: mpsc::Receiver<Order>,
    pub(in crate::control::cluster) lives: Sender<Next>,
    pub(in crate::control::cluster) status: Arc<ClusterStatus>,
}

/// The sockets of gossip and control links, at one address.
pub(in crate::control::cluster) struct Sockets {
    udp: UdpSocket,
    tcp: TcpListener,
}

impl Sockets {
    pub(in crate::control::cluster) fn bind(address: SocketAddr) -> Result<Self, ClusterError> {
        let listen = |source| ClusterError::Listen {
            key: "cluster.gossip_address",
            address,
            source,
        };
        let udp = UdpSocket::bind(address).map_err(listen)?;
        let tcp = TcpListener::bind(address).map_err(listen)?;
        udp.set_nonblocking(true).map_err(listen)?;
        tcp.set_nonblocking(true).map_err(listen)?;
        Ok(Self { udp, tcp })
    }

    fn in_runtime(self) -> std::io::Result<(tokio::net::UdpSocket, tokio::net::TcpListener)> {
        let udp = tokio::net::UdpSocket::from_std(self.udp)?;
        Ok((udp, tokio::net::TcpListener::from_std(self.tcp)?))
    }
}

impl Loop {
    /// Opens everything; to be called in the runtime.
    pub(super) fn new(
        start: Start,
        sockets: Sockets,
        store: Arc<dyn ViewStore>,
    ) -> Result<(Self, Arrivals), ClusterError> {
        let system = |what| move |source| ClusterError::System { what, source };
        let Start {
            settings,
            clock,
            keys,
            joining,
            identity,
            random,
            orders,
            lives,
            status,
        } = start;
        let (socket, listener) = sockets
            .in_runtime()
            .map_err(system("the sockets of gossip"))?;
        let (answer_sender, answers) = mpsc::channel(ANSWERS);
        let store = StoreThread::spawn(store, clock, answer_sender)
            .map_err(system("the thread of the store of views"))?;
        let (report_sender, reports) = mpsc::channel(REPORTS);
        let (seed_sender, seeds) = mpsc::channel(4);
        let (from_cores, cores) = mpsc::channel(QUEUE_FROM_CORES);
        let cluster = &settings.name;
        let (told, common) = tell(clock, cluster, joining.node, identity, report_sender);
        let (alone, alone_receiver) = watch::channel(true);
        let (session, seed) = halves(&random);
        tokio::spawn(answer_all(listener, common.clone()));
        tokio::spawn(resolve_for_ever(
            settings.seeds.clone(),
            seed,
            alone_receiver,
            seed_sender,
        ));
        let now = now(clock);
        let this = Self {
            coordinator: Coordinator::new(now.ms, cluster, joining.clone()),
            membership: Membership::new(now, cluster, joining, keys.gossip, session, seed),
            keys_seen: modified(&settings),
            settings,
            clock,
            socket,
            store,
            common,
            links: BTreeMap::new(),
            told,
            alone,
            from_cores,
            lives,
            status,
            living: None,
            drain: Drain::default(),
            answered_ms: BTreeMap::new(),
            nodes_refused: BTreeMap::new(),
            looked_at_keys_ms: now.ms,
            progress_ms: now.ms + PROGRESS_MS,
            complained_ms: None,
            over: None,
            is_gone: false,
        };
        Ok((
            this,
            Arrivals {
                reports,
                answers,
                seeds,
                cores,
                orders,
            },
        ))
    }
}

/// What sealing draws from, and what gossip does.
fn halves(random: &[u8; 32]) -> ([u8; 16], u64) {
    let (mut session, mut seed) = ([0; 16], [0; 8]);
    session.copy_from_slice(&random[..16]);
    seed.copy_from_slice(&random[16..24]);
    (session, u64::from_le_bytes(seed))
}

/// Where links find out who this node is and what it has.
pub(super) struct Tell {
    pub(super) me: watch::Sender<Me>,
    pub(super) identity: watch::Sender<Identity>,
    pub(super) view: watch::Sender<Told>,
}

fn tell(
    clock: Clock,
    cluster: &str,
    node: NodeId,
    identity: Identity,
    reports: mpsc::Sender<Report>,
) -> (Tell, Common) {
    let cluster = cluster.into();
    let (me, me_receiver) = watch::channel(Me { cluster, node });
    let (identity, identity_receiver) = watch::channel(identity);
    let (view, view_receiver) = watch::channel(None);
    let common = Common {
        clock,
        me: me_receiver,
        identity: identity_receiver,
        view: view_receiver,
        reports,
    };
    let told = Tell { me, identity, view };
    (told, common)
}
