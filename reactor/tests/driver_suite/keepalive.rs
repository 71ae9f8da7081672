//! What the kernel does with connections that are silent. Its table of connections tells which timer runs for each: the sockets of
//! io_uring have no descriptor that could be asked.

use std::net::SocketAddr;

use reactor::driver::{Driver, Keepalive, ListenOptions};

use crate::world::{Peer, Setup, World, config};

/// Which timer runs for the connection that was accepted at `local` from `remote`, and in how many seconds it is over.
fn timer(local: SocketAddr, remote: SocketAddr) -> Option<(u8, f64)> {
    const TICKS_PER_S: f64 = 100.0; // USER_HZ, the same on every Linux.
    let written = |address: SocketAddr| {
        let SocketAddr::V4(address) = address else {
            panic!("IPv4 here");
        };
        let ip = u32::from_le_bytes(address.ip().octets());
        format!("{ip:08X}:{:04X}", address.port())
    };
    let (local, remote) = (written(local), written(remote));
    let table = std::fs::read_to_string("/proc/net/tcp").expect("the kernel's connections");
    table.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (&here, &there, timer) = (words.get(1)?, words.get(2)?, words.get(5)?);
        let (kind, ticks) = timer.split_once(':')?;
        let is_ours = here == local && there == remote;
        let ticks = u64::from_str_radix(ticks, 16).ok()?;
        is_ours.then(|| (kind.parse().expect("a number"), ticks as f64 / TICKS_PER_S))
    })
}

pub(crate) fn accepted_connections_inherit_the_keepalive_of_their_listener<S: Setup>() {
    const KEEPALIVE_TIMER: u8 = 2;
    let mut world = World::<S>::new(config());
    for (keepalive, expected_s) in [
        (None, None),
        (
            Some(Keepalive {
                idle_s: 700,
                interval_s: 10,
                probes: 3,
            }),
            Some(700.0),
        ),
        (Some(Keepalive::USUAL), Some(120.0)),
    ] {
        let options = ListenOptions {
            backlog: 16,
            reuse_port: false,
            keepalive,
        };
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let (_, bound) = world
            .driver()
            .listen(address, options)
            .expect("a port is free");
        let (peer, _) = world.pair(bound);
        let (kind, left_s) = timer(bound, peer.address()).expect("it is in the table");
        match expected_s {
            None => assert_eq!(kind, 0, "no timer runs"),
            Some(expected_s) => {
                assert_eq!(kind, KEEPALIVE_TIMER);
                assert!(
                    left_s <= expected_s && left_s > expected_s - 60.0,
                    "{left_s} of {expected_s}"
                );
            }
        }
    }
}
