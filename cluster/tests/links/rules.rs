//! One link and a peer that is written by hand: what it may not do, and what a silent one leads to.

use cluster::frame::{Decoder, FrameError, Header, Kind};
use cluster::hello::{PROTOCOL, Refusal};
use cluster::link::{Incoming, Limits, Link, LinkError, Message};

const VERSION: u16 = PROTOCOL.max;

fn limits() -> Limits {
    Limits {
        credit_bytes: 1000,
        ..Limits::default()
    }
}

fn up() -> Link {
    let mut link = Link::new(VERSION, limits());
    link.connected(0, 0, 1000, Decoder::new(VERSION))
        .expect("nothing was received yet");
    link
}

fn message(sequence: u64, body: &[u8]) -> Vec<u8> {
    let header = Header {
        sequence,
        ..Header::control(Kind::Message, VERSION)
    };
    let mut bytes = Vec::new();
    header.write(body, &mut bytes);
    bytes
}

fn control(kind: Kind, sequence: u64, body: &[u8]) -> Vec<u8> {
    let header = Header {
        sequence,
        ..Header::control(kind, VERSION)
    };
    let mut bytes = Vec::new();
    header.write(body, &mut bytes);
    bytes
}

/// Kinds and sequences of what a link writes.
fn output(link: &mut Link, now_ms: u64) -> Vec<(Kind, u64)> {
    let mut bytes = Vec::new();
    link.output(now_ms, &mut bytes);
    let mut decoder = Decoder::new(VERSION);
    decoder.allow_messages();
    let mut rest = &bytes[..];
    let mut frames = Vec::new();
    while let Some(frame) = decoder.decode(&mut rest).expect("it writes good frames") {
        frames.push((frame.header.kind, frame.header.sequence));
    }
    frames
}

fn receive(link: &mut Link, bytes: &[u8]) -> (u64, Result<(), LinkError>) {
    let mut messages = 0;
    let result = link.receive(1, bytes, |_| messages += 1);
    (messages, result)
}

fn send(link: &mut Link) {
    let message = Message {
        from_core: 0,
        to_core: 1,
        epoch: 1,
        lossy: false,
        retry: false,
        body: b"body",
    };
    link.send(&message).expect("there is room");
}

#[test]
fn a_replayed_or_missing_message_ends_the_connection_and_is_not_handed_out() {
    for got in [0, 1, 3, u64::MAX] {
        let mut link = up();
        let bytes = [message(1, b"a"), message(got, b"b")].concat();
        let error = LinkError::OutOfOrder { expected: 2, got };
        assert_eq!(receive(&mut link, &bytes), (1, Err(error)));
        assert!(!link.is_up());
        assert_eq!((link.received(), link.counters().violations), (1, 1));
        assert_eq!(receive(&mut link, &message(2, b"late")), (0, Ok(())));
        assert_eq!(link.received(), 1, "a link that is down hears nothing");
    }
}

#[test]
fn an_acknowledgement_of_what_was_not_written_ends_the_connection() {
    let credit = 1000u32.to_le_bytes();
    let mut link = up();
    send(&mut link);
    let error = LinkError::Acknowledged { got: 1, last: 0 };
    let early = control(Kind::Received, 1, &credit);
    assert_eq!(receive(&mut link, &early), (0, Err(error)));

    let mut link = up();
    send(&mut link);
    send(&mut link);
    assert_eq!(output(&mut link, 1).len(), 2);
    assert_eq!(
        receive(&mut link, &control(Kind::Received, 2, &credit)).1,
        Ok(())
    );
    let back = control(Kind::Received, 1, &credit);
    let error = LinkError::Acknowledged { got: 1, last: 2 };
    assert_eq!(receive(&mut link, &back).1, Err(error));
    assert_eq!(link.queued_bytes(), 0);
}

#[test]
fn a_peer_that_does_not_go_on_where_the_link_is_does_not_connect() {
    let mut link = Link::new(VERSION, limits());
    send(&mut link);
    let error = LinkError::Acknowledged { got: 1, last: 0 };
    let result = link.connected(0, 1, 1000, Decoder::new(VERSION));
    assert_eq!(result, Err(error));
    assert!(!link.is_up());
}

