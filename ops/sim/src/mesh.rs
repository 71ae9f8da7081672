//! The mesh between the cores: one queue per pair and lane, bounded or not, in order, standing still now and then.

use gateway::core_message::CoreMessage;
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
            for from in 0..self.cores.len() {
                if self
                    .frozen
                    .iter()
                    .any(|(one, other, _)| (*one, *other) == (from, core))
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
                    let Some(message) = self.cores[core].inbox[from][lane].pop_front() else {
                        break;
                    };
                    self.hash = fold(fold(self.hash, 2), from as u64);
                    self.handle(core, Event::Core(from as u16, message));
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
            Some(Planted::MeshReorders) if queue.len() > 1 && self.mesh_random.percent(50) => {
                queue.swap(0, 1);
            }
            _ => {}
        }
    }

    pub(crate) fn flush_mesh(&mut self, core: usize) {
        for to in 0..self.cores.len() {
            for lane in 0..2 {
                let mut queue = std::mem::take(&mut self.cores[core].outbox.mesh[to][lane]);
                while self.cores[to].inbox[core][lane].len() < self.plan.mesh_slots
                    && let Some(message) = queue.pop_front()
                {
                    self.cores[to].inbox[core][lane].push_back(message);
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
        self.cores.iter().any(queues)
    }
}
