//! The store that nodes share: Valkey or Redis, one server, primary and replica, or a cluster.

mod confirm;
pub mod inspect;
mod link;
pub mod options;
pub mod server;
mod topology;
pub mod views;
