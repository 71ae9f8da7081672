//! Data streams: what a client opens beside the first stream. The shard says when they may be read; it handles what comes on them as
//! packets of the connection, and names the stream of each answer.
//!
//! The client opens one before it knows that it may have `data_streams_max`, so that a connection without any holds nothing for
//! them. **Each widens the window of the connection by its own**: bytes that wait unread on one, because the client is not let in yet,
//! never keep out what the first stream needs for it to be.

use edge_proto::frame::{PACKET_LENGTH_MAX, next_frame};
use quinn_proto::{Connection as Protocol, Dir, StreamEvent, StreamId, VarInt, WriteError};
use reactor::driver::ConnectionId;
use reactor::slab::Key;

use super::connection::{Connection, Read, Stage, read_stream};
use super::endpoints::{Call, Endpoints, Output};
use super::ids::stream_id;
use crate::limits::QuicLimits;

/// The data streams of one connection.
#[derive(Default)]
pub(super) struct DataStreams {
    streams: Vec<DataStream>,
    reading: Reading,
    /// True exactly when the first stream has sent all that it ever will, or nobody wants it.
    is_first_over: bool,
}

/// Whether they may be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Reading {
    /// The shard does not know of them.
    #[default]
    Unknown,
    /// The shard will say when the client is let in.
    Asked,
    /// It was let in.
    Admitted,
}

/// One of them.
struct DataStream {
    id: StreamId,
    /// True exactly while the client may send more.
    is_read: bool,
    writing: Writing,
    /// What the send window has no room for: whole packets, of which so much was written.
    unsent: Vec<u8>,
    written: usize,
}

/// The direction towards the client.
///
/// ```text
/// Open ─finish─▶ Ending ─all written─▶ Ended ─acknowledged─▶ Over
///   └──────────────┴── stopped ──────────┴────────────────────▲
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Writing {
    Open,
    /// It ends when what is unsent is written.
    Ending,
    Ended,
    Over,
}

impl DataStream {
    /// Writes whole packets, now or when there is room. False when the client wants nothing on this stream.
    fn send(&mut self, protocol: &mut Protocol, bytes: &[u8]) -> bool {
        if self.writing != Writing::Open {
            return false;
        }
        let is_waiting = !self.unsent.is_empty();
        self.unsent.extend_from_slice(bytes);
        if !is_waiting {
            self.write_on(protocol);
        }
        true
    }

    /// Writes what there is room for.
    fn write_on(&mut self, protocol: &mut Protocol) {
        while self.written < self.unsent.len() {
            let mut sending = protocol.send_stream(self.id);
            match sending.write(&self.unsent[self.written..]) {
                Ok(more) => self.written += more,
                // That it was stopped is told by an event, which finds what is left.
                Err(WriteError::Blocked | WriteError::Stopped(_)) => return,
                // It never will be.
                Err(WriteError::ClosedStream) => break,
            }
        }
        self.unsent = Vec::new();
        self.written = 0;
        if self.writing == Writing::Ending {
            self.finish(protocol);
        }
    }

    /// Ends it after what was written.
    fn finish(&mut self, protocol: &mut Protocol) {
        self.writing = match self.writing {
            Writing::Open | Writing::Ending if !self.unsent.is_empty() => Writing::Ending,
            Writing::Open | Writing::Ending => match protocol.send_stream(self.id).finish() {
                Ok(()) => Writing::Ended,
                Err(_) => Writing::Over,
            },
            writing => writing,
        };
    }

    /// The client wants nothing more on it. Returns what had not begun to be written, for another stream.
    fn stopped(&mut self, protocol: &mut Protocol) -> Vec<u8> {
        // It answers the client, unless it has been reset before.
        let _ = protocol.send_stream(self.id).reset(VarInt::from_u32(0));
        self.writing = Writing::Over;
        let mut unsent = std::mem::take(&mut self.unsent);
        let mut begun = 0;
        while begun < self.written
            && let Ok(Some(frame)) = next_frame(&unsent[begun..], PACKET_LENGTH_MAX as u32)
        {
            begun += frame.length;
        }
        unsent.drain(..begun);
        self.written = 0;
        unsent
    }
}

