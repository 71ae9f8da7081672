//! Waiting until a local cluster is what it should be, and saying why it is not.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::Programs;
use super::layout::{Layout, Member};
use super::running::{LOOK, Running};
use crate::process::capture;
use crate::project::Project;

/// How long the servers of the engine may take, and the nodes.
pub(super) const SERVERS_LIMIT: Duration = Duration::from_secs(30);
const NODES_LIMIT: Duration = Duration::from_secs(60);
/// Lines of a log that are shown.
const TAIL: usize = 12;

/// Waits until every Valkey answers.
pub(super) fn until_servers_answer(
    project: &Project,
    layout: &Layout,
    programs: &Programs,
) -> Result<()> {
    until(layout, layout.servers(), SERVERS_LIMIT, |server| {
        let answer = ask_valkey(project, layout, programs, server, &["PING"]);
        (answer.trim() != "PONG").then(|| "it does not answer".to_owned())
    })
}

/// Waits until every Valkey says that the cluster serves.
pub(super) fn until_servers_are_one(
    project: &Project,
    layout: &Layout,
    programs: &Programs,
) -> Result<()> {
    until(layout, layout.servers(), SERVERS_LIMIT, |server| {
        let answer = ask_valkey(project, layout, programs, server, &["CLUSTER", "INFO"]);
        let is_good =
            answer.contains("cluster_state:ok") && answer.contains("cluster_known_nodes:3");
        (!is_good).then(|| "its cluster does not serve yet".to_owned())
    })
}

/// Waits until every node is ready, and a member of a view with all of them.
pub(super) fn until_nodes_are_one(layout: &Layout) -> Result<()> {
    until(layout, layout.node_members(), NODES_LIMIT, |node| {
        let admin = layout.admin(node);
        if !get(admin, "/readyz").contains(" 200 ") {
            return Some("it is not ready".to_owned());
        }
        let metrics = get(admin, "/metrics");
        let members = value(&metrics, "roadstead_view_members");
        if members != Some(f64::from(layout.nodes)) {
            return Some(format!("its view has {} members", members.unwrap_or(0.0)));
        }
        (value(&metrics, "roadstead_fenced") != Some(0.0)).then(|| "it is fenced".to_owned())
    })
}

/// Waits until nothing is missing at any of these, while all of them run.
fn until(
    layout: &Layout,
    members: impl Iterator<Item = Member>,
    limit: Duration,
    missing: impl Fn(Member) -> Option<String>,
) -> Result<()> {
    let start = Instant::now();
    for member in members {
        while let Some(what) = missing(member) {
            let why = if Running::of(&layout.home(member)).is_none() {
                "it has ended".to_owned()
            } else if start.elapsed() > limit {
                format!("{what} after {} s", limit.as_secs())
            } else {
                std::thread::park_timeout(LOOK);
                continue;
            };
            bail!(
                "{}: {why}; the end of its log:\n{}",
                member.name(),
                tail(layout, member)
            );
        }
    }
    Ok(())
}

fn ask_valkey(
    project: &Project,
    layout: &Layout,
    programs: &Programs,
    server: Member,
    question: &[&str],
) -> String {
    let address = layout.valkey(server);
    let mut client = project.command(&programs.valkey_cli);
    client.args([
        "-h",
        &address.ip().to_string(),
        "-p",
        &address.port().to_string(),
    ]);
    capture(client.args(question)).unwrap_or_default() // It does not listen yet.
}

/// What a node answers; empty when it does not.
fn get(address: SocketAddr, path: &str) -> String {
    let mut answer = String::new();
    let asked = TcpStream::connect_timeout(&address, LOOK * 20).and_then(|mut stream| {
        stream.set_read_timeout(Some(LOOK * 40))?;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
        )?;
        stream.read_to_string(&mut answer)
    });
    if asked.is_err() {
        String::new()
    } else {
        answer
    }
}

/// The value of a series without labels.
fn value(metrics: &str, name: &str) -> Option<f64> {
    let line = metrics
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    line.trim().parse().ok()
}

fn tail(layout: &Layout, member: Member) -> String {
    let text = std::fs::read_to_string(layout.log(member)).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL)..].join("\n")
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn a_series_is_not_taken_for_another_that_begins_the_same() {
        let text = "# HELP a_b x\na_b_total 7\na_b 3\na_b{x=\"1\"} 9\n";
        assert_eq!(value(text, "a_b"), Some(3.0));
        assert_eq!(value(text, "a_c"), None);
    }

    #[test]
    fn who_has_ended_is_named_with_what_it_said_last() {
        let folder =
            std::env::temp_dir().join(format!("roadstead-xtask-watch-{}", std::process::id()));
        let layout = Layout {
            folder,
            network: 202,
            nodes: 1,
            cores: 1,
        };
        let node = Member::Node(1);
        std::fs::create_dir_all(layout.home(node)).expect("a folder can be made");
        std::fs::write(layout.log(node), "first\ncannot listen\n").expect("it can be written");
        let error = until_nodes_are_one(&layout)
            .expect_err("nothing runs")
            .to_string();
        assert!(
            error.starts_with("node-1: it has ended") && error.ends_with("cannot listen"),
            "{error}"
        );
        std::fs::remove_dir_all(&layout.folder).expect("it is there");
        assert_eq!(PathBuf::from("node-1"), PathBuf::from(node.name()));
    }
}
