//! Clients that must not get in, and what they say when they fail. The server asks for a certificate; it has two of its own:
//! as `localhost` a good one, and as 127.0.0.1 one that has expired.

use anyhow::{Context as _, Result, bail, ensure};

use crate::Scenario;
use crate::peer::{Options, Peer, Talk, Tls};
use crate::scenarios;

/// The first two leave by themselves; the others are told by an alert. The last one is let in: the server is unharmed.
pub(crate) const SCENARIOS: &[Scenario] = &[
    ("server-of-another-authority", |talk| {
        Box::pin(refused(
            talk,
            "localhost",
            "stranger",
            "client",
            "UnknownIssuer",
        ))
    }),
    ("server-expired", |talk| {
        Box::pin(refused(
            talk,
            "127.0.0.1",
            "authority",
            "client",
            "certificate expired",
        ))
    }),
    ("client-without-certificate", |talk| {
        Box::pin(refused(
            talk,
            "localhost",
            "authority",
            "",
            "CertificateRequired",
        ))
    }),
    ("client-of-another-authority", |talk| {
        Box::pin(refused(
            talk,
            "localhost",
            "authority",
            "strange-client",
            "UnknownCA",
        ))
    }),
    ("client-expired", |talk| {
        Box::pin(refused(
            talk,
            "localhost",
            "authority",
            "expired-client",
            "CertificateExpired",
        ))
    }),
    ("client-revoked", |talk| {
        Box::pin(refused(
            talk,
            "localhost",
            "authority",
            "revoked-client",
            "CertificateRevoked",
        ))
    }),
    ("welcome", |talk| Box::pin(scenarios::qos_each_way(talk))),
];

/// A client that shows no certificate when that is empty, and has to say `says`.
async fn refused(
    talk: &Talk,
    host: &str,
    authority: &str,
    certificate: &str,
    says: &str,
) -> Result<()> {
    let tls = talk.tls.clone().context("refusals are over TLS")?;
    let tls = Tls {
        authority: authority.to_owned(),
        certificate: Some(certificate.to_owned()).filter(|name| !name.is_empty()),
        ..tls
    };
    let talk = Talk {
        host: host.to_owned(),
        tls: Some(tls),
        ..talk.clone()
    };
    match Peer::connect(&talk, "refused", Options::default()).await {
        Ok(_peer) => bail!("the client was let in"),
        Err(error) => {
            let said = error.to_string();
            ensure!(
                said.contains(says),
                "the client does not say “{says}”, but: {said}"
            );
            Ok(())
        }
    }
}
