//! CONNECT (§3.1): who is let in, and as whom.

use super::cases;
use crate::dial::accepted;
use crate::wire::{Bytes, Props, Publish, Version, first, frame, prop, subscribe};
use crate::{Outcome, Test, ensure, fail};

cases! {
    the_first_packet_must_be_connect: "3.1.0-1 3.2.0-1 3.14.0-1", "3.1.0-1 3.2.0-1";
    a_second_connect_closes: "3.1.0-2 3.2.0-2 4.13.1-1", "3.1.0-2 4.8.0-1";
    a_wrong_protocol_name_is_refused: "3.1.2-1", "3.1.2-1";
    an_unknown_protocol_level_is_refused: "3.1.2-2", "3.1.2-2 3.2.2-4 3.2.2-5";
    the_reserved_connect_flag_is_checked: "3.1.2-3 3.1.4-1", "3.1.2-3 3.1.4-1 3.2.2-6";
    will_bits_without_will_flag_are_refused: "3.1.2-11 3.1.2-13 3.1.4-1", "3.1.2-11 3.1.2-13 3.1.2-15";
    will_qos_3_is_refused: "3.1.2-12", "3.1.2-14";
    will_fields_must_match_the_will_flag: "3.1.2-9", "3.1.2-9 3.1.2-11";
    user_name_and_password_must_match_their_flags:
        "3.1.2-16 3.1.2-17 3.1.2-18 3.1.2-19", "3.1.2-18 3.1.2-19 3.1.2-20 3.1.2-21";
    a_password_needs_a_user_name: "", "3.1.2-22";
    a_password_without_user_name_is_well_formed: "3.1.2-19", "";
    payload_fields_are_read_in_order: "3.1.3-1 3.1.2-9 3.1.2-17 3.1.2-19", "3.1.3-1 3.1.2-9 3.1.2-19 3.1.2-21";
    a_connect_without_client_identifier_is_refused: "3.1.3-3 3.1.4-1", "3.1.3-3 3.1.4-1";
    plain_client_identifiers_are_allowed: "3.1.3-5 3.1.4-5", "3.1.3-5 3.1.4-4";
    an_empty_client_identifier_gets_a_unique_one: "3.1.3-6 3.1.3-7 3.2.2-16", "3.1.3-6";
    an_empty_client_identifier_needs_a_clean_session: "", "3.1.3-8 3.1.3-9 3.2.2-4 3.2.2-5";
    a_long_client_identifier_is_taken_or_refused_properly: "3.1.3-8", "3.1.3-9";
    every_cut_off_connect_is_refused: "3.1.4-1 4.13.1-1", "3.1.4-1";
    a_byte_after_connect_is_refused: "3.1.4-1", "3.1.4-1";
    a_later_connection_takes_over: "3.1.4-3 3.1.3-2", "3.1.4-2 3.1.3-2";
    nothing_after_a_rejected_connect_is_processed: "3.1.4-6 3.2.2-7", "3.1.4-5 3.2.2-5";
    connack_comes_first_and_once: "3.2.0-1 3.2.0-2 3.1.4-5 3.2.2-1", "3.2.0-1 3.1.4-4";
    packets_sent_before_connack_are_answered_after_it: "3.2.0-1", "3.2.0-1";
}

fn the_first_packet_must_be_connect(t: &Test) -> Outcome {
    for (what, packet) in [
        ("PINGREQ", frame(first::PINGREQ, &[])),
        ("DISCONNECT", frame(first::DISCONNECT, &[])),
        ("PUBLISH", Publish::new(t.topic("a"), "x").encode(t.version)),
        (
            "SUBSCRIBE",
            subscribe(t.version, 1, &[(&t.topic("a"), 0)], &Props::new()),
        ),
    ] {
        let mut client = t.raw()?;
        client.send(packet);
        if let Some(code) = client.closed(&format!("after {what} as first packet"))? {
            fail!("DISCONNECT {code:#04x} before any CONNACK");
        }
    }
    Ok(())
}

fn a_second_connect_closes(t: &Test) -> Outcome {
    let dial = t.client("c");
    let mut client = dial.open()?;
    client.send(dial.connect.encode());
    client.closed_with(&[0x82], "after a second CONNECT")
}

