//! Frames of the bus: what two nodes write to each other over one connection. A header of 32 bytes in little endian, then a body:
//!
//! ```text
//! 0        4      5       6         8           10        12      16      24         32
//! │ length │ kind │ flags │ version │ from core │ to core │ check │ epoch │ sequence │ body of `length` bytes
//! ```
//!
//! The header is the same in every version of the protocol, so that two nodes that have no version in common can tell each other.
//! A body means something to [`crate::hello`], [`crate::link`] or the gateway; here it is bytes.
//!
//! The check finds a stream that is out of step. That nobody has changed it is for TLS to see.

use core::fmt;

/// Bytes of a header.
pub const HEADER_BYTES: usize = 32;
/// Bytes of the body of a message at most: what is longer is refused to the sender.
pub const BODY_BYTES_MAX: u32 = 16 << 20;
/// Bytes of the body of any other frame at most. Before both have said who they are, no frame is longer.
pub const CONTROL_BODY_BYTES_MAX: u32 = 1024;
/// Bytes of an encoded view at most: [`crate::limits::MEMBERS_MAX`] members with the longest references.
pub const VIEW_BODY_BYTES_MAX: u32 = 1 << 20;
/// What a decoder keeps allocated between two frames at most.
const KEPT_BYTES: usize = 16 << 10;

/// May be dropped under pressure.
const LOSSY: u8 = 1 << 0;
/// May have been sent before.
const RETRY: u8 = 1 << 1;
/// Who does not know the kind goes on behind the frame.
const SKIPPABLE: u8 = 1 << 7;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Who one is and what came last. The first frame of each side.
    Hello = 1,
    /// Why the other is not spoken to. The last frame.
    Refused = 2,
    /// A message of a core to a core. The only kind that counts against the credit.
    Message = 3,
    /// All messages up to `sequence` were taken.
    Received = 4,
    /// Are you there? `sequence` is the number of the question.
    Ping = 5,
    /// Yes: the answer to the ping with this number.
    Pong = 6,
    /// The view that the sender is at.
    View = 7,
    /// Give me your view. On control links alone, as the next one.
    Pull = 8,
    /// The sender's view, encoded; empty when it has none.
    Content = 9,
}

impl Kind {
    const ALL: [Self; 9] = [
        Self::Hello,
        Self::Refused,
        Self::Message,
        Self::Received,
        Self::Ping,
        Self::Pong,
        Self::View,
        Self::Pull,
        Self::Content,
    ];

    fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == byte)
    }

    const fn body_bytes_max(self) -> u32 {
        match self {
            Self::Message => BODY_BYTES_MAX,
            Self::Content => VIEW_BODY_BYTES_MAX,
            _ => CONTROL_BODY_BYTES_MAX,
        }
    }
}

/// What a header says, but for the length of the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the frame is.
    pub kind: Kind,
    /// True when it may be dropped under pressure.
    pub lossy: bool,
    /// True when it may have been sent before, by another way.
    pub retry: bool,
    /// The version of the protocol it was written in.
    pub version: u16,
    /// Core number of the sender; 0 for frames that are not messages.
    pub from_core: u16,
    /// Core number of the receiver; 0 for frames that are not messages.
    pub to_core: u16,
    /// Number of the view under which it was written.
    pub epoch: u64,
    /// Of a message its place in the link; else as [`Kind`] says.
    pub sequence: u64,
}

impl Header {
    /// The header of a frame without cores, flags and sequence.
    pub const fn control(kind: Kind, version: u16) -> Self {
        Self {
            kind,
            lossy: false,
            retry: false,
            version,
            from_core: 0,
            to_core: 0,
            epoch: 0,
            sequence: 0,
        }
    }

    /// The bytes of this header before a body of `body_bytes`.
    ///
    /// # Panics
    /// When the body is longer than the kind allows: no decoder would take it.
    pub fn encode(&self, body_bytes: usize) -> [u8; HEADER_BYTES] {
        let length = u32::try_from(body_bytes).unwrap_or(u32::MAX);
        assert!(
            length <= self.kind.body_bytes_max(),
            "a body of {body_bytes} bytes in a frame {:?}",
            self.kind
        );
        let mut bytes = [0; HEADER_BYTES];
        bytes[0..4].copy_from_slice(&length.to_le_bytes());
        bytes[4] = self.kind as u8;
        bytes[5] = if self.lossy { LOSSY } else { 0 } | if self.retry { RETRY } else { 0 };
        bytes[6..8].copy_from_slice(&self.version.to_le_bytes());
        bytes[8..10].copy_from_slice(&self.from_core.to_le_bytes());
        bytes[10..12].copy_from_slice(&self.to_core.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.epoch.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.sequence.to_le_bytes());
        seal(&mut bytes);
        bytes
    }

