//! The engine of a node: opened, read back and sorted by core, then handed to its thread.

use std::ops::Range;

use edge_proto::topic::RootDepths;
use foldhash::fast::FixedState;
use hashbrown::HashMap;
use reactor::mesh::InboxSender;

use crate::config::Config;
use crate::control::cluster::Life;
use crate::control::status::StoreFacts;
use crate::engine::embedded::{Embedded, EmbeddedOptions, make_folder};
use crate::engine::redis::Redis;
use crate::engine::thread::{CommandSender, CompletionSink, EngineEvent, EngineThread};
use crate::engine::{Command, Completion, Durability, Engine, EngineError, Restored};
use crate::message::SessionId;
use crate::ownership::{Ownership, home_partition};

use super::StartError;
use super::servers::redis_options;

/// An open store and what it holds, by core.
pub(super) struct Store {
    engine: Boxed,
    /// What it is.
    pub(super) facts: StoreFacts,
    /// Counts the starts of the store.
    pub(super) boot: u32,
    is_shared: bool,
    restored: Vec<Vec<(Restored, u16)>>,
}

impl Store {
    /// Opens the store and reads all of it.
    pub(super) fn open(
        config: &Config,
        ownership: &Ownership,
        unix_ms: u64,
    ) -> Result<Self, StartError> {
        let mut sorter = Sorter::new(ownership, config.root_depths());
        let Some((options, facts)) = redis_options(config, true)? else {
            let mut engine = Self::open_embedded(config, unix_ms)?;
            engine.restore(&mut |item| sorter.sort(item))?;
            return Ok(Self {
                boot: engine.boot_count(),
                engine: Boxed(Box::new(engine)),
                facts: StoreFacts::of(config),
                is_shared: false,
                restored: sorter.by_core,
            });
        };
        // What a node makes for itself stays with it: its secrets, and who is banned.
        make_folder(&config.engine.path).map_err(|source| EngineError::Open {
            path: config.engine.path.display().to_string(),
            source,
        })?;
        let mut engine = Redis::open(options, unix_ms)?;
        engine.restore(&mut |item| sorter.sort(item))?;
        Ok(Self {
            boot: engine.boot_count(),
            engine: Boxed(Box::new(engine)),
            facts,
            is_shared: false,
            restored: sorter.by_core,
        })
    }

    fn open_embedded(config: &Config, unix_ms: u64) -> Result<Embedded, EngineError> {
        let options = EmbeddedOptions {
            mailbox_limits: config.mailbox_limits(),
            durability: config.durability(),
            cache_bytes: config.engine.cache_bytes.as_usize(),
        };
        if config.durability() == Durability::Relaxed {
            tracing::warn!(
                interval = ?config.engine.sync_interval,
                "engine.durability is \"relaxed\": a power failure loses what was acknowledged within the interval"
            );
        }
        Embedded::open(&config.engine.path, options, unix_ms)
    }

    /// Takes a store that nodes share, of which each core reads what it has claimed.
    pub(super) fn shared(engine: Box<dyn Engine + Send>, facts: StoreFacts, life: &Life) -> Self {
        Self {
            engine: Boxed(engine),
            facts,
            // HAND-OVER: ids of sessions have room for 15 bits of it and 8 of the core number; a cluster needs more.
            boot: life.joined as u32,
            is_shared: true,
            restored: life.ownership.here().map(|_| Vec::new()).collect(),
        }
    }

    /// Starts the engine thread; returns its queues and what each core takes over.
    #[expect(clippy::type_complexity, reason = "three lists, taken apart at once")]
    pub(super) fn start(
        self,
        config: &Config,
        cores: Range<u16>,
        completions: Vec<InboxSender<Completion>>,
    ) -> std::io::Result<(EngineThread, Vec<CommandSender>, Vec<Vec<(Restored, u16)>>)> {
        let sink = ToCores {
            completions,
            is_shared: self.is_shared,
            was_deposed: false,
        };
        let limits = config.engine_limits();
        let (thread, commands) = EngineThread::spawn(self.engine, cores, limits, sink, log_event)?;
        Ok((thread, commands, self.restored))
    }
}

