//! A message on its way: to its owner, to edges and homes, out of the queue of a group, out of a mailbox; and who waits for what.

use reactor::datagram::Ecn;

use super::error::Fault;
use super::primitive::{Reader, Wire, Writer, unknown};
use crate::core_message::{
    AppendRequest, Deliver, DeliverHome, DeliverReply, Hand, MailboxPush, MailboxRecipient, Origin,
    Outcome, PublishRequest, Recipient, StrayDatagram,
};
use crate::engine::claim::{MessageId, ReceivedId};

record! { PublishRequest { message, origin, may_refuse, received, id, retry } }

record! { AppendRequest { message, id, retry, recipients, answer } }

record! { MailboxRecipient (10 bytes or more) { session, partition, delivery } }

record! { DeliverReply { core, publish, id, retry } }

record! { MessageId { origin, number } }

record! { ReceivedId (3 bytes or more) { packet_id via nonzero, message } }

tagged! { Origin as "origin" {
    0 => Nobody,
    1 => Client { core, connection, packet_id via nonzero, bytes },
    2 => Admin { core, request },
    3 => Will { core },
} }

record! { Recipient (9 bytes or more) { connection, delivery } }

record! { DeliverHome { message, recipients } }

record! { Hand { connection, messages, answer } }

record! { MailboxPush { connection, sequence via nonzero, content, dup, begun } }

tagged! { Outcome as "outcome" {
    0 => Delivered,
    1 => Expired,
    2 => TooLarge,
    3 => Refused,
    4 => Denied,
} }

record! { StrayDatagram { listener, remote, local, ecn, bytes via bytes } }

/// Message and recipients; then a byte that tells whether it may be lost, and whether somebody waits, who follows. Nobody waits for
/// what may be lost.
impl Wire for Deliver {
    fn write(&self, out: &mut Writer<'_>) {
        self.message.write(out);
        self.recipients.write(out);
        match &self.answer {
            None if self.is_lossy => out.byte(LOSSY),
            None => out.byte(RELIABLE),
            Some(answer) => {
                debug_assert!(!self.is_lossy, "somebody waits for it");
                out.byte(ANSWERED);
                answer.write(out);
            }
        }
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, Fault> {
        let message = take!(input, "Deliver.message");
        let recipients = take!(input, "Deliver.recipients");
        let (answer, is_lossy) = match input.byte()? {
            LOSSY => (None, true),
            RELIABLE => (None, false),
            ANSWERED => (Some(take!(input, "Deliver.answer")), false),
            number => return Err(unknown("way to deliver", number).in_field("Deliver.answer")),
        };
        Ok(Self {
            message,
            recipients,
            answer,
            is_lossy,
        })
    }
}

const LOSSY: u8 = 0;
const RELIABLE: u8 = 1;
const ANSWERED: u8 = 2;

/// The bits of an IP header.
impl Wire for Ecn {
    fn write(&self, out: &mut Writer<'_>) {
        out.byte(*self as u8);
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, Fault> {
        match input.byte()? {
            bits @ 1..=3 => Self::from_bits(bits).ok_or_else(|| unknown("ECN", bits)),
            number => Err(unknown("ECN", number)),
        }
    }
}