    /// Appends the frame of this header and `body`.
    ///
    /// # Panics
    /// As [`Header::encode`].
    pub fn write(&self, body: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(&self.encode(body.len()));
        out.extend_from_slice(body);
    }
}

/// Writes the check of a header into it.
pub fn seal(header: &mut [u8; HEADER_BYTES]) {
    let check = check(header);
    header[12..16].copy_from_slice(&check.to_le_bytes());
}

/// Gives an encoded header another sequence.
pub(crate) fn renumber(header: &mut [u8; HEADER_BYTES], sequence: u64) {
    header[24..32].copy_from_slice(&sequence.to_le_bytes());
    seal(header);
}

/// A mix of all of a header but the check: 32 bits in which any other header differs, but for one in four thousand millions.
fn check(header: &[u8; HEADER_BYTES]) -> u32 {
    let words = [
        le_u64(header, 0),
        le_u64(header, 8) & 0xFFFF_FFFF,
        le_u64(header, 16),
        le_u64(header, 24),
    ];
    let mixed = words
        .into_iter()
        .fold(0x526F_6164_7374_6561, |mixed, word| {
            let mixed = (mixed ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            mixed ^ (mixed >> 32)
        });
    (mixed.wrapping_mul(0x94D0_49BB_1331_11EB) >> 32) as u32
}

fn le_u64(header: &[u8; HEADER_BYTES], at: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&header[at..at + 8]);
    u64::from_le_bytes(bytes)
}

fn le_u16(header: &[u8; HEADER_BYTES], at: usize) -> u16 {
    u16::from_le_bytes([header[at], header[at + 1]])
}

/// One whole frame.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What its header says.
    pub header: Header,
    /// What follows it.
    pub body: &'a [u8],
}

impl fmt::Debug for Frame<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What clients send is shown nowhere.
        let (header, body_bytes) = (&self.header, self.body.len());
        f.debug_struct("Frame")
            .field("header", header)
            .field("body_bytes", &body_bytes)
            .finish()
    }
}

/// Why a stream of frames cannot be read on. The connection is to be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The peer has a bug, or something that is no node writes into the connection.
    #[error(
        "the check of a frame's header is wrong: the stream is out of step; does a node of this cluster listen there?"
    )]
    Check,
    /// The peer has a bug.
    #[error(
        "a frame of kind {kind} has a body of {length} bytes, {length_max} are allowed: the peer does not keep the protocol"
    )]
    Length {
        /// Its kind, as a number.
        kind: u8,
        /// What it claims.
        length: u32,
        /// What is allowed now.
        length_max: u32,
    },
    /// The peer has a bug, or is newer and needs to be understood.
    #[error(
        "a frame of the unknown kind {kind}, of version {version}: the peer does not keep the protocol, or one of the nodes is too old for the other"
    )]
    UnknownKind {
        /// The kind, as a number.
        kind: u8,
        /// The version it was written in.
        version: u16,
    },
}

/// Finds frames in a stream of bytes that comes in any pieces.
///
/// A frame that lies whole in the bytes of one call is not copied. A part of one is kept, and takes memory for what has come of it, not
/// for what its length claims.
#[derive(Debug)]
pub struct Decoder {
    /// The newest version that is spoken here: unknown kinds of it are errors.
    version: u16,
    /// The start of a frame whose rest has not come, or the frame that was given out last.
    partial: Vec<u8>,
    /// True exactly when `partial` is a frame that was given out.
    is_given: bool,
    /// Bytes to pass over, of a frame that nobody here knows.
    skip: usize,
    /// Frames that were passed over.
    skipped: u64,
    /// What any body is allowed to have now.
    body_bytes_max: u32,
    failed: Option<FrameError>,
}

/// Where the next frame is.
enum Place<'b> {
    /// Not here yet.
    More,
    /// In the bytes that came.
    Here(Header, &'b [u8]),
    /// In what was kept.
    Kept(Header),
}

impl Decoder {
    /// At the start of a connection, where frames are short.
    pub const fn new(version: u16) -> Self {
        Self {
            version,
            partial: Vec::new(),
            is_given: false,
            skip: 0,
            skipped: 0,
            body_bytes_max: CONTROL_BODY_BYTES_MAX,
            failed: None,
        }
    }

    /// From now on messages may come.
    pub fn allow_messages(&mut self) {
        self.body_bytes_max = BODY_BYTES_MAX;
    }

