//! `chaos garbage`: random and mutated bytes on every port, beside a well-behaved neighbour. The node must not panic, its
//! neighbours must not notice, and its memory must not grow.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use edge_proto::packet::{PacketType, QoS, Version};
use edge_proto::websocket::{Opcode, handshake, write_client_frame};

use crate::admin::Metrics;
use crate::bounds::pairs::{Outcome, Pairs};
use crate::clock::now;
use crate::node::Node;
use crate::options::Options;
use crate::random::Random;
use crate::report::Report;
use crate::talk::Talk;

const CONFIG: &str = "[mqtt]\nconnect_timeout = \"2s\"\npacket_bytes_max = \"64 KiB\"\n[queues]\nsession_bytes_max = \"64 KiB\"\n\
    [log]\nlevel = \"warn\"\n";
/// Garbage connections open at once.
const OPEN_MAX: usize = 60;
/// Memory may differ by so much between the first and the second half of a run.
const GROWTH_MAX: u64 = 24 * 1024 * 1024;
/// Most that a garbage connection waits for anything.
const PATIENCE: Duration = Duration::from_millis(5);

/// Runs the garbage and looks at the neighbours.
///
/// # Errors
/// The server cannot be started.
pub(crate) fn run(options: &Options, report: &mut Report) -> io::Result<()> {
    let time = options.time(30, 5);
    report.title(format!(
        "garbage: {} s, seed {}, backend {}",
        time.as_secs(),
        options.seed,
        options.io
    ));
    let mut node = Node::new(options, "garbage", CONFIG, None)?;
    node.start()?;
    let pairs = Pairs::start(node.tcp, 4)?;
    let mut random = Random::new(options.seed);
    let (start, mut halfway_bytes, mut peak_bytes) = (now(), None, 0);
    let mut open = Vec::new();
    let (mut attempts, mut bytes) = ([0usize; 3], 0usize);
    while start.elapsed() < time && node.is_alive() {
        let port = random.below(3);
        attempts[port] += 1;
        let (address, garbage) = match port {
            0 => (node.tcp, mqtt_garbage(&mut random)),
            1 => (node.websocket, websocket_garbage(&mut random)),
            _ => (node.admin, http_garbage(&mut random)),
        };
        bytes += garbage.len();
        open.extend(throw(address, &garbage, &mut random));
        if open.len() >= OPEN_MAX {
            open.swap_remove(random.below(OPEN_MAX));
        }
        peak_bytes = peak_bytes.max(node.resident_bytes());
        if halfway_bytes.is_none() && start.elapsed() > time / 2 {
            halfway_bytes = Some(peak_bytes);
        }
    }
    drop(open);
    let outcome = pairs.finish();
    let [mqtt, websocket, http] = attempts;
    report.note(format!(
        "{mqtt} connections to TCP, {websocket} to WebSocket, {http} to admin, {} KiB of garbage",
        bytes / 1024
    ));
    report.note(format!("neighbours: {}", outcome.words(0)));
    let halfway_bytes = halfway_bytes.unwrap_or(peak_bytes);
    let flat = peak_bytes <= halfway_bytes + GROWTH_MAX;
    report.check(
        flat,
        "memory is flat",
        format!(
            "{} KiB at most by half time, {} KiB by the end",
            halfway_bytes / 1024,
            peak_bytes / 1024
        ),
    );
    judge(&mut node, &outcome, report)
}

/// The server and its neighbours afterwards.
fn judge(node: &mut Node, outcome: &Outcome, report: &mut Report) -> io::Result<()> {
    let alive = node.is_alive();
    report.check(
        alive,
        "the server lives",
        if alive { "yes".into() } else { node.log_tail() },
    );
    let panics = node.log().matches("panicked").count();
    report.check(panics == 0, "it never panicked", format!("{panics} panics"));
    report.check(
        outcome.is_whole(),
        "neighbours lose nothing",
        outcome.losses(),
    );
    if alive {
        let metrics = Metrics::scrape(node.admin)?;
        report.note(format!(
            "{} protocol violations counted",
            metrics.sum("protocol_violations_total")
        ));
        report.check(
            metrics.unaccounted() == 0,
            "conservation",
            metrics.deliveries(),
        );
    }
    Ok(())
}

/// Sends in pieces; keeps some connections open.
fn throw(address: SocketAddr, garbage: &[u8], random: &mut Random) -> Option<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5)).ok()?;
    stream
        .set_write_timeout(Some(Duration::from_millis(200)))
        .ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream.set_nodelay(true).ok()?;
    let cut = random.below(garbage.len() + 1);
    for piece in [&garbage[..cut], &garbage[cut..]] {
        stream.write_all(piece).ok()?;
        if random.per_mille(100) {
            let _ = stream.read(&mut [0; 1024]); // Whatever it says.
        }
    }
    random.per_mille(300).then_some(stream)
}

