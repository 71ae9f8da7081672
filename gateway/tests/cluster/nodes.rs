//! Whole nodes with cores: their links come up, operators see them, and one that drains stops by itself.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use gateway::config::{Config, Sources};
use gateway::control::cluster::Life;
use gateway::engine::memory::Memory;
use gateway::engine::views::ViewStore;
use gateway::engine::{
    Command, Completion, Engine, EngineError, MailboxLimits, Restored, WhenFull,
};
use gateway::event_loop::Clock;
use gateway::node::{SharedEngine, StartError, run_in_cluster};

use crate::world::{KEYS, Start, Views, address, file, free_port, until};

const LIMITS: MailboxLimits = MailboxLimits {
    messages_max: 100,
    bytes_max: 1 << 20,
    when_full: WhenFull::DropOldest,
};

/// What all nodes of a test share.
struct Shared {
    views: Arc<Views>,
    memory: Arc<Mutex<Memory>>,
}

impl SharedEngine for Shared {
    fn views(&self) -> Arc<dyn ViewStore> {
        Arc::clone(&self.views) as Arc<dyn ViewStore>
    }

    fn open(&self, life: &Life) -> Result<Box<dyn Engine + Send>, EngineError> {
        let memory = Arc::clone(&self.memory);
        let node = life.node.uid;
        Ok(Box::new(OfNode { memory, node }))
    }
}

/// The shared memory, used by one node.
struct OfNode {
    memory: Arc<Mutex<Memory>>,
    node: u64,
}

impl OfNode {
    fn act<T>(&self, act: impl FnOnce(&mut Memory) -> T) -> T {
        let mut memory = self.memory.lock().expect("no panic while held");
        memory.act_as(self.node);
        act(&mut memory)
    }
}

impl Engine for OfNode {
    fn boot_count(&self) -> u32 {
        self.act(|memory| memory.boot_count())
    }

    fn restore(&mut self, _: &mut dyn FnMut(Restored)) -> Result<(), EngineError> {
        Ok(())
    }

    fn commit(
        &mut self,
        batch: u64,
        unix_ms: u64,
        commands: &[(u16, Command)],
        completions: &mut Vec<(u16, Completion)>,
    ) -> Result<(), EngineError> {
        self.act(|memory| memory.commit(batch, unix_ms, commands, completions))
    }

    fn sync(&mut self) -> Result<(), EngineError> {
        self.act(Memory::sync)
    }

    fn disk_bytes(&self) -> u64 {
        0
    }
}

struct Node {
    admin: SocketAddr,
    mqtt: SocketAddr,
    thread: JoinHandle<Result<(), StartError>>,
}

fn start(shared: &Arc<Shared>, seed: SocketAddr, ip: IpAddr, gossip: u16) -> Node {
    let port = || free_port(ip);
    let (admin, mqtt) = (SocketAddr::new(ip, port()), SocketAddr::new(ip, port()));
    let mut bus = port();
    while bus == gossip || bus > 65_000 {
        bus = port();
    }
    let key = file(KEYS[0]);
    let folder = file("").with_extension("folder");
    // The engine of the test takes the place of the one that is named here.
    let text = format!(
        "[node]\ncores = 2\npin_cores = false\n[io]\nbackend = \"epoll\"\nconnections_max = 64\n[listeners]\ntcp = [\"{mqtt}\"]\nwebsocket = []\n\
         [admin]\naddress = \"{admin}\"\n[engine]\nkind = \"redis\"\nurls = [\"redis://127.0.0.1:1\"]\npath = {folder:?}\n[cluster]\nname = \"roadstead\"\nkey_file = {key:?}\nseeds = [\"{seed}\"]\n\
         gossip_address = \"{ip}:{gossip}\"\nbus_address = \"{ip}:{bus}\"\nweight = 65535\n"
    );
    let sources = Sources {
        file: Some(("node.toml".to_owned(), text)),
        ..Sources::default()
    };
    let config = Config::load(&sources).expect("a good configuration");
    let shared = Arc::clone(shared);
    let thread = std::thread::spawn(move || run_in_cluster(&config, Clock::start(), &*shared));
    Node {
        admin,
        mqtt,
        thread,
    }
}

