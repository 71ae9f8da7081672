//! Bounded rings between the cores of a node: two lanes for each ordered pair of cores, one producer and one consumer each.
//!
//! A ring takes its memory when it is first used, so that 64 cores cost only what they say to each other. A full ring
//! gives the message back: the sender decides (keep it, stop reading, drop with a reason). After a turn the sender wakes
//! each core it wrote to, once ([`Port::take_touched`] and [`Waker::wake`](crate::driver::Waker::wake)).
//!
//! Threads that are no core (control, engine) use an [`Inbox`].

mod inbox;
mod ring;

pub use inbox::{Inbox, InboxSender, inbox};

use ring::{Consumer, Producer, ring};

/// Which of the two rings of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lane {
    /// What may not wait behind data: acknowledgements, views, hand-over, shutdown.
    Control,
    /// Messages.
    Data,
}

impl Lane {
    const fn index(self) -> usize {
        match self {
            Self::Control => 0,
            Self::Data => 1,
        }
    }
}

/// Messages that one ring of a lane holds, for each ordered pair of cores. Rounded up to a power of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneCapacity {
    /// Of the control lane.
    pub control: u32,
    /// Of the data lane.
    pub data: u32,
}

/// One core's end of the mesh. Belongs to the thread of the core.
#[derive(Debug)]
pub struct Port<T> {
    core: usize,
    /// By peer and lane; `None` for the core itself.
    outgoing: Vec<Option<[Producer<T>; 2]>>,
    incoming: Vec<Option<[Consumer<T>; 2]>>,
    /// Where the next drain of a lane begins.
    turn: [usize; 2],
    /// One bit per core that got a message since [`Port::take_touched`].
    touched: Vec<u64>,
}

/// Joins `cores` cores and returns their ports, by core.
#[must_use]
pub fn mesh<T: Send>(cores: usize, capacity: LaneCapacity) -> Vec<Port<T>> {
    let mut ports: Vec<Port<T>> = (0..cores)
        .map(|core| Port {
            core,
            outgoing: (0..cores).map(|_| None).collect(),
            incoming: (0..cores).map(|_| None).collect(),
            turn: [0; 2],
            touched: vec![0; cores.div_ceil(64)],
        })
        .collect();
    for from in 0..cores {
        for to in (0..cores).filter(|to| *to != from) {
            let (control_in, control_out) = ring(capacity.control);
            let (data_in, data_out) = ring(capacity.data);
            ports[from].outgoing[to] = Some([control_in, data_in]);
            ports[to].incoming[from] = Some([control_out, data_out]);
        }
    }
    ports
}

impl<T: Send> Port<T> {
    /// Which core this is.
    #[must_use]
    pub const fn core(&self) -> usize {
        self.core
    }

    /// Number of cores, this one included.
    #[must_use]
    pub const fn cores(&self) -> usize {
        self.outgoing.len()
    }

    /// Puts a message into the ring to another core.
    ///
    /// # Errors
    /// Gives the message back when the ring is full.
    ///
    /// # Panics
    /// When `to` is this core or no core: a core does not send to itself.
    pub fn send(&mut self, to: usize, lane: Lane, message: T) -> Result<(), T> {
        let lanes = self.outgoing[to]
            .as_mut()
            .expect("a core does not send to itself");
        lanes[lane.index()].push(message)?;
        self.touched[to / 64] |= 1 << (to % 64);
        Ok(())
    }

    /// Free places in the ring to another core.
    ///
    /// # Panics
    /// When `to` is this core or no core.
    #[must_use]
    pub fn room(&mut self, to: usize, lane: Lane) -> usize {
        let lanes = self.outgoing[to]
            .as_mut()
            .expect("a core does not send to itself");
        lanes[lane.index()].room()
    }

    /// Takes up to `max` messages of a lane, the same share from each sender that has any, and returns how many. The next
    /// call begins with the next sender.
    pub fn drain(&mut self, lane: Lane, max: usize, mut handle: impl FnMut(usize, T)) -> usize {
        let cores = self.incoming.len();
        let share = max.div_ceil(cores.saturating_sub(1).max(1)).max(1);
        let first = self.turn[lane.index()];
        let mut taken = 0;
        loop {
            let before = taken;
            for offset in 0..cores {
                let from = (first + offset) % cores;
                let Some(lanes) = self.incoming[from].as_mut() else {
                    continue;
                };
                let quota = share.min(max - taken);
                for _ in 0..quota {
                    let Some(message) = lanes[lane.index()].pop() else {
                        break;
                    };
                    taken += 1;
                    handle(from, message);
                }
            }
            if taken == max || taken == before {
                self.turn[lane.index()] = (first + 1) % cores.max(1);
                return taken;
            }
        }
    }

