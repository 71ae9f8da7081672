//! What is stored under which key.
//!
//! `P:{T}:…`, where P is the prefix of the cluster and T a short text whose slot is the partition, so that all keys of a
//! partition are on one server:
//!
//! | key | type | content |
//! |---|---|---|
//! | `P:{T}:f` | hash | the fence: `w` = `epoch:node` of the writer, `n` = sequences below this may be in use |
//! | `P:{T}:i` | set | ids of the sessions kept here |
//! | `P:{T}:s:ID` | hash | a session: `r` = record, `fFILTER` = subscription, `pPACKET` = message of a received packet identifier, `d` = it is being deleted |
//! | `P:{T}:m:ID` | hash | its mailbox: `SEQUENCE:BYTES` = delivery and message, `SEQUENCE:r` = after its PUBREC |
//! | `P:{T}:k:ID` | string | ids of the messages that came last: a ring of (count, id) |
//! | `P:{T}:v:ID` | set | what moved here and may still be where it came from: `SESSION:SEQUENCE` |
//! | `P:{T}:r` | hash | topic = retained message |
//! | `P:{T}:o` | hash | routes: `ID:FILTER` = home partition and subscription |
//!
//! ID and SESSION are session ids as signed decimal numbers, which a set stores in 8 bytes. Numbers within values are big-endian.

use std::sync::LazyLock;

use cluster::partition::{PARTITIONS, partition_of};

use crate::message::SessionId;

/// By partition, a text whose slot it is. What is stored depends on it: it must never change.
static TAGS: LazyLock<Box<[[u8; TAG_BYTES]]>> = LazyLock::new(|| {
    const LETTERS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let mut tags = vec![[0; TAG_BYTES]; usize::from(PARTITIONS)];
    let mut missing = tags.len();
    let mut number = 0usize;
    while missing > 0 {
        let mut tag = [0; TAG_BYTES];
        let mut rest = number;
        for byte in tag.iter_mut().rev() {
            *byte = LETTERS[rest % LETTERS.len()];
            rest /= LETTERS.len();
        }
        number += 1;
        let text = std::str::from_utf8(&tag).expect("letters and digits");
        let slot = &mut tags[usize::from(partition_of(text))];
        if slot[0] == 0 {
            *slot = tag;
            missing -= 1;
        }
    }
    tags.into()
});

const TAG_BYTES: usize = 4;

/// Makes the keys of one cluster.
#[derive(Clone, Debug)]
pub struct Keys {
    prefix: Box<str>,
}

impl Keys {
    /// For a prefix that [`RedisOptions::check_prefix`](super::options::RedisOptions::check_prefix) accepts.
    pub fn new(prefix: &str) -> Self {
        Self {
            prefix: prefix.into(),
        }
    }

    /// Any key in the slot of a partition.
    pub fn key(&self, partition: u16, rest: &str) -> String {
        let tag = TAGS[usize::from(partition)];
        let tag = std::str::from_utf8(&tag).expect("letters and digits");
        format!("{}:{{{tag}}}:{rest}", self.prefix)
    }

    pub(super) fn fence(&self, partition: u16) -> String {
        self.key(partition, "f")
    }

    pub(super) fn sessions(&self, partition: u16) -> String {
        self.key(partition, "i")
    }

    pub(super) fn session(&self, partition: u16, session: SessionId) -> String {
        self.of_session(partition, 's', session)
    }

    pub(super) fn mailbox(&self, partition: u16, session: SessionId) -> String {
        self.of_session(partition, 'm', session)
    }

    pub(super) fn known(&self, partition: u16, session: SessionId) -> String {
        self.of_session(partition, 'k', session)
    }

    pub(super) fn moved(&self, partition: u16, session: SessionId) -> String {
        self.of_session(partition, 'v', session)
    }

    pub(super) fn retained(&self, partition: u16) -> String {
        self.key(partition, "r")
    }

    pub(super) fn routes(&self, partition: u16) -> String {
        self.key(partition, "o")
    }

    fn of_session(&self, partition: u16, kind: char, session: SessionId) -> String {
        self.key(partition, &format!("{kind}:{}", decimal(session)))
    }
}

/// A session id as it stands in keys, sets and fields.
pub(super) fn decimal(session: SessionId) -> i64 {
    session.0.cast_signed()
}

/// Reads what [`decimal`] wrote.
pub(super) fn session_id(text: &str) -> Option<SessionId> {
    let number: i64 = text.parse().ok()?;
    Some(SessionId(number.cast_unsigned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_a_partition_are_in_its_slot() {
        for partition in 0..PARTITIONS {
            let tag = TAGS[usize::from(partition)];
            let tag = std::str::from_utf8(&tag).expect("text");
            assert_eq!(partition_of(tag), partition);
        }
    }

    #[test]
    fn tags_never_change() {
        let hash = TAGS.iter().flatten().fold(0u64, |hash, &byte| {
            hash.wrapping_mul(0x9E37_79B9_7F4A_7C15)
                .wrapping_add(u64::from(byte) + 1)
        });
        assert_eq!(
            hash, 12_001_551_034_238_011_983,
            "what is stored would not be found again"
        );
    }

    #[test]
    fn ids_come_back() {
        for session in [SessionId(7), SessionId(7).as_group_queue()] {
            assert_eq!(session_id(&decimal(session).to_string()), Some(session));
        }
        assert_eq!(session_id("x"), None);
    }
}
