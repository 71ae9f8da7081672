//! What the clients of a thread publish, and when.

use std::time::Instant;

use edge_proto::packet::QoS;

use super::client::{SHARED_TOPIC, own_topic, room_topic};
use crate::clock::Pace;

/// Unacknowledged publishes of one client, below the Receive Maximum that servers have (128 here, 20 at the least).
pub(super) const OUTSTANDING_MAX: u16 = 18;

/// To whom messages go.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    /// A random client of these.
    Random(std::ops::Range<u32>),
    /// A random client of these, as fast as publishes are acknowledged.
    Acknowledged {
        /// Recipients.
        to: std::ops::Range<u32>,
        /// Publishes of each publisher on their way.
        window: u16,
    },
    /// From client 2k to client 2k + 1.
    Partner {
        /// Messages of each pair on their way when there is no pace.
        window: u16,
    },
    /// To the shared topic.
    Shared {
        /// Subscribers.
        audience: u32,
        /// Messages on their way to all of them when there is no pace.
        window: u32,
    },
    /// To the publisher's room, or to a random client.
    Rooms {
        /// Clients in a room.
        size: u32,
        /// Messages to rooms in a thousand.
        share: u32,
        /// All clients.
        clients: u32,
    },
}

/// A load.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    /// To whom.
    pub(crate) target: Target,
    /// Messages in a second from all threads; 0 = a closed loop, as fast as messages arrive or are acknowledged. With a pace
    /// the loop is open: what is loaded cannot slow it down.
    pub(crate) per_second: f64,
    /// QoS of the publishes, if not that of the subscriptions.
    pub(crate) qos: Option<QoS>,
    /// These clients publish.
    pub(crate) publishers: std::ops::Range<u32>,
    /// Messages from all threads; `u64::MAX` = until it is quiet.
    pub(crate) messages: u64,
}

impl Load {
    /// Without an end.
    pub(crate) const fn endless(
        target: Target,
        publishers: std::ops::Range<u32>,
        per_second: f64,
    ) -> Self {
        Self {
            target,
            per_second,
            qos: None,
            publishers,
            messages: u64::MAX,
        }
    }
}

/// A load that a thread is at.
#[derive(Debug)]
pub(super) struct Active {
    pub(super) load: Load,
    pace: Option<Pace>,
    left: u64,
    /// Publishers of this thread: their places in its list.
    pub(super) publishers: std::ops::Range<usize>,
    next: usize,
    /// Published and delivered by all threads before the load.
    pub(super) before: (u64, u64),
}

impl Active {
    /// `own` are the places of the publishers that are clients of this thread.
    pub(super) fn new(
        load: Load,
        now: Instant,
        own: std::ops::Range<usize>,
        before: (u64, u64),
    ) -> Self {
        let share = own.len() as f64 / load.publishers.len().max(1) as f64;
        // Rounded up on each thread: a few more than asked for, never fewer.
        let left = if load.messages == u64::MAX {
            u64::MAX
        } else {
            (load.messages as f64 * share).ceil() as u64
        };
        Self {
            pace: (load.per_second > 0.0).then(|| Pace::new(now, load.per_second * share)),
            left: if own.is_empty() { 0 } else { left },
            next: own.start,
            publishers: own,
            before,
            load,
        }
    }

    /// How many messages are due by the clock; none in a closed loop.
    pub(super) fn due(&self, now: Instant) -> u64 {
        match &self.pace {
            Some(pace) if self.left > 0 => pace.due(now).min(self.left),
            _ => 0,
        }
    }

    /// When the next message is due by the clock.
    pub(super) fn next_at(&self) -> Option<Instant> {
        let pace = self.pace.as_ref().filter(|_| self.left > 0)?;
        Some(pace.next())
    }

    /// Counts one message that is published; false when there are no more.
    pub(super) const fn take(&mut self) -> bool {
        let some = self.left > 0;
        self.left = self.left.saturating_sub(1);
        some
    }

