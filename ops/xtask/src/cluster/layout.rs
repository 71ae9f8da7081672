//! Where everything of a local cluster is: addresses, files, and the configuration of each process.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

/// Nodes of a local cluster.
pub(super) const NODES_MAX: u8 = 9;
/// Primaries of the Valkey below it: with fewer a Valkey Cluster does not work.
pub(super) const SERVERS: u8 = 3;

const MQTT: u16 = 1_883;
const WEBSOCKET: u16 = 8_083;
const ADMIN: u16 = 9_883;
const GOSSIP: u16 = 7_946;
/// The bus of core 0; the other cores listen one port higher each.
const BUS: u16 = 7_947;
const VALKEY: u16 = 6_379;
/// What the servers of a Valkey Cluster say to each other.
const VALKEY_BUS: u16 = VALKEY + 10_000;
/// Last number of the address of the first Valkey.
const SERVERS_FROM: u8 = 100;

/// Which local cluster it is: several can be up, each in a network and a folder of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// Everything of it is in here.
    pub(super) folder: PathBuf,
    /// Its addresses are 127.network.0.x.
    pub(super) network: u8,
    /// Number of nodes, 1 to [`NODES_MAX`].
    pub(super) nodes: u8,
    /// Cores of each node, 1 or 2.
    pub(super) cores: u8,
}

/// A process of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Member {
    /// A server of the engine, from 1.
    Valkey(u8),
    /// A node, from 1.
    Node(u8),
}

impl Member {
    /// Its name, which is that of its folder too.
    pub(super) fn name(self) -> String {
        match self {
            Self::Valkey(number) => format!("valkey-{number}"),
            Self::Node(number) => format!("node-{number}"),
        }
    }

    /// The member with a name.
    pub(super) fn named(name: &str) -> Option<Self> {
        let (kind, number) = name.rsplit_once('-')?;
        match kind {
            "valkey" => Some(Self::Valkey(number.parse().ok()?)),
            "node" => Some(Self::Node(number.parse().ok()?)),
            _ => None,
        }
    }
}

impl Layout {
    /// All processes, in the order in which they are started.
    pub(super) fn members(&self) -> impl Iterator<Item = Member> {
        self.servers().chain(self.node_members())
    }

    pub(super) fn servers(&self) -> impl Iterator<Item = Member> + use<> {
        (1..=SERVERS).map(Member::Valkey)
    }

    pub(super) fn node_members(&self) -> impl Iterator<Item = Member> + use<> {
        (1..=self.nodes).map(Member::Node)
    }

