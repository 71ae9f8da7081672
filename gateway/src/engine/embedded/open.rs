//! Opening a store: lock, format, checks, and the way from what is on disk to what memory knows.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;

use redb::backends::FileBackend;
use redb::{Database, ReadableDatabase, ReadableTable, StorageBackend};

use crate::engine::claim::{MessageId, ReceivedId};
use crate::engine::embedded::Embedded;
use crate::engine::embedded::changes::{
    Changes, LOG, META, META_SEQUENCES, RECEIVED, RETAINED, SESSIONS, SUBSCRIPTIONS,
};
use crate::engine::embedded::disk::Disk;
use crate::engine::embedded::index::{Index, Slot};
use crate::engine::embedded::plan;
use crate::engine::embedded::records::{self, LogRecord};
use crate::engine::{Durability, EngineError, MailboxLimits, Restored};
use crate::message::{Message, SessionId};

/// Format of the stores that this release writes, and the newest it reads.
pub const FORMAT: u32 = 1;

/// Free space below which nothing is written any more.
pub(super) const FREE_BYTES_MIN: u64 = 1 << 20;

/// A store this small is not worth making smaller.
const COMPACT_BYTES_MIN: u64 = 64 << 20;

pub(super) const STORE_FILE: &str = "store.redb";
/// The store while it is made for the first time.
const NEW_STORE_FILE: &str = "store.redb.new";
const LOCK_FILE: &str = "lock";

/// What is made here is for its owner alone.
const FOLDER_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

const META_FORMAT: &str = "format";
const META_BOOT_COUNT: &str = "boot_count";

/// How an embedded store works.
#[derive(Clone, Copy, Debug)]
pub struct EmbeddedOptions {
    /// Limits of each mailbox.
    pub mailbox_limits: MailboxLimits,
    /// When commits reach the disk.
    pub durability: Durability,
    /// Bytes of the file that are kept in memory.
    pub cache_bytes: usize,
}

/// Locks a file that a process which is just ending may still hold for a moment.
fn lock_soon(lock: &File) -> Result<(), TryLockError> {
    const STEP: std::time::Duration = std::time::Duration::from_millis(20);
    const STEPS: u32 = 50;
    for _ in 0..STEPS {
        match lock.try_lock() {
            Err(TryLockError::WouldBlock) => std::thread::park_timeout(STEP),
            outcome => return outcome,
        }
    }
    lock.try_lock()
}

impl Embedded {
    /// Opens the store in this folder; makes both if they do not exist. Checks all of it, which reads the whole file.
    ///
    /// # Errors
    /// [`EngineError::Open`] when the folder cannot be made or used, [`EngineError::InUse`], [`EngineError::Damaged`],
    /// [`EngineError::Format`], [`EngineError::Full`], [`EngineError::Io`].
    pub fn open(
        folder: &Path,
        options: EmbeddedOptions,
        unix_ms: u64,
    ) -> Result<Self, EngineError> {
        let path = folder.display().to_string();
        let unusable = |source| EngineError::Open {
            path: path.clone(),
            source,
        };
        make_folder(folder).map_err(unusable)?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(FILE_MODE)
            .open(folder.join(LOCK_FILE));
        let lock = lock.map_err(unusable)?;
        lock_soon(&lock).map_err(|error| match error {
            TryLockError::WouldBlock => EngineError::InUse { path: path.clone() },
            TryLockError::Error(source) => unusable(source),
        })?;
        let file = match read_write(&folder.join(STORE_FILE)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => create(folder, &options)
                .map_err(|error| match engine_error(&path, error, None) {
                    EngineError::Io { path, source } => EngineError::Open { path, source },
                    error => error,
                })?,
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return Err(EngineError::Damaged {
                    path,
                    detail: error.to_string(),
                });
            }
            other => other.map_err(unusable)?,
        };
        forget_lost_pages(&file);
        let backend =
            FileBackend::new(file).map_err(|error| engine_error(&path, error.into(), None))?;
        let mut store = Self::open_on(Arc::new(backend), &path, options, unix_ms)?;
        store.folder = Some(folder.to_owned());
        store._lock = Some(lock);
        Ok(store)
    }

    /// Opens a store on any storage, which nothing else may use; makes it if the storage is empty. `path` is for messages.
    ///
    /// # Errors
    /// As [`Embedded::open`].
    pub fn open_on(
        storage: Arc<dyn StorageBackend>,
        path: &str,
        options: EmbeddedOptions,
        unix_ms: u64,
    ) -> Result<Self, EngineError> {
        let disk = Disk::new(storage);
        let opening = |error| opening_error(path, error, disk.take_first_error());
        let mut database = open_checked(&disk, &options).map_err(opening)?;
        let found = meta(&database, META_FORMAT).map_err(opening)?;
        if found > FORMAT {
            return Err(EngineError::Format {
                path: path.to_owned(),
                found,
                supported: FORMAT,
            });
        }
        let (index, changes) = load(&disk, &mut database).map_err(opening)?;
        let boot_count = begin_boot(&database, unix_ms).map_err(opening)?;
        Ok(Self {
            path: path.to_owned(),
            options,
            disk,
            database: Some(database),
            boot_count,
            opened_at_unix_ms: unix_ms,
            index,
            changes,
            unread: plan::unread(),
            attempt: None,
            folder: None,
            _lock: None,
        })
    }
}

