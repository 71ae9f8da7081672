//! Packets that break the protocol and have no better place: each closes the connection (5.0 §4.13, 3.1.1 §4.8).

use super::cases;
use crate::wire::{Bytes, Props, Publish, ack, ack_with, first, frame, prop, subscribe};
use crate::{Outcome, Test};

cases! {
    packets_that_only_a_server_sends_close: "4.13.1-1", "4.8.0-1";
    reserved_packet_types_close: "4.13.1-1", "4.8.0-1 2.2.2-2";
    truncated_packets_close: "4.13.1-1", "4.8.0-1";
    bytes_after_the_last_field_close: "4.13.1-1", "4.8.0-1";
    properties_of_other_packets_close: "4.13.1-1", "";
    repeated_properties_of_publish_close: "4.13.1-1", "";
    repeated_properties_of_connect_are_refused: "4.13.1-1 3.1.4-1", "";
    forbidden_property_values_close: "4.13.1-1 3.1.4-1", "";
    unlisted_reason_codes_close: "3.4.2-1 3.5.2-1 3.6.2-1 3.7.2-1 3.14.2-1 4.13.1-1", "";
}

fn packets_that_only_a_server_sends_close(t: &Test) -> Outcome {
    let v5 = t.v5();
    for (what, packet) in [
        (
            "CONNACK",
            frame(first::CONNACK, if v5 { &[0, 0, 0] } else { &[0, 0] }),
        ),
        (
            "SUBACK",
            frame(first::SUBACK, if v5 { &[0, 1, 0, 0] } else { &[0, 1, 0] }),
        ),
        (
            "UNSUBACK",
            frame(first::UNSUBACK, if v5 { &[0, 1, 0, 0] } else { &[0, 1] }),
        ),
        ("PINGRESP", frame(first::PINGRESP, &[])),
    ] {
        let mut client = t.connect("c")?;
        client.send(packet);
        client.closed_with(&[0x81, 0x82], &format!("after {what} from a client"))?;
    }
    Ok(())
}

fn reserved_packet_types_close(t: &Test) -> Outcome {
    let heads: &[u8] = if t.v5() { &[0x00] } else { &[0x00, 0xF0] };
    for &head in heads {
        let mut client = t.connect("c")?;
        client.send(frame(head, &[]));
        client.closed_with(&[0x81, 0x82], &format!("after first byte {head:#04x}"))?;
    }
    Ok(())
}

fn truncated_packets_close(t: &Test) -> Outcome {
    for (what, packet) in [
        ("PUBLISH without topic", frame(first::PUBLISH, &[])),
        ("PUBLISH with half a length", frame(first::PUBLISH, &[0])),
        (
            "PUBLISH with half a topic",
            frame(first::PUBLISH, &[0, 5, b'a']),
        ),
        (
            "PUBLISH without packet identifier",
            frame(0x32, &[0, 1, b'a']),
        ),
        (
            "PUBACK without packet identifier",
            frame(first::PUBACK, &[]),
        ),
        (
            "PUBREL with half a packet identifier",
            frame(first::PUBREL, &[1]),
        ),
        (
            "SUBSCRIBE without packet identifier",
            frame(first::SUBSCRIBE, &[]),
        ),
        (
            "SUBSCRIBE without options",
            Bytes::new()
                .u16(1)
                .props(t.version, &Props::new())
                .data("a")
                .frame(first::SUBSCRIBE),
        ),
        (
            "SUBSCRIBE with half a filter",
            Bytes::new()
                .u16(1)
                .props(t.version, &Props::new())
                .u16(9)
                .raw("a")
                .frame(first::SUBSCRIBE),
        ),
        (
            "UNSUBSCRIBE with half a filter",
            Bytes::new()
                .u16(1)
                .props(t.version, &Props::new())
                .u16(9)
                .raw("a")
                .frame(first::UNSUBSCRIBE),
        ),
    ] {
        let mut client = t.connect("c")?;
        client.send(packet);
        client.closed_with(&[0x81, 0x82], &format!("after {what}"))?;
    }
    Ok(())
}

