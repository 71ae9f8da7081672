//! What is sent again when a session is resumed (§4.4).

use super::cases;
use crate::parse::Message;
use crate::wire::{Publish, ack, first};
use crate::{Outcome, Test, ensure};

cases! {
    unacknowledged_messages_are_sent_again: "3.3.1-1 4.3.2-3 4.3.3-3 4.4.0-1", "3.3.1-1 4.3.2-1 4.3.3-1 4.4.0-1 2.3.1-4";
    messages_are_sent_again_in_order: "4.4.0-1", "4.6.0-1 4.6.0-6 4.4.0-1";
    after_pubrec_only_pubrel_is_sent_again: "4.3.3-5 4.3.3-6 4.4.0-1", "4.3.3-1 4.4.0-1";
    acknowledged_messages_are_not_sent_again: "4.4.0-1 4.3.2-3", "4.4.0-1 4.3.2-1";
    a_clean_start_sends_nothing_again: "3.1.2-4 4.4.0-1", "3.1.2-6";
    an_incoming_qos_2_flow_survives_a_reconnect: "4.3.3-10 4.3.3-11 4.1.0-1", "4.3.3-2 4.1.0-1";
    a_take_over_sends_unacknowledged_messages_again: "4.4.0-1 3.1.4-3", "4.4.0-1 3.1.4-2";
}

fn sent_again(message: &Message, before: &Message) -> Outcome {
    ensure!(
        message.payload == before.payload,
        "{:?} instead of {:?}",
        message.text(),
        before.text()
    );
    ensure!(
        message.id == before.id,
        "packet identifier {} instead of {}",
        message.id,
        before.id
    );
    ensure!(message.dup, "DUP is 0 on redelivery");
    ensure!(
        message.qos == before.qos,
        "QoS {} instead of {}",
        message.qos,
        before.qos
    );
    Ok(())
}

fn unacknowledged_messages_are_sent_again(t: &Test) -> Outcome {
    for qos in [1, 2] {
        let topic = t.topic(&format!("q{qos}"));
        let role = format!("s{qos}");
        let mut sub = t.client(&role).resume().open()?;
        sub.subscribe(&topic, qos)?;
        t.connect("p")?.publish_text(&topic, "x", qos)?;
        let before = sub.message("the message")?;
        ensure!(!before.dup, "DUP is 1 on first delivery");
        sub.cut()?;
        let mut sub = t.client(&role).resume().open()?;
        let again = sub.message("the unacknowledged message")?;
        sent_again(&again, &before)?;
        sub.acknowledge(&again)?;
        sub.silent("after the redelivery")?;
    }
    Ok(())
}

fn messages_are_sent_again_in_order(t: &Test) -> Outcome {
    let topic = t.topic("a");
    let mut sub = t.client("s").resume().open()?;
    sub.subscribe(&topic, 2)?;
    let mut publisher = t.connect("p")?;
    let mut before = Vec::new();
    for number in 0..6 {
        publisher.publish_text(&topic, &number.to_string(), 1 + number % 2)?;
        before.push(sub.message("a message")?);
    }
    sub.cut()?;
    let mut sub = t.client("s").resume().open()?;
    for before in before {
        let again = sub.message("the next unacknowledged message")?;
        sent_again(&again, &before)?;
    }
    sub.silent("beyond the unacknowledged messages")
}

fn after_pubrec_only_pubrel_is_sent_again(t: &Test) -> Outcome {
    let topic = t.topic("a");
    let mut sub = t.client("s").resume().open()?;
    sub.subscribe(&topic, 2)?;
    t.connect("p")?.publish_text(&topic, "x", 2)?;
    let message = sub.message("the message")?;
    sub.send(ack(first::PUBREC, message.id));
    sub.acknowledgement(first::PUBREL, message.id)?;
    sub.cut()?;
    let mut sub = t.client("s").resume().open()?;
    sub.acknowledgement(first::PUBREL, message.id)?;
    sub.silent("but PUBREL")?;
    sub.send(ack(first::PUBCOMP, message.id));
    sub.silent("after PUBCOMP")?;
    sub.cut()?;
    t.client("s")
        .resume()
        .open()?
        .silent("for a completed flow")
}

fn acknowledged_messages_are_not_sent_again(t: &Test) -> Outcome {
    let topic = t.topic("a");
    let mut sub = t.client("s").resume().open()?;
    sub.subscribe(&topic, 2)?;
    let mut publisher = t.connect("p")?;
    publisher.publish_text(&topic, "1", 1)?;
    publisher.publish_text(&topic, "2", 2)?;
    sub.take("the QoS 1 message")?;
    sub.take("the QoS 2 message")?;
    sub.silent("after both")?;
    sub.cut()?;
    t.client("s")
        .resume()
        .open()?
        .silent("for acknowledged messages")
}

fn a_clean_start_sends_nothing_again(t: &Test) -> Outcome {
    let topic = t.topic("a");
    let mut sub = t.client("s").resume().open()?;
    sub.subscribe(&topic, 1)?;
    t.connect("p")?.publish_text(&topic, "x", 1)?;
    sub.message("the message")?;
    sub.cut()?;
    let mut sub = t.connect("s")?;
    ensure!(
        !sub.session_present,
        "Session Present is 1 with a clean start"
    );
    sub.silent("in a new session")
}

fn an_incoming_qos_2_flow_survives_a_reconnect(t: &Test) -> Outcome {
    let topic = t.topic("a");
    let mut sub = t.connect("s")?;
    sub.subscribe(&topic, 2)?;
    let mut publisher = t.client("p").resume().open()?;
    publisher.send_publish(&Publish::new(&topic, "x").qos(2, 7));
    publisher.acknowledgement(first::PUBREC, 7)?;
    publisher.cut()?;
    let mut publisher = t.client("p").resume().open()?;
    publisher.send(ack(first::PUBREL, 7));
    let code = publisher.acknowledgement(first::PUBCOMP, 7)?;
    ensure!(
        code == 0,
        "PUBCOMP {code:#04x}: the server forgot the packet identifier"
    );
    sub.take("the message").map(drop)?;
    sub.silent("after the one message")
}

fn a_take_over_sends_unacknowledged_messages_again(t: &Test) -> Outcome {
    let topic = t.topic("a");
    let mut older = t.client("s").resume().open()?;
    older.subscribe(&topic, 1)?;
    t.connect("p")?.publish_text(&topic, "x", 1)?;
    let before = older.message("the message")?;
    let mut newer = t.client("s").resume().open()?;
    let again = newer.message("the unacknowledged message")?;
    sent_again(&again, &before)?;
    older.closed("that was taken over").map(drop)
}
