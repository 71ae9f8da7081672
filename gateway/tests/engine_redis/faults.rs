//! What a node does when its server hangs, is cut off, restarts, goes back in time, or is out of memory.

use std::time::{Duration, Instant};

use gateway::engine::redis::keys::Keys;
use gateway::engine::redis::options::{ConnectOptions, Policy};
use gateway::engine::{Engine, EngineError};
use gateway::message::SessionId;

use crate::servers::Server;
use crate::support::{Node, Proxy, contents, home, options, publish, put};

const ALICE: SessionId = SessionId(1);

fn start(connect: ConnectOptions) -> Node {
    let mut node = Node::open(options(connect, 1));
    node.claim(home(ALICE), 1);
    node.one(put(ALICE));
    node
}

/// Real time, of which these tests check bounds.
#[expect(clippy::disallowed_methods, reason = "what is bounded is real time")]
fn now() -> Instant {
    Instant::now()
}

#[test]
fn a_cut_in_the_middle_of_a_batch_changes_nothing() {
    let server = Server::start(&[]);
    let proxy = Proxy::start(server.port);
    let url = format!("redis://127.0.0.1:{}", proxy.port);
    let mut node = start(ConnectOptions::from_urls(&[url]).expect("a URL"));
    let (mut next, mut cuts) = (0, 0);
    for bytes in (0..6_000).step_by(97) {
        proxy.cut_after(bytes);
        let batch: Vec<_> = (0..5)
            .map(|_| {
                next += 1;
                (0, publish(next, &[ALICE], 200))
            })
            .collect();
        let answers = node.commit(&batch);
        assert_eq!(answers.len(), 10, "each is appended and answered once");
        cuts += u32::from(!proxy.is_armed());
    }
    assert!(cuts > 10, "{cuts} cuts");
    let expected: Vec<_> = (1..=next).collect();
    assert_eq!(node.numbers(ALICE), expected);
    let found = contents(options(server.options(), 1), 2, &[ALICE]);
    assert_eq!(found[&ALICE], expected);
}

#[test]
fn a_server_that_hangs_costs_the_timeout_and_no_more() {
    let server = Server::start(&[]);
    let mut connect = server.options();
    connect.timeout = Duration::from_millis(300);
    let mut node = start(connect);
    let batch = [(0, publish(1, &[ALICE], 8))];
    server.signal("-STOP");
    for _ in 0..3 {
        let begin = now();
        let error = node.attempt(&batch).expect_err("nobody answers");
        assert!(matches!(error, EngineError::Server { .. }), "{error:?}");
        let took = begin.elapsed();
        assert!(took < Duration::from_secs(2), "{took:?}");
    }
    server.signal("-CONT");
    assert_eq!(node.commit(&batch).len(), 2);
    assert_eq!(
        node.numbers(ALICE),
        [1],
        "what was sent four times is there once"
    );
}

#[test]
fn a_server_that_restarts_has_what_was_answered() {
    let mut server = Server::durable();
    let mut opened = options(server.options(), 1);
    opened.policy = Policy::Aof;
    let mut node = Node::open(opened.clone());
    node.claim(home(ALICE), 1);
    node.one(put(ALICE));
    let mut next = 0;
    for _ in 0..5 {
        for _ in 0..20 {
            next += 1;
            node.one(publish(next, &[ALICE], 100));
        }
        server.kill();
        let batch = [(0, publish(next + 1, &[ALICE], 100))];
        assert!(node.attempt(&batch).is_err());
        server.start_again();
        node.commit(&batch);
        next += 1;
    }
    assert_eq!(
        contents(opened, 2, &[ALICE])[&ALICE],
        (1..=next).collect::<Vec<_>>()
    );
}

#[test]
fn a_claim_that_a_server_lost_is_made_again_and_said() {
    let server = Server::start(&[]);
    let mut node = start(server.options());
    node.one(publish(1, &[ALICE], 8));
    node.one(publish(2, &[ALICE], 8));
    // As after a failover to a replica that did not have everything: the claim and a message are gone.
    let keys = Keys::new(&options(server.options(), 1).prefix);
    let mailbox = keys.key(home(ALICE), "m:1");
    assert_eq!(server.cli(&["DEL", &keys.key(home(ALICE), "f")]), "1");
    let fields = server.cli(&["HKEYS", &mailbox]);
    let newest = fields.lines().last().expect("a message");
    assert_eq!(server.cli(&["HDEL", &mailbox, newest]), "1");
    let batch = [(0, publish(3, &[ALICE], 8))];
    let error = node.attempt(&batch).expect_err("it is said once");
    assert!(error.to_string().contains("lost the claim"), "{error}");
    assert_eq!(node.attempt(&batch).expect("works again").len(), 2);
    assert_eq!(node.numbers(ALICE), [1, 3]);
    let found = contents(options(server.options(), 1), 2, &[ALICE]);
    assert_eq!(found[&ALICE], [1, 3]);
}

#[test]
fn a_server_without_memory_is_full() {
    let server = Server::start(&["maxmemory-policy noeviction"]);
    let mut node = start(server.options());
    server.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    let batch = [(0, publish(1, &[ALICE], 8))];
    let error = node.attempt(&batch).expect_err("no memory");
    assert!(matches!(error, EngineError::Full { .. }), "{error:?}");
    server.cli(&["CONFIG", "SET", "maxmemory", "0"]);
    assert_eq!(node.attempt(&batch).expect("memory").len(), 2);
}

#[test]
fn forgotten_scripts_are_loaded_again() {
    let server = Server::start(&[]);
    let mut node = start(server.options());
    server.cli(&["SCRIPT", "FLUSH"]);
    node.attempt(&[(0, publish(1, &[ALICE], 8))])
        .expect("loads them");
    assert_eq!(node.numbers(ALICE), [1]);
}

#[test]
fn without_a_replica_nothing_is_answered_that_promises_one() {
    let server = Server::start(&[]);
    let mut connect = server.options();
    connect.timeout = Duration::from_millis(400);
    let mut opened = options(connect, 1);
    opened.policy = Policy::Replica(1);
    let mut node = Node::open(opened);
    let claim = [(0, crate::support::claim(home(ALICE), 1))];
    let error = node.attempt(&claim).expect_err("no replica");
    assert!(error.to_string().contains("0 of 1 confirmed"), "{error}");
    let _replica = Server::replica_of(&server, &[]);
    assert_eq!(node.commit(&claim).len(), 1);
    node.one(put(ALICE));
    node.one(publish(1, &[ALICE], 8));
    assert!(node.engine.sync().is_ok());
}
