//! Scenarios of sessions that outlive their connections.

use anyhow::{Result, bail, ensure};
use mqtt5::{PublishOutcome, PublishResult};
use quic_conversations::within;

use crate::peer::{Options, Peer, Talk, numbered, pair, texts};

/// Ends the session of a client that was durable.
async fn forget(talk: &Talk, mut peer: Peer, name: &str) -> Result<()> {
    peer.disconnect().await?;
    let mut peer = Peer::connect(talk, name, Options::default()).await?;
    peer.disconnect().await
}

pub(crate) async fn resume_queued(talk: &Talk) -> Result<()> {
    let root = talk.name("t");
    let (mut subscriber, publisher) = pair(talk, Options::durable()).await?;
    subscriber.subscribe(&format!("{root}/+"), 2).await?;
    subscriber.cut().await?;
    for (number, payload) in numbered(100).iter().enumerate() {
        let qos = if number % 2 == 0 { 1 } else { 2 };
        let topic = format!("{root}/{qos}");
        publisher
            .publish(&topic, payload.as_bytes(), qos, false)
            .await?;
    }
    ensure!(
        subscriber.resume().await?,
        "Session Present is 0 after a cut"
    );
    let messages = subscriber.take(100).await?;
    for qos in [1, 2] {
        let mut got = messages.clone();
        got.retain(|message| u8::from(message.qos) == qos);
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
    forget(talk, subscriber, "subscriber").await
}

pub(crate) async fn resume_amid_delivery(talk: &Talk) -> Result<()> {
    const COUNT: usize = 300;
    for qos in [1, 2] {
        let topic = format!("{}/{qos}", talk.name("t"));
        let name = format!("subscriber{qos}");
        let mut subscriber = Peer::connect(talk, &name, Options::durable()).await?;
        let name_of_publisher = format!("publisher{qos}");
        let publisher = Peer::connect(talk, &name_of_publisher, Options::default()).await?;
        subscriber.subscribe(&topic, qos).await?;
        let sending = async {
            for payload in numbered(COUNT) {
                publisher
                    .publish(&topic, payload.as_bytes(), qos, false)
                    .await?;
            }
            Ok::<_, anyhow::Error>(())
        };
        let cutting = async {
            subscriber.wait_messages(50).await?;
            subscriber.cut().await
        };
        tokio::try_join!(sending, cutting)?;
        ensure!(
            subscriber.resume().await?,
            "Session Present is 0 after a cut"
        );
        subscriber.wait_messages(COUNT).await?;
        subscriber.fence().await?;
        let got = texts(&subscriber.drain());
        let mut unique: Vec<String> = Vec::new();
        for payload in &got {
            if !unique.contains(payload) {
                unique.push(payload.clone());
            }
        }
        ensure!(
            unique == numbered(COUNT),
            "QoS {qos} messages across the cut: {got:?}"
        );
        ensure!(
            qos == 1 || got.len() == COUNT,
            "QoS 2 messages came twice: {got:?}"
        );
        forget(talk, subscriber, &name).await?;
    }
    Ok(())
}

pub(crate) async fn publisher_resumes(talk: &Talk) -> Result<()> {
    const COUNT: usize = 100;
    for qos in [1, 2] {
        let topic = format!("{}/{qos}", talk.name("t"));
        let name = format!("publisher{qos}");
        let mut subscriber =
            Peer::connect(talk, &format!("subscriber{qos}"), Options::default()).await?;
        subscriber.subscribe(&topic, qos).await?;
        let mut publisher = Peer::connect(talk, &name, Options::durable()).await?;
        let sending = publisher.publish_at_once(&topic, numbered(COUNT), qos);
        subscriber.wait_messages(5).await?;
        publisher.cut().await?;
        ensure!(
            publisher.resume().await?,
            "Session Present is 0 after a cut"
        );
        for result in within("all publishes", sending.join_all()).await? {
            let outcome = match result? {
                PublishResult::Sent(_) => continue,
                PublishResult::Queued(handle) => {
                    within("a repeated publish", handle.outcome()).await?
                }
            };
            if !matches!(outcome, PublishOutcome::Delivered(_)) {
                bail!("a publish across the cut: {outcome:?}");
            }
        }
        subscriber.wait_messages(COUNT).await?;
        subscriber.fence().await?;
        let mut got = texts(&subscriber.drain());
        let count = got.len();
        got.sort();
        got.dedup();
        let mut wanted = numbered(COUNT);
        wanted.sort();
        ensure!(got == wanted, "QoS {qos} messages are lost: {got:?}");
        ensure!(
            qos == 1 || count == COUNT,
            "{} messages of QoS 2 came twice",
            count - COUNT
        );
        forget(talk, publisher, &name).await?;
    }
    Ok(())
}

pub(crate) async fn clean_start_forgets(talk: &Talk) -> Result<()> {
    let topic = format!("{}/x", talk.name("t"));
    let (subscriber, publisher) = pair(talk, Options::durable()).await?;
    subscriber.subscribe(&topic, 1).await?;
    subscriber.cut().await?;
    publisher.publish(&topic, b"to nobody", 1, false).await?;
    let mut again = Peer::connect(talk, "subscriber", Options::default()).await?;
    publisher.publish(&topic, b"to nobody", 1, false).await?;
    again.nothing_came().await?;
    again.disconnect().await?;
    let mut third = Peer::connect(talk, "subscriber", Options::durable()).await?;
    third.nothing_came().await?;
    forget(talk, third, "subscriber").await
}
