//! The scenarios of both protocol versions; `README.md` of the folder above says what each means.

use std::time::Duration;

use anyhow::{Result, ensure};
use mqtt5::types::ReasonCode;
use quic_conversations::within;

use crate::peer::{Options, Peer, Talk, ensure_told, numbered, pair, text, texts};

const BURST: usize = 1_000;

pub(crate) async fn qos_each_way(talk: &Talk) -> Result<()> {
    let (mut subscriber, publisher) = pair(talk, Options::default()).await?;
    for granted in 0..3 {
        for sent in 0..3 {
            let topic = format!("{}/{granted}/{sent}", talk.name("t"));
            ensure!(
                subscriber.subscribe(&topic, granted).await? == granted,
                "QoS {granted} was not granted"
            );
            publisher.publish(&topic, b"hello", sent, false).await?;
            let got = subscriber.take(1).await?;
            let (qos, wanted) = (u8::from(got[0].qos), granted.min(sent));
            ensure!(
                got[0].topic == topic && text(&got[0]) == "hello" && qos == wanted,
                "sent with QoS {sent} to a subscription of QoS {granted}: {:?}",
                got[0]
            );
            ensure!(!got[0].retain, "a live message has the RETAIN flag");
        }
    }
    Ok(())
}

pub(crate) async fn wildcards(talk: &Talk) -> Result<()> {
    let root = talk.name("t");
    let (mut subscriber, publisher) = pair(talk, Options::default()).await?;
    let topics = [
        root.clone(),
        format!("{root}/b"),
        format!("{root}/b/c"),
        format!("{root}x/b"),
        format!("{root}/d/c"),
    ];
    for (filter, matching) in [
        (format!("{root}/+/c"), [2, 4].as_slice()),
        (format!("{root}/#"), &[0, 1, 2, 4]),
    ] {
        subscriber.subscribe(&filter, 1).await?;
        for topic in &topics {
            publisher.publish(topic, b"x", 1, false).await?;
        }
        subscriber.fence().await?;
        let got = subscriber.take(matching.len()).await?;
        let came = |topic: &String| got.iter().any(|message| message.topic == *topic);
        ensure!(
            matching.iter().all(|index| came(&topics[*index])),
            "{filter}: {:?}",
            got.iter().map(|it| &it.topic).collect::<Vec<_>>()
        );
        subscriber.unsubscribe(&filter).await?;
    }
    Ok(())
}

pub(crate) async fn retained(talk: &Talk) -> Result<()> {
    let topic = format!("{}/a", talk.name("t"));
    let publisher = Peer::connect(talk, "publisher", Options::default()).await?;
    publisher.publish(&topic, b"first", 1, true).await?;
    publisher.publish(&topic, b"second", 1, true).await?;
    let mut late = Peer::connect(talk, "late", Options::default()).await?;
    late.subscribe(&topic, 1).await?;
    let got = late.take(1).await?;
    ensure!(
        got[0].retain && text(&got[0]) == "second",
        "retained message: {:?}",
        got[0]
    );
    publisher.publish(&topic, b"", 1, true).await?;
    let mut later = Peer::connect(talk, "later", Options::default()).await?;
    later.subscribe(&topic, 1).await?;
    later.nothing_came().await
}

/// Somebody who sees the will, and the client that has it.
async fn mortal(talk: &Talk) -> Result<(Peer, Peer)> {
    let topic = format!("{}/will", talk.name("t"));
    let watcher = Peer::connect(talk, "watcher", Options::default()).await?;
    watcher.subscribe(&topic, 2).await?;
    let options = Options {
        will: Some(topic),
        ..Options::default()
    };
    Ok((watcher, Peer::connect(talk, "mortal", options).await?))
}

pub(crate) async fn will_on_cut(talk: &Talk) -> Result<()> {
    let (mut watcher, mortal) = mortal(talk).await?;
    mortal.cut().await?;
    let got = watcher.take(1).await?;
    ensure!(
        text(&got[0]) == "gone" && u8::from(got[0].qos) == 1,
        "will: {:?}",
        got[0]
    );
    Ok(())
}

pub(crate) async fn no_will_after_disconnect(talk: &Talk) -> Result<()> {
    let (mut watcher, mut mortal) = mortal(talk).await?;
    mortal.disconnect().await?;
    watcher.nothing_came().await
}

pub(crate) async fn take_over(talk: &Talk) -> Result<()> {
    let topic = format!("{}/x", talk.name("t"));
    let mut older = Peer::connect(talk, "twin", Options::default()).await?;
    older.subscribe(&topic, 1).await?;
    let mut newer = Peer::connect(talk, "twin", Options::default()).await?;
    older.wait_closed().await?;
    newer.subscribe(&topic, 1).await?;
    newer.publish(&topic, b"mine", 1, false).await?;
    ensure!(texts(&newer.take(1).await?) == ["mine"], "not our message");
    ensure!(
        older.drain().is_empty(),
        "the older connection got a message"
    );
    Ok(())
}

