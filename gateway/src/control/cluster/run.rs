//! The loop of the cluster part: what happened goes to gossip and the coordinator, and what they want is done.

mod acting;
mod begin;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use cluster::control::Said;
use cluster::coordinator::times::TICK_MS;
use cluster::coordinator::{Coordinator, Input, Standing};
use cluster::membership::{self, Membership, Output};
use cluster::view::NodeId;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::drain::{Drain, Step};
use super::links::{Common, Dialled, Report};
use super::settings::{Keys, Settings};
use super::status::{ClusterStatus, Known};
use super::store::StoreThread;
use super::to_core::{FromCore, ToCore};
use super::{ClusterError, Next, Order};
pub(super) use begin::{Sockets, Start};

use crate::bus::identity::Identity;
use crate::engine::views::ViewStore;
use crate::event_loop::Clock;
use acting::Living;
use begin::Tell;

/// Datagrams that are taken at once.
const DATAGRAMS_AT_ONCE: usize = 256;
/// Bytes of the longest datagram, and more, so that a longer one is seen to be.
const DATAGRAM_BYTES: usize = 2_048;
/// Reports of links that wait for the loop.
const REPORTS: usize = 4_096;
/// Answers of the store that wait.
const ANSWERS: usize = 16;
/// How often what waits for a first view is in the log, and refused datagrams are, in milliseconds.
const PROGRESS_MS: u64 = 3_000;
const COMPLAINTS_MS: u64 = 10_000;
/// How often the file of keys is looked at, in milliseconds.
const KEYS_MS: u64 = 5_000;
/// How long a farewell may take.
const FAREWELL_MS: u64 = 2_000;

/// Runs until the node has left, or is told to stop.
pub(super) fn run(start: Start, sockets: Sockets, store: Arc<dyn ViewStore>) {
    let lives = start.lives.clone();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let result = match runtime {
        Ok(runtime) => {
            let result = runtime.block_on(Loop::run(start, sockets, store));
            runtime.shutdown_background(); // A name may still be looked up.
            result
        }
        Err(source) => Err(ClusterError::System {
            what: "the runtime of the cluster",
            source,
        }),
    };
    if let Err(error) = &result {
        tracing::error!("{error}");
    }
    let _ = lives.send(Next::Over(result)); // Nobody waits for the next life.
}

struct Loop {
    settings: Settings,
    clock: Clock,
    coordinator: Coordinator,
    membership: Membership,
    socket: tokio::net::UdpSocket,
    store: StoreThread,
    common: Common,
    links: BTreeMap<u64, Dialled>,
    told: Tell,
    alone: watch::Sender<bool>,
    from_cores: mpsc::Sender<FromCore>,
    lives: Sender<Next>,
    status: Arc<ClusterStatus>,
    living: Option<Living>,
    drain: Drain,
    answered_ms: BTreeMap<u64, u64>,
    nodes_refused: BTreeMap<&'static str, u64>,
    keys_seen: Option<std::time::SystemTime>,
    looked_at_keys_ms: u64,
    progress_ms: u64,
    complained_ms: Option<u64>,
    /// How it ends, once that is known, and when at the latest.
    over: Option<(Result<(), ClusterError>, u64)>,
    is_gone: bool,
}

/// What comes from elsewhere.
struct Arrivals {
    reports: mpsc::Receiver<Report>,
    answers: mpsc::Receiver<Input>,
    seeds: mpsc::Receiver<Vec<SocketAddr>>,
    cores: mpsc::Receiver<FromCore>,
    orders: mpsc::Receiver<Order>,
}

impl Loop {
    async fn run(
        start: Start,
        sockets: Sockets,
        store: Arc<dyn ViewStore>,
    ) -> Result<(), ClusterError> {
        let system = |what| move |source| ClusterError::System { what, source };
        let (mut this, mut arrivals) = Self::new(start, sockets, store)?;
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate =
            signal(SignalKind::terminate()).map_err(system("the handling of SIGTERM"))?;
        let mut interrupt =
            signal(SignalKind::interrupt()).map_err(system("the handling of SIGINT"))?;
        let mut tick = interval(Duration::from_millis(TICK_MS));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut is_asked = false;
        loop {
            let due = this.due();
            tokio::select! {
                _ = tick.tick() => this.tick(),
                _ = this.socket.readable() => this.datagrams(),
                () = sleep_until(due) => {}
                Some(report) = arrivals.reports.recv() => this.report(report),
                Some(input) = arrivals.answers.recv() => this.handle(input),
                Some(addresses) = arrivals.seeds.recv() => this.found(&addresses),
                Some(said) = arrivals.cores.recv() => this.heard_by_core(said),
                Some(order) = arrivals.orders.recv() => this.order(order),
                _ = interrupt.recv() => this.stop(),
                _ = terminate.recv() => {
                    // Who asks twice does not want to wait.
                    if std::mem::replace(&mut is_asked, true) { this.stop() } else { this.leave() }
                }
            }
            this.advance();
            let now_ms = this.clock.now().mono_ms;
            if let Some((_, by_ms)) = &this.over
                && (this.is_gone || now_ms >= *by_ms)
            {
                this.publish(now_ms);
                return this.over.map_or(Ok(()), |(result, _)| result);
            }
        }
    }

