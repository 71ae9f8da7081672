//! What a driver costs: bytes of user space per idle connection, and CPU per 128-byte echo.
//!
//! ```text
//! cargo run --release -p reactor --example echo -- <epoll|uring> [connections] [active] [seconds]
//! ```
//!
//! One thread serves, pinned to the first CPU; one thread loads through a driver of its own (epoll), pinned to the second.
//! `active` connections have one message under way each. The figures are of the serving thread alone.

mod measure;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use measure::{COUNTED, HELD, cpu_time, now};
use reactor::datagram::DatagramConfig;
use reactor::driver::{ConnectionId, Driver, DriverConfig, Event, Keepalive, ListenOptions};
use reactor::epoll::EpollDriver;
use reactor::probe::{pin_to_cpu, raise_nofile_limit};
use reactor::uring::UringDriver;

const MESSAGE: [u8; 128] = [7; 128];

static STOP: AtomicBool = AtomicBool::new(false);

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let number = |at: usize, default: usize| {
        arguments
            .get(at)
            .map_or(default, |text| text.parse().expect("a number"))
    };
    let uring = arguments.get(1).is_some_and(|name| name == "uring");
    let (connections, active, seconds) = (number(2, 10_000), number(3, 1_000), number(4, 5));
    raise_nofile_limit().expect("the soft limit can be raised");
    let (report, reports) = channel();
    let (bound, address) = channel();
    let server = std::thread::spawn(move || {
        pin_to_cpu(0).expect("CPU 0");
        let config = config(connections);
        if uring {
            serve(
                UringDriver::new(config).expect("io_uring works"),
                &bound,
                &report,
            );
        } else {
            serve(
                EpollDriver::new(config).expect("epoll works"),
                &bound,
                &report,
            );
        }
    });
    let address = address.recv().expect("the server listens");
    load(
        address,
        connections,
        active,
        Duration::from_secs(seconds as u64),
        &reports,
    );
    server.join().expect("the server ends");
}

fn config(connections: usize) -> DriverConfig {
    DriverConfig {
        connections_max: connections as u32,
        receive_buffers: 1024,
        receive_buffer_bytes: 4096,
        events_max: 1024,
        submission_entries: 1024,
        completion_entries: 16_384,
        datagrams: DatagramConfig::small(),
    }
}

fn serve(mut driver: impl Driver, bound: &Sender<SocketAddr>, report: &Sender<Report>) {
    let options = ListenOptions {
        backlog: 4096,
        reuse_port: false,
        keepalive: Some(Keepalive::USUAL),
    };
    let (_, address) = driver
        .listen(([127, 0, 0, 1], 0).into(), options)
        .expect("a port is free");
    COUNTED.set(true);
    bound.send(address).expect("main waits");
    let mut events = Vec::new();
    let mut messages = 0u64;
    let mut next = now();
    while !STOP.load(Ordering::Relaxed) {
        next = next.max(now() - Duration::from_millis(1)) + Duration::from_millis(100);
        driver
            .poll(Some(next), &mut events)
            .expect("the driver stays usable");
        for event in events.drain(..) {
            if let Event::Received { connection, buffer } = event {
                let mut bytes = driver.reclaim().unwrap_or_default();
                bytes.extend_from_slice(driver.received(buffer));
                messages += bytes.len() as u64 / MESSAGE.len() as u64;
                driver.send(connection, bytes);
            }
        }
        let counters = driver.counters();
        let (accepted, enters, promotions) =
            (counters.accepted, counters.enters, counters.promotions);
        let held = HELD.load(Ordering::Relaxed);
        // The channel is read by polling, so that a report costs little.
        let _ = report.send(Report {
            accepted,
            messages,
            enters,
            promotions,
            held,
            cpu: cpu_time(),
        });
    }
}

#[derive(Clone, Copy, Default)]
struct Report {
    accepted: u64,
    messages: u64,
    enters: u64,
    promotions: u64,
    held: usize,
    cpu: Duration,
}

fn load(
    address: SocketAddr,
    connections: usize,
    active: usize,
    span: Duration,
    reports: &Receiver<Report>,
) {
    pin_to_cpu(1).expect("CPU 1");
    let mut driver = EpollDriver::new(config(connections)).expect("epoll works");
    let mut events = Vec::new();
    let mut open = Vec::new();
    let mut report = Report::default();
    let last = |report: &mut Report| {
        for newer in reports.try_iter() {
            *report = newer;
        }
    };
    while report.accepted == 0 && report.cpu.is_zero() {
        last(&mut report);
        std::thread::yield_now();
    }
    let empty = report.held;
    open_all(&mut driver, address, connections, &mut open);
    while report.accepted < connections as u64 {
        last(&mut report);
        std::thread::yield_now();
    }
    for connection in open.iter().take(active) {
        driver.send(*connection, MESSAGE.to_vec());
    }
    let idle = report;
    let per_connection = (idle.held as f64 - empty as f64) / connections as f64;
    println!(
        "user space per idle connection: {per_connection:.1} bytes ({} connections)",
        idle.accepted
    );
    let mut first = report;
    let start = now();
    let mut settled = false;
    while now() < start + span {
        if !settled && now() > start + span / 4 {
            last(&mut first);
            settled = true;
        }
        driver
            .poll(Some(now() + Duration::from_millis(100)), &mut events)
            .expect("the driver stays usable");
        for event in events.drain(..) {
            if let Event::Received { connection, buffer } = event {
                let mut bytes = driver.reclaim().unwrap_or_default();
                bytes.extend_from_slice(driver.received(buffer));
                driver.send(connection, bytes);
            }
        }
    }
    last(&mut report);
    STOP.store(true, Ordering::Relaxed);
    let messages = (report.messages - first.messages).max(1);
    println!(
        "{messages} echoes, {:.2} µs of CPU each, {:.3} enters each, {} promotions in all",
        (report.cpu - first.cpu).as_secs_f64() * 1e6 / messages as f64,
        (report.enters - first.enters) as f64 / messages as f64,
        report.promotions,
    );
}

/// Opens connections, 64 at a time.
fn open_all(
    driver: &mut EpollDriver,
    address: SocketAddr,
    connections: usize,
    open: &mut Vec<ConnectionId>,
) {
    let mut events = Vec::new();
    while open.len() < connections {
        for _ in 0..64.min(connections - open.len()) {
            driver.connect(address, None).expect("there is room");
        }
        let wanted = (open.len() + 64).min(connections);
        while open.len() < wanted {
            driver
                .poll(None, &mut events)
                .expect("the driver stays usable");
            open.extend(events.drain(..).map(|event| match event {
                Event::Connected { connection } => connection,
                other => panic!("{other:?}"),
            }));
        }
    }
}
