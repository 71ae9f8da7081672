//! Datagrams at the bounds, and the end of their sockets.

use std::net::SocketAddr;

use reactor::datagram::{DatagramConfig, DatagramOptions};
use reactor::driver::{Driver, DriverConfig};

use crate::world::{DatagramPeer, Peer, Seen, Setup, World, config, pattern};

fn with(datagrams: DatagramConfig) -> DriverConfig {
    DriverConfig {
        datagrams,
        ..config()
    }
}

pub(crate) fn few_buffers_lose_nothing_that_the_socket_holds<S: Setup>() {
    let mut world = World::<S>::new(with(DatagramConfig {
        receive_buffers: 2,
        ..DatagramConfig::small()
    }));
    let bound = [(); 2].map(|()| world.bind(DatagramOptions::server()).1);
    let mut peers: Vec<_> = (0..5).map(|_| world.datagram_peer()).collect();
    for round in 1..=10 {
        for number in 0..50u8 {
            let peer = &mut peers[usize::from(number) % 5];
            peer.send(bound[usize::from(number) % 2], &[number; 100]);
        }
        world.until_heard(50 * round);
    }
    let mut numbers: Vec<_> = world.heard.iter().map(|heard| heard.bytes[0]).collect();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), 50);
    assert!(
        world
            .driver()
            .counters()
            .datagrams
            .receive_buffers_exhausted
            > 0
    );
}

pub(crate) fn the_newest_is_dropped_when_too_much_is_unsent<S: Setup>() {
    let mut world = World::<S>::new(config());
    let (socket, _) = world.bind(DatagramOptions {
        unsent_bytes_max: 20_000,
        ..DatagramOptions::server()
    });
    let mut peer = world.datagram_peer();
    for number in 0..100u8 {
        world.transmit(socket, peer.address(), &[number; 1_000]);
        assert!(world.driver().datagrams_unsent(socket) <= 20_000);
    }
    let dropped = world.driver().counters().datagrams.dropped_full;
    assert!((80..95).contains(&dropped), "{dropped} were dropped");
    for number in 0..100 - dropped {
        assert_eq!(world.peer_hears(&mut peer).1, [number as u8; 1_000]);
    }
    world.turn();
    assert_eq!(peer.receive(), None);
    assert_eq!(world.driver().datagrams_unsent(socket), 0);
    // What was sent makes room.
    world.transmit(socket, peer.address(), b"again");
    assert_eq!(world.peer_hears(&mut peer).1, b"again");
    let counters = world.driver().counters().datagrams;
    assert_eq!(counters.sent + counters.dropped_full, 101);
    assert_eq!(counters.bytes_unsent, 0);
}

pub(crate) fn more_sends_than_may_be_in_flight_all_go_out<S: Setup>() {
    let mut world = World::<S>::new(with(DatagramConfig {
        sends_max: 3,
        ..DatagramConfig::small()
    }));
    let mut sockets = [(); 3].map(|()| {
        let (socket, bound) = world.bind(DatagramOptions::server());
        (socket, bound, world.datagram_peer())
    });
    for number in 0..100u8 {
        for (socket, _, peer) in &sockets {
            world.transmit(*socket, peer.address(), &[number; 30]);
        }
    }
    for number in 0..100u8 {
        for (_, bound, peer) in &mut sockets {
            assert_eq!(world.peer_hears(peer), (*bound, vec![number; 30]));
        }
    }
    assert_eq!(world.driver().counters().datagrams.sent, 300);
    // One that always has more to send does not keep the others from it.
    let (busy, _, to) = &sockets[0];
    let (quiet, bound, peer) = (sockets[1].0, sockets[1].1, sockets[1].2.address());
    for _ in 0..20 {
        world.transmit(*busy, to.address(), b"busy");
    }
    world.transmit(quiet, peer, b"quiet");
    let mut found = None;
    let (mut turns, busy, to) = (0, *busy, to.address());
    world.until("the quiet one was sent", |world| {
        for _ in 0..20 {
            world.transmit(busy, to, b"busy");
        }
        turns += 1;
        found = sockets[1].2.receive();
        found.is_some()
    });
    assert_eq!(found, Some((bound, b"quiet".to_vec())));
    assert!(turns < 20, "{turns} turns");
}

pub(crate) fn a_datagram_that_is_too_large_to_send_is_counted<S: Setup>() {
    let mut world = World::<S>::new(config());
    let (socket, bound) = world.bind(DatagramOptions::server());
    let mut peer = world.datagram_peer();
    world.transmit(socket, peer.address(), &pattern(65_508));
    world.transmit(socket, peer.address(), b"");
    world.transmit(socket, peer.address(), &pattern(65_507));
    let (from, bytes) = world.peer_hears(&mut peer);
    assert!(from == bound && bytes == pattern(65_507));
    let counters = world.driver().counters().datagrams;
    assert_eq!((counters.sent, counters.too_large), (1, 1));
}

pub(crate) fn a_batch_that_fits_no_buffer_is_dropped_and_counted<S: Setup>() {
    let mut world = World::<S>::new(with(DatagramConfig {
        receive_buffer_bytes: 2_000,
        ..DatagramConfig::small()
    }));
    let (_, bound) = world.bind(DatagramOptions::server());
    let mut peer = world.datagram_peer();
    for _ in 0..40 {
        peer.send(bound, &pattern(2_001));
    }
    peer.send(bound, &pattern(2_000));
    world.until_heard(1);
    assert!(world.heard[0].bytes == pattern(2_000));
    assert_eq!(world.driver().counters().datagrams.truncated, 40);
}

