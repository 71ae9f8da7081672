//! How much of a core newcomers may take, so that those who are in keep their latency while too many want in.
//!
//! ```text
//! kernel's accept queue ──accepts per poll──▶ handshakes ─────────────────────▶ CONNECT ──▶ in
//!          ▲ most wait here                                                     └─ strangers are told 0x9F while it is half full
//! ```
//!
//! A turn is as long as its newest guest's work: accepting, its TLS, its CONNECT, its end. So the CPU time from one poll to the next is
//! measured while connections come in, and fewer are accepted at a time when it is long. The kernel holds the others, and then answers
//! no more of them, which costs this node nothing. Whatever those who are in keep the core busy with, newcomers keep a share.
//!
//! A handshake of QUIC begins with a datagram, which the kernel cannot hold back for us: it waits in a queue of ours, which is to QUIC what the
//! kernel's is to TCP, and as many begin in a turn as there is CPU time for ([`HandshakeTime`]).
//!
//! While the kernel's queue, or that one, is more than half full, that many want in that most must be disappointed. Then those come first whose session
//! is kept here: they have messages waiting, and are cheaper than strangers are.

use std::time::Duration;

use reactor::driver::{ACCEPTS_MAX, AcceptBacklog};

/// What decides how many come in.
#[derive(Debug)]
pub struct Newcomers {
    /// Accepted in one poll on each listener, at most.
    accepts: u32,
    /// CPU time of this thread when the last turn ended.
    cpu: Duration,
    /// True exactly when a connection was accepted in the last turn: `cpu` was read after it.
    measuring: bool,
    backlog: AcceptBacklog,
    /// When the backlog was looked at last.
    looked_ms: u64,
    pressed: bool,
}

/// What is told of newcomers at a scrape.
#[derive(Clone, Copy, Debug, Default)]
pub struct NewcomersSample {
    /// Connections that wait in the kernel to be accepted.
    pub waiting: u32,
    /// Connections that are accepted in one poll at most.
    pub accepts_max: u32,
    /// True exactly when strangers are told to come later.
    pub pressed: bool,
}

impl Default for Newcomers {
    fn default() -> Self {
        Self {
            accepts: ACCEPTS_MAX,
            cpu: Duration::ZERO,
            measuring: false,
            backlog: AcceptBacklog::default(),
            looked_ms: 0,
            pressed: false,
        }
    }
}

impl Newcomers {
    /// CPU time from poll to poll above which fewer are accepted, and below half of which more are.
    const TURN_MAX: Duration = Duration::from_micros(500);
    /// The least that is accepted in one poll, of any length.
    const ACCEPTS_MIN: u32 = 2;
    /// CPU time of those who are in for which one newcomer is accepted at the least, which keeps about a tenth of the core for them.
    const TURN_PER_ACCEPT: Duration = Duration::from_micros(500);
    /// How often the kernel's queue is looked at while connections come in.
    pub(super) const LOOK_MS: u64 = 100;
    /// Strangers are refused from here on, in thousandths of the queue.
    const PRESSED_PERMILLE: u32 = 500;
    /// And welcome again from here down.
    const RELIEVED_PERMILLE: u32 = 125;

    /// A turn has ended in which so many connections were accepted. `cpu` reads the thread's CPU time.
    pub(super) fn turn_ended(&mut self, accepted: u32, cpu: impl FnOnce() -> Duration) {
        let was_measuring = std::mem::replace(&mut self.measuring, accepted > 0);
        if accepted == 0 {
            return;
        }
        let now = cpu();
        let took = now.saturating_sub(std::mem::replace(&mut self.cpu, now));
        if was_measuring {
            self.adapt(took, accepted);
        }
    }

    fn adapt(&mut self, took: Duration, accepted: u32) {
        let share = took.as_micros() / Self::TURN_PER_ACCEPT.as_micros();
        let least = u32::try_from(share)
            .unwrap_or(u32::MAX)
            .clamp(Self::ACCEPTS_MIN, ACCEPTS_MAX);
        if took > Self::TURN_MAX {
            self.accepts = (self.accepts * 3 / 4).max(least);
        } else if took < Self::TURN_MAX / 2 && accepted >= self.accepts {
            self.accepts = (self.accepts + 1).min(ACCEPTS_MAX);
        }
    }

    /// Connections to accept in one poll on each listener, when so many handshakes wait for their turn already.
    pub(super) fn accepts(&self, handshakes_waiting: u64) -> u32 {
        const WAITING_MAX: u64 = 32;
        if handshakes_waiting > WAITING_MAX {
            1
        } else {
            self.accepts
        }
    }

    /// True when it is time to look at the kernel's queue: connections come in, or strangers are being refused.
    pub(super) fn wants_look(&self, now_ms: u64) -> bool {
        (self.measuring || self.pressed) && now_ms >= self.looked_ms + Self::LOOK_MS
    }

