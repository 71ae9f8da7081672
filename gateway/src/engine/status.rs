//! What the engine thread tells everyone else about itself: state, last error, counters.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::engine::EngineError;

/// Upper bounds of the buckets of commit latency, in microseconds; a last bucket takes the rest.
pub const COMMIT_LATENCY_BOUNDS_US: [u64; 12] = [
    250, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 64_000, 128_000, 256_000, 1_000_000,
];

/// Whether commits work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum EngineState {
    /// They do.
    Working = 0,
    /// No space is left on the disk.
    Full = 1,
    /// The disk or file system fails.
    Failing = 2,
}

/// A view of the engine thread from outside; clones see the same.
#[derive(Clone, Debug)]
pub struct EngineStatus(Arc<Cells>);

/// The numbers of an engine thread, since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineCounters {
    /// Batches committed.
    pub commits: u64,
    /// Commits and syncs that failed.
    pub failures: u64,
    /// Commands taken from the queues.
    pub commands: u64,
    /// Bytes of messages in them.
    pub bytes: u64,
    /// Commits by their latency; see [`COMMIT_LATENCY_BOUNDS_US`].
    pub commit_latency: [u64; COMMIT_LATENCY_BOUNDS_US.len() + 1],
    /// Sum of all commit latencies in microseconds.
    pub commit_latency_us_sum: u64,
    /// Bytes the store takes on its disk.
    pub disk_bytes: u64,
}

#[derive(Debug, Default)]
struct Cells {
    state: AtomicU8,
    last_error: Mutex<Option<String>>,
    commits: AtomicU64,
    failures: AtomicU64,
    commands: AtomicU64,
    bytes: AtomicU64,
    commit_latency: [AtomicU64; COMMIT_LATENCY_BOUNDS_US.len() + 1],
    commit_latency_us_sum: AtomicU64,
    disk_bytes: AtomicU64,
}

impl EngineStatus {
    pub(super) fn new(disk_bytes: u64) -> Self {
        Self(Arc::new(Cells {
            disk_bytes: AtomicU64::new(disk_bytes),
            ..Cells::default()
        }))
    }

    /// Whether commits work now.
    pub fn state(&self) -> EngineState {
        match self.0.state.load(Ordering::Acquire) {
            0 => EngineState::Working,
            1 => EngineState::Full,
            _ => EngineState::Failing,
        }
    }

    /// The last error there was, also after it has passed.
    pub fn last_error(&self) -> Option<String> {
        self.0
            .last_error
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The numbers now.
    pub fn counters(&self) -> EngineCounters {
        let read = |cell: &AtomicU64| cell.load(Ordering::Relaxed);
        EngineCounters {
            commits: read(&self.0.commits),
            failures: read(&self.0.failures),
            commands: read(&self.0.commands),
            bytes: read(&self.0.bytes),
            commit_latency: std::array::from_fn(|index| read(&self.0.commit_latency[index])),
            commit_latency_us_sum: read(&self.0.commit_latency_us_sum),
            disk_bytes: read(&self.0.disk_bytes),
        }
    }

    pub(super) fn count_collected(&self, commands: u64, bytes: u64) {
        self.0.commands.fetch_add(commands, Ordering::Relaxed);
        self.0.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn count_commit(&self, latency: Duration, disk_bytes: u64) {
        let latency_us = latency.as_micros() as u64;
        let bucket = COMMIT_LATENCY_BOUNDS_US.partition_point(|&bound| bound < latency_us);
        self.0.commits.fetch_add(1, Ordering::Relaxed);
        self.0.commit_latency[bucket].fetch_add(1, Ordering::Relaxed);
        self.0
            .commit_latency_us_sum
            .fetch_add(latency_us, Ordering::Relaxed);
        self.0.disk_bytes.store(disk_bytes, Ordering::Relaxed);
    }

    pub(super) fn count_failure(&self, state: EngineState, error: &EngineError) {
        self.0.failures.fetch_add(1, Ordering::Relaxed);
        *self
            .0
            .last_error
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(error.to_string());
        self.0.state.store(state as u8, Ordering::Release);
    }

    pub(super) fn set_working(&self) {
        self.0
            .state
            .store(EngineState::Working as u8, Ordering::Release);
    }
}
