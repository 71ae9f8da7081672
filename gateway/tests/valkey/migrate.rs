//! A store that moves from a folder into a Valkey: what is read there is what was read here.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use edge_proto::packet::{QoS, SubscriptionOptions};
use gateway::cli::{EXIT_DONE, EXIT_FAILED};
use gateway::engine::claim::MessageId;
use gateway::engine::embedded::{Embedded, EmbeddedOptions};
use gateway::engine::migrate::{Totals, migrate};
use gateway::engine::redis::Redis;
use gateway::engine::redis::options::{Policy, RedisOptions};
use gateway::engine::{
    Append, Command, Completion, Delivery, Durability, Engine, MailboxEntry, MailboxLimits,
    Restored, RetainChange, SessionRecord, SubscriptionRecord, Token, WhenFull, WillRecord,
};
use gateway::message::{Message, MessageParts, SessionId};

use crate::command::run;
use crate::servers::{Server, cluster};

const SESSIONS: u64 = 40;
const LIMITS: MailboxLimits = MailboxLimits {
    messages_max: 100_000,
    bytes_max: u64::MAX,
    when_full: WhenFull::Reject,
};

/// A folder that goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("roadstead-migrate-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn open(folder: &Path) -> Embedded {
    let options = EmbeddedOptions {
        mailbox_limits: LIMITS,
        durability: Durability::Sync,
        cache_bytes: 1 << 20,
    };
    Embedded::open(folder, options, 0).expect("it opens")
}

fn options(server: &Server) -> RedisOptions {
    RedisOptions {
        prefix: "rs".into(),
        policy: Policy::Aof,
        ..RedisOptions::new(server.options(), 1, LIMITS)
    }
}

fn message(topic: &str, payload: &[u8], qos: QoS) -> Arc<Message> {
    Arc::new(Message::new(MessageParts {
        topic,
        properties: &[],
        payload,
        qos,
        retain: false,
        expires_at_unix_ms: u64::MAX,
        publisher: SessionId(0),
    }))
}

fn record(number: u64) -> SessionRecord {
    SessionRecord {
        client_id: format!("client-{number}").into(),
        user: number
            .is_multiple_of(3)
            .then(|| format!("user-{number}").into()),
        expiry_s: 3_600,
        disconnected_at_unix_ms: Some(number),
        will: number.is_multiple_of(5).then(|| WillRecord {
            message: message("wills/w", b"gone", QoS::AtLeastOnce),
            delay_s: 5,
            message_expiry_s: None,
        }),
    }
}

fn subscription(id: u32) -> SubscriptionRecord {
    SubscriptionRecord {
        options: SubscriptionOptions::from_qos(QoS::ExactlyOnce),
        subscription_id: id,
    }
}

/// Sessions, a queue of a shared subscription, their messages, packet identifiers and retained messages.
fn stored() -> Vec<Command> {
    let token = Token(0);
    let mut commands = Vec::new();
    for number in 1..=SESSIONS {
        let session = SessionId(number);
        commands.push(Command::PutSession {
            token,
            session,
            record: Box::new(record(number)),
        });
        for filter in [
            format!("u/user-{number}/#"),
            "sensors/d1/+".into(),
            "#".into(),
            "$share/g/jobs/new".into(),
        ] {
            commands.push(Command::Subscribe {
                token,
                session,
                filter: filter.into(),
                record: subscription(number as u32),
            });
        }
    }
    let queue = SessionId(99).as_group_queue();
    let record = SessionRecord {
        client_id: "$share/g/jobs/new".into(),
        ..record(1)
    };
    commands.push(Command::PutSession {
        token,
        session: queue,
        record: Box::new(SessionRecord {
            user: None,
            ..record
        }),
    });
    for number in 0..30 {
        let payload = vec![number; 1 + usize::from(number) * 400];
        let append = |session| Append {
            session,
            home: 0,
            delivery: Delivery {
                qos: QoS::ExactlyOnce,
                retain: number % 2 == 0,
                subscription_ids: Box::new([7, u32::from(number)]),
            },
        };
        commands.push(Command::Publish {
            token,
            message: message(&format!("sensors/d1/{number}"), &payload, QoS::ExactlyOnce),
            id: MessageId::NONE,
            retry: false,
            appends: (1..=SESSIONS)
                .map(SessionId)
                .chain([queue])
                .map(append)
                .collect(),
            received: Some((
                SessionId(1 + u64::from(number) % 3),
                1_000 + u16::from(number),
            )),
            retain: if number < 20 {
                RetainChange::Set
            } else {
                RetainChange::None
            },
        });
    }
    commands
}

