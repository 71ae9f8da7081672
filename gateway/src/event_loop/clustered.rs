//! What a core has besides when its node is in a cluster: its bus, and what the cluster part tells it.
//!
//! ```text
//! Outbox::bus ─▶ encode ─▶ link of this core, or Envelope ─mesh─▶ the core that has the link ─▶ Bus::send
//! Bus ─Heard─▶ decode ─▶ this core, or Envelope ─mesh─▶ the core of this node that it is for ─▶ Event::Core
//! ```
//!
//! **A message takes the link of the core that sends it**, and waits here while the link has no room: what one core sends to another stays
//! in order. Meanwhile this core counts as congested. What may be lost is dropped then, and counted.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use cluster::link::Unsent;
use cluster::view::{NodeId, Role, Version};
use reactor::driver::{self, BufferRef, Close, ConnectionId, Driver};
use reactor::mesh::{Inbox, Lane};
use tokio::sync::mpsc;

use super::fence::Fence;
use super::{Bus, EventLoop, Heard, Route};
use crate::bus::stats::BusStats;
use crate::bus::wire;
use crate::control::cluster::to_core::{CoreProgress, FromCore, INBOX_TO_CORE, Lease, ToCore};
use crate::core_message::CoreMessage;
use crate::shard::Event;
use crate::turn::Now;

/// A message on its way between cores of a node: from and to a core with a number of the cluster. Who gets one that is for a core of another
/// node has the link to it.
#[derive(Debug)]
pub struct Envelope {
    /// Number of the core that sent it.
    pub from: u16,
    /// Number of the core that it is for.
    pub to: u16,
    /// What it says.
    pub message: CoreMessage,
}

/// Why messages between nodes were dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DroppedOnBus {
    /// They may be lost, and their link had no room.
    pub no_room: u64,
    /// They were for a core that no member has.
    pub no_member: u64,
    /// They cannot be read: nodes of different versions, or a fault of one.
    pub unreadable: u64,
    /// They are longer than any frame.
    pub too_long: u64,
}

impl DroppedOnBus {
    /// Name of the reason in metrics, and how many.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        [
            ("no_room", self.no_room),
            ("no_member", self.no_member),
            ("unreadable", self.unreadable),
            ("too_long", self.too_long),
        ]
        .into_iter()
    }
}

/// The part of a core that knows of other nodes.
pub struct Clustered {
    /// Its links.
    pub bus: Bus,
    /// What the cluster part tells it.
    pub inbox: Inbox<ToCore>,
    /// Where it says what it hears.
    pub from_cores: mpsc::Sender<FromCore>,
    /// Until when the node may serve.
    pub lease: Arc<Lease>,
    /// What each core of the node has done; this one writes its own.
    pub progress: Arc<[CoreProgress]>,
    /// This core among those of the node, from 0.
    pub place: usize,
    /// Whether the core pauses.
    pub(super) fence: Fence,
    /// Messages of other cores of this node whose link is here, which had no room.
    waiting: VecDeque<Envelope>,
    dropped: DroppedOnBus,
    encoded: Vec<u8>,
    counted_ms: u64,
    /// Servers that clients of a node that leaves are told of: the Server References of the other members.
    servers: Vec<Box<str>>,
    /// Clients to be sent there in a second.
    moving: Option<u32>,
}

impl Clustered {
    /// Between two looks at how many clients are left, in milliseconds.
    const COUNT_MS: u64 = 250;

    /// The part of core `place` of a node, which has not heard of a view yet.
    pub fn new(
        bus: Bus,
        inbox: Inbox<ToCore>,
        from_cores: mpsc::Sender<FromCore>,
        lease: Arc<Lease>,
        progress: Arc<[CoreProgress]>,
        place: usize,
    ) -> Self {
        Self {
            bus,
            inbox,
            from_cores,
            lease,
            progress,
            place,
            fence: Fence::default(),
            waiting: VecDeque::new(),
            dropped: DroppedOnBus::default(),
            encoded: Vec::new(),
            counted_ms: 0,
            servers: Vec::new(),
            moving: None,
        }
    }

    /// What this core has done.
    pub(super) fn progress(&self) -> &CoreProgress {
        &self.progress[self.place]
    }

