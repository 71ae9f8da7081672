//! DISCONNECT (§3.14) and PINGREQ (§3.12).

use std::time::Duration;

use super::cases;
use crate::wire::{Bytes, Props, Publish, first, frame, prop};
use crate::{Outcome, Test, ensure, fail};

cases! {
    a_ping_is_answered: "3.12.4-1", "3.12.4-1";
    reserved_bits_of_disconnect_are_checked: "3.14.1-1 2.1.3-1 3.1.2-8", "3.14.1-1 2.2.2-2";
    disconnect_closes_and_nothing_after_it_is_processed: "3.14.4-1 3.14.4-2", "";
    a_disconnect_of_the_server_is_its_last_packet: "3.14.4-1 3.14.4-2 3.14.2-1 3.14.2-2 4.13.2-1", "";
    disconnect_cannot_extend_an_expiry_of_0: "4.13.1-1", "";
}

fn a_ping_is_answered(t: &Test) -> Outcome {
    let mut client = t.connect("c")?;
    for _ in 0..3 {
        client.silent("before PINGRESP")?;
    }
    Ok(())
}

fn reserved_bits_of_disconnect_are_checked(t: &Test) -> Outcome {
    let topic = t.topic("will");
    let mut sub = t.connect("s")?;
    sub.subscribe(&topic, 0)?;
    let mut client = t.client("c").will(&topic, "will", 0).open()?;
    client.send(frame(first::DISCONNECT | 2, &[]));
    client.closed_with(&[0x81], "after DISCONNECT with reserved flags")?;
    // A malformed DISCONNECT is none: the will stands.
    sub.take("the will, since a malformed DISCONNECT does not discard it")
        .map(drop)
}

fn disconnect_closes_and_nothing_after_it_is_processed(t: &Test) -> Outcome {
    let topic = t.topic("a");
    let mut sub = t.connect("s")?;
    sub.subscribe(&topic, 0)?;
    let mut client = t.connect("c")?;
    let mut bytes = frame(first::DISCONNECT, &[]);
    bytes.extend(Publish::new(&topic, "after").encode(t.version));
    client.send(bytes);
    client.closed("after DISCONNECT")?;
    t.connect("p")?.publish_text(&topic, "later", 0)?;
    let message = sub.take("the later message")?;
    ensure!(
        message.text() == "later",
        "a PUBLISH after DISCONNECT was delivered"
    );
    sub.silent("after the later message")
}

fn a_disconnect_of_the_server_is_its_last_packet(t: &Test) -> Outcome {
    let mut older = t.client("c").resume().open()?;
    older.subscribe(&t.topic("a"), 0)?;
    let mut newer = t.client("c").resume().open()?;
    t.connect("p")?.publish_text(&t.topic("a"), "x", 0)?;
    newer.take("the message for the session")?;
    // Anything but one DISCONNECT and the end fails; so does a Session Expiry Interval in it.
    let code = older.closed("that was taken over")?;
    ensure!(
        code.is_none_or(|code| code >= 0x80),
        "DISCONNECT {code:02x?} for a take-over"
    );
    newer.disconnect()
}

fn disconnect_cannot_extend_an_expiry_of_0(t: &Test) -> Outcome {
    let topic = t.topic("will");
    let mut sub = t.connect("s")?;
    sub.subscribe(&topic, 0)?;
    let mut client = t.client("c").will(&topic, "will", 0).open()?;
    let props = Props::new().u32(prop::SESSION_EXPIRY, 100);
    client.send(
        Bytes::new()
            .u8(0)
            .props(t.version, &props)
            .frame(first::DISCONNECT),
    );
    if let Some(code) = client.closed_within(
        Duration::from_secs(5),
        "after a DISCONNECT that extends expiry 0",
    )? {
        ensure!(code == 0x82, "DISCONNECT {code:#04x} instead of 0x82");
    }
    let again = t.client("c").resume().open()?;
    if again.session_present {
        fail!("DISCONNECT made a session with expiry 0 outlive its connection");
    }
    Ok(())
}
