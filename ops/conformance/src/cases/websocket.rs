//! MQTT over WebSocket (§6).

use super::cases;
use crate::dial::accepted;
use crate::websocket::{BINARY, TEXT};
use crate::wire::{Props, Publish, first, frame, subscribe};
use crate::{Outcome, Test, ensure};

cases! {
    the_server_selects_mqtt: "6.0.0-4 6.0.0-3", "6.0.0-4 6.0.0-3";
    a_text_frame_closes: "6.0.0-1", "6.0.0-1";
    the_server_sends_binary_frames: "6.0.0-1", "6.0.0-1";
    packets_need_not_match_frames: "6.0.0-2", "6.0.0-2";
    a_fragmented_message_is_put_together: "6.0.0-2", "6.0.0-2";
}

fn the_server_selects_mqtt(t: &Test) -> Outcome {
    for offer in ["mqtt", "chat, mqtt", "mqtt, mqttv3.1"] {
        let mut client = t.websocket(offer)?;
        let selected = client.websocket()?.subprotocol.clone();
        ensure!(
            selected.as_deref() == Some("mqtt"),
            "{selected:?} selected from {offer:?}"
        );
        client.send(t.client("c").connect.encode());
        accepted(client)?.silent("after CONNACK")?;
    }
    Ok(())
}

fn a_text_frame_closes(t: &Test) -> Outcome {
    let mut client = t.websocket("mqtt")?;
    client.send(t.client("c").connect.encode());
    let mut client = accepted(client)?;
    let _ = client
        .websocket()?
        .send_frame(TEXT, &frame(first::PINGREQ, &[])[..1]);
    client.closed("after a text frame").map(drop)
}

fn the_server_sends_binary_frames(t: &Test) -> Outcome {
    let topic = t.topic("a");
    let mut client = t.websocket("mqtt")?;
    client.send(t.client("c").connect.encode());
    let mut client = accepted(client)?;
    client.subscribe(&topic, 1)?;
    t.connect("p")?
        .publish_text(&topic, &"x".repeat(1_000), 1)?;
    let message = client.take("the message")?;
    ensure!(
        message.payload.len() == 1_000,
        "{} bytes",
        message.payload.len()
    );
    client.silent("after the message")?;
    let wrong = client.websocket()?.wrong_frames;
    ensure!(wrong == 0, "{wrong} data frames that are not binary");
    Ok(())
}

fn packets_need_not_match_frames(t: &Test) -> Outcome {
    let topic = t.topic("a");
    let mut client = t.websocket("mqtt")?;
    for byte in t.client("c").connect.encode() {
        client.send([byte]);
    }
    let mut client = accepted(client)?;
    let mut bytes = subscribe(t.version, 1, &[(&topic, 0)], &Props::new());
    bytes.extend(Publish::new(&topic, "one").encode(t.version));
    bytes.extend(Publish::new(&topic, "two").encode(t.version));
    let last = bytes.split_off(bytes.len() - 3);
    client.send(bytes);
    client.suback(first::SUBACK, 1)?;
    ensure!(
        client.take("the first message")?.text() == "one",
        "another message"
    );
    client.send(last);
    ensure!(
        client.take("the second message")?.text() == "two",
        "another message"
    );
    client.silent("after both messages")
}

/// A WebSocket message in several frames (RFC 6455 §5.4): one with opcode binary, then continuations.
fn a_fragmented_message_is_put_together(t: &Test) -> Outcome {
    let mut client = t.websocket("mqtt")?;
    let connect = t.client("c").connect.encode();
    let (start, rest) = connect.split_at(3);
    let (middle, end) = rest.split_at(rest.len() / 2);
    for (first, part) in [(BINARY, start), (0, middle), (0x80, end)] {
        // What could not be sent shows as a missing CONNACK.
        let _ = client.websocket()?.send_part(first, part);
    }
    accepted(client)?.silent("after CONNACK")
}
