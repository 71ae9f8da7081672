//! A client of quinn-proto with one connection, and what it heard.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Instant;

use bytes::BytesMut;
use quinn_proto::{
    Connection, ConnectionError, ConnectionHandle, DatagramEvent, Dir, EcnCodepoint, Endpoint,
    Event, StreamEvent, StreamId, VarInt, WriteError,
};

use crate::world::server_address;

/// A client with one connection.
pub(crate) struct Client {
    pub(crate) address: SocketAddr,
    pub(crate) endpoint: Endpoint,
    pub(crate) handle: ConnectionHandle,
    pub(crate) connection: Connection,
    pub(crate) is_connected: bool,
    /// True once its first stream is open.
    pub(crate) has_stream: bool,
    pub(crate) lost: Option<ConnectionError>,
    /// What came on its first stream.
    pub(crate) received: Vec<u8>,
    /// What its first stream has not taken yet.
    pub(crate) unsent: Vec<u8>,
    pub(crate) stopped: Vec<VarInt>,
    /// Its further streams, by number.
    pub(crate) data: BTreeMap<u64, DataStream>,
}

/// One of a client's further streams.
#[derive(Default)]
pub(crate) struct DataStream {
    pub(crate) received: Vec<u8>,
    pub(crate) unsent: Vec<u8>,
    /// True once it is to end after what is unsent.
    pub(crate) ends: bool,
    /// True once the server has ended it.
    pub(crate) has_ended: bool,
}

pub(crate) fn stream(index: u64) -> StreamId {
    StreamId::new(quinn_proto::Side::Client, Dir::Bi, index)
}

impl Client {
    pub(crate) fn deliver(&mut self, now: Instant, ecn: Option<EcnCodepoint>, bytes: &[u8]) {
        let mut answer = Vec::new();
        let (from, bytes) = (server_address(), BytesMut::from(bytes));
        let event = self
            .endpoint
            .handle(now, from, None, ecn, bytes, &mut answer);
        if let Some(DatagramEvent::ConnectionEvent(_, event)) = event {
            self.connection.handle_event(event);
        }
    }

    pub(crate) fn drive(&mut self) {
        while let Some(event) = self.connection.poll_endpoint_events() {
            if let Some(event) = self.endpoint.handle_event(self.handle, event) {
                self.connection.handle_event(event);
            }
        }
        while let Some(event) = self.connection.poll() {
            match event {
                Event::Connected => {
                    self.is_connected = true;
                    // Early data that was refused is gone with its streams.
                    let was_refused =
                        self.connection.has_0rtt() && !self.connection.accepted_0rtt();
                    self.has_stream &= !was_refused;
                }
                Event::ConnectionLost { reason } => self.lost = Some(reason),
                Event::Stream(StreamEvent::Stopped { error_code, .. }) => {
                    self.stopped.push(error_code);
                }
                _ => {}
            }
        }
        self.read();
        self.write();
        self.drive_data();
    }

    /// Reads and writes further streams.
    fn drive_data(&mut self) {
        for (number, data) in &mut self.data {
            let id = stream(*number);
            if let Ok(mut chunks) = self.connection.recv_stream(id).read(true) {
                while let Ok(chunk) = chunks.next(usize::MAX) {
                    let Some(chunk) = chunk else {
                        data.has_ended = true;
                        break;
                    };
                    data.received.extend_from_slice(&chunk.bytes);
                }
                let _ = chunks.finalize();
            }
            while !data.unsent.is_empty()
                && let Ok(written) = self.connection.send_stream(id).write(&data.unsent)
            {
                data.unsent.drain(..written);
            }
            if data.ends && data.unsent.is_empty() {
                // It has no effect a second time.
                let _ = self.connection.send_stream(id).finish();
            }
        }
    }

    fn read(&mut self) {
        let mut receiving = self.connection.recv_stream(stream(0));
        let Ok(mut chunks) = receiving.read(true) else {
            return;
        };
        while let Ok(Some(chunk)) = chunks.next(usize::MAX) {
            self.received.extend_from_slice(&chunk.bytes);
        }
        let _ = chunks.finalize();
    }

    pub(crate) fn write(&mut self) {
        while !self.unsent.is_empty() {
            match self.connection.send_stream(stream(0)).write(&self.unsent) {
                Ok(written) => drop(self.unsent.drain(..written)),
                Err(WriteError::Blocked | WriteError::ClosedStream | WriteError::Stopped(_)) => {
                    return;
                }
            }
        }
    }

    /// Bytes that the server's window has no room for.
    pub(crate) fn unsent(&self) -> usize {
        self.unsent.len()
    }
}
