//! What is said of real servers: good ones, and ones that would break a promise.

use gateway::config::{Durability, EngineMode};
use gateway::engine::redis::inspect::{Report, Severity, Wanted, ask};
use gateway::engine::redis::options::{ConnectOptions, Policy};

use crate::servers::{Server, cluster};

fn report(options: &ConnectOptions, durability: Durability) -> Report {
    let wanted = Wanted {
        mode: EngineMode::Auto,
        durability,
    };
    Report::of(ask(options), &wanted)
}

/// The settings that are found with a severity.
fn said(report: &Report, severity: Severity) -> Vec<&str> {
    let findings = report.findings.iter();
    let found = findings.filter(|finding| finding.severity == severity);
    found.map(|finding| finding.setting.as_str()).collect()
}

fn refused(server: &Server, durability: Durability) -> Vec<String> {
    let report = report(&server.options(), durability);
    let refused = said(&report, Severity::Refuse);
    assert_eq!(report.is_good(), refused.is_empty());
    refused.into_iter().map(str::to_owned).collect()
}

#[test]
fn auto_is_what_the_server_is_set_up_for() {
    let strict = ["appendonly yes", "appendfsync always", "maxmemory 1gb"];
    let primary = Server::start(&strict);
    let alone = report(&primary.options(), Durability::Auto);
    assert_eq!(
        (alone.durability, alone.policy),
        (Durability::Aof, Policy::Aof)
    );
    assert!(
        alone.summary().starts_with("Valkey 8.1."),
        "{}",
        alone.summary()
    );
    assert!(alone.is_good(), "{:?}", alone.findings);

    let _one = Server::replica_of(&primary, &strict);
    let two = report(&primary.options(), Durability::Auto);
    assert_eq!(
        (two.durability, two.policy),
        (Durability::ReplicaAof, Policy::ReplicaAof(1))
    );
    assert_eq!(said(&two, Severity::Warn), [""; 0]);
    assert_eq!(
        said(&two, Severity::Info),
        ["replicas", "min-replicas-to-write"]
    );

    let _other = Server::replica_of(&primary, &["appendonly yes", "maxmemory 1gb"]);
    let three = report(&primary.options(), Durability::Auto);
    assert_eq!(
        (three.durability, three.policy),
        (Durability::Replica, Policy::Replica(1))
    );
    assert!(
        three.summary().ends_with("1 primary, 2 replicas"),
        "{}",
        three.summary()
    );

    let memory = Server::start(&[]);
    let memory = report(&memory.options(), Durability::Auto);
    assert_eq!(
        (memory.durability, memory.policy),
        (Durability::Memory, Policy::Memory)
    );
    assert!(said(&memory, Severity::Warn).contains(&"engine.durability"));
    assert!(memory.is_good());
}

