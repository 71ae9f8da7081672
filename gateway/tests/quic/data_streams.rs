//! Data streams: streams beyond the first carry packets of the same session, and nothing on one waits for another.

use edge_proto::decode::{Sender, decode};
use edge_proto::encode;
use edge_proto::frame::next_frame;
use edge_proto::packet::{
    Ack, Connect, Disconnect, Packet, PacketType, Publish, PublishProperties, QoS,
    SubscriptionOptions, Version,
};
use edge_proto::reason::ReasonCode;
use gateway::limits::{Limits, QuicLimits};
use quinn_proto::{Dir, VarInt};

use crate::client::stream;
use crate::node::Node;
use crate::world::World;

/// A whole node.
fn world() -> World {
    world_with(Limits::default())
}

fn world_with(limits: Limits) -> World {
    let mut world = World::new(QuicLimits::default());
    world.node = Some(Node::new(limits, world.now()));
    world
}

/// Bytes of packets.
fn bytes(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = Vec::new();
    write(&mut bytes);
    bytes
}

fn publish(qos: QoS, packet_id: u16, topic: &str, payload: &[u8]) -> Vec<u8> {
    let publish = Publish {
        dup: false,
        qos,
        retain: false,
        topic,
        packet_id: (qos > QoS::AtMostOnce).then_some(packet_id),
        properties: PublishProperties::default(),
        payload,
    };
    bytes(|out| encode::publish(out, Version::V5, &publish))
}

fn subscribe(packet_id: u16, filter: &str) -> Vec<u8> {
    let filters = [(filter, SubscriptionOptions::from_qos(QoS::AtMostOnce))];
    bytes(|out| encode::subscribe(out, Version::V5, packet_id, None, &filters))
}

fn pubrel(packet_id: u16) -> Vec<u8> {
    let ack = Ack::new(packet_id, ReasonCode::Success);
    bytes(|out| encode::ack(out, Version::V5, PacketType::PubRel, &ack))
}

fn connect(name: &str, expiry_s: Option<u32>) -> Vec<u8> {
    let mut connect = Connect::new(Version::V5, name);
    connect.session_expiry_s = expiry_s;
    bytes(|out| encode::connect(out, &connect))
}

/// A client with a QUIC connection and nothing else.
fn stranger(world: &mut World) -> usize {
    let config = world.authority.client_config(b"mqtt", None);
    let client = world.connect(config);
    world.run(10_000, |world| world.clients[client].is_connected);
    client
}

/// A client that has been let in.
fn client_with(world: &mut World, connect: &[u8]) -> usize {
    let client = stranger(world);
    world.say(client, connect);
    hear(world, client, 0, &["CONNACK"]);
    client
}

fn client(world: &mut World, name: &str) -> usize {
    client_with(world, &connect(name, None))
}

/// What the whole packets among these bytes are, in short.
fn in_words(mut bytes: &[u8]) -> Vec<String> {
    let mut words = Vec::new();
    while let Some(frame) = next_frame(bytes, u32::MAX).expect("the server keeps the rules") {
        let packet = decode(Version::V5, Sender::Server, frame);
        words.push(match packet.expect("the server keeps the rules") {
            Packet::ConnAck(_) => "CONNACK".to_owned(),
            Packet::Publish(it) => format!("PUBLISH {}", String::from_utf8_lossy(it.payload)),
            Packet::PubAck(ack) => format!("PUBACK {}", ack.packet_id),
            Packet::PubRec(ack) => format!("PUBREC {}", ack.packet_id),
            Packet::PubComp(ack) => format!("PUBCOMP {} {:#x}", ack.packet_id, ack.reason as u8),
            Packet::SubAck(ack) => format!("SUBACK {}", ack.packet_id),
            Packet::UnsubAck(ack) => format!("UNSUBACK {}", ack.packet_id),
            Packet::PingResp => "PINGRESP".to_owned(),
            Packet::Disconnect(packet) => format!("DISCONNECT {:#x}", packet.reason as u8),
            other => panic!("{other:?} is nothing that a server sends here"),
        });
        bytes = &bytes[frame.length..];
    }
    words
}

fn heard(world: &World, client: usize, number: u64) -> Vec<String> {
    in_words(world.received(client, number))
}

