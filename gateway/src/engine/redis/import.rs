//! Fills an empty store with what another one holds: the same sessions, messages and sequences, so that clients go on as if nothing had
//! happened. Everything is written so that it can be written again: an import that was interrupted is repeated from the start.
//!
//! How far it is stands in the hash `P:{T}:import` of partition 0: `state`, which is `running` or `complete`, and `source`, what stands for the
//! content that is moved.
//!
//! **Invariant**: nothing that a node has written is ever changed. The store is empty before the first write, or holds an interrupted import
//! of the same content, and no node has claimed a partition until the end.

use std::collections::BTreeMap;

use cluster::partition::{PARTITIONS, partition_of};
use redis::{Cmd, Value};

use crate::engine::claim::{ReceivedId, partition_of_filter, partition_of_session};
use crate::engine::embedded::records as stored;
use crate::engine::redis::keys::{Keys, decimal};
use crate::engine::redis::mirror::Slot;
use crate::engine::redis::options::{Policy, RedisOptions};
use crate::engine::redis::records;
use crate::engine::redis::server::{Request, Servers, ServersError, mark_all_again};
use crate::engine::{MailboxEntry, MailboxSummary, SessionRecord, SubscriptionRecord};
use crate::message::{Message, SessionId};

/// Bytes of commands that are sent together.
const FLUSH_BYTES: usize = 1 << 20;
/// Bytes of messages in one command.
const COMMAND_BYTES: usize = 256 << 10;
/// Questions that are asked together.
const QUESTIONS: usize = 2_048;
/// How often a batch is tried before the import gives up; it can be resumed.
const ATTEMPTS: u32 = 5;

/// Why an import did not go on, whose fault it is, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The servers did not do what they were asked.
    #[error("{0}; nothing is lost: repeat it with --resume")]
    Servers(#[from] ServersError),
    /// A node uses the store, or has.
    #[error(
        "a node has used the store with engine.prefix = \"{prefix}\": what it holds is not changed; choose another engine.prefix, or empty it"
    )]
    InUse {
        /// The prefix of its keys.
        prefix: Box<str>,
    },
    /// There is something that no import has written.
    #[error(
        "there are keys with engine.prefix = \"{prefix}\" already, in {partitions} partitions: they are not changed; choose another engine.prefix"
    )]
    NotEmpty {
        /// The prefix of its keys.
        prefix: Box<str>,
        /// How many partitions have some.
        partitions: usize,
    },
    /// An import was begun and not ended.
    #[error(
        "a migration into engine.prefix = \"{prefix}\" was interrupted; go on with it by --resume"
    )]
    Interrupted {
        /// The prefix of its keys.
        prefix: Box<str>,
    },
    /// Nothing was begun.
    #[error("no migration into engine.prefix = \"{prefix}\" was interrupted; leave --resume out")]
    NothingToResume {
        /// The prefix of its keys.
        prefix: Box<str>,
    },
    /// An import has ended here.
    #[error("a migration into engine.prefix = \"{prefix}\" is complete: start the node")]
    Complete {
        /// The prefix of its keys.
        prefix: Box<str>,
    },
    /// The source is not what it was when the interrupted import began.
    #[error(
        "the store that is moved has changed since the interrupted migration into engine.prefix = \"{prefix}\"; begin anew with another prefix"
    )]
    Changed {
        /// The prefix of its keys.
        prefix: Box<str>,
    },
    /// Something else was read back than was written.
    #[error(
        "{wanted} {what} were written and {found} are there; the migration is not complete: look at the log of the servers, and repeat it with --resume"
    )]
    Differs {
        /// What was counted.
        what: &'static str,
        /// How many there should be.
        wanted: u64,
        /// How many there are.
        found: u64,
    },
}

/// What a partition must have at the end.
#[derive(Clone, Copy, Debug, Default)]
struct Expected {
    sessions: u64,
    retained: u64,
    routes: u64,
    /// Above all sequences of its mailboxes.
    floor: u64,
}

/// What a session must have at the end.
#[derive(Debug)]
struct ExpectedSession {
    session: SessionId,
    partition: u16,
    fields: u64,
    messages: u64,
}

