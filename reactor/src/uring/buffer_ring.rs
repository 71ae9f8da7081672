//! The provided-buffer ring: receive buffers that the kernel takes from when there is something to receive.

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::Submitter;
use io_uring::types::BufRingEntry;

use crate::buffers::Lent;
use crate::driver::BufferRef;

/// The buffer group of connections.
pub(super) const GROUP: u16 = 0;
/// The buffer group of datagram sockets.
pub(super) const DATAGRAM_GROUP: u16 = 1;
/// Each buffer begins on a page, so that what is short touches as few as it can.
const PAGE_BYTES: usize = 4096;

/// Anonymous memory, page-aligned and touched only when used.
#[derive(Debug)]
struct Mapping {
    start: NonNull<u8>,
    bytes: usize,
}

impl Mapping {
    fn new(bytes: usize) -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches no memory of ours.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or_else(io::Error::last_os_error)?;
        Ok(Self { start, bytes })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping was made with these numbers, and its owner has seen to it that nobody uses it any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}

#[derive(Debug)]
pub(super) struct BufferRing {
    entries: Mapping,
    memory: Mapping,
    count: u16,
    /// What the kernel may write into one.
    buffer_bytes: usize,
    /// From the start of one buffer to the start of the next.
    stride_bytes: usize,
    /// Bytes of a buffer before those that are lent, which tell about them.
    headroom: usize,
    /// Entries provided so far, modulo 2^16.
    tail: u16,
    lent: Lent,
}

impl BufferRing {
    /// Makes the buffers and gives all of them to the kernel.
    pub(super) fn new(
        submitter: &Submitter<'_>,
        group: u16,
        count: u16,
        lent_bytes: u32,
        headroom: usize,
    ) -> io::Result<Self> {
        let count = count.clamp(1, 1 << 15).next_power_of_two();
        let buffer_bytes = headroom + lent_bytes.max(1) as usize;
        let stride_bytes = if headroom > 0 {
            buffer_bytes.next_multiple_of(PAGE_BYTES)
        } else {
            buffer_bytes
        };
        let entries = Mapping::new(usize::from(count) * size_of::<BufRingEntry>())?;
        let memory = Mapping::new(usize::from(count) * stride_bytes)?;
        // SAFETY: `entries` is page-aligned memory for `count` entries; it lives as long as the driver, which unmaps it
        // only after the ring has no operation in flight and is closed, or leaks it.
        unsafe {
            let start = entries.start.as_ptr() as u64;
            submitter.register_buf_ring_with_flags(start, count, group, 0)?;
        }
        let mut buffers = Self {
            entries,
            memory,
            count,
            buffer_bytes,
            stride_bytes,
            headroom,
            tail: 0,
            lent: Lent::new(count),
        };
        for index in 0..count {
            buffers.provide(index);
        }
        buffers.publish();
        Ok(buffers)
    }

    pub(super) fn count(&self) -> usize {
        usize::from(self.count)
    }

    /// Notes that the kernel filled a buffer, and lends it to the caller.
    pub(super) fn lend(&mut self, index: u16, length: u32) -> BufferRef {
        assert!(
            index < self.count && self.headroom + length as usize <= self.buffer_bytes,
            "the kernel keeps to the ring"
        );
        self.lent.lend(index, length)
    }

    pub(super) fn received(&mut self, buffer: BufferRef) -> &mut [u8] {
        assert!(
            self.lent.holds(buffer),
            "a buffer is read before the next poll and before it is recycled"
        );
        let start = buffer.index as usize * self.stride_bytes + self.headroom;
        // SAFETY: the buffer is lent, so that the kernel has completed its receive and does not have it in the ring; the
        // range is within `memory` since `lend` checked index and length; `&mut self` makes the slice the only one.
        unsafe {
            std::slice::from_raw_parts_mut(
                self.memory.start.as_ptr().add(start),
                buffer.length as usize,
            )
        }
    }

    /// All that the kernel wrote into a buffer, headroom included, before it is lent or given back.
    pub(super) fn filled(&self, index: u16, length: usize) -> &[u8] {
        assert!(
            index < self.count && length <= self.buffer_bytes,
            "the kernel keeps to the ring"
        );
        let start = usize::from(index) * self.stride_bytes;
        // SAFETY: the kernel has completed its receive into this buffer and does not have it in the ring; the range is within
        // `memory`, and `&self` keeps it from being provided again.
        unsafe { std::slice::from_raw_parts(self.memory.start.as_ptr().add(start), length) }
    }

    /// Takes one lent buffer back.
    pub(super) fn recycle(&mut self, buffer: BufferRef) {
        if self.lent.take(buffer.index) {
            self.give_back(buffer.index as u16);
        }
    }

    /// Takes every lent buffer back.
    pub(super) fn recycle_all(&mut self) {
        let mut lent = std::mem::replace(&mut self.lent, Lent::new(0));
        lent.take_all(|index| self.provide(index));
        self.lent = lent;
        self.publish();
    }

    /// Returns a buffer that the kernel filled and nobody wants.
    pub(super) fn give_back(&mut self, index: u16) {
        assert!(index < self.count, "the kernel keeps to the ring");
        self.provide(index);
        self.publish();
    }

    fn provide(&mut self, index: u16) {
        let place = usize::from(self.tail & (self.count - 1));
        let entries: NonNull<BufRingEntry> = self.entries.start.cast();
        // SAFETY: `place` is below `count`, for which there is room. The kernel reads only entries before the published
        // tail, and there are no more buffers than entries, so that it has taken the one that was here before. The field
        // that overlays the tail (`resv` of entry 0) is not written by the setters.
        let entry = unsafe { entries.add(place).as_mut() };
        // SAFETY: `index` is below `count`, so that the buffer is within `memory`.
        let address = unsafe {
            self.memory
                .start
                .as_ptr()
                .add(usize::from(index) * self.stride_bytes)
        };
        entry.set_addr(address as u64);
        entry.set_len(self.buffer_bytes as u32);
        entry.set_bid(index);
        self.tail = self.tail.wrapping_add(1);
    }

    fn publish(&mut self) {
        // SAFETY: the start of `entries` is the first entry of a registered buffer ring, zeroed by mmap at first.
        let tail = unsafe { BufRingEntry::tail(self.entries.start.as_ptr().cast()) };
        // SAFETY: the tail is an aligned u16 within `entries`; the kernel only reads it, and we only write it here.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }
}
