//! What strangers cannot do: connections behind a proxy, bounds of who comes in and how fast one client may send.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use edge_proto::encode;
use edge_proto::packet::{Connect, Packet, Publish, PublishProperties, QoS, Version};
use edge_proto::reason::ReasonCode;

use crate::secure::Secure;
use crate::world::{Client, Node, free_address};

/// Clients behind a proxy are not on this machine.
const OPEN: &str = "access.anonymous=everywhere-without-any-authentication";

/// A header of version 2: a client at 192.0.2.7:50000.
fn header() -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0C".to_vec();
    header.extend([192, 0, 2, 7, 198, 51, 100, 1]);
    header.extend(50_000_u16.to_be_bytes());
    header.extend(1_883_u16.to_be_bytes());
    header
}

fn connect(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode::connect(&mut bytes, &Connect::new(Version::V5, name));
    bytes
}

/// True when the other side has closed, and said nothing before.
fn is_closed(stream: &mut TcpStream) -> bool {
    match stream.read(&mut [0; 64]) {
        Ok(length) => length == 0,
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}

/// What the node says to a GET.
fn get(admin: SocketAddr, path: &str) -> String {
    let mut stream = Node::connect_to(admin);
    let request = format!("GET {path} HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    answer
}

/// How many were turned away for this reason.
fn turned_away(admin: SocketAddr, reason: &str) -> u64 {
    let metrics = get(admin, "/metrics");
    let start = format!("roadstead_turned_away_total{{reason=\"{reason}\"}} ");
    let value = metrics.lines().find_map(|line| line.strip_prefix(&start));
    value.expect("the metric").parse().expect("a number")
}

/// A node whose TCP listener is behind a proxy on this machine, and a plain one beside it.
struct Proxied {
    _node: Node,
    proxied: SocketAddr,
    admin: SocketAddr,
}

impl Proxied {
    fn start(name: &str, trusted: &str, more: &[&str]) -> Self {
        let (proxied, admin) = (free_address(), free_address());
        let settings = [
            format!("listeners.websocket=[\"{proxied}\"]"),
            format!("listeners.proxy_protocol=[\"{proxied}\"]"),
            format!("listeners.proxy_trusted=[\"{trusted}\"]"),
            OPEN.to_owned(),
            format!("admin.address={admin}"),
        ];
        let settings: Vec<&str> = settings
            .iter()
            .map(String::as_str)
            .chain(more.iter().copied())
            .collect();
        let node = Node::start(name, &settings);
        drop(node.connect());
        Self {
            _node: node,
            proxied,
            admin,
        }
    }
}

/// A request to upgrade to MQTT over WebSocket.
const UPGRADE: &[u8] = b"GET /mqtt HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n";

#[test]
fn a_client_behind_a_proxy_has_the_address_that_the_proxy_tells() {
    for io in ["epoll", "auto"] {
        let (proxied, admin) = (free_address(), free_address());
        let settings = [
            format!("io.backend={io}"),
            // The address that the node's own arguments give is replaced: a proxied one.
            format!("listeners.tcp=[\"{proxied}\"]"),
            format!("listeners.proxy_protocol=[\"{proxied}\"]"),
            "listeners.proxy_trusted=[\"127.0.0.0/8\"]".to_owned(),
            OPEN.to_owned(),
            format!("admin.address={admin}"),
        ];
        let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
        let node = Node::start(&format!("proxied-{io}"), &settings);
        for (name, together) in [("together", true), ("apart", false)] {
            let mut stream = Node::connect_to(proxied);
            let bytes = [header(), connect(name)].concat();
            if together {
                stream.write_all(&bytes).expect("it reads");
            } else {
                for byte in bytes {
                    stream.write_all(&[byte]).expect("it reads");
                }
            }
            let mut client = Client::of(stream);
            let reason = client.hear(|packet| match packet {
                Packet::ConnAck(connack) => Some(connack.reason),
                _ => None,
            });
            assert_eq!(reason, ReasonCode::Success);
            let session = get(admin, &format!("/v1/sessions/{name}"));
            assert!(session.contains("192.0.2.7:50000"), "{session}");
        }
        drop(node);
    }
}

#[test]
fn who_is_no_trusted_proxy_is_closed_and_counted() {
    let node = Proxied::start("untrusted", "192.0.2.0/24", &[]);
    let mut stream = Node::connect_to(node.proxied);
    let _ = stream.write_all(&[&header()[..], UPGRADE].concat()); // It may be closed already.
    assert!(is_closed(&mut stream));
    assert!(turned_away(node.admin, "proxy_untrusted") >= 1);
    assert_eq!(turned_away(node.admin, "proxy_header"), 0);
}

#[test]
fn a_trusted_proxy_without_a_header_is_closed_and_one_with_it_is_served() {
    let node = Proxied::start("no-header", "127.0.0.1", &[]);
    let mut stream = Node::connect_to(node.proxied);
    stream.write_all(UPGRADE).expect("it reads");
    assert!(is_closed(&mut stream));
    assert_eq!(turned_away(node.admin, "proxy_header"), 1);
    let mut stream = Node::connect_to(node.proxied);
    stream
        .write_all(&[&header()[..], UPGRADE].concat())
        .expect("it reads");
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).expect("it answers");
    assert_eq!(&answer, b"HTTP/1.1 101");
}

#[test]
fn a_header_that_does_not_come_ends_the_connection() {
    let node = Proxied::start("slow-header", "127.0.0.1", &["mqtt.connect_timeout=200ms"]);
    let mut stream = Node::connect_to(node.proxied);
    stream.write_all(&header()[..20]).expect("it reads");
    assert!(is_closed(&mut stream));
    assert!(turned_away(node.admin, "proxy_timeout") >= 1);
}

#[test]
fn tls_comes_behind_the_header() {
    let secure = Secure::start_proxied("proxied-tls", "auto");
    let client = |name: &str| {
        let mut stream = Node::connect_to(secure.tls);
        stream.write_all(&header()).expect("it reads");
        Client::over(secure.stream_over(stream), name, 0)
    };
    let mut behind = client("behind");
    behind.subscribe("a");
    client("other").publish("a", "through two layers");
    assert_eq!(behind.message(), "through two layers");
    let session = get(secure.admin, "/v1/sessions/behind");
    assert!(session.contains("192.0.2.7:50000"), "{session}");
}

#[test]
fn an_address_has_no_more_connections_than_it_may() {
    let admin = free_address();
    let settings = [
        "admission.address_connections_max=2".to_owned(),
        format!("admin.address={admin}"),
    ];
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let node = Node::start("address-bound", &settings);
    let mut open = Vec::new();
    for number in 0..20 {
        let mut stream = node.connect();
        let _ = stream.write_all(&connect(&format!("client-{number}"))); // It may be closed already.
        let mut answer = [0; 4];
        if matches!(stream.read(&mut answer), Ok(length) if length > 0) {
            open.push(stream);
        }
    }
    // Each of the two cores counts for itself.
    assert!((2..=4).contains(&open.len()), "{} connections", open.len());
    assert!(turned_away(admin, "address_full") >= 16);
    drop(open);
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        let mut stream = node.connect();
        let _ = stream.write_all(&connect("after")); // It may be closed already.
        if matches!(stream.read(&mut [0; 4]), Ok(length) if length > 0) {
            return;
        }
        assert!(
            Instant::now() < until,
            "places that were left are free again"
        );
    }
}

