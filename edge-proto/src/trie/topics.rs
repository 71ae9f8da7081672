//! Topic names in order, asked by filter.

use core::cmp::Ordering;
use core::fmt;
use std::collections::BTreeMap;
use std::ops::Bound;

/// How many topics a page looks at for each that it may find, so that a filter without matches does not hold up a core.
const LOOKS_PER_MATCH: usize = 16;

/// A map from topic names to values, asked by topic filter: the retained messages.
///
/// The names stand in one ordered map in which `/` sorts before any other character, so that a topic is followed by all
/// topics below it. A filter is answered by walking the map in order and leaping over what cannot match; where a walk
/// stopped, the next page starts.
#[derive(Clone)]
pub struct TopicTrie<T> {
    /// By topic name with U+0000, which no topic contains, in place of `/`.
    topics: BTreeMap<Box<str>, T>,
}

impl<T> Default for TopicTrie<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: fmt::Debug> fmt::Debug for TopicTrie<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut map = formatter.debug_map();
        self.for_each(|topic, value| {
            map.entry(&topic, value);
        });
        map.finish()
    }
}

impl<T> TopicTrie<T> {
    /// An empty map, which holds no memory.
    pub const fn new() -> Self {
        Self {
            topics: BTreeMap::new(),
        }
    }

    /// How many topics there are.
    pub fn len(&self) -> usize {
        self.topics.len()
    }

    /// True when there is no topic.
    pub fn is_empty(&self) -> bool {
        self.topics.is_empty()
    }

    /// Sets the value of a topic and returns the one it had.
    pub fn insert(&mut self, topic: &str, value: T) -> Option<T> {
        self.topics.insert(key(topic).into(), value)
    }

    /// The value of a topic.
    pub fn get(&self, topic: &str) -> Option<&T> {
        self.topics.get(key(topic).as_str())
    }

    /// The value of a topic.
    pub fn get_mut(&mut self, topic: &str) -> Option<&mut T> {
        self.topics.get_mut(key(topic).as_str())
    }

    /// Takes a topic out.
    pub fn remove(&mut self, topic: &str) -> Option<T> {
        self.topics.remove(key(topic).as_str())
    }

    /// Calls `visit` with each topic that a filter matches, in the order of the map.
    pub fn matching<'t>(&'t self, filter: &str, mut visit: impl FnMut(&str, &'t T)) {
        self.matching_page(filter, None, usize::MAX, &mut visit);
    }

    /// Calls `visit` with the next topics that a filter matches, behind `after` in the order of the map (from the start
    /// with `None`), at most `count_max` of them (0 counts as 1), and looks at a bounded number of others. Returns where
    /// it stopped when there may be more, even when it found none: give it as `after` of the next page. Topics that
    /// come or go between two pages are seen or not; all others are seen once.
    pub fn matching_page<'t>(
        &'t self,
        filter: &str,
        after: Option<&str>,
        count_max: usize,
        mut visit: impl FnMut(&str, &'t T),
    ) -> Option<String> {
        let (mut matches_left, mut looks_left) =
            (count_max, count_max.saturating_mul(LOOKS_PER_MATCH));
        let mut stopped_at = None;
        let mut topic = String::new();
        self.walk(filter, after, |key, matching| {
            if let Some(value) = matching {
                set_topic(&mut topic, key);
                visit(&topic, value);
                matches_left = matches_left.saturating_sub(1);
            }
            looks_left = looks_left.saturating_sub(1);
            let goes_on = matches_left > 0 && looks_left > 0;
            if !goes_on {
                stopped_at = Some(key.replace('\0', "/"));
            }
            goes_on
        });
        stopped_at
    }

    /// Calls `visit` with every topic and its value, in the order of the map.
    pub fn for_each<'t>(&'t self, mut visit: impl FnMut(&str, &'t T)) {
        let mut topic = String::new();
        for (key, value) in &self.topics {
            set_topic(&mut topic, key);
            visit(&topic, value);
        }
    }

    /// Looks at the keys in order, with the value of those that match, until `look` returns false.
    fn walk<'t>(
        &'t self,
        filter: &str,
        after: Option<&str>,
        mut look: impl FnMut(&str, Option<&'t T>) -> bool,
    ) {
        let filter = key(filter);
        let literal = &filter[..filter.find(['+', '#']).unwrap_or(filter.len())];
        // `a/#` matches `a` too.
        let first = literal.strip_suffix('\0').unwrap_or(literal);
        let mut start = match after.map(key) {
            Some(after) if after.as_str() >= first => Bound::Excluded(after),
            _ => Bound::Included(first.to_owned()),
        };
        'leap: loop {
            let range = (start.as_ref().map(String::as_str), Bound::Unbounded);
            for (key, value) in self.topics.range::<str, _>(range) {
                let fit = fit(&filter, key);
                if matches!(fit, Fit::End) || !look(key, matches!(fit, Fit::Match).then_some(value))
                {
                    return;
                }
                if let Fit::Leap(to) = fit {
                    start = Bound::Included(to);
                    continue 'leap;
                }
            }
            return;
        }
    }
}

fn set_topic(topic: &mut String, key: &str) {
    topic.clear();
    topic.extend(
        key.chars()
            .map(|character| if character == '\0' { '/' } else { character }),
    );
}

/// A topic or filter as a key.
fn key(topic: &str) -> String {
    topic.replace('/', "\0")
}

/// What a key is to a filter.
enum Fit {
    Match,
    /// No match, but the next key may be one.
    Next,
    /// No match, and neither is any key below this one, which is greater.
    Leap(String),
    /// No match, and neither is any greater key.
    End,
}

fn fit(filter: &str, key: &str) -> Fit {
    if key.starts_with('$') && filter.starts_with(['+', '#']) {
        return Fit::Leap("%".into()); // MQTT-4.7.2-1; the first text behind all that starts with `$`.
    }
    // Where the last level that `+` took ends: only another level in its place can still match when the rest does not.
    let mut any_end = None;
    let leap_over = |any_end: Option<usize>| match any_end {
        Some(end) => Fit::Leap(format!("{}\u{1}", &key[..end])),
        None => Fit::End,
    };
    let mut level_start = Some(0);
    for wanted in filter.split('\0') {
        if wanted == "#" {
            return Fit::Match;
        }
        let Some(start) = level_start else {
            return if wanted == "+" {
                Fit::Next
            } else {
                Fit::Leap(format!("{key}\0{wanted}"))
            };
        };
        let end = key[start..]
            .find('\0')
            .map_or(key.len(), |length| start + length);
        if wanted == "+" {
            any_end = Some(end);
        } else {
            match key[start..end].cmp(wanted) {
                Ordering::Less => return Fit::Leap(format!("{}{wanted}", &key[..start])),
                Ordering::Equal => {}
                Ordering::Greater => return leap_over(any_end),
            }
        }
        level_start = (end < key.len()).then_some(end + 1);
    }
    if level_start.is_none() {
        Fit::Match
    } else {
        leap_over(any_end)
    }
}
