//! From TLS to messages: HELLO said, heard and judged; and who is refused, why, and how often that is in the log.

use cluster::frame::{Decoder, Kind};
use cluster::hello::{Hello, Judge, PROTOCOL, Refusal};
use cluster::link::LINKS_MAX;
use reactor::driver::{Close, ConnectionId, Driver};

use super::{Bus, COMPLAINTS_MS, Heard, Phase};
use crate::bus::secure::{Secure, SecureError};

/// What reads the first frame of a connection.
pub(super) const fn decoder() -> Decoder {
    Decoder::new(PROTOCOL.max)
}

/// The first frame of a peer.
enum First {
    Hello(Box<Hello>),
    /// The peer refuses this node.
    Refused(Refusal),
    /// It cannot be spoken to.
    Bad(Refusal),
}

impl Bus {
    /// TLS is complete: the peer has the certificate of this node. Who dialled says HELLO. False when the connection is over.
    pub(super) fn secured(
        &mut self,
        driver: &mut impl Driver,
        now_ms: u64,
        id: ConnectionId,
        uid: u64,
    ) -> bool {
        let Some(connection) = self.connections.get_mut(&id) else {
            return false;
        };
        let Phase::Greeting(_, _, certified) = &mut connection.phase else {
            return false;
        };
        *certified = Some(uid);
        if connection.dialled.is_none() {
            return true;
        }
        let is_said = self.hello_to(uid).is_some_and(|hello| {
            let Some(Phase::Greeting(secure, ..)) =
                self.connections.get_mut(&id).map(|one| &mut one.phase)
            else {
                return false;
            };
            say(driver, id, secure, &hello)
        });
        if !is_said {
            self.end(driver, now_ms, id, None);
        }
        is_said
    }

    /// What is said to a member; `None` when it is none any more, or no version is spoken by both.
    fn hello_to(&mut self, uid: u64) -> Option<Hello> {
        let peer = self.peers.of(uid)?;
        let (to, links) = (peer.node, peer.links);
        let link = peer.link_or_new(self.limits.link)?;
        Some(Hello {
            cluster: self.place.cluster.clone(),
            node: self.place.node,
            to,
            protocol: PROTOCOL,
            epoch: self.view.0,
            view_hash: self.view.1,
            link: self.place.core,
            links,
            received: link.received(),
            credit_bytes: link.credit_bytes(),
        })
    }

    /// The first plaintext of a connection; takes the frame off `plain` once it is whole.
    pub(super) fn greeted(
        &mut self,
        driver: &mut impl Driver,
        now_ms: u64,
        id: ConnectionId,
        plain: &mut &[u8],
        sink: &mut dyn FnMut(Heard<'_>),
    ) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let Phase::Greeting(_, decoder, Some(certified_uid)) = &mut connection.phase else {
            return;
        };
        let (certified_uid, is_dialled) = (*certified_uid, connection.dialled.is_some());
        let first = match decoder.decode(plain) {
            Ok(None) => return,
            Ok(Some(frame)) => match frame.header.kind {
                Kind::Hello => match Hello::decode(frame.body) {
                    Ok(hello) => First::Hello(Box::new(hello)),
                    Err(refusal) => First::Bad(refusal),
                },
                Kind::Refused => First::Refused(Refusal::decode(frame.body)),
                _ => First::Bad(Refusal::Violation),
            },
            Err(_) => First::Bad(Refusal::Malformed),
        };
        let result = match first {
            First::Refused(refusal) => {
                self.refused_by_peer(now_ms, id, certified_uid, refusal);
                return self.end(driver, now_ms, id, None);
            }
            First::Bad(refusal) => Err(refusal),
            First::Hello(hello) => self
                .judge(&hello, certified_uid, is_dialled)
                .and_then(|version| self.establish(driver, now_ms, id, &hello, version))
                .map(|()| hello),
        };
        match result {
            Ok(hello) => {
                let (node, epoch, hash) = (hello.node, hello.epoch, hello.view_hash);
                sink(Heard::View { node, epoch, hash });
            }
            Err(refusal) => {
                self.refused(now_ms, id, certified_uid, refusal);
                self.end(driver, now_ms, id, Some(refusal));
            }
        }
    }

    fn judge(&self, hello: &Hello, certified_uid: u64, is_dialled: bool) -> Result<u16, Refusal> {
        let judge = Judge {
            cluster: &self.place.cluster,
            node: self.place.node,
            certified_uid,
            links: LINKS_MAX,
        };
        let version = judge.judge(hello, |uid| self.peers.incarnation_of(uid))?;
        let dials = self.place.node.uid < hello.node.uid;
        if hello.link != self.place.core || dials != is_dialled {
            return Err(Refusal::WrongLink);
        }
        Ok(version)
    }

