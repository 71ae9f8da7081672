//! The life of views on one node: who proposes the next one, when this node installs it, and when it must own nothing.
//!
//! A state machine without a clock or a socket: [`Coordinator::handle`] takes what happened and says what to do. It never awaits
//! anything; what it asked for comes back as an [`Input`], or does not.
//!
//! ```text
//!            installs a view with itself,              no word from the majority nor the store for 3 s
//!            and hears from majority or store          ───────────────────────────────────────────────▶
//!  FENCED ──────────────────────────────────▶ SERVING  a view without itself: and comes back as a new incarnation
//!    ▲                                           │     ───────────────────────────────────────────────▶ FENCED
//!    └─ after 10 s: clients are sent elsewhere   └─ leave, drained, taken out ─▶ LEFT
//! ```
//!
//! Views come about by compare-and-set in the store, so there is one sequence of them: `epoch = max(stored, highest seen) + 1`, because
//! a store that fails over may have forgotten the last ones; the first one is the time in seconds. A node never goes back to a lower epoch. If two views have one
//! epoch, or the store has less than this node, the view is committed again under a higher one.
//!
//! The living member with the smallest uid proposes; the next one when it is silent for two seconds, and so on. Who sees no
//! majority of the stored view waits longer, and takes over only when no member of that view refreshes it any more: a *beat*,
//! raised every second by the leader of a majority.

mod messages;
mod peers;
mod proposal;
mod standing;
mod store;
pub mod times;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::limits::MEMBERS_MAX;
use crate::view::{Joining, NodeId, Role, Version, View};
pub use messages::{Action, Content, Input, Refusal, Stored, Written};
use peers::{News, Peers};
use proposal::Recommit;
use standing::Place;
pub use standing::{FenceReason, Standing};
use store::{Asked, Store};
use times::{ANSWER_WITHIN_MS, BEHIND_FORGOTTEN_MS, READ_EVERY_MS, READ_SELDOM_MS, RETRY_MS};

/// The view that holds.
#[derive(Clone, Debug)]
struct Installed {
    view: Arc<View>,
    version: Version,
    since_ms: u64,
}

/// A later view that somebody has.
#[derive(Clone, Copy, Debug)]
struct Behind {
    epoch: u64,
    from: NodeId,
    heard_ms: u64,
}

/// What this node wants for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leave {
    No,
    Asked,
    Drained { since_ms: u64 },
}

/// The views of one node. See the page above.
#[derive(Debug)]
pub struct Coordinator {
    cluster: Box<str>,
    me: Joining,
    started_ms: u64,
    installed: Option<Installed>,
    highest_epoch: u64,
    peers: Peers,
    store: Store,
    recommit: Option<Recommit>,
    behind: Option<Behind>,
    pull: Option<(NodeId, u64)>,
    standing: Standing,
    place: Option<Place>,
    serving_until_ms: u64,
    elsewhere_ms: Option<u64>,
    rival: Option<(Joining, u64)>,
    leave: Leave,
    weights: BTreeMap<u64, u32>,
    refused: BTreeMap<u64, (u64, Refusal)>,
}

impl Coordinator {
    /// A node that has just started, and owns nothing yet. All times are of one clock that does not go back.
    pub fn new(now_ms: u64, cluster: &str, me: Joining) -> Self {
        Self {
            cluster: cluster.into(),
            me,
            started_ms: now_ms,
            installed: None,
            highest_epoch: 0,
            peers: Peers::default(),
            store: Store::default(),
            recommit: None,
            behind: None,
            pull: None,
            standing: Standing::Fenced(FenceReason::Outside),
            place: None,
            serving_until_ms: now_ms,
            elsewhere_ms: None,
            rival: None,
            leave: Leave::No,
            weights: BTreeMap::new(),
            refused: BTreeMap::new(),
        }
    }

