//! PUBLISH (§3.3): flags, topic names, order.

use super::cases;
use crate::wire::{Props, Publish, ack, first, prop};
use crate::{Outcome, Test, ensure};

cases! {
    dup_is_not_forwarded: "3.3.1-3 4.3.2-2 4.3.3-2", "3.3.1-3";
    dup_with_qos_0_closes: "3.3.1-2", "3.3.1-2 4.8.0-1";
    qos_3_closes: "3.3.1-4 4.13.1-1", "3.3.1-4";
    wildcards_in_a_topic_name_close: "3.3.2-2 4.7.0-1", "3.3.2-2 4.7.1-1";
    an_empty_topic_name_closes: "4.7.3-1", "4.7.3-1";
    a_delivered_topic_matches_the_filter: "3.3.2-3", "3.3.2-3";
    a_subscription_identifier_from_a_client_closes: "3.3.4-6 4.13.1-1", "";
    payloads_are_delivered_unaltered: "3.3.4-1 4.2.0-1 4.5.0-1", "3.3.4-1 4.5.0-1 7.0.0-2 7.1.1-1";
    messages_cross_protocol_versions: "3.3.4-1 4.5.0-1", "3.3.4-1 4.5.0-1";
    packets_may_come_in_pieces: "4.2.0-1", "7.1.1-1";
    messages_of_a_client_stay_in_order: "4.6.0-5 4.6.0-6", "4.6.0-5 4.6.0-6";
    stored_messages_stay_in_order: "4.6.0-5 4.6.0-6", "4.6.0-5 4.6.0-6";
    acknowledgements_come_in_order: "4.6.0-2 4.6.0-3 4.6.0-4", "4.6.0-2 4.6.0-3 4.6.0-4 4.6.0-6";
    an_unmatched_publish_is_acknowledged: "3.3.4-1 3.4.2-1 3.5.2-1", "3.3.4-1";
    a_publish_without_permission_is_acknowledged_or_closes: "3.4.2-1", "3.3.5-2";
}

fn dup_is_not_forwarded(t: &Test) -> Outcome {
    let topic = t.topic("a");
    let mut sub = t.connect("s")?;
    sub.subscribe(&topic, 2)?;
    let mut publisher = t.connect("p")?;
    for qos in [1, 2] {
        publisher.publish(Publish::new(&topic, "x").qos(qos, 0).dup())?;
        let message = sub.take("the message")?;
        ensure!(
            !message.dup,
            "DUP of the incoming QoS {qos} PUBLISH was forwarded"
        );
    }
    Ok(())
}

fn dup_with_qos_0_closes(t: &Test) -> Outcome {
    let mut client = t.connect("c")?;
    client.send_publish(&Publish::new(t.topic("a"), "x").dup());
    client.closed_with(&[0x81, 0x82], "after DUP at QoS 0")
}

fn qos_3_closes(t: &Test) -> Outcome {
    let mut client = t.connect("c")?;
    client.send_publish(&Publish::new(t.topic("a"), "x").qos(3, 1));
    client.closed_with(&[0x81, 0x82], "after QoS 3")
}

fn wildcards_in_a_topic_name_close(t: &Test) -> Outcome {
    for topic in ["a/+", "a/#", "+", "#", "a+b", "a#"] {
        let mut client = t.connect("c")?;
        client.send_publish(&Publish::new(topic, "x"));
        client.closed_with(
            &[0x81, 0x82, 0x90],
            &format!("after a PUBLISH to {topic:?}"),
        )?;
        let dial = t.client("w").will(topic, "x", 0);
        let code = dial.send()?.refused(&format!("with a will on {topic:?}"))?;
        let fits = if t.v5() {
            matches!(code, None | Some(0x81 | 0x82 | 0x90))
        } else {
            code.is_none()
        };
        ensure!(fits, "CONNACK {code:02x?} for a will on {topic:?}");
    }
    Ok(())
}

fn an_empty_topic_name_closes(t: &Test) -> Outcome {
    let mut client = t.connect("c")?;
    client.send_publish(&Publish::new("", "x"));
    client.closed_with(&[0x81, 0x82, 0x90], "after an empty topic name")?;
    let code = t
        .client("w")
        .will("", "x", 0)
        .send()?
        .refused("with an empty will topic")?;
    let fits = if t.v5() {
        matches!(code, None | Some(0x81 | 0x82 | 0x90))
    } else {
        code.is_none()
    };
    ensure!(fits, "CONNACK {code:02x?} for an empty will topic");
    Ok(())
}