    /// The connection carries the link from now on; one that did is closed. Who listens says HELLO.
    fn establish(
        &mut self,
        driver: &mut impl Driver,
        now_ms: u64,
        id: ConnectionId,
        hello: &Hello,
        version: u16,
    ) -> Result<(), Refusal> {
        let uid = hello.node.uid;
        // It says what was received until now: an earlier connection must not bring anything more.
        let answer = self.hello_to(uid).ok_or(Refusal::IncompatibleVersion)?;
        let peer = self.peers.of(uid).ok_or(Refusal::UnknownMember)?;
        let link = peer.link.as_mut().ok_or(Refusal::IncompatibleVersion)?;
        if link.version() != version {
            return Err(Refusal::IncompatibleVersion);
        }
        if let Some(before) = peer.connection.take()
            && let Some(connection) = self.connections.get_mut(&before)
        {
            connection.phase = Phase::Ending;
            driver.close(before, Close::Abort);
        }
        let connection = self.connections.get_mut(&id).ok_or(Refusal::Violation)?;
        let is_dialled = connection.dialled.is_some();
        let Phase::Greeting(secure, decoder, _) = &mut connection.phase else {
            return Err(Refusal::Violation);
        };
        let decoder = std::mem::replace(decoder, self::decoder());
        link.connected(now_ms, hello.received, hello.credit_bytes, decoder)
            .map_err(|_| Refusal::CannotResume)?;
        if !is_dialled && !say(driver, id, secure, &answer) {
            return Err(Refusal::Violation);
        }
        if let Phase::Greeting(secure, ..) = std::mem::replace(&mut connection.phase, Phase::Ending)
        {
            connection.phase = Phase::Up(secure, uid);
        }
        self.due_ms = self.due_ms.min(link.next_deadline_ms().unwrap_or(u64::MAX));
        peer.connection = Some(id);
        peer.dialling = None;
        peer.pause.reset();
        peer.logged = None;
        peer.touch(&mut self.dirty);
        if !is_dialled {
            self.strangers -= 1;
        }
        let (core, node, links) = (self.place.core, hello.node, hello.links);
        tracing::info!(core, %node, version, links, "a bus link is up");
        Ok(())
    }

    /// TLS failed: the connection is over.
    pub(super) fn insecure(
        &mut self,
        driver: &mut impl Driver,
        now_ms: u64,
        id: ConnectionId,
        error: &SecureError,
    ) -> bool {
        self.stats.tls_failed += 1;
        if let Some(connection) = self.connections.get(&id) {
            let (core, remote) = (self.place.core, connection.remote);
            if self.may_complain(now_ms) {
                tracing::warn!(core, %remote, %error, "a bus connection was refused; others like it are not logged for 10 s");
            }
        }
        self.end(driver, now_ms, id, None);
        false
    }

    /// Counts a refusal, and logs it once for a member, now and then for strangers.
    fn refused(&mut self, now_ms: u64, id: ConnectionId, uid: u64, refusal: Refusal) {
        self.stats.refused[refusal as usize] += 1;
        if self.is_news(now_ms, uid, refusal) {
            self.tell_of(id, uid, refusal, "a node was refused on the bus");
        }
    }

    /// The same for a refusal of the peer.
    fn refused_by_peer(&mut self, now_ms: u64, id: ConnectionId, uid: u64, refusal: Refusal) {
        self.stats.refused_by_peers[refusal as usize] += 1;
        if self.is_news(now_ms, uid, refusal) {
            self.tell_of(id, uid, refusal, "another node refuses this one on the bus");
        }
    }

    /// Of two nodes one hears of a view first: then a refusal is nothing that anybody should look at.
    fn tell_of(&self, id: ConnectionId, uid: u64, refusal: Refusal, what: &str) {
        let core = self.place.core;
        let remote = self.connections.get(&id).map(|one| one.remote);
        let node = format_args!("{uid:016x}");
        match refusal {
            Refusal::UnknownMember => tracing::info!(core, ?remote, %node, %refusal, "{what}"),
            _ => tracing::warn!(core, ?remote, %node, %refusal, "{what}"),
        }
    }

    fn is_news(&mut self, now_ms: u64, uid: u64, refusal: Refusal) -> bool {
        match self.peers.of(uid) {
            Some(peer) => peer.logged.replace(refusal) != Some(refusal),
            None => self.may_complain(now_ms),
        }
    }

    fn may_complain(&mut self, now_ms: u64) -> bool {
        let may = now_ms >= self.complain_ms;
        if may {
            self.complain_ms = now_ms + COMPLAINTS_MS;
        }
        may
    }
}

/// Sends HELLO. False when TLS does not let it.
fn say(driver: &mut impl Driver, id: ConnectionId, secure: &mut Secure, hello: &Hello) -> bool {
    let (mut plain, mut sealed) = (Vec::new(), Vec::new());
    hello.write(&mut plain);
    let is_sealed = secure.seal(&plain, &mut sealed).is_ok();
    driver.send(id, sealed);
    is_sealed
}
