//! Gossip datagrams, sealed: who does not have a key of the cluster can neither read them nor make one, and who has recorded
//! some cannot play them again.
//!
//! ```text
//! "RG" | version u8 | key id 4 | hash of the cluster's name u64 | protocol min u16 | max u16 | uid u64    authenticated
//!      | session 16 | counter u64                                                                        the nonce
//!      | sealed by XChaCha20-Poly1305: unix time in ms u64 | body                                         | tag 16
//! ```
//!
//! A *session* is what one process seals: its sixteen bytes are drawn at random at its start, and its counter only rises, so no nonce
//! comes twice. A receiver keeps the counters that it has seen of each session. The first datagram of a session that it does not
//! know must have been sealed within [`CLOCK_SKEW_MS_MAX`] by its own clock; later ones need no right clock.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};

use crate::limits::{DATAGRAM_BYTES_MAX, KEYS_MAX, SESSIONS_MAX};
use crate::view::ProtocolRange;

/// How far the clocks of two nodes may be apart when they meet.
pub const CLOCK_SKEW_MS_MAX: u64 = 30_000;

/// A session that was silent for so long is forgotten: what was sealed in it is by then too old to be taken for new.
const SESSION_FORGOTTEN_MS: u64 = 4 * CLOCK_SKEW_MS_MAX;

const MAGIC: &[u8] = b"RG";
const VERSION: u8 = 1;
const HEADER_BYTES: usize = 51;
const TAG_BYTES: usize = 16;

/// Most bytes of a body.
pub const BODY_BYTES_MAX: usize = DATAGRAM_BYTES_MAX - HEADER_BYTES - TAG_BYTES - 8;

/// Why a datagram is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DatagramError {
    /// Too long, too short, or not of this protocol at all.
    #[error("no gossip datagram: something else sends to the gossip port")]
    Foreign,
    /// A later version of Roadstead sealed it.
    #[error("gossip version {0} is unknown, {VERSION} is known: upgrade this node")]
    Version(u8),
    /// It belongs to another cluster.
    #[error("a datagram of another cluster: give each its own seeds, or compare `cluster.name`")]
    Cluster,
    /// No key of this node has sealed it.
    #[error("sealed with an unknown key: compare the key files")]
    Key,
    /// Its bytes were changed, or made without the key.
    #[error("the seal is broken: somebody changes or invents datagrams")]
    Seal,
    /// The sender speaks no version of the bus protocol that this node speaks.
    #[error("the sender speaks protocol {0}: upgrade by one version at a time")]
    Protocol(ProtocolRange),
    /// It was taken before, or is older than those that were.
    #[error("replayed")]
    Replayed,
    /// A stranger's clock is off, or its datagram is an old one.
    #[error("sealed {0} ms away from this node's clock: synchronise the clocks")]
    Clock(i64),
    /// It says nothing that can be understood, though its sender has the key.
    #[error("malformed: nodes of different versions, or a fault in one")]
    Malformed,
}

/// How many datagrams were not taken, by reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refusals([u64; 9]);

impl Refusals {
    /// Reasons with their counts.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        const NAMES: [&str; 9] = [
            "foreign",
            "version",
            "cluster",
            "key",
            "seal",
            "protocol",
            "replayed",
            "clock",
            "malformed",
        ];
        NAMES.into_iter().zip(self.0)
    }

    pub(crate) fn count(&mut self, error: &DatagramError) {
        let reason = match error {
            DatagramError::Foreign => 0,
            DatagramError::Version(_) => 1,
            DatagramError::Cluster => 2,
            DatagramError::Key => 3,
            DatagramError::Seal => 4,
            DatagramError::Protocol(_) => 5,
            DatagramError::Replayed => 6,
            DatagramError::Clock(_) => 7,
            DatagramError::Malformed => 8,
        };
        self.0[reason] += 1;
    }
}

/// Why a key file is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyRingError {
    /// There is no key in it.
    #[error(
        "there is no key: write a line of 32 random bytes in base64, as `openssl rand -base64 32` prints it"
    )]
    Empty,
    /// A line is no key.
    #[error("line {0} is not 32 bytes in base64: make one with `openssl rand -base64 32`")]
    Line(usize),
    /// More keys than a rotation needs.
    #[error("there are more than {KEYS_MAX} keys: take out those that no node seals with")]
    TooMany,
    /// The same key twice.
    #[error("line {0} repeats a key: take it out")]
    Repeated(usize),
}

