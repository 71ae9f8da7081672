//! Datagram sockets of the epoll driver.
//!
//! An edge says that a socket is readable; it is received from until it is empty, some batches at a time. Room to send is
//! asked for only after a send found none: with each datagram that leaves the machine the kernel would tell of it otherwise.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use super::TOKEN_LISTENER;
use super::poller::Poller;
use crate::buffers::Buffers;
use crate::datagram::{
    DatagramConfig, DatagramCounters, DatagramSocket, DatagramSocketId, Transmit,
};
use crate::driver::{BufferRef, Event};
use crate::send_queue::Reclaimed;
use crate::slab::{Key, Slab};
use crate::transmit::{Outbound, Settled, SpareQueues};
use crate::udp::{self, Control};

/// Batches received from a socket before it is the others' turn.
const BATCHES_IN_A_ROW: usize = 32;

/// Set in the tokens of datagram sockets, beside that of listeners. Below it are 30 bits of generation and the slot.
const TOKEN_DATAGRAMS: u64 = 1 << 62;
const GENERATION_MASK: u32 = (1 << 30) - 1;

#[derive(Debug)]
struct Socket {
    fd: OwnedFd,
    outbound: Outbound,
    /// There may be something to receive.
    readable: bool,
    /// A send found no room, and no edge told of any since.
    blocked: bool,
    /// True exactly when the socket is in the list of those to receive from.
    ready: bool,
    /// True exactly when the socket is in the list of those to send from.
    listed: bool,
}

#[derive(Debug)]
pub(super) struct Datagrams {
    config: DatagramConfig,
    sockets: Slab<Socket>,
    /// Allocated with the first socket.
    buffers: Option<Buffers>,
    /// Sockets that may have something to receive, each at most once.
    ready: VecDeque<Key>,
    /// Sockets that have something to send, each at most once.
    sending: Vec<Key>,
    spare: SpareQueues,
}

/// What sending and receiving works with, beside the sockets.
pub(super) struct Surroundings<'a> {
    pub(super) poller: &'a Poller,
    pub(super) reclaimed: &'a mut Reclaimed,
    pub(super) counters: &'a mut DatagramCounters,
}

impl Datagrams {
    pub(super) fn new(config: DatagramConfig) -> Self {
        Self {
            config,
            sockets: Slab::new(),
            buffers: None,
            ready: VecDeque::new(),
            sending: Vec::new(),
            spare: SpareQueues::default(),
        }
    }

    /// Whether a token that is none of a connection is of a datagram socket.
    pub(super) const fn is_of(token: u64) -> bool {
        token & TOKEN_DATAGRAMS != 0
    }

    pub(super) fn is_idle(&self) -> bool {
        self.ready.is_empty() && self.sending.is_empty()
    }

    pub(super) fn adopt(
        &mut self,
        socket: DatagramSocket,
        around: &mut Surroundings<'_>,
    ) -> io::Result<DatagramSocketId> {
        if self.sockets.len() >= self.config.sockets_max as usize {
            return Err(io::Error::new(
                io::ErrorKind::QuotaExceeded,
                "the table of datagram sockets is full: raise sockets_max",
            ));
        }
        let config = &self.config;
        self.buffers.get_or_insert_with(|| {
            Buffers::new(config.receive_buffers, config.receive_buffer_bytes)
        });
        let key = self.sockets.insert(Socket {
            outbound: Outbound::new(&socket.options),
            fd: socket.socket,
            readable: false,
            blocked: false,
            ready: false,
            listed: false,
        });
        if let Err(error) = self.watch(key, libc::EPOLL_CTL_ADD, around) {
            self.sockets.remove(key);
            return Err(error);
        }
        around.counters.sockets += 1;
        Ok(id(key))
    }

    /// Tells epoll what to tell of a socket.
    fn watch(&self, key: Key, operation: i32, around: &Surroundings<'_>) -> io::Result<()> {
        let Some(socket) = self.sockets.get(key) else {
            return Ok(());
        };
        let generation = u64::from(key.generation & GENERATION_MASK);
        let token = TOKEN_LISTENER | TOKEN_DATAGRAMS | generation << 32 | u64::from(key.slot);
        let room = if socket.blocked { libc::EPOLLOUT } else { 0 };
        let interest = libc::EPOLLIN | libc::EPOLLET | room;
        let fd = socket.fd.as_raw_fd();
        around.poller.control(operation, fd, interest, token)
    }

