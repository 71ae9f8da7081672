//! Keys of QUIC. Those of the node's number in connection ids and of the tokens in Retry packets follow from the cluster's secret, so
//! a token of one node holds at another. What says that a connection is gone is a listener's own, and stays when the secret changes.

use std::net::SocketAddr;
use std::sync::Arc;

use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};
use aws_lc_rs::hmac;
use zeroize::Zeroizing;

use super::ids::IdKey;
use crate::tls::ClusterSecret;

struct KeyBytes;

impl KeyType for KeyBytes {
    fn len(&self) -> usize {
        32
    }
}

/// Keys of a node.
#[derive(Clone)]
pub struct NodeKeys {
    nodes: Arc<hmac::Key>,
    /// What ids were made with before the cluster's secret was changed.
    nodes_before: Arc<[hmac::Key]>,
    /// What the keys of its listeners follow from.
    own: Arc<Prk>,
    pub(super) token: Arc<Prk>,
}

/// Keys of one listener of one node, the same on all its cores and in its next process.
pub(super) struct ListenerKeys {
    pub(super) ids: IdKey,
    pub(super) reset: Arc<hmac::Key>,
}

impl NodeKeys {
    /// The keys that follow from the cluster's secret and from a random value that this node alone has.
    ///
    /// **Nobody but the listener that issued an id may have its reset token**: who can ask another node or listener for it ends the
    /// connection of a stranger with it (RFC 9000 §21.11). Nodes share their secret, so it has no part in that.
    #[must_use]
    pub fn new(secret: &ClusterSecret, own: &[u8; 32]) -> Self {
        let master = master(secret);
        let token = Salt::new(HKDF_SHA256, &[]).extract(&derive(&master, &[b"tokens"])[..]);
        Self {
            nodes: Arc::new(node_key(&master)),
            nodes_before: Arc::default(),
            own: Arc::new(Salt::new(HKDF_SHA256, b"roadstead quic of one node").extract(own)),
            token: Arc::new(token),
        }
    }

    /// The same keys for a cluster that had these secrets before: connections from then are still told that they are gone.
    #[must_use]
    pub fn after(self, secrets: &[ClusterSecret]) -> Self {
        let before = secrets.iter().map(|secret| node_key(&master(secret)));
        Self {
            nodes_before: before.collect(),
            ..self
        }
    }

    pub(super) fn of_listener(&self, address: SocketAddr) -> ListenerKeys {
        let address = address.to_string();
        let own = key(&self.own, &[b"connection ids of ", address.as_bytes()]);
        let reset = key(&self.own, &[b"stateless resets of ", address.as_bytes()]);
        let (nodes, before) = (Arc::clone(&self.nodes), Arc::clone(&self.nodes_before));
        ListenerKeys {
            ids: IdKey::new(nodes, before, Arc::new(own)),
            reset: Arc::new(reset),
        }
    }
}

fn master(secret: &ClusterSecret) -> Prk {
    Salt::new(HKDF_SHA256, b"roadstead quic").extract(&secret.0)
}

/// What hides the number of the node in its ids.
fn node_key(master: &Prk) -> hmac::Key {
    key(master, &[b"connection ids"])
}

fn derive(master: &Prk, purpose: &[&[u8]]) -> Zeroizing<[u8; 32]> {
    let mut key = Zeroizing::new([0; 32]);
    let okm = master.expand(purpose, KeyBytes);
    okm.and_then(|okm| okm.fill(&mut key[..]))
        .expect("HKDF-SHA256 makes 32 bytes of anything");
    key
}

fn key(master: &Prk, purpose: &[&[u8]]) -> hmac::Key {
    let key = derive(master, purpose);
    hmac::Key::new(hmac::HMAC_SHA256, &key[..])
}

impl std::fmt::Debug for NodeKeys {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("NodeKeys(…)")
    }
}
