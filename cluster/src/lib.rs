//! Which core of which node serves what. Pure: no socket, no clock, no thread, no randomness.
//!
//! [`view`] is the numbered list of members, [`partition`] maps a root to its partition and a partition to its owner in a view. Views are agreed on by
//! [`coordinator`]. Two
//! nodes speak over links ([`link`]), in frames ([`frame`]), once they have heard who the other is ([`hello`]).

#![forbid(unsafe_code)]

pub mod coordinator;
pub mod frame;
pub mod hello;
pub mod limits;
pub mod link;
pub mod partition;
pub mod view;
