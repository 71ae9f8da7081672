//! The cases, one file per part of the protocol. A case is named after the behaviour that it shows and says which
//! normative statements that is, for each protocol version; it runs in every version for which it names one.

mod alias;
mod auth;
mod connack;
mod connect;
mod disconnect;
mod expiry;
mod flow;
mod format;
mod keep_alive;
mod malformed;
mod properties;
mod publish;
mod qos;
mod redelivery;
mod retain;
mod session;
mod shared;
mod strings;
mod subscribe;
mod topics;
mod unsubscribe;
mod websocket;
mod will;

use crate::Outcome;
use crate::test::Test;
use crate::wire::Version;

/// One behaviour and the statements that it shows.
#[derive(Clone, Copy)]
pub struct Case {
    /// The behaviour.
    pub name: &'static str,
    /// Statement ids of MQTT 5.0, separated by spaces; empty: not run with 5.0.
    pub v5: &'static str,
    /// Statement ids of MQTT 3.1.1, separated by spaces; empty: not run with 3.1.1.
    pub v311: &'static str,
    /// What is done.
    pub run: fn(&Test) -> Outcome,
}

impl Case {
    /// The statements that it shows in this version.
    pub fn shows(&self, version: Version) -> impl Iterator<Item = &'static str> + use<> {
        match version {
            Version::V5 => self.v5,
            Version::V311 => self.v311,
        }
        .split_whitespace()
    }
}

/// Every case, in the order of the files.
pub fn all() -> impl Iterator<Item = &'static Case> {
    const GROUPS: &[&[Case]] = &[
        alias::CASES,
        auth::CASES,
        connack::CASES,
        connect::CASES,
        disconnect::CASES,
        expiry::CASES,
        flow::CASES,
        format::CASES,
        keep_alive::CASES,
        malformed::CASES,
        properties::CASES,
        publish::CASES,
        qos::CASES,
        redelivery::CASES,
        retain::CASES,
        session::CASES,
        shared::CASES,
        strings::CASES,
        subscribe::CASES,
        topics::CASES,
        unsubscribe::CASES,
        websocket::CASES,
        will::CASES,
    ];
    GROUPS.iter().copied().flatten()
}

/// The table of a file: `name: "5.0 statements", "3.1.1 statements";`.
macro_rules! cases {
    ($($name:ident: $v5:literal, $v311:literal;)*) => {
        pub(super) const CASES: &[$crate::cases::Case] =
            &[$($crate::cases::Case { name: stringify!($name), v5: $v5, v311: $v311, run: $name }),*];
    };
}
use cases;
