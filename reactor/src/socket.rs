//! Sockets by system call, TCP above all (UDP goes on in `udp`): what `std::net` has no option for, or does with one call too many.

use std::io::{self, IoSlice};
use std::mem::{size_of, zeroed};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use libc::{c_int, c_void, socklen_t};

use crate::driver::{AcceptBacklog, Keepalive, ListenOptions};

/// A socket address as the kernel has it.
#[derive(Clone, Copy)]
pub(crate) struct RawAddress {
    pub(crate) storage: libc::sockaddr_storage,
    pub(crate) length: socklen_t,
}

impl RawAddress {
    pub(crate) fn empty() -> Self {
        // SAFETY: sockaddr_storage is plain integers, for which all zeroes is a value.
        let storage = unsafe { zeroed() };
        Self {
            storage,
            length: size_of::<libc::sockaddr_storage>() as socklen_t,
        }
    }

    pub(crate) fn as_ptr(&self) -> *const libc::sockaddr {
        (&raw const self.storage).cast()
    }

    pub(crate) fn address(&self) -> Option<SocketAddr> {
        match c_int::from(self.storage.ss_family) {
            libc::AF_INET => {
                // SAFETY: the family says sockaddr_in, which sockaddr_storage is large and aligned enough for.
                let v4 = unsafe { *(&raw const self.storage).cast::<libc::sockaddr_in>() };
                let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
                Some(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into())
            }
            libc::AF_INET6 => {
                // SAFETY: the family says sockaddr_in6, which sockaddr_storage is large and aligned enough for.
                let v6 = unsafe { *(&raw const self.storage).cast::<libc::sockaddr_in6>() };
                let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
                Some(
                    SocketAddrV6::new(
                        ip,
                        u16::from_be(v6.sin6_port),
                        v6.sin6_flowinfo,
                        v6.sin6_scope_id,
                    )
                    .into(),
                )
            }
            _ => None,
        }
    }
}

impl From<SocketAddr> for RawAddress {
    fn from(address: SocketAddr) -> Self {
        let mut raw = Self::empty();
        match address {
            SocketAddr::V4(v4) => {
                let place = (&raw mut raw.storage).cast::<libc::sockaddr_in>();
                // SAFETY: sockaddr_storage is large and aligned enough for sockaddr_in, and `raw` is ours.
                let place = unsafe { &mut *place };
                place.sin_family = libc::AF_INET as libc::sa_family_t;
                place.sin_port = v4.port().to_be();
                place.sin_addr.s_addr = u32::from(*v4.ip()).to_be();
                raw.length = size_of::<libc::sockaddr_in>() as socklen_t;
            }
            SocketAddr::V6(v6) => {
                let place = (&raw mut raw.storage).cast::<libc::sockaddr_in6>();
                // SAFETY: sockaddr_storage is large and aligned enough for sockaddr_in6, and `raw` is ours.
                let place = unsafe { &mut *place };
                place.sin6_family = libc::AF_INET6 as libc::sa_family_t;
                place.sin6_port = v6.port().to_be();
                place.sin6_addr.s6_addr = v6.ip().octets();
                place.sin6_flowinfo = v6.flowinfo();
                place.sin6_scope_id = v6.scope_id();
                raw.length = size_of::<libc::sockaddr_in6>() as socklen_t;
            }
        }
        raw
    }
}

impl std::fmt::Debug for RawAddress {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.address().fmt(formatter)
    }
}

pub(crate) fn checked(result: c_int) -> io::Result<c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

fn stream(address: SocketAddr, flags: c_int) -> io::Result<OwnedFd> {
    open(address, libc::SOCK_STREAM | flags)
}

/// A socket of this type, of the address's family.
pub(crate) fn open(address: SocketAddr, kind: c_int) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    };
    // SAFETY: socket takes integers and no memory.
    let fd = checked(unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

pub(crate) fn set(fd: &OwnedFd, level: c_int, name: c_int, value: c_int) -> io::Result<()> {
    let length = size_of::<c_int>() as socklen_t;
    let value: *const c_void = (&raw const value).cast();
    // SAFETY: `value` points to a c_int of `length` bytes that lives until the end of this function.
    checked(unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, value, length) }).map(drop)
}

