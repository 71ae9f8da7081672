//! What `Debug` shows of bytes that may be a secret, or somebody's message: how many they are, and nothing of them.

use core::fmt;

/// A number of bytes that are not shown.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Length(pub usize);

impl Length {
    /// That of these bytes.
    pub const fn of(bytes: &[u8]) -> Self {
        Self(bytes.len())
    }

    /// That of these bytes, if there are any to be counted.
    pub fn of_any(bytes: Option<&[u8]>) -> Option<Self> {
        bytes.map(Self::of)
    }
}

impl fmt::Debug for Length {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} bytes", self.0)
    }
}
