//! TLS of one connection between two nodes, either side: bytes in, bytes out, no socket.
//!
//! Here rustls stays for the life of the connection, unlike on listeners for clients ([`crate::tls`]): a node has a thousand of
//! these at most, so what one takes in memory does not matter, and a key that is set up once makes each record cheaper.

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::pki_types::CertificateDer;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};

use super::identity::{APPLICATION_PROTOCOL, Identity, server_name, uid_of};

/// Bytes that may wait for the rest of what they belong to: the flight of a handshake, or a record.
const WAITING_BYTES_MAX: usize = 64 << 10;

/// What ends a connection below the bus.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub(crate) enum SecureError {
    /// Usually a certificate of another cluster, or something that does not speak TLS.
    #[error(
        "TLS failed ({0}): do both nodes have the same `cluster.key_file`, and is it a node that listens there?"
    )]
    Tls(rustls::Error),
    /// Somebody who knows the key and is no node.
    #[error(
        "the certificate is that of no node, or the application protocol is not that of the bus"
    )]
    NoNode,
    /// Somebody who fills memory.
    #[error("the handshake is longer than any handshake is")]
    TooLong,
    /// A fault of ours.
    #[error("TLS is in a state that is not known ({0}): report it")]
    Internal(&'static str),
}

/// What came of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// The handshake goes on.
    Handshake,
    /// It is complete with these bytes: the peer has proved to be this node.
    Secured(u64),
    /// What was in them is plaintext now.
    Open,
    /// The peer has said that nothing follows.
    Closed,
}

/// One connection.
pub(crate) struct Secure {
    side: Side,
    /// The start of something whose rest has not come.
    waiting: Vec<u8>,
    /// True exactly when the handshake is complete.
    is_open: bool,
}

enum Side {
    Client(UnbufferedClientConnection),
    Server(UnbufferedServerConnection),
}

impl Secure {
    /// Dials node `uid`. What is to be sent first is appended to `out`.
    pub(crate) fn dial(
        identity: &Identity,
        uid: u64,
        out: &mut Vec<u8>,
    ) -> Result<Self, SecureError> {
        let connection =
            UnbufferedClientConnection::new(identity.client().clone(), server_name(uid));
        let mut secure = Self::new(Side::Client(connection.map_err(SecureError::Tls)?));
        secure.receive(&mut [], out, &mut Vec::new())?;
        Ok(secure)
    }

    /// Accepts any node.
    pub(crate) fn accept(identity: &Identity) -> Result<Self, SecureError> {
        let connection = UnbufferedServerConnection::new(identity.server().clone());
        Ok(Self::new(Side::Server(
            connection.map_err(SecureError::Tls)?,
        )))
    }

    const fn new(side: Side) -> Self {
        Self {
            side,
            waiting: Vec::new(),
            is_open: false,
        }
    }

    /// Takes what came. Plaintext is appended to `plain`, what has to be sent to `out`, also when it fails.
    ///
    /// # Errors
    /// The connection is over: it must not be shown anything more.
    pub(crate) fn receive(
        &mut self,
        bytes: &mut [u8],
        out: &mut Vec<u8>,
        plain: &mut Vec<u8>,
    ) -> Result<Progress, SecureError> {
        let end = if self.waiting.is_empty() {
            let (used, end) = self.side.process(bytes, out, plain)?;
            self.waiting.extend_from_slice(&bytes[used..]);
            end
        } else {
            self.waiting.extend_from_slice(bytes);
            let (used, end) = self.side.process(&mut self.waiting, out, plain)?;
            self.waiting.drain(..used);
            end
        };
        if self.waiting.len() > WAITING_BYTES_MAX {
            return Err(SecureError::TooLong);
        }
        match end {
            End::Blocked => Ok(Progress::Handshake),
            End::PeerClosed => Ok(Progress::Closed),
            End::Traffic if self.is_open => Ok(Progress::Open),
            End::Traffic => {
                self.is_open = true;
                self.side.peer().map(Progress::Secured)
            }
        }
    }

    /// Seals plaintext, which the handshake must be complete for.
    pub(crate) fn seal(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<(), SecureError> {
        if plain.is_empty() {
            return Ok(());
        }
        match &mut self.side {
            Side::Client(connection) => seal(connection, plain, out),
            Side::Server(connection) => seal(connection, plain, out),
        }
    }
}

impl std::fmt::Debug for Secure {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Secure")
            .field("is_open", &self.is_open)
            .field("waiting_bytes", &self.waiting.len())
            .finish_non_exhaustive()
    }
}

/// Where rustls stops for want of bytes.
#[derive(Clone, Copy)]
enum End {
    Blocked,
    Traffic,
    PeerClosed,
}

impl Side {
    fn process(
        &mut self,
        bytes: &mut [u8],
        out: &mut Vec<u8>,
        plain: &mut Vec<u8>,
    ) -> Result<(usize, End), SecureError> {
        match self {
            Self::Client(connection) => process(connection, bytes, out, plain),
            Self::Server(connection) => process(connection, bytes, out, plain),
        }
    }

