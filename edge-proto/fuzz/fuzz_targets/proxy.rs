//! A PROXY header says the same wherever it is cut, and never more than it has.

#![no_main]

use edge_proto::proxy::{HEADER_LENGTH_MAX, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let whole = parse(input);
    match whole {
        Ok(Some(header)) => {
            assert!(header.length <= input.len().min(HEADER_LENGTH_MAX));
            assert_eq!(parse(&input[..header.length]), whole);
            for cut in 0..header.length {
                assert_eq!(parse(&input[..cut]), Ok(None));
            }
        }
        Ok(None) => assert!(input.len() < HEADER_LENGTH_MAX),
        Err(_) => {
            // More bytes make nothing good of it.
            let mut more = input.to_vec();
            more.extend(b"\r\n\0\0");
            assert!(parse(&more).is_err());
        }
    }
});
