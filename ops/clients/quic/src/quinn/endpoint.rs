//! Endpoints of clients: what they trust, show and offer.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use quic_conversations::Tls;
use quinn::Endpoint;
use quinn::crypto::rustls::QuicClientConfig;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, version};

/// What the server speaks.
pub(crate) const MQTT: &[u8] = b"mqtt";

/// Any port, at whatever address the machine has when a datagram leaves.
const ANYWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// An endpoint whose connections offer these protocols.
pub(crate) fn endpoint(tls: &Tls, protocols: &[&[u8]]) -> Result<Endpoint> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(
        tls.file(&tls.authority, "pem"),
    )?)?;
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&version::TLS13])?
        .with_root_certificates(roots);
    let mut config = match &tls.certificate {
        Some(name) => {
            let certificates = CertificateDer::pem_file_iter(tls.file(name, "pem"))?;
            let key = PrivateKeyDer::from_pem_file(tls.file(name, "key"))?;
            builder.with_client_auth_cert(certificates.collect::<Result<_, _>>()?, key)?
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = protocols.iter().map(|it| it.to_vec()).collect();
    let config = Arc::new(QuicClientConfig::try_from(config)?);
    let mut endpoint = Endpoint::client(ANYWHERE).context("cannot open a socket")?;
    endpoint.set_default_client_config(quinn::ClientConfig::new(config));
    Ok(endpoint)
}

/// Goes on from another port.
pub(crate) fn change_port(endpoint: &Endpoint) -> Result<()> {
    let before = endpoint.local_addr()?;
    let socket = UdpSocket::bind(ANYWHERE).context("cannot open a socket")?;
    endpoint.rebind(socket)?;
    anyhow::ensure!(before != endpoint.local_addr()?, "the port is the same");
    Ok(())
}
