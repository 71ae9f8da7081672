//! The cluster part of a node: who is alive, which view holds, and what follows from it for the cores. It has a thread of its own, so that
//! nothing an operator asks for delays it, and it is there before the cores are.
//!
//! ```text
//!  UDP ◀─▶ Membership ─Alive, Dead─▶ Coordinator ─Install, Fence─▶ ToCore, Lease ─▶ cores
//!  TCP ◀─▶ links ─At, Answered─────▶      │  ▲                                       │
//!                                         ▼  └────────── FromCore ◀──────────────────┘
//!                                   store of views
//! ```
//!
//! A node of a cluster has *lives*: one begins with the first view that has it, and ends when it is no member any more. Its cores live
//! as long, and then the node starts again as another incarnation ([`Cluster::next_life`]).
//!
//! **Reading order**: [`to_core`] (what cores are told), [`settings`], `run` (the loop), `links`, `store`, `seeds`, `drain`, [`status`].

mod drain;
mod links;
mod run;
mod seeds;
pub mod settings;
pub mod status;
mod store;
pub mod to_core;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;

use cluster::view::{NodeId, View};
use reactor::mesh::InboxSender;
use tokio::sync::{mpsc, watch};

use crate::bus::identity::{Identity, IssueError};
use crate::engine::views::ViewStore;
use crate::event_loop::Clock;
use crate::ownership::Ownership;
use settings::{Keys, Settings};
use status::ClusterStatus;
use to_core::{CoreProgress, FromCore, Lease, ToCore};

/// Orders that wait for the cluster part.
const ORDERS: usize = 64;

/// Why a node cannot be in its cluster: the operator's to mend.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The file of keys cannot be used.
    #[error("cluster.key_file = \"{path}\": {detail}")]
    KeyFile {
        /// Which file.
        path: String,
        /// What is wrong and what would be right.
        detail: String,
    },
    /// It cannot be told where others reach this node.
    #[error(
        "it cannot be told at which address other nodes reach this one ({0}); set cluster.advertise_address to it"
    )]
    Advertise(String),
    /// An address is taken, or not of this machine.
    #[error(
        "cannot listen on {address} ({key}): {source}; stop what uses it, or set {key} to another address"
    )]
    Listen {
        /// The key of the configuration.
        key: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// No certificate can be made.
    #[error(transparent)]
    Issue(#[from] IssueError),
    /// Two nodes have one uid.
    #[error(
        "another living node has the uid of this one: it is {0}; give each node a cluster.uid of its own, also one whose machine was copied"
    )]
    DuplicateUid(NodeId),
    /// One store for two clusters.
    #[error(
        "the engine holds the views of cluster \"{theirs}\", and cluster.name is \"{ours}\": one engine serves one cluster; compare cluster.name and the address of the engine"
    )]
    ForeignStore {
        /// Whose it is.
        theirs: Box<str>,
        /// Whose it should be.
        ours: Box<str>,
    },
    /// The system refused a thread or a socket.
    #[error("the system refused {what}: {source}")]
    System {
        /// What.
        what: &'static str,
        /// What it said.
        source: std::io::Error,
    },
}

/// Why a life has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// This node was taken out of the view, and comes back as another incarnation.
    Rejoin,
    /// This node has left, as it was asked to.
    Left,
    /// It is to stop at once.
    Stop,
}

/// One life of this node: from the first view that has it in this incarnation until it is no member any more.
#[derive(Clone, Debug)]
pub struct Life {
    /// The node in this life.
    pub node: NodeId,
    /// The first view.
    pub view: Arc<View>,
    /// Who owns what in it.
    pub ownership: Arc<Ownership>,
    /// Number of the view in which it became a member: with a core number it is never used twice.
    pub joined: u64,
    /// Name of the cluster.
    pub cluster: Box<str>,
    /// What this node shows on the bus.
    pub identity: Identity,
    /// Where the bus of core 0 listens.
    pub bus: SocketAddr,
    /// Until when the node may serve.
    pub lease: Arc<Lease>,
    /// What each core has done.
    pub progress: Arc<[CoreProgress]>,
    /// Where cores say what they hear.
    pub from_cores: mpsc::Sender<FromCore>,
    /// Why this life has ended, once it has.
    pub ended: watch::Receiver<Option<End>>,
}

/// Something that the node wants of its cluster part.
#[derive(Debug)]
pub(crate) enum Order {
    /// The cores of the present life are there, and take messages here.
    Attach(Vec<InboxSender<ToCore>>),
    /// Leave the cluster: hand over, move clients, and go.
    Drain,
    /// A member is to have another share of the partitions.
    Weight {
        /// The member.
        uid: u64,
        /// Its weight, at least 1.
        weight: u32,
    },
    /// End, with a farewell to the others.
    Stop,
}

/// What comes next for the node.
enum Next {
    Life(Box<Life>),
    Over(Result<(), ClusterError>),
}

/// The cluster part, as the rest of the node sees it. Dropping it ends it, with a farewell.
pub struct Cluster {
    lives: Receiver<Next>,
    status: Arc<ClusterStatus>,
    orders: mpsc::Sender<Order>,
    thread: Option<JoinHandle<()>>,
}

impl Cluster {
    /// Starts to look for the others. `random` must be new for each process.
    ///
    /// # Errors
    /// See [`ClusterError`].
    pub fn start(
        settings: Settings,
        clock: Clock,
        store: Arc<dyn ViewStore>,
        random: [u8; 32],
    ) -> Result<Self, ClusterError> {
        let keys = Keys::read(&settings.key_file)?;
        let joining = settings.joining(clock.now().unix_ms)?;
        let identity = Identity::issue(&keys.bus, joining.node.uid)?;
        let sockets = run::Sockets::bind(settings.gossip)?;
        let (orders, order_receiver) = mpsc::channel(ORDERS);
        let (lives_sender, lives) = channel();
        let status = Arc::new(ClusterStatus::new(
            &settings.name,
            joining.node,
            orders.clone(),
        ));
        tracing::info!(
            cluster = %settings.name, node = %joining.node, gossip = %joining.gossip, bus = %joining.bus, seeds = settings.seeds.len(),
            "looking for the other nodes of the cluster"
        );
        let start = run::Start {
            settings,
            clock,
            keys,
            joining,
            identity,
            random,
            orders: order_receiver,
            lives: lives_sender,
            status: Arc::clone(&status),
        };
        let thread = std::thread::Builder::new()
            .name("cluster".into())
            .spawn(move || run::run(start, sockets, store))
            .map_err(|source| ClusterError::System {
                what: "the thread of the cluster",
                source,
            })?;
        Ok(Self {
            lives,
            status,
            orders,
            thread: Some(thread),
        })
    }

    /// Waits for the next life of this node; `None` when there is none, because it was told to stop or has left.
    ///
    /// # Errors
    /// See [`ClusterError`].
    pub fn next_life(&self) -> Result<Option<Life>, ClusterError> {
        match self.lives.recv() {
            Ok(Next::Life(life)) => Ok(Some(*life)),
            Ok(Next::Over(result)) => result.map(|()| None),
            Err(_) => Ok(None),
        }
    }

    /// The cores of the present life take messages here, in their order.
    pub fn attach(&self, cores: Vec<InboxSender<ToCore>>) {
        let _ = self.orders.blocking_send(Order::Attach(cores)); // It has ended, and the life with it.
    }

    /// What is known of the cluster, and what can be asked of it.
    pub fn status(&self) -> &Arc<ClusterStatus> {
        &self.status
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = self.orders.blocking_send(Order::Stop); // It has ended already.
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // A panic has been printed where it happened.
        }
    }
}