#[test]
fn settings_against_a_policy_are_refused() {
    let memory = Server::start(&[]);
    assert_eq!(refused(&memory, Durability::Memory), [""; 0]);
    assert_eq!(refused(&memory, Durability::Aof), ["appendonly"]);
    assert_eq!(refused(&memory, Durability::Replica), ["replicas"]);
    assert_eq!(
        refused(&memory, Durability::ReplicaAof),
        ["appendonly", "replicas"]
    );

    memory.cli(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
    memory.cli(&["CONFIG", "SET", "min-replicas-to-write", "1"]);
    assert_eq!(
        refused(&memory, Durability::Memory),
        ["maxmemory-policy", "min-replicas-to-write"]
    );

    let lazy = Server::start(&["appendonly yes", "appendfsync no"]);
    assert_eq!(refused(&lazy, Durability::Aof), ["appendfsync"]);
    lazy.cli(&["CONFIG", "SET", "appendfsync", "everysec"]);
    let report = report(&lazy.options(), Durability::Aof);
    assert!(report.is_good());
    assert!(said(&report, Severity::Warn).contains(&"appendfsync"));
}

#[test]
fn a_failed_snapshot_and_full_memory_are_told() {
    let server = Server::start(&[]);
    server.cli(&["SET", "a", "b"]);
    std::fs::create_dir(server.folder.join("dump.rdb")).expect("a folder in place of the file");
    server.cli(&["BGSAVE"]);
    crate::servers::eventually("the snapshot failed", || {
        server
            .cli(&["INFO", "persistence"])
            .contains("rdb_last_bgsave_status:err")
    });
    assert_eq!(
        refused(&server, Durability::Memory),
        ["rdb_last_bgsave_status"]
    );
    server.cli(&["CONFIG", "SET", "stop-writes-on-bgsave-error", "no"]);
    server.cli(&["CONFIG", "SET", "maxmemory", "1000000"]);
    let report = report(&server.options(), Durability::Memory);
    let warned = said(&report, Severity::Warn);
    assert!(
        warned.contains(&"rdb_last_bgsave_status") && warned.contains(&"used_memory"),
        "{warned:?}"
    );
}

#[test]
fn what_may_not_be_read_is_said_and_the_password_never_is() {
    let server = Server::start(&["appendonly yes", "requirepass hunter2"]);
    let none = report(&server.options(), Durability::Aof);
    assert!(!none.is_good());
    assert!(
        none.findings
            .iter()
            .any(|finding| finding.found.contains("NOAUTH")),
        "{:?}",
        none.findings
    );

    server.cli(&[
        "-a", "hunter2", "ACL", "SETUSER", "gateway", "on", ">hunter3", "~*", "+@all", "-config",
    ]);
    let options = ConnectOptions {
        username: Some("gateway".into()),
        password: Some("hunter3".to_owned().into()),
        ..server.options()
    };
    let report = report(&options, Durability::Aof);
    assert!(report.is_good(), "{:?}", report.findings);
    let finding = report
        .findings
        .iter()
        .find(|finding| finding.setting == "CONFIG GET");
    let finding = finding.expect("it is said");
    assert!(finding.found.contains("NOPERM"), "{finding:?}");
    assert!(finding.why.contains("appendfsync"), "{finding:?}");
    assert!(!format!("{report:?}").contains("hunter"));
}

#[test]
fn a_cluster_is_seen_as_a_whole() {
    let mut servers = cluster(&["appendonly yes", "appendfsync always"]);
    let options = servers[0].options();
    let good = report(&options, Durability::Auto);
    assert!(good.is_good(), "{:?}", good.findings);
    assert_eq!(
        (good.durability, good.facts.servers.len()),
        (Durability::Aof, 3)
    );
    let wanted = Wanted {
        mode: EngineMode::Single,
        durability: Durability::Auto,
    };
    let single = Report::of(ask(&options), &wanted);
    assert_eq!(said(&single, Severity::Refuse), ["cluster_enabled"]);

    let gone = servers.pop().expect("three");
    drop(gone);
    crate::servers::eventually("the others see it", || {
        servers[0]
            .cli(&["CLUSTER", "INFO"])
            .contains("cluster_state:fail")
    });
    let broken = report(&options, Durability::Auto);
    let refused = said(&broken, Severity::Refuse);
    assert!(
        refused.contains(&"cluster_state") && refused.contains(&"slots served"),
        "{refused:?}"
    );
}

#[test]
fn nobody_at_all_is_no_store() {
    let server = Server::start(&[]);
    let options = server.options();
    drop(server);
    let nobody = report(&options, Durability::Auto);
    assert_eq!(said(&nobody, Severity::Refuse), ["role"]);
    assert_eq!(said(&nobody, Severity::Warn), ["connection"; 1]);
}

#[test]
fn a_replica_alone_is_refused_with_its_primary_found() {
    let primary = Server::durable();
    let replica = Server::replica_of(&primary, &[]);
    let found = report(&replica.options(), Durability::Auto);
    assert!(
        said(&found, Severity::Refuse).is_empty(),
        "{:?}",
        found.findings
    );
    assert_eq!(found.facts.primaries().count(), 1, "the replica names it");
}
