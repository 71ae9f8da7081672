//! What this node may do: whether it is a member, how long it may believe so, and how it stops being one.

use super::times::{ELSEWHERE_AFTER_MS, FENCE_AFTER_MS, LEAVE_PATIENCE_MS, RIVAL_AFTER_MS};
use super::{Action, Coordinator, Leave};
use crate::view::NodeId;

/// What a node may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Own nothing, acknowledge nothing.
    Fenced(FenceReason),
    /// Own what the view says.
    Serving,
    /// Stop.
    Left,
}

/// Why a node is fenced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FenceReason {
    /// The latest view it knows does not have it.
    Outside,
    /// It hears neither from the majority nor from the store.
    CutOff,
}

/// What this incarnation has in the views that it is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    joined: u64,
    first_core: u16,
}

impl Coordinator {
    /// Fences a node that has not heard enough for too long.
    pub(super) fn fence_when_due(&mut self, now_ms: u64, actions: &mut Vec<Action>) {
        if self.standing != Standing::Serving || now_ms < self.serving_until_ms {
            return;
        }
        self.renew_lease(now_ms);
        if now_ms >= self.serving_until_ms {
            self.fence(now_ms, FenceReason::CutOff, actions);
        }
    }

    fn fence(&mut self, now_ms: u64, reason: FenceReason, actions: &mut Vec<Action>) {
        let was_serving = self.standing == Standing::Serving;
        self.standing = Standing::Fenced(reason);
        if was_serving {
            self.elsewhere_ms = Some(now_ms + ELSEWHERE_AFTER_MS);
            actions.push(Action::Fence(reason));
        }
    }

    /// Computes how long what this node has heard lets it serve.
    pub(super) fn renew_lease(&mut self, now_ms: u64) {
        let Some(installed) = &self.installed else {
            return;
        };
        let majority_ms = self
            .peers
            .majority_ms(now_ms, &installed.view, self.me.node);
        let heard_ms = majority_ms.max(self.store.confirmed_ms);
        self.serving_until_ms = heard_ms.map_or(now_ms, |at_ms| at_ms + FENCE_AFTER_MS);
    }

    pub(super) fn unfence_when_possible(&mut self, now_ms: u64, actions: &mut Vec<Action>) {
        let fenced = matches!(self.standing, Standing::Fenced(_));
        if fenced && self.place.is_some() && now_ms < self.serving_until_ms {
            self.standing = Standing::Serving;
            self.elsewhere_ms = None;
            actions.push(Action::Unfence);
        }
    }

    pub(super) fn send_elsewhere_when_due(&mut self, now_ms: u64, actions: &mut Vec<Action>) {
        if self
            .elsewhere_ms
            .take_if(|at_ms| now_ms >= *at_ms)
            .is_some()
        {
            actions.push(Action::SendClientsElsewhere);
        }
    }

    /// Looks for this node in a view that has just been installed.
    pub(super) fn take_place(&mut self, now_ms: u64, actions: &mut Vec<Action>) {
        let Some(installed) = &self.installed else {
            return;
        };
        let mine = installed.view.member(self.me.node.uid);
        let incarnation = mine.map_or(0, |member| member.node.incarnation);
        let place = mine
            .filter(|member| member.node == self.me.node)
            .map(|member| Place {
                joined: member.joined,
                first_core: member.first_core,
            });
        match (self.place, place) {
            (None, Some(_)) => self.place = place,
            (Some(before), Some(now)) if before == now => {}
            // A former run of this node, or nothing.
            (None, None) if incarnation < self.me.node.incarnation => {}
            _ => self.come_back(now_ms, incarnation, actions),
        }
    }

    /// This node was thrown out: it comes back as another incarnation, later than any that is known, unless it was leaving.
    fn come_back(&mut self, now_ms: u64, known: u64, actions: &mut Vec<Action>) {
        self.place = None;
        self.fence(now_ms, FenceReason::Outside, actions);
        match self.leave {
            Leave::No => {
                self.me.node.incarnation = self.me.node.incarnation.max(known) + 1;
                actions.push(Action::Rejoin(self.me.node));
            }
            Leave::Asked => {}
            Leave::Drained { .. } => self.left(actions),
        }
    }

    /// Gossip has given this node another incarnation.
    pub(super) fn renewed(&mut self, now_ms: u64, node: NodeId, actions: &mut Vec<Action>) {
        let later = node.incarnation > self.me.node.incarnation;
        if node.uid == self.me.node.uid && later {
            self.me.node = node;
            self.place = None;
            self.fence(now_ms, FenceReason::Outside, actions);
        }
    }

    pub(super) fn leave(&mut self, now_ms: u64, leave: Leave, actions: &mut Vec<Action>) {
        match (self.leave, leave) {
            (Leave::No, _) | (Leave::Asked, Leave::Drained { .. }) => self.leave = leave,
            _ => {}
        }
        self.leave_when_possible(now_ms, actions);
    }

    pub(super) fn leave_when_possible(&mut self, now_ms: u64, actions: &mut Vec<Action>) {
        let Leave::Drained { since_ms } = self.leave else {
            return;
        };
        let alone = self.view().is_none_or(|view| view.members.len() == 1);
        let waited = now_ms >= since_ms + LEAVE_PATIENCE_MS;
        if self.place.is_none() || alone || waited {
            self.left(actions);
        }
    }

    fn left(&mut self, actions: &mut Vec<Action>) {
        if self.standing != Standing::Left {
            self.standing = Standing::Left;
            actions.push(Action::Left);
        }
    }

    /// Two nodes with one uid cannot both be members: the one that is none, or else the later one, gives up.
    pub(super) fn give_up_to_rival(&mut self, now_ms: u64, actions: &mut Vec<Action>) {
        let Some((rival, since_ms)) = &self.rival else {
            return;
        };
        let rival_is_member = self.view().is_some_and(|view| view.contains(rival.node));
        let first = rival_is_member || rival.node.incarnation < self.me.node.incarnation;
        if self.place.is_none() && first && now_ms >= since_ms + RIVAL_AFTER_MS {
            let node = rival.node;
            self.standing = Standing::Left;
            actions.push(Action::DuplicateUid(node));
        }
    }
}
