//! A server for the duration of a step: started on free ports of loopback, awaited, and killed with the value that owns it.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::network::{NODE, NODE_STILL, Network, Side};
use crate::process::{LIMIT, run};
use crate::programs::program;
use crate::project::Project;
use crate::tools;

/// Most that a server may take until it accepts connections.
const START_LIMIT: Duration = Duration::from_secs(20);

/// How long to wait between two looks at a server that starts.
const START_POLL: Duration = Duration::from_millis(20);

/// The port of the admin interface of a node in a network of its own.
pub(crate) const ADMIN_PORT: u16 = 9_883;

/// Ports below the ephemeral range: no outgoing connection can take one between our look and the server's bind.
const PORTS: std::ops::Range<u16> = 4_000..10_000;

/// A port of TCP and of UDP that nobody else can take.
type HeldPort = (TcpListener, UdpSocket);

/// What to hold the conversation with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Against {
    /// A node of this repository on the backend of that name: `io_uring` or `epoll`.
    Roadstead(&'static str),
    /// Debian's Mosquitto, the reference that the scripts were written with.
    Mosquitto,
    /// Any server that runs already.
    Running {
        host: String,
        port: u16,
        websocket_port: Option<u16>,
    },
}

/// What its listeners ask of those who connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Security {
    /// Nothing: TCP and WebSocket.
    None,
    /// TLS, QUIC, and WebSocket over TLS.
    Tls,
    /// The same, with a certificate of the client.
    MutualTls,
    /// TLS with good certificates alone, one with an ECDSA key and one with an RSA key.
    BothKeys,
}

/// A server and where it listens. Dropping it kills the process that it started.
#[derive(Debug)]
pub(crate) struct Server {
    /// Address or name of its host: the name that its certificate is for.
    pub host: String,
    /// MQTT over TCP or TLS; with TLS also over QUIC.
    pub port: u16,
    /// MQTT over WebSocket, secure or not, at the path `/mqtt`.
    pub websocket_port: Option<u16>,
    /// What it printed; empty for a server that ran already.
    log: PathBuf,
    child: Option<Child>,
}

impl Server {
    /// Starts a server with an empty store, or takes the one that runs.
    ///
    /// # Errors
    /// It is not built, ends at once, or accepts no connection in time; the error holds the end of its log.
    pub(crate) fn start(project: &Project, against: &Against, security: Security) -> Result<Self> {
        match against {
            Against::Roadstead(backend) => Self::roadstead(project, backend, security),
            Against::Mosquitto => Self::mosquitto(project, security),
            Against::Running {
                host,
                port,
                websocket_port,
            } => Ok(Self {
                host: host.clone(),
                port: *port,
                websocket_port: *websocket_port,
                log: PathBuf::new(),
                child: None,
            }),
        }
    }

    fn roadstead(project: &Project, backend: &'static str, security: Security) -> Result<Self> {
        let binary = node_binary(project)?;
        let folder = empty_folder(project, &format!("roadstead-{backend}"))?;
        let ([port, websocket_port, admin_port], reserved) = free_ports()?;
        let config = folder.join("roadstead.toml");
        let listeners = listeners(project, security, port, websocket_port)?;
        let text = format!(
            "[io]\nbackend = \"{backend}\"\n\n{listeners}\n\
             [admin]\naddress = \"127.0.0.1:{admin_port}\"\n\n[engine]\npath = \"{}\"\n",
            folder.join("data").display()
        );
        fs::write(&config, text).with_context(|| format!("cannot write {}", config.display()))?;
        let mut command = project.command(binary);
        command.arg("--config").arg(&config);
        drop(reserved);
        Self::spawn(command, &folder, security, port, Some(websocket_port))
    }