    /// What the bus counted, and what was dropped on the way to and from other nodes.
    pub(super) fn sample(&self) -> (BusStats, DroppedOnBus) {
        (self.bus.stats(), self.dropped)
    }

    /// True for a connection of the bus.
    fn has(&self, id: ConnectionId) -> bool {
        self.bus.has(id)
    }

    /// Messages that wait for links of this core.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// When something is due.
    pub(super) fn next_deadline_ms(&self, now_ms: u64) -> Option<u64> {
        let bus = self.bus.next_deadline_ms();
        let count = self.fence.sends_away().then_some(now_ms + Self::COUNT_MS);
        let inbox = self.inbox.has_pending().then_some(now_ms);
        [bus, count, inbox].into_iter().flatten().min()
    }

    /// True when another core of this node has a later view.
    fn is_behind(&self, epoch: u64) -> bool {
        let mut epochs = self.progress.iter().map(|core| &core.view_epoch);
        epochs.any(|theirs| theirs.load(Ordering::Acquire) > epoch)
    }

    /// What all clients are told.
    pub(super) fn all_elsewhere(&self) -> Event<'_> {
        Event::SendElsewhere {
            clients: usize::MAX,
            servers: &self.servers,
        }
    }

    fn say(&self, said: FromCore) {
        let _ = self.from_cores.try_send(said); // It is said again.
    }
}

impl<D: Driver> EventLoop<D> {
    /// Takes an event that concerns the bus; gives back any other one.
    pub(super) fn bus_event(&mut self, now: Now, event: driver::Event) -> Option<driver::Event> {
        let Some(cluster) = &mut self.cluster else {
            return Some(event);
        };
        let (driver, now_ms) = (&mut self.driver, now.mono_ms);
        match event {
            driver::Event::Accepted {
                connection,
                listener,
                peer,
            } if cluster.bus.is_listener(listener) => {
                cluster.bus.accepted(driver, now_ms, connection, peer);
            }
            // A node that leaves, or is cut off from the others, takes no more clients.
            driver::Event::Accepted { connection, .. } if cluster.fence.sends_away() => {
                driver.close(connection, Close::Abort);
            }
            driver::Event::Connected { connection } if cluster.has(connection) => {
                cluster.bus.connected(driver, connection);
            }
            driver::Event::Received { connection, buffer } if cluster.has(connection) => {
                self.heard_on_bus(now, connection, buffer);
            }
            driver::Event::Drained { connection } if cluster.has(connection) => {
                cluster.bus.drained(connection);
            }
            driver::Event::PeerClosed { connection } if cluster.has(connection) => {
                cluster.bus.peer_closed(driver, now_ms, connection);
            }
            driver::Event::Closed { connection, .. } if cluster.has(connection) => {
                cluster.bus.closed(now_ms, connection);
            }
            other => return Some(other),
        }
        None
    }

    /// Bytes of another node.
    fn heard_on_bus(&mut self, now: Now, connection: ConnectionId, buffer: BufferRef) {
        let Some(cluster) = &mut self.cluster else {
            return;
        };
        let mut messages = Vec::new();
        let mut views = Vec::new();
        let mut unreadable = 0;
        let what = (connection, buffer);
        cluster.bus.received(&mut self.driver, now.mono_ms, what, &mut |heard| match heard {
            Heard::Message(node, message) => match wire::decode(message.body, wire::VERSION) {
                Ok(decoded) => messages.push(Envelope {
                    from: message.from_core,
                    to: message.to_core,
                    message: decoded,
                }),
                Err(error) => {
                    unreadable += 1;
                    tracing::error!(%node, %error, "a message of another node cannot be read; it is dropped");
                }
            },
            Heard::View { node, epoch, hash } => views.push((node, epoch, hash)),
        });
        cluster.dropped.unreadable += unreadable;
        views.into_iter().for_each(|view| self.heard_of_view(view));
        for envelope in messages {
            self.deliver(now, envelope);
        }
    }

    fn heard_of_view(&self, (node, epoch, hash): (NodeId, u64, u64)) {
        if let Some(cluster) = self.cluster.as_ref().filter(|_| epoch != 0) {
            cluster.say(FromCore::At(node, Version { epoch, hash }));
        }
    }

