//! The TLS sessions of one core, by connection: handshakes with their bounds, and what goes in and out of live ones.
//!
//! ```text
//! accepted ─▶ handshaking ──────▶ live ──forget──▶ gone
//!                │  ▲ │             │
//!                ▼  │ └──Failed─────┴──Failed──▶ gone
//!              waiting (for a turn with room for its cryptography)
//! ```
//!
//! **Order.** What `seal` makes must be handed to the driver in the order of the calls, together with [`Output::Send`]: a record
//! opens only in its place. So plaintext is sealed when it is sent, not when it is written.
//!
//! **A storm does not stall live sessions**: a turn does the cryptography of `handshakes_per_turn` flights; the others wait, those
//! first that are in the middle of a handshake, then those with a ticket, and every fourth time the one that waits longest. Who waits is
//! not read.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use edge_proto::shown::Length;
use reactor::driver::ConnectionId;
use reactor::slab::Table;

use super::acceptor::Acceptor;
use super::failure::{Failure, Reason};
use super::handshake::{CoreAcceptor, Handshake, Step};
use super::hello::offers_resumption;
use super::identity::Identity;
use super::live::Live;
use super::record::Version;
use super::secrets::Capture;
use super::stats::Stats;
use super::tickets::CoreClock;
use crate::limits::TlsLimits;
use crate::turn::Now;

/// What a completed handshake tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Established {
    /// The version that was agreed on.
    pub version: Version,
    /// Whether it was resumed from a ticket.
    pub resumed: bool,
    /// The application protocol that was agreed on (ALPN).
    pub application_protocol: Option<Vec<u8>>,
    /// Who the client is, from its certificate; `None` when it showed none. A chain that could not be verified ends the handshake,
    /// so that whoever is here was verified.
    pub identity: Option<Identity>,
}

/// What came of bytes or of time, for one connection.
pub enum Output<'a> {
    /// Hand this to the driver, at once.
    Send(Vec<u8>),
    /// The handshake is complete; data may come and go.
    Established(Box<Established>),
    /// Plaintext, in the buffer that it came in wherever possible. Mutable, so that a WebSocket frame can be unmasked in place.
    Data(&'a mut [u8]),
    /// Read no more of it, until `Resume`: its handshake waits for its turn. What was read already may still come.
    Pause,
    /// Read it again.
    Resume,
    /// The peer will send nothing more, and said so. Sending still works until `close`.
    PeerClosed,
    /// The session is gone, and its id is unknown from now on: send what was sent, and close the connection.
    Failed(Failure),
}

impl fmt::Debug for Output<'_> {
    /// Without the bytes: one kind of them is what TLS is to hide.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut show =
            |name, value: &dyn fmt::Debug| formatter.debug_tuple(name).field(value).finish();
        match self {
            Self::Send(bytes) => show("Send", &Length::of(bytes)),
            Self::Established(established) => show("Established", established),
            Self::Data(bytes) => show("Data", &Length::of(bytes)),
            Self::Failed(failure) => show("Failed", failure),
            Self::Pause => formatter.write_str("Pause"),
            Self::Resume => formatter.write_str("Resume"),
            Self::PeerClosed => formatter.write_str("PeerClosed"),
        }
    }
}

enum Session {
    Handshaking(Box<Handshake>),
    Live(Box<Live>),
}

const _: () = assert!(size_of::<Option<Session>>() == 16, "two words per slot");

/// The queues of handshakes that wait for a turn, in the order of their right of way.
#[derive(Default)]
struct Waiting {
    /// In the middle of a handshake.
    begun: VecDeque<Waiter>,
    /// With a ticket.
    resuming: VecDeque<Waiter>,
    /// Everybody else.
    starting: VecDeque<Waiter>,
    /// How many were let go on.
    popped: u64,
}

struct Waiter {
    id: ConnectionId,
    /// The first turn that may go on with it.
    from_turn: u64,
}

