//! The application error codes with which this server closes connections and refuses streams. EMQX and its clients know
//! no codes but 0; these are named in `docs/OPERATIONS.md`.

use quinn_proto::VarInt;

/// Why a connection was closed or a stream refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum ErrorCode {
    /// The MQTT connection ended; its last packet says why.
    Ended = 0,
    /// The node stops: connect again, and another node or the next process answers.
    ShuttingDown = 1,
    /// This server takes no data streams; this was one.
    ExtraStream = 2,
    /// No stream was opened in time.
    NoStream = 3,
    /// The certificate of a resumed session is not accepted any more.
    Certificate = 4,
    /// A bound of `[admission]` was reached while the handshake went on.
    TurnedAway = 5,
}

impl ErrorCode {
    pub(super) fn number(self) -> VarInt {
        VarInt::from_u32(self as u32)
    }

    /// What the client is told in words.
    pub(super) const fn words(self) -> &'static [u8] {
        match self {
            Self::Ended => b"",
            Self::ShuttingDown => b"the server is shutting down",
            Self::ExtraStream => b"no data streams",
            Self::NoStream => b"no stream was opened in time",
            Self::Certificate => b"the certificate is not accepted any more",
            Self::TurnedAway => b"too many connections",
        }
    }
}
