//! A whole node as a process: what the files say holds for clients on real sockets, at once when it changes.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use edge_proto::decode::{Sender, decode};
use edge_proto::encode;
use edge_proto::frame::next_frame;
use edge_proto::packet::{Connect, Packet, QoS, SubscriptionOptions, Version};
use edge_proto::reason::ReasonCode;

use crate::passwords::line;
use crate::server::{Behaviour, Server};
use crate::world::{Folder, run};

const PATIENCE: Duration = Duration::from_secs(20);
const STEP: Duration = Duration::from_millis(20);

/// A node with a configuration, ended by its id.
struct Node {
    process: Child,
    tcp: SocketAddr,
    admin: SocketAddr,
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("bound")
}

fn connect_to(address: SocketAddr) -> TcpStream {
    for _ in 0..1_000 {
        if let Ok(stream) = TcpStream::connect(address) {
            stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
            return stream;
        }
        std::thread::park_timeout(STEP);
    }
    panic!("nobody listens on {address}")
}

impl Node {
    fn start(folder: &Folder, text: &str) -> Self {
        let (tcp, admin) = (free_address(), free_address());
        let data = folder.0.join("data").display().to_string();
        let text = format!(
            "{text}\n[listeners]\ntcp = [\"{tcp}\"]\nwebsocket = []\n[admin]\naddress = \"{admin}\"\n[engine]\npath = {data:?}\n"
        );
        let file = folder.write("node.toml", text);
        let process = Command::new(env!("CARGO_BIN_EXE_roadstead"))
            .args(["--config", &file, "--io", "epoll", "--cores", "2"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("the program of this crate runs");
        Self {
            process,
            tcp,
            admin,
        }
    }

    /// What the admin interface answers, which must be a success.
    fn order(&self, method: &str, path: &str, body: &str) {
        let mut stream = connect_to(self.admin);
        let (host, length) = (self.admin, body.len());
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }

    /// A client that shows this, or why it is not let in.
    fn client(&self, shown: Option<(&str, &str)>) -> Result<Client, ReasonCode> {
        let mut client = Client {
            stream: connect_to(self.tcp),
            input: Vec::new(),
        };
        let mut connect = Connect::new(Version::V5, "phone-7");
        connect.username = shown.map(|(user, _)| user);
        connect.password = shown.map(|(_, password)| password.as_bytes());
        let mut bytes = Vec::new();
        encode::connect(&mut bytes, &connect);
        client.stream.write_all(&bytes).expect("it reads");
        let reason = client.hear(|packet| match packet {
            Packet::ConnAck(answer) => Some(answer.reason),
            _ => None,
        });
        match reason.expect("an answer") {
            ReasonCode::Success => Ok(client),
            reason => Err(reason),
        }
    }

    fn refusal(&self, shown: Option<(&str, &str)>) -> Option<ReasonCode> {
        self.client(shown).err()
    }
}

#[derive(Debug)]
struct Client {
    stream: TcpStream,
    input: Vec<u8>,
}

impl Client {
    /// Waits for a packet of which `wanted` makes something; `None` when the node ends the connection.
    fn hear<T>(&mut self, wanted: impl Fn(&Packet<'_>) -> Option<T>) -> Option<T> {
        loop {
            while let Some(frame) = next_frame(&self.input, u32::MAX).expect("a packet") {
                let length = frame.length;
                let packet = decode(Version::V5, Sender::Server, frame).expect("a packet");
                let found = wanted(&packet);
                self.input.drain(..length);
                if found.is_some() {
                    return found;
                }
            }
            let mut buffer = [0; 4096];
            let count = self.stream.read(&mut buffer).expect("something comes");
            if count == 0 {
                return None;
            }
            self.input.extend_from_slice(&buffer[..count]);
        }
    }

    fn subscribe(&mut self, filter: &str) -> Option<u8> {
        let options = SubscriptionOptions::from_qos(QoS::AtMostOnce);
        let mut bytes = Vec::new();
        encode::subscribe(&mut bytes, Version::V5, 1, None, &[(filter, options)]);
        self.stream.write_all(&bytes).expect("it reads");
        self.hear(|packet| match packet {
            Packet::SubAck(answer) => Some(answer.reasons[0]),
            _ => None,
        })
    }
}

fn rule(topic: &str) -> String {
    format!("[[rule]]\nallow = [\"subscribe\"]\ntopics = [{topic:?}]\n")
}

#[test]
fn passwords_rules_and_bans_hold_and_change_while_the_node_runs() {
    const DENIED: Option<u8> = Some(ReasonCode::NotAuthorized as u8);
    let folder = Folder::new();
    let users = folder.write("users", line("alice", "secret"));
    let rules = folder.write("rules.toml", rule("u/%u/#"));
    let node = Node::start(
        &folder,
        &format!(
            "[access]\nanonymous = \"nowhere\"\nmethods = [\"password\"]\npassword_file = {users:?}\nrules = {rules:?}\n"
        ),
    );
    let alice = Some(("alice", "secret"));
    assert_eq!(node.refusal(None), Some(ReasonCode::NotAuthorized));
    for wrong in [("alice", "Secret"), ("bob", "secret")] {
        let refusal = node.refusal(Some(wrong));
        assert_eq!(refusal, Some(ReasonCode::BadUserNameOrPassword));
    }
    let mut client = node.client(alice).expect("let in");
    assert_eq!(client.subscribe("u/alice/in"), Some(0));
    assert_eq!(client.subscribe("u/bob/in"), DENIED);

    folder.write("rules.toml", rule("v/#"));
    folder.write("users", line("alice", "secret") + &line("bob", "hunter2"));
    node.order("POST", "/v1/reload", "");
    assert_eq!(client.subscribe("u/alice/other"), DENIED);
    assert_eq!(client.subscribe("v/x"), Some(0));
    assert_eq!(node.refusal(Some(("bob", "hunter2"))), None);

    node.order("POST", "/v1/bans", r#"{"kind": "user", "name": "alice"}"#);
    let told = client.hear(|packet| match packet {
        Packet::Disconnect(told) => Some(told.reason),
        _ => None,
    });
    // MQTT 5.0 has the reason "banned" for CONNACK alone.
    assert_eq!(told, Some(ReasonCode::AdministrativeAction));
    assert_eq!(node.refusal(alice), Some(ReasonCode::Banned));
    assert_eq!(node.refusal(Some(("bob", "hunter2"))), None);
    node.order("DELETE", "/v1/bans?kind=user&name=alice", "");
    assert_eq!(node.refusal(alice), None);
}

#[test]
fn a_service_says_who_comes_in_and_what_they_may_do() {
    run(async {
        let folder = Folder::new();
        let server = Server::answering(
            r#"{"result": "allow", "rules": [{"allow": ["subscribe"], "topics": ["u/%u/#"]}]}"#,
        )
        .await;
        let text = format!(
            "[access]\nmethods = [\"http\"]\nunruled = \"nowhere\"\n[http]\nurl = {:?}\ntimeout = \"500ms\"\n",
            server.url()
        );
        let node = std::sync::Arc::new(Node::start(&folder, &text));
        let blocking = |task: fn(&Node)| {
            let node = std::sync::Arc::clone(&node);
            tokio::task::spawn_blocking(move || task(&node))
        };
        let allowed = blocking(|node| {
            let mut client = node.client(Some(("alice", "x"))).expect("let in");
            assert_eq!(client.subscribe("u/alice/in"), Some(0));
            assert_eq!(
                client.subscribe("u/bob/in"),
                Some(ReasonCode::NotAuthorized as u8)
            );
        });
        allowed.await.expect("as it should be");
        server.answer(r#"{"result": "deny"}"#);
        let denied = blocking(|node| {
            let refusal = node.refusal(Some(("eve", "x")));
            assert_eq!(refusal, Some(ReasonCode::BadUserNameOrPassword));
        });
        denied.await.expect("as it should be");
        server.set(Behaviour::Hangs);
        let unavailable = blocking(|node| {
            let refusal = node.refusal(Some(("bob", "x")));
            assert_eq!(refusal, Some(ReasonCode::ServerUnavailable));
            // Her answer is still known, though the service is not there.
            assert_eq!(node.refusal(Some(("alice", "x"))), None);
        });
        unavailable.await.expect("as it should be");
    });
}
