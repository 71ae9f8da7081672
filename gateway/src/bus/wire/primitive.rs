//! Numbers, texts, lists, addresses. A number takes as many bytes as it needs, seven bits in each, the lowest first; ids and times, which
//! are large anyway, have their size and are big-endian.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::sync::Arc;

use super::error::{Fault, Problem};

/// A type that travels. What `write` writes, `read` reads.
pub(super) trait Wire: Sized {
    /// No value takes fewer bytes: bounds how long a list can be.
    const BYTES_MIN: usize = 1;

    fn write(&self, out: &mut Writer<'_>);

    fn read(input: &mut Reader<'_>) -> Result<Self, Fault>;
}

/// Where a message is written to.
pub(super) struct Writer<'a> {
    #[allow(
        dead_code,
        reason = "for tables with a `since`, which version 1 has not"
    )]
    pub(super) version: u16,
    bytes: &'a mut Vec<u8>,
}

impl<'a> Writer<'a> {
    pub(super) fn new(version: u16, bytes: &'a mut Vec<u8>) -> Self {
        Self { version, bytes }
    }

    #[inline]
    pub(super) fn byte(&mut self, byte: u8) {
        self.bytes.push(byte);
    }

    #[inline]
    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    pub(super) fn reserve(&mut self, bytes: usize) {
        self.bytes.reserve(bytes);
    }

    #[inline]
    pub(super) fn number(&mut self, number: u64) {
        match number {
            0..=0x7F => self.byte(number as u8),
            0x80..=0x3FFF => self.bytes(&[number as u8 | 0x80, (number >> 7) as u8]),
            _ => self.long_number(number),
        }
    }

    fn long_number(&mut self, mut number: u64) {
        while number > 0x7F {
            self.byte(number as u8 | 0x80);
            number >>= 7;
        }
        self.byte(number as u8);
    }

    #[inline]
    pub(super) fn length(&mut self, length: usize) {
        self.number(length as u64);
    }
}

/// What is left to read of a message.
pub(super) struct Reader<'a> {
    #[allow(
        dead_code,
        reason = "for tables with a `since`, which version 1 has not"
    )]
    pub(super) version: u16,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(version: u16, bytes: &'a [u8]) -> Self {
        Self {
            version,
            rest: bytes,
        }
    }

    #[inline]
    pub(super) fn left(&self) -> usize {
        self.rest.len()
    }

    #[inline]
    pub(super) fn byte(&mut self) -> Result<u8, Fault> {
        let [byte] = self.array()?;
        Ok(byte)
    }

    #[inline]
    pub(super) fn bytes(&mut self, count: usize) -> Result<&'a [u8], Fault> {
        let Some((bytes, rest)) = self.rest.split_at_checked(count) else {
            return Err(ends());
        };
        self.rest = rest;
        Ok(bytes)
    }

    #[inline]
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let Some((array, rest)) = self.rest.split_first_chunk() else {
            return Err(ends());
        };
        self.rest = rest;
        Ok(*array)
    }

    #[inline]
    pub(super) fn number(&mut self) -> Result<u64, Fault> {
        match *self.rest {
            [byte @ 0..=0x7F, ref rest @ ..] => {
                self.rest = rest;
                Ok(u64::from(byte))
            }
            [low, high @ 1..=0x7F, ref rest @ ..] => {
                self.rest = rest;
                Ok(u64::from(low & 0x7F) | u64::from(high) << 7)
            }
            _ => self.long_number(),
        }
    }

    fn long_number(&mut self) -> Result<u64, Fault> {
        let mut number = 0;
        for shift in (0..u64::BITS).step_by(7) {
            let byte = self.byte()?;
            let part = u64::from(byte & 0x7F);
            let shifted = part << shift;
            if (byte == 0 && shift > 0) || shifted >> shift != part {
                break; // It has a byte too many, or a bit.
            }
            number |= shifted;
            if byte <= 0x7F {
                return Ok(number);
            }
        }
        Err(not_of(u64::BITS))
    }

    #[inline]
    pub(super) fn length(&mut self) -> Result<usize, Fault> {
        Ok(u32::read(self)? as usize)
    }

    /// How many entries of at least so many bytes follow.
    pub(super) fn count(&mut self, bytes_min: usize) -> Result<usize, Fault> {
        let count = self.length()?;
        let left = self.left();
        if count > left / bytes_min {
            return Err(Problem::Count { count, left }.into());
        }
        Ok(count)
    }

    pub(super) fn text(&mut self) -> Result<&'a str, Fault> {
        let length = self.length()?;
        let bytes = self.bytes(length)?;
        std::str::from_utf8(bytes).map_err(|_| Problem::Utf8.into())
    }
}

#[cold]
fn ends() -> Fault {
    Problem::Ends.into()
}

#[cold]
fn not_of(bits: u32) -> Fault {
    Problem::Number { bits }.into()
}

/// A number of as many bytes as it needs.
macro_rules! whole {
    ($($number:ty),*) => {$(
        impl Wire for $number {
            #[inline]
            fn write(&self, out: &mut Writer<'_>) {
                out.number(u64::from(*self));
            }

            #[inline]
            fn read(input: &mut Reader<'_>) -> Result<Self, Fault> {
                Self::try_from(input.number()?).map_err(|_| not_of(Self::BITS))
            }
        }
    )*};
}

whole!(u16, u32, u64);

impl Wire for u8 {
    #[inline]
    fn write(&self, out: &mut Writer<'_>) {
        out.byte(*self);
    }

    #[inline]
    fn read(input: &mut Reader<'_>) -> Result<Self, Fault> {
        input.byte()
    }
}

