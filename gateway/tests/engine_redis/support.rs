//! What the tests share: nodes on a store, simple commands, a proxy that cuts connections.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::thread;
use std::time::Duration;

use edge_proto::packet::QoS;
use gateway::engine::claim::{ClaimOutcome, MessageId, partition_of_session};
use gateway::engine::redis::Redis;
use gateway::engine::redis::options::{ConnectOptions, RedisOptions};
use gateway::engine::{
    Append, Command, Completion, Delivery, Engine, EngineError, MailboxEntry, MailboxLimits,
    Restored, RetainChange, SessionRecord, Token, WhenFull,
};
use gateway::message::{Message, MessageParts, SessionId};

/// Time of all commits, so that nothing depends on it.
pub(crate) const UNIX_MS: u64 = 10;

/// Limits that tests do not meet.
pub(crate) const ROOMY: MailboxLimits = MailboxLimits {
    messages_max: 1_000_000,
    bytes_max: u64::MAX,
    when_full: WhenFull::Reject,
};

/// Options of a node.
pub(crate) fn options(connect: ConnectOptions, node: u64) -> RedisOptions {
    RedisOptions::new(connect, node, ROOMY)
}

/// A node's engine, and the number of its next batch.
pub(crate) struct Node {
    pub(crate) engine: Redis,
    batch: u64,
}

impl Node {
    pub(crate) fn open(options: RedisOptions) -> Self {
        Self {
            engine: Redis::open(options, UNIX_MS).expect("opens"),
            batch: 0,
        }
    }

    /// One attempt. A batch that failed has to be tried again before the next one.
    pub(crate) fn attempt(
        &mut self,
        commands: &[(u16, Command)],
    ) -> Result<Vec<(u16, Completion)>, EngineError> {
        let mut answers = Vec::new();
        let batch = self.batch + 1;
        self.engine.commit(batch, UNIX_MS, commands, &mut answers)?;
        self.batch = batch;
        Ok(answers)
    }

    /// Tries until it works.
    pub(crate) fn commit(&mut self, commands: &[(u16, Command)]) -> Vec<(u16, Completion)> {
        let mut last = None;
        for _ in 0..200 {
            match self.attempt(commands) {
                Ok(answers) => return answers,
                Err(error) => last = Some(error),
            }
            thread::park_timeout(Duration::from_millis(20));
        }
        panic!("never committed: {last:?}");
    }

    pub(crate) fn one(&mut self, command: Command) -> Vec<Completion> {
        let answers = self.commit(&[(0, command)]);
        answers.into_iter().map(|(_, answer)| answer).collect()
    }

    /// Claims a partition; what it holds.
    pub(crate) fn claim(&mut self, partition: u16, epoch: u64) -> (ClaimOutcome, Vec<Restored>) {
        let mut found = Vec::new();
        for answer in self.one(claim(partition, epoch)) {
            match answer {
                Completion::Loaded { items, .. } => found.extend(items),
                Completion::Claimed { outcome, .. } => return (outcome, found),
                other => panic!("{other:?}"),
            }
        }
        panic!("no answer to a claim")
    }

    pub(crate) fn mailbox(&mut self, session: SessionId) -> Vec<MailboxEntry> {
        match self.one(read(session)).as_slice() {
            [Completion::MailboxPage { entries, .. }] => entries.clone(),
            other => panic!("{other:?}"),
        }
    }

    /// The numbers of the messages of a mailbox, see [`publish`].
    pub(crate) fn numbers(&mut self, session: SessionId) -> Vec<u64> {
        self.mailbox(session)
            .iter()
            .map(|entry| number(&entry.content.as_ref().expect("a message").0))
            .collect()
    }
}

pub(crate) fn claim(partition: u16, epoch: u64) -> Command {
    Command::Claim {
        token: Token(u64::from(partition)),
        partition,
        epoch,
    }
}

pub(crate) fn read(session: SessionId) -> Command {
    Command::ReadMailbox {
        token: Token(1),
        session,
        from: 0,
        messages_max: u32::MAX,
        bytes_max: u32::MAX,
    }
}

