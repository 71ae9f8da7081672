//! The reactor: what a core needs from the kernel, and nothing about MQTT.
//!
//! Reading order: [`driver`] (the trait and its events), [`uring`], [`epoll`], [`fake`] (its three implementations),
//! [`probe`] (which of them this machine can run, and why), [`mesh`] (bounded rings between cores), [`slab`], [`wheel`].
//! Datagrams: [`datagram`] (what is said about them), [`steering`] (which core they belong to).
//! The rest is shared by the drivers: `waker` (the sleep protocol), `socket` (TCP by system call), `udp`, `buffers`,
//! `send_queue`, `transmit` (datagrams that wait to be sent).
//!
//! **Invariants**
//! - All unsafe code of the workspace is in this crate; each block says why it is sound.
//! - A driver belongs to one thread. Only [`driver::Waker`] and the mesh cross threads.
//! - An in-flight kernel operation owns its memory until its last completion.
//! - A connection ends with exactly one [`driver::Event::Closed`], after which its id is never valid again.

#![cfg(target_os = "linux")]

mod buffers;
pub mod datagram;
pub mod driver;
pub mod epoll;
pub mod fake;
mod gather;
pub mod mesh;
pub mod probe;
mod send_queue;
pub mod slab;
mod socket;
pub mod steering;
mod transmit;
mod udp;
pub mod uring;
mod waker;
pub mod wheel;
