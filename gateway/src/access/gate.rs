//! How many may come in, and how fast: bounds of a listener, of an address and of the node, on one core.
//!
//! Asked before anything is kept for a connection. An address is counted as [`super::bucket`] counts it: IPv4 one by one, IPv6
//! by /64. A bound that is not set costs nothing.
//!
//! Who connects by TCP is where he says, or there would be no connection. **The first packet of a QUIC client proves nothing**, so it is
//! held against the bounds and takes nothing of them ([`Gate::look`]): who forges addresses could shut out those who have them. The client is
//! counted when it has shown that it is there ([`Gate::admit`]), by the token of a Retry or by completing its handshake.

use std::net::IpAddr;

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use reactor::driver::ConnectionId;
use reactor::slab::Table;

use super::address::{AddressKey, Network};
use super::bucket::{AddressBuckets, Bucket, Rate};
use crate::metrics::TurnedAway;
use crate::quic::split_slot;

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
    /// Of the driver's listeners, and of those of QUIC.
    by_listener: [Vec<u32>; 2],
    by_address: HashMap<AddressKey, u32, FixedState>,
    /// What each connection is counted as, where anything is: those of the driver, and those of QUIC.
    counted: [Table<Counted>; 2],
}

/// What a connection is counted as: nothing where there are no bounds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use = "what is counted has to be kept for a connection, or released"]
pub struct Counted {
    listener: Option<u16>,
    address: Option<AddressKey>,
}

const _: () = assert!(size_of::<Counted>() <= 24, "one for each connection");

