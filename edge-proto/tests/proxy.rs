//! PROXY headers: what proxies send, cut at every byte, and what nobody may send.

use edge_proto::proxy::{HEADER_LENGTH_MAX, Header, Origin, ProxyError, parse};
use proptest::prelude::*;

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// A header of version 2.
fn binary(version_command: u8, family_transport: u8, body: &[u8]) -> Vec<u8> {
    let mut header = SIGNATURE.to_vec();
    header.extend([version_command, family_transport]);
    header.extend((body.len() as u16).to_be_bytes());
    header.extend(body);
    header
}

fn extension(kind: u8, value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend((value.len() as u16).to_be_bytes());
    bytes.extend(value);
    bytes
}

fn v4_block() -> Vec<u8> {
    let mut body = vec![192, 0, 2, 7, 198, 51, 100, 1];
    body.extend(50_000_u16.to_be_bytes());
    body.extend(1_883_u16.to_be_bytes());
    body
}

fn v6_block() -> Vec<u8> {
    let mut body = Vec::new();
    body.extend(
        "2001:db8::7"
            .parse::<std::net::Ipv6Addr>()
            .expect("one")
            .octets(),
    );
    body.extend(
        "2001:db8::1"
            .parse::<std::net::Ipv6Addr>()
            .expect("one")
            .octets(),
    );
    body.extend(50_000_u16.to_be_bytes());
    body.extend(8_883_u16.to_be_bytes());
    body
}

fn client(source: &str, destination: &str) -> Origin {
    Origin::Client {
        source: source.parse().expect("an address"),
        destination: destination.parse().expect("an address"),
    }
}

/// A slow second opinion on CRC-32C.
fn crc32c(bytes: &[u8]) -> u32 {
    let table: Vec<u32> = (0..256_u32)
        .map(|index| {
            (0..8).fold(index, |sum, _| {
                if sum & 1 == 1 {
                    (sum >> 1) ^ 0x82F6_3B78
                } else {
                    sum >> 1
                }
            })
        })
        .collect();
    !bytes.iter().fold(u32::MAX, |sum, byte| {
        (sum >> 8) ^ table[((sum ^ u32::from(*byte)) & 0xFF) as usize]
    })
}

/// A header with a checksum between two other extensions.
fn checked() -> Vec<u8> {
    let mut body = v4_block();
    body.extend(extension(0x01, b"mqtt"));
    let place = 16 + body.len() + 3;
    body.extend(extension(0x03, &[0; 4]));
    body.extend(extension(0x20, &[1, 0, 0, 0, 0])); // SSL, which is not ours to read.
    let mut header = binary(0x21, 0x11, &body);
    let sum = crc32c(&header);
    header[place..place + 4].copy_from_slice(&sum.to_be_bytes());
    header
}

/// Headers that proxies send, and what they mean.
fn good() -> Vec<(Vec<u8>, Origin)> {
    let mut with_extensions = v4_block();
    with_extensions.extend(extension(0xEA, &[1; 23])); // AWS: the endpoint of a VPC.
    with_extensions.extend(extension(0x04, &[0; 60])); // Padding.
    let from_v4 = client("192.0.2.7:50000", "198.51.100.1:1883");
    vec![
        (binary(0x21, 0x11, &v4_block()), from_v4),
        (binary(0x21, 0x11, &with_extensions), from_v4),
        (checked(), from_v4),
        (
            binary(0x21, 0x21, &v6_block()),
            client("[2001:db8::7]:50000", "[2001:db8::1]:8883"),
        ),
        (binary(0x20, 0x00, &[]), Origin::Proxy),
        (binary(0x20, 0x11, &v4_block()), Origin::Proxy),
        (binary(0x20, 0xFF, &[7; 9]), Origin::Proxy),
        (binary(0x21, 0x00, &[1, 2, 3]), Origin::Proxy),
        (binary(0x21, 0x31, &[b'/'; 216]), Origin::Proxy),
        (
            b"PROXY TCP4 192.0.2.7 198.51.100.1 50000 1883\r\n".to_vec(),
            from_v4,
        ),
        (
            b"PROXY TCP6 2001:db8::7 2001:db8::1 50000 8883\r\n".to_vec(),
            client("[2001:db8::7]:50000", "[2001:db8::1]:8883"),
        ),
        (b"PROXY UNKNOWN\r\n".to_vec(), Origin::Proxy),
        (
            b"PROXY UNKNOWN whatever it says\r\n".to_vec(),
            Origin::Proxy,
        ),
    ]
}

