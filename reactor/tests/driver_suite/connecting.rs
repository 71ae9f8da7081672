//! Connections that the driver opens, and listeners that end.

use std::io::ErrorKind;
use std::net::SocketAddr;

use reactor::driver::{Close, ConnectionId, Driver, DriverConfig, Keepalive, ListenOptions};

use crate::world::{Peer, Seen, Setup, World, config, pattern};

fn open<S: Setup>(world: &mut World<S>, local: Option<SocketAddr>) -> (S::Peer, ConnectionId) {
    let address = world.setup.listen();
    let connection = world.connect(address, local);
    world.until("it is connected", |world| {
        world.seen.contains(&Seen::Connected(connection))
    });
    let mut peer = None;
    world.until("the peer accepted", |world| {
        peer = world.setup.accept();
        peer.is_some()
    });
    (peer.expect("accepted"), connection)
}

pub(crate) fn a_connection_that_was_opened_carries_bytes_both_ways<S: Setup>() {
    let mut world = World::<S>::new(config());
    let (mut peer, connection) = open(&mut world, None);
    let bytes = pattern(200_000);
    world.send(connection, &bytes);
    assert!(world.read_exactly(&mut peer, bytes.len(), 1 << 20) == bytes);
    world.write_all(&mut peer, &bytes);
    world.until("it arrived", |world| {
        world.received(connection).len() == bytes.len()
    });
    assert!(world.received(connection) == bytes);
    world
        .driver()
        .close(connection, Close::Graceful { linger_ms: 10_000 });
    assert_eq!(world.read_to_end(&mut peer, 10), (Vec::new(), true));
    drop(peer);
    assert_eq!(world.until_closed(connection), (0, None));
}

pub(crate) fn a_local_address_is_used<S: Setup>() {
    let mut world = World::<S>::new(config());
    let local = SocketAddr::from(([127, 0, 0, 9], 0));
    let (peer, _) = open(&mut world, Some(local));
    assert_eq!(peer.remote().ip(), local.ip());
    assert_ne!(peer.remote().port(), 0);
}

pub(crate) fn bytes_queued_before_connected_arrive<S: Setup>() {
    let mut world = World::<S>::new(config());
    let address = world.setup.listen();
    let connection = world.connect(address, None);
    let bytes = pattern(50_000);
    for part in bytes.chunks(10_000) {
        world.send(connection, part);
    }
    assert_eq!(world.driver().unsent(connection), bytes.len());
    let mut peer = None;
    world.until("the peer accepted", |world| {
        peer = world.setup.accept();
        peer.is_some()
    });
    let mut peer = peer.expect("accepted");
    assert!(world.read_exactly(&mut peer, bytes.len(), 1 << 20) == bytes);
    world.until("it is connected and drained", |world| {
        let drained = world
            .seen
            .iter()
            .position(|seen| *seen == Seen::Drained(connection));
        let connected = world
            .seen
            .iter()
            .position(|seen| *seen == Seen::Connected(connection));
        drained.is_some() && connected < drained
    });
}

pub(crate) fn a_refused_connect_ends_with_its_error<S: Setup>() {
    let mut world = World::<S>::new(config());
    let nobody = world.setup.nobody();
    let connection = world.connect(nobody, None);
    world.send(connection, b"hello?");
    assert_eq!(
        world.until_closed(connection),
        (6, Some(ErrorKind::ConnectionRefused))
    );
    assert_eq!(world.count(|seen| matches!(seen, Seen::Connected(_))), 0);
    let counters = world.driver().counters();
    assert_eq!((counters.connections, counters.bytes_unsent), (0, 0));
}

pub(crate) fn a_connect_can_be_closed_at_once<S: Setup>() {
    let mut world = World::<S>::new(config());
    for how in [Close::Abort, Close::Graceful { linger_ms: 10_000 }] {
        let address = world.setup.listen();
        let connection = world.connect(address, None);
        world.driver().close(connection, how);
        assert_eq!(world.until_closed(connection).0, 0);
    }
}

pub(crate) fn a_connect_that_nobody_answers_can_be_closed<S: Setup>() {
    let mut world = World::<S>::new(config());
    let Some(silence) = world.setup.silence() else {
        return;
    };
    for how in [Close::Abort, Close::Graceful { linger_ms: 10_000 }] {
        let connection = world.connect(silence, None);
        for _ in 0..5 {
            world.turn();
        }
        assert!(!world.seen.contains(&Seen::Connected(connection)));
        world.driver().close(connection, how);
        assert_eq!(world.until_closed(connection), (0, None));
    }
}

pub(crate) fn nothing_is_accepted_once_listening_stopped<S: Setup>() {
    // One event a poll: what else was accepted by then waits to be told.
    let mut world = World::<S>::new(DriverConfig {
        events_max: 1,
        ..config()
    });
    let address = world.listen();
    world.turn();
    let mut peers: Vec<_> = (0..5)
        .map(|_| world.setup.open(address, false).expect("it listens"))
        .collect();
    let accepted = |seen: &Seen| matches!(seen, Seen::Accepted { .. });
    world.until("one was accepted", |world| world.count(accepted) == 1);
    world.driver().stop_listening();
    let first = world.seen.iter().find_map(|seen| match seen {
        Seen::Accepted { peer, .. } => Some(*peer),
        _ => None,
    });
    for peer in &mut peers {
        if Some(peer.address()) != first {
            world.read_to_end(peer, 10);
        }
    }
    assert_eq!(world.count(accepted), 1);
    assert_eq!(world.driver().counters().connections, 1);
    // The same address again is another listener.
    let options = ListenOptions {
        backlog: 16,
        reuse_port: false,
        keepalive: Some(Keepalive::USUAL),
    };
    let (again, address) = world
        .driver()
        .listen(address, options)
        .expect("the address is free");
    world.turn();
    let (_peer, connection) = world.pair(address);
    assert!(world.seen.iter().any(|seen| matches!(
        seen,
        Seen::Accepted { connection: new, listener, .. } if *new == connection && *listener == again
    )));
}

pub(crate) fn a_stopped_listener_refuses_and_connections_stay<S: Setup>() {
    let mut world = World::<S>::new(config());
    let address = world.listen();
    let (mut peer, connection) = world.pair(address);
    world.driver().stop_listening();
    world.until("nobody listens", |world| {
        world.setup.open(address, false).is_err()
    });
    for _ in 0..3 {
        world.turn();
    }
    world.send(connection, b"still here");
    assert_eq!(world.read_exactly(&mut peer, 10, 10), b"still here");
    let again = world.listen();
    let (mut peer, connection) = world.pair(again);
    world.write_all(&mut peer, b"and here");
    world.until("it arrived", |world| {
        world.received(connection) == b"and here"
    });
}
