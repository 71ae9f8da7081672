//! The TLS of one connection: rustls while the handshake lasts, then the secrets of the next key update and nothing else.
//!
//! quinn-proto's own session keeps rustls' connection for as long as QUIC's lives, and rustls can do nothing for it any more: a
//! client of QUIC sends no TLS message after its handshake (RFC 9001 §6, §4.4).
//!
//! What a handshake tells is left in the [`Desk`] of the core, from which it is taken before the next datagram is processed.

use std::any::Any;
use std::borrow::Cow;
use std::io::Cursor;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quinn_proto::coding::Codec;
use quinn_proto::crypto::rustls::QuicServerConfig;
use quinn_proto::crypto::{
    ExportKeyingMaterialError, HeaderKey, KeyPair, Keys, PacketKey, ServerConfig, Session,
    UnsupportedVersion,
};
use quinn_proto::transport_parameters::TransportParameters;
use quinn_proto::{ConnectionId, Side, TransportError, TransportErrorCode, VarInt};
use rustls::HandshakeKind;
use rustls::pki_types::CertificateDer;
use rustls::quic::{KeyChange, Secrets, ServerConnection, Version};

use crate::tls::{Reason, reason_of};

/// What is known when a handshake is complete.
pub(super) struct Completed {
    pub(super) resumed: bool,
    /// The client's certificates, verified in this handshake or in the one that is resumed.
    pub(super) chain: Vec<CertificateDer<'static>>,
}

/// Where sessions of one core leave what the endpoint has to know.
#[derive(Default)]
pub(super) struct Desk(Mutex<Left>);

#[derive(Default)]
struct Left {
    completed: Option<Completed>,
    failed: Option<Reason>,
}

impl Desk {
    fn left(&self) -> MutexGuard<'_, Left> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn clear(&self) {
        *self.left() = Left::default();
    }

    pub(super) fn completed(&self) -> Option<Completed> {
        self.left().completed.take()
    }

    pub(super) fn failed(&self) -> Option<Reason> {
        self.left().failed.take()
    }
}

/// Connection ids that a client gets, though it would take more: the one that it uses, and one for each of two moves to other addresses.
/// For each that it uses up it gets another. An id costs some 90 bytes here, and three HMACs.
const IDS: u32 = 3;

/// A client's transport parameters (RFC 9000 §18) with no more than [`IDS`] as the number of ids that it takes
/// (`active_connection_id_limit`), which a server may stay below (§5.1.1). What cannot be read stays as it is, for quinn-proto to say so.
fn with_few_ids(encoded: &[u8]) -> Cow<'_, [u8]> {
    const ID_LIMIT: u64 = 0x0e;
    let mut rest = encoded;
    while let Ok(id) = VarInt::decode(&mut rest) {
        let head = encoded.len() - rest.len();
        let Some((mut value, after)) = VarInt::decode(&mut rest)
            .ok()
            .and_then(|length| usize::try_from(length.into_inner()).ok())
            .and_then(|length| rest.split_at_checked(length))
        else {
            break;
        };
        if id.into_inner() != ID_LIMIT {
            rest = after;
            continue;
        }
        let limit = VarInt::decode(&mut value);
        if limit.is_ok_and(|limit| limit > VarInt::from_u32(IDS)) && value.is_empty() {
            let mut few = encoded[..head].to_vec();
            few.push(1);
            VarInt::from_u32(IDS).encode(&mut few);
            few.extend_from_slice(after);
            return Cow::Owned(few);
        }
        break;
    }
    Cow::Borrowed(encoded)
}

/// Begins the sessions of one core.
pub(super) struct Sessions {
    pub(super) tls: Arc<rustls::ServerConfig>,
    /// For what comes before a session: keys of Initial packets, tags of Retry packets.
    pub(super) initial: QuicServerConfig,
    pub(super) desk: Arc<Desk>,
}

impl ServerConfig for Sessions {
    fn initial_keys(&self, version: u32, id: &ConnectionId) -> Result<Keys, UnsupportedVersion> {
        self.initial.initial_keys(version, id)
    }

    fn retry_tag(&self, version: u32, original_id: &ConnectionId, packet: &[u8]) -> [u8; 16] {
        self.initial.retry_tag(version, original_id, packet)
    }

    fn start_session(
        self: Arc<Self>,
        _version: u32,
        parameters: &TransportParameters,
    ) -> Box<dyn Session> {
        let mut encoded = Vec::new();
        parameters.write(&mut encoded);
        let tls = ServerConnection::new(Arc::clone(&self.tls), Version::V1, encoded);
        Box::new(OneSession {
            // It fails without TLS 1.3 or a suite for QUIC, and the acceptor was made with both.
            tls: tls.ok().map(Box::new),
            sessions: self,
            next: None,
        })
    }
}

/// The TLS of one connection.
struct OneSession {
    /// There until the handshake is complete.
    tls: Option<Box<ServerConnection>>,
    sessions: Arc<Sessions>,
    /// Of the next key update.
    next: Option<Box<Secrets>>,
}

impl OneSession {
    fn fail(
        &self,
        error: &rustls::Error,
        alert: Option<rustls::AlertDescription>,
    ) -> TransportError {
        self.sessions.desk.left().failed = Some(reason_of(error));
        let crypto = |alert: rustls::AlertDescription| TransportErrorCode::crypto(alert.into());
        TransportError {
            code: alert.map_or(TransportErrorCode::PROTOCOL_VIOLATION, crypto),
            frame: None,
            reason: error.to_string(),
        }
    }

