//! The retained messages of the partitions a core owns: a cache of what the engine holds.

use std::collections::BTreeSet;
use std::sync::Arc;

use edge_proto::trie::TopicTrie;

use crate::limits::Limits;
use crate::message::Message;

/// Retained messages by topic.
#[derive(Debug, Default)]
pub struct Retained {
    messages: TopicTrie<Arc<Message>>,
    bytes: usize,
    /// When messages expire, in milliseconds of Unix time, and their topics; those that never do are not here.
    expiring: BTreeSet<(u64, Box<str>)>,
}

impl Retained {
    /// Number of messages.
    pub fn count(&self) -> usize {
        self.messages.len()
    }

    /// Their bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// True when this message may become the retained message of its topic.
    pub fn has_room(&self, message: &Message, limits: &Limits) -> bool {
        let known = self.messages.get(message.topic());
        let bytes =
            self.bytes - known.map_or(0, |known| known.queued_bytes()) + message.queued_bytes();
        bytes <= limits.retained_bytes_max
            && (known.is_some() || self.messages.len() < limits.retained_messages_max)
    }

    /// Makes this the retained message of its topic.
    pub fn set(&mut self, message: Arc<Message>) {
        self.bytes += message.queued_bytes();
        let topic = message.topic().to_owned();
        let expires = message.expires_at_unix_ms;
        if let Some(replaced) = self.messages.insert(&topic, message) {
            self.forget(&replaced);
        }
        if expires != u64::MAX {
            self.expiring.insert((expires, topic.into_boxed_str()));
        }
    }

    /// Removes the retained message of a topic, if there is one.
    pub fn remove(&mut self, topic: &str) {
        if let Some(removed) = self.messages.remove(topic) {
            self.forget(&removed);
        }
    }

    /// Removes and returns some of the messages that have expired, the earliest first.
    pub fn take_expired(&mut self, unix_ms: u64, limit: usize) -> Vec<Arc<Message>> {
        let mut taken = Vec::new();
        while taken.len() < limit
            && let Some((_, topic)) = self.expiring.first()
            && let Some(message) = self.messages.get(topic)
            && message.is_expired(unix_ms)
        {
            let message = message.clone();
            self.remove(message.topic());
            taken.push(message);
        }
        taken
    }

    /// Counts a message no more, after it has left.
    fn forget(&mut self, message: &Message) {
        self.bytes -= message.queued_bytes();
        if message.expires_at_unix_ms != u64::MAX {
            let topic = message.topic().into();
            self.expiring.remove(&(message.expires_at_unix_ms, topic));
        }
    }

    /// The next messages that a filter matches and that have not expired, and where the page after it starts. At most so many
    /// messages and bytes, but at least one message.
    pub fn page(
        &self,
        filter: &str,
        after: &str,
        (limit, bytes_max): (u16, usize),
        unix_ms: u64,
    ) -> (Vec<Arc<Message>>, Option<Box<str>>) {
        let mut page: Vec<Arc<Message>> = Vec::new();
        let mut bytes = 0;
        let mut is_full = false;
        let after = (!after.is_empty()).then_some(after);
        let next = self
            .messages
            .matching_page(filter, after, usize::from(limit), |_, message| {
                bytes += message.queued_bytes();
                is_full |= bytes > bytes_max && !page.is_empty();
                if !is_full && !message.is_expired(unix_ms) {
                    page.push(message.clone());
                }
            });
        if let (true, Some(last)) = (is_full, page.last()) {
            let after = last.topic().into();
            return (page, Some(after));
        }
        (page, next.map(String::into_boxed_str))
    }

    /// Forgets the messages of some topics; the store keeps them.
    pub fn remove_topics(&mut self, is_gone: impl Fn(&str) -> bool) {
        let mut gone = Vec::new();
        self.messages.for_each(|topic, _| {
            if is_gone(topic) {
                gone.push(topic.to_owned());
            }
        });
        for topic in gone {
            self.remove(&topic);
        }
    }

    /// Removes and returns all messages that a filter matches.
    pub fn clear_matching(&mut self, filter: &str) -> Vec<Arc<Message>> {
        let mut found = Vec::new();
        self.messages
            .matching(filter, |_, message| found.push(message.clone()));
        for message in &found {
            self.remove(message.topic());
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use edge_proto::packet::QoS;

    use super::*;
    use crate::message::{MessageParts, SessionId};

    fn retained(topic: &str, expires_at_unix_ms: u64) -> Arc<Message> {
        Arc::new(Message::new(MessageParts {
            topic,
            properties: &[],
            payload: b"x",
            qos: QoS::AtLeastOnce,
            retain: true,
            expires_at_unix_ms,
            publisher: SessionId(0),
        }))
    }

    #[test]
    fn what_has_expired_goes_a_few_at_a_time_and_nothing_else_does() {
        let mut table = Retained::default();
        for number in 0..10 {
            table.set(retained(&format!("early/{number}"), 100));
        }
        table.set(retained("late", 300));
        table.set(retained("never", u64::MAX));
        table.set(retained("early/0", u64::MAX));
        table.set(retained("early/1", 300));
        table.remove("early/2");
        assert!(table.take_expired(99, 100).is_empty());
        assert_eq!(table.take_expired(100, 3).len(), 3);
        assert_eq!(table.take_expired(100, 100).len(), 4);
        assert_eq!(table.count(), 4);
        assert_eq!(table.take_expired(300, 100).len(), 2);
        assert_eq!((table.count(), table.expiring.len()), (2, 0));
        table.remove("never");
        table.remove("early/0");
        assert_eq!(table.bytes(), 0);
    }

    #[test]
    fn a_page_ends_with_its_bytes_and_the_next_goes_on_behind_it() {
        let mut table = Retained::default();
        for number in 0..10 {
            table.set(retained(&format!("t/{number}"), u64::MAX));
        }
        let each = table.bytes() / 10;
        let (mut after, mut found, mut pages) = (Box::default(), 0, 0);
        loop {
            let (page, next) = table.page("t/#", &after, (8, 3 * each), 0);
            assert!(page.len() <= 3);
            found += page.len();
            pages += 1;
            match next {
                Some(next) => after = next,
                None => break,
            }
        }
        assert_eq!((found, pages), (10, 4));
        let (page, next) = table.page("t/#", "", (8, 0), 0);
        assert_eq!(page.len(), 1, "one message always goes");
        assert!(next.is_some());
    }
}
