//! The bus between nodes over sockets: links pinned to cores, connections that are cut, and those who are not to be let in.

mod world;

use std::io::{Read, Write};
use std::net::TcpStream;

use cluster::hello::Refusal;
use cluster::link::Unsent;
use cluster::view::NodeId;
use gateway::event_loop::{BusLimits, Route};
use reactor::driver::{Close, Driver, DriverConfig};
use reactor::epoll::EpollDriver;
use reactor::uring::UringDriver;
use world::{Start, Told, World, identity, node};

/// Sends `count` messages from each core to each core of the other node, while `meanwhile` happens, and sees that each arrives once and in
/// order.
fn exchange<D: Driver>(
    world: &mut World<D>,
    count: u32,
    mut meanwhile: impl FnMut(&mut World<D>, u32),
) {
    let routes: Vec<(usize, usize, u16)> = (0..2)
        .flat_map(|place| (0..2).flat_map(move |core| (0..2).map(move |to| (place, core, to))))
        .collect();
    let first_core = |place: usize| if place == 0 { 0 } else { 2 };
    for round in 0..count {
        for &(place, core, to) in &routes {
            let to_core = first_core(1 - place) + to;
            let body = [&round.to_le_bytes()[..], &[0x55; 700]].concat();
            world.until("there is room", |world| {
                let result = world.send(place, core, to_core, &body);
                assert_eq!(result.is_err(), result == Err(Unsent::NoRoom));
                result.is_ok()
            });
        }
        meanwhile(world, round);
    }
    let expected = (4 * count) as usize;
    world.until("everything arrived", |world| {
        (0..2).all(|place| {
            let told = (0..2).map(|core| world.core(place, core).told.len());
            told.sum::<usize>() >= expected
        })
    });
    for &(place, core, to) in &routes {
        let to_core = first_core(1 - place) + to;
        let from = (world.nodes[place].id, core as u16, to_core);
        let of_route = |told: &&Told| (told.0, told.1, told.2) == from;
        let bodies = world.core(1 - place, core).told.iter().filter(of_route);
        let rounds: Vec<u32> = bodies
            .map(|told| u32::from_le_bytes(*told.3.first_chunk().expect("a round")))
            .collect();
        assert_eq!(
            rounds,
            (0..count).collect::<Vec<_>>(),
            "{from:?}, on the link of its core"
        );
    }
}

#[test]
fn cores_of_two_nodes_speak_over_the_link_of_the_sender() {
    let mut world = World::two(EpollDriver::new);
    world.until_up(0, 1);
    exchange(&mut world, 200, |_, _| {});
    for place in 0..2 {
        let stats = world.core(place, 0).bus.stats();
        assert_eq!(
            (stats.links.connections, stats.links_up, stats.links_down),
            (1, 1, 0)
        );
        assert_eq!(stats.links.sent, 400);
    }
    let told = &world.core(0, 0).views;
    assert_eq!(
        told.first(),
        Some(&(node(2), 2)),
        "the view of the other is heard"
    );
}

#[test]
fn the_same_on_io_uring_where_there_is_one() {
    if UringDriver::new(DriverConfig::small()).is_ok() {
        let mut world = World::two(UringDriver::new);
        exchange(&mut world, 100, |_, _| {});
    }
}

#[test]
fn connections_that_are_cut_again_and_again_lose_and_double_nothing() {
    let mut world = World::two(EpollDriver::new);
    exchange(&mut world, 300, |world, round| {
        if round % 20 == 10 {
            let (place, core) = (round as usize / 20 % 2, round as usize / 40 % 2);
            let uid = world.nodes[1 - place].id.uid;
            let core = world.core(place, core);
            if let Some(id) = core.bus.connection_to(uid) {
                core.driver.close(id, Close::Abort);
            }
        }
        if round % 3 == 0 {
            world.turn();
        }
    });
    let stats = world.core(0, 0).bus.stats();
    assert!(stats.links.connections > 1, "{stats:?}");
    assert_eq!(stats.links.violations, 0);
    assert_eq!(world.core(0, 0).bus.take_suspects(), [node(2)]);
    assert!(world.core(0, 0).bus.take_suspects().is_empty());
}

