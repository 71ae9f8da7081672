//! Who may write: claims, lost partitions, what a crash leaves half done, pages.

use edge_proto::packet::{QoS, RetainHandling, SubscriptionOptions};
use gateway::engine::claim::ClaimOutcome;
use gateway::engine::redis::keys::Keys;
use gateway::engine::redis::options::RedisOptions;
use gateway::engine::{
    Command, Completion, Engine, Restored, RetainChange, SubscriptionRecord, Token,
};
use gateway::message::SessionId;

use crate::servers::Server;
use crate::support::{Node, contents, home, message, number, options, publish, put};

const ALICE: SessionId = SessionId(1);
const BOB: SessionId = SessionId(2);

pub(crate) const RECORD: SubscriptionRecord = SubscriptionRecord {
    options: SubscriptionOptions {
        maximum_qos: QoS::AtLeastOnce,
        no_local: false,
        retain_as_published: false,
        retain_handling: RetainHandling::Send,
    },
    subscription_id: 0,
};

fn subscribe(session: SessionId, filter: &str) -> Command {
    Command::Subscribe {
        token: Token(7),
        session,
        filter: filter.into(),
        record: RECORD,
    }
}

fn is_deposed(answers: &[Completion]) -> bool {
    matches!(answers, [Completion::Deposed { .. }])
}

/// A server, and a node on it that has claimed the homes of Alice and Bob in epoch 1 and made their sessions.
fn start() -> (Server, RedisOptions, Node) {
    let server = Server::start(&[]);
    let options = options(server.options(), 1);
    let mut node = Node::open(options.clone());
    for session in [ALICE, BOB] {
        assert_eq!(node.claim(home(session), 1).0, ClaimOutcome::Held);
        node.one(put(session));
    }
    (server, options, node)
}

fn other(options: &RedisOptions) -> Node {
    let mut options = options.clone();
    options.node += 1;
    Node::open(options)
}

#[test]
fn a_lost_session_is_refused_and_never_taken_for_a_deleted_one() {
    let (_server, options, mut node) = start();
    let mut successor = other(&options);
    successor.claim(home(ALICE), 2);
    // Each finds out by itself: the first by what it deletes, the others know by then.
    let delete = Command::DeleteSession {
        token: Token(3),
        session: ALICE,
    };
    assert!(is_deposed(&node.one(delete)));
    assert!(is_deposed(&node.one(publish(1, &[ALICE], 8))));
    let answers = node.one(publish(2, &[ALICE, BOB], 8));
    assert!(
        matches!(
            answers.as_slice(),
            [
                Completion::Appended { session: BOB, .. },
                Completion::Deposed { .. }
            ]
        ),
        "{answers:?}"
    );
    assert!(is_deposed(&node.one(put(ALICE))));
    assert!(successor.numbers(ALICE).is_empty());
    assert_eq!(node.numbers(BOB), [2]);
    // Claimed again, it is there again.
    assert_eq!(node.claim(home(ALICE), 3).0, ClaimOutcome::Held);
    node.one(publish(3, &[ALICE], 8));
    assert_eq!(node.numbers(ALICE), [3]);
}

#[test]
fn an_older_claim_is_lost() {
    let (_server, options, mut node) = start();
    let mut successor = other(&options);
    assert_eq!(
        successor.claim(home(ALICE), 1).0,
        ClaimOutcome::Lost { epoch: 1 }
    );
    assert_eq!(successor.claim(home(ALICE), 2).0, ClaimOutcome::Held);
    assert_eq!(
        node.claim(home(ALICE), 1).0,
        ClaimOutcome::Lost { epoch: 2 }
    );
    // Numbers beyond what a double holds are told apart.
    let large = (1 << 53) + 1;
    assert_eq!(successor.claim(home(ALICE), large).0, ClaimOutcome::Held);
    assert_eq!(
        node.claim(home(ALICE), large - 1).0,
        ClaimOutcome::Lost { epoch: large }
    );
}

#[test]
fn a_retry_is_known_to_the_next_writer() {
    let (_server, options, mut node) = start();
    node.one(publish(1, &[ALICE], 8));
    let mut successor = other(&options);
    successor.claim(home(ALICE), 2);
    successor.claim(home(BOB), 2);
    let mut again = publish(1, &[ALICE, BOB], 8);
    if let Command::Publish { retry, .. } = &mut again {
        *retry = true;
    }
    successor.one(again);
    assert_eq!(successor.numbers(ALICE), [1]);
    assert_eq!(
        successor.numbers(BOB),
        [1],
        "the half that was not done is done"
    );
}

