//! Nodes of this repository's server and the Valkey that they share, all on loopback addresses: one node alone on it, or
//! several that are a cluster. The first node is the [`Server`]; it has the others and the Valkey.
//!
//! All nodes have the server's CPUs together; Valkey has the generator's, since what it does is told apart.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use reactor::probe::cpus_allowed;
use serde::Deserialize;

use crate::admin;
use crate::arguments::Common;
use crate::clock;
use crate::machine::Plan;
use crate::memory;
use crate::ports;
use crate::server::{Ports, Server, pause, root};

/// How long nodes may take to become members of one view and to link all their cores.
const JOIN_LIMIT: Duration = Duration::from_secs(60);
/// From one look at the nodes to the next.
const LOOK: Duration = Duration::from_millis(100);
/// The secret of every cluster here, which no other machine reaches.
const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n";

/// Where a node is.
#[derive(Clone, Copy, Debug)]
struct Place {
    number: u16,
    ports: Ports,
    gossip: SocketAddr,
    bus: SocketAddr,
}

impl Place {
    /// Node 1 is on 127.0.0.1, node 2 on 127.0.0.2, and so on.
    fn of(number: u16) -> Result<Self> {
        let [high, low] = number.to_be_bytes();
        let [tcp, other, admin, gossip, bus] = ports::free(Ipv4Addr::new(127, 0, high, low))?;
        Ok(Self {
            number,
            ports: Ports { tcp, other, admin },
            gossip,
            bus,
        })
    }

    /// The keys of its configuration that make it a member. Its uid is the same in every run, and with it who owns what.
    fn keys(&self, seed: SocketAddr, key_file: &str) -> Vec<String> {
        vec![
            "cluster.name=bench".to_owned(),
            format!("cluster.key_file={key_file}"),
            format!("cluster.seeds=[\"{seed}\"]"),
            format!("cluster.gossip_address={}", self.gossip),
            format!("cluster.bus_address={}", self.bus),
            format!("cluster.uid={:016x}", self.number),
        ]
    }
}

/// The server of Valkey.
///
/// # Errors
/// When it is not installed.
pub(crate) fn valkey() -> Result<PathBuf> {
    let program = root().join(".tools/valkey/valkey-server");
    program.canonicalize().with_context(|| {
        format!(
            "nodes share a Valkey, and there is no {}: `cargo xtask tools valkey`",
            program.display()
        )
    })
}

/// Starts a Valkey and so many nodes on it, and waits until they are one cluster.
///
/// # Errors
/// What does not start, or what each node lacks when they do not become a cluster.
pub(crate) fn start(common: &Common, plan: &Plan, nodes: u16) -> Result<Server> {
    let engine = start_valkey(plan)?;
    let mut keys = vec![
        "engine.kind=redis".to_owned(),
        format!("engine.urls=[\"redis://{}\"]", engine.address),
        "engine.durability=memory".to_owned(),
    ];
    let places = (1..=nodes).map(Place::of).collect::<Result<Vec<_>>>()?;
    let key_file = engine.folder().join("cluster.key");
    fs::write(&key_file, KEY).with_context(|| format!("cannot write {}", key_file.display()))?;
    let key_file = key_file.display().to_string();
    let mut started = Vec::new();
    for place in &places {
        let own = keys.len();
        if nodes > 1 {
            keys.extend(place.keys(places[0].gossip, &key_file));
        }
        let name = format!("-node-{}", place.number);
        started.push(Server::node(common, plan, place.ports, &name, &keys)?);
        keys.truncate(own);
    }
    let mut server = started.remove(0);
    server.others = started;
    server.engine = Some(Box::new(engine));
    // A node of a cluster answers nobody before it is a member.
    if nodes > 1 {
        await_members(&server)?;
    }
    for node in server.nodes() {
        node.await_listener()?;
    }
    Ok(server)
}

