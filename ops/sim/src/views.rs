//! The script that decides on views, and how they reach nodes and cores.

use std::sync::Arc;

use cluster::view::{Joining, Role, View};
use gateway::core_message::CoreMessage;
use gateway::ownership::Ownership;
use gateway::shard::Event;

use crate::nodes::{LEASE_MS, Leaving, Node, State, Wish};
use crate::plan::Planted;
use crate::random::fold;
use crate::world::{Core, World};

impl World {
    /// What is due at the nodes, whenever time may have passed.
    pub(crate) fn tick_nodes(&mut self) {
        if self.nodes.is_none() {
            return;
        }
        for node in 0..usize::from(self.plan.nodes) {
            self.tick_node(node);
        }
        self.commit_view();
        for node in 0..usize::from(self.plan.nodes) {
            self.hear_views(node);
        }
    }

    fn tick_node(&mut self, place: usize) {
        let (now_ms, calm) = (self.now.mono_ms, self.calm);
        let has_left_all = self.has_left_all(place);
        let Some(nodes) = &mut self.nodes else {
            return;
        };
        let random = &mut nodes.random;
        let node = &mut nodes.all[place];
        if let State::Down { up_at_ms } = node.state
            && now_ms >= up_at_ms
        {
            node.id.incarnation += 1;
            node.state = State::Joining {
                from_ms: now_ms + random.between(0, 400),
            };
            (node.epoch, node.out_ms) = (0, None);
            (node.paused_ms, node.cut_ms) = (0, 0);
            node.heard.clear();
        }
        let is_member = nodes.view.contains(node.id);
        if !node.is_silent(now_ms) {
            node.out_ms = None;
            if is_member && node.state == State::Living {
                node.lease_ms = now_ms + LEASE_MS;
            }
        } else if is_member && node.out_ms.is_none() {
            node.out_ms = Some(match node.state {
                State::Down { .. } => now_ms + random.between(100, 2_500),
                // Who may still serve is not replaced.
                _ => node.lease_ms + random.between(1, 800),
            });
        }
        if node.leaving == Leaving::Asked && has_left_all && (calm || random.percent(5)) {
            node.leaving = Leaving::Drained {
                out_ms: now_ms + random.between(0, 1_000),
            };
            self.send_clients_away(place);
        }
    }

    /// True when a view has this node leaving, and its cores have handed over what they owned.
    fn has_left_all(&self, place: usize) -> bool {
        let Some(nodes) = &self.nodes else {
            return false;
        };
        let id = nodes.all[place].id;
        let leaves = |view: &View| {
            let member = view.member(id.uid);
            member.is_some_and(|member| member.node == id && member.role == Role::Leaving)
        };
        let has = |core: &Core| core.view.as_deref().is_some_and(leaves) && core.is_serving();
        let first = place * usize::from(self.plan.cores);
        self.cores[self.node_of(first)].iter().all(has)
    }

    fn send_clients_away(&mut self, place: usize) {
        let first = place * usize::from(self.plan.cores);
        self.news
            .push(format!("node {place} sends its clients away"));
        for core in self.node_of(first) {
            for wire in self.cores[core].slots.iter().flatten() {
                self.wires[*wire].sent_away = true;
            }
            self.handle(core, Event::Stop);
        }
    }

    /// Makes the next view when there is a reason for one.
    fn commit_view(&mut self) {
        let (now_ms, calm, cores) = (self.now.mono_ms, self.calm, self.plan.cores);
        let jumps = self.plan.jumps;
        let Some(nodes) = &mut self.nodes else {
            return;
        };
        let view = &nodes.view;
        let all = nodes.all.iter();
        let is_out = |node: &&Node| {
            let drained = matches!(node.leaving, Leaving::Drained { out_ms } if now_ms >= out_ms);
            view.contains(node.id)
                && (drained || node.out_ms.is_some_and(|out_ms| now_ms >= out_ms))
        };
        let gone: Vec<u64> = all.clone().filter(is_out).map(|node| node.id.uid).collect();
        let joins = |node: &&Node| {
            let waits = matches!(node.state, State::Joining { from_ms } if now_ms >= from_ms);
            waits && !view.contains(node.id)
        };
        let newcomers: Vec<Joining> = all
            .clone()
            .filter(joins)
            .map(|node| node.joining(cores))
            .collect();
        let leaves = |node: &&Node| {
            let member = view
                .member(node.id.uid)
                .filter(|member| member.node == node.id);
            node.leaving == Leaving::Asked
                && member.is_some_and(|member| member.role == Role::Active)
        };
        let leaving: Vec<u64> = all.filter(leaves).map(|node| node.id.uid).collect();
        if gone.is_empty() && newcomers.is_empty() && leaving.is_empty() && nodes.wishes.is_empty()
        {
            return;
        }
        let jump = if !calm && jumps && nodes.random.percent(20) {
            3
        } else {
            1
        };
        let epoch = view.epoch + jump;
        // Nobody is left: the view stays until somebody joins.
        let Ok((mut next, _)) = view.step(epoch, &gone, &newcomers) else {
            return;
        };
        for uid in leaving {
            next = next.with_role(epoch, uid, Role::Leaving).unwrap_or(next);
        }
        for wish in std::mem::take(&mut nodes.wishes) {
            if let Wish::Weight(uid, weight) = wish {
                next = next.with_weight(epoch, uid, weight).unwrap_or(next);
            }
        }
        let members: Vec<u64> = next.members.iter().map(|member| member.node.uid).collect();
        self.news
            .push(format!("view {epoch}: {members:?}, gone {gone:?}"));
        nodes.view = Arc::new(next);
        nodes.upheavals += 1;
        self.hash = fold(self.hash, epoch);
        for node in &mut nodes.all {
            if calm || !jumps || nodes.random.percent(80) {
                let delay_ms = if calm {
                    0
                } else {
                    nodes.random.between(0, 600)
                };
                node.heard
                    .push((now_ms + delay_ms, Arc::clone(&nodes.view)));
            }
        }
    }

