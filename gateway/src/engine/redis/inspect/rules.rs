//! What has to be true of servers so that they keep the promises of a policy, each rule with its reason.

use super::facts::{Facts, ServerFacts};
use super::{Finding, Offer, Severity, Wanted};
use crate::config::Durability;

/// First version that knows everything that is used: WAITAOF came with it.
const VERSION_MIN: [u32; 3] = [7, 2, 0];
/// A clock further off than this makes messages expire early or late by as much.
const SKEW_MS_MAX: u64 = 2_000;
/// Above this part of its memory, in percent, a server is nearly full.
const MEMORY_PERCENT_MAX: u64 = 80;

/// Collects findings.
pub(super) struct Rules<'a> {
    pub(super) facts: &'a Facts,
    pub(super) wanted: &'a Wanted,
    findings: Vec<Finding>,
}

/// Everything there is to say about servers, and the policy that holds with them.
pub(super) fn judge(facts: &Facts, wanted: &Wanted) -> (Vec<Finding>, Offer) {
    let offer = Offer::of(facts);
    let durability = match wanted.durability {
        Durability::Auto => offer.strongest(),
        chosen => chosen,
    };
    let mut rules = Rules {
        facts,
        wanted,
        findings: Vec::new(),
    };
    rules.shape();
    for server in &facts.servers {
        rules.version(server);
        rules.memory(server);
        rules.disk(server);
        rules.clock(server);
        rules.unreadable(server, durability);
    }
    for primary in facts.primaries() {
        rules.append_only(primary, durability);
        rules.replicas(primary, durability);
        rules.least_replicas(primary, durability);
    }
    if uses_disk_of_replicas(durability) {
        for replica in facts.replicas() {
            rules.append_only(replica, durability);
        }
    }
    if facts.primaries().next().is_some() {
        rules.policy(durability);
    }
    rules.findings.sort_by_key(|finding| finding.severity);
    (rules.findings, offer)
}

fn uses_disk(durability: Durability) -> bool {
    matches!(durability, Durability::Aof | Durability::ReplicaAof)
}

fn uses_disk_of_replicas(durability: Durability) -> bool {
    durability == Durability::ReplicaAof
}

fn uses_replicas(durability: Durability) -> bool {
    matches!(durability, Durability::Replica | Durability::ReplicaAof)
}

