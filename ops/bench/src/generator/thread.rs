//! One thread of the generator: a driver, its share of the clients, and the turn.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::io;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use reactor::datagram::DatagramConfig;
use reactor::driver::{
    Backend, BufferRef, Close, ConnectionId, Driver, DriverConfig, Event, Waker,
};
use reactor::epoll::EpollDriver;
use reactor::probe::{cpus_allowed, pin_to_cpu};
use reactor::slab::Table;
use reactor::uring::UringDriver;

use super::client::{Client, Outcome, Phase, STAMP_BYTES};
use super::load::Active;
use super::open::Opening;
use super::quic::{Quic, Told};
use super::tls::{Handshake, Tls};
use super::{Command, Counters, Latencies, Shared};
use crate::arguments::Transport;
use crate::clock::{self, Pace};
use crate::machine::Plan;

/// Events and due work between two looks at the clock.
pub(super) const BATCH: u64 = 256;
/// How long the connections of a thread may take to close.
const CLOSING_LIMIT: Duration = Duration::from_secs(30);
/// How long a thread waits at most.
const IDLE: Duration = Duration::from_millis(200);
/// How often a thread looks at what other threads have received.
const LOOK: Duration = Duration::from_micros(200);

/// Where a thread runs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    index: usize,
    backend: Backend,
    /// Which of the CPUs that may be used it is bound to.
    cpu: Option<usize>,
}

impl Place {
    /// The CPUs that the plan leaves to the generator are shared out in turns.
    pub(super) fn new(index: usize, plan: &Plan) -> Self {
        let cpus = cpus_allowed().map_or(1, |cpus| cpus.len());
        let cpu = plan.division.as_ref().map(|division| {
            let own = cpus.saturating_sub(division.generator_first).max(1);
            division.generator_first + index % own
        });
        Self {
            index,
            backend: plan.backend,
            cpu,
        }
    }
}

pub(super) struct Thread<D> {
    pub(super) driver: D,
    tls: Option<Tls>,
    pub(super) quic: Option<Quic>,
    pub(super) index: usize,
    pub(super) shared: Arc<Shared>,
    /// In the order of their numbers, in which they were opened first.
    pub(super) clients: Vec<Client>,
    /// Place in `clients` by slot of the driver.
    pub(super) by_slot: Table<u32>,
    pub(super) opening: Option<Opening>,
    /// Numbers of clients to open again, and when.
    pub(super) again: VecDeque<(Instant, u32)>,
    /// Numbers of clients to end.
    pub(super) leaving: VecDeque<u32>,
    /// True exactly when a live connection that ends is a fault.
    watching: bool,
    /// Clients on their way to a session.
    pub(super) unfinished: usize,
    /// Rounds of pings to go, and the PINGRESPs that the current one waits for.
    pub(super) ping_rounds: u32,
    pub(super) pongs_due: u64,
    /// When which clients are to show that they live, in milliseconds from the start of the run: not later than at these times.
    pub(super) keep_alive_order: BinaryHeap<Reverse<(u32, u32)>>,
    /// How fast clients ping although their keep-alive does not ask for it yet.
    pub(super) keep_alive_pace: Option<Pace>,
    pub(super) load: Option<Active>,
    latencies: Latencies,
    pub(super) random: fastrand::Rng,
    pub(super) payload: Vec<u8>,
    stopping: bool,
}

/// Received bytes.
enum Input<'a> {
    /// As they came.
    Buffer(BufferRef),
    /// Out of TLS.
    Plain(&'a mut [u8]),
}

/// Runs a thread until it is told to stop. Its waker, or why it has none, goes to `ready`.
pub(super) fn run(
    place: Place,
    clients: u32,
    shared: Arc<Shared>,
    commands: mpsc::Receiver<Command>,
    ready: &mpsc::Sender<io::Result<Waker>>,
) {
    let config = DriverConfig {
        connections_max: clients.max(16),
        receive_buffers: 256,
        receive_buffer_bytes: 4096,
        events_max: 512,
        submission_entries: 512,
        completion_entries: 4096,
        datagrams: DatagramConfig::server(),
    };
    if let Some(cpu) = place.cpu
        && let Err(error) = pin_to_cpu(cpu)
    {
        shared.fault(format!(
            "a thread of the generator has no CPU of its own: {error}"
        ));
    }
    let index = place.index;
    match place.backend {
        Backend::IoUring => start(UringDriver::new(config), index, shared, commands, ready),
        Backend::Epoll | Backend::Fake => {
            start(EpollDriver::new(config), index, shared, commands, ready);
        }
    }
}

