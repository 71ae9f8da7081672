//! What may be typed, with its help: what all scenarios have in common here, each scenario's own in `scenarios`.

mod scenarios;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use edge_proto::packet::{QoS, Version};

pub(crate) use scenarios::{
    Cluster, ClusterReconnect, Connect, Density, Durable, Fanin, Fanout, LoadArguments, LoadOf,
    P2p, Phoenix, Ping, Reactor, Relay, Soak, Storm, StormClients, Wargaming, Whatsapp,
};

/// Loads an MQTT server and says what it costs.
///
/// Each scenario starts a server afresh in each of its runs. Builds this repository's server unless --server or --address names another. Progress goes to standard error,
/// the table to standard output, and with --json one JSON object is the last line of it.
#[derive(Debug, Parser)]
#[command(name = "bench", version, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) scenario: Scenario,
}

/// What to do with the server.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Scenario {
    /// Hold idle sessions with one subscription each: bytes per session, disconnects, latency of random messages.
    Density(Density),
    /// Open sessions as fast as the server takes them: CONNECT/s and CPU of each.
    Connect(Connect),
    /// Pairs of clients: throughput at saturation, then latency at half and at nine tenths of it.
    P2p(P2p),
    /// Few publishers, and every message goes to all subscribers.
    Fanout(Fanout),
    /// Many publishers, and every message goes to few subscribers.
    Fanin(Fanin),
    /// QoS 1 messages to sessions that are offline, and their later delivery.
    Durable(Durable),
    /// What a PINGREQ costs.
    Ping(Ping),
    /// A game's chat: 300,000 sessions in rooms, 12,000 requests a second.
    Wargaming(Wargaming),
    /// One messenger server's share: a million sessions, 10,000 messages a second, half of the recipients asleep.
    Whatsapp(Whatsapp),
    /// One room with 200,000 WebSocket subscribers: time until the last has a message.
    Phoenix(Phoenix),
    /// Churn for hours: does anything grow, is anything lost without a reason.
    Soak(Soak),
    /// The same messages on one node and on three nodes of a cluster: CPU of all nodes per message.
    Cluster(Cluster),
    /// Durable sessions come back to a cluster, with one group subscribed and with many: what each costs the engine.
    ClusterReconnect(ClusterReconnect),
    /// Far more clients want in than the server can take: latency of those who are in, before, during and after, and how many come in.
    Storm(Storm),
    /// The echo of our reactor against monoio's and tokio-uring's: CPU per message, bytes per idle connection.
    Reactor(Reactor),
    /// The physical limit: moves bytes between the two clients of a pair and routes nothing.
    #[command(hide = true)]
    Relay(Relay),
    /// The clients of a storm.
    #[command(hide = true)]
    StormClients(StormClients),
}

/// What every scenario has.
#[derive(Args, Clone, Debug)]
pub(crate) struct Common {
    /// Print one JSON object as the last line.
    #[arg(long)]
    pub(crate) json: bool,
    /// The server's program [default: built from this repository].
    #[arg(long, value_name = "PATH", conflicts_with = "address")]
    pub(crate) server: Option<PathBuf>,
    /// A server that runs already.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) address: Option<SocketAddr>,
    /// Process id of the server at --address: without it nothing is said of its memory and CPU time.
    #[arg(long, value_name = "PID", requires = "address")]
    pub(crate) pid: Option<u32>,
    /// How clients connect [default: tcp].
    #[arg(long = "transport", value_name = "TRANSPORT")]
    pub(crate) transport_asked: Option<Transport>,
    /// The only version of TLS that clients speak [default: the best of both].
    #[arg(long)]
    pub(crate) tls_version: Option<TlsVersion>,
    /// Key of the server's certificate.
    #[arg(long, default_value = "ecdsa")]
    pub(crate) tls_key: TlsKey,
    /// I/O backend of the server.
    #[arg(long, default_value = "io_uring")]
    pub(crate) io: Io,
    /// Protocol version of the clients.
    #[arg(long, default_value = "5")]
    pub(crate) mqtt: Mqtt,
    /// Cores of the server [default: one where CPU is compared (p2p, fanout, fanin, durable, ping, connect, cluster), if the
    /// sessions fit on it; else as many as the sessions need].
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1_024))]
    pub(crate) cores: Option<u16>,
    /// Whether the server has the first CPUs to itself, as many as it has cores, and the generator the others.
    #[arg(long, default_value = "auto", num_args = 0..=1, default_missing_value = "always")]
    pub(crate) pin: Pin,
    /// Times that everything is measured; figures are medians, with their range beside them [default: 5; 1 where a run is
    /// long: density and connect from 50,000 sessions on, wargaming, whatsapp, phoenix, soak].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(crate) runs: Option<u32>,
    /// Servers to measure beside ours, in turns with it; `cargo xtask tools` installs them.
    #[arg(
        long,
        value_name = "NAME",
        value_delimiter = ',',
        conflicts_with = "address"
    )]
    pub(crate) rivals: Vec<RivalName>,
    /// Threads of the generator [default: as many as the sessions need].
    #[arg(long)]
    pub(crate) threads: Option<usize>,
    /// Set a key of the server's configuration. May be repeated.
    #[arg(long, value_name = "SECTION.KEY=VALUE", conflicts_with = "address")]
    pub(crate) set: Vec<String>,
    /// Keep the row of results in results/SCENARIO.jsonl.
    #[arg(long)]
    pub(crate) record: bool,
    /// Seed of all random choices.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
}

