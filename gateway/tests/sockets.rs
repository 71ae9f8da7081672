//! A whole node over real sockets: shared subscriptions as work queues, also when the process is killed, and limits of a session.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use edge_proto::decode::{Sender, decode};
use edge_proto::encode;
use edge_proto::frame::next_frame;
use edge_proto::packet::{
    Ack, Connect, Disconnect, Packet, PacketType, Publish, PublishProperties, QoS,
    SubscriptionOptions, Version,
};
use edge_proto::reason::ReasonCode;

const FILTER: &str = "$share/workers/jobs/new";
const JOBS: u32 = 100;
const PATIENCE: Duration = Duration::from_secs(20);

/// A node of its own, ended by its id.
struct Node {
    process: Child,
    address: SocketAddr,
    folder: PathBuf,
    settings: Vec<String>,
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Node {
    fn start(name: &str, settings: &[&str]) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("bound");
        drop(listener);
        let name = format!("roadstead-{name}-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        let settings = settings.iter().map(|&setting| setting.to_owned()).collect();
        Self {
            process: spawn(address, &folder, &settings),
            address,
            folder,
            settings,
        }
    }

    /// The process is killed and started again.
    fn kill(&mut self) {
        self.process.kill().expect("it ran");
        self.process.wait().expect("it ended");
        self.process = spawn(self.address, &self.folder, &self.settings);
    }

    /// A connection; waits for the node to listen.
    fn connect(&self) -> TcpStream {
        const STEP: Duration = Duration::from_millis(20);
        for _ in 0..1_000 {
            if let Ok(stream) = TcpStream::connect(self.address) {
                return stream;
            }
            std::thread::park_timeout(STEP);
        }
        panic!("the node does not listen on {}", self.address)
    }
}

fn spawn(address: SocketAddr, folder: &Path, more: &Vec<String>) -> Child {
    let settings = [
        format!("listeners.tcp=[\"{address}\"]"),
        "listeners.websocket=[]".to_owned(),
        "admin.address=off".to_owned(),
        format!("engine.path={}", folder.display()),
    ];
    let mut command = Command::new(env!("CARGO_BIN_EXE_roadstead"));
    for setting in settings.iter().chain(more) {
        command.args(["--set", setting]);
    }
    command
        .args(["--io", "epoll", "--cores", "2"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .spawn()
        .expect("the program of this crate runs")
}

/// A client with a session that outlives its connections.
struct Client {
    stream: TcpStream,
    input: Vec<u8>,
}

impl Client {
    fn connect(node: &Node, name: &str) -> Self {
        Self::connect_for(node, name, 3600)
    }

    /// With a session that lives so long after its connection.
    fn connect_for(node: &Node, name: &str, expiry_s: u32) -> Self {
        let stream = node.connect();
        stream.set_nodelay(true).expect("a socket");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        let mut client = Self {
            stream,
            input: Vec::new(),
        };
        let mut connect = Connect::new(Version::V5, name);
        connect.clean_start = false;
        connect.session_expiry_s = Some(expiry_s);
        client.send(|out| encode::connect(out, &connect));
        client.hear(|packet| matches!(packet, Packet::ConnAck(_)).then_some(()));
        client
    }

    fn send(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = Vec::new();
        write(&mut bytes);
        self.stream.write_all(&bytes).expect("the node reads");
    }

    /// Waits for a packet of which `wanted` makes something.
    fn hear<T>(&mut self, wanted: impl Fn(&Packet<'_>) -> Option<T>) -> T {
        loop {
            while let Some(frame) = next_frame(&self.input, u32::MAX).expect("a packet") {
                let length = frame.length;
                let packet = decode(Version::V5, Sender::Server, frame).expect("a packet");
                let found = wanted(&packet);
                self.input.drain(..length);
                if let Some(found) = found {
                    return found;
                }
            }
            let mut buffer = [0; 4096];
            let length = self.stream.read(&mut buffer).expect("something comes");
            assert!(length > 0, "the connection ended");
            self.input.extend_from_slice(&buffer[..length]);
        }
    }

    /// Subscribes with QoS 1; returns the reason code.
    fn subscribe(&mut self, filter: &str) -> u8 {
        let options = SubscriptionOptions::from_qos(QoS::AtLeastOnce);
        self.send(|out| encode::subscribe(out, Version::V5, 1, None, &[(filter, options)]));
        self.hear(|packet| match packet {
            Packet::SubAck(suback) => Some(suback.reasons[0]),
            _ => None,
        })
    }

    /// Publishes with QoS 1 and waits until it is acknowledged.
    fn publish(&mut self, topic: &str, text: &str) {
        let publish = Publish {
            dup: false,
            qos: QoS::AtLeastOnce,
            retain: false,
            topic,
            packet_id: Some(7),
            properties: PublishProperties::default(),
            payload: text.as_bytes(),
        };
        self.send(|out| encode::publish(out, Version::V5, &publish));
        let reason = self.hear(|packet| match packet {
            Packet::PubAck(ack) => Some(ack.reason),
            _ => None,
        });
        assert_eq!(reason, ReasonCode::Success);
    }

    /// DISCONNECT, and waits until the node has closed the connection: the session is offline then.
    fn leave(mut self) {
        let disconnect = Disconnect::new(ReasonCode::Success);
        self.send(|out| encode::disconnect(out, Version::V5, &disconnect));
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest).expect("it is closed");
    }

    /// The next message and its packet identifier.
    fn unacknowledged(&mut self) -> (Option<u16>, String) {
        self.hear(|packet| match packet {
            Packet::Publish(publish) => Some((
                publish.packet_id,
                String::from_utf8_lossy(publish.payload).into_owned(),
            )),
            _ => None,
        })
    }

    /// The next message, acknowledged.
    fn message(&mut self) -> String {
        let (packet_id, text) = self.unacknowledged();
        if let Some(packet_id) = packet_id {
            let ack = Ack::new(packet_id, ReasonCode::Success);
            self.send(|out| encode::ack(out, Version::V5, PacketType::PubAck, &ack));
        }
        text
    }
}

#[test]
fn jobs_wait_for_any_worker_and_the_first_that_comes_gets_them_in_order() {
    let mut node = Node::start("work-queue", &[]);
    for name in ["one", "two"] {
        let mut worker = Client::connect(&node, name);
        assert_eq!(worker.subscribe(FILTER), 1);
        worker.leave();
    }
    let mut publisher = Client::connect(&node, "publisher");
    for job in 0..JOBS {
        publisher.publish("jobs/new", &job.to_string());
    }
    node.kill();
    let mut two = Client::connect(&node, "two");
    for job in 0..JOBS {
        assert_eq!(two.message(), job.to_string());
    }
    // One that comes now finds nothing, and shares what comes next.
    let mut one = Client::connect(&node, "one");
    let mut publisher = Client::connect(&node, "publisher");
    for text in ["a", "b"] {
        publisher.publish("jobs/new", text);
    }
    let mut got = [one.message(), two.message()];
    got.sort();
    assert_eq!(got, ["a", "b"]);
}

#[test]
fn a_live_only_worker_that_is_busy_leaves_the_rest_to_others() {
    const AT_ONCE: u32 = 32;
    let node = Node::start("busy", &[]);
    let mut founder = Client::connect(&node, "founder");
    assert_eq!(founder.subscribe(FILTER), 1);
    founder.leave();
    let mut publisher = Client::connect(&node, "publisher");
    for job in 0..JOBS {
        publisher.publish("jobs/new", &job.to_string());
    }
    let mut busy = Client::connect_for(&node, "busy", 0);
    busy.subscribe(FILTER);
    for job in 0..AT_ONCE {
        assert_eq!(busy.unacknowledged().1, job.to_string());
    }
    let mut quick = Client::connect_for(&node, "quick", 0);
    quick.subscribe(FILTER);
    for job in AT_ONCE..JOBS {
        assert_eq!(quick.message(), job.to_string());
    }
}

#[test]
fn a_session_with_as_many_subscriptions_as_it_may_have_can_replace_one() {
    const GRANTED: u8 = 1;
    const QUOTA_EXCEEDED: u8 = ReasonCode::QuotaExceeded as u8;
    let node = Node::start("replace", &["mqtt.subscriptions_per_session_max=3"]);
    for expiry_s in [0, 3600] {
        let mut client = Client::connect_for(&node, "client", expiry_s);
        for filter in ["a/b", "+/b", "$share/group/a/b"] {
            assert_eq!(client.subscribe(filter), GRANTED);
        }
        assert_eq!(client.subscribe("c"), QUOTA_EXCEEDED);
        assert_eq!(client.subscribe("$share/other/a/b"), QUOTA_EXCEEDED);
        for filter in ["$share/group/a/b", "+/b", "a/b"] {
            assert_eq!(client.subscribe(filter), GRANTED, "{filter} is not new");
        }
        assert_eq!(client.subscribe("c"), QUOTA_EXCEEDED);
        client.leave();
    }
}
