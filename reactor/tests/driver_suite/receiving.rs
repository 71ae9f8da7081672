//! Bytes that come in.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use reactor::driver::{Driver, DriverConfig, Keepalive, ListenOptions, ListenerId};

use crate::setups::Uring;
use crate::world::{Peer, Read, Seen, Setup, World, config, pattern};

pub(crate) fn accepted_connections_name_their_peer<S: Setup>() {
    let mut world = World::<S>::new(config());
    let options = ListenOptions {
        backlog: 16,
        reuse_port: true,
        keepalive: Some(Keepalive::USUAL),
    };
    for (number, ip) in ["127.0.0.1:0", "[::1]:0"].into_iter().enumerate() {
        let address: SocketAddr = ip.parse().expect("an address");
        let (listener, bound) = world
            .driver()
            .listen(address, options)
            .expect("a port is free");
        assert_eq!(
            (listener, bound.ip()),
            (ListenerId(number as u16), address.ip())
        );
        let (peer, connection) = world.pair(bound);
        let wanted = Seen::Accepted {
            connection,
            listener,
            peer: peer.address(),
        };
        assert!(world.seen.contains(&wanted));
        assert_eq!(peer.remote(), bound);
    }
    let counters = world.driver().counters();
    assert_eq!((counters.accepted, counters.connections), (2, 2));
}

pub(crate) fn single_bytes_arrive_in_order<S: Setup>() {
    let mut world = World::<S>::new(config());
    let address = world.listen();
    let (mut peer, connection) = world.pair(address);
    let bytes = pattern(300);
    for (number, byte) in bytes.iter().enumerate() {
        world.write_all(&mut peer, &[*byte]);
        world.until("the byte arrived", |world| {
            world.received(connection).len() == number + 1
        });
    }
    assert_eq!(world.received(connection), bytes);
    assert_eq!(world.driver().counters().bytes_received, 300);
}

pub(crate) fn a_large_stream_arrives_unchanged<S: Setup>() {
    let mut world = World::<S>::new(config());
    let address = world.listen();
    let (mut peer, connection) = world.pair(address);
    let bytes = pattern(3_000_000);
    world.write_all(&mut peer, &bytes);
    peer.finish();
    world.until("the peer closed", |world| {
        world.seen.contains(&Seen::PeerClosed(connection))
    });
    assert!(world.received(connection) == bytes);
}

pub(crate) fn few_buffers_serve_many_senders<S: Setup>() {
    let config = DriverConfig {
        receive_buffers: 2,
        receive_buffer_bytes: 256,
        ..config()
    };
    let mut world = World::<S>::new(config);
    let address = world.listen();
    let mut pairs: Vec<_> = (0..40).map(|_| world.pair(address)).collect();
    let bytes = pattern(5_000);
    for (peer, _) in &mut pairs {
        assert_eq!(peer.write(&bytes), bytes.len());
    }
    world.until("everything arrived", |world| {
        pairs
            .iter()
            .all(|(_, connection)| world.received(*connection).len() == bytes.len())
    });
    assert!(
        pairs
            .iter()
            .all(|(_, connection)| world.received(*connection) == bytes)
    );
    assert!(world.driver().counters().receive_buffers_exhausted > 0);
}

pub(crate) fn a_paused_connection_closes_its_window<S: Setup>() {
    let mut world = World::<S>::new(config());
    let address = world.listen();
    let (mut peer, connection) = world.pair(address);
    // Makes it hot, so that a multishot receive has to be stopped.
    let mut sent = pattern(2_000);
    for chunk in sent.chunks(50) {
        let before = world.received(connection).len();
        world.write_all(&mut peer, chunk);
        world.until("it arrived", |world| {
            world.received(connection).len() == before + chunk.len()
        });
    }
    world.driver().pause(connection);
    for _ in 0..5 {
        world.turn();
    }
    let mut idle_turns = 0;
    let block = pattern(64 * 1024);
    while idle_turns < 20 {
        let offset = sent.len() % block.len();
        let count = peer.write(&block[offset..]);
        sent.extend_from_slice(&block[offset..offset + count]);
        idle_turns = if count == 0 { idle_turns + 1 } else { 0 };
        world.turn();
        assert!(sent.len() < 64 << 20, "a window that closes stops the peer");
    }
    let received = world.received(connection).len();
    assert!(
        received < 200_000,
        "{received} bytes came from a paused connection"
    );
    world.driver().resume(connection);
    world.until("the rest arrived", |world| {
        world.received(connection).len() == sent.len()
    });
    assert!(world.received(connection) == sent);
}

