//! QUIC listeners of a node, with quinn's client.

use std::io::{Error, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, LazyLock};

use edge_proto::encode;
use edge_proto::packet::{Publish, PublishProperties, QoS, SubscriptionOptions, Version};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{
    ConnectionError, Endpoint, EndpointConfig, RecvStream, SendStream, TokioRuntime, VarInt,
};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore, version};
use tokio::runtime::{Builder, Handle};

use crate::secure::write_certificate;
use crate::world::{Client, Node, free_address};

/// Runs the clients of all tests, on a thread of its own.
static RUNTIME: LazyLock<Handle> = LazyLock::new(|| {
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    let handle = runtime.handle().clone();
    std::thread::spawn(move || runtime.block_on(std::future::pending::<()>()));
    handle
});

/// A node with a QUIC listener, and the files of its certificate.
struct Quic {
    node: Node,
    address: SocketAddr,
    folder: PathBuf,
}

impl Drop for Quic {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// A UDP address that nobody uses.
fn free_datagram_address() -> SocketAddr {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    socket.local_addr().expect("bound")
}

impl Quic {
    fn start(name: &str, io: &str, more: &[&str]) -> Self {
        let name = format!("{name}-{io}");
        let folder =
            std::env::temp_dir().join(format!("roadstead-{name}-{}-quic", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        write_certificate(&folder);
        let file = |name: &str| folder.join(name).display().to_string();
        std::fs::write(file("secret"), [b'x'; 40]).expect("it is written");
        let address = free_datagram_address();
        let settings = [
            format!("io.backend={io}"),
            format!("listeners.quic=[\"{address}\"]"),
            format!("tls.certificates=[\"{}\"]", file("chain.pem")),
            format!("tls.keys=[\"{}\"]", file("key.pem")),
            format!("tls.ticket_secrets=[\"{}\"]", file("secret")),
        ];
        let settings = settings.iter().map(String::as_str);
        let settings: Vec<&str> = settings.chain(more.iter().copied()).collect();
        Self {
            node: Node::start(&name, &settings),
            address,
            folder,
        }
    }

    /// A client that trusts the certificate that the files have now, and offers a protocol.
    fn endpoint(&self, protocol: &[u8]) -> Endpoint {
        drop(self.node.connect()); // It listens on QUIC before it does on TCP.
        let mut roots = RootCertStore::empty();
        let certificate = CertificateDer::from_pem_file(self.folder.join("chain.pem"));
        roots
            .add(certificate.expect("a certificate"))
            .expect("it is one");
        let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[&version::TLS13])
            .expect("the provider has it")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![protocol.to_vec()];
        let _entered = RUNTIME.enter();
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let (config, runtime) = (QuicClientConfig::try_from(config), Arc::new(TokioRuntime));
        let endpoint = Endpoint::new(EndpointConfig::default(), None, socket, runtime);
        let mut endpoint = endpoint.expect("an endpoint");
        let config = config.expect("it does for QUIC");
        endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(config)));
        endpoint
    }

    fn connection(&self, endpoint: &Endpoint) -> Result<quinn::Connection, ConnectionError> {
        RUNTIME.block_on(async {
            let connecting = endpoint.connect(self.address, "localhost");
            connecting.expect("it can begin").await
        })
    }

    fn stream(&self, endpoint: Endpoint) -> QuicStream {
        let connection = self.connection(&endpoint).expect("it connects");
        let (send, receive) = RUNTIME
            .block_on(connection.open_bi())
            .expect("a stream is allowed");
        QuicStream {
            endpoint,
            connection,
            send,
            receive,
        }
    }

    fn client(&self, name: &str) -> Client<QuicStream> {
        Client::over(self.stream(self.endpoint(b"mqtt")), name, 0)
    }
}

/// The first stream of a connection.
struct QuicStream {
    endpoint: Endpoint,
    connection: quinn::Connection,
    send: SendStream,
    receive: RecvStream,
}

impl QuicStream {
    /// Goes on from another port, as a phone does in another network.
    fn change_address(&self) {
        let _entered = RUNTIME.enter();
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        self.endpoint.rebind(socket).expect("it takes the socket");
    }
}

impl Read for QuicStream {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        let read = RUNTIME.block_on(self.receive.read(buffer));
        Ok(read.map_err(Error::other)?.unwrap_or(0))
    }
}

impl Write for QuicStream {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, Error> {
        RUNTIME
            .block_on(self.send.write(bytes))
            .map_err(Error::other)
    }

