//! The mesh between the cores of a node: one queue per pair and lane, bounded or not, in order, standing still now and then.

use std::collections::VecDeque;

use gateway::core_message::{CoreMessage, Stage};
use gateway::shard::Event;

use crate::plan::Planted;
use crate::random::fold;
use crate::world::{Core, World};

impl World {
    /// The mesh from one core to another stands still for a while.
    pub(crate) fn freeze(&mut self, from: usize, to: usize, ms: u64) {
        self.frozen.push((from, to, self.now.mono_ms + ms));
    }

    pub(crate) fn take_mesh(&mut self, core: usize) {
        let now_ms = self.now.mono_ms;
        self.frozen.retain(|(_, _, until_ms)| *until_ms > now_ms);
        for lane in 0..2 {
            let node = self.node_of(core);
            for (from, sender) in node.enumerate() {
                if self
                    .frozen
                    .iter()
                    .any(|(one, other, _)| (*one, *other) == (sender, core))
                {
                    continue;
                }
                let waiting = self.cores[core].inbox[from][lane].len();
                let whole = self.calm || self.mesh_random.percent(60);
                let count = if whole {
                    waiting
                } else {
                    self.mesh_random.below(waiting + 1)
                };
                for _ in 0..count {
                    self.plant_in_mesh(core, from, lane);
                    let number = self.cores[sender].number;
                    let Some(message) = self.cores[core].inbox[from][lane].pop_front() else {
                        break;
                    };
                    self.hash = fold(fold(self.hash, 2), from as u64);
                    self.handle(core, Event::Core(number, message));
                }
            }
        }
    }

    fn plant_in_mesh(&mut self, core: usize, from: usize, lane: usize) {
        if lane != 0 || self.planted_left == 0 {
            return;
        }
        let queue = &mut self.cores[core].inbox[from][lane];
        match self.planted {
            Some(Planted::MeshDropsControl) if self.mesh_random.percent(2) => {
                self.planted_left -= 1;
                queue.pop_front();
            }
            Some(Planted::HoldsNothingBack) if self.mesh_random.percent(50) => {
                overtake_installed(queue);
            }
            Some(Planted::MeshReorders) if queue.len() > 1 && self.mesh_random.percent(50) => {
                queue.swap(0, 1);
            }
            _ => {}
        }
    }

    pub(crate) fn flush_mesh(&mut self, core: usize) {
        let node = self.node_of(core);
        let from = core - node.start;
        for (to, receiver) in node.enumerate() {
            for lane in 0..2 {
                let mut queue = std::mem::take(&mut self.cores[core].outbox.mesh[to][lane]);
                while self.cores[receiver].inbox[from][lane].len() < self.plan.mesh_slots
                    && let Some(message) = queue.pop_front()
                {
                    self.cores[receiver].inbox[from][lane].push_back(message);
                }
                while lane == 1
                    && queue.len() > self.plan.lossy_backlog
                    && let Some(message) = queue.pop_back()
                {
                    self.cores[core].shard.dropped_in_mesh(&message);
                }
                self.cores[core].outbox.mesh[to][lane] = queue;
            }
        }
    }

    /// True when a CONNECT of this client identifier is on its way to its home.
    pub(crate) fn is_attaching(&self, client_id: &str) -> bool {
        let attaches = |message: &CoreMessage| matches!(message, CoreMessage::Attach(attach) if *attach.client_id == *client_id);
        let queues = |core: &Core| {
            core.inbox
                .iter()
                .chain(&core.outbox.mesh)
                .flatten()
                .flatten()
                .any(attaches)
        };
        let on_bus = |core: &Core| core.outbox.bus.iter().any(|(_, message)| attaches(message));
        let nodes = self.nodes.as_ref();
        self.cores.iter().any(queues)
            || self.cores.iter().any(on_bus)
            || nodes.is_some_and(|nodes| nodes.pipes.iter().any(attaches))
    }
}

/// What follows the news that a core has a view comes before it.
pub(crate) fn overtake_installed(queue: &mut VecDeque<CoreMessage>) {
    let is_installed = |message: &CoreMessage| matches!(message, CoreMessage::Handover(step) if step.stage == Stage::Installed);
    if queue.len() > 1 && queue.front().is_some_and(is_installed) {
        let installed = queue.pop_front();
        queue.extend(installed);
    }
}