    /// When gossip has something to do.
    fn due(&self) -> Instant {
        let now_ms = self.clock.now().mono_ms;
        let due_ms = self.membership.deadline_ms().unwrap_or(u64::MAX);
        Instant::now() + Duration::from_millis(due_ms.saturating_sub(now_ms).min(60_000))
    }

    /// Shows the coordinator what happened and does what it wants.
    fn handle(&mut self, input: Input) {
        let mut actions = Vec::new();
        self.coordinator
            .handle(self.clock.now().mono_ms, input, &mut actions);
        for action in actions {
            self.act(action);
        }
        self.renew_lease();
    }

    /// The cores may serve for as long as the coordinator says.
    fn renew_lease(&self) {
        if let Some(living) = &self.living {
            let is_same = living.node == self.coordinator.node();
            let until_ms = self.coordinator.serving_until_ms().filter(|_| is_same);
            living.lease.set(until_ms.unwrap_or(0));
        }
    }

    fn tick(&mut self) {
        self.handle(Input::Tick);
        let now_ms = self.clock.now().mono_ms;
        self.follow_neighbours();
        if let Some(living) = &mut self.living {
            living.hand_in_again();
        }
        self.go_on_draining(now_ms);
        if now_ms >= self.looked_at_keys_ms + KEYS_MS {
            self.looked_at_keys_ms = now_ms;
            self.look_at_keys();
        }
        if self.living.is_none() && self.over.is_none() && now_ms >= self.progress_ms {
            self.progress_ms = now_ms + PROGRESS_MS;
            self.tell_progress();
        }
        self.publish(now_ms);
    }

    /// Says why there is no life yet.
    fn tell_progress(&self) {
        let report = self.status.report();
        let view = self.coordinator.view().map(|view| view.members.len());
        let answering = self.answered_ms.len();
        tracing::info!(
            alive = self.membership.living().count(), answering, members = view, gossip_refused = ?nonzero(&report.gossip_refused),
            nodes_refused = ?report.nodes_refused,
            "waiting for a view of the cluster that has this node"
        );
    }

    fn go_on_draining(&mut self, now_ms: u64) {
        let cores = self
            .living
            .as_ref()
            .map(|living| Arc::clone(&living.progress));
        let cores = cores.as_deref().unwrap_or_default();
        let node = self.coordinator.node();
        let view = self.coordinator.view().map(Arc::as_ref);
        match self.drain.look(now_ms, node, view, cores) {
            Step::Nothing => {}
            Step::Move(per_second) => {
                if let Some(living) = &mut self.living {
                    living.tell(&ToCore::MoveClients { per_second });
                }
            }
            Step::Drained => self.handle(Input::Drained),
        }
    }

    fn order(&mut self, order: Order) {
        match order {
            Order::Attach(cores) => self.attach(cores),
            Order::Drain => self.leave(),
            Order::Weight { uid, weight } => self.handle(Input::Weight { uid, weight }),
            Order::Stop => self.stop(),
        }
    }

    fn heard_by_core(&mut self, said: FromCore) {
        match said {
            FromCore::At(from, version) => self.handle(Input::Heard {
                from,
                version: Some(version),
                answers_ms: None,
            }),
            FromCore::Suspect(node) => self.doubt(node),
        }
    }

    fn doubt(&mut self, node: NodeId) {
        let mut outputs = Vec::new();
        self.membership.doubt(now(self.clock), node, &mut outputs);
        self.put_out(outputs);
    }

    fn report(&mut self, report: Report) {
        match report {
            Report::Said(Said::At(from, version)) => self.handle(Input::Heard {
                from,
                version,
                answers_ms: None,
            }),
            Report::Said(Said::Answered(from, version, sent_ms)) => {
                self.answered_ms.insert(from.uid, sent_ms);
                self.handle(Input::Heard {
                    from,
                    version,
                    answers_ms: Some(sent_ms),
                });
            }
            Report::Said(Said::View(from, view)) => self.handle(Input::Pulled {
                from,
                view: view.map(|view| *view),
            }),
            Report::Said(Said::Pull) => {} // The link has answered.
            Report::Lost(node) => self.doubt(node),
            Report::Refused(refusal) | Report::RefusedByPeer(refusal) => {
                *self.nodes_refused.entry(refusal.name()).or_default() += 1;
            }
        }
    }

