//! Received frames, in any pieces, as events (RFC 6455 §5).

use core::fmt;
use core::mem::size_of;

use super::{CONTROL_PAYLOAD_MAX, CloseCode};
use crate::shown::Length;

/// What a peer sent.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// Bytes of the MQTT stream, unmasked; never empty. One frame may come in several of these.
    Data(&'a [u8]),
    /// A ping with its whole payload, at most 125 bytes: to be answered with [`super::pong`].
    Ping(&'a [u8]),
    /// A pong, whose payload does not matter.
    Pong,
    /// A close frame with its status code, if any: to be answered with [`super::close`]. What follows is ignored.
    Close(Option<u16>),
}

impl fmt::Debug for Event<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, bytes) = match self {
            Self::Data(bytes) => ("Data", bytes),
            Self::Ping(bytes) => ("Ping", bytes),
            Self::Pong => return formatter.write_str("Pong"),
            Self::Close(code) => return formatter.debug_tuple("Close").field(code).finish(),
        };
        let bytes = Length::of(bytes);
        formatter.debug_tuple(name).field(&bytes).finish()
    }
}

/// A rule of RFC 6455 or MQTT §6 that the peer broke. The connection is closed with this code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{detail} [{clause}]")]
pub struct FrameError {
    /// The status code to send.
    pub code: CloseCode,
    /// The section of RFC 6455, or the normative statement of MQTT.
    pub clause: &'static str,
    /// What was wrong, in words, without data of the peer.
    pub detail: &'static str,
}

const fn protocol(clause: &'static str, detail: &'static str) -> FrameError {
    FrameError {
        code: CloseCode::ProtocolError,
        clause,
        detail,
    }
}

/// The state of one direction of a connection between two reads.
///
/// ```text
/// First ─▶ Second ─▶ Length16 or Length64 if any ─▶ Mask if any ─▶ Payload ─▶ First
///                                                                         close frame ─▶ Closed
///                                          an error in any state ─▶ Closed
/// ```
#[derive(Debug)]
pub struct Decoder {
    /// Payload bytes of the frame that are still to come; in the length states the length as far as it is read.
    remaining: u64,
    /// The part of a control frame's payload that came already, when it came in pieces.
    partial: Option<Box<Partial>>,
    /// The mask, turned so that its first byte is for the next payload byte. In `Mask`: as far as it is read.
    mask: [u8; 4],
    state: State,
    /// Opcode of the frame.
    opcode: u8,
    /// Bytes of the length or mask that are still to come.
    missing: u8,
    /// True exactly when the frame is the last of its message.
    last: bool,
    /// True exactly when a data message has begun and its last frame has not come.
    in_message: bool,
    /// True exactly when the peer is a client, whose frames are masked.
    masked: bool,
}

const _: () = assert!(size_of::<Decoder>() <= 32);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    First,
    Second,
    Length16,
    Length64,
    Mask,
    Payload,
    Closed,
}

struct Partial {
    length: u8,
    payload: [u8; CONTROL_PAYLOAD_MAX],
}

impl fmt::Debug for Partial {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let length = Length(self.length.into());
        formatter.debug_tuple("Partial").field(&length).finish()
    }
}

const CONTINUATION: u8 = 0x0;
const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xA;

impl Decoder {
    /// For a server: reads what a client sends.
    pub const fn server() -> Self {
        Self::new(true)
    }

    /// For a client: reads what a server sends.
    pub const fn client() -> Self {
        Self::new(false)
    }

    const fn new(masked: bool) -> Self {
        Self {
            remaining: 0,
            partial: None,
            mask: [0; 4],
            state: State::First,
            opcode: 0,
            missing: 0,
            last: false,
            in_message: false,
            masked,
        }
    }

