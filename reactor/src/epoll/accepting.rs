//! Connections that come in.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};

use super::{ACCEPT_PAUSE, Connection, EpollDriver, State, TOKEN_LISTENER, now};
use crate::driver::{Event, ListenerId};
use crate::socket;

impl EpollDriver {
    pub(super) fn accept(&mut self, limit: usize, events: &mut Vec<Event>) {
        for index in 0..self.listeners.len() {
            if self.listeners[index]
                .paused_until
                .is_some_and(|until| until <= now())
            {
                self.listeners[index].paused_until = None;
                self.listen_for(index, libc::EPOLLIN);
            }
            if !std::mem::take(&mut self.listeners[index].readable) {
                continue;
            }
            // Who is left is told of again: listeners are level-triggered.
            for _ in 0..self.accepts_max {
                let Some(socket) = &self.listeners[index].socket else {
                    break;
                };
                if events.len() >= limit {
                    break;
                }
                match socket::accept(socket.as_raw_fd()) {
                    Ok((socket, peer)) => {
                        self.accepted(socket, peer, ListenerId(index as u16), events);
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error)
                        if socket::is_of_one_connection(error.raw_os_error().unwrap_or(0)) => {}
                    Err(_) => {
                        self.counters.accept_errors += 1;
                        self.listeners[index].paused_until = Some(now() + ACCEPT_PAUSE);
                        self.listen_for(index, 0);
                        break;
                    }
                }
            }
        }
    }

    fn accepted(
        &mut self,
        socket: OwnedFd,
        peer: SocketAddr,
        listener: ListenerId,
        events: &mut Vec<Event>,
    ) {
        if self.connections.len() >= self.config.connections_max as usize {
            self.counters.refused += 1;
            return;
        }
        self.counters.accepted += 1;
        let connection = self.insert(Connection::new(socket, State::Open));
        events.push(Event::Accepted {
            connection,
            listener,
            peer,
        });
        self.register(connection);
    }

    fn listen_for(&self, index: usize, interest: i32) {
        if let Some(socket) = &self.listeners[index].socket {
            // It fails only when the descriptor is not registered, and it is.
            let _ = self
                .poller
                .modify(socket.as_raw_fd(), interest, TOKEN_LISTENER | index as u64);
        }
    }
}
