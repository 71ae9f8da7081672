//! What surrounds the clustered engine, on real servers: views, what servers are, a node, and how a node's store moves there.
//!
//! `cargo xtask tools valkey` installs what is started here.

mod command;
mod inspect;
mod migrate;
mod node;
mod servers;
mod tls;
mod views;
#[path = "../sockets/world.rs"]
#[expect(
    dead_code,
    reason = "shared with the tests over sockets, which use all of it"
)]
mod world;
