//! Where each value came from.

use std::collections::BTreeMap;
use std::fmt;

/// The source of one value. Later variants win over earlier ones.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// The configuration file.
    File {
        /// Which, as it was named.
        path: String,
        /// Line of the key, from 1.
        line: usize,
    },
    /// An environment variable.
    Environment {
        /// Its name.
        name: String,
    },
    /// A flag of the command line.
    Flag {
        /// As it was written, without its value.
        flag: String,
    },
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => write!(formatter, "default"),
            Self::File { path, line } => write!(formatter, "{path}:{line}"),
            Self::Environment { name } => write!(formatter, "env {name}"),
            Self::Flag { flag } => write!(formatter, "flag {flag}"),
        }
    }
}

/// The origin of each key that is not at its default, by `section.name`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Origins(pub(super) BTreeMap<String, Origin>);

impl Origins {
    pub(super) fn of(&self, path: &str) -> &Origin {
        self.0.get(path).unwrap_or(&Origin::Default)
    }
}
