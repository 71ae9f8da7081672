//! Bounded rings between the cores of a node: two lanes for each ordered pair of cores, one producer and one consumer each.
//!
//! A ring takes its memory when it is first used, so that 64 cores cost only what they say to each other. A full ring
//! gives the message back: the sender decides (keep it, stop reading, drop with a reason). After a turn the sender marks and
//! wakes each core it wrote to, once ([`Port::flush`] and [`Waker::wake`](crate::driver::Waker::wake)): a core looks only at
//! the rings of the cores that marked it.
//!
//! A message in the data lane is never taken before what its sender had put into the control lane when it sent it: a publish does
//! not come before the subscription that was made before it. The other way round there is no order.
//!
//! Threads that are no core (control, engine) use an [`Inbox`].

mod inbox;
mod marks;
mod ring;

pub use inbox::{Inbox, InboxSender, inbox};

use std::sync::Arc;

use marks::Marks;
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

/// The rings from one other core.
#[derive(Debug)]
struct Incoming<T> {
    /// By lane.
    lanes: [Consumer<T>; 2],
    /// Place in the data ring up to which messages may be taken.
    free: usize,
    /// Where the data ring ended at a look, and where the control ring ended then or a little later: when all before the second place
    /// is taken, all before the first is free.
    seen: [usize; 2],
}

impl<T: Send> Incoming<T> {
    const fn new(lanes: [Consumer<T>; 2]) -> Self {
        Self {
            lanes,
            free: 0,
            seen: [0; 2],
        }
    }

    /// Frees of the data ring what may be taken now. True when more waits for messages of the control ring.
    fn free_data(&mut self) -> bool {
        let [control, data] = &self.lanes;
        let is_taken = |end: usize| control.head().wrapping_sub(end) <= usize::MAX / 2;
        let [data_end, control_end] = self.seen;
        if is_taken(control_end) {
            self.free = data_end;
            // In this order: what was in the control ring before the last of these is below its end.
            self.seen = [data.end(), control.end()];
            if is_taken(self.seen[1]) {
                self.free = self.seen[0];
            }
        }
        self.free != self.seen[0]
    }

    fn pop(&mut self, lane: Lane) -> Option<T> {
        let ring = &mut self.lanes[lane.index()];
        if lane == Lane::Data && ring.head() == self.free {
            return None;
        }
        ring.pop()
    }
}

/// One core's end of the mesh. Belongs to the thread of the core.
#[derive(Debug)]
pub struct Port<T> {
    core: usize,
    /// By peer and lane; `None` for the core itself.
    outgoing: Vec<Option<[Producer<T>; 2]>>,
    incoming: Vec<Option<Incoming<T>>>,
    /// By core: who sent something to it.
    marks: Vec<Arc<Marks>>,
    /// By lane, one bit per core whose ring into this core may hold something.
    unread: [Vec<u64>; 2],
    /// Where the next drain of a lane begins.
    turn: [usize; 2],
    /// One bit per core that got a message since [`Port::flush`].
    touched: Vec<u64>,
}

