//! `cargo xtask cluster`: a cluster on this machine, to try things on. Each node has a loopback address of its own with the usual ports,
//! and all share a Valkey Cluster of three primaries. What `up` starts goes on until `down`, which ends those processes and no others.

mod layout;
mod running;
mod step;
mod watch;

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::process::{LIMIT, run};
use crate::project::Project;
use crate::tools::{self, Tool};
use crate::{expect_empty, take_flag, take_value};
use layout::{Layout, Member};
use running::Running;
pub(crate) use step::step;

const HELP: &str = "\
cargo xtask cluster VERB

  up [--nodes N] [--network X] [--debug]
               starts N nodes (1 to 9, default 3) on 127.X.0.1 and up (default 127.77.0.1), and a Valkey Cluster under them; waits until
               all are members and ready. --debug takes the debug build, which is faster to make and slower to run
  status       what runs, and where
  start NAME   starts a member that was killed, e.g. node-2 or valkey-1, with what its folder holds
  down         ends all that `up` has started. Logs and data stay until the next `up`
";

/// How long a process may take to end before it is killed.
const PATIENCE: Duration = Duration::from_secs(10);
/// The second number of the addresses, unless another one is given.
const NETWORK: u8 = 77;

/// Runs one verb of a cluster.
///
/// # Errors
/// What it could not do, and what to do about it.
pub(crate) fn run_verb(project: &Project, arguments: &[String]) -> Result<bool> {
    let (verb, rest) = match arguments.split_first() {
        Some((verb, rest)) => (verb.as_str(), rest.to_vec()),
        None => ("help", Vec::new()),
    };
    let folder = project.target().join("xtask/cluster");
    match verb {
        "up" => up(project, folder, rest),
        "status" => {
            expect_empty(&rest)?;
            status(project, &folder)
        }
        "start" => start_again(project, &folder, &rest),
        "down" => {
            expect_empty(&rest)?;
            down(&folder)
        }
        "help" | "--help" => {
            print!("{HELP}");
            Ok(true)
        }
        other => bail!("there is no `cluster {other}`\n\n{HELP}"),
    }
}

fn up(project: &Project, folder: PathBuf, mut rest: Vec<String>) -> Result<bool> {
    let nodes = take_value(&mut rest, "--nodes")?;
    let network = take_value(&mut rest, "--network")?;
    let is_debug = take_flag(&mut rest, "--debug");
    expect_empty(&rest)?;
    let nodes = nodes.map_or(Ok(3), |text| layout::node_count(&text))?;
    let network = network.map_or(Ok(NETWORK), |text| layout::network(&text))?;
    refuse_a_second_one(&folder)?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let layout = Layout {
        folder,
        network,
        nodes,
        cores: if cores >= 2 * usize::from(nodes) {
            2
        } else {
            1
        },
    };
    layout.check_addresses()?;
    tools::ensure(project, Tool::Valkey)?;
    let programs = Programs::build(project, is_debug)?;
    bring_up(project, &layout, &programs)?;
    print!("{}", layout.told(&programs));
    Ok(true)
}

/// Starts everything and waits; what was started is ended when it fails.
fn bring_up(project: &Project, layout: &Layout, programs: &Programs) -> Result<()> {
    write_files(layout, programs)?;
    let result = start_all(project, layout, programs);
    if result.is_err() {
        let _ = end_all(&layout.folder); // The first error is the one that helps.
    }
    result.with_context(|| {
        format!(
            "the cluster did not come up, and was ended; logs are in {}",
            layout.folder.display()
        )
    })
}

