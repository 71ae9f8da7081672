//! The record of one connection of the io_uring driver.
//!
//! ```text
//! Accepting ─▶ Open ──close(Graceful)──▶ Flushing ──all sent──▶ Lingering ──peer's FIN──┐
//! Connecting ──▶┘ │                          │                      │                   ▼
//!     └───────────┴── error, close(Abort), linger over ─────────────┴────────────────▶ Ending ─▶ Closing ─▶ gone
//! ```
//!
//! *Ending* shuts both directions down if anything is in flight and waits for it; *Closing* has the close of the
//! descriptor in flight. In order to close, only what a shutdown does not end is cancelled: a connect and a watch.

use std::io;

use crate::send_queue::{Reclaimed, SendQueue};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// The slot is promised to an accept.
    Accepting,
    Connecting,
    Open,
    /// Graceful: sends the rest.
    Flushing,
    /// Graceful: FIN is sent; waits for the peer's.
    Lingering,
    Ending,
    Closing,
}

/// Sending state, present while something is unsent.
#[derive(Debug, Default)]
pub(super) struct Sending {
    /// The vector that the kernel sends from, and how much of it is sent. Not touched while `send_pending`.
    pub(super) current: Option<(Vec<u8>, usize)>,
    pub(super) queue: SendQueue,
    /// Sends in a row that the kernel had no memory for.
    pub(super) shortages: u8,
    /// True exactly when the connection is in the driver's list of those that wait for kernel memory.
    pub(super) short: bool,
}

impl Sending {
    pub(super) fn unsent(&self) -> usize {
        self.queue.bytes()
            + self
                .current
                .as_ref()
                .map_or(0, |(vector, sent)| vector.len() - sent)
    }

    /// Notes that `count` bytes of `current` are sent.
    pub(super) fn advance(&mut self, count: usize, reclaimed: &mut Reclaimed) {
        let Some((vector, sent)) = self.current.take() else {
            return;
        };
        self.shortages = 0;
        let sent = sent + count;
        if sent < vector.len() {
            self.current = Some((vector, sent));
        } else {
            reclaimed.put(vector);
        }
    }
}

#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "which operations are in flight, and what was told"
)]
pub(super) struct Connection {
    pub(super) sending: Option<Box<Sending>>,
    /// Error number that ends the connection; 0 = none.
    pub(super) error: i32,
    /// Second of the driver's clock in which `heat` counts.
    pub(super) heat_second: u16,
    /// Receives in that second.
    pub(super) heat: u8,
    pub(super) state: State,
    /// True exactly when the connection is in the driver's list of connections to drive.
    pub(super) dirty: bool,
    pub(super) paused: bool,
    /// A completion said that there is more to receive.
    pub(super) readable: bool,
    /// Waits for a receive buffer.
    pub(super) starved: bool,
    /// `PeerClosed` was reported, or would have been.
    pub(super) peer_closed: bool,
    /// Sending failed; what was received before is told first.
    pub(super) send_broken: bool,
    /// `unsent` was above zero at the end of a flush.
    pub(super) owes_drained: bool,
    /// Receives many per operation.
    pub(super) promoted: bool,
    /// In the driver's list of promoted connections, if only because it was.
    pub(super) listed: bool,
    /// The multishot receive is being cancelled.
    pub(super) cancelling: bool,
    pub(super) shutdown_sent: bool,
    /// Never reported to the core: it ends without an event.
    pub(super) silent: bool,
    pub(super) pending: Pending,
}

const _: () = assert!(size_of::<Option<Connection>>() <= 32);

/// Operations in flight, one bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Pending(u16);

impl Pending {
    pub(super) const CONNECT: Self = Self(1);
    pub(super) const POLL: Self = Self(2);
    pub(super) const WATCH: Self = Self(4);
    pub(super) const RECEIVE: Self = Self(8);
    pub(super) const SEND: Self = Self(16);
    pub(super) const SHUTDOWN: Self = Self(32);
    pub(super) const FIN: Self = Self(64);

    pub(super) const fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    pub(super) const fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(super) const fn add(&mut self, other: Self) {
        debug_assert!(!self.has(other));
        self.0 |= other.0;
    }

    pub(super) const fn remove(&mut self, other: Self) {
        self.0 &= !other.0;
    }
}

impl Connection {
    pub(super) const fn new(state: State) -> Self {
        Self {
            sending: None,
            error: 0,
            heat_second: 0,
            heat: 0,
            state,
            dirty: false,
            paused: false,
            readable: false,
            starved: false,
            peer_closed: false,
            send_broken: false,
            owes_drained: false,
            promoted: false,
            listed: false,
            cancelling: false,
            shutdown_sent: false,
            silent: false,
            pending: Pending(0),
        }
    }

    pub(super) fn unsent(&self) -> usize {
        self.sending.as_ref().map_or(0, |sending| sending.unsent())
    }

    /// Whether the core has been told of the connection and may still use it.
    pub(super) const fn is_usable(&self) -> bool {
        matches!(self.state, State::Open | State::Connecting)
    }

    /// Whether bytes that arrive are wanted, if only to see the FIN behind them.
    pub(super) const fn receives(&self) -> bool {
        match self.state {
            State::Open => !self.paused && !self.peer_closed,
            State::Flushing | State::Lingering => !self.peer_closed,
            _ => false,
        }
    }

    /// The error of the `Closed` event.
    pub(super) fn closed_error(&self) -> Option<io::Error> {
        (self.error != 0).then(|| io::Error::from_raw_os_error(self.error))
    }
}
