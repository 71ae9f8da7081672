//! Operations: what their completions are recognised by, and the submission entries that point to no memory of ours.

use io_uring::types::{Fd, Fixed};
use io_uring::{opcode, squeue};

use super::buffer_ring::GROUP;
use crate::slab::Key;

/// What an operation was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// The eventfd of the waker.
    Wake,
    Accept,
    Connect,
    /// One-shot: there is something to receive.
    Poll,
    /// Errors and hang-ups, for connections that do not receive.
    Watch,
    /// One receive, or many.
    Receive,
    Send,
    /// Ends sending, gracefully.
    Fin,
    /// Ends both directions, so that what is in flight completes.
    Shutdown,
    Close,
    /// Cancels a connect, or a multishot receive or watch.
    Cancel,
    /// Datagrams, many.
    DatagramReceive,
    /// Names its place in the pool of headers instead of a socket.
    DatagramSend,
    /// Cancels a receive of datagrams.
    DatagramCancel,
    DatagramClose,
}

impl Kind {
    pub(super) const fn is_of_datagrams(self) -> bool {
        matches!(
            self,
            Self::DatagramReceive | Self::DatagramSend | Self::DatagramCancel | Self::DatagramClose
        )
    }
}

const KINDS: [Kind; 15] = [
    Kind::Wake,
    Kind::Accept,
    Kind::Connect,
    Kind::Poll,
    Kind::Watch,
    Kind::Receive,
    Kind::Send,
    Kind::Fin,
    Kind::Shutdown,
    Kind::Close,
    Kind::Cancel,
    Kind::DatagramReceive,
    Kind::DatagramSend,
    Kind::DatagramCancel,
    Kind::DatagramClose,
];

const GENERATION_MASK: u32 = (1 << 24) - 1;

/// Kind, 24 bits of generation, slot.
pub(super) const fn user_data(kind: Kind, key: Key) -> u64 {
    (kind as u64) << 56 | ((key.generation & GENERATION_MASK) as u64) << 32 | key.slot as u64
}

pub(super) struct Origin {
    pub(super) kind: Kind,
    pub(super) slot: u32,
    generation: u32,
}

impl Origin {
    pub(super) fn of(user_data: u64) -> Self {
        let kind = KINDS[(user_data >> 56) as usize];
        Self {
            kind,
            slot: user_data as u32,
            generation: (user_data >> 32) as u32 & GENERATION_MASK,
        }
    }

    pub(super) const fn is(&self, key: Key) -> bool {
        key.generation & GENERATION_MASK == self.generation
    }
}

pub(super) fn wake(eventfd: i32) -> squeue::Entry {
    let key = Key {
        slot: 0,
        generation: 0,
    };
    opcode::PollAdd::new(Fd(eventfd), libc::POLLIN as u32)
        .multi(true)
        .build()
        .user_data(user_data(Kind::Wake, key))
}

pub(super) fn poll(key: Key) -> squeue::Entry {
    let flags = (libc::POLLIN | libc::POLLRDHUP) as u32;
    opcode::PollAdd::new(Fixed(key.slot), flags)
        .build()
        .user_data(user_data(Kind::Poll, key))
}

/// Errors and hang-ups are always reported, hence no flags. Multishot, and so told once for each change: a one-shot poll would
/// complete again and again after the peer's FIN, which is always reported too.
pub(super) fn watch(key: Key) -> squeue::Entry {
    opcode::PollAdd::new(Fixed(key.slot), 0)
        .multi(true)
        .build()
        .user_data(user_data(Kind::Watch, key))
}

pub(super) fn receive(key: Key) -> squeue::Entry {
    opcode::Recv::new(Fixed(key.slot), std::ptr::null_mut(), 0)
        .flags(libc::MSG_DONTWAIT)
        .buf_group(GROUP)
        .build()
        .flags(squeue::Flags::BUFFER_SELECT)
        .user_data(user_data(Kind::Receive, key))
}

pub(super) fn receive_many(key: Key) -> squeue::Entry {
    opcode::RecvMulti::new(Fixed(key.slot), GROUP)
        .build()
        .user_data(user_data(Kind::Receive, key))
}

pub(super) fn cancel_watch(key: Key) -> squeue::Entry {
    opcode::AsyncCancel::new(user_data(Kind::Watch, key))
        .build()
        .user_data(user_data(Kind::Cancel, key))
}

pub(super) fn cancel_connect(key: Key) -> squeue::Entry {
    opcode::AsyncCancel::new(user_data(Kind::Connect, key))
        .build()
        .user_data(user_data(Kind::Cancel, key))
}

pub(super) fn cancel_receive(key: Key) -> squeue::Entry {
    opcode::AsyncCancel::new(user_data(Kind::Receive, key))
        .build()
        .user_data(user_data(Kind::Cancel, key))
}

pub(super) fn fin(key: Key) -> squeue::Entry {
    opcode::Shutdown::new(Fixed(key.slot), libc::SHUT_WR)
        .build()
        .user_data(user_data(Kind::Fin, key))
}

pub(super) fn shutdown(key: Key) -> squeue::Entry {
    opcode::Shutdown::new(Fixed(key.slot), libc::SHUT_RDWR)
        .build()
        .user_data(user_data(Kind::Shutdown, key))
}

pub(super) fn close(key: Key) -> squeue::Entry {
    opcode::Close::new(Fixed(key.slot))
        .build()
        .user_data(user_data(Kind::Close, key))
}

pub(super) fn cancel_datagrams(key: Key) -> squeue::Entry {
    opcode::AsyncCancel::new(user_data(Kind::DatagramReceive, key))
        .build()
        .user_data(user_data(Kind::DatagramCancel, key))
}

/// `base` is the first descriptor of datagram sockets.
pub(super) fn close_datagrams(base: u32, key: Key) -> squeue::Entry {
    opcode::Close::new(Fixed(base + key.slot))
        .build()
        .user_data(user_data(Kind::DatagramClose, key))
}
