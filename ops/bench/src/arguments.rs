//! What may be typed, with its help.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use edge_proto::packet::{QoS, Version};

/// Loads an MQTT server and says what it costs.
///
/// Builds and starts this repository's server unless --server or --address names another. Progress goes to standard error,
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
    /// Pairs of clients: one publishes to the other, a fixed number of messages on their way.
    P2p(P2p),
    /// Few publishers, and every message goes to all subscribers.
    Fanout(Fanout),
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
    /// How clients connect.
    #[arg(long, default_value = "tcp")]
    pub(crate) transport: Transport,
    /// I/O backend of the server.
    #[arg(long, default_value = "io_uring")]
    pub(crate) io: Io,
    /// Protocol version of the clients.
    #[arg(long, default_value = "5")]
    pub(crate) mqtt: Mqtt,
    /// Cores of the server [default: as many as the sessions need].
    #[arg(long)]
    pub(crate) cores: Option<u16>,
    /// Pin each core of the server to a CPU.
    #[arg(long)]
    pub(crate) pin: bool,
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

#[derive(Args, Clone, Debug)]
pub(crate) struct Density {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Sessions to hold.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=4_000_000))]
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
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=4_000_000))]
    pub(crate) sessions: u32,
    /// Connections opened in a second; 0 = as fast as the server takes them.
    #[arg(long, default_value_t = 0)]
    pub(crate) rate: u32,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct P2p {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Pairs of a publisher and a subscriber.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) pairs: u32,
    /// Messages of a pair on their way.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=100))]
    pub(crate) window: u16,
    #[command(flatten)]
    pub(crate) load: LoadArguments,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Fanout {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Subscribers of the one topic.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) subscribers: u32,
    /// Messages in a second.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rate: u32,
    #[command(flatten)]
    pub(crate) load: LoadArguments,
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

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Transport {
    Tcp,
    Websocket,
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

impl Transport {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Websocket => "websocket",
        }
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
        unit => Err(format!("`{unit}` is no unit: write ms, s or m")),
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
        assert!(parse_duration("2h").is_err() && parse_duration("s").is_err());
    }
}
