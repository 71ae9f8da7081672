//! The QoS 1 and 2 flows on one connection (§4.3).

use std::time::Duration;

use super::cases;
use crate::parse::Body;
use crate::wire::{Props, Publish, ack, ack_with, first, prop};
use crate::{Outcome, Test, ensure, fail, skip};

cases! {
    a_qos_1_identifier_is_free_after_puback: "4.3.2-5", "4.3.2-2";
    a_repeated_qos_2_publish_is_delivered_once: "4.3.3-10", "4.3.3-2";
    a_qos_2_identifier_is_free_after_pubcomp: "4.3.3-12", "4.3.3-2";
    pubrel_is_always_answered: "4.3.3-11 3.7.2-1", "4.3.3-2";
    an_unknown_pubrec_is_answered_or_closes: "3.6.2-1", "";
    the_server_completes_a_qos_2_delivery: "4.3.3-4 2.2.1-5 3.6.2-1", "4.3.3-1 2.3.1-6";
    pubrec_with_an_error_ends_the_delivery: "4.4.0-2 4.3.3-4", "";
    puback_with_an_error_ends_the_delivery: "4.4.0-2", "";
    an_identifier_is_free_after_a_refused_qos_2_publish: "4.3.3-9", "";
    an_expired_qos_2_publish_is_still_completed: "4.3.3-13", "";
    an_expiry_does_not_end_a_started_delivery: "4.3.3-7", "";
    nothing_is_sent_again_on_an_open_connection: "4.4.0-1 4.3.2-3", "4.3.2-1";
}

fn a_qos_1_identifier_is_free_after_puback(t: &Test) -> Outcome {
    let topic = t.topic("a");
    let mut sub = t.connect("s")?;
    sub.subscribe(&topic, 1)?;
    let mut publisher = t.connect("p")?;
    let one = Publish::new(&topic, "x").qos(1, 7);
    for publish in [one.clone(), one.clone(), one.dup()] {
        publisher.send_publish(&publish);
        publisher.acknowledgement(first::PUBACK, 7)?;
        sub.take("a new message under the same packet identifier")?;
    }
    Ok(())
}

fn a_repeated_qos_2_publish_is_delivered_once(t: &Test) -> Outcome {
    let topic = t.topic("a");
    let mut sub = t.connect("s")?;
    sub.subscribe(&topic, 2)?;
    let mut publisher = t.client("p").resume().open()?;
    let publish = Publish::new(&topic, "once").qos(2, 7);
    publisher.send_publish(&publish);
    publisher.acknowledgement(first::PUBREC, 7)?;
    publisher.send_publish(&publish.clone().dup());
    publisher.acknowledgement(first::PUBREC, 7)?;
    publisher.cut()?;
    let mut publisher = t.client("p").resume().open()?;
    ensure!(publisher.session_present, "the session is gone");
    publisher.send_publish(&publish.dup());
    publisher.acknowledgement(first::PUBREC, 7)?;
    publisher.send(ack(first::PUBREL, 7));
    publisher.acknowledgement(first::PUBCOMP, 7)?;
    publisher.publish_text(&topic, "next", 2)?;
    for text in ["once", "next"] {
        let message = sub.take("a message")?;
        ensure!(
            message.text() == text,
            "{:?} instead of {text:?}",
            message.text()
        );
    }
    Ok(())
}

fn a_qos_2_identifier_is_free_after_pubcomp(t: &Test) -> Outcome {
    let topic = t.topic("a");
    let mut sub = t.connect("s")?;
    sub.subscribe(&topic, 2)?;
    let mut publisher = t.connect("p")?;
    let one = Publish::new(&topic, "x").qos(2, 7);
    for publish in [one.clone(), one.clone(), one.dup()] {
        publisher.send_publish(&publish);
        publisher.acknowledgement(first::PUBREC, 7)?;
        publisher.send(ack(first::PUBREL, 7));
        publisher.acknowledgement(first::PUBCOMP, 7)?;
        sub.take("a new message under the same packet identifier")?;
    }
    Ok(())
}

fn pubrel_is_always_answered(t: &Test) -> Outcome {
    let mut client = t.connect("c")?;
    client.send(ack(first::PUBREL, 77));
    let code = client.acknowledgement(first::PUBCOMP, 77)?;
    ensure!(
        !t.v5() || matches!(code, 0x00 | 0x92),
        "PUBCOMP {code:#04x} for an unknown packet identifier"
    );
    client.publish_text(&t.topic("a"), "x", 2)?;
    client.send(ack(first::PUBREL, 1));
    client.acknowledgement(first::PUBCOMP, 1)?;
    client.silent("after PUBCOMP")
}

/// Table 3-6 has a code for it; a server may also call it a Protocol Error.
fn an_unknown_pubrec_is_answered_or_closes(t: &Test) -> Outcome {
    let mut client = t.connect("c")?;
    client.send(ack(first::PUBREC, 77));
    if client.first_byte()? == Some(first::PUBREL) {
        let code = client.acknowledgement(first::PUBREL, 77)?;
        ensure!(
            !t.v5() || matches!(code, 0x00 | 0x92),
            "PUBREL {code:#04x} for an unknown packet identifier"
        );
        return client.silent("after PUBREL");
    }
    client.closed_with(&[0x82], "after PUBREC for an unknown packet identifier")
}

fn the_server_completes_a_qos_2_delivery(t: &Test) -> Outcome {
    let topic = t.topic("a");
    let mut sub = t.connect("s")?;
    sub.subscribe(&topic, 2)?;
    t.connect("p")?.publish_text(&topic, "x", 2)?;
    let message = sub.message("the QoS 2 message")?;
    sub.silent("before PUBREC")?;
    sub.send(ack(first::PUBREC, message.id));
    let code = sub.acknowledgement(first::PUBREL, message.id)?;
    ensure!(code == 0, "PUBREL {code:#04x}");
    sub.silent("before PUBCOMP")?;
    sub.send(ack(first::PUBCOMP, message.id));
    sub.silent("after PUBCOMP")
}

