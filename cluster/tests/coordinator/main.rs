//! Many coordinators, one store that fails and forgets, and gossip that lags and lies: from one seed each.
//!
//! `CLUSTER_SEEDS=5000` runs more seeds than the few of every test run, from `CLUSTER_FIRST` on, `CLUSTER_SEED=17` only that one, and `CLUSTER_TRACE=1` prints
//! what everybody does.

mod checks;
mod faults;
mod stories;
mod surroundings;
mod world;

use faults::Faults;
use world::World;

/// Seeds of every test run.
const SEEDS: u64 = 150;

/// A minute of faults, then everything heals: within the bound all living nodes have one view, of exactly them.
fn run(seed: u64) -> u64 {
    let mut world = World::new(seed);
    let faults = Faults::new(&mut world);
    while world.now_ms < 60_000 {
        faults.step(&mut world);
        world.run_until(world.now_ms + 250);
    }
    Faults::heal(&mut world);
    world.run_until(world.now_ms + 40_000);
    world.assert_converged();
    world.installed_count
}

#[test]
fn faults_break_no_promise_and_everything_converges_after_them() {
    if let Some(seed) = number("CLUSTER_SEED") {
        run(seed);
        return;
    }
    let mut installed = 0;
    let first = number("CLUSTER_FIRST").unwrap_or(0);
    for seed in first..first + number("CLUSTER_SEEDS").unwrap_or(SEEDS) {
        let count = std::panic::catch_unwind(|| run(seed));
        installed +=
            count.unwrap_or_else(|_| panic!("seed {seed}: run it with CLUSTER_SEED={seed}"));
    }
    // Otherwise nothing has happened that could have gone wrong.
    assert!(installed > 2_000, "{installed} views were installed");
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}
