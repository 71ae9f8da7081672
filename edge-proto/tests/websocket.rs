//! WebSocket: the examples of RFC 6455, every rule a peer can break, and frames in any pieces.

use edge_proto::websocket::handshake::{
    HEAD_LENGTH_MAX, UpgradeError, client_handshake, parse_upgrade, parse_upgrade_response,
    write_response,
};
use edge_proto::websocket::{self, CloseCode, Decoder, Event, FrameError, Opcode};
use proptest::collection::vec;
use proptest::prelude::*;

const REQUEST: &str = "GET /mqtt?token=1 HTTP/1.1\r\nHost: server.example.com\r\nUpgrade: websocket\r\n\
    Connection: keep-alive, Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Origin: http://example.com\r\nSec-WebSocket-Protocol: chat, mqtt\r\nSec-WebSocket-Version: 13\r\n\r\n";

/// What came out, with neighbouring data joined, since how data is cut up says nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Got {
    Data(Vec<u8>),
    Ping(Vec<u8>),
    Pong,
    Close(Option<u16>),
}

fn decode_pieces(mut decoder: Decoder, pieces: &[&[u8]]) -> (Vec<Got>, Option<FrameError>) {
    let mut got = Vec::new();
    for piece in pieces {
        let result = decoder.decode(&mut piece.to_vec(), |event| match (event, got.last_mut()) {
            (Event::Data(data), Some(Got::Data(last))) => last.extend_from_slice(data),
            (Event::Data(data), _) => got.push(Got::Data(data.to_vec())),
            (Event::Ping(payload), _) => got.push(Got::Ping(payload.to_vec())),
            (Event::Pong, _) => got.push(Got::Pong),
            (Event::Close(code), _) => got.push(Got::Close(code)),
        });
        if let Err(error) = result {
            assert!(decoder.is_closed());
            return (got, Some(error));
        }
    }
    (got, None)
}

fn decode(bytes: &[u8]) -> (Vec<Got>, Option<FrameError>) {
    decode_pieces(Decoder::server(), &[bytes])
}

/// A client's frame with this first byte.
fn frame(first_byte: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    websocket::write_client_frame(
        &mut bytes,
        Opcode::Binary,
        [0x37, 0xFA, 0x21, 0x3D],
        payload,
    );
    bytes[0] = first_byte;
    bytes
}

#[track_caller]
fn refused(bytes: &[u8], code: CloseCode, clause: &str) {
    let error = decode(bytes).1.expect("a rule is broken");
    assert_eq!((error.code, error.clause), (code, clause), "{error}");
    let pieces: Vec<_> = bytes.chunks(1).collect();
    assert_eq!(decode_pieces(Decoder::server(), &pieces).1, Some(error));
}

#[test]
fn the_handshake_of_the_rfc_is_accepted() {
    let upgrade = parse_upgrade(REQUEST.as_bytes()).unwrap().unwrap();
    assert_eq!(
        (upgrade.path, upgrade.host, upgrade.origin),
        (
            "/mqtt?token=1",
            "server.example.com",
            Some("http://example.com")
        )
    );
    assert_eq!(upgrade.length, REQUEST.len());
    let mut response = Vec::new();
    write_response(&upgrade, &mut response);
    let response = String::from_utf8(response).unwrap();
    assert!(response.starts_with("HTTP/1.1 101 "));
    assert!(response.contains("\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"));
    assert!(
        response.contains("\r\nSec-WebSocket-Protocol: mqtt\r\n") && response.ends_with("\r\n\r\n")
    );
}

#[test]
fn a_handshake_in_pieces_is_waited_for_and_frames_behind_it_are_left() {
    for end in 0..REQUEST.len() {
        assert_eq!(parse_upgrade(&REQUEST.as_bytes()[..end]), Ok(None));
    }
    let with_more = [REQUEST.as_bytes(), &[0x82]].concat();
    assert_eq!(
        parse_upgrade(&with_more).unwrap().unwrap().length,
        REQUEST.len()
    );
}

