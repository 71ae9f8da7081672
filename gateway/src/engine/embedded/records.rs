//! How sessions, subscriptions and mailbox entries look on disk. Numbers are big-endian, texts carry their length.
//!
//! Reading checks everything: a record is whole or it is not one. What a record means is decided elsewhere.

use std::fmt;
use std::sync::Arc;

use edge_proto::packet::{QoS, RetainHandling, SubscriptionOptions};
use edge_proto::shown::Length;

use crate::engine::{Delivery, SessionRecord, SubscriptionRecord, WillRecord};
use crate::message::{Message, SessionId};

/// One record of the log of messages, the place it stands at being its key.
#[derive(Debug)]
pub(super) enum LogRecord<'a> {
    /// A message in a mailbox, whole.
    Inline {
        session: SessionId,
        sequence: u64,
        delivery: Delivery,
        message: StoredMessage<'a>,
    },
    /// A message that the references behind it share.
    Body(StoredMessage<'a>),
    /// A message in a mailbox whose body stands `body_distance` places before.
    Reference {
        session: SessionId,
        sequence: u64,
        delivery: Delivery,
        body_distance: u32,
    },
    /// What is left of a message in a mailbox after its PUBREC.
    Released { session: SessionId, sequence: u64 },
}

/// The bytes of a message, not looked at yet.
#[derive(Clone, Copy)]
pub(super) struct StoredMessage<'a>(&'a [u8]);

impl fmt::Debug for StoredMessage<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let length = Length::of(self.0);
        formatter
            .debug_tuple("StoredMessage")
            .field(&length)
            .finish()
    }
}

impl StoredMessage<'_> {
    /// The message; `None` if it is not one.
    pub(super) fn decode(self) -> Option<Arc<Message>> {
        Message::decode(self.0).map(Arc::new)
    }
}

const INLINE: u8 = 1;
const BODY: u8 = 2;
const REFERENCE: u8 = 3;
const RELEASED: u8 = 4;

/// A message in a mailbox with its body.
pub(super) fn inline(
    session: SessionId,
    sequence: u64,
    delivery: &Delivery,
    message: &Message,
) -> Vec<u8> {
    let mut out = entry(INLINE, session, sequence);
    put_delivery(&mut out, delivery);
    message.encode(&mut out);
    out
}

/// A body to be shared.
pub(super) fn body(message: &Message) -> Vec<u8> {
    let mut out = vec![BODY];
    message.encode(&mut out);
    out
}

/// A message in a mailbox whose body is elsewhere.
pub(super) fn reference(
    session: SessionId,
    sequence: u64,
    delivery: &Delivery,
    body_distance: u32,
) -> Vec<u8> {
    let mut out = entry(REFERENCE, session, sequence);
    out.extend_from_slice(&body_distance.to_be_bytes());
    put_delivery(&mut out, delivery);
    out
}

/// A message after its PUBREC.
pub(super) fn released(session: SessionId, sequence: u64) -> Vec<u8> {
    entry(RELEASED, session, sequence)
}

/// Reads a record of the log.
pub(super) fn log_record(stored: &[u8]) -> Option<LogRecord<'_>> {
    let mut reader = Reader(stored);
    let kind = reader.u8()?;
    if kind == BODY {
        return Some(LogRecord::Body(StoredMessage(reader.0)));
    }
    let session = SessionId(reader.u64()?);
    let sequence = reader.u64()?;
    match kind {
        INLINE => Some(LogRecord::Inline {
            session,
            sequence,
            delivery: reader.delivery()?,
            message: StoredMessage(reader.0),
        }),
        REFERENCE => {
            let body_distance = reader.u32()?;
            let delivery = reader.delivery()?;
            reader.end(LogRecord::Reference {
                session,
                sequence,
                delivery,
                body_distance,
            })
        }
        RELEASED => reader.end(LogRecord::Released { session, sequence }),
        _ => None,
    }
}

/// The record of a session.
pub(in crate::engine) fn session(record: &SessionRecord) -> Vec<u8> {
    let mut out = Vec::with_capacity(32 + record.client_id.len());
    out.extend_from_slice(&record.expiry_s.to_be_bytes());
    put_text(&mut out, &record.client_id);
    put_option(&mut out, record.user.as_ref(), |out, user| {
        put_text(out, user);
    });
    put_option(&mut out, record.disconnected_at_unix_ms, |out, at| {
        out.extend_from_slice(&at.to_be_bytes());
    });
    put_option(&mut out, record.will.as_ref(), |out, will| {
        out.extend_from_slice(&will.delay_s.to_be_bytes());
        put_option(out, will.message_expiry_s, |out, expiry_s| {
            out.extend_from_slice(&expiry_s.to_be_bytes());
        });
        will.message.encode(out);
    });
    out
}

