//! Datagrams that come in and go out.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use reactor::datagram::{DatagramConfig, DatagramOptions, DatagramSocket, Ecn, Transmit};
use reactor::driver::{Backend, Driver, DriverConfig, Event};

use crate::world::{DatagramPeer, Heard, Seen, Setup, World, config, pattern};

const LOOPBACKS: [&str; 2] = ["127.0.0.1:0", "[::1]:0"];

pub(crate) fn a_datagram_arrives_whole_and_names_its_peer<S: Setup>() {
    let mut world = World::<S>::new(config());
    for address in LOOPBACKS {
        let (socket, bound) = world.bind_at(address, DatagramOptions::server());
        let own = address.parse().expect("an address");
        let mut peer = world.setup.datagram_peer(own).expect("a port is free");
        for length in [1, 1200, 9000, 65_507] {
            let bytes = pattern(length);
            peer.send(bound, &bytes);
            world.heard.clear();
            world.until_heard(1);
            let wanted = Heard {
                socket,
                remote: peer.address(),
                local: Some(bound.ip()),
                ecn: None,
                bytes,
            };
            assert!(world.heard == [wanted], "{length} bytes");
        }
    }
    let counters = world.driver().counters().datagrams;
    assert_eq!((counters.received, counters.batches_received), (8, 8));
    assert_eq!(counters.bytes_received, 2 * (1 + 1200 + 9000 + 65_507));
    assert_eq!(counters.sockets, 2);
}

/// Sends a transmit from one socket of the driver to another.
fn between<S: Setup>(world: &mut World<S>, options: DatagramOptions, bytes: &[u8], segment: u16) {
    let (from, _) = world.bind(DatagramOptions::server());
    let (_, to) = world.bind(options);
    let transmit = Transmit {
        to,
        from: None,
        ecn: None,
        segment: Some(segment),
        bytes: bytes.to_vec(),
    };
    assert_eq!(transmit.datagrams(), bytes.len().div_ceil(segment.into()));
    world.driver().send_datagrams(from, transmit);
}

fn lengths<S: Setup>(world: &World<S>) -> Vec<usize> {
    world.heard.iter().map(|heard| heard.bytes.len()).collect()
}

fn joined<S: Setup>(world: &World<S>) -> Vec<u8> {
    let parts = world.heard.iter().map(|heard| &heard.bytes[..]);
    parts.collect::<Vec<_>>().concat()
}

pub(crate) fn a_batch_is_split_by_its_stride<S: Setup>() {
    let mut world = World::<S>::new(config());
    let bytes = pattern(4_500);
    between(&mut world, DatagramOptions::server(), &bytes, 1_000);
    world.until_heard(5);
    assert_eq!(lengths(&world), [1_000, 1_000, 1_000, 1_000, 500]);
    assert_eq!(joined(&world), bytes);
    assert_eq!(world.count(|seen| matches!(seen, Seen::Datagrams(_, 5))), 1);
    let counters = world.driver().counters().datagrams;
    assert_eq!((counters.sent, counters.bytes_sent), (5, 4_500));
    assert_eq!((counters.received, counters.batches_received), (5, 1));
}

pub(crate) fn a_transmit_of_several_datagrams_arrives_as_several<S: Setup>() {
    let mut world = World::<S>::new(config());
    let (socket, bound) = world.bind(DatagramOptions::server());
    let mut peer = world.datagram_peer();
    let bytes = pattern(64 * 1_000);
    let transmit = Transmit {
        to: peer.address(),
        from: None,
        ecn: None,
        segment: Some(1_000),
        bytes: bytes.clone(),
    };
    world.driver().send_datagrams(socket, transmit);
    for part in bytes.chunks(1_000) {
        assert!(world.peer_hears(&mut peer) == (bound, part.to_vec()));
    }
    assert_eq!(world.driver().counters().datagrams.sent, 64);
    // A length that the bytes do not reach is no cut at all.
    for segment in [0, 10, 11] {
        let transmit = Transmit {
            to: peer.address(),
            from: None,
            ecn: None,
            segment: Some(segment),
            bytes: b"just one!!".to_vec(),
        };
        world.driver().send_datagrams(socket, transmit);
        assert_eq!(world.peer_hears(&mut peer).1, b"just one!!");
    }
}

