//! Who is kept out: client identifiers, users and networks, for a time or for good, by an operator's word.

use std::fmt;
use std::net::IpAddr;

use foldhash::SharedSeed;
use foldhash::quality::SeedableRandomState;
use hashbrown::HashMap;

pub use super::address::{Network, NetworkError};

/// The longest client identifier or user that can be banned, in bytes.
pub const NAME_BYTES_MAX: usize = 1_024;

/// The longest reason, in bytes.
pub const REASON_BYTES_MAX: usize = 256;

/// Whom a ban is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// A client identifier.
    Client(Box<str>),
    /// An authenticated user.
    User(Box<str>),
    /// All addresses of a network.
    Network(Network),
}

impl fmt::Display for Subject {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client(client) => write!(formatter, "client {client:?}"),
            Self::User(user) => write!(formatter, "user {user:?}"),
            Self::Network(network) => write!(formatter, "network {network}"),
        }
    }
}

/// How long and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Term {
    /// When it ends, in milliseconds of Unix time; `None`: when somebody lifts it.
    pub until_unix_ms: Option<u64>,
    /// For the log and the operator. Clients are not told.
    pub reason: Box<str>,
}

impl Term {
    fn is_over(&self, now_unix_ms: u64) -> bool {
        self.until_unix_ms.is_some_and(|until| until <= now_unix_ms)
    }
}

/// Why a ban is not taken. The operator's to mend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BanError {
    /// The table has as many as it may.
    #[error("there are {max} bans already; lift some, or ban a network in place of its addresses")]
    Full {
        /// How many it may have.
        max: usize,
    },
    /// A name longer than [`NAME_BYTES_MAX`] or a reason longer than [`REASON_BYTES_MAX`].
    #[error("the {what} has more than {max} bytes; shorten it")]
    TooLong {
        /// Name or reason.
        what: &'static str,
        /// How long it may be.
        max: usize,
    },
}

/// All bans, at most as many as was said.
#[derive(Clone, Debug)]
pub struct Bans {
    names: HashMap<Subject, Term, SeedableRandomState>,
    networks: HashMap<Network, Term, SeedableRandomState>,
    /// How many bans there are of networks with so many bits, IPv4 first: only these are looked up.
    lengths_v4: [u32; 33],
    lengths_v6: [u32; 129],
    bans_max: usize,
}

impl Bans {
    /// An empty table. `seed` should be random, so that nobody can choose names that fall together.
    pub fn new(bans_max: usize, seed: u64) -> Self {
        let hasher = |salt| SeedableRandomState::with_seed(seed ^ salt, SharedSeed::global_fixed());
        Self {
            names: HashMap::with_hasher(hasher(1)),
            networks: HashMap::with_hasher(hasher(2)),
            lengths_v4: [0; 33],
            lengths_v6: [0; 129],
            bans_max,
        }
    }

    /// Bans somebody, or changes the term of who is banned already. A full table first drops what is over.
    ///
    /// # Errors
    /// There is no room, or a text is too long.
    pub fn add(&mut self, subject: Subject, term: Term, now_unix_ms: u64) -> Result<(), BanError> {
        if let Subject::Client(name) | Subject::User(name) = &subject
            && name.len() > NAME_BYTES_MAX
        {
            return Err(BanError::TooLong {
                what: "name",
                max: NAME_BYTES_MAX,
            });
        }
        if term.reason.len() > REASON_BYTES_MAX {
            return Err(BanError::TooLong {
                what: "reason",
                max: REASON_BYTES_MAX,
            });
        }
        if self.len() >= self.bans_max && self.term(&subject).is_none() {
            self.drop_ended(now_unix_ms);
            if self.len() >= self.bans_max {
                return Err(BanError::Full { max: self.bans_max });
            }
        }
        match subject {
            Subject::Network(network) => {
                if self.networks.insert(network, term).is_none() {
                    *self.count_of(network) += 1;
                }
            }
            name => {
                self.names.insert(name, term);
            }
        }
        Ok(())
    }

