//! QUIC between the datagrams of the driver and the shard: datagrams in, datagrams out, no socket, no clock.
//!
//! ```text
//! driver ─Datagrams─▶ Endpoints::received ─Output─▶ shard ─Outbox─▶ Endpoints::send ─┐
//!                                                                                    ▼
//! driver ◀────────────────────────── Endpoints::transmit ◀────────── what is due to be sent
//! ```
//!
//! quinn-proto speaks QUIC; this layer gives it datagrams, time and keys, and makes of the first stream that a client opens a
//! connection of the shard, and of further ones its data streams. **Nothing of a client is acted on before its handshake is
//! complete**: what came in 0-RTT packets could be a recording.
//!
//! One [`Endpoints`] per core has an endpoint for each listener. Time is an argument ([`Now`](crate::turn::Now)); randomness is
//! that of the system, as in [`tls`](crate::tls).

mod arriving;
mod connection;
mod data_streams;
mod endpoints;
mod error_code;
mod ids;
mod keys;
mod protection;
mod sending;
mod session;
mod setup;
mod stats;
mod streams;
mod time;

pub use endpoints::{Arrived, Endpoints, Output};
pub use error_code::ErrorCode;
pub use ids::{ID_BYTES, is_stream};
pub use keys::NodeKeys;
pub use setup::Listening;
pub use stats::Stats;

pub(crate) use ids::split_slot;
pub(crate) use protection::provider;
pub(crate) use setup::steering;
