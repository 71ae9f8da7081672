//! Anything is decoded, as every version and sender, without a panic; what decodes comes back equal.

#![no_main]

use edge_proto::decode::{self, Sender};
use edge_proto::encode;
use edge_proto::frame::{needed, next_frame};
use edge_proto::packet::{Packet, Version};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = decode::forwarded_properties(bytes);
    let mut rest = bytes;
    while let Ok(Some(frame)) = next_frame(rest, 1 << 20) {
        assert_eq!(needed(rest), Some(frame.length));
        let _ = decode::connect_version(frame);
        let _ = decode::decode_connect(frame);
        for version in [Version::V311, Version::V5] {
            for sender in [Sender::Client, Sender::Server] {
                if let Ok(packet) = decode::decode(version, sender, frame) {
                    assert_comes_back_equal(version, sender, &packet);
                }
            }
        }
        rest = &rest[frame.length..];
    }
});

fn assert_comes_back_equal(version: Version, sender: Sender, packet: &Packet<'_>) {
    let mut bytes = Vec::new();
    encode::packet(&mut bytes, version, packet);
    let frame = next_frame(&bytes, u32::MAX)
        .expect("an encoded packet is well framed")
        .expect("an encoded packet is whole");
    assert_eq!(frame.length, bytes.len());
    assert_eq!(decode::decode(version, sender, frame).as_ref(), Ok(packet));
}
