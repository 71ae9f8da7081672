//! A server core without sockets, a certificate authority, and clients of rustls.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::sync::Arc;

use gateway::limits::TlsLimits;
use gateway::tls::{
    Acceptor, Certificate, ClientCertificates, ClientTrust, ClusterSecret, Established, Failure,
    Output, PemFile, Sessions, Settings, Versions,
};
use gateway::turn::Now;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber,
    date_time_ymd,
};
use reactor::driver::ConnectionId;
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, SupportedProtocolVersion, version};

/// In 2027.
pub(crate) const UNIX_MS: u64 = 1_800_000_000_000;
pub(crate) const BOTH: [&SupportedProtocolVersion; 2] = [&version::TLS12, &version::TLS13];

pub(crate) fn id(slot: u32) -> ConnectionId {
    ConnectionId {
        slot,
        generation: 1,
    }
}

/// A certificate with its key, in DER.
pub(crate) struct Key {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
}

impl Clone for Key {
    fn clone(&self) -> Self {
        Self {
            chain: self.chain.clone(),
            key: self.key.clone_key(),
        }
    }
}

pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(vec![]).expect("no names are fine");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("a key can be made");
        Self(CertifiedIssuer::self_signed(params, key).expect("it signs itself"))
    }

    pub(crate) fn pem(&self, name: &str) -> PemFile {
        PemFile {
            name: name.to_owned(),
            text: self.0.pem().into_bytes(),
        }
    }

    pub(crate) fn server(&self, names: &[&str]) -> Certificate {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let file = names.first().cloned().unwrap_or_default();
        let params = CertificateParams::new(names).expect("the names are names");
        let key = KeyPair::generate().expect("a key can be made");
        let certificate = params.signed_by(&key, &self.0).expect("it signs");
        Certificate {
            chain: PemFile {
                name: format!("{file}.pem"),
                text: certificate.pem().into_bytes(),
            },
            key: PemFile {
                name: format!("{file}.key"),
                text: key.serialize_pem().into_bytes(),
            },
        }
    }

    pub(crate) fn client(&self, common_name: &str, serial: u64, not_after: (i32, u8, u8)) -> Key {
        let mut params = CertificateParams::new(vec![format!("{common_name}.example")])
            .expect("the name is a name");
        let uri = format!("spiffe://example/{common_name}");
        let email = format!("{common_name}@example.com");
        params.subject_alt_names.extend([
            SanType::URI(uri.try_into().expect("it is ASCII")),
            SanType::Rfc822Name(email.try_into().expect("it is ASCII")),
        ]);
        params
            .distinguished_name
            .push(DnType::CommonName, common_name);
        params.serial_number = Some(SerialNumber::from(serial));
        params.not_after = date_time_ymd(not_after.0, not_after.1, not_after.2);
        let key = KeyPair::generate().expect("a key can be made");
        let certificate = params.signed_by(&key, &self.0).expect("it signs");
        Key {
            chain: vec![certificate.der().clone()],
            key: PrivateKeyDer::try_from(key.serialize_der()).expect("it is a key"),
        }
    }

    pub(crate) fn revocation_list(&self, serials: &[u64]) -> PemFile {
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2026, 1, 1),
            next_update: date_time_ymd(2030, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serials
                .iter()
                .map(|serial| RevokedCertParams {
                    serial_number: SerialNumber::from(*serial),
                    revocation_time: date_time_ymd(2026, 2, 1),
                    reason_code: None,
                    invalidity_date: None,
                })
                .collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = params.signed_by(&self.0).expect("it signs");
        PemFile {
            name: "revoked.pem".to_owned(),
            text: list.pem().expect("it is PEM").into_bytes(),
        }
    }

    pub(crate) fn trust(&self, revocation_lists: Vec<PemFile>) -> ClientTrust {
        ClientTrust {
            authorities: vec![self.pem("clients.pem")],
            revocation_lists,
        }
    }

    pub(crate) fn settings(&self) -> Settings {
        Settings {
            certificates: vec![self.server(&["localhost"])],
            client_certificates: ClientCertificates::None,
            application_protocols: vec![],
            versions: Versions::From12,
            ticket_secrets: vec![ClusterSecret([7; 32])],
            ticket_epoch_s: 3600,
        }
    }

    /// A client that trusts this authority.
    pub(crate) fn client_config(
        &self,
        version: &'static SupportedProtocolVersion,
        key: Option<Key>,
    ) -> ClientConfig {
        self.client_config_with(default_provider(), version, key)
    }

    pub(crate) fn client_config_with(
        &self,
        provider: CryptoProvider,
        version: &'static SupportedProtocolVersion,
        key: Option<Key>,
    ) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).expect("it is an authority");
        let builder = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[version])
            .expect("the provider has the version")
            .with_root_certificates(roots);
        let mut config = match key {
            Some(key) => builder
                .with_client_auth_cert(key.chain, key.key)
                .expect("the key fits"),
            None => builder.with_no_client_auth(),
        };
        config.enable_secret_extraction = true;
        config.resumption = Resumption::in_memory_sessions(16);
        config
    }
}

pub(crate) fn acceptor(settings: &Settings) -> Arc<Acceptor> {
    Arc::new(Acceptor::new(settings).expect("the settings are good"))
}

/// What a core heard of one connection.
#[derive(Clone, Debug, Default)]
pub(crate) struct Heard {
    /// Bytes to be sent that the client has not taken.
    pub(crate) sent: VecDeque<u8>,
    pub(crate) established: Option<Established>,
    pub(crate) data: Vec<u8>,
    pub(crate) peer_closed: bool,
    /// True while it is not to be read.
    pub(crate) is_paused: bool,
    pub(crate) failed: Option<Failure>,
}

