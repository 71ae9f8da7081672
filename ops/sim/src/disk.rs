//! The engine thread and its store: commands are taken from the cores at random moments, committed as a batch, and answered
//! together; a failing batch is kept and tried again; a crash keeps what was committed and perhaps loses acknowledgements
//! that no sync has followed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use gateway::engine::memory::{Fault, Memory};
use gateway::engine::{Command, Completion, Engine, Restored};
use gateway::message::SessionId;
use gateway::turn::Now;

use crate::plan::{Plan, Planted};
use crate::random::Random;
use crate::shared::Left;

/// The engine of the simulated node, or the store that simulated nodes share: see `shared.rs`.
#[derive(Debug)]
pub(crate) struct Disk {
    pub(crate) memory: Memory,
    /// What a loss of power leaves: the state after the last batch that was synced.
    synced: Memory,
    pub(crate) batch_number: u64,
    batch: Vec<(u16, Command)>,
    first: usize,
    /// It fails until then.
    pub(crate) failing_until_ms: u64,
    names: BTreeMap<SessionId, String>,
    /// Client ids whose mailbox was full once: nothing is promised to them any more.
    pub(crate) overflowed: BTreeSet<String>,
    pub(crate) rejections: bool,
    pub(crate) planted: Option<Planted>,
    /// What nodes that have ended had sent.
    pub(crate) left: Vec<Left>,
}

impl Disk {
    pub(crate) fn new(plan: &Plan, planted: Option<Planted>, now: Now) -> Self {
        let memory = Memory::new(plan.mailbox, now.unix_ms);
        Self {
            synced: memory.clone(),
            memory,
            batch_number: 1,
            batch: Vec::new(),
            first: 0,
            failing_until_ms: 0,
            names: BTreeMap::new(),
            overflowed: BTreeSet::new(),
            rejections: false,
            planted,
            left: Vec::new(),
        }
    }

    pub(crate) fn boot_count(&self) -> u32 {
        self.memory.boot_count()
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.batch.is_empty() && self.left.is_empty()
    }

    /// One attempt of the engine thread. Returns the answers by core.
    pub(crate) fn step(
        &mut self,
        random: &mut Random,
        now: Now,
        queues: &mut [&mut VecDeque<Command>],
    ) -> Vec<(u16, Completion)> {
        if self.batch.is_empty() {
            self.collect(random, queues);
        }
        let mut answers = Vec::new();
        if self.batch.is_empty() {
            return answers;
        }
        let faults = [Fault::Io, Fault::Full, Fault::IoAfterApply];
        let fault = (now.mono_ms < self.failing_until_ms).then(|| *random.pick(&faults));
        self.memory.set_fault(fault);
        let batch = std::mem::take(&mut self.batch);
        self.note_names(&batch);
        self.batch = batch;
        let batch = match self.planted {
            Some(planted) => mutated(planted, random, &self.batch),
            None => None,
        };
        let commands = batch.as_ref().unwrap_or(&self.batch);
        if self
            .memory
            .commit(self.batch_number, now.unix_ms, commands, &mut answers)
            .is_err()
        {
            return answers;
        }
        self.batch_number += 1;
        if self.planted == Some(Planted::LosesMoved) && random.percent(20) {
            self.lose_moved(now, &mut answers);
        }
        let answered = self.batch.iter().any(|(_, command)| command.promises());
        let early = self.planted == Some(Planted::AnswersBeforeCommit) && random.percent(20);
        if (answered || random.percent(10)) && !early {
            self.synced = self.memory.clone();
        }
        self.batch.clear();
        if self.planted == Some(Planted::ReordersCompletions) {
            answers.reverse();
        }
        self.note_overflows(&answers);
        answers
    }

    /// The last message of a move is neither here nor there, and nobody hears of it.
    fn lose_moved(&mut self, now: Now, answers: &mut Vec<(u16, Completion)>) {
        let is_moved = |(_, answer): &(u16, Completion)| {
            matches!(answer, Completion::Moved { messages: 1.., .. })
        };
        let Some(last) = answers
            .iter()
            .position(is_moved)
            .map(|place| answers.remove(place - 1))
        else {
            return;
        };
        if let (
            core,
            Completion::Appended {
                session, sequence, ..
            },
        ) = last
        {
            let ack = (core, Command::Ack { session, sequence });
            self.memory
                .commit(self.batch_number, now.unix_ms, &[ack], answers)
                .expect("it has just worked");
            self.batch_number += 1;
        }
    }