/// The client identifier of a session.
pub(crate) fn name(session: SessionId) -> String {
    format!("client-{}", session.0)
}

/// Where a session of [`put`] is kept.
pub(crate) fn home(session: SessionId) -> u16 {
    partition_of_session(&Default::default(), session, &name(session))
}

pub(crate) fn put(session: SessionId) -> Command {
    let record = SessionRecord {
        client_id: name(session).into(),
        user: None,
        expiry_s: u32::MAX,
        disconnected_at_unix_ms: None,
        will: None,
    };
    Command::PutSession {
        token: Token(session.0),
        session,
        record: Box::new(record),
    }
}

pub(crate) fn message(topic: &str, number: u64, payload_bytes: usize) -> Arc<Message> {
    let mut payload = number.to_be_bytes().to_vec();
    payload.resize(payload_bytes.max(8), 7);
    Arc::new(Message::new(MessageParts {
        topic,
        properties: &[],
        payload: &payload,
        qos: QoS::ExactlyOnce,
        retain: false,
        expires_at_unix_ms: u64::MAX,
        publisher: SessionId(0),
    }))
}

/// A message with a number to sessions.
pub(crate) fn publish(number: u64, sessions: &[SessionId], payload_bytes: usize) -> Command {
    let append = |&session: &SessionId| Append {
        session,
        home: 0,
        delivery: Delivery {
            qos: QoS::AtLeastOnce,
            retain: false,
            subscription_ids: Box::default(),
        },
    };
    Command::Publish {
        token: Token(number),
        message: message("t/1", number, payload_bytes),
        id: MessageId { origin: 1, number },
        retry: false,
        appends: sessions.iter().map(append).collect(),
        received: None,
        retain: RetainChange::None,
    }
}

pub(crate) fn number(message: &Message) -> u64 {
    u64::from_be_bytes(*message.payload().first_chunk().expect("a number"))
}

/// Stands between a node and a server, and cuts a connection after so many more bytes.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    /// Bytes towards the server until the cut; negative: never.
    left: Arc<AtomicI64>,
}

impl Proxy {
    pub(crate) fn start(server: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let left = Arc::new(AtomicI64::new(-1));
        let shared = Arc::clone(&left);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(upstream) = TcpStream::connect((Ipv4Addr::LOCALHOST, server)) else {
                    continue;
                };
                let back = (
                    upstream.try_clone().expect("cloned"),
                    client.try_clone().expect("cloned"),
                );
                let left = Arc::clone(&shared);
                thread::spawn(move || forward(client, upstream, Some(&left)));
                thread::spawn(move || forward(back.0, back.1, None));
            }
        });
        Self { port, left }
    }

    /// Cuts whatever connection has the byte after so many.
    pub(crate) fn cut_after(&self, bytes: i64) {
        self.left.store(bytes, Ordering::SeqCst);
    }

    /// True exactly when the cut is still to come.
    pub(crate) fn is_armed(&self) -> bool {
        self.left.load(Ordering::SeqCst) >= 0
    }
}

fn forward(mut from: TcpStream, mut to: TcpStream, left: Option<&AtomicI64>) {
    let mut buffer = [0; 4_096];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        let mut pass = count;
        let mut cut = false;
        if let Some(left) = left {
            let before = left.load(Ordering::SeqCst);
            if before >= 0 {
                cut = before < count as i64;
                pass = pass.min(before as usize);
                let after = if cut { -1 } else { before - count as i64 };
                left.store(after, Ordering::SeqCst);
            }
        }
        if to.write_all(&buffer[..pass]).is_err() || cut {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}

/// What is in the mailboxes of sessions, after a new node has claimed all of them.
pub(crate) fn contents(
    mut options: RedisOptions,
    epoch: u64,
    sessions: &[SessionId],
) -> BTreeMap<SessionId, Vec<u64>> {
    options.node += 1_000 + epoch;
    let mut node = Node::open(options);
    sessions
        .iter()
        .map(|&session| {
            let (outcome, _) = node.claim(home(session), epoch);
            assert_eq!(outcome, ClaimOutcome::Held);
            (session, node.numbers(session))
        })
        .collect()
}
