//! The store of views: one value that is compared and set, whoever asks, and whatever happens to the server.

use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use cluster::coordinator::{Content, Written};
use cluster::view::{Joining, NodeId, ProtocolRange, View};
use gateway::engine::redis::options::{ConnectOptions, Policy};
use gateway::engine::redis::views::RedisViews;
use gateway::engine::views::ViewStore as _;

use crate::servers::{Server, cluster};

fn joining(uid: u64) -> Joining {
    Joining {
        node: NodeId {
            uid,
            incarnation: 1,
        },
        cores: 2,
        weight: 1,
        gossip: "127.0.0.1:7946".parse().expect("an address"),
        bus: "127.0.0.1:7947".parse().expect("an address"),
        reference: "".into(),
        protocol: ProtocolRange { min: 1, max: 1 },
    }
}

fn view(epoch: u64, uid: u64) -> View {
    View::first(epoch, "test", &joining(uid)).expect("a good view")
}

fn views(server: &Server, policy: Policy) -> RedisViews {
    RedisViews::new(&server.options(), "rs", policy)
}

#[test]
fn a_view_is_stored_and_a_known_one_is_not_sent_again() {
    let server = Server::durable();
    let store = views(&server, Policy::Aof);
    let nothing = store.read(None, true).expect("it answers");
    assert!(matches!(nothing.content, Content::Nothing));
    assert_eq!(nothing.beat, 0);
    let (first, second) = (view(1, 7), view(2, 7));
    let (one, two) = (first.version(), second.version());
    assert_eq!(store.compare_and_set(None, &first, one), Written::Done);
    let Content::View(stored) = store.read(None, false).expect("it answers").content else {
        panic!("a view that is not known is sent");
    };
    assert_eq!(*stored, first);
    let known = store.read(Some(one), false).expect("it answers");
    assert!(matches!(known.content, Content::Known));
    assert_eq!(store.compare_and_set(None, &second, two), Written::Changed);
    assert_eq!(
        store.compare_and_set(Some(two), &second, two),
        Written::Changed
    );
    assert_eq!(
        store.compare_and_set(Some(one), &second, two),
        Written::Done
    );
    assert_eq!(
        server.cli(&["HGET", "{rs:view}", "epoch"]),
        format!("{:016x}", 2)
    );
}

#[test]
fn the_beat_rises_only_for_who_knows_the_view() {
    let server = Server::start(&[]);
    let store = views(&server, Policy::Memory);
    let (first, other) = (view(1, 7), view(1, 8));
    let (one, unknown) = (first.version(), other.version());
    assert_eq!(store.compare_and_set(None, &first, one), Written::Done);
    let beat = |known, beat| store.read(known, beat).expect("it answers").beat;
    assert_eq!(beat(Some(one), true), 1);
    assert_eq!(beat(Some(one), true), 2);
    assert_eq!(beat(Some(one), false), 2);
    assert_eq!(
        beat(Some(unknown), true),
        2,
        "the same epoch with another hash is another view"
    );
    assert_eq!(beat(None, true), 2);
    let second = view(2, 7);
    assert_eq!(
        store.compare_and_set(Some(one), &second, second.version()),
        Written::Done
    );
    assert_eq!(beat(Some(second.version()), true), 3, "it never falls");
}

#[test]
fn of_proposers_that_race_one_wins_each_epoch() {
    const PROPOSERS: u64 = 4;
    const EPOCHS: u64 = 50;
    let servers = cluster(&[]);
    let stores: Vec<_> = (0..PROPOSERS)
        .map(|number| views(&servers[number as usize % 3], Policy::Memory))
        .collect();
    let barrier = Arc::new(Barrier::new(PROPOSERS as usize));
    let threads: Vec<_> = (1..)
        .zip(stores)
        .map(|(uid, store)| {
            let barrier = Arc::clone(&barrier);
            std::thread::spawn(move || {
                let mut won = Vec::new();
                let mut expected = None;
                for epoch in 1..=EPOCHS {
                    let proposal = view(epoch, uid);
                    barrier.wait();
                    match store.compare_and_set(expected, &proposal, proposal.version()) {
                        Written::Done => won.push(epoch),
                        Written::Changed => {}
                        Written::Unknown => panic!("the server answers"),
                    }
                    barrier.wait();
                    let Content::View(stored) =
                        store.read(None, false).expect("it answers").content
                    else {
                        panic!("somebody has won");
                    };
                    assert_eq!(stored.epoch, epoch);
                    expected = Some(stored.version());
                }
                won
            })
        })
        .collect();
    let mut won: Vec<u64> = threads
        .into_iter()
        .flat_map(|thread| thread.join().expect("no panic"))
        .collect();
    won.sort_unstable();
    assert_eq!(won, (1..=EPOCHS).collect::<Vec<_>>());
}

