//! The step of `cargo xtask test`: a local cluster comes up, carries messages from each node to each other one, and goes.

use std::process::Command;

use anyhow::{Result, ensure};

use super::layout::{Layout, Member};
use super::{Programs, bring_up, end_all};
use crate::process::capture;
use crate::project::Project;
use crate::step::Step;
use crate::tools::{Tool, debian_program};

/// Beside the network of the cluster that somebody may have up.
const NETWORK: u8 = 79;
/// Roots of topics, enough for owners on all nodes.
const ROOTS: u8 = 12;
/// Seconds that a client may take.
const LIMIT_S: &str = "30";

/// Three nodes in release mode, which have to be built.
pub(crate) fn step() -> Step {
    let needs = &[Tool::Valkey, Tool::Mosquitto];
    Step::call("a cluster of three nodes", needs, |project| {
        let layout = Layout {
            folder: project.scratch("cluster-of-the-tests")?,
            network: NETWORK,
            nodes: 3,
            cores: 1,
        };
        end_all(&layout.folder)?; // What a run that was interrupted has left.
        layout.check_addresses()?;
        let node = project.release_binary("roadstead");
        bring_up(project, &layout, &Programs::with_node(project, node))?;
        let result = from_each_to_each(project, &layout);
        end_all(&layout.folder)?;
        result
    })
}

/// A session at each node goes away; each node publishes to all roots; each session comes back at another node and finds everything.
fn from_each_to_each(project: &Project, layout: &Layout) -> Result<()> {
    let session = |node: Member, at: Member| {
        let mut client = client(project, layout, at, "mosquitto_sub");
        client.args([
            "-c",
            "-i",
            &node.name(),
            "-t",
            "+/all",
            "-q",
            "1",
            "-W",
            LIMIT_S,
        ]);
        client
    };
    for node in layout.node_members() {
        capture(session(node, node).arg("-E"))?;
    }
    let mut sent = Vec::new();
    for node in layout.node_members() {
        for root in 0..ROOTS {
            let text = format!("{} {root}", node.name());
            let topic = format!("root{root}/all");
            let mut publisher = client(project, layout, node, "mosquitto_pub");
            capture(publisher.args(["-q", "1", "-m", &text, "-t", &topic]))?;
            sent.push(text);
        }
    }
    sent.sort();
    for (node, other) in layout
        .node_members()
        .zip(layout.node_members().skip(1).chain(layout.node_members()))
    {
        let text = capture(session(node, other).args(["-C", &sent.len().to_string()]))?;
        let mut received: Vec<&str> = text.lines().collect();
        received.sort_unstable();
        ensure!(
            received == sent,
            "the session of {} came back at {} and got {received:?} of {sent:?}",
            node.name(),
            other.name()
        );
    }
    Ok(())
}

fn client(project: &Project, layout: &Layout, node: Member, name: &str) -> Command {
    let mut command = debian_program(project, "mosquitto", &format!("usr/bin/{name}"));
    command.args(["-h", &layout.mqtt(node).ip().to_string()]);
    command
}