/// A new handle after a failure.
pub(super) fn reopen(disk: &Disk, options: &EmbeddedOptions) -> Result<Database, redb::Error> {
    // Not closed cleanly: redb checks everything by itself.
    Ok(redb::Builder::new()
        .set_cache_size(options.cache_bytes)
        .create_with_backend(disk.clone())?)
}

/// What an error of redb means to the node. `first` is the error behind one that only says that there was one before.
pub(super) fn engine_error(
    path: &str,
    error: redb::Error,
    first: Option<io::Error>,
) -> EngineError {
    let path = path.to_owned();
    let source = match error {
        redb::Error::Corrupted(detail) => return EngineError::Damaged { path, detail },
        redb::Error::Io(source) => source,
        other => first.unwrap_or_else(|| io::Error::other(other)),
    };
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => EngineError::Full { path },
        _ => EngineError::Io { path, source },
    }
}

/// As [`engine_error`], when the file is opened: what does not look like a store then is a damaged one.
fn opening_error(path: &str, error: redb::Error, first: Option<io::Error>) -> EngineError {
    let detail = match &error {
        redb::Error::Io(source)
            if matches!(
                source.kind(),
                io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
            ) =>
        {
            Some(source.to_string())
        }
        redb::Error::Io(_) | redb::Error::PreviousIo => None,
        other => Some(other.to_string()),
    };
    match detail {
        Some(detail) => EngineError::Damaged {
            path: path.to_owned(),
            detail,
        },
        None => engine_error(path, error, first),
    }
}

/// Makes the folder of a store for its owner alone, since everybody's messages are in it. One that is there keeps its mode.
pub(crate) fn make_folder(folder: &Path) -> io::Result<()> {
    if let Some(parent) = folder.parent().filter(|it| *it != Path::new("")) {
        fs::create_dir_all(parent)?;
    }
    match DirBuilder::new().mode(FOLDER_MODE).create(folder) {
        Err(_) if folder.is_dir() => Ok(()),
        outcome => outcome,
    }
}

fn read_write(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    if file.metadata()?.len() == 0 {
        // redb would make a new store of it; ours gets its name only when it is complete.
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the file is empty",
        ));
    }
    Ok(file)
}

/// After a failed `fsync` of an earlier process, reading may show pages that never got to the disk. They count as clean: this
/// lets go of them, so that what is checked next is what is on the disk. Pages on their way there stay.
fn forget_lost_pages(file: &File) {
    // Advice: a file system without a page cache may refuse it, and then there is nothing to let go of.
    let _ = rustix::fs::fadvise(file, 0, 0, rustix::fs::Advice::DontNeed);
}

/// Makes a store under another name and renames it when it is complete.
fn create(folder: &Path, options: &EmbeddedOptions) -> Result<File, redb::Error> {
    let (unfinished, finished) = (folder.join(NEW_STORE_FILE), folder.join(STORE_FILE));
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .mode(FILE_MODE)
        .open(&unfinished)?;
    initialize(&Disk::new(Arc::new(FileBackend::new(file)?)), options)?;
    File::open(&unfinished)?.sync_all()?;
    fs::rename(&unfinished, &finished)?;
    File::open(folder)?.sync_all()?;
    Ok(read_write(&finished)?)
}

