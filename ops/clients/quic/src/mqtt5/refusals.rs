//! Clients that must not get in. The server asks for a certificate. What it says against theirs comes when the client believes
//! itself connected already, and mqtt5 hands it on or not, by chance: the server's log has to have it.

use anyhow::{Result, bail, ensure};
use quic_conversations::{Scenario, Tls};

use crate::peer::{Options, Peer, Talk};
use crate::scenarios;

/// What mqtt5 says when it does not say why.
const LOST: &str = "QUIC read error: connection lost";

/// The first leaves by itself; the others are told by an alert of TLS. The last one is let in: the server is unharmed.
pub(crate) const SCENARIOS: &[Scenario<Talk>] = &[
    ("server-of-another-authority", |talk| {
        Box::pin(refused(talk, "stranger", "client", "UnknownIssuer"))
    }),
    ("client-without-certificate", |talk| {
        Box::pin(refused(talk, "authority", "", "error 116"))
    }),
    ("client-of-another-authority", |talk| {
        Box::pin(refused(talk, "authority", "strange-client", "error 48"))
    }),
    ("client-expired", |talk| {
        Box::pin(refused(talk, "authority", "expired-client", "error 45"))
    }),
    ("client-revoked", |talk| {
        Box::pin(refused(talk, "authority", "revoked-client", "error 44"))
    }),
    ("welcome", |talk| Box::pin(scenarios::qos_each_way(talk))),
];

/// A client that shows no certificate when that is empty, and has to say `says`, or nothing beyond its being refused.
async fn refused(talk: &Talk, authority: &str, certificate: &str, says: &str) -> Result<()> {
    let client = Talk {
        tls: Tls {
            authority: authority.to_owned(),
            certificate: Some(certificate.to_owned()).filter(|name| !name.is_empty()),
            ..talk.tls.clone()
        },
        ..talk.clone()
    };
    match Peer::connect(&client, "refused", Options::default()).await {
        Ok(_peer) => bail!("the client was let in"),
        Err(error) => {
            let said = format!("{error:#}");
            ensure!(
                said.contains(says) || authority == talk.tls.authority && said.contains(LOST),
                "the client does not say “{says}”, but: {said}"
            );
            Ok(())
        }
    }
}
