//! What data streams may hold in both directions, and how they end with their connection: the QUIC layer alone.

use gateway::limits::QuicLimits;
use quinn_proto::VarInt;
use reactor::driver::{Close, ConnectionId};

use crate::client::stream;
use crate::world::World;

/// A client with a data stream, and only the QUIC layer of the server.
fn without_a_shard(limits: QuicLimits) -> (World, usize, ConnectionId, u64) {
    let mut world = World::new(limits);
    let (client, id) = world.client();
    let number = world.open(client).expect("it may open one");
    world.say_on(client, number, b"more");
    world.run(5_000, |world| world.told[&id].streams.is_some());
    world.pass(500);
    let told = world.told.get_mut(&id).expect("it was accepted");
    assert_eq!(
        told.stream(number).0,
        b"",
        "it is not read before it may be"
    );
    world.server.admit(id);
    world.pass(500);
    let told = world.told.get_mut(&id).expect("it was accepted");
    assert_eq!(told.stream(number).0, b"more");
    (world, client, id, number)
}

/// So many PINGRESP: whole packets, which is what the server writes.
fn packets(bytes: usize) -> Vec<u8> {
    [0xD0, 0].repeat(bytes / 2)
}

#[test]
fn a_pause_holds_for_all_streams_and_each_fills_its_window() {
    let (mut world, client, id, number) = without_a_shard(QuicLimits::default());
    let window = world.limits.receive_window_bytes as usize;
    world.server.pause(id);
    world.say(client, &vec![1; 100_000]);
    world.say_on(client, number, &vec![2; 100_000]);
    world.pass(5_000);
    assert_eq!(world.told[&id].data, b"hello");
    let left = world.clients[client].unsent() + world.clients[client].data[&number].unsent.len();
    assert!(200_000 - left <= 2 * window, "{left} bytes are left");
    world.server.resume(id);
    world.pass(60_000);
    let told = world.told.get_mut(&id).expect("it was accepted");
    assert_eq!(told.data.len(), 100_005);
    assert_eq!(told.stream(number).0.len(), 100_004);
}

#[test]
fn what_a_client_does_not_read_on_a_data_stream_counts_and_is_told_when_it_is_written() {
    let (mut world, client, id, number) = without_a_shard(QuicLimits::default());
    let window = world.limits.send_window_bytes as usize;
    let all = packets(200_000);
    world.server.send_on_stream(id, number, &all);
    assert_eq!(world.server.unsent(id), all.len() - window);
    let unsent = world.server.stats().unsent_bytes;
    assert_eq!(unsent, (all.len() - window) as u64);
    world.run(60_000, |world| {
        world.received(client, number).len() == all.len()
    });
    world.pass(100);
    assert_eq!(world.server.stats().unsent_bytes, 0);
    assert_eq!(world.told[&id].drained, 1);
}

#[test]
fn packets_that_were_not_begun_on_a_stream_that_is_stopped_come_on_the_first() {
    let (mut world, client, id, number) = without_a_shard(QuicLimits::default());
    let window = world.limits.send_window_bytes as usize;
    let packet = [0x40, 5, 0, 1, 0, 0, 0];
    assert_ne!(
        window % packet.len(),
        0,
        "the window ends in the middle of a packet"
    );
    let all = packet.repeat(20_000);
    world.server.send_on_stream(id, number, &all);
    let connection = &mut world.clients[client].connection;
    let stopped = connection
        .recv_stream(stream(number))
        .stop(VarInt::from_u32(0));
    assert!(stopped.is_ok());
    let begun = window.div_ceil(packet.len());
    let left = packet.repeat(20_000 - begun);
    world.run(60_000, |world| {
        world.received(client, 0).len() >= left.len()
    });
    world.pass(1_000);
    assert_eq!(world.received(client, 0), left);
    assert_eq!(world.server.stats().unsent_bytes, 0);
}

#[test]
fn a_graceful_close_comes_after_what_was_written_on_all_streams() {
    let (mut world, client, id, number) = without_a_shard(QuicLimits::default());
    let second = world.open(client).expect("it may open another");
    world.say_on(client, second, b"x");
    world.pass(500);
    world.network_loss_percent = 10;
    let all = packets(150_000);
    world.server.send_on_stream(id, number, &all);
    world.server.send(id, &all);
    let now = world.now();
    let linger_ms = 120_000;
    world.server.close(id, Close::Graceful { linger_ms }, now);
    let all_came = |world: &World| {
        let length = |number| world.received(client, number).len();
        length(0) == all.len() && length(number) == all.len()
    };
    world.run(120_000, all_came);
    world.network_loss_percent = 0; // A close is said once.
    world.run(120_000, |world| world.clients[client].lost.is_some());
    world.pass(10_000);
    assert!(world.told[&id].is_closed);
    let stats = world.server.stats();
    assert_eq!((stats.connections, stats.unsent_bytes), (0, 0));
}
