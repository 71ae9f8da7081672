//! The stores that are compared, behind one trait.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use edge_proto::packet::QoS;
use gateway::engine::claim::MessageId;
use gateway::engine::embedded::{Embedded, EmbeddedOptions};
use gateway::engine::redis::Redis;
use gateway::engine::redis::options::{ConnectOptions, Policy, RedisOptions};
use gateway::engine::{
    Append, Command, Completion, Delivery, Durability, Engine, MailboxLimits, Restored,
    RetainChange, SessionRecord, Token, WhenFull,
};
use gateway::message::{Message, MessageParts, SessionId};
use redb::{ReadableDatabase, ReadableTable, TableDefinition};

use crate::Outcome;

/// One waiting message: its mailbox, its place in the mailbox, its place in the order of arrival.
#[derive(Clone, Copy)]
pub(crate) struct Slot {
    pub(crate) session: u64,
    pub(crate) sequence: u64,
    pub(crate) position: u64,
}

/// How entries are keyed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// By (session, sequence): a mailbox is together, an append goes anywhere.
    Mailbox,
    /// By order of arrival: an append goes to the end, a mailbox is anywhere; memory knows where.
    Log,
}

/// How redb commits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    OnePhase,
    TwoPhase,
    /// Two phases, and the allocator state in each commit, so that an unclean stop needs no repair.
    QuickRepair,
}

pub(crate) trait Store: Sized {
    fn open(folder: &Path, layout: Layout, mode: Mode) -> Outcome<Self>;
    fn commit(&mut self, appends: &[Slot], acks: &[Slot], body: &[u8]) -> Outcome<()>;
    /// Makes the sessions that the steady workload is about, where a store knows of sessions.
    fn prepare(&mut self, _sessions: u64) -> Outcome<()> {
        Ok(())
    }
    /// Bytes of the entries of one mailbox.
    fn read(&mut self, slots: &[Slot]) -> Outcome<usize>;
    /// Entries in the store, each of them read.
    fn scan(&mut self) -> Outcome<u64>;
}

const BY_MAILBOX: TableDefinition<'_, (u64, u64), &[u8]> = TableDefinition::new("mailbox");
const BY_ARRIVAL: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");
const META: TableDefinition<'_, u8, u64> = TableDefinition::new("meta");

pub(crate) struct Redb {
    database: redb::Database,
    layout: Layout,
    mode: Mode,
    commits: u64,
}

impl Store for Redb {
    fn open(folder: &Path, layout: Layout, mode: Mode) -> Outcome<Self> {
        fs::create_dir_all(folder)?;
        let database = redb::Builder::new()
            .set_cache_size(64 << 20)
            .create(folder.join("store.redb"))?;
        let transaction = database.begin_write()?;
        transaction.open_table(BY_MAILBOX)?;
        transaction.open_table(BY_ARRIVAL)?;
        transaction.open_table(META)?;
        transaction.commit()?;
        Ok(Self {
            database,
            layout,
            mode,
            commits: 0,
        })
    }

    fn commit(&mut self, appends: &[Slot], acks: &[Slot], body: &[u8]) -> Outcome<()> {
        self.commits += 1;
        let mut transaction = self.database.begin_write()?;
        transaction.set_two_phase_commit(self.mode != Mode::OnePhase);
        transaction.set_quick_repair(self.mode == Mode::QuickRepair);
        if self.layout == Layout::Mailbox {
            let mut table = transaction.open_table(BY_MAILBOX)?;
            for slot in appends {
                table.insert((slot.session, slot.sequence), body)?;
            }
            let mut keys: Vec<_> = acks.iter().map(|s| (s.session, s.sequence)).collect();
            keys.sort_unstable();
            for key in keys {
                table.remove(key)?;
            }
        } else {
            let mut table = transaction.open_table(BY_ARRIVAL)?;
            for slot in appends {
                table.insert(slot.position, body)?;
            }
            let mut keys: Vec<_> = acks.iter().map(|slot| slot.position).collect();
            keys.sort_unstable();
            for key in keys {
                table.remove(key)?;
            }
        }
        transaction.open_table(META)?.insert(0, self.commits)?;
        transaction.commit()?;
        Ok(())
    }

