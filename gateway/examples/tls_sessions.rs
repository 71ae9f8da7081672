//! What a TLS session costs, in memory and without sockets: bytes of an idle one, handshakes per second, time per record.
//!
//! ```text
//! cargo run --release -p gateway --example tls_sessions -- memory 20000   # bytes per idle session, each design in its own process
//! cargo run --release -p gateway --example tls_sessions -- handshakes     # per second on one core, full and resumed
//! cargo run --release -p gateway --example tls_sessions -- handshake 1.3 resumed AES_128 20000   # for a profiler
//! cargo run --release -p gateway --example tls_sessions -- primitives     # what the cryptography of a handshake takes
//! cargo run --release -p gateway --example tls_sessions -- records        # ns per record sealed and opened
//! ```

use std::io::{Read, Write};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::agreement::{EphemeralPrivateKey, UnparsedPublicKey, X25519, agree_ephemeral};
use aws_lc_rs::hkdf::{HKDF_SHA256, HKDF_SHA384, Salt};
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    self, ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _,
    RSA_PSS_SHA256, RsaKeyPair,
};
use gateway::limits::TlsLimits;
use gateway::tls::{
    Acceptor, Certificate, ClientCertificates, ClientTrust, ClusterSecret, Output, PemFile,
    Sessions, Settings, Versions,
};
use gateway::turn::Now;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, PKCS_ECDSA_P256_SHA256,
    PKCS_RSA_SHA256, SignatureAlgorithm,
};
use reactor::driver::ConnectionId;
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs::{Ticketer, default_provider};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::ConnectionState;
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection,
    SupportedCipherSuite, SupportedProtocolVersion, version,
};

const VERSIONS: [(&str, &SupportedProtocolVersion); 2] =
    [("1.3", &version::TLS13), ("1.2", &version::TLS12)];
const DESIGNS: [&str; 4] = ["buffered", "unbuffered", "kernel", "gateway"];

/// An authority, and keys that it signed.
struct World {
    settings: Settings,
    root: CertificateDer<'static>,
    client: (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>),
    /// Suites that clients offer; all when it is empty.
    suite: String,
}

impl World {
    fn new(algorithm: &'static SignatureAlgorithm, with_client_certificates: bool) -> Self {
        let mut params = CertificateParams::new(vec![]).expect("no names are fine");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key can be made");
        let root = CertifiedIssuer::self_signed(params, key).expect("it signs itself");
        let signed = |name: &str, algorithm| {
            let key = KeyPair::generate_for(algorithm).expect("a key can be made");
            let params = CertificateParams::new(vec![name.to_owned()]).expect("it is a name");
            (params.signed_by(&key, &root).expect("it signs"), key)
        };
        let (certificate, key) = signed("localhost", algorithm);
        let file = |name: &str, text: String| PemFile {
            name: name.to_owned(),
            text: text.into_bytes(),
        };
        let (client, client_key) = signed("client", &PKCS_ECDSA_P256_SHA256);
        let trust = ClientTrust {
            authorities: vec![file("root.pem", root.pem())],
            revocation_lists: vec![],
        };
        let client_key = PrivateKeyDer::try_from(client_key.serialize_der());
        Self {
            settings: Settings {
                certificates: vec![Certificate {
                    chain: file("server.pem", certificate.pem()),
                    key: file("server.key", key.serialize_pem()),
                }],
                client_certificates: if with_client_certificates {
                    ClientCertificates::Required(trust)
                } else {
                    ClientCertificates::None
                },
                application_protocols: vec![],
                versions: Versions::From12,
                ticket_secrets: vec![ClusterSecret([7; 32])],
                ticket_epoch_s: 3600,
            },
            root: root.der().clone(),
            client: (vec![client.der().clone()], client_key.expect("it is a key")),
            suite: String::new(),
        }
    }

    fn server(&self) -> Server {
        let acceptor = Acceptor::new(&self.settings).expect("the settings are good");
        Server {
            sessions: Sessions::new(TlsLimits::default(), &[Arc::new(acceptor)]),
            took: Duration::ZERO,
        }
    }