/// Reads the record of a session.
pub(in crate::engine) fn session_record(stored: &[u8]) -> Option<SessionRecord> {
    let mut reader = Reader(stored);
    let expiry_s = reader.u32()?;
    let client_id = reader.text()?;
    let user = reader.option(Reader::text)?;
    let disconnected_at_unix_ms = reader.option(Reader::u64)?;
    let will = reader.option(|reader| {
        Some(WillRecord {
            delay_s: reader.u32()?,
            message_expiry_s: reader.option(Reader::u32)?,
            message: StoredMessage(std::mem::take(&mut reader.0)).decode()?,
        })
    })?;
    reader.end(SessionRecord {
        client_id,
        user,
        expiry_s,
        disconnected_at_unix_ms,
        will,
    })
}

/// The record of a subscription.
pub(in crate::engine) fn subscription(record: SubscriptionRecord) -> [u8; 5] {
    let options = record.options;
    let flags = options.maximum_qos as u8
        | u8::from(options.no_local) << 2
        | u8::from(options.retain_as_published) << 3
        | (options.retain_handling as u8) << 4;
    let [a, b, c, d] = record.subscription_id.to_be_bytes();
    [flags, a, b, c, d]
}

/// Reads the record of a subscription.
pub(in crate::engine) fn subscription_record(stored: &[u8]) -> Option<SubscriptionRecord> {
    let mut reader = Reader(stored);
    let flags = reader.u8()?;
    let subscription_id = reader.u32()?;
    let retain_handling = match flags >> 4 {
        0 => RetainHandling::Send,
        1 => RetainHandling::SendIfNew,
        2 => RetainHandling::DoNotSend,
        _ => return None,
    };
    reader.end(SubscriptionRecord {
        options: SubscriptionOptions {
            maximum_qos: QoS::from_u8(flags & 0b11)?,
            no_local: flags & 0b100 != 0,
            retain_as_published: flags & 0b1000 != 0,
            retain_handling,
        },
        subscription_id,
    })
}

fn entry(kind: u8, session: SessionId, sequence: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(32);
    out.push(kind);
    out.extend_from_slice(&session.0.to_be_bytes());
    out.extend_from_slice(&sequence.to_be_bytes());
    out
}

/// How a message is delivered.
pub(in crate::engine) fn put_delivery(out: &mut Vec<u8>, delivery: &Delivery) {
    out.push(delivery.qos as u8 | u8::from(delivery.retain) << 2);
    out.extend_from_slice(&(delivery.subscription_ids.len() as u32).to_be_bytes());
    for id in &delivery.subscription_ids {
        out.extend_from_slice(&id.to_be_bytes());
    }
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&(text.len() as u32).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn put_option<T>(out: &mut Vec<u8>, value: Option<T>, put: impl FnOnce(&mut Vec<u8>, T)) {
    out.push(u8::from(value.is_some()));
    if let Some(value) = value {
        put(out, value);
    }
}

/// What is left to read of a record.
pub(in crate::engine) struct Reader<'a>(pub(in crate::engine) &'a [u8]);

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*array)
    }

    fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_be_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    fn text(&mut self) -> Option<Box<str>> {
        let length = self.u32()? as usize;
        let (text, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        std::str::from_utf8(text).ok().map(Box::from)
    }

    /// Reads what [`put_delivery`] wrote.
    pub(in crate::engine) fn delivery(&mut self) -> Option<Delivery> {
        let flags = self.u8()?;
        let ids = self.u32()? as usize;
        let (stored, rest) = self.0.split_at_checked(ids.checked_mul(4)?)?;
        self.0 = rest;
        let (ids, _) = stored.as_chunks();
        Some(Delivery {
            qos: QoS::from_u8(flags & 0b11)?,
            retain: flags & 0b100 != 0,
            subscription_ids: ids.iter().map(|id| u32::from_be_bytes(*id)).collect(),
        })
    }

    /// `None` when there is no readable option, `Some(None)` when it is absent.
    fn option<T>(&mut self, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<Option<T>> {
        match self.u8()? {
            0 => Some(None),
            1 => read(self).map(Some),
            _ => None,
        }
    }

    /// `value` if nothing is left.
    fn end<T>(&self, value: T) -> Option<T> {
        self.0.is_empty().then_some(value)
    }
}