#[test]
fn sequences_go_on_behind_all_that_were_used() {
    let (_server, options, mut node) = start();
    let sequence = |answers: &[Completion]| match answers {
        [Completion::Appended { sequence, .. }, ..] => *sequence,
        other => panic!("{other:?}"),
    };
    let first = sequence(&node.one(publish(1, &[ALICE], 8)));
    let last = sequence(&node.one(publish(2, &[ALICE], 8)));
    assert_eq!(last, first + 1);
    // Gone without a trace, but for what is reserved.
    node.commit(&[(
        0,
        Command::Ack {
            session: ALICE,
            sequence: last,
        },
    )]);
    let mut successor = other(&options);
    let (_, items) = successor.claim(home(ALICE), 2);
    let [Restored::Session { mailbox, .. }] = items.as_slice() else {
        panic!("{items:?}");
    };
    assert_eq!((mailbox.messages, mailbox.head), (1, first));
    assert!(mailbox.next > last);
    assert_eq!(
        sequence(&successor.one(publish(3, &[ALICE], 8))),
        mailbox.next
    );
}

#[test]
fn routes_are_found_under_the_root_of_their_filter() {
    let (_server, options, mut node) = start();
    node.one(subscribe(ALICE, "g/team/#"));
    node.one(subscribe(ALICE, "+/all"));
    node.one(subscribe(BOB, "$share/s/g/team/a"));
    let root = cluster::partition::partition_of("g/team");
    let routes = |node: &mut Node, epoch| {
        let (_, items) = node.claim(root, epoch);
        let mut found: Vec<_> = items
            .into_iter()
            .map(|item| match item {
                Restored::Route {
                    session,
                    home,
                    filter,
                    ..
                } => (session, home, filter.into_string()),
                other => panic!("{other:?}"),
            })
            .collect();
        found.sort();
        found
    };
    let mut owner = other(&options);
    let alice = (ALICE, home(ALICE), "g/team/#".to_owned());
    let bob = (BOB, home(BOB), "$share/s/g/team/a".to_owned());
    assert_eq!(routes(&mut owner, 2), [alice, bob.clone()]);
    node.one(Command::Unsubscribe {
        token: Token(1),
        session: ALICE,
        filter: "g/team/#".into(),
    });
    assert_eq!(routes(&mut owner, 3), [bob]);
    node.one(Command::DeleteSession {
        token: Token(1),
        session: BOB,
    });
    assert_eq!(routes(&mut owner, 4), []);
}

/// Runs a command on the server as a crash would have left it.
fn fields(server: &Server, key: &str) -> Vec<String> {
    let text = server.cli(&["HKEYS", key]);
    text.lines().map(str::to_owned).collect()
}

#[test]
fn a_deletion_that_was_interrupted_is_finished_by_the_next_writer() {
    let (server, options, mut node) = start();
    node.one(subscribe(ALICE, "g/team/#"));
    node.one(publish(1, &[ALICE], 8));
    let keys = Keys::new(&options.prefix);
    let session = keys.key(home(ALICE), "s:1");
    assert!(
        fields(&server, &session).contains(&"r".to_owned()),
        "the key is the right one"
    );
    server.cli(&["HSET", &session, "d", ""]);
    let (_, items) = other(&options).claim(home(ALICE), 2);
    assert!(items.is_empty(), "{items:?}");
    let root = cluster::partition::partition_of("g/team");
    for key in [
        session,
        keys.key(home(ALICE), "m:1"),
        keys.key(home(ALICE), "k:1"),
        keys.key(home(ALICE), "i"),
        keys.key(root, "o"),
    ] {
        assert_eq!(server.cli(&["EXISTS", &key]), "0", "{key}");
    }
}

fn move_to_bob() -> Command {
    Command::Move {
        token: Token(1),
        from: ALICE,
        to: BOB,
        home: 0,
        record: RECORD,
        messages_max: 1,
        bytes_max: 1_000,
    }
}