#[test]
fn header_names_and_tokens_are_read_in_any_case() {
    let request = REQUEST
        .replace("Upgrade: websocket", "UPGRADE: WebSocket")
        .replace("Sec-WebSocket-Key", "sec-websocket-key");
    assert!(parse_upgrade(request.as_bytes()).unwrap().is_some());
    assert!(parse_upgrade(REQUEST.replace("mqtt\r\n", "MQTT\r\n").as_bytes()).is_err());
}

#[test]
fn a_bad_handshake_gets_its_status() {
    let status = |request: &str| {
        let error = parse_upgrade(request.as_bytes()).unwrap_err();
        let mut response = Vec::new();
        error.write_response(&mut response);
        let response = String::from_utf8(response).unwrap();
        assert!(
            response.ends_with("\r\n\r\n") && response.contains("Connection: close\r\n"),
            "{response}"
        );
        response[9..12].parse::<u16>().unwrap()
    };
    let without = |header: &str| {
        let lines = REQUEST
            .split_inclusive("\r\n")
            .filter(|line| !line.starts_with(header));
        lines.collect::<String>()
    };
    assert_eq!(status(&REQUEST.replace("GET", "POST")), 405);
    assert_eq!(status(&without("Upgrade")), 426);
    assert_eq!(status(&REQUEST.replace("Version: 13", "Version: 8")), 426);
    assert_eq!(status(&without("Sec-WebSocket-Version")), 426);
    for header in [
        "Host",
        "Connection",
        "Sec-WebSocket-Key",
        "Sec-WebSocket-Protocol",
    ] {
        assert_eq!(status(&without(header)), 400, "{header}");
    }
    assert_eq!(status(&REQUEST.replace("jZQ==", "jZQ=")), 400);
    assert_eq!(
        status(&REQUEST.replace("dGhlIHNhbXBsZSBub25jZQ==", "dGhl")),
        400
    );
    assert_eq!(status(&REQUEST.replace("HTTP/1.1", "HTTP/1.0")), 400);
    assert_eq!(status(&REQUEST.replace("Host: ", "Host: a\r\nHost: ")), 400);
    assert_eq!(
        status(&REQUEST.replace("Host: ", "Content-Length: 5\r\nHost: ")),
        400
    );
    assert_eq!(status("\u{1}\u{2} not HTTP\r\n\r\n"), 400);
    assert_eq!(
        status(&format!("GET /{}", "x".repeat(HEAD_LENGTH_MAX))),
        431
    );
    assert_eq!(
        status(&REQUEST.replace("Host: ", &format!("{}Host: ", "A: b\r\n".repeat(70)))),
        431
    );
    for (error, line) in [
        (UpgradeError::UnknownPath, "404 Not Found"),
        (UpgradeError::OriginNotAllowed, "403 Forbidden"),
    ] {
        let mut response = Vec::new();
        error.write_response(&mut response);
        assert!(
            String::from_utf8(response)
                .unwrap()
                .starts_with(&format!("HTTP/1.1 {line}\r\n"))
        );
    }
}

#[test]
fn client_and_server_shake_hands() {
    let key = [9; 16];
    let mut request = Vec::new();
    client_handshake(&mut request, "localhost:8083", "/mqtt", key);
    let upgrade = parse_upgrade(&request).unwrap().unwrap();
    assert_eq!(
        (upgrade.path, upgrade.host, upgrade.origin),
        ("/mqtt", "localhost:8083", None)
    );
    let mut response = Vec::new();
    write_response(&upgrade, &mut response);
    for end in 0..response.len() {
        assert_eq!(parse_upgrade_response(&response[..end], key), Ok(None));
    }
    assert_eq!(
        parse_upgrade_response(&response, key),
        Ok(Some(response.len()))
    );
    assert!(matches!(
        parse_upgrade_response(&response, [8; 16]),
        Err(UpgradeError::Refused(_))
    ));
    let other_status = String::from_utf8(response).unwrap().replace("101", "200");
    assert!(parse_upgrade_response(other_status.as_bytes(), key).is_err());
    let mut refusal = Vec::new();
    UpgradeError::UnknownPath.write_response(&mut refusal);
    assert!(matches!(
        parse_upgrade_response(&refusal, key),
        Err(UpgradeError::Refused(_))
    ));
}

