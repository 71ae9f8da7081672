//! Which core of which node serves what. Pure: no socket, no clock, no thread, no randomness.
//!
//! [`membership`] says who is alive, in datagrams that [`sealed`] seals. From that [`coordinator`] makes views: [`view`] is the
//! numbered list of members, and [`partition`] maps a root to its partition and a partition to its owner in a view.

#![forbid(unsafe_code)]

pub mod coordinator;
pub mod limits;
pub mod membership;
pub mod partition;
pub mod sealed;
pub mod view;
