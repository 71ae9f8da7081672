//! What the coordinator wants done, and the lives that follow from it.

use std::sync::Arc;

use cluster::coordinator::{Action, FenceReason, Input, Refusal};
use cluster::view::{NodeId, View};
use reactor::mesh::InboxSender;
use tokio::sync::watch;

use super::super::drain::Phase;
use super::super::store::Request;
use super::super::to_core::{CoreProgress, Lease, ToCore};
use super::super::{ClusterError, End, Life, Next};
use super::{FAREWELL_MS, Loop, now};
use crate::ownership::Ownership;

/// The present life of the node, as far as the loop knows.
pub(super) struct Living {
    pub(super) node: NodeId,
    pub(super) lease: Arc<Lease>,
    pub(super) progress: Arc<[CoreProgress]>,
    ended: watch::Sender<Option<End>>,
    /// Where cores take messages, and what has found no room there.
    cores: Vec<(InboxSender<ToCore>, Vec<ToCore>)>,
}

impl Living {
    pub(super) fn tell(&mut self, message: &ToCore) {
        for (core, waiting) in &mut self.cores {
            // A later view takes the place of an earlier one.
            if matches!(message, ToCore::View { .. }) {
                waiting.retain(|waits| !matches!(waits, ToCore::View { .. }));
            }
            waiting.push(message.clone());
            hand_in(core, waiting);
        }
    }

    pub(super) fn hand_in_again(&mut self) {
        for (core, waiting) in &mut self.cores {
            hand_in(core, waiting);
        }
    }
}

fn hand_in(core: &InboxSender<ToCore>, waiting: &mut Vec<ToCore>) {
    for message in std::mem::take(waiting) {
        if !waiting.is_empty() {
            waiting.push(message);
        } else if let Err(message) = core.send(message) {
            waiting.push(message);
        }
    }
}

impl Loop {
    /// Does what the coordinator wants.
    pub(super) fn act(&mut self, action: Action) {
        let now_ms = self.clock.now().mono_ms;
        match action {
            Action::ReadStore {
                request,
                known,
                beat,
            } => self.store.ask(
                now_ms,
                Request::Read {
                    request,
                    known,
                    beat,
                },
            ),
            Action::CompareAndSet {
                request,
                expected,
                view,
                version,
            } => self.store.ask(
                now_ms,
                Request::Write {
                    request,
                    expected,
                    view,
                    version,
                },
            ),
            Action::Install(view) => self.install(view),
            // Whoever is told of views hears of each that is installed, and this one is in the next step.
            Action::Tell { .. } => {}
            Action::Pull { from } => {
                if let Some(link) = self.links.get(&from.uid) {
                    link.pull();
                }
            }
            // It has just been taken out, as it asked for.
            Action::Fence(FenceReason::Outside) if self.drain.phase() != Phase::No => {}
            Action::Fence(reason) => {
                tracing::error!(
                    ?reason,
                    "this node is fenced: it serves nobody until it hears of the others or the engine"
                );
            }
            Action::Unfence => tracing::info!("this node serves"),
            Action::SendClientsElsewhere => {
                tracing::error!("the fence lasts: clients are sent to other nodes");
                if let Some(living) = &mut self.living {
                    living.tell(&ToCore::SendClientsElsewhere);
                }
            }
            Action::Rejoin(node) => self.rejoin(node),
            Action::Refused { node, reason } => {
                *self.nodes_refused.entry(reason_word(&reason)).or_default() += 1;
                tracing::warn!(%node, %reason, "a node cannot be a member");
            }
            Action::DuplicateUid(node) => {
                self.end(Err(ClusterError::DuplicateUid(node)), End::Stop);
            }
            Action::ForeignStore(theirs) => {
                let ours = self.settings.name.clone();
                self.end(Err(ClusterError::ForeignStore { theirs, ours }), End::Stop);
            }
            Action::Left => {
                tracing::info!("this node has left the cluster");
                self.end(Ok(()), End::Left);
            }
        }
    }

