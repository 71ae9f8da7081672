//! Who comes in and what they may do, as pure functions and tables: nothing here opens a file or a socket, or reads a clock.
//!
//! Reading order: [`Identity`] (the outcome of authentication), [`rules`] (what an identity may do), then the ways to come by
//! one: [`password`], [`scram`], [`token`], [`call_out`], and [`policy`], which puts them in order; then what keeps peers in bounds:
//! [`gate`], [`bans`], [`flap`], [`bucket`], [`web_origin`].
//!
//! **Invariants**
//! - What no rule allows is denied.
//! - A secret, a password or a hash of one is in no error, no log line and no `Debug` output.
//! - Every table has a fixed size; what is given up at the bound is counted.

pub mod address;
pub mod bans;
pub mod bucket;
pub mod call_out;
pub mod flap;
pub mod gate;
pub mod password;
pub mod policy;
pub mod rules;
pub mod scram;
pub mod token;
mod ways;
pub mod web_origin;

use std::fmt;
use std::sync::Arc;

use rules::Rules;

/// Who a client has proved to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// The user; `None` for a client that proved nothing. It may be any text: what came from a token or a certificate is not
    /// ours to choose, and [`rules`] makes nothing of it but what it says.
    pub user: Option<Arc<str>>,
    /// The groups of the user, for rules and `%g`.
    pub groups: Arc<[Box<str>]>,
    /// When the proof ends, in milliseconds of Unix time: the connection ends then, unless the client renews it.
    pub expires_at_unix_ms: Option<u64>,
    /// Rules of the identity's own, from its token or from the call-out. They come before those of the node.
    pub rules: Option<Arc<Rules>>,
}

impl Identity {
    /// A client that proved nothing.
    pub fn anonymous() -> Self {
        Self::default()
    }

    /// A user without groups, expiry or rules.
    pub fn of_user(user: &str) -> Self {
        Self {
            user: Some(user.into()),
            ..Self::default()
        }
    }

    /// True when two clients may do the same, as far as it depends on who they are.
    pub fn is_same(one: &Option<Arc<Self>>, other: &Option<Arc<Self>>) -> bool {
        let rights = |identity: &Option<Arc<Self>>| {
            let identity = identity.clone().unwrap_or_default();
            (
                identity.user.clone(),
                identity.groups.clone(),
                identity.rules.clone(),
            )
        };
        rights(one) == rights(other)
    }

    /// True when the proof has ended.
    pub fn is_expired(&self, now_unix_ms: u64) -> bool {
        self.expires_at_unix_ms
            .is_some_and(|end| end <= now_unix_ms)
    }
}

impl fmt::Display for Identity {
    /// The user, quoted so that no name can pass for something else in a log line.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.user {
            Some(user) => write!(formatter, "{user:?}"),
            None => formatter.write_str("anonymous"),
        }
    }
}

/// Whose request is judged.
#[derive(Clone, Copy, Debug)]
pub struct Who<'a> {
    /// Who the client has proved to be.
    pub identity: &'a Identity,
    /// The client identifier, which a client chooses itself unless authentication ties it to the user.
    pub client: &'a str,
}