fn set_common(fd: &OwnedFd, keepalive: Option<Keepalive>) -> io::Result<()> {
    set(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)?;
    let Some(keepalive) = keepalive else {
        return Ok(());
    };
    for (name, value) in [
        (libc::TCP_KEEPIDLE, c_int::from(keepalive.idle_s)),
        (libc::TCP_KEEPINTVL, c_int::from(keepalive.interval_s)),
        (libc::TCP_KEEPCNT, c_int::from(keepalive.probes)),
    ] {
        set(fd, libc::IPPROTO_TCP, name, value)?;
    }
    set(fd, libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1)
}

pub(crate) fn bind(fd: &OwnedFd, address: SocketAddr) -> io::Result<()> {
    let raw = RawAddress::from(address);
    // SAFETY: `raw` is a socket address of `raw.length` bytes and outlives the call.
    checked(unsafe { libc::bind(fd.as_raw_fd(), raw.as_ptr(), raw.length) }).map(drop)
}

/// A listening socket. What it accepts inherits TCP_NODELAY and the keep-alive. Non-blocking for epoll; io_uring must have
/// it blocking, or accept would not wait.
pub(crate) fn listen(
    address: SocketAddr,
    options: ListenOptions,
    nonblocking: bool,
) -> io::Result<(OwnedFd, SocketAddr)> {
    let fd = stream(address, if nonblocking { libc::SOCK_NONBLOCK } else { 0 })?;
    set(&fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    if options.reuse_port {
        set(&fd, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
    }
    if address.is_ipv6() {
        set(&fd, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 1)?;
    }
    set_common(&fd, options.keepalive)?;
    bind(&fd, address)?;
    start_listening(&fd, options.backlog)?;
    let bound = bound_address(&fd)?;
    Ok((fd, bound))
}

pub(crate) fn bound_address(fd: &OwnedFd) -> io::Result<SocketAddr> {
    let mut raw = RawAddress::empty();
    // SAFETY: `raw.storage` has room for `raw.length` bytes, and both outlive the call.
    checked(unsafe {
        libc::getsockname(
            fd.as_raw_fd(),
            (&raw mut raw.storage).cast(),
            &raw mut raw.length,
        )
    })?;
    raw.address()
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

/// A socket that is ready to connect. A local address with port 0 takes its port at connect, so that one local address can
/// serve 28,000 connections to each remote address.
pub(crate) fn to_connect(
    remote: SocketAddr,
    local: Option<SocketAddr>,
    nonblocking: bool,
) -> io::Result<OwnedFd> {
    let fd = stream(remote, if nonblocking { libc::SOCK_NONBLOCK } else { 0 })?;
    set_common(&fd, Some(Keepalive::USUAL))?;
    if let Some(local) = local {
        set(&fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
        if local.port() == 0 {
            set(&fd, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)?;
        }
        bind(&fd, local)?;
    }
    Ok(fd)
}

pub(crate) fn connect(fd: RawFd, remote: SocketAddr) -> io::Result<()> {
    let raw = RawAddress::from(remote);
    // SAFETY: `raw` is a socket address of `raw.length` bytes and outlives the call.
    checked(unsafe { libc::connect(fd, raw.as_ptr(), raw.length) }).map(drop)
}

pub(crate) fn accept(listener: RawFd) -> io::Result<(OwnedFd, SocketAddr)> {
    let mut raw = RawAddress::empty();
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: `raw.storage` has room for `raw.length` bytes, and both outlive the call.
    let fd = unsafe {
        libc::accept4(
            listener,
            (&raw mut raw.storage).cast(),
            &raw mut raw.length,
            flags,
        )
    };
    let fd = checked(fd)?;
    // SAFETY: the kernel has just made this descriptor for us.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let peer = raw
        .address()
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
    Ok((fd, peer))
}

fn start_listening(fd: &OwnedFd, backlog: u32) -> io::Result<()> {
    let backlog = c_int::try_from(backlog).unwrap_or(c_int::MAX);
    // SAFETY: listen takes integers and no memory.
    checked(unsafe { libc::listen(fd.as_raw_fd(), backlog) }).map(|_| ())
}

/// Changes how many connections may wait at listening sockets. For a socket that listens, listen(2) does that and nothing else.
pub(crate) fn wait_at_most<'a>(listeners: impl Iterator<Item = &'a OwnedFd>, connections: u32) {
    for listener in listeners {
        // It cannot fail for a socket that listens; if it does, the bound stays as it was.
        let _ = start_listening(listener, connections);
    }
}

/// How many connections wait at listening sockets. A socket that cannot be asked has none.
pub(crate) fn accept_backlog<'a>(listeners: impl Iterator<Item = &'a OwnedFd>) -> AcceptBacklog {
    let mut all = AcceptBacklog::default();
    for listener in listeners {
        // SAFETY: tcp_info is plain integers, for which all zeroes is a value.
        let mut info: libc::tcp_info = unsafe { zeroed() };
        let mut length = size_of::<libc::tcp_info>() as socklen_t;
        let place: *mut c_void = (&raw mut info).cast();
        // SAFETY: `place` has room for the `length` bytes of a tcp_info, and both outlive the call.
        let asked = unsafe {
            libc::getsockopt(
                listener.as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_INFO,
                place,
                &raw mut length,
            )
        };
        // Of a listening socket these two fields are the length of its queue and its bound.
        let (waiting, bound) = (info.tcpi_unacked, info.tcpi_sacked);
        if checked(asked).is_ok() && bound > 0 {
            let permille = u64::from(waiting) * 1_000 / u64::from(bound);
            all.waiting += waiting;
            all.fullest_permille = all.fullest_permille.max(permille.min(1_000) as u32);
        }
    }
    all
}

/// The error that waits at a socket (SO_ERROR), which is cleared by asking.
pub(crate) fn pending_error(fd: RawFd) -> Option<io::Error> {
    let mut value: c_int = 0;
    let mut length = size_of::<c_int>() as socklen_t;
    let place: *mut c_void = (&raw mut value).cast();
    // SAFETY: `place` has room for the `length` bytes of a c_int, and both outlive the call.
    let result =
        unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_ERROR, place, &raw mut length) };
    match (checked(result), value) {
        (Err(error), _) => Some(error),
        (Ok(_), 0) => None,
        (Ok(_), code) => Some(io::Error::from_raw_os_error(code)),
    }
}

