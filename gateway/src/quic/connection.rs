//! One QUIC connection, and its first stream as a connection of the shard.
//!
//! ```text
//! Handshaking ─Connected─▶ Established ─first stream─▶ Open ─close─▶ Finishing ─all acknowledged, or linger─▶ Closed
//!      └───────── failed, too late ──┴───────────── lost, aborted ──────┴───────────────────────────────────────▲
//! ```
//!
//! The shard knows it from `Open` to `Closed`. quinn-proto keeps a closed connection for three of its probe timeouts, to answer
//! packets that were under way.

use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;
use quinn_proto::{
    Connection as Protocol, ConnectionHandle, Dir, ReadError, StreamId, VarInt, WriteError,
};
use reactor::wheel::TimerKey;

use super::data_streams::DataStreams;
use super::error_code::ErrorCode;
use super::stats::Stats;
use crate::access::bucket::{Bucket, Rate};
use crate::limits::QuicLimits;
use crate::shard::Arrival;

/// Where a connection is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Handshaking,
    Established,
    Open,
    Finishing,
    Closed,
}

/// What reading a stream came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Read {
    /// Nothing more is there now.
    Blocked,
    /// The client will send nothing more.
    Ended,
}

/// Datagrams from other addresses than a connection's own that are heard. Each may begin a path, and a path is sent to before it is
/// proved: without a bound one client could make this server send to as many forged addresses as it likes.
const ELSEWHERE: Rate = Rate {
    per_second: 1,
    burst: 4,
};

/// One connection.
pub(super) struct Connection {
    pub(super) protocol: Protocol,
    pub(super) handle: ConnectionHandle,
    /// Where it came in.
    pub(super) listener: u16,
    pub(super) stage: Stage,
    /// True exactly when the shard does not want to hear from it.
    pub(super) is_paused: bool,
    /// True exactly when the client has shown that it is where it says, and the gate has let it in.
    pub(super) is_admitted: bool,
    /// True exactly when it has gone on at another address at least once.
    pub(super) has_moved: bool,
    /// True exactly when it is in the list of those that may have something to send.
    pub(super) is_due: bool,
    /// True exactly when the shard was told that the client sends nothing more.
    is_ended: bool,
    /// What the send window has no room for.
    unsent: Option<Box<Unsent>>,
    /// Its further streams, if it ever had any.
    pub(super) data: Option<Box<DataStreams>>,
    /// When a handshake, a first stream or a last byte is late. `u64::MAX`: nothing can be.
    pub(super) deadline_ms: u64,
    /// Who the client is, until the shard is told. Its address is the one that the handshake proves: who does not receive there what
    /// the server says cannot complete it. Where later packets claim to come from is nobody's proof.
    pub(super) arrival: Option<Box<Arrival>>,
    /// Datagrams from elsewhere that are still heard; made by the first.
    elsewhere: Option<Box<Bucket>>,
    pub(super) timer: Option<(TimerKey, u64)>,
}

#[derive(Default)]
struct Unsent {
    bytes: Vec<u8>,
    /// How much of it was written.
    written: usize,
}

/// The stream that is the connection: the first that a client opens.
fn stream() -> StreamId {
    StreamId::new(quinn_proto::Side::Client, Dir::Bi, 0)
}

impl Connection {
    pub(super) fn new(
        protocol: Protocol,
        handle: ConnectionHandle,
        listener: u16,
        peer: SocketAddr,
        deadline_ms: u64,
    ) -> Self {
        Self {
            protocol,
            handle,
            listener,
            stage: Stage::Handshaking,
            is_paused: false,
            is_admitted: false,
            has_moved: false,
            is_due: false,
            is_ended: false,
            unsent: None,
            data: None,
            deadline_ms,
            arrival: Some(Box::new(Arrival {
                secure: true,
                ..Arrival::plain(false, peer)
            })),
            elsewhere: None,
            timer: None,
        }
    }

    /// True for the stream that is a connection of the shard.
    pub(super) fn is_first(id: StreamId) -> bool {
        id == stream()
    }

    /// Takes note of a datagram from another address than its own. True when it may be heard.
    pub(super) fn hears_elsewhere(&mut self, now_ms: u64) -> bool {
        let bucket = self.elsewhere.get_or_insert_default();
        bucket.take(ELSEWHERE, now_ms, 1)
    }

    /// PATH_CHALLENGE frames sent. **A packet to an address that has not been proved has one**, so one without says that it was.
    pub(super) fn challenges(&self) -> u64 {
        self.protocol.stats().frame_tx.path_challenge
    }

