//! What is in a gossip datagram: foca's messages in bytes of our own, and two messages beside them. Numbers are big-endian.
//!
//! ```text
//! body: 0 | foca: header | u16 count | member…
//!       1 | asker: peer | swim incarnation u16 | doubted: 0, or 1 and swim incarnation u16
//!       2 | swim incarnation u16 | joining
//! peer: uid u64 | incarnation u64 | address
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bytes::{Buf, BufMut};
use foca::{Header, Member, Message, State};

use crate::limits::REFERENCE_BYTES_MAX;
use crate::view::{Joining, NodeId, ProtocolRange};

/// A node as gossip names it: of two at one address the later incarnation is the living one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Peer {
    pub(super) node: NodeId,
    pub(super) gossip: SocketAddr,
}

impl foca::Identity for Peer {
    type Addr = SocketAddr;

    /// Never: a node takes another incarnation when its coordinator says so, since a member's place hangs on it.
    fn renew(&self) -> Option<Self> {
        None
    }

    fn addr(&self) -> SocketAddr {
        self.gossip
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        (self.node.incarnation, self.node.uid) > (adversary.node.incarnation, adversary.node.uid)
    }
}

/// The bytes are none of ours, or there is no room for more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cut short, out of room, or not of this version")]
pub(super) struct WireError;

pub(super) type Result<T> = std::result::Result<T, WireError>;

pub(super) const FOCA: u8 = 0;
pub(super) const ASK: u8 = 1;
pub(super) const TELL: u8 = 2;

/// "Who is there, and do you live?"
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ask {
    pub(super) asker: Peer,
    pub(super) swim: u16,
    /// The asker believes that whom it asks is dead, in this incarnation of SWIM.
    pub(super) doubted: Option<u16>,
}

/// "It is me, and I live."
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tell {
    pub(super) swim: u16,
    pub(super) joining: Joining,
}

impl Ask {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![ASK];
        put_peer(&mut bytes, &self.asker);
        bytes.put_u16(self.swim);
        match self.doubted {
            None => bytes.put_u8(0),
            Some(swim) => {
                bytes.put_u8(1);
                bytes.put_u16(swim);
            }
        }
        bytes
    }

    pub(super) fn decode(mut bytes: &[u8]) -> Result<Self> {
        let asker = peer(&mut bytes)?;
        let swim = u16(&mut bytes)?;
        let doubted = match u8(&mut bytes)? {
            0 => None,
            1 => Some(u16(&mut bytes)?),
            _ => return Err(WireError),
        };
        end(bytes).map(|()| Self {
            asker,
            swim,
            doubted,
        })
    }
}

impl Tell {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![TELL];
        let joining = &self.joining;
        bytes.put_u16(self.swim);
        put_peer(
            &mut bytes,
            &Peer {
                node: joining.node,
                gossip: joining.gossip,
            },
        );
        bytes.put_u16(joining.cores);
        bytes.put_u32(joining.weight);
        put_address(&mut bytes, joining.bus);
        const { assert!(REFERENCE_BYTES_MAX <= u8::MAX as usize) };
        let reference = joining.reference.as_bytes();
        let length = reference.len().min(REFERENCE_BYTES_MAX);
        bytes.put_u8(length as u8);
        bytes.put_slice(&reference[..length]);
        bytes.put_u16(joining.protocol.min);
        bytes.put_u16(joining.protocol.max);
        bytes
    }

    pub(super) fn decode(mut bytes: &[u8]) -> Result<Self> {
        let swim = u16(&mut bytes)?;
        let Peer { node, gossip } = peer(&mut bytes)?;
        let cores = u16(&mut bytes)?;
        let weight = u32(&mut bytes)?;
        let bus = address(&mut bytes)?;
        let length = usize::from(u8(&mut bytes)?);
        let (reference, rest) = bytes.split_at_checked(length).ok_or(WireError)?;
        bytes = rest;
        let reference = std::str::from_utf8(reference)
            .map_err(|_| WireError)?
            .into();
        let protocol = ProtocolRange {
            min: u16(&mut bytes)?,
            max: u16(&mut bytes)?,
        };
        end(bytes)?;
        let joining = Joining {
            node,
            cores,
            weight,
            gossip,
            bus,
            reference,
            protocol,
        };
        joining.check().map_err(|_| WireError)?;
        Ok(Self { swim, joining })
    }
}

/// A message of foca, read before foca reads it, so that it never sees what cannot be read.
#[derive(Debug)]
pub(super) struct FocaMessage {
    pub(super) header: Header<Peer>,
    /// Where the states of updates stand that call `me` dead.
    pub(super) deaths_of_me: Vec<usize>,
}

impl FocaMessage {
    pub(super) fn read(bytes: &[u8], me: &Peer) -> Result<Self> {
        let mut rest = bytes;
        let header = Wire.read_header(&mut rest)?;
        let mut deaths_of_me = Vec::new();
        if !rest.is_empty() {
            for _ in 0..u16(&mut rest)? {
                let member = Wire.read_member(&mut rest)?;
                if member.id() == me && member.state() == State::Down {
                    deaths_of_me.push(bytes.len() - rest.len() - 1);
                }
            }
        }
        end(rest)?;
        Ok(Self {
            header,
            deaths_of_me,
        })
    }
}

pub(super) const ALIVE: u8 = 0;

/// foca's messages in our bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wire;

