//! Which core of which node serves what. Pure: no socket, no clock, no thread, no randomness.
//!
//! [`membership`] says who is alive, in datagrams that [`sealed`] seals. From that [`coordinator`] makes views: [`view`] is the
//! numbered list of members, and [`partition`] maps a root to its partition and a partition to its owner in a view. Two nodes speak
//! over links ([`link`]), in frames ([`frame`]), once they have heard who the other is ([`hello`]); what they say of views goes over a link
//! of its own ([`control`]).

#![forbid(unsafe_code)]

pub mod control;
pub mod coordinator;
pub mod frame;
pub mod hello;
pub mod limits;
pub mod link;
pub mod membership;
pub mod partition;
pub mod sealed;
pub mod view;
