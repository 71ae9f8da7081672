//! Tickets: what resumes, on which node, until when, and what must not.

use std::sync::Arc;

use gateway::limits::TlsLimits;
use gateway::tls::{ClientCertificates, ClusterSecret, Reason, Settings};
use rustls::{ClientConfig, HandshakeKind, version};

use crate::world::{Authority, BOTH, Client, Server, acceptor, text};

const EPOCH_MS: u64 = 3_600_000;

/// Connects, and tells whether the session was resumed; data goes both ways.
fn resumes(server: &mut Server, config: &Arc<ClientConfig>) -> bool {
    let mut client = Client::of(config, "localhost");
    server.connect(0, &mut client);
    let Some(established) = server.of(0).established.clone() else {
        panic!("{:?} {:?}", server.of(0).failed, client.error);
    };
    let kind = client.connection.handshake_kind();
    assert_eq!(established.resumed, kind == Some(HandshakeKind::Resumed));
    let plain = text(1_000);
    client.write(&plain);
    assert!(server.send(0, &plain));
    server.converse(0, &mut client);
    assert_eq!((&server.of(0).data, &client.data), (&plain, &plain));
    established.resumed
}

#[test]
fn a_session_is_resumed_on_any_node_with_the_secret() {
    let authority = Authority::new("root");
    let settings = authority.settings();
    for version in BOTH {
        let config = Arc::new(authority.client_config(version, None));
        let mut one = Server::new(&settings, TlsLimits::default());
        let mut other = Server::new(&settings, TlsLimits::default());
        assert!(!resumes(&mut one, &config));
        assert!(resumes(&mut one, &config));
        assert!(resumes(&mut other, &config));
        let stats = one.sessions.stats();
        assert_eq!((stats.handshakes_full, stats.handshakes_resumed), (1, 1));
        let strange = Settings {
            ticket_secrets: vec![ClusterSecret([8; 32])],
            ..settings.clone()
        };
        let mut strange = Server::new(&strange, TlsLimits::default());
        assert!(!resumes(&mut strange, &config), "another cluster");
    }
}

#[test]
fn tickets_outlive_one_rotation_of_their_key_and_not_two() {
    let authority = Authority::new("root");
    for version in BOTH {
        for (later_ms, expected) in [(EPOCH_MS, true), (2 * EPOCH_MS, false)] {
            let config = Arc::new(authority.client_config(version, None));
            let mut server = Server::usual(&authority);
            server.now.unix_ms -= server.now.unix_ms % EPOCH_MS;
            assert!(!resumes(&mut server, &config));
            server.now.unix_ms += later_ms;
            assert_eq!(resumes(&mut server, &config), expected);
        }
    }
}

#[test]
fn one_ticket_is_sent_and_none_without_a_secret() {
    let authority = Authority::new("root");
    let settings = Settings {
        ticket_secrets: vec![],
        ..authority.settings()
    };
    for (settings, expected) in [(settings, 0), (authority.settings(), 1)] {
        let mut server = Server::new(&settings, TlsLimits::default());
        let config = Arc::new(authority.client_config(&version::TLS13, None));
        let mut client = Client::of(&config, "localhost");
        server.connect(0, &mut client);
        assert_eq!(client.connection.tls13_tickets_received(), expected);
        assert_eq!(resumes(&mut server, &config), expected == 1);
    }
}

#[test]
fn a_ticket_of_a_listener_without_client_certificates_opens_none_with_them() {
    let authority = Authority::new("root");
    let open = authority.settings();
    let closed = Settings {
        client_certificates: ClientCertificates::Required(authority.trust(vec![])),
        ..open.clone()
    };
    for version in BOTH {
        let config = Arc::new(authority.client_config(version, None));
        let mut server = Server::new(&open, TlsLimits::default());
        assert!(!resumes(&mut server, &config));
        server.sessions.reload(0, acceptor(&closed));
        let mut client = Client::of(&config, "localhost");
        server.connect(0, &mut client);
        let failure = server.of(0).failed.clone().expect("it is refused");
        assert_eq!(failure.reason, Reason::CertificateMissing);
    }
}

#[test]
fn who_resumes_is_known_by_the_certificate_of_the_first_handshake() {
    let authority = Authority::new("root");
    let settings = Settings {
        client_certificates: ClientCertificates::Required(authority.trust(vec![])),
        ..authority.settings()
    };
    let alice = authority.client("alice", 1, (2035, 1, 1));
    for version in BOTH {
        let config = Arc::new(authority.client_config(version, Some(alice.clone())));
        let mut server = Server::new(&settings, TlsLimits::default());
        assert!(!resumes(&mut server, &config));
        assert!(resumes(&mut server, &config));
        let identity = server.of(0).established.clone().and_then(|it| it.identity);
        let name = identity.and_then(|identity| identity.common_name);
        assert_eq!(name.as_deref(), Some("alice"));
    }
}

#[test]
fn who_was_revoked_or_has_expired_since_does_not_resume() {
    let authority = Authority::new("root");
    let before = Settings {
        client_certificates: ClientCertificates::Required(authority.trust(vec![])),
        ..authority.settings()
    };
    let revoked = authority.trust(vec![authority.revocation_list(&[666])]);
    let after = Settings {
        client_certificates: ClientCertificates::Required(revoked),
        ..before.clone()
    };
    // The beginning of 2027-01-16.
    let end_ms = 1_800_057_600_000;
    for version in BOTH {
        let eve = authority.client("eve", 666, (2035, 1, 1));
        let config = Arc::new(authority.client_config(version, Some(eve)));
        let mut server = Server::new(&before, TlsLimits::default());
        assert!(!resumes(&mut server, &config));
        server.sessions.reload(0, acceptor(&after));
        let mut client = Client::of(&config, "localhost");
        server.connect(0, &mut client);
        let heard = server.of(0).clone();
        let failure = heard.failed.expect("it is refused");
        assert_eq!(failure.reason, Reason::CertificateRevoked);
        assert!(heard.established.is_none() && client.error.is_some());
        let kind = client.connection.handshake_kind();
        assert_eq!(
            kind,
            Some(HandshakeKind::Resumed),
            "it was no full handshake"
        );

        let brief = authority.client("brief", 5, (2027, 1, 16));
        let config = Arc::new(authority.client_config(version, Some(brief)));
        let mut server = Server::new(&before, TlsLimits::default());
        server.now.unix_ms = end_ms - 60_000;
        assert!(!resumes(&mut server, &config));
        assert!(resumes(&mut server, &config));
        server.now.unix_ms = end_ms + 60_000;
        let mut client = Client::of(&config, "localhost");
        server.connect(0, &mut client);
        let failure = server.of(0).failed.clone().expect("it is refused");
        assert_eq!(failure.reason, Reason::CertificateRefused, "{failure}");
        let kind = client.connection.handshake_kind();
        assert_eq!(
            kind,
            Some(HandshakeKind::Resumed),
            "it was no full handshake"
        );
    }
}