    fn read(&mut self, slots: &[Slot]) -> Outcome<usize> {
        let transaction = self.database.begin_read()?;
        let mut bytes = 0;
        if self.layout == Layout::Mailbox {
            let table = transaction.open_table(BY_MAILBOX)?;
            let session = slots[0].session;
            for entry in table.range((session, 0)..=(session, u64::MAX))? {
                bytes += entry?.1.value().len();
            }
        } else {
            let table = transaction.open_table(BY_ARRIVAL)?;
            for slot in slots {
                bytes += table
                    .get(slot.position)?
                    .map_or(0, |body| body.value().len());
            }
        }
        Ok(bytes)
    }

    fn scan(&mut self) -> Outcome<u64> {
        let transaction = self.database.begin_read()?;
        let mut count = 0;
        for entry in transaction.open_table(BY_MAILBOX)?.iter()? {
            count += u64::from(!entry?.1.value().is_empty());
        }
        for entry in transaction.open_table(BY_ARRIVAL)?.iter()? {
            count += u64::from(!entry?.1.value().is_empty());
        }
        Ok(count)
    }
}

pub(crate) struct Fjall {
    database: fjall::Database,
    entries: fjall::Keyspace,
    layout: Layout,
}

impl Fjall {
    fn key(&self, slot: &Slot) -> Vec<u8> {
        match self.layout {
            Layout::Mailbox => [slot.session.to_be_bytes(), slot.sequence.to_be_bytes()].concat(),
            Layout::Log => slot.position.to_be_bytes().to_vec(),
        }
    }
}

impl Store for Fjall {
    fn open(folder: &Path, layout: Layout, _: Mode) -> Outcome<Self> {
        let database = fjall::Database::builder(folder)
            .cache_size(64 << 20)
            .worker_threads(1)
            .open()?;
        let entries = database.keyspace("entries", fjall::KeyspaceCreateOptions::default)?;
        Ok(Self {
            database,
            entries,
            layout,
        })
    }

    fn commit(&mut self, appends: &[Slot], acks: &[Slot], body: &[u8]) -> Outcome<()> {
        let mut batch = self
            .database
            .batch()
            .durability(Some(fjall::PersistMode::SyncData));
        for slot in appends {
            batch.insert(&self.entries, self.key(slot), body);
        }
        for slot in acks {
            batch.remove(&self.entries, self.key(slot));
        }
        batch.commit()?;
        Ok(())
    }

    fn read(&mut self, slots: &[Slot]) -> Outcome<usize> {
        let mut bytes = 0;
        if self.layout == Layout::Mailbox {
            for entry in self.entries.prefix(slots[0].session.to_be_bytes()) {
                bytes += entry.value()?.len();
            }
        } else {
            for slot in slots {
                bytes += self
                    .entries
                    .get(self.key(slot))?
                    .map_or(0, |body| body.len());
            }
        }
        Ok(bytes)
    }

    fn scan(&mut self) -> Outcome<u64> {
        let mut count = 0;
        for entry in self.entries.iter() {
            count += u64::from(!entry.value()?.is_empty());
        }
        Ok(count)
    }
}

/// An engine itself, with all that it does around redb or servers.
pub(crate) struct Roadstead<E = Embedded> {
    engine: E,
    batch: u64,
    /// Sequences that the engine gave, by position.
    sequences: BTreeMap<u64, u64>,
    sessions: BTreeSet<u64>,
}

/// An engine that the bench can open.
pub(crate) trait Open: Engine + Sized {
    fn open(folder: &Path) -> Outcome<Self>;
}

const LIMITS: MailboxLimits = MailboxLimits {
    messages_max: 1_000,
    bytes_max: u64::MAX,
    when_full: WhenFull::Reject,
};

impl Open for Embedded {
    fn open(folder: &Path) -> Outcome<Self> {
        let options = EmbeddedOptions {
            mailbox_limits: LIMITS,
            durability: Durability::Sync,
            cache_bytes: 64 << 20,
        };
        Ok(Self::open(folder, options, 0)?)
    }
}

impl Open for Redis {
    /// On the servers at `ENGINE_BENCH_URL`; the folder stays empty.
    fn open(folder: &Path) -> Outcome<Self> {
        static OPENED: AtomicU32 = AtomicU32::new(0);
        fs::create_dir_all(folder)?;
        let url = std::env::var("ENGINE_BENCH_URL")?;
        let connect = ConnectOptions::from_urls(&[url])?;
        let mut options = RedisOptions::new(connect, 0, LIMITS);
        let opened = OPENED.fetch_add(1, Ordering::Relaxed);
        options.prefix = format!("bench-{}-{opened}", std::process::id()).into();
        options.alone = true;
        options.policy = match std::env::var("ENGINE_BENCH_POLICY").as_deref() {
            Ok("aof") => Policy::Aof,
            Ok("replica") => Policy::Replica(1),
            _ => Policy::Memory,
        };
        let mut engine = Self::open(options, 0)?;
        engine.restore(&mut |_| {})?;
        Ok(engine)
    }
}

