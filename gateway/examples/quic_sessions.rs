//! What a QUIC session costs, in memory and without sockets: bytes of an idle one, handshakes per second, time per message.
//!
//! ```text
//! cargo run --release -p gateway --example quic_sessions -- memory 10000   # bytes per idle session
//! cargo run --release -p gateway --example quic_sessions -- handshakes     # per second on one core, full and resumed
//! cargo run --release -p gateway --example quic_sessions -- messages       # µs per message in and its echo
//! ```
//!
//! Which part takes how much is the difference of two runs under valgrind, the calls that allocated what is left at their ends:
//!
//! ```text
//! for count in 128 384; do
//!   valgrind --tool=dhat --dhat-out-file=$count.json quic_sessions idle $count
//! done
//! quic_sessions parts 128.json 384.json 256
//! ```
//!
//! A client is a connection of quinn-proto that has sent a message and got one back, and is dropped without a word: the server
//! cannot tell it from an idle one. Clients announce 5 connection ids, as quinn does.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use gateway::access::gate::{Gate, GateLimits};
use gateway::limits::QuicLimits;
use gateway::quic::{Arrived, Endpoints, Listening, NodeKeys, Output};
use gateway::tls::{
    Acceptor, Certificate, ClientCertificates, ClusterSecret, PemFile, Settings, Versions,
};
use gateway::turn::Now;
use quinn_proto::crypto::rustls::QuicClientConfig;
use quinn_proto::{
    Connection, ConnectionHandle, DatagramEvent, Dir, Endpoint, EndpointConfig, Side, StreamId,
    TransportConfig,
};
use rcgen::{CertificateParams, KeyPair};
use reactor::driver::ConnectionId;
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore, version};

fn server_address() -> SocketAddr {
    ([192, 0, 2, 1], 14_567).into()
}

#[expect(clippy::disallowed_methods, reason = "it measures")]
fn clock() -> Instant {
    Instant::now()
}

fn stream() -> StreamId {
    StreamId::new(Side::Client, Dir::Bi, 0)
}

/// The layer that is measured, and how much time was spent in it.
struct World {
    server: Endpoints,
    gate: Gate,
    origin: Instant,
    now_ms: u64,
    took: Duration,
    clients: Arc<ClientConfig>,
    /// The connection that the last data came from.
    last: Option<ConnectionId>,
}

struct Client {
    address: SocketAddr,
    endpoint: Endpoint,
    handle: ConnectionHandle,
    connection: Connection,
}

