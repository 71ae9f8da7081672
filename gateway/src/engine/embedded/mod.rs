//! The embedded store: one redb file, and in memory where everything in it stands.
//!
//! A batch is applied to memory first, which cannot fail and makes the answers; then the difference goes to the disk in one
//! transaction. **Memory is the truth, the disk follows**: a commit that fails takes nothing back. The difference stays and
//! grows, the answers wait, and the next call writes it again through a handle that was opened anew. Changes are absolute,
//! so it does not matter whether the failed transaction did reach the disk.
//!
//! What needs no sync (acknowledgements; everything under [`Durability::Relaxed`]) stays in the difference until something
//! else has to be written, or [`Engine::sync`] is called. A message that was acknowledged by then never was on the disk.
//!
//! Why redb, why this layout, and the figures: `docs/decisions/0003-embedded-engine.md`.

mod belongings;
mod changes;
mod disk;
mod index;
mod open;
mod plan;
pub(in crate::engine) mod records;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::{Database, ReadableDatabase};

pub(crate) use open::make_folder;
pub use open::{EmbeddedOptions, FORMAT};

use crate::engine::embedded::belongings::Belongings;
use crate::engine::embedded::changes::{Changes, Ends, LOG, RECEIVED, SUBSCRIPTIONS};
use crate::engine::embedded::disk::Disk;
use crate::engine::embedded::index::Index;
use crate::engine::embedded::plan::{Fetch, Planner};
use crate::engine::{Command, Completion, Durability, Engine, EngineError, Restored};
use crate::message::{Message, SessionId};

/// Differences beyond this are written although nothing asks for it, so that memory stays bounded.
const UNWRITTEN_BYTES_MAX: usize = 16 << 20;

/// A store in one file; see the module.
#[derive(Debug)]
pub struct Embedded {
    /// For messages.
    path: String,
    options: EmbeddedOptions,
    disk: Disk,
    /// `None` exactly between a failure and the next attempt.
    database: Option<Database>,
    boot_count: u32,
    /// When it was opened, in milliseconds of Unix time.
    opened_at_unix_ms: u64,
    index: Index,
    changes: Changes,
    /// Stands for messages that are still to be fetched.
    unread: Arc<Message>,
    /// The batch that was applied to memory and not answered.
    attempt: Option<Attempt>,
    /// Where free space is looked up; `None` for a store that is not in a folder.
    folder: Option<PathBuf>,
    /// Holds the lock of the folder.
    _lock: Option<fs::File>,
}

/// Below which number sequences count as used after the next start. The disk is told rarely, not with each message.
pub(super) fn sequences_reserved(used_below: u64) -> u64 {
    const STEP: u64 = 4_096;
    used_below.next_multiple_of(STEP)
}

#[derive(Debug)]
struct Attempt {
    batch: u64,
    answers: Vec<(u16, Completion)>,
    /// Messages of the answers that are still to be read.
    fetches: Vec<Fetch>,
    promises: bool,
}

impl Embedded {
    /// True when there is a store in a folder.
    pub fn is_in(folder: &Path) -> bool {
        folder.join(open::STORE_FILE).is_file()
    }

    /// When commits reach the disk, for the log.
    pub fn durability(&self) -> Durability {
        self.options.durability
    }

    fn plan(&mut self, batch: u64, commands: &[(u16, Command)]) -> Result<Attempt, EngineError> {
        let belongings = self.belongings(commands)?;
        let mut planner = Planner {
            index: &mut self.index,
            changes: &mut self.changes,
            limits: self.options.mailbox_limits,
            belongings,
            answers: Vec::with_capacity(commands.len()),
            fetches: Vec::new(),
            moved: BTreeMap::new(),
            unread: Arc::clone(&self.unread),
            promises: false,
        };
        for (core, command) in commands {
            planner.apply(*core, command);
        }
        let Planner {
            answers,
            fetches,
            promises,
            ..
        } = planner;
        Ok(Attempt {
            batch,
            answers,
            fetches,
            promises,
        })
    }