/// The same, and some messages have been acknowledged or have had their PUBREC.
fn fill(store: &mut Embedded) {
    let token = Token(0);
    let commands = stored();
    let commands: Vec<_> = commands.into_iter().map(|command| (0, command)).collect();
    let mut answers = Vec::new();
    store
        .commit(1, 0, &commands, &mut answers)
        .expect("it stores");
    let appended = answers.iter().filter_map(|(_, answer)| match answer {
        Completion::Appended {
            session, sequence, ..
        } => Some((*session, *sequence)),
        _ => None,
    });
    let mut commands = Vec::new();
    for (at, (session, sequence)) in appended.enumerate() {
        match at % 7 {
            0 => commands.push((0, Command::Ack { session, sequence })),
            1 => commands.push((
                0,
                Command::PubRec {
                    token,
                    session,
                    sequence,
                },
            )),
            _ => {}
        }
    }
    store
        .commit(2, 0, &commands, &mut Vec::new())
        .expect("it stores");
}

/// Everything that a store hands out, in an order of its own, and what is in its mailboxes.
fn content(store: &mut impl Engine) -> (Vec<String>, Vec<(SessionId, Vec<MailboxEntry>)>) {
    let (mut items, mut sessions) = (Vec::new(), Vec::new());
    store
        .restore(&mut |mut item| {
            if let Restored::Session {
                session, mailbox, ..
            } = &mut item
            {
                sessions.push(*session);
                // The number of the next message may rise at each start.
                mailbox.next = 0;
            }
            items.push(format!("{item:?}"));
        })
        .expect("it hands it out");
    items.sort();
    sessions.sort();
    let read = |session: &SessionId| {
        let read = Command::ReadMailbox {
            token: Token(0),
            session: *session,
            from: 0,
            messages_max: u32::MAX,
            bytes_max: u32::MAX,
        };
        (0, read)
    };
    let commands: Vec<_> = sessions.iter().map(read).collect();
    let mut answers = Vec::new();
    store
        .commit(1_000_000, 0, &commands, &mut answers)
        .expect("it reads");
    let pages = answers.into_iter().map(|(_, answer)| match answer {
        Completion::MailboxPage {
            session,
            entries,
            end: true,
            ..
        } => (session, entries),
        other => panic!("{other:?}"),
    });
    (items, pages.collect())
}

fn expected() -> Totals {
    let all = (SESSIONS + 1) * 30;
    Totals {
        sessions: SESSIONS,
        subscriptions: SESSIONS * 4,
        received: 30,
        queues: 1,
        messages: all - all.div_ceil(7),
        retained: 20,
    }
}

fn assert_moved(folder: &Folder, server: &Server) {
    let before = content(&mut open(&folder.0));
    let alone = RedisOptions {
        alone: true,
        ..options(server)
    };
    let mut store = Redis::open(alone, 0).expect("it opens");
    let after = content(&mut store);
    assert_eq!(before.0, after.0);
    assert_eq!(before.1, after.1);
    // New messages go behind the others, under numbers that were never used.
    let session = SessionId(1);
    let last = before
        .1
        .iter()
        .find(|(found, _)| *found == session)
        .expect("it is there")
        .1
        .last()
        .expect("not empty")
        .sequence;
    let append = Append {
        session,
        home: 0,
        delivery: Delivery {
            qos: QoS::AtLeastOnce,
            retain: false,
            subscription_ids: Box::default(),
        },
    };
    let publish = Command::Publish {
        token: Token(0),
        message: message("a/b", b"new", QoS::AtLeastOnce),
        id: MessageId::NONE,
        retry: false,
        appends: vec![append],
        received: None,
        retain: RetainChange::None,
    };
    let mut answers = Vec::new();
    store
        .commit(1_000_001, 0, &[(0, publish)], &mut answers)
        .expect("it stores");
    let sequence = answers.iter().find_map(|(_, answer)| match answer {
        Completion::Appended { sequence, .. } => Some(*sequence),
        _ => None,
    });
    assert!(sequence.expect("it was appended") > last);
}

#[test]
fn everything_is_there_with_the_same_sequences() {
    let (folder, server) = (Folder::new("all"), Server::durable());
    fill(&mut open(&folder.0));
    let mut seen = Vec::new();
    let mut progress = |moved: &Totals, all: &Totals| seen.push((*moved, *all));
    let moved =
        migrate(&mut open(&folder.0), options(&server), false, &mut progress).expect("it moves");
    assert_eq!(moved, expected());
    assert_eq!(seen.first(), Some(&(Totals::default(), expected())));
    assert_eq!(seen.last(), Some(&(expected(), expected())));
    let again = migrate(
        &mut open(&folder.0),
        options(&server),
        false,
        &mut |_, _| {},
    );
    let again = again.expect_err("it is there").to_string();
    assert!(again.contains("complete: start the node"), "{again}");
    assert_moved(&folder, &server);
    let again = migrate(&mut open(&folder.0), options(&server), true, &mut |_, _| {});
    again.expect_err("a node has used it since");
}