impl Waiting {
    fn pop(&mut self, turn: u64) -> Option<ConnectionId> {
        let next = |queue: &mut VecDeque<Waiter>| {
            let is_due = queue.front()?.from_turn <= turn;
            is_due.then(|| queue.pop_front()).flatten()
        };
        let is_turn_of_the_last = self.popped.is_multiple_of(4);
        let id = if is_turn_of_the_last {
            next(&mut self.starting)
        } else {
            None
        };
        let waiter = id
            .or_else(|| next(&mut self.begun))
            .or_else(|| next(&mut self.resuming))
            .or_else(|| next(&mut self.starting))?;
        self.popped += 1;
        Some(waiter.id)
    }

    fn is_empty(&self) -> bool {
        self.begun.is_empty() && self.resuming.is_empty() && self.starting.is_empty()
    }
}

/// In a storm, turns from the arrival of a client's hello to its handshake: enough to be told that the client has left meanwhile.
const TURNS_TO_LEAVE: u64 = 2;

/// The TLS sessions of one core.
pub struct Sessions {
    limits: TlsLimits,
    acceptors: Vec<CoreAcceptor>,
    clock: Arc<CoreClock>,
    capture: Arc<Capture>,
    table: Table<Session>,
    waiting: Waiting,
    /// When each handshake must be complete, in the order in which they began. Those that ended stay until they are first.
    deadlines: VecDeque<(u64, ConnectionId)>,
    /// Flights that a turn may process, and that this turn still may.
    flights_per_turn: u32,
    flights_left: u32,
    turns: u64,
    /// Flights that were processed since this was asked last.
    flights_done: u32,
    stats: Stats,
}

impl Sessions {
    /// No sessions yet. Listeners name their acceptor by its place in `acceptors`.
    #[must_use]
    pub fn new(limits: TlsLimits, acceptors: &[Arc<Acceptor>]) -> Self {
        let mut sessions = Self {
            flights_per_turn: limits.handshakes_per_turn,
            turns: 0,
            flights_left: limits.handshakes_per_turn,
            flights_done: 0,
            limits,
            acceptors: Vec::new(),
            clock: Arc::default(),
            capture: Arc::new(Capture::new()),
            table: Table::new(),
            waiting: Waiting::default(),
            deadlines: VecDeque::new(),
            stats: Stats::default(),
        };
        for acceptor in acceptors {
            let acceptor = sessions.of_core(acceptor.clone());
            sessions.acceptors.push(acceptor);
        }
        sessions
    }

    fn of_core(&self, acceptor: Arc<Acceptor>) -> CoreAcceptor {
        let config = Arc::new(acceptor.config(&self.clock, Some(&self.capture)));
        CoreAcceptor { acceptor, config }
    }

    /// Replaces an acceptor. New connections get the new one; handshakes under way and sessions do not notice.
    ///
    /// # Panics
    /// When there is no acceptor in this place.
    pub fn reload(&mut self, place: usize, acceptor: Arc<Acceptor>) {
        self.acceptors[place] = self.of_core(acceptor);
    }

    /// What was counted.
    #[must_use]
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Whether a connection has a session here, complete or not.
    #[must_use]
    pub fn has(&self, id: ConnectionId) -> bool {
        match self.table.get(id.slot) {
            Some(Session::Handshaking(handshake)) => handshake.generation == id.generation,
            Some(Session::Live(live)) => live.generation == id.generation,
            None => false,
        }
    }

    /// A connection to a listener with the acceptor in this place. False when as many handshakes are in progress as there may be:
    /// then it is to be closed.
    ///
    /// # Panics
    /// When there is no acceptor in this place.
    #[must_use]
    pub fn accepted(&mut self, id: ConnectionId, place: usize, now: Now) -> bool {
        self.clock.set(now.unix_ms);
        self.forget(id);
        if self.stats.handshakes_in_progress >= u64::from(self.limits.handshakes_max) {
            self.stats.handshakes_refused += 1;
            return false;
        }
        let deadline_ms = now.mono_ms + self.limits.handshake_timeout_ms;
        let acceptor = self.acceptors[place].clone();
        let handshake = Handshake::new(acceptor, id.generation, deadline_ms);
        let session = Session::Handshaking(Box::new(handshake));
        self.table.insert(id.slot, session);
        self.stats.handshakes_in_progress += 1;
        self.note_deadline(deadline_ms, id);
        true
    }