fn start_all(project: &Project, layout: &Layout, programs: &Programs) -> Result<()> {
    for server in layout.servers() {
        start(project, layout, programs, server)?;
    }
    println!("forming a Valkey Cluster of {} primaries", layout::SERVERS);
    watch::until_servers_answer(project, layout, programs)?;
    let addresses = layout
        .servers()
        .map(|server| layout.valkey(server).to_string());
    let mut create = project.command(&programs.valkey_cli);
    create.args(["--cluster", "create"]).args(addresses);
    create.arg("--cluster-yes").stdout(Stdio::null());
    run(project, &mut create, watch::SERVERS_LIMIT)?;
    watch::until_servers_are_one(project, layout, programs)?;
    for node in layout.node_members() {
        start(project, layout, programs, node)?;
    }
    println!("waiting until {} nodes are members and ready", layout.nodes);
    watch::until_nodes_are_one(layout)
}

/// Starts one process.
fn start(
    project: &Project,
    layout: &Layout,
    programs: &Programs,
    member: Member,
) -> Result<Running> {
    let mut command = project.command(match member {
        Member::Valkey(_) => &programs.valkey_server,
        Member::Node(_) => &programs.node,
    });
    match member {
        Member::Valkey(_) => command.arg(layout.config(member)),
        Member::Node(_) => command.arg("--config").arg(layout.config(member)),
    };
    // What is set for another node must not become this one's.
    for (name, _) in std::env::vars_os() {
        if name
            .to_str()
            .is_some_and(|name| name.starts_with("ROADSTEAD_"))
        {
            command.env_remove(name);
        }
    }
    Running::start(&mut command, &layout.home(member), &layout.log(member))
        .with_context(|| member.name())
}

/// An empty folder with the key of the cluster and the configuration of each process.
fn write_files(layout: &Layout, programs: &Programs) -> Result<()> {
    let folder = &layout.folder;
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("cannot empty {}", folder.display()))?;
    }
    for member in layout.members() {
        let home = layout.home(member);
        fs::create_dir_all(&home).with_context(|| format!("cannot create {}", home.display()))?;
        write(&layout.config(member), &layout.text(member))?;
    }
    let mut secret = [0; 32];
    fs::File::open("/dev/urandom")
        .and_then(|mut file| std::io::Read::read_exact(&mut file, &mut secret))
        .context("cannot read random numbers")?;
    let key = layout.key();
    let file = fs::File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&key);
    file.and_then(|mut file| {
        std::io::Write::write_all(&mut file, (STANDARD.encode(secret) + "\n").as_bytes())
    })
    .with_context(|| format!("cannot write {}", key.display()))?;
    write(&folder.join("layout"), &layout.saved(programs))
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

fn refuse_a_second_one(folder: &Path) -> Result<()> {
    let running = running(folder);
    if let Some((member, process)) = running.first() {
        bail!(
            "a cluster is up already ({} processes, {} is {}); `cargo xtask cluster status` shows it, `cargo xtask cluster down` ends it",
            running.len(),
            member.name(),
            process.id()
        );
    }
    Ok(())
}

/// What runs of all that was ever started in a folder, nodes first.
fn running(folder: &Path) -> Vec<(Member, Running)> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found: Vec<_> = entries
        .filter_map(|entry| {
            let member = Member::named(entry.file_name().to_str()?)?;
            Some((member, Running::of(&entry.path())?))
        })
        .collect();
    found.sort_by_key(|(member, _)| match member {
        Member::Node(number) => (0, *number),
        Member::Valkey(number) => (1, *number),
    });
    found
}

fn down(folder: &Path) -> Result<bool> {
    let ended = end_all(folder)?;
    if ended == 0 {
        println!("nothing runs");
    } else {
        println!(
            "logs and data are in {} until the next `up`",
            folder.display()
        );
    }
    Ok(true)
}

/// Ends what runs: the nodes at once, without a drain, and then what is under them.
fn end_all(folder: &Path) -> Result<usize> {
    let running = running(folder);
    let mut failed = Vec::new();
    for (member, process) in &running {
        let signal = match member {
            Member::Node(_) => "-INT",
            Member::Valkey(_) => "-TERM",
        };
        match process.end(signal, PATIENCE) {
            Ok(false) => println!("{} ({}) has ended", member.name(), process.id()),
            Ok(true) => println!(
                "{} ({}) was killed: it did not end by itself",
                member.name(),
                process.id()
            ),
            Err(error) => failed.push(format!("{}: {error:#}", member.name())),
        }
    }
    if !failed.is_empty() {
        bail!("{}", failed.join("; "));
    }
    Ok(running.len())
}