    /// A node takes the views that have reached it.
    fn hear_views(&mut self, place: usize) {
        let (now_ms, calm, jumps) = (self.now.mono_ms, self.calm, self.plan.jumps);
        let Some(nodes) = &mut self.nodes else {
            return;
        };
        let last = Arc::clone(&nodes.view);
        let node = &mut nodes.all[place];
        if node.is_silent(now_ms) {
            return;
        }
        if node.epoch < last.epoch && node.heard.is_empty() && (calm || nodes.random.percent(10)) {
            node.heard.push((now_ms, last));
        }
        let heard = std::mem::take(&mut node.heard);
        let (mut due, later): (Vec<_>, Vec<_>) =
            heard.into_iter().partition(|(at_ms, _)| *at_ms <= now_ms);
        node.heard = later;
        if !jumps && node.state == State::Living {
            due.sort_by_key(|(_, view)| view.epoch);
            let mut next = node.epoch;
            due.retain(|(at_ms, view)| {
                let follows = view.epoch <= next + 1;
                next = next.max(if follows { view.epoch } else { next });
                if !follows {
                    node.heard.push((*at_ms, Arc::clone(view)));
                }
                follows
            });
        }
        for (_, view) in due {
            self.hear_view(place, &view);
        }
    }

    fn hear_view(&mut self, place: usize, view: &Arc<View>) {
        let Some(nodes) = &mut self.nodes else {
            return;
        };
        let node = &mut nodes.all[place];
        if view.epoch <= node.epoch {
            return;
        }
        node.epoch = view.epoch;
        let is_member = view.contains(node.id);
        match (node.state, is_member) {
            (State::Living, true) => self.give_view(place, view),
            (State::Joining { .. }, true) => self.begin_life(place, view),
            (State::Living, false) => {
                let has_left = matches!(node.leaving, Leaving::Drained { .. });
                let now_ms = self.now.mono_ms;
                let away_ms = nodes.random.between(0, 2_000);
                let up_at_ms = now_ms + if has_left { away_ms } else { 0 };
                self.end_life(place, up_at_ms);
            }
            _ => {}
        }
    }

    /// The cores of a node are told of a view. A later one may take the place of one that waits.
    pub(crate) fn give_view(&mut self, place: usize, view: &Arc<View>) {
        let Some(nodes) = &mut self.nodes else {
            return;
        };
        let uid = nodes.all[place].id.uid;
        let Some(ownership) = Ownership::of(view, uid).map(Arc::new) else {
            return;
        };
        let cores = usize::from(self.plan.cores);
        for core in &mut self.cores[place * cores..(place + 1) * cores] {
            if self.plan.jumps && nodes.random.percent(50) {
                core.views.clear();
            }
            core.views
                .push_back((Arc::clone(view), Arc::clone(&ownership)));
        }
    }

    /// A core takes a view: the first one before anything else, any other when it gets to it.
    pub(crate) fn take_view(&mut self, core: usize) {
        let Some(nodes) = &mut self.nodes else {
            return;
        };
        let at = &mut self.cores[core];
        let at_once = at.view.is_none() || self.calm;
        if at.views.is_empty() || !(at_once || nodes.random.percent(40)) {
            return;
        }
        let Some((view, ownership)) = at.views.pop_front() else {
            return;
        };
        let has = |view: &View, core| view.member_of_core(core).is_some();
        let before = at.view.take();
        let had = |core| before.as_deref().is_some_and(|before| has(before, core));
        nodes
            .pipes
            .follow(at.number, |core| had(core) && !has(&view, core));
        nodes.upheavals += 1;
        at.view = Some(Arc::clone(&view));
        at.installed_ms = self.now.mono_ms;
        self.hash = fold(fold(self.hash, 5), view.epoch);
        self.handle(core, Event::View(ownership));
        if self.planted == Some(Planted::AsksOnce) {
            self.forget_repeated(core);
        }
    }

    fn forget_repeated(&mut self, core: usize) {
        let is_repeated = |message: &CoreMessage| matches!(message, CoreMessage::Publish(request) if request.retry);
        let outbox = &mut self.cores[core].outbox;
        outbox.bus.retain(|(_, message)| !is_repeated(message));
        for lane in outbox.mesh.iter_mut().flatten() {
            lane.retain(|message| !is_repeated(message));
        }
    }
}