/// A question how many there are.
struct Count {
    what: &'static str,
    command: &'static str,
    key: String,
    partition: u16,
    wanted: u64,
}

/// An import on its way.
#[derive(Debug)]
pub struct Import {
    options: RedisOptions,
    servers: Servers,
    keys: Keys,
    waiting: Vec<Request>,
    waiting_bytes: usize,
    partitions: BTreeMap<u16, Expected>,
    sessions: Vec<ExpectedSession>,
}

impl Import {
    /// Begins an import of content that `source` stands for, or goes on with an interrupted one of the same content.
    ///
    /// # Errors
    /// The store has something else, or what `resume` says is not so.
    pub fn begin(options: RedisOptions, source: u64, resume: bool) -> Result<Self, ImportError> {
        let servers = Servers::new(options.connect.clone(), &[]);
        let mut import = Self {
            keys: Keys::new(&options.prefix),
            options,
            servers,
            waiting: Vec::new(),
            waiting_bytes: 0,
            partitions: BTreeMap::new(),
            sessions: Vec::new(),
        };
        let prefix = || import.options.prefix.clone();
        let marker = import.keys.key(0, "import");
        let state = import
            .servers
            .call(0, redis::cmd("HGET").arg(&marker).arg("state"))?;
        let began = import
            .servers
            .call(0, redis::cmd("HGET").arg(&marker).arg("source"))?;
        let is = |value: &Value, text: &str| *value == Value::BulkString(text.into());
        let source = format!("{source:016x}");
        match (&state, resume) {
            (state, _) if is(state, "complete") => {
                return Err(ImportError::Complete { prefix: prefix() });
            }
            (Value::Nil, true) => return Err(ImportError::NothingToResume { prefix: prefix() }),
            (Value::Nil, false) => import.check_empty()?,
            (_, false) => return Err(ImportError::Interrupted { prefix: prefix() }),
            (_, true) if !is(&began, &source) => {
                return Err(ImportError::Changed { prefix: prefix() });
            }
            (_, true) => import.check_unused()?,
        }
        let mut command = redis::cmd("HSET");
        command
            .arg(&marker)
            .arg("state")
            .arg("running")
            .arg("source")
            .arg(&source);
        import.put(0, &command)?;
        import.flush()?;
        Ok(import)
    }

    /// A session with what belongs to it but its subscriptions and messages.
    ///
    /// # Errors
    /// [`ImportError::Servers`].
    pub fn session(
        &mut self,
        session: SessionId,
        record: &SessionRecord,
        mailbox: MailboxSummary,
        received: &[ReceivedId],
    ) -> Result<(), ImportError> {
        let partition = partition_of_session(&self.options.depths, session, record.home_name());
        let expected = self.partitions.entry(partition).or_default();
        expected.sessions += 1;
        expected.floor = expected.floor.max(mailbox.next);
        self.sessions.push(ExpectedSession {
            session,
            partition,
            fields: 1 + received.len() as u64,
            messages: 0,
        });
        let mut command = redis::cmd("SADD");
        command
            .arg(self.keys.sessions(partition))
            .arg(decimal(session));
        self.put(partition, &command)?;
        let mut command = redis::cmd("HSET");
        command.arg(self.keys.session(partition, session));
        command.arg("r").arg(stored::session(record));
        for ReceivedId { packet_id, message } in received {
            command
                .arg(format!("p{packet_id}"))
                .arg(&records::message_id(*message)[..]);
        }
        self.put(partition, &command)
    }

    /// A subscription of the session that came last.
    ///
    /// # Errors
    /// [`ImportError::Servers`].
    pub fn subscription(
        &mut self,
        filter: &str,
        record: SubscriptionRecord,
    ) -> Result<(), ImportError> {
        let Some(owner) = self.sessions.last_mut() else {
            return Ok(());
        };
        owner.fields += 1;
        let (session, partition) = (owner.session, owner.partition);
        let mut command = redis::cmd("HSET");
        command.arg(self.keys.session(partition, session));
        command
            .arg(format!("f{filter}"))
            .arg(&stored::subscription(record)[..]);
        self.put(partition, &command)?;
        let Some(root) = partition_of_filter(&self.options.depths, filter) else {
            return Ok(());
        };
        self.partitions.entry(root).or_default().routes += 1;
        let mut command = redis::cmd("HSET");
        command.arg(self.keys.routes(root));
        command
            .arg(records::route_field(session, filter))
            .arg(records::route(partition, record));
        self.put(root, &command)
    }

