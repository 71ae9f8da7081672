//! TLS of the clients of one thread: rustls' own connections, by slot of the driver.

use std::cell::Cell;
use std::collections::VecDeque;
use std::io::{Read as _, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result};
use reactor::slab::Table;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{
    ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue,
    WebPkiServerVerifier,
};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, HandshakeKind, NamedGroup,
    RootCertStore, SignatureScheme, version,
};

use crate::arguments::{TlsKey, TlsVersion};
use crate::certificate;

/// How clients speak TLS.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TlsSettings {
    /// The only version that they speak; the best of both where there is none.
    pub(crate) version: Option<TlsVersion>,
    /// Key of the server's certificate.
    pub(crate) key: TlsKey,
    pub(crate) tickets: Tickets,
}

/// What clients do with the tickets that they get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tickets {
    /// They throw them away: each handshake is a full one.
    Ignore,
    /// They keep them until [`Shared::spend`].
    Keep,
    /// They keep them, and resume whenever there is one.
    Spend,
}

/// What the clients of all threads have in common.
#[derive(Debug)]
pub(super) struct Shared {
    config: Arc<ClientConfig>,
    purse: Arc<Purse>,
}

impl Shared {
    /// # Errors
    /// When the certificate is none that can be trusted.
    pub(super) fn new(trusted: &CertificateDer<'static>, settings: TlsSettings) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(trusted.clone())?;
        let versions = match settings.version {
            None => &[&version::TLS13, &version::TLS12][..],
            Some(TlsVersion::V12) => &[&version::TLS12],
            Some(TlsVersion::V13) => &[&version::TLS13],
        };
        let provider = Arc::new(default_provider());
        let roots = Arc::new(roots);
        let verifier = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider));
        let witness = Arc::new(Witness(verifier.build()?));
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)?
            .dangerous()
            .with_custom_certificate_verifier(witness)
            .with_no_client_auth();
        let purse = Arc::new(Purse::default());
        purse
            .open
            .store(settings.tickets == Tickets::Spend, Ordering::Relaxed);
        config.resumption = match settings.tickets {
            Tickets::Ignore => Resumption::disabled(),
            Tickets::Keep | Tickets::Spend => Resumption::store(purse.clone()),
        };
        Ok(Self {
            config: Arc::new(config),
            purse,
        })
    }

    /// What rustls needs, for those who make connections of their own.
    pub(super) fn config(&self) -> &ClientConfig {
        &self.config
    }

    /// From now on clients resume.
    pub(super) fn spend(&self) {
        self.purse.open.store(true, Ordering::Relaxed);
    }
}

thread_local! {
    /// True exactly when a certificate was verified on this thread and nobody has asked about it.
    static VERIFIED: Cell<bool> = const { Cell::new(false) };
}

/// True when a certificate was verified on this thread since the last call: a handshake without was resumed. quinn-proto does not say.
pub(super) fn take_verified() -> bool {
    VERIFIED.replace(false)
}

/// Verifies certificates as rustls does, and notes that it did. All threads have the same, since tickets hold with one verifier alone.
#[derive(Debug)]
struct Witness(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for Witness {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        VERIFIED.set(true);
        let inner = &self.0;
        inner.verify_server_cert(leaf, intermediates, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// All tickets of one server, each to be used once: rustls' own store keeps a few of each server.
#[derive(Debug, Default)]
struct Purse {
    /// True exactly when tickets may be taken out.
    open: AtomicBool,
    of_12: Mutex<VecDeque<Tls12ClientSessionValue>>,
    of_13: Mutex<VecDeque<Tls13ClientSessionValue>>,
}

impl Purse {
    fn take<T>(&self, tickets: &Mutex<VecDeque<T>>) -> Option<T> {
        if !self.open.load(Ordering::Relaxed) {
            return None;
        }
        locked(tickets).pop_front()
    }
}

fn locked<T>(tickets: &Mutex<VecDeque<T>>) -> MutexGuard<'_, VecDeque<T>> {
    tickets.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ClientSessionStore for Purse {
    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }

    fn set_tls12_session(&self, _: ServerName<'static>, ticket: Tls12ClientSessionValue) {
        locked(&self.of_12).push_back(ticket);
    }

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.take(&self.of_12)
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, _: ServerName<'static>, ticket: Tls13ClientSessionValue) {
        locked(&self.of_13).push_back(ticket);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.take(&self.of_13)
    }
}

/// How a handshake ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Handshake {
    /// It has not, or had before.
    Nothing,
    Full,
    Resumed,
}

/// The TLS connections of one thread.
#[derive(Debug)]
pub(super) struct Tls {
    config: Arc<ClientConfig>,
    connections: Table<Box<ClientConnection>>,
}

impl Tls {
    pub(super) fn new(shared: &Shared) -> Self {
        Self {
            config: Arc::clone(&shared.config),
            connections: Table::new(),
        }
    }

    /// A connection is there: writes what begins the handshake.
    ///
    /// # Errors
    /// When rustls has none for it.
    pub(super) fn connected(&mut self, slot: u32, out: &mut Vec<u8>) -> Result<()> {
        let name = ServerName::try_from(certificate::NAME)?;
        let mut connection = ClientConnection::new(Arc::clone(&self.config), name)?;
        connection.write_tls(out)?;
        self.connections.insert(slot, Box::new(connection));
        Ok(())
    }

    /// Reads bytes of the server: appends plaintext to `plain` and answers to `out`. Says whether the handshake is
    /// complete since these bytes.
    ///
    /// # Errors
    /// What the server did that ends the connection.
    pub(super) fn received(
        &mut self,
        slot: u32,
        mut bytes: &[u8],
        plain: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Result<Handshake> {
        let connection = self
            .connections
            .get_mut(slot)
            .context("no TLS connection")?;
        let began = connection.is_handshaking();
        while !bytes.is_empty() {
            connection.read_tls(&mut bytes)?;
            let state = connection.process_new_packets()?;
            let length = plain.len();
            plain.resize(length + state.plaintext_bytes_to_read(), 0);
            connection.reader().read_exact(&mut plain[length..])?;
        }
        while connection.wants_write() {
            connection.write_tls(out)?;
        }
        Ok(match connection.handshake_kind() {
            _ if !began || connection.is_handshaking() => Handshake::Nothing,
            Some(HandshakeKind::Resumed) => Handshake::Resumed,
            _ => Handshake::Full,
        })
    }

    /// Seals plaintext.
    pub(super) fn seal(&mut self, slot: u32, plain: &[u8], out: &mut Vec<u8>) -> Result<()> {
        let connection = self
            .connections
            .get_mut(slot)
            .context("no TLS connection")?;
        connection.writer().write_all(plain)?;
        while connection.wants_write() {
            connection.write_tls(out)?;
        }
        Ok(())
    }

    /// The connection is gone.
    pub(super) fn closed(&mut self, slot: u32) {
        self.connections.remove(slot);
    }
}
