//! What clients and the server say to each other, in both versions.

use gateway::limits::TlsLimits;
use gateway::tls::{Reason, Settings, Version, Versions};
use proptest::prelude::*;
use rustls::crypto::aws_lc_rs::{DEFAULT_CIPHER_SUITES, default_provider, kx_group};
use rustls::{AlertDescription, NamedGroup, version};

use crate::world::{Authority, BOTH, Client, Server, acceptor, id, text};

#[test]
fn data_goes_both_ways_in_both_versions_and_all_suites() {
    let authority = Authority::new("root");
    for version in BOTH {
        for suite in DEFAULT_CIPHER_SUITES.iter().filter(|suite| {
            // The certificate of the server is for ECDSA.
            suite.version() == version && !format!("{suite:?}").contains("ECDHE_RSA")
        }) {
            let mut server = Server::usual(&authority);
            let mut provider = default_provider();
            provider.cipher_suites = vec![*suite];
            let config = authority.client_config_with(provider, version, None);
            let mut client = Client::new(config);
            server.connect(0, &mut client);
            let agreed = client.connection.negotiated_cipher_suite();
            assert_eq!(agreed, Some(*suite));
            for round in 0..3 {
                let plain = text(100 + round);
                client.write(&plain);
                server.converse(0, &mut client);
                assert_eq!(std::mem::take(&mut server.of(0).data), plain, "{suite:?}");
                assert!(server.send(0, &plain));
                server.converse(0, &mut client);
                assert_eq!(std::mem::take(&mut client.data), plain, "{suite:?}");
            }
        }
    }
}

#[test]
fn the_server_chooses_the_cipher_whatever_the_client_prefers() {
    let authority = Authority::new("root");
    for version in BOTH {
        let agreed = [false, true].map(|reversed| {
            let mut provider = default_provider();
            if reversed {
                provider.cipher_suites.reverse();
            }
            let mut server = Server::usual(&authority);
            let mut client = Client::new(authority.client_config_with(provider, version, None));
            server.connect(0, &mut client);
            client.connection.negotiated_cipher_suite()
        });
        assert_eq!(agreed[0], agreed[1]);
        assert!(agreed[0].is_some_and(|suite| format!("{suite:?}").contains("AES_128_GCM")));
    }
}

#[test]
fn a_group_that_the_server_does_not_have_costs_a_round_trip() {
    let authority = Authority::new("root");
    for (first, agreed) in [
        (kx_group::MLKEM1024, NamedGroup::X25519),
        (kx_group::X25519MLKEM768, NamedGroup::X25519MLKEM768),
    ] {
        let mut provider = default_provider();
        provider.kx_groups = vec![first];
        if agreed == NamedGroup::X25519 {
            provider.kx_groups.push(kx_group::X25519);
        }
        let config = authority.client_config_with(provider, &version::TLS13, None);
        let mut server = Server::usual(&authority);
        let mut client = Client::new(config);
        client.write(b"after all");
        server.connect(0, &mut client);
        let group = client.connection.negotiated_key_exchange_group();
        assert_eq!(group.map(|group| group.name()), Some(agreed));
        assert_eq!(server.of(0).data, b"after all");
    }
}

#[test]
fn the_version_that_was_agreed_on_is_told() {
    let authority = Authority::new("root");
    let mut server = Server::usual(&authority);
    for (version, told) in BOTH.into_iter().zip([Version::Tls12, Version::Tls13]) {
        let mut client = Client::new(authority.client_config(version, None));
        server.connect(0, &mut client);
        let established = server.of(0).established.clone().expect("it is complete");
        assert_eq!(established.version, told);
        assert!(!established.resumed);
        assert_eq!(established.identity, None);
    }
    assert_eq!(server.sessions.stats().handshakes_full, 2);
    assert_eq!(server.sessions.stats().handshakes_in_progress, 0);
}

