//! Session state (§4.1): kept, resumed, discarded.

use std::time::Duration;

use super::cases;
use crate::wire::{Props, prop};
use crate::{Outcome, Test, ensure};

cases! {
    a_stored_session_collects_messages: "3.1.2-5 3.1.2-23 4.5.0-1", "3.1.2-4 3.1.2-5 4.1.0-1 4.5.0-1";
    a_clean_start_discards_subscriptions_and_messages: "3.1.2-4 3.1.4-4", "3.1.2-6 3.1.4-3";
    a_session_without_expiry_ends_with_its_connection: "4.1.0-2 3.2.2-3", "3.1.2-6 3.2.2-3";
    a_session_is_discarded_after_its_expiry: "4.1.0-2", "";
    a_session_is_kept_while_its_connection_is_open: "4.1.0-1", "4.1.0-1 4.1.0-2";
    disconnect_may_change_the_expiry: "4.1.0-2 3.1.2-23", "";
    a_clean_start_may_have_an_expiry: "3.1.2-23 3.1.2-4", "";
    a_later_connect_replaces_the_expiry: "4.1.0-2 3.1.2-23", "";
    the_expiry_is_counted_from_the_last_connection: "3.1.2-23 4.1.0-2", "";
    the_client_identifier_names_the_session: "3.1.3-2", "3.1.3-2";
    retained_messages_outlive_the_session: "", "3.1.2-7";
}

fn a_stored_session_collects_messages(t: &Test) -> Outcome {
    let topic = t.topic("a");
    let mut sub = t.client("s").resume().open()?;
    sub.subscribe(&topic, 2)?;
    sub.disconnect()?;
    let mut publisher = t.connect("p")?;
    for (text, qos) in [("one", 1), ("two", 2), ("three", 1), ("four", 2)] {
        publisher.publish_text(&topic, text, qos)?;
    }
    let mut sub = t.client("s").resume().open()?;
    ensure!(sub.session_present, "Session Present is 0");
    // In order for each QoS; between them there is none.
    let mut found = Vec::new();
    for _ in 0..4 {
        let message = sub.take("a stored message")?;
        found.push((message.qos, message.text()));
    }
    found.sort_by_key(|(qos, _)| *qos);
    let right = found.iter().map(|(qos, text)| (*qos, text.as_str())).eq([
        (1, "one"),
        (1, "three"),
        (2, "two"),
        (2, "four"),
    ]);
    ensure!(right, "stored messages {found:?}");
    publisher.publish_text(&topic, "live", 1)?;
    ensure!(
        sub.take("a live message")?.text() == "live",
        "another message"
    );
    Ok(())
}

fn a_clean_start_discards_subscriptions_and_messages(t: &Test) -> Outcome {
    let topic = t.topic("a");
    let mut sub = t.client("s").resume().open()?;
    sub.subscribe(&topic, 1)?;
    sub.disconnect()?;
    let mut publisher = t.connect("p")?;
    publisher.publish_text(&topic, "stored", 1)?;
    let mut sub = t.connect("s")?;
    ensure!(
        !sub.session_present,
        "Session Present is 1 with a clean start"
    );
    publisher.publish_text(&topic, "live", 1)?;
    sub.silent("with a new session that has no subscription")?;
    sub.subscribe(&topic, 1)?;
    publisher.publish_text(&topic, "after", 1)?;
    ensure!(
        sub.take("the message after SUBSCRIBE")?.text() == "after",
        "a message of the discarded session"
    );
    Ok(())
}

fn a_session_without_expiry_ends_with_its_connection(t: &Test) -> Outcome {
    let topic = t.topic("a");
    let mut sub = t.connect("s")?;
    sub.subscribe(&topic, 1)?;
    sub.disconnect()?;
    t.connect("p")?.publish_text(&topic, "x", 1)?;
    let mut sub = t.client("s").resume().open()?;
    ensure!(!sub.session_present, "the session outlived its connection");
    sub.silent("for a session that has ended")
}

fn a_session_is_discarded_after_its_expiry(t: &Test) -> Outcome {
    let topic = t.topic("a");
    let mut sub = t.client("s").resume_for(1).open()?;
    sub.subscribe(&topic, 1)?;
    sub.disconnect()?;
    t.connect("p")?.publish_text(&topic, "x", 1)?;
    t.pass(Duration::from_millis(3_200));
    let mut sub = t.client("s").resume().open()?;
    ensure!(
        !sub.session_present,
        "the session outlived its Session Expiry Interval of 1 s by 2 s"
    );
    sub.silent("for a session that has expired")
}