/// Waits until exactly this has come on a stream.
fn hear(world: &mut World, client: usize, number: u64, wanted: &[&str]) {
    let reached = world.now_ms + 20_000;
    while heard(world, client, number) != wanted && world.now_ms < reached {
        world.pass(20);
    }
    assert_eq!(heard(world, client, number), wanted, "on stream {number}");
}

fn partial_bytes(world: &mut World) -> u64 {
    let node = world.node.as_mut().expect("there is one");
    node.shard.stats_mut().partial_bytes
}

#[test]
fn answers_go_back_on_the_stream_of_what_they_answer() {
    let mut world = world();
    let client = client(&mut world, "phone");
    let [one, two, three] = [(); 3].map(|()| {
        let number = world.open(client);
        world.say_on(client, number.unwrap_or(0), &bytes(encode::pingreq));
        world.pass(200);
        number.expect("it may open one")
    });
    world.say_on(client, one, &subscribe(1, "a"));
    hear(&mut world, client, one, &["PINGRESP", "SUBACK 1"]);
    world.say_on(client, two, &publish(QoS::AtMostOnce, 0, "a", b"zero"));
    world.say_on(client, two, &publish(QoS::AtLeastOnce, 1, "a", b"one"));
    hear(&mut world, client, two, &["PINGRESP", "PUBACK 1"]);
    world.say_on(client, three, &publish(QoS::ExactlyOnce, 2, "a", b"two"));
    hear(&mut world, client, three, &["PINGRESP", "PUBREC 2"]);
    world.say_on(client, two, &pubrel(2));
    hear(
        &mut world,
        client,
        two,
        &["PINGRESP", "PUBACK 1", "PUBCOMP 2 0x0"],
    );
    world.say_on(
        client,
        three,
        &bytes(|out| encode::unsubscribe(out, Version::V5, 1, &["a"])),
    );
    hear(
        &mut world,
        client,
        three,
        &["PINGRESP", "PUBREC 2", "UNSUBACK 1"],
    );
    world.say(client, &bytes(encode::pingreq));
    let first = [
        "CONNACK",
        "PUBLISH zero",
        "PUBLISH one",
        "PUBLISH two",
        "PINGRESP",
    ];
    hear(&mut world, client, 0, &first);
    assert_eq!(world.server.stats().data_streams_opened, 3);
}

#[test]
fn packets_of_three_streams_are_cut_and_mixed_anywhere_and_stay_whole() {
    let mut world = world();
    let reader = client(&mut world, "reader");
    world.say(reader, &subscribe(1, "a/#"));
    let client = client(&mut world, "writer");
    let one = world.open(client).expect("it may open one");
    world.say_on(client, one, &bytes(encode::pingreq));
    world.pass(200);
    let two = world.open(client).expect("it may open another");
    let packets = [0, one, two].map(|number| {
        let (topic, text) = (format!("a/{number}"), format!("from {number}"));
        publish(QoS::AtLeastOnce, number as u16 + 1, &topic, text.as_bytes())
    });
    let length = packets[0].len();
    for cut in 0..length {
        // The pieces of one stream come between those of the others.
        for piece in [0..cut, cut..length] {
            world.say(client, &packets[0][piece.clone()]);
            world.say_on(client, one, &packets[1][piece.clone()]);
            world.say_on(client, two, &packets[2][piece]);
            world.pass(50);
        }
    }
    world.pass(1_000);
    for (number, before) in [(0, "CONNACK"), (one, "PINGRESP"), (two, "")] {
        let answer = format!("PUBACK {}", number + 1);
        let mut wanted = vec![answer.as_str(); length];
        if !before.is_empty() {
            wanted.insert(0, before);
        }
        assert_eq!(heard(&world, client, number), wanted, "on stream {number}");
        let text = format!("PUBLISH from {number}");
        let messages = heard(&world, reader, 0);
        let messages = messages.iter().filter(|it| **it == text);
        assert_eq!(messages.count(), length);
    }
    assert_eq!(heard(&world, reader, 0).len(), 2 + 3 * length);
    assert_eq!(partial_bytes(&mut world), 0);
}

