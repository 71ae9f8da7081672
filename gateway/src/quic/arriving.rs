//! Handshakes of one core: who waits, who has to prove an address, who is refused, and what is known when one is complete.

use std::sync::Arc;

use quinn_proto::Incoming;
use reactor::slab::Key;

use super::connection::{Connection, Stage};
use super::endpoints::{Call, Endpoints, Output, Waiting};
use super::error_code::ErrorCode;
use super::ids::stream_id;
use crate::tls::{Identity, Reason};

impl Endpoints {
    /// Somebody wants to connect. The first datagram proves nothing: it is answered without a thought, or waits for a turn.
    pub(super) fn incoming(
        &mut self,
        listener: u16,
        incoming: Incoming,
        call: &mut Call<'_, impl FnMut(Output<'_>)>,
    ) {
        let pressure = self.stats.handshakes_in_progress + self.waiting.len() as u64;
        let is_full = self.connections.len() + self.waiting.len()
            >= self.limits.connections_max as usize
            || pressure >= u64::from(self.limits.handshakes_max)
            || self.is_stopping;
        if is_full {
            self.stats.refused += 1;
            return self.refuse(listener, incoming);
        }
        let (remote, now_ms) = (incoming.remote_address(), call.now.mono_ms);
        let standing = if incoming.remote_address_validated() {
            call.gate.admit(listener, remote.ip(), now_ms).map(Some)
        } else {
            let looked = call.gate.look(listener, remote.ip(), now_ms);
            looked.map(|()| None)
        };
        let counted = match standing {
            Ok(counted) => counted,
            Err(reason) => {
                self.refuse(listener, incoming);
                return call.tell(Output::TurnedAway(remote, reason));
            }
        };
        if counted.is_none() && pressure >= u64::from(self.limits.retry_above) {
            // Who has not proven its address may have as many names as it likes.
            let mut answer = Vec::new();
            let endpoint = &mut self.listeners[usize::from(listener)].endpoint;
            if let Ok(transmit) = endpoint.retry(incoming, &mut answer) {
                self.stats.retried += 1;
                self.answer(listener, &transmit, answer);
            }
            return;
        }
        self.waiting.push_back(Waiting {
            listener,
            since_ms: now_ms,
            incoming,
            counted,
        });
    }

    /// Tells a client that it cannot connect, in one small datagram (RFC 9000 §5.2.2), and keeps nothing of it.
    fn refuse(&mut self, listener: u16, incoming: Incoming) {
        let mut answer = Vec::new();
        let endpoint = &mut self.listeners[usize::from(listener)].endpoint;
        let transmit = endpoint.refuse(incoming, &mut answer);
        self.answer(listener, &transmit, answer);
    }

    /// Begins the handshakes of this turn, in the order in which clients came.
    pub(super) fn begin_handshakes(
        &mut self,
        mut has_time: impl FnMut() -> bool,
        call: &mut Call<'_, impl FnMut(Output<'_>)>,
    ) {
        let latest_ms = call
            .now
            .mono_ms
            .checked_sub(self.limits.handshake_timeout_ms);
        let mut left = self.limits.handshakes_per_turn;
        while left > 0
            && let Some(first) = self.waiting.front()
        {
            let is_late = latest_ms.is_some_and(|latest_ms| first.since_ms <= latest_ms);
            if !is_late && !has_time() {
                return;
            }
            let Some(waiting) = self.waiting.pop_front() else {
                return;
            };
            if is_late {
                self.give_up(waiting, call);
            } else {
                left -= 1;
                self.begin(waiting, call);
            }
        }
    }

    /// A client waited for too long, and has given up by now.
    fn give_up(&mut self, waiting: Waiting, call: &mut Call<'_, impl FnMut(Output<'_>)>) {
        if let Some(counted) = waiting.counted {
            call.gate.release(counted);
        }
        let remote = waiting.incoming.remote_address();
        let listener = &mut self.listeners[usize::from(waiting.listener)];
        listener.endpoint.ignore(waiting.incoming);
        let reason = Reason::TimedOut;
        self.stats.handshakes_failed[reason as usize] += 1;
        let words = "the handshake had to wait for too long".to_owned();
        call.tell(Output::Failed(remote, reason, words));
    }

    /// How many handshakes were begun since the last call.
    pub fn take_begun(&mut self) -> u32 {
        std::mem::take(&mut self.begun)
    }

    /// How full the queue of those is who wait for their handshake, in thousandths of its bound.
    #[must_use]
    pub fn waiting_permille(&self) -> u32 {
        let waiting = self.waiting.len() as u64 * 1_000;
        let permille = waiting / u64::from(self.limits.handshakes_max.max(1));
        u32::try_from(permille).unwrap_or(u32::MAX)
    }

    /// Begins a handshake.
    fn begin(&mut self, waiting: Waiting, call: &mut Call<'_, impl FnMut(Output<'_>)>) {
        let Waiting {
            listener,
            incoming,
            counted,
            ..
        } = waiting;
        self.begun += 1;
        self.desk.clear();
        let remote = incoming.remote_address();
        let instant = self.instant(call.now);
        let place = &mut self.listeners[usize::from(listener)];
        let mut answer = Vec::new();
        match place.endpoint.accept(incoming, instant, &mut answer, None) {
            Ok((handle, protocol)) => {
                let deadline_ms = call.now.mono_ms + self.limits.handshake_timeout_ms;
                let mut connection =
                    Connection::new(protocol, handle, listener, remote, deadline_ms);
                connection.is_admitted = counted.is_some();
                let key = self.connections.insert(Box::new(connection));
                if let Some(counted) = counted {
                    call.gate.keep(stream_id(key.slot, key.generation), counted);
                }
                if place.keys.len() <= handle.0 {
                    place.keys.resize(handle.0 + 1, None);
                }
                place.keys[handle.0] = Some(key);
                self.stats.handshakes_in_progress += 1;
                self.drive(key, call);
            }
            Err(error) => {
                if let Some(counted) = counted {
                    call.gate.release(counted);
                }
                let reason = self.desk.failed().unwrap_or(Reason::Violation);
                self.stats.handshakes_failed[reason as usize] += 1;
                call.tell(Output::Failed(remote, reason, error.cause.to_string()));
                if let Some(transmit) = error.response {
                    self.answer(listener, &transmit, answer);
                }
            }
        }
    }

    /// The handshake is complete: who is it?
    pub(super) fn connected(&mut self, key: Key, call: &mut Call<'_, impl FnMut(Output<'_>)>) {
        let instant = self.instant(call.now);
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        if connection.stage != Stage::Handshaking {
            return;
        }
        self.stats.handshakes_in_progress -= 1;
        let Some(completed) = self.desk.completed() else {
            // It cannot be: the session leaves it there in the same call.
            connection.close(instant, ErrorCode::Certificate);
            self.stats.handshakes_failed[Reason::Internal as usize] += 1;
            return;
        };
        let refused = completed
            .resumed
            .then(|| {
                self.acceptor
                    .verify_again(&completed.chain, self.clock.unix_time())
            })
            .and_then(Result::err)
            .map(|error| (crate::tls::reason_of(&error), error.to_string()));
        let identity = completed.chain.first().map(|leaf| Identity::from_der(leaf));
        let identity = match (refused, identity) {
            (None, None) => None,
            (None, Some(Ok(identity))) => Some(Arc::new(identity)),
            (Some((reason, words)), _) => {
                return self.refuse_certificate(key, reason, words, call);
            }
            (None, Some(Err(error))) => {
                let reason = Reason::CertificateRefused;
                return self.refuse_certificate(key, reason, error.to_string(), call);
            }
        };
        if completed.resumed {
            self.stats.handshakes_resumed += 1;
        } else {
            self.stats.handshakes_full += 1;
        }
        connection.stage = Stage::Established;
        if let Some(arrival) = &mut connection.arrival {
            arrival.certificate = identity;
        }
        connection.deadline_ms = call.now.mono_ms + self.limits.handshake_timeout_ms;
        if self.is_admitted(key, call) {
            self.streams_opened(key, call);
        }
    }

    /// Counts a client that has shown where it is by completing its handshake. False when there is no room for it any more, which ends it.
    fn is_admitted(&mut self, key: Key, call: &mut Call<'_, impl FnMut(Output<'_>)>) -> bool {
        let instant = self.instant(call.now);
        let Some(connection) = self.connections.get_mut(key) else {
            return false;
        };
        if connection.is_admitted {
            return true;
        }
        let remote = connection.protocol.remote_address();
        let (listener, now_ms) = (connection.listener, call.now.mono_ms);
        match call.gate.admit(listener, remote.ip(), now_ms) {
            Ok(counted) => {
                connection.is_admitted = true;
                call.gate.keep(stream_id(key.slot, key.generation), counted);
                true
            }
            Err(reason) => {
                connection.close(instant, ErrorCode::TurnedAway);
                call.tell(Output::TurnedAway(remote, reason));
                false
            }
        }
    }

    fn refuse_certificate(
        &mut self,
        key: Key,
        reason: Reason,
        words: String,
        call: &mut Call<'_, impl FnMut(Output<'_>)>,
    ) {
        let instant = self.instant(call.now);
        if let Some(connection) = self.connections.get_mut(key) {
            let remote = connection.protocol.remote_address();
            call.tell(Output::Failed(remote, reason, words));
            connection.close(instant, ErrorCode::Certificate);
            self.stats.handshakes_failed[reason as usize] += 1;
        }
    }
}