impl Wire for bool {
    #[inline]
    fn write(&self, out: &mut Writer<'_>) {
        out.byte(u8::from(*self));
    }

    #[inline]
    fn read(input: &mut Reader<'_>) -> Result<Self, Fault> {
        match input.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            number => Err(unknown("yes or no (1 or 0)", number)),
        }
    }
}

/// Bytes as they are.
pub(super) mod bytes {
    use super::{Fault, Reader, Writer};

    pub(in super::super) fn write(bytes: &[u8], out: &mut Writer<'_>) {
        out.length(bytes.len());
        out.bytes(bytes);
    }

    pub(in super::super) fn read(input: &mut Reader<'_>) -> Result<Vec<u8>, Fault> {
        let length = input.length()?;
        Ok(input.bytes(length)?.to_vec())
    }
}

/// A text in any kind of box.
macro_rules! text {
    ($($text:ty),*) => {$(
        impl Wire for $text {
            fn write(&self, out: &mut Writer<'_>) {
                bytes::write(self.as_bytes(), out);
            }

            fn read(input: &mut Reader<'_>) -> Result<Self, Fault> {
                input.text().map(Self::from)
            }
        }
    )*};
}

text!(String, Box<str>, Arc<str>);

impl<T: Wire> Wire for Option<T> {
    fn write(&self, out: &mut Writer<'_>) {
        out.byte(u8::from(self.is_some()));
        if let Some(value) = self {
            value.write(out);
        }
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, Fault> {
        bool::read(input)?.then(|| T::read(input)).transpose()
    }
}

impl<T: Wire, E: Wire> Wire for Result<T, E> {
    fn write(&self, out: &mut Writer<'_>) {
        out.byte(u8::from(self.is_ok()));
        match self {
            Ok(value) => value.write(out),
            Err(error) => error.write(out),
        }
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, Fault> {
        Ok(match bool::read(input)? {
            true => Ok(T::read(input)?),
            false => Err(E::read(input)?),
        })
    }
}

impl<A: Wire, B: Wire> Wire for (A, B) {
    const BYTES_MIN: usize = A::BYTES_MIN + B::BYTES_MIN;

    fn write(&self, out: &mut Writer<'_>) {
        self.0.write(out);
        self.1.write(out);
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, Fault> {
        Ok((A::read(input)?, B::read(input)?))
    }
}

fn write_list<T: Wire>(list: &[T], out: &mut Writer<'_>) {
    out.length(list.len());
    out.reserve(list.len() * T::BYTES_MIN);
    for entry in list {
        entry.write(out);
    }
}

/// What a list may take before any of its entries is read.
const AT_ONCE_BYTES: usize = 16 << 10;

impl<T: Wire> Wire for Vec<T> {
    fn write(&self, out: &mut Writer<'_>) {
        write_list(self, out);
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, Fault> {
        let count = input.count(T::BYTES_MIN)?;
        // What is only claimed gets as much memory as there are bytes, or a little; the rest must be there first.
        let at_once = input.left().max(AT_ONCE_BYTES) / size_of::<T>();
        let mut list = Self::with_capacity(count.min(at_once));
        for _ in 0..count {
            list.push(T::read(input)?);
        }
        Ok(list)
    }
}

impl<T: Wire> Wire for Arc<[T]> {
    fn write(&self, out: &mut Writer<'_>) {
        write_list(self, out);
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, Fault> {
        Vec::read(input).map(Self::from)
    }
}

/// What is kept elsewhere travels like what is not.
macro_rules! pointer {
    ($($pointer:ident),*) => {$(
        impl<T: Wire> Wire for $pointer<T> {
            const BYTES_MIN: usize = T::BYTES_MIN;

            fn write(&self, out: &mut Writer<'_>) {
                (**self).write(out);
            }

            fn read(input: &mut Reader<'_>) -> Result<Self, Fault> {
                T::read(input).map(Self::new)
            }
        }
    )*};
}

pointer!(Arc, Box);

impl Wire for IpAddr {
    const BYTES_MIN: usize = 5;

    fn write(&self, out: &mut Writer<'_>) {
        match self {
            Self::V4(address) => {
                out.byte(4);
                out.bytes(&address.octets());
            }
            Self::V6(address) => {
                out.byte(6);
                out.bytes(&address.octets());
            }
        }
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, Fault> {
        match input.byte()? {
            4 => Ok(Ipv4Addr::from(input.array::<4>()?).into()),
            6 => Ok(Ipv6Addr::from(input.array::<16>()?).into()),
            number => Err(unknown("version of IP", number)),
        }
    }
}

impl Wire for SocketAddr {
    const BYTES_MIN: usize = IpAddr::BYTES_MIN + 1;

    fn write(&self, out: &mut Writer<'_>) {
        self.ip().write(out);
        self.port().write(out);
        if let Self::V6(address) = self {
            address.flowinfo().write(out);
            address.scope_id().write(out);
        }
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, Fault> {
        let (ip, port) = <(IpAddr, u16)>::read(input)?;
        Ok(match ip {
            IpAddr::V4(ip) => SocketAddrV4::new(ip, port).into(),
            IpAddr::V6(ip) => {
                let (flowinfo, scope_id) = <(u32, u32)>::read(input)?;
                SocketAddrV6::new(ip, port, flowinfo, scope_id).into()
            }
        })
    }
}

/// Nothing has this number.
#[cold]
pub(super) fn unknown(what: &'static str, number: u8) -> Fault {
    Problem::Unknown { what, number }.into()
}
