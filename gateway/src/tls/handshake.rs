//! A handshake: rustls does it, record by record, and is left as soon as it is complete.
//!
//! rustls is shown whole records only, and none behind the client's Finished: what comes after it belongs to [`Live`]. So the
//! sequence numbers that are taken over are those of the first record that rustls has not seen.

use std::sync::Arc;

use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedStatus};
use rustls::{AlertDescription, Error, HandshakeKind, ProtocolVersion, ServerConfig};

use super::acceptor::Acceptor;
use super::failure::{Alert, Failure, Reason, reason_of};
use super::identity::Identity;
use super::live::Live;
use super::record::{Cipher, HANDSHAKE, HEADER_BYTES, Version};
use super::secrets::{Capture, TrafficSecrets, direction};
use super::sessions::Established;
use super::tickets::CoreClock;

/// Records of a handshake may be as long as those of TLS 1.2 (RFC 5246 §6.2.3).
const RECORD_BYTES_MAX: usize = 16 * 1024 + 2048;

/// An acceptor as one core uses it.
#[derive(Clone)]
pub(super) struct CoreAcceptor {
    pub(super) acceptor: Arc<Acceptor>,
    pub(super) config: Arc<ServerConfig>,
}

/// A handshake in progress.
pub(super) struct Handshake {
    pub(super) generation: u32,
    pub(super) deadline_ms: u64,
    /// True exactly when it is in a queue of its core.
    pub(super) is_waiting: bool,
    /// What it began with, also when the listener has another one by now.
    acceptor: CoreAcceptor,
    /// Made with the first whole record: who says nothing costs little.
    connection: Option<UnbufferedServerConnection>,
    /// What rustls has not discarded.
    received: Vec<u8>,
    /// How much of `received` rustls has seen: whole records that are parts of a message.
    seen: usize,
    secrets: Option<TrafficSecrets>,
}

/// What came of a step.
pub(super) enum Step {
    /// More bytes are needed.
    Blocked,
    /// The handshake is complete. Bytes that came behind it are in the last field.
    Complete(Box<Live>, Box<Established>, Vec<u8>),
}

impl Handshake {
    pub(super) fn new(acceptor: CoreAcceptor, generation: u32, deadline_ms: u64) -> Self {
        Self {
            generation,
            deadline_ms,
            is_waiting: false,
            acceptor,
            connection: None,
            received: Vec::new(),
            seen: 0,
            secrets: None,
        }
    }

    /// Bytes that wait to be processed.
    pub(super) fn bytes(&self) -> usize {
        self.received.len()
    }

    /// What was received so far and not discarded.
    pub(super) fn received(&self) -> &[u8] {
        &self.received
    }

    /// Whether rustls has seen anything of it.
    pub(super) fn has_begun(&self) -> bool {
        self.connection.is_some()
    }

