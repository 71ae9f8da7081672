//! Real clients hold the scripted conversation of `ops/clients` with a server, one step for each client and server.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::network::{CLIENT, DEVICE, NODE, NODE_STILL, Network, Side};
use crate::process::{LIMIT, run};
use crate::project::Project;
use crate::server::{ADMIN_PORT, Against, Security, Server, certificates};
use crate::step::Step;
use crate::tools::{self, Tool};

/// Most that one conversation may take; each wait in a script has a far shorter deadline of its own.
const CONVERSATION_LIMIT: Duration = Duration::from_secs(300);

/// A client, and the way it is made to speak.
struct Client {
    name: &'static str,
    needs: &'static [Tool],
    way: Way,
    /// Scenarios that Mosquitto 2.0.11 fails by its own fault: after the PUBACK of a message that is not the last one in
    /// flight it sends more than the client's Receive Maximum allows; it does not tell a connection that it was taken over;
    /// and it stops sending QoS 2 messages to a client of version 5 that has a low Receive Maximum, as mosquitto_sub has.
    mosquitto_fails: &'static str,
    command: fn(&Project) -> Command,
}

/// What a client speaks over, and so which listener the server needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Tcp,
    WebSocket,
    Tls,
    /// TLS, with a certificate of the client.
    MutualTls,
    /// WebSocket over TLS.
    SecureWebSocket,
    Quic,
    /// Not the conversation: clients with wrong certificates, who must not get in, over TLS. With what the node's log has to say
    /// of them.
    Refusals(&'static [&'static str]),
    /// The same over QUIC.
    QuicRefusals(&'static [&'static str]),
}

impl Way {
    fn security(self) -> Security {
        match self {
            Self::Tcp | Self::WebSocket => Security::None,
            Self::Tls | Self::SecureWebSocket | Self::Quic => Security::Tls,
            Self::MutualTls | Self::Refusals(_) | Self::QuicRefusals(_) => Security::MutualTls,
        }
    }

    /// What the script is told of it.
    fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Tcp | Self::WebSocket | Self::Tls | Self::SecureWebSocket => &[],
            Self::Quic => &["--quic"],
            Self::MutualTls => &["--certificate", "client"],
            Self::Refusals(_) => &["--certificate", "client", "--refusals"],
            Self::QuicRefusals(_) => &["--certificate", "client", "--refusals", "--quic"],
        }
    }

    /// What the node's log has to say afterwards.
    fn logged(self) -> &'static [&'static str] {
        match self {
            Self::Refusals(lines) | Self::QuicRefusals(lines) => lines,
            _ => &[],
        }
    }
}

