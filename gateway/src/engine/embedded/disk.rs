//! What stands between redb and its file: it remembers the first error, since redb only says later that there was one.
//!
//! After a failed `fsync` Linux drops the pages it could not write but goes on showing them, and the next `fsync` succeeds
//! without them. That needs no care here, for two reasons that must stay: a commit has two phases, so a root is never
//! shown before a sync has confirmed all pages under it; and a batch whose commit failed is written again, whatever
//! reading shows.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use redb::StorageBackend;

/// The file of a store, which outlives the database handles over it.
#[derive(Clone, Debug)]
pub(super) struct Disk {
    storage: Arc<dyn StorageBackend>,
    first_error: Arc<Mutex<Option<Noted>>>,
}

/// Code of an error, if the system gave one, and its text.
type Noted = (Option<i32>, String);

impl Disk {
    pub(super) fn new(storage: Arc<dyn StorageBackend>) -> Self {
        Self {
            storage,
            first_error: Arc::default(),
        }
    }

    /// The first error since this was last asked.
    pub(super) fn take_first_error(&self) -> Option<io::Error> {
        let mut error = self
            .first_error
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let (code, text) = error.take()?;
        Some(code.map_or_else(|| io::Error::other(text), io::Error::from_raw_os_error))
    }

    /// Length of the file.
    pub(super) fn bytes(&self) -> io::Result<u64> {
        self.storage.len()
    }

    fn noted<T>(&self, result: io::Result<T>) -> io::Result<T> {
        if let Err(error) = &result {
            let mut first = self
                .first_error
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            first.get_or_insert_with(|| (error.raw_os_error(), error.to_string()));
        }
        result
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
        self.noted(self.storage.sync_data())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.noted(self.storage.write(offset, data))
    }
}
