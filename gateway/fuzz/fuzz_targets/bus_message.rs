//! Any bytes are a message of another node or are refused with words, without a panic; what is accepted is written and read again as
//! the same message.
//!
//! The first byte is the version, so that what newer nodes add is skipped.

#![no_main]

use gateway::bus::wire;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((version, bytes)) = input.split_first() else {
        return;
    };
    let version = u16::from(*version);
    match wire::decode(bytes, version) {
        Ok(message) => {
            let mut written = Vec::new();
            wire::encode(&message, version, &mut written);
            assert_eq!(wire::decode(&written, version), Ok(message));
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
