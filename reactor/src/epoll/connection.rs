//! One connection of the epoll driver, and what it does with an edge.
//!
//! ```text
//! Connecting ──▶ Open ──close(Graceful)──▶ Closing ──flushed──▶ Closing, FIN sent ──peer's FIN──▶ gone
//!     │           │ └──close(Abort)──▶ Aborted ─────────────────────────────────────────────────▶ gone
//!     └─ Failed ──┴─ an error ──────────────────────────────────────────────────────────────────▶ gone
//! ```

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, OwnedFd};

use crate::buffers::Buffers;
use crate::driver::{ConnectionId, DriverCounters, Event};
use crate::send_queue::{Reclaimed, SHORTAGES_MAX, SendQueue, Spare, is_shortage};
use crate::socket;

/// Vectors given to one sendmsg.
const SLICES_MAX: usize = 64;

#[derive(Clone, Copy, Debug)]
pub(super) enum State {
    Connecting,
    Open,
    /// What is queued is sent, then FIN; what arrives is thrown away.
    Closing {
        fin_sent: bool,
    },
    Aborted,
    /// With the error number.
    Failed(i32),
}

#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "the edges that epoll told and that were not used up yet"
)]
pub(super) struct Connection {
    pub(super) socket: OwnedFd,
    pub(super) state: State,
    /// True exactly when the connection is in the driver's ready queue.
    pub(super) queued: bool,
    pub(super) paused: bool,
    /// There may be something to receive.
    readable: bool,
    /// There may be room to send.
    writable: bool,
    /// The kernel told of a FIN, which may still wait behind data.
    fin_waits: bool,
    /// The kernel told of an error or hang-up.
    broken: bool,
    /// `PeerClosed` was reported.
    peer_closed: bool,
    /// `unsent` was above zero at the end of a flush.
    owes_drained: bool,
    /// True exactly when the connection is in the driver's list of those that wait for kernel memory.
    pub(super) short: bool,
    /// Sends in a row that the kernel had no memory for.
    shortages: u8,
    queue: Option<Box<SendQueue>>,
}

const _: () = assert!(size_of::<Option<Connection>>() <= 32);

/// What a step works with.
pub(super) struct Step<'a> {
    pub(super) id: ConnectionId,
    pub(super) buffers: &'a mut Buffers,
    pub(super) reclaimed: &'a mut Reclaimed,
    pub(super) spare: &'a mut Spare<SendQueue>,
    pub(super) counters: &'a mut DriverCounters,
    pub(super) events: &'a mut Vec<Event>,
    /// Where a connection goes whose send the kernel had no memory for.
    pub(super) short: &'a mut Vec<ConnectionId>,
}

pub(super) enum Outcome {
    /// Nothing to do until an edge or a call.
    Keep,
    /// There is more to do.
    Again,
    Gone(Option<io::Error>),
}

impl Connection {
    pub(super) const fn new(socket: OwnedFd, state: State) -> Self {
        Self {
            socket,
            state,
            queued: false,
            paused: false,
            readable: false,
            writable: false,
            fin_waits: false,
            broken: false,
            peer_closed: false,
            owes_drained: false,
            short: false,
            shortages: 0,
            queue: None,
        }
    }

    /// Takes note of the flags of an edge.
    pub(super) const fn note(&mut self, flags: i32) {
        let broken = flags & (libc::EPOLLERR | libc::EPOLLHUP) != 0;
        self.readable |= broken || flags & (libc::EPOLLIN | libc::EPOLLRDHUP) != 0;
        self.writable |= broken || flags & libc::EPOLLOUT != 0;
        self.fin_waits |= broken || flags & libc::EPOLLRDHUP != 0;
        self.broken |= broken;
    }

    pub(super) fn push(&mut self, bytes: Vec<u8>, spare: &mut Spare<SendQueue>) {
        self.queue.get_or_insert_with(|| spare.take()).push(bytes);
    }

    pub(super) fn unsent(&self) -> usize {
        self.queue.as_ref().map_or(0, |queue| queue.bytes())
    }

    /// Does what can be done now: at most one event.
    pub(super) fn step(&mut self, step: &mut Step<'_>) -> Outcome {
        match self.state {
            State::Aborted => return Outcome::Gone(None),
            State::Failed(code) => return Outcome::Gone(Some(io::Error::from_raw_os_error(code))),
            State::Connecting if !self.writable => return Outcome::Keep,
            State::Connecting => {
                if let Some(error) = socket::pending_error(self.socket.as_raw_fd()) {
                    return Outcome::Gone(Some(error));
                }
                self.state = State::Open;
                step.events.push(Event::Connected {
                    connection: step.id,
                });
                return Outcome::Again;
            }
            State::Open | State::Closing { .. } => {}
        }
        if let Err(error) = self.flush(step) {
            // A reset shows up in whichever direction is used first; what was received before it is told first.
            let is_ours = error.raw_os_error().is_some_and(is_shortage);
            if is_ours || !self.readable || self.paused || self.peer_closed {
                return Outcome::Gone(Some(error));
            }
        }
        if let State::Closing { fin_sent } = self.state {
            return self.step_closing(fin_sent);
        }
        let receives = self.readable && !self.paused && !self.peer_closed;
        // Ahead of receiving, or a peer that never stops sending would hold it back for ever.
        if self.unsent() == 0 && std::mem::take(&mut self.owes_drained) {
            step.events.push(Event::Drained {
                connection: step.id,
            });
            return if receives || self.broken {
                Outcome::Again
            } else {
                Outcome::Keep
            };
        }
        if receives {
            return self.receive(step);
        }
        if self.broken
            && let Some(error) = socket::pending_error(self.socket.as_raw_fd())
        {
            return Outcome::Gone(Some(error));
        }
        Outcome::Keep
    }

