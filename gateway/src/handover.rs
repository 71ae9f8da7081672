//! The hand-over of partitions at one core: what it waits for before it serves what a new view gives it.
//!
//! ```text
//!              every core has said Installed     every core has said Announced, what is new is claimed and read
//!  MARKING ───────────────────────────────▶ CLAIMING ─────────────────────────────────────────────────▶ SERVING
//!     ▲                                                                                                    │
//!     └───────────────────────────────────────── a new view ───────────────────────────────────────────────┘
//! ```
//!
//! Installing a view, a core stops to act for the partitions that it has lost, and says so in every lane. What follows in the lane
//! belongs to the new view and is held back until all cores have said it: then nothing of the old view is under way any more, and what
//! the former owner sent has come before anything that the new one sends. Whoever waits for an answer that can no longer come
//! asks again under the new view, in the old order, so nothing has to be passed on from owner to owner; what was stored by the first
//! question is known by its id.
//!
//! What a core keeps it serves all the time. What it has gained waits, in order, until it is served. A core that has just started waits
//! with everything until it knows all broad subscriptions of durable sessions: from a core that knows them, or from all homes, when
//! those have read theirs.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use foldhash::fast::FixedState;
use hashbrown::HashMap;

use cluster::partition::{PARTITIONS, partition_of};
use edge_proto::topic::RootDepths;

use crate::core_message::{AppendRequest, CoreMessage, HandoverStep, MailboxRecipient, Stage};
use crate::metrics::HandoverSample;
use crate::ownership::{Ownership, home_partition};
use crate::turn::without_share;

/// Claims of a core that are under way at once, at most: each may bring a page of what is stored.
const CLAIMS_MAX: usize = 256;
/// How long a core waits for others that are members and say nothing. Then it goes on without them, and says so.
pub const PATIENCE_MS: u64 = 5_000;
/// From a lost claim to the next try.
const AGAIN_MS: u64 = 100;
/// Messages that wait here, beyond which those that may be lost are.
const LOSSY_MAX: usize = 1_024;

/// Who says something to this core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Speaker {
    /// The core.
    pub core: u16,
    /// The view that it had installed when it said it; 0 in a node alone.
    pub epoch: u64,
}

impl Speaker {
    /// The home of a user or client, under the view that holds.
    pub fn home(ownership: &Ownership, name: &str) -> Self {
        Self {
            core: ownership.home_of(name),
            epoch: ownership.epoch(),
        }
    }
}

/// A set of partitions.
#[derive(Clone, Debug)]
pub struct Partitions(Box<[u64]>);

impl Default for Partitions {
    fn default() -> Self {
        Self(vec![0; usize::from(PARTITIONS) / 64].into())
    }
}

impl Partitions {
    /// True when it is in the set.
    pub fn contains(&self, partition: u16) -> bool {
        self.0[usize::from(partition) / 64] & (1 << (partition % 64)) != 0
    }

    /// Puts it in.
    pub fn insert(&mut self, partition: u16) {
        self.0[usize::from(partition) / 64] |= 1 << (partition % 64);
    }

    /// Takes it out. True when it was in.
    pub fn remove(&mut self, partition: u16) -> bool {
        let was_in = self.contains(partition);
        self.0[usize::from(partition) / 64] &= !(1 << (partition % 64));
        was_in
    }

    /// Puts in what another one has.
    pub fn add_all(&mut self, others: &Self) {
        for (word, other) in self.0.iter_mut().zip(&others.0) {
            *word |= other;
        }
    }

    /// How many are in it.
    pub fn count(&self) -> u64 {
        self.0.iter().map(|word| u64::from(word.count_ones())).sum()
    }
}

/// Where a core is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Marking,
    Claiming,
    Serving,
}

/// What another core has said of views, as far as this one has handled its messages: epochs.
#[derive(Clone, Copy, Debug, Default)]
struct Said {
    installed: u64,
    announced: u64,
    loaded: u64,
}