/// A conversation that is right but for a few bytes, or not right at all.
fn mqtt_garbage(random: &mut Random) -> Vec<u8> {
    let count = random.below(4000);
    if random.per_mille(150) {
        return random.bytes(count);
    }
    let version = if random.per_mille(500) {
        Version::V5
    } else {
        Version::V311
    };
    let mut talk = Talk::new(version);
    talk.connect(
        &format!("garbage-{}", random.below(50)),
        random.per_mille(800),
        1,
    );
    let head = talk.take_unsent();
    for _ in 0..random.below(12) {
        let packet_id = random.next() as u16;
        let qos = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce][random.below(3)];
        match random.below(9) {
            0 => talk.subscribe(packet_id, &["g/#", "+/x", "$share/g/x/#", "g/+/y"], qos),
            1 => talk.unsubscribe(packet_id, "g/#"),
            2 => talk.ack(PacketType::PubAck, packet_id.max(1)),
            3 => talk.ack(PacketType::PubRec, packet_id.max(1)),
            4 => talk.ack(PacketType::PubRel, packet_id.max(1)),
            5 => talk.ack(PacketType::PubComp, packet_id.max(1)),
            6 => talk.ping(),
            _ => {
                let payload = vec![b'g'; random.below(2000)];
                talk.publish(
                    random.per_mille(100),
                    qos,
                    random.per_mille(50),
                    "g/x/y",
                    packet_id.max(1),
                    &payload,
                );
            }
        }
    }
    let mut tail = talk.take_unsent();
    // Most of the time the CONNECT is left whole, so that what follows is looked at.
    let mut whole = if random.per_mille(300) {
        mutate(head, random)
    } else {
        head
    };
    if random.per_mille(800) {
        tail = mutate(tail, random);
    }
    whole.extend(tail);
    whole
}

fn websocket_garbage(random: &mut Random) -> Vec<u8> {
    let mut bytes = Vec::new();
    let key = [7; 16];
    handshake::client_handshake(&mut bytes, "localhost", "/mqtt", key);
    if random.per_mille(300) {
        bytes = mutate(bytes, random);
    }
    let inner = mqtt_garbage(random);
    for piece in inner.chunks(random.below(500) + 1) {
        let opcode = [
            Opcode::Binary,
            Opcode::Binary,
            Opcode::Binary,
            Opcode::Ping,
            Opcode::Pong,
            Opcode::Close,
        ][random.below(6)];
        let piece = if opcode == Opcode::Binary {
            piece
        } else {
            &piece[..piece.len().min(125)]
        };
        write_client_frame(
            &mut bytes,
            opcode,
            (random.next() as u32).to_be_bytes(),
            piece,
        );
    }
    if random.per_mille(400) {
        mutate(bytes, random)
    } else {
        bytes
    }
}

fn http_garbage(random: &mut Random) -> Vec<u8> {
    let count = random.below(2000);
    let path = [
        "/metrics",
        "/v1/publish",
        "/v1/retained?filter=%",
        "/v1/sessions/%ff",
        "/v1/subscriptions?limit=-1",
        "/healthz",
    ];
    let method = ["GET", "POST", "DELETE", "PUT", "\0", "GET GET"][random.below(6)];
    let body = String::from_utf8_lossy(&random.bytes(count / 4)).into_owned();
    let length = if random.per_mille(500) {
        body.len()
    } else {
        random.next() as usize
    };
    let head = format!(
        "{method} {} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}",
        path[random.below(path.len())]
    );
    match random.below(3) {
        0 => random.bytes(count),
        1 => mutate(head.into_bytes(), random),
        _ => head.into_bytes(),
    }
}

/// Changes, doubles, removes or cuts a few bytes.
fn mutate(mut bytes: Vec<u8>, random: &mut Random) -> Vec<u8> {
    for _ in 0..random.below(6) + 1 {
        if bytes.is_empty() {
            return bytes;
        }
        let at = random.below(bytes.len());
        match random.below(5) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = [0, 0xFF, 0x7F, 0x80, 1][random.below(5)],
            2 => drop(bytes.remove(at)),
            3 => bytes.insert(at, random.next() as u8),
            _ if random.per_mille(200) => bytes.truncate(at),
            _ => bytes[at] = random.next() as u8,
        }
    }
    bytes
}