    fn install(&mut self, view: Arc<View>) {
        let node = self.coordinator.node();
        self.told
            .view
            .send_replace(Some((view.version(), Arc::clone(&view))));
        tracing::info!(
            epoch = view.epoch,
            members = view.members.len(),
            is_member = view.contains(node),
            "a view holds"
        );
        let ownership = view
            .contains(node)
            .then(|| Ownership::of(&view, node.uid))
            .flatten();
        let Some(ownership) = ownership.map(Arc::new) else {
            return;
        };
        match &mut self.living {
            Some(living) if living.node == node => living.tell(&ToCore::View { ownership, view }),
            Some(_) => {} // It ends, and the next one begins then.
            None => self.begin(view, ownership),
        }
    }

    /// A life begins.
    fn begin(&mut self, view: Arc<View>, ownership: Arc<Ownership>) {
        let node = self.coordinator.node();
        let Some(member) = view.member(node.uid) else {
            return;
        };
        let lease = Arc::new(Lease::default());
        let progress: Arc<[CoreProgress]> =
            (0..member.cores).map(|_| CoreProgress::default()).collect();
        let (ended, told) = watch::channel(None);
        let life = Life {
            node,
            joined: member.joined,
            view: Arc::clone(&view),
            ownership,
            cluster: self.settings.name.clone(),
            identity: self.told.identity.borrow().clone(),
            bus: self.settings.bus,
            lease: Arc::clone(&lease),
            progress: Arc::clone(&progress),
            from_cores: self.from_cores.clone(),
            ended: told,
        };
        self.living = Some(Living {
            node,
            lease,
            progress,
            ended,
            cores: Vec::new(),
        });
        let _ = self.lives.send(Next::Life(Box::new(life))); // The node is ending.
    }

    /// This node is another incarnation; the present life ends.
    pub(super) fn rejoin(&mut self, node: NodeId) {
        tracing::error!(%node, "this node was taken out of the view; it comes back as another incarnation");
        let mut outputs = Vec::new();
        self.membership.rejoin(now(self.clock), node, &mut outputs);
        self.put_out(outputs);
        self.new_incarnation();
    }

    pub(super) fn new_incarnation(&mut self) {
        let node = self.coordinator.node();
        self.told.me.send_modify(|me| me.node = node);
        if let Some(living) = self.living.take() {
            living.lease.set(0);
            living.ended.send_replace(Some(End::Rejoin));
        }
    }

    /// The node is no member any more, or cannot be one.
    pub(super) fn end(&mut self, result: Result<(), ClusterError>, end: End) {
        if self.over.is_some() {
            return;
        }
        if let Some(living) = self.living.take() {
            living.lease.set(0);
            living.ended.send_replace(Some(end));
        }
        self.over = Some((result, self.clock.now().mono_ms + FAREWELL_MS));
        let mut outputs = Vec::new();
        self.membership.leave(now(self.clock), &mut outputs);
        self.put_out(outputs);
    }

    pub(super) fn stop(&mut self) {
        tracing::info!("stopping at once");
        self.end(Ok(()), End::Stop);
    }

    /// Leaves in order.
    pub(super) fn leave(&mut self) {
        if self.living.is_none() {
            return self.stop();
        }
        if self.drain.ask(self.clock.now().mono_ms) {
            tracing::info!("draining: this node leaves the cluster");
            self.handle(Input::Leave);
        }
    }

    /// The cores are there, and hear of the view that holds now.
    pub(super) fn attach(&mut self, cores: Vec<InboxSender<ToCore>>) {
        let node = self.coordinator.node();
        let Some(living) = self.living.as_mut().filter(|living| living.node == node) else {
            return;
        };
        living.cores = cores.into_iter().map(|core| (core, Vec::new())).collect();
        let view = self.coordinator.view().cloned();
        let ownership = view.as_ref().and_then(|view| Ownership::of(view, node.uid));
        if let (Some(view), Some(ownership)) = (view, ownership.map(Arc::new)) {
            living.tell(&ToCore::View { ownership, view });
        }
    }
}

fn reason_word(reason: &Refusal) -> &'static str {
    match reason {
        Refusal::View(_) => "rules_of_views",
        Refusal::DuplicateUid => "duplicate_uid",
        Refusal::TooManyNodes => "too_many_nodes",
        Refusal::NoBus => "no_control_link",
    }
}
