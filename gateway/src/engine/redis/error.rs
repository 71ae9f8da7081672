//! Why servers did not do what they were asked, and what their answers mean.

use redis::{RedisError, ServerError};

use crate::engine::redis::options::Address;

/// Why servers did not do what they were asked.
#[derive(Debug, thiserror::Error)]
pub enum ServersError {
    /// None can be reached, or the one that counts cannot, or it did not answer in time. What was asked may have been done.
    #[error("{server} cannot be reached: {detail}")]
    Unreachable {
        /// Which.
        server: String,
        /// Why.
        detail: String,
    },
    /// A server answered that it cannot now: it loads its data, is no primary, has no slot, a replica is missing.
    #[error("{server} does not serve: {detail}")]
    Unavailable {
        /// Which.
        server: String,
        /// What it said.
        detail: String,
    },
    /// No memory is left on a server.
    #[error("{server} is out of memory: {detail}")]
    Full {
        /// Which.
        server: String,
        /// What it said.
        detail: String,
    },
    /// A server refused for good: a right is missing, a command is unknown, a key has another type.
    #[error("{server} refused: {detail}")]
    Refused {
        /// Which.
        server: String,
        /// What it said.
        detail: String,
    },
    /// A write is on the primary and has not reached what the policy wants.
    #[error("{server} has written, but only {found} of {wanted} confirmed it in time")]
    Unconfirmed {
        /// The primary.
        server: String,
        /// Confirmations that the policy wants: of files and of replicas.
        wanted: u32,
        /// Those there were.
        found: u32,
    },
    /// A reply is not what the command gives.
    #[error("{server} gave a reply that cannot be read: {detail}")]
    Reply {
        /// Which.
        server: String,
        /// What was wrong with it.
        detail: String,
    },
}

pub(super) fn unreachable_server(server: &Address, error: &RedisError) -> ServersError {
    ServersError::Unreachable {
        server: server.to_string(),
        detail: error.to_string(),
    }
}

/// An error that a server answered.
pub(super) fn said(server: &Address, error: &ServerError) -> ServersError {
    let code = error.code();
    let (server, detail) = (
        server.to_string(),
        format!("{code} {}", error.details().unwrap_or_default()),
    );
    match code {
        "OOM" => ServersError::Full { server, detail },
        "MOVED" | "ASK" | "NOSCRIPT" | "LOADING" | "TRYAGAIN" | "NOREPLICAS" | "BUSY"
        | "READONLY" | "CLUSTERDOWN" | "MASTERDOWN" | "UNBLOCKED" | "MISCONF" => {
            ServersError::Unavailable { server, detail }
        }
        _ => ServersError::Refused { server, detail },
    }
}