impl World {
    fn new(resume: bool) -> Self {
        let key = KeyPair::generate().expect("a key can be made");
        let params = CertificateParams::new(vec!["localhost".to_owned()]).expect("it is a name");
        let certificate = params.self_signed(&key).expect("it signs itself").pem();
        let file = |text: String| PemFile {
            name: "server.pem".to_owned(),
            text: text.into_bytes(),
        };
        let settings = Settings {
            certificates: vec![Certificate {
                chain: file(certificate.clone()),
                key: file(key.serialize_pem()),
            }],
            client_certificates: ClientCertificates::None,
            application_protocols: vec![b"mqtt".to_vec()],
            versions: Versions::Only13,
            ticket_secrets: vec![ClusterSecret([7; 32])],
            ticket_epoch_s: 3600,
        };
        let mut roots = RootCertStore::empty();
        let root = CertificateDer::from_pem_slice(certificate.as_bytes()).expect("it is one");
        roots.add(root).expect("it is an authority");
        let mut clients = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[&version::TLS13])
            .expect("the provider has it")
            .with_root_certificates(roots)
            .with_no_client_auth();
        clients.alpn_protocols = vec![b"mqtt".to_vec()];
        if !resume {
            clients.resumption = Resumption::disabled();
        }
        let limits = QuicLimits {
            handshakes_per_turn: u32::MAX,
            handshakes_max: u32::MAX,
            retry_above: u32::MAX,
            ..QuicLimits::default()
        };
        let acceptor = Arc::new(Acceptor::for_quic(&settings).expect("the settings are good"));
        let listening = Listening {
            keys: NodeKeys::new(&ClusterSecret([7; 32]), &[8; 32]),
            node: 0,
            core: 0,
            cores: 1,
        };
        let origin = clock();
        let now = Now {
            mono_ms: 0,
            unix_ms: 1_800_000_000_000,
        };
        let addresses = [([192, 0, 2, 1], 14_567).into()];
        let server = Endpoints::new(limits, listening, &acceptor, &addresses, origin, now);
        Self {
            server: server.expect("it does for QUIC"),
            gate: Gate::new(GateLimits::default(), 7),
            origin,
            now_ms: 0,
            took: Duration::ZERO,
            clients: Arc::new(clients),
            last: None,
        }
    }

    fn now(&self) -> Now {
        Now {
            mono_ms: self.now_ms,
            unix_ms: 1_800_000_000_000 + self.now_ms,
        }
    }

    fn client(&self, number: u32) -> Client {
        let crypto = QuicClientConfig::try_from(Arc::clone(&self.clients));
        let crypto = crypto.expect("it does for QUIC");
        let mut config = quinn_proto::ClientConfig::new(Arc::new(crypto));
        let mut transport = TransportConfig::default();
        transport.max_idle_timeout(None);
        config.transport_config(Arc::new(transport));
        let mut endpoint = Endpoint::new(Arc::new(EndpointConfig::default()), None, false, None);
        let instant = self.origin + Duration::from_millis(self.now_ms);
        let connecting = endpoint.connect(instant, config, server_address(), "localhost");
        let (handle, connection) = connecting.expect("it can begin");
        let [_, high, middle, low] = number.to_be_bytes();
        Client {
            address: ([10, high, middle, low], 1_000).into(),
            endpoint,
            handle,
            connection,
        }
    }

    /// Carries datagrams between the two, a millisecond each way, until neither has anything to say for `quiet_ms`.
    fn carry(&mut self, client: &mut Client, quiet_ms: u64) {
        let mut quiet_until = self.now_ms + quiet_ms;
        while self.now_ms < quiet_until {
            let instant = self.origin + Duration::from_millis(self.now_ms);
            client.drive(instant);
            let mut to_server = Vec::new();
            loop {
                let mut bytes = Vec::new();
                if client
                    .connection
                    .poll_transmit(instant, 1, &mut bytes)
                    .is_none()
                {
                    break;
                }
                to_server.push(bytes);
            }
            let mut to_client = Vec::new();
            let (now, address) = (self.now(), client.address);
            let Self {
                server, gate, last, ..
            } = self;
            let start = clock();
            let mut tell = |output: Output<'_>| match output {
                Output::Data(id, _) | Output::Accepted(id, _) => *last = Some(id),
                Output::Failed(_, reason, words) => panic!("{reason:?}: {words}"),
                _ => {}
            };
            for bytes in &to_server {
                let arrived = Arrived {
                    listener: 0,
                    remote: address,
                    local: None,
                    ecn: None,
                    is_banned: false,
                    stride: bytes.len(),
                    bytes,
                };
                server.received(&arrived, now, gate, &mut tell);
            }
            server.turn(now, gate, || true, &mut tell);
            server.transmit(now, gate, |_, transmit| {
                if transmit.to == address {
                    to_client.push(transmit);
                }
            });
            self.took += start.elapsed();
            if !to_server.is_empty() || !to_client.is_empty() {
                quiet_until = self.now_ms + quiet_ms;
            }
            for transmit in to_client {
                let length = transmit.segment.map_or(transmit.bytes.len(), usize::from);
                for datagram in transmit.bytes.chunks(length) {
                    client.deliver(instant, datagram);
                }
            }
            self.now_ms += 1;
        }
    }

    /// A handshake and a message each way.
    fn connect(&mut self, number: u32, quiet_ms: u64) -> Client {
        let mut client = self.client(number);
        self.carry(&mut client, 4);
        let opened = client.connection.streams().open(Dir::Bi);
        assert!(opened.is_some(), "a stream is allowed");
        self.exchange(&mut client, quiet_ms);
        client
    }

    /// A message of 100 bytes and its echo.
    fn exchange(&mut self, client: &mut Client, quiet_ms: u64) {
        let written = client.connection.send_stream(stream()).write(&[1; 100]);
        assert_eq!(written.ok(), Some(100));
        self.last = None;
        self.carry(client, 4);
        let id = self.last.expect("the server heard it");
        let start = clock();
        self.server.send(id, &[2; 100]);
        self.took += start.elapsed();
        self.carry(client, quiet_ms);
        assert_eq!(client.read(), 100, "the echo is there");
    }
}

impl Client {
    fn drive(&mut self, instant: Instant) {
        if self
            .connection
            .poll_timeout()
            .is_some_and(|at| at <= instant)
        {
            self.connection.handle_timeout(instant);
        }
        while let Some(event) = self.connection.poll_endpoint_events() {
            if let Some(event) = self.endpoint.handle_event(self.handle, event) {
                self.connection.handle_event(event);
            }
        }
        while self.connection.poll().is_some() {}
    }

    fn deliver(&mut self, instant: Instant, datagram: &[u8]) {
        let (from, bytes) = (server_address(), BytesMut::from(datagram));
        let event = self
            .endpoint
            .handle(instant, from, None, None, bytes, &mut Vec::new());
        if let Some(DatagramEvent::ConnectionEvent(_, event)) = event {
            self.connection.handle_event(event);
        }
    }

