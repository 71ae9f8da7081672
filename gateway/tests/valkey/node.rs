//! A node on a Valkey, as a process: what it acknowledged is there after either of them was killed.

use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};
use std::time::Duration;

use edge_proto::encode;
use edge_proto::packet::{Publish, PublishProperties, QoS, Version};

use gateway::engine::redis::options::{ConnectOptions, Policy};
use gateway::engine::redis::views::RedisViews;
use gateway::engine::views::ViewStore as _;

use crate::servers::{Server, cluster};
use crate::world::{Client, Node, free_address};

const MESSAGES: u32 = 50;

fn start(name: &str, urls: &str, more: &[&str]) -> Node {
    let urls = format!("engine.urls={urls}");
    let settings = ["engine.kind=redis", urls.as_str()];
    Node::start(name, &[&settings, more].concat())
}

fn publish_all(node: &Node) {
    let mut publisher = Client::connect(node, "publisher");
    for number in 0..MESSAGES {
        publisher.publish("sensors/d1/t", &number.to_string());
    }
}

fn subscribe(node: &Node, name: &str) {
    let mut subscriber = Client::connect(node, name);
    assert_eq!(subscriber.subscribe("sensors/#"), 1);
    subscriber.leave();
}

fn assert_all_come(node: &Node, name: &str) {
    let mut subscriber = Client::connect(node, name);
    for number in 0..MESSAGES {
        assert_eq!(subscriber.message(), number.to_string());
    }
}

#[test]
fn what_was_acknowledged_comes_back_after_the_node_was_killed() {
    let server = Server::durable();
    let mut node = start("valkey-node", &server.url(), &[]);
    subscribe(&node, "alice");
    subscribe(&node, "bob");
    publish_all(&node);
    node.kill();
    assert_all_come(&node, "alice");
    // What was acknowledged stays gone; what was not comes again; the subscription is there.
    node.kill();
    let mut publisher = Client::connect(&node, "publisher");
    publisher.publish("sensors/d1/t", "new");
    assert_all_come(&node, "bob");
    let mut alice = Client::connect(&node, "alice");
    let message = (0..=MESSAGES)
        .map(|_| alice.message())
        .find(|text| text == "new");
    assert!(message.is_some());
}

#[test]
fn what_was_acknowledged_comes_back_after_the_server_was_killed() {
    let mut server = Server::durable();
    let mut node = start("valkey-server", &server.url(), &["engine.timeout=1s"]);
    subscribe(&node, "alice");
    publish_all(&node);
    server.kill();
    let mut publisher = Client::connect_for(&node, "other", 0);
    let publish = Publish {
        dup: false,
        qos: QoS::AtLeastOnce,
        retain: false,
        topic: "sensors/d1/t",
        packet_id: Some(1),
        properties: PublishProperties::default(),
        payload: b"meanwhile",
    };
    publisher.send(|out| encode::publish(out, Version::V5, &publish));
    server.start_again();
    publisher.hear(|packet| matches!(packet, edge_proto::packet::Packet::PubAck(_)).then_some(()));
    node.kill();
    let mut alice = Client::connect(&node, "alice");
    for number in 0..MESSAGES {
        assert_eq!(alice.message(), number.to_string());
    }
    assert_eq!(alice.message(), "meanwhile");
}

#[test]
fn a_cluster_is_a_store_too() {
    let servers = cluster(&["appendonly yes", "appendfsync always"]);
    // One seed is enough.
    let mut node = start("valkey-cluster", &servers[1].url(), &[]);
    for name in ["alice", "bob", "carol", "dave"] {
        subscribe(&node, name);
    }
    publish_all(&node);
    node.kill();
    for name in ["alice", "bob", "carol", "dave"] {
        assert_all_come(&node, name);
    }
    let with_keys = servers
        .iter()
        .filter(|server| server.cli(&["DBSIZE"]) != "0")
        .count();
    assert_eq!(with_keys, 3, "every server has its part");
}

#[test]
fn a_node_refuses_a_server_that_would_break_what_is_promised() {
    let server = Server::start(&["maxmemory 100mb", "maxmemory-policy allkeys-lru"]);
    let folder = std::env::temp_dir().join(format!("roadstead-refused-{}", std::process::id()));
    let settings = [
        format!("listeners.tcp=[\"{}\"]", free_address()),
        "listeners.websocket=[]".to_owned(),
        "admin.address=off".to_owned(),
        "engine.kind=redis".to_owned(),
        format!("engine.urls={}", server.url()),
        format!("engine.path={}", folder.display()),
    ];
    let mut command = Command::new(env!("CARGO_BIN_EXE_roadstead"));
    for setting in &settings {
        command.args(["--set", setting]);
    }
    let output = command
        .args(["--cores", "1"])
        .stdin(Stdio::null())
        .output()
        .expect("it runs");
    let _ = std::fs::remove_dir_all(&folder);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("maxmemory-policy = allkeys-lru, right: noeviction"),
        "{said}"
    );
    assert!(said.contains("roadstead engine check"), "{said}");
}

