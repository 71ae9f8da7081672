//! The next view: whether there is a reason for one, when it is this node's turn to propose it, and what is in it.

use std::sync::Arc;

use super::store::Asked;
use super::times::{
    DEATH_SETTLES_MS, JOIN_SETTLES_MS, LEADER_SILENCE_MS, MINORITY_WAITS_MS, UNREACHABLE_AFTER_MS,
};
use super::{Action, Coordinator, EPOCH_BELIEVED_MAX, Leave, Refusal};
use crate::view::{Joining, Member, NodeId, Role, Version, View};

/// The installed view must be committed again: the store has less, or there is another view of the same number.
#[derive(Clone, Copy, Debug)]
pub(super) struct Recommit {
    /// Since when that is known.
    pub(super) since_ms: u64,
    /// True exactly when another node has the other view, so that it does not help if the store has ours.
    pub(super) heard: bool,
}

impl Coordinator {
    /// True exactly when a read of the store would be followed by a proposal, as far as this node knows.
    pub(super) fn wants_to_propose(&self, now_ms: u64) -> bool {
        let base = self.view().map(Arc::as_ref);
        self.own_wishes(base)
            || self
                .turn_ms(now_ms, base)
                .is_some_and(|at_ms| now_ms >= at_ms)
    }

    /// Proposes the next view if there is a reason and it is this node's turn. `stored` is what the store has just shown.
    pub(super) fn propose(
        &mut self,
        now_ms: u64,
        stored: Option<Version>,
        actions: &mut Vec<Action>,
    ) {
        let installed = self.view().cloned();
        let base = installed.as_deref();
        let turn = self
            .turn_ms(now_ms, base)
            .is_some_and(|at_ms| now_ms >= at_ms)
            && (self.sees_quorum(now_ms, base) || self.store.is_abandoned());
        if !turn && !self.own_wishes(base) {
            return;
        }
        if self.highest_epoch >= EPOCH_BELIEVED_MAX {
            return;
        }
        let mut epoch = self.highest_epoch + 1;
        if base.is_none() {
            // Seconds of Unix time, so that a store that has lost its view and kept the fences of partitions, which are epochs,
            // does not keep the new cluster out of them.
            epoch = epoch.max(self.me.node.incarnation / 1_000);
        }
        let again = turn && self.recommit.is_some();
        let Some(view) = self.next_view(now_ms, base, epoch, turn, actions) else {
            return;
        };
        if !again && base.is_some_and(|base| base.members == view.members) {
            return;
        }
        let (version, view) = (view.version(), Arc::new(view));
        let asked = Asked::Write {
            view: view.clone(),
            version,
        };
        let Some(request) = self.store.ask(now_ms, asked) else {
            return;
        };
        self.highest_epoch = epoch;
        actions.push(Action::CompareAndSet {
            request,
            expected: stored,
            view,
            version,
        });
    }

    /// The next view, with what gossip says when it is this node's `turn`, and with what this node's operator wants.
    fn next_view(
        &mut self,
        now_ms: u64,
        base: Option<&View>,
        epoch: u64,
        turn: bool,
        actions: &mut Vec<Action>,
    ) -> Option<View> {
        let mut view = if turn {
            let newcomers = self.newcomers(now_ms, base, DEATH_SETTLES_MS);
            let newcomers: Vec<Joining> = newcomers.into_iter().cloned().collect();
            let (view, refused) = match base {
                None => {
                    let first = View::first(epoch, &self.cluster, newcomers.first()?).ok()?;
                    first.step(epoch, &[], &newcomers[1..]).ok()?
                }
                Some(base) => {
                    let gone: Vec<u64> = base
                        .members
                        .iter()
                        .filter(|member| self.is_out(now_ms, member))
                        .map(|member| member.node.uid)
                        .collect();
                    base.step(epoch, &gone, &newcomers).ok()?
                }
            };
            for (node, reason) in refused {
                self.refuse(node, Refusal::View(reason), actions);
            }
            view
        } else {
            base?.numbered(epoch).ok()?
        };
        let me = self.me.node;
        if view.contains(me) {
            view = match self.leave {
                Leave::No => view,
                Leave::Asked => view.with_role(epoch, me.uid, Role::Leaving).ok()?,
                Leave::Drained { .. } => view.without_member(epoch, me.uid).unwrap_or(view),
            };
        }
        for (&uid, &weight) in &self.weights {
            if let Ok(weighted) = view.with_weight(epoch, uid, weight) {
                view = weighted;
            }
        }
        Some(view)
    }

    /// True exactly when the view is not as this node's operator wants it.
    fn own_wishes(&self, base: Option<&View>) -> bool {
        let Some(base) = base else { return false };
        let role = base
            .member(self.me.node.uid)
            .filter(|member| member.node == self.me.node)
            .map(|member| member.role);
        let leave = match self.leave {
            Leave::No => false,
            Leave::Asked => role == Some(Role::Active),
            Leave::Drained { .. } => role.is_some() && base.members.len() > 1,
        };
        let weights = self.weights.iter().any(|(&uid, &weight)| {
            base.member(uid)
                .is_some_and(|member| member.weight != weight)
        });
        leave || weights
    }

    /// When it is this node's turn to propose what follows `base`; none when there is no reason to.
    fn turn_ms(&self, now_ms: u64, base: Option<&View>) -> Option<u64> {
        let reason_ms = self.reason_ms(now_ms, base)?;
        let quorum = self.sees_quorum(now_ms, base);
        // Members take newcomers in; nobody takes itself in while most of them live.
        let stands_back = base.is_some_and(|base| {
            !base.contains(self.me.node) && is_quorum(base, |node| self.peers.is_alive(node))
        });
        if stands_back || (base.is_none() && self.leave != Leave::No) {
            return None;
        }
        let rank_ms = self.rank(base) * LEADER_SILENCE_MS;
        let minority_ms = match base {
            Some(base) if !quorum => {
                let total = base.members.len() as u64;
                MINORITY_WAITS_MS * (total - self.accounted(now_ms, base)) / total
            }
            _ => 0,
        };
        Some(reason_ms + rank_ms + minority_ms)
    }

