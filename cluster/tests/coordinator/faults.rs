//! What goes wrong, drawn from the seed of a world; and how everything heals.

use cluster::coordinator::Input;
use cluster::view::NodeId;

use crate::world::World;

/// Which faults a run has, in percent for each quarter of a second.
pub(crate) struct Faults {
    crash: u64,
    restart: u64,
    split: u64,
    cut: u64,
    mend: u64,
    pause: u64,
    lie: u64,
    store: u64,
    rollback: u64,
    leave: u64,
}

impl Faults {
    /// Each run has a mixture of its own, so that some are calm but for one kind.
    pub(crate) fn new(world: &mut World) -> Self {
        let mut kind = |most: u64| {
            let random = &mut world.random;
            if random.chance(50) {
                0
            } else {
                random.between(1, most)
            }
        };
        let faults = Self {
            crash: kind(3),
            split: kind(3),
            cut: kind(5),
            pause: kind(3),
            lie: kind(4),
            store: kind(4),
            rollback: kind(2),
            leave: kind(2),
            restart: 3,
            mend: 4,
        };
        world.lag_ms = world.random.between(1_000, 6_000);
        faults
    }

    pub(crate) fn step(&self, world: &mut World) {
        let count = world.slots.len() as u64;
        let one = world.random.below(count) as usize;
        let other = world.random.below(count) as usize;
        if world.random.chance(self.crash) {
            world.crash(one);
        }
        if world.random.chance(self.restart) && world.up(other).is_none() {
            world.crash(other);
            world.start(other);
        }
        if world.random.chance(self.split) {
            split(world);
        }
        if world.random.chance(self.cut) {
            match world.random.below(4) {
                0 => world.cut[one][other] = true,
                1 => world.bus_cut[one][other] = true,
                2 => world.slots[one].store_cut = true,
                _ => {
                    world.cut[one][other] = true;
                    world.cut[other][one] = true;
                }
            }
        }
        if world.random.chance(self.mend) {
            mend(world);
        }
        if world.random.chance(self.pause) {
            let until_ms = world.now_ms + world.random.between(200, 20_000);
            if let Some(process) = &mut world.slots[one].process {
                process.paused_until_ms = until_ms;
            }
        }
        if world.random.chance(self.lie) && one != other {
            lie(world, one, other);
        }
        if world.random.chance(self.store) {
            world.store.down = world.random.chance(30);
            world.store.errors = world.random.below(60);
        }
        if world.random.chance(self.rollback) {
            let steps = world.random.between(1, 3) as usize;
            world.store.forget(steps);
        }
        if world.random.chance(self.leave) {
            world.tell(one, Input::Leave);
            if world.random.chance(60) {
                world.tell(one, Input::Drained);
            }
            let weight = world.random.between(1, 9) as u32;
            let uid = world.slots[other].uid;
            world.tell(one, Input::Weight { uid, weight });
        }
    }

    /// No faults from now on; who has left or crashed comes back or not.
    pub(crate) fn heal(world: &mut World) {
        mend(world);
        world.store.down = false;
        world.store.errors = 0;
        for slot in 0..world.slots.len() {
            if world.up(slot).is_none() && world.random.chance(50) {
                world.crash(slot);
                world.start(slot);
            }
            if let Some(process) = &mut world.slots[slot].process {
                process.paused_until_ms = 0;
            }
            // Who was asked to leave does so in the end.
            if world.random.chance(10) {
                world.tell(slot, Input::Leave);
            }
            if world.up(slot).is_some_and(|process| process.leaving) {
                world.tell(slot, Input::Drained);
            }
        }
    }
}

fn mend(world: &mut World) {
    for row in world.cut.iter_mut().chain(&mut world.bus_cut) {
        row.fill(false);
    }
    for slot in &mut world.slots {
        slot.store_cut = false;
    }
}

/// Cuts the cluster in two; sometimes one side loses the store as well.
fn split(world: &mut World) {
    let sides: Vec<bool> = (0..world.slots.len())
        .map(|_| world.random.chance(50))
        .collect();
    let (store_lost, side_lost) = (world.random.chance(40), world.random.chance(50));
    for one in 0..sides.len() {
        for other in 0..sides.len() {
            world.cut[one][other] = sides[one] != sides[other];
        }
        world.slots[one].store_cut = store_lost && sides[one] == side_lost;
    }
}

/// A node hears that a living one is dead; sometimes that one hears it too, and takes another incarnation.
fn lie(world: &mut World, one: usize, other: usize) {
    if world.running(one).is_none() || world.running(other).is_none() {
        return;
    }
    if world.random.chance(50) {
        let process = world.slots[other].process.as_mut().expect("it runs");
        let node = process.coordinator.node();
        let node = NodeId {
            uid: node.uid,
            incarnation: node.incarnation + 1,
        };
        process.joining.node = node;
        world.tell(other, Input::Renewed(node));
    }
    world.believe(one, other, None);
}
