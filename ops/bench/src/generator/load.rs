//! What the clients of a thread publish, and when.

use std::time::Instant;

use super::client::{SHARED_TOPIC, own_topic};
use crate::clock::Pace;

/// Unacknowledged publishes of one client, below the Receive Maximum that servers have (128 here, 20 at the least).
pub(super) const OUTSTANDING_MAX: u16 = 18;

/// To whom messages go.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    /// A random client of these.
    Random(std::ops::Range<u32>),
    /// From client 2k to client 2k + 1.
    Partner {
        /// Messages of each pair on their way.
        window: u16,
    },
    /// To the shared topic.
    Shared,
}

/// A load.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    /// To whom.
    pub(crate) target: Target,
    /// Messages in a second from all threads; 0 with [`Target::Partner`], which goes as fast as messages arrive.
    pub(crate) per_second: f64,
    /// Clients below this number publish.
    pub(crate) publishers: u32,
    /// Messages from all threads; `u64::MAX` = until it is quiet.
    pub(crate) messages: u64,
}

/// A load that a thread is at.
#[derive(Debug)]
pub(super) struct Active {
    pub(super) load: Load,
    pace: Pace,
    left: u64,
    publishers: usize,
    next: usize,
}

impl Active {
    /// `own` of the publishers are clients of this thread, the first ones of its list.
    pub(super) fn new(load: Load, now: Instant, own: usize) -> Self {
        let share = own as f64 / f64::from(load.publishers.max(1));
        // Rounded up on each thread: a few more than asked for, never fewer.
        let left = if load.messages == u64::MAX {
            u64::MAX
        } else {
            (load.messages as f64 * share).ceil() as u64
        };
        Self {
            pace: Pace::new(now, load.per_second * share),
            left: if own == 0 || load.per_second <= 0.0 {
                0
            } else {
                left
            },
            publishers: own,
            next: 0,
            load,
        }
    }

    /// How many messages are due.
    pub(super) fn due(&self, now: Instant) -> u64 {
        if self.left == 0 {
            0
        } else {
            self.pace.due(now).min(self.left)
        }
    }

    /// When the next message is due.
    pub(super) fn next_at(&self) -> Option<Instant> {
        (self.left > 0).then(|| self.pace.next())
    }

    /// Takes one due message: the place of its publisher in the list of clients.
    pub(super) fn take(&mut self, random: &mut fastrand::Rng) -> usize {
        self.pace.take(1);
        self.left = self.left.saturating_sub(1);
        match self.load.target {
            Target::Random(_) => random.usize(..self.publishers),
            _ => {
                self.next = (self.next + 1) % self.publishers;
                self.next
            }
        }
    }

    /// The topic of a message from the client of this number.
    pub(super) fn topic(&self, number: u32, random: &mut fastrand::Rng) -> String {
        match &self.load.target {
            Target::Random(numbers) => own_topic(random.u32(numbers.clone())),
            Target::Partner { .. } => own_topic(number | 1),
            Target::Shared => SHARED_TOPIC.to_owned(),
        }
    }
}
