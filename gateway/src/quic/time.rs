//! What the passing of time brings to the connections of one core: handshakes that waited for a turn, timers, and the end.

use quinn_proto::EndpointEvent;
use reactor::slab::Key;

use super::connection::Stage;
use super::endpoints::{Call, Endpoints, Output, Waiting};
use super::error_code::ErrorCode;
use super::ids::stream_id;
use crate::access::gate::Gate;
use crate::tls::Reason;
use crate::turn::Now;

/// Timers handled in one turn; the rest fires in the next.
const TIMERS_PER_TURN: usize = 1024;

impl Endpoints {
    /// The node stops: nobody comes in any more, and who is not known to the shard goes.
    pub fn shut_down(&mut self, now: Now) {
        let instant = self.instant(now);
        self.is_stopping = true;
        // Nobody is let in any more, so that it does not matter as what these are counted.
        for Waiting {
            listener, incoming, ..
        } in self.waiting.drain(..)
        {
            let endpoint = &mut self.listeners[usize::from(listener)].endpoint;
            endpoint.ignore(incoming);
        }
        let unknown: Vec<Key> = self
            .connections
            .iter()
            .filter(|(_, it)| matches!(it.stage, Stage::Handshaking | Stage::Established))
            .map(|(key, _)| key)
            .collect();
        for key in unknown {
            if let Some(connection) = self.connections.get_mut(key) {
                let was_handshaking = connection.stage == Stage::Handshaking;
                self.stats.handshakes_in_progress -= u64::from(was_handshaking);
                connection.close(instant, ErrorCode::ShuttingDown);
                self.is_due(key);
            }
        }
    }

    /// Connections that are not closed: the node must not stop before they have been told.
    #[must_use]
    pub fn open(&self) -> usize {
        let stages = self.connections.iter().map(|(_, it)| it.stage);
        stages.filter(|stage| *stage != Stage::Closed).count()
    }

    /// Begins handshakes, handles what is late, and tells which connections ended; once a turn. `has_time` is asked before each
    /// handshake whether there is time for it, and must say so at least once a turn: handshakes are what takes longest.
    pub fn turn(
        &mut self,
        now: Now,
        gate: &mut Gate,
        has_time: impl FnMut() -> bool,
        output: &mut impl FnMut(Output<'_>),
    ) {
        let call = &mut Call::new(now, gate, output);
        self.clock.set(now.unix_ms);
        self.begin_handshakes(has_time, call);
        for key in std::mem::take(&mut self.gone) {
            self.drained(key, call);
        }
        for key in std::mem::take(&mut self.resumed) {
            self.read(key, call);
            self.look_at_data_streams(key, call);
            self.is_due(key);
        }
        let mut late = Vec::new();
        self.timers
            .expire(now.mono_ms, TIMERS_PER_TURN, |key| late.push(key));
        for key in late {
            self.late(key, call);
        }
        for id in self.ended.drain(..) {
            call.tell(Output::Closed(id));
        }
    }

    /// When `turn` has something to do, in milliseconds of the monotonic clock.
    #[must_use]
    pub fn next_deadline_ms(&self) -> Option<u64> {
        let keys = [&self.due, &self.gone, &self.resumed];
        let is_pending = keys.iter().any(|keys| !keys.is_empty()) || !self.ended.is_empty();
        if is_pending || !self.waiting.is_empty() {
            return Some(0);
        }
        self.timers.next_deadline()
    }

    /// A timer of a connection fired.
    fn late(&mut self, key: Key, call: &mut Call<'_, impl FnMut(Output<'_>)>) {
        let (instant, code) = (self.instant(call.now), self.ending());
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        connection.timer = None;
        if connection.deadline_ms <= call.now.mono_ms {
            match connection.stage {
                Stage::Handshaking => {
                    let reason = Reason::TimedOut;
                    self.stats.handshakes_in_progress -= 1;
                    self.stats.handshakes_failed[reason as usize] += 1;
                    let remote = connection.protocol.remote_address();
                    let words = "the handshake was not complete in time".to_owned();
                    call.tell(Output::Failed(remote, reason, words));
                    connection.close(instant, ErrorCode::NoStream);
                }
                Stage::Established => connection.close(instant, ErrorCode::NoStream),
                Stage::Finishing => {
                    self.stats.unsent_bytes -= connection.unsent() as u64;
                    connection.close(instant, code);
                    self.ended.push(stream_id(key.slot, key.generation));
                }
                Stage::Open => connection.deadline_ms = u64::MAX,
                Stage::Closed => {
                    let listener = &mut self.listeners[usize::from(connection.listener)];
                    let drained = EndpointEvent::drained();
                    listener.endpoint.handle_event(connection.handle, drained);
                    return self.drained(key, call);
                }
            }
        }
        if let Some(connection) = self.connections.get_mut(key) {
            self.desk.clear();
            connection.protocol.handle_timeout(instant);
            self.drive(key, call);
        }
    }
}
