//! Threads of clients: each thread has a driver of the reactor and its share of the clients.
//!
//! Scenarios tell all threads what to do ([`Command`]) and watch the counters. Clients 2k and 2k + 1 are on one thread.

mod addresses;
mod client;
mod load;
mod open;
mod ping;
mod publish;
mod quic;
pub(crate) mod storm;
mod thread;
mod tls;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use edge_proto::packet::{QoS, Version};
use hdrhistogram::Histogram;
use reactor::driver::{Backend, Waker};

use crate::arguments::Transport;
use crate::certificate;
use crate::clock;
use crate::machine::Plan;
use crate::memory;
use crate::server::{Server, pause};

pub(crate) use addresses::local_of;
pub(crate) use client::number_of;
pub(crate) use load::{Load, Target};
pub(crate) use tls::{Tickets, TlsSettings};

/// A phase in which nothing moves for so long has failed.
const STUCK_AFTER: Duration = Duration::from_secs(20);
/// When nothing has arrived for so long, nothing more will.
const QUIET_AFTER: Duration = Duration::from_secs(2);
/// Different faults that are told.
const FAULTS_MAX: usize = 5;

/// What clients subscribe to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Topics {
    /// Nothing.
    None,
    /// A topic of its own each.
    Own,
    /// All but the first so many: the one shared topic.
    Shared {
        /// Clients that do not subscribe.
        publishers: u32,
    },
    /// All from this number on: a topic of its own each.
    OwnFrom {
        /// The first that subscribes.
        first: u32,
    },
    /// The first so many pairs: a topic of its own each. Then publishers, nothing; all others, the one shared topic.
    PairsAndShared {
        /// Pairs.
        pairs: u32,
        /// Clients that do not subscribe.
        publishers: u32,
    },
    /// The first so many: the topic of one group. All others: those of many.
    Groups {
        /// The first with many.
        one_until: u32,
        /// Groups of each from there on.
        count: u32,
    },
    /// The topic of their room, and a topic of their own each.
    Rooms {
        /// Clients in a room.
        size: u32,
    },
}

/// What all clients of a run have in common.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Where they connect: the nodes, among which [`Topics`] distributes them.
    pub(crate) remotes: Vec<SocketAddr>,
    pub(crate) transport: Transport,
    pub(crate) tls: TlsSettings,
    pub(crate) version: Version,
    /// 0 = no keep-alive, no pings.
    pub(crate) keep_alive_s: u16,
    /// QoS of subscriptions and publishes.
    pub(crate) qos: QoS,
    pub(crate) topics: Topics,
    /// Bytes of a payload, at least 16.
    pub(crate) payload_bytes: usize,
    /// User name in each CONNECT.
    pub(crate) user: Option<&'static str>,
    /// How long durable sessions outlive their connection.
    pub(crate) session_expiry_s: u32,
    /// Sessions of clients from this number on are durable; those of the others end with their connection.
    pub(crate) durable_from: u32,
    pub(crate) seed: u64,
}

/// What a thread is told to do.
#[derive(Clone, Debug)]
enum Command {
    /// Open the clients with these numbers that are its own, so many in a second (0 = no pace) on this thread.
    Open {
        numbers: std::ops::Range<u32>,
        per_second: f64,
    },
    /// The clients with these numbers that are its own disconnect.
    Leave { numbers: std::ops::Range<u32> },
    /// From now on the end of a connection is a disconnect (true), or what was to be expected (false).
    Watch(bool),
    /// Each of its clients sends so many PINGREQs, one by one.
    Ping { rounds: u32 },
    /// Ping all the time from now on: so many in a second on this thread, or each client once in the keep-alive.
    KeepAlive { per_second: Option<f64> },
    /// Publish.
    Load(Load),
    /// Publish no more.
    Quiet,
    /// Forget the latencies so far.
    Forget,
    /// Send the latencies so far.
    Tell(mpsc::Sender<Latencies>),
    /// End.
    Stop,
}

/// Times that were measured, in microseconds.
#[derive(Clone, Debug)]
pub(crate) struct Latencies {
    /// From PUBLISH to its arrival.
    pub(crate) messages: Histogram<u64>,
}

impl Latencies {
    fn new() -> Self {
        const LONGEST_US: u64 = 120_000_000;
        let messages =
            Histogram::new_with_bounds(1, LONGEST_US, 3).expect("the bounds are in order");
        Self { messages }
    }

    /// The longest, in milliseconds.
    pub(crate) fn longest_ms(&self) -> f64 {
        self.messages.max() as f64 / 1_000.0
    }

    /// A quantile in milliseconds.
    pub(crate) fn message_ms(&self, quantile: f64) -> f64 {
        self.messages.value_at_quantile(quantile) as f64 / 1_000.0
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counters of one thread, which alone adds to them.
        #[derive(Debug, Default)]
        struct Counters { $($name: AtomicU64,)* }

        /// What all threads counted.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub(crate) struct Totals { $($(#[$doc])* pub(crate) $name: u64,)* }

        impl Totals {
            fn add(&mut self, counters: &Counters) {
                $(self.$name += counters.$name.load(Ordering::Acquire);)*
            }

            /// What was counted since `before`.
            pub(crate) fn since(&self, before: &Self) -> Self {
                Self { $($name: self.$name - before.$name,)* }
            }
        }
    };
}

