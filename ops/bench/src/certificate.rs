//! The certificate of servers that are measured over TLS: made once, ECDSA P-256, trusted by our clients alone.

use std::path::PathBuf;
use std::sync::OnceLock;

use anyhow::{Result, anyhow};
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::CertificateDer;

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
pub(crate) fn files() -> Result<&'static Files> {
    static FILES: OnceLock<Result<Files, String>> = OnceLock::new();
    FILES
        .get_or_init(|| make().map_err(|error| format!("no certificate can be made: {error:#}")))
        .as_ref()
        .map_err(|error| anyhow!(error.clone()))
}

fn make() -> Result<Files> {
    let folder = std::env::temp_dir().join(format!("roadstead-bench-{}-tls", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let guard = cleanup::remove_at_end(folder.clone());
    let key = KeyPair::generate()?;
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
