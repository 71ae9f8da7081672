//! The record layer after the handshake (RFC 8446 §5, RFC 5246 §6.2, RFC 5288, RFC 7905): framing, sealing and opening.
//!
//! An AEAD is made from its key for each record. That takes 150 to 190 ns (`docs/decisions/0008-tls-without-connections.md`)
//! and saves about a kilobyte per session.

use aws_lc_rs::aead::{
    AES_128_GCM, AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey,
};
use zeroize::Zeroize;

use super::failure::{Alert, Failure, Reason};

/// Type, version, length.
pub(super) const HEADER_BYTES: usize = 5;
/// Most plaintext in a record.
pub(super) const PLAIN_BYTES_MAX: usize = 16 * 1024;
const TAG_BYTES: usize = 16;
const EXPLICIT_NONCE_BYTES: usize = 8;
/// Secret of the longest hash in use, SHA-384.
pub(super) const SECRET_BYTES_MAX: usize = 48;

pub(super) const CHANGE_CIPHER_SPEC: u8 = 20;
pub(super) const ALERT: u8 = 21;
pub(super) const HANDSHAKE: u8 = 22;
pub(super) const APPLICATION_DATA: u8 = 23;

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// RFC 5246.
    Tls12,
    /// RFC 8446.
    Tls13,
}

/// The AEAD of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Aead {
    Aes128Gcm,
    Aes256Gcm,
    Chacha20Poly1305,
}

impl Aead {
    fn algorithm(self) -> &'static Algorithm {
        match self {
            Self::Aes128Gcm => &AES_128_GCM,
            Self::Aes256Gcm => &AES_256_GCM,
            Self::Chacha20Poly1305 => &CHACHA20_POLY1305,
        }
    }

    pub(super) const fn key_bytes(self) -> usize {
        match self {
            Self::Aes128Gcm => 16,
            Self::Aes256Gcm | Self::Chacha20Poly1305 => 32,
        }
    }

    /// Records that one key may protect (RFC 8446 §5.5, with the same margin that rustls leaves).
    pub(super) const fn records_per_key_max(self) -> u64 {
        match self {
            Self::Aes128Gcm | Self::Aes256Gcm => 1 << 24,
            Self::Chacha20Poly1305 => u64::MAX,
        }
    }
}

/// How the records of a session are protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cipher {
    pub(super) version: Version,
    pub(super) aead: Aead,
}

/// What protects one direction of a session. Wiped when dropped.
pub(super) struct Direction {
    /// TLS 1.3: the traffic secret, from which the next one follows. As long as the hash of the suite; zeros after it.
    pub(super) secret: [u8; SECRET_BYTES_MAX],
    /// As long as the AEAD has it; zeros after it.
    pub(super) key: [u8; 32],
    pub(super) iv: [u8; 12],
    /// The number of the next record.
    pub(super) sequence: u64,
}

impl Drop for Direction {
    fn drop(&mut self) {
        self.secret.zeroize();
        self.key.zeroize();
        self.iv.zeroize();
    }
}

/// An opened record.
pub(super) struct Opened<'a> {
    pub(super) content_type: u8,
    pub(super) payload: &'a mut [u8],
}

/// Length of the record that begins here, header included; `None` while its header is not complete.
///
/// # Errors
/// A length that no record of this version has, or a type or version that no record has.
pub(super) fn length(bytes: &[u8], version: Version) -> Result<Option<usize>, Failure> {
    let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else {
        return Ok(None);
    };
    let [content_type, major, _, high, low] = *header;
    let is_known = match version {
        Version::Tls12 => (CHANGE_CIPHER_SPEC..=APPLICATION_DATA).contains(&content_type),
        // Everything is encrypted now, and its type is inside (RFC 8446 §5.2).
        Version::Tls13 => content_type == APPLICATION_DATA,
    };
    if !is_known {
        let detail = format!("a record of type {content_type} after the handshake");
        return Err(Failure::violation(Alert::UNEXPECTED_MESSAGE, detail));
    }
    if major != 3 {
        let detail = format!("a record of version {major}");
        return Err(Failure::violation(Alert::DECODE_ERROR, detail));
    }
    let payload = usize::from(u16::from_be_bytes([high, low]));
    let expansion_max = match version {
        Version::Tls12 => 2048,
        Version::Tls13 => 256,
    };
    if payload > PLAIN_BYTES_MAX + expansion_max {
        let detail = format!("a record of {payload} bytes");
        return Err(Failure::violation(Alert::RECORD_OVERFLOW, detail));
    }
    Ok(Some(HEADER_BYTES + payload))
}

