//! What a node of a cluster is started with: the section `cluster` of the configuration, the file of keys, and the addresses at which
//! others reach it.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cluster::hello::PROTOCOL;
use cluster::sealed;
use cluster::view::{Joining, NodeId};

use super::ClusterError;
use crate::bus::keys::KeyRing;
use crate::config::{Config, Host, Seed};

/// What the keys of gossip are derived for.
const GOSSIP_PURPOSE: &str = "seals of gossip datagrams";

/// The part of the configuration that concerns the cluster.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its name.
    pub name: Box<str>,
    /// The file with its keys.
    pub key_file: PathBuf,
    /// Where other nodes may be found.
    pub seeds: Vec<Seed>,
    /// Where gossip and control links are listened for.
    pub gossip: SocketAddr,
    /// Where the bus listens.
    pub bus: SocketAddr,
    /// Where others reach this node.
    pub advertise: Option<Host>,
    /// What clients are told that are to come to this node.
    pub reference: Box<str>,
    /// Share of the partitions.
    pub weight: u32,
    /// Names the node.
    pub uid: Option<u64>,
    /// Cores of the node.
    pub cores: u16,
}

impl Settings {
    /// The settings of a configuration; `None` when its node is alone.
    pub fn of(config: &Config) -> Option<Self> {
        let section = &config.cluster;
        let cores = u16::try_from(config.core_count()).unwrap_or(u16::MAX);
        Some(Self {
            name: section.name.0.as_deref()?.into(),
            key_file: section.key_file.0.clone().unwrap_or_default(),
            seeds: section.seeds.0.clone(),
            gossip: section.gossip_address,
            bus: section.bus_address,
            advertise: section.advertise_address.0.clone(),
            reference: section
                .server_reference
                .0
                .as_deref()
                .unwrap_or_default()
                .into(),
            weight: match section.weight {
                0 => u32::from(cores),
                weight => weight,
            },
            uid: section.uid.0,
            cores,
        })
    }

    /// What this node says of itself in its first incarnation. Looks names up, which may take seconds.
    ///
    /// # Errors
    /// When it cannot be told where others reach it.
    pub fn joining(&self, unix_ms: u64) -> Result<Joining, ClusterError> {
        let reached = |own: SocketAddr| -> Result<SocketAddr, ClusterError> {
            match &self.advertise {
                None if !own.ip().is_unspecified() => Ok(own),
                _ => Ok(SocketAddr::new(self.advertised(own.is_ipv4())?, own.port())),
            }
        };
        let gossip = reached(self.gossip)?;
        let bus = reached(self.bus)?;
        Ok(Joining {
            node: NodeId {
                uid: self.uid.unwrap_or_else(|| uid_of(&host_name(), gossip)),
                incarnation: unix_ms,
            },
            cores: self.cores,
            weight: self.weight,
            gossip,
            bus,
            reference: self.reference.clone(),
            protocol: PROTOCOL,
        })
    }

    /// The address at which others reach this node: as configured, or the one that leads to the seeds.
    fn advertised(&self, wants_v4: bool) -> Result<IpAddr, ClusterError> {
        let (name, addresses) = match &self.advertise {
            Some(Host::Address(address)) => return Ok(*address),
            Some(Host::Name(name)) => (name, (name.as_str(), 0).to_socket_addrs()),
            None => return self.address_to_seeds(wants_v4),
        };
        let addresses: Vec<SocketAddr> = match addresses {
            Ok(addresses) => addresses.collect(),
            Err(error) => {
                return Err(ClusterError::Advertise(format!(
                    "{name} has no address: {error}"
                )));
            }
        };
        let wanted = addresses
            .iter()
            .find(|address| address.is_ipv4() == wants_v4);
        wanted
            .or_else(|| addresses.first())
            .map(SocketAddr::ip)
            .ok_or_else(|| ClusterError::Advertise(format!("{name} has no address")))
    }

    fn address_to_seeds(&self, wants_v4: bool) -> Result<IpAddr, ClusterError> {
        let seeds = self.seeds.iter().flat_map(|seed| {
            let found = match &seed.host {
                Host::Address(address) => vec![SocketAddr::new(*address, seed.port)],
                Host::Name(name) => (name.as_str(), seed.port)
                    .to_socket_addrs()
                    .map(Iterator::collect)
                    .unwrap_or_default(),
            };
            found.into_iter()
        });
        // Nothing is sent to these: they are nobody's (RFC 5737, RFC 3849), and the way there is the way out.
        let outside = [
            SocketAddr::from(([192, 0, 2, 1], 9)),
            SocketAddr::from(([0x2001, 0xDB8, 0, 0, 0, 0, 0, 1], 9)),
        ];
        let mut targets = seeds.chain(outside);
        targets
            .find_map(|target| {
                (target.is_ipv4() == wants_v4)
                    .then(|| address_to(target))
                    .flatten()
            })
            .ok_or_else(|| {
                ClusterError::Advertise(
                    "no way leads to the seeds or out of this machine".to_owned(),
                )
            })
    }
}