    /// Starts a node with an empty store in a network of its own, where it speaks QUIC at both of its addresses. Who wants
    /// to talk with it has to wait until it answers: from here it cannot be seen.
    ///
    /// # Errors
    /// It is not built, or cannot be started.
    pub(crate) fn in_network(
        project: &Project,
        backend: &'static str,
        network: &Network,
    ) -> Result<Self> {
        const QUIC_PORT: u16 = 14_567;
        let binary = node_binary(project)?;
        let folder = empty_folder(project, &format!("roadstead-moves-{backend}"))?;
        let certificates = certificates(project)?.display();
        let config = folder.join("roadstead.toml");
        // The client is not on loopback, and nobody else is in this network.
        let text = format!(
            "[io]\nbackend = \"{backend}\"\n\n\
             [listeners]\ntcp = []\nwebsocket = []\n\
             quic = [\"{NODE}:{QUIC_PORT}\", \"{NODE_STILL}:{QUIC_PORT}\"]\n\n\
             [tls]\ncertificates = [\"{certificates}/server.pem\"]\nkeys = [\"{certificates}/server.key\"]\n\n\
             [access]\nanonymous = \"everywhere-without-any-authentication\"\n\n\
             [admin]\naddress = \"{NODE}:{ADMIN_PORT}\"\nallow_remote = true\n\n\
             [engine]\npath = \"{}\"\n\n[log]\nlevel = \"debug\"\n",
            folder.join("data").display()
        );
        fs::write(&config, text).with_context(|| format!("cannot write {}", config.display()))?;
        let mut command = network.command(project, Side::Node, &binary);
        command.arg("--config").arg(&config);
        Self::begin(
            command,
            &folder,
            Self {
                host: NODE.to_string(),
                port: QUIC_PORT,
                websocket_port: None,
                log: PathBuf::new(),
                child: None,
            },
        )
    }

    fn mosquitto(project: &Project, security: Security) -> Result<Self> {
        let folder = empty_folder(project, "mosquitto")?;
        let ([port, _, _], reserved) = free_ports()?;
        let config = folder.join("mosquitto.conf");
        // With a lower bound of messages in flight it loses QoS 2 messages of a publisher that resumes: not what we look for.
        // Its WebSocket listener ignores the address to bind, and would be open to the network: there is none.
        let mut text = format!(
            "listener {port} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 10000\nmax_inflight_messages 1000\n\
             persistence false\nset_tcp_nodelay true\nuser root\n"
        );
        if security != Security::None {
            let folder = certificates(project)?.display();
            text += &format!(
                "cafile {folder}/authority.pem\ncertfile {folder}/server.pem\nkeyfile {folder}/server.key\n\
                 require_certificate {}\n",
                security == Security::MutualTls
            );
        }
        fs::write(&config, text).with_context(|| format!("cannot write {}", config.display()))?;
        let mut command = tools::debian_program(project, "mosquitto", "usr/sbin/mosquitto");
        command.arg("-c").arg(&config);
        drop(reserved);
        Self::spawn(command, &folder, security, port, None)
    }

    fn spawn(
        command: Command,
        folder: &Path,
        security: Security,
        port: u16,
        websocket_port: Option<u16>,
    ) -> Result<Self> {
        let host = match security {
            Security::None => Ipv4Addr::LOCALHOST.to_string(),
            _ => "localhost".to_owned(),
        };
        let server = Self {
            host,
            port,
            websocket_port,
            log: PathBuf::new(),
            child: None,
        };
        let mut server = Self::begin(command, folder, server)?;
        server.wait_until_it_accepts()?;
        Ok(server)
    }

    /// Starts the process of a server, with its log in the folder.
    fn begin(mut command: Command, folder: &Path, mut server: Self) -> Result<Self> {
        let log = folder.join("log");
        let file =
            File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
        command
            .stdout(file.try_clone()?)
            .stderr(file)
            .stdin(Stdio::null())
            .current_dir(folder);
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().display()))?;
        (server.log, server.child) = (log, Some(child));
        Ok(server)
    }

    fn wait_until_it_accepts(&mut self) -> Result<()> {
        let start = Instant::now();
        let mut ports = vec![self.port];
        ports.extend(self.websocket_port);
        while let Some(port) = ports.last() {
            if let Some(status) = self
                .child
                .as_mut()
                .and_then(|child| child.try_wait().ok().flatten())
            {
                bail!(
                    "the server ended at once, {status}; it said:\n{}",
                    self.log_tail()
                );
            }
            if TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, *port))).is_ok() {
                ports.pop();
            } else if start.elapsed() > START_LIMIT {
                bail!(
                    "port {port} is closed after {} s; it said:\n{}",
                    START_LIMIT.as_secs(),
                    self.log_tail()
                );
            } else {
                std::thread::park_timeout(START_POLL);
            }
        }
        Ok(())
    }

    /// An error when the server that was started here is gone: a client may not notice, but it should not have happened.
    pub(crate) fn still_runs(&mut self) -> Result<()> {
        match self.child.as_mut().map(Child::try_wait) {
            Some(Ok(Some(status))) => {
                bail!("the server died, {status}; it said:\n{}", self.log_tail())
            }
            _ => Ok(()),
        }
    }

    /// All that the server printed.
    pub(crate) fn log(&self) -> Result<String> {
        fs::read_to_string(&self.log).with_context(|| format!("cannot read {}", self.log.display()))
    }

    /// The last lines of it.
    pub(crate) fn log_tail(&self) -> String {
        let text = self.log().unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The folder with the certificates of everybody who takes part in a conversation over TLS: made anew once per run.
///
/// # Errors
/// They cannot be made.
pub(crate) fn certificates(project: &Project) -> Result<&'static Path> {
    static FOLDER: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let make = || -> Result<PathBuf> {
        let folder = empty_folder(project, "certificates")?;
        let mut command = program(project, "certificates")?;
        run(project, command.arg(&folder), LIMIT)?;
        Ok(folder)
    };
    let made = FOLDER.get_or_init(|| make().map_err(|error| format!("{error:#}")));
    made.as_deref()
        .map_err(|error| anyhow::Error::msg(error.clone()))
}

