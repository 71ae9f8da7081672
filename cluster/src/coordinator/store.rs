//! The one request to the view store that may be on its way, and what its answers have shown.

use std::sync::Arc;

use super::times::{ANSWER_WITHIN_MS, BEAT_STALE_MS};
use crate::view::{Version, View};

/// What was asked of the store.
#[derive(Debug)]
pub(super) enum Asked {
    Read { known: Option<Version> },
    Write { view: Arc<View>, version: Version },
}

#[derive(Debug)]
struct Outstanding {
    request: u64,
    sent_ms: u64,
    asked: Asked,
}

/// The view that was stored, refreshed by somebody, and since when that looks as it does.
#[derive(Clone, Copy, Debug)]
struct Beat {
    version: Option<Version>,
    beat: u64,
    since_ms: u64,
}

#[derive(Debug, Default)]
pub(super) struct Store {
    last_request: u64,
    outstanding: Option<Outstanding>,
    /// When the last request was sent.
    pub(super) sent_ms: Option<u64>,
    beat: Option<Beat>,
    /// When the last question was sent, to the store or to a node with a later view, whose answer did not say that this node
    /// is outside.
    pub(super) confirmed_ms: Option<u64>,
    /// True exactly when another cluster was found in the store and that was said.
    pub(super) foreign: bool,
}

impl Store {
    /// The number of a new request; none while another is on its way.
    pub(super) fn ask(&mut self, now_ms: u64, asked: Asked) -> Option<u64> {
        if self.is_busy(now_ms) {
            return None;
        }
        self.last_request += 1;
        self.sent_ms = Some(now_ms);
        self.outstanding = Some(Outstanding {
            request: self.last_request,
            sent_ms: now_ms,
            asked,
        });
        Some(self.last_request)
    }

    pub(super) fn is_busy(&self, now_ms: u64) -> bool {
        self.outstanding
            .as_ref()
            .is_some_and(|outstanding| now_ms < outstanding.sent_ms + ANSWER_WITHIN_MS)
    }

    /// What was asked and when, if this is the answer that is awaited.
    pub(super) fn answered(&mut self, request: u64) -> Option<(u64, Asked)> {
        self.outstanding
            .take_if(|outstanding| outstanding.request == request)
            .map(|outstanding| (outstanding.sent_ms, outstanding.asked))
    }

    /// Remembers since when what is stored looks like this.
    pub(super) fn saw(&mut self, now_ms: u64, version: Option<Version>, beat: u64) {
        let same = self
            .beat
            .is_some_and(|seen| seen.version == version && seen.beat == beat);
        if !same {
            self.beat = Some(Beat {
                version,
                beat,
                since_ms: now_ms,
            });
        }
    }

    /// True exactly when nobody has refreshed the stored view for [`BEAT_STALE_MS`].
    pub(super) fn is_abandoned(&self, now_ms: u64) -> bool {
        self.beat
            .is_some_and(|beat| now_ms >= beat.since_ms + BEAT_STALE_MS)
    }
}
