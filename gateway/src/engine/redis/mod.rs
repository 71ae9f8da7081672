//! The store that nodes share: Valkey or Redis, one server, primary and replica, or a cluster.
//!
//! A partition is a slot of the servers, and has one writer: the node that claimed it last. Its claim is in the *fence* of the
//! partition, and every change is a script that looks there first. What the writer has to know in order to decide (which sessions,
//! what each message in a mailbox costs, which ids came last) it has in a mirror in memory, the messages are on the servers only.
//! **The mirror decides, the servers follow**: changes are absolute, so that they can be sent again when nobody knows whether they
//! were made, and a batch that failed goes on where it stopped.
//!
//! A batch goes to the servers in passes, usually one; a pass is one pipeline to each server and one WAIT behind it, and more only for
//! what has to be in order (`pass.rs`). What is where: `keys.rs`. Why, and the figures: `docs/decisions/0016-engine-on-valkey.md`.

mod changes;
mod confirm;
mod error;
pub mod import;
pub mod inspect;
pub mod keys;
mod link;
mod load;
mod mailbox;
mod mirror;
pub mod options;
mod pass;
mod plan;
mod records;
pub mod server;
mod topology;
pub mod views;

use std::collections::BTreeSet;
use std::sync::Arc;

use redis::Value;

use cluster::partition::PARTITIONS;

use crate::engine::claim::ClaimOutcome;
use crate::engine::redis::keys::Keys;
use crate::engine::redis::load::{Claim, Pages};
use crate::engine::redis::mirror::Mirror;
use crate::engine::redis::options::RedisOptions;
use crate::engine::redis::pass::{Pass, PassError};
use crate::engine::redis::plan::{Plan, Planner};
use crate::engine::redis::server::{Servers, ServersError};
use crate::engine::{Command, Completion, Engine, EngineError, Restored};
use crate::message::{Message, MessageParts, SessionId};

/// The scripts; the constants below are their places.
const SCRIPTS: &[&str] = &[
    include_str!("scripts/apply.lua"),
    include_str!("scripts/read.lua"),
    include_str!("scripts/claim.lua"),
];
const APPLY: usize = 0;
const READ: usize = 1;
const CLAIM: usize = 2;

/// Partitions that are claimed at once when the store is opened.
const CLAIMS_AT_ONCE: usize = 512;

/// A store on servers; see the module.
#[derive(Debug)]
pub struct Redis {
    options: RedisOptions,
    servers: Servers,
    keys: Keys,
    /// What names each script on the servers.
    hashes: [Box<str>; 3],
    mirror: Mirror,
    boot_count: u32,
    /// When it was opened, or of its last batch, in milliseconds of Unix time.
    unix_ms: u64,
    /// The batch that was begun and not answered.
    attempt: Option<Attempt>,
    /// True exactly when something was written that no WAIT has confirmed.
    unconfirmed: bool,
    /// Stands for messages that are still to be read.
    unread: Arc<Message>,
}

#[derive(Debug)]
struct Attempt {
    batch: u64,
    /// How many commands are done, or in the pass.
    planned: usize,
    pass: Option<Pass>,
    answers: Vec<(u16, Completion)>,
}

impl Redis {
    /// Connects, and counts this start if the node has the store alone.
    ///
    /// # Errors
    /// [`EngineError::Server`]: no server can be reached, or it refuses.
    pub fn open(options: RedisOptions, unix_ms: u64) -> Result<Self, EngineError> {
        let servers = Servers::new(options.connect.clone(), SCRIPTS)
            .with_pipeline_bytes_max(options.pipeline_bytes_max);
        let hash = |script: &&str| redis::Script::new(script).get_hash().into();
        let mut store = Self {
            keys: Keys::new(&options.prefix),
            servers,
            hashes: [APPLY, READ, CLAIM].map(|index| hash(&SCRIPTS[index])),
            mirror: Mirror::default(),
            boot_count: 1,
            unix_ms,
            attempt: None,
            unconfirmed: false,
            unread: Arc::new(unread()),
            options,
        };
        if store.options.alone {
            store.boot_count = store.count_start().map_err(EngineError::from)?;
        } else {
            store.servers.is_cluster().map_err(EngineError::from)?;
        }
        Ok(store)
    }

