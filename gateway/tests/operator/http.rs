//! The admin interface, byte for byte.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gateway::admin::AdminRequest;
use gateway::config::{ByteSize, Config};
use gateway::engine::status::EngineState;
use serde_json::{Value, json};

use crate::fake::{Mood, Node, cores};

/// Sends a request as it is written and returns the status and the body.
pub(crate) fn exchange(address: SocketAddr, request: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).expect("the node listens");
    stream.write_all(request.as_bytes()).expect("it reads");
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .expect("it answers and closes");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|word| word.parse().ok())
        .expect("a status");
    (status, body.to_owned())
}

fn call(address: SocketAddr, method: &str, path: &str, headers: &str, body: &str) -> (u16, Value) {
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
    );
    let (status, text) = exchange(address, &request);
    (
        status,
        serde_json::from_str(&text).unwrap_or(Value::String(text)),
    )
}

fn get(node: &Node, path: &str) -> (u16, Value) {
    call(node.address, "GET", path, "", "")
}

fn publish(node: &Node, body: &str) -> (u16, Value) {
    call(
        node.address,
        "POST",
        "/v1/publish",
        "Content-Type: application/json\r\n",
        body,
    )
}

/// Every failure has exactly these two fields, both with text.
fn assert_explained(answer: &(u16, Value), status: u16, error: &str) {
    assert_eq!(answer.0, status, "{}", answer.1);
    let text = answer.1["error"].as_str().unwrap_or_default();
    assert!(text.contains(error), "{error:?} is not in {text:?}");
    assert!(
        answer.1["remedy"]
            .as_str()
            .is_some_and(|remedy| !remedy.is_empty()),
        "{}",
        answer.1
    );
}

#[test]
fn a_node_whose_cores_all_answer_is_healthy_and_a_stuck_core_is_named() {
    let node = Node::start();
    assert_eq!(
        get(&node, "/healthz"),
        (200, json!({ "healthy": true, "cores": 2 }))
    );
    node.set_mood(1, Mood::Full);
    assert_explained(
        &get(&node, "/healthz"),
        503,
        "core 1 takes no more requests",
    );
}

#[test]
fn an_engine_that_fails_leaves_the_node_ready_and_is_told() {
    let node = Node::with(&Config::default(), EngineState::Full);
    let (status, body) = get(&node, "/readyz");
    assert_eq!(
        (status, &body["ready"], &body["engine"]["state"]),
        (200, &json!(true), &json!("full"))
    );
    assert_eq!(body["engine"]["error"], "no space left for the store data");
    node.status.set_ready(false);
    assert_explained(&get(&node, "/readyz"), 503, "starting or stopping");
}

#[test]
fn sessions_of_all_cores_come_in_order_and_in_pages() {
    let node = Node::start();
    let ids = |answer: &Value| {
        let rows = answer["sessions"].as_array().expect("rows").clone();
        rows.iter()
            .map(|row| row["client_id"].as_str().expect("text").to_owned())
            .collect::<Vec<_>>()
    };
    let (_, first) = get(&node, "/v1/sessions?limit=4");
    assert_eq!(
        ids(&first),
        ["device-0", "device-1", "device-2", "device-3"]
    );
    assert_eq!(first["next"], "device-3");
    let (_, second) = get(&node, "/v1/sessions?limit=4&after=device-3");
    assert_eq!(
        (ids(&second).as_slice(), &second["next"]),
        (
            ["device-4".into(), "device-5".into()].as_slice(),
            &Value::Null
        )
    );
    assert_explained(
        &get(&node, "/v1/sessions?limit=0"),
        400,
        "limit 0 is out of range",
    );
    assert_explained(&get(&node, "/v1/sessions?limit=1001"), 400, "out of range");
    assert_explained(&get(&node, "/v1/sessions?colour=red"), 400, "colour");
}

#[test]
fn a_session_is_asked_of_its_home_whatever_its_client_identifier() {
    let node = Node::start();
    let (status, body) = get(&node, "/v1/sessions/device-%2F%3F%23%20%C3%A4");
    assert_eq!((status, &body["client_id"]), (200, &json!("device-/?# ä")));
    assert_explained(
        &get(&node, "/v1/sessions/nobody"),
        404,
        "no session \"nobody\"",
    );
    assert_explained(&get(&node, "/v1/sessions/%FF"), 400, "");
}

