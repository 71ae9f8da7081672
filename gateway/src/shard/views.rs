//! A core in a cluster: a new view, messages that wait for it, partitions that are claimed and read. `handover.rs` says what
//! waits for what; here it is done.

use std::sync::Arc;

use super::{Shard, TokenRole, role_of, token};
use crate::core_message::{
    CoreMessage, HandoverStep, Presence, Stage, SubscribeRequest, Subscriber, Target,
};
use crate::engine::claim::ClaimOutcome;
use crate::engine::{Command, Completion, Restored, SubscriptionRecord};
use crate::handover::Gate;
use crate::message::SessionId;
use crate::outbox::Outbox;
use crate::ownership::Ownership;
use crate::turn::{Now, without_share};

/// True for what the engine says of a claim.
pub(super) fn is_of_claim(completion: &Completion) -> bool {
    match completion {
        Completion::Loaded { .. } | Completion::Claimed { .. } => true,
        Completion::Deposed { token } => role_of(*token).0 == TokenRole::Claim,
        _ => false,
    }
}

impl Shard {
    /// A view holds from now on: what is lost goes, whoever has gained hears what this core knows, and what waits for those who have
    /// lost is asked again.
    pub(super) fn view(&mut self, now: Now, ownership: Arc<Ownership>, outbox: &mut Outbox) {
        let Some(handover) = &mut self.handover else {
            return;
        };
        if ownership.epoch() <= handover.epoch() {
            return;
        }
        let lost = handover.begin(now.mono_ms, &ownership);
        handover.forget_foreign(&ownership, &self.common.facts.root_depths);
        let old = std::mem::replace(&mut self.common.ownership, ownership);
        self.tell_all(outbox, Stage::Installed);
        let mut turn = self.common.turn(now, outbox);
        // Broad subscriptions go to new cores before what homes say of members of them.
        self.owner.view(&mut turn, &old, &lost);
        self.home.view(&mut turn, &old, &lost);
        self.edge.view(&mut turn, &old);
        self.tell_all(outbox, Stage::Announced);
        self.ask_again(now, &old, outbox);
        self.settle(now, outbox);
        self.progress(now, outbox);
    }

    /// Publishes whose owner may not have them, or may not be able to answer, are sent again.
    fn ask_again(&mut self, now: Now, old: &Ownership, outbox: &mut Outbox) {
        let new = Arc::clone(&self.common.ownership);
        let depths = self.common.facts.root_depths.clone();
        // After a view that this core has not seen, an owner may have lost what it owned before and owns again.
        let all = new.epoch() > old.epoch() + 1;
        let again = self.common.unanswered.again(|request| {
            let root = depths.root_of_topic(request.message.topic());
            all || old.core_of_root(root) != new.core_of_root(root)
        });
        let mut turn = self.common.turn(now, outbox);
        for request in again {
            turn.route(request);
        }
    }

    fn tell_all(&self, outbox: &mut Outbox, stage: Stage) {
        let ownership = &self.common.ownership;
        let epoch = ownership.epoch();
        let here = self.common.facts.core;
        for &core in ownership.cores().iter().filter(|core| **core != here) {
            let step = HandoverStep { epoch, stage };
            outbox.tell(core, CoreMessage::Handover(step));
        }
    }

    /// A message from another core.
    pub(super) fn core_message(
        &mut self,
        now: Now,
        from: u16,
        message: CoreMessage,
        outbox: &mut Outbox,
    ) {
        let is_step = matches!(message, CoreMessage::Handover(_));
        let message = match &mut self.handover {
            Some(handover) => {
                let is_member = self.common.ownership.has_core(from);
                match handover.admit(from, message) {
                    // What comes from a former member is sent again by nobody, and concerns nobody.
                    Some(_) if !is_member && !is_step => return,
                    admitted => admitted,
                }
            }
            None => Some(message),
        };
        if let Some(message) = message {
            self.handle_message(now, from, message, outbox);
            self.settle(now, outbox);
        }
        if is_step {
            self.progress(now, outbox);
        }
    }

    /// Gives a message back if it may be handled now. Otherwise it waits, or nobody waits for it here.
    pub(super) fn pass_gate(
        &mut self,
        now: Now,
        from: u16,
        message: CoreMessage,
        outbox: &mut Outbox,
    ) -> Option<CoreMessage> {
        let Some(handover) = &mut self.handover else {
            return Some(message);
        };
        if let CoreMessage::Handover(step) = message {
            handover.heard(from, step);
            return None;
        }
        let said_under = handover.epoch_of(from);
        let (now_part, message) = handover.split(&self.common.ownership, said_under, message);
        if let Some(append) = now_part {
            let mut turn = self.common.turn(now, outbox);
            self.home.append(&mut turn, append);
        }
        let Some(handover) = &mut self.handover else {
            return None;
        };
        let depths = &self.common.facts.root_depths;
        match handover.gate(&self.common.ownership, depths, said_under, &message) {
            Gate::Pass => return Some(message),
            Gate::Wait => {
                let mut turn = self.common.turn(now, outbox);
                self.owner.foresee(&mut turn, &message);
                let dropped = handover.wait(from, message);
                self.common.stats.counters.publishes_dropped += u64::from(dropped.is_some());
            }
            Gate::NotMine => {
                let counters = &mut self.common.stats.counters;
                counters.publishes_dropped += u64::from(message.is_lossy());
            }
        }
        None
    }