#[test]
fn a_move_that_was_interrupted_neither_loses_nor_doubles() {
    let (server, options, mut node) = start();
    let keys = Keys::new(&options.prefix);
    let (session, mailbox) = (keys.key(home(ALICE), "s:1"), keys.key(home(ALICE), "m:1"));
    node.one(publish(1, &[ALICE], 8));
    let before = fields(&server, &mailbox);
    let [field] = before.as_slice() else {
        panic!("{before:?}");
    };
    let sequence = field.split(':').next().expect("a sequence");
    let mark = [
        session.clone(),
        format!("x{sequence}"),
        format!("{}:2", home(BOB)),
    ];
    let mark = ["HSET", &mark[0], &mark[1], &mark[2]];
    let both = [ALICE, BOB];
    let options_of = |epoch| contents(options.clone(), epoch, &both);
    // It ended behind the mark, before anything arrived.
    server.cli(&mark);
    let found = options_of(2);
    assert_eq!((&found[&ALICE][..], &found[&BOB][..]), (&[1][..], &[][..]));
    assert_eq!(fields(&server, &session), ["r"], "the mark is gone");
    // It ended when the message had arrived and was still where it came from.
    assert_eq!(fields(&server, &mailbox), before);
    node.claim(home(ALICE), 3);
    node.claim(home(BOB), 3);
    let dump = server.cli(&["COPY", &mailbox, &keys.key(home(ALICE), "copy")]);
    assert_eq!(dump, "1");
    node.one(move_to_bob());
    assert_eq!(node.numbers(BOB), [1]);
    server.cli(&["RENAME", &keys.key(home(ALICE), "copy"), &mailbox]);
    server.cli(&mark);
    let found = options_of(4);
    assert_eq!((&found[&ALICE][..], &found[&BOB][..]), (&[][..], &[1][..]));
    assert_eq!(server.cli(&["EXISTS", &mailbox]), "0");
}

#[test]
fn what_a_partition_holds_comes_in_pages() {
    let server = Server::start(&[]);
    let mut options = options(server.options(), 1);
    options.page_bytes_max = 10_000;
    let mut node = Node::open(options.clone());
    // Sessions that share a partition share its home name.
    let partition = home(ALICE);
    node.claim(partition, 1);
    let alike = |number: u64| match put(ALICE) {
        Command::PutSession { token, record, .. } => Command::PutSession {
            token,
            session: SessionId(number),
            record,
        },
        other => other,
    };
    let puts: Vec<_> = (1..=1_000).map(|number| (0, alike(number))).collect();
    node.commit(&puts);
    let claim = crate::support::claim(partition, 2);
    let answers = other(&options).one(claim);
    let mut sessions = 0;
    for answer in &answers {
        if let Completion::Loaded { items, .. } = answer {
            assert!(items.len() <= 10_000 / 64, "{}", items.len());
            sessions += items.len();
        }
    }
    assert_eq!(sessions, 1_000);
    assert!(matches!(answers.last(), Some(Completion::Claimed { .. })));
}

#[test]
fn retained_messages_and_received_ids_come_back() {
    let (_server, options, mut node) = start();
    let topic = cluster::partition::partition_of("t/1");
    node.claim(topic, 1);
    let mut command = publish(5, &[BOB], 8);
    if let Command::Publish {
        retain, received, ..
    } = &mut command
    {
        *retain = RetainChange::Set;
        *received = Some((ALICE, 77));
    }
    node.one(command);
    let mut successor = other(&options);
    let (_, items) = successor.claim(topic, 2);
    let [Restored::Retained { message: found }] = items.as_slice() else {
        panic!("{items:?}");
    };
    assert_eq!((found.topic(), number(found)), ("t/1", 5));
    let (_, items) = successor.claim(home(ALICE), 2);
    let [Restored::Session { received, .. }] = items.as_slice() else {
        panic!("{items:?}");
    };
    assert_eq!(received[0].packet_id, 77);
    assert_eq!(message("t/1", 5, 8).payload(), found.payload());
}

#[test]
fn a_node_alone_claims_everything_and_counts_its_starts() {
    let server = Server::start(&[]);
    let mut options = options(server.options(), 0);
    options.alone = true;
    let restored = |node: &mut Node| {
        let mut found = Vec::new();
        node.engine
            .restore(&mut |item| found.push(item))
            .expect("restores");
        found
    };
    let mut first = Node::open(options.clone());
    assert_eq!(first.engine.boot_count(), 1);
    assert!(restored(&mut first).is_empty());
    first.one(put(ALICE));
    first.one(subscribe(ALICE, "g/team/#"));
    first.one(publish(1, &[ALICE], 8));
    let mut second = Node::open(options);
    assert_eq!(second.engine.boot_count(), 2);
    let items = restored(&mut second);
    assert!(
        matches!(
            items.as_slice(),
            [
                Restored::Session { session: ALICE, .. },
                Restored::Subscription { .. }
            ]
        ),
        "{items:?}"
    );
    assert_eq!(second.numbers(ALICE), [1]);
    // Two at once: the earlier one does no harm.
    assert!(is_deposed(&first.one(publish(2, &[ALICE], 8))));
    assert_eq!(second.numbers(ALICE), [1]);
}
