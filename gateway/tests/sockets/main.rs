//! A whole node over real sockets.

mod groups;
mod secure;
mod world;
