//! What nobody can make larger than it may be: bytes, time, handshakes at once, cryptography of a turn.

use std::sync::Arc;

use gateway::limits::TlsLimits;
use gateway::tls::{ClientCertificates, Reason, Settings};
use proptest::prelude::*;
use rustls::client::Resumption;
use rustls::{ClientConfig, version};

use crate::world::{Authority, BOTH, Client, Server, id, text};

#[test]
fn other_protocols_are_told_apart_at_their_first_byte() {
    let authority = Authority::new("root");
    let mut server = Server::usual(&authority);
    for (bytes, name) in [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], "plain HTTP"),
        (b"\x10\x0c\x00\x04MQTT\x05\x02\x00\x3c\x00", "plain MQTT"),
        (b"SSH-2.0-OpenSSH_9.9\r\n", "no TLS"),
        (b"\x16GET", ""),
    ] {
        assert!(server.accept(0));
        server.receive(0, bytes);
        if name.is_empty() {
            assert!(server.of(0).failed.is_none(), "it could still become one");
            server.receive(0, b" / HTTP/1.1\r\n\r\n");
        }
        let failure = server.of(0).failed.clone().expect("it is refused");
        assert_eq!(failure.reason, Reason::NotTls);
        assert!(failure.detail.contains(name), "{failure}");
    }
    let stats = server.sessions.stats();
    assert_eq!(stats.failed(Reason::NotTls), 4);
    assert_eq!(
        (stats.handshakes_in_progress, stats.handshake_bytes),
        (0, 0)
    );
}

#[test]
fn a_handshake_has_a_deadline() {
    let authority = Authority::new("root");
    let mut server = Server::usual(&authority);
    let mut client = Client::new(authority.client_config(&version::TLS13, None));
    assert_eq!(server.sessions.next_deadline_ms(), None);
    server.connect(0, &mut client);
    assert!(server.accept(1));
    let mut slow = Client::new(authority.client_config(&version::TLS13, None));
    let hello = slow.written();
    server.receive(1, &hello[..hello.len() - 1]);
    server.turn();
    let deadline_ms = server.sessions.next_deadline_ms().expect("one waits");
    assert_eq!(deadline_ms, 11_000);
    server.now.mono_ms = deadline_ms - 1;
    server.turn();
    assert!(server.sessions.has(id(1)));
    server.now.mono_ms = deadline_ms;
    server.turn();
    let failure = server.of(1).failed.clone().expect("it took too long");
    assert_eq!(failure.reason, Reason::TimedOut);
    assert!(server.sessions.has(id(0)), "a complete one has no deadline");
    assert_eq!(server.sessions.next_deadline_ms(), None);
}

#[test]
fn a_handshake_has_a_length() {
    let authority = Authority::new("root");
    let limits = TlsLimits {
        handshake_bytes_max: 4_096,
        ..TlsLimits::default()
    };
    let mut server = Server::new(&authority.settings(), limits);
    assert!(server.accept(0));
    server.receive(0, &[0x16, 3, 1, 0x40, 0]);
    for _ in 0..4 {
        server.receive(0, &[1; 1_000]);
    }
    assert!(server.of(0).failed.is_none());
    assert_eq!(server.sessions.stats().handshake_bytes, 4_005);
    server.receive(0, &[1; 1_000]);
    let failure = server.of(0).failed.clone().expect("it is too long");
    assert_eq!(failure.reason, Reason::TooLong);
    assert_eq!(server.sessions.stats().handshake_bytes, 0);
}

/// A client in slot 0 that has everything to complete its handshake, and has sent it with data behind it; and the bytes.
fn finished_and_more(server: &mut Server, authority: &Authority) -> Vec<u8> {
    let mut client = Client::new(authority.client_config(&version::TLS13, None));
    assert!(server.accept(0));
    let hello = client.written();
    server.receive(0, &hello);
    let flight: Vec<u8> = server.of(0).sent.drain(..).collect();
    client.read(&flight);
    client.write(&text(60_000));
    client.written()
}

#[test]
fn data_right_behind_a_handshake_may_come_in_one_piece() {
    let authority = Authority::new("root");
    let mut server = Server::usual(&authority);
    let bytes = finished_and_more(&mut server, &authority);
    server.receive(0, &bytes);
    assert_eq!(server.of(0).failed, None);
    assert_eq!(server.of(0).data, text(60_000));
    assert_eq!(server.sessions.stats().handshake_bytes, 0);
}