    /// Notes how long the kernel's queue is.
    pub(super) fn look(&mut self, now_ms: u64, backlog: AcceptBacklog) {
        self.looked_ms = now_ms;
        self.backlog = backlog;
        let bound = if self.pressed {
            Self::RELIEVED_PERMILLE
        } else {
            Self::PRESSED_PERMILLE
        };
        self.pressed = backlog.fullest_permille > bound;
    }

    /// True exactly when strangers are to be told to come later.
    pub(super) fn pressed(&self) -> bool {
        self.pressed
    }

    /// When the kernel's queue must be looked at even if nothing happens.
    pub(super) fn next_deadline_ms(&self) -> Option<u64> {
        self.pressed.then_some(self.looked_ms + Self::LOOK_MS)
    }

    /// What is told at a scrape.
    pub fn sample(&self) -> NewcomersSample {
        NewcomersSample {
            waiting: self.backlog.waiting,
            accepts_max: self.accepts,
            pressed: self.pressed,
        }
    }
}

/// The CPU time that QUIC handshakes take in one turn. Each is as much work as hundreds of messages.
pub(super) struct HandshakeTime<C> {
    /// CPU time of this thread when the first of this turn began.
    began: Option<Duration>,
    cpu: C,
}

impl<C: FnMut() -> Duration> HandshakeTime<C> {
    /// From so much on no further handshake begins in this turn.
    const ENOUGH: Duration = Duration::from_micros(500);

    /// For one turn. `cpu` reads the thread's CPU time.
    pub(super) fn new(cpu: C) -> Self {
        Self { began: None, cpu }
    }

    /// True when one more may begin; for the first one always.
    pub(super) fn has_more(&mut self) -> bool {
        let now = (self.cpu)();
        let began = *self.began.get_or_insert(now);
        now.saturating_sub(began) < Self::ENOUGH
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So many turns in each of which as many are accepted as may be, at so many microseconds each besides what else the turn has.
    fn storm(newcomers: &mut Newcomers, turns: u32, each_us: u64, else_us: u64) {
        let mut cpu = newcomers.cpu;
        for _ in 0..turns {
            let accepted = newcomers.accepts(0);
            cpu += Duration::from_micros(u64::from(accepted) * each_us + else_us);
            newcomers.turn_ended(accepted, || cpu);
        }
    }

    #[test]
    fn turns_become_short_while_too_many_come_in_and_long_again_when_it_is_cheap() {
        let mut newcomers = Newcomers::default();
        storm(&mut newcomers, 100, 60, 20);
        let turn_us = newcomers.accepts * 60 + 20;
        assert!((200..=500).contains(&turn_us), "{turn_us}");
        storm(&mut newcomers, 200, 1, 0);
        assert_eq!(newcomers.accepts, ACCEPTS_MAX);
    }

    #[test]
    fn those_who_are_in_do_not_keep_all_others_out() {
        let mut newcomers = Newcomers::default();
        storm(&mut newcomers, 100, 60, 10_000);
        assert!(newcomers.accepts >= 20, "{}", newcomers.accepts);
        storm(&mut newcomers, 100, 60, 100);
        assert!(newcomers.accepts <= 7, "{}", newcomers.accepts);
    }

    #[test]
    fn a_turn_without_newcomers_says_nothing_and_costs_no_look_at_the_clock() {
        let mut newcomers = Newcomers::default();
        for _ in 0..10 {
            newcomers.turn_ended(0, || panic!("nobody came in"));
        }
        // The first turn has nothing to be compared with.
        newcomers.turn_ended(1, || Duration::from_secs(9));
        assert_eq!(newcomers.accepts, ACCEPTS_MAX);
    }

    #[test]
    fn connections_wait_in_the_kernel_rather_than_for_their_handshake() {
        let newcomers = Newcomers::default();
        assert_eq!(newcomers.accepts(0), ACCEPTS_MAX);
        assert_eq!(newcomers.accepts(1_000), 1);
    }

    #[test]
    fn strangers_are_refused_from_half_a_queue_on_and_until_it_is_nearly_empty() {
        let mut newcomers = Newcomers::default();
        let mut pressed = |permille| {
            newcomers.look(
                0,
                AcceptBacklog {
                    waiting: 1,
                    fullest_permille: permille,
                },
            );
            newcomers.pressed()
        };
        assert!(!pressed(400) && pressed(501) && pressed(400) && pressed(126) && !pressed(100));
        assert!(!pressed(400));
    }

    #[test]
    fn a_turn_begins_as_many_handshakes_as_it_has_time_for_and_one_in_any_case() {
        let begun = |each_us| {
            let mut cpu = Duration::from_secs(7);
            let mut time = HandshakeTime::new(|| {
                cpu += Duration::from_micros(each_us);
                cpu
            });
            (0..100).take_while(|_| time.has_more()).count()
        };
        assert_eq!([begun(10_000), begun(200), begun(50)], [1, 3, 10]);
    }
}
