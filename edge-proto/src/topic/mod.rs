//! Topic names and topic filters (§4.7), shared subscriptions (§4.8.2), and the roots that spread topics over cores.

mod root;

pub use root::{RootDepths, filter_root, root};

use crate::reason::{ReasonCode, Violation};

/// The longest topic name or filter in bytes (MQTT-4.7.3-3).
const LENGTH_MAX: usize = 65_535;

/// What a shared subscription starts with (MQTT-4.8.2-1).
const SHARE_PREFIX: &str = "$share/";

/// A valid topic name: 1 to 65,535 bytes, no wildcard, no U+0000.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicName<'a>(&'a str);

impl<'a> TopicName<'a> {
    /// Checks a topic name.
    ///
    /// # Errors
    ///
    /// Topic Name invalid.
    pub fn parse(text: &'a str) -> Result<Self, Violation> {
        let invalid =
            |clause, detail| Err(Violation::new(ReasonCode::TopicNameInvalid, clause, detail));
        if text.is_empty() {
            return invalid("MQTT-4.7.3-1", "a topic name is empty");
        }
        if text.len() > LENGTH_MAX {
            return invalid("MQTT-4.7.3-3", "a topic name has more than 65,535 bytes");
        }
        match text.bytes().find(|byte| matches!(byte, 0 | b'+' | b'#')) {
            None => Ok(Self(text)),
            Some(0) => invalid("MQTT-4.7.3-2", "a topic name contains U+0000"),
            Some(_) => invalid("MQTT-4.7.0-1", "a topic name contains a wildcard"),
        }
    }

    /// The name as text.
    pub const fn as_str(self) -> &'a str {
        self.0
    }

    /// The levels, which may be empty: `/a` has two.
    pub fn levels(self) -> impl Iterator<Item = &'a str> + Clone {
        self.0.split('/')
    }

    /// How many levels there are.
    pub fn level_count(self) -> usize {
        self.0.bytes().filter(|byte| *byte == b'/').count() + 1
    }
}

/// A valid topic filter: 1 to 65,535 bytes, wildcards only where they may stand, no U+0000. Of a shared subscription it
/// is the part behind the share name; see [`SharedFilter`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicFilter<'a>(&'a str);

impl<'a> TopicFilter<'a> {
    /// Checks a topic filter.
    ///
    /// # Errors
    ///
    /// Topic Filter invalid.
    pub fn parse(text: &'a str) -> Result<Self, Violation> {
        if text.is_empty() {
            return invalid_filter("MQTT-4.7.3-1", "a topic filter is empty");
        }
        if text.len() > LENGTH_MAX {
            return invalid_filter("MQTT-4.7.3-3", "a topic filter has more than 65,535 bytes");
        }
        let bytes = text.as_bytes();
        for (index, &byte) in bytes.iter().enumerate() {
            let starts_level = index == 0 || bytes[index - 1] == b'/';
            let next = bytes.get(index + 1);
            match byte {
                0 => return invalid_filter("MQTT-4.7.3-2", "a topic filter contains U+0000"),
                b'#' if !starts_level || next.is_some() => {
                    return invalid_filter(
                        "MQTT-4.7.1-1",
                        "# is not alone in the last level of a topic filter",
                    );
                }
                b'+' if !starts_level || next.is_some_and(|&next| next != b'/') => {
                    return invalid_filter(
                        "MQTT-4.7.1-2",
                        "+ is not alone in its level of a topic filter",
                    );
                }
                _ => {}
            }
        }
        Ok(Self(text))
    }

    /// The filter as text.
    pub const fn as_str(self) -> &'a str {
        self.0
    }

    /// The levels, wildcards included.
    pub fn levels(self) -> impl Iterator<Item = &'a str> + Clone {
        self.0.split('/')
    }

    /// True when the filter has a wildcard, so that it matches more than the topic of its own name.
    pub fn has_wildcard(self) -> bool {
        self.0.contains(['+', '#'])
    }

    /// Whether the filter matches a topic name (§4.7). A wildcard in the first level matches no topic that starts with `$`
    /// (MQTT-4.7.2-1), and `#` matches the level above it too.
    pub fn matches(self, topic: &str) -> bool {
        filter_matches(self.0, topic)
    }
}

/// [`TopicFilter::matches`] for a filter that was checked before and kept as text.
pub fn filter_matches(filter: &str, topic: &str) -> bool {
    let (filter, topic) = (filter.as_bytes(), topic.as_bytes());
    if topic.first() == Some(&b'$') && matches!(filter.first(), Some(b'+' | b'#')) {
        return false;
    }
    let level_end = |bytes: &[u8], from: usize| {
        let length = bytes[from..].iter().position(|byte| *byte == b'/');
        length.map_or(bytes.len(), |length| from + length)
    };
    let (mut wanted_at, mut level_at) = (0, 0);
    loop {
        let wanted_end = level_end(filter, wanted_at);
        let level_end = level_end(topic, level_at);
        match &filter[wanted_at..wanted_end] {
            b"#" => return true,
            b"+" => {}
            wanted if *wanted == topic[level_at..level_end] => {}
            _ => return false,
        }
        match (filter.get(wanted_end), topic.get(level_end)) {
            (None, None) => return true,
            (None, Some(_)) => return false,
            (Some(_), None) => return filter[wanted_end..] == *b"/#",
            (Some(_), Some(_)) => (wanted_at, level_at) = (wanted_end + 1, level_end + 1),
        }
    }
}

const fn invalid_filter<T>(clause: &'static str, detail: &'static str) -> Result<T, Violation> {
    Err(Violation::new(
        ReasonCode::TopicFilterInvalid,
        clause,
        detail,
    ))
}

/// The topic filter of a shared subscription, `$share/{share name}/{filter}` (§4.8.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SharedFilter<'a> {
    /// Share name: not empty, no `/`, `+` or `#`.
    pub name: &'a str,
    /// The filter behind the share name.
    pub filter: TopicFilter<'a>,
}

impl<'a> SharedFilter<'a> {
    /// Takes a shared subscription's filter apart; `None` when the text does not start with `$share/`.
    ///
    /// # Errors
    ///
    /// Topic Filter invalid, for a bad share name (MQTT-4.8.2-1, -2) or a bad or missing filter behind it.
    pub fn parse(text: &'a str) -> Result<Option<Self>, Violation> {
        let Some(rest) = text.strip_prefix(SHARE_PREFIX) else {
            return Ok(None);
        };
        if text.len() > LENGTH_MAX {
            return invalid_filter("MQTT-4.7.3-3", "a topic filter has more than 65,535 bytes");
        }
        let Some((name, filter)) = rest.split_once('/') else {
            return invalid_filter(
                "MQTT-4.8.2-2",
                "a share name is not followed by a topic filter",
            );
        };
        if name.is_empty() {
            return invalid_filter("MQTT-4.8.2-1", "a share name is empty");
        }
        if name.contains(['+', '#', '\0']) {
            return invalid_filter("MQTT-4.8.2-2", "a share name contains a wildcard");
        }
        Ok(Some(Self {
            name,
            filter: TopicFilter::parse(filter)?,
        }))
    }
}
