//! One rumqttc client as the scenarios need it: calls that return when the server has answered, in either protocol version.
//! A wait has a condition and a deadline, and says what it waited for.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use rumqttc::{QoS, TlsConfiguration, Transport, v5};
use tokio::sync::mpsc;
use tokio::time::timeout;

/// Most that one answer of the server may take.
const DEADLINE: Duration = Duration::from_secs(15);

/// Requests that wait in a client: more than any scenario sends at once.
const REQUESTS: usize = 4_096;

/// Packets of up to so many bytes are accepted and sent.
const PACKET_BYTES_MAX: usize = 1 << 20;

/// Seconds that the session of a durable client outlives its connection.
const EXPIRY_S: u32 = 120;

/// What a client over TLS trusts and shows: names of files in a folder, without their endings.
#[derive(Clone, Debug)]
pub(crate) struct Tls {
    pub folder: PathBuf,
    pub authority: String,
    pub certificate: Option<String>,
}

impl Tls {
    fn transport(&self) -> Result<Transport> {
        let read = |name: &str, ending: &str| {
            let path = self.folder.join(format!("{name}.{ending}"));
            std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
        };
        let own = |name: &String| Ok::<_, anyhow::Error>((read(name, "pem")?, read(name, "key")?));
        Ok(Transport::tls_with_config(TlsConfiguration::Simple {
            ca: read(&self.authority, "pem")?,
            alpn: Some(vec![b"mqtt".to_vec()]),
            client_auth: self.certificate.as_ref().map(own).transpose()?,
        }))
    }
}

/// Where the server is, which version to speak, and names that no other run or scenario uses.
#[derive(Clone, Debug)]
pub(crate) struct Talk {
    pub host: String,
    pub port: u16,
    pub tls: Option<Tls>,
    pub v5: bool,
    pub token: u32,
    pub scenario: &'static str,
}

impl Talk {
    /// A client identifier or first level of a topic of this scenario.
    pub(crate) fn name(&self, suffix: &str) -> String {
        let version = if self.v5 { "5" } else { "311" };
        format!("{}-{version}-{:08x}-{suffix}", self.scenario, self.token)
    }
}

/// A message as a subscriber sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub topic: String,
    pub payload: Vec<u8>,
    pub qos: u8,
    pub retain: bool,
}

impl Message {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.payload).into_owned()
    }
}

/// What a client is made with; the default is a clean session without a will.
#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    /// Topic of a will with the payload `gone`.
    pub will: Option<String>,
    /// True exactly when the session outlives the connection.
    pub durable: bool,
}

/// What happened at a client.
enum Notice {
    Connected {
        session_present: bool,
    },
    /// With the reason that the client gives.
    Closed(String),
    Message(Message),
    /// SUBACK: the granted QoS, `None` for a refusal.
    Subscribed(Vec<Option<u8>>),
    Unsubscribed,
    /// PUBACK or PUBCOMP.
    Acknowledged,
}

/// What a client's task is told; when the sender is gone, it drops the connection and ends.
enum Order {
    Cut,
    Resume,
}

enum Sender {
    V4(rumqttc::AsyncClient),
    V5(v5::AsyncClient),
}

/// A connected client. Dropped, its connection ends without DISCONNECT.
pub(crate) struct Peer {
    pub client_id: String,
    talk: Talk,
    sender: Sender,
    orders: mpsc::UnboundedSender<Order>,
    notices: mpsc::UnboundedReceiver<Notice>,
    messages: Vec<Message>,
    connected: Option<bool>,
    closed: bool,
    /// Why, as the client says.
    why: String,
    granted: Option<Vec<Option<u8>>>,
    unsubscribed: bool,
    acknowledged: usize,
}

