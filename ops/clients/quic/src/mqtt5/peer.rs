//! One client of the crate mqtt5 as the scenarios need it: calls that return when the server has answered. A wait has a
//! condition and a deadline, and says what it waited for.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use mqtt5::types::{KeepaliveConfig, ReasonCode};
use mqtt5::{
    ConnectOptions, ConnectionEvent, DisconnectReason, Message, MqttClient, ProtocolVersion,
    PublishOptions, PublishResult, QoS, SubscribeOptions, WillMessage,
};
use quic_conversations::{Tls, within};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Seconds that the session of a durable client outlives its connection.
const EXPIRY_S: u32 = 120;

/// Where the server is, how to speak, and names that no other run or scenario uses.
#[derive(Clone, Debug)]
pub(crate) struct Talk {
    pub host: String,
    pub port: u16,
    pub tls: Tls,
    pub quic: bool,
    pub version: ProtocolVersion,
    pub token: u32,
    pub scenario: &'static str,
}

impl Talk {
    /// A client identifier or first level of a topic of this scenario.
    pub(crate) fn name(&self, suffix: &str) -> String {
        let version = if self.is_5() { "5" } else { "311" };
        format!("{}-{version}-{:08x}-{suffix}", self.scenario, self.token)
    }

    pub(crate) fn is_5(&self) -> bool {
        self.version == ProtocolVersion::V5
    }

    fn address(&self) -> String {
        if self.quic {
            // Its QUIC speaks IPv4 alone, and asks an address for the certificate of `localhost`.
            format!("quics://127.0.0.1:{}", self.port)
        } else {
            format!("mqtts://{}:{}", self.host, self.port)
        }
    }
}

/// What a client is made with; the default is a clean session without a will.
#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    /// Topic of a will with the payload `gone`.
    pub will: Option<String>,
    /// True exactly when the session outlives the connection.
    pub durable: bool,
    /// Half a minute, unless it is said here.
    pub keep_alive: Option<Duration>,
    /// True for a client that pings too late.
    pub is_silent: bool,
    /// True for an empty client identifier.
    pub is_nameless: bool,
    /// Topic aliases that it takes.
    pub topic_aliases: Option<u16>,
    /// True when it offers the protocol `MQTT-next` before `mqtt`.
    pub offers_another_protocol: bool,
    /// True when it sends its first packet with a ticket in the first datagram, if the ticket allows.
    pub early_data: bool,
}

impl Options {
    pub(crate) fn durable() -> Self {
        Self {
            durable: true,
            ..Self::default()
        }
    }

    fn settings(&self, talk: &Talk, name: &str) -> ConnectOptions {
        let client_id = if self.is_nameless {
            String::new()
        } else {
            talk.name(name)
        };
        let keep_alive = self.keep_alive.unwrap_or(Duration::from_secs(30));
        let mut settings = ConnectOptions::new(client_id)
            .with_protocol_version(talk.version)
            .with_keep_alive(keep_alive)
            .with_clean_start(!self.durable)
            // When to connect is for the scenario to say.
            .with_automatic_reconnect(false);
        if self.durable && talk.is_5() {
            settings = settings.with_session_expiry_interval(EXPIRY_S);
        }
        if let Some(topic) = &self.will {
            let will = WillMessage::new(topic, "gone").with_qos(QoS::AtLeastOnce);
            settings = settings.with_will(will);
        }
        if self.is_silent {
            // The first ping after two and a half times the interval, of which the server waits for one and a half.
            settings = settings.with_keepalive_config(KeepaliveConfig::new(250, 255));
        }
        settings.properties.topic_alias_maximum = self.topic_aliases;
        settings
    }
}

/// What happened at a client.
enum Notice {
    Message(Message),
    Closed(DisconnectReason),
}

/// A client, connected unless it was cut.
pub(crate) struct Peer {
    pub client: MqttClient,
    talk: Talk,
    settings: ConnectOptions,
    sender: mpsc::UnboundedSender<Notice>,
    notices: mpsc::UnboundedReceiver<Notice>,
    messages: Vec<Message>,
    closed: Option<DisconnectReason>,
}

