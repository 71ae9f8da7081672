//! SUBSCRIBE and SUBACK (§3.8, §3.9).

use super::cases;
use crate::client::Client;
use crate::parse::Message;
use crate::wire::{Bytes, Props, Publish, first, prop};
use crate::{Outcome, Test, ensure, fail};

cases! {
    suback_has_a_code_for_each_filter_in_order:
        "3.8.4-1 3.8.4-5 3.8.4-6 3.8.4-7 3.9.3-1 3.9.3-2", "3.8.4-1 3.8.4-4 3.8.4-5 3.9.3-1 3.9.3-2";
    a_subscribe_without_filter_closes: "3.8.3-2 4.13.1-1", "3.8.3-3 4.8.0-1";
    reserved_option_bits_close: "3.8.3-5 4.13.1-1", "3.8.3-4";
    qos_3_in_a_subscription_closes: "4.13.1-1", "3.8.3-4";
    delivery_happens_at_the_lower_qos: "3.8.4-8 4.3.1-1", "3.8.4-6 4.3.1-1";
    overlapping_subscriptions_deliver_at_the_highest_qos: "3.3.4-2", "3.3.5-1";
    a_repeated_subscribe_replaces_the_subscription: "3.8.4-3", "3.8.4-3";
    replacing_a_subscription_loses_nothing: "3.8.4-4", "3.8.4-3";
    a_subscription_is_in_force_with_its_suback: "4.5.0-1 3.8.4-1", "4.5.0-1 3.8.4-1";
    no_local_keeps_own_messages_away: "3.8.3-3", "";
    no_local_holds_across_connections: "3.8.3-3", "";
    own_messages_come_back_without_no_local: "3.8.3-3 4.5.0-1", "4.5.0-1";
    a_subscription_identifier_comes_with_its_messages: "3.3.4-3 3.3.4-4", "";
    overlapping_subscription_identifiers_all_come: "3.3.4-3 3.3.4-4 3.3.4-5", "";
    a_replacement_replaces_the_identifier: "3.8.4-3 3.3.4-3", "";
    a_stored_message_carries_the_identifier: "3.3.4-3 3.3.4-4", "";
    a_retained_message_carries_the_identifier: "3.3.4-3", "";
    wildcards_are_supported_or_refused: "4.7.1-1 4.7.1-2", "3.8.3-2";
}

fn suback_has_a_code_for_each_filter_in_order(t: &Test) -> Outcome {
    let (a, b, c) = (t.topic("a"), t.topic("b/+"), t.topic("c/#"));
    let mut client = t.connect("c")?;
    let codes = client.subscribe_all(&[(&a, 2), (&b, 0), (&c, 1), (&a, 1)], &Props::new())?;
    ensure!(
        codes == [2, 0, 1, 1],
        "SUBACK {codes:02x?} instead of [02, 00, 01, 01]"
    );
    let mut publisher = t.connect("p")?;
    for (rest, qos) in [("a", 1), ("b/x", 0), ("c/x/y", 1)] {
        publisher.publish_text(&t.topic(rest), rest, 2)?;
        let message = client.take("a message")?;
        ensure!(
            message.text() == rest && message.qos == qos,
            "{:?} at QoS {}",
            message.text(),
            message.qos
        );
    }
    Ok(())
}

fn a_subscribe_without_filter_closes(t: &Test) -> Outcome {
    let mut client = t.connect("c")?;
    client.send(
        Bytes::new()
            .u16(1)
            .props(t.version, &Props::new())
            .frame(first::SUBSCRIBE),
    );
    client.closed_with(&[0x81, 0x82], "after SUBSCRIBE without filter")
}

fn reserved_option_bits_close(t: &Test) -> Outcome {
    let reserved: &[u8] = if t.v5() {
        &[0x40, 0x80]
    } else {
        &[0x04, 0x08, 0x10, 0x20, 0x40, 0x80]
    };
    for &bits in reserved {
        let mut client = t.connect("c")?;
        client.send(crate::wire::subscribe(
            t.version,
            1,
            &[(&t.topic("a"), bits)],
            &Props::new(),
        ));
        client.closed_with(&[0x81, 0x82], &format!("after options {bits:#04x}"))?;
    }
    Ok(())
}

fn qos_3_in_a_subscription_closes(t: &Test) -> Outcome {
    let mut client = t.connect("c")?;
    client.send(crate::wire::subscribe(
        t.version,
        1,
        &[(&t.topic("a"), 3)],
        &Props::new(),
    ));
    client.closed_with(&[0x81, 0x82], "after a requested QoS of 3")
}

fn delivery_happens_at_the_lower_qos(t: &Test) -> Outcome {
    let mut publisher = t.connect("p")?;
    for granted in 0..3 {
        let topic = t.topic(&granted.to_string());
        let mut sub = t.connect("s")?;
        sub.subscribe(&topic, granted)?;
        for published in 0..3 {
            publisher.publish_text(&topic, "x", published)?;
            let qos = sub.take("the message")?.qos;
            ensure!(
                qos == granted.min(published),
                "QoS {qos} for published {published} and granted {granted}"
            );
        }
    }
    Ok(())
}

