//! Keep Alive (§3.1.2.10).

use std::time::{Duration, Instant};

use super::cases;
use crate::wire::prop;
use crate::{Outcome, Test, ensure};

cases! {
    a_silent_client_is_closed_after_its_keep_alive: "3.1.2-22 3.2.2-22 3.1.2-8", "3.1.2-24 3.1.2-8";
    any_packet_keeps_the_connection: "3.1.2-22", "3.1.2-24";
    keep_alive_0_never_closes: "3.1.2-22", "3.1.2-24";
}

fn a_silent_client_is_closed_after_its_keep_alive(t: &Test) -> Outcome {
    const KEEP_ALIVE_S: u16 = 2;
    let topic = t.topic("will");
    let mut sub = t.connect("s")?;
    sub.subscribe(&topic, 0)?;
    let started = Instant::now();
    let mut client = t.client("c").keep_alive(KEEP_ALIVE_S).will(&topic, "will", 0).open()?;
    let seconds = client.connack.number(prop::SERVER_KEEP_ALIVE).unwrap_or(KEEP_ALIVE_S.into());
    ensure!(seconds < 60, "the server asks for a Server Keep Alive of {seconds} s, too long for this run");
    let limit = Duration::from_secs(seconds.into()) * 3 / 2;
    // A server looks at its clocks now and then: half a second of grace above, none below.
    let code = client.closed_within(limit + Duration::from_secs(3), "after 1.5 times the Keep Alive")?;
    let passed = started.elapsed();
    ensure!(code.is_none_or(|code| code == 0x8D), "DISCONNECT {code:02x?} instead of 0x8d");
    ensure!(passed >= Duration::from_secs(seconds.into()), "closed after {passed:?}, within the Keep Alive");
    ensure!(passed <= limit + Duration::from_secs(2), "closed after {passed:?}, later than 1.5 times {seconds} s");
    sub.take("the will").map(drop)
}

fn any_packet_keeps_the_connection(t: &Test) -> Outcome {
    let mut client = t.client("c").keep_alive(1).open()?;
    if client.connack.number(prop::SERVER_KEEP_ALIVE).is_some() {
        crate::skip!("the server sets its own Keep Alive");
    }
    for round in 0..4 {
        t.pass(Duration::from_millis(800));
        if round % 2 == 0 {
            client.silent("within the Keep Alive")?;
        } else {
            client.publish_text(&t.topic("a"), "x", 1)?;
        }
    }
    Ok(())
}

fn keep_alive_0_never_closes(t: &Test) -> Outcome {
    let mut client = t.client("c").keep_alive(0).open()?;
    if client.connack.number(prop::SERVER_KEEP_ALIVE).is_some_and(|seconds| seconds < 10) {
        crate::skip!("the server sets its own Keep Alive");
    }
    client.quiet(Duration::from_secs(3), "with Keep Alive 0")?;
    client.silent("after a pause")
}