/// An empty Valkey that keeps nothing on disk.
fn start_valkey(plan: &Plan) -> Result<Server> {
    let program = valkey()?;
    let version = Command::new(&program).arg("--version").output();
    let version = version.with_context(|| format!("cannot run {}", program.display()))?;
    let [address] = ports::free(Ipv4Addr::LOCALHOST)?;
    let port = address.port().to_string();
    let arguments = [
        "--port",
        &port,
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--appendonly",
        "no",
    ];
    let mut words = vec![program.into_os_string()];
    words.extend(arguments.map(Into::into));
    let version = String::from_utf8_lossy(&version.stdout).trim().to_owned();
    let all = cpus_allowed()?;
    let division = plan.division.as_ref();
    let cpus = division.map(|division| &all[division.generator_first..]);
    let engine = Server::spawned((version, words, Vec::new()), cpus, address, "-valkey")?;
    engine.await_listener()?;
    Ok(engine)
}

impl Server {
    /// It, and the other nodes of its cluster.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = &Self> {
        std::iter::once(self).chain(&self.others)
    }

    /// CPU time of all nodes in nanoseconds, where their processes are known.
    pub(crate) fn cpu_ns(&self) -> Option<u64> {
        self.nodes().map(|node| node.pid.map(memory::cpu_ns)).sum()
    }

    /// The sum of a metric over all nodes.
    ///
    /// # Errors
    /// When a node does not tell it.
    pub(crate) fn metric(&self, name: &str) -> Result<f64> {
        let admins = self.nodes().filter_map(|node| node.admin);
        admins
            .map(|address| Ok(admin::sum(&admin::get(address, "/metrics")?, name)))
            .sum()
    }
}

/// What a node says of itself in its cluster.
#[derive(Debug, Deserialize)]
struct Told {
    standing: String,
    reason: Option<String>,
    epoch: u64,
    members: usize,
    alive: Vec<String>,
    gossip_refused: std::collections::BTreeMap<String, u64>,
    nodes_refused: std::collections::BTreeMap<String, u64>,
}

/// A node, as far as it is in its cluster.
#[derive(Debug)]
struct Standing {
    told: Told,
    links_up: f64,
    links_down: f64,
    ready: Result<(), String>,
}

impl Standing {
    fn of(address: SocketAddr) -> Result<Self> {
        let told = serde_json::from_str(&admin::get(address, "/v1/cluster")?)
            .context("what a node says of its cluster has changed")?;
        let metrics = admin::get(address, "/metrics")?;
        let links = |state| {
            admin::sum(
                &metrics,
                &format!("roadstead_bus_links{{state=\"{state}\"}}"),
            )
        };
        Ok(Self {
            told,
            links_up: links("up"),
            links_down: links("down"),
            ready: admin::get(address, "/readyz")
                .map(drop)
                .map_err(|error| format!("{error:#}")),
        })
    }

    /// What it lacks to be one of so many members; empty when nothing.
    fn lacks(&self, members: usize, epoch: u64) -> Vec<String> {
        let told = &self.told;
        let mut lacks = Vec::new();
        if told.standing != "serving" {
            let reason = told.reason.as_deref().unwrap_or("no reason told");
            lacks.push(format!("it is {}: {reason}", told.standing));
        }
        if told.members != members {
            let hears = match told.alive.len() {
                0 => "nobody else".to_owned(),
                _ => told.alive.join(", "),
            };
            lacks.push(format!(
                "its view {} has {} of {members} members, and it hears of {hears}",
                told.epoch, told.members
            ));
        } else if told.epoch != epoch {
            lacks.push(format!(
                "it has view {}, and another node view {epoch}",
                told.epoch
            ));
        }
        // One link for each other node and core, of which a node has one here or more.
        if self.links_down > 0.0 || self.links_up < (members - 1) as f64 {
            lacks.push(format!(
                "{} of its bus links are up and {} down",
                self.links_up, self.links_down
            ));
        }
        if let Err(error) = &self.ready {
            lacks.push(error.clone());
        }
        if !lacks.is_empty() {
            for (what, counts) in [
                ("datagrams of gossip", &told.gossip_refused),
                ("nodes", &told.nodes_refused),
            ] {
                let refused = counts.iter().filter(|(_, count)| **count > 0);
                lacks.extend(refused.map(|(why, count)| format!("{count} {what} refused: {why}")));
            }
        }
        lacks
    }
}

