//! Frames in any pieces, every rule that a peer can break, and what a decoder holds.

use cluster::frame::{
    BODY_BYTES_MAX, CONTROL_BODY_BYTES_MAX, Decoder, FrameError, HEADER_BYTES, Header, Kind, seal,
};
use proptest::collection::vec;
use proptest::prelude::*;

const VERSION: u16 = 3;

fn message(sequence: u64) -> Header {
    Header {
        kind: Kind::Message,
        lossy: sequence % 2 == 1,
        retry: sequence % 3 == 1,
        version: VERSION,
        from_core: 7,
        to_core: u16::MAX,
        epoch: 1 << 40,
        sequence,
    }
}

fn decoder() -> Decoder {
    let mut decoder = Decoder::new(VERSION);
    decoder.allow_messages();
    decoder
}

type Got = (Vec<(Header, Vec<u8>)>, Result<(), FrameError>);

fn decode_pieces<'a>(decoder: &mut Decoder, pieces: impl IntoIterator<Item = &'a [u8]>) -> Got {
    let mut got = Vec::new();
    for mut piece in pieces {
        loop {
            match decoder.decode(&mut piece) {
                Ok(Some(frame)) => got.push((frame.header, frame.body.to_vec())),
                Ok(None) => break,
                Err(error) => return (got, Err(error)),
            }
        }
        assert!(piece.is_empty(), "all bytes are taken");
    }
    (got, Ok(()))
}

/// A frame with these raw bytes in its header, and a check that is right.
fn raw(kind: u8, flags: u8, version: u16, length: u32, body: &[u8]) -> Vec<u8> {
    let mut header = message(1).encode(0);
    header[0..4].copy_from_slice(&length.to_le_bytes());
    (header[4], header[5]) = (kind, flags);
    header[6..8].copy_from_slice(&version.to_le_bytes());
    seal(&mut header);
    [&header[..], body].concat()
}

/// The same error whole and byte by byte, and again when more is shown.
#[track_caller]
fn refused(bytes: &[u8], error: FrameError) {
    let mut whole = decoder();
    assert_eq!(decode_pieces(&mut whole, [bytes]).1, Err(error));
    assert_eq!(decode_pieces(&mut whole, [bytes]), (vec![], Err(error)));
    let mut pieces = decoder();
    assert_eq!(decode_pieces(&mut pieces, bytes.chunks(1)).1, Err(error));
}

#[test]
fn frames_come_out_the_same_wherever_they_are_cut() {
    let mut bytes = Vec::new();
    let mut sent = Vec::new();
    for (sequence, body) in [&b"one"[..], b"", b"three is a little longer", b"4"]
        .into_iter()
        .enumerate()
    {
        let header = message(sequence as u64);
        header.write(body, &mut bytes);
        sent.push((header, body.to_vec()));
    }
    for kind in [Kind::Ping, Kind::Hello, Kind::View, Kind::Received] {
        let header = Header::control(kind, VERSION);
        header.write(b"body", &mut bytes);
        sent.push((header, b"body".to_vec()));
    }
    for cut in 0..=bytes.len() {
        let (head, tail) = bytes.split_at(cut);
        let got = decode_pieces(&mut decoder(), [head, tail]);
        assert_eq!(got, (sent.clone(), Ok(())), "cut at {cut}");
    }
    assert_eq!(decode_pieces(&mut decoder(), bytes.chunks(1)).0, sent);
}

#[test]
fn any_changed_bit_of_a_header_is_found() {
    let bytes = [&message(5).encode(3)[..], b"abc"].concat();
    for bit in 0..HEADER_BYTES * 8 {
        let mut changed = bytes.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        refused(&changed, FrameError::Check);
    }
}

#[test]
fn an_unknown_kind_of_a_version_that_is_spoken_here_is_an_error() {
    for (flags, version) in [(0, VERSION), (0x80, VERSION), (0, VERSION + 1), (0x80, 0)] {
        refused(
            &raw(200, flags, version, 0, b""),
            FrameError::UnknownKind { kind: 200, version },
        );
    }
    let error = FrameError::UnknownKind {
        kind: 200,
        version: 4,
    };
    assert!(error.to_string().contains("unknown kind 200"));
}