#[test]
fn a_cluster_gets_everything_too() {
    let (folder, servers) = (
        Folder::new("cluster"),
        cluster(&["appendonly yes", "appendfsync always"]),
    );
    fill(&mut open(&folder.0));
    let moved = migrate(
        &mut open(&folder.0),
        options(&servers[2]),
        false,
        &mut |_, _| {},
    )
    .expect("it moves");
    assert_eq!(moved, expected());
    assert_moved(&folder, &servers[0]);
}

#[test]
fn what_was_interrupted_goes_on_and_nothing_is_there_twice() {
    let (folder, mut server) = (Folder::new("interrupted"), Server::durable());
    fill(&mut open(&folder.0));
    let mut options = options(&server);
    options.connect.timeout = std::time::Duration::from_millis(100);
    let nothing = migrate(&mut open(&folder.0), options.clone(), true, &mut |_, _| {});
    assert!(
        nothing
            .expect_err("nothing began")
            .to_string()
            .contains("leave --resume out")
    );
    let mut sessions = 0;
    let interrupted = migrate(
        &mut open(&folder.0),
        options.clone(),
        false,
        &mut |moved, _| {
            sessions = moved.sessions;
            if moved.sessions == SESSIONS / 2 && server.is_running() {
                server.kill();
            }
        },
    );
    interrupted.expect_err("the server is gone");
    assert!(sessions >= SESSIONS / 2);
    server.start_again();
    let new = migrate(&mut open(&folder.0), options.clone(), false, &mut |_, _| {});
    assert!(
        new.expect_err("it was interrupted")
            .to_string()
            .contains("--resume")
    );
    let moved = migrate(&mut open(&folder.0), options, true, &mut |_, _| {}).expect("it goes on");
    assert_eq!(moved, expected());
    assert_moved(&folder, &server);
}

#[test]
fn another_store_does_not_go_on_where_one_was_interrupted() {
    let (folder, server) = (Folder::new("changed"), Server::durable());
    fill(&mut open(&folder.0));
    server.cli(&[
        "HSET",
        &gateway::engine::redis::keys::Keys::new("rs").key(0, "import"),
        "state",
        "running",
        "source",
        "0",
    ]);
    let other = migrate(&mut open(&folder.0), options(&server), true, &mut |_, _| {});
    assert!(
        other
            .expect_err("other content")
            .to_string()
            .contains("has changed")
    );
}

#[test]
fn what_a_node_has_written_is_not_touched() {
    let (folder, server) = (Folder::new("in-use"), Server::durable());
    fill(&mut open(&folder.0));
    let alone = RedisOptions {
        alone: true,
        ..options(&server)
    };
    let mut store = Redis::open(alone, 0).expect("it opens");
    store.restore(&mut |_| {}).expect("it claims everything");
    let keys = server.cli(&["DBSIZE"]);
    let refused = migrate(
        &mut open(&folder.0),
        options(&server),
        false,
        &mut |_, _| {},
    );
    assert!(
        refused
            .expect_err("in use")
            .to_string()
            .contains("a node has used the store")
    );
    assert_eq!(server.cli(&["DBSIZE"]), keys);
    let other = RedisOptions {
        prefix: "other".into(),
        ..options(&server)
    };
    migrate(&mut open(&folder.0), other, false, &mut |_, _| {})
        .expect("another prefix is another store");
}

#[test]
fn the_command_tells_what_it_moved() {
    let (folder, server) = (Folder::new("command"), Server::durable());
    let from = folder.0.display().to_string();
    let urls = format!("engine.urls={}", server.url());
    let settings = ["engine.kind=redis", urls.as_str()];
    let typed = ["engine", "migrate", "--from", from.as_str()];
    let (code, _, err) = run(&typed, &settings);
    assert_eq!(code, EXIT_FAILED);
    assert!(err.contains("there is no store in this folder"), "{err}");
    assert!(!folder.0.exists(), "nothing is made");
    fill(&mut open(&folder.0));
    let (code, out, err) = run(&typed, &settings);
    assert_eq!((code, err.as_str()), (EXIT_DONE, ""), "{out}");
    assert!(out.contains("moved  40 sessions with 160 subscriptions and 30 packet identifiers, 1 queues, 1054 messages, 20 retained"), "{out}");
    assert!(out.contains("50 %"), "{out}");
    let (code, _, err) = run(&typed, &settings);
    assert_eq!(code, EXIT_FAILED);
    assert!(err.contains("complete: start the node"), "{err}");
    assert_moved(&folder, &server);
}