pub(crate) fn without_batches_every_datagram_is_an_event<S: Setup>() {
    let mut world = World::<S>::new(config());
    let options = DatagramOptions {
        batches: false,
        ..DatagramOptions::server()
    };
    let bytes = pattern(4_500);
    between(&mut world, options, &bytes, 1_000);
    world.until_heard(5);
    assert_eq!(joined(&world), bytes);
    assert_eq!(world.count(|seen| matches!(seen, Seen::Datagrams(_, 1))), 5);
}

pub(crate) fn a_transmit_longer_than_one_send_arrives_as_all_its_datagrams<S: Setup>() {
    let mut world = World::<S>::new(config());
    // More than 64 KiB, then more datagrams than a send may be cut into.
    for (length, segment) in [(100_000, 1_200), (1_300, 10)] {
        world.heard.clear();
        let bytes = pattern(length);
        between(&mut world, DatagramOptions::server(), &bytes, segment);
        world.until_heard(length.div_ceil(segment.into()));
        assert!(joined(&world) == bytes);
    }
}

pub(crate) fn many_peers_are_told_apart_and_answered<S: Setup>() {
    let mut world = World::<S>::new(config());
    let (socket, bound) = world.bind(DatagramOptions::server());
    let mut peers: Vec<_> = (0..50).map(|_| world.datagram_peer()).collect();
    for round in 0..10u8 {
        for (number, peer) in peers.iter_mut().enumerate() {
            peer.send(bound, &[number as u8, round]);
        }
        world.heard.clear();
        world.until_heard(50);
        for heard in std::mem::take(&mut world.heard) {
            let number = usize::from(heard.bytes[0]);
            assert_eq!(heard.remote, peers[number].address());
            world.transmit(socket, heard.remote, &[heard.bytes[0], round, 1]);
        }
        for (number, peer) in peers.iter_mut().enumerate() {
            assert_eq!(
                world.peer_hears(peer),
                (bound, vec![number as u8, round, 1])
            );
        }
    }
    let counters = world.driver().counters().datagrams;
    assert_eq!((counters.sent, counters.bytes_unsent), (500, 0));
}

pub(crate) fn congestion_bits_arrive<S: Setup>() {
    let mut world = World::<S>::new(config());
    for address in LOOPBACKS {
        let (from, _) = world.bind_at(address, DatagramOptions::server());
        let (_, to) = world.bind_at(address, DatagramOptions::server());
        let deaf = DatagramOptions {
            ecn: false,
            ..DatagramOptions::server()
        };
        let (_, to_deaf) = world.bind_at(address, deaf);
        for ecn in [None, Some(Ecn::Ect0), Some(Ecn::Ect1), Some(Ecn::Ce)] {
            for (to, wanted) in [(to, ecn), (to_deaf, None)] {
                world.heard.clear();
                let transmit = Transmit {
                    to,
                    from: None,
                    ecn,
                    segment: Some(100),
                    bytes: pattern(300),
                };
                world.driver().send_datagrams(from, transmit);
                world.until_heard(3);
                assert!(
                    world.heard.iter().all(|heard| heard.ecn == wanted),
                    "{ecn:?}"
                );
            }
        }
    }
}

