//! Datagrams find the socket that their connection id names, through the kernel's own eyes.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};

use reactor::datagram::{DatagramConfig, DatagramOptions, DatagramSocketId};
use reactor::driver::{Driver, DriverConfig, Event};
use reactor::epoll::EpollDriver;
use reactor::steering::{Steering, bind_group};

const CORES: u16 = 5;

fn loopback() -> SocketAddr {
    ([127, 0, 0, 1], 0).into()
}

fn options() -> DatagramOptions {
    DatagramOptions {
        receive_buffer_bytes: Some(1 << 20),
        ..DatagramOptions::server()
    }
}

/// A group in a driver each, as the cores of a node have it.
fn group(steering: Steering) -> (Vec<(EpollDriver, DatagramSocketId)>, SocketAddr) {
    let sockets = bind_group(loopback(), options(), steering).expect("a port is free");
    let address = sockets[0].address();
    assert!(sockets.iter().all(|socket| socket.address() == address));
    let adopt = |socket| {
        let config = DriverConfig {
            datagrams: DatagramConfig::server(),
            ..DriverConfig::small()
        };
        let mut driver = EpollDriver::new(config).expect("descriptors are left");
        let id = driver.adopt_datagrams(socket).expect("there is room");
        (driver, id)
    };
    (sockets.into_iter().map(adopt).collect(), address)
}

/// Everything that arrived at one core, as (socket, bytes).
fn heard(driver: &mut EpollDriver) -> Vec<(DatagramSocketId, Vec<u8>)> {
    let (mut all, mut events) = (Vec::new(), Vec::new());
    loop {
        // On the loopback a datagram is there when the send has returned.
        #[expect(clippy::disallowed_methods, reason = "a real driver runs in real time")]
        let now = std::time::Instant::now();
        driver.poll(Some(now), &mut events).expect("it is usable");
        if events.is_empty() {
            return all;
        }
        for event in events.drain(..) {
            let Event::Datagrams {
                socket,
                buffer,
                stride,
                ..
            } = event
            else {
                panic!("{event:?}")
            };
            let bytes = driver.received(buffer);
            all.extend(bytes.chunks(stride).map(|part| (socket, part.to_vec())));
        }
    }
}

/// A datagram with a long or a short header whose id names a core.
fn datagram(steering: Steering, long: bool, core: u16, salt: u8) -> Vec<u8> {
    let mut id = [salt.wrapping_mul(167).wrapping_add(13); 8];
    steering.stamp(&mut id, core);
    let mut bytes = if long {
        vec![0xc3, 0, 0, 0, 1, 8]
    } else {
        vec![0x43]
    };
    bytes.extend_from_slice(&id);
    bytes.extend_from_slice(&core.to_be_bytes());
    bytes.push(salt);
    bytes
}

#[test]
fn datagrams_of_many_sources_arrive_at_the_core_that_their_id_names() {
    for steering in [
        Steering::new(0, 0xff, CORES),
        Steering::new(3, 0x07, CORES),
        Steering::new(7, 0x1f, CORES),
    ] {
        let steering = steering.expect("it is a rule");
        let (mut cores, address) = group(steering);
        let sources: Vec<_> = (0..40)
            .map(|_| UdpSocket::bind(loopback()).expect("a port is free"))
            .collect();
        for (salt, source) in sources.iter().enumerate() {
            for core in 0..CORES {
                for long in [true, false] {
                    let bytes = datagram(steering, long, core, salt as u8);
                    assert_eq!(steering.socket(&bytes), Some(core));
                    source.send_to(&bytes, address).expect("it is sent");
                }
            }
        }
        for (core, (driver, socket)) in cores.iter_mut().enumerate() {
            let heard = heard(driver);
            assert_eq!(heard.len(), 80, "of each source, long and short");
            for (at, bytes) in heard {
                assert_eq!(at, *socket);
                assert_eq!(steering.socket(&bytes), Some(core as u16));
            }
        }
    }
}

#[test]
fn datagrams_without_an_id_are_spread_by_the_hash() {
    let steering = Steering::new(7, 0xff, CORES).expect("it is a rule");
    let (mut cores, address) = group(steering);
    let short: [&[u8]; 5] = [
        &[0x40, 1, 2, 3, 4, 5, 6, 7],
        &[0xc0, 0, 0, 0, 1, 8, 1, 2, 3, 4, 5, 6, 7],
        &[0xc0, 0, 0, 0, 1, 7, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10],
        &[0x40],
        &[0xc0],
    ];
    for _ in 0..100 {
        let source = UdpSocket::bind(loopback()).expect("a port is free");
        for bytes in short {
            assert_eq!(steering.socket(bytes), None);
            source.send_to(bytes, address).expect("it is sent");
        }
    }
    let counts: Vec<_> = cores
        .iter_mut()
        .map(|(driver, _)| heard(driver).len())
        .collect();
    assert_eq!(counts.iter().sum::<usize>(), 500);
    assert!(counts.iter().all(|count| *count > 20), "{counts:?}");
}

#[test]
fn a_group_is_refused_where_somebody_else_has_the_address() {
    let steering = Steering::new(0, 0xff, 2).expect("it is a rule");
    let group = bind_group(loopback(), options(), steering).expect("a port is free");
    let taken = group[0].address();
    let again = bind_group(taken, options(), steering).expect_err("it is taken");
    assert_eq!(again.kind(), ErrorKind::AddrInUse);
    drop(group);
    let group = bind_group(taken, options(), steering);
    assert_eq!(group.expect("it is free").len(), 2);
}

#[test]
fn a_group_of_one_takes_everything() {
    let steering = Steering::new(0, 0xff, 1).expect("it is a rule");
    let (mut cores, address) = group(steering);
    let source = UdpSocket::bind(loopback()).expect("a port is free");
    for first in [0x00, 0x40, 0x80, 0xff] {
        source.send_to(&[first; 30], address).expect("it is sent");
    }
    assert_eq!(heard(&mut cores[0].0).len(), 4);
}