#[test]
fn a_client_that_connects_again_and_again_is_told_to_come_later() {
    let admin = free_address();
    let settings = [
        "flapping.connects_max=3".to_owned(),
        format!("admin.address={admin}"),
    ];
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let node = Node::start("flapping", &settings);
    let answer = |name: &str| {
        let mut client = Client::of(node.connect());
        client.send(|out| out.extend(connect(name)));
        client.hear(|packet| match packet {
            Packet::ConnAck(connack) => Some(connack.reason),
            _ => None,
        })
    };
    for _ in 0..3 {
        assert_eq!(answer("restless"), ReasonCode::Success);
    }
    for _ in 0..2 {
        assert_eq!(answer("restless"), ReasonCode::ConnectionRateExceeded);
    }
    assert_eq!(answer("calm"), ReasonCode::Success);
    assert_eq!(turned_away(admin, "flapping"), 2);
}

/// Publishes as fast as it can, and says how long it took until all was acknowledged.
fn publish_all(node: &Node, name: &str, count: u16, payload: &[u8]) -> Duration {
    let mut client = Client::connect_for(node, name, 0);
    let started = Instant::now();
    client.send(|out| {
        for packet_id in 1..=count {
            let publish = Publish {
                dup: false,
                qos: QoS::AtLeastOnce,
                retain: false,
                topic: "a/b",
                packet_id: Some(packet_id),
                properties: PublishProperties::default(),
                payload,
            };
            encode::publish(out, Version::V5, &publish);
        }
    });
    for packet_id in 1..=count {
        let acknowledged = client.hear(|packet| match packet {
            Packet::PubAck(ack) => Some(ack.packet_id),
            _ => None,
        });
        assert_eq!(acknowledged, packet_id);
    }
    started.elapsed()
}

#[test]
fn a_client_that_sends_too_fast_is_slowed_down_and_loses_nothing() {
    let admin = free_address();
    let settings = [
        "mqtt.session_messages_per_s=50".to_owned(),
        format!("admin.address={admin}"),
    ];
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let node = Node::start("throttled", &settings);
    // The first 50 at once, the others at their rate.
    assert!(publish_all(&node, "fast", 100, b"x") >= Duration::from_millis(950));
    let metrics = get(admin, "/metrics");
    let is_counted =
        |line: &str| line.starts_with("roadstead_throttles_total ") && !line.ends_with(" 0");
    assert!(metrics.lines().any(is_counted));
}

#[test]
fn bytes_are_bounded_too() {
    let node = Node::start("throttled-bytes", &["mqtt.session_bytes_per_s=10 KB"]);
    assert!(publish_all(&node, "large", 20, &[b'x'; 1_000]) >= Duration::from_millis(900));
}

#[test]
fn probes_and_scrapes_have_a_listener_of_their_own() {
    let monitoring = free_address();
    let setting = format!("admin.monitoring_address={monitoring}"); // The admin interface is off.
    let node = Node::start("monitored", &[&setting]);
    let _client = Client::connect_for(&node, "somebody", 0);
    assert!(get(monitoring, "/readyz").starts_with("HTTP/1.1 200 "));
    assert!(get(monitoring, "/metrics").contains("\nroadstead_connects_total 1\n"));
    assert!(get(monitoring, "/v1/sessions").starts_with("HTTP/1.1 404 "));
}
