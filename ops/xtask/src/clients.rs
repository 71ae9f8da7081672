//! Real clients hold the scripted conversation of `ops/clients` with a server, one step for each client and server.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::process::run;
use crate::project::Project;
use crate::server::{Against, Security, Server, certificates};
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
    /// Not the conversation: clients with wrong certificates, who must not get in. `false` for a client that hangs up without an
    /// alert when it does not accept the server.
    Refusals {
        tells_why_it_leaves: bool,
    },
}

impl Way {
    fn security(self) -> Security {
        match self {
            Self::Tcp | Self::WebSocket => Security::None,
            Self::Tls | Self::SecureWebSocket => Security::Tls,
            Self::MutualTls | Self::Refusals { .. } => Security::MutualTls,
        }
    }
}

const REFUSALS: Way = Way::Refusals {
    tells_why_it_leaves: true,
};

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
        way: REFUSALS,
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
        way: REFUSALS,
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
        way: Way::Refusals {
            tells_why_it_leaves: false,
        },
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
        way: REFUSALS,
        mosquitto_fails: "",
        command: rumqttc,
    },
];

/// What the node's log has to say of those that were refused: a line for each, except of those that left without a word.
const REFUSED: &[(&str, bool)] = &[
    ("peer_alert: received fatal alert: UnknownCA", true),
    ("peer_alert: received fatal alert: CertificateExpired", true),
    ("certificate_missing: ", false),
    (
        "certificate_refused: invalid peer certificate: UnknownIssuer",
        false,
    ),
    (
        "certificate_refused: invalid peer certificate: certificate expired",
        false,
    ),
    (
        "certificate_revoked: invalid peer certificate: Revoked",
        false,
    ),
];

/// The conversations with both backends of a node, for the verb `test`. The node has to be built.
pub(crate) fn steps() -> Vec<Step> {
    ["io_uring", "epoll"]
        .into_iter()
        .flat_map(|backend| steps_with(&Against::Roadstead(backend)))
        .collect()
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
        steps.push(build_node());
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
    CLIENTS
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
        })
        .collect()
}

/// Whether a server has what a client needs.
fn speaks(against: &Against, way: Way) -> bool {
    match against {
        Against::Roadstead(_) => true,
        Against::Mosquitto => matches!(way, Way::Tcp | Way::Tls | Way::MutualTls),
        Against::Running { websocket_port, .. } => match way {
            Way::Tcp => true,
            Way::WebSocket => websocket_port.is_some(),
            Way::Tls | Way::MutualTls | Way::SecureWebSocket | Way::Refusals { .. } => false,
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
    match client.way {
        Way::MutualTls => {
            command.args(["--certificate", "client"]);
        }
        Way::Refusals { .. } => {
            command.args(["--certificate", "client", "--refusals"]);
        }
        _ => {}
    }
    if *against == Against::Mosquitto {
        command.args(["--known", client.mosquitto_fails]);
    }
    let mut result = run(project, &mut command, CONVERSATION_LIMIT);
    server.still_runs()?;
    if let Way::Refusals {
        tells_why_it_leaves,
    } = client.way
    {
        result = result.and_then(|()| tells_of_refusals(&server.log()?, tells_why_it_leaves));
    }
    if result.is_err() {
        println!("the server's log ends with:\n{}", server.log_tail());
    }
    result
}

fn tells_of_refusals(log: &str, tells_why_it_leaves: bool) -> Result<()> {
    for (line, is_told_by_client) in REFUSED {
        if (!is_told_by_client || tells_why_it_leaves) && !log.contains(line) {
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
