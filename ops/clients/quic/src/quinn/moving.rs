//! A phone on the move. It and a client that stays send each other messages of QoS 1 and 2 all the time, while the phone's
//! address or port changes, or it has no network for a while. It has to keep its connection and its session, and nothing may be
//! lost. It knows nothing of the changes of its address, as programs on a phone do not; a change of its port is its own.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mqtt5_protocol::QoS;
use quic_conversations::{Arguments, Ground, within};
use quinn::Endpoint;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use crate::endpoint::{MQTT, change_port, endpoint};
use crate::metrics::Metrics;
use crate::network::Device;
use crate::session::{Heard, Session};

/// The phone is without a network for so long.
const TUNNEL: Duration = Duration::from_secs(3);
/// From one pair of messages to the next.
const PACE: Duration = Duration::from_millis(10);
/// As many messages as are sent and heard of each QoS and each way before the next change.
const BETWEEN: u32 = 20;
/// Messages without an acknowledgement at which a client waits: fewer than the server takes.
const UNACKNOWLEDGED_MAX: u32 = 500;
/// How long the phone's session would live without its connection.
const EXPIRY_S: u32 = 300;
/// From one look at a node that starts to the next.
const START_POLL: Duration = Duration::from_millis(20);
const QUALITIES: [QoS; 2] = [QoS::AtLeastOnce, QoS::ExactlyOnce];

/// What happens to the phone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    /// The device has another address; the socket stays.
    Address,
    /// Another port of the same address, as behind a NAT that has forgotten the phone.
    Port,
    /// Both.
    AddressAndPort,
    /// No address for a while, and then the same.
    Tunnel,
    /// No address for a while, and then another.
    TunnelToElsewhere,
}

impl Change {
    /// Whether the node sees another address or port afterwards.
    fn is_move(self) -> bool {
        self != Self::Tunnel
    }
}

pub(crate) async fn address_changes(talk: &Arguments) -> Result<()> {
    use Change::{Address, AddressAndPort, Port};
    let changes = [
        Address,
        Port,
        AddressAndPort,
        Address,
        Address,
        Port,
        Port,
        AddressAndPort,
        AddressAndPort,
        Address,
        Port,
        Address,
    ];
    live_through(talk, "address-changes", &changes).await
}

pub(crate) async fn tunnels(talk: &Arguments) -> Result<()> {
    use Change::{Tunnel, TunnelToElsewhere};
    let changes = [Tunnel, TunnelToElsewhere, Tunnel];
    live_through(talk, "tunnels", &changes).await
}

/// One who sends, and to whom.
struct Speaker {
    name: &'static str,
    session: Arc<Session>,
    listener: Arc<Session>,
    topic: String,
    /// Messages of QoS 1 and of QoS 2.
    sent: [AtomicU32; 2],
}

impl Speaker {
    fn sent(&self, at: usize) -> u32 {
        self.sent[at].load(Ordering::Relaxed)
    }