    /// Messages of the session that came last, in any number of calls.
    ///
    /// # Errors
    /// [`ImportError::Servers`].
    pub fn messages(&mut self, entries: &[MailboxEntry]) -> Result<(), ImportError> {
        let Some(owner) = self.sessions.last_mut() else {
            return Ok(());
        };
        owner.messages += entries.len() as u64;
        let (session, partition) = (owner.session, owner.partition);
        let key = self.keys.mailbox(partition, session);
        let mut entries = entries.iter().peekable();
        while entries.peek().is_some() {
            let (mut command, mut bytes) = (redis::cmd("HSET"), 0);
            command.arg(&key);
            while bytes < COMMAND_BYTES
                && let Some(entry) = entries.next()
            {
                let (cost, value) = match &entry.content {
                    Some((message, delivery)) => {
                        (message.queued_bytes(), records::entry(message, delivery))
                    }
                    None => (0, Vec::new()),
                };
                let slot = Slot {
                    sequence: entry.sequence,
                    bytes: u32::try_from(cost).expect("an MQTT packet has at most 256 MiB"),
                };
                bytes += value.len();
                command.arg(records::field(slot)).arg(value);
            }
            self.put(partition, &command)?;
        }
        Ok(())
    }

    /// A retained message.
    ///
    /// # Errors
    /// [`ImportError::Servers`].
    pub fn retained(&mut self, message: &Message) -> Result<(), ImportError> {
        let partition = partition_of(self.options.depths.root_of_topic(message.topic()));
        self.partitions.entry(partition).or_default().retained += 1;
        let mut value = Vec::new();
        message.encode(&mut value);
        let mut command = redis::cmd("HSET");
        command
            .arg(self.keys.retained(partition))
            .arg(message.topic())
            .arg(value);
        self.put(partition, &command)
    }

    /// Reads back how much of everything there is, and marks the import as complete.
    ///
    /// # Errors
    /// [`ImportError::Differs`], [`ImportError::InUse`] or [`ImportError::Servers`].
    pub fn finish(mut self) -> Result<(), ImportError> {
        let floors: Vec<_> = self
            .partitions
            .iter()
            .map(|(partition, expected)| (*partition, expected.floor))
            .collect();
        for (partition, floor) in floors {
            // Below this a sequence may have been used: the writer goes on above.
            let mut command = redis::cmd("HSET");
            command
                .arg(self.keys.fence(partition))
                .arg("n")
                .arg(floor.max(1));
            self.put(partition, &command)?;
        }
        self.flush()?;
        self.compare()?;
        self.check_unused()?;
        let mut command = redis::cmd("HSET");
        command
            .arg(self.keys.key(0, "import"))
            .arg("state")
            .arg("complete");
        self.put(0, &command)?;
        self.flush()
    }

    /// Compares what is there with what was written.
    fn compare(&mut self) -> Result<(), ImportError> {
        for some in self.counts().chunks(QUESTIONS) {
            let question = |count: &Count| {
                Request::new(count.partition, redis::cmd(count.command).arg(&count.key))
            };
            let mut questions: Vec<_> = some.iter().map(question).collect();
            let replies = self.servers.call_many(&mut questions, Policy::Memory)?;
            for (&Count { what, wanted, .. }, reply) in some.iter().zip(replies) {
                let found = match reply {
                    Value::Int(found) => u64::try_from(found).unwrap_or(0),
                    _ => 0,
                };
                if found != wanted {
                    return Err(ImportError::Differs {
                        what,
                        wanted,
                        found,
                    });
                }
            }
        }
        Ok(())
    }

