//! What servers say of themselves, as they say it.

use std::collections::BTreeMap;
use std::fmt;

use crate::engine::redis::options::Address;

/// Lines of `name:value`, of INFO or CLUSTER INFO.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lines(BTreeMap<Box<str>, Box<str>>);

impl Lines {
    /// Reads them; what is no such line is left out.
    pub fn parse(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let pairs = lines.filter_map(|line| line.split_once(':'));
        Self(
            pairs
                .map(|(name, value)| (name.into(), value.trim().into()))
                .collect(),
        )
    }

    /// One value as it stands there; "" when it does not.
    pub fn text(&self, name: &str) -> &str {
        self.0.get(name).map_or("", |value| value)
    }

    /// One value as a number.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.text(name).parse().ok()
    }
}

/// Settings by name, as far as they may be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settings {
    /// What CONFIG GET answered.
    Known(BTreeMap<Box<str>, Box<str>>),
    /// It may not be asked; what the server said.
    Forbidden(Box<str>),
}

impl Settings {
    /// One setting; `None` when it is not known, be it forbidden or of another version.
    pub fn text(&self, name: &str) -> Option<&str> {
        match self {
            Self::Known(settings) => settings.get(name).map(|value| &**value),
            Self::Forbidden(_) => None,
        }
    }

    /// One setting as a number.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.text(name)?.parse().ok()
    }
}

/// The settings that are asked for.
pub(super) const SETTINGS: [&str; 7] = [
    "appendfsync",
    "maxmemory-policy",
    "min-replicas-to-write",
    "no-appendfsync-on-rewrite",
    "save",
    "stop-writes-on-bgsave-error",
    "timeout",
];

/// What one server says.
#[derive(Clone, Debug)]
pub struct ServerFacts {
    /// Where it was asked.
    pub address: Address,
    /// INFO.
    pub info: Lines,
    /// CONFIG GET.
    pub settings: Settings,
    /// How far its clock is ahead of ours, in milliseconds; as good as the half of the time that the answer took.
    pub ahead_ms: i64,
}

impl ServerFacts {
    /// True for a primary.
    pub fn is_primary(&self) -> bool {
        self.info.text("role") == "master"
    }

    /// What it is: product and version.
    pub fn version(&self) -> Version {
        let number = |text: &str| {
            let mut parts = text.split('.').map(|part| part.parse().unwrap_or(0));
            [(); 3].map(|()| parts.next().unwrap_or(0))
        };
        match self.info.text("valkey_version") {
            "" => Version {
                product: "Redis",
                number: number(self.info.text("redis_version")),
            },
            version => Version {
                product: "Valkey",
                number: number(version),
            },
        }
    }

    /// True when it writes an append-only file.
    pub fn has_aof(&self) -> bool {
        self.info.text("aof_enabled") == "1"
    }

    /// Replicas of this primary that have all of its data and follow it.
    pub fn replicas_online(&self) -> u32 {
        let count = self.info.number("connected_slaves").unwrap_or(0);
        let online = |number: &u64| {
            let line = self.info.text(&format!("slave{number}"));
            line.split(',').any(|part| part == "state=online")
        };
        let online = (0..count.min(REPLICAS_MAX)).filter(online).count();
        u32::try_from(online).unwrap_or(u32::MAX)
    }
}

/// More replicas of one primary are not looked at.
pub(super) const REPLICAS_MAX: u64 = 64;

/// Product and version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    /// `Valkey` or `Redis`.
    pub product: &'static str,
    /// Major, minor, patch.
    pub number: [u32; 3],
}

impl fmt::Display for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [major, minor, patch] = self.number;
        write!(formatter, "{} {major}.{minor}.{patch}", self.product)
    }
}

/// What a cluster says.
#[derive(Clone, Debug)]
pub struct ClusterFacts {
    /// CLUSTER INFO.
    pub info: Lines,
    /// The members.
    pub nodes: Vec<ClusterNode>,
}