impl Common {
    /// How clients connect.
    pub(crate) fn transport(&self) -> Transport {
        self.transport_asked.unwrap_or(Transport::Tcp)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Transport {
    Tcp,
    Websocket,
    /// MQTT over TLS.
    Tls,
    /// MQTT over WebSocket over TLS.
    Wss,
    /// MQTT over QUIC.
    Quic,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum TlsVersion {
    #[value(name = "1.2")]
    V12,
    #[value(name = "1.3")]
    V13,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum TlsKey {
    /// P-256.
    Ecdsa,
    /// 2,048 bits.
    Rsa,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Io {
    #[value(name = "io_uring")]
    IoUring,
    Epoll,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mqtt {
    #[value(name = "3.1.1")]
    V311,
    #[value(name = "5")]
    V5,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Pin {
    /// When the server has fewer cores than there are CPUs.
    Auto,
    Always,
    Never,
}

/// A server that is measured beside ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum RivalName {
    Mosquitto,
    Nats,
    Rumqttd,
    Ejabberd,
    Rabbitmq,
}

impl RivalName {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Mosquitto => "mosquitto",
            Self::Nats => "nats",
            Self::Rumqttd => "rumqttd",
            Self::Ejabberd => "ejabberd",
            Self::Rabbitmq => "rabbitmq",
        }
    }
}

impl Transport {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Websocket => "websocket",
            Self::Tls => "tls",
            Self::Wss => "wss",
            Self::Quic => "quic",
        }
    }

    /// True when MQTT is in WebSocket frames.
    pub(crate) const fn is_websocket(self) -> bool {
        matches!(self, Self::Websocket | Self::Wss)
    }

    /// True when all of it is in TLS.
    pub(crate) const fn is_secure(self) -> bool {
        matches!(self, Self::Tls | Self::Wss | Self::Quic)
    }
}

impl Io {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::IoUring => "io_uring",
            Self::Epoll => "epoll",
        }
    }
}

impl From<Mqtt> for Version {
    fn from(mqtt: Mqtt) -> Self {
        match mqtt {
            Mqtt::V311 => Self::V311,
            Mqtt::V5 => Self::V5,
        }
    }
}

/// The QoS of a number that was checked when it was parsed.
pub(crate) fn qos(number: u8) -> QoS {
    QoS::from_u8(number).unwrap_or(QoS::AtMostOnce)
}

/// `10s`, `500ms`, `2m`.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|character: char| character.is_ascii_alphabetic());
    let number: u64 = digits
        .parse()
        .map_err(|_| "write a number and a unit: 500ms, 10s, 2m".to_owned())?;
    match &text[digits.len()..] {
        "ms" => Ok(Duration::from_millis(number)),
        "s" | "" => Ok(Duration::from_secs(number)),
        "m" => Ok(Duration::from_secs(number * 60)),
        "h" => Ok(Duration::from_secs(number * 3_600)),
        unit => Err(format!("`{unit}` is no unit: write ms, s, m or h")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        assert!(parse_duration("2d").is_err() && parse_duration("s").is_err());
    }
}
