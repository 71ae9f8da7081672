//! TLS listeners of a node, with rustls' own client.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;

use edge_proto::encode;
use edge_proto::frame::next_frame;
use edge_proto::packet::{Connect, PacketType, Publish, PublishProperties, QoS, Version};
use rcgen::{CertificateParams, KeyPair};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::world::{Client, Node, free_address};

type TlsStream = StreamOwned<ClientConnection, TcpStream>;

/// A node with a TLS listener, and the files of its certificate.
pub(crate) struct Secure {
    node: Node,
    pub(crate) tls: SocketAddr,
    pub(crate) admin: SocketAddr,
    folder: PathBuf,
}

impl Drop for Secure {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Secure {
    fn start(name: &str, io: &str) -> Self {
        Self::start_with(name, io, free_address(), &[])
    }

    /// One whose TLS listener is behind a proxy on this machine.
    pub(crate) fn start_proxied(name: &str, io: &str) -> Self {
        let tls = free_address();
        let proxied = format!("listeners.proxy_protocol=[\"{tls}\"]");
        let trusted = "listeners.proxy_trusted=[\"127.0.0.1\"]";
        let open = "access.anonymous=everywhere-without-any-authentication"; // Clients are not on this machine.
        Self::start_with(name, io, tls, &[&proxied, trusted, open])
    }

