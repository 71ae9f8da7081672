//! The echo of our reactor against those of monoio and tokio-uring, on the same work: idle connections, then some of them
//! with one message on its way each. One server thread on the first CPU, the clients on the next.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use reactor::datagram::DatagramConfig;
use reactor::driver::{ConnectionId, Driver, DriverConfig, Event};
use reactor::probe::{cpus_allowed, pin_to_cpu, raise_nofile_limit};
use reactor::uring::UringDriver;
use serde_json::json;

use crate::arguments::Reactor;
use crate::cleanup;
use crate::clock;
use crate::figures::Figures;
use crate::generator::local_of;
use crate::machine::CpuDivision;
use crate::memory;
use crate::report::{Column, Report};
use crate::server::{Server, pause};
use crate::subject::Subject;

/// What a message is.
const MESSAGE: [u8; 128] = [7; 128];
/// Connections on their way at once.
const OPENING_MAX: usize = 64;
/// Connections that are open and answered before memory is read for the first time: buffers and tables are there by then.
const WARM_UP: usize = 64;
/// Echoes of each of them: together more than an engine has receive buffers, which are used in turn.
const WARM_UP_ECHOES: usize = 32;
/// The engines, ours first; the names are keys of the report.
const ENGINES: [&str; 4] = ["roadstead", "reactor_epoll", "monoio", "tokio_uring"];
/// How long the clients wait for something to happen.
const STUCK_AFTER: Duration = Duration::from_secs(20);

pub(super) fn run(arguments: &Reactor) -> Result<()> {
    let cpus = cpus_allowed()?;
    let division = CpuDivision::of_one(&cpus);
    if division.is_none() {
        eprintln!("one CPU for both sides: figures of CPU time are of little use");
    }
    if arguments.active > arguments.connections {
        bail!("--active is a part of --connections");
    }
    raise_nofile_limit()?;
    let column = |name: &'static str| Column {
        subject: match name {
            "roadstead" => Subject::Roadstead,
            _ => Subject::Baseline(name),
        },
        version: String::new(),
        runs: Vec::new(),
        obstacle: None,
    };
    let mut report = Report {
        scenario: "reactor",
        settings: json!({
            "connections": arguments.connections, "active": arguments.active, "message_bytes": MESSAGE.len(),
            "seconds": arguments.duration.as_secs_f64(), "runs": arguments.runs, "pinned": division.is_some(),
        }),
        columns: ENGINES.map(column).into(),
    };
    for run in 1..=arguments.runs {
        for (place, engine) in ENGINES.into_iter().enumerate() {
            eprintln!("reactor, run {run} of {}: {engine}", arguments.runs);
            let server = Server::baseline(engine, division.as_ref())?;
            let outcome = std::thread::scope(|scope| {
                let clients = scope.spawn(|| Clients::run(arguments, &server, division.as_ref()));
                clients.join()
            });
            let outcome = outcome.map_err(|_| anyhow::anyhow!("the clients have panicked"))?;
            let column = &mut report.columns[place];
            column.version.clone_from(&server.version);
            match outcome {
                Ok(mut figures) => {
                    figures.run = run;
                    column.runs.push(figures);
                }
                Err(error) if place == 0 || cleanup::interrupted() => return Err(error),
                Err(error) => column.obstacle = Some(format!("run {run}: {error:#}")),
            }
            report.keep(arguments.record, &report.columns[place])?;
        }
    }
    report.finish(arguments.json)
}

/// One thread of clients.
struct Clients<'a> {
    driver: UringDriver,
    server: &'a Server,
    open: Vec<ConnectionId>,
    events: Vec<Event>,
    /// Bytes that came back.
    echoed: u64,
}

impl<'a> Clients<'a> {
    fn run(
        arguments: &Reactor,
        server: &'a Server,
        division: Option<&CpuDivision>,
    ) -> Result<Figures> {
        if let Some(division) = division {
            pin_to_cpu(division.generator_first)?;
        }
        let driver = UringDriver::new(DriverConfig {
            connections_max: arguments.connections + 16,
            receive_buffers: 1_024,
            receive_buffer_bytes: 4_096,
            events_max: 512,
            submission_entries: 1_024,
            completion_entries: 8_192,
            datagrams: DatagramConfig::small(),
        })?;
        let mut clients = Self {
            driver,
            server,
            open: Vec::new(),
            events: Vec::new(),
            echoed: 0,
        };
        clients.measure(arguments)
    }

