//! What the QUIC layer of one core counts.

use crate::tls::Reason;

/// Counters and gauges of one core.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Handshakes completed with certificates and all.
    pub handshakes_full: u64,
    /// Handshakes completed from a ticket.
    pub handshakes_resumed: u64,
    /// Handshakes that failed, in the order of [`Reason::ALL`].
    pub handshakes_failed: [u64; Reason::ALL.len()],
    /// Connections refused because a bound was reached.
    pub refused: u64,
    /// Clients that were told to prove their address first (Retry).
    pub retried: u64,
    /// Handshakes in progress now.
    pub handshakes_in_progress: u64,
    /// Clients that wait for a turn with room for their handshake now.
    pub handshakes_waiting: u64,
    /// Connections now, with those that are closing.
    pub connections: u64,
    /// Packets that made a connection go on at another address, proved or not.
    pub migrations: u64,
    /// Datagrams of connections that came from elsewhere, too many or from a banned address, and were dropped.
    pub elsewhere_dropped: u64,
    /// Data streams opened: those beyond the first of their connection.
    pub data_streams_opened: u64,
    /// Streams beyond the first of their connection, refused where there are no data streams.
    pub streams_refused: u64,
    /// Connections that ended because the peer was silent for longer than was agreed.
    pub timed_out: u64,
    /// Connections that ended because the peer broke a rule of QUIC.
    pub violations: u64,
    /// Stateless resets, for packets of connections that this node does not know any more.
    pub resets_sent: u64,
    /// Datagrams for other cores, handed over.
    pub strays: u64,
    /// Bytes that wait for clients to take them now, beyond what is in their send windows.
    pub unsent_bytes: u64,
}

impl Stats {
    /// Handshakes that failed for a reason.
    #[must_use]
    pub fn failed(&self, reason: Reason) -> u64 {
        self.handshakes_failed[reason as usize]
    }
}
