//! Who is measured.

use edge_proto::packet::Version;

use crate::arguments::{Common, Transport};
use crate::rival::{Needs, Rival};

/// Who is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Subject {
    /// The server at `--address`.
    Given,
    /// This repository's server, or the one of `--server`.
    Roadstead,
    /// The same, as the only node on a Valkey.
    OneNode,
    /// The same, as three nodes of a cluster on a Valkey.
    ThreeNodes,
    /// Another server.
    Rival(Rival),
    /// The bare relay.
    Limit,
    /// The echo of one engine.
    Baseline(&'static str),
}

impl Subject {
    /// Everybody that these arguments name, ours first.
    pub(crate) fn all(common: &Common, limit: bool) -> Vec<Self> {
        if common.address.is_some() {
            return vec![Self::Given];
        }
        let mut all = vec![Self::Roadstead];
        all.extend(limit.then_some(Self::Limit));
        for (place, name) in common.rivals.iter().enumerate() {
            if !common.rivals[..place].contains(name) {
                all.push(Self::Rival(Rival::of(*name)));
            }
        }
        all
    }

    /// The key in the JSON object: of the whole, or of `rivals`.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Given => "server",
            Self::Roadstead => "roadstead",
            Self::OneNode => "one_node",
            Self::ThreeNodes => "three_nodes",
            Self::Rival(rival) => rival.name.name(),
            Self::Limit => "limit",
            Self::Baseline(name) => name,
        }
    }

    /// True exactly when it is this repository's server, however many of it.
    pub(crate) const fn is_ours(&self) -> bool {
        matches!(self, Self::Roadstead | Self::OneNode | Self::ThreeNodes)
    }

    /// Version of MQTT that clients speak to it.
    pub(crate) fn version(&self, common: &Common) -> Version {
        match self {
            Self::Rival(rival) => rival.version(common.mqtt).into(),
            _ => common.mqtt.into(),
        }
    }

    /// User name that clients give.
    pub(crate) const fn user(&self) -> Option<&'static str> {
        match self {
            Self::Rival(rival) => rival.user,
            _ => None,
        }
    }

    /// Why it cannot be measured; `None` when it can.
    pub(crate) fn obstacle(&self, common: &Common, needs: Needs, files: u64) -> Option<String> {
        match self {
            Self::Rival(rival) => rival.obstacle(needs, common.transport(), files),
            Self::Limit if common.transport() != Transport::Tcp => {
                Some("the relay knows plain TCP alone".to_owned())
            }
            _ => None,
        }
    }
}
