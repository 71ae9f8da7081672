//! Fixed header, packet identifiers and property blocks (§2).

use super::cases;
use crate::parse::Body;
use crate::wire::{Bytes, Props, Publish, ack, first, frame, subscribe, unsubscribe};
use crate::{Outcome, Test, ensure};

cases! {
    reserved_flags_of_connect_are_refused: "2.1.3-1 3.1.4-1", "2.2.2-1 2.2.2-2 3.1.4-1";
    reserved_flags_of_pubrel_close: "2.1.3-1 3.6.1-1 4.13.1-1", "2.2.2-1 2.2.2-2 3.6.1-1";
    reserved_flags_of_subscribe_close: "2.1.3-1 3.8.1-1 4.13.1-1", "2.2.2-1 2.2.2-2 3.8.1-1";
    reserved_flags_of_unsubscribe_close: "2.1.3-1 3.10.1-1 4.13.1-1", "2.2.2-1 2.2.2-2 3.10.1-1";
    reserved_flags_of_other_packets_close: "2.1.3-1 4.13.1-1", "2.2.2-1 2.2.2-2";
    packet_identifier_0_closes: "2.2.1-3 4.13.1-1", "2.3.1-1 4.8.0-1";
    server_packet_identifiers_are_unused_and_not_0:
        "2.2.1-4 4.3.2-1 4.3.2-2 4.3.3-1 4.3.3-2", "2.3.1-1 2.3.1-4 4.3.2-1 4.3.3-1";
    a_qos_0_publish_has_no_packet_identifier: "2.2.1-2 4.3.1-1 3.3.1-2", "2.3.1-5 4.3.1-1 3.3.1-2";
    acknowledgements_repeat_the_packet_identifier:
        "2.2.1-5 2.2.1-6 3.3.4-1 3.8.4-2 3.10.4-5 4.3.2-4 4.3.3-8 4.3.3-11",
        "2.3.1-6 2.3.1-7 3.3.4-1 3.8.4-2 3.10.4-4 4.3.2-2 4.3.3-2";
    lengths_take_the_fewest_bytes: "1.5.5-1", "";
    a_length_of_five_bytes_closes: "4.13.1-1", "4.8.0-1";
    an_absent_property_length_closes: "2.2.2-1 4.13.1-1", "";
    packets_without_properties_have_property_length_0: "2.2.2-1", "";
}

fn reserved_flags_of_connect_are_refused(t: &Test) -> Outcome {
    for flags in [1, 2, 8] {
        let mut connect = t.client("c").connect.encode();
        connect[0] |= flags;
        let mut client = t.raw()?;
        client.send(connect);
        client.refused_as_malformed("with reserved flags in the header of CONNECT")?;
    }
    Ok(())
}

/// Sends the packet with each of these first bytes instead of its own; each closes.
fn each_closes(t: &Test, heads: &[u8], packet: &[u8]) -> Outcome {
    for &head in heads {
        let mut client = t.connect("r")?;
        client.send([&[head], &packet[1..]].concat());
        client.closed_with(
            &[0x81, 0x82],
            &format!("after a packet with first byte {head:#04x}"),
        )?;
    }
    Ok(())
}

fn reserved_flags_of_pubrel_close(t: &Test) -> Outcome {
    each_closes(
        t,
        &[0x60, 0x61, 0x63, 0x66, 0x6A, 0x6F],
        &ack(first::PUBREL, 1),
    )
}

fn reserved_flags_of_subscribe_close(t: &Test) -> Outcome {
    let packet = subscribe(t.version, 1, &[(&t.topic("a"), 0)], &Props::new());
    each_closes(t, &[0x80, 0x81, 0x83, 0x86, 0x8A, 0x8F], &packet)
}

fn reserved_flags_of_unsubscribe_close(t: &Test) -> Outcome {
    let packet = unsubscribe(t.version, 1, &[&t.topic("a")]);
    each_closes(t, &[0xA0, 0xA1, 0xA3, 0xA6, 0xAA, 0xAF], &packet)
}

fn reserved_flags_of_other_packets_close(t: &Test) -> Outcome {
    each_closes(t, &[0x41, 0x48], &ack(first::PUBACK, 1))?;
    each_closes(t, &[0x51, 0x52], &ack(first::PUBREC, 1))?;
    each_closes(t, &[0x71, 0x78], &ack(first::PUBCOMP, 1))?;
    each_closes(t, &[0xC1, 0xC2], &frame(first::PINGREQ, &[]))
}

fn packet_identifier_0_closes(t: &Test) -> Outcome {
    let topic = t.topic("a");
    for (what, packet) in [
        (
            "PUBLISH",
            Publish::new(&topic, "x").qos(1, 0).encode(t.version),
        ),
        (
            "PUBLISH at QoS 2",
            Publish::new(&topic, "x").qos(2, 0).encode(t.version),
        ),
        (
            "SUBSCRIBE",
            subscribe(t.version, 0, &[(&topic, 0)], &Props::new()),
        ),
        ("UNSUBSCRIBE", unsubscribe(t.version, 0, &[&topic])),
    ] {
        let mut client = t.connect("c")?;
        client.send(packet);
        client.closed_with(
            &[0x81, 0x82],
            &format!("after {what} with packet identifier 0"),
        )?;
    }
    Ok(())
}