#[test]
fn a_large_packet_on_one_stream_does_not_keep_another_waiting() {
    let mut world = world();
    let client = client(&mut world, "phone");
    let upload = world.open(client).expect("it may open one");
    let large = publish(QoS::AtLeastOnce, 1, "a", &vec![b'x'; 900_000]);
    world.say_on(client, upload, &large);
    world.pass(300);
    world.say(client, &bytes(encode::pingreq));
    world.pass(100);
    assert_eq!(heard(&world, client, 0), ["CONNACK", "PINGRESP"]);
    let left = world.clients[client].data[&upload].unsent.len();
    assert!(left > 0, "the upload still goes on");
    assert!(partial_bytes(&mut world) > 0, "half of it is here");
    hear(&mut world, client, upload, &["PUBACK 1"]);
    assert_eq!(partial_bytes(&mut world), 0);
}

#[test]
fn a_stream_that_is_reset_in_the_middle_of_a_packet_takes_only_that_packet() {
    let mut world = world();
    let client = client(&mut world, "phone");
    world.say(client, &subscribe(9, "a"));
    hear(&mut world, client, 0, &["CONNACK", "SUBACK 9"]);
    let number = world.open(client).expect("it may open one");
    let half = publish(QoS::AtLeastOnce, 2, "a", &[b'x'; 1_000]);
    world.say_on(client, number, &publish(QoS::ExactlyOnce, 1, "a", b"whole"));
    world.say_on(client, number, &half[..500]);
    hear(&mut world, client, number, &["PUBREC 1"]);
    assert_eq!(partial_bytes(&mut world), 500);
    let connection = &mut world.clients[client].connection;
    let reset = connection
        .send_stream(stream(number))
        .reset(VarInt::from_u32(0));
    assert!(reset.is_ok());
    world.run(5_000, |world| world.clients[client].data[&number].has_ended);
    assert_eq!(partial_bytes(&mut world), 0);
    // The rest of QoS 2 goes on elsewhere: it is the session's.
    let other = world.open(client).expect("it may open another");
    world.say_on(client, other, &pubrel(1));
    hear(&mut world, client, other, &["PUBCOMP 1 0x0"]);
    let first = ["CONNACK", "SUBACK 9", "PUBLISH whole"];
    assert_eq!(heard(&world, client, 0), first);
}

#[test]
fn a_stream_for_each_publish_is_answered_and_ended() {
    let mut world = world();
    let client = client(&mut world, "phone");
    for packet_id in 1..=20 {
        let number = world.open(client).expect("the former ones are closed");
        world.say_on(
            client,
            number,
            &publish(QoS::AtLeastOnce, packet_id, "a", b"text"),
        );
        let data = world.clients[client].data.get_mut(&number);
        data.expect("it is open").ends = true;
        world.run(5_000, |world| world.clients[client].data[&number].has_ended);
        assert_eq!(
            heard(&world, client, number),
            [format!("PUBACK {packet_id}")]
        );
        world.pass(100); // Leave to open another one arrives.
    }
    assert_eq!(world.server.stats().data_streams_opened, 20);
    assert_eq!(world.server.stats().streams_refused, 0);
}

#[test]
fn who_wants_more_streams_than_it_may_have_waits_until_one_is_closed() {
    let mut world = world();
    let client = client(&mut world, "phone");
    let mut open = Vec::new();
    for _ in 0..4 {
        let number = world.open(client).expect("so many are allowed");
        world.say_on(client, number, &bytes(encode::pingreq));
        hear(&mut world, client, number, &["PINGRESP"]);
        open.push(number);
    }
    world.pass(1_000);
    assert_eq!(world.open(client), None);
    let data = world.clients[client].data.get_mut(&open[2]);
    data.expect("it is open").ends = true;
    world.pass(1_000);
    let fifth = world.open(client).expect("there is room again");
    world.say_on(client, fifth, &bytes(encode::pingreq));
    hear(&mut world, client, fifth, &["PINGRESP"]);
    assert_eq!(world.open(client), None);
    let uni = world.clients[client].connection.streams().open(Dir::Uni);
    assert_eq!(uni, None, "streams of one direction are not allowed at all");
}