    /// One message of each QoS.
    fn say(&self) -> Result<()> {
        for (at, qos) in QUALITIES.into_iter().enumerate() {
            let topic = format!("{}/{}", self.topic, qos as u8);
            self.session.publish(&topic, self.sent(at), qos)?;
            self.sent[at].fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    async fn keep_talking(self: Arc<Self>) -> Result<()> {
        let mut pace = interval(PACE);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            pace.tick().await;
            let acknowledged = self
                .session
                .heard(|heard| heard.acknowledged.iter().sum::<u32>());
            if self.sent(0) + self.sent(1) - acknowledged < UNACKNOWLEDGED_MAX {
                self.say()?;
            }
        }
    }

    /// Waits until the listener has heard so many more of each QoS than were sent before.
    async fn heard_after(&self, before: [u32; 2], more: u32) -> Result<()> {
        let enough = |heard: &Heard| {
            QUALITIES.into_iter().zip(before).all(|(qos, before)| {
                let last = heard.messages[qos as usize].last();
                last.is_some_and(|last| *last + 1 >= before + more)
            })
        };
        let what = format!("what {} has sent after a change", self.name);
        self.listener.until(&what, enough).await
    }

    /// Everything is acknowledged and has arrived: of QoS 1 at least once, of QoS 2 once. Returns how many came twice.
    async fn check(&self) -> Result<usize> {
        let sent = [self.sent(0), self.sent(1)];
        let settled = |heard: &Heard| heard.acknowledged[1..] == sent;
        let what = format!("the acknowledgements of {}", self.name);
        self.session.until(&what, settled).await?;
        self.heard_after(sent, 0).await?;
        self.listener.heard(|heard| {
            let mut twice = 0;
            for (qos, sent) in QUALITIES.into_iter().zip(sent) {
                let got = &heard.messages[qos as usize];
                let mut unique: Vec<u32> = Vec::new();
                for number in got {
                    // A repeated one comes behind its original.
                    if unique.last().is_none_or(|last| number > last) {
                        unique.push(*number);
                    }
                }
                ensure!(
                    unique.iter().copied().eq(0..sent),
                    "{} sent {sent} messages of {qos:?}, and {} arrived: {unique:?}",
                    self.name,
                    unique.len()
                );
                let more = got.len() - unique.len();
                ensure!(
                    more == 0 || qos == QoS::AtLeastOnce,
                    "{more} messages of {qos:?} that {} sent came twice",
                    self.name
                );
                twice += more;
            }
            Ok(twice)
        })
    }
}

/// What may not change while the phone moves, and what has to.
struct Counted {
    connects: u64,
    handshakes: u64,
    ended_badly: u64,
    migrations: u64,
}

impl Counted {
    async fn read(ground: &Ground) -> Result<Self> {
        let metrics = Metrics::read(ground.admin).await?;
        Ok(Self {
            connects: metrics.sum("roadstead_connects_total")?,
            handshakes: metrics.sum("roadstead_quic_handshakes_total")?,
            ended_badly: metrics.sum("roadstead_quic_timeouts_total")?
                + metrics.sum("roadstead_quic_violations_total")?
                + metrics.sum("roadstead_protocol_violations_total")?,
            migrations: metrics.sum("roadstead_quic_migrations_total")?,
        })
    }

    fn check(&self, before: &Self, moves: u64) -> Result<()> {
        ensure!(
            self.connects == before.connects && self.handshakes == before.handshakes,
            "somebody has connected again"
        );
        ensure!(
            self.ended_badly == before.ended_badly,
            "a connection has ended by a timeout or for breaking a rule"
        );
        let migrations = self.migrations - before.migrations;
        ensure!(
            migrations >= moves,
            "the node has seen {migrations} migrations, and the phone has moved {moves} times"
        );
        Ok(())
    }
}

/// The phone, the device that it is on, and who it talks with.
struct World<'a> {
    ground: &'a Ground,
    device: Device<'a>,
    endpoint: Endpoint,
    speakers: [Arc<Speaker>; 2],
}

impl<'a> World<'a> {
    async fn new(talk: &Arguments, ground: &'a Ground, name: &str) -> Result<Self> {
        let device = Device::new(ground).await?;
        within("the node", node_answers(ground.admin)).await?;
        let root = format!("{name}-{:08x}", std::process::id());
        let connect = async |endpoint: &Endpoint, host, who: &str, expiry_s| {
            let server = SocketAddr::new(host, talk.port);
            let client_id = format!("{root}-{who}");
            let session = Session::connect(endpoint, server, &client_id, expiry_s).await?;
            session.subscribe(&format!("{root}/{who}/+")).await?;
            Ok::<_, anyhow::Error>(Arc::new(session))
        };
        let host: IpAddr = talk.host.parse().context("--host is no address")?;
        let (endpoint, elsewhere) = (endpoint(&talk.tls, &[MQTT])?, endpoint(&talk.tls, &[MQTT])?);
        let phone = connect(&endpoint, host, "phone", EXPIRY_S).await?;
        let other = connect(&elsewhere, ground.still, "other", 0).await?;
        let speaker = |name, session: &Arc<Session>, listener: &Arc<Session>, to| {
            Arc::new(Speaker {
                name,
                session: Arc::clone(session),
                listener: Arc::clone(listener),
                topic: format!("{root}/{to}"),
                sent: Default::default(),
            })
        };
        let speakers = [
            speaker("the phone", &phone, &other, "other"),
            speaker("the other", &other, &phone, "phone"),
        ];
        Ok(Self {
            ground,
            device,
            endpoint,
            speakers,
        })
    }