    /// Lifts a ban. False when there was none.
    pub fn lift(&mut self, subject: &Subject) -> bool {
        match subject {
            Subject::Network(network) => {
                let lifted = self.networks.remove(network).is_some();
                if lifted {
                    *self.count_of(*network) -= 1;
                }
                lifted
            }
            name => self.names.remove(name).is_some(),
        }
    }

    /// The ban that keeps an address out, asked when it connects.
    pub fn of_address(&self, address: IpAddr, now_unix_ms: u64) -> Option<(Network, &Term)> {
        if self.networks.is_empty() {
            return None; // As mostly.
        }
        let address = address.to_canonical();
        let lengths: &[u32] = match address {
            IpAddr::V4(_) => &self.lengths_v4,
            IpAddr::V6(_) => &self.lengths_v6,
        };
        let used = lengths.iter().enumerate().filter(|(_, count)| **count > 0);
        used.filter_map(|(bits, _)| Network::new(address, bits as u8))
            .find_map(|network| {
                let term = self.networks.get(&network)?;
                (!term.is_over(now_unix_ms)).then_some((network, term))
            })
    }

    /// The ban that keeps a client identifier or a user out, asked when it has said and proved who it is.
    pub fn of_client(
        &self,
        client: &str,
        user: Option<&str>,
        now_unix_ms: u64,
    ) -> Option<(&Subject, &Term)> {
        if self.names.is_empty() {
            return None;
        }
        let asked = [Some(Name::Client(client)), user.map(Name::User)];
        let mut found = asked
            .into_iter()
            .flatten()
            .filter_map(|name| self.names.get_key_value(&name));
        found.find(|(_, term)| !term.is_over(now_unix_ms))
    }

    /// How many bans there are, those that are over and not dropped yet included.
    pub fn len(&self) -> usize {
        self.names.len() + self.networks.len()
    }

    /// True when nobody is banned.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Drops the bans that are over; worth doing now and then, for nobody asks about most of them again.
    pub fn drop_ended(&mut self, now_unix_ms: u64) {
        self.names.retain(|_, term| !term.is_over(now_unix_ms));
        let ended = self
            .networks
            .iter()
            .filter(|(_, term)| term.is_over(now_unix_ms));
        let ended: Vec<Network> = ended.map(|(network, _)| *network).collect();
        for network in ended {
            self.lift(&Subject::Network(network));
        }
    }

    /// Every ban, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (Subject, &Term)> {
        let names = self.names.iter().map(|(name, term)| (name.clone(), term));
        let networks = self.networks.iter();
        names.chain(networks.map(|(network, term)| (Subject::Network(*network), term)))
    }

    fn term(&self, subject: &Subject) -> Option<&Term> {
        match subject {
            Subject::Network(network) => self.networks.get(network),
            name => self.names.get(name),
        }
    }

    fn count_of(&mut self, network: Network) -> &mut u32 {
        let bits = usize::from(network.prefix_bits());
        if network.is_ipv4() {
            &mut self.lengths_v4[bits]
        } else {
            &mut self.lengths_v6[bits]
        }
    }
}

