//! The store in a folder of a real file system: killed processes, a second process, damaged files, a full disk.
//!
//! `ENGINE_KILLS` sets how often the process is killed.

mod engine_support;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command as Process, Stdio};
use std::sync::Arc;

use edge_proto::packet::QoS;
use engine_support::{Generator, Rng, mailboxes, options, restored};
use gateway::engine::claim::MessageId;
use gateway::engine::embedded::{Embedded, FORMAT};
use gateway::engine::{
    Append, Command, Completion, Delivery, Engine, EngineError, MailboxEntry, MailboxLimits,
    Restored, RetainChange, SessionRecord, Token, WhenFull,
};
use gateway::message::{Message, MessageParts, SessionId};

const ALICE: SessionId = SessionId(1);
/// Messages that wait in the mailbox of the process that is killed.
const WAITING: u64 = 50;

/// A folder that goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("engine-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        Self(path)
    }

    fn store_file(&self) -> PathBuf {
        self.0.join("store.redb")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn open(folder: &Path) -> Result<Embedded, EngineError> {
    let mut options = options(WhenFull::Reject);
    options.mailbox_limits = MailboxLimits {
        messages_max: 100_000,
        bytes_max: u64::MAX,
        when_full: WhenFull::Reject,
    };
    Embedded::open(folder, options, 0)
}

fn alice() -> Command {
    let record = SessionRecord {
        client_id: "alice".into(),
        user: None,
        expiry_s: u32::MAX,
        disconnected_at_unix_ms: None,
        will: None,
    };
    Command::PutSession {
        token: Token(0),
        session: ALICE,
        record: Box::new(record),
    }
}

/// A QoS 2 message to Alice from herself, with a number as its payload, and as its packet identifier.
fn publish(number: u64, payload_bytes: usize) -> Command {
    let mut payload = number.to_be_bytes().to_vec();
    payload.resize(payload_bytes.max(8), 7);
    let message = Arc::new(Message::new(MessageParts {
        topic: "u/alice",
        properties: &[],
        payload: &payload,
        qos: QoS::ExactlyOnce,
        retain: true,
        expires_at_unix_ms: u64::MAX,
        publisher: ALICE,
    }));
    let delivery = Delivery {
        qos: QoS::ExactlyOnce,
        retain: false,
        subscription_ids: Box::default(),
    };
    Command::Publish {
        token: Token(number),
        id: MessageId::NONE,
        retry: false,
        message,
        appends: vec![Append {
            session: ALICE,
            home: 0,
            delivery,
        }],
        received: Some((ALICE, number as u16)),
        retain: RetainChange::Set,
    }
}

fn number(message: &Message) -> u64 {
    u64::from_be_bytes(*message.payload().first_chunk().expect("a number"))
}

fn read_all(store: &mut Embedded, batch: u64) -> Vec<MailboxEntry> {
    let read = Command::ReadMailbox {
        token: Token(0),
        session: ALICE,
        from: 0,
        messages_max: u32::MAX,
        bytes_max: u32::MAX,
    };
    let mut answers = Vec::new();
    store
        .commit(batch, 0, &[(0, read)], &mut answers)
        .expect("reads");
    match answers.pop() {
        Some((
            0,
            Completion::MailboxPage {
                entries, end: true, ..
            },
        )) => entries,
        other => panic!("not a whole page: {other:?}"),
    }
}

/// What the process does that is killed: goes on from what it finds, prints the number of each message that is committed.
#[test]
fn child_process() {
    let Some(folder) = std::env::var_os("ENGINE_CHILD_FOLDER") else {
        return;
    };
    let mut store = open(Path::new(&folder)).expect("opens");
    let mut batch = 1;
    let waiting = read_all(&mut store, batch);
    let mut sequences: std::collections::VecDeque<u64> =
        waiting.iter().map(|entry| entry.sequence).collect();
    let newest = waiting.last().and_then(|entry| entry.content.as_ref());
    let mut next = newest.map_or(1, |(message, _)| number(message) + 1);
    store
        .commit(batch + 1, 0, &[(0, alice())], &mut Vec::new())
        .expect("commits");
    batch += 2;
    loop {
        let count = 1 + next % 7;
        let mut commands: Vec<_> = (next..next + count)
            .map(|number| (0, publish(number, 100)))
            .collect();
        for number in next..next + count {
            if number > WAITING {
                let release = Command::Release {
                    token: Token(0),
                    session: ALICE,
                    packet_id: (number - WAITING) as u16,
                };
                commands.push((0, release));
            }
        }
        while sequences.len() > WAITING as usize {
            let sequence = sequences.pop_front().expect("is not empty");
            commands.push((
                0,
                Command::Ack {
                    session: ALICE,
                    sequence,
                },
            ));
        }
        let mut answers = Vec::new();
        store
            .commit(batch, 0, &commands, &mut answers)
            .expect("commits");
        for (_, answer) in answers {
            if let Completion::Appended { sequence, .. } = answer {
                sequences.push_back(sequence);
            }
        }
        next += count;
        batch += 1;
        println!("\ncommitted {}", next - 1);
    }
}

fn spawn_child(folder: &Path) -> Child {
    Process::new(std::env::current_exe().expect("a test has a file"))
        .args(["--exact", "child_process", "--nocapture"])
        .env("ENGINE_CHILD_FOLDER", folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("starts")
}

#[test]
fn a_killed_process_loses_nothing_that_it_said_was_committed() {
    let kills = std::env::var("ENGINE_KILLS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(30);
    let folder = Folder::new("kill");
    let mut rng = Rng(u64::from(std::process::id()));
    for kill in 0..kills {
        let mut child = spawn_child(&folder.0);
        let lines = BufReader::new(child.stdout.take().expect("is piped")).lines();
        let mut numbers = lines.map_while(Result::ok).filter_map(|line| {
            line.strip_prefix("committed ")
                .map(|number| number.parse::<u64>().expect("a number"))
        });
        let mut said = numbers
            .by_ref()
            .nth(rng.below(60) as usize)
            .expect("the child commits");
        child.kill().expect("is alive");
        child.wait().expect("ends");
        // What it said between the last line that was read and its end.
        said = numbers.last().unwrap_or(said);
        check_after_kill(&folder.0, kill, said);
    }
}

fn check_after_kill(folder: &Path, kill: u32, said: u64) {
    let mut store = open(folder).expect("opens");
    let (mut received, mut retained, mut summary) = (Vec::<u16>::new(), 0, None);
    store
        .restore(&mut |item| match item {
            Restored::Session {
                received: ids,
                mailbox,
                ..
            } => {
                received = ids.iter().map(|known| known.packet_id).collect();
                summary = Some(mailbox);
            }
            Restored::Retained { message } => retained = number(&message),
            Restored::Subscription { .. } | Restored::Route { .. } => panic!("there is none"),
        })
        .expect("restores");
    let entries = read_all(&mut store, 1);
    let numbers: Vec<_> = entries
        .iter()
        .map(|entry| number(&entry.content.as_ref().expect("has content").0))
        .collect();
    let newest = *numbers.last().expect("something waits");
    assert!(
        newest >= said,
        "kill {kill}: {said} was committed, {newest} is the newest"
    );
    assert!(
        numbers.is_sorted_by(|a, b| a + 1 == *b),
        "kill {kill}: not one after the other: {numbers:?}"
    );
    assert!(
        numbers.len() as u64 >= WAITING.min(newest),
        "kill {kill}: too few: {numbers:?}"
    );
    assert_eq!(
        retained, newest,
        "kill {kill}: the retained message is of the same batch"
    );
    let mut expected: Vec<_> = (newest.saturating_sub(WAITING) + 1..=newest)
        .map(|n| n as u16)
        .collect();
    expected.sort_unstable();
    assert_eq!(
        received, expected,
        "kill {kill}: so are the packet identifiers"
    );
    assert_eq!(
        summary.expect("there is a session").messages,
        entries.len() as u64
    );
}

#[test]
fn a_second_process_is_refused() {
    let folder = Folder::new("second");
    let mut child = spawn_child(&folder.0);
    let lines = BufReader::new(child.stdout.take().expect("is piped")).lines();
    let mut lines = lines.map_while(Result::ok);
    lines
        .find(|line| line.starts_with("committed "))
        .expect("the child commits");
    let error = open(&folder.0).expect_err("is in use");
    child.kill().expect("is alive");
    child.wait().expect("ends");
    assert!(matches!(error, EngineError::InUse { .. }), "{error}");
    open(&folder.0).expect("opens when the other is gone");
}

#[test]
fn what_is_stored_is_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let parent = Folder::new("mode");
    let folder = parent.0.join("of/the/store");
    drop(open(&folder).expect("it opens"));
    let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode(&folder), 0o700);
    for file in fs::read_dir(&folder).expect("a folder") {
        let path = file.expect("an entry").path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
    // What its operator has chosen stays.
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o750)).expect("ours");
    drop(open(&folder).expect("it opens again"));
    assert_eq!(mode(&folder), 0o750);
}

