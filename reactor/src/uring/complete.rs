//! From completions to state, and to at most one event each.

use io_uring::cqueue;

use super::operation::{Kind, Origin};
use super::{
    ACCEPT_PAUSE, Completion, HeldAddress, Key, PROMOTE_RECEIVES, Pending, State, UringDriver, id,
    now,
};
use crate::driver::{Event, ListenerId};
use crate::send_queue::{SHORTAGE_PAUSE, SHORTAGES_MAX, is_shortage};
use crate::socket;

impl UringDriver {
    pub(super) fn complete(&mut self, completion: Completion, events: &mut Vec<Event>) {
        let origin = Origin::of(completion.user_data);
        if origin.kind == Kind::Wake {
            if !completion.more() {
                self.watch_waker();
            }
            return;
        }
        if origin.kind.is_of_datagrams() {
            self.complete_datagrams(&origin, completion, events);
            return;
        }
        // The slot of an operation in flight is not used again, so that this is a second lock on the same door.
        let Some(key) = self
            .connections
            .key_at(origin.slot)
            .filter(|key| origin.is(*key))
        else {
            return;
        };
        match origin.kind {
            Kind::Wake | Kind::Cancel => {}
            Kind::DatagramReceive
            | Kind::DatagramSend
            | Kind::DatagramCancel
            | Kind::DatagramClose => {}
            Kind::Accept => self.accepted(key, completion.result, events),
            Kind::Connect => self.connected(key, completion.result, events),
            Kind::Poll => self.polled(key, Pending::POLL, completion),
            Kind::Watch => self.polled(key, Pending::WATCH, completion),
            Kind::Receive => self.received_some(key, completion, events),
            Kind::Send => self.sent(key, completion.result, events),
            Kind::Fin => self.finished(key, Pending::FIN),
            Kind::Shutdown => self.finished(key, Pending::SHUTDOWN),
            Kind::Close => self.closed(key, events),
        }
    }

    fn finished(&mut self, key: Key, pending: Pending) {
        if let Some(connection) = self.connections.get_mut(key) {
            connection.pending.remove(pending);
        }
        self.mark_dirty(key);
    }

    fn accepted(&mut self, key: Key, result: i32, events: &mut Vec<Event>) {
        let Some(held) = self.addresses.remove(key.slot) else {
            return;
        };
        let (index, address) = (held.listener, held.release());
        let listener = &mut self.listeners[usize::from(index)];
        listener.outstanding -= 1;
        listener.close_if_done();
        let stopped = listener.stopped;
        if result < 0 {
            self.connections.remove(key);
            if !stopped && !socket::is_of_one_connection(-result) {
                self.counters.accept_errors += 1;
                listener.paused_until = Some(now() + ACCEPT_PAUSE);
            }
            return;
        }
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        let full = self.counters.connections >= u64::from(self.config.connections_max);
        let Some(peer) = address.address().filter(|_| !full && !stopped) else {
            self.counters.refused += 1;
            connection.silent = true;
            connection.state = State::Ending;
            self.mark_dirty(key);
            return;
        };
        connection.state = State::Open;
        self.counters.accepted += 1;
        self.counters.connections += 1;
        events.push(Event::Accepted {
            connection: id(key),
            listener: ListenerId(index),
            peer,
        });
        self.mark_dirty(key);
    }

    fn connected(&mut self, key: Key, result: i32, events: &mut Vec<Event>) {
        self.addresses.remove(key.slot).map(HeldAddress::release);
        self.finished(key, Pending::CONNECT);
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        if connection.state != State::Connecting {
            return;
        }
        if result < 0 {
            self.end(key, -result);
        } else {
            connection.state = State::Open;
            events.push(Event::Connected {
                connection: id(key),
            });
        }
    }

    fn polled(&mut self, key: Key, which: Pending, completion: Completion) {
        let result = completion.result;
        if completion.more() {
            self.mark_dirty(key);
        } else {
            self.finished(key, which);
        }
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        if !matches!(
            connection.state,
            State::Open | State::Flushing | State::Lingering
        ) {
            return;
        }
        if result < 0 {
            self.end(key, -result);
            return;
        }
        let mask = result as i16;
        if connection.receives() {
            // Data comes before the error behind it; the receive tells which it is.
            connection.readable = true;
        } else if mask & libc::POLLERR != 0 {
            self.end(key, libc::ECONNRESET);
        } else if mask & libc::POLLHUP != 0 {
            self.end(key, 0);
        } else {
            connection.readable = true;
        }
    }

