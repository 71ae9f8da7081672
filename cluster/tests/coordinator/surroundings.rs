//! What is between the processes: the bus, gossip, and the store; and chance.

use std::sync::Arc;

use cluster::coordinator::{Content, Input, Stored, Written};
use cluster::view::{NodeId, Version, View};

use crate::world::{Event, StoreAsk, World};

/// SplitMix64.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x2545_F491_4F6C_DD1D) ^ 0x9E37_79B9)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut value = self.0;
        value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        value ^ (value >> 31)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// A stored view, and how often it was refreshed.
pub(crate) type State = (Option<(Version, Arc<View>)>, u64);

/// The store: its last states, so that a failover can forget some.
#[derive(Default)]
pub(crate) struct Store {
    pub(crate) states: Vec<State>,
    pub(crate) down: bool,
    /// Percent of requests that fail, half of them after they were done.
    pub(crate) errors: u64,
    pub(crate) rollbacks: u64,
}

impl Store {
    pub(crate) fn view(&self) -> Option<&Arc<View>> {
        self.states.last()?.0.as_ref().map(|(_, view)| view)
    }

    pub(crate) fn version(&self) -> Option<Version> {
        self.states.last()?.0.as_ref().map(|(version, _)| *version)
    }

    pub(crate) fn beat(&self) -> u64 {
        self.states.last().map_or(0, |state| state.1)
    }

    pub(crate) fn forget(&mut self, steps: usize) {
        let left = self.states.len().saturating_sub(steps);
        self.states.truncate(left);
        self.rollbacks += 1;
    }
}

impl World {
    /// Something goes over the bus; a link that is cut loses it.
    pub(crate) fn send(&mut self, from: usize, to: usize, run: u64, input: Input) {
        if self.cut[from][to] || self.bus_cut[from][to] {
            return;
        }
        let at_ms = self.now_ms + self.random.between(1, 20);
        self.at(
            at_ms,
            Event::Input {
                slot: to,
                run,
                input,
            },
        );
    }

    pub(crate) fn heartbeat(&mut self, slot: usize, run: u64) {
        let Some(process) = self.running(slot) else {
            return;
        };
        let (node, version) = (process.coordinator.node(), process.coordinator.version());
        let sent_ms = self.now_ms + process.clock_ms;
        let neighbours: Vec<NodeId> = process.coordinator.neighbours().into_keys().collect();
        for neighbour in neighbours {
            let to = self.slot_of(neighbour.uid);
            if self.cut[slot][to] || self.bus_cut[slot][to] {
                continue;
            }
            let at_ms = self.now_ms + self.random.between(1, 20);
            self.at(
                at_ms,
                Event::Ask {
                    to,
                    from: slot,
                    from_run: run,
                    node,
                    version,
                    sent_ms,
                },
            );
        }
    }

    pub(crate) fn asked(
        &mut self,
        to: usize,
        from: usize,
        from_run: u64,
        said: (NodeId, Option<Version>),
        sent_ms: u64,
    ) {
        let run = self.slots[to].run;
        let Some(process) = self.up(to) else { return };
        if self.now_ms < process.paused_until_ms {
            let at_ms = process.paused_until_ms;
            let (node, version) = said;
            self.at(
                at_ms,
                Event::Ask {
                    to,
                    from,
                    from_run,
                    node,
                    version,
                    sent_ms,
                },
            );
            return;
        }
        let answer = Input::Heard {
            from: process.coordinator.node(),
            version: process.coordinator.version(),
            answers_ms: Some(sent_ms),
        };
        self.send(to, from, from_run, answer);
        self.input(
            to,
            run,
            Input::Heard {
                from: said.0,
                version: said.1,
                answers_ms: None,
            },
        );
    }

    pub(crate) fn ask_store(&mut self, slot: usize, run: u64, ask: StoreAsk) {
        self.slots[slot]
            .process
            .as_mut()
            .expect("it acts")
            .asked_store_ms = self.now_ms;
        if self.reaches_store(slot) {
            let at_ms = self.now_ms + self.random.between(1, 30);
            self.at(at_ms, Event::Store { slot, run, ask });
        }
    }

