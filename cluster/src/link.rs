//! One link to one incarnation of another node: messages in order, none lost, none twice, over any number of TCP connections.
//!
//! ```text
//!            connected()                      disconnected(), or an error of receive() or tick()
//!   down ───────────────────▶ up ───────────────────────────────────────────────────────▶ down
//! ```
//!
//! What is sent is kept until the peer has acknowledged it, and written again from there when the next connection comes. So a link
//! never gives up a message that it took; only who drops the link does, because the node is no member any more.
//!
//! **Memory follows the credit**: the peer grants how many bytes may be unacknowledged, and what waits to be written counts too.
//! Without credit a message is refused to who sends it, and a lossy one is dropped and counted; lossy ones get no more than half
//! of the credit, and are written behind what may not be lost. So order holds among lossy messages and among the others.

mod heartbeat;
mod outgoing;

use core::fmt;

use crate::frame::{BODY_BYTES_MAX, Decoder, Frame, FrameError, HEADER_BYTES, Header, Kind};
use crate::hello::Refusal;
use heartbeat::Heartbeat;
use outgoing::Outgoing;

/// What a link allows itself and its peer.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes that the peer may have unacknowledged. At the bound its messages wait with it. What this side may have is the same
    /// until the peer has said.
    pub credit_bytes: u32,
    /// From one question whether the peer is there to the next, in milliseconds.
    pub heartbeat_ms: u64,
    /// Questions without an answer, after which the peer is unreachable.
    pub missed_max: u32,
    /// How long an acknowledgement waits for something to go with, in milliseconds. It goes at once when a quarter of the credit is
    /// used.
    pub acknowledge_ms: u64,
    /// Bytes of messages that are written at once, or one message.
    pub output_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            credit_bytes: 4 << 20,
            heartbeat_ms: 500,
            missed_max: 4,
            acknowledge_ms: 100,
            output_bytes: 256 << 10,
        }
    }
}

/// Links of two nodes at most.
pub const LINKS_MAX: u16 = 8;

/// How many links two nodes have: fewer per pair the more nodes there are, so that a node has some 1,024 at most, and one per core
/// at most.
pub fn number_of_links(nodes: usize, cores_a: u16, cores_b: u16) -> u16 {
    const LINKS_OF_NODE: usize = 1024;
    let share = LINKS_OF_NODE / nodes.saturating_sub(1).max(1);
    let share = u16::try_from(share).unwrap_or(u16::MAX);
    share.min(cores_a).min(cores_b).clamp(1, LINKS_MAX)
}

/// Which link the messages of a core take, and which core holds the link, on either side: link *i* is on core *i*. `core` counts
/// from 0 on each node. It is the sender's, so that a core knows without asking whether there is credit; the same core always has the
/// same link, which keeps what it sends to one core in order.
///
/// # Panics
/// When there are no links.
pub fn link_of_core(core: u16, links: u16) -> u16 {
    core % links
}

/// A message between two cores of different nodes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    /// Core number of the sender.
    pub from_core: u16,
    /// Core number of the receiver.
    pub to_core: u16,
    /// Number of the sender's view.
    pub epoch: u64,
    /// True when it may be dropped under pressure.
    pub lossy: bool,
    /// True when it may have been sent before, by another way.
    pub retry: bool,
    /// What only the gateway can read.
    pub body: &'a [u8],
}

impl fmt::Debug for Message<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What clients send is shown nowhere.
        f.debug_struct("Message")
            .field("from_core", &self.from_core)
            .field("to_core", &self.to_core)
            .field("epoch", &self.epoch)
            .field("lossy", &self.lossy)
            .field("retry", &self.retry)
            .field("body_bytes", &self.body.len())
            .finish()
    }
}

/// What a peer sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Incoming<'a> {
    /// A message, each once and in order.
    Message(Message<'a>),
    /// The view that the peer is at.
    View {
        /// Its number.
        epoch: u64,
        /// Its hash.
        hash: u64,
    },
}

/// Why a message was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsent {
    /// The peer is slow or away. It is to be sent again when there is room: until then, publishers are not to be read.
    #[error("the link has no room: wait until it has")]
    NoRoom,
    /// The same for a lossy message, which is gone, and counted.
    #[error("the link has no room for a message that may be lost: it is dropped")]
    Dropped,
    /// No frame is as long. Such a message will never be taken.
    #[error(
        "a message between nodes has {BODY_BYTES_MAX} bytes at most: lower `mqtt.maximum_packet_size`"
    )]
    TooLong,
}

