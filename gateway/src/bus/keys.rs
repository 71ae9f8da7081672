//! The keys of a cluster: whoever has one of them is a node. The first seals and signs, all of them open and verify, so that they
//! can be replaced without a moment in which nodes do not understand each other: the new key is added as the last one everywhere,
//! then made the first one everywhere, then the old one is taken out.
//!
//! Nothing is sealed with a key itself: each use has its own, derived from it by name ([`ClusterKey::derive`]).

use std::fmt;

use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::{Zeroize, Zeroizing};

/// Bytes of a key.
const KEY_BYTES: usize = 32;
/// Keys of a ring at most. Two are enough to replace one.
pub const KEYS_MAX: usize = 4;

/// A key of the cluster. Wiped when dropped, and never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct ClusterKey([u8; KEY_BYTES]);

impl fmt::Debug for ClusterKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("ClusterKey(…)")
    }
}

impl Drop for ClusterKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

struct KeyBytes;

impl KeyType for KeyBytes {
    fn len(&self) -> usize {
        KEY_BYTES
    }
}

impl ClusterKey {
    /// The key for one use of the cluster's key (HKDF-SHA256, RFC 5869). Uses with different names have nothing in common.
    pub fn derive(&self, purpose: &str) -> Zeroizing<[u8; KEY_BYTES]> {
        let mut derived = Zeroizing::new([0; KEY_BYTES]);
        let salt = Salt::new(HKDF_SHA256, b"roadstead cluster key 1");
        let pseudo_random = salt.extract(&self.0);
        pseudo_random
            .expand(&[purpose.as_bytes()], KeyBytes)
            .and_then(|material| material.fill(&mut *derived))
            .expect("HKDF-SHA256 makes 32 bytes");
        derived
    }
}

/// The keys of a cluster, in the order of the file. At least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRing(Vec<ClusterKey>);

/// What is wrong with a file of keys: always the operator's to mend. No key is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyRingError {
    /// A line is no key.
    #[error(
        "line {0} is no key: a key is 32 random bytes in base64, as `openssl rand -base64 32` prints them"
    )]
    Line(usize),
    /// The file has no key.
    #[error(
        "there is no key: write one line from `openssl rand -base64 32`, the same on all nodes"
    )]
    Empty,
    /// Too many.
    #[error("there are more than {KEYS_MAX} keys: take out those that no node uses first any more")]
    TooMany,
    /// The same key twice.
    #[error("line {0} repeats a key: take it out")]
    Twice(usize),
    /// Somebody has typed a key.
    #[error("line {0} is one byte over and over: make a key with `openssl rand -base64 32`")]
    Weak(usize),
}

impl KeyRing {
    /// Reads the text of a file: a key per line, in base64. Empty lines and lines that begin with `#` are passed over.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn parse(text: &str) -> Result<Self, KeyRingError> {
        let mut keys: Vec<ClusterKey> = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let (number, line) = (index + 1, line.trim());
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let bytes = STANDARD.decode(line).map(Zeroizing::new);
            let bytes = bytes.map_err(|_| KeyRingError::Line(number))?;
            let bytes: &[u8; KEY_BYTES] = bytes[..]
                .try_into()
                .map_err(|_| KeyRingError::Line(number))?;
            let key = ClusterKey(*bytes);
            if key.0.iter().all(|byte| *byte == key.0[0]) {
                return Err(KeyRingError::Weak(number));
            }
            if keys.contains(&key) {
                return Err(KeyRingError::Twice(number));
            }
            if keys.len() == KEYS_MAX {
                return Err(KeyRingError::TooMany);
            }
            keys.push(key);
        }
        if keys.is_empty() {
            return Err(KeyRingError::Empty);
        }
        Ok(Self(keys))
    }

    /// The key that seals.
    pub fn first(&self) -> &ClusterKey {
        &self.0[0]
    }

    /// The keys that open.
    pub fn all(&self) -> &[ClusterKey] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(seed: u8) -> String {
        let bytes: Vec<u8> = (0..32).map(|index| index ^ seed).collect();
        STANDARD.encode(bytes)
    }

    #[test]
    fn a_file_of_keys_is_read_in_order() {
        let text = format!("# the new one\n{}\n\n  {}  \r\n", line(1), line(2));
        let ring = KeyRing::parse(&text).expect("it is good");
        assert_eq!(ring.all().len(), 2);
        assert_eq!(
            Ok(ring.first()),
            KeyRing::parse(&line(1)).as_ref().map(KeyRing::first)
        );
        assert_eq!(
            format!("{ring:?}"),
            "KeyRing([ClusterKey(…), ClusterKey(…)])"
        );
    }

    #[test]
    fn what_is_no_key_is_refused_by_its_line() {
        let short = STANDARD.encode([7, 8]);
        let long = STANDARD.encode([7; 33]);
        for (text, error) in [
            (String::new(), KeyRingError::Empty),
            ("# nothing\n".to_owned(), KeyRingError::Empty),
            (format!("{}\nsecret", line(1)), KeyRingError::Line(2)),
            (short, KeyRingError::Line(1)),
            (long, KeyRingError::Line(1)),
            (STANDARD.encode([0; 32]), KeyRingError::Weak(1)),
            (
                format!("{}\n\n{}", line(1), line(1)),
                KeyRingError::Twice(3),
            ),
            (
                (1..=5).map(|seed| line(seed) + "\n").collect(),
                KeyRingError::TooMany,
            ),
        ] {
            assert_eq!(KeyRing::parse(&text), Err(error));
            assert!(!error.to_string().contains("secret"));
        }
    }

    #[test]
    fn each_use_of_each_key_is_another_key() {
        let ring = KeyRing::parse(&format!("{}\n{}", line(1), line(2))).expect("it is good");
        let [first, second] = ring.all() else {
            unreachable!("there are two");
        };
        assert_eq!(first.derive("bus"), first.derive("bus"));
        assert_ne!(first.derive("bus"), first.derive("gossip"));
        assert_ne!(first.derive("bus"), second.derive("bus"));
        assert_ne!(*first.derive("bus"), first.0);
    }
}
