//! The TLS layer against rustls clients, in memory: no sockets, no clock, no sleeps.

mod bounds;
mod certificates;
mod conversations;
mod forged;
mod forger;
mod resumption;
mod settings;
mod world;
