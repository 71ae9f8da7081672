//! Which core a QUIC datagram belongs to, decided by the kernel: the connection id names the socket.
//!
//! All cores have a socket of the same address, in one reuseport group. One byte of the destination connection id carries the
//! number of the core, in the bits of a mask and modulo the number of sockets:
//!
//! ```text
//! long header  (first byte & 0x80):  flags | version (4) | length of the id | id …     the id begins at byte 6
//! short header:                      flags | id …                                      the id begins at byte 1
//! socket = (id[byte] & mask) % sockets
//! ```
//!
//! An id that a core issues carries its own number ([`Steering::stamp`]). The id of a client's first datagrams is of its own
//! choice, and random: it names some core, the same one for each repetition. What is too short to have the byte goes where the
//! kernel's hash of the addresses says.
//!
//! **How to bind.** The kernel numbers the sockets of a group in the order of their binds, and closing one moves the last into
//! its place. So one thread binds all of them ([`bind_group`]) and hands number *n* to core *n*
//! ([`Driver::adopt_datagrams`](crate::driver::Driver::adopt_datagrams)); and none is closed before all are.
//!
//! A batch ([`Event::Datagrams`](crate::driver::Event::Datagrams)) may hold datagrams of several connections of one peer, and
//! is steered by its first. A core therefore asks [`Steering::socket`] about each whose id it does not know, and hands those
//! of others over.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;

use crate::datagram::{DatagramOptions, DatagramSocket};
use crate::udp;

/// Where the id is in a datagram with a long header: after flags, version and length.
const LONG_ID: u32 = 6;
/// Where it is in a datagram with a short header: after the flags.
const SHORT_ID: u32 = 1;
const LONG_ID_LENGTH: u32 = 5;
const LONG_HEADER: u8 = 0x80;
/// Longest connection id of QUIC version 1 (RFC 9000 §17.2).
const ID_BYTES_MAX: u8 = 20;

/// Why there is no such [`Steering`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SteeringError {
    /// A connection id has at most 20 bytes.
    #[error("byte {0} of a connection id: there are 20 at most, so use 0 to 19")]
    Byte(u8),
    /// The bits must be the lowest ones, so that each number of a core has its own value.
    #[error("mask {0:#04x}: use the lowest bits without a gap, as in 0x0f or 0xff")]
    Mask(u8),
    /// Every socket needs a value of its own under the mask.
    #[error(
        "{sockets} sockets under mask {mask:#04x}: at least one, and at most as many as the mask has values"
    )]
    Sockets {
        /// How many were asked for.
        sockets: u16,
        /// The mask.
        mask: u8,
    },
}

/// The rule by which datagrams find their socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Steering {
    byte: u8,
    mask: u8,
    sockets: u16,
}

impl Steering {
    /// Byte `byte` of the connection id carries the number of one of `sockets` sockets in the bits of `mask`.
    ///
    /// # Errors
    /// When the byte cannot be in an id, the mask is not made of the lowest bits, or has fewer values than there are sockets.
    pub const fn new(byte: u8, mask: u8, sockets: u16) -> Result<Self, SteeringError> {
        if byte >= ID_BYTES_MAX {
            return Err(SteeringError::Byte(byte));
        }
        if mask & mask.wrapping_add(1) != 0 {
            return Err(SteeringError::Mask(mask));
        }
        if sockets == 0 || sockets > mask as u16 + 1 {
            return Err(SteeringError::Sockets { sockets, mask });
        }
        Ok(Self {
            byte,
            mask,
            sockets,
        })
    }

    /// How many sockets the group has.
    #[must_use]
    pub const fn sockets(&self) -> u16 {
        self.sockets
    }

    /// The socket that a datagram belongs to; `None` when it has no such byte.
    #[must_use]
    pub fn socket(&self, datagram: &[u8]) -> Option<u16> {
        let first = *datagram.first()?;
        let (start, length) = if first & LONG_HEADER != 0 {
            let length = *datagram.get(LONG_ID_LENGTH as usize)?;
            (LONG_ID, usize::from(length))
        } else {
            // The length of the id is the receiver's to know: what follows is taken for it.
            (SHORT_ID, datagram.len() - SHORT_ID as usize)
        };
        let id = datagram.get(start as usize..)?;
        self.socket_of_id(id.get(..length.min(id.len()))?)
    }

