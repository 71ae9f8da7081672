//! What is done to a server: one file each. A new scenario is a variant of [`Scenario`], a file here and a line below.

mod connect;
mod density;
mod fanout;
mod p2p;

use anyhow::Result;
use edge_proto::packet::QoS;
use serde_json::{Value, json};

use crate::arguments::{Common, LoadArguments, Scenario};
use crate::cleanup::Guard;
use crate::generator::{Generator, Settings, Topics, Totals};
use crate::machine::{self, Plan};
use crate::memory;
use crate::report::Report;
use crate::server::{Server, pause};

/// Runs a scenario.
pub(crate) fn run(scenario: &Scenario) -> Result<()> {
    match scenario {
        Scenario::Density(arguments) => density::run(arguments),
        Scenario::Connect(arguments) => connect::run(arguments),
        Scenario::P2p(arguments) => p2p::run(arguments),
        Scenario::Fanout(arguments) => fanout::run(arguments),
    }
}

/// A server and clients that can be opened: what every scenario begins with.
struct Bench {
    // Dropped in this order: with the server gone the clients have nothing to say good-bye to, and the kernel's settings
    // come last.
    server: Server,
    generator: Generator,
    plan: Plan,
    _sysctls: Vec<Guard>,
}

/// What clients do that differs between scenarios.
struct Clients {
    count: u32,
    topics: Topics,
    qos: QoS,
    keep_alive_s: u16,
    payload_bytes: usize,
}

impl Bench {
    fn start(common: &Common, clients: &Clients) -> Result<Self> {
        let plan = machine::plan(common, clients.count)?;
        let sysctls = machine::raise_sysctls(clients.count)?;
        let server = Server::start(common, plan.cores, plan.connections_max)?;
        eprintln!(
            "{} at {}, {} threads of clients",
            server.version, server.address, plan.threads
        );
        let settings = Settings {
            remote: server.address,
            transport: common.transport,
            version: common.mqtt.into(),
            keep_alive_s: clients.keep_alive_s,
            qos: clients.qos,
            topics: clients.topics,
            payload_bytes: clients.payload_bytes,
            seed: common.seed,
        };
        let generator = Generator::start(settings, &plan, clients.count)?;
        Ok(Self {
            server,
            generator,
            plan,
            _sysctls: sysctls,
        })
    }

    /// CPU time of the server and of the generator, and what the clients have counted.
    fn reading(&self) -> Reading {
        Reading {
            server_cpu_ns: self.server.pid.map(memory::cpu_ns),
            generator_cpu_ns: self.generator.cpu_ns(),
            totals: self.generator.totals(),
        }
    }
}

/// Counters at one moment.
struct Reading {
    server_cpu_ns: Option<u64>,
    generator_cpu_ns: u64,
    totals: Totals,
}

impl Reading {
    /// What was counted since `before`, and the CPU time since then in microseconds: of the server, and of the generator.
    fn since(&self, before: &Self) -> (Totals, Option<f64>, f64) {
        let micros = |after: u64, before: u64| after.saturating_sub(before) as f64 / 1_000.0;
        let server = self
            .server_cpu_ns
            .zip(before.server_cpu_ns)
            .map(|(after, before)| micros(after, before));
        let generator = micros(self.generator_cpu_ns, before.generator_cpu_ns);
        (self.totals.since(&before.totals), server, generator)
    }
}

/// What a row of results says about how the run was made.
fn settings(common: &Common, plan: &Plan, own: Value) -> Value {
    let mut settings = json!({
        "transport": common.transport.name(),
        "io": common.io.name(),
        "mqtt": format!("{:?}", common.mqtt),
        "cores": plan.cores,
        "pinned": common.pin,
        "threads": plan.threads,
        "set": common.set,
        "seed": common.seed,
    });
    if let (Some(settings), Value::Object(own)) = (settings.as_object_mut(), own) {
        settings.extend(own);
    }
    settings
}

/// Measures a load that runs already: throughput, CPU of each message and latency.
fn measure_load(bench: &Bench, arguments: &LoadArguments, report: &mut Report) -> Result<()> {
    let Bench {
        generator, server, ..
    } = bench;
    eprintln!("warming up for {:?}", arguments.warm_up);
    pause(arguments.warm_up)?;
    generator.forget();
    let before = bench.reading();
    eprintln!("measuring for {:?}", arguments.duration);
    let started = crate::clock::now();
    pause(arguments.duration)?;
    let after = bench.reading();
    let seconds = (crate::clock::now() - started).as_secs_f64();
    let latencies = generator.latencies();
    generator.quiet();
    server.check()?;
    let (counted, server_us, generator_us) = after.since(&before);
    let messages = counted.delivered.max(1) as f64;
    report.measure("messages_per_s", counted.delivered as f64 / seconds);
    report.measure("published_per_s", counted.published as f64 / seconds);
    if let Some(server_us) = server_us {
        report.measure("cpu_us_per_message", server_us / messages);
        report.measure("server_cpus", server_us / 1e6 / seconds);
    }
    report.measure("generator_cpu_us_per_message", generator_us / messages);
    report.measure("latency_ms_p50", latencies.message_ms(0.5));
    report.measure("latency_ms_p99", latencies.message_ms(0.99));
    report.measure("latency_ms_p999", latencies.message_ms(0.999));
    report.count("left_out", counted.left_out);
    report.count("disconnects", generator.totals().disconnects);
    faults(generator, report);
    Ok(())
}

/// What went wrong, in words.
fn faults(generator: &Generator, report: &mut Report) {
    for fault in generator.faults() {
        report.note("fault", fault);
    }
}
