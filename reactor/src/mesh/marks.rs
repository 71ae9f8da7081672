//! Who has sent something to a core: one bit per sender, so that a core among many looks at few rings.
//!
//! A sender sets its bit after it has put messages into its ring (release); the receiver takes the bits (acquire) and finds
//! the messages. A bit may stand for a ring that was emptied meanwhile, never the other way round.

#[cfg(loom)]
use loom::sync::atomic::{AtomicU64, Ordering};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_utils::CachePadded;

#[derive(Debug)]
pub(super) struct Marks {
    words: Box<[CachePadded<AtomicU64>]>,
}

impl Marks {
    pub(super) fn new(cores: usize) -> Self {
        Self {
            words: (0..cores.div_ceil(64))
                .map(|_| CachePadded::new(AtomicU64::new(0)))
                .collect(),
        }
    }

    /// By the sender `core`, after it has filled its ring.
    pub(super) fn set(&self, core: usize) {
        self.words[core / 64].fetch_or(1 << (core % 64), Ordering::AcqRel);
    }

    /// By the receiver: calls `found` with each word that has bits, which are set no longer.
    pub(super) fn take(&self, mut found: impl FnMut(usize, u64)) {
        for (index, word) in self.words.iter().enumerate() {
            if word.load(Ordering::Relaxed) != 0 {
                found(index, word.swap(0, Ordering::AcqRel));
            }
        }
    }

    /// By the receiver: whether there is a bit.
    pub(super) fn any(&self) -> bool {
        self.words
            .iter()
            .any(|word| word.load(Ordering::Acquire) != 0)
    }
}
