//! What accepts TLS on a listener, made from its settings once and shared by all cores. A reload makes another one:
//! new handshakes take it, sessions and handshakes under way keep what they have.

use std::sync::Arc;

use aws_lc_rs::digest;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{CipherSuite, RootCertStore, ServerConfig, version};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::identity::Identity;
use super::resolver::ByName;
use super::secrets::Capture;
use super::settings::{
    Certificate, ClientCertificates, ClientTrust, PemFile, Settings, SettingsError, Versions,
};
use super::tickets::{CoreClock, TicketKeys, Tickets};

/// A certificate of this server, for logs, metrics and alerts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerCertificate {
    /// The file it came from.
    pub file: String,
    /// The names it is for.
    pub names: Vec<String>,
    /// When it ends, in seconds of Unix time.
    pub not_after_unix_s: i64,
}

/// What accepts TLS on a listener.
pub struct Acceptor {
    config: ServerConfig,
    verifier: Arc<dyn ClientCertVerifier>,
    ticket_keys: TicketKeys,
    certificates: Vec<ServerCertificate>,
}

impl Acceptor {
    /// Makes one from settings.
    ///
    /// # Errors
    /// The first thing that is wrong with the settings.
    pub fn new(settings: &Settings) -> Result<Self, SettingsError> {
        Self::with(settings, provider())
    }

    /// Makes one for the TLS within QUIC: with the packet keys of [`crate::quic`], and TLS 1.3 alone, whatever the settings say.
    ///
    /// # Errors
    /// As [`Acceptor::new`].
    pub fn for_quic(settings: &Settings) -> Result<Self, SettingsError> {
        let settings = Settings {
            versions: Versions::Only13,
            ..settings.clone()
        };
        Self::with(&settings, crate::quic::provider())
    }

    fn with(settings: &Settings, provider: CryptoProvider) -> Result<Self, SettingsError> {
        let provider = Arc::new(provider);
        let mut by_name = ByName::default();
        let mut certificates = Vec::new();
        for certificate in &settings.certificates {
            let (key, facts) = certified_key(&provider, certificate)?;
            by_name.insert(&facts.names, &Arc::new(key));
            certificates.push(facts);
        }
        if certificates.is_empty() {
            return Err(SettingsError::NoCertificate);
        }
        let (verifier, policy) = verifier(&provider, &settings.client_certificates)?;
        let versions = match settings.versions {
            Versions::Only13 => &[&version::TLS13][..],
            Versions::From12 => &[&version::TLS13, &version::TLS12],
        };
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .map_err(|error| SettingsError::Unsupported {
                detail: error.to_string(),
            })?
            .with_client_cert_verifier(verifier.clone())
            .with_cert_resolver(Arc::new(by_name));
        config
            .alpn_protocols
            .clone_from(&settings.application_protocols);
        config.ignore_client_order = true; // See `provider`.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.enable_secret_extraction = true;
        config.send_tls13_tickets = usize::from(!settings.ticket_secrets.is_empty());
        config.max_early_data_size = 0; // What is replayed must not be acted on.
        let secrets = settings.ticket_secrets.iter().map(|secret| &secret.0);
        Ok(Self {
            config,
            verifier,
            ticket_keys: TicketKeys::new(secrets, &policy, settings.ticket_epoch_s),
            certificates,
        })
    }

    /// The certificates of this server.
    #[must_use]
    pub fn certificates(&self) -> &[ServerCertificate] {
        &self.certificates
    }

    /// What rustls needs on one core: with its clock, its tickets and its capture, so that cores share nothing that changes.
    pub(crate) fn config(
        &self,
        clock: &Arc<CoreClock>,
        capture: Option<&Arc<Capture>>,
    ) -> ServerConfig {
        let mut config = self.config.clone();
        config.time_provider = clock.clone();
        config.ticketer = Arc::new(Tickets::new(self.ticket_keys.clone(), clock.clone()));
        if let Some(capture) = capture {
            config.key_log = Arc::clone(capture) as Arc<_>;
        }
        config
    }

    /// Looks at the certificates of a resumed session again: they may be expired or revoked by now, which rustls does not ask.
    pub(crate) fn verify_again(
        &self,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let Some((end_entity, intermediates)) = chain.split_first() else {
            return Ok(());
        };
        self.verifier
            .verify_client_cert(end_entity, intermediates, now)
            .map(|_| ())
    }
}

impl std::fmt::Debug for Acceptor {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Acceptor")
            .field("certificates", &self.certificates)
            .finish_non_exhaustive()
    }
}

/// aws-lc-rs, which prefers AES-128 here: it protects as long as anybody can foresee, and its suites derive keys with SHA-256,
/// which processors have instructions for. The client's order counts for nothing: all suites are good, and auditors want the choice
/// to be the server's.
fn provider() -> CryptoProvider {
    let mut provider = default_provider();
    provider.cipher_suites.sort_by_key(|suite| {
        !matches!(
            suite.suite(),
            CipherSuite::TLS13_AES_128_GCM_SHA256
                | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
                | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
        )
    });
    provider
}