counters! {
    /// Sessions that became live.
    live,
    /// TLS handshakes that were resumed.
    tls_resumed,
    /// Connections that ended before their session was live.
    failed,
    /// Sessions that became live and that the server had kept.
    resumed,
    /// Clients whom the server told to come later, and who do.
    refused_busy,
    /// Live sessions that ended although nobody asked for it.
    disconnects,
    /// Live sessions that ended as they were to.
    left,
    /// PUBLISH sent.
    published,
    /// Publishes that were due and left out, because too many of the publisher's were not acknowledged.
    left_out,
    /// PUBLISH received.
    delivered,
    /// QoS 1 and 2 publishes that are through.
    acknowledged,
    /// PINGREQ sent.
    pings,
    /// PINGRESP received.
    pongs,
}

impl Counters {
    fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Release);
    }
}

/// What threads and scenario share.
#[derive(Debug)]
struct Shared {
    settings: Settings,
    /// What TLS connections have in common; `None` on other transports.
    tls: Option<tls::Shared>,
    threads: usize,
    counters: Vec<Counters>,
    epoch: Instant,
    faults: Mutex<Vec<String>>,
}

impl Shared {
    fn fault(&self, fault: String) {
        let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        if faults.len() < FAULTS_MAX && !faults.contains(&fault) {
            faults.push(fault);
        }
    }
}

#[derive(Debug)]
struct Thread {
    commands: mpsc::Sender<Command>,
    waker: Waker,
    handle: JoinHandle<()>,
}

/// The load generator.
#[derive(Debug)]
pub(crate) struct Generator {
    shared: Arc<Shared>,
    threads: Vec<Thread>,
}

impl Generator {
    /// Starts the threads, on the CPUs that are theirs; `clients` is how many will be opened in all.
    pub(crate) fn start(settings: Settings, plan: &Plan, clients: u32) -> Result<Self> {
        let tls = settings.transport.is_secure();
        let shared =
            || tls::Shared::new(&certificate::files(settings.tls.key)?.trusted, settings.tls);
        let tls = tls.then(shared).transpose()?;
        let shared = Arc::new(Shared {
            settings,
            tls,
            threads: plan.threads,
            counters: (0..plan.threads).map(|_| Counters::default()).collect(),
            epoch: clock::now(),
            faults: Mutex::new(Vec::new()),
        });
        let share = clients / plan.threads as u32 + 4;
        let mut threads = Vec::new();
        for index in 0..plan.threads {
            let (commands, receiver) = mpsc::channel();
            let (sender, waker) = mpsc::channel();
            let kit = Arc::clone(&shared);
            let place = thread::Place::new(index, plan);
            let handle = std::thread::Builder::new()
                .name(format!("clients-{index}"))
                .spawn(move || thread::run(place, share, kit, receiver, &sender))?;
            let waker = waker
                .recv()
                .context("a thread of the generator ended at its start")??;
            threads.push(Thread {
                commands,
                waker,
                handle,
            });
        }
        Ok(Self { shared, threads })
    }

    /// True exactly when it uses io_uring.
    pub(crate) fn is_uring(plan: &Plan) -> bool {
        plan.backend == Backend::IoUring
    }

    /// From now on clients resume TLS sessions whose tickets they have kept.
    pub(crate) fn spend_tickets(&self) {
        if let Some(tls) = &self.shared.tls {
            tls.spend();
        }
    }

    /// Clients disconnect; waits until all of them have.
    pub(crate) fn leave(&self, server: &Server, numbers: std::ops::Range<u32>) -> Result<()> {
        let before = self.totals();
        let count = numbers.len() as u64;
        self.tell(&Command::Leave { numbers });
        self.wait(server, "disconnects", |totals| {
            let now = totals.since(&before);
            (now.left + now.disconnects, count)
        })
    }

    /// Stops the server and starts it again, which ends all sessions' connections. Returns how long it took to listen.
    pub(crate) fn outlive(&self, server: &mut Server) -> Result<Duration> {
        let before = self.totals();
        self.tell(&Command::Watch(false));
        let took = server.restart()?;
        let live = before.live - before.left - before.disconnects;
        self.wait(server, "connections to end", |totals| {
            (totals.since(&before).left, live)
        })?;
        self.tell(&Command::Watch(true));
        Ok(took)
    }

    fn tell(&self, command: &Command) {
        for thread in &self.threads {
            let _ = thread.commands.send(command.clone()); // A thread that ended is found by `wait`.
            thread.waker.wake();
        }
    }

