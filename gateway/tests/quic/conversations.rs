//! What clients may rely on: order, whatever the network does; their address is theirs to change; nothing before the handshake.

use gateway::limits::QuicLimits;
use gateway::quic::ErrorCode;
use gateway::tls::Reason;
use quinn_proto::{ConnectionError, Dir, VarInt};
use reactor::driver::Close;

use crate::client::stream;
use crate::world::{World, listening, server_address};

fn lines(from: u32, to: u32) -> Vec<u8> {
    let lines = (from..to).map(|number| format!("line {number}\n"));
    lines.collect::<String>().into_bytes()
}

#[test]
fn a_conversation_survives_loss_and_reordering() {
    let mut world = World::new(QuicLimits::default());
    world.network_loss_percent = 20;
    world.jitter_ms = 30;
    world.echoes = true;
    let (client, id) = world.client();
    for round in 0..20 {
        world.say(client, &lines(round * 50, (round + 1) * 50));
        world.pass(40);
    }
    let mut wanted = b"hello".to_vec();
    wanted.extend(lines(0, 1_000));
    let length = wanted.len();
    world.run(120_000, |world| {
        world.clients[client].received.len() == length
    });
    assert_eq!(world.heard(id), wanted);
    assert_eq!(world.clients[client].received, wanted);
}

#[test]
fn a_client_goes_on_from_another_address() {
    let mut world = World::new(QuicLimits::default());
    world.echoes = true;
    let (client, id) = world.client();
    world.run(5_000, |world| world.clients[client].received == b"hello");
    for move_to in 1..4 {
        world.clients[client].address = ([203, 0, 113, move_to], 4_000).into();
        let before = world.clients[client].received.len();
        world.say(client, b"from elsewhere");
        world.run(5_000, |world| {
            world.clients[client].received.len() >= before + 14
        });
        assert_eq!(world.server.stats().migrations, u64::from(move_to));
        world.pass(1_000); // The new path is validated.
    }
    assert!(!world.told[&id].is_closed);
    assert_eq!(world.accepted.len(), 1, "one connection all along");
}

#[test]
fn a_client_has_few_ids_and_a_new_one_for_each_move() {
    let mut world = World::new(QuicLimits::default());
    world.echoes = true;
    let (client, id) = world.client();
    world.pass(1_000);
    let ids = |world: &World| {
        let stats = world.clients[client].connection.stats();
        stats.frame_rx.new_connection_id
    };
    assert_eq!(ids(&world), 2, "it would have taken four");
    for move_to in 1..=8 {
        world.clients[client].address = ([203, 0, 113, move_to], 4_000).into();
        // It knows that it moves, and uses an id that nobody can link to the last one.
        world.clients[client].connection.local_address_changed();
        let before = world.clients[client].received.len();
        world.say(client, b"from elsewhere");
        world.run(5_000, |world| {
            world.clients[client].received.len() >= before + 14
        });
        world.pass(1_000);
        assert_eq!(ids(&world), 2 + u64::from(move_to));
    }
    assert!(!world.told[&id].is_closed);
}

#[test]
fn who_only_repeats_datagrams_of_another_does_not_move_its_connection() {
    let mut world = World::new(QuicLimits::default());
    world.echoes = true;
    let (client, _) = world.client();
    let thief = ([203, 0, 113, 66], 666).into();
    world.clients[client].connection.ping();
    let mut copied = Vec::new();
    let now = world.instant();
    let sent = world.clients[client]
        .connection
        .poll_transmit(now, 1, &mut copied);
    assert!(sent.is_some());
    world.deliver(thief, &copied);
    world.flush();
    // quinn-proto lets one datagram go as long as there is any budget left (quinn #1082): no more than that.
    let sent = world.sent_to.get(&thief).copied().unwrap_or_default();
    assert!(sent <= 1_200, "{sent} bytes");
    // Its owner is heard where it is.
    world.say(client, b"still me");
    world.run(10_000, |world| {
        world.clients[client].received.ends_with(b"still me")
    });
    let before = world.sent_to.get(&thief).copied();
    world.say(client, b"and again");
    world.run(10_000, |world| {
        world.clients[client].received.ends_with(b"and again")
    });
    assert_eq!(world.sent_to.get(&thief).copied(), before);
}