    /// Takes the message that is due: the place of its publisher in the list of clients, and when it was to be sent.
    pub(super) fn take_due(&mut self, random: &mut fastrand::Rng) -> Option<(usize, Instant)> {
        let at = self.next_at()?;
        if let Some(pace) = &mut self.pace {
            pace.take(1);
        }
        self.take();
        Some((self.publisher(random), at))
    }

    /// Who publishes next.
    pub(super) fn publisher(&mut self, random: &mut fastrand::Rng) -> usize {
        match self.load.target {
            Target::Random(_) | Target::Rooms { .. } | Target::Acknowledged { .. } => {
                random.usize(self.publishers.clone())
            }
            // The first of a pair publishes; both are on this thread, side by side.
            Target::Partner { .. } => {
                let pair = random.usize(..self.publishers.len().div_ceil(2));
                self.publishers.start + 2 * pair
            }
            Target::Shared { .. } => {
                self.next += 1;
                if self.next >= self.publishers.end {
                    self.next = self.publishers.start;
                }
                self.next
            }
        }
    }

    /// The topic of a message from the client of this number.
    pub(super) fn topic(&self, number: u32, random: &mut fastrand::Rng) -> String {
        match &self.load.target {
            Target::Random(numbers) | Target::Acknowledged { to: numbers, .. } => {
                own_topic(random.u32(numbers.clone()))
            }
            Target::Partner { .. } => own_topic(number | 1),
            Target::Shared { .. } => SHARED_TOPIC.to_owned(),
            Target::Rooms {
                size,
                share,
                clients,
            } => {
                if random.u32(..1_000) < *share {
                    room_topic(number / size)
                } else {
                    own_topic(random.u32(..*clients))
                }
            }
        }
    }

    /// Whether messages go as fast as they arrive, to all of an audience.
    pub(super) const fn shared_window(&self) -> Option<(u64, u64)> {
        match self.load.target {
            Target::Shared { audience, window }
                if self.pace.is_none() && self.publishers.start < self.publishers.end =>
            {
                Some((audience as u64, window as u64))
            }
            _ => None,
        }
    }

    /// Messages that each publisher has on their way in a closed loop of its own.
    pub(super) const fn own_window(&self) -> u16 {
        match self.load.target {
            Target::Partner { window } | Target::Acknowledged { window, .. }
                if self.pace.is_none() =>
            {
                window
            }
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use std::time::Duration;

    #[test]
    fn a_late_message_counts_from_when_it_was_due() {
        let started = clock::now();
        let target = Target::Random(0..4);
        let mut random = fastrand::Rng::with_seed(1);
        let mut active = Active::new(Load::endless(target, 0..4, 10.0), started, 0..4, (0, 0));
        let late = started + Duration::from_secs(5);
        assert_eq!(active.due(late), 50);
        let (_, first) = active.take_due(&mut random).expect("it is due");
        let (_, second) = active.take_due(&mut random).expect("it is due");
        assert_eq!(first, started + Duration::from_millis(100));
        assert_eq!(second, started + Duration::from_millis(200));
        assert_eq!(active.due(late), 48);
    }

    #[test]
    fn only_the_first_of_a_pair_publishes_and_to_the_second() {
        let target = Target::Partner { window: 1 };
        let mut random = fastrand::Rng::with_seed(1);
        let load = Load::endless(target, 0..8, 1.0);
        let mut active = Active::new(load, clock::now(), 0..8, (0, 0));
        for _ in 0..100 {
            assert!(active.publisher(&mut random).is_multiple_of(2));
        }
        assert_eq!(active.topic(6, &mut random), own_topic(7));
        assert_eq!(
            (active.own_window(), active.shared_window()),
            (0, None),
            "a pace is no closed loop"
        );
    }

    #[test]
    fn a_load_has_an_end() {
        let load = Load {
            target: Target::Shared {
                audience: 10,
                window: 2,
            },
            per_second: 0.0,
            qos: None,
            publishers: 0..2,
            messages: 3,
        };
        let mut active = Active::new(load, clock::now(), 0..2, (0, 0));
        assert_eq!(active.shared_window(), Some((10, 2)));
        assert!(active.take() && active.take() && active.take() && !active.take());
    }
}