impl Wire {
    fn read_header(self, bytes: &mut impl Buf) -> Result<Header<Peer>> {
        Ok(Header {
            src: peer(bytes)?,
            src_incarnation: u16(bytes)?,
            dst: peer(bytes)?,
            message: match u8(bytes)? {
                0 => Message::Ping(u8(bytes)?),
                1 => Message::Ack(u8(bytes)?),
                2 => Message::PingReq {
                    target: peer(bytes)?,
                    probe_number: u8(bytes)?,
                },
                3 => Message::IndirectPing {
                    origin: peer(bytes)?,
                    probe_number: u8(bytes)?,
                },
                4 => Message::IndirectAck {
                    target: peer(bytes)?,
                    probe_number: u8(bytes)?,
                },
                5 => Message::ForwardedAck {
                    origin: peer(bytes)?,
                    probe_number: u8(bytes)?,
                },
                6 => Message::Announce,
                7 => Message::Feed,
                8 => Message::Gossip,
                _ => return Err(WireError),
            },
        })
    }

    fn read_member(self, bytes: &mut impl Buf) -> Result<Member<Peer>> {
        let peer = peer(bytes)?;
        let swim = u16(bytes)?;
        let state = match u8(bytes)? {
            ALIVE => State::Alive,
            1 => State::Suspect,
            2 => State::Down,
            _ => return Err(WireError),
        };
        Ok(Member::new(peer, swim, state))
    }
}

impl foca::Codec<Peer> for Wire {
    type Error = WireError;

    fn encode_header(&mut self, header: &Header<Peer>, mut buf: impl BufMut) -> Result<()> {
        let mut bytes = Vec::with_capacity(96);
        put_peer(&mut bytes, &header.src);
        bytes.put_u16(header.src_incarnation);
        put_peer(&mut bytes, &header.dst);
        let (kind, other, number) = match &header.message {
            Message::Ping(number) => (0, None, Some(number)),
            Message::Ack(number) => (1, None, Some(number)),
            Message::PingReq {
                target,
                probe_number,
            } => (2, Some(target), Some(probe_number)),
            Message::IndirectPing {
                origin,
                probe_number,
            } => (3, Some(origin), Some(probe_number)),
            Message::IndirectAck {
                target,
                probe_number,
            } => (4, Some(target), Some(probe_number)),
            Message::ForwardedAck {
                origin,
                probe_number,
            } => (5, Some(origin), Some(probe_number)),
            Message::Announce => (6, None, None),
            Message::Feed => (7, None, None),
            Message::Gossip => (8, None, None),
            // Neither is ever sent: there are no broadcasts, and nobody is told that it is dead.
            Message::Broadcast | Message::TurnUndead => return Err(WireError),
        };
        bytes.put_u8(kind);
        if let Some(other) = other {
            put_peer(&mut bytes, other);
        }
        bytes.extend(number);
        put_all(&mut buf, &bytes)
    }

    fn decode_header(&mut self, mut buf: impl Buf) -> Result<Header<Peer>> {
        self.read_header(&mut buf)
    }

    fn encode_member(&mut self, member: &Member<Peer>, mut buf: impl BufMut) -> Result<()> {
        let mut bytes = Vec::with_capacity(40);
        put_peer(&mut bytes, member.id());
        bytes.put_u16(member.incarnation());
        bytes.put_u8(match member.state() {
            State::Alive => ALIVE,
            State::Suspect => 1,
            State::Down => 2,
        });
        put_all(&mut buf, &bytes)
    }

    fn decode_member(&mut self, mut buf: impl Buf) -> Result<Member<Peer>> {
        self.read_member(&mut buf)
    }
}

/// SWIM's incarnation of the sender of a message of foca's, which stands behind the sender.
pub(super) fn swim_of_sender(message: &[u8]) -> Option<u16> {
    let mut rest = message;
    peer(&mut rest).ok()?;
    u16(&mut rest).ok()
}

fn put_all(buf: &mut impl BufMut, bytes: &[u8]) -> Result<()> {
    if buf.remaining_mut() < bytes.len() {
        return Err(WireError);
    }
    buf.put_slice(bytes);
    Ok(())
}

fn put_peer(bytes: &mut Vec<u8>, peer: &Peer) {
    bytes.put_u64(peer.node.uid);
    bytes.put_u64(peer.node.incarnation);
    put_address(bytes, peer.gossip);
}

fn put_address(bytes: &mut Vec<u8>, address: SocketAddr) {
    match address.ip() {
        IpAddr::V4(ip) => {
            bytes.put_u8(4);
            bytes.put_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            bytes.put_u8(6);
            bytes.put_slice(&ip.octets());
        }
    }
    bytes.put_u16(address.port());
}

fn peer(bytes: &mut impl Buf) -> Result<Peer> {
    Ok(Peer {
        node: NodeId {
            uid: bytes.try_get_u64().map_err(|_| WireError)?,
            incarnation: bytes.try_get_u64().map_err(|_| WireError)?,
        },
        gossip: address(bytes)?,
    })
}

fn address(bytes: &mut impl Buf) -> Result<SocketAddr> {
    let ip = match u8(bytes)? {
        4 => IpAddr::V4(Ipv4Addr::from_bits(u32(bytes)?)),
        6 => IpAddr::V6(Ipv6Addr::from_bits(
            bytes.try_get_u128().map_err(|_| WireError)?,
        )),
        _ => return Err(WireError),
    };
    Ok(SocketAddr::new(ip, u16(bytes)?))
}

fn u8(bytes: &mut impl Buf) -> Result<u8> {
    bytes.try_get_u8().map_err(|_| WireError)
}

fn u16(bytes: &mut impl Buf) -> Result<u16> {
    bytes.try_get_u16().map_err(|_| WireError)
}

fn u32(bytes: &mut impl Buf) -> Result<u32> {
    bytes.try_get_u32().map_err(|_| WireError)
}

fn end(bytes: &[u8]) -> Result<()> {
    bytes.is_empty().then_some(()).ok_or(WireError)
}
