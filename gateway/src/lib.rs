//! The server: a pure shard core, and around it what touches the world.

pub mod access;
pub mod admin;
pub mod bus;
pub mod cli;
pub mod config;
pub mod control;
pub mod core_message;
pub mod durable_file;
pub mod edge;
pub mod engine;
pub mod event_loop;
pub mod handover;
pub mod home;
pub mod limits;
pub mod message;
pub mod metrics;
pub mod node;
pub mod outbox;
pub mod owner;
pub mod ownership;
pub mod quic;
pub mod retained_scan;
pub mod shard;
pub mod tls;
pub mod turn;
