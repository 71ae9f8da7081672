//! The turn of a core: events in, one flush out. Reads the clock; the shard does not.
//!
//! ```text
//! poll ─▶ fence ─▶ socket events ─▶ cluster ─▶ other cores ─▶ engine ─▶ verdicts ─▶ operator ─▶ timers ─▶ questions ─▶ flush: sends, orders, mesh, commands, wakes
//! ```

mod arrivals;
mod bus;
mod clustered;
mod fence;
mod handing_out;
mod newcomers;
mod notes;
mod proxied;
mod quic;
mod secured;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use reactor::driver::{self, ConnectionId, Driver, Waker};
use reactor::mesh::{Inbox, Lane, Port};

use crate::access::gate::Gate;
use crate::access::policy::Verdict;
use crate::admin::{AdminReply, AdminRequest};
use crate::control::Cores;
use crate::control::access::Asker;
use crate::core_message::CoreMessage;
use crate::engine::Completion;
use crate::engine::thread::CommandSender;
use crate::metrics::{CoreSnapshot, Counters};
use crate::outbox::Outbox;
use crate::quic::is_stream;
use crate::shard::{Event, Shard};
use crate::turn::{Congestion, Now};

pub use bus::{Bus, BusLimits, Heard, Place, Route};
pub use clustered::{Clustered, DroppedOnBus, Envelope};
pub use newcomers::{Newcomers, NewcomersBounds, NewcomersSample};
pub use proxied::{Proxied, ProxyLimits};
pub use quic::{Batch, Quic};
pub use secured::Secured;

/// The clock of a node: monotonic time since its start, and Unix time.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    started: Instant,
}

impl Clock {
    /// A clock that starts now.
    #[expect(
        clippy::disallowed_methods,
        reason = "the event loop is where time enters"
    )]
    pub fn start() -> Self {
        Self {
            started: Instant::now(),
        }
    }

    /// The time.
    #[expect(
        clippy::disallowed_methods,
        reason = "the event loop is where time enters"
    )]
    pub fn now(&self) -> Now {
        let unix = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let milliseconds = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        Now {
            mono_ms: milliseconds(self.started.elapsed()),
            unix_ms: milliseconds(unix),
        }
    }

    /// When it was started.
    pub fn started(&self) -> Instant {
        self.started
    }

    fn instant(&self, mono_ms: u64) -> Instant {
        self.started + Duration::from_millis(mono_ms)
    }
}

/// How the cores stop together.
#[derive(Debug, Default)]
pub struct Stopping {
    /// True once the node was told to stop.
    pub requested: AtomicBool,
    /// Cores that have nothing more to do.
    pub quiet: AtomicUsize,
}

/// How many cores have more for the engine than it takes. All cores then stop reading publishes of QoS ≥ 1: what they read
/// could be for an owner among these.
#[derive(Debug, Default)]
pub struct EngineBacklog {
    cores: AtomicUsize,
}

/// What comes in on a listener.
#[derive(Clone, Copy, Debug)]
pub struct ListenerKind {
    /// True when MQTT is in WebSocket frames.
    pub websocket: bool,
    /// The place of the acceptor when all of it is in TLS.
    pub acceptor: Option<usize>,
    /// True when each connection begins with a PROXY header.
    pub proxied: bool,
}

/// Whether a core has anything to do but keep-alive.
#[derive(Debug, Default)]
pub struct Activity {
    count: u64,
    last_ms: u64,
}

impl Activity {
    /// True when nothing but pings came for a second.
    fn is_quiet(&mut self, now: Now, counters: &Counters) -> bool {
        const QUIET_AFTER_MS: u64 = 1_000;
        let count = counters.activity();
        if count != self.count {
            self.count = count;
            self.last_ms = now.mono_ms;
        }
        now.mono_ms - self.last_ms >= QUIET_AFTER_MS
    }
}

