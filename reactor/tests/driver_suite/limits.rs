//! What happens at the bounds.

use reactor::driver::{Backend, Close, Driver, DriverConfig};

use crate::world::{Peer, Seen, Setup, World, config};

pub(crate) fn connections_above_the_maximum_are_refused<S: Setup>() {
    let mut world = World::<S>::new(DriverConfig {
        connections_max: 4,
        ..config()
    });
    let address = world.listen();
    let mut pairs: Vec<_> = (0..4).map(|_| world.pair(address)).collect();
    for refused in 1..=3 {
        let mut peer = world
            .setup
            .open(address, false)
            .expect("the kernel accepts");
        world.read_to_end(&mut peer, 1);
        assert_eq!(world.driver().counters().refused, refused);
    }
    assert_eq!(world.count(|seen| matches!(seen, Seen::Accepted { .. })), 4);
    assert_eq!(world.count(|seen| matches!(seen, Seen::Closed { .. })), 0);
    for (peer, connection) in &mut pairs {
        world.write_all(peer, b"in");
        world.until("it arrived", |world| world.received(*connection) == b"in");
    }
    let (_peer, connection) = pairs.pop().expect("there are four");
    world.driver().close(connection, Close::Abort);
    world.until_closed(connection);
    world.pair(address);
    assert_eq!(world.driver().counters().connections, 4);
}

pub(crate) fn connects_above_the_maximum_are_refused<S: Setup>() {
    let mut world = World::<S>::new(DriverConfig {
        connections_max: 2,
        ..config()
    });
    let address = world.setup.listen();
    let first = world.connect(address, None);
    world.connect(address, None);
    assert!(world.driver().connect(address, None).is_err());
    world.driver().close(first, Close::Abort);
    world.until_closed(first);
    world.connect(address, None);
}

pub(crate) fn polls_return_no_more_events_than_asked_for<S: Setup>() {
    let mut world = World::<S>::new(DriverConfig {
        events_max: 3,
        ..config()
    });
    let address = world.listen();
    let mut peers: Vec<_> = (0..50)
        .map(|_| world.setup.open(address, false).expect("a listener"))
        .collect();
    for peer in &mut peers {
        assert_eq!(peer.write(b"hello"), 5);
        peer.finish();
    }
    let waker = world.driver().waker();
    world.until("everything was told", |world| {
        waker.wake();
        world.count(|seen| matches!(seen, Seen::PeerClosed(_))) == 50
    });
    let ids: Vec<_> = world.data.keys().copied().collect();
    for connection in &ids {
        assert_eq!(world.received(*connection), b"hello");
        world
            .driver()
            .close(*connection, Close::Graceful { linger_ms: 1_000 });
    }
    for connection in ids {
        world.until_closed(connection);
    }
}

pub(crate) fn thousands_of_events_survive_a_tiny_completion_queue<S: Setup>() {
    let config = DriverConfig {
        submission_entries: 4,
        completion_entries: 8,
        events_max: 1024,
        ..config()
    };
    let mut world = World::<S>::new(config);
    let address = world.listen();
    let mut pairs: Vec<_> = (0..300).map(|_| world.pair(address)).collect();
    for round in 1..=10 {
        for (peer, _) in &mut pairs {
            assert_eq!(peer.write(&[round; 10]), 10);
        }
        for (_, connection) in &pairs {
            world.send(*connection, &[round; 10]);
        }
        world.until("everything arrived", |world| {
            pairs
                .iter()
                .all(|(_, connection)| world.received(*connection).len() == usize::from(round) * 10)
        });
        for (peer, _) in &mut pairs {
            assert_eq!(world.read_exactly(peer, 10, 10), [round; 10]);
        }
    }
    if world.driver().backend() == Backend::IoUring {
        assert!(world.driver().counters().completion_overflows > 0);
    }
    for (peer, connection) in pairs {
        drop(peer);
        world
            .driver()
            .close(connection, Close::Graceful { linger_ms: 1_000 });
    }
    world.until("all are gone", |world| {
        world.driver().counters().connections == 0
    });
}

pub(crate) fn as_many_connections_are_accepted_in_one_poll_as_may_be<S: Setup>() {
    let mut world = World::<S>::new(config());
    world.driver().accept_at_most(2);
    let address = world.listen();
    world.turn();
    let accepted = |world: &World<S>| world.count(|seen| matches!(seen, Seen::Accepted { .. }));
    let mut open = || {
        world
            .setup
            .open(address, false)
            .expect("the kernel accepts")
    };
    let peers: Vec<S::Peer> = (0..12).map(|_| open()).collect();
    let backlog = world.driver().accept_backlog();
    assert!((10..=12).contains(&backlog.waiting), "{backlog:?}");
    world.driver().wait_at_most(16);
    let backlog = world.driver().accept_backlog();
    assert_eq!(backlog.fullest_permille, backlog.waiting * 1_000 / 16);
    assert!(backlog.waiting >= 10, "those that wait stay: {backlog:?}");
    while accepted(&world) < peers.len() {
        let before = accepted(&world);
        world.turn();
        assert!(accepted(&world) - before <= 2);
    }
    assert_eq!(world.driver().accept_backlog().waiting, 0);
    // As many as before again.
    world.driver().accept_at_most(64);
    let _more: Vec<_> = (0..12).map(|_| world.pair(address)).collect();
    assert_eq!(accepted(&world), 24);
}
