//! A tiny WebSocket client (RFC 6455): enough to carry MQTT and to break its rules on purpose.

use std::io::{Error, ErrorKind, Result, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::client::read_some;
use crate::{Outcome, Stop, fail};

/// Opcode of a text frame.
pub(crate) const TEXT: u8 = 1;
/// Opcode of a binary frame.
pub(crate) const BINARY: u8 = 2;

const HANDSHAKE_MAX: Duration = Duration::from_secs(5);

/// A WebSocket connection after its handshake.
pub(crate) struct WebSocket {
    stream: TcpStream,
    pending: Vec<u8>,
    /// The Sec-WebSocket-Protocol of the answer.
    pub(crate) subprotocol: Option<String>,
    /// How many data frames that were not binary the server sent.
    pub(crate) wrong_frames: usize,
}

impl WebSocket {
    /// Opens a connection and offers these subprotocols.
    pub(crate) fn open(address: SocketAddr, offer: &str) -> Outcome<Self> {
        let text = |error: Error| Stop::Failed(format!("WebSocket handshake: {error}"));
        let mut stream = TcpStream::connect_timeout(&address, HANDSHAKE_MAX).map_err(text)?;
        stream.set_nodelay(true).map_err(text)?;
        // The key of RFC 6455 §1.3; the answer to it is known.
        let request = format!(
            "GET /mqtt HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Protocol: {offer}\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).map_err(text)?;
        let deadline = Instant::now() + HANDSHAKE_MAX;
        let mut pending = Vec::new();
        let end = loop {
            if let Some(at) = pending.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || read_some(&mut stream, left, &mut pending).map_err(text)? == 0 {
                fail!("the server did not answer the WebSocket handshake");
            }
        };
        let head: Vec<u8> = pending.drain(..end).collect();
        let head = String::from_utf8_lossy(&head).into_owned();
        if !head.starts_with("HTTP/1.1 101")
            || header(&head, "sec-websocket-accept") != Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
        {
            fail!(
                "the server refused the WebSocket handshake: {:?}",
                head.lines().next().unwrap_or_default()
            );
        }
        let subprotocol = header(&head, "sec-websocket-protocol").map(str::to_owned);
        Ok(Self {
            stream,
            pending,
            subprotocol,
            wrong_frames: 0,
        })
    }

    /// Sends one data frame.
    pub(crate) fn send_frame(&mut self, opcode: u8, payload: &[u8]) -> Result<()> {
        self.send_part(0x80 | opcode, payload)
    }

    /// Sends one frame with this first byte: opcode, and 0x80 if it is the last of its message.
    pub(crate) fn send_part(&mut self, first: u8, payload: &[u8]) -> Result<()> {
        let mut out = vec![first];
        match payload.len() {
            length @ 0..=125 => out.push(0x80 | u8::try_from(length).map_err(Error::other)?),
            length => {
                out.push(0x80 | 126);
                out.extend_from_slice(&u16::try_from(length).map_err(Error::other)?.to_be_bytes());
            }
        }
        // A masking key of zeros leaves the payload as it is; RFC 6455 asks for unpredictable keys only against proxies.
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(payload);
        self.stream.write_all(&out)
    }

    /// Sends one binary frame.
    pub(crate) fn send_binary(&mut self, payload: &[u8]) -> Result<()> {
        self.send_frame(BINARY, payload)
    }

    /// Appends the payload of the data frames that arrived; 0 bytes mean closed, as for a socket.
    pub(crate) fn receive(&mut self, left: Duration, into: &mut Vec<u8>) -> Outcome<Result<usize>> {
        let before = into.len();
        match read_some(&mut self.stream, left, &mut self.pending) {
            Ok(0) => return Ok(Ok(0)),
            Ok(_) => {}
            Err(error) => return Ok(Err(error)),
        }
        while let Some((opcode, payload)) = self.frame()? {
            match opcode {
                0 | BINARY => into.extend_from_slice(&payload),
                TEXT => self.wrong_frames += 1,
                8 => return Ok(Ok(0)),
                _ => {}
            }
        }
        if into.len() > before {
            Ok(Ok(into.len() - before))
        } else {
            Ok(Err(ErrorKind::WouldBlock.into()))
        }
    }

    fn frame(&mut self) -> Outcome<Option<(u8, Vec<u8>)>> {
        let [first, second, ..] = self.pending[..] else {
            return Ok(None);
        };
        if second & 0x80 != 0 {
            fail!("the server masks its WebSocket frames");
        }
        let (start, length) = match second {
            126 if self.pending.len() >= 4 => (
                4,
                usize::from(u16::from_be_bytes([self.pending[2], self.pending[3]])),
            ),
            126 => return Ok(None),
            127 => fail!("a WebSocket frame of more than 65,535 bytes"),
            length => (2, usize::from(length)),
        };
        if self.pending.len() < start + length {
            return Ok(None);
        }
        let payload = self.pending[start..start + length].to_vec();
        self.pending.drain(..start + length);
        Ok(Some((first & 0x0F, payload)))
    }
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

#[cfg(test)]
mod tests {
    use super::header;

    #[test]
    fn headers_are_found_in_any_case() {
        let head = "HTTP/1.1 101 x\r\nSEC-WebSocket-Protocol:  mqtt \r\n\r\n";
        assert_eq!(header(head, "sec-websocket-protocol"), Some("mqtt"));
        assert_eq!(header(head, "upgrade"), None);
    }
}
