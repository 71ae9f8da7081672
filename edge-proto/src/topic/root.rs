//! Roots: the first levels of a topic, which decide the one core that serves it.

/// The first `depth` levels of a topic, or the whole topic when it has fewer. A depth of 0 counts as 1.
pub fn root(topic: &str, depth: usize) -> &str {
    let slash = |(_, byte): &(usize, u8)| *byte == b'/';
    match topic
        .bytes()
        .enumerate()
        .filter(slash)
        .nth(depth.max(1) - 1)
    {
        Some((end, _)) => &topic[..end],
        None => topic,
    }
}

/// The root of all topics that a filter matches, when they have one root: its root levels have no wildcard. `None`
/// means broad.
pub fn filter_root(filter: &str, depth: usize) -> Option<&str> {
    let root = root(filter, depth);
    (!has_wildcard(root)).then_some(root)
}

fn has_wildcard(levels: &str) -> bool {
    levels.contains(['+', '#'])
}

/// How many levels make a root, per prefix of whole levels: equal on all nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootDepths {
    default: u8,
    /// Longest first, so that the first that fits is the one.
    prefixes: Vec<(Box<str>, u8)>,
}

impl RootDepths {
    /// `default` levels for all topics but those at or below a prefix; of nested prefixes the longest counts. A depth
    /// of 0 counts as 1, and a `/` at the end of a prefix makes no difference.
    pub fn new(default: u8, prefixes: &[(&str, u8)]) -> Self {
        let mut prefixes: Vec<(Box<str>, u8)> = prefixes
            .iter()
            .map(|&(prefix, depth)| {
                (
                    Box::from(prefix.strip_suffix('/').unwrap_or(prefix)),
                    depth.max(1),
                )
            })
            .collect();
        prefixes.sort_by_key(|(prefix, _)| core::cmp::Reverse(prefix.split('/').count()));
        Self {
            default: default.max(1),
            prefixes,
        }
    }

    /// The root of a topic.
    pub fn root_of_topic<'t>(&self, topic: &'t str) -> &'t str {
        root(topic, self.depth(topic))
    }

    /// The root of all topics that a filter matches, `None` when they may have several: the filter is broad.
    pub fn root_of_filter<'f>(&self, filter: &'f str) -> Option<&'f str> {
        let Some(wildcard) = filter.find(['+', '#']) else {
            return Some(self.root_of_topic(filter));
        };
        // The levels before the first wildcard decide the depth, unless a deeper prefix may match too.
        let literal = filter[..wildcard].strip_suffix('/')?;
        let depth = self.depth(literal);
        let literal_levels = literal.split('/').count();
        let differs = |(prefix, other): &(Box<str>, u8)| {
            usize::from(*other) != depth
                && prefix.split('/').count() > literal_levels
                && may_match_below(filter, prefix)
        };
        if self.prefixes.iter().any(differs) {
            return None;
        }
        filter_root(filter, depth)
    }

    fn depth(&self, topic: &str) -> usize {
        let longest = self
            .prefixes
            .iter()
            .find(|(prefix, _)| is_at_or_below(topic, prefix));
        usize::from(longest.map_or(self.default, |&(_, depth)| depth))
    }
}

impl Default for RootDepths {
    /// Two levels for every topic.
    fn default() -> Self {
        Self::new(2, &[])
    }
}

fn is_at_or_below(topic: &str, prefix: &str) -> bool {
    topic
        .strip_prefix(prefix)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Whether a filter may match a topic at or below a prefix.
fn may_match_below(filter: &str, prefix: &str) -> bool {
    let mut wanted = filter.split('/');
    for level in prefix.split('/') {
        match wanted.next() {
            Some("#") => return true,
            Some("+") => {}
            Some(literal) if literal == level => {}
            _ => return false,
        }
    }
    true
}
