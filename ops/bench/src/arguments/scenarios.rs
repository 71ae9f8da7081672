//! What each scenario takes besides what all of them take.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::{Common, parse_duration};

/// Most sessions that a scenario takes.
const SESSIONS_MAX: i64 = 4_000_000;

#[derive(Args, Clone, Debug)]
pub(crate) struct Density {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Sessions to hold.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=SESSIONS_MAX))]
    pub(crate) sessions: u32,
    /// Connections opened in a second; 0 = as fast as the server takes them.
    #[arg(long, default_value_t = 4_000)]
    pub(crate) rate: u32,
    /// How long to hold them before memory is measured.
    #[arg(long, default_value = "10s", value_parser = parse_duration)]
    pub(crate) hold: Duration,
    /// Keep-alive of the sessions; each sends a PINGREQ so often.
    #[arg(long, default_value = "60s", value_parser = parse_duration)]
    pub(crate) keep_alive: Duration,
    /// Messages to random sessions after the hold.
    #[arg(long, default_value_t = 2_000)]
    pub(crate) messages: u32,
    /// Messages in a second.
    #[arg(long, default_value_t = 500)]
    pub(crate) message_rate: u32,
    /// QoS of the messages and the subscriptions.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
    pub(crate) qos: u8,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Connect {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Sessions to open.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=SESSIONS_MAX))]
    pub(crate) sessions: u32,
    /// Connections opened in a second; 0 = as fast as the server takes them.
    #[arg(long, default_value_t = 0)]
    pub(crate) rate: u32,
    /// Measure the storm after a restart instead: durable sessions with one subscription each are opened, the server is
    /// stopped and started again, and all come back and resume.
    #[arg(long)]
    pub(crate) resume: bool,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct P2p {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Pairs of a publisher and a subscriber.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) pairs: u32,
    /// Messages of a pair on their way while the throughput is measured.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=9))]
    pub(crate) window: u16,
    /// Whose throughput the load for latency is half and nine tenths of.
    #[arg(long, default_value = "slowest")]
    pub(crate) load_of: LoadOf,
    /// Messages in a second while latency is measured, instead of half and nine tenths of a throughput.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rate: Option<u32>,
    /// Measure the bare relay too, in turns with the server.
    #[arg(long, conflicts_with = "address")]
    pub(crate) limit: bool,
    #[command(flatten)]
    pub(crate) load: LoadArguments,
}

/// Whose throughput makes the load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LoadOf {
    /// That of the slowest that is compared: all have the same traffic.
    Slowest,
    /// Each server's own: a faster one has more traffic, and the generator less time for it.
    Own,
}