    /// The node that the peer has proved to be.
    fn peer(&self) -> Result<u64, SecureError> {
        let (chain, protocol): (Option<&[CertificateDer<'_>]>, _) = match self {
            Self::Client(one) => (one.peer_certificates(), one.alpn_protocol()),
            Self::Server(one) => (one.peer_certificates(), one.alpn_protocol()),
        };
        let leaf = chain.and_then(<[_]>::first);
        if protocol != Some(APPLICATION_PROTOCOL) {
            return Err(SecureError::NoNode);
        }
        leaf.and_then(uid_of).ok_or(SecureError::NoNode)
    }
}

/// Either side's connection of rustls.
trait Records {
    type Data;

    fn records<'c, 'i>(&'c mut self, bytes: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;
    fn is_handshaking(&self) -> bool;
    fn wants_write(&self) -> bool;
}

impl Records for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    fn records<'c, 'i>(&'c mut self, bytes: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(bytes)
    }

    fn is_handshaking(&self) -> bool {
        (**self).is_handshaking()
    }

    fn wants_write(&self) -> bool {
        (**self).wants_write()
    }
}

impl Records for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    fn records<'c, 'i>(&'c mut self, bytes: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(bytes)
    }

    fn is_handshaking(&self) -> bool {
        (**self).is_handshaking()
    }

    fn wants_write(&self) -> bool {
        (**self).wants_write()
    }
}

/// Shows rustls bytes until it wants more; returns how many of them it is done with.
fn process<R: Records>(
    connection: &mut R,
    bytes: &mut [u8],
    out: &mut Vec<u8>,
    plain: &mut Vec<u8>,
) -> Result<(usize, End), SecureError> {
    let mut used = 0;
    loop {
        let UnbufferedStatus { discard, state } = connection.records(&mut bytes[used..]);
        used += discard;
        let end = match state {
            Ok(ConnectionState::EncodeTlsData(mut data)) => {
                encode(out, |place| data.encode(place))?;
                None
            }
            Ok(ConnectionState::TransmitTlsData(data)) => {
                data.done();
                None
            }
            Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                while let Some(record) = traffic.next_record() {
                    let record = record.map_err(SecureError::Tls)?;
                    used += record.discard;
                    plain.extend_from_slice(record.payload);
                }
                None
            }
            Ok(ConnectionState::BlockedHandshake) => Some(End::Blocked),
            Ok(ConnectionState::WriteTraffic(_)) => Some(End::Traffic),
            Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => Some(End::PeerClosed),
            Ok(_) => return Err(SecureError::Internal("reading")),
            Err(error) => {
                alert(connection, out);
                return Err(SecureError::Tls(error));
            }
        };
        match end {
            None => {}
            // A server could write already; nothing is said to a peer that has not proved who it is.
            Some(End::Traffic) if connection.is_handshaking() => return Ok((used, End::Blocked)),
            Some(end) => return Ok((used, end)),
        }
    }
}

/// Appends the alert that rustls has for a failure. **A failed connection is never shown bytes again.**
fn alert<R: Records>(connection: &mut R, out: &mut Vec<u8>) {
    while connection.wants_write() {
        let Ok(ConnectionState::EncodeTlsData(mut data)) = connection.records(&mut []).state else {
            return;
        };
        if encode(out, |place| data.encode(place)).is_err() {
            return;
        }
    }
}

fn seal<R: Records>(
    connection: &mut R,
    plain: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), SecureError> {
    loop {
        match connection.records(&mut []).state {
            Ok(ConnectionState::EncodeTlsData(mut data)) => {
                encode(out, |place| data.encode(place))?;
            }
            Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
            Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                let Err(EncryptError::InsufficientSize(size)) = traffic.encrypt(plain, &mut [])
                else {
                    return Err(SecureError::Internal("sealing"));
                };
                let start = out.len();
                out.resize(start + size.required_size, 0);
                let written = traffic.encrypt(plain, &mut out[start..]);
                let written = written.map_err(|_| SecureError::Internal("out of keys"))?;
                out.truncate(start + written);
                return Ok(());
            }
            Ok(_) => return Err(SecureError::Internal("writing")),
            Err(error) => return Err(SecureError::Tls(error)),
        }
    }
}