/// The part of a node's configuration that says where it listens. With TLS a handshake that fails is a line in the log, and
/// whoever does not ask for `localhost` gets the first certificate, which usually is one that has expired.
fn listeners(
    project: &Project,
    security: Security,
    port: u16,
    websocket_port: u16,
) -> Result<String> {
    let (clients, first, second) = match security {
        Security::None => {
            return Ok(format!(
                "[listeners]\ntcp = [\"127.0.0.1:{port}\"]\nwebsocket = [\"127.0.0.1:{websocket_port}\"]\n"
            ));
        }
        Security::Tls => ("none", "expired-server", "server"),
        Security::MutualTls => ("required", "expired-server", "server"),
        Security::BothKeys => ("none", "server", "rsa-server"),
    };
    let folder = certificates(project)?.display();
    Ok(format!(
        "[listeners]\ntcp = []\nwebsocket = []\n\
         tls = [\"127.0.0.1:{port}\"]\nquic = [\"127.0.0.1:{port}\"]\nwebsocket_tls = [\"127.0.0.1:{websocket_port}\"]\n\n\
         [tls]\ncertificates = [\"{folder}/{first}.pem\", \"{folder}/{second}.pem\"]\n\
         keys = [\"{folder}/{first}.key\", \"{folder}/{second}.key\"]\n\
         client_certificates = \"{clients}\"\nclient_authorities = [\"{folder}/authority.pem\"]\n\
         revocation_lists = [\"{folder}/revoked.pem\"]\n\n\
         [log]\nlevel = \"debug\"\n"
    ))
}

/// The node in release mode.
fn node_binary(project: &Project) -> Result<PathBuf> {
    let binary = project.release_binary("roadstead");
    if !binary.exists() {
        bail!(
            "{} is not built: `cargo build --release --package gateway`",
            binary.display()
        );
    }
    Ok(binary)
}

fn empty_folder(project: &Project, name: &str) -> Result<PathBuf> {
    let folder = project.scratch(name)?;
    fs::remove_dir_all(&folder).with_context(|| format!("cannot empty {}", folder.display()))?;
    project.scratch(name)
}

/// Distinct ports on which nothing listens, neither of TCP nor of UDP, with the sockets that hold them: drop those just before the
/// server starts.
fn free_ports<const N: usize>() -> Result<([u16; N], Vec<HeldPort>)> {
    let span = PORTS.end - PORTS.start;
    let first = u16::try_from(std::process::id() % u32::from(span))?;
    let mut ports = [0; N];
    let mut held = Vec::new();
    for offset in 0..span {
        let port = PORTS.start + (first + offset) % span;
        let address = (Ipv4Addr::LOCALHOST, port);
        if let (Ok(listener), Ok(socket)) = (TcpListener::bind(address), UdpSocket::bind(address)) {
            ports[held.len()] = port;
            held.push((listener, socket));
            if held.len() == N {
                return Ok((ports, held));
            }
        }
    }
    bail!(
        "no {N} free ports between {} and {}",
        PORTS.start,
        PORTS.end
    )
}
