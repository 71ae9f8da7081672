//! Where the views of a cluster are kept, so that there is one sequence of them.

use cluster::coordinator::{Stored, Written};
use cluster::view::{Version, View};

/// Why the store of views did not answer.
#[derive(Debug, thiserror::Error)]
#[error("the store of views does not answer: {0}")]
pub struct ViewStoreError(pub String);

/// A store of views: one value that is compared and set, and a counter of how often it was refreshed. Its calls block, for two seconds
/// at most.
pub trait ViewStore: Send + Sync {
    /// What is stored. A view that is `known` is not sent again. With `beat` its counter rises in the same step, if it is the known
    /// one.
    ///
    /// # Errors
    /// When the store does not answer or is no such store.
    fn read(&self, known: Option<Version>, beat: bool) -> Result<Stored, ViewStoreError>;

    /// Stores a view if `expected` is what is stored (`None`: nothing), in one step.
    fn compare_and_set(&self, expected: Option<Version>, view: &View, version: Version) -> Written;
}
