//! What is done to a server: one file each. A new scenario is a variant of [`Scenario`], a file here and a line below.

mod bench;
mod cluster;
mod cluster_reconnect;
mod compare;
mod connect;
mod density;
mod durable;
mod fan;
mod p2p;
mod phoenix;
mod ping;
mod reactor;
mod soak;
mod storm;
mod wargaming;
mod whatsapp;

use anyhow::Result;

use crate::arguments::Scenario;
use crate::{generator, relay};

/// Runs a scenario.
pub(crate) fn run(scenario: &Scenario) -> Result<()> {
    match scenario {
        Scenario::Density(arguments) => density::run(arguments),
        Scenario::Connect(arguments) => connect::run(arguments),
        Scenario::P2p(arguments) => p2p::run(arguments),
        Scenario::Fanout(arguments) => fan::out(arguments),
        Scenario::Fanin(arguments) => fan::inward(arguments),
        Scenario::Durable(arguments) => durable::run(arguments),
        Scenario::Ping(arguments) => ping::run(arguments),
        Scenario::Wargaming(arguments) => wargaming::run(arguments),
        Scenario::Whatsapp(arguments) => whatsapp::run(arguments),
        Scenario::Phoenix(arguments) => phoenix::run(arguments),
        Scenario::Soak(arguments) => soak::run(arguments),
        Scenario::Cluster(arguments) => cluster::run(arguments),
        Scenario::ClusterReconnect(arguments) => cluster_reconnect::run(arguments),
        Scenario::Storm(arguments) => storm::run(arguments),
        Scenario::StormClients(arguments) => generator::storm::run(arguments),
        Scenario::Reactor(arguments) => reactor::run(arguments),
        Scenario::Relay(arguments) => relay::run(arguments),
    }
}
