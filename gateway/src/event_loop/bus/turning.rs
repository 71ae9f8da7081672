//! What a turn does for the bus: what is due, dials, and one write per link.

use cluster::hello::Refusal;
use reactor::driver::{Close, ConnectionId, Driver};

use super::{Bus, Connection, Phase, address_of_link, next_random};
use crate::bus::peers::Peer;
use crate::bus::secure::Secure;

impl Bus {
    /// When [`Bus::turn`] or [`Bus::flush`] has something to do, in milliseconds of the monotonic clock.
    pub fn next_deadline_ms(&self) -> Option<u64> {
        if !self.dirty.is_empty() {
            return Some(0); // More than one write takes, of which the kernel has room for more.
        }
        (self.due_ms != u64::MAX).then_some(self.due_ms)
    }

    /// Does what is due: asks whether peers are there, dials, and closes what takes too long. Once a turn.
    pub fn turn(&mut self, driver: &mut impl Driver, now_ms: u64) {
        if now_ms < self.due_ms {
            return;
        }
        self.end_overdue(driver, now_ms);
        let mut broken = Vec::new();
        let mut to_dial = Vec::new();
        let own = self.place.node.uid;
        for peer in self.peers.iter_mut() {
            if let (Some(link), Some(id)) = (&mut peer.link, peer.connection) {
                match link.tick(now_ms) {
                    Err(error) => broken.push((id, error)),
                    Ok(()) if link.has_output(now_ms) => peer.touch(&mut self.dirty),
                    Ok(()) => {}
                }
            }
            if may_dial(own, peer) && peer.pause.until_ms <= now_ms {
                to_dial.push(peer.node.uid);
            }
        }
        for (id, error) in broken {
            self.broken(driver, now_ms, id, &error);
        }
        for uid in to_dial {
            self.dial(driver, now_ms, uid);
        }
        self.due_ms = self.next_due_ms();
    }

    fn end_overdue(&mut self, driver: &mut impl Driver, now_ms: u64) {
        let overdue: Vec<ConnectionId> = self
            .connections
            .iter()
            .filter(|(_, connection)| connection.is_arriving() && connection.deadline_ms <= now_ms)
            .map(|(id, _)| *id)
            .collect();
        for id in overdue {
            self.stats.timed_out += 1;
            self.end(driver, now_ms, id, None);
            driver.close(id, Close::Abort);
        }
    }

    fn next_due_ms(&self) -> u64 {
        let own = self.place.node.uid;
        let arriving = self.connections.values();
        let arriving = arriving
            .filter(|connection| connection.is_arriving())
            .map(|connection| connection.deadline_ms);
        let links = self.peers.iter().filter_map(|peer| {
            if may_dial(own, peer) {
                return Some(peer.pause.until_ms);
            }
            peer.link.as_ref()?.next_deadline_ms()
        });
        arriving.chain(links).min().unwrap_or(u64::MAX)
    }

    fn dial(&mut self, driver: &mut impl Driver, now_ms: u64, uid: u64) {
        let core = self.place.core;
        let Some(peer) = self.peers.of(uid) else {
            return;
        };
        let mut first = Vec::new();
        let connected = address_of_link(peer.bus, core)
            .zip(Secure::dial(&self.identity, uid, &mut first).ok())
            .and_then(|(remote, secure)| {
                Some((driver.connect(remote, None).ok()?, remote, secure))
            });
        self.stats.dialled += 1;
        let Some((id, remote, secure)) = connected else {
            self.stats.dials_failed += 1;
            self.random = next_random(self.random);
            peer.pause.begin(now_ms, self.random);
            return;
        };
        peer.dialling = Some(id);
        let connection = Connection {
            remote,
            dialled: Some(uid),
            phase: Phase::Dialling(Box::new(secure), first),
            deadline_ms: now_ms + self.limits.greeting_ms,
        };
        self.connections.insert(id, connection);
    }

    /// Writes what links have to say: one write per link.
    pub fn flush(&mut self, driver: &mut impl Driver, now_ms: u64) {
        let mut plain = std::mem::take(&mut self.plain);
        let mut again = Vec::new();
        for uid in std::mem::take(&mut self.dirty) {
            let Some(peer) = self.peers.of(uid) else {
                continue;
            };
            peer.is_dirty = false;
            let (Some(link), Some(id)) = (&mut peer.link, peer.connection) else {
                continue;
            };
            let Some(Phase::Up(secure, _)) =
                self.connections.get_mut(&id).map(|one| &mut one.phase)
            else {
                continue;
            };
            if driver.unsent(id) > self.limits.unsent_bytes_max {
                continue; // `drained` comes back to it.
            }
            plain.clear();
            link.output(now_ms, &mut plain);
            let mut sealed = driver.reclaim().unwrap_or_default();
            if secure.seal(&plain, &mut sealed).is_err() {
                self.end(driver, now_ms, id, None);
                continue;
            }
            self.stats.sent_bytes += sealed.len() as u64;
            if !sealed.is_empty() {
                driver.send(id, sealed);
            }
            self.due_ms = self.due_ms.min(link.next_deadline_ms().unwrap_or(u64::MAX));
            if link.has_output(now_ms) {
                peer.touch(&mut again);
            }
        }
        self.dirty.append(&mut again);
        plain.clear();
        plain.shrink_to(64 << 10);
        self.plain = plain;
    }

    /// Ends all connections; the links wait for the next ones, which do not come about before [`Bus::turn`] is called.
    pub fn disconnect(&mut self, driver: &mut impl Driver, now_ms: u64) {
        let ids: Vec<ConnectionId> = self.connections.keys().copied().collect();
        for id in ids {
            self.end(driver, now_ms, id, None);
        }
    }

    /// Connections, with those that are ending.
    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    /// Ends all connections, because the node stops, and dials no more.
    pub fn shut_down(&mut self, driver: &mut impl Driver, now_ms: u64) {
        for peer in self.peers.take_all() {
            if let Some(link) = &peer.link {
                self.stats.add(link.counters());
            }
        }
        let ids: Vec<ConnectionId> = self.connections.keys().copied().collect();
        for id in ids {
            self.end(driver, now_ms, id, Some(Refusal::UnknownMember));
        }
    }
}

/// The smaller uid dials, from each core that has a link, which it makes when it hears of the other.
fn may_dial(own: u64, peer: &Peer) -> bool {
    let is_alone = peer.connection.is_none() && peer.dialling.is_none();
    own < peer.node.uid && peer.link.is_some() && is_alone
}

impl Connection {
    /// True until messages flow, or it ends.
    fn is_arriving(&self) -> bool {
        matches!(self.phase, Phase::Dialling(..) | Phase::Greeting(..))
    }
}
