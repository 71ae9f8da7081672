//! The scenarios that only QUIC has.

use anyhow::{Context as _, Result, ensure};

use crate::peer::{Options, Peer, Talk, numbered, pair, texts};

/// Both clients go on from other ports, as behind a NAT that forgets them, in the middle of a sentence.
pub(crate) async fn address_change(talk: &Talk) -> Result<()> {
    let topic = format!("{}/x", talk.name("t"));
    let (mut subscriber, publisher) = pair(talk, Options::default()).await?;
    subscriber.subscribe(&topic, 2).await?;
    let connection = |peer: &Peer| {
        let client = peer.client.clone();
        async move {
            let connection = client.quic_connection().await;
            Ok::<_, anyhow::Error>(connection.context("it is not connected")?.stable_id())
        }
    };
    let before = (
        connection(&subscriber).await?,
        connection(&publisher).await?,
    );
    for (number, payload) in numbered(100).iter().enumerate() {
        match number % 20 {
            5 => subscriber.client.migrate().await?,
            15 => publisher.client.migrate().await?,
            _ => {}
        }
        let qos = if number % 2 == 0 { 1 } else { 2 };
        publisher
            .publish(&topic, payload.as_bytes(), qos, false)
            .await?;
    }
    let got = texts(&subscriber.take(100).await?);
    ensure!(got == numbered(100), "messages across the changes: {got:?}");
    subscriber.nothing_came().await?;
    let after = (
        connection(&subscriber).await?,
        connection(&publisher).await?,
    );
    ensure!(before == after, "a client has connected again");
    Ok(())
}

/// A client that would rather speak what only its own server speaks is answered with `mqtt`, and keeps to it.
pub(crate) async fn another_protocol_offered(talk: &Talk) -> Result<()> {
    let options = Options {
        offers_another_protocol: true,
        ..Options::default()
    };
    let topic = format!("{}/x", talk.name("t"));
    let (mut subscriber, publisher) = pair(talk, options).await?;
    subscriber.subscribe(&topic, 1).await?;
    publisher.publish(&topic, b"hello", 1, false).await?;
    ensure!(texts(&subscriber.take(1).await?) == ["hello"], "no hello");
    Ok(())
}

/// A client comes back with a ticket and would send at once: the ticket does not allow it, so that it waits for the handshake.
pub(crate) async fn early_data_declined(talk: &Talk) -> Result<()> {
    let options = Options {
        early_data: true,
        ..Options::durable()
    };
    let mut peer = Peer::connect(talk, "peer", options).await?;
    // What comes after the handshake has brought the ticket along.
    peer.fence().await?;
    peer.disconnect().await?;
    ensure!(peer.resume().await?, "Session Present is 0");
    ensure!(!peer.client.was_zero_rtt().await, "data came early");
    peer.fence().await?;
    peer.disconnect().await?;
    let mut peer = Peer::connect(talk, "peer", Options::default()).await?;
    peer.disconnect().await
}