#[test]
fn who_sends_on_while_its_handshake_waits_is_not_read_and_loses_nothing() {
    let authority = Authority::new("root");
    let limits = TlsLimits {
        handshakes_per_turn: 1,
        ..TlsLimits::default()
    };
    let mut server = Server::new(&authority.settings(), limits);
    let bytes = finished_and_more(&mut server, &authority); // Its hello took the only flight of the turn.
    let chunks: Vec<&[u8]> = bytes.chunks(8 * 1024).collect();
    server.receive(0, chunks[0]);
    assert!(
        !server.of(0).is_paused,
        "not much yet: its end would be heard"
    );
    server.receive(0, chunks[1]);
    assert!(server.of(0).is_paused);
    for chunk in &chunks[2..4] {
        server.receive(0, chunk); // They were on their way.
    }
    assert_eq!(server.of(0).failed, None, "its turn has not come");
    assert_eq!(server.sessions.stats().handshake_bytes, 32 * 1024);
    server.turn();
    assert!(server.of(0).established.is_some() && !server.of(0).is_paused);
    for chunk in &chunks[4..] {
        server.receive(0, chunk);
    }
    assert_eq!(server.of(0).data, text(60_000));
    assert_eq!(server.sessions.stats().handshake_bytes, 0);
}

#[test]
fn what_comes_while_a_handshake_waits_is_bounded_for_all_together() {
    let authority = Authority::new("root");
    let limits = TlsLimits {
        handshakes_per_turn: 1,
        partial_bytes_max: 48 * 1024,
        ..TlsLimits::default()
    };
    let mut server = Server::new(&authority.settings(), limits);
    let bytes = finished_and_more(&mut server, &authority);
    let mut chunks = bytes.chunks(8 * 1024);
    for chunk in chunks.by_ref().take(4) {
        server.receive(0, chunk);
        assert_eq!(server.of(0).failed, None);
    }
    server.receive(0, chunks.next().expect("more"));
    let failure = server.of(0).failed.clone().expect("there is no room");
    assert_eq!(failure.reason, Reason::TooLong);
    assert_eq!(server.sessions.stats().handshake_bytes, 0);
    assert_eq!(server.sessions.stats().handshakes_waiting, 0);
}

#[test]
fn more_handshakes_at_once_than_allowed_are_turned_away() {
    let authority = Authority::new("root");
    let limits = TlsLimits {
        handshakes_max: 2,
        ..TlsLimits::default()
    };
    let mut server = Server::new(&authority.settings(), limits);
    assert!(server.accept(0) && server.accept(1));
    assert!(!server.accept(2));
    assert_eq!(server.sessions.stats().handshakes_refused, 1);
    server.sessions.forget(id(0));
    assert!(server.accept(2), "there is room again");
}

#[test]
fn a_storm_waits_and_live_sessions_do_not() {
    let authority = Authority::new("root");
    let limits = TlsLimits {
        handshakes_per_turn: 2,
        ..TlsLimits::default()
    };
    let mut server = Server::new(&authority.settings(), limits);
    let mut live = Client::new(authority.client_config(&version::TLS13, None));
    server.connect(0, &mut live);
    let config = Arc::new(authority.client_config(&version::TLS13, None));
    for slot in 1..=10 {
        assert!(server.accept(slot));
        let hello = Client::of(&config, "localhost").written();
        server.receive(slot, &hello);
    }
    let answered = |server: &Server| {
        let of = |heard: &&_| !crate::world::Heard::clone(heard).sent.is_empty();
        server.heard[1..].iter().filter(of).count()
    };
    assert_eq!(answered(&server), 2, "as many as fit into the turn");
    assert_eq!(server.sessions.stats().handshakes_waiting, 8);
    live.write(b"not delayed");
    let bytes = live.written();
    server.receive(0, &bytes);
    assert_eq!(server.of(0).data, b"not delayed");
    for turn in 2..=5 {
        assert_eq!(server.sessions.next_deadline_ms(), Some(0), "at once");
        server.turn();
        assert_eq!(answered(&server), 2 * turn);
    }
    assert_eq!(server.sessions.stats().handshakes_waiting, 0);
}

