//! Where a packet ends (§2.1): the fixed header, and nothing of what is behind it.

use core::fmt;

use crate::reason::{ReasonCode, Violation};
use crate::shown::Length;
use crate::{packet::PacketType, read};

/// The longest packet that the remaining length can express: five bytes of fixed header and 268,435,455 bytes.
pub const PACKET_LENGTH_MAX: usize = 268_435_460;

/// One whole packet, not decoded yet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Packet type and flags.
    pub first_byte: u8,
    /// Variable header and payload: everything behind the remaining length.
    pub body: &'a [u8],
    /// Length of the whole packet in bytes, fixed header included.
    pub length: usize,
}

impl fmt::Debug for Frame<'_> {
    /// Without the body, which may have a password.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Frame")
            .field("packet_type", &self.packet_type())
            .field("flags", &self.flags())
            .field("body", &Length::of(self.body))
            .field("length", &self.length)
            .finish()
    }
}

impl Frame<'_> {
    /// The packet type; `None` for the reserved type 0.
    pub const fn packet_type(&self) -> Option<PacketType> {
        PacketType::from_u8(self.first_byte >> 4)
    }

    /// The four flag bits of the fixed header.
    pub const fn flags(&self) -> u8 {
        self.first_byte & 0x0F
    }
}

/// Takes the first packet off `bytes`; `None` when more bytes are needed.
///
/// # Errors
///
/// Malformed Packet for a bad remaining length, and Packet too large as soon as the header tells that the packet is
/// longer than `maximum_packet_size` bytes, before its body is here (§3.1.2.11.4, §3.2.2.3.6).
pub fn next_frame(bytes: &[u8], maximum_packet_size: u32) -> Result<Option<Frame<'_>>, Violation> {
    let Some((&first_byte, rest)) = bytes.split_first() else {
        return Ok(None);
    };
    let Some((remaining_length, varint_length)) = read::varint(rest)? else {
        return Ok(None);
    };
    let header_length = 1 + varint_length;
    let length = header_length + remaining_length as usize;
    if length > maximum_packet_size as usize {
        return Err(Violation::new(
            ReasonCode::PacketTooLarge,
            "MQTT5 §3.1.2.11.4",
            "the packet is larger than the maximum packet size of its receiver",
        ));
    }
    let body = bytes.get(header_length..length);
    Ok(body.map(|body| Frame {
        first_byte,
        body,
        length,
    }))
}

/// The length in bytes of the packet that starts `bytes`, once its fixed header is complete and well formed.
pub fn needed(bytes: &[u8]) -> Option<usize> {
    let (remaining_length, varint_length) = read::varint(bytes.get(1..)?).ok()??;
    Some(1 + varint_length + remaining_length as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_is_taken_off_only_when_it_is_complete() {
        let bytes = [0x30, 0x03, 0, 1, b'a', 0xC0];
        for end in 0..5 {
            assert_eq!(next_frame(&bytes[..end], 100), Ok(None));
        }
        let frame = next_frame(&bytes, 100).unwrap().unwrap();
        assert_eq!(
            frame,
            Frame {
                first_byte: 0x30,
                body: &bytes[2..5],
                length: 5
            }
        );
        assert_eq!(needed(&bytes[..1]), None);
        assert_eq!(needed(&bytes[..2]), Some(5));
        assert_eq!(needed(&[0x30, 0x80]), None);
    }

    #[test]
    fn a_packet_over_the_maximum_is_refused_by_its_header() {
        assert_eq!(
            next_frame(&[0x30, 0x09], 10).unwrap_err().reason,
            ReasonCode::PacketTooLarge
        );
        assert_eq!(next_frame(&[0x30, 0x08], 10), Ok(None));
        assert_eq!(
            next_frame(&[0x30, 0xFF, 0xFF, 0xFF, 0x7F], u32::MAX),
            Ok(None)
        );
        assert_eq!(
            next_frame(&[0x30, 0x80, 0x80, 0x80, 0x80], u32::MAX)
                .unwrap_err()
                .reason,
            ReasonCode::MalformedPacket
        );
    }
}
