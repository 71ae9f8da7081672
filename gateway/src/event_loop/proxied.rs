//! Connections of listeners behind a proxy, from their accept until their PROXY header is complete: nobody else knows them.
//!
//! **An address from a header counts only when the one who sent it is trusted**; everybody else is closed before a byte is read.

use std::collections::VecDeque;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use edge_proto::proxy::{Header, Origin, ProxyError, parse};
use edge_proto::shown::Length;
use foldhash::fast::FixedState;
use hashbrown::HashMap;
use reactor::driver::ConnectionId;

use crate::access::address::Network;
use crate::turn::Now;

/// Who may send headers, and how long they may take.
#[derive(Clone, Debug)]
pub struct ProxyLimits {
    /// Where proxies are.
    pub trusted: Box<[Network]>,
    /// A connection whose header is not complete within this time is closed. A header is 4 KiB at most.
    pub timeout_ms: u64,
}

/// The connections of one core that wait for their header.
#[derive(Debug)]
pub struct Proxied {
    limits: ProxyLimits,
    waiting: HashMap<ConnectionId, Waiting, FixedState>,
    /// When each header must be complete, in the order in which they came. Those that are complete stay until they are first.
    deadlines: VecDeque<(u64, ConnectionId)>,
    /// True once somebody who is not trusted was told of at a level that is seen: one line says what is wrong, thousands say no more.
    pub(super) told: bool,
}

struct Waiting {
    listener: u16,
    /// The proxy.
    peer: SocketAddr,
    /// The beginning of a header; empty until one came in parts.
    bytes: Vec<u8>,
}

impl fmt::Debug for Waiting {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Waiting")
            .field("listener", &self.listener)
            .field("peer", &self.peer)
            .field("bytes", &Length::of(&self.bytes))
            .finish()
    }
}

/// What came of bytes.
#[derive(Debug)]
pub(super) enum Heard<'a> {
    /// The header is not complete yet.
    Partial,
    /// It is complete.
    Complete {
        listener: u16,
        /// Whose connection it is.
        peer: SocketAddr,
        /// The bytes behind it.
        rest: Rest<'a>,
    },
    /// The connection is to be closed.
    Failed(SocketAddr, ProxyError),
}

/// Bytes behind a header.
pub(super) enum Rest<'a> {
    /// In the buffer that they came in.
    Received(&'a mut [u8]),
    /// Behind the end of a header that came in parts.
    Kept(Vec<u8>),
}

impl fmt::Debug for Rest<'_> {
    /// Without the bytes, which may have a password.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, length) = match self {
            Self::Received(bytes) => ("Received", bytes.len()),
            Self::Kept(bytes) => ("Kept", bytes.len()),
        };
        formatter.debug_tuple(name).field(&Length(length)).finish()
    }
}

impl Rest<'_> {
    pub(super) fn bytes(&mut self) -> &mut [u8] {
        match self {
            Self::Received(bytes) => bytes,
            Self::Kept(bytes) => bytes,
        }
    }
}

impl Proxied {
    /// Nobody waits so far.
    pub fn new(limits: ProxyLimits) -> Self {
        Self {
            limits,
            waiting: HashMap::default(),
            deadlines: VecDeque::new(),
            told: false,
        }
    }

    /// True for an address that may send headers.
    pub(super) fn trusts(&self, address: IpAddr) -> bool {
        let mut networks = self.limits.trusted.iter();
        networks.any(|network| network.contains(address))
    }

    /// True for a connection whose header is not complete.
    pub(super) fn has(&self, id: ConnectionId) -> bool {
        !self.waiting.is_empty() && self.waiting.contains_key(&id)
    }

    /// A trusted peer has connected.
    pub(super) fn accepted(&mut self, now: Now, id: ConnectionId, listener: u16, peer: SocketAddr) {
        let waiting = Waiting {
            listener,
            peer,
            bytes: Vec::new(),
        };
        self.waiting.insert(id, waiting);
        self.note_deadline(now.mono_ms + self.limits.timeout_ms, id);
    }