fn initialize(disk: &Disk, options: &EmbeddedOptions) -> Result<(), redb::Error> {
    let database = redb::Builder::new()
        .set_cache_size(options.cache_bytes)
        .create_with_backend(disk.clone())?;
    let mut transaction = database.begin_write()?;
    transaction.set_two_phase_commit(true);
    transaction
        .open_table(META)?
        .insert(META_FORMAT, u64::from(FORMAT))?;
    transaction.open_table(META)?.insert(META_BOOT_COUNT, 0)?;
    transaction.open_table(LOG)?;
    transaction.open_table(SESSIONS)?;
    transaction.open_table(SUBSCRIPTIONS)?;
    transaction.open_table(RECEIVED)?;
    transaction.open_table(RETAINED)?;
    transaction.commit()?;
    Ok(())
}

/// Opens the database after verifying the checksums of all of it; makes it if there is nothing.
fn open_checked(disk: &Disk, options: &EmbeddedOptions) -> Result<Database, redb::Error> {
    if disk.len()? == 0 {
        initialize(disk, options)?;
    }
    let mut builder = redb::Builder::new();
    builder
        .set_cache_size(options.cache_bytes)
        .set_check_integrity_on_open(true);
    Ok(builder.create_with_backend(disk.clone())?)
}

fn meta(database: &Database, key: &str) -> Result<u32, redb::Error> {
    let stored = database
        .begin_read()?
        .open_table(META)?
        .get(key)?
        .map(|value| value.value());
    let stored = stored.and_then(|value| u32::try_from(value).ok());
    stored.ok_or_else(|| redb::Error::Corrupted(format!("no valid {key}")))
}

/// Reads everything, and makes the file smaller when most of it is empty.
fn load(disk: &Disk, database: &mut Database) -> Result<(Index, Changes), redb::Error> {
    let mut changes = Changes::default();
    let (index, live_bytes) = rebuild(database, &mut changes)?;
    // What cannot be handed out is found now, and the store refused as a whole.
    restore(database, &index, 0, &mut |_| {})?;
    if disk.len()? > COMPACT_BYTES_MIN.max(4 * live_bytes) {
        database.compact()?;
    }
    Ok((index, changes))
}

/// Counts this start and removes the retained messages that have expired.
fn begin_boot(database: &Database, unix_ms: u64) -> Result<u32, redb::Error> {
    let boot_count = meta(database, META_BOOT_COUNT)? + 1;
    let mut transaction = database.begin_write()?;
    transaction.set_two_phase_commit(true);
    transaction
        .open_table(META)?
        .insert(META_BOOT_COUNT, u64::from(boot_count))?;
    transaction.open_table(RETAINED)?.retain(|_, stored| {
        Message::decode(stored).is_some_and(|message| !message.is_expired(unix_ms))
    })?;
    transaction.commit()?;
    Ok(boot_count)
}

fn corrupted(what: &str, key: impl std::fmt::Debug) -> redb::Error {
    redb::Error::Corrupted(format!("{what} {key:?} is not valid"))
}

/// Reads the log into memory. Returns the bytes that are in use as well.
fn rebuild(database: &Database, changes: &mut Changes) -> Result<(Index, u64), redb::Error> {
    let transaction = database.begin_read()?;
    let mut index = Index::new();
    let mut live_bytes = 0;
    for entry in transaction.open_table(SESSIONS)?.iter()? {
        let (session, record) = entry?;
        index.sessions.insert(SessionId(session.value()), None);
        live_bytes += record.value().len() as u64;
    }
    let mut bodies = std::collections::BTreeMap::new();
    for entry in transaction.open_table(LOG)?.iter()? {
        let (position, stored) = entry?;
        let (position, stored) = (position.value(), stored.value());
        live_bytes += stored.len() as u64;
        index.next_position = position + 1;
        let invalid = || corrupted("record of the log", position);
        let (session, sequence, bytes, body_distance) =
            match records::log_record(stored).ok_or_else(invalid)? {
                LogRecord::Body(message) => {
                    let message = message.decode().ok_or_else(invalid)?;
                    bodies.insert(position, message.queued_bytes() as u32);
                    continue;
                }
                LogRecord::Inline {
                    session,
                    sequence,
                    message,
                    ..
                } => {
                    let message = message.decode().ok_or_else(invalid)?;
                    (session, sequence, message.queued_bytes() as u32, 0)
                }
                LogRecord::Reference {
                    session,
                    sequence,
                    body_distance,
                    ..
                } => {
                    let body = position
                        .checked_sub(u64::from(body_distance))
                        .ok_or_else(invalid)?;
                    let bytes = *bodies.get(&body).ok_or_else(invalid)?;
                    (session, sequence, bytes, body_distance)
                }
                LogRecord::Released { session, sequence } => (session, sequence, 0, 0),
            };
        let slot = Slot {
            sequence,
            position,
            bytes,
            body_distance,
        };
        if !index.sessions.contains_key(&session) || !index.push(session, slot) {
            return Err(invalid());
        }
    }
    changes.offer_below(index.next_position);
    let sequences = transaction.open_table(META)?.get(META_SEQUENCES)?;
    let sequences = sequences.map_or(1, |value| value.value());
    changes.sequences_below(sequences);
    index.skip_sequences(sequences);
    // A body that nobody shares would never be removed otherwise.
    for (body, _) in bodies
        .into_iter()
        .filter(|(body, _)| !index.is_referenced(*body))
    {
        changes.remove_log(body);
    }
    Ok((index, live_bytes))
}

