//! What can be wrong with a configuration: always the operator's to mend, so each message says where and how.

use std::fmt;

use super::Origin;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read: it is not there, is a folder, or belongs to somebody else.
    #[error(
        "{path}: {detail}; name an existing file with --config, or none to run with the defaults"
    )]
    Unreadable {
        /// Which file.
        path: String,
        /// What the system said.
        detail: String,
    },
    /// The text is not TOML.
    #[error("{path}:{line}: not valid TOML: {detail}")]
    Syntax {
        /// Which file.
        path: String,
        /// Where, from 1.
        line: usize,
        /// What the parser expected.
        detail: String,
    },
    /// A key that does not exist: misspelt, or of another release.
    #[error("{origin}: unknown key {key}{}", hint(.nearest))]
    UnknownKey {
        /// Where it is.
        origin: Origin,
        /// As it was written.
        key: String,
        /// The known key that looks most like it.
        nearest: Option<String>,
    },
    /// A value that its key cannot have.
    #[error("{origin}: {key} = {value}: {problem}")]
    BadValue {
        /// Where it is.
        origin: Origin,
        /// Which key.
        key: String,
        /// The value as it was written.
        value: String,
        /// What is wrong and what would be right.
        problem: String,
    },
    /// Values that are good alone and not together.
    #[error("{origin}: {key} = {value}: {problem}")]
    Contradiction {
        /// Where the first of them is.
        origin: Origin,
        /// The first of them.
        key: String,
        /// Its value.
        value: String,
        /// What contradicts it, and the ways out.
        problem: String,
    },
}

fn hint(nearest: &Option<String>) -> String {
    match nearest {
        Some(key) => format!("; did you mean {key}?"),
        None => "; `roadstead config print` lists all keys".into(),
    }
}

/// Everything that is wrong, so that one look mends all of it. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(formatter, "{separator}{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}