    /// True while the shard knows it.
    pub(super) fn is_known(&self) -> bool {
        matches!(self.stage, Stage::Open | Stage::Finishing)
    }

    /// Bytes that wait for room in the send window.
    pub(super) fn unsent(&self) -> usize {
        let waiting = |unsent: &Unsent| unsent.bytes.len() - unsent.written;
        let data = self.data.as_deref().map_or(0, DataStreams::unsent);
        self.unsent.as_deref().map_or(0, waiting) + data
    }

    /// Takes the streams that the client opened, and counts all but the first. True when the first is among them.
    pub(super) fn accept_streams(&mut self, limits: &QuicLimits, stats: &mut Stats) -> bool {
        let mut is_first = false;
        while let Some(id) = self.protocol.streams().accept(Dir::Bi) {
            if id == stream() && self.stage == Stage::Established {
                is_first = true;
                continue;
            }
            if self.accept_data(id, limits) {
                stats.data_streams_opened += 1;
                continue;
            }
            stats.streams_refused += 1;
            let code = ErrorCode::ExtraStream.number();
            // Either half may be closed already.
            let _ = self.protocol.recv_stream(id).stop(code);
            let _ = self.protocol.send_stream(id).reset(code);
        }
        is_first
    }

    /// Reads what has come, in order, into `out`.
    pub(super) fn read(&mut self, out: &mut Vec<u8>) -> Read {
        if self.is_ended {
            return Read::Blocked;
        }
        let read = read_stream(&mut self.protocol, stream(), out);
        self.is_ended = read == Read::Ended;
        read
    }

    /// Sends bytes, now or when there is room.
    pub(super) fn send(&mut self, bytes: &[u8]) {
        if let Some(unsent) = &mut self.unsent {
            unsent.bytes.extend_from_slice(bytes);
            return;
        }
        let written = self.write(bytes);
        if written < bytes.len() {
            self.unsent = Some(Box::new(Unsent {
                bytes: bytes[written..].to_vec(),
                written: 0,
            }));
        }
    }

    /// Hands bytes to quinn-proto; what the stream will never take counts as written.
    fn write(&mut self, bytes: &[u8]) -> usize {
        let mut written = 0;
        while written < bytes.len() {
            match self.protocol.send_stream(stream()).write(&bytes[written..]) {
                Ok(more) => written += more,
                Err(WriteError::Blocked) => break,
                Err(WriteError::Stopped(_) | WriteError::ClosedStream) => return bytes.len(),
            }
        }
        written
    }

    /// There may be room again. True when everything that waited is written.
    pub(super) fn write_on(&mut self) -> bool {
        let Some(mut unsent) = self.unsent.take() else {
            return false;
        };
        unsent.written += self.write(&unsent.bytes[unsent.written..]);
        if unsent.written < unsent.bytes.len() {
            self.unsent = Some(unsent);
            return false;
        }
        true
    }

    /// Ends the first stream after what was written. False when its end is known already: it was stopped.
    pub(super) fn finish(&mut self) -> bool {
        self.unsent.is_some() || self.protocol.send_stream(stream()).finish().is_ok()
    }

    /// It is over, by the peer's doing.
    pub(super) fn lost(&mut self) {
        self.stage = Stage::Closed;
        self.unsent = None;
        self.data = None;
        self.deadline_ms = u64::MAX;
    }

    /// Closes the connection at once.
    pub(super) fn close(&mut self, now: Instant, code: ErrorCode) {
        let words = Bytes::from_static(code.words());
        self.protocol.close(now, code.number(), words);
        self.lost();
    }

    /// The client wants nothing more from this server.
    pub(super) fn stopped(&mut self) {
        self.unsent = None;
        // It answers the client, unless it has been reset before.
        let _ = self
            .protocol
            .send_stream(stream())
            .reset(VarInt::from_u32(0));
    }
}

/// Reads what has come on a stream, in order, into `out`.
pub(super) fn read_stream(protocol: &mut Protocol, id: StreamId, out: &mut Vec<u8>) -> Read {
    let mut receiving = protocol.recv_stream(id);
    let Ok(mut chunks) = receiving.read(true) else {
        return Read::Blocked;
    };
    let read = loop {
        match chunks.next(usize::MAX) {
            Ok(Some(chunk)) => out.extend_from_slice(&chunk.bytes),
            Err(ReadError::Blocked) => break Read::Blocked,
            Ok(None) | Err(ReadError::Reset(_)) => break Read::Ended,
        }
    };
    // Whether there is something to send now: the caller asks the connection in any case.
    let _ = chunks.finalize();
    read
}
