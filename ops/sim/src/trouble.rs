//! What goes wrong in a cluster: nodes end, stand still, are cut off, leave; links stand still; views follow one another.

use crate::nodes::{Leaving, Node, Nodes, State, Wish};
use crate::run::Run;

impl Run {
    /// One trouble, drawn by the weights of this run.
    pub(crate) fn cluster_fault(&mut self) {
        let troubles = self.world.plan.troubles;
        let weights = [
            troubles.crash,
            troubles.pause,
            troubles.cut,
            troubles.clog,
            troubles.leave,
            troubles.view,
            troubles.engine,
            troubles.freeze,
        ];
        if weights.iter().all(|weight| *weight == 0) {
            return;
        }
        let random = &mut self.fault_random;
        let kind = random.weighted(&weights);
        let place = random.below(usize::from(self.world.plan.nodes));
        let (long_ms, short_ms) = (random.between(0, 6_000), random.between(1, 2_500));
        match kind {
            0 => self.crash_node(place, long_ms),
            6 => self.fail_engine(place, short_ms),
            7 => {
                let cores = self.world.cores.len();
                let (from, to) = (random.below(cores), random.below(cores));
                self.world.freeze(from, to, short_ms / 4);
            }
            _ => self.trouble_node(kind, place, (long_ms, short_ms)),
        }
        for news in std::mem::take(&mut self.world.news) {
            self.tell_news(news);
        }
    }

    fn crash_node(&mut self, place: usize, away_ms: u64) {
        let is_living = |node: &Node| node.state == State::Living;
        let nodes = self.world.nodes.as_ref();
        if nodes.is_some_and(|nodes| is_living(&nodes.all[place])) {
            self.tell_news(format!("node {place} crashes"));
            let up_at_ms = self.world.now.mono_ms + away_ms / 2;
            self.world.end_life(place, up_at_ms);
        }
    }

    fn fail_engine(&mut self, place: usize, ms: u64) {
        self.tell_news(format!(
            "the engine does not answer node {place} for {ms} ms"
        ));
        let until_ms = self.world.now.mono_ms + ms;
        if let Some(nodes) = &mut self.world.nodes {
            nodes.all[place].engine.failing_until_ms = until_ms;
        }
    }

    fn trouble_node(&mut self, kind: usize, place: usize, (long_ms, short_ms): (u64, u64)) {
        let now_ms = self.world.now.mono_ms;
        let Some(nodes) = &mut self.world.nodes else {
            return;
        };
        let count = nodes.all.len();
        let random = &mut self.fault_random;
        let uid = nodes.all[place].id.uid;
        let told = match kind {
            1 => {
                nodes.all[place].paused_ms = now_ms + long_ms;
                format!("node {place} stands still for {long_ms} ms")
            }
            2 => {
                nodes.all[place].cut_ms = now_ms + long_ms;
                format!("node {place} is cut off for {long_ms} ms")
            }
            3 => {
                let to = (place + 1 + random.below(count - 1)) % count;
                nodes.clogs.push((place, to, now_ms + short_ms));
                format!("the link from node {place} to {to} stands still for {short_ms} ms")
            }
            4 => {
                if !may_leave(nodes, place) {
                    return;
                }
                nodes.all[place].leaving = Leaving::Asked;
                format!("node {place} is to leave")
            }
            _ => {
                // Several views in a row, while the one before is still on its way.
                let wish = if random.percent(70) {
                    Wish::Weight(uid, *random.pick(&[1, 50, 100, 400]))
                } else {
                    Wish::Number
                };
                nodes.wishes.push(wish);
                format!("{wish:?}")
            }
        };
        self.tell_news(told);
    }

    pub(crate) fn tell_news(&mut self, text: String) {
        if self.verbose {
            self.remember(None, text);
        }
    }
}

/// True when the node is there, and others stay.
fn may_leave(nodes: &Nodes, place: usize) -> bool {
    let stays = |node: &Node| node.state == State::Living && node.leaving == Leaving::No;
    let mut others = nodes.all.iter().enumerate();
    stays(&nodes.all[place]) && others.any(|(at, node)| at != place && stays(node))
}
