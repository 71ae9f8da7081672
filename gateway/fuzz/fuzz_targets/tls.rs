//! No bytes of a TLS client panic, and what one client does wrong harms nobody. What it does right arrives.
//!
//! Noise would never come past the first record, so that the input is a programme: a client of rustls makes real handshakes,
//! full and resumed, and the programme says what becomes of its bytes on their way: cut, changed, doubled, lost, others put between.
//! As long as it changed nothing, the session has to work.
//!
//! Keys are random, as they are always: the search sees the same lengths and decisions each time, and other ciphertexts. What it
//! finds can be replayed all the same, since no decision depends on a key.

#![no_main]

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::sync::{Arc, OnceLock};

use gateway::limits::TlsLimits;
use gateway::tls::{
    Acceptor, Certificate, ClientCertificates, ClientTrust, ClusterSecret, Output, PemFile,
    Sessions, Settings, Versions,
};
use gateway::turn::Now;
use libfuzzer_sys::fuzz_target;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use reactor::driver::ConnectionId;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, version};

const ID: ConnectionId = ConnectionId { slot: 0, generation: 1 };
const OTHER: ConnectionId = ConnectionId { slot: 1, generation: 1 };
/// As much as a driver hands over at once. More than 20 KiB behind a Finished that has not been looked at would be too long a handshake.
const BUFFER_BYTES: usize = 4096;
const UNIX_MS: u64 = 1_800_000_000_000;

struct World {
    acceptor: Arc<Acceptor>,
    /// TLS 1.3 and 1.2, without a certificate and with one.
    clients: Vec<Arc<ClientConfig>>,
}

fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| {
        let mut params = CertificateParams::new(vec![]).expect("no names are fine");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key"));
        let root = root.expect("it signs itself");
        let signed = |name: &str| {
            let key = KeyPair::generate().expect("a key");
            let params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
            (params.signed_by(&key, &root).expect("it signs"), key)
        };
        let file = |text: String| PemFile { name: String::new(), text: text.into_bytes() };
        let (certificate, key) = signed("localhost");
        let trust = ClientTrust { authorities: vec![file(root.pem())], revocation_lists: vec![] };
        let settings = Settings {
            certificates: vec![Certificate { chain: file(certificate.pem()), key: file(key.serialize_pem()) }],
            client_certificates: ClientCertificates::Optional(trust),
            application_protocols: vec![b"mqtt".to_vec()],
            versions: Versions::From12,
            ticket_secrets: vec![ClusterSecret([7; 32])],
            ticket_epoch_s: 3600,
        };
        let (own, own_key) = signed("client");
        let mut clients = Vec::new();
        for version in [&version::TLS13, &version::TLS12] {
            for with_certificate in [false, true] {
                let mut roots = RootCertStore::empty();
                roots.add(root.der().clone()).expect("an authority");
                let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
                    .with_protocol_versions(&[version])
                    .expect("it has it")
                    .with_root_certificates(roots);
                let key = PrivateKeyDer::try_from(own_key.serialize_der()).expect("a key");
                let mut config = if with_certificate {
                    builder.with_client_auth_cert(vec![own.der().clone()], key).expect("it fits")
                } else {
                    builder.with_no_client_auth()
                };
                config.alpn_protocols = vec![b"mqtt".to_vec()];
                clients.push(Arc::new(config)); // Tickets stay with it: later runs resume.
            }
        }
        World { acceptor: Arc::new(Acceptor::new(&settings).expect("good settings")), clients }
    })
}

/// Both ends, and the bytes between them.
struct Pair {
    sessions: Sessions,
    client: ClientConnection,
    mono_ms: u64,
    /// Bytes of the client on their way.
    pending: VecDeque<u8>,
    /// What the server has sent.
    answers: Vec<u8>,
    /// Plaintext that went in and came out at the server.
    written: Vec<u8>,
    arrived: Vec<u8>,
    established: bool,
    failed: bool,
    peer_closed: bool,
    /// True exactly when the client has said goodbye, or has failed.
    leaving: bool,
    /// Key updates of the client since its last data; more than a few in a row are refused.
    key_updates: u32,
    /// True exactly when the programme has changed bytes or time has run out.
    tampered: bool,
}

impl Pair {
    fn now(&self) -> Now {
        Now { mono_ms: self.mono_ms, unix_ms: UNIX_MS + self.mono_ms }
    }

