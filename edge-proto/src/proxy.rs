//! The header with which a proxy says whose connection it hands over (HAProxy's PROXY protocol, versions 1 and 2).
//!
//! It is the first thing on a connection, before TLS. Whether the peer may send one is the caller's to know: a header from
//! anybody but a proxy of one's own is a forged address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The longest header that is read, in bytes. Addresses take 52 of them; the rest is for what a proxy adds (type-length-values: a
/// name, a certificate), which is stepped over.
pub const HEADER_LENGTH_MAX: usize = 4 * 1024;

/// The longest line of version 1, its end included (§2.1).
const LINE_LENGTH_MAX: usize = 107;
const LINE_START: &[u8] = b"PROXY ";
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family and transport, length.
const FIXED_LENGTH: usize = 16;

const TYPE_CRC32C: u8 = 0x03;

/// Whose connection it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The proxy's own (a health check), or that of somebody without an IP address: the connection's own addresses count.
    Proxy,
    /// That of a client.
    Client {
        /// Where the client is.
        source: SocketAddr,
        /// Where it connected to.
        destination: SocketAddr,
    },
}

/// A complete header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Whose connection it is.
    pub origin: Origin,
    /// Length of the header in bytes. What follows is the client's.
    pub length: usize,
}

/// What is wrong with a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProxyError {
    /// Something else came first: usually the proxy is not set to send headers.
    #[error("no PROXY header at the start of the connection; let the proxy send one (version 2)")]
    Missing,
    /// Not as the specification has it.
    #[error("a malformed PROXY header: {0}")]
    Malformed(&'static str),
    /// Longer than [`HEADER_LENGTH_MAX`].
    #[error("a PROXY header of more than 4 KiB; let the proxy add less")]
    TooLong,
    /// Its checksum is another.
    #[error("a PROXY header whose checksum is wrong: it was damaged on its way")]
    Checksum,
}

/// Reads a header; `None` when more bytes are needed.
///
/// # Errors
/// Why the connection cannot be trusted and must be closed.
pub fn parse(bytes: &[u8]) -> Result<Option<Header>, ProxyError> {
    if begins(bytes, SIGNATURE) {
        parse_binary(bytes)
    } else if begins(bytes, LINE_START) {
        parse_line(bytes)
    } else {
        Err(ProxyError::Missing)
    }
}

/// True when the bytes begin as `start` does, as far as there are any.
fn begins(bytes: &[u8], start: &[u8]) -> bool {
    let common = bytes.len().min(start.len());
    bytes[..common] == start[..common]
}

/// Version 2 (§2.2).
fn parse_binary(bytes: &[u8]) -> Result<Option<Header>, ProxyError> {
    let Some((fixed, _)) = bytes.split_first_chunk::<FIXED_LENGTH>() else {
        return Ok(None);
    };
    let [.., version_command, family_transport, high, low] = *fixed;
    let length = FIXED_LENGTH + usize::from(u16::from_be_bytes([high, low]));
    if version_command >> 4 != 2 {
        return Err(ProxyError::Malformed("a version other than 2"));
    }
    let is_proxied = match version_command & 0x0F {
        0 => false,
        1 => true,
        _ => {
            return Err(ProxyError::Malformed(
                "a command that is neither LOCAL nor PROXY",
            ));
        }
    };
    if length > HEADER_LENGTH_MAX {
        return Err(ProxyError::TooLong);
    }
    let Some(header) = bytes.get(..length) else {
        return Ok(None);
    };
    let body = &header[FIXED_LENGTH..];
    let (origin, extensions) = if is_proxied {
        addresses(family_transport, body)?
    } else {
        // What the addresses of LOCAL are is for nobody to read, not even how long they are.
        return Ok(Some(Header {
            origin: Origin::Proxy,
            length,
        }));
    };
    if let Some(extensions) = extensions {
        check_extensions(header, length - extensions.len())?;
    }
    Ok(Some(Header { origin, length }))
}

/// Who is connected, and what follows the addresses where it is known how long they are.
fn addresses(family_transport: u8, body: &[u8]) -> Result<(Origin, Option<&[u8]>), ProxyError> {
    const SHORT: ProxyError = ProxyError::Malformed("too short for its addresses");
    const UNIX_LENGTH: usize = 216;
    match family_transport {
        0x00 => Ok((Origin::Proxy, None)),
        0x11 => {
            let (block, rest) = body.split_first_chunk::<12>().ok_or(SHORT)?;
            let [s1, s2, s3, s4, d1, d2, d3, d4, sp1, sp2, dp1, dp2] = *block;
            let origin = Origin::Client {
                source: (
                    Ipv4Addr::new(s1, s2, s3, s4),
                    u16::from_be_bytes([sp1, sp2]),
                )
                    .into(),
                destination: (
                    Ipv4Addr::new(d1, d2, d3, d4),
                    u16::from_be_bytes([dp1, dp2]),
                )
                    .into(),
            };
            Ok((origin, Some(rest)))
        }
        0x21 => {
            let (source, rest) = body.split_first_chunk::<16>().ok_or(SHORT)?;
            let (destination, rest) = rest.split_first_chunk::<16>().ok_or(SHORT)?;
            let (ports, rest) = rest.split_first_chunk::<4>().ok_or(SHORT)?;
            let [sp1, sp2, dp1, dp2] = *ports;
            let origin = Origin::Client {
                source: (Ipv6Addr::from(*source), u16::from_be_bytes([sp1, sp2])).into(),
                destination: (Ipv6Addr::from(*destination), u16::from_be_bytes([dp1, dp2])).into(),
            };
            Ok((origin, Some(rest)))
        }
        // Paths of sockets on the proxy's machine.
        0x31 => {
            let rest = body.get(UNIX_LENGTH..).ok_or(SHORT)?;
            Ok((Origin::Proxy, Some(rest)))
        }
        0x12 | 0x22 | 0x32 => Err(ProxyError::Malformed("datagrams, on a connection")),
        _ => Err(ProxyError::Malformed("an unknown family or transport")),
    }
}