#[test]
fn a_write_that_is_not_confirmed_is_not_known_and_may_be_asked_again() {
    let server = Server::durable();
    let options = ConnectOptions {
        timeout: Duration::from_millis(300),
        ..server.options()
    };
    // There is no replica that could confirm it.
    let store = RedisViews::new(&options, "rs", Policy::Replica(1));
    let (first, other) = (view(1, 7), view(1, 8));
    let write = |store: &RedisViews, view: &View| store.compare_and_set(None, view, view.version());
    assert_eq!(write(&store, &first), Written::Unknown);
    let unconfirmed = views(&server, Policy::Memory);
    assert_eq!(
        write(&unconfirmed, &other),
        Written::Changed,
        "it is stored all the same"
    );
    let _replica = Server::replica_of(&server, &[]);
    let store = views(&server, Policy::Replica(1));
    assert_eq!(write(&store, &first), Written::Done);
    assert_eq!(write(&store, &other), Written::Changed);
}

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "how long it takes is what is tested"
)]
fn a_server_that_fails_gives_errors_in_time_and_is_found_again() {
    let mut server = Server::durable();
    let store = views(&server, Policy::Aof);
    let first = view(1, 7);
    assert_eq!(
        store.compare_and_set(None, &first, first.version()),
        Written::Done
    );
    let in_time = |what: &str, call: &dyn Fn()| {
        let start = Instant::now();
        call();
        let took = start.elapsed();
        assert!(took < Duration::from_millis(2_500), "{what} took {took:?}");
    };
    let second = view(2, 7);
    let fails = || {
        assert!(store.read(Some(first.version()), true).is_err());
    };
    let is_unknown = || {
        let written = store.compare_and_set(Some(first.version()), &second, second.version());
        assert_eq!(written, Written::Unknown);
    };
    server.signal("-STOP");
    in_time("reading from one that hangs", &fails);
    in_time("writing to one that hangs", &is_unknown);
    server.signal("-CONT");
    server.kill();
    in_time("reading from one that is gone", &fails);
    in_time("writing to one that is gone", &is_unknown);
    server.start_again();
    let Content::View(stored) = store.read(None, false).expect("it answers again").content else {
        panic!("it has kept the view");
    };
    // What a server that hung had in its buffers it may have done.
    assert!([&first, &second].contains(&&*stored));
}

#[test]
fn a_replica_that_takes_over_has_the_view() {
    let mut primary = Server::durable();
    let replica = Server::replica_of(&primary, &[]);
    let options = ConnectOptions {
        seeds: vec![primary.address(), replica.address()],
        ..primary.options()
    };
    let store = RedisViews::new(&options, "rs", Policy::Replica(1));
    let (first, second) = (view(1, 7), view(2, 7));
    let (one, two) = (first.version(), second.version());
    assert_eq!(store.compare_and_set(None, &first, one), Written::Done);
    primary.kill();
    assert_eq!(replica.cli(&["REPLICAOF", "NO", "ONE"]), "OK");
    let stored = store
        .read(Some(one), true)
        .expect("the other server answers");
    assert!(matches!(stored.content, Content::Known));
    // It has no replica that could confirm anything.
    assert_eq!(
        store.compare_and_set(Some(one), &second, two),
        Written::Unknown
    );
}

#[test]
fn a_key_that_holds_something_else_is_no_view() {
    let server = Server::start(&[]);
    let store = views(&server, Policy::Memory);
    server.cli(&[
        "HSET",
        "{rs:view}",
        "epoch",
        "1",
        "hash",
        "2",
        "view",
        "nonsense",
    ]);
    let error = store.read(None, false).expect_err("no view").to_string();
    assert!(error.contains("{rs:view} holds no view"), "{error}");
    server.cli(&["DEL", "{rs:view}"]);
    server.cli(&["SET", "{rs:view}", "text"]);
    assert!(store.read(None, false).is_err());
    let first = view(1, 7);
    assert_eq!(
        store.compare_and_set(None, &first, first.version()),
        Written::Unknown
    );
}

#[test]
fn a_full_server_goes_on_with_the_views() {
    let server = Server::start(&["maxmemory 3mb", "maxmemory-policy noeviction"]);
    let store = views(&server, Policy::Memory);
    let first = view(1, 7);
    assert_eq!(
        store.compare_and_set(None, &first, first.version()),
        Written::Done
    );
    server.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    assert!(server.cli(&["SET", "a", "b"]).contains("OOM"));
    assert_eq!(
        store
            .read(Some(first.version()), true)
            .expect("it answers")
            .beat,
        1
    );
    let second = view(2, 7);
    assert_eq!(
        store.compare_and_set(Some(first.version()), &second, second.version()),
        Written::Done
    );
}