    /// Everything that is counted.
    fn counts(&self) -> Vec<Count> {
        let mut counts = Vec::new();
        for (&partition, expected) in &self.partitions {
            let keys = [
                (
                    "sessions",
                    "SCARD",
                    self.keys.sessions(partition),
                    expected.sessions,
                ),
                (
                    "retained messages",
                    "HLEN",
                    self.keys.retained(partition),
                    expected.retained,
                ),
                (
                    "routes",
                    "HLEN",
                    self.keys.routes(partition),
                    expected.routes,
                ),
            ];
            counts.extend(keys.map(|(what, command, key, wanted)| Count {
                what,
                command,
                key,
                partition,
                wanted,
            }));
        }
        for expected in &self.sessions {
            let (session, partition) = (expected.session, expected.partition);
            let fields = self.keys.session(partition, session);
            let mailbox = self.keys.mailbox(partition, session);
            let keys = [
                ("fields of a session", fields, expected.fields),
                ("messages of a session", mailbox, expected.messages),
            ];
            counts.extend(keys.map(|(what, key, wanted)| Count {
                what,
                command: "HLEN",
                key,
                partition,
                wanted,
            }));
        }
        counts
    }

    /// No partition has anything.
    fn check_empty(&mut self) -> Result<(), ImportError> {
        self.check_unused()?;
        let exist = |keys: &Keys, partition| {
            let mut command = redis::cmd("EXISTS");
            command
                .arg(keys.fence(partition))
                .arg(keys.sessions(partition));
            command
                .arg(keys.retained(partition))
                .arg(keys.routes(partition));
            command
        };
        let replies = self.ask_all(exist)?;
        match replies
            .iter()
            .filter(|reply| **reply != Value::Int(0))
            .count()
        {
            0 => Ok(()),
            partitions => Err(ImportError::NotEmpty {
                prefix: self.options.prefix.clone(),
                partitions,
            }),
        }
    }

    /// No node has claimed a partition.
    fn check_unused(&mut self) -> Result<(), ImportError> {
        let writer = |keys: &Keys, partition| {
            let mut command = redis::cmd("HGET");
            command.arg(keys.fence(partition)).arg("w");
            command
        };
        let replies = self.ask_all(writer)?;
        if replies.iter().all(|reply| *reply == Value::Nil) {
            return Ok(());
        }
        Err(ImportError::InUse {
            prefix: self.options.prefix.clone(),
        })
    }

    /// The same question about every partition.
    fn ask_all(&mut self, question: impl Fn(&Keys, u16) -> Cmd) -> Result<Vec<Value>, ImportError> {
        let partitions: Vec<u16> = (0..PARTITIONS).collect();
        let mut replies = Vec::with_capacity(partitions.len());
        for some in partitions.chunks(QUESTIONS) {
            let question =
                |partition: &u16| Request::new(*partition, &question(&self.keys, *partition));
            let mut questions: Vec<_> = some.iter().map(question).collect();
            replies.extend(self.servers.call_many(&mut questions, Policy::Memory)?);
        }
        Ok(replies)
    }

    fn put(&mut self, partition: u16, command: &Cmd) -> Result<(), ImportError> {
        let request = Request::new(partition, command);
        self.waiting_bytes += request.packed.len();
        self.waiting.push(request);
        if self.waiting_bytes < FLUSH_BYTES {
            return Ok(());
        }
        self.flush()
    }

    /// Sends what waits, until it is confirmed.
    fn flush(&mut self) -> Result<(), ImportError> {
        self.waiting_bytes = 0;
        let mut requests = std::mem::take(&mut self.waiting);
        if requests.is_empty() {
            return Ok(());
        }
        let mut attempt = 1;
        loop {
            match self.servers.call_many(&mut requests, self.options.policy) {
                Ok(_replies) => return Ok(()),
                Err(error @ (ServersError::Refused { .. } | ServersError::Full { .. })) => {
                    return Err(error.into());
                }
                Err(error) if attempt >= ATTEMPTS => return Err(error.into()),
                Err(_error) => attempt += 1,
            }
            mark_all_again(&mut requests);
        }
    }
}
