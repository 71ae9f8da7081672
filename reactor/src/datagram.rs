//! What a core says and hears about datagrams: sockets, options, transmits, counters. The system calls are in `udp`.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::udp;

/// A datagram socket of one driver: slot and generation, so that a stale id is recognised after its slot was used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DatagramSocketId {
    /// Index into the driver's table of datagram sockets, dense from 0.
    pub slot: u32,
    /// Counts the uses of the slot.
    pub generation: u32,
}

/// Explicit congestion notification of a datagram (RFC 3168); a datagram without is *Not-ECT*.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Ecn {
    /// ECN-capable, codepoint 01.
    Ect1 = 0b01,
    /// ECN-capable, codepoint 10.
    Ect0 = 0b10,
    /// Congestion was experienced on the way.
    Ce = 0b11,
}

impl Ecn {
    /// From a type-of-service or traffic-class byte; `None` for Not-ECT.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Option<Self> {
        match bits & 0b11 {
            0b01 => Some(Self::Ect1),
            0b10 => Some(Self::Ect0),
            0b11 => Some(Self::Ce),
            _ => None,
        }
    }
}

/// Options of a datagram socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DatagramOptions {
    /// Share the address with other sockets (SO_REUSEPORT). For the sockets of the cores of one node see [`crate::steering`].
    pub reuse_port: bool,
    /// Only from and to this address (connect). Everything is sent there, whatever [`Transmit::to`] says; and that nobody
    /// listens there is counted, which the kernel tells connected sockets alone.
    pub peer: Option<SocketAddr>,
    /// Size of the kernel's receive queue (SO_RCVBUF), as far as `net.core.rmem_max` lets it. `None`: the system's default.
    pub receive_buffer_bytes: Option<u32>,
    /// Size of the kernel's send queue (SO_SNDBUF), as far as `net.core.wmem_max` lets it. `None`: the system's default.
    pub send_buffer_bytes: Option<u32>,
    /// Receive what arrived from one peer in a row as one event (UDP_GRO). A batch has up to 64 KiB.
    pub batches: bool,
    /// Tell the ECN bits of what arrives.
    pub ecn: bool,
    /// Tell to which of the local addresses it came.
    pub local_address: bool,
    /// Memory that unsent transmits may hold. Above it the newest is dropped and counted.
    pub unsent_bytes_max: u32,
}

impl DatagramOptions {
    /// A server's socket: everything that QUIC wants to know.
    #[must_use]
    pub const fn server() -> Self {
        Self {
            reuse_port: false,
            peer: None,
            receive_buffer_bytes: None,
            send_buffer_bytes: None,
            batches: true,
            ecn: true,
            local_address: true,
            unsent_bytes_max: 4 << 20,
        }
    }

    /// A client's socket: one peer, and the local address is known.
    #[must_use]
    pub const fn client(peer: SocketAddr) -> Self {
        Self {
            peer: Some(peer),
            local_address: false,
            unsent_bytes_max: 256 << 10,
            ..Self::server()
        }
    }
}

/// Datagrams to one address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// To whom.
    pub to: SocketAddr,
    /// From which local address; `None` leaves it to the kernel.
    pub from: Option<IpAddr>,
    /// ECN bits.
    pub ecn: Option<Ecn>,
    /// `bytes` is several datagrams of this length, of which the last may be shorter. `None`: one datagram.
    pub segment: Option<u16>,
    /// What to send.
    pub bytes: Vec<u8>,
}

impl Transmit {
    /// How many datagrams it is.
    #[must_use]
    pub fn datagrams(&self) -> usize {
        match self.segment {
            Some(segment) if segment > 0 => self.bytes.len().div_ceil(usize::from(segment)),
            _ => usize::from(!self.bytes.is_empty()),
        }
    }
}