    fn flush(&mut self) -> Result<(), Error> {
        Ok(())
    }
}

#[test]
fn messages_pass_between_quic_and_tcp_in_both_directions() {
    for io in ["epoll", "auto"] {
        let quic = Quic::start("quic-both-ways", io, &[]);
        let mut inside = quic.client("inside");
        let mut outside = Client::connect_for(&quic.node, "outside", 0);
        inside.subscribe("to/inside");
        outside.subscribe("to/outside");
        // Longer than all windows together.
        let long = "long ".repeat(60_000);
        for text in ["short", &long, ""] {
            outside.publish("to/inside", text);
            assert_eq!(inside.message(), text);
            inside.publish("to/outside", text);
            assert_eq!(outside.message(), text);
        }
        inside.leave();
    }
}

#[test]
fn a_client_that_changes_its_address_keeps_its_session_and_loses_nothing() {
    for io in ["epoll", "auto"] {
        let quic = Quic::start("quic-moves", io, &[]);
        let mut phone = quic.client("phone");
        let mut other = Client::connect_for(&quic.node, "other", 0);
        phone.subscribe("to/phone");
        other.subscribe("to/other");
        for number in 0..40 {
            if number % 10 == 5 {
                phone.stream().change_address();
            }
            let text = number.to_string();
            phone.publish("to/other", &text);
            assert_eq!(other.message(), text);
            other.publish("to/phone", &text);
            assert_eq!(phone.message(), text);
        }
    }
}

#[test]
fn many_clients_of_one_address_reach_both_cores() {
    let quic = Quic::start("quic-many", "auto", &[]);
    let endpoint = quic.endpoint(b"mqtt");
    let mut clients: Vec<_> = (0..60)
        .map(|number| {
            let stream = quic.stream(endpoint.clone());
            let mut client = Client::over(stream, &format!("client-{number}"), 0);
            client.subscribe(&format!("to/{number}"));
            client
        })
        .collect();
    for number in 0..60 {
        let to = (number + 17) % 60;
        clients[number].publish(&format!("to/{to}"), &number.to_string());
        assert_eq!(clients[to].message(), number.to_string());
    }
}

#[test]
fn another_protocol_is_refused_and_says_so() {
    let quic = Quic::start("quic-alpn", "auto", &[]);
    let refused = quic.connection(&quic.endpoint(b"h3"));
    let error = refused.expect_err("HTTP is not spoken here").to_string();
    assert!(error.contains("error 120"), "{error}");
    let mut client = quic.client("client");
    client.subscribe("a");
    quic.client("publisher").publish("a", "still here");
    assert_eq!(client.message(), "still here");
}

#[test]
fn without_data_streams_a_second_is_refused_with_its_code_and_the_first_goes_on() {
    let quic = Quic::start("quic-extra", "auto", &["quic.data_streams_max=0"]);
    let mut client = quic.client("client");
    client.subscribe("a");
    let connection = client.stream().connection.clone();
    for _ in 0..3 {
        let stopped = RUNTIME.block_on(async {
            let (mut send, _receive) = connection.open_bi().await.expect("there is a stream");
            send.write_all(b"not welcome").await.expect("it is sent");
            send.stopped().await.expect("the connection stays")
        });
        assert_eq!(stopped, Some(VarInt::from_u32(2)));
    }
    quic.client("publisher").publish("a", "still here");
    assert_eq!(client.message(), "still here");
}

/// Publishes with QoS 1 on a stream of its own; returns what comes back on it until the node ends it.
async fn publish_on_a_stream_of_its_own(
    connection: quinn::Connection,
    packet_id: u16,
    topic: &'static str,
) -> Vec<u8> {
    let text = packet_id.to_string();
    let publish = Publish {
        dup: false,
        qos: QoS::AtLeastOnce,
        retain: false,
        topic,
        packet_id: Some(packet_id),
        properties: PublishProperties::default(),
        payload: text.as_bytes(),
    };
    let mut bytes = Vec::new();
    encode::publish(&mut bytes, Version::V5, &publish);
    let (mut send, mut receive) = connection.open_bi().await.expect("its turn comes");
    send.write_all(&bytes).await.expect("it is sent");
    send.finish().expect("it was open");
    receive.read_to_end(100).await.expect("it is answered")
}

