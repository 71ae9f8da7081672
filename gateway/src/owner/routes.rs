//! Who gets a message, sorted by where they are, and how it is sent there.

use std::collections::BTreeMap;
use std::sync::Arc;

use edge_proto::packet::QoS;

use super::handover::tell_append;
use super::subscriptions::Match;
use crate::core_message::{
    CoreMessage, Deliver, DeliverHome, DeliverReply, MailboxRecipient, Recipient, RetainedScan,
    Target,
};
use crate::engine::claim::MessageId;
use crate::engine::{Append, Command, Delivery, RetainChange, SubscriptionRecord};
use crate::message::{Message, SessionId};
use crate::retained_scan;
use crate::shard::{TokenRole, token};
use crate::turn::Turn;

/// The recipients of a message, sorted by where they are.
#[derive(Default)]
pub(super) struct Routes {
    /// Mailboxes that this core's engine writes: queues of groups, and all in a node alone.
    pub(super) appends: Vec<Append>,
    /// In a cluster, the mailboxes of sessions by home core.
    pub(super) mailboxes: BTreeMap<u16, Vec<MailboxRecipient>>,
    pub(super) live: BTreeMap<u16, Vec<Recipient>>,
    pub(super) homes: BTreeMap<u16, Vec<(SessionId, Delivery)>>,
}

impl Routes {
    pub(super) fn sort(&mut self, turn: &Turn<'_>, matches: impl Iterator<Item = Match>) {
        let ownership = turn.ownership;
        for Match {
            session,
            target,
            delivery,
            ..
        } in matches
        {
            match target {
                Target::Live { core, connection } => {
                    self.live.entry(core).or_default().push(Recipient {
                        connection,
                        delivery,
                    });
                }
                Target::Home { partition } if delivery.qos == QoS::AtMostOnce => {
                    self.homes
                        .entry(ownership.core_of(partition))
                        .or_default()
                        .push((session, delivery));
                }
                Target::Home { partition } if ownership.is_clustered() => self
                    .mailboxes
                    .entry(ownership.core_of(partition))
                    .or_default()
                    .push(MailboxRecipient {
                        session,
                        partition,
                        delivery,
                    }),
                Target::Home { partition } => self.appends.push(Append {
                    session,
                    home: ownership.core_of(partition),
                    delivery,
                }),
            }
        }
    }
}

/// Removes retained messages from the store.
pub(super) fn clear_stored(turn: &mut Turn<'_>, messages: &[Arc<Message>]) {
    for message in messages {
        let clear = Command::Publish {
            token: token(TokenRole::Nobody, 0),
            id: MessageId::NONE,
            retry: false,
            message: message.clone(),
            appends: Vec::new(),
            received: None,
            retain: RetainChange::Clear,
        };
        turn.outbox.engine.push_back(clear);
    }
}

/// Sends a message to the edges of its live recipients; returns how many answers will come.
pub(super) fn deliver_live(
    turn: &mut Turn<'_>,
    message: &Arc<Message>,
    live: BTreeMap<u16, Vec<Recipient>>,
    answer: Option<DeliverReply>,
) -> u32 {
    let answers = if answer.is_some() {
        live.len() as u32
    } else {
        0
    };
    for (core, recipients) in live {
        let all_lossy = recipients
            .iter()
            .all(|recipient| recipient.delivery.qos == QoS::AtMostOnce);
        let is_lossy = answer.is_none() && all_lossy;
        let deliver = Deliver {
            message: message.clone(),
            recipients,
            answer,
            is_lossy,
        };
        turn.outbox
            .tell(core, CoreMessage::Deliver(Box::new(deliver)));
    }
    answers
}

/// Sends a QoS 0 message to the homes of its durable recipients.
pub(super) fn deliver_home(
    turn: &mut Turn<'_>,
    message: &Arc<Message>,
    homes: BTreeMap<u16, Vec<(SessionId, Delivery)>>,
) {
    for (core, recipients) in homes {
        let deliver = DeliverHome {
            message: message.clone(),
            recipients,
        };
        turn.outbox
            .tell(core, CoreMessage::DeliverHome(Box::new(deliver)));
    }
}

/// Puts retained messages of QoS ≥ 1 into the mailbox of a durable session; returns the others. What is published after
/// them goes to the engine after them, from this same core.
pub(super) fn append_retained(
    turn: &mut Turn<'_>,
    scan: &RetainedScan,
    session: SessionId,
    record: SubscriptionRecord,
    messages: Vec<Arc<Message>>,
) -> Vec<Arc<Message>> {
    let mut others = Vec::new();
    for message in messages {
        let delivery = retained_scan::delivery(&message, record);
        if delivery.qos == QoS::AtMostOnce {
            others.push(message);
            continue;
        }
        if turn.ownership.is_clustered() {
            let recipient = MailboxRecipient {
                session,
                partition: scan.home_partition,
                delivery,
            };
            let (core, name) = (scan.reply.core, (u64::MAX, MessageId::NONE, false));
            tell_append(turn, core, name, &message, &[recipient]); // Nobody waits for the answer.
            continue;
        }
        let append = Append {
            session,
            home: scan.reply.core,
            delivery,
        };
        turn.outbox.engine.push_back(Command::Publish {
            token: token(TokenRole::Nobody, 0),
            id: MessageId::NONE,
            retry: false,
            message,
            appends: vec![append],
            received: None,
            retain: RetainChange::None,
        });
    }
    others
}
