//! Valkey servers of a test's own, each a process with a folder and a port.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use gateway::engine::redis::options::{Address, ConnectOptions};

/// First of the ports that are tried; the bus of a cluster is 10,000 above, and all are below those that the system gives away.
const PORT_FIRST: u16 = 12_000;
/// So many are tried, before the first one comes again.
const PORTS: u16 = 9_000;

/// A program that `cargo xtask tools valkey` installs, or `VALKEY_PROGRAMS` names the folder of.
pub(crate) fn program(name: &str) -> PathBuf {
    let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.tools/valkey");
    let folder = std::env::var_os("VALKEY_PROGRAMS").map_or(installed, PathBuf::from);
    let program = folder.join(name);
    assert!(
        program.exists(),
        "{} is not there: run `cargo xtask tools valkey`",
        program.display()
    );
    program
}

/// A port that nobody listens on, nor on the one of its cluster bus.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id() % u32::from(PORTS)).expect("below PORTS");
    for _ in 0..PORTS {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = PORT_FIRST + (start + step * 7) % PORTS;
        let is_free = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
        if is_free(port) && is_free(port + 10_000) {
            return port;
        }
    }
    panic!("all ports are in use")
}

/// One server, killed and removed at the end.
pub(crate) struct Server {
    process: Child,
    settings: Vec<String>,
    pub(crate) folder: PathBuf,
    pub(crate) port: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Server {
    /// A server with settings as they are in its file: `appendonly yes`.
    pub(crate) fn start(settings: &[&str]) -> Self {
        let settings: Vec<_> = settings.iter().map(|&setting| setting.to_owned()).collect();
        for _ in 0..20 {
            let port = free_port();
            let folder = std::env::temp_dir()
                .join(format!("roadstead-valkey-{}-{port}", std::process::id()));
            std::fs::create_dir_all(&folder).expect("a folder");
            if let Some(process) = run(port, &folder, &settings) {
                return Self {
                    process,
                    settings,
                    folder,
                    port,
                };
            }
        }
        panic!("Valkey does not start")
    }

    /// One that keeps every write: an append-only file, synced with each.
    pub(crate) fn durable() -> Self {
        Self::start(&["appendonly yes", "appendfsync always"])
    }

    /// A replica of another, once it has everything.
    pub(crate) fn replica_of(primary: &Self, settings: &[&str]) -> Self {
        let follow = format!("replicaof 127.0.0.1 {}", primary.port);
        let mut all = vec![follow.as_str()];
        all.extend(settings);
        let replica = Self::start(&all);
        eventually("the replica has everything", || {
            primary
                .cli(&["INFO", "replication"])
                .contains(&format!("port={},state=online", replica.port))
        });
        replica
    }

    /// Killed at once.
    pub(crate) fn kill(&mut self) {
        self.process.kill().expect("it ran");
        self.process.wait().expect("it ended");
    }

    /// Started again with what its folder holds.
    pub(crate) fn start_again(&mut self) {
        self.process = run(self.port, &self.folder, &self.settings).expect("its port is free");
    }

    /// Stopped by a signal: its connections stay open, and nothing answers. Or going on.
    pub(crate) fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .arg(name)
            .arg(self.process.id().to_string())
            .status();
        assert!(status.expect("kill runs").success());
    }

    /// False once it was killed.
    pub(crate) fn is_running(&mut self) -> bool {
        matches!(self.process.try_wait(), Ok(None))
    }

    /// The id of the process.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    pub(crate) fn address(&self) -> Address {
        Address {
            host: "127.0.0.1".into(),
            port: self.port,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub(crate) fn options(&self) -> ConnectOptions {
        ConnectOptions::from_urls(&[self.url()]).expect("a good URL")
    }

    /// What the command-line client prints.
    pub(crate) fn cli(&self, arguments: &[&str]) -> String {
        let output = Command::new(program("valkey-cli"))
            .args(["-p", &self.port.to_string()])
            .args(arguments)
            .output()
            .expect("valkey-cli runs");
        String::from_utf8(output.stdout)
            .expect("text")
            .trim()
            .to_owned()
    }
}

/// Three primaries that are one cluster.
pub(crate) fn cluster(settings: &[&str]) -> Vec<Server> {
    let mut all = vec!["cluster-enabled yes", "cluster-node-timeout 2000"];
    all.extend(settings);
    let servers: Vec<_> = (0..3).map(|_| Server::start(&all)).collect();
    let addresses: Vec<_> = servers
        .iter()
        .map(|server| server.address().to_string())
        .collect();
    let output = Command::new(program("valkey-cli"))
        .args(["--cluster", "create"])
        .args(&addresses)
        .arg("--cluster-yes")
        .output()
        .expect("valkey-cli runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
    for server in &servers {
        eventually("the cluster serves", || {
            server
                .cli(&["CLUSTER", "INFO"])
                .contains("cluster_state:ok")
        });
    }
    servers
}

/// Waits until something is true.
pub(crate) fn eventually(what: &str, mut is_true: impl FnMut() -> bool) {
    const STEP: Duration = Duration::from_millis(20);
    for _ in 0..1_000 {
        if is_true() {
            return;
        }
        std::thread::park_timeout(STEP);
    }
    panic!("never: {what}")
}

/// Starts a server and waits until it serves; `None` when it ends before that.
fn run(port: u16, folder: &Path, settings: &[String]) -> Option<Child> {
    let mut command = Command::new(program("valkey-server"));
    command
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--dir"])
        .arg(folder);
    // No snapshots while a test runs, and a replica does not wait for others.
    command.args(["--save", "", "--repl-diskless-sync-delay", "0"]);
    for setting in settings {
        let (name, value) = setting.split_once(' ').expect("a name and a value");
        command.arg(format!("--{name}"));
        command.args(value.split(' '));
    }
    let mut process = command
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("it runs");
    let mut lines = BufReader::new(process.stdout.take().expect("piped")).lines();
    let serves = |line: &String| {
        line.contains("Ready to accept connections") || line.contains("REPLICA sync started")
    };
    let found = lines
        .by_ref()
        .map_while(Result::ok)
        .any(|line| serves(&line));
    if !found {
        let _ = process.wait();
        return None;
    }
    // Its log goes on, and a full pipe would stop it.
    std::thread::spawn(move || lines.for_each(drop));
    Some(process)
}
