//! What a node listens on: addresses are tried, and sockets for datagrams bound, before any core starts.

use std::io::{Error, ErrorKind};
use std::net::{SocketAddr, TcpListener};

use reactor::datagram::{DatagramOptions, DatagramSocket};
use reactor::steering::bind_group;

use super::StartError;
use super::core_thread::QuicPlan;
use crate::config::{Config, Protocol};
use crate::control::certificates::{CertificateError, Certificates};
use crate::control::status::Listener;

/// Queues of the kernel for all clients of a core, as far as `net.core.rmem_max` and `wmem_max` let them.
const SOCKET_BYTES: u32 = 4 << 20;

/// The socket of the admin interface, if there is to be one.
pub(super) fn bind_admin(config: &Config) -> Result<Option<TcpListener>, StartError> {
    let Some(address) = config.admin.address.0 else {
        return Ok(None);
    };
    let listener = bind_alone(address);
    listener.map(Some).map_err(|source| StartError::Listen {
        key: "admin.address",
        address,
        source,
    })
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

impl Datagrams {
    /// What the cores need to speak QUIC; `None` without a listener.
    pub(super) fn plan(
        &self,
        config: &Config,
        certificates: &Certificates,
    ) -> Result<Option<QuicPlan>, CertificateError> {
        if self.listeners.is_empty() {
            return Ok(None);
        }
        Ok(Some(QuicPlan {
            limits: config.to_quic_limits(),
            keys: certificates.quic_keys()?,
        }))
    }
}

/// Which listeners are behind proxies, by the addresses as they are written: port 0 becomes a port when the first core listens.
pub(super) fn behind_proxies(config: &Config, plan: &[(Listener, Protocol)]) -> Vec<bool> {
    let proxies = &config.listeners.proxy_protocol;
    let is_behind = |(listener, _): &(Listener, Protocol)| proxies.contains(&listener.address);
    plan.iter().map(is_behind).collect()
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
