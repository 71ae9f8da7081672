//! The files of a TLS listener that are replaced under it, and what a client that comes now is shown.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use edge_proto::packet::Version;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, IsCa,
    KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber, date_time_ymd,
};
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion, version};

use crate::stream::NAME;
use crate::wire::Wire;

/// Serial numbers on the revocation list, so that what a reload leaves behind would be seen in the memory of the node.
const REVOKED: u64 = 5_000;

/// An authority, the files that it fills, and what clients trust.
pub(super) struct Certificates {
    authority: CertifiedIssuer<'static, KeyPair>,
    folder: PathBuf,
    /// The certificate that the files have, or had before they were spoiled, in DER.
    current: Vec<u8>,
    /// Of a client with a new session each time, by version of TLS.
    fresh: [Arc<ClientConfig>; 2],
}

/// What may be wrong with files.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fault {
    /// The certificate is no certificate.
    Garbage,
    /// The key is that of another certificate.
    WrongKey,
    /// The certificate is cut off in the middle, as by a full disk.
    Cut,
}

impl Fault {
    pub(super) const ALL: [Self; 3] = [Self::Garbage, Self::WrongKey, Self::Cut];
}

impl Certificates {
    /// Makes the first ones in a folder.
    ///
    /// # Errors
    /// They cannot be made or written.
    pub(super) fn new(folder: &Path) -> io::Result<Self> {
        let mut params = CertificateParams::new(vec![]).map_err(io::Error::other)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().map_err(io::Error::other)?;
        let authority = CertifiedIssuer::self_signed(params, key).map_err(io::Error::other)?;
        fs::write(folder.join("authority.pem"), authority.pem())?;
        fs::write(folder.join("revoked.pem"), revocation_list(&authority)?)?;
        let trusting = |version| client_config(&authority, version).map(Arc::new);
        let fresh = [trusting(&version::TLS13)?, trusting(&version::TLS12)?];
        let mut certificates = Self {
            authority,
            folder: folder.to_owned(),
            current: Vec::new(),
            fresh,
        };
        certificates.renew()?;
        Ok(certificates)
    }

    /// The section of the node's configuration. Clients may show certificates, so that authorities and lists are loaded.
    pub(super) fn config(&self) -> String {
        let folder = self.folder.display();
        format!(
            "[tls]\ncertificates = [\"{folder}/chain.pem\"]\nkeys = [\"{folder}/key.pem\"]\n\
             client_certificates = \"optional\"\nclient_authorities = [\"{folder}/authority.pem\"]\n\
             revocation_lists = [\"{folder}/revoked.pem\"]\n"
        )
    }

    /// Puts a new certificate and its key into the files.
    ///
    /// # Errors
    /// They cannot be made or written.
    pub(super) fn renew(&mut self) -> io::Result<()> {
        let key = KeyPair::generate().map_err(io::Error::other)?;
        let params = CertificateParams::new(vec![NAME.to_owned()]).map_err(io::Error::other)?;
        let certificate = params
            .signed_by(&key, &self.authority)
            .map_err(io::Error::other)?;
        fs::write(self.folder.join("chain.pem"), certificate.pem())?;
        fs::write(self.folder.join("key.pem"), key.serialize_pem())?;
        self.current = certificate.der().to_vec();
        Ok(())
    }

    /// Puts something into the files that must not be taken.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn spoil(&self, fault: Fault) -> io::Result<()> {
        let chain = self.folder.join("chain.pem");
        match fault {
            Fault::Garbage => fs::write(chain, "nothing"),
            Fault::WrongKey => {
                let key = KeyPair::generate().map_err(io::Error::other)?;
                fs::write(self.folder.join("key.pem"), key.serialize_pem())
            }
            Fault::Cut => {
                let text = fs::read(&chain)?;
                fs::write(chain, &text[..text.len() / 2])
            }
        }
    }

    /// How clients connect.
    pub(super) fn client(&self) -> &Arc<ClientConfig> {
        &self.fresh[0]
    }

    /// So many clients that come now, TLS 1.3 and 1.2 in turn: how many are shown another certificate than the current one.
    ///
    /// # Errors
    /// One is not let in at all.
    pub(super) fn shown_another(&self, address: SocketAddr, count: usize) -> io::Result<usize> {
        let mut others = 0;
        for index in 0..count {
            let config = &self.fresh[index % self.fresh.len()];
            let mut wire = Wire::open_secure(address, Version::V5, config)?;
            wire.begin(&format!("newcomer-{index}"), true, 0)?;
            others += usize::from(wire.certificate() != Some(&self.current));
            wire.disconnect();
            wire.flush();
        }
        Ok(others)
    }
}

fn client_config(
    authority: &CertifiedIssuer<'static, KeyPair>,
    version: &'static SupportedProtocolVersion,
) -> io::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots
        .add(authority.der().clone())
        .map_err(io::Error::other)?;
    let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[version])
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(config)
}

fn revocation_list(authority: &CertifiedIssuer<'static, KeyPair>) -> io::Result<String> {
    let revoked = |serial: u64| RevokedCertParams {
        serial_number: SerialNumber::from(serial),
        revocation_time: date_time_ymd(2026, 2, 1),
        reason_code: None,
        invalidity_date: None,
    };
    let list = CertificateRevocationListParams {
        this_update: date_time_ymd(2026, 1, 1),
        next_update: date_time_ymd(2046, 1, 1),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: (1..=REVOKED).map(revoked).collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let list = list.signed_by(authority).map_err(io::Error::other)?;
    list.pem().map_err(io::Error::other)
}
