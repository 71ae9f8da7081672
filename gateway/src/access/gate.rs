//! How many may come in, and how fast: bounds of a listener, of an address and of the node, on one core.
//!
//! Asked before anything is kept for a connection. An address is counted as [`super::bucket`] counts it: IPv4 one by one, IPv6
//! by /64. A bound that is not set costs nothing.

use std::net::IpAddr;

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use reactor::driver::ConnectionId;
use reactor::slab::Table;

use super::address::{AddressKey, Network};
use super::bucket::{AddressBuckets, Bucket, Rate};
use crate::metrics::TurnedAway;

/// Bounds of who comes in, on one core.
#[derive(Clone, Debug, Default)]
pub struct GateLimits {
    /// Connections of one listener at once; one more is closed.
    pub listener_connections_max: Option<u32>,
    /// Connections of one address at once; one more is closed.
    pub address_connections_max: Option<u32>,
    /// New connections of one address; what is faster is closed.
    pub address_rate: Option<Rate>,
    /// New connections of the core; what is faster is closed.
    pub rate: Option<Rate>,
    /// Addresses without bounds of their own.
    pub exempt: Box<[Network]>,
}

/// The bounds with what is used of them.
#[derive(Debug)]
pub struct Gate {
    limits: GateLimits,
    rate: Bucket,
    addresses: Option<AddressBuckets>,
    by_listener: Vec<u32>,
    by_address: HashMap<AddressKey, u32, FixedState>,
    /// What each connection is counted as, where anything is.
    counted: Table<Counted>,
}

#[derive(Clone, Copy, Debug)]
struct Counted {
    listener: u16,
    address: Option<AddressKey>,
}

impl Gate {
    /// Addresses whose rates are known at a time.
    const ADDRESSES: usize = 65_536;

    /// Nobody came so far. `seed` should be random.
    pub fn new(limits: GateLimits, seed: u64) -> Self {
        let addresses = limits
            .address_rate
            .map(|rate| AddressBuckets::new(Self::ADDRESSES, rate, seed));
        Self {
            rate: Bucket::default(),
            addresses,
            by_listener: Vec::new(),
            by_address: HashMap::with_hasher(FixedState::with_seed(seed)),
            counted: Table::new(),
            limits,
        }
    }

    /// A connection comes in at a listener.
    ///
    /// # Errors
    /// Why it is to be closed. Nothing is counted then.
    pub fn arrive(
        &mut self,
        id: ConnectionId,
        listener: u16,
        now_ms: u64,
    ) -> Result<(), TurnedAway> {
        let place = usize::from(listener);
        if let Some(maximum) = self.limits.listener_connections_max {
            if self.by_listener.len() <= place {
                self.by_listener.resize(place + 1, 0);
            }
            if self.by_listener[place] >= maximum {
                return Err(TurnedAway::ListenerFull);
            }
        }
        if let Some(rate) = self.limits.rate
            && !self.rate.take(rate, now_ms, 1)
        {
            return Err(TurnedAway::Rate);
        }
        if self.limits.listener_connections_max.is_some() {
            self.by_listener[place] += 1;
            let address = None;
            self.counted.insert(id.slot, Counted { listener, address });
        }
        Ok(())
    }

    /// It is known whose connection it is: the peer's, or the one that a proxy has told.
    ///
    /// # Errors
    /// Why it is to be closed. What was counted when it came is still counted until it has left.
    pub fn identify(
        &mut self,
        id: ConnectionId,
        listener: u16,
        address: IpAddr,
        now_ms: u64,
    ) -> Result<(), TurnedAway> {
        let maximum = self.limits.address_connections_max;
        if maximum.is_none() && self.addresses.is_none() || self.is_exempt(address) {
            return Ok(());
        }
        let key = AddressKey::of(address);
        let count = self.by_address.get(&key).copied().unwrap_or(0);
        if maximum.is_some_and(|maximum| count >= maximum) {
            return Err(TurnedAway::AddressFull);
        }
        if let Some(addresses) = &mut self.addresses
            && !addresses.take(address, now_ms, 1)
        {
            return Err(TurnedAway::AddressRate);
        }
        if maximum.is_some() {
            self.by_address.insert(key, count + 1);
            let address = Some(key);
            self.counted.insert(id.slot, Counted { listener, address });
        }
        Ok(())
    }

    /// A connection is gone, whatever became of it.
    pub fn leave(&mut self, id: ConnectionId) {
        let Some(Counted { listener, address }) = self.counted.remove(id.slot) else {
            return;
        };
        if self.limits.listener_connections_max.is_some()
            && let Some(count) = self.by_listener.get_mut(usize::from(listener))
        {
            *count -= 1;
        }
        if let Some(key) = address
            && let Some(count) = self.by_address.get_mut(&key)
        {
            *count -= 1;
            if *count == 0 {
                self.by_address.remove(&key);
            }
        }
    }

