//! Records that no client of rustls would send, made with the keys of one, and given to this layer and to a server of rustls:
//! both must take the same data out of them, end at the same record, and say the same alert.

use std::io::Read;
use std::sync::Arc;

use aws_lc_rs::aead::{AES_128_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use gateway::limits::TlsLimits;
use gateway::tls::{Reason, Settings};
use proptest::prelude::*;
use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ConnectionTrafficSecrets, ExtractedSecrets, ServerConfig, ServerConnection};

use crate::world::{Authority, BOTH, Client, Server};

const CCS: u8 = 20;
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const DATA: u8 = 23;
const KEY_UPDATE: &[u8] = &[24, 0, 0, 1, 0];

/// A record to be forged.
#[derive(Clone, Debug)]
enum Forged {
    /// A good one of this type.
    Record(u8, Vec<u8>),
    /// The same with this many zeros behind the type (TLS 1.3).
    Padded(u8, Vec<u8>, usize),
    /// A good one with one byte changed.
    Damaged(usize),
    /// Bytes as they are.
    Raw(Vec<u8>),
    /// The last one once more.
    Replayed,
}

fn data(plain: &[u8]) -> Forged {
    Forged::Record(DATA, plain.to_vec())
}

/// One direction of a session, from its keys.
struct Half {
    key: LessSafeKey,
    iv: [u8; 12],
    sequence: u64,
    is_13: bool,
    is_gcm: bool,
}

impl Half {
    fn new((sequence, keys): &(u64, ConnectionTrafficSecrets), is_13: bool) -> Self {
        let (algorithm, key, iv, is_gcm) = match keys {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv, true),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => {
                (&CHACHA20_POLY1305, key, iv, false)
            }
            _ => panic!("the tests use two suites"),
        };
        let length = algorithm.key_len();
        let key = UnboundKey::new(algorithm, &key.as_ref()[..length]).expect("it is a key");
        Self {
            key: LessSafeKey::new(key),
            iv: iv.as_ref().try_into().expect("it has 12 bytes"),
            sequence: *sequence,
            is_13,
            is_gcm,
        }
    }

    fn nonce(&self) -> [u8; 12] {
        let mut nonce = u128::from_be_bytes(
            [[0; 4].as_slice(), &self.iv]
                .concat()
                .try_into()
                .expect("16 bytes"),
        );
        nonce ^= u128::from(self.sequence);
        nonce.to_be_bytes()[4..].try_into().expect("12 bytes")
    }

    fn aad(&self, content_type: u8, plain: usize) -> Vec<u8> {
        let length = (plain as u16).to_be_bytes();
        if self.is_13 {
            let length = ((plain + 16) as u16).to_be_bytes();
            return [&[DATA, 3, 3][..], &length].concat();
        }
        [
            &self.sequence.to_be_bytes()[..],
            &[content_type, 3, 3],
            &length,
        ]
        .concat()
    }

    fn seal(&mut self, content_type: u8, plain: &[u8], padding: usize) -> Vec<u8> {
        let mut sealed = plain.to_vec();
        let mut outer = content_type;
        if self.is_13 {
            outer = DATA;
            sealed.push(content_type);
            sealed.resize(sealed.len() + padding, 0);
        }
        let nonce = self.nonce();
        let aad = self.aad(content_type, sealed.len());
        self.key
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(aad),
                &mut sealed,
            )
            .expect("it seals");
        if !self.is_13 && self.is_gcm {
            sealed.splice(..0, nonce[4..].iter().copied());
        }
        self.sequence += 1;
        let length = (sealed.len() as u16).to_be_bytes();
        [&[outer, 3, 3][..], &length, &sealed].concat()
    }

    /// The alert in what a server sent; `None` when there is none.
    fn alert(&mut self, mut bytes: &[u8]) -> Option<u8> {
        while let Some((header, rest)) = bytes.split_at_checked(5) {
            let (sealed, rest) =
                rest.split_at(usize::from(u16::from_be_bytes([header[3], header[4]])));
            bytes = rest;
            let explicit = if !self.is_13 && self.is_gcm { 8 } else { 0 };
            let mut nonce = self.nonce();
            nonce[12 - explicit..].copy_from_slice(&sealed[..explicit]);
            let mut sealed = sealed[explicit..].to_vec();
            let aad = self.aad(header[0], sealed.len() - 16);
            let plain = self
                .key
                .open_in_place(
                    Nonce::assume_unique_for_key(nonce),
                    Aad::from(aad),
                    &mut sealed,
                )
                .ok()?;
            self.sequence += 1;
            match (self.is_13, header[0], &*plain) {
                (true, _, [_, description, ALERT]) | (false, ALERT, [_, description]) => {
                    return Some(*description);
                }
                _ => {}
            }
        }
        None
    }
}

