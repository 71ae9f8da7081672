//! What a turn produced, until the event loop hands it out: bytes per connection, messages per core, commands to the
//! engine, answers to the admin side. One buffer per connection that was written to, so that each is flushed once.

use std::collections::VecDeque;
use std::fmt;
use std::net::IpAddr;
use std::ops::Range;

use edge_proto::reason::Violation;
use edge_proto::shown::Length;
use edge_proto::websocket;
use reactor::driver::{Close, ConnectionId};

use crate::access::policy::{Question, Refusal};
use crate::access::rules::Denial;
use crate::admin::AdminReply;
use crate::core_message::CoreMessage;
use crate::engine::Command;
use crate::quic::split_slot;

/// Bytes for one connection.
pub struct Output {
    /// For whom.
    pub connection: ConnectionId,
    /// What to send.
    pub bytes: Vec<u8>,
    /// Start of the payload of the WebSocket frame that is being filled; `None` without WebSocket.
    frame: Option<usize>,
}

impl fmt::Debug for Output {
    /// Without the bytes, which are messages of others.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Output")
            .field("connection", &self.connection)
            .field("bytes", &Length::of(&self.bytes))
            .field("frame", &self.frame)
            .finish()
    }
}

/// An order to the driver about one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Close it after what was written.
    Close(ConnectionId, Close),
    /// Stop reading from it.
    Pause(ConnectionId),
    /// Read from it again.
    Resume(ConnectionId),
    /// Say when everything written to it has been sent.
    Watch(ConnectionId),
}

/// What is for a data stream of a QUIC connection: a stream beyond its first, by number.
#[derive(Debug)]
pub enum ForStream {
    /// The client is let in: its data streams may be read.
    Admit,
    /// Whole packets for one of them.
    Write(u64, Vec<u8>),
    /// Everything that came on one of them is answered, and nothing more will come.
    Finish(u64),
}

/// What a client was not let do, for the log.
#[derive(Debug)]
pub enum Note {
    /// It was not let in.
    Refused {
        /// Its connection.
        connection: ConnectionId,
        /// What it calls itself.
        client: Box<str>,
        /// Why.
        refusal: Refusal,
    },
    /// It may not publish or subscribe.
    Denied {
        /// Its connection.
        connection: ConnectionId,
        /// Its client identifier.
        client: Box<str>,
        /// What it wanted.
        action: &'static str,
        /// The topic or filter.
        topic: Box<str>,
        /// Why.
        denial: Denial,
    },
    /// It is a web page of a site that may not connect.
    Page {
        /// Its connection.
        connection: ConnectionId,
        /// What its browser says of it.
        origin: Box<str>,
    },
    /// It connected again and again, and is kept out for a while.
    Flapping {
        /// Its client identifier.
        client: Box<str>,
        /// Where it comes from.
        peer: IpAddr,
        /// For how long.
        ban_ms: u64,
    },
}

impl Order {
    /// Which connection it is about.
    pub const fn connection(&self) -> ConnectionId {
        match self {
            Self::Close(id, _) | Self::Pause(id) | Self::Resume(id) | Self::Watch(id) => *id,
        }
    }
}

/// The results of a turn.
#[derive(Debug)]
pub struct Outbox {
    core: u16,
    /// The lowest number of this node's cores.
    first_core: u16,
    /// Bytes per connection, in the order of the first write.
    pub outputs: Vec<Output>,
    /// What is for data streams, in order; it comes before the bytes.
    pub streams: Vec<(ConnectionId, ForStream)>,
    /// Orders, in order; they come after the bytes.
    pub orders: Vec<Order>,
    /// Messages to other cores of this node that the mesh has not taken yet, by core: those that may not be lost, and those that may.
    pub mesh: Vec<[VecDeque<CoreMessage>; 2]>,
    /// Messages to cores of other nodes, with their numbers, in order. A node alone has no other cores than those of its mesh, so
    /// nothing comes here; whoever reads it in a cluster bounds it by the credit of the links.
    pub bus: VecDeque<(u16, CoreMessage)>,
    /// Messages to this core, handled before the turn ends.
    pub local: VecDeque<CoreMessage>,
    /// Commands that the engine has not taken yet.
    pub engine: VecDeque<Command>,
    /// Rules that clients broke, for the log.
    pub violations: Vec<(ConnectionId, Violation)>,
    /// What clients were not let do, for the log: as many as a log has use for.
    pub notes: Vec<Note>,
    /// Answers to admin requests.
    pub admin: Vec<(u64, AdminReply)>,
    /// What the control thread is to find out about clients.
    pub questions: Vec<Question>,
    /// Index + 1 into `outputs` by connection slot, 0 = none; of sockets, and of streams of QUIC.
    output_of_slot: [Vec<u32>; 2],
    spare: Vec<Vec<u8>>,
    spare_bytes: usize,
}

impl Outbox {
    /// Bytes of all spare buffers that are kept, and of the largest one.
    const SPARE_BYTES_MAX: usize = 1024 * 1024;
    const SPARE_EACH_BYTES_MAX: usize = 16 * 1024;