/// Hands out what is stored: each session with its subscriptions, then the retained messages.
pub(super) fn restore(
    database: &Database,
    index: &Index,
    unix_ms: u64,
    sink: &mut dyn FnMut(Restored),
) -> Result<(), redb::Error> {
    let transaction = database.begin_read()?;
    let subscriptions = transaction.open_table(SUBSCRIPTIONS)?;
    let received = transaction.open_table(RECEIVED)?;
    let mut subscriptions = subscriptions.iter()?.peekable();
    let mut received = received.iter()?.peekable();
    for entry in transaction.open_table(SESSIONS)?.iter()? {
        let (key, stored) = entry?;
        let session = SessionId(key.value());
        let record =
            records::session_record(stored.value()).ok_or_else(|| corrupted("session", session))?;
        let mut packet_ids = BTreeSet::new();
        while let Some(entry) = received.next_if(|entry| belongs(entry, |key| key.0 == session.0)) {
            packet_ids.insert(entry?.0.value().1);
        }
        let stored = |packet_id| ReceivedId {
            packet_id,
            message: MessageId::NONE,
        };
        let received = packet_ids.into_iter().map(stored).collect();
        sink(Restored::Session {
            session,
            record,
            mailbox: index.summary(session),
            received,
        });
        while let Some(entry) =
            subscriptions.next_if(|entry| belongs(entry, |key| key.0 == session.0))
        {
            let (key, stored) = entry?;
            let filter = key.value().1.into();
            let record = records::subscription_record(stored.value());
            let record = record.ok_or_else(|| corrupted("subscription", key.value()))?;
            sink(Restored::Subscription {
                session,
                filter,
                record,
            });
        }
    }
    for (what, key) in [
        (
            "subscription",
            subscriptions
                .next()
                .transpose()?
                .map(|(key, _)| key.value().0),
        ),
        (
            "packet identifier",
            received.next().transpose()?.map(|(key, _)| key.value().0),
        ),
    ] {
        if let Some(session) = key {
            return Err(redb::Error::Corrupted(format!(
                "{what} of session {session}, which does not exist"
            )));
        }
    }
    for entry in transaction.open_table(RETAINED)?.iter()? {
        let (topic, stored) = entry?;
        let message =
            Message::decode(stored.value()).filter(|message| message.topic() == topic.value());
        let message = message.ok_or_else(|| corrupted("retained message", topic.value()))?;
        if !message.is_expired(unix_ms) {
            sink(Restored::Retained {
                message: Arc::new(message),
            });
        }
    }
    Ok(())
}

/// An entry of a table, as iterators yield it.
type Entry<'a, K, V> =
    Result<(redb::AccessGuard<'a, K>, redb::AccessGuard<'a, V>), redb::StorageError>;

/// True when the key of the entry satisfies `is`, and for an error, which has to come out.
fn belongs<K: redb::Key + 'static, V: redb::Value + 'static>(
    entry: &Entry<'_, K, V>,
    is: impl FnOnce(K::SelfType<'_>) -> bool,
) -> bool {
    entry.as_ref().map_or(true, |(key, _)| is(key.value()))
}