/// What came of it.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    data: Vec<u8>,
    /// The record at which it ended.
    failed_at: Option<usize>,
    alert: Option<u8>,
    closed: bool,
}

struct Forger {
    tx: Half,
    rx: Half,
    last: Vec<u8>,
}

impl Forger {
    fn new(client: Client) -> Self {
        let is_13 = client.connection.protocol_version() == Some(rustls::ProtocolVersion::TLSv1_3);
        let ExtractedSecrets { tx, rx } = client
            .connection
            .dangerous_extract_secrets()
            .expect("the test asked for them");
        Self {
            tx: Half::new(&tx, is_13),
            rx: Half::new(&rx, is_13),
            last: vec![],
        }
    }

    fn forge(&mut self, forged: &Forged) -> Vec<u8> {
        let bytes = match forged {
            Forged::Record(content_type, plain) => self.tx.seal(*content_type, plain, 0),
            Forged::Padded(content_type, plain, zeros) => {
                self.tx.seal(*content_type, plain, *zeros)
            }
            Forged::Damaged(index) => {
                let mut record = self.tx.seal(DATA, b"damaged", 0);
                let index = 5 + index % (record.len() - 5);
                record[index] ^= 0x10;
                record
            }
            Forged::Raw(bytes) => bytes.clone(),
            Forged::Replayed => self.last.clone(),
        };
        self.last.clone_from(&bytes);
        bytes
    }
}

/// The same certificate for both, and clients that agree on the same suite with both.
struct Pair {
    authority: Authority,
    settings: Settings,
    rustls: Arc<ServerConfig>,
    is_13: bool,
    is_gcm: bool,
}

impl Pair {
    fn new(is_13: bool, is_gcm: bool) -> Self {
        let authority = Authority::new("root");
        let settings = authority.settings();
        let files = &settings.certificates[0];
        let chain = CertificateDer::from_pem_slice(&files.chain.text).expect("it is one");
        let key = PrivateKeyDer::from_pem_slice(&files.key.text).expect("it is one");
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&BOTH)
            .expect("it has both")
            .with_no_client_auth()
            .with_single_cert(vec![chain], key)
            .expect("the key fits");
        Self {
            authority,
            settings,
            rustls: Arc::new(config),
            is_13,
            is_gcm,
        }
    }

    fn client(&self) -> Client {
        let mut provider = default_provider();
        provider.cipher_suites = vec![match (self.is_13, self.is_gcm) {
            (true, true) => cipher_suite::TLS13_AES_128_GCM_SHA256,
            (true, false) => cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
            (false, true) => cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
            (false, false) => cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        }];
        let version = BOTH[usize::from(self.is_13)];
        Client::new(self.authority.client_config_with(provider, version, None))
    }

    fn here(&self, records: &[Forged]) -> (Outcome, Option<Reason>) {
        let mut server = Server::new(&self.settings, TlsLimits::default());
        let mut client = self.client();
        server.connect(0, &mut client);
        let mut forger = Forger::new(client);
        let mut failed_at = None;
        for (index, forged) in records.iter().enumerate() {
            let bytes = forger.forge(forged);
            server.receive(0, &bytes);
            if server.of(0).failed.is_some() {
                failed_at = Some(index);
                break;
            }
        }
        let heard = server.of(0).clone();
        let sent: Vec<u8> = heard.sent.into_iter().collect();
        let outcome = Outcome {
            data: heard.data,
            failed_at,
            alert: forger.rx.alert(&sent),
            closed: heard.peer_closed,
        };
        (outcome, heard.failed.map(|failure| failure.reason))
    }

    fn there(&self, records: &[Forged]) -> Outcome {
        let mut server = ServerConnection::new(self.rustls.clone()).expect("it can begin");
        let mut client = self.client();
        let mut sent = vec![];
        for _ in 0..4 {
            let mut bytes = &client.written()[..];
            while !bytes.is_empty() {
                server.read_tls(&mut bytes).expect("memory reads");
                server.process_new_packets().expect("the handshake works");
            }
            sent.clear();
            while server.wants_write() {
                server.write_tls(&mut sent).expect("memory writes");
            }
            client.read(&sent);
        }
        let mut forger = Forger::new(client);
        let mut outcome = Outcome {
            data: vec![],
            failed_at: None,
            alert: None,
            closed: false,
        };
        'records: for (index, forged) in records.iter().enumerate() {
            let bytes = forger.forge(forged);
            let mut bytes = &bytes[..];
            while !bytes.is_empty() {
                server.read_tls(&mut bytes).expect("memory reads");
                let result = server.process_new_packets();
                let mut plain = vec![];
                let end = server.reader().read_to_end(&mut plain);
                outcome.closed = end.is_ok();
                outcome.data.extend(plain);
                if result.is_err() {
                    outcome.failed_at = Some(index);
                    break 'records;
                }
                if outcome.closed {
                    break;
                }
            }
        }
        sent.clear();
        while server.wants_write() {
            server.write_tls(&mut sent).expect("memory writes");
        }
        outcome.alert = forger.rx.alert(&sent);
        outcome
    }

    fn agree(&self, records: &[Forged]) -> Outcome {
        let (here, _) = self.here(records);
        assert_eq!(here, self.there(records), "{records:?}");
        here
    }
}