/// One core: its shard and everything that connects it.
pub struct EventLoop<D: Driver> {
    /// Its sockets.
    pub driver: D,
    /// Its state.
    pub shard: Shard,
    /// What its turns produce.
    pub outbox: Outbox,
    /// Its end of the mesh.
    pub port: Port<Envelope>,
    /// Messages to other cores of this node, as [`Outbox::mesh`] has them, that are of cores of other nodes or for them.
    pub for_cores: Vec<[VecDeque<Envelope>; 2]>,
    /// What the mesh has brought, between calls: empty, and used again.
    pub envelopes: Vec<Envelope>,
    /// Its links to other nodes; `None` when the node is alone.
    pub cluster: Option<Clustered>,
    /// Wakes the other cores, by core.
    pub wakers: Vec<Waker>,
    /// Its queue to the engine.
    pub engine: CommandSender,
    /// Answers of the engine.
    pub completions: Inbox<Completion>,
    /// Questions of operators.
    pub requests: Inbox<(u64, AdminRequest)>,
    /// Answers to questions about clients.
    pub verdicts: Inbox<Verdict>,
    /// Where questions about clients go.
    pub asker: Asker,
    /// Where answers to operators go.
    pub cores: Arc<Cores>,
    /// What each listener is, by listener id.
    pub listeners: Vec<ListenerKind>,
    /// Its TLS connections; `None` without a TLS listener.
    pub secured: Option<Secured>,
    /// Who may come in.
    pub gate: Gate,
    /// How many may, for the sake of those who are in.
    pub newcomers: Newcomers,
    /// Connections that were accepted in this turn.
    pub accepted: u32,
    /// Connections whose PROXY header is not complete; `None` when no listener is behind a proxy.
    pub proxied: Option<Proxied>,
    /// Its QUIC connections; `None` without a QUIC listener.
    pub quic: Option<Quic>,
    /// The time.
    pub clock: Clock,
    /// The common stop.
    pub stopping: Arc<Stopping>,
    /// Cores that the engine keeps waiting.
    pub engine_backlog: Arc<EngineBacklog>,
    /// What was behind after the last turn.
    pub congestion: Congestion,
    /// What the shard was told last.
    pub told: Congestion,
    /// How long socket events may gather while there is nothing but keep-alive.
    pub quiet_wait: Duration,
    /// What went on, and since when nothing has.
    pub activity: Activity,
    /// When this core must be done stopping; `None` while it runs.
    pub stop_by_ms: Option<u64>,
    /// When this core stops waiting for an engine that takes nothing.
    pub give_up_ms: u64,
    /// Connections whose unsent bytes are to be looked at after the next poll.
    pub watched: Vec<ConnectionId>,
}

impl<D: Driver> EventLoop<D> {
    /// Messages taken from other cores and from the engine in one turn, at most.
    const MESSAGES_PER_TURN: usize = 1024;
    /// Messages waiting for other cores, or commands for the engine, above which this core counts as congested.
    const BACKLOG: usize = 1024;
    /// The same in bytes that commands keep in memory.
    const BACKLOG_BYTES: usize = 4 << 20;
    /// Messages of QoS 0 waiting for one other core above which further ones are dropped.
    const LOSSY_BACKLOG: usize = 1024;
    /// How soon a full mesh or engine queue is tried again.
    const RETRY_MS: u64 = 1;
    /// How soon a core looks again whether others are behind.
    const CONGESTED_MS: u64 = 5;
    /// How long a stop may take.
    const STOP_MS: u64 = 3_000;

    /// Turns until the node stops.
    ///
    /// # Errors
    /// Only what makes the driver unusable.
    pub fn run(mut self) -> std::io::Result<()> {
        let mut events = Vec::new();
        loop {
            let deadline = self.deadline();
            if let Err(error) = self.driver.poll(deadline, &mut events) {
                // The others must not wait for this core when they stop.
                if self.stop_by_ms != Some(u64::MAX) {
                    self.stopping.quiet.fetch_add(1, Ordering::AcqRel);
                }
                return Err(error);
            }
            if !self.may_serve(&mut events) {
                continue;
            }
            let now = self.clock.now();
            self.turn(now, &mut events);
            if self.stopping.requested.load(Ordering::Acquire) && self.stop(now) {
                return Ok(());
            }
        }
    }