    /// The socket that a connection id names; `None` when it is too short.
    #[must_use]
    pub fn socket_of_id(&self, id: &[u8]) -> Option<u16> {
        let byte = *id.get(usize::from(self.byte))?;
        Some(u16::from(byte & self.mask) % self.sockets)
    }

    /// Makes a connection id name this socket. The bits outside of the mask stay as they are.
    ///
    /// # Panics
    /// When the id is too short to carry the number, or there is no such socket: both are the caller's own.
    pub fn stamp(&self, id: &mut [u8], socket: u16) {
        assert!(socket < self.sockets, "the group has this socket");
        let byte = &mut id[usize::from(self.byte)];
        *byte = *byte & !self.mask | socket as u8;
    }

    /// The same rule as a classic BPF program. Its answer is an index; one that there is not leaves the choice to the hash.
    fn program(&self) -> Vec<libc::sock_filter> {
        let byte = u32::from(self.byte);
        vec![
            // A load beyond the end would end the program with 0, a socket like any other: lengths are looked at first.
            statement(LOAD_LENGTH, 0),
            jump(JUMP_GREATER_OR_EQUAL, SHORT_ID + byte + 1, 0, 12),
            statement(LOAD_BYTE, 0),
            jump(JUMP_BITS, u32::from(LONG_HEADER), 0, 6),
            statement(LOAD_LENGTH, 0),
            jump(JUMP_GREATER_OR_EQUAL, LONG_ID + byte + 1, 0, 8),
            statement(LOAD_BYTE, LONG_ID_LENGTH),
            jump(JUMP_GREATER, byte, 0, 6),
            statement(LOAD_BYTE, LONG_ID + byte),
            jump(JUMP, 1, 0, 0),
            statement(LOAD_BYTE, SHORT_ID + byte),
            statement(AND, u32::from(self.mask)),
            statement(MODULO, u32::from(self.sockets)),
            statement(RETURN_ACCUMULATOR, 0),
            statement(RETURN, u32::MAX),
        ]
    }
}

const LOAD_LENGTH: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_LEN;
const LOAD_BYTE: u32 = libc::BPF_LD | libc::BPF_B | libc::BPF_ABS;
const JUMP: u32 = libc::BPF_JMP | libc::BPF_JA;
const JUMP_GREATER: u32 = libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K;
const JUMP_GREATER_OR_EQUAL: u32 = libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K;
const JUMP_BITS: u32 = libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K;
const AND: u32 = libc::BPF_ALU | libc::BPF_AND | libc::BPF_K;
const MODULO: u32 = libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K;
const RETURN: u32 = libc::BPF_RET | libc::BPF_K;
const RETURN_ACCUMULATOR: u32 = libc::BPF_RET | libc::BPF_A;

const fn statement(code: u32, operand: u32) -> libc::sock_filter {
    jump(code, operand, 0, 0)
}

const fn jump(code: u32, operand: u32, when_true: u8, when_false: u8) -> libc::sock_filter {
    libc::sock_filter {
        code: code as u16,
        jt: when_true,
        jf: when_false,
        k: operand,
    }
}