    /// Keeps a link with each neighbour, and with nobody else.
    fn follow_neighbours(&mut self) {
        let neighbours = self.coordinator.neighbours();
        self.alone.send_if_modified(|alone| {
            let now = neighbours.is_empty();
            std::mem::replace(alone, now) != now
        });
        self.links
            .retain(|_, link| neighbours.get(&link.node) == Some(&link.address));
        self.answered_ms
            .retain(|uid, _| neighbours.keys().any(|node| node.uid == *uid));
        for (node, address) in neighbours {
            if !self.links.contains_key(&node.uid) {
                let link = Dialled::begin(self.common.clone(), node, address);
                self.links.insert(node.uid, link);
            }
        }
    }

    /// Takes the datagrams that wait, before gossip doubts whoever has not answered.
    fn datagrams(&mut self) {
        let mut buffer = [0; DATAGRAM_BYTES];
        for _ in 0..DATAGRAMS_AT_ONCE {
            let (bytes, from) = match self.socket.try_recv_from(&mut buffer) {
                Ok(received) => received,
                // An answer to something that was sent: nobody listens there.
                Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => continue,
                Err(_) => break,
            };
            let mut outputs = Vec::new();
            let now = now(self.clock);
            let taken = self
                .membership
                .datagram(now, from, &buffer[..bytes], &mut outputs);
            self.put_out(outputs);
            if let Err(error) = taken
                && self
                    .complained_ms
                    .is_none_or(|at_ms| now.ms >= at_ms + COMPLAINTS_MS)
            {
                self.complained_ms = Some(now.ms);
                tracing::warn!(%from, %error, "a datagram of gossip was refused; others are not logged for 10 s");
            }
        }
    }

    fn advance(&mut self) {
        let mut outputs = Vec::new();
        self.membership.advance(now(self.clock), &mut outputs);
        self.put_out(outputs);
    }

    fn found(&mut self, addresses: &[SocketAddr]) {
        let mut outputs = Vec::new();
        self.membership
            .seeds(now(self.clock), addresses, &mut outputs);
        self.put_out(outputs);
    }

    /// Sends datagrams, and shows the coordinator who lives and who does not.
    fn put_out(&mut self, outputs: Vec<Output>) {
        for output in outputs {
            match output {
                Output::Datagram { to, bytes } => {
                    let _ = self.socket.try_send_to(&bytes, to); // Gossip takes datagrams for lost.
                }
                Output::Alive(joining) => self.handle(Input::Alive(joining)),
                Output::Dead(node) => self.handle(Input::Dead(node)),
                Output::Renewed(node) => {
                    self.handle(Input::Renewed(node));
                    self.new_incarnation();
                }
                Output::Gone => self.is_gone = true,
            }
        }
    }

    /// Reads the file of keys again when it has changed.
    fn look_at_keys(&mut self) {
        let seen = modified(&self.settings);
        if seen == self.keys_seen {
            return;
        }
        self.keys_seen = seen;
        let uid = self.coordinator.node().uid;
        let keys = Keys::read(&self.settings.key_file);
        let read = keys.and_then(|keys| Ok((Identity::issue(&keys.bus, uid)?, keys)));
        match read {
            Ok((identity, keys)) => {
                tracing::info!(
                    keys = keys.bus.all().len(),
                    "the keys of the cluster are read again"
                );
                self.membership.keys(keys.gossip);
                self.told.identity.send_replace(identity.clone());
                if let Some(living) = &mut self.living {
                    living.tell(&ToCore::Keys(Box::new(identity)));
                }
            }
            Err(error) => tracing::error!("{error}; the keys stay as they were"),
        }
    }

    fn publish(&self, now_ms: u64) {
        self.status.set(Known {
            node: self.coordinator.node(),
            standing: match (&self.over, self.coordinator.standing()) {
                (Some(_), _) => Standing::Left,
                (None, standing) => standing,
            },
            draining: self.drain.phase(),
            view: self.coordinator.view().cloned(),
            alive: self
                .membership
                .living()
                .map(|joining| joining.node)
                .collect(),
            answered_ms: self.answered_ms.clone(),
            now_ms,
            gossip_refused: self.membership.refusals().iter().collect(),
            nodes_refused: self.nodes_refused.clone(),
        });
    }
}

fn now(clock: Clock) -> membership::Now {
    let now = clock.now();
    membership::Now {
        ms: now.mono_ms,
        unix_ms: now.unix_ms,
    }
}

fn modified(settings: &Settings) -> Option<std::time::SystemTime> {
    std::fs::metadata(&settings.key_file)
        .and_then(|it| it.modified())
        .ok()
}

fn nonzero(counts: &BTreeMap<&'static str, u64>) -> BTreeMap<&'static str, u64> {
    counts
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(name, count)| (*name, *count))
        .collect()
}
