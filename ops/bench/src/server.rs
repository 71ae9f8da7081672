//! The server that is loaded: a process that is started here, or one that runs already.

use std::ffi::OsString;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::arguments::{Common, Io, Transport};
use crate::certificate;
use crate::cleanup::{self, Guard};
use crate::clock;
use crate::cluster;
use crate::machine::{CpuDivision, Plan};
use crate::ports;
use crate::rival::{Rival, Store};
use crate::subject::Subject;

/// How long a server may take to listen.
const START_LIMIT: Duration = Duration::from_secs(60);
/// How long a server may take to stop when it is asked to.
const STOP_LIMIT: Duration = Duration::from_secs(120);

/// A running server.
#[derive(Debug)]
pub(crate) struct Server {
    /// Where clients connect, and whether it listens.
    pub(crate) address: SocketAddr,
    /// Where they do instead, over QUIC.
    pub(crate) datagrams: Option<SocketAddr>,
    /// Its process, where it is known.
    pub(crate) pid: Option<u32>,
    /// Its name and version.
    pub(crate) version: String,
    /// True exactly when it is known to use io_uring.
    pub(crate) uring: bool,
    /// Where it tells of itself over HTTP.
    pub(crate) admin: Option<SocketAddr>,
    process: Option<Guard>,
    launch: Option<Launch>,
    log: PathBuf,
    /// Further nodes of its cluster.
    pub(crate) others: Vec<Self>,
    /// The engine that the nodes share, where it is a process of its own.
    pub(crate) engine: Option<Box<Self>>,
    _folder: Option<Guard>,
}

/// How to start it, and start it again.
#[derive(Debug)]
struct Launch {
    /// Program and arguments.
    words: Vec<OsString>,
    variables: Vec<(&'static str, OsString)>,
    folder: PathBuf,
}

/// Where a server is to listen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ports {
    pub(crate) tcp: SocketAddr,
    /// For what is not MQTT over TCP.
    pub(crate) other: SocketAddr,
    pub(crate) admin: SocketAddr,
}

impl Ports {
    /// Where clients connect.
    const fn of(self, transport: Transport) -> SocketAddr {
        match transport {
            Transport::Tcp | Transport::Quic => self.tcp,
            Transport::Websocket | Transport::Tls | Transport::Wss => self.other,
        }
    }
}

/// The root of the repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

impl Server {
    /// Starts the server with an empty store, or takes the one that runs already.
    pub(crate) fn start(
        common: &Common,
        subject: &Subject,
        plan: &Plan,
        store: Store,
    ) -> Result<Self> {
        if let Some(address) = common.address {
            return Ok(Self {
                address,
                datagrams: None,
                pid: common.pid,
                version: "unknown".to_owned(),
                uring: false,
                admin: None,
                process: None,
                launch: None,
                log: PathBuf::new(),
                others: Vec::new(),
                engine: None,
                _folder: None,
            });
        }
        let [tcp, other, admin] = ports::free(Ipv4Addr::LOCALHOST)?;
        let ports = Ports { tcp, other, admin };
        let recipe = match subject {
            Subject::OneNode => return cluster::start(common, plan, 1),
            Subject::ThreeNodes => return cluster::start(common, plan, 3),
            Subject::Roadstead | Subject::Given => {
                let server = Self::node(common, plan, ports, "", &[])?;
                server.await_listener()?;
                return Ok(server);
            }
            Subject::Rival(rival) => rival_launch(rival, common, plan, ports, store)?,
            Subject::Limit => relay_launch(plan, ports)?,
            Subject::Baseline(name) => baseline_launch(name, ports)?,
        };
        let address = ports.of(common.transport());
        Self::launch(recipe, plan.division.as_ref(), address)
    }