/// The task of a client: one body for the event loops of both versions, whose types differ and whose words do not.
macro_rules! drive {
    ($name:ident, $version:path, $packets:path) => {
        async fn $name(
            mut events: rumqttc_loop::$name,
            notices: mpsc::UnboundedSender<Notice>,
            mut orders: mpsc::UnboundedReceiver<Order>,
        ) {
            use $packets as packets;
            use $version as version;
            loop {
                let closed = tokio::select! {
                    order = orders.recv() => match order {
                        Some(Order::Resume) => None,
                        Some(Order::Cut) => { events.clean(); Some("it was cut".to_owned()) }
                        None => return,
                    },
                    event = events.poll() => match event {
                        Ok(version::Event::Incoming(packet)) => {
                            let notice = match packet {
                                packets::Packet::ConnAck(ack) => {
                                    Some(Notice::Connected { session_present: ack.session_present })
                                }
                                packets::Packet::Publish(publish) => Some(Notice::Message(Message {
                                    topic: String::from_utf8_lossy(publish.topic.as_ref()).into_owned(),
                                    payload: publish.payload.to_vec(),
                                    qos: publish.qos as u8,
                                    retain: publish.retain,
                                })),
                                packets::Packet::SubAck(ack) => Some(Notice::Subscribed(
                                    ack.return_codes
                                        .iter()
                                        .map(|code| match code {
                                            packets::SubscribeReasonCode::Success(qos) => Some(*qos as u8),
                                            _ => None,
                                        })
                                        .collect(),
                                )),
                                packets::Packet::UnsubAck(_) => Some(Notice::Unsubscribed),
                                packets::Packet::PubAck(_) | packets::Packet::PubComp(_) => Some(Notice::Acknowledged),
                                _ => None,
                            };
                            if let Some(notice) = notice && notices.send(notice).is_err() {
                                return;
                            }
                            None
                        }
                        Ok(_outgoing) => None,
                        Err(error) => Some(error.to_string()),
                    },
                };
                if let Some(why) = closed {
                    let _ = notices.send(Notice::Closed(why));
                    // Polling again would connect again: that is for the scenario to say.
                    if !matches!(orders.recv().await, Some(Order::Resume)) {
                        return;
                    }
                }
            }
        }
    };
}

mod rumqttc_loop {
    pub(super) use rumqttc::EventLoop as drive_v4;
    pub(super) use rumqttc::v5::EventLoop as drive_v5;
}

drive!(drive_v4, rumqttc, rumqttc::mqttbytes::v4);
drive!(drive_v5, rumqttc::v5, rumqttc::v5::mqttbytes::v5);

impl Peer {
    /// Connects; an empty name lets the client identifier be that of `name` with nothing added.
    pub(crate) async fn connect(talk: &Talk, name: &str, options: Options) -> Result<Self> {
        let client_id = talk.name(name);
        let (order_sender, orders) = mpsc::unbounded_channel();
        let (notice_sender, notices) = mpsc::unbounded_channel();
        let keep_alive = Duration::from_secs(30);
        let transport = talk.tls.as_ref().map(Tls::transport).transpose()?;
        let sender = if talk.v5 {
            let mut settings = v5::MqttOptions::new(&client_id, &talk.host, talk.port);
            settings
                .set_keep_alive(keep_alive)
                .set_clean_start(!options.durable);
            if let Some(transport) = transport {
                settings.set_transport(transport);
            }
            settings.set_max_packet_size(Some(u32::try_from(PACKET_BYTES_MAX)?));
            settings.set_session_expiry_interval(options.durable.then_some(EXPIRY_S));
            if let Some(topic) = options.will {
                let qos = v5::mqttbytes::QoS::AtLeastOnce;
                settings.set_last_will(v5::mqttbytes::v5::LastWill::new(
                    topic, "gone", qos, false, None,
                ));
            }
            let (client, events) = v5::AsyncClient::new(settings, REQUESTS);
            tokio::spawn(drive_v5(events, notice_sender, orders));
            Sender::V5(client)
        } else {
            let mut settings = rumqttc::MqttOptions::new(&client_id, &talk.host, talk.port);
            settings
                .set_keep_alive(keep_alive)
                .set_clean_session(!options.durable);
            if let Some(transport) = transport {
                settings.set_transport(transport);
            }
            settings.set_max_packet_size(PACKET_BYTES_MAX, PACKET_BYTES_MAX);
            if let Some(topic) = options.will {
                settings.set_last_will(rumqttc::LastWill::new(
                    topic,
                    "gone",
                    QoS::AtLeastOnce,
                    false,
                ));
            }
            let (client, events) = rumqttc::AsyncClient::new(settings, REQUESTS);
            tokio::spawn(drive_v4(events, notice_sender, orders));
            Sender::V4(client)
        };
        let mut peer = Self {
            client_id,
            talk: talk.clone(),
            sender,
            orders: order_sender,
            notices,
            messages: Vec::new(),
            connected: None,
            closed: false,
            why: String::new(),
            granted: None,
            unsubscribed: false,
            acknowledged: 0,
        };
        peer.connected_or_closed().await?;
        Ok(peer)
    }

    /// Ends the connection without DISCONNECT.
    pub(crate) async fn cut(&mut self) -> Result<()> {
        self.orders.send(Order::Cut)?;
        self.wait_closed().await
    }

    /// Waits for the end of the connection, whoever ends it.
    pub(crate) async fn wait_closed(&mut self) -> Result<()> {
        self.until("the end of the connection", |peer| peer.closed)
            .await
    }

