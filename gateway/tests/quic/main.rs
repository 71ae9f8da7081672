//! The QUIC layer of a core against quinn-proto's client, in virtual time: no socket, no sleep, one seed.

mod admission;
mod authority;
mod bounds;
mod certificates;
mod client;
mod conversations;
mod data_stream_windows;
mod data_streams;
mod forged;
mod node;
mod world;