    /// Starts a node of this repository's server, and does not wait until it listens. `name` tells it from others of this
    /// run; `keys` are of its configuration, before those that the user gave.
    pub(crate) fn node(
        common: &Common,
        plan: &Plan,
        ports: Ports,
        name: &str,
        keys: &[String],
    ) -> Result<Self> {
        let recipe = roadstead_launch(common, plan, ports, keys)?;
        let address = ports.of(common.transport());
        let cpus = plan.division.as_ref().map(|division| &division.server[..]);
        let mut server = Self::spawned(recipe, cpus, address, name)?;
        if common.transport() == Transport::Quic {
            server.datagrams = Some(ports.other);
        }
        server.uring = common.io == Io::IoUring;
        server.admin = Some(ports.admin);
        Ok(server)
    }

    /// Starts the echo of one engine.
    pub(crate) fn baseline(name: &'static str, division: Option<&CpuDivision>) -> Result<Self> {
        let [tcp, other, admin] = ports::free(Ipv4Addr::LOCALHOST)?;
        let ports = Ports { tcp, other, admin };
        Self::launch(baseline_launch(name, ports)?, division, tcp)
    }

    fn launch(recipe: Recipe, division: Option<&CpuDivision>, address: SocketAddr) -> Result<Self> {
        let cpus = division.map(|division| &division.server[..]);
        let server = Self::spawned(recipe, cpus, address, "")?;
        server.await_listener()?;
        Ok(server)
    }

    /// Starts a process on these CPUs, in a folder of its own.
    pub(crate) fn spawned(
        (version, words, variables): Recipe,
        cpus: Option<&[usize]>,
        address: SocketAddr,
        name: &str,
    ) -> Result<Self> {
        let folder = format!("roadstead-bench-{}{name}", std::process::id());
        let folder = std::env::temp_dir().join(folder);
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let remove = cleanup::remove_at_end(folder.clone());
        let launch = Launch {
            words: bound(cpus, words),
            variables,
            folder: folder.clone(),
        };
        let mut server = Self {
            address,
            pid: None,
            version,
            uring: false,
            datagrams: None,
            admin: None,
            process: None,
            launch: Some(launch),
            log: folder.join("bench.log"),
            others: Vec::new(),
            engine: None,
            _folder: Some(remove),
        };
        server.run()?;
        Ok(server)
    }

    /// Starts the process.
    fn run(&mut self) -> Result<()> {
        let launch = self
            .launch
            .as_ref()
            .context("a server that was not started here")?;
        let mut command = Command::new(&launch.words[0]);
        command
            .args(&launch.words[1..])
            .envs(launch.variables.iter().map(|(name, value)| (*name, value)))
            .current_dir(&launch.folder)
            .stdin(Stdio::null())
            .stdout(File::create(&self.log)?)
            .stderr(File::options().append(true).open(&self.log)?)
            // A Ctrl-C in the terminal is for the bench, which ends the server when it has measured.
            .process_group(0);
        let child = command.spawn().context("cannot start the server")?;
        self.pid = Some(child.id());
        self.process = Some(cleanup::kill_at_end(child));
        Ok(())
    }

    /// Stops the server in order and starts it again on what it has stored. Returns how long it took until it listened.
    pub(crate) fn restart(&mut self) -> Result<Duration> {
        let process = self
            .process
            .take()
            .context("only a server that was started here can be restarted")?;
        cleanup::ask_to_end(&process)?;
        let until = clock::now() + STOP_LIMIT;
        while !cleanup::has_ended(&process) {
            if clock::now() > until {
                bail!(
                    "the server does not stop within {STOP_LIMIT:?}; its log ends with:\n{}",
                    self.log_tail()
                );
            }
            pause(Duration::from_millis(10))?;
        }
        drop(process);
        let started = clock::now();
        self.run()?;
        self.await_listener()?;
        Ok(clock::now() - started)
    }

    /// Stops a server that was started here for a while, and lets it go on.
    pub(crate) fn stand_still(&self, span: Duration) -> Result<()> {
        let Some(process) = &self.process else {
            return Ok(());
        };
        cleanup::stand_still(process, true)?;
        let paused = pause(span);
        cleanup::stand_still(process, false)?;
        paused
    }

