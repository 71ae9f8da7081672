//! Topic aliases (5.0 §3.3.2.3.4), both ways.

use std::collections::HashMap;

use super::cases;
use crate::client::Client;
use crate::wire::{Props, Publish, prop};
use crate::{Outcome, Test, ensure, fail, skip};

cases! {
    the_server_takes_every_alias_it_allows: "3.3.2-12", "";
    an_alias_can_be_given_another_topic: "3.3.2-12", "";
    aliases_end_with_the_connection: "3.3.2-7", "";
    alias_0_closes: "3.3.2-8 4.13.1-1", "";
    an_alias_above_the_maximum_closes: "3.2.2-17 3.2.2-18 3.3.2-9 4.13.1-1", "";
    an_alias_without_topic_closes: "4.13.1-1 3.3.2-7", "";
    no_alias_for_a_client_that_takes_none: "3.1.2-27", "";
    the_server_keeps_to_the_alias_maximum: "3.1.2-26 3.3.2-11 3.3.2-3", "";
    a_redelivery_does_not_rest_on_an_earlier_alias: "3.3.2-7 4.4.0-1", "";
    an_alias_of_the_publisher_is_not_forwarded: "3.1.2-27 3.3.2-7", "";
}

fn aliased(topic: &str, payload: &str, alias: u16) -> Publish {
    Publish::new(topic, payload).props(Props::new().u16(prop::TOPIC_ALIAS, alias))
}

fn alias_maximum(client: &Client) -> Outcome<u16> {
    match client
        .connack
        .number(prop::TOPIC_ALIAS_MAXIMUM)
        .unwrap_or(0)
    {
        0 => skip!("the server's Topic Alias Maximum is 0"),
        maximum => Ok(u16::try_from(maximum).unwrap_or(u16::MAX)),
    }
}

fn the_server_takes_every_alias_it_allows(t: &Test) -> Outcome {
    let mut sub = t.connect("s")?;
    sub.subscribe(&t.topic("+"), 1)?;
    let mut publisher = t.connect("p")?;
    let maximum = alias_maximum(&publisher)?;
    let aliases: Vec<u16> = (1..=maximum.min(20))
        .chain([maximum / 2 + 1, maximum])
        .collect();
    for &alias in &aliases {
        publisher.publish(aliased(&t.topic(&format!("t{alias}")), "set", alias))?;
        sub.take("the message that sets the alias")?;
    }
    for qos in 0..3 {
        for &alias in &aliases {
            publisher.publish(aliased("", "used", alias).qos(qos, 0))?;
            let message = sub.take("the message with the alias alone")?;
            ensure!(
                message.topic == t.topic(&format!("t{alias}")),
                "alias {alias} gave {:?}",
                message.topic
            );
        }
    }
    Ok(())
}

fn an_alias_can_be_given_another_topic(t: &Test) -> Outcome {
    let mut sub = t.connect("s")?;
    sub.subscribe(&t.topic("+"), 1)?;
    let mut publisher = t.connect("p")?;
    alias_maximum(&publisher)?;
    for (sent, expected) in [
        ("a", "a"),
        ("", "a"),
        ("b", "b"),
        ("", "b"),
        ("a", "a"),
        ("", "a"),
    ] {
        let topic = if sent.is_empty() {
            String::new()
        } else {
            t.topic(sent)
        };
        publisher.publish(aliased(&topic, "x", 1))?;
        let message = sub.take("the message")?;
        ensure!(
            message.topic == t.topic(expected),
            "{:?} instead of {expected}",
            message.topic
        );
    }
    Ok(())
}

fn aliases_end_with_the_connection(t: &Test) -> Outcome {
    let mut publisher = t.client("p").resume().open()?;
    alias_maximum(&publisher)?;
    publisher.publish(aliased(&t.topic("a"), "x", 1))?;
    publisher.disconnect()?;
    let mut publisher = t.client("p").resume().open()?;
    publisher.send_publish(&aliased("", "x", 1));
    publisher.closed_with(
        &[0x82, 0x81, 0x94],
        "after an alias of an earlier connection",
    )
}

fn alias_0_closes(t: &Test) -> Outcome {
    let mut client = t.connect("c")?;
    client.send_publish(&aliased(&t.topic("a"), "x", 0));
    client.closed_with(&[0x94, 0x82, 0x81], "after Topic Alias 0")
}

