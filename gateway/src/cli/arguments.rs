//! What may be typed, with its help.

use std::net::SocketAddr;
use std::path::PathBuf;

use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::config::Setting as _;
use crate::control::access::BanKind;

/// Roadstead, a messaging gateway: MQTT 5 and 3.1.1 over TCP, TLS and WebSocket.
///
/// Without a command it runs a node with its defaults: MQTT on loopback port 1883, WebSocket on 8083, HTTP for operators on
/// 9883, data in ./data.
#[derive(Debug, Parser)]
#[command(
    name = "roadstead",
    version,
    args_conflicts_with_subcommands = true,
    max_term_width = 100
)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    settings: Settings,
}

impl Cli {
    /// The command; to run a node when none was named.
    pub(super) fn command(self) -> Command {
        self.command.unwrap_or(Command::Run(self.settings))
    }

    /// True when errors are wanted as JSON too.
    pub(super) fn wants_json(&self) -> bool {
        matches!(&self.command, Some(Command::Ctl(Ctl { json: true, .. })))
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run a node (the default).
    Run(Settings),
    /// Say whether a node would start on this machine.
    ///
    /// Tells which I/O backend it would use and why, and how many sessions the limits of the system allow. Exit code 1 when
    /// it would not start.
    Check {
        #[command(flatten)]
        settings: Settings,
        /// For machines.
        #[arg(long)]
        json: bool,
    },
    /// Look at the configuration.
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Look at the Valkey or Redis behind a node (engine.kind = "redis"), or move a store there.
    Engine {
        #[command(subcommand)]
        command: EngineCommand,
    },
    /// Put a user into a password file, change a password, or take a user out.
    ///
    /// The password is asked for at the terminal, or is the first line of standard input. A running node takes the file within 5 s.
    Passwd(Passwd),
    /// Ask a running node, or change something in it.
    Ctl(Ctl),
}

#[derive(Debug, Subcommand)]
pub(super) enum EngineCommand {
    /// Say what the Valkey or Redis is, and whether it keeps what is promised.
    ///
    /// Asks every server for its version, settings and state, and changes nothing. Exit code 1 when a node would not use it.
    Check {
        #[command(flatten)]
        settings: Settings,
        /// For machines.
        #[arg(long)]
        json: bool,
    },
    /// Move the store of a single node into the Valkey or Redis.
    ///
    /// The node that used the folder has to be stopped. The folder is read and stays as it is. Nothing is moved to where a node has
    /// written already. What was interrupted goes on with --resume.
    Migrate {
        /// Folder of the embedded store (its engine.path).
        #[arg(long, value_name = "FOLDER")]
        from: PathBuf,
        /// Go on with an interrupted migration of the same store.
        #[arg(long)]
        resume: bool,
        #[command(flatten)]
        settings: Settings,
        /// For machines.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Args, Debug)]
pub(super) struct Passwd {
    /// The password file; made when it is not there.
    pub(super) file: PathBuf,
    /// The name of the user.
    pub(super) user: String,
    /// The groups of the user, e.g. staff,night. Left out: none.
    #[arg(long, value_name = "GROUPS", value_delimiter = ',')]
    pub(super) groups: Vec<String>,
    /// Store it for SCRAM-SHA-256 too (MQTT 5.0 enhanced authentication), in place of argon2id.
    #[arg(long)]
    pub(super) scram: bool,
    /// Take the user out.
    #[arg(long, conflicts_with_all = ["groups", "scram"])]
    pub(super) delete: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Print the configuration in effect, each value with its origin. The output is a valid configuration file.
    Print {
        #[command(flatten)]
        settings: Settings,
        /// For machines.
        #[arg(long)]
        json: bool,
    },
    /// Say what is wrong with a configuration file. The environment is not looked at.
    Check {
        /// The file.
        file: PathBuf,
    },
    /// Print a file with every key, its meaning and its default.
    Example,
}

/// Where the configuration comes from. Later ones win: defaults, file, environment (`ROADSTEAD_<SECTION>_<KEY>`), flags.
#[derive(Args, Clone, Debug, Default)]
pub(super) struct Settings {
    /// The configuration file [env: ROADSTEAD_CONFIG].
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Set one key, e.g. --set mqtt.packet_bytes_max="256 KiB". May be repeated.
    #[arg(long, value_name = "SECTION.KEY=VALUE", value_parser = parse_set)]
    pub(super) set: Vec<(String, String)>,
    /// I/O backend: auto, io_uring or epoll (io.backend).
    #[arg(long, value_name = "BACKEND")]
    pub(super) io: Option<String>,
    /// Number of cores, or "all" (node.cores).
    #[arg(long, value_name = "COUNT")]
    pub(super) cores: Option<String>,
    /// Folder of the engine (engine.path).
    #[arg(long, value_name = "FOLDER")]
    pub(super) data: Option<String>,
    /// Address for MQTT over TCP instead of the configured ones. May be repeated (listeners.tcp).
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(super) listen: Vec<String>,
}

fn parse_set(text: &str) -> Result<(String, String), String> {
    let (key, value) = text
        .split_once('=')
        .ok_or("write section.key=value, e.g. node.cores=4")?;
    Ok((key.trim().to_owned(), value.trim().to_owned()))
}

#[derive(Args, Debug)]
pub(super) struct Ctl {
    /// Admin address of the node [env: ROADSTEAD_ADDRESS] [default: 127.0.0.1:9883].
    #[arg(long, global = true, value_name = "ADDRESS:PORT")]
    pub(super) address: Option<SocketAddr>,
    /// For machines: the answer of the node as JSON.
    #[arg(long, global = true)]
    pub(super) json: bool,
    #[command(subcommand)]
    pub(super) command: CtlCommand,
}

#[derive(Debug, Subcommand)]
pub(super) enum CtlCommand {
    /// How the node is doing.
    Status,
    /// Sessions.
    Sessions {
        #[command(subcommand)]
        command: SessionsCommand,
    },
    /// Publish a message as the node itself.
    Publish(Publish),
    /// Subscriptions.
    Subscriptions {
        /// Only filters that begin so.
        #[arg(long, default_value = "")]
        prefix: String,
        /// At most so many.
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
    /// Retained messages.
    Retained {
        #[command(subcommand)]
        command: RetainedCommand,
    },
    /// Who is kept out.
    Bans {
        #[command(subcommand)]
        command: BansCommand,
    },
    /// The cluster, as this node sees it.
    Cluster {
        #[command(subcommand)]
        command: ClusterCommand,
    },
    /// Read the files of the TLS listeners and of access again. Connections stay open as far as the new rules let them.
    Reload,
}

#[derive(Debug, Subcommand)]
pub(super) enum BansCommand {
    /// List them.
    List {
        /// At most so many.
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
    /// Ban a client, a user or a network: what is connected is ended, and nothing of theirs is let in.
    Add(BanAdd),
    /// Lift a ban.
    Lift {
        /// What was banned.
        kind: BanKind,
        /// Client identifier, user or network.
        name: String,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum ClusterCommand {
    /// This node in its cluster: whether it serves, and whom it sees.
    Status,
    /// The view that holds on this node, with all members.
    View,
    /// How many partitions each core of the cluster owns; which ones, with --json.
    Partitions,
    /// Have this node leave: it hands over its partitions, sends its clients to other nodes, and stops.
    Drain {
        /// Come back only when the node has stopped.
        #[arg(long)]
        wait: bool,
    },
    /// Give a member another share of the partitions.
    Rebalance {
        /// The member, as `view` names it.
        node: String,
        /// Its weight, against the weights of the others.
        #[arg(long)]
        weight: u32,
    },
}

#[derive(Args, Debug)]
pub(super) struct BanAdd {
    /// What to ban.
    pub(super) kind: BanKind,
    /// Client identifier, user or network, e.g. 192.0.2.0/24.
    pub(super) name: String,
    /// For how long, e.g. 90s, 30m, 12h or 7d. Left out: until it is lifted.
    #[arg(long = "for", value_name = "TIME", value_parser = parse_time)]
    pub(super) time: Option<Duration>,
    /// Why, for other operators; clients are not told.
    #[arg(long, default_value = "")]
    pub(super) reason: String,
}

fn parse_time(text: &str) -> Result<Duration, String> {
    Duration::parse(&toml::Value::String(text.to_owned()))
}

#[derive(Debug, Subcommand)]
pub(super) enum SessionsCommand {
    /// List them by client identifier.
    List {
        /// Only client identifiers that begin so.
        #[arg(long, default_value = "")]
        prefix: String,
        /// At most so many.
        #[arg(long, default_value_t = 100)]
        limit: usize,
        /// All of them.
        #[arg(long, conflicts_with = "limit")]
        all: bool,
    },
    /// Show one.
    Show {
        /// Client identifier.
        id: String,
        /// Of this user, where several have a client of this name.
        #[arg(long)]
        user: Option<String>,
    },
    /// Disconnect a client.
    Kick {
        /// Client identifier.
        id: String,
        /// Of this user only.
        #[arg(long)]
        user: Option<String>,
        /// Also end its session: its subscriptions and waiting messages are deleted.
        #[arg(long)]
        delete: bool,
    },
}

#[derive(Args, Debug)]
pub(super) struct Publish {
    /// Topic name.
    pub(super) topic: String,
    /// The payload, as text.
    #[arg(required_unless_present = "file", conflicts_with = "file")]
    pub(super) payload: Option<String>,
    /// Take the payload from a file; - is standard input.
    #[arg(long)]
    pub(super) file: Option<PathBuf>,
    /// Quality of service: 0, 1 or 2.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
    pub(super) qos: u8,
    /// Retain it. With an empty payload: clear the retained message of the topic.
    #[arg(long)]
    pub(super) retain: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum RetainedCommand {
    /// List them by topic.
    List {
        /// Only topics that match this filter.
        #[arg(default_value = "#")]
        filter: String,
        /// At most so many.
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
    /// Clear those that match a filter.
    Clear {
        /// Which topics; "#" is all.
        filter: String,
        /// Do not ask first.
        #[arg(long)]
        yes: bool,
    },
}
