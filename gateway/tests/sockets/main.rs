//! A whole node over real sockets.

#![allow(clippy::disallowed_methods, reason = "real sockets live in real time")]

mod edges;
mod groups;
mod quic;
mod secure;
mod world;