impl DataStreams {
    /// Bytes that wait for room in the send window.
    pub(super) fn unsent(&self) -> usize {
        let unsent = self.streams.iter().map(|it| it.unsent.len() - it.written);
        unsent.sum()
    }

    fn find(&mut self, id: StreamId) -> Option<&mut DataStream> {
        self.streams.iter_mut().find(|it| it.id == id)
    }
}

/// The stream that the shard knows by this number.
fn data_stream_id(number: u64) -> StreamId {
    StreamId::new(quinn_proto::Side::Client, Dir::Bi, number)
}

impl Connection {
    /// Takes a stream that the client opened after the first. False when there are to be none.
    pub(super) fn accept_data(&mut self, id: StreamId, limits: &QuicLimits) -> bool {
        let is_new = self.data.is_none();
        let open = self.data.as_ref().map_or(0, |data| data.streams.len());
        if open >= limits.data_streams_max as usize {
            return false;
        }
        if is_new {
            let streams = VarInt::from_u32(1 + limits.data_streams_max);
            self.protocol.set_max_concurrent_streams(Dir::Bi, streams);
        }
        let data = self.data.get_or_insert_default();
        data.streams.push(DataStream {
            id,
            is_read: true,
            writing: Writing::Open,
            unsent: Vec::new(),
            written: 0,
        });
        self.fit_window(limits);
        true
    }

    /// Forgets data streams that are over in both directions.
    fn forget_data(&mut self, limits: &QuicLimits) {
        let Some(data) = &mut self.data else { return };
        let before = data.streams.len();
        data.streams
            .retain(|it| it.is_read || it.writing != Writing::Over);
        if data.streams.len() < before {
            self.fit_window(limits);
        }
    }

    /// The window of the connection is that of all its streams together.
    fn fit_window(&mut self, limits: &QuicLimits) {
        let open = self.data.as_ref().map_or(0, |data| data.streams.len());
        let streams = u32::try_from(1 + open).unwrap_or(u32::MAX);
        let bytes = limits.receive_window_bytes.saturating_mul(streams);
        self.protocol.set_receive_window(VarInt::from_u32(bytes));
    }

    /// The first stream has sent all that it ever will.
    pub(super) fn first_is_over(&mut self) {
        if let Some(data) = &mut self.data {
            data.is_first_over = true;
        }
    }

    /// True when all streams have sent all that they ever will. The first one has, if there are no others: that is when it is asked.
    pub(super) fn is_over(&self) -> bool {
        self.data.as_ref().is_none_or(|data| {
            let mut streams = data.streams.iter();
            data.is_first_over && streams.all(|it| it.writing == Writing::Over)
        })
    }

    /// Ends all streams after what was written. False when that is known to be over already.
    pub(super) fn finish_all(&mut self) -> bool {
        let first_waits = self.finish();
        let Some(data) = &mut self.data else {
            return first_waits;
        };
        data.is_first_over = !first_waits;
        for stream in &mut data.streams {
            stream.finish(&mut self.protocol);
        }
        !self.is_over()
    }
}