    /// Bytes from the driver. They are opened in place. A connection that is not known here is left alone.
    pub fn received(
        &mut self,
        id: ConnectionId,
        bytes: &mut [u8],
        now: Now,
        output: &mut impl FnMut(ConnectionId, Output<'_>),
    ) {
        self.clock.set(now.unix_ms);
        match self.table.get_mut(id.slot) {
            Some(Session::Live(live)) if live.generation == id.generation => {
                self.live_received(id, bytes, output);
            }
            Some(Session::Handshaking(handshake)) if handshake.generation == id.generation => {
                self.handshake_received(id, bytes, output);
            }
            _ => {}
        }
    }

    /// Bytes of a handshake, and of what a client has sent behind it: rustls gets as many as it may have, one flight after the other.
    fn handshake_received(
        &mut self,
        id: ConnectionId,
        mut bytes: &mut [u8],
        output: &mut impl FnMut(ConnectionId, Output<'_>),
    ) {
        while !bytes.is_empty() {
            let handshake = match self.table.get_mut(id.slot) {
                Some(Session::Handshaking(handshake)) => handshake,
                Some(Session::Live(_)) => return self.live_received(id, bytes, output),
                None => return,
            };
            if handshake.is_waiting {
                return self.keep(id, bytes, output);
            }
            let room = self.limits.handshake_bytes_max;
            let room = room.saturating_sub(handshake.bytes());
            let (now, later) = bytes.split_at_mut(room.min(bytes.len()));
            let pushed = handshake.push(now);
            self.stats.handshake_bytes += now.len() as u64;
            let is_ready = handshake.is_ready();
            if let Err(failure) = pushed {
                return self.handshake_failed(id, failure, output);
            }
            if !is_ready && later.is_empty() {
                return;
            }
            if !is_ready {
                let bytes_max = self.limits.handshake_bytes_max;
                let detail = format!("more than {bytes_max} bytes of a handshake");
                let failure = Failure::new(Reason::TooLong, None, detail);
                return self.handshake_failed(id, failure, output);
            }
            let must_wait = self.flights_left == 0 || !self.waiting.is_empty();
            if must_wait || self.may_have_left(id) {
                self.wait(id);
                self.bound_waiting(id, output);
            } else {
                self.flights_left -= 1;
                self.step(id, output);
            }
            bytes = later;
        }
    }

    /// In a storm many have given up when it is their turn: their hello is there, and behind it their end. A handshake is begun a little
    /// later then, so that the end is known first.
    fn may_have_left(&self, id: ConnectionId) -> bool {
        let Some(Session::Handshaking(handshake)) = self.table.get(id.slot) else {
            return false;
        };
        self.flights_per_turn < self.limits.handshakes_per_turn && !handshake.has_begun()
    }

    /// Stops reading from a connection whose handshake waits when it has sent much. Others are read, so that it is known when they leave.
    fn bound_waiting(&self, id: ConnectionId, output: &mut impl FnMut(ConnectionId, Output<'_>)) {
        if let Some(Session::Handshaking(handshake)) = self.table.get(id.slot)
            && handshake.bytes() > self.limits.handshake_bytes_max / 2
        {
            output(id, Output::Pause);
        }
    }

    /// Keeps what comes while a handshake waits for its turn, which is not much before it is not read: a client that has
    /// sent its Finished may go on at once, and a full turn is not its fault.
    fn keep(
        &mut self,
        id: ConnectionId,
        bytes: &[u8],
        output: &mut impl FnMut(ConnectionId, Output<'_>),
    ) {
        let Some(Session::Handshaking(handshake)) = self.table.get_mut(id.slot) else {
            return;
        };
        let total = self.limits.partial_bytes_max as u64;
        let held = self.stats.handshake_bytes + self.stats.partial_bytes + bytes.len() as u64;
        let fits = handshake.bytes() + bytes.len() <= self.limits.handshake_bytes_max;
        let kept = if fits || held <= total - total / 4 {
            self.stats.handshake_bytes += bytes.len() as u64;
            handshake.push(bytes)
        } else {
            let detail = "too many bytes behind handshakes that wait";
            Err(Failure::new(Reason::TooLong, None, detail))
        };
        match kept {
            Ok(()) => self.bound_waiting(id, output),
            Err(failure) => self.handshake_failed(id, failure, output),
        }
    }

    /// Seals plaintext for a connection. False when nothing more may be sent to it: then the connection is to be
    /// closed, after what is in `out`.
    #[must_use]
    pub fn seal(&mut self, id: ConnectionId, plain: &[u8], out: &mut Vec<u8>) -> bool {
        let Some(Session::Live(live)) = self.table.get_mut(id.slot) else {
            return false;
        };
        if live.generation != id.generation {
            return false;
        }
        match live.seal(plain, self.limits.records_per_key_max, out) {
            Ok(()) => true,
            Err(failure) => {
                if let Some(alert) = failure.alert {
                    live.send_alert(alert, out);
                }
                self.stats.sessions_failed[failure.reason as usize] += 1;
                self.forget(id);
                false
            }
        }
    }

    /// Says goodbye: appends close_notify, once. What comes later is not read by anybody who closes; `forget` follows.
    pub fn close(&mut self, id: ConnectionId, out: &mut Vec<u8>) {
        if let Some(Session::Live(live)) = self.table.get_mut(id.slot)
            && live.generation == id.generation
        {
            live.close(out);
        }
    }

    /// The connection is gone.
    pub fn forget(&mut self, id: ConnectionId) {
        if !self.has(id) {
            return;
        }
        match self.table.remove(id.slot) {
            Some(Session::Handshaking(handshake)) => {
                self.stats.handshakes_in_progress -= 1;
                self.stats.handshake_bytes -= handshake.bytes() as u64;
                self.stats.handshakes_waiting -= u64::from(handshake.is_waiting);
            }
            Some(Session::Live(live)) => self.stats.partial_bytes -= live.partial_bytes() as u64,
            None => {}
        }
    }

    /// Once a turn: ends handshakes that take too long, and goes on with those that wait.
    pub fn turn(&mut self, now: Now, output: &mut impl FnMut(ConnectionId, Output<'_>)) {
        self.clock.set(now.unix_ms);
        while let Some((deadline_ms, id)) = self.deadlines.front().copied() {
            let is_over = !self.is_handshaking(id, deadline_ms);
            if !is_over && deadline_ms > now.mono_ms {
                break;
            }
            self.deadlines.pop_front();
            if !is_over {
                let detail = "the handshake took too long";
                self.handshake_failed(id, Failure::new(Reason::TimedOut, None, detail), output);
            }
        }
        self.turns += 1;
        self.flights_left = self.flights_per_turn;
        while self.flights_left > 0 {
            let Some(id) = self.waiting.pop(self.turns) else {
                break;
            };
            if let Some(Session::Handshaking(handshake)) = self.table.get_mut(id.slot)
                && handshake.generation == id.generation
                && handshake.is_waiting
            {
                handshake.is_waiting = false;
                self.stats.handshakes_waiting -= 1;
                self.flights_left -= 1;
                self.step(id, output);
                if self.has(id) {
                    output(id, Output::Resume);
                }
            }
        }
    }

    /// A turn may process so many flights from now on, within the configured bound.
    pub fn allow_flights(&mut self, per_turn: u32) {
        self.flights_per_turn = per_turn.clamp(1, self.limits.handshakes_per_turn);
    }

    /// Flights that were processed since the last call.
    pub fn take_flights(&mut self) -> u32 {
        std::mem::take(&mut self.flights_done)
    }

    /// When `turn` has something to do: 0 is at once, `None` never.
    #[must_use]
    pub fn next_deadline_ms(&self) -> Option<u64> {
        if self.waiting.is_empty() {
            self.deadlines.front().map(|(deadline_ms, _)| *deadline_ms)
        } else {
            Some(0)
        }
    }

    fn live_received(
        &mut self,
        id: ConnectionId,
        bytes: &mut [u8],
        output: &mut impl FnMut(ConnectionId, Output<'_>),
    ) {
        let sessions = self.table.len() as u64;
        let Some(Session::Live(live)) = self.table.get_mut(id.slot) else {
            return;
        };
        let mut out = Vec::new();
        let before = live.partial_bytes() as u64;
        let mut result = live.received(bytes, &mut out, &mut |data| output(id, Output::Data(data)));
        let partial = live.partial_bytes() as u64;
        self.stats.partial_bytes += partial;
        self.stats.partial_bytes -= before;
        // A quarter is kept for sessions that have little, so that nobody suffers for those who send half a record.
        let total = self.limits.partial_bytes_max as u64;
        let share = total / 4 / sessions.max(1);
        if result.is_ok() && partial > share && self.stats.partial_bytes > total - total / 4 {
            let detail = format!("{partial} bytes of an incomplete record");
            result = Err(Failure::new(Reason::Memory, None, detail));
        }
        if let Err(Failure {
            alert: Some(alert), ..
        }) = &result
        {
            live.send_alert(*alert, &mut out);
        }
        if !out.is_empty() {
            output(id, Output::Send(out));
        }
        match result {
            Ok(true) => output(id, Output::PeerClosed),
            Ok(false) => {}
            Err(failure) => {
                self.stats.sessions_failed[failure.reason as usize] += 1;
                self.forget(id);
                output(id, Output::Failed(failure));
            }
        }
    }

    /// Puts a handshake into the queue that it belongs to.
    fn wait(&mut self, id: ConnectionId) {
        let turns = if self.may_have_left(id) {
            TURNS_TO_LEAVE
        } else {
            0
        };
        let Some(Session::Handshaking(handshake)) = self.table.get_mut(id.slot) else {
            return;
        };
        handshake.is_waiting = true;
        self.stats.handshakes_waiting += 1;
        let (queue, turns) = if handshake.has_begun() {
            (&mut self.waiting.begun, 0)
        } else if offers_resumption(handshake.received()) {
            (&mut self.waiting.resuming, turns)
        } else {
            (&mut self.waiting.starting, turns)
        };
        let from_turn = self.turns + turns;
        queue.push_back(Waiter { id, from_turn });
    }

    /// Processes what is there of a handshake.
    fn step(&mut self, id: ConnectionId, output: &mut impl FnMut(ConnectionId, Output<'_>)) {
        let Some(Session::Handshaking(handshake)) = self.table.get_mut(id.slot) else {
            return;
        };
        self.flights_done += 1;
        let mut out = Vec::new();
        let before = handshake.bytes() as u64;
        let step = handshake.step(&self.clock, &self.capture, &mut out);
        self.stats.handshake_bytes += handshake.bytes() as u64;
        self.stats.handshake_bytes -= before;
        if !out.is_empty() {
            output(id, Output::Send(out));
        }
        match step {
            Ok(Step::Blocked) => {}
            Ok(Step::Complete(live, established, mut rest)) => {
                if established.resumed {
                    self.stats.handshakes_resumed += 1;
                } else {
                    self.stats.handshakes_full += 1;
                }
                self.forget(id);
                self.table.insert(id.slot, Session::Live(live));
                output(id, Output::Established(established));
                if !rest.is_empty() {
                    self.live_received(id, &mut rest, output);
                }
            }
            Err(failure) => self.handshake_failed(id, failure, output),
        }
    }

    fn handshake_failed(
        &mut self,
        id: ConnectionId,
        failure: Failure,
        output: &mut impl FnMut(ConnectionId, Output<'_>),
    ) {
        self.stats.handshakes_failed[failure.reason as usize] += 1;
        self.forget(id);
        output(id, Output::Failed(failure));
    }

    fn is_handshaking(&self, id: ConnectionId, deadline_ms: u64) -> bool {
        matches!(
            self.table.get(id.slot),
            Some(Session::Handshaking(handshake))
                if handshake.generation == id.generation && handshake.deadline_ms == deadline_ms
        )
    }

    fn note_deadline(&mut self, deadline_ms: u64, id: ConnectionId) {
        // One slow handshake at the front must not keep the places of all that ended behind it.
        let in_progress = self.stats.handshakes_in_progress as usize;
        if self.deadlines.len() > 2 * in_progress + 1024 {
            let mut deadlines = std::mem::take(&mut self.deadlines);
            deadlines.retain(|(deadline_ms, id)| self.is_handshaking(*id, *deadline_ms));
            self.deadlines = deadlines;
        }
        self.deadlines.push_back((deadline_ms, id));
    }
}

impl fmt::Debug for Sessions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Sessions")
            .field("sessions", &self.table.len())
            .field("stats", &self.stats)
            .finish_non_exhaustive()
    }
}
