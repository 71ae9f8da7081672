//! How much of a core newcomers may take, so that those who are in keep their latency while too many want in.
//!
//! ```text
//! kernel's accept queue ──accepts per poll──▶ handshakes ─────────────────────▶ CONNECT ──▶ in
//!          ▲ most wait here                                                     └─ strangers are told 0x9F while it is half full
//! ```
//!
//! A turn is as long as its newest guest's work: accepting, its TLS, its CONNECT, its end. So the CPU time from one poll to the next is
//! measured while connections come in, and fewer are accepted at a time, and fewer flights of handshakes processed, when it is long. The
//! kernel holds the others, and then answers no more of them, which costs this node nothing. Whatever those who are in keep the core busy
//! with, newcomers keep a share.
//!
//! A handshake of QUIC begins with a datagram, which the kernel cannot hold back for us: it waits in a queue of ours, which is to QUIC what the
//! kernel's is to TCP, and as many begin in a turn as there is CPU time for ([`HandshakeTime`]).
//!
//! While the kernel's queue, or that one, is more than half full, that many want in that most must be disappointed. Then those come first
//! whose session is kept here: they have messages waiting, and are cheaper than strangers are. And the kernel's queue is made as short as
//! what is accepted in a quarter of a second: who waits longer may have given up, and work for those who have gone is what makes an
//! overload last.

use std::time::Duration;

use reactor::driver::{ACCEPTS_MAX, AcceptBacklog, ListenOptions};

use crate::limits::TlsLimits;

/// What decides how many come in.
#[derive(Debug)]
pub struct Newcomers {
    /// Accepted in one poll on each listener, at most.
    accepts: u32,
    /// Flights of TLS handshakes processed in one turn, at most.
    flights: u32,
    /// What the configuration says of these two: flights, and connections that wait in the kernel.
    bounds: NewcomersBounds,
    /// CPU time of this thread when the last turn ended.
    cpu: Duration,
    /// True exactly when a connection was accepted in the last turn: `cpu` was read after it.
    measuring: bool,
    backlog: AcceptBacklog,
    /// When the backlog was looked at last, and how many were accepted since.
    looked_ms: u64,
    accepted_since: u32,
    /// Connections that may wait in the kernel at each listener now.
    waiting_max: u32,
    pressed: bool,
}

/// What the configuration allows.
#[derive(Clone, Copy, Debug)]
pub struct NewcomersBounds {
    /// Flights of TLS handshakes in one turn.
    pub flights_per_turn: u32,
    /// Connections that wait in the kernel at each listener.
    pub backlog: u32,
}

impl NewcomersBounds {
    /// Those of a core with these listeners.
    pub fn of(tls: &TlsLimits, listen: ListenOptions) -> Self {
        Self {
            flights_per_turn: tls.handshakes_per_turn,
            backlog: listen.backlog,
        }
    }
}

/// What newcomers made a turn do.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Newcome {
    /// Connections that were accepted.
    pub accepted: u32,
    /// Flights of TLS handshakes that were processed.
    pub flights: u32,
}

/// What is told of newcomers at a scrape.
#[derive(Clone, Copy, Debug, Default)]
pub struct NewcomersSample {
    /// Connections that wait in the kernel to be accepted.
    pub waiting: u32,
    /// Connections that are accepted in one poll at most.
    pub accepts_max: u32,
    /// Flights of TLS handshakes that are processed in one turn at most.
    pub flights_max: u32,
    /// Connections that may wait in the kernel at each listener.
    pub waiting_max: u32,
    /// True exactly when strangers are told to come later.
    pub pressed: bool,
}

impl Newcomers {
    /// CPU time from poll to poll above which fewer are accepted, and below half of which more are.
    const TURN_MAX: Duration = Duration::from_micros(500);
    /// The least that is accepted in one poll, of any length.
    const ACCEPTS_MIN: u32 = 2;
    /// CPU time of those who are in for which one newcomer is accepted, and one flight processed, at the least, which keeps about a tenth of the core for them.
    const TURN_PER_ACCEPT: Duration = Duration::from_micros(500);
    /// How often the kernel's queue is looked at while connections come in.
    pub(super) const LOOK_MS: u64 = 100;
    /// Strangers are refused from here on, in thousandths of the queue.
    const PRESSED_PERMILLE: u32 = 500;
    /// And welcome again from here down.
    const RELIEVED_PERMILLE: u32 = 125;
    /// How long a connection should wait in the kernel at the most.
    const WAIT_MS: u64 = 250;
    /// The shortest queue.
    const WAITING_MIN: u32 = 16;

    /// Nobody has come yet.
    pub fn new(bounds: NewcomersBounds) -> Self {
        Self {
            accepts: ACCEPTS_MAX,
            flights: bounds.flights_per_turn,
            bounds,
            cpu: Duration::ZERO,
            measuring: false,
            backlog: AcceptBacklog::default(),
            looked_ms: 0,
            accepted_since: 0,
            waiting_max: bounds.backlog,
            pressed: false,
        }
    }