    /// Shows the server bytes, or lets time pass with none.
    fn deliver(&mut self, bytes: Option<&mut [u8]>) {
        let now = self.now();
        let Self { sessions, answers, arrived, established, failed, peer_closed, .. } = self;
        let mut hear = |id: ConnectionId, output: Output<'_>| {
            assert!(id == ID || id == OTHER);
            match output {
                Output::Failed(_) if id == OTHER => {}
                _ if id == OTHER => panic!("the other client has said nothing"),
                Output::Send(bytes) => answers.extend(bytes),
                Output::Established(_) => {
                    assert!(!*established, "a handshake is complete once");
                    *established = true;
                }
                Output::Data(data) => {
                    assert!(*established && !*peer_closed && !*failed, "data within a session alone");
                    arrived.extend_from_slice(data);
                }
                Output::Pause | Output::Resume => {} // What is on its way may come all the same.
                Output::PeerClosed => *peer_closed = true,
                Output::Failed(failure) => {
                    assert!(!*failed, "a session fails once");
                    assert!(!failure.detail.is_empty());
                    *failed = true;
                }
            }
        };
        match bytes {
            Some(bytes) => sessions.received(ID, bytes, now, &mut hear),
            None => sessions.turn(now, &mut hear),
        }
        assert!(!(self.failed && self.sessions.has(ID)), "a session that failed is gone");
        let stats = self.sessions.stats();
        assert!(stats.partial_bytes + stats.handshake_bytes <= 64 * 1024, "{stats:?}");
    }

    /// Gives the client what the server has sent, and takes what it writes. A client of rustls that has failed, or said goodbye, must
    /// not be shown anything: it asserts that it sends no second alert.
    fn exchange(&mut self) {
        let answers = std::mem::take(&mut self.answers);
        let mut bytes = &answers[..];
        while !bytes.is_empty() && !self.leaving {
            if self.client.read_tls(&mut bytes).is_err() || self.client.process_new_packets().is_err() {
                assert!(self.tampered, "the server is right when the client is");
                self.leaving = true;
                break;
            }
            let mut plain = [0; 4096];
            while self.client.reader().read(&mut plain).is_ok_and(|count| count > 0) {}
        }
        let mut out = Vec::new();
        while self.client.wants_write() && self.client.write_tls(&mut out).is_ok() {}
        self.pending.extend(out);
    }

    fn step(&mut self, operation: u8, a: usize, programme: &mut &[u8]) {
        match operation % 10 {
            0 | 1 => {
                let count = if operation.is_multiple_of(2) { self.pending.len() } else { a.min(self.pending.len()) };
                let mut bytes: Vec<u8> = self.pending.drain(..count).collect();
                for part in bytes.chunks_mut(BUFFER_BYTES) {
                    self.deliver(Some(part));
                    self.deliver(None);
                }
                self.exchange();
            }
            2 => {
                if let Some(byte) = self.pending.get_mut(a) {
                    *byte ^= 1 << (operation / 10 % 8);
                    self.tampered = true;
                }
            }
            3 => {
                let count = a.min(programme.len());
                for byte in programme[..count].iter().rev() {
                    self.pending.push_front(*byte);
                }
                *programme = &programme[count..];
                self.tampered |= count > 0;
            }
            4 => {
                let count = a.min(self.pending.len());
                self.pending.drain(..count);
                self.tampered |= count > 0;
            }
            5 => {
                let copy: Vec<u8> = self.pending.iter().take(a).copied().collect();
                self.tampered |= !copy.is_empty();
                self.pending.extend(copy);
            }
            6 => {
                if !self.client.is_handshaking() && !self.leaving && a > 0 {
                    self.key_updates = 0;
                    let data = vec![a as u8; a];
                    let written = self.client.writer().write(&data).unwrap_or(0);
                    self.written.extend_from_slice(&data[..written]);
                    self.exchange();
                }
            }
            7 => {
                let mut out = Vec::new();
                if self.sessions.seal(ID, &vec![a as u8; a], &mut out) {
                    assert!(self.established);
                }
                self.answers.extend(out);
                self.exchange();
            }
            8 if self.leaving => {}
            8 => {
                if a.is_multiple_of(16) {
                    self.client.send_close_notify();
                    self.leaving = true;
                    self.tampered |= !self.established; // Who leaves amid a handshake has failed it.
                } else if !self.client.is_handshaking() && self.key_updates < 30 {
                    self.key_updates += 1;
                    let _only_in_13 = self.client.refresh_traffic_keys();
                }
                self.exchange();
            }
            _ => {
                self.mono_ms += a as u64;
                self.tampered |= self.mono_ms >= TlsLimits::default().handshake_timeout_ms;
                self.deliver(None);
                self.exchange();
            }
        }
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((first, mut programme)) = input.split_first() else { return };
    let world = world();
    let config = Arc::clone(&world.clients[usize::from(*first) % world.clients.len()]);
    let name = ServerName::try_from("localhost").expect("a name");
    let mut pair = Pair {
        sessions: Sessions::new(TlsLimits::default(), &[Arc::clone(&world.acceptor)]),
        client: ClientConnection::new(config, name).expect("it can begin"),
        mono_ms: 0,
        pending: VecDeque::new(),
        answers: Vec::new(),
        written: Vec::new(),
        arrived: Vec::new(),
        established: false,
        failed: false,
        peer_closed: false,
        leaving: false,
        key_updates: 0,
        tampered: false,
    };
    let now = pair.now();
    assert!(pair.sessions.accepted(ID, 0, now) && pair.sessions.accepted(OTHER, 0, now));
    pair.exchange();
    if *first >= 128 {
        // The way in: a programme need not find the handshake.
        for _ in 0..3 {
            pair.step(0, 0, &mut programme);
            pair.deliver(None);
        }
        assert!(pair.established);
    }
    while let [operation, high, low, rest @ ..] = programme {
        programme = rest;
        let a = usize::from(u16::from_be_bytes([*high, *low])) % 20_000;
        pair.step(*operation, a, &mut programme);
    }
    if !pair.tampered {
        pair.deliver(None);
        pair.step(0, 0, &mut programme);
        assert!(!pair.failed, "nothing was wrong");
        assert_eq!(pair.arrived, pair.written);
    }
    pair.sessions.forget(ID);
    pair.sessions.forget(OTHER);
    let stats = pair.sessions.stats();
    assert_eq!((stats.partial_bytes, stats.handshake_bytes, stats.handshakes_in_progress), (0, 0, 0));
});
