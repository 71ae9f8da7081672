//! Topic names and filters (§4.7).

use super::cases;
use crate::wire::{Bytes, Props, Publish, first, subscribe};
use crate::{Outcome, Test, ensure, fail};

cases! {
    filters_match_as_the_examples_say: "4.7.1-1 4.7.1-2 3.3.2-3", "4.7.1-2 4.7.1-3 3.3.2-3";
    wildcards_in_the_wrong_place_are_refused: "4.7.1-1 4.7.1-2", "4.7.1-2 4.7.1-3";
    an_empty_filter_is_refused: "4.7.3-1", "4.7.3-1";
    wildcards_do_not_match_dollar_topics: "4.7.2-1", "4.7.2-1";
    names_are_matched_without_change: "4.7.3-4", "4.7.3-4";
    the_longest_topic_is_taken_or_refused: "4.7.3-3", "4.7.3-3";
}

fn filters_match_as_the_examples_say(t: &Test) -> Outcome {
    let names = ["", "/", "/a", "a", "a/", "a//b", "a/b", "a/b/c", "b"];
    for (filter, expected) in [
        (
            "#",
            &["", "/", "/a", "a", "a/", "a//b", "a/b", "a/b/c", "b"][..],
        ),
        ("+", &["", "a", "b"]),
        ("+/+", &["/", "/a", "a/", "a/b"]),
        ("/+", &["/", "/a"]),
        ("a/#", &["a", "a/", "a//b", "a/b", "a/b/c"]),
        ("a/+", &["a/", "a/b"]),
        ("a/+/#", &["a/", "a//b", "a/b", "a/b/c"]),
        ("+/b", &["a/b"]),
        ("a/+/b", &["a//b"]),
        ("a", &["a"]),
        ("a/", &["a/"]),
    ] {
        let mut sub = t.connect("s")?;
        sub.subscribe(&t.topic(filter), 1)?;
        let mut publisher = t.connect("p")?;
        for name in names {
            publisher.publish_text(&t.topic(name), name, 1)?;
        }
        let mut found = Vec::new();
        for _ in expected {
            found.push(sub.take(&format!("the next message on {filter:?}"))?.text());
        }
        found.sort();
        ensure!(
            found == expected,
            "{filter:?} matched {found:?} instead of {expected:?}"
        );
        sub.silent(&format!("after the messages that match {filter:?}"))?;
    }
    Ok(())
}

fn wildcards_in_the_wrong_place_are_refused(t: &Test) -> Outcome {
    for filter in [
        "a/#/b", "a#", "a/b#", "#/a", "a+", "+a", "a/+b/c", "a/b+", "##", "++",
    ] {
        refused(t, filter)?;
    }
    Ok(())
}

fn an_empty_filter_is_refused(t: &Test) -> Outcome {
    refused(t, "")?;
    let mut client = t.connect("u")?;
    client.send(
        Bytes::new()
            .u16(1)
            .props(t.version, &Props::new())
            .data("")
            .frame(first::UNSUBSCRIBE),
    );
    match client.suback(first::UNSUBACK, 1) {
        Ok(codes) if t.v5() && codes.iter().all(|&code| code >= 0x80) => Ok(()),
        Ok(_) => fail!("UNSUBSCRIBE with an empty filter succeeds"),
        Err(_) => Ok(()),
    }
}

/// A failure in SUBACK or a closed connection: §4.7 names no reaction, and either one refuses the filter.
fn refused(t: &Test, filter: &str) -> Outcome {
    let mut client = t.connect("c")?;
    client.send(subscribe(t.version, 1, &[(filter, 0)], &Props::new()));
    match client.first_byte()? {
        Some(first::SUBACK) => {
            let codes = client.suback(first::SUBACK, 1)?;
            ensure!(
                codes.iter().all(|&code| code >= 0x80),
                "filter {filter:?} is granted: {codes:02x?}"
            );
            Ok(())
        }
        _ => client.closed_with(&[0x81, 0x82, 0x8F], &format!("after filter {filter:?}")),
    }
}

fn wildcards_do_not_match_dollar_topics(t: &Test) -> Outcome {
    let dollar = format!("${}/x/y", t.unique);
    let mut sub = t.connect("s")?;
    for filter in [
        "+/x/y".to_owned(),
        "+/x/#".to_owned(),
        format!("+/{}/end", t.unique),
    ] {
        sub.subscribe(&filter, 1)?;
    }
    // A server may keep clients from writing there; then it matches nothing either.
    let mut outsider = t.connect("o")?;
    outsider.send_publish(&Publish::new(&dollar, "x"));
    let _ = outsider.before_ping();
    t.connect("p")?
        .publish_text(&format!("cf/{}/end", t.unique), "end", 1)?;
    loop {
        let message = sub.take("the last message")?;
        ensure!(
            !message.topic.starts_with('$'),
            "a filter with a leading wildcard matched {:?}",
            message.topic
        );
        if message.text() == "end" {
            return sub.silent("after the last message");
        }
    }
}

fn names_are_matched_without_change(t: &Test) -> Outcome {
    // Case, blanks, dots, a composed and a decomposed letter, a percent sign, a leading slash.
    let names = [
        "A", "a", "a ", " a", "./a", "\u{E9}", "e\u{301}", "%61", "/a", "a/", "\u{212A}", "K",
    ];
    let mut publisher = t.connect("p")?;
    for filter in names {
        let mut sub = t.connect("s")?;
        sub.subscribe(&t.topic(filter), 1)?;
        for name in names {
            publisher.publish_text(&t.topic(name), name, 1)?;
        }
        let message = sub.take("the message on the same topic")?;
        ensure!(
            message.text() == filter && message.topic == t.topic(filter),
            "{filter:?} matched {:?}",
            message.text()
        );
        sub.silent(&format!("on topics other than {filter:?}"))?;
    }
    Ok(())
}

fn the_longest_topic_is_taken_or_refused(t: &Test) -> Outcome {
    let topic = t.topic(&"x".repeat(65_535 - t.topic("").len()));
    let mut sub = t.connect("s")?;
    sub.send(subscribe(t.version, 1, &[(&topic, 0)], &Props::new()));
    // A limit of the server below the 65,535 bytes of the protocol shows as a failure or as a closed connection.
    let Ok(codes) = sub.suback(first::SUBACK, 1) else {
        return Ok(());
    };
    if codes.iter().any(|&code| code >= 0x80) {
        return Ok(());
    }
    let mut publisher = t.connect("p")?;
    publisher.publish_text(&topic, "x", 1)?;
    let message = sub.take("the message on the longest topic")?;
    ensure!(
        message.topic == topic,
        "a topic of {} bytes came back",
        message.topic.len()
    );
    Ok(())
}