/// TLS or QUIC of a thread, as its transport wants.
fn secured(shared: &Shared, driver: &mut impl Driver) -> io::Result<(Option<Tls>, Option<Quic>)> {
    match &shared.tls {
        Some(tls) if shared.settings.transport == Transport::Quic => {
            let quic = Quic::new(tls.config(), driver).map_err(io::Error::other)?;
            Ok((None, Some(quic)))
        }
        tls => Ok((tls.as_ref().map(Tls::new), None)),
    }
}

fn start<D: Driver>(
    driver: io::Result<D>,
    index: usize,
    shared: Arc<Shared>,
    commands: mpsc::Receiver<Command>,
    ready: &mpsc::Sender<io::Result<Waker>>,
) {
    let made = driver.and_then(|mut driver| {
        let secured = secured(&shared, &mut driver)?;
        Ok((driver, secured))
    });
    let (driver, (tls, quic)) = match made {
        Ok(made) => made,
        Err(error) => {
            let _ = ready.send(Err(error)); // The generator waits for it.
            return;
        }
    };
    let _ = ready.send(Ok(driver.waker()));
    let seed = shared
        .settings
        .seed
        .wrapping_mul(1_000_003)
        .wrapping_add(index as u64);
    let mut thread = Thread {
        driver,
        tls,
        quic,
        index,
        clients: Vec::new(),
        by_slot: Table::new(),
        opening: None,
        again: VecDeque::new(),
        leaving: VecDeque::new(),
        watching: true,
        unfinished: 0,
        ping_rounds: 0,
        pongs_due: 0,
        keep_alive_order: BinaryHeap::new(),
        keep_alive_pace: None,
        load: None,
        latencies: Latencies::new(),
        random: fastrand::Rng::with_seed(seed),
        payload: vec![0; shared.settings.payload_bytes.max(STAMP_BYTES)],
        stopping: false,
        shared,
    };
    if let Err(error) = thread.turns(&commands) {
        thread
            .shared
            .fault(format!("a thread of the generator failed: {error}"));
    }
}

impl<D: Driver> Thread<D> {
    fn turns(&mut self, commands: &mpsc::Receiver<Command>) -> io::Result<()> {
        let mut events = Vec::new();
        while !self.stopping {
            self.driver.poll(Some(self.deadline()), &mut events)?;
            for event in events.drain(..) {
                self.event(event);
            }
            while let Ok(command) = commands.try_recv() {
                self.command(command);
            }
            let now = clock::now();
            self.open_due(now);
            self.leave_due();
            self.ping_due();
            self.keep_alive_due();
            self.publish_due(now);
            self.quic_turn();
        }
        self.close_all()
    }

    /// Closes what is open. A ring that is dropped with requests in flight cancels them one by one, each by a search past
    /// those that it has cancelled before: minutes for ten thousands.
    fn close_all(&mut self) -> io::Result<()> {
        let until = clock::now() + CLOSING_LIMIT;
        for client in &mut self.clients {
            if client.phase != Phase::Ended {
                client.phase = Phase::Ended;
                match &mut self.quic {
                    Some(quic) => quic.close(client.connection, Close::Abort),
                    None => self.driver.close(client.connection, Close::Abort),
                }
            }
        }
        let mut events = Vec::new();
        if let Some(quic) = &mut self.quic {
            quic.turn(&mut self.driver);
            self.driver.poll(Some(clock::now()), &mut events)?;
        }
        while self.driver.counters().connections > 0 && clock::now() < until {
            self.driver.poll(Some(clock::now() + IDLE), &mut events)?;
            events.clear();
        }
        Ok(())
    }

    /// When there is something to do without an event.
    fn deadline(&self) -> Instant {
        let now = clock::now();
        if !self.leaving.is_empty() {
            return now;
        }
        let load = self.load.as_ref().and_then(Active::next_at);
        // Deliveries to other threads' clients are looked at, not told.
        let shared = self.load.as_ref().and_then(Active::shared_window);
        let look = shared
            .filter(|_| self.shared.threads > 1)
            .map(|_| now + LOOK);
        let quic = self.quic.as_ref().and_then(Quic::next_at);
        let times = [self.open_at(), load, look, self.keep_alive_at(), quic];
        let next = times.into_iter().flatten().min();
        next.map_or(now + IDLE, |next| next.min(now + IDLE))
    }