fn pem_error(file: &PemFile, error: &PemError) -> SettingsError {
    SettingsError::Pem {
        file: file.name.clone(),
        detail: error.to_string(),
    }
}

/// All certificates of a file; at least one.
fn certificates_of(file: &PemFile) -> Result<Vec<CertificateDer<'static>>, SettingsError> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(&file.text)
        .collect::<Result<_, _>>()
        .map_err(|error| pem_error(file, &error))?;
    if found.is_empty() {
        return Err(SettingsError::Nothing {
            file: file.name.clone(),
            wanted: "certificate",
            remedy: "a file of certificates has BEGIN CERTIFICATE lines; certificate and key may be in the wrong order",
        });
    }
    Ok(found)
}

fn certified_key(
    provider: &CryptoProvider,
    files: &Certificate,
) -> Result<(CertifiedKey, ServerCertificate), SettingsError> {
    let chain = certificates_of(&files.chain)?;
    let facts = facts(&files.chain, &chain[0])?;
    let key = PrivateKeyDer::from_pem_slice(&files.key.text).map_err(|error| match error {
        PemError::NoItemsFound => SettingsError::Nothing {
            file: files.key.name.clone(),
            wanted: "private key",
            remedy: "a key has a BEGIN PRIVATE KEY line; `openssl pkey -in FILE` decrypts one that is encrypted",
        },
        error => pem_error(&files.key, &error),
    })?;
    let key = provider.key_provider.load_private_key(key);
    let key = key.map_err(|error| SettingsError::Key {
        file: files.key.name.clone(),
        detail: error.to_string(),
    })?;
    let certified = CertifiedKey::new(chain, key);
    match certified.keys_match() {
        // A key that does not tell its public half cannot be compared; the handshake will show.
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {
            Ok((certified, facts))
        }
        Err(rustls::Error::InconsistentKeys(_)) => Err(SettingsError::Mismatch {
            key: files.key.name.clone(),
            chain: files.chain.name.clone(),
        }),
        Err(error) => Err(unusable(&files.chain, &error)),
    }
}

fn unusable(file: &PemFile, error: &dyn std::fmt::Display) -> SettingsError {
    SettingsError::Certificate {
        file: file.name.clone(),
        detail: error.to_string(),
    }
}

fn facts(
    file: &PemFile,
    certificate: &CertificateDer<'_>,
) -> Result<ServerCertificate, SettingsError> {
    let (_, parsed) =
        X509Certificate::from_der(certificate).map_err(|error| unusable(file, &error))?;
    let identity = Identity::from_der(certificate).map_err(|error| unusable(file, &error))?;
    Ok(ServerCertificate {
        file: file.name.clone(),
        names: identity.dns_names,
        not_after_unix_s: parsed.validity().not_after.timestamp(),
    })
}

/// Who verifies client certificates, and what tells this policy from others in tickets.
fn verifier(
    provider: &Arc<CryptoProvider>,
    clients: &ClientCertificates,
) -> Result<(Arc<dyn ClientCertVerifier>, Vec<u8>), SettingsError> {
    let (trust, is_required) = match clients {
        ClientCertificates::None => return Ok((WebPkiClientVerifier::no_client_auth(), vec![0])),
        ClientCertificates::Optional(trust) => (trust, false),
        ClientCertificates::Required(trust) => (trust, true),
    };
    let mut policy = digest::Context::new(&digest::SHA256);
    let mut roots = RootCertStore::empty();
    for file in &trust.authorities {
        for certificate in certificates_of(file)? {
            policy.update(digest::digest(&digest::SHA256, &certificate).as_ref());
            roots
                .add(certificate)
                .map_err(|error| unusable(file, &error))?;
        }
    }
    if roots.is_empty() {
        return Err(SettingsError::NoAuthority);
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .with_crls(revocation_lists(trust)?)
        .allow_unknown_revocation_status();
    let builder = if is_required {
        builder
    } else {
        builder.allow_unauthenticated()
    };
    let verifier = builder
        .build()
        .map_err(|error| SettingsError::RevocationList {
            file: names_of(&trust.revocation_lists),
            detail: error.to_string(),
        })?;
    let mut name = vec![if is_required { 2 } else { 1 }];
    name.extend_from_slice(policy.finish().as_ref());
    Ok((verifier, name))
}

fn names_of(files: &[PemFile]) -> String {
    let names: Vec<_> = files.iter().map(|file| file.name.as_str()).collect();
    names.join(", ")
}

fn revocation_lists(
    trust: &ClientTrust,
) -> Result<Vec<CertificateRevocationListDer<'static>>, SettingsError> {
    let mut lists = Vec::new();
    for file in &trust.revocation_lists {
        let before = lists.len();
        for list in CertificateRevocationListDer::pem_slice_iter(&file.text) {
            lists.push(list.map_err(|error| pem_error(file, &error))?);
        }
        if lists.len() == before {
            return Err(SettingsError::Nothing {
                file: file.name.clone(),
                wanted: "revocation list",
                remedy: "a list has a BEGIN X509 CRL line; `openssl crl -inform DER -in FILE` makes one from a binary file",
            });
        }
    }
    Ok(lists)
}
