//! What happens at the bounds: waiting, Retry, refusal; and that nothing is left of those who go.

use gateway::limits::QuicLimits;
use gateway::quic::ErrorCode;
use gateway::tls::Reason;
use quinn_proto::{ConnectionError, VarInt};

use crate::world::World;

#[test]
fn a_client_that_opens_no_stream_is_told_so_and_goes() {
    let mut world = World::new(QuicLimits::default());
    let config = world.authority.client_config(b"mqtt", None);
    let client = world.connect(config);
    world.run(1_000, |world| world.clients[client].is_connected);
    world.run(15_000, |world| world.clients[client].lost.is_some());
    let lost = world.clients[client].lost.clone();
    let Some(ConnectionError::ApplicationClosed(close)) = lost else {
        panic!("{lost:?}");
    };
    let code = VarInt::from_u32(ErrorCode::NoStream as u32);
    assert_eq!(close.error_code, code);
    assert!(world.accepted.is_empty());
    world.pass(10_000);
    assert_eq!(world.server.stats().connections, 0);
}

#[test]
fn a_handshake_that_is_not_complete_in_time_leaves_nothing() {
    let mut world = World::new(QuicLimits::default());
    let initial = world.initial();
    world.deliver(([203, 0, 113, 1], 1).into(), &initial);
    world.pass(9_900);
    assert_eq!(world.server.stats().handshakes_in_progress, 1);
    world.pass(60_000);
    let stats = world.server.stats();
    assert_eq!((stats.handshakes_in_progress, stats.connections), (0, 0));
    assert_eq!(stats.failed(Reason::TimedOut), 1);
}

#[test]
fn a_turn_begins_only_so_many_handshakes_and_the_others_wait() {
    let limits = QuicLimits {
        handshakes_per_turn: 3,
        ..QuicLimits::default()
    };
    let mut world = World::new(limits);
    for client in 0..10 {
        let initial = world.initial();
        world.deliver(([203, 0, 113, client], 1).into(), &initial);
    }
    for (begun, left) in [(0, 10), (3, 7), (6, 4), (9, 1)] {
        let stats = world.server.stats();
        assert_eq!(
            (stats.handshakes_in_progress, stats.handshakes_waiting),
            (begun, left)
        );
        let next = world.server.next_deadline_ms();
        assert_eq!(next, Some(0), "the next turn is at once");
        world.server_turn();
    }
    assert_eq!(world.server.stats().handshakes_waiting, 0);
}

#[test]
fn a_turn_begins_no_more_handshakes_than_it_has_time_for() {
    let mut world = World::new(QuicLimits::default());
    world.time_for = 1;
    let config = world.authority.client_config(b"mqtt", None);
    let clients: Vec<usize> = (0..5).map(|_| world.connect(config.clone())).collect();
    world.run(1_000, |world| world.server.stats().handshakes_waiting > 0);
    let stats = world.server.stats();
    assert_eq!(
        (stats.handshakes_in_progress, stats.handshakes_waiting),
        (1, 4)
    );
    // The others get their turns, one each.
    let all_connected = |world: &World| clients.iter().all(|it| world.clients[*it].is_connected);
    world.run(1_000, all_connected);
}

#[test]
fn a_handshake_that_waited_for_too_long_is_counted() {
    let limits = QuicLimits {
        handshakes_per_turn: 1,
        ..QuicLimits::default()
    };
    let mut world = World::new(limits);
    for client in 0..2 {
        let initial = world.initial();
        world.deliver(([203, 0, 113, client], 1).into(), &initial);
    }
    world.server_turn();
    assert_eq!(world.server.stats().handshakes_waiting, 1);
    assert_eq!(world.server.take_begun(), 1);
    world.now_ms += 10_000;
    world.server_turn();
    let stats = world.server.stats();
    assert_eq!(stats.handshakes_waiting, 0);
    assert_eq!(stats.failed(Reason::TimedOut), 1);
    assert_eq!(world.server.take_begun(), 0, "it never began");
}