impl Endpoints {
    /// Something happened to a data stream.
    pub(super) fn data_stream(
        &mut self,
        key: Key,
        event: StreamEvent,
        call: &mut Call<'_, impl FnMut(Output<'_>)>,
    ) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        let before = connection.unsent();
        let Connection {
            protocol,
            data: Some(data),
            ..
        } = &mut **connection
        else {
            return;
        };
        match event {
            StreamEvent::Readable { id } => return self.read_data(key, Some(id), call),
            StreamEvent::Writable { id } => {
                if let Some(stream) = data.find(id) {
                    stream.write_on(protocol);
                }
            }
            StreamEvent::Finished { id } => {
                if let Some(stream) = data.find(id) {
                    stream.writing = Writing::Over;
                }
            }
            StreamEvent::Stopped { id, .. } => {
                let left = data.find(id).map(|stream| stream.stopped(protocol));
                if connection.stage == Stage::Open {
                    connection.send(&left.unwrap_or_default());
                }
            }
            StreamEvent::Opened { .. } | StreamEvent::Available { .. } => {}
        }
        let after = connection.unsent();
        self.stats.unsent_bytes += after as u64;
        self.stats.unsent_bytes -= before as u64;
        connection.forget_data(&self.limits);
        if before > 0 && after == 0 {
            call.tell(Output::Drained(stream_id(key.slot, key.generation)));
        }
        self.finished(key, call.now);
    }

    /// Tells the shard of the first data streams of a connection, and reads them once they may be read.
    pub(super) fn look_at_data_streams(
        &mut self,
        key: Key,
        call: &mut Call<'_, impl FnMut(Output<'_>)>,
    ) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        let stage = connection.stage;
        let Some(data) = &mut connection.data else {
            return;
        };
        match data.reading {
            Reading::Unknown if stage == Stage::Open => {
                data.reading = Reading::Asked;
                call.tell(Output::StreamsOpened(stream_id(key.slot, key.generation)));
            }
            Reading::Admitted => self.read_data(key, None, call),
            Reading::Unknown | Reading::Asked => {}
        }
    }

    /// Reads one data stream, or all.
    fn read_data(
        &mut self,
        key: Key,
        only: Option<StreamId>,
        call: &mut Call<'_, impl FnMut(Output<'_>)>,
    ) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        if connection.is_paused || connection.stage != Stage::Open {
            return;
        }
        let Connection {
            protocol,
            data: Some(data),
            ..
        } = &mut **connection
        else {
            return;
        };
        if data.reading != Reading::Admitted {
            return;
        }
        let id = stream_id(key.slot, key.generation);
        for stream in &mut data.streams {
            if !stream.is_read || only.is_some_and(|only| only != stream.id) {
                continue;
            }
            self.scratch.clear();
            let read = read_stream(protocol, stream.id, &mut self.scratch);
            let number = stream.id.index();
            if !self.scratch.is_empty() {
                call.tell(Output::StreamData(id, number, &self.scratch));
            }
            if read == Read::Ended {
                stream.is_read = false;
                call.tell(Output::StreamEnded(id, number));
            }
        }
        connection.forget_data(&self.limits);
    }

    /// The client is let in: its data streams may be read, from the next turn on.
    pub fn admit(&mut self, id: ConnectionId) {
        let Some(key) = self.key(id) else { return };
        if let Some(connection) = self.connections.get_mut(key)
            && let Some(data) = &mut connection.data
        {
            data.reading = Reading::Admitted;
            self.resumed.push(key);
        }
    }

    /// Sends whole packets on a data stream, or on the first stream when the client does not take them there any more.
    pub fn send_on_stream(&mut self, id: ConnectionId, number: u64, bytes: &[u8]) {
        let Some(key) = self.key(id) else { return };
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        if connection.stage != Stage::Open {
            return;
        }
        let before = connection.unsent();
        let Connection { protocol, data, .. } = &mut **connection;
        let stream = data
            .as_mut()
            .and_then(|data| data.find(data_stream_id(number)));
        if !stream.is_some_and(|stream| stream.send(protocol, bytes)) {
            connection.send(bytes);
        }
        self.stats.unsent_bytes += (connection.unsent() - before) as u64;
        self.is_due(key);
    }

    /// Ends a data stream after what was written on it.
    pub fn finish_stream(&mut self, id: ConnectionId, number: u64) {
        let Some(key) = self.key(id) else { return };
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        let Connection { protocol, data, .. } = &mut **connection;
        let stream = data
            .as_mut()
            .and_then(|data| data.find(data_stream_id(number)));
        if let Some(stream) = stream {
            stream.finish(protocol);
            connection.forget_data(&self.limits);
            self.is_due(key);
        }
    }
}
