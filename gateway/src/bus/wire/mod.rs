//! How a [`CoreMessage`] travels to another node: one byte that tells its kind, then its body. The frame around it says where it
//! ends, and in which version of the bus protocol it is written.
//!
//! **The rule for versions**
//! - Both sides use the version that they agreed on for the link; a frame names it.
//! - A field that comes with a later version stands at the end of the body of its kind (`since` in the tables). A writer leaves out what
//!   the agreed version does not have, a reader then fills in what held before there was the field.
//! - What is inside of a body (a recipient, a delivery, an identity) never changes: the reader would not know where it ends. Its news
//!   go to the end of the body, or into a new kind.
//! - A reader skips what follows the fields it knows if the version is newer than its own, and refuses it otherwise.
//! - A kind keeps its number for ever. One that a reader does not know is an error: who sends it makes sure that the agreed version
//!   has it.
//!
//! **Reading order**: `primitive` (numbers, texts, lists), `table` (how a type becomes one table for both directions), `kinds` (one line
//! for each kind of message), then the types by theme: `content`, `publishing`, `subscribing`, `sessions`, `identity`.
//!
//! **Invariants**
//! - Whatever the bytes are, [`decode`] neither panics nor allocates what they do not justify: a list has no more entries than
//!   there are bytes for, and gets memory as they are read.
//! - What it returns is as good as what a node makes itself: topics, filters, QoS and numbers are checked. The properties of a
//!   message are taken as they are: nobody here reads them.
//! - What a client may legally cause a node to send is readable; otherwise it could cut the nodes off from each other.

#[macro_use]
mod table;

mod checked;
mod content;
mod error;
mod identity;
mod kinds;
mod primitive;
mod publishing;
mod sessions;
mod subscribing;

pub use error::{Problem, WireError};
pub use kinds::KINDS;

use crate::core_message::CoreMessage;
use primitive::{Reader, Wire, Writer};

/// The newest version of the messages that this release writes and reads.
pub const VERSION: u16 = 1;

/// The oldest one.
pub const VERSION_MIN: u16 = 1;

/// Appends a message to `out`, as it is written in a version. A version above [`VERSION`] is written like that one.
pub fn encode(message: &CoreMessage, version: u16, out: &mut Vec<u8>) {
    debug_assert!(version >= VERSION_MIN, "no link agrees on such a version");
    message.write(&mut Writer::new(version, out));
}

/// Reads the message that `bytes` are, all of them, as they were written in a version.
///
/// # Errors
/// Says what is wrong with which field. The sender is at fault: nothing that a client does leads to it.
pub fn decode(bytes: &[u8], version: u16) -> Result<CoreMessage, WireError> {
    if version < VERSION_MIN {
        return Err(WireError::Version { version });
    }
    let Some(&number) = bytes.first() else {
        return Err(WireError::Empty);
    };
    let kind = kinds::name(number).ok_or(WireError::Kind { number, version })?;
    let mut reader = Reader::new(version, bytes);
    let message = CoreMessage::read(&mut reader).map_err(|fault| fault.in_kind(kind))?;
    match reader.left() {
        0 => Ok(message),
        _ if version > VERSION => Ok(message), // What a newer node adds.
        bytes => Err(WireError::Trailing { kind, bytes }),
    }
}
