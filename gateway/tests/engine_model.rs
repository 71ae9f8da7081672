//! The embedded store does what the model in memory does.

mod engine_support;

use engine_support::disk::FaultyDisk;
use engine_support::{Generator, Rng, limits, mailboxes, options, restored};
use gateway::engine::embedded::{Embedded, EmbeddedOptions};
use gateway::engine::memory::Memory;
use gateway::engine::{Command, Durability, Engine, WhenFull};
use proptest::prelude::*;

/// One step of a run.
#[derive(Clone, Debug)]
enum Step {
    /// A batch of the commands that these words stand for.
    Batch(Vec<u64>),
    Sync,
    /// The process ends and starts again.
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => proptest::collection::vec(any::<u64>(), 1..20).prop_map(Step::Batch),
        1 => Just(Step::Sync),
        1 => Just(Step::Restart),
    ]
}

fn open(disk: &FaultyDisk, options: EmbeddedOptions, unix_ms: u64) -> Embedded {
    Embedded::open_on(disk.storage(), "(test)", options, unix_ms).expect("opens")
}

/// Runs the steps on both stores and compares every answer, and all that is stored after each start.
fn compare(steps: &[Step], options: EmbeddedOptions) {
    let disk = FaultyDisk::new(0);
    let mut model = Memory::new(options.mailbox_limits, 0);
    let mut store = open(&disk, options, 0);
    let mut generator = Generator::default();
    let sessions = (1..=3)
        .map(|word| generator.command(first_put(word)))
        .collect::<Vec<_>>();
    let mut batches = 0;
    let mut commit = |model: &mut Memory, store: &mut Embedded, commands: &[(u16, Command)]| {
        batches += 1;
        let (mut expected, mut found) = (Vec::new(), Vec::new());
        model
            .commit(batches, 0, commands, &mut expected)
            .expect("commits");
        store
            .commit(batches, 0, commands, &mut found)
            .expect("commits");
        assert_eq!(
            format!("{found:#?}"),
            format!("{expected:#?}"),
            "for {commands:#?}"
        );
        expected
    };
    commit(&mut model, &mut store, &sessions);
    for (index, step) in steps.iter().enumerate() {
        match step {
            Step::Batch(words) => {
                let commands: Vec<_> = words.iter().map(|word| generator.command(*word)).collect();
                generator.observe(&commit(&mut model, &mut store, &commands));
            }
            Step::Sync => store.sync().expect("syncs"),
            Step::Restart => {
                let unix_ms = index as u64;
                store.sync().expect("syncs");
                drop(store);
                store = open(&disk, options, unix_ms);
                model.restart(unix_ms);
                assert_eq!(restored(&mut store), restored(&mut model));
                assert_eq!(mailboxes(&mut store, 0), mailboxes(&mut model, 0));
                assert_eq!(store.boot_count(), model.boot_count());
            }
        }
    }
}

/// A word that stands for a `PutSession`.
fn first_put(start: u64) -> u64 {
    (start * 1_000..)
        .find(|word| {
            matches!(
                Generator::default().command(*word).1,
                Command::PutSession { .. }
            )
        })
        .expect("there is one")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn equals_the_model_when_old_messages_go(steps in proptest::collection::vec(step(), 1..40)) {
        compare(&steps, options(WhenFull::DropOldest));
    }

    #[test]
    fn equals_the_model_when_new_messages_are_refused(steps in proptest::collection::vec(step(), 1..40)) {
        compare(&steps, options(WhenFull::Reject));
    }

    #[test]
    fn equals_the_model_when_syncs_are_relaxed(steps in proptest::collection::vec(step(), 1..40)) {
        compare(&steps, EmbeddedOptions { durability: Durability::Relaxed, ..options(WhenFull::DropOldest) });
    }
}

#[test]
fn equals_the_model_in_long_runs() {
    for seed in 0..8 {
        let mut rng = Rng(seed);
        let steps: Vec<_> = (0..400)
            .map(|_| match rng.below(40) {
                0 => Step::Restart,
                1 => Step::Sync,
                _ => Step::Batch((0..=rng.below(30)).map(|_| rng.word()).collect()),
            })
            .collect();
        let mut options = options(WhenFull::DropOldest);
        options.mailbox_limits = limits(if rng.chance(50) {
            WhenFull::DropOldest
        } else {
            WhenFull::Reject
        });
        options.mailbox_limits.messages_max = 60;
        options.mailbox_limits.bytes_max = 20_000;
        compare(&steps, options);
    }
}