fn status(project: &Project, folder: &Path) -> Result<bool> {
    let running = running(folder);
    if running.is_empty() {
        println!("nothing runs; `cargo xtask cluster up` starts a cluster");
        return Ok(true);
    }
    let (layout, programs) = saved(project, folder)?;
    print!("{}", layout.told(&programs));
    for member in layout.members() {
        if !running.iter().any(|(it, _)| *it == member) {
            println!(
                "{0} does not run; `cargo xtask cluster start {0}`",
                member.name()
            );
        }
    }
    Ok(true)
}

fn start_again(project: &Project, folder: &Path, rest: &[String]) -> Result<bool> {
    let [name] = rest else {
        bail!("name one member, e.g. `cargo xtask cluster start node-2`");
    };
    let (layout, programs) = saved(project, folder)?;
    let member = layout.members().find(|member| member.name() == *name);
    let member = member.with_context(|| {
        let names: Vec<String> = layout.members().map(Member::name).collect();
        format!("there is no {name}; write one of {}", names.join(", "))
    })?;
    if let Some(process) = Running::of(&layout.home(member)) {
        bail!("{name} runs: it is process {}", process.id());
    }
    let process = start(project, &layout, &programs, member)?;
    println!(
        "{name} is process {}; its log: {}",
        process.id(),
        layout.log(member).display()
    );
    Ok(true)
}

/// The programs that a cluster is made of.
struct Programs {
    node: PathBuf,
    valkey_server: PathBuf,
    valkey_cli: PathBuf,
}

impl Programs {
    fn build(project: &Project, is_debug: bool) -> Result<Self> {
        let mut build = project.cargo(&[
            "build",
            "--locked",
            "--package",
            "gateway",
            "--bin",
            "roadstead",
        ]);
        if !is_debug {
            build.arg("--release");
        }
        run(project, &mut build, LIMIT)?;
        let profile = if is_debug { "debug" } else { "release" };
        Ok(Self::with_node(
            project,
            project.target().join(profile).join("roadstead"),
        ))
    }

    fn with_node(project: &Project, node: PathBuf) -> Self {
        let valkey = project.tools().join("valkey");
        Self {
            node,
            valkey_server: valkey.join("valkey-server"),
            valkey_cli: valkey.join("valkey-cli"),
        }
    }
}

impl Layout {
    /// What `status` and `start` have to know of it.
    fn saved(&self, programs: &Programs) -> String {
        format!(
            "{}\n{}\n{}\n{}\n",
            self.network,
            self.nodes,
            self.cores,
            programs.node.display()
        )
    }

    fn read(folder: &Path, text: &str) -> Option<(Self, PathBuf)> {
        let mut lines = text.lines();
        let mut number = || lines.next()?.parse().ok();
        let layout = Self {
            folder: folder.to_owned(),
            network: number()?,
            nodes: number()?,
            cores: number()?,
        };
        Some((layout, PathBuf::from(lines.next()?)))
    }

    /// Where everything is, and what to try, for somebody who has never seen it.
    fn told(&self, programs: &Programs) -> String {
        let mut rows = vec![["", "MQTT", "WebSocket", "admin", "log"].map(str::to_owned)];
        for node in self.node_members() {
            rows.push([
                node.name(),
                self.mqtt(node).to_string(),
                self.websocket(node).to_string(),
                self.admin(node).to_string(),
                self.log(node).display().to_string(),
            ]);
        }
        for server in self.servers() {
            let address = format!("(Valkey) {}", self.valkey(server));
            let log = self.log(server).display().to_string();
            rows.push([server.name(), address, String::new(), String::new(), log]);
        }
        let (first, last) = (Member::Node(1), Member::Node(self.nodes));
        let node = programs.node.display();
        let host = |address: SocketAddr| address.ip().to_string();
        format!(
            "\n{}\n\
             a message from one node to another:\n  \
             mosquitto_sub -h {} -t 'hello/#' -v &\n  \
             mosquitto_pub -h {} -t hello/world -q 1 -m hi\n\
             what a node sees:\n  \
             {node} ctl --address {} cluster view\n\
             the end:\n  \
             cargo xtask cluster down\n",
            table(&rows),
            host(self.mqtt(first)),
            host(self.mqtt(last)),
            self.admin(first),
        )
    }
}

