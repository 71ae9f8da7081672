//! All clients of a crash run on one thread, and the server they talk to.

use std::io;
use std::time::Duration;

use super::cast;
use super::ledger::Ledger;
use super::publisher::Publisher;
use super::retained::Looker;
use super::subscriber::Subscriber;
use crate::clock;
use crate::node::Node;
use crate::random::Random;
use crate::wire::{Received, Wire, wait_for_any};

/// Longest wait for packets in one round.
const ROUND: Duration = Duration::from_millis(3);
/// How long nothing may come before everything has come.
const QUIET: Duration = Duration::from_millis(700);
/// Most that it may take after the last crash until everything has come.
const SETTLE_LIMIT: Duration = Duration::from_secs(60);

/// What the clients do at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mood {
    /// They publish, change subscriptions, and lose connections.
    Busy,
    /// They only finish what they have begun.
    Finishing,
}

/// The server and its clients.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) node: Node,
    pub(crate) ledger: Ledger,
    publishers: Vec<Publisher>,
    subscribers: Vec<Subscriber>,
    looker: Looker,
    random: Random,
    pub(crate) cuts: usize,
    /// Packets that came in the last round.
    packets: usize,
}

impl World {
    /// Everyone, and nobody connected.
    pub(crate) fn new(node: Node, random: Random) -> Self {
        let mut ledger = Ledger::default();
        let subscribers = cast::subscribers(&mut ledger);
        Self {
            node,
            ledger,
            publishers: cast::publishers(),
            subscribers,
            looker: Looker::default(),
            random,
            cuts: 0,
            packets: 0,
        }
    }

    /// Everyone subscribes, before anything is published.
    ///
    /// # Errors
    /// Not everyone could.
    pub(crate) fn gather(&mut self) -> io::Result<()> {
        let start = clock::now();
        while !self.subscribers.iter().all(Subscriber::is_settled) {
            self.round(Mood::Finishing, true);
            if start.elapsed() > SETTLE_LIMIT {
                let who = self
                    .subscribers
                    .iter()
                    .find(|subscriber| !subscriber.is_settled());
                let name = who
                    .map(|subscriber| subscriber.name.clone())
                    .unwrap_or_default();
                self.print_trace(&name, None);
                return Err(io::Error::other(format!("{name} could not subscribe")));
            }
        }
        Ok(())
    }

    /// Traffic for a while, some subscribers away.
    pub(crate) fn run_for(&mut self, time: Duration) {
        for subscriber in &mut self.subscribers {
            subscriber.absent = self.random.per_mille(250);
        }
        let start = clock::now();
        while start.elapsed() < time {
            self.round(Mood::Busy, true);
        }
    }

    /// Kills the server. What it had sent before still counts: the clients read it.
    pub(crate) fn crash(&mut self) {
        self.node.kill();
        self.all_read_to_the_end("the server was killed");
    }

    /// Asks the server to stop.
    pub(crate) fn stop(&mut self) {
        let status = self.node.terminate();
        if !status.is_some_and(|status| status.success()) {
            let text = format!("SIGTERM: the server ended with {status:?}");
            self.ledger.violated("server", None, text);
        }
        self.node.kill();
        self.all_read_to_the_end("the server stopped");
    }

    /// Nobody publishes any more; everyone comes and takes what waits. False when not everything came in time.
    pub(crate) fn settle(&mut self) -> bool {
        for subscriber in &mut self.subscribers {
            subscriber.absent = false;
        }
        let (start, mut last_packet) = (clock::now(), clock::now());
        loop {
            self.round(Mood::Finishing, false);
            if self.packets > 0 {
                last_packet = clock::now();
            }
            let quiet = last_packet.elapsed() > QUIET;
            let settled = self.publishers.iter().all(Publisher::is_done)
                && self.subscribers.iter().all(Subscriber::is_settled)
                && self.looker.wire.is_none();
            if quiet
                && settled
                && (start.elapsed() > SETTLE_LIMIT / 6 || self.ledger.missing().is_empty())
            {
                return true;
            }
            if start.elapsed() > SETTLE_LIMIT {
                return false;
            }
        }
    }

    /// Prints the trace of a client.
    pub(crate) fn print_trace(&self, client: &str, message: Option<usize>) {
        for publisher in self
            .publishers
            .iter()
            .filter(|publisher| publisher.name == client)
        {
            publisher.trace.print(client, message);
        }
        for subscriber in &self.subscribers {
            if client == subscriber.name
                || client
                    .strip_prefix("group ")
                    .is_some_and(|group| subscriber.name.starts_with(group))
            {
                subscriber.trace.print(&subscriber.name, message);
            }
        }
        if client == Looker::NAME {
            self.looker.trace.print(client, message);
        }
    }

