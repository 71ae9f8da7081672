//! Every kind of message, with its number: a number is never used for anything else. What a kind has in a box is in the module
//! of its theme.

use crate::core_message::CoreMessage;

tagged! { CoreMessage as "kind of message" {
    1 => Publish(request),
    2 => PublishDone { origin, reason, recipients, id },
    3 => Deliver(deliver),
    4 => DeliverDone { publish },
    5 => DeliverHome(deliver),
    6 => Subscribe(request),
    7 => Unsubscribe(request),
    8 => LimitSubscription(limit),
    9 => FindSubscription(find),
    10 => SubscriptionDone { reply, existed },
    11 => SharedPresence(member),
    12 => Hand(hand),
    13 => HandHome { session, hand },
    14 => HandDone { transfer, taken },
    15 => RetainedScan(scan),
    16 => RetainedPage(page),
    17 => Attach(attach),
    18 => Attached(attached),
    19 => Evict { home, connection, reason },
    20 => Detach(detach),
    21 => Identify(identify),
    22 => SubscriptionCut { connection },
    23 => HomeSubscribe(request),
    24 => HomeUnsubscribe { home, reply, filter via filter },
    25 => MailboxPush(push),
    26 => MailboxAck { home, sequence via nonzero, bytes, outcome },
    27 => MailboxPubRec { home, sequence via nonzero },
    28 => PubRecRecorded { connection, sequence via nonzero },
    29 => Release { home, packet_id via nonzero },
    30 => Released { connection, packet_id via nonzero },
    31 => Stray(datagram),
    32 => Append(request),
    33 => AppendDone { publish, rejected },
    34 => Receive { home, received },
    35 => Received { connection, received },
    36 => Reattach(session),
    37 => Reattached { connection, home },
    38 => Handover(step),
    39 => DetachDone { connection, known },
    40 => FindSubscriptions { core, names },
    41 => SubscriptionsEnded(names),
} }

/// The kinds of messages, by number.
pub const KINDS: &[(u8, &str)] = CoreMessage::WIRE_NAMES;

/// The name of a kind, if there is one.
#[inline]
pub(super) fn name(number: u8) -> Option<&'static str> {
    let (known, name) = KINDS.get(usize::from(number).checked_sub(1)?)?;
    debug_assert_eq!(
        *known, number,
        "the kinds are numbered from 1 without a gap"
    );
    Some(name)
}
