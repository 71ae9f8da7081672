//! Batches that arrive: what the kernel wrote in front of them, and what it says when there are none.

use std::time::Duration;

use io_uring::cqueue;

use super::{Key, id};
use crate::datagram::{DatagramCounters, DatagramSocketId};
use crate::driver::{BufferRef, Event};
use crate::udp::{self, Ancillary, CONTROL_BYTES};
use crate::uring::ring::Completion;
use crate::uring::{UringDriver, now};

/// `struct io_uring_recvmsg_out`: length of name, control and payload, and flags.
const OUT_BYTES: usize = 16;
/// Room for a peer's address, so that what follows it is aligned.
pub(super) const NAME_BYTES: usize = 32;
/// Bytes of a receive buffer before the payload.
pub(super) const HEADROOM: usize = OUT_BYTES + NAME_BYTES + CONTROL_BYTES;
/// How long a socket rests after a receive that failed for a reason that may still be there.
const REST: Duration = Duration::from_millis(10);

impl UringDriver {
    pub(super) fn datagrams_received(
        &mut self,
        key: Key,
        completion: Completion,
        events: &mut Vec<Event>,
    ) {
        let datagrams = &mut self.datagrams;
        let Some(socket) = datagrams.sockets.get_mut(key) else {
            return;
        };
        let counters = &mut self.counters.datagrams;
        if let Some(index) = cqueue::buffer_select(completion.flags)
            && let Some(buffers) = &mut datagrams.buffers
        {
            let event = usize::try_from(completion.result)
                .ok()
                .filter(|_| !socket.closing)
                .and_then(|length| {
                    arrived(id(key), index, buffers.filled(index, length), counters)
                });
            match event {
                Some((event, length)) => {
                    socket.fed = true;
                    buffers.lend(index, length);
                    events.push(event);
                }
                None => buffers.give_back(index),
            }
        }
        if completion.more() {
            return;
        }
        socket.receiving = false;
        match -completion.result {
            libc::ENOBUFS => {
                counters.receive_buffers_exhausted += 1;
                socket.starved = true;
                if socket.fed {
                    datagrams.starved.push_back(key);
                } else {
                    datagrams.hungry.push_back(key);
                }
            }
            libc::ECONNREFUSED => counters.refused += 1,
            error
                if error > 0 && !matches!(error, libc::ECANCELED | libc::EINTR | libc::EAGAIN) =>
            {
                counters.receive_errors += 1;
                socket.resting = true;
                datagrams.resting.push(key);
                datagrams.resting_until.get_or_insert_with(|| now() + REST);
            }
            _ => {}
        }
        // One that waits is driven in its turn.
        if socket.closing || !(socket.starved || socket.resting) {
            datagrams.mark_dirty(key);
        }
    }
}

/// The event of what is in a buffer, and the length of the payload; `None`, counted, for what is not whole.
fn arrived(
    socket: DatagramSocketId,
    index: u16,
    filled: &[u8],
    counters: &mut DatagramCounters,
) -> Option<(Event, u32)> {
    let word = |at: usize| {
        let four = filled.get(at..at + 4).and_then(|four| four.try_into().ok());
        u32::from_ne_bytes(four.unwrap_or_default())
    };
    let (control_bytes, length, flags) = (word(4) as usize, word(8), word(12) as i32);
    if flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0 || filled.len() < HEADROOM {
        counters.truncated += 1;
        return None;
    }
    let remote = udp::address_of(&filled[OUT_BYTES..OUT_BYTES + NAME_BYTES])?;
    let control = &filled[OUT_BYTES + NAME_BYTES..HEADROOM];
    let told = Ancillary::of(&control[..control_bytes.min(CONTROL_BYTES)]);
    if length == 0 {
        return None;
    }
    let stride = told.count(length as usize, counters);
    let buffer = BufferRef {
        index: u32::from(index),
        length,
    };
    let event = Event::Datagrams {
        socket,
        buffer: buffer.switched(),
        remote,
        local: told.local,
        ecn: told.ecn,
        stride,
    };
    Some((event, length))
}
