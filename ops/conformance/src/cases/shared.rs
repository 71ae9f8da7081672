//! Shared subscriptions (5.0 §4.8.2).

use super::cases;
use crate::client::Client;
use crate::wire::{Props, ack, ack_with, first, prop, subscribe};
use crate::{Outcome, Test, ensure, skip};

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

/// The messages that a client holds, acknowledged.
fn held(client: &mut Client) -> Outcome<Vec<String>> {
    let mut texts = Vec::new();
    for packet in client.before_ping()? {
        if let crate::parse::Body::Publish(message) = packet.body {
            client.acknowledge(&message)?;
            texts.push(message.text());
        }
    }
    Ok(texts)
}

fn a_share_gets_each_message_once(t: &Test) -> Outcome {
    const COUNT: usize = 20;
    let (mut one, mut two) = (t.connect("one")?, t.connect("two")?);
    share(t, &mut one, 1)?;
    share(t, &mut two, 1)?;
    let mut publisher = t.connect("p")?;
    let mut all = Vec::new();
    for number in 0..COUNT {
        publisher.publish_text(&t.topic("a"), &format!("{number:02}"), 1)?;
        all.extend(held(&mut one)?);
        all.extend(held(&mut two)?);
    }
    all.sort();
    let expected: Vec<String> = (0..COUNT).map(|number| format!("{number:02}")).collect();
    ensure!(all == expected, "the two members got {all:?}");
    Ok(())
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

/// Two members with sessions; the message goes to one of them, which is returned first.
fn begun(t: &Test) -> Outcome<(&'static str, Client, u16, Client)> {
    let (mut one, mut two) = (
        t.client("one").resume().open()?,
        t.client("two").resume().open()?,
    );
    share(t, &mut one, 2)?;
    share(t, &mut two, 2)?;
    t.connect("p")?.publish_text(&t.topic("a"), "x", 2)?;
    for (role, mut client, other) in [("one", one, "two"), ("two", two, "one")] {
        let found = client.before_ping()?;
        if let Some(crate::parse::Body::Publish(message)) =
            found.into_iter().next().map(|packet| packet.body)
        {
            // The other member is whoever holds the other name; it is reopened, which its session survives.
            return Ok((role, client, message.id, t.client(other).resume().open()?));
        }
    }
    crate::fail!("neither member got the message")
}

fn a_begun_qos_2_delivery_stays_with_its_client(t: &Test) -> Outcome {
    let (role, mut client, id, mut other) = begun(t)?;
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
    let (role, mut client, id, mut other) = begun(t)?;
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
    let (_, mut client, id, mut other) = begun(t)?;
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