    fn clients(&self, version: &'static SupportedProtocolVersion, resume: bool) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.root.clone()).expect("it is an authority");
        let mut provider = default_provider();
        let offered = |suite: &SupportedCipherSuite| format!("{suite:?}").contains(&self.suite);
        provider.cipher_suites.retain(offered);
        let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[version])
            .expect("the provider has it")
            .with_root_certificates(roots)
            .with_client_auth_cert(self.client.0.clone(), self.client.1.clone_key())
            .expect("the key fits");
        if !resume {
            config.resumption = Resumption::disabled();
        }
        config
    }

    fn rustls(&self) -> Arc<ServerConfig> {
        let files = &self.settings.certificates[0];
        let chain = CertificateDer::from_pem_slice(&files.chain.text).expect("it is one");
        let key = PrivateKeyDer::from_pem_slice(&files.key.text).expect("it is one");
        let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[&version::TLS13, &version::TLS12])
            .expect("it has both")
            .with_no_client_auth()
            .with_single_cert(vec![chain], key)
            .expect("the key fits");
        config.enable_secret_extraction = true;
        config.send_tls13_tickets = 1;
        config.ticketer = Ticketer::new().expect("there is randomness");
        Arc::new(config)
    }
}

/// The layer that is measured.
struct Server {
    sessions: Sessions,
    took: Duration,
}

#[expect(clippy::disallowed_methods, reason = "it measures")]
fn clock() -> Instant {
    Instant::now()
}

fn id(slot: u32) -> ConnectionId {
    ConnectionId {
        slot,
        generation: 1,
    }
}

impl Server {
    const NOW: Now = Now {
        mono_ms: 0,
        unix_ms: 1_800_000_000_000,
    };

    fn receive(&mut self, slot: u32, bytes: &mut [u8], sent: &mut Vec<u8>) {
        let start = clock();
        let mut hear = |_, output: Output<'_>| match output {
            Output::Send(bytes) => sent.extend(bytes),
            Output::Failed(failure) => panic!("{failure}"),
            _ => {}
        };
        self.sessions
            .received(id(slot), bytes, Self::NOW, &mut hear);
        self.sessions.turn(Self::NOW, &mut hear);
        self.took += start.elapsed();
    }

    /// A handshake and a message each way.
    fn connect(&mut self, slot: u32, config: &Arc<ClientConfig>) {
        let mut client = client(config);
        assert!(
            self.sessions.accepted(id(slot), 0, Self::NOW),
            "there is room"
        );
        for _ in 0..3 {
            let mut sent = vec![];
            self.receive(slot, &mut written(&mut client), &mut sent);
            read(&mut client, &sent);
        }
        client
            .writer()
            .write_all(&[1; 100])
            .expect("it is buffered");
        self.receive(slot, &mut written(&mut client), &mut vec![]);
        let mut out = Vec::new();
        assert!(
            self.sessions.seal(id(slot), &[2; 100], &mut out),
            "it is live"
        );
        read(&mut client, &out);
        client
            .reader()
            .read_exact(&mut [0; 100])
            .expect("the message is there");
    }
}

fn client(config: &Arc<ClientConfig>) -> ClientConnection {
    let name = ServerName::try_from("localhost").expect("it is a name");
    ClientConnection::new(config.clone(), name).expect("it can begin")
}

fn written(client: &mut ClientConnection) -> Vec<u8> {
    let mut bytes = vec![];
    while client.wants_write() {
        client.write_tls(&mut bytes).expect("memory writes");
    }
    bytes
}

fn read(client: &mut ClientConnection, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        client.read_tls(&mut bytes).expect("memory reads");
        client.process_new_packets().expect("the server is right");
    }
}

/// A connection object of rustls with its buffers, after a message each way.
fn buffered(config: &Arc<ServerConfig>, clients: &Arc<ClientConfig>) -> Box<ServerConnection> {
    let mut client = client(clients);
    let mut server = Box::new(ServerConnection::new(config.clone()).expect("it can begin"));
    for round in 0..4 {
        if round == 3 {
            client
                .writer()
                .write_all(&[1; 100])
                .expect("it is buffered");
        }
        let mut bytes = &written(&mut client)[..];
        while !bytes.is_empty() {
            server.read_tls(&mut bytes).expect("memory reads");
            server.process_new_packets().expect("the client is right");
        }
        let mut sent = vec![];
        while server.wants_write() {
            server.write_tls(&mut sent).expect("memory writes");
        }
        read(&mut client, &sent);
    }
    server
        .reader()
        .read_exact(&mut [0; 100])
        .expect("the message is there");
    server
}

/// The same with buffers of the caller.
fn unbuffered(
    config: &Arc<ServerConfig>,
    clients: &Arc<ClientConfig>,
) -> UnbufferedServerConnection {
    let mut client = client(clients);
    let mut server = UnbufferedServerConnection::new(config.clone()).expect("it can begin");
    let mut place = vec![0; 32 * 1024];
    for _ in 0..3 {
        let mut bytes = written(&mut client);
        let mut sent = vec![];
        loop {
            let status = server.process_tls_records(&mut bytes);
            let discard = status.discard;
            let is_done = match status.state.expect("the client is right") {
                ConnectionState::EncodeTlsData(mut data) => {
                    let length = data.encode(&mut place).expect("there is room");
                    sent.extend_from_slice(&place[..length]);
                    false
                }
                ConnectionState::TransmitTlsData(data) => {
                    data.done();
                    false
                }
                _ => true,
            };
            bytes.drain(..discard);
            if is_done {
                break;
            }
        }
        read(&mut client, &sent);
    }
    server
}