/// What keeps the nodes from being one cluster, a line each; empty when nothing does.
fn obstacles(server: &Server) -> Vec<String> {
    let admins = server.nodes().filter_map(|node| node.admin);
    let found: Vec<(SocketAddr, Result<Standing>)> = admins
        .map(|address| (address, Standing::of(address)))
        .collect();
    let epochs = found
        .iter()
        .filter_map(|(_, standing)| standing.as_ref().ok());
    let epoch = epochs
        .map(|standing| standing.told.epoch)
        .max()
        .unwrap_or(0);
    let lacks = |(address, standing): &(SocketAddr, Result<Standing>)| {
        let ip: IpAddr = address.ip();
        let lacks = match standing {
            Ok(standing) => standing.lacks(found.len(), epoch),
            Err(error) => vec![format!(
                "no view has it, so that it does not answer yet: {error:#}"
            )],
        };
        (!lacks.is_empty()).then(|| format!("node {ip}: {}", lacks.join("; ")))
    };
    found.iter().filter_map(lacks).collect()
}

/// Waits until all nodes are members of one view, take clients, and have all links between them.
fn await_members(server: &Server) -> Result<()> {
    let until = clock::now() + JOIN_LIMIT;
    loop {
        server.check()?;
        let obstacles = obstacles(server);
        if obstacles.is_empty() {
            return Ok(());
        }
        if clock::now() > until {
            let logs = server.nodes().map(Server::log_tail);
            bail!(
                "the nodes are no cluster after {JOIN_LIMIT:?}:\n  {}\ntheir logs end with:\n{}",
                obstacles.join("\n  "),
                logs.collect::<Vec<_>>().join("\n--\n")
            );
        }
        pause(LOOK)?;
    }
}

/// Says how the cluster is, for an error whose cause may be there.
pub(crate) fn situation(server: &Server) -> String {
    if server.others.is_empty() {
        return "one node".to_owned();
    }
    match obstacles(server) {
        lacks if lacks.is_empty() => "all nodes are members of one view and linked".to_owned(),
        lacks => lacks.join("\n  "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(standing: &str, members: usize, links_up: f64) -> Standing {
        let told = format!(
            r#"{{"standing":"{standing}","reason":"the view does not have this node","epoch":7,"members":{members},
                "alive":[],"gossip_refused":{{"key":3,"clock":0}},"nodes_refused":{{}}}}"#
        );
        Standing {
            told: serde_json::from_str(&told).expect("it is as a node tells it"),
            links_up,
            links_down: 0.0,
            ready: Ok(()),
        }
    }

    #[test]
    fn a_member_with_its_links_lacks_nothing() {
        assert!(standing("serving", 3, 2.0).lacks(3, 7).is_empty());
    }

    #[test]
    fn what_a_node_lacks_is_said_with_its_cause() {
        let said = standing("fenced", 0, 0.0).lacks(3, 7).join("; ");
        assert!(
            said.contains("fenced: the view does not have this node"),
            "{said}"
        );
        assert!(
            said.contains("0 of 3 members") && said.contains("nobody else"),
            "{said}"
        );
        assert!(
            said.contains("3 datagrams of gossip refused: key"),
            "{said}"
        );
        assert!(!said.contains("clock"), "{said}");
        let said = standing("serving", 3, 1.0).lacks(3, 7).join("; ");
        assert!(said.contains("1 of its bus links are up"), "{said}");
        let said = standing("serving", 3, 2.0).lacks(3, 8).join("; ");
        assert!(
            said.contains("it has view 7, and another node view 8"),
            "{said}"
        );
    }
}