pub(crate) fn the_local_address_is_told_and_answered_from<S: Setup>() {
    let mut world = World::<S>::new(config());
    let (socket, bound) = world.bind_at("0.0.0.0:0", DatagramOptions::server());
    let mut peer = world.datagram_peer();
    for ip in ["127.0.0.1", "127.0.0.7"] {
        let ip = ip.parse().expect("an address");
        peer.send((ip, bound.port()).into(), b"where am I?");
        world.heard.clear();
        world.until_heard(1);
        assert_eq!(world.heard[0].local, Some(ip));
        let transmit = Transmit {
            to: peer.address(),
            from: Some(ip),
            ecn: None,
            segment: Some(4),
            bytes: b"leftoverhe".to_vec(),
        };
        world.driver().send_datagrams(socket, transmit);
        for part in [&b"left"[..], b"over", b"he"] {
            let wanted = ((ip, bound.port()).into(), part.to_vec());
            assert_eq!(world.peer_hears(&mut peer), wanted);
        }
    }
    let (_, silent) = world.bind(DatagramOptions {
        local_address: false,
        ..DatagramOptions::server()
    });
    peer.send(silent, b"and here?");
    world.heard.clear();
    world.until_heard(1);
    assert_eq!(world.heard[0].local, None);
}

pub(crate) fn a_socket_with_a_peer_hears_nobody_else<S: Setup>() {
    let mut world = World::<S>::new(config());
    let (mut peer, mut stranger) = (world.datagram_peer(), world.datagram_peer());
    let options = DatagramOptions::client(peer.address());
    let (socket, bound) = world.bind_at("0.0.0.0:0", options);
    assert!(bound.ip().is_loopback(), "the peer is there");
    world.transmit(socket, stranger.address(), b"to the peer");
    let (from, bytes) = world.peer_hears(&mut peer);
    assert_eq!((from, &bytes[..]), (bound, &b"to the peer"[..]));
    stranger.send(bound, b"spam");
    peer.send(bound, b"ham");
    world.until_heard(1);
    assert_eq!(world.heard[0].bytes, b"ham");
    assert_eq!(stranger.receive(), None);
}

pub(crate) fn many_client_sockets_have_addresses_of_their_own<S: Setup>() {
    let mut world = World::<S>::new(DriverConfig {
        datagrams: DatagramConfig {
            sockets_max: 301,
            ..DatagramConfig::small()
        },
        ..config()
    });
    let (server, to) = world.bind(DatagramOptions::server());
    let options = DatagramOptions::client(to);
    let clients: Vec<_> = (0..300).map(|_| world.bind(options)).collect();
    for (number, (socket, _)) in clients.iter().enumerate() {
        world.transmit(*socket, to, &[number as u8; 20]);
        // The server's receive queue does not hold all of them.
        if number % 50 == 49 {
            world.until_heard(number + 1);
        }
    }
    let sources: BTreeSet<_> = world.heard.iter().map(|heard| heard.remote).collect();
    assert_eq!(sources, clients.iter().map(|(_, bound)| *bound).collect());
    for heard in std::mem::take(&mut world.heard) {
        world.transmit(server, heard.remote, &heard.bytes);
    }
    world.until_heard(300);
    for heard in std::mem::take(&mut world.heard) {
        let number = clients
            .iter()
            .position(|(socket, _)| *socket == heard.socket);
        assert_eq!(heard.bytes, [number.expect("a client") as u8; 20]);
    }
    for (socket, _) in clients {
        world.close_socket(socket);
    }
    world.until("only the server is left", |world| {
        world.driver().counters().datagrams.sockets == 1
    });
}

pub(crate) fn received_datagrams_can_be_changed_and_buffers_recycled<S: Setup>() {
    let mut world = World::<S>::new(DriverConfig {
        datagrams: DatagramConfig {
            receive_buffers: 1,
            receive_buffer_bytes: 64,
            ..DatagramConfig::small()
        },
        ..config()
    });
    let (_, bound) = world.bind(DatagramOptions::server());
    let mut peer = world.datagram_peer();
    for round in 0..20u8 {
        peer.send(bound, &[round; 64]);
        let (mut events, start) = (Vec::new(), Instant::now());
        while events.is_empty() {
            let deadline = world.setup.deadline();
            let polled = world.driver().poll(Some(deadline), &mut events);
            polled.expect("the driver stays usable");
            assert!(start.elapsed() < Duration::from_secs(10));
        }
        let [Event::Datagrams { buffer, .. }] = events[..] else {
            panic!("{events:?}")
        };
        let bytes = world.driver().received(buffer);
        assert_eq!(bytes, [round; 64]);
        bytes.fill(0xff);
        assert_eq!(world.driver().received(buffer), [0xff; 64]);
        world.driver().recycle(buffer);
        world.driver().recycle(buffer);
    }
}