    /// Counts the starts of a node that has the store alone.
    fn count_start(&mut self) -> Result<u32, ServersError> {
        let mut command = redis::cmd("INCR");
        command.arg(self.keys.key(0, "starts"));
        match self.servers.call(0, &command)? {
            Value::Int(count) => u32::try_from(count)
                .map_err(|_| load::unreadable("the number of starts", &Value::Int(count))),
            reply => Err(load::unreadable("the number of starts", &reply)),
        }
    }

    /// Goes on with a batch until its end.
    fn advance(
        &mut self,
        attempt: &mut Attempt,
        unix_ms: u64,
        commands: &[(u16, Command)],
    ) -> Result<(), PassError> {
        loop {
            if let Some(pass) = &mut attempt.pass {
                self.run(pass)?;
            }
            if let Some(pass) = attempt.pass.take() {
                Self::finish(pass, &mut attempt.answers);
            }
            let rest = &commands[attempt.planned..];
            if rest.is_empty() {
                return Ok(());
            }
            let is_claim = |(_, command): &(u16, Command)| matches!(command, Command::Claim { .. });
            let claims = claims_at_once(rest);
            if claims > 0 {
                self.claim(&rest[..claims], unix_ms, &mut attempt.answers)?;
                attempt.planned += claims;
                continue;
            }
            let until = rest.iter().position(is_claim).unwrap_or(rest.len());
            let rest = &rest[..until];
            self.check_moves(rest)?;
            let (pass, planned) = self.plan(rest, unix_ms);
            attempt.pass = Some(pass);
            attempt.planned += planned;
        }
    }

    /// A move changes two partitions: whether both are still this node's is asked before, not found out half way.
    fn check_moves(&mut self, commands: &[(u16, Command)]) -> Result<(), PassError> {
        let mut sessions = BTreeSet::new();
        for (_, command) in commands {
            if let Command::Move { from, to, .. } = command {
                sessions.extend([*from, *to]);
            }
        }
        if sessions.is_empty() {
            return Ok(());
        }
        self.check(&sessions)
    }

    /// Plans as many commands as go into one pass; at least one.
    fn plan(&mut self, commands: &[(u16, Command)], unix_ms: u64) -> (Pass, usize) {
        let mut plan = Plan::default();
        let mut planner = Planner {
            mirror: &mut self.mirror,
            plan: &mut plan,
            keys: &self.keys,
            depths: &self.options.depths,
            limits: self.options.mailbox_limits,
            unix_ms,
            unread: &self.unread,
        };
        let planned = commands
            .iter()
            .take_while(|(core, command)| planner.apply(*core, command))
            .count();
        (Pass::new(plan), planned)
    }

    /// Claims partitions and loads those that are this node's now.
    fn claim(
        &mut self,
        commands: &[(u16, Command)],
        unix_ms: u64,
        answers: &mut Vec<(u16, Completion)>,
    ) -> Result<(), PassError> {
        let mut wanted = Vec::with_capacity(commands.len());
        for (core, command) in commands {
            if let Command::Claim {
                token,
                partition,
                epoch,
            } = command
            {
                wanted.push((*core, *token, *partition, *epoch));
            }
        }
        let claims: Vec<_> = wanted
            .iter()
            .map(|&(_, _, partition, epoch)| (partition, epoch))
            .collect();
        let claims = self.claim_all(&claims)?;
        let mut found = Vec::new();
        for ((core, token, partition, _), claim) in wanted.into_iter().zip(claims) {
            let outcome = match claim {
                Claim::Held(content) => {
                    let mut pages = Pages::new(self.options.page_bytes_max);
                    self.load(partition, &content, unix_ms, &mut pages)?;
                    pages.end();
                    let pages = pages.full.into_iter();
                    found.extend(pages.map(|items| (core, Completion::Loaded { token, items })));
                    ClaimOutcome::Held
                }
                Claim::Lost(writer) => {
                    if self.writer(partition) != Some(writer) {
                        self.mirror.lose(partition);
                    }
                    ClaimOutcome::Lost {
                        epoch: writer.epoch,
                    }
                }
            };
            let claimed = Completion::Claimed {
                token,
                partition,
                outcome,
            };
            found.push((core, claimed));
        }
        answers.append(&mut found);
        Ok(())
    }

