//! Topic filters by level.

use core::fmt;
use std::collections::BTreeMap;

/// With more children than this a node keeps them in a B-tree, where an insertion moves less.
const FEW_CHILDREN_MAX: usize = 32;

/// A map from topic filters to values, asked by topic name.
///
/// Each level of a filter is a node; a node with no value and no child is freed. Filters are taken as they are: the
/// caller has checked them with [`crate::topic::TopicFilter`] (for a shared subscription the part behind the share
/// name).
pub struct FilterTrie<T> {
    root: Node<T>,
    filters: usize,
}

struct Node<T> {
    /// The value of the filter that ends here.
    value: Option<T>,
    /// The value of the filter that ends in `#` below here.
    value_below: Option<T>,
    /// The `+` below here.
    any: Option<Box<Self>>,
    children: Children<T>,
}

enum Children<T> {
    /// Sorted by level.
    Few(Vec<(Box<str>, Box<Node<T>>)>),
    Many(BTreeMap<Box<str>, Box<Node<T>>>),
}

impl<T> Default for FilterTrie<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: fmt::Debug> fmt::Debug for FilterTrie<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut map = formatter.debug_map();
        self.for_each(|filter, value| {
            map.entry(&filter, value);
        });
        map.finish()
    }
}

impl<T> FilterTrie<T> {
    /// An empty trie, which holds no memory.
    pub const fn new() -> Self {
        Self {
            root: Node::new(),
            filters: 0,
        }
    }

    /// How many filters there are.
    pub const fn len(&self) -> usize {
        self.filters
    }

    /// True when there is no filter.
    pub const fn is_empty(&self) -> bool {
        self.filters == 0
    }

    /// Sets the value of a filter and returns the one it had.
    pub fn insert(&mut self, filter: &str, value: T) -> Option<T> {
        let old = self.slot_for_insert(filter).replace(value);
        self.filters += usize::from(old.is_none());
        old
    }

    /// The value of a filter, made first when there is none.
    pub fn get_or_insert_with(&mut self, filter: &str, make: impl FnOnce() -> T) -> &mut T {
        if self.get(filter).is_none() {
            self.insert(filter, make());
        }
        self.get_mut(filter).expect("the filter was inserted")
    }

    /// The value of exactly this filter.
    pub fn get(&self, filter: &str) -> Option<&T> {
        let mut node = &self.root;
        for step in Step::of(filter) {
            match step {
                Step::Below => return node.value_below.as_ref(),
                Step::Any => node = node.any.as_deref()?,
                Step::Level(level) => node = node.children.get(level)?,
            }
        }
        node.value.as_ref()
    }

    /// The value of exactly this filter.
    pub fn get_mut(&mut self, filter: &str) -> Option<&mut T> {
        let mut node = &mut self.root;
        for step in Step::of(filter) {
            match step {
                Step::Below => return node.value_below.as_mut(),
                Step::Any => node = node.any.as_deref_mut()?,
                Step::Level(level) => node = node.children.get_mut(level)?,
            }
        }
        node.value.as_mut()
    }

    /// Takes a filter out and frees the nodes that only it needed.
    pub fn remove(&mut self, filter: &str) -> Option<T> {
        let value = self.slot(filter)?.take()?;
        self.filters -= 1;
        self.prune(filter);
        Some(value)
    }

    /// Calls `visit` with the value of each filter that matches a topic name, once each, in no particular order.
    pub fn matches<'t>(&'t self, topic: &str, mut visit: impl FnMut(&'t T)) {
        // A wildcard in the first level does not match a topic that starts with `$` (MQTT-4.7.2-1).
        let hidden = topic.starts_with('$');
        // The branches still to walk: a node, and the levels of the topic below it (`None` when there are no more).
        let mut branches: Vec<(&Node<T>, Option<&str>)> = Vec::new();
        let mut branch = Some((&self.root, Some(topic)));
        while let Some((node, rest)) = branch.take().or_else(|| branches.pop()) {
            let wildcards = !(hidden && core::ptr::eq(node, &self.root));
            if wildcards && let Some(value) = &node.value_below {
                visit(value);
            }
            let Some(rest) = rest else {
                if let Some(value) = &node.value {
                    visit(value);
                }
                continue;
            };
            let (level, rest) = match rest.split_once('/') {
                Some((level, rest)) => (level, Some(rest)),
                None => (rest, None),
            };
            branch = node.children.get(level).map(|child| (child, rest));
            if wildcards && let Some(child) = node.any.as_deref() {
                // One branch is walked on at once, so that a topic with a single way through needs no memory.
                let other = branch.replace((child, rest));
                branches.extend(other);
            }
        }
    }

