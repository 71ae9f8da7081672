//! What a link has to send: encoded frames in a ring, from the oldest that is not acknowledged on, and lossy ones behind it.

use std::collections::VecDeque;

use super::{LinkError, Message, Unsent};
use crate::frame::{BODY_BYTES_MAX, HEADER_BYTES, Header, Kind};

/// How long memory is kept that was needed for a burst, in milliseconds.
const KEPT_MS: u64 = 1_000;
/// Memory that is always kept once it was needed.
const KEPT_BYTES: usize = 16 << 10;

/// Messages on their way.
///
/// ```text
///  frames:  acknowledged ║ written before ┊ written now ┊ waiting      lossy: waiting, without a number
///                        ╙─ what `lengths` counts ──────────────╜
/// ```
#[derive(Debug)]
pub(super) struct Outgoing {
    version: u16,
    /// Frames that have a number, whole and one behind the other.
    frames: VecDeque<u8>,
    /// The length of each.
    lengths: VecDeque<u32>,
    /// How many of them are written to this connection.
    written: usize,
    /// Their bytes.
    written_bytes: usize,
    /// The last message that the peer has: `frames` begins with the next.
    acknowledged: u64,
    /// The last message that was written to any connection.
    sent: u64,
    /// Lossy frames; they get their number when they are written.
    lossy: VecDeque<u8>,
    /// The length of each.
    lossy_lengths: VecDeque<u32>,
    credit_bytes: u64,
    /// The most that was queued since memory was given back last.
    most_bytes: usize,
    give_back_ms: u64,
}

/// Messages that were written.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Written {
    pub(super) new: u64,
    pub(super) again: u64,
}

impl Outgoing {
    pub(super) fn new(version: u16, credit_bytes: u32) -> Self {
        Self {
            version,
            frames: VecDeque::new(),
            lengths: VecDeque::new(),
            written: 0,
            written_bytes: 0,
            acknowledged: 0,
            sent: 0,
            lossy: VecDeque::new(),
            lossy_lengths: VecDeque::new(),
            credit_bytes: credit_bytes.into(),
            most_bytes: 0,
            give_back_ms: 0,
        }
    }

    pub(super) fn queued_bytes(&self) -> u64 {
        (self.frames.len() + self.lossy.len()) as u64
    }

    pub(super) fn held_bytes(&self) -> usize {
        let lengths = self.lengths.capacity() + self.lossy_lengths.capacity();
        self.frames.capacity() + self.lossy.capacity() + lengths * size_of::<u32>()
    }

    /// A message may begin as long as there is any credit. So one that is longer than all of the credit can be sent too.
    pub(super) fn has_room(&self) -> bool {
        self.queued_bytes() < self.credit_bytes
    }

    pub(super) fn has_output(&self) -> bool {
        self.written < self.lengths.len() || !self.lossy_lengths.is_empty()
    }

    pub(super) fn push(&mut self, message: &Message<'_>) -> Result<(), Unsent> {
        if message.body.len() > BODY_BYTES_MAX as usize {
            return Err(Unsent::TooLong);
        }
        let bytes = HEADER_BYTES + message.body.len();
        let sequence = self.acknowledged + self.lengths.len() as u64 + 1;
        let header = Header {
            kind: Kind::Message,
            lossy: message.lossy,
            retry: message.retry,
            version: self.version,
            from_core: message.from_core,
            to_core: message.to_core,
            epoch: message.epoch,
            sequence,
        };
        let (frames, lengths) = if message.lossy {
            if self.queued_bytes() + bytes as u64 > self.credit_bytes / 2 {
                return Err(Unsent::Dropped);
            }
            (&mut self.lossy, &mut self.lossy_lengths)
        } else {
            if !self.has_room() {
                return Err(Unsent::NoRoom);
            }
            (&mut self.frames, &mut self.lengths)
        };
        frames.extend(&header.encode(message.body.len()));
        frames.extend(message.body);
        lengths.push_back(bytes as u32);
        self.most_bytes = self.most_bytes.max(self.frames.len() + self.lossy.len());
        Ok(())
    }

    /// The peer has everything up to `sequence`. True when that is more than it had.
    pub(super) fn acknowledged(
        &mut self,
        sequence: u64,
        credit_bytes: u32,
    ) -> Result<bool, LinkError> {
        let last = self.acknowledged + self.written as u64;
        let moved = self.release(sequence, last)?;
        self.credit_bytes = credit_bytes.into();
        Ok(moved)
    }