/// A line per client and way: this is all that a new one needs here.
const CLIENTS: &[Client] = &[
    Client {
        name: "mosquitto_pub/sub",
        needs: &[Tool::Python, Tool::Mosquitto],
        way: Way::Tcp,
        mosquitto_fails: "resume-queued,burst-qos-2",
        command: mosquitto,
    },
    Client {
        name: "mosquitto_pub/sub TLS",
        needs: &[Tool::Python, Tool::Mosquitto],
        way: Way::Tls,
        mosquitto_fails: "resume-queued,burst-qos-2",
        command: mosquitto,
    },
    Client {
        name: "mosquitto_pub/sub mutual TLS",
        needs: &[Tool::Python, Tool::Mosquitto],
        way: Way::MutualTls,
        mosquitto_fails: "resume-queued,burst-qos-2",
        command: mosquitto,
    },
    Client {
        name: "mosquitto_pub refused",
        needs: &[Tool::Python, Tool::Mosquitto],
        way: Way::Refusals(REFUSED),
        mosquitto_fails: "",
        command: mosquitto,
    },
    Client {
        name: "paho 3.1.1",
        needs: &[Tool::Python],
        way: Way::Tcp,
        mosquitto_fails: "",
        command: |project| python(project, "paho_conversation.py", &["--protocol", "311"]),
    },
    Client {
        name: "paho 5",
        needs: &[Tool::Python],
        way: Way::Tcp,
        mosquitto_fails: "receive-maximum,take-over-reason",
        command: paho_5,
    },
    Client {
        name: "paho 5 TLS",
        needs: &[Tool::Python],
        way: Way::Tls,
        mosquitto_fails: "receive-maximum,take-over-reason",
        command: paho_5,
    },
    Client {
        name: "paho refused",
        needs: &[Tool::Python],
        way: Way::Refusals(REFUSED),
        mosquitto_fails: "",
        command: paho_5,
    },
    Client {
        name: "MQTT.js TCP",
        needs: &[Tool::Npm],
        way: Way::Tcp,
        mosquitto_fails: "take-over-reason",
        command: |project| node(project, &["--transport", "tcp"]),
    },
    Client {
        name: "MQTT.js WebSocket",
        needs: &[Tool::Npm],
        way: Way::WebSocket,
        mosquitto_fails: "",
        command: |project| node(project, &["--transport", "ws"]),
    },
    Client {
        name: "MQTT.js TLS",
        needs: &[Tool::Npm],
        way: Way::Tls,
        mosquitto_fails: "take-over-reason",
        command: |project| node(project, &["--transport", "tcp"]),
    },
    Client {
        name: "MQTT.js secure WebSocket",
        needs: &[Tool::Npm],
        way: Way::SecureWebSocket,
        mosquitto_fails: "",
        command: |project| node(project, &["--transport", "ws"]),
    },
    Client {
        name: "MQTT.js refused",
        needs: &[Tool::Npm],
        way: Way::Refusals(REFUSED.split_at(2).1),
        mosquitto_fails: "",
        command: |project| node(project, &["--transport", "tcp"]),
    },
    Client {
        name: "rumqttc",
        needs: &[],
        way: Way::Tcp,
        mosquitto_fails: "",
        command: rumqttc,
    },
    Client {
        name: "rumqttc TLS",
        needs: &[],
        way: Way::Tls,
        mosquitto_fails: "",
        command: rumqttc,
    },
    Client {
        name: "rumqttc refused",
        needs: &[],
        way: Way::Refusals(REFUSED),
        mosquitto_fails: "",
        command: rumqttc,
    },
    Client {
        name: "mqtt5 QUIC",
        needs: &[],
        way: Way::Quic,
        mosquitto_fails: "",
        command: mqtt5,
    },
    Client {
        name: "mqtt5 TLS",
        needs: &[],
        way: Way::Tls,
        mosquitto_fails: "",
        command: mqtt5,
    },
    Client {
        name: "mqtt5 QUIC refused",
        needs: &[],
        way: Way::QuicRefusals(&[
            "reason=\"peer_alert\" detail=aborted by peer: the cryptographic handshake failed: error 48",
            "reason=\"certificate_missing\"",
            "reason=\"certificate_refused\" detail=the cryptographic handshake failed: error 48",
            "reason=\"certificate_refused\" detail=the cryptographic handshake failed: error 45",
            "reason=\"certificate_revoked\"",
        ]),
        mosquitto_fails: "",
        command: mqtt5,
    },
    Client {
        name: "quinn QUIC",
        needs: &[],
        way: Way::Quic,
        mosquitto_fails: "",
        command: quinn,
    },
    Client {
        name: "quinn refused",
        needs: &[],
        way: Way::QuicRefusals(&[
            "reason=\"peer_alert\" detail=aborted by peer: the cryptographic handshake failed: error 48",
            "reason=\"peer_alert\" detail=aborted by peer: the cryptographic handshake failed: error 45",
            "reason=\"certificate_missing\"",
            "reason=\"certificate_refused\" detail=the cryptographic handshake failed: error 48",
            "reason=\"certificate_refused\" detail=the cryptographic handshake failed: error 45",
            "reason=\"certificate_revoked\"",
            "reason=\"protocol\"",
        ]),
        mosquitto_fails: "",
        command: quinn,
    },
];