#[test]
fn an_unknown_kind_of_a_newer_version_is_passed_over_if_it_says_so() {
    let body = [0xEE; 5000];
    let unknown = raw(200, 0x80, VERSION + 1, body.len() as u32, &body);
    let known = [&message(1).encode(2)[..], b"hi"].concat();
    let bytes = [&unknown[..], &known, &unknown, &unknown, &known].concat();
    let expected = vec![(message(1), b"hi".to_vec()); 2];
    for size in [1, 7, 31, 32, 33, 4096, bytes.len()] {
        let mut decoder = decoder();
        let got = decode_pieces(&mut decoder, bytes.chunks(size));
        assert_eq!(got, (expected.clone(), Ok(())), "in pieces of {size}");
        assert_eq!(decoder.skipped(), 3);
        assert!(
            decoder.held_bytes() < 200,
            "what is passed over is not kept"
        );
    }
}

#[test]
fn lengths_beyond_the_bound_are_refused_by_the_header_alone() {
    let message = Kind::Message as u8;
    let longest = raw(message, 0, VERSION, BODY_BYTES_MAX, b"");
    assert_eq!(
        decode_pieces(&mut decoder(), [&longest[..]]),
        (vec![], Ok(()))
    );
    for (kind, length_max) in [
        (message, BODY_BYTES_MAX),
        (Kind::Hello as u8, CONTROL_BODY_BYTES_MAX),
        (Kind::Ping as u8, CONTROL_BODY_BYTES_MAX),
    ] {
        for length in [length_max + 1, u32::MAX] {
            let error = FrameError::Length {
                kind,
                length,
                length_max,
            };
            refused(&raw(kind, 0, VERSION, length, b""), error);
        }
    }
}

#[test]
fn before_both_have_said_hello_no_frame_is_long() {
    let length_max = CONTROL_BODY_BYTES_MAX;
    let bytes = raw(Kind::Message as u8, 0, VERSION, length_max + 1, b"");
    let got = decode_pieces(&mut Decoder::new(VERSION), [&bytes[..]]);
    let error = FrameError::Length {
        kind: Kind::Message as u8,
        length: length_max + 1,
        length_max,
    };
    assert_eq!(got, (vec![], Err(error)));
}

#[test]
fn a_length_takes_no_memory_before_its_bytes_are_there() {
    let mut bytes = raw(Kind::Message as u8, 0, VERSION, BODY_BYTES_MAX, b"");
    bytes.resize(bytes.len() + 100_000, 0);
    let mut decoder = decoder();
    let mut shown = 0;
    for piece in bytes.chunks(1000) {
        assert!(decode_pieces(&mut decoder, [piece]).1.is_ok());
        shown += piece.len();
        assert!(decoder.held_bytes() <= 2 * shown + 64);
    }
}

#[test]
fn a_long_frame_is_forgotten_when_it_was_read() {
    let body = vec![7; 1 << 20];
    let bytes = [&message(2).encode(body.len())[..], &body].concat();
    let mut decoder = decoder();
    let got = decode_pieces(&mut decoder, bytes.chunks(4096));
    assert_eq!(got.0, [(message(2), body)]);
    assert!(decode_pieces(&mut decoder, [&[][..]]).1.is_ok());
    assert!(decoder.held_bytes() <= 16 << 10);
}

#[test]
fn what_clients_send_is_not_shown() {
    let bytes = [&message(2).encode(6)[..], b"secret"].concat();
    let mut decoder = decoder();
    let mut rest = &bytes[..];
    let frame = decoder.decode(&mut rest).expect("good").expect("whole");
    let shown = format!("{frame:?}");
    assert!(shown.contains("body_bytes: 6") && !shown.contains("secret"));
}

proptest! {
    #[test]
    fn anything_is_decoded_without_a_panic(
        bytes in vec(any::<u8>(), 0..300),
        good in any::<bool>(),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = bytes;
        if good && let Some(header) = bytes.first_chunk_mut() {
            seal(header);
        }
        let whole = decode_pieces(&mut decoder(), [&bytes[..]]);
        let (head, tail) = bytes.split_at(cut.index(bytes.len() + 1));
        prop_assert_eq!(decode_pieces(&mut decoder(), [head, tail]), whole);
    }

    #[test]
    fn every_frame_comes_back_in_any_pieces(
        bodies in vec(vec(any::<u8>(), 0..200), 1..20),
        sizes in vec(1usize..100, 1..50),
    ) {
        let mut bytes = Vec::new();
        let mut sent = Vec::new();
        for (sequence, body) in bodies.into_iter().enumerate() {
            message(sequence as u64).write(&body, &mut bytes);
            sent.push((message(sequence as u64), body));
        }
        let mut pieces = Vec::new();
        let mut rest = &bytes[..];
        for size in sizes.into_iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (piece, behind) = rest.split_at(size.min(rest.len()));
            pieces.push(piece);
            rest = behind;
        }
        prop_assert_eq!(decode_pieces(&mut decoder(), pieces), (sent, Ok(())));
    }
}
