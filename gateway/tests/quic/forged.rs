//! What is no client: forged addresses, packets for connections of the past, noise.

use gateway::limits::QuicLimits;
use gateway::quic::{Listening, NodeKeys};
use gateway::tls::ClusterSecret;
use quinn_proto::ConnectionError;

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
    let mut world = World::new(QuicLimits::default());
    let (client, _) = world.client();
    world.restart(listening);
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
fn who_did_not_issue_an_id_does_not_say_that_its_connection_is_gone() {
    let another_node = Listening {
        node: 1,
        ..listening(0, 1)
    };
    assert_eq!(after_restart(another_node), (0, None));
    let another_cluster = Listening {
        keys: NodeKeys::new(&ClusterSecret([8; 32])),
        ..listening(0, 1)
    };
    assert_eq!(after_restart(another_cluster), (0, None));
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