/// What a node answers; empty when it does not.
fn ask(address: SocketAddr, request: &str) -> String {
    let mut answer = String::new();
    let asked = TcpStream::connect(address).and_then(|mut stream| {
        write!(stream, "{request} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")?;
        stream.read_to_string(&mut answer)
    });
    if asked.is_err() {
        String::new()
    } else {
        answer
    }
}

/// The value of a series.
fn metric(node: &Node, series: &str) -> f64 {
    let scrape = ask(node.admin, "GET /metrics");
    let line = scrape
        .lines()
        .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.and_then(|value| value.parse().ok())
        .unwrap_or(f64::NAN)
}

/// What a client gets for its CONNECT.
fn connect(address: SocketAddr) -> std::io::Result<Vec<u8>> {
    answer(&mut asking(address)?)
}

/// A client that has sent its CONNECT.
fn asking(address: SocketAddr) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.write_all(b"\x10\x0d\0\x04MQTT\x05\x02\0\x0a\0\0\0")?;
    Ok(stream)
}

fn answer(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut answer = vec![0; 2];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}

fn shared() -> Arc<Shared> {
    Arc::new(Shared {
        views: Arc::default(),
        memory: Arc::new(Mutex::new(Memory::new(LIMITS, 0))),
    })
}

/// The others have no cores, and a share so small that this node owns nearly everything.
#[test]
fn a_node_that_is_cut_off_answers_nobody_until_it_hears_of_the_store_again() {
    let shared = shared();
    let one = Start::usual(1, &[]).start(&shared.views);
    let two = Start::usual(2, &[&one]).start(&shared.views);
    let ip = address();
    let node = start(&shared, one.gossip, ip, free_port(ip));
    until("it is a member with the others", || {
        metric(&node, "roadstead_view_members") == 3.0
    });
    assert!(connect(node.mqtt).is_ok(), "it takes clients");

    shared.views.fails.store(true, Ordering::Release);
    drop((one, two));
    until("it is fenced, and says so", || {
        metric(&node, "roadstead_fenced") == 1.0
    });
    let mut client = asking(node.mqtt).expect("the kernel takes the connection");
    client
        .set_read_timeout(Some(Duration::from_millis(300)))
        .expect("it can be set");
    assert!(
        answer(&mut client).is_err(),
        "nothing is acknowledged meanwhile"
    );

    shared.views.fails.store(false, Ordering::Release);
    client
        .set_read_timeout(Some(Duration::from_secs(30)))
        .expect("it can be set");
    let answer = answer(&mut client).expect("who has waited is answered");
    assert_eq!(answer[0], 0x20, "by CONNACK");
    until("it says so", || metric(&node, "roadstead_fenced") == 0.0);
    assert!(ask(node.admin, "POST /v1/cluster/drain").contains("200 OK"));
    node.thread
        .join()
        .expect("it does not panic")
        .expect("it has left in order");
}

#[test]
fn cores_of_three_nodes_are_linked_and_one_drains() {
    let shared = shared();
    let ips = [address(), address(), address()];
    let gossip = ips.map(free_port);
    let seed = SocketAddr::new(ips[0], gossip[0]);
    let nodes: Vec<Node> = ips
        .into_iter()
        .zip(gossip)
        .map(|(ip, gossip)| start(&shared, seed, ip, gossip))
        .collect();

    // Two links to each of the two others.
    until("all links are up", || {
        nodes
            .iter()
            .all(|node| metric(node, "roadstead_bus_links{state=\"up\"}") == 4.0)
    });
    for node in &nodes {
        assert_eq!(metric(node, "roadstead_view_members"), 3.0);
        assert_eq!(metric(node, "roadstead_fenced"), 0.0);
        assert!(metric(node, "roadstead_bus_received_bytes_total") > 0.0);
    }
    let client = connect(nodes[2].mqtt).expect("the node takes clients");
    assert_eq!(client[0], 0x20, "it is answered by CONNACK");

    assert!(ask(nodes[1].admin, "POST /v1/cluster/drain").contains("200 OK"));
    until("the node has stopped", || nodes[1].thread.is_finished());
    until("the others know", || {
        [0, 2]
            .iter()
            .all(|&place| metric(&nodes[place], "roadstead_view_members") == 2.0)
    });
    for (place, node) in nodes.into_iter().enumerate() {
        if place != 1 {
            assert!(ask(node.admin, "POST /v1/cluster/drain").contains("200 OK"));
        }
        let ended = node.thread.join().expect("it does not panic");
        ended.expect("it has left in order");
    }
}
