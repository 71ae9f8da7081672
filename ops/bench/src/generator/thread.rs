//! One thread of the generator: a driver, its share of the clients, and the turn.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use reactor::driver::{Backend, Close, ConnectionId, Driver, DriverConfig, Event, Waker};
use reactor::epoll::EpollDriver;
use reactor::slab::Table;
use reactor::uring::UringDriver;

use super::addresses::local_of;
use super::client::{Client, Outcome, Phase, STAMP_BYTES};
use super::load::{Active, Load, OUTSTANDING_MAX, Target};
use super::{Command, Counters, Latencies, Shared};
use crate::clock::{self, Pace};

/// Connections of all threads on their way to a session at once: below the accept queue of every server.
const OPENING_MAX: usize = 96;
/// Events and due work between two looks at the clock.
const BATCH: u64 = 256;
/// How long the connections of a thread may take to close.
const CLOSING_LIMIT: Duration = Duration::from_secs(30);
/// How long a thread waits at most.
const IDLE: Duration = Duration::from_millis(200);

/// Clients to open.
#[derive(Debug)]
struct Opening {
    numbers: VecDeque<u32>,
    pace: Pace,
}

struct Thread<D> {
    driver: D,
    index: usize,
    shared: Arc<Shared>,
    /// By the order in which they were opened, which is the order of their numbers.
    clients: Vec<Client>,
    /// Place in `clients` by slot of the driver.
    by_slot: Table<u32>,
    opening: Option<Opening>,
    /// Clients on their way to a session.
    unfinished: usize,
    /// Rounds of pings to go, and the PINGRESPs that the current one waits for.
    ping_rounds: u32,
    pongs_due: u64,
    /// The next client to keep alive.
    keep_alive_next: usize,
    /// How fast clients ping although their keep-alive does not ask for it yet.
    keep_alive_pace: Option<Pace>,
    load: Option<Active>,
    latencies: Latencies,
    random: fastrand::Rng,
    payload: Vec<u8>,
    stopping: bool,
}

/// Runs a thread until it is told to stop. Its waker, or why it has none, goes to `ready`.
pub(super) fn run(
    index: usize,
    backend: Backend,
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
    };
    match backend {
        Backend::IoUring => start(UringDriver::new(config), index, shared, commands, ready),
        Backend::Epoll | Backend::Fake => {
            start(EpollDriver::new(config), index, shared, commands, ready);
        }
    }
}

