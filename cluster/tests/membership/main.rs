//! Gossip of two and of many nodes in virtual time: real datagrams, sealed and opened, over a network that delays, loses and cuts.

mod network;

use cluster::membership::{DEAD_FOR_MS, DOUBT_MS};
use cluster::view::ProtocolRange;
use network::{KEY_A, KEY_B, Network};

/// A cluster whose nodes all know each other.
fn settled(count: usize, seed: u64) -> Network {
    let mut network = Network::new(count, seed);
    for node in 1..count {
        network.seeds(node, &[0]);
    }
    network.run_until_all_know_each_other(30_000);
    network
}

#[test]
fn nodes_find_each_other_through_one_seed() {
    for count in [2, 3, 10] {
        let network = settled(count, count as u64);
        assert!(
            network.now_ms < 3_000,
            "{count} nodes took {} ms",
            network.now_ms
        );
        // What they know is what each has said of itself.
        let described = network.nodes[0].known.values().next().expect("another");
        assert_eq!(&*described.reference, "mqtt.example.org");
    }
}

#[test]
fn a_seed_that_is_this_node_or_nobody_does_no_harm() {
    let mut network = Network::new(2, 1);
    network.seeds(0, &[0, 1, 7]);
    network.run_until_all_know_each_other(3_000);
    network.seeds(0, &[0, 1]);
    assert_eq!(network.refused(0), 0);
}

#[test]
fn a_death_is_seen_by_all_of_three_within_three_seconds() {
    let mut slowest_ms = 0;
    for seed in 0..60 {
        let mut network = settled(3, seed);
        network.run_for(1_000 + seed * 37 % 1_200);
        slowest_ms = slowest_ms.max(network.time_to_see_death_of(2));
    }
    println!("the slowest of 60 deaths took {slowest_ms} ms to be seen");
    assert!((1_000..=3_000).contains(&slowest_ms), "{slowest_ms} ms");
}

#[test]
fn a_broken_link_shortens_that_to_little_more_than_a_second() {
    for seed in 0..20 {
        let mut network = settled(3, seed);
        network.crash(2);
        network.doubt(0, 2);
        network.doubt(1, 2);
        let crashed_ms = network.now_ms;
        network.run_until_nobody_knows(2, 3_000);
        assert!(
            network.now_ms - crashed_ms <= DOUBT_MS + 150,
            "seed {seed}: {}",
            network.now_ms - crashed_ms
        );
    }
}

#[test]
fn who_lives_refutes_every_doubt() {
    let mut network = settled(5, 3);
    for _ in 0..50 {
        network.doubt(0, 2);
        network.doubt(3, 2);
        network.run_for(300);
    }
    network.run_for(3_000);
    assert_eq!(network.deaths_told, 0);
}

#[test]
fn loss_and_delay_kill_nobody() {
    let mut network = settled(5, 4);
    network.loss_percent = 10;
    network.delay_ms = (1, 60);
    network.run_for(300_000);
    assert_eq!(network.deaths_told, 0, "in five minutes");
}

#[test]
fn a_node_that_leaves_is_dead_to_all_before_it_ends() {
    for count in [2, 3, 30] {
        let mut network = settled(count, 5);
        network.leave(1);
        let began_ms = network.now_ms;
        network.run_until_nobody_knows(1, 1_500);
        assert!(
            network.now_ms - began_ms <= 1_000,
            "{count} nodes: {} ms",
            network.now_ms - began_ms
        );
        network.run_for(1_000);
        assert!(network.nodes[1].gone);
        // And stays it.
        network.run_for(20_000);
        assert!(
            network.nodes[0]
                .known
                .values()
                .all(|joining| joining.node.uid != 101)
        );
    }
}

#[test]
fn a_restart_at_the_same_address_is_a_new_incarnation_at_once() {
    let mut network = settled(3, 6);
    let before = network.nodes[2].joining.node;
    network.crash(2);
    network.start(2);
    network.seeds(2, &[0]);
    network.run_until_all_know_each_other(2_000);
    let after = network.nodes[2].joining.node;
    assert!(after.incarnation > before.incarnation);
    for node in [0, 1] {
        assert!(
            network.nodes[node].dead.contains(&before),
            "its former run is dead to node {node}"
        );
    }
}