/// What is to become of a message; of several partitions the worst holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Gate {
    /// It is handled.
    Pass,
    /// It waits until its partition is served.
    Wait,
    /// Its partition is another core's: whoever sent it will send it again, if anybody waits for it.
    NotMine,
}

/// Whom a message is for.
enum Address {
    /// The owner of a partition, or the home in it.
    Partition(u16),
    /// Every owner.
    All,
    /// A connection, a session, a request that this core knows or does not.
    Other,
}

/// The hand-over at one core of a cluster.
#[derive(Debug)]
pub struct Handover {
    core: u16,
    epoch: u64,
    began_ms: u64,
    phase: Phase,
    said: HashMap<u16, Said, FixedState>,
    /// Messages behind a step of a view that is not settled here, by core.
    held: BTreeMap<u16, VecDeque<CoreMessage>>,
    /// Messages for partitions that are not served yet, with the cores that sent them.
    waiting: VecDeque<(u16, CoreMessage)>,
    served: Partitions,
    claimed: Partitions,
    /// What is this core's under the view that holds, served or not.
    owned: Partitions,
    /// Since which view this core has had partitions that came to it lately: what was said to it before was said to an earlier owner.
    gained: HashMap<u16, u64, FixedState>,
    to_claim: Vec<u16>,
    /// Partition by the number of the request to the engine.
    claims: HashMap<u64, u16, FixedState>,
    next_claim: u64,
    /// Partitions whose claim was lost: the view that says why is on its way, and if it is not, they are claimed again.
    refused: Vec<u16>,
    /// When lost claims were made again last.
    refused_ms: u64,
    /// True when this core knows all broad subscriptions of durable sessions.
    complete: bool,
    /// True when the others were told that everything is read.
    told_loaded: bool,
    /// True while it serves without having heard from all.
    degraded: bool,
}

impl Handover {
    /// A core that has seen no view yet.
    pub fn new(core: u16) -> Self {
        Self {
            core,
            epoch: 0,
            began_ms: 0,
            phase: Phase::Marking,
            said: HashMap::default(),
            held: BTreeMap::new(),
            waiting: VecDeque::new(),
            served: Partitions::default(),
            claimed: Partitions::default(),
            owned: Partitions::default(),
            gained: HashMap::default(),
            to_claim: Vec::new(),
            claims: HashMap::default(),
            next_claim: 0,
            refused: Vec::new(),
            refused_ms: 0,
            complete: false,
            told_loaded: false,
            degraded: false,
        }
    }

    /// A view holds from now on. Returns the partitions that are not this core's.
    pub fn begin(&mut self, now_ms: u64, ownership: &Ownership) -> Partitions {
        // After a view that this core has not seen, others may have known for long what is its own.
        let is_next = ownership.epoch() == self.epoch + 1;
        self.epoch = ownership.epoch();
        self.began_ms = now_ms;
        self.phase = Phase::Marking;
        self.told_loaded = false;
        self.degraded = false;
        self.to_claim.clear();
        self.refused.clear();
        let mut lost = Partitions::default();
        for partition in 0..PARTITIONS {
            let known = self.served.contains(partition) || self.claimed.contains(partition);
            if ownership.core_of(partition) != self.core {
                self.served.remove(partition);
                self.claimed.remove(partition);
                self.gained.remove(&partition);
                self.owned.remove(partition);
                lost.insert(partition);
                continue;
            }
            if !self.owned.contains(partition) && is_next {
                self.gained.insert(partition, self.epoch);
            }
            self.owned.insert(partition);
            if !known {
                self.to_claim.push(partition);
            }
        }
        // A claim that is under way is under an older view, and is made again.
        self.claims.clear();
        // A newer member may have said already what it says once.
        let epoch = self.epoch;
        self.said
            .retain(|core, said| ownership.has_core(*core) || said.installed > epoch);
        let said = &self.said;
        self.held.retain(|core, _| said.contains_key(core));
        // What a former member asked concerns nobody: its connections are gone.
        self.waiting.retain(|(core, _)| ownership.has_core(*core));
        lost
    }

