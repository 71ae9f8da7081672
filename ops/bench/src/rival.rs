//! The servers that are measured beside ours: what each can do, and how it is started. Settings are in `rivals/NAME`.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};
use edge_proto::packet::QoS;

use crate::arguments::{Mqtt, RivalName, Transport};
use crate::server::root;

/// How long what a server has acknowledged lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Store {
    /// As long as the connection.
    Nothing,
    /// As long as the process: sessions outlive their connection.
    Memory,
    /// Sessions and messages outlive the process when it is stopped in order.
    Disk,
}

/// What a scenario asks of a server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Needs {
    pub(crate) sessions: u32,
    pub(crate) qos: QoS,
    pub(crate) store: Store,
}

/// A rival: what it can do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rival {
    pub(crate) name: RivalName,
    /// The latest version of MQTT that it speaks, and every version when it is [`Mqtt::V5`] and `only` is false.
    pub(crate) mqtt: Mqtt,
    /// True exactly when it speaks only that one.
    only: bool,
    qos_max: QoS,
    websocket: bool,
    tls: bool,
    store: Store,
    /// User name that it wants.
    pub(crate) user: Option<&'static str>,
    /// Descriptors of its process for each session.
    descriptors: u64,
}

/// A line each. All of them run with one process and one socket per session.
const RIVALS: [Rival; 5] = [
    Rival {
        name: RivalName::Mosquitto,
        mqtt: Mqtt::V5,
        only: false,
        qos_max: QoS::ExactlyOnce,
        // Its listener ignores the address to bind and would be open to the network.
        websocket: false,
        tls: true,
        store: Store::Disk,
        user: None,
        descriptors: 1,
    },
    Rival {
        name: RivalName::Nats,
        mqtt: Mqtt::V311,
        only: true,
        qos_max: QoS::ExactlyOnce,
        websocket: true,
        tls: false,
        store: Store::Disk,
        user: None,
        descriptors: 1,
    },
    Rival {
        name: RivalName::Rumqttd,
        mqtt: Mqtt::V5,
        only: true,
        qos_max: QoS::ExactlyOnce,
        websocket: false,
        tls: false,
        store: Store::Memory,
        user: None,
        descriptors: 1,
    },
    Rival {
        name: RivalName::Ejabberd,
        mqtt: Mqtt::V5,
        only: false,
        qos_max: QoS::ExactlyOnce,
        websocket: true,
        tls: false,
        store: Store::Memory,
        user: Some("bench@localhost"),
        descriptors: 1,
    },
    Rival {
        name: RivalName::Rabbitmq,
        mqtt: Mqtt::V311,
        only: true,
        qos_max: QoS::AtLeastOnce,
        websocket: false,
        tls: false,
        store: Store::Disk,
        user: None,
        descriptors: 1,
    },
];

impl Rival {
    /// The rival of this name.
    pub(crate) fn of(name: RivalName) -> Self {
        let found = RIVALS.iter().find(|rival| rival.name == name);
        *found.expect("every name has its line")
    }

    /// Why it cannot do what a scenario needs; `None` when it can.
    pub(crate) fn obstacle(
        &self,
        needs: Needs,
        transport: Transport,
        files: u64,
    ) -> Option<String> {
        let tools = self.tools();
        if !tools.join(".stamp").exists() {
            let name = self.name.name();
            return Some(format!("not installed: `cargo xtask tools {name}`"));
        }
        if needs.qos > self.qos_max {
            return Some(format!("it has no QoS {}", needs.qos as u8));
        }
        if transport.is_websocket() && !self.websocket {
            return Some("no WebSocket listener that can be bound to loopback alone".to_owned());
        }
        if transport == Transport::Quic {
            return Some("no QUIC listener".to_owned());
        }
        if transport.is_secure() && (!self.tls || transport.is_websocket()) {
            return Some("its TLS listener is not set up here".to_owned());
        }
        if needs.store > self.store {
            return Some(match self.store {
                Store::Nothing => "its sessions end with their connection".to_owned(),
                _ => "it keeps sessions in memory only".to_owned(),
            });
        }
        let descriptors = u64::from(needs.sessions) * self.descriptors + 256;
        (descriptors > files).then(|| {
            format!("it takes a descriptor for each session, {descriptors} in all, and RLIMIT_NOFILE allows {files}")
        })
    }

    /// The version of MQTT that clients speak to it, as near to the one asked for as it can.
    pub(crate) const fn version(&self, asked: Mqtt) -> Mqtt {
        if self.only { self.mqtt } else { asked }
    }

    /// What `start version` says.
    pub(crate) fn banner(&self) -> Result<String> {
        let output = self.command().arg("version").output()?;
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        let name = self.name.name();
        (!text.is_empty())
            .then_some(text)
            .with_context(|| format!("{name} does not start: `cargo xtask tools {name}` again"))
    }

    /// `sh start`, with what it has to know of this machine.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new("sh");
        command
            .arg(self.settings().join("start"))
            .env("TOOLS", self.tools())
            .env("SETTINGS", self.settings());
        command
    }

    fn settings(&self) -> PathBuf {
        root().join("ops/bench/rivals").join(self.name.name())
    }

    fn tools(&self) -> PathBuf {
        root().join(".tools").join(self.name.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum as _;

    #[test]
    fn every_rival_has_settings() {
        for name in RivalName::value_variants() {
            let start = Rival::of(*name).settings().join("start");
            assert!(start.exists(), "{} is missing", start.display());
        }
    }

    #[test]
    fn what_a_rival_cannot_do_is_said() {
        let mut rabbitmq = Rival::of(RivalName::Rabbitmq);
        let needs = Needs {
            sessions: 1_000,
            qos: QoS::ExactlyOnce,
            store: Store::Nothing,
        };
        let obstacle = |rival: &Rival, needs, files| rival.obstacle(needs, Transport::Tcp, files);
        if rabbitmq.tools().join(".stamp").exists() {
            let said = obstacle(&rabbitmq, needs, 20_000).expect("it cannot");
            assert!(said.contains("QoS 2"), "{said}");
            let fewer = Needs {
                qos: QoS::AtLeastOnce,
                ..needs
            };
            assert_eq!(obstacle(&rabbitmq, fewer, 20_000), None);
            assert!(obstacle(&rabbitmq, fewer, 1_000).is_some());
            rabbitmq.store = Store::Memory;
            let stored = Needs {
                store: Store::Disk,
                ..fewer
            };
            assert!(obstacle(&rabbitmq, stored, 20_000).is_some());
        } else {
            let said = obstacle(&rabbitmq, needs, 20_000).expect("it cannot");
            assert!(said.contains("not installed"), "{said}");
        }
    }
}