    /// Gives a message to the core that it is for, if this node has it.
    fn deliver(&mut self, now: Now, envelope: Envelope) {
        let here = self.shard.ownership().here();
        if envelope.to == self.shard.facts().core {
            return self.take(now, envelope);
        }
        let place = usize::from(envelope.to.wrapping_sub(here.start));
        if let Some(lanes) = self.for_cores.get_mut(place) {
            lanes[usize::from(envelope.message.is_lossy())].push_back(envelope);
        } else if let Some(cluster) = &mut self.cluster {
            cluster.dropped.no_member += 1; // Of a view that is over.
        }
    }

    /// A message for this core, of whichever core.
    pub(super) fn take(&mut self, now: Now, envelope: Envelope) {
        let event = Event::Core(envelope.from, envelope.message);
        self.shard.handle(now, event, &mut self.outbox);
    }

    /// An envelope came over the mesh: it is for this core, or for another node whose link is here.
    pub(super) fn arrived(&mut self, now: Now, envelope: Envelope) {
        if envelope.to == self.shard.facts().core {
            self.take(now, envelope);
        } else if let Some(cluster) = &mut self.cluster {
            cluster.waiting.push_back(envelope);
        }
    }

    /// Does what the cluster part says.
    pub(super) fn heed_cluster(&mut self, now: Now) {
        let mut told = Vec::new();
        if let Some(cluster) = &mut self.cluster {
            cluster
                .inbox
                .drain(INBOX_TO_CORE, |message| told.push(message));
        }
        for message in told {
            self.told_by_cluster(now, message);
        }
    }

    /// Does what the cluster part says, and what is due on the bus. Once a turn.
    pub(super) fn turn_cluster(&mut self, now: Now) {
        self.heed_cluster(now);
        let Some(cluster) = &mut self.cluster else {
            return;
        };
        cluster.bus.turn(&mut self.driver, now.mono_ms);
        for node in cluster.bus.take_suspects() {
            cluster.say(FromCore::Suspect(node));
        }
        if let Some(epoch) = self.shard.served_epoch() {
            let handed_over = &cluster.progress().handed_over_epoch;
            handed_over.store(epoch, Ordering::Release);
        }
        if now.mono_ms >= cluster.counted_ms + Clustered::COUNT_MS {
            cluster.counted_ms = now.mono_ms;
            let clients = self.shard.snapshot().sessions_connected;
            cluster.progress().clients.store(clients, Ordering::Release);
            if let Some(per_second) = cluster.moving {
                let clients = u64::from(per_second) * Clustered::COUNT_MS / 1_000;
                let event = Event::SendElsewhere {
                    clients: clients.max(1) as usize,
                    servers: &cluster.servers,
                };
                self.shard.handle(now, event, &mut self.outbox);
            }
        }
    }

    fn told_by_cluster(&mut self, now: Now, message: ToCore) {
        let Some(cluster) = &mut self.cluster else {
            return;
        };
        match message {
            ToCore::View { ownership, view } => {
                cluster.bus.set_peers(&mut self.driver, now.mono_ms, &view);
                let here = ownership.here().start;
                let others = view.members.iter().filter(|member| {
                    let is_known = !member.reference.is_empty();
                    is_known && member.first_core != here && member.role == Role::Active
                });
                cluster.servers = others.map(|member| member.reference.clone()).collect();
                let epoch = ownership.epoch();
                cluster
                    .progress()
                    .view_epoch
                    .store(epoch, Ordering::Release);
                let view = Event::View(ownership);
                self.shard.handle(now, view, &mut self.outbox);
            }
            ToCore::Keys(identity) => {
                cluster
                    .bus
                    .set_identity(&mut self.driver, now.mono_ms, *identity);
            }
            ToCore::SendClientsElsewhere => {
                if cluster.fence.pauses() {
                    self.send_clients_elsewhere(now);
                }
            }
            ToCore::MoveClients { per_second } => {
                cluster.fence.move_clients();
                cluster.moving = Some(per_second);
                tracing::info!(per_second, "clients of this core are sent to other nodes");
            }
        }
    }

