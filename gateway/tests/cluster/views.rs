//! Cluster parts without cores: who becomes a member, who does not, and when that is known.

use std::sync::Arc;
use std::time::Duration;

use gateway::control::cluster::{ClusterError, End};

use crate::world::{KEYS, Part, Start, Views, until};

fn three(views: &Arc<Views>) -> [Part; 3] {
    let one = Start::usual(1, &[]).start(views);
    let two = Start::usual(2, &[&one]).start(views);
    let three = Start::usual(3, &[&one]).start(views);
    let parts = [one, two, three];
    for part in &parts {
        part.life();
    }
    until("one view of all three", || {
        parts.iter().all(|part| part.members().len() == 3)
    });
    parts
}

#[test]
fn three_nodes_agree_on_a_view_and_notice_who_is_gone() {
    let views = Arc::default();
    let [one, two, three] = three(&views);
    let epochs = [&one, &two, &three].map(|part| part.cluster.status().view().epoch);
    assert!(epochs.iter().all(|epoch| *epoch == epochs[0]), "{epochs:?}");
    let hashes = [&one, &two, &three].map(|part| part.cluster.status().view().hash);
    assert!(hashes.iter().all(|hash| *hash == hashes[0]), "{hashes:?}");
    let counts: usize = two
        .cluster
        .status()
        .partitions()
        .iter()
        .map(|core| core.count)
        .sum();
    assert_eq!(counts, 16_384, "each partition has one owner");

    drop(two);
    let waited = until("a view without the node that has gone", || {
        [&one, &three].iter().all(|part| part.members().len() == 2)
    });
    assert!(waited < Duration::from_secs(5), "{waited:?}");
    assert_eq!(one.members(), ["0000000000000001", "0000000000000003"]);
}

#[test]
fn a_node_that_comes_back_is_a_member_again_in_another_incarnation() {
    let views = Arc::default();
    let [one, two, three] = three(&views);
    let before = two.status().node;
    drop(two);
    let two = Start::usual(2, &[&one]).start(&views);
    let life = two.life();
    assert_ne!(life.node.to_string(), before);
    until("a view with it", || three.members().len() == 3);
}

#[test]
fn a_node_with_another_key_is_heard_by_nobody_and_counted() {
    let views = Arc::default();
    let one = Start::usual(1, &[]).start(&views);
    one.life();
    let stranger = Start {
        key: KEYS[1],
        ..Start::usual(2, &[&one])
    };
    let stranger = stranger.start(&Arc::default());
    until("its datagrams are refused", || {
        one.status().gossip_refused["key"] > 2
    });
    assert_eq!(one.members().len(), 1);
    assert!(stranger.status().alive.is_empty());
}

#[test]
fn a_node_of_another_cluster_is_heard_by_nobody_and_cannot_use_the_store() {
    let views = Arc::default();
    let one = Start::usual(1, &[]).start(&views);
    one.life();
    let stranger = Start {
        name: "elsewhere",
        ..Start::usual(2, &[&one])
    };
    let stranger = stranger.start(&views);
    until("its datagrams are refused", || {
        one.status().gossip_refused["cluster"] > 0
    });
    let error = stranger.refused();
    assert!(
        matches!(error, ClusterError::ForeignStore { .. }),
        "{error}"
    );
    assert!(error.to_string().contains("cluster.name"), "{error}");
    assert_eq!(one.members().len(), 1);
}

#[test]
fn a_second_node_with_one_uid_gives_up_and_says_why() {
    let views = Arc::default();
    let [one, two, three] = three(&views);
    let twin = Start::usual(3, &[&one]).start(&views);
    let error = twin.refused();
    assert!(matches!(error, ClusterError::DuplicateUid(_)), "{error}");
    assert!(error.to_string().contains("cluster.uid"), "{error}");
    assert_eq!(three.status().standing, "serving");
    let counted = |part: &Part| part.status().nodes_refused.get("duplicate_uid").copied();
    assert!(
        counted(&one).or_else(|| counted(&two)) > Some(0),
        "{:?}",
        one.status()
    );
}

#[test]
fn a_node_that_drains_leaves_without_being_missed() {
    let views = Arc::default();
    let [one, two, three] = three(&views);
    assert!(two.cluster.status().drain());
    let waited = until("its role is known", || {
        let view = three.cluster.status().view();
        view.members.iter().any(|member| member.role == "leaving") || view.members.len() == 2
    });
    assert!(waited < Duration::from_secs(5), "{waited:?}");
    assert_eq!(
        two.status().standing,
        "serving",
        "until its clients are gone it answers for them"
    );
    assert!(
        one.cluster
            .status()
            .view()
            .members
            .iter()
            .all(|member| member.partitions > 0 || member.role == "leaving")
    );
}

#[test]
fn a_life_serves_while_it_hears_of_the_others_and_ends_with_the_part() {
    let views = Arc::default();
    let one = Start::usual(1, &[]).start(&views);
    let life = one.life();
    let mut ended = life.ended.clone();
    until("it serves", || one.status().standing == "serving");
    assert_eq!(*ended.borrow_and_update(), None);
    drop(one);
    assert_eq!(*ended.borrow_and_update(), Some(End::Stop));
    assert!(!life.lease.holds(1), "nobody serves without a lease");
}
