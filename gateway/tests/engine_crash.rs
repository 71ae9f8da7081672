//! Nothing that was answered is lost, and every batch is there whole or not at all, whatever the disk does.
//!
//! `ENGINE_CRASH_SEEDS` sets how many runs there are.

mod engine_support;

use engine_support::disk::{Fault, FaultyDisk};
use engine_support::{Generator, Rng, mailboxes, options, restored};
use gateway::engine::embedded::{Embedded, EmbeddedOptions};
use gateway::engine::memory::Memory;
use gateway::engine::{Command, Completion, Engine, EngineError, Token, WhenFull};
use gateway::message::SessionId;

/// One life of a disk: the store on it, and what may be found on it after a loss of power.
struct Run {
    rng: Rng,
    disk: FaultyDisk,
    options: EmbeddedOptions,
    /// `None` while the machine is off.
    store: Option<Embedded>,
    /// All that was answered.
    answered: Memory,
    /// All that was answered, without the acknowledgements that no sync has followed.
    synced: Memory,
    generator: Generator,
    batches: u64,
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut rng = Rng(seed);
        let disk = FaultyDisk::new(rng.word());
        let policy = if rng.chance(50) {
            WhenFull::DropOldest
        } else {
            WhenFull::Reject
        };
        let options = options(policy);
        let store = Embedded::open_on(disk.storage(), "(test)", options, 0).expect("opens");
        let model = Memory::new(options.mailbox_limits, 0);
        Self {
            rng,
            disk,
            options,
            store: Some(store),
            answered: model.clone(),
            synced: model,
            generator: Generator::default(),
            batches: 0,
        }
    }

    fn commands(&mut self) -> Vec<(u16, Command)> {
        if self.rng.chance(20) {
            // Acknowledgements alone.
            let words: Vec<_> = (0..30).map(|_| self.rng.word()).collect();
            let all = words.into_iter().map(|word| self.generator.command(word));
            return all
                .filter(|(_, command)| matches!(command, Command::Ack { .. }))
                .collect();
        }
        let count = 1 + self.rng.below(12);
        let words: Vec<_> = (0..count).map(|_| self.rng.word()).collect();
        words
            .into_iter()
            .map(|word| self.generator.command(word))
            .collect()
    }

    /// Arms a fault, mostly; some come while a store is opened.
    fn arm(&mut self) {
        if self.rng.chance(60) {
            let faults = [
                Fault::Full,
                Fault::ShortWrite,
                Fault::Sync,
                Fault::Read,
                Fault::Dead,
            ];
            let fault = faults[self.rng.below(5) as usize];
            self.disk.arm(self.rng.below(60), fault);
        }
    }

    /// One batch, with whatever the disk does to it. Returns how often it failed.
    fn batch(&mut self) -> u32 {
        let commands = self.commands();
        self.batches += 1;
        let batch = self.batches;
        let (mut next, mut expected) = (self.answered.clone(), Vec::new());
        next.commit(self.batches, 0, &commands, &mut expected)
            .expect("commits");
        let mut failures = 0;
        loop {
            let mut found = Vec::new();
            match self.store().commit(batch, 0, &commands, &mut found) {
                Ok(()) => {
                    self.compare(&found, &expected);
                    self.generator.observe(&found);
                    self.answered = next;
                    if commands.iter().any(|(_, command)| command.promises()) {
                        self.synced = self.answered.clone();
                    }
                    return failures;
                }
                Err(error) => {
                    assert!(found.is_empty(), "nothing is answered");
                    assert!(is_passing(&error), "a failing disk is no damage: {error}");
                    failures += 1;
                }
            }
            match self.rng.below(4) {
                0 => {
                    self.lose_power(Some(next));
                    return failures;
                }
                1 => {} // The fault stays.
                2 => self.disk.heal(),
                _ => {
                    self.disk.heal();
                    self.arm();
                }
            }
        }
    }

    fn compare(&self, found: &[(u16, Completion)], expected: &[(u16, Completion)]) {
        assert_eq!(format!("{found:#?}"), format!("{expected:#?}"));
    }

    /// The machine stops and starts. What is found must be one of the states that may be on the disk.
    fn lose_power(&mut self, in_flight: Option<Memory>) {
        let boot_count = self.store().boot_count();
        // A process that ends in the middle does not tidy up.
        self.disk.arm(0, Fault::Dead);
        self.store = None;
        self.disk.lose_power();
        self.reopen();
        assert!(
            self.store().boot_count() > boot_count,
            "every start is counted"
        );
        self.disk.heal();
        let found = (restored(self.store()), mailboxes(self.store(), 0));
        let candidates = [
            Some(self.synced.clone()),
            Some(self.answered.clone()),
            in_flight,
        ];
        let mut seen = Vec::new();
        for mut candidate in candidates.into_iter().flatten() {
            candidate.restart(0);
            let expected = (restored(&mut candidate), mailboxes(&mut candidate, 0));
            if found == expected {
                self.answered = candidate.clone();
                self.synced = candidate;
                return;
            }
            seen.push(expected);
        }
        panic!("found {found:#?}\nand not one of {seen:#?}");
    }

    /// Opens the store again, against faults and more losses of power.
    fn reopen(&mut self) {
        self.arm();
        loop {
            // What `Embedded::open` asks of the page cache.
            self.disk.forget_lost_pages();
            match Embedded::open_on(self.disk.storage(), "(test)", self.options, 0) {
                Ok(store) => {
                    self.store = Some(store);
                    return;
                }
                Err(error) => assert!(is_passing(&error), "a failing disk is no damage: {error}"),
            }
            if self.rng.chance(50) {
                self.disk.lose_power();
            }
            self.disk.heal();
            if self.rng.chance(30) {
                self.arm();
            }
        }
    }

    fn store(&mut self) -> &mut Embedded {
        self.store.as_mut().expect("the machine is on")
    }
}