    /// Bytes that came.
    fn read(&mut self) -> usize {
        let mut receiving = self.connection.recv_stream(stream());
        let mut chunks = receiving.read(true).expect("the stream is open");
        let mut length = 0;
        while let Ok(Some(chunk)) = chunks.next(usize::MAX) {
            length += chunk.bytes.len();
        }
        let _ = chunks.finalize();
        length
    }
}

fn resident_bytes() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").expect("this is Linux");
    let pages = text.split(' ').nth(1).and_then(|pages| pages.parse().ok());
    4096 * pages.unwrap_or(0_usize)
}

fn memory(count: u32) {
    let mut world = World::new(false);
    for number in 0..500 {
        world.connect(number, 300);
    }
    let before = resident_bytes();
    for number in 0..count {
        world.connect(500 + number, 300);
    }
    let each = resident_bytes().saturating_sub(before) / count as usize;
    println!("QUIC: {each} bytes per idle session, {count} of them");
    println!(
        "quinn-proto's connection alone: {} bytes",
        size_of::<Connection>()
    );
}

/// Ends with so many idle sessions in memory, for a heap profiler.
fn idle(count: u32) -> ! {
    let mut world = World::new(false);
    for number in 0..count {
        world.connect(number, 300);
    }
    assert_eq!(world.server.stats().connections, u64::from(count));
    std::process::exit(0);
}

/// Bytes that were there at the end of a run of DHAT, by the first call that is not of an allocator or a container.
fn parts_of(file: &str) -> BTreeMap<String, f64> {
    let text = std::fs::read_to_string(file).expect("a file of DHAT");
    let profile: serde_json::Value = serde_json::from_str(&text).expect("it is JSON");
    let frames = profile["ftbl"].as_array().expect("its frames");
    let mut parts = BTreeMap::new();
    for point in profile["pps"].as_array().expect("its points") {
        let calls = point["fs"].as_array().expect("its calls").iter();
        let calls = calls.filter_map(|frame| frames[frame.as_u64()? as usize].as_str());
        let ours = |call: &&str| {
            let places = [
                ": gateway::",
                "quinn_proto::",
                "rustls::",
                "quic_sessions::",
            ];
            places.iter().any(|place| call.contains(place))
        };
        let calls: Vec<&str> = calls.filter(ours).take(3).collect();
        let calls: Vec<&str> = calls
            .iter()
            .map(|call| call.split_once(": ").map_or(*call, |(_, call)| call))
            .collect();
        let bytes = point["eb"].as_f64().unwrap_or(0.0);
        *parts.entry(calls.join(" < ")).or_insert(0.0) += bytes;
    }
    parts
}

/// What each part takes for a session: the growth from one profile to another with so many sessions more.
fn parts(few: &str, many: &str, sessions: f64) {
    let before = parts_of(few);
    let mut each: Vec<(f64, String)> = parts_of(many)
        .into_iter()
        .map(|(call, bytes)| {
            let before = before.get(&call).copied().unwrap_or(0.0);
            ((bytes - before) / sessions, call)
        })
        .collect();
    each.sort_by(|one, another| another.0.total_cmp(&one.0));
    for (bytes, call) in each.iter().filter(|(bytes, _)| bytes.abs() >= 1.0) {
        println!("{bytes:8.1}  {call}");
    }
    let sum: f64 = each.iter().map(|(bytes, _)| bytes).sum();
    println!("{sum:8.1}  bytes asked for, for each session");
}

fn handshakes() {
    for resume in [false, true] {
        let mut world = World::new(resume);
        let count = 2_000;
        for number in 0..count + 100 {
            if number == 100 {
                world.took = Duration::ZERO;
            }
            world.connect(number, 4);
        }
        let resumed = world.server.stats().handshakes_resumed;
        assert_eq!(resumed > 0, resume);
        let rate = f64::from(count) / world.took.as_secs_f64();
        let kind = if resume { "resumed" } else { "full" };
        println!("QUIC, ECDSA P-256: {kind} handshakes with a message each way {rate:.0}/s");
    }
}

fn messages() {
    let mut world = World::new(false);
    let mut client = world.connect(0, 100);
    let count = 20_000;
    world.took = Duration::ZERO;
    for _ in 0..count {
        world.exchange(&mut client, 4);
    }
    let each = world.took.as_secs_f64() * 1e6 / f64::from(count);
    println!("QUIC: {each:.2} µs for a message in, its echo out, and their acknowledgements");
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["memory", count] => memory(count.parse().unwrap_or(1_000)),
        ["idle", count] => idle(count.parse().unwrap_or(100)),
        ["parts", few, many, sessions] => parts(few, many, sessions.parse().unwrap_or(1.0)),
        ["handshakes"] => handshakes(),
        ["messages"] => messages(),
        _ => {
            eprintln!(
                "memory COUNT | idle COUNT | parts FEW MANY SESSIONS | handshakes | messages: see the head of the source"
            );
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
