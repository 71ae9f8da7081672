//! Topic aliases (MQTT 5.0 §3.3.2.3.4), one table per direction. A connection that uses none has no table.

/// Aliases that the client has set.
#[derive(Debug, Default)]
pub struct InboundAliases {
    topics: Vec<Option<Box<str>>>,
}

impl InboundAliases {
    /// Sets an alias (≥ 1), replacing what it meant before. The caller has checked it against the Topic Alias Maximum.
    pub fn set(&mut self, alias: u16, topic: &str) {
        let index = usize::from(alias) - 1;
        if self.topics.len() <= index {
            self.topics.resize(index + 1, None);
        }
        self.topics[index] = Some(topic.into());
    }

    /// The topic of an alias (≥ 1), `None` when it was never set.
    pub fn topic(&self, alias: u16) -> Option<&str> {
        self.topics.get(usize::from(alias) - 1)?.as_deref()
    }
}

/// Aliases that the server has set: the first topics that were sent get them and keep them.
#[derive(Debug, Default)]
pub struct OutboundAliases {
    topics: Vec<Box<str>>,
}

impl OutboundAliases {
    /// The alias for a topic, and true when the topic itself must be sent with it. `None` when it has none and no more may be
    /// set.
    pub fn assign(&mut self, topic: &str, maximum: u16) -> Option<(u16, bool)> {
        if let Some(index) = self.topics.iter().position(|known| **known == *topic) {
            return Some((index as u16 + 1, false));
        }
        if self.topics.len() >= usize::from(maximum) {
            return None;
        }
        self.topics.push(topic.into());
        Some((self.topics.len() as u16, true))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inbound_alias_means_what_it_was_set_to_last() {
        let mut aliases = InboundAliases::default();
        assert_eq!(aliases.topic(3), None);
        aliases.set(3, "a");
        aliases.set(3, "b");
        assert_eq!(aliases.topic(3), Some("b"));
        assert_eq!(aliases.topic(1), None);
    }

    #[test]
    fn the_server_sends_the_topic_once_and_keeps_the_clients_maximum() {
        let mut aliases = OutboundAliases::default();
        assert_eq!(aliases.assign("a", 1), Some((1, true)));
        assert_eq!(aliases.assign("a", 1), Some((1, false)));
        assert_eq!(aliases.assign("b", 1), None);
    }
}