#[test]
fn data_streams_are_not_read_before_the_client_is_let_in() {
    let mut world = world();
    let client = stranger(&mut world);
    world.say(client, b""); // Its first stream is open, and silent.
    let number = world.open(client).expect("it may open one");
    let count = 3_000;
    let mut bytes_in_all = 0;
    for packet_id in 1..=count {
        let packet = publish(QoS::AtLeastOnce, packet_id, "a", &[b'x'; 20]);
        bytes_in_all += packet.len();
        world.say_on(client, number, &packet);
    }
    world.pass(2_000);
    let left = world.clients[client].data[&number].unsent.len();
    let window = world.limits.receive_window_bytes as usize;
    assert_eq!(left, bytes_in_all - window, "it fills its window");
    assert_eq!(partial_bytes(&mut world), 0, "nothing was read");
    // A CONNECT that needs more than what is left of the window of one stream.
    let mut packet = Connect::new(Version::V5, "phone");
    let password = vec![b'p'; 40_000];
    packet.username = Some("somebody");
    packet.password = Some(&password);
    world.say(client, &bytes(|out| encode::connect(out, &packet)));
    hear(&mut world, client, 0, &["CONNACK"]);
    world.run(60_000, |world| {
        heard(world, client, number).len() == usize::from(count)
    });
    assert_eq!(heard(&world, client, number)[2_999], "PUBACK 3000");
}

#[test]
fn who_is_not_let_in_is_not_heard_on_any_stream() {
    let mut world = world_with(Limits {
        connect_timeout_ms: 3_000,
        ..Limits::default()
    });
    let client = stranger(&mut world);
    world.say(client, b"");
    let number = world.open(client).expect("it may open one");
    world.say_on(client, number, &connect("phone", None));
    world.run(5_000, |world| world.clients[client].lost.is_some());
    assert_eq!(heard(&world, client, number), [""; 0]);
    let node = world.node.as_mut().expect("there is one");
    assert_eq!(node.shard.stats_mut().counters.connects, 0);
}

#[test]
fn a_packet_about_the_whole_connection_is_a_protocol_error_on_a_data_stream() {
    let disconnect = Disconnect::new(ReasonCode::Success);
    for packet in [
        connect("phone", None),
        vec![0xF0, 0], // AUTH.
        bytes(|out| encode::disconnect(out, Version::V5, &disconnect)),
    ] {
        let mut world = world();
        let client = client(&mut world, "phone");
        let number = world.open(client).expect("it may open one");
        world.say_on(client, number, &packet);
        hear(&mut world, client, 0, &["CONNACK", "DISCONNECT 0x82"]);
        world.run(5_000, |world| world.clients[client].lost.is_some());
    }
}

#[test]
fn answers_that_a_stream_does_not_take_come_on_the_first() {
    let mut world = world();
    let client = client(&mut world, "phone");
    let number = world.open(client).expect("it may open one");
    world.say_on(client, number, &bytes(encode::pingreq));
    hear(&mut world, client, number, &["PINGRESP"]);
    let connection = &mut world.clients[client].connection;
    let stopped = connection
        .recv_stream(stream(number))
        .stop(VarInt::from_u32(0));
    assert!(stopped.is_ok());
    world.pass(500);
    world.say_on(client, number, &publish(QoS::AtLeastOnce, 1, "a", b"text"));
    hear(&mut world, client, 0, &["CONNACK", "PUBACK 1"]);
}

#[test]
fn a_packet_identifier_used_again_on_another_stream_is_answered_there() {
    let mut world = world();
    let client = client(&mut world, "phone");
    let number = world.open(client).expect("it may open one");
    world.say_on(client, number, &publish(QoS::ExactlyOnce, 1, "a", b"text"));
    hear(&mut world, client, number, &["PUBREC 1"]);
    world.say(client, &publish(QoS::ExactlyOnce, 1, "a", b"text"));
    hear(&mut world, client, 0, &["CONNACK", "PUBREC 1"]);
    world.say(client, &pubrel(1));
    hear(
        &mut world,
        client,
        0,
        &["CONNACK", "PUBREC 1", "PUBCOMP 1 0x0"],
    );
    world.say_on(client, number, &pubrel(1));
    hear(&mut world, client, number, &["PUBREC 1", "PUBCOMP 1 0x92"]);
}

