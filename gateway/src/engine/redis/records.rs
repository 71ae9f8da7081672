//! How messages, routes and ids of messages look in the values and fields of keys.

use std::sync::Arc;

use crate::engine::claim::{KNOWN_IDS, MessageId};
use crate::engine::embedded::records::{self, Reader};
use crate::engine::redis::keys::{decimal, session_id};
use crate::engine::redis::mirror::Slot;
use crate::engine::{Delivery, SubscriptionRecord};
use crate::message::{Message, SessionId};

/// Bytes of one remembered id: its count, origin and number.
pub(super) const KNOWN_BYTES: usize = 4 + 8 + 8;

/// The field of a message in the hash of its mailbox. It says what the message costs, so that nobody has to read it for that.
pub(super) fn field(slot: Slot) -> String {
    match (slot.bytes as usize).checked_sub(size_of::<Message>()) {
        Some(content) => format!("{}:{content}", slot.sequence),
        None => format!("{}:r", slot.sequence),
    }
}

/// Reads what [`field`] wrote.
pub(super) fn slot(field: &str) -> Option<Slot> {
    let (sequence, content) = field.split_once(':')?;
    let bytes = match content {
        "r" => 0,
        content => u32::try_from(content.parse::<usize>().ok()? + size_of::<Message>()).ok()?,
    };
    Some(Slot {
        sequence: sequence.parse().ok()?,
        bytes,
    })
}

/// A message in a mailbox: its delivery, then the message.
pub(super) fn entry(message: &Message, delivery: &Delivery) -> Vec<u8> {
    let mut out = Vec::with_capacity(64 + message.content().len());
    records::put_delivery(&mut out, delivery);
    message.encode(&mut out);
    out
}

/// Reads what [`entry`] wrote.
pub(super) fn content(stored: &[u8]) -> Option<(Arc<Message>, Delivery)> {
    let mut reader = Reader(stored);
    let delivery = reader.delivery()?;
    Some((Arc::new(Message::decode(reader.0)?), delivery))
}

/// The id of a message, 16 bytes.
pub(super) fn message_id(id: MessageId) -> [u8; 16] {
    (u128::from(id.origin) << 64 | u128::from(id.number)).to_be_bytes()
}

/// Reads what [`message_id`] wrote.
pub(super) fn read_message_id(stored: &[u8]) -> Option<MessageId> {
    let both = u128::from_be_bytes(stored.try_into().ok()?);
    Some(MessageId {
        origin: (both >> 64) as u64,
        number: both as u64,
    })
}

/// One place of the ring of remembered ids.
pub(super) fn known(count: u32, id: MessageId) -> [u8; KNOWN_BYTES] {
    let mut out = [0; KNOWN_BYTES];
    out[..4].copy_from_slice(&count.to_be_bytes());
    out[4..].copy_from_slice(&message_id(id));
    out
}

/// The ids in a ring with their counts, oldest first. Counts may have wrapped.
pub(super) fn read_known(ring: &[u8]) -> Vec<(u32, MessageId)> {
    let (places, _) = ring.as_chunks::<KNOWN_BYTES>();
    let mut ids: Vec<_> = places
        .iter()
        .take(KNOWN_IDS)
        .filter_map(|place| {
            let (count, id) = place.split_first_chunk()?;
            Some((u32::from_be_bytes(*count), read_message_id(id)?))
        })
        .filter(|(_, id)| !id.is_none())
        .collect();
    let newest = ids.iter().map(|(count, _)| *count).reduce(|newest, count| {
        let is_newer = count.wrapping_sub(newest).cast_signed() > 0;
        if is_newer { count } else { newest }
    });
    if let Some(newest) = newest {
        ids.sort_by_key(|(count, _)| std::cmp::Reverse(newest.wrapping_sub(*count)));
    }
    ids
}

/// The field of a route.
pub(super) fn route_field(session: SessionId, filter: &str) -> String {
    format!("{}:{filter}", decimal(session))
}

/// A route: the partition of its session's home, and its options.
pub(super) fn route(home: u16, record: SubscriptionRecord) -> Vec<u8> {
    let mut out = home.to_be_bytes().to_vec();
    out.extend_from_slice(&records::subscription(record));
    out
}

/// Reads what [`route_field`] and [`route`] wrote: session, filter, home, options.
pub(super) fn read_route(
    field: &str,
    stored: &[u8],
) -> Option<(SessionId, Box<str>, u16, SubscriptionRecord)> {
    let (session, filter) = field.split_once(':')?;
    let (home, record) = stored.split_first_chunk()?;
    Some((
        session_id(session)?,
        filter.into(),
        u16::from_be_bytes(*home),
        records::subscription_record(record)?,
    ))
}

/// Where a message was before it moved.
pub(super) fn origin(from: SessionId, sequence: u64) -> String {
    format!("{}:{sequence}", decimal(from))
}

/// Where a message is moving to: partition and session.
pub(super) fn target(partition: u16, to: SessionId) -> String {
    format!("{partition}:{}", decimal(to))
}

/// Reads what [`target`] wrote.
pub(super) fn read_target(stored: &str) -> Option<(u16, SessionId)> {
    let (partition, to) = stored.split_once(':')?;
    Some((partition.parse().ok()?, session_id(to)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_say_what_messages_cost() {
        for bytes in [0, size_of::<Message>() as u32, 12_345] {
            let before = Slot { sequence: 9, bytes };
            assert_eq!(slot(&field(before)), Some(before));
        }
        assert_eq!(slot("9"), None);
        assert_eq!(slot("9:-1"), None);
    }

    #[test]
    fn rings_are_read_oldest_first() {
        let id = |number| MessageId { origin: 1, number };
        let mut ring = vec![0; 3 * KNOWN_BYTES];
        for (place, count) in [(0, 1), (1, u32::MAX), (2, 0)] {
            let at = place * KNOWN_BYTES;
            ring[at..at + KNOWN_BYTES].copy_from_slice(&known(count, id(u64::from(count))));
        }
        let found: Vec<_> = read_known(&ring)
            .into_iter()
            .map(|(count, _)| count)
            .collect();
        assert_eq!(found, [u32::MAX, 0, 1]);
    }
}
