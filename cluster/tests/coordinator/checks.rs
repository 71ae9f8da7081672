//! What must hold at every moment, judged from outside of the coordinators.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cluster::coordinator::Standing;
use cluster::coordinator::times::{
    ANSWER_WITHIN_MS, FENCE_AFTER_MS, READ_EVERY_MS, READ_SELDOM_MS, TICK_MS,
};
use cluster::view::View;

use crate::world::World;

/// What was seen of one process.
#[derive(Default)]
struct Seen {
    epoch: u64,
    view: Option<Arc<View>>,
    /// When it sent what each other node, and the store, answered last.
    answered_ms: BTreeMap<Option<usize>, u64>,
    /// Since when the stored view does not have it and it could know.
    outside_ms: Option<u64>,
    /// Since when another node, which it hears, has a later view.
    behind_ms: BTreeMap<usize, (u64, u64)>,
    /// Since when it serves and reaches the store.
    calm_ms: Option<u64>,
    /// Since when it and another hear each other.
    linked_ms: BTreeMap<usize, u64>,
}

#[derive(Default)]
pub(crate) struct Checks {
    seen: Vec<Seen>,
    hashes: BTreeMap<u64, BTreeSet<u64>>,
    /// The highest epoch that was ever stored.
    highest: u64,
    pub(crate) fences: u64,
}

/// A tick and a way over the bus.
const SLACK_MS: u64 = TICK_MS + 20;

impl Checks {
    pub(crate) fn new(count: usize) -> Self {
        Self {
            seen: (0..count).map(|_| Seen::default()).collect(),
            ..Self::default()
        }
    }

    pub(crate) fn started(&mut self, slot: usize) {
        self.seen[slot] = Seen::default();
    }

    pub(crate) fn fenced(&mut self, _slot: usize) {
        self.fences += 1;
    }

    pub(crate) fn installed(&mut self, slot: usize, view: &Arc<View>, rollbacks: u64) {
        let seen = &mut self.seen[slot];
        assert!(
            view.epoch > seen.epoch,
            "the epoch of slot {slot} went from {} to {}",
            seen.epoch,
            view.epoch
        );
        if let Some(before) = &seen.view {
            for member in &view.members {
                let stayed = before
                    .member(member.node.uid)
                    .filter(|was| was.node == member.node && was.joined == member.joined);
                assert!(
                    // Who has another place after a failover of the store comes back as another incarnation.
                    rollbacks > 0
                        || stayed
                            .is_none_or(|was| was.first_core == member.first_core
                                && was.cores == member.cores),
                    "a member's core numbers have changed: {before:?} {view:?}"
                );
            }
        }
        seen.epoch = view.epoch;
        seen.view = Some(view.clone());
        let hashes = self.hashes.entry(view.epoch).or_default();
        hashes.insert(view.hash());
        assert!(
            hashes.len() == 1 || rollbacks > 0,
            "two views have epoch {}",
            view.epoch
        );
    }

    /// A view is about to be stored by a node.
    pub(crate) fn committed(mut self, world: &World, slot: usize, view: &Arc<View>) -> Self {
        let Some(before) = world.store.view() else {
            self.highest = self.highest.max(view.epoch);
            return self;
        };
        assert!(
            view.epoch > before.epoch,
            "the store went from {} to {}",
            before.epoch,
            view.epoch
        );
        // What a store that has forgotten shows is not what the majority has.
        let latest = before.epoch == self.highest;
        self.highest = self.highest.max(view.epoch);
        // Those of the stored view who have been undisturbed for long, with each other and the store.
        let calm: Vec<usize> = before
            .members
            .iter()
            .map(|member| (member.node, world.slot_of(member.node.uid)))
            .filter(|&(node, other)| {
                let runs = world
                    .up(other)
                    .is_some_and(|process| process.joining.node == node);
                runs && self.seen[other]
                    .calm_ms
                    .is_some_and(|since_ms| world.now_ms >= since_ms + 12_000)
            })
            .map(|(_, other)| other)
            .collect();
        let linked = |one: usize, other: usize| {
            one == other
                || self.seen[one]
                    .linked_ms
                    .get(&other)
                    .is_some_and(|since_ms| world.now_ms >= since_ms + 12_000)
        };
        let connected = calm
            .iter()
            .all(|&one| calm.iter().all(|&other| linked(one, other)));
        let majority = calm.len() * 2 > before.members.len();
        let kept = before
            .members
            .iter()
            .filter(|member| view.member(member.node.uid).is_some());
        if latest && connected && majority && kept.count() * 2 < before.members.len() {
            for &member in calm.iter().filter(|&&member| member != slot) {
                let uid = world.slots[member].uid;
                assert!(
                    view.member(uid).is_some(),
                    "{}: slot {slot} left out slot {member} of a living majority {calm:?}: {before:?} {view:?}",
                    world.now_ms
                );
            }
        }
        self
    }

    pub(crate) fn after_tick(mut self, world: &World, slot: usize) -> Self {
        self.note_calm(world, slot);
        let Some(process) = world.running(slot) else {
            let seen = &mut self.seen[slot];
            seen.outside_ms = None;
            seen.behind_ms.clear();
            return self;
        };
        let serving = process.coordinator.standing() == Standing::Serving;
        self.no_longer_than_allowed_alone(world, slot, serving);
        self.no_longer_than_allowed_outside(world, slot, serving);
        self.no_longer_than_allowed_behind(world, slot, serving);
        self
    }

