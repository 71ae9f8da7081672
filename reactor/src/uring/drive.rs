//! From state to operations: what a connection needs from the kernel next.

use std::net::SocketAddr;
use std::os::fd::AsRawFd;

use io_uring::types::{DestinationSlot, Fd, Fixed};
use io_uring::{opcode, squeue};

use super::operation::{self, Kind, user_data};
use super::{Connection, HeldAddress, Key, Pending, State, UringDriver};
use crate::socket::RawAddress;

/// Vectors that wait are appended to the first up to so many bytes, and go out with one operation.
const GATHER_BYTES_MAX: usize = 64 * 1024;

impl UringDriver {
    pub(super) fn drive_dirty(&mut self) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for key in dirty.drain(..) {
            self.drive(key);
        }
        // Driving a connection can make it dirty again (it ended); that is for the next enter.
        dirty.append(&mut self.dirty);
        for key in dirty.drain(..) {
            self.drive(key);
        }
        dirty.append(&mut self.dirty);
        self.dirty = dirty;
    }

    fn drive(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        connection.dirty = false;
        match connection.state {
            State::Accepting | State::Connecting | State::Closing => {}
            State::Ending => self.drive_ending(key),
            State::Open | State::Flushing | State::Lingering => {
                self.drive_sending(key);
                self.drive_closing(key);
                self.drive_receiving(key);
            }
        }
    }

    fn drive_sending(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        if connection.pending.has(Pending::SEND) || connection.send_broken {
            return;
        }
        let Some(sending) = connection.sending.as_mut().filter(|sending| !sending.short) else {
            return;
        };
        if sending.current.is_none() {
            sending.current = sending.queue.gather(GATHER_BYTES_MAX, &mut self.reclaimed);
        }
        let Some((vector, sent)) = &sending.current else {
            connection.sending = None;
            return;
        };
        let rest = &vector[*sent..];
        let length = u32::try_from(rest.len()).unwrap_or(u32::MAX);
        let entry = opcode::Send::new(Fixed(key.slot), rest.as_ptr(), length)
            .flags(libc::MSG_NOSIGNAL) // Not MSG_WAITALL: a send that waits long for a slow peer ends up on a kernel worker.
            .build()
            .user_data(user_data(Kind::Send, key));
        connection.pending.add(Pending::SEND);
        self.flushed.push(key);
        // SAFETY: `current` is neither changed nor dropped while SEND is pending: `drive_sending` returns above, `advance`
        // runs when the send completed, and a connection is removed only with nothing pending, or leaked.
        unsafe { self.ring.push(&entry) };
    }

    /// The steps of a graceful close.
    fn drive_closing(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        match connection.state {
            State::Flushing if connection.unsent() > 0 => {}
            // Both sides are done: closing the descriptor sends the FIN.
            State::Flushing if connection.peer_closed => self.end(key, 0),
            State::Flushing => {
                connection.state = State::Lingering;
                connection.pending.add(Pending::FIN);
                self.push_plain(&operation::fin(key));
            }
            State::Lingering if connection.peer_closed && !connection.pending.has(Pending::FIN) => {
                self.end(key, 0);
            }
            _ => {}
        }
    }

    fn drive_receiving(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        let receiving = connection.pending.has(Pending::RECEIVE);
        if !matches!(
            connection.state,
            State::Open | State::Flushing | State::Lingering
        ) || connection.starved
        {
            return;
        }
        if receiving {
            // Only a multishot receive can be in the way; a single one does not wait.
            if (!connection.receives() || !connection.promoted) && !connection.cancelling {
                connection.cancelling = true;
                self.push_plain(&operation::cancel_receive(key));
            }
            return;
        }
        if !connection.receives() {
            if !connection.pending.has(Pending::WATCH) && !connection.pending.has(Pending::POLL) {
                connection.pending.add(Pending::WATCH);
                self.push_plain(&operation::watch(key));
            }
            return;
        }
        if connection.promoted || connection.readable {
            connection.readable = false;
            connection.pending.add(Pending::RECEIVE);
            let many = connection.promoted;
            connection.cancelling = !many;
            let entry = if many {
                operation::receive_many(key)
            } else {
                operation::receive(key)
            };
            self.push_plain(&entry);
        } else if !connection.pending.has(Pending::POLL) {
            connection.pending.add(Pending::POLL);
            self.push_plain(&operation::poll(key));
        }
    }

    fn drive_ending(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        if connection.pending.is_empty() {
            connection.state = State::Closing;
            self.push_plain(&operation::close(key));
        } else if !std::mem::replace(&mut connection.shutdown_sent, true) {
            connection.pending.add(Pending::SHUTDOWN);
            let watching = connection.pending.has(Pending::WATCH);
            if connection.pending.has(Pending::CONNECT) {
                // Before the shutdown, which some kernels answer with another attempt to connect, and that may never end.
                self.push_plain(&operation::cancel_connect(key));
            }
            self.push_plain(&operation::shutdown(key));
            if watching {
                self.push_plain(&operation::cancel_watch(key)); // Unlike a poll, it does not end with the socket.
            }
        }
    }

    /// Ends a connection; the first error is the one that is told.
    pub(super) fn end(&mut self, key: Key, error: i32) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        if matches!(
            connection.state,
            State::Ending | State::Closing | State::Accepting
        ) {
            return;
        }
        connection.state = State::Ending;
        if connection.error == 0 {
            connection.error = error;
        }
        self.mark_dirty(key);
    }

    /// Connections that found no buffer try again, as buffers came back: the longest waiting first, ahead of everybody
    /// who has not waited, and no more than there are buffers.
    pub(super) fn feed_starved(&mut self) {
        let mut left = self.buffers().count();
        while left > 0
            && let Some(key) = self.starved.pop_front()
        {
            if let Some(connection) = self.connections.get_mut(key) {
                connection.starved = false;
                connection.readable = true;
                // One that does not receive now takes no buffer, and must not keep the others waiting.
                left -= usize::from(connection.receives());
                self.drive(key);
            }
        }
    }

    /// Keeps the outstanding accepts of every listener up.
    pub(super) fn arm_accepts(&mut self) {
        for index in 0..self.listeners.len() {
            while self.connections.len() < self.descriptors as usize {
                let listener = &mut self.listeners[index];
                let Some(socket) = &listener.socket else {
                    break;
                };
                let waits = listener.stopped || listener.paused_until.is_some();
                if waits || listener.outstanding >= self.accepts_max {
                    break;
                }
                listener.outstanding += 1;
                let socket = socket.as_raw_fd();
                let key = self.connections.insert(Connection::new(State::Accepting));
                let address = HeldAddress::new(RawAddress::empty(), index as u16);
                let place = address.place.as_ptr();
                self.addresses.insert(key.slot, address);
                // SAFETY: `place` is a live box; this computes field addresses and reads nothing.
                let (storage, length) =
                    unsafe { (&raw mut (*place).storage, &raw mut (*place).length) };
                let slot = DestinationSlot::try_from_slot_target(key.slot)
                    .expect("slots are below the table's size");
                let entry = opcode::Accept::new(Fd(socket), storage.cast(), length)
                    .file_index(Some(slot))
                    .build()
                    .user_data(user_data(Kind::Accept, key));
                // SAFETY: the address stays in `addresses`, untouched, until the accept completed, or is leaked.
                unsafe { self.ring.push(&entry) };
            }
        }
    }

    pub(super) fn start_connect(&mut self, key: Key, remote: SocketAddr) {
        let address = HeldAddress::new(remote.into(), 0);
        let place = address.place.as_ptr();
        self.addresses.insert(key.slot, address);
        // SAFETY: `place` is a live box that nobody writes to.
        let (pointer, length) = unsafe { ((*place).as_ptr(), (*place).length) };
        let entry = opcode::Connect::new(Fixed(key.slot), pointer, length)
            .build()
            .user_data(user_data(Kind::Connect, key));
        if let Some(connection) = self.connections.get_mut(key) {
            connection.pending.add(Pending::CONNECT);
        }
        // SAFETY: the address stays in `addresses`, untouched, until the connect completed, or is leaked.
        unsafe { self.ring.push(&entry) };
    }

    pub(super) fn watch_waker(&mut self) {
        let entry = operation::wake(self.waker.eventfd());
        self.push_plain(&entry);
    }

    pub(super) fn push_plain(&mut self, entry: &squeue::Entry) {
        // SAFETY: entries of `operation` point to no memory; receives take theirs from the registered buffer ring.
        unsafe { self.ring.push(entry) };
    }
}