    /// Counters of all threads.
    pub(crate) fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        self.shared
            .counters
            .iter()
            .for_each(|counters| totals.add(counters));
        totals
    }

    /// What went wrong first, in words.
    pub(crate) fn faults(&self) -> Vec<String> {
        self.shared
            .faults
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Opens clients and waits until all of their sessions are live. Returns how long it took.
    pub(crate) fn open(
        &self,
        server: &Server,
        numbers: std::ops::Range<u32>,
        per_second: u32,
    ) -> Result<Duration> {
        addresses::next_round();
        let (before, started) = (self.totals(), clock::now());
        let count = numbers.len() as u64;
        let per_second = f64::from(per_second) / self.threads.len() as f64;
        self.tell(&Command::Open {
            numbers,
            per_second,
        });
        self.wait(server, "sessions", |totals| {
            let now = totals.since(&before);
            (now.live + now.failed, count)
        })?;
        let failed = self.totals().since(&before).failed;
        if failed > 0 {
            bail!(
                "{failed} of {count} sessions did not come up: {}",
                self.faults().join("; ")
            );
        }
        Ok(clock::now() - started)
    }

    /// Every client pings so many times.
    pub(crate) fn ping(&self, server: &Server, rounds: u32) -> Result<()> {
        let before = self.totals();
        let count = before.live * u64::from(rounds);
        self.tell(&Command::Ping { rounds });
        self.wait(server, "pings", |totals| {
            (totals.since(&before).pongs, count)
        })
    }

    /// From now on as many clients ping in each second as do when sessions have been open for long. Before, a client pings
    /// only when its keep-alive asks for it, which right after the ramp it does not. `per_second` overrides how many.
    pub(crate) fn keep_alive(&self, per_second: Option<f64>) {
        let per_second = per_second.map(|per_second| per_second / self.threads.len() as f64);
        self.tell(&Command::KeepAlive { per_second });
    }

    /// Begins to publish.
    pub(crate) fn load(&self, load: Load) {
        self.tell(&Command::Load(load));
    }

    /// Ends publishing.
    pub(crate) fn quiet(&self) {
        self.tell(&Command::Quiet);
    }

    /// Forgets what was measured so far.
    pub(crate) fn forget(&self) {
        self.tell(&Command::Forget);
    }

    /// What was measured so far.
    pub(crate) fn latencies(&self) -> Latencies {
        let (sender, receiver) = mpsc::channel();
        self.tell(&Command::Tell(sender));
        let mut all = Latencies::new();
        for latencies in receiver {
            let _ = all.messages.add(latencies.messages); // All have the same bounds.
        }
        all
    }

    /// Waits until `progress` says (done, of) and done reaches of.
    ///
    /// # Errors
    /// When the server ends, a signal comes, or nothing moves for [`STUCK_AFTER`].
    pub(crate) fn wait(
        &self,
        server: &Server,
        what: &str,
        progress: impl Fn(&Totals) -> (u64, u64),
    ) -> Result<()> {
        let (mut last, mut moved, mut told) = (0, clock::now(), clock::now());
        loop {
            let totals = self.totals();
            let (done, of) = progress(&totals);
            if done >= of {
                return Ok(());
            }
            let now = clock::now();
            if done != last {
                (last, moved) = (done, now);
            } else if now - moved > STUCK_AFTER {
                let faults = self.faults().join("; ");
                bail!(
                    "stuck at {done} of {of} {what}, {} disconnects; {faults}",
                    totals.disconnects
                );
            }
            if now - told > Duration::from_secs(2) {
                told = now;
                eprintln!(
                    "  {done} of {of} {what}, {} failed, {} disconnects",
                    totals.failed, totals.disconnects
                );
            }
            server.check()?;
            pause(Duration::from_millis(10))?;
        }
    }

    /// Waits until every message that was published since `before` has arrived `copies` times, or nothing arrives any more.
    /// Returns how many are missing: QoS 0 may be dropped.
    pub(crate) fn drain(&self, server: &Server, before: &Totals, copies: u64) -> Result<u64> {
        let (mut last, mut moved) = (0, clock::now());
        loop {
            let now = self.totals().since(before);
            let missing = (now.published * copies).saturating_sub(now.delivered);
            if missing == 0 {
                return Ok(0);
            }
            if now.delivered != last {
                (last, moved) = (now.delivered, clock::now());
            } else if clock::now() - moved > QUIET_AFTER {
                return Ok(missing);
            }
            server.check()?;
            pause(Duration::from_millis(10))?;
        }
    }

    /// Waits until nothing arrives any more. Returns how long it took until the last message had arrived.
    pub(crate) fn settle(&self, server: &Server) -> Result<Duration> {
        let started = clock::now();
        let (mut last, mut moved) = (self.totals().delivered, started);
        while clock::now() - moved < QUIET_AFTER {
            let delivered = self.totals().delivered;
            if delivered != last {
                (last, moved) = (delivered, clock::now());
            }
            server.check()?;
            pause(Duration::from_millis(10))?;
        }
        Ok(moved - started)
    }

    /// CPU time of this process in nanoseconds.
    pub(crate) fn cpu_ns(&self) -> u64 {
        memory::cpu_ns(std::process::id())
    }
}

impl Drop for Generator {
    fn drop(&mut self) {
        self.tell(&Command::Stop);
        for thread in self.threads.drain(..) {
            let _ = thread.handle.join(); // A panic has been printed where it happened.
        }
    }
}
