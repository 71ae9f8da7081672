//! CONNACK (§3.2): session present, limits, optional properties.

use super::cases;
use crate::parse::Body;
use crate::wire::{Props, Publish, first, frame, prop, subscribe};
use crate::{Outcome, Test, ensure, fail};

cases! {
    session_present_says_whether_there_is_a_session:
        "3.2.2-2 3.2.2-3 3.1.2-4 3.1.2-5 3.1.2-6 3.1.4-4 3.1.4-5",
        "3.2.2-1 3.2.2-2 3.2.2-3 3.1.2-4 3.1.2-6 3.1.4-3 3.1.4-4";
    a_server_below_qos_2_says_so: "3.2.2-9 3.2.2-10 3.2.2-12", "";
    a_server_without_retained_messages_says_so: "3.2.2-13", "";
    no_response_information_unless_asked: "3.1.2-28", "";
    no_reason_texts_when_problem_information_is_0: "3.1.2-29", "";
    connack_keeps_to_the_maximum_packet_size: "3.2.2-19 3.2.2-20 3.1.2-24", "";
    reason_texts_keep_to_the_maximum_packet_size:
        "3.1.2-24 3.4.2-2 3.4.2-3 3.5.2-2 3.5.2-3 3.7.2-2 3.7.2-3 3.9.2-1 3.9.2-2 3.11.2-1 3.11.2-2 3.6.2-2 3.6.2-3", "";
    disconnect_keeps_to_the_maximum_packet_size: "3.1.2-24 3.14.2-3 3.14.2-4", "";
}

fn session_present_says_whether_there_is_a_session(t: &Test) -> Outcome {
    let (clean, resumed) = (t.client("c"), t.client("c").resume());
    let present = |what: &str, client: crate::client::Client, expected: bool| {
        ensure!(
            client.session_present == expected,
            "Session Present is {} {what}",
            client.session_present
        );
        client.disconnect()
    };
    present("for a new session", resumed.open()?, false)?;
    present("for a stored session", resumed.open()?, true)?;
    present("with a clean start", clean.open()?, false)?;
    present("after a clean start without expiry", resumed.open()?, false)
}

fn a_server_below_qos_2_says_so(t: &Test) -> Outcome {
    let topic = t.topic("a");
    let mut client = t.connect("c")?;
    let maximum = client.connack.number(prop::MAXIMUM_QOS);
    let codes = client.subscribe_all(&[(&topic, 0), (&topic, 1), (&topic, 2)], &Props::new())?;
    ensure!(
        codes.iter().all(|&code| code <= 2),
        "SUBACK {codes:02x?}: a requested QoS is refused"
    );
    if let Some(maximum) = maximum {
        let qos = u8::try_from(maximum + 1).unwrap_or(3).min(2);
        let code = t
            .client("w")
            .will(&topic, "x", qos)
            .send()?
            .refused("with a Will QoS above Maximum QoS")?;
        ensure!(
            code.is_none_or(|code| code == 0x9B),
            "CONNACK {code:02x?} instead of 0x9b"
        );
        return Ok(());
    }
    t.client("w").will(&topic, "x", 2).open()?.disconnect()?;
    let mut sub = t.connect("s")?;
    sub.subscribe(&topic, 2)?;
    let mut publisher = t.connect("p")?;
    for qos in [1, 2] {
        publisher.publish_text(&topic, "x", qos)?;
        let message = sub.take("a message")?;
        ensure!(
            message.qos == qos,
            "QoS {} instead of {qos} without a Maximum QoS in CONNACK",
            message.qos
        );
    }
    Ok(())
}

fn a_server_without_retained_messages_says_so(t: &Test) -> Outcome {
    let topic = t.topic("a");
    let mut client = t.connect("c")?;
    let mut dial = t.client("w").will(&topic, "x", 0);
    dial.connect.will.get_or_insert_default().retain = true;
    if client.connack.number(prop::RETAIN_AVAILABLE) == Some(0) {
        let code = dial.send()?.refused("with Will Retain")?;
        ensure!(
            code.is_none_or(|code| code == 0x9A),
            "CONNACK {code:02x?} instead of 0x9a"
        );
        return Ok(());
    }
    dial.open()?.disconnect()?;
    client.publish(Publish::new(&topic, "kept").qos(1, 0).retained())?;
    client.subscribe(&topic, 0)?;
    ensure!(client.take("the retained message")?.retain, "RETAIN is 0");
    Ok(())
}

fn no_response_information_unless_asked(t: &Test) -> Outcome {
    for props in [Props::new(), Props::new().u8(prop::REQUEST_RESPONSE, 0)] {
        let client = t.client("c").props(props).open()?;
        ensure!(
            client.connack.find(prop::RESPONSE_INFO).is_none(),
            "Response Information without request"
        );
    }
    t.client("c")
        .props(Props::new().u8(prop::REQUEST_RESPONSE, 1))
        .open()?
        .disconnect()
}

