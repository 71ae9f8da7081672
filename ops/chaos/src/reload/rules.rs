//! The rules of what clients may do, replaced under them: a client that was there all along loses what the new ones do not allow,
//! and has what they do.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use edge_proto::packet::{QoS, Version};
use rustls::ClientConfig;

use crate::node::Node;
use crate::wire::{Received, Wire};

/// How long a message may take that must come, and how long nothing must come.
const SOON: Duration = Duration::from_secs(10);

/// A file of rules that opens one gate at a time, and a client that stands at it.
pub(super) struct Rules {
    file: PathBuf,
    gate: u32,
    witness: Option<Wire>,
}

impl Rules {
    /// Makes the first ones in a folder.
    ///
    /// # Errors
    /// They cannot be written.
    pub(super) fn new(folder: &Path) -> io::Result<Self> {
        let rules = Self {
            file: folder.join("rules.toml"),
            gate: 0,
            witness: None,
        };
        rules.write()?;
        Ok(rules)
    }

    /// The section of the node's configuration.
    pub(super) fn config(&self) -> String {
        format!("[access]\nrules = \"{}\"\n", self.file.display())
    }

    /// A client subscribes to what the first rules allow, and stays.
    ///
    /// # Errors
    /// It is not let in, or may not subscribe.
    pub(super) fn watch(
        &mut self,
        address: SocketAddr,
        config: &Arc<ClientConfig>,
    ) -> io::Result<()> {
        let mut witness = Wire::open_secure(address, Version::V5, config)?;
        witness.begin("witness", true, 0)?;
        if !witness.subscribe_now(&[&topic(self.gate)], QoS::AtLeastOnce) {
            return Err(io::Error::other("the witness could not subscribe"));
        }
        self.witness = Some(witness);
        Ok(())
    }

    /// Puts rules into the file that close the gate and open the next one.
    ///
    /// # Errors
    /// They cannot be written.
    pub(super) fn renew(&mut self) -> io::Result<()> {
        self.gate += 1;
        self.write()
    }

    /// Puts something into the file that must not be taken.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn spoil(&self) -> io::Result<()> {
        fs::write(&self.file, "[[rule]]\nallow = [\"fly\"]\n")
    }

    /// Puts the rules back that hold.
    ///
    /// # Errors
    /// They cannot be written.
    pub(super) fn mend(&self) -> io::Result<()> {
        self.write()
    }

    /// What does not hold of the rules for the client that was there all along, right after they were taken. It subscribes to what they
    /// allow.
    ///
    /// # Errors
    /// The node's command cannot be run.
    pub(super) fn broken(&mut self, node: &Node) -> io::Result<Vec<&'static str>> {
        let Some(witness) = &mut self.witness else {
            return Ok(vec!["there is no witness"]);
        };
        let mut broken = Vec::new();
        let now = topic(self.gate);
        let before = self.gate.checked_sub(1).map(topic);
        if let Some(before) = &before
            && witness.subscribe_now(&[before], QoS::AtLeastOnce)
        {
            broken.push("what was closed could be subscribed to");
        }
        if !witness.subscribe_now(&[&now], QoS::AtLeastOnce) {
            broken.push("what was opened could not be subscribed to");
        }
        // The node itself may publish anywhere: what reaches the witness is what it is subscribed to.
        for topic in before.iter().chain([&now]) {
            let (done, said) = node.ctl(&["publish", topic, topic, "--qos", "1"])?;
            if !done {
                return Err(io::Error::other(said));
            }
        }
        let heard = witness.await_packet(SOON, |packet| match packet {
            Received::Publish(arrived) => Some(arrived.topic),
            _ => None,
        });
        match heard {
            Some(topic) if topic == now => {}
            Some(_) => broken.push("a message of what was closed came"),
            None => broken.push("no message of what was opened came"),
        }
        Ok(broken)
    }

    fn write(&self) -> io::Result<()> {
        let open = topic(self.gate);
        let text = format!(
            "[[rule]]\nallow = [\"publish\", \"subscribe\"]\ntopics = [\"crowd/#\", \"{open}\"]\n"
        );
        fs::write(&self.file, text)
    }
}

fn topic(gate: u32) -> String {
    format!("gates/{gate}")
}
