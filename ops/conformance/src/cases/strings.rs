//! UTF-8 strings (5.0 §1.5.4, 3.1.1 §1.5.3).

use super::cases;
use crate::wire::{Bytes, Props, Publish, first, prop};
use crate::{Outcome, Test, ensure};

cases! {
    ill_formed_strings_in_connect_are_refused:
        "1.5.4-1 3.1.3-4 3.1.3-11 3.1.3-12 3.1.4-1", "1.5.3-1 3.1.3-4 3.1.3-10 3.1.3-11 3.1.4-1";
    ill_formed_topic_names_close: "1.5.4-1 3.3.2-1 4.13.1-1", "1.5.3-1 3.3.2-1";
    ill_formed_filters_close: "1.5.4-1 3.8.3-1 3.10.3-1", "1.5.3-1 3.8.3-1 3.10.3-1";
    ill_formed_string_properties_close: "1.5.4-1 1.5.7-1 3.3.2-13 3.3.2-19", "";
    null_characters_close: "1.5.4-2 4.7.3-2", "1.5.3-2 4.7.3-2";
    a_byte_order_mark_is_kept: "1.5.4-3 4.7.3-4", "1.5.3-3 4.7.3-4";
}

/// A lone byte, a surrogate, an overlong form, a code point above U+10FFFF, a cut-off character.
const ILL_FORMED: [&[u8]; 5] = [
    b"a\xFF",
    b"a\xED\xA0\x80",
    b"a\xC1\xBF",
    b"a\xF4\x90\x80\x80",
    b"a\xC3",
];

fn ill_formed_strings_in_connect_are_refused(t: &Test) -> Outcome {
    for bad in ILL_FORMED {
        let mut dial = t.client("c");
        dial.connect.client_id = bad.to_vec();
        dial.send()?
            .refused_as_malformed("with an ill-formed client identifier")?;
        let mut dial = t.client("w").will("x", "w", 0);
        dial.connect.will.get_or_insert_default().topic = bad.to_vec();
        dial.send()?
            .refused_as_malformed("with an ill-formed will topic")?;
        let mut dial = t.client("u");
        dial.connect.username = Some(bad.to_vec());
        dial.send()?
            .refused_as_malformed("with an ill-formed user name")?;
    }
    Ok(())
}

fn ill_formed_topic_names_close(t: &Test) -> Outcome {
    for bad in ILL_FORMED {
        let mut client = t.connect("c")?;
        client.send_publish(&Publish::new(bad, "x"));
        client.closed_with(&[0x81, 0x82, 0x90], "after an ill-formed topic name")?;
    }
    Ok(())
}

fn ill_formed_filters_close(t: &Test) -> Outcome {
    for bad in ILL_FORMED {
        let start = || {
            Bytes::new()
                .u16(1)
                .props(t.version, &Props::new())
                .data(bad)
        };
        let mut client = t.connect("s")?;
        client.send(start().u8(0).frame(first::SUBSCRIBE));
        client.closed_with(
            &[0x81, 0x82, 0x8F],
            "after an ill-formed filter in SUBSCRIBE",
        )?;
        let mut client = t.connect("u")?;
        client.send(start().frame(first::UNSUBSCRIBE));
        client.closed_with(
            &[0x81, 0x82, 0x8F],
            "after an ill-formed filter in UNSUBSCRIBE",
        )?;
    }
    Ok(())
}

fn ill_formed_string_properties_close(t: &Test) -> Outcome {
    for bad in ILL_FORMED {
        for (what, props) in [
            (
                "Response Topic",
                Props::new().data(prop::RESPONSE_TOPIC, bad),
            ),
            ("Content Type", Props::new().data(prop::CONTENT_TYPE, bad)),
            ("user property name", Props::new().user(bad, "v")),
            ("user property value", Props::new().user("n", bad)),
        ] {
            let mut client = t.connect("c")?;
            client.send_publish(&Publish::new(t.topic("a"), "x").props(props));
            client.closed_with(&[0x81, 0x82], &format!("after an ill-formed {what}"))?;
        }
    }
    Ok(())
}

fn null_characters_close(t: &Test) -> Outcome {
    let mut dial = t.client("c");
    dial.connect.client_id = b"a\0b".to_vec();
    dial.send()?
        .refused_as_malformed("with U+0000 in the client identifier")?;
    let mut client = t.connect("p")?;
    client.send_publish(&Publish::new("a\0b", "x"));
    client.closed_with(&[0x81, 0x82, 0x90], "after U+0000 in a topic name")?;
    let mut client = t.connect("s")?;
    client.send(
        Bytes::new()
            .u16(1)
            .props(t.version, &Props::new())
            .data("a\0b")
            .u8(0)
            .frame(first::SUBSCRIBE),
    );
    client.closed_with(&[0x81, 0x82, 0x8F], "after U+0000 in a filter")?;
    if t.v5() {
        let mut client = t.connect("u")?;
        client.send_publish(&Publish::new(t.topic("a"), "x").props(Props::new().user("n", "a\0b")));
        client.closed_with(&[0x81, 0x82], "after U+0000 in a user property")?;
    }
    Ok(())
}

fn a_byte_order_mark_is_kept(t: &Test) -> Outcome {
    let (plain, marked) = (t.topic("a"), t.topic("\u{FEFF}a"));
    let mut sub = t.connect("s")?;
    sub.subscribe(&plain, 0)?;
    sub.subscribe(&marked, 0)?;
    sub.unsubscribe(&plain)?;
    let mut publisher = t.connect("p")?;
    publisher.publish_text(&plain, "without", 0)?;
    publisher.publish_text(&marked, "with", 0)?;
    let message = sub.take("the message on the topic with U+FEFF")?;
    ensure!(
        message.topic == marked && message.text() == "with",
        "got {:?} on {:?}",
        message.text(),
        message.topic
    );
    Ok(())
}
