//! Datagram sockets of the io_uring driver.
//!
//! ```text
//! Open ──close_datagrams──▶ Closing: the receive is cancelled, sends in flight complete ──▶ descriptor closed ──▶ gone
//! ```
//!
//! A socket has one multishot receive, which takes a buffer of a ring of its own for each batch: the kernel writes its header,
//! the peer's address and the control messages in front of the payload. Sends take a message header at a fixed place from a
//! bounded pool; what finds none waits. A datagram socket does not end with a shutdown as a stream does, so that the receive is
//! cancelled, and cancelled again should it have been between two receives when the first cancel looked for it.

mod receiving;
mod sending;

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::time::Instant;

use io_uring::opcode;
use io_uring::types::Fixed;

use super::buffer_ring::{BufferRing, DATAGRAM_GROUP};
use super::operation::{self, Kind, Origin, user_data};
use super::ring::Completion;
use super::{Key, UringDriver};
use crate::datagram::{DatagramConfig, DatagramSocket, DatagramSocketId, Transmit};
use crate::driver::{BufferRef, DriverConfig, Event};
use crate::slab::Slab;
use crate::transmit::{Outbound, SpareQueues};
use crate::udp::CONTROL_BYTES;

use receiving::{HEADROOM, NAME_BYTES};
use sending::Send;

fn empty_message() -> libc::msghdr {
    // SAFETY: msghdr is plain integers and pointers, for which all zeroes is a value.
    unsafe { std::mem::zeroed() }
}

/// Memory at a fixed place that the kernel may use, until it is released; leaked otherwise.
#[derive(Debug)]
struct Held<T>(NonNull<T>);

impl<T> Held<T> {
    fn new(value: T) -> Self {
        Self(NonNull::from(Box::leak(Box::new(value))))
    }

    /// For when the kernel is done with it.
    fn release(self) {
        // SAFETY: the pointer came from a box, `self` is its only owner, and the caller saw the operations complete.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "which operations are in flight, and in which lists it is"
)]
struct Socket {
    outbound: Outbound,
    /// Sends in flight.
    sends: u32,
    closing: bool,
    receiving: bool,
    cancelling: bool,
    /// The close of the descriptor is in flight.
    close_sent: bool,
    /// Waits for a receive buffer.
    starved: bool,
    /// Received something since its receive was started.
    fed: bool,
    /// Waits a moment, after an error.
    resting: bool,
    /// True exactly when it is in the list of sockets to drive.
    dirty: bool,
    /// True exactly when it is in the list of sockets that have something to send.
    listed: bool,
}

const _: () = assert!(size_of::<Option<Socket>>() <= 48);

#[derive(Debug)]
pub(super) struct Datagrams {
    config: DatagramConfig,
    /// First of their descriptors in the table.
    base: u32,
    sockets: Slab<Socket>,
    /// Allocated with the first socket, as is `template`.
    buffers: Option<BufferRing>,
    /// Tells the kernel how much room there is for names and control messages. Never written to.
    template: Option<Held<libc::msghdr>>,
    sends: Vec<Send>,
    /// Indices of `sends` with nothing in flight.
    free: Vec<u32>,
    sending: VecDeque<Key>,
    /// Those that found no buffer when they were started. They go before the others, each of which may take all there are.
    hungry: VecDeque<Key>,
    /// Those that found no more buffers.
    starved: VecDeque<Key>,
    resting: Vec<Key>,
    resting_until: Option<Instant>,
    dirty: Vec<Key>,
    spare: SpareQueues,
}

impl Datagrams {
    /// For sockets whose descriptors begin at `base`.
    pub(super) fn new(config: &DriverConfig, base: u32) -> Self {
        Self {
            config: config.datagrams,
            base,
            sockets: Slab::new(),
            buffers: None,
            template: None,
            sends: Vec::new(),
            free: Vec::new(),
            sending: VecDeque::new(),
            hungry: VecDeque::new(),
            starved: VecDeque::new(),
            resting: Vec::new(),
            resting_until: None,
            dirty: Vec::new(),
            spare: SpareQueues::default(),
        }
    }

    pub(super) fn sockets(&self) -> usize {
        self.sockets.len()
    }

