//! One heap of timers for foca and for ours, and what foca says while it is called.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::time::Duration;

use foca::{Notification, OwnedNotification, Runtime};

use super::wire::Peer;

/// What is to happen at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Timer {
    /// foca's own.
    Swim(foca::Timer<Peer>),
    /// Ask a peer that is doubted again, so many times more.
    Doubt { peer: Peer, swim: u16, more: u32 },
    /// A peer that was doubted because of its links has not answered.
    Fall { peer: Peer, swim: u16 },
    /// Ask those who are not described, and those who have fallen.
    Revisit,
    /// Spread once more that this node leaves.
    Farewell { more: u32 },
}

#[derive(Debug, PartialEq, Eq)]
struct Entry {
    at_ms: u64,
    sequence: u64,
    timer: Timer,
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        // foca wants its own in the order that it gives them itself when they are due together.
        let swim = match (&self.timer, &other.timer) {
            (Timer::Swim(one), Timer::Swim(other)) => one.cmp(other),
            _ => Ordering::Equal,
        };
        self.at_ms
            .cmp(&other.at_ms)
            .then(swim)
            .then(self.sequence.cmp(&other.sequence))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// All timers, first due first.
#[derive(Debug, Default)]
pub(super) struct Timers {
    heap: BinaryHeap<Reverse<Entry>>,
    sequence: u64,
}

impl Timers {
    pub(super) fn push(&mut self, at_ms: u64, timer: Timer) {
        self.sequence += 1;
        self.heap.push(Reverse(Entry {
            at_ms,
            sequence: self.sequence,
            timer,
        }));
    }

    pub(super) fn due(&mut self, now_ms: u64) -> Option<Timer> {
        let Reverse(first) = self.heap.peek()?;
        if first.at_ms > now_ms {
            return None;
        }
        self.heap.pop().map(|Reverse(entry)| entry.timer)
    }

    pub(super) fn next_ms(&self) -> Option<u64> {
        self.heap.peek().map(|Reverse(entry)| entry.at_ms)
    }

    /// Puts everything off: this node was stopped, and for so long it heard nothing of the others.
    pub(super) fn put_off(&mut self, gap_ms: u64) {
        let entries = std::mem::take(&mut self.heap).into_vec();
        self.heap = entries
            .into_iter()
            .map(|Reverse(mut entry)| {
                entry.at_ms += gap_ms;
                Reverse(entry)
            })
            .collect();
    }
}

/// What foca wants done.
#[derive(Debug, Default)]
pub(super) struct Wishes {
    pub(super) messages: Vec<(Peer, Vec<u8>)>,
    pub(super) timers: Vec<(foca::Timer<Peer>, Duration)>,
    pub(super) notes: Vec<OwnedNotification<Peer>>,
}

impl Runtime<Peer> for Wishes {
    fn notify(&mut self, notification: Notification<'_, Peer>) {
        self.notes.push(notification.to_owned());
    }

    fn send_to(&mut self, to: Peer, data: &[u8]) {
        self.messages.push((to, data.to_vec()));
    }

    fn submit_after(&mut self, event: foca::Timer<Peer>, after: Duration) {
        self.timers.push((event, after));
    }
}
