//! Who comes in and what they may do, asked of a whole core by its bytes: no sockets, no clock.

mod changes;
mod matrix;
mod renewal;
mod rights;
mod search;
mod shown;
mod world;