fn a_session_is_kept_while_its_connection_is_open(t: &Test) -> Outcome {
    let topic = t.topic("a");
    let mut sub = t.client("s").resume_for(3).open()?;
    sub.subscribe(&topic, 1)?;
    sub.quiet(Duration::from_millis(4_500), "while nothing is published")?;
    t.connect("p")?.publish_text(&topic, "x", 1)?;
    sub.take("a message after the Session Expiry Interval, with the connection open")?;
    sub.disconnect()?;
    ensure!(
        t.client("s").resume_for(3).open()?.session_present,
        "the expiry ran while the connection was open"
    );
    Ok(())
}

fn disconnect_may_change_the_expiry(t: &Test) -> Outcome {
    let sub = t.client("s").resume_for(100).open()?;
    sub.disconnect_with(0, &Props::new().u32(prop::SESSION_EXPIRY, 0))?;
    ensure!(
        !t.client("s").resume().open()?.session_present,
        "DISCONNECT with expiry 0 left the session"
    );
    let other = t.client("o").resume_for(1).open()?;
    other.disconnect_with(0, &Props::new().u32(prop::SESSION_EXPIRY, 100))?;
    t.pass(Duration::from_millis(2_500));
    ensure!(
        t.client("o").resume().open()?.session_present,
        "DISCONNECT with expiry 100 did not keep the session"
    );
    Ok(())
}

fn a_clean_start_may_have_an_expiry(t: &Test) -> Outcome {
    let topic = t.topic("a");
    let mut sub = t
        .client("s")
        .props(Props::new().u32(prop::SESSION_EXPIRY, 100))
        .open()?;
    sub.subscribe(&topic, 1)?;
    sub.disconnect()?;
    t.connect("p")?.publish_text(&topic, "x", 1)?;
    let mut sub = t.client("s").resume().open()?;
    ensure!(sub.session_present, "a session with expiry 100 s is gone");
    sub.take("the stored message").map(drop)
}

fn a_later_connect_replaces_the_expiry(t: &Test) -> Outcome {
    t.client("s").resume_for(100).open()?.disconnect()?;
    let sub = t.client("s").resume_for(0).open()?;
    ensure!(sub.session_present, "a session with expiry 100 s is gone");
    sub.disconnect()?;
    ensure!(
        !t.client("s").resume().open()?.session_present,
        "a CONNECT with expiry 0 left the session"
    );
    Ok(())
}

fn the_expiry_is_counted_from_the_last_connection(t: &Test) -> Outcome {
    t.client("s").resume_for(2).open()?.disconnect()?;
    for _ in 0..3 {
        t.pass(Duration::from_millis(1_000));
        let sub = t.client("s").resume_for(2).open()?;
        ensure!(
            sub.session_present,
            "an earlier connection's expiry ended the session"
        );
        sub.disconnect()?;
    }
    Ok(())
}

fn the_client_identifier_names_the_session(t: &Test) -> Outcome {
    let topic = t.topic("a");
    let mut one = t.client("one").resume().open()?;
    one.subscribe(&topic, 1)?;
    one.disconnect()?;
    let mut two = t.client("ONE").resume().open()?;
    ensure!(
        !two.session_present,
        "a client identifier in other case got the session"
    );
    t.connect("p")?.publish_text(&topic, "x", 1)?;
    two.silent("for another client identifier")?;
    let mut one = t.client("one").resume().open()?;
    one.take("the message of the session").map(drop)
}

fn retained_messages_outlive_the_session(t: &Test) -> Outcome {
    let topic = t.topic("a");
    let mut publisher = t.connect("p")?;
    publisher.publish(
        crate::wire::Publish::new(&topic, "kept")
            .qos(1, 0)
            .retained(),
    )?;
    publisher.disconnect()?;
    t.connect("p")?.disconnect()?;
    let mut sub = t.connect("s")?;
    sub.subscribe(&topic, 0)?;
    ensure!(
        sub.take("the retained message")?.text() == "kept",
        "another message"
    );
    Ok(())
}
