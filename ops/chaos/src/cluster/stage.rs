//! Everything of a cluster run in one place: network, engine, nodes, clients, and who watches the nodes.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::engine::Engine;
use super::member::Member;
use super::network::Network;
use super::probe::{ROOTS, name, own_name};
use super::watch::Watch;
use super::world::{Mood, World};
use crate::clock::{now, time_of_day};
use crate::options::Options;
use crate::random::Random;
use crate::report::Report;

/// Nodes of the cluster.
pub(crate) const NODES: usize = 3;
/// Most that nodes may take until they agree again.
pub(crate) const CONVERGE_LIMIT: Duration = Duration::from_secs(60);
/// Most that clients may take until they have everything.
pub(crate) const SETTLE_LIMIT: Duration = Duration::from_secs(60);
/// How long nothing may come before everything has come.
const QUIET: Duration = Duration::from_millis(700);
/// How long a message that is missing may keep a quiet world from being settled.
const MISSING_LIMIT: Duration = Duration::from_secs(20);

/// The stage. Dropping it removes everything; the order of its fields is the order in which they go.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) watch: Watch,
    pub(crate) world: World,
    pub(crate) members: Vec<Member>,
    pub(crate) engine: Engine,
    pub(crate) network: Network,
    pub(crate) random: Random,
    pub(crate) folder: PathBuf,
    mood: Mood,
}

impl Stage {
    /// Lays the network, and starts engine and nodes.
    ///
    /// # Errors
    /// Something of it does not start.
    pub(crate) fn set(options: &Options, network: Network, folder: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&folder)?;
        let engine = Engine::start(&network, &folder)?;
        let urls = engine.urls();
        let mut members = Vec::new();
        for index in 0..NODES {
            let place = (index, NODES);
            members.push(Member::new(options, &network, &folder, place, &urls)?);
        }
        for member in &mut members {
            member.spawn(&network)?;
        }
        let admins: Vec<_> = members.iter().map(|member| member.admin).collect();
        let mut random = Random::new(options.seed);
        Ok(Self {
            watch: Watch::start(&admins),
            world: World::new(members.iter().map(|it| it.mqtt).collect(), random.fork()),
            members,
            engine,
            network,
            random,
            folder,
            mood: Mood::Finishing,
        })
    }

    /// Clients publish, or only finish what they have begun.
    pub(crate) fn mood(&mut self, mood: Mood) {
        self.mood = mood;
    }

    /// Lets the clients go on until something holds; how long that took, or `None` when it did not in time.
    pub(crate) fn until(
        &mut self,
        limit: Duration,
        mut holds: impl FnMut(&mut Self) -> bool,
    ) -> Option<Duration> {
        let start = now();
        loop {
            if holds(self) {
                return Some(start.elapsed());
            }
            if start.elapsed() >= limit {
                return None;
            }
            self.world.round(self.mood);
        }
    }

    /// Lets the clients go on for a while.
    pub(crate) fn go_on(&mut self, time: Duration) {
        self.until(time, |_| false);
    }

    /// Waits until all nodes agree.
    pub(crate) fn converge(&mut self) -> Option<Duration> {
        self.until(CONVERGE_LIMIT, |stage| stage.watch.agree())
    }

    /// Nobody publishes any more; everyone comes and takes what waits. So many messages are known to be lost.
    pub(crate) fn settle(&mut self, lost: usize) -> Option<Duration> {
        self.mood(Mood::Finishing);
        self.world.all_come();
        let start = now();
        self.until(SETTLE_LIMIT, |stage| {
            stage.world.is_settled()
                && stage.world.quiet() > QUIET
                && (start.elapsed() > MISSING_LIMIT || stage.world.ledger.missing().len() <= lost)
        })
    }

    /// Roots of the probes, by the node that owns them now: one that all of them read, and one that the probe of this node alone reads.
    /// `None` when a node owns none.
    pub(crate) fn roots(&self) -> Option<Vec<(usize, usize)>> {
        let owners = self.owners();
        let owns = |node: usize, name: &str| owners.get(&partition(name)) == Some(&node);
        let of = |node: usize| {
            let all = (0..ROOTS).find(|root| owns(node, &name(*root)))?;
            let own = (0..ROOTS).find(|root| owns(node, &own_name(node, *root)))?;
            Some((all, own))
        };
        (0..NODES).map(of).collect()
    }

    /// Owners of partitions, as the first node says that answers.
    pub(crate) fn owners(&self) -> BTreeMap<u16, usize> {
        let mut said = (0..NODES)
            .filter(|node| self.watch.latest(*node).is_some())
            .map(|node| self.watch.owners(node));
        said.find(|owners| !owners.is_empty()).unwrap_or_default()
    }

    /// The nodes but one.
    pub(crate) fn others(node: usize) -> Vec<usize> {
        (0..NODES).filter(|other| *other != node).collect()
    }

    /// A step, with the time as the nodes' logs have it and the tick as the traces have it.
    pub(crate) fn step(&mut self, report: &Report, what: &str) {
        let tick = self.world.ledger.tick();
        report.note(format!("{} (tick {tick}) {what}", time_of_day()));
    }
}

/// The partition of a root: its CRC16 (XMODEM, as in the specification of Redis Cluster) modulo 16,384.
pub(crate) fn partition(root: &str) -> u16 {
    let crc = root.bytes().fold(0u16, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(byte) << 8), |crc, _| {
            let carry = crc & 0x8000 != 0;
            (crc << 1) ^ if carry { 0x1021 } else { 0 }
        })
    });
    crc % 16_384
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_is_the_slot_of_redis_cluster() {
        assert_eq!(
            partition("123456789"),
            0x31C3,
            "the specification's example"
        );
        assert_eq!(partition("foo"), 12_182, "what CLUSTER KEYSLOT says");
    }
}
