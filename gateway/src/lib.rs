//! The server: a pure shard core, and around it what touches the world.

pub mod admin;
pub mod cli;
pub mod config;
pub mod control;
pub mod engine;
pub mod limits;
pub mod message;
pub mod metrics;
pub mod node;