pub(crate) fn a_closed_port_is_counted_and_survived<S: Setup>() {
    let mut world = World::<S>::new(config());
    let nobody = world.datagram_peer().address();
    let mut peer = world.datagram_peer();
    let (server, _) = world.bind(DatagramOptions::server());
    let (client, _) = world.bind(DatagramOptions::client(nobody));
    for round in 1..=3 {
        world.transmit(client, nobody, b"anybody?");
        world.until("the answer was counted", |world| {
            world.driver().counters().datagrams.refused >= round
        });
        // One with many peers goes on with the others.
        world.transmit(server, nobody, b"anybody?");
        world.transmit(server, peer.address(), b"you?");
        assert_eq!(world.peer_hears(&mut peer).1, b"you?");
    }
    // And so does the client, once somebody is there.
    let mut peer = world.setup.datagram_peer(nobody).expect("nobody has it");
    world.transmit(client, nobody, b"anybody?");
    assert_eq!(world.peer_hears(&mut peer).1, b"anybody?");
}

pub(crate) fn sockets_above_the_maximum_are_refused<S: Setup>() {
    let mut world = World::<S>::new(with(DatagramConfig {
        sockets_max: 2,
        ..DatagramConfig::small()
    }));
    let (first, _) = world.bind(DatagramOptions::server());
    world.bind(DatagramOptions::server());
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let options = DatagramOptions::server();
    let refused = world.driver().bind_datagrams(any, options);
    let error = refused.expect_err("there are two").to_string();
    assert!(error.contains("sockets_max"), "{error}");
    world.close_socket(first);
    world.until("it is closed", |world| {
        world.driver().counters().datagrams.sockets == 1
    });
    let (next, _) = world.bind(DatagramOptions::server());
    assert!(next.slot == first.slot && next.generation != first.generation);
}

pub(crate) fn a_closed_socket_is_silent_and_its_id_stale<S: Setup>() {
    let mut world = World::<S>::new(config());
    let mut peer = world.datagram_peer();
    let (socket, bound) = world.bind(DatagramOptions::server());
    world.transmit(socket, peer.address(), b"first");
    assert_eq!(world.peer_hears(&mut peer).1, b"first");
    peer.send(bound, b"too late");
    world.transmit(socket, peer.address(), b"never sent");
    world.close_socket(socket);
    world.close_socket(socket);
    world.transmit(socket, peer.address(), b"stale");
    assert_eq!(world.driver().datagrams_unsent(socket), 0);
    world.until("it is closed", |world| {
        world.driver().counters().datagrams.sockets == 0
    });
    let counters = world.driver().counters().datagrams;
    assert_eq!((counters.dropped_closed, counters.bytes_unsent), (1, 0));
    assert_eq!(peer.receive(), None);
    // The address is free, and the next socket has nothing of the last one.
    let mut other = world.setup.datagram_peer(bound).expect("it is free");
    world.bind(DatagramOptions::server());
    peer.send(bound, b"to another");
    assert_eq!(world.peer_hears(&mut other).1, b"to another");
    assert!(world.heard.is_empty());
}

pub(crate) fn a_dropped_driver_closes_its_datagram_sockets<S: Setup>() {
    let mut world = World::<S>::new(config());
    let peer = world.datagram_peer();
    let bound = [(); 20].map(|()| {
        let (socket, bound) = world.bind(DatagramOptions::server());
        world.transmit(socket, peer.address(), b"in flight");
        bound
    });
    world.turn();
    world.setup.drop_driver();
    for address in bound {
        let again = world.setup.datagram_peer(address);
        assert!(again.is_ok(), "{address} is free");
    }
}

pub(crate) fn connections_and_datagrams_leave_room_for_each_other<S: Setup>() {
    let mut world = World::<S>::new(DriverConfig {
        receive_buffers: 4,
        receive_buffer_bytes: 512,
        events_max: 4,
        ..with(DatagramConfig {
            receive_buffers: 4,
            ..DatagramConfig::small()
        })
    });
    let address = world.listen();
    let mut busy: Vec<_> = (0..3).map(|_| world.pair(address)).collect();
    let (mut quiet, connection) = world.pair(address);
    let (socket, bound) = world.bind(DatagramOptions::server());
    let (_, flooded) = world.bind(DatagramOptions::server());
    let mut peer = world.datagram_peer();
    let mut flood = world.datagram_peer();
    for round in 1..=10 {
        assert_eq!(quiet.write(b"!"), 1);
        peer.send(bound, b"?");
        let mut turns = 0;
        world.until("both quiet ones were heard", |world| {
            for (busy, _) in &mut busy {
                busy.write(&[7; 8 * 1024]);
            }
            for _ in 0..10 {
                flood.send(flooded, &[7; 100]);
            }
            turns += 1;
            let heard = world.heard.iter().filter(|heard| heard.socket == socket);
            heard.count() == round && world.received(connection).len() == round
        });
        assert!(turns < 500, "{turns} turns");
    }
    assert!(world.count(|seen| matches!(seen, Seen::Datagrams(..))) > 10);
}