/// The error leaves nothing behind: no PUBREL, a free slot in a window of 1, nothing on reconnect.
fn pubrec_with_an_error_ends_the_delivery(t: &Test) -> Outcome {
    refused_delivery(t, 2, first::PUBREC)
}

fn puback_with_an_error_ends_the_delivery(t: &Test) -> Outcome {
    refused_delivery(t, 1, first::PUBACK)
}

fn refused_delivery(t: &Test, qos: u8, answer: u8) -> Outcome {
    let topic = t.topic("a");
    let dial = t
        .client("s")
        .resume()
        .props(Props::new().u16(prop::RECEIVE_MAXIMUM, 1));
    let mut sub = dial.open()?;
    sub.subscribe(&topic, 2)?;
    let mut publisher = t.connect("p")?;
    publisher.publish_text(&topic, "refused", qos)?;
    publisher.publish_text(&topic, "next", qos)?;
    let message = sub.message("the message to refuse")?;
    sub.silent("beyond a Receive Maximum of 1")?;
    sub.send(ack_with(answer, message.id, 0x80));
    let next = sub.take("the next message and no PUBREL")?;
    ensure!(
        next.text() == "next" && !next.dup,
        "{:?} with DUP {}",
        next.text(),
        next.dup
    );
    sub.silent("after both messages")?;
    sub.cut()?;
    dial.open()?
        .silent("on reconnect, as the refused message counts as acknowledged")
}

/// Looks for a QoS 2 PUBLISH that this server refuses; a server that takes all of them has nothing to show here.
fn an_identifier_is_free_after_a_refused_qos_2_publish(t: &Test) -> Outcome {
    let topic = t.topic("a");
    let mut sub = t.connect("s")?;
    sub.subscribe(&topic, 2)?;
    let mut publisher = t.connect("p")?;
    let not_text = Publish::new(&topic, [0xFF]).props(Props::new().u8(prop::PAYLOAD_FORMAT, 1));
    for refused in [not_text, Publish::new("$SYS/conformance", "x")] {
        publisher.send_publish(&refused.qos(2, 7));
        let packet = publisher.receive("PUBREC")?;
        match packet.body {
            Body::Ack { id: 7, code, .. } if packet.first == first::PUBREC && code >= 0x80 => {}
            Body::Ack { id: 7, .. } => {
                publisher.send(ack(first::PUBREL, 7));
                publisher.acknowledgement(first::PUBCOMP, 7)?;
                continue;
            }
            _ => fail!(
                "expected PUBREC 7, got {}",
                crate::client::describe(&packet)
            ),
        }
        publisher.send_publish(&Publish::new(&topic, "new").qos(2, 7));
        let code = publisher.acknowledgement(first::PUBREC, 7)?;
        ensure!(
            code < 0x80,
            "PUBREC {code:#04x}: the refused PUBLISH still holds its packet identifier"
        );
        publisher.send(ack(first::PUBREL, 7));
        publisher.acknowledgement(first::PUBCOMP, 7)?;
        while sub.take("the new message")?.text() != "new" {}
        return Ok(());
    }
    skip!("this server refused none of the QoS 2 publishes of the case")
}

fn an_expired_qos_2_publish_is_still_completed(t: &Test) -> Outcome {
    let mut client = t.connect("c")?;
    let props = Props::new().u32(prop::MESSAGE_EXPIRY, 1);
    client.send_publish(&Publish::new(t.topic("a"), "x").qos(2, 7).props(props));
    client.acknowledgement(first::PUBREC, 7)?;
    client.quiet(Duration::from_millis(2_200), "while the message expires")?;
    client.send(ack(first::PUBREL, 7));
    client.acknowledgement(first::PUBCOMP, 7).map(drop)
}

fn an_expiry_does_not_end_a_started_delivery(t: &Test) -> Outcome {
    let topic = t.topic("a");
    let mut sub = t.client("s").resume().open()?;
    sub.subscribe(&topic, 2)?;
    let props = Props::new().u32(prop::MESSAGE_EXPIRY, 1);
    t.connect("p")?
        .publish(Publish::new(&topic, "x").qos(2, 0).props(props))?;
    let begun = sub.message("the message")?;
    sub.cut()?;
    t.pass(Duration::from_millis(2_500));
    let mut sub = t.client("s").resume().open()?;
    let again = sub.message("the PUBLISH whose delivery had begun before it expired")?;
    ensure!(
        again.id == begun.id && again.dup,
        "identifier {} with DUP {}",
        again.id,
        again.dup
    );
    sub.acknowledge(&again)
}

fn nothing_is_sent_again_on_an_open_connection(t: &Test) -> Outcome {
    let topic = t.topic("a");
    let mut sub = t.connect("s")?;
    sub.subscribe(&topic, 2)?;
    let mut publisher = t.connect("p")?;
    publisher.publish_text(&topic, "1", 1)?;
    let one = sub.message("the QoS 1 message")?;
    publisher.publish_text(&topic, "2", 2)?;
    let two = sub.message("the QoS 2 message")?;
    sub.send(ack(first::PUBREC, two.id));
    sub.acknowledgement(first::PUBREL, two.id)?;
    sub.quiet(
        Duration::from_millis(2_500),
        "since only a reconnect calls for retransmission",
    )?;
    sub.send(ack(first::PUBACK, one.id));
    sub.send(ack(first::PUBCOMP, two.id));
    sub.silent("after both flows")
}
