//! A hierarchical timer wheel with millisecond deadlines.
//!
//! Eight levels of 64 slots: level 0 holds what is due within the current 64 ms, level 1 what is due within the current
//! 4,096 ms, and so on to 8,900 years. A timer is armed and cancelled in O(1) and moves down at most once per level. It costs
//! 24 bytes for a `Wheel<u32>`: 20 in the node, 4 of generation.
//!
//! Time is an argument in milliseconds since an origin that the owner chooses. [`Wheel::expire`] does a bounded amount
//! of work; what it did not reach stays due.
//!
//! Keep-alive for millions of sessions is lazy: a packet only writes `last_seen` in the session; the session's one timer
//! fires at the earliest instant it can be late, and is then armed again for what is left.

use std::num::NonZeroU32;

use crate::slab::{Key, Slab};

const LEVEL_BITS: u32 = 6;
const SLOTS: usize = 1 << LEVEL_BITS;
const LEVELS: usize = 8;
const DEADLINE_MAX: u64 = (1 << (LEVEL_BITS * LEVELS as u32)) - 1;
const BUCKET_FLAG: u32 = 1 << 31;

/// Names an armed timer. A key of a timer that fired or was cancelled does nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TimerKey(Key);

/// Where a node hangs: behind another node, or at the head of a bucket. Never zero, which makes `Option<Node>` free.
#[derive(Clone, Copy, Debug)]
struct Before(NonZeroU32);

impl Before {
    const fn bucket(bucket: usize) -> Self {
        Self(NonZeroU32::new(bucket as u32 | BUCKET_FLAG).expect("the flag is set"))
    }

    fn node(slot: u32) -> Self {
        assert!(slot < BUCKET_FLAG - 1, "fewer than 2^31 timers");
        Self(NonZeroU32::MIN.saturating_add(slot))
    }

    const fn get(self) -> Result<usize, u32> {
        let raw = self.0.get();
        if raw & BUCKET_FLAG != 0 {
            Ok((raw & !BUCKET_FLAG) as usize)
        } else {
            Err(raw - 1)
        }
    }
}

/// Slot of the next node of a bucket, plus one; 0 = none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Next(u32);

impl Next {
    const NONE: Self = Self(0);

    const fn node(slot: u32) -> Self {
        Self(slot + 1)
    }

    const fn get(self) -> Option<u32> {
        self.0.checked_sub(1)
    }
}

#[derive(Clone, Copy, Debug)]
struct Node<T> {
    deadline_low: u32,
    deadline_high: u32,
    next: Next,
    before: Before,
    value: T,
}

const _: () = assert!(size_of::<Option<Node<u32>>>() == 20);

impl<T> Node<T> {
    const fn deadline(&self) -> u64 {
        (self.deadline_high as u64) << 32 | self.deadline_low as u64
    }
}

/// Timers that carry a small value (a slot, an id). See the module documentation.
#[derive(Debug)]
pub struct Wheel<T> {
    nodes: Slab<Node<T>>,
    heads: Box<[Next; SLOTS * LEVELS]>,
    occupied: [u64; LEVELS],
    /// Everything due before this instant has fired or moved down.
    elapsed_ms: u64,
}

impl<T: Copy> Wheel<T> {
    /// An empty wheel that starts at `now_ms`.
    #[must_use]
    pub fn new(now_ms: u64) -> Self {
        let heads = Box::new([Next::NONE; SLOTS * LEVELS]);
        Self {
            nodes: Slab::new(),
            heads,
            occupied: [0; LEVELS],
            elapsed_ms: now_ms.min(DEADLINE_MAX),
        }
    }

    /// Number of armed timers.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether no timer is armed.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Arms a timer. A deadline in the past fires with the next [`Wheel::expire`].
    pub fn arm(&mut self, deadline_ms: u64, value: T) -> TimerKey {
        let deadline = deadline_ms.clamp(self.elapsed_ms, DEADLINE_MAX);
        let bucket = self.bucket(deadline);
        let key = self.nodes.insert(Node {
            deadline_low: deadline as u32,
            deadline_high: (deadline >> 32) as u32,
            next: Next::NONE,
            before: Before::bucket(bucket),
            value,
        });
        self.link(key.slot, bucket);
        TimerKey(key)
    }

