//! Clients that connect again and again: whoever does so more often than a policy says is kept out for a while.
//!
//! A client is its identifier *and* its address, so that nobody can keep another's client out by using its name from elsewhere.

use std::net::IpAddr;

use super::address::AddressKey;
use super::ways::{Replaced, Ways};

/// How often a client may connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlapPolicy {
    /// Most connects in a window, which begins with the first of them.
    pub connects_max: u32,
    /// How long a window is.
    pub window_ms: u64,
    /// How long a client that connected more often is kept out.
    pub ban_ms: u64,
}

/// What to do with a client that connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flap {
    /// Let it in.
    Welcome,
    /// Keep it out, from now until then. Said once for each ban: worth a line in the log.
    BanBegins {
        /// When it may come back.
        until_ms: u64,
    },
    /// Keep it out until then.
    Banned {
        /// When it may come back.
        until_ms: u64,
    },
}

/// What happened since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlapCounters {
    /// Bans that began.
    pub bans: u64,
    /// Connects that a ban kept out.
    pub refused: u64,
    /// Clients that were forgotten within their window or ban, for want of room. When it grows, the table is too small.
    pub forgotten: u64,
}

/// Who connected how often lately: a table of fixed size, 24 bytes for each client.
#[derive(Debug)]
pub struct FlapGuard {
    clients: Ways<Entry>,
    policy: FlapPolicy,
    counters: FlapCounters,
}

#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    /// When the window or the ban ends.
    end_ms: u64,
    /// Connects in the window.
    connects: u32,
    /// True exactly when `end_ms` is the end of a ban.
    banned: bool,
}

const _: () = assert!(size_of::<Entry>() == 16);

impl FlapGuard {
    /// A table for about so many clients at a time. `seed` should be random.
    pub fn new(clients_max: usize, policy: FlapPolicy, seed: u64) -> Self {
        Self {
            clients: Ways::new(clients_max, seed),
            policy,
            counters: FlapCounters::default(),
        }
    }

    /// A client connects, by its user and its client identifier.
    pub fn connect(&mut self, client: (Option<&str>, &str), address: IpAddr, now_ms: u64) -> Flap {
        let FlapPolicy {
            connects_max,
            window_ms,
            ban_ms,
        } = self.policy;
        // What has ended is worth nothing; a ban is worth more than a count.
        let worth = |entry: &Entry| (entry.end_ms > now_ms).then_some((entry.banned, entry.end_ms));
        let key = (client, AddressKey::of(address));
        let (entry, replaced) = self.clients.entry(&key, worth);
        if let Replaced::Other(other) = replaced
            && other.end_ms > now_ms
        {
            self.counters.forgotten += 1;
        }
        if entry.end_ms <= now_ms {
            *entry = Entry {
                end_ms: now_ms.saturating_add(window_ms),
                ..Entry::default()
            };
        }
        let until_ms = entry.end_ms;
        if entry.banned {
            self.counters.refused += 1;
            return Flap::Banned { until_ms };
        }
        entry.connects = entry.connects.saturating_add(1);
        if entry.connects <= connects_max {
            return Flap::Welcome;
        }
        let until_ms = now_ms.saturating_add(ban_ms);
        (entry.banned, entry.end_ms) = (true, until_ms);
        self.counters.bans += 1;
        Flap::BanBegins { until_ms }
    }

    /// Another policy from now on. Windows and bans that have begun end as they would have.
    pub fn set_policy(&mut self, policy: FlapPolicy) {
        self.policy = policy;
    }

    /// What happened since the start.
    pub const fn counters(&self) -> FlapCounters {
        self.counters
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const THERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));

    fn guard(clients_max: usize) -> FlapGuard {
        let policy = FlapPolicy {
            connects_max: 3,
            window_ms: 1_000,
            ban_ms: 5_000,
        };
        FlapGuard::new(clients_max, policy, 7)
    }

    #[test]
    fn who_connects_too_often_is_kept_out_for_a_while() {
        let mut guard = guard(64);
        for now_ms in [0, 300, 900] {
            assert_eq!(guard.connect((None, "a"), HERE, now_ms), Flap::Welcome);
        }
        assert_eq!(
            guard.connect((None, "a"), HERE, 999),
            Flap::BanBegins { until_ms: 5_999 }
        );
        assert_eq!(
            guard.connect((None, "a"), HERE, 5_998),
            Flap::Banned { until_ms: 5_999 }
        );
        assert_eq!(guard.connect((None, "a"), HERE, 5_999), Flap::Welcome);
        let expected = FlapCounters {
            bans: 1,
            refused: 1,
            forgotten: 0,
        };
        assert_eq!(guard.counters(), expected);
    }

    #[test]
    fn who_connects_at_a_measured_pace_stays_welcome() {
        let mut guard = guard(64);
        assert!(
            (0..100).all(|number| guard.connect((None, "a"), HERE, number * 334) == Flap::Welcome)
        );
    }

    #[test]
    fn nobody_is_kept_out_for_what_another_does_with_its_name() {
        let mut guard = guard(64);
        assert!((0..10).any(|_| guard.connect((None, "a"), THERE, 0) != Flap::Welcome));
        assert_eq!(guard.connect((None, "a"), HERE, 0), Flap::Welcome);
        assert_eq!(guard.connect((None, "b"), THERE, 0), Flap::Welcome);
    }

    #[test]
    fn a_full_table_keeps_bans_and_counts_whom_it_forgot() {
        let mut guard = guard(4);
        for _ in 0..4 {
            guard.connect((None, "bad"), HERE, 0);
        }
        for number in 0..10 {
            guard.connect((None, &format!("c{number}")), HERE, 1);
        }
        assert_eq!(
            guard.connect((None, "bad"), HERE, 2),
            Flap::Banned { until_ms: 5_000 }
        );
        assert_eq!(guard.counters().forgotten, 7);
    }
}
