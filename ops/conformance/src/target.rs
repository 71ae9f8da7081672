//! The server under test: started here on free ports of the loopback address, or reached at an address.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What to test.
#[derive(Clone, Debug)]
pub enum Which {
    /// Roadstead, from this binary or from `target/`.
    Roadstead(Option<PathBuf>),
    /// Mosquitto, from this binary or from the Debian package.
    Mosquitto(Option<PathBuf>),
    /// A running server.
    Address(String),
}

impl Which {
    /// As printed in tables.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Roadstead(_) => "Roadstead",
            Self::Mosquitto(_) => "Mosquitto",
            Self::Address(_) => "server",
        }
    }
}

/// A server that answers. Dropping it ends the process that was started, by its id, and removes its directory.
pub struct Target {
    /// MQTT over TCP.
    pub address: SocketAddr,
    /// MQTT over WebSocket.
    pub websocket: Option<SocketAddr>,
    /// Which release it is, as it says itself.
    pub release: String,
    process: Option<Process>,
}

struct Process {
    child: Child,
    directory: PathBuf,
}

impl Drop for Process {
    fn drop(&mut self) {
        // Its own child: killing and reaping it cannot hit another process, and nothing is left to be done about errors.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

impl Target {
    /// Starts or finds the server and waits until it accepts connections.
    pub fn start(which: &Which) -> Result<Self, String> {
        match which {
            Which::Roadstead(binary) => roadstead(binary.as_deref()),
            Which::Mosquitto(binary) => mosquitto(binary.as_deref()),
            Which::Address(text) => {
                let address = text
                    .to_socket_addrs()
                    .ok()
                    .and_then(|mut found| found.next())
                    .ok_or_else(|| format!("{text:?} is not host:port"))?;
                Ok(Self {
                    address,
                    websocket: None,
                    release: text.clone(),
                    process: None,
                })
            }
        }
    }

    /// The process id of a started server.
    pub fn process_id(&self) -> Option<u32> {
        self.process.as_ref().map(|process| process.child.id())
    }
}

fn mosquitto(binary: Option<&Path>) -> Result<Target, String> {
    let found = [
        "/usr/sbin/mosquitto",
        "/usr/local/sbin/mosquitto",
        "/usr/bin/mosquitto",
    ];
    let binary = binary
        .or_else(|| found.iter().map(Path::new).find(|path| path.exists()))
        .ok_or("no mosquitto binary: install the Debian package mosquitto, or give --binary")?;
    let [port] = free_ports()?;
    let directory = directory("mosquitto")?;
    // Its WebSocket listener ignores the bind address, so there is none.
    let config = format!(
        "listener {port} 127.0.0.1\nallow_anonymous true\npersistence true\npersistence_location {}/\nuser root\n\
         log_dest none\nmax_inflight_messages 20\nmax_queued_messages 10000\nmax_packet_size 2000000\n",
        directory.display()
    );
    let release = release(Command::new(binary).arg("-h"));
    let mut target = start(
        binary,
        "-c",
        &directory,
        "mosquitto.conf",
        &config,
        port,
        None,
    )?;
    target.release = release;
    Ok(target)
}

fn roadstead(binary: Option<&Path>) -> Result<Target, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let built = [
        root.join("target/release/roadstead"),
        root.join("target/debug/roadstead"),
    ];
    let binary = binary
        .or_else(|| {
            built
                .iter()
                .map(PathBuf::as_path)
                .find(|path| path.exists())
        })
        .ok_or("no roadstead binary: run `cargo build --release`, or give --binary")?;
    let [port, websocket, admin] = free_ports()?;
    let directory = directory("roadstead")?;
    let config = include_str!("roadstead.toml")
        .replace("{port}", &port.to_string())
        .replace("{websocket}", &websocket.to_string())
        .replace("{admin}", &admin.to_string())
        .replace("{directory}", &directory.display().to_string());
    let release = release(Command::new(binary).arg("--version"));
    let mut target = start(
        binary,
        "--config",
        &directory,
        "roadstead.toml",
        &config,
        port,
        Some(websocket),
    )?;
    target.release = release;
    Ok(target)
}

fn start(
    binary: &Path,
    option: &str,
    directory: &Path,
    file: &str,
    config: &str,
    port: u16,
    websocket: Option<u16>,
) -> Result<Target, String> {
    let path = directory.join(file);
    fs::File::create(&path)
        .and_then(|mut out| out.write_all(config.as_bytes()))
        .map_err(|error| format!("{}: {error}", path.display()))?;
    let log = fs::File::create(directory.join("log")).map_err(|error| error.to_string())?;
    let child = Command::new(binary)
        .arg(option)
        .arg(&path)
        .stdin(Stdio::null())
        .stdout(log.try_clone().map_err(|error| error.to_string())?)
        .stderr(log)
        .spawn()
        .map_err(|error| format!("{}: {error}", binary.display()))?;
    let mut process = Process {
        child,
        directory: directory.to_owned(),
    };
    let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let deadline = Instant::now() + Duration::from_secs(10);
    for port in [Some(port), websocket].into_iter().flatten() {
        while TcpStream::connect_timeout(&local(port), Duration::from_secs(1)).is_err() {
            let ended = process
                .child
                .try_wait()
                .map_err(|error| error.to_string())?;
            if ended.is_some() || Instant::now() > deadline {
                let log = fs::read_to_string(directory.join("log")).unwrap_or_default();
                let state =
                    ended.map_or_else(|| "still runs".to_owned(), |status| status.to_string());
                return Err(format!(
                    "{} does not listen on {port} ({state}): {log}",
                    binary.display()
                ));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    let process = Some(process);
    Ok(Target {
        address: local(port),
        websocket: websocket.map(local),
        release: String::new(),
        process,
    })
}

/// The first line that a command prints.
fn release(command: &mut Command) -> String {
    let Ok(mut child) = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
    else {
        return "unknown".into();
    };
    let mut text = String::new();
    if let Some(out) = &mut child.stdout {
        let _ = out.read_to_string(&mut text);
    }
    let _ = child.wait();
    text.lines().next().unwrap_or("unknown").to_owned()
}

/// A new directory of this run.
fn directory(server: &str) -> Result<PathBuf, String> {
    // In memory where that is possible: the cases are about the protocol, and another program's disk load would only
    // stretch their intervals.
    let memory = PathBuf::from("/dev/shm");
    let base = if memory.is_dir() {
        memory
    } else {
        std::env::temp_dir()
    };
    let path = base.join(format!("conformance-{server}-{}", std::process::id()));
    fs::create_dir_all(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(path)
}

/// Ports below the ephemeral range, where no outgoing connection can take them between the check and the start.
fn free_ports<const N: usize>() -> Result<[u16; N], String> {
    let start = 2_000 + u16::try_from(std::process::id() % 6_000).unwrap_or(0);
    let mut found = (start..9_990)
        .chain(2_000..start)
        .filter(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok());
    let ports: Vec<u16> = found.by_ref().take(N).collect();
    ports
        .try_into()
        .map_err(|_| "no free ports below 10,000".to_owned())
}