#[test]
fn large_messages_go_over_many_records() {
    let authority = Authority::new("root");
    for version in BOTH {
        let mut server = Server::usual(&authority);
        let mut client = Client::new(authority.client_config(version, None));
        server.connect(0, &mut client);
        let plain = text(200_000);
        client.write(&plain);
        assert!(server.send(0, &plain));
        server.converse(0, &mut client);
        assert_eq!(server.of(0).data, plain);
        assert_eq!(client.data, plain);
        assert_eq!(server.sessions.stats().partial_bytes, 0, "nothing is kept");
    }
}

#[test]
fn input_may_be_cut_at_every_byte() {
    let authority = Authority::new("root");
    for version in BOTH {
        let mut server = Server::usual(&authority);
        let mut client = Client::new(authority.client_config(version, None));
        assert!(server.accept(0));
        for _ in 0..3 {
            for byte in client.written() {
                server.receive(0, &[byte]);
                server.turn();
            }
            let sent: Vec<u8> = server.of(0).sent.drain(..).collect();
            for byte in sent {
                client.read(&[byte]);
            }
        }
        client.write(b"first");
        client.write(b"second");
        let bytes = client.written();
        for (index, byte) in bytes.iter().enumerate() {
            server.receive(0, &[*byte]);
            let partial = server.sessions.stats().partial_bytes;
            assert!(partial <= index as u64 + 1, "what is kept is counted");
        }
        assert_eq!(server.of(0).data, b"firstsecond");
        assert_eq!(server.sessions.stats().partial_bytes, 0);
    }
}

#[test]
fn data_may_come_with_the_end_of_the_handshake() {
    let authority = Authority::new("root");
    for version in BOTH {
        let mut server = Server::usual(&authority);
        let mut client = Client::new(authority.client_config(version, None));
        client.write(b"early but not too early");
        server.connect(0, &mut client);
        assert_eq!(server.of(0).data, b"early but not too early");
    }
}

#[test]
fn keys_are_updated_when_the_client_asks() {
    let authority = Authority::new("root");
    let mut server = Server::usual(&authority);
    let mut client = Client::new(authority.client_config(&version::TLS13, None));
    server.connect(0, &mut client);
    for round in 0..50 {
        client
            .connection
            .refresh_traffic_keys()
            .expect("the client can update");
        let plain = text(round + 1);
        client.write(&plain);
        server.converse(0, &mut client);
        assert!(server.send(0, &plain));
        server.converse(0, &mut client);
        assert_eq!(std::mem::take(&mut server.of(0).data), plain);
        assert_eq!(std::mem::take(&mut client.data), plain);
    }
}

#[test]
fn answers_to_key_updates_do_not_pile_up_for_a_client_that_reads_nothing() {
    let authority = Authority::new("root");
    let mut server = Server::usual(&authority);
    let mut client = Client::new(authority.client_config(&version::TLS13, None));
    server.connect(0, &mut client);
    server.converse(0, &mut client);
    for round in 0..1_000 {
        let updated = client.connection.refresh_traffic_keys();
        updated.expect("the client can update");
        client.write(b"x");
        let bytes = client.written();
        server.receive(0, &bytes);
        assert!(server.of(0).sent.len() < 64, "one answer, round {round}");
    }
    assert_eq!(std::mem::take(&mut server.of(0).data).len(), 1_000);
    assert!(server.send(0, b"data"));
    server.converse(0, &mut client);
    assert_eq!(std::mem::take(&mut client.data), b"data");
}

#[test]
fn keys_are_updated_before_they_are_worn_out() {
    let authority = Authority::new("root");
    let limits = TlsLimits {
        records_per_key_max: 4,
        ..TlsLimits::default()
    };
    let mut server = Server::new(&authority.settings(), limits);
    let mut client = Client::new(authority.client_config(&version::TLS13, None));
    server.connect(0, &mut client);
    for round in 0..30 {
        assert!(server.send(0, &[round]));
        client.write(&[round]);
    }
    server.converse(0, &mut client);
    assert_eq!(client.data, (0..30).collect::<Vec<u8>>());
    assert_eq!(server.of(0).data, (0..30).collect::<Vec<u8>>());
}

