//! Shared subscriptions (5.0 §4.8.2).

use super::cases;
use crate::client::Client;
use crate::parse::Message;
use crate::wire::{Props, ack, ack_with, first, prop, subscribe};
use crate::{Outcome, Test, ensure, fail, skip};

cases! {
    a_share_gets_each_message_once: "4.8.2-1 4.8.2-2", "";
    shares_and_plain_subscriptions_are_separate: "4.8.2-1 4.5.0-1", "";
    no_local_on_a_share_closes: "3.8.3-4 4.13.1-1", "";
    a_malformed_share_is_refused: "4.8.2-1 4.8.2-2", "";
    a_share_delivers_at_the_granted_qos: "4.8.2-3", "";
    a_begun_qos_2_delivery_stays_with_its_client: "4.8.2-4", "";
    a_begun_qos_2_delivery_goes_to_no_other_client: "4.8.2-5", "";
    a_refused_shared_message_goes_to_no_other_client: "4.8.2-6", "";
    an_unsubscribed_share_gets_nothing: "3.10.4-1 3.10.4-2", "";
}

fn share(t: &Test, client: &mut Client, qos: u8) -> Outcome {
    if client.connack.number(prop::SHARED_AVAILABLE) == Some(0) {
        skip!("the server has no shared subscriptions");
    }
    client.subscribe(&format!("$share/{}/{}", t.unique, t.topic("a")), qos)
}

/// The next message of a share and the index of the member that got it. Not acknowledged.
fn delivered(members: &mut [&mut Client]) -> Outcome<(usize, Message)> {
    for _ in 0..50 {
        for (index, member) in members.iter_mut().enumerate() {
            if let Some(message) = member.message_soon()? {
                return Ok((index, message));
            }
        }
    }
    fail!("no member of the share got the message")
}

fn a_share_gets_each_message_once(t: &Test) -> Outcome {
    let (mut one, mut two) = (t.connect("one")?, t.connect("two")?);
    share(t, &mut one, 1)?;
    share(t, &mut two, 1)?;
    let mut publisher = t.connect("p")?;
    for number in 0..10 {
        publisher.publish_text(&t.topic("a"), &number.to_string(), 1)?;
        let mut members = [&mut one, &mut two];
        let (index, message) = delivered(&mut members)?;
        ensure!(
            message.text() == number.to_string(),
            "{:?} instead of {number}",
            message.text()
        );
        members[index].acknowledge(&message)?;
    }
    one.silent("after each message went to one member")?;
    two.silent("after each message went to one member")
}

fn shares_and_plain_subscriptions_are_separate(t: &Test) -> Outcome {
    let mut member = t.connect("m")?;
    share(t, &mut member, 1)?;
    let mut other = t.connect("o")?;
    other.subscribe(&format!("$share/{}b/{}", t.unique, t.topic("a")), 1)?;
    let mut plain = t.connect("s")?;
    plain.subscribe(&t.topic("a"), 1)?;
    t.connect("p")?.publish_text(&t.topic("a"), "x", 1)?;
    for client in [&mut member, &mut other, &mut plain] {
        let message = client.take("the message, once per share and plain subscription")?;
        ensure!(message.topic == t.topic("a"), "topic {:?}", message.topic);
    }
    Ok(())
}

fn no_local_on_a_share_closes(t: &Test) -> Outcome {
    let mut client = t.connect("c")?;
    let filter = format!("$share/{}/{}", t.unique, t.topic("a"));
    client.send(subscribe(t.version, 1, &[(&filter, 0x05)], &Props::new()));
    client.closed_with(&[0x82, 0x81], "after No Local on a shared subscription")
}

