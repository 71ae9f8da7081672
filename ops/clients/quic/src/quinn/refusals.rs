//! Clients that must not get in. The server asks for a certificate. It has two of its own: as `localhost` a good one, and for
//! whoever asks for no name one that has expired.

use anyhow::{Result, ensure};
use quic_conversations::{Arguments, Scenario, Tls, within};

use crate::endpoint::{MQTT, endpoint};
use crate::staying::{address, welcome};

/// The first two leave by themselves; the others are told by an alert of TLS, whose number is in the error. The last one is
/// let in: the server is unharmed.
pub(crate) const SCENARIOS: &[Scenario<Arguments>] = &[
    ("server-of-another-authority", |talk| {
        let client = ("localhost", "stranger", "client", MQTT);
        Box::pin(refused(talk, client, "UnknownIssuer"))
    }),
    ("server-expired", |talk| {
        let client = ("127.0.0.1", "authority", "client", MQTT);
        Box::pin(refused(talk, client, "certificate expired"))
    }),
    ("client-without-certificate", |talk| {
        let client = ("localhost", "authority", "", MQTT);
        Box::pin(refused(talk, client, "error 116"))
    }),
    ("client-of-another-authority", |talk| {
        let client = ("localhost", "authority", "strange-client", MQTT);
        Box::pin(refused(talk, client, "error 48"))
    }),
    ("client-expired", |talk| {
        let client = ("localhost", "authority", "expired-client", MQTT);
        Box::pin(refused(talk, client, "error 45"))
    }),
    ("client-revoked", |talk| {
        let client = ("localhost", "authority", "revoked-client", MQTT);
        Box::pin(refused(talk, client, "error 44"))
    }),
    ("another-protocol", |talk| {
        let client = ("localhost", "authority", "client", b"h3".as_slice());
        Box::pin(refused(talk, client, "error 120"))
    }),
    ("no-protocol", |talk| {
        let client = ("localhost", "authority", "client", b"".as_slice());
        Box::pin(refused(talk, client, "error 120"))
    }),
    ("welcome", |talk| Box::pin(welcome(talk))),
];

/// A client asks for a server's name, trusts an authority, shows a certificate and offers a protocol, the last two unless they
/// are empty. It has to say `says`.
async fn refused(
    talk: &Arguments,
    (name, authority, certificate, protocol): (&str, &str, &str, &[u8]),
    says: &str,
) -> Result<()> {
    let tls = Tls {
        authority: authority.to_owned(),
        certificate: Some(certificate.to_owned()).filter(|name| !name.is_empty()),
        ..talk.tls.clone()
    };
    let protocols = [protocol];
    let offered = protocols.iter().filter(|it| !it.is_empty());
    let endpoint = endpoint(&tls, &offered.copied().collect::<Vec<_>>())?;
    let connecting = endpoint.connect(address(talk), name)?;
    let said = match within("the handshake", connecting).await? {
        // What the server thinks of a client's certificate comes when the client believes itself connected.
        Ok(connection) => within("a refusal", connection.closed()).await?.to_string(),
        Err(error) => error.to_string(),
    };
    ensure!(
        said.contains(says),
        "the client does not say “{says}”, but: {said}"
    );
    Ok(())
}