#[test]
fn a_folder_that_cannot_be_made_is_named() {
    let folder = Folder::new("unusable");
    fs::create_dir_all(&folder.0).expect("is made");
    let file = folder.0.join("file");
    fs::write(&file, "x").expect("is written");
    let error = open(&file.join("store")).expect_err("a file is no folder");
    assert!(matches!(error, EngineError::Open { .. }), "{error}");
    assert!(error.to_string().contains("file/store"), "{error}");
}

/// A store with something of everything in it, and what it hands out.
fn filled(folder: &Folder) -> (String, String) {
    let mut store = open(&folder.0).expect("opens");
    let mut generator = Generator::default();
    let mut rng = Rng(5);
    for batch in 1..40 {
        let commands: Vec<_> = (0..20).map(|_| generator.command(rng.word())).collect();
        let mut answers = Vec::new();
        store
            .commit(batch, 0, &commands, &mut answers)
            .expect("commits");
        generator.observe(&answers);
    }
    drop(store);
    contents(&folder.0).expect("opens")
}

fn contents(folder: &Path) -> Result<(String, String), EngineError> {
    let mut store = open(folder)?;
    Ok((restored(&mut store), mailboxes(&mut store, 1)))
}

#[test]
fn a_damaged_store_is_reported_or_whole() {
    let folder = Folder::new("damaged");
    let expected = filled(&folder);
    let good = fs::read(folder.store_file()).expect("is read");
    let mut rng = Rng(11);
    let mut reported = 0;
    for round in 0..300_u64 {
        let mut bytes = good.clone();
        let place = if round < 100 {
            rng.below(400)
        } else {
            rng.below(good.len() as u64)
        };
        bytes[place as usize] ^= 1 << rng.below(8);
        fs::write(folder.store_file(), &bytes).expect("is written");
        match contents(&folder.0) {
            Ok(found) => assert_eq!(found, expected, "at {place}"),
            Err(EngineError::Damaged { .. } | EngineError::Format { .. }) => {
                reported += 1;
                let after = fs::read(folder.store_file()).expect("is read");
                assert!(after == bytes, "at {place}: a damaged store is left alone");
            }
            Err(other) => panic!("at {place}: {other}"),
        }
    }
    assert!(reported > 50, "most of the file is in use: {reported}");
}

