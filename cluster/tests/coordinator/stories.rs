//! What an operator would see in single cases.

use cluster::coordinator::{Input, Refusal, Standing};
use cluster::view::Role;

use crate::world::World;

fn steady(seed: u64, count: usize) -> World {
    let mut world = World::of(seed, count);
    world.run_until(15_000);
    world.assert_converged();
    world
}

fn standing(world: &World, slot: usize) -> Standing {
    world.up(slot).expect("it is up").coordinator.standing()
}

#[test]
fn nodes_that_start_together_become_one_cluster_in_few_views() {
    for (seed, count) in [(1, 1), (2, 2), (3, 3), (4, 7), (5, 30)] {
        let world = steady(seed, count);
        let views = world.store.states.len();
        assert!(views <= 4, "{count} nodes took {views} views");
    }
}

#[test]
fn a_dead_node_is_out_of_the_view_a_second_after_gossip_saw_it() {
    for victim in 0..3 {
        for seed in 0..20 {
            let mut world = steady(seed, 3);
            world.crash(victim);
            let crashed_ms = world.now_ms;
            while world.store.view().expect("a view").members.len() == 3 {
                world.run_until(world.now_ms + 50);
                assert!(
                    world.now_ms <= crashed_ms + world.lag_ms + 1_000,
                    "seed {seed}, slot {victim}"
                );
            }
            world.run_until(world.now_ms + 1_000);
            world.assert_converged();
        }
    }
}

#[test]
fn a_member_that_answers_is_not_taken_out_because_gossip_calls_it_dead() {
    for slot in 1..3 {
        let mut world = steady(30 + slot as u64, 3);
        let before = world.store.view().expect("a view").epoch;
        for other in (0..3).filter(|other| *other != slot) {
            world.believe(other, slot, None);
        }
        world.run_until(world.now_ms + 20_000);
        let view = world.store.view().expect("a view");
        assert_eq!((view.epoch, view.members.len()), (before, 3), "slot {slot}");
    }
}

#[test]
fn the_survivor_of_two_takes_over_whichever_it_is() {
    for victim in 0..2 {
        let mut world = steady(7, 2);
        world.crash(victim);
        world.run_until(world.now_ms + 12_000);
        world.assert_converged();
    }
}

#[test]
fn a_restarted_node_comes_back_in_one_step_with_its_partitions() {
    let mut world = steady(8, 3);
    let before = world.store.view().expect("a view").epoch;
    world.crash(1);
    world.start(1);
    world.run_until(world.now_ms + 6_000);
    world.assert_converged();
    assert_eq!(world.store.view().expect("a view").epoch, before + 1);
}

#[test]
fn a_whole_cluster_that_restarts_is_back_soon() {
    let mut world = steady(9, 5);
    for slot in 0..5 {
        world.crash(slot);
        world.start(slot);
    }
    world.run_until(world.now_ms + 8_000);
    world.assert_converged();
}

#[test]
fn other_nodes_take_over_a_store_whose_members_never_come_back() {
    let mut world = steady(10, 6);
    for slot in 0..6 {
        world.crash(slot);
    }
    let view = world.store.view().expect("a view").clone();
    world.run_until(world.now_ms + 10_000);
    // Two of six: a minority, of a view that nobody refreshes.
    world.start(2);
    world.start(4);
    world.run_until(world.now_ms + 20_000);
    world.assert_converged();
    assert!(world.store.view().expect("a view").epoch > view.epoch);
}

#[test]
fn a_minority_that_reaches_the_store_leaves_a_living_majority_alone() {
    for seed in 0..40 {
        let mut world = steady(seed, 5);
        let cut: Vec<usize> = if seed % 2 == 0 {
            vec![0, 1]
        } else {
            vec![3, 4]
        };
        for one in 0..5 {
            for other in 0..5 {
                world.cut[one][other] = cut.contains(&one) != cut.contains(&other);
            }
        }
        for _ in 0..300 {
            world.run_until(world.now_ms + 200);
            let stored = world.store.view().expect("a view");
            for slot in (0..5).filter(|slot| !cut.contains(slot)) {
                assert!(
                    stored.member(world.slots[slot].uid).is_some(),
                    "seed {seed}"
                );
                assert_eq!(standing(&world, slot), Standing::Serving, "seed {seed}");
            }
        }
        for &slot in &cut {
            assert!(
                matches!(standing(&world, slot), Standing::Fenced(_)),
                "seed {seed}"
            );
            assert!(world.up(slot).expect("it is up").elsewhere, "seed {seed}");
        }
        for row in &mut world.cut {
            row.fill(false);
        }
        world.run_until(world.now_ms + 8_000);
        world.assert_converged();
    }
}

#[test]
fn a_node_that_was_stopped_for_long_is_fenced_before_it_does_anything() {
    let mut world = steady(11, 3);
    let before = world.up(1).expect("it is up").joining.node;
    world.slots[1]
        .process
        .as_mut()
        .expect("it is up")
        .paused_until_ms = world.now_ms + 30_000;
    world.run_until(world.now_ms + 29_000);
    assert_eq!(world.store.view().expect("a view").members.len(), 2);
    let fences = world.checks.fences;
    world.run_until(world.now_ms + 1_200);
    assert!(world.checks.fences > fences);
    world.run_until(world.now_ms + 8_000);
    world.assert_converged();
    assert!(world.up(1).expect("it is up").joining.node.incarnation > before.incarnation);
}

