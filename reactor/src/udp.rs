//! UDP sockets by system call, and the ancillary data that comes and goes with datagrams.
//!
//! Control messages are laid out and read as bytes, since a received one lies wherever the kernel put it.

use std::io;
use std::mem::{size_of, zeroed};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use libc::{c_int, c_void, socklen_t};

use crate::datagram::{DatagramCounters, DatagramOptions, DatagramSocket, Ecn, Transmit};
use crate::socket::{self, RawAddress, checked, set};

/// Room for the control messages of one datagram: three of them, of which the largest is an IPv6 packet information.
pub(crate) const CONTROL_BYTES: usize = 96;
/// Bytes of a control message before its data.
const CONTROL_HEAD: usize = size_of::<usize>() + 2 * size_of::<c_int>();
/// Most datagrams that one send may be cut into (UDP_MAX_SEGMENTS of the kernels before 6.9).
pub(crate) const SEGMENTS_MAX: usize = 64;
/// Longest payload of a datagram over IPv4, and so of a send that is cut into several.
pub(crate) const PAYLOAD_BYTES_MAX: usize = 65_507;

pub(crate) fn bind(address: SocketAddr, options: DatagramOptions) -> io::Result<DatagramSocket> {
    let fd = unbound(address, options)?;
    if options.reuse_port {
        share_port(&fd)?;
    }
    finish(fd, address, options)
}

/// A socket with all options but SO_REUSEPORT, blocking: io_uring must have it so, and epoll says it with each call.
pub(crate) fn unbound(address: SocketAddr, options: DatagramOptions) -> io::Result<OwnedFd> {
    let fd = socket::open(address, libc::SOCK_DGRAM)?;
    let on = c_int::from;
    if address.is_ipv6() {
        set(&fd, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 1)?;
        let probe = libc::IPV6_PMTUDISC_PROBE;
        set(&fd, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, probe)?;
        set(
            &fd,
            libc::IPPROTO_IPV6,
            libc::IPV6_RECVTCLASS,
            on(options.ecn),
        )?;
        let local = on(options.local_address);
        set(&fd, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, local)?;
    } else {
        // QUIC finds the size of datagrams itself, and fragments would belie what it finds.
        let probe = libc::IP_PMTUDISC_PROBE;
        set(&fd, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, probe)?;
        set(&fd, libc::IPPROTO_IP, libc::IP_RECVTOS, on(options.ecn))?;
        let local = on(options.local_address);
        set(&fd, libc::IPPROTO_IP, libc::IP_PKTINFO, local)?;
    }
    if options.batches {
        // Kernels before 5.0 have none; then every datagram is an event.
        let _ = set(&fd, libc::IPPROTO_UDP, libc::UDP_GRO, 1);
    }
    let bytes = |bytes: u32| c_int::try_from(bytes).unwrap_or(c_int::MAX);
    if let Some(count) = options.receive_buffer_bytes {
        set(&fd, libc::SOL_SOCKET, libc::SO_RCVBUF, bytes(count))?;
    }
    if let Some(count) = options.send_buffer_bytes {
        set(&fd, libc::SOL_SOCKET, libc::SO_SNDBUF, bytes(count))?;
    }
    Ok(fd)
}

pub(crate) fn share_port(fd: &OwnedFd) -> io::Result<()> {
    set(fd, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)
}

pub(crate) fn finish(
    fd: OwnedFd,
    address: SocketAddr,
    options: DatagramOptions,
) -> io::Result<DatagramSocket> {
    socket::bind(&fd, address)?;
    if let Some(peer) = options.peer {
        socket::connect(fd.as_raw_fd(), peer)?;
    }
    Ok(DatagramSocket {
        address: socket::bound_address(&fd)?,
        socket: fd,
        options,
    })
}

/// Control messages of one send, at a place that the kernel accepts.
#[derive(Debug)]
#[repr(C, align(8))]
pub(crate) struct Control {
    bytes: [u8; CONTROL_BYTES],
    length: usize,
}