    /// Takes note of an edge.
    pub(super) fn note(&mut self, flags: i32, token: u64) {
        let Some(key) = self.sockets.key_at(token as u32) else {
            return;
        };
        let generation = (token >> 32) as u32 & GENERATION_MASK;
        if let Some(socket) = self.sockets.get_mut(key)
            && key.generation & GENERATION_MASK == generation
        {
            let broken = flags & (libc::EPOLLERR | libc::EPOLLHUP) != 0;
            socket.readable |= broken || flags & libc::EPOLLIN != 0;
            if broken || flags & libc::EPOLLOUT != 0 {
                socket.blocked = false;
            }
            self.list(key);
        }
    }

    /// Puts a socket into the lists of those that have something to do.
    fn list(&mut self, key: Key) {
        let Some(socket) = self.sockets.get_mut(key) else {
            return;
        };
        if socket.readable && !std::mem::replace(&mut socket.ready, true) {
            self.ready.push_back(key);
        }
        let sends = !socket.blocked && !socket.outbound.is_empty();
        if sends && !std::mem::replace(&mut socket.listed, true) {
            self.sending.push(key);
        }
    }

    pub(super) fn queue(
        &mut self,
        socket: DatagramSocketId,
        transmit: Transmit,
        around: &mut Surroundings<'_>,
    ) {
        let key = key(socket);
        if let Some(socket) = self.sockets.get_mut(key) {
            socket
                .outbound
                .push(transmit, &mut self.spare, around.reclaimed, around.counters);
            self.list(key);
        }
    }

    pub(super) fn unsent(&self, socket: DatagramSocketId) -> u64 {
        self.sockets
            .get(key(socket))
            .map_or(0, |socket| socket.outbound.held())
    }

    pub(super) fn close(&mut self, socket: DatagramSocketId, around: &mut Surroundings<'_>) {
        if let Some(mut socket) = self.sockets.remove(key(socket)) {
            socket
                .outbound
                .clear(&mut self.spare, around.reclaimed, around.counters);
            around.counters.sockets -= 1;
        }
    }

    /// Sends what waits and receives what is there, each socket in turn.
    pub(super) fn work(
        &mut self,
        limit: usize,
        events: &mut Vec<Event>,
        around: &mut Surroundings<'_>,
    ) {
        let mut sending = std::mem::take(&mut self.sending);
        for key in sending.drain(..) {
            self.send(key, around);
        }
        self.sending = sending;
        for _ in 0..self.ready.len() {
            // Whoever's turn it is keeps it until there is room for the event.
            if events.len() >= limit {
                return;
            }
            if self
                .buffers
                .as_mut()
                .is_none_or(|buffers| buffers.next_free().is_none())
            {
                around.counters.receive_buffers_exhausted += 1;
                return;
            }
            if let Some(key) = self.ready.pop_front() {
                self.receive(key, limit, events, around);
                self.list(key);
            }
        }
    }

    fn send(&mut self, key: Key, around: &mut Surroundings<'_>) {
        let Some(socket) = self.sockets.get_mut(key) else {
            return;
        };
        socket.listed = false;
        let outbound = &mut socket.outbound;
        let mut control = Control::new();
        while let Some(mut outgoing) = outbound.pop(&mut self.spare) {
            let to = Some(outgoing.transmit.to).filter(|_| !outbound.connected);
            let settled = loop {
                let segment = outgoing.choose(outbound.segmentation);
                control.fill(&outgoing.transmit, segment);
                let bytes = outgoing.chosen();
                let result = udp::send(socket.fd.as_raw_fd(), to, bytes, &control)
                    .map_err(|error| error.raw_os_error().unwrap_or(libc::EIO));
                if result == Err(libc::EAGAIN) {
                    break false;
                }
                match outgoing.settle(result, &mut outbound.segmentation, around.counters) {
                    Settled::Again => {}
                    Settled::Done => break true,
                }
            };
            if !settled {
                outbound.put_back(outgoing, &mut self.spare);
                socket.blocked = true;
                // It fails only when the descriptor is not registered, and it is.
                let _ = self.watch(key, libc::EPOLL_CTL_MOD, around);
                return;
            }
            outbound.finish(outgoing, around.reclaimed, around.counters);
        }
    }

