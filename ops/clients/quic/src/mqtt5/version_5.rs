//! The scenarios of MQTT 5.

use anyhow::{Result, ensure};
use mqtt5::types::ReasonCode;
use mqtt5::{PublishOptions, PublishProperties, QoS, RetainHandling, SubscribeOptions};

use crate::peer::{Options, Peer, Talk, ensure_told, pair, text, texts};

fn with(properties: PublishProperties) -> PublishOptions {
    PublishOptions {
        qos: QoS::AtLeastOnce,
        properties,
        ..PublishOptions::default()
    }
}

fn at_least_once() -> SubscribeOptions {
    SubscribeOptions {
        qos: QoS::AtLeastOnce,
        ..SubscribeOptions::default()
    }
}

pub(crate) async fn take_over_reason(talk: &Talk) -> Result<()> {
    let mut older = Peer::connect(talk, "twin", Options::default()).await?;
    let _newer = Peer::connect(talk, "twin", Options::default()).await?;
    let reason = older.wait_closed().await?;
    ensure_told(talk, &reason, ReasonCode::SessionTakenOver)
}

pub(crate) async fn user_properties(talk: &Talk) -> Result<()> {
    let topic = format!("{}/x", talk.name("t"));
    let (mut subscriber, publisher) = pair(talk, Options::default()).await?;
    subscriber.subscribe(&topic, 1).await?;
    let pairs = [("a", "1"), ("key", "ü"), ("a", "2"), ("", "")];
    let pairs: Vec<(String, String)> = pairs
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into();
    let properties = PublishProperties {
        user_properties: pairs.clone(),
        content_type: Some("text/plain".to_owned()),
        payload_format_indicator: Some(true),
        ..PublishProperties::default()
    };
    publisher
        .publish_with(&topic, b"x", with(properties))
        .await?;
    let got = subscriber.take(1).await?.remove(0).properties;
    ensure!(
        got.user_properties == pairs
            && got.content_type.as_deref() == Some("text/plain")
            && got.payload_format_indicator == Some(true),
        "properties: {got:?}"
    );
    Ok(())
}

pub(crate) async fn request_response(talk: &Talk) -> Result<()> {
    let root = talk.name("t");
    let mut server = Peer::connect(talk, "server", Options::default()).await?;
    server.subscribe(&format!("{root}/questions"), 1).await?;
    let mut asker = Peer::connect(talk, "asker", Options::default()).await?;
    asker.subscribe(&format!("{root}/answers"), 1).await?;
    let properties = PublishProperties {
        response_topic: Some(format!("{root}/answers")),
        correlation_data: Some(vec![0, 1, 255]),
        ..PublishProperties::default()
    };
    let question = format!("{root}/questions");
    asker
        .publish_with(&question, b"?", with(properties))
        .await?;
    let asked = server.take(1).await?.remove(0).properties;
    let properties = PublishProperties {
        correlation_data: asked.correlation_data,
        ..PublishProperties::default()
    };
    let to = asked.response_topic.unwrap_or_default();
    server.publish_with(&to, b"!", with(properties)).await?;
    let answer = asker.take(1).await?.remove(0);
    ensure!(
        text(&answer) == "!" && answer.properties.correlation_data == Some(vec![0, 1, 255]),
        "answer: {answer:?}"
    );
    Ok(())
}

pub(crate) async fn message_expiry(talk: &Talk) -> Result<()> {
    let topic = format!("{}/x", talk.name("t"));
    let (mut subscriber, publisher) = pair(talk, Options::default()).await?;
    subscriber.subscribe(&topic, 1).await?;
    let properties = PublishProperties {
        message_expiry_interval: Some(100),
        ..PublishProperties::default()
    };
    publisher
        .publish_with(&topic, b"x", with(properties))
        .await?;
    let rest = subscriber.take(1).await?[0]
        .properties
        .message_expiry_interval;
    ensure!(
        rest.is_some_and(|rest| (95..=100).contains(&rest)),
        "an interval of 100 s arrives as {rest:?}"
    );
    Ok(())
}