#[test]
fn the_masked_hello_of_the_rfc_is_unmasked() {
    let mut hello = [
        0x82, 0x85, 0x37, 0xFA, 0x21, 0x3D, 0x7F, 0x9F, 0x4D, 0x51, 0x58,
    ];
    assert_eq!(decode(&hello), (vec![Got::Data(b"Hello".to_vec())], None));
    let mut decoder = Decoder::server();
    decoder
        .decode(&mut hello, |event| assert_eq!(event, Event::Data(b"Hello")))
        .unwrap();
    assert_eq!(&hello[6..], b"Hello");
}

#[test]
fn a_fragmented_message_may_have_a_ping_between() {
    let bytes = [
        frame(0x02, b"He"),
        frame(0x89, b"?"),
        frame(0x00, b""),
        frame(0x80, b"llo"),
        frame(0x82, b"!"),
    ]
    .concat();
    let expected = [
        Got::Data(b"He".to_vec()),
        Got::Ping(b"?".to_vec()),
        Got::Data(b"llo!".to_vec()),
    ];
    assert_eq!(decode(&bytes), (expected.to_vec(), None));
}

#[test]
fn a_ping_that_comes_byte_by_byte_is_answered_whole() {
    let ping = frame(0x89, &[7; 125]);
    let pieces: Vec<_> = ping.chunks(1).collect();
    assert_eq!(
        decode_pieces(Decoder::server(), &pieces),
        (vec![Got::Ping(vec![7; 125])], None)
    );
    assert_eq!(decode(&frame(0x89, &[])), (vec![Got::Ping(vec![])], None));
    assert_eq!(decode(&frame(0x8A, b"x")), (vec![Got::Pong], None));
}

#[test]
fn nothing_is_read_behind_a_close_frame() {
    let bytes = [
        frame(0x88, &[0x03, 0xE8, b'b', b'y', b'e']),
        frame(0x82, b"more"),
        vec![0xFF],
    ]
    .concat();
    assert_eq!(decode(&bytes), (vec![Got::Close(Some(1000))], None));
    assert_eq!(decode(&frame(0x88, &[])), (vec![Got::Close(None)], None));
}

#[test]
fn broken_frames_close_the_connection_with_their_code() {
    use CloseCode::{InvalidPayload, ProtocolError, UnsupportedData};
    refused(&[0x82, 0x01, b'x'], ProtocolError, "RFC 6455 §5.1");
    refused(&[0xC2, 0x81], ProtocolError, "RFC 6455 §5.2");
    refused(&[0x83], ProtocolError, "RFC 6455 §5.2");
    refused(&[0x8B], ProtocolError, "RFC 6455 §5.2");
    refused(&frame(0x81, b"text"), UnsupportedData, "MQTT-6.0.0-1");
    refused(&[0x89, 0xFE], ProtocolError, "RFC 6455 §5.5");
    refused(&frame(0x09, b""), ProtocolError, "RFC 6455 §5.5");
    refused(&frame(0x80, b"x"), ProtocolError, "RFC 6455 §5.4");
    refused(
        &[frame(0x02, b"x"), frame(0x82, b"y")].concat(),
        ProtocolError,
        "RFC 6455 §5.4",
    );
    refused(&[0x82, 0xFE, 0, 125], ProtocolError, "RFC 6455 §5.2");
    refused(
        &[0x82, 0xFF, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF],
        ProtocolError,
        "RFC 6455 §5.2",
    );
    refused(
        &[0x82, 0xFF, 0x80, 0, 0, 0, 0, 0, 0, 0],
        ProtocolError,
        "RFC 6455 §5.2",
    );
    refused(&frame(0x88, &[3]), ProtocolError, "RFC 6455 §5.5.1");
    refused(&frame(0x88, &[0x03, 0xED]), ProtocolError, "RFC 6455 §7.4");
    refused(&frame(0x88, &[0, 0]), ProtocolError, "RFC 6455 §7.4");
    refused(
        &frame(0x88, &[0x03, 0xE8, 0xFF]),
        InvalidPayload,
        "RFC 6455 §5.5.1",
    );
}

