//! What servers are together: one primary, or a cluster that serves everything.

use super::Severity::{self, Refuse, Warn};
use super::facts::{ClusterFacts, ClusterNode};
use super::rules::Rules;
use crate::config::EngineMode;

/// All slots of a cluster.
const SLOTS: u64 = 16_384;

impl Rules<'_> {
    /// What is said of all servers together.
    pub(super) fn shape(&mut self) {
        for (address, error) in &self.facts.silent {
            let why = "it was not asked, so nothing is known about it; look at its log, the network and the password";
            self.say(Warn, address, "connection", error, "an answer", why);
        }
        match &self.facts.cluster {
            Some(cluster) => self.cluster(cluster),
            None => self.one_primary(),
        }
    }

    fn of_cluster(
        &mut self,
        severity: Severity,
        setting: &str,
        found: impl ToString,
        right: &str,
        why: &str,
    ) {
        self.say(severity, "cluster", setting, found, right, why);
    }

    fn of_servers(&mut self, setting: &str, found: impl ToString, right: &str, why: &str) {
        self.say(Refuse, "server", setting, found, right, why);
    }

    fn cluster(&mut self, cluster: &ClusterFacts) {
        if self.wanted.mode == EngineMode::Single {
            let why = "engine.mode is \"single\", and with one server of a cluster most keys are elsewhere; set it to \"auto\"";
            self.of_cluster(Refuse, "cluster_enabled", "1", "0", why);
        }
        let state = cluster.info.text("cluster_state");
        if state != "ok" {
            let why = "while it is not, nothing can be stored; `CLUSTER NODES` and the logs of the servers say what is missing";
            self.of_cluster(Refuse, "cluster_state", state, "ok", why);
        }
        let nodes = &cluster.nodes;
        let serving = nodes.iter().filter(|node| !node.failed);
        let served: u64 = serving.map(|node| u64::from(node.slots)).sum();
        if served != SLOTS {
            let why = "what belongs to the other slots has no place; assign them (`valkey-cli --cluster fix`)";
            self.of_cluster(Refuse, "slots served", served, "16384", why);
        }
        let failed = nodes.iter().filter(|node| node.failed).count();
        if failed > 0 {
            let why = "it makes the cluster slower to fail over; bring it back, or take it out (`CLUSTER FORGET`)";
            self.of_cluster(Warn, "failed members", failed, "0", why);
        }
        let serves = |node: &&ClusterNode| node.primary.is_none() && node.slots > 0;
        let primaries = nodes.iter().filter(serves).count();
        if (1..3).contains(&primaries) {
            let why = "with fewer than three no majority is left when one is lost, so that no replica takes its place";
            self.of_cluster(Warn, "primaries", primaries, "3 or more", why);
        }
    }

    fn one_primary(&mut self) {
        let servers = &self.facts.servers;
        if self.wanted.mode == EngineMode::Cluster && !servers.is_empty() {
            let why =
                "engine.mode is \"cluster\"; set it to \"auto\" or \"single\", or name a cluster";
            self.of_servers("cluster_enabled", "0", "1", why);
        }
        let is_sentinel = |mode: &str| mode == "sentinel";
        let primaries = self.facts.primaries();
        let primaries: Vec<_> = primaries.map(|server| server.address.to_string()).collect();
        match primaries.len() {
            1 => {}
            0 if servers
                .iter()
                .any(|server| is_sentinel(server.info.text("redis_mode"))) =>
            {
                let why = "a Sentinel stores nothing; name the servers that it watches";
                self.of_servers("redis_mode", "sentinel", "standalone or cluster", why);
            }
            0 => {
                let why = "only a primary takes what is to be stored; name it as well, or wait until one of these has become it";
                self.of_servers(
                    "role",
                    "no primary among those that answer",
                    "a primary",
                    why,
                );
            }
            _ => {
                let why = "they are not one store, or a failover is not over; name one primary, with its replicas";
                self.of_servers("role", primaries.join(" and "), "one primary", why);
            }
        }
    }
}
