//! The clock of this crate: the one place that reads it.

use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Now, on the clock that never goes back.
#[allow(clippy::disallowed_methods)] // This crate is a shell around real processes.
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// A seed for a run that was given none.
#[allow(clippy::disallowed_methods)] // As above.
pub(crate) fn seed() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(1, |since| since.as_nanos() as u64)
}

/// The time of day in UTC, as logs have it.
pub(crate) fn time_of_day() -> String {
    let ms = seed() / 1_000_000;
    let (s, ms) = (ms / 1_000, ms % 1_000);
    let (hour, minute, second) = (s / 3_600 % 24, s / 60 % 60, s % 60);
    format!("{hour:02}:{minute:02}:{second:02}.{ms:03}")
}

/// How long to leave a condition alone between two looks at it.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Looks at a condition until it gives a value or the time is over.
pub(crate) fn wait_for<T>(limit: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let start = now();
    loop {
        if let Some(value) = look() {
            return Some(value);
        }
        if start.elapsed() >= limit {
            return None;
        }
        thread::park_timeout(LOOK_AGAIN);
    }
}
