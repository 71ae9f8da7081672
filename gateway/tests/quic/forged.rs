//! What is no client: forged addresses, packets for connections of the past, noise.

use std::net::SocketAddr;

use gateway::limits::QuicLimits;
use gateway::metrics::TurnedAway;
use gateway::quic::{Listening, NodeKeys};
use gateway::tls::ClusterSecret;
use quinn_proto::ConnectionError;
use rustls::Side;
use rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
use rustls::quic::Version;

use crate::world::{World, listening, server_address};

#[test]
fn a_forged_address_gets_no_more_than_three_times_what_it_is_made_to_ask_for() {
    let mut world = World::new(QuicLimits::default());
    let mut asked = 0;
    for victim in 0..50 {
        let initial = world.initial();
        asked = initial.len();
        world.deliver(([203, 0, 113, victim], 53).into(), &initial);
        world.pass(1);
    }
    world.pass(120_000);
    assert_eq!(world.sent_to.len(), 50);
    for (address, sent) in &world.sent_to {
        assert!(*sent <= 3 * asked, "{address}: {sent} bytes for {asked}");
    }
    assert_eq!(world.server.stats().connections, 0);
}

#[test]
fn a_token_is_worth_nothing_at_another_address() {
    let limits = QuicLimits {
        retry_above: 0,
        ..QuicLimits::default()
    };
    let mut world = World::new(limits);
    let config = world.authority.client_config(b"mqtt", None);
    let client = world.connect(config);
    world.run(1_000, |world| world.server.stats().retried == 1);
    world.pass(12); // The token is on its way back.
    let thief = ([203, 0, 113, 9], 9).into();
    world.forge_sources(thief);
    world.pass(12);
    let stats = world.server.stats();
    assert_eq!(
        (stats.connections, stats.retried),
        (0, 1),
        "it was a token, and not good"
    );
    assert!(world.sent_to[&thief] <= 3 * 1_200);
    // Where it belongs it is good.
    world.run(10_000, |world| world.clients[client].is_connected);
}

/// A packet of a connection reaches a server that does not know it. What the server counts as resets, and the client as its end.
fn after_restart(listening: Listening) -> (u64, Option<ConnectionError>) {
    after_restart_at(listening, server_address())
}

fn after_restart_at(listening: Listening, address: SocketAddr) -> (u64, Option<ConnectionError>) {
    let mut world = World::new(QuicLimits::default());
    let (client, _) = world.client();
    world.restart_at(listening, address);
    world.say(client, &[1; 200]);
    world.pass(2_000);
    let resets = world.server.stats().resets_sent;
    (resets, world.clients[client].lost.clone())
}

#[test]
fn the_next_process_of_a_node_resets_connections_of_the_last_one() {
    let (resets, lost) = after_restart(listening(0, 1));
    assert!(resets >= 1);
    assert_eq!(lost, Some(ConnectionError::Reset));
}

#[test]
fn connections_of_before_the_secret_was_changed_are_reset_too() {
    let changed = |before: &[ClusterSecret]| Listening {
        keys: NodeKeys::new(&ClusterSecret([8; 32]), &[9; 32]).after(before),
        ..listening(0, 1)
    };
    let (resets, lost) = after_restart(changed(&[ClusterSecret([6; 32]), ClusterSecret([7; 32])]));
    assert!(resets >= 1);
    assert_eq!(lost, Some(ConnectionError::Reset));
    assert_eq!(after_restart(changed(&[ClusterSecret([6; 32])])), (0, None));
}

#[test]
fn who_did_not_issue_an_id_does_not_say_that_its_connection_is_gone() {
    let another_node = Listening {
        node: 1,
        ..listening(0, 1)
    };
    assert_eq!(after_restart(another_node), (0, None));
    let another_cluster = Listening {
        keys: NodeKeys::new(&ClusterSecret([8; 32]), &[9; 32]),
        ..listening(0, 1)
    };
    assert_eq!(after_restart(another_cluster), (0, None));
    // Nodes that have no numbers yet share the secret and are all node 0.
    let with_the_same_secret = Listening {
        keys: NodeKeys::new(&ClusterSecret([7; 32]), &[10; 32]),
        ..listening(0, 1)
    };
    assert_eq!(after_restart(with_the_same_secret), (0, None));
    let another_listener = ([192, 0, 2, 1], 14_568).into();
    let it = after_restart_at(listening(0, 1), another_listener);
    assert_eq!(it, (0, None));
}

#[test]
fn all_clients_of_a_killed_node_hear_of_it_in_the_same_turn() {
    let mut world = World::new(QuicLimits::default());
    let clients: Vec<usize> = (0..20).map(|_| world.client().0).collect();
    world.pass(1_000);
    world.restart(listening(0, 1));
    for client in &clients {
        world.say(*client, &[1; 200]);
    }
    world.pass(60); // There and back, and no time to ask again.
    assert_eq!(world.server.stats().resets_sent, 20);
    for client in clients {
        let lost = &world.clients[client].lost;
        assert_eq!(*lost, Some(ConnectionError::Reset));
    }
}

/// One datagram that a client would send now, and that has something to acknowledge.
fn ping_of(world: &mut World, client: usize) -> Vec<u8> {
    let now = world.instant();
    let connection = &mut world.clients[client].connection;
    connection.ping();
    let mut bytes = Vec::new();
    let sent = connection.poll_transmit(now, 1, &mut bytes);
    assert!(sent.is_some());
    bytes
}