impl LoadOf {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Slowest => "slowest",
            Self::Own => "own",
        }
    }
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Fanout {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Subscribers of the one topic.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) subscribers: u32,
    /// Messages in a second; 0 = as fast as they arrive, two on their way.
    #[arg(long, default_value_t = 0)]
    pub(crate) rate: u32,
    #[command(flatten)]
    pub(crate) load: LoadArguments,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Fanin {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Publishers to the one topic.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) publishers: u32,
    /// Subscribers of it.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(crate) subscribers: u32,
    /// Messages in a second; 0 = as fast as they arrive, 256 on their way.
    #[arg(long, default_value_t = 0)]
    pub(crate) rate: u32,
    #[command(flatten)]
    pub(crate) load: LoadArguments,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Durable {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Durable sessions that are offline while messages are sent to them.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) sessions: u32,
    /// Clients that publish to them.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) publishers: u32,
    /// Messages to store.
    #[arg(long, default_value_t = 50_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) messages: u64,
    /// Bytes of a payload.
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(16..=65_536))]
    pub(crate) payload: u32,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Ping {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Sessions that ping.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=SESSIONS_MAX))]
    pub(crate) sessions: u32,
    /// PINGREQs in a second, in turns from all sessions. The default is that of a million sessions with a keep-alive of a
    /// minute.
    #[arg(long, default_value_t = 16_667, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rate: u32,
    /// Measure the bare relay too, in turns with the server.
    #[arg(long, conflicts_with = "address")]
    pub(crate) limit: bool,
    /// How long to measure.
    #[arg(long, default_value = "5s", value_parser = parse_duration)]
    pub(crate) duration: Duration,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Wargaming {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Sessions.
    #[arg(long, default_value_t = 300_000, value_parser = clap::value_parser!(u32).range(100..=SESSIONS_MAX))]
    pub(crate) sessions: u32,
    /// Members of a room.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(2..=1_000))]
    pub(crate) room: u32,
    /// Requests in a second.
    #[arg(long, default_value_t = 12_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) requests: u32,
    /// Messages to a whole room in a thousand requests; the others are from one session to another.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(0..=1_000))]
    pub(crate) to_rooms: u32,
    #[command(flatten)]
    pub(crate) share: Share,
    #[command(flatten)]
    pub(crate) load: LoadArguments,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Whatsapp {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Sessions: half of them are connected, the other half sleeps.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(100..=SESSIONS_MAX))]
    pub(crate) sessions: u32,
    /// Messages in a second.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rate: u32,
    #[command(flatten)]
    pub(crate) share: Share,
    /// Bytes of a payload.
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(16..=65_536))]
    pub(crate) payload: u32,
    /// How long to load the server before it is measured.
    #[arg(long, default_value = "5s", value_parser = parse_duration)]
    pub(crate) warm_up: Duration,
    /// How long to measure.
    #[arg(long, default_value = "30s", value_parser = parse_duration)]
    pub(crate) duration: Duration,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Phoenix {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Subscribers of the room, over WebSocket unless --transport says otherwise.
    #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(u32).range(10..=SESSIONS_MAX))]
    pub(crate) sessions: u32,
    /// Messages to the room.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) messages: u32,
    /// Time from one to the next.
    #[arg(long, default_value = "3s", value_parser = parse_duration)]
    pub(crate) every: Duration,
    #[command(flatten)]
    pub(crate) share: Share,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Soak {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Sessions.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(100..=SESSIONS_MAX))]
    pub(crate) sessions: u32,
    /// Sessions that end and come back in a second.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) churn: u32,
    /// Messages in a second.
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rate: u32,
    /// How long.
    #[arg(long, default_value = "1h", value_parser = parse_duration)]
    pub(crate) duration: Duration,
    /// Time from one look at memory, descriptors and latency to the next.
    #[arg(long, default_value = "10s", value_parser = parse_duration)]
    pub(crate) sample: Duration,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Cluster {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Pairs of a publisher and a subscriber, on different nodes where there are three.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) pairs: u32,
    /// Subscribers of one topic; its two publishers are on another node.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) subscribers: u32,
    /// Bytes of a payload.
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(16..=65_536))]
    pub(crate) payload: u32,
    /// How long to load the nodes before each of six measurements.
    #[arg(long, default_value = "1s", value_parser = parse_duration)]
    pub(crate) warm_up: Duration,
    /// How long to measure, each time.
    #[arg(long, default_value = "3s", value_parser = parse_duration)]
    pub(crate) duration: Duration,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct ClusterReconnect {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Sessions with one group, and as many with many.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=5_000))]
    pub(crate) sessions: u32,
    /// Groups that each of the others has subscribed to, the same for all.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(2..=200))]
    pub(crate) groups: u32,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Storm {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Pairs of a publisher and a subscriber whose latency is measured.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=4_000))]
    pub(crate) pairs: u32,
    /// Their messages in a second.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) messages: u32,
    /// Sessions that are opened to find out how many the server takes in a second.
    #[arg(long, default_value_t = 3_000, value_parser = clap::value_parser!(u32).range(100..=10_000))]
    pub(crate) probe: u32,
    /// Durable sessions that half of the storm's clients come back to.
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    pub(crate) known: u32,
    /// Clients that want in, as a multiple of what the server takes.
    #[arg(long, default_value_t = 10.0)]
    pub(crate) times: f64,
    /// Clients that want in, in a second, instead.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rate: Option<u32>,
    /// How long the storm lasts.
    #[arg(long, default_value = "60s", value_parser = parse_duration)]
    pub(crate) duration: Duration,
    /// How long is measured before it and after it.
    #[arg(long, default_value = "10s", value_parser = parse_duration)]
    pub(crate) calm: Duration,
    /// How long a client of the storm waits before it gives up.
    #[arg(long, default_value = "2s", value_parser = parse_duration)]
    pub(crate) patience: Duration,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct StormClients {
    /// Whereto.
    #[arg(long)]
    pub(crate) remote: SocketAddr,
    /// The certificate of a server that is spoken to in TLS.
    #[arg(long)]
    pub(crate) trust: Option<PathBuf>,
    /// Clients in a second.
    #[arg(long)]
    pub(crate) rate: f64,
    /// Which of how many processes this is: each has names and addresses of its own.
    #[arg(long, default_value_t = 0)]
    pub(crate) process: u32,
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) processes: u32,
    #[arg(long, value_parser = parse_duration)]
    pub(crate) duration: Duration,
    #[arg(long, value_parser = parse_duration)]
    pub(crate) patience: Duration,
    /// Durable sessions from this number on.
    #[arg(long, default_value_t = 0)]
    pub(crate) known_first: u32,
    /// How many.
    #[arg(long, default_value_t = 0)]
    pub(crate) known: u32,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Reactor {
    /// Print one JSON object as the last line.
    #[arg(long)]
    pub(crate) json: bool,
    /// Times that everything is measured.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(crate) runs: u32,
    /// Connections.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=18_000))]
    pub(crate) connections: u32,
    /// Of these, connections with one message on its way.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=18_000))]
    pub(crate) active: u32,
    /// How long to measure.
    #[arg(long, default_value = "5s", value_parser = parse_duration)]
    pub(crate) duration: Duration,
    /// Keep the rows of results.
    #[arg(long)]
    pub(crate) record: bool,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Relay {
    /// Where to listen.
    #[arg(long)]
    pub(crate) listen: SocketAddr,
    /// Connections it may hold.
    #[arg(long, default_value_t = 16_384)]
    pub(crate) connections_max: u32,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct LoadArguments {
    /// QoS of publishes and subscriptions.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
    pub(crate) qos: u8,
    /// Bytes of a payload.
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(16..=65_536))]
    pub(crate) payload: u32,
    /// How long to load the server before it is measured.
    #[arg(long, default_value = "1s", value_parser = parse_duration)]
    pub(crate) warm_up: Duration,
    /// How long to measure.
    #[arg(long, default_value = "5s", value_parser = parse_duration)]
    pub(crate) duration: Duration,
}

/// A part of a large scenario, for smaller machines.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Share {
    /// Multiplies sessions and rates: 0.1 = a tenth of it.
    #[arg(long, default_value_t = 1.0, value_parser = parse_scale)]
    pub(crate) scale: f64,
}

impl Share {
    /// So much of a size, at least 1.
    pub(crate) fn of(self, size: u32) -> u32 {
        ((f64::from(size) * self.scale).round() as u32).max(1)
    }
}

fn parse_scale(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(scale) if scale > 0.0 && scale <= 4.0 => Ok(scale),
        _ => Err("write a number above 0, 4 at most".to_owned()),
    }
}