fn start<D: Driver>(
    driver: io::Result<D>,
    index: usize,
    shared: Arc<Shared>,
    commands: mpsc::Receiver<Command>,
    ready: &mpsc::Sender<io::Result<Waker>>,
) {
    let driver = match driver {
        Ok(driver) => driver,
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
        index,
        clients: Vec::new(),
        by_slot: Table::new(),
        opening: None,
        unfinished: 0,
        ping_rounds: 0,
        pongs_due: 0,
        keep_alive_next: 0,
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
            self.ping_due();
            self.keep_alive_due();
            self.publish_due(now);
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
                self.driver.close(client.connection, Close::Abort);
            }
        }
        let mut events = Vec::new();
        while self.driver.counters().connections > 0 && clock::now() < until {
            self.driver.poll(Some(clock::now() + IDLE), &mut events)?;
            events.clear();
        }
        Ok(())
    }

    /// When there is something to do without an event.
    fn deadline(&self) -> Instant {
        let now = clock::now();
        let opening = self
            .opening
            .as_ref()
            .filter(|_| self.unfinished < self.opening_max());
        let opening = opening.map(|opening| opening.pace.next());
        let load = self.load.as_ref().and_then(Active::next_at);
        let times = [opening, load, self.keep_alive_at()];
        let next = times.into_iter().flatten().min();
        next.map_or(now + IDLE, |next| next.min(now + IDLE))
    }

    fn counters(&self) -> &Counters {
        &self.shared.counters[self.index]
    }

    fn now_ms(&self) -> u32 {
        u32::try_from(clock::nanos_since(self.shared.epoch) / 1_000_000).unwrap_or(u32::MAX)
    }

    fn opening_max(&self) -> usize {
        (OPENING_MAX / self.shared.threads).max(8)
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Open {
                numbers,
                per_second,
            } => {
                let own = |number: &u32| (*number / 2) as usize % self.shared.threads == self.index;
                let numbers: VecDeque<u32> = numbers.filter(own).collect();
                self.clients.reserve_exact(numbers.len());
                let pace = Pace::new(clock::now(), per_second);
                self.opening = Some(Opening { numbers, pace });
            }
            Command::Ping { rounds } => self.ping_rounds = rounds,
            Command::KeepAlive => {
                let keep_alive_s = f64::from(self.shared.settings.keep_alive_s);
                let per_second = self.clients.len() as f64 / keep_alive_s;
                self.keep_alive_pace = (per_second.is_finite() && per_second > 0.0)
                    .then(|| Pace::new(clock::now(), per_second));
            }
            Command::Load(load) => self.begin(load),
            Command::Quiet => self.load = None,
            Command::Forget => self.latencies = Latencies::new(),
            Command::Tell(sender) => {
                let _ = sender.send(self.latencies.clone()); // The generator waits for it.
            }
            Command::Stop => self.stopping = true,
        }
    }

    fn open_due(&mut self, now: Instant) {
        let Some(mut opening) = self.opening.take() else {
            return;
        };
        let room = self.opening_max().saturating_sub(self.unfinished) as u64;
        for _ in 0..opening.pace.due(now).min(room).min(BATCH) {
            let Some(number) = opening.numbers.pop_front() else {
                return;
            };
            opening.pace.take(1);
            let remote = self.shared.settings.remote;
            match self.driver.connect(remote, local_of(remote, number)) {
                Ok(connection) => {
                    let place = self.clients.len() as u32;
                    self.clients
                        .push(Client::new(connection, number, self.now_ms()));
                    self.by_slot.insert(connection.slot, place);
                    self.unfinished += 1;
                }
                Err(error) => {
                    self.shared
                        .fault(format!("no socket for a connection: {error}"));
                    Counters::count(&self.counters().failed);
                }
            }
        }
        if !opening.numbers.is_empty() {
            self.opening = Some(opening);
        }
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Connected { connection } => {
                let Some(place) = self.place(connection) else {
                    return;
                };
                let mut out = self.driver.reclaim().unwrap_or_default();
                self.clients[place].connected(&self.shared.settings, &mut out);
                self.send(place, out);
            }
            Event::Received { connection, buffer } => {
                let Some(place) = self.place(connection) else {
                    return;
                };
                self.received(place, buffer);
            }
            Event::PeerClosed { connection } => self.driver.close(connection, Close::Abort),
            Event::Closed {
                connection, error, ..
            } => self.closed(connection, error),
            Event::Accepted { .. } | Event::Drained { .. } | Event::Woken => {}
        }
    }

    fn place(&self, connection: ConnectionId) -> Option<usize> {
        let place = *self.by_slot.get(connection.slot)? as usize;
        (self.clients[place].connection == connection).then_some(place)
    }

    fn received(&mut self, place: usize, buffer: reactor::driver::BufferRef) {
        let mut out = self.driver.reclaim().unwrap_or_default();
        let (client, counters) = (&mut self.clients[place], &self.shared.counters[self.index]);
        let (latencies, epoch) = (&mut self.latencies, self.shared.epoch);
        let (mut became_live, mut arrived, mut pongs) = (false, 0u32, 0u64);
        let mut sink = |outcome: Outcome| match outcome {
            Outcome::BecameLive => became_live = true,
            Outcome::Arrived { stamp_ns } => {
                arrived += 1;
                let micros = clock::nanos_since(epoch).saturating_sub(stamp_ns) / 1_000;
                latencies.messages.saturating_record(micros);
                Counters::count(&counters.delivered);
            }
            Outcome::Acknowledged => Counters::count(&counters.acknowledged),
            Outcome::Pong => pongs += 1,
        };
        let bytes = self.driver.received(buffer);
        let outcome = client.received(&self.shared.settings, bytes, &mut out, &mut sink);
        counters
            .pongs
            .fetch_add(pongs, std::sync::atomic::Ordering::Release);
        self.pongs_due = self.pongs_due.saturating_sub(pongs);
        if became_live {
            self.unfinished -= 1;
            Counters::count(&self.counters().live);
        }
        self.send(place, out);
        if let Err(fault) = outcome {
            self.shared.fault(fault);
            self.driver
                .close(self.clients[place].connection, Close::Abort);
        }
        self.arrived(place, arrived);
    }

    fn send(&mut self, place: usize, out: Vec<u8>) {
        if !out.is_empty() {
            self.driver.send(self.clients[place].connection, out);
        }
    }

    fn closed(&mut self, connection: ConnectionId, error: Option<io::Error>) {
        let Some(place) = self.place(connection) else {
            return;
        };
        self.by_slot.remove(connection.slot);
        let before = std::mem::replace(&mut self.clients[place].phase, Phase::Ended);
        match before {
            Phase::Ended => return,
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

    /// Sends the next round of pings when the last one is answered.
    fn ping_due(&mut self) {
        if self.ping_rounds == 0 || self.pongs_due > 0 {
            return;
        }
        self.ping_rounds -= 1;
        for place in 0..self.clients.len() {
            self.ping(place);
        }
    }

    fn ping(&mut self, place: usize) {
        if self.clients[place].phase != Phase::Live {
            return;
        }
        let mut out = self.driver.reclaim().unwrap_or_default();
        self.clients[place].ping(&mut out);
        self.clients[place].last_sent_ms = self.now_ms();
        self.pongs_due += 1;
        Counters::count(&self.counters().pings);
        self.send(place, out);
    }

    /// When the next client is to show that it lives.
    fn keep_alive_at(&self) -> Option<Instant> {
        let keep_alive_s = self.shared.settings.keep_alive_s;
        let client = self
            .clients
            .get(self.keep_alive_next)
            .filter(|_| keep_alive_s > 0)?;
        let due_ms = u64::from(client.last_sent_ms) + u64::from(keep_alive_s) * 1_000;
        let due = self.shared.epoch + Duration::from_millis(due_ms);
        Some(
            self.keep_alive_pace
                .as_ref()
                .map_or(due, |pace| due.min(pace.next())),
        )
    }

    /// Clients take turns, in the order in which they were opened: whoever comes next has been silent the longest.
    fn keep_alive_due(&mut self) {
        let now = clock::now();
        for _ in 0..BATCH {
            if self.keep_alive_at().is_none_or(|at| at > now) {
                return;
            }
            if let Some(pace) = &mut self.keep_alive_pace {
                pace.take(1);
            }
            self.ping(self.keep_alive_next);
            self.clients[self.keep_alive_next].last_sent_ms = self.now_ms();
            self.keep_alive_next = (self.keep_alive_next + 1) % self.clients.len();
        }
    }

    fn begin(&mut self, load: Load) {
        let own = self
            .clients
            .partition_point(|client| client.number < load.publishers);
        let window = match load.target {
            Target::Partner { window } => window,
            Target::Random(_) | Target::Shared => 0,
        };
        self.load = Some(Active::new(load, clock::now(), own));
        for place in (0..own)
            .filter(|place| self.clients[*place].number.is_multiple_of(2))
            .collect::<Vec<_>>()
        {
            (0..window).for_each(|_| self.publish(place));
        }
    }

    fn publish_due(&mut self, now: Instant) {
        for _ in 0..self
            .load
            .as_ref()
            .map_or(0, |active| active.due(now))
            .min(BATCH)
        {
            let Some(active) = &mut self.load else { return };
            let place = active.take(&mut self.random);
            self.publish(place);
        }
    }

    fn publish(&mut self, place: usize) {
        let client = &mut self.clients[place];
        let Some(active) = &self.load else { return };
        if client.phase != Phase::Live || client.outstanding >= OUTSTANDING_MAX.max(window(active))
        {
            Counters::count(&self.counters().left_out);
            return;
        }
        let topic = active.topic(client.number, &mut self.random);
        let stamp = clock::nanos_since(self.shared.epoch).to_be_bytes();
        self.payload[..STAMP_BYTES].copy_from_slice(&stamp);
        let (version, qos) = (self.shared.settings.version, self.shared.settings.qos);
        let mut out = self.driver.reclaim().unwrap_or_default();
        client.publish(&mut out, version, qos, &topic, &self.payload);
        Counters::count(&self.counters().published);
        self.send(place, out);
    }

    /// A partner's messages have arrived: it gets as many more.
    fn arrived(&mut self, place: usize, messages: u32) {
        let partner = matches!(&self.load, Some(active) if matches!(active.load.target, Target::Partner { .. }));
        if partner && place > 0 {
            (0..messages).for_each(|_| self.publish(place - 1));
        }
    }
}

/// Messages of a pair on their way, and as many whose acknowledgement comes after their arrival.
const fn window(active: &Active) -> u16 {
    match active.load.target {
        Target::Partner { window } => 2 * window,
        Target::Random(_) | Target::Shared => 0,
    }
}