    pub(super) const fn resting_until(&self) -> Option<Instant> {
        self.resting_until
    }

    pub(super) fn recycle_all(&mut self) {
        if let Some(buffers) = &mut self.buffers {
            buffers.recycle_all();
        }
    }

    pub(super) fn received(&mut self, buffer: BufferRef) -> &mut [u8] {
        let buffers = self.buffers.as_mut().expect("a datagram was received");
        buffers.received(buffer.switched())
    }

    pub(super) fn recycle(&mut self, buffer: BufferRef) {
        if let Some(buffers) = &mut self.buffers {
            buffers.recycle(buffer.switched());
        }
    }

    pub(super) fn unsent(&self, socket: DatagramSocketId) -> u64 {
        self.sockets
            .get(key(socket))
            .filter(|socket| !socket.closing)
            .map_or(0, |socket| socket.outbound.held())
    }

    fn mark_dirty(&mut self, key: Key) {
        if let Some(socket) = self.sockets.get_mut(key)
            && !std::mem::replace(&mut socket.dirty, true)
        {
            self.dirty.push(key);
        }
    }

    /// Gives the memory back that operations point to. The ring has none in flight.
    pub(super) fn release(&mut self) {
        for send in self.sends.drain(..) {
            send.header.release();
        }
        if let Some(template) = self.template.take() {
            template.release();
        }
    }

    /// Leaves to the kernel what operations in flight point to.
    pub(super) fn leak(&mut self) {
        std::mem::forget(std::mem::take(&mut self.sends));
        std::mem::forget(self.buffers.take());
    }
}

impl UringDriver {
    pub(super) fn adopt(&mut self, socket: &DatagramSocket) -> io::Result<DatagramSocketId> {
        if self.datagrams.buffers.is_none() {
            let config = &self.datagrams.config;
            let buffers = BufferRing::new(
                &self.ring.submitter(),
                DATAGRAM_GROUP,
                config.receive_buffers,
                config.receive_buffer_bytes,
                HEADROOM,
            )?;
            let mut template = empty_message();
            template.msg_namelen = NAME_BYTES as libc::socklen_t;
            template.msg_controllen = CONTROL_BYTES;
            self.datagrams.template = Some(Held::new(template));
            self.datagrams.buffers = Some(buffers);
        }
        let key = self.datagrams.sockets.insert(Socket {
            outbound: Outbound::new(&socket.options),
            sends: 0,
            closing: false,
            receiving: false,
            cancelling: false,
            close_sent: false,
            starved: false,
            fed: false,
            resting: false,
            dirty: false,
            listed: false,
        });
        let registered = if key.slot < self.datagrams.config.sockets_max {
            let descriptor = self.datagrams.base + key.slot;
            self.ring
                .submitter()
                .register_files_update(descriptor, &[socket.socket.as_raw_fd()])
        } else {
            Err(table_is_full())
        };
        if let Err(error) = registered {
            self.datagrams.sockets.remove(key);
            return Err(error);
        }
        self.counters.datagrams.sockets += 1;
        self.datagrams.mark_dirty(key);
        Ok(id(key))
    }

    pub(super) fn queue_transmit(&mut self, socket: DatagramSocketId, transmit: Transmit) {
        let key = key(socket);
        let datagrams = &mut self.datagrams;
        let Some(socket) = datagrams.sockets.get_mut(key).filter(|s| !s.closing) else {
            return;
        };
        socket.outbound.push(
            transmit,
            &mut datagrams.spare,
            &mut self.reclaimed,
            &mut self.counters.datagrams,
        );
        if !socket.outbound.is_empty() && !std::mem::replace(&mut socket.listed, true) {
            datagrams.sending.push_back(key);
        }
    }

    pub(super) fn end_datagrams(&mut self, socket: DatagramSocketId) {
        let key = key(socket);
        let datagrams = &mut self.datagrams;
        if let Some(socket) = datagrams.sockets.get_mut(key) {
            socket.closing = true;
            socket.outbound.clear(
                &mut datagrams.spare,
                &mut self.reclaimed,
                &mut self.counters.datagrams,
            );
            datagrams.mark_dirty(key);
        }
    }