    /// An empty outbox of one core; `here` are the cores of its node.
    pub fn new(core: u16, here: Range<u16>) -> Self {
        Self {
            core,
            first_core: here.start,
            outputs: Vec::new(),
            streams: Vec::new(),
            orders: Vec::new(),
            mesh: here.map(|_| Default::default()).collect(),
            bus: VecDeque::new(),
            local: VecDeque::new(),
            engine: VecDeque::new(),
            violations: Vec::new(),
            notes: Vec::new(),
            admin: Vec::new(),
            questions: Vec::new(),
            output_of_slot: Default::default(),
            spare: Vec::new(),
            spare_bytes: 0,
        }
    }

    /// Notes something for the log, unless the turn has noted enough.
    pub fn note(&mut self, note: impl FnOnce() -> Note) {
        const NOTES_MAX: usize = 64;
        if self.notes.len() < NOTES_MAX {
            self.notes.push(note());
        }
    }

    /// Sends a message to a role on a core.
    pub fn tell(&mut self, core: u16, message: CoreMessage) {
        let place = usize::from(core.wrapping_sub(self.first_core));
        if core == self.core {
            self.local.push_back(message);
        } else if let Some(lanes) = self.mesh.get_mut(place) {
            lanes[usize::from(message.is_lossy())].push_back(message);
        } else {
            self.bus.push_back((core, message));
        }
    }

    /// Writes to a connection; returns the number of bytes that were written. With WebSocket they become part of a binary
    /// frame.
    pub fn write(
        &mut self,
        connection: ConnectionId,
        websocket: bool,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> usize {
        let output = self.output(connection);
        if websocket && output.frame.is_none() {
            output.frame = Some(output.bytes.len());
        }
        let before = output.bytes.len();
        write(&mut output.bytes);
        output.bytes.len() - before
    }

    /// Writes bytes to a connection outside any WebSocket data frame: the upgrade response, a control frame.
    pub fn write_raw(
        &mut self,
        connection: ConnectionId,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> usize {
        let output = self.output(connection);
        output.end_frame();
        let before = output.bytes.len();
        write(&mut output.bytes);
        output.bytes.len() - before
    }

    /// Writes to a data stream; returns the number of bytes that were written.
    pub fn write_to_stream(
        &mut self,
        connection: ConnectionId,
        number: u64,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> usize {
        let last = self.streams.last_mut();
        if let Some((_, ForStream::Write(_, bytes))) = last.filter(|(id, what)| {
            *id == connection && matches!(what, ForStream::Write(to, _) if *to == number)
        }) {
            let before = bytes.len();
            write(bytes);
            return bytes.len() - before;
        }
        let mut bytes = self.spare.pop().unwrap_or_default();
        self.spare_bytes -= bytes.capacity();
        write(&mut bytes);
        let written = bytes.len();
        let what = ForStream::Write(number, bytes);
        self.streams.push((connection, what));
        written
    }

    /// Ends the turn for the bytes: frames are closed, and `outputs` can be drained.
    pub fn seal(&mut self) {
        for output in &mut self.outputs {
            output.end_frame();
            let (table, slot) = split_slot(output.connection.slot);
            self.output_of_slot[table][slot as usize] = 0;
        }
    }

    /// Takes an emptied buffer back.
    pub fn recycle(&mut self, mut buffer: Vec<u8>) {
        let bytes = buffer.capacity();
        if bytes <= Self::SPARE_EACH_BYTES_MAX && self.spare_bytes + bytes <= Self::SPARE_BYTES_MAX
        {
            buffer.clear();
            self.spare_bytes += bytes;
            self.spare.push(buffer);
        }
    }

    /// Messages that wait for another core to take them.
    pub fn mesh_backlog(&self) -> usize {
        self.mesh.iter().flatten().map(VecDeque::len).sum()
    }

    /// Those of them that may not be lost.
    pub fn control_backlog(&self) -> usize {
        self.mesh.iter().map(|[control, _]| control.len()).sum()
    }

    /// True when more waits for the engine than this: commands, or bytes that they keep in memory.
    pub fn is_engine_behind(&self, commands_max: usize, bytes_max: usize) -> bool {
        let bytes = || self.engine.iter().map(Command::bytes).sum::<usize>();
        self.engine.len() > commands_max || bytes() > bytes_max
    }

    fn output(&mut self, connection: ConnectionId) -> &mut Output {
        let (table, slot) = split_slot(connection.slot);
        let slot = slot as usize;
        let output_of_slot = &mut self.output_of_slot[table];
        if output_of_slot.len() <= slot {
            output_of_slot.resize(slot + 1, 0);
        }
        let known = output_of_slot[slot] as usize;
        if known != 0 && self.outputs[known - 1].connection == connection {
            return &mut self.outputs[known - 1];
        }
        let bytes = self.spare.pop().unwrap_or_default();
        self.spare_bytes -= bytes.capacity();
        self.outputs.push(Output {
            connection,
            bytes,
            frame: None,
        });
        self.output_of_slot[table][slot] = self.outputs.len() as u32;
        self.outputs.last_mut().expect("just pushed")
    }
}

impl Output {
    /// Puts the header of the open WebSocket frame before its payload.
    fn end_frame(&mut self) {
        let Some(start) = self.frame.take() else {
            return;
        };
        let mut header = Vec::with_capacity(10);
        websocket::write_frame_header(
            &mut header,
            websocket::Opcode::Binary,
            self.bytes.len() - start,
        );
        self.bytes.splice(start..start, header);
    }
}