/// An engine of either kind. A call for each batch is nothing beside the batch.
struct Boxed(Box<dyn Engine + Send>);

impl Engine for Boxed {
    fn boot_count(&self) -> u32 {
        self.0.boot_count()
    }

    fn restore(&mut self, sink: &mut dyn FnMut(Restored)) -> Result<(), EngineError> {
        self.0.restore(sink)
    }

    fn commit(
        &mut self,
        batch: u64,
        unix_ms: u64,
        commands: &[(u16, Command)],
        completions: &mut Vec<(u16, Completion)>,
    ) -> Result<(), EngineError> {
        self.0.commit(batch, unix_ms, commands, completions)
    }

    fn sync(&mut self) -> Result<(), EngineError> {
        self.0.sync()
    }

    fn disk_bytes(&self) -> u64 {
        self.0.disk_bytes()
    }
}

fn log_event(event: EngineEvent<'_>) {
    match event {
        EngineEvent::Failing { error } => {
            tracing::error!(%error, "the engine cannot store; nothing is acknowledged meanwhile");
        }
        EngineEvent::Recovered { after } => tracing::info!(?after, "the engine stores again"),
    }
}

/// Hands completions to the inboxes of the cores.
struct ToCores {
    completions: Vec<InboxSender<Completion>>,
    /// True when the nodes of a cluster share the store: then one takes over from another with each view.
    is_shared: bool,
    /// True exactly when that was said.
    was_deposed: bool,
}

impl CompletionSink for ToCores {
    fn deliver(&mut self, core: u16, completion: Completion) -> Result<(), Completion> {
        let is_deposed = matches!(completion, Completion::Deposed { .. }) && !self.is_shared;
        if is_deposed && !self.was_deposed {
            self.was_deposed = true;
            tracing::error!(
                "another node has taken the store over: what this one is to store is neither stored nor acknowledged; stop one of them, or \
                 give each an engine.prefix of its own"
            );
        }
        self.completions[usize::from(core)].send(completion)
    }

    fn wake(&mut self, _core: u16) {
        // Every send has woken it already, which costs nothing while it is awake.
    }
}

/// Finds the cores that an item of the store concerns.
struct Sorter<'a> {
    ownership: &'a Ownership,
    root_depths: RootDepths,
    homes: HashMap<SessionId, u16, FixedState>,
    by_core: Vec<Vec<(Restored, u16)>>,
}

impl<'a> Sorter<'a> {
    fn new(ownership: &'a Ownership, root_depths: RootDepths) -> Self {
        let by_core = (0..ownership.here().len()).map(|_| Vec::new()).collect();
        Self {
            ownership,
            root_depths,
            homes: HashMap::default(),
            by_core,
        }
    }

    fn sort(&mut self, item: Restored) {
        match &item {
            Restored::Session {
                session, record, ..
            } if session.is_group_queue() => {
                let filter = &record.client_id;
                let core = self
                    .ownership
                    .core_of_queue(&self.root_depths, *session, filter);
                self.by_core[usize::from(core)].push((item, core));
            }
            Restored::Session {
                session, record, ..
            } => {
                let home = home_partition(record.home_name());
                let core = self.ownership.core_of(home);
                self.homes.insert(*session, home);
                self.by_core[usize::from(core)].push((item, home));
            }
            Restored::Subscription {
                session, filter, ..
            } => {
                let Some(home) = self.homes.get(session).copied() else {
                    return;
                };
                let owners = self.ownership.owners_of_filter(&self.root_depths, filter);
                let core = self.ownership.core_of(home);
                if !owners.contains(&core) {
                    self.by_core[usize::from(core)].push((item.clone(), home));
                }
                for core in owners {
                    self.by_core[usize::from(*core)].push((item.clone(), home));
                }
            }
            Restored::Route { .. } => {} // Of a store that nodes share.
            Restored::Retained { message } => {
                let root = self.root_depths.root_of_topic(message.topic());
                let core = self.ownership.core_of_root(root);
                self.by_core[usize::from(core)].push((item, core));
            }
        }
    }
}
