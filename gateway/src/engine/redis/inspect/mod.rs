//! What a Valkey or Redis is, and whether it keeps what a policy promises: read before a node starts, and by `roadstead engine check`.
//!
//! Everything is asked for by commands that only read. What may not be asked is said, never assumed to be right.

mod ask;
mod facts;
mod rules;
mod shape;

use serde::Serialize;

use crate::config::{Durability, EngineMode};
use crate::engine::redis::options::Policy;

pub use ask::ask;
pub use facts::{ClusterFacts, ClusterNode, Facts, Lines, ServerFacts, Settings, Version};

/// How bad something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The promises do not hold: a node does not start.
    Refuse,
    /// A node starts, and somebody should look at it.
    Warn,
    /// Good to know.
    Info,
}

/// One thing that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// Where: the address of a server, `cluster`, `server` or `engine`.
    pub server: String,
    /// What: a setting of the server, a line of its INFO, or a key of the configuration.
    pub setting: String,
    /// Its value.
    pub found: String,
    /// What would be right.
    pub right: String,
    /// What happens as it is, and what to do.
    pub why: String,
}

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// `engine.mode`.
    pub mode: EngineMode,
    /// `engine.durability`.
    pub durability: Durability,
}

/// What servers are set up for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Replicas online of the primary that has the fewest.
    pub replicas: u32,
    /// True when every primary has an append-only file that is synced by itself.
    pub aof: bool,
    /// True when every primary syncs that file with each turn, and so do all replicas, all of which answered.
    pub aof_everywhere: bool,
}

impl Offer {
    fn of(facts: &Facts) -> Self {
        let fsync = |server: &ServerFacts| server.settings.text("appendfsync").map(str::to_owned);
        let always =
            |server: &ServerFacts| server.has_aof() && fsync(server).as_deref() == Some("always");
        let has_primaries = facts.primaries().next().is_some();
        let replicas = facts.primaries().map(ServerFacts::replicas_online).min();
        let counted: u32 = facts.primaries().map(ServerFacts::replicas_online).sum();
        let answered = facts.replicas().count();
        Self {
            replicas: replicas.unwrap_or(0),
            aof: has_primaries
                && facts
                    .primaries()
                    .all(|server| server.has_aof() && fsync(server).as_deref() != Some("no")),
            aof_everywhere: has_primaries
                && usize::try_from(counted).is_ok_and(|counted| counted == answered)
                && facts.servers.iter().all(always),
        }
    }

    /// What `auto` stands for. A policy that waits for the disks of replicas too is taken only where all of them sync at once: elsewhere each
    /// acknowledgement would take up to a second, and two copies are the better bargain.
    pub fn strongest(self) -> Durability {
        match (self.replicas, self.aof) {
            (1.., _) if self.aof_everywhere => Durability::ReplicaAof,
            (1.., _) => Durability::Replica,
            (0, true) => Durability::Aof,
            (0, false) => Durability::Memory,
        }
    }
}

/// What was found, and what follows.
#[derive(Clone, Debug)]
pub struct Report {
    /// What was found out.
    pub facts: Facts,
    /// What is not as it should be, the worst first.
    pub findings: Vec<Finding>,
    /// The policy: as wanted, or for `auto` the strongest that there is; never `Auto`.
    pub durability: Durability,
    /// The same with the number of replicas that are waited for: all but one, and one at least. So one replica may be gone, and whatever
    /// takes the place of a lost primary, the one of the replicas that has the most, has everything.
    pub policy: Policy,
}

impl Report {
    /// Judges what was found out.
    pub fn of(facts: Facts, wanted: &Wanted) -> Self {
        let (findings, offer) = rules::judge(&facts, wanted);
        let durability = match wanted.durability {
            Durability::Auto => offer.strongest(),
            chosen => chosen,
        };
        let replicas = offer.replicas.saturating_sub(1).max(1);
        let policy = match durability {
            Durability::Aof => Policy::Aof,
            Durability::Replica => Policy::Replica(replicas),
            Durability::ReplicaAof => Policy::ReplicaAof(replicas),
            _ => Policy::Memory,
        };
        Self {
            facts,
            findings,
            durability,
            policy,
        }
    }

    /// Replicas that are waited for before something counts as stored.
    pub fn replicas_waited_for(&self) -> u32 {
        match self.policy {
            Policy::Memory | Policy::Aof => 0,
            Policy::Replica(replicas) | Policy::ReplicaAof(replicas) => replicas,
        }
    }

    /// True when a node may use it.
    pub fn is_good(&self) -> bool {
        let refused = |finding: &Finding| finding.severity == Severity::Refuse;
        !self.findings.iter().any(refused)
    }

    /// What it is, in one line: products, servers and shape.
    pub fn summary(&self) -> String {
        let mut versions: Vec<_> = self
            .facts
            .servers
            .iter()
            .map(|server| server.version().to_string())
            .collect();
        versions.sort();
        versions.dedup();
        let (primaries, replicas) = (
            self.facts.primaries().count(),
            self.facts.replicas().count(),
        );
        let shape = match &self.facts.cluster {
            Some(_) => format!("a cluster of {primaries} primaries"),
            None => format!("{primaries} primary"),
        };
        format!("{}: {shape}, {replicas} replicas", versions.join(" and "))
    }
}

#[cfg(test)]
mod tests;
