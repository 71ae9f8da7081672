//! WebSocket (RFC 6455) as MQTT uses it (§6): a byte stream in binary frames.
//!
//! [`handshake`] upgrades the HTTP connection, [`Decoder`] turns received bytes into events without a buffer of its
//! own, and the writers below frame what is sent. MQTT packets and frames need not align (MQTT-6.0.0-2): the payloads
//! of all data frames are one stream.

mod decoder;
pub mod handshake;

pub use decoder::{Decoder, Event, FrameError};

/// Opcodes (RFC 6455 §5.2) that are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Opcode {
    /// A binary data frame.
    Binary = 0x2,
    /// The closing handshake.
    Close = 0x8,
    /// Asks for a pong.
    Ping = 0x9,
    /// Answers a ping.
    Pong = 0xA,
}

/// Status codes of a close frame (RFC 6455 §7.4.1) that we send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum CloseCode {
    /// The purpose of the connection is fulfilled.
    Normal = 1000,
    /// The server goes down or the client leaves.
    GoingAway = 1001,
    /// A rule of RFC 6455 was broken.
    ProtocolError = 1002,
    /// A text frame, where only binary frames may be (MQTT-6.0.0-1).
    UnsupportedData = 1003,
    /// The reason of a close frame is not UTF-8.
    InvalidPayload = 1007,
    /// A rule of this server was broken.
    PolicyViolation = 1008,
    /// A message is too big.
    TooBig = 1009,
    /// The server has a bug.
    InternalError = 1011,
    /// The client should connect again later.
    TryAgainLater = 1013,
}

/// The longest payload of a control frame in bytes (RFC 6455 §5.5).
pub const CONTROL_PAYLOAD_MAX: usize = 125;

/// The longest header of a frame that a server sends, in bytes.
pub const SERVER_HEADER_LENGTH_MAX: usize = 10;

/// Writes the header of a server's frame; its payload follows unmasked.
pub fn write_frame_header(out: &mut Vec<u8>, opcode: Opcode, payload_length: usize) {
    header(out, opcode, payload_length, 0);
}

/// Writes a server's close frame. The reason is cut at the last character boundary within 123 bytes.
pub fn close(out: &mut Vec<u8>, code: CloseCode, reason: &str) {
    let reason = &reason[..reason.floor_char_boundary(CONTROL_PAYLOAD_MAX - 2)];
    write_frame_header(out, Opcode::Close, 2 + reason.len());
    out.extend_from_slice(&(code as u16).to_be_bytes());
    out.extend_from_slice(reason.as_bytes());
}

/// Writes a server's pong with the payload of the ping, of which 125 bytes are taken at most.
pub fn pong(out: &mut Vec<u8>, payload: &[u8]) {
    control(out, Opcode::Pong, payload);
}

/// Writes a server's ping, with 125 bytes of payload at most.
pub fn ping(out: &mut Vec<u8>, payload: &[u8]) {
    control(out, Opcode::Ping, payload);
}

fn control(out: &mut Vec<u8>, opcode: Opcode, payload: &[u8]) {
    let payload = &payload[..payload.len().min(CONTROL_PAYLOAD_MAX)];
    write_frame_header(out, opcode, payload.len());
    out.extend_from_slice(payload);
}

/// Writes a whole client's frame, masked with `mask`, which ought to be random (RFC 6455 §5.3).
pub fn write_client_frame(out: &mut Vec<u8>, opcode: Opcode, mask: [u8; 4], payload: &[u8]) {
    header(out, opcode, payload.len(), 0x80);
    out.extend_from_slice(&mask);
    let start = out.len();
    out.extend_from_slice(payload);
    decoder::unmask(&mut out[start..], mask);
}

fn header(out: &mut Vec<u8>, opcode: Opcode, payload_length: usize, mask_bit: u8) {
    out.push(0x80 | opcode as u8);
    match payload_length {
        0..=125 => out.push(mask_bit | payload_length as u8),
        126..=0xFFFF => {
            out.push(mask_bit | 126);
            out.extend_from_slice(&(payload_length as u16).to_be_bytes());
        }
        _ => {
            out.push(mask_bit | 127);
            out.extend_from_slice(&(payload_length as u64).to_be_bytes());
        }
    }
}