/// Binds the sockets of a group, in order: number *n* gets what names *n*. The address is refused when any other socket has
/// it, also one that would share it: a process that restarts beside its predecessor must not mix into its group.
///
/// # Errors
/// EADDRINUSE when somebody has the address; otherwise what socket, bind or an option said.
pub fn bind_group(
    address: SocketAddr,
    options: DatagramOptions,
    steering: Steering,
) -> io::Result<Vec<DatagramSocket>> {
    // Bound alone, and opened to the others afterwards.
    let first = udp::finish(udp::unbound(address, options)?, address, options)?;
    udp::share_port(&first.socket)?;
    let bound = first.address;
    let mut group = vec![first];
    for _ in 1..steering.sockets {
        let socket = udp::unbound(bound, options)?;
        udp::share_port(&socket)?;
        group.push(udp::finish(socket, bound, options)?);
    }
    if group.len() > 1 {
        udp::attach_program(group[0].socket.as_raw_fd(), &steering.program())?;
    }
    Ok(group)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steering(byte: u8, mask: u8, sockets: u16) -> Steering {
        Steering::new(byte, mask, sockets).expect("it is a rule")
    }

    #[test]
    fn rules_that_cannot_hold_are_refused_and_say_why() {
        assert_eq!(Steering::new(20, 0xff, 2), Err(SteeringError::Byte(20)));
        assert_eq!(Steering::new(0, 0x0e, 2), Err(SteeringError::Mask(0x0e)));
        for (mask, sockets) in [(0xff, 0), (0xff, 257), (0x03, 5)] {
            let error = SteeringError::Sockets { sockets, mask };
            assert_eq!(Steering::new(0, mask, sockets), Err(error));
        }
        assert_eq!(steering(19, 0xff, 256).sockets(), 256);
        assert_eq!(steering(0, 0, 1).sockets(), 1);
    }

    #[test]
    fn a_stamped_id_names_its_socket_and_keeps_its_other_bits() {
        let rule = steering(1, 0x0f, 5);
        for socket in 0..5 {
            let mut id = [0xaa, 0xbb, 0xcc];
            rule.stamp(&mut id, socket);
            assert_eq!(rule.socket_of_id(&id), Some(socket));
            assert_eq!((id[0], id[1] & 0xf0, id[2]), (0xaa, 0xb0, 0xcc));
        }
        assert_eq!(rule.socket_of_id(&[9]), None);
        assert_eq!(rule.socket_of_id(&[9, 0xfe]), Some(4), "14 modulo 5");
    }

    #[test]
    fn the_id_is_found_behind_either_header() {
        let rule = steering(2, 0xff, 200);
        let long = [0xc0, 0, 0, 0, 1, 3, 7, 8, 9];
        assert_eq!(rule.socket(&long), Some(9));
        assert_eq!(rule.socket(&long[..8]), None, "cut off");
        assert_eq!(rule.socket(&[0xc0, 0, 0, 0, 1, 2, 7, 8, 9]), None);
        assert_eq!(rule.socket(&[0x40, 7, 8, 9]), Some(9));
        assert_eq!(rule.socket(&[0x40, 7, 8]), None);
        assert_eq!(rule.socket(&[]), None);
    }

    /// Classic BPF as the kernel has it, as far as the program uses it.
    fn run(program: &[libc::sock_filter], datagram: &[u8]) -> u32 {
        let (mut at, mut accumulator) = (0, 0u32);
        loop {
            let step = program[at];
            at += 1;
            let mut branch = |holds: bool| at += usize::from(if holds { step.jt } else { step.jf });
            match u32::from(step.code) {
                LOAD_LENGTH => accumulator = datagram.len() as u32,
                LOAD_BYTE => match datagram.get(step.k as usize) {
                    Some(byte) => accumulator = u32::from(*byte),
                    None => return 0,
                },
                JUMP => at += step.k as usize,
                JUMP_GREATER => branch(accumulator > step.k),
                JUMP_GREATER_OR_EQUAL => branch(accumulator >= step.k),
                JUMP_BITS => branch(accumulator & step.k != 0),
                AND => accumulator &= step.k,
                MODULO => accumulator %= step.k,
                RETURN => return step.k,
                RETURN_ACCUMULATOR => return accumulator,
                code => panic!("{code}"),
            }
        }
    }

    #[test]
    fn the_program_and_the_function_are_one_rule() {
        let mut state = 1u64;
        let mut random = || {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            (state >> 33) as u8
        };
        let mut named = 0;
        for round in 0..20_000u32 {
            let mask = [0x03, 0x0f, 0xff][round as usize % 3];
            let sockets = u16::from(random()) % (u16::from(mask) + 1) + 1;
            let rule = steering(random() % 20, mask, sockets);
            let mut datagram: Vec<u8> = (0..random() % 40).map(|_| random()).collect();
            if let Some(length) = datagram.get_mut(5) {
                *length %= 24;
            }
            let wanted = rule.socket(&datagram);
            let answer = run(&rule.program(), &datagram);
            assert_eq!(
                answer,
                wanted.map_or(u32::MAX, u32::from),
                "{rule:?} {datagram:?}"
            );
            named += u32::from(wanted.is_some());
        }
        assert!((5_000..15_000).contains(&named), "{named} had the byte");
    }
}