/// A core: sessions, time, and what was heard by slot.
pub(crate) struct Server {
    pub(crate) sessions: Sessions,
    pub(crate) now: Now,
    pub(crate) heard: Vec<Heard>,
}

impl Server {
    pub(crate) fn new(settings: &Settings, limits: TlsLimits) -> Self {
        Self {
            sessions: Sessions::new(limits, &[acceptor(settings)]),
            now: Now {
                mono_ms: 1_000,
                unix_ms: UNIX_MS,
            },
            heard: vec![],
        }
    }

    pub(crate) fn usual(authority: &Authority) -> Self {
        Self::new(&authority.settings(), TlsLimits::default())
    }

    /// Accepts on slot `slot`; what was heard there before is forgotten.
    pub(crate) fn accept(&mut self, slot: u32) -> bool {
        let slots = self.heard.len().max(slot as usize + 1);
        self.heard.resize_with(slots, Heard::default);
        self.heard[slot as usize] = Heard::default();
        self.sessions.accepted(id(slot), 0, self.now)
    }

    pub(crate) fn receive(&mut self, slot: u32, bytes: &[u8]) {
        let mut bytes = bytes.to_vec();
        let Self {
            sessions,
            now,
            heard,
        } = self;
        sessions.received(id(slot), &mut bytes, *now, &mut |id, output| {
            hear(&mut heard[id.slot as usize], output);
        });
    }

    pub(crate) fn turn(&mut self) {
        let Self {
            sessions,
            now,
            heard,
        } = self;
        sessions.turn(*now, &mut |id, output| {
            hear(&mut heard[id.slot as usize], output);
        });
    }

    pub(crate) fn send(&mut self, slot: u32, plain: &[u8]) -> bool {
        let mut out = vec![];
        let sealed = self.sessions.seal(id(slot), plain, &mut out);
        self.heard[slot as usize].sent.extend(out);
        sealed
    }

    pub(crate) fn close(&mut self, slot: u32) {
        let mut out = vec![];
        self.sessions.close(id(slot), &mut out);
        self.heard[slot as usize].sent.extend(out);
    }

    pub(crate) fn of(&mut self, slot: u32) -> &mut Heard {
        &mut self.heard[slot as usize]
    }

    /// Bytes to and fro until nobody has any more; what the client is given is cut into `chunk` bytes.
    pub(crate) fn converse(&mut self, slot: u32, client: &mut Client) {
        for _ in 0..20 {
            let bytes = client.written();
            let is_quiet = bytes.is_empty() && self.of(slot).sent.is_empty();
            if !bytes.is_empty() {
                self.receive(slot, &bytes);
            }
            self.turn();
            let bytes: Vec<u8> = self.of(slot).sent.drain(..).collect();
            client.read(&bytes);
            if is_quiet {
                return;
            }
        }
        panic!("they do not come to an end");
    }

    /// Accepts a client and makes the handshake.
    pub(crate) fn connect(&mut self, slot: u32, client: &mut Client) {
        assert!(self.accept(slot), "there is room");
        self.converse(slot, client);
    }
}

fn hear(heard: &mut Heard, output: Output<'_>) {
    assert!(heard.failed.is_none(), "nothing follows a failure");
    match output {
        Output::Send(bytes) => {
            assert!(!bytes.is_empty(), "nothing is not sent");
            heard.sent.extend(bytes);
        }
        Output::Established(established) => heard.established = Some(*established),
        Output::Data(data) => {
            assert!(
                heard.established.is_some(),
                "data comes after the handshake"
            );
            heard.data.extend_from_slice(data);
        }
        Output::Pause => heard.is_paused = true,
        Output::Resume => heard.is_paused = false,
        Output::PeerClosed => heard.peer_closed = true,
        Output::Failed(failure) => heard.failed = Some(failure),
    }
}

/// A client of rustls.
pub(crate) struct Client {
    pub(crate) connection: ClientConnection,
    pub(crate) data: Vec<u8>,
    pub(crate) error: Option<rustls::Error>,
    pub(crate) closed: bool,
}

impl Client {
    pub(crate) fn new(config: ClientConfig) -> Self {
        Self::of(&Arc::new(config), "localhost")
    }

    pub(crate) fn of(config: &Arc<ClientConfig>, name: &str) -> Self {
        let name = ServerName::try_from(name.to_owned()).expect("it is a name");
        Self {
            connection: ClientConnection::new(config.clone(), name).expect("it can begin"),
            data: vec![],
            error: None,
            closed: false,
        }
    }

    /// What it has to send.
    pub(crate) fn written(&mut self) -> Vec<u8> {
        let mut bytes = vec![];
        while self.connection.wants_write() {
            self.connection
                .write_tls(&mut bytes)
                .expect("a vector takes all");
        }
        bytes
    }

    pub(crate) fn read(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && self.error.is_none() && !self.closed {
            self.connection.read_tls(&mut bytes).expect("memory reads");
            match self.connection.process_new_packets() {
                Ok(state) => {
                    let mut plain = vec![0; state.plaintext_bytes_to_read()];
                    self.connection
                        .reader()
                        .read_exact(&mut plain)
                        .expect("there is as much");
                    self.data.extend(plain);
                    self.closed = state.peer_has_closed();
                }
                Err(error) => self.error = Some(error),
            }
        }
    }

    pub(crate) fn write(&mut self, plain: &[u8]) {
        self.connection.set_buffer_limit(None);
        self.connection
            .writer()
            .write_all(plain)
            .expect("the buffer has no limit");
    }
}

/// Bytes that are not all alike.
pub(crate) fn text(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index * 31 % 251) as u8).collect()
}