/// The copies of one message, acknowledged.
fn copies(sub: &mut Client) -> Outcome<Vec<Message>> {
    let mut copies = vec![sub.take("the message")?];
    while let Some(copy) = sub.message_soon()? {
        sub.acknowledge(&copy)?;
        copies.push(copy);
    }
    Ok(copies)
}

/// A server may send one copy per subscription; at least one has the highest QoS, and none is above its own grant.
fn overlapping_subscriptions_deliver_at_the_highest_qos(t: &Test) -> Outcome {
    let mut sub = t.connect("s")?;
    for (filter, qos) in [("a/#", 0), ("a/+", 2), ("a/b", 1)] {
        sub.subscribe(&t.topic(filter), qos)?;
    }
    let mut publisher = t.connect("p")?;
    for published in 0..3 {
        publisher.publish_text(&t.topic("a/b"), "overlap", published)?;
        let found: Vec<u8> = copies(&mut sub)?.iter().map(|copy| copy.qos).collect();
        ensure!(
            found.len() <= 3,
            "{} copies for three subscriptions",
            found.len()
        );
        ensure!(
            found.iter().max() == Some(&published),
            "published at QoS {published}, delivered at {found:?}"
        );
    }
    Ok(())
}

fn a_repeated_subscribe_replaces_the_subscription(t: &Test) -> Outcome {
    let topic = t.topic("a");
    let mut sub = t.connect("s")?;
    let mut publisher = t.connect("p")?;
    for qos in [0, 2, 1] {
        sub.subscribe(&topic, qos)?;
        publisher.publish_text(&topic, "once", 2)?;
        let message = sub.take("the message")?;
        ensure!(
            message.qos == qos,
            "QoS {} instead of {qos} after the replacement",
            message.qos
        );
        sub.silent("after one message for one subscription")?;
    }
    sub.unsubscribe(&topic)?;
    publisher.publish_text(&topic, "gone", 1)?;
    sub.silent("after UNSUBSCRIBE")
}

fn replacing_a_subscription_loses_nothing(t: &Test) -> Outcome {
    const COUNT: usize = 60;
    let topic = t.topic("a");
    let mut sub = t.connect("s")?;
    sub.subscribe(&topic, 1)?;
    let mut publisher = t.connect("p")?;
    let mut found = Vec::new();
    for number in 0..COUNT {
        publisher.publish_text(&topic, &number.to_string(), 1)?;
        if number % 10 == 5 {
            let request = crate::wire::subscribe(t.version, 500, &[(&topic, 1)], &Props::new());
            sub.send(request);
        }
    }
    while found.len() < COUNT {
        let packet = sub.receive("a message or SUBACK")?;
        if let crate::parse::Body::Publish(message) = packet.body {
            sub.acknowledge(&message)?;
            found.push(message.text());
        }
    }
    let expected: Vec<String> = (0..COUNT).map(|number| number.to_string()).collect();
    ensure!(
        found == expected,
        "lost, doubled or reordered around a replacement: {found:?}"
    );
    Ok(())
}

fn a_subscription_is_in_force_with_its_suback(t: &Test) -> Outcome {
    let mut publisher = t.connect("p")?;
    let mut sub = t.connect("s")?;
    for number in 0..20 {
        let topic = t.topic(&number.to_string());
        sub.subscribe(&topic, 1)?;
        publisher.publish_text(&topic, "x", 1)?;
        sub.take("the message published after SUBACK")?;
    }
    Ok(())
}

const NO_LOCAL: u8 = 0x04;

fn no_local_keeps_own_messages_away(t: &Test) -> Outcome {
    let topic = t.topic("a");
    let mut client = t.connect("c")?;
    client.subscribe_all(&[(&topic, 1 | NO_LOCAL)], &Props::new())?;
    for qos in 0..3 {
        client.publish_text(&topic, "own", qos)?;
    }
    t.connect("p")?.publish_text(&topic, "other", 1)?;
    let message = client.take("the message of another client")?;
    ensure!(message.text() == "other", "got its own message back");
    client.silent("after the message of another client")
}

fn no_local_holds_across_connections(t: &Test) -> Outcome {
    let topic = t.topic("a");
    let mut client = t.client("c").resume().open()?;
    client.subscribe_all(&[(&topic, 1 | NO_LOCAL)], &Props::new())?;
    client.disconnect()?;
    let mut client = t.client("c").resume().open()?;
    client.publish_text(&topic, "own", 1)?;
    t.connect("p")?.publish_text(&topic, "other", 1)?;
    let message = client.take("the message of another client")?;
    ensure!(message.text() == "other", "got its own message back");
    client.silent("after the message of another client")
}

fn own_messages_come_back_without_no_local(t: &Test) -> Outcome {
    let topic = t.topic("a");
    let mut client = t.connect("c")?;
    client.subscribe(&topic, 0)?;
    client.send_publish(&Publish::new(&topic, "own"));
    client.take("its own message").map(drop)
}