/// Place of QUIC's among listeners and connections, as [`split_slot`] has it.
const QUIC: usize = 1;

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
            by_listener: Default::default(),
            by_address: HashMap::with_hasher(FixedState::with_seed(seed)),
            counted: [Table::new(), Table::new()],
            limits,
        }
    }

    /// A connection of the driver comes in at a listener.
    ///
    /// # Errors
    /// Why it is to be closed. Nothing is counted then.
    pub fn arrive(
        &mut self,
        id: ConnectionId,
        listener: u16,
        now_ms: u64,
    ) -> Result<(), TurnedAway> {
        let (kind, _) = split_slot(id.slot);
        self.has_room(kind, listener)?;
        if let Some(rate) = self.limits.rate
            && !self.rate.take(rate, now_ms, 1)
        {
            return Err(TurnedAway::Rate);
        }
        let listener = self.count_listener(kind, listener);
        let address = None;
        self.keep(id, Counted { listener, address });
        Ok(())
    }

    /// It is known whose connection it is: the peer's, or the one that a proxy has told.
    ///
    /// # Errors
    /// Why it is to be closed. What was counted when it came is still counted until it has left.
    pub fn identify(
        &mut self,
        id: ConnectionId,
        address: IpAddr,
        now_ms: u64,
    ) -> Result<(), TurnedAway> {
        self.is_welcome(address, now_ms)?;
        let address = self.take_address(address, now_ms);
        let (kind, slot) = split_slot(id.slot);
        let before = self.counted[kind].get(slot).copied();
        let listener = before.and_then(|counted| counted.listener);
        self.keep(id, Counted { listener, address });
        Ok(())
    }

    /// Whether a QUIC client from this address could come in, if it is there. Nothing is taken or counted.
    ///
    /// # Errors
    /// Why it is to be refused.
    pub fn look(&self, listener: u16, address: IpAddr, now_ms: u64) -> Result<(), TurnedAway> {
        self.has_room(QUIC, listener)?;
        let rate = self.limits.rate;
        if rate.is_some_and(|rate| !self.rate.has(rate, now_ms, 1)) {
            return Err(TurnedAway::Rate);
        }
        self.is_welcome(address, now_ms)
    }

    /// A QUIC client has shown that it is at this address: it is counted.
    ///
    /// # Errors
    /// Why it is to be refused. Nothing is counted then.
    pub fn admit(
        &mut self,
        listener: u16,
        address: IpAddr,
        now_ms: u64,
    ) -> Result<Counted, TurnedAway> {
        self.look(listener, address, now_ms)?;
        if let Some(rate) = self.limits.rate {
            self.rate.take(rate, now_ms, 1);
        }
        Ok(Counted {
            listener: self.count_listener(QUIC, listener),
            address: self.take_address(address, now_ms),
        })
    }

    /// What was counted is this connection's, until it has left.
    pub fn keep(&mut self, id: ConnectionId, counted: Counted) {
        if counted != Counted::default() {
            let (kind, slot) = split_slot(id.slot);
            self.counted[kind].insert(slot, counted);
        }
    }

    /// A QUIC client whose connection did not come to be is not counted any more.
    pub fn release(&mut self, counted: Counted) {
        self.discount(QUIC, counted);
    }

    /// True when a connection is to be counted at this address and is not yet.
    pub fn is_elsewhere(&self, id: ConnectionId, address: IpAddr) -> bool {
        let (kind, slot) = split_slot(id.slot);
        let counted = self.counted[kind].get(slot).copied().unwrap_or_default();
        counted.address != self.key_of(address)
    }

    /// A QUIC connection goes on at an address at which it has shown to be. It is not held against the bounds there: who is in stays in, and
    /// the next who wants in from there finds the address as full as it is.
    pub fn moved(&mut self, id: ConnectionId, address: IpAddr) {
        let (kind, slot) = split_slot(id.slot);
        let mut counted = self.counted[kind].remove(slot).unwrap_or_default();
        self.discount_address(counted.address);
        counted.address = self.key_of(address);
        self.count_address(counted.address);
        self.keep(id, counted);
    }

    /// A connection is gone, whatever became of it.
    pub fn leave(&mut self, id: ConnectionId) {
        let (kind, slot) = split_slot(id.slot);
        if let Some(counted) = self.counted[kind].remove(slot) {
            self.discount(kind, counted);
        }
    }

    fn has_room(&self, kind: usize, listener: u16) -> Result<(), TurnedAway> {
        let Some(maximum) = self.limits.listener_connections_max else {
            return Ok(());
        };
        let count = self.by_listener[kind].get(usize::from(listener));
        if count.is_some_and(|count| *count >= maximum) || maximum == 0 {
            return Err(TurnedAway::ListenerFull);
        }
        Ok(())
    }

    /// Counts a connection of a listener, where that has a bound.
    fn count_listener(&mut self, kind: usize, listener: u16) -> Option<u16> {
        self.limits.listener_connections_max?;
        let (counts, place) = (&mut self.by_listener[kind], usize::from(listener));
        if counts.len() <= place {
            counts.resize(place + 1, 0);
        }
        counts[place] += 1;
        Some(listener)
    }

    fn has_bounds_of_addresses(&self) -> bool {
        self.limits.address_connections_max.is_some() || self.addresses.is_some()
    }

    /// Whether the bounds of an address have room for one more.
    fn is_welcome(&self, address: IpAddr, now_ms: u64) -> Result<(), TurnedAway> {
        if !self.has_bounds_of_addresses() || self.is_exempt(address) {
            return Ok(());
        }
        if let Some(maximum) = self.limits.address_connections_max {
            let count = self.by_address.get(&AddressKey::of(address)).copied();
            if count.unwrap_or(0) >= maximum {
                return Err(TurnedAway::AddressFull);
            }
        }
        let addresses = self.addresses.as_ref();
        if addresses.is_some_and(|addresses| !addresses.has(address, now_ms, 1)) {
            return Err(TurnedAway::AddressRate);
        }
        Ok(())
    }

    /// Takes one of an address's rate and counts it, as far as it has bounds.
    fn take_address(&mut self, address: IpAddr, now_ms: u64) -> Option<AddressKey> {
        if !self.has_bounds_of_addresses() || self.is_exempt(address) {
            return None;
        }
        if let Some(addresses) = &mut self.addresses {
            addresses.take(address, now_ms, 1);
        }
        let key = self.key_of(address);
        self.count_address(key);
        key
    }

    /// What connections of an address are counted as, where they are.
    fn key_of(&self, address: IpAddr) -> Option<AddressKey> {
        self.limits.address_connections_max?;
        (!self.is_exempt(address)).then(|| AddressKey::of(address))
    }

    fn count_address(&mut self, key: Option<AddressKey>) {
        if let Some(key) = key {
            *self.by_address.entry(key).or_default() += 1;
        }
    }

    fn discount(&mut self, kind: usize, counted: Counted) {
        let place = counted.listener.map(usize::from);
        if let Some(count) = place.and_then(|place| self.by_listener[kind].get_mut(place)) {
            *count -= 1;
        }
        self.discount_address(counted.address);
    }

    fn discount_address(&mut self, key: Option<AddressKey>) {
        if let Some(key) = key
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
                .and_then(|()| self.gate.identify(id, address, now_ms));
            outcome.map(|()| id).inspect_err(|_| self.gate.leave(id))
        }
    }

    fn limits() -> GateLimits {
        GateLimits::default()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    /// The id of a QUIC connection.
    fn quic(slot: u32) -> ConnectionId {
        ConnectionId {
            slot: slot | (1 << 31),
            generation: 1,
        }
    }

    #[test]
    fn without_bounds_everybody_comes_in_and_nothing_is_kept() {
        let mut door = Door::new(limits());
        assert!((0..10_000).all(|_| door.come(0, HERE, 0).is_ok()));
        let connection = quic(7);
        let address = HERE.parse().expect("an address");
        let counted = door.gate.admit(0, address, 0).expect("there are no bounds");
        door.gate.keep(connection, counted);
        assert!(!door.gate.is_elsewhere(connection, address));
        door.gate.moved(connection, address);
        assert!(door.gate.by_listener.iter().all(Vec::is_empty));
        assert!(door.gate.counted.iter().all(Table::is_empty));
        assert!(door.gate.by_address.is_empty());
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

    #[test]
    fn whoever_has_not_shown_where_he_is_takes_nothing_from_those_who_are_there() {
        let rate = |per_second, burst| Some(Rate { per_second, burst });
        let mut door = Door::new(GateLimits {
            listener_connections_max: Some(2),
            address_connections_max: Some(1),
            address_rate: rate(1, 1),
            rate: rate(1, 2),
            ..limits()
        });
        assert!((0..1_000).all(|_| door.gate.look(0, ip(HERE), 0).is_ok()));
        let counted = door.gate.admit(0, ip(HERE), 0).expect("there is room");
        door.gate.keep(quic(1), counted);
        let full = Err(TurnedAway::AddressFull);
        assert_eq!(door.gate.look(0, ip(HERE), 0), full);
        assert_eq!(door.gate.look(0, ip(THERE), 0), Ok(()));
        door.gate.leave(quic(1));
        let too_fast = Err(TurnedAway::AddressRate);
        assert_eq!(door.gate.look(0, ip(HERE), 0), too_fast);
        assert_eq!(door.gate.admit(0, ip(HERE), 0).map(|_| ()), too_fast);
        let counted = door.gate.admit(0, ip(THERE), 0).expect("there is room");
        let all_too_fast = Err(TurnedAway::Rate);
        assert_eq!(door.gate.look(0, ip("192.0.2.3"), 0), all_too_fast);
        assert_eq!(door.gate.look(0, ip(THERE), 10_000), full);
        door.gate.release(counted);
        assert_eq!(door.gate.look(0, ip(THERE), 10_000), Ok(()));
        assert!(door.gate.by_address.is_empty());
    }

    #[test]
    fn an_address_is_counted_over_tcp_and_quic_together_and_listeners_apart() {
        let mut door = Door::new(GateLimits {
            listener_connections_max: Some(2),
            address_connections_max: Some(3),
            ..limits()
        });
        for slot in 0..2 {
            assert!(door.come(0, HERE, 0).is_ok());
            // The same slot as a connection of the driver has, and another connection.
            let counted = door
                .gate
                .admit(0, ip(if slot == 0 { HERE } else { THERE }), 0);
            door.gate
                .keep(quic(slot + 1), counted.expect("there is room"));
        }
        assert_eq!(door.come(1, HERE, 0), Err(TurnedAway::AddressFull));
        let full = Err(TurnedAway::ListenerFull);
        assert_eq!(door.gate.look(0, ip(THERE), 0), full);
        door.gate.leave(quic(1));
        assert_eq!(door.gate.look(0, ip(THERE), 0), Ok(()));
        assert!(door.come(1, HERE, 0).is_ok());
    }

    #[test]
    fn a_connection_that_moves_is_counted_where_it_is() {
        let mut door = Door::new(GateLimits {
            address_connections_max: Some(1),
            exempt: ["198.51.100.0/24".parse().expect("a network")].into(),
            ..limits()
        });
        let counted = door.gate.admit(0, ip(HERE), 0).expect("there is room");
        door.gate.keep(quic(1), counted);
        assert!(!door.gate.is_elsewhere(quic(1), ip(HERE)));
        let is_full = |door: &Door, address| door.gate.look(0, ip(address), 0).is_err();
        for (address, exempt) in [(THERE, false), ("198.51.100.1", true), (HERE, false)] {
            assert!(door.gate.is_elsewhere(quic(1), ip(address)));
            door.gate.moved(quic(1), ip(address));
            assert!(!door.gate.is_elsewhere(quic(1), ip(address)));
            assert_eq!(is_full(&door, address), !exempt);
            assert_eq!(is_full(&door, HERE), address == HERE);
        }
        // It is not held against the bound where it goes: somebody is there already.
        assert!(door.come(0, THERE, 0).is_ok());
        door.gate.moved(quic(1), ip(THERE));
        assert_eq!(door.come(0, THERE, 0), Err(TurnedAway::AddressFull));
        door.gate.leave(quic(1));
        assert_eq!(door.come(0, THERE, 0), Err(TurnedAway::AddressFull));
        assert!(!is_full(&door, HERE));
    }
}
