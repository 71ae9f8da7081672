//! The retained messages of the partitions a core owns: a cache of what the engine holds.

use std::sync::Arc;

use edge_proto::trie::TopicTrie;

use crate::limits::Limits;
use crate::message::Message;

/// Retained messages by topic.
#[derive(Debug, Default)]
pub struct Retained {
    messages: TopicTrie<Arc<Message>>,
    bytes: usize,
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
        if let Some(replaced) = self.messages.insert(&topic, message) {
            self.bytes -= replaced.queued_bytes();
        }
    }

    /// Removes the retained message of a topic, if there is one.
    pub fn remove(&mut self, topic: &str) {
        let removed = self.messages.remove(topic);
        self.bytes -= removed.as_ref().map_or(0, |message| message.queued_bytes());
    }

    /// The next messages that a filter matches and that have not expired, and where the page after it starts.
    pub fn page(
        &self,
        filter: &str,
        after: &str,
        limit: u16,
        unix_ms: u64,
    ) -> (Vec<Arc<Message>>, Option<Box<str>>) {
        let mut page = Vec::new();
        let after = (!after.is_empty()).then_some(after);
        let next = self
            .messages
            .matching_page(filter, after, usize::from(limit), |_, message| {
                if !message.is_expired(unix_ms) {
                    page.push(message.clone());
                }
            });
        (page, next.map(String::into_boxed_str))
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