    fn counters(&self) -> &Counters {
        &self.shared.counters[self.index]
    }

    pub(super) fn now_ms(&self) -> u32 {
        u32::try_from(clock::nanos_since(self.shared.epoch) / 1_000_000).unwrap_or(u32::MAX)
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Open {
                numbers,
                per_second,
            } => self.open(numbers, per_second),
            Command::Leave { numbers } => self.leave(numbers),
            Command::Watch(watching) => self.watching = watching,
            Command::Ping { rounds } => self.ping_rounds = rounds,
            Command::KeepAlive { per_second } => self.keep_alive_from_now(per_second),
            Command::Load(load) => self.begin(load),
            Command::Quiet => self.load = None,
            Command::Forget => self.latencies = Latencies::new(),
            Command::Tell(sender) => {
                let _ = sender.send(self.latencies.clone()); // The generator waits for it.
            }
            Command::Stop => self.stopping = true,
        }
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Connected { connection } => {
                let Some(place) = self.place(connection) else {
                    return;
                };
                match &mut self.tls {
                    None => self.begin_conversation(place),
                    Some(tls) => {
                        let mut out = self.driver.reclaim().unwrap_or_default();
                        let begun = tls.connected(connection.slot, &mut out);
                        self.driver.send(connection, out);
                        self.end_if_failed(connection, begun.map(|()| false));
                    }
                }
            }
            Event::Received { connection, buffer } => {
                let Some(place) = self.place(connection) else {
                    return;
                };
                if self.tls.is_some() {
                    self.received_sealed(place, buffer);
                } else {
                    self.received(place, Input::Buffer(buffer));
                }
            }
            Event::PeerClosed { connection } => self.driver.close(connection, Close::Abort),
            Event::Closed {
                connection, error, ..
            } => self.closed(connection, error),
            Event::Datagrams {
                buffer,
                remote,
                ecn,
                stride,
                ..
            } => {
                let bytes = self.driver.received(buffer);
                if let Some(quic) = &mut self.quic {
                    quic.received(remote, ecn, stride, bytes);
                }
                self.driver.recycle(buffer);
                self.quic_told();
            }
            Event::Accepted { .. } | Event::Drained { .. } | Event::Woken => {}
        }
    }

    /// Clients of QUIC hear what came, and say what they have to say.
    fn quic_turn(&mut self) {
        self.quic_told();
        if let Some(quic) = &mut self.quic {
            quic.turn(&mut self.driver);
        }
    }

    fn quic_told(&mut self) {
        while let Some(told) = self.quic.as_mut().and_then(Quic::told) {
            match told {
                Told::Connected(connection, handshake) => {
                    if handshake == Handshake::Resumed {
                        Counters::count(&self.counters().tls_resumed);
                    }
                    if let Some(place) = self.place(connection) {
                        self.begin_conversation(place);
                    }
                }
                Told::Data(connection, mut bytes) => {
                    if let Some(place) = self.place(connection) {
                        self.received(place, Input::Plain(&mut bytes));
                    }
                }
                Told::Closed(connection, why) => {
                    self.closed(connection, why.map(io::Error::other));
                }
            }
        }
    }

    /// Ends a connection.
    pub(super) fn close(&mut self, connection: ConnectionId, how: Close) {
        match &mut self.quic {
            Some(quic) => quic.close(connection, how),
            None => self.driver.close(connection, how),
        }
    }

    fn place(&self, connection: ConnectionId) -> Option<usize> {
        let place = *self.by_slot.get(connection.slot)? as usize;
        (self.clients[place].connection == connection).then_some(place)
    }

    /// Writes what opens the conversation with the server.
    fn begin_conversation(&mut self, place: usize) {
        let mut out = self.driver.reclaim().unwrap_or_default();
        self.clients[place].connected(&self.shared.settings, &mut out);
        self.send(place, out);
    }

    /// Bytes of a TLS connection.
    fn received_sealed(&mut self, place: usize, buffer: BufferRef) {
        let connection = self.clients[place].connection;
        let Some(tls) = &mut self.tls else {
            return;
        };
        let (mut plain, mut out) = (Vec::new(), self.driver.reclaim().unwrap_or_default());
        let bytes = self.driver.received(buffer);
        let outcome = tls.received(connection.slot, bytes, &mut plain, &mut out);
        self.driver.send(connection, out);
        if matches!(outcome, Ok(Handshake::Resumed)) {
            Counters::count(&self.counters().tls_resumed);
        }
        let complete = outcome.map(|handshake| handshake != Handshake::Nothing);
        if self.end_if_failed(connection, complete) {
            self.begin_conversation(place);
        }
        if !plain.is_empty() {
            self.received(place, Input::Plain(&mut plain));
        }
    }

    /// What TLS said, and false when it failed, which ends the connection.
    fn end_if_failed(&mut self, connection: ConnectionId, outcome: anyhow::Result<bool>) -> bool {
        outcome.unwrap_or_else(|error| {
            if self.watching {
                self.shared.fault(format!("TLS: {error:#}"));
            }
            self.driver.close(connection, Close::Abort);
            false
        })
    }

    fn received(&mut self, place: usize, input: Input<'_>) {
        let mut out = self.driver.reclaim().unwrap_or_default();
        let (client, counters) = (&mut self.clients[place], &self.shared.counters[self.index]);
        let (latencies, epoch) = (&mut self.latencies, self.shared.epoch);
        let (mut became_live, mut arrived, mut acknowledged, mut pongs) = (false, 0u32, 0u32, 0u64);
        let mut sink = |outcome: Outcome| match outcome {
            Outcome::BecameLive { resumed } => {
                became_live = true;
                if resumed {
                    Counters::count(&counters.resumed);
                }
            }
            Outcome::Arrived { stamp_ns } => {
                arrived += 1;
                let micros = clock::nanos_since(epoch).saturating_sub(stamp_ns) / 1_000;
                latencies.messages.saturating_record(micros);
                Counters::count(&counters.delivered);
            }
            Outcome::Acknowledged => {
                acknowledged += 1;
                Counters::count(&counters.acknowledged);
            }
            Outcome::Pong => pongs += 1,
        };
        let bytes = match input {
            Input::Buffer(buffer) => self.driver.received(buffer),
            Input::Plain(bytes) => bytes,
        };
        let outcome = client.received(&self.shared.settings, bytes, &mut out, &mut sink);
        counters
            .pongs
            .fetch_add(pongs, std::sync::atomic::Ordering::Release);
        self.pongs_due = self.pongs_due.saturating_sub(pongs);
        let refused = client.phase == Phase::Refused;
        if became_live {
            self.unfinished -= 1;
            Counters::count(&self.counters().live);
            self.keep_alive(place);
        }
        self.send(place, out);
        if let Err(fault) = outcome {
            if self.watching {
                self.shared.fault(fault);
            }
            self.close(self.clients[place].connection, Close::Abort);
        }
        if refused {
            self.close(self.clients[place].connection, Close::Abort);
        }
        self.go_on(place, arrived, acknowledged);
    }

    pub(super) fn send(&mut self, place: usize, out: Vec<u8>) {
        if out.is_empty() {
            return;
        }
        let connection = self.clients[place].connection;
        if let Some(quic) = &mut self.quic {
            return quic.send(connection, &out);
        }
        let Some(tls) = &mut self.tls else {
            return self.driver.send(connection, out);
        };
        let mut sealed = self.driver.reclaim().unwrap_or_default();
        let outcome = tls.seal(connection.slot, &out, &mut sealed);
        self.driver.send(connection, sealed);
        self.end_if_failed(connection, outcome.map(|()| false));
    }

    fn closed(&mut self, connection: ConnectionId, error: Option<io::Error>) {
        let Some(place) = self.place(connection) else {
            return;
        };
        self.by_slot.remove(connection.slot);
        if let Some(tls) = &mut self.tls {
            tls.closed(connection.slot);
        }
        let before = std::mem::replace(&mut self.clients[place].phase, Phase::Ended);
        match before {
            Phase::Ended => return,
            Phase::Refused => {
                self.unfinished -= 1;
                Counters::count(&self.counters().refused_busy);
                return self.open_again(place);
            }
            Phase::Leaving => return Counters::count(&self.counters().left),
            Phase::Live if !self.watching => return Counters::count(&self.counters().left),
            Phase::Live => Counters::count(&self.counters().disconnects),
            _ => {
                self.unfinished -= 1;
                Counters::count(&self.counters().failed);
            }
        }
        if let Some(error) = error {
            self.shared
                .fault(format!("a connection ended ({before:?}): {error}"));
        } else {
            self.shared
                .fault(format!("the server closed a connection ({before:?})"));
        }
    }
}
