//! The certificate of servers that are measured over TLS: one for each kind of key, made once, trusted by our
//! clients alone.

use std::path::PathBuf;
use std::sync::OnceLock;

use anyhow::{Result, anyhow};
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256};
use rustls::pki_types::CertificateDer;

use crate::arguments::TlsKey;
use crate::cleanup::{self, Guard};

/// The name that clients ask for.
pub(crate) const NAME: &str = "localhost";

/// Where its files are.
#[derive(Debug)]
pub(crate) struct Files {
    pub(crate) chain: PathBuf,
    pub(crate) key: PathBuf,
    /// A secret for session tickets, so that they outlive a restart of the server.
    pub(crate) ticket_secret: PathBuf,
    pub(crate) trusted: CertificateDer<'static>,
    _folder: Guard,
}

/// The files, made when they are asked for first and removed when this process ends.
pub(crate) fn files(key: TlsKey) -> Result<&'static Files> {
    static ECDSA: OnceLock<Result<Files, String>> = OnceLock::new();
    static RSA: OnceLock<Result<Files, String>> = OnceLock::new();
    let files = match key {
        TlsKey::Ecdsa => &ECDSA,
        TlsKey::Rsa => &RSA,
    };
    files
        .get_or_init(|| make(key).map_err(|error| format!("no certificate can be made: {error:#}")))
        .as_ref()
        .map_err(|error| anyhow!(error.clone()))
}

fn make(key: TlsKey) -> Result<Files> {
    let (name, algorithm) = match key {
        TlsKey::Ecdsa => ("ecdsa", &PKCS_ECDSA_P256_SHA256),
        TlsKey::Rsa => ("rsa", &PKCS_RSA_SHA256),
    };
    let folder = format!("roadstead-bench-{}-tls-{name}", std::process::id());
    let folder = std::env::temp_dir().join(folder);
    std::fs::create_dir_all(&folder)?;
    let guard = cleanup::remove_at_end(folder.clone());
    let key = KeyPair::generate_for(algorithm)?;
    let certificate = CertificateParams::new(vec![NAME.to_owned()])?.self_signed(&key)?;
    let files = Files {
        chain: folder.join("tls.crt"),
        key: folder.join("tls.key"),
        ticket_secret: folder.join("tickets"),
        trusted: certificate.der().clone(),
        _folder: guard,
    };
    std::fs::write(&files.chain, certificate.pem())?;
    std::fs::write(&files.key, key.serialize_pem())?;
    std::fs::write(&files.ticket_secret, KeyPair::generate()?.serialize_pem())?;
    Ok(files)
}