impl Cipher {
    fn has_explicit_nonce(self) -> bool {
        self.version == Version::Tls12 && self.aead != Aead::Chacha20Poly1305
    }

    fn key(self, direction: &Direction) -> Result<LessSafeKey, Failure> {
        let bytes = &direction.key[..self.aead.key_bytes()];
        UnboundKey::new(self.aead.algorithm(), bytes)
            .map(LessSafeKey::new)
            .map_err(|_| Failure::internal("no AEAD could be made from a key"))
    }

    /// Opens one whole record in place. Its plaintext is a part of `record`.
    pub(super) fn open<'a>(
        self,
        direction: &mut Direction,
        record: &'a mut [u8],
    ) -> Result<Opened<'a>, Failure> {
        let corrupt = || {
            let detail = "a record that its key does not open";
            Failure::new(Reason::Corrupt, Some(Alert::BAD_RECORD_MAC), detail)
        };
        let (header, payload) = record.split_at_mut(HEADER_BYTES);
        let explicit = if self.has_explicit_nonce() {
            EXPLICIT_NONCE_BYTES
        } else {
            0
        };
        if payload.len() < explicit + TAG_BYTES {
            return Err(corrupt());
        }
        let (explicit, sealed) = payload.split_at_mut(explicit);
        let mut nonce = nonce(&direction.iv, direction.sequence);
        // The peer chooses it (RFC 5288 §3); the first four bytes are the salt.
        nonce[12 - explicit.len()..].copy_from_slice(explicit);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let key = self.key(direction)?;
        let plain_bytes = sealed.len() - TAG_BYTES;
        let plain = match self.version {
            Version::Tls13 => key.open_in_place(nonce, Aad::from(&*header), sealed),
            Version::Tls12 => {
                let aad = aad_12(direction.sequence, header, plain_bytes);
                key.open_in_place(nonce, Aad::from(aad), sealed)
            }
        }
        .map_err(|_| corrupt())?;
        direction.sequence = direction
            .sequence
            .checked_add(1)
            .ok_or_else(|| Failure::internal("the sequence number of a peer wrapped"))?;
        let opened = match self.version {
            Version::Tls12 => Opened {
                content_type: header[0],
                payload: plain,
            },
            Version::Tls13 => unpad(plain)?,
        };
        if opened.payload.len() > PLAIN_BYTES_MAX {
            let detail = "a record with more than 16 KiB in it";
            return Err(Failure::violation(Alert::RECORD_OVERFLOW, detail));
        }
        Ok(opened)
    }

    /// Appends one record to `out`. The plaintext has at most [`PLAIN_BYTES_MAX`] bytes.
    pub(super) fn seal(
        self,
        direction: &mut Direction,
        content_type: u8,
        plain: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), Failure> {
        debug_assert!(plain.len() <= PLAIN_BYTES_MAX);
        let next = direction.sequence.checked_add(1);
        let next = next.ok_or_else(|| Failure::internal("a sequence number wrapped"))?;
        let key = self.key(direction)?;
        let nonce = nonce(&direction.iv, direction.sequence);
        let (outer_type, payload_bytes) = match self.version {
            Version::Tls13 => (APPLICATION_DATA, plain.len() + 1 + TAG_BYTES),
            Version::Tls12 if self.has_explicit_nonce() => {
                (content_type, EXPLICIT_NONCE_BYTES + plain.len() + TAG_BYTES)
            }
            Version::Tls12 => (content_type, plain.len() + TAG_BYTES),
        };
        let [high, low] = u16::try_from(payload_bytes)
            .map_err(|_| Failure::internal("more plaintext than a record takes"))?
            .to_be_bytes();
        let header = [outer_type, 3, 3, high, low];
        out.reserve(HEADER_BYTES + payload_bytes);
        out.extend_from_slice(&header);
        if self.has_explicit_nonce() {
            out.extend_from_slice(&nonce[4..]);
        }
        let start = out.len();
        out.extend_from_slice(plain);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = match self.version {
            Version::Tls13 => {
                out.push(content_type);
                key.seal_in_place_separate_tag(nonce, Aad::from(header), &mut out[start..])
            }
            Version::Tls12 => {
                let aad = aad_12(direction.sequence, &header, plain.len());
                key.seal_in_place_separate_tag(nonce, Aad::from(aad), &mut out[start..])
            }
        };
        let tag = tag.map_err(|_| Failure::internal("a record could not be sealed"))?;
        out.extend_from_slice(tag.as_ref());
        direction.sequence = next;
        Ok(())
    }
}

