//! TLS of the clients of one thread: rustls' own connections, by slot of the driver.

use std::collections::VecDeque;
use std::io::{Read as _, Write as _};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use reactor::slab::Table;
use rustls::client::{
    ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue,
};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, NamedGroup, RootCertStore};

use crate::certificate;

/// What the clients of all threads have in common.
///
/// # Errors
/// When the certificate is none that can be trusted.
pub(super) fn config(
    trusted: &CertificateDer<'static>,
    resumes: bool,
) -> Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone())?;
    let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = if resumes {
        Resumption::store(Arc::new(Tickets::default()))
    } else {
        Resumption::disabled()
    };
    Ok(Arc::new(config))
}

/// All tickets of one server, each to be used once: rustls' own store keeps a few of each server.
#[derive(Debug, Default)]
struct Tickets {
    of_13: Mutex<VecDeque<Tls13ClientSessionValue>>,
}

impl ClientSessionStore for Tickets {
    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }

    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, _: ServerName<'static>, ticket: Tls13ClientSessionValue) {
        let mut tickets = self.of_13.lock().unwrap_or_else(PoisonError::into_inner);
        tickets.push_back(ticket);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        let mut tickets = self.of_13.lock().unwrap_or_else(PoisonError::into_inner);
        tickets.pop_front()
    }
}

/// The TLS connections of one thread.
#[derive(Debug)]
pub(super) struct Tls {
    config: Arc<ClientConfig>,
    connections: Table<Box<ClientConnection>>,
}

impl Tls {
    pub(super) const fn new(config: Arc<ClientConfig>) -> Self {
        Self {
            config,
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

    /// Reads bytes of the server: appends plaintext to `plain` and answers to `out`. True when the handshake is complete since
    /// these bytes.
    ///
    /// # Errors
    /// What the server did that ends the connection.
    pub(super) fn received(
        &mut self,
        slot: u32,
        mut bytes: &[u8],
        plain: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Result<bool> {
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
        Ok(began && !connection.is_handshaking())
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