#[test]
fn tickets_go_first_and_nobody_waits_for_ever() {
    let authority = Authority::new("root");
    let limits = TlsLimits {
        handshakes_per_turn: 4,
        ..TlsLimits::default()
    };
    let mut server = Server::new(&authority.settings(), limits);
    let known = Arc::new(authority.client_config(&version::TLS12, None));
    server.connect(0, &mut Client::of(&known, "localhost"));
    let strange = Arc::new(authority.client_config(&version::TLS12, None));
    server.turn();
    for slot in 1..=4 {
        assert!(server.accept(slot));
        let hello = Client::of(&strange, "localhost").written();
        server.receive(slot, &hello);
    }
    for slot in 5..=16 {
        assert!(server.accept(slot));
        let config = if slot <= 10 { &strange } else { &known };
        let hello = Client::of(config, "localhost").written();
        server.receive(slot, &hello);
    }
    assert_eq!(server.sessions.stats().handshakes_waiting, 12);
    server.turn();
    let answered: Vec<usize> = (5..=16)
        .filter(|slot| !server.heard[*slot].sent.is_empty())
        .collect();
    assert_eq!(
        answered,
        [5, 11, 12, 13],
        "the oldest, and three with tickets"
    );
}

#[test]
fn half_records_are_bounded_and_who_has_more_than_its_share_goes() {
    let authority = Authority::new("root");
    let limits = TlsLimits {
        partial_bytes_max: 20_000,
        ..TlsLimits::default()
    };
    for version in BOTH {
        let mut server = Server::new(&authority.settings(), limits.clone());
        let mut clients: Vec<_> = (0..3)
            .map(|slot| {
                let mut client = Client::new(authority.client_config(version, None));
                server.connect(slot, &mut client);
                client.write(&text(16_000));
                client.written()
            })
            .collect();
        server.receive(0, &clients[0][..1_000]);
        server.receive(1, &clients[1][..12_000]);
        assert_eq!(server.sessions.stats().partial_bytes, 13_000);
        server.receive(2, &clients[2][..12_000]);
        let failure = server.of(2).failed.clone().expect("there is no room");
        assert_eq!(failure.reason, Reason::Memory);
        assert_eq!(server.sessions.stats().partial_bytes, 13_000);
        for slot in [0, 1] {
            let rest = clients[slot].split_off([1_000, 12_000][slot]);
            server.receive(slot as u32, &rest);
            assert_eq!(server.heard[slot].data, text(16_000));
        }
        assert_eq!(server.sessions.stats().partial_bytes, 0);
    }
}

#[test]
fn truncated_handshakes_leave_nothing_behind() {
    let authority = Authority::new("root");
    for version in BOTH {
        let mut server = Server::usual(&authority);
        let mut client = Client::new(authority.client_config(version, None));
        let hello = client.written();
        for length in 0..hello.len() {
            assert!(server.accept(0));
            server.receive(0, &hello[..length]);
            server.turn();
            assert!(server.of(0).failed.is_none(), "it may still come");
            server.sessions.forget(id(0));
        }
        let stats = server.sessions.stats();
        assert_eq!(stats.handshakes_in_progress, 0);
        assert_eq!((stats.handshake_bytes, stats.handshakes_waiting), (0, 0));
    }
}

/// Makes a handshake with a client certificate in which the bytes of flight `flight` go through `change`. True when it is complete.
fn handshake_with(
    settings: &Settings,
    config: &Arc<ClientConfig>,
    flight: usize,
    change: impl Fn(&mut Vec<u8>),
) -> bool {
    let mut server = Server::new(settings, TlsLimits::default());
    let mut client = Client::of(config, "localhost");
    assert!(server.accept(0));
    for round in 0..4 {
        let mut bytes = client.written();
        if round == flight {
            change(&mut bytes);
        }
        server.receive(0, &bytes);
        server.turn();
        let sent: Vec<u8> = server.of(0).sent.drain(..).collect();
        client.read(&sent);
    }
    let heard = server.of(0).clone();
    server.sessions.forget(id(0));
    let stats = server.sessions.stats();
    assert_eq!(stats.handshakes_in_progress, 0);
    assert_eq!((stats.handshake_bytes, stats.handshakes_waiting), (0, 0));
    heard.established.is_some() && heard.failed.is_none() && client.error.is_none()
}

fn with_client_certificates(authority: &Authority) -> Settings {
    Settings {
        client_certificates: ClientCertificates::Required(authority.trust(vec![])),
        ..authority.settings()
    }
}

/// Whether this is the third byte of a record, of which RFC 8446 §5.1 says that it is not looked at.
fn is_minor_version(bytes: &[u8], index: usize) -> bool {
    let mut start = 0;
    while let Some(header) = bytes.get(start..start + 5) {
        if index == start + 2 {
            return true;
        }
        start += 5 + usize::from(u16::from_be_bytes([header[3], header[4]]));
    }
    false
}

