//! Which reason codes and properties a server may put into which packet.

use crate::parse::{Body, Wrong};
use crate::wire::{Version, first, prop};

/// The reason codes that the specification lists for each packet of a server.
pub(crate) fn codes_are_listed(version: Version, head: u8, body: &Body) -> Result<(), Wrong> {
    const CONNACK: &[u8] = &[
        0x00, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x8C, 0x90, 0x95,
        0x97, 0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9F,
    ];
    // Those of Table 3-10 that a server may send.
    const DISCONNECT: &[u8] = &[
        0x00, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8B, 0x8D, 0x8E, 0x8F, 0x90, 0x93, 0x94, 0x95,
        0x96, 0x97, 0x98, 0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9E, 0x9F, 0xA0, 0xA1, 0xA2,
    ];
    const RECEIVED: &[u8] = &[0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99];
    let (codes, listed): (&[u8], &[u8]) = match (body, version) {
        (Body::ConnAck { code, .. }, Version::V5) => (&[*code], CONNACK),
        (Body::ConnAck { code, .. }, Version::V311) => (&[*code], &[0, 1, 2, 3, 4, 5]),
        (Body::Ack { code, .. }, _) if matches!(head, first::PUBACK | first::PUBREC) => {
            (&[*code], RECEIVED)
        }
        (Body::Ack { code, .. }, _) => (&[*code], &[0x00, 0x92]),
        (Body::SubAck { codes, .. }, Version::V311) if head == first::SUBACK => {
            (codes, &[0, 1, 2, 0x80])
        }
        (Body::SubAck { codes, .. }, Version::V311) => (codes, &[]),
        (Body::SubAck { codes, .. }, Version::V5) if head == first::SUBACK => (
            codes,
            &[
                0, 1, 2, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2,
            ],
        ),
        (Body::SubAck { codes, .. }, Version::V5) => {
            (codes, &[0x00, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91])
        }
        (Body::Reason { code, .. }, _) if head == first::DISCONNECT => (&[*code], DISCONNECT),
        (Body::Reason { code, .. }, _) => (&[*code], &[0x00, 0x18]),
        (Body::Publish(_) | Body::PingResp, _) => (&[], &[]),
    };
    match codes.iter().find(|code| !listed.contains(code)) {
        Some(code) => Err(format!(
            "reason code {code:#04x}, which is not listed for this packet"
        )),
        None => Ok(()),
    }
}

/// Which packets of a server may carry a property (§2.2.2.2).
pub(crate) fn allowed(head: u8, id: u8) -> bool {
    match id {
        prop::REASON_STRING => !matches!(head >> 4, 3),
        prop::USER => true,
        prop::PAYLOAD_FORMAT
        | prop::MESSAGE_EXPIRY
        | prop::CONTENT_TYPE
        | prop::RESPONSE_TOPIC
        | prop::CORRELATION_DATA
        | prop::SUBSCRIPTION_ID
        | prop::TOPIC_ALIAS => head >> 4 == 3,
        prop::AUTH_METHOD | prop::AUTH_DATA => matches!(head, first::CONNACK | first::AUTH),
        prop::SERVER_REFERENCE => matches!(head, first::CONNACK | first::DISCONNECT),
        // SESSION_EXPIRY on a DISCONNECT is for clients only [MQTT-3.14.2-2].
        prop::SESSION_EXPIRY
        | prop::ASSIGNED_CLIENT_ID
        | prop::SERVER_KEEP_ALIVE
        | prop::RESPONSE_INFO
        | prop::RECEIVE_MAXIMUM
        | prop::TOPIC_ALIAS_MAXIMUM
        | prop::MAXIMUM_QOS
        | prop::RETAIN_AVAILABLE
        | prop::MAXIMUM_PACKET_SIZE
        | prop::WILDCARD_AVAILABLE
        | prop::SUBSCRIPTION_IDS_AVAILABLE
        | prop::SHARED_AVAILABLE => head == first::CONNACK,
        _ => false,
    }
}
