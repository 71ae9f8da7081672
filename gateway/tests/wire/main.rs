//! What a message of a core is on its way to another node: everything arrives as it was, nothing else is let in, and no byte changes
//! by accident.

mod golden_bytes;
mod handing_over;
mod hostile;
mod parts;
mod round_trip;
mod samples;
mod strategies;

use gateway::bus::wire::{self, VERSION};
use gateway::core_message::CoreMessage;

fn encoded(message: &CoreMessage) -> Vec<u8> {
    let mut bytes = Vec::new();
    wire::encode(message, VERSION, &mut bytes);
    bytes
}
