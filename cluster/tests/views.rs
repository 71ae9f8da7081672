//! Views and placements as others use them: the rules of core numbers, balance, and how little moves.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use cluster::limits::{CORE_NUMBERS_END, CORES_PER_MEMBER_MAX, MEMBERS_MAX};
use cluster::partition::{PARTITIONS, Placement};
use cluster::view::{Joining, NodeId, ProtocolRange, Role, View, ViewDecodeError, ViewError};
use proptest::prelude::*;

fn joining(uid: u64, cores: u16, weight: u32) -> Joining {
    Joining {
        node: NodeId {
            uid,
            incarnation: 1_000,
        },
        cores,
        weight,
        gossip: SocketAddr::from(([10, 0, (uid >> 8) as u8, uid as u8], 7_946)),
        bus: SocketAddr::from(([10, 0, (uid >> 8) as u8, uid as u8], 7_947)),
        reference: "mqtt.example.org".into(),
        protocol: ProtocolRange { min: 1, max: 2 },
    }
}

fn view_of(nodes: &[Joining]) -> View {
    let first = View::first(1, "roadstead", &nodes[0]).expect("a first view");
    nodes[1..].iter().fold(first, |view, node| {
        view.with_member(view.epoch + 1, node)
            .expect("there is room")
    })
}

/// The owner of each partition as (uid, core counted from the member's first), which does not depend on core numbers.
fn owners(view: &View) -> Vec<(u64, u16)> {
    let placement = Placement::of(view);
    let mut of_core = BTreeMap::new();
    (0..PARTITIONS)
        .map(|partition| {
            let core = placement.core_of(partition);
            *of_core.entry(core).or_insert_with(|| {
                let member = view.member_of_core(core).expect("owners are members");
                (member.node.uid, core - member.first_core)
            })
        })
        .collect()
}

fn owned(view: &View) -> BTreeMap<u64, usize> {
    let mut counts = BTreeMap::new();
    for (uid, _) in owners(view) {
        *counts.entry(uid).or_default() += 1;
    }
    counts
}

fn assert_rules(view: &View) {
    let mut ranges: Vec<_> = view
        .members
        .iter()
        .map(|member| {
            let first = u32::from(member.first_core);
            (first, first + u32::from(member.cores))
        })
        .collect();
    ranges.sort_unstable();
    for pair in ranges.windows(2) {
        assert!(pair[0].1 <= pair[1].0, "core numbers overlap: {pair:?}");
    }
    assert!(ranges.last().expect("a member").1 <= u32::from(CORE_NUMBERS_END));
    assert!(view.members.is_sorted_by(|a, b| a.node.uid < b.node.uid));
    assert_eq!(View::decode(&view.encode()).as_ref(), Ok(view));
}

