//! Which core of which node serves what. Pure: no socket, no clock, no thread, no randomness.
//!
//! [`partition`] maps a root to its partition and a partition to its owner. Two nodes speak over links ([`link`]), in frames
//! ([`frame`]), once they have heard who the other is ([`hello`]). Views and hand-over come beside it.

#![forbid(unsafe_code)]

pub mod frame;
pub mod hello;
pub mod link;
pub mod partition;