pub(crate) fn receive(fd: RawFd, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: `buffer` is valid for writes of its length during the call.
    let count = unsafe {
        libc::recv(
            fd,
            buffer.as_mut_ptr().cast(),
            buffer.len(),
            libc::MSG_DONTWAIT,
        )
    };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

pub(crate) fn send(fd: RawFd, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    // SAFETY: msghdr is plain integers and pointers, for which all zeroes is a value.
    let mut message: libc::msghdr = unsafe { zeroed() };
    message.msg_iov = slices.as_ptr().cast_mut().cast();
    message.msg_iovlen = slices.len();
    // SAFETY: IoSlice is guaranteed to be an iovec; slices and their bytes outlive the call, which only reads them.
    let count = unsafe {
        libc::sendmsg(
            fd,
            &raw const message,
            libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT,
        )
    };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

pub(crate) fn shutdown_write(fd: RawFd) {
    // SAFETY: shutdown takes integers and no memory. An error means that the peer is gone, which receive tells too.
    unsafe { libc::shutdown(fd, libc::SHUT_WR) };
}

/// Ends a listening socket for everybody who waits in accept.
pub(crate) fn shutdown_both(fd: RawFd) {
    // SAFETY: shutdown takes integers and no memory. An error means that the socket does not listen any more.
    unsafe { libc::shutdown(fd, libc::SHUT_RDWR) };
}

/// accept(2) hands errors of the connection it would have returned to the caller; the next one may be well.
pub(crate) fn is_of_one_connection(error: i32) -> bool {
    [
        libc::ECONNABORTED,
        libc::EINTR,
        libc::EPROTO,
        libc::ENETDOWN,
        libc::EHOSTUNREACH,
        libc::ENETUNREACH,
        libc::EPERM,
    ]
    .contains(&error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_way_to_the_kernel_and_back() {
        for text in [
            "127.0.0.1:80",
            "[::1]:1883",
            "[fe80::1%3]:443",
            "255.1.2.3:65535",
        ] {
            let address: SocketAddr = text.parse().expect("a socket address");
            assert_eq!(RawAddress::from(address).address(), Some(address));
        }
    }
}