struct RingKey {
    id: [u8; 4],
    cipher: XChaCha20Poly1305,
}

/// The keys of a cluster. The first one seals, all open. To replace a key without a gap: add the new one as the second on all
/// nodes, then make it the first on all, then take the old one out.
pub struct KeyRing {
    keys: Vec<RingKey>,
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyRing of {}", self.keys.len())
    }
}

impl KeyRing {
    /// Keys as a key file has them: a line of 32 bytes in base64 each. Empty lines and lines that begin with `#` are free.
    ///
    /// # Errors
    /// When a line is something else, or there are no keys, or too many.
    pub fn parse(text: &str) -> Result<Self, KeyRingError> {
        let mut keys: Vec<RingKey> = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let bytes = STANDARD.decode(line).ok();
            let bytes: [u8; 32] = bytes
                .and_then(|bytes| bytes.try_into().ok())
                .ok_or(KeyRingError::Line(index + 1))?;
            let key = RingKey::new(&bytes);
            if keys.iter().any(|other| other.id == key.id) {
                return Err(KeyRingError::Repeated(index + 1));
            }
            keys.push(key);
        }
        match keys.len() {
            0 => Err(KeyRingError::Empty),
            1..=KEYS_MAX => Ok(Self { keys }),
            _ => Err(KeyRingError::TooMany),
        }
    }
}

impl RingKey {
    fn new(bytes: &[u8; 32]) -> Self {
        let cipher = XChaCha20Poly1305::new(bytes.into());
        // A tag under a nonce that no session has tells keys apart and nothing of the key.
        let payload = Payload {
            msg: &[],
            aad: b"roadstead gossip key",
        };
        let tag = cipher
            .encrypt(&XNonce::from([0xFF; 24]), payload)
            .expect("a short text can be sealed");
        let id = [tag[0], tag[1], tag[2], tag[3]];
        Self { id, cipher }
    }
}

/// What one process seals.
#[derive(Debug)]
pub struct Sealer {
    cluster: u64,
    protocol: ProtocolRange,
    uid: u64,
    session: [u8; 16],
    counter: u64,
}

impl Sealer {
    /// The session must be random, and drawn anew by each process.
    pub fn new(cluster: &str, protocol: ProtocolRange, uid: u64, session: [u8; 16]) -> Self {
        Self {
            cluster: name_hash(cluster),
            protocol,
            uid,
            session,
            counter: 0,
        }
    }

    /// Seals a body of at most [`BODY_BYTES_MAX`].
    pub fn seal(&mut self, keys: &KeyRing, unix_ms: u64, body: &[u8]) -> Vec<u8> {
        debug_assert!(body.len() <= BODY_BYTES_MAX, "{} bytes", body.len());
        self.counter += 1;
        let key = &keys.keys[0];
        let mut datagram = Vec::with_capacity(HEADER_BYTES + 8 + body.len() + TAG_BYTES);
        datagram.extend(MAGIC);
        datagram.push(VERSION);
        datagram.extend(key.id);
        datagram.extend(self.cluster.to_be_bytes());
        datagram.extend(self.protocol.min.to_be_bytes());
        datagram.extend(self.protocol.max.to_be_bytes());
        datagram.extend(self.uid.to_be_bytes());
        datagram.extend(self.session);
        datagram.extend(self.counter.to_be_bytes());
        let plain = [&unix_ms.to_be_bytes(), body].concat();
        let nonce = nonce(&self.session, self.counter);
        let payload = Payload {
            msg: &plain,
            aad: &datagram,
        };
        let sealed = key
            .cipher
            .encrypt(&nonce, payload)
            .expect("a datagram is short enough to be sealed");
        datagram.extend(sealed);
        datagram
    }