/// With a wrong name nobody can tell which version was meant, so both forms of CONNACK are right.
fn a_wrong_protocol_name_is_refused(t: &Test) -> Outcome {
    for name in ["MQTX", "mqtt", "MQT", ""] {
        let mut dial = t.client("c");
        dial.connect.name = name.into();
        let answer = dial
            .send()?
            .bytes_until_closed(&format!("after protocol name {name:?}"))?;
        match answer[..] {
            [] | [0x20, 2, 0, 1] | [0x20, _, 0, 0x80..=0x84, ..] => {}
            _ => fail!("answer {answer:02x?} to protocol name {name:?}"),
        }
    }
    Ok(())
}

/// MQTT 3.1.1 knows one answer to every level that is not supported. A server that speaks 5.0, too, may take a higher
/// level for a later protocol and answer in the form of 5.0; levels below 4 can only be older.
fn an_unknown_protocol_level_is_refused(t: &Test) -> Outcome {
    let levels: &[u8] = if t.v5() { &[6, 127] } else { &[0, 2, 3] };
    for &level in levels {
        let mut dial = t.client("c");
        dial.connect.level = level;
        let answer = dial
            .send()?
            .bytes_until_closed(&format!("after protocol level {level}"))?;
        match answer[..] {
            [0x20, 2, 0, 1] => {}
            [] | [0x20, _, 0, 0x84, ..] if t.v5() => {}
            _ => {
                fail!("answer {answer:02x?} to protocol level {level} instead of [20, 02, 00, 01]")
            }
        }
    }
    Ok(())
}

fn the_reserved_connect_flag_is_checked(t: &Test) -> Outcome {
    let mut dial = t.client("c");
    dial.connect.flags = Some(dial.connect.natural_flags() | 1);
    dial.send()?
        .refused_as_malformed("with the reserved flag set")
}

fn will_bits_without_will_flag_are_refused(t: &Test) -> Outcome {
    for (what, bits) in [
        ("Will QoS 1", 0x08),
        ("Will QoS 2", 0x10),
        ("Will Retain", 0x20),
    ] {
        let mut dial = t.client("c");
        dial.connect.flags = Some(0x02 | bits);
        dial.send()?
            .refused_as_malformed(&format!("with {what} and no Will Flag"))?;
    }
    Ok(())
}

fn will_qos_3_is_refused(t: &Test) -> Outcome {
    t.client("c")
        .will(&t.topic("w"), "x", 3)
        .send()?
        .refused_as_malformed("with Will QoS 3")
}

fn will_fields_must_match_the_will_flag(t: &Test) -> Outcome {
    let mut dial = t.client("c");
    dial.connect.flags = Some(0x06);
    dial.send()?
        .refused_as_malformed("with a Will Flag and no will")?;
    let mut dial = t.client("c").will(&t.topic("w"), "x", 0);
    dial.connect.flags = Some(0x02);
    dial.send()?
        .refused_as_malformed("with a will and no Will Flag")
}

fn user_name_and_password_must_match_their_flags(t: &Test) -> Outcome {
    for (what, username, password, flags) in [
        ("a user name and no flag", Some("u"), None, 0x02),
        ("a User Name Flag and no user name", None, None, 0x82),
        ("a password and no flag", Some("u"), Some("p"), 0x82),
        ("a Password Flag and no password", Some("u"), None, 0xC2),
    ] {
        let mut dial = t.client("c");
        dial.connect.username = username.map(Into::into);
        dial.connect.password = password.map(Into::into);
        dial.connect.flags = Some(flags);
        dial.send()?.refused_as_malformed(&format!("with {what}"))?;
    }
    Ok(())
}

fn a_password_needs_a_user_name(t: &Test) -> Outcome {
    let mut dial = t.client("c");
    dial.connect.password = Some(b"p".to_vec());
    dial.send()?
        .refused_as_malformed("with a password and no user name")
}

fn a_password_without_user_name_is_well_formed(t: &Test) -> Outcome {
    let mut dial = t.client("c");
    dial.connect.password = Some(b"p".to_vec());
    match dial.open() {
        Err(_) => {
            let code = dial.send()?.refused("with a password and no user name")?;
            ensure!(
                matches!(code, Some(0x86 | 0x87)),
                "refused with {code:?} as if it were malformed"
            );
            Ok(())
        }
        Ok(_) => Ok(()),
    }
}