#[test]
fn tls_12_closes_when_its_key_is_worn_out() {
    let authority = Authority::new("root");
    let limits = TlsLimits {
        records_per_key_max: 4,
        ..TlsLimits::default()
    };
    let mut server = Server::new(&authority.settings(), limits);
    let mut client = Client::new(authority.client_config(&version::TLS12, None));
    server.connect(0, &mut client);
    let sent = (0..10)
        .take_while(|round| server.send(0, &[*round]))
        .count();
    assert_eq!(
        sent, 2,
        "Finished was the first, close_notify is the fourth"
    );
    server.converse(0, &mut client);
    assert_eq!(client.data, [0, 1]);
    assert!(client.closed, "it was told in order");
    assert_eq!(server.sessions.stats().broken(Reason::KeysExhausted), 1);
    assert!(!server.sessions.has(id(0)));
}

#[test]
fn close_notify_is_heard_and_sent_once() {
    let authority = Authority::new("root");
    for version in BOTH {
        let mut server = Server::usual(&authority);
        let mut client = Client::new(authority.client_config(version, None));
        server.connect(0, &mut client);
        client.write(b"the last words");
        client.connection.send_close_notify();
        let bytes = client.written();
        server.receive(0, &bytes);
        assert_eq!(server.of(0).data, b"the last words");
        assert!(server.of(0).peer_closed);
        server.receive(0, b"whatever comes now is not read");
        assert!(server.of(0).failed.is_none());
        assert!(server.send(0, b"half of it is open"));
        server.close(0);
        let length = server.of(0).sent.len();
        server.close(0);
        assert!(server.send(0, b"not sent"));
        assert_eq!(server.of(0).sent.len(), length, "nothing follows the end");
        server.converse(0, &mut client);
        assert_eq!(client.data, b"half of it is open");
        assert!(client.closed);
        server.sessions.forget(id(0));
        assert!(!server.send(0, b"gone"));
    }
}

#[test]
fn a_client_that_does_not_trust_the_server_is_heard() {
    let authority = Authority::new("root");
    for version in BOTH {
        let mut server = Server::usual(&authority);
        let stranger = Authority::new("stranger");
        let mut client = Client::new(stranger.client_config(version, None));
        server.connect(0, &mut client);
        let failure = server.of(0).failed.clone().expect("it failed");
        assert_eq!(failure.reason, Reason::PeerAlert, "{failure}");
        assert_eq!(server.sessions.stats().failed(Reason::PeerAlert), 1);
    }
}

#[test]
fn an_application_protocol_is_agreed_on_or_the_client_is_refused() {
    let authority = Authority::new("root");
    let settings = Settings {
        application_protocols: vec![b"mqtt".to_vec(), b"http/1.1".to_vec()],
        ..authority.settings()
    };
    for version in BOTH {
        let offers = |protocols: &[&str]| {
            let mut config = authority.client_config(version, None);
            config.alpn_protocols = protocols
                .iter()
                .map(|name| name.as_bytes().to_vec())
                .collect();
            let mut server = Server::new(&settings, TlsLimits::default());
            let mut client = Client::new(config);
            server.connect(0, &mut client);
            (server, client)
        };
        let (mut server, _) = offers(&["h2", "mqtt"]);
        let agreed = server.of(0).established.clone().expect("it is complete");
        assert_eq!(agreed.application_protocol, Some(b"mqtt".to_vec()));
        let (mut server, _) = offers(&[]);
        let agreed = server.of(0).established.clone().expect("it is complete");
        assert_eq!(agreed.application_protocol, None);
        let (mut server, client) = offers(&["h2"]);
        let failure = server.of(0).failed.clone().expect("it is refused");
        assert_eq!(failure.reason, Reason::Protocol);
        assert_eq!(
            client.error,
            Some(rustls::Error::AlertReceived(
                AlertDescription::NoApplicationProtocol
            ))
        );
    }
}

