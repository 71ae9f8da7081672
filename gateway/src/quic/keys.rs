//! Keys of QUIC. Those of the node's number in connection ids and of the tokens in Retry packets follow from the cluster's secret, so
//! a token of one node holds at another. What says that a connection is gone is a listener's own.

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
    /// connection of a stranger with it (RFC 9000 §21.11). Nodes share their secret, so it is not enough.
    #[must_use]
    pub fn new(secret: &ClusterSecret, own: &[u8; 32]) -> Self {
        let master = Salt::new(HKDF_SHA256, b"roadstead quic").extract(&secret.0);
        let token = Salt::new(HKDF_SHA256, &[]).extract(&derive(&master, &[b"tokens"])[..]);
        let of_node = derive(&master, &[b"one node"]);
        Self {
            nodes: key(&master, &[b"connection ids"]),
            own: Arc::new(Salt::new(HKDF_SHA256, own).extract(&of_node[..])),
            token: Arc::new(token),
        }
    }

    pub(super) fn of_listener(&self, address: SocketAddr) -> ListenerKeys {
        let address = address.to_string();
        let own = key(&self.own, &[b"connection ids of ", address.as_bytes()]);
        ListenerKeys {
            ids: IdKey::new(Arc::clone(&self.nodes), own),
            reset: key(&self.own, &[b"stateless resets of ", address.as_bytes()]),
        }
    }
}

fn derive(master: &Prk, purpose: &[&[u8]]) -> Zeroizing<[u8; 32]> {
    let mut key = Zeroizing::new([0; 32]);
    let okm = master.expand(purpose, KeyBytes);
    okm.and_then(|okm| okm.fill(&mut key[..]))
        .expect("HKDF-SHA256 makes 32 bytes of anything");
    key
}

fn key(master: &Prk, purpose: &[&[u8]]) -> Arc<hmac::Key> {
    let key = derive(master, purpose);
    Arc::new(hmac::Key::new(hmac::HMAC_SHA256, &key[..]))
}

impl std::fmt::Debug for NodeKeys {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("NodeKeys(…)")
    }
}