#[test]
fn the_queue_of_waiting_handshakes_says_how_full_it_is() {
    let limits = QuicLimits {
        handshakes_per_turn: 0,
        handshakes_max: 4,
        ..QuicLimits::default()
    };
    let mut world = World::new(limits);
    for client in 0..3 {
        let initial = world.initial();
        world.deliver(([203, 0, 113, client], 1).into(), &initial);
    }
    assert_eq!(world.server.waiting_permille(), 750);
}

#[test]
fn a_client_that_vanished_goes_after_hours_and_one_that_is_only_silent_stays() {
    const HOUR: u64 = 60 * 60 * 1_000;
    let mut world = World::new(QuicLimits::default());
    let (_, silent) = world.client();
    world.pass(10 * HOUR);
    assert!(!world.told[&silent].is_closed);
    world.drops = |_| true;
    world.pass(6 * HOUR);
    assert!(world.told[&silent].is_closed);
    assert_eq!(world.server.stats().timed_out, 1);
    assert_eq!(world.server.stats().connections, 0);
}

#[test]
fn what_is_sent_takes_no_more_room_than_it_is_long() {
    let mut world = World::new(QuicLimits::default());
    let ids: Vec<_> = (0..100).map(|_| world.client().1).collect();
    world.pass(1_000);
    for id in ids {
        world.server.send(id, b"a short message");
    }
    let mut capacities = 0;
    let now = world.now();
    let gate = &mut world.gate;
    world.server.transmit(now, gate, |_, transmit| {
        capacities += transmit.bytes.capacity();
    });
    assert!(capacities < 100 * 200, "{capacities} bytes");
}

#[test]
fn under_pressure_a_client_has_to_show_that_it_is_where_it_says() {
    let limits = QuicLimits {
        retry_above: 5,
        ..QuicLimits::default()
    };
    let mut world = World::new(limits);
    for client in 0..100 {
        let initial = world.initial();
        world.deliver(([203, 0, 113, client], 1).into(), &initial);
    }
    world.server_turn();
    let stats = world.server.stats();
    assert_eq!((stats.handshakes_in_progress, stats.retried), (5, 95));
    assert_eq!(stats.connections, 5, "the others cost nothing");
    // An honest client gets through.
    world.client();
    assert_eq!(world.server.stats().retried, 96);
    assert_eq!(world.server.stats().handshakes_full, 1);
}

#[test]
fn beyond_the_bound_of_handshakes_clients_are_refused() {
    let limits = QuicLimits {
        retry_above: 0,
        handshakes_max: 0,
        ..QuicLimits::default()
    };
    let mut world = World::new(limits);
    let config = world.authority.client_config(b"mqtt", None);
    let client = world.connect(config);
    world.run(5_000, |world| world.clients[client].lost.is_some());
    let lost = world.clients[client].lost.clone();
    assert!(
        matches!(lost, Some(ConnectionError::ConnectionClosed(_))),
        "{lost:?}"
    );
    assert_eq!(world.server.stats().refused, 1);
}

#[test]
fn beyond_the_bound_of_connections_clients_are_refused_until_one_goes() {
    let limits = QuicLimits {
        connections_max: 2,
        ..QuicLimits::default()
    };
    let mut world = World::new(limits);
    let (first, _) = world.client();
    world.client();
    let config = world.authority.client_config(b"mqtt", None);
    let third = world.connect(config);
    world.run(5_000, |world| world.clients[third].lost.is_some());
    let now = world.instant();
    let gone = &mut world.clients[first].connection;
    gone.close(now, VarInt::from_u32(0), "".into());
    world.pass(10_000);
    assert_eq!(world.server.stats().connections, 1);
    world.client();
}

#[test]
fn a_stopping_server_closes_all_and_takes_nobody_in() {
    let mut world = World::new(QuicLimits::default());
    let config = world.authority.client_config(b"mqtt", None);
    let without_stream = world.connect(config.clone());
    world.run(5_000, |world| world.clients[without_stream].is_connected);
    let now = world.now();
    world.server.shut_down(now);
    assert_eq!(world.server.open(), 0);
    world.run(5_000, |world| world.clients[without_stream].lost.is_some());
    let late = world.connect(config);
    world.pass(5_000);
    assert!(!world.clients[late].is_connected);
}
