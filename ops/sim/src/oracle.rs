//! The model of who must get what: every message that was published, and whether a delivery is one that may be, or must be.

use std::collections::{BTreeMap, BTreeSet};

use edge_proto::packet::QoS;
use edge_proto::topic::TopicFilter;
use gateway::turn::without_share;

use crate::client::{Client, Existence, Subscription};

/// A broken promise.
#[derive(Clone, Debug)]
pub struct Failure {
    /// What happened.
    pub text: String,
    /// The client that saw it.
    pub client: Option<usize>,
}

impl Failure {
    pub(crate) fn of(client: usize, text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            client: Some(client),
        }
    }

    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            client: None,
        }
    }
}

/// Success, or a broken promise.
pub type Checked<T = ()> = Result<T, Failure>;

/// One published message.
#[derive(Debug)]
pub(crate) struct Published {
    pub(crate) topic: String,
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    pub(crate) clears: bool,
    pub(crate) publisher: usize,
    pub(crate) epoch: u64,
    /// Connection of a QoS 0 publish: its order is that of one connection.
    pub(crate) order: u64,
    pub(crate) connection: u64,
    pub(crate) sent_at: u64,
    pub(crate) acknowledged_at: Option<u64>,
    pub(crate) acknowledged_ms: u64,
    pub(crate) was_refused: bool,
    /// Of the world when it was sent.
    pub(crate) upheavals: u64,
    pub(crate) expiry_s: Option<u32>,
    pub(crate) will: bool,
    /// It was sent again; what is processed twice may match other subscriptions the second time.
    pub(crate) resent: bool,
    pub(crate) length: usize,
}

/// Everything that was published, and what voids promises.
#[derive(Debug, Default)]
pub(crate) struct Oracle {
    /// True for a cluster.
    pub(crate) clustered: bool,
    pub(crate) messages: Vec<Published>,
    /// Shared subscriptions that have lost a member, with what it may have held.
    pub(crate) share_lost: BTreeSet<String>,
    /// Who got a message of QoS 2 for a shared subscription, by message and filter.
    pub(crate) taken: BTreeMap<(u64, String), Taken>,
    /// A full mailbox refused a message that others took; the publisher may send it again.
    pub(crate) rejections: bool,
}

/// Who got a message for a shared subscription.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Taken {
    client: usize,
    epoch: u64,
    /// Its session ends with the node.
    live: bool,
    crashes: u64,
}

/// How a client got a message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival {
    pub(crate) message: u64,
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
}

pub(crate) fn matches(filter: &str, topic: &str) -> bool {
    TopicFilter::parse(without_share(filter)).is_ok_and(|filter| filter.matches(topic))
}

pub(crate) fn is_shared(filter: &str) -> bool {
    filter.starts_with("$share/")
}

impl Oracle {
    /// Notes a message; returns its number.
    pub(crate) fn publish(&mut self, message: Published) -> u64 {
        self.messages.push(message);
        self.messages.len() as u64
    }

    pub(crate) fn get(&self, message: u64) -> Option<&Published> {
        self.messages.get((message as usize).checked_sub(1)?)
    }

    pub(crate) fn get_mut(&mut self, message: u64) -> Option<&mut Published> {
        self.messages.get_mut((message as usize).checked_sub(1)?)
    }

    /// A client got a message for the first time (QoS 2), or again (QoS 1): may that be?
    pub(crate) fn arrived(
        &self,
        at: usize,
        client: &mut Client,
        arrival: Arrival,
        topic: &str,
        crashes: u64,
    ) -> Checked {
        let number = arrival.message;
        let Some(message) = self.get(number) else {
            return Err(Failure::of(
                at,
                format!("got message {number}, which nobody published"),
            ));
        };
        let matching = admitted(at, client, message, arrival, topic);
        let matching =
            matching.map_err(|text| Failure::of(at, format!("message {number} {text}")))?;
        let times = client.delivered.entry(number).or_default();
        *times += 1;
        let is_first = *times == 1;
        let counted = client
            .counted
            .entry((number, arrival.qos as u8))
            .or_default();
        *counted += u32::from(!arrival.retain);
        // A QoS 0 delivery does not wait for the commit: after a crash the publish, and so the delivery, is repeated.
        // While views change a live-only session may get what the former owner and the new one send, and what a publisher sends again
        // is routed again: exactly once is promised to durable ones.
        let durable = matches!(client.existence, Existence::Durable { .. });
        let settled =
            !self.clustered || durable || (message.upheavals == crashes && !message.resent);
        let once = (arrival.qos == QoS::ExactlyOnce && settled) || message.qos == QoS::AtMostOnce;
        if *counted > matching
            && !arrival.retain
            && once
            && !self.rejections
            && !client.refused.contains(&number)
        {
            return Err(Failure::of(
                at,
                format!(
                    "got message {number} with {:?} {counted} times",
                    arrival.qos
                ),
            ));
        }
        // In a cluster a message of QoS 2 is stored once, and routed again when it is sent again.
        let routed_again = message.qos == QoS::AtLeastOnce || self.clustered;
        let repeated = message.resent && (routed_again || self.rejections);
        // What waited in the queue of one subscription may come after what another one brought at once.
        let one_way = !client.has_ways_beside_a_queue(&message.topic);
        // QoS 0 goes from owner to owner without anybody waiting for it; and what is routed twice may match a subscription that was
        // not there the first time.
        let lasting = |known: &&Subscription| {
            matches(&known.filter, topic)
                && known.from_sure.is_some_and(|from| from < message.sent_at)
                && known.until_sure.is_none()
        };
        let keeps_order = !self.clustered
            || (message.qos > QoS::AtMostOnce
                && client.subscriptions.iter().any(|it| lasting(&it)))
            || message.upheavals == crashes;
        if is_first && !message.retain && !message.will && !repeated && one_way && keeps_order {
            self.in_order(at, client, message, arrival, crashes)?;
        }
        Ok(())
    }