/// What ends a connection. The link waits for the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// What is no frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A frame was replayed or is missing, which TCP and TLS do not allow.
    #[error("message {got} came where {expected} was due: the peer does not keep the protocol")]
    OutOfOrder {
        /// The next in order.
        expected: u64,
        /// What came.
        got: u64,
    },
    /// The peer acknowledged what it was not sent, or took back what it had.
    #[error(
        "message {got} was acknowledged, {last} was the last one sent: the peer does not keep the protocol"
    )]
    Acknowledged {
        /// What the peer claims to have.
        got: u64,
        /// What it can have.
        last: u64,
    },
    /// The peer floods.
    #[error("the peer sent more than the {0} bytes it was granted: it does not keep the protocol")]
    OverCredit(u32),
    /// A kind that has no place here, or a body that is none.
    #[error("a frame {0:?} came that has no place there: the peer does not keep the protocol")]
    Unexpected(Kind),
    /// The peer ended it.
    #[error("the peer ended the connection: {0}")]
    Refused(Refusal),
    /// Questions were not answered.
    #[error("the peer has not answered for {0} ms: it hangs, or the network is cut")]
    Unreachable(u64),
}

/// What a link has counted since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Connections that came about.
    pub connections: u64,
    /// Messages that were written the first time.
    pub sent: u64,
    /// Messages that were written again.
    pub resent: u64,
    /// Messages that came.
    pub received: u64,
    /// Lossy messages that were dropped without credit.
    pub dropped: u64,
    /// Messages that were refused without credit.
    pub refused: u64,
    /// Frames of newer versions that were passed over.
    pub skipped: u64,
    /// Connections that ended because the peer broke a rule.
    pub violations: u64,
    /// Connections that ended because the peer did not answer.
    pub unreachable: u64,
}

/// One link. See the module.
#[derive(Debug)]
pub struct Link {
    limits: Limits,
    version: u16,
    outgoing: Outgoing,
    /// The last message that came.
    received: u64,
    /// The view that the peer is to hear of.
    view: Option<(u64, u64)>,
    connection: Option<Connection>,
    counters: Counters,
}

/// What ends with a TCP connection.
#[derive(Debug)]
struct Connection {
    decoder: Decoder,
    heartbeat: Heartbeat,
    /// The peer's question that waits for its answer.
    pong: Option<u64>,
    owed: Owed,
}

/// What was received and not acknowledged.
#[derive(Debug, Default)]
struct Owed {
    /// Bytes of all of it.
    bytes: u64,
    /// Bytes of the longest frame.
    longest: u64,
    /// When it is to be acknowledged, at the latest; `None` when there is nothing.
    due_ms: Option<u64>,
}

impl Link {
    /// A link that has never been connected, on which version `version` of the protocol is spoken: a matter of the two incarnations.
    pub fn new(version: u16, limits: Limits) -> Self {
        Self {
            limits,
            version,
            outgoing: Outgoing::new(version, limits.credit_bytes),
            received: 0,
            view: None,
            connection: None,
            counters: Counters::default(),
        }
    }

    /// The version that is spoken.
    pub const fn version(&self) -> u16 {
        self.version
    }

    /// The last message that was received: to be said in HELLO.
    pub const fn received(&self) -> u64 {
        self.received
    }

    /// What is granted to the peer: to be said in HELLO.
    pub const fn credit_bytes(&self) -> u32 {
        self.limits.credit_bytes
    }

    /// What was counted.
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// True between [`Link::connected`] and the end of that connection.
    pub const fn is_up(&self) -> bool {
        self.connection.is_some()
    }

    /// Both sides have said HELLO on a new connection, and the peer's had these two numbers. An earlier connection is over.
    /// `decoder` has read the HELLO; bytes behind it are for [`Link::receive`].
    ///
    /// # Errors
    /// The peer does not go on where this link is.
    pub fn connected(
        &mut self,
        now_ms: u64,
        peer_received: u64,
        peer_credit_bytes: u32,
        mut decoder: Decoder,
    ) -> Result<(), LinkError> {
        self.disconnected();
        self.outgoing
            .resume(peer_received, peer_credit_bytes)
            .inspect_err(|_| self.counters.violations += 1)?;
        decoder.allow_messages();
        self.connection = Some(Connection {
            decoder,
            heartbeat: Heartbeat::new(now_ms, self.limits.heartbeat_ms, self.limits.missed_max),
            pong: None,
            owed: Owed::default(),
        });
        self.counters.connections += 1;
        Ok(())
    }