/// Sends what servers like to explain, and returns the answers.
fn answers(t: &Test, props: Props) -> Outcome<Vec<crate::parse::Packet>> {
    let mut client = t.client("c").props(props).open()?;
    let mut answers = Vec::new();
    client.send_publish(&Publish::new(t.topic("nobody"), "x").qos(1, 1));
    answers.push(client.receive("PUBACK")?);
    client.send_publish(&Publish::new(t.topic("nobody"), "x").qos(2, 2));
    answers.push(client.receive("PUBREC")?);
    client.send(crate::wire::ack(first::PUBREL, 2));
    answers.push(client.receive("PUBCOMP")?);
    client.send(crate::wire::ack(first::PUBREL, 77));
    answers.push(client.receive("PUBCOMP for an unknown identifier")?);
    // Filters that a server may refuse: a share name with a wildcard is left out, since that may close.
    client.send(subscribe(
        t.version,
        3,
        &[(&t.topic("a"), 0), ("$SYS/#", 0)],
        &Props::new(),
    ));
    answers.push(client.receive("SUBACK")?);
    client.send(crate::wire::unsubscribe(t.version, 4, &[&t.topic("never")]));
    while answers
        .last()
        .is_none_or(|last| last.first != first::UNSUBACK)
    {
        answers.push(client.receive("UNSUBACK")?);
    }
    // A server may answer this with PUBREL 0x92 or close.
    client.send(crate::wire::ack(first::PUBREC, 78));
    if client.first_byte()? == Some(first::PUBREL) {
        answers.push(client.receive("PUBREL for an unknown identifier")?);
    }
    Ok(answers)
}

fn no_reason_texts_when_problem_information_is_0(t: &Test) -> Outcome {
    for packet in answers(t, Props::new().u8(prop::REQUEST_PROBLEM, 0))? {
        let (Body::Ack { props, .. } | Body::SubAck { props, .. }) = &packet.body else {
            continue;
        };
        let silent = props.find(prop::REASON_STRING).is_none() && props.pairs().is_empty();
        ensure!(
            silent,
            "{} explains itself",
            crate::client::describe(&packet)
        );
    }
    Ok(())
}

fn reason_texts_keep_to_the_maximum_packet_size(t: &Test) -> Outcome {
    // 9 bytes hold every answer without properties; $SYS messages are larger and must be dropped.
    const SIZE: u32 = 9;
    for allowed in [0, 1] {
        let unlimited = Props::new().u8(prop::REQUEST_PROBLEM, allowed);
        // The CONNACK needs more, so this server may be unable to serve such a client at all.
        if t.client("x")
            .props(unlimited.clone().u32(prop::MAXIMUM_PACKET_SIZE, SIZE))
            .open()
            .is_err()
        {
            let size = 80;
            return limited(
                answers(t, unlimited.u32(prop::MAXIMUM_PACKET_SIZE, size))?,
                size,
            );
        }
        limited(
            answers(t, unlimited.u32(prop::MAXIMUM_PACKET_SIZE, SIZE))?,
            SIZE,
        )?;
    }
    Ok(())
}

fn limited(packets: Vec<crate::parse::Packet>, size: u32) -> Outcome {
    for packet in packets {
        let fits = packet.length <= size as usize;
        ensure!(
            fits,
            "{} of {} bytes, above {size}",
            crate::client::describe(&packet),
            packet.length
        );
    }
    Ok(())
}

fn connack_keeps_to_the_maximum_packet_size(t: &Test) -> Outcome {
    for size in [5, 10, 20, 40] {
        let limit = Props::new().u32(prop::MAXIMUM_PACKET_SIZE, size);
        for props in [
            limit.clone(),
            limit.data(prop::AUTH_METHOD, "no such method"),
        ] {
            let answer = t.client("c").props(props).send()?.first_packet_length()?;
            ensure!(
                answer <= size as usize,
                "a CONNACK of {answer} bytes, above {size}"
            );
        }
    }
    Ok(())
}

fn disconnect_keeps_to_the_maximum_packet_size(t: &Test) -> Outcome {
    // The largest of these sizes that the CONNACK of this server leaves no choice about.
    let size = 80;
    let mut client = t
        .client("c")
        .props(Props::new().u32(prop::MAXIMUM_PACKET_SIZE, size))
        .open()?;
    client.send(frame(first::CONNACK, &[0, 0, 0]));
    let length = client.first_packet_length()?;
    if length > size as usize {
        fail!("a DISCONNECT of {length} bytes, above {size}");
    }
    Ok(())
}