    /// Calls `visit` with every filter and its value, in no particular order.
    pub fn for_each<'t>(&'t self, mut visit: impl FnMut(&str, &'t T)) {
        let mut branches = vec![(&self.root, String::new())];
        while let Some((node, path)) = branches.pop() {
            let below = |level: &str| {
                if core::ptr::eq(node, &self.root) {
                    level.into()
                } else {
                    format!("{path}/{level}")
                }
            };
            if let Some(value) = &node.value {
                visit(&path, value);
            }
            if let Some(value) = &node.value_below {
                visit(&below("#"), value);
            }
            branches.extend(node.any.as_deref().map(|child| (child, below("+"))));
            node.children
                .for_each(|level, child| branches.push((child, below(level))));
        }
    }

    /// The place of a filter's value, made on the way.
    fn slot_for_insert(&mut self, filter: &str) -> &mut Option<T> {
        let mut node = &mut self.root;
        for step in Step::of(filter) {
            node = match step {
                Step::Below => return &mut node.value_below,
                Step::Any => node.any.get_or_insert_with(|| Box::new(Node::new())),
                Step::Level(level) => node.children.get_or_insert(level),
            };
        }
        &mut node.value
    }

    /// The place of a filter's value, `None` when there is no node for it.
    fn slot(&mut self, filter: &str) -> Option<&mut Option<T>> {
        let mut node = &mut self.root;
        for step in Step::of(filter) {
            node = match step {
                Step::Below => return Some(&mut node.value_below),
                Step::Any => node.any.as_deref_mut()?,
                Step::Level(level) => node.children.get_mut(level)?,
            };
        }
        Some(&mut node.value)
    }

    /// Frees the nodes at the end of a filter's path that hold nothing any more.
    fn prune(&mut self, filter: &str) {
        // First find the lowest node that something else needs, then cut off what hangs below it on the path.
        let mut node = &self.root;
        let (mut depth, mut cut_at, mut is_empty) = (0, 0, true);
        for step in Step::of(filter) {
            if node.uses() > 1 {
                cut_at = depth;
            }
            let next = match step {
                Step::Below => break,
                Step::Any => node.any.as_deref(),
                Step::Level(level) => node.children.get(level),
            };
            let Some(next) = next else { return };
            node = next;
            depth += 1;
            is_empty = node.uses() == 0;
        }
        if depth == 0 || !is_empty {
            return;
        }
        let mut node = &mut self.root;
        for (index, step) in Step::of(filter).enumerate() {
            if index == cut_at {
                match step {
                    Step::Below => {}
                    Step::Any => node.any = None,
                    Step::Level(level) => node.children.remove(level),
                }
                return;
            }
            let next = match step {
                Step::Below => None,
                Step::Any => node.any.as_deref_mut(),
                Step::Level(level) => node.children.get_mut(level),
            };
            let Some(next) = next else { return };
            node = next;
        }
    }
}

impl<T> Node<T> {
    const fn new() -> Self {
        Self {
            value: None,
            value_below: None,
            any: None,
            children: Children::Few(Vec::new()),
        }
    }

    /// How many things keep this node: values and children.
    fn uses(&self) -> usize {
        usize::from(self.value.is_some())
            + usize::from(self.value_below.is_some())
            + usize::from(self.any.is_some())
            + self.children.len()
    }
}

impl<T> Drop for Node<T> {
    /// Takes the tree apart without recursion: a filter may have tens of thousands of levels.
    fn drop(&mut self) {
        let mut nodes = Vec::new();
        self.take_children(&mut nodes);
        while let Some(mut node) = nodes.pop() {
            node.take_children(&mut nodes);
        }
    }
}

impl<T> Node<T> {
    fn take_children(&mut self, nodes: &mut Vec<Box<Self>>) {
        nodes.extend(self.any.take());
        match core::mem::replace(&mut self.children, Children::Few(Vec::new())) {
            Children::Few(few) => nodes.extend(few.into_iter().map(|(_, node)| node)),
            Children::Many(many) => nodes.extend(many.into_values()),
        }
    }
}

impl<T> Children<T> {
    fn len(&self) -> usize {
        match self {
            Self::Few(few) => few.len(),
            Self::Many(many) => many.len(),
        }
    }

    fn get(&self, level: &str) -> Option<&Node<T>> {
        match self {
            Self::Few(few) => find(few, level).ok().map(|index| &*few[index].1),
            Self::Many(many) => many.get(level).map(|node| &**node),
        }
    }

