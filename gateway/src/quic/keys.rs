//! Keys that all cores of a node share, and with a common secret all nodes of a cluster and the next process of this one: of
//! connection ids, of stateless resets and of the tokens in Retry packets.

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
    pub(super) ids: IdKey,
    pub(super) reset: Arc<hmac::Key>,
    pub(super) token: Arc<Prk>,
}

impl NodeKeys {
    /// The keys that follow from a secret.
    #[must_use]
    pub fn new(secret: &ClusterSecret) -> Self {
        let master = Salt::new(HKDF_SHA256, b"roadstead quic").extract(&secret.0);
        let derive = |purpose: &[u8]| {
            let mut key = Zeroizing::new([0; 32]);
            let info = [purpose];
            let okm = master.expand(&info, KeyBytes);
            okm.and_then(|okm| okm.fill(&mut key[..]))
                .expect("HKDF-SHA256 makes 32 bytes of anything");
            key
        };
        let token = Salt::new(HKDF_SHA256, &[]).extract(&derive(b"tokens")[..]);
        Self {
            ids: IdKey::new(&derive(b"connection ids")),
            reset: Arc::new(hmac::Key::new(
                hmac::HMAC_SHA256,
                &derive(b"stateless resets")[..],
            )),
            token: Arc::new(token),
        }
    }

    /// The key of the connection ids.
    #[must_use]
    pub fn ids(&self) -> &IdKey {
        &self.ids
    }
}

impl std::fmt::Debug for NodeKeys {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("NodeKeys(…)")
    }
}