    /// The body of a datagram that this node may take.
    ///
    /// # Errors
    /// Names why it may not.
    pub(crate) fn open(
        &self,
        keys: &KeyRing,
        sessions: &mut Sessions,
        (now_ms, unix_ms): (u64, u64),
        datagram: &[u8],
    ) -> Result<Vec<u8>, DatagramError> {
        let enough = HEADER_BYTES + TAG_BYTES + 8..=DATAGRAM_BYTES_MAX;
        if !enough.contains(&datagram.len()) || !datagram.starts_with(MAGIC) {
            return Err(DatagramError::Foreign);
        }
        let (header, sealed) = datagram.split_at(HEADER_BYTES);
        if header[2] != VERSION {
            return Err(DatagramError::Version(header[2]));
        }
        if header[7..15] != self.cluster.to_be_bytes() {
            return Err(DatagramError::Cluster);
        }
        let key = keys
            .keys
            .iter()
            .find(|key| key.id == header[3..7])
            .ok_or(DatagramError::Key)?;
        let mut session = [0; 16];
        session.copy_from_slice(&header[27..43]);
        let counter = u64::from_be_bytes(array(&header[43..51]));
        let payload = Payload {
            msg: sealed,
            aad: header,
        };
        let mut plain = key
            .cipher
            .decrypt(&nonce(&session, counter), payload)
            .map_err(|_| DatagramError::Seal)?;
        let theirs = ProtocolRange {
            min: u16::from_be_bytes(array(&header[15..17])),
            max: u16::from_be_bytes(array(&header[17..19])),
        };
        if self.protocol.common(theirs).is_none() {
            return Err(DatagramError::Protocol(theirs));
        }
        if session == self.session {
            // Our own, sent back to us.
            return Err(DatagramError::Replayed);
        }
        let sealed_ms = u64::from_be_bytes(array(&plain[..8]));
        sessions.take((now_ms, unix_ms), session, counter, sealed_ms)?;
        plain.drain(..8);
        Ok(plain)
    }
}

fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.try_into().expect("the length is written beside it")
}

fn nonce(session: &[u8; 16], counter: u64) -> XNonce {
    let mut nonce = [0; 24];
    nonce[..16].copy_from_slice(session);
    nonce[16..].copy_from_slice(&counter.to_be_bytes());
    nonce.into()
}

/// FNV-1a. It keeps clusters apart that share a key by mistake; the seal keeps out everybody else.
fn name_hash(name: &str) -> u64 {
    name.bytes().fold(0xCBF2_9CE4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
    })
}

#[derive(Debug)]
struct Session {
    /// The highest counter that was taken.
    highest: u64,
    /// Bit i is set exactly when counter `highest - i` was taken.
    taken: u128,
    last_ms: u64,
}

/// What was taken of each session: at most [`SESSIONS_MAX`], then the one that was silent for longest is forgotten.
#[derive(Debug, Default)]
pub(crate) struct Sessions(BTreeMap<[u8; 16], Session>);

impl Sessions {
    fn take(
        &mut self,
        (now_ms, unix_ms): (u64, u64),
        session: [u8; 16],
        counter: u64,
        sealed_ms: u64,
    ) -> Result<(), DatagramError> {
        if let Some(known) = self.0.get_mut(&session) {
            known.last_ms = now_ms;
            return known.take(counter);
        }
        if sealed_ms.abs_diff(unix_ms) > CLOCK_SKEW_MS_MAX {
            let away = i128::from(sealed_ms) - i128::from(unix_ms);
            let away = away.clamp(i64::MIN.into(), i64::MAX.into());
            return Err(DatagramError::Clock(i64::try_from(away).unwrap_or(0)));
        }
        self.0
            .retain(|_, session| now_ms < session.last_ms + SESSION_FORGOTTEN_MS);
        if self.0.len() >= SESSIONS_MAX {
            let oldest = self.0.iter().min_by_key(|(_, session)| session.last_ms);
            if let Some((&oldest, _)) = oldest {
                self.0.remove(&oldest);
            }
        }
        let first = Session {
            highest: counter,
            taken: 1,
            last_ms: now_ms,
        };
        self.0.insert(session, first);
        Ok(())
    }
}

