//! Receive buffers of the epoll and the fake driver: one block of memory, handed out in equal parts.

use crate::driver::BufferRef;

/// `0` in [`Lent`] means that the buffer is not with the caller.
#[derive(Debug)]
pub(crate) struct Lent {
    /// Received bytes of each buffer that is with the caller, plus one.
    lengths: Vec<u32>,
    /// Buffers lent since the last poll, in order; may name a buffer that was recycled since.
    order: Vec<u16>,
}

impl Lent {
    pub(crate) fn new(buffers: u16) -> Self {
        Self {
            lengths: vec![0; usize::from(buffers)],
            order: Vec::new(),
        }
    }

    pub(crate) fn lend(&mut self, index: u16, length: u32) -> BufferRef {
        debug_assert_eq!(self.lengths[usize::from(index)], 0, "a buffer is lent once");
        self.lengths[usize::from(index)] = length + 1;
        self.order.push(index);
        BufferRef {
            index: u32::from(index),
            length,
        }
    }

    /// Whether the caller has this buffer with at least so many received bytes.
    pub(crate) fn holds(&self, buffer: BufferRef) -> bool {
        self.lengths
            .get(buffer.index as usize)
            .is_some_and(|length| *length > buffer.length)
    }

    /// Takes one buffer back; false when it was not lent.
    pub(crate) fn take(&mut self, index: u32) -> bool {
        self.lengths
            .get_mut(index as usize)
            .is_some_and(|length| std::mem::take(length) != 0)
    }

    /// Takes every lent buffer back.
    pub(crate) fn take_all(&mut self, mut back: impl FnMut(u16)) {
        for index in self.order.drain(..) {
            if std::mem::take(&mut self.lengths[usize::from(index)]) != 0 {
                back(index);
            }
        }
    }
}

#[derive(Debug)]
pub(crate) struct Buffers {
    memory: Vec<u8>,
    buffer_bytes: usize,
    free: Vec<u16>,
    lent: Lent,
}

impl Buffers {
    pub(crate) fn new(count: u16, buffer_bytes: u32) -> Self {
        let count = count.max(1);
        let buffer_bytes = buffer_bytes.max(1) as usize;
        Self {
            memory: vec![0; usize::from(count) * buffer_bytes],
            buffer_bytes,
            free: (0..count).rev().collect(),
            lent: Lent::new(count),
        }
    }

    /// A free buffer to receive into; stays free until [`Buffers::lend_last`].
    pub(crate) fn next_free(&mut self) -> Option<&mut [u8]> {
        let start = usize::from(*self.free.last()?) * self.buffer_bytes;
        Some(&mut self.memory[start..start + self.buffer_bytes])
    }

    /// Lends the buffer that `next_free` showed.
    pub(crate) fn lend_last(&mut self, length: usize) -> BufferRef {
        let index = self.free.pop().expect("next_free showed a buffer");
        self.lent.lend(
            index,
            u32::try_from(length).expect("a buffer is shorter than 4 GiB"),
        )
    }

    pub(crate) fn received(&mut self, buffer: BufferRef) -> &mut [u8] {
        assert!(
            self.lent.holds(buffer),
            "a buffer is read before the next poll and before it is recycled"
        );
        let start = buffer.index as usize * self.buffer_bytes;
        &mut self.memory[start..start + buffer.length as usize]
    }

    pub(crate) fn recycle(&mut self, buffer: BufferRef) {
        if self.lent.take(buffer.index) {
            self.free.push(buffer.index as u16);
        }
    }

    pub(crate) fn recycle_all(&mut self) {
        let free = &mut self.free;
        self.lent.take_all(|index| free.push(index));
    }
}
