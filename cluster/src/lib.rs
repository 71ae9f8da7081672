//! Which core of which node serves what. Pure: no socket, no clock, no thread, no randomness.
//!
//! [`partition`] maps a root to its partition and a partition to its owner. Views, hand-over and the bus come beside it.

#![forbid(unsafe_code)]

pub mod partition;