    /// From now on views may come, and no messages.
    pub fn allow_views(&mut self) {
        self.body_bytes_max = VIEW_BODY_BYTES_MAX;
    }

    /// Takes the next frame off `bytes`. `None` when they are used up.
    ///
    /// # Errors
    /// What makes the stream unreadable; then always the same.
    pub fn decode<'a, 'b: 'a>(
        &'a mut self,
        bytes: &mut &'b [u8],
    ) -> Result<Option<Frame<'a>>, FrameError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        if self.is_given {
            self.is_given = false;
            self.partial.clear();
            self.partial.shrink_to(KEPT_BYTES);
        }
        match self.advance(bytes) {
            Ok(Place::More) => Ok(None),
            Ok(Place::Here(header, body)) => Ok(Some(Frame { header, body })),
            Ok(Place::Kept(header)) => {
                self.is_given = true;
                let body = &self.partial[HEADER_BYTES..];
                Ok(Some(Frame { header, body }))
            }
            Err(error) => {
                self.failed = Some(error);
                self.partial = Vec::new();
                Err(error)
            }
        }
    }

    /// Frames of newer versions that were passed over.
    pub const fn skipped(&self) -> u64 {
        self.skipped
    }

    /// Memory that it holds.
    pub const fn held_bytes(&self) -> usize {
        self.partial.capacity()
    }

    fn advance<'b>(&mut self, bytes: &mut &'b [u8]) -> Result<Place<'b>, FrameError> {
        loop {
            let over = self.skip.min(bytes.len());
            *bytes = &bytes[over..];
            self.skip -= over;
            if bytes.is_empty() {
                return Ok(Place::More);
            }
            if self.partial.is_empty()
                && let Some(header) = bytes.first_chunk()
            {
                let (known, length) = self.header(header)?;
                let end = HEADER_BYTES + length;
                let Some(header) = known else {
                    *bytes = &bytes[HEADER_BYTES..];
                    self.pass_over(length);
                    continue;
                };
                if end <= bytes.len() {
                    let (frame, rest) = bytes.split_at(end);
                    *bytes = rest;
                    return Ok(Place::Here(header, &frame[HEADER_BYTES..]));
                }
            }
            if !self.fill(HEADER_BYTES, bytes) {
                return Ok(Place::More);
            }
            let Some(header) = self.partial.first_chunk() else {
                return Ok(Place::More);
            };
            let (known, length) = self.header(header)?;
            let Some(header) = known else {
                self.partial.clear();
                self.pass_over(length);
                continue;
            };
            let is_whole = self.fill(HEADER_BYTES + length, bytes);
            return Ok(if is_whole {
                Place::Kept(header)
            } else {
                Place::More
            });
        }
    }

    fn pass_over(&mut self, body_bytes: usize) {
        self.skip = body_bytes;
        self.skipped += 1;
    }

    /// Takes bytes until `partial` has `wanted`; true when it has.
    fn fill(&mut self, wanted: usize, bytes: &mut &[u8]) -> bool {
        let missing = wanted.saturating_sub(self.partial.len());
        let (taken, rest) = bytes.split_at(missing.min(bytes.len()));
        self.partial.extend_from_slice(taken);
        *bytes = rest;
        self.partial.len() >= wanted
    }

    /// What a header says, `None` when its frame is to be passed over; and the length of the body.
    fn header(&self, bytes: &[u8; HEADER_BYTES]) -> Result<(Option<Header>, usize), FrameError> {
        if le_u64(bytes, 8) >> 32 != u64::from(check(bytes)) {
            return Err(FrameError::Check);
        }
        let length = le_u64(bytes, 0) as u32;
        let (kind, flags, version) = (bytes[4], bytes[5], le_u16(bytes, 6));
        let known = Kind::from_byte(kind);
        if known.is_none() && (flags & SKIPPABLE == 0 || version <= self.version) {
            return Err(FrameError::UnknownKind { kind, version });
        }
        let length_max = known
            .map_or(BODY_BYTES_MAX, Kind::body_bytes_max)
            .min(self.body_bytes_max);
        if length > length_max {
            return Err(FrameError::Length {
                kind,
                length,
                length_max,
            });
        }
        let header = known.map(|kind| Header {
            kind,
            lossy: flags & LOSSY != 0,
            retry: flags & RETRY != 0,
            version,
            from_core: le_u16(bytes, 8),
            to_core: le_u16(bytes, 10),
            epoch: le_u64(bytes, 16),
            sequence: le_u64(bytes, 24),
        });
        Ok((header, length as usize))
    }
}
