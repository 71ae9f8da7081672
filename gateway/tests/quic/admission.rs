//! The bounds of `[admission]` over QUIC: what counts against them, what happens at them, and when there is room again. Nobody takes
//! anything from an address by claiming to be there.

use std::net::{IpAddr, SocketAddr};

use gateway::access::bucket::Rate;
use gateway::access::gate::{Gate, GateLimits};
use gateway::limits::QuicLimits;
use gateway::metrics::TurnedAway;
use gateway::quic::ErrorCode;
use quinn_proto::{ConnectionError, TransportErrorCode, VarInt};

use crate::world::World;

/// Where clients are unless a test says else.
const HOME: [u8; 4] = [198, 51, 100, 1];
const ELSEWHERE: [u8; 4] = [203, 0, 113, 1];

fn world(quic: QuicLimits, bounds: GateLimits) -> World {
    let mut world = World::new(quic);
    world.gate = Gate::new(bounds, 7);
    world
}

fn of_an_address(connections: u32) -> GateLimits {
    GateLimits {
        address_connections_max: Some(connections),
        ..GateLimits::default()
    }
}

/// Begins to connect from an address.
fn connect(world: &mut World, from: [u8; 4]) -> usize {
    let config = world.authority.client_config(b"mqtt", None);
    let client = world.connect(config);
    world.clients[client].address.set_ip(IpAddr::from(from));
    client
}

/// Connects from an address and says something.
fn arrive(world: &mut World, from: [u8; 4]) -> usize {
    let client = connect(world, from);
    world.run(1_000, |world| world.clients[client].is_connected);
    world.say(client, b"hello");
    let before = world.accepted.len();
    world.run(1_000, |world| world.accepted.len() > before);
    client
}

/// Connects and is refused; says why in the words of the counter.
fn is_refused(world: &mut World, from: [u8; 4]) -> TurnedAway {
    let (begun, told) = (world.server.stats().connections, world.turned_away.len());
    let client = connect(world, from);
    world.run(1_000, |world| world.clients[client].lost.is_some());
    let lost = world.clients[client].lost.clone();
    let Some(ConnectionError::ConnectionClosed(close)) = lost else {
        panic!("{lost:?}");
    };
    assert_eq!(close.error_code, TransportErrorCode::CONNECTION_REFUSED);
    let after = world.server.stats().connections;
    assert!(after <= begun, "no handshake was begun for it");
    assert_eq!(world.turned_away.len(), told + 1);
    let (who, reason) = world.turned_away[told];
    assert_eq!(who, world.clients[client].address);
    reason
}

fn hang_up(world: &mut World, client: usize) {
    let now = world.instant();
    let gone = &mut world.clients[client].connection;
    gone.close(now, VarInt::from_u32(0), "".into());
}

#[test]
fn an_address_has_so_many_connections_and_one_that_goes_makes_room_at_once() {
    let mut world = world(QuicLimits::default(), of_an_address(2));
    let first = arrive(&mut world, HOME);
    arrive(&mut world, HOME);
    assert_eq!(is_refused(&mut world, HOME), TurnedAway::AddressFull);
    arrive(&mut world, ELSEWHERE);
    hang_up(&mut world, first);
    world.pass(15); // One way.
    arrive(&mut world, HOME);
    assert_eq!(is_refused(&mut world, HOME), TurnedAway::AddressFull);
}

#[test]
fn a_connection_that_the_server_ends_makes_room_at_once() {
    let mut world = world(QuicLimits::default(), of_an_address(1));
    arrive(&mut world, HOME);
    let (id, now) = (world.accepted[0], world.now());
    world.server.close(id, reactor::driver::Close::Abort, now);
    world.flush();
    arrive(&mut world, HOME);
}