    fn start_with(name: &str, io: &str, tls: SocketAddr, more: &[&str]) -> Self {
        let admin = free_address();
        let name = format!("{name}-{io}");
        let folder =
            std::env::temp_dir().join(format!("roadstead-{name}-{}-tls", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        write_certificate(&folder);
        let file = |name: &str| folder.join(name).display().to_string();
        let settings = [
            format!("io.backend={io}"),
            format!("listeners.tls=[\"{tls}\"]"),
            format!("tls.certificates=[\"{}\"]", file("chain.pem")),
            format!("tls.keys=[\"{}\"]", file("key.pem")),
            format!("admin.address={admin}"),
        ];
        let settings = settings.iter().map(String::as_str);
        let settings: Vec<&str> = settings.chain(more.iter().copied()).collect();
        Self {
            node: Node::start(&name, &settings),
            tls,
            admin,
            folder,
        }
    }

    /// A TLS connection of a client that trusts the certificate that the files have now.
    fn stream(&self) -> TlsStream {
        self.stream_over(Node::connect_to(self.tls))
    }

    /// The same over a connection on which something else came first.
    pub(crate) fn stream_over(&self, stream: TcpStream) -> TlsStream {
        let mut roots = RootCertStore::empty();
        let certificate = CertificateDer::from_pem_file(self.folder.join("chain.pem"));
        roots
            .add(certificate.expect("a certificate"))
            .expect("it is one");
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the defaults work")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from("localhost").expect("a name");
        let connection = ClientConnection::new(Arc::new(config), name).expect("a client");
        StreamOwned::new(connection, stream)
    }

    fn client(&self, name: &str) -> Client<TlsStream> {
        Client::over(self.stream(), name, 0)
    }

    /// What the admin interface answers to an order.
    fn reload(&self) -> String {
        let mut stream = Node::connect_to(self.admin);
        let request = format!(
            "POST /v1/reload HTTP/1.1\r\nHost: {}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            self.admin
        );
        stream.write_all(request.as_bytes()).expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers");
        answer
    }
}

pub(crate) fn write_certificate(folder: &std::path::Path) {
    let params = CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
    let key = KeyPair::generate().expect("a key");
    let certificate = params.self_signed(&key).expect("it signs itself");
    std::fs::write(folder.join("chain.pem"), certificate.pem()).expect("it is written");
    std::fs::write(folder.join("key.pem"), key.serialize_pem()).expect("it is written");
}

#[test]
fn messages_pass_between_tls_and_tcp_in_both_directions() {
    for io in ["epoll", "auto"] {
        let secure = Secure::start("tls-both-ways", io);
        let mut inside = secure.client("inside");
        let mut outside = Client::connect_for(&secure.node, "outside", 0);
        inside.subscribe("to/inside");
        outside.subscribe("to/outside");
        // Longer than a record of TLS.
        let long = "long ".repeat(20_000);
        for text in ["short", &long, ""] {
            outside.publish("to/inside", text);
            assert_eq!(inside.message(), text);
            inside.publish("to/outside", text);
            assert_eq!(outside.message(), text);
        }
    }
}

#[test]
fn what_is_not_tls_is_closed_and_others_do_not_notice() {
    let secure = Secure::start("not-tls", "auto");
    let mut client = secure.client("client");
    let mut plain = Node::connect_to(secure.tls);
    plain
        .write_all(b"GET / HTTP/1.1\r\n\r\n")
        .expect("it reads");
    let mut answer = Vec::new();
    plain.read_to_end(&mut answer).expect("it is closed");
    assert!(answer.len() < 16, "at most an alert");
    client.subscribe("a");
    secure.client("publisher").publish("a", "still here");
    assert_eq!(client.message(), "still here");
}

#[test]
fn certificates_are_replaced_while_connections_stay() {
    let secure = Secure::start("reload", "auto");
    let mut before = secure.client("before");
    before.subscribe("a");
    let mut publisher = secure.client("publisher");
    write_certificate(&secure.folder);
    let answer = secure.reload();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    // It trusts nothing but the new certificate.
    secure.client("after").publish("a", "from after");
    assert_eq!(before.message(), "from after");
    std::fs::write(secure.folder.join("chain.pem"), "nothing").expect("it is written");
    let answer = secure.reload();
    assert!(answer.starts_with("HTTP/1.1 422"), "{answer}");
    assert!(answer.contains("chain.pem"), "{answer}");
    publisher.publish("a", "still here");
    assert_eq!(before.message(), "still here");
}

/// CONNECT and a long PUBLISH of QoS 1.
fn pipelined(client_id: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode::connect(&mut bytes, &Connect::new(Version::V5, client_id));
    let publish = Publish {
        dup: false,
        qos: QoS::AtLeastOnce,
        retain: false,
        topic: "a",
        packet_id: Some(1),
        properties: PublishProperties::default(),
        payload: &[7; 60_000],
    };
    encode::publish(&mut bytes, Version::V5, &publish);
    bytes
}

#[test]
fn clients_that_send_on_right_behind_their_handshake_are_served_however_many_wait() {
    for io in ["epoll", "auto"] {
        let one_at_a_time = ["tls.handshakes_per_turn=1"];
        let secure = Secure::start_with("behind", io, free_address(), &one_at_a_time);
        let mut streams: Vec<TlsStream> = (0..24).map(|_| secure.stream()).collect();
        for stream in &mut streams {
            stream.conn.write_tls(&mut stream.sock).expect("it reads");
        }
        for (number, stream) in streams.iter_mut().enumerate() {
            while stream.conn.is_handshaking() {
                let read = stream.conn.read_tls(&mut stream.sock);
                assert!(read.expect("it answers") > 0);
                stream.conn.process_new_packets().expect("it is TLS");
            }
            stream.conn.set_buffer_limit(None);
            let bytes = pipelined(&format!("client-{number}"));
            stream.conn.writer().write_all(&bytes).expect("no limit");
        }
        // Now all of them at once, each from its Finished on.
        for stream in &mut streams {
            while stream.conn.wants_write() {
                stream.conn.write_tls(&mut stream.sock).expect("it reads");
            }
        }
        for stream in &mut streams {
            let mut heard = Vec::new();
            let mut packets = Vec::new();
            while packets.len() < 2 {
                let mut bytes = [0; 256];
                let count = stream.read(&mut bytes).expect("it goes on");
                assert!(count > 0, "it ended after {packets:?}");
                heard.extend_from_slice(&bytes[..count]);
                while let Some(frame) = next_frame(&heard, 1_000).expect("it is MQTT") {
                    packets.push(frame.packet_type());
                    heard.drain(..frame.length);
                }
            }
            let expected = [PacketType::ConnAck, PacketType::PubAck];
            assert_eq!(packets, expected.map(Some));
        }
    }
}

#[test]
fn a_node_without_a_certificate_says_so_and_does_not_start() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_roadstead"))
        .args(["--set", "listeners.tls=[\"127.0.0.1:0\"]"])
        .args(["--set", "tls.certificates=[\"missing.pem\"]"])
        .args(["--set", "tls.keys=[\"missing.key\"]"])
        .args(["--set", "admin.address=off"])
        .output()
        .expect("it runs");
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("missing.pem"), "{text}");
}