fn resident_bytes() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").expect("this is Linux");
    let pages = text.split(' ').nth(1).and_then(|pages| pages.parse().ok());
    4096 * pages.unwrap_or(0_usize)
}

/// Makes `count` sessions after some that go away again, and says how much the process grew for each.
fn grown<T>(count: usize, mut make: impl FnMut(u32) -> T) -> usize {
    let warm: Vec<T> = (0..200).map(|slot| make(count as u32 + slot)).collect();
    let mut kept = Vec::with_capacity(count);
    drop(warm);
    let before = resident_bytes();
    kept.extend((0..count).map(|slot| make(slot as u32)));
    let after = resident_bytes();
    drop(kept);
    after.saturating_sub(before) / count
}

fn memory_of(design: &str, label: &str, count: usize) {
    let world = World::new(&PKCS_ECDSA_P256_SHA256, false);
    let version = VERSIONS.iter().find(|(name, _)| *name == label);
    let version = version.expect("a version is named").1;
    let clients = Arc::new(world.clients(version, false));
    let rustls = world.rustls();
    let bytes = match design {
        "buffered" => grown(count, |_| buffered(&rustls, &clients)),
        "unbuffered" => grown(count, |_| Box::new(unbuffered(&rustls, &clients))),
        "kernel" => grown(count, |_| {
            let connection = unbuffered(&rustls, &clients);
            Box::new(
                connection
                    .dangerous_into_kernel_connection()
                    .expect("the secrets may be taken"),
            )
        }),
        _ => {
            let mut server = world.server();
            grown(count, |slot| server.connect(slot, &clients))
        }
    };
    println!("TLS {label} {design:12} {bytes:6} bytes per idle session");
}

fn memory(count: &str) {
    let program = std::env::current_exe().expect("it runs");
    for (version, _) in VERSIONS {
        for design in DESIGNS {
            let status = Command::new(&program)
                .args(["memory-of", design, version, count])
                .status();
            assert!(status.is_ok_and(|status| status.success()), "{design}");
        }
    }
}

fn handshakes() {
    let kinds = [
        ("ECDSA P-256", &PKCS_ECDSA_P256_SHA256, false),
        ("ECDSA P-256, mTLS", &PKCS_ECDSA_P256_SHA256, true),
        ("RSA 2048", &PKCS_RSA_SHA256, false),
    ];
    for (name, algorithm, with_client_certificates) in kinds {
        let world = World::new(algorithm, with_client_certificates);
        for (label, version) in VERSIONS {
            let rates = [false, true].map(|resume| {
                let clients = Arc::new(world.clients(version, resume));
                let mut server = world.server();
                let count = 2_000;
                for slot in 0..count + 100 {
                    if slot == 100 {
                        server.took = Duration::ZERO;
                    }
                    server.connect(slot, &clients);
                }
                let resumed = server.sessions.stats().handshakes_resumed;
                assert_eq!(resumed > u64::from(count), resume);
                f64::from(count) / server.took.as_secs_f64()
            });
            let [full, resumed] = rates;
            let ratio = resumed / full;
            println!(
                "{name}, TLS {label}: full {full:.0}/s, resumed {resumed:.0}/s, ratio {ratio:.2}"
            );
        }
    }
}

/// One kind of handshake with an ECDSA certificate, and nothing else: for a profiler.
fn handshake(label: &str, kind: &str, suite: &str, count: u32) {
    let mut world = World::new(&PKCS_ECDSA_P256_SHA256, false);
    world.suite = suite.to_owned();
    let version = VERSIONS.iter().find(|(name, _)| *name == label);
    let version = version.expect("a version is named").1;
    let clients = Arc::new(world.clients(version, kind == "resumed"));
    let mut server = world.server();
    for slot in 0..count {
        server.connect(slot % 1_000, &clients);
    }
    let each_us = server.took.as_secs_f64() * 1e6 / f64::from(count);
    println!("TLS {label} {kind} {suite}: {each_us:.1} µs of the server each");
}