/// Bounds and sizes of what a driver has for datagrams. Nothing of it is allocated before the first socket is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DatagramConfig {
    /// Datagram sockets this driver may hold at once; to make one more is an error.
    pub sockets_max: u32,
    /// Number of receive buffers (a power of two). When all are in use, datagrams wait in their sockets.
    pub receive_buffers: u16,
    /// Bytes that one receive buffer takes. A batch that is longer is dropped and counted: 65,536 for sockets with
    /// [`DatagramOptions::batches`]. Pages that no datagram reaches are never touched.
    pub receive_buffer_bytes: u32,
    /// Sends in flight at once (io_uring). More wait their turn.
    pub sends_max: u16,
}

impl DatagramConfig {
    /// For one socket per core with many peers behind it. At most 17 MB, if batches of 64 KiB fill all of the buffers.
    #[must_use]
    pub const fn server() -> Self {
        Self {
            sockets_max: 16,
            receive_buffers: 256,
            receive_buffer_bytes: 65_536,
            sends_max: 256,
        }
    }

    /// Small tables and buffers, for tests, tools and probes.
    #[must_use]
    pub const fn small() -> Self {
        Self {
            sockets_max: 64,
            receive_buffers: 16,
            receive_buffer_bytes: 65_536,
            sends_max: 16,
        }
    }
}

/// Plain counters of one driver's datagrams. Each datagram of a batch counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DatagramCounters {
    /// Open sockets now.
    pub sockets: u64,
    /// Datagrams received.
    pub received: u64,
    /// Events that they came in.
    pub batches_received: u64,
    /// Bytes received.
    pub bytes_received: u64,
    /// Datagrams accepted by the kernel for sending.
    pub sent: u64,
    /// Bytes accepted by the kernel for sending.
    pub bytes_sent: u64,
    /// Memory held by unsent transmits, over all sockets.
    pub bytes_unsent: u64,
    /// Datagrams dropped because `unsent_bytes_max` was reached.
    pub dropped_full: u64,
    /// Datagrams dropped because their socket was closed first.
    pub dropped_closed: u64,
    /// Datagrams dropped because the kernel had no memory for them.
    pub dropped_shortage: u64,
    /// Datagrams that were too large for the network interface (EMSGSIZE).
    pub too_large: u64,
    /// Times that a peer's address was told to have nobody listening (ECONNREFUSED).
    pub refused: u64,
    /// Datagrams that could not be sent for another reason: no route, a firewall, an address that is not ours.
    pub send_errors: u64,
    /// Receives that failed; after each, the socket rests for a moment.
    pub receive_errors: u64,
    /// Batches dropped because they did not fit into a receive buffer.
    pub truncated: u64,
    /// Receives that found no free buffer and were tried again later.
    pub receive_buffers_exhausted: u64,
    /// Transmits of several datagrams that the kernel did not take as one, and that went out one by one.
    pub segmentation_refused: u64,
}

/// A bound datagram socket that no driver has yet: made by one thread, to be used by another. See [`crate::steering`] for
/// why the sockets of all cores are made by one.
#[derive(Debug)]
pub struct DatagramSocket {
    pub(crate) socket: OwnedFd,
    pub(crate) address: SocketAddr,
    pub(crate) options: DatagramOptions,
}

impl DatagramSocket {
    /// Binds a socket. IPv6 sockets are IPV6_V6ONLY; datagrams are never fragmented.
    ///
    /// # Errors
    /// What socket, bind, connect or an option said.
    pub fn bind(address: SocketAddr, options: DatagramOptions) -> io::Result<Self> {
        udp::bind(address, options)
    }

    /// The bound address (the port that was given for port 0).
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }
}

impl AsFd for DatagramSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn congestion_bits_are_those_of_rfc_3168() {
        let told = [0b00, 0b01, 0b10, 0b11, 0xfe].map(Ecn::from_bits);
        let wanted = [None, Some(Ecn::Ect1), Some(Ecn::Ect0), Some(Ecn::Ce)];
        assert_eq!(told[..4], wanted);
        assert_eq!(
            told[4],
            Some(Ecn::Ect0),
            "the rest of the byte is another's"
        );
    }
}