/// Members as a property test makes them: a few to many, of any size and weight.
fn nodes() -> impl Strategy<Value = Vec<Joining>> {
    prop::collection::btree_map(any::<u64>(), (1u16..=16, 1u32..=64), 1..24).prop_map(|nodes| {
        nodes
            .into_iter()
            .map(|(uid, (cores, weight))| joining(uid, cores, weight))
            .collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn the_order_of_joining_and_of_members_changes_no_owner(
        (nodes, shuffled) in nodes().prop_flat_map(|nodes| (Just(nodes.clone()), Just(nodes).prop_shuffle())),
    ) {
        let (one, other) = (view_of(&nodes), view_of(&shuffled));
        prop_assert_eq!(owners(&one), owners(&other));
        let mut reversed = one.clone();
        reversed.members.reverse();
        prop_assert_eq!(Placement::of(&one), Placement::of(&reversed));
    }

    #[test]
    fn a_newcomer_takes_its_share_and_nothing_else_moves(nodes in nodes(), cores in 1u16..16, weight in 1u32..64) {
        let before = view_of(&nodes);
        prop_assume!(before.member(7).is_none());
        let after = before.with_member(before.epoch + 1, &joining(7, cores, weight)).unwrap();
        for (old, new) in owners(&before).iter().zip(owners(&after)) {
            prop_assert!(*old == new || new.0 == 7);
        }
        // And back: what a leaver owned goes to the others, nothing else moves.
        let without = after.without_member(after.epoch + 1, 7).unwrap();
        prop_assert_eq!(owners(&without), owners(&before));
        let moved: Vec<u16> = Placement::of(&before).moved(&Placement::of(&after)).collect();
        prop_assert_eq!(moved.len(), owned(&after).get(&7).copied().unwrap_or(0));
    }

    #[test]
    fn shares_follow_weights(nodes in nodes()) {
        let view = view_of(&nodes);
        let total: f64 = view.members.iter().map(|member| f64::from(member.weight)).sum();
        let owned = owned(&view);
        for member in &view.members {
            let share = f64::from(member.weight) / total;
            let expected = share * f64::from(PARTITIONS);
            // Six standard deviations of drawing lots, and one for small shares.
            let deviation = 6.0 * (expected * (1.0 - share)).sqrt() + 1.0;
            let has = owned.get(&member.node.uid).copied().unwrap_or(0) as f64;
            prop_assert!((has - expected).abs() <= deviation, "{has} of {expected:.0} ± {deviation:.0}");
        }
    }

    #[test]
    fn a_weight_that_grows_only_wins_partitions(nodes in nodes(), more in 1u32..64) {
        let before = view_of(&nodes);
        let member = &before.members[0];
        let after = before.with_weight(before.epoch + 1, member.node.uid, member.weight + more).unwrap();
        for (old, new) in owners(&before).iter().zip(owners(&after)) {
            prop_assert!(*old == new || new.0 == member.node.uid);
        }
    }

    #[test]
    fn members_keep_their_cores_through_any_history(
        steps in prop::collection::vec((0u64..40, 1u16..=1_024, any::<bool>()), 1..300),
    ) {
        let mut view = View::first(1, "roadstead", &joining(1_000, 4, 4)).unwrap();
        for (uid, cores, join) in steps {
            let epoch = view.epoch + 1;
            let mut node = joining(uid, cores, 1);
            node.node.incarnation = epoch;
            let next = if join { view.with_member(epoch, &node) } else { view.without_member(epoch, uid) };
            let Ok(next) = next else { continue };
            for member in view.members.iter().filter(|member| member.node.uid != uid) {
                prop_assert_eq!(next.member(member.node.uid), Some(member));
            }
            view = next;
        }
        assert_rules(&view);
    }

    #[test]
    fn bytes_that_are_no_view_are_refused_without_a_panic(
        nodes in nodes(), cut in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), value in any::<u8>(),
        noise in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let view = view_of(&nodes);
        let bytes = view.encode();
        prop_assert!(View::decode(&bytes[..cut.index(bytes.len())]).is_err());
        let mut longer = bytes.clone();
        longer.push(value);
        prop_assert_eq!(View::decode(&longer), Err(ViewDecodeError::Trailing(1)));
        let mut other = bytes.clone();
        other[at.index(bytes.len())] ^= value;
        if let Ok(decoded) = View::decode(&other) {
            // What is accepted keeps the rules, and is told apart by its hash.
            assert_rules(&decoded);
            prop_assert_eq!(decoded == view, decoded.hash() == view.hash());
        }
        let _ = View::decode(&noise);
        let _ = View::decode(&[&[1], noise.as_slice()].concat());
    }
}

/// The share of a newcomer, as drawn by lot, against the share it should have.
#[test]
fn joins_and_leaves_move_little_more_than_they_must() {
    for size in [2u64, 3, 10, 30] {
        let nodes: Vec<_> = (0..size).map(|uid| joining(uid * 977 + 3, 4, 4)).collect();
        let before = view_of(&nodes);
        for newcomer in 0..8 {
            let after = before
                .with_member(before.epoch + 1, &joining(500_000 + newcomer, 4, 4))
                .expect("there is room");
            let moved = Placement::of(&before).moved(&Placement::of(&after)).count();
            let least = usize::from(PARTITIONS) / (nodes.len() + 1);
            assert!(moved * 10 <= least * 12, "{size} nodes: {moved} of {least}");
        }
    }
}

#[test]
fn one_member_owns_what_a_single_node_owns() {
    for cores in [1, 2, 5, 64] {
        let view = View::first(9, "roadstead", &joining(42, cores, 3)).expect("a view");
        assert_eq!(Placement::of(&view), Placement::single_node(cores));
    }
}

#[test]
fn leaving_members_own_nothing_unless_all_leave() {
    let view = view_of(&[joining(1, 2, 2), joining(2, 2, 2), joining(3, 2, 2)]);
    let one_leaves = view.with_role(4, 2, Role::Leaving).expect("a member");
    assert!(!owned(&one_leaves).contains_key(&2));
    // They own the same as if it had gone, so that its end moves nothing.
    let gone = one_leaves.without_member(5, 2).expect("a member");
    assert_eq!(owners(&one_leaves), owners(&gone));
    let all_leave = [1, 2, 3].iter().fold(view.clone(), |view, &uid| {
        view.with_role(view.epoch + 1, uid, Role::Leaving)
            .expect("a member")
    });
    assert_eq!(owners(&all_leave), owners(&view));
}

#[test]
fn core_numbers_come_back_as_late_as_they_can() {
    let mut view = View::first(1, "roadstead", &joining(1, 10, 1)).expect("a view");
    let mut seen = Vec::new();
    // A member that comes and goes walks through all numbers before it has one again.
    for epoch in 1..6_553 {
        let mut node = joining(2, 10, 1);
        node.node.incarnation += epoch;
        view = view.with_member(epoch, &node).expect("there is room");
        seen.push(view.member(2).expect("it joined").first_core);
    }
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), 6_552);
    view = view
        .with_member(7_000, &joining(3, 10, 1))
        .expect("there is room");
    assert_rules(&view);
    assert_eq!(view.member(1).expect("it stayed").first_core, 0);
}