    async fn happen(&mut self, change: Change) -> Result<()> {
        if change != Change::Port {
            self.device.vanish().await?;
        }
        if change != Change::Port && change.is_move() {
            self.device.choose_next();
        }
        if matches!(change, Change::Tunnel | Change::TunnelToElsewhere) {
            sleep(TUNNEL).await;
        }
        if matches!(change, Change::Port | Change::AddressAndPort) {
            change_port(&self.endpoint)?;
        }
        if change != Change::Port {
            self.device.appear().await?;
        }
        Ok(())
    }

    /// Waits until both have heard what the other has sent from now on.
    async fn talk_on(&self) -> Result<()> {
        for speaker in &self.speakers {
            let before = [speaker.sent(0), speaker.sent(1)];
            speaker.heard_after(before, BETWEEN).await?;
        }
        Ok(())
    }
}

async fn live_through(talk: &Arguments, name: &str, changes: &[Change]) -> Result<()> {
    let ground = talk.ground.as_ref().context("there is no device")?;
    let mut world = World::new(talk, ground, name).await?;
    let before = Counted::read(world.ground).await?;
    let talking: Vec<JoinHandle<Result<()>>> = world
        .speakers
        .iter()
        .map(|speaker| tokio::spawn(Arc::clone(speaker).keep_talking()))
        .collect();
    world.talk_on().await?;
    for change in changes {
        world.happen(*change).await?;
        let start = Instant::now();
        let result = world.talk_on().await;
        result.with_context(|| format!("after the change {change:?}"))?;
        let took = start.elapsed().as_millis();
        println!("   {change:?}: {BETWEEN} messages of each kind went each way within {took} ms");
    }
    for task in talking {
        task.abort();
        match task.await {
            Err(error) if error.is_cancelled() => {}
            ended => ended??,
        }
    }
    let mut twice = 0;
    for speaker in &world.speakers {
        // Whatever was repeated is before this one.
        speaker.say()?;
        twice += speaker.check().await?;
        let closed = speaker.session.connection.close_reason();
        ensure!(closed.is_none(), "{} was closed: {closed:?}", speaker.name);
    }
    let after = Counted::read(world.ground).await?;
    let moves = changes.iter().filter(|change| change.is_move()).count();
    after.check(&before, moves as u64)?;
    let sent = world.speakers.each_ref().map(|speaker| speaker.sent(1));
    println!(
        "   {} and {} messages of each QoS, {twice} of QoS 1 twice; {moves} moves, {} migrations",
        sent[0],
        sent[1],
        after.migrations - before.migrations
    );
    forget(talk, world, name).await
}

/// Ends the sessions.
async fn forget(talk: &Arguments, world: World<'_>, name: &str) -> Result<()> {
    for speaker in &world.speakers {
        speaker.session.disconnect().await?;
    }
    let host = talk.host.parse().context("--host is no address")?;
    let server = SocketAddr::new(host, talk.port);
    let client_id = format!("{name}-{:08x}-phone", std::process::id());
    let session = Session::connect(&world.endpoint, server, &client_id, 0).await?;
    session.disconnect().await
}

async fn node_answers(admin: SocketAddr) {
    while Metrics::read(admin).await.is_err() {
        sleep(START_POLL).await;
    }
}
