//! What cores of different nodes say to each other ([`wire`]), and how it gets there.
//!
//! [`keys`] of the cluster make the [`identity`] of a node, which `secure` shows on every connection. What goes over connections is
//! in [`cluster::link`]; who is connected to whom is in `event_loop/bus.rs`.

pub mod identity;
pub mod keys;
pub(crate) mod peers;
pub(crate) mod secure;
pub mod stats;
pub mod wire;
