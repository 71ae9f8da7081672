//! A whole node over real sockets.

mod groups;
mod quic;
mod secure;
mod world;
