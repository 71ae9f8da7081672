//! How a node leaves: its role becomes `leaving`, it hands over what it owns, moves its clients, and goes.
//!
//! ```text
//! No ─asked─▶ Asked ─view has it leaving─▶ HandingOver ─all cores have─▶ Moving ─no clients─▶ Gone
//!                └──── alone, or no view ────────────────────────────────▶ ┘
//! ```
//!
//! Each step has an end even if it does not succeed: then it is said loudly, and the next one begins.

use cluster::view::{NodeId, Role, View};
use serde::Serialize;

use super::to_core::CoreProgress;

/// How long a view with the new role may take, a hand-over, and the moving of clients.
const ROLE_MS: u64 = 15_000;
const HAND_OVER_MS: u64 = 20_000;
const MOVE_MS: u64 = 180_000;
/// Clients are moved within this time, if nothing holds them.
const PACE_S: u64 = 60;
/// Clients that a core moves in a second at least.
const PER_SECOND_MIN: u64 = 50;

/// How far it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The node stays.
    #[default]
    No,
    /// It was asked to leave.
    Asked,
    /// Its role is `leaving`, and it hands over what it owned.
    HandingOver,
    /// It owns nothing, and its clients are sent to other nodes.
    Moving,
    /// It has no clients any more, or has waited long enough.
    Gone,
}

/// What is to be done in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Nothing,
    /// Cores move so many clients in a second each.
    Move(u32),
    /// The coordinator is to be told that nothing is left.
    Drained,
}

/// A drain, or none.
#[derive(Debug, Default)]
pub(super) struct Drain {
    phase: Phase,
    since_ms: u64,
    epoch: u64,
}

impl Drain {
    pub(super) fn phase(&self) -> Phase {
        self.phase
    }

    /// An operator wants the node to leave; true the first time.
    pub(super) fn ask(&mut self, now_ms: u64) -> bool {
        if self.phase != Phase::No {
            return false;
        }
        self.enter(now_ms, Phase::Asked);
        true
    }

    fn enter(&mut self, now_ms: u64, phase: Phase) {
        self.phase = phase;
        self.since_ms = now_ms;
    }

    /// Looks how far it is. `cores` are those of the present life; none when there is none.
    pub(super) fn look(
        &mut self,
        now_ms: u64,
        me: NodeId,
        view: Option<&View>,
        cores: &[CoreProgress],
    ) -> Step {
        let waited_ms = now_ms.saturating_sub(self.since_ms);
        let member = view
            .and_then(|view| view.member(me.uid))
            .filter(|member| member.node == me);
        match self.phase {
            Phase::No | Phase::Gone => Step::Nothing,
            Phase::Asked => {
                let alone = view.is_none_or(|view| view.members.len() == 1);
                let Some(member) = member.filter(|_| !alone) else {
                    return self.start_moving(now_ms, cores);
                };
                if member.role == Role::Leaving {
                    self.epoch = view.map_or(0, |view| view.epoch);
                    self.enter(now_ms, Phase::HandingOver);
                    tracing::info!(
                        epoch = self.epoch,
                        "draining: the view has this node leaving"
                    );
                } else if waited_ms >= ROLE_MS {
                    tracing::error!(
                        "draining: no view has this node leaving after {ROLE_MS} ms; it goes on without"
                    );
                    return self.start_moving(now_ms, cores);
                }
                Step::Nothing
            }
            Phase::HandingOver => {
                let is_done = cores.iter().all(|core| core.has_handed_over(self.epoch));
                if !is_done && waited_ms < HAND_OVER_MS {
                    return Step::Nothing;
                }
                if !is_done {
                    tracing::error!(
                        "draining: not everything is handed over after {HAND_OVER_MS} ms; it goes on"
                    );
                }
                self.start_moving(now_ms, cores)
            }
            Phase::Moving => {
                let clients = clients(cores);
                if clients > 0 && waited_ms < MOVE_MS {
                    return Step::Nothing;
                }
                if clients > 0 {
                    tracing::error!(clients, "draining: clients are left after {MOVE_MS} ms");
                }
                self.enter(now_ms, Phase::Gone);
                tracing::info!("draining: nothing is left");
                Step::Drained
            }
        }
    }

