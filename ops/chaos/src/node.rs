//! The server under test: a real process with its own folder and ports, which can be killed and started again.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use crate::admin;
use crate::clock::{now, wait_for};
use crate::options::Options;

/// Most that a server may take until it is ready.
const START_LIMIT: Duration = Duration::from_secs(60);

/// Most that the ports of a killed process may stay taken.
const BUSY_LIMIT: Duration = Duration::from_secs(10);

/// Ports below the ephemeral range: no outgoing connection can take one between our look and the server's bind.
const PORTS: std::ops::Range<u16> = 10_000..30_000;

/// Cores of the server in all runs; two cores show what one core hides.
pub(crate) const CORES: usize = 2;

/// A server and where it listens. Dropping it kills the process and removes its folder.
#[derive(Debug)]
pub(crate) struct Node {
    binary: PathBuf,
    folder: PathBuf,
    /// MQTT over TCP.
    pub(crate) tcp: SocketAddr,
    /// MQTT over WebSocket.
    pub(crate) websocket: SocketAddr,
    /// HTTP for operators.
    pub(crate) admin: SocketAddr,
    child: Option<Child>,
    /// Starts that found the ports of the process before still taken.
    pub(crate) busy_starts: usize,
}

impl Node {
    /// A server that is not started yet. `extra` is added to its configuration; `data` is where its store goes, a folder of
    /// its own when there is none.
    ///
    /// # Errors
    /// The folder cannot be made, or no ports are free.
    pub(crate) fn new(
        options: &Options,
        name: &str,
        extra: &str,
        data: Option<&Path>,
    ) -> io::Result<Self> {
        let folder = std::env::temp_dir().join(format!("chaos-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder)?;
        let [tcp, websocket, admin] = free_ports()?;
        let data = data.map_or_else(|| folder.join("data"), Path::to_path_buf);
        let io = &options.io;
        let text = format!(
            "[node]\ncores = {CORES}\npin_cores = false\n[io]\nbackend = \"{io}\"\nreceive_buffers = 256\n\
             [listeners]\ntcp = [\"{tcp}\"]\nwebsocket = [\"{websocket}\"]\n[admin]\naddress = \"{admin}\"\n\
             [engine]\npath = \"{}\"\n{extra}",
            data.display()
        );
        fs::write(folder.join("node.toml"), text)?;
        Ok(Self {
            binary: options.server.clone(),
            folder,
            tcp,
            websocket,
            admin,
            child: None,
            busy_starts: 0,
        })
    }

    /// Where it keeps its files.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Adds a TLS listener to the configuration, with this section for it; returns where it will listen.
    ///
    /// # Errors
    /// The configuration cannot be written, or no port is free.
    pub(crate) fn listen_secure(&self, section: &str) -> io::Result<SocketAddr> {
        let [address] = free_ports()?;
        let path = self.folder.join("node.toml");
        let listener = format!("[listeners]\ntls = [\"{address}\"]\n");
        let text = fs::read_to_string(&path)?.replace("[listeners]\n", &listener);
        fs::write(path, format!("{text}{section}"))?;
        Ok(address)
    }

    /// Runs `roadstead ctl` with these words: whether it succeeded, and what it said.
    ///
    /// # Errors
    /// The program cannot be run.
    pub(crate) fn ctl(&self, words: &[&str]) -> io::Result<(bool, String)> {
        let mut command = Command::new(&self.binary);
        command.args(["ctl", "--address", &self.admin.to_string()]);
        let output = command.args(words).stdin(Stdio::null()).output()?;
        let said = [output.stdout, output.stderr].concat();
        Ok((
            output.status.success(),
            String::from_utf8_lossy(&said).into_owned(),
        ))
    }

    /// Starts the process and does not wait for it.
    ///
    /// # Errors
    /// The program cannot be run.
    pub(crate) fn spawn(&mut self) -> io::Result<()> {
        self.stop_and_forget();
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log_path())?;
        self.child = Some(self.command(log)?.spawn()?);
        Ok(())
    }

    fn command(&self, log: File) -> io::Result<Command> {
        let mut command = Command::new(&self.binary);
        command.arg("--config").arg(self.folder.join("node.toml"));
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        command.env("RUST_BACKTRACE", "1").current_dir(&self.folder);
        Ok(command)
    }

    /// Starts the process and waits until it is ready. A start that finds its ports taken is counted and tried again, as
    /// a supervisor would.
    ///
    /// # Errors
    /// It ended, or was not ready in time; the error holds what it said last.
    pub(crate) fn start(&mut self) -> io::Result<()> {
        let begin = now();
        loop {
            self.spawn()?;
            let outcome = self.wait_until_ready();
            let busy = outcome.is_err()
                && !self.is_alive()
                && self.log_tail().contains("Address already in use");
            if !busy || begin.elapsed() > BUSY_LIMIT {
                return outcome;
            }
            self.busy_starts += 1;
        }
    }

    /// Waits until the process that runs is ready.
    ///
    /// # Errors
    /// As [`Node::start`].
    pub(crate) fn wait_until_ready(&mut self) -> io::Result<()> {
        let ready = wait_for(START_LIMIT, || {
            if !self.is_alive() {
                return Some(false);
            }
            matches!(
                admin::request(self.admin, "GET", "/readyz", ""),
                Ok((200, _))
            )
            .then_some(true)
        });
        match ready {
            Some(true) => Ok(()),
            Some(false) => Err(io::Error::other(format!(
                "the server ended; it said:\n{}",
                self.log_tail()
            ))),
            None => Err(io::Error::other(format!(
                "the server is not ready; it said:\n{}",
                self.log_tail()
            ))),
        }
    }

    /// Runs a second process with the same configuration to its end, at most for a while.
    ///
    /// # Errors
    /// It cannot be run, or does not end.
    pub(crate) fn run_to_end(
        &self,
        log_name: &str,
        ports_from: &Self,
    ) -> io::Result<(ExitStatus, String)> {
        let path = self.folder.join(log_name);
        let log = File::create(&path)?;
        let mut command = self.command(log)?;
        for (key, address) in [
            ("listeners.tcp", ports_from.tcp),
            ("listeners.websocket", ports_from.websocket),
            ("admin.address", ports_from.admin),
        ] {
            let value = if key.starts_with("listeners") {
                format!("[\"{address}\"]")
            } else {
                format!("\"{address}\"")
            };
            command.arg("--set").arg(format!("{key}={value}"));
        }
        let mut child = command.spawn()?;
        let status = wait_for(START_LIMIT, || child.try_wait().ok().flatten());
        let text = fs::read_to_string(&path).unwrap_or_default();
        if let Some(status) = status {
            return Ok((status, text));
        }
        child.kill()?;
        child.wait()?;
        Err(io::Error::other(format!(
            "the second process did not end; it said:\n{text}"
        )))
    }

    /// kill −9.
    pub(crate) fn kill(&mut self) {
        self.stop_and_forget();
    }

    /// Asks the process to stop (SIGTERM) and waits for its end.
    pub(crate) fn terminate(&mut self) -> Option<ExitStatus> {
        let child = self.child.as_mut()?;
        let process = rustix::process::Pid::from_child(child);
        let _ = rustix::process::kill_process(process, rustix::process::Signal::Term);
        wait_for(START_LIMIT, || child.try_wait().ok().flatten())
    }

    fn stop_and_forget(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// True exactly when the process runs.
    pub(crate) fn is_alive(&mut self) -> bool {
        self.child
            .as_mut()
            .is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Resident memory of the process in bytes.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let Some(child) = &self.child else { return 0 };
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line
            .and_then(|rest| rest.split_whitespace().next())
            .and_then(|kib| kib.parse::<u64>().ok());
        kib.unwrap_or(0) * 1024
    }

    /// What the server printed, all starts together.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// The last lines of it.
    pub(crate) fn log_tail(&self) -> String {
        let text = self.log();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    fn log_path(&self) -> PathBuf {
        self.folder.join("log")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop_and_forget();
        if std::env::var_os("CHAOS_KEEP").is_none() {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

/// Distinct ports on which nothing listens.
fn free_ports<const N: usize>() -> io::Result<[SocketAddr; N]> {
    let span = usize::from(PORTS.end - PORTS.start);
    let mut random =
        crate::random::Random::new(crate::clock::seed() ^ u64::from(std::process::id()));
    let first = random.below(span);
    let mut held = Vec::new();
    for offset in 0..span {
        let port = PORTS.start + ((first + offset) % span) as u16;
        held.extend(TcpListener::bind((Ipv4Addr::LOCALHOST, port)));
        if held.len() == N {
            break;
        }
    }
    let addresses: Result<Vec<_>, _> = held.iter().map(TcpListener::local_addr).collect();
    addresses?
        .try_into()
        .map_err(|_| io::Error::other("no free ports on loopback"))
}
