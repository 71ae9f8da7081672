//! Which server is the primary of which slot.

use cluster::partition::PARTITIONS;
use redis::Value;

use crate::engine::redis::options::Address;

/// The primaries, and which of them has each slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Topology {
    pub(super) is_cluster: bool,
    pub(super) primaries: Vec<Address>,
    /// By slot, an index of `primaries`; [`NOBODY`] for a slot that no server has.
    slots: Box<[u16]>,
}

const NOBODY: u16 = u16::MAX;

impl Topology {
    /// One server that has everything.
    pub(super) fn single(primary: Address) -> Self {
        Self {
            is_cluster: false,
            primaries: vec![primary],
            slots: vec![0; usize::from(PARTITIONS)].into(),
        }
    }

    /// From the reply to CLUSTER SLOTS of `asked`; `None` when it is not such a reply.
    pub(super) fn parse(reply: &Value, asked: &Address) -> Option<Self> {
        let Value::Array(ranges) = reply else {
            return None;
        };
        let mut topology = Self {
            is_cluster: true,
            primaries: Vec::new(),
            slots: vec![NOBODY; usize::from(PARTITIONS)].into(),
        };
        for range in ranges {
            let Value::Array(parts) = range else {
                return None;
            };
            let [
                Value::Int(first),
                Value::Int(last),
                Value::Array(primary),
                ..,
            ] = parts.as_slice()
            else {
                return None;
            };
            let [host, Value::Int(port), ..] = primary.as_slice() else {
                return None;
            };
            // An unknown host is that of the server that was asked.
            let host = match text(host).unwrap_or_default() {
                "" | "?" => asked.host.clone(),
                host => host.into(),
            };
            let port = u16::try_from(*port).ok()?;
            let index = topology.index_of(&Address { host, port });
            let first = usize::try_from(*first).ok()?;
            let last = usize::try_from(*last).ok()?;
            topology.slots.get_mut(first..=last)?.fill(index);
        }
        Some(topology)
    }

    /// The primary of a slot.
    pub(super) fn primary_of(&self, slot: u16) -> Option<&Address> {
        let index = *self.slots.get(usize::from(slot))?;
        self.primaries.get(usize::from(index))
    }

    /// A server has said that this one has the slot.
    pub(super) fn moved(&mut self, slot: u16, to: &Address) {
        let index = self.index_of(to);
        if let Some(owner) = self.slots.get_mut(usize::from(slot)) {
            *owner = index;
        }
    }

    fn index_of(&mut self, address: &Address) -> u16 {
        let found = self.primaries.iter().position(|known| known == address);
        let index = found.unwrap_or_else(|| {
            self.primaries.push(address.clone());
            self.primaries.len() - 1
        });
        u16::try_from(index).unwrap_or(NOBODY)
    }
}

/// The server that a redirection `slot host:port` names; an empty host is that of the server that said it.
pub(super) fn redirection(detail: &str, said_by: &Address) -> Option<Address> {
    let (_, target) = detail.split_once(' ')?;
    let (host, port) = target.trim().rsplit_once(':')?;
    let host = match host.trim_matches(['[', ']']) {
        "" | "?" => &*said_by.host,
        host => host,
    };
    Some(Address {
        host: host.into(),
        port: port.parse().ok()?,
    })
}

/// What INFO replication says: `Ok` for a primary, else the primary that a replica follows, if it names one.
pub(super) fn role(info: &str) -> Result<(), Option<Address>> {
    let field = |name: &str| {
        info.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .map(str::trim)
    };
    if field("role") == Some("master") {
        return Ok(());
    }
    let primary = field("master_host").zip(field("master_port"));
    Err(primary.and_then(|(host, port)| {
        Some(Address {
            host: host.into(),
            port: port.parse().ok()?,
        })
    }))
}

/// The text of a reply.
pub(super) fn text(reply: &Value) -> Option<&str> {
    match reply {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        Value::VerbatimString { text, .. } => Some(text),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(host: &str, port: u16) -> Address {
        Address {
            host: host.into(),
            port,
        }
    }

    #[test]
    fn slots_have_the_primary_that_the_reply_names_first() {
        let server = |host: &str, port| {
            Value::Array(vec![
                Value::BulkString(host.into()),
                Value::Int(port),
                Value::BulkString("id".into()),
            ])
        };
        let range = |first, last, servers: Vec<Value>| {
            let mut parts = vec![Value::Int(first), Value::Int(last)];
            parts.extend(servers);
            Value::Array(parts)
        };
        let reply = Value::Array(vec![
            range(0, 99, vec![server("a", 1), server("replica", 9)]),
            range(101, 16_383, vec![server("", 2)]),
        ]);
        let mut topology = Topology::parse(&reply, &address("asked", 7)).expect("a good reply");
        assert_eq!(topology.primary_of(99), Some(&address("a", 1)));
        assert_eq!(topology.primary_of(100), None);
        assert_eq!(topology.primary_of(101), Some(&address("asked", 2)));
        topology.moved(5, &address("c", 3));
        assert_eq!(topology.primary_of(5), Some(&address("c", 3)));
        let beyond = Value::Array(vec![range(0, 16_384, vec![server("a", 1)])]);
        assert_eq!(Topology::parse(&beyond, &address("asked", 7)), None);
    }

    #[test]
    fn redirections_name_servers() {
        let said_by = address("here", 1);
        assert_eq!(
            redirection("3999 10.0.0.1:6381", &said_by),
            Some(address("10.0.0.1", 6_381))
        );
        assert_eq!(
            redirection("3999 :6381", &said_by),
            Some(address("here", 6_381))
        );
        assert_eq!(
            redirection("3999 ::1:6381", &said_by),
            Some(address("::1", 6_381))
        );
        assert_eq!(redirection("3999", &said_by), None);
    }

    #[test]
    fn replicas_name_their_primary() {
        assert_eq!(role("# Replication\r\nrole:master\r\n"), Ok(()));
        assert_eq!(
            role("role:slave\r\nmaster_host:10.0.0.1\r\nmaster_port:6380\r\n"),
            Err(Some(address("10.0.0.1", 6_380)))
        );
        assert_eq!(role(""), Err(None));
    }
}
