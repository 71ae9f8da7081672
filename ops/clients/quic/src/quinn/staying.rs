//! A client that stays where it is: what mqtt5 does not see reliably.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Result, ensure};
use mqtt5_protocol::QoS;
use quic_conversations::{Arguments, Scenario};
use quinn::Endpoint;

use crate::endpoint::{MQTT, endpoint};
use crate::session::Session;

/// The scenarios.
pub(crate) const SCENARIOS: &[Scenario<Arguments>] = &[
    ("welcome", |talk| Box::pin(welcome(talk))),
    ("take-over-reason", |talk| Box::pin(take_over_reason(talk))),
];

/// Where the server is for clients on its machine.
pub(crate) fn address(talk: &Arguments) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, talk.port))
}

async fn connect(talk: &Arguments, endpoint: &Endpoint, name: &str) -> Result<Session> {
    let client_id = format!("quinn-{name}-{:08x}", std::process::id());
    Session::connect(endpoint, address(talk), &client_id, 0).await
}

/// Messages to itself, and a goodbye.
pub(crate) async fn welcome(talk: &Arguments) -> Result<()> {
    let endpoint = endpoint(&talk.tls, &[MQTT])?;
    let session = connect(talk, &endpoint, "welcome").await?;
    let topic = format!("quinn-welcome-{:08x}/x", std::process::id());
    session.subscribe(&topic).await?;
    session.publish(&topic, 1, QoS::AtLeastOnce)?;
    session.publish(&topic, 2, QoS::ExactlyOnce)?;
    session
        .until("two messages", |heard| heard.messages[1..] == [[1], [2]])
        .await?;
    session.disconnect().await
}

/// The older connection is told why it ends before it does.
async fn take_over_reason(talk: &Arguments) -> Result<()> {
    let endpoint = endpoint(&talk.tls, &[MQTT])?;
    let older = connect(talk, &endpoint, "twin").await?;
    let newer = connect(talk, &endpoint, "twin").await?;
    let ended = older.wait_ended().await?;
    ensure!(
        ended.contains("DISCONNECT: SessionTakenOver"),
        "the older connection ended: {ended}"
    );
    newer.disconnect().await
}