    /// Takes what happened, adds what is to be done. A fence that is due comes before anything else.
    pub fn handle(&mut self, now_ms: u64, input: Input, actions: &mut Vec<Action>) {
        if self.standing == Standing::Left {
            return;
        }
        self.fence_when_due(now_ms, actions);
        match input {
            Input::Tick => self.tick(now_ms, actions),
            Input::Alive(joining) => self.alive(now_ms, joining, actions),
            Input::Dead(node) => self.dead(now_ms, node),
            Input::Renewed(node) => self.renewed(now_ms, node, actions),
            Input::Heard {
                from,
                version,
                answers_ms,
            } => self.heard(now_ms, from, version, answers_ms),
            Input::Read { request, stored } => self.read(now_ms, request, stored, actions),
            Input::Written { request, outcome } => self.written(now_ms, request, outcome, actions),
            Input::Pulled { from, view } => self.pulled(now_ms, from, view, actions),
            Input::Leave => self.leave(now_ms, Leave::Asked, actions),
            Input::Drained => self.leave(now_ms, Leave::Drained { since_ms: now_ms }, actions),
            Input::Weight { uid, weight } => {
                if weight > 0 && self.weights.len() < MEMBERS_MAX {
                    self.weights.insert(uid, weight);
                }
            }
        }
    }

    /// The view that holds, whether or not this node is in it.
    pub fn view(&self) -> Option<&Arc<View>> {
        self.installed.as_ref().map(|installed| &installed.view)
    }

    /// Number and hash of [`Coordinator::view`]: to be said in every greeting, heartbeat and answer.
    pub fn version(&self) -> Option<Version> {
        self.installed.as_ref().map(|installed| installed.version)
    }

    /// This node in its present incarnation.
    pub fn node(&self) -> NodeId {
        self.me.node
    }

    /// What this node may do.
    pub fn standing(&self) -> Standing {
        self.standing
    }

    /// When this node is fenced unless it hears more. A core that wakes up later than this must act as if it were fenced, since
    /// the whole process may have been stopped meanwhile.
    pub fn serving_until_ms(&self) -> Option<u64> {
        (self.standing == Standing::Serving).then_some(self.serving_until_ms)
    }

    /// Whom to keep a control link with, and where: all living nodes, and all members, at the addresses of their gossip.
    pub fn neighbours(&self) -> BTreeMap<NodeId, SocketAddr> {
        let members = self.view().into_iter().flat_map(|view| &view.members);
        members
            .map(|member| (member.node, member.gossip))
            .chain(
                self.peers
                    .living()
                    .map(|(joining, _)| (joining.node, joining.gossip)),
            )
            .filter(|(node, _)| node.uid != self.me.node.uid)
            .collect()
    }

    fn tick(&mut self, now_ms: u64, actions: &mut Vec<Action>) {
        let view = self.view().cloned();
        self.peers.forget(now_ms, view.as_deref());
        if let Some(view) = view {
            self.peers.listen(now_ms, &view, self.me.node);
        }
        let (peers, me) = (&self.peers, self.me.node);
        self.refused
            .retain(|&uid, _| uid == me.uid || peers.knows(uid));
        self.renew_lease(now_ms);
        self.fence_when_due(now_ms, actions);
        self.unfence_when_possible(now_ms, actions);
        self.leave_when_possible(now_ms, actions);
        self.give_up_to_rival(now_ms, actions);
        if self.standing == Standing::Left {
            return;
        }
        self.send_elsewhere_when_due(now_ms, actions);
        self.refuse_who_has_no_bus(now_ms, actions);
        self.pull_when_behind(now_ms, actions);
        self.read_when_due(now_ms, actions);
    }

    fn alive(&mut self, now_ms: u64, joining: Joining, actions: &mut Vec<Action>) {
        let node = joining.node;
        if node.uid == self.me.node.uid {
            if joining.gossip != self.me.gossip && self.rival.is_none() {
                self.rival = Some((joining, now_ms));
                self.refuse(node, Refusal::DuplicateUid, actions);
            }
            return;
        }
        match self.peers.alive(now_ms, joining) {
            News::Taken => {}
            News::Rival => self.refuse(node, Refusal::DuplicateUid, actions),
            News::NoRoom => self.refuse(node, Refusal::TooManyNodes, actions),
        }
    }

    fn dead(&mut self, now_ms: u64, node: NodeId) {
        if self
            .rival
            .as_ref()
            .is_some_and(|(rival, _)| rival.node == node)
        {
            self.rival = None;
        }
        self.peers.dead(now_ms, node);
    }

    fn refuse(&mut self, node: NodeId, reason: Refusal, actions: &mut Vec<Action>) {
        let said = self
            .refused
            .get(&node.uid)
            .is_some_and(|(incarnation, said)| *incarnation == node.incarnation && *said == reason);
        if said || (self.refused.len() >= MEMBERS_MAX && !self.refused.contains_key(&node.uid)) {
            return;
        }
        self.refused
            .insert(node.uid, (node.incarnation, reason.clone()));
        actions.push(Action::Refused { node, reason });
    }

