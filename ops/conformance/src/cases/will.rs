//! Will messages (§3.1.2.5).

use std::time::{Duration, Instant};

use super::cases;
use crate::client::Client;
use crate::wire::{Props, first, frame, prop};
use crate::{Outcome, Test, ensure};

cases! {
    a_cut_connection_publishes_the_will: "3.1.2-7 3.1.2-8 3.1.2-14", "3.1.2-8 3.1.2-16";
    a_malformed_packet_publishes_the_will: "3.1.2-8", "3.1.2-8";
    a_second_connect_publishes_the_will: "3.1.2-8 3.1.0-2", "3.1.2-8 3.1.0-2";
    a_take_over_publishes_the_will: "3.1.2-8", "3.1.2-8";
    disconnect_discards_the_will: "3.1.2-8 3.1.2-10 3.14.4-3", "3.1.2-8 3.1.2-10 3.14.4-3";
    disconnect_0x04_publishes_the_will: "3.1.2-8", "";
    the_will_is_published_once: "3.1.2-10", "3.1.2-10 3.1.2-12";
    the_will_has_its_qos: "3.1.2-12 3.1.2-8", "3.1.2-8 3.1.2-14";
    a_will_is_retained_only_if_asked: "3.1.2-14 3.1.2-15", "3.1.2-16 3.1.2-17";
    the_will_keeps_its_properties: "3.1.3-10 3.1.2-9", "";
    the_will_waits_for_its_delay: "3.1.2-8", "";
    a_new_connection_within_the_delay_cancels_the_will: "3.1.3-9 3.1.2-8", "";
    the_end_of_the_session_ends_the_delay: "3.1.2-8", "";
    an_empty_will_is_published: "3.1.2-9", "3.1.2-9";
}

fn watcher(t: &Test) -> Outcome<Client> {
    let mut sub = t.connect("s")?;
    sub.subscribe(&t.topic("will"), 2)?;
    Ok(sub)
}

fn expect_will(sub: &mut Client, text: &str) -> Outcome {
    let will = sub.take(&format!("the will {text:?}"))?;
    ensure!(
        will.text() == text,
        "got {:?} instead of the will",
        will.text()
    );
    ensure!(!will.retain, "RETAIN is 1 on an established subscription");
    Ok(())
}

/// No will: the next message on its topic is one that came later.
fn expect_no_will(t: &Test, sub: &mut Client, why: &str) -> Outcome {
    sub.quiet(Duration::from_millis(300), why)?;
    t.connect("p")?.publish_text(&t.topic("will"), "later", 1)?;
    let message = sub.take("the later message")?;
    ensure!(message.text() == "later", "a will was published {why}");
    Ok(())
}

fn a_cut_connection_publishes_the_will(t: &Test) -> Outcome {
    let mut sub = watcher(t)?;
    let client = t.client("c").will(&t.topic("will"), "will", 0).open()?;
    sub.silent("while the connection is open")?;
    client.cut()?;
    expect_will(&mut sub, "will")?;
    let mut late = t.connect("l")?;
    late.subscribe(&t.topic("will"), 0)?;
    late.silent("since the will was not retained")
}

fn a_malformed_packet_publishes_the_will(t: &Test) -> Outcome {
    let mut sub = watcher(t)?;
    let mut client = t.client("c").will(&t.topic("will"), "will", 1).open()?;
    client.send(frame(first::SUBSCRIBE & 0xF0, &[0, 1]));
    client.closed("after a malformed SUBSCRIBE")?;
    expect_will(&mut sub, "will")
}

fn a_second_connect_publishes_the_will(t: &Test) -> Outcome {
    let mut sub = watcher(t)?;
    let dial = t.client("c").will(&t.topic("will"), "will", 1);
    let mut client = dial.open()?;
    client.send(dial.connect.encode());
    client.closed("after a second CONNECT")?;
    expect_will(&mut sub, "will")
}

fn a_take_over_publishes_the_will(t: &Test) -> Outcome {
    let mut sub = watcher(t)?;
    let mut older = t.client("c").will(&t.topic("will"), "older", 1).open()?;
    let newer = t.connect("c")?;
    older.closed("that was taken over")?;
    expect_will(&mut sub, "older")?;
    newer.disconnect()
}

fn disconnect_discards_the_will(t: &Test) -> Outcome {
    let mut sub = watcher(t)?;
    t.client("c")
        .will(&t.topic("will"), "will", 1)
        .open()?
        .disconnect()?;
    if t.v5() {
        t.client("d")
            .will(&t.topic("will"), "will", 1)
            .open()?
            .disconnect_with(0, &Props::new())?;
    }
    expect_no_will(t, &mut sub, "after DISCONNECT")
}

fn disconnect_0x04_publishes_the_will(t: &Test) -> Outcome {
    let mut sub = watcher(t)?;
    t.client("c")
        .will(&t.topic("will"), "will", 1)
        .open()?
        .disconnect_with(0x04, &Props::new())?;
    expect_will(&mut sub, "will")
}