    /// Adds bytes.
    ///
    /// # Errors
    /// What cannot become a handshake.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.received.extend_from_slice(bytes);
        let first = self.received.first();
        if !self.has_begun() && first.is_some_and(|first| *first != HANDSHAKE) {
            return Err(not_tls(&self.received));
        }
        Ok(())
    }

    /// Whether there is a whole record that rustls has not seen.
    pub(super) fn is_ready(&self) -> bool {
        self.next_record().is_none_or(|end| end.is_some())
    }

    /// Where the next record ends: `Some(None)` while it is not complete, `None` when it is none.
    fn next_record(&self) -> Option<Option<usize>> {
        let unseen = self.received.get(self.seen..)?;
        let Some(header) = unseen.first_chunk::<HEADER_BYTES>() else {
            return Some(None);
        };
        let bytes = HEADER_BYTES + usize::from(u16::from_be_bytes([header[3], header[4]]));
        if header[1] != 3 || bytes > RECORD_BYTES_MAX + HEADER_BYTES {
            return None;
        }
        Some((bytes <= unseen.len()).then_some(self.seen + bytes))
    }

    /// Processes the records that are there. What has to be sent is appended to `out`, also when it fails.
    pub(super) fn step(
        &mut self,
        clock: &CoreClock,
        capture: &Capture,
        out: &mut Vec<u8>,
    ) -> Result<Step, Failure> {
        loop {
            let end = match self.next_record() {
                None if self.connection.is_none() => return Err(not_tls(&self.received)),
                None => {
                    let detail = "a record with a header that no record has";
                    return Err(self.fail(Failure::new(Reason::Violation, None, detail), out));
                }
                Some(None) => return Ok(Step::Blocked),
                Some(Some(end)) => end,
            };
            let is_complete = self.feed(end, out);
            if let Some(secrets) = capture.take() {
                self.secrets = Some(secrets);
            }
            if is_complete? {
                return self.complete(clock, out);
            }
        }
    }

    /// Shows rustls the bytes up to the end of a record. True when the handshake is complete.
    fn feed(&mut self, mut end: usize, out: &mut Vec<u8>) -> Result<bool, Failure> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => {
                let made = UnbufferedServerConnection::new(self.acceptor.config.clone())
                    .map_err(|error| Failure::internal(error.to_string()))?;
                none.insert(made)
            }
        };
        let outcome = loop {
            let UnbufferedStatus { discard, state } =
                connection.process_tls_records(&mut self.received[..end]);
            let outcome = match state {
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    encode(out, |place| data.encode(place)).map(|()| None)
                }
                Ok(ConnectionState::TransmitTlsData(data)) => {
                    data.done();
                    Ok(None)
                }
                Ok(ConnectionState::BlockedHandshake) => Ok(Some(false)),
                Ok(ConnectionState::WriteTraffic(_)) => Ok(Some(true)),
                Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => {
                    let detail = "the peer closed in the middle of the handshake";
                    Err(Failure::new(Reason::PeerAlert, None, detail))
                }
                Ok(_) => Err(Failure::internal("rustls is in a state that is not known")),
                Err(error) => Err(failure_of(&error)),
            };
            self.received.drain(..discard);
            end -= discard;
            match outcome {
                Ok(None) => {}
                Ok(Some(is_writing)) => break Ok(is_writing && !connection.is_handshaking()),
                Err(failure) => break Err(failure),
            }
        };
        self.seen = end;
        outcome.map_err(|failure| self.fail(failure, out))
    }

    /// Sends the alert that rustls has for a failure, and says in it which one it is.
    fn fail(&mut self, mut failure: Failure, out: &mut Vec<u8>) -> Failure {
        let start = out.len();
        let Some(connection) = &mut self.connection else {
            return failure;
        };
        // **A failed connection is never shown bytes again**: rustls 0.23.46 panics then. What it has to send comes before it looks.
        while connection.wants_write() {
            let Ok(ConnectionState::EncodeTlsData(mut data)) =
                connection.process_tls_records(&mut []).state
            else {
                break;
            };
            if encode(out, |place| data.encode(place)).is_err() {
                break;
            }
        }
        failure.alert = match out[start..] {
            [] => None,
            [21, 3, _, 0, 2, _, description] => Some(Alert(description)),
            // It is encrypted: the one that belongs to the error.
            _ => failure.alert,
        };
        failure
    }

    /// Leaves rustls: takes keys and facts, and drops the connection.
    fn complete(&mut self, clock: &CoreClock, out: &mut Vec<u8>) -> Result<Step, Failure> {
        if self.seen > 0 {
            let detail = "the start of a message behind the handshake";
            return Err(Failure::violation(Alert::UNEXPECTED_MESSAGE, detail));
        }
        let Some(connection) = self.connection.take() else {
            return Err(Failure::internal("a handshake is complete twice"));
        };
        let version = match connection.protocol_version() {
            Some(ProtocolVersion::TLSv1_3) => Version::Tls13,
            Some(ProtocolVersion::TLSv1_2) => Version::Tls12,
            _ => return Err(Failure::internal("a version that this layer does not know")),
        };
        let resumed = connection.handshake_kind() == Some(HandshakeKind::Resumed);
        let chain = connection.peer_certificates().unwrap_or_default();
        let refusal = resumed
            .then(|| {
                self.acceptor
                    .acceptor
                    .verify_again(chain, clock.unix_time())
            })
            .and_then(Result::err);
        let identity = chain.first().map(|leaf| Identity::from_der(leaf));
        let established = Established {
            version,
            resumed,
            application_protocol: connection.alpn_protocol().map(<[u8]>::to_vec),
            identity: None,
        };
        let mut live = self.live(version, connection)?;
        let refusal = match (refusal, identity) {
            (Some(error), _) => failure_of(&error),
            (None, Some(Err(error))) => {
                Failure::new(Reason::CertificateRefused, None, error.to_string())
            }
            (None, identity) => {
                let established = Established {
                    identity: identity.and_then(Result::ok),
                    ..established
                };
                let rest = std::mem::take(&mut self.received);
                return Ok(Step::Complete(Box::new(live), Box::new(established), rest));
            }
        };
        let alert = refusal.alert.unwrap_or(Alert::CERTIFICATE_UNKNOWN);
        live.send_alert(alert, out);
        Err(Failure {
            alert: Some(alert),
            ..refusal
        })
    }

    fn live(
        &mut self,
        version: Version,
        connection: UnbufferedServerConnection,
    ) -> Result<Live, Failure> {
        // The second half knows how to update keys. So does this layer, in a tenth of the memory.
        let (keys, _) = connection
            .dangerous_into_kernel_connection()
            .map_err(|error| Failure::internal(error.to_string()))?;
        let secrets = self.secrets.take();
        let (client, server) = match (version, &secrets) {
            (Version::Tls12, _) => (None, None),
            (Version::Tls13, Some(secrets)) => (Some(&*secrets.client), Some(&*secrets.server)),
            (Version::Tls13, None) => {
                return Err(Failure::internal("a handshake without traffic secrets"));
            }
        };
        let (aead, tx) = direction(&keys.tx, server)?;
        let (_, rx) = direction(&keys.rx, client)?;
        Ok(Live::new(self.generation, Cipher { version, aead }, tx, rx))
    }
}

