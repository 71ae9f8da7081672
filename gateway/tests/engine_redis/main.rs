//! The store that nodes share, on real servers: does what the model in memory does, whatever happens to connections and servers.
//!
//! `cargo xtask tools valkey` installs what is started here.

mod claims;
mod failover;
mod faults;
mod memory;
mod model;
mod shown;
mod support;

#[path = "../engine_support/mod.rs"]
mod engine_support;
#[path = "../valkey/servers.rs"]
#[expect(
    dead_code,
    reason = "shared with the tests of what surrounds the engine, which use all of it"
)]
mod servers;