fn a_delivered_topic_matches_the_filter(t: &Test) -> Outcome {
    let mut sub = t.connect("s")?;
    sub.subscribe(&t.topic("a/+/c"), 1)?;
    let mut publisher = t.connect("p")?;
    for rest in ["a/b", "a/b/d", "b/b/c", "a/b/c/d", "a/b/c"] {
        publisher.publish_text(&t.topic(rest), rest, 1)?;
    }
    let message = sub.take("the matching message")?;
    ensure!(
        message.topic == t.topic("a/b/c") && message.text() == "a/b/c",
        "got {:?}",
        message.topic
    );
    sub.silent("on other topics")
}

fn a_subscription_identifier_from_a_client_closes(t: &Test) -> Outcome {
    let mut client = t.connect("c")?;
    let props = Props::new().var(prop::SUBSCRIPTION_ID, 1);
    client.send_publish(&Publish::new(t.topic("a"), "x").props(props));
    client.closed_with(&[0x81, 0x82], "after a Subscription Identifier in PUBLISH")
}

fn payloads_are_delivered_unaltered(t: &Test) -> Outcome {
    let topic = t.topic("a");
    let mut sub = t.connect("s")?;
    sub.subscribe(&topic, 2)?;
    let mut publisher = t.connect("p")?;
    let every_byte: Vec<u8> = (0..=255).collect();
    for payload in [Vec::new(), every_byte.clone(), every_byte.repeat(200)] {
        for qos in 0..3 {
            publisher.publish(Publish::new(&topic, &payload).qos(qos, 0))?;
            let message = sub.take("the message")?;
            ensure!(
                message.payload == payload && message.qos == qos,
                "{} bytes at QoS {}",
                message.payload.len(),
                message.qos
            );
        }
    }
    Ok(())
}

fn messages_cross_protocol_versions(t: &Test) -> Outcome {
    let topic = t.topic("a");
    let mut sub = t.connect("s")?;
    sub.subscribe(&topic, 2)?;
    let mut publisher = t.client_of_other_version("p").open()?;
    for qos in 0..3 {
        // Properties that a 3.1.1 subscriber must not see a byte of; a 3.1.1 publisher cannot send them.
        let props = Props::new()
            .user("n", "v")
            .data(prop::CONTENT_TYPE, "text/plain");
        publisher.publish(Publish::new(&topic, "payload").qos(qos, 0).props(props))?;
        let message = sub.take("the message of the other version")?;
        ensure!(
            message.text() == "payload" && message.qos == qos,
            "{:?} at QoS {}",
            message.text(),
            message.qos
        );
        ensure!(
            message.props.pairs().is_empty() || !t.v5(),
            "user properties from 3.1.1"
        );
    }
    Ok(())
}

fn packets_may_come_in_pieces(t: &Test) -> Outcome {
    let topic = t.topic("a");
    let mut client = t.raw()?;
    for byte in t.client("c").connect.encode() {
        client.send([byte]);
    }
    let mut client = crate::dial::accepted(client)?;
    client.subscribe(&topic, 1)?;
    let packet = Publish::new(&topic, "x".repeat(300))
        .qos(1, 9)
        .encode(t.version);
    // Every cut once: the pieces of one packet with a PINGREQ glued to the end.
    for cut in (1..packet.len()).step_by(13) {
        client.send(&packet[..cut]);
        client.send([&packet[cut..], &[first::PINGREQ, 0]].concat());
        let mut seen = Vec::new();
        while seen.len() < 3 {
            let packet = client.receive("PUBACK, PINGRESP and the message")?;
            if let crate::parse::Body::Publish(message) = &packet.body {
                client.acknowledge(message)?;
            }
            seen.push(packet.first >> 4);
        }
        seen.sort_unstable();
        ensure!(seen == [3, 4, 13], "packet types {seen:?}");
    }
    Ok(())
}

const COUNT: usize = 40;

