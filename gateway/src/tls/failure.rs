//! Why a TLS session ended: what the peer is told (an alert), what the log is told, and what is counted.

use std::fmt;

use rustls::{CertificateError, Error, PeerIncompatible};

/// An alert as it is on the wire (RFC 8446 §6, RFC 5246 §7.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alert(pub u8);

impl Alert {
    /// The peer will send nothing more.
    pub const CLOSE_NOTIFY: Self = Self(0);
    /// A message that may not come here.
    pub const UNEXPECTED_MESSAGE: Self = Self(10);
    /// A record that cannot be opened with its key.
    pub const BAD_RECORD_MAC: Self = Self(20);
    /// A record that is longer than records may be.
    pub const RECORD_OVERFLOW: Self = Self(22);
    /// The client's certificate was not accepted, for a reason that has no alert of its own.
    pub const CERTIFICATE_UNKNOWN: Self = Self(46);
    /// A field that has a value it must not have.
    pub const ILLEGAL_PARAMETER: Self = Self(47);
    /// A message that cannot be parsed.
    pub const DECODE_ERROR: Self = Self(50);
    /// A failure that is not the peer's.
    pub const INTERNAL_ERROR: Self = Self(80);
    /// The user went away; nothing follows from it.
    pub const USER_CANCELED: Self = Self(90);
    /// TLS 1.2: no second handshake on this connection.
    pub const NO_RENEGOTIATION: Self = Self(100);
    /// A client certificate is required.
    pub const CERTIFICATE_REQUIRED: Self = Self(116);
}

/// Declares the reasons with what they mean, and their names in metrics.
macro_rules! reasons {
    ($($(#[doc = $help:literal])+ $name:ident = $label:literal,)+) => {
        /// Why a session failed. Few and fixed: each is a counter.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Reason {
            $($(#[doc = $help])+ $name,)+
        }

        impl Reason {
            /// All of them, in the order of their counters.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// Its name in metrics and logs.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self {
                    $(Self::$name => $label,)+
                }
            }
        }
    };
}

reasons! {
    /// What came is not TLS: another protocol on this port, usually plain MQTT or HTTP.
    NotTls = "not_tls",
    /// The handshake was not complete in time.
    TimedOut = "timed_out",
    /// The handshake needs more bytes than a handshake may have.
    TooLong = "too_long",
    /// No TLS version in common.
    Version = "version",
    /// No cipher suite, group or signature scheme in common.
    Parameters = "parameters",
    /// The client offers application protocols, and none that is spoken here.
    Protocol = "protocol",
    /// A client certificate is required, and none came.
    CertificateMissing = "certificate_missing",
    /// The client certificate is expired, of an unknown issuer, for another purpose or malformed.
    CertificateRefused = "certificate_refused",
    /// The client certificate is on a revocation list.
    CertificateRevoked = "certificate_revoked",
    /// The peer sent a fatal alert: it did not accept this server, usually its certificate.
    PeerAlert = "peer_alert",
    /// A record that cannot be opened: damaged, replayed or forged.
    Corrupt = "corrupt",
    /// The peer broke a rule of TLS.
    Violation = "violation",
    /// TLS 1.2: as many records as one key may protect were sent.
    KeysExhausted = "keys_exhausted",
    /// Incomplete records take too much memory on this core, and this session has more than its share.
    Memory = "memory",
    /// A failure of this server, not of the peer.
    Internal = "internal",
}

/// How a session failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What is counted.
    pub reason: Reason,
    /// What the peer was told; `None` when nothing was sent.
    pub alert: Option<Alert>,
    /// What the log is told.
    pub detail: String,
}

impl Failure {
    pub(super) fn new(reason: Reason, alert: Option<Alert>, detail: impl Into<String>) -> Self {
        Self {
            reason,
            alert,
            detail: detail.into(),
        }
    }

    /// Something in here that cannot happen, or that the system did not do.
    pub(super) fn internal(detail: impl Into<String>) -> Self {
        Self::new(Reason::Internal, Some(Alert::INTERNAL_ERROR), detail)
    }

    /// The peer broke a rule.
    pub(super) fn violation(alert: Alert, detail: impl Into<String>) -> Self {
        Self::new(Reason::Violation, Some(alert), detail)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.reason.label(), self.detail)
    }
}

impl std::error::Error for Failure {}

/// What an error of a handshake counts as.
pub(crate) fn reason_of(error: &Error) -> Reason {
    match error {
        Error::NoCertificatesPresented => Reason::CertificateMissing,
        Error::InvalidCertificate(CertificateError::Revoked) => Reason::CertificateRevoked,
        Error::InvalidCertificate(_) => Reason::CertificateRefused,
        Error::NoApplicationProtocol => Reason::Protocol,
        Error::AlertReceived(_) => Reason::PeerAlert,
        Error::DecryptError => Reason::Corrupt,
        Error::PeerIncompatible(incompatible) => match incompatible {
            PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
            | PeerIncompatible::SupportedVersionsExtensionRequired
            | PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled => Reason::Version,
            _ => Reason::Parameters,
        },
        Error::FailedToGetCurrentTime
        | Error::FailedToGetRandomBytes
        | Error::EncryptError
        | Error::General(_)
        | Error::Other(_) => Reason::Internal,
        _ => Reason::Violation,
    }
}
