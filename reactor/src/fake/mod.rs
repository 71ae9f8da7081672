//! The driver in memory, for tests and simulations: deterministic, in virtual time, never blocking.
//!
//! A [`FakeNet`] holds any number of drivers and peers. A test opens a [`FakePeer`] to a listening driver (or accepts what a
//! driver connects to), writes bytes in the chunks it likes, reads what was sent, narrows its window so that sends become
//! partial, and resets or ends the connection. Drivers of one net can also connect to each other. `poll` returns at once,
//! with what there is; time passes by [`FakeNet::advance`] only.

mod driver;
mod net;

pub use driver::FakeDriver;
pub use net::{FakeNet, FakePeer};