#[test]
fn headers_are_read_wherever_they_are_cut_and_what_follows_is_left_alone() {
    for (header, origin) in good() {
        for cut in 0..header.len() {
            assert_eq!(parse(&header[..cut]), Ok(None), "{header:?} cut at {cut}");
        }
        let length = header.len();
        assert_eq!(
            parse(&header),
            Ok(Some(Header { origin, length })),
            "{header:?}"
        );
        let mut more = header.clone();
        more.extend(b"\x10\x0e\x00\x04MQTT");
        assert_eq!(
            parse(&more),
            Ok(Some(Header { origin, length })),
            "{header:?}"
        );
    }
}

#[test]
fn a_damaged_header_is_found_by_its_checksum() {
    let header = checked();
    // Everything but what says how long it is and which kind.
    for at in (16..28).chain(31..35) {
        let mut damaged = header.clone();
        damaged[at] ^= 0x10;
        assert_eq!(parse(&damaged), Err(ProxyError::Checksum), "byte {at}");
    }
}

#[test]
fn what_is_no_header_is_refused_at_the_first_byte_that_says_so() {
    for first in [
        &b"\x10"[..],
        b"\x16\x03\x01",
        b"GET /mqtt",
        b"PROXI",
        b"\r\n\r\n\r",
        b"proxy ",
    ] {
        assert_eq!(parse(first), Err(ProxyError::Missing), "{first:?}");
    }
}

#[test]
fn malformed_headers_are_refused() {
    let mut short_value = v4_block();
    short_value.extend([0x01, 0, 9, b'm']);
    let mut half_extension = v4_block();
    half_extension.extend([0x01, 0]);
    let mut short_checksum = v4_block();
    short_checksum.extend(extension(0x03, &[0; 3]));
    let bad = [
        binary(0x11, 0x11, &v4_block()),
        binary(0x22, 0x11, &v4_block()),
        binary(0x21, 0x12, &v4_block()),
        binary(0x21, 0x41, &v4_block()),
        binary(0x21, 0x13, &v4_block()),
        binary(0x21, 0x11, &v4_block()[..11]),
        binary(0x21, 0x21, &v6_block()[..35]),
        binary(0x21, 0x31, &[0; 215]),
        binary(0x21, 0x11, &short_value),
        binary(0x21, 0x11, &half_extension),
        binary(0x21, 0x11, &short_checksum),
        b"PROXY TCP4 192.0.2.7 198.51.100.1 50000\r\n".to_vec(),
        b"PROXY TCP4 192.0.2.7 198.51.100.1 50000 1883 1\r\n".to_vec(),
        b"PROXY TCP4 2001:db8::7 198.51.100.1 50000 1883\r\n".to_vec(),
        b"PROXY TCP4 192.0.2.7 198.51.100.1 +5000 1883\r\n".to_vec(),
        b"PROXY TCP4 192.0.2.7 198.51.100.1 05000 1883\r\n".to_vec(),
        b"PROXY TCP4 192.0.2.7 198.51.100.1 65536 1883\r\n".to_vec(),
        b"PROXY TCP4  192.0.2.7 198.51.100.1 50000 1883\r\n".to_vec(),
        b"PROXY UDP4 192.0.2.7 198.51.100.1 50000 1883\r\n".to_vec(),
        b"PROXY TCP4 \xFF\xFE 198.51.100.1 50000 1883\r\n".to_vec(),
        [b"PROXY UNKNOWN ", &[b'x'; 100][..]].concat(),
    ];
    for header in bad {
        assert!(
            matches!(parse(&header), Err(ProxyError::Malformed(_))),
            "{header:?}: {:?}",
            parse(&header)
        );
    }
}

#[test]
fn a_header_says_that_it_is_too_long_before_it_is_there() {
    let longest = binary(0x20, 0, &vec![0; HEADER_LENGTH_MAX - 16]);
    assert!(matches!(parse(&longest), Ok(Some(header)) if header.length == HEADER_LENGTH_MAX));
    let longer = binary(0x20, 0, &vec![0; HEADER_LENGTH_MAX - 15]);
    assert_eq!(parse(&longer[..16]), Err(ProxyError::TooLong));
}

proptest! {
    #[test]
    fn bytes_of_anybody_are_read_or_refused(start in 0..3_u8, bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut input = match start {
            0 => Vec::new(),
            1 => [SIGNATURE, &[0x21, 0x11, 0, 40]].concat(),
            _ => b"PROXY TCP4 ".to_vec(),
        };
        input.extend(bytes);
        if let Ok(Some(header)) = parse(&input) {
            prop_assert!(header.length <= input.len());
            prop_assert_eq!(parse(&input[..header.length - 1]), Ok(None));
        }
    }
}
