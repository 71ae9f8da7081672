//! Keys of packets, as bytes. rustls keeps each key of a QUIC connection expanded, a tenth of a kilobyte as bytes and up to seven as
//! a context of its AEAD; an idle connection has four of one kind and two of the other. Here a key is expanded for the packet that
//! needs it, which takes some 100 ns, as for the records of [`tls`](crate::tls).

use std::sync::LazyLock;

use aws_lc_rs::aead::quic::{self as header, HeaderProtectionKey};
use aws_lc_rs::aead::{
    AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey,
};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider};
use rustls::crypto::cipher::{AeadKey, Iv};
use rustls::quic::{Algorithm, Tag};
use rustls::{CipherSuiteCommon, Error, SupportedCipherSuite, Tls13CipherSuite};
use zeroize::Zeroize;

const KEY_BYTES_MAX: usize = 32;
const IV_BYTES: usize = 12;
const TAG_BYTES: usize = 16;

/// The AEADs of QUIC, with the limits of RFC 9001 §6.6 and appendix B.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Aes128,
    Aes256,
    ChaCha,
}

impl Kind {
    const fn key_bytes(self) -> usize {
        match self {
            Self::Aes128 => 16,
            Self::Aes256 | Self::ChaCha => 32,
        }
    }
}

/// The provider of rustls with suites whose QUIC keys are these.
pub(crate) fn provider() -> CryptoProvider {
    static SUITES: LazyLock<Vec<Tls13CipherSuite>> = LazyLock::new(|| {
        [
            // In the order that TLS listeners have, too.
            (cipher_suite::TLS13_AES_128_GCM_SHA256, &Kind::Aes128),
            (cipher_suite::TLS13_AES_256_GCM_SHA384, &Kind::Aes256),
            (cipher_suite::TLS13_CHACHA20_POLY1305_SHA256, &Kind::ChaCha),
        ]
        .into_iter()
        .filter_map(|(suite, kind)| {
            let suite = suite.tls13()?;
            Some(Tls13CipherSuite {
                common: CipherSuiteCommon {
                    suite: suite.common.suite,
                    hash_provider: suite.common.hash_provider,
                    confidentiality_limit: suite.common.confidentiality_limit,
                },
                hkdf_provider: suite.hkdf_provider,
                aead_alg: suite.aead_alg,
                quic: Some(kind),
            })
        })
        .collect()
    });
    CryptoProvider {
        cipher_suites: SUITES.iter().map(SupportedCipherSuite::Tls13).collect(),
        ..default_provider()
    }
}

impl Algorithm for Kind {
    fn packet_key(&self, key: AeadKey, iv: Iv) -> Box<dyn rustls::quic::PacketKey> {
        let mut nonce = [0; IV_BYTES];
        nonce.copy_from_slice(iv.as_ref());
        Box::new(PacketKey {
            key: Bytes::of(&key),
            iv: nonce,
            kind: *self,
        })
    }

    fn header_protection_key(&self, key: AeadKey) -> Box<dyn rustls::quic::HeaderProtectionKey> {
        Box::new(HeaderKey {
            key: Bytes::of(&key),
            kind: *self,
        })
    }

    fn aead_key_len(&self) -> usize {
        self.key_bytes()
    }
}

/// A key, wiped when it goes away.
struct Bytes([u8; KEY_BYTES_MAX]);

impl Bytes {
    fn of(key: &AeadKey) -> Self {
        let mut bytes = [0; KEY_BYTES_MAX];
        let key = key.as_ref();
        bytes[..key.len()].copy_from_slice(key);
        Self(bytes)
    }
}

impl Drop for Bytes {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

struct PacketKey {
    key: Bytes,
    iv: [u8; IV_BYTES],
    kind: Kind,
}

const _: () = assert!(size_of::<PacketKey>() <= 48, "four for each connection");

impl PacketKey {
    fn expanded(&self) -> Option<LessSafeKey> {
        let algorithm = match self.kind {
            Kind::Aes128 => &AES_128_GCM,
            Kind::Aes256 => &AES_256_GCM,
            Kind::ChaCha => &CHACHA20_POLY1305,
        };
        let key = UnboundKey::new(algorithm, &self.key.0[..self.kind.key_bytes()]).ok()?;
        Some(LessSafeKey::new(key))
    }

    /// RFC 9001 §5.3: the packet number over the right end of the vector.
    fn nonce(&self, packet: u64) -> Nonce {
        let mut nonce = self.iv;
        for (byte, number) in nonce[4..].iter_mut().zip(packet.to_be_bytes()) {
            *byte ^= number;
        }
        Nonce::assume_unique_for_key(nonce)
    }
}

impl rustls::quic::PacketKey for PacketKey {
    fn encrypt_in_place(
        &self,
        packet: u64,
        header: &[u8],
        payload: &mut [u8],
    ) -> Result<Tag, Error> {
        let key = self.expanded().ok_or(Error::EncryptError)?;
        let tag = key
            .seal_in_place_separate_tag(self.nonce(packet), Aad::from(header), payload)
            .map_err(|_| Error::EncryptError)?;
        Ok(Tag::from(tag.as_ref()))
    }