/// What the node's log has to say of those that were refused over TLS: a line for each. The first two are what clients say.
const REFUSED: &[&str] = &[
    "peer_alert: received fatal alert: UnknownCA",
    "peer_alert: received fatal alert: CertificateExpired",
    "certificate_missing: ",
    "certificate_refused: invalid peer certificate: UnknownIssuer",
    "certificate_refused: invalid peer certificate: certificate expired",
    "certificate_revoked: invalid peer certificate: Revoked",
];

/// The conversations with both backends of a node, for the verb `test`. The node has to be built.
pub(crate) fn steps() -> Vec<Step> {
    let mut steps = vec![build_quic_clients()];
    for backend in ["io_uring", "epoll"] {
        steps.extend(steps_with(&Against::Roadstead(backend)));
    }
    steps
}

/// The conversations with one server, for the verb `clients`: builds the node if it is one.
pub(crate) fn steps_against(server: &str) -> Result<Vec<Step>> {
    let against = match server {
        "io_uring" => Against::Roadstead("io_uring"),
        "epoll" => Against::Roadstead("epoll"),
        "mosquitto" => Against::Mosquitto,
        address => running(address).with_context(|| {
            format!(
                "`{address}` is no server: write io_uring, epoll, mosquitto or HOST:PORT[:WS_PORT]"
            )
        })?,
    };
    let mut steps = Vec::new();
    if matches!(against, Against::Roadstead(_)) {
        steps.extend([build_node(), build_quic_clients()]);
    }
    steps.extend(steps_with(&against));
    Ok(steps)
}

/// Builds the server in release mode.
pub(crate) fn build_node() -> Step {
    Step::cargo(
        "build roadstead",
        &[],
        &["build", "--release", "--locked", "--package", "gateway"],
    )
}

/// Builds the clients over QUIC, which are a workspace of their own, and runs its tests: it takes longer than a conversation may.
fn build_quic_clients() -> Step {
    Step::call("build the QUIC clients", &[], |project| {
        for verb in ["build", "test"] {
            run(project, &mut quic_clients(project, verb, &[]), LIMIT)?;
        }
        Ok(())
    })
}

fn running(address: &str) -> Result<Against> {
    let mut parts = address.split(':');
    let host = parts
        .next()
        .filter(|host| !host.is_empty())
        .context("no host")?
        .to_owned();
    let port = parts.next().context("no port")?.parse()?;
    let websocket_port = parts.next().map(str::parse).transpose()?;
    Ok(Against::Running {
        host,
        port,
        websocket_port,
    })
}

fn steps_with(against: &Against) -> Vec<Step> {
    let server = match against {
        Against::Roadstead(backend) => (*backend).to_owned(),
        Against::Mosquitto => "Mosquitto".to_owned(),
        Against::Running { host, port, .. } => format!("{host}:{port}"),
    };
    let conversations = CLIENTS
        .iter()
        .filter(|client| speaks(against, client.way))
        .map(|client| {
            let against = against.clone();
            Step::call(
                format!("client {} on {server}", client.name),
                client.needs,
                move |project| {
                    if against == Against::Mosquitto {
                        tools::ensure(project, Tool::Mosquitto)?;
                    }
                    converse(project, client, &against)
                },
            )
        });
    let mut steps: Vec<Step> = conversations.collect();
    if let Against::Roadstead(backend) = *against {
        steps.push(move_about(backend));
    }
    steps
}

/// A client on quinn, whose address changes in a network namespace.
fn move_about(backend: &'static str) -> Step {
    let name = format!("client quinn on the move on {backend}");
    Step::call(name, &[Tool::Iproute2], move |project| {
        let network = Network::new(project)?;
        run(project, &mut quic_clients(project, "build", &[]), LIMIT)?;
        let mut server = Server::in_network(project, backend, &network)?;
        let program = quic_target(project).join("debug/quinn-conversation");
        let mut command = network.command(project, Side::Client, &program);
        command
            .args(["--quic", "--device", DEVICE])
            .args(["--addresses", &CLIENT.join(",")])
            .args(["--host", &server.host, "--port", &server.port.to_string()])
            .args(["--still", &NODE_STILL.to_string()])
            .args(["--admin", &format!("{NODE}:{ADMIN_PORT}")])
            .arg("--tls")
            .arg(certificates(project)?);
        let result = run(project, &mut command, CONVERSATION_LIMIT);
        server.still_runs()?;
        if result.is_err() {
            println!("the server's log ends with:\n{}", server.log_tail());
        }
        result
    })
}

