//! What stands between redb and its file: it keeps what was written since the last sync, to write it again if a sync fails.
//!
//! After a failed `fsync` Linux drops the pages it could not write but goes on showing them, and the next `fsync` succeeds
//! without them. So what is read back after a failure proves nothing, unless it is written and synced once more.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::StorageBackend;

/// The file of a store, which outlives the database handles over it.
#[derive(Clone)]
pub(super) struct Disk {
    storage: Arc<dyn StorageBackend>,
    unsynced: Arc<Mutex<Unsynced>>,
}

#[derive(Default)]
struct Unsynced {
    /// Offset in the file and end in `bytes` of each write since the last sync, in order.
    writes: Vec<(u64, usize)>,
    bytes: Vec<u8>,
    /// The first error since the handle was opened; later ones only say that there was one.
    first_error: Option<(Option<i32>, String)>,
}

impl fmt::Debug for Disk {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_tuple("Disk").field(&self.storage).finish()
    }
}

impl Disk {
    pub(super) fn new(storage: Arc<dyn StorageBackend>) -> Self {
        Self {
            storage,
            unsynced: Arc::default(),
        }
    }

    /// After a failure: writes everything again that no sync has confirmed, and syncs.
    pub(super) fn settle(&self) -> io::Result<()> {
        let mut unsynced = self.unsynced();
        unsynced.first_error = None;
        let mut begin = 0;
        for &(offset, end) in &unsynced.writes {
            self.storage.write(offset, &unsynced.bytes[begin..end])?;
            begin = end;
        }
        self.storage.sync_data()?;
        unsynced.confirm();
        Ok(())
    }

    /// The first error since the last [`Disk::settle`].
    pub(super) fn first_error(&self) -> Option<io::Error> {
        let unsynced = self.unsynced();
        let (code, text) = unsynced.first_error.as_ref()?;
        Some(match code {
            Some(code) => io::Error::from_raw_os_error(*code),
            None => io::Error::other(text.clone()),
        })
    }

    /// Length of the file.
    pub(super) fn bytes(&self) -> Option<u64> {
        self.storage.len().ok()
    }

    fn unsynced(&self) -> MutexGuard<'_, Unsynced> {
        self.unsynced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn noted<T>(&self, result: io::Result<T>) -> io::Result<T> {
        if let Err(error) = &result {
            self.unsynced()
                .first_error
                .get_or_insert_with(|| (error.raw_os_error(), error.to_string()));
        }
        result
    }
}

impl Unsynced {
    fn confirm(&mut self) {
        self.writes.clear();
        self.bytes.clear();
        // One large batch must not keep its memory for ever.
        self.bytes.shrink_to(4 << 20);
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        self.noted(self.storage.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.noted(self.storage.read(offset, out))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.noted(self.storage.set_len(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.noted(self.storage.sync_data())?;
        self.unsynced().confirm();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.noted(self.storage.write(offset, data))?;
        let mut unsynced = self.unsynced();
        unsynced.bytes.extend_from_slice(data);
        let end = unsynced.bytes.len();
        unsynced.writes.push((offset, end));
        Ok(())
    }
}
