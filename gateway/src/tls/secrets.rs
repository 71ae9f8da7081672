//! Traffic secrets of TLS 1.3: how they are taken from rustls, and how keys and the next secrets follow from them
//! (RFC 8446 §7.1 to §7.3).
//!
//! rustls gives keys away, and keeps the secrets behind them in an object of 830 bytes whose only use is the next key update.
//! So the secrets are taken from its key log, which is called within `process_tls_records`, and the object is dropped.
//! **A secret is used only when it makes the very keys that rustls made**, so that no mistake in here goes unnoticed.

use std::sync::{Mutex, PoisonError};

use aws_lc_rs::hkdf::{Algorithm, HKDF_SHA256, HKDF_SHA384, KeyType, Prk};
use rustls::{ConnectionTrafficSecrets, KeyLog};
use zeroize::{Zeroize, Zeroizing};

use super::failure::Failure;
use super::record::{Aead, Direction, SECRET_BYTES_MAX};

const CLIENT: &str = "CLIENT_TRAFFIC_SECRET_0";
const SERVER: &str = "SERVER_TRAFFIC_SECRET_0";

/// The traffic secrets of one handshake.
pub(super) struct TrafficSecrets {
    pub(super) client: Zeroizing<[u8; SECRET_BYTES_MAX]>,
    pub(super) server: Zeroizing<[u8; SECRET_BYTES_MAX]>,
}

impl TrafficSecrets {
    fn none() -> Self {
        Self {
            client: Zeroizing::new([0; SECRET_BYTES_MAX]),
            server: Zeroizing::new([0; SECRET_BYTES_MAX]),
        }
    }
}

/// The key log of one core: keeps the secrets of the handshake that is being processed until they are taken.
pub(crate) struct Capture(Mutex<Option<TrafficSecrets>>);

impl Capture {
    pub(super) const fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// The secrets that came since the last call.
    pub(super) fn take(&self) -> Option<TrafficSecrets> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl std::fmt::Debug for Capture {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Capture")
    }
}

impl KeyLog for Capture {
    fn log(&self, label: &str, _client_random: &[u8], secret: &[u8]) {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let secrets = slot.get_or_insert_with(TrafficSecrets::none);
        let place = match label {
            CLIENT => &mut secrets.client,
            SERVER => &mut secrets.server,
            _ => return,
        };
        if let Some(place) = place.get_mut(..secret.len()) {
            place.copy_from_slice(secret);
        }
    }

    fn will_log(&self, label: &str) -> bool {
        label == CLIENT || label == SERVER
    }
}

struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

/// The hash of the suite of TLS 1.3 with this AEAD, and its length.
fn hash(aead: Aead) -> (Algorithm, usize) {
    match aead {
        Aead::Aes256Gcm => (HKDF_SHA384, 48),
        Aead::Aes128Gcm | Aead::Chacha20Poly1305 => (HKDF_SHA256, 32),
    }
}

/// HKDF-Expand-Label with an empty context.
fn expand(
    aead: Aead,
    secret: &[u8; SECRET_BYTES_MAX],
    label: &[u8],
    out: &mut [u8],
) -> Result<(), Failure> {
    let (algorithm, hash_bytes) = hash(aead);
    let failed = |_| Failure::internal("HKDF failed");
    // Both lengths are below 256: labels are those below, outputs are keys and secrets.
    let length = [
        0,
        out.len() as u8,
        b"tls13 ".len() as u8 + label.len() as u8,
    ];
    Prk::new_less_safe(algorithm, &secret[..hash_bytes])
        .expand(&[&length, b"tls13 ", label, &[0]], Length(out.len()))
        .and_then(|okm| okm.fill(out))
        .map_err(failed)
}

/// Key and initialization vector from the secret, for a first record.
fn derive_keys(aead: Aead, direction: &mut Direction) -> Result<(), Failure> {
    let Direction {
        secret,
        key,
        iv,
        sequence,
    } = direction;
    expand(aead, secret, b"key", &mut key[..aead.key_bytes()])?;
    expand(aead, secret, b"iv", iv)?;
    *sequence = 0;
    Ok(())
}

/// Goes on to the next secret and its keys (RFC 8446 §7.2).
pub(super) fn update(aead: Aead, direction: &mut Direction) -> Result<(), Failure> {
    let (_, hash_bytes) = hash(aead);
    let mut next = [0; SECRET_BYTES_MAX];
    expand(
        aead,
        &direction.secret,
        b"traffic upd",
        &mut next[..hash_bytes],
    )?;
    direction.secret = next;
    next.zeroize();
    derive_keys(aead, direction)
}