    /// What the disk holds of the sessions that are to be deleted or listed.
    fn belongings(
        &mut self,
        commands: &[(u16, Command)],
    ) -> Result<BTreeMap<SessionId, Belongings>, EngineError> {
        let mut found = BTreeMap::new();
        for (_, command) in commands {
            if let Command::DeleteSession { session, .. }
            | Command::ListSubscriptions { session, .. } = command
                && self.index.sessions.contains_key(session)
            {
                found.insert(*session, Belongings::default());
            }
        }
        if found.is_empty() {
            return Ok(found);
        }
        self.with_database(|database, _| {
            let transaction = database.begin_read()?;
            let subscriptions = transaction.open_table(SUBSCRIPTIONS)?;
            let received = transaction.open_table(RECEIVED)?;
            for (session, belongings) in &mut found {
                for entry in subscriptions.range((session.0, "")..(session.0 + 1, ""))? {
                    belongings.filters.insert(entry?.0.value().1.into());
                }
                for entry in received.range((session.0, 0)..=(session.0, u16::MAX))? {
                    belongings.received.insert(entry?.0.value().1);
                }
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// Reads the messages that the pages of an attempt lack. This comes before its changes are written: some of the
    /// messages may be gone afterwards.
    fn fetch(&mut self, attempt: &mut Attempt) -> Result<(), EngineError> {
        if attempt.fetches.is_empty() {
            return Ok(());
        }
        self.with_database(|database, changes| {
            let log = database.begin_read()?.open_table(LOG)?;
            for fetch in &attempt.fetches {
                let slot = &fetch.slot;
                let record = log.get(slot.position)?;
                let body = if slot.body_distance > 0 {
                    log.get(slot.body_position())?
                } else {
                    None
                };
                let found = plan::content(*slot, |position| {
                    let guard = if position == slot.position {
                        &record
                    } else {
                        &body
                    };
                    guard.as_ref().map(|guard| guard.value())
                });
                let Some(content) = found else {
                    let detail = format!("no message at position {}", slot.position);
                    return Err(redb::Error::Corrupted(detail));
                };
                fetch.complete(content, &mut attempt.answers[fetch.answer].1, changes);
            }
            Ok(())
        })?;
        attempt.fetches.clear();
        Ok(())
    }

    /// Brings the disk up to date with memory, durably.
    fn write(&mut self) -> Result<(), EngineError> {
        let ends = Ends {
            position: self.index.next_position,
            sequence: self.index.sequence_floor,
        };
        if self.changes.is_empty(ends) {
            return Ok(());
        }
        self.check_space()?;
        self.with_database(|database, changes| changes.write(database, ends))?;
        self.changes.clear();
        Ok(())
    }

    /// Refuses early, since redb gives up its handle when a write meets a full disk.
    fn check_space(&self) -> Result<(), EngineError> {
        let Some(folder) = &self.folder else {
            return Ok(());
        };
        let Ok(free) = rustix::fs::statvfs(folder) else {
            return Ok(());
        };
        if free.f_bavail * free.f_frsize >= open::FREE_BYTES_MIN + 2 * self.changes.bytes() as u64 {
            return Ok(());
        }
        Err(EngineError::Full {
            path: self.path.clone(),
        })
    }

    /// Runs `job`, with a new handle if the last one failed. After an error the handle is gone: redb refuses to go on with
    /// one that met an I/O error, and what its cache holds need not be what is on disk.
    fn with_database<T>(
        &mut self,
        job: impl FnOnce(&Database, &mut Changes) -> Result<T, redb::Error>,
    ) -> Result<T, EngineError> {
        let database = match self.database.take() {
            Some(database) => Ok(database),
            None => open::reopen(&self.disk, &self.options),
        };
        let result = database.and_then(|database| {
            let value = job(&database, &mut self.changes)?;
            Ok((database, value))
        });
        match result {
            Ok((database, value)) => {
                self.database = Some(database);
                Ok(value)
            }
            Err(error) => Err(open::engine_error(
                &self.path,
                error,
                self.disk.take_first_error(),
            )),
        }
    }
}

impl Engine for Embedded {
    fn boot_count(&self) -> u32 {
        self.boot_count
    }

    fn restore(&mut self, sink: &mut dyn FnMut(Restored)) -> Result<(), EngineError> {
        let database = self
            .database
            .as_ref()
            .expect("nothing has failed before the first commit");
        open::restore(database, &self.index, self.opened_at_unix_ms, sink)
            .map_err(|error| open::engine_error(&self.path, error, self.disk.take_first_error()))
    }

    fn commit(
        &mut self,
        batch: u64,
        _unix_ms: u64,
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
            None => self.plan(batch, commands)?,
        };
        // A sequence that the disk does not know to be in use must not be seen by anyone.
        let must_write = self.changes.bytes() > UNWRITTEN_BYTES_MAX
            || self.changes.lacks_sequence(self.index.sequence_floor)
            || attempt.promises && self.options.durability == Durability::Sync;
        let mut result = self.fetch(&mut attempt);
        if result.is_ok() && must_write {
            result = self.write();
        }
        match result {
            Ok(()) => completions.append(&mut attempt.answers),
            Err(_) => self.attempt = Some(attempt),
        }
        result
    }

    fn sync(&mut self) -> Result<(), EngineError> {
        // The pages of a batch that waits are to be read before anything is removed.
        if let Some(mut attempt) = self.attempt.take() {
            let result = self.fetch(&mut attempt);
            self.attempt = Some(attempt);
            result?;
        }
        self.write()
    }

    fn disk_bytes(&self) -> u64 {
        let file = self
            .folder
            .as_ref()
            .and_then(|folder| fs::metadata(folder.join(open::STORE_FILE)).ok());
        file.map_or_else(
            || self.disk.bytes().unwrap_or(0),
            |file| file.blocks() * 512,
        )
    }
}
