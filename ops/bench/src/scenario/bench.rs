//! A server and clients that can be opened: what one run of a scenario works with.

use std::time::Duration;

use anyhow::Result;
use edge_proto::packet::QoS;

use crate::arguments::{Common, LoadArguments};
use crate::cleanup::Guard;
use crate::clock;
use crate::figures::Figures;
use crate::generator::{Generator, Latencies, Settings, Tickets, TlsSettings, Topics, Totals};
use crate::machine::{self, Plan};
use crate::memory;
use crate::rival::Store;
use crate::server::{Server, pause};
use crate::subject::Subject;

/// Keep-alive of clients that have something else to say: longer than a run. Not 0, which one rival refuses.
pub(super) const KEEP_ALIVE_LONG_S: u16 = 18_000;
/// How long durable sessions outlive their connections.
const SESSION_EXPIRY_S: u32 = 86_400;

/// A server, and clients that can be opened.
pub(super) struct Bench {
    // Dropped in this order: with the server gone the clients have nothing to say good-bye to, and the kernel's settings
    // come last.
    pub(super) server: Server,
    pub(super) generator: Generator,
    pub(super) plan: Plan,
    _sysctls: Vec<Guard>,
}

/// What clients do that differs between scenarios.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clients {
    /// Most of them that are connected at once.
    pub(super) connected: u32,
    pub(super) topics: Topics,
    pub(super) qos: QoS,
    pub(super) keep_alive_s: u16,
    pub(super) payload_bytes: usize,
    /// Sessions from this number on are durable.
    pub(super) durable_from: u32,
    /// What is done with tickets of TLS.
    pub(super) tickets: Tickets,
    /// How long what the server acknowledges has to last.
    pub(super) store: Store,
}

impl Clients {
    /// So many that end with their connection.
    pub(super) const fn new(count: u32, topics: Topics, qos: QoS, payload_bytes: u32) -> Self {
        Self {
            connected: count,
            topics,
            qos,
            keep_alive_s: KEEP_ALIVE_LONG_S,
            payload_bytes: payload_bytes as usize,
            durable_from: u32::MAX,
            tickets: Tickets::Ignore,
            store: Store::Nothing,
        }
    }
}

impl Bench {
    /// Starts the server and the threads of the generator.
    pub(super) fn start(
        common: &Common,
        subject: &Subject,
        plan: Plan,
        clients: &Clients,
    ) -> Result<Self> {
        let sysctls = machine::raise_sysctls(clients.connected)?;
        let server = Server::start(common, subject, &plan, clients.store)?;
        let settings = Settings {
            remotes: server
                .nodes()
                .map(|node| node.datagrams.unwrap_or(node.address))
                .collect(),
            transport: common.transport(),
            tls: TlsSettings {
                version: common.tls_version,
                key: common.tls_key,
                tickets: clients.tickets,
            },
            version: subject.version(common),
            keep_alive_s: clients.keep_alive_s,
            qos: clients.qos,
            topics: clients.topics,
            payload_bytes: clients.payload_bytes,
            user: subject.user(),
            session_expiry_s: SESSION_EXPIRY_S,
            durable_from: clients.durable_from,
            seed: common.seed,
        };
        let generator = Generator::start(settings, &plan, clients.connected)?;
        Ok(Self {
            server,
            generator,
            plan,
            _sysctls: sysctls,
        })
    }

    /// CPU time of the server and of the generator, and what the clients have counted.
    pub(super) fn reading(&self) -> Reading {
        Reading {
            at: clock::now(),
            server_cpu_ns: self.server.cpu_ns(),
            engine_cpu_ns: self.server.engine.as_ref().and_then(|it| it.cpu_ns()),
            generator_cpu_ns: self.generator.cpu_ns(),
            machine_cpu_ns: machine::busy_ns(),
            totals: self.generator.totals(),
        }
    }

    /// Measures a load that runs already: what is counted in `span`, after a warm-up that is not.
    pub(super) fn measure(&self, warm_up: Duration, span: Duration) -> Result<Measured> {
        pause(warm_up)?;
        self.generator.forget();
        let before = self.reading();
        pause(span)?;
        let measured = self.reading().since(&before);
        let latencies = self.generator.latencies();
        self.server.check()?;
        Ok(Measured {
            measured,
            latencies,
        })
    }

    /// Measures a load as [`Self::measure`] does, ends it and waits for what is on its way.
    pub(super) fn measure_all(
        &self,
        load: &LoadArguments,
        copies: u64,
        figures: &mut Figures,
    ) -> Result<Measured> {
        let before = self.generator.totals();
        let measured = self.measure(load.warm_up, load.duration)?;
        self.generator.quiet();
        let missing = self.generator.drain(&self.server, &before, copies)?;
        if missing > 0 {
            figures.note("undelivered", missing.to_string());
        }
        Ok(measured)
    }

