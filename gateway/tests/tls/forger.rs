//! A client whose keys are known, so that it can send any record; and a server of rustls beside the one that is tested.

use std::io::Read;
use std::sync::Arc;

use aws_lc_rs::aead::{AES_128_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use gateway::limits::TlsLimits;
use gateway::tls::{Reason, Settings};
use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ConnectionTrafficSecrets, ExtractedSecrets, ServerConfig, ServerConnection};

use crate::world::{Authority, BOTH, Client, Server};

pub(crate) const CCS: u8 = 20;
pub(crate) const ALERT: u8 = 21;
pub(crate) const HANDSHAKE: u8 = 22;
pub(crate) const DATA: u8 = 23;
/// A record to be forged.
#[derive(Clone, Debug)]
pub(crate) enum Forged {
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

pub(crate) fn data(plain: &[u8]) -> Forged {
    Forged::Record(DATA, plain.to_vec())
}

/// One direction of a session, from its keys.
pub(crate) struct Half {
    key: LessSafeKey,
    iv: [u8; 12],
    sequence: u64,
    is_13: bool,
    is_gcm: bool,
}

impl Half {
    pub(crate) fn new((sequence, keys): &(u64, ConnectionTrafficSecrets), is_13: bool) -> Self {
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

    pub(crate) fn seal(&mut self, content_type: u8, plain: &[u8], padding: usize) -> Vec<u8> {
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

    /// The records in what a server sent: type and plaintext, until one that this half does not open.
    pub(crate) fn open(&mut self, mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
        let mut records = vec![];
        while let Some((header, rest)) = bytes.split_at_checked(5) {
            let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
            let (sealed, rest) = rest.split_at(length);
            bytes = rest;
            let explicit = if !self.is_13 && self.is_gcm { 8 } else { 0 };
            let mut nonce = self.nonce();
            nonce[12 - explicit..].copy_from_slice(&sealed[..explicit]);
            let nonce = Nonce::assume_unique_for_key(nonce);
            let mut sealed = sealed[explicit..].to_vec();
            let aad = self.aad(header[0], sealed.len() - 16);
            let Ok(plain) = self.key.open_in_place(nonce, Aad::from(aad), &mut sealed) else {
                break;
            };
            self.sequence += 1;
            let mut plain = plain.to_vec();
            let content_type = if self.is_13 { plain.pop() } else { None };
            records.push((content_type.unwrap_or(header[0]), plain));
        }
        records
    }

    /// The first alert in what a server sent; `None` when there is none.
    pub(crate) fn alert(&mut self, bytes: &[u8]) -> Option<u8> {
        let records = self.open(bytes).into_iter();
        let mut alerts = records.filter(|(content_type, _)| *content_type == ALERT);
        Some(alerts.next()?.1[1])
    }
}

/// What came of it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) data: Vec<u8>,
    /// The record at which it ended.
    pub(crate) failed_at: Option<usize>,
    pub(crate) alert: Option<u8>,
    pub(crate) closed: bool,
}

pub(crate) struct Forger {
    pub(crate) tx: Half,
    pub(crate) rx: Half,
    last: Vec<u8>,
}

impl Forger {
    pub(crate) fn new(client: Client) -> Self {
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

    pub(crate) fn forge(&mut self, forged: &Forged) -> Vec<u8> {
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
pub(crate) struct Pair {
    authority: Authority,
    pub(crate) settings: Settings,
    rustls: Arc<ServerConfig>,
    is_13: bool,
    is_gcm: bool,
}

impl Pair {
    pub(crate) fn new(is_13: bool, is_gcm: bool) -> Self {
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

    pub(crate) fn client(&self) -> Client {
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

    pub(crate) fn here(&self, records: &[Forged]) -> (Outcome, Option<Reason>) {
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

    pub(crate) fn there(&self, records: &[Forged]) -> Outcome {
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

    pub(crate) fn agree(&self, records: &[Forged]) -> Outcome {
        let (here, _) = self.here(records);
        assert_eq!(here, self.there(records), "{records:?}");
        here
    }
}