    /// When the next turn must begin.
    fn deadline(&self) -> Option<Instant> {
        let now = self.clock.now().mono_ms;
        if !self.watched.is_empty()
            || self.port.has_pending()
            || self.completions.has_pending()
            || self.verdicts.has_pending()
            || self.requests.has_pending()
        {
            return Some(self.clock.instant(now));
        }
        if self.told.congested && !self.congestion.congested {
            return Some(self.clock.instant(now)); // What waits does not know yet that it may go on.
        }
        let backlog = self.outbox.mesh_backlog() > 0
            || !self.outbox.engine.is_empty()
            || self
                .for_cores
                .iter()
                .flatten()
                .any(|queue| !queue.is_empty());
        let retry = if backlog || self.stop_by_ms.is_some() {
            Some(now + Self::RETRY_MS)
        } else {
            // Nobody wakes this core when the congestion of another one is over.
            self.congestion
                .congested
                .then_some(now + Self::CONGESTED_MS)
        };
        let handshakes = self.secured.as_ref().and_then(Secured::next_deadline_ms);
        let headers = self.proxied.as_ref().and_then(Proxied::next_deadline_ms);
        let newcomers = self.newcomers.next_deadline_ms();
        let quic = self.quic.as_ref().and_then(Quic::next_deadline_ms);
        let cluster = self.cluster.as_ref();
        let cluster = cluster.and_then(|cluster| cluster.next_deadline_ms(now));
        let due = [
            cluster,
            self.fence_deadline_ms(now),
            self.shard.next_deadline_ms(),
            retry,
            handshakes,
            headers,
            newcomers,
            quic,
        ]
        .into_iter()
        .flatten()
        .min();
        due.map(|due_ms| self.clock.instant(due_ms))
    }

    fn turn(&mut self, now: Now, events: &mut Vec<driver::Event>) {
        self.shard.stats_mut().counters.turns += 1;
        for event in events.drain(..) {
            if let Some(event) = self.bus_event(now, event) {
                self.socket_event(now, event);
            }
        }
        self.look_at_watched(now);
        let with_timers = self
            .cluster
            .as_ref()
            .is_none_or(|it| !it.fence.catches_up());
        if with_timers {
            self.layer_timers(now);
        }
        self.turn_cluster(now);
        self.drain_mesh(now);
        let Self {
            shard,
            outbox,
            completions,
            verdicts,
            ..
        } = self;
        completions.drain(Self::MESSAGES_PER_TURN, |completion| {
            shard.handle(now, Event::Engine(completion), outbox);
        });
        verdicts.drain(Self::MESSAGES_PER_TURN, |verdict| {
            shard.handle(now, Event::Verdict(verdict), outbox);
        });
        let mut asked = Vec::new();
        self.requests
            .drain(Self::MESSAGES_PER_TURN, |request| asked.push(request));
        for (id, request) in asked {
            self.asked(now, id, request);
        }
        if with_timers {
            self.told = self.congestion;
            let tick = Event::Tick(self.told);
            self.shard.handle(now, tick, &mut self.outbox);
        }
        self.ask(now);
        self.flush(now);
        self.look_at_backlog();
        self.look_at_newcomers(now);
        let counters = &self.shard.stats_mut().counters;
        let quiet = self.activity.is_quiet(now, counters);
        let span = if quiet {
            self.quiet_wait
        } else {
            Duration::ZERO
        };
        self.driver.gather(span);
    }

    /// What is due below the shard: headers, handshakes, packets of QUIC.
    fn layer_timers(&mut self, now: Now) {
        self.end_overdue_headers(now);
        if let Some(secured) = &mut self.secured {
            secured.turn(&mut self.driver, now, &mut self.shard, &mut self.outbox);
        }
        if let Some(quic) = &mut self.quic {
            quic.turn(now, &mut self.gate, &mut self.shard, &mut self.outbox);
        }
    }

    /// Handles what other cores of this node have sent.
    fn drain_mesh(&mut self, now: Now) {
        let mut envelopes = std::mem::take(&mut self.envelopes);
        for lane in [Lane::Control, Lane::Data] {
            self.port
                .drain(lane, Self::MESSAGES_PER_TURN, |_, envelope| {
                    envelopes.push(envelope);
                });
            for envelope in envelopes.drain(..) {
                if let (CoreMessage::Stray(stray), Some(quic)) = (&envelope.message, &mut self.quic)
                {
                    quic.stray(
                        now,
                        stray,
                        &mut self.gate,
                        &mut self.shard,
                        &mut self.outbox,
                    );
                } else {
                    self.arrived(now, envelope);
                }
            }
        }
        self.envelopes = envelopes;
    }

