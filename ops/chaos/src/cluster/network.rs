//! The network of a cluster run: a namespace for each node and one for the engine, joined by a bridge in the namespace of this process,
//! where the clients are. Nobody else is in it.
//!
//! A *cut* goes one way, from one namespace to another, and drops without a word: the sender keeps the address of the other, under a
//! hardware address that nobody has. So it needs no firewall, connections that are open stay open, and clients reach every node all
//! the time.
//!
//! However a run ends, the namespaces go: a shell waits for the end of a pipe that this process holds, kills who is still in them, and
//! removes them with the folder of the run.

use std::io::{self, Write as _};
use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// The device of each namespace.
const DEVICE: &str = "eth0";
/// A hardware address that nobody has.
const NOBODY: &str = "02:00:00:00:00:ff";

/// Waits until its input ends, whatever else it is told, and then removes everything.
const JANITOR: &str = r#"
trap '' HUP INT TERM
read -r word
folder=$1; bridge=$2; shift 2
for name in "$@"; do
    for process in $(ip netns pids "$name"); do kill -KILL "$process"; done
    ip netns del "$name"
done
ip link del "$bridge"
[ "$word" = keep ] || rm -rf "$folder"
"#;

/// A place in the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Host {
    /// The node of this number.
    Node(usize),
    /// All servers of the engine.
    Engine,
}

/// The namespaces, the bridge and the cables. They are gone when this is dropped, and also when the process ends without that.
#[derive(Debug)]
pub(crate) struct Network {
    nodes: usize,
    subnet: [u8; 3],
    bridge: String,
    janitor: Child,
    /// Cuts that are there: from, to.
    cuts: Vec<(Host, Host)>,
}

impl Network {
    /// A network for so many nodes. `folder` is removed with it.
    ///
    /// # Errors
    /// This machine does not allow it, or has no program `ip`.
    pub(crate) fn new(nodes: usize, folder: &Path) -> io::Result<Self> {
        let process = std::process::id();
        let [_, _, high, low] = process.to_be_bytes();
        let bridge = format!("rs{process}");
        let names = (0..=nodes).map(|index| format!("{bridge}-{index}"));
        let janitor = Command::new("sh")
            .args(["-c", JANITOR, "janitor"])
            .arg(folder)
            .arg(&bridge)
            .args(names)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C is not for it.
            .process_group(0)
            .spawn()?;
        let subnet = [10, 96 + high % 64, low];
        let network = Self {
            nodes,
            subnet,
            bridge,
            janitor,
            cuts: Vec::new(),
        };
        network.lay()?;
        Ok(network)
    }

    fn lay(&self) -> io::Result<()> {
        let (bridge, [a, b, c]) = (&self.bridge, self.subnet);
        ip(&format!("link add {bridge} type bridge"))?;
        ip(&format!("addr add {a}.{b}.{c}.1/24 dev {bridge}"))?;
        ip(&format!("link set {bridge} up"))?;
        for host in self.hosts() {
            let (space, address, hardware) = (self.space(host), self.address(host), hardware(host));
            let cable = format!("{bridge}n{}", self.index(host));
            ip(&format!("netns add {space}"))?;
            ip(&format!(
                "link add {cable} type veth peer name {DEVICE} address {hardware} netns {space}"
            ))?;
            ip(&format!("link set {cable} master {bridge} up"))?;
            ip(&format!("-n {space} addr add {address}/24 dev {DEVICE}"))?;
            ip(&format!("-n {space} link set lo up"))?;
            ip(&format!("-n {space} link set {DEVICE} up"))?;
        }
        Ok(())
    }

    fn hosts(&self) -> impl Iterator<Item = Host> + use<> {
        (0..self.nodes).map(Host::Node).chain([Host::Engine])
    }

    const fn index(&self, host: Host) -> usize {
        match host {
            Host::Node(index) => index,
            Host::Engine => self.nodes,
        }
    }

    fn space(&self, host: Host) -> String {
        format!("{}-{}", self.bridge, self.index(host))
    }

    /// Its address.
    pub(crate) const fn address(&self, host: Host) -> Ipv4Addr {
        let last = match host {
            Host::Node(index) => 11 + index as u8,
            Host::Engine => 101,
        };
        let [a, b, c] = self.subnet;
        Ipv4Addr::new(a, b, c, last)
    }

    /// A program that runs there, as the process that is started; its arguments may be added.
    pub(crate) fn command(&self, host: Host, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.space(host)])
            .arg(program);
        command
    }

    /// What one sends to the other is dropped from now on.
    ///
    /// # Errors
    /// What `ip` says.
    pub(crate) fn cut(&mut self, from: Host, to: Host) -> io::Result<()> {
        self.cuts.push((from, to));
        self.point(from, to, NOBODY)
    }

    /// Nothing gets from any of these to any of those, nor back.
    ///
    /// # Errors
    /// What `ip` says.
    pub(crate) fn part(&mut self, these: &[Host], those: &[Host]) -> io::Result<()> {
        for &one in these {
            for &other in those {
                self.cut(one, other)?;
                self.cut(other, one)?;
            }
        }
        Ok(())
    }

    /// Ends all cuts.
    ///
    /// # Errors
    /// What `ip` says.
    pub(crate) fn heal(&mut self) -> io::Result<()> {
        for (from, to) in std::mem::take(&mut self.cuts) {
            self.point(from, to, &hardware(to))?;
        }
        Ok(())
    }

    fn point(&self, from: Host, to: Host, hardware: &str) -> io::Result<()> {
        let (space, address) = (self.space(from), self.address(to));
        ip(&format!(
            "-n {space} neigh replace {address} lladdr {hardware} nud permanent dev {DEVICE}"
        ))
    }

    /// The folder of the run is to stay.
    pub(crate) fn keep_folder(&mut self) {
        if let Some(pipe) = &mut self.janitor.stdin {
            let _ = pipe.write_all(b"keep\n"); // Then there is nobody to remove it.
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        drop(self.janitor.stdin.take()); // The end of it is what the janitor waits for.
        let _ = self.janitor.wait();
    }
}

fn hardware(host: Host) -> String {
    match host {
        Host::Node(index) => format!("02:00:00:00:01:{index:02x}"),
        Host::Engine => "02:00:00:00:02:00".to_owned(),
    }
}

fn ip(words: &str) -> io::Result<()> {
    let output = Command::new("ip")
        .args(words.split(' '))
        .stdin(Stdio::null())
        .output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(io::Error::other(format!("ip {words}: {said}")))
}