impl Control {
    pub(crate) const fn new() -> Self {
        Self {
            bytes: [0; CONTROL_BYTES],
            length: 0,
        }
    }

    /// What a transmit asks for; `segment` is the length into which the kernel is to cut it.
    pub(crate) fn fill(&mut self, transmit: &Transmit, segment: Option<u16>) {
        *self = Self::new();
        if let Some(ecn) = transmit.ecn {
            let bits = c_int::from(ecn as u8).to_ne_bytes();
            if transmit.to.is_ipv4() {
                self.push(libc::IPPROTO_IP, libc::IP_TOS, &bits);
            } else {
                self.push(libc::IPPROTO_IPV6, libc::IPV6_TCLASS, &bits);
            }
        }
        match transmit.from {
            // in_pktinfo: interface, the address to send from, and one that is only received.
            Some(IpAddr::V4(from)) => {
                let mut information = [0; 12];
                information[4..8].copy_from_slice(&from.octets());
                self.push(libc::IPPROTO_IP, libc::IP_PKTINFO, &information);
            }
            // in6_pktinfo: address, interface.
            Some(IpAddr::V6(from)) => {
                let mut information = [0; 20];
                information[..16].copy_from_slice(&from.octets());
                self.push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &information);
            }
            None => {}
        }
        if let Some(segment) = segment {
            self.push(libc::IPPROTO_UDP, libc::UDP_SEGMENT, &segment.to_ne_bytes());
        }
    }

    fn push(&mut self, level: c_int, kind: c_int, data: &[u8]) {
        let length = CONTROL_HEAD + data.len();
        let place = &mut self.bytes[self.length..][..length.next_multiple_of(size_of::<usize>())];
        let (head, rest) = place.split_at_mut(size_of::<usize>());
        head.copy_from_slice(&length.to_ne_bytes());
        rest[..4].copy_from_slice(&level.to_ne_bytes());
        rest[4..8].copy_from_slice(&kind.to_ne_bytes());
        rest[8..8 + data.len()].copy_from_slice(data);
        self.length += place.len();
    }

    /// What is laid out.
    #[cfg(test)]
    fn laid_out(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// What the kernel told with a batch of datagrams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ancillary {
    /// Length of each datagram but the last; `None` for a single one.
    pub(crate) stride: Option<usize>,
    pub(crate) ecn: Option<Ecn>,
    pub(crate) local: Option<IpAddr>,
}

impl Ancillary {
    /// Reads control messages; what is not known, or cut off, is passed over.
    pub(crate) fn of(mut control: &[u8]) -> Self {
        let mut told = Self::default();
        while let Some((head, _)) = control.split_at_checked(CONTROL_HEAD) {
            let (length, kind) = head.split_at(size_of::<usize>());
            let length = usize::from_ne_bytes(length.try_into().unwrap_or_default());
            let Some(data) = control.get(CONTROL_HEAD..length) else {
                break;
            };
            told.note(integer(kind, 0), integer(kind, 4), data);
            let next = length.next_multiple_of(size_of::<usize>());
            control = control.get(next..).unwrap_or_default();
        }
        told
    }

    /// The length of each datagram of a batch, which is counted.
    pub(crate) fn count(&self, batch_bytes: usize, counters: &mut DatagramCounters) -> usize {
        let stride = self
            .stride
            .unwrap_or(batch_bytes)
            .clamp(1, batch_bytes.max(1));
        counters.batches_received += 1;
        counters.received += batch_bytes.div_ceil(stride) as u64;
        counters.bytes_received += batch_bytes as u64;
        stride
    }