    /// When the first reason for another view than `base` has settled.
    fn reason_ms(&self, now_ms: u64, base: Option<&View>) -> Option<u64> {
        let Some(base) = base else {
            return Some(self.started_ms + JOIN_SETTLES_MS);
        };
        let again = self
            .recommit
            .map(|recommit| recommit.since_ms + DEATH_SETTLES_MS);
        let deaths = base
            .members
            .iter()
            .filter_map(|member| self.out_since(member))
            .map(|since_ms| since_ms + DEATH_SETTLES_MS);
        let joins = self
            .peers
            .living()
            .filter(|(joining, _)| self.can_join(now_ms, base, joining))
            .map(|(joining, since_ms)| {
                // A restart takes the place of what is gone anyway.
                let again = base.member(joining.node.uid).is_some();
                since_ms
                    + if again {
                        DEATH_SETTLES_MS
                    } else {
                        JOIN_SETTLES_MS
                    }
            });
        again.into_iter().chain(deaths).chain(joins).min()
    }

    /// Living nodes that are no members and can be, this one first.
    fn newcomers(&self, now_ms: u64, base: Option<&View>, settles_ms: u64) -> Vec<&Joining> {
        let me = Some(&self.me).filter(|me| {
            self.leave == Leave::No && base.is_none_or(|base| !base.contains(me.node))
        });
        let others = self
            .peers
            .living()
            .filter(|(_, since_ms)| now_ms >= since_ms + settles_ms)
            .map(|(joining, _)| joining)
            .filter(|joining| match base {
                Some(base) => self.can_join(now_ms, base, joining),
                None => self.peers.has_fresh_contact(now_ms, joining.node),
            });
        me.into_iter().chain(others).collect()
    }

    fn can_join(&self, now_ms: u64, base: &View, joining: &Joining) -> bool {
        let newer = base
            .member(joining.node.uid)
            .is_none_or(|member| member.node.incarnation < joining.node.incarnation);
        newer && self.peers.has_fresh_contact(now_ms, joining.node)
    }

    fn is_out(&self, now_ms: u64, member: &Member) -> bool {
        self.out_since(member)
            .is_some_and(|since_ms| now_ms >= since_ms + DEATH_SETTLES_MS)
    }

    /// Since when a member is to be taken out: it is dead, or a later incarnation lives, or it is alive by gossip and does not
    /// answer over the bus while most others do. Who answers what it was asked after gossip called it dead is not: a node that was cut off
    /// brings its own view of the others along.
    fn out_since(&self, member: &Member) -> Option<u64> {
        if member.node == self.me.node {
            return None;
        }
        if member.node.uid == self.me.node.uid {
            // A former run of this node.
            return Some(self.started_ms);
        }
        let gone_ms = self.peers.gone_since(member.node);
        let gone_ms = gone_ms.map(|gone_ms| self.peers.gone_despite_contact(member.node, gone_ms));
        gone_ms.or_else(|| {
            let silent_ms = self.peers.silent_since(member.node)?;
            Some(silent_ms + UNREACHABLE_AFTER_MS)
        })
    }

    /// How many nodes propose before this one: living members by uid, then other living nodes by uid.
    pub(super) fn rank(&self, base: Option<&View>) -> u64 {
        let place = |node: NodeId| {
            let member = base.is_some_and(|base| base.contains(node));
            (!member, node.uid)
        };
        let mine = place(self.me.node);
        self.peers
            .living()
            .filter(|(joining, _)| place(joining.node) < mine)
            .count() as u64
    }

    /// True exactly when most members of the view are known to live, or to have been followed by a later incarnation.
    pub(super) fn sees_quorum(&self, now_ms: u64, base: Option<&View>) -> bool {
        base.is_none_or(|base| is_quorum(base, |node| self.accounts_for(now_ms, node)))
    }

    fn accounted(&self, now_ms: u64, base: &View) -> u64 {
        base.members
            .iter()
            .filter(|member| self.accounts_for(now_ms, member.node))
            .count() as u64
    }

    fn accounts_for(&self, now_ms: u64, node: NodeId) -> bool {
        node.uid == self.me.node.uid || self.peers.accounts_for(now_ms, node)
    }

    /// Says of living nodes that are no members that the bus does not reach them.
    pub(super) fn refuse_who_has_no_bus(&mut self, now_ms: u64, actions: &mut Vec<Action>) {
        let Some(view) = self.view() else { return };
        let unreached: Vec<NodeId> = self
            .peers
            .living()
            .filter(|(joining, since_ms)| {
                now_ms >= since_ms + UNREACHABLE_AFTER_MS
                    && !view.contains(joining.node)
                    && !self.peers.has_fresh_contact(now_ms, joining.node)
            })
            .map(|(joining, _)| joining.node)
            .collect();
        for node in unreached {
            self.refuse(node, Refusal::NoBus, actions);
        }
    }
}

/// True exactly when most members are in; of two halves it is the one with the smallest uid.
fn is_quorum(view: &View, is_in: impl Fn(NodeId) -> bool) -> bool {
    let total = view.members.len();
    let count = view
        .members
        .iter()
        .filter(|member| is_in(member.node))
        .count();
    let smallest = view
        .members
        .first()
        .is_some_and(|member| is_in(member.node));
    count * 2 > total || (count * 2 == total && smallest)
}