/// Joins `cores` cores and returns their ports, by core.
#[must_use]
pub fn mesh<T: Send>(cores: usize, capacity: LaneCapacity) -> Vec<Port<T>> {
    let marks: Vec<Arc<Marks>> = (0..cores).map(|_| Arc::new(Marks::new(cores))).collect();
    let no_bits = || vec![0; cores.div_ceil(64)];
    let mut ports: Vec<Port<T>> = (0..cores)
        .map(|core| Port {
            core,
            outgoing: (0..cores).map(|_| None).collect(),
            incoming: (0..cores).map(|_| None).collect(),
            marks: marks.clone(),
            unread: [no_bits(), no_bits()],
            turn: [0; 2],
            touched: no_bits(),
        })
        .collect();
    for from in 0..cores {
        for to in (0..cores).filter(|to| *to != from) {
            let (control_in, control_out) = ring(capacity.control);
            let (data_in, data_out) = ring(capacity.data);
            ports[from].outgoing[to] = Some([control_in, data_in]);
            ports[to].incoming[from] = Some(Incoming::new([control_out, data_out]));
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

    /// Puts a message into the ring to another core, which sees it after [`Port::flush`].
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
    ///
    /// Messages of the data lane are left for a later call while their sender's control lane holds what it had sent before them: whoever
    /// drains the data lane drains the control lane, too.
    pub fn drain(&mut self, lane: Lane, max: usize, mut handle: impl FnMut(usize, T)) -> usize {
        self.read_marks();
        let cores = self.incoming.len();
        let share = max.div_ceil(cores.saturating_sub(1).max(1)).max(1);
        let first = self.turn[lane.index()];
        self.turn[lane.index()] = (first + 1) % cores;
        let mut taken = 0;
        loop {
            let before = taken;
            for (begin, end) in [(first, cores), (0, first)] {
                let mut at = begin;
                while let Some(from) =
                    next_bit(&self.unread[lane.index()], at).filter(|from| *from < end)
                {
                    taken += self.take(lane, from, share.min(max - taken), &mut handle);
                    at = from + 1;
                }
            }
            if taken == before || taken == max {
                return taken;
            }
        }
    }

    /// Takes up to `quota` messages of one ring, and notes when it is empty.
    fn take(
        &mut self,
        lane: Lane,
        from: usize,
        quota: usize,
        handle: &mut impl FnMut(usize, T),
    ) -> usize {
        let incoming = self.incoming[from].as_mut();
        let incoming = incoming.expect("a core does not mark itself");
        let [control_unread, data_unread] = &mut self.unread;
        let (word, bit) = (from / 64, 1 << (from % 64));
        let is_held = lane == Lane::Data && incoming.free_data();
        if is_held {
            control_unread[word] |= bit; // Perhaps the mark for it is not made yet.
        }
        for taken in 0..quota {
            let Some(message) = incoming.pop(lane) else {
                match lane {
                    Lane::Control => control_unread[word] &= !bit,
                    Lane::Data if incoming.lanes[1].is_empty() => data_unread[word] &= !bit,
                    Lane::Data => {}
                }
                return taken;
            };
            handle(from, message);
        }
        quota
    }

    /// Takes over the marks that others made.
    fn read_marks(&mut self) {
        let [control, data] = &mut self.unread;
        self.marks[self.core].take(|word, bits| {
            control[word] |= bits;
            data[word] |= bits;
        });
    }

    /// Whether any ring into this core holds a message, or a core has marked it since the last drain.
    #[must_use]
    pub fn has_pending(&self) -> bool {
        let holds = |(lane, bits): (usize, &Vec<u64>)| {
            let mut at = 0;
            while let Some(from) = next_bit(bits, at) {
                if let Some(incoming) = &self.incoming[from]
                    && !incoming.lanes[lane].is_empty()
                {
                    return true;
                }
                at = from + 1;
            }
            false
        };
        self.marks[self.core].any() || self.unread.iter().enumerate().any(holds)
    }

    /// Shows the messages since the last call to the cores they are for, and calls `wake` for each of these: one wake per
    /// touched core and turn.
    pub fn flush(&mut self, mut wake: impl FnMut(usize)) {
        for (word, bits) in self.touched.iter_mut().enumerate() {
            let mut left = std::mem::take(bits);
            while left != 0 {
                let core = word * 64 + left.trailing_zeros() as usize;
                self.marks[core].set(self.core);
                wake(core);
                left &= left - 1;
            }
        }
    }
}

/// The first set bit at `from` or behind.
fn next_bit(bits: &[u64], from: usize) -> Option<usize> {
    let (mut word, first) = (from / 64, from % 64);
    let mut left = bits.get(word)? & (u64::MAX << first);
    while left == 0 {
        word += 1;
        left = *bits.get(word)?;
    }
    Some(word * 64 + left.trailing_zeros() as usize)
}

#[cfg(all(test, loom))]
mod loom_tests {
    use loom::thread;

    use super::*;

    #[test]
    fn data_does_not_overtake_control() {
        loom::model(|| {
            let capacity = LaneCapacity {
                control: 2,
                data: 2,
            };
            let mut ports = mesh::<u32>(2, capacity);
            let mut receiver = ports.pop().expect("two were made");
            let mut sender = ports.pop().expect("two were made");
            let sender = thread::spawn(move || {
                for number in 0..2 {
                    assert!(sender.send(1, Lane::Control, number).is_ok());
                    assert!(sender.send(1, Lane::Data, number).is_ok());
                    sender.flush(|_| ());
                }
            });
            let (mut subscribed, mut published) = (0, 0);
            while published < 2 {
                receiver.drain(Lane::Control, 2, |_, _| subscribed += 1);
                receiver.drain(Lane::Data, 2, |_, number| {
                    assert!(number < subscribed, "before what was sent before it");
                    published += 1;
                });
                thread::yield_now();
            }
            sender.join().expect("the sender does not panic");
        });
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
        assert!(!ports[1].has_pending(), "not flushed yet");
        ports[0].flush(|_| ());
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
                port.flush(|_| ());
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
    fn data_waits_for_what_was_sent_before_in_the_control_lane() {
        let mut ports = mesh::<u32>(2, CAPACITY);
        let mut taken = Vec::new();
        assert_eq!(ports[0].send(1, Lane::Data, 0), Ok(()));
        for number in [1, 2] {
            assert_eq!(ports[0].send(1, Lane::Control, number), Ok(()));
        }
        assert_eq!(ports[0].send(1, Lane::Data, 3), Ok(()));
        ports[0].flush(|_| ());
        let mut drain = |port: &mut Port<u32>, lane, max| {
            taken.clear();
            port.drain(lane, max, |_, number| taken.push(number));
            taken.clone()
        };
        assert_eq!(drain(&mut ports[1], Lane::Data, 10), []);
        assert_eq!(drain(&mut ports[1], Lane::Control, 1), [1]);
        assert_eq!(drain(&mut ports[1], Lane::Data, 10), []);
        assert!(ports[1].has_pending());
        // More control messages do not keep the data waiting.
        assert_eq!(ports[0].send(1, Lane::Control, 4), Ok(()));
        ports[0].flush(|_| ());
        assert_eq!(drain(&mut ports[1], Lane::Control, 1), [2]);
        assert_eq!(drain(&mut ports[1], Lane::Data, 10), [0, 3]);
        assert_eq!(drain(&mut ports[1], Lane::Control, 10), [4]);
        assert!(!ports[1].has_pending());
    }

    #[test]
    fn each_touched_core_is_named_once() {
        let mut ports = mesh::<u32>(70, CAPACITY);
        for to in [69, 3, 69] {
            assert_eq!(ports[5].send(to, Lane::Data, 1), Ok(()));
        }
        let mut touched = Vec::new();
        ports[5].flush(|core| touched.push(core));
        assert_eq!(touched, [3, 69]);
        ports[5].flush(|_| panic!("nothing was sent since"));
        assert_eq!(
            ports[69].drain(Lane::Data, 10, |from, _| assert_eq!(from, 5)),
            2
        );
        assert!(ports[3].has_pending() && !ports[69].has_pending());
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
                        port.flush(|_| ());
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
        let message = Arc::new(());
        let mut ports = mesh(2, CAPACITY);
        for _ in 0..3 {
            assert!(ports[0].send(1, Lane::Data, Arc::clone(&message)).is_ok());
        }
        ports[0].flush(|_| ());
        ports[1].drain(Lane::Data, 1, |_, _| ());
        drop(ports);
        assert_eq!(Arc::strong_count(&message), 1);
    }
}
