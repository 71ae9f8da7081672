//! Asks servers what they are.

use std::time::{SystemTime, UNIX_EPOCH};

use redis::{Cmd, FromRedisValue, from_redis_value};

use super::facts::{
    ClusterFacts, ClusterNode, Facts, Lines, REPLICAS_MAX, SETTINGS, ServerFacts, Settings,
};
use crate::engine::redis::options::{Address, ConnectOptions};
use crate::engine::redis::server::{Servers, ServersError};

/// Servers of a cluster that are asked, at most: what is wrong with so many is said of all.
const SERVERS_MAX: usize = 1_024;

/// Asks the seeds, and of a cluster all members. What does not answer is among what was found out.
pub fn ask(options: &ConnectOptions) -> Facts {
    let mut facts = Facts {
        servers: Vec::new(),
        silent: Vec::new(),
        cluster: None,
    };
    let mut servers = Servers::new(options.clone(), &[]);
    let mut to_ask: Vec<Address> = options.seeds.iter().rev().cloned().collect();
    let mut asked: Vec<Address> = Vec::new();
    while let Some(address) = to_ask.pop() {
        if asked.contains(&address) || asked.len() >= SERVERS_MAX {
            continue;
        }
        asked.push(address.clone());
        let found = ask_server(&mut servers, &address).and_then(|server| {
            let cluster = is_clustered(&server) && facts.cluster.is_none();
            let cluster = cluster
                .then(|| ask_cluster(&mut servers, &address))
                .transpose()?;
            Ok((server, cluster))
        });
        match found {
            Ok((server, cluster)) => {
                if !is_clustered(&server) {
                    to_ask.extend(others_of(&server));
                }
                if let Some(cluster) = cluster {
                    let members = cluster.nodes.iter().filter(|node| !node.failed);
                    to_ask.extend(members.map(|node| node.address.clone()));
                    facts.cluster = Some(cluster);
                }
                facts.servers.push(server);
            }
            Err(error) => facts.silent.push((address, detail(error))),
        }
    }
    without_doubles(facts)
}

/// A server that has two names, one of a seed and one that it says itself, counts once: each run of a server has an id.
fn without_doubles(mut facts: Facts) -> Facts {
    let mut seen: Vec<String> = Vec::new();
    facts.servers.retain(|server| {
        let run = server.info.text("run_id").to_owned();
        let is_new = run.is_empty() || !seen.contains(&run);
        seen.push(run);
        is_new
    });
    facts
}

fn is_clustered(server: &ServerFacts) -> bool {
    server.info.text("redis_mode") == "cluster" || server.info.text("cluster_enabled") == "1"
}

/// The others that a server names: its replicas, or its primary.
fn others_of(server: &ServerFacts) -> Vec<Address> {
    let info = &server.info;
    let primary = || {
        let port = info.text("master_port").parse().ok()?;
        let host = info.text("master_host");
        (!host.is_empty()).then(|| Address {
            host: host.into(),
            port,
        })
    };
    let count = info
        .number("connected_slaves")
        .unwrap_or(0)
        .min(REPLICAS_MAX);
    let replica = |number: u64| {
        let line = info.text(&format!("slave{number}"));
        let field = |name: &str| {
            let mut fields = line.split(',').filter_map(|field| field.split_once('='));
            fields
                .find(|(found, _)| *found == name)
                .map(|(_, value)| value)
        };
        Some(Address {
            host: field("ip")?.into(),
            port: field("port")?.parse().ok()?,
        })
    };
    (0..count).filter_map(replica).chain(primary()).collect()
}

fn ask_server(servers: &mut Servers, address: &Address) -> Result<ServerFacts, ServersError> {
    let info: String = call(servers, address, &redis::cmd("INFO"))?;
    let mut command = redis::cmd("CONFIG");
    command.arg("GET").arg(&SETTINGS);
    let settings = match call::<Vec<(String, String)>>(servers, address, &command) {
        Ok(pairs) => {
            let pairs = pairs.into_iter();
            let pairs = pairs.map(|(name, value)| (name.into(), value.into()));
            Settings::Known(pairs.collect())
        }
        Err(ServersError::Refused { detail, .. }) => Settings::Forbidden(detail.into()),
        Err(error) => return Err(error),
    };
    let before_ms = unix_ms();
    let (seconds, microseconds): (i64, i64) = call(servers, address, &redis::cmd("TIME"))?;
    let now_ms = before_ms.midpoint(unix_ms());
    let there_ms = seconds
        .saturating_mul(1_000)
        .saturating_add(microseconds / 1_000);
    Ok(ServerFacts {
        address: address.clone(),
        info: Lines::parse(&info),
        settings,
        ahead_ms: there_ms.saturating_sub(now_ms),
    })
}

fn ask_cluster(servers: &mut Servers, address: &Address) -> Result<ClusterFacts, ServersError> {
    let mut command = redis::cmd("CLUSTER");
    let info: String = call(servers, address, command.arg("INFO"))?;
    let mut command = redis::cmd("CLUSTER");
    let nodes: String = call(servers, address, command.arg("NODES"))?;
    Ok(ClusterFacts {
        info: Lines::parse(&info),
        nodes: ClusterNode::parse_all(&nodes, address),
    })
}

fn call<T: FromRedisValue>(
    servers: &mut Servers,
    address: &Address,
    command: &Cmd,
) -> Result<T, ServersError> {
    let reply = servers.call_at(address, command)?;
    from_redis_value(reply).map_err(|error| ServersError::Reply {
        server: address.to_string(),
        detail: error.to_string(),
    })
}

/// What went wrong, without the server, which is told beside it.
fn detail(error: ServersError) -> String {
    match error {
        ServersError::Unreachable { detail, .. }
        | ServersError::Unavailable { detail, .. }
        | ServersError::Full { detail, .. }
        | ServersError::Refused { detail, .. }
        | ServersError::Reply { detail, .. } => detail,
        error @ ServersError::Unconfirmed { .. } => error.to_string(),
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the clock of a server is held against ours"
)]
fn unix_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    })
}