    fn get_mut(&mut self, level: &str) -> Option<&mut Node<T>> {
        match self {
            Self::Few(few) => find(few, level).ok().map(|index| &mut *few[index].1),
            Self::Many(many) => many.get_mut(level).map(|node| &mut **node),
        }
    }

    fn get_or_insert(&mut self, level: &str) -> &mut Node<T> {
        if let Self::Few(few) = self
            && few.len() >= FEW_CHILDREN_MAX
            && find(few, level).is_err()
        {
            *self = Self::Many(core::mem::take(few).into_iter().collect());
        }
        match self {
            Self::Few(few) => {
                let index = find(few, level).unwrap_or_else(|index| {
                    if few.len() < 4 {
                        few.reserve_exact(1); // Most nodes have one child or two.
                    }
                    few.insert(index, (level.into(), Box::new(Node::new())));
                    index
                });
                &mut few[index].1
            }
            Self::Many(many) => many
                .entry(level.into())
                .or_insert_with(|| Box::new(Node::new())),
        }
    }

    fn remove(&mut self, level: &str) {
        match self {
            Self::Few(few) => {
                if let Ok(index) = find(few, level) {
                    few.remove(index);
                    if few.capacity() > 2 * few.len() + 2 {
                        few.shrink_to_fit();
                    }
                }
            }
            Self::Many(many) => {
                many.remove(level);
                // Well below the bound, so that a node at the bound does not change its form at each step.
                if many.len() <= FEW_CHILDREN_MAX / 2 {
                    *self = Self::Few(core::mem::take(many).into_iter().collect());
                }
            }
        }
    }

    fn for_each<'t>(&'t self, mut visit: impl FnMut(&'t str, &'t Node<T>)) {
        match self {
            Self::Few(few) => few.iter().for_each(|(level, node)| visit(level, node)),
            Self::Many(many) => many.iter().for_each(|(level, node)| visit(level, node)),
        }
    }
}

fn find<T>(few: &[(Box<str>, Box<Node<T>>)], level: &str) -> Result<usize, usize> {
    few.binary_search_by(|(other, _)| (**other).cmp(level))
}

/// One level of a filter.
enum Step<'f> {
    Level(&'f str),
    /// `+`
    Any,
    /// `#`
    Below,
}

impl<'f> Step<'f> {
    fn of(filter: &'f str) -> impl Iterator<Item = Self> {
        filter.split('/').map(|level| match level {
            "+" => Self::Any,
            "#" => Self::Below,
            level => Self::Level(level),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes<T>(trie: &FilterTrie<T>) -> usize {
        let (mut count, mut nodes) = (0, vec![&trie.root]);
        while let Some(node) = nodes.pop() {
            count += 1;
            nodes.extend(node.any.as_deref());
            node.children.for_each(|_, child| nodes.push(child));
        }
        count
    }

    #[test]
    fn nodes_are_freed_as_soon_as_no_filter_needs_them() {
        let mut trie = FilterTrie::new();
        let mut add_and_count = |filter: &str| {
            trie.insert(filter, ());
            nodes(&trie)
        };
        assert_eq!(
            ["a/b/c/d", "a/b/+/d", "a/#", "a/b", "#"].map(&mut add_and_count),
            [5, 7, 7, 7, 7]
        );
        let mut remove_and_count = |filter: &str| {
            assert!(trie.remove(filter).is_some());
            nodes(&trie)
        };
        assert_eq!(
            ["a/b/c/d", "a/b", "a/b/+/d", "#", "a/#"].map(&mut remove_and_count),
            [5, 5, 2, 2, 1]
        );
    }

    #[test]
    fn children_change_their_form_with_their_number() {
        let mut trie = FilterTrie::new();
        for number in 0..=FEW_CHILDREN_MAX {
            assert!(matches!(trie.root.children, Children::Few(_)));
            trie.insert(&number.to_string(), number);
        }
        assert!(matches!(trie.root.children, Children::Many(_)));
        for number in 0..=FEW_CHILDREN_MAX / 2 {
            assert!(matches!(trie.root.children, Children::Many(_)));
            trie.remove(&number.to_string());
        }
        assert!(matches!(trie.root.children, Children::Few(_)));
        for number in 0..=FEW_CHILDREN_MAX {
            assert_eq!(
                trie.get(&number.to_string()).is_some(),
                number > FEW_CHILDREN_MAX / 2
            );
        }
    }
}