fn with_id(client: &mut Client, filter: &str, qos: u8, id: usize) -> Outcome {
    if client.connack.number(prop::SUBSCRIPTION_IDS_AVAILABLE) == Some(0) {
        crate::skip!("the server has no subscription identifiers");
    }
    let codes = client.subscribe_all(
        &[(filter, qos)],
        &Props::new().var(prop::SUBSCRIPTION_ID, id),
    )?;
    ensure!(codes == [qos & 3], "SUBACK {codes:02x?}");
    Ok(())
}

fn a_subscription_identifier_comes_with_its_messages(t: &Test) -> Outcome {
    let mut sub = t.connect("s")?;
    let mut publisher = t.connect("p")?;
    for id in [1, 127, 128, 16_384, 268_435_455] {
        let topic = t.topic(&id.to_string());
        with_id(&mut sub, &topic, 1, id)?;
        publisher.publish_text(&topic, "x", 1)?;
        let found = sub.take("the message")?.props.subscription_ids();
        ensure!(
            found.iter().map(|&id| id as usize).eq([id]),
            "identifiers {found:?} instead of [{id}]"
        );
    }
    sub.subscribe(&t.topic("none"), 1)?;
    publisher.publish_text(&t.topic("none"), "x", 1)?;
    let found = sub.take("the message")?.props.subscription_ids();
    ensure!(
        found.is_empty(),
        "identifiers {found:?} for a subscription without one"
    );
    Ok(())
}

fn overlapping_subscription_identifiers_all_come(t: &Test) -> Outcome {
    let mut sub = t.connect("s")?;
    with_id(&mut sub, &t.topic("a/#"), 1, 10)?;
    with_id(&mut sub, &t.topic("a/+"), 1, 20)?;
    sub.subscribe(&t.topic("+/b"), 1)?;
    let mut publisher = t.connect("p")?;
    publisher.publish_text(&t.topic("a/b"), "x", 1)?;
    let mut found: Vec<_> = copies(&mut sub)?
        .iter()
        .map(|copy| copy.props.subscription_ids())
        .collect();
    found.sort();
    // One copy with both, or one copy per subscription with its own.
    let right = [vec![vec![10, 20]], vec![vec![], vec![10], vec![20]]];
    if right.contains(&found) {
        Ok(())
    } else {
        fail!("subscription identifiers per copy: {found:?}")
    }
}

fn a_replacement_replaces_the_identifier(t: &Test) -> Outcome {
    let topic = t.topic("a");
    let mut sub = t.connect("s")?;
    let mut publisher = t.connect("p")?;
    for id in [5, 6] {
        with_id(&mut sub, &topic, 1, id)?;
        publisher.publish_text(&topic, "x", 1)?;
        let found = sub.take("the message")?.props.subscription_ids();
        ensure!(
            found.iter().map(|&id| id as usize).eq([id]),
            "identifiers {found:?} instead of [{id}]"
        );
    }
    sub.subscribe(&topic, 1)?;
    publisher.publish_text(&topic, "x", 1)?;
    let found = sub.take("the message")?.props.subscription_ids();
    ensure!(
        found.is_empty(),
        "identifiers {found:?} after a replacement without one"
    );
    Ok(())
}

fn a_stored_message_carries_the_identifier(t: &Test) -> Outcome {
    let topic = t.topic("a");
    let mut sub = t.client("s").resume().open()?;
    with_id(&mut sub, &topic, 1, 9)?;
    sub.disconnect()?;
    t.connect("p")?.publish_text(&topic, "x", 1)?;
    let mut sub = t.client("s").resume().open()?;
    let found = sub.take("the stored message")?.props.subscription_ids();
    ensure!(found == [9], "identifiers {found:?} instead of [9]");
    Ok(())
}

fn a_retained_message_carries_the_identifier(t: &Test) -> Outcome {
    let topic = t.topic("a");
    t.connect("p")?
        .publish(Publish::new(&topic, "kept").qos(1, 0).retained())?;
    let mut sub = t.connect("s")?;
    with_id(&mut sub, &topic, 1, 9)?;
    let found = sub.take("the retained message")?.props.subscription_ids();
    ensure!(found == [9], "identifiers {found:?} instead of [9]");
    Ok(())
}

fn wildcards_are_supported_or_refused(t: &Test) -> Outcome {
    let mut sub = t.connect("s")?;
    let codes = sub.subscribe_all(&[(&t.topic("a/+"), 1), (&t.topic("b/#"), 1)], &Props::new())?;
    if sub.connack.number(prop::WILDCARD_AVAILABLE) == Some(0)
        || codes.iter().any(|&code| code >= 0x80)
    {
        ensure!(
            codes.iter().all(|&code| code >= 0x80),
            "SUBACK {codes:02x?} of a server without wildcards"
        );
        return Ok(());
    }
    let mut publisher = t.connect("p")?;
    for rest in ["a/x", "b", "b/x/y"] {
        publisher.publish_text(&t.topic(rest), rest, 1)?;
        ensure!(sub.take("the message")?.text() == rest, "another message");
    }
    Ok(())
}
