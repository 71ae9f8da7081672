//! Publishing: by the clock, or as fast as messages arrive.

use std::time::Instant;

use reactor::driver::Driver;

use super::client::{Phase, STAMP_BYTES};
use super::load::{Active, Load, OUTSTANDING_MAX, Target};
use super::thread::{BATCH, Thread};
use super::{Counters, Totals};
use crate::clock;

impl<D: Driver> Thread<D> {
    pub(super) fn begin(&mut self, load: Load) {
        let place = |number: u32| {
            self.clients
                .partition_point(|client| client.number < number)
        };
        let own = place(load.publishers.start)..place(load.publishers.end);
        let mut totals = Totals::default();
        for counters in &self.shared.counters {
            totals.add(counters);
        }
        let before = (totals.published, totals.delivered);
        let active = Active::new(load, clock::now(), own.clone(), before);
        let window = active.own_window();
        let pairs = matches!(active.load.target, Target::Partner { .. });
        self.load = Some(active);
        if window == 0 {
            return;
        }
        let publishes = |number: u32| !pairs || number.is_multiple_of(2);
        let places: Vec<usize> = own
            .filter(|place| publishes(self.clients[*place].number))
            .collect();
        for place in places {
            for _ in 0..window {
                self.publish_next(place);
            }
        }
    }

    /// What the clock asks for.
    pub(super) fn publish_due(&mut self, now: Instant) {
        let due = self.load.as_ref().map_or(0, |active| active.due(now));
        for _ in 0..due.min(BATCH) {
            let active = self.load.as_mut();
            let Some((place, at)) = active.and_then(|active| active.take_due(&mut self.random))
            else {
                return;
            };
            // The clock of the load counts, not the moment at which we got round to it.
            let intended = at.saturating_duration_since(self.shared.epoch);
            self.publish(place, u64::try_from(intended.as_nanos()).unwrap_or(0));
        }
        self.publish_to_all();
    }

    /// What a closed loop to a shared topic asks for: as many messages as have arrived everywhere.
    fn publish_to_all(&mut self) {
        let Some((audience, window)) = self.load.as_ref().and_then(Active::shared_window) else {
            return;
        };
        for _ in 0..BATCH {
            let mut totals = Totals::default();
            for counters in &self.shared.counters {
                totals.add(counters);
            }
            let Some(active) = &mut self.load else { return };
            let published = totals.published - active.before.0;
            let delivered = totals.delivered - active.before.1;
            // Another message may go when the last one has reached so many that the window is not full.
            if (published + 1) * audience > delivered + window * audience {
                return;
            }
            let place = active.publisher(&mut self.random);
            let stamp = clock::nanos_since(self.shared.epoch);
            if !(active.take() && self.publish(place, stamp)) {
                return;
            }
        }
    }

    /// One more message of a closed loop.
    pub(super) fn publish_next(&mut self, place: usize) {
        if self.load.as_mut().is_some_and(Active::take) {
            self.publish(place, clock::nanos_since(self.shared.epoch));
        }
    }

    /// Publishes one message; false when the client cannot.
    fn publish(&mut self, place: usize, stamp_ns: u64) -> bool {
        let client = &mut self.clients[place];
        let Some(active) = &self.load else {
            return false;
        };
        // A pair has as many acknowledgements on their way as messages.
        let outstanding_max = OUTSTANDING_MAX.max(2 * active.own_window());
        if client.phase != Phase::Live || client.outstanding >= outstanding_max {
            Counters::count(&self.shared.counters[self.index].left_out);
            return false;
        }
        let topic = active.topic(client.number, &mut self.random);
        self.payload[..STAMP_BYTES].copy_from_slice(&stamp_ns.to_be_bytes());
        let settings = &self.shared.settings;
        let (version, qos) = (settings.version, active.load.qos.unwrap_or(settings.qos));
        let mut out = self.driver.reclaim().unwrap_or_default();
        client.publish(&mut out, version, qos, &topic, &self.payload);
        Counters::count(&self.shared.counters[self.index].published);
        self.send(place, out);
        true
    }

    /// Messages have arrived at a client, or its own were acknowledged: a closed loop goes on.
    pub(super) fn go_on(&mut self, place: usize, arrived: u32, acknowledged: u32) {
        let Some(active) = self.load.as_ref().filter(|active| active.own_window() > 0) else {
            return;
        };
        match active.load.target {
            Target::Partner { .. } if place > 0 => {
                (0..arrived).for_each(|_| self.publish_next(place - 1));
            }
            Target::Acknowledged { .. } => {
                (0..acknowledged).for_each(|_| self.publish_next(place));
            }
            _ => {}
        }
    }
}