    /// At the end of a poll that did not come to this connection: what is unsent will be told when it is sent.
    pub(super) fn end_flush(&mut self) {
        self.owes_drained |= self.unsent() > 0;
    }

    fn flush(&mut self, step: &mut Step<'_>) -> io::Result<()> {
        let Some(queue) = self.queue.as_mut().filter(|_| !self.short) else {
            return Ok(());
        };
        while queue.bytes() > 0 {
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let mut count = 0;
            for (place, slice) in slices.iter_mut().zip(queue.slices()) {
                *place = IoSlice::new(slice);
                count += 1;
            }
            match socket::send(self.socket.as_raw_fd(), &slices[..count]) {
                Ok(sent) => {
                    step.counters.bytes_sent += sent as u64;
                    step.counters.bytes_unsent -= sent as u64;
                    queue.advance(sent, step.reclaimed);
                    self.shortages = 0;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.writable = false;
                    self.owes_drained = true;
                    return Ok(());
                }
                Err(error) => return self.send_failed(error, step),
            }
        }
        if let Some(queue) = self.queue.take() {
            step.spare.put(queue, |queue| queue);
        }
        Ok(())
    }

    /// Puts a send off that the kernel had no memory for; any other error ends the connection.
    fn send_failed(&mut self, error: io::Error, step: &mut Step<'_>) -> io::Result<()> {
        if !error.raw_os_error().is_some_and(is_shortage) || self.shortages == SHORTAGES_MAX {
            return Err(error);
        }
        self.shortages += 1;
        self.short = true;
        self.owes_drained = true;
        step.counters.send_shortages += 1;
        step.short.push(step.id);
        Ok(())
    }

    fn receive(&mut self, step: &mut Step<'_>) -> Outcome {
        let Some(buffer) = step.buffers.next_free() else {
            step.counters.receive_buffers_exhausted += 1;
            return Outcome::Again;
        };
        let room = buffer.len();
        match socket::receive(self.socket.as_raw_fd(), buffer) {
            Ok(0) => {
                self.peer_closed = true;
                step.events.push(Event::PeerClosed {
                    connection: step.id,
                });
                Outcome::Again
            }
            Ok(count) => {
                // A short read emptied the socket; a FIN that waits behind it comes with no edge of its own.
                self.readable = count == room || self.fin_waits;
                step.counters.bytes_received += count as u64;
                let buffer = step.buffers.lend_last(count);
                step.events.push(Event::Received {
                    connection: step.id,
                    buffer,
                });
                Outcome::Again
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.readable = false;
                Outcome::Again
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Outcome::Again,
            Err(error) => Outcome::Gone(Some(error)),
        }
    }

    fn step_closing(&mut self, fin_sent: bool) -> Outcome {
        if !fin_sent && self.unsent() == 0 {
            socket::shutdown_write(self.socket.as_raw_fd());
            self.state = State::Closing { fin_sent: true };
        }
        if self.readable && !self.peer_closed {
            let mut scratch = [0; 16 * 1024];
            match socket::receive(self.socket.as_raw_fd(), &mut scratch) {
                Ok(0) => self.peer_closed = true,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.readable = false,
                Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                    return Outcome::Gone(Some(error));
                }
                Ok(_) | Err(_) => {}
            }
            return Outcome::Again;
        }
        if self.peer_closed && matches!(self.state, State::Closing { fin_sent: true }) {
            return Outcome::Gone(None);
        }
        match self
            .broken
            .then(|| socket::pending_error(self.socket.as_raw_fd()))
            .flatten()
        {
            Some(error) => Outcome::Gone(Some(error)),
            None => Outcome::Keep,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_send_without_kernel_memory_is_put_off_so_many_times() {
        let (socket, _) = std::os::unix::net::UnixStream::pair().expect("descriptors");
        let mut connection = Connection::new(socket.into(), State::Open);
        connection.push(b"hello".to_vec(), &mut Spare::default());
        let id = ConnectionId {
            slot: 0,
            generation: 0,
        };
        let mut step = Step {
            id,
            buffers: &mut Buffers::new(1, 64),
            reclaimed: &mut Reclaimed::default(),
            spare: &mut Spare::default(),
            counters: &mut DriverCounters::default(),
            events: &mut Vec::new(),
            short: &mut Vec::new(),
        };
        let error = || io::Error::from_raw_os_error(libc::ENOBUFS);
        for _ in 0..SHORTAGES_MAX {
            connection
                .send_failed(error(), &mut step)
                .expect("the connection goes on");
            assert_eq!(std::mem::take(step.short), [id]);
            assert!(connection.flush(&mut step).is_ok() && connection.unsent() == 5);
            connection.short = false;
        }
        assert!(connection.send_failed(error(), &mut step).is_err());
        let reset = io::Error::from_raw_os_error(libc::ECONNRESET);
        assert!(connection.send_failed(reset, &mut step).is_err());
    }
}