#[test]
fn the_address_of_a_client_is_the_one_that_its_handshake_proved() {
    let mut world = World::new(QuicLimits::default());
    let config = world.authority.client_config(b"mqtt", None);
    let client = world.connect(config);
    world.run(1_000, |world| world.clients[client].is_connected);
    let proved = world.clients[client].address;
    world.pass(100); // The handshake is complete at the server, too.
    // The packet with the first stream claims to come from elsewhere, and is no probe: the connection moves.
    world.clients[client].address = ([203, 0, 113, 77], 7).into();
    world.say(client, b"hello");
    world.run(1_000, |world| !world.accepted.is_empty());
    let arrival = world.told[&world.accepted[0]].arrival.as_ref();
    assert_eq!(world.server.stats().migrations, 1);
    assert_eq!(arrival.map(|it| it.peer), Some(proved));
}

#[test]
fn who_is_banned_gets_no_answer_and_nobody_goes_on_from_there() {
    let mut world = World::new(QuicLimits::default());
    let banned = ([203, 0, 113, 66], 666).into();
    world.banned.push(banned);
    let initial = world.initial();
    world.deliver(banned, &initial);
    world.pass(1_000);
    assert_eq!(world.turned_away, [(banned, TurnedAway::Banned)]);
    assert_eq!(world.sent_to.get(&banned), None);
    assert_eq!(world.server.stats().handshakes_in_progress, 0);

    let (client, id) = world.client();
    let ping = ping_of(&mut world, client);
    world.deliver(banned, &ping);
    world.pass(1_000);
    assert_eq!(world.sent_to.get(&banned), None);
    let stats = world.server.stats();
    assert_eq!((stats.migrations, stats.elsewhere_dropped), (0, 1));
    assert!(!world.told[&id].is_closed, "whose datagram it was");
}

#[test]
fn a_client_cannot_send_the_server_to_many_addresses() {
    let mut world = World::new(QuicLimits::default());
    let (client, id) = world.client();
    let own = world.clients[client].address;
    for victim in 0..50 {
        let ping = ping_of(&mut world, client);
        world.deliver(([203, 0, 113, victim], 53).into(), &ping);
        world.flush();
    }
    world.pass(10);
    let victims = world.sent_to.keys().filter(|it| **it != own).count();
    assert!((1..=5).contains(&victims), "{victims}");
    assert!(world.server.stats().elsewhere_dropped >= 45);
    // It is still heard where it is.
    world.say(client, b" again");
    world.run(10_000, |world| world.heard(id).ends_with(b" again"));
}

#[test]
fn noise_changes_nothing() {
    let mut world = World::new(QuicLimits::default());
    world.echoes = true;
    let (client, _) = world.client();
    let mut initial = world.initial();
    let stranger = ([203, 0, 113, 5], 5).into();
    let own = world.clients[client].address;
    for round in 0..3_000 {
        let noise: Vec<u8> = if round % 3 == 0 {
            // Nearly a first datagram.
            let place = world.random() as usize % initial.len();
            initial[place] ^= 1 << (world.random() % 8);
            let length = world.random() as usize % (initial.len() + 1);
            initial[..length].to_vec()
        } else {
            let length = world.random() % 1_400;
            (0..length).map(|_| world.random() as u8).collect()
        };
        let from = [stranger, own, server_address()][round % 3];
        if !noise.is_empty() {
            world.deliver(from, &noise);
        }
    }
    world.say(client, b"still here");
    world.run(5_000, |world| {
        world.clients[client].received.ends_with(b"still here")
    });
    world.pass(120_000);
    assert_eq!(world.server.stats().connections, 1);
}

/// An Initial packet with these frames, as everybody can make it (RFC 9001 §5.2).
fn initial_with(frames: &[u8]) -> Vec<u8> {
    const TAG: usize = 16;
    let id = [7; 8];
    let suite = TLS13_AES_128_GCM_SHA256.tls13();
    let suite = suite.and_then(|suite| suite.quic_suite());
    let suite = suite.expect("QUIC has it");
    let keys = suite.keys(&id, Side::Client, Version::V1);
    let length = 1_200 + 1 + TAG;
    let mut packet = vec![0xc0, 0, 0, 0, 1, 8];
    packet.extend(id);
    packet.extend([0, 0]); // No id of the client's own, no token.
    packet.extend((0x4000 | length as u16).to_be_bytes());
    packet.push(0);
    let mut payload = frames.to_vec();
    payload.resize(length - 1 - TAG, 0); // Padding.
    let local = &keys.local;
    let tag = local.packet.encrypt_in_place(0, &packet, &mut payload);
    let start = packet.len();
    packet.extend(payload);
    packet.extend(tag.expect("it seals").as_ref());
    let (header, sealed) = packet.split_at_mut(start);
    let (first, header) = header.split_at_mut(1);
    let place = header.len() - 1;
    let (first, number) = (&mut first[0], &mut header[place..]);
    let masked = local.header.encrypt_in_place(&sealed[3..19], first, number);
    masked.expect("it masks");
    packet
}

#[test]
fn a_connection_that_is_closed_by_its_very_first_packet_is_not_kept() {
    let mut world = World::new(QuicLimits::default());
    // CONNECTION_CLOSE with error 0, of frame 0, without a reason.
    let closing = initial_with(&[0x1c, 0, 0, 0]);
    for stranger in 0..20 {
        world.deliver(([203, 0, 113, stranger], 5).into(), &closing);
        world.pass(1);
    }
    world.pass(60_000);
    let stats = world.server.stats();
    assert_eq!((stats.connections, stats.handshakes_in_progress), (0, 0));
}