    fn is_exempt(&self, address: IpAddr) -> bool {
        let mut networks = self.limits.exempt.iter();
        networks.any(|network| network.contains(address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: &str = "192.0.2.1";
    const THERE: &str = "192.0.2.2";

    struct Door {
        gate: Gate,
        slots: u32,
    }

    impl Door {
        fn new(limits: GateLimits) -> Self {
            let gate = Gate::new(limits, 7);
            Self { gate, slots: 0 }
        }

        /// A connection comes, and is closed when it is not let in, as the event loop does.
        fn come(
            &mut self,
            listener: u16,
            address: &str,
            now_ms: u64,
        ) -> Result<ConnectionId, TurnedAway> {
            self.slots += 1;
            let id = ConnectionId {
                slot: self.slots,
                generation: 1,
            };
            let address = address.parse().expect("an address");
            let outcome = self
                .gate
                .arrive(id, listener, now_ms)
                .and_then(|()| self.gate.identify(id, listener, address, now_ms));
            outcome.map(|()| id).inspect_err(|_| self.gate.leave(id))
        }
    }

    fn limits() -> GateLimits {
        GateLimits::default()
    }

    #[test]
    fn without_bounds_everybody_comes_in_and_nothing_is_kept() {
        let mut door = Door::new(limits());
        assert!((0..10_000).all(|_| door.come(0, HERE, 0).is_ok()));
        assert!(door.gate.by_listener.is_empty() && door.gate.by_address.is_empty());
        assert!(door.gate.counted.is_empty());
    }

    #[test]
    fn a_listener_has_room_for_so_many_and_another_for_its_own() {
        let mut door = Door::new(GateLimits {
            listener_connections_max: Some(2),
            ..limits()
        });
        let first = door.come(0, HERE, 0).expect("there is room");
        assert!(door.come(0, THERE, 0).is_ok());
        assert_eq!(door.come(0, HERE, 0), Err(TurnedAway::ListenerFull));
        assert!(door.come(1, HERE, 0).is_ok());
        door.gate.leave(first);
        assert!(door.come(0, HERE, 0).is_ok());
        assert_eq!(door.come(0, HERE, 0), Err(TurnedAway::ListenerFull));
    }

    #[test]
    fn an_address_has_so_many_connections_and_who_was_refused_takes_no_place() {
        let both = GateLimits {
            listener_connections_max: Some(3),
            address_connections_max: Some(2),
            ..limits()
        };
        let mut door = Door::new(both);
        let first = door.come(0, HERE, 0).expect("there is room");
        assert!(door.come(0, HERE, 0).is_ok());
        for _ in 0..5 {
            assert_eq!(door.come(0, HERE, 0), Err(TurnedAway::AddressFull));
        }
        let last = door
            .come(0, THERE, 0)
            .expect("the refused left the listener's place");
        door.gate.leave(first);
        assert!(door.come(0, HERE, 0).is_ok());
        door.gate.leave(last);
        assert!(door.gate.by_address.len() == 1);
    }

    #[test]
    fn rates_are_of_an_address_and_of_all() {
        let rate = |per_second, burst| Some(Rate { per_second, burst });
        let mut door = Door::new(GateLimits {
            address_rate: rate(1, 2),
            ..limits()
        });
        assert!(door.come(0, HERE, 0).is_ok() && door.come(0, HERE, 0).is_ok());
        assert_eq!(door.come(0, HERE, 0), Err(TurnedAway::AddressRate));
        assert!(door.come(0, THERE, 0).is_ok());
        assert!(door.come(0, HERE, 1_000).is_ok());
        let mut door = Door::new(GateLimits {
            rate: rate(1, 2),
            ..limits()
        });
        assert!(door.come(0, HERE, 0).is_ok() && door.come(0, THERE, 0).is_ok());
        assert_eq!(door.come(0, "192.0.2.3", 0), Err(TurnedAway::Rate));
        assert!(door.come(0, HERE, 1_000).is_ok());
    }

    #[test]
    fn an_exempt_network_has_no_bounds_of_its_own_but_those_of_the_listener() {
        let mut door = Door::new(GateLimits {
            listener_connections_max: Some(4),
            address_connections_max: Some(1),
            exempt: ["192.0.2.0/24".parse().expect("a network")].into(),
            ..limits()
        });
        assert!((0..4).all(|_| door.come(0, HERE, 0).is_ok()));
        assert_eq!(door.come(0, HERE, 0), Err(TurnedAway::ListenerFull));
    }
}