    fn start_moving(&mut self, now_ms: u64, cores: &[CoreProgress]) -> Step {
        self.enter(now_ms, Phase::Moving);
        let share = clients(cores).div_ceil(PACE_S * cores.len().max(1) as u64);
        let per_second = u32::try_from(share.max(PER_SECOND_MIN)).unwrap_or(u32::MAX);
        tracing::info!(
            clients = clients(cores),
            per_second,
            "draining: clients are sent to other nodes"
        );
        Step::Move(per_second)
    }
}

fn clients(cores: &[CoreProgress]) -> u64 {
    let counts = cores
        .iter()
        .map(|core| core.clients.load(std::sync::atomic::Ordering::Acquire));
    counts.sum()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use cluster::hello::PROTOCOL;
    use cluster::view::Joining;

    use super::*;

    fn node(uid: u64) -> NodeId {
        NodeId {
            uid,
            incarnation: 1,
        }
    }

    fn two() -> View {
        let joining = |uid| Joining {
            node: node(uid),
            cores: 1,
            weight: 1,
            gossip: ([127, 0, 0, 1], 1).into(),
            bus: ([127, 0, 0, 1], 2).into(),
            reference: "".into(),
            protocol: PROTOCOL,
        };
        let view = View::first(1, "roadstead", &joining(1)).expect("a good view");
        view.with_member(2, &joining(2)).expect("a good view")
    }

    #[test]
    fn clients_move_only_when_every_core_has_handed_over() {
        let cores = [CoreProgress::default(), CoreProgress::default()];
        cores
            .iter()
            .for_each(|core| core.clients.store(6_000, Ordering::Release));
        let mut drain = Drain::default();
        assert_eq!(drain.look(0, node(1), Some(&two()), &cores), Step::Nothing);
        assert!(drain.ask(0) && !drain.ask(0));
        assert_eq!(drain.look(1, node(1), Some(&two()), &cores), Step::Nothing);
        assert_eq!(drain.phase(), Phase::Asked, "the view does not know yet");
        let leaving = two().with_role(3, 1, Role::Leaving).expect("a member");
        assert_eq!(
            drain.look(2, node(1), Some(&leaving), &cores),
            Step::Nothing
        );
        cores[0].handed_over_epoch.store(3, Ordering::Release);
        cores[1].handed_over_epoch.store(2, Ordering::Release);
        assert_eq!(
            drain.look(3, node(1), Some(&leaving), &cores),
            Step::Nothing
        );
        cores[1].handed_over_epoch.store(3, Ordering::Release);
        assert_eq!(
            drain.look(4, node(1), Some(&leaving), &cores),
            Step::Move(100)
        );
        assert_eq!(
            drain.look(5, node(1), Some(&leaving), &cores),
            Step::Nothing
        );
        cores
            .iter()
            .for_each(|core| core.clients.store(0, Ordering::Release));
        assert_eq!(
            drain.look(6, node(1), Some(&leaving), &cores),
            Step::Drained
        );
        assert_eq!(drain.phase(), Phase::Gone);
    }

    #[test]
    fn a_hand_over_that_hangs_does_not_keep_the_node_for_ever() {
        let cores = [CoreProgress::default()];
        let leaving = two().with_role(3, 1, Role::Leaving).expect("a member");
        let mut drain = Drain::default();
        drain.ask(0);
        assert_eq!(
            drain.look(0, node(1), Some(&leaving), &cores),
            Step::Nothing
        );
        assert_eq!(
            drain.look(HAND_OVER_MS - 1, node(1), Some(&leaving), &cores),
            Step::Nothing
        );
        let step = drain.look(HAND_OVER_MS, node(1), Some(&leaving), &cores);
        assert_eq!(step, Step::Move(PER_SECOND_MIN as u32));
    }

    #[test]
    fn who_is_alone_hands_nothing_over() {
        let cores = [CoreProgress::default()];
        let alone = two().without_member(3, 2).expect("a member");
        let mut drain = Drain::default();
        drain.ask(0);
        assert_eq!(drain.look(0, node(1), Some(&alone), &cores), Step::Move(50));
        assert_eq!(drain.look(1, node(1), Some(&alone), &cores), Step::Drained);
    }
}
