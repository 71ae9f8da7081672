//! CONNECTs that need the engine while it takes nothing more: they wait, in order, and few give up.

use std::collections::VecDeque;

use edge_proto::reason::ReasonCode;

use super::{Home, refuse};
use crate::core_message::Attach;
use crate::metrics::TurnedAway;
use crate::turn::Turn;

/// CONNECTs that wait at one core, at most; one more is told that the server is busy.
const WAITING_MAX: usize = 1_024;
/// Bytes of their wills, at most.
const WILL_BYTES_MAX: usize = 4 << 20;
/// How long one waits before it is told that the server is busy.
const PATIENCE_MS: u64 = 5_000;
/// How many go on in a turn: each may make a command for the engine, which is not to be flooded again.
const PER_TURN: usize = 64;

/// Of so many strangers one is let in while far more clients want in than can be taken.
const STRANGERS_PER_WELCOME: u32 = 4;

/// CONNECTs in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    queue: VecDeque<Waiter>,
    will_bytes: usize,
}

#[derive(Debug)]
struct Waiter {
    until_ms: u64,
    attach: Attach,
}

impl Waiting {
    /// Takes a CONNECT in, or gives it back when there is no room.
    fn push(&mut self, now_ms: u64, attach: Attach) -> Result<(), Attach> {
        let will_bytes = will_bytes(&attach);
        if self.queue.len() >= WAITING_MAX || self.will_bytes + will_bytes > WILL_BYTES_MAX {
            return Err(attach);
        }
        self.will_bytes += will_bytes;
        self.queue.push_back(Waiter {
            until_ms: now_ms + PATIENCE_MS,
            attach,
        });
        Ok(())
    }

    fn pop_if(&mut self, ready: impl FnOnce(&Waiter) -> bool) -> Option<Attach> {
        if !self.queue.front().is_some_and(ready) {
            return None;
        }
        let Waiter { attach, .. } = self.queue.pop_front()?;
        self.will_bytes -= will_bytes(&attach);
        Some(attach)
    }

    /// Forgets CONNECTs; their edges send them to another home.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(&Attach) -> bool) {
        self.queue.retain(|waiter| keep(&waiter.attach));
        let waiters = self.queue.iter();
        self.will_bytes = waiters.map(|waiter| will_bytes(&waiter.attach)).sum();
    }

    fn holds(&self, attach: &Attach) -> bool {
        self.queue.iter().any(|waiter| {
            waiter.attach.client_id == attach.client_id && waiter.attach.user() == attach.user()
        })
    }
}

fn will_bytes(attach: &Attach) -> usize {
    attach
        .will
        .as_ref()
        .map_or(0, |will| will.message.queued_bytes())
}

impl Home {
    /// A CONNECT wants this client id. It waits while it needs the engine and that takes nothing more, or while an earlier one
    /// with the same client id does: the later one wins.
    pub fn attach(&mut self, turn: &mut Turn<'_>, attach: Attach) {
        if self.is_flapping(turn, &attach) {
            return refuse(turn, &attach, ReasonCode::ConnectionRateExceeded);
        }
        if turn.congestion.pressed && self.must_give_way(&attach) {
            turn.stats.turn_away(TurnedAway::Pressed);
            return refuse(turn, &attach, ReasonCode::ConnectionRateExceeded);
        }
        let must_wait = turn.congestion.engine && self.needs_engine(&attach);
        if !must_wait && !self.waiting.holds(&attach) {
            return self.admit(turn, attach);
        }
        if let Err(attach) = self.waiting.push(turn.now.mono_ms, attach) {
            refuse(turn, &attach, ReasonCode::ServerBusy);
        }
    }

    /// True for most of those who have no session here, so that those who have one come in first. Some come in even so: a node that
    /// is pressed for long must not be closed to everybody new. Handshakes are dearer than anything that follows, and have had an order
    /// of their own: tickets first. Who has one behind him comes in.
    fn must_give_way(&mut self, attach: &Attach) -> bool {
        let is_known = !attach.clean_start
            && self
                .sessions
                .find(attach.user(), &attach.client_id)
                .is_some();
        if is_known || attach.secure {
            return false;
        }
        self.strangers = self.strangers.wrapping_add(1);
        !self.strangers.is_multiple_of(STRANGERS_PER_WELCOME)
    }