impl<E> Roadstead<E> {
    fn publish(slot: &Slot, body: &[u8]) -> Command {
        let message = Message::new(MessageParts {
            topic: "u/alice",
            properties: &[],
            payload: body,
            qos: QoS::AtLeastOnce,
            retain: false,
            expires_at_unix_ms: u64::MAX,
            publisher: SessionId(1),
        });
        let delivery = Delivery {
            qos: QoS::AtLeastOnce,
            retain: false,
            subscription_ids: Box::default(),
        };
        Command::Publish {
            token: Token(slot.position),
            id: MessageId::NONE,
            retry: false,
            message: Arc::new(message),
            appends: vec![Append {
                session: SessionId(slot.session),
                home: 0,
                delivery,
            }],
            received: None,
            retain: RetainChange::None,
        }
    }

    fn put(session: u64) -> Command {
        let record = SessionRecord {
            client_id: format!("client-{session}").into(),
            user: None,
            expiry_s: u32::MAX,
            disconnected_at_unix_ms: None,
            will: None,
        };
        Command::PutSession {
            token: Token(0),
            session: SessionId(session),
            record: Box::new(record),
        }
    }
}

impl<E: Open> Store for Roadstead<E> {
    fn open(folder: &Path, _: Layout, _: Mode) -> Outcome<Self> {
        Ok(Self {
            engine: E::open(folder)?,
            batch: 0,
            sequences: BTreeMap::new(),
            sessions: BTreeSet::new(),
        })
    }

    fn prepare(&mut self, sessions: u64) -> Outcome<()> {
        self.batch += 1;
        let puts: Vec<_> = (0..sessions)
            .map(|session| (0, Self::put(session)))
            .collect();
        self.sessions.extend(0..sessions);
        self.engine.commit(self.batch, 0, &puts, &mut Vec::new())?;
        Ok(())
    }

    fn commit(&mut self, appends: &[Slot], acks: &[Slot], body: &[u8]) -> Outcome<()> {
        self.batch += 1;
        let mut commands = Vec::with_capacity(appends.len() + acks.len());
        for slot in appends {
            if self.sessions.insert(slot.session) {
                commands.push((0, Self::put(slot.session)));
            }
            commands.push((0, Self::publish(slot, body)));
        }
        for slot in acks {
            let session = SessionId(slot.session);
            let sequence = self
                .sequences
                .remove(&slot.position)
                .unwrap_or(slot.sequence);
            commands.push((0, Command::Ack { session, sequence }));
        }
        let mut answers = Vec::with_capacity(2 * appends.len());
        self.engine.commit(self.batch, 0, &commands, &mut answers)?;
        if appends.is_empty() {
            self.engine.sync()?;
        }
        let sequences = answers.iter().filter_map(|(_, answer)| match answer {
            Completion::Appended { sequence, .. } => Some(*sequence),
            _ => None,
        });
        self.sequences
            .extend(appends.iter().map(|slot| slot.position).zip(sequences));
        Ok(())
    }

    fn read(&mut self, slots: &[Slot]) -> Outcome<usize> {
        self.batch += 1;
        let read = Command::ReadMailbox {
            token: Token(0),
            session: SessionId(slots[0].session),
            from: 0,
            messages_max: u32::MAX,
            bytes_max: u32::MAX,
        };
        let mut answers = Vec::new();
        self.engine
            .commit(self.batch, 0, &[(0, read)], &mut answers)?;
        let Some((_, Completion::MailboxPage { entries, .. })) = answers.pop() else {
            return Err("no page".into());
        };
        let messages = entries.iter().filter_map(|entry| entry.content.as_ref());
        Ok(messages.map(|(message, _)| message.payload().len()).sum())
    }

    fn scan(&mut self) -> Outcome<u64> {
        let mut count = 0;
        self.engine.restore(&mut |item| {
            if let Restored::Session { mailbox, .. } = item {
                count += mailbox.messages;
            }
        })?;
        Ok(count)
    }
}
