//! All the ways to end.

use std::io::ErrorKind;

use reactor::driver::{Close, Driver};

use crate::world::{Peer, Read, Seen, Setup, World, config, pattern};

const GRACEFUL: Close = Close::Graceful { linger_ms: 15_000 };

fn is_broken(error: Option<ErrorKind>) -> bool {
    matches!(
        error,
        Some(ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
    )
}

pub(crate) fn a_graceful_close_delivers_everything_before_fin<S: Setup>() {
    let mut world = World::<S>::new(config());
    let address = world.listen();
    let (mut peer, connection) = world.pair_with(address, true);
    let bytes = pattern(4_000_000);
    world.send(connection, &bytes);
    world.driver().close(connection, GRACEFUL);
    // After close, sending does nothing.
    world.send(connection, b"too late");
    // What the peer still sends is thrown away, and does not turn the end into a reset.
    peer.write(&pattern(10_000));
    let (received, orderly) = world.read_to_end(&mut peer, 200_000);
    assert!(received == bytes && orderly);
    assert_eq!(
        world.closed(connection),
        None,
        "it waits for the peer's FIN"
    );
    peer.finish();
    assert_eq!(world.until_closed(connection), (0, None));
    assert_eq!(world.received(connection), b"");
    assert_eq!(world.driver().counters().connections, 0);
}

pub(crate) fn a_graceful_close_gives_up_after_its_linger_time<S: Setup>() {
    let mut world = World::<S>::new(config());
    let address = world.listen();
    let (_stuck, first) = world.pair_with(address, true);
    let (mut idle, second) = world.pair(address);
    world.send(first, &pattern(5_000_000));
    world.turn();
    world
        .driver()
        .close(first, Close::Graceful { linger_ms: 30 });
    world
        .driver()
        .close(second, Close::Graceful { linger_ms: 30 });
    let (unsent, error) = world.until_closed(first);
    assert!(unsent > 0 && error.is_none(), "{unsent} {error:?}");
    assert_eq!(world.until_closed(second), (0, None));
    assert!(
        world.read_to_end(&mut idle, 10).1,
        "a peer that says nothing sees an orderly end"
    );
    assert_eq!(world.driver().counters().bytes_unsent, 0);
}

pub(crate) fn an_abort_drops_what_is_queued<S: Setup>() {
    let mut world = World::<S>::new(config());
    let address = world.listen();
    let (mut peer, connection) = world.pair_with(address, true);
    world.send(connection, &pattern(5_000_000));
    world.turn();
    world.send(connection, &pattern(1_000));
    world.driver().close(connection, Close::Abort);
    let (unsent, error) = world.until_closed(connection);
    assert!(unsent > 1_000 && error.is_none(), "{unsent} {error:?}");
    let (received, _) = world.read_to_end(&mut peer, 1 << 20);
    assert!(received.len() <= 5_000_000 && received == pattern(5_000_000)[..received.len()]);
    assert_eq!(world.driver().counters().bytes_unsent, 0);
    // Before anything was flushed.
    let (_peer, connection) = world.pair(address);
    world.send(connection, b"never sent");
    world.driver().close(connection, Close::Abort);
    assert_eq!(world.until_closed(connection), (10, None));
}

pub(crate) fn a_reset_ends_a_connection_with_an_error<S: Setup>() {
    let mut world = World::<S>::new(config());
    let address = world.listen();
    let (peer, idle) = world.pair(address);
    peer.reset();
    assert_eq!(
        world.until_closed(idle),
        (0, Some(ErrorKind::ConnectionReset))
    );
    // Also when it is paused, and when the peer had ended its side before.
    let (peer, paused) = world.pair(address);
    world.driver().pause(paused);
    world.turn();
    peer.reset();
    assert!(is_broken(world.until_closed(paused).1));
    let (mut peer, half) = world.pair(address);
    peer.finish();
    world.until("the peer closed", |world| {
        world.seen.contains(&Seen::PeerClosed(half))
    });
    world.turn();
    peer.reset();
    assert!(is_broken(world.until_closed(half).1));
}

pub(crate) fn a_reset_ends_a_send_in_flight<S: Setup>() {
    let mut world = World::<S>::new(config());
    let address = world.listen();
    let (mut peer, connection) = world.pair_with(address, true);
    world.send(connection, &pattern(5_000_000));
    for _ in 0..3 {
        world.turn();
        peer.read(1_000);
    }
    peer.reset();
    let (unsent, error) = world.until_closed(connection);
    assert!(unsent > 0 && is_broken(error), "{unsent} {error:?}");
    assert_eq!(world.driver().counters().bytes_unsent, 0);
}

pub(crate) fn sending_to_a_closed_peer_ends_the_connection<S: Setup>() {
    let mut world = World::<S>::new(config());
    let address = world.listen();
    let (peer, connection) = world.pair(address);
    drop(peer);
    world.until("sending failed", |world| {
        world.send(connection, b"is anybody there?");
        world.closed(connection).is_some()
    });
    assert!(is_broken(world.until_closed(connection).1));
}

pub(crate) fn both_sides_may_close_at_once<S: Setup>() {
    let mut world = World::<S>::new(config());
    let address = world.listen();
    for round in 0..60 {
        let (mut peer, connection) = world.pair(address);
        if round % 2 == 0 {
            world.send(connection, b"goodbye");
        }
        if round % 3 == 0 {
            peer.write(b"goodbye");
        }
        if round % 5 == 0 {
            world.turn();
        }
        let how = if round % 4 < 2 {
            GRACEFUL
        } else {
            Close::Abort
        };
        if round % 7 == 0 {
            world.driver().close(connection, how);
            drop(peer);
        } else {
            drop(peer);
            world.driver().close(connection, how);
        }
        world.until_closed(connection);
    }
    assert_eq!(world.driver().counters().connections, 0);
}

pub(crate) fn closing_twice_ends_once<S: Setup>() {
    let mut world = World::<S>::new(config());
    let address = world.listen();
    let (_peer, connection) = world.pair(address);
    world.driver().close(connection, GRACEFUL);
    world.driver().close(connection, GRACEFUL);
    world.turn();
    world.driver().close(connection, Close::Abort);
    world.driver().close(connection, Close::Abort);
    assert_eq!(world.until_closed(connection), (0, None));
    world.driver().close(connection, Close::Abort);
    for _ in 0..5 {
        world.turn();
    }
    assert_eq!(world.count(|seen| matches!(seen, Seen::Closed { .. })), 1);
}

pub(crate) fn a_paused_connection_can_be_closed<S: Setup>() {
    let mut world = World::<S>::new(config());
    let address = world.listen();
    for how in [GRACEFUL, Close::Abort] {
        let (mut peer, connection) = world.pair(address);
        world.driver().pause(connection);
        world.turn();
        peer.write(b"unheard");
        world.turn();
        world.driver().close(connection, how);
        peer.finish();
        assert_eq!(world.until_closed(connection), (0, None));
    }
}

pub(crate) fn a_stale_id_does_nothing<S: Setup>() {
    let mut world = World::<S>::new(config());
    let address = world.listen();
    // Some drivers have promised free slots to accepts already: soon one is used again.
    let mut closed = Vec::new();
    for _ in 0..200 {
        let (peer, connection) = world.pair(address);
        drop(peer);
        world.driver().close(connection, Close::Abort);
        world.until_closed(connection);
        closed.push(connection);
    }
    let (mut peer, connection) = world.pair(address);
    assert!(
        closed.iter().any(|old| old.slot == connection.slot),
        "a slot is used again"
    );
    for old in closed {
        assert_ne!(old, connection);
        world.send(old, b"for nobody");
        assert_eq!(world.driver().unsent(old), 0);
        world.driver().pause(old);
        world.driver().resume(old);
        world.driver().close(old, Close::Abort);
    }
    world.write_all(&mut peer, b"hello");
    world.until("it arrived", |world| world.received(connection) == b"hello");
    world.send(connection, b"hello yourself");
    assert_eq!(world.read_exactly(&mut peer, 14, 14), b"hello yourself");
    assert_eq!(world.closed(connection), None);
}

pub(crate) fn a_dropped_driver_closes_everything<S: Setup>() {
    let mut world = World::<S>::new(config());
    let address = world.listen();
    let mut peers = Vec::new();
    for number in 0..50 {
        let (mut peer, connection) = world.pair_with(address, number % 5 == 0);
        match number % 5 {
            0 => world.send(connection, &pattern(4_000_000)),
            1 => drop(peer.write(&pattern(10_000))),
            2 => world.driver().pause(connection),
            3 => world.driver().close(connection, GRACEFUL),
            _ => {}
        }
        peers.push(peer);
    }
    let elsewhere = world.setup.listen();
    world.connect(elsewhere, None);
    world.turn();
    for (_, connection) in [world.pair(address), world.pair(address)] {
        world.send(connection, b"never flushed");
    }
    world.setup.drop_driver();
    let start = std::time::Instant::now();
    for mut peer in peers {
        while !matches!(peer.read(1 << 20), Read::End | Read::Reset) {
            assert!(start.elapsed().as_secs() < 20, "every peer sees the end");
        }
    }
    assert!(
        world.setup.open(address, false).is_err(),
        "nobody listens any more"
    );
}