    /// A turn has ended in which newcomers did this. `cpu` reads the thread's CPU time.
    pub(super) fn turn_ended(&mut self, newcome: Newcome, cpu: impl FnOnce() -> Duration) {
        let Newcome { accepted, flights } = newcome;
        let is_any = accepted > 0 || flights > 0;
        let was_measuring = std::mem::replace(&mut self.measuring, is_any);
        if !is_any {
            return;
        }
        self.accepted_since = self.accepted_since.saturating_add(accepted);
        let now = cpu();
        let took = now.saturating_sub(std::mem::replace(&mut self.cpu, now));
        if was_measuring {
            self.adapt(took, newcome);
        }
    }

    fn adapt(&mut self, took: Duration, Newcome { accepted, flights }: Newcome) {
        let share = took.as_micros() / Self::TURN_PER_ACCEPT.as_micros();
        let share = u32::try_from(share).unwrap_or(u32::MAX);
        let least = share.clamp(Self::ACCEPTS_MIN, ACCEPTS_MAX);
        if took > Self::TURN_MAX {
            self.accepts = (self.accepts * 3 / 4).max(least);
            let flights = (self.flights * 3 / 4).max(share);
            self.flights = flights.clamp(1, self.bounds.flights_per_turn);
            return;
        }
        // Room for one more of what there was no room for.
        if took < Self::TURN_MAX / 2 && accepted >= self.accepts {
            self.accepts = (self.accepts + 1).min(ACCEPTS_MAX);
        }
        let one_more = took * (flights + 1) / flights.max(1);
        if one_more < Self::TURN_MAX && flights >= self.flights {
            self.flights = (self.flights + 1).min(self.bounds.flights_per_turn);
        }
    }

