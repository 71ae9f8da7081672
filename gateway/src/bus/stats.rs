//! What the bus of one core has counted.

use cluster::hello::Refusal;
use cluster::link::Counters;

/// Counters of the bus of a core, since it started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BusStats {
    /// Connections that were dialled.
    pub dialled: u64,
    /// Dials that nobody answered.
    pub dials_failed: u64,
    /// Connections that were accepted.
    pub accepted: u64,
    /// Connections that were closed at once, because too many others had not said who they are.
    pub strangers_dropped: u64,
    /// Connections whose TLS failed.
    pub tls_failed: u64,
    /// Connections that did not come to messages in time.
    pub timed_out: u64,
    /// Peers that were refused, by the place of the reason in [`Refusal::ALL`].
    pub refused: [u64; Refusal::ALL.len()],
    /// Refusals of peers, in the same order.
    pub refused_by_peers: [u64; Refusal::ALL.len()],
    /// Bytes that were given to the kernel, TLS included.
    pub sent_bytes: u64,
    /// Bytes that came from the kernel, TLS included.
    pub received_bytes: u64,
    /// Messages that were dropped because there was no link for them.
    pub dropped_without_link: u64,
    /// What the links have counted, also those that are gone.
    pub links: Counters,
    /// Links that are up now.
    pub links_up: u64,
    /// Links that are not, although the peer is a member.
    pub links_down: u64,
    /// Bytes that wait in links now, to be written or acknowledged.
    pub queued_bytes: u64,
}

impl BusStats {
    /// Adds what one link has counted.
    pub(crate) fn add(&mut self, link: &Counters) {
        let all = &mut self.links;
        for (sum, one) in [
            (&mut all.connections, link.connections),
            (&mut all.sent, link.sent),
            (&mut all.resent, link.resent),
            (&mut all.received, link.received),
            (&mut all.dropped, link.dropped),
            (&mut all.refused, link.refused),
            (&mut all.skipped, link.skipped),
            (&mut all.violations, link.violations),
            (&mut all.unreachable, link.unreachable),
        ] {
            *sum += one;
        }
    }

    /// How often peers were refused for this.
    pub const fn refused_for(&self, reason: Refusal) -> u64 {
        self.refused[reason as usize]
    }

    /// How often peers refused this node for this.
    pub const fn refused_by_peers_for(&self, reason: Refusal) -> u64 {
        self.refused_by_peers[reason as usize]
    }
}
