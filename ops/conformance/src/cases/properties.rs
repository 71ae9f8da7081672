//! Properties of a PUBLISH on their way through the server (5.0 §3.3.2.3).

use super::cases;
use crate::wire::{Bytes, Props, Publish, first, prop};
use crate::{Outcome, Test, ensure};

cases! {
    properties_are_forwarded_unaltered: "3.3.2-4 3.3.2-15 3.3.2-16 3.3.2-17 3.3.2-18 3.3.2-20", "";
    properties_of_stored_and_retained_messages_are_kept:
        "3.3.2-4 3.3.2-15 3.3.2-16 3.3.2-17 3.3.2-18 3.3.2-20", "";
    no_property_is_made_up: "3.3.2-4 3.3.2-15 3.3.2-16 3.3.2-20", "";
    user_properties_keep_names_values_and_order: "3.3.2-17 3.3.2-18 1.5.4-3", "";
    a_response_topic_with_wildcards_closes: "3.3.2-14 4.13.1-1", "";
    properties_of_clients_are_taken: "3.1.4-5 3.4.2-1 3.5.2-1 3.6.2-1 3.7.2-1 3.8.4-1 3.10.4-4", "";
    a_large_property_block_is_forwarded: "3.3.2-17 1.5.5-1", "";
}

fn everything() -> Props {
    Props::new()
        .user("z", "1")
        .u8(prop::PAYLOAD_FORMAT, 1)
        .data(prop::CONTENT_TYPE, "text/plain; charset=utf-8")
        .user("a", "2")
        .data(prop::RESPONSE_TOPIC, "answer/to/me")
        .data(prop::CORRELATION_DATA, [0, 1, 0xFF, 0])
        .user("z", "1")
}

fn intact(message: &crate::parse::Message) -> Outcome {
    let props = &message.props;
    ensure!(
        props.number(prop::PAYLOAD_FORMAT) == Some(1),
        "Payload Format Indicator lost: {props:?}"
    );
    ensure!(
        props.text(prop::CONTENT_TYPE) == Some("text/plain; charset=utf-8"),
        "Content Type changed: {props:?}"
    );
    ensure!(
        props.text(prop::RESPONSE_TOPIC) == Some("answer/to/me"),
        "Response Topic changed: {props:?}"
    );
    ensure!(
        props.data(prop::CORRELATION_DATA) == Some(&[0, 1, 0xFF, 0]),
        "Correlation Data changed: {props:?}"
    );
    ensure!(
        props.pairs() == [("z", "1"), ("a", "2"), ("z", "1")],
        "user properties {:?}",
        props.pairs()
    );
    Ok(())
}

fn properties_are_forwarded_unaltered(t: &Test) -> Outcome {
    let topic = t.topic("a");
    let mut sub = t.connect("s")?;
    sub.subscribe(&topic, 2)?;
    let mut publisher = t.connect("p")?;
    for qos in 0..3 {
        publisher.publish(Publish::new(&topic, "x").qos(qos, 0).props(everything()))?;
        intact(&sub.take("the message")?)?;
    }
    Ok(())
}

fn properties_of_stored_and_retained_messages_are_kept(t: &Test) -> Outcome {
    let topic = t.topic("a");
    let mut sub = t.client("s").resume().open()?;
    sub.subscribe(&topic, 1)?;
    sub.disconnect()?;
    t.connect("p")?.publish(
        Publish::new(&topic, "x")
            .qos(1, 0)
            .retained()
            .props(everything()),
    )?;
    intact(&t.client("s").resume().open()?.take("the stored message")?)?;
    let mut late = t.connect("l")?;
    late.subscribe(&topic, 1)?;
    intact(&late.take("the retained message")?)
}

fn no_property_is_made_up(t: &Test) -> Outcome {
    let topic = t.topic("a");
    let mut sub = t.connect("s")?;
    sub.subscribe(&topic, 0)?;
    t.connect("p")?.publish_text(&topic, "x", 0)?;
    let props = sub.take("the message")?.props;
    let own = [
        prop::PAYLOAD_FORMAT,
        prop::CONTENT_TYPE,
        prop::RESPONSE_TOPIC,
        prop::CORRELATION_DATA,
        prop::MESSAGE_EXPIRY,
    ];
    ensure!(
        own.iter().all(|&id| props.find(id).is_none()),
        "properties that the publisher did not send: {props:?}"
    );
    Ok(())
}