    fn receive(
        &mut self,
        key: Key,
        limit: usize,
        events: &mut Vec<Event>,
        around: &mut Surroundings<'_>,
    ) {
        let Some(socket) = self.sockets.get_mut(key) else {
            return;
        };
        socket.ready = false;
        let Some(buffers) = &mut self.buffers else {
            return;
        };
        let counters = &mut *around.counters;
        for _ in 0..BATCHES_IN_A_ROW {
            if events.len() >= limit {
                return;
            }
            let Some(buffer) = buffers.next_free() else {
                counters.receive_buffers_exhausted += 1;
                return;
            };
            match udp::receive(socket.fd.as_raw_fd(), buffer) {
                Ok(arrived) if arrived.truncated => counters.truncated += 1,
                Ok(arrived) if arrived.length == 0 => {}
                Ok(arrived) => {
                    let stride = arrived.ancillary.count(arrived.length, counters);
                    events.push(Event::Datagrams {
                        socket: id(key),
                        buffer: buffers.lend_last(arrived.length).switched(),
                        remote: arrived.remote,
                        local: arrived.ancillary.local,
                        ecn: arrived.ancillary.ecn,
                        stride,
                    });
                }
                Err(error) => match error.raw_os_error() {
                    Some(libc::EAGAIN) => {
                        socket.readable = false;
                        return;
                    }
                    Some(libc::EINTR) => {}
                    Some(libc::ECONNREFUSED) => counters.refused += 1,
                    _ => {
                        // What is still there comes with the next edge.
                        counters.receive_errors += 1;
                        socket.readable = false;
                        return;
                    }
                },
            }
        }
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
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::datagram::DatagramOptions;

    /// The loopback always has room, so that the kernel's refusal is played.
    #[test]
    fn a_socket_without_room_waits_for_the_kernel_to_tell_of_some() {
        let mut poller = Poller::new(8).expect("descriptors are left");
        let (mut reclaimed, mut counters) = (Reclaimed::default(), DatagramCounters::default());
        let mut datagrams = Datagrams::new(DatagramConfig::small());
        let local = ([127, 0, 0, 1], 0).into();
        let peer = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port is free");
        let to = peer.local_addr().expect("it is bound");
        let socket = DatagramSocket::bind(local, DatagramOptions::server()).expect("a port");
        let mut around = Surroundings {
            poller: &poller,
            reclaimed: &mut reclaimed,
            counters: &mut counters,
        };
        let id = datagrams.adopt(socket, &mut around).expect("there is room");
        let transmit = Transmit {
            to,
            from: None,
            ecn: None,
            segment: None,
            bytes: b"at last".to_vec(),
        };
        datagrams.queue(id, transmit.clone(), &mut around);
        let socket = datagrams.sockets.get_mut(key(id)).expect("it is open");
        socket.blocked = true;
        let watched = datagrams.watch(key(id), libc::EPOLL_CTL_MOD, &around);
        watched.expect("it is registered");
        datagrams.sending.clear();
        datagrams
            .sockets
            .get_mut(key(id))
            .expect("it is open")
            .listed = false;
        datagrams.queue(id, transmit, &mut around);
        assert!(datagrams.is_idle(), "it is not tried again and again");
        let told = poller.wait(Some(Duration::from_secs(10)));
        assert_eq!(told.expect("it is usable"), 1);
        let (flags, token) = poller.event(0);
        assert!(Datagrams::is_of(token));
        datagrams.note(flags, token);
        let mut around = Surroundings {
            poller: &poller,
            reclaimed: &mut reclaimed,
            counters: &mut counters,
        };
        datagrams.work(8, &mut Vec::new(), &mut around);
        let mut bytes = [0; 10];
        for _ in 0..2 {
            let length = peer.recv(&mut bytes).expect("it was sent");
            assert_eq!(&bytes[..length], b"at last");
        }
        assert_eq!((counters.sent, datagrams.unsent(id)), (2, 0));
    }
}
