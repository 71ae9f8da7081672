//! Two network namespaces with a cable between them: one for a node and one for a client, who are alone there. What happens to
//! the addresses in them is nobody else's concern, and they may have the same ones in every run.
//!
//! They need rights that not every machine gives. However a run ends, they go: a shell waits for the end of a pipe that this
//! process holds, kills who is still in them, and removes them.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result};

use crate::process::capture;
use crate::project::Project;
use crate::step::NotHere;
use crate::tools;

/// The name of each end of the cable in its namespace.
pub(crate) const DEVICE: &str = "cable";
/// The node, in the network where the client's addresses change.
pub(crate) const NODE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 1, 1));
/// The node, in a network where nothing changes.
pub(crate) const NODE_STILL: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 2, 1));
/// The client's addresses in the first network; it has one at a time.
pub(crate) const CLIENT: [&str; 3] = ["10.77.1.2/24", "10.77.1.3/24", "10.77.1.4/24"];
/// Its address in the second.
const CLIENT_STILL: &str = "10.77.2.2/24";

/// Waits until its input ends, whatever else it is told, and then removes the namespaces with all who are in them.
const JANITOR: &str = r#"
trap '' HUP INT TERM
read -r _
for name in "$@"; do
    for process in $(ip netns pids "$name"); do kill -KILL "$process"; done
    ip netns del "$name"
done
"#;

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Node,
    Client,
}

/// The two namespaces. They are gone when this is dropped, and also when the process ends without that.
#[derive(Debug)]
pub(crate) struct Network {
    ip: Ip,
    names: [String; 2],
    janitor: Child,
}

impl Network {
    /// Makes the namespaces, with addresses.
    ///
    /// # Errors
    /// [`NotHere`] when this machine does not allow it; anything else when what is allowed has failed.
    pub(crate) fn new(project: &Project) -> Result<Self> {
        let ip = Ip::find(project);
        let names =
            ["node", "client"].map(|side| format!("roadstead-{}-{side}", std::process::id()));
        let janitor = ip
            .with_path(&mut Command::new("sh"))
            .args(["-c", JANITOR, "janitor"])
            .args(&names)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C is not for it.
            .process_group(0)
            .spawn()
            .context("cannot start `sh`")?;
        let network = Self { ip, names, janitor };
        let [node, client] = &network.names;
        for words in [
            vec!["netns", "add", node],
            vec!["netns", "add", client],
            vec![
                "-netns", node, "link", "add", DEVICE, "type", "veth", "peer", "name", DEVICE,
                "netns", client,
            ],
        ] {
            let made = network.ip.run(&words);
            made.map_err(|error| {
                NotHere(format!(
                    "network namespaces are not allowed here, they need root and CAP_SYS_ADMIN: {error:#}"
                ))
            })?;
        }
        let node_addresses = [NODE, NODE_STILL].map(|address| format!("{address}/24"));
        let addresses = node_addresses.iter().map(|it| (node, it.as_str()));
        for (side, address) in addresses.chain([(client, CLIENT[0]), (client, CLIENT_STILL)]) {
            let words = ["-netns", side, "addr", "add", address, "dev", DEVICE];
            network.ip.run(&words)?;
        }
        for side in &network.names {
            for device in ["lo", DEVICE] {
                network
                    .ip
                    .run(&["-netns", side, "link", "set", device, "up"])?;
            }
        }
        Ok(network)
    }

    /// A program that runs on one side; its arguments may be added. It finds `ip` by its name.
    pub(crate) fn command(&self, project: &Project, side: Side, program: &Path) -> Command {
        let mut command = project.command(&self.ip.program);
        self.ip.with_path(&mut command);
        command
            .args(["netns", "exec", &self.names[side as usize]])
            .arg(program);
        command
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        if let Some(mut pipe) = self.janitor.stdin.take() {
            let _ = pipe.flush(); // Its end, here, is what the janitor waits for.
        }
        let _ = self.janitor.wait();
    }
}

/// The program `ip` of iproute2: the machine's, or the one that was unpacked.
#[derive(Debug)]
pub(crate) struct Ip {
    program: PathBuf,
    /// Where the unpacked one has its libraries.
    libraries: Option<String>,
}

impl Ip {
    /// The one to use here.
    pub(crate) fn find(project: &Project) -> Self {
        if tools::has_ip() {
            return Self {
                program: "ip".into(),
                libraries: None,
            };
        }
        let root = project.tools().join("iproute2");
        let places = ["usr/bin/ip", "bin/ip", "usr/sbin/ip", "sbin/ip"];
        let places = places.map(|place| root.join(place));
        let found = places.iter().find(|place| place.exists());
        Self {
            program: found.unwrap_or(&places[0]).clone(),
            libraries: Some(tools::debian_libraries(&root)),
        }
    }

    /// Lets a program find it.
    pub(crate) fn with_path<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        if let Some(libraries) = &self.libraries {
            let folder = self.program.parent().unwrap_or_else(|| Path::new("/"));
            let path = std::env::var("PATH").unwrap_or_default();
            command
                .env("PATH", format!("{}:{path}", folder.display()))
                .env("LD_LIBRARY_PATH", libraries);
        }
        command
    }

    fn run(&self, words: &[&str]) -> Result<()> {
        let mut command = Command::new(&self.program);
        capture(self.with_path(&mut command).args(words)).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead as _, BufReader};

    fn exists(name: &str) -> bool {
        let list = capture(Command::new("ip").args(["netns", "list"]));
        let list = list.expect("there is an `ip`: it has made namespaces");
        list.lines()
            .any(|line| line.split(' ').next() == Some(name))
    }

    #[test]
    fn namespaces_and_who_is_in_them_go_when_the_pipe_ends() {
        let project = Project::locate().expect("it is here");
        let network = match tools::has_ip().then(|| Network::new(&project)) {
            Some(Ok(network)) => network,
            Some(Err(error)) if error.is::<NotHere>() => return eprintln!("{error}"),
            None => return eprintln!("there is no `ip` here"),
            Some(Err(error)) => panic!("{error:#}"),
        };
        let names = network.names.clone();
        assert!(names.iter().all(|name| exists(name)));
        let mut inside = network
            .command(&project, Side::Client, Path::new("sh"))
            .args(["-c", "ip -oneline addr; exec sleep 1000"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let lines = BufReader::new(inside.stdout.take().expect("it is piped")).lines();
        let mut lines = lines.map(|line| line.expect("it is text"));
        assert!(lines.any(|line| line.contains(CLIENT[0].trim_end_matches("/24"))));
        drop(network);
        assert!(!inside.wait().expect("it was started").success());
        assert!(!names.iter().any(|name| exists(name)));
    }
}
