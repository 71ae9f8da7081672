//! Views as bytes, for the store and for other nodes; and their hash. Numbers are big-endian.
//!
//! ```text
//! version u8 | epoch u64 | name u8+bytes | next_core u16 | members u16 | member…
//! member: uid u64 | incarnation u64 | joined u64 | first_core u16 | cores u16 | weight u32 | role u8
//!         | gossip address | bus address | reference u8+bytes | protocol min u16 | max u16
//! address: 4 or 6 u8 | 4 or 16 bytes | port u16
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Member, NodeId, ProtocolRange, Role, Version, View, ViewError};
use crate::limits::{MEMBERS_MAX, REFERENCE_BYTES_MAX};

/// Version of the bytes.
const VERSION: u8 = 1;

/// Why bytes are no view.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ViewDecodeError {
    /// They end before the view does.
    #[error("the view is cut short")]
    Truncated,
    /// They go on after the view.
    #[error("{0} bytes after the view")]
    Trailing(usize),
    /// A later version of Roadstead wrote them.
    #[error("version {0} of a view is unknown, {VERSION} is known: upgrade this node")]
    Version(u8),
    /// A name is no text.
    #[error("a text in the view is not UTF-8")]
    Text,
    /// A role that is none.
    #[error("role {0} is unknown")]
    Role(u8),
    /// An address of neither kind.
    #[error("kind of address {0} is unknown")]
    Address(u8),
    /// The content breaks a rule of views.
    #[error("the view breaks a rule: {0}")]
    Rule(#[from] ViewError),
}

impl View {
    /// The view as bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(64 + self.members.len() * 80);
        bytes.push(VERSION);
        bytes.extend(self.epoch.to_be_bytes());
        text(&mut bytes, &self.cluster);
        bytes.extend(self.next_core.to_be_bytes());
        let count = u16::try_from(self.members.len()).expect("a view has at most MEMBERS_MAX");
        bytes.extend(count.to_be_bytes());
        for member in &self.members {
            encode_member(&mut bytes, member);
        }
        bytes
    }

    /// The view in these bytes, all of which it must be.
    ///
    /// # Errors
    /// When they are no view of a known version, or break a rule of views.
    pub fn decode(bytes: &[u8]) -> Result<Self, ViewDecodeError> {
        let mut reader = Reader(bytes);
        let version = reader.u8()?;
        if version != VERSION {
            return Err(ViewDecodeError::Version(version));
        }
        let epoch = reader.u64()?;
        let cluster = reader.text()?;
        let next_core = reader.u16()?;
        let count = usize::from(reader.u16()?);
        if count > MEMBERS_MAX {
            return Err(ViewError::TooManyMembers.into());
        }
        let members = (0..count)
            .map(|_| decode_member(&mut reader))
            .collect::<Result<Vec<_>, _>>()?;
        if !reader.0.is_empty() {
            return Err(ViewDecodeError::Trailing(reader.0.len()));
        }
        let view = Self {
            epoch,
            cluster,
            next_core,
            members,
        };
        view.check()?;
        Ok(view)
    }

    /// A hash of all of the view, its number included: FNV-1a of the bytes. Two views with one number and different hashes
    /// are two opinions about one step.
    pub fn hash(&self) -> u64 {
        self.encode()
            .iter()
            .fold(0xCBF2_9CE4_8422_2325, |hash, &byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
            })
    }

    /// Number and hash.
    pub fn version(&self) -> Version {
        Version {
            epoch: self.epoch,
            hash: self.hash(),
        }
    }
}

fn encode_member(bytes: &mut Vec<u8>, member: &Member) {
    bytes.extend(member.node.uid.to_be_bytes());
    bytes.extend(member.node.incarnation.to_be_bytes());
    bytes.extend(member.joined.to_be_bytes());
    bytes.extend(member.first_core.to_be_bytes());
    bytes.extend(member.cores.to_be_bytes());
    bytes.extend(member.weight.to_be_bytes());
    bytes.push(match member.role {
        Role::Active => 0,
        Role::Leaving => 1,
    });
    address(bytes, member.gossip);
    address(bytes, member.bus);
    text(bytes, &member.reference);
    bytes.extend(member.protocol.min.to_be_bytes());
    bytes.extend(member.protocol.max.to_be_bytes());
}

fn decode_member(reader: &mut Reader<'_>) -> Result<Member, ViewDecodeError> {
    Ok(Member {
        node: NodeId {
            uid: reader.u64()?,
            incarnation: reader.u64()?,
        },
        joined: reader.u64()?,
        first_core: reader.u16()?,
        cores: reader.u16()?,
        weight: reader.u32()?,
        role: match reader.u8()? {
            0 => Role::Active,
            1 => Role::Leaving,
            other => return Err(ViewDecodeError::Role(other)),
        },
        gossip: reader.address()?,
        bus: reader.address()?,
        reference: reader.text()?,
        protocol: ProtocolRange {
            min: reader.u16()?,
            max: reader.u16()?,
        },
    })
}

/// A text of at most 255 bytes, which the rules of views see to.
fn text(bytes: &mut Vec<u8>, text: &str) {
    const { assert!(REFERENCE_BYTES_MAX <= u8::MAX as usize) };
    bytes.push(u8::try_from(text.len()).expect("texts in views are short"));
    bytes.extend(text.as_bytes());
}

fn address(bytes: &mut Vec<u8>, address: SocketAddr) {
    match address.ip() {
        IpAddr::V4(ip) => {
            bytes.push(4);
            bytes.extend(ip.octets());
        }
        IpAddr::V6(ip) => {
            bytes.push(6);
            bytes.extend(ip.octets());
        }
    }
    bytes.extend(address.port().to_be_bytes());
}

/// Bytes that are still to be read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], ViewDecodeError> {
        let (taken, rest) = self
            .0
            .split_at_checked(count)
            .ok_or(ViewDecodeError::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ViewDecodeError> {
        let (taken, rest) = self
            .0
            .split_first_chunk::<N>()
            .ok_or(ViewDecodeError::Truncated)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn u8(&mut self) -> Result<u8, ViewDecodeError> {
        self.array().map(u8::from_be_bytes)
    }

    fn u16(&mut self) -> Result<u16, ViewDecodeError> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, ViewDecodeError> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, ViewDecodeError> {
        self.array().map(u64::from_be_bytes)
    }

    fn text(&mut self) -> Result<Box<str>, ViewDecodeError> {
        let length = usize::from(self.u8()?);
        let text = std::str::from_utf8(self.take(length)?).map_err(|_| ViewDecodeError::Text)?;
        Ok(text.into())
    }

    fn address(&mut self) -> Result<SocketAddr, ViewDecodeError> {
        let ip = match self.u8()? {
            4 => IpAddr::V4(Ipv4Addr::from(self.array::<4>()?)),
            6 => IpAddr::V6(Ipv6Addr::from(self.array::<16>()?)),
            other => return Err(ViewDecodeError::Address(other)),
        };
        Ok(SocketAddr::new(ip, self.u16()?))
    }
}
