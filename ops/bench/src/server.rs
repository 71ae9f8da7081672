//! The server that is loaded: this repository's, built and started here, or one that runs already.

use std::ffi::OsString;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::arguments::{Common, Io, Transport};
use crate::cleanup::{self, Guard};
use crate::clock;

/// How long a server may take to listen.
const START_LIMIT: Duration = Duration::from_secs(30);
/// Listeners are below the ports of outgoing connections, which could take them.
const PORTS: std::ops::Range<u16> = 7_100..9_900;

/// A running server.
#[derive(Debug)]
pub(crate) struct Server {
    /// Where clients connect.
    pub(crate) address: SocketAddr,
    /// Its process, where it is known.
    pub(crate) pid: Option<u32>,
    /// Its name and version.
    pub(crate) version: String,
    /// Its backend, where it is known.
    pub(crate) io: Option<Io>,
    process: Option<Guard>,
    log: PathBuf,
    _folder: Option<Guard>,
}

/// The root of the repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

impl Server {
    /// Starts the server, or takes the one that runs already. `connections_max` is for each core.
    pub(crate) fn start(common: &Common, cores: u16, connections_max: u32) -> Result<Self> {
        if let Some(address) = common.address {
            return Ok(Self {
                address,
                pid: common.pid,
                version: "unknown".to_owned(),
                io: None,
                process: None,
                log: PathBuf::new(),
                _folder: None,
            });
        }
        let program = match &common.server {
            Some(program) => program.clone(),
            None => build()?,
        };
        let version = Command::new(&program).arg("--version").output();
        let version = version.with_context(|| format!("cannot run {}", program.display()))?;
        let folder = std::env::temp_dir().join(format!("roadstead-bench-{}", std::process::id()));
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let remove = cleanup::remove_at_end(folder.clone());
        let (tcp, websocket) = free_ports()?;
        let log = folder.join("log");
        let mut command = dies_with_us(&program);
        command
            .args(settings(common, cores, connections_max, websocket))
            .arg("--listen")
            .arg(tcp.to_string())
            .arg("--data")
            .arg(folder.join("data"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log)?)
            // A Ctrl-C in the terminal is for the bench, which ends the server when it has measured.
            .process_group(0);
        let child = command.spawn().context("cannot start the server")?;
        let pid = child.id();
        let server = Self {
            address: match common.transport {
                Transport::Tcp => tcp,
                Transport::Websocket => websocket,
            },
            pid: Some(pid),
            version: String::from_utf8_lossy(&version.stdout).trim().to_owned(),
            io: Some(common.io),
            process: Some(cleanup::kill_at_end(child)),
            log,
            _folder: Some(remove),
        };
        server.await_listener()?;
        Ok(server)
    }

    /// An error when the process has ended.
    pub(crate) fn check(&self) -> Result<()> {
        if self.process.as_ref().is_some_and(cleanup::has_ended) {
            bail!(
                "the server has ended; its log ends with:\n{}",
                self.log_tail()
            );
        }
        Ok(())
    }

    /// The last lines of the server's log.
    pub(crate) fn log_tail(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }

    fn await_listener(&self) -> Result<()> {
        let until = clock::now() + START_LIMIT;
        loop {
            self.check()?;
            if TcpStream::connect_timeout(&self.address, Duration::from_secs(1)).is_ok() {
                return Ok(());
            }
            if clock::now() > until {
                bail!(
                    "the server does not listen on {}; its log ends with:\n{}",
                    self.address,
                    self.log_tail()
                );
            }
            pause(Duration::from_millis(20))?;
        }
    }
}

/// Waits, unless a signal ends the run.
pub(crate) fn pause(span: Duration) -> Result<()> {
    let (_keep, never) = mpsc::channel::<()>();
    let until = clock::now() + span;
    loop {
        if cleanup::interrupted() {
            bail!("interrupted");
        }
        let left = until.saturating_duration_since(clock::now());
        if left.is_zero() {
            return Ok(());
        }
        let _ = never.recv_timeout(left.min(Duration::from_millis(100))); // Nobody sends: it is the wait that counts.
    }
}

/// A command that the kernel kills with us even when we are killed, where util-linux has the program for it.
fn dies_with_us(program: &Path) -> Command {
    let setpriv = Path::new("/usr/bin/setpriv");
    if !setpriv.exists() {
        return Command::new(program);
    }
    let mut command = Command::new(setpriv);
    command.args(["--pdeathsig", "KILL"]).arg(program);
    command
}

fn settings(
    common: &Common,
    cores: u16,
    connections_max: u32,
    websocket: SocketAddr,
) -> Vec<OsString> {
    let websocket = match common.transport {
        Transport::Tcp => "listeners.websocket=[]".to_owned(),
        Transport::Websocket => format!("listeners.websocket=[\"{websocket}\"]"),
    };
    let mut arguments: Vec<OsString> = vec![
        "--io".into(),
        common.io.name().into(),
        "--cores".into(),
        cores.to_string().into(),
    ];
    let keys = [
        websocket,
        "admin.address=off".to_owned(),
        "log.level=warn".to_owned(),
        format!("io.connections_max={connections_max}"),
        format!("node.pin_cores={}", common.pin),
    ];
    for key in keys.iter().chain(&common.set) {
        arguments.push("--set".into());
        arguments.push(key.into());
    }
    arguments
}

/// Builds the server and returns its program.
fn build() -> Result<PathBuf> {
    let root = root();
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    eprintln!("building the server");
    let status = Command::new(cargo)
        .args(["build", "--release", "--quiet", "--package", "gateway"])
        .current_dir(&root)
        .status()
        .context("cannot start cargo to build the server; name a program with --server PATH")?;
    if !status.success() {
        bail!("the server does not build");
    }
    let target = match std::env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => root.join(folder),
        None => root.join("target"),
    };
    Ok(target.join("release/roadstead"))
}

/// Two free ports of the loopback address.
fn free_ports() -> Result<(SocketAddr, SocketAddr)> {
    let address = |port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    // Where to begin differs from run to run, so that runs at the same time do not race for one port.
    let first = PORTS.start + (std::process::id() % u32::from(PORTS.end - PORTS.start)) as u16;
    let mut free = (first..PORTS.end)
        .chain(PORTS.start..first)
        .map(address)
        .filter(|address| TcpListener::bind(address).is_ok());
    free.next()
        .zip(free.next())
        .context("no free port from 7,100 to 9,900 on 127.0.0.1")
}