    /// The view that holds.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// True when everything that is this core's is served.
    pub fn is_serving(&self) -> bool {
        self.phase == Phase::Serving
    }

    /// How far it is, at this time of the monotonic clock.
    pub fn sample(&self, now_ms: u64) -> HandoverSample {
        let unserved = self.to_claim.len() + self.refused.len() + self.claims.len();
        let served = self.served.count();
        let is_over = self.is_serving() && !self.degraded;
        HandoverSample {
            ready: if self.degraded { 0 } else { served },
            syncing: unserved as u64 + self.claimed.count(),
            degraded: if self.degraded { served } else { 0 },
            age_ms: if is_over {
                0
            } else {
                now_ms.saturating_sub(self.began_ms).max(1)
            },
        }
    }

    /// Messages that wait here.
    pub fn waiting(&self) -> usize {
        self.waiting.len() + self.held.values().map(VecDeque::len).sum::<usize>()
    }

    /// When this core loses patience; `None` when it waits for nobody.
    pub fn deadline_ms(&self) -> Option<u64> {
        match self.phase {
            Phase::Marking => Some(self.began_ms + PATIENCE_MS),
            Phase::Claiming if self.told_loaded => Some(self.began_ms + PATIENCE_MS),
            Phase::Claiming if !self.refused.is_empty() => Some(self.refused_ms + AGAIN_MS),
            Phase::Claiming | Phase::Serving => None,
        }
    }

    /// A message of another core: given back when it can be handled now, kept when it must wait for its turn.
    pub fn admit(&mut self, from: u16, message: CoreMessage) -> Option<CoreMessage> {
        let queue = self.held.get_mut(&from).filter(|held| !held.is_empty());
        if let Some(queue) = queue {
            queue.push_back(message);
            return None;
        }
        if self.must_hold(from) {
            self.held.entry(from).or_default().push_back(message);
            return None;
        }
        Some(message)
    }

    /// The next message that was held back and can be handled now.
    pub fn release(&mut self) -> Option<(u16, CoreMessage)> {
        let from = self.held.iter().find_map(|(from, queue)| {
            (!queue.is_empty() && !self.must_hold(*from)).then_some(*from)
        })?;
        let message = self.held.get_mut(&from)?.pop_front()?;
        Some((from, message))
    }

    fn must_hold(&self, from: u16) -> bool {
        let installed = self.said.get(&from).map_or(0, |said| said.installed);
        installed > self.epoch || (installed == self.epoch && self.phase == Phase::Marking)
    }

    /// The view under which a core says what is handled next.
    pub fn epoch_of(&self, core: u16) -> u64 {
        if core == self.core {
            return self.epoch;
        }
        self.said.get(&core).map_or(0, |said| said.installed)
    }

    /// Another core says how far it is.
    pub fn heard(&mut self, from: u16, step: HandoverStep) {
        let said = self.said.entry(from).or_default();
        match step.stage {
            Stage::Installed => said.installed = step.epoch,
            Stage::Announced => said.announced = step.epoch,
            Stage::Loaded => said.loaded = step.epoch,
        }
    }

    fn all_said(&self, ownership: &Ownership, epoch_of: impl Fn(&Said) -> u64) -> bool {
        let others = ownership.cores().iter().filter(|core| **core != self.core);
        others
            .map(|core| self.said.get(core).map_or(0, &epoch_of))
            .all(|epoch| epoch >= self.epoch)
    }

    /// Goes from marking to claiming when all have said that they have the view, or have had time enough. True when it did.
    pub fn marked(&mut self, now_ms: u64, ownership: &Ownership) -> bool {
        let is_due = self.phase == Phase::Marking
            && (self.all_said(ownership, |said| said.installed) || self.is_late(now_ms));
        if is_due {
            self.phase = Phase::Claiming;
        }
        is_due
    }