fn pairs(is_13: bool) -> [Pair; 2] {
    [Pair::new(is_13, true), Pair::new(is_13, false)]
}

#[test]
fn alerts_are_heard_as_rustls_hears_them() {
    for is_13 in [false, true] {
        for pair in pairs(is_13) {
            for alert in [
                vec![1, 0],
                vec![2, 0],
                vec![2, 40],
                vec![1, 90],
                vec![1, 41],
                vec![3, 40],
                vec![1],
                vec![1, 0, 0],
            ] {
                pair.agree(&[data(b"a"), Forged::Record(ALERT, alert), data(b"b")]);
            }
            let warning = Forged::Record(ALERT, vec![1, 90]);
            let many = pair.agree(&vec![warning; 4]);
            assert_eq!(many.failed_at, None, "four warnings are borne");
        }
    }
}

#[test]
fn a_fifth_warning_ends_the_session() {
    for is_13 in [false, true] {
        for pair in pairs(is_13) {
            let warning = Forged::Record(ALERT, vec![1, 90]);
            let records = vec![warning; 6];
            let (outcome, reason) = pair.here(&records);
            assert_eq!(outcome.failed_at, pair.there(&records).failed_at);
            assert_eq!(
                (outcome.failed_at, reason),
                (Some(4), Some(Reason::Violation))
            );
        }
    }
}

#[test]
fn key_updates_may_be_split_and_must_end_a_record() {
    for pair in pairs(true) {
        let split = [
            Forged::Record(HANDSHAKE, KEY_UPDATE[..2].to_vec()),
            Forged::Record(HANDSHAKE, KEY_UPDATE[2..4].to_vec()),
        ];
        assert_eq!(pair.agree(&split).failed_at, None);
        let interleaved = [split[0].clone(), data(b"between")];
        let (here, there) = (pair.here(&interleaved).0, pair.there(&interleaved));
        assert_eq!((here.failed_at, here.data), (there.failed_at, there.data));
        assert_eq!(here.failed_at, Some(1));
        for wrong in [
            [KEY_UPDATE, KEY_UPDATE].concat(),
            [KEY_UPDATE, &[24]].concat(),
            vec![24, 0, 0, 1, 2],
        ] {
            let records = [Forged::Record(HANDSHAKE, wrong)];
            assert_eq!(pair.agree(&records).failed_at, Some(0), "{records:?}");
        }
        for wrong in [
            vec![24, 0, 0, 0, 0],
            vec![24, 0, 0, 2, 0, 0],
            vec![4, 0, 0, 1, 0],
            vec![1, 0, 0, 1, 0],
            vec![],
        ] {
            let records = [Forged::Record(HANDSHAKE, wrong)];
            let (here, reason) = pair.here(&records);
            assert_eq!((here.failed_at, reason), (Some(0), Some(Reason::Violation)));
            assert!(here.alert.is_some());
        }
    }
}

#[test]
fn another_handshake_is_refused_with_a_warning_and_then_for_good() {
    for pair in pairs(false) {
        let hello = Forged::Record(HANDSHAKE, hello());
        let once = pair.agree(&[hello.clone(), data(b"goes on")]);
        assert_eq!(once.alert, Some(100), "no_renegotiation");
        assert_eq!((&once.data[..], once.failed_at), (&b"goes on"[..], None));
        let records = [hello.clone(), hello];
        let (twice, _) = pair.here(&records);
        assert_eq!(twice.failed_at, Some(1));
        assert_eq!(twice.failed_at, pair.there(&records).failed_at);
        let other = [Forged::Record(HANDSHAKE, vec![20, 0, 0, 1, 0])];
        assert_eq!(
            pair.here(&other).0.failed_at,
            Some(0),
            "a message of a handshake"
        );
    }
}

