//! The store that the nodes of a cluster share: each has an engine thread of its own, whose batches are applied and answered with
//! delays. What a node had sent before it ended is applied later, under its name.

use std::collections::VecDeque;

use gateway::engine::{Command, Completion, Engine};
use gateway::turn::Now;

use crate::disk::{Disk, mutated};
use crate::nodes::State;
use crate::plan::Planted;
use crate::random::Random;
use crate::world::World;

/// The engine thread of a node.
#[derive(Debug, Default)]
pub(crate) struct EngineThread {
    /// What was sent to the store and is not applied. With each command the number of its core.
    batch: Vec<(u16, Command)>,
    /// Answers on their way.
    answers: Vec<(u16, Completion)>,
    first: usize,
    /// The store does not answer this node until then.
    pub(crate) failing_until_ms: u64,
}

impl EngineThread {
    pub(crate) fn is_idle(&self) -> bool {
        self.batch.is_empty() && self.answers.is_empty()
    }
}

/// What a node that has ended left on its way to the store.
#[derive(Debug)]
pub(crate) struct Left {
    due_ms: u64,
    life: u64,
    batch: Vec<(u16, Command)>,
}

impl Disk {
    /// A node ends: what it had sent comes to the store later, as far as it was sent.
    pub(crate) fn outlive(
        &mut self,
        random: &mut Random,
        now: Now,
        life: u64,
        engine: EngineThread,
    ) {
        let mut batch = engine.batch;
        batch.truncate(random.below(batch.len() + 1));
        let due_ms = now.mono_ms + random.between(0, 6_000);
        if !batch.is_empty() {
            self.left.push(Left {
                due_ms,
                life,
                batch,
            });
        }
    }

    /// What nodes that have ended had sent arrives.
    fn apply_left(&mut self, random: &mut Random, now: Now, all: bool) {
        for left in std::mem::take(&mut self.left) {
            if all || left.due_ms <= now.mono_ms {
                self.apply_as(random, now, left.life, &left.batch); // Nobody is there to hear the answers.
            } else {
                self.left.push(left);
            }
        }
    }

    fn apply_as(
        &mut self,
        random: &mut Random,
        now: Now,
        life: u64,
        batch: &[(u16, Command)],
    ) -> Vec<(u16, Completion)> {
        let planted = self.planted;
        let mutated = planted.and_then(|planted| mutated(planted, random, batch));
        let batch = mutated.as_deref().unwrap_or(batch);
        self.note_names(batch);
        let mut answers = Vec::new();
        if self.planted == Some(Planted::DeposedWrites) {
            for command in batch {
                let is_claim = matches!(command.1, Command::Claim { .. });
                self.commit_as(
                    now,
                    is_claim.then_some(life),
                    std::slice::from_ref(command),
                    &mut answers,
                );
            }
        } else {
            self.commit_as(now, Some(life), batch, &mut answers);
        }
        if self.planted == Some(Planted::ServesUnread) && random.percent(20) {
            answers.retain(|(_, answer)| !matches!(answer, Completion::Loaded { .. }));
        }
        self.note_overflows(&answers);
        answers
    }

    fn commit_as(
        &mut self,
        now: Now,
        life: Option<u64>,
        batch: &[(u16, Command)],
        answers: &mut Vec<(u16, Completion)>,
    ) {
        match life {
            Some(life) => self.memory.act_as(life),
            None => self.memory.act_unfenced(),
        }
        self.memory
            .commit(self.batch_number, now.unix_ms, batch, answers)
            .expect("a store in memory without a fault works");
        self.batch_number += 1;
    }
}

impl World {
    /// One step of the engine thread of a node; of all of them when all is calm.
    pub(crate) fn shared_engine_step(&mut self) {
        let (now, calm) = (self.now, self.calm);
        self.disk.apply_left(&mut self.engine_random, now, calm);
        if calm {
            for node in 0..usize::from(self.plan.nodes) {
                // There and back.
                self.node_engine_step(node);
                self.node_engine_step(node);
                self.node_engine_step(node);
            }
        } else {
            let node = self.engine_random.below(usize::from(self.plan.nodes));
            self.node_engine_step(node);
        }
    }

    fn node_engine_step(&mut self, place: usize) {
        let (now, calm) = (self.now, self.calm);
        let cores = usize::from(self.plan.cores);
        let Some(nodes) = &mut self.nodes else {
            return;
        };
        let node = &mut nodes.all[place];
        if node.state != State::Living {
            return;
        }
        let random = &mut self.engine_random;
        let engine = &mut node.engine;
        let reaches = now.mono_ms >= node.paused_ms && now.mono_ms >= node.cut_ms;
        if !engine.answers.is_empty() {
            if reaches && (calm || random.percent(70)) {
                for (number, answer) in std::mem::take(&mut engine.answers) {
                    let at = &mut self.cores[place * cores..(place + 1) * cores];
                    if let Some(core) = at.iter_mut().find(|core| core.number == number) {
                        core.completions.push_back(answer);
                    }
                }
            }
            return;
        }
        if engine.batch.is_empty() && reaches {
            let at = &mut self.cores[place * cores..(place + 1) * cores];
            let mut queues: Vec<(u16, &mut VecDeque<Command>)> = at
                .iter_mut()
                .map(|core| (core.number, &mut core.commands))
                .collect();
            collect(random, &mut engine.first, &mut queues, &mut engine.batch);
        }
        let is_due = calm || random.percent(if reaches { 70 } else { 10 });
        if is_due && !engine.batch.is_empty() && now.mono_ms >= engine.failing_until_ms {
            let batch = std::mem::take(&mut engine.batch);
            let life = node.life;
            engine.answers = self.disk.apply_as(random, now, life, &batch);
        }
    }
}

fn collect(
    random: &mut Random,
    first: &mut usize,
    queues: &mut [(u16, &mut VecDeque<Command>)],
    batch: &mut Vec<(u16, Command)>,
) {
    let cores = queues.len();
    for index in (0..cores).map(|offset| (*first + offset) % cores) {
        let (number, queue) = &mut queues[index];
        let waiting = queue.len();
        let count = if random.percent(60) {
            waiting
        } else {
            random.below(waiting + 1)
        };
        batch.extend(queue.drain(..count).map(|command| (*number, command)));
    }
    *first = (*first + 1) % cores;
}
