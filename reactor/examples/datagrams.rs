//! What datagrams cost: memory of a bound socket, and CPU per 1,200-byte echo beside a plain loop of recvfrom and sendto.
//!
//! ```text
//! cargo run --release -p reactor --example datagrams -- <plain|epoll|uring> [peers] [at once] [seconds] [sockets]
//! ```
//!
//! One thread serves on one socket, pinned to the first CPU; one thread loads through a driver of its own (epoll) with a socket
//! per peer, pinned to the second. Each peer has `at once` datagrams under way, as one transmit. The CPU is that of the serving
//! thread alone.

mod measure;

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use measure::{COUNTED, HELD, cpu_time, now};
use reactor::datagram::{DatagramConfig, DatagramOptions, Transmit};
use reactor::driver::{Driver, DriverConfig, Event};
use reactor::epoll::EpollDriver;
use reactor::probe::{pin_to_cpu, raise_nofile_limit};
use reactor::uring::UringDriver;

const LENGTH: u16 = 1200;

static STOP: AtomicBool = AtomicBool::new(false);
static ECHOES: AtomicU64 = AtomicU64::new(0);
static CPU_NS: AtomicU64 = AtomicU64::new(0);
static ENTERS: AtomicU64 = AtomicU64::new(0);

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let number = |at: usize, default: u32| {
        arguments
            .get(at)
            .map_or(default, |text| text.parse().expect("a number"))
    };
    let mode = arguments.get(1).cloned().unwrap_or_default();
    let (peers, at_once, seconds) = (number(2, 32), number(3, 1), number(4, 4));
    let sockets = number(5, 0);
    raise_nofile_limit().expect("the soft limit can be raised");
    let (bound, address) = channel();
    let server = std::thread::spawn(move || {
        pin_to_cpu(0).expect("CPU 0");
        match mode.as_str() {
            "plain" => serve_plainly(&bound),
            "epoll" => serve(
                EpollDriver::new(config(sockets + 1)).expect("epoll works"),
                sockets,
                &bound,
            ),
            _ => serve(
                UringDriver::new(config(sockets + 1)).expect("io_uring works"),
                sockets,
                &bound,
            ),
        }
    });
    let address = address.recv().expect("the server is bound");
    load(address, peers, at_once, Duration::from_secs(seconds.into()));
    server.join().expect("the server ends");
}

fn config(sockets: u32) -> DriverConfig {
    DriverConfig {
        datagrams: DatagramConfig {
            sockets_max: sockets,
            ..DatagramConfig::server()
        },
        submission_entries: 1024,
        completion_entries: 16_384,
        ..DriverConfig::small()
    }
}

fn loopback() -> SocketAddr {
    ([127, 0, 0, 1], 0).into()
}

/// Resident bytes of this process, and bytes of the kernel's slabs.
fn memory() -> [f64; 2] {
    let read = |file: &str| std::fs::read_to_string(file).expect("Linux tells");
    let field = |text: &str, name: &str| -> f64 {
        let line = text.lines().find(|line| line.starts_with(name));
        let kilobytes = line.and_then(|line| line.split_whitespace().nth(1));
        1024.0 * kilobytes.map_or(0.0, |text| text.parse().expect("a number"))
    };
    [
        field(&read("/proc/self/status"), "VmRSS:"),
        field(&read("/proc/meminfo"), "Slab:"),
    ]
}

fn held() -> f64 {
    HELD.load(Ordering::Relaxed) as f64
}