fn is_passing(error: &EngineError) -> bool {
    matches!(error, EngineError::Full { .. } | EngineError::Io { .. })
}

fn seeds() -> u64 {
    let text = std::env::var("ENGINE_CRASH_SEEDS").unwrap_or_default();
    text.parse().unwrap_or(300)
}

#[test]
fn keeps_what_it_answered_through_faults_and_losses_of_power() {
    let mut failures = 0;
    for seed in 0..seeds() {
        let result = std::panic::catch_unwind(|| {
            let mut run = Run::new(seed);
            let mut failures = 0;
            for _ in 0..10 {
                run.arm();
                failures += run.batch();
                match run.rng.below(10) {
                    0 => {
                        run.lose_power(None);
                    }
                    1 => {
                        run.disk.heal();
                        run.store().sync().expect("syncs");
                        run.synced = run.answered.clone();
                    }
                    _ => {}
                }
            }
            run.lose_power(None);
            failures
        });
        match result {
            Ok(count) => failures += count,
            Err(panic) => {
                eprintln!("seed {seed}");
                std::panic::resume_unwind(panic);
            }
        }
    }
    assert!(
        u64::from(failures) > seeds(),
        "the faults do hit: {failures}"
    );
}

/// Batches are small here and the store is large, so that a repeated commit does not write again all that the failed one
/// has lost.
#[test]
fn survives_syncs_that_lose_pages() {
    for seed in 0..8 {
        let mut run = Run::new(seed);
        for batch in 1..=200 {
            let session = SessionId(1 + run.rng.below(2_000));
            let mut record = engine_support::record(&mut run.rng);
            record.client_id = "x".repeat(run.rng.below(600) as usize).into();
            let put = Command::PutSession {
                token: Token(batch),
                session,
                record: Box::new(record),
            };
            let commands = [(0, put)];
            let mut answers = Vec::new();
            run.answered
                .commit(batch, 0, &commands, &mut answers)
                .expect("commits");
            run.disk.arm(run.rng.below(20), Fault::Sync);
            while run
                .store()
                .commit(batch, 0, &commands, &mut answers)
                .is_err()
            {
                run.disk.heal();
            }
            run.disk.heal();
            if run.rng.chance(3) {
                run.synced = run.answered.clone();
                run.lose_power(None);
            }
        }
    }
}
