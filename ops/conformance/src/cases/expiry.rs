//! Message expiry (5.0 §3.3.2.3.3).

use std::time::Duration;

use super::cases;
use crate::wire::{Props, Publish, prop};
use crate::{Outcome, Test, ensure};

cases! {
    an_expired_message_is_not_delivered: "3.3.2-5", "";
    an_expired_retained_message_is_not_delivered: "3.3.2-5", "";
    the_remaining_expiry_is_forwarded: "3.3.2-6", "";
    an_expiry_on_live_delivery_is_forwarded: "3.3.2-6", "";
}

fn expiring(topic: &str, text: &str, seconds: u32) -> Publish {
    Publish::new(topic, text)
        .qos(1, 0)
        .props(Props::new().u32(prop::MESSAGE_EXPIRY, seconds))
}

fn an_expired_message_is_not_delivered(t: &Test) -> Outcome {
    let topic = t.topic("a");
    let mut sub = t.client("s").resume().open()?;
    sub.subscribe(&topic, 1)?;
    sub.disconnect()?;
    let mut publisher = t.connect("p")?;
    publisher.publish(expiring(&topic, "expires", 1))?;
    publisher.publish(expiring(&topic, "lasts", 100))?;
    publisher.publish_text(&topic, "for ever", 1)?;
    t.pass(Duration::from_millis(2_500));
    let mut sub = t.client("s").resume().open()?;
    for text in ["lasts", "for ever"] {
        let message = sub.take("a message that has not expired")?;
        ensure!(
            message.text() == text,
            "{:?} instead of {text:?}",
            message.text()
        );
    }
    sub.silent("after these two messages")
}

fn an_expired_retained_message_is_not_delivered(t: &Test) -> Outcome {
    let topic = t.topic("a");
    let mut publisher = t.connect("p")?;
    publisher.publish(expiring(&topic, "expires", 1).retained())?;
    t.pass(Duration::from_millis(2_500));
    let mut sub = t.connect("s")?;
    sub.subscribe(&topic, 1)?;
    sub.silent("as the retained message has expired")
}

fn the_remaining_expiry_is_forwarded(t: &Test) -> Outcome {
    let topic = t.topic("a");
    let mut sub = t.client("s").resume().open()?;
    sub.subscribe(&topic, 1)?;
    sub.disconnect()?;
    t.connect("p")?
        .publish(expiring(&topic, "x", 100).retained())?;
    t.pass(Duration::from_millis(2_200));
    let stored = t.client("s").resume().open()?.take("the stored message")?;
    let mut late = t.connect("l")?;
    late.subscribe(&topic, 1)?;
    let retained = late.take("the retained message")?;
    for (what, message) in [("stored", stored), ("retained", retained)] {
        let left = message.props.number(prop::MESSAGE_EXPIRY);
        ensure!(
            left.is_some_and(|left| (90..=98).contains(&left)),
            "{what}: {left:?} s left of 100 s after 2.2 s"
        );
    }
    Ok(())
}

fn an_expiry_on_live_delivery_is_forwarded(t: &Test) -> Outcome {
    let topic = t.topic("a");
    let mut sub = t.connect("s")?;
    sub.subscribe(&topic, 1)?;
    t.connect("p")?.publish(expiring(&topic, "x", 100))?;
    let left = sub.take("the message")?.props.number(prop::MESSAGE_EXPIRY);
    ensure!(
        left.is_some_and(|left| (98..=100).contains(&left)),
        "{left:?} s left of 100 s"
    );
    Ok(())
}