#[test]
fn a_peer_that_floods_is_cut_off() {
    let mut link = up();
    // 132 bytes each, of 1,000; the link's turn never ends, so that nothing is acknowledged.
    let mut taken = 0;
    let error = loop {
        let (messages, result) = receive(&mut link, &message(taken + 1, &[0; 100]));
        taken += messages;
        if let Err(error) = result {
            break error;
        }
    };
    assert_eq!((error, taken), (LinkError::OverCredit(1000), 8));
    assert_eq!(link.received(), 8, "the one too many can come again");
}

#[test]
fn frames_that_have_no_place_in_a_link_end_the_connection() {
    let unexpected = |kind| Err(LinkError::Unexpected(kind));
    let refused = {
        let mut bytes = Vec::new();
        Refusal::UnknownMember.write(&mut bytes);
        bytes
    };
    for (bytes, result, violations) in [
        (control(Kind::Hello, 0, b""), unexpected(Kind::Hello), 1),
        (control(Kind::View, 0, b"short"), unexpected(Kind::View), 1),
        (
            control(Kind::Received, 0, b"no"),
            unexpected(Kind::Received),
            1,
        ),
        (refused, Err(LinkError::Refused(Refusal::UnknownMember)), 0),
        (vec![0; 32], Err(LinkError::Frame(FrameError::Check)), 1),
    ] {
        let mut link = up();
        assert_eq!(receive(&mut link, &bytes), (0, result));
        assert!(!link.is_up());
        assert_eq!(link.counters().violations, violations);
    }
}

#[test]
fn a_silent_peer_is_asked_four_times_and_then_unreachable() {
    let mut link = up();
    send(&mut link);
    assert_eq!(output(&mut link, 0), [(Kind::Message, 1)]);
    for number in 1..=4 {
        let now_ms = link.next_deadline_ms().expect("it is up");
        assert_eq!(now_ms, number * 500);
        assert_eq!(link.tick(now_ms), Ok(()));
        assert_eq!(output(&mut link, now_ms), [(Kind::Ping, number)]);
    }
    assert_eq!(link.tick(2499), Ok(()));
    assert_eq!(link.tick(2500), Err(LinkError::Unreachable(2000)));
    assert!(!link.is_up());
    assert_eq!(link.counters().unreachable, 1);
    assert!(link.queued_bytes() > 0, "what it did not get waits for it");
}

#[test]
fn a_pong_or_an_acknowledgement_is_an_answer_and_a_ping_is_none() {
    let credit = 1000u32.to_le_bytes();
    let answer = |bytes: Vec<u8>| {
        let mut link = up();
        send(&mut link);
        for now_ms in [500, 1000, 1500, 2000] {
            assert_eq!(link.tick(now_ms), Ok(()));
            output(&mut link, now_ms);
        }
        link.receive(2000, &bytes, |_| {}).expect("it is allowed");
        link.tick(2500)
    };
    assert_eq!(answer(control(Kind::Pong, 4, b"")), Ok(()));
    assert_eq!(answer(control(Kind::Received, 1, &credit)), Ok(()));
    let silent = Err(LinkError::Unreachable(2000));
    assert_eq!(answer(control(Kind::Ping, 4, b"")), silent);
    assert_eq!(answer(control(Kind::Pong, 9, b"")), silent);
    assert_eq!(answer(control(Kind::Received, 0, &credit)), silent);
}

#[test]
fn a_pause_of_this_process_is_not_held_against_the_peer() {
    let mut link = up();
    assert_eq!(link.tick(60_000), Ok(()));
    assert_eq!(output(&mut link, 60_000), [(Kind::Ping, 1)]);
}

#[test]
fn pings_are_answered_once_a_turn_however_many_come() {
    let mut link = up();
    let pings: Vec<u8> = (1..=100)
        .flat_map(|number| control(Kind::Ping, number, b""))
        .collect();
    assert_eq!(receive(&mut link, &pings).1, Ok(()));
    assert_eq!(output(&mut link, 1), [(Kind::Pong, 100)]);
    assert!(!link.has_output(1));
}

#[test]
fn a_view_is_told_before_messages_and_only_the_newest() {
    let mut link = up();
    send(&mut link);
    link.tell_view(5, 55);
    link.tell_view(6, 66);
    let mut bytes = Vec::new();
    link.output(1, &mut bytes);
    let mut peer = up();
    let mut heard = Vec::new();
    peer.receive(1, &bytes, |incoming| {
        heard.push(match incoming {
            Incoming::View { epoch, hash } => (epoch, hash),
            Incoming::Message(_) => (0, 0),
        });
    })
    .expect("it is allowed");
    assert_eq!(heard, [(6, 66), (0, 0)]);
}