    /// An operator asks.
    fn asked(&mut self, now: Now, id: u64, request: AdminRequest) {
        let (shard, outbox) = (&mut self.shard, &mut self.outbox);
        match &request {
            AdminRequest::ReloadTls(acceptors) => {
                handing_out::reload(&mut self.secured, &mut self.quic, acceptors);
            }
            AdminRequest::SetPolicy(policy) => {
                shard.handle(now, Event::Policy(Arc::clone(policy)), outbox);
            }
            _ => {}
        }
        shard.handle(now, Event::Admin(id, request), outbox);
    }

    /// Asks what the shard wants to know. What nobody can take is answered at once.
    fn ask(&mut self, now: Now) {
        let first_core = self.shard.ownership().here().start;
        for mut question in std::mem::take(&mut self.outbox.questions) {
            question.core -= first_core; // Verdicts go to cores of this node.
            if let Err(verdict) = self.asker.ask(question) {
                let verdict = Event::Verdict(verdict);
                self.shard.handle(now, verdict, &mut self.outbox);
            }
        }
    }

    /// Finds out whether more waits than the others take.
    fn look_at_backlog(&mut self) {
        let cores = &self.engine_backlog.cores;
        let is_behind = self
            .outbox
            .is_engine_behind(Self::BACKLOG, Self::BACKLOG_BYTES);
        match (self.congestion.engine, is_behind) {
            (false, true) => cores.fetch_add(1, Ordering::Relaxed),
            (true, false) => cores.fetch_sub(1, Ordering::Relaxed),
            _ => 0,
        };
        let waiting = self.for_cores.iter().map(|[control, _]| control.len());
        let control_backlog = self.outbox.control_backlog() + waiting.sum::<usize>();
        let is_bus_behind = self.is_bus_behind();
        let cores = &self.engine_backlog.cores;
        self.congestion = Congestion {
            engine: is_behind,
            congested: cores.load(Ordering::Relaxed) > 0
                || control_backlog > Self::BACKLOG
                || is_bus_behind,
            pressed: self.newcomers.pressed(),
        };
    }

    fn socket_event(&mut self, now: Now, event: driver::Event) {
        match event {
            driver::Event::Accepted {
                connection,
                listener,
                peer,
            } => self.accepted(now, connection, listener, peer),
            driver::Event::Received { connection, buffer } => {
                self.received(now, connection, buffer);
            }
            driver::Event::Drained { connection } => {
                let drained = Event::Drained(connection);
                self.shard.handle(now, drained, &mut self.outbox);
            }
            driver::Event::PeerClosed { connection } => self.peer_closed(now, connection),
            driver::Event::Closed { connection, .. } => self.closed(now, connection),
            driver::Event::Datagrams {
                socket,
                buffer,
                remote,
                local,
                ecn,
                stride,
            } => {
                if let Some(quic) = &mut self.quic {
                    let batch = Batch {
                        socket,
                        buffer,
                        remote,
                        local,
                        ecn,
                        stride,
                    };
                    quic.received(
                        &mut self.driver,
                        now,
                        batch,
                        &mut self.gate,
                        &mut self.shard,
                        &mut self.outbox,
                    );
                }
            }
            driver::Event::Connected { .. } | driver::Event::Woken => {}
        }
    }

    /// A watched connection that had nothing unsent after the last flush gets no `Drained` from the driver.
    fn look_at_watched(&mut self, now: Now) {
        for connection in self.watched.drain(..) {
            let unsent = match &self.quic {
                Some(quic) if is_stream(connection) => quic.unsent(connection),
                _ => self.driver.unsent(connection),
            };
            if unsent == 0 {
                self.shard
                    .handle(now, Event::Drained(connection), &mut self.outbox);
            }
        }
    }

