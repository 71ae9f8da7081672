//! A cluster that loses a primary, and one whose slots move, while a node writes.

use std::collections::BTreeMap;
use std::process::{Child, Command as Process, Stdio};
use std::thread;
use std::time::Duration;

use gateway::engine::Command;
use gateway::engine::redis::options::{Policy, RedisOptions};
use gateway::message::SessionId;

use crate::servers::{Server, cluster, eventually, program};
use crate::support::{Node, contents, home, options, publish, put};

const SESSIONS: u64 = 60;

fn sessions() -> Vec<SessionId> {
    (1..=SESSIONS).map(SessionId).collect()
}

/// A node that has claimed the homes of all sessions, and made them.
fn start(options: &RedisOptions) -> Node {
    let mut node = Node::open(options.clone());
    for session in sessions() {
        node.claim(home(session), 1);
        node.one(put(session));
    }
    node
}

/// What was written to each session: nothing yet.
fn nothing() -> BTreeMap<SessionId, Vec<u64>> {
    sessions()
        .into_iter()
        .map(|session| (session, Vec::new()))
        .collect()
}

/// One batch: a message to each of some sessions. Notes what it writes.
fn batch(next: &mut u64, written: &mut BTreeMap<SessionId, Vec<u64>>) -> Vec<(u16, Command)> {
    let publish = |offset| {
        *next += 1;
        let session = SessionId(1 + (*next * 7 + offset) % SESSIONS);
        written.entry(session).or_default().push(*next);
        (0, publish(*next, &[session], 50))
    };
    (0..10).map(publish).collect()
}

fn write(node: &mut Node, next: &mut u64, written: &mut BTreeMap<SessionId, Vec<u64>>) {
    node.commit(&batch(next, written));
}

#[test]
fn a_killed_primary_takes_nothing_that_was_answered() {
    let mut primaries = cluster(&[]);
    let mut replicas: Vec<_> = primaries.iter().map(cluster_replica).collect();
    let mut opened = options(primaries[0].options(), 1);
    opened.connect.seeds.push(replicas[1].address());
    opened.policy = Policy::Replica(1);
    let mut node = start(&opened);
    let (mut next, mut written) = (0, nothing());
    for victim in 0..2 {
        for _ in 0..30 {
            write(&mut node, &mut next, &mut written);
        }
        // What the replica does not have yet is not answered, and so not lost.
        let replica = &replicas[victim];
        replica.signal("-STOP");
        primaries[victim].cli(&["CLIENT", "KILL", "TYPE", "replica"]);
        let late: Vec<_> = (0..6)
            .flat_map(|_| batch(&mut next, &mut written))
            .collect();
        let answered = node.attempt(&late).is_ok();
        primaries[victim].kill();
        replica.signal("-CONT");
        eventually("the replica takes over", || {
            replica
                .cli(&["INFO", "replication"])
                .contains("role:master")
        });
        // The new primary has no replica until the old one is one.
        primaries[victim].start_again();
        if !answered {
            node.commit(&late);
        }
        for _ in 0..30 {
            write(&mut node, &mut next, &mut written);
        }
    }
    assert_eq!(contents(opened, 2, &sessions()), written);
    replicas.clear();
}

/// A replica of a primary of a cluster, once it has everything.
fn cluster_replica(primary: &Server) -> Server {
    let replica = Server::start(&[
        "cluster-enabled yes",
        "cluster-node-timeout 2000",
        "repl-diskless-sync-delay 0",
    ]);
    let port = primary.port.to_string();
    assert_eq!(replica.cli(&["CLUSTER", "MEET", "127.0.0.1", &port]), "OK");
    let id = primary.cli(&["CLUSTER", "MYID"]);
    eventually("it knows its primary", || {
        replica.cli(&["CLUSTER", "NODES"]).contains(&id)
    });
    eventually("it follows", || {
        replica.cli(&["CLUSTER", "REPLICATE", &id]) == "OK"
    });
    eventually("it has everything", || {
        let found = primary.cli(&["INFO", "replication"]);
        found.contains(&format!("port={},state=online", replica.port))
    });
    replica
}

fn reshard(from: &Server, to: &Server, slots: u32) -> Child {
    Process::new(program("valkey-cli"))
        .args(["--cluster", "reshard", &from.address().to_string()])
        .args(["--cluster-from", &from.cli(&["CLUSTER", "MYID"])])
        .args(["--cluster-to", &to.cli(&["CLUSTER", "MYID"])])
        .args(["--cluster-slots", &slots.to_string(), "--cluster-yes"])
        .stdout(Stdio::null())
        .spawn()
        .expect("it runs")
}

#[test]
fn slots_that_move_while_a_node_writes_lose_nothing() {
    let servers = cluster(&[]);
    let opened = options(servers[2].options(), 1);
    let mut node = start(&opened);
    let (mut next, mut written) = (0, nothing());
    for (from, to) in [(0, 1), (1, 2)] {
        let mut moving = reshard(&servers[from], &servers[to], 2_000);
        loop {
            write(&mut node, &mut next, &mut written);
            match moving.try_wait().expect("it runs") {
                Some(status) => {
                    assert!(status.success());
                    break;
                }
                None => thread::park_timeout(Duration::from_millis(1)),
            }
        }
    }
    write(&mut node, &mut next, &mut written);
    let moved = sessions()
        .into_iter()
        .filter(|session| home(*session) < 2_000)
        .count();
    assert!(moved > 0, "some of the sessions moved");
    assert_eq!(contents(opened, 2, &sessions()), written);
}

#[test]
fn a_primary_without_a_cluster_is_found_when_it_changes() {
    let mut primary = Server::start(&[]);
    let replica = Server::replica_of(&primary, &[]);
    let mut opened = options(primary.options(), 1);
    opened.connect.seeds.push(replica.address());
    opened.policy = Policy::Replica(1);
    let mut node = start(&opened);
    let (mut next, mut written) = (0, nothing());
    write(&mut node, &mut next, &mut written);
    primary.kill();
    replica.cli(&["REPLICAOF", "NO", "ONE"]);
    let follower = Server::replica_of(&replica, &[]);
    write(&mut node, &mut next, &mut written);
    assert_eq!(contents(opened, 2, &sessions()), written);
    drop(follower);
}