    /// A client got a message that only one shared subscription of it can have brought: no other member may have got it
    /// before. What a live-only session had when the node crashed is published again.
    pub(crate) fn taken_once(
        &mut self,
        at: usize,
        client: &Client,
        arrival: Arrival,
        crashes: u64,
    ) -> Checked {
        let number = arrival.message;
        let Some(message) = self.get(number).filter(|message| !message.will) else {
            return Ok(());
        };
        let matching = client.matching(&message.topic);
        let only = matching.first().filter(|filter| is_shared(filter));
        let (Some(filter), 1) = (only, matching.len()) else {
            return Ok(());
        };
        if arrival.qos < QoS::ExactlyOnce || self.rejections {
            return Ok(());
        }
        let taken = Taken {
            client: at,
            epoch: client.epoch,
            live: client.existence == Existence::Live,
            crashes,
        };
        let first = self.taken.entry((number, (*filter).to_owned()));
        let first = *first.or_insert(taken);
        let same = (first.client, first.epoch) == (taken.client, taken.epoch);
        if same || (first.live && first.crashes < crashes) {
            return Ok(());
        }
        Err(Failure::of(
            at,
            format!(
                "got message {number} of {filter}, which c{} got before",
                first.client
            ),
        ))
    }

    fn in_order(
        &self,
        at: usize,
        client: &mut Client,
        message: &Published,
        arrival: Arrival,
        crashes: u64,
    ) -> Checked {
        // QoS 0 keeps its order within a connection of its publisher, and a crash ends the order of QoS 0 deliveries.
        let stretch = match (message.qos, arrival.qos) {
            (QoS::AtMostOnce, _) => message.connection,
            (_, QoS::AtMostOnce) => message.epoch << 16 | crashes,
            _ => message.epoch << 16,
        };
        let root = edge_proto::topic::root(&message.topic, 2).to_owned();
        let key = (
            message.publisher,
            stretch,
            root,
            message.qos as u8,
            arrival.qos as u8,
        );
        let last = client.last_order.entry(key).or_default();
        if message.order < *last {
            let text = format!(
                "message {} of client {} came after a later one",
                arrival.message, message.publisher
            );
            return Err(Failure::of(at, text));
        }
        *last = message.order;
        Ok(())
    }

    /// The acknowledged messages that this client must have got by now.
    pub(crate) fn must_have(
        &self,
        at: usize,
        client: &Client,
        overflowed: bool,
        dropped: bool,
    ) -> Checked {
        let durable = matches!(client.existence, Existence::Durable { .. });
        if overflowed || (dropped && !durable) {
            return Ok(());
        }
        for (index, message) in self.messages.iter().enumerate() {
            let number = index as u64 + 1;
            if self.is_owed(at, client, message)
                && !client.delivered.contains_key(&number)
                && !client.refused.contains(&number)
            {
                return Err(Failure::of(
                    at,
                    format!(
                        "never got message {number} on {}, acknowledged with {:?} while it was subscribed",
                        message.topic, message.qos
                    ),
                ));
            }
        }
        Ok(())
    }

    fn is_owed(&self, at: usize, client: &Client, message: &Published) -> bool {
        let Some(acknowledged_at) = message.acknowledged_at else {
            return false;
        };
        let too_large = message.length + 120 > client.smallest_maximum as usize;
        if message.qos == QoS::AtMostOnce
            || message.was_refused
            || message.clears
            || message.expiry_s.is_some()
            || too_large
        {
            return false;
        }
        client.subscriptions.iter().any(|subscription| {
            !is_shared(&subscription.filter)
                && subscription.options.maximum_qos > QoS::AtMostOnce
                && subscription
                    .from_sure
                    .is_some_and(|from| from < message.sent_at)
                && subscription
                    .until_sure
                    .is_none_or(|until| until > acknowledged_at)
                && !(subscription.options.no_local && message.publisher == at)
                && matches(&subscription.filter, &message.topic)
        })
    }