fn a_malformed_share_is_refused(t: &Test) -> Outcome {
    for filter in [
        "$share//a",
        "$share/",
        "$share/g",
        "$share/g/",
        "$share/+/a",
        "$share/#/a",
        "$share/g+/a",
        "$share/g#/a",
    ] {
        let mut client = t.connect("c")?;
        client.send(subscribe(t.version, 1, &[(filter, 0)], &Props::new()));
        if client.first_byte()? == Some(first::SUBACK) {
            let codes = client.suback(first::SUBACK, 1)?;
            ensure!(
                codes.iter().all(|&code| code >= 0x80),
                "{filter:?} is granted: {codes:02x?}"
            );
        } else {
            client.closed_with(&[0x81, 0x82, 0x8F], &format!("after {filter:?}"))?;
        }
    }
    Ok(())
}

fn a_share_delivers_at_the_granted_qos(t: &Test) -> Outcome {
    for qos in 0..3 {
        let mut member = t.connect("m")?;
        share(t, &mut member, qos)?;
        t.connect("p")?.publish_text(&t.topic("a"), "x", 2)?;
        let found = member.take("the message")?.qos;
        ensure!(found == qos, "QoS {found} with QoS {qos} granted");
        member.disconnect()?;
    }
    Ok(())
}

/// Two members with sessions, and a message that went to one of them.
struct Begun {
    role: &'static str,
    client: Client,
    id: u16,
    other: Client,
}

fn begun(t: &Test) -> Outcome<Begun> {
    let (mut one, mut two) = (
        t.client("one").resume().open()?,
        t.client("two").resume().open()?,
    );
    share(t, &mut one, 2)?;
    share(t, &mut two, 2)?;
    t.connect("p")?.publish_text(&t.topic("a"), "x", 2)?;
    let (index, message) = delivered(&mut [&mut one, &mut two])?;
    let id = message.id;
    Ok(if index == 0 {
        Begun {
            role: "one",
            client: one,
            id,
            other: two,
        }
    } else {
        Begun {
            role: "two",
            client: two,
            id,
            other: one,
        }
    })
}

fn a_begun_qos_2_delivery_stays_with_its_client(t: &Test) -> Outcome {
    let Begun {
        role,
        mut client,
        id,
        mut other,
    } = begun(t)?;
    client.send(ack(first::PUBREC, id));
    client.acknowledgement(first::PUBREL, id)?;
    client.cut()?;
    other.silent("for a message that another member has begun")?;
    let mut client = t.client(role).resume().open()?;
    client.acknowledgement(first::PUBREL, id)?;
    client.send(ack(first::PUBCOMP, id));
    client.silent("after PUBCOMP")
}

fn a_begun_qos_2_delivery_goes_to_no_other_client(t: &Test) -> Outcome {
    let Begun {
        role,
        mut client,
        id,
        mut other,
    } = begun(t)?;
    client.send(ack(first::PUBREC, id));
    client.acknowledgement(first::PUBREL, id)?;
    client.cut()?;
    let ended = t.client(role).open()?;
    ensure!(
        !ended.session_present,
        "Session Present is 1 with a clean start"
    );
    other.silent("though the session of the member that had begun has ended")
}

fn a_refused_shared_message_goes_to_no_other_client(t: &Test) -> Outcome {
    let Begun {
        mut client,
        id,
        mut other,
        ..
    } = begun(t)?;
    client.send(ack_with(first::PUBREC, id, 0x80));
    client.silent("after PUBREC 0x80")?;
    other.silent("for a message that another member has refused")
}

fn an_unsubscribed_share_gets_nothing(t: &Test) -> Outcome {
    let mut member = t.connect("m")?;
    share(t, &mut member, 1)?;
    member.unsubscribe(&t.topic("a"))?;
    let mut publisher = t.connect("p")?;
    publisher.publish_text(&t.topic("a"), "x", 1)?;
    member.take("the message, since the plain filter is another one")?;
    member.unsubscribe(&format!("$share/{}/{}", t.unique, t.topic("a")))?;
    publisher.publish_text(&t.topic("a"), "x", 1)?;
    member.silent("after UNSUBSCRIBE from the share")
}