/// What each of these takes, in µs.
fn primitives() {
    fn time<T>(name: &str, mut what: impl FnMut() -> T) {
        const COUNT: u32 = 4_000;
        let mut least = Duration::MAX;
        for _ in 0..5 {
            let start = clock();
            for _ in 0..COUNT / 5 {
                std::hint::black_box(what());
            }
            least = least.min(start.elapsed());
        }
        let each_us = least.as_secs_f64() * 1e6 / f64::from(COUNT / 5);
        println!("{name:40} {each_us:7.2} µs");
    }
    let random = SystemRandom::new();
    let generate = || EphemeralPrivateKey::generate(&X25519, &random).expect("a key");
    let peer = generate().compute_public_key().expect("its half");
    let peer = UnparsedPublicKey::new(&X25519, peer.as_ref().to_vec());
    time("X25519: a key pair", || generate().compute_public_key());
    time("X25519: a key pair and the agreement", || {
        let key = generate();
        let public = key.compute_public_key();
        let agreed = agree_ephemeral(key, &peer, (), |secret| Ok(secret.len()));
        (public, agreed)
    });
    let signer = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).expect("a key");
    time("ECDSA P-256: a signature", || {
        signer.sign(&random, &[1; 130])
    });
    let public = signer.public_key().as_ref().to_vec();
    let signature = signer.sign(&random, &[1; 130]).expect("it signs");
    let verifier = signature::UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, public);
    time("ECDSA P-256: a verification", || {
        verifier.verify(&[1; 130], signature.as_ref())
    });
    let signer = RsaKeyPair::generate(KeySize::Rsa2048).expect("a key");
    let mut place = vec![0; signer.public_modulus_len()];
    time("RSA 2048: a signature", || {
        signer.sign(&RSA_PSS_SHA256, &random, &[1; 130], &mut place)
    });
    let secret = Salt::new(HKDF_SHA384, &[1; 48]).extract(&[2; 48]);
    time("HKDF-SHA384: a secret extracted", || {
        Salt::new(HKDF_SHA384, &[1; 48]).extract(&[2; 48])
    });
    time("HKDF-SHA384: 48 bytes expanded", || {
        let mut out = [0; 48];
        let okm = secret.expand(&[b"tls13 derived"], HKDF_SHA384);
        okm.and_then(|okm| okm.fill(&mut out))
    });
    let secret = Salt::new(HKDF_SHA256, &[1; 32]).extract(&[2; 32]);
    time("HKDF-SHA256: 32 bytes expanded", || {
        let mut out = [0; 32];
        let okm = secret.expand(&[b"tls13 derived"], HKDF_SHA256);
        okm.and_then(|okm| okm.fill(&mut out))
    });
    let mut key = [0; 32];
    time("32 random bytes", || random.fill(&mut key));
}

fn records() {
    let world = World::new(&PKCS_ECDSA_P256_SHA256, false);
    for (label, version) in VERSIONS {
        let clients = Arc::new(world.clients(version, false));
        let mut server = world.server();
        server.connect(0, &clients);
        let plain = [3; 128];
        let count = 200_000;
        let mut out = Vec::new();
        let start = clock();
        for _ in 0..count {
            out.clear();
            assert!(server.sessions.seal(id(0), &plain, &mut out), "it is live");
        }
        let sealed = start.elapsed().as_nanos() / count;

        let mut client = client(&clients);
        assert!(
            server.sessions.accepted(id(1), 0, Server::NOW),
            "there is room"
        );
        for _ in 0..3 {
            let mut sent = vec![];
            server.receive(1, &mut written(&mut client), &mut sent);
            read(&mut client, &sent);
        }
        let mut batches: Vec<Vec<u8>> = (0..count / 10)
            .map(|_| {
                for _ in 0..10 {
                    client.writer().write_all(&plain).expect("it is buffered");
                }
                written(&mut client)
            })
            .collect();
        server.took = Duration::ZERO;
        for batch in &mut batches {
            server.receive(1, batch, &mut vec![]);
        }
        let opened = server.took.as_nanos() / count;
        println!(
            "TLS {label}: a record of 128 bytes is sealed in {sealed} ns, opened in {opened} ns"
        );
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["memory", count] => memory(count),
        ["memory-of", design, version, count] => {
            memory_of(design, version, count.parse().unwrap_or(1_000));
        }
        ["handshakes"] => handshakes(),
        ["handshake", version, kind, suite, count] => {
            handshake(version, kind, suite, count.parse().unwrap_or(1_000));
        }
        ["primitives"] => primitives(),
        ["records"] => records(),
        _ => {
            eprintln!(
                "memory COUNT | handshakes | handshake VERSION KIND SUITE COUNT | primitives | records: see the head of the source"
            );
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