    fn note(&mut self, level: c_int, kind: c_int, data: &[u8]) {
        match (level, kind) {
            (libc::IPPROTO_UDP, libc::UDP_GRO) => {
                self.stride = usize::try_from(integer(data, 0)).ok().filter(|n| *n > 0);
            }
            (libc::IPPROTO_IP, libc::IP_TOS) => {
                self.ecn = data.first().copied().and_then(Ecn::from_bits);
            }
            (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                self.ecn = Ecn::from_bits(integer(data, 0) as u8);
            }
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                let octets: Option<[u8; 4]> = data.get(8..12).and_then(|ip| ip.try_into().ok());
                self.local = octets.map(|octets| Ipv4Addr::from(octets).into());
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                let octets: Option<[u8; 16]> = data.get(..16).and_then(|ip| ip.try_into().ok());
                self.local = octets.map(|octets| Ipv6Addr::from(octets).into());
            }
            _ => {}
        }
    }
}

/// A native integer of four bytes; 0 when there are fewer.
fn integer(bytes: &[u8], at: usize) -> c_int {
    let four = bytes.get(at..at + 4).and_then(|four| four.try_into().ok());
    c_int::from_ne_bytes(four.unwrap_or_default())
}

/// Reads a `sockaddr` that lies anywhere.
pub(crate) fn address_of(name: &[u8]) -> Option<SocketAddr> {
    let family = u16::from_ne_bytes(name.get(..2)?.try_into().ok()?);
    let port = u16::from_be_bytes(name.get(2..4)?.try_into().ok()?);
    match c_int::from(family) {
        libc::AF_INET => {
            let octets: [u8; 4] = name.get(4..8)?.try_into().ok()?;
            Some(SocketAddrV4::new(octets.into(), port).into())
        }
        libc::AF_INET6 => {
            let octets: [u8; 16] = name.get(8..24)?.try_into().ok()?;
            let flow = integer(name, 4) as u32;
            let scope = integer(name, 24) as u32;
            Some(SocketAddrV6::new(octets.into(), port, flow, scope).into())
        }
        _ => None,
    }
}

/// A batch that arrived by [`receive`].
#[derive(Debug)]
pub(crate) struct Arrived {
    pub(crate) length: usize,
    pub(crate) remote: SocketAddr,
    pub(crate) ancillary: Ancillary,
    /// It did not fit: either into the buffer or, which cannot be, into the room for control messages.
    pub(crate) truncated: bool,
}

/// Receives a batch without waiting.
pub(crate) fn receive(fd: RawFd, buffer: &mut [u8]) -> io::Result<Arrived> {
    let mut address = RawAddress::empty();
    let mut control = Control::new();
    let mut part = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    // SAFETY: msghdr is plain integers and pointers, for which all zeroes is a value.
    let mut message: libc::msghdr = unsafe { zeroed() };
    message.msg_name = (&raw mut address.storage).cast();
    message.msg_namelen = address.length;
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut control.bytes).cast();
    message.msg_controllen = CONTROL_BYTES;
    // SAFETY: everything that `message` points to is valid for writes of the lengths in it, and outlives the call.
    let count = unsafe { libc::recvmsg(fd, &raw mut message, libc::MSG_DONTWAIT) };
    let length = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
    let told = control.bytes.get(..message.msg_controllen);
    Ok(Arrived {
        length,
        remote: address
            .address()
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?,
        ancillary: Ancillary::of(told.unwrap_or_default()),
        truncated: message.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0,
    })
}

/// Sends without waiting. `to` is `None` for a connected socket.
pub(crate) fn send(
    fd: RawFd,
    to: Option<SocketAddr>,
    bytes: &[u8],
    control: &Control,
) -> io::Result<()> {
    let address = to.map(RawAddress::from);
    let mut part = libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    };
    // SAFETY: msghdr is plain integers and pointers, for which all zeroes is a value.
    let mut message: libc::msghdr = unsafe { zeroed() };
    if let Some(address) = &address {
        message.msg_name = address.as_ptr().cast_mut().cast();
        message.msg_namelen = address.length;
    }
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    point_to_control(&mut message, control);
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: everything that `message` points to outlives the call, which only reads it.
    let count = unsafe { libc::sendmsg(fd, &raw const message, flags) };
    if count < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Lets a message have these control messages, or none.