#[test]
fn an_address_opens_connections_only_so_fast() {
    let bounds = GateLimits {
        address_rate: Some(Rate {
            per_second: 1,
            burst: 2,
        }),
        ..GateLimits::default()
    };
    let mut world = world(QuicLimits::default(), bounds);
    arrive(&mut world, HOME);
    arrive(&mut world, HOME);
    assert_eq!(is_refused(&mut world, HOME), TurnedAway::AddressRate);
    arrive(&mut world, ELSEWHERE);
    world.pass(1_000);
    arrive(&mut world, HOME);
    assert_eq!(is_refused(&mut world, HOME), TurnedAway::AddressRate);
}

#[test]
fn a_listener_has_so_many_connections_and_all_together_open_them_only_so_fast() {
    let bounds = GateLimits {
        listener_connections_max: Some(2),
        rate: Some(Rate {
            per_second: 1,
            burst: 3,
        }),
        ..GateLimits::default()
    };
    let mut world = world(QuicLimits::default(), bounds);
    let first = arrive(&mut world, HOME);
    arrive(&mut world, ELSEWHERE);
    assert_eq!(is_refused(&mut world, HOME), TurnedAway::ListenerFull);
    hang_up(&mut world, first);
    world.pass(15);
    let third = arrive(&mut world, HOME);
    hang_up(&mut world, third);
    world.pass(15);
    assert_eq!(is_refused(&mut world, ELSEWHERE), TurnedAway::Rate);
    world.pass(1_000);
    arrive(&mut world, ELSEWHERE);
}

#[test]
fn who_forges_an_address_takes_nothing_from_who_has_it() {
    let bounds = GateLimits {
        address_rate: Some(Rate {
            per_second: 1,
            burst: 1,
        }),
        rate: Some(Rate {
            per_second: 1,
            burst: 1,
        }),
        listener_connections_max: Some(1),
        ..of_an_address(1)
    };
    let mut world = world(QuicLimits::default(), bounds);
    for port in 1..=50 {
        let initial = world.initial();
        world.deliver((HOME, port).into(), &initial);
    }
    world.pass(1);
    assert_eq!(world.server.stats().handshakes_in_progress, 50);
    let client = arrive(&mut world, HOME);
    // Now the address is full, and that costs those who only claim to be there a handshake, and it nothing.
    let initial = world.initial();
    let forged: SocketAddr = (HOME, 60).into();
    world.deliver(forged, &initial);
    world.pass(1);
    assert_eq!(world.turned_away, [(forged, TurnedAway::ListenerFull)]);
    assert!(world.sent_to[&forged] < 100, "one small datagram");
    world.pass(60_000);
    assert_eq!(world.server.stats().connections, 1);
    assert_eq!(world.clients[client].lost, None);
}

#[test]
fn clients_that_come_together_are_held_to_the_bound_when_they_have_shown_where_they_are() {
    let mut world = world(QuicLimits::default(), of_an_address(1));
    let clients: Vec<usize> = (0..3).map(|_| connect(&mut world, HOME)).collect();
    let all_connected = |world: &World| clients.iter().all(|it| world.clients[*it].is_connected);
    world.run(1_000, all_connected);
    for client in &clients {
        world.say(*client, b"hello");
    }
    world.pass(1_000);
    assert_eq!(world.accepted.len(), 1);
    let reasons = world.turned_away.iter().map(|(_, reason)| *reason);
    let reasons: Vec<TurnedAway> = reasons.collect();
    assert_eq!(reasons, [TurnedAway::AddressFull; 2]);
    let refused = clients.iter().filter(|client| {
        let Some(ConnectionError::ApplicationClosed(close)) = &world.clients[**client].lost else {
            return false;
        };
        close.error_code == VarInt::from_u32(ErrorCode::TurnedAway as u32)
    });
    assert_eq!(refused.count(), 2);
    world.pass(30_000);
    assert_eq!(world.server.stats().connections, 1);
}