#[test]
fn a_session_whose_name_several_users_have_is_asked_for_with_its_user() {
    let node = Node::start();
    assert_explained(&get(&node, "/v1/sessions/twice"), 409, "2 users");
    let (status, body) = get(&node, "/v1/sessions/twice?user=user-1");
    assert_eq!((status, &body["user"]), (200, &json!("user-1")));
    assert_explained(&get(&node, "/v1/sessions/twice?user=user-7"), 404, "twice");
}

#[test]
fn kicking_can_delete_the_session() {
    let node = Node::start();
    let kick = |path: &str| call(node.address, "DELETE", path, "", "");
    assert_eq!(
        kick("/v1/sessions/device-1"),
        (200, json!({ "kicked": "device-1", "deleted": false }))
    );
    assert_eq!(
        kick("/v1/sessions/device-1?delete=true"),
        (200, json!({ "kicked": "device-1", "deleted": true }))
    );
    assert_explained(&kick("/v1/sessions/nobody"), 404, "nobody");
    let requests = node.requests.lock().expect("no panic");
    assert!(
        matches!(&requests[2].1, AdminRequest::Kick { user: None, client_id, delete: true } if client_id == "device-1")
    );
}

#[test]
fn a_publish_carries_text_or_bytes() {
    let node = Node::start();
    assert_eq!(
        publish(&node, r#"{"topic": "a/b", "payload": "hi"}"#),
        (200, json!({ "recipients": 3 }))
    );
    let (status, _) = publish(
        &node,
        r#"{"topic": "a/b", "payload_base64": "/wA=", "qos": 2, "retain": true}"#,
    );
    assert_eq!(status, 200);
    let requests = node.requests.lock().expect("no panic");
    assert!(
        matches!(&requests[0].1, AdminRequest::Publish { payload, qos: 0, retain: false, .. } if payload.0 == b"hi")
    );
    assert!(
        matches!(&requests[1].1, AdminRequest::Publish { payload, qos: 2, retain: true, .. } if payload.0 == b"\xff\0")
    );
}

#[test]
fn a_publish_that_cannot_be_is_explained() {
    let node = Node::start();
    assert_explained(&publish(&node, "{"), 400, "the body is not a publish");
    assert_explained(
        &publish(&node, r#"{"topic": "a", "colour": 1}"#),
        400,
        "unknown field `colour`",
    );
    assert_explained(
        &publish(&node, r#"{"topic": "a/+", "payload": ""}"#),
        400,
        "not a topic name",
    );
    assert_explained(
        &publish(&node, r#"{"topic": "a", "qos": 3}"#),
        400,
        "qos 3 does not exist",
    );
    assert_explained(
        &publish(&node, r#"{"topic": "a", "payload_base64": "?"}"#),
        400,
        "not base64",
    );
    assert_explained(
        &publish(
            &node,
            r#"{"topic": "a", "payload_base64": "", "payload": ""}"#,
        ),
        400,
        "two payloads",
    );
    assert_explained(
        &publish(&node, r#"{"topic": "refused", "payload": ""}"#),
        422,
        "the engine is full",
    );
    assert!(
        node.requests.lock().expect("no panic").len() == 1,
        "only the last one reached a core"
    );
}

#[test]
fn a_broad_filter_that_is_on_every_core_is_listed_once() {
    let node = Node::start();
    let (_, body) = get(&node, "/v1/subscriptions");
    let rows = body["subscriptions"].as_array().expect("rows");
    let row = |filter: &str| {
        rows.iter()
            .find(|row| row["filter"] == filter)
            .expect("listed")
    };
    assert_eq!(
        (
            row("$share/all/#")["subscribers"].as_u64(),
            row("a/b")["subscribers"].as_u64(),
            rows.len()
        ),
        (Some(2), Some(2), 3)
    );
    assert_eq!(
        row("$share/all/#")["queued"],
        5,
        "every core has a queue of its own"
    );
    assert_eq!(get(&node, "/v1/subscriptions?limit=1").1["more"], true);
}

#[test]
fn retained_messages_are_cleared_only_by_a_filter_that_is_named() {
    let node = Node::start();
    assert_eq!(
        get(&node, "/v1/retained").1["retained"]
            .as_array()
            .map(Vec::len),
        Some(2)
    );
    assert_explained(
        &get(&node, "/v1/retained?filter=a%2F%23%2Fb"),
        400,
        "not a topic filter",
    );
    let clear = |path: &str| call(node.address, "DELETE", path, "", "");
    assert_explained(&clear("/v1/retained"), 400, "no filter");
    assert_eq!(
        clear("/v1/retained?filter=r%2F%23"),
        (200, json!({ "cleared": 4 }))
    );
}

#[test]
fn pages_in_a_browser_can_neither_read_nor_change_anything() {
    let node = Node::start();
    let get_as = |host: &str| {
        exchange(
            node.address,
            &format!("GET /v1/status HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"),
        )
    };
    for host in [
        "evil.example",
        "evil.example:9883",
        "127.0.0.1.evil.example",
        "[::1].evil.example",
        "localhost.evil.example",
        "",
    ] {
        assert_eq!(get_as(host).0, 421, "{host:?}");
    }
    for host in [
        "127.0.0.1",
        "localhost:9883",
        "LOCALHOST",
        "[::1]:9883",
        "10.1.2.3:80",
    ] {
        assert_eq!(get_as(host).0, 200, "{host:?}");
    }
    let kicked = call(
        node.address,
        "DELETE",
        "/v1/sessions/device-1",
        "Origin: http://evil.example\r\n",
        "",
    );
    assert_explained(&kicked, 403, "a web page sent this request");
    let form = call(
        node.address,
        "POST",
        "/v1/publish",
        "Content-Type: text/plain\r\n",
        r#"{"topic": "a"}"#,
    );
    assert_explained(&form, 415, "not declared as JSON");
}

#[test]
fn the_monitoring_listener_answers_probes_and_scrapes_and_nothing_else() {
    let node = Node::monitoring();
    for path in ["/healthz", "/readyz", "/metrics"] {
        let (status, body) = get(&node, path);
        assert_eq!(status, 200, "{path}: {body}");
    }
    let before = node.requests.lock().expect("no panic").len();
    let elsewhere = "no such path here";
    for path in ["/v1/status", "/v1/sessions", "/v1/retained", "/v1/bans"] {
        assert_explained(&get(&node, path), 404, elsewhere);
    }
    assert_explained(&publish(&node, r#"{"topic": "a"}"#), 404, elsewhere);
    let kick = call(node.address, "DELETE", "/v1/sessions/device-0", "", "");
    assert_explained(&kick, 404, elsewhere);
    let posted = call(node.address, "POST", "/healthz", "", "");
    assert_explained(&posted, 405, "no such method");
    let after = node.requests.lock().expect("no panic").len();
    assert_eq!(before, after, "a core was asked something");
}

#[test]
fn bodies_are_bounded() {
    let mut config = Config::default();
    config.admin.body_bytes_max = ByteSize::kib(1);
    let node = Node::with(&config, EngineState::Working);
    let body = format!(r#"{{"topic": "a", "payload": "{}"}}"#, "x".repeat(2_000));
    assert_explained(&publish(&node, &body), 413, "");
}

#[test]
fn requests_at_once_are_bounded() {
    let mut config = Config::default();
    config.admin.requests_max = 1;
    let node = Node::with(&config, EngineState::Working);
    node.set_mood(0, Mood::Stuck);
    let mut first = TcpStream::connect(node.address).expect("the node listens");
    let request = format!(
        "GET /healthz HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
        node.address
    );
    first.write_all(request.as_bytes()).expect("it reads");
    while node.requests.lock().expect("no panic").is_empty() {
        std::thread::yield_now(); // The first request is now being served.
    }
    assert_explained(&get(&node, "/healthz"), 503, "too many requests at once");
    drop(first); // Its answer would take as long as a stuck core gets.
}

#[test]
fn a_core_gets_its_time_and_is_then_named() {
    let moods = Arc::new(Mutex::new(vec![Mood::Answers, Mood::Stuck]));
    let (cores, _) = cores(moods);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build();
    let answers = runtime.expect("a runtime").block_on(async {
        let timeout = Duration::from_secs(5);
        cores.ask_each(AdminRequest::Snapshot, timeout).await
    });
    assert!(answers[0].is_ok());
    let error = answers[1]
        .as_ref()
        .expect_err("core 1 is stuck")
        .to_string();
    assert_eq!(error, "core 1 did not answer within 5000 ms");
}

#[test]
fn unknown_paths_and_methods_name_the_known_ones() {
    let node = Node::start();
    assert_explained(&get(&node, "/v2/status"), 404, "no such path");
    assert_explained(
        &call(node.address, "PUT", "/v1/publish", "", ""),
        405,
        "no such method",
    );
}

#[test]
fn the_status_tells_the_backend_and_each_core() {
    let node = Node::start();
    let (status, body) = get(&node, "/v1/status");
    assert_eq!(status, 200);
    assert_eq!(body["backend"]["name"], "io_uring");
    assert_eq!(body["cores"][1]["publishes_received"], 101);
    assert_eq!(
        body["listeners"][0],
        json!({ "kind": "tcp", "address": "127.0.0.1:1883" })
    );
    assert_eq!(body["engine"]["durability"], "sync");
    assert_eq!(body["engine"]["kind"], "embedded");
    assert_eq!(body["engine"]["servers"], json!([]));
}

#[test]
fn bans_are_added_listed_and_lifted() {
    let node = Node::start();
    let json_type = "Content-Type: application/json\r\n";
    let ban = |body: &str| call(node.address, "POST", "/v1/bans", json_type, body);
    let lift = |query: &str| call(node.address, "DELETE", &format!("/v1/bans?{query}"), "", "");
    let (status, answer) = ban(r#"{"kind": "user", "name": "eve", "for_s": 3600}"#);
    assert_eq!((status, &answer["banned"]["name"]), (200, &json!("eve")));
    assert!(answer["banned"]["until_unix_ms"].is_u64());
    let (status, answer) = ban(r#"{"kind": "network", "name": "192.0.2.7/24", "reason": "spam"}"#);
    assert_eq!(
        (status, &answer["banned"]["name"]),
        (200, &json!("192.0.2.0/24"))
    );
    let given = node.requests.lock().expect("no panic").len();
    assert_eq!(given, 4, "each core was told twice");
    let names = |path: &str| {
        let (_, answer) = get(&node, path);
        let rows = answer["bans"].as_array().expect("rows").len();
        (rows, answer["more"] == true)
    };
    assert_eq!(names("/v1/bans"), (2, false));
    assert_eq!(names("/v1/bans?limit=1"), (1, true));
    let lifted = json!({ "lifted": { "kind": "network", "name": "192.0.2.0/24" } });
    assert_eq!(lift("kind=network&name=192.0.2.0%2F24"), (200, lifted));
    assert_explained(
        &lift("kind=network&name=192.0.2.0%2F24"),
        404,
        "no ban of network 192.0.2.0/24",
    );
    assert_eq!(names("/v1/bans"), (1, false));
}

#[test]
fn a_ban_that_cannot_be_is_explained() {
    let node = Node::start();
    let json_type = "Content-Type: application/json\r\n";
    let ban = |body: &str| call(node.address, "POST", "/v1/bans", json_type, body);
    assert_explained(
        &ban("{}"),
        400,
        "the body is not a ban: missing field `kind`",
    );
    assert_explained(
        &ban(r#"{"kind": "group", "name": "x"}"#),
        400,
        "unknown variant `group`",
    );
    assert_explained(
        &ban(r#"{"kind": "network", "name": "example.com"}"#),
        400,
        "\"example.com\" is not a network",
    );
    assert_explained(
        &ban(r#"{"kind": "user", "name": ""}"#),
        400,
        "an empty name",
    );
    let long = json!({"kind": "user", "name": "x".repeat(1_025)}).to_string();
    assert_explained(&ban(&long), 422, "the name has more than 1024 bytes");
    assert_explained(
        &call(node.address, "POST", "/v1/bans", "", "{}"),
        415,
        "not declared as JSON",
    );
    let page = format!("{json_type}Origin: http://evil.example\r\n");
    assert_explained(
        &call(node.address, "POST", "/v1/bans", &page, "{}"),
        403,
        "a web page sent this request",
    );
    assert!(node.requests.lock().expect("no panic").is_empty());
}
