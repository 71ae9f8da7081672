//! Connection ids: those of QUIC that this node issues, and those that streams have in the shard.
//!
//! ```text
//! byte 0        core: any number that is the core's modulo the number of cores; `reactor::steering` reads it
//! bytes 1–7     random
//! bytes 8–9     number of the node  ⊕  HMAC(the cluster's key, bytes 0–7), bytes 0–1
//! bytes 10–12                          HMAC(the listener's key, bytes 0–9), bytes 0–2
//! ```
//!
//! Nobody without the keys can link two ids of a connection (beyond their core), make one that is taken for ours, or learn the node;
//! a load balancer with the cluster's can learn the node. **A stateless reset is sent only for ids of this very listener of this very
//! node**: another one that has no state for a connection must not say that it is gone (RFC 9000 §21.11).

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::{hmac, rand};
use quinn_proto::{ConnectionIdGenerator, InvalidCid};
use reactor::driver::ConnectionId;

/// Where steering finds the core.
pub(crate) const CORE_BYTE: u8 = 0;
const NONCE_END: usize = 8;
const NODE_END: usize = 10;
/// Bytes of a connection id that this node issues.
pub const ID_BYTES: usize = 13;

/// Set in the slots of streams: a driver's own slots are fewer than this.
const STREAMS: u32 = 1 << 31;

/// True for a stream of a QUIC connection, false for a connection of the driver.
#[must_use]
pub const fn is_stream(connection: ConnectionId) -> bool {
    connection.slot & STREAMS != 0
}

/// The id in the shard of what has this key here.
pub(super) const fn stream_id(slot: u32, generation: u32) -> ConnectionId {
    ConnectionId {
        slot: slot | STREAMS,
        generation,
    }
}

/// Which of two tables a slot belongs to, and its place there: both are dense from 0.
pub(crate) const fn split_slot(slot: u32) -> (usize, u32) {
    ((slot >> 31) as usize, slot & !STREAMS)
}

/// What the ids of one listener are made and known with.
#[derive(Clone)]
pub(super) struct IdKey {
    /// The cluster's.
    nodes: Arc<hmac::Key>,
    /// Those that the cluster had before.
    before: Arc<[hmac::Key]>,
    /// The listener's own.
    own: Arc<hmac::Key>,
}

/// Hides the number of the node, or shows it.
fn mask(nodes: &hmac::Key, nonce: &[u8]) -> [u8; 2] {
    let tag = hmac::sign(nodes, nonce);
    [tag.as_ref()[0], tag.as_ref()[1]]
}

/// The number of the node that issued an id under this key, or any number when no node did.
fn node_of(nodes: &hmac::Key, id: &[u8; ID_BYTES]) -> u16 {
    let mask = mask(nodes, &id[..NONCE_END]);
    u16::from_be_bytes([id[8] ^ mask[0], id[9] ^ mask[1]])
}

impl IdKey {
    pub(super) fn new(
        nodes: Arc<hmac::Key>,
        before: Arc<[hmac::Key]>,
        own: Arc<hmac::Key>,
    ) -> Self {
        Self { nodes, before, own }
    }

    fn checksum(&self, id: &[u8]) -> [u8; ID_BYTES - NODE_END] {
        let tag = hmac::sign(&self.own, id);
        let mut checksum = [0; ID_BYTES - NODE_END];
        checksum.copy_from_slice(&tag.as_ref()[..ID_BYTES - NODE_END]);
        checksum
    }

    /// True exactly when this listener issued an id, as a node of this number.
    fn is_own(&self, id: &[u8], node: u16) -> bool {
        let Ok(id) = <&[u8; ID_BYTES]>::try_from(id) else {
            return false;
        };
        let is_of_node = |nodes: &hmac::Key| node_of(nodes, id) == node;
        id[NODE_END..] == self.checksum(&id[..NODE_END])
            && (is_of_node(&self.nodes) || self.before.iter().any(is_of_node))
    }

