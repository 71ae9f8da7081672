//! A node of its own, as a process, and clients over real sockets.

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

const PATIENCE: Duration = Duration::from_secs(20);

/// A node of its own, ended by its id.
pub(crate) struct Node {
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
    pub(crate) fn start(name: &str, settings: &[&str]) -> Self {
        let address = free_address();
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
    pub(crate) fn kill(&mut self) {
        self.process.kill().expect("it ran");
        self.process.wait().expect("it ended");
        self.process = spawn(self.address, &self.folder, &self.settings);
    }

    /// The id of the process.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// A connection; waits for the node to listen.
    pub(crate) fn connect(&self) -> TcpStream {
        Self::connect_to(self.address)
    }

    /// The same to another of its listeners.
    pub(crate) fn connect_to(address: SocketAddr) -> TcpStream {
        const STEP: Duration = Duration::from_millis(20);
        for _ in 0..1_000 {
            if let Ok(stream) = TcpStream::connect(address) {
                stream.set_nodelay(true).expect("a socket");
                stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
                return stream;
            }
            std::thread::park_timeout(STEP);
        }
        panic!("the node does not listen on {address}")
    }
}

/// An address that nobody listens on.
pub(crate) fn free_address() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("bound")
}

fn spawn(address: SocketAddr, folder: &Path, more: &Vec<String>) -> Child {
    let settings = [
        format!("listeners.tcp=[\"{address}\"]"),
        "listeners.websocket=[]".to_owned(),
        "admin.address=off".to_owned(),
        format!("engine.path={}", folder.display()),
    ];
    let mut command = Command::new(env!("CARGO_BIN_EXE_roadstead"));
    let names_backend = |setting: &String| setting.starts_with("io.backend=");
    if !more.iter().any(names_backend) {
        command.args(["--io", "epoll"]);
    }
    for setting in settings.iter().chain(more) {
        command.args(["--set", setting]);
    }
    command
        .args(["--cores", "2"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .spawn()
        .expect("the program of this crate runs")
}

/// A client with a session that outlives its connections.
pub(crate) struct Client<S = TcpStream> {
    stream: S,
    input: Vec<u8>,
}

impl Client {
    pub(crate) fn connect(node: &Node, name: &str) -> Self {
        Self::connect_for(node, name, 3600)
    }

    /// With a session that lives so long after its connection.
    pub(crate) fn connect_for(node: &Node, name: &str, expiry_s: u32) -> Self {
        Self::over(node.connect(), name, expiry_s)
    }
}

impl<S: Read + Write> Client<S> {
    /// Over a stream on which a CONNECT was sent, or will be.
    pub(crate) fn of(stream: S) -> Self {
        Self {
            stream,
            input: Vec::new(),
        }
    }

    /// Over a stream that somebody else has made.
    pub(crate) fn over(stream: S, name: &str, expiry_s: u32) -> Self {
        let mut client = Self::of(stream);
        let mut connect = Connect::new(Version::V5, name);
        connect.clean_start = false;
        connect.session_expiry_s = Some(expiry_s);
        client.send(|out| encode::connect(out, &connect));
        client.hear(|packet| matches!(packet, Packet::ConnAck(_)).then_some(()));
        client
    }

    /// What it speaks over.
    pub(crate) fn stream(&mut self) -> &mut S {
        &mut self.stream
    }

    pub(crate) fn send(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = Vec::new();
        write(&mut bytes);
        self.stream.write_all(&bytes).expect("the node reads");
    }

    /// Waits for a packet of which `wanted` makes something.
    pub(crate) fn hear<T>(&mut self, wanted: impl Fn(&Packet<'_>) -> Option<T>) -> T {
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
    pub(crate) fn subscribe(&mut self, filter: &str) -> u8 {
        let options = SubscriptionOptions::from_qos(QoS::AtLeastOnce);
        self.send(|out| encode::subscribe(out, Version::V5, 1, None, &[(filter, options)]));
        self.hear(|packet| match packet {
            Packet::SubAck(suback) => Some(suback.reasons[0]),
            _ => None,
        })
    }

    /// Publishes with QoS 1 and waits until it is acknowledged.
    pub(crate) fn publish(&mut self, topic: &str, text: &str) {
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
    pub(crate) fn leave(mut self) {
        let disconnect = Disconnect::new(ReasonCode::Success);
        self.send(|out| encode::disconnect(out, Version::V5, &disconnect));
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest).expect("it is closed");
    }

    /// The next message and its packet identifier.
    pub(crate) fn unacknowledged(&mut self) -> (Option<u16>, String) {
        self.hear(|packet| match packet {
            Packet::Publish(publish) => Some((
                publish.packet_id,
                String::from_utf8_lossy(publish.payload).into_owned(),
            )),
            _ => None,
        })
    }

    /// The next message, acknowledged.
    pub(crate) fn message(&mut self) -> String {
        let (packet_id, text) = self.unacknowledged();
        if let Some(packet_id) = packet_id {
            let ack = Ack::new(packet_id, ReasonCode::Success);
            self.send(|out| encode::ack(out, Version::V5, PacketType::PubAck, &ack));
        }
        text
    }
}
