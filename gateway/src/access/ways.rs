//! A table of fixed size for what may be forgotten: sets of four slots, chosen by a hash of the key, so that a lookup reads one or two cache
//! lines and an entry is replaced only by one of the same set.

use std::hash::{BuildHasher, Hash};
use std::ops::Range;

use foldhash::SharedSeed;
use foldhash::quality::SeedableRandomState;

/// Slots of a set.
const WAYS: usize = 4;

/// A map from hashes to values that never grows. Two keys with the same 64 bits of hash share a value, which the seed keeps from being
/// arranged.
pub(super) struct Ways<T> {
    slots: Box<[Slot<T>]>,
    hasher: SeedableRandomState,
}

#[derive(Clone, Default)]
struct Slot<T> {
    /// 0 where there is nothing.
    hash: u64,
    value: T,
}

/// What became of the slot that a value is in.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Replaced<T> {
    /// The value was there.
    Nothing,
    /// The slot was free.
    Free,
    /// Another key's value was there, and is gone.
    Other(T),
}

impl<T> std::fmt::Debug for Ways<T> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Ways({} slots)", self.slots.len())
    }
}

impl<T: Clone + Default> Ways<T> {
    /// At least so many slots, rounded up to a power of two.
    pub(super) fn new(slots_min: usize, seed: u64) -> Self {
        let slots = slots_min.max(WAYS).next_power_of_two();
        Self {
            slots: vec![Slot::default(); slots].into(),
            hasher: SeedableRandomState::with_seed(seed, SharedSeed::global_fixed()),
        }
    }

    /// The value of a key, where there is one.
    pub(super) fn get(&self, key: &impl Hash) -> Option<&T> {
        let hash = self.hasher.hash_one(key).max(1);
        let mut set = self.slots[self.set(hash)].iter();
        let slot = set.find(|slot| slot.hash == hash);
        slot.map(|slot| &slot.value)
    }

    /// The places that what has this hash can be in.
    fn set(&self, hash: u64) -> Range<usize> {
        let sets = self.slots.len() / WAYS;
        let start = (hash as usize & (sets - 1)) * WAYS;
        start..start + WAYS
    }

    /// The value of a key, made from its default where there is none. When all slots of its set are taken, the one whose value is
    /// worth least is replaced.
    pub(super) fn entry<W: Ord>(
        &mut self,
        key: &impl Hash,
        worth: impl Fn(&T) -> W,
    ) -> (&mut T, Replaced<T>) {
        let hash = self.hasher.hash_one(key).max(1);
        let places = self.set(hash);
        let set = &mut self.slots[places];
        if let Some(at) = set.iter().position(|slot| slot.hash == hash) {
            return (&mut set[at].value, Replaced::Nothing);
        }
        let (mut at, mut least) = (0, None);
        for (index, slot) in set.iter().enumerate() {
            // `None` sorts before every worth.
            let worth = (slot.hash != 0).then(|| worth(&slot.value));
            if index == 0 || worth < least {
                (at, least) = (index, worth);
            }
        }
        let slot = &mut set[at];
        let free = slot.hash == 0;
        slot.hash = hash;
        let old = std::mem::take(&mut slot.value);
        let replaced = if free {
            Replaced::Free
        } else {
            Replaced::Other(old)
        };
        (&mut slot.value, replaced)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_stays_until_its_set_is_full_and_it_is_worth_least() {
        let mut table: Ways<u32> = Ways::new(4, 1);
        for value in 10..14_u32 {
            let (slot, replaced) = table.entry(&value, |value| *value);
            assert_eq!(replaced, Replaced::Free);
            *slot = value;
        }
        let (slot, replaced) = table.entry(&99, |value| *value);
        assert_eq!((*slot, replaced), (0, Replaced::Other(10)));
        *slot = 99;
        assert_eq!((table.get(&10), table.get(&99)), (None, Some(&99)));
        for value in 11..14_u32 {
            assert_eq!(table.get(&value), Some(&value));
            assert_eq!(
                table.entry(&value, |value| *value),
                (&mut { value }, Replaced::Nothing)
            );
        }
    }

    #[test]
    fn a_table_has_the_size_that_was_asked_for() {
        assert_eq!(Ways::<u64>::new(1_000, 1).slots.len(), 1_024);
        assert_eq!(Ways::<u64>::new(0, 1).slots.len(), 4);
        assert_eq!(size_of::<Slot<super::super::bucket::Bucket>>(), 24);
    }
}