/// The address from which this machine would send to another one.
fn address_to(target: SocketAddr) -> Option<IpAddr> {
    let any: SocketAddr = if target.is_ipv4() {
        ([0, 0, 0, 0], 0).into()
    } else {
        ([0u16; 8], 0).into()
    };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(target).ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_unspecified()).then_some(address)
}

fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map(|name| name.trim().to_owned())
        .unwrap_or_default()
}

/// The uid of a node without one: the same after a restart at the same place, and another one for another place.
fn uid_of(host: &str, gossip: SocketAddr) -> u64 {
    let hash = digest(&SHA256, format!("{host} {gossip}").as_bytes());
    let bytes = hash.as_ref().first_chunk().copied().unwrap_or_default();
    u64::from_be_bytes(bytes).max(1)
}

/// The keys of a cluster, for each of their uses.
#[derive(Debug)]
pub struct Keys {
    /// Those of connections.
    pub bus: KeyRing,
    /// Those of datagrams, which are derived from the same.
    pub gossip: sealed::KeyRing,
}

impl Keys {
    /// Reads the file of keys.
    ///
    /// # Errors
    /// When it cannot be read or is no such file.
    pub fn read(path: &Path) -> Result<Self, ClusterError> {
        let fault = |detail: String| ClusterError::KeyFile {
            path: path.display().to_string(),
            detail,
        };
        let text = zeroize::Zeroizing::new(
            std::fs::read_to_string(path).map_err(|error| fault(error.to_string()))?,
        );
        let bus = KeyRing::parse(&text).map_err(|error| fault(error.to_string()))?;
        let lines = bus
            .all()
            .iter()
            .map(|key| STANDARD.encode(*key.derive(GOSSIP_PURPOSE)));
        let lines = zeroize::Zeroizing::new(lines.collect::<Vec<_>>().join("\n"));
        let gossip = sealed::KeyRing::parse(&lines).map_err(|error| fault(error.to_string()))?;
        Ok(Self { bus, gossip })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings {
            name: "roadstead".into(),
            key_file: PathBuf::new(),
            seeds: Vec::new(),
            gossip: ([0, 0, 0, 0], 7946).into(),
            bus: ([127, 0, 0, 3], 7947).into(),
            advertise: None,
            reference: "".into(),
            weight: 2,
            uid: None,
            cores: 2,
        }
    }

    #[test]
    fn the_way_to_the_seeds_tells_the_address() {
        let mut settings = settings();
        let host = Host::Address([127, 0, 0, 1].into());
        settings.seeds = vec![Seed { host, port: 7946 }];
        let joining = settings.joining(1).expect("loopback is always there");
        assert_eq!(joining.gossip, ([127, 0, 0, 1], 7946).into());
        assert_eq!(
            joining.bus,
            ([127, 0, 0, 3], 7947).into(),
            "what is bound is known"
        );
    }

    #[test]
    fn what_is_advertised_comes_before_what_is_bound() {
        let mut settings = settings();
        settings.advertise = Some(Host::Address([10, 1, 2, 3].into()));
        let joining = settings.joining(1).expect("it is said");
        assert_eq!(joining.bus, ([10, 1, 2, 3], 7947).into());
        settings.advertise = Some(Host::Name("no such name.invalid".into()));
        let error = settings.joining(1).expect_err("nobody has that name");
        assert!(
            error.to_string().contains("cluster.advertise_address"),
            "{error}"
        );
    }

    #[test]
    fn a_node_has_the_same_uid_after_a_restart_and_no_other_node_has_it() {
        let gossip = |last| SocketAddr::from(([10, 0, 0, last], 7946));
        assert_eq!(uid_of("a", gossip(1)), uid_of("a", gossip(1)));
        assert_ne!(uid_of("a", gossip(1)), uid_of("a", gossip(2)));
        assert_ne!(uid_of("a", gossip(1)), uid_of("b", gossip(1)));
    }
}
