//! What a node of a cluster needs, and what makes no sense without one.

use cluster::limits::{CLUSTER_NAME_BYTES_MAX, REFERENCE_BYTES_MAX};
use cluster::link::LINKS_MAX;

use crate::config::{Config, ConfigError, EngineKind};

impl Config {
    /// The keys of `cluster` fit together.
    pub(super) fn check_cluster(&self, errors: &mut Vec<ConfigError>) {
        let cluster = &self.cluster;
        let Some(name) = &cluster.name.0 else {
            return self.check_no_cluster(errors);
        };
        if name.len() > CLUSTER_NAME_BYTES_MAX {
            let problem =
                format!("longer than {CLUSTER_NAME_BYTES_MAX} bytes; choose a shorter one");
            errors.push(self.contradiction("cluster.name", problem));
        }
        if cluster.key_file.0.is_none() {
            let problem = "a cluster without a key; name a file with the output of `openssl rand -base64 32`, the same on all nodes";
            errors.push(self.contradiction("cluster.key_file", problem.into()));
        }
        if self.engine.kind == EngineKind::Embedded {
            let problem = "the nodes of a cluster share an engine, and the embedded one is this node's alone; set engine.kind = \"redis\" \
                           and engine.urls, or take cluster.name out";
            errors.push(self.contradiction("cluster.name", problem.into()));
        }
        let reference = cluster.server_reference.0.as_deref().unwrap_or_default();
        if reference.len() > REFERENCE_BYTES_MAX {
            let problem = format!(
                "longer than {REFERENCE_BYTES_MAX} bytes; write e.g. \"mqtt.example.com:8883\""
            );
            errors.push(self.contradiction("cluster.server_reference", problem));
        }
        self.check_cluster_ports(errors);
    }

    /// Each core that has links listens on a port of its own.
    fn check_cluster_ports(&self, errors: &mut Vec<ConfigError>) {
        let (gossip, bus) = (self.cluster.gossip_address, self.cluster.bus_address);
        let links = self.core_count().min(usize::from(LINKS_MAX));
        let last = usize::from(bus.port()) + links - 1;
        for (path, port) in [
            ("cluster.gossip_address", gossip.port()),
            ("cluster.bus_address", bus.port()),
        ] {
            if port == 0 {
                let problem = "port 0 is any port, and the other nodes must know it; write one, e.g. 7946 for gossip and 7947 for the bus";
                errors.push(self.contradiction(path, problem.into()));
            }
        }
        if last > usize::from(u16::MAX) {
            let problem = format!(
                "each of {links} cores listens on a port of its own, up to {last}; write a port of at most {}",
                65_536 - links
            );
            errors.push(self.contradiction("cluster.bus_address", problem));
        }
        let is_within = (usize::from(bus.port())..=last).contains(&usize::from(gossip.port()));
        if is_within && gossip.port() != 0 {
            let problem = format!(
                "the bus takes the ports {} to {last}, and gossip takes its port over TCP as well; choose a port outside of these",
                bus.port()
            );
            errors.push(self.contradiction("cluster.gossip_address", problem));
        }
    }

    /// Whoever names seeds or a key means a cluster.
    fn check_no_cluster(&self, errors: &mut Vec<ConfigError>) {
        let cluster = &self.cluster;
        let named = [
            ("cluster.key_file", cluster.key_file.0.is_some()),
            ("cluster.seeds", !cluster.seeds.0.is_empty()),
            ("cluster.uid", cluster.uid.0.is_some()),
        ];
        if let Some((path, _)) = named.into_iter().find(|(_, is_set)| *is_set) {
            let problem = "without cluster.name the node is alone; name the cluster, the same on all nodes, or take this key out";
            errors.push(self.contradiction(path, problem.into()));
        }
    }
}
