//! Transmits that wait to be sent: bounded per socket, cut into what one send may carry, and what the kernel's answer means.

use std::collections::VecDeque;

use crate::datagram::{DatagramCounters, DatagramOptions, Transmit};
use crate::send_queue::{Reclaimed, is_shortage};
use crate::udp::{PAYLOAD_BYTES_MAX, SEGMENTS_MAX};

/// Empty queues kept for other sockets.
const SPARE_MAX: usize = 256;
/// One that has room for more transmits is not kept.
const SPARE_TRANSMITS_MAX: usize = 1024;

/// A transmit on its way to the kernel, in one send or several.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) transmit: Transmit,
    /// Bytes that are dealt with.
    offset: usize,
    /// Bytes of the send under way, after `offset`.
    length: usize,
    /// The send under way is to be cut into several by the kernel.
    cut: bool,
    /// The kernel refused to cut this one: one datagram a send.
    single: bool,
}

/// Whether a transmit is done with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Settled {
    /// There is more to send.
    Again,
    Done,
}

impl Outgoing {
    fn new(mut transmit: Transmit) -> Self {
        let whole = transmit.bytes.len();
        transmit.segment = transmit
            .segment
            .filter(|segment| *segment > 0 && usize::from(*segment) < whole);
        Self {
            transmit,
            offset: 0,
            length: 0,
            cut: false,
            single: false,
        }
    }

    /// Chooses what to send next, and returns into what length the kernel is to cut it. `segmentation`: whether it can.
    pub(crate) fn choose(&mut self, segmentation: bool) -> Option<u16> {
        let left = self.transmit.bytes.len() - self.offset;
        let whole = self.transmit.segment.map_or(left, usize::from);
        let count = if segmentation && !self.single {
            (PAYLOAD_BYTES_MAX / whole.max(1)).clamp(1, SEGMENTS_MAX)
        } else {
            1
        };
        self.length = left.min(whole.saturating_mul(count));
        self.cut = self.length > whole;
        self.transmit.segment.filter(|_| self.cut)
    }

    /// What was chosen last.
    pub(crate) fn chosen(&self) -> &[u8] {
        &self.transmit.bytes[self.offset..self.offset + self.length]
    }

    /// Takes note of how the send of what was chosen ended: an error number, or well.
    pub(crate) fn settle(
        &mut self,
        result: Result<(), i32>,
        segmentation: &mut bool,
        counters: &mut DatagramCounters,
    ) -> Settled {
        let datagrams = self.datagrams(self.length);
        match result {
            Ok(()) => {
                counters.sent += datagrams;
                counters.bytes_sent += self.length as u64;
                // What was refused in one goes well one by one: cutting is what does not work here.
                *segmentation &= !self.single;
            }
            Err(libc::EINTR) => return Settled::Again,
            Err(libc::EINVAL | libc::EIO) if self.cut => {
                counters.segmentation_refused += 1;
                self.single = true;
                return Settled::Again;
            }
            Err(libc::EMSGSIZE) => counters.too_large += datagrams,
            Err(libc::ECONNREFUSED) => counters.refused += 1,
            Err(error) if is_shortage(error) || error == libc::EAGAIN => {
                counters.dropped_shortage += datagrams;
            }
            Err(_) => counters.send_errors += datagrams,
        }
        self.offset += self.length;
        if self.offset < self.transmit.bytes.len() {
            Settled::Again
        } else {
            Settled::Done
        }
    }

    fn datagrams(&self, length: usize) -> u64 {
        let segment = self.transmit.segment.map_or(length, usize::from);
        length.div_ceil(segment.max(1)) as u64
    }

    /// Datagrams that nothing was heard of yet.
    fn datagrams_left(&self) -> u64 {
        self.datagrams(self.transmit.bytes.len() - self.offset)
    }

    /// Memory that it holds.
    const fn held(&self) -> u64 {
        (self.transmit.bytes.capacity() + size_of::<Self>()) as u64
    }
}

/// Queues of sockets that have sent everything, kept for the next to send.
#[derive(Debug, Default)]
#[expect(
    clippy::vec_box,
    reason = "a box goes back and forth between a socket and here"
)]
pub(crate) struct SpareQueues(Vec<Box<Queue>>);

/// What waits at a socket, the oldest first.
#[derive(Debug, Default)]
struct Queue(VecDeque<Outgoing>);