/// RFC 8446 §5.3; also the explicit nonces of TLS 1.2 are made like this: they need to be unique, and a number is.
fn nonce(iv: &[u8; 12], sequence: u64) -> [u8; 12] {
    let mut nonce = *iv;
    for (byte, sequence) in nonce[4..].iter_mut().zip(sequence.to_be_bytes()) {
        *byte ^= sequence;
    }
    nonce
}

/// RFC 5246 §6.2.3.3.
fn aad_12(sequence: u64, header: &[u8], plain_bytes: usize) -> [u8; 13] {
    let mut aad = [0; 13];
    aad[..8].copy_from_slice(&sequence.to_be_bytes());
    aad[8..11].copy_from_slice(&header[..3]);
    // A record has at most 18 KiB: its header says so in 16 bits.
    aad[11..].copy_from_slice(&(plain_bytes as u16).to_be_bytes());
    aad
}

/// The type is the last byte that is not zero (RFC 8446 §5.4).
fn unpad(plain: &mut [u8]) -> Result<Opened<'_>, Failure> {
    let Some(last) = plain.iter().rposition(|byte| *byte != 0) else {
        let detail = "a record without a type inside";
        return Err(Failure::violation(Alert::UNEXPECTED_MESSAGE, detail));
    };
    let content_type = plain[last];
    Ok(Opened {
        content_type,
        payload: &mut plain[..last],
    })
}

#[cfg(test)]
mod tests {
    use rustls::SupportedCipherSuite;
    use rustls::crypto::aws_lc_rs::cipher_suite;

    use super::*;

    fn direction() -> Direction {
        Direction {
            secret: [1; SECRET_BYTES_MAX],
            key: [2; 32],
            iv: [3; 12],
            sequence: 0,
        }
    }

    #[test]
    fn a_key_protects_as_many_records_as_rustls_lets_it() {
        for (aead, suite) in [
            (Aead::Aes128Gcm, cipher_suite::TLS13_AES_128_GCM_SHA256),
            (Aead::Aes256Gcm, cipher_suite::TLS13_AES_256_GCM_SHA384),
            (
                Aead::Chacha20Poly1305,
                cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
            ),
        ] {
            let SupportedCipherSuite::Tls13(suite) = suite else {
                panic!("a suite of TLS 1.3");
            };
            assert_eq!(
                aead.records_per_key_max(),
                suite.common.confidentiality_limit
            );
        }
    }

    #[test]
    fn a_record_is_opened_once_and_only_whole() {
        for version in [Version::Tls12, Version::Tls13] {
            for aead in [Aead::Aes128Gcm, Aead::Aes256Gcm, Aead::Chacha20Poly1305] {
                let cipher = Cipher { version, aead };
                let (mut tx, mut rx) = (direction(), direction());
                let mut record = Vec::new();
                cipher
                    .seal(&mut tx, ALERT, b"plain", &mut record)
                    .expect("it seals");
                assert_eq!(
                    length(&record, version).expect("it is a record"),
                    Some(record.len())
                );
                // The length is not authenticated in itself: another one makes another record.
                for index in (0..record.len()).filter(|index| ![3, 4].contains(index)) {
                    let mut forged = record.clone();
                    forged[index] ^= 1;
                    assert!(cipher.open(&mut rx, &mut forged).is_err(), "byte {index}");
                }
                let mut copy = record.clone();
                let opened = cipher.open(&mut rx, &mut copy).expect("it opens");
                assert_eq!(
                    (opened.content_type, &*opened.payload),
                    (ALERT, &b"plain"[..])
                );
                assert!(
                    cipher.open(&mut rx, &mut record).is_err(),
                    "it was opened before"
                );
            }
        }
    }

    #[test]
    fn padding_is_taken_off() {
        let mut padded = *b"data\x17\0\0\0";
        let opened = unpad(&mut padded).expect("it has a type");
        assert_eq!((opened.content_type, &*opened.payload), (23, &b"data"[..]));
        assert!(unpad(&mut [0; 4]).is_err(), "nothing but padding");
    }

    #[test]
    fn no_record_is_longer_than_its_version_allows() {
        let header = |payload: u16| {
            let [high, low] = payload.to_be_bytes();
            [APPLICATION_DATA, 3, 3, high, low]
        };
        for (version, longest) in [(Version::Tls12, 18_432), (Version::Tls13, 16_640)] {
            assert_eq!(
                length(&header(longest), version),
                Ok(Some(usize::from(longest) + HEADER_BYTES))
            );
            let failure = length(&header(longest + 1), version).expect_err("it is too long");
            assert_eq!(failure.alert, Some(Alert::RECORD_OVERFLOW));
        }
        assert_eq!(
            length(&header(1)[..4], Version::Tls13),
            Ok(None),
            "a part of a header"
        );
    }
}
