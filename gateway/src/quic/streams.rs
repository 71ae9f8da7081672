//! Streams of one core as connections of the shard: what comes, what goes, and how they end.

use reactor::driver::{Close, ConnectionId};
use reactor::slab::Key;

use quinn_proto::StreamEvent;

use super::connection::{Connection, Read, Stage};
use super::endpoints::{Call, Endpoints, Output};
use super::error_code::ErrorCode;
use super::ids::{split_slot, stream_id};
use crate::turn::Now;

impl Endpoints {
    /// Something happened to a stream.
    pub(super) fn stream(
        &mut self,
        key: Key,
        event: StreamEvent,
        call: &mut Call<'_, impl FnMut(Output<'_>)>,
    ) {
        let id = stream_id(key.slot, key.generation);
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        match event {
            // What came in 0-RTT packets waits where it is until the handshake is complete.
            StreamEvent::Opened { .. } => self.streams_opened(key, call),
            StreamEvent::Readable { id } if Connection::is_first(id) => self.read(key, call),
            StreamEvent::Writable { id: stream } if Connection::is_first(stream) => {
                let before = connection.unsent() as u64;
                if before > 0 && connection.write_on() {
                    if connection.stage == Stage::Finishing {
                        let _ = connection.finish(); // Its end is known later, or by `Stopped`.
                    }
                    if connection.unsent() == 0 {
                        call.tell(Output::Drained(id));
                    }
                }
                let after = self.connections.get(key).map_or(0, |it| it.unsent()) as u64;
                self.stats.unsent_bytes -= before - after;
            }
            StreamEvent::Finished { id } if Connection::is_first(id) => {
                connection.first_is_over();
                self.finished(key, call.now);
            }
            StreamEvent::Stopped { id: stream, .. } if Connection::is_first(stream) => {
                let before = connection.unsent();
                connection.stopped();
                self.stats.unsent_bytes -= (before - connection.unsent()) as u64;
                connection.first_is_over();
                match connection.stage {
                    Stage::Finishing => self.finished(key, call.now),
                    Stage::Open => call.tell(Output::PeerClosed(id)),
                    _ => {}
                }
            }
            event => self.data_stream(key, event, call),
        }
    }

    /// Everything was acknowledged on a stream, or nobody wants it: when that is so for all of them, the connection is closed.
    pub(super) fn finished(&mut self, key: Key, now: Now) {
        let (instant, code) = (self.instant(now), self.ending());
        if let Some(connection) = self.connections.get_mut(key)
            && connection.stage == Stage::Finishing
            && connection.is_over()
        {
            self.stats.unsent_bytes -= connection.unsent() as u64;
            connection.close(instant, code);
            self.ended.push(stream_id(key.slot, key.generation));
        }
    }

    pub(super) fn streams_opened(&mut self, key: Key, call: &mut Call<'_, impl FnMut(Output<'_>)>) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        if !matches!(connection.stage, Stage::Established | Stage::Open) {
            return;
        }
        if connection.accept_streams(&self.limits, &mut self.stats) {
            connection.stage = Stage::Open;
            connection.deadline_ms = u64::MAX;
            let id = stream_id(key.slot, key.generation);
            if let Some(arrival) = connection.arrival.take() {
                call.tell(Output::Accepted(id, *arrival));
            }
            self.read(key, call);
        }
        self.look_at_data_streams(key, call);
    }

    /// Reads the first stream.
    pub(super) fn read(&mut self, key: Key, call: &mut Call<'_, impl FnMut(Output<'_>)>) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        if connection.is_paused || !connection.is_known() {
            return;
        }
        self.scratch.clear();
        let read = connection.read(&mut self.scratch);
        let id = stream_id(key.slot, key.generation);
        if !self.scratch.is_empty() {
            call.tell(Output::Data(id, &mut self.scratch));
        }
        if read == Read::Ended {
            call.tell(Output::PeerClosed(id));
        }
    }

    /// The key of a stream of the shard, if it is still known.
    pub(super) fn key(&self, id: ConnectionId) -> Option<Key> {
        let (_, slot) = split_slot(id.slot);
        let key = self.connections.key_at(slot)?;
        (key.generation == id.generation).then_some(key)
    }

    /// Sends bytes on a stream.
    pub fn send(&mut self, id: ConnectionId, bytes: &[u8]) {
        let Some(key) = self.key(id) else { return };
        if let Some(connection) = self.connections.get_mut(key)
            && connection.stage == Stage::Open
        {
            let before = connection.unsent();
            connection.send(bytes);
            self.stats.unsent_bytes += (connection.unsent() - before) as u64;
            self.is_due(key);
        }
    }

    /// Bytes that wait for room in the send window of a stream.
    #[must_use]
    pub fn unsent(&self, id: ConnectionId) -> usize {
        let connection = self.key(id).and_then(|key| self.connections.get(key));
        connection.map_or(0, |connection| connection.unsent())
    }

    /// Stops reading from a stream: its window fills, and the client has to wait.
    pub fn pause(&mut self, id: ConnectionId) {
        let key = self.key(id);
        if let Some(connection) = key.and_then(|key| self.connections.get_mut(key)) {
            connection.is_paused = true;
        }
    }

    /// Reads from it again; what has come meanwhile is told in the next turn.
    pub fn resume(&mut self, id: ConnectionId) {
        let Some(key) = self.key(id) else { return };
        if let Some(connection) = self.connections.get_mut(key) {
            connection.is_paused = false;
            self.resumed.push(key);
        }
    }

    /// Ends a connection, after what was written or at once. [`Output::Closed`] follows, in a later turn.
    pub fn close(&mut self, id: ConnectionId, how: Close, now: Now) {
        let (instant, code) = (self.instant(now), self.ending());
        let Some(key) = self.key(id) else { return };
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        if connection.stage != Stage::Open {
            return;
        }
        let waits = match how {
            Close::Graceful { linger_ms } => {
                connection.stage = Stage::Finishing;
                connection.deadline_ms = now.mono_ms + u64::from(linger_ms);
                connection.finish_all()
            }
            Close::Abort => false,
        };
        if !waits {
            self.stats.unsent_bytes -= connection.unsent() as u64;
            connection.close(instant, code);
            self.ended.push(id);
        }
        self.is_due(key);
    }

    /// The code with which a connection of the shard ends.
    pub(super) fn ending(&self) -> ErrorCode {
        if self.is_stopping {
            ErrorCode::ShuttingDown
        } else {
            ErrorCode::Ended
        }
    }
}