    fn make(&self, random: [u8; NONCE_END], node: u16, core: u16, cores: u16) -> [u8; ID_BYTES] {
        let mut id = [0; ID_BYTES];
        id[..NONCE_END].copy_from_slice(&random);
        // The highest number that is the core's modulo the cores and not above the random one; or the core's own.
        let byte = u16::from(random[usize::from(CORE_BYTE)]);
        let rounded = byte - byte % cores + core;
        let stamped = if rounded > 0xff {
            rounded - cores
        } else {
            rounded
        };
        id[usize::from(CORE_BYTE)] = stamped as u8;
        let mask = mask(&self.nodes, &id[..NONCE_END]);
        let [high, low] = node.to_be_bytes();
        id[8] = high ^ mask[0];
        id[9] = low ^ mask[1];
        let checksum = self.checksum(&id[..NODE_END]);
        id[NODE_END..].copy_from_slice(&checksum);
        id
    }
}

/// Makes the ids of one core.
pub(super) struct Ids {
    pub(super) key: IdKey,
    pub(super) node: u16,
    pub(super) core: u16,
    pub(super) cores: u16,
}

impl ConnectionIdGenerator for Ids {
    fn generate_cid(&mut self) -> quinn_proto::ConnectionId {
        let mut random = [0; NONCE_END];
        // Never fails once it has worked, and it did for the keys. If it does: ids repeat, and the endpoint tries again.
        let _ = rand::fill(&mut random);
        let id = self.key.make(random, self.node, self.core, self.cores);
        quinn_proto::ConnectionId::new(&id)
    }

    fn validate(&self, id: &quinn_proto::ConnectionId) -> Result<(), InvalidCid> {
        if self.key.is_own(id, self.node) {
            Ok(())
        } else {
            Err(InvalidCid)
        }
    }

    fn cid_len(&self) -> usize {
        ID_BYTES
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

#[cfg(test)]
mod tests {
    use reactor::steering::Steering;

    use super::*;

    fn key_of(own: u8) -> IdKey {
        let key = |byte: u8| Arc::new(hmac::Key::new(hmac::HMAC_SHA256, &[byte; 32]));
        IdKey::new(key(1), Arc::default(), key(own))
    }

    fn random(seed: &mut u64) -> [u8; NONCE_END] {
        *seed = seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        (*seed ^ (*seed >> 29)).to_be_bytes()
    }

    #[test]
    fn an_id_names_its_core_and_its_node() {
        let key = key_of(2);
        let mut seed = 7;
        for cores in [1, 2, 3, 7, 64, 200, 256] {
            let rule = Steering::new(CORE_BYTE, 0xff, cores).expect("it is a rule");
            for _ in 0..500 {
                let core = u16::from(random(&mut seed)[3]) % cores;
                let node = u16::from_be_bytes([random(&mut seed)[4], random(&mut seed)[5]]);
                let id = key.make(random(&mut seed), node, core, cores);
                assert_eq!(rule.socket_of_id(&id), Some(core), "of {cores}");
                assert_eq!(node_of(&key.nodes, &id), node);
                assert!(key.is_own(&id, node));
            }
        }
    }

    #[test]
    fn an_id_that_was_changed_or_is_of_another_listener_or_node_is_not_ours() {
        let key = key_of(2);
        let id = key.make([9; NONCE_END], 3, 1, 4);
        let another = key_of(3);
        assert!(key.is_own(&id, 3));
        assert!(!key.is_own(&id, 4));
        assert!(!another.is_own(&id, 3));
        assert_eq!(
            node_of(&another.nodes, &id),
            3,
            "a load balancer knows whose it is"
        );
        for index in 0..ID_BYTES {
            let mut changed = id;
            changed[index] ^= 1;
            assert!(!key.is_own(&changed, 3), "byte {index}");
        }
        assert!(!key.is_own(&id[..12], 3));
    }

    #[test]
    fn streams_and_connections_never_share_an_id() {
        let stream = stream_id(5, 1);
        assert!(is_stream(stream));
        assert_eq!(split_slot(stream.slot), (1, 5));
        assert_eq!(split_slot(5), (0, 5));
    }
}