/// Appends what rustls has to send.
fn encode(
    out: &mut Vec<u8>,
    mut write: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
) -> Result<(), SecureError> {
    let Err(EncodeError::InsufficientSize(size)) = write(&mut []) else {
        return Err(SecureError::Internal("encoding nothing"));
    };
    let start = out.len();
    out.resize(start + size.required_size, 0);
    match write(&mut out[start..]) {
        Ok(written) => {
            out.truncate(start + written);
            Ok(())
        }
        Err(_) => Err(SecureError::Internal("encoding")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::keys::KeyRing;
    use super::*;

    const KEYS: [&str; 2] = [
        "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
        "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=",
    ];

    fn identity(keys: &[usize], uid: u64) -> Identity {
        let text: Vec<_> = keys.iter().map(|&key| KEYS[key]).collect();
        let ring = KeyRing::parse(&text.join("\n")).expect("they are keys");
        Identity::issue(&ring, uid).expect("it can be made")
    }

    /// What became of a side, and which node it says the other is.
    type Outcome = Result<Option<u64>, SecureError>;

    /// Joins two sides, handing over `step` bytes at a time, until nothing moves.
    fn join(dials: &Identity, to: u64, accepts: &Identity, step: usize) -> [(Secure, Outcome); 2] {
        let mut ways = [Vec::new(), Vec::new()];
        let client = Secure::dial(dials, to, &mut ways[0]).expect("it dials");
        let server = Secure::accept(accepts).expect("it accepts");
        let mut sides = [(client, Ok(None)), (server, Ok(None))];
        loop {
            let mut moved = false;
            for from in [0, 1] {
                let bytes = std::mem::take(&mut ways[from]);
                let mut out = std::mem::take(&mut ways[1 - from]);
                let (secure, outcome) = &mut sides[1 - from];
                for piece in bytes.chunks(step) {
                    moved = true;
                    if outcome.is_err() {
                        continue;
                    }
                    let mut plain = Vec::new();
                    match secure.receive(&mut piece.to_vec(), &mut out, &mut plain) {
                        Ok(Progress::Secured(uid)) => *outcome = Ok(Some(uid)),
                        Ok(_) => {}
                        Err(error) => *outcome = Err(error),
                    }
                    assert!(plain.is_empty());
                }
                ways[1 - from] = out;
            }
            if !moved {
                return sides;
            }
        }
    }

    #[test]
    fn two_nodes_learn_who_the_other_is_and_speak() {
        for step in [1, 100, usize::MAX] {
            let [mut client, mut server] = join(&identity(&[0], 7), 9, &identity(&[0], 9), step);
            assert_eq!((&client.1, &server.1), (&Ok(Some(9)), &Ok(Some(7))));
            let said: Vec<u8> = (0..100_000u32).map(|index| index as u8).collect();
            for (from, to) in [(0, 1), (1, 0)] {
                let sides = [&mut client.0, &mut server.0];
                let mut sealed = Vec::new();
                sides[from].seal(&said, &mut sealed).expect("it is open");
                let (mut out, mut plain) = (Vec::new(), Vec::new());
                for piece in sealed.chunks_mut(4096) {
                    let progress = sides[to].receive(piece, &mut out, &mut plain);
                    assert_eq!(progress, Ok(Progress::Open));
                }
                assert!(plain == said && out.is_empty());
            }
        }
    }

    #[test]
    fn keys_can_be_replaced_one_node_at_a_time() {
        for (dials, accepts) in [
            (&[0][..], &[0, 1][..]),
            (&[1, 0], &[0, 1]),
            (&[1, 0], &[1]),
            (&[0, 1], &[1, 0]),
        ] {
            let [client, server] = join(&identity(dials, 1), 2, &identity(accepts, 2), 500);
            assert_eq!((client.1, server.1), (Ok(Some(2)), Ok(Some(1))));
        }
    }

    #[test]
    fn who_has_another_key_is_refused_by_either_side() {
        let [client, server] = join(&identity(&[0], 1), 2, &identity(&[1], 2), 500);
        assert!(matches!(client.1, Err(SecureError::Tls(_))));
        assert!(server.1.is_err());
        // This client accepts the server, whose key it also has.
        let [_, server] = join(&identity(&[0, 1], 1), 2, &identity(&[1], 2), 500);
        assert!(matches!(server.1, Err(SecureError::Tls(_))));
    }

    #[test]
    fn a_node_that_is_not_the_one_that_was_dialled_is_refused() {
        let [client, server] = join(&identity(&[0], 1), 2, &identity(&[0], 3), 500);
        assert!(matches!(
            client.1,
            Err(SecureError::Tls(rustls::Error::InvalidCertificate(_)))
        ));
        assert!(!matches!(server.1, Ok(Some(_))));
    }

    #[test]
    fn what_is_no_tls_is_refused_and_answered_with_an_alert() {
        for bytes in [
            &b"GET / HTTP/1.1\r\n\r\n"[..],
            &[0; 64],
            &[0x16, 3, 1, 0xFF, 0xFF, 0],
        ] {
            let mut server = Secure::accept(&identity(&[0], 2)).expect("it accepts");
            let (mut out, mut plain) = (Vec::new(), Vec::new());
            let result = server.receive(&mut bytes.to_vec(), &mut out, &mut plain);
            assert!(matches!(result, Err(SecureError::Tls(_))), "{result:?}");
            assert_eq!(out.first(), Some(&21), "an alert");
        }
    }
}