    fn needs_engine(&self, attach: &Attach) -> bool {
        let known = self.sessions.find(attach.user(), &attach.client_id);
        attach.expiry_s > 0 || known.is_some_and(|key| self.is_durable(key))
    }

    /// Goes on with CONNECTs that waited for the engine; called at the end of a turn.
    pub fn resume_connects(&mut self, turn: &mut Turn<'_>) {
        let now_ms = turn.now.mono_ms;
        while let Some(attach) = self.waiting.pop_if(|waiter| waiter.until_ms <= now_ms) {
            refuse(turn, &attach, ReasonCode::ServerBusy);
        }
        if turn.congestion.congested {
            return;
        }
        for _ in 0..PER_TURN {
            let Some(attach) = self.waiting.pop_if(|_| true) else {
                return;
            };
            self.admit(turn, attach);
        }
    }

    /// True when CONNECTs wait for the engine.
    pub fn has_waiting_connects(&self) -> bool {
        !self.waiting.queue.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use edge_proto::topic::RootDepths;
    use reactor::driver::ConnectionId;
    use reactor::wheel::Wheel;

    use super::*;
    use crate::access::policy::Policy;
    use crate::core_message::CoreMessage;
    use crate::engine::Command;
    use crate::limits::Limits;
    use crate::outbox::Outbox;
    use crate::ownership::Ownership;
    use crate::turn::{Congestion, Facts, Now, SessionIds, Stats, Timer, Unanswered};

    /// A home, and an engine that takes commands or does not.
    struct Tested {
        home: Home,
        outbox: Outbox,
        facts: Facts,
        policy: Arc<Policy>,
        ownership: Arc<Ownership>,
        stats: Stats,
        timers: Wheel<Timer>,
        ids: SessionIds,
        unanswered: Unanswered,
        now: Now,
        behind: bool,
        pressed: bool,
        secure: bool,
        connects: u32,
    }

    impl Tested {
        fn behind() -> Self {
            Self {
                home: Home::new(1, &Limits::default()),
                outbox: Outbox::new(0, 0..1),
                facts: Facts {
                    core: 0,
                    limits: Limits::default(),
                    root_depths: RootDepths::default(),
                    websocket_path: "/".into(),
                    seed: 1,
                },
                policy: Arc::new(Policy::open()),
                ownership: Arc::new(Ownership::alone(1)),
                stats: Stats::default(),
                timers: Wheel::new(0),
                ids: SessionIds::new(1, 0),
                unanswered: Unanswered::default(),
                now: Now::default(),
                behind: true,
                pressed: false,
                secure: false,
                connects: 0,
            }
        }

        fn turn(&mut self, act: impl FnOnce(&mut Home, &mut Turn<'_>)) {
            let mut turn = Turn {
                now: self.now,
                outbox: &mut self.outbox,
                facts: &self.facts,
                policy: &self.policy,
                ownership: &self.ownership,
                stats: &mut self.stats,
                timers: &mut self.timers,
                ids: &mut self.ids,
                unanswered: &mut self.unanswered,
                congestion: Congestion {
                    congested: self.behind,
                    engine: self.behind,
                    pressed: self.pressed,
                },
            };
            act(&mut self.home, &mut turn);
        }

        fn connect(&mut self, client_id: &str, expiry_s: u32) {
            self.connects += 1;
            let attach = Attach {
                core: 0,
                connection: ConnectionId {
                    slot: self.connects,
                    generation: 1,
                },
                asked: 0,
                session: crate::message::SessionId(u64::from(self.connects)),
                client_id: client_id.into(),
                identity: None,
                clean_start: false,
                expiry_s,
                will: None,
                peer: ([127, 0, 0, 1], 1).into(),
                secure: self.secure,
            };
            self.turn(|home, turn| home.attach(turn, attach));
        }

        fn end_turn(&mut self) {
            self.turn(Home::resume_connects);
        }

        /// Which connections were answered, and how.
        fn answers(&mut self) -> Vec<(u32, Result<(), ReasonCode>)> {
            self.outbox
                .local
                .drain(..)
                .filter_map(|message| match message {
                    CoreMessage::Attached(attached) => Some((
                        attached.connection.slot,
                        attached.outcome.map(|_session| ()),
                    )),
                    _ => None,
                })
                .collect()
        }

        /// Client ids of the sessions that the engine is to store.
        fn stored(&mut self) -> Vec<String> {
            self.outbox
                .engine
                .drain(..)
                .filter_map(|command| match command {
                    Command::PutSession { record, .. } => Some(record.client_id.to_string()),
                    _ => None,
                })
                .collect()
        }
    }

    #[test]
    fn a_connect_that_needs_the_engine_waits_for_it_and_others_do_not() {
        let mut tested = Tested::behind();
        tested.connect("durable", 60);
        tested.connect("live", 0);
        tested.end_turn();
        assert_eq!(tested.answers(), [(2, Ok(()))]);
        assert!(tested.stored().is_empty());
        tested.behind = false;
        tested.end_turn();
        assert_eq!(tested.stored(), ["durable"]);
        assert!(!tested.home.has_waiting_connects());
    }

    #[test]
    fn while_too_many_want_in_most_strangers_give_way_and_kept_sessions_do_not() {
        let mut tested = Tested::behind();
        tested.behind = false;
        tested.connect("kept", 0);
        assert_eq!(tested.answers(), [(1, Ok(()))]);
        tested.pressed = true;
        for number in 0..8 {
            tested.connect(&format!("stranger-{number}"), 0);
        }
        let answers = tested.answers();
        let refused = Err(ReasonCode::ConnectionRateExceeded);
        let let_in = answers.iter().filter(|(_, answer)| answer.is_ok()).count();
        assert_eq!((let_in, answers.len()), (2, 8), "one of four");
        assert!(
            answers
                .iter()
                .all(|(_, answer)| answer.is_ok() || *answer == refused)
        );
        assert_eq!(tested.stats.turned_away[TurnedAway::Pressed as usize], 6);
        for _ in 0..4 {
            tested.connect("kept", 0); // Evicts the connection before; never refused.
        }
        let refusals = tested
            .answers()
            .into_iter()
            .filter(|(_, answer)| *answer == refused);
        assert_eq!(refusals.count(), 0);
        tested.secure = true;
        for number in 0..4 {
            tested.connect(&format!("stranger-in-tls-{number}"), 0);
        }
        let answers = tested.answers();
        assert!(
            answers.iter().all(|(_, answer)| answer.is_ok()),
            "their handshakes are done"
        );
        (tested.pressed, tested.secure) = (false, false);
        tested.connect("stranger-9", 0);
        assert_eq!(tested.answers().len(), 1);
    }

    #[test]
    fn a_later_connect_of_the_same_client_does_not_overtake() {
        let mut tested = Tested::behind();
        tested.connect("one", 60);
        tested.connect("one", 0);
        tested.end_turn();
        assert!(tested.answers().is_empty());
        tested.behind = false;
        tested.end_turn();
        assert_eq!(tested.stored(), ["one"]);
        assert_eq!(tested.answers(), [(1, Err(ReasonCode::SessionTakenOver))]);
    }

    #[test]
    fn who_waited_too_long_is_told_that_the_server_is_busy() {
        let mut tested = Tested::behind();
        tested.connect("early", 60);
        tested.now.mono_ms = PATIENCE_MS - 1;
        tested.connect("late", 60);
        tested.end_turn();
        assert!(tested.answers().is_empty());
        tested.now.mono_ms = PATIENCE_MS;
        tested.end_turn();
        assert_eq!(tested.answers(), [(1, Err(ReasonCode::ServerBusy))]);
    }

    #[test]
    fn no_more_wait_than_there_is_room_for() {
        let mut tested = Tested::behind();
        for client in 0..=WAITING_MAX {
            tested.connect(&format!("client-{client}"), 60);
        }
        let last = tested.connects;
        assert_eq!(tested.answers(), [(last, Err(ReasonCode::ServerBusy))]);
        tested.behind = false;
        tested.end_turn();
        assert_eq!(tested.stored().len(), PER_TURN);
    }
}
