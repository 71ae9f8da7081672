//! Retained messages (§3.3.1.3) and the subscription options about them (5.0 §3.8.3.1).

use super::cases;
use crate::client::Client;
use crate::wire::{Props, Publish};
use crate::{Outcome, Test, ensure};

cases! {
    a_retained_message_waits_for_subscribers: "3.3.1-5 3.3.1-9", "3.3.1-5 3.3.1-6 3.3.1-8";
    a_retained_message_replaces_the_former: "3.3.1-5", "3.3.1-5 3.3.1-6 3.3.1-7";
    an_empty_retained_message_removes: "3.3.1-6 3.3.1-7", "3.3.1-10 3.3.1-11";
    a_message_without_retain_changes_nothing: "3.3.1-8", "3.3.1-12";
    every_matching_retained_message_is_sent: "3.3.1-9", "3.3.1-6";
    a_retained_message_keeps_to_the_granted_qos: "3.8.4-8 3.3.1-5", "3.8.4-6 3.3.1-5";
    retain_handling_0_sends_on_every_subscribe: "3.3.1-9 3.8.4-4", "3.8.4-3 3.3.1-6";
    retain_handling_1_sends_for_new_subscriptions: "3.3.1-10", "";
    retain_handling_2_never_sends: "3.3.1-11", "";
    retain_is_0_for_established_subscriptions: "3.3.1-12", "3.3.1-9";
    retain_as_published_forwards_retain: "3.3.1-13", "";
    retain_as_published_holds_for_stored_messages: "3.3.1-12 3.3.1-13", "3.3.1-9";
    retain_handling_3_closes: "4.13.1-1", "";
}

const RETAIN_AS_PUBLISHED: u8 = 0x08;
const HANDLING_1: u8 = 0x10;
const HANDLING_2: u8 = 0x20;

/// Publishes a retained message and waits until the server has dealt with it: at QoS 0 nothing is answered, so a witness
/// who is subscribed tells when it has been forwarded.
fn retain(t: &Test, topic: &str, text: &str, qos: u8) -> Outcome {
    let publish = Publish::new(topic, text).qos(qos, 0).retained();
    if qos > 0 {
        return t.connect("r")?.publish(publish);
    }
    let mut witness = t.connect("w")?;
    witness.subscribe(topic, 0)?;
    t.connect("r")?.publish(publish)?;
    // What was retained before comes first, with RETAIN 1.
    while witness
        .take("the retained message as an established subscriber")?
        .retain
    {}
    Ok(())
}

fn subscribe(client: &mut Client, topic: &str, options: u8) -> Outcome {
    let codes = client.subscribe_all(&[(topic, options)], &Props::new())?;
    ensure!(codes == [options & 3], "SUBACK {codes:02x?}");
    Ok(())
}

fn expect(client: &mut Client, text: &str, retained: bool) -> Outcome {
    let message = client.take("the message")?;
    ensure!(
        message.text() == text,
        "{:?} instead of {text:?}",
        message.text()
    );
    ensure!(
        message.retain == retained,
        "RETAIN is {} on {text:?}",
        message.retain
    );
    Ok(())
}

fn a_retained_message_waits_for_subscribers(t: &Test) -> Outcome {
    for qos in 0..3 {
        let topic = t.topic(&format!("q{qos}"));
        retain(t, &topic, "kept", qos)?;
        for role in ["one", "two"] {
            let mut sub = t.connect(role)?;
            sub.subscribe(&topic, 2)?;
            let message = sub.take("the retained message")?;
            ensure!(
                message.text() == "kept" && message.retain,
                "{:?}, RETAIN {}",
                message.text(),
                message.retain
            );
            ensure!(
                message.qos == qos,
                "retained at QoS {qos}, delivered at QoS {}",
                message.qos
            );
            sub.silent("after the retained message")?;
        }
    }
    Ok(())
}

fn a_retained_message_replaces_the_former(t: &Test) -> Outcome {
    let topic = t.topic("a");
    for (text, qos) in [("one", 1), ("two", 0), ("three", 2), ("four", 1)] {
        retain(t, &topic, text, qos)?;
        let mut sub = t.connect("s")?;
        subscribe(&mut sub, &topic, 2)?;
        expect(&mut sub, text, true)?;
        sub.silent("after the last retained message")?;
    }
    Ok(())
}

fn an_empty_retained_message_removes(t: &Test) -> Outcome {
    let topic = t.topic("a");
    let mut live = t.connect("l")?;
    live.subscribe(&topic, 1)?;
    for text in ["kept", ""] {
        retain(t, &topic, text, 1)?;
        expect(&mut live, text, false)?;
    }
    let mut sub = t.connect("s")?;
    subscribe(&mut sub, &topic, 1)?;
    sub.silent("since the retained message was removed and the empty one is not kept")
}

fn a_message_without_retain_changes_nothing(t: &Test) -> Outcome {
    let topic = t.topic("a");
    let mut publisher = t.connect("p")?;
    publisher.publish_text(&topic, "passing", 1)?;
    let mut sub = t.connect("s")?;
    subscribe(&mut sub, &topic, 1)?;
    sub.silent("since nothing is retained")?;
    retain(t, &topic, "kept", 1)?;
    expect(&mut sub, "kept", false)?;
    for text in ["passing", ""] {
        publisher.publish_text(&topic, text, 1)?;
    }
    let mut sub = t.connect("o")?;
    subscribe(&mut sub, &topic, 1)?;
    expect(&mut sub, "kept", true)
}

