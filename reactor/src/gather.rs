//! Waiting for many socket events at once: a pause before the wait, which only a wake ends.
//!
//! Waking a thread costs more than what it then does for a socket: on a virtual machine 10 to 20 µs against 8 µs for a ping and its
//! answer. A driver that may let events gather sleeps on its waker alone for a span, and looks at its sockets after that.

use std::time::{Duration, Instant};

use crate::waker::Waker;

/// Whether and how long a driver lets socket events gather.
#[derive(Debug, Default)]
pub(crate) struct Gather {
    span: Duration,
    /// When a poll last had something to tell.
    told_at: Option<Instant>,
    /// Time between the last two times.
    interval: Duration,
}

impl Gather {
    /// From now on so long; zero = not at all.
    pub(crate) fn set(&mut self, span: Duration) {
        if span.is_zero() {
            *self = Self::default();
        }
        self.span = span;
    }

    /// True when a pause pays: there may be one, and events come so fast that it will have gathered some.
    fn pays(&self) -> bool {
        !self.span.is_zero() && self.interval < 2 * self.span
    }

    /// Tells the waker that the driver is about to sleep; false when it must not. Before the driver then waits for its sockets,
    /// it has slept here for the span, unless it was woken or `limit` was over (`None` = there is none).
    pub(crate) fn prepare_sleep(
        &self,
        waker: &Waker,
        limit: impl FnOnce() -> Option<Duration>,
    ) -> bool {
        if !self.pays() {
            return waker.flag().prepare_sleep();
        }
        waker.clear();
        let sleep = waker.flag().prepare_sleep();
        if sleep {
            let span = limit().map_or(self.span, |limit| limit.min(self.span));
            waker.wait(span);
        }
        sleep
    }

    /// A poll has something to tell.
    pub(crate) fn told(&mut self, now: impl FnOnce() -> Instant) {
        if self.span.is_zero() {
            return;
        }
        let now = now();
        if let Some(before) = self.told_at.replace(now) {
            self.interval = now.saturating_duration_since(before);
        }
    }
}
