//! Real clients hold the scripted conversation of `ops/clients` with a server, one step for each client and server.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::process::run;
use crate::project::Project;
use crate::server::{Against, Server};
use crate::step::Step;
use crate::tools::{self, Tool};

/// Most that one conversation may take; each wait in a script has a far shorter deadline of its own.
const CONVERSATION_LIMIT: Duration = Duration::from_secs(300);

/// A client, and the way it is made to speak.
struct Client {
    name: &'static str,
    needs: &'static [Tool],
    /// True exactly when it speaks over WebSocket, so that the server needs such a listener.
    websocket: bool,
    /// Scenarios that Mosquitto 2.0.11 fails by its own fault: after the PUBACK of a message that is not the last one in
    /// flight it sends more than the client's Receive Maximum allows; it does not tell a connection that it was taken over;
    /// and it stops sending QoS 2 messages to a client of version 5 that has a low Receive Maximum, as mosquitto_sub has.
    mosquitto_fails: &'static str,
    command: fn(&Project) -> Command,
}

/// A line per client: this is all that a new one needs here.
const CLIENTS: &[Client] = &[
    Client {
        name: "mosquitto_pub/sub",
        needs: &[Tool::Python, Tool::Mosquitto],
        websocket: false,
        mosquitto_fails: "resume-queued,burst-qos-2",
        command: mosquitto,
    },
    Client {
        name: "paho 3.1.1",
        needs: &[Tool::Python],
        websocket: false,
        mosquitto_fails: "",
        command: |project| python(project, "paho_conversation.py", &["--protocol", "311"]),
    },
    Client {
        name: "paho 5",
        needs: &[Tool::Python],
        websocket: false,
        mosquitto_fails: "receive-maximum,take-over-reason",
        command: |project| python(project, "paho_conversation.py", &["--protocol", "5"]),
    },
    Client {
        name: "MQTT.js TCP",
        needs: &[Tool::Npm],
        websocket: false,
        mosquitto_fails: "take-over-reason",
        command: |project| node(project, &["--transport", "tcp"]),
    },
    Client {
        name: "MQTT.js WebSocket",
        needs: &[Tool::Npm],
        websocket: true,
        mosquitto_fails: "",
        command: |project| node(project, &["--transport", "ws"]),
    },
    Client {
        name: "rumqttc",
        needs: &[],
        websocket: false,
        mosquitto_fails: "",
        command: |project| {
            project.cargo(&[
                "run",
                "--quiet",
                "--locked",
                "--package",
                "rumqttc-conversation",
                "--",
            ])
        },
    },
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
    let has_websocket = match against {
        Against::Roadstead(_) => true,
        Against::Mosquitto => false,
        Against::Running { websocket_port, .. } => websocket_port.is_some(),
    };
    CLIENTS
        .iter()
        .filter(|client| has_websocket || !client.websocket)
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

fn converse(project: &Project, client: &Client, against: &Against) -> Result<()> {
    let mut server = Server::start(project, against)?;
    let mut command = (client.command)(project);
    command.args(["--host", &server.host, "--port", &server.port.to_string()]);
    if let Some(port) = server.websocket_port {
        command.args(["--ws-port", &port.to_string()]);
    }
    if *against == Against::Mosquitto {
        command.args(["--known", client.mosquitto_fails]);
    }
    let result = run(project, &mut command, CONVERSATION_LIMIT);
    server.still_runs()?;
    if result.is_err() {
        println!("the server's log ends with:\n{}", server.log_tail());
    }
    result
}

fn python(project: &Project, script: &str, arguments: &[&str]) -> Command {
    let mut command = project.command(tools::python_program(project, "python"));
    command
        .arg("-B")
        .arg(project.root.join("ops/clients").join(script))
        .args(arguments);
    command
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
