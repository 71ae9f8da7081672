//! What is between cores of different nodes: one queue per pair and lane, in order, with any delay. Connections come and go under it and
//! are not simulated: a link resumes, so while both nodes live nothing is lost or doubled. When a node ends, what it had not got out is
//! lost, and so is what was for it.

use std::collections::{BTreeMap, VecDeque};

use gateway::core_message::CoreMessage;
use gateway::shard::Event;

use crate::mesh::overtake_installed;
use crate::plan::Planted;
use crate::random::{Random, fold};
use crate::world::World;

/// Messages under way, by numbers of the cores that send and receive, and by lane.
#[derive(Debug, Default)]
pub(crate) struct Pipes(BTreeMap<(u16, u16), [VecDeque<CoreMessage>; 2]>);

impl Pipes {
    /// A core has another view: to and from cores of former members there is no link any more.
    pub(crate) fn follow(&mut self, core: u16, is_gone: impl Fn(u16) -> bool) {
        self.0.retain(|(from, to), _| {
            (*to != core || !is_gone(*from)) && (*from != core || !is_gone(*to))
        });
    }

    /// A node has ended: a part of what its cores sent is still in the network, what was for them is lost.
    pub(crate) fn cut(&mut self, random: &mut Random, is_gone: impl Fn(u16) -> bool) {
        self.0.retain(|(_, to), _| !is_gone(*to));
        for ((from, _), lanes) in &mut self.0 {
            if is_gone(*from) {
                for lane in lanes {
                    lane.truncate(random.below(lane.len() + 1));
                }
            }
        }
    }

    /// Messages that one core has under way.
    fn sent_by(&self, core: u16) -> usize {
        let pipes = self.0.range((core, 0)..=(core, u16::MAX));
        pipes.map(|(_, [control, _])| control.len()).sum()
    }

    /// True when nothing is under way between these: from a core, to a core.
    pub(crate) fn is_quiet(&self, concerns: impl Fn(u16, u16) -> bool) -> bool {
        let mut pipes = self.0.iter().filter(|((from, to), _)| concerns(*from, *to));
        pipes.all(|(_, lanes)| lanes.iter().all(VecDeque::is_empty))
    }

    /// All messages under way.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &CoreMessage> {
        self.0.values().flatten().flatten()
    }
}

impl World {
    /// Puts what a turn has for other nodes on its way.
    pub(crate) fn flush_bus(&mut self, core: usize) {
        let messages = std::mem::take(&mut self.cores[core].outbox.bus);
        for (to, message) in messages {
            self.put_on_bus(core, to, message);
        }
    }

    fn put_on_bus(&mut self, core: usize, to: u16, message: CoreMessage) {
        let from = self.cores[core].number;
        let view = self.cores[core].view.as_ref();
        let has_link = view.is_some_and(|view| view.member_of_core(to).is_some());
        let (Some(nodes), true) = (&mut self.nodes, has_link) else {
            self.cores[core].shard.dropped_in_mesh(&message);
            return;
        };
        let lane = usize::from(message.is_lossy());
        let queue = &mut nodes.pipes.0.entry((from, to)).or_default()[lane];
        if lane == 1 && queue.len() >= self.plan.lossy_backlog {
            self.cores[core].shard.dropped_in_mesh(&message);
        } else {
            queue.push_back(message);
        }
    }

    /// True while links take no more of what may not be lost.
    pub(crate) fn is_bus_behind(&self, core: usize) -> bool {
        let number = self.cores[core].number;
        let backlog = self.plan.congested_from;
        let nodes = self.nodes.as_ref();
        nodes.is_some_and(|nodes| nodes.pipes.sent_by(number) > backlog)
    }

    /// Takes some of what other nodes have sent. There is a link to a node that the view of this core has.
    pub(crate) fn take_bus(&mut self, core: usize) {
        let to = self.cores[core].number;
        let (Some(nodes), Some(view)) = (&self.nodes, &self.cores[core].view) else {
            return;
        };
        let keys = nodes.pipes.0.keys().copied();
        let senders: Vec<u16> = keys
            .filter(|key| key.1 == to && view.member_of_core(key.0).is_some())
            .map(|key| key.0)
            .collect();
        for from in senders {
            if self.is_clogged(from, core) {
                continue;
            }
            for lane in 0..2 {
                self.take_pipe(core, (from, to), lane);
            }
        }
    }

    fn take_pipe(&mut self, core: usize, key: (u16, u16), lane: usize) {
        let waiting = self.piped(key, lane, |queue| queue.len());
        let whole = self.calm || self.mesh_random.percent(50);
        let count = if whole {
            waiting
        } else {
            self.mesh_random.below(waiting + 1)
        };
        for _ in 0..count {
            let overtakes = self.planted == Some(Planted::HoldsNothingBack)
                && lane == 0
                && self.mesh_random.percent(50);
            let message = self.piped(key, lane, |queue| {
                if overtakes {
                    overtake_installed(queue);
                }
                queue.pop_front()
            });
            let Some(message) = message else {
                break;
            };
            self.hash = fold(fold(self.hash, 4), u64::from(key.0));
            self.handle(core, Event::Core(key.0, message));
        }
    }

    fn piped<T: Default>(
        &mut self,
        key: (u16, u16),
        lane: usize,
        act: impl FnOnce(&mut VecDeque<CoreMessage>) -> T,
    ) -> T {
        let pipes = self.nodes.as_mut().map(|nodes| &mut nodes.pipes.0);
        let lanes = pipes.and_then(|pipes| pipes.get_mut(&key));
        lanes.map_or_else(T::default, |lanes| act(&mut lanes[lane]))
    }

    /// True while nothing comes through from a core to another.
    fn is_clogged(&self, from: u16, core: usize) -> bool {
        let sender = self.cores.iter().position(|other| other.number == from);
        let Some(sender) = sender else {
            return false; // Its node has ended; the rest of what it sent is on its way.
        };
        let now_ms = self.now.mono_ms;
        let frozen = self.frozen.iter();
        let mut frozen = frozen.filter(|(_, _, until_ms)| *until_ms > now_ms);
        frozen.any(|(one, other, _)| (*one, *other) == (sender, core))
            || self.is_link_clogged(sender, core)
    }
}
