//! What is counted of questions about clients.

use std::sync::atomic::{AtomicU64, Ordering};

/// A method that is asked outside the cores, as a metric names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Asked {
    /// A password against the file.
    Password,
    /// A token whose key had to be fetched.
    Token,
    /// The HTTP service.
    Http,
}

/// What a method said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Said {
    /// The client may come in.
    Allowed,
    /// It may not.
    Denied,
    /// Another method is to say.
    Ignored,
    /// Nothing: it could not be asked.
    Unavailable,
}

impl Asked {
    /// All of them with their words.
    pub const ALL: [(Self, &'static str); 3] = [
        (Self::Password, "password"),
        (Self::Token, "token"),
        (Self::Http, "http"),
    ];
}

impl Said {
    /// All of them with their words.
    pub const ALL: [(Self, &'static str); 4] = [
        (Self::Allowed, "allowed"),
        (Self::Denied, "denied"),
        (Self::Ignored, "ignored"),
        (Self::Unavailable, "unavailable"),
    ];
}

/// Counters of the control thread, some counted by the cores.
#[derive(Debug, Default)]
pub struct Stats {
    /// Questions that the cores asked.
    pub(super) questions: AtomicU64,
    /// Those refused because too many waited, or because they waited for too long.
    pub(super) refused: AtomicU64,
    /// Answers of the HTTP service that were taken from the cache.
    pub(super) cache_hits: AtomicU64,
    answers: [[AtomicU64; Said::ALL.len()]; Asked::ALL.len()],
}

impl Stats {
    pub(super) fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn said(&self, asked: Asked, said: Said) {
        Self::count(&self.answers[asked as usize][said as usize]);
    }

    /// How often a method said something.
    pub fn answers(&self, asked: Asked, said: Said) -> u64 {
        self.answers[asked as usize][said as usize].load(Ordering::Relaxed)
    }

    /// Questions asked, questions refused, and answers from the cache.
    pub fn totals(&self) -> [u64; 3] {
        [&self.questions, &self.refused, &self.cache_hits]
            .map(|counter| counter.load(Ordering::Relaxed))
    }
}
