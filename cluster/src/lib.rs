//! Which core of which node serves what. Pure: no socket, no clock, no thread, no randomness.
//!
//! [`view`] is the numbered list of members, [`partition`] maps a root to its partition and a partition to its owner in a view.

#![forbid(unsafe_code)]

pub mod coordinator;
pub mod limits;
pub mod partition;
pub mod view;
