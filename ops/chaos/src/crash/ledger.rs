//! What was promised and what came: every message with its acknowledgement, every subscription with its acknowledgements, and
//! every delivery, in the order the clients saw them.
//!
//! The clients share one thread, so a counter of events (a *tick*) orders everything. A message *must* reach a durable reader
//! when its subscription was acknowledged before the message was first sent, and it was not being removed before the message
//! was acknowledged. It *may* reach it when the two overlap at all.

use std::collections::BTreeMap;

use edge_proto::packet::QoS;

/// A message that a publisher has sent.
#[derive(Debug)]
pub(crate) struct Sent {
    pub(crate) publisher: usize,
    pub(crate) topic: String,
    pub(crate) qos: QoS,
    sent: u64,
    /// When its PUBACK or PUBREC came.
    acked: Option<u64>,
    /// True exactly when the publisher has sent it more than once.
    pub(crate) resent: bool,
}

/// The life of one subscription, in ticks.
#[derive(Debug)]
struct Span {
    asked: u64,
    granted: Option<u64>,
    removing: Option<u64>,
    removed: Option<u64>,
}

/// Who is owed messages: a session, or a group that shares a subscription.
#[derive(Debug)]
pub(crate) struct Reader {
    pub(crate) name: String,
    pub(crate) durable: bool,
    pub(crate) shared: bool,
    pub(crate) qos: QoS,
    filters: Vec<(String, Vec<Span>)>,
    counts: BTreeMap<usize, u32>,
}

/// A promise that was broken.
#[derive(Debug)]
pub(crate) struct Violation {
    pub(crate) text: String,
    pub(crate) message: Option<usize>,
    /// The name of the client concerned.
    pub(crate) client: String,
}

/// Everything that is known about a run.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    tick: u64,
    pub(crate) messages: Vec<Sent>,
    readers: Vec<Reader>,
    pub(crate) violations: Vec<Violation>,
    pub(crate) deliveries: u64,
    pub(crate) repeats: u64,
}

impl Ledger {
    /// The next tick.
    pub(crate) fn tick(&mut self) -> u64 {
        self.tick += 1;
        self.tick
    }

    /// Notes a broken promise.
    pub(crate) fn violated(&mut self, client: &str, message: Option<usize>, text: String) {
        self.violations.push(Violation {
            text,
            message,
            client: client.to_owned(),
        });
    }

    /// A new message; its number goes into its payload.
    pub(crate) fn sent(&mut self, publisher: usize, topic: &str, qos: QoS) -> usize {
        let sent = self.tick();
        self.messages.push(Sent {
            publisher,
            topic: topic.to_owned(),
            qos,
            sent,
            acked: None,
            resent: false,
        });
        self.messages.len() - 1
    }

    /// Its acknowledgement came.
    pub(crate) fn acked(&mut self, message: usize) {
        let tick = self.tick();
        self.messages[message].acked.get_or_insert(tick);
    }

    /// Messages acknowledged.
    pub(crate) fn acked_count(&self) -> usize {
        self.messages
            .iter()
            .filter(|message| message.acked.is_some())
            .count()
    }

    /// The newest acknowledged message of each topic that is asked about.
    pub(crate) fn newest_acked(&self, wanted: impl Fn(&str) -> bool) -> BTreeMap<String, usize> {
        let acked = self
            .messages
            .iter()
            .enumerate()
            .filter(|(_, message)| message.acked.is_some());
        acked
            .filter(|(_, message)| wanted(&message.topic))
            .map(|(number, message)| (message.topic.clone(), number))
            .collect()
    }

    /// A new reader without subscriptions.
    pub(crate) fn reader(
        &mut self,
        name: &str,
        durable: bool,
        shared: bool,
        qos: QoS,
        filters: &[&str],
    ) -> usize {
        self.readers.push(Reader {
            name: name.to_owned(),
            durable,
            shared,
            qos,
            filters: filters
                .iter()
                .map(|filter| (unshared(filter).to_owned(), Vec::new()))
                .collect(),
            counts: BTreeMap::new(),
        });
        self.readers.len() - 1
    }