#[test]
fn tls_12_is_refused_where_it_is_off() {
    let authority = Authority::new("root");
    let settings = Settings {
        versions: Versions::Only13,
        ..authority.settings()
    };
    let mut server = Server::new(&settings, TlsLimits::default());
    let mut client = Client::new(authority.client_config(&version::TLS12, None));
    server.connect(0, &mut client);
    let failure = server.of(0).failed.clone().expect("it is refused");
    assert_eq!(failure.reason, Reason::Version, "{failure}");
    assert_eq!(failure.alert.map(|alert| alert.0), Some(70));
    assert_eq!(
        client.error,
        Some(rustls::Error::AlertReceived(
            AlertDescription::ProtocolVersion
        ))
    );
}

#[test]
fn a_reload_is_noticed_by_new_connections_alone() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    for version in BOTH {
        let mut server = Server::usual(&old);
        let mut live = Client::new(old.client_config(version, None));
        server.connect(0, &mut live);
        let mut under_way = Client::new(old.client_config(version, None));
        assert!(server.accept(1));
        let hello = under_way.written();
        server.receive(1, &hello);
        server.sessions.reload(0, acceptor(&new.settings()));
        server.converse(1, &mut under_way);
        let mut fresh = Client::new(new.client_config(version, None));
        server.connect(2, &mut fresh);
        for (slot, client) in [(0, &mut live), (1, &mut under_way), (2, &mut fresh)] {
            client.write(b"still here");
            server.converse(slot, client);
            assert_eq!(server.of(slot).data, b"still here", "slot {slot}");
        }
        let mut late = Client::new(old.client_config(version, None));
        server.connect(3, &mut late);
        assert!(server.of(3).established.is_none() && late.error.is_some());
    }
}

#[test]
fn a_slot_that_is_used_again_is_another_session() {
    let authority = Authority::new("root");
    let mut server = Server::usual(&authority);
    let mut first = Client::new(authority.client_config(&version::TLS13, None));
    server.connect(0, &mut first);
    let mut second = Client::new(authority.client_config(&version::TLS13, None));
    server.connect(0, &mut second);
    let mut stale = id(0);
    stale.generation = 7;
    let mut out = vec![];
    assert!(!server.sessions.seal(stale, b"to nobody", &mut out));
    server.sessions.close(stale, &mut out);
    server.sessions.forget(stale);
    assert!(out.is_empty() && server.sessions.has(id(0)));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn any_chunks_make_the_same_plaintext(
        is_13 in any::<bool>(),
        messages in prop::collection::vec(1..20_000_usize, 1..6),
        cuts in prop::collection::vec(1..9_000_usize, 1..40),
    ) {
        let authority = Authority::new("root");
        let mut server = Server::usual(&authority);
        let mut client = Client::new(authority.client_config(BOTH[usize::from(is_13)], None));
        let mut cuts = cuts.into_iter().cycle();
        let mut expected = vec![];
        for length in messages {
            let plain = text(length);
            client.write(&plain);
            expected.extend(plain);
        }
        prop_assert!(server.accept(0));
        for _ in 0..4 {
            let bytes = client.written();
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let cut = cuts.next().unwrap_or(1).min(rest.len());
                server.receive(0, &rest[..cut]);
                server.turn();
                rest = &rest[cut..];
            }
            let sent: Vec<u8> = server.of(0).sent.drain(..).collect();
            client.read(&sent);
        }
        prop_assert_eq!(&server.of(0).failed, &None);
        prop_assert_eq!(&server.of(0).data, &expected);
        prop_assert_eq!(server.sessions.stats().partial_bytes, 0);
        prop_assert_eq!(server.sessions.stats().handshake_bytes, 0);
    }
}
