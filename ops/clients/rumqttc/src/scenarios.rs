//! The scenarios; `README.md` of the folder above says what each means.

use anyhow::{Result, ensure};

use crate::peer::{Message, Options, Peer, Talk};

const BURST: usize = 1_000;

fn numbered(count: usize) -> Vec<String> {
    (0..count).map(|number| number.to_string()).collect()
}

fn texts(messages: &[Message]) -> Vec<String> {
    messages.iter().map(Message::text).collect()
}

fn durable() -> Options {
    Options {
        durable: true,
        ..Options::default()
    }
}

async fn pair(talk: &Talk, subscriber: Options) -> Result<(Peer, Peer)> {
    let subscriber = Peer::connect(talk, "subscriber", subscriber).await?;
    Ok((
        subscriber,
        Peer::connect(talk, "publisher", Options::default()).await?,
    ))
}

/// Ends the session of a client that was durable.
async fn forget(talk: &Talk, name: &str) -> Result<()> {
    Peer::connect(talk, name, Options::default())
        .await?
        .disconnect()
        .await
}

pub(crate) async fn qos_each_way(talk: &Talk) -> Result<()> {
    let (mut subscriber, mut publisher) = pair(talk, Options::default()).await?;
    for granted in 0..3 {
        for sent in 0..3 {
            let topic = format!("{}/{granted}/{sent}", talk.name("t"));
            ensure!(
                subscriber.subscribe(&topic, granted).await? == Some(granted),
                "QoS {granted} was not granted"
            );
            publisher.publish(&topic, b"hello", sent, false).await?;
            let wanted = Message {
                topic,
                payload: b"hello".to_vec(),
                qos: granted.min(sent),
                retain: false,
            };
            let got = subscriber.take(1).await?;
            ensure!(got == [wanted], "sent with QoS {sent}: {got:?}");
        }
    }
    Ok(())
}

pub(crate) async fn wildcards(talk: &Talk) -> Result<()> {
    let root = talk.name("t");
    let (mut subscriber, mut publisher) = pair(talk, Options::default()).await?;
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
        ensure!(
            matching
                .iter()
                .all(|index| got.iter().any(|message| message.topic == topics[*index])),
            "{got:?}"
        );
        subscriber.unsubscribe(&filter).await?;
    }
    Ok(())
}

pub(crate) async fn retained(talk: &Talk) -> Result<()> {
    let topic = format!("{}/a", talk.name("t"));
    let mut publisher = Peer::connect(talk, "publisher", Options::default()).await?;
    publisher.publish(&topic, b"first", 1, true).await?;
    publisher.publish(&topic, b"second", 1, true).await?;
    let mut late = Peer::connect(talk, "late", Options::default()).await?;
    late.subscribe(&topic, 1).await?;
    let got = late.take(1).await?;
    ensure!(
        got[0].retain && got[0].text() == "second",
        "retained message: {got:?}"
    );
    publisher.publish(&topic, b"", 1, true).await?;
    let mut later = Peer::connect(talk, "later", Options::default()).await?;
    later.subscribe(&topic, 1).await?;
    later.nothing_came().await
}

pub(crate) async fn will_on_cut(talk: &Talk) -> Result<()> {
    let topic = format!("{}/will", talk.name("t"));
    let mut watcher = Peer::connect(talk, "watcher", Options::default()).await?;
    watcher.subscribe(&topic, 2).await?;
    let options = Options {
        will: Some(topic),
        ..Options::default()
    };
    Peer::connect(talk, "mortal", options).await?.cut().await?;
    let got = watcher.take(1).await?;
    ensure!(got[0].text() == "gone" && got[0].qos == 1, "will: {got:?}");
    Ok(())
}

pub(crate) async fn no_will_after_disconnect(talk: &Talk) -> Result<()> {
    let topic = format!("{}/will", talk.name("t"));
    let mut watcher = Peer::connect(talk, "watcher", Options::default()).await?;
    watcher.subscribe(&topic, 2).await?;
    let options = Options {
        will: Some(topic),
        ..Options::default()
    };
    Peer::connect(talk, "mortal", options)
        .await?
        .disconnect()
        .await?;
    watcher.nothing_came().await
}

pub(crate) async fn resume_queued(talk: &Talk) -> Result<()> {
    let root = talk.name("t");
    let (mut subscriber, mut publisher) = pair(talk, durable()).await?;
    subscriber.subscribe(&format!("{root}/+"), 2).await?;
    subscriber.cut().await?;
    for (number, text) in numbered(100).iter().enumerate() {
        let qos = if number % 2 == 0 { 1 } else { 2 };
        publisher
            .publish(&format!("{root}/{qos}"), text.as_bytes(), qos, false)
            .await?;
    }
    ensure!(
        subscriber.resume().await?,
        "Session Present is 0 after a cut"
    );
    let messages = subscriber.take(100).await?;
    for qos in [1, 2] {
        let got: Vec<Message> = messages
            .iter()
            .filter(|message| message.qos == qos)
            .cloned()
            .collect();
        let wanted: Vec<String> = numbered(100)
            .into_iter()
            .skip(usize::from(qos) - 1)
            .step_by(2)
            .collect();
        ensure!(
            texts(&got) == wanted,
            "QoS {qos} messages that waited: {:?}",
            texts(&got)
        );
    }
    subscriber.nothing_came().await?;
    subscriber.disconnect().await?;
    forget(talk, "subscriber").await
}