fn messages_of_a_client_stay_in_order(t: &Test) -> Outcome {
    let topic = t.topic("a");
    let mut sub = t.connect("s")?;
    sub.subscribe(&topic, 2)?;
    let mut publisher = t.connect("p")?;
    for qos in 0..3 {
        for number in 0..COUNT {
            publisher.publish_text(&topic, &number.to_string(), qos)?;
        }
        for number in 0..COUNT {
            let message = sub.take("the next message")?;
            ensure!(
                message.text() == number.to_string(),
                "QoS {qos}: {} instead of {number}",
                message.text()
            );
        }
    }
    Ok(())
}

fn stored_messages_stay_in_order(t: &Test) -> Outcome {
    let topic = t.topic("a");
    let mut sub = t.client("s").resume().open()?;
    sub.subscribe(&topic, 1)?;
    sub.disconnect()?;
    let mut publisher = t.connect("p")?;
    for number in 0..COUNT {
        publisher.publish_text(&topic, &number.to_string(), 1)?;
    }
    let mut sub = t.client("s").resume().open()?;
    for number in 0..COUNT {
        let message = sub.take("the next message")?;
        ensure!(
            message.text() == number.to_string(),
            "{} instead of {number}",
            message.text()
        );
    }
    Ok(())
}

fn acknowledgements_come_in_order(t: &Test) -> Outcome {
    let topic = t.topic("a");
    let mut sub = t.connect("s")?;
    sub.subscribe(&topic, 2)?;
    let mut publisher = t.connect("p")?;
    let encode = |qos, id| Publish::new(&topic, "x").qos(qos, id).encode(t.version);
    publisher.send((1..=5).flat_map(|id| encode(1, id)).collect::<Vec<_>>());
    for id in 1..=5 {
        publisher.acknowledgement(first::PUBACK, id)?;
        sub.take("a QoS 1 message")?;
    }
    publisher.send((11..=15).flat_map(|id| encode(2, id)).collect::<Vec<_>>());
    for id in 11..=15 {
        publisher.acknowledgement(first::PUBREC, id)?;
    }
    publisher.send(
        (11..=15)
            .flat_map(|id| ack(first::PUBREL, id))
            .collect::<Vec<_>>(),
    );
    for id in 11..=15 {
        publisher.acknowledgement(first::PUBCOMP, id)?;
    }
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(sub.message("a QoS 2 message")?.id);
    }
    sub.send(
        ids.iter()
            .flat_map(|&id| ack(first::PUBREC, id))
            .collect::<Vec<_>>(),
    );
    for &id in &ids {
        sub.acknowledgement(first::PUBREL, id)?;
    }
    sub.send(
        ids.iter()
            .flat_map(|&id| ack(first::PUBCOMP, id))
            .collect::<Vec<_>>(),
    );
    sub.silent("once every flow is complete")
}

fn an_unmatched_publish_is_acknowledged(t: &Test) -> Outcome {
    let mut client = t.connect("c")?;
    client.send_publish(&Publish::new(t.topic("nobody"), "x").qos(1, 1));
    let code = client.acknowledgement(first::PUBACK, 1)?;
    ensure!(
        matches!(code, 0x00 | 0x10),
        "PUBACK {code:#04x} without subscribers"
    );
    client.send_publish(&Publish::new(t.topic("nobody"), "x").qos(2, 2));
    let code = client.acknowledgement(first::PUBREC, 2)?;
    ensure!(
        matches!(code, 0x00 | 0x10),
        "PUBREC {code:#04x} without subscribers"
    );
    client.send(ack(first::PUBREL, 2));
    client.acknowledgement(first::PUBCOMP, 2).map(drop)
}

/// $SYS is the server's own: whatever it thinks of a client that writes there, it has only these two answers.
fn a_publish_without_permission_is_acknowledged_or_closes(t: &Test) -> Outcome {
    let mut client = t.connect("c")?;
    client.send_publish(&Publish::new("$SYS/conformance", "x").qos(1, 1));
    let acknowledged = client.acknowledgement(first::PUBACK, 1);
    if acknowledged.is_err() {
        let mut client = t.connect("d")?;
        client.send_publish(&Publish::new("$SYS/conformance", "x").qos(1, 1));
        client.closed_with(
            &[0x80, 0x83, 0x87, 0x90],
            "after a PUBLISH to $SYS that was not acknowledged",
        )?;
    }
    Ok(())
}