    /// Flights of TLS handshakes to process in one turn.
    pub(super) fn flights(&self) -> u32 {
        self.flights
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

    /// Notes how long the kernel's queue is, and how full that of QUIC handshakes, in thousandths. Returns how long the kernel's may be
    /// from now on, if that is another length than before.
    pub(super) fn look(
        &mut self,
        now_ms: u64,
        backlog: AcceptBacklog,
        quic_permille: u32,
    ) -> Option<u32> {
        let since_ms = now_ms - std::mem::replace(&mut self.looked_ms, now_ms);
        let accepted = u64::from(std::mem::take(&mut self.accepted_since));
        self.backlog = backlog;
        let bound = |was_pressed| {
            if was_pressed {
                Self::RELIEVED_PERMILLE
            } else {
                Self::PRESSED_PERMILLE
            }
        };
        self.pressed = backlog.fullest_permille.max(quic_permille) > bound(self.pressed);
        let before = self.waiting_max;
        let was_short = before < self.bounds.backlog;
        self.waiting_max = if backlog.fullest_permille > bound(was_short) {
            let accepted_in_time = accepted * Self::WAIT_MS / since_ms.max(1);
            let wanted = u32::try_from(accepted_in_time).unwrap_or(u32::MAX);
            // Half the way: one look may be far off.
            (before.midpoint(wanted)).clamp(
                Self::WAITING_MIN.min(self.bounds.backlog),
                self.bounds.backlog,
            )
        } else {
            self.bounds.backlog
        };
        (self.waiting_max != before).then_some(self.waiting_max)
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
            flights_max: self.flights,
            waiting_max: self.waiting_max,
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

    const BOUNDS: NewcomersBounds = NewcomersBounds {
        flights_per_turn: 8,
        backlog: 4_096,
    };

    fn accepted(accepted: u32) -> Newcome {
        Newcome {
            accepted,
            flights: 0,
        }
    }

    /// So many turns in each of which as many are accepted as may be, at so many microseconds each besides what else the turn has.
    fn storm(newcomers: &mut Newcomers, turns: u32, each_us: u64, else_us: u64) {
        let mut cpu = newcomers.cpu;
        for _ in 0..turns {
            let newcome = accepted(newcomers.accepts(0));
            cpu += Duration::from_micros(u64::from(newcome.accepted) * each_us + else_us);
            newcomers.turn_ended(newcome, || cpu);
        }
    }

    /// The same for flights; as many wait as may be processed.
    fn handshakes(newcomers: &mut Newcomers, turns: u32, each_us: u64, else_us: u64) {
        let mut cpu = newcomers.cpu;
        for _ in 0..turns {
            let flights = newcomers.flights();
            cpu += Duration::from_micros(u64::from(flights) * each_us + else_us);
            let newcome = Newcome {
                accepted: 1,
                flights,
            };
            newcomers.turn_ended(newcome, || cpu);
        }
    }

    #[test]
    fn turns_become_short_while_too_many_come_in_and_long_again_when_it_is_cheap() {
        let mut newcomers = Newcomers::new(BOUNDS);
        storm(&mut newcomers, 100, 60, 20);
        let turn_us = newcomers.accepts * 60 + 20;
        assert!((200..=500).contains(&turn_us), "{turn_us}");
        storm(&mut newcomers, 200, 1, 0);
        assert_eq!(newcomers.accepts, ACCEPTS_MAX);
    }

    #[test]
    fn dear_handshakes_come_one_in_a_turn_and_cheap_ones_as_many_as_may_be() {
        let mut newcomers = Newcomers::new(BOUNDS);
        handshakes(&mut newcomers, 100, 380, 30); // RSA
        assert_eq!(newcomers.flights(), 1);
        handshakes(&mut newcomers, 100, 110, 30); // ECDSA
        assert_eq!(newcomers.flights(), 4);
        handshakes(&mut newcomers, 100, 20, 30); // resumption in TLS 1.2
        assert_eq!(newcomers.flights(), BOUNDS.flights_per_turn);
    }

    #[test]
    fn those_who_are_in_do_not_keep_all_others_out() {
        let mut newcomers = Newcomers::new(BOUNDS);
        storm(&mut newcomers, 100, 60, 10_000);
        assert!(newcomers.accepts >= 20, "{}", newcomers.accepts);
        storm(&mut newcomers, 100, 60, 100);
        assert!(newcomers.accepts <= 7, "{}", newcomers.accepts);
        handshakes(&mut newcomers, 100, 380, 10_000);
        assert_eq!(newcomers.flights(), BOUNDS.flights_per_turn);
    }

    #[test]
    fn a_turn_without_newcomers_says_nothing_and_costs_no_look_at_the_clock() {
        let mut newcomers = Newcomers::new(BOUNDS);
        for _ in 0..10 {
            newcomers.turn_ended(accepted(0), || panic!("nobody came in"));
        }
        // The first turn has nothing to be compared with.
        newcomers.turn_ended(accepted(1), || Duration::from_secs(9));
        assert_eq!(newcomers.accepts, ACCEPTS_MAX);
    }

    #[test]
    fn connections_wait_in_the_kernel_rather_than_for_their_handshake() {
        let newcomers = Newcomers::new(BOUNDS);
        assert_eq!(newcomers.accepts(0), ACCEPTS_MAX);
        assert_eq!(newcomers.accepts(1_000), 1);
    }

    fn queue(fullest_permille: u32) -> AcceptBacklog {
        AcceptBacklog {
            waiting: 1,
            fullest_permille,
        }
    }

    #[test]
    fn strangers_are_refused_from_half_a_queue_on_and_until_it_is_nearly_empty() {
        let mut newcomers = Newcomers::new(BOUNDS);
        let mut pressed = |permille| {
            newcomers.look(0, queue(permille), 0);
            newcomers.pressed()
        };
        assert!(!pressed(400) && pressed(501) && pressed(400) && pressed(126) && !pressed(100));
        assert!(!pressed(400));
    }

    #[test]
    fn handshakes_of_quic_that_wait_press_too_and_leave_the_kernels_queue_as_it_is() {
        let mut newcomers = Newcomers::new(BOUNDS);
        assert_eq!(newcomers.look(1, queue(0), 501), None);
        assert!(newcomers.pressed());
        newcomers.look(2, queue(0), 100);
        assert!(!newcomers.pressed());
    }

    #[test]
    fn the_queue_is_as_long_as_what_is_accepted_in_a_quarter_of_a_second_while_too_many_want_in() {
        let mut newcomers = Newcomers::new(BOUNDS);
        let mut look = |at: u64, permille| {
            for _ in 0..20 {
                newcomers.turn_ended(accepted(10), || Duration::ZERO);
            }
            newcomers.look(at * Newcomers::LOOK_MS, queue(permille), 0)
        };
        assert_eq!(look(1, 400), None, "nobody is pressed");
        // 200 in 100 ms are 500 in 250 ms.
        assert_eq!(look(2, 900), Some(2_298));
        let lengths: Vec<u32> = (3..30).filter_map(|at| look(at, 1_000)).collect();
        assert!(lengths.is_sorted_by(|one, next| one > next));
        assert_eq!(lengths.last(), Some(&500));
        assert_eq!(look(30, 100), Some(BOUNDS.backlog), "as before");
        assert_eq!(look(31, 100), None);
    }

    #[test]
    fn the_queue_has_room_for_some_however_long_the_last_one_took() {
        let mut newcomers = Newcomers::new(BOUNDS);
        let shortest = (1..100)
            .filter_map(|at| newcomers.look(at * 100, queue(1_000), 0))
            .last();
        assert_eq!(shortest, Some(Newcomers::WAITING_MIN));
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
