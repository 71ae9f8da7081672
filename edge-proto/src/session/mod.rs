//! The rules of a session that need no socket: packet identifiers, windows, topic aliases.
//!
//! [`outbound`] sends QoS 1 and 2 messages and follows them to their end, [`inbound`] receives them once and acknowledges
//! them in order, [`alias`] holds the topic aliases of both directions.

pub mod alias;
pub mod inbound;
pub mod outbound;