#[test]
fn data_before_a_broken_frame_is_still_given() {
    let (got, error) = decode(&[frame(0x82, b"good"), vec![0xFF]].concat());
    assert_eq!(
        (got, error.unwrap().code),
        (vec![Got::Data(b"good".to_vec())], CloseCode::ProtocolError)
    );
}

#[test]
fn lengths_of_every_form_are_written_and_read() {
    for length in [0, 1, 125, 126, 127, 65_535, 65_536, 70_000] {
        let payload = vec![5; length];
        let expected = if length == 0 {
            vec![]
        } else {
            vec![Got::Data(payload.clone())]
        };
        assert_eq!(decode(&frame(0x82, &payload)), (expected.clone(), None));
        let mut bytes = Vec::new();
        websocket::write_frame_header(&mut bytes, Opcode::Binary, length);
        assert!(bytes.len() <= websocket::SERVER_HEADER_LENGTH_MAX);
        bytes.extend_from_slice(&payload);
        assert_eq!(
            decode_pieces(Decoder::client(), &[&bytes]),
            (expected, None)
        );
    }
}

#[test]
fn a_client_reads_what_a_server_writes_but_no_masked_frame() {
    let mut bytes = Vec::new();
    websocket::ping(&mut bytes, b"p");
    websocket::pong(&mut bytes, &[1; 300]);
    websocket::close(&mut bytes, CloseCode::GoingAway, &"\u{20ac}".repeat(60));
    assert_eq!(bytes[3..5], [0x8A, 125]);
    let expected = vec![Got::Ping(b"p".to_vec()), Got::Pong, Got::Close(Some(1001))];
    assert_eq!(
        decode_pieces(Decoder::client(), &[&bytes]),
        (expected, None)
    );
    let error = decode_pieces(Decoder::client(), &[&frame(0x82, b"x")])
        .1
        .unwrap();
    assert_eq!(
        (error.code, error.clause),
        (CloseCode::ProtocolError, "RFC 6455 §5.1")
    );
}

/// Frames of which most are good.
fn frames() -> impl Strategy<Value = Vec<u8>> {
    let first_byte = prop_oneof![6 => Just(0x82), 2 => Just(0x02), 2 => Just(0x80), 2 => Just(0x89), 1 => Just(0x8A), 1 => any::<u8>()];
    let payload = prop_oneof![4 => vec(any::<u8>(), 0..20), 1 => vec(any::<u8>(), 120..140)];
    vec((first_byte, payload, any::<[u8; 4]>()), 1..12).prop_map(|frames| {
        let mut bytes = Vec::new();
        for (first_byte, payload, mask) in frames {
            let start = bytes.len();
            websocket::write_client_frame(&mut bytes, Opcode::Binary, mask, &payload);
            bytes[start] = first_byte;
        }
        bytes
    })
}

proptest! {
    #[test]
    fn frames_in_any_pieces_give_the_same_events(bytes in frames(), cuts in vec(1..40usize, 0..100)) {
        let whole = decode(&bytes);
        let mut pieces = Vec::new();
        let mut rest = bytes.as_slice();
        for cut in cuts {
            let (piece, behind) = rest.split_at(cut.min(rest.len()));
            pieces.push(piece);
            rest = behind;
        }
        pieces.push(rest);
        prop_assert_eq!(&decode_pieces(Decoder::server(), &pieces), &whole);
        let single: Vec<_> = bytes.chunks(1).collect();
        prop_assert_eq!(decode_pieces(Decoder::server(), &single), whole);
    }

    #[test]
    fn random_bytes_never_panic(bytes in vec(any::<u8>(), 0..200)) {
        decode(&bytes);
        decode_pieces(Decoder::client(), &[&bytes]);
        let _ = parse_upgrade(&bytes);
        let _ = parse_upgrade_response(&bytes, [0; 16]);
    }

    #[test]
    fn a_stream_in_frames_comes_back(payloads in vec(vec(any::<u8>(), 1..300), 1..8), mask: [u8; 4]) {
        let mut bytes = Vec::new();
        for payload in &payloads {
            websocket::write_client_frame(&mut bytes, Opcode::Binary, mask, payload);
        }
        prop_assert_eq!(decode(&bytes), (vec![Got::Data(payloads.concat())], None));
    }
}
