//! How a connection ends: closed by the server, refused, or left by the client.

use std::net::Shutdown;
use std::time::Duration;

use crate::client::{ANSWER_MAX, Arrival, Client, Stream, describe};
use crate::parse::{Body, Packet};
use crate::wire::{Props, Version, disconnect_with, first, frame};
use crate::{Outcome, ensure, fail};

impl Client {
    /// The server closes the connection; at most a DISCONNECT (5.0) comes before. Its reason code.
    pub fn closed(&mut self, why: &str) -> Outcome<Option<u8>> {
        self.closed_within(ANSWER_MAX, why)
    }

    /// As [`Self::closed`], within this time.
    pub fn closed_within(&mut self, time: Duration, why: &str) -> Outcome<Option<u8>> {
        let mut reason = None;
        loop {
            match self.arrival(time)? {
                Arrival::Closed => return Ok(reason),
                Arrival::TimedOut => fail!("the server did not close the connection {why}"),
                Arrival::Packet(Packet {
                    first: first::DISCONNECT,
                    body: Body::Reason { code, .. },
                    ..
                }) if reason.is_none() => {
                    reason = Some(code);
                }
                Arrival::Packet(packet) => fail!(
                    "expected the connection to close {why}, got {}",
                    describe(&packet)
                ),
            }
        }
    }

    /// The server closes the connection; if it says why (5.0), the reason code is one of these.
    pub fn closed_with(&mut self, codes: &[u8], why: &str) -> Outcome {
        match self.closed(why)? {
            Some(code) if !codes.contains(&code) => {
                fail!("DISCONNECT {why} has reason code {code:#04x} instead of {codes:02x?}")
            }
            _ => Ok(()),
        }
    }

    /// The server refuses the CONNECT: it closes, and at most a CONNACK with a code other than 0 and Session Present 0
    /// comes before. The code.
    pub fn refused(&mut self, why: &str) -> Outcome<Option<u8>> {
        match self.arrival(ANSWER_MAX)? {
            Arrival::Closed => Ok(None),
            Arrival::TimedOut => fail!("the server neither answered nor closed {why}"),
            Arrival::Packet(Packet {
                body:
                    Body::ConnAck {
                        session_present,
                        code,
                        ..
                    },
                ..
            }) => {
                ensure!(code != 0, "the server accepted the CONNECT {why}");
                ensure!(
                    !session_present,
                    "CONNACK {code:#04x} with Session Present 1"
                );
                match self.arrival(ANSWER_MAX)? {
                    Arrival::Closed => Ok(Some(code)),
                    Arrival::TimedOut => {
                        fail!("the connection stays open after CONNACK {code:#04x}")
                    }
                    Arrival::Packet(packet) => {
                        fail!("{} after CONNACK {code:#04x}", describe(&packet))
                    }
                }
            }
            Arrival::Packet(packet) => fail!("expected a refusal {why}, got {}", describe(&packet)),
        }
    }

    /// The server refuses the CONNECT as malformed: 3.1.1 without CONNACK [MQTT-3.1.4-1], 5.0 with one of these codes
    /// or without CONNACK.
    pub fn refused_as_malformed(&mut self, why: &str) -> Outcome {
        match (self.version, self.refused(why)?) {
            (_, None) | (Version::V5, Some(0x80..=0x82)) => Ok(()),
            (Version::V5, Some(code)) => fail!("CONNACK {code:#04x} instead of 0x81 or 0x82 {why}"),
            (Version::V311, Some(code)) => {
                fail!("CONNACK {code:#04x} {why}, where 3.1.1 closes without one")
            }
        }
    }

    /// Sends DISCONNECT and waits until the server has closed, which is when it has dealt with it.
    pub fn disconnect(mut self) -> Outcome {
        self.send(frame(first::DISCONNECT, &[]));
        self.closed("after DISCONNECT").map(drop)
    }

    /// Sends DISCONNECT with a reason code and properties (5.0) and waits until the server has closed.
    pub fn disconnect_with(mut self, code: u8, props: &Props) -> Outcome {
        self.send(disconnect_with(code, props));
        self.closed("after DISCONNECT").map(drop)
    }

    /// Ends the network connection without DISCONNECT and waits until the server has closed its side.
    pub fn cut(mut self) -> Outcome {
        if let Stream::Tcp(stream) = &self.stream {
            let _ = stream.shutdown(Shutdown::Write);
        }
        loop {
            match self.arrival(ANSWER_MAX)? {
                Arrival::Closed => return Ok(()),
                Arrival::Packet(_) => {}
                Arrival::TimedOut => fail!("the server keeps a connection whose peer has closed"),
            }
        }
    }
}
