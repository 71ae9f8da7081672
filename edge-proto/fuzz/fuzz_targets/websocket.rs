//! Frames in any pieces give the same events and the same error, and a handshake never panics.

#![no_main]

use edge_proto::websocket::handshake::{parse_upgrade, parse_upgrade_response, write_response};
use edge_proto::websocket::{Decoder, Event, FrameError};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    handshake(input);
    let Some((&seed, bytes)) = input.split_first() else {
        return;
    };
    for decoder in [Decoder::server, Decoder::client] {
        let whole = decode(decoder(), [bytes]);
        // The seed walks through the lengths of the pieces.
        let mut length = usize::from(seed);
        let mut pieces = Vec::new();
        let mut rest = bytes;
        while !rest.is_empty() {
            length = (length * 31 + 7) % 13;
            let (piece, behind) = rest.split_at((length + 1).min(rest.len()));
            pieces.push(piece);
            rest = behind;
        }
        assert_eq!(decode(decoder(), pieces), whole);
    }
});

fn handshake(bytes: &[u8]) {
    if let Ok(Some(upgrade)) = parse_upgrade(bytes) {
        assert!(upgrade.length <= bytes.len());
        write_response(&upgrade, &mut Vec::new());
    }
    let _ = parse_upgrade_response(bytes, [0; 16]);
}

/// All data, the other events with the length of the data before each, and the error.
type Got = (Vec<u8>, Vec<(usize, String)>, Option<FrameError>);

fn decode<'p>(mut decoder: Decoder, pieces: impl IntoIterator<Item = &'p [u8]>) -> Got {
    let (mut data, mut others) = (Vec::new(), Vec::new());
    for piece in pieces {
        let result = decoder.decode(&mut piece.to_vec(), |event| match event {
            Event::Data(bytes) => data.extend_from_slice(bytes),
            other => others.push((data.len(), format!("{other:?}"))),
        });
        if let Err(error) = result {
            return (data, others, Some(error));
        }
    }
    (data, others, None)
}
