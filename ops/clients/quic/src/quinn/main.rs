//! Clients on quinn: one that stays where it is, one that changes its address in the middle of a conversation, and those that must not get in.

mod endpoint;
mod metrics;
mod moving;
mod network;
mod refusals;
mod session;
mod staying;

use std::process::ExitCode;

use anyhow::Result;
use quic_conversations::{Arguments, Scenario, converse};

/// Held in a network of its own, which `--device` names.
const MOVING: &[Scenario<Arguments>] = &[
    ("address-changes", |talk| {
        Box::pin(moving::address_changes(talk))
    }),
    ("tunnels", |talk| Box::pin(moving::tunnels(talk))),
];

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse()?;
    let scenarios = match &arguments.ground {
        Some(_) => MOVING,
        None if arguments.refusals => refusals::SCENARIOS,
        None => staying::SCENARIOS,
    };
    let passed = converse(scenarios, &arguments, "5", |_| arguments.clone()).await;
    Ok(if passed {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