/// Whether a server has what a client needs.
fn speaks(against: &Against, way: Way) -> bool {
    match against {
        Against::Roadstead(_) => true,
        Against::Mosquitto => matches!(way, Way::Tcp | Way::Tls | Way::MutualTls),
        Against::Running { websocket_port, .. } => match way {
            Way::Tcp => true,
            Way::WebSocket => websocket_port.is_some(),
            Way::Tls | Way::MutualTls | Way::SecureWebSocket => false,
            Way::Quic | Way::Refusals(_) | Way::QuicRefusals(_) => false,
        },
    }
}

fn converse(project: &Project, client: &Client, against: &Against) -> Result<()> {
    let mut server = Server::start(project, against, client.way.security())?;
    let mut command = (client.command)(project);
    command.args(["--host", &server.host, "--port", &server.port.to_string()]);
    if let Some(port) = server.websocket_port {
        command.args(["--ws-port", &port.to_string()]);
    }
    if client.way.security() != Security::None {
        command.arg("--tls").arg(certificates(project)?);
    }
    command.args(client.way.arguments());
    if *against == Against::Mosquitto {
        command.args(["--known", client.mosquitto_fails]);
    }
    let mut result = run(project, &mut command, CONVERSATION_LIMIT);
    server.still_runs()?;
    if !client.way.logged().is_empty() {
        result = result.and_then(|()| tells_of(&server.log()?, client.way.logged()));
    }
    if result.is_err() {
        println!("the server's log ends with:\n{}", server.log_tail());
    }
    result
}

fn tells_of(log: &str, lines: &[&str]) -> Result<()> {
    for line in lines {
        if !log.contains(line) {
            bail!("the server's log does not say “{line}”");
        }
    }
    Ok(())
}

fn python(project: &Project, script: &str, arguments: &[&str]) -> Command {
    let mut command = project.command(tools::python_program(project, "python"));
    command
        .arg("-B")
        .arg(project.root.join("ops/clients").join(script))
        .args(arguments);
    command
}

fn paho_5(project: &Project) -> Command {
    python(project, "paho_conversation.py", &["--protocol", "5"])
}

fn rumqttc(project: &Project) -> Command {
    project.cargo(&[
        "run",
        "--quiet",
        "--locked",
        "--package",
        "rumqttc-conversation",
        "--",
    ])
}

/// `cargo VERB` in the workspace of the clients over QUIC.
pub(crate) fn quic_clients(project: &Project, verb: &str, arguments: &[&str]) -> Command {
    let mut command = project.cargo(&[verb, "--quiet", "--locked", "--manifest-path"]);
    command
        .arg("ops/clients/quic/Cargo.toml")
        .args(arguments)
        .env("CARGO_TARGET_DIR", quic_target(project));
    command
}

/// Where that is built: apart from the project, whose rustls has another provider.
fn quic_target(project: &Project) -> PathBuf {
    project.target().join("quic-clients")
}

fn mqtt5(project: &Project) -> Command {
    quic_clients(project, "run", &["--bin", "mqtt5-conversation", "--"])
}

fn quinn(project: &Project) -> Command {
    quic_clients(project, "run", &["--bin", "quinn-conversation", "--"])
}

fn mosquitto(project: &Project) -> Command {
    let root = project.tools().join("mosquitto");
    let mut command = python(project, "mosquitto_conversation.py", &["--programs"]);
    command
        .arg(root.join("usr/bin"))
        .env("LD_LIBRARY_PATH", tools::debian_libraries(&root));
    command
}

fn node(project: &Project, arguments: &[&str]) -> Command {
    let mut command = project.command("node");
    command
        .arg(project.root.join("ops/clients/mqttjs_conversation.mjs"))
        .args(arguments)
        .env("NODE_PATH", tools::node_path(project));
    command
}