    /// Somebody has answered what this node had sent at that time; none: the store.
    pub(crate) fn answered(&mut self, slot: usize, other: Option<usize>, sent_ms: u64) {
        let latest = self.seen[slot].answered_ms.entry(other).or_default();
        *latest = sent_ms.max(*latest);
    }

    /// Neither majority nor store: fenced after three seconds.
    fn no_longer_than_allowed_alone(&self, world: &World, slot: usize, serving: bool) {
        let seen = &self.seen[slot];
        let Some(view) = &seen.view else { return };
        let mut answers: Vec<u64> = view
            .members
            .iter()
            .map(|member| world.slot_of(member.node.uid))
            .filter(|&other| other != slot)
            .map(|other| seen.answered_ms.get(&Some(other)).copied().unwrap_or(0))
            .collect();
        answers.sort_unstable_by(|one, other| other.cmp(one));
        let others_needed = view.members.len() / 2;
        let majority_ms = match others_needed {
            0 => world.now_ms,
            _ => answers.get(others_needed - 1).copied().unwrap_or(0),
        };
        let store_ms = seen.answered_ms.get(&None).copied().unwrap_or(0);
        let bound_ms = majority_ms.max(store_ms) + FENCE_AFTER_MS + SLACK_MS;
        assert!(
            !serving || world.now_ms <= bound_ms,
            "{}: slot {slot} serves, cut off since {majority_ms} and {store_ms}",
            world.now_ms
        );
    }

    /// The stored view is without it and it can read that: fenced when it has read.
    fn no_longer_than_allowed_outside(&mut self, world: &World, slot: usize, serving: bool) {
        let seen = &mut self.seen[slot];
        let node = world.up(slot).map(|process| process.joining.node);
        let calm = world.reaches_store(slot) && world.store.errors == 0;
        let newer = world.store.view().is_some_and(|view| {
            view.epoch > seen.epoch && node.is_some_and(|node| !view.contains(node))
        });
        if !calm || !newer {
            seen.outside_ms = None;
            return;
        }
        let since_ms = *seen.outside_ms.get_or_insert(world.now_ms);
        let bound_ms = READ_SELDOM_MS + READ_EVERY_MS + ANSWER_WITHIN_MS + SLACK_MS;
        assert!(
            !serving || world.now_ms <= since_ms + bound_ms,
            "{}: slot {slot} serves, outside since {since_ms}",
            world.now_ms
        );
    }

    /// A node that it hears has a later view: it has that one too, soon, or is fenced.
    fn no_longer_than_allowed_behind(&mut self, world: &World, slot: usize, serving: bool) {
        for other in 0..world.slots.len() {
            let epoch = self.seen[other].epoch;
            let seen = &mut self.seen[slot];
            let later = world.both_ways(slot, other)
                && world.up(other).is_some_and(|process| {
                    process
                        .coordinator
                        .view()
                        .is_some_and(|view| view.epoch > seen.epoch)
                });
            if !later || other == slot {
                seen.behind_ms.remove(&other);
                continue;
            }
            let (mine, since_ms) = *seen
                .behind_ms
                .entry(other)
                .or_insert((seen.epoch, world.now_ms));
            if mine != seen.epoch {
                seen.behind_ms.insert(other, (seen.epoch, world.now_ms));
            } else {
                let bound_ms = 2_500;
                assert!(
                    !serving || world.now_ms <= since_ms + bound_ms,
                    "{}: slot {slot} serves at epoch {mine}, slot {other} has {epoch} since {since_ms}",
                    world.now_ms
                );
            }
        }
    }

    fn note_calm(&mut self, world: &World, slot: usize) {
        let calm = world.running(slot).is_some()
            && world.reaches_store(slot)
            && world.store.errors == 0
            && world
                .up(slot)
                .is_some_and(|process| process.coordinator.standing() == Standing::Serving);
        let seen = &mut self.seen[slot];
        for other in 0..world.slots.len() {
            if world.both_ways(slot, other) {
                seen.linked_ms.entry(other).or_insert(world.now_ms);
            } else {
                seen.linked_ms.remove(&other);
            }
        }
        match (calm, seen.calm_ms) {
            (true, None) => seen.calm_ms = Some(world.now_ms),
            (false, _) => seen.calm_ms = None,
            (true, Some(_)) => {}
        }
    }
}

impl World {
    /// All living nodes have one view, which is stored, has exactly them, and lets them serve.
    pub(crate) fn assert_converged(&self) {
        let living = self.living();
        let stored = self.store.view();
        for process in (0..self.slots.len()).filter_map(|slot| self.up(slot)) {
            let (node, view) = (process.joining.node, process.coordinator.view());
            assert_eq!(process.coordinator.node(), node);
            assert_eq!(view, stored, "{node} has another view than the store");
            let members: Vec<_> = view
                .expect("a view")
                .members
                .iter()
                .map(|member| member.node)
                .collect();
            assert_eq!(members, living, "{node} has other members than live");
            assert_eq!(process.coordinator.standing(), Standing::Serving, "{node}");
        }
    }
}