impl Peer {
    /// Connects, and fails when the server does not let it in.
    pub(crate) async fn connect(talk: &Talk, name: &str, options: Options) -> Result<Self> {
        let settings = options.settings(talk, name);
        let client = MqttClient::with_options(settings.clone());
        let read = |name: &str, ending: &str| {
            let path = talk.tls.file(name, ending);
            std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
        };
        let (mut certificate, mut key) = (None, None);
        if let Some(name) = &talk.tls.certificate {
            certificate = Some(read(name, "pem")?);
            key = Some(read(name, "key")?);
        }
        let authority = read(&talk.tls.authority, "pem")?;
        client
            .set_tls_config(certificate, key, Some(authority))
            .await;
        client
            .set_quic_flow_headers(options.offers_another_protocol)
            .await;
        client.set_quic_early_data(options.early_data).await;
        let (sender, notices) = mpsc::unbounded_channel();
        let closed = sender.clone();
        client
            .on_connection_event(move |event| {
                if let ConnectionEvent::Disconnected { reason } = event {
                    let _ = closed.send(Notice::Closed(reason)); // Nobody asks any more.
                }
            })
            .await?;
        let mut peer = Self {
            client,
            talk: talk.clone(),
            settings,
            sender,
            notices,
            messages: Vec::new(),
            closed: None,
        };
        peer.resume().await?;
        Ok(peer)
    }

    /// Connects again with the state that the client has. Returns Session Present.
    pub(crate) async fn resume(&mut self) -> Result<bool> {
        self.closed = None;
        let address = self.talk.address();
        let connecting = self
            .client
            .connect_with_options(&address, self.settings.clone());
        let connected = within("a CONNACK", connecting).await?;
        Ok(connected.context("cannot connect")?.session_present)
    }

    /// Ends the connection without DISCONNECT.
    pub(crate) async fn cut(&self) -> Result<()> {
        within(
            "the end of the connection",
            self.client.disconnect_abnormally(),
        )
        .await??;
        Ok(())
    }

    /// DISCONNECT, normal.
    pub(crate) async fn disconnect(&mut self) -> Result<()> {
        within("the end of the connection", self.client.disconnect()).await??;
        self.wait_closed().await.map(drop)
    }

    /// Waits for the end of the connection by the server, and returns the reason.
    pub(crate) async fn wait_closed(&mut self) -> Result<DisconnectReason> {
        self.until("the end of the connection", |peer| peer.closed.is_some())
            .await?;
        self.closed.clone().context("it is closed")
    }

    /// Fails when the connection ends within this time.
    pub(crate) async fn stays(&mut self, time: Duration) -> Result<()> {
        let closed = self.until("nothing", |peer| peer.closed.is_some());
        if let Ok(closed) = tokio::time::timeout(time, closed).await {
            closed?;
            bail!("the connection ended: {:?}", self.closed);
        }
        Ok(())
    }

    /// Returns the granted QoS.
    pub(crate) async fn subscribe(&self, filter: &str, qos: u8) -> Result<u8> {
        let options = SubscribeOptions {
            qos: QoS::from(qos),
            ..SubscribeOptions::default()
        };
        self.subscribe_with(filter, options).await
    }

    pub(crate) async fn subscribe_with(
        &self,
        filter: &str,
        options: SubscribeOptions,
    ) -> Result<u8> {
        let sender = self.sender.clone();
        let subscribing = self
            .client
            .subscribe_with_options(filter, options, move |message| {
                let _ = sender.send(Notice::Message(message)); // Nobody asks any more.
            });
        let (_packet_id, granted) = within("a SUBACK", subscribing).await??;
        Ok(granted.into())
    }

    pub(crate) async fn unsubscribe(&self, filter: &str) -> Result<()> {
        within("an UNSUBACK", self.client.unsubscribe(filter)).await??;
        Ok(())
    }

    /// Publishes, and waits for the acknowledgement that the QoS has.
    pub(crate) async fn publish(
        &self,
        topic: &str,
        payload: &[u8],
        qos: u8,
        retain: bool,
    ) -> Result<()> {
        let options = PublishOptions {
            qos: QoS::from(qos),
            retain,
            ..PublishOptions::default()
        };
        self.publish_with(topic, payload, options).await
    }

    pub(crate) async fn publish_with(
        &self,
        topic: &str,
        payload: &[u8],
        options: PublishOptions,
    ) -> Result<()> {
        let publishing = self.client.publish_with_options(topic, payload, options);
        match within("an acknowledgement", publishing).await?? {
            PublishResult::Sent(_) => Ok(()),
            PublishResult::Queued(_) => bail!("no acknowledgement of {topic}"),
        }
    }