#[test]
fn data_streams_carry_packets_of_the_same_session() {
    for io in ["epoll", "auto"] {
        let quic = Quic::start("quic-data", io, &[]);
        let mut phone = quic.client("phone");
        let mut other = Client::connect_for(&quic.node, "other", 0);
        other.subscribe("to/other");
        let connection = phone.stream().connection.clone();
        // More than may be open at once.
        let publishing: Vec<_> = (1..=20)
            .map(|packet_id| {
                let connection = connection.clone();
                RUNTIME.spawn(publish_on_a_stream_of_its_own(
                    connection, packet_id, "to/other",
                ))
            })
            .collect();
        let mut texts: Vec<u16> = (0..20)
            .map(|_| other.message().parse().expect("it is a number"))
            .collect();
        texts.sort_unstable();
        assert_eq!(texts, Vec::from_iter(1..=20));
        for (packet_id, answer) in (1_u16..).zip(publishing) {
            let answer = RUNTIME.block_on(answer).expect("it does not panic");
            let [high, low] = packet_id.to_be_bytes();
            assert_eq!(answer, [0x40, 2, high, low]);
        }
        // What is subscribed to on a data stream comes on the first one.
        let answer = RUNTIME.block_on(async {
            let options = SubscriptionOptions::from_qos(QoS::AtMostOnce);
            let mut bytes = Vec::new();
            let filters = [("to/phone", options)];
            encode::subscribe(&mut bytes, Version::V5, 1, None, &filters);
            let (mut send, mut receive) = connection.open_bi().await.expect("there is room");
            send.write_all(&bytes).await.expect("it is sent");
            send.finish().expect("it was open");
            receive.read_to_end(100).await.expect("it is answered")
        });
        assert_eq!(answer, [0x90, 4, 0, 1, 0, 0]);
        other.publish("to/phone", "hello");
        assert_eq!(phone.message(), "hello");
    }
}

#[test]
fn a_node_that_stops_closes_with_its_code() {
    let quic = Quic::start("quic-stops", "auto", &[]);
    let mut client = quic.client("client");
    let connection = client.stream().connection.clone();
    let id = quic.node.id().to_string();
    let killed = Command::new("kill").args(["-TERM", &id]).status();
    assert!(killed.is_ok_and(|status| status.success()));
    let closed = RUNTIME.block_on(connection.closed());
    let ConnectionError::ApplicationClosed(close) = closed else {
        panic!("{closed}");
    };
    assert_eq!(close.error_code, VarInt::from_u32(1));
}

#[test]
fn a_restarted_node_resets_the_connections_that_it_has_forgotten() {
    let mut quic = Quic::start("quic-reset", "auto", &[]);
    let mut client = quic.client("client");
    let connection = client.stream().connection.clone();
    quic.node.kill();
    drop(quic.node.connect()); // It listens again.
    let closed = RUNTIME.block_on(async {
        // What it sends is long enough for a reset to be shorter; a probe of its own may have been answered before.
        if let Ok((mut send, _receive)) = connection.open_bi().await {
            let _ = send.write_all(&[0; 600]).await;
        }
        connection.closed().await
    });
    assert_eq!(closed, ConnectionError::Reset);
    let mut again = quic.client("client");
    again.subscribe("a");
}

#[test]
fn a_node_under_pressure_has_addresses_proven_first() {
    let quic = Quic::start("quic-retry", "auto", &["quic.retry_above=0"]);
    let mut client = quic.client("client");
    client.subscribe("a");
    quic.client("publisher").publish("a", "through");
    assert_eq!(client.message(), "through");
}

#[test]
fn an_address_in_use_is_refused_with_its_key() {
    let quic = Quic::start("quic-in-use", "auto", &[]);
    let _waited = quic.client("client");
    let file = |name: &str| quic.folder.join(name).display().to_string();
    let (quic_address, tcp) = (quic.address, free_address());
    let output = Command::new(env!("CARGO_BIN_EXE_roadstead"))
        .args(["--set", &format!("listeners.quic=[\"{quic_address}\"]")])
        .args(["--set", &format!("listeners.tcp=[\"{tcp}\"]")])
        .args(["--set", "listeners.websocket=[]"])
        .args([
            "--set",
            &format!("tls.certificates=[\"{}\"]", file("chain.pem")),
        ])
        .args(["--set", &format!("tls.keys=[\"{}\"]", file("key.pem"))])
        .args(["--set", "admin.address=off"])
        .args(["--set", &format!("engine.path={}", file("data"))])
        .output()
        .expect("it runs");
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("listeners.quic"), "{text}");
}