    /// Leaves rustls behind once it is done and everything that it has to send was taken.
    fn leave(&mut self) {
        let Some(tls) = self.tls.take_if(|tls| !tls.is_handshaking()) else {
            return;
        };
        let chain = tls.peer_certificates().unwrap_or_default();
        let completed = Completed {
            resumed: tls.handshake_kind() == Some(HandshakeKind::Resumed),
            chain: chain
                .iter()
                .cloned()
                .map(CertificateDer::into_owned)
                .collect(),
        };
        self.sessions.desk.left().completed = Some(completed);
    }
}

fn keys(keys: rustls::quic::Keys) -> Keys {
    Keys {
        header: KeyPair {
            local: Box::new(keys.local.header),
            remote: Box::new(keys.remote.header),
        },
        packet: KeyPair {
            local: Box::new(keys.local.packet),
            remote: Box::new(keys.remote.packet),
        },
    }
}

impl Session for OneSession {
    fn initial_keys(&self, id: &ConnectionId, _side: Side) -> Keys {
        // The endpoint has made the same keys before, so this version has some.
        let keys = self.sessions.initial_keys(1, id);
        keys.expect("version 1 is spoken")
    }

    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        None // It is at the desk.
    }

    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        None // So is this.
    }

    fn early_crypto(&self) -> Option<(Box<dyn HeaderKey>, Box<dyn PacketKey>)> {
        let keys = self.tls.as_ref()?.zero_rtt_keys()?;
        Some((Box::new(keys.header), Box::new(keys.packet)))
    }

    fn early_data_accepted(&self) -> Option<bool> {
        None
    }

    fn is_handshaking(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.is_handshaking())
    }

    fn read_handshake(&mut self, bytes: &[u8]) -> Result<bool, TransportError> {
        let Some(tls) = &mut self.tls else {
            let unexpected = rustls::AlertDescription::UnexpectedMessage;
            return Err(TransportError {
                code: TransportErrorCode::crypto(unexpected.into()),
                frame: None,
                reason: "a TLS message after the handshake".into(),
            });
        };
        let outcome = tls.read_hs(bytes);
        let alert = tls.alert();
        match outcome {
            Ok(()) => Ok(false),
            Err(error) => {
                self.tls = None; // It must not be shown anything again: rustls may panic then.
                Err(self.fail(&error, alert))
            }
        }
    }

    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        let encoded = self
            .tls
            .as_ref()
            .and_then(|tls| tls.quic_transport_parameters());
        let Some(encoded) = encoded else {
            return Ok(None);
        };
        let encoded = with_few_ids(encoded);
        let parameters = TransportParameters::read(Side::Server, &mut Cursor::new(encoded))?;
        Ok(Some(parameters))
    }

    fn write_handshake(&mut self, out: &mut Vec<u8>) -> Option<Keys> {
        let before = out.len();
        let change = self.tls.as_mut()?.write_hs(out);
        match change {
            Some(KeyChange::Handshake { keys: handshake }) => Some(keys(handshake)),
            Some(KeyChange::OneRtt { keys: data, next }) => {
                self.next = Some(Box::new(next));
                Some(keys(data))
            }
            None => {
                if out.len() == before {
                    self.leave();
                }
                None
            }
        }
    }

    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn PacketKey>>> {
        let keys = self.next.as_mut()?.next_packet_keys();
        Some(KeyPair {
            local: Box::new(keys.local),
            remote: Box::new(keys.remote),
        })
    }

    fn is_valid_retry(&self, _original_id: &ConnectionId, _header: &[u8], _payload: &[u8]) -> bool {
        false // Servers send them.
    }

    fn export_keying_material(
        &self,
        _output: &mut [u8],
        _label: &[u8],
        _context: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        Err(ExportKeyingMaterialError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parameters with these numbers.
    fn encoded(parameters: &[(u32, u64)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (id, number) in parameters {
            let mut value = Vec::new();
            VarInt::try_from(*number)
                .expect("it is small")
                .encode(&mut value);
            VarInt::from_u32(*id).encode(&mut bytes);
            VarInt::from_u32(value.len() as u32).encode(&mut bytes);
            bytes.extend(value);
        }
        bytes
    }

    fn read(encoded: &[u8]) -> TransportParameters {
        let parameters = TransportParameters::read(Side::Server, &mut Cursor::new(encoded));
        parameters.expect("they can be read")
    }

    #[test]
    fn a_client_that_takes_many_ids_gets_few_and_everything_else_as_it_said() {
        for (asked, gets) in [(2, 2), (3, 3), (4, 3), (8, 3), (64, 3), (100_000, 3)] {
            let parameters = |limit| encoded(&[(0x04, 70_000), (0x0e, limit), (0x01, 30_000)]);
            let before = parameters(asked);
            let after = with_few_ids(&before);
            assert_eq!(read(&after), read(&parameters(gets)), "{asked}");
        }
        let without = encoded(&[(0x04, 70_000)]);
        assert_eq!(&*with_few_ids(&without), without);
    }

    #[test]
    fn parameters_that_cannot_be_read_stay_as_they_are() {
        let good = encoded(&[(0x04, 70_000), (0x0e, 8), (0x01, 30_000)]);
        for length in 0..8 {
            assert_eq!(&*with_few_ids(&good[..length]), &good[..length]);
        }
        for bad in [
            &[0x0e][..],
            &[0x0e, 0],
            &[0x0e, 2, 8, 8],
            &[0x0e, 1, 0x40],
            &[0x0e, 0xff, 8],
        ] {
            assert_eq!(&*with_few_ids(bad), bad);
        }
        assert_eq!(&*with_few_ids(&[]), &[0_u8; 0]);
    }
}