#[test]
fn who_had_to_prove_an_address_is_counted_before_the_handshake() {
    let always = QuicLimits {
        retry_above: 0,
        ..QuicLimits::default()
    };
    let mut world = world(always, of_an_address(1));
    let clients = [connect(&mut world, HOME), connect(&mut world, HOME)];
    let is_over = |world: &World, client: usize| {
        let client = &world.clients[client];
        client.is_connected || client.lost.is_some()
    };
    world.run(1_000, |world| clients.iter().all(|it| is_over(world, *it)));
    assert_eq!(world.server.take_begun(), 1);
    let lost: Vec<_> = clients
        .iter()
        .filter_map(|it| world.clients[*it].lost.clone())
        .collect();
    assert!(
        matches!(&lost[..], [ConnectionError::ConnectionClosed(_)]),
        "{lost:?}"
    );
    assert_eq!(world.turned_away.len(), 1);
}

#[test]
fn whoever_waits_for_a_handshake_is_counted_until_it_is_given_up() {
    let always = QuicLimits {
        retry_above: 0,
        ..QuicLimits::default()
    };
    let mut world = world(always, of_an_address(1));
    world.time_for = 0;
    let waiting = connect(&mut world, HOME);
    world.run(1_000, |world| world.server.stats().handshakes_waiting == 1);
    assert_eq!(is_refused(&mut world, HOME), TurnedAway::AddressFull);
    world.drops = |_| true;
    hang_up(&mut world, waiting);
    world.pass(10_000);
    assert_eq!(world.server.stats().handshakes_waiting, 0);
    world.drops = |_| false;
    world.time_for = u32::MAX;
    arrive(&mut world, HOME);
}

#[test]
fn a_client_that_moves_is_counted_where_it_is() {
    let mut world = world(QuicLimits::default(), of_an_address(1));
    world.echoes = true;
    let client = arrive(&mut world, HOME);
    for (here, there) in [(HOME, ELSEWHERE), (ELSEWHERE, HOME)] {
        world.clients[client].address.set_ip(IpAddr::from(there));
        world.say(client, b"I am here");
        world.pass(500); // The server asks, the client answers, and the server says that it has heard.
        assert_eq!(is_refused(&mut world, there), TurnedAway::AddressFull);
        let another = arrive(&mut world, here);
        hang_up(&mut world, another);
        world.pass(15);
    }
    assert_eq!(world.clients[client].lost, None);
    assert_eq!(world.server.stats().migrations, 2);
}

#[test]
fn who_claims_to_have_moved_takes_no_room_there_and_leaves_none() {
    let mut world = world(QuicLimits::default(), of_an_address(1));
    world.echoes = true;
    let client = arrive(&mut world, HOME);
    world.pass(100);
    let own = world.clients[client].address;
    let victim: SocketAddr = (ELSEWHERE, 53).into();
    for _ in 0..3 {
        // What it sends comes from the victim's address, and what is sent there is lost.
        world.clients[client].address = victim;
        world.say(client, b"I am there");
        world.pass(1);
        world.clients[client].address = own;
        world.pass(300);
        assert_eq!(is_refused(&mut world, HOME), TurnedAway::AddressFull);
    }
    assert!(world.server.stats().migrations >= 1);
    assert!(world.sent_to.contains_key(&victim));
    arrive(&mut world, ELSEWHERE);
    world.pass(20_000);
    assert_eq!(is_refused(&mut world, HOME), TurnedAway::AddressFull);
}

#[test]
fn a_network_without_bounds_of_its_own_has_only_those_of_the_listener() {
    let bounds = GateLimits {
        listener_connections_max: Some(3),
        exempt: ["198.51.100.0/24".parse().expect("a network")].into(),
        ..of_an_address(1)
    };
    let mut world = world(QuicLimits::default(), bounds);
    for _ in 0..3 {
        arrive(&mut world, HOME);
    }
    assert_eq!(is_refused(&mut world, HOME), TurnedAway::ListenerFull);
}