/// The sending half of a socket.
#[derive(Debug)]
pub(crate) struct Outbound {
    /// Present while something waits.
    queue: Option<Box<Queue>>,
    /// Memory of what waits and what is in flight.
    held: u64,
    held_max: u32,
    /// Whether the kernel cuts a send into datagrams.
    pub(crate) segmentation: bool,
    /// Whether the address to send to is the socket's.
    pub(crate) connected: bool,
}

impl Outbound {
    pub(crate) const fn new(options: &DatagramOptions) -> Self {
        Self {
            queue: None,
            held: 0,
            held_max: options.unsent_bytes_max,
            segmentation: true,
            connected: options.peer.is_some(),
        }
    }

    pub(crate) const fn held(&self) -> u64 {
        self.held
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.queue.is_none()
    }

    /// Queues a transmit, or drops it at the bound.
    pub(crate) fn push(
        &mut self,
        transmit: Transmit,
        spare: &mut SpareQueues,
        reclaimed: &mut Reclaimed,
        counters: &mut DatagramCounters,
    ) {
        let outgoing = Outgoing::new(transmit);
        let held = outgoing.held();
        if outgoing.transmit.bytes.is_empty() {
            reclaimed.put(outgoing.transmit.bytes);
        } else if self.held + held > u64::from(self.held_max) {
            counters.dropped_full += outgoing.datagrams_left();
            reclaimed.put(outgoing.transmit.bytes);
        } else {
            self.held += held;
            counters.bytes_unsent += held;
            self.queue
                .get_or_insert_with(|| spare.0.pop().unwrap_or_default())
                .0
                .push_back(outgoing);
        }
    }

    /// Takes the oldest out. It stays accounted for until [`Outbound::finish`].
    pub(crate) fn pop(&mut self, spare: &mut SpareQueues) -> Option<Outgoing> {
        let outgoing = self.queue.as_mut()?.0.pop_front();
        if let Some(queue) = self.queue.take_if(|queue| queue.0.is_empty())
            && spare.0.len() < SPARE_MAX
            && queue.0.capacity() <= SPARE_TRANSMITS_MAX
        {
            spare.0.push(queue);
        }
        outgoing
    }

    /// Puts back what [`Outbound::pop`] took.
    pub(crate) fn put_back(&mut self, outgoing: Outgoing, spare: &mut SpareQueues) {
        self.queue
            .get_or_insert_with(|| spare.0.pop().unwrap_or_default())
            .0
            .push_front(outgoing);
    }

    /// Lets go of a transmit that is done with.
    pub(crate) fn finish(
        &mut self,
        outgoing: Outgoing,
        reclaimed: &mut Reclaimed,
        counters: &mut DatagramCounters,
    ) {
        let held = outgoing.held();
        self.held -= held;
        counters.bytes_unsent -= held;
        reclaimed.put(outgoing.transmit.bytes);
    }

    /// Drops one, as its socket is closing.
    pub(crate) fn abandon(
        &mut self,
        outgoing: Outgoing,
        reclaimed: &mut Reclaimed,
        counters: &mut DatagramCounters,
    ) {
        counters.dropped_closed += outgoing.datagrams_left();
        self.finish(outgoing, reclaimed, counters);
    }