pub(crate) async fn shared_subscription(talk: &Talk) -> Result<()> {
    let filter = format!("$share/{}/{}/+", talk.name("g"), talk.name("t"));
    let mut first = Peer::connect(talk, "member0", Options::default()).await?;
    let mut second = Peer::connect(talk, "member1", Options::default()).await?;
    first.subscribe(&filter, 1).await?;
    second.subscribe(&filter, 1).await?;
    let publisher = Peer::connect(talk, "publisher", Options::default()).await?;
    for (number, payload) in numbered(200).iter().enumerate() {
        let topic = format!("{}/{}", talk.name("t"), number % 7);
        publisher
            .publish(&topic, payload.as_bytes(), 1, false)
            .await?;
    }
    first.fence().await?;
    second.fence().await?;
    let (one, other) = (first.drain(), second.drain());
    ensure!(
        !one.is_empty() && !other.is_empty(),
        "one member got everything"
    );
    let mut all = [texts(&one), texts(&other)].concat();
    let mut wanted = numbered(200);
    all.sort();
    wanted.sort();
    ensure!(all == wanted, "messages of the two members: {all:?}");
    Ok(())
}

pub(crate) async fn large_payload(talk: &Talk) -> Result<()> {
    // More than all windows of a connection together, and then little less than a packet may have.
    const LENGTHS: [usize; 2] = [256 * 1024, 1_000_000];
    let topic = format!("{}/x", talk.name("t"));
    let (mut subscriber, publisher) = pair(talk, Options::default()).await?;
    subscriber.subscribe(&topic, 2).await?;
    for length in LENGTHS {
        let payload: Vec<u8> = (0..=250).cycle().take(length).collect();
        for qos in 0..3 {
            publisher.publish(&topic, &payload, qos, false).await?;
            ensure!(
                subscriber.take(1).await?[0].payload == payload,
                "a payload of {length} bytes was changed"
            );
        }
    }
    Ok(())
}

pub(crate) async fn hundred_clients(talk: &Talk) -> Result<()> {
    let root = talk.name("t");
    let mut peers = Vec::new();
    for number in numbered(100) {
        let peer = Peer::connect(talk, &number, Options::default()).await?;
        peer.subscribe(&format!("{root}/{number}"), 1).await?;
        peers.push(peer);
    }
    for (number, peer) in peers.iter().enumerate() {
        let topic = format!("{root}/{}", (number + 1) % 100);
        peer.publish(&topic, number.to_string().as_bytes(), 1, false)
            .await?;
    }
    for (number, peer) in peers.iter_mut().enumerate() {
        let got = texts(&peer.take(1).await?);
        ensure!(
            got == [((number + 99) % 100).to_string()],
            "client {number} got {got:?}"
        );
    }
    for peer in &mut peers {
        peer.disconnect().await?;
    }
    Ok(())
}

pub(crate) async fn keep_alive(talk: &Talk) -> Result<()> {
    let interval = Duration::from_secs(1);
    let options = |is_silent| Options {
        keep_alive: Some(interval),
        is_silent,
        ..Options::default()
    };
    let mut silent = Peer::connect(talk, "silent", options(true)).await?;
    let start = tokio::time::Instant::now();
    let mut pinger = Peer::connect(talk, "pinger", options(false)).await?;
    let reason = silent.wait_closed().await?;
    let lasted = start.elapsed();
    // Once and a half its interval, which has begun a little before we looked at the clock.
    ensure!(
        lasted > interval * 5 / 4,
        "a silent client was closed after {lasted:?}: {reason:?}"
    );
    if talk.is_5() {
        ensure_told(talk, &reason, ReasonCode::KeepAliveTimeout)?;
    }
    pinger.stays(interval * 3).await?;
    pinger.fence().await
}

pub(crate) async fn empty_payload(talk: &Talk) -> Result<()> {
    let topic = format!("{}/x", talk.name("t"));
    let mut peer = Peer::connect(talk, "peer", Options::default()).await?;
    peer.subscribe(&topic, 2).await?;
    for qos in 0..3 {
        peer.publish(&topic, b"", qos, false).await?;
    }
    let got = peer.take(3).await?;
    ensure!(
        got.iter().all(|message| message.payload.is_empty()),
        "a payload appeared"
    );
    Ok(())
}

pub(crate) async fn utf_8_topics(talk: &Talk) -> Result<()> {
    let mut peer = Peer::connect(talk, "jürgen-工-🚢", Options::default()).await?;
    for word in ["straße/größe", "路/岸", "🚢/⚓", "space in/topic"] {
        let topic = format!("{}/{word}", talk.name("t"));
        peer.subscribe(&topic, 1).await?;
        peer.publish(&topic, word.as_bytes(), 1, false).await?;
        let got = peer.take(1).await?;
        ensure!(
            got[0].topic == topic && text(&got[0]) == word,
            "{:?}",
            got[0]
        );
    }
    Ok(())
}

/// Of QoS 0 one after another; of the others all at once, which mqtt5 sends in no order.
pub(crate) async fn burst(talk: &Talk, qos: u8) -> Result<()> {
    let topic = format!("{}/x", talk.name("t"));
    let (mut subscriber, publisher) = pair(talk, Options::default()).await?;
    subscriber.subscribe(&topic, qos).await?;
    let mut wanted = numbered(BURST);
    if qos == 0 {
        for payload in &wanted {
            publisher
                .publish(&topic, payload.as_bytes(), 0, false)
                .await?;
        }
        let got = texts(&subscriber.take(BURST).await?);
        ensure!(got == wanted, "messages are out of order: {got:?}");
        return Ok(());
    }
    let sending = publisher.publish_at_once(&topic, wanted.clone(), qos);
    for result in within("the acknowledgements", sending.join_all()).await? {
        result?;
    }
    let mut got = texts(&subscriber.take(BURST).await?);
    got.sort();
    wanted.sort();
    ensure!(got == wanted, "messages are lost or doubled: {got:?}");
    subscriber.nothing_came().await
}