#[test]
fn a_core_without_a_link_is_told_which_core_has_it() {
    let one = Start {
        cores: 1,
        ..Start::usual(2)
    };
    let mut world = World::new(EpollDriver::new, &[Start::usual(1), one]);
    let view = world.view(&[0, 1]);
    world.tell(&view, &[0, 1]);
    assert_eq!(world.core(0, 0).bus.route(2), Route::Here);
    assert_eq!(world.core(0, 1).bus.route(2), Route::Core(0));
    assert_eq!(
        world.core(0, 1).bus.route(0),
        Route::Nobody,
        "a core of its own node"
    );
    assert_eq!(world.core(0, 1).bus.route(3), Route::Nobody);
    // The core that has the link sends for the other.
    let bus = &mut world.core(0, 0).bus;
    assert_eq!(bus.send(1, 2, false, true, b"for another"), Ok(()));
    world.until("it arrived", |world| !world.core(1, 0).told.is_empty());
    let told = (node(1), 1, 2, b"for another".to_vec());
    assert_eq!(world.core(1, 0).told, [told]);
}

#[test]
fn while_a_peer_is_away_messages_wait_up_to_the_credit() {
    let mut limits = BusLimits::default();
    limits.link.credit_bytes = 10_000;
    let starts = [1, 2].map(|uid| Start {
        limits,
        ..Start::usual(uid)
    });
    let mut world = World::new(EpollDriver::new, &starts);
    let view = world.view(&[0, 1]);
    world.tell(&view, &[0]); // The other has not heard of the view and refuses this node.
    let mut sent = 0;
    while world.core(0, 0).bus.has_room() {
        world.send(0, 0, 2, &[7; 968]).expect("there is room");
        sent += 1;
    }
    assert_eq!(sent, 10);
    assert_eq!(world.send(0, 0, 2, b"more"), Err(Unsent::NoRoom));
    let lossy = world.core(0, 0).bus.send(0, 2, true, false, b"lossy");
    assert_eq!(lossy, Err(Unsent::Dropped));
    world.until("the other has refused it", |world| {
        let stats = world.core(1, 0).bus.stats();
        stats.refused_for(Refusal::UnknownMember) >= 2
    });
    world.tell(&view, &[1]);
    world.until("everything arrived", |world| {
        world.core(1, 0).told.len() == sent
    });
    world.until("there is room again", |world| {
        world.core(0, 0).bus.has_room()
    });
    let stats = world.core(0, 0).bus.stats();
    assert!(stats.refused_by_peers_for(Refusal::UnknownMember) >= 1);
    assert_eq!(stats.links.dropped, 1);
}

#[test]
fn who_is_no_member_any_more_is_cut_off() {
    let mut world = World::two(EpollDriver::new);
    world.until_up(0, 1);
    let view = world
        .view(&[0, 1])
        .without_member(3, 2)
        .expect("it was one");
    world.tell(&view, &[0]);
    assert_eq!(world.core(0, 0).bus.route(2), Route::Nobody);
    assert_eq!(world.send(0, 0, 2, b"late"), Err(Unsent::NoRoom));
    world.until("the other was told", |world| {
        let stats = world.core(1, 0).bus.stats();
        stats.refused_by_peers_for(Refusal::UnknownMember) == 1 && stats.links_up == 0
    });
    world.tell(&view, &[1]);
    let stats = world.core(1, 0).bus.stats();
    assert_eq!(
        stats.links_down, 0,
        "a node outside of the view has no peers"
    );
}

/// A third node that must not get in, while the first two go on.
fn outsider(start: Start<'_>, reason: impl Fn(&World<EpollDriver>) -> bool) {
    let mut world = World::new(EpollDriver::new, &[Start::usual(5), Start::usual(6), start]);
    let view = world.view(&[0, 1]);
    world.tell(&view, &[0, 1]);
    world.until_up(0, 1);
    // What the outsider takes for the truth: itself and the second node.
    let theirs = world.view(&[2, 1]);
    world.tell(&theirs, &[2]);
    world.until("it is refused", |world| reason(world));
    for core in 0..2 {
        assert!(world.core(1, core).told.is_empty());
        let stats = world.core(2, core).bus.stats();
        assert_eq!((stats.links_up, stats.links.connections), (0, 0));
        let stats = world.core(0, core).bus.stats();
        assert_eq!(
            (stats.links_up, stats.links.connections),
            (1, 1),
            "the others go on"
        );
    }
}