/// Steps over type-length-values (§2.2.7), and holds the header against its checksum where it has one.
fn check_extensions(header: &[u8], start: usize) -> Result<(), ProxyError> {
    let mut at = start;
    while at < header.len() {
        let Some(&[kind, high, low]) = header.get(at..at + 3) else {
            return Err(ProxyError::Malformed("an incomplete type-length-value"));
        };
        let value_at = at + 3;
        let end = value_at + usize::from(u16::from_be_bytes([high, low]));
        let Some(value) = header.get(value_at..end) else {
            return Err(ProxyError::Malformed("a value longer than the header"));
        };
        if kind == TYPE_CRC32C {
            let Ok(told) = <[u8; 4]>::try_from(value) else {
                return Err(ProxyError::Malformed("a checksum that is not 4 bytes"));
            };
            // It is of the whole header with zeroes in its own place.
            let mut sum = Crc32c::new();
            sum.add(&header[..value_at]);
            sum.add(&[0; 4]);
            sum.add(&header[end..]);
            if sum.value() != u32::from_be_bytes(told) {
                return Err(ProxyError::Checksum);
            }
        }
        at = end;
    }
    Ok(())
}

/// Version 1, one line of text (§2.1).
fn parse_line(bytes: &[u8]) -> Result<Option<Header>, ProxyError> {
    let bounded = &bytes[..bytes.len().min(LINE_LENGTH_MAX)];
    let Some(end) = bounded.windows(2).position(|pair| pair == b"\r\n") else {
        return if bounded.len() == LINE_LENGTH_MAX {
            Err(ProxyError::Malformed("a line without an end"))
        } else {
            Ok(None)
        };
    };
    let line = std::str::from_utf8(&bounded[LINE_START.len()..end])
        .map_err(|_| ProxyError::Malformed("a line that is no text"))?;
    let length = end + 2;
    let mut words = line.split(' ');
    let origin = match words.next() {
        // What follows is to be ignored.
        Some("UNKNOWN") => Origin::Proxy,
        Some(family @ ("TCP4" | "TCP6")) => {
            let is_v4 = family == "TCP4";
            let mut word = || words.next().unwrap_or_default();
            let (source, destination) = (address(word(), is_v4)?, address(word(), is_v4)?);
            let (source_port, destination_port) = (port(word())?, port(word())?);
            if words.next().is_some() {
                return Err(ProxyError::Malformed("a line with too many words"));
            }
            Origin::Client {
                source: SocketAddr::new(source, source_port),
                destination: SocketAddr::new(destination, destination_port),
            }
        }
        _ => return Err(ProxyError::Malformed("a line with an unknown family")),
    };
    Ok(Some(Header { origin, length }))
}

fn address(word: &str, is_v4: bool) -> Result<IpAddr, ProxyError> {
    let address: Option<IpAddr> = word.parse().ok();
    address
        .filter(|address| address.is_ipv4() == is_v4)
        .ok_or(ProxyError::Malformed("a line with a bad address"))
}

fn port(word: &str) -> Result<u16, ProxyError> {
    let plain =
        word.bytes().all(|byte| byte.is_ascii_digit()) && (word == "0" || !word.starts_with('0'));
    word.parse()
        .ok()
        .filter(|_| plain)
        .ok_or(ProxyError::Malformed("a line with a bad port"))
}

/// CRC-32C (RFC 3720 appendix B.4), bit by bit: one header for a connection needs no table.
struct Crc32c(u32);

impl Crc32c {
    const POLYNOMIAL_REVERSED: u32 = 0x82F6_3B78;

    const fn new() -> Self {
        Self(u32::MAX)
    }

    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 ^= u32::from(*byte);
            for _ in 0..8 {
                let carry = self.0 & 1;
                self.0 = (self.0 >> 1) ^ (Self::POLYNOMIAL_REVERSED * carry);
            }
        }
    }

    const fn value(&self) -> u32 {
        !self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_that_of_the_standard() {
        let sum = |bytes: &[u8]| {
            let mut sum = Crc32c::new();
            sum.add(bytes);
            sum.value()
        };
        assert_eq!(sum(b"123456789"), 0xE306_9283);
        assert_eq!(sum(&[0; 32]), 0x8A91_36AA);
    }
}