fn bytes_after_the_last_field_close(t: &Test) -> Outcome {
    for (what, packet) in [
        ("PINGREQ", frame(first::PINGREQ, &[0])),
        (
            "PUBACK",
            frame(
                first::PUBACK,
                if t.v5() { &[0, 1, 0, 0, 0] } else { &[0, 1, 0] },
            ),
        ),
    ] {
        let mut client = t.connect("c")?;
        client.send(packet);
        client.closed_with(&[0x81, 0x82], &format!("after {what} with a byte too many"))?;
    }
    Ok(())
}

fn properties_of_other_packets_close(t: &Test) -> Outcome {
    let topic = t.topic("a");
    let reason = Props::new().data(prop::REASON_STRING, "x");
    for (what, packet) in [
        (
            "Reason String",
            Publish::new(&topic, "x")
                .props(reason.clone())
                .encode(t.version),
        ),
        (
            "Session Expiry Interval",
            Publish::new(&topic, "x")
                .props(Props::new().u32(prop::SESSION_EXPIRY, 1))
                .encode(t.version),
        ),
        (
            "unknown property",
            Publish::new(&topic, "x")
                .props(Props::new().u8(0x7F, 0))
                .encode(t.version),
        ),
        (
            "Topic Alias",
            subscribe(
                t.version,
                1,
                &[(&topic, 0)],
                &Props::new().u16(prop::TOPIC_ALIAS, 1),
            ),
        ),
        (
            "Receive Maximum",
            Bytes::new()
                .u8(0)
                .props(t.version, &Props::new().u16(prop::RECEIVE_MAXIMUM, 1))
                .frame(first::DISCONNECT),
        ),
    ] {
        let mut client = t.connect("c")?;
        client.send(packet);
        client.closed_with(
            &[0x81, 0x82],
            &format!("after a {what} where it does not belong"),
        )?;
    }
    for (what, dial) in [
        ("a Reason String", t.client("c").props(reason)),
        (
            "a Topic Alias",
            t.client("c").props(Props::new().u16(prop::TOPIC_ALIAS, 1)),
        ),
        (
            "a Will Delay Interval outside the will",
            t.client("c").props(Props::new().u32(prop::WILL_DELAY, 1)),
        ),
        (
            "a Topic Alias in the will",
            t.client("c")
                .will(&topic, "x", 0)
                .will_props(Props::new().u16(prop::TOPIC_ALIAS, 1)),
        ),
    ] {
        dial.send()?.refused_as_malformed(&format!("with {what}"))?;
    }
    Ok(())
}

fn repeated_properties_of_publish_close(t: &Test) -> Outcome {
    let topic = t.topic("a");
    for (what, props) in [
        (
            "Payload Format Indicator",
            Props::new()
                .u8(prop::PAYLOAD_FORMAT, 1)
                .u8(prop::PAYLOAD_FORMAT, 1),
        ),
        (
            "Message Expiry Interval",
            Props::new()
                .u32(prop::MESSAGE_EXPIRY, 9)
                .u32(prop::MESSAGE_EXPIRY, 9),
        ),
        (
            "Content Type",
            Props::new()
                .data(prop::CONTENT_TYPE, "a")
                .data(prop::CONTENT_TYPE, "a"),
        ),
        (
            "Response Topic",
            Props::new()
                .data(prop::RESPONSE_TOPIC, "a")
                .data(prop::RESPONSE_TOPIC, "a"),
        ),
        (
            "Correlation Data",
            Props::new()
                .data(prop::CORRELATION_DATA, "a")
                .data(prop::CORRELATION_DATA, "a"),
        ),
    ] {
        let mut client = t.connect("c")?;
        client.send_publish(&Publish::new(&topic, "x").props(props));
        client.closed_with(&[0x81, 0x82], &format!("after two {what} in PUBLISH"))?;
    }
    Ok(())
}