    /// Every message owed to a shared subscription was got by one of its members.
    pub(crate) fn shared_must_have(&self, clients: &[Client]) -> Checked {
        for (index, message) in self.messages.iter().enumerate() {
            let number = index as u64 + 1;
            let Some(acknowledged_at) = message.acknowledged_at else {
                continue;
            };
            if message.qos == QoS::AtMostOnce
                || message.was_refused
                || message.clears
                || message.expiry_s.is_some()
            {
                continue;
            }
            for client in clients {
                for subscription in client
                    .subscriptions
                    .iter()
                    .filter(|subscription| is_shared(&subscription.filter))
                {
                    let owed = subscription
                        .from_sure
                        .is_some_and(|from| from < message.sent_at)
                        && subscription
                            .until_sure
                            .is_none_or(|until| until > acknowledged_at)
                        && matches(&subscription.filter, &message.topic)
                        && !self.share_lost.contains(&subscription.filter);
                    let member = |other: &&Client| {
                        other
                            .subscriptions
                            .iter()
                            .any(|known| known.filter == subscription.filter)
                    };
                    let void = clients.iter().filter(member).any(|other| {
                        other.smallest_maximum < u32::MAX
                            || other.refused.contains(&number)
                            || other.subscriptions.iter().any(|known| {
                                known.filter == subscription.filter
                                    && known.options.maximum_qos == QoS::AtMostOnce
                            })
                    });
                    if owed
                        && !void
                        && !clients
                            .iter()
                            .any(|other| other.delivered.contains_key(&number))
                    {
                        return Err(Failure::new(format!(
                            "message {number} on {} was acknowledged, and no member of {} got it",
                            message.topic, subscription.filter
                        )));
                    }
                }
            }
        }
        Ok(())
    }

    /// The messages that may be the retained one of a topic now; true when there may be none.
    pub(crate) fn retained(&self, topic: &str) -> (Vec<u64>, bool) {
        // 0 stands for the start, when there is none.
        let mut candidates = vec![0];
        for (index, message) in self.messages.iter().enumerate() {
            if !message.retain || message.topic != topic {
                continue;
            }
            // One that a full mailbox refused may have been retained.
            if message.acknowledged_at.is_some()
                && !message.was_refused
                && message.qos > QoS::AtMostOnce
            {
                let before = |older: &Published| {
                    older.acknowledged_at.is_some_and(|at| at < message.sent_at)
                };
                candidates.retain(|older| self.get(*older).is_some_and(|older| !before(older)));
            }
            candidates.push(index as u64 + 1);
        }
        let is_message = |number: &u64| self.get(*number).is_some_and(|message| !message.clears);
        let may_go = |number: &u64| {
            self.get(*number)
                .is_none_or(|message| message.clears || message.expiry_s.is_some())
        };
        let none = candidates.iter().any(may_go);
        (candidates.into_iter().filter(is_message).collect(), none)
    }
}

/// How many deliveries of a message a client may get: one for its ordinary subscriptions, one for each shared one.
fn admitted(
    at: usize,
    client: &Client,
    message: &Published,
    arrival: Arrival,
    topic: &str,
) -> Result<u32, String> {
    if message.topic != topic {
        return Err(format!("of {} came with topic {topic}", message.topic));
    }
    if arrival.retain && !message.retain {
        return Err("came with RETAIN, but was published without".to_owned());
    }
    let own = message.publisher == at && message.epoch == client.epoch && !message.will;
    let may = |known: &&Subscription| {
        let acknowledged_before = |at: u64| at < known.from_maybe;
        matches(&known.filter, topic)
            && known
                .until_maybe
                .is_none_or(|until| until >= message.sent_at)
            // What waits in the queue of a shared subscription may be older than the member that takes it.
            && (message.retain
                || is_shared(&known.filter)
                || !message.acknowledged_at.is_some_and(acknowledged_before))
            && !(own && known.options.no_local && !message.retain)
    };
    let (mut plain, mut shared, mut highest) = (0, 0, QoS::AtMostOnce);
    for subscription in client.subscriptions.iter().filter(may) {
        highest = highest.max(subscription.options.maximum_qos);
        if is_shared(&subscription.filter) {
            shared += 1;
        } else {
            plain = 1;
        }
    }
    if plain + shared == 0 {
        return Err(format!("on {topic} came without a matching subscription"));
    }
    if arrival.qos > message.qos.min(highest) {
        return Err(format!(
            "came with {:?}, above what was published or granted",
            arrival.qos
        ));
    }
    Ok(plain + shared)
}
