//! Token buckets: how often somebody may do something. Integers only, so that nothing drifts, and time is an argument.

use std::net::IpAddr;

use super::address::AddressKey;
use super::ways::{Replaced, Ways};

/// How many per second, and how many at once after a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// What comes back each second. 0: nothing does.
    pub per_second: u32,
    /// What a bucket holds.
    pub burst: u32,
}

/// What is left of a rate, for one connection, session or address. A new one is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    /// Thousandths of a token that are missing: `per_second` comes back each millisecond, so that all of it is whole numbers.
    missing: u64,
    /// When that was so.
    at_ms: u64,
}

const _: () = assert!(size_of::<Bucket>() == 16);

impl Bucket {
    /// Takes so many tokens, or none if there are not so many. More than `burst` can never be had; see [`Bucket::charge`].
    pub fn take(&mut self, rate: Rate, now_ms: u64, tokens: u32) -> bool {
        self.refill(rate, now_ms);
        let missing = self.missing + thousandths(tokens);
        let fits = missing <= thousandths(rate.burst);
        if fits {
            self.missing = missing;
        }
        fits
    }

    /// True when so many tokens could be taken.
    pub fn has(mut self, rate: Rate, now_ms: u64, tokens: u32) -> bool {
        self.take(rate, now_ms, tokens)
    }

    /// Takes so many tokens in any case, for what has been done already, and says how many milliseconds to wait until the bucket is not
    /// overdrawn; 0 when it is not. `None`: nothing comes back.
    pub fn charge(&mut self, rate: Rate, now_ms: u64, tokens: u32) -> Option<u64> {
        self.refill(rate, now_ms);
        self.missing = self.missing.saturating_add(thousandths(tokens));
        self.wait_ms(rate)
    }

    /// True when a new bucket would be no fuller.
    pub fn is_full(&mut self, rate: Rate, now_ms: u64) -> bool {
        self.refill(rate, now_ms);
        self.missing == 0
    }

    fn wait_ms(&self, rate: Rate) -> Option<u64> {
        match self.missing.saturating_sub(thousandths(rate.burst)) {
            0 => Some(0),
            _ if rate.per_second == 0 => None,
            over => Some(over.div_ceil(u64::from(rate.per_second))),
        }
    }

    /// A clock that goes back brings nothing back.
    fn refill(&mut self, rate: Rate, now_ms: u64) {
        let elapsed_ms = now_ms.saturating_sub(self.at_ms);
        let back = elapsed_ms.saturating_mul(u64::from(rate.per_second));
        self.missing = self.missing.saturating_sub(back);
        self.at_ms = self.at_ms.max(now_ms);
    }
}

const fn thousandths(tokens: u32) -> u64 {
    tokens as u64 * 1_000
}

/// One rate for each address: IPv4 addresses one by one, IPv6 by their /64, which one subscriber has to choose from.
///
/// A table of fixed size. Where it has no room, the fullest of four buckets makes it, the one whose loss matters least.
#[derive(Debug)]
pub struct AddressBuckets {
    buckets: Ways<Bucket>,
    rate: Rate,
    forgotten: u64,
}

impl AddressBuckets {
    /// A table for about so many addresses at a time, 24 bytes each. `seed` should be random, so that nobody can choose addresses that
    /// fall together.
    pub fn new(addresses_max: usize, rate: Rate, seed: u64) -> Self {
        Self {
            buckets: Ways::new(addresses_max, seed),
            rate,
            forgotten: 0,
        }
    }

    /// Takes so many tokens of an address, or none if it has not so many.
    pub fn take(&mut self, address: IpAddr, now_ms: u64, tokens: u32) -> bool {
        let rate = self.rate;
        let emptiness = |bucket: &Bucket| {
            let mut bucket = *bucket;
            bucket.refill(rate, now_ms);
            bucket.missing
        };
        let (bucket, replaced) = self.buckets.entry(&AddressKey::of(address), emptiness);
        if let Replaced::Other(mut other) = replaced
            && !other.is_full(rate, now_ms)
        {
            self.forgotten += 1;
        }
        bucket.take(rate, now_ms, tokens)
    }

    /// True when an address has so many tokens.
    pub fn has(&self, address: IpAddr, now_ms: u64, tokens: u32) -> bool {
        let bucket = self.buckets.get(&AddressKey::of(address));
        let bucket = bucket.copied().unwrap_or_default();
        bucket.has(self.rate, now_ms, tokens)
    }

    /// Another rate from now on. What is missing stays missing.
    pub fn set_rate(&mut self, rate: Rate) {
        self.rate = rate;
    }

