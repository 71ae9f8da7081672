//! Someone who looks at the retained messages now and then, from a session of its own.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use edge_proto::packet::{QoS, Version};

use super::ledger::Ledger;
use super::trace::Trace;
use crate::clock;
use crate::wire::{Received, Wire};

/// Most that retained messages may take to come.
const LIMIT: Duration = Duration::from_secs(10);

/// A look at the retained messages.
#[derive(Debug, Default)]
pub(crate) struct Looker {
    pub(crate) wire: Option<Wire>,
    since: Option<Instant>,
    /// Topics, with the newest message that was acknowledged before the SUBSCRIBE.
    wanted: BTreeMap<String, usize>,
    looks: usize,
    pub(crate) trace: Trace,
}

impl Looker {
    /// Its name in reports.
    pub(crate) const NAME: &str = "retained-looker";

    /// Looks that ended well.
    pub(crate) const fn looks(&self) -> usize {
        self.looks
    }

    /// Begins to look, if it is not at it.
    pub(crate) fn begin(&mut self, ledger: &mut Ledger, address: SocketAddr) {
        if self.wire.is_some() {
            return;
        }
        let Ok(mut wire) = Wire::open(address, Version::V5) else {
            return;
        };
        wire.connect(Self::NAME, true, 0);
        self.wanted = ledger.newest_acked(|topic| topic.starts_with("r/"));
        // A broad filter and a rooted one in turn: they take different ways to the owners.
        if self.looks.is_multiple_of(2) {
            wire.subscribe(1, &["r/#"], QoS::AtLeastOnce);
        } else {
            let topics: Vec<&str> = self.wanted.keys().map(String::as_str).collect();
            wire.subscribe(
                1,
                if topics.is_empty() {
                    &["r/0/v"]
                } else {
                    &topics
                },
                QoS::AtLeastOnce,
            );
        }
        self.trace.note(
            ledger.tick(),
            format_args!("→ CONNECT, SUBSCRIBE, wants {:?}", self.wanted),
        );
        self.wire = Some(wire);
        self.since = Some(clock::now());
    }

    /// The connection is gone.
    pub(crate) fn lost(&mut self) {
        self.wire = None;
        self.since = None;
    }

    /// A packet of the server.
    pub(crate) fn received(&mut self, ledger: &mut Ledger, packet: &Received) {
        let tick = ledger.tick();
        let Received::Publish(arrived) = packet else {
            return self.trace.note(tick, format_args!("← {packet:?}"));
        };
        let text = String::from_utf8_lossy(&arrived.payload);
        let message: Option<usize> = text
            .strip_prefix('m')
            .and_then(|rest| rest.split(' ').next())
            .and_then(|digits| digits.parse().ok());
        let Some(message) = message else { return };
        self.trace.note(
            tick,
            format_args!(
                "← PUBLISH retain={} m{message} {}",
                arrived.retain, arrived.topic
            ),
        );
        if let Some(wanted) = self.wanted.get(&arrived.topic).copied() {
            if arrived.retain && message < wanted {
                let text = format!(
                    "retained m{message} on {}, but m{wanted} was acknowledged",
                    arrived.topic
                );
                ledger.violated(Self::NAME, Some(wanted), text);
            }
            self.wanted.remove(&arrived.topic);
        }
    }

    /// Ends the look when everything is there, or when it should be.
    pub(crate) fn act(&mut self, ledger: &mut Ledger) {
        let Some(since) = self.since else { return };
        if self.wanted.is_empty() {
            self.looks += 1;
            self.lost();
        } else if since.elapsed() > LIMIT {
            let text = format!("retained messages did not come: {:?}", self.wanted);
            ledger.violated(Self::NAME, self.wanted.values().next().copied(), text);
            self.lost();
        }
    }
}