    /// The connection is gone. What was not acknowledged will be written to the next one.
    pub fn disconnected(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.counters.skipped += connection.decoder.skipped();
        }
    }

    /// True exactly when a message that may not be lost would be taken. While it is false, publishers are not to be read.
    pub fn has_room(&self) -> bool {
        self.outgoing.has_room()
    }

    /// Bytes that wait to be written or acknowledged.
    pub fn queued_bytes(&self) -> u64 {
        self.outgoing.queued_bytes()
    }

    /// Memory that it holds.
    pub fn held_bytes(&self) -> usize {
        let decoder = self.connection.as_ref().map(|one| one.decoder.held_bytes());
        self.outgoing.held_bytes() + decoder.unwrap_or(0)
    }

    /// Takes a message to be sent, whether or not there is a connection.
    ///
    /// # Errors
    /// It was not taken.
    pub fn send(&mut self, message: &Message<'_>) -> Result<(), Unsent> {
        let result = self.outgoing.push(message);
        match result {
            Err(Unsent::NoRoom) => self.counters.refused += 1,
            Err(Unsent::Dropped) => self.counters.dropped += 1,
            Ok(()) | Err(Unsent::TooLong) => {}
        }
        result
    }

    /// The view is another one: the peer hears of it before the next message.
    pub fn tell_view(&mut self, epoch: u64, hash: u64) {
        self.view = Some((epoch, hash));
    }

    /// Reads what came and hands it to `sink`, in order.
    ///
    /// # Errors
    /// The connection has ended here and is to be closed. What was handed out before counts.
    pub fn receive(
        &mut self,
        now_ms: u64,
        mut bytes: &[u8],
        mut sink: impl FnMut(Incoming<'_>),
    ) -> Result<(), LinkError> {
        let Some(connection) = &mut self.connection else {
            return Ok(());
        };
        let result = loop {
            let frame = match connection.decoder.decode(&mut bytes) {
                Ok(Some(frame)) => frame,
                Ok(None) => break Ok(()),
                Err(error) => break Err(error.into()),
            };
            let Frame { header, body } = frame;
            let result = match header.kind {
                Kind::Message => {
                    let frame_bytes = (HEADER_BYTES + body.len()) as u64;
                    let expected = self.received + 1;
                    if header.sequence != expected {
                        let got = header.sequence;
                        Err(LinkError::OutOfOrder { expected, got })
                    } else if !connection.owed.is_allowed(frame_bytes, &self.limits) {
                        Err(LinkError::OverCredit(self.limits.credit_bytes))
                    } else {
                        self.received = expected;
                        self.counters.received += 1;
                        connection.owed.add(frame_bytes, now_ms, &self.limits);
                        sink(Incoming::Message(message_of(&header, body)));
                        Ok(())
                    }
                }
                Kind::View => hash_of(body).map(|hash| {
                    let epoch = header.epoch;
                    sink(Incoming::View { epoch, hash });
                }),
                Kind::Received => credit_of(body).and_then(|credit| {
                    let moved = self.outgoing.acknowledged(header.sequence, credit)?;
                    if moved {
                        connection.heartbeat.answered(now_ms);
                    }
                    Ok(())
                }),
                Kind::Ping => {
                    connection.pong = Some(header.sequence);
                    Ok(())
                }
                Kind::Pong => {
                    connection.heartbeat.pong(header.sequence, now_ms);
                    Ok(())
                }
                Kind::Refused => Err(LinkError::Refused(Refusal::decode(body))),
                kind @ (Kind::Hello | Kind::Pull | Kind::Content) => {
                    Err(LinkError::Unexpected(kind))
                }
            };
            if result.is_err() {
                break result;
            }
        };
        result.inspect_err(|error| self.failed(error))
    }

    /// Looks at what is due. To be called at [`Link::next_deadline_ms`], or earlier.
    ///
    /// # Errors
    /// The peer is unreachable: the connection has ended here and is to be closed.
    pub fn tick(&mut self, now_ms: u64) -> Result<(), LinkError> {
        self.outgoing.give_back(now_ms);
        let Some(connection) = &mut self.connection else {
            return Ok(());
        };
        let result = connection.heartbeat.tick(now_ms);
        result.inspect_err(|error| self.failed(error))
    }

    /// When [`Link::tick`] and then [`Link::output`] have something to do; `None` while the link is down.
    pub fn next_deadline_ms(&self) -> Option<u64> {
        let connection = self.connection.as_ref()?;
        let heartbeat = connection.heartbeat.next_ms();
        let owed = connection.owed.due_ms;
        Some(owed.map_or(heartbeat, |due_ms| due_ms.min(heartbeat)))
    }

    /// True exactly when [`Link::output`] would write.
    pub fn has_output(&self, now_ms: u64) -> bool {
        self.connection.as_ref().is_some_and(|connection| {
            self.outgoing.has_output()
                || self.view.is_some()
                || connection.pong.is_some()
                || connection.heartbeat.has_ping()
                || connection.owed.is_due(now_ms, &self.limits)
        })
    }

    /// Appends what is to be written now to one contiguous buffer: what concerns the link itself first, then as many messages as
    /// [`Limits::output_bytes`] allows. Whoever calls it writes all of it, or ends the connection.
    pub fn output(&mut self, now_ms: u64, out: &mut Vec<u8>) {
        if !self.has_output(now_ms) {
            return;
        }
        let Some(connection) = &mut self.connection else {
            return;
        };
        let control = |kind, sequence| Header {
            sequence,
            ..Header::control(kind, self.version)
        };
        if let Some((epoch, hash)) = self.view.take() {
            let header = Header {
                epoch,
                ..control(Kind::View, 0)
            };
            header.write(&hash.to_le_bytes(), out);
        }
        if let Some(number) = connection.pong.take() {
            control(Kind::Pong, number).write(&[], out);
        }
        if let Some(number) = connection.heartbeat.take_ping() {
            control(Kind::Ping, number).write(&[], out);
        }
        // It goes with whatever goes.
        if std::mem::take(&mut connection.owed).due_ms.is_some() {
            let credit = self.limits.credit_bytes.to_le_bytes();
            control(Kind::Received, self.received).write(&credit, out);
        }
        let written = self.outgoing.write(self.limits.output_bytes, out);
        self.counters.sent += written.new;
        self.counters.resent += written.again;
    }

    fn failed(&mut self, error: &LinkError) {
        match error {
            LinkError::Unreachable(_) => self.counters.unreachable += 1,
            LinkError::Refused(_) => {}
            _ => self.counters.violations += 1,
        }
        self.disconnected();
    }
}