#[test]
fn nothing_is_acted_on_before_a_handshake_is_complete_a_resumed_one_too() {
    let mut world = World::new(QuicLimits::default());
    let config = world.authority.client_config(b"mqtt", None);
    world.client_with(config.clone());
    world.pass(1_000); // The ticket arrives.
    let client = world.connect(config.clone());
    // The ticket says that early data is not taken: this client does not even try. Others do, and have to send it again.
    assert!(!world.clients[client].connection.has_0rtt());
    let accepted = world.accepted.len();
    world.run(5_000, |world| world.clients[client].is_connected);
    assert_eq!(world.accepted.len(), accepted, "nothing was acted on yet");
    world.say(client, b"early");
    world.run(5_000, |world| world.accepted.len() > accepted);
    let stats = world.server.stats();
    assert_eq!((stats.handshakes_full, stats.handshakes_resumed), (1, 1));
    let id = world.accepted[accepted];
    world.run(5_000, |world| world.heard(id) == b"early");

    // Only its first flight arrives, as in a recording that somebody plays.
    let client = world.connect(config);
    world.say(client, b"recorded");
    let first_until = world.now_ms;
    world.pass(1);
    world.drops = |_| true;
    let accepted = world.accepted.len();
    assert_eq!(first_until + 1, world.now_ms);
    world.pass(60_000);
    assert_eq!(world.accepted.len(), accepted, "nothing of it was acted on");
    assert_eq!(world.failed, [Reason::TimedOut]);
}

#[test]
fn keys_change_in_the_middle_of_a_conversation() {
    let mut world = World::new(QuicLimits::default());
    world.echoes = true;
    let (client, _) = world.client();
    for round in 0..5 {
        world.clients[client].connection.force_key_update();
        let before = world.clients[client].received.len();
        world.say(client, &lines(round, round + 1));
        world.run(5_000, |world| world.clients[client].received.len() > before);
        world.pass(1_000);
    }
    // Long enough that the server's own turn has come as well: its first update is within 1,000 packets.
    for round in 0..300 {
        let before = world.clients[client].received.len();
        world.say(client, &lines(round, round + 1));
        world.run(5_000, |world| world.clients[client].received.len() > before);
    }
    assert_eq!(world.clients[client].lost, None);
}

#[test]
fn a_paused_stream_fills_its_window_and_nothing_is_lost() {
    let limits = QuicLimits::default();
    let window = limits.receive_window_bytes as usize;
    let mut world = World::new(limits);
    let (client, id) = world.client();
    world.server.pause(id);
    let all = lines(0, 20_000);
    world.say(client, &all);
    world.pass(5_000);
    assert_eq!(world.heard(id), b"hello");
    let taken = all.len() - world.clients[client].unsent();
    assert!(taken <= window, "{taken} of {window} bytes");
    world.server.resume(id);
    world.run(60_000, |world| world.heard(id).len() == all.len() + 5);
    assert_eq!(&world.heard(id)[5..], all);
}

#[test]
fn what_a_client_does_not_read_waits_and_is_told_when_it_is_written() {
    let limits = QuicLimits::default();
    let window = limits.send_window_bytes as usize;
    let mut world = World::new(limits);
    let (client, id) = world.client();
    let all = lines(0, 30_000);
    world.server.send(id, &all);
    assert_eq!(world.server.unsent(id), all.len() - window);
    assert_eq!(
        world.server.stats().unsent_bytes,
        (all.len() - window) as u64
    );
    world.run(60_000, |world| {
        world.clients[client].received.len() == all.len()
    });
    assert_eq!(world.clients[client].received, all);
    assert_eq!(world.server.unsent(id), 0);
    assert_eq!(world.server.stats().unsent_bytes, 0);
    assert_eq!(world.told[&id].drained, 1);
}

#[test]
fn a_graceful_close_comes_after_everything_that_was_written() {
    let mut world = World::new(QuicLimits::default());
    world.network_loss_percent = 10;
    let (client, id) = world.client();
    let all = lines(0, 20_000);
    world.server.send(id, &all);
    let linger_ms = 120_000;
    let now = world.now();
    world.server.close(id, Close::Graceful { linger_ms }, now);
    let length = all.len();
    world.run(120_000, |world| {
        world.clients[client].received.len() == length
    });
    world.network_loss_percent = 0; // A close is said once.
    world.run(120_000, |world| world.clients[client].lost.is_some());
    assert_eq!(world.clients[client].received, all);
    let lost = world.clients[client].lost.clone();
    let Some(ConnectionError::ApplicationClosed(close)) = lost else {
        panic!("{lost:?}");
    };
    assert_eq!(close.error_code, VarInt::from_u32(ErrorCode::Ended as u32));
    world.pass(10_000);
    assert!(world.told[&id].is_closed);
    assert_eq!(world.server.stats().connections, 0, "nothing is left of it");
}

