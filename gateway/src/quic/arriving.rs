//! Handshakes of one core: who waits, who has to prove an address, who is refused, and what is known when one is complete.

use std::sync::Arc;
use std::time::Instant;

use quinn_proto::Incoming;
use reactor::slab::Key;

use super::connection::{Connection, Stage};
use super::endpoints::{Endpoints, Output};
use super::error_code::ErrorCode;
use crate::tls::{Identity, Reason};
use crate::turn::Now;

impl Endpoints {
    /// Somebody wants to connect.
    pub(super) fn incoming(
        &mut self,
        listener: u16,
        incoming: Incoming,
        now: Now,
        output: &mut impl FnMut(Output<'_>),
    ) {
        let pressure = self.stats.handshakes_in_progress + self.waiting.len() as u64;
        let endpoint = &mut self.listeners[usize::from(listener)].endpoint;
        let mut answer = Vec::new();
        let is_full = self.connections.len() + self.waiting.len()
            >= self.limits.connections_max as usize
            || pressure >= u64::from(self.limits.handshakes_max)
            || self.is_stopping;
        let must_prove = !incoming.remote_address_validated();
        if must_prove && (is_full || pressure >= u64::from(self.limits.retry_above)) {
            // Who has not proven its address may have as many names as it likes, and gets what costs least.
            if let Ok(transmit) = endpoint.retry(incoming, &mut answer) {
                self.stats.retried += 1;
                self.answer(listener, &transmit, answer);
            }
        } else if is_full {
            self.stats.refused += 1;
            let transmit = endpoint.refuse(incoming, &mut answer);
            self.answer(listener, &transmit, answer);
        } else if self.handshakes_left > 0 && self.waiting.is_empty() {
            self.accept(listener, incoming, now, output);
        } else {
            self.waiting.push_back((listener, now.mono_ms, incoming));
        }
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
    pub(super) fn accept(
        &mut self,
        listener: u16,
        incoming: Incoming,
        now: Now,
        output: &mut impl FnMut(Output<'_>),
    ) {
        self.handshakes_left = self.handshakes_left.saturating_sub(1);
        self.begun += 1;
        self.desk.clear();
        let remote = incoming.remote_address();
        let instant = self.instant(now);
        let place = &mut self.listeners[usize::from(listener)];
        let mut answer = Vec::new();
        match place.endpoint.accept(incoming, instant, &mut answer, None) {
            Ok((handle, protocol)) => {
                let deadline_ms = now.mono_ms + self.limits.handshake_timeout_ms;
                let connection = Connection::new(protocol, handle, listener, remote, deadline_ms);
                let key = self.connections.insert(Box::new(connection));
                if place.keys.len() <= handle.0 {
                    place.keys.resize(handle.0 + 1, None);
                }
                place.keys[handle.0] = Some(key);
                self.stats.handshakes_in_progress += 1;
                self.drive(key, now, output);
            }
            Err(error) => {
                let reason = self.desk.failed().unwrap_or(Reason::Violation);
                self.stats.handshakes_failed[reason as usize] += 1;
                output(Output::Failed(remote, reason, error.cause.to_string()));
                if let Some(transmit) = error.response {
                    self.answer(listener, &transmit, answer);
                }
            }
        }
    }

    /// The handshake is complete: who is it?
    pub(super) fn connected(&mut self, key: Key, now: Now, output: &mut impl FnMut(Output<'_>)) {
        let instant = self.instant(now);
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
                return self.refuse_certificate(key, reason, words, instant, output);
            }
            (None, Some(Err(error))) => {
                let reason = Reason::CertificateRefused;
                return self.refuse_certificate(key, reason, error.to_string(), instant, output);
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
        connection.deadline_ms = now.mono_ms + self.limits.handshake_timeout_ms;
        self.streams_opened(key, output);
    }

    fn refuse_certificate(
        &mut self,
        key: Key,
        reason: Reason,
        words: String,
        instant: Instant,
        output: &mut impl FnMut(Output<'_>),
    ) {
        if let Some(connection) = self.connections.get_mut(key) {
            output(Output::Failed(
                connection.protocol.remote_address(),
                reason,
                words,
            ));
            connection.close(instant, ErrorCode::Certificate);
            self.stats.handshakes_failed[reason as usize] += 1;
        }
    }
}