#[test]
fn a_file_that_is_no_store_is_reported_and_left_alone() {
    let folder = Folder::new("foreign");
    filled(&folder);
    let good = fs::read(folder.store_file()).expect("is read");
    let cases = [
        ("empty", Vec::new()),
        ("short", good[..100].to_vec()),
        ("half", good[..good.len() / 2].to_vec()),
        ("a page less", good[..good.len() - 4_096].to_vec()),
        ("text", b"persistence true\n".repeat(1_000)),
        ("zeros", vec![0; good.len()]),
    ];
    for (name, bytes) in cases {
        fs::write(folder.store_file(), &bytes).expect("is written");
        match open(&folder.0) {
            Err(EngineError::Damaged { .. }) => {}
            other => panic!("{name}: {other:?}"),
        }
        assert!(
            fs::read(folder.store_file()).expect("is read") == bytes,
            "{name}: is left alone"
        );
    }
}

#[test]
fn a_newer_format_is_refused() {
    let folder = Folder::new("format");
    drop(open(&folder.0).expect("opens"));
    let database = redb::Database::open(folder.store_file()).expect("opens");
    let transaction = database.begin_write().expect("begins");
    let meta = redb::TableDefinition::<&str, u64>::new("meta");
    transaction
        .open_table(meta)
        .expect("opens")
        .insert("format", u64::from(FORMAT) + 1)
        .expect("inserts");
    transaction.commit().expect("commits");
    drop(database);
    let error = open(&folder.0).expect_err("is too new");
    assert!(
        matches!(error, EngineError::Format { found, .. } if found == FORMAT + 1),
        "{error}"
    );
}

/// Needs root, for the mount; says so where it is not.
#[test]
fn a_full_disk_answers_nothing_and_goes_on_when_there_is_space() {
    let folder = Folder::new("full");
    fs::create_dir_all(&folder.0).expect("is made");
    let mounted = Process::new("mount")
        .args(["-t", "tmpfs", "-o", "size=8m", "tmpfs"])
        .arg(&folder.0)
        .status()
        .is_ok_and(|status| status.success());
    if !mounted {
        eprintln!("skipped: cannot mount a small file system here");
        return;
    }
    let result = std::panic::catch_unwind(|| fill_and_go_on(&folder.0));
    let unmounted = Process::new("umount").arg(&folder.0).status();
    assert!(
        unmounted.is_ok_and(|status| status.success()),
        "is unmounted"
    );
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}

fn fill_and_go_on(folder: &Path) {
    let ballast = folder.join("ballast");
    fs::write(&ballast, vec![1; 3 << 20]).expect("is written");
    let mut store = open(&folder.join("store")).expect("opens");
    let mut answers = Vec::new();
    store
        .commit(1, 0, &[(0, alice())], &mut answers)
        .expect("commits");
    let mut batch = 2;
    let batch_of = |batch: u64| -> Vec<_> {
        (0..10)
            .map(|index| (0, publish(batch * 10 + index, 20_000)))
            .collect()
    };
    let error = loop {
        match store.commit(batch, 0, &batch_of(batch), &mut answers) {
            Ok(()) => batch += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, EngineError::Full { .. }), "{error}");
    for _ in 0..3 {
        let error = store
            .commit(batch, 0, &batch_of(batch), &mut answers)
            .expect_err("is still full");
        assert!(matches!(error, EngineError::Full { .. }), "{error}");
    }
    let appended = answers
        .iter()
        .filter(|(_, answer)| matches!(answer, Completion::Appended { .. }));
    assert_eq!(
        appended.count() as u64,
        (batch - 2) * 10,
        "nothing of the failed batch is answered"
    );
    fs::remove_file(&ballast).expect("is removed");
    store
        .commit(batch, 0, &batch_of(batch), &mut answers)
        .expect("commits again");
    drop(store);
    let mut store = open(&folder.join("store")).expect("opens");
    assert_eq!(
        read_all(&mut store, 1).len() as u64,
        (batch - 1) * 10,
        "each message is there once"
    );
}
