//! Clients come and go: opening, leaving, coming back.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::{Duration, Instant};

use reactor::driver::{Close, Driver};

use super::Counters;
use super::addresses::local_of;
use super::client::{Client, Phase};
use super::thread::{BATCH, Thread};
use crate::clock::{self, Pace};

/// Connections of all threads on their way to a session at once: below the accept queue of every server.
const OPENING_MAX: usize = 96;
/// How long a client that was told to come later waits.
const LATER: Duration = Duration::from_millis(100);
/// How long the last bytes of a client that leaves may take.
const LINGER_MS: u32 = 5_000;

/// Clients to open.
#[derive(Debug)]
pub(super) struct Opening {
    numbers: VecDeque<u32>,
    pace: Pace,
}

impl<D: Driver> Thread<D> {
    pub(super) fn open(&mut self, numbers: Range<u32>, per_second: f64) {
        let numbers: VecDeque<u32> = numbers.filter(|number| self.is_own(*number)).collect();
        let new = self
            .clients
            .last()
            .is_none_or(|last| numbers.front().is_some_and(|first| last.number < *first));
        if new {
            self.clients.reserve_exact(numbers.len());
        }
        let pace = Pace::new(clock::now(), per_second);
        self.opening = Some(Opening { numbers, pace });
    }

    fn is_own(&self, number: u32) -> bool {
        (number / 2) as usize % self.shared.threads == self.index
    }

    fn opening_max(&self) -> usize {
        (OPENING_MAX / self.shared.threads).max(8)
    }

    /// When the next connection is to be opened; `None` when there is none or too many are on their way.
    pub(super) fn open_at(&self) -> Option<Instant> {
        if self.unfinished >= self.opening_max() {
            return None;
        }
        let opening = self.opening.as_ref().map(|opening| opening.pace.next());
        let again = self.again.front().map(|(at, _)| *at);
        [opening, again].into_iter().flatten().min()
    }

    /// The server was too busy for a client, which has gone.
    pub(super) fn open_again(&mut self, place: usize) {
        let number = self.clients[place].number;
        self.again.push_back((clock::now() + LATER, number));
    }

    fn open_again_due(&mut self, now: Instant) {
        while self.unfinished < self.opening_max() {
            match self.again.front() {
                Some((at, number)) if *at <= now => {
                    let number = *number;
                    self.again.pop_front();
                    self.open_one(number);
                }
                _ => return,
            }
        }
    }

    pub(super) fn open_due(&mut self, now: Instant) {
        self.open_again_due(now);
        let Some(mut opening) = self.opening.take() else {
            return;
        };
        let room = self.opening_max().saturating_sub(self.unfinished) as u64;
        for _ in 0..opening.pace.due(now).min(room).min(BATCH) {
            let Some(number) = opening.numbers.pop_front() else {
                return;
            };
            opening.pace.take(1);
            self.open_one(number);
        }
        if !opening.numbers.is_empty() {
            self.opening = Some(opening);
        }
    }

    fn open_one(&mut self, number: u32) {
        let settings = &self.shared.settings;
        let node = settings.topics.node_of(number, settings.remotes.len());
        let remote = settings.remotes[node];
        let place = self.place_of(number);
        if place.is_ok_and(|place| self.clients[place].phase != Phase::Ended) {
            self.shared
                .fault("a client was to be opened that is open".to_owned());
            Counters::count(&self.shared.counters[self.index].failed);
            return;
        }
        let connected = match &mut self.quic {
            Some(quic) => quic.connect(remote),
            None => self
                .driver
                .connect(remote, local_of(remote, number))
                .map_err(Into::into),
        };
        match connected {
            Ok(connection) => {
                let mut client = Client::new(connection, number, self.now_ms());
                let place = match place {
                    Ok(place) => {
                        client.in_turn = self.clients[place].in_turn;
                        self.clients[place] = client;
                        place
                    }
                    Err(place) => {
                        // Scenarios open clients in the order of their numbers, which keeps the list in order.
                        assert_eq!(place, self.clients.len(), "clients are opened in order");
                        self.clients.push(client);
                        place
                    }
                };
                self.by_slot.insert(connection.slot, place as u32);
                self.unfinished += 1;
            }
            Err(error) => {
                self.shared
                    .fault(format!("no socket for a connection: {error}"));
                Counters::count(&self.shared.counters[self.index].failed);
            }
        }
    }

    /// Where the client of this number is, or would be.
    fn place_of(&self, number: u32) -> Result<usize, usize> {
        if self.clients.last().is_none_or(|last| last.number < number) {
            return Err(self.clients.len());
        }
        self.clients
            .binary_search_by_key(&number, |client| client.number)
    }

    pub(super) fn leave(&mut self, numbers: Range<u32>) {
        let own: Vec<u32> = numbers.filter(|number| self.is_own(*number)).collect();
        self.leaving.extend(own);
    }

    pub(super) fn leave_due(&mut self) {
        for _ in 0..BATCH {
            let Some(number) = self.leaving.pop_front() else {
                return;
            };
            let Ok(place) = self.place_of(number) else {
                continue;
            };
            if self.clients[place].phase != Phase::Live {
                continue;
            }
            let mut out = self.driver.reclaim().unwrap_or_default();
            let client = &mut self.clients[place];
            client.leave(self.shared.settings.version, &mut out);
            let connection = client.connection;
            self.send(place, out);
            let how = Close::Graceful {
                linger_ms: LINGER_MS,
            };
            self.close(connection, how);
        }
    }
}
