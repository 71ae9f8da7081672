//! TLS within QUIC: protocols, client certificates, reload.

use std::sync::Arc;

use gateway::limits::QuicLimits;
use gateway::tls::{Acceptor, ClientCertificates, Reason, Settings};
use quinn_proto::ConnectionError;

use crate::authority::Authority;
use crate::world::World;

#[test]
fn a_client_without_our_protocol_is_refused_with_an_alert() {
    let mut world = World::new(QuicLimits::default());
    let config = world.authority.client_config(b"h3", None);
    let client = world.connect(config);
    world.run(5_000, |world| world.clients[client].lost.is_some());
    let lost = world.clients[client].lost.clone();
    let Some(ConnectionError::ConnectionClosed(close)) = lost else {
        panic!("{lost:?}");
    };
    // no_application_protocol (RFC 7301), as QUIC carries alerts (RFC 9001 §4.8).
    assert_eq!(u64::from(close.error_code), 0x100 + 120);
    assert_eq!(world.failed, [Reason::Protocol]);
    world.pass(10_000);
    assert_eq!(world.server.stats().connections, 0);
}

fn with_client_certificates() -> World {
    let authority = Authority::new();
    let settings = Settings {
        client_certificates: ClientCertificates::Required(authority.trust()),
        ..authority.settings()
    };
    World::with(QuicLimits::default(), authority, &settings)
}

#[test]
fn a_client_certificate_tells_who_it_is_also_when_its_session_is_resumed() {
    let mut world = with_client_certificates();
    let config = world.authority.client_config(b"mqtt", Some("device-7"));
    for resumed in [false, true] {
        let (_, id) = world.client_with(config.clone());
        let arrival = world.told[&id].arrival.as_ref().expect("it arrived");
        let certificate = arrival.certificate.as_ref().expect("it showed one");
        assert_eq!(certificate.common_name.as_deref(), Some("device-7"));
        let handshakes = world.server.stats().handshakes_resumed;
        assert_eq!(handshakes, u64::from(resumed));
        world.pass(1_000);
    }
}

#[test]
fn a_client_without_the_certificate_that_is_asked_for_is_refused() {
    let mut world = with_client_certificates();
    let stranger = Authority::new().client_config(b"mqtt", None);
    for config in [world.authority.client_config(b"mqtt", None), stranger] {
        let client = world.connect(config);
        world.run(5_000, |world| world.clients[client].lost.is_some());
    }
    assert!(world.accepted.is_empty());
    assert_eq!(world.server.stats().failed(Reason::CertificateMissing), 1);
}

#[test]
fn a_reload_changes_new_connections_and_leaves_the_others() {
    let mut world = World::new(QuicLimits::default());
    world.echoes = true;
    let (before, _) = world.client();
    let settings = Settings {
        application_protocols: vec![b"another".to_vec()],
        ..world.authority.settings()
    };
    let acceptor = Acceptor::for_quic(&settings).expect("the settings are good");
    world.server.reload(&Arc::new(acceptor));
    let config = world.authority.client_config(b"mqtt", None);
    let refused = world.connect(config);
    world.run(5_000, |world| world.clients[refused].lost.is_some());
    let config = world.authority.client_config(b"another", None);
    world.client_with(config);
    world.say(before, b"still here");
    world.run(5_000, |world| {
        world.clients[before].received.ends_with(b"still here")
    });
}
