//! Which local address a client connects from: one address has ports for some 28,000 connections to one server.
//!
//! **Each round of connections has addresses of its own.** A client that closes before the server does leaves its port in TIME_WAIT, where
//! nobody gets it for the same server for a second. The kernel tries such ports one after the other: with 9,900 of them a connect(2) took
//! 263 µs of CPU in place of 17, until the second was over. That is the generator's CPU, and whoever is measured next pays, be it a rival.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::machine::SESSIONS_PER_ADDRESS;

/// Rounds until addresses come again, long after their ports are free.
const ROUNDS: u32 = 100;

/// Rounds of this process.
static ROUND: AtomicU32 = AtomicU32::new(0);

/// From now on clients connect from other addresses than before.
pub(super) fn next_round() {
    ROUND.fetch_add(1, Ordering::Relaxed);
}

/// The local address of a client. The whole of 127.0.0.0/8 is this machine, so a server on an address of it is reached from
/// as many addresses as it takes; to any other server the system chooses.
pub(crate) fn local_of(remote: SocketAddr, number: u32) -> Option<SocketAddr> {
    local_in(ROUND.load(Ordering::Relaxed), remote, number)
}

fn local_in(round: u32, remote: SocketAddr, number: u32) -> Option<SocketAddr> {
    let IpAddr::V4(remote) = remote.ip() else {
        return None;
    };
    if !remote.is_loopback() {
        return None;
    }
    let address = number / SESSIONS_PER_ADDRESS;
    let [.., high, low] = (address + 1).to_be_bytes();
    let network = 1 + (round % ROUNDS) as u8;
    let address = Ipv4Addr::new(127, network, high, low);
    Some(SocketAddr::from((address, 0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_million_clients_have_addresses_of_their_own() {
        let remote = SocketAddr::from((Ipv4Addr::LOCALHOST, 1883));
        let of = |number| local_in(0, remote, number).map(|address| address.ip().to_string());
        assert_eq!(of(0).as_deref(), Some("127.1.0.1"));
        assert_eq!(of(SESSIONS_PER_ADDRESS).as_deref(), Some("127.1.0.2"));
        assert_eq!(of(4_000_000).as_deref(), Some("127.1.1.30"));
        assert_eq!(
            local_in(0, SocketAddr::from((Ipv4Addr::new(10, 0, 0, 1), 1883)), 0),
            None
        );
    }

    #[test]
    fn no_round_takes_an_address_of_the_rounds_before_it() {
        let remote = SocketAddr::from((Ipv4Addr::LOCALHOST, 1883));
        let of = |round| local_in(round, remote, 7).expect("it is loopback").ip();
        let addresses: std::collections::BTreeSet<IpAddr> = (0..ROUNDS).map(of).collect();
        assert_eq!(addresses.len(), ROUNDS as usize);
        assert!(!addresses.contains(&IpAddr::from(Ipv4Addr::LOCALHOST)));
        assert_eq!(of(ROUNDS), of(0));
    }
}