#[test]
fn a_client_that_takes_nothing_is_closed_after_the_linger() {
    let mut world = World::new(QuicLimits::default());
    let (_, id) = world.client();
    world.drops = |_| true;
    world.server.send(id, b"goodbye");
    let now = world.now();
    world
        .server
        .close(id, Close::Graceful { linger_ms: 2_000 }, now);
    world.pass(1_990);
    assert!(!world.told[&id].is_closed);
    world.pass(20);
    assert!(world.told[&id].is_closed);
    world.pass(30_000);
    assert_eq!(world.server.stats().connections, 0);
}

#[test]
fn the_end_of_a_stream_is_heard_after_its_last_byte() {
    let mut world = World::new(QuicLimits::default());
    let (client, id) = world.client();
    world.say(client, b", goodbye");
    let ended = world.clients[client]
        .connection
        .send_stream(stream(0))
        .finish();
    assert!(ended.is_ok());
    world.run(5_000, |world| world.told[&id].has_peer_closed);
    assert_eq!(world.heard(id), b"hello, goodbye");
    let now = world.now();
    world
        .server
        .close(id, Close::Graceful { linger_ms: 2_000 }, now);
    world.run(5_000, |world| world.told[&id].is_closed);
}

#[test]
fn what_came_before_a_close_is_heard() {
    let mut world = World::new(QuicLimits::default());
    let (client, id) = world.client();
    world.say(client, b", goodbye");
    world.pass(100);
    let now = world.instant();
    let words = "enough".into();
    world.clients[client]
        .connection
        .close(now, VarInt::from_u32(0), words);
    world.run(5_000, |world| world.told[&id].is_closed);
    assert_eq!(world.heard(id), b"hello, goodbye");
    world.pass(10_000);
    assert_eq!(world.server.stats().connections, 0);
}

#[test]
fn without_data_streams_those_beyond_the_first_are_refused_by_name() {
    let mut world = World::new(QuicLimits {
        data_streams_max: 0,
        ..QuicLimits::default()
    });
    world.echoes = true;
    let (client, _) = world.client();
    for number in 1..6 {
        let connection = &mut world.clients[client].connection;
        let id = connection.streams().open(Dir::Bi).expect("one is allowed");
        let written = connection.send_stream(id).write(b"publish");
        assert!(written.is_ok());
        world.run(5_000, |world| world.clients[client].stopped.len() == number);
        // The client answers, and may open another one.
        world.pass(1_000);
        let connection = &mut world.clients[client].connection;
        let _ = connection.send_stream(id).reset(VarInt::from_u32(0));
        let _ = connection.recv_stream(id).received_reset();
        world.pass(1_000);
    }
    let code = VarInt::from_u32(ErrorCode::ExtraStream as u32);
    assert_eq!(world.clients[client].stopped, [code; 5]);
    assert_eq!(world.server.stats().streams_refused, 5);
    world.say(client, b"still here");
    world.run(5_000, |world| {
        world.clients[client].received.ends_with(b"still here")
    });
}

#[test]
fn a_datagram_of_another_core_is_handed_over_and_works_there() {
    let mut world = World::new(QuicLimits::default());
    world.restart(listening(1, 2));
    let mut counts = [0, 0];
    for _ in 0..20 {
        let initial = world.initial();
        let before = world.strays.len();
        world.deliver(([203, 0, 113, 1], 1).into(), &initial);
        let is_stray = world.strays.len() > before;
        assert_eq!(
            is_stray,
            initial[6].is_multiple_of(2),
            "the first byte names the core"
        );
        counts[usize::from(is_stray)] += 1;
    }
    assert!(counts.iter().all(|count| *count > 0));
    assert!(world.strays.iter().all(|(core, _)| *core == 0));
    world.restart(listening(0, 2));
    let (_, datagram) = world.strays.pop().expect("there are some");
    world.deliver(server_address(), &datagram);
    world.server_turn();
    assert_eq!(world.server.stats().handshakes_in_progress, 1);
}
