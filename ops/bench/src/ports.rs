//! Free ports of loopback addresses.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};

use anyhow::{Context as _, Result};

/// Listeners are below the ports of outgoing connections, which could take them.
const PORTS: std::ops::Range<u16> = 7_100..9_900;

/// So many addresses on which nobody listens, neither over TCP nor over UDP.
///
/// # Errors
/// When there are not so many.
pub(crate) fn free<const COUNT: usize>(address: Ipv4Addr) -> Result<[SocketAddr; COUNT]> {
    let at = |port: u16| SocketAddr::from((address, port));
    let is_free = |at: &SocketAddr| TcpListener::bind(at).is_ok() && UdpSocket::bind(at).is_ok();
    // Where to begin differs from run to run, so that runs at the same time do not race for one port.
    let first = PORTS.start + (std::process::id() % u32::from(PORTS.end - PORTS.start)) as u16;
    let ports = (first..PORTS.end).chain(PORTS.start..first);
    let found: Vec<SocketAddr> = ports.map(at).filter(is_free).take(COUNT).collect();
    found
        .try_into()
        .ok()
        .with_context(|| format!("no {COUNT} free ports from 7,100 to 9,900 on {address}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_is_not_free() {
        let [one] = free(Ipv4Addr::LOCALHOST).expect("there is a free port");
        let _in_use = UdpSocket::bind(one).expect("it is free");
        let others: [SocketAddr; 2] = free(Ipv4Addr::LOCALHOST).expect("there are more");
        assert!(!others.contains(&one));
        assert_ne!(others[0], others[1]);
    }
}
