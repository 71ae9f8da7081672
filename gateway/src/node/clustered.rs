//! A node of a cluster: one life after another, each with cores of its own, under one cluster part.

use std::sync::Arc;

use super::{InCluster, StartError, live, system};
use crate::config::Config;
use crate::control::cluster::settings::Settings;
use crate::control::cluster::{Cluster, Life};
use crate::engine::views::ViewStore;
use crate::engine::{Engine, EngineError};
use crate::event_loop::Clock;

/// What the nodes of a cluster share.
pub trait SharedEngine: Send + Sync {
    /// Where their views are kept.
    fn views(&self) -> Arc<dyn ViewStore>;

    /// The engine for one life of this node: what it claims is claimed for `life.node`.
    ///
    /// # Errors
    /// When the engine cannot be used.
    fn open(&self, life: &Life) -> Result<Box<dyn Engine + Send>, EngineError>;
}

/// Runs a node of a cluster until it has left, or is told to stop at once. SIGTERM drains it first.
///
/// # Errors
/// See [`StartError`].
///
/// # Panics
/// When the configuration has no cluster.
pub fn run_in_cluster(config: &Config, engine: &dyn SharedEngine) -> Result<(), StartError> {
    let settings = Settings::of(config).expect("the configuration has a cluster");
    let clock = Clock::start();
    let mut random = [0; 32];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| std::io::Read::read_exact(&mut file, &mut random))
        .map_err(system("random numbers"))?;
    let cluster = Cluster::start(settings, clock, engine.views(), random)?;
    while let Some(life) = cluster.next_life()? {
        tracing::info!(node = %life.node, epoch = life.view.epoch, cores = ?life.ownership.here(), "this node is a member of the cluster");
        let opened = engine.open(&life)?;
        let in_cluster = InCluster {
            life,
            cluster: &cluster,
            engine: opened,
        };
        live(config.clone(), clock, Some(in_cluster))?;
    }
    Ok(())
}