    /// Name of a publisher.
    pub(crate) fn publisher_name(&self, index: usize) -> &str {
        &self.publishers[index].name
    }

    /// Looks at the retained messages that ended well.
    pub(crate) const fn looks(&self) -> usize {
        self.looker.looks()
    }

    /// One round: connect, act, flush, wait, read.
    fn round(&mut self, mood: Mood, may_look: bool) {
        let (address, ledger, random) = (self.node.tcp, &mut self.ledger, &mut self.random);
        for publisher in &mut self.publishers {
            publisher.connect(ledger, address);
            publisher.act(ledger, random, mood == Mood::Busy);
        }
        for subscriber in &mut self.subscribers {
            subscriber.connect(ledger, address);
            subscriber.act(ledger, random, mood == Mood::Busy);
        }
        if may_look && mood == Mood::Busy && random.per_mille(20) {
            self.looker.begin(ledger, address);
        }
        self.looker.act(ledger);
        if mood == Mood::Busy {
            self.cut_some();
        }
        let mut wires: Vec<&mut Wire> = Vec::new();
        wires.extend(
            self.publishers
                .iter_mut()
                .filter_map(|publisher| publisher.wire.as_mut()),
        );
        wires.extend(
            self.subscribers
                .iter_mut()
                .filter_map(|subscriber| subscriber.wire.as_mut()),
        );
        wires.extend(self.looker.wire.as_mut());
        wires.iter_mut().for_each(|wire| wire.flush());
        let shared: Vec<&Wire> = wires.iter().map(|wire| &**wire).collect();
        let ready = wait_for_any(&shared, ROUND);
        ready.into_iter().for_each(|index| {
            wires[index].fill();
        });
        self.packets = 0;
        self.handle_all(false, "the server closed it");
    }

    /// Handles what was read; ends the connections that have ended, or all of them.
    fn handle_all(&mut self, end_all: bool, why: &str) {
        let ledger = &mut self.ledger;
        for publisher in &mut self.publishers {
            let Some((packets, ended)) = take(publisher.wire.as_mut(), ledger, &publisher.name)
            else {
                continue;
            };
            self.packets += packets.len();
            packets
                .into_iter()
                .for_each(|packet| publisher.received(ledger, packet));
            if ended || end_all {
                publisher.lost(ledger, why);
            }
        }
        for subscriber in &mut self.subscribers {
            let Some((packets, ended)) = take(subscriber.wire.as_mut(), ledger, &subscriber.name)
            else {
                continue;
            };
            self.packets += packets.len();
            packets
                .into_iter()
                .for_each(|packet| subscriber.received(ledger, packet));
            if ended || end_all {
                subscriber.lost(ledger, why);
            }
        }
        if let Some((packets, ended)) = take(self.looker.wire.as_mut(), ledger, Looker::NAME) {
            packets
                .iter()
                .for_each(|packet| self.looker.received(ledger, packet));
            if ended || end_all {
                self.looker.lost();
            }
        }
    }

    /// Cuts some connections in the middle of what waits to be sent.
    fn cut_some(&mut self) {
        let (ledger, random) = (&mut self.ledger, &mut self.random);
        for publisher in &mut self.publishers {
            if random.per_mille(5)
                && let Some(wire) = publisher.wire.take()
            {
                let bytes = random.below(wire.unsent() + 1);
                wire.cut_after(bytes);
                publisher.lost(ledger, "cut");
                self.cuts += 1;
            }
        }
        for subscriber in &mut self.subscribers {
            if random.per_mille(5)
                && let Some(wire) = subscriber.wire.take()
            {
                let bytes = random.below(wire.unsent() + 1);
                wire.cut_after(bytes);
                subscriber.lost(ledger, "cut");
                self.cuts += 1;
            }
        }
    }

    fn all_read_to_the_end(&mut self, why: &str) {
        let mut wires: Vec<&mut Wire> = Vec::new();
        wires.extend(
            self.publishers
                .iter_mut()
                .filter_map(|publisher| publisher.wire.as_mut()),
        );
        wires.extend(
            self.subscribers
                .iter_mut()
                .filter_map(|subscriber| subscriber.wire.as_mut()),
        );
        wires.extend(self.looker.wire.as_mut());
        for wire in wires {
            while wire.fill() > 0 {}
        }
        self.handle_all(true, why);
    }
}

/// The packets of a connection, and whether it has ended.
fn take(wire: Option<&mut Wire>, ledger: &mut Ledger, who: &str) -> Option<(Vec<Received>, bool)> {
    let wire = wire?;
    match wire.packets() {
        Ok(packets) => Some((packets, wire.ended)),
        Err(broken) => {
            ledger.violated(who, None, format!("the server broke a rule: {broken}"));
            Some((Vec::new(), true))
        }
    }
}
