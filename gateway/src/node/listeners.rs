//! What a node listens on: addresses are tried, and sockets for datagrams bound, before any core starts.

use std::io::{Error, ErrorKind};
use std::net::{SocketAddr, TcpListener};

use reactor::datagram::{DatagramOptions, DatagramSocket};
use reactor::steering::bind_group;

use super::StartError;
use crate::config::{Config, Protocol};
use crate::control::status::Listener;

/// Queues of the kernel for all clients of a core, as far as `net.core.rmem_max` and `wmem_max` let them.
const SOCKET_BYTES: u32 = 4 << 20;

/// The sockets of HTTP for operators.
pub(super) struct Operators {
    /// For everything they may ask, if there is to be one.
    pub admin: Option<TcpListener>,
    /// For health and metrics alone, if there is to be one.
    pub monitoring: Option<TcpListener>,
}

impl Operators {
    /// Binds those that the configuration names.
    pub(super) fn bind(config: &Config) -> Result<Self, StartError> {
        let bound = |key, address: Option<SocketAddr>| {
            let bind = |address| {
                bind_alone(address).map_err(|source| StartError::Listen {
                    key,
                    address,
                    source,
                })
            };
            address.map(bind).transpose()
        };
        Ok(Self {
            admin: bound("admin.address", config.admin.address.0)?,
            monitoring: bound(
                "admin.monitoring_address",
                config.admin.monitoring_address.0,
            )?,
        })
    }
}

/// Which of the planned listeners are behind a proxy, by their addresses as they are written: port 0 becomes a port when the first
/// core listens.
pub(super) fn proxied(config: &Config, plan: &[(Listener, Protocol)]) -> Vec<bool> {
    let proxied = &config.listeners.proxy_protocol;
    plan.iter()
        .map(|(listener, _)| proxied.contains(&listener.address))
        .collect()
}

/// The listeners of each core. A socket that another process listens on is found here: later, with SO_REUSEPORT, the two
/// would silently share the port.
pub(super) fn plan_listeners(config: &Config) -> Result<Vec<(Listener, Protocol)>, StartError> {
    let mut plan = Vec::new();
    let streams = Protocol::ALL.into_iter().filter(|it| !it.is_datagrams());
    let all = streams.flat_map(|protocol| {
        let addresses = config.addresses(protocol).iter();
        addresses.map(move |address| (protocol, *address))
    });
    for (protocol, address) in all {
        match bind_alone(address) {
            Ok(_) => {
                let kind = protocol.word();
                plan.push((Listener { kind, address }, protocol));
            }
            Err(error) if is_missing_ipv6(address, &error) => {
                tracing::warn!(%address, "this machine has no IPv6; the address is left out");
            }
            Err(source) => {
                let key = protocol.key();
                return Err(StartError::Listen {
                    key,
                    address,
                    source,
                });
            }
        }
    }
    Ok(plan)
}

/// What QUIC listens on.
pub(super) struct Datagrams {
    pub(super) listeners: Vec<Listener>,
    /// By core: its socket of each listener.
    pub(super) sockets: Vec<Vec<DatagramSocket>>,
}

/// Binds the sockets of all cores: the kernel numbers them in this order, and hands each core what its connection ids name.
pub(super) fn bind_datagrams(config: &Config, cores: u16) -> Result<Datagrams, StartError> {
    let mut datagrams = Datagrams {
        listeners: Vec::new(),
        sockets: (0..cores).map(|_| Vec::new()).collect(),
    };
    let protocol = Protocol::Quic;
    for address in config.addresses(protocol) {
        let rule = crate::quic::steering(cores);
        let options = DatagramOptions {
            receive_buffer_bytes: Some(SOCKET_BYTES),
            send_buffer_bytes: Some(SOCKET_BYTES),
            ..DatagramOptions::server()
        };
        let group = rule.map_err(|error| Error::new(ErrorKind::InvalidInput, error));
        let group = group.and_then(|rule| patiently(|| bind_group(*address, options, rule)));
        match group {
            Ok(group) => {
                datagrams.listeners.push(Listener {
                    kind: protocol.word(),
                    address: group.first().map_or(*address, DatagramSocket::address),
                });
                for (core, socket) in group.into_iter().enumerate() {
                    datagrams.sockets[core].push(socket);
                }
            }
            Err(error) if is_missing_ipv6(*address, &error) => {
                tracing::warn!(%address, "this machine has no IPv6; the address is left out");
            }
            Err(source) => {
                let (key, address) = (protocol.key(), *address);
                return Err(StartError::Listen {
                    key,
                    address,
                    source,
                });
            }
        }
    }
    Ok(datagrams)
}

/// Binds an address that nobody else listens on.
fn bind_alone(address: SocketAddr) -> std::io::Result<TcpListener> {
    patiently(|| TcpListener::bind(address))
}

/// The kernel tears the rings of a killed process down some milliseconds after the process, and what they wait for holds its
/// sockets until then, so a busy address gets a moment.
fn patiently<T>(mut bind: impl FnMut() -> std::io::Result<T>) -> std::io::Result<T> {
    const PATIENCE: std::time::Duration = std::time::Duration::from_secs(2);
    const STEP: std::time::Duration = std::time::Duration::from_millis(20);
    let mut waited = std::time::Duration::ZERO;
    loop {
        match bind() {
            Err(error) if error.kind() == ErrorKind::AddrInUse && waited < PATIENCE => {
                std::thread::park_timeout(STEP);
                waited += STEP;
            }
            outcome => return outcome,
        }
    }
}

/// True when an IPv6 address cannot be had because the machine has no IPv6 at all (a default listener is on `[::1]`).
fn is_missing_ipv6(address: SocketAddr, error: &Error) -> bool {
    address.is_ipv6()
        && address.ip().is_loopback()
        && matches!(
            error.raw_os_error(),
            Some(libc::EADDRNOTAVAIL | libc::EAFNOSUPPORT)
        )
}