#[test]
fn a_restart_is_a_new_member_with_new_core_numbers() {
    let view = view_of(&[joining(1, 4, 4), joining(2, 4, 4)]);
    let mut again = joining(1, 4, 4);
    assert!(matches!(
        view.with_member(3, &again),
        Err(ViewError::NotNewer(..))
    ));
    again.node.incarnation += 1;
    let next = view.with_member(3, &again).expect("a later incarnation");
    let (old, new) = (
        view.member(1).expect("first"),
        next.member(1).expect("second"),
    );
    assert_eq!((old.first_core, old.joined), (0, 1));
    assert_eq!((new.first_core, new.joined), (8, 3));
    assert_eq!(next.members.len(), 2);
    assert!(next.contains(again.node) && !next.contains(old.node));
    // Owners follow from the uid: a restart moves no partition to another node.
    let uids = |view| owners(view).iter().map(|owner| owner.0).collect::<Vec<_>>();
    assert_eq!(uids(&view), uids(&next));
}

#[test]
fn a_full_cluster_refuses_with_the_reason() {
    let mut view =
        View::first(1, "roadstead", &joining(0, CORES_PER_MEMBER_MAX, 1)).expect("a view");
    for uid in 1..63 {
        view = view
            .with_member(uid + 1, &joining(uid, CORES_PER_MEMBER_MAX, 1))
            .expect("room");
    }
    // 63 × 1,024 are taken, 1,023 are left.
    let refused = view.with_member(100, &joining(100, CORES_PER_MEMBER_MAX, 1));
    assert_eq!(refused, Err(ViewError::NoFreeCores(CORES_PER_MEMBER_MAX)));
    let full = view
        .with_member(100, &joining(100, 1_023, 1))
        .expect("what is left");
    assert_eq!(
        full.with_member(101, &joining(101, 1, 1)),
        Err(ViewError::NoFreeCores(1))
    );
    let room = full.without_member(101, 30).expect("a member");
    assert_rules(
        &room
            .with_member(102, &joining(101, 7, 1))
            .expect("room again"),
    );

    let many: Vec<_> = (0..MEMBERS_MAX as u64)
        .map(|uid| joining(uid, 1, 1))
        .collect();
    let view = view_of(&many);
    assert_rules(&view);
    assert_eq!(
        view.with_member(5_000, &joining(5_000, 1, 1)),
        Err(ViewError::TooManyMembers)
    );
}

#[test]
fn what_a_node_says_of_itself_is_checked() {
    let view = view_of(&[joining(1, 1, 1), joining(2, 1, 1)]);
    let with = |change: fn(&mut Joining)| {
        let mut node = joining(3, 1, 1);
        change(&mut node);
        view.with_member(3, &node).expect_err("refused")
    };
    assert_eq!(with(|node| node.cores = 0), ViewError::Cores(0));
    assert_eq!(with(|node| node.cores = 1_025), ViewError::Cores(1_025));
    assert_eq!(with(|node| node.weight = 0), ViewError::Weight);
    assert_eq!(
        with(|node| node.reference = "x".repeat(256).into()),
        ViewError::Reference(256)
    );
    let upside_down = ProtocolRange { min: 2, max: 1 };
    assert!(
        matches!(with(|node| node.protocol = ProtocolRange { min: 2, max: 1 }), ViewError::ProtocolRange(range) if range == upside_down)
    );
    assert!(matches!(
        with(|node| node.protocol = ProtocolRange { min: 3, max: 4 }),
        ViewError::Protocol { .. }
    ));
    assert!(matches!(
        View::first(1, "", &joining(1, 1, 1)),
        Err(ViewError::ClusterName(0))
    ));
    assert_eq!(view.numbered(1), Err(ViewError::Epoch { old: 2, new: 1 }));
    assert_eq!(
        view.with_role(3, 9, Role::Leaving),
        Err(ViewError::NotAMember(9))
    );
    assert_eq!(
        view.without_member(3, 1)
            .and_then(|view| view.without_member(4, 2)),
        Err(ViewError::LastMember)
    );
}

#[test]
fn members_share_a_protocol_through_a_rolling_upgrade() {
    let mut view = view_of(&[joining(1, 1, 1), joining(2, 1, 1)]);
    for uid in [1, 2] {
        let mut newer = joining(uid, 1, 1);
        newer.node.incarnation += 1;
        newer.protocol = ProtocolRange { min: 2, max: 3 };
        view = view
            .with_member(view.epoch + 1, &newer)
            .expect("version 2 is common");
    }
    assert_eq!(view.protocol(), Some(ProtocolRange { min: 2, max: 3 }));
}

#[test]
fn bytes_of_a_view_stay_the_same() {
    let view = view_of(&[joining(1, 2, 3), joining(2, 4, 5)])
        .with_role(7, 2, Role::Leaving)
        .expect("a member");
    assert_eq!(
        view.hash(),
        6_644_098_682_679_399_472,
        "nodes of another version read these bytes: raise the version of the encoding"
    );
    let mut other = view.encode();
    other[0] = 2;
    assert_eq!(View::decode(&other), Err(ViewDecodeError::Version(2)));
}
