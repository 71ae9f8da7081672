//! Waiting for many socket events at once: a pause before the wait, which only a wake ends.
//!
//! Waking a thread costs more than what it then does for a socket: on a virtual machine 10 to 25 µs against 8 µs for a ping and its
//! answer. A driver that may let events gather sleeps on its waker alone for a span, and looks at its sockets after that.

use std::time::{Duration, Instant};

use crate::waker::Waker;

/// Events that a pause has to gather, or it is not worth its timer.
const EVENTS_WANTED: u32 = 4;

/// Whether and how long a driver lets socket events gather.
#[derive(Debug, Default)]
pub(crate) struct Gather {
    span: Duration,
    /// When a poll last had something to tell.
    told_at: Option<Instant>,
    /// Time for each event between the last two times.
    interval: Option<Duration>,
}

impl Gather {
    /// From now on so long; zero = not at all.
    pub(crate) fn set(&mut self, span: Duration) {
        if span.is_zero() {
            *self = Self::default();
        }
        self.span = span;
    }

    /// True when a pause pays: there may be one, and events come so fast that it will gather some.
    fn pays(&self) -> bool {
        self.interval
            .is_some_and(|interval| interval * EVENTS_WANTED <= self.span)
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

    /// A poll has so many events to tell of.
    pub(crate) fn told(&mut self, events: usize, now: impl FnOnce() -> Instant) {
        if self.span.is_zero() {
            return;
        }
        let now = now();
        let before = self.told_at.replace(now);
        let events = u32::try_from(events.max(1)).unwrap_or(u32::MAX);
        self.interval = before.map(|before| now.saturating_duration_since(before) / events);
    }
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "instants begin somewhere, and only their distances count here"
)]
mod tests {
    use super::*;

    /// Whether a pause of 20 ms pays after polls that told of so many events, each so long after the one before.
    fn pays(polls: &[(usize, u64)]) -> bool {
        let mut gather = Gather::default();
        gather.set(Duration::from_millis(20));
        let mut now = Instant::now();
        for (events, after_ms) in polls {
            now += Duration::from_millis(*after_ms);
            gather.told(*events, || now);
        }
        gather.pays()
    }

    #[test]
    fn a_pause_pays_when_it_gathers_four_events() {
        assert!(!pays(&[]), "nothing is known yet");
        assert!(!pays(&[(1, 0)]));
        assert!(pays(&[(1, 0), (1, 5)]));
        assert!(!pays(&[(1, 0), (1, 6)]));
        assert!(pays(&[(1, 0), (4, 20)]), "as many as it wanted came");
        assert!(!pays(&[(1, 0), (3, 20)]), "fewer came");
    }

    #[test]
    fn none_pays_when_events_may_not_gather() {
        let mut gather = Gather::default();
        let now = Instant::now();
        for _ in 0..3 {
            gather.told(100, || now);
        }
        assert!(!gather.pays());
        gather.set(Duration::from_millis(20));
        gather.told(100, || now);
        gather.told(100, || now);
        assert!(gather.pays());
        gather.set(Duration::ZERO);
        assert!(!gather.pays());
    }
}