    /// True when others have said nothing for so long that it goes on without them.
    pub fn is_late(&self, now_ms: u64) -> bool {
        now_ms >= self.began_ms + PATIENCE_MS
    }

    /// The next partition to claim, and the number of the request.
    pub fn next_claim(&mut self) -> Option<(u64, u16)> {
        if self.phase != Phase::Claiming || self.claims.len() >= CLAIMS_MAX {
            return None;
        }
        let partition = self.to_claim.pop()?;
        self.next_claim += 1;
        self.claims.insert(self.next_claim, partition);
        Some((self.next_claim, partition))
    }

    /// True while this request to the engine is one of the present view.
    pub fn is_claiming(&self, claim: u64) -> bool {
        self.claims.contains_key(&claim)
    }

    /// The engine has answered a claim.
    pub fn claimed(&mut self, claim: u64, is_held: bool) {
        let Some(partition) = self.claims.remove(&claim) else {
            return;
        };
        if is_held {
            self.claimed.insert(partition);
        } else {
            self.refused.push(partition);
        }
    }

    /// Claims that were lost are made again, after a while.
    pub fn claim_again(&mut self, now_ms: u64) {
        if now_ms >= self.refused_ms + AGAIN_MS {
            self.refused_ms = now_ms;
            self.to_claim.append(&mut self.refused);
        }
    }

    /// True once, when everything that is new is read and the others are to be told.
    pub fn take_loaded(&mut self) -> bool {
        let is_due = self.phase == Phase::Claiming
            && !self.told_loaded
            && self.to_claim.is_empty()
            && self.refused.is_empty()
            && self.claims.is_empty();
        self.told_loaded |= is_due;
        is_due
    }

    /// Goes from claiming to serving when nothing is awaited any more. True when it did.
    pub fn serves(&mut self, now_ms: u64, ownership: &Ownership) -> bool {
        if self.phase != Phase::Claiming || !self.told_loaded {
            return false;
        }
        let complete = self.complete || self.all_said(ownership, |said| said.loaded);
        let announced = self.all_said(ownership, |said| said.announced);
        let is_whole = announced && complete;
        if !is_whole && !self.is_late(now_ms) {
            return false;
        }
        self.phase = Phase::Serving;
        self.degraded = !is_whole;
        self.complete = true;
        if is_whole {
            self.gained.clear(); // All are past the views before.
        }
        for (served, claimed) in self.served.0.iter_mut().zip(&mut self.claimed.0) {
            *served |= std::mem::take(claimed);
        }
        true
    }

    /// Looks whether those that were not waited for have said what they know by now.
    pub fn recover(&mut self, ownership: &Ownership) {
        if self.degraded {
            self.degraded = !self.all_said(ownership, |said| said.announced.min(said.loaded));
            if !self.degraded {
                self.gained.clear();
            }
        }
    }

    /// Forgets messages for partitions that were to be this core's and are another's now: whoever waits asks there. If a partition comes
    /// back before this core has served it, they must not be handled after what was said there.
    pub fn forget_foreign(&mut self, ownership: &Ownership, depths: &RootDepths) {
        let mut waiting = std::mem::take(&mut self.waiting);
        waiting.retain(|(_, message)| {
            self.gate(ownership, depths, self.epoch, message) != Gate::NotMine
        });
        self.waiting = waiting;
    }

    /// Keeps a message until its partition is served. Gives it back when it may be lost and too many wait.
    pub fn wait(&mut self, from: u16, message: CoreMessage) -> Option<CoreMessage> {
        if message.is_lossy() && self.waiting.len() >= LOSSY_MAX {
            return Some(message);
        }
        self.waiting.push_back((from, message));
        None
    }

    /// What waited, to be handled in this order.
    pub fn take_waiting(&mut self) -> VecDeque<(u16, CoreMessage)> {
        std::mem::take(&mut self.waiting)
    }