    /// How many buckets that were not full were given up for another address. When it grows, the table is too small.
    pub const fn forgotten(&self) -> u64 {
        self.forgotten
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RATE: Rate = Rate {
        per_second: 10,
        burst: 5,
    };

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn a_new_bucket_is_full_and_then_fills_at_its_rate() {
        let mut bucket = Bucket::default();
        assert!((0..5).all(|_| bucket.take(RATE, 1_000, 1)));
        assert!(!bucket.take(RATE, 1_000, 1));
        assert!(!bucket.take(RATE, 1_099, 1));
        assert!(bucket.take(RATE, 1_100, 1));
        assert!(!bucket.take(RATE, 1_100, 1));
        assert!(bucket.take(RATE, 60_000, 5) && !bucket.take(RATE, 60_000, 1));
    }

    #[test]
    fn what_does_not_fit_takes_nothing() {
        let mut bucket = Bucket::default();
        assert!(!bucket.take(RATE, 0, 6));
        assert!(bucket.take(RATE, 0, 5));
    }

    #[test]
    fn what_was_done_already_is_paid_by_waiting() {
        let mut bucket = Bucket::default();
        assert_eq!(bucket.charge(RATE, 0, 5), Some(0));
        assert_eq!(bucket.charge(RATE, 0, 20), Some(2_000));
        assert!(!bucket.take(RATE, 2_000, 1));
        assert!(bucket.take(RATE, 2_100, 1));
        let never = Rate {
            per_second: 0,
            burst: 1,
        };
        assert_eq!(Bucket::default().charge(never, 0, 2), None);
    }

    #[test]
    fn a_clock_that_goes_back_brings_nothing() {
        let mut bucket = Bucket::default();
        assert!(bucket.take(RATE, 10_000, 5));
        assert!(!bucket.take(RATE, 5_000, 1));
        assert!(!bucket.take(RATE, 10_050, 1));
        assert!(bucket.take(RATE, 10_100, 1));
    }

    #[test]
    fn each_address_has_a_bucket_and_each_ipv6_network_of_64_bits() {
        let mut table = AddressBuckets::new(64, RATE, 7);
        let mut empty = |text: &str| {
            let address = address(text);
            (0..5).filter(|_| table.take(address, 0, 1)).count()
        };
        assert_eq!(empty("192.0.2.1"), 5);
        assert_eq!(
            empty("::ffff:192.0.2.1"),
            0,
            "the same address, written as IPv6"
        );
        assert_eq!(empty("192.0.2.2"), 5);
        assert_eq!(empty("2001:db8::1"), 5);
        assert_eq!(empty("2001:db8::ffff:1"), 0);
        assert_eq!(empty("2001:db8:0:1::1"), 5);
    }

    #[test]
    fn to_look_at_a_bucket_takes_nothing_from_it() {
        let mut table = AddressBuckets::new(64, RATE, 7);
        let here = address("192.0.2.1");
        assert!((0..20).all(|_| table.has(here, 0, 5)));
        assert!(table.take(here, 0, 3));
        assert!(table.has(here, 0, 2) && !table.has(here, 0, 3));
        assert!(table.has(here, 100, 3), "what comes back is seen");
        assert!(table.take(here, 0, 2) && !table.has(here, 0, 1));
    }

    #[test]
    fn a_full_table_gives_up_the_bucket_that_matters_least() {
        let mut table = AddressBuckets::new(4, RATE, 7);
        let hosts: Vec<IpAddr> = (1..=9)
            .map(|host| address(&format!("192.0.2.{host}")))
            .collect();
        assert!(table.take(hosts[0], 0, 5));
        for host in &hosts[1..4] {
            assert!(table.take(*host, 0, 1));
        }
        assert_eq!(table.forgotten(), 0);
        assert!(table.take(hosts[4], 0, 1));
        assert_eq!(table.forgotten(), 1);
        assert!(!table.take(hosts[0], 0, 1), "the emptiest is kept");
        assert!(table.take(hosts[5], 10_000, 1));
        assert_eq!(table.forgotten(), 1, "full buckets are no loss");
    }

    proptest! {
        #[test]
        fn no_window_has_more_than_the_burst_and_what_came_back(
            per_second in 0..2_000_u32, burst in 0..50_u32, steps in prop::collection::vec((0..400_u64, 1..8_u32), 1..80),
        ) {
            let rate = Rate { per_second, burst };
            let (mut bucket, mut now_ms, mut taken) = (Bucket::default(), 0, Vec::new());
            for (pause_ms, tokens) in steps {
                now_ms += pause_ms;
                if bucket.take(rate, now_ms, tokens) {
                    taken.push((now_ms, u64::from(tokens)));
                }
            }
            for (index, (from_ms, _)) in taken.iter().enumerate() {
                let mut sum = 0;
                for (at_ms, tokens) in &taken[index..] {
                    sum += tokens * 1_000;
                    prop_assert!(sum <= u64::from(burst) * 1_000 + u64::from(per_second) * (at_ms - from_ms));
                }
            }
        }

        #[test]
        fn who_keeps_to_the_rate_is_never_refused(per_second in 1..1_000_u32, burst in 1..10_u32) {
            let rate = Rate { per_second, burst };
            let mut bucket = Bucket::default();
            for number in 0..1_000_u64 {
                let now_ms = number * 1_000_u64.div_ceil(u64::from(per_second));
                prop_assert!(bucket.take(rate, now_ms, 1));
            }
        }

        #[test]
        fn no_number_overflows(per_second in any::<u32>(), burst in any::<u32>(), steps in prop::collection::vec((any::<u64>(), any::<u32>()), 0..20)) {
            let rate = Rate { per_second, burst };
            let mut bucket = Bucket::default();
            for (now_ms, tokens) in steps {
                bucket.take(rate, now_ms, tokens);
                bucket.charge(rate, now_ms, tokens);
            }
        }
    }
}