impl Session {
    fn take(&mut self, counter: u64) -> Result<(), DatagramError> {
        if counter > self.highest {
            let step = u32::try_from(counter - self.highest).unwrap_or(u32::MAX);
            self.taken = self.taken.checked_shl(step).unwrap_or(0) | 1;
            self.highest = counter;
            return Ok(());
        }
        let age = u32::try_from(self.highest - counter).unwrap_or(u32::MAX);
        let bit = 1u128.checked_shl(age).ok_or(DatagramError::Replayed)?;
        if self.taken & bit != 0 {
            return Err(DatagramError::Replayed);
        }
        self.taken |= bit;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "b2xkIGtleSBvZiB0aGlydHktdHdvIGJ5dGVzIDEyMzQ=";
    const NEW: &str = "bmV3IGtleSBvZiB0aGlydHktdHdvIGJ5dGVzIDEyMzQ=";

    fn ring(lines: &[&str]) -> KeyRing {
        KeyRing::parse(&lines.join("\n")).expect("keys")
    }

    fn sealer(session: u8) -> Sealer {
        let protocol = ProtocolRange { min: 1, max: 2 };
        Sealer::new("roadstead", protocol, session.into(), [session; 16])
    }

    struct Receiver {
        sealer: Sealer,
        sessions: Sessions,
    }

    impl Receiver {
        fn new() -> Self {
            Self {
                sealer: sealer(200),
                sessions: Sessions::default(),
            }
        }

        fn open(
            &mut self,
            keys: &KeyRing,
            at_ms: u64,
            datagram: &[u8],
        ) -> Result<Vec<u8>, DatagramError> {
            self.sealer.open(
                keys,
                &mut self.sessions,
                (at_ms, 1_000_000 + at_ms),
                datagram,
            )
        }
    }

    #[test]
    fn what_is_sealed_opens_once_and_unchanged() {
        let (keys, mut one, mut other) = (ring(&[OLD]), sealer(1), Receiver::new());
        let sealed = one.seal(&keys, 1_000_000, b"hello");
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            other.open(&keys, 0, &changed).expect_err("it was changed");
        }
        for end in 0..sealed.len() {
            other
                .open(&keys, 0, &sealed[..end])
                .expect_err("it was cut");
        }
        assert_eq!(other.open(&keys, 0, &sealed).as_deref(), Ok(&b"hello"[..]));
        assert_eq!(other.open(&keys, 0, &sealed), Err(DatagramError::Replayed));
        assert_eq!(
            one.open(&keys, &mut other.sessions, (0, 0), &sealed),
            Err(DatagramError::Replayed)
        );
    }

    #[test]
    fn reordered_datagrams_are_taken_and_each_only_once() {
        let (keys, mut one, mut other) = (ring(&[OLD]), sealer(1), Receiver::new());
        let sealed: Vec<_> = (0..300u32)
            .map(|number| one.seal(&keys, 1_000_000, &number.to_be_bytes()))
            .collect();
        for index in [100, 5, 99, 227, 101, 104] {
            assert!(other.open(&keys, 0, &sealed[index]).is_ok(), "{index}");
            assert_eq!(
                other.open(&keys, 0, &sealed[index]),
                Err(DatagramError::Replayed)
            );
        }
        // Too old to know.
        assert_eq!(
            other.open(&keys, 0, &sealed[98]),
            Err(DatagramError::Replayed)
        );
        assert!(other.open(&keys, 0, &sealed[299]).is_ok());
    }

    #[test]
    fn strangers_need_a_right_clock_and_acquaintances_do_not() {
        let (keys, mut one, mut other) = (ring(&[OLD]), sealer(1), Receiver::new());
        let old = one.seal(&keys, 1_000_000 - 30_001, b"");
        assert_eq!(
            other.open(&keys, 0, &old),
            Err(DatagramError::Clock(-30_001))
        );
        let early = one.seal(&keys, 1_000_000 + 30_001, b"");
        assert_eq!(
            other.open(&keys, 0, &early),
            Err(DatagramError::Clock(30_001))
        );
        let far = one.seal(&keys, u64::MAX, b"");
        assert_eq!(
            other.open(&keys, 0, &far),
            Err(DatagramError::Clock(i64::MAX))
        );
        let right = one.seal(&keys, 1_000_000 + 29_000, b"");
        assert!(other.open(&keys, 0, &right).is_ok());
        let wrong_again = one.seal(&keys, 0, b"");
        assert!(other.open(&keys, 1_000, &wrong_again).is_ok());
        // After a long silence it is a stranger again, and a recording of it is too old.
        let another = sealer(2).seal(&keys, 1_000_000 + 200_000, b"");
        assert!(other.open(&keys, 200_000, &another).is_ok());
        assert!(matches!(
            other.open(&keys, 200_000, &right),
            Err(DatagramError::Clock(_))
        ));
    }