fn failure_of(error: &Error) -> Failure {
    let alert = match error {
        Error::InvalidCertificate(error) => {
            Some(Alert(AlertDescription::from(error.clone()).into()))
        }
        Error::NoCertificatesPresented => Some(Alert::CERTIFICATE_REQUIRED),
        _ => None,
    };
    Failure::new(reason_of(error), alert, error.to_string())
}

/// Appends what rustls has to send.
fn encode(
    out: &mut Vec<u8>,
    mut write: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
) -> Result<(), Failure> {
    let Err(EncodeError::InsufficientSize(size)) = write(&mut []) else {
        return Err(Failure::internal(
            "rustls has something to send of no length",
        ));
    };
    let start = out.len();
    out.resize(start + size.required_size, 0);
    match write(&mut out[start..]) {
        Ok(written) => {
            out.truncate(start + written);
            Ok(())
        }
        Err(error) => Err(Failure::internal(error.to_string())),
    }
}

/// Says what it looks like, since it is usually a client with the wrong port.
fn not_tls(bytes: &[u8]) -> Failure {
    const METHODS: [&[u8]; 5] = [b"GET ", b"POST", b"HEAD", b"PUT ", b"OPTI"];
    let looks_like = match bytes {
        [0x10, ..] => "plain MQTT",
        _ if METHODS.iter().any(|method| bytes.starts_with(method)) => "plain HTTP",
        _ => "no TLS",
    };
    let detail = format!("{looks_like} on a TLS listener: is the client using the right port?");
    Failure::new(Reason::NotTls, None, detail)
}