    fn address(&self, member: Member, port: u16) -> SocketAddr {
        let last = match member {
            Member::Valkey(number) => SERVERS_FROM + number,
            Member::Node(number) => number,
        };
        SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, self.network, 0, last)), port)
    }

    /// Where a Valkey listens.
    pub(super) fn valkey(&self, member: Member) -> SocketAddr {
        self.address(member, VALKEY)
    }

    /// Where clients connect over TCP.
    pub(super) fn mqtt(&self, member: Member) -> SocketAddr {
        self.address(member, MQTT)
    }

    /// Where clients connect over WebSocket.
    pub(super) fn websocket(&self, member: Member) -> SocketAddr {
        self.address(member, WEBSOCKET)
    }

    /// Where `roadstead ctl` asks.
    pub(super) fn admin(&self, member: Member) -> SocketAddr {
        self.address(member, ADMIN)
    }

    /// The folder of a member.
    pub(super) fn home(&self, member: Member) -> PathBuf {
        self.folder.join(member.name())
    }

    /// What a member prints.
    pub(super) fn log(&self, member: Member) -> PathBuf {
        self.home(member).join("log")
    }

    /// The file with a member's configuration.
    pub(super) fn config(&self, member: Member) -> PathBuf {
        self.home(member).join(match member {
            Member::Valkey(_) => "valkey.conf",
            Member::Node(_) => "roadstead.toml",
        })
    }

    /// The secret that all nodes share.
    pub(super) fn key(&self) -> PathBuf {
        self.folder.join("cluster.key")
    }

    /// Each address that a member listens on, and what for; `true` for those of UDP too.
    fn listens(&self, member: Member) -> Vec<(SocketAddr, &'static str, bool)> {
        let at = |port, what| (self.address(member, port), what, false);
        match member {
            Member::Valkey(_) => vec![at(VALKEY, "Valkey"), at(VALKEY_BUS, "Valkey's own bus")],
            Member::Node(_) => {
                let mut all = vec![
                    at(MQTT, "MQTT"),
                    at(WEBSOCKET, "WebSocket"),
                    at(ADMIN, "the admin side"),
                    (self.address(member, GOSSIP), "gossip", true),
                ];
                let buses = BUS..BUS + u16::from(self.cores);
                all.extend(buses.map(|port| at(port, "the bus")));
                all
            }
        }
    }

    /// Tries every address of the cluster.
    ///
    /// # Errors
    /// One is taken, or not of this machine; it is named, with what to do.
    pub(super) fn check_addresses(&self) -> Result<()> {
        for member in self.members() {
            for (address, what, also_udp) in self.listens(member) {
                let tried = TcpListener::bind(address).map(drop);
                let tried = match also_udp {
                    true => tried.and_then(|()| UdpSocket::bind(address).map(drop)),
                    false => tried,
                };
                if let Err(error) = tried {
                    let port = address.port();
                    bail!(
                        "{address} ({what} of {}): {error}; end what listens there (`ss -lntup 'sport = :{port}'` shows it), \
                         or write `--network {}` for addresses in 127.{}.0.0/24",
                        member.name(),
                        self.network.wrapping_add(1).max(1),
                        self.network.wrapping_add(1).max(1),
                    );
                }
            }
        }
        Ok(())
    }

    /// The configuration of a member.
    pub(super) fn text(&self, member: Member) -> String {
        match member {
            Member::Valkey(_) => self.valkey_text(member),
            Member::Node(number) => self.node_text(member, number),
        }
    }

    /// Every write is on disk before it counts, nothing is ever evicted: what `roadstead engine check` wants of a store
    /// without replicas. The others would take it for 127.0.0.1 if it were not said where it is.
    fn valkey_text(&self, member: Member) -> String {
        let address = self.valkey(member);
        format!(
            "bind {ip}\nbind-source-addr {ip}\ncluster-announce-ip {ip}\nport {}\ndir {}\n\
             cluster-enabled yes\ncluster-node-timeout 2000\n\
             appendonly yes\nappendfsync always\nsave \"\"\n\
             maxmemory 256mb\nmaxmemory-policy noeviction\n",
            address.port(),
            quoted(&self.home(member)),
            ip = address.ip(),
        )
    }

    fn node_text(&self, member: Member, number: u8) -> String {
        let list = |addresses: Vec<String>| {
            let quoted: Vec<String> = addresses.iter().map(|it| format!("{it:?}")).collect();
            quoted.join(", ")
        };
        let urls = list(
            self.servers()
                .map(|server| format!("redis://{}", self.valkey(server)))
                .collect(),
        );
        let seeds = list(
            self.node_members()
                .map(|node| self.address(node, GOSSIP).to_string())
                .collect(),
        );
        let mut text = String::new();
        let _ = write!(
            text,
            "[node]\nname = \"node-{number}\"\ncores = {}\npin_cores = false\n\n\
             [io]\nconnections_max = 10000\n\n\
             [listeners]\ntcp = [\"{}\"]\nwebsocket = [\"{}\"]\n\n\
             [admin]\naddress = \"{}\"\n\n\
             [engine]\nkind = \"redis\"\nurls = [{urls}]\npath = {}\n\n\
             [cluster]\nname = \"local\"\nkey_file = {}\nseeds = [{seeds}]\n\
             gossip_address = \"{}\"\nbus_address = \"{}\"\nserver_reference = \"{}\"\n\
             uid = \"{number:016x}\"\n",
            self.cores,
            self.mqtt(member),
            self.websocket(member),
            self.admin(member),
            quoted(&self.home(member).join("data")),
            quoted(&self.key()),
            self.address(member, GOSSIP),
            self.address(member, BUS),
            self.mqtt(member),
        ); // Writing into a string does not fail.
        text
    }
}

