//! The conformance suite: named cases, bytes in, bytes out, against any MQTT server.
//!
//! Owns the list of normative statements ([`statements`]), the cases that show them ([`cases`]), and the page that says
//! which hold ([`report`]). It sees a server only through its sockets and must never use `edge-proto`: its own
//! [`wire`] and [`parse`] keep one misreading from hiding in both.
#![allow(
    clippy::disallowed_methods,
    reason = "a black-box client of a real server lives in real time"
)]

pub mod cases;
pub mod client;
pub mod dial;
mod ending;
pub mod parse;
pub mod report;
mod rules;
pub mod runner;
pub mod statements;
pub mod target;
pub mod test;
mod websocket;
pub mod wire;

pub use test::Test;

/// Why a case stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The server did not do what the specification demands: expected and got.
    Failed(String),
    /// The case does not apply to this server, and why.
    NotApplicable(String),
}

/// What a step of a case gives.
pub type Outcome<T = ()> = Result<T, Stop>;

/// Fails the case with a formatted message.
#[macro_export]
macro_rules! fail {
    ($($message:tt)+) => { return Err($crate::Stop::Failed(format!($($message)+))) };
}

/// Fails the case with a formatted message unless the condition holds.
#[macro_export]
macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => { if !$condition { $crate::fail!($($message)+); } };
}

/// Leaves the case because it does not apply to the server.
#[macro_export]
macro_rules! skip {
    ($($message:tt)+) => { return Err($crate::Stop::NotApplicable(format!($($message)+))) };
}