fn the_will_is_published_once(t: &Test) -> Outcome {
    let mut sub = watcher(t)?;
    t.client("c")
        .resume()
        .will(&t.topic("will"), "will", 1)
        .open()?
        .cut()?;
    expect_will(&mut sub, "will")?;
    let again = t.client("c").resume().open()?;
    ensure!(again.session_present, "the session is gone");
    again.cut()?;
    expect_no_will(t, &mut sub, "for a connection without Will Flag")
}

fn the_will_has_its_qos(t: &Test) -> Outcome {
    let mut sub = watcher(t)?;
    for qos in 0..3 {
        t.client("c")
            .will(&t.topic("will"), "will", qos)
            .open()?
            .cut()?;
        let will = sub.take("the will")?;
        ensure!(
            will.qos == qos,
            "a will of QoS {qos} came at QoS {}",
            will.qos
        );
    }
    Ok(())
}

fn a_will_is_retained_only_if_asked(t: &Test) -> Outcome {
    for retain in [false, true] {
        let mut sub = watcher(t)?;
        let mut dial = t.client("c").will(&t.topic("will"), "will", 1);
        dial.connect.will.get_or_insert_default().retain = retain;
        dial.open()?.cut()?;
        expect_will(&mut sub, "will")?;
        let mut late = t.connect("l")?;
        late.subscribe(&t.topic("will"), 1)?;
        if retain {
            let will = late.take("the retained will")?;
            ensure!(
                will.retain && will.text() == "will",
                "RETAIN {} with {:?}",
                will.retain,
                will.text()
            );
        } else {
            late.silent("since Will Retain was 0")?;
        }
    }
    Ok(())
}

fn the_will_keeps_its_properties(t: &Test) -> Outcome {
    let mut sub = watcher(t)?;
    let props = Props::new()
        .user("b", "1")
        .data(prop::CONTENT_TYPE, "text/plain")
        .user("a", "2")
        .u8(prop::PAYLOAD_FORMAT, 1)
        .data(prop::RESPONSE_TOPIC, "answer/here")
        .user("b", "3")
        .data(prop::CORRELATION_DATA, [0, 255]);
    t.client("c")
        .will(&t.topic("will"), "will", 1)
        .will_props(props)
        .open()?
        .cut()?;
    let will = sub.take("the will")?;
    ensure!(
        will.props.pairs() == [("b", "1"), ("a", "2"), ("b", "3")],
        "user properties {:?}",
        will.props.pairs()
    );
    ensure!(
        will.props.text(prop::CONTENT_TYPE) == Some("text/plain"),
        "Content Type {:?}",
        will.props
    );
    ensure!(
        will.props.text(prop::RESPONSE_TOPIC) == Some("answer/here"),
        "Response Topic {:?}",
        will.props
    );
    ensure!(
        will.props.data(prop::CORRELATION_DATA) == Some(&[0, 255]),
        "Correlation Data {:?}",
        will.props
    );
    ensure!(
        will.props.number(prop::PAYLOAD_FORMAT) == Some(1),
        "Payload Format Indicator {:?}",
        will.props
    );
    ensure!(
        will.props.find(prop::WILL_DELAY).is_none(),
        "a Will Delay Interval in PUBLISH"
    );
    Ok(())
}

fn the_will_waits_for_its_delay(t: &Test) -> Outcome {
    let mut sub = watcher(t)?;
    let delay = Props::new().u32(prop::WILL_DELAY, 2);
    let dial = t
        .client("c")
        .resume()
        .will(&t.topic("will"), "will", 1)
        .will_props(delay);
    dial.open()?.cut()?;
    let started = Instant::now();
    sub.quiet(
        Duration::from_millis(1_000),
        "before the Will Delay Interval is over",
    )?;
    expect_will(&mut sub, "will")?;
    ensure!(
        started.elapsed() < Duration::from_millis(4_500),
        "the will came after {:?}",
        started.elapsed()
    );
    Ok(())
}

fn a_new_connection_within_the_delay_cancels_the_will(t: &Test) -> Outcome {
    let mut sub = watcher(t)?;
    let delay = Props::new().u32(prop::WILL_DELAY, 1);
    let dial = t
        .client("c")
        .resume()
        .will(&t.topic("will"), "will", 1)
        .will_props(delay);
    dial.open()?.cut()?;
    let again = t.client("c").resume().open()?;
    ensure!(again.session_present, "the session is gone");
    sub.quiet(
        Duration::from_millis(3_000),
        "since the client came back within the Will Delay Interval",
    )?;
    again.disconnect()
}

fn the_end_of_the_session_ends_the_delay(t: &Test) -> Outcome {
    let mut sub = watcher(t)?;
    let delay = Props::new().u32(prop::WILL_DELAY, 100);
    t.client("c")
        .will(&t.topic("will"), "no expiry", 1)
        .will_props(delay.clone())
        .open()?
        .cut()?;
    expect_will(&mut sub, "no expiry")?;
    let dial = t
        .client("d")
        .resume_for(1)
        .will(&t.topic("will"), "expiry 1 s", 1)
        .will_props(delay);
    dial.open()?.cut()?;
    expect_will(&mut sub, "expiry 1 s")
}

fn an_empty_will_is_published(t: &Test) -> Outcome {
    let mut sub = watcher(t)?;
    t.client("c").will(&t.topic("will"), "", 1).open()?.cut()?;
    expect_will(&mut sub, "")
}