/// A ClientHello that parses.
fn hello() -> Vec<u8> {
    let authority = Authority::new("root");
    let mut client = Client::new(authority.client_config(BOTH[0], None));
    client.written()[5..].to_vec()
}

#[test]
fn records_are_as_long_as_they_may_be() {
    for is_13 in [false, true] {
        for pair in pairs(is_13) {
            assert_eq!(pair.agree(&[data(&vec![1; 16_384])]).data.len(), 16_384);
            let long = pair.agree(&[data(&vec![1; 16_385])]);
            assert_eq!((long.failed_at, long.alert), (Some(0), Some(22)));
            let (huge, _) = pair.here(&[Forged::Raw(vec![DATA, 3, 3, 0xFF, 0xFF])]);
            assert_eq!((huge.failed_at, huge.alert), (Some(0), Some(22)));
        }
    }
}

#[test]
fn padding_is_taken_off_and_counts_as_length() {
    for pair in pairs(true) {
        let padded = Forged::Padded(DATA, b"data".to_vec(), 100);
        assert_eq!(pair.agree(&[padded]).data, b"data");
        let alert = Forged::Padded(ALERT, vec![1, 0], 3);
        assert!(pair.agree(&[alert]).closed);
        let nothing = Forged::Padded(0, vec![], 40);
        let (nothing, reason) = pair.here(&[nothing]);
        assert_eq!((nothing.alert, reason), (Some(10), Some(Reason::Violation)));
    }
}

#[test]
fn empty_records_are_borne_for_a_while() {
    for is_13 in [false, true] {
        for pair in pairs(is_13) {
            let empty = Forged::Record(DATA, vec![]);
            let mut records = vec![empty.clone(); 32];
            records.push(data(b"data"));
            records.extend(vec![empty.clone(); 32]);
            assert_eq!(pair.agree(&records).data, b"data");
            records.push(empty);
            let (here, there) = (pair.here(&records).0, pair.there(&records));
            assert_eq!((here.failed_at, there.failed_at), (Some(65), Some(65)));
        }
    }
}

#[test]
fn other_content_types_are_unexpected() {
    for is_13 in [false, true] {
        for pair in pairs(is_13) {
            for (content_type, plain) in [(CCS, vec![1]), (24, vec![1]), (99, vec![1])] {
                let records = [Forged::Record(content_type, plain)];
                let (here, reason) = pair.here(&records);
                assert_eq!(here.failed_at, pair.there(&records).failed_at);
                assert_eq!((here.alert, reason), (Some(10), Some(Reason::Violation)));
            }
            for content_type in [CCS, ALERT, HANDSHAKE] {
                let raw = [Forged::Raw(vec![content_type, 3, 3, 0, 2, 1, 0])];
                let (here, _) = pair.here(&raw);
                assert_eq!(here.failed_at, Some(0), "plaintext {content_type}");
            }
        }
    }
}

fn any_record(is_13: bool) -> impl Strategy<Value = Forged> {
    let small = prop::collection::vec(any::<u8>(), 1..40);
    prop_oneof![
        8 => small.clone().prop_map(|plain| Forged::Record(DATA, plain)),
        2 => (small, 0..if is_13 { 50_usize } else { 1 })
            .prop_map(|(plain, zeros)| Forged::Padded(DATA, plain, zeros)),
        1 => Just(Forged::Record(DATA, vec![])),
        1 => any::<usize>().prop_map(Forged::Damaged),
        1 => Just(Forged::Replayed),
        1 => (1..4_u8, any::<u8>()).prop_map(|(level, alert)| Forged::Record(ALERT, vec![level, alert])),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_records_come_to_the_same_end(
        (is_13, records) in any::<bool>().prop_flat_map(|is_13| {
            (Just(is_13), prop::collection::vec(any_record(is_13), 1..12))
        }),
        is_gcm in any::<bool>(),
    ) {
        // Replaying nothing is nothing.
        let is_first_replayed = matches!(records[0], Forged::Replayed);
        prop_assume!(!is_first_replayed);
        let pair = Pair::new(is_13, is_gcm);
        let (here, reason) = pair.here(&records);
        let there = pair.there(&records);
        prop_assert_eq!(&here, &there);
        prop_assert_eq!(reason.is_some(), there.failed_at.is_some());
    }
}
