//! One node of the cluster: a process in its namespace, which can be killed, stopped, asked to leave, and started again.

use std::fs::{self, File};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use super::network::{Host, Network};
use crate::node::CORES;
use crate::options::Options;

/// Ports, the same in every namespace.
const MQTT: u16 = 1_883;
const ADMIN: u16 = 9_883;
const GOSSIP: u16 = 7_946;
const BUS: u16 = 7_947;
/// A key for this run: 32 bytes in base64.
const KEY: &str = "cm9hZHN0ZWFkIGNoYW9zIGNsdXN0ZXIga2V5IDAwMDE=";

/// A node. Dropping it kills the process.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) index: usize,
    binary: PathBuf,
    folder: PathBuf,
    /// MQTT over TCP.
    pub(crate) mqtt: SocketAddr,
    /// HTTP for operators.
    pub(crate) admin: SocketAddr,
    child: Option<Child>,
}

impl Member {
    /// The node of this number among so many, not started yet.
    ///
    /// # Errors
    /// Its folder cannot be written.
    pub(crate) fn new(
        options: &Options,
        network: &Network,
        folder: &Path,
        (index, count): (usize, usize),
        engine_urls: &str,
    ) -> io::Result<Self> {
        let folder = folder.join(format!("node{index}"));
        fs::create_dir_all(&folder)?;
        let key = folder.join("key");
        fs::write(&key, format!("{KEY}\n"))?;
        let address = network.address(Host::Node(index));
        let seeds: Vec<String> = (0..count)
            .map(|index| format!("\"{}:{GOSSIP}\"", network.address(Host::Node(index))))
            .collect();
        let (io, seeds) = (&options.io, seeds.join(", "));
        let text = format!(
            "[node]\ncores = {CORES}\npin_cores = false\n[io]\nbackend = \"{io}\"\nreceive_buffers = 256\n\
             [listeners]\ntcp = [\"{address}:{MQTT}\"]\nwebsocket = []\n\
             [admin]\naddress = \"{address}:{ADMIN}\"\nallow_remote = true\n\
             [engine]\nkind = \"redis\"\nurls = [{engine_urls}]\npath = {data:?}\n\
             [cluster]\nname = \"chaos\"\nkey_file = {key:?}\nseeds = [{seeds}]\nuid = \"{uid}\"\n\
             gossip_address = \"{address}:{GOSSIP}\"\nbus_address = \"{address}:{BUS}\"\n\
             server_reference = \"{address}:{MQTT}\"\n\
             [mailboxes]\nmessages_max = 1000000\nbytes_max = \"4 GiB\"\n[flapping]\nconnects_max = 0\n\
             [access]\nanonymous = \"everywhere-without-any-authentication\"\n",
            data = folder.join("data"),
            uid = uid(index),
        );
        fs::write(folder.join("node.toml"), text)?;
        Ok(Self {
            index,
            binary: options.server.clone(),
            folder,
            mqtt: SocketAddr::from((address, MQTT)),
            admin: SocketAddr::from((address, ADMIN)),
            child: None,
        })
    }

    /// Starts the process and does not wait for it.
    ///
    /// # Errors
    /// The program cannot be run.
    pub(crate) fn spawn(&mut self, network: &Network) -> io::Result<()> {
        self.kill();
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_path())?;
        let child = network
            .command(Host::Node(self.index), &self.binary)
            .arg("--config")
            .arg(self.folder.join("node.toml"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .env("RUST_BACKTRACE", "1")
            .current_dir(&self.folder)
            .spawn()?;
        self.child = Some(child);
        Ok(())
    }

    /// Starts `roadstead ctl` with these words, and does not wait for it.
    ///
    /// # Errors
    /// The program cannot be run.
    pub(crate) fn ctl(&self, words: &[&str]) -> io::Result<Child> {
        Command::new(&self.binary)
            .args(["ctl", "--address", &self.admin.to_string()])
            .args(words)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
    }

    /// kill −9.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill(); // It has ended already.
            let _ = child.wait();
        }
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        if let Some(child) = &self.child {
            let _ = kill_process(Pid::from_child(child), signal); // It has ended already.
        }
    }

    /// How it ended, once it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.as_mut()?.try_wait().ok().flatten()
    }

    /// What it printed, all starts together.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// The last lines of it.
    pub(crate) fn log_tail(&self) -> String {
        let text = self.log();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(8)..].join("\n")
    }

    fn log_path(&self) -> PathBuf {
        self.folder.join("log")
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The uid of the node of this number: 16 hexadecimal digits.
pub(crate) fn uid(index: usize) -> String {
    format!("{:016x}", index + 1)
}