fn user_properties_keep_names_values_and_order(t: &Test) -> Outcome {
    let topic = t.topic("a");
    let mut sub = t.connect("s")?;
    sub.subscribe(&topic, 1)?;
    let pairs = [
        ("", ""),
        ("b", ""),
        ("", "v"),
        ("ключ", "значение"),
        ("b", "\u{FEFF}"),
        ("A", "1"),
        ("a", "1"),
        ("b", ""),
    ];
    let props = pairs
        .iter()
        .fold(Props::new(), |props, (name, value)| props.user(name, value));
    t.connect("p")?
        .publish(Publish::new(&topic, "x").qos(1, 0).props(props))?;
    let message = sub.take("the message")?;
    ensure!(
        message.props.pairs() == pairs,
        "user properties {:?}",
        message.props.pairs()
    );
    Ok(())
}

fn a_response_topic_with_wildcards_closes(t: &Test) -> Outcome {
    for topic in ["a/+", "#"] {
        let mut client = t.connect("c")?;
        client.send_publish(
            &Publish::new(t.topic("a"), "x").props(Props::new().data(prop::RESPONSE_TOPIC, topic)),
        );
        client.closed_with(
            &[0x81, 0x82, 0x90],
            &format!("after Response Topic {topic:?}"),
        )?;
    }
    Ok(())
}

/// Every packet of a client with every property that only explains: none of them may disturb a server.
fn properties_of_clients_are_taken(t: &Test) -> Outcome {
    let topic = t.topic("a");
    let user = Props::new().user("n", "v").user("n", "v");
    let told = user.clone().data(prop::REASON_STRING, "why not");
    let answer = |id: u16, told: &Props| Bytes::new().u16(id).u8(0).props(t.version, told);
    let mut client = t.client("c").props(user.clone()).open()?;
    client.send(crate::wire::subscribe(t.version, 1, &[(&topic, 2)], &user));
    client.suback(first::SUBACK, 1)?;
    let mut publisher = t.connect("p")?;
    publisher.publish_text(&topic, "1", 1)?;
    let one = client.message("the QoS 1 message")?;
    client.send(answer(one.id, &told).frame(first::PUBACK));
    publisher.publish_text(&topic, "2", 2)?;
    let two = client.message("the QoS 2 message")?;
    client.send(answer(two.id, &told).frame(first::PUBREC));
    client.acknowledgement(first::PUBREL, two.id)?;
    client.send(answer(two.id, &told).frame(first::PUBCOMP));
    publisher.send_publish(&Publish::new(t.topic("b"), "3").qos(2, 99));
    publisher.acknowledgement(first::PUBREC, 99)?;
    publisher.send(answer(99, &told).frame(first::PUBREL));
    publisher.acknowledgement(first::PUBCOMP, 99)?;
    client.send(
        Bytes::new()
            .u16(2)
            .props(t.version, &user)
            .data(&topic)
            .frame(first::UNSUBSCRIBE),
    );
    client.suback(first::UNSUBACK, 2)?;
    client.silent("after all of them")?;
    client.disconnect_with(0, &told)
}

fn a_large_property_block_is_forwarded(t: &Test) -> Outcome {
    let topic = t.topic("a");
    let mut sub = t.connect("s")?;
    sub.subscribe(&topic, 1)?;
    let mut publisher = t.connect("p")?;
    for length in [100, 121, 122, 123, 200, 10_000, 16_400] {
        let value = "v".repeat(length);
        publisher.publish(
            Publish::new(&topic, "x")
                .qos(1, 0)
                .props(Props::new().user("n", &value)),
        )?;
        let message = sub.take("the message")?;
        ensure!(
            message.props.pairs() == [("n", value.as_str())],
            "a user property of {length} bytes changed"
        );
    }
    Ok(())
}
