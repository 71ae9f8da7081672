//! An authority, the server's certificate, and what clients are configured with.

use std::sync::Arc;

use gateway::tls::{
    Certificate, ClientCertificates, ClientTrust, ClusterSecret, PemFile, Settings, Versions,
};
use quinn_proto::TransportConfig;
use quinn_proto::crypto::rustls::QuicClientConfig;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, version};

/// An authority and what it signs.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(vec![]).expect("no names are fine");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key can be made");
        Self(CertifiedIssuer::self_signed(params, key).expect("it signs itself"))
    }

    fn signed(&self, name: &str) -> (rcgen::Certificate, KeyPair) {
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("it is a name");
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key can be made");
        (params.signed_by(&key, &self.0).expect("it signs"), key)
    }

    pub(crate) fn trust(&self) -> ClientTrust {
        ClientTrust {
            authorities: vec![file("clients.pem", self.0.pem())],
            revocation_lists: vec![],
        }
    }

    pub(crate) fn settings(&self) -> Settings {
        let (certificate, key) = self.signed("localhost");
        Settings {
            certificates: vec![Certificate {
                chain: file("server.pem", certificate.pem()),
                key: file("server.key", key.serialize_pem()),
            }],
            client_certificates: ClientCertificates::None,
            application_protocols: vec![b"mqtt".to_vec()],
            versions: Versions::From12,
            ticket_secrets: vec![ClusterSecret([7; 32])],
            ticket_epoch_s: 3600,
        }
    }

    /// What a client is configured with; it has a certificate if it has a name.
    pub(crate) fn client_config(
        &self,
        protocol: &[u8],
        name: Option<&str>,
    ) -> quinn_proto::ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).expect("it is an authority");
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[&version::TLS13])
            .expect("the provider has it")
            .with_root_certificates(roots);
        let mut config = match name {
            None => config.with_no_client_auth(),
            Some(name) => {
                let (certificate, key) = self.signed(name);
                let chain: Vec<CertificateDer<'static>> = vec![certificate.der().clone()];
                let key = PrivateKeyDer::try_from(key.serialize_der()).expect("it is a key");
                config.with_client_auth_cert(chain, key).expect("they fit")
            }
        };
        config.alpn_protocols = vec![protocol.to_vec()];
        config.enable_early_data = true;
        let config = QuicClientConfig::try_from(config).expect("it does for QUIC");
        let mut config = quinn_proto::ClientConfig::new(Arc::new(config));
        let mut transport = TransportConfig::default();
        transport.max_idle_timeout(None);
        config.transport_config(Arc::new(transport));
        config
    }
}

fn file(name: &str, text: String) -> PemFile {
    PemFile {
        name: name.to_owned(),
        text: text.into_bytes(),
    }
}