    pub(crate) fn at_store(&mut self, slot: usize, run: u64, ask: StoreAsk) {
        let fails = self.random.chance(self.store.errors);
        let done = !fails || self.random.chance(50);
        if self.store.down {
            return;
        }
        let answer = match ask {
            StoreAsk::Read {
                request,
                known,
                beat,
            } => {
                if beat && known.is_some() && known == self.store.version() && done {
                    self.store.states.last_mut().expect("a view is stored").1 += 1;
                }
                let content = match self.store.view() {
                    None => Content::Nothing,
                    Some(_) if self.store.version() == known => Content::Known,
                    Some(view) => Content::View(view.clone()),
                };
                let stored = Some(Stored {
                    content,
                    beat: self.store.beat(),
                })
                .filter(|_| !fails);
                Input::Read { request, stored }
            }
            StoreAsk::Write {
                request,
                expected,
                view,
                version,
            } => {
                let matches = expected == self.store.version();
                if matches && done {
                    let beat = self.store.beat() + 1;
                    let checks = std::mem::take(&mut self.checks);
                    self.checks = checks.committed(self, slot, &view);
                    self.store.states.push((Some((version, view)), beat));
                }
                let outcome = match (fails, matches) {
                    (true, _) => Written::Unknown,
                    (false, true) => Written::Done,
                    (false, false) => Written::Changed,
                };
                Input::Written { request, outcome }
            }
        };
        if self.reaches_store(slot) {
            let at_ms = self.now_ms + self.random.between(1, 30);
            self.at(
                at_ms,
                Event::Input {
                    slot,
                    run,
                    input: answer,
                },
            );
        }
    }

    /// Who can reach whom, directly or through a third node, as SWIM finds out.
    pub(crate) fn gossip_reaches(&self, one: usize, other: usize) -> bool {
        let direct = |a: usize, b: usize| {
            self.running(a).is_some()
                && self.running(b).is_some()
                && !self.cut[a][b]
                && !self.cut[b][a]
        };
        direct(one, other)
            || (0..self.slots.len()).any(|third| direct(one, third) && direct(third, other))
    }

    pub(crate) fn gossip(&mut self) {
        let count = self.slots.len();
        for slot in (0..count)
            .filter(|&slot| self.running(slot).is_some())
            .collect::<Vec<_>>()
        {
            for other in (0..count).filter(|&other| other != slot) {
                let truth = self
                    .gossip_reaches(slot, other)
                    .then(|| self.up(other).map(|process| process.joining.node))
                    .flatten();
                let believed = self.slots[slot].believed.get(&other).copied();
                if truth == believed {
                    self.slots[slot].untrue.remove(&other);
                    continue;
                }
                let lag_ms = match truth {
                    Some(_) => self.random.between(100, 1_000),
                    None => self.random.between(self.lag_ms / 3, self.lag_ms - 200),
                };
                let (due_ms, news) = *self.slots[slot]
                    .untrue
                    .entry(other)
                    .or_insert((self.now_ms + lag_ms, truth));
                if news != truth {
                    self.slots[slot].untrue.remove(&other);
                } else if self.now_ms >= due_ms {
                    self.believe(slot, other, truth);
                }
            }
        }
    }

    /// Gossip tells one node what has become of another.
    pub(crate) fn believe(&mut self, slot: usize, other: usize, truth: Option<NodeId>) {
        let run = self.slots[slot].run;
        let before = self.slots[slot].believed.remove(&other);
        self.slots[slot].untrue.remove(&other);
        match truth {
            Some(node) => {
                self.slots[slot].believed.insert(other, node);
                let mut joining = self.joining(other, node.incarnation);
                joining.node = node;
                self.input(slot, run, Input::Alive(joining));
            }
            None => {
                if let Some(node) = before {
                    self.input(slot, run, Input::Dead(node));
                }
            }
        }
    }
}
