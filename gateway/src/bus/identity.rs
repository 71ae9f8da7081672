//! Who a node is on the bus. Its certificate is made when the process starts, by an authority that follows from the cluster's key, so
//! that an operator has one secret to keep and none to sign:
//!
//! ```text
//! key of the cluster ─HKDF─▶ Ed25519 key of an authority ─signs─▶ certificate of this run, for `<uid>.node.roadstead.internal`
//! ```
//!
//! Both sides of a connection show theirs, in TLS 1.3. Who dials accepts the node it looks for and no other; who listens learns the uid
//! from the certificate. A certificate does not expire: it lives in one process, and falls with the key that its authority follows from.

use std::sync::Arc;

use aws_lc_rs::signature::Ed25519KeyPair;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, PKCS_ED25519,
};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{CipherSuite, ClientConfig, RootCertStore, ServerConfig};

use super::keys::{ClusterKey, KeyRing};
use crate::tls;

/// The application protocol of the bus. A version that could not be negotiated in HELLO would have another.
pub const APPLICATION_PROTOCOL: &[u8] = b"roadstead-bus/1";
/// What the names in certificates end with.
const NAME_END: &str = ".node.roadstead.internal";
/// What the authority's key is derived for.
const PURPOSE: &str = "authority of bus certificates, Ed25519 seed";

/// What cannot be made of good keys: a fault of the machine or of ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the certificate of this node for the bus cannot be made ({0}): start the node again, and report it if that does not help"
)]
pub struct IssueError(String);

impl IssueError {
    fn new(error: impl std::fmt::Display) -> Self {
        Self(error.to_string())
    }
}

/// What a node shows on the bus and what it accepts there. When the keys change another one is made: new connections take it.
#[derive(Clone, Debug)]
pub struct Identity {
    uid: u64,
    /// The certificates of the authorities whose nodes are accepted.
    authorities: Vec<CertificateDer<'static>>,
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

impl Identity {
    /// Makes the certificate of node `uid`.
    ///
    /// # Errors
    /// Only what no operator can mend.
    pub fn issue(keys: &KeyRing, uid: u64) -> Result<Self, IssueError> {
        let provider = Arc::new(provider());
        let mut roots = RootCertStore::empty();
        let mut authorities = Vec::new();
        for key in keys.all() {
            let authority = authority(key)?.der().clone();
            roots.add(authority.clone()).map_err(IssueError::new)?;
            authorities.push(authority);
        }
        let roots = Arc::new(roots);
        let (chain, key) = certificate(&authority(keys.first())?, uid)?;
        let client = client(&provider, &roots, chain.clone(), key.clone_key())?;
        let server = server(&provider, &roots, chain, key)?;
        Ok(Self {
            uid,
            authorities,
            client: Arc::new(client),
            server: Arc::new(server),
        })
    }

    /// The node that it is for.
    pub const fn uid(&self) -> u64 {
        self.uid
    }

    /// True exactly when every node that `before` accepts is accepted still.
    pub(crate) fn is_as_wide_as(&self, before: &Self) -> bool {
        let accepts = |authority| self.authorities.contains(authority);
        before.authorities.iter().all(accepts)
    }

    /// For connections that this node dials.
    pub(super) const fn client(&self) -> &Arc<ClientConfig> {
        &self.client
    }

    /// For connections that this node accepts.
    pub(super) const fn server(&self) -> &Arc<ServerConfig> {
        &self.server
    }
}

/// The name of a node as TLS asks for it.
pub(super) fn server_name(uid: u64) -> ServerName<'static> {
    ServerName::try_from(name(uid)).expect("digits and letters are a name")
}

/// The node that a verified certificate was issued for.
pub(super) fn uid_of(certificate: &CertificateDer<'_>) -> Option<u64> {
    let names = tls::Identity::from_der(certificate).ok()?.dns_names;
    let [name] = &names[..] else {
        return None;
    };
    let digits = name.strip_suffix(NAME_END)?;
    let uid = u64::from_str_radix(digits, 16).ok()?;
    // One node has one name.
    (self::name(uid) == *name).then_some(uid)
}

fn name(uid: u64) -> String {
    format!("{uid:016x}{NAME_END}")
}

/// The authority that follows from a key of the cluster: the same on every node.
fn authority(key: &ClusterKey) -> Result<CertifiedIssuer<'static, KeyPair>, IssueError> {
    let seed = key.derive(PURPOSE);
    let pair = Ed25519KeyPair::from_seed_unchecked(&*seed).map_err(IssueError::new)?;
    let document = pair.to_pkcs8v1().map_err(IssueError::new)?;
    let document = PrivatePkcs8KeyDer::from(document.as_ref());
    let pair = KeyPair::from_pkcs8_der_and_sign_algo(&document, &PKCS_ED25519);
    let pair = pair.map_err(IssueError::new)?;
    let mut params = CertificateParams::default();
    let names = &mut params.distinguished_name;
    names.push(DnType::CommonName, "authority of a Roadstead cluster");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    CertifiedIssuer::self_signed(params, pair).map_err(IssueError::new)
}

type Certified = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// A certificate for a node with a new key, that leaves this process only as a signature.
fn certificate(
    authority: &CertifiedIssuer<'static, KeyPair>,
    uid: u64,
) -> Result<Certified, IssueError> {
    let pair = KeyPair::generate_for(&PKCS_ED25519).map_err(IssueError::new)?;
    let mut params = CertificateParams::new(vec![name(uid)]).map_err(IssueError::new)?;
    let names = &mut params.distinguished_name;
    names.push(DnType::CommonName, "node of a Roadstead cluster");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ClientAuth,
        ExtendedKeyUsagePurpose::ServerAuth,
    ];
    let certificate = params
        .signed_by(&pair, authority)
        .map_err(IssueError::new)?;
    let key = PrivatePkcs8KeyDer::from(pair.serialize_der());
    Ok((vec![certificate.der().clone()], key.into()))
}

/// AES-128 first, as for clients, and nothing but TLS 1.3.
fn provider() -> CryptoProvider {
    let mut provider = default_provider();
    provider
        .cipher_suites
        .retain(|suite| suite.tls13().is_some());
    let is_other = |suite| suite != CipherSuite::TLS13_AES_128_GCM_SHA256;
    provider
        .cipher_suites
        .sort_by_key(|suite| is_other(suite.suite()));
    provider
}

fn client(
    provider: &Arc<CryptoProvider>,
    roots: &Arc<RootCertStore>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ClientConfig, IssueError> {
    let verifier = WebPkiServerVerifier::builder_with_provider(roots.clone(), provider.clone());
    let verifier = verifier.build().map_err(IssueError::new)?;
    let mut config = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS13])
        .map_err(IssueError::new)?
        .with_webpki_verifier(verifier)
        .with_client_auth_cert(chain, key)
        .map_err(IssueError::new)?;
    config.alpn_protocols = vec![APPLICATION_PROTOCOL.to_vec()];
    // Every connection shows certificates, so that a key that was taken out opens none.
    config.resumption = Resumption::disabled();
    Ok(config)
}

fn server(
    provider: &Arc<CryptoProvider>,
    roots: &Arc<RootCertStore>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ServerConfig, IssueError> {
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone());
    let verifier = verifier.build().map_err(IssueError::new)?;
    let mut config = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS13])
        .map_err(IssueError::new)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(IssueError::new)?;
    config.alpn_protocols = vec![APPLICATION_PROTOCOL.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(config)
}