    /// Bytes of a connection that waits. Unless they are only a part of the header, it waits no more.
    pub(super) fn received<'a>(&mut self, id: ConnectionId, bytes: &'a mut [u8]) -> Heard<'a> {
        let Some(waiting) = self.waiting.get_mut(&id) else {
            return Heard::Partial;
        };
        let (listener, peer) = (waiting.listener, waiting.peer);
        let mut kept = std::mem::take(&mut waiting.bytes);
        let parsed = if kept.is_empty() {
            parse(bytes)
        } else {
            kept.extend_from_slice(bytes);
            parse(&kept)
        };
        let Header { origin, length } = match parsed {
            Ok(Some(header)) => header,
            Ok(None) => {
                if kept.is_empty() {
                    kept.extend_from_slice(bytes);
                }
                waiting.bytes = kept;
                return Heard::Partial;
            }
            Err(error) => {
                self.waiting.remove(&id);
                return Heard::Failed(peer, error);
            }
        };
        self.waiting.remove(&id);
        let rest = if kept.is_empty() {
            Rest::Received(&mut bytes[length..])
        } else {
            Rest::Kept(kept.split_off(length))
        };
        let peer = match origin {
            Origin::Client { source, .. } => source,
            Origin::Proxy => peer,
        };
        Heard::Complete {
            listener,
            peer,
            rest,
        }
    }

    /// A connection is gone or going; true when it waited.
    pub(super) fn forget(&mut self, id: ConnectionId) -> bool {
        self.waiting.remove(&id).is_some()
    }

    /// A connection whose header took too long; it waits no more.
    pub(super) fn overdue(&mut self, now: Now) -> Option<(ConnectionId, SocketAddr)> {
        loop {
            let (due_ms, id) = *self.deadlines.front()?;
            if due_ms > now.mono_ms && self.waiting.contains_key(&id) {
                return None;
            }
            self.deadlines.pop_front();
            if let Some(waiting) = self.waiting.remove(&id) {
                return Some((id, waiting.peer));
            }
        }
    }

    /// When `overdue` has something to tell.
    pub(super) fn next_deadline_ms(&self) -> Option<u64> {
        self.deadlines.front().map(|(due_ms, _)| *due_ms)
    }

    /// Takes all that wait, because the node stops.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = ConnectionId> {
        self.waiting.drain().map(|(id, _)| id)
    }

    fn note_deadline(&mut self, due_ms: u64, id: ConnectionId) {
        // One slow header at the front must not keep the places of all that were complete behind it.
        if self.deadlines.len() > 2 * self.waiting.len() + 1024 {
            self.deadlines
                .retain(|(_, id)| self.waiting.contains_key(id));
        }
        self.deadlines.push_back((due_ms, id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.1 50000 1883\r\n";

    fn id(slot: u32) -> ConnectionId {
        ConnectionId {
            slot,
            generation: 1,
        }
    }

    fn at(mono_ms: u64) -> Now {
        Now {
            mono_ms,
            unix_ms: 0,
        }
    }

    fn proxy() -> SocketAddr {
        "10.0.0.9:4000".parse().expect("an address")
    }

    fn proxied() -> Proxied {
        Proxied::new(ProxyLimits {
            trusted: ["10.0.0.0/8".parse().expect("a network")].into(),
            timeout_ms: 1_000,
        })
    }

    /// The peer and the bytes behind the header.
    fn complete(heard: Heard<'_>) -> (SocketAddr, Vec<u8>) {
        match heard {
            Heard::Complete { peer, mut rest, .. } => (peer, rest.bytes().to_vec()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_header_in_any_two_parts_tells_the_client_and_gives_the_rest() {
        let mut proxied = proxied();
        let mut bytes = HEADER.to_vec();
        bytes.extend(b"MQTT");
        for cut in 0..HEADER.len() {
            proxied.accepted(at(0), id(1), 0, proxy());
            let (mut first, mut second) = (bytes[..cut].to_vec(), bytes[cut..].to_vec());
            assert!(matches!(
                proxied.received(id(1), &mut first),
                Heard::Partial
            ));
            let (peer, rest) = complete(proxied.received(id(1), &mut second));
            assert_eq!(peer, "192.0.2.7:50000".parse().expect("an address"));
            assert_eq!(rest, b"MQTT");
            assert!(!proxied.has(id(1)));
        }
    }

    #[test]
    fn a_proxy_that_speaks_for_itself_is_itself() {
        let mut proxied = proxied();
        proxied.accepted(at(0), id(1), 0, proxy());
        let mut header = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0".to_vec();
        assert_eq!(
            complete(proxied.received(id(1), &mut header)),
            (proxy(), vec![])
        );
    }

    #[test]
    fn what_is_no_header_fails_and_is_forgotten() {
        let mut proxied = proxied();
        proxied.accepted(at(0), id(1), 0, proxy());
        let mut bytes = b"\x10\x0e".to_vec();
        let heard = proxied.received(id(1), &mut bytes);
        assert!(
            matches!(heard, Heard::Failed(peer, ProxyError::Missing) if peer == proxy()),
            "{heard:?}"
        );
        assert!(!proxied.has(id(1)));
    }

    #[test]
    fn who_takes_too_long_is_overdue_once_and_who_was_quick_never() {
        let mut proxied = proxied();
        for slot in 1..=3 {
            proxied.accepted(at(u64::from(slot)), id(slot), 0, proxy());
        }
        complete(proxied.received(id(1), &mut HEADER.to_vec()));
        assert_eq!(proxied.overdue(at(1_001)), None);
        assert_eq!(proxied.overdue(at(1_002)), Some((id(2), proxy())));
        assert_eq!(proxied.overdue(at(1_002)), None);
        assert!(proxied.forget(id(3)));
        assert_eq!(proxied.overdue(at(9_000)), None);
        assert_eq!(proxied.next_deadline_ms(), None);
    }

    #[test]
    fn those_who_are_done_leave_no_trace() {
        let mut proxied = proxied();
        for slot in 0..100_000 {
            proxied.accepted(at(0), id(slot), 0, proxy());
            complete(proxied.received(id(slot), &mut HEADER.to_vec()));
        }
        assert!(proxied.deadlines.len() <= 1_100 && proxied.waiting.is_empty());
    }

    #[test]
    fn only_the_networks_of_proxies_are_trusted() {
        let proxied = proxied();
        assert!(proxied.trusts("10.1.2.3".parse().expect("an address")));
        assert!(proxied.trusts("::ffff:10.1.2.3".parse().expect("an address")));
        assert!(!proxied.trusts("11.1.2.3".parse().expect("an address")));
    }
}