    /// Where it was started.
    pub(crate) fn folder(&self) -> &Path {
        let launch = self.launch.as_ref();
        launch.map_or_else(|| Path::new(""), |launch| &launch.folder)
    }

    /// An error when the process has ended, or another one of its cluster.
    pub(crate) fn check(&self) -> Result<()> {
        if self.process.as_ref().is_some_and(cleanup::has_ended) {
            bail!(
                "the server ({}) has ended; its log ends with:\n{}",
                self.version,
                self.log_tail()
            );
        }
        self.others.iter().try_for_each(Self::check)?;
        self.engine.as_ref().map_or(Ok(()), |engine| engine.check())
    }

    /// The last lines of the server's log.
    pub(crate) fn log_tail(&self) -> String {
        let text = String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }

    /// Waits until it listens.
    pub(crate) fn await_listener(&self) -> Result<()> {
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

/// The command on its CPUs, killed by the kernel with us even when we are killed; both where util-linux has the program
/// for it. Both programs become what they start.
fn bound(cpus: Option<&[usize]>, words: Vec<OsString>) -> Vec<OsString> {
    let mut all: Vec<OsString> = Vec::new();
    if let Some(cpus) = cpus {
        let cpus: Vec<String> = cpus.iter().map(usize::to_string).collect();
        all.extend(["taskset".into(), "-c".into(), cpus.join(",").into()]);
    }
    if Path::new("/usr/bin/setpriv").exists() {
        all.extend(["/usr/bin/setpriv", "--pdeathsig", "KILL"].map(OsString::from));
    }
    all.extend(words);
    all
}

/// Its version, program and arguments, and variables.
pub(crate) type Recipe = (String, Vec<OsString>, Vec<(&'static str, OsString)>);

fn rival_launch(
    rival: &Rival,
    common: &Common,
    plan: &Plan,
    ports: Ports,
    store: Store,
) -> Result<Recipe> {
    let command = rival.command();
    let mut words = vec![command.get_program().to_owned()];
    words.extend(command.get_args().map(ToOwned::to_owned));
    words.push("run".into());
    let cpus = plan.division.as_ref().map_or_else(
        || std::thread::available_parallelism().map_or(1, usize::from),
        |division| division.server.len(),
    );
    let durable = if store == Store::Disk { "yes" } else { "" };
    let mut variables: Vec<(&'static str, OsString)> = vec![
        ("PORT", ports.tcp.port().to_string().into()),
        ("WEBSOCKET_PORT", ports.other.port().to_string().into()),
        ("CPUS", cpus.to_string().into()),
        ("DURABLE", durable.into()),
    ];
    if common.transport().is_secure() {
        let files = certificate::files(common.tls_key)?;
        variables.push(("TLS_CERTIFICATE", files.chain.clone().into()));
        variables.push(("TLS_KEY", files.key.clone().into()));
    }
    for (name, value) in command.get_envs() {
        let name = match name.to_str() {
            Some("TOOLS") => "TOOLS",
            Some("SETTINGS") => "SETTINGS",
            _ => continue,
        };
        let folder = PathBuf::from(value.unwrap_or_default()).canonicalize()?;
        variables.push((name, folder.into()));
    }
    if let Some(script) = words.get_mut(1) {
        *script = PathBuf::from(&*script).canonicalize()?.into();
    }
    Ok((rival.banner()?, words, variables))
}

fn relay_launch(plan: &Plan, ports: Ports) -> Result<Recipe> {
    let program = std::env::current_exe().context("this program does not know where it is")?;
    let words = [
        program.into_os_string(),
        "relay".into(),
        "--listen".into(),
        ports.tcp.to_string().into(),
        "--connections-max".into(),
        plan.connections_max.to_string().into(),
    ];
    let version = "relay: moves packets, routes nothing".to_owned();
    Ok((version, words.to_vec(), Vec::new()))
}

fn baseline_launch(name: &'static str, ports: Ports) -> Result<Recipe> {
    static BUILT: Built = Built::new();
    let program = BUILT.get_or_init(|| {
        let program = build(
            &["--manifest-path", "ops/bench/baselines/Cargo.toml"],
            "baselines",
            // A workspace of its own has a build folder of its own.
            Path::new("ops/bench/baselines/target"),
        );
        program.map_err(|error| format!("{error:#}"))
    });
    let program = program.clone().map_err(anyhow::Error::msg)?;
    let engine = name.replace('_', "-");
    let engine = if name == "roadstead" {
        "reactor".to_owned()
    } else {
        engine
    };
    let words = vec![
        program.into(),
        engine.clone().into(),
        ports.tcp.to_string().into(),
    ];
    Ok((engine, words, Vec::new()))
}

fn roadstead_launch(
    common: &Common,
    plan: &Plan,
    ports: Ports,
    own_keys: &[String],
) -> Result<Recipe> {
    let program = match &common.server {
        Some(program) => program
            .canonicalize()
            .with_context(|| format!("there is no {}", program.display()))?,
        None => built()?,
    };
    let version = Command::new(&program).arg("--version").output();
    let version = version.with_context(|| format!("cannot run {}", program.display()))?;
    let other = |key: &str| format!("listeners.{key}=[\"{}\"]", ports.other);
    let listeners = match common.transport() {
        Transport::Tcp => vec![],
        Transport::Websocket => vec![other("websocket")],
        Transport::Tls => vec![other("tls")],
        Transport::Wss => vec![other("websocket_tls")],
        Transport::Quic => vec![other("quic")],
    };
    let mut words: Vec<OsString> = vec![
        program.into(),
        "--io".into(),
        common.io.name().into(),
        "--cores".into(),
        plan.cores.to_string().into(),
        "--listen".into(),
        ports.tcp.to_string().into(),
        "--data".into(),
        "data".into(),
    ];
    let mut keys = vec![
        "listeners.websocket=[]".to_owned(),
        format!("admin.address={}", ports.admin),
        "log.level=warn".to_owned(),
        format!("io.connections_max={}", plan.connections_max),
        format!("node.pin_cores={}", plan.division.is_some()),
    ];
    keys.extend(listeners);
    if common.transport().is_secure() {
        let files = certificate::files(common.tls_key)?;
        keys.push(format!("tls.certificates=[\"{}\"]", files.chain.display()));
        keys.push(format!("tls.keys=[\"{}\"]", files.key.display()));
        let secret = files.ticket_secret.display();
        keys.push(format!("tls.ticket_secrets=[\"{secret}\"]"));
    }
    for key in keys.iter().chain(own_keys).chain(&common.set) {
        words.push("--set".into());
        words.push(key.into());
    }
    let version = String::from_utf8_lossy(&version.stdout).trim().to_owned();
    Ok((version, words, Vec::new()))
}

type Built = std::sync::OnceLock<Result<PathBuf, String>>;

/// This repository's server, built once.
fn built() -> Result<PathBuf> {
    static BUILT: Built = Built::new();
    let program = BUILT.get_or_init(|| {
        let program = build(&["--package", "gateway"], "roadstead", Path::new("target"));
        program.map_err(|error| format!("{error:#}"))
    });
    program.clone().map_err(anyhow::Error::msg)
}

/// Builds a program in release mode. `folder` is where cargo builds it unless a variable says otherwise.
fn build(arguments: &[&str], program: &str, folder: &Path) -> Result<PathBuf> {
    let root = root().canonicalize()?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    eprintln!("building {program}");
    let status = Command::new(cargo)
        .args(["build", "--release", "--quiet"])
        .args(arguments)
        .current_dir(&root)
        .status()
        .context("cannot start cargo to build the server; name a program with --server PATH")?;
    if !status.success() {
        bail!("{program} does not build");
    }
    let target = match std::env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => root.join(folder),
        None => root.join(folder),
    };
    Ok(target.join("release").join(program))
}