/// A path as TOML and Valkey take it.
fn quoted(path: &Path) -> String {
    format!("{:?}", path.display().to_string())
}

/// A number of nodes, as it was typed.
///
/// # Errors
/// It is none, or not in the range.
pub(super) fn node_count(text: &str) -> Result<u8> {
    let count = text
        .parse()
        .ok()
        .filter(|count| (1..=NODES_MAX).contains(count));
    count.with_context(|| {
        format!(
            "--nodes {text}: write a number from 1 to {NODES_MAX}; more nodes than that need machines of their own (docs/CLUSTERING.md)"
        )
    })
}

/// A network, as it was typed.
///
/// # Errors
/// It is none, or that of 127.0.0.1.
pub(super) fn network(text: &str) -> Result<u8> {
    let network = text.parse().ok().filter(|network| *network > 0);
    network.with_context(|| {
        format!("--network {text}: write a number from 1 to 255: the second one of the addresses, 127.x.0.1 and so on")
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn layout(network: u8) -> Layout {
        Layout {
            folder: PathBuf::from("/somewhere with a \"quote\""),
            network,
            nodes: NODES_MAX,
            cores: 2,
        }
    }

    #[test]
    fn no_two_listeners_have_one_address() {
        let layout = layout(77);
        let all: Vec<_> = layout
            .members()
            .flat_map(|member| layout.listens(member))
            .map(|(address, ..)| address)
            .collect();
        let distinct: BTreeSet<_> = all.iter().collect();
        assert_eq!(distinct.len(), all.len());
        assert!(all.iter().all(|address| address.ip().is_loopback()));
    }

    #[test]
    fn a_node_is_told_of_all_others_and_of_the_engine() {
        let layout = layout(77);
        let text = layout.text(Member::Node(2));
        for node in 1..=NODES_MAX {
            assert!(
                text.contains(&format!("\"127.77.0.{node}:7946\"")),
                "{text}"
            );
        }
        for server in 101..=103 {
            assert!(text.contains(&format!("\"redis://127.77.0.{server}:6379\"")));
        }
        assert!(text.contains("tcp = [\"127.77.0.2:1883\"]"));
        assert!(
            text.contains(r#"key_file = "/somewhere with a \"quote\"/cluster.key""#),
            "{text}"
        );
    }

    #[test]
    fn an_address_that_is_taken_is_named_with_what_to_do() {
        let layout = layout(201);
        let held = TcpListener::bind(layout.admin(Member::Node(3))).expect("it is free");
        let error = layout
            .check_addresses()
            .expect_err("it is taken")
            .to_string();
        assert!(
            error.starts_with("127.201.0.3:9883 (the admin side of node-3)"),
            "{error}"
        );
        assert!(error.contains("--network 202"), "{error}");
        drop(held);
        layout.check_addresses().expect("all are free");
    }

    #[test]
    fn a_wrong_number_says_which_are_right() {
        assert_eq!(node_count("9").expect("in the range"), 9);
        for text in ["0", "10", "300", "three", "-1", ""] {
            let error = node_count(text).expect_err("out of range").to_string();
            assert!(error.contains("from 1 to 9"), "{error}");
        }
        assert_eq!(network("255").expect("in the range"), 255);
        assert!(network("0").is_err() && network("256").is_err());
    }

    #[test]
    fn members_are_found_by_name() {
        let layout = layout(77);
        for member in layout.members() {
            assert_eq!(Member::named(&member.name()), Some(member));
        }
        assert_eq!(Member::named("node"), None);
        assert_eq!(Member::named("log-1"), None);
    }
}
