//! MQTT 5.0 and 3.1.1 on the wire, as pure functions and state machines.
//!
//! Reading order: [`reason`] (reason codes, violations), [`packet`] (what a packet is), [`frame`] (where a packet
//! ends), [`decode`] and [`encode`], [`topic`] (names, filters, roots), [`trie`] (many filters or many topics at once),
//! [`session`] (packet identifiers, windows, aliases), [`websocket`] (RFC 6455 as a byte-stream codec), [`proxy`] (the
//! header of a proxy in front).
//!
//! **Invariants**
//! - Nothing here reads a clock, opens a socket, starts a thread or uses `unsafe`.
//! - No input from a peer can panic or make memory grow beyond the limits that are passed in.
//! - `Debug` shows no password, token or payload: see [`shown`].
//! - A value that exists is a valid one: bytes become a [`packet::Packet`], text becomes a [`topic::TopicFilter`].

#![forbid(unsafe_code)]

pub mod decode;
pub mod encode;
pub mod frame;
pub mod packet;
pub mod proxy;
pub mod reason;
pub mod session;
pub mod shown;
pub mod topic;
pub mod trie;
pub mod websocket;

mod property;
mod read;
