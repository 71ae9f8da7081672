//! Seeds that once failed, and some that are as good as any: a quick look at every promise.

use sim::plan::{Options, Without};
use sim::simulate;

const STEPS: u64 = 2000;

fn run(seed: u64, steps: u64, nodes: u16) {
    let options = Options {
        seed,
        steps,
        nodes,
        jumps: false,
        cores: None,
        verbose: false,
        planted: None,
        without: Without::default(),
    };
    if let Err(failure) = simulate(&options) {
        panic!(
            "seed {seed}: {}\n  again: cargo xtask sim --seed {seed} --steps {steps} --nodes {nodes} --verbose",
            failure.text
        );
    }
}

#[test]
fn every_promise_holds_for_the_first_seeds() {
    (1..=64).for_each(|seed| run(seed, STEPS, 1));
}

#[test]
fn every_promise_holds_for_the_first_seeds_of_a_cluster() {
    (1..=12).for_each(|seed| run(seed, STEPS, 3));
}

#[test]
fn seeds_that_failed_once_pass() {
    let seeds = include_str!("failed_once.txt")
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty());
    for line in seeds {
        let numbers: Vec<u64> = line
            .split_whitespace()
            .take(3)
            .filter_map(|word| word.parse().ok())
            .collect();
        let [seed, nodes, steps] = numbers[..] else {
            panic!("a line is `seed nodes steps what`: {line}")
        };
        run(seed, steps, u16::try_from(nodes).expect("few nodes"));
    }
}

#[test]
fn the_same_seed_runs_the_same_way() {
    for nodes in [1, 3] {
        let options = Options {
            seed: 7,
            steps: STEPS,
            nodes,
            jumps: false,
            cores: Some(3),
            verbose: false,
            planted: None,
            without: Without::default(),
        };
        let hash = || {
            simulate(&options)
                .map(|summary| summary.hash)
                .map_err(|failure| failure.text)
        };
        assert_eq!(hash(), hash());
    }
}