    /// Claims everything, for a node that has the store alone.
    fn claim_everything(&mut self, sink: &mut dyn FnMut(Restored)) -> Result<(), ServersError> {
        let epoch = u64::from(self.boot_count);
        let all: Vec<_> = (0..PARTITIONS)
            .map(|partition| (partition, epoch))
            .collect();
        for some in all.chunks(CLAIMS_AT_ONCE) {
            for ((partition, _), claim) in some.iter().zip(self.claim_all(some)?) {
                let Claim::Held(content) = claim else {
                    return Err(ServersError::Unavailable {
                        server: "the store".to_owned(),
                        detail: format!(
                            "another node has claimed partition {partition} since this one started; only one can have the store alone"
                        ),
                    });
                };
                let mut pages = Pages::new(self.options.page_bytes_max);
                self.load(*partition, &content, self.unix_ms, &mut pages)?;
                pages.end();
                pages.full.into_iter().flatten().for_each(&mut *sink);
            }
        }
        Ok(())
    }
}

impl Engine for Redis {
    fn boot_count(&self) -> u32 {
        self.boot_count
    }

    fn restore(&mut self, sink: &mut dyn FnMut(Restored)) -> Result<(), EngineError> {
        if self.options.alone {
            self.claim_everything(sink)?;
        }
        Ok(())
    }

    fn commit(
        &mut self,
        batch: u64,
        unix_ms: u64,
        commands: &[(u16, Command)],
        completions: &mut Vec<(u16, Completion)>,
    ) -> Result<(), EngineError> {
        let mut attempt = match self.attempt.take() {
            Some(attempt) => {
                assert_eq!(
                    attempt.batch, batch,
                    "a failed batch is tried again before the next one"
                );
                attempt
            }
            None => Attempt {
                batch,
                planned: 0,
                pass: None,
                answers: Vec::with_capacity(commands.len()),
            },
        };
        self.unix_ms = unix_ms;
        self.mirror.forget_old(unix_ms);
        match self.advance(&mut attempt, unix_ms, commands) {
            Ok(()) => {
                completions.append(&mut attempt.answers);
                Ok(())
            }
            Err(error) => {
                self.attempt = Some(attempt);
                Err(error.into())
            }
        }
    }

    fn sync(&mut self) -> Result<(), EngineError> {
        if self.unconfirmed {
            self.servers.confirm(self.options.policy)?;
            self.unconfirmed = false;
        }
        Ok(())
    }

    /// 0: the servers keep their own account.
    fn disk_bytes(&self) -> u64 {
        0
    }
}

impl From<ServersError> for EngineError {
    fn from(error: ServersError) -> Self {
        match error {
            ServersError::Full { server, .. } => Self::Full { path: server },
            error => Self::Server {
                detail: error.to_string(),
            },
        }
    }
}

impl From<PassError> for EngineError {
    fn from(error: PassError) -> Self {
        match error {
            PassError::Servers(error) => error.into(),
            error @ PassError::Rewound(_) => Self::Server {
                detail: error.to_string(),
            },
        }
    }
}

/// How many claims begin a list of commands, no partition twice: when they are sent again, none may find a later one of its own.
fn claims_at_once(commands: &[(u16, Command)]) -> usize {
    let mut partitions = BTreeSet::new();
    let is_first = |(_, command): &&(u16, Command)| match command {
        Command::Claim { partition, .. } => partitions.insert(*partition),
        _ => false,
    };
    commands.iter().take_while(is_first).count()
}

/// A message that stands for one that is still to be read.
fn unread() -> Message {
    Message::new(MessageParts {
        topic: "",
        properties: &[],
        payload: &[],
        qos: edge_proto::packet::QoS::AtMostOnce,
        retain: false,
        expires_at_unix_ms: u64::MAX,
        publisher: SessionId(0),
    })
}
