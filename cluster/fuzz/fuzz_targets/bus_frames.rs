//! Bus frames: anything is read without a panic and the same wherever it is cut, and a link that is shown anything neither loses nor
//! doubles what it has counted.

#![no_main]

use cluster::frame::{Decoder, FrameError, HEADER_BYTES, Header, Kind, seal};
use cluster::hello::{Hello, PROTOCOL, Refusal};
use cluster::link::{Incoming, Limits, Link, Message};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((&first, rest)) = bytes.split_first() else {
        return;
    };
    let stream = if first & 1 == 0 {
        rest.to_vec()
    } else {
        with_checks(rest)
    };
    let whole = decode(&[&stream]);
    let cut = usize::from(first) * stream.len() / 256;
    let (head, tail) = stream.split_at(cut);
    assert_eq!(decode(&[head, tail]), whole);
    for (header, body) in &whole.0 {
        let _ = Refusal::decode(body);
        if let Ok(hello) = Hello::decode(body) {
            let mut again = Vec::new();
            hello.write(&mut again);
            assert_eq!(Hello::decode(&again[HEADER_BYTES..]).as_ref(), Ok(&hello));
        }
        assert_eq!(header.encode(body.len()).len(), HEADER_BYTES);
    }
    show_a_link(&stream, cut);
});

/// The input as a row of frames: 28 bytes of header, whose lengths are cut to what is there, and the check that belongs to them.
fn with_checks(mut rest: &[u8]) -> Vec<u8> {
    let mut stream = Vec::new();
    while let Some((parts, behind)) = rest.split_first_chunk::<28>() {
        let mut header = [0; HEADER_BYTES];
        header[..12].copy_from_slice(&parts[..12]);
        header[16..].copy_from_slice(&parts[12..]);
        let length = usize::from(u16::from_le_bytes([header[0], header[1]])).min(behind.len());
        if header[3] < 0xF0 {
            header[..4].copy_from_slice(&(length as u32).to_le_bytes());
        }
        header[4] %= 9;
        // Sequences that are near each other.
        header[25..32].fill(0);
        seal(&mut header);
        stream.extend_from_slice(&header);
        stream.extend_from_slice(&behind[..length]);
        rest = &behind[length..];
    }
    stream
}

type Got = (Vec<(Header, Vec<u8>)>, Result<(), FrameError>);

fn decode(pieces: &[&[u8]]) -> Got {
    let mut decoder = Decoder::new(PROTOCOL.max);
    decoder.allow_messages();
    let mut got = Vec::new();
    for mut piece in pieces.iter().copied() {
        loop {
            match decoder.decode(&mut piece) {
                Ok(Some(frame)) => got.push((frame.header, frame.body.to_vec())),
                Ok(None) => break,
                Err(error) => return (got, Err(error)),
            }
        }
    }
    (got, Ok(()))
}

fn show_a_link(stream: &[u8], cut: usize) {
    let limits = Limits {
        credit_bytes: 1000,
        ..Limits::default()
    };
    let mut link = Link::new(PROTOCOL.max, limits);
    assert!(
        link.connected(0, 0, 1000, Decoder::new(PROTOCOL.max))
            .is_ok()
    );
    for _ in 0..3 {
        let message = Message {
            from_core: 1,
            to_core: 2,
            epoch: 3,
            lossy: false,
            retry: false,
            body: b"body",
        };
        assert!(link.send(&message).is_ok());
    }
    let mut out = Vec::new();
    link.output(0, &mut out);
    let mut messages = 0;
    let (head, tail) = stream.split_at(cut);
    for (now_ms, piece) in [(1, head), (200, tail)] {
        let result = link.receive(now_ms, piece, |incoming| {
            messages += u64::from(matches!(incoming, Incoming::Message(_)));
        });
        assert!(result.is_ok() || !link.is_up());
        link.output(now_ms, &mut out);
        let _ = link.tick(now_ms);
    }
    assert_eq!(link.received(), messages);
    assert_eq!(link.counters().received, messages);
    let first = decode(&[&out])
        .0
        .into_iter()
        .filter(|(header, _)| header.kind == Kind::Message);
    assert_eq!(first.count(), 3);
}
