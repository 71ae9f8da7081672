//! PINGREQs: rounds of them, and those that keep sessions alive.

use std::cmp::Reverse;
use std::time::{Duration, Instant};

use reactor::driver::Driver;

use super::Counters;
use super::client::Phase;
use super::thread::{BATCH, Thread};
use crate::clock::{self, Pace};

impl<D: Driver> Thread<D> {
    /// Begins to ping so many times in a second; without a number, each client once in the keep-alive.
    pub(super) fn keep_alive_from_now(&mut self, per_second: Option<f64>) {
        let keep_alive_s = f64::from(self.shared.settings.keep_alive_s);
        let per_second = per_second.unwrap_or(self.clients.len() as f64 / keep_alive_s);
        self.keep_alive_pace = (per_second.is_finite() && per_second > 0.0)
            .then(|| Pace::new(clock::now(), per_second));
    }

    /// Sends the next round of pings when the last one is answered.
    pub(super) fn ping_due(&mut self) {
        if self.ping_rounds == 0 || self.pongs_due > 0 {
            return;
        }
        self.ping_rounds -= 1;
        for place in 0..self.clients.len() {
            self.ping(place);
        }
    }

    fn ping(&mut self, place: usize) {
        if self.clients[place].phase != Phase::Live {
            return;
        }
        let mut out = self.driver.reclaim().unwrap_or_default();
        self.clients[place].ping(&mut out);
        self.clients[place].last_sent_ms = self.now_ms();
        self.pongs_due += 1;
        Counters::count(&self.shared.counters[self.index].pings);
        self.send(place, out);
    }

    /// A client that is live from now on gets its place in the order.
    pub(super) fn keep_alive(&mut self, place: usize) {
        let keep_alive_s = self.shared.settings.keep_alive_s;
        let client = &mut self.clients[place];
        if keep_alive_s > 0 && !client.in_turn {
            client.in_turn = true;
            let due_ms = client.last_sent_ms + u32::from(keep_alive_s) * 1_000;
            self.keep_alive_order.push(Reverse((due_ms, place as u32)));
        }
    }

    /// When the next client is to show that it lives.
    pub(super) fn keep_alive_at(&self) -> Option<Instant> {
        let Reverse((due_ms, _)) = *self.keep_alive_order.peek()?;
        let due = self.shared.epoch + Duration::from_millis(u64::from(due_ms));
        Some(
            self.keep_alive_pace
                .as_ref()
                .map_or(due, |pace| due.min(pace.next())),
        )
    }

    /// Whoever has been silent the longest comes next.
    pub(super) fn keep_alive_due(&mut self) {
        let now = clock::now();
        for _ in 0..BATCH {
            if self.keep_alive_at().is_none_or(|at| at > now) {
                return;
            }
            let Some(Reverse((due_ms, place))) = self.keep_alive_order.pop() else {
                return;
            };
            let place = place as usize;
            let keep_alive_ms = u32::from(self.shared.settings.keep_alive_s) * 1_000;
            self.clients[place].in_turn = false;
            if self.clients[place].phase != Phase::Live {
                continue; // It gets its place again with its next session.
            }
            if self.clients[place].last_sent_ms + keep_alive_ms <= due_ms {
                if let Some(pace) = &mut self.keep_alive_pace {
                    pace.take(1);
                }
                self.ping(place);
            }
            self.keep_alive(place);
        }
    }
}