#[test]
fn no_changed_byte_of_a_handshake_makes_it_complete_or_panic_or_leak() {
    let authority = Authority::new("root");
    let settings = with_client_certificates(&authority);
    for version in BOTH {
        let key = authority.client("alice", 1, (2035, 1, 1));
        let mut config = authority.client_config(version, Some(key));
        config.resumption = Resumption::disabled();
        let config = Arc::new(config);
        assert!(handshake_with(&settings, &config, 9, |_| {}), "it works");
        for flight in [0, 1] {
            for step in 0..400 {
                let is_looked_at = std::cell::Cell::new(true);
                let complete = handshake_with(&settings, &config, flight, |bytes| {
                    let index = step * bytes.len() / 400;
                    bytes[index] ^= 0x55;
                    is_looked_at.set(!is_minor_version(bytes, index));
                });
                assert!(!complete || !is_looked_at.get(), "flight {flight}, {step}");
            }
        }
    }
}

#[test]
fn a_flight_may_be_cut_off_anywhere() {
    let authority = Authority::new("root");
    let settings = with_client_certificates(&authority);
    for version in BOTH {
        let key = authority.client("alice", 1, (2035, 1, 1));
        let config = Arc::new(authority.client_config(version, Some(key)));
        for step in 0..60 {
            let complete = handshake_with(&settings, &config, 1, |bytes| {
                bytes.truncate(step * bytes.len() / 60);
            });
            assert!(!complete);
        }
    }
}

#[test]
fn a_client_hello_may_be_split_over_records() {
    let authority = Authority::new("root");
    let settings = authority.settings();
    for version in BOTH {
        let config = Arc::new(authority.client_config(version, None));
        for size in [1, 2, 3, 50, 200] {
            let complete = handshake_with(&settings, &config, 0, |bytes| {
                let hello = bytes.split_off(5);
                bytes.clear();
                for part in hello.chunks(size) {
                    bytes.extend([0x16, 3, 1, 0, part.len() as u8]);
                    bytes.extend(part);
                }
            });
            assert!(complete, "records of {size} bytes");
        }
    }
}

/// A record with a header that makes sense, or a real ClientHello that was changed, or anything.
fn any_piece() -> impl Strategy<Value = Vec<u8>> {
    let bytes = |most| prop::collection::vec(any::<u8>(), 0..most);
    let record = (20..25_u8, 0..5_u8, bytes(300_usize)).prop_map(|(kind, minor, payload)| {
        let length = (payload.len() as u16).to_be_bytes();
        [&[kind, 3, minor][..], &length, &payload].concat()
    });
    let hello = (0..2_usize, prop::collection::vec(any::<(u16, u8)>(), 0..4)).prop_map(
        |(version, changes)| {
            let authority = Authority::new("root");
            let mut hello = Client::new(authority.client_config(BOTH[version], None)).written();
            for (index, byte) in changes {
                let index = usize::from(index) % hello.len();
                hello[index] = byte;
            }
            hello
        },
    );
    prop_oneof![3 => record, 2 => hello, 1 => bytes(50_usize)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn whatever_comes_nothing_panics_and_nothing_is_left(
        pieces in prop::collection::vec(any_piece(), 1..6),
        chunk in 1..400_usize,
    ) {
        let authority = Authority::new("root");
        let mut server = Server::usual(&authority);
        prop_assert!(server.accept(0));
        for bytes in pieces.concat()[..].chunks(chunk) {
            server.receive(0, bytes);
            server.turn();
        }
        prop_assert!(server.of(0).established.is_none());
        server.sessions.forget(id(0));
        let stats = server.sessions.stats();
        prop_assert_eq!((stats.handshakes_in_progress, stats.handshake_bytes), (0, 0));
        prop_assert_eq!(stats.handshakes_waiting, 0);
    }
}

#[test]
fn in_a_storm_nobody_is_greeted_who_has_left() {
    let authority = Authority::new("root");
    let mut server = Server::usual(&authority);
    let config = Arc::new(authority.client_config(&version::TLS13, None));
    let mut clients: Vec<Client> = (0..3).map(|_| Client::of(&config, "localhost")).collect();
    let hellos: Vec<Vec<u8>> = clients.iter_mut().map(Client::written).collect();
    server.sessions.allow_flights(1);
    for slot in 0..3 {
        assert!(server.accept(slot));
        server.receive(slot, &hellos[slot as usize]);
    }
    server.turn();
    assert_eq!(server.sessions.take_flights(), 0, "they may leave yet");
    server.sessions.forget(id(0));
    server.sessions.forget(id(1));
    server.turn();
    assert_eq!(server.sessions.take_flights(), 1);
    assert!(!server.of(2).sent.is_empty());
    assert!(server.of(0).sent.is_empty() && server.of(1).sent.is_empty());
    assert_eq!(server.sessions.stats().handshakes_waiting, 0);
}
