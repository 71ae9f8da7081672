//! A node of a cluster: one life after another, each with cores of its own, under one cluster part.

use std::sync::Arc;

use super::servers::redis_options;
use super::{InCluster, StartError, live, system};
use crate::config::Config;
use crate::control::cluster::settings::Settings;
use crate::control::cluster::{Cluster, Life};
use crate::control::status::StoreFacts;
use crate::engine::redis::Redis;
use crate::engine::redis::options::RedisOptions;
use crate::engine::redis::views::RedisViews;
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

    /// What it is, for operators.
    fn facts(&self, config: &Config) -> StoreFacts {
        StoreFacts::of(config)
    }
}

/// A Valkey or Redis that nodes share.
pub(super) struct SharedServers {
    options: RedisOptions,
    facts: StoreFacts,
    clock: Clock,
}

impl SharedServers {
    /// The servers of the configuration, which must be such that they keep what is promised.
    pub(super) fn of(config: &Config, clock: Clock) -> Result<Self, StartError> {
        let found = redis_options(config, false)?;
        let (options, facts) = found.expect("the configuration of a cluster has servers");
        Ok(Self {
            options,
            facts,
            clock,
        })
    }
}

impl SharedEngine for SharedServers {
    fn views(&self) -> Arc<dyn ViewStore> {
        let RedisOptions {
            connect,
            prefix,
            policy,
            ..
        } = &self.options;
        Arc::new(RedisViews::new(connect, prefix, *policy))
    }

    fn open(&self, life: &Life) -> Result<Box<dyn Engine + Send>, EngineError> {
        // A life never writes under the name of one before it.
        let options = RedisOptions {
            node: life.node.uid ^ life.node.incarnation.rotate_left(32),
            ..self.options.clone()
        };
        let engine = Redis::open(options, self.clock.now().unix_ms)?;
        Ok(Box::new(engine))
    }

    fn facts(&self, _config: &Config) -> StoreFacts {
        self.facts.clone()
    }
}

/// Runs a node of a cluster until it has left, or is told to stop at once. SIGTERM drains it first.
///
/// # Errors
/// See [`StartError`].
///
/// # Panics
/// When the configuration has no cluster.
pub fn run_in_cluster(
    config: &Config,
    clock: Clock,
    engine: &dyn SharedEngine,
) -> Result<(), StartError> {
    let settings = Settings::of(config).expect("the configuration has a cluster");
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
            facts: engine.facts(config),
        };
        live(config.clone(), clock, Some(in_cluster))?;
    }
    Ok(())
}