fn repeated_properties_of_connect_are_refused(t: &Test) -> Outcome {
    for (what, props) in [
        (
            "Session Expiry Interval",
            Props::new()
                .u32(prop::SESSION_EXPIRY, 1)
                .u32(prop::SESSION_EXPIRY, 1),
        ),
        (
            "Receive Maximum",
            Props::new()
                .u16(prop::RECEIVE_MAXIMUM, 9)
                .u16(prop::RECEIVE_MAXIMUM, 9),
        ),
        (
            "Maximum Packet Size",
            Props::new()
                .u32(prop::MAXIMUM_PACKET_SIZE, 999)
                .u32(prop::MAXIMUM_PACKET_SIZE, 999),
        ),
        (
            "Topic Alias Maximum",
            Props::new()
                .u16(prop::TOPIC_ALIAS_MAXIMUM, 1)
                .u16(prop::TOPIC_ALIAS_MAXIMUM, 1),
        ),
        (
            "Request Problem Information",
            Props::new()
                .u8(prop::REQUEST_PROBLEM, 1)
                .u8(prop::REQUEST_PROBLEM, 1),
        ),
        (
            "Request Response Information",
            Props::new()
                .u8(prop::REQUEST_RESPONSE, 1)
                .u8(prop::REQUEST_RESPONSE, 1),
        ),
    ] {
        t.client("c")
            .props(props)
            .send()?
            .refused_as_malformed(&format!("with two {what}"))?;
    }
    Ok(())
}

fn forbidden_property_values_close(t: &Test) -> Outcome {
    for (what, props) in [
        (
            "Receive Maximum 0",
            Props::new().u16(prop::RECEIVE_MAXIMUM, 0),
        ),
        (
            "Maximum Packet Size 0",
            Props::new().u32(prop::MAXIMUM_PACKET_SIZE, 0),
        ),
        (
            "Request Problem Information 2",
            Props::new().u8(prop::REQUEST_PROBLEM, 2),
        ),
        (
            "Request Response Information 2",
            Props::new().u8(prop::REQUEST_RESPONSE, 2),
        ),
        (
            "Authentication Data without method",
            Props::new().data(prop::AUTH_DATA, "x"),
        ),
    ] {
        t.client("c")
            .props(props)
            .send()?
            .refused_as_malformed(&format!("with {what}"))?;
    }
    let id = prop::SUBSCRIPTION_ID;
    for (what, props) in [
        ("Subscription Identifier 0", Props::new().var(id, 0)),
        (
            "two Subscription Identifiers",
            Props::new().var(id, 1).var(id, 2),
        ),
    ] {
        let mut client = t.connect("s")?;
        client.send(subscribe(t.version, 1, &[(&t.topic("a"), 0)], &props));
        client.closed_with(&[0x81, 0x82], &format!("after {what} in SUBSCRIBE"))?;
    }
    Ok(())
}

fn unlisted_reason_codes_close(t: &Test) -> Outcome {
    let topic = t.topic("a");
    for (kind, code) in [
        (first::PUBACK, 0x01),
        (first::PUBREC, 0x92),
        (first::PUBREL, 0x80),
        (first::PUBCOMP, 0x10),
    ] {
        let mut client = t.connect("c")?;
        client.subscribe(&topic, 2)?;
        client.publish_text(&t.topic("b"), "x", 1)?;
        client.send(ack_with(kind, 1, code));
        client.closed_with(
            &[0x81, 0x82],
            &format!(
                "after {} with reason code {code:#04x}",
                crate::client::name(kind)
            ),
        )?;
    }
    let mut client = t.connect("d")?;
    client.send(ack(first::PUBREL, 9));
    client.acknowledgement(first::PUBCOMP, 9)?;
    // 0x8E is for servers only; a client that sends it breaks Table 3-10 and is closed in any case.
    client.send(frame(first::DISCONNECT, &[0x01]));
    client.closed_with(&[0x81, 0x82], "after DISCONNECT with reason code 0x01")
}