fn payload_fields_are_read_in_order(t: &Test) -> Outcome {
    let topic = t.topic("will");
    let mut sub = t.connect("s")?;
    sub.subscribe(&topic, 0)?;
    let mut dial = t.client("c").will(&topic, "last words", 0);
    dial.connect.username = Some(b"user".to_vec());
    dial.connect.password = Some(b"password".to_vec());
    dial.open()?.cut()?;
    let will = sub.take("the will")?;
    ensure!(
        will.text() == "last words",
        "will payload {:?}",
        will.text()
    );
    Ok(())
}

fn a_connect_without_client_identifier_is_refused(t: &Test) -> Outcome {
    let body = Bytes::new()
        .data("MQTT")
        .u8(if t.v5() { 5 } else { 4 })
        .u8(2)
        .u16(60)
        .props(t.version, &Props::new());
    let mut client = t.raw()?;
    client.send(body.frame(first::CONNECT));
    client.refused_as_malformed("without a client identifier")
}

fn plain_client_identifiers_are_allowed(t: &Test) -> Outcome {
    let mut dial = t.client("c");
    let digit = if t.v5() { "5" } else { "4" };
    let last = t.unique.chars().next_back().unwrap_or('a');
    for id in [
        digit.to_string(),
        format!("{:a<23}", t.id("")),
        format!("{digit}Zz9{last:A<19}"),
        t.id("x"),
    ] {
        dial.connect.client_id = id.clone().into();
        dial.open()
            .map_err(|_| crate::Stop::Failed(format!("client identifier {id:?} is refused")))?;
    }
    Ok(())
}

fn an_empty_client_identifier_gets_a_unique_one(t: &Test) -> Outcome {
    let mut dial = t.client("c");
    dial.connect.client_id.clear();
    if !t.v5() {
        let (mut one, mut two) = (dial.open()?, dial.open()?);
        one.silent("as the identifiers differ")?;
        return two.silent("as the identifiers differ");
    }
    let dial = dial.props(Props::new().u32(prop::SESSION_EXPIRY, 100));
    let (one, mut two) = (dial.open()?, dial.open()?);
    let assigned = |client: &crate::client::Client| {
        client
            .connack
            .text(prop::ASSIGNED_CLIENT_ID)
            .map(str::to_owned)
    };
    let (Some(first), Some(second)) = (assigned(&one), assigned(&two)) else {
        fail!("no Assigned Client Identifier in CONNACK")
    };
    ensure!(
        !first.is_empty() && first != second,
        "assigned {first:?} and {second:?}"
    );
    two.silent("as the identifiers differ")?;
    one.disconnect()?;
    let mut again = t.client("c").resume();
    again.connect.client_id = first.into();
    ensure!(
        again.open()?.session_present,
        "the session of the assigned identifier cannot be resumed"
    );
    Ok(())
}

fn an_empty_client_identifier_needs_a_clean_session(t: &Test) -> Outcome {
    let mut dial = t.client("c").resume();
    dial.connect.client_id.clear();
    let code = dial
        .send()?
        .refused("with an empty client identifier and Clean Session 0")?;
    ensure!(code == Some(2), "return code {code:?} instead of 0x02");
    Ok(())
}

fn a_long_client_identifier_is_taken_or_refused_properly(t: &Test) -> Outcome {
    let mut dial = t.client("c");
    dial.connect.client_id = format!("{:x<1000}", t.unique).into();
    if let Ok(client) = accepted(dial.send()?) {
        return client.disconnect();
    }
    match (
        t.version,
        dial.send()?
            .refused("with a client identifier of 1,000 bytes")?,
    ) {
        (Version::V311, Some(2)) | (Version::V5, None | Some(0x85)) => Ok(()),
        (_, code) => fail!("a client identifier of 1,000 bytes is refused with {code:?}"),
    }
}