    /// Whether a message may be handled now that was said under a view.
    pub fn gate(
        &self,
        ownership: &Ownership,
        depths: &RootDepths,
        said_under: u64,
        message: &CoreMessage,
    ) -> Gate {
        let gate_of = |partition| self.gate_of(ownership, said_under, partition);
        if let CoreMessage::Append(request) = message {
            let gates = request
                .recipients
                .iter()
                .map(|recipient| recipient.partition);
            let gates = gates.map(gate_of);
            return gates.max().unwrap_or(Gate::Pass);
        }
        if let CoreMessage::FindSubscriptions { names, .. } = message {
            let gates = names.iter();
            let mut gates = gates.map(|(partition, _)| gate_of(*partition));
            let must_wait = gates.any(|gate| gate == Gate::Wait);
            return if must_wait { Gate::Wait } else { Gate::Pass };
        }
        match address(depths, message) {
            Address::Other => Gate::Pass,
            Address::All if self.complete => Gate::Pass,
            Address::All => Gate::Wait,
            Address::Partition(partition) => gate_of(partition),
        }
    }

    /// Takes the part that can be stored now out of a message for several mailboxes, so that it does not come after what is for some of
    /// them only. Nobody waits for that part: the rest is answered after it, or asked for again with all of it.
    pub fn split(
        &self,
        ownership: &Ownership,
        said_under: u64,
        message: CoreMessage,
    ) -> (Option<AppendRequest>, CoreMessage) {
        let CoreMessage::Append(mut request) = message else {
            return (None, message);
        };
        let is_now = |recipient: &MailboxRecipient| {
            self.gate_of(ownership, said_under, recipient.partition) == Gate::Pass
        };
        let (now, rest): (Vec<_>, Vec<_>) = request.recipients.into_iter().partition(is_now);
        if now.is_empty() || rest.is_empty() {
            request.recipients = if rest.is_empty() { now } else { rest };
            return (None, CoreMessage::Append(request));
        }
        let part = AppendRequest {
            message: Arc::clone(&request.message),
            id: request.id,
            retry: request.retry,
            recipients: now,
            answer: (self.core, u64::MAX),
        };
        request.recipients = rest;
        (Some(part), CoreMessage::Append(request))
    }

    fn gate_of(&self, ownership: &Ownership, said_under: u64, partition: u16) -> Gate {
        let is_mine = ownership.core_of(partition) == self.core;
        let since = self.gained.get(&partition).copied().unwrap_or(0);
        if !is_mine || said_under < since {
            Gate::NotMine
        } else if self.complete && self.served.contains(partition) {
            Gate::Pass
        } else {
            Gate::Wait
        }
    }
}

fn address(depths: &RootDepths, message: &CoreMessage) -> Address {
    let of_filter = |filter: &str| match depths.root_of_filter(without_share(filter)) {
        Some(root) => Address::Partition(partition_of(root)),
        None => Address::All,
    };
    match message {
        CoreMessage::Publish(request) => {
            let root = depths.root_of_topic(request.message.topic());
            Address::Partition(partition_of(root))
        }
        CoreMessage::Subscribe(request) => of_filter(&request.filter),
        CoreMessage::Unsubscribe(request) => of_filter(&request.filter),
        CoreMessage::LimitSubscription(limit) => of_filter(&limit.filter),
        CoreMessage::FindSubscription(find) => of_filter(&find.filter),
        CoreMessage::SharedPresence(member) => of_filter(&member.filter),
        CoreMessage::RetainedScan(scan) => of_filter(&scan.filter),
        CoreMessage::Attach(attach) => {
            let name = attach.user().unwrap_or(&attach.client_id);
            Address::Partition(home_partition(name))
        }
        CoreMessage::Reattach(session) => {
            let name = session.user().unwrap_or(&session.client_id);
            Address::Partition(home_partition(name))
        }
        _ => Address::Other,
    }
}
