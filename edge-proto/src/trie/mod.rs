//! Many topic filters, or many topics, at once.
//!
//! [`FilterTrie`] answers "which filters match this topic", [`TopicTrie`] the reverse, for retained messages. Neither
//! recurses: a peer decides how many levels a topic has.

mod filters;
mod topics;

pub use filters::FilterTrie;
pub use topics::TopicTrie;