    /// What is the same at the end of every scenario: memory, disconnects, faults in words.
    pub(super) fn ending(&self, figures: &mut Figures) -> Result<()> {
        if self.server.pid.is_some() && figures.value("rss_bytes").is_none() {
            let pids = self.server.nodes().filter_map(|node| node.pid);
            let sizes = pids.map(|pid| memory::resident(pid).map(|resident| resident.rss));
            figures.count("rss_bytes", sizes.sum::<Result<u64>>()?);
        }
        let totals = self.generator.totals();
        figures.count("disconnects", totals.disconnects);
        figures.count("refused_busy", totals.refused_busy);
        for fault in self.generator.faults() {
            figures.note("fault", fault);
        }
        Ok(())
    }
}

/// Counters at one moment.
pub(super) struct Reading {
    at: std::time::Instant,
    server_cpu_ns: Option<u64>,
    engine_cpu_ns: Option<u64>,
    generator_cpu_ns: u64,
    machine_cpu_ns: u64,
    totals: Totals,
}

/// What happened between two readings.
#[derive(Clone, Copy, Debug)]
pub(super) struct Between {
    pub(super) seconds: f64,
    pub(super) counted: Totals,
    /// CPU time of the server in microseconds, of all its nodes, where its process is known.
    pub(super) server_us: Option<f64>,
    /// The same of the engine that nodes share, where it is a process of its own.
    engine_us: Option<f64>,
    pub(super) generator_us: f64,
    /// CPU time of everybody on the machine.
    machine_us: f64,
}

impl Reading {
    pub(super) fn since(&self, before: &Self) -> Between {
        let micros = |after: u64, before: u64| after.saturating_sub(before) as f64 / 1_000.0;
        let server = self.server_cpu_ns.zip(before.server_cpu_ns);
        let engine = self.engine_cpu_ns.zip(before.engine_cpu_ns);
        Between {
            seconds: (self.at - before.at).as_secs_f64(),
            counted: self.totals.since(&before.totals),
            server_us: server.map(|(after, before)| micros(after, before)),
            engine_us: engine.map(|(after, before)| micros(after, before)),
            generator_us: micros(self.generator_cpu_ns, before.generator_cpu_ns),
            machine_us: micros(self.machine_cpu_ns, before.machine_cpu_ns),
        }
    }
}

impl Between {
    /// Writes what the server's and the generator's CPU did, and what each of `count` things cost the server.
    pub(super) fn cpu(&self, thing: &str, count: u64, suffix: &str, figures: &mut Figures) {
        let count = count.max(1) as f64;
        if let Some(server_us) = self.server_us {
            figures.measure(&format!("cpu_us_per_{thing}{suffix}"), server_us / count);
            figures.measure(
                &format!("server_cpus{suffix}"),
                server_us / 1e6 / self.seconds,
            );
        }
        let engine_us = self.engine_us.unwrap_or(0.0);
        if self.engine_us.is_some() {
            let name = format!("engine_cpus{suffix}");
            figures.measure(&name, engine_us / 1e6 / self.seconds);
        }
        figures.measure(
            &format!("generator_cpus{suffix}"),
            self.generator_us / 1e6 / self.seconds,
        );
        // Near 0 on a machine that does nothing else; what is above takes the time of those who are measured.
        let ours_us = self.generator_us + self.server_us.unwrap_or(0.0) + engine_us;
        let others_us = self.machine_us - ours_us;
        figures.measure(
            &format!("others_cpus{suffix}"),
            others_us.max(0.0) / 1e6 / self.seconds,
        );
    }
}

/// A load that was measured.
pub(super) struct Measured {
    pub(super) measured: Between,
    latencies: Latencies,
}

impl Measured {
    /// Writes rate, CPU and latency of the messages that were delivered.
    pub(super) fn messages(&self, figures: &mut Figures) {
        let Between {
            counted, seconds, ..
        } = &self.measured;
        figures.measure("messages_per_s", counted.delivered as f64 / seconds);
        self.measured.cpu("message", counted.delivered, "", figures);
        self.latency("", figures);
        self.left_out(figures);
    }

    /// Writes latency: `latency_ms_p50…`.
    pub(super) fn latency(&self, suffix: &str, figures: &mut Figures) {
        for (name, quantile) in [("p50", 0.5), ("p99", 0.99), ("p999", 0.999)] {
            let value = self.latencies.message_ms(quantile);
            figures.measure(&format!("latency_ms_{name}{suffix}"), value);
        }
    }

    /// Writes how many messages were due and not sent, because their publisher had too many unanswered ones.
    pub(super) fn left_out(&self, figures: &mut Figures) {
        figures.count("left_out", self.measured.counted.left_out);
    }
}