#[test]
fn a_node_that_rejoins_is_known_by_its_new_incarnation_to_all() {
    let mut network = settled(4, 7);
    network.rejoin(2);
    network.run_until_all_know_each_other(3_000);
    // Also when the others hold it for dead, and so it does them.
    network.cut(&[2]);
    network.run_for(10_000);
    assert!(network.nodes[2].known.is_empty());
    network.mend();
    network.rejoin(2);
    network.run_until_all_know_each_other(3_000);
}

#[test]
fn after_a_cut_everybody_is_alive_again_and_nobody_is_another_incarnation() {
    for (count, side) in [(2, vec![1]), (5, vec![1, 3]), (12, vec![0, 2, 4, 6, 8, 10])] {
        let mut network = settled(count, 8);
        network.cut(&side);
        network.run_for(60_000);
        assert_eq!(network.nodes[side[0]].known.len(), side.len() - 1);
        network.mend();
        network.run_until_all_know_each_other(DEAD_FOR_MS + 15_000);
        assert_eq!(network.renewed, 0);
    }
}

#[test]
fn a_process_that_was_stopped_holds_nobody_for_dead_when_it_goes_on() {
    let mut network = settled(5, 9);
    network.pause(2, 30_000);
    network.run_for(10_000);
    assert_eq!(network.nodes[0].known.len(), 3, "it is dead to the others");
    network.run_for(21_000);
    assert_eq!(network.nodes[2].dead, [], "the others are not dead to it");
    network.run_until_all_know_each_other(20_000);
}

#[test]
fn keys_are_replaced_without_a_gap() {
    let mut network = settled(3, 10);
    for ring in [[KEY_A, KEY_B].as_slice(), &[KEY_B, KEY_A], &[KEY_B]] {
        for node in 0..3 {
            network.keys(node, ring);
            network.run_for(7_000);
        }
    }
    assert_eq!(network.deaths_told, 0);
    assert_eq!((0..3).map(|node| network.refused(node)).sum::<u64>(), 0);
}

#[test]
fn strangers_are_refused_with_a_reason_and_the_others_do_not_notice() {
    let mut network = settled(3, 11);
    let strangers = [
        (
            "key",
            network.add("roadstead", &[KEY_B], ProtocolRange { min: 1, max: 2 }),
        ),
        (
            "cluster",
            network.add("elsewhere", &[KEY_A], ProtocolRange { min: 1, max: 2 }),
        ),
        (
            "protocol",
            network.add("roadstead", &[KEY_A], ProtocolRange { min: 3, max: 4 }),
        ),
    ];
    for (reason, stranger) in strangers {
        network.seeds(stranger, &[0, 1, 2]);
        network.run_for(2_000);
        let counted: Vec<_> = network.refusals(1);
        assert!(counted.contains(&(reason, 1)), "{reason}: {counted:?}");
        assert!(network.nodes[stranger].known.is_empty());
    }
    assert_eq!(network.nodes[0].known.len(), 2);
    assert_eq!(network.deaths_told, 0);
}

#[test]
fn a_clock_that_is_off_keeps_a_newcomer_out_and_throws_no_member_out() {
    let mut network = settled(2, 12);
    network.nodes[1].unix_ms_off = 3_600_000;
    network.run_for(10_000);
    assert_eq!(network.deaths_told, 0, "they know each other");
    let late = network.add("roadstead", &[KEY_A], ProtocolRange { min: 1, max: 2 });
    network.nodes[late].unix_ms_off = -31_000;
    network.seeds(late, &[0]);
    network.run_for(2_000);
    assert!(network.nodes[late].known.is_empty());
    assert!(network.refusals(0).contains(&("clock", 1)));
}

