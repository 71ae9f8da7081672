//! What cores of different nodes say to each other, and how it gets there.

pub mod wire;
