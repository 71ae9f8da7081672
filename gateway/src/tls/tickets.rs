//! Tickets without state: any node of the cluster opens what any other sealed, because their keys follow from a common secret
//! and the time.
//!
//! ```text
//! epoch key  = HKDF(cluster secret, policy of the listener, time / epoch length)
//! ticket     = epoch (8 bytes) | salt (16) | AES-256-GCM(HKDF(epoch key, salt), nonce 0, session) | tag (16)
//! ```
//!
//! Each ticket has a key of its own, so that a cluster may make any number of them without a nonce coming twice. A ticket of the
//! previous epoch is accepted, and one of the next: clocks of nodes differ. The policy is what client certificates are asked for:
//! without it a ticket from a listener that asks for none would open one that requires one.
//!
//! Who learns the cluster secret can open the tickets of all epochs. TLS 1.3 still agrees on a fresh key, so that recorded
//! sessions stay closed; those that were resumed in TLS 1.2 do not.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};
use rustls::pki_types::UnixTime;
use rustls::server::ProducesTickets;
use rustls::time_provider::TimeProvider;

const EPOCH_BYTES: usize = 8;
const SALT_BYTES: usize = 16;
const TAG_BYTES: usize = 16;
/// A ticket carries the certificates of a client; one that does not fit into a ClientHello helps nobody.
const TICKET_BYTES_MAX: usize = 32 * 1024;

/// The time of a core, as rustls asks for it.
#[derive(Debug, Default)]
pub(crate) struct CoreClock(AtomicU64);

impl CoreClock {
    pub(crate) fn set(&self, unix_ms: u64) {
        self.0.store(unix_ms / 1000, Ordering::Relaxed);
    }

    fn unix_s(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn unix_time(&self) -> UnixTime {
        UnixTime::since_unix_epoch(std::time::Duration::from_secs(self.unix_s()))
    }
}

impl TimeProvider for CoreClock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(self.unix_time())
    }
}

struct KeyBytes;

impl KeyType for KeyBytes {
    fn len(&self) -> usize {
        32
    }
}

/// The secrets that tickets are made from: the first one seals, all of them open.
#[derive(Clone)]
pub(super) struct TicketKeys {
    secrets: Vec<Prk>,
    epoch_s: u32,
}

impl TicketKeys {
    /// `policy` tells listeners apart that must not accept each other's tickets. Without a secret there are no tickets.
    pub(super) fn new<'a>(
        secrets: impl Iterator<Item = &'a [u8; 32]>,
        policy: &[u8],
        epoch_s: u32,
    ) -> Self {
        let salt = Salt::new(HKDF_SHA256, policy);
        Self {
            secrets: secrets.map(|secret| salt.extract(secret)).collect(),
            epoch_s: epoch_s.max(1),
        }
    }
}

/// The tickets of one core.
pub(super) struct Tickets {
    keys: TicketKeys,
    clock: Arc<CoreClock>,
}

impl Tickets {
    pub(super) fn new(keys: TicketKeys, clock: Arc<CoreClock>) -> Self {
        Self { keys, clock }
    }

    fn epoch(&self) -> u64 {
        self.clock.unix_s() / u64::from(self.keys.epoch_s)
    }

    fn key(secret: &Prk, epoch: &[u8], salt: &[u8]) -> Option<LessSafeKey> {
        let info = [b"roadstead ticket".as_slice(), epoch, salt];
        let mut key = zeroize::Zeroizing::new([0; 32]);
        secret
            .expand(&info, KeyBytes)
            .and_then(|okm| okm.fill(&mut key[..]))
            .ok()?;
        Some(LessSafeKey::new(
            UnboundKey::new(&AES_256_GCM, &key[..]).ok()?,
        ))
    }
}