    fn measure(&mut self, arguments: &Reactor) -> Result<Figures> {
        let pid = self.server.pid.context("the echo runs")?;
        let connections = arguments.connections as usize;
        self.open(WARM_UP.min(connections))?;
        for _ in 0..WARM_UP_ECHOES {
            self.round()?;
        }
        let before = memory::resident(pid)?;
        let (first, count) = (self.open.len(), connections);
        self.open(count)?;
        pause(Duration::from_millis(500))?;
        let after = memory::resident(pid)?;
        let mut figures = Figures::default();
        figures.count("sessions", connections as u64);
        let grown = after.anonymous.saturating_sub(before.anonymous) as f64;
        let opened = (count - first).max(1) as f64;
        figures.measure("idle_bytes_per_connection", (grown / opened).round());

        for place in 0..arguments.active as usize {
            self.driver.send(self.open[place], MESSAGE.to_vec());
        }
        self.echo(arguments.duration.min(Duration::from_secs(1)))?;
        let (cpu, echoed, started) = (memory::cpu_ns(pid), self.echoed, clock::now());
        let busy = crate::machine::busy_ns();
        let own = memory::cpu_ns(std::process::id());
        self.echo(arguments.duration)?;
        let seconds = (clock::now() - started).as_secs_f64();
        let server_us = (memory::cpu_ns(pid) - cpu) as f64 / 1e3;
        let own_us = (memory::cpu_ns(std::process::id()) - own) as f64 / 1e3;
        let busy_us = (crate::machine::busy_ns() - busy) as f64 / 1e3;
        let messages = ((self.echoed - echoed) / MESSAGE.len() as u64).max(1) as f64;
        figures.measure("messages_per_s", messages / seconds);
        figures.measure("cpu_us_per_message", server_us / messages);
        figures.measure("server_cpus", server_us / 1e6 / seconds);
        figures.measure("generator_cpus", own_us / 1e6 / seconds);
        let others_us = (busy_us - server_us - own_us).max(0.0);
        figures.measure("others_cpus", others_us / 1e6 / seconds);
        figures.count("rss_bytes", memory::resident(pid)?.rss);
        Ok(figures)
    }

    /// Opens connections until there are so many.
    fn open(&mut self, count: usize) -> Result<()> {
        let (mut asked, mut moved) = (self.open.len(), clock::now());
        while self.open.len() < count {
            while asked < count && asked - self.open.len() < OPENING_MAX {
                let local = local_of(self.server.address, asked as u32);
                self.driver.connect(self.server.address, local)?;
                asked += 1;
            }
            let before = self.open.len();
            self.poll(&mut moved, false)?;
            if self.open.len() == before {
                self.still(moved)?;
            }
        }
        Ok(())
    }

    /// One message from each connection, and all of them back.
    fn round(&mut self) -> Result<()> {
        let wanted = self.echoed + (self.open.len() * MESSAGE.len()) as u64;
        for connection in &self.open {
            self.driver.send(*connection, MESSAGE.to_vec());
        }
        let mut moved = clock::now();
        while self.echoed < wanted {
            self.poll(&mut moved, false)?;
            self.still(moved)?;
        }
        Ok(())
    }

    /// Sends back what comes back, for so long.
    fn echo(&mut self, span: Duration) -> Result<()> {
        let until = clock::now() + span;
        let mut moved = clock::now();
        while clock::now() < until {
            self.poll(&mut moved, true)?;
            self.still(moved)?;
        }
        Ok(())
    }

    /// An error when nothing has moved for long.
    fn still(&self, moved: std::time::Instant) -> Result<()> {
        if cleanup::interrupted() {
            bail!("interrupted");
        }
        if clock::now() - moved > Duration::from_secs(1) {
            self.server.check()?;
        }
        if clock::now() - moved > STUCK_AFTER {
            bail!("nothing moves with {} connections open", self.open.len());
        }
        Ok(())
    }

    fn poll(&mut self, moved: &mut std::time::Instant, send_back: bool) -> Result<()> {
        let mut events = std::mem::take(&mut self.events);
        let deadline = clock::now() + Duration::from_millis(100);
        self.driver.poll(Some(deadline), &mut events)?;
        if !events.is_empty() {
            *moved = clock::now();
        }
        for event in events.drain(..) {
            match event {
                Event::Connected { connection } => self.open.push(connection),
                Event::Received { connection, buffer } => {
                    self.echoed += u64::from(buffer.length);
                    if send_back {
                        let mut bytes = self.driver.reclaim().unwrap_or_default();
                        bytes.extend_from_slice(self.driver.received(buffer));
                        self.driver.send(connection, bytes);
                    }
                }
                Event::Closed { error, .. } => bail!("a connection ended: {error:?}"),
                _ => {}
            }
        }
        self.events = events;
        Ok(())
    }
}
