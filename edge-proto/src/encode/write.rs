//! The data types of MQTT (§1.5), written. The counterpart of `read.rs`.

use crate::packet::{PacketType, UserProperties};
use crate::read::VARINT_MAX;

pub(super) fn u16(out: &mut Vec<u8>, value: u16) {
    out.extend_from_slice(&value.to_be_bytes());
}

pub(super) fn u32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_be_bytes());
}

/// The length in bytes of a variable byte integer.
pub(super) const fn varint_length(value: usize) -> usize {
    match value {
        0..=127 => 1,
        128..=16_383 => 2,
        16_384..=2_097_151 => 3,
        _ => 4,
    }
}

/// # Panics
///
/// When the value is over 268,435,455: whoever makes a packet that long has not checked its length.
pub(super) fn varint(out: &mut Vec<u8>, mut value: usize) {
    assert!(
        value <= VARINT_MAX as usize,
        "a length of {value} bytes does not fit a variable byte integer"
    );
    while value > 0x7F {
        out.push((value & 0x7F) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Binary data, cut at 65,535 bytes.
pub(super) fn binary(out: &mut Vec<u8>, data: &[u8]) {
    let data = &data[..data.len().min(usize::from(u16::MAX))];
    u16(out, data.len() as u16);
    out.extend_from_slice(data);
}

/// A string, cut at the last character boundary within 65,535 bytes.
pub(super) fn str(out: &mut Vec<u8>, text: &str) {
    let end = text.floor_char_boundary(usize::from(u16::MAX));
    binary(out, &text.as_bytes()[..end]);
}

/// Writes what `write` writes, with its length as a variable byte integer in front. For small things: when the length
/// takes more than one byte, what was written is moved.
pub(super) fn with_length(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.push(0);
    write(out);
    let length = out.len() - start - 1;
    assert!(
        length <= VARINT_MAX as usize,
        "a length of {length} bytes does not fit a variable byte integer"
    );
    let prefix_length = varint_length(length);
    if prefix_length > 1 {
        let end = out.len();
        out.resize(end + prefix_length - 1, 0);
        out.copy_within(start + 1..end, start + prefix_length);
    }
    for (index, byte) in out[start..start + prefix_length].iter_mut().enumerate() {
        let more = if index + 1 < prefix_length { 0x80 } else { 0 };
        *byte = (length >> (7 * index)) as u8 & 0x7F | more;
    }
}

/// The first byte of a packet: its type and flags.
pub(super) const fn first_byte(packet_type: PacketType, flags: u8) -> u8 {
    (packet_type as u8) << 4 | flags
}

pub(super) fn property_u8(out: &mut Vec<u8>, id: u8, value: u8) {
    out.extend_from_slice(&[id, value]);
}

pub(super) fn property_u16(out: &mut Vec<u8>, id: u8, value: Option<u16>) {
    if let Some(value) = value {
        out.push(id);
        u16(out, value);
    }
}

pub(super) fn property_u32(out: &mut Vec<u8>, id: u8, value: Option<u32>) {
    if let Some(value) = value {
        out.push(id);
        u32(out, value);
    }
}

pub(super) fn property_str(out: &mut Vec<u8>, id: u8, value: Option<&str>) {
    if let Some(value) = value {
        out.push(id);
        str(out, value);
    }
}

pub(super) fn property_binary(out: &mut Vec<u8>, id: u8, value: Option<&[u8]>) {
    if let Some(value) = value {
        out.push(id);
        binary(out, value);
    }
}

pub(super) fn properties_user(out: &mut Vec<u8>, properties: UserProperties<'_>) {
    for pair in properties.iter() {
        super::user_properties(out, &[pair]);
    }
}