    /// Takes a timer out and returns its value; `None` when it has fired or was cancelled.
    pub fn cancel(&mut self, timer: TimerKey) -> Option<T> {
        self.nodes.get(timer.0)?;
        self.unlink(timer.0.slot);
        self.nodes.remove(timer.0).map(|node| node.value)
    }

    /// When [`Wheel::expire`] has work next: at or before the earliest deadline. `None` when nothing is armed.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        self.next_bucket().map(|(time, _)| time)
    }

    /// Calls `fire` for timers that are due at `now_ms`, in the order of their deadlines, and returns how many. Touches at
    /// most `work_max` timers (fired or moved down a level); [`Wheel::next_deadline`] tells whether something is left.
    pub fn expire(&mut self, now_ms: u64, work_max: usize, mut fire: impl FnMut(T)) -> usize {
        let now_ms = now_ms.min(DEADLINE_MAX);
        let mut fired = 0;
        let mut work = 0;
        while let Some((time, bucket)) = self.next_bucket().filter(|(time, _)| *time <= now_ms) {
            self.elapsed_ms = time;
            while let Some(slot) = self.heads[bucket].get() {
                if work == work_max {
                    return fired;
                }
                work += 1;
                self.unlink(slot);
                if bucket < SLOTS {
                    let key = self.nodes.key_at(slot).expect("a linked node exists");
                    let node = self.nodes.remove(key).expect("a linked node exists");
                    fired += 1;
                    fire(node.value);
                } else {
                    let bucket = self.bucket(self.node(slot).deadline());
                    self.link(slot, bucket);
                }
            }
        }
        self.elapsed_ms = self.elapsed_ms.max(now_ms);
        fired
    }

    /// The level is that of the highest group of bits in which the deadline differs from the present.
    fn bucket(&self, deadline: u64) -> usize {
        let differing = (deadline ^ self.elapsed_ms) | (SLOTS as u64 - 1);
        let level = (63 - differing.leading_zeros()) / LEVEL_BITS;
        let slot = (deadline >> (level * LEVEL_BITS)) as usize % SLOTS;
        level as usize * SLOTS + slot
    }

    /// The earliest bucket that is not empty, as (when, which). A higher level goes first at the same instant, since it
    /// may hold timers of that instant.
    fn next_bucket(&self) -> Option<(u64, usize)> {
        let mut earliest: Option<(u64, usize)> = None;
        for level in 0..LEVELS {
            let occupied = self.occupied[level];
            if occupied == 0 {
                continue;
            }
            let shift = level as u32 * LEVEL_BITS;
            let slot = u64::from(occupied.trailing_zeros());
            let lap = self.elapsed_ms >> (shift + LEVEL_BITS) << (shift + LEVEL_BITS);
            let time = (lap + (slot << shift)).max(self.elapsed_ms);
            if earliest.is_none_or(|(best, _)| time <= best) {
                earliest = Some((time, level * SLOTS + slot as usize));
            }
        }
        earliest
    }

    fn node(&self, slot: u32) -> &Node<T> {
        let key = self.nodes.key_at(slot).expect("a linked node exists");
        self.nodes.get(key).expect("a linked node exists")
    }

    fn node_mut(&mut self, slot: u32) -> &mut Node<T> {
        let key = self.nodes.key_at(slot).expect("a linked node exists");
        self.nodes.get_mut(key).expect("a linked node exists")
    }

    fn link(&mut self, slot: u32, bucket: usize) {
        let next = self.heads[bucket];
        if let Some(next) = next.get() {
            self.node_mut(next).before = Before::node(slot);
        }
        let node = self.node_mut(slot);
        node.next = next;
        node.before = Before::bucket(bucket);
        self.heads[bucket] = Next::node(slot);
        self.occupied[bucket / SLOTS] |= 1 << (bucket % SLOTS);
    }

    fn unlink(&mut self, slot: u32) {
        let (next, before) = {
            let node = self.node(slot);
            (node.next, node.before)
        };
        if let Some(next) = next.get() {
            self.node_mut(next).before = before;
        }
        match before.get() {
            Err(node) => self.node_mut(node).next = next,
            Ok(bucket) => {
                self.heads[bucket] = next;
                if next == Next::NONE {
                    self.occupied[bucket / SLOTS] &= !(1 << (bucket % SLOTS));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn timers_fire_in_order_and_not_early() {
        let mut wheel = Wheel::new(1_000);
        for deadline in [1_001u64, 90_000, 5_000, 1_000, 400_000_000, 4_096] {
            wheel.arm(deadline, deadline);
        }
        let mut fired = Vec::new();
        wheel.expire(999_999, usize::MAX, |deadline| fired.push(deadline));
        assert_eq!(fired, [1_000, 1_001, 4_096, 5_000, 90_000]);
        assert!(
            wheel
                .next_deadline()
                .is_some_and(|next| next <= 400_000_000)
        );
    }

    #[test]
    fn bounded_work_leaves_the_rest_due() {
        let mut wheel = Wheel::new(0);
        for number in 0..1_000u32 {
            wheel.arm(60_000, number);
        }
        let mut fired = 0;
        let mut calls = 0;
        while fired < 1_000 {
            fired += wheel.expire(60_000, 100, |_| ());
            calls += 1;
            assert!(calls < 100);
        }
        assert_eq!(wheel.next_deadline(), None);
        assert!(wheel.is_empty());
    }

    #[derive(Clone, Debug)]
    enum Step {
        Arm(u64),
        Cancel(prop::sample::Index),
        Expire(u64, usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        let span = prop_oneof![0u64..100, 0u64..10_000, 0u64..10_000_000];
        prop_oneof![
            4 => span.clone().prop_map(Step::Arm),
            1 => any::<prop::sample::Index>().prop_map(Step::Cancel),
            2 => (span, prop_oneof![Just(usize::MAX), 1usize..5]).prop_map(|(span, work)| Step::Expire(span, work)),
        ]
    }

    proptest! {
        #[test]
        fn wheel_behaves_like_a_sorted_map(start in 0u64..1 << 40, steps in proptest::collection::vec(step(), 1..300)) {
            let mut now = start;
            let mut wheel = Wheel::new(now);
            let mut model: BTreeMap<u32, u64> = BTreeMap::new();
            let mut keys = Vec::new();
            for (number, step) in steps.into_iter().enumerate() {
                let number = number as u32;
                match step {
                    Step::Arm(span) => {
                        keys.push((wheel.arm(now + span, number), number));
                        model.insert(number, now + span);
                    }
                    Step::Cancel(index) if !keys.is_empty() => {
                        let (key, number) = keys[index.index(keys.len())];
                        prop_assert_eq!(wheel.cancel(key), model.remove(&number).map(|_| number));
                    }
                    Step::Cancel(_) => {}
                    Step::Expire(span, work) => {
                        now += span;
                        let mut fired = Vec::new();
                        wheel.expire(now, work, |number| fired.push(number));
                        let mut last = 0;
                        for number in fired {
                            let deadline = model.remove(&number);
                            prop_assert!(deadline.is_some_and(|deadline| deadline <= now && deadline >= last));
                            last = deadline.unwrap_or(0);
                        }
                        if work == usize::MAX {
                            prop_assert!(model.values().all(|deadline| *deadline > now));
                        }
                    }
                }
                prop_assert_eq!(wheel.len(), model.len());
                let earliest = model.values().min().copied();
                prop_assert_eq!(wheel.next_deadline().is_some(), earliest.is_some());
                if let (Some(next), Some(earliest)) = (wheel.next_deadline(), earliest) {
                    prop_assert!(next <= earliest.max(now));
                }
            }
        }
    }
}