// QoS 1 only: rumqttc hands a QoS 2 message to its user when it comes, not when it is released, and so a repeated one twice.
pub(crate) async fn resume_amid_delivery(talk: &Talk) -> Result<()> {
    let topic = format!("{}/1", talk.name("t"));
    let (mut subscriber, mut publisher) = pair(talk, durable()).await?;
    subscriber.subscribe(&topic, 1).await?;
    for text in numbered(300) {
        publisher.send(&topic, text.as_bytes(), 1, false).await?;
    }
    subscriber.wait_messages(50).await?;
    subscriber.cut().await?;
    publisher.acknowledged(300).await?;
    ensure!(
        subscriber.resume().await?,
        "Session Present is 0 after a cut"
    );
    let mut unique: Vec<String> = Vec::new();
    let mut count = 0;
    while unique.len() < 300 {
        count += 1;
        subscriber.wait_messages(1).await?;
        for message in subscriber.drain() {
            if !unique.contains(&message.text()) {
                unique.push(message.text());
            }
        }
        ensure!(
            count < 10_000,
            "only {} of 300 messages after {count} deliveries",
            unique.len()
        );
    }
    ensure!(
        unique == numbered(300),
        "QoS 1 messages across the cut are out of order: {unique:?}"
    );
    subscriber.disconnect().await?;
    forget(talk, "subscriber").await
}

pub(crate) async fn take_over(talk: &Talk) -> Result<()> {
    let topic = format!("{}/x", talk.name("t"));
    let mut older = Peer::connect(talk, "twin", Options::default()).await?;
    older.subscribe(&topic, 1).await?;
    let mut newer = Peer::connect(talk, "twin", Options::default()).await?;
    older.wait_closed().await?;
    newer.subscribe(&topic, 1).await?;
    newer.publish(&topic, b"mine", 1, false).await?;
    let got = newer.take(1).await?;
    ensure!(texts(&got) == ["mine"], "{got:?}");
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
    let mut publisher = Peer::connect(talk, "publisher", Options::default()).await?;
    for (number, text) in numbered(200).iter().enumerate() {
        publisher
            .send(
                &format!("{}/{}", talk.name("t"), number % 7),
                text.as_bytes(),
                1,
                false,
            )
            .await?;
    }
    publisher.acknowledged(200).await?;
    first.fence().await?;
    second.fence().await?;
    let (one, other) = (first.drain(), second.drain());
    ensure!(
        !one.is_empty() && !other.is_empty(),
        "one member got everything"
    );
    let mut all: Vec<String> = texts(&one).into_iter().chain(texts(&other)).collect();
    let mut wanted = numbered(200);
    all.sort();
    wanted.sort();
    ensure!(
        all == wanted,
        "messages of the two members together: {all:?}"
    );
    Ok(())
}

pub(crate) async fn large_payload(talk: &Talk) -> Result<()> {
    let topic = format!("{}/x", talk.name("t"));
    let payload: Vec<u8> = (0..=255).cycle().take(200 * 1024).collect();
    let (mut subscriber, mut publisher) = pair(talk, Options::default()).await?;
    subscriber.subscribe(&topic, 2).await?;
    for qos in 0..3 {
        publisher.publish(&topic, &payload, qos, false).await?;
        ensure!(
            subscriber.take(1).await?[0].payload == payload,
            "a payload of {} bytes was changed",
            payload.len()
        );
    }
    Ok(())
}

pub(crate) async fn hundred_clients(talk: &Talk) -> Result<()> {
    let root = talk.name("t");
    let mut peers = Vec::new();
    for number in numbered(100) {
        let mut peer = Peer::connect(talk, &number, Options::default()).await?;
        peer.subscribe(&format!("{root}/{number}"), 1).await?;
        peers.push(peer);
    }
    for (number, peer) in peers.iter_mut().enumerate() {
        peer.publish(
            &format!("{root}/{}", (number + 1) % 100),
            number.to_string().as_bytes(),
            1,
            false,
        )
        .await?;
    }
    for (number, peer) in peers.iter_mut().enumerate() {
        let got = peer.take(1).await?;
        ensure!(
            texts(&got) == [((number + 99) % 100).to_string()],
            "client {number} got {got:?}"
        );
    }
    Ok(())
}

pub(crate) async fn empty_payload(talk: &Talk) -> Result<()> {
    let topic = format!("{}/x", talk.name("t"));
    let mut peer = Peer::connect(talk, "peer", Options::default()).await?;
    peer.subscribe(&topic, 2).await?;
    for qos in 0..3 {
        peer.publish(&topic, b"", qos, false).await?;
    }
    ensure!(
        peer.take(3)
            .await?
            .iter()
            .all(|message| message.payload.is_empty()),
        "a payload appeared"
    );
    Ok(())
}

pub(crate) async fn utf_8_topics(talk: &Talk) -> Result<()> {
    let mut peer = Peer::connect(talk, "jürgen-工-🚢", Options::default()).await?;
    for text in ["straße/größe", "路/岸", "🚢/⚓", "space in/topic"] {
        let topic = format!("{}/{text}", talk.name("t"));
        peer.subscribe(&topic, 1).await?;
        peer.publish(&topic, text.as_bytes(), 1, false).await?;
        let got = peer.take(1).await?;
        ensure!(got[0].topic == topic && got[0].text() == text, "{got:?}");
    }
    Ok(())
}

pub(crate) async fn burst(talk: &Talk, qos: u8) -> Result<()> {
    let topic = format!("{}/x", talk.name("t"));
    let (mut subscriber, mut publisher) = pair(talk, Options::default()).await?;
    subscriber.subscribe(&topic, qos).await?;
    for text in numbered(BURST) {
        publisher.send(&topic, text.as_bytes(), qos, false).await?;
    }
    let got = texts(&subscriber.take(BURST).await?);
    ensure!(got == numbered(BURST), "messages are out of order: {got:?}");
    publisher
        .acknowledged(if qos > 0 { BURST } else { 0 })
        .await
}