pub(crate) fn received_bytes_can_be_changed_and_buffers_recycled<S: Setup>() {
    use reactor::driver::Event;
    let config = DriverConfig {
        receive_buffers: 1,
        receive_buffer_bytes: 64,
        ..config()
    };
    let mut world = World::<S>::new(config);
    let address = world.listen();
    let (mut peer, connection) = world.pair(address);
    let mut got = 0;
    for round in 0..20u8 {
        world.write_all(&mut peer, &[round; 16]);
        let mut events = Vec::new();
        let start = Instant::now();
        while events.is_empty() {
            let deadline = world.setup.deadline();
            world
                .driver()
                .poll(Some(deadline), &mut events)
                .expect("the driver stays usable");
            assert!(start.elapsed() < Duration::from_secs(10));
        }
        for event in events {
            let Event::Received {
                connection: from,
                buffer,
            } = event
            else {
                panic!("{event:?}")
            };
            assert_eq!(from, connection);
            let bytes = world.driver().received(buffer);
            assert!(bytes.iter().all(|byte| *byte == round));
            bytes.iter_mut().for_each(|byte| *byte ^= 0xff);
            assert!(
                world
                    .driver()
                    .received(buffer)
                    .iter()
                    .all(|byte| *byte == !round)
            );
            got += buffer.length;
            world.driver().recycle(buffer);
            world.driver().recycle(buffer);
        }
    }
    assert_eq!(got, 20 * 16);
}

pub(crate) fn busy_connections_leave_room_for_others<S: Setup>() {
    let config = DriverConfig {
        receive_buffers: 4,
        receive_buffer_bytes: 512,
        events_max: 4,
        ..config()
    };
    let mut world = World::<S>::new(config);
    let address = world.listen();
    let mut busy: Vec<_> = (0..3).map(|_| world.pair(address)).collect();
    let (mut quiet, connection) = world.pair(address);
    let block = pattern(32 * 1024);
    for round in 1..=20 {
        assert_eq!(quiet.write(b"!"), 1);
        let mut turns = 0;
        world.until("the quiet one was heard", |world| {
            for (peer, _) in &mut busy {
                peer.write(&block);
            }
            turns += 1;
            world.received(connection).len() == round
        });
        assert!(turns < 500, "{turns} turns");
    }
}

pub(crate) fn hot_connections_are_promoted_and_quiet_ones_demoted() {
    let mut world = World::<Uring>::new(config());
    let address = world.listen();
    let (mut peer, connection) = world.pair(address);
    let start = Instant::now();
    let mut sent = 0;
    while world.driver().counters().promotions == 0 {
        assert!(start.elapsed() < Duration::from_secs(10));
        world.write_all(&mut peer, b"ping");
        sent += 4;
        world.until("it arrived", |world| {
            world.received(connection).len() == sent
        });
    }
    for _ in 0..50 {
        world.write_all(&mut peer, b"ping");
        sent += 4;
        world.until("it arrived", |world| {
            world.received(connection).len() == sent
        });
    }
    world.until("it was demoted", |world| {
        world.driver().counters().demotions == 1
    });
    // What takes the demoted path now still arrives, and the multishot one is gone.
    for _ in 0..3 {
        world.write_all(&mut peer, b"pong");
        sent += 4;
        world.until("it arrived", |world| {
            world.received(connection).len() == sent
        });
    }
    world.send(connection, b"bye");
    assert_eq!(world.read_exactly(&mut peer, 3, 3), b"bye");
    assert_eq!(peer.read(1), Read::Nothing);
    drop(peer);
    world.until("the peer closed", |world| {
        world.seen.contains(&Seen::PeerClosed(connection))
    });
}