#[test]
fn a_server_that_hangs_for_a_while_loses_nothing() {
    let server = Server::durable();
    let mut node = start("valkey-hang", &server.url(), &["engine.timeout=1s"]);
    subscribe(&node, "alice");
    server.signal("-STOP");
    let thaw = std::thread::spawn({
        let id = server.id();
        move || {
            std::thread::park_timeout(Duration::from_millis(1_500));
            let status = Command::new("kill")
                .args(["-CONT", &id.to_string()])
                .status();
            assert!(status.expect("kill runs").success());
        }
    });
    publish_all(&node);
    thaw.join().expect("it goes on");
    node.kill();
    assert_all_come(&node, "alice");
}

/// What `docs/OPERATIONS.md` says that a user needs.
const RIGHTS: &str = "on >hunter2 ~rs:* ~{rs:view} +@read +@write +@scripting +@connection +wait +waitaof +info +time +cluster|slots \
                      +cluster|info +cluster|nodes +config|get";

#[test]
fn a_user_with_the_rights_that_are_documented_is_enough() {
    let servers = cluster(&["appendonly yes", "appendfsync always"]);
    for server in &servers {
        let typed = ["ACL", "SETUSER", "gateway"]
            .into_iter()
            .chain(RIGHTS.split_whitespace());
        assert_eq!(server.cli(&typed.collect::<Vec<_>>()), "OK");
        assert_eq!(
            server.cli(&["ACL", "SETUSER", "default", "nocommands", "+ping"]),
            "OK"
        );
    }
    let password = std::env::temp_dir().join(format!("roadstead-password-{}", std::process::id()));
    std::fs::write(&password, "hunter2\n").expect("it is written");
    let file = format!("engine.password_file={}", password.display());
    let settings = ["engine.user=gateway", file.as_str()];
    let mut node = start("valkey-rights", &servers[0].url(), &settings);
    subscribe(&node, "alice");
    publish_all(&node);
    node.kill();
    assert_all_come(&node, "alice");
    let options = ConnectOptions {
        username: Some("gateway".into()),
        password: Some("hunter2".to_owned().into()),
        ..servers[0].options()
    };
    let views = RedisViews::new(&options, "rs", Policy::Aof);
    assert!(views.read(None, true).is_ok());
    std::fs::remove_file(&password).expect("it was made");
}

#[test]
fn a_second_node_on_the_same_prefix_takes_over_and_the_first_stores_nothing_more() {
    let server = Server::durable();
    let first = start("valkey-first", &server.url(), &[]);
    subscribe(&first, "alice");
    let second = start("valkey-second", &server.url(), &[]);
    publish_all(&second);
    let before = server.cli(&["DBSIZE"]);
    let mut late = Client::connect_for(&first, "late", 0);
    let publish = Publish {
        dup: false,
        qos: QoS::AtLeastOnce,
        retain: true,
        topic: "sensors/d1/t",
        packet_id: Some(1),
        properties: PublishProperties::default(),
        payload: b"from the first",
    };
    late.send(|out| encode::publish(out, Version::V5, &publish));
    late.stream()
        .set_read_timeout(Some(Duration::from_millis(700)))
        .expect("a socket");
    let mut answer = [0; 64];
    let answered = std::io::Read::read(late.stream(), &mut answer);
    assert!(
        !matches!(answered, Ok(count) if count > 0 && answer[..count] == [0x40, 2, 0, 1]),
        "{answer:?}"
    );
    assert_eq!(server.cli(&["DBSIZE"]), before);
    assert_all_come(&second, "alice");
}

#[test]
fn the_status_names_the_servers_and_what_is_promised() {
    let server = Server::durable();
    let admin = free_address();
    let setting = format!("admin.address={admin}");
    let node = start("valkey-status", &server.url(), &[&setting]);
    drop(node.connect());
    let mut stream = Node::connect_to(admin);
    let request = "GET /v1/status HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).expect("it listens");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
    let status: serde_json::Value = serde_json::from_str(body).expect("JSON");
    let engine = &status["engine"];
    assert_eq!(engine["kind"], "redis");
    assert_eq!(engine["durability"], "aof");
    assert_eq!(
        engine["servers"],
        serde_json::json!([server.address().to_string()])
    );
}
