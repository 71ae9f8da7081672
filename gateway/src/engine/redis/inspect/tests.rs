//! What is said of servers that no test can start: old ones, broken ones, far ones.

use super::facts::{ClusterFacts, ClusterNode, Facts, Lines, ServerFacts, Settings};
use super::{Report, Severity, Wanted};
use crate::config::{Durability, EngineMode};
use crate::engine::redis::options::Address;

const GOOD: &str = "valkey_version:8.1.8\nredis_version:7.2.4\nredis_mode:standalone\nrole:master\nconnected_slaves:0\n\
                    aof_enabled:1\naof_last_write_status:ok\nrdb_last_bgsave_status:ok\nmaxmemory:1000\n\
                    maxmemory_policy:noeviction\nused_memory:10\nloading:0\n";

fn server(changes: &[(&str, &str)], settings: &[(&str, &str)]) -> ServerFacts {
    let mut text = GOOD.to_owned();
    for (name, value) in changes {
        text += &format!("{name}:{value}\n"); // The later line counts.
    }
    let settings = settings
        .iter()
        .map(|(name, value)| ((*name).into(), (*value).into()));
    ServerFacts {
        address: Address {
            host: "10.0.0.1".into(),
            port: 6379,
        },
        info: Lines::parse(&text),
        settings: Settings::Known(settings.collect()),
        ahead_ms: 0,
    }
}

fn facts(server: ServerFacts) -> Facts {
    Facts {
        servers: vec![server],
        silent: Vec::new(),
        cluster: None,
    }
}

fn judged(facts: Facts, mode: EngineMode, severity: Severity) -> Vec<String> {
    let wanted = Wanted {
        mode,
        durability: Durability::Aof,
    };
    let findings = Report::of(facts, &wanted).findings.into_iter();
    let found = findings.filter(|finding| finding.severity == severity);
    found.map(|finding| finding.setting).collect()
}

fn refused(changes: &[(&str, &str)]) -> Vec<String> {
    judged(
        facts(server(changes, &[("appendfsync", "always")])),
        EngineMode::Auto,
        Severity::Refuse,
    )
}

#[test]
fn a_good_server_is_not_refused_and_a_bad_one_is_by_what_is_bad() {
    assert_eq!(refused(&[]), [""; 0]);
    assert_eq!(
        refused(&[("valkey_version", ""), ("redis_version", "7.0.15")]),
        ["version"]
    );
    assert_eq!(
        refused(&[("valkey_version", ""), ("redis_version", "7.2.0")]),
        [""; 0]
    );
    assert_eq!(refused(&[("valkey_version", "9.1.2")]), [""; 0]);
    assert_eq!(refused(&[("loading", "1")]), ["loading"]);
    assert_eq!(
        refused(&[("aof_last_write_status", "err")]),
        ["aof_last_write_status"]
    );
    assert_eq!(
        refused(&[("rdb_last_bgsave_status", "err")]),
        ["rdb_last_bgsave_status"]
    );
    assert_eq!(
        refused(&[("maxmemory_policy", "volatile-ttl")]),
        ["maxmemory-policy"]
    );
    assert_eq!(refused(&[("aof_enabled", "0")]), ["appendonly"]);
    assert_eq!(
        refused(&[("redis_mode", "sentinel"), ("role", "sentinel")]),
        ["redis_mode"]
    );
    let cluster_wanted = judged(
        facts(server(&[], &[])),
        EngineMode::Cluster,
        Severity::Refuse,
    );
    assert_eq!(cluster_wanted, ["cluster_enabled"]);
}

#[test]
fn two_primaries_without_a_cluster_are_no_store() {
    let mut both = facts(server(&[], &[]));
    both.servers.push(server(&[], &[]));
    assert_eq!(judged(both, EngineMode::Auto, Severity::Refuse), ["role"]);
}

#[test]
fn a_clock_that_is_far_off_and_little_memory_are_told() {
    let mut late = server(&[("used_memory", "900")], &[("appendfsync", "always")]);
    late.ahead_ms = -3_000;
    let mut warned = judged(facts(late), EngineMode::Auto, Severity::Warn);
    warned.sort();
    assert_eq!(warned, ["clock", "replicas", "used_memory"]);
}

fn node(port: u16, primary: Option<&str>, slots: u32, failed: bool) -> ClusterNode {
    ClusterNode {
        address: Address {
            host: "10.0.0.1".into(),
            port,
        },
        id: port.to_string().into(),
        primary: primary.map(Into::into),
        slots,
        failed,
    }
}

fn clustered(state: &str, nodes: Vec<ClusterNode>) -> Facts {
    let info = [
        ("redis_mode", "cluster"),
        ("connected_slaves", "1"),
        ("slave0", "ip=a,port=1,state=online"),
    ];
    Facts {
        cluster: Some(ClusterFacts {
            info: Lines::parse(&format!("cluster_state:{state}\n")),
            nodes,
        }),
        ..facts(server(&info, &[("appendfsync", "always")]))
    }
}

#[test]
fn a_cluster_serves_every_slot_from_members_that_live() {
    let nodes = |failed| {
        vec![
            node(6379, None, 8_192, false),
            node(2, None, 8_192, failed),
            node(3, Some("2"), 0, false),
        ]
    };
    let refused = |facts| judged(facts, EngineMode::Auto, Severity::Refuse);
    assert_eq!(refused(clustered("ok", nodes(false))), [""; 0]);
    assert_eq!(refused(clustered("ok", nodes(true))), ["slots served"]);
    assert_eq!(refused(clustered("fail", nodes(false))), ["cluster_state"]);
    let warned = judged(
        clustered("ok", nodes(false)),
        EngineMode::Auto,
        Severity::Warn,
    );
    assert!(warned.contains(&"primaries".to_owned()), "{warned:?}");
}

#[test]
fn one_replica_of_several_may_be_gone() {
    let replicas = |count: u32| {
        let mut changes = vec![("connected_slaves".to_owned(), count.to_string())];
        changes.extend((0..count).map(|number| {
            (
                format!("slave{number}"),
                "ip=a,port=1,state=online".to_owned(),
            )
        }));
        let changes: Vec<_> = changes
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        let wanted = Wanted {
            mode: EngineMode::Auto,
            durability: Durability::Replica,
        };
        Report::of(facts(server(&changes, &[])), &wanted).replicas_waited_for()
    };
    assert_eq!([1, 2, 3].map(replicas), [1, 1, 2]);
}