    /// A new connection: what the peer does not have is written again.
    pub(super) fn resume(&mut self, received: u64, credit_bytes: u32) -> Result<(), LinkError> {
        (self.written, self.written_bytes) = (0, 0);
        self.release(received, self.sent)?;
        self.credit_bytes = credit_bytes.into();
        Ok(())
    }

    /// Forgets messages up to `sequence`, which is at most `last`. True when there were any.
    fn release(&mut self, sequence: u64, last: u64) -> Result<bool, LinkError> {
        if sequence < self.acknowledged || sequence > last {
            let got = sequence;
            return Err(LinkError::Acknowledged { got, last });
        }
        let count = (sequence - self.acknowledged) as usize;
        let bytes: usize = self
            .lengths
            .drain(..count)
            .map(|length| length as usize)
            .sum();
        self.frames.drain(..bytes);
        self.acknowledged = sequence;
        self.written = self.written.saturating_sub(count);
        self.written_bytes = self.written_bytes.saturating_sub(bytes);
        Ok(count > 0)
    }

    /// Appends messages up to about `bytes_max`, or one.
    pub(super) fn write(&mut self, bytes_max: usize, out: &mut Vec<u8>) -> Written {
        let first = self.acknowledged + self.written as u64 + 1;
        // Lossy ones get their place when it is sure that they are written now: what may not be lost is before them.
        let mut waiting = self.frames.len() - self.written_bytes;
        while let Some(&length) = self.lossy_lengths.front()
            && (waiting == 0 || waiting + length as usize <= bytes_max)
        {
            self.number_lossy(length);
            waiting += length as usize;
        }
        self.write_numbered(bytes_max, out);
        let last = self.acknowledged + self.written as u64;
        let again = (self.sent.min(last) + 1).saturating_sub(first);
        self.sent = self.sent.max(last);
        Written {
            new: last + 1 - first - again,
            again,
        }
    }

    /// Appends frames that have a number, up to `bytes_max`, or one.
    fn write_numbered(&mut self, bytes_max: usize, out: &mut Vec<u8>) {
        let (mut count, mut bytes) = (0, 0);
        for &length in self.lengths.range(self.written..) {
            if count > 0 && bytes + length as usize > bytes_max {
                break;
            }
            count += 1;
            bytes += length as usize;
        }
        let end = self.written_bytes + bytes;
        let (head, tail) = slices(&self.frames, self.written_bytes, end);
        out.extend_from_slice(head);
        out.extend_from_slice(tail);
        self.written += count;
        self.written_bytes += bytes;
    }

    /// Moves the first lossy frame, of this length, behind the others.
    fn number_lossy(&mut self, length: u32) {
        let sequence = self.acknowledged + self.lengths.len() as u64 + 1;
        let mut header = [0; HEADER_BYTES];
        let (head, tail) = slices(&self.lossy, 0, HEADER_BYTES);
        header[..head.len()].copy_from_slice(head);
        header[head.len()..].copy_from_slice(tail);
        crate::frame::renumber(&mut header, sequence);
        self.frames.extend(&header);
        let (head, tail) = slices(&self.lossy, HEADER_BYTES, length as usize);
        self.frames.extend(head);
        self.frames.extend(tail);
        self.lossy.drain(..length as usize);
        self.lengths.push_back(length);
        self.lossy_lengths.pop_front();
    }

    /// Gives memory back that nothing has needed for a while.
    pub(super) fn give_back(&mut self, now_ms: u64) {
        if now_ms < self.give_back_ms {
            return;
        }
        self.give_back_ms = now_ms + KEPT_MS;
        let kept = self.most_bytes.max(KEPT_BYTES);
        self.most_bytes = self.frames.len() + self.lossy.len();
        if self.frames.capacity() > 2 * kept {
            self.frames.shrink_to(kept);
            self.lengths.shrink_to(KEPT_BYTES / size_of::<u32>());
        }
        if self.lossy.capacity() > 2 * kept {
            self.lossy.shrink_to(kept);
            self.lossy_lengths.shrink_to(KEPT_BYTES / size_of::<u32>());
        }
    }
}

/// A part of a ring, which may lie in two pieces.
fn slices(ring: &VecDeque<u8>, start: usize, end: usize) -> (&[u8], &[u8]) {
    let (head, tail) = ring.as_slices();
    let split = head.len();
    (
        &head[start.min(split)..end.min(split)],
        &tail[start.saturating_sub(split)..end.saturating_sub(split)],
    )
}