    #[test]
    fn keys_are_replaced_without_a_gap() {
        let steps = [
            ring(&[OLD]),
            ring(&[OLD, NEW]),
            ring(&[NEW, OLD]),
            ring(&[NEW]),
        ];
        for pair in steps.windows(2) {
            let (mut one, mut other) = (sealer(1), Receiver::new());
            for (seals, opens) in [(0, 1), (1, 0), (0, 0), (1, 1)] {
                let sealed = one.seal(&pair[seals], 1_000_000, b"x");
                assert!(other.open(&pair[opens], 0, &sealed).is_ok());
            }
        }
        let sealed = sealer(1).seal(&steps[0], 1_000_000, b"x");
        assert_eq!(
            Receiver::new().open(&steps[3], 0, &sealed),
            Err(DatagramError::Key)
        );
    }

    #[test]
    fn strangers_are_told_apart() {
        let keys = ring(&[OLD]);
        let protocol = ProtocolRange { min: 3, max: 4 };
        let mut other = Receiver::new();
        let sealed = Sealer::new("elsewhere", protocol, 1, [1; 16]).seal(&keys, 1_000_000, b"");
        assert_eq!(other.open(&keys, 0, &sealed), Err(DatagramError::Cluster));
        let sealed = Sealer::new("roadstead", protocol, 1, [1; 16]).seal(&keys, 1_000_000, b"");
        assert_eq!(
            other.open(&keys, 0, &sealed),
            Err(DatagramError::Protocol(protocol))
        );
        let mut sealed = sealer(1).seal(&keys, 1_000_000, b"");
        sealed[2] = 2;
        assert_eq!(
            other.open(&keys, 0, &sealed),
            Err(DatagramError::Version(2))
        );
        assert_eq!(
            other.open(&keys, 0, b"GET / HTTP/1.1"),
            Err(DatagramError::Foreign)
        );
        assert_eq!(
            other.open(&keys, 0, &[b'R'; 2_000]),
            Err(DatagramError::Foreign)
        );
        assert_eq!(other.sessions.0.len(), 0, "strangers leave nothing behind");
    }

    #[test]
    fn sessions_are_bounded() {
        let (keys, mut other) = (ring(&[OLD]), Receiver::new());
        for number in 0..=SESSIONS_MAX as u64 {
            let mut session = [0; 16];
            session[..8].copy_from_slice(&number.to_be_bytes());
            let protocol = ProtocolRange { min: 1, max: 1 };
            let sealed = Sealer::new("roadstead", protocol, 1, session).seal(&keys, 1_000_000, b"");
            assert!(other.open(&keys, number / 100, &sealed).is_ok());
        }
        assert_eq!(other.sessions.0.len(), SESSIONS_MAX);
    }

    #[test]
    fn a_key_file_says_what_is_wrong_with_it() {
        let parse = |text: &str| KeyRing::parse(text).map(|ring| ring.keys.len());
        assert_eq!(
            parse(&format!("# the new one first\n{NEW}\n\n{OLD}\n")),
            Ok(2)
        );
        assert_eq!(parse(" \n#\n"), Err(KeyRingError::Empty));
        assert_eq!(parse(&format!("{OLD}\nshort")), Err(KeyRingError::Line(2)));
        assert_eq!(
            parse(&format!("{OLD}\n{OLD}")),
            Err(KeyRingError::Repeated(2))
        );
        let many: Vec<String> = (0..=KEYS_MAX as u8)
            .map(|key| STANDARD.encode([key; 32]))
            .collect();
        assert_eq!(parse(&many.join("\n")), Err(KeyRingError::TooMany));
        assert!(!format!("{:?}", ring(&[OLD])).contains("b2xk"));
    }
}