fn an_alias_above_the_maximum_closes(t: &Test) -> Outcome {
    let mut client = t.connect("c")?;
    let maximum = client
        .connack
        .number(prop::TOPIC_ALIAS_MAXIMUM)
        .unwrap_or(0);
    let Ok(above) = u16::try_from(maximum + 1) else {
        skip!("the server's Topic Alias Maximum is 65,535")
    };
    client.send_publish(&aliased(&t.topic("a"), "x", above));
    client.closed_with(&[0x94, 0x82], &format!("after Topic Alias {above}"))
}

fn an_alias_without_topic_closes(t: &Test) -> Outcome {
    let mut client = t.connect("c")?;
    client.send_publish(&aliased("", "x", 1));
    client.closed_with(&[0x82, 0x81, 0x94], "after an alias that was never set")
}

fn no_alias_for_a_client_that_takes_none(t: &Test) -> Outcome {
    for props in [Props::new(), Props::new().u16(prop::TOPIC_ALIAS_MAXIMUM, 0)] {
        let mut sub = t.client("s").props(props).open()?;
        sub.subscribe(&t.topic("a"), 1)?;
        let mut publisher = t.connect("p")?;
        for _ in 0..4 {
            publisher.publish_text(&t.topic("a"), "x", 1)?;
            let message = sub.take("a message")?;
            ensure!(
                message.props.find(prop::TOPIC_ALIAS).is_none(),
                "a Topic Alias that the client did not allow"
            );
        }
    }
    Ok(())
}

fn the_server_keeps_to_the_alias_maximum(t: &Test) -> Outcome {
    let mut sub = t
        .client("s")
        .props(Props::new().u16(prop::TOPIC_ALIAS_MAXIMUM, 2))
        .open()?;
    sub.subscribe(&t.topic("+"), 1)?;
    let mut publisher = t.connect("p")?;
    let mut known = HashMap::new();
    for round in 0..4 {
        for rest in ["a", "b", "c", "a"] {
            publisher.publish_text(&t.topic(rest), "x", round % 2)?;
            let message = sub.take("a message")?;
            let alias = message.props.number(prop::TOPIC_ALIAS);
            ensure!(
                alias.is_none_or(|alias| (1..=2).contains(&alias)),
                "Topic Alias {alias:?} above the maximum of 2"
            );
            let topic = match alias {
                Some(alias) if message.topic.is_empty() => match known.get(&alias) {
                    Some(topic) => String::clone(topic),
                    None => fail!("Topic Alias {alias} was never set"),
                },
                Some(alias) => {
                    known.insert(alias, message.topic.clone());
                    message.topic
                }
                None => message.topic,
            };
            ensure!(
                topic == t.topic(rest),
                "topic {topic:?} instead of {:?}",
                t.topic(rest)
            );
        }
    }
    Ok(())
}

fn an_alias_of_the_publisher_is_not_forwarded(t: &Test) -> Outcome {
    let mut sub = t.connect("s")?;
    sub.subscribe(&t.topic("a"), 1)?;
    let mut publisher = t.connect("p")?;
    alias_maximum(&publisher)?;
    publisher.publish(aliased(&t.topic("a"), "x", 1))?;
    let message = sub.take("the message")?;
    ensure!(message.topic == t.topic("a"), "topic {:?}", message.topic);
    ensure!(
        message.props.find(prop::TOPIC_ALIAS).is_none(),
        "the publisher's Topic Alias was forwarded"
    );
    Ok(())
}

fn a_redelivery_does_not_rest_on_an_earlier_alias(t: &Test) -> Outcome {
    let topic = t.topic("a");
    let dial = t
        .client("s")
        .resume()
        .props(Props::new().u16(prop::TOPIC_ALIAS_MAXIMUM, 5));
    let mut sub = dial.open()?;
    sub.subscribe(&topic, 1)?;
    let mut publisher = t.connect("p")?;
    for text in ["one", "two", "three"] {
        publisher.publish_text(&topic, text, 1)?;
        sub.message("a message that stays unacknowledged")?;
    }
    sub.cut()?;
    let mut sub = dial.open()?;
    let mut known = None;
    for text in ["one", "two", "three"] {
        let message = sub.message("the redelivered message")?;
        let alias = message.props.number(prop::TOPIC_ALIAS);
        ensure!(
            message.text() == text,
            "{:?} instead of {text:?}",
            message.text()
        );
        let understood = message.topic == topic || message.topic.is_empty() && alias == known;
        ensure!(
            understood,
            "topic {:?} with alias {alias:?}, which this connection did not set",
            message.topic
        );
        known = alias.or(known);
        sub.acknowledge(&message)?;
    }
    Ok(())
}