    /// A SUBSCRIBE for all filters of a reader is about to be sent.
    pub(crate) fn subscribing(&mut self, reader: usize) {
        let asked = self.tick();
        for (_, spans) in &mut self.readers[reader].filters {
            let open = spans.last().is_some_and(|span| span.removing.is_none());
            if !open {
                spans.push(Span {
                    asked,
                    granted: None,
                    removing: None,
                    removed: None,
                });
            }
        }
    }

    /// Its SUBACK came.
    pub(crate) fn subscribed(&mut self, reader: usize) {
        let tick = self.tick();
        self.last_spans(reader, |span| {
            span.granted.get_or_insert(tick);
        });
    }

    /// An UNSUBSCRIBE is about to be sent.
    pub(crate) fn unsubscribing(&mut self, reader: usize) {
        let tick = self.tick();
        self.last_spans(reader, |span| {
            span.removing.get_or_insert(tick);
        });
    }

    /// Its UNSUBACK came.
    pub(crate) fn unsubscribed(&mut self, reader: usize) {
        let tick = self.tick();
        self.last_spans(reader, |span| {
            span.removed.get_or_insert(tick);
        });
    }

    fn last_spans(&mut self, reader: usize, mut change: impl FnMut(&mut Span)) {
        for (_, spans) in &mut self.readers[reader].filters {
            spans.last_mut().into_iter().for_each(&mut change);
        }
    }

    /// A live-only reader begins anew with its connection.
    pub(crate) fn begins_anew(&mut self, reader: usize) {
        let reader = &mut self.readers[reader];
        reader.counts.clear();
        for (_, spans) in &mut reader.filters {
            spans.clear();
        }
    }

    /// The effective QoS of a message for a reader.
    pub(crate) fn effective_qos(&self, reader: usize, message: usize) -> QoS {
        self.messages[message].qos.min(self.readers[reader].qos)
    }

    /// A message reached a client of a reader; returns whether it is the first time.
    pub(crate) fn delivered(
        &mut self,
        client: &str,
        reader: usize,
        message: usize,
        qos: QoS,
        dup: bool,
    ) -> bool {
        self.deliveries += 1;
        let (effective, sent) = (self.effective_qos(reader, message), &self.messages[message]);
        let (resent, topic) = (sent.resent, sent.topic.clone());
        let to = &mut self.readers[reader];
        let may = to.spans_for(&topic).any(|span| {
            sent.acked.is_none_or(|acked| span.asked < acked)
                && span.removed.is_none_or(|removed| removed > sent.sent)
        });
        let count = to.counts.entry(message).or_default();
        *count += 1;
        let (count, shared) = (*count, to.shared);
        if !may {
            self.violated(
                client,
                Some(message),
                format!("m{message} on {topic} came without a subscription"),
            );
        }
        if qos != effective {
            let text = format!("m{message} on {topic} came with {qos:?}, not {effective:?}");
            self.violated(client, Some(message), text);
        }
        if count == 1 {
            return true;
        }
        self.repeats += 1;
        if effective == QoS::ExactlyOnce {
            self.violated(
                client,
                Some(message),
                format!("m{message} on {topic} came {count} times at QoS 2"),
            );
        } else if !dup && !resent && !shared {
            self.violated(
                client,
                Some(message),
                format!("m{message} on {topic} was repeated without DUP"),
            );
        }
        false
    }

    /// Acknowledged messages that a durable reader must have and has not.
    pub(crate) fn missing(&self) -> Vec<(&Reader, usize)> {
        self.missing_of(true)
    }

    /// Acknowledged messages that a live-only reader must have and has not: those since its connection began.
    pub(crate) fn missing_live(&self) -> Vec<(&Reader, usize)> {
        self.missing_of(false)
    }