fn is_refused(refusal: Refusal) -> impl Fn(&World<EpollDriver>) -> bool {
    move |world| {
        let by_us = world.nodes[1].cores[0].bus.stats().refused_for(refusal);
        let heard = world.nodes[2].cores[0]
            .bus
            .stats()
            .refused_by_peers_for(refusal);
        by_us > 0 && heard > 0
    }
}

#[test]
fn a_node_with_another_key_is_refused() {
    let start = Start {
        keys: &[1],
        ..Start::usual(1)
    };
    outsider(start, |world| {
        let theirs = world.nodes[2].cores[0].bus.stats();
        let ours = world.nodes[1].cores[0].bus.stats();
        theirs.tls_failed > 1 && ours.tls_failed > 1
    });
}

#[test]
fn a_node_of_another_cluster_with_the_same_key_is_refused() {
    let start = Start {
        cluster: "harbour",
        ..Start::usual(1)
    };
    outsider(start, is_refused(Refusal::WrongCluster));
}

#[test]
fn a_node_that_is_no_member_is_refused() {
    outsider(Start::usual(1), is_refused(Refusal::UnknownMember));
}

#[test]
fn an_older_incarnation_of_a_member_is_refused() {
    let start = Start {
        id: NodeId {
            uid: 5,
            incarnation: 99,
        },
        ..Start::usual(5)
    };
    outsider(start, is_refused(Refusal::OlderIncarnation));
}

#[test]
fn keys_are_replaced_while_nodes_speak() {
    let mut world = World::two(EpollDriver::new);
    world.until_up(0, 1);
    exchange(&mut world, 60, |world, round| {
        let keys: &[usize] = match round {
            10 => &[0, 1],
            30 => &[1, 0],
            50 => &[1],
            _ => return,
        };
        let now_ms = world.now_ms();
        for place in 0..2 {
            let uid = world.nodes[place].id.uid;
            for core in 0..2 {
                let core = world.core(place, core);
                let identity = identity(keys, uid);
                core.bus.set_identity(&mut core.driver, now_ms, identity);
                let connections = core.bus.stats().links.connections;
                assert_eq!(connections, 1, "one connection until a key is taken out");
            }
        }
    });
    world.until_up(0, 1);
    for place in 0..2 {
        let stats = world.core(place, 0).bus.stats();
        assert_eq!((stats.tls_failed, stats.links.connections), (0, 2));
    }
}

#[test]
fn strangers_are_bounded_and_do_not_disturb_members() {
    let mut limits = BusLimits {
        strangers_max: 8,
        greeting_ms: 1_500,
        ..BusLimits::default()
    };
    limits.link.acknowledge_ms = 10;
    let starts = [1, 2].map(|uid| Start {
        limits,
        ..Start::usual(uid)
    });
    let mut world = World::new(EpollDriver::new, &starts);
    let view = world.view(&[0, 1]);
    let address = world.nodes[1].address;
    let mut silent: Vec<TcpStream> = (0..20)
        .map(|_| TcpStream::connect(address).expect("it is accepted"))
        .collect();
    silent[0]
        .write_all(b"GET / HTTP/1.1\r\n\r\n")
        .expect("it is sent");
    world.until("eight are heard", |world| {
        let stats = world.core(1, 0).bus.stats();
        stats.accepted == 20 && stats.strangers_dropped >= 12 && stats.tls_failed == 1
    });
    world.until("those that say nothing are closed", |world| {
        world.core(1, 0).bus.stats().timed_out == 7
    });
    let mut alert = [0; 7];
    silent[0].read_exact(&mut alert).expect("an alert");
    assert_eq!(alert[0], 21);
    world.tell(&view, &[0, 1]);
    world.until_up(0, 1);
    exchange(&mut world, 10, |_, _| {});
}