impl Owed {
    /// Whether the peer may have sent a frame of this length. It may begin one as long as it has any credit, and what may be lost goes
    /// behind what may not: so all but one of its frames have less than the credit.
    fn is_allowed(&self, frame_bytes: u64, limits: &Limits) -> bool {
        let all_but_one = self.bytes + frame_bytes - self.longest.max(frame_bytes);
        all_but_one < limits.credit_bytes.into()
    }

    fn add(&mut self, frame_bytes: u64, now_ms: u64, limits: &Limits) {
        self.bytes += frame_bytes;
        self.longest = self.longest.max(frame_bytes);
        self.due_ms.get_or_insert(now_ms + limits.acknowledge_ms);
    }

    fn is_due(&self, now_ms: u64, limits: &Limits) -> bool {
        let is_much = self.bytes >= u64::from(limits.credit_bytes / 4);
        self.due_ms
            .is_some_and(|due_ms| is_much || now_ms >= due_ms)
    }
}

fn message_of<'a>(header: &Header, body: &'a [u8]) -> Message<'a> {
    Message {
        from_core: header.from_core,
        to_core: header.to_core,
        epoch: header.epoch,
        lossy: header.lossy,
        retry: header.retry,
        body,
    }
}

fn hash_of(body: &[u8]) -> Result<u64, LinkError> {
    let hash = body.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
    hash.ok_or(LinkError::Unexpected(Kind::View))
}

fn credit_of(body: &[u8]) -> Result<u32, LinkError> {
    let credit = body.first_chunk().map(|bytes| u32::from_le_bytes(*bytes));
    credit.ok_or(LinkError::Unexpected(Kind::Received))
}
