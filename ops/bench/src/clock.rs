//! The one place that reads the clock.

use std::time::{Duration, Instant};

/// Now.
#[expect(
    clippy::disallowed_methods,
    reason = "a load generator is an event loop: it paces and measures by the clock"
)]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Nanoseconds from `epoch` to now, as payloads carry them.
pub(crate) fn nanos_since(epoch: Instant) -> u64 {
    u64::try_from(now().saturating_duration_since(epoch).as_nanos()).unwrap_or(u64::MAX)
}

/// Seconds since 1970, for the rows of results.
#[expect(
    clippy::disallowed_methods,
    reason = "a row of results says when it was made"
)]
pub(crate) fn unix_s() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// Events of a steady rate that are due: an open loop, which what is loaded cannot slow down.
#[derive(Debug)]
pub(crate) struct Pace {
    started: Instant,
    per_second: f64,
    taken: u64,
}

impl Pace {
    /// `per_second` 0 = everything is due at once.
    pub(crate) fn new(started: Instant, per_second: f64) -> Self {
        Self {
            started,
            per_second,
            taken: 0,
        }
    }

    /// How many events are due and not taken.
    pub(crate) fn due(&self, now: Instant) -> u64 {
        if self.per_second <= 0.0 {
            return u64::MAX;
        }
        let elapsed = now.saturating_duration_since(self.started).as_secs_f64();
        ((elapsed * self.per_second) as u64).saturating_sub(self.taken)
    }

    /// Notes that `count` due events were done.
    pub(crate) fn take(&mut self, count: u64) {
        self.taken += count;
    }

    /// When the next event is due.
    pub(crate) fn next(&self) -> Instant {
        if self.per_second <= 0.0 {
            return self.started;
        }
        let seconds = (self.taken + 1) as f64 / self.per_second;
        self.started + Duration::from_secs_f64(seconds.min(1e9))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_catches_up_with_what_was_missed() {
        let started = now();
        let mut pace = Pace::new(started, 10.0);
        assert_eq!(pace.due(started), 0);
        assert_eq!(pace.due(started + Duration::from_millis(1_050)), 10);
        pace.take(7);
        assert_eq!(pace.due(started + Duration::from_millis(1_050)), 3);
        assert_eq!(pace.next(), started + Duration::from_millis(800));
    }
}
