//! The calm after the faults: everybody connects, everything comes to rest, and what was promised must be there.

use edge_proto::packet::{QoS, Version};

use crate::client::{Client, Existence};
use crate::oracle::{Checked, Failure};
use crate::run::Run;
use crate::speak::TOPICS;

/// Steps within which the calm phase must come to rest.
const CALM_STEPS: u64 = 60_000;

impl Run {
    /// Faults stop. Everybody connects, everything is acknowledged, and what was promised is there.
    pub(crate) fn calm_down(&mut self) -> Checked {
        if self.verbose {
            self.remember(None, "is left in peace".to_owned());
        }
        self.world.calm = true;
        self.world.disk.failing_until_ms = 0;
        self.world.heal();
        for wire in &mut self.world.wires {
            wire.slow_until_ms = 0;
        }
        self.settle()?;
        self.make_certain()?;
        self.settle()?;
        self.check_rest()?;
        self.check_promises()?;
        self.probe()?;
        self.settle()?;
        self.check_promises()?;
        self.check_rest()
    }

    /// Runs until nothing moves any more.
    pub(crate) fn settle(&mut self) -> Checked {
        let until = self.step + CALM_STEPS;
        while self.step < until {
            let before = (self.world.hash, self.deliveries);
            for at in 0..self.clients.len() {
                self.step += 1;
                if self.clients[at].connection.is_none() {
                    self.connect(at, Some(false));
                }
                for _ in 0..20 {
                    self.acknowledge(at);
                }
                self.carry(at)?;
            }
            for core in 0..self.world.cores.len() {
                self.step += 1;
                if self.world.runs(core) {
                    self.turn(core)?;
                }
            }
            self.world.engine_step();
            self.oracle.rejections |= self.world.disk.rejections;
            self.world.pass(1);
            self.tick_nodes();
            if before == (self.world.hash, self.deliveries)
                && self.is_idle()
                && self.world.queued_in_groups() == 0
            {
                return Ok(());
            }
        }
        Err(Failure::new(format!(
            "does not come to rest: {}",
            self.unrest()
        )))
    }

    pub(crate) fn is_idle(&self) -> bool {
        let idle = |client: &Client| {
            client.connection.as_ref().is_some_and(|connection| {
                connection.live
                    && connection.acknowledgements.is_empty()
                    && connection.operations.is_empty()
                    && connection.unsubscribing.is_empty()
                    && self.world.wires[connection.wire].is_quiet()
            }) && client.outbound.is_empty()
        };
        self.world.is_idle() && self.clients.iter().all(idle)
    }

    pub(crate) fn unrest(&self) -> String {
        let mut parts = Vec::new();
        for client in &self.clients {
            let (name, outbound) = (&client.name, client.outbound.len());
            match &client.connection {
                None => parts.push(format!("{name} has no connection")),
                Some(connection) => parts.push(format!(
                    "{name} live {} outbound {outbound} operations {} acknowledgements {} wire {} paused {} quiet {}",
                    connection.live,
                    connection.operations.len() + connection.unsubscribing.len(),
                    connection.acknowledgements.len(),
                    connection.wire,
                    self.world.wires[connection.wire].paused,
                    self.world.wires[connection.wire].is_quiet(),
                )),
            }
        }
        parts.extend(self.world.shown_nodes());
        format!(
            "world idle {}, {} queued in groups; {}",
            self.world.is_idle(),
            self.world.queued_in_groups(),
            parts.join("; ")
        )
    }

    /// Subscriptions whose state is not known are made or removed.
    pub(crate) fn make_certain(&mut self) -> Checked {
        for at in 0..self.clients.len() {
            if self.clients[at].is_certain() {
                continue;
            }
            let uncertain: std::collections::BTreeSet<String> = self.clients[at]
                .subscriptions
                .iter()
                .filter(|subscription| {
                    subscription.until_maybe.is_none()
                        && (subscription.from_sure.is_none() || subscription.until_sure.is_some())
                })
                .map(|subscription| subscription.filter.clone())
                .collect();
            for filter in uncertain {
                self.unsubscribe_from(at, &filter);
            }
        }
        Ok(())
    }

    /// Counters are at rest, and sessions and subscriptions are those of the model.
    pub(crate) fn check_rest(&mut self) -> Checked {
        let (mut sessions, mut subscriptions, mut connected) = (0, 0, 0);
        for (core, at) in self.world.cores.iter().enumerate() {
            let snapshot = at.shard.snapshot();
            if snapshot.deliveries_queued + snapshot.queued_bytes + snapshot.pending_bytes > 0 {
                return Err(Failure::new(format!(
                    "core {core} is not at rest: {} deliveries queued, {} bytes queued, {} bytes pending",
                    snapshot.deliveries_queued, snapshot.queued_bytes, snapshot.pending_bytes
                )));
            }
            sessions += snapshot.sessions;
            subscriptions += snapshot.subscriptions;
            connected += snapshot.sessions_connected;
        }
        let clients = self.clients.len() as u64;
        if sessions != clients || connected != clients {
            return Err(Failure::new(format!(
                "{clients} clients have {sessions} sessions, {connected} of them connected"
            )));
        }
        let expected: usize = self
            .clients
            .iter()
            .flat_map(|client| client.filters())
            .map(|filter| self.world.owners(filter))
            .sum();
        if subscriptions != expected as u64 {
            let known: Vec<_> = self
                .clients
                .iter()
                .map(|client| (client.name.clone(), client.filters()))
                .collect();
            return Err(Failure::new(format!(
                "the owners have {subscriptions} subscriptions, the clients {expected}: {:?}, {known:?}",
                self.world.subscriptions()
            )));
        }
        Ok(())
    }

    pub(crate) fn check_promises(&self) -> Checked {
        let dropped = self.world.dropped_slow() > 0;
        for (at, client) in self.clients.iter().enumerate() {
            self.oracle.must_have(
                at,
                client,
                self.world.disk.overflowed.contains(&client.name),
                dropped,
            )?;
        }
        if self.world.disk.overflowed.is_empty() && !dropped {
            self.oracle.shared_must_have(&self.clients)?;
        }
        Ok(())
    }

    /// Publishes to every topic once more, and looks at the retained messages.
    pub(crate) fn probe(&mut self) -> Checked {
        for topic in TOPICS {
            self.publish_to(0, topic, Some(QoS::AtLeastOnce));
            self.settle()?;
        }
        let at = self.clients.len();
        let mut probe = Client::new("probe".to_owned(), Version::V311);
        probe.existence = Existence::No;
        self.clients.push(probe);
        self.connect(at, Some(true));
        self.settle()?;
        self.subscribe_to(at, "#");
        self.settle()?;
        for topic in TOPICS {
            let (candidates, none) = self.oracle.retained(topic);
            let got: Vec<u64> = self.clients[at]
                .delivered
                .keys()
                .copied()
                .filter(|number| {
                    self.oracle
                        .get(*number)
                        .is_some_and(|message| message.topic == topic)
                })
                .collect();
            let fits = match got.as_slice() {
                [] => none || candidates.is_empty(),
                [one] => candidates.contains(one),
                _ => false,
            };
            if !fits {
                return Err(Failure::of(
                    at,
                    format!(
                        "retained on {topic}: {got:?}, expected one of {candidates:?}, or none: {none}"
                    ),
                ));
            }
        }
        Ok(())
    }
}