    /// Publishes all of them at once, from as many tasks: mqtt5 promises no order then. Their results come when each is
    /// acknowledged or the connection has ended.
    pub(crate) fn publish_at_once(
        &self,
        topic: &str,
        payloads: Vec<String>,
        qos: u8,
    ) -> JoinSet<mqtt5::Result<PublishResult>> {
        let mut tasks = JoinSet::new();
        for payload in payloads {
            let (client, topic) = (self.client.clone(), topic.to_owned());
            tasks.spawn(async move { client.publish_qos(topic, payload, QoS::from(qos)).await });
        }
        tasks
    }

    /// Waits for so many messages since the last `take`.
    pub(crate) async fn wait_messages(&mut self, count: usize) -> Result<()> {
        let result = self
            .until("messages", |peer| peer.messages.len() >= count)
            .await;
        result.with_context(|| format!("{} of {count} messages came", self.messages.len()))
    }

    /// Waits for the messages, fails when there are more by then, and forgets them.
    pub(crate) async fn take(&mut self, count: usize) -> Result<Vec<Message>> {
        self.wait_messages(count).await?;
        let messages = self.drain();
        ensure!(
            messages.len() == count,
            "{} messages, not {count}",
            messages.len()
        );
        Ok(messages)
    }

    /// What is here.
    pub(crate) fn drain(&mut self) -> Vec<Message> {
        std::mem::take(&mut self.messages)
    }

    /// Returns when whatever the server had sent us before is here: a message to ourselves has come after it. The messages
    /// stay.
    pub(crate) async fn fence(&mut self) -> Result<()> {
        let topic = format!(
            "{}/{}",
            self.talk.name("fence"),
            self.client.client_id().await
        );
        self.subscribe(&topic, 1).await?;
        self.publish(&topic, b"fence", 1, false).await?;
        self.until("our own message", |peer| {
            peer.messages.iter().any(|message| message.topic == topic)
        })
        .await?;
        self.unsubscribe(&topic).await?;
        self.messages.retain(|message| message.topic != topic);
        Ok(())
    }

    /// Fails when anything is here, or on its way.
    pub(crate) async fn nothing_came(&mut self) -> Result<()> {
        self.fence().await?;
        let topics: Vec<_> = self.messages.iter().map(|it| &it.topic).collect();
        ensure!(topics.is_empty(), "unexpected messages to {topics:?}");
        Ok(())
    }

    /// Takes notices in until the condition holds.
    async fn until(&mut self, what: &str, condition: impl Fn(&Self) -> bool) -> Result<()> {
        let waiting = async {
            while !condition(self) {
                match self.notices.recv().await.context("the client ended")? {
                    Notice::Message(message) => self.messages.push(message),
                    Notice::Closed(reason) => self.closed = Some(reason),
                }
            }
            Ok(())
        };
        within(what, waiting).await?
    }
}

/// Fails unless the server has told why the connection ended. Over QUIC mqtt5 may notice the end of the connection, which comes
/// behind that, before it has looked at it; the client on quinn does not.
pub(crate) fn ensure_told(talk: &Talk, told: &DisconnectReason, wanted: ReasonCode) -> Result<()> {
    let is_unheard =
        || matches!(told, DisconnectReason::NetworkError(why) if why == "normal closure");
    ensure!(
        *told == DisconnectReason::ServerDisconnect(wanted) || talk.quic && is_unheard(),
        "the client was told {told:?}"
    );
    Ok(())
}

/// The payload of a message as text.
pub(crate) fn text(message: &Message) -> String {
    String::from_utf8_lossy(&message.payload).into_owned()
}

/// The payloads of messages as text.
pub(crate) fn texts(messages: &[Message]) -> Vec<String> {
    messages.iter().map(text).collect()
}

/// As many different payloads.
pub(crate) fn numbered(count: usize) -> Vec<String> {
    (0..count).map(|number| number.to_string()).collect()
}

/// A subscriber with these options, and a publisher.
pub(crate) async fn pair(talk: &Talk, subscriber: Options) -> Result<(Peer, Peer)> {
    let subscriber = Peer::connect(talk, "subscriber", subscriber).await?;
    let publisher = Peer::connect(talk, "publisher", Options::default()).await?;
    Ok((subscriber, publisher))
}