    /// Hands out what the turn produced.
    fn flush(&mut self, now: Now) {
        self.outbox.seal();
        self.send_outputs();
        self.carry_out_orders(now);
        if let Some(quic) = &mut self.quic {
            quic.flush(&mut self.driver, now, &mut self.gate);
        }
        self.flush_bus(now);
        self.flush_mesh();
        while let Some(command) = self.outbox.engine.pop_front() {
            if let Err(command) = self.engine.try_send(command) {
                self.outbox.engine.push_front(command);
                break;
            }
            self.shard.stats_mut().counters.engine_commands += 1;
        }
        for (connection, violation) in self.outbox.violations.drain(..) {
            let core = self.shard.facts().core;
            tracing::debug!(core, slot = connection.slot, %violation, "a client broke a rule of the protocol");
        }
        let core = self.shard.facts().core;
        for note in self.outbox.notes.drain(..) {
            notes::log(core, &note);
        }
        self.answer_operators();
        while let Some(buffer) = self.driver.reclaim() {
            self.outbox.recycle(buffer);
        }
    }

    /// Hands answers to operators.
    fn answer_operators(&mut self) {
        for (id, reply) in std::mem::take(&mut self.outbox.admin) {
            self.cores.answer(id, self.complete(reply));
        }
    }

    /// Completes a snapshot with what the shard does not know.
    fn complete(&self, reply: AdminReply) -> AdminReply {
        match reply {
            AdminReply::Snapshot(snapshot) => AdminReply::Snapshot(Box::new(CoreSnapshot {
                driver: self.driver.counters(),
                newcomers: self.newcomers.sample(),
                tls: self.secured.as_ref().map(|secured| secured.stats().clone()),
                quic: self.quic.as_ref().map(Quic::stats),
                bus: self
                    .cluster
                    .as_ref()
                    .map(|cluster| (cluster.bus.stats(), cluster.dropped())),
                handover: self
                    .shard
                    .handover()
                    .map(|handover| handover.sample(self.clock.now().mono_ms)),
                ..*snapshot
            })),
            reply => reply,
        }
    }

    fn flush_mesh(&mut self) {
        let (from, first) = (self.shard.facts().core, self.shard.ownership().here().start);
        for ((place, messages), envelopes) in (first..)
            .zip(&mut self.outbox.mesh)
            .zip(&mut self.for_cores)
        {
            for (messages, envelopes) in messages.iter_mut().zip(envelopes) {
                let to = place;
                let enveloped = messages
                    .drain(..)
                    .map(|message| Envelope { from, to, message });
                envelopes.extend(enveloped);
            }
        }
        self.flush_envelopes();
        self.port.flush(|core| self.wakers[core].wake());
    }

    /// Ends this core's connections, and the core once all cores are quiet. True when it is done.
    fn stop(&mut self, now: Now) -> bool {
        let Some(stop_by_ms) = self.stop_by_ms else {
            self.stop_by_ms = Some(now.mono_ms + Self::STOP_MS);
            self.give_up_ms = now.mono_ms + 2 * Self::STOP_MS;
            self.driver.stop_listening();
            self.shut_down_arrivals();
            if let Some(cluster) = &mut self.cluster {
                cluster.bus.shut_down(&mut self.driver, now.mono_ms);
            }
            if let Some(quic) = &mut self.quic {
                quic.shut_down(now);
            }
            self.shard.handle(now, Event::Stop, &mut self.outbox);
            self.flush(now);
            return false;
        };
        let cores = self.for_cores.len();
        let quic = self.quic.as_ref();
        let idle = self.driver.counters().connections == 0
            && quic.is_none_or(|quic| quic.is_done(&self.driver))
            && self.outbox.mesh_backlog() == 0
            && self.for_cores.iter().flatten().all(VecDeque::is_empty);
        if stop_by_ms != u64::MAX && (idle || now.mono_ms >= stop_by_ms) {
            self.stop_by_ms = Some(u64::MAX);
            self.stopping.quiet.fetch_add(1, Ordering::AcqRel);
        }
        self.stopping.quiet.load(Ordering::Acquire) >= cores
            && !self.port.has_pending()
            && (self.outbox.engine.is_empty() || now.mono_ms >= self.give_up_ms)
    }
}
