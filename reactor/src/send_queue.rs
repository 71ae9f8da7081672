//! Bytes that wait to be sent, in the vectors they were handed over in.

use std::collections::VecDeque;
use std::time::Duration;

/// Vectors kept for [`Driver::reclaim`](crate::driver::Driver::reclaim).
const RECLAIM_MAX: usize = 256;
/// A larger vector is not kept, so that one large message does not stay in memory.
const RECLAIM_BYTES_MAX: usize = 64 * 1024;

/// Sending states kept for other connections.
const SPARE_MAX: usize = 256;
/// One that has room for more vectors is not kept.
const SPARE_VECTORS_MAX: usize = 16;
/// How long the sends of a core pause that the kernel had no memory for.
pub(crate) const SHORTAGE_PAUSE: Duration = Duration::from_millis(10);
/// Times in a row that the kernel may have no memory for a connection's send, until the connection ends with that error.
pub(crate) const SHORTAGES_MAX: u8 = 100;

/// Whether a send failed for want of kernel memory: nothing was sent, and nothing is wrong with the connection.
pub(crate) const fn is_shortage(error: i32) -> bool {
    matches!(error, libc::ENOMEM | libc::ENOBUFS)
}

/// Emptied vectors on their way back to the core.
#[derive(Debug, Default)]
pub(crate) struct Reclaimed(Vec<Vec<u8>>);

impl Reclaimed {
    pub(crate) fn put(&mut self, mut vector: Vec<u8>) {
        if self.0.len() < RECLAIM_MAX
            && vector.capacity() <= RECLAIM_BYTES_MAX
            && vector.capacity() > 0
        {
            vector.clear();
            self.0.push(vector);
        }
    }

    pub(crate) fn take(&mut self) -> Option<Vec<u8>> {
        self.0.pop()
    }
}

/// Sending states of connections that have sent everything, kept for the next to send: a message costs no allocation.
#[derive(Debug, Default)]
pub(crate) struct Spare<T>(Vec<Box<T>>);

impl<T: Default> Spare<T> {
    pub(crate) fn take(&mut self) -> Box<T> {
        self.0.pop().unwrap_or_default()
    }

    /// `queue` is the one in `state`, which is as good as new but for the room in it.
    pub(crate) fn put(&mut self, state: Box<T>, queue: impl FnOnce(&T) -> &SendQueue) {
        let queue = queue(&state);
        debug_assert!(queue.bytes == 0 && queue.vectors.is_empty() && queue.offset == 0);
        if self.0.len() < SPARE_MAX && queue.vectors.capacity() <= SPARE_VECTORS_MAX {
            self.0.push(state);
        }
    }
}

/// The unsent bytes of one connection.
#[derive(Debug, Default)]
pub(crate) struct SendQueue {
    vectors: VecDeque<Vec<u8>>,
    /// Bytes of the first vector that are sent.
    offset: usize,
    bytes: usize,
}

impl SendQueue {
    pub(crate) fn push(&mut self, vector: Vec<u8>) {
        debug_assert!(!vector.is_empty());
        self.bytes += vector.len();
        self.vectors.push_back(vector);
    }

    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// What is unsent, in order.
    pub(crate) fn slices(&self) -> impl Iterator<Item = &[u8]> {
        let offset = self.offset;
        self.vectors.iter().enumerate().map(move |(at, vector)| {
            if at == 0 {
                &vector[offset..]
            } else {
                &vector[..]
            }
        })
    }

    /// Notes that the kernel took `count` bytes.
    pub(crate) fn advance(&mut self, count: usize, reclaimed: &mut Reclaimed) {
        self.bytes -= count;
        self.offset += count;
        while let Some(first) = self.vectors.front() {
            if self.offset < first.len() {
                break;
            }
            self.offset -= first.len();
            if let Some(vector) = self.vectors.pop_front() {
                reclaimed.put(vector);
            }
        }
    }

    /// Takes up to about `bytes_max` bytes out as one vector and the offset where the unsent part begins. The vectors that
    /// follow the first are appended to it.
    pub(crate) fn gather(
        &mut self,
        bytes_max: usize,
        reclaimed: &mut Reclaimed,
    ) -> Option<(Vec<u8>, usize)> {
        let mut first = self.vectors.pop_front()?;
        let offset = std::mem::take(&mut self.offset);
        while let Some(next) = self.vectors.front() {
            if first.len() + next.len() > bytes_max {
                break;
            }
            first.extend_from_slice(next);
            if let Some(next) = self.vectors.pop_front() {
                reclaimed.put(next);
            }
        }
        self.bytes -= first.len() - offset;
        Some((first, offset))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sending_state_is_used_again_unless_it_grew_large() {
        let mut spare = Spare::<SendQueue>::default();
        let mut reclaimed = Reclaimed::default();
        let mut queue = spare.take();
        queue.push(vec![1; 10]);
        queue.advance(10, &mut reclaimed);
        let kept: *const SendQueue = &raw const *queue;
        spare.put(queue, |queue| queue);
        let mut queue = spare.take();
        assert_eq!(&raw const *queue, kept);
        for _ in 0..=SPARE_VECTORS_MAX {
            queue.push(vec![1; 10]);
        }
        queue.advance(10 * (SPARE_VECTORS_MAX + 1), &mut reclaimed);
        spare.put(queue, |queue| queue);
        assert!(spare.0.is_empty());
    }
}