    fn received_some(&mut self, key: Key, completion: Completion, events: &mut Vec<Event>) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        if !completion.more() {
            connection.pending.remove(Pending::RECEIVE);
            connection.cancelling = false;
        }
        let buffer = cqueue::buffer_select(completion.flags);
        let open = connection.state == State::Open;
        let alive = open || matches!(connection.state, State::Flushing | State::Lingering);
        let length = u32::try_from(completion.result).unwrap_or(0);
        connection.readable |= cqueue::sock_nonempty(completion.flags) && length > 0;
        if let Some(index) = buffer {
            let buffers = self
                .buffers
                .as_mut()
                .expect("buffers are there until the driver is dropped");
            if open && length > 0 {
                self.counters.bytes_received += u64::from(length);
                events.push(Event::Received {
                    connection: id(key),
                    buffer: buffers.lend(index, length),
                });
                self.warm(key);
            } else {
                buffers.give_back(index);
            }
        }
        if completion.more() {
            return;
        }
        self.mark_dirty(key);
        if !alive || length > 0 {
            return;
        }
        match -completion.result {
            0 => self.peer_finished(key, open, events),
            libc::ENOBUFS => {
                self.counters.receive_buffers_exhausted += 1;
                if let Some(connection) = self.connections.get_mut(key) {
                    // A multishot receive takes every buffer there is: when they are short, one at a time for everybody.
                    self.counters.demotions += u64::from(connection.promoted);
                    connection.promoted = false;
                    connection.heat = 0;
                    connection.starved = true;
                    self.starved.push_back(key);
                }
            }
            libc::EAGAIN | libc::ECANCELED => {}
            libc::EINTR => {
                if let Some(connection) = self.connections.get_mut(key) {
                    connection.readable = true;
                }
            }
            error => self.end(key, error),
        }
    }

    fn peer_finished(&mut self, key: Key, open: bool, events: &mut Vec<Event>) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        connection.peer_closed = true;
        if connection.send_broken {
            self.end(key, 0);
        } else if open {
            events.push(Event::PeerClosed {
                connection: id(key),
            });
        }
    }

    /// Counts a receive, and promotes a connection that has many.
    fn warm(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        if connection.heat_second != self.second {
            connection.heat_second = self.second;
            connection.heat = 0;
        }
        connection.heat = connection.heat.saturating_add(1);
        if connection.heat > PROMOTE_RECEIVES && !connection.promoted {
            connection.promoted = true;
            self.counters.promotions += 1;
            if !std::mem::replace(&mut connection.listed, true) {
                self.promoted.push_back(key);
            }
        }
    }

    fn sent(&mut self, key: Key, result: i32, events: &mut Vec<Event>) {
        self.finished(key, Pending::SEND);
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        let Some(sending) = &mut connection.sending else {
            return;
        };
        let Ok(count) = usize::try_from(result) else {
            return self.send_failed(key, -result);
        };
        self.counters.bytes_sent += count as u64;
        self.counters.bytes_unsent -= count as u64;
        sending.advance(count, &mut self.reclaimed);
        if connection.unsent() > 0 {
            return;
        }
        if let Some(sending) = connection.sending.take() {
            self.spare.put(sending, |sending| &sending.queue);
        }
        if std::mem::take(&mut connection.owes_drained) && connection.state == State::Open {
            events.push(Event::Drained {
                connection: id(key),
            });
        }
    }

    fn send_failed(&mut self, key: Key, error: i32) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        let Some(sending) = &mut connection.sending else {
            return;
        };
        match error {
            libc::EINTR | libc::EAGAIN => {}
            _ if is_shortage(error) && sending.shortages < SHORTAGES_MAX => {
                sending.shortages += 1;
                sending.short = true;
                self.counters.send_shortages += 1;
                self.short.push(key);
                self.short_until
                    .get_or_insert_with(|| now() + SHORTAGE_PAUSE);
            }
            // Nothing is wrong with the socket, so that no receive would tell of the end.
            _ if is_shortage(error) => self.end(key, error),
            _ => {
                connection.send_broken = true;
                let first = if connection.error == 0 {
                    error
                } else {
                    connection.error
                };
                if connection.state != State::Ending {
                    connection.error = first;
                }
                if !connection.receives() || connection.state != State::Open {
                    self.end(key, first);
                }
            }
        }
    }

    fn closed(&mut self, key: Key, events: &mut Vec<Event>) {
        let Some(connection) = self.connections.remove(key) else {
            return;
        };
        if connection.silent {
            return;
        }
        let unsent = connection.unsent();
        self.counters.connections -= 1;
        self.counters.bytes_unsent -= unsent as u64;
        events.push(Event::Closed {
            connection: id(key),
            unsent,
            error: connection.closed_error(),
        });
    }
}