impl std::fmt::Debug for Tickets {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Tickets")
            .field("secrets", &self.keys.secrets.len())
            .field("epoch_s", &self.keys.epoch_s)
            .finish()
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        !self.keys.secrets.is_empty()
    }

    /// One epoch for sure, nearly two at best.
    fn lifetime(&self) -> u32 {
        self.keys.epoch_s
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let secret = self.keys.secrets.first()?;
        let epoch = self.epoch().to_be_bytes();
        let mut salt = [0; SALT_BYTES];
        aws_lc_rs::rand::fill(&mut salt).ok()?;
        let key = Self::key(secret, &epoch, &salt)?;
        let mut ticket = Vec::with_capacity(EPOCH_BYTES + SALT_BYTES + plain.len() + TAG_BYTES);
        ticket.extend_from_slice(&epoch);
        ticket.extend_from_slice(&salt);
        ticket.extend_from_slice(plain);
        let nonce = Nonce::assume_unique_for_key([0; 12]);
        let sealed = &mut ticket[EPOCH_BYTES + SALT_BYTES..];
        let tag = key
            .seal_in_place_separate_tag(nonce, Aad::empty(), sealed)
            .ok()?;
        ticket.extend_from_slice(tag.as_ref());
        Some(ticket)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (epoch, rest) = ticket.split_at_checked(EPOCH_BYTES)?;
        let (salt, sealed) = rest.split_at_checked(SALT_BYTES)?;
        let made_in = u64::from_be_bytes(epoch.try_into().ok()?);
        if ticket.len() > TICKET_BYTES_MAX || made_in.abs_diff(self.epoch()) > 1 {
            return None;
        }
        self.keys.secrets.iter().find_map(|secret| {
            let key = Self::key(secret, epoch, salt)?;
            let mut plain = sealed.to_vec();
            let nonce = Nonce::assume_unique_for_key([0; 12]);
            let length = key
                .open_in_place(nonce, Aad::empty(), &mut plain)
                .ok()?
                .len();
            plain.truncate(length);
            Some(plain)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EPOCH_S: u64 = 3600;

    fn tickets(secrets: &[[u8; 32]], policy: &[u8], unix_s: u64) -> Tickets {
        let clock = CoreClock::default();
        clock.set(unix_s * 1000);
        let keys = TicketKeys::new(secrets.iter(), policy, EPOCH_S as u32);
        Tickets::new(keys, Arc::new(clock))
    }

    #[test]
    fn another_node_opens_a_ticket_until_the_epoch_after_the_next_begins() {
        let start = 1_000 * EPOCH_S;
        let ticket = tickets(&[[1; 32]], b"", start)
            .encrypt(b"session")
            .expect("it seals");
        let opened_at =
            |unix_s| tickets(&[[1; 32]], b"", unix_s).decrypt(&ticket) == Some(b"session".to_vec());
        assert!(opened_at(start));
        assert!(opened_at(start + 2 * EPOCH_S - 1), "the previous epoch");
        assert!(opened_at(start - 1), "a node whose clock is behind");
        assert!(!opened_at(start + 2 * EPOCH_S));
        assert!(!opened_at(start - EPOCH_S - 1));
    }

    #[test]
    fn a_rotated_secret_opens_and_a_foreign_one_does_not() {
        let now = 1_000 * EPOCH_S;
        let ticket = tickets(&[[1; 32]], b"", now)
            .encrypt(b"session")
            .expect("it seals");
        let rotated = tickets(&[[2; 32], [1; 32]], b"", now);
        assert!(rotated.decrypt(&ticket).is_some());
        assert!(tickets(&[[2; 32]], b"", now).decrypt(&ticket).is_none());
        assert!(tickets(&[[1; 32]], b"mTLS", now).decrypt(&ticket).is_none());
    }

    #[test]
    fn a_changed_ticket_is_none() {
        let tickets = tickets(&[[1; 32]], b"", 1_000 * EPOCH_S);
        let ticket = tickets.encrypt(b"session").expect("it seals");
        for index in 0..ticket.len() {
            let mut changed = ticket.clone();
            changed[index] ^= 1;
            assert_eq!(tickets.decrypt(&changed), None, "byte {index}");
            assert_eq!(tickets.decrypt(&ticket[..index]), None);
        }
        assert_ne!(ticket, tickets.encrypt(b"session").expect("it seals"));
    }
}