    /// Connects again with the state that the client has. Returns Session Present.
    pub(crate) async fn resume(&mut self) -> Result<bool> {
        self.connected = None;
        self.closed = false;
        self.orders.send(Order::Resume)?;
        self.connected_or_closed().await?;
        Ok(self.connected == Some(true))
    }

    async fn connected_or_closed(&mut self) -> Result<()> {
        let answered = |peer: &Self| peer.connected.is_some() || peer.closed;
        self.until("a CONNACK", answered).await?;
        ensure!(self.connected.is_some(), "cannot connect: {}", self.why);
        Ok(())
    }

    /// DISCONNECT, normal.
    pub(crate) async fn disconnect(&mut self) -> Result<()> {
        match &self.sender {
            Sender::V4(client) => client.disconnect().await?,
            Sender::V5(client) => client.disconnect().await?,
        }
        self.wait_closed().await
    }

    /// Returns the granted QoS, `None` for a refusal.
    pub(crate) async fn subscribe(&mut self, filter: &str, qos: u8) -> Result<Option<u8>> {
        self.granted = None;
        match &self.sender {
            Sender::V4(client) => client.subscribe(filter, quality(qos)).await?,
            Sender::V5(client) => client.subscribe(filter, quality_v5(qos)).await?,
        }
        self.until("a SUBACK", |peer| peer.granted.is_some())
            .await?;
        self.granted
            .take()
            .and_then(|codes| codes.first().copied())
            .context("a SUBACK without a code")
    }

    pub(crate) async fn unsubscribe(&mut self, filter: &str) -> Result<()> {
        self.unsubscribed = false;
        match &self.sender {
            Sender::V4(client) => client.unsubscribe(filter).await?,
            Sender::V5(client) => client.unsubscribe(filter).await?,
        }
        self.until("an UNSUBACK", |peer| peer.unsubscribed).await
    }

    /// Publishes without waiting for the acknowledgement.
    pub(crate) async fn send(
        &self,
        topic: &str,
        payload: &[u8],
        qos: u8,
        retain: bool,
    ) -> Result<()> {
        match &self.sender {
            Sender::V4(client) => client.publish(topic, quality(qos), retain, payload).await?,
            Sender::V5(client) => {
                client
                    .publish(topic, quality_v5(qos), retain, payload.to_vec())
                    .await?;
            }
        }
        Ok(())
    }

    /// Publishes, and waits for the acknowledgement that the QoS has.
    pub(crate) async fn publish(
        &mut self,
        topic: &str,
        payload: &[u8],
        qos: u8,
        retain: bool,
    ) -> Result<()> {
        self.send(topic, payload, qos, retain).await?;
        self.acknowledged(usize::from(qos > 0)).await
    }

    /// Waits until so many more messages are acknowledged.
    pub(crate) async fn acknowledged(&mut self, count: usize) -> Result<()> {
        self.until("acknowledgements", |peer| peer.acknowledged >= count)
            .await?;
        self.acknowledged -= count;
        Ok(())
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
        let messages = std::mem::take(&mut self.messages);
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
        let topic = format!("{}/{}", self.talk.name("fence"), self.client_id);
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
        ensure!(
            self.messages.is_empty(),
            "unexpected messages: {:?}",
            self.messages
        );
        Ok(())
    }

    /// Takes notices in until the condition holds.
    async fn until(&mut self, what: &str, condition: impl Fn(&Self) -> bool) -> Result<()> {
        let waiting = async {
            while !condition(self) {
                match self.notices.recv().await {
                    Some(notice) => self.note(notice),
                    None => bail!("the client ended"),
                }
            }
            Ok(())
        };
        match timeout(DEADLINE, waiting).await {
            Ok(result) => result,
            Err(_elapsed) => bail!(
                "{} waited {} s for {what}",
                self.client_id,
                DEADLINE.as_secs()
            ),
        }
    }

    fn note(&mut self, notice: Notice) {
        match notice {
            Notice::Connected { session_present } => self.connected = Some(session_present),
            Notice::Closed(why) => (self.closed, self.why) = (true, why),
            Notice::Message(message) => self.messages.push(message),
            Notice::Subscribed(codes) => self.granted = Some(codes),
            Notice::Unsubscribed => self.unsubscribed = true,
            Notice::Acknowledged => self.acknowledged += 1,
        }
    }
}

fn quality(qos: u8) -> QoS {
    match qos {
        0 => QoS::AtMostOnce,
        1 => QoS::AtLeastOnce,
        _ => QoS::ExactlyOnce,
    }
}

fn quality_v5(qos: u8) -> v5::mqttbytes::QoS {
    match qos {
        0 => v5::mqttbytes::QoS::AtMostOnce,
        1 => v5::mqttbytes::QoS::AtLeastOnce,
        _ => v5::mqttbytes::QoS::ExactlyOnce,
    }
}
