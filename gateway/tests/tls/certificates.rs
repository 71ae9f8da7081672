//! Which certificate a client is shown, and whose certificates are accepted.

use gateway::limits::TlsLimits;
use gateway::tls::{Alert, ClientCertificates, Failure, Identity, Reason, Settings};
use rustls::SupportedProtocolVersion;

use crate::world::{Authority, BOTH, Client, Key, Server, UNIX_MS};

const VALID: (i32, u8, u8) = (2035, 1, 1);

fn server_for(authority: &Authority, clients: ClientCertificates) -> Server {
    let settings = Settings {
        client_certificates: clients,
        ..authority.settings()
    };
    Server::new(&settings, TlsLimits::default())
}

fn connected(
    server: &mut Server,
    authority: &Authority,
    version: &'static SupportedProtocolVersion,
    key: Option<Key>,
) -> Result<Option<Identity>, Failure> {
    let mut client = Client::new(authority.client_config(version, key));
    server.connect(0, &mut client);
    match server.of(0).clone() {
        heard if heard.failed.is_some() => {
            assert!(client.error.is_some(), "the client is told");
            Err(heard.failed.expect("it was looked at"))
        }
        heard => Ok(heard.established.expect("it is complete").identity),
    }
}

#[test]
fn the_name_that_is_asked_for_chooses_the_certificate() {
    let authority = Authority::new("root");
    let settings = Settings {
        certificates: vec![
            authority.server(&["first.example", "other.example"]),
            authority.server(&["second.example"]),
            authority.server(&["*.wild.example"]),
        ],
        ..authority.settings()
    };
    for version in BOTH {
        let mut server = Server::new(&settings, TlsLimits::default());
        let config = authority.client_config(version, None).into();
        for name in [
            "first.example",
            "other.example",
            "SECOND.example",
            "any.wild.example",
        ] {
            let mut client = Client::of(&config, name);
            server.connect(0, &mut client);
            assert_eq!(client.error, None, "{name} is verified by the client");
            assert!(server.of(0).established.is_some(), "{name}");
        }
        for name in ["third.example", "a.b.wild.example"] {
            let mut client = Client::of(&config, name);
            server.connect(0, &mut client);
            let shown = format!("{:?}", client.error);
            assert!(
                shown.contains("first.example"),
                "{name} gets the first: {shown}"
            );
        }
    }
}

#[test]
fn a_client_without_a_certificate_is_let_in_unless_one_is_required() {
    let authority = Authority::new("root");
    for version in BOTH {
        let optional = ClientCertificates::Optional(authority.trust(vec![]));
        let mut server = server_for(&authority, optional);
        assert_eq!(connected(&mut server, &authority, version, None), Ok(None));
        let required = ClientCertificates::Required(authority.trust(vec![]));
        let mut server = server_for(&authority, required);
        let failure = connected(&mut server, &authority, version, None).expect_err("it is refused");
        assert_eq!(failure.reason, Reason::CertificateMissing);
        assert_eq!(failure.alert, Some(Alert::CERTIFICATE_REQUIRED));
    }
}

#[test]
fn the_names_in_a_certificate_are_told() {
    let authority = Authority::new("root");
    let alice = authority.client("alice", 0x4242, VALID);
    for version in BOTH {
        for clients in [
            ClientCertificates::Optional(authority.trust(vec![])),
            ClientCertificates::Required(authority.trust(vec![])),
        ] {
            let mut server = server_for(&authority, clients);
            let identity = connected(&mut server, &authority, version, Some(alice.clone()));
            let expected = Identity {
                common_name: Some("alice".to_owned()),
                dns_names: vec!["alice.example".to_owned()],
                uris: vec!["spiffe://example/alice".to_owned()],
                emails: vec!["alice@example.com".to_owned()],
                serial: "4242".to_owned(),
            };
            assert_eq!(identity, Ok(Some(expected)));
        }
    }
}

#[test]
fn a_certificate_that_is_not_asked_for_is_not_shown() {
    let authority = Authority::new("root");
    let alice = authority.client("alice", 1, VALID);
    for version in BOTH {
        let mut server = Server::usual(&authority);
        let identity = connected(&mut server, &authority, version, Some(alice.clone()));
        assert_eq!(identity, Ok(None));
    }
}

#[test]
fn foreign_and_expired_certificates_are_refused_also_where_they_are_optional() {
    let authority = Authority::new("root");
    let foreign = Authority::new("foreign").client("alice", 1, VALID);
    let expired = authority.client("alice", 1, (2026, 6, 1));
    for version in BOTH {
        for key in [&foreign, &expired] {
            let optional = ClientCertificates::Optional(authority.trust(vec![]));
            let mut server = server_for(&authority, optional);
            let failure = connected(&mut server, &authority, version, Some(key.clone()))
                .expect_err("it is refused");
            assert_eq!(failure.reason, Reason::CertificateRefused, "{failure}");
            assert!(failure.alert.is_some());
            let counted = server.sessions.stats().failed(Reason::CertificateRefused);
            assert_eq!(counted, 1);
        }
    }
}

#[test]
fn the_time_of_the_turn_decides_what_is_expired() {
    let authority = Authority::new("root");
    let expired = authority.client("alice", 1, (2026, 6, 1));
    let required = ClientCertificates::Required(authority.trust(vec![]));
    let mut server = server_for(&authority, required);
    server.now.unix_ms = UNIX_MS - 365 * 24 * 3600 * 1000;
    for version in BOTH {
        assert!(connected(&mut server, &authority, version, Some(expired.clone())).is_ok());
    }
}

#[test]
fn a_revoked_certificate_is_refused_and_others_are_not() {
    let authority = Authority::new("root");
    let (alice, eve) = (
        authority.client("alice", 1, VALID),
        authority.client("eve", 666, VALID),
    );
    let trust = authority.trust(vec![authority.revocation_list(&[666])]);
    for version in BOTH {
        let required = ClientCertificates::Required(trust.clone());
        let mut server = server_for(&authority, required);
        assert!(connected(&mut server, &authority, version, Some(alice.clone())).is_ok());
        let failure = connected(&mut server, &authority, version, Some(eve.clone()))
            .expect_err("it is revoked");
        assert_eq!(failure.reason, Reason::CertificateRevoked);
        assert_eq!(failure.alert.map(|alert| alert.0), Some(44));
    }
}
