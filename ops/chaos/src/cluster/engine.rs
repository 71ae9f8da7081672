//! The engine of a cluster run: a Valkey Cluster of three primaries, each with a replica, in one namespace.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::network::{Host, Network};
use crate::clock::wait_for;

/// Primaries and replicas.
const SERVERS: usize = 6;
/// First port; the bus of their cluster is 10,000 above.
const PORT: u16 = 6_379;
/// Most that it may take until all of them are one cluster, each primary with its replica.
const START_LIMIT: Duration = Duration::from_secs(60);
/// After so long a primary that does not answer is replaced.
const NODE_TIMEOUT_MS: &str = "5000";

/// The servers. Dropping them kills them.
#[derive(Debug)]
pub(crate) struct Engine {
    programs: PathBuf,
    folder: PathBuf,
    address: String,
    servers: Vec<Option<Child>>,
}

impl Engine {
    /// Starts them and makes them a cluster.
    ///
    /// # Errors
    /// They are not installed, or are no cluster in time.
    pub(crate) fn start(network: &Network, folder: &Path) -> io::Result<Self> {
        let mut engine = Self {
            programs: programs()?,
            folder: folder.join("valkey"),
            address: network.address(Host::Engine).to_string(),
            servers: (0..SERVERS).map(|_| None).collect(),
        };
        for index in 0..SERVERS {
            engine.spawn(network, index)?;
        }
        wait_for(START_LIMIT, || engine.all_say("PING", "PONG").then_some(()))
            .ok_or_else(|| io::Error::other("the Valkey servers do not start"))?;
        let mut create = engine.client();
        create.args(["--cluster", "create"]);
        create.args((0..SERVERS).map(|index| format!("{}:{}", engine.address, port(index))));
        create.args(["--cluster-replicas", "1", "--cluster-yes"]);
        let output = create.stdin(Stdio::null()).output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            return Err(io::Error::other(format!("valkey-cli: {said}")));
        }
        wait_for(START_LIMIT, || engine.is_whole().then_some(()))
            .ok_or_else(|| io::Error::other("the Valkey servers do not become a cluster"))?;
        Ok(engine)
    }

    /// Starts a server, with what its folder holds.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn spawn(&mut self, network: &Network, index: usize) -> io::Result<()> {
        let folder = self.folder.join(index.to_string());
        fs::create_dir_all(&folder)?;
        let log = File::options()
            .create(true)
            .append(true)
            .open(folder.join("log"))?;
        let port = port(index).to_string();
        let child = network
            .command(Host::Engine, &self.programs.join("valkey-server"))
            .args(["--port", &port, "--bind", &self.address, "--dir"])
            .arg(&folder)
            .args(["--protected-mode", "no", "--save", ""])
            .args(["--appendonly", "yes", "--appendfsync", "everysec"])
            .args(["--cluster-enabled", "yes"])
            .args(["--cluster-node-timeout", NODE_TIMEOUT_MS])
            .args(["--repl-diskless-sync-delay", "0"])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        self.servers[index] = Some(child);
        Ok(())
    }

    /// kill −9.
    pub(crate) fn kill(&mut self, index: usize) {
        if let Some(mut child) = self.servers[index].take() {
            let _ = child.kill(); // It has ended already.
            let _ = child.wait();
        }
    }

    /// What nodes are told: a few of the servers.
    pub(crate) fn urls(&self) -> String {
        let url = |index| format!("\"redis://{}:{}\"", self.address, port(index));
        [0, 1, 2].map(url).join(", ")
    }

    /// True when all slots are served and every primary has a replica that follows it.
    pub(crate) fn is_whole(&self) -> bool {
        let replicas = (0..SERVERS).map(|index| self.ask(index, &["INFO", "replication"]));
        let following = replicas
            .filter(|said| said.contains("role:master") && said.contains("state=online"))
            .count();
        following == SERVERS / 2 && self.all_say("CLUSTER INFO", "cluster_state:ok")
    }

    /// Primaries that run, by what the server of this number believes.
    pub(crate) fn primaries(&self, asked: usize) -> Vec<usize> {
        let said = self.ask(asked, &["CLUSTER", "NODES"]);
        let primary = |line: &str| {
            let words: Vec<&str> = line.split(' ').collect();
            let is_primary = words.get(2)?.contains("master") && !words.get(2)?.contains("fail");
            let has_slots = words.len() > 8;
            let port = words.get(1)?.split('@').next()?.rsplit(':').next()?;
            let index = port.parse::<u16>().ok()?.checked_sub(PORT)?;
            (is_primary && has_slots).then_some(usize::from(index))
        };
        said.lines().filter_map(primary).collect()
    }

    fn all_say(&self, question: &str, answer: &str) -> bool {
        let words: Vec<&str> = question.split(' ').collect();
        (0..SERVERS).all(|index| self.ask(index, &words).contains(answer))
    }

    fn ask(&self, index: usize, words: &[&str]) -> String {
        let output = self
            .client()
            .args(["-h", &self.address, "-p", &port(index).to_string()])
            .args(words)
            .stdin(Stdio::null())
            .output();
        let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        text.unwrap_or_default()
    }

    fn client(&self) -> Command {
        Command::new(self.programs.join("valkey-cli"))
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        (0..SERVERS).for_each(|index| self.kill(index));
    }
}

fn port(index: usize) -> u16 {
    PORT + index as u16
}

/// Where `cargo xtask tools valkey` has put the programs, or `VALKEY_PROGRAMS` says they are.
fn programs() -> io::Result<PathBuf> {
    let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools/valkey");
    let folder = std::env::var_os("VALKEY_PROGRAMS").map_or(installed, PathBuf::from);
    if folder.join("valkey-server").exists() {
        return Ok(folder);
    }
    Err(io::Error::other(format!(
        "{} has no valkey-server: run `cargo xtask tools valkey`, or name the folder with VALKEY_PROGRAMS",
        folder.display()
    )))
}
