//! What a durable session that comes back to a cluster of three nodes costs the engine: with one group subscribed, and with
//! many. Its subscriptions stay where they are, so both have to cost the same.

use std::ops::Range;
use std::time::Duration;

use anyhow::{Result, bail};
use edge_proto::packet::QoS;
use serde_json::json;

use super::bench::{Bench, Clients};
use super::cluster::{bus_bytes, explained, refuse_others};
use super::compare::{Comparison, RUNS};
use crate::arguments::ClusterReconnect;
use crate::clock;
use crate::figures::Figures;
use crate::generator::Topics;
use crate::machine::Cores;
use crate::rival::Store;
use crate::server::{Server, pause};
use crate::subject::Subject;

/// Commands that nodes have given to the engine and that it has taken.
const COMMANDS: &str = "roadstead_engine_commands_committed_total";
/// When the engine has had nothing to do for so long, it has done all.
const QUIET: Duration = Duration::from_millis(500);
/// How long it may take until then.
const QUIET_LIMIT: Duration = Duration::from_secs(60);

pub(super) fn run(arguments: &ClusterReconnect) -> Result<()> {
    refuse_others(&arguments.common)?;
    let sessions = arguments.sessions;
    let topics = Topics::Groups {
        one_until: sessions,
        count: arguments.groups,
    };
    let mut clients = Clients::new(2 * sessions, topics, QoS::AtLeastOnce, 16);
    clients.durable_from = 0;
    clients.store = Store::Memory;
    let comparison = Comparison {
        name: "cluster-reconnect",
        common: &arguments.common,
        clients,
        cores: Cores::One,
        limit: false,
        runs: RUNS,
        settings: json!({ "sessions": sessions, "groups": arguments.groups }),
    };
    comparison.run_with(vec![Subject::ThreeNodes], |bench, figures| {
        let outcome = once(arguments, bench, figures);
        outcome.map_err(|error| explained(error, &bench.server))
    })
}

fn once(arguments: &ClusterReconnect, bench: &Bench, figures: &mut Figures) -> Result<()> {
    let sessions = arguments.sessions;
    bench.generator.open(&bench.server, 0..2 * sessions, 0)?;
    figures.count("sessions", u64::from(2 * sessions));
    let one = reconnect(0..sessions, "one_group", bench, figures)?;
    let many = reconnect(sessions..2 * sessions, "many_groups", bench, figures)?;
    figures.measure("engine_commands_many_groups_vs_one", many / one);
    Ok(())
}

/// Sessions leave and come back. Returns commands to the engine for each.
fn reconnect(numbers: Range<u32>, name: &str, bench: &Bench, figures: &mut Figures) -> Result<f64> {
    let Bench {
        generator, server, ..
    } = bench;
    let count = numbers.len() as f64;
    let commands_before = settled(server)?;
    let bus_before = bus_bytes(server)?;
    let before = bench.reading();
    generator.leave(server, numbers.clone())?;
    generator.open(server, numbers.clone(), 0)?;
    let between = bench.reading().since(&before);
    let each = (settled(server)? - commands_before) / count;
    if between.counted.resumed < numbers.len() as u64 {
        bail!(
            "of {count} durable sessions {} were resumed",
            between.counted.resumed
        );
    }
    figures.measure(&format!("engine_commands_per_reconnect_{name}"), each);
    if let Some((before, after)) = bus_before.zip(bus_bytes(server)?) {
        let bytes = (after - before) / count;
        figures.measure(&format!("bus_bytes_per_reconnect_{name}"), bytes);
    }
    between.cpu(
        "reconnect",
        numbers.len() as u64,
        &format!("_{name}"),
        figures,
    );
    Ok(each)
}

/// The number of commands, once it does not grow any more.
fn settled(server: &Server) -> Result<f64> {
    let until = clock::now() + QUIET_LIMIT;
    let mut last = server.metric(COMMANDS)?;
    while clock::now() < until {
        pause(QUIET)?;
        let now = server.metric(COMMANDS)?;
        if now == last {
            return Ok(now);
        }
        last = now;
    }
    bail!("the engine is not done with what it was given after {QUIET_LIMIT:?}")
}