    /// Drops what waits.
    pub(crate) fn clear(
        &mut self,
        spare: &mut SpareQueues,
        reclaimed: &mut Reclaimed,
        counters: &mut DatagramCounters,
    ) {
        while let Some(outgoing) = self.pop(spare) {
            self.abandon(outgoing, reclaimed, counters);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outgoing(length: usize, segment: Option<u16>) -> Outgoing {
        Outgoing::new(Transmit {
            to: ([127, 0, 0, 1], 1).into(),
            from: None,
            ecn: None,
            segment,
            bytes: (0..length).map(|at| at as u8).collect(),
        })
    }

    /// Every send of a transmit, as (length, segment), when each ends so.
    fn sends(
        mut outgoing: Outgoing,
        mut segmentation: bool,
        mut answer: impl FnMut(usize) -> Result<(), i32>,
    ) -> (Vec<(usize, Option<u16>)>, DatagramCounters, bool) {
        let (mut all, mut counters) = (Vec::new(), DatagramCounters::default());
        loop {
            let segment = outgoing.choose(segmentation);
            let length = outgoing.chosen().len();
            all.push((length, segment));
            let result = answer(length);
            if outgoing.settle(result, &mut segmentation, &mut counters) == Settled::Done {
                return (all, counters, segmentation);
            }
        }
    }

    #[test]
    fn a_transmit_is_one_send_as_far_as_the_kernel_takes_it() {
        let cut = Some(1200);
        let (all, counters, _) = sends(outgoing(5000, cut), true, |_| Ok(()));
        assert_eq!((all, counters.sent), (vec![(5000, cut)], 5));
        let (all, counters, _) = sends(outgoing(1200, cut), true, |_| Ok(()));
        assert_eq!((all, counters.sent), (vec![(1200, None)], 1));
        // More than 64 KiB, and more than 64 datagrams.
        let (all, counters, _) = sends(outgoing(100_000, cut), true, |_| Ok(()));
        assert_eq!(all, [(64_800, cut), (35_200, cut)]);
        assert_eq!((counters.sent, counters.bytes_sent), (84, 100_000));
        let (all, counters, _) = sends(outgoing(650, Some(10)), true, |_| Ok(()));
        assert_eq!(all, [(640, Some(10)), (10, None)]);
        assert_eq!(counters.sent, 65);
        let (all, ..) = sends(outgoing(3000, cut), false, |_| Ok(()));
        assert_eq!(all, [(1200, None), (1200, None), (600, None)]);
    }

    #[test]
    fn what_the_kernel_does_not_cut_goes_one_by_one_from_then_on() {
        for error in [libc::EIO, libc::EINVAL] {
            let refuse = |length| if length > 1200 { Err(error) } else { Ok(()) };
            let (all, counters, segmentation) = sends(outgoing(2500, Some(1200)), true, refuse);
            assert_eq!(all[0], (2500, Some(1200)));
            assert_eq!(all[1..], [(1200, None), (1200, None), (100, None)]);
            assert_eq!((counters.sent, counters.segmentation_refused), (3, 1));
            assert!(!segmentation);
        }
        // Where one by one does not help, cutting is not to blame.
        let all_fail = |_| Err(libc::EINVAL);
        let (_, counters, segmentation) = sends(outgoing(2500, Some(1200)), true, all_fail);
        assert_eq!((counters.send_errors, counters.sent), (3, 0));
        assert!(segmentation);
    }

    #[test]
    fn errors_are_counted_by_what_they_mean_and_end_the_send() {
        let counted = |error: i32| sends(outgoing(100, None), true, |_| Err(error)).1;
        assert_eq!(counted(libc::EMSGSIZE).too_large, 1);
        assert_eq!(counted(libc::ECONNREFUSED).refused, 1);
        assert_eq!(counted(libc::ENOBUFS).dropped_shortage, 1);
        assert_eq!(counted(libc::EPERM).send_errors, 1);
        let mut interrupted = false;
        let once = |_| {
            if std::mem::replace(&mut interrupted, true) {
                Ok(())
            } else {
                Err(libc::EINTR)
            }
        };
        let (all, counters, _) = sends(outgoing(100, None), true, once);
        assert_eq!((all.len(), counters.sent), (2, 1));
    }

    #[test]
    fn the_bound_counts_memory_and_drops_the_newest() {
        let options = DatagramOptions {
            unsent_bytes_max: 10_000,
            ..DatagramOptions::server()
        };
        let mut outbound = Outbound::new(&options);
        let (mut spare, mut reclaimed) = (SpareQueues::default(), Reclaimed::default());
        let mut counters = DatagramCounters::default();
        for number in 0..20 {
            let mut bytes = Vec::with_capacity(2000);
            bytes.push(number);
            let transmit = Transmit {
                bytes,
                ..outgoing(1, None).transmit
            };
            outbound.push(transmit, &mut spare, &mut reclaimed, &mut counters);
        }
        assert_eq!(counters.dropped_full, 16);
        assert!(outbound.held() <= 10_000 && counters.bytes_unsent == outbound.held());
        for number in 0..4 {
            let outgoing = outbound.pop(&mut spare).expect("four fit");
            assert_eq!(outgoing.transmit.bytes, [number]);
            outbound.finish(outgoing, &mut reclaimed, &mut counters);
        }
        assert!(outbound.is_empty() && outbound.pop(&mut spare).is_none());
        assert_eq!((outbound.held(), counters.bytes_unsent), (0, 0));
        assert_eq!(spare.0.len(), 1);
    }
}
