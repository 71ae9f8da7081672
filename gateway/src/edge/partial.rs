//! Bytes that were received and not handled: packets that are not complete, and packets that cannot be taken now. All
//! connections of a core share a bound; when it is near, those that are not let in yet go first, then those that have most.

use edge_proto::reason::ReasonCode;
use reactor::driver::ConnectionId;

use super::Edge;
use super::depart::Leave;
use crate::turn::Turn;

/// More than a receive buffer usually leaves: whoever has this much waits for the rest of a large packet.
const HOARD_BYTES: usize = 16 * 1024;

/// The same before CONNECT is answered: most are smaller, and come whole.
const STRANGER_BYTES: usize = 1024;

impl Edge {
    /// Keeps the bytes of an incomplete packet, or of packets that cannot be taken now.
    #[expect(clippy::box_collection, reason = "it is kept boxed")]
    pub(super) fn keep(&mut self, turn: &mut Turn<'_>, id: ConnectionId, partial: Box<Vec<u8>>) {
        let Some(connection) = self.connection(id) else {
            return;
        };
        turn.stats.partial_bytes += partial.len() as u64;
        connection.link.partial = Some(partial);
        self.bound_kept(turn, id);
    }

    /// Sees to it that what is kept stays within its bound, after this connection got more of it.
    pub(super) fn bound_kept(&mut self, turn: &mut Turn<'_>, id: ConnectionId) {
        let count = self.count;
        let Some(connection) = self.connection(id) else {
            return;
        };
        let is_stranger = connection.state.is_arriving();
        let bytes = connection.link.kept_bytes();
        if is_stranger && bytes > STRANGER_BYTES {
            self.strangers.insert(id);
        } else if bytes > HOARD_BYTES {
            self.hoarders.insert(id);
        }
        // A quarter is kept for connections that have little, so that nobody suffers for those who send half a packet.
        let total = turn.facts.limits.partial_bytes_max as u64;
        let kept_for_each = total / 4 / count.max(1);
        let is_short = |turn: &Turn<'_>| turn.stats.partial_bytes > total - total / 4;
        while bytes as u64 > kept_for_each && is_short(turn) {
            // Whoever has proved nothing must not cost those who are in theirs.
            let victim = self.stranger().or_else(|| self.hoarder()).unwrap_or(id);
            turn.stats.counters.partial_overflows += 1;
            self.leave(turn, victim, Leave::because(ReasonCode::QuotaExceeded));
            if victim == id {
                return;
            }
        }
    }

    /// Drops what was received and not handled of a connection that ends.
    pub(super) fn forget_partial(&mut self, turn: &mut Turn<'_>, id: ConnectionId) {
        let Some(connection) = self.connection(id) else {
            return;
        };
        turn.stats.partial_bytes -= connection.link.drop_kept() as u64;
    }

    /// A connection that has a large incomplete packet. Those that have it no more are let off.
    fn hoarder(&mut self) -> Option<ConnectionId> {
        loop {
            let id = *self.hoarders.iter().next()?;
            if self.kept_bytes(id) > HOARD_BYTES {
                return Some(id);
            }
            self.hoarders.remove(&id);
        }
    }

    /// A connection whose client is not let in and has sent a part of something large.
    fn stranger(&mut self) -> Option<ConnectionId> {
        loop {
            let id = *self.strangers.iter().next()?;
            let connection = self.connection(id);
            let is_arriving = connection.is_some_and(|found| found.state.is_arriving());
            if is_arriving && self.kept_bytes(id) > STRANGER_BYTES {
                return Some(id);
            }
            self.strangers.remove(&id);
        }
    }

    fn kept_bytes(&mut self, id: ConnectionId) -> usize {
        self.connection(id).map_or(0, |it| it.link.kept_bytes())
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use edge_proto::encode;
    use edge_proto::packet::{Connect, Version};
    use edge_proto::topic::RootDepths;

    use super::*;
    use crate::limits::Limits;
    use crate::outbox::{Order, Outbox};
    use crate::ownership::Ownership;
    use std::sync::Arc;

    use crate::access::policy::Policy;
    use crate::shard::{Arrival, Event, Shard};
    use crate::turn::{Facts, Now};

    fn id(slot: u32) -> ConnectionId {
        ConnectionId {
            slot,
            generation: 1,
        }
    }

    /// The start of a PUBLISH of 1,000,000 bytes.
    fn start_of_a_large_packet(length: usize) -> Vec<u8> {
        let mut bytes = vec![0x30, 0xC0, 0x84, 0x3D];
        bytes.resize(length, 0);
        bytes
    }

    #[test]
    fn who_has_most_of_a_packet_goes_first() {
        let facts = Facts {
            core: 0,
            limits: Limits {
                partial_bytes_max: 64 * 1024,
                ..Limits::default()
            },
            root_depths: RootDepths::default(),
            websocket_path: "/mqtt".into(),
            seed: 1,
        };
        let now = Now::default();
        let mut outbox = Outbox::new(0, 0..1);
        let mut shard = Shard::new(
            facts,
            Arc::new(Ownership::alone(1)),
            Arc::new(Policy::open()),
            1,
            now,
        );
        for slot in 0..2 {
            let accepted = Event::Accepted {
                connection: id(slot),
                arrival: Arrival::plain(false, SocketAddr::from(([127, 0, 0, 1], 1))),
            };
            shard.handle(now, accepted, &mut outbox);
            let mut bytes = Vec::new();
            let client_id = slot.to_string();
            encode::connect(&mut bytes, &Connect::new(Version::V5, &client_id));
            let bytes = &mut bytes[..];
            let connection = id(slot);
            shard.handle(now, Event::Received { connection, bytes }, &mut outbox);
        }
        for (slot, length) in [(0, 40_000), (1, 12_000)] {
            let bytes = &mut start_of_a_large_packet(length)[..];
            let connection = id(slot);
            shard.handle(now, Event::Received { connection, bytes }, &mut outbox);
        }
        let closed = |slot| {
            let is_it =
                |order: &Order| matches!(order, Order::Close(closed, _) if *closed == id(slot));
            outbox.orders.iter().any(is_it)
        };
        assert!(closed(0), "it had 40,000 bytes of the bound");
        assert!(!closed(1), "there is room for its 12,000 now");
        assert_eq!(shard.stats_mut().partial_bytes, 12_000);
    }
}