    fn collect(&mut self, random: &mut Random, queues: &mut [&mut VecDeque<Command>]) {
        let cores = queues.len();
        for index in (0..cores).map(|offset| (self.first + offset) % cores) {
            let waiting = queues[index].len();
            let count = if random.percent(60) {
                waiting
            } else {
                random.below(waiting + 1)
            };
            self.batch.extend(
                queues[index]
                    .drain(..count)
                    .map(|command| (index as u16, command)),
            );
        }
        self.first = (self.first + 1) % cores;
    }

    pub(crate) fn note_names(&mut self, batch: &[(u16, Command)]) {
        for (_, command) in batch {
            if let Command::PutSession {
                session, record, ..
            } = command
            {
                self.names.insert(*session, record.client_id.to_string());
            }
        }
    }

    pub(crate) fn note_overflows(&mut self, answers: &[(u16, Completion)]) {
        for (_, answer) in answers {
            let session = match answer {
                Completion::Appended {
                    session, evicted, ..
                } if !evicted.is_empty() => session,
                Completion::Rejected { session } => {
                    self.rejections = true;
                    session
                }
                _ => continue,
            };
            if let Some(name) = self.names.get(session) {
                self.overflowed.insert(name.clone());
            }
        }
    }

    /// The process ends; with `power` everything that was not synced is gone too. Returns what the next one finds.
    pub(crate) fn crash(&mut self, random: &mut Random, now: Now, power: bool) -> Vec<Restored> {
        self.batch.clear();
        self.failing_until_ms = 0;
        let boots = self.memory.boot_count();
        if power || self.planted == Some(Planted::AnswersBeforeCommit) {
            self.memory = self.synced.clone();
        }
        while self.memory.boot_count() < boots {
            self.memory.restart(now.unix_ms);
        }
        self.memory.restart(now.unix_ms);
        self.synced = self.memory.clone();
        let mut found = Vec::new();
        self.memory
            .restore(&mut |item| found.push(item))
            .expect("a store in memory reads");
        match self.planted {
            Some(Planted::RestoreForgetsSubscription) => forget(random, &mut found, |item| {
                matches!(item, Restored::Subscription { .. })
            }),
            Some(Planted::RestoreForgetsRetained) => forget(random, &mut found, |item| {
                matches!(item, Restored::Retained { .. })
            }),
            Some(Planted::RestoreForgetsGroupQueue) => forget(random, &mut found, |item| {
                matches!(item, Restored::Session { session, mailbox, .. }
                    if session.is_group_queue() && mailbox.messages > 0)
            }),
            Some(Planted::RestoreForgetsReceived) => {
                for item in &mut found {
                    if let Restored::Session { received, .. } = item {
                        received.clear();
                    }
                }
            }
            _ => {}
        }
        found
    }
}

fn forget(random: &mut Random, found: &mut Vec<Restored>, is_one: impl Fn(&Restored) -> bool) {
    let places: Vec<usize> = (0..found.len())
        .filter(|&index| is_one(&found[index]))
        .collect();
    if !places.is_empty() {
        found.remove(*random.pick(&places));
    }
}

/// The batch with a planted bug in it, now and then.
pub(crate) fn mutated(
    planted: Planted,
    random: &mut Random,
    batch: &[(u16, Command)],
) -> Option<Vec<(u16, Command)>> {
    if planted != Planted::IgnoresIds && !random.percent(10) {
        return None;
    }
    let mut batch = batch.to_vec();
    for (_, command) in &mut batch {
        match (planted, &mut *command) {
            (Planted::LosesAppend, Command::Publish { appends, .. }) => {
                appends.pop();
            }
            (Planted::DuplicatesAppend, Command::Publish { appends, .. }) => {
                let twice = appends.last().cloned();
                appends.extend(twice);
            }
            (Planted::ForgetsReceived, Command::Publish { received, .. }) => *received = None,
            (Planted::IgnoresIds, Command::Publish { retry, .. }) => *retry = false,
            (Planted::ForgetsPubRec, Command::PubRec { sequence, .. }) => *sequence = u64::MAX,
            _ => {}
        }
    }
    Some(batch)
}
