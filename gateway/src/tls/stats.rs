//! What the TLS layer of one core counts.

use super::failure::Reason;

/// Counters and gauges of one core.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stats {
    /// Handshakes completed with certificates and all.
    pub handshakes_full: u64,
    /// Handshakes completed from a ticket.
    pub handshakes_resumed: u64,
    /// Handshakes that failed, in the order of [`Reason::ALL`].
    pub handshakes_failed: [u64; Reason::ALL.len()],
    /// Sessions that failed after their handshake, in the same order.
    pub sessions_failed: [u64; Reason::ALL.len()],
    /// Connections turned away because as many handshakes were in progress as there may be.
    pub handshakes_refused: u64,
    /// Handshakes in progress now.
    pub handshakes_in_progress: u64,
    /// Handshakes that wait for a later turn now.
    pub handshakes_waiting: u64,
    /// Bytes of incomplete records of sessions now.
    pub partial_bytes: u64,
    /// Bytes of handshakes in progress now that rustls has not taken.
    pub handshake_bytes: u64,
}

impl Default for Stats {
    fn default() -> Self {
        Self {
            handshakes_full: 0,
            handshakes_resumed: 0,
            handshakes_failed: [0; Reason::ALL.len()],
            sessions_failed: [0; Reason::ALL.len()],
            handshakes_refused: 0,
            handshakes_in_progress: 0,
            handshakes_waiting: 0,
            partial_bytes: 0,
            handshake_bytes: 0,
        }
    }
}

impl Stats {
    /// Handshakes that failed for a reason.
    #[must_use]
    pub fn failed(&self, reason: Reason) -> u64 {
        self.handshakes_failed[reason as usize]
    }

    /// Sessions that failed for a reason after their handshake.
    #[must_use]
    pub fn broken(&self, reason: Reason) -> u64 {
        self.sessions_failed[reason as usize]
    }
}