    fn heard(
        &mut self,
        now_ms: u64,
        from: NodeId,
        version: Option<Version>,
        answers_ms: Option<u64>,
    ) {
        if let Some(sent_ms) = answers_ms {
            let mine = self.version().map_or(0, |mine| mine.epoch);
            let agrees = version.is_none_or(|version| version.epoch <= mine);
            self.peers.contact(from, sent_ms.min(now_ms), agrees);
        }
        let Some(version) = version.filter(|version| version.epoch <= EPOCH_BELIEVED_MAX) else {
            return;
        };
        self.highest_epoch = self.highest_epoch.max(version.epoch);
        let mine = self.version();
        if mine.is_none_or(|mine| version.epoch > mine.epoch) {
            self.is_behind(now_ms, version.epoch, from);
        } else if mine.is_some_and(|mine| version.epoch == mine.epoch && version.hash != mine.hash)
        {
            self.want_recommit(now_ms, true);
        }
    }

    /// Somebody has a later view. Who has not given it when asked last is asked again only if nobody else has one.
    fn is_behind(&mut self, now_ms: u64, epoch: u64, from: NodeId) {
        let behind = self.behind.get_or_insert(Behind {
            epoch,
            from,
            heard_ms: now_ms,
        });
        behind.epoch = behind.epoch.max(epoch);
        behind.heard_ms = now_ms;
        if self.pull.is_none_or(|(asked, _)| asked != from) {
            behind.from = from;
        }
    }

    fn pull_when_behind(&mut self, now_ms: u64, actions: &mut Vec<Action>) {
        self.behind
            .take_if(|behind| now_ms >= behind.heard_ms + BEHIND_FORGOTTEN_MS);
        let Some(behind) = self.behind else { return };
        let waiting = self
            .pull
            .is_some_and(|(_, sent_ms)| now_ms < sent_ms + ANSWER_WITHIN_MS);
        if !waiting {
            self.pull = Some((behind.from, now_ms));
            actions.push(Action::Pull { from: behind.from });
        }
    }

    fn pulled(&mut self, now_ms: u64, from: NodeId, view: Option<View>, actions: &mut Vec<Action>) {
        let Some((_, sent_ms)) = self.pull.filter(|(asked, _)| *asked == from) else {
            return;
        };
        let Some(view) = view.filter(|view| view.cluster == self.cluster) else {
            return;
        };
        if view.epoch <= EPOCH_BELIEVED_MAX {
            self.pull = None;
            // A later view that has this node is news as fresh as the question. Without that a view with many newcomers
            // would fence it until it has heard from most of them.
            if self.version().is_none_or(|mine| view.epoch > mine.epoch)
                && view.contains(self.me.node)
            {
                self.store.confirmed_ms = self.store.confirmed_ms.max(Some(sent_ms));
            }
            self.install(now_ms, Arc::new(view), actions);
        }
    }

    fn read_when_due(&mut self, now_ms: u64, actions: &mut Vec<Action>) {
        let proposes = self.wants_to_propose(now_ms);
        let serving = self.standing == Standing::Serving;
        let majority_ms = self.installed.as_ref().and_then(|installed| {
            self.peers
                .majority_ms(now_ms, &installed.view, self.me.node)
        });
        let unsure = !serving || majority_ms.is_none_or(|at_ms| now_ms >= at_ms + READ_EVERY_MS);
        let every_ms = if proposes {
            RETRY_MS
        } else if unsure || self.behind.is_some() || self.rank(self.view().map(Arc::as_ref)) == 0 {
            READ_EVERY_MS
        } else {
            // Not all at the same time.
            READ_SELDOM_MS + self.me.node.uid % READ_EVERY_MS
        };
        if self
            .store
            .sent_ms
            .is_some_and(|sent_ms| now_ms < sent_ms + every_ms)
        {
            return;
        }
        let known = self.version();
        let Some(request) = self.store.ask(now_ms, Asked::Read { known }) else {
            return;
        };
        let beat = serving && (!unsure || self.sees_quorum(now_ms, self.view().map(Arc::as_ref)));
        actions.push(Action::ReadStore {
            request,
            known,
            beat,
        });
    }

