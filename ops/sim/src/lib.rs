//! A deterministic simulator of one node or a cluster: real shards and the store in memory, a fake mesh, bus, network and clock,
//! clients that speak MQTT, and an oracle that holds what clients see against the promises. Everything follows from one seed.
//!
//! ```text
//! clients ⇄ wires ⇄ shard ⇄ mesh ⇄ shard …        plan   what this seed's run is like
//!    │                └──▶ disk ──▶ shard …        run    the steps, then calm and the last checks
//!    └── oracle: who may get what, who must      nodes  lives and views of a cluster, trouble what goes wrong in it
//! ```

#![forbid(unsafe_code)]

mod answers;
mod bus;
mod calm;
mod client;
mod connect;
mod disk;
mod listen;
mod mesh;
mod nodes;
mod oracle;
pub mod plan;
mod random;
pub mod run;
mod shared;
mod speak;
mod trouble;
mod views;
mod wire;
mod world;

pub use oracle::{Checked, Failure};

use plan::Options;
use run::{Run, Summary};

/// Runs one seed.
///
/// # Errors
/// The first broken promise.
pub fn simulate(options: &Options) -> Checked<Summary> {
    Run::new(options).complete(options.steps)
}