    pub(super) fn end_all_datagrams(&mut self) {
        let sockets: Vec<_> = self.datagrams.sockets.iter().map(|(key, _)| key).collect();
        for key in sockets {
            self.end_datagrams(id(key));
        }
    }

    /// Starts everything that can be started: receives for which there is a buffer, sends for which there is a header.
    pub(super) fn drive_datagrams(&mut self) {
        if self.datagrams.buffers.is_none() {
            return;
        }
        self.feed_starved_sockets();
        let mut dirty = std::mem::take(&mut self.datagrams.dirty);
        for key in dirty.drain(..) {
            self.drive_socket(key);
        }
        self.datagrams.dirty = dirty;
        self.start_sends();
    }

    /// Those that found no buffer try again, no more than there are buffers: a multishot receive keeps what it can get.
    fn feed_starved_sockets(&mut self) {
        let buffers = self.datagrams.buffers.as_ref().map_or(0, BufferRing::count);
        for _ in 0..buffers {
            let datagrams = &mut self.datagrams;
            let Some(key) = datagrams
                .hungry
                .pop_front()
                .or_else(|| datagrams.starved.pop_front())
            else {
                return;
            };
            if let Some(socket) = self.datagrams.sockets.get_mut(key) {
                socket.starved = false;
                self.datagrams.mark_dirty(key);
            }
        }
    }

    pub(super) fn wake_resting_sockets(&mut self, now: Instant) {
        if self.datagrams.resting_until.is_none_or(|until| until > now) {
            return;
        }
        self.datagrams.resting_until = None;
        for key in std::mem::take(&mut self.datagrams.resting) {
            if let Some(socket) = self.datagrams.sockets.get_mut(key) {
                socket.resting = false;
                self.datagrams.mark_dirty(key);
            }
        }
    }

    fn drive_socket(&mut self, key: Key) {
        let base = self.datagrams.base;
        let Some(socket) = self.datagrams.sockets.get_mut(key) else {
            return;
        };
        socket.dirty = false;
        if socket.closing {
            if socket.cancelling || socket.close_sent {
                return;
            }
            if socket.receiving {
                socket.cancelling = true;
                self.push_plain(&operation::cancel_datagrams(key));
            } else if socket.sends == 0 {
                socket.close_sent = true;
                self.push_plain(&operation::close_datagrams(base, key));
            }
        } else if !socket.receiving && !socket.starved && !socket.resting {
            let Some(template) = &self.datagrams.template else {
                return;
            };
            let template = template.0;
            let entry = opcode::RecvMsgMulti::new(
                Fixed(base + key.slot),
                template.as_ptr(),
                DATAGRAM_GROUP,
            )
            .build()
            .user_data(user_data(Kind::DatagramReceive, key));
            socket.receiving = true;
            socket.fed = false;
            // SAFETY: the template is never written to, and released only when nothing is in flight.
            unsafe { self.ring.push(&entry) };
        }
    }

    pub(super) fn complete_datagrams(
        &mut self,
        origin: &Origin,
        completion: Completion,
        events: &mut Vec<Event>,
    ) {
        if origin.kind == Kind::DatagramSend {
            self.datagrams_sent(origin.slot, completion.result);
            return;
        }
        let sockets = &mut self.datagrams.sockets;
        let Some(key) = sockets.key_at(origin.slot).filter(|key| origin.is(*key)) else {
            return;
        };
        match origin.kind {
            Kind::DatagramReceive => self.datagrams_received(key, completion, events),
            Kind::DatagramClose => {
                sockets.remove(key);
                self.counters.datagrams.sockets -= 1;
            }
            _ => {
                if let Some(socket) = sockets.get_mut(key) {
                    socket.cancelling = false;
                }
                self.datagrams.mark_dirty(key);
            }
        }
    }
}

fn table_is_full() -> io::Error {
    io::Error::new(
        io::ErrorKind::QuotaExceeded,
        "the table of datagram sockets is full: raise sockets_max, or the limit of open files",
    )
}

const fn key(id: DatagramSocketId) -> Key {
    Key {
        slot: id.slot,
        generation: id.generation,
    }
}

const fn id(key: Key) -> DatagramSocketId {
    DatagramSocketId {
        slot: key.slot,
        generation: key.generation,
    }
}

#[cfg(test)]
mod tests;
