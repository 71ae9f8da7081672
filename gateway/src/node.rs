//! A node: its cores, its engine and its control thread, from start to stop.

use crate::config::Config;

/// Why a node did not start or did not go on.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// This build has no cores.
    #[error("this build cannot run a node; build a release")]
    NoCores,
}

/// Runs a node until it is told to stop.
///
/// # Errors
/// See [`StartError`].
pub fn run(config: Config) -> Result<(), StartError> {
    drop(config);
    Err(StartError::NoCores)
}