    /// Gives links what is for other nodes, and the mesh what is for links of other cores.
    pub(super) fn flush_bus(&mut self, now: Now) {
        let Some(mut cluster) = self.cluster.take() else {
            return;
        };
        let (from, epoch) = (self.shard.facts().core, self.shard.ownership().epoch());
        let envelopes =
            self.outbox
                .bus
                .drain(..)
                .map(|(to, message)| Envelope { from, to, message });
        let mut envelopes: VecDeque<Envelope> = std::mem::take(&mut cluster.waiting)
            .into_iter()
            .chain(envelopes)
            .collect();
        let mut blocked: BTreeSet<(u16, u16)> = BTreeSet::new();
        while let Some(envelope) = envelopes.pop_front() {
            let pair = (envelope.from, envelope.to);
            if blocked.contains(&pair) {
                if envelope.message.is_lossy() {
                    cluster.dropped.no_room += 1;
                    self.shard.dropped_in_mesh(&envelope.message);
                } else {
                    cluster.waiting.push_back(envelope);
                }
                continue;
            }
            match cluster.bus.route(envelope.to) {
                Route::Here => {
                    if let Some(envelope) = self.put_on_link(&mut cluster, envelope) {
                        blocked.insert(pair);
                        cluster.waiting.push_back(envelope);
                    }
                }
                Route::Core(core) => {
                    let lane = usize::from(envelope.message.is_lossy());
                    self.for_cores[usize::from(core)][lane].push_back(envelope);
                }
                // Another core of this node knows of a member that this one has not heard of yet.
                Route::Nobody if !envelope.message.is_lossy() && cluster.is_behind(epoch) => {
                    blocked.insert(pair);
                    cluster.waiting.push_back(envelope);
                }
                Route::Nobody => {
                    cluster.dropped.no_member += 1;
                    self.shard.dropped_in_mesh(&envelope.message);
                }
            }
        }
        cluster.bus.flush(&mut self.driver, now.mono_ms);
        self.cluster = Some(cluster);
    }

    /// Gives a message to its link; gives it back when there is no room and it must not be lost.
    fn put_on_link(&mut self, cluster: &mut Clustered, envelope: Envelope) -> Option<Envelope> {
        let Envelope { from, to, message } = &envelope;
        let version = cluster.bus.version_to(*to).unwrap_or(wire::VERSION);
        let is_lossy = message.is_lossy();
        cluster.encoded.clear();
        wire::encode(message, version, &mut cluster.encoded);
        let sent = cluster
            .bus
            .send(*from, *to, is_lossy, false, &cluster.encoded);
        cluster.encoded.shrink_to(64 << 10);
        match sent {
            Ok(()) => {}
            Err(Unsent::NoRoom) => return Some(envelope),
            Err(Unsent::Dropped) => {
                cluster.dropped.no_room += 1;
                self.shard.dropped_in_mesh(message);
            }
            Err(Unsent::TooLong) => {
                cluster.dropped.too_long += 1;
                tracing::error!("{}; it is dropped", Unsent::TooLong);
            }
        }
        None
    }

    /// Hands envelopes to the mesh. What may be lost does not overtake the rest: a publish does not come before a subscription.
    pub(super) fn flush_envelopes(&mut self) {
        for (core, lanes) in self.for_cores.iter_mut().enumerate() {
            let mut is_full = false;
            for (lane, queue) in [Lane::Control, Lane::Data].into_iter().zip(lanes) {
                while let Some(envelope) = queue.pop_front() {
                    if is_full {
                        queue.push_front(envelope);
                        break;
                    }
                    if let Err(envelope) = self.port.send(core, lane, envelope) {
                        queue.push_front(envelope);
                        self.shard.stats_mut().counters.mesh_full += 1;
                        is_full = true;
                        break;
                    }
                    self.shard.stats_mut().counters.mesh_sent += 1;
                }
                while lane == Lane::Data && queue.len() > Self::LOSSY_BACKLOG {
                    if let Some(envelope) = queue.pop_back() {
                        self.shard.dropped_in_mesh(&envelope.message);
                    }
                }
            }
        }
    }

    /// True while a link has no room for what may not be lost.
    pub(super) fn is_bus_behind(&mut self) -> bool {
        self.cluster
            .as_mut()
            .is_some_and(|cluster| !cluster.bus.has_room() || cluster.waiting() > 0)
    }
}
