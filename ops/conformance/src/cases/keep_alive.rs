//! Keep Alive (§3.1.2.10).

use std::time::{Duration, Instant};

use super::cases;
use crate::wire::prop;
use crate::{Outcome, Test, ensure};

cases! {
    a_silent_client_is_closed_after_its_keep_alive: "3.1.2-22 3.2.2-22 3.1.2-8", "3.1.2-24 3.1.2-8";
    a_client_is_not_closed_within_its_keep_alive: "3.1.2-22", "3.1.2-24";
    any_packet_keeps_the_connection: "3.1.2-22", "3.1.2-24";
    keep_alive_0_never_closes: "3.1.2-22", "3.1.2-24";
}

/// Between the limit of the specification and the next look of a server at its clocks.
const GRACE: Duration = Duration::from_secs(2);

/// Three clients at different times, so that a server that looks at its clocks now and then cannot pass by luck.
fn a_silent_client_is_closed_after_its_keep_alive(t: &Test) -> Outcome {
    std::thread::scope(|scope| {
        let clients = ["one", "two", "three"].map(|role| {
            let client = scope.spawn(move || closed_in_time(t, role));
            t.pass(Duration::from_millis(1_700));
            client
        });
        clients
            .into_iter()
            .try_for_each(|client| client.join().expect("no case panics"))
    })
}

fn closed_in_time(t: &Test, role: &str) -> Outcome {
    const KEEP_ALIVE_S: u16 = 2;
    let topic = t.topic(role);
    let mut sub = t.connect(&format!("s{role}"))?;
    sub.subscribe(&topic, 0)?;
    let started = Instant::now();
    let mut client = t
        .client(role)
        .keep_alive(KEEP_ALIVE_S)
        .will(&topic, "will", 0)
        .open()?;
    let asked = client.connack.number(prop::SERVER_KEEP_ALIVE);
    let seconds = asked.unwrap_or_else(|| KEEP_ALIVE_S.into());
    ensure!(
        seconds < 60,
        "the server asks for a Server Keep Alive of {seconds} s, too long for this run"
    );
    let limit = Duration::from_secs(seconds.into()) * 3 / 2;
    let code = client.closed_within(
        limit + Duration::from_secs(8),
        "after 1.5 times the Keep Alive",
    )?;
    ensure!(
        code.is_none_or(|code| code == 0x8D),
        "DISCONNECT {code:02x?} instead of 0x8d"
    );
    let late = started.elapsed() > limit + GRACE;
    ensure!(
        !late,
        "closed later than 1.5 times {seconds} s and {} s of grace",
        GRACE.as_secs()
    );
    sub.take("the will").map(drop)
}

/// A silent client within its Keep Alive is left alone, to the last moment.
fn a_client_is_not_closed_within_its_keep_alive(t: &Test) -> Outcome {
    let mut client = t.client("c").keep_alive(3).open()?;
    client.quiet(Duration::from_millis(2_900), "within a Keep Alive of 3 s")?;
    client.silent("before PINGRESP")
}

fn any_packet_keeps_the_connection(t: &Test) -> Outcome {
    let mut client = t.client("c").keep_alive(2).open()?;
    if client.connack.number(prop::SERVER_KEEP_ALIVE).is_some() {
        crate::skip!("the server sets its own Keep Alive");
    }
    for round in 0..3 {
        t.pass(Duration::from_millis(1_600));
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
    if client
        .connack
        .number(prop::SERVER_KEEP_ALIVE)
        .is_some_and(|seconds| seconds < 10)
    {
        crate::skip!("the server sets its own Keep Alive");
    }
    client.quiet(Duration::from_secs(3), "with Keep Alive 0")?;
    client.silent("after a pause")
}
