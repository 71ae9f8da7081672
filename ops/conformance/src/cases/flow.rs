//! Receive Maximum (§4.9) and Maximum Packet Size.

use std::time::Duration;

use super::cases;
use crate::wire::{Props, Publish, ack, first, prop};
use crate::{Outcome, Test, ensure, skip};

cases! {
    the_server_keeps_to_the_receive_maximum: "3.3.4-9 3.3.4-10 4.9.0-1 4.9.0-2 4.9.0-3", "";
    the_receive_maximum_holds_on_reconnect: "3.3.4-9 4.9.0-1", "";
    qos_2_holds_its_slot_until_pubcomp: "4.9.0-2 3.3.4-9", "";
    a_client_above_the_receive_maximum_is_closed: "3.3.4-7 4.13.1-1", "";
    the_server_takes_its_whole_receive_maximum: "4.9.0-3", "";
    a_message_too_large_for_a_client_is_dropped_for_it: "3.1.2-24 3.1.2-25", "";
    a_stored_message_too_large_for_a_client_is_dropped_for_it: "3.1.2-24 3.1.2-25", "";
    a_packet_of_the_maximum_size_is_taken: "3.3.4-1 4.3.2-4", "";
    a_client_above_the_maximum_packet_size_is_closed: "3.2.2-15 4.13.1-1", "";
}

fn the_server_keeps_to_the_receive_maximum(t: &Test) -> Outcome {
    let topic = t.topic("a");
    let mut sub = t
        .client("s")
        .props(Props::new().u16(prop::RECEIVE_MAXIMUM, 2))
        .open()?;
    sub.subscribe(&topic, 2)?;
    let mut publisher = t.connect("p")?;
    for number in 0..5 {
        publisher.publish_text(&topic, &number.to_string(), 1)?;
    }
    let mut window = vec![sub.message("message 0")?, sub.message("message 1")?];
    sub.silent("but PINGRESP with two messages unacknowledged")?;
    sub.subscribe(&t.topic("b"), 1)?;
    sub.publish_text(&t.topic("c"), "x", 1)?;
    sub.publish_text(&t.topic("c"), "x", 2)?;
    for number in 2..5 {
        let oldest = window.remove(0);
        sub.acknowledge(&oldest)?;
        let message = sub.message("the next message")?;
        ensure!(
            message.text() == number.to_string(),
            "{} instead of {number}",
            message.text()
        );
        sub.silent("beyond a Receive Maximum of 2")?;
        window.push(message);
    }
    Ok(())
}

fn the_receive_maximum_holds_on_reconnect(t: &Test) -> Outcome {
    let topic = t.topic("a");
    let mut sub = t.client("s").resume().open()?;
    sub.subscribe(&topic, 1)?;
    let mut publisher = t.connect("p")?;
    for number in 0..3 {
        publisher.publish_text(&topic, &number.to_string(), 1)?;
        sub.message("a message")?;
    }
    sub.cut()?;
    let mut sub = t
        .client("s")
        .resume()
        .props(Props::new().u16(prop::RECEIVE_MAXIMUM, 1))
        .open()?;
    for number in 0..3 {
        let message = sub.message("the next message")?;
        ensure!(
            message.text() == number.to_string(),
            "{} instead of {number}",
            message.text()
        );
        sub.silent("beyond a Receive Maximum of 1")?;
        sub.acknowledge(&message)?;
    }
    Ok(())
}

fn qos_2_holds_its_slot_until_pubcomp(t: &Test) -> Outcome {
    let topic = t.topic("a");
    let mut sub = t
        .client("s")
        .props(Props::new().u16(prop::RECEIVE_MAXIMUM, 1))
        .open()?;
    sub.subscribe(&topic, 2)?;
    let mut publisher = t.connect("p")?;
    publisher.publish_text(&topic, "one", 2)?;
    let one = sub.message("the first message")?;
    publisher.publish_text(&topic, "two", 1)?;
    sub.send(ack(first::PUBREC, one.id));
    sub.acknowledgement(first::PUBREL, one.id)?;
    sub.silent("between PUBREL and PUBCOMP")?;
    sub.send(ack(first::PUBCOMP, one.id));
    ensure!(
        sub.take("the second message")?.text() == "two",
        "another message"
    );
    Ok(())
}

/// Above this a case would mostly show how fast the machine is.
const RECEIVE_MAXIMUM_TRIED: u32 = 5_000;

fn a_client_above_the_receive_maximum_is_closed(t: &Test) -> Outcome {
    let topic = t.topic("nobody");
    let mut client = t.connect("c")?;
    let maximum = client
        .connack
        .number(prop::RECEIVE_MAXIMUM)
        .unwrap_or(65_535);
    if maximum > RECEIVE_MAXIMUM_TRIED {
        skip!("the server's Receive Maximum is {maximum}");
    }
    let count = u16::try_from(maximum).unwrap_or(u16::MAX);
    for id in 1..=count {
        client.send_publish(&Publish::new(&topic, "x").qos(2, id));
        client.acknowledgement(first::PUBREC, id)?;
    }
    client.send_publish(&Publish::new(&topic, "x").qos(2, count + 1));
    client.closed_with(
        &[0x93],
        &format!("with {} QoS 2 publishes open, above {count}", count + 1),
    )
}