fn every_matching_retained_message_is_sent(t: &Test) -> Outcome {
    let names = ["a/1", "a/2/b", "a", "b/1"];
    for name in names {
        retain(t, &t.topic(name), name, 1)?;
    }
    for (filter, expected) in [
        ("a/#", &["a", "a/1", "a/2/b"][..]),
        ("+/1", &["a/1", "b/1"]),
        ("#", &["a", "a/1", "a/2/b", "b/1"]),
    ] {
        let mut sub = t.connect("s")?;
        sub.subscribe(&t.topic(filter), 1)?;
        let mut found = Vec::new();
        for _ in expected {
            let message = sub.take("a retained message")?;
            ensure!(
                message.retain && message.topic == t.topic(&message.text()),
                "{:?}",
                message.topic
            );
            found.push(message.text());
        }
        found.sort();
        ensure!(
            found == expected,
            "{filter} gave {found:?} instead of {expected:?}"
        );
        sub.silent("after the matching retained messages")?;
    }
    Ok(())
}

fn a_retained_message_keeps_to_the_granted_qos(t: &Test) -> Outcome {
    for (published, granted) in [(2, 0), (2, 1), (1, 0), (0, 2), (1, 2)] {
        let topic = t.topic(&format!("{published}{granted}"));
        retain(t, &topic, "kept", published)?;
        let mut sub = t.connect("s")?;
        sub.subscribe(&topic, granted)?;
        let qos = sub.take("the retained message")?.qos;
        ensure!(
            qos == published.min(granted),
            "QoS {qos} for published {published} and granted {granted}"
        );
    }
    Ok(())
}

fn retain_handling_0_sends_on_every_subscribe(t: &Test) -> Outcome {
    let topic = t.topic("a");
    retain(t, &topic, "kept", 1)?;
    let mut sub = t.connect("s")?;
    for _ in 0..3 {
        subscribe(&mut sub, &topic, 1)?;
        expect(&mut sub, "kept", true)?;
        sub.silent("after the retained message")?;
    }
    Ok(())
}

fn retain_handling_1_sends_for_new_subscriptions(t: &Test) -> Outcome {
    let topic = t.topic("a");
    retain(t, &topic, "kept", 1)?;
    let mut sub = t.connect("s")?;
    subscribe(&mut sub, &topic, 1 | HANDLING_1)?;
    expect(&mut sub, "kept", true)?;
    subscribe(&mut sub, &topic, 1 | HANDLING_1)?;
    sub.silent("for a subscription that existed")?;
    sub.unsubscribe(&topic)?;
    subscribe(&mut sub, &topic, 1 | HANDLING_1)?;
    expect(&mut sub, "kept", true)
}

fn retain_handling_2_never_sends(t: &Test) -> Outcome {
    let topic = t.topic("a");
    retain(t, &topic, "kept", 1)?;
    let mut sub = t.connect("s")?;
    for _ in 0..2 {
        subscribe(&mut sub, &topic, 1 | HANDLING_2)?;
        sub.silent("with Retain Handling 2")?;
    }
    t.connect("p")?.publish_text(&topic, "live", 1)?;
    expect(&mut sub, "live", false)
}

fn retain_is_0_for_established_subscriptions(t: &Test) -> Outcome {
    let topic = t.topic("a");
    let mut sub = t.connect("s")?;
    sub.subscribe(&topic, 1)?;
    retain(t, &topic, "kept", 1)?;
    expect(&mut sub, "kept", false)
}

fn retain_as_published_forwards_retain(t: &Test) -> Outcome {
    let topic = t.topic("a");
    let mut sub = t.connect("s")?;
    subscribe(&mut sub, &topic, 1 | RETAIN_AS_PUBLISHED)?;
    retain(t, &topic, "kept", 1)?;
    expect(&mut sub, "kept", true)?;
    t.connect("p")?.publish_text(&topic, "passing", 1)?;
    expect(&mut sub, "passing", false)
}

fn retain_as_published_holds_for_stored_messages(t: &Test) -> Outcome {
    let topic = t.topic("a");
    let options: &[u8] = if t.v5() {
        &[1, 1 | RETAIN_AS_PUBLISHED]
    } else {
        &[1]
    };
    for (number, &options) in options.iter().enumerate() {
        let role = format!("s{number}");
        let mut sub = t.client(&role).resume().open()?;
        subscribe(
            &mut sub,
            &topic,
            options | if t.v5() { HANDLING_2 } else { 0 },
        )?;
        sub.disconnect()?;
        retain(t, &topic, "kept", 1)?;
        let mut sub = t.client(&role).resume().open()?;
        expect(&mut sub, "kept", options & RETAIN_AS_PUBLISHED != 0)?;
    }
    Ok(())
}

fn retain_handling_3_closes(t: &Test) -> Outcome {
    let mut client = t.connect("c")?;
    client.send(crate::wire::subscribe(
        t.version,
        1,
        &[(&t.topic("a"), 0x30)],
        &Props::new(),
    ));
    client.closed_with(&[0x81, 0x82], "after Retain Handling 3")
}
