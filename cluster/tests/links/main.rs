//! Links: two of them over a channel that cuts, delays, loses its tail and splits bytes; credits, heartbeats, and peers that break
//! the rules.

mod channel;
mod rules;

use channel::{Pair, SIDES, Step};
use cluster::link::{Limits, Unsent, link_of_core, number_of_links};
use proptest::collection::vec;
use proptest::prelude::*;

/// Little credit, so that it runs out.
fn small() -> Limits {
    Limits {
        credit_bytes: 2000,
        output_bytes: 500,
        ..Limits::default()
    }
}

fn step() -> impl Strategy<Value = Step> {
    let side = 0..2usize;
    prop_oneof![
        12 => (side.clone(), any::<bool>(), 8..300usize).prop_map(|(side, lossy, bytes)| Step::Send { side, lossy, bytes }),
        1 => side.clone().prop_map(|side| Step::Send { side, lossy: false, bytes: 5000 }),
        8 => side.clone().prop_map(Step::Output),
        8 => (side.clone(), 1..700usize).prop_map(|(side, bytes)| Step::Arrive { side, bytes }),
        3 => (1..300u64).prop_map(Step::Wait),
        1 => Just(Step::Cut),
        2 => side.prop_map(Step::Notice),
        3 => Just(Step::Connect),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Each lane of each direction arrives as it was sent, whatever the channel does, and no queue outgrows its bound.
    #[test]
    fn nothing_is_lost_doubled_or_reordered_over_a_channel_that_cuts(steps in vec(step(), 1..400)) {
        let mut pair = Pair::new(small());
        for step in steps {
            pair.step(step);
            pair.assert_prefix();
            for link in &pair.links {
                prop_assert!(link.queued_bytes() < 2000 + 5032);
                prop_assert!(link.held_bytes() < 32 << 10);
            }
        }
        pair.settle();
        pair.assert_all_arrived();
        for link in &pair.links {
            prop_assert_eq!(link.queued_bytes(), 0);
            prop_assert_eq!(link.counters().violations, 0);
        }
    }
}

#[test]
fn what_the_peer_has_is_not_written_again_and_the_rest_is() {
    let mut pair = Pair::connected(small());
    for _ in 0..3 {
        pair.send(0, false, 100).expect("there is room");
    }
    pair.step(Step::Output(0));
    pair.step(Step::Arrive {
        side: 0,
        bytes: 2 * 132 + 50,
    });
    pair.step(Step::Cut);
    pair.step(Step::Connect);
    pair.settle();
    pair.assert_all_arrived();
    let counters = *pair.links[0].counters();
    assert_eq!((counters.sent, counters.resent), (3, 1));
    assert_eq!(counters.connections, 2);
}

#[test]
fn messages_are_taken_before_the_first_connection_and_between_two() {
    let mut pair = Pair::new(small());
    pair.send(0, false, 100).expect("there is room");
    pair.send(0, true, 100).expect("there is room");
    assert_eq!(pair.links[0].next_deadline_ms(), None);
    pair.settle();
    pair.assert_all_arrived();
    pair.step(Step::Cut);
    pair.step(Step::Notice(0));
    pair.send(0, false, 100).expect("there is room");
    pair.settle();
    pair.assert_all_arrived();
}

#[test]
fn without_credit_a_message_is_refused_and_a_lossy_one_dropped() {
    let mut pair = Pair::connected(small());
    let mut lossy = 0;
    while pair.send(0, true, 100).is_ok() {
        lossy += 1;
    }
    assert_eq!(lossy, 1000 / 132, "lossy messages get half of the credit");
    assert!(pair.links[0].has_room(), "the other half is for the others");
    while pair.links[0].has_room() {
        assert_eq!(pair.send(0, false, 100), Ok(()));
    }
    assert_eq!(pair.send(0, false, 100), Err(Unsent::NoRoom));
    assert_eq!(pair.send(0, true, 100), Err(Unsent::Dropped));
    let counters = *pair.links[0].counters();
    assert_eq!((counters.refused, counters.dropped), (1, 2));
    pair.settle();
    pair.assert_all_arrived();
    assert!(
        pair.links[0].has_room(),
        "what was acknowledged is room again"
    );
}

#[test]
fn what_may_not_be_lost_overtakes_what_may() {
    let mut pair = Pair::connected(small());
    pair.send(0, true, 100).expect("there is room");
    pair.send(0, false, 100).expect("there is room");
    pair.step(Step::Output(0));
    pair.step(Step::Arrive {
        side: 0,
        bytes: 132,
    });
    assert_eq!((pair.arrived(0, false), pair.arrived(0, true)), (1, 0));
    pair.settle();
    pair.assert_all_arrived();
}

#[test]
fn what_may_be_lost_keeps_its_place_at_the_end_until_it_is_written() {
    let mut pair = Pair::connected(small());
    for _ in 0..3 {
        pair.send(0, true, 300).expect("there is room");
    }
    pair.step(Step::Output(0)); // There is no room for two in one output.
    pair.send(0, false, 100).expect("there is room");
    pair.step(Step::Output(0));
    pair.step(Step::Arrive {
        side: 0,
        bytes: 332 + 132,
    });
    assert_eq!((pair.arrived(0, false), pair.arrived(0, true)), (1, 1));
    pair.settle();
    pair.assert_all_arrived();
}

#[test]
fn a_message_longer_than_the_credit_goes_alone() {
    let mut pair = Pair::connected(small());
    assert_eq!(pair.send(0, false, 50_000), Ok(()));
    assert_eq!(pair.send(0, false, 8), Err(Unsent::NoRoom));
    pair.settle();
    pair.assert_all_arrived();
    let beyond = cluster::frame::BODY_BYTES_MAX as usize + 1;
    assert_eq!(pair.send(0, false, beyond), Err(Unsent::TooLong));
}

#[test]
fn a_long_message_before_a_lossy_one_is_no_flood() {
    let mut pair = Pair::connected(small());
    pair.send(0, true, 8).expect("there is room");
    pair.send(0, false, 5000).expect("there is room");
    for _ in 0..2 {
        pair.step(Step::Output(0));
    }
    pair.step(Step::Arrive {
        side: 0,
        bytes: usize::MAX,
    });
    pair.assert_all_arrived();
}

#[test]
fn one_output_has_all_that_is_waiting_and_an_acknowledgement_goes_with_it() {
    let mut pair = Pair::connected(Limits::default());
    for _ in 0..50 {
        pair.send(1, false, 40).expect("there is room");
    }
    pair.step(Step::Output(1));
    pair.step(Step::Arrive {
        side: 1,
        bytes: usize::MAX,
    });
    assert!(
        !pair.links[0].has_output(pair.now_ms),
        "an acknowledgement alone can wait"
    );
    let due_ms = pair.links[0].next_deadline_ms().expect("it is due");
    assert_eq!(due_ms, pair.now_ms + Limits::default().acknowledge_ms);
    pair.send(0, false, 40).expect("there is room");
    pair.step(Step::Output(0));
    pair.step(Step::Arrive {
        side: 0,
        bytes: usize::MAX,
    });
    assert_eq!(
        pair.links[1].queued_bytes(),
        0,
        "all of it was acknowledged"
    );
    assert!(!pair.links[0].has_output(due_ms + 1));
}

#[test]
fn a_quarter_of_the_credit_is_acknowledged_at_once() {
    let mut pair = Pair::connected(small());
    for _ in 0..4 {
        pair.send(1, false, 100).expect("there is room");
        pair.step(Step::Output(1));
    }
    pair.step(Step::Arrive {
        side: 1,
        bytes: 3 * 132,
    });
    assert!(!pair.links[0].has_output(pair.now_ms));
    pair.step(Step::Arrive {
        side: 1,
        bytes: 132,
    });
    assert!(pair.links[0].has_output(pair.now_ms));
}

#[test]
fn memory_of_a_burst_is_given_back() {
    let mut pair = Pair::connected(Limits::default());
    while pair.send(0, false, 10_000).is_ok() {}
    assert!(pair.links[0].held_bytes() > 4 << 20);
    pair.settle();
    pair.assert_all_arrived();
    for _ in 0..8 {
        pair.step(Step::Wait(500));
        pair.settle();
    }
    for side in SIDES {
        assert!(pair.links[side].held_bytes() <= 64 << 10);
    }
}

#[test]
fn links_per_pair_follow_cores_and_nodes() {
    for (nodes, cores_a, cores_b, links) in [
        (1, 4, 4, 4),
        (2, 16, 16, 8),
        (3, 2, 16, 2),
        (100, 16, 16, 8),
        (129, 8, 8, 8),
        (130, 8, 8, 7),
        (500, 16, 16, 2),
        (1025, 16, 16, 1),
        (5000, 16, 16, 1),
        (3, 0, 2, 1),
    ] {
        assert_eq!(
            number_of_links(nodes, cores_a, cores_b),
            links,
            "{nodes} nodes"
        );
        assert_eq!(number_of_links(nodes, cores_b, cores_a), links);
    }
    assert_eq!(
        (0..6).map(|core| link_of_core(core, 4)).collect::<Vec<_>>(),
        [0, 1, 2, 3, 0, 1]
    );
}