fn serve(mut driver: impl Driver, sockets: u32, bound: &Sender<SocketAddr>) {
    COUNTED.set(true);
    let before = (held(), memory());
    let options = DatagramOptions::server();
    let first = driver.bind_datagrams(loopback(), options);
    let (socket, address) = first.expect("a port is free");
    let mut events = Vec::new();
    driver.poll(Some(now()), &mut events).expect("it is usable");
    println!(
        "first socket: {} bytes of user space allocated, {} resident",
        held() - before.0,
        memory()[0] - before.1[0]
    );
    if sockets > 0 {
        let before = (held(), memory());
        for _ in 0..sockets {
            let more = driver.bind_datagrams(loopback(), DatagramOptions::client(address));
            more.expect("there is room");
        }
        driver.poll(Some(now()), &mut events).expect("it is usable");
        let each = |after: f64, before: f64| (after - before) / f64::from(sockets);
        println!(
            "{sockets} more: {:.1} bytes of user space each, {:.0} of the kernel's slabs",
            each(held(), before.0),
            each(memory()[1], before.1[1])
        );
    }
    bound.send(address).expect("main waits");
    let mut echoes = 0;
    while !STOP.load(Ordering::Relaxed) {
        let deadline = now() + Duration::from_millis(100);
        driver
            .poll(Some(deadline), &mut events)
            .expect("the driver stays usable");
        for event in events.drain(..) {
            let Event::Datagrams {
                buffer,
                remote,
                local,
                ecn,
                stride,
                ..
            } = event
            else {
                continue;
            };
            let mut bytes = driver.reclaim().unwrap_or_default();
            bytes.extend_from_slice(driver.received(buffer));
            echoes += bytes.len().div_ceil(stride) as u64;
            let transmit = Transmit {
                to: remote,
                from: local,
                ecn,
                segment: u16::try_from(stride).ok(),
                bytes,
            };
            driver.send_datagrams(socket, transmit);
        }
        tell(echoes, driver.counters().enters);
    }
    println!("{:?}", driver.counters().datagrams);
}

fn serve_plainly(bound: &Sender<SocketAddr>) {
    let socket = UdpSocket::bind(loopback()).expect("a port is free");
    let timeout = Some(Duration::from_millis(100));
    socket.set_read_timeout(timeout).expect("it is a socket");
    let address = socket.local_addr().expect("it is bound");
    bound.send(address).expect("main waits");
    let mut bytes = [0; 65_536];
    let mut echoes = 0;
    while !STOP.load(Ordering::Relaxed) {
        if let Ok((length, from)) = socket.recv_from(&mut bytes) {
            socket.send_to(&bytes[..length], from).expect("it is sent");
            echoes += 1;
        }
        if echoes % 32 == 0 {
            tell(echoes, 2 * echoes);
        }
    }
}

fn tell(echoes: u64, enters: u64) {
    ECHOES.store(echoes, Ordering::Relaxed);
    ENTERS.store(enters, Ordering::Relaxed);
    CPU_NS.store(cpu_time().as_nanos() as u64, Ordering::Relaxed);
}

fn told() -> [f64; 3] {
    [&ECHOES, &CPU_NS, &ENTERS].map(|counter| counter.load(Ordering::Relaxed) as f64)
}

fn load(address: SocketAddr, peers: u32, at_once: u32, span: Duration) {
    pin_to_cpu(1).expect("CPU 1");
    let mut driver = EpollDriver::new(config(peers)).expect("epoll works");
    let ask = || Transmit {
        to: address,
        from: None,
        ecn: None,
        segment: Some(LENGTH),
        bytes: vec![7; usize::from(LENGTH) * at_once as usize],
    };
    let mut open = Vec::new();
    for _ in 0..peers {
        let options = DatagramOptions::client(address);
        let (socket, _) = driver.bind_datagrams(loopback(), options).expect("room");
        driver.send_datagrams(socket, ask());
        open.push((socket, 0));
    }
    let mut events = Vec::new();
    let start = now();
    let mut first = None;
    while now() < start + span {
        if first.is_none() && now() > start + span / 4 {
            first = Some(told());
        }
        let deadline = now() + Duration::from_millis(100);
        driver.poll(Some(deadline), &mut events).expect("usable");
        for event in events.drain(..) {
            let Event::Datagrams { socket, buffer, .. } = event else {
                continue;
            };
            // The next are sent when all are back, in however many batches.
            let (_, back) = &mut open[socket.slot as usize];
            *back += buffer.length;
            if *back >= u32::from(LENGTH) * at_once {
                *back = 0;
                driver.send_datagrams(socket, ask());
            }
        }
    }
    let (first, last) = (first.unwrap_or_default(), told());
    STOP.store(true, Ordering::Relaxed);
    let echoes = last[0] - first[0];
    println!(
        "{peers} peers, {at_once} at once: {echoes} echoes, {:.2} µs of CPU each, {:.3} enters each",
        (last[1] - first[1]) / 1e3 / echoes,
        (last[2] - first[2]) / echoes,
    );
}