    fn read(
        &mut self,
        now_ms: u64,
        request: u64,
        stored: Option<Stored>,
        actions: &mut Vec<Action>,
    ) {
        let Some((sent_ms, Asked::Read { known })) = self.store.answered(request) else {
            return;
        };
        let Some(Stored { content, beat }) = stored else {
            return;
        };
        let (version, view) = match content {
            Content::Nothing => (None, None),
            Content::Known => (known, None),
            Content::View(view) => (Some(view.version()), Some(view)),
        };
        if let Some(view) = &view
            && view.cluster != self.cluster
        {
            if !self.store.foreign {
                self.store.foreign = true;
                actions.push(Action::ForeignStore(view.cluster.clone()));
            }
            return;
        }
        self.store.saw(now_ms, sent_ms, version, beat);
        let epoch = version.map_or(0, |version| version.epoch);
        self.highest_epoch = self.highest_epoch.max(epoch);
        if let Some(view) = &view {
            self.install(now_ms, view.clone(), actions);
        }
        self.compare_with_store(now_ms, sent_ms, version);
        let outside = view.is_some_and(|view| {
            epoch >= self.version().map_or(0, |mine| mine.epoch) && !view.contains(self.me.node)
        });
        if !outside {
            self.store.confirmed_ms = Some(sent_ms);
        }
        self.renew_lease(now_ms);
        self.unfence_when_possible(now_ms, actions);
        // What a process that was stopped finds in its buffers is no ground for a proposal.
        let late = now_ms >= sent_ms + ANSWER_WITHIN_MS;
        if self.standing != Standing::Left && !late {
            self.propose(now_ms, version, actions);
        }
    }

    /// Notices a store that has less than this node, or something else under the same number. A read that was sent before
    /// this node's view held may just be late.
    fn compare_with_store(&mut self, now_ms: u64, sent_ms: u64, stored: Option<Version>) {
        let Some(installed) = &self.installed else {
            return;
        };
        if stored == Some(installed.version) {
            self.recommit.take_if(|recommit| !recommit.heard);
        } else if sent_ms >= installed.since_ms {
            self.want_recommit(now_ms, false);
        }
    }

    fn want_recommit(&mut self, now_ms: u64, heard: bool) {
        let recommit = self.recommit.get_or_insert(Recommit {
            since_ms: now_ms,
            heard,
        });
        recommit.heard |= heard;
    }

    fn written(&mut self, now_ms: u64, request: u64, outcome: Written, actions: &mut Vec<Action>) {
        let Some((sent_ms, Asked::Write { view, version })) = self.store.answered(request) else {
            return;
        };
        match outcome {
            Written::Done => {
                // First of all, so that those who are not in it any more hear of it too, and before this node may leave.
                let to = self.neighbours().into_keys().collect();
                actions.push(Action::Tell { to, version });
                self.install(now_ms, view, actions);
                self.store.confirmed_ms = Some(sent_ms);
                self.renew_lease(now_ms);
                self.unfence_when_possible(now_ms, actions);
                self.leave_when_possible(now_ms, actions);
            }
            // Look again at once.
            Written::Changed => self.store.sent_ms = None,
            Written::Unknown => {}
        }
    }

    /// Makes a view hold, if it is later than the one that does.
    fn install(&mut self, now_ms: u64, view: Arc<View>, actions: &mut Vec<Action>) {
        if self.version().is_some_and(|mine| view.epoch <= mine.epoch) {
            return;
        }
        self.highest_epoch = self.highest_epoch.max(view.epoch);
        self.recommit = None;
        self.behind.take_if(|behind| behind.epoch <= view.epoch);
        self.weights.retain(|uid, weight| {
            view.member(*uid)
                .is_some_and(|member| member.weight != *weight)
        });
        if let Some(before) = &self.installed {
            let left = before
                .view
                .members
                .iter()
                .filter(|member| member.role == Role::Leaving && !view.contains(member.node));
            for member in left {
                self.peers.ended(now_ms, member.node);
            }
        }
        self.peers.expect(now_ms, &view, self.me.node);
        self.installed = Some(Installed {
            version: view.version(),
            view: view.clone(),
            since_ms: now_ms,
        });
        actions.push(Action::Install(view));
        self.take_place(now_ms, actions);
        self.renew_lease(now_ms);
        self.unfence_when_possible(now_ms, actions);
    }
}

/// Higher numbers of views are not believed: at a view a microsecond they are two hundred thousand years away.
const EPOCH_BELIEVED_MAX: u64 = u64::MAX / 4;
