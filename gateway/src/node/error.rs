//! Why a node did not start: each says what to do about it.

use std::net::SocketAddr;

use reactor::probe::ProbeError;

use crate::control::access::AccessError;
use crate::control::certificates::CertificateError;
use crate::control::cluster::ClusterError;
use crate::control::engine::EngineFileError;
use crate::engine::EngineError;

/// Why a node did not start or did not go on.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No backend can be run.
    #[error(transparent)]
    Probe(#[from] ProbeError),
    /// The store cannot be used.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// An address cannot be listened on.
    #[error(
        "cannot listen on {address} ({key}): {source}; stop what uses it, or set {key} to another address"
    )]
    Listen {
        /// The key of the configuration.
        key: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file that says how to reach the servers of the store cannot be used.
    #[error(transparent)]
    EngineFile(#[from] EngineFileError),
    /// The servers of the store would break what is promised, or none of them answers.
    #[error(
        "the Valkey or Redis cannot be used: {0}; `roadstead engine check` tells everything about it"
    )]
    EngineServers(String),
    /// A core's driver could not be made or failed.
    #[error("core {core} cannot do I/O: {source}; `roadstead check` says what this machine allows")]
    Driver {
        /// Which core.
        core: u16,
        /// What the system said.
        source: std::io::Error,
    },
    /// TLS listeners without usable certificates.
    #[error("TLS: {0}")]
    Certificates(#[from] CertificateError),
    /// What says who may connect cannot be used.
    #[error("who may connect: {0}")]
    Access(#[from] AccessError),
    /// The secret of QUIC cannot be used.
    #[error("QUIC: {0}")]
    QuicSecret(#[source] AccessError),
    /// This node cannot be in its cluster.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The system refused a thread, random numbers, signals or the like.
    #[error("the system refused {what}: {source}")]
    System {
        /// What.
        what: &'static str,
        /// What it said.
        source: std::io::Error,
    },
}

pub(super) fn system(what: &'static str) -> impl FnOnce(std::io::Error) -> StartError {
    move |source| StartError::System { what, source }
}