#[test]
fn whatever_is_recorded_and_played_again_changes_nothing() {
    let mut network = settled(3, 13);
    network.records = true;
    network.run_for(5_000);
    network.crash(2);
    network.run_until_nobody_knows(2, 4_000);
    let recorded = std::mem::take(&mut network.recorded);
    assert!(recorded.len() > 50);
    let before = network.refused(0);
    for (to, bytes) in &recorded {
        network.inject(*to, bytes);
    }
    network.run_for(500);
    assert!(network.refused(0) >= before + 10, "replays are counted");
    assert!(
        network.nodes[0]
            .known
            .values()
            .all(|joining| joining.node.uid != 102),
        "the dead stay dead"
    );
    assert_eq!(network.nodes[0].known.len(), 1);
}

#[test]
fn garbage_is_counted_and_hurts_nobody() {
    let mut network = settled(3, 14);
    network.records = true;
    network.run_for(3_000);
    let recorded = std::mem::take(&mut network.recorded);
    network.records = false;
    let mut sent = 0;
    for (number, (to, bytes)) in recorded.iter().cycle().take(5_000).enumerate() {
        let mut bytes = bytes.clone();
        let at = network.random.below(bytes.len() as u64) as usize;
        match number % 3 {
            0 => bytes[at] ^= 1 << network.random.below(8),
            1 => bytes.truncate(at),
            _ => bytes.extend_from_slice(&[0; 40]),
        }
        network.inject(*to, &bytes);
        sent += 1;
    }
    network.run_for(3_000);
    assert_eq!((0..3).map(|node| network.refused(node)).sum::<u64>(), sent);
    assert_eq!(network.deaths_told, 0);
}

#[test]
fn a_member_that_says_nonsense_is_counted_and_hurts_nobody() {
    let mut network = settled(3, 15);
    for number in 0..3_000u64 {
        let length = network.random.below(200) as usize;
        let mut body: Vec<u8> = (0..length).map(|_| network.random.next() as u8).collect();
        if let Some(kind) = body.first_mut() {
            *kind = (number % 5) as u8;
        }
        network.say(1, 0, &body);
    }
    network.run_for(3_000);
    let malformed = network
        .refusals(0)
        .iter()
        .find(|(reason, _)| *reason == "malformed")
        .map(|(_, count)| *count);
    assert!(malformed > Some(2_900), "{malformed:?}");
    assert_eq!(network.deaths_told, 0);
}

/// What gossip costs, and how fast it is, at the size that the design names; unoptimised code is given a smaller one. The
/// figures are printed with `--nocapture`.
#[test]
fn hundreds_of_nodes_see_a_death_in_bounded_time_at_a_constant_cost() {
    let count = if cfg!(debug_assertions) { 60 } else { 300 };
    let mut network = settled(count, 16);
    println!("{count} nodes know each other after {} ms", network.now_ms);
    network.run_for(20_000);
    let before = network.sent;
    network.run_for(10_000);
    let per_second = (network.sent - before) as f64 / count as f64 / 10.0;
    println!("{per_second:.1} packets a second and node are sent at rest");
    assert!(per_second < 8.0, "{per_second}");
    let mut times = Vec::new();
    for victim in count - 10..count - 4 {
        let before = network.sent;
        let ms = network.time_to_see_death_of(victim);
        let alive = network.nodes.iter().filter(|node| !node.crashed).count() as f64;
        println!(
            "death seen by all after {ms} ms, {:.1} packets sent per node meanwhile",
            (network.sent - before) as f64 / alive
        );
        times.push(ms);
        network.run_for(3_000);
    }
    assert!(times.iter().all(|&ms| ms <= 6_000), "{times:?}");
    // With evidence from the links it is as fast as with three.
    network.crash(count - 1);
    let crashed_ms = network.now_ms;
    for node in 0..count - 10 {
        network.doubt(node, count - 1);
    }
    network.run_until_nobody_knows(count - 1, 3_000);
    println!("with broken links: {} ms", network.now_ms - crashed_ms);
    assert!(network.now_ms - crashed_ms <= DOUBT_MS + 300);
}