/// A direction with the keys of rustls and, in TLS 1.3, the secret behind them.
///
/// # Errors
/// When the secret does not make these keys.
pub(super) fn direction(
    (sequence, keys): &(u64, ConnectionTrafficSecrets),
    secret: Option<&[u8; SECRET_BYTES_MAX]>,
) -> Result<(Aead, Direction), Failure> {
    let (aead, key, iv) = match keys {
        ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (Aead::Aes128Gcm, key, iv),
        ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (Aead::Aes256Gcm, key, iv),
        ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (Aead::Chacha20Poly1305, key, iv),
        _ => return Err(Failure::internal("an AEAD that this layer does not know")),
    };
    let mut given = Direction {
        secret: secret.copied().unwrap_or([0; SECRET_BYTES_MAX]),
        key: [0; 32],
        iv: [0; 12],
        sequence: *sequence,
    };
    let mismatch = || Failure::internal("the keys of a handshake are not those of its secrets");
    let bytes = key.as_ref();
    if bytes.len() < aead.key_bytes() || iv.as_ref().len() != given.iv.len() {
        return Err(mismatch());
    }
    given.key[..aead.key_bytes()].copy_from_slice(&bytes[..aead.key_bytes()]);
    given.iv.copy_from_slice(iv.as_ref());
    if secret.is_some() {
        let mut derived = Direction {
            secret: given.secret,
            key: [0; 32],
            iv: [0; 12],
            sequence: 0,
        };
        derive_keys(aead, &mut derived)?;
        if derived.key != given.key || derived.iv != given.iv {
            return Err(mismatch());
        }
    }
    Ok((aead, given))
}

#[cfg(test)]
mod tests {
    use rustls::crypto::cipher::{AeadKey, Iv};

    use super::*;

    /// RFC 8448 §3: what the server's first application traffic secret makes.
    const SECRET: [u8; 32] = [
        0xa1, 0x1a, 0xf9, 0xf0, 0x55, 0x31, 0xf8, 0x56, 0xad, 0x47, 0x11, 0x6b, 0x45, 0xa9, 0x50,
        0x32, 0x82, 0x04, 0xb4, 0xf4, 0x4b, 0xfb, 0x6b, 0x3a, 0x4b, 0x4f, 0x1f, 0x3f, 0xcb, 0x63,
        0x16, 0x43,
    ];
    const KEY: [u8; 16] = [
        0x9f, 0x02, 0x28, 0x3b, 0x6c, 0x9c, 0x07, 0xef, 0xc2, 0x6b, 0xb9, 0xf2, 0xac, 0x92, 0xe3,
        0x56,
    ];
    const IV: [u8; 12] = [
        0xcf, 0x78, 0x2b, 0x88, 0xdd, 0x83, 0x54, 0x9a, 0xad, 0xf1, 0xe9, 0x84,
    ];

    fn secret() -> [u8; SECRET_BYTES_MAX] {
        let mut secret = [0; SECRET_BYTES_MAX];
        secret[..SECRET.len()].copy_from_slice(&SECRET);
        secret
    }

    fn keys() -> ConnectionTrafficSecrets {
        let mut key = [0; 32];
        key[..KEY.len()].copy_from_slice(&KEY);
        ConnectionTrafficSecrets::Aes128Gcm {
            key: AeadKey::from(key),
            iv: Iv::new(IV),
        }
    }

    #[test]
    fn a_secret_makes_the_keys_of_the_specification() {
        let (aead, given) = direction(&(5, keys()), Some(&secret())).expect("they belong together");
        assert_eq!((aead, given.sequence), (Aead::Aes128Gcm, 5));
        assert_eq!((&given.key[..16], given.iv), (&KEY[..], IV));
    }

    #[test]
    fn a_secret_that_makes_other_keys_is_refused() {
        for index in 0..SECRET.len() {
            let mut other = secret();
            other[index] ^= 1;
            assert!(direction(&(0, keys()), Some(&other)).is_err());
        }
    }

    #[test]
    fn an_update_changes_everything_and_starts_at_zero() {
        let (aead, mut next) =
            direction(&(5, keys()), Some(&secret())).expect("they belong together");
        update(aead, &mut next).expect("it can be derived");
        assert_ne!(next.secret, secret());
        assert_ne!((&next.key[..16], next.iv), (&KEY[..], IV));
        assert_eq!((next.sequence, &next.secret[32..]), (0, &[0; 16][..]));
    }
}
