//! Which roots get the most messages: a bounded count (Space-Saving, Metwally et al. 2005), so that a root that is too hot
//! for its core shows in a metric that names it.

use foldhash::fast::FixedState;
use hashbrown::HashMap;

/// Roots that are watched at once.
const WATCHED: usize = 64;

/// One message in so many is counted, at places that no regular traffic can dodge.
const SAMPLE: u64 = 16;

/// Roots that are told.
const TOLD: usize = 10;

/// Estimated message counts of the hottest roots.
#[derive(Debug)]
pub struct HotRoots {
    counts: HashMap<Box<str>, u64, FixedState>,
    /// State of a linear congruential generator (Knuth, MMIX).
    random: u64,
}

impl HotRoots {
    /// Nothing counted.
    pub fn new(seed: u64) -> Self {
        Self {
            counts: HashMap::with_hasher(FixedState::with_seed(seed)),
            random: seed,
        }
    }

    /// Notes a message for a root.
    pub fn count(&mut self, root: &str) {
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        if !(self.random >> 32).is_multiple_of(SAMPLE) {
            return;
        }
        if let Some(count) = self.counts.get_mut(root) {
            *count += SAMPLE;
        } else if self.counts.len() < WATCHED {
            self.counts.insert(root.into(), SAMPLE);
        } else {
            self.replace_coldest(root);
        }
    }

    /// The hottest roots, hottest first.
    pub fn hottest(&self) -> Vec<(String, u64)> {
        let mut roots: Vec<(String, u64)> = self
            .counts
            .iter()
            .map(|(root, count)| (root.to_string(), *count))
            .collect();
        roots.sort_by(|left, right| right.1.cmp(&left.1).then_with(|| left.0.cmp(&right.0)));
        roots.truncate(TOLD);
        roots
    }

    /// A new root takes the place and the count of the coldest one, which bounds the error of each count by the coldest.
    fn replace_coldest(&mut self, root: &str) {
        let coldest = self
            .counts
            .iter()
            .min_by(|left, right| left.1.cmp(right.1).then_with(|| left.0.cmp(right.0)));
        let Some((coldest, count)) = coldest.map(|(root, count)| (root.clone(), *count)) else {
            return;
        };
        self.counts.remove(&coldest);
        self.counts.insert(root.into(), count + SAMPLE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hot_root_is_found_among_many_cold_ones() {
        let mut hot = HotRoots::new(7);
        for index in 0..100_000 {
            hot.count(&format!("cold/{}", index % 5_000));
            if index % 3 == 0 {
                hot.count("g/hot");
            }
        }
        assert_eq!(hot.hottest()[0].0, "g/hot");
        assert!(hot.counts.len() <= WATCHED);
    }
}