pub(crate) fn sent_vectors_of_datagrams_come_back_empty<S: Setup>() {
    let mut world = World::<S>::new(config());
    let (socket, _) = world.bind(DatagramOptions::server());
    let mut peer = world.datagram_peer();
    let mut bytes = Vec::with_capacity(5_000);
    bytes.extend_from_slice(b"hello");
    let transmit = Transmit {
        to: peer.address(),
        from: None,
        ecn: None,
        segment: None,
        bytes,
    };
    world.driver().send_datagrams(socket, transmit);
    assert!(world.driver().datagrams_unsent(socket) >= 5_000);
    assert_eq!(world.peer_hears(&mut peer).1, b"hello");
    world.turn();
    assert_eq!(world.driver().datagrams_unsent(socket), 0);
    let vector = world.driver().reclaim().expect("the vector comes back");
    assert!(vector.is_empty() && vector.capacity() >= 5_000);
    assert!(world.driver().reclaim().is_none());
}

pub(crate) fn what_the_kernel_does_not_cut_goes_out_one_by_one<S: Setup>() {
    let mut world = World::<S>::new(config());
    let address = ([127, 0, 0, 1], 0).into();
    let socket = DatagramSocket::bind(address, DatagramOptions::server()).expect("a port is free");
    // The kernel cuts nothing that has no checksum.
    crate::setups::set(socket.as_fd().as_raw_fd(), libc::SO_NO_CHECK, &1i32);
    let bound = socket.address();
    let adopted = world.driver().adopt_datagrams(socket);
    if world.driver().backend() == Backend::Fake {
        let error = adopted.expect_err("it has no sockets of the kernel");
        assert_eq!(error.kind(), std::io::ErrorKind::Unsupported);
        return;
    }
    let socket = adopted.expect("there is room");
    let mut peer = world.datagram_peer();
    let bytes = pattern(4_500);
    for _ in 0..3 {
        let transmit = Transmit {
            to: peer.address(),
            from: None,
            ecn: None,
            segment: Some(1_000),
            bytes: bytes.clone(),
        };
        world.driver().send_datagrams(socket, transmit);
        for part in bytes.chunks(1_000) {
            assert_eq!(world.peer_hears(&mut peer), (bound, part.to_vec()));
        }
    }
    let counters = world.driver().counters().datagrams;
    assert_eq!((counters.sent, counters.segmentation_refused), (15, 1));
    assert_eq!(counters.send_errors, 0);
}

pub(crate) fn wakes_and_deadlines_work_with_datagram_sockets_alone<S: Setup>() {
    let mut world = World::<S>::new(config());
    let (_, bound) = world.bind(DatagramOptions::server());
    let mut peer = world.datagram_peer();
    let virtual_time = world.driver().backend() == Backend::Fake;
    for wait in [0, 1, 30].map(Duration::from_millis) {
        let start = Instant::now();
        world.poll(Some(start + wait));
        assert!(virtual_time || start.elapsed() >= wait);
        assert!(start.elapsed() < Duration::from_secs(5));
    }
    let enters = world.driver().counters().enters;
    assert!(enters <= 10, "{enters} enters while nothing happened");
    let waker = world.driver().waker();
    for round in 1..=3 {
        std::thread::scope(|scope| {
            scope.spawn(|| waker.wake()).join().expect("it only wakes");
        });
        world.poll(None);
        assert_eq!(world.count(|seen| *seen == Seen::Woken), round);
        // Without a deadline, a datagram alone ends the wait.
        peer.send(bound, b"wake up");
        while world.heard.len() < round {
            world.poll(None);
        }
    }
}