pub(crate) fn point_to_control(message: &mut libc::msghdr, control: &Control) {
    if control.length > 0 {
        message.msg_control = (&raw const control.bytes).cast_mut().cast::<c_void>();
        message.msg_controllen = control.length;
    } else {
        message.msg_control = std::ptr::null_mut();
        message.msg_controllen = 0;
    }
}

/// Sets a classic BPF program that chooses among the sockets of a reuseport group.
pub(crate) fn attach_program(fd: RawFd, program: &[libc::sock_filter]) -> io::Result<()> {
    let program = libc::sock_fprog {
        len: program.len() as libc::c_ushort,
        filter: program.as_ptr().cast_mut(),
    };
    let length = size_of::<libc::sock_fprog>() as socklen_t;
    let value: *const c_void = (&raw const program).cast();
    // SAFETY: `value` is a sock_fprog of `length` bytes, and the program it points to outlives the call, which copies it.
    checked(unsafe {
        libc::setsockopt(
            fd,
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            value,
            length,
        )
    })
    .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transmit(to: &str, from: &str) -> Transmit {
        Transmit {
            to: to.parse().expect("an address"),
            from: Some(from.parse().expect("an address")),
            ecn: Some(Ecn::Ce),
            segment: Some(1200),
            bytes: vec![0; 5000],
        }
    }

    #[test]
    fn control_messages_are_laid_out_as_the_kernel_has_them() {
        let mut control = Control::new();
        control.fill(&transmit("127.0.0.1:1", "127.0.0.2"), Some(1200));
        // cmsghdr {length, level, type}, data, padding.
        let head = &control.bytes[..CONTROL_HEAD + 4];
        assert_eq!(integer(head, 0), CONTROL_HEAD as c_int + 4);
        assert_eq!(integer(head, size_of::<usize>()), libc::IPPROTO_IP);
        assert_eq!(integer(head, CONTROL_HEAD), 3);
        control.fill(&transmit("[::1]:1", "::1"), Some(1200));
        assert_eq!(
            Ancillary::of(control.laid_out()),
            Ancillary {
                stride: None,
                ecn: Some(Ecn::Ce),
                local: Some(Ipv6Addr::LOCALHOST.into()),
            }
        );
    }

    #[test]
    fn control_messages_that_lie_about_their_length_are_passed_over() {
        for length in [0, 1, CONTROL_HEAD - 1, CONTROL_HEAD + 100, usize::MAX] {
            let mut control = Control::new();
            control.fill(&transmit("127.0.0.1:1", "127.0.0.2"), None);
            control.bytes[..size_of::<usize>()].copy_from_slice(&length.to_ne_bytes());
            assert_eq!(Ancillary::of(&control.bytes), Ancillary::default());
        }
        for cut in 0..CONTROL_BYTES {
            let mut control = Control::new();
            control.fill(&transmit("[::1]:1", "::1"), Some(9));
            Ancillary::of(&control.bytes[..cut]);
        }
    }

    #[test]
    fn names_of_peers_are_read_wherever_they_lie() {
        for text in ["127.0.0.1:80", "[::1]:1883", "[fe80::1%3]:443"] {
            let address: SocketAddr = text.parse().expect("an address");
            let raw = RawAddress::from(address);
            let mut bytes = vec![0xff];
            // SAFETY: `raw` holds at least so many initialised bytes.
            bytes.extend_from_slice(unsafe {
                std::slice::from_raw_parts(raw.as_ptr().cast(), raw.length as usize)
            });
            assert_eq!(address_of(&bytes[1..]), Some(address));
            assert_eq!(address_of(&bytes[1..6]), None);
        }
    }
}