    /// Whether any ring into this core holds a message.
    #[must_use]
    pub fn has_pending(&self) -> bool {
        self.incoming
            .iter()
            .flatten()
            .flatten()
            .any(|ring| !ring.is_empty())
    }

    /// Calls `wake` for each core that got a message since the last call: one wake per touched core and turn.
    pub fn take_touched(&mut self, mut wake: impl FnMut(usize)) {
        for (word, bits) in self.touched.iter_mut().enumerate() {
            let mut left = std::mem::take(bits);
            while left != 0 {
                wake(word * 64 + left.trailing_zeros() as usize);
                left &= left - 1;
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const CAPACITY: LaneCapacity = LaneCapacity {
        control: 4,
        data: 16,
    };

    #[test]
    fn a_full_ring_gives_the_message_back() {
        let mut ports = mesh::<u32>(2, CAPACITY);
        for number in 0..4 {
            assert_eq!(ports[0].send(1, Lane::Control, number), Ok(()));
        }
        assert_eq!(ports[0].send(1, Lane::Control, 4), Err(4));
        assert_eq!(ports[0].send(1, Lane::Data, 5), Ok(()));
        assert_eq!(
            (
                ports[0].room(1, Lane::Control),
                ports[0].room(1, Lane::Data)
            ),
            (0, 15)
        );
        assert!(ports[1].has_pending());
        let mut taken = Vec::new();
        assert_eq!(
            ports[1].drain(Lane::Control, 100, |from, number| taken
                .push((from, number))),
            4
        );
        assert_eq!(taken, [(0, 0), (0, 1), (0, 2), (0, 3)]);
        assert_eq!(ports[0].send(1, Lane::Control, 4), Ok(()));
    }

    #[test]
    fn drain_is_fair_over_senders() {
        let mut ports = mesh::<u32>(4, CAPACITY);
        for number in 0..16 {
            for port in &mut ports[1..] {
                assert_eq!(port.send(0, Lane::Data, number), Ok(()));
            }
        }
        let mut by_sender = [0; 4];
        assert_eq!(
            ports[0].drain(Lane::Data, 12, |from, _| by_sender[from] += 1),
            12
        );
        assert_eq!(by_sender, [0, 4, 4, 4]);
        assert_eq!(ports[0].drain(Lane::Data, 2, |_, _| ()), 2);
        assert_eq!(ports[0].drain(Lane::Data, 100, |_, _| ()), 34);
        assert!(!ports[0].has_pending());
    }

    #[test]
    fn each_touched_core_is_named_once() {
        let mut ports = mesh::<u32>(70, CAPACITY);
        for to in [69, 3, 69] {
            assert_eq!(ports[5].send(to, Lane::Data, 1), Ok(()));
        }
        let mut touched = Vec::new();
        ports[5].take_touched(|core| touched.push(core));
        assert_eq!(touched, [3, 69]);
        ports[5].take_touched(|_| panic!("nothing was sent since"));
    }

    #[test]
    fn threads_that_wake_each_other_lose_nothing() {
        const MESSAGES: u64 = 200_000;
        let mut ports = mesh::<u64>(
            3,
            LaneCapacity {
                control: 2,
                data: 64,
            },
        );
        let mut receiver = ports.remove(0);
        let sum: u64 = std::thread::scope(|scope| {
            for mut port in ports {
                scope.spawn(move || {
                    for number in 0..MESSAGES {
                        let mut message = number;
                        while let Err(back) = port.send(0, Lane::Data, message) {
                            message = back;
                            std::thread::yield_now();
                        }
                    }
                });
            }
            let mut next = [0; 3];
            let mut sum = 0;
            while next[1] + next[2] < 2 * MESSAGES {
                let taken = receiver.drain(Lane::Data, 32, |from, number| {
                    assert_eq!(number, next[from]);
                    next[from] += 1;
                    sum += number;
                });
                if taken == 0 {
                    std::thread::yield_now();
                }
            }
            sum
        });
        assert_eq!(sum, MESSAGES * (MESSAGES - 1));
    }

    #[test]
    fn what_was_not_received_is_dropped_with_the_mesh() {
        let message = std::sync::Arc::new(());
        let mut ports = mesh(2, CAPACITY);
        for _ in 0..3 {
            assert!(
                ports[0]
                    .send(1, Lane::Data, std::sync::Arc::clone(&message))
                    .is_ok()
            );
        }
        ports[1].drain(Lane::Data, 1, |_, _| ());
        drop(ports);
        assert_eq!(std::sync::Arc::strong_count(&message), 1);
    }
}
