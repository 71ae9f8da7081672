//! UNSUBSCRIBE and UNSUBACK (§3.10, §3.11).

use super::cases;
use crate::parse::Body;
use crate::wire::{Bytes, Props, ack, first, unsubscribe};
use crate::{Outcome, Test, ensure, fail};

cases! {
    unsubscribe_stops_new_messages: "3.10.4-2 3.10.4-4", "3.10.4-2 3.10.4-4";
    unsuback_has_a_code_for_each_filter_in_order: "3.10.4-6 3.11.3-1 3.11.3-2 3.10.4-5", "3.10.4-5 3.10.4-6";
    an_unknown_filter_is_still_answered: "3.10.4-4 3.10.4-5", "3.10.4-4 3.10.4-5";
    filters_are_compared_character_by_character: "3.10.4-1", "3.10.4-1";
    an_unsubscribe_without_filter_closes: "3.10.3-2 4.13.1-1", "3.10.3-2 4.8.0-1";
    started_deliveries_are_completed: "3.10.4-3", "3.10.4-3";
    unsubscribe_holds_for_a_stored_session: "3.10.4-1 3.10.4-2", "3.10.4-1 3.10.4-2";
}

fn unsubscribe_stops_new_messages(t: &Test) -> Outcome {
    let topic = t.topic("a");
    let mut sub = t.connect("s")?;
    sub.subscribe(&topic, 1)?;
    let mut publisher = t.connect("p")?;
    publisher.publish_text(&topic, "before", 1)?;
    sub.take("the message before UNSUBSCRIBE")?;
    sub.unsubscribe(&topic)?;
    for qos in 0..3 {
        publisher.publish_text(&topic, "after", qos)?;
    }
    sub.silent("after UNSUBACK")
}

fn unsuback_has_a_code_for_each_filter_in_order(t: &Test) -> Outcome {
    let (a, b, never) = (t.topic("a"), t.topic("b/#"), t.topic("never"));
    let mut client = t.connect("c")?;
    client.subscribe(&a, 1)?;
    client.subscribe(&b, 1)?;
    client.send(unsubscribe(t.version, 9, &[&never, &a, &never, &b]));
    let codes = client.suback(first::UNSUBACK, 9)?;
    let expected: &[u8] = if t.v5() {
        &[0x11, 0x00, 0x11, 0x00]
    } else {
        &[]
    };
    ensure!(
        codes == expected,
        "UNSUBACK {codes:02x?} instead of {expected:02x?}"
    );
    let mut publisher = t.connect("p")?;
    publisher.publish_text(&a, "x", 1)?;
    publisher.publish_text(&t.topic("b/c"), "x", 1)?;
    client.silent("after both subscriptions were deleted")
}

fn an_unknown_filter_is_still_answered(t: &Test) -> Outcome {
    let mut client = t.connect("c")?;
    client.unsubscribe(&t.topic("never"))?;
    client.silent("after UNSUBACK")
}

fn filters_are_compared_character_by_character(t: &Test) -> Outcome {
    let filter = t.topic("a/+");
    let mut sub = t.connect("s")?;
    sub.subscribe(&filter, 1)?;
    for other in ["a/b", "a/#", "A/+", "a/+/", "#", "+/+"] {
        sub.unsubscribe(&t.topic(other))?;
    }
    let mut publisher = t.connect("p")?;
    publisher.publish_text(&t.topic("a/b"), "x", 1)?;
    sub.take("a message, since no filter was equal")?;
    sub.unsubscribe(&filter)?;
    publisher.publish_text(&t.topic("a/b"), "x", 1)?;
    sub.silent("after the equal filter")
}

fn an_unsubscribe_without_filter_closes(t: &Test) -> Outcome {
    let mut client = t.connect("c")?;
    client.send(
        Bytes::new()
            .u16(1)
            .props(t.version, &Props::new())
            .frame(first::UNSUBSCRIBE),
    );
    client.closed_with(&[0x81, 0x82], "after UNSUBSCRIBE without filter")
}

fn started_deliveries_are_completed(t: &Test) -> Outcome {
    let topic = t.topic("a");
    let mut sub = t.client("s").resume().open()?;
    sub.subscribe(&topic, 2)?;
    let mut publisher = t.connect("p")?;
    publisher.publish_text(&topic, "one", 1)?;
    let one = sub.message("the QoS 1 message")?;
    publisher.publish_text(&topic, "two", 2)?;
    let two = sub.message("the QoS 2 message")?;
    sub.unsubscribe(&topic)?;
    sub.send(ack(first::PUBREC, two.id));
    sub.acknowledgement(first::PUBREL, two.id)?;
    sub.cut()?;
    let mut sub = t.client("s").resume().open()?;
    // PUBLISH and PUBREL, in either order.
    for _ in 0..2 {
        let packet =
            sub.receive("the unacknowledged PUBLISH and PUBREL, in spite of UNSUBSCRIBE")?;
        match packet.body {
            Body::Publish(again) if again.id == one.id && again.dup => {
                sub.send(ack(first::PUBACK, one.id));
            }
            Body::Ack { id, .. } if packet.first == first::PUBREL && id == two.id => {
                sub.send(ack(first::PUBCOMP, two.id));
            }
            _ => fail!("got {}", crate::client::describe(&packet)),
        }
    }
    sub.silent("after both deliveries")
}

fn unsubscribe_holds_for_a_stored_session(t: &Test) -> Outcome {
    let topic = t.topic("a");
    let mut sub = t.client("s").resume().open()?;
    sub.subscribe(&topic, 1)?;
    sub.unsubscribe(&topic)?;
    sub.disconnect()?;
    t.connect("p")?.publish_text(&topic, "x", 1)?;
    let mut sub = t.client("s").resume().open()?;
    ensure!(sub.session_present, "the session is gone");
    sub.silent("for a subscription that was deleted")
}
