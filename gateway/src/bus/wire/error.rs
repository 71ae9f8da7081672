//! What can be wrong with a message of another node. Nothing of its content is in an error, only numbers.

use edge_proto::reason::Violation;

use crate::access::rules::RulesError;

/// Why bytes are no message. The node that sent them has a bug, or is of a release that does not fit to this one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// There is not even a kind.
    #[error("an empty message: the node that sent it does not keep the protocol")]
    Empty,
    /// Older than anything that is still spoken.
    #[error(
        "a message in version {version} of the bus, this release reads from version {} on: update the node that sent it",
        super::VERSION_MIN
    )]
    Version {
        /// The version.
        version: u16,
    },
    /// A kind that does not exist here.
    #[error(
        "a message of kind {number} in version {version} of the bus, which this release does not know: the node that sent it is \
         too new for this one, or does not keep the protocol"
    )]
    Kind {
        /// Its number.
        number: u8,
        /// The version it was written in.
        version: u16,
    },
    /// A field is not what it should be.
    #[error("{kind}: {field}: {problem}; the node that sent it does not keep the protocol")]
    Field {
        /// The kind of message.
        kind: &'static str,
        /// The type and its field.
        field: &'static str,
        /// What is wrong.
        problem: Problem,
    },
    /// More than the fields of the kind.
    #[error(
        "{kind}: {bytes} bytes follow its last field; the node that sent it does not keep the protocol"
    )]
    Trailing {
        /// The kind of message.
        kind: &'static str,
        /// How many bytes.
        bytes: usize,
    },
}

/// What is wrong with a field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The bytes end within it.
    #[error("the message ends within it")]
    Ends,
    /// A number is written with more bytes than it needs, or has more bits than the field.
    #[error("it is no number of {bits} bits")]
    Number {
        /// How many it may have.
        bits: u32,
    },
    /// A byte tells which of several things follows, or is a code, and nothing has this number.
    #[error("{number} is no {what}")]
    Unknown {
        /// What the byte is.
        what: &'static str,
        /// The byte.
        number: u8,
    },
    /// More entries than there are bytes for.
    #[error("a list of {count} entries, with {left} bytes left")]
    Count {
        /// How many entries it claims.
        count: usize,
        /// How many bytes are left.
        left: usize,
    },
    /// It is not UTF-8.
    #[error("it is not valid UTF-8")]
    Utf8,
    /// Zero, where that stands for nothing.
    #[error("it is 0")]
    Zero,
    /// More than the protocol has room for.
    #[error("{number} is above {max}")]
    Above {
        /// The number.
        number: u32,
        /// The highest one.
        max: u32,
    },
    /// Not a topic name or filter.
    #[error("{} ({})", .0.detail, .0.clause)]
    Invalid(Violation),
    /// The rules of an identity are wrong.
    #[error("its rules are wrong: {0}")]
    Rules(RulesError),
}

/// A problem on its way out, to be told which field it is in. In a box, because every read returns one or none.
#[derive(Debug)]
pub(super) struct Fault(Box<(Option<&'static str>, Problem)>);

impl From<Problem> for Fault {
    #[cold]
    fn from(problem: Problem) -> Self {
        Self(Box::new((None, problem)))
    }
}

impl Fault {
    /// The field, unless one within it is known.
    #[cold]
    pub(super) fn in_field(mut self, field: &'static str) -> Self {
        self.0.0.get_or_insert(field);
        self
    }

    #[cold]
    pub(super) fn in_kind(self, kind: &'static str) -> WireError {
        let (field, problem) = *self.0;
        WireError::Field {
            kind,
            field: field.unwrap_or(kind),
            problem,
        }
    }
}
