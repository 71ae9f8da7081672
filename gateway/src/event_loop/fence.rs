//! A core pauses while its node may not serve: it neither reads nor answers anybody, so that nothing is acknowledged that others own
//! by now.
//!
//! ```text
//!           the lease runs out          the fence lasts
//!   OPEN ───────────────────────▶ PAUSED ───────────────▶ AWAY: clients are closed, nothing else is done
//!    ▲  ▲──── it holds again ──────┘                        │
//!    └──────────────────────────── it holds again ──────────┘
//! ```
//!
//! The lease is looked at between the poll and the turn: a process that was stopped finds it out before it handles what had come.
//! **After a pause, what was received comes first and timers last**, so that nobody is thrown out for a silence that was ours.

use std::sync::atomic::Ordering;
use std::time::Duration;

use reactor::driver::{self, Driver};

use super::EventLoop;
use crate::admin::AdminRequest;
use crate::turn::Now;

/// How long a pausing core waits before it looks at the lease again.
const LOOK: Duration = Duration::from_millis(5);
/// Turns without timers after a pause at most, if there is always something to receive.
const CATCH_UP_TURNS: u8 = 64;
/// Questions of operators that wait for the end of a pause; further ones wait in their inbox.
const HELD_MAX: usize = 64;

/// Whether a core pauses. See the module.
#[derive(Debug, Default)]
pub(super) struct Fence {
    state: State,
    /// Turns that are still to receive and nothing else.
    catch_up: u8,
    /// True exactly when the node leaves and its clients are sent away.
    leaving: bool,
    held: Vec<(u64, AdminRequest)>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Open,
    Paused,
    Away,
}

impl Fence {
    /// True while nothing is handled.
    pub(super) fn pauses(&self) -> bool {
        self.state != State::Open
    }

    /// True while no client is taken.
    pub(super) fn sends_away(&self) -> bool {
        self.leaving || self.state == State::Away
    }

    /// The node leaves.
    pub(super) fn move_clients(&mut self) {
        self.leaving = true;
    }

    /// True for a turn that handles what came, and no timers.
    pub(super) fn catches_up(&self) -> bool {
        self.catch_up > 0
    }
}

impl<D: Driver> EventLoop<D> {
    /// Waits while the node may not serve. True when the turn may be made; else only what ends connections is done with `events`.
    pub(super) fn may_serve(&mut self, events: &mut Vec<driver::Event>) -> bool {
        let Some(cluster) = &mut self.cluster else {
            return true;
        };
        if !cluster.fence.pauses() {
            if cluster.lease.holds(self.clock.now().mono_ms) {
                cluster.fence.catch_up = match cluster.fence.catch_up {
                    left if events.is_empty() || left == 0 => 0,
                    left => left - 1,
                };
                return true;
            }
            cluster.fence.state = State::Paused;
            cluster.progress().fenced.store(true, Ordering::Release);
        }
        loop {
            let now = self.clock.now();
            let Some(cluster) = &mut self.cluster else {
                return true;
            };
            if cluster.lease.holds(now.mono_ms) || self.stopping.requested.load(Ordering::Acquire) {
                self.unfence(now);
                return true;
            }
            if cluster.fence.state == State::Away {
                self.turn_away_from_all(now, events);
                return false;
            }
            self.look_at_orders(now);
            if self
                .cluster
                .as_ref()
                .is_some_and(|cluster| cluster.fence.state == State::Paused)
            {
                std::thread::park_timeout(LOOK);
            }
        }
    }

    /// When a fenced core looks at the lease again.
    pub(super) fn fence_deadline_ms(&self, now_ms: u64) -> Option<u64> {
        let fence = &self.cluster.as_ref()?.fence;
        if fence.catches_up() {
            return Some(now_ms);
        }
        (fence.state == State::Away).then_some(now_ms + LOOK.as_millis() as u64)
    }

    fn unfence(&mut self, now: Now) {
        let Some(cluster) = &mut self.cluster else {
            return;
        };
        cluster.progress().fenced.store(false, Ordering::Release);
        cluster.fence.state = State::Open;
        cluster.fence.catch_up = CATCH_UP_TURNS;
        for (id, request) in std::mem::take(&mut cluster.fence.held) {
            self.asked(now, id, request);
        }
    }

    /// Answers whoever wants numbers, and hears whether clients are to be sent away.
    fn look_at_orders(&mut self, now: Now) {
        let held = self
            .cluster
            .as_ref()
            .map_or(0, |cluster| cluster.fence.held.len());
        let mut asked = Vec::new();
        self.requests
            .drain(HELD_MAX.saturating_sub(held), |request| asked.push(request));
        for (id, request) in asked {
            if matches!(request, AdminRequest::Snapshot) {
                self.asked(now, id, request);
            } else if let Some(cluster) = &mut self.cluster {
                cluster.fence.held.push((id, request));
            }
        }
        self.answer_operators();
        let pending = self
            .cluster
            .as_ref()
            .is_some_and(|cluster| cluster.inbox.has_pending());
        if pending {
            self.heed_cluster(now);
        }
    }

    /// The fence has lasted: clients go to other nodes.
    pub(super) fn send_clients_elsewhere(&mut self, now: Now) {
        let Some(cluster) = &mut self.cluster else {
            return;
        };
        cluster.fence.state = State::Away;
        // Nobody has heard of this core for ten seconds; the links go on over other connections.
        cluster.bus.disconnect(&mut self.driver, now.mono_ms);
        self.shut_down_arrivals();
        if let Some(cluster) = &self.cluster {
            let event = cluster.all_elsewhere();
            self.shard.handle(now, event, &mut self.outbox);
        }
        self.outbox.seal();
        self.send_outputs();
        self.carry_out_orders(now);
    }

    /// A turn of a core that serves nobody: connections end, and no new ones come.
    fn turn_away_from_all(&mut self, now: Now, events: &mut Vec<driver::Event>) {
        for event in events.drain(..) {
            let event = match event {
                driver::Event::Accepted { connection, .. } => {
                    self.driver.close(connection, driver::Close::Abort);
                    continue;
                }
                driver::Event::Received { buffer, .. } => {
                    self.driver.recycle(buffer);
                    continue;
                }
                event => event,
            };
            if let Some(driver::Event::Closed { connection, .. }) = self.bus_event(now, event) {
                self.closed(now, connection);
            }
        }
        self.look_at_orders(now);
        self.outbox.seal();
        self.send_outputs();
        self.carry_out_orders(now);
    }
}
