//! Bytes that go out.

use reactor::driver::{Close, Driver};

use crate::world::{Peer, Read, Seen, Setup, World, config, pattern};

pub(crate) fn small_sends_need_no_drained_event<S: Setup>() {
    let mut world = World::<S>::new(config());
    let address = world.listen();
    let (mut peer, connection) = world.pair(address);
    for round in 0..20 {
        world.send(connection, &pattern(100));
        assert_eq!(world.driver().unsent(connection), 100);
        world.turn();
        assert_eq!(world.driver().unsent(connection), 0, "in round {round}");
    }
    assert!(world.read_exactly(&mut peer, 2_000, 4096) == pattern(100).repeat(20));
    assert_eq!(world.count(|seen| matches!(seen, Seen::Drained(_))), 0);
    let counters = world.driver().counters();
    assert_eq!((counters.bytes_sent, counters.bytes_unsent), (2_000, 0));
}

pub(crate) fn a_slow_reader_gets_everything_and_one_drained_event<S: Setup>() {
    let mut world = World::<S>::new(config());
    let address = world.listen();
    let (mut peer, connection) = world.pair_with(address, true);
    let bytes = pattern(5_000_000);
    for part in bytes.chunks(1_000_000) {
        world.send(connection, part);
    }
    world.turn();
    assert!(world.driver().unsent(connection) > 0);
    // What is queued while a send is in flight follows it.
    world.send(connection, b"the end");
    assert!(world.read_exactly(&mut peer, bytes.len(), 100_000) == bytes);
    assert_eq!(world.read_exactly(&mut peer, 7, 7), b"the end");
    world.until("the queue is drained", |world| {
        world.seen.contains(&Seen::Drained(connection))
    });
    for _ in 0..5 {
        world.turn();
    }
    assert_eq!(world.count(|seen| matches!(seen, Seen::Drained(_))), 1);
    assert_eq!(world.driver().counters().bytes_sent, bytes.len() as u64 + 7);
    assert_eq!(world.driver().counters().bytes_unsent, 0);
}

pub(crate) fn a_peer_that_never_stops_sending_does_not_hold_back_drained<S: Setup>() {
    let mut world = World::<S>::new(config());
    let address = world.listen();
    let (mut peer, connection) = world.pair_with(address, true);
    let bytes = pattern(5_000_000);
    world.send(connection, &bytes);
    world.turn();
    assert!(world.driver().unsent(connection) > 0);
    let flood = pattern(64 * 1024);
    let (mut read, mut turns) = (0, 0);
    world.until("the queue is drained", |world| {
        // More than one turn receives, so that there is always something left.
        peer.write(&flood);
        if let Read::Bytes(more) = peer.read(200_000) {
            read += more.len();
        }
        turns += u32::from(read == bytes.len());
        assert!(turns < 100, "it is told of while there is more to receive");
        world.seen.contains(&Seen::Drained(connection))
    });
}

pub(crate) fn drained_may_follow_the_end_of_the_peer<S: Setup>() {
    let mut world = World::<S>::new(config());
    let address = world.listen();
    let (mut peer, connection) = world.pair_with(address, true);
    let bytes = pattern(5_000_000);
    world.send(connection, &bytes);
    world.turn();
    peer.finish();
    world.until("the peer closed", |world| {
        world.seen.contains(&Seen::PeerClosed(connection))
    });
    assert!(world.driver().unsent(connection) > 0);
    assert!(world.read_exactly(&mut peer, bytes.len(), 1 << 20) == bytes);
    world.until("the queue is drained", |world| {
        world.seen.last() == Some(&Seen::Drained(connection))
    });
}

pub(crate) fn many_small_sends_go_out_in_order<S: Setup>() {
    let mut world = World::<S>::new(config());
    let address = world.listen();
    let mut pairs: Vec<_> = (0..100).map(|_| world.pair(address)).collect();
    let bytes = pattern(20_000);
    for part in bytes.chunks(70) {
        for (_, connection) in &pairs {
            world.send(*connection, part);
        }
    }
    for (peer, _) in &mut pairs {
        assert!(world.read_exactly(peer, bytes.len(), 1 << 20) == bytes);
    }
}

pub(crate) fn a_peer_that_ended_its_side_still_gets_bytes<S: Setup>() {
    let mut world = World::<S>::new(config());
    let address = world.listen();
    let (mut peer, connection) = world.pair(address);
    world.write_all(&mut peer, b"last words");
    peer.finish();
    world.until("the peer closed", |world| {
        world.seen.contains(&Seen::PeerClosed(connection))
    });
    assert_eq!(world.received(connection), b"last words");
    let bytes = pattern(500_000);
    world.send(connection, &bytes);
    assert!(world.read_exactly(&mut peer, bytes.len(), 1 << 20) == bytes);
    assert_eq!(peer.read(1), Read::Nothing, "our side is still open");
    world
        .driver()
        .close(connection, Close::Graceful { linger_ms: 10_000 });
    assert_eq!(world.until_closed(connection), (0, None));
    assert_eq!(world.read_to_end(&mut peer, 1), (Vec::new(), true));
}

pub(crate) fn sent_vectors_come_back_empty<S: Setup>() {
    let mut world = World::<S>::new(config());
    let address = world.listen();
    let (mut peer, connection) = world.pair(address);
    assert!(world.driver().reclaim().is_none());
    let mut vector = Vec::with_capacity(5_000);
    vector.extend_from_slice(b"hello");
    world.driver().send(connection, vector);
    assert_eq!(world.read_exactly(&mut peer, 5, 5), b"hello");
    world.turn();
    let vector = world.driver().reclaim().expect("the vector comes back");
    assert!(vector.is_empty() && vector.capacity() >= 5_000);
    assert!(world.driver().reclaim().is_none());
}