fn server_packet_identifiers_are_unused_and_not_0(t: &Test) -> Outcome {
    let topic = t.topic("a");
    let mut sub = t.connect("s")?;
    sub.subscribe(&topic, 2)?;
    let mut publisher = t.connect("p")?;
    let mut ids = Vec::new();
    for round in 0..4 {
        let qos = 1 + round % 2;
        publisher.publish_text(&topic, "x", qos)?;
        let message = sub.message("a message that is never acknowledged")?;
        ensure!(
            message.qos == qos && !message.dup,
            "QoS {} and DUP {}",
            message.qos,
            message.dup
        );
        ensure!(
            message.id != 0 && !ids.contains(&message.id),
            "identifier {} is 0 or in use {ids:?}",
            message.id
        );
        ids.push(message.id);
    }
    Ok(())
}

fn a_qos_0_publish_has_no_packet_identifier(t: &Test) -> Outcome {
    let topic = t.topic("a");
    let mut sub = t.connect("s")?;
    sub.subscribe(&topic, 2)?;
    t.connect("p")?.publish_text(&topic, "payload", 0)?;
    let message = sub.message("the QoS 0 message")?;
    ensure!(
        message.qos == 0 && !message.dup,
        "QoS {} and DUP {}",
        message.qos,
        message.dup
    );
    ensure!(
        message.text() == "payload",
        "payload {:?}: a packet identifier got into it",
        message.payload
    );
    Ok(())
}

fn acknowledgements_repeat_the_packet_identifier(t: &Test) -> Outcome {
    let topic = t.topic("a");
    let mut client = t.connect("c")?;
    client.send_publish(&Publish::new(&topic, "0"));
    client.silent("in answer to QoS 0")?;
    for id in [1, 0x1234, 0xFFFF] {
        client.send_publish(&Publish::new(&topic, "1").qos(1, id));
        client.acknowledgement(first::PUBACK, id)?;
        client.send_publish(&Publish::new(&topic, "2").qos(2, id));
        client.acknowledgement(first::PUBREC, id)?;
        client.send(ack(first::PUBREL, id));
        client.acknowledgement(first::PUBCOMP, id)?;
        client.send(subscribe(
            t.version,
            id,
            &[(&t.topic("b"), 0)],
            &Props::new(),
        ));
        client.suback(first::SUBACK, id)?;
        client.send(unsubscribe(t.version, id, &[&t.topic("b")]));
        client.suback(first::UNSUBACK, id)?;
    }
    Ok(())
}

/// The parser refuses an overlong length; here every boundary of Table 1-1 is crossed.
fn lengths_take_the_fewest_bytes(t: &Test) -> Outcome {
    let topic = t.topic("a");
    let mut sub = t.connect("s")?;
    sub.subscribe(&topic, 0)?;
    let mut publisher = t.connect("p")?;
    for size in [
        0, 90, 100, 110, 120, 127, 128, 129, 16_300, 16_383, 16_384, 16_385,
    ] {
        publisher.publish(Publish::new(&topic, vec![b'x'; size]))?;
        let message = sub.message("the message")?;
        ensure!(
            message.payload.len() == size,
            "{} bytes instead of {size}",
            message.payload.len()
        );
    }
    Ok(())
}

fn a_length_of_five_bytes_closes(t: &Test) -> Outcome {
    let mut client = t.connect("c")?;
    client.send([first::PUBLISH, 0x80, 0x80, 0x80, 0x80, 0x01]);
    client.closed_with(
        &[0x81, 0x82, 0x95],
        "after a remaining length of five bytes",
    )
}

fn an_absent_property_length_closes(t: &Test) -> Outcome {
    for (what, packet) in [
        (
            "PUBLISH",
            Bytes::new().data(t.topic("a")).frame(first::PUBLISH),
        ),
        ("SUBSCRIBE", Bytes::new().u16(1).frame(first::SUBSCRIBE)),
        ("UNSUBSCRIBE", Bytes::new().u16(1).frame(first::UNSUBSCRIBE)),
    ] {
        let mut client = t.connect("c")?;
        client.send(packet);
        client.closed_with(
            &[0x81, 0x82],
            &format!("after {what} without property length"),
        )?;
    }
    Ok(())
}

fn packets_without_properties_have_property_length_0(t: &Test) -> Outcome {
    let topic = t.topic("a");
    let mut client = t.connect("c")?;
    client.send(subscribe(t.version, 1, &[(&topic, 0)], &Props::new()));
    let packet = client.receive("SUBACK")?;
    let Body::SubAck { codes, .. } = packet.body else {
        crate::fail!("expected SUBACK")
    };
    ensure!(
        codes == [0],
        "codes {codes:02x?}: the property length is missing"
    );
    client.send(unsubscribe(t.version, 2, &[&topic]));
    let codes = client.suback(first::UNSUBACK, 2)?;
    ensure!(
        codes == [0],
        "codes {codes:02x?}: the property length is missing"
    );
    client.subscribe(&topic, 0)?;
    client.send_publish(&Publish::new(&topic, "payload"));
    let message = client.message("its own message")?;
    ensure!(
        message.text() == "payload",
        "payload {:?}: the property length is missing",
        message.payload
    );
    Ok(())
}
