//! What an operator chooses for a TLS listener, as texts and numbers; [`Acceptor`](super::Acceptor) makes something
//! that works of it, or says in one sentence what is wrong and what to do.

use std::fmt;
use std::io;

use zeroize::Zeroize;

/// A PEM file: its name for messages, and its text.
#[derive(Clone, PartialEq, Eq)]
pub struct PemFile {
    /// Where it came from.
    pub name: String,
    /// What is in it.
    pub text: Vec<u8>,
}

impl PemFile {
    /// Reads a file.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(path: &str) -> Result<Self, SettingsError> {
        match std::fs::read(path) {
            Ok(text) => Ok(Self {
                name: path.to_owned(),
                text,
            }),
            Err(error) => Err(SettingsError::unreadable(path, &error)),
        }
    }
}

impl fmt::Debug for PemFile {
    /// A private key is in some of them.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("PemFile").field(&self.name).finish()
    }
}

/// A certificate of this server with its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The certificate, and behind it those that lead to its root.
    pub chain: PemFile,
    /// Its private key: PKCS #8, PKCS #1 or SEC 1, not encrypted.
    pub key: PemFile,
}

/// Whose client certificates are accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientTrust {
    /// Certificates of authorities.
    pub authorities: Vec<PemFile>,
    /// Revocation lists. A list speaks for its issuer alone; issuers without one revoke nothing. A list past its next update
    /// still revokes what is on it.
    pub revocation_lists: Vec<PemFile>,
}

/// Whether clients show certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientCertificates {
    /// They are not asked.
    None,
    /// Those that show one are identified by it; one that is not accepted ends the handshake.
    Optional(ClientTrust),
    /// Those that show none are refused.
    Required(ClientTrust),
}

/// Which versions are spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Versions {
    /// TLS 1.3 alone.
    Only13,
    /// TLS 1.3, and TLS 1.2 for those that have no other.
    From12,
}

/// A secret that all nodes of a cluster share. Wiped when dropped, and never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct ClusterSecret(pub [u8; 32]);

impl fmt::Debug for ClusterSecret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("ClusterSecret(…)")
    }
}

impl Drop for ClusterSecret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// Everything about a TLS listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// At least one. A client gets the first that is for the name it asks for and that it can verify; without a name, or for a
    /// name that no certificate has, the first of all.
    pub certificates: Vec<Certificate>,
    /// Whether clients show certificates.
    pub client_certificates: ClientCertificates,
    /// Application protocols, preferred first. A client that offers some, and none of these, is refused; one that offers
    /// none is not asked.
    pub application_protocols: Vec<Vec<u8>>,
    /// Which versions are spoken.
    pub versions: Versions,
    /// What tickets are made from: the first one seals, all of them open. None: no tickets, no resumption.
    pub ticket_secrets: Vec<ClusterSecret>,
    /// How long a ticket key is in use, in seconds; tickets are accepted for once to twice as long.
    pub ticket_epoch_s: u32,
}

/// What is wrong with settings: always the operator's to mend.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// The file is not there, or belongs to somebody else.
    #[error("{file}: {detail}; name an existing file that the node may read")]
    Unreadable {
        /// Which file.
        file: String,
        /// What the system said.
        detail: String,
    },
    /// The file is not PEM, or was cut.
    #[error(
        "{file}: not valid PEM: {detail}; it must be a text with BEGIN and END lines, copied whole"
    )]
    Pem {
        /// Which file.
        file: String,
        /// What the parser said.
        detail: String,
    },
    /// The file is PEM and has something else in it.
    #[error("{file}: no {wanted} in it; {remedy}")]
    Nothing {
        /// Which file.
        file: String,
        /// What was looked for.
        wanted: &'static str,
        /// How to get it.
        remedy: &'static str,
    },
    /// A certificate that cannot be used.
    #[error("{file}: unusable certificate: {detail}; have it issued again (X.509 version 3)")]
    Certificate {
        /// Which file.
        file: String,
        /// What is wrong with it.
        detail: String,
    },
    /// A key of a kind that TLS does not use here.
    #[error(
        "{file}: unusable private key: {detail}; use ECDSA P-256 or P-384, Ed25519, or RSA of 2048 bits or more"
    )]
    Key {
        /// Which file.
        file: String,
        /// What is wrong with it.
        detail: String,
    },
    /// Two files that do not belong together.
    #[error(
        "{key}: not the key of the certificate in {chain}; name the key that the certificate was requested with"
    )]
    Mismatch {
        /// The key.
        key: String,
        /// The certificate.
        chain: String,
    },
    /// A revocation list that cannot be used.
    #[error(
        "{file}: unusable revocation list: {detail}; fetch it again from the authority that signs it"
    )]
    RevocationList {
        /// Which file, or all of them.
        file: String,
        /// What is wrong with it.
        detail: String,
    },
    /// A listener without a certificate.
    #[error("a TLS listener without a certificate; give it a certificate file and a key file")]
    NoCertificate,
    /// Client certificates that nobody could verify.
    #[error(
        "client certificates without an authority; name the file with the certificate of the authority that signs them"
    )]
    NoAuthority,
    /// Something that rustls does not do.
    #[error("these settings do not work together: {detail}; use the defaults for versions")]
    Unsupported {
        /// What rustls said.
        detail: String,
    },
}

impl SettingsError {
    pub(super) fn unreadable(file: &str, error: &io::Error) -> Self {
        Self::Unreadable {
            file: file.to_owned(),
            detail: error.to_string(),
        }
    }
}
