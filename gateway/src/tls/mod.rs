//! TLS between the driver and the shard: bytes in, bytes out, no socket, no clock.
//!
//! ```text
//! driver ─Received─▶ Sessions::received ─Output::Data─▶ shard ─Outbox─▶ Sessions::seal ─▶ driver.send
//!                        └─Output::Send─▶ driver.send     (handshake, alerts, answers to key updates)
//! ```
//!
//! rustls makes the handshakes. Once one is complete, its connection object is dropped, and what stays of a session is
//! its keys, sequence numbers and, in TLS 1.3, the traffic secrets (`live`): some 250 bytes, and no buffer. Records are
//! sealed and opened here (`record`), with the AEADs of aws-lc-rs.
//!
//! Time is an argument ([`Now`](crate::turn::Now)): rustls too gets the time of the turn, for certificates and tickets.
//! Randomness is that of the system, through aws-lc-rs: keys from a seed would be nobody's secret.

mod acceptor;
mod failure;
mod handshake;
mod hello;
mod identity;
mod live;
mod record;
mod resolver;
mod secrets;
mod sessions;
mod settings;
mod stats;
mod tickets;

pub use acceptor::{Acceptor, ServerCertificate};
pub use failure::{Alert, Failure, Reason};
pub use identity::{Identity, IdentityError};
pub use record::Version;
pub use sessions::{Established, Output, Sessions};
pub use settings::{
    Certificate, ClientCertificates, ClientTrust, ClusterSecret, PemFile, Settings, SettingsError,
    Versions,
};
pub use stats::Stats;

pub(crate) use failure::reason_of;
pub(crate) use tickets::CoreClock;