fn every_cut_off_connect_is_refused(t: &Test) -> Outcome {
    let mut dial = t
        .client("c")
        .will("w", "x", 1)
        .will_props(Props::new().user("n", "v"));
    dial.connect.username = Some(b"u".to_vec());
    dial.connect.password = Some(b"p".to_vec());
    let packet = dial.connect.encode();
    for length in 0..packet.len() - 2 {
        let mut client = t.raw()?;
        client.send(frame(first::CONNECT, &packet[2..2 + length]));
        // Before the level byte the server cannot know the version.
        if length < 7 {
            let answer = client
                .bytes_until_closed(&format!("after the first {length} bytes of a CONNECT"))?;
            ensure!(
                answer.get(3) != Some(&0),
                "CONNACK 0 after the first {length} bytes of a CONNECT"
            );
        } else {
            client.refused_as_malformed(&format!("cut off after {length} bytes"))?;
        }
    }
    Ok(())
}

fn a_byte_after_connect_is_refused(t: &Test) -> Outcome {
    let packet = t.client("c").connect.encode();
    let mut body = packet[2..].to_vec();
    body.push(0);
    let mut client = t.raw()?;
    client.send(frame(first::CONNECT, &body));
    client.refused_as_malformed("with a byte after the payload")
}

fn a_later_connection_takes_over(t: &Test) -> Outcome {
    let topic = t.topic("a");
    let mut older = t.client("c").resume().open()?;
    older.subscribe(&topic, 1)?;
    let mut newer = t.client("c").resume().open()?;
    ensure!(
        newer.session_present,
        "the session is gone after a take-over"
    );
    let code = older.closed("that was taken over")?;
    ensure!(
        !t.v5() || code == Some(0x8E),
        "DISCONNECT {code:02x?} instead of 0x8e"
    );
    t.connect("p")?.publish_text(&topic, "x", 1)?;
    newer.take("a message for the session")?;
    Ok(())
}

fn nothing_after_a_rejected_connect_is_processed(t: &Test) -> Outcome {
    let topic = t.topic("a");
    let mut sub = t.connect("s")?;
    sub.subscribe(&topic, 1)?;
    let mut dial = t.client("c");
    if t.v5() {
        dial = dial.props(Props::new().data(prop::AUTH_METHOD, "no such method"));
    } else {
        dial = dial.resume();
        dial.connect.client_id.clear();
    }
    let mut client = t.raw()?;
    let mut bytes = dial.connect.encode();
    bytes.extend(Publish::new(&topic, "rejected").qos(0, 0).encode(t.version));
    bytes.extend(Publish::new(&topic, "rejected").qos(1, 1).encode(t.version));
    client.send(bytes);
    client.refused("that the server cannot accept")?;
    t.connect("p")?.publish_text(&topic, "accepted", 1)?;
    let message = sub.take("the message of the accepted client")?;
    ensure!(
        message.text() == "accepted",
        "a message of the rejected client was delivered"
    );
    sub.silent("after the message of the accepted client")
}

fn connack_comes_first_and_once(t: &Test) -> Outcome {
    let topic = t.topic("a");
    let mut sub = t.client("s").resume().open()?;
    sub.subscribe(&topic, 1)?;
    sub.disconnect()?;
    t.connect("p")?.publish_text(&topic, "queued", 1)?;
    let mut sub = t.client("s").resume().open()?;
    ensure!(
        sub.take("the queued message")?.text() == "queued",
        "another message"
    );
    sub.silent("after CONNACK and the queued message")
}

/// Between SUBACK and PINGRESP there is no order.
fn packets_sent_before_connack_are_answered_after_it(t: &Test) -> Outcome {
    let mut bytes = t.client("c").connect.encode();
    bytes.extend(subscribe(
        t.version,
        1,
        &[(&t.topic("a"), 0)],
        &Props::new(),
    ));
    bytes.extend(frame(first::PINGREQ, &[]));
    let mut client = t.raw()?;
    client.send(bytes);
    let mut client = accepted(client)?;
    let mut answers = [
        client.receive("SUBACK or PINGRESP")?.first,
        client.receive("SUBACK or PINGRESP")?.first,
    ];
    answers.sort_unstable();
    ensure!(
        answers == [first::SUBACK, first::PINGRESP],
        "first bytes {answers:02x?} after CONNACK"
    );
    Ok(())
}