#[test]
fn a_store_that_is_down_fences_nobody_who_has_the_majority() {
    let mut world = steady(12, 3);
    world.store.down = true;
    let fences = world.checks.fences;
    world.run_until(world.now_ms + 60_000);
    assert_eq!(world.checks.fences, fences);
    // Nobody can be taken out meanwhile; afterwards everything goes on.
    world.crash(0);
    world.run_until(world.now_ms + 20_000);
    assert_eq!(world.store.view().expect("a view").members.len(), 3);
    world.store.down = false;
    world.run_until(world.now_ms + 5_000);
    world.assert_converged();
}

#[test]
fn a_store_that_forgets_gets_the_view_again_under_a_higher_epoch() {
    for steps in [1, 100] {
        let mut world = steady(13, 3);
        world.tell(0, Input::Weight { uid: 11, weight: 3 });
        world.run_until(world.now_ms + 1_000);
        let before = world.store.view().expect("a view").clone();
        world.store.forget(steps);
        let fences = world.checks.fences;
        world.run_until(world.now_ms + 4_000);
        world.assert_converged();
        let after = world.store.view().expect("a view");
        assert_eq!(
            (after.epoch, &after.members),
            (before.epoch + 1, &before.members)
        );
        assert_eq!(world.checks.fences, fences);
    }
}

#[test]
fn a_node_leaves_in_two_steps_and_comes_to_its_end() {
    for count in [1, 2, 3] {
        let mut world = steady(14, count);
        world.tell(0, Input::Leave);
        world.run_until(world.now_ms + 1_000);
        let view = world.store.view().expect("a view").clone();
        assert_eq!(view.member(10).expect("still there").role, Role::Leaving);
        assert_eq!(standing(&world, 0), Standing::Serving);
        world.tell(0, Input::Drained);
        world.run_until(world.now_ms + 1_000);
        assert!(world.up(0).is_none(), "it has left");
        world.run_until(world.now_ms + 1_000);
        world.assert_converged();
        // The last one stays in the view: there is nobody to own anything.
        assert_eq!(
            world.store.view().expect("a view").member(10).is_none(),
            count > 1
        );
    }
}

#[test]
fn a_node_leaves_without_a_store_too() {
    let mut world = steady(15, 3);
    world.store.down = true;
    world.tell(0, Input::Leave);
    world.run_until(world.now_ms + 2_000);
    world.tell(0, Input::Drained);
    world.run_until(world.now_ms + 11_000);
    assert!(world.up(0).is_none());
}

#[test]
fn another_weight_holds_from_any_node() {
    let mut world = steady(16, 3);
    world.tell(2, Input::Weight { uid: 10, weight: 7 });
    world.run_until(world.now_ms + 1_000);
    world.assert_converged();
    assert_eq!(
        world
            .store
            .view()
            .expect("a view")
            .member(10)
            .expect("a member")
            .weight,
        7
    );
}

#[test]
fn who_cannot_be_reached_over_the_bus_is_no_member_and_that_is_said() {
    let mut world = World::of(17, 4);
    for other in 0..3 {
        world.bus_cut[other][3] = true;
    }
    world.run_until(30_000);
    let stored = world.store.view().expect("a view");
    assert!(stored.member(13).is_none());
    let node = world.up(3).expect("it is up").joining.node;
    assert!(world.refused.contains(&(node, Refusal::NoBus)));
    // And one that is lost later is taken out, though gossip sees it.
    let mut world = steady(18, 4);
    for other in 0..3 {
        world.bus_cut[3][other] = true;
        world.bus_cut[other][3] = true;
    }
    world.run_until(world.now_ms + 14_000);
    assert!(world.store.view().expect("a view").member(13).is_none());
}

#[test]
fn of_two_nodes_with_one_uid_the_later_gives_up() {
    let mut world = steady(19, 4);
    // Slot 3 is copied from slot 1, its uid included.
    world.crash(3);
    world.run_until(world.now_ms + 6_000);
    let mut copy = world.joining(3, world.now_ms * 1_000);
    copy.node.uid = 11;
    world.tell(0, Input::Alive(copy.clone()));
    world.tell(1, Input::Alive(copy.clone()));
    world.run_until(world.now_ms + 20_000);
    world.assert_converged();
    assert!(world.refused.contains(&(copy.node, Refusal::DuplicateUid)));
    assert!(world.duplicates.is_empty());

    // What the copy sees: a member with its uid, at another address.
    let mut world = World::of(20, 1);
    let mut original = world.joining(0, 5);
    original.gossip.set_port(1);
    world.tell(0, Input::Alive(original.clone()));
    world.store.down = true;
    world.run_until(9_000);
    assert!(world.duplicates.is_empty());
    world.run_until(13_000);
    assert_eq!(world.duplicates, [original.node]);
}

#[test]
fn a_store_of_another_cluster_is_left_alone_and_that_is_said() {
    let mut world = World::of(21, 2);
    let foreign = cluster::view::View::first(5, "elsewhere", &world.joining(0, 1)).expect("a view");
    let foreign = std::sync::Arc::new(foreign);
    world
        .store
        .states
        .push((Some((foreign.version(), foreign.clone())), 0));
    world.run_until(20_000);
    assert_eq!(world.store.view(), Some(&foreign));
    assert_eq!(world.foreign, 2);
}