    fn missing_of(&self, durable: bool) -> Vec<(&Reader, usize)> {
        let mut missing = Vec::new();
        for reader in self
            .readers
            .iter()
            .filter(|reader| reader.durable == durable)
        {
            for (number, message) in self.messages.iter().enumerate() {
                if reader.counts.contains_key(&number) {
                    continue;
                }
                let Some(acked) = message.acked else { continue };
                let must = reader.spans_for(&message.topic).any(|span| {
                    span.granted.is_some_and(|granted| granted < message.sent)
                        && span.removing.is_none_or(|removing| removing > acked)
                });
                if must {
                    missing.push((reader, number));
                }
            }
        }
        missing
    }
}

impl Reader {
    fn spans_for(&self, topic: &str) -> impl Iterator<Item = &Span> {
        self.filters
            .iter()
            .filter(move |(filter, _)| matches(filter, topic))
            .flat_map(|(_, spans)| spans)
    }
}

/// The filter inside a shared subscription, or the filter itself.
fn unshared(filter: &str) -> &str {
    filter
        .strip_prefix("$share/")
        .and_then(|rest| rest.split_once('/'))
        .map_or(filter, |(_, inner)| inner)
}

/// Whether a topic filter matches a topic (MQTT 5.0 §4.7), told from the text of the specification alone.
pub(crate) fn matches(filter: &str, topic: &str) -> bool {
    let (mut filter, mut topic) = (filter.split('/'), topic.split('/'));
    loop {
        match (filter.next(), topic.next()) {
            (Some("#"), _) | (None, None) => return true,
            (Some("+"), Some(_)) => {}
            (Some(wanted), Some(level)) if wanted == level => {}
            _ => return false,
        }
    }
}

/// The root of a topic: its first two levels.
pub(crate) fn root(topic: &str) -> &str {
    let end = topic
        .match_indices('/')
        .nth(1)
        .map_or(topic.len(), |(index, _)| index);
    &topic[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_match_as_the_specification_says() {
        for (filter, topic, wanted) in [
            ("a/#", "a", true),
            ("a/#", "a/b/c", true),
            ("+/x/#", "b/x", true),
            ("+/x/#", "b/y/x", false),
            ("a/+", "a", false),
            ("a/+", "a/b", true),
            ("a/b", "a/b/c", false),
        ] {
            assert_eq!(matches(filter, topic), wanted, "{filter} {topic}");
        }
        assert_eq!(root("a/b/c/d"), "a/b");
        assert_eq!(root("a"), "a");
    }

    #[test]
    fn an_acknowledged_message_that_never_came_is_missed_and_a_second_copy_is_seen() {
        let mut ledger = Ledger::default();
        let reader = ledger.reader("reader", true, false, QoS::ExactlyOnce, &["a/#"]);
        ledger.subscribing(reader);
        ledger.subscribed(reader);
        let message = ledger.sent(0, "a/b", QoS::ExactlyOnce);
        assert!(
            ledger.missing().is_empty(),
            "nothing is owed before the acknowledgement"
        );
        ledger.acked(message);
        assert_eq!(ledger.missing().len(), 1);
        assert!(ledger.delivered("reader", reader, message, QoS::ExactlyOnce, false));
        assert!(ledger.missing().is_empty() && ledger.violations.is_empty());
        assert!(!ledger.delivered("reader", reader, message, QoS::ExactlyOnce, true));
        assert_eq!(ledger.violations.len(), 1);
    }

    #[test]
    fn a_message_after_the_unsuback_is_a_violation() {
        let mut ledger = Ledger::default();
        let reader = ledger.reader("reader", true, false, QoS::AtLeastOnce, &["a/#"]);
        ledger.subscribing(reader);
        ledger.subscribed(reader);
        ledger.unsubscribing(reader);
        ledger.unsubscribed(reader);
        let message = ledger.sent(0, "a/b", QoS::AtLeastOnce);
        ledger.delivered("reader", reader, message, QoS::AtLeastOnce, false);
        assert_eq!(ledger.violations.len(), 1);
    }
}