/// One line of CLUSTER NODES.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterNode {
    /// Where clients reach it.
    pub address: Address,
    /// Its name.
    pub id: Box<str>,
    /// Name of its primary; `None` for a primary.
    pub primary: Option<Box<str>>,
    /// Slots that it serves.
    pub slots: u32,
    /// True when the others take it for dead, or it has no address.
    pub failed: bool,
}

impl ClusterNode {
    /// The members in an answer to CLUSTER NODES. `asked` stands for the server that does not know its own address.
    pub fn parse_all(text: &str, asked: &Address) -> Vec<Self> {
        text.lines()
            .filter_map(|line| Self::parse(line, asked))
            .collect()
    }

    /// `id ip:port@cport[,hostname[,…]] flags primary ping pong epoch link slots…`
    fn parse(line: &str, asked: &Address) -> Option<Self> {
        let mut fields = line.split(' ');
        let id = fields.next()?;
        let place = fields.next()?;
        let flags = fields.next()?;
        let primary = fields.next()?;
        let slots = fields.skip(4);
        let (place, _names) = place.split_once(',').unwrap_or((place, ""));
        let (host, port) = place
            .split_once('@')
            .unwrap_or((place, ""))
            .0
            .rsplit_once(':')?;
        let has = |flag| flags.split(',').any(|word| word == flag);
        let host = if host.is_empty() { &asked.host } else { host };
        Some(Self {
            address: Address {
                host: host.trim_matches(['[', ']']).into(),
                port: port.parse().ok()?,
            },
            id: id.into(),
            primary: (primary != "-").then(|| primary.into()),
            slots: slots.filter_map(slots_of).sum(),
            failed: has("fail") || has("noaddr") || has("handshake"),
        })
    }
}

/// How many slots `7`, `0-5460` or `[93-<-id]` (one that is moving, which is counted elsewhere) are.
fn slots_of(text: &str) -> Option<u32> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
    last.checked_sub(first)?.checked_add(1)
}

/// Everything that was found out.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The servers that answered.
    pub servers: Vec<ServerFacts>,
    /// The servers that did not, and why.
    pub silent: Vec<(Address, String)>,
    /// Of a cluster.
    pub cluster: Option<ClusterFacts>,
}

impl Facts {
    /// The primaries that answered.
    pub fn primaries(&self) -> impl Iterator<Item = &ServerFacts> {
        self.servers.iter().filter(|server| server.is_primary())
    }

    /// The replicas that answered.
    pub fn replicas(&self) -> impl Iterator<Item = &ServerFacts> {
        self.servers.iter().filter(|server| !server.is_primary())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_of_a_cluster_are_read() {
        let asked = Address {
            host: "seed".into(),
            port: 1,
        };
        let text = "a :7000@17000 myself,master - 0 0 1 connected 0-5460 5461 [93-<-b]\n\
                    b 10.0.0.2:7001@17001,two.example master,fail - 0 0 2 connected 5462-16383\n\
                    c [::1]:7002@17002 slave b 0 0 2 connected\n\
                    nonsense\n";
        let nodes = ClusterNode::parse_all(text, &asked);
        let shown: Vec<_> = nodes
            .iter()
            .map(|node| {
                (
                    node.address.to_string(),
                    node.slots,
                    node.failed,
                    node.primary.as_deref(),
                )
            })
            .collect();
        assert_eq!(
            shown,
            [
                ("seed:7000".to_owned(), 5_462, false, None),
                ("10.0.0.2:7001".to_owned(), 10_922, true, None),
                ("[::1]:7002".to_owned(), 0, false, Some("b")),
            ]
        );
    }

    #[test]
    fn replicas_count_once_they_have_everything() {
        let text = "role:master\r\nconnected_slaves:2\r\n\
                    slave0:ip=10.0.0.2,port=6379,state=online,offset=1,lag=0\r\n\
                    slave1:ip=10.0.0.3,port=6379,state=wait_bgsave,offset=0,lag=0\r\n";
        let server = ServerFacts {
            address: Address {
                host: "a".into(),
                port: 1,
            },
            info: Lines::parse(text),
            settings: Settings::Forbidden("NOPERM".into()),
            ahead_ms: 0,
        };
        assert!(server.is_primary());
        assert_eq!(server.replicas_online(), 1);
    }
}
