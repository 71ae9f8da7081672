//! Fields whose type has more values than the protocol: each module is one way to write and to read them.

use edge_proto::reason::Violation;

use super::error::{Fault, Problem};
use super::primitive::{Reader, Wire, Writer};

#[cold]
fn invalid(violation: Violation) -> Fault {
    Problem::Invalid(violation).into()
}

/// A number that counts from 1: packet identifiers, places in a mailbox, limits.
pub(super) mod nonzero {
    use super::{Fault, Problem, Reader, Wire, Writer};

    pub(in super::super) fn write<T: Wire>(number: &T, out: &mut Writer<'_>) {
        number.write(out);
    }

    pub(in super::super) fn read<T: Wire + Default + PartialEq>(
        input: &mut Reader<'_>,
    ) -> Result<T, Fault> {
        let number = T::read(input)?;
        if number == T::default() {
            return Err(Problem::Zero.into());
        }
        Ok(number)
    }
}

/// A Subscription Identifier, 0 for none.
pub(super) mod subscription_id {
    use super::{Fault, Problem, Reader, Wire, Writer};

    /// The largest one (MQTT 5.0 §3.8.2.1.2).
    const MAX: u32 = 268_435_455;

    pub(in super::super) fn write(id: &u32, out: &mut Writer<'_>) {
        id.write(out);
    }

    pub(in super::super) fn read(input: &mut Reader<'_>) -> Result<u32, Fault> {
        let number = u32::read(input)?;
        if number > MAX {
            return Err(Problem::Above { number, max: MAX }.into());
        }
        Ok(number)
    }
}

/// A topic filter, `$share/…` included.
pub(super) mod filter {
    use edge_proto::topic::{SharedFilter, TopicFilter};

    use super::{Fault, Reader, Writer, bytes, invalid};

    pub(in super::super) fn write(filter: &str, out: &mut Writer<'_>) {
        bytes::write(filter.as_bytes(), out);
    }

    pub(in super::super) fn read(input: &mut Reader<'_>) -> Result<Box<str>, Fault> {
        let text = input.text()?;
        if SharedFilter::parse(text).map_err(invalid)?.is_none() {
            TopicFilter::parse(text).map_err(invalid)?;
        }
        Ok(text.into())
    }
}

/// A topic name, or nothing where a list of topics begins.
pub(super) mod topic_or_start {
    use edge_proto::topic::TopicName;

    use super::{Fault, Reader, Writer, bytes, invalid};

    pub(in super::super) fn write(topic: &str, out: &mut Writer<'_>) {
        bytes::write(topic.as_bytes(), out);
    }

    pub(in super::super) fn read(input: &mut Reader<'_>) -> Result<Box<str>, Fault> {
        let text = input.text()?;
        if !text.is_empty() {
            TopicName::parse(text).map_err(invalid)?;
        }
        Ok(text.into())
    }
}

/// The topic that a list goes on behind, if it goes on.
pub(super) mod next_topic {
    use super::{Fault, Reader, Wire, Writer, topic_or_start};

    pub(in super::super) fn write(topic: &Option<Box<str>>, out: &mut Writer<'_>) {
        topic.write(out);
    }

    pub(in super::super) fn read(input: &mut Reader<'_>) -> Result<Option<Box<str>>, Fault> {
        let is_there = bool::read(input)?;
        is_there.then(|| topic_or_start::read(input)).transpose()
    }
}

/// Bytes as they are.
pub(super) mod bytes {
    pub(in super::super) use crate::bus::wire::primitive::bytes::{read, write};
}