fn the_server_takes_its_whole_receive_maximum(t: &Test) -> Outcome {
    let topic = t.topic("nobody");
    let mut client = t.connect("c")?;
    let maximum = client
        .connack
        .number(prop::RECEIVE_MAXIMUM)
        .unwrap_or(65_535)
        .min(RECEIVE_MAXIMUM_TRIED);
    let count = u16::try_from(maximum).unwrap_or(u16::MAX);
    for round in 0..2 {
        for id in 1..=count {
            client.send_publish(&Publish::new(&topic, "x").qos(2, id));
            client.acknowledgement(first::PUBREC, id)?;
        }
        client.silent("with the window full")?;
        for id in 1..=count {
            client.send(ack(first::PUBREL, id));
            client.acknowledgement(first::PUBCOMP, id)?;
        }
        client.silent(&format!("after round {round}"))?;
    }
    Ok(())
}

fn a_message_too_large_for_a_client_is_dropped_for_it(t: &Test) -> Outcome {
    let topic = t.topic("a");
    let props = Props::new()
        .u32(prop::MAXIMUM_PACKET_SIZE, 120)
        .u16(prop::RECEIVE_MAXIMUM, 1);
    let mut small = t.client("s").props(props).open()?;
    small.subscribe(&topic, 2)?;
    let mut large = t.connect("l")?;
    large.subscribe(&topic, 2)?;
    let mut publisher = t.connect("p")?;
    for qos in 0..3 {
        publisher.publish(Publish::new(&topic, vec![b'x'; 200]).qos(qos, 0))?;
        publisher.publish_text(&topic, "fits", qos)?;
        ensure!(
            large.take("the large message")?.payload.len() == 200,
            "another message"
        );
        ensure!(
            large.take("the small message")?.text() == "fits",
            "another message"
        );
        let message = small.take("the message that fits, in a window of 1")?;
        ensure!(message.text() == "fits", "{:?} came first", message.text());
    }
    // Exactly at the limit: 2 header bytes, 2 of topic length, the topic, 1 of property length, the rest payload.
    let payload = vec![b'y'; 120 - 5 - topic.len()];
    publisher.publish(Publish::new(&topic, &payload))?;
    ensure!(
        small
            .take("a message of exactly the Maximum Packet Size")?
            .payload
            == payload,
        "another message"
    );
    Ok(())
}

fn a_stored_message_too_large_for_a_client_is_dropped_for_it(t: &Test) -> Outcome {
    let topic = t.topic("a");
    let mut sub = t.client("s").resume().open()?;
    sub.subscribe(&topic, 2)?;
    sub.disconnect()?;
    let mut publisher = t.connect("p")?;
    for qos in 1..3 {
        publisher.publish(Publish::new(&topic, vec![b'x'; 200]).qos(qos, 0))?;
        publisher.publish_text(&topic, "fits", qos)?;
    }
    let mut sub = t
        .client("s")
        .resume()
        .props(Props::new().u32(prop::MAXIMUM_PACKET_SIZE, 120))
        .open()?;
    let mut found = Vec::new();
    for _ in 1..3 {
        let message = sub.take("the message that fits")?;
        ensure!(
            message.text() == "fits",
            "a message of {} bytes",
            message.payload.len()
        );
        found.push(message.qos);
    }
    found.sort_unstable();
    ensure!(found == [1, 2], "messages at QoS {found:?}");
    sub.silent("after the messages that fit")
}

fn a_packet_of_the_maximum_size_is_taken(t: &Test) -> Outcome {
    let topic = t.topic("a");
    let mut publisher = t.connect("p")?;
    let maximum = publisher
        .connack
        .number(prop::MAXIMUM_PACKET_SIZE)
        .unwrap_or(1 << 20);
    if maximum > TRIED_MAX {
        skip!("the server's Maximum Packet Size is above {TRIED_MAX} bytes");
    }
    let mut sub = t.connect("s")?;
    sub.subscribe(&topic, 1)?;
    // First byte, three or four bytes of length, topic, packet identifier, property length.
    let size = maximum as usize;
    let header = 1 + if size > (1 << 21) + 3 { 4 } else { 3 } + 2 + topic.len() + 2 + 1;
    if size < 20_000 {
        skip!("the server's Maximum Packet Size is only {size} bytes");
    }
    let publish = Publish::new(&topic, vec![b'x'; size - header]).qos(1, 0);
    let length = publish.encode(t.version).len();
    ensure!(
        length == size,
        "the suite made a packet of {length} bytes instead of {size}"
    );
    publisher.publish(publish)?;
    let message = sub.take("the message of the maximum size")?;
    ensure!(
        message.payload.len() == size - header,
        "{} bytes",
        message.payload.len()
    );
    Ok(())
}

/// Larger packets would mostly show how fast the machine is.
const TRIED_MAX: u32 = 8 << 20;

fn a_client_above_the_maximum_packet_size_is_closed(t: &Test) -> Outcome {
    let mut client = t.connect("c")?;
    let Some(maximum) = client
        .connack
        .number(prop::MAXIMUM_PACKET_SIZE)
        .filter(|&maximum| maximum <= TRIED_MAX)
    else {
        skip!("the server's Maximum Packet Size is absent or above {TRIED_MAX} bytes");
    };
    let packet = Publish::new(t.topic("a"), vec![b'x'; maximum as usize]).encode(t.version);
    let why = format!("after a packet of {} bytes, above {maximum}", packet.len());
    // The header alone tells the size; a server may still wait for the rest.
    client.send(&packet[..64]);
    let code = client
        .closed_within(Duration::from_secs(1), &why)
        .or_else(|_| {
            client.send(&packet[64..]);
            client.closed(&why)
        })?;
    ensure!(
        code.is_none_or(|code| code == 0x95),
        "DISCONNECT {code:02x?} instead of 0x95 {why}"
    );
    Ok(())
}
