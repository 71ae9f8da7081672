//! The data types of MQTT (§1.5), read from a byte slice. Every reader borrows; none can run past the end.

use crate::reason::Violation;

/// The largest value of a variable byte integer (§1.5.5).
pub(crate) const VARINT_MAX: u32 = 268_435_455;

const TRUNCATED: Violation =
    Violation::malformed("MQTT5 §1.5", "a field runs past the end of its packet");

/// A cursor over the bytes of one packet or of one property block.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// What was not read yet.
    pub(crate) const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], Violation> {
        let (head, rest) = self.rest.split_at_checked(count).ok_or(TRUNCATED)?;
        self.rest = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Violation> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(TRUNCATED)?;
        self.rest = rest;
        Ok(*head)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Violation> {
        Ok(u8::from_be_bytes(self.array()?))
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Violation> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Violation> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    /// A variable byte integer (§1.5.5).
    pub(crate) fn varint(&mut self) -> Result<u32, Violation> {
        let (value, length) = varint(self.rest)?.ok_or(TRUNCATED)?;
        self.rest = &self.rest[length..];
        Ok(value)
    }

    /// Binary data (§1.5.6).
    pub(crate) fn binary(&mut self) -> Result<&'a [u8], Violation> {
        let length = self.u16()?;
        self.take(usize::from(length))
    }

    /// A UTF-8 encoded string (§1.5.4). Control characters and non-characters are accepted: that they are left out is
    /// only a recommendation.
    pub(crate) fn str(&mut self) -> Result<&'a str, Violation> {
        let bytes = self.binary()?;
        let text = str::from_utf8(bytes)
            .map_err(|_| Violation::malformed("MQTT-1.5.4-1", "a string is not valid UTF-8"))?;
        if bytes.contains(&0) {
            return Err(Violation::malformed(
                "MQTT-1.5.4-2",
                "a string contains U+0000",
            ));
        }
        Ok(text)
    }

    /// Fails unless everything was read.
    pub(crate) fn finish(&self) -> Result<(), Violation> {
        if self.is_empty() {
            return Ok(());
        }
        Err(Violation::malformed(
            "MQTT5 §2.1.4",
            "the packet is longer than its contents",
        ))
    }
}

/// A variable byte integer at the start of `bytes` and its length; `None` when more bytes are needed.
pub(crate) fn varint(bytes: &[u8]) -> Result<Option<(u32, usize)>, Violation> {
    let mut value = 0u32;
    for (index, &byte) in bytes.iter().take(4).enumerate() {
        value |= u32::from(byte & 0x7F) << (7 * index);
        if byte & 0x80 == 0 {
            if byte == 0 && index > 0 {
                return Err(Violation::malformed(
                    "MQTT-1.5.5-1",
                    "a variable byte integer is longer than it needs to be",
                ));
            }
            return Ok(Some((value, index + 1)));
        }
    }
    if bytes.len() >= 4 {
        return Err(Violation::malformed(
            "MQTT5 §1.5.5",
            "a variable byte integer has more than four bytes",
        ));
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variable_byte_integers_of_every_length_are_read() {
        for (bytes, value) in [
            (&[0x00][..], 0),
            (&[0x7F], 127),
            (&[0x80, 0x01], 128),
            (&[0xFF, 0x7F], 16_383),
            (&[0x80, 0x80, 0x01], 16_384),
            (&[0xFF, 0xFF, 0xFF, 0x7F], VARINT_MAX),
        ] {
            assert_eq!(varint(bytes), Ok(Some((value, bytes.len()))));
            assert_eq!(varint(&bytes[..bytes.len() - 1]), Ok(None));
        }
    }

    #[test]
    fn a_variable_byte_integer_with_needless_bytes_is_malformed() {
        assert_eq!(varint(&[0x80, 0x00]).unwrap_err().clause, "MQTT-1.5.5-1");
        assert_eq!(
            varint(&[0xFF, 0x80, 0x00]).unwrap_err().clause,
            "MQTT-1.5.5-1"
        );
        assert_eq!(
            varint(&[0x80, 0x80, 0x80, 0x80]).unwrap_err().clause,
            "MQTT5 §1.5.5"
        );
    }

    #[test]
    fn strings_with_a_nul_or_broken_utf8_are_malformed_but_control_characters_pass() {
        fn clause(bytes: &[u8]) -> Result<&str, &'static str> {
            Reader::new(bytes)
                .str()
                .map_err(|violation| violation.clause)
        }
        assert_eq!(clause(&[0, 2, b'a', 0]), Err("MQTT-1.5.4-2"));
        assert_eq!(clause(&[0, 3, 0xED, 0xA0, 0x80]), Err("MQTT-1.5.4-1")); // A surrogate.
        assert_eq!(clause(&[0, 2, 0xC0, 0x80]), Err("MQTT-1.5.4-1")); // An overlong NUL.
        assert_eq!(clause(&[0, 4, 0x01, 0xEF, 0xBF, 0xBE]), Ok("\u{1}\u{FFFE}"));
        assert_eq!(clause(&[0, 3, 0xEF, 0xBB, 0xBF]), Ok("\u{FEFF}")); // MQTT-1.5.4-3: kept.
        assert_eq!(clause(&[0, 3, b'a']), Err("MQTT5 §1.5"));
    }
}