impl Rules<'_> {
    pub(super) fn say(
        &mut self,
        severity: Severity,
        server: impl ToString,
        setting: &str,
        found: impl ToString,
        right: &str,
        why: &str,
    ) {
        self.findings.push(Finding {
            severity,
            server: server.to_string(),
            setting: setting.to_owned(),
            found: found.to_string(),
            right: right.to_owned(),
            why: why.to_owned(),
        });
    }

    fn refuse(
        &mut self,
        server: &ServerFacts,
        setting: &str,
        found: impl ToString,
        right: &str,
        why: &str,
    ) {
        self.say(
            Severity::Refuse,
            &server.address,
            setting,
            found,
            right,
            why,
        );
    }

    fn warn(
        &mut self,
        server: &ServerFacts,
        setting: &str,
        found: impl ToString,
        right: &str,
        why: &str,
    ) {
        self.say(Severity::Warn, &server.address, setting, found, right, why);
    }

    fn version(&mut self, server: &ServerFacts) {
        let version = server.version();
        if version.number < VERSION_MIN {
            let why = "it cannot wait for its disk (WAITAOF), which came with 7.2";
            self.refuse(
                server,
                "version",
                version,
                "Valkey 7.2 or Redis 7.2, or later",
                why,
            );
        }
        if server.info.text("loading") == "1" {
            let why = "it reads its data and answers nothing else until then; wait";
            self.refuse(server, "loading", "1", "0", why);
        }
    }

    fn memory(&mut self, server: &ServerFacts) {
        let policy = server.info.text("maxmemory_policy");
        if !matches!(policy, "noeviction" | "") {
            let why = "any other drops stored sessions and messages when memory is short, acknowledged ones too";
            self.refuse(server, "maxmemory-policy", policy, "noeviction", why);
        }
        let used = server.info.number("used_memory").unwrap_or(0);
        let (name, limit) = match server.info.number("maxmemory") {
            Some(limit) if limit > 0 => ("maxmemory", limit),
            _ => (
                "total_system_memory",
                server.info.number("total_system_memory").unwrap_or(0),
            ),
        };
        if name != "maxmemory" {
            let why = "without a bound the system kills it when memory is short; a bound makes it refuse what is new, and the nodes wait";
            self.warn(
                server,
                "maxmemory",
                "0",
                "about two thirds of the memory that it may use",
                why,
            );
        }
        if limit > 0 && used.saturating_mul(100) >= limit.saturating_mul(MEMORY_PERCENT_MAX) {
            let found = format!("{used} of {limit} bytes ({name})");
            let why = "when it is full, nothing more is stored, and publishers of QoS 1 and 2 are not read; give it more, or more shards";
            self.warn(server, "used_memory", found, "less than 80 %", why);
        }
    }

    /// What went wrong lately when it wrote to its disk.
    fn disk(&mut self, server: &ServerFacts) {
        let info = &server.info;
        if info.text("aof_last_write_status") == "err" {
            let why = "it could not write its append-only file (disk full?) and refuses all that is to be stored";
            self.refuse(server, "aof_last_write_status", "err", "ok", why);
        }
        if info.text("aof_last_bgrewrite_status") == "err" {
            let why = "its append-only file was not made shorter and goes on growing; free disk and memory";
            self.warn(server, "aof_last_bgrewrite_status", "err", "ok", why);
        }
        if info.text("rdb_last_bgsave_status") != "err" {
            return;
        }
        let right = "ok";
        match server.settings.text("stop-writes-on-bgsave-error") {
            Some("no") => {
                let why =
                    "its last snapshot failed, and a new replica needs one; free disk and memory";
                self.warn(server, "rdb_last_bgsave_status", "err", right, why);
            }
            _ => {
                let why = "its last snapshot failed, and it refuses all that is to be stored until one works; free disk and memory";
                self.refuse(server, "rdb_last_bgsave_status", "err", right, why);
            }
        }
    }

    fn clock(&mut self, server: &ServerFacts) {
        if server.ahead_ms.unsigned_abs() > SKEW_MS_MAX {
            let found = format!(
                "{} ms {}",
                server.ahead_ms.unsigned_abs(),
                if server.ahead_ms > 0 {
                    "ahead"
                } else {
                    "behind"
                }
            );
            let why = "what has a time to live goes too early or too late by as much; synchronise the clocks (NTP)";
            self.warn(server, "clock", found, "within 2 s of this machine", why);
        }
    }

    /// Managed services forbid CONFIG: what follows from that.
    fn unreadable(&mut self, server: &ServerFacts, durability: Durability) {
        let super::facts::Settings::Forbidden(said) = &server.settings else {
            return;
        };
        let severity = if uses_disk(durability) {
            Severity::Warn
        } else {
            Severity::Info
        };
        let said = said.to_string();
        let why = "appendfsync, min-replicas-to-write and stop-writes-on-bgsave-error could not be checked; look them up where the service is \
                   set up, or allow `CONFIG GET`";
        self.say(
            severity,
            &server.address,
            "CONFIG GET",
            said,
            "allowed",
            why,
        );
    }

    fn append_only(&mut self, server: &ServerFacts, durability: Durability) {
        let fsync = server.settings.text("appendfsync");
        if !server.has_aof() {
            if uses_disk(durability) {
                let why = "engine.durability waits for the append-only file, and without one no answer ever comes";
                self.refuse(server, "appendonly", "no", "yes", why);
            } else {
                let why = "what is stored is in memory alone: it is lost when all copies of it restart together";
                self.warn(server, "appendonly", "no", "yes", why);
            }
            return;
        }
        match (fsync, uses_disk(durability)) {
            (Some("no"), true) => {
                let why = "the file is synced when the system likes, up to half a minute later, and every answer waits for it";
                self.refuse(server, "appendfsync", "no", "always", why);
            }
            (Some("everysec"), true) => {
                let why = "the file is synced once a second, and every answer waits for it, so that acknowledgements take up to a second; engine.timeout has to \
                           be 2s or more";
                self.warn(server, "appendfsync", "everysec", "always", why);
            }
            (Some("no"), false) => {
                let why = "a loss of power on all copies takes away what the system had not written, up to half a minute";
                self.warn(server, "appendfsync", "no", "everysec", why);
            }
            _ => {}
        }
        if server.settings.text("no-appendfsync-on-rewrite") == Some("yes") && uses_disk(durability)
        {
            let why = "nothing is synced while the file is rewritten, and every answer waits until that is over";
            self.warn(server, "no-appendfsync-on-rewrite", "yes", "no", why);
        }
    }

    fn replicas(&mut self, primary: &ServerFacts, durability: Durability) {
        let online = primary.replicas_online();
        let is_served = self.facts.cluster.as_ref().is_none_or(|cluster| {
            let mut nodes = cluster.nodes.iter();
            nodes.all(|node| node.address != primary.address || node.slots > 0)
        });
        if !is_served {
            return; // A primary without slots stores nothing.
        }
        if online == 0 && uses_replicas(durability) {
            let why = "engine.durability waits for a replica, and without one no answer ever comes";
            self.refuse(primary, "replicas", "0", "1 or more", why);
        } else if online == 0 {
            let why = "when this server is gone, so is what it stores until it is back, for good if its disk is gone";
            self.warn(primary, "replicas", "0", "1 or more", why);
        } else if online == 1 && uses_replicas(durability) {
            let why =
                "while this one is gone nothing is acknowledged; with two, one of them may go";
            self.say(Severity::Info, &primary.address, "replicas", "1", "2", why);
        }
    }

    fn least_replicas(&mut self, primary: &ServerFacts, durability: Durability) {
        let online = u64::from(primary.replicas_online());
        match primary.settings.number("min-replicas-to-write") {
            Some(least) if least > online => {
                let why = "with fewer replicas than this it refuses all that is to be stored";
                self.refuse(
                    primary,
                    "min-replicas-to-write",
                    least,
                    &format!("{online}, or as many replicas"),
                    why,
                );
            }
            Some(0) if uses_replicas(durability) && online > 0 => {
                let why = "a primary that is cut off from its replicas goes on taking what will be thrown away; nothing of it is \
                           acknowledged, but its memory fills";
                self.say(
                    Severity::Info,
                    &primary.address,
                    "min-replicas-to-write",
                    "0",
                    "1",
                    why,
                );
            }
            _ => {}
        }
    }

    /// What the policy itself does not promise.
    fn policy(&mut self, durability: Durability) {
        let found = durability.word();
        match durability {
            Durability::Memory => {
                let why = "what was acknowledged is lost when its server restarts or fails over; give it a replica, or an append-only file";
                self.say(
                    Severity::Warn,
                    "engine",
                    "engine.durability",
                    found,
                    "replica, aof or replica-aof",
                    why,
                );
            }
            Durability::Aof
                if self
                    .facts
                    .primaries()
                    .any(|primary| primary.replicas_online() > 0) =>
            {
                let why = "there are replicas, and it does not wait for them: a failover loses what the new primary did not have yet";
                self.say(
                    Severity::Warn,
                    "engine",
                    "engine.durability",
                    found,
                    "replica or replica-aof",
                    why,
                );
            }
            Durability::Replica if self.facts.primaries().any(|primary| !primary.has_aof()) => {
                let why = "copies in memory only: a loss of power on all of them loses everything";
                self.say(
                    Severity::Info,
                    "engine",
                    "engine.durability",
                    found,
                    "replica-aof, or appendonly yes",
                    why,
                );
            }
            _ => {}
        }
    }
}
