//! `roadstead ctl cluster`: the cluster as one node sees it, and what this node is to do in it.

use std::time::Duration;

use serde_json::{Value, json};

use super::{listing, plain};
use crate::cli::CommandError;
use crate::cli::arguments::ClusterCommand;
use crate::cli::client::Client;
use crate::cli::table::{pairs, table};

/// Between two looks how far a drain is.
const LOOK: Duration = Duration::from_millis(500);

/// Runs one command.
pub(super) fn run(
    client: &Client,
    command: ClusterCommand,
) -> Result<(Value, String), CommandError> {
    match command {
        ClusterCommand::Status => {
            let answer = client.get("/v1/cluster", &[])?;
            let text = status_text(&answer);
            Ok((answer, text))
        }
        ClusterCommand::View => {
            let answer = client.get("/v1/cluster/view", &[])?;
            let head = [
                ("NODE", "node"),
                ("HERE", "is_here"),
                ("ROLE", "role"),
                ("ALIVE", "is_alive"),
                ("ANSWERED MS AGO", "answered_ms_ago"),
                ("FIRST CORE", "first_core"),
                ("CORES", "cores"),
                ("WEIGHT", "weight"),
                ("PARTITIONS", "partitions"),
                ("BUS", "bus"),
            ];
            let title = format!(
                "view {} of {} members\n",
                plain(&answer["epoch"]),
                answer["members"].as_array().map_or(0, Vec::len)
            );
            let text = title + &listing(&answer, "members", &head, false);
            Ok((answer, text))
        }
        ClusterCommand::Partitions => {
            let answer = client.get("/v1/cluster/partitions", &[])?;
            let cores = answer["cores"]
                .as_array()
                .map(Vec::as_slice)
                .unwrap_or_default();
            let row = |core: &Value| {
                vec![
                    plain(&core["core"]),
                    plain(&core["node"]),
                    plain(&core["count"]),
                ]
            };
            let rows: Vec<Vec<String>> = cores.iter().map(row).collect();
            let text = table(&["CORE", "NODE", "PARTITIONS"], &rows);
            Ok((answer, text))
        }
        ClusterCommand::Drain { wait } => {
            let answer = client.post("/v1/cluster/drain", &json!({}))?;
            if wait {
                wait_until_gone(client);
                return Ok((answer, "the node has left the cluster\n".to_owned()));
            }
            Ok((
                answer,
                "the node leaves the cluster; `roadstead ctl cluster status` says how far it is\n"
                    .to_owned(),
            ))
        }
        ClusterCommand::Rebalance { node, weight } => {
            let answer = client.post(
                "/v1/cluster/rebalance",
                &json!({ "node": node, "weight": weight }),
            )?;
            let text = format!(
                "the next view gives {} the weight {weight}\n",
                plain(&answer["node"])
            );
            Ok((answer, text))
        }
    }
}

/// Looks until the node answers no more: it has left and stopped.
fn wait_until_gone(client: &Client) {
    while client.get("/v1/cluster", &[]).is_ok() {
        std::thread::park_timeout(LOOK);
    }
}

fn status_text(answer: &Value) -> String {
    let counts = |name: &str| {
        let counts = answer[name].as_object().into_iter().flatten();
        let counts = counts.filter(|(_, count)| **count != json!(0));
        let texts: Vec<String> = counts
            .map(|(reason, count)| format!("{reason} {count}"))
            .collect();
        if texts.is_empty() {
            "none".to_owned()
        } else {
            texts.join(", ")
        }
    };
    let standing = match answer["reason"].as_str() {
        Some(reason) => format!("{}: {reason}", plain(&answer["standing"])),
        None => plain(&answer["standing"]),
    };
    pairs(&[
        ("cluster", plain(&answer["cluster"])),
        ("node", plain(&answer["node"])),
        ("standing", standing),
        ("draining", plain(&answer["draining"])),
        (
            "view",
            format!(
                "{} of {} members",
                plain(&answer["epoch"]),
                plain(&answer["members"])
            ),
        ),
        (
            "others alive",
            answer["alive"].as_array().map_or(0, Vec::len).to_string(),
        ),
        ("gossip refused", counts("gossip_refused")),
        ("nodes refused", counts("nodes_refused")),
    ])
}