    fn decrypt_in_place<'a>(
        &self,
        packet: u64,
        header: &[u8],
        payload: &'a mut [u8],
    ) -> Result<&'a [u8], Error> {
        let key = self.expanded().ok_or(Error::DecryptError)?;
        let plain = key
            .open_in_place(self.nonce(packet), Aad::from(header), payload)
            .map_err(|_| Error::DecryptError)?;
        Ok(plain)
    }

    fn tag_len(&self) -> usize {
        TAG_BYTES
    }

    fn confidentiality_limit(&self) -> u64 {
        match self.kind {
            Kind::Aes128 | Kind::Aes256 => 1 << 23,
            Kind::ChaCha => u64::MAX,
        }
    }

    fn integrity_limit(&self) -> u64 {
        match self.kind {
            Kind::Aes128 | Kind::Aes256 => 1 << 52,
            Kind::ChaCha => 1 << 36,
        }
    }
}

struct HeaderKey {
    key: Bytes,
    kind: Kind,
}

impl HeaderKey {
    /// RFC 9001 §5.4.1.
    fn xor(
        &self,
        sample: &[u8],
        first: &mut u8,
        packet_number: &mut [u8],
        is_masked: bool,
    ) -> Result<(), Error> {
        const LONG_HEADER: u8 = 0x80;
        let failed = |_| Error::General("header protection failed".into());
        let algorithm = match self.kind {
            Kind::Aes128 => &header::AES_128,
            Kind::Aes256 => &header::AES_256,
            Kind::ChaCha => &header::CHACHA20,
        };
        let key = &self.key.0[..self.kind.key_bytes()];
        let key = HeaderProtectionKey::new(algorithm, key).map_err(failed)?;
        let [first_mask, mask @ ..] = key.new_mask(sample).map_err(failed)?;
        if packet_number.len() > mask.len() {
            return Err(Error::General(
                "a packet number of more than 4 bytes".into(),
            ));
        }
        let bits = if *first & LONG_HEADER == 0 {
            0x1f
        } else {
            0x0f
        };
        let unmasked = *first ^ (first_mask & bits);
        // The length of the packet number is in the first byte, and is masked as well.
        let plain = if is_masked { unmasked } else { *first };
        let length = usize::from(plain & 0x03) + 1;
        *first = unmasked;
        for (byte, mask) in packet_number.iter_mut().zip(mask).take(length) {
            *byte ^= mask;
        }
        Ok(())
    }
}

impl rustls::quic::HeaderProtectionKey for HeaderKey {
    fn encrypt_in_place(
        &self,
        sample: &[u8],
        first: &mut u8,
        packet_number: &mut [u8],
    ) -> Result<(), Error> {
        self.xor(sample, first, packet_number, false)
    }

    fn decrypt_in_place(
        &self,
        sample: &[u8],
        first: &mut u8,
        packet_number: &mut [u8],
    ) -> Result<(), Error> {
        self.xor(sample, first, packet_number, true)
    }

    fn sample_len(&self) -> usize {
        16
    }
}

#[cfg(test)]
mod tests {
    use rustls::Side;
    use rustls::quic::{Suite, Version};

    use super::*;

    fn suites(provider: &CryptoProvider) -> Vec<Suite> {
        let suites = provider.cipher_suites.iter();
        suites
            .filter_map(|suite| suite.tls13()?.quic_suite())
            .collect()
    }

    /// Whether one side's keys of rustls and the other side's of ours understand each other, for each suite.
    #[test]
    fn packets_are_those_of_rustls() {
        let (ours, theirs) = (suites(&provider()), suites(&default_provider()));
        assert_eq!((ours.len(), theirs.len()), (3, 3));
        for suite in ours {
            let same = |other: &&Suite| other.suite.common.suite == suite.suite.common.suite;
            let other = theirs.iter().find(same).expect("rustls has it");
            let server = suite.keys(b"an id of a client", Side::Server, Version::V1);
            let client = other.keys(b"an id of a client", Side::Client, Version::V1);
            for packet in [0, 1, 0xffff_ffff, 1 << 40] {
                let plain = *b"a payload of more than twenty bytes";
                let mut sealed = plain.to_vec();
                let key = &server.local.packet;
                let tag = key.encrypt_in_place(packet, b"header", &mut sealed);
                sealed.extend_from_slice(tag.expect("it seals").as_ref());
                let key = &client.remote.packet;
                let mut copy = sealed.clone();
                let opened = key.decrypt_in_place(packet, b"header", &mut copy);
                assert_eq!(opened.expect("it opens"), plain);
                let key = &server.local.packet;
                assert!(key.decrypt_in_place(packet, b"other", &mut sealed).is_err());

                for flags in [0xc3, 0x43, 0xc0, 0x41] {
                    let (mut first, mut number) = (flags, [1, 2, 3, 4]);
                    let sample = &sealed[4..20];
                    let key = &server.local.header;
                    key.encrypt_in_place(sample, &mut first, &mut number)
                        .expect("it masks");
                    let key = &client.remote.header;
                    key.decrypt_in_place(sample, &mut first, &mut number)
                        .expect("it unmasks");
                    assert_eq!((first, number), (flags, [1, 2, 3, 4]));
                }
            }
            assert_eq!(
                server.local.packet.confidentiality_limit(),
                client.local.packet.confidentiality_limit()
            );
            assert_eq!(
                server.local.packet.integrity_limit(),
                client.local.packet.integrity_limit()
            );
        }
    }
}