/// The cluster that was brought up last.
fn saved(project: &Project, folder: &Path) -> Result<(Layout, Programs)> {
    let path = folder.join("layout");
    let text = fs::read_to_string(&path).ok();
    let read = text.and_then(|text| Layout::read(folder, &text));
    let (layout, node) = read.context("there is no cluster; `cargo xtask cluster up` makes one")?;
    Ok((layout, Programs::with_node(project, node)))
}

/// Columns as wide as what is in them.
fn table(rows: &[[String; 5]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..5).map(width).collect();
    let line = |row: &[String; 5]| {
        let cells = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::process::Command;

    use super::*;

    fn folder(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!(
            "roadstead-xtask-cluster-{}-{name}",
            std::process::id()
        ))
    }

    fn programs() -> Programs {
        Programs {
            node: PathBuf::from("/b/roadstead"),
            valkey_server: PathBuf::from("/b/valkey-server"),
            valkey_cli: PathBuf::from("/b/valkey-cli"),
        }
    }

    fn layout(name: &str) -> Layout {
        Layout {
            folder: folder(name),
            network: 77,
            nodes: 2,
            cores: 1,
        }
    }

    #[test]
    fn what_is_written_is_what_start_and_status_read() {
        let layout = layout("saved");
        write_files(&layout, &programs()).expect("the folder can be written");
        let text = fs::read_to_string(layout.folder.join("layout")).expect("it is written");
        let (read, node) = Layout::read(&layout.folder, &text).expect("it is whole");
        assert_eq!(
            (read, node),
            (layout.clone(), PathBuf::from("/b/roadstead"))
        );
        let key = fs::metadata(layout.key()).expect("it is written");
        assert_eq!(
            key.permissions().mode() & 0o777,
            0o600,
            "a secret is its owner's alone"
        );
        let secret = fs::read_to_string(layout.key()).expect("it is ours");
        assert_eq!(
            STANDARD.decode(secret.trim()).expect("it is base64").len(),
            32
        );
        fs::remove_dir_all(&layout.folder).expect("it is there");
    }

    #[test]
    fn a_second_cluster_is_refused_and_down_ends_the_first_whatever_has_become_of_up() {
        let layout = layout("second");
        write_files(&layout, &programs()).expect("the folder can be written");
        let member = Member::Node(2);
        let log = layout.log(member);
        let process = Running::start(Command::new("sleep").arg("600"), &layout.home(member), &log);
        let process = process.expect("sleep is everywhere");
        let error = refuse_a_second_one(&layout.folder)
            .expect_err("one is up")
            .to_string();
        assert!(
            error.contains("node-2") && error.contains("cluster down"),
            "{error}"
        );
        assert_eq!(end_all(&layout.folder).expect("it is ours"), 1);
        assert!(!process.is_alive());
        refuse_a_second_one(&layout.folder).expect("nothing runs");
        assert_eq!(end_all(&layout.folder).expect("nothing runs"), 0);
        fs::remove_dir_all(&layout.folder).expect("it is there");
    }

    #[test]
    fn who_has_just_brought_it_up_sees_where_everything_is() {
        let text = layout("told").told(&programs());
        for part in [
            "node-2",
            "127.77.0.2:1883",
            "127.77.0.103:6379",
            "-h 127.77.0.2",
            "cluster down",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}