#[test]
fn while_publishes_wait_for_the_engine_no_stream_is_read_and_then_all_are_answered() {
    let mut world = world_with(Limits {
        processing_max: 2,
        ..Limits::default()
    });
    let client = client_with(&mut world, &connect("phone", Some(100)));
    let number = world.open(client).expect("it may open one");
    world.say_on(client, number, &bytes(encode::pingreq));
    hear(&mut world, client, number, &["PINGRESP"]);
    world.node.as_mut().expect("there is one").is_stuck = true;
    for packet_id in 1..=5 {
        world.say_on(
            client,
            number,
            &publish(QoS::ExactlyOnce, packet_id, "a", b"text"),
        );
    }
    world.pass(500);
    let data = world.clients[client].data.get_mut(&number);
    data.expect("it is open").ends = true;
    world.say(client, &bytes(encode::pingreq));
    world.pass(500);
    assert_eq!(heard(&world, client, number), ["PINGRESP"]);
    assert_eq!(heard(&world, client, 0), ["CONNACK"]);
    assert!(
        partial_bytes(&mut world) > 0,
        "what came before the stop is kept"
    );
    world.node.as_mut().expect("there is one").is_stuck = false;
    world.run(5_000, |world| world.clients[client].data[&number].has_ended);
    let answers = (1..=5).map(|packet_id| format!("PUBREC {packet_id}"));
    let wanted: Vec<String> = ["PINGRESP".to_owned()].into_iter().chain(answers).collect();
    assert_eq!(heard(&world, client, number), wanted);
    assert_eq!(heard(&world, client, 0), ["CONNACK", "PINGRESP"]);
    assert_eq!(partial_bytes(&mut world), 0);
}

#[test]
fn what_waited_on_a_stream_that_has_ended_is_answered_there_to_the_last() {
    let mut world = world_with(Limits {
        processing_max: 1,
        ..Limits::default()
    });
    let client = client_with(&mut world, &connect("phone", Some(100)));
    let number = world.open(client).expect("it may open one");
    world.say_on(client, number, &bytes(encode::pingreq));
    hear(&mut world, client, number, &["PINGRESP"]);
    world.node.as_mut().expect("there is one").is_stuck = true;
    world.say(client, &publish(QoS::ExactlyOnce, 1, "a", b"text"));
    world.pass(100);
    for packet_id in 2..=4 {
        // Answered at once when it is handled: no client may publish there.
        let packet = publish(QoS::AtLeastOnce, packet_id, "$no", b"text");
        world.say_on(client, number, &packet);
    }
    let data = world.clients[client].data.get_mut(&number);
    data.expect("it is open").ends = true;
    world.pass(500);
    assert_eq!(heard(&world, client, number), ["PINGRESP"]);
    world.node.as_mut().expect("there is one").is_stuck = false;
    world.run(5_000, |world| world.clients[client].data[&number].has_ended);
    let wanted = ["PINGRESP", "PUBACK 2", "PUBACK 3", "PUBACK 4"];
    assert_eq!(heard(&world, client, number), wanted);
    assert_eq!(heard(&world, client, 0), ["CONNACK", "PUBREC 1"]);
}

#[test]
fn half_packets_on_data_streams_count_against_the_bound_of_half_packets() {
    let mut world = world_with(Limits {
        partial_bytes_max: 64 * 1024,
        ..Limits::default()
    });
    let greedy = client(&mut world, "greedy");
    let modest = client(&mut world, "modest");
    let half = publish(QoS::AtMostOnce, 0, "a", &[b'x'; 100_000]);
    for length in [20_000, 25_000, 20_000] {
        let number = world.open(greedy).expect("it may open one");
        world.say_on(greedy, number, &half[..length]);
        world.pass(500);
    }
    hear(&mut world, greedy, 0, &["CONNACK", "DISCONNECT 0x97"]);
    assert_eq!(partial_bytes(&mut world), 0, "it takes its bytes with it");
    let number = world.open(modest).expect("it may open one");
    world.say_on(modest, number, &half[..10_000]);
    world.pass(500);
    assert_eq!(partial_bytes(&mut world), 10_000);
    let now = world.instant();
    let connection = &mut world.clients[modest].connection;
    connection.close(now, VarInt::from_u32(0), "".into());
    world.pass(500);
    assert_eq!(partial_bytes(&mut world), 0);
}

#[test]
fn data_streams_survive_loss_and_reordering() {
    let mut world = world();
    let client = client(&mut world, "phone");
    world.network_loss_percent = 20;
    world.jitter_ms = 30;
    let one = world.open(client).expect("it may open one");
    for packet_id in 1..=200 {
        let text = publish(QoS::AtLeastOnce, packet_id, "a", &[b'x'; 300]);
        world.say_on(client, one, &text);
    }
    let wanted: Vec<String> = (1..=200).map(|id| format!("PUBACK {id}")).collect();
    world.run(120_000, |world| heard(world, client, one).len() == 200);
    assert_eq!(heard(&world, client, one), wanted);
}
