//! Which local address a client connects from: one address has ports for some 28,000 connections to one server.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::machine::SESSIONS_PER_ADDRESS;

/// The local address of a client. The whole of 127.0.0.0/8 is this machine, so a server on an address of it is reached from
/// as many addresses as it takes; to any other server the system chooses.
pub(crate) fn local_of(remote: SocketAddr, number: u32) -> Option<SocketAddr> {
    let IpAddr::V4(remote) = remote.ip() else {
        return None;
    };
    if !remote.is_loopback() {
        return None;
    }
    let address = number / SESSIONS_PER_ADDRESS;
    let [.., high, low] = (address + 1).to_be_bytes();
    Some(SocketAddr::from((Ipv4Addr::new(127, 1, high, low), 0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_million_clients_have_addresses_of_their_own() {
        let remote = SocketAddr::from((Ipv4Addr::LOCALHOST, 1883));
        let of = |number| local_of(remote, number).map(|address| address.ip().to_string());
        assert_eq!(of(0).as_deref(), Some("127.1.0.1"));
        assert_eq!(of(SESSIONS_PER_ADDRESS).as_deref(), Some("127.1.0.2"));
        assert_eq!(of(4_000_000).as_deref(), Some("127.1.1.30"));
        assert_eq!(
            local_of(SocketAddr::from((Ipv4Addr::new(10, 0, 0, 1), 1883)), 0),
            None
        );
    }
}