    /// True once a close frame or an error was read: nothing more will come.
    pub const fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed)
    }

    /// Reads all of `bytes`, unmasking them in place, and gives each event to `sink` in order.
    ///
    /// # Errors
    ///
    /// The rule that the peer broke. The events before it were given to `sink`; the decoder is closed.
    pub fn decode(
        &mut self,
        bytes: &mut [u8],
        mut sink: impl FnMut(Event<'_>),
    ) -> Result<(), FrameError> {
        let result = self.read(bytes, &mut sink);
        if result.is_err() {
            self.state = State::Closed;
            self.partial = None;
        }
        result
    }

    fn read(
        &mut self,
        mut bytes: &mut [u8],
        sink: &mut impl FnMut(Event<'_>),
    ) -> Result<(), FrameError> {
        while self.state != State::Closed {
            if self.state == State::Payload {
                bytes = self.payload(bytes, sink)?;
                if self.state == State::Payload {
                    break;
                }
                continue;
            }
            let Some((byte, rest)) = bytes.split_first_mut() else {
                break;
            };
            self.header_byte(*byte)?;
            bytes = rest;
        }
        Ok(())
    }

    fn header_byte(&mut self, byte: u8) -> Result<(), FrameError> {
        match self.state {
            State::First => self.first(byte)?,
            State::Second => self.second(byte)?,
            State::Length16 | State::Length64 => {
                self.remaining = self.remaining << 8 | u64::from(byte);
                self.missing -= 1;
                if self.missing == 0 {
                    self.length_complete()?;
                }
            }
            State::Mask => {
                self.mask[usize::from(4 - self.missing)] = byte;
                self.missing -= 1;
                if self.missing == 0 {
                    self.state = State::Payload;
                }
            }
            State::Payload | State::Closed => {}
        }
        Ok(())
    }

    fn first(&mut self, byte: u8) -> Result<(), FrameError> {
        if byte & 0x70 != 0 {
            return Err(protocol(
                "RFC 6455 §5.2",
                "a reserved bit is set without an extension",
            ));
        }
        self.last = byte & 0x80 != 0;
        self.opcode = byte & 0x0F;
        match self.opcode {
            CONTINUATION if !self.in_message => {
                return Err(protocol(
                    "RFC 6455 §5.4",
                    "a continuation frame without a message",
                ));
            }
            TEXT => {
                return Err(FrameError {
                    code: CloseCode::UnsupportedData,
                    clause: "MQTT-6.0.0-1",
                    detail: "a data frame is not binary",
                });
            }
            BINARY if self.in_message => {
                return Err(protocol(
                    "RFC 6455 §5.4",
                    "a new message within a fragmented one",
                ));
            }
            CONTINUATION | BINARY => self.in_message = !self.last,
            CLOSE | PING | PONG if !self.last => {
                return Err(protocol("RFC 6455 §5.5", "a control frame is fragmented"));
            }
            CLOSE | PING | PONG => {}
            _ => return Err(protocol("RFC 6455 §5.2", "a reserved opcode")),
        }
        self.state = State::Second;
        Ok(())
    }

    fn second(&mut self, byte: u8) -> Result<(), FrameError> {
        if self.masked && byte & 0x80 == 0 {
            return Err(protocol("RFC 6455 §5.1", "a client's frame is not masked"));
        }
        if !self.masked && byte & 0x80 != 0 {
            return Err(protocol("RFC 6455 §5.1", "a server's frame is masked"));
        }
        let length = byte & 0x7F;
        if self.opcode >= CLOSE && usize::from(length) > CONTROL_PAYLOAD_MAX {
            return Err(protocol(
                "RFC 6455 §5.5",
                "a control frame has more than 125 bytes",
            ));
        }
        self.remaining = 0;
        match length {
            126 => (self.state, self.missing) = (State::Length16, 2),
            127 => (self.state, self.missing) = (State::Length64, 8),
            length => {
                self.remaining = u64::from(length);
                self.header_complete();
            }
        }
        Ok(())
    }

    fn length_complete(&mut self) -> Result<(), FrameError> {
        let minimum = if self.state == State::Length16 {
            126
        } else {
            0x1_0000
        };
        if self.remaining < minimum {
            return Err(protocol(
                "RFC 6455 §5.2",
                "a payload length is longer than it needs to be",
            ));
        }
        if self.remaining >> 63 != 0 {
            return Err(protocol(
                "RFC 6455 §5.2",
                "the highest bit of a payload length is set",
            ));
        }
        self.header_complete();
        Ok(())
    }

    fn header_complete(&mut self) {
        (self.state, self.missing) = if self.masked {
            (State::Mask, 4)
        } else {
            (State::Payload, 0)
        };
    }

    /// Reads payload as far as it is here. A frame without payload is complete without another byte.
    fn payload<'b>(
        &mut self,
        bytes: &'b mut [u8],
        sink: &mut impl FnMut(Event<'_>),
    ) -> Result<&'b mut [u8], FrameError> {
        let available = usize::try_from(self.remaining)
            .unwrap_or(usize::MAX)
            .min(bytes.len());
        let (payload, rest) = bytes.split_at_mut(available);
        if self.masked {
            unmask(payload, self.mask);
            self.mask.rotate_left(available % 4);
        }
        self.remaining -= available as u64;
        let complete = self.remaining == 0;
        if complete {
            self.state = State::First;
        }
        if self.opcode < CLOSE {
            if !payload.is_empty() {
                sink(Event::Data(payload));
            }
        } else if complete && self.partial.is_none() {
            self.control(payload, sink)?;
        } else {
            let mut partial = self.partial.take().unwrap_or_default();
            partial.push(payload);
            if complete {
                self.control(partial.payload(), sink)?;
            } else {
                self.partial = Some(partial);
            }
        }
        Ok(rest)
    }

    fn control(
        &mut self,
        payload: &[u8],
        sink: &mut impl FnMut(Event<'_>),
    ) -> Result<(), FrameError> {
        match self.opcode {
            PING => sink(Event::Ping(payload)),
            PONG => sink(Event::Pong),
            _ => {
                let code = close_code(payload)?;
                self.state = State::Closed;
                sink(Event::Close(code));
            }
        }
        Ok(())
    }
}

impl Default for Partial {
    fn default() -> Self {
        Self {
            length: 0,
            payload: [0; CONTROL_PAYLOAD_MAX],
        }
    }
}

impl Partial {
    /// Appends a piece. A control frame's length was checked, so all pieces fit.
    fn push(&mut self, piece: &[u8]) {
        let start = usize::from(self.length);
        self.payload[start..start + piece.len()].copy_from_slice(piece);
        self.length += piece.len() as u8;
    }

    fn payload(&self) -> &[u8] {
        &self.payload[..usize::from(self.length)]
    }
}

/// The status code of a close frame (RFC 6455 §5.5.1, §7.4).
fn close_code(payload: &[u8]) -> Result<Option<u16>, FrameError> {
    if payload.is_empty() {
        return Ok(None);
    }
    let Some((code, reason)) = payload.split_first_chunk() else {
        return Err(protocol(
            "RFC 6455 §5.5.1",
            "a close frame has half a status code",
        ));
    };
    let code = u16::from_be_bytes(*code);
    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(protocol(
            "RFC 6455 §7.4",
            "a close frame has a status code that may not be sent",
        ));
    }
    if str::from_utf8(reason).is_err() {
        return Err(FrameError {
            code: CloseCode::InvalidPayload,
            clause: "RFC 6455 §5.5.1",
            detail: "the reason of a close frame is not UTF-8",
        });
    }
    Ok(Some(code))
}

/// Masks or unmasks (RFC 6455 §5.3), eight bytes at a time.
pub(super) fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    let [a, b, c, d] = mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (chunks, rest) = payload.as_chunks_mut::<8>();
    for chunk in chunks {
        *chunk = (u64::from_ne_bytes(*chunk) ^ wide).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip([a, b, c, d, a, b, c]) {
        *byte ^= mask;
    }
}
