//! Whether the peer is there: questions at an interval, and how many were not answered.
//!
//! An acknowledgement of messages is an answer too, so a busy link asks nothing. What the peer sends of itself is none: it may
//! hear nothing of this side.

use super::LinkError;

/// The questions on one connection.
#[derive(Debug)]
pub(super) struct Heartbeat {
    interval_ms: u64,
    missed_max: u32,
    next_ms: u64,
    /// The last question.
    number: u64,
    /// Questions since the last answer.
    unanswered: u32,
    /// True exactly when the last question is not written yet.
    is_due: bool,
}

impl Heartbeat {
    pub(super) fn new(now_ms: u64, interval_ms: u64, missed_max: u32) -> Self {
        Self {
            interval_ms,
            missed_max,
            next_ms: now_ms + interval_ms,
            number: 0,
            unanswered: 0,
            is_due: false,
        }
    }

    pub(super) fn next_ms(&self) -> u64 {
        self.next_ms
    }

    pub(super) fn has_ping(&self) -> bool {
        self.is_due
    }

    pub(super) fn take_ping(&mut self) -> Option<u64> {
        std::mem::take(&mut self.is_due).then_some(self.number)
    }

    /// The peer has heard of this side.
    pub(super) fn answered(&mut self, now_ms: u64) {
        self.unanswered = 0;
        self.next_ms = now_ms + self.interval_ms;
    }

    /// An answer to a question; an answer to a question that was never asked is none.
    pub(super) fn pong(&mut self, number: u64, now_ms: u64) {
        if number == self.number && self.unanswered > 0 {
            self.answered(now_ms);
        }
    }

    /// Asks when it is time. A pause of this process is not held against the peer: questions are counted, not time.
    pub(super) fn tick(&mut self, now_ms: u64) -> Result<(), LinkError> {
        if now_ms < self.next_ms {
            return Ok(());
        }
        if self.unanswered >= self.missed_max {
            let silent_ms = u64::from(self.unanswered) * self.interval_ms;
            return Err(LinkError::Unreachable(silent_ms));
        }
        self.unanswered += 1;
        self.number += 1;
        self.is_due = true;
        self.next_ms = now_ms + self.interval_ms;
        Ok(())
    }
}