/// Aliases of the client, and those of the server to a client that takes two.
pub(crate) async fn topic_alias(talk: &Talk) -> Result<()> {
    let root = talk.name("t");
    let options = Options {
        topic_aliases: Some(2),
        ..Options::default()
    };
    let (mut subscriber, publisher) = pair(talk, options).await?;
    subscriber.subscribe(&format!("{root}/#"), 1).await?;
    let aliased = || {
        with(PublishProperties {
            topic_alias: Some(1),
            ..PublishProperties::default()
        })
    };
    let first = format!("{root}/first");
    publisher.publish_with(&first, b"0", aliased()).await?;
    publisher.publish_with("", b"1", aliased()).await?;
    let mut wanted = vec![first.clone(), first];
    for number in 0..30 {
        let topic = format!("{root}/{}", number % 5);
        publisher.publish(&topic, b"x", 1, false).await?;
        wanted.push(topic);
    }
    let got = subscriber.take(32).await?;
    let topics: Vec<_> = got.into_iter().map(|message| message.topic).collect();
    ensure!(topics == wanted, "topics of the messages: {topics:?}");
    Ok(())
}

pub(crate) async fn subscription_identifiers(talk: &Talk) -> Result<()> {
    let root = talk.name("t");
    let (mut subscriber, publisher) = pair(talk, Options::default()).await?;
    let cases = [("low", 1), ("high", 268_435_455)];
    for (name, identifier) in cases {
        let options = at_least_once().with_subscription_identifier(identifier);
        let filter = format!("{root}/{name}");
        subscriber.subscribe_with(&filter, options).await?;
    }
    for (name, identifier) in cases {
        let topic = format!("{root}/{name}");
        publisher.publish(&topic, b"x", 1, false).await?;
        let got = subscriber.take(1).await?.remove(0).properties;
        ensure!(
            got.subscription_identifiers == [identifier],
            "{name}: {:?}",
            got.subscription_identifiers
        );
    }
    Ok(())
}

pub(crate) async fn assigned_client_id(talk: &Talk) -> Result<()> {
    let nameless = || Options {
        is_nameless: true,
        ..Options::default()
    };
    let mut one = Peer::connect(talk, "", nameless()).await?;
    let other = Peer::connect(talk, "", nameless()).await?;
    let (first, second) = (one.client.client_id().await, other.client.client_id().await);
    ensure!(
        !first.is_empty() && !second.is_empty() && first != second,
        "assigned client identifiers: `{first}` and `{second}`"
    );
    one.fence().await
}

pub(crate) async fn no_local(talk: &Talk) -> Result<()> {
    let topic = format!("{}/x", talk.name("t"));
    let (mut subscriber, publisher) = pair(talk, Options::default()).await?;
    let options = SubscribeOptions {
        no_local: true,
        ..at_least_once()
    };
    subscriber.subscribe_with(&topic, options).await?;
    subscriber.publish(&topic, b"mine", 1, false).await?;
    publisher.publish(&topic, b"theirs", 1, false).await?;
    subscriber.fence().await?;
    let got = texts(&subscriber.take(1).await?);
    ensure!(got == ["theirs"], "{got:?}");
    Ok(())
}

pub(crate) async fn retain_handling(talk: &Talk) -> Result<()> {
    let topic = format!("{}/x", talk.name("t"));
    let (mut subscriber, publisher) = pair(talk, Options::default()).await?;
    publisher.publish(&topic, b"kept", 1, true).await?;
    // The second time the subscription is not new any more.
    let steps = [
        (RetainHandling::DontSend, false),
        (RetainHandling::SendIfNew, false),
        (RetainHandling::SendAtSubscribe, true),
    ];
    for (retain_handling, has_to_come) in steps {
        let options = SubscribeOptions {
            retain_handling,
            retain_as_published: true,
            ..at_least_once()
        };
        subscriber.subscribe_with(&topic, options).await?;
        if has_to_come {
            subscriber.wait_messages(1).await?;
        }
        subscriber.fence().await?;
        // mqtt5 calls once for each time that we have subscribed, whatever the server sends.
        let got = subscriber.drain();
        ensure!(
            got.iter().all(|message| message.retain) && got.is_empty() != has_to_come,
            "{retain_handling:?}: {got:?}"
        );
    }
    publisher.publish(&topic, b"", 1, true).await
}