    /// Goes on with the hand-over as far as it can.
    pub(super) fn progress(&mut self, now: Now, outbox: &mut Outbox) {
        loop {
            while let Some((from, message)) = self.handover.as_mut().and_then(|it| it.release()) {
                self.handle_message(now, from, message, outbox);
                self.settle(now, outbox);
            }
            let Some(handover) = &mut self.handover else {
                return;
            };
            if handover.marked(now.mono_ms, &self.common.ownership) {
                continue;
            }
            while let Some((claim, partition)) = handover.next_claim() {
                outbox.engine.push_back(Command::Claim {
                    token: token(TokenRole::Claim, claim),
                    partition,
                    epoch: handover.epoch(),
                });
            }
            if handover.take_loaded() {
                self.tell_all(outbox, Stage::Loaded);
                continue;
            }
            if !handover.serves(now.mono_ms, &self.common.ownership) {
                handover.recover(&self.common.ownership);
                return;
            }
            let waited = handover.take_waiting();
            for (from, message) in waited {
                self.handle_message(now, from, message, outbox);
                self.settle(now, outbox);
            }
            let mut turn = self.common.turn(now, outbox);
            self.home.settle_loaded(&mut turn);
            self.owner.drain_all(&mut turn);
            self.owner.ask_for_subscriptions(&mut turn);
            self.settle(now, outbox);
        }
    }

    /// Claims that were lost are made again; called with each tick.
    pub(super) fn claim_again(&mut self, now: Now, outbox: &mut Outbox) {
        if let Some(handover) = self.handover.as_mut().filter(|it| !it.is_serving()) {
            handover.claim_again(now.mono_ms);
            self.progress(now, outbox);
        }
    }

    /// The engine has answered a claim, or a part of what it brings.
    pub(super) fn claim_answered(&mut self, now: Now, completion: Completion, outbox: &mut Outbox) {
        let Some(handover) = &mut self.handover else {
            return;
        };
        match completion {
            Completion::Loaded { token, items } if handover.is_claiming(role_of(token).1) => {
                for item in items {
                    self.load(now, item, outbox);
                }
            }
            Completion::Claimed { token, outcome, .. } => {
                handover.claimed(role_of(token).1, outcome == ClaimOutcome::Held);
            }
            Completion::Deposed { token } => handover.claimed(role_of(token).1, false),
            _ => {}
        }
        self.settle(now, outbox);
        self.progress(now, outbox);
    }

    /// Takes over what a partition that is new here holds.
    fn load(&mut self, now: Now, item: Restored, outbox: &mut Outbox) {
        let mut turn = self.common.turn(now, outbox);
        match item {
            Restored::Session {
                session,
                record,
                mailbox,
                ..
            } if session.is_group_queue() => {
                let filter = &record.client_id;
                self.owner
                    .load_queue(&mut turn, session, filter, mailbox.messages);
            }
            Restored::Session {
                session,
                record,
                mailbox,
                received,
            } => {
                self.home
                    .load_session(&mut turn, session, record, mailbox, received);
            }
            Restored::Subscription {
                session,
                filter,
                record,
            } => {
                let partition = self.home.restore_subscription(session, &filter);
                let depths = &turn.facts.root_depths;
                let is_broad = depths.root_of_filter(without_share(&filter)).is_none();
                if let (Some(partition), true) = (partition, is_broad) {
                    for &core in turn.owners_of_filter(&filter) {
                        let request = durable(session, partition, filter.clone(), record);
                        turn.outbox
                            .tell(core, CoreMessage::Subscribe(Box::new(request)));
                    }
                }
            }
            Restored::Route {
                session,
                home,
                filter,
                record,
            } => {
                self.owner.doubt_home(home);
                let request = durable(session, home, filter, record);
                let message = CoreMessage::Subscribe(Box::new(request));
                self.owner.foresee(&mut turn, &message);
            }
            Restored::Retained { message } => self.owner.restore_retained(message),
        }
    }
}

/// A durable subscription as it is known before its session has a connection. It is judged when its client comes back.
fn durable(
    session: SessionId,
    partition: u16,
    filter: Box<str>,
    record: SubscriptionRecord,
) -> SubscribeRequest {
    SubscribeRequest {
        filter,
        subscriber: Subscriber::new(session, Target::Home { partition }, record),
        presence: Presence {
            connected: false,
            load: 0,
        },
        reply: None,
    }
}