/// A [`Subject`] that is asked for, without a copy of its text. Hashes as the subject does.
#[derive(Hash)]
enum Name<'a> {
    Client(&'a str),
    User(&'a str),
}

impl hashbrown::Equivalent<Subject> for Name<'_> {
    fn equivalent(&self, subject: &Subject) -> bool {
        match (self, subject) {
            (Self::Client(asked), Subject::Client(name))
            | (Self::User(asked), Subject::User(name)) => **asked == **name,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn term(until_unix_ms: Option<u64>) -> Term {
        Term {
            until_unix_ms,
            reason: "spam".into(),
        }
    }

    fn network(text: &str) -> Network {
        text.parse().expect("a network")
    }

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn bans(bans_max: usize, subjects: &[Subject]) -> Bans {
        let mut bans = Bans::new(bans_max, 7);
        for subject in subjects {
            bans.add(subject.clone(), term(Some(1_000)), 0)
                .expect("room");
        }
        bans
    }

    #[test]
    fn a_ban_holds_until_its_end() {
        let subjects = [
            Subject::Client("phone".into()),
            Subject::User("eve".into()),
            Subject::Network(network("192.0.2.0/24")),
        ];
        let bans = bans(10, &subjects);
        for (now, banned) in [(0, true), (999, true), (1_000, false)] {
            assert_eq!(bans.of_client("phone", None, now).is_some(), banned);
            assert_eq!(bans.of_client("other", Some("eve"), now).is_some(), banned);
            assert_eq!(
                bans.of_address(address("192.0.2.77"), now).is_some(),
                banned
            );
        }
        let (subject, term) = bans.of_client("x", Some("eve"), 0).expect("banned");
        assert_eq!(
            (subject.to_string(), &*term.reason),
            ("user \"eve\"".into(), "spam")
        );
        assert!(
            bans.of_client("eve", Some("phone"), 0).is_none(),
            "clients and users are apart"
        );
        assert!(bans.of_address(address("192.0.3.1"), 0).is_none());
    }

    #[test]
    fn a_ban_without_an_end_holds_until_it_is_lifted() {
        let mut bans = Bans::new(10, 7);
        let subjects = [
            Subject::User("eve".into()),
            Subject::Network(network("2001:db8::/32")),
        ];
        for subject in &subjects {
            bans.add(subject.clone(), term(None), 0).expect("room");
        }
        bans.drop_ended(u64::MAX);
        assert!(bans.of_client("x", Some("eve"), u64::MAX).is_some());
        assert!(
            bans.of_address(address("2001:db8:7::1"), u64::MAX)
                .is_some()
        );
        for subject in &subjects {
            assert!(bans.lift(subject) && !bans.lift(subject));
        }
        assert!(bans.is_empty() && bans.of_address(address("2001:db8:7::1"), 0).is_none());
    }

    #[test]
    fn a_full_table_drops_what_is_over_and_refuses_more() {
        let mut bans = bans(
            2,
            &[
                Subject::User("a".into()),
                Subject::Network(network("192.0.2.1")),
            ],
        );
        let more = Subject::User("b".into());
        assert_eq!(
            bans.add(more.clone(), term(None), 999),
            Err(BanError::Full { max: 2 })
        );
        assert_eq!(
            bans.add(Subject::User("a".into()), term(Some(5_000)), 999),
            Ok(()),
            "known already"
        );
        assert_eq!(bans.add(more, term(None), 1_000), Ok(()));
        assert_eq!(bans.iter().count(), 2);
        let long = Subject::User("x".repeat(1_025).into());
        assert!(matches!(
            bans.add(long, term(None), 0),
            Err(BanError::TooLong { what: "name", .. })
        ));
    }

    proptest! {
        #[test]
        fn an_address_is_banned_when_a_network_that_is_banned_contains_it(
            networks in prop::collection::vec((any::<u32>(), 0..=32_u8), 0..20), hosts in prop::collection::vec(any::<u32>(), 20), six in any::<bool>(),
        ) {
            let make = |bits: u32| -> IpAddr {
                if six { std::net::Ipv6Addr::from_bits(u128::from(bits) << 96).into() } else { std::net::Ipv4Addr::from_bits(bits).into() }
            };
            let networks: Vec<_> = networks.into_iter().filter_map(|(bits, length)| Network::new(make(bits), length)).collect();
            let bans = bans(100, &networks.iter().map(|network| Subject::Network(*network)).collect::<Vec<_>>());
            for host in hosts {
                let expected = networks.iter().any(|network| network.contains(make(host)));
                prop_assert_eq!(bans.of_address(make(host), 0).is_some(), expected);
            }
        }
    }
}
